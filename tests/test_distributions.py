"""Posterior, likelihoods and prior against closed forms, Monte Carlo and TFP."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from vae_keras import distributions
from vae_keras.distributions import SCALE_FLOOR, tfd

POSTERIORS = [(0.0, 1.0), (1.5, 0.3), (-3.0, 2.0), (0.1, 0.01)]  # loc, scale
LIKELIHOODS = [distributions.Bernoulli, distributions.ContinuousBernoulli]

likelihoods = pytest.mark.parametrize("kind", LIKELIHOODS, ids=lambda kind: kind.__name__)


def posterior(loc: float, scale: float, rows: int = 1) -> tfd.Distribution:
    """Returns a posterior over two latents with this loc and scale."""
    raw = np.log(np.expm1(scale - SCALE_FLOOR))
    return distributions.posterior(tf.tile([[loc, loc, raw, raw]], [rows, 1]))


def normal_kl(loc: float, scale: float) -> float:
    """Returns the KL of two independent normals to the standard normal."""
    return 2 * (0.5 * (loc**2 + scale**2 - 1.0) - np.log(scale))


# --------------------------------------------------------------------------------- likelihood


@likelihoods
@pytest.mark.parametrize("batch", [(5,), (2, 5)])
def test_an_image_is_one_event_of_the_likelihood(kind, batch):
    logits = tf.random.stateless_normal([*batch, 4, 3, 2], seed=[0, 0])
    likelihood = kind().distribution(logits)
    assert likelihood.event_shape == (4, 3, 2)
    assert likelihood.batch_shape == batch
    x = tf.cast(logits > 0.3, tf.float32)
    pixels = likelihood.distribution.log_prob(x)  # TFP's own, one event for each pixel
    np.testing.assert_allclose(
        likelihood.log_prob(x), tf.reduce_sum(pixels, [-3, -2, -1]), rtol=1e-5
    )


def test_the_probabilities_of_both_pixels_add_up_to_one():
    logits = tf.reshape(tf.linspace(-20.0, 20.0, 101), [101, 1, 1, 1])
    pixel, image = distributions.Bernoulli().distribution(logits), tf.ones([101, 1, 1, 1])
    np.testing.assert_allclose(pixel.prob(0 * image) + pixel.prob(image), np.ones(101), rtol=1e-6)
    np.testing.assert_allclose(pixel.prob(image), pixel.mean()[:, 0, 0, 0], rtol=1e-5)


def test_the_mean_of_grey_pixels_follows_the_formula():
    logits = np.array([-8.0, -1.0, 0.5, 3.0])
    mean = distributions.ContinuousBernoulli().distribution(logits.reshape(-1, 1, 1, 1)).mean()
    expected = 1.0 / (1.0 - np.exp(-logits)) - 1.0 / logits
    np.testing.assert_allclose(np.ravel(mean), expected, rtol=1e-5)


def test_integer_pixels_are_taken():
    image = distributions.Bernoulli().distribution(tf.constant([[[0.5], [-1.0]]]))
    integers = image.log_prob(tf.constant([[[1], [0]]]))
    np.testing.assert_array_equal(integers, image.log_prob([[[1.0], [0.0]]]))


@pytest.mark.parametrize("dtype", [tf.float16, tf.bfloat16])
def test_low_precision_networks_get_float32_distributions(dtype):
    for kind in LIKELIHOODS:
        assert kind().distribution(tf.zeros([1, 2, 2, 1], dtype)).distribution.dtype == tf.float32
    normal = distributions.posterior(tf.zeros([1, 4], dtype)).distribution
    assert normal.loc.dtype == normal.scale.dtype == tf.float32


def test_the_support_names_the_pixels_that_have_a_probability():
    assert distributions.Bernoulli.support == "binary"
    assert distributions.ContinuousBernoulli.support == "unit_interval"


@pytest.mark.parametrize("kind", [*LIKELIHOODS, distributions.StandardNormal])
def test_a_part_comes_back_from_its_configuration(kind):
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


@pytest.mark.parametrize(
    ("scale_parameter", "parameter"),
    [("log_variance", np.log([[0.25, 4.0]])), ("scale", [[0.5, 2.0]])],
)
def test_an_encoder_may_return_loc_and_another_parameter_of_the_scale(scale_parameter, parameter):
    loc, parameter = np.float32([[1.0, -2.0]]), np.float32(parameter)
    halves = np.concatenate([loc, parameter], axis=-1)
    for parameters in ((loc, parameter), [loc, parameter], halves):
        normal = distributions.posterior(parameters, scale_parameter).distribution
        np.testing.assert_array_equal(normal.loc, loc)
        np.testing.assert_allclose(normal.scale, [[0.5, 2.0]], rtol=1e-6)


def closed_form_kl(posterior, prior):
    """Returns a KL that has a closed form and therefore does not use the samples."""
    return distributions.kl_divergence(posterior, prior, tf.fill(posterior.event_shape, np.nan))


def test_the_scale_stays_at_its_floor_where_softplus_underflows():
    for raw in (-100.0, -1e4, -3e38):
        posterior = distributions.posterior(np.array([[0.0, raw]]))
        assert posterior.distribution.scale.numpy() == np.float32(SCALE_FLOOR)
        kl = closed_form_kl(posterior, distributions.StandardNormal().distribution(1))
        np.testing.assert_allclose(kl, [-0.5 - np.log(SCALE_FLOOR)], rtol=1e-5)


def test_reparameterized_samples_have_the_moments_of_the_posterior():
    noise = np.random.default_rng(0).standard_normal((40000, 2)).astype(np.float32)
    z = distributions.reparameterize(posterior(1.5, 0.3), noise).numpy()
    np.testing.assert_allclose(z.mean(0), [1.5, 1.5], atol=4 * 0.3 / np.sqrt(40000))
    np.testing.assert_allclose(z.std(0), [0.3, 0.3], atol=4 * 0.3 / np.sqrt(2 * 40000))


def test_reparameterized_samples_keep_a_leading_axis():
    noise = tf.random.stateless_normal([7, 5, 2], seed=[0, 0])
    z = distributions.reparameterize(posterior(1.5, 0.3, rows=5), noise)
    np.testing.assert_allclose(z, 1.5 + 0.3 * noise, rtol=1e-5, atol=1e-6)


def test_the_gradient_of_a_sample_is_one_for_loc_and_the_noise_for_scale():
    loc, scale = tf.constant([[0.5, -2.0]]), tf.constant([[0.1, 3.0]])
    noise = tf.constant([[1.7, -0.4]])
    with tf.GradientTape() as tape:
        tape.watch([loc, scale])
        z = distributions.reparameterize(tfd.Independent(tfd.Normal(loc, scale), 1), noise)
    by_loc, by_scale = tape.gradient(z, [loc, scale])
    np.testing.assert_array_equal(by_loc, [[1.0, 1.0]])
    np.testing.assert_array_equal(by_scale, noise)


def test_a_stopped_posterior_has_the_same_density_and_no_gradient():
    loc, z = tf.constant([[0.5, -2.0]]), tf.constant([[1.0, 1.0]])
    with tf.GradientTape(persistent=True) as tape:
        tape.watch([loc, z])
        normal = tfd.Independent(tfd.Normal(loc, 2.0 * tf.ones_like(loc)), 1)
        value, stopped = normal.log_prob(z), distributions.stop_gradient(normal).log_prob(z)
    np.testing.assert_array_equal(value, stopped)
    assert tape.gradient(stopped, loc) is None
    np.testing.assert_array_equal(tape.gradient(stopped, z), tape.gradient(value, z))


# ------------------------------------------------------------------------------ prior and KL


def test_the_prior_is_the_standard_normal():
    prior = distributions.StandardNormal().distribution(3)
    z = np.array([[0.0, 0.0, 0.0], [1.0, -2.0, 0.5]], np.float32)
    expected = -0.5 * (z**2).sum(1) - 1.5 * np.log(2 * np.pi)
    assert prior.event_shape == (3,)
    np.testing.assert_allclose(prior.log_prob(z), expected, rtol=1e-6)


@pytest.mark.parametrize(("loc", "scale"), POSTERIORS)
def test_the_kl_is_the_closed_form(loc, scale):
    prior = distributions.StandardNormal().distribution(2)
    kl = closed_form_kl(posterior(loc, scale, rows=3), prior)
    np.testing.assert_allclose(kl, [normal_kl(loc, scale)] * 3, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("loc", "scale"), POSTERIORS)
def test_the_kl_agrees_with_monte_carlo(loc, scale):
    q, prior = posterior(loc, scale), distributions.StandardNormal().distribution(2)
    noise = np.random.default_rng(0).standard_normal((20000, 1, 2)).astype(np.float32)
    z = distributions.reparameterize(q, noise)
    ratios = (q.log_prob(z) - prior.log_prob(z)).numpy().astype(np.float64)
    error = ratios.std() / np.sqrt(ratios.size)
    kl = float(closed_form_kl(q, prior)[0])
    assert abs(ratios.mean() - kl) < 4 * error + 1e-5


def test_the_kl_is_zero_only_at_the_prior():
    prior = distributions.StandardNormal().distribution(2)
    assert float(closed_form_kl(posterior(0.0, 1.0), prior)[0]) < 1e-6
    for loc, scale in POSTERIORS[1:]:
        assert float(closed_form_kl(posterior(loc, scale), prior)[0]) > 0.1
