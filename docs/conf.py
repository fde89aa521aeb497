"""The site: Sphinx with MyST for the pages, autodoc for the API reference, MyST-NB for notebooks.

`make docs` writes `docs/_build/html`. The site needs no network: formulas become MathML when the
site is built, and the theme brings its fonts. The pages of the zoo are made from the cards beside
the weights each time. The explorers of two presets are made, too, unless `-D explorers=0` is set:
they need npm once, see `vae_keras.report.engine`.
"""

from __future__ import annotations

import inspect
import os
import re
import sys
from pathlib import Path
from typing import Any

from docutils import nodes
from docutils.utils.math import latex2mathml
from sphinx.errors import ExtensionError

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
sys.path.insert(0, str(ROOT))

import keras  # noqa: E402

from vae_keras._version import __version__  # noqa: E402
from vae_keras.cli.main import main as command  # noqa: E402

project = "vae-keras"
author = "the authors of vae-keras"
release = version = __version__
extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
]
EXPLORED = ("planar_mnist", "mlp_mnist")  # the presets whose explorers the site holds
exclude_patterns = ["_build", "**/.ipynb_checkpoints"]
templates_path: list[str] = []
nitpicky = False

# Docstrings write code in single backticks, as Markdown does.
default_role = "code"
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_default_options = {"show-inheritance": True}
napoleon_numpy_docstring = False

myst_enable_extensions = ["dollarmath", "colon_fence", "deflist"]
myst_heading_anchors = 3
# A notebook is run when the site is built, and an error in it fails the build. A test of the pages
# only sets `-D nb_execution_mode=off`.
nb_execution_mode = "force"
nb_execution_in_temp = True
nb_execution_raise_on_error = True
nb_execution_timeout = 900
nb_merge_streams = True
nb_output_stderr = "remove"  # what TensorFlow says about the machine

html_theme = "pydata_sphinx_theme"
html_title = "vae-keras"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_extra_path = ["_build/extra"]  # the explorers, as they are
html_show_sourcelink = False
# The pages of formulas need their width.
html_sidebars = {"index": [], "questions": [], "mathematics/*": []}
html_theme_options = {
    "navbar_align": "left",
    "header_links_before_dropdown": 8,
    "show_prev_next": True,
    "secondary_sidebar_items": ["page-toc"],
    "pygments_light_style": "xcode",
    "pygments_dark_style": "github-dark",
}
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True


def write_explorers(app: Any, config: Any) -> None:
    """Writes the explorers of the site."""
    folder = HERE / html_extra_path[0] / "explorers"
    folder.mkdir(parents=True, exist_ok=True)
    for name in EXPLORED if config.explorers else ():
        arguments = ["explore", "--preset", name, "--to", str(folder / f"{name}.html")]
        if command(arguments):
            raise ExtensionError(f"the explorer of {name} was not written")


def write_zoo(app: Any, config: Any) -> None:
    """Writes the pages of the zoo: the table, and the card of each preset with its figures."""
    zoo, pages = ROOT / "saved_models", HERE / "zoo"
    pages.mkdir(exist_ok=True)
    cards = {path.parent.name: path for path in sorted(zoo.glob("*/README.md"))}
    for name, path in cards.items():
        text = re.sub(r"\A---\n.*?\n---\n+", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
        text = text.replace("](figures/", f"](../../saved_models/{name}/figures/")
        if config.explorers and name in EXPLORED:
            link = f'<p><a href="../explorers/{name}.html">Open the explorer of {name}.</a></p>'
            text = text.replace("\n## ", f"\n{link}\n\n## ", 1)
        write_if_new(pages / f"{name}.md", text)
    table = (zoo / "README.md").read_text(encoding="utf-8").replace("/README.md)", ".md)")
    names = "\n".join(cards)
    write_if_new(pages / "index.md", f"{table}\n```{{toctree}}\n:hidden:\n\n{names}\n```\n")


def write_if_new(path: Path, text: str) -> None:
    """Writes a page, unless it has this text: Sphinx reads again what was written."""
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        path.write_text(text, encoding="utf-8")


def visit_math(translator: Any, node: nodes.math | nodes.math_block) -> None:
    """Writes a formula as MathML, which browsers draw without a script."""
    is_block = isinstance(node, nodes.math_block)
    formula = latex2mathml.tex2mathml(node.astext(), as_block=is_block)
    translator.body.append(f'<div class="formula">{formula}</div>' if is_block else formula)
    raise nodes.SkipNode


def is_left_out(app: Any, what: str, name: str, item: Any, skip: bool, options: Any) -> bool | None:
    """Leaves out what Keras documents, and the fields of named tuples, which are attributes."""
    module = getattr(getattr(item, "fget", item), "__module__", None) or "vae_keras"
    is_field = type(item).__name__ == "_tuplegetter"
    return True if is_field or not module.startswith("vae_keras") else None


def signature_of(app: Any, what: str, name: str, item: Any, *_: Any) -> tuple[str, None] | None:
    """Returns the signature of a layer's `__init__`, which the `__new__` of Keras hides."""
    if what != "class" or not issubclass(item, keras.layers.Layer):
        return None
    signature = inspect.signature(item.__init__)
    _, *arguments = signature.parameters.values()
    shown = signature.replace(parameters=arguments, return_annotation=inspect.Signature.empty)
    return str(shown).replace("'", ""), None


def setup(app: Any) -> None:
    """Registers the renderer of formulas, and what is written before the pages are read."""
    app.add_config_value("explorers", True, "html", [bool, str])
    app.connect("config-inited", write_explorers)
    app.connect("config-inited", write_zoo)
    app.add_html_math_renderer("mathml", (visit_math, None), (visit_math, None))
    app.connect("autodoc-skip-member", is_left_out)
    app.connect("autodoc-process-signature", signature_of)


html_math_renderer = "mathml"
