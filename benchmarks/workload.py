"""The work that all contestants share: images, initial weights, and one judge of the outcome."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

DIGIT = (28, 28, 1)
LATENT_DIM = 50
LEARNING_RATE = 1e-3
SCALE_FLOOR = 1e-4  # of the posterior's scale, as in vae_keras.distributions
LAYERS = ((784, 200), (200, 200), (200, 2 * LATENT_DIM), (LATENT_DIM, 200), (200, 200), (200, 784))
ENCODER_LAYERS = 3
CONV_LATENT_DIM, CONV_WIDTHS = 32, (16, 64)  # two scales, one residual block at each
NUM_SAMPLES = 5000  # importance samples of the likelihood case
NUM_CONV_SAMPLES = 1000  # importance samples of the convolutional likelihood case

Weights = list[np.ndarray]  # kernel [in, out] and bias [out] of each of LAYERS, flat
# Of weights: the encoder, images to loc and scale before its softplus; the decoder, latents to
# logits.
Network = Callable[[np.ndarray], np.ndarray]
Networks = Callable[[Weights], tuple[Network, Network]]


@dataclass(frozen=True)
class Workload:
    """What a contestant works on.

    Attributes:
        folder: holds `weights.npz`, and room for what a contestant must write. It holds
            `x_train.npy` and `x_test.npy`, uint8 [N, 784], or the folder `tiles` of image files.
        batch_size: images a training step.
        num_images: images a slice.
        shape: of an image, (H, W, C). Default (28, 28, 1).
    """

    folder: Path
    batch_size: int
    num_images: int
    shape: tuple[int, int, int] = DIGIT

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


def mlp(weights: Weights) -> tuple[Network, Network]:
    """The networks of `LAYERS` in NumPy."""

    def layers(h: np.ndarray, start: int, stop: int) -> np.ndarray:
        for index in range(start, stop):
            h = h @ weights[2 * index] + weights[2 * index + 1]
            if index + 1 < stop:
                h = np.tanh(h)
        return h

    return (
        lambda images: layers(images, 0, ENCODER_LAYERS),
        lambda latents: layers(latents, ENCODER_LAYERS, len(LAYERS)),
    )


def conv_parts(weights: Weights) -> tuple[dict[str, list[tuple]], dict[str, list[tuple]]]:
    """Names the convolutional networks' weights: kernel and bias of each layer by its kind.

    Args:
        weights: as `VAE.get_weights` orders them, the encoder's before the decoder's.

    Returns:
        The encoder's `residual` (two a scale), `step` (down, one a scale) and `dense`, and the
        decoder's, whose `step` goes up.
    """
    pairs = list(zip(weights[::2], weights[1::2], strict=True))
    encoder, decoder = pairs[:7], pairs[7:]
    return (
        {"residual": encoder[:4], "step": encoder[4:6], "dense": encoder[6:]},
        {"residual": decoder[:4], "dense": decoder[4:5], "step": decoder[5:]},
    )


def conv(weights: Weights, shape: tuple[int, int, int] = DIGIT) -> tuple[Network, Network]:
    """The convolutional networks in NumPy, for square images whose side is a multiple of four."""
    encoder, decoder = conv_parts(weights)
    start = shape[0] // 4, shape[1] // 4, CONV_WIDTHS[-1]

    def encode(images: np.ndarray) -> np.ndarray:
        h = images.reshape(-1, *shape)
        for scale, (kernel, bias) in enumerate(encoder["step"]):
            h = _refine(_conv(h, kernel, 2) + bias, encoder["residual"][2 * scale :][:2])
        kernel, bias = encoder["dense"][0]
        return h.reshape(len(h), -1) @ kernel + bias

    def decode(latents: np.ndarray) -> np.ndarray:
        kernel, bias = decoder["dense"][0]
        h = (latents @ kernel + bias).reshape(-1, *start)
        for scale in (1, 0):
            kernel, bias = decoder["step"][scale]
            h = _refine(h, decoder["residual"][2 * scale :][:2])
            h = _transposed(h, kernel) + bias
        return h.reshape(len(h), -1)

    return encode, decode


def _elu(h: np.ndarray) -> np.ndarray:
    return np.where(h > 0.0, h, np.expm1(np.minimum(h, 0.0)))


def _refine(h: np.ndarray, residual: list[tuple]) -> np.ndarray:
    update = h
    for kernel, bias in residual:
        update = _conv(_elu(update), kernel) + bias
    return _elu(h + update)


def _conv(h: np.ndarray, kernel: np.ndarray, stride: int = 1) -> np.ndarray:
    """TensorFlow's "same" convolution: what padding is odd lies at the far end."""
    size, out = len(kernel), -(-h.shape[1] // stride)
    total = max((out - 1) * stride + size - h.shape[1], 0)
    ends = (total // 2, total - total // 2)
    padded = np.pad(h, ((0, 0), ends, ends, (0, 0)))
    last = (out - 1) * stride + 1
    taps = [
        padded[:, i : i + last : stride, j : j + last : stride] @ kernel[i, j]
        for i in range(size)
        for j in range(size)
    ]
    return sum(taps)


def _transposed(h: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """The gradient of `_conv` with stride 2 with respect to its input, kernel [k, k, out, in]."""
    num, rows, columns, _ = h.shape
    size, before = len(kernel), (len(kernel) - 2) // 2
    whole = np.zeros((num, 2 * rows + size, 2 * columns + size, kernel.shape[2]), np.float32)
    for i in range(size):
        for j in range(size):
            whole[:, i : i + 2 * rows : 2, j : j + 2 * columns : 2] += h @ kernel[i, j].T
    return whole[:, before : before + 2 * rows, before : before + 2 * columns]


def judge_elbo(
    weights: Weights, images: np.ndarray, networks: Networks = mlp, seed: int = 0
) -> float:
    """Computes the mean ELBO of a contestant's weights in NumPy, with noise of its own.

    Args:
        weights: as `Workload.weights`.
        images: in [0, 1], float32 [N, H * W * C].
        networks: what the weights are of. Default the network of `LAYERS`.
        seed: of the posterior's noise. Default 0.

    Returns:
        Nats per image.
    """
    encode, decode = networks(weights)
    loc, raw = np.split(encode(images), 2, axis=-1)
    scale = np.logaddexp(0.0, raw) + SCALE_FLOOR
    noise = np.random.default_rng(seed).standard_normal(loc.shape, np.float32)
    logits = decode(loc + scale * noise)
    log_likelihood = (images * logits - np.logaddexp(0.0, logits)).sum(axis=-1)
    kl = (0.5 * (loc**2 + scale**2 - 1.0) - np.log(scale)).sum(axis=-1)
    return float((log_likelihood - kl).mean(dtype=np.float64))
