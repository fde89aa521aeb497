"""Imports run one way, private names stay at home, and classes stay short."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import vae_keras

PACKAGE = Path(vae_keras.__file__).parent
MODULES = {
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts): path
    for path in sorted(PACKAGE.rglob("*.py"))
    if path.parent == PACKAGE or path.name != "__init__.py"
}

# A module may import modules of the lines above its own. A room's name stands for its public names.
LAYERS = (
    ("_version", "utils.rows", "utils.files"),
    ("utils.checks",),
    (
        "conformal",
        "utils.graphs",
        "utils.keras_file",
        "utils.startup",
        "utils.weights",
        "kernels.gradients",
        "kernels.philox",
    ),
    ("kernels.bernoulli", "kernels.logistic_mixture"),
    ("noise", "zoo.presets"),
    (
        "distributions",
        "networks",
        "optimizers",
        "data.binarization",
        "data.pipelines",
        "data.photographs",
    ),
    ("data.collection", "data.observations"),
    ("data", "data.datasets", "inference", "data.catalogue", "data.image_file"),
    ("data.archives", "data.arrays", "data.folder", "data.splits", "data.tfrecord"),
    ("data.decoding",),
    ("data.store",),
    ("data.cache",),
    ("data.own_images", "priors", "objectives", "top_down", "logistic_mixture"),
    ("trainer.nonfinite", "trainer.graph_checks"),
    ("trainer.step",),
    ("trainer.provided",),
    ("trainer.fast_path", "trainer.updates"),
    ("trainer.replicas",),
    ("trainer.inputs", "trainer.step_model"),
    ("trainer.callbacks", "trainer.intake"),
    ("trainer.trainer",),
    ("trainer",),
    ("labels",),
    ("array_methods", "assembly"),
    ("conditional", "image_examples", "sharing"),
    ("model",),
    ("embeddings", "evaluation", "anomaly_scores", "report.figures"),
    ("detection",),
    ("export.errors", "export.signatures", "export.warmup"),
    (
        "compression",
        "export.parts",
        "export.saved_model",
        "report.embedding_files",
        "report.gallery",
        "report.page",
        "report.provenance",
    ),
    ("export", "report.engine", "report.verdicts"),
    ("report.explorer",),
    ("training.callbacks", "training.cluster", "training.run_folder", "training.signals"),
    ("training.checkpoints", "training.best"),
    ("training.config", "training.build", "training.remarks"),
    ("training.plan",),
    ("training.artifacts",),
    ("training.run",),
    ("training", "zoo.cards"),
    ("zoo.publish",),
    ("cli.outcome", "cli.table", "cli.models"),
    (
        "cli.cache",
        "cli.detect",
        "cli.embed",
        "cli.evaluate",
        "cli.explore",
        "cli.export",
        "cli.figures",
        "cli.presets",
        "cli.publish",
        "cli.render",
    ),
    ("cli.sample", "cli.train"),
    ("cli.main",),
    ("__main__",),
)
FRONT = "__init__"  # what users import; it holds public names only, so it stands beside the model
_MODEL = next(depth for depth, layer in enumerate(LAYERS) if "model" in layer)
MAY_IMPORT = {
    name: tuple(lower for above in LAYERS[:depth] for lower in above)
    for depth, layer in enumerate(LAYERS)
    for name in layer
} | {FRONT: tuple(name for layer in LAYERS[: _MODEL + 1] for name in layer)}

# Library to the modules that may import it; every other module must not.
RESERVED = {
    "tensorflow_probability": ("distributions", "report.provenance", "utils.startup"),
    "matplotlib.pyplot": (),
    "pickle": ("data.datasets",),  # the one restricted read
    "subprocess": ("data.datasets", "report.engine", "report.provenance"),
}

# Private names of Keras and TensorFlow that have no public counterpart.
THEIR_PRIVATE = {
    "kernels.gradients": {"_registry"},
    "trainer.fast_path": {"_flatten_layers", "_non_trainable_variables", "_seed_generators"},
    "trainer.updates": {
        "_all_reduce_sum_gradients",
        "_distributed_tf_update_step",
        "_distribution_strategy",
    },
}
LONGEST_CLASS = 400


def imports(source: str) -> Iterator[str]:
    """Every imported name of a file, dotted, wherever in the file it stands."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            start = "." * node.level + (node.module or "")
            yield from (f"{start}.{alias.name}" for alias in node.names)


def target(name: str) -> str:
    """The module of the package that an import of `name` reads."""
    parts = name.split(".")[1:]
    known = [".".join(parts[:length]) for length in range(len(parts), 0, -1)]
    return next((module for module in known if module in MAY_IMPORT), known[0] if known else FRONT)


def offences(module: str, source: str) -> list[str]:
    """Why a module of the package breaks the rules, a sentence for each import."""
    if module not in MAY_IMPORT:
        return [f"{module} has no layer yet: give it one in LAYERS"]
    found = []
    for name in imports(source):
        if name.startswith("."):
            found.append(f"{module} imports {name}: name the package instead")
        elif name.split(".")[0] == "vae_keras" and target(name) not in MAY_IMPORT[module]:
            found.append(f"{module} imports {name}: {target(name)} is not in a layer above it")
        is_private = name.rpartition(".")[2].startswith("_") and not name.endswith("__")
        if name.startswith("vae_keras") and is_private:
            found.append(f"{module} imports {name}: it is private")
        for library, modules in RESERVED.items():
            if f"{name}.".startswith(f"{library}.") and module not in modules:
                allowed = ", ".join(modules) or "no module"
                found.append(f"{module} imports {name}: {allowed} may")
    return found


def private_uses(module: str, source: str) -> list[str]:
    """The private attributes that a file reads or writes of objects that are not its own."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute) and node.attr.startswith("_"):
            owner = ast.unparse(node.value)
            is_own = owner in ("self", "cls", "super()") or node.attr.startswith("__")
            is_public = node.attr in ("_asdict", "_fields", "_replace")  # of named tuples
            if not (is_own or is_public or node.attr in THEIR_PRIVATE.get(module, ())):
                found.append(f"{module} uses {owner}.{node.attr}")
    return found


def long_classes(source: str) -> list[str]:
    """The classes of a file that are longer than `LONGEST_CLASS` lines."""
    return [
        node.name
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.ClassDef) and node.end_lineno - node.lineno >= LONGEST_CLASS
    ]


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


@pytest.mark.parametrize("module", MODULES)
def test_a_module_keeps_the_rules(module):
    source = MODULES[module].read_text(encoding="utf-8")
    assert not offences(module, source)
    assert not private_uses(module, source)
    assert not long_classes(source)
    assert not programs(source)


def test_every_module_of_the_layers_exists():
    rooms = {path.name for path in PACKAGE.iterdir() if path.is_dir()}
    assert {name for name in MAY_IMPORT if name not in MODULES} <= rooms


def test_the_wheel_holds_every_room():
    text = (PACKAGE.parent / "pyproject.toml").read_text(encoding="utf-8")
    rooms = [path.parent.name for path in PACKAGE.glob("*/__init__.py")]
    assert [room for room in rooms if f'"vae_keras.{room}"' not in text] == []


def test_the_contribution_guide_names_every_room_and_flat_module():
    guide = (PACKAGE.parent / "CONTRIBUTING.md").read_text(encoding="utf-8")
    rooms = [f"`{path.parent.name}/`" for path in PACKAGE.glob("*/__init__.py")]
    flat = [f"`{name}.py`" for name in MODULES if "." not in name and not name.startswith("_")]
    assert [name for name in rooms + flat if name not in guide] == []


def test_importing_the_package_imports_nothing_else():
    """Keras itself imports matplotlib, Pillow and its data sets; the package adds nothing."""
    code = (
        "import sys, keras, tensorflow, tensorflow_probability.python.distributions\n"
        "import tensorflow_probability.python.bijectors\n"
        "before = set(sys.modules)\n"
        "import vae_keras\n"
        "print(*sorted(set(sys.modules) - before))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    added = set(run.stdout.split())
    assert {name.split(".")[0] for name in added} - {"vae_keras"} <= sys.stdlib_module_names
    heavy = "data.datasets evaluation report.figures report.gallery data.own_images training"
    assert not {f"vae_keras.{name}" for name in heavy.split()} & added


@pytest.mark.parametrize(
    "line",
    ["eval(x)", "os.system(x)", "subprocess.run(x, shell=True)", "np.load(x)", "load_model(x)"],
)
def test_what_would_run_a_program_is_found(line):
    assert programs(line)


@pytest.mark.parametrize(
    ("module", "source", "sentence"),
    [
        ("noise", "from vae_keras import model", "noise imports vae_keras.model: "),
        ("data", "from vae_keras.priors import StandardNormal", "data imports vae_keras.priors."),
        ("trainer.step", "from vae_keras.trainer import inputs", "trainer.step imports "),
        ("model", "def f():\n    import vae_keras.training", "model imports vae_keras.training: "),
        ("model", "import vae_keras", "model imports vae_keras: "),
        ("training.run", "from vae_keras import VAE", "training.run imports vae_keras.VAE: "),
        ("model", "from . import noise", "model imports ..noise: name the package"),
        ("training.run", "from vae_keras.model import _x", "it is private"),
        ("model", "import tensorflow_probability as tfp", "report.provenance, utils.startup may"),
        ("report.figures", "from matplotlib import pyplot", "no module may"),
        ("extra", "", "extra has no layer yet"),
    ],
)
def test_an_import_that_breaks_the_rules_is_named(module, source, sentence):
    (offence,) = offences(module, source)
    assert sentence in offence


def test_a_private_name_of_another_object_is_named():
    assert private_uses("model", "x = part._weights") == ["model uses part._weights"]
    assert private_uses("model", "self._x = cls._y + row._asdict()") == []


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("model", "from vae_keras import data, noise\nfrom vae_keras.objectives import ELBO"),
        ("distributions", "import tensorflow_probability as tfp"),
        ("report.figures", "from matplotlib.figure import Figure"),
    ],
)
def test_imports_that_keep_the_rules_pass(module, source):
    assert offences(module, source) == []
