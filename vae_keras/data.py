"""Binarization, and the `tf.data` pipelines of `fit`."""

from __future__ import annotations

import math
from collections.abc import Callable
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
    pixels = np.empty(images.shape, np.float32)
    for start in range(0, len(images), 1000):
        block = images[start : start + 1000]
        bits = pixel_bits(checks.seed(seed), noise.Stream.TEST_PIXELS, block.shape, row=start)
        pixels[start : start + 1000] = to_pixels(tf.constant(block), bits, mode)
    return pixels


def pixel_bits(
    seed: int,
    stream: noise.Stream,
    shape: tuple[int | tf.Tensor, ...] | tf.TensorShape,
    step: int | tf.Tensor = 0,
    row: int | tf.Tensor = 0,
) -> tf.Tensor:
    """Draws the random bits that `to_pixels` compares images of `shape` [N, H, W, C] with.

    Returns:
        uint16 [N, H, W, C], or [S, N, H, W, C] where `step` is [S].
    """
    rows, *image = shape
    bits = noise.bits16(seed, stream, rows=rows, size=math.prod(image), step=step, row=row)
    return tf.reshape(bits, [*bits.shape[:-2], -1, *image])


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


class Share(NamedTuple):
    """A replica's rows of a global batch, padded with rows of weight 0.

    images: [rows, H, W, C]; weights: float32 [rows]; row: int32 [], the first one's place in the
    global batch; batch: int32 [], the global batch's size.
    """

    images: tf.Tensor
    weights: tf.Tensor
    row: tf.Tensor
    batch: tf.Tensor


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
    gather = _padded_rows(images, weights, rows)
    shape = (stack_size, batch_size, *images.shape[1:])

    def epoch(number: tf.Tensor) -> tf.data.Dataset:
        order = epoch_order(num, shuffle_seed, number)

        def stack(start: tf.Tensor) -> Stack:
            pixels, weight, count = gather(order[start : start + rows])
            steps = -(-count // batch_size)
            return Stack(tf.reshape(pixels, shape), tf.reshape(weight, shape[:2]), steps)

        starts = tf.data.Dataset.range(0, num, rows, output_type=tf.int32)
        return starts.map(stack, num_parallel_calls=2, deterministic=True)

    return _endless(epoch, first_epoch)


def shares(
    images: np.ndarray,
    weights: np.ndarray,
    batch_size: int,
    replicas: range,
    num_replicas: int,
    shuffle_seed: int | None = None,
    first_epoch: int = 0,
) -> tf.data.Dataset:
    """Endless epochs of the `Share`s that some of the replicas take of every global batch.

    All replicas together get each row once an epoch, in the order and the batches of `stacks`.

    Args:
        images, weights, shuffle_seed, first_epoch: as in `stacks`.
        batch_size: rows a global batch; a replica takes ceil(batch_size / num_replicas) of them.
        replicas: those to read for; their shares come in turn.
        num_replicas: of all workers.

    Returns:
        `tf.data.Dataset` of `Share`, ceil(N / batch_size) * len(replicas) an epoch.
    """
    num, rows, here = len(images), -(-batch_size // num_replicas), len(replicas)
    gather = _padded_rows(images, weights, rows)

    def epoch(number: tf.Tensor) -> tf.data.Dataset:
        order = epoch_order(num, shuffle_seed, number)

        def share(index: tf.Tensor) -> Share:
            batch = order[index // here * batch_size :][:batch_size]
            row = (replicas.start + index % here) * rows
            pixels, weight, _ = gather(batch[row : row + rows])
            pixels = tf.ensure_shape(pixels, (rows, *images.shape[1:]))
            return Share(pixels, tf.ensure_shape(weight, (rows,)), row, tf.constant(batch_size))

        count = -(-num // batch_size) * here
        indices = tf.data.Dataset.range(count, output_type=tf.int32)
        return indices.map(share, num_parallel_calls=2, deterministic=True)

    # Said so, several workers need not ask each other at every step whether all have data left.
    infinite = tf.data.experimental.assert_cardinality(tf.data.INFINITE_CARDINALITY)
    return _endless(epoch, first_epoch).apply(infinite)


def _padded_rows(
    images: np.ndarray, weights: np.ndarray, rows: int
) -> Callable[[tf.Tensor], tuple[tf.Tensor, tf.Tensor, tf.Tensor]]:
    """Gathers rows by index and fills them up to `rows` ones, those of weight 0."""
    store, weight = _constant(images), tf.constant(weights)

    def gather(index: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        count = tf.shape(index)[0]
        index = tf.pad(index, [[0, rows - count]])
        held = tf.cast(tf.range(rows) < count, tf.float32)
        return tf.gather(store, index), tf.gather(weight, index) * held, count

    return gather


def _endless(epoch: Callable[[tf.Tensor], tf.data.Dataset], first: int) -> tf.data.Dataset:
    epochs = tf.data.Dataset.counter(first, dtype=tf.int64)
    options = tf.data.Options()
    # There is nothing to tune, and the tuner may hold up the end of `fit` for two seconds.
    options.autotune.enabled = False
    return epochs.flat_map(epoch).prefetch(2).with_options(options)


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
