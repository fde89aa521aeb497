"""Imports run one way, and two libraries stay where they belong."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import vae_keras

PACKAGE = Path(vae_keras.__file__).parent

# A module may import modules of the lines above its own.
LAYERS = (
    ("_version", "checks", "files", "noise"),
    (
        "cluster",
        "data",
        "datasets",
        "distributions",
        "divergence",
        "figures",
        "keras_file",
        "networks",
        "optimizers",
        "presets",
        "schedules",
        "warmup",
    ),
    ("objectives", "own_images", "priors"),
    ("replicas",),
    ("model",),
    ("signatures",),
    ("callbacks", "checkpoints", "evaluation", "export", "gallery", "report"),
    ("training",),
    ("cards",),
    ("zoo",),
    ("cli",),
    ("__main__",),
)
FRONT = "__init__"  # what users import; holds public names only, so it stands beside the model
MAY_IMPORT = {
    name: tuple(lower for above in LAYERS[:depth] for lower in above)
    for depth, layer in enumerate(LAYERS)
    for name in layer
} | {FRONT: tuple(name for layer in LAYERS[:5] for name in layer)}

# Library to the modules that may import it; every other module must not.
RESERVED = {
    "tensorflow_probability": ("distributions", "report"),
    "matplotlib.pyplot": (),
    "pickle": ("datasets",),  # the one restricted read
    "subprocess": ("datasets", "report"),
}
VERSION_ONLY = ("report", "tensorflow_probability")


def imports(source: str) -> Iterator[str]:
    """Every imported name of a file, dotted, wherever in the file it stands."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            start = "." * node.level + (node.module or "")
            yield from (f"{start}.{alias.name}" for alias in node.names)


def offences(module: str, source: str) -> list[str]:
    """Why a module of the package breaks the rules, a sentence an import."""
    if module not in MAY_IMPORT:
        return [f"{module} has no layer yet: give it one in LAYERS"]
    found = []
    for name in imports(source):
        root, *rest = name.split(".")
        if name.startswith("."):
            found.append(f"{module} imports {name}: name the package instead")
        elif root == "vae_keras":
            target = rest[0] if rest else FRONT
            if target not in MAY_IMPORT[module]:
                allowed = ", ".join(MAY_IMPORT[module]) or "nothing of the package"
                found.append(f"{module} imports {name}: it may import {allowed}")
        for library, modules in RESERVED.items():
            if f"{name}.".startswith(f"{library}.") and module not in modules:
                allowed = ", ".join(modules) or "no module"
                found.append(f"{module} imports {name}: {allowed} may")
    return found


def attributes(source: str, library: str) -> set[str]:
    """What a file takes from a library that it imports whole."""
    tree = ast.parse(source)
    aliases = {
        alias.asname or alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.Import)
        for alias in node.names
        if alias.name == library
    }
    return {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id in aliases
    }


def read(module: str) -> str:
    return (PACKAGE / f"{module}.py").read_text(encoding="utf-8")


@pytest.mark.parametrize("module", sorted(path.stem for path in PACKAGE.glob("*.py")))
def test_imports_run_one_way(module):
    assert not offences(module, read(module))


def test_every_module_of_the_layers_exists():
    missing = [name for name in MAY_IMPORT if not (PACKAGE / f"{name}.py").exists()]
    assert not missing


def test_the_report_takes_tfps_version_and_nothing_else():
    module, library = VERSION_ONLY
    assert attributes(read(module), library) == {"__version__"}
    assert not [name for name in imports(read(module)) if name.startswith(f"{library}.")]


def test_importing_the_package_imports_nothing_else():
    """Keras itself imports matplotlib, Pillow and its data sets; nothing of ours adds to that."""
    code = (
        "import sys, keras, tensorflow, tensorflow_probability.python.distributions\n"
        "before = set(sys.modules)\n"
        "import vae_keras\n"
        "print(*sorted(set(sys.modules) - before))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    added = set(run.stdout.split())
    assert {name.split(".")[0] for name in added} - {"vae_keras"} <= sys.stdlib_module_names
    heavy = {"datasets", "evaluation", "figures", "gallery", "own_images", "report", "training"}
    assert not {f"vae_keras.{name}" for name in heavy} & added


def programs(source: str) -> list[str]:
    """The calls of a file that run text or bytes as a program, or might."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            values = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
            if name in ("eval", "exec", "os.system", "os.popen", "pickle.load", "pickle.loads"):
                found.append(name)
            if name == "np.load" and values.get("allow_pickle") != "False":
                found.append("np.load without allow_pickle=False")
            if name.endswith("load_model") and values.get("safe_mode") != "True":
                found.append("load_model without safe_mode=True")
            found += ["shell"] * ("shell" in values)
    return found


@pytest.mark.parametrize("module", sorted(path.stem for path in PACKAGE.glob("*.py")))
def test_no_module_runs_what_it_reads(module):
    assert not programs(read(module))


@pytest.mark.parametrize(
    "line",
    ["eval(x)", "os.system(x)", "subprocess.run(x, shell=True)", "np.load(x)", "load_model(x)"],
)
def test_what_would_run_it_is_found(line):
    assert programs(line)


@pytest.mark.parametrize(
    ("module", "source", "sentence"),
    [
        ("noise", "from vae_keras import model", "noise imports vae_keras.model: it may import "),
        ("data", "from vae_keras.networks import MLPEncoder", "data imports vae_keras.networks."),
        ("model", "def f():\n    import vae_keras.training", "model imports vae_keras.training: "),
        ("model", "import vae_keras", "model imports vae_keras: it may import "),
        ("training", "from vae_keras import VAE", "training imports vae_keras.VAE: "),
        ("model", "from . import noise", "model imports ..noise: name the package"),
        ("model", "import tensorflow_probability as tfp", "distributions, report may"),
        ("model", "from tensorflow_probability import distributions", "distributions, report may"),
        ("figures", "from matplotlib import pyplot", "no module may"),
        ("figures", "import matplotlib.pyplot as plt", "no module may"),
        ("extra", "", "extra has no layer yet"),
    ],
)
def test_what_breaks_the_rules_is_named(module, source, sentence):
    (offence,) = offences(module, source)
    assert sentence in offence


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("model", "from vae_keras import checks, noise\nfrom vae_keras.objectives import ELBO"),
        ("distributions", "import tensorflow_probability as tfp"),
        ("figures", "from matplotlib.figure import Figure"),
    ],
)
def test_what_keeps_the_rules_passes(module, source):
    assert offences(module, source) == []


def test_the_main_script_imports_the_command_and_the_training():
    script = PACKAGE.parent / "train.py"
    if not script.exists():
        pytest.skip("the package is installed without its checkout")
    ours = {name for name in imports(script.read_text(encoding="utf-8")) if "vae_keras" in name}
    assert ours == {"vae_keras.cli", "vae_keras.training"}
