"""Fixtures that several test files share."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import itertools
import shutil
import sys
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from vae_keras import VAE, MLPDecoder, MLPEncoder, export, training
from vae_keras.data import datasets
from vae_keras.zoo import presets


def pytest_configure(config: pytest.Config) -> None:
    """Runs the fast suite without TensorFlow's graph optimizer, a fifth of the time of a small fit.

    The whole suite has it, as users have it.
    """
    if config.getoption("-m") == "not slow":
        tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})


@pytest.fixture(scope="session")
def mnist() -> datasets.Images:
    """The real data set."""
    return datasets.load_mnist()


@pytest.fixture(scope="session")
def digits() -> np.ndarray:
    """Sixty grey 6 x 6 images, uint8: enough for everything that is not about digits."""
    return np.random.default_rng(0).integers(0, 256, (60, 6, 6, 1), dtype=np.uint8)


def small_vae(seed: int = 0, **arguments) -> VAE:
    """A compiled VAE for 6 x 6 images.

    It does without XLA, whose compilation takes seconds, and without Adam, whose update is a fifth
    of the time of a small fit.
    """
    parts = {
        "encoder": MLPEncoder(latent_dim=3, hidden=(8,), seed=seed),
        "decoder": MLPDecoder(image_shape=(6, 6, 1), hidden=(8,), seed=seed),
    }
    vae = VAE(**(parts | {"seed": seed} | arguments))
    vae.compile("sgd", jit_compile=False)
    return vae


def bars(rows: int, seed: int) -> np.ndarray:
    """Images of one bright row at a random place, uint8 [N, 6, 6, 1]."""
    rng = np.random.default_rng(seed)
    x = rng.integers(0, 40, (rows, 6, 6, 1), dtype=np.uint8)
    x[np.arange(rows), rng.integers(0, 6, rows)] += 200
    return x


def images(rows: int, shape=(6, 6, 1), seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random((rows, *shape), dtype=np.float32)


def seeds(rows: int, seed: int = 7) -> np.ndarray:
    return np.stack([np.full(rows, seed), np.arange(rows)], axis=1).astype(np.int32)


def labelled(vae: VAE, x: np.ndarray):
    """Images, and for a model with classes labels beside them: what `fit` takes."""
    return x if vae.num_classes is None else (x, np.arange(len(x)) % vae.num_classes)


def signature_answers(vae: VAE, rows: int) -> dict[str, tuple[dict, dict]]:
    """Every signature's inputs, and what the Python model's own methods make of them."""
    x, y = images(rows, vae.image_shape), images(rows, vae.image_shape, seed=1)
    given = {} if vae.num_classes is None else {"labels": np.arange(rows) % vae.num_classes}
    as_int32 = {name: value.astype(np.int32) for name, value in given.items()}
    ends = {f"{end}_{name}": value for name, value in as_int32.items() for end in ("start", "end")}
    latents = np.random.default_rng(2).normal(size=(rows, vae.latent_dim)).astype(np.float32)
    posterior, drawn = vae.encode(x, **given), vae.prior_latents(rows, seed=7)
    weight = np.linspace(0, 1, rows, dtype=np.float32)
    shown = "probabilities" if vae.likelihood.support == "binary" else "means"
    line = (1 - weight[:, None]) * posterior.loc + weight[:, None] * vae.encode(y, **given).loc
    reconstructions = {"reconstructions": vae.reconstruct(x, **given)}
    pictures = {"images": x, **as_int32}
    answers = {
        "reconstruct": (pictures, reconstructions),
        "serving_default": (pictures, reconstructions),
        "encode": (pictures, posterior._asdict()),
        "decode": ({"latents": latents, **as_int32}, {shown: vae.decode(latents, **given)}),
        "sample": (
            {"seeds": seeds(rows), **as_int32},
            {"latents": drawn, shown: vae.sample(rows, seed=7, **given)},
        ),
        "interpolate": (
            {"start_images": x, "end_images": y, "fractions": weight, **ends},
            {shown: vae.decode(line, **given)},
        ),
        "score": ({**pictures, "seeds": seeds(rows)}, vae.elbo(x, seed=7, **given)._asdict()),
    }
    if given:
        answers["transfer"] = (pictures, {shown: vae.transfer(x, **given)})
        classified = vae.classify(x, 50, seed=7)._asdict()
        answers["classify"] = ({"images": x, "seeds": seeds(rows)}, classified)
    return answers


needs_muon = pytest.mark.skipif(
    not hasattr(keras.optimizers.Muon, "lr_adjust"), reason="Muon needs Keras 3.13"
)


def trainable(names: Iterable[str], fast: Iterable[str] | None = None) -> list:
    """Presets as a test's parameters; those that Muon trains are skipped where it is too old.

    If some are named as the fast ones, the others are slow.
    """
    names = list(names)
    kept = names if fast is None else list(fast)

    def marks(name: str) -> list:
        has_muon = presets.load_recipe(name).optimizer.name == "Muon"
        return [needs_muon] * has_muon + [pytest.mark.slow] * (name not in kept)

    return [pytest.param(name, marks=marks(name)) for name in names]


def slow_except(fast: Iterable, entries: Iterable) -> list:
    """The entries as a test's parameters; those that are not among the fast ones are slow.

    A tuple holds a value for each of several parameters.
    """
    kept = list(fast)

    def parameter(entry: Any) -> Any:
        values = entry if isinstance(entry, tuple) else [entry]
        return pytest.param(*values, marks=() if entry in kept else pytest.mark.slow)

    return [parameter(entry) for entry in entries]


def covering(*tables: Iterable) -> list:
    """All combinations of the entries of some tables, as a test's parameters.

    The fast suite uses each entry of each table at least once. The other combinations are slow.
    """
    columns = [list(table) for table in tables]
    longest = max(len(column) for column in columns)

    def place(row: int, number: int) -> int:
        size = len(columns[number])  # a shorter column starts again, each time one place further on
        return (row + row // size * number) % size

    fast = {tuple(place(row, n) for n in range(len(columns))) for row in range(longest)}

    def name(entry) -> str:
        entry = entry[0] if isinstance(entry, tuple) else entry
        return getattr(entry, "__name__", None) or str(entry)

    return [
        pytest.param(
            *(column[index] for column, index in zip(columns, chosen, strict=True)),
            marks=() if chosen in fast else pytest.mark.slow,
            id="-".join(name(c[i]) for c, i in zip(columns, chosen, strict=True)),
        )
        for chosen in itertools.product(*(range(len(column)) for column in columns))
    ]


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


def copy_instead_of_tracing(patch: pytest.MonkeyPatch, version: Path) -> None:
    """Lets an export take its SavedModel from a version of the same model, which saves seconds."""

    def write(_served, folder: Path) -> None:
        extras = shutil.ignore_patterns("assets.extra")
        shutil.copytree(version, folder, dirs_exist_ok=True, ignore=extras)

    patch.setattr(export.saved_model, "_write_saved_model", write)


def draw_nothing(patch: pytest.MonkeyPatch) -> None:
    """Leaves out of a run the figures of what its model shows."""
    patch.setattr(training.artifacts.gallery, "image_figures", lambda *_: ())


def export_nothing(patch: pytest.MonkeyPatch) -> None:
    """Leaves the export out of a run."""
    patch.setattr(training.artifacts.export, "export_saved_model", lambda *_, **__: None)


def train_on_photos(photos: Path, folder: Path) -> Path:
    """Trains a preset on `photos` with nothing else changed but two epochs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(VAE, "xla_pays", lambda _: False)
        training.train(training.TrainConfig(data=str(photos), epochs=2, workdir=folder))
    return folder


@pytest.fixture(scope="session")
def photos_run(photos, tmp_path_factory) -> Path:
    """The finished run of a preset on `photos`, without an export and without figures."""
    with pytest.MonkeyPatch.context() as patch:
        export_nothing(patch)
        draw_nothing(patch)
        return train_on_photos(photos, tmp_path_factory.mktemp("runs") / "photos")
