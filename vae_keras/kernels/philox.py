"""Philox random numbers for several steps at once, compiled by XLA.

`vae_keras.noise` draws the numbers of one step with TensorFlow's own operations. These compute one
number after the other. The kernels here draw the numbers of several steps, or of several images, as
one expression over an array, which XLA vectorises.

Measured against TensorFlow's operations, on two cores, at a batch size of 200:

- The random bits of a step take 0.29 of the time. They are equal bit for bit.
- The normal numbers of a step take 0.28 of the time. They are equal except for rounding.

References:
    Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3".
    Box & Muller 1958, "A note on the generation of random normal deviates".
"""

from __future__ import annotations

import math
from typing import Any

import tensorflow as tf

WORDS_PER_CALL = 4
"""One call of Philox4x32 returns four words of 32 bits."""

_ROUNDS = 10
_MULTIPLIERS = 0xD2511F53, 0xCD9E8D57
_KEY_STEPS = 0x9E3779B9, 0xBB67AE85


def bits16(
    key: tf.Tensor, call: tf.Tensor, step: tf.Tensor, rows: int, calls_per_row: int
) -> tf.Tensor:
    """Draws uniform 16-bit integers at the counters (call, step).

    Args:
        key: uint64 scalar, the key of the generator.
        call: uint64 scalar, the counter of the first call.
        step: uint64 [S], the second half of the counter.
        rows: number of rows for each step.
        calls_per_row: number of Philox calls for each row. One call gives eight integers.

    Returns:
        uint16 [S, rows, 8 * calls_per_row].

    Example:
        >>> key, call, step = (tf.constant(value, tf.uint64) for value in (7, 0, [0, 1]))
        >>> bits16(key, call, step, rows=3, calls_per_row=2).shape
        TensorShape([2, 3, 16])
    """
    words = _compiled(_words, key, call, step, calls=rows * calls_per_row)
    # The words are split outside of the kernel. Inside, XLA would compute each word once for
    # each of its two parts.
    return tf.reshape(tf.bitcast(words, tf.uint16), [-1, rows, calls_per_row * 2 * WORDS_PER_CALL])


def normal(
    key: tf.Tensor, call: tf.Tensor, step: tf.Tensor, rows: int, calls_per_row: int
) -> tf.Tensor:
    """Draws standard normal numbers at the counters (call, step).

    Args:
        key: uint64 scalar, the key of the generator.
        call: uint64 scalar, the counter of the first call.
        step: uint64 [S], the second half of the counter.
        rows: number of rows for each step.
        calls_per_row: number of Philox calls for each row. One call gives four numbers.

    Returns:
        float32 [S, rows, 4 * calls_per_row].

    Example:
        >>> key, call, step = (tf.constant(value, tf.uint64) for value in (7, 0, [0, 1]))
        >>> normal(key, call, step, rows=3, calls_per_row=2).shape
        TensorShape([2, 3, 8])
    """
    pairs = _compiled(_normal_pairs, key, call, step, calls=rows * calls_per_row)
    return tf.reshape(tf.bitcast(pairs, tf.float32), [-1, rows, calls_per_row * WORDS_PER_CALL])


def _compiled(function: Any, *counters: tf.Tensor, calls: int) -> tf.Tensor:
    # A direct call would log a warning about retracing when a process builds several models.
    return function.get_concrete_function(*counters, calls)(*counters)


@tf.function(jit_compile=True, autograph=False)
def _words(key: tf.Tensor, call: tf.Tensor, step: tf.Tensor, calls: int) -> tf.Tensor:
    """Returns the words of `_philox`, two in each number: uint64 [S, 2 * calls]."""
    return _packed(*_philox(key, call, step, calls))


@tf.function(jit_compile=True, autograph=False)
def _normal_pairs(key: tf.Tensor, call: tf.Tensor, step: tf.Tensor, calls: int) -> tf.Tensor:
    """Returns standard normal float32 numbers, two in each uint64: [S, 2 * calls].

    The formula of Box and Muller is applied to the words that TensorFlow's operation uses, with
    the same lower bound on the radius.
    """
    radius, angle = (_unit(word) for word in _philox(key, call, step, calls))
    radius = tf.sqrt(-2.0 * tf.math.log(tf.maximum(radius, 1e-7)))  # The bound avoids log(0).
    sine, cosine = _sine_and_cosine(angle)
    return _packed(*(_bits(radius * part) for part in (sine, cosine)))


def _philox(
    key: tf.Tensor, call: tf.Tensor, step: tf.Tensor, calls: int
) -> tuple[tf.Tensor, tf.Tensor]:
    """Computes Philox4x32-10 at consecutive counters, for each step.

    XLA vectorises an expression whose every element is a function of the element's index. Each
    element here is one half of a call. Nine of the ten rounds are therefore computed twice. This is
    still faster than interleaving the halves afterwards.

    Args:
        key: uint64 scalar.
        call: uint64 scalar, the counter of the first call.
        step: uint64 [S], the second half of the counter.
        calls: number of calls for each step.

    Returns:
        Two words of 32 bits for each half of a call, each uint64 [S, 2 * calls].
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
    # In the last round each element computes only its own half.
    product = tf.where(is_second, a * c[0], b * c[2])
    first = _high(product) ^ tf.where(is_second, c[3], c[1]) ^ tf.where(is_second, k[1], k[0])
    return first, _low(product)


def _sine_and_cosine(turn: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns sine and cosine of an angle in turns, in [0, 1), to the precision of float32.

    Power series of half the angle are used because XLA on a CPU calls the C library's sine for
    each number.
    """
    half = math.pi * (turn - 0.5)
    square = half**2
    sine = half * tf.math.polyval(
        [(-1.0) ** n / math.factorial(2 * n + 1) for n in reversed(range(7))], square
    )
    cosine = tf.math.polyval(
        [(-1.0) ** n / math.factorial(2 * n) for n in reversed(range(8))], square
    )
    # Twice `half` is the angle minus half a turn, which changes both signs.
    return -2.0 * sine * cosine, (sine - cosine) * (sine + cosine)


def _unit(word: tf.Tensor) -> tf.Tensor:
    """Returns the low 23 bits of a word as a float32 in [0, 1): the fraction of [1, 2)."""
    bits = tf.cast(word & tf.constant(0x7FFFFF, tf.uint64), tf.uint32)
    return tf.bitcast(bits | tf.constant(0x3F800000, tf.uint32), tf.float32) - 1.0


def _bits(number: tf.Tensor) -> tf.Tensor:
    return tf.cast(tf.bitcast(number, tf.uint32), tf.uint64)


def _packed(first: tf.Tensor, second: tf.Tensor) -> tf.Tensor:
    """Packs two words of 32 bits into one of 64, the first in the low half."""
    return first | tf.bitwise.left_shift(second, tf.constant(32, tf.uint64))


def _low(words: tf.Tensor) -> tf.Tensor:
    return words & tf.constant(0xFFFFFFFF, tf.uint64)


def _high(words: tf.Tensor) -> tf.Tensor:
    return tf.bitwise.right_shift(words, tf.constant(32, tf.uint64))
