"""Results to Markdown tables, bar charts, and the parts of the pages between their markers."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from benchmarks import detection, disk, explorer, goals, own_images, results, scaling, trace

_HERE = Path(__file__).resolve().parent
_GUIDES = _HERE.parent / "docs" / "guides"
PAGES = (
    _HERE / "README.md",
    *(
        _GUIDES / f"{name}.md"
        for name in ("own_images", "several_machines", "anomalies", "look_inside")
    ),
)
_MARKED = re.compile(r"(<!-- begin (\w+) -->\n).*?(<!-- end \2 -->)", re.DOTALL)
_COLORS = {"reference": "#1f5fa8", "peer": "#9aa5b1", "floor": "#d8b365"}


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Renders the results of a case as a Markdown table.

    Args:
        rows: as `results.read` returns them, the reference first.

    Returns:
        Markdown, with the machine in a line below.
    """
    limits, title = _limits(rows)
    head = ["contestant", "time / reference", "quartiles", "images/s", "peak memory", "figure"]
    if limits:
        head.insert(3, title)
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for row in rows:
        cells = _cells(row)
        if limits:
            cells.insert(3, _over_limit(row, limits.get(row["contestant"])))
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join([*lines, "", _made_with(rows[0])])


def chart(title: str, rows: Sequence[Mapping[str, Any]]) -> Figure:
    """Draws the median ratios of a case as bars, their quartiles as whiskers."""
    ran = [row for row in rows if row["ratio"]][::-1]
    figure = Figure(figsize=(8, 0.42 * len(ran) + 1.3), layout="constrained")
    axes = figure.subplots()
    medians = [row["ratio"]["median"] for row in ran]
    spread = [
        [row["ratio"]["median"] - row["ratio"]["low"] for row in ran],
        [row["ratio"]["high"] - row["ratio"]["median"] for row in ran],
    ]
    kinds = ["floor" if row["floor"] else "peer" for row in ran]
    kinds[-1] = "reference"
    axes.barh(
        [row["contestant"] for row in ran],
        medians,
        xerr=spread,
        color=[_COLORS[kind] for kind in kinds],
        error_kw={"elinewidth": 1, "capsize": 2},
    )
    for index, median in enumerate(medians):
        axes.text(median + spread[1][index], index, f"  {median:.2f}", va="center", fontsize=9)
    axes.margins(x=0.12)
    axes.axvline(1.0, color="#444", linewidth=0.8)
    # Texts of the axes would be cut off beside long names of contestants.
    figure.supxlabel(
        f"time over that of “{rows[0]['contestant']}”, lower is faster", fontsize="medium"
    )
    figure.suptitle(title)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def write(case: str, title: str) -> None:
    """Writes a case's table and chart beside its results, and brings the pages up to date."""
    rows = results.read(case)
    text = f"# {title}\n\n{table(rows)}\n"
    (results.FOLDER / f"{case}.md").write_text(text, encoding="utf-8")
    chart(title, rows).savefig(results.FOLDER / f"{case}.png", dpi=120, metadata={"Software": None})
    write_pages()


def write_pages() -> None:
    """Brings the marked parts of the pages up to date."""
    for path in PAGES:
        path.write_text(rendered(path), encoding="utf-8")


def places(path: Path) -> list[str]:
    """Returns the names of what a page shows."""
    return [name for _, name, _ in _MARKED.findall(path.read_text(encoding="utf-8"))]


def rendered(path: Path) -> str:
    """Fills what a page holds between `<!-- begin NAME -->` and `<!-- end NAME -->`.

    Args:
        path: one of `PAGES`.

    Returns:
        Its text with the results of today.
    """

    def fill(match: re.Match[str]) -> str:
        opening, name, closing = match.groups()
        if name in _TEXTS:
            return f"{opening}{_TEXTS[name]()}\n{closing}"
        rows = results.read(name)
        picture = f"![{name}](results/{name}.png)"
        body = f"{table(rows)}\n\n{picture}" if rows else "Not measured yet."
        return f"{opening}{body}\n{closing}"

    return _MARKED.sub(fill, path.read_text(encoding="utf-8"))


def findings(path: Path = results.FOLDER / "findings.json") -> str:
    """Renders the experiments in `findings.json`: what was tried, and what its commit says."""
    columns = ("case", "tried", "measured", "commit")
    rows = [("case", "what was tried", "measured, as the commit says it", "commit"), ("---",) * 4]
    for finding in json.loads(path.read_text(encoding="utf-8")):
        rows.append(tuple(finding[column] for column in columns))
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


# What stands between marks and is no case's table.
_TEXTS = {
    "detection": detection.table,
    "disk": disk.text,
    "explorer": explorer.text,
    "own_images": own_images.table,
    "findings": findings,
    "goals": goals.table,
    "scaling": scaling.text,
    "trace": trace.text,
}


def _cells(row: Mapping[str, Any]) -> list[str]:
    if row["ratio"] is None:
        return [row["contestant"], "did not run", "", "", "", row["failure"]]
    ratio, seconds = row["ratio"], sorted(row["seconds"])
    rate = f"{1.0 / seconds[len(seconds) // 2]:,.0f}" if row["per"] == "image" else ""
    memory = "" if row["peak_rss"] is None else f"{row['peak_rss'] / 1e6:,.0f} MB"
    figure = "" if row["figure"] is None else f"{row['figure']:.2f}"
    spread = f"{ratio['low']:.2f} to {ratio['high']:.2f}"
    return [row["contestant"], f"{ratio['median']:.2f}", spread, rate, memory, figure]


def _limits(rows: Sequence[Mapping[str, Any]]) -> tuple[dict[str, Mapping[str, Any]], str]:
    """Each contestant's limit, its own or else the fastest floor, and what the column is called."""
    ran = {row["contestant"]: row for row in rows if row["ratio"]}
    own = {name: ran[row["limit"]] for name, row in ran.items() if row.get("limit") in ran}
    if own:
        return own, "time / own limit"
    floors = [row for row in ran.values() if row["floor"]]
    if not floors:
        return {}, ""
    return dict.fromkeys(ran, min(floors, key=lambda row: row["ratio"]["median"])), "time / floor"


def _over_limit(row: Mapping[str, Any], limit: Mapping[str, Any] | None) -> str:
    if limit is None:
        return ""
    return f"{results.Ratio.of(row['seconds'], limit['seconds']).median:.2f}"


def _made_with(row: Mapping[str, Any]) -> str:
    machine, versions = row["machine"], row["versions"]
    named = ", ".join(f"{name} {version}" for name, version in versions.items())
    return (
        f"{machine['cores']} cores of {machine['cpu']}, {machine['memory_gib']} GiB, "
        f"load average before the run {machine['load_average']}, "
        f"{len(row['seconds'])} rounds; {named}."
    )
