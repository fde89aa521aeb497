"""Random numbers that are a pure function of (seed, stream, step, row).

Philox is a counter-based generator. The seed and the stream form its key. The step and the row form
its counter. The numbers of a row therefore do not depend on the rows drawn with it, on the device
that draws them, or on anything drawn before. There is no generator state to save, and no global
generator is read or changed.

TensorFlow's operations draw the numbers of one step. `vae_keras.kernels.philox` draws those of
several steps in a third of the time.

References:
    Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3".
"""

from __future__ import annotations

import enum

import tensorflow as tf

from vae_keras.kernels import philox

_PHILOX = 1  # the number of the algorithm in TensorFlow's operations


class Stream(enum.IntEnum):
    """The purpose of random numbers. Equal seeds give different numbers in different streams."""

    TRAIN_PIXELS = 0
    TRAIN_LATENTS = 1
    TEST_PIXELS = 2
    TEST_LATENTS = 3
    PRIOR = 4
    IMPORTANCE = 5
    UNIFORM = 6
    SPLIT = 7
    DRAWN_PIXELS = 8
    CALIBRATION = 9
    DETECTION = 10


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

    Call this function outside of XLA. Inside a compiled function TensorFlow's operation draws other
    numbers, and draws them more slowly on a CPU.

    Args:
        seed: integer in [0, 2^31).
        stream: the purpose of the numbers.
        rows: number of rows, >= 1. It must be a Python integer if `step` is a vector.
        size: numbers for each row, >= 1.
        step: integer >= 0, for example the training step, or a vector [S] of them. Default 0.
        row: index of the first row, integer >= 0. Default 0.

    Returns:
        float32 [rows, size]. For a vector of steps [S, rows, size], equal to the numbers of the
        single steps except for rounding.

    Example:
        >>> normal(0, Stream.PRIOR, rows=25, size=50).shape
        TensorShape([25, 50])

    References:
        Box & Muller 1958, "A note on the generation of random normal deviates".
    """
    calls = -(-size // philox.WORDS_PER_CALL)  # Each row starts with a new call.
    key, call, step = _key(seed, stream), _unsigned(row) * calls, _unsigned(step)
    if step.shape.rank == 0:
        # The call and the step are separate words of the counter, so they cannot collide.
        draws = tf.raw_ops.StatelessRandomNormalV2(
            shape=[rows, calls * philox.WORDS_PER_CALL],
            key=[key],
            counter=[call, step],
            alg=_PHILOX,
        )
    else:
        draws = philox.normal(key, call, step, rows, calls)
    return tf.ensure_shape(draws[..., :size], [*step.shape, None, size])


def bits16(
    seed: int | tf.Tensor,
    stream: Stream,
    *,
    rows: int | tf.Tensor,
    size: int,
    step: int | tf.Tensor = 0,
    row: int | tf.Tensor = 0,
) -> tf.Tensor:
    """Draws uniform 16-bit integers.

    Args:
        seed: integer in [0, 2^31).
        stream: the purpose of the numbers.
        rows: number of rows, >= 1. It must be a Python integer if `step` is a vector.
        size: numbers for each row, >= 1.
        step: integer >= 0, for example the training step, or a vector [S] of them. Default 0.
        row: index of the first row, integer >= 0. Default 0.

    Returns:
        uint16 [rows, size]. For a vector of steps [S, rows, size], equal to the numbers of the
        single steps.

    Example:
        >>> bits16(0, Stream.TRAIN_PIXELS, rows=25, size=784).shape
        TensorShape([25, 784])
    """
    calls = -(-size // (2 * philox.WORDS_PER_CALL))
    key, call, step = _key(seed, stream), _unsigned(row) * calls, _unsigned(step)
    if step.shape.rank == 0:
        words = tf.raw_ops.StatelessRandomUniformFullIntV2(
            shape=[rows, calls * philox.WORDS_PER_CALL],
            key=[key],
            counter=[call, step],
            alg=_PHILOX,
            dtype=tf.uint32,
        )
        bits = tf.bitcast(words, tf.uint16)
        bits = tf.reshape(bits, [rows, calls * 2 * philox.WORDS_PER_CALL])
    else:
        bits = philox.bits16(key, call, step, rows, calls)
    return tf.ensure_shape(bits[..., :size], [*step.shape, None, size])


def _key(seed: int | tf.Tensor, stream: Stream) -> tf.Tensor:
    return _unsigned(seed) * 256 + int(stream)


def _unsigned(number: int | tf.Tensor) -> tf.Tensor:
    return tf.cast(tf.cast(number, tf.int64), tf.uint64)
