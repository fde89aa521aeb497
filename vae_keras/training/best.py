"""The weights of the best epoch of a run, and whether the run ended far below them."""

from __future__ import annotations

import math
import warnings
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from vae_keras import data, noise
from vae_keras.evaluation import Estimate
from vae_keras.model import VAE
from vae_keras.utils import files, graphs
from vae_keras.utils.rows import Array

FILE = "best.npz"
"""Name of the file of the best weights, beside the checkpoints of a run."""

STANDARD_ERRORS = 3.0
"""The best weights replace the last ones if they are better by more than so many standard errors
of the difference."""

_BLOCK = 500  # images at a time


@dataclass(frozen=True)
class Choice:
    """Which weights of a run are exported and measured.

    Attributes:
        best_epoch: epoch with the best objective on the held-out images, counted from 1.
        last_epoch: the last epoch, counted from 1.
        lost: mean of what the objective lost after the best epoch, in nats per image; 0 if the last
            epoch is the best one.
        standard_error: standard error of `lost`, or None if a single image was held out.
    """

    best_epoch: int
    last_epoch: int
    lost: float = 0.0
    standard_error: float | None = 0.0

    @property
    def takes_best(self) -> bool:
        """Whether the weights of the best epoch are taken, and not the last ones."""
        if self.standard_error is None:  # a single image has no spread
            return False
        return self.lost > STANDARD_ERRORS * self.standard_error


class BestWeights(keras.callbacks.Callback):
    """Keeps the weights of the epoch with the lowest loss, on validation images if there are any.

    Args:
        path: the file of the weights. The weights in it are replaced by better ones only, also in
            a run that goes on.

    Example:
        >>> kept = BestWeights(Path("best.npz"))
        >>> history = vae.fit(x_train, epochs=2, callbacks=[kept], verbose=0)
        >>> load(Path("best.npz"))[0] in (1, 2)
        True
    """

    model: VAE  # pyright: ignore[reportIncompatibleMethodOverride]

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        self._lowest = math.inf

    def on_train_begin(self, logs: Mapping[str, float] | None = None) -> None:
        found = load(self.path)
        self._lowest = math.inf if found is None else found[1]

    def on_epoch_end(self, epoch: int, logs: Mapping[str, float] | None = None) -> None:
        logs = logs or {}
        loss = float(logs.get("val_loss", logs.get("loss", math.nan)))
        if loss < self._lowest:
            self._lowest = loss
            arrays = {f"weight_{i:03d}": w for i, w in enumerate(self.model.get_weights())}
            with files.atomic_write(self.path) as file:
                np.savez(file, epoch=np.int64(epoch + 1), loss=np.float64(loss), **arrays)


def load(path: Path) -> tuple[int, float, list[np.ndarray]] | None:
    """Reads the best weights of a run.

    Args:
        path: the file that `BestWeights` wrote.

    Returns:
        The epoch, counted from 1, its loss, and the weights; or None if there is no file, and with
        a warning if it is damaged.
    """
    if not path.exists():
        return None
    try:
        with np.load(path, allow_pickle=False) as file:
            names = [name for name in file.files if name.startswith("weight_")]
            names.sort(key=lambda name: int(name.removeprefix("weight_")))
            return int(file["epoch"]), float(file["loss"]), [file[name] for name in names]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        warnings.warn(f"{path} is damaged ({error}); it is skipped", stacklevel=2)
        return None


def choose(
    model: VAE, images: Array, path: Path, last_epoch: int, labels: np.ndarray | None = None
) -> Choice:
    """Gives a model the weights of its best epoch if the run ended far below them.

    The objective of every image is measured with both weights and the same noise. The best weights
    are taken if the mean difference exceeds `STANDARD_ERRORS` standard errors.

    Args:
        model: the trained model, with its last weights.
        images: the held-out images, uint8 [N, H, W, C].
        path: the file of the best weights. A run of an earlier version has none.
        last_epoch: number of epochs of the run.
        labels: their labels, which a model with classes reads. Default None.

    Returns:
        `Choice`.
    """
    found = load(path)
    if found is None:
        return Choice(last_epoch, last_epoch)
    epoch, _, weights = found
    if epoch == last_epoch:
        return Choice(epoch, last_epoch)
    last_weights = model.get_weights()
    at_end = _objective(model, images, labels)
    model.set_weights(weights)
    lost = Estimate.of(_objective(model, images, labels) - at_end)
    error = None if math.isnan(lost.standard_error) else lost.standard_error
    choice = Choice(epoch, last_epoch, lost.mean, error)
    if not choice.takes_best:
        model.set_weights(last_weights)
    return choice


def _objective(model: VAE, images: Array, labels: np.ndarray | None) -> np.ndarray:
    """Returns the objective of each image after training, with noise keyed by the row."""
    size = model.objective.noise_size(model.latent_dim)
    given = model.given(labels, len(images)) if model.reads_labels else ()

    def of_block(
        rows: tf.Tensor, bits: tf.Tensor, draws: tf.Tensor, labels: tf.Tensor | None = None
    ) -> tf.Tensor:
        pixels = data.to_pixels(rows, bits, model.binarization)
        return model.bound(pixels, draws, labels=labels)[0]

    compiled = graphs.compiled(of_block)
    values = []
    for start in range(0, len(images), _BLOCK):
        rows = tf.constant(np.asarray(images[start : start + _BLOCK]))
        bits = data.pixel_bits(model.seed, noise.Stream.TEST_PIXELS, rows.shape, row=start)
        draws = noise.normal(
            model.seed, noise.Stream.TEST_LATENTS, rows=len(rows), size=size, row=start
        )
        one_hot = (tf.constant(part[start : start + _BLOCK]) for part in given)
        values.append(compiled(rows, bits, draws, *one_hot))
    return np.concatenate(values)
