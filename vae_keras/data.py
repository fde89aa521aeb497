"""Binarization, and the `tf.data` pipelines of `fit`."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import tensorflow as tf

from vae_keras import checks, noise

BINARIZATIONS = ("dynamic", "none", "threshold")


# ------------------------------------------------------------------------------ binarization


def binarize(images: np.ndarray, seed: int, mode: str = "dynamic") -> np.ndarray:
    """Makes binary images, each pixel's draw a pure function of (seed, image's index, pixel).

    `VAE.evaluate` under the same seed sees exactly these draws, at any batch size.

    Args:
        images: [N, H, W, C], uint8 0..255 or float in [0, 1].
        seed: integer in [0, 2^31).
        mode: "dynamic" draws Bernoulli(pixel), "threshold" compares with 1/2, "none" only
            scales to [0, 1]. Default "dynamic".

    Returns:
        float32 [N, H, W, C], zeros and ones unless mode is "none".

    References:
        Burda et al. 2016, "Importance weighted autoencoders", section 5.
    """
    images = checks.images(images, "images")
    checks.choice("binarization", mode, BINARIZATIONS)
    blocks = []
    for start in range(0, len(images), 1000):
        block = images[start : start + 1000]
        bits = pixel_bits(checks.seed(seed), noise.Stream.TEST_PIXELS, block.shape, row=start)
        blocks.append(to_pixels(tf.constant(block), bits, mode).numpy())
    return np.concatenate(blocks)


def pixel_bits(
    seed: int,
    stream: noise.Stream,
    shape: tuple[int | tf.Tensor, ...] | tf.TensorShape,
    step: int | tf.Tensor = 0,
    row: int | tf.Tensor = 0,
) -> tf.Tensor:
    """Draws the random bits that `to_pixels` compares images of `shape` [N, H, W, C] with.

    Returns:
        uint16 [N, H, W, C].
    """
    rows, height, width, channels = shape
    size = height * width * channels
    bits = noise.bits16(seed, stream, rows=rows, size=size, step=step, row=row)
    return tf.reshape(bits, [-1, height, width, channels])


def to_pixels(images: tf.Tensor, bits: tf.Tensor | None, mode: str) -> tf.Tensor:
    """Turns stored images into what the likelihood sees, inside a compiled step.

    Sixteen bits a pixel are enough: P(pixel = 1) is right to 2^-17, and exact for 0 and 255.

    Args:
        images: uint8 0..255 or float32 in [0, 1], any shape.
        bits: uint16 of the same shape for mode "dynamic", else ignored.
        mode: as in `binarize`.

    Returns:
        float32 of the same shape.
    """
    scaled = images.dtype == tf.uint8
    if mode == "dynamic":
        if scaled:  # round(pixel / 255 * 2^16), without leaving the integers
            wide = tf.cast(images, tf.int32)
            level = wide * 257 + wide // 128
        else:
            level = tf.cast(tf.round(images * 65536.0), tf.int32)
        return tf.cast(tf.cast(bits, tf.int32) < level, tf.float32)
    pixels = tf.cast(images, tf.float32) / 255.0 if scaled else images
    return tf.cast(pixels >= 0.5, tf.float32) if mode == "threshold" else pixels


# --------------------------------------------------------------------------------- pipelines


class Stack(NamedTuple):
    """Several batches for one compiled call, the last one padded with rows of weight 0.

    images: [steps, batch, H, W, C]; weights: float32 [steps, batch]; steps: int32 [], how many
    of the batches hold anything.
    """

    images: tf.Tensor
    weights: tf.Tensor
    steps: tf.Tensor


def stacks(
    images: np.ndarray,
    weights: np.ndarray,
    batch_size: int,
    stack_size: int,
    shuffle_seed: int | None = None,
    first_epoch: int = 0,
) -> tf.data.Dataset:
    """Endless epochs of `Stack`s; the order is a pure function of (seed, epoch).

    Args:
        images: [N, H, W, C] uint8 or float32, kept in memory once.
        weights: float32 [N].
        batch_size: rows a batch.
        stack_size: batches a stack.
        shuffle_seed: seed of the order, or None to keep the data's own. Default None.
        first_epoch: where to begin. Default 0.

    Returns:
        `tf.data.Dataset` of `Stack`, ceil(ceil(N / batch_size) / stack_size) an epoch.
    """
    num, rows = len(images), batch_size * stack_size
    store, weight = _constant(images), tf.constant(weights)
    shape = (stack_size, batch_size, *images.shape[1:])

    def epoch(number: tf.Tensor) -> tf.data.Dataset:
        order = epoch_order(num, shuffle_seed, number)

        def stack(start: tf.Tensor) -> Stack:
            index = order[start : start + rows]
            count = tf.shape(index)[0]
            index = tf.pad(index, [[0, rows - count]])
            held = tf.cast(tf.range(rows) < count, tf.float32)
            return Stack(
                tf.reshape(tf.gather(store, index), shape),
                tf.reshape(tf.gather(weight, index) * held, shape[:2]),
                -(-count // batch_size),
            )

        starts = tf.data.Dataset.range(0, num, rows, output_type=tf.int32)
        return starts.map(stack, num_parallel_calls=2, deterministic=True)

    epochs = tf.data.Dataset.counter(first_epoch, dtype=tf.int64)
    return epochs.flat_map(epoch).prefetch(4)


def epoch_order(num: int, seed: int | None, epoch: int | tf.Tensor) -> tf.Tensor:
    """Returns the order of the rows in an epoch: int32 [num], shuffled unless seed is None."""
    order = tf.range(num)
    if seed is None:
        return order
    key = tf.stack([tf.cast(seed, tf.int64), tf.cast(epoch, tf.int64)])
    return tf.random.experimental.stateless_shuffle(order, key, alg="philox")


def _constant(images: np.ndarray) -> tf.Tensor:
    with tf.device("CPU"):  # the pipeline's ops live there
        return tf.constant(images)
