"""Small data and a finished run that the tests of the training room share."""

import shutil
from pathlib import Path

import pytest

from tests.conftest import draw_nothing, export_nothing, train_on_photos
from vae_keras import VAE
from vae_keras.data import datasets
from vae_keras.training import TrainConfig, train


def config(folder: Path, **changes) -> TrainConfig:
    """Two epochs of ten steps on `small_mnist`."""
    settings = {"epochs": 2, "validation": 200, "batch_size": 100, "workdir": folder}
    return TrainConfig(**(settings | changes))


FLAGS = ("--epochs", "2", "--validation", "200", "--batch-size", "100")  # `config`'s values


@pytest.fixture(scope="session")
def small_mnist(mnist) -> datasets.Images:
    """1,200 training digits and 300 test digits of 7 x 7 pixels."""
    x, x_test = mnist.x_train[:1200, ::4, ::4], mnist.x_test[:300, ::4, ::4]
    return datasets.Images(x, mnist.y_train[:1200], x_test, mnist.y_test[:300])


def patch_training(patch: pytest.MonkeyPatch, images: datasets.Images) -> None:
    """Trains on these images instead of MNIST, without XLA, whose compilation takes seconds."""
    patch.setattr(datasets, "load_mnist", lambda: images)
    patch.setattr(VAE, "xla_pays", lambda _: False)


@pytest.fixture
def small_training(monkeypatch, small_mnist) -> datasets.Images:
    """The test trains on `small_mnist`."""
    patch_training(monkeypatch, small_mnist)
    return small_mnist


@pytest.fixture
def fast_training(monkeypatch, small_training) -> datasets.Images:
    """The test trains on `small_mnist`. Its runs neither export nor draw what a model shows."""
    export_nothing(monkeypatch)
    draw_nothing(monkeypatch)
    return small_training


@pytest.fixture(scope="session")
def photos_run(photos, tmp_path_factory) -> Path:
    """The finished run of a preset on `photos`, with all its files."""
    return train_on_photos(photos, tmp_path_factory.mktemp("runs") / "photos")


@pytest.fixture(scope="session")
def finished(tmp_path_factory, small_mnist) -> Path:
    """A finished run of `config`. Tests only read it, or copy it with `copied`."""
    folder = tmp_path_factory.mktemp("runs") / "finished"
    with pytest.MonkeyPatch.context() as patch:
        patch_training(patch, small_mnist)
        train(config(folder))
    return folder


@pytest.fixture
def copied(finished, tmp_path) -> Path:
    """A copy of `finished` that the test may change."""
    return Path(shutil.copytree(finished, tmp_path / "copied"))


@pytest.fixture
def cut_short(copied) -> Path:
    """A run that was interrupted before it wrote its page."""
    (copied / "report.html").unlink()
    return copied
