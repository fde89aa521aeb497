"""The work that all contestants share: images, initial weights, and one judge of the outcome."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

LATENT_DIM = 50
LEARNING_RATE = 1e-3
SCALE_FLOOR = 1e-4  # of the posterior's scale, as in vae_keras.distributions
LAYERS = ((784, 200), (200, 200), (200, 2 * LATENT_DIM), (LATENT_DIM, 200), (200, 200), (200, 784))
ENCODER_LAYERS = 3
NUM_SAMPLES = 5000  # importance samples of the likelihood case

Weights = list[np.ndarray]  # kernel [in, out] and bias [out] of each of LAYERS, flat


@dataclass(frozen=True)
class Workload:
    """What a contestant works on.

    Attributes:
        folder: holds `x_train.npy`, `x_test.npy` (uint8 [N, 784]), `weights.npz`, and room for
            what a contestant must write.
        batch_size: images a training step.
        num_images: images a slice.
    """

    folder: Path
    batch_size: int
    num_images: int

    def train_images(self) -> np.ndarray:
        """Returns the images of one slice of training, uint8 [num_images, 784]."""
        return np.load(self.folder / "x_train.npy")[: self.num_images]

    def test_images(self) -> np.ndarray:
        """Returns binary test images for one slice of likelihood, float32 [num_images, 784]."""
        return binary(np.load(self.folder / "x_test.npy")[: self.num_images])

    def weights(self) -> Weights:
        """Returns the weights that every contestant starts from."""
        with np.load(self.folder / "weights.npz") as file:
            return [file[name] for name in sorted(file.files)]


def write_weights(folder: Path, weights: Weights) -> None:
    """Writes the weights that `Workload.weights` reads."""
    named = {f"{index:02d}": value for index, value in enumerate(weights)}
    np.savez(folder / "weights.npz", **named)


def initial_weights(seed: int = 0) -> Weights:
    """Draws Glorot uniform kernels and zero biases for `LAYERS`."""
    rng = np.random.default_rng(seed)
    weights: Weights = []
    for wide, narrow in LAYERS:
        limit = np.sqrt(6.0 / (wide + narrow))
        weights.append(rng.uniform(-limit, limit, (wide, narrow)).astype(np.float32))
        weights.append(np.zeros(narrow, np.float32))
    return weights


def binary(images: np.ndarray, seed: int = 0) -> np.ndarray:
    """Draws one Bernoulli a pixel: uint8 [N, 784] to float32 zeros and ones."""
    draws = np.random.default_rng(seed).random(images.shape, np.float32)
    return (draws * 255.0 < images).astype(np.float32)


def judge_elbo(weights: Weights, images: np.ndarray, seed: int = 0) -> float:
    """Computes the mean ELBO of a contestant's weights in NumPy, with noise of its own.

    Args:
        weights: as `Workload.weights`.
        images: binary, float32 [N, 784].
        seed: of the posterior's noise. Default 0.

    Returns:
        Nats per image.
    """

    def layers(h: np.ndarray, start: int, stop: int) -> np.ndarray:
        for index in range(start, stop):
            h = h @ weights[2 * index] + weights[2 * index + 1]
            if index + 1 < stop:
                h = np.tanh(h)
        return h

    loc, raw = np.split(layers(images, 0, ENCODER_LAYERS), 2, axis=-1)
    scale = np.logaddexp(0.0, raw) + SCALE_FLOOR
    noise = np.random.default_rng(seed).standard_normal(loc.shape, np.float32)
    logits = layers(loc + scale * noise, ENCODER_LAYERS, len(LAYERS))
    log_likelihood = (images * logits - np.logaddexp(0.0, logits)).sum(axis=-1)
    kl = (0.5 * (loc**2 + scale**2 - 1.0) - np.log(scale)).sum(axis=-1)
    return float((log_likelihood - kl).mean(dtype=np.float64))
