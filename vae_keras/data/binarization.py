"""Binarization: the conversion of stored pixels to the observations of the likelihood."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
import tensorflow as tf

from vae_keras import noise
from vae_keras.utils import checks

BINARIZATIONS = ("dynamic", "none", "threshold")
"""Draw each pixel from Bernoulli(pixel), keep the grey pixels, or compare them with 1/2."""


def binarize(images: np.ndarray, seed: int, mode: str = "dynamic") -> np.ndarray:
    """Binarizes images as `VAE.evaluate` does under the same seed.

    Each pixel's draw is a pure function of the seed, the index of its image and its position, so
    it does not depend on a batch size.

    Args:
        images: [N, H, W] or [N, H, W, C], uint8 0..255 or float in [0, 1].
        seed: integer in [0, 2^31).
        mode: "dynamic" draws from Bernoulli(pixel), "threshold" compares with 1/2, and "none" only
            scales to [0, 1]. Default "dynamic".

    Returns:
        float32 [N, H, W, C], which are zeros and ones unless mode is "none".

    Raises:
        checks.InputError: for images, a seed or a mode that are not accepted.

    Example:
        >>> np.unique(binarize(np.full((10, 8, 8), 0.25), seed=0))
        array([0., 1.], dtype=float32)

    References:
        Burda et al. 2016, "Importance weighted autoencoders", section 5.
    """
    images = checks.images(images, "images")
    checks.choice("binarization", mode, BINARIZATIONS)
    pixels = np.empty(images.shape, np.float32)
    for start in range(0, len(images), 1000):
        block = images[start : start + 1000]
        bits = pixel_bits(checks.seed(seed), noise.Stream.TEST_PIXELS, block.shape, row=start)
        pixels[start : start + 1000] = to_pixels(tf.constant(block), bits, mode)
    return pixels


def pixel_bits(
    seed: int,
    stream: noise.Stream,
    shape: Iterable[Any],
    step: int | tf.Tensor = 0,
    row: int | tf.Tensor = 0,
) -> tf.Tensor:
    """Draws the random bits that `to_pixels` compares the pixels of a batch with.

    Args:
        seed: integer in [0, 2^31).
        stream: the purpose of the draw, which keeps draws for different purposes independent.
        shape: [N, H, W, C]; N may be a tensor.
        step: the step of the draw, or the steps [S]. Default 0.
        row: index of the batch's first image in the data. Default 0.

    Returns:
        uint16 [N, H, W, C], or [S, N, H, W, C] if `step` is [S].

    Example:
        >>> pixel_bits(0, noise.Stream.TEST_PIXELS, (2, 4, 4, 1)).shape
        TensorShape([2, 4, 4, 1])
    """
    rows, *image = shape
    bits = noise.bits16(seed, stream, rows=rows, size=math.prod(image), step=step, row=row)
    return tf.reshape(bits, [*bits.shape[:-2], -1, *image])


def to_pixels(images: tf.Tensor, bits: tf.Tensor | None, mode: str) -> tf.Tensor:
    """Converts stored images to the observations of the likelihood, inside a compiled step.

    Sixteen random bits for each pixel are enough: P(pixel = 1) is exact for 0 and 255, and at most
    2^-17 off for the values between.

    Args:
        images: uint8 0..255 or float32 in [0, 1], of any shape.
        bits: uint16 of the same shape, which only mode "dynamic" needs, or None.
        mode: as in `binarize`.

    Returns:
        float32 of the same shape.

    Example:
        >>> to_pixels(tf.constant([0, 127, 128], tf.uint8), None, "threshold").numpy()
        array([0., 0., 1.], dtype=float32)
    """
    is_bytes = images.dtype == tf.uint8
    if mode == "dynamic":
        assert bits is not None
        if is_bytes:  # round(pixel / 255 * 2^16) in integer arithmetic
            wide = tf.cast(images, tf.int32)
            level = wide * 257 + wide // 128
        else:
            level = tf.cast(tf.round(images * 65536.0), tf.int32)
        return tf.cast(tf.cast(bits, tf.int32) < level, tf.float32)
    pixels = tf.cast(images, tf.float32) / 255.0 if is_bytes else images
    return tf.cast(pixels >= 0.5, tf.float32) if mode == "threshold" else pixels
