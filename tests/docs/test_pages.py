"""What the pages print can be run, and what they show exists."""

import ast
import importlib
import itertools
import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from tensorflow.core.util import event_pb2

from tests.conftest import images, small_vae
from tests.docs.pages import ROOT, Block, blocks, dead_links, missing_lines, pages
from vae_keras import training
from vae_keras.cli.main import main
from vae_keras.data import own_images
from vae_keras.detection import Detector
from vae_keras.report import gallery

PAGES = pages()
BLOCKS = [block for path in PAGES for block in blocks(path)]
PYTHON = [block for block in BLOCKS if block.language == "python" and "not-run" not in block.marks]
LINES = [
    line
    for block in BLOCKS
    if block.language in ("bash", "sh")
    for line in block.text.replace("\\\n", " ").splitlines()
    if line
]
COMMANDS = sorted({line for line in LINES if line.startswith("python -m vae_keras")})
TRAININGS = sorted({line for line in LINES if line.startswith("python train.py")})
# Programs that a reader has or installs, and the project's own that other tests run.
OTHERS = (
    ".venv-bench/bin/python -m benchmarks",
    "curl",
    "docker run",
    "export TF_CONFIG=",
    "kubectl apply -f deploy/",
    "make",
    "pip install",
    "python -m benchmarks",
    "sbatch deploy/",
    "tensorboard",
    "vae-keras embed",
    "vae-keras explore",
)


def elbo_above(least: float):
    def check(names, out):
        assert names["vae"].history.history["elbo"][-1] > least

    return check


def encodes(names, out):
    assert names["loc"].shape == (6, 50)


def is_the_api(names, out):
    assert names["images"].shape == (25, 28, 28, 1)
    assert names["between"].shape == (5, 11, 28, 28, 1)
    assert -130 < float(out.splitlines()[-1]) < -60


def samples(names, out):
    elbo_above(-400)(names, out)
    assert names["images"].shape == (25, 28, 28, 1)


def has_groups(names, out):
    groups = [(32,), (7, 7, 4), (7, 7, 4), (14, 14, 2), (14, 14, 2)]
    assert out.splitlines()[-1] == f"1208 {groups}"


def trades_rate_for_distortion(names, out):
    found = re.findall(r"beta (\S+): rate (\S+), distortion (\S+) nats", out)
    light, heavy = ([float(value) for value in values] for values in found)
    assert (light[0], heavy[0]) == (0.5, 4.0)
    assert light[1] > 2 * heavy[1]
    assert light[2] < heavy[2]


def has_a_strategy(names, out):
    elbo_above(-400)(names, out)
    assert names["vae"].strategy is not None


def measures(names, out):
    assert 70 < float(out.split(" ± ")[0]) < 120
    assert "rate 2" in out
    assert out.splitlines()[-1].endswith("active dimensions")


def serves(names, out):
    elbo_above(-400)(names, out)
    if "answer" in names:
        assert names["answer"].shape == (3, 28, 28, 1)


def logs_figures(names, out):
    written = [path for path in Path("logs").rglob("events.*") if path.stat().st_size > 0]
    assert {path.parent.name for path in written} == {"samples", "train", "validation"}
    tags = {
        value.tag
        for path in written
        for record in tf.data.TFRecordDataset(str(path)).as_numpy_iterator()
        for value in event_pb2.Event.FromString(record).summary.value
    }
    assert {"samples", "epoch_elbo", "epoch_kl"} <= tags


def logs_a_run(names, out):
    found = names["mlflow"].get_run(names["run"].info.run_id)
    assert {"elbo", "kl", "val_elbo", "loss"} <= set(found.data.metrics)
    assert float(out.splitlines()[-1]) == found.data.metrics["val_elbo"] > -300
    assert "optimizer_learning_rate" in found.data.params
    assert list(Path("mlruns").rglob("vae.keras"))


def searches(names, out):
    study = names["study"]
    assert len(study.trials) == 3
    assert study.best_value == max(trial.value for trial in study.trials) > -400
    assert set(study.best_params) == {"latent_dim", "width", "learning_rate"}


def shares(names, out):
    assert np.array_equal(names["again"].sample(2), names["vae"].sample(2))


def reads_labels(names, out):
    assert names["threes"].shape == (25, 28, 28, 1)
    assert names["styles"].shape == (5, 10, 28, 28, 1)
    assert names["log_prob"].shape == names["standard_error"].shape == (20, 10)
    assert names["half"].history.history["elbo"][-1] > -400


def learns_from_few_labels(names, out):
    named = names["classifier"].predict(names["x"], verbose=0).argmax(axis=1)
    assert (named != names["y"]).mean() < 0.2
    assert names["vae"].history.history["elbo"][-1] > -200


def judges(names, out):
    assert names["heat"].shape == (100, 28, 28)
    assert int(out.split()[0]) <= 6  # more of 100 normal images are improbable at 1%
    assert Path("detector.json").exists()


def embeds(names, out):
    assert names["loc"].shape == names["scale"].shape == (100, 50)
    assert names["elbo"].mean() > -150
    assert names["rows"][:, 0].tolist() == [0, 1, 2, 3, 4]  # an image is its own neighbour
    assert names["distance"].shape == (5, 8)


# What running a block must show, under its page and heading. Every block that runs is here.
CHECKS = {
    ("README.md", "The API in ten lines"): is_the_api,
    ("docs/index.md", "In Python"): is_the_api,
    ("docs/guides/own_images.md", "Your own images"): encodes,
    ("docs/guides/anomalies.md", "Which images are anomalies"): judges,
    ("docs/guides/own_networks.md", "Your own networks"): samples,
    ("docs/guides/own_networks.md", "The example of keras.io, moved over"): elbo_above(-400),
    ("docs/guides/own_networks.md", "Latents in groups"): has_groups,
    ("docs/guides/own_networks.md", "Rate and distortion"): trades_rate_for_distortion,
    ("docs/guides/labels.md", "Labels"): reads_labels,
    ("docs/guides/labels.md", "A hundred labels"): learns_from_few_labels,
    ("docs/guides/look_inside.md", "Look inside"): embeds,
    ("docs/guides/several_machines.md", "Several machines"): has_a_strategy,
    ("docs/guides/numbers.md", "Measure a model"): measures,
    ("docs/guides/keras_to_serving.md", "Train, measure, export"): serves,
    ("docs/guides/keras_to_serving.md", "Ask the exported model"): serves,
}
TOOLS = "docs/guides/ecosystem.md"
CHECKS |= {
    (TOOLS, "TensorBoard: scalars and grids of images"): logs_figures,
    (TOOLS, "MLflow: runs in a local folder"): logs_a_run,
    (TOOLS, "Optuna: a search for hyperparameters"): searches,
    (TOOLS, "Hugging Face Hub: share a model, and load one"): shares,
}
NEEDS = {"TensorBoard": "tensorboard", "MLflow": "mlflow", "Optuna": "optuna"}
FAST = {
    ("docs/guides/own_images.md", "Your own images"),
    (TOOLS, "Hugging Face Hub: share a model, and load one"),
}


def name(value) -> str:
    return f"{value.page}: {value.heading}" if isinstance(value, Block) else str(value)


def place(block: Block) -> tuple[str, str]:
    return block.page, block.heading


@pytest.fixture(scope="module")
def prepared(photos, photos_run, tmp_path_factory) -> Path:
    """A folder with what a reader has: photos, scans, and the run of the guide's first command."""
    root = tmp_path_factory.mktemp("reader")
    (root / "photos").symlink_to(photos)
    np.savez(root / "scans.npz", x_train=np.arange(180, dtype=np.uint8).reshape(20, 3, 3))
    (root / "runs").mkdir()
    (root / "runs" / "mlp_mnist-photos").symlink_to(photos_run)
    parts = (images(140) * 255).astype(np.uint8)
    for folder in ("good_parts", "new_parts"):
        (root / folder).mkdir()
        for row, image in enumerate(parts[:12]):
            Image.fromarray(image[..., 0]).save(root / folder / f"{row}.png")
    vae, model = small_vae(), root / "runs" / "mlp_mnist-good_parts" / "model.keras"
    model.parent.mkdir()
    vae.save(model)
    Detector.calibrate(vae, parts).save(model)
    return root


@pytest.fixture
def files(prepared, tmp_path, monkeypatch) -> Path:
    """A copy of the reader's folder, in which the test runs."""
    shutil.copytree(prepared, tmp_path, symlinks=True, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    "block",
    [
        pytest.param(block, marks=() if place(block) in FAST else pytest.mark.slow, id=name(block))
        for block in PYTHON
    ],
)
def test_a_block_runs_and_shows_what_it_should(block, files, capsys):
    if (needed := NEEDS.get(block.heading.split(":")[0])) is not None:
        pytest.importorskip(needed, reason=f"needs {needed}, of the extra [ecosystem]")
    names: dict[str, object] = {}
    exec(compile(block.text, block.page, "exec"), names)
    CHECKS[place(block)](names, capsys.readouterr().out)


@pytest.mark.parametrize("block", PYTHON, ids=name)
def test_a_block_is_python_that_imports_what_exists(block):
    for node in ast.walk(ast.parse(block.text)):
        if isinstance(node, ast.ImportFrom) and node.module.startswith("vae_keras"):
            found = importlib.import_module(node.module)
            assert [alias.name for alias in node.names if not hasattr(found, alias.name)] == []


def test_every_block_that_runs_is_checked():
    assert {place(block) for block in PYTHON} == set(CHECKS)
    assert set(FAST) <= set(CHECKS)


@pytest.mark.parametrize(
    ("where", "most"),
    [
        (("README.md", "The API in ten lines"), 13),
        (("docs/guides/own_networks.md", "The example of keras.io, moved over"), 16),
    ],
)
def test_ten_lines_are_ten_lines(where, most):
    """Beside the ten lines of the model there are imports, a blank line, and compile and fit."""
    (block,) = (block for block in PYTHON if place(block) == where)
    assert len(block.text.strip().splitlines()) <= most


@pytest.mark.parametrize("line", COMMANDS)
def test_commands_run_as_printed(line, files, monkeypatch):
    draw = gallery.image_figures  # the first figure is enough here
    monkeypatch.setattr(gallery, "image_figures", lambda *of: itertools.islice(draw(*of), 1))
    assert main(shlex.split(line)[3:]) == 0


@pytest.mark.parametrize("line", TRAININGS)
def test_trainings_are_configured_as_printed(line, files, monkeypatch):
    wanted = []
    monkeypatch.setattr(training, "train", wanted.append)
    assert main(["train", *shlex.split(line)[2:]]) == 0
    (config,) = wanted
    assert config.recipe().epochs > 0
    if config.data is not None and Path(config.data).exists():
        opened = own_images.open_images(config.data, config.image_size)
        assert opened.images.x_train.dtype == np.uint8
    assert config.folder() != training.TrainConfig().folder()


def test_every_other_command_is_known():
    rest = set(LINES) - {*COMMANDS, *TRAININGS}
    assert [line for line in sorted(rest) if not line.startswith(OTHERS)] == []


def test_the_first_training_on_own_images_has_the_folder_that_the_commands_name():
    guide = (ROOT / "docs" / "guides" / "own_images.md").read_text(encoding="utf-8")
    own = next(line for line in TRAININGS if "--data photos --image-size 32" in line)
    data = shlex.split(own)[shlex.split(own).index("--data") + 1]
    assert f"`{training.TrainConfig(data=data).folder()}`" in guide


def test_make_targets_exist():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    named = {target for line in LINES for target in re.findall(r"^make ([\w-]+)", line)}
    assert named >= {"train", "test"}
    assert [target for target in named if f"\n{target}:" not in makefile] == []


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere_and_lines_of_code_exist(path):
    assert dead_links(path) == []
    assert missing_lines(path) == []


def test_a_dead_link_and_a_line_that_is_gone_are_found(tmp_path):
    page = tmp_path / "page.md"
    (tmp_path / "code.py").write_text("def f():\n    return 1\n")
    show = "```{literalinclude} code.py\n:pyobject: %s\n:start-at: %s\n```\n"
    page.write_text("[a](code.py) [b](gone.py) [c](#here)\n\n# Here\n" + show % ("f", "return 1"))
    assert dead_links(page) == ["gone.py"]
    assert missing_lines(page) == []
    for object_, line in (("g", "return 1"), ("f", "return 2")):
        page.write_text(show % (object_, line))
        assert len(missing_lines(page)) == 1


def test_the_readme_is_one_screen():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 90
