"""The compiled Philox kernel against TensorFlow's operations and against Box and Muller."""

import numpy as np
import pytest
import tensorflow as tf

from vae_keras.kernels import philox

KEY = 2**31 * 256 - 249  # the largest seed, and a stream


def counters(call: int, steps: list[int]) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    return tuple(tf.constant(value, tf.uint64) for value in (KEY, call, steps))


def operation(call: int, step: int, rows: int, calls: int, **dtype) -> np.ndarray:
    """TensorFlow's numbers at one step, [rows, 4 * calls]."""
    name = "StatelessRandomUniformFullIntV2" if dtype else "StatelessRandomNormalV2"
    draw = getattr(tf.raw_ops, name)
    place = {"key": [KEY], "counter": tf.constant([call, step], tf.uint64), "alg": 1}
    place["key"] = tf.constant([KEY], tf.uint64)
    return draw(shape=[rows, 4 * calls], **place, **dtype).numpy()


@pytest.mark.parametrize(
    ("call", "steps", "rows", "calls"),
    [
        (0, [0], 1, 1),
        (0, [7, 8, 9], 5, 6),
        (588, [1000, 3], 40, 196),
        (2**32 - 1, [2**32 - 1, 2**32, 2**62 + 5], 3, 2),  # both halves of both counters
    ],
)
def test_the_numbers_are_those_of_tensorflow(call, steps, rows, calls):
    place = (*counters(call, steps), rows, calls)
    bits = philox.bits16(*place).numpy()
    words = [operation(call, step, rows, calls, dtype=tf.uint32) for step in steps]
    np.testing.assert_array_equal(bits, np.stack(words).view(np.uint16))
    normal = [operation(call, step, rows, calls) for step in steps]
    np.testing.assert_allclose(philox.normal(*place), normal, rtol=0, atol=3e-6)


def test_the_normal_numbers_are_as_exact_as_those_of_tensorflow():
    """Both are compared with Box and Muller's formula in float64."""
    rows, calls, step = 2000, 13, 4
    words = operation(0, step, rows, calls, dtype=tf.uint32)
    unit = (words & 0x7FFFFF).reshape(-1, 2) / np.float64(2**23)
    radius = np.sqrt(-2.0 * np.log(np.maximum(unit[:, :1], 1e-7)))
    angle = 2.0 * np.pi * unit[:, 1:]
    exact = radius * np.concatenate([np.sin(angle), np.cos(angle)], axis=1)
    ours = philox.normal(*counters(0, [step]), rows, calls)
    errors = [
        np.reshape(draws, [-1, 2]) - exact for draws in (ours, operation(0, step, rows, calls))
    ]
    assert np.abs(errors[0]).max() < 2e-6
    assert np.std(errors[0]) < 1.1 * np.std(errors[1])
