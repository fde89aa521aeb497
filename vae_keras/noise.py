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
    steps: int | None = None,
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
        steps: how many steps to draw for, from `step` on. Default None, for that one alone.

    Returns:
        float32 [rows, size], or [steps, rows, size] where `steps` is given.

    Example:
        >>> normal(0, Stream.PRIOR, rows=25, size=50).shape
        TensorShape([25, 50])
    """
    groups = -(-size // _GROUP)
    key, counter = _key(seed, stream), _counter(step, row, groups)

    def draw(counter: tf.Tensor) -> tf.Tensor:
        return tf.raw_ops.StatelessRandomNormalV2(
            shape=[rows, groups * _GROUP], key=key, counter=counter, alg=_PHILOX
        )

    if steps is None:
        return tf.ensure_shape(draw(counter)[:, :size], [None, size])
    counters = tf.stack([tf.fill([steps], counter[0]), _from(counter[1], steps)], axis=1)
    draws = tf.stack([draw(each) for each in tf.unstack(counters)])
    return tf.ensure_shape(draws[..., :size], [steps, None, size])


def bits16(
    seed: int | tf.Tensor,
    stream: Stream,
    *,
    rows: int | tf.Tensor,
    size: int,
    step: int | tf.Tensor = 0,
    row: int | tf.Tensor = 0,
    steps: int | None = None,
) -> tf.Tensor:
    """Draws uniform 16-bit integers; arguments as in `normal`.

    Given `steps`, which takes static rows, it needs a third of the time for each.

    Returns:
        uint16 [rows, size], or [steps, rows, size] where `steps` is given.
    """
    groups = -(-size // (2 * _GROUP))
    key, counter = _key(seed, stream), _counter(step, row, groups)
    if steps is None:
        words = tf.raw_ops.StatelessRandomUniformFullIntV2(
            shape=[rows, groups * _GROUP], key=key, counter=counter, alg=_PHILOX, dtype=tf.uint32
        )
    else:
        words = _philox(key[0], counter, steps, rows * groups)
    # Outside of the kernel: XLA would compute a word anew for each of its parts.
    lead = [] if steps is None else [steps]
    parts = tf.reshape(tf.bitcast(words, tf.uint16), [*lead, rows, groups * 2 * _GROUP])
    return tf.ensure_shape(parts[..., :size], [*lead, None, size])


@tf.function(jit_compile=True, autograph=False)
def _philox(key: tf.Tensor, counter: tf.Tensor, steps: int, calls: int) -> tf.Tensor:
    """Philox4x32-10 as TensorFlow's operation has it, for several steps.

    The operation computes call after call. XLA computes several at once where all is one
    expression over an array of the numbers' places. Each of a call's two halves is a place: that
    computes nine rounds twice, and still is faster than to interleave the halves afterwards.

    Returns:
        uint64 [steps, 2 * calls]: two of a call's four 32-bit numbers in each.
    """
    place = _from(tf.constant(0, tf.uint64), 2 * calls)
    step = _from(counter[1], steps)[:, tf.newaxis]
    is_second, call = tf.equal(place % 2, 1), place // 2 + counter[0]
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
    return first | tf.bitwise.left_shift(product, tf.constant(32, tf.uint64))


def _from(first: tf.Tensor, count: int) -> tf.Tensor:
    """So many numbers from the first one on, uint64."""
    return first + tf.cast(tf.range(count, dtype=tf.int64), tf.uint64)


def _low(words: tf.Tensor) -> tf.Tensor:
    return words & tf.constant(0xFFFFFFFF, tf.uint64)


def _high(words: tf.Tensor) -> tf.Tensor:
    return tf.bitwise.right_shift(words, tf.constant(32, tf.uint64))


def _key(seed: int | tf.Tensor, stream: Stream) -> tf.Tensor:
    return tf.cast([tf.cast(seed, tf.int64) * 256 + int(stream)], tf.uint64)


def _counter(step: int | tf.Tensor, row: int | tf.Tensor, groups: int) -> tf.Tensor:
    # The low word counts groups of four numbers, the high word steps: they cannot meet.
    return tf.cast([tf.cast(row, tf.int64) * groups, tf.cast(step, tf.int64)], tf.uint64)
