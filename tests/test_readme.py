"""What the README prints can be run, and what it shows exists."""

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.conftest import images, small_vae
from vae_keras import training
from vae_keras.cli.main import main
from vae_keras.data import own_images
from vae_keras.detection import Detector

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", README, re.DOTALL)
PYTHON = [text for language, text in BLOCKS if language == "python"]
LINES = [line for language, text in BLOCKS if language == "bash" for line in text.splitlines()]
COMMANDS = [line for line in LINES if line.startswith("python -m vae_keras")]
TRAININGS = [line for line in LINES if line.startswith("python train.py")]


@pytest.fixture
def files(photos, photos_run, tmp_path, monkeypatch) -> Path:
    """A folder with what the README's user has: photos, scans, and the run of the first command."""
    (tmp_path / "photos").symlink_to(photos)
    np.savez(tmp_path / "scans.npz", x_train=np.arange(180, dtype=np.uint8).reshape(20, 3, 3))
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "mlp_mnist-photos").symlink_to(photos_run)
    parts = (images(140) * 255).astype(np.uint8)
    for folder in ("good_parts", "new_parts"):
        (tmp_path / folder).mkdir()
        for row, image in enumerate(parts[:12]):
            Image.fromarray(image[..., 0]).save(tmp_path / folder / f"{row}.png")
    vae = small_vae()
    (tmp_path / "runs" / "mlp_mnist-good_parts").mkdir()
    vae.save(tmp_path / "runs" / "mlp_mnist-good_parts" / "model.keras")
    Detector.calibrate(vae, parts).save(tmp_path / "runs" / "mlp_mnist-good_parts/model.keras")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_own_images_are_opened_as_printed(files):
    names: dict[str, object] = {}
    exec(compile(PYTHON[0], "README.md", "exec"), names)
    assert names["loc"].shape == (6, 50)


@pytest.mark.slow
def test_the_ten_lines_run_as_printed(capsys):
    code = PYTHON[1]
    assert len(code.strip().splitlines()) <= 13
    names: dict[str, object] = {}
    exec(compile(code, "README.md", "exec"), names)
    assert names["images"].shape == (25, 28, 28, 1)
    assert names["between"].shape == (5, 11, 28, 28, 1)
    assert -130 < float(capsys.readouterr().out.splitlines()[-1]) < -60


@pytest.mark.slow
def test_own_networks_run_as_printed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code = PYTHON[2]
    assert len(code.strip().splitlines()) <= 15
    names: dict[str, object] = {}
    exec(compile(code, "README.md", "exec"), names)
    assert names["images"].shape == (25, 28, 28, 1)
    assert names["vae"].history.history["elbo"][-1] > -400


@pytest.mark.slow
def test_the_encoder_with_two_outputs_runs_as_printed():
    names: dict[str, object] = {}
    exec(compile(PYTHON[3], "README.md", "exec"), names)
    assert names["vae"].latent_dim == 2
    assert names["vae"].history.history["elbo"][-1] > -400


@pytest.mark.slow
def test_latents_in_groups_run_as_printed(capsys):
    names: dict[str, object] = {}
    exec(compile(PYTHON[4], "README.md", "exec"), names)
    groups = [(32,), (7, 7, 4), (7, 7, 4), (14, 14, 2), (14, 14, 2)]
    assert capsys.readouterr().out.splitlines()[-1] == f"1208 {groups}"


@pytest.mark.slow
def test_the_weighted_kl_runs_as_printed(capsys):
    exec(compile(PYTHON[5], "README.md", "exec"), {})
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("beta")]
    found = re.findall(r"beta (\S+): rate (\S+), distortion (\S+) nats", "\n".join(lines))
    light, heavy = ([float(value) for value in values] for values in found)
    assert (light[0], heavy[0]) == (0.5, 4.0)
    assert light[1] > 2 * heavy[1]
    assert light[2] < heavy[2]


@pytest.mark.slow
def test_verdicts_run_as_printed(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    exec(compile(PYTHON[6], "README.md", "exec"), names)
    assert names["heat"].shape == (100, 28, 28)
    assert int(capsys.readouterr().out.split()[0]) <= 6  # more of 100 normal images are improbable
    assert (tmp_path / "detector.json").exists()


@pytest.mark.slow
def test_a_strategy_runs_as_printed():
    names: dict[str, object] = {}
    exec(compile(PYTHON[7], "README.md", "exec"), names)
    assert names["vae"].strategy is not None
    assert names["vae"].history.history["elbo"][-1] > -400


@pytest.mark.parametrize("line", COMMANDS)
def test_commands_run_as_printed(line, files):
    assert main(shlex.split(line)[3:]) == 0


@pytest.mark.parametrize("line", TRAININGS)
def test_trainings_are_configured_as_printed(line, files, monkeypatch):
    wanted = []
    monkeypatch.setattr(training, "train", wanted.append)
    assert main(["train", *shlex.split(line)[2:]]) == 0
    (config,) = wanted
    assert config.recipe().epochs > 0
    if config.data is not None:
        assert (
            own_images.open_images(config.data, config.image_size).images.x_train.dtype == np.uint8
        )
    assert config.folder() != training.TrainConfig().folder()


def test_the_first_training_on_own_images_has_the_folder_that_the_commands_name():
    own = next(line for line in TRAININGS if "--data" in line)
    name = shlex.split(own)[shlex.split(own).index("--data") + 1]
    assert f"`{training.TrainConfig(data=name).folder()}`" in README


def test_make_targets_exist():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"^make (\w+)$", README, re.MULTILINE):
        assert f"\n{target}:" in makefile


def test_pictures_and_links_exist():
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", README):
        assert (ROOT / target).exists(), target
