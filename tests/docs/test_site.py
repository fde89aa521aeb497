"""The site builds without a warning, and needs nothing from the network."""

import os
import re
import subprocess
import sys
from importlib.util import find_spec

import pytest

from tests.docs.pages import ROOT, pages
from vae_keras.report import engine
from vae_keras.utils import checks

NEEDED = ("sphinx", "myst_nb", "pydata_sphinx_theme", "sphinx_copybutton")
missing = [name for name in NEEDED if find_spec(name) is None]


def has_engine() -> bool:
    """Whether an explorer can be made here."""
    try:
        return bool(engine.find())
    except checks.InputError:
        return False


@pytest.mark.slow
@pytest.mark.skipif(bool(missing), reason=f"needs the extra [docs]: {', '.join(missing)} missing")
def test_the_site_builds_strictly_and_loads_nothing(tmp_path):
    """The notebooks are run by a test of their own."""
    explorers = find_spec("tf2onnx") is not None and has_engine()
    out = tmp_path / "html"
    command = [sys.executable, "-m", "sphinx", "--fail-on-warning", "--keep-going", "--quiet"]
    settings = ["-D", "nb_execution_mode=off", "-D", f"explorers={int(explorers)}"]
    options = [*settings, "-d", str(tmp_path / "read"), "docs", str(out)]
    run = subprocess.run(
        [*command, *options],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), *sys.path]))},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    written = {path.relative_to(out).with_suffix("") for path in out.rglob("*.html")}
    site = ROOT / "docs"
    assert {path.relative_to(site).with_suffix("") for path in pages() if site in path.parents} <= (
        written
    )
    html = (out / "mathematics" / "bound.html").read_text(encoding="utf-8")
    assert html.count("<math") > 20
    loaded = re.findall(r"<(?:script|link|img)[^>]+(?:src|href)=\"(https?:[^\"]+)", html)
    assert loaded == []
    for name in ("planar_mnist", "mlp_mnist"):
        page = (out / "zoo" / f"{name}.html").read_text(encoding="utf-8")
        assert (f'href="../explorers/{name}.html"' in page) == explorers
        assert (out / "explorers" / f"{name}.html").exists() or not explorers


def test_every_page_is_in_the_navigation():
    """A page that no table of contents names would be built and never found."""
    site = ROOT / "docs"
    found = [path for path in pages() if site in path.parents]
    named = {site / "index.md"}
    for page in found:
        for tree in re.findall(r"```\{toctree\}\n(.*?)```", page.read_text("utf-8"), re.DOTALL):
            for line in tree.splitlines():
                entry = re.sub(r".*<(.+)>", r"\1", line)
                if entry and not entry.startswith(":"):
                    named.add(page.parent / f"{entry}.md")
    assert sorted(set(found) - named) == []
