"""The pages for readers: their code blocks, links, and the lines that they show of the source."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent.parent
SITE = ROOT / "docs"
MADE = ("_build", "zoo")  # folders that the build of the site writes
_OPTION = re.compile(r"^:([\w-]+): (.+)$", re.MULTILINE)
TOP = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md")


def pages() -> list[Path]:
    """Every page in Markdown that a person wrote, except for the guide of `serving/`.

    `tests/export/test_serving.py` runs the commands of that one.
    """
    written = [path for path in sorted(SITE.rglob("*.md")) if path.parent.name not in MADE]
    return [*(ROOT / name for name in TOP), ROOT / "benchmarks" / "README.md", *written]


class Block(NamedTuple):
    """A code block.

    Attributes:
        page: path below the root.
        heading: the heading above it.
        language: "python", "bash", or another one.
        marks: the words behind the language: "continued" goes on after the block before it, and
            "not-run" shows code that needs what a test does not have.
        text: the code, behind that of the blocks that it continues.
    """

    page: str
    heading: str
    language: str
    marks: tuple[str, ...]
    text: str


def blocks(path: Path) -> list[Block]:
    """The code blocks of a page, from the top."""
    found: list[Block] = []
    heading, fence, body = "", "", []
    language, marks = "", ()
    for line in path.read_text(encoding="utf-8").splitlines():
        opening = re.match(r"(`{3,})(\w*)((?: [\w-]+)*)$", line)
        if not fence and opening:
            fence, language, marks, body = opening[1], opening[2], opening[3].split(), []
        elif fence and line == fence:
            text = "\n".join(body) + "\n"
            if "continued" in marks:
                text = found[-1].text + text
            name = str(path.relative_to(ROOT))
            found.append(Block(name, heading, language, tuple(marks), text))
            fence = ""
        elif fence:
            body.append(line)
        elif line.startswith("#"):
            heading = line.lstrip("# ")
    return found


def dead_links(path: Path) -> list[str]:
    """The links and pictures of a page, to files and headings of the project, that lead nowhere."""
    text = re.sub(r"^(`{3,}).*?^\1$", "", path.read_text(encoding="utf-8"), flags=re.M | re.S)
    return [
        target
        for target in re.findall(r"\]\(([^)\s]+)\)", text)
        if not re.match(r"\w+:", target) and not _exists(path, target)
    ]


def _exists(page: Path, target: str) -> bool:
    place, _, anchor = target.partition("#")
    path = (page.parent / place).resolve() if place else page
    if path.parent == SITE / "zoo":  # made from the cards
        cards = ROOT / "saved_models"
        path = cards / ("" if path.stem == "index" else path.stem) / "README.md"
    if not path.exists():
        return False
    if not anchor:
        return True
    headings = re.findall(r"^#+ (.+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    slugs = {re.sub(r"[^\w\- ]", "", name.lower()).replace(" ", "-") for name in headings}
    return anchor in slugs


def missing_lines(path: Path) -> list[str]:
    """The `literalinclude` directives of a page that name code which the source does not have."""
    text = path.read_text(encoding="utf-8")
    directives = re.findall(r"^```\{literalinclude\} (\S+)\n(.*?)^```$", text, re.M | re.S)
    return [
        f"{place} {options!r}"
        for place, options in directives
        if not _shows_code(
            path.parent / place, dict(re.findall(r"^:([\w-]+): (.+)$", options, re.M))
        )
    ]


def _shows_code(path: Path, options: dict[str, str]) -> bool:
    if not path.exists():
        return False
    lines = path.read_text(encoding="utf-8").splitlines()
    if "pyobject" in options:
        nodes: list[ast.AST] = [ast.parse("\n".join(lines))]
        for name in options["pyobject"].split("."):
            nodes = [
                n for p in nodes for n in ast.iter_child_nodes(p) if getattr(n, "name", "") == name
            ]
        if len(nodes) != 1:
            return False
        lines = lines[nodes[0].lineno - 1 : nodes[0].end_lineno]  # type: ignore[attr-defined]
    for option in ("start-at", "end-at", "end-before"):
        if option in options:
            places = [n for n, line in enumerate(lines) if options[option] in line]
            if not places:
                return False
            lines = lines[places[0] :] if option == "start-at" else lines
    return bool(lines)
