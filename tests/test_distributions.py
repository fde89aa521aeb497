"""Prior, posterior and likelihood against TFP, closed forms and Monte Carlo."""

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

from vae_keras import distributions
from vae_keras.distributions import SCALE_FLOOR, tfd

compiled = pytest.mark.parametrize("jit_compile", [False, True], ids=["plain", "xla"])

POSTERIORS = [(0.0, 1.0), (1.5, 0.3), (-3.0, 2.0), (0.1, 0.01)]  # loc, scale


def theirs(logits: tf.Tensor) -> tfd.Distribution:
    """TFP's own distribution of an image."""
    return tfd.Independent(tfd.Bernoulli(logits=logits, dtype=tf.float32), 3)


def their_continuous(logits: tf.Tensor) -> tfd.Distribution:
    """TFP's own distribution of a grey image."""
    return tfd.Independent(tfd.ContinuousBernoulli(logits=logits, dtype=tf.float32), 3)


def grey_pixels(logits) -> tfd.Distribution:
    """Our distribution of one-pixel images, batch [len(logits)]."""
    logits = np.float32(logits).reshape(-1, 1, 1, 1)
    return distributions.ContinuousBernoulli().distribution(logits)


def log_density(logits, x) -> np.ndarray:
    """log p of each x under each logit, [logits, x], in float64."""
    x = np.float32(x).reshape(-1, 1, 1, 1, 1)
    return grey_pixels(logits).log_prob(x).numpy().astype(np.float64).T


def log_prob_and_gradients(build, x, logits):
    """Value and gradients of sum(weight * log_prob), the weights all different."""
    x, logits = tf.cast(x, tf.float32), tf.cast(logits, tf.float32)
    with tf.GradientTape() as tape:
        tape.watch([x, logits])
        value = build(logits).log_prob(x)
        weight = tf.reshape(tf.linspace(1.0, 2.0, tf.size(value)), tf.shape(value))
        total = tf.reduce_sum(weight * value)
    return value, *tape.gradient(total, [x, logits])


def posterior(loc: float, scale: float, rows: int = 1) -> tfd.Distribution:
    """A posterior over two latents with this loc and scale."""
    raw = np.log(np.expm1(scale - SCALE_FLOOR))
    return distributions.posterior(tf.tile([[loc, loc, raw, raw]], [rows, 1]))


def normal_kl(loc: float, scale: float) -> float:
    """KL of two independent normals to the standard normal."""
    return 2 * (0.5 * (loc**2 + scale**2 - 1.0) - np.log(scale))


# --------------------------------------------------------------------------------- likelihood


@compiled
def test_log_prob_and_gradients_are_those_of_tfp(jit_compile):
    compare = [
        tf.function(functools.partial(log_prob_and_gradients, build), jit_compile=jit_compile)
        for build in (distributions.Bernoulli().distribution, theirs)
    ]
    for seed in (0, 1):  # the second call runs what the first one compiled
        rng = np.random.default_rng(seed)
        logits = rng.uniform(-80, 80, (7, 4, 3, 2)).astype(np.float32)
        logits[0, 0, 0, 0], logits[0, 0, 0, 1], logits[0, 0, 1, 0] = 0.0, -80.0, 80.0
        x = rng.choice(np.array([0.0, 0.3, 1.0], np.float32), logits.shape)
        for our, their in zip(*(function(x, logits) for function in compare), strict=True):
            np.testing.assert_allclose(our, their, rtol=2e-6, atol=1e-5)


@compiled
@pytest.mark.parametrize("x", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("logit", [-1e4, -200.0, 200.0, 1e4])
def test_log_prob_and_gradients_hold_at_extreme_logits(jit_compile, x, logit):
    pixel = np.ones((1, 1, 1, 1), np.float32)
    evaluate = tf.function(
        lambda: log_prob_and_gradients(
            distributions.Bernoulli().distribution, x * pixel, logit * pixel
        ),
        jit_compile=jit_compile,
    )
    value, x_gradient, logit_gradient = evaluate()
    # softplus is max(0, logit) there, sigmoid 0 or 1
    np.testing.assert_allclose(value, [x * logit - max(0.0, logit)], rtol=1e-6)
    np.testing.assert_allclose(x_gradient, logit * pixel, rtol=1e-6)
    np.testing.assert_allclose(logit_gradient, (x - (logit > 0)) * pixel, rtol=1e-6)


@compiled
@pytest.mark.parametrize(
    "pair",
    [
        (distributions.Bernoulli().distribution, theirs),
        (distributions.ContinuousBernoulli().distribution, their_continuous),
    ],
    ids=["binary", "grey"],
)
@pytest.mark.parametrize(
    ("x_batch", "logits_batch"),
    [((3,), (3,)), ((3, 1), (3, 5)), ((1, 1), (3, 5)), ((3,), ()), ((), (3,)), ((3, 5), (3, 1))],
    ids=["same", "draws share an image", "all share one", "one network output", "one", "images"],
)
def test_gradients_are_those_of_tfp_where_shapes_broadcast(
    jit_compile, x_batch, logits_batch, pair
):
    rng = np.random.default_rng(0)
    x, logits = rng.random((*x_batch, 2, 3, 1)), rng.normal(size=(*logits_batch, 2, 3, 1))
    ours, expected = (
        tf.function(functools.partial(log_prob_and_gradients, build), jit_compile=jit_compile)(
            tf.constant(x, tf.float32), tf.constant(logits, tf.float32)
        )
        for build in pair
    )
    for our, their in zip(ours, expected, strict=True):
        assert our.shape == their.shape
        np.testing.assert_allclose(our, their, rtol=1e-5, atol=1e-5)


def test_probabilities_of_both_pixels_add_up_to_one():
    logits = tf.reshape(tf.linspace(-20.0, 20.0, 101), [101, 1, 1, 1])
    pixel, image = distributions.Bernoulli().distribution(logits), tf.ones([101, 1, 1, 1])
    np.testing.assert_allclose(pixel.prob(0 * image) + pixel.prob(image), np.ones(101), rtol=1e-6)
    np.testing.assert_allclose(pixel.prob(image), pixel.mean()[:, 0, 0, 0], rtol=1e-5)


def test_integer_pixels_are_taken():
    image = distributions.Bernoulli().distribution(tf.constant([[[0.5], [-1.0]]]))
    integers = image.log_prob(tf.constant([[[1], [0]]]))
    np.testing.assert_array_equal(integers, image.log_prob([[[1.0], [0.0]]]))


@pytest.mark.parametrize("batch", [(5,), (2, 5)])
def test_an_image_is_one_event_of_the_likelihood(batch):
    logits = tf.random.stateless_normal([*batch, 4, 3, 2], seed=[0, 0])
    likelihood = distributions.Bernoulli().distribution(logits)
    assert likelihood.event_shape == (4, 3, 2)
    assert likelihood.batch_shape == batch
    x = tf.cast(logits > 0.3, tf.float32)
    pixels = tfp.distributions.Bernoulli(logits=logits).log_prob(x)
    np.testing.assert_allclose(
        likelihood.log_prob(x), tf.reduce_sum(pixels, [-3, -2, -1]), rtol=1e-5
    )


@pytest.mark.parametrize("dtype", [tf.float16, tf.bfloat16])
def test_low_precision_networks_get_float32_distributions(dtype):
    logits = (
        distributions.Bernoulli().distribution(tf.zeros([1, 2, 2, 1], dtype)).distribution.logits
    )
    normal = distributions.posterior(tf.zeros([1, 4], dtype)).distribution
    assert logits.dtype == normal.loc.dtype == normal.scale.dtype == tf.float32


# ----------------------------------------------------------------- the likelihood of grey images

LOGITS = [0.0, 1e-6, -1e-3, 0.02, -0.499, 0.501, 3.0, -30.0, 300.0, -1e4]


def test_grey_pixels_have_a_density_that_integrates_to_one():
    # Geometric steps towards 0, where the density of a negative logit lies; mirrored, towards 1.
    grid = np.concatenate([[0.0], np.geomspace(1e-9, 1.0, 20001)])
    logits = -np.abs(LOGITS)
    total = np.trapezoid(np.exp(log_density(logits, grid)), np.float32(grid).astype(float), axis=1)
    np.testing.assert_allclose(total, 1.0, rtol=1e-5)
    for x in (0.0, 0.25, 1.0):  # exact in float32, mirrored too
        np.testing.assert_allclose(
            log_density(logits, [x]), log_density(-logits, [1.0 - x]), rtol=1e-4, atol=1e-6
        )


def test_the_mean_of_grey_pixels_is_that_of_their_density():
    grid = np.concatenate([[0.0], np.geomspace(1e-9, 1.0, 20001)]).astype(np.float32).astype(float)
    logits = -np.abs(LOGITS)
    mean = grey_pixels(logits).mean().numpy().ravel()
    by_quadrature = np.trapezoid(grid * np.exp(log_density(logits, grid)), grid, axis=1)
    np.testing.assert_allclose(mean, by_quadrature, rtol=2e-5)
    np.testing.assert_allclose(grey_pixels(-logits).mean().numpy().ravel(), 1.0 - mean, rtol=1e-6)


@compiled
@pytest.mark.parametrize("x", [0.0, 0.3, 1.0])
def test_the_gradient_of_a_grey_pixel_is_the_difference_quotient(jit_compile, x):
    logits = np.float32([-0.6, -0.45, -0.01, 0.0, 1e-7, 0.1, 0.5, 2.0])

    @tf.function(jit_compile=jit_compile)
    def gradient(logits):
        with tf.GradientTape() as tape:
            tape.watch(logits)
            pixels = distributions.ContinuousBernoulli().distribution(logits)
            value = tf.reduce_sum(pixels.log_prob(x * tf.ones_like(logits)))
        return tape.gradient(value, logits)

    found = gradient(tf.reshape(tf.constant(logits), [-1, 1, 1, 1])).numpy().ravel()
    step = 2.0**-5
    above, below = (log_density(logits + sign * step, [x])[:, 0] for sign in (1, -1))
    np.testing.assert_allclose(found, (above - below) / (2 * step), atol=2e-5)
    np.testing.assert_allclose(found, x - grey_pixels(logits).mean().numpy().ravel(), atol=1e-6)


@compiled
@pytest.mark.parametrize("x", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("logit", [-1e4, -200.0, 200.0, 1e4])
def test_grey_pixels_hold_at_extreme_logits(jit_compile, x, logit):
    pixel = np.ones((1, 1, 1, 1), np.float32)
    build = distributions.ContinuousBernoulli().distribution
    evaluate = tf.function(
        lambda: log_prob_and_gradients(build, x * pixel, logit * pixel), jit_compile=jit_compile
    )
    value, x_gradient, logit_gradient = evaluate()
    # log((e^l - 1) / l) is max(0, l) - log|l| there, its slope 1 - 1/l or -1/l
    expected = x * logit - max(0.0, logit) + np.log(abs(logit))
    np.testing.assert_allclose(value, [expected], rtol=1e-6, atol=1e-6 * abs(logit))
    np.testing.assert_allclose(x_gradient, logit * pixel, rtol=1e-6)
    np.testing.assert_allclose(
        logit_gradient, (x - (logit > 0) + 1.0 / logit) * pixel, rtol=1e-5, atol=1e-7
    )


def test_a_grey_pixel_without_evidence_is_uniform():
    np.testing.assert_array_equal(log_density([0.0], [0.0, 0.3, 1.0]), [[0.0, 0.0, 0.0]])
    assert grey_pixels([0.0]).mean().numpy().item() == 0.5


@pytest.mark.parametrize("kind", [distributions.Bernoulli, distributions.ContinuousBernoulli])
def test_a_likelihood_comes_back_from_its_configuration(kind):
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(kind()))
    assert type(again) is kind


# ---------------------------------------------------------------------------------- posterior


def test_the_posterior_splits_loc_from_raw_scale():
    parameters = np.array([[1.0, 2.0, 3.0, -1.0, 0.0, 20.0]], np.float32)
    posterior = distributions.posterior(parameters)
    np.testing.assert_array_equal(posterior.distribution.loc, [[1.0, 2.0, 3.0]])
    np.testing.assert_allclose(
        posterior.distribution.scale, np.log1p(np.exp([[-1.0, 0.0, 20.0]])) + 1e-4, rtol=1e-6
    )
    assert posterior.batch_shape == (1,)
    assert posterior.event_shape == (3,)


def closed_form_kl(posterior, prior):
    """Of one with a closed form, where draws do not count."""
    return distributions.kl_divergence(posterior, prior, tf.fill(posterior.event_shape, np.nan))


def test_the_scale_stays_at_its_floor_where_softplus_underflows():
    for raw in (-100.0, -1e4, -3e38):
        posterior = distributions.posterior([[0.0, raw]])
        assert posterior.distribution.scale.numpy() == np.float32(SCALE_FLOOR)
        kl = closed_form_kl(posterior, distributions.StandardNormal().distribution(1))
        np.testing.assert_allclose(kl, [-0.5 - np.log(SCALE_FLOOR)], rtol=1e-5)


def test_reparameterized_draws_have_the_posteriors_moments():
    noise = np.random.default_rng(0).standard_normal((40000, 2)).astype(np.float32)
    z = distributions.reparameterize(posterior(1.5, 0.3), noise).numpy()
    np.testing.assert_allclose(z.mean(0), [1.5, 1.5], atol=4 * 0.3 / np.sqrt(40000))
    np.testing.assert_allclose(z.std(0), [0.3, 0.3], atol=4 * 0.3 / np.sqrt(2 * 40000))


def test_reparameterized_draws_take_a_leading_axis():
    noise = tf.random.stateless_normal([7, 5, 2], seed=[0, 0])
    z = distributions.reparameterize(posterior(1.5, 0.3, rows=5), noise)
    np.testing.assert_allclose(z, 1.5 + 0.3 * noise, rtol=1e-5, atol=1e-6)


def test_the_gradient_of_a_draw_is_one_for_loc_and_the_noise_for_scale():
    loc, scale = tf.constant([[0.5, -2.0]]), tf.constant([[0.1, 3.0]])
    noise = tf.constant([[1.7, -0.4]])
    with tf.GradientTape() as tape:
        tape.watch([loc, scale])
        z = distributions.reparameterize(tfd.Independent(tfd.Normal(loc, scale), 1), noise)
    by_loc, by_scale = tape.gradient(z, [loc, scale])
    np.testing.assert_array_equal(by_loc, [[1.0, 1.0]])
    np.testing.assert_array_equal(by_scale, noise)


# ------------------------------------------------------------------------------ prior and KL


def test_the_prior_is_the_standard_normal():
    prior = distributions.StandardNormal().distribution(3)
    z = np.array([[0.0, 0.0, 0.0], [1.0, -2.0, 0.5]], np.float32)
    expected = -0.5 * (z**2).sum(1) - 1.5 * np.log(2 * np.pi)
    assert prior.event_shape == (3,)
    np.testing.assert_allclose(prior.log_prob(z), expected, rtol=1e-6)


def test_the_prior_comes_back_from_its_configuration():
    serialized = keras.saving.serialize_keras_object(distributions.StandardNormal())
    again = keras.saving.deserialize_keras_object(serialized)
    assert type(again) is distributions.StandardNormal


@pytest.mark.parametrize(("loc", "scale"), POSTERIORS)
def test_the_kl_is_the_closed_form(loc, scale):
    prior = distributions.StandardNormal().distribution(2)
    kl = closed_form_kl(posterior(loc, scale, rows=3), prior)
    np.testing.assert_allclose(kl, [normal_kl(loc, scale)] * 3, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("loc", "scale"), POSTERIORS)
def test_the_kl_is_what_monte_carlo_measures(loc, scale):
    q, prior = posterior(loc, scale), distributions.StandardNormal().distribution(2)
    noise = np.random.default_rng(0).standard_normal((20000, 1, 2)).astype(np.float32)
    z = distributions.reparameterize(q, noise)
    ratios = (q.log_prob(z) - prior.log_prob(z)).numpy().astype(np.float64)
    error = ratios.std() / np.sqrt(ratios.size)
    kl = float(closed_form_kl(q, prior)[0])
    assert abs(ratios.mean() - kl) < 4 * error + 1e-5


def test_the_kl_is_zero_at_the_prior_alone():
    prior = distributions.StandardNormal().distribution(2)
    assert float(closed_form_kl(posterior(0.0, 1.0), prior)[0]) < 1e-6
    for loc, scale in POSTERIORS[1:]:
        assert float(closed_form_kl(posterior(loc, scale), prior)[0]) > 0.1
