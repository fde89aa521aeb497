"""Random numbers that are a pure function of (seed, stream, step, row).

Philox is a counter-based generator: the seed and the stream make its key, the step and the row
its counter. So a row's numbers do not depend on the rows drawn with it, on the device that draws
them, or on anything drawn before; there is no generator state to save, and none is touched.

For one step TensorFlow's operations draw; they compute number after number. For several steps a
compiled expression over arrays draws the same in a third of the time, several numbers at once.

References:
    Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3".
"""

from __future__ import annotations

import enum
import math
from typing import Any

import tensorflow as tf

_PHILOX = 1
_GROUP = 4  # one Philox call gives four 32-bit numbers
_ROUNDS = 10
_MULTIPLIERS = 0xD2511F53, 0xCD9E8D57
_KEY_STEPS = 0x9E3779B9, 0xBB67AE85


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
        rows: how many rows to draw; a Python integer where there are several steps.
        size: numbers a row.
        step: integer >= 0, such as the training step, or [S] of them. Default 0.
        row: the first row's index, integer >= 0. Default 0.

    Returns:
        float32 [rows, size], or [S, rows, size] for several steps: the same but for rounding.

    Example:
        >>> normal(0, Stream.PRIOR, rows=25, size=50).shape
        TensorShape([25, 50])

    References:
        Box & Muller 1958, "A note on the generation of random normal deviates".
    """
    groups = -(-size // _GROUP)
    # A call is counted in a word apart from the step's: they cannot meet.
    key, call, step = _key(seed, stream), _unsigned(row) * groups, _unsigned(step)
    if step.shape.rank == 0:
        draws = tf.raw_ops.StatelessRandomNormalV2(
            shape=[rows, groups * _GROUP], key=[key], counter=[call, step], alg=_PHILOX
        )
    else:
        pairs = _compiled(_normal_pairs, key, call, step, calls=rows * groups)
        draws = tf.reshape(tf.bitcast(pairs, tf.float32), [-1, rows, groups * _GROUP])
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
    """Draws uniform 16-bit integers; arguments as in `normal`.

    Returns:
        uint16 [rows, size], or [S, rows, size] for several steps.
    """
    groups = -(-size // (2 * _GROUP))
    key, call, step = _key(seed, stream), _unsigned(row) * groups, _unsigned(step)
    if step.shape.rank == 0:
        words = tf.raw_ops.StatelessRandomUniformFullIntV2(
            shape=[rows, groups * _GROUP],
            key=[key],
            counter=[call, step],
            alg=_PHILOX,
            dtype=tf.uint32,
        )
    else:
        words = _compiled(_words, key, call, step, calls=rows * groups)
    # Outside of the kernel: XLA would compute a word anew for each of its parts.
    parts = tf.bitcast(words, tf.uint16)
    parts = tf.reshape(parts, [*step.shape, rows, groups * 2 * _GROUP])
    return tf.ensure_shape(parts[..., :size], [*step.shape, None, size])


def _compiled(function: Any, *counters: tf.Tensor, calls: int) -> tf.Tensor:
    # Called by itself it would warn of retracing where several models are made in a process.
    return function.get_concrete_function(*counters, calls)(*counters)


@tf.function(jit_compile=True, autograph=False)
def _words(key: tf.Tensor, call: tf.Tensor, step: tf.Tensor, calls: int) -> tf.Tensor:
    """The words of `_philox`, two in a number: uint64 [S, 2 * calls]."""
    return _packed(*_philox(key, call, step, calls))


@tf.function(jit_compile=True, autograph=False)
def _normal_pairs(key: tf.Tensor, call: tf.Tensor, step: tf.Tensor, calls: int) -> tf.Tensor:
    """Standard normal float32 numbers, two in each: uint64 [S, 2 * calls].

    By Box and Muller's formula of the same words as the operation's, and with its lower bound.
    """
    radius, angle = (_unit(word) for word in _philox(key, call, step, calls))
    radius = tf.sqrt(-2.0 * tf.math.log(tf.maximum(radius, 1e-7)))  # log(0) is out of the way
    sine, cosine = _sine_and_cosine(angle)
    return _packed(*(_bits(radius * part) for part in (sine, cosine)))


def _philox(
    key: tf.Tensor, call: tf.Tensor, step: tf.Tensor, calls: int
) -> tuple[tf.Tensor, tf.Tensor]:
    """Philox4x32-10 at the counters (call, step) of so many calls from one on, for each step.

    XLA computes several numbers at once where each is an expression of its place in an array. Each
    half of a call is a place: that computes nine of the ten rounds twice, and still is faster than
    to interleave the halves afterwards.

    Args:
        key, call: uint64 [].
        step: uint64 [S].
        calls: how many.

    Returns:
        Two words of 32 bits a place, uint64 [S, 2 * calls] each.
    """
    place = tf.cast(tf.range(2 * calls, dtype=tf.int64), tf.uint64)
    is_second, call, step = tf.equal(place % 2, 1), call + place // 2, step[:, tf.newaxis]
    a, b = (tf.constant(value, tf.uint64) for value in _MULTIPLIERS)
    c = [_low(call), _high(call), _low(step), _high(step)]
    k = [_low(key), _high(key)]
    for _ in range(_ROUNDS - 1):
        left, right = a * c[0], b * c[2]
        c = [_high(right) ^ c[1] ^ k[0], _low(right), _high(left) ^ c[3] ^ k[1], _low(left)]
        k = [_low(k[0] + _KEY_STEPS[0]), _low(k[1] + _KEY_STEPS[1])]
    # Of the last round each place computes its own half.
    product = tf.where(is_second, a * c[0], b * c[2])
    first = _high(product) ^ tf.where(is_second, c[3], c[1]) ^ tf.where(is_second, k[1], k[0])
    return first, _low(product)


def _sine_and_cosine(turn: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Sine and cosine of a part of a turn, in [0, 1), to float32's precision.

    By the power series of half the angle: XLA on a CPU calls the C library for each number.
    """
    half = math.pi * (turn - 0.5)
    square = half**2
    sine = half * tf.math.polyval(
        [(-1.0) ** n / math.factorial(2 * n + 1) for n in reversed(range(7))], square
    )
    cosine = tf.math.polyval(
        [(-1.0) ** n / math.factorial(2 * n) for n in reversed(range(8))], square
    )
    # Twice the half is half a turn away, which changes both signs.
    return -2.0 * sine * cosine, (sine - cosine) * (sine + cosine)


def _unit(word: tf.Tensor) -> tf.Tensor:
    """A word's low 23 bits as a float32 in [0, 1): the fraction of a number in [1, 2)."""
    bits = tf.cast(word & tf.constant(0x7FFFFF, tf.uint64), tf.uint32)
    return tf.bitcast(bits | tf.constant(0x3F800000, tf.uint32), tf.float32) - 1.0


def _bits(number: tf.Tensor) -> tf.Tensor:
    return tf.cast(tf.bitcast(number, tf.uint32), tf.uint64)


def _packed(first: tf.Tensor, second: tf.Tensor) -> tf.Tensor:
    """Two words of 32 bits, in this order, in a number of 64."""
    return first | tf.bitwise.left_shift(second, tf.constant(32, tf.uint64))


def _low(words: tf.Tensor) -> tf.Tensor:
    return words & tf.constant(0xFFFFFFFF, tf.uint64)


def _high(words: tf.Tensor) -> tf.Tensor:
    return tf.bitwise.right_shift(words, tf.constant(32, tf.uint64))


def _key(seed: int | tf.Tensor, stream: Stream) -> tf.Tensor:
    return _unsigned(seed) * 256 + int(stream)


def _unsigned(number: int | tf.Tensor) -> tf.Tensor:
    return tf.cast(tf.cast(number, tf.int64), tf.uint64)
