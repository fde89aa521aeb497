"""Random numbers that are a pure function of (seed, stream, step, row).

Philox is a counter-based generator: the seed and the stream make its key, the step and the row
its counter. So a row's numbers do not depend on the rows drawn with it, on the device that draws
them, or on anything drawn before; there is no generator state to save, and none is touched.

References:
    Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3".
"""

from __future__ import annotations

import enum

import tensorflow as tf

_PHILOX = 1
_GROUP = 4  # one Philox call gives four 32-bit numbers


class Stream(enum.IntEnum):
    """What the numbers are for: equal seeds never share numbers across uses."""

    TRAIN_PIXELS = 0
    TRAIN_LATENTS = 1
    TEST_PIXELS = 2
    TEST_LATENTS = 3
    PRIOR = 4
    IMPORTANCE = 5
    UNIFORM = 6
    SPLIT = 7


def normal(
    seed: int | tf.Tensor,
    stream: Stream,
    *,
    rows: int | tf.Tensor,
    size: int,
    step: int | tf.Tensor = 0,
    row: int | tf.Tensor = 0,
) -> tf.Tensor:
    """Draws standard normal numbers.

    Call it outside of XLA: a compiled kernel draws other numbers, and more slowly on a CPU.

    Args:
        seed: integer in [0, 2^31).
        stream: what the numbers are for.
        rows: how many rows to draw.
        size: numbers a row.
        step: integer >= 0, such as the training step. Default 0.
        row: the first row's index, integer >= 0. Default 0.

    Returns:
        float32 [rows, size].

    Example:
        >>> normal(0, Stream.PRIOR, rows=25, size=50).shape
        TensorShape([25, 50])
    """
    groups = -(-size // _GROUP)
    draws = tf.raw_ops.StatelessRandomNormalV2(
        shape=[rows, groups * _GROUP],
        key=_key(seed, stream),
        counter=_counter(step, row, groups),
        alg=_PHILOX,
    )
    return tf.ensure_shape(draws[:, :size], [None, size])


def bits16(
    seed: int | tf.Tensor,
    stream: Stream,
    *,
    rows: int | tf.Tensor,
    size: int,
    step: int | tf.Tensor = 0,
    row: int | tf.Tensor = 0,
) -> tf.Tensor:
    """Draws uniform 16-bit integers; arguments as in `normal`.

    Returns:
        uint16 [rows, size].
    """
    groups = -(-size // (2 * _GROUP))
    words = tf.raw_ops.StatelessRandomUniformFullIntV2(
        shape=[rows, groups * _GROUP],
        key=_key(seed, stream),
        counter=_counter(step, row, groups),
        alg=_PHILOX,
        dtype=tf.uint32,
    )
    halves = tf.reshape(tf.bitcast(words, tf.uint16), [rows, groups * 2 * _GROUP])
    return tf.ensure_shape(halves[:, :size], [None, size])


def _key(seed: int | tf.Tensor, stream: Stream) -> tf.Tensor:
    return tf.cast([tf.cast(seed, tf.int64) * 256 + int(stream)], tf.uint64)


def _counter(step: int | tf.Tensor, row: int | tf.Tensor, groups: int) -> tf.Tensor:
    # The low word counts groups of four numbers, the high word steps: they cannot meet.
    return tf.cast([tf.cast(row, tf.int64) * groups, tf.cast(step, tf.int64)], tf.uint64)
