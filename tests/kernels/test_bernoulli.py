"""The Bernoulli and continuous Bernoulli kernels against TFP, quadrature and limits."""

import functools

import numpy as np
import pytest
import tensorflow as tf
from tensorflow_probability import distributions as tfd

from vae_keras.kernels import bernoulli

compiled = pytest.mark.parametrize("jit_compile", [False, True], ids=["plain", "xla"])

KERNELS = {
    "binary": (bernoulli.bernoulli_log_prob, tfd.Bernoulli),
    "grey": (bernoulli.continuous_bernoulli_log_prob, tfd.ContinuousBernoulli),
}
BATCHES = {  # batch shapes of the images and of the logits
    "same": ((3,), (3,)),
    "samples share an image": ((3, 1), (3, 5)),
    "all share one image": ((1, 1), (3, 5)),
    "one output": ((3,), ()),
    "one image": ((), (3,)),
    "images share an output": ((3, 5), (3, 1)),
}
LOGITS = [0.0, 1e-6, -1e-3, 0.02, -0.499, 0.501, 3.0, -30.0, 300.0, -1e4]


def log_density(logits, x) -> np.ndarray:
    """Returns the log-density of each grey pixel x for each logit in float64, [logits, x]."""
    logits = np.float32(logits).reshape(-1, 1, 1, 1)
    x = np.float32(x).reshape(-1, 1, 1, 1, 1)
    return bernoulli.continuous_bernoulli_log_prob(x, logits).numpy().astype(np.float64).T


def value_and_gradients(log_prob, x, logits):
    """Returns log_prob and the gradients of its weighted sum. All weights are different."""
    x, logits = tf.cast(x, tf.float32), tf.cast(logits, tf.float32)
    with tf.GradientTape() as tape:
        tape.watch([x, logits])
        value = log_prob(x, logits)
        weight = tf.reshape(tf.linspace(1.0, 2.0, tf.size(value)), tf.shape(value))
        total = tf.reduce_sum(weight * value)
    return value, *tape.gradient(total, [x, logits])


def function(log_prob, jit_compile: bool):
    traced = functools.partial(value_and_gradients, log_prob)
    return tf.function(traced, jit_compile=jit_compile, autograph=False)


def of_tfp(kind):
    """Returns the log-probability of TFP's distribution of an image."""
    return lambda x, logits: tfd.Independent(kind(logits=logits, dtype=tf.float32), 3).log_prob(x)


# Each batch and each kernel runs once plain and once compiled; `slow` has all combinations.
SOME = {("binary", index % 2 == 0, name) for index, name in enumerate(BATCHES)} | {
    ("grey", index % 2 == 1, name) for index, name in enumerate(BATCHES)
}
COMBINATIONS = [
    pytest.param(*each, marks=() if each in SOME else pytest.mark.slow)
    for each in [
        (kernel, jit, name) for kernel in KERNELS for jit in (False, True) for name in BATCHES
    ]
]


@pytest.mark.parametrize(("kernel", "jit_compile", "batches"), COMBINATIONS)
def test_gradients_agree_with_tfp_where_shapes_broadcast(kernel, jit_compile, batches):
    rng = np.random.default_rng(0)
    ours, theirs = KERNELS[kernel]
    x, logits = (np.float32(rng.random((*batch, 2, 3, 1))) for batch in BATCHES[batches])
    found = function(ours, jit_compile)(x, 4 * logits - 2)
    expected = function(of_tfp(theirs), jit_compile)(x, 4 * logits - 2)
    for our, their in zip(found, expected, strict=True):
        assert our.shape == their.shape
        np.testing.assert_allclose(our, their, rtol=1e-5, atol=1e-5)


@compiled
def test_log_prob_and_gradients_agree_with_tfp_for_all_sizes_of_logits(jit_compile):
    ours = function(bernoulli.bernoulli_log_prob, jit_compile)
    theirs = function(of_tfp(tfd.Bernoulli), jit_compile)
    for seed in (0, 1):  # the second call reuses the compiled function
        rng = np.random.default_rng(seed)
        logits = rng.uniform(-80, 80, (7, 4, 3, 2)).astype(np.float32)
        logits[0, 0, 0, 0], logits[0, 0, 0, 1], logits[0, 0, 1, 0] = 0.0, -80.0, 80.0
        x = rng.choice(np.array([0.0, 0.3, 1.0], np.float32), logits.shape)
        for our, their in zip(ours(x, logits), theirs(x, logits), strict=True):
            np.testing.assert_allclose(our, their, rtol=2e-6, atol=1e-5)


@compiled
@pytest.mark.parametrize("size", [28 * 28, 2 * 8, 17, 1])  # 14, 2 and 1 parts
def test_sixteen_pixels_share_a_logarithm_at_any_number_of_pixels(jit_compile, size):
    rng = np.random.default_rng(0)
    logits, x = rng.normal(0, 5, (3, size, 1, 1)), rng.integers(0, 2, (3, size, 1, 1))
    value, *_ = function(bernoulli.bernoulli_log_prob, jit_compile)(x, logits)
    expected = (x * logits - np.logaddexp(0.0, logits)).sum(axis=(1, 2, 3))
    np.testing.assert_allclose(value, expected, rtol=2e-6)


@compiled
def test_extreme_logits_give_the_limits(jit_compile):
    x, logit = (
        np.float32(part).reshape(-1, 1, 1, 1)
        for part in np.meshgrid([0.0, 0.3, 1.0], [-1e4, -200.0, 200.0, 1e4])
    )
    is_positive, size = logit > 0, np.abs(logit)
    binary = function(bernoulli.bernoulli_log_prob, jit_compile)(x, logit)
    grey = function(bernoulli.continuous_bernoulli_log_prob, jit_compile)(x, logit)
    # softplus is max(0, l) there. The grey normaliser log((e^l - 1) / l) is max(0, l) - log|l|, and
    # its derivative is 1 - 1/l or -1/l.
    value = x * logit - np.maximum(0.0, logit)
    weight = np.linspace(1.0, 2.0, logit.size, dtype=np.float32).reshape(logit.shape)
    expected = value, weight * logit, weight * (x - is_positive)
    for found, limit in zip(binary, expected, strict=True):
        np.testing.assert_allclose(np.reshape(found, limit.shape), limit, rtol=1e-6)
    expected = value + np.log(size), weight * logit, weight * (x - is_positive + 1.0 / logit)
    for found, limit, bound in zip(grey, expected, (1e-6 * size, 0.0, 2e-7), strict=True):
        error = np.abs(np.reshape(found, limit.shape) - limit)
        assert (error <= bound + 1e-5 * np.abs(limit)).all()


def test_grey_pixels_have_a_density_that_integrates_to_one():
    # The grid has geometric steps towards 0, where the density of a negative logit lies.
    grid = np.concatenate([[0.0], np.geomspace(1e-9, 1.0, 20001)])
    logits = -np.abs(LOGITS)
    total = np.trapezoid(np.exp(log_density(logits, grid)), np.float32(grid).astype(float), axis=1)
    np.testing.assert_allclose(total, 1.0, rtol=1e-5)
    for x in (0.0, 0.25, 1.0):  # exact in float32, as is 1 - x
        np.testing.assert_allclose(
            log_density(logits, [x]), log_density(-logits, [1.0 - x]), rtol=1e-4, atol=1e-6
        )


def test_the_mean_of_grey_pixels_is_that_of_their_density():
    grid = np.concatenate([[0.0], np.geomspace(1e-9, 1.0, 20001)]).astype(np.float32).astype(float)
    logits = np.float32(-np.abs(LOGITS))
    mean = bernoulli.continuous_bernoulli_mean(logits)
    by_quadrature = np.trapezoid(grid * np.exp(log_density(logits, grid)), grid, axis=1)
    np.testing.assert_allclose(mean, by_quadrature, rtol=2e-5)
    np.testing.assert_allclose(bernoulli.continuous_bernoulli_mean(-logits), 1.0 - mean, rtol=1e-6)


@compiled
@pytest.mark.parametrize("x", [0.0, 0.3, 1.0])
def test_the_gradient_of_a_grey_pixel_is_the_difference_quotient(jit_compile, x):
    logits = np.float32([-0.6, -0.45, -0.01, 0.0, 1e-7, 0.1, 0.5, 2.0])

    @tf.function(jit_compile=jit_compile, autograph=False)
    def gradient(logits):
        with tf.GradientTape() as tape:
            tape.watch(logits)
            value = bernoulli.continuous_bernoulli_log_prob(x * tf.ones_like(logits), logits)
        return tape.gradient(value, logits)

    found = gradient(tf.reshape(tf.constant(logits), [-1, 1, 1, 1])).numpy().ravel()
    step = 2.0**-5
    above, below = (log_density(logits + sign * step, [x])[:, 0] for sign in (1, -1))
    np.testing.assert_allclose(found, (above - below) / (2 * step), atol=2e-5)
    mean = bernoulli.continuous_bernoulli_mean(logits).numpy()
    np.testing.assert_allclose(found, x - mean, atol=1e-6)


def test_a_grey_pixel_with_logit_zero_is_uniform():
    np.testing.assert_array_equal(log_density([0.0], [0.0, 0.3, 1.0]), [[0.0, 0.0, 0.0]])
    assert bernoulli.continuous_bernoulli_mean(tf.constant(0.0)).numpy() == 0.5
