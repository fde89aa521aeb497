"""The kernel of the logistic mixture: its gradient against differences and the plain formula."""

import numpy as np
import pytest
import tensorflow as tf

from vae_keras.kernels import logistic_mixture as kernel


def raw(rows: int, channels: int, components: int, scale: float = 1.0) -> tf.Tensor:
    size = kernel.numbers_per_pixel(channels, components)
    return scale * tf.random.stateless_normal([rows, size], seed=[0, 1])


def plain(levels: tf.Tensor, parameters: tf.Tensor, channels: int, components: int) -> tf.Tensor:
    """The same log-probability from one logistic at a time, in float64."""
    numbers = tf.cast(parameters, tf.float64)
    sizes = [components] * (numbers.shape[-1] // components)
    logits, *parts = tf.split(numbers, sizes, axis=-1)
    pixels = [tf.cast(level, tf.float64) / 127.5 - 1.0 for level in tf.split(levels, channels, -1)]
    total = tf.nn.log_softmax(logits)
    first = 2 * channels
    for channel, pixel in enumerate(pixels):
        places = [(2 * k + 1) / components - 1 for k in range(components)]
        loc = parts[channel] + tf.constant(places, tf.float64)
        for earlier in range(channel):
            loc += tf.tanh(parts[first]) * pixels[earlier]
            first += 1
        scale = tf.exp(tf.clip_by_value(parts[channels + channel] - 1.5, -7.0, 5.0))
        far = tf.constant(1e3, tf.float64)
        lower = tf.where(pixel < -0.999, -far, (pixel - 1 / 255 - loc) / scale)
        upper = tf.where(pixel > 0.999, far, (pixel + 1 / 255 - loc) / scale)
        # The difference is taken where both are small: s(a) - s(b) = s(-b) - s(-a).
        swap = lower > 0.0
        first_edge, second_edge = tf.where(swap, -upper, lower), tf.where(swap, -lower, upper)
        total += tf.math.log(tf.sigmoid(second_edge) - tf.sigmoid(first_edge))
    return tf.reduce_logsumexp(total, axis=-1)


@pytest.mark.parametrize(("channels", "components"), [(1, 1), (1, 4), (2, 2), (3, 5)])
def test_the_value_and_the_gradient_are_those_of_the_plain_formula(channels, components):
    parameters = tf.Variable(raw(64, channels, components))
    levels = np.random.default_rng(0).integers(0, 256, (64, channels)).astype(np.float32)
    levels[:8], levels[8:16] = 0.0, 255.0
    upstream = tf.linspace(0.5, 2.0, 64)
    found = []
    for function in (kernel.log_prob, plain):
        with tf.GradientTape() as tape:
            value = tf.cast(function(levels, parameters, channels, components), tf.float32)
            total = tf.reduce_sum(upstream * value)
        found.append((value, tape.gradient(total, parameters)))
    (value, gradient), (expected, derivative) = found
    np.testing.assert_allclose(value, expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(gradient, derivative, rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("level", [0.0, 1.0, 127.0, 254.0, 255.0])
@pytest.mark.parametrize("scale", [1.0, 100.0, 1e4, 1e6])
def test_the_value_and_the_gradient_are_finite_at_every_extreme(level, scale):
    parameters = tf.Variable(raw(32, 3, 2, scale))
    with tf.GradientTape() as tape:
        value = kernel.log_prob(tf.fill([32, 3], level), parameters, 3, 2)
    assert np.isfinite(value).all()
    assert np.isfinite(tape.gradient(value, parameters)).all()
    assert np.all(value <= 1e-5)


def test_a_scale_beyond_its_bounds_has_no_gradient():
    parameters = tf.Variable([[0.0, 0.0, -100.0], [0.0, 0.0, 100.0], [0.0, 0.0, 0.0]])
    with tf.GradientTape() as tape:
        value = kernel.log_prob(tf.fill([3, 1], 100.0), parameters, 1, 1)
    gradient = tape.gradient(value, parameters).numpy()
    assert gradient[0, 2] == gradient[1, 2] == 0.0 != gradient[2, 2]


def test_components_of_raw_zeros_lie_side_by_side():
    parts = kernel.mixture(tf.zeros([1, kernel.numbers_per_pixel(1, 4)]), 1, 4)
    np.testing.assert_allclose(parts.locs[0, :, 0], [-0.75, -0.25, 0.25, 0.75])
