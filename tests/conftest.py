"""Fixtures that several test files share."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import sys
import warnings
from collections.abc import Iterable
from pathlib import Path

import keras
import numpy as np
import pytest
from PIL import Image

from vae_keras import VAE, MLPDecoder, MLPEncoder, datasets, presets, training


@pytest.fixture(scope="session")
def mnist() -> datasets.Images:
    """The real data set."""
    return datasets.load_mnist()


@pytest.fixture(scope="session")
def digits() -> np.ndarray:
    """Sixty grey 6 x 6 images, uint8: enough for everything that is not about digits."""
    return np.random.default_rng(0).integers(0, 256, (60, 6, 6, 1), dtype=np.uint8)


def small_vae(seed: int = 0, **arguments) -> VAE:
    """A compiled VAE for 6 x 6 images; without XLA, whose compilation takes seconds."""
    parts = {
        "encoder": MLPEncoder(latent_dim=3, hidden=(8,), seed=seed),
        "decoder": MLPDecoder(image_shape=(6, 6, 1), hidden=(8,), seed=seed),
    }
    vae = VAE(**(parts | {"seed": seed} | arguments))
    vae.compile(jit_compile=False)
    return vae


def trainable(names: Iterable[str]) -> list:
    """Presets as a test's parameters; those that Muon trains are skipped where it is too old."""
    old = not hasattr(keras.optimizers.Muon, "lr_adjust")

    def marks(name: str) -> list:
        needs_muon = presets.load_recipe(name).optimizer.name == "Muon"
        return [pytest.mark.skipif(needs_muon and old, reason="Muon needs Keras 3.13")]

    return [pytest.param(name, marks=marks(name)) for name in names]


@pytest.fixture
def vae() -> VAE:
    """A fresh small model."""
    return small_vae()


@pytest.fixture
def printed_warnings(monkeypatch) -> None:
    """Warnings go to standard error, as they do outside of pytest, which keeps them."""

    def show(message, category, filename, lineno, file=None, line=None):
        sys.stderr.write(warnings.formatwarning(message, category, filename, lineno, line))

    monkeypatch.setattr(warnings, "showwarning", show)


@pytest.fixture(scope="session")
def photos(tmp_path_factory) -> Path:
    """A folder of 60 small colour images of an odd size, with labels: reddish, greenish, bluish."""
    folder = tmp_path_factory.mktemp("data") / "photos"
    rng = np.random.default_rng(0)
    for channel, label in enumerate(("red poppy", "green leaf", "blue sky")):
        (folder / label).mkdir(parents=True)
        for index in range(20):
            image = rng.integers(0, 80, (7, 5, 3), dtype=np.uint8)
            image[..., channel] += 170
            Image.fromarray(image).save(folder / label / f"{index}.png")
    return folder


@pytest.fixture(scope="session")
def photos_run(photos, tmp_path_factory) -> Path:
    """The finished run of a preset on `photos`, with nothing else changed but two epochs."""
    folder = tmp_path_factory.mktemp("runs") / "photos"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(VAE, "xla_pays", lambda _: False)
        training.train(training.TrainConfig(data=str(photos), epochs=2, workdir=folder))
    return folder
