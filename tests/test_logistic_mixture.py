"""The discretized logistic mixture: probabilities, means and draws against sums and against TFP."""

import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf

from vae_keras import (
    VAE,
    ContinuousBernoulli,
    DiscretizedLogisticMixture,
    MLPDecoder,
    MLPEncoder,
    evaluation,
)
from vae_keras.distributions import Bernoulli, tfd
from vae_keras.utils import checks

MIXTURE = DiscretizedLogisticMixture(components=3)
LEVELS = np.arange(256, dtype=np.float32) / np.float32(255)


def parameters(rows: int, channels: int, likelihood=MIXTURE, spread: float = 1.0) -> tf.Tensor:
    size = likelihood.parameters_per_pixel(channels)
    return spread * tf.random.stateless_normal([rows, 1, 1, size], seed=[3, 4])


@pytest.mark.parametrize("components", [1, 3, 10])
@pytest.mark.parametrize("spread", [0.1, 1.0, 5.0])
def test_the_probabilities_of_all_levels_add_up_to_one(components, spread):
    likelihood = DiscretizedLogisticMixture(components)
    pixel = likelihood.distribution(parameters(20, 1, likelihood, spread))
    each = pixel.prob(LEVELS.reshape(256, 1, 1, 1, 1))
    np.testing.assert_allclose(tf.reduce_sum(each, axis=0), np.ones(20), atol=1e-5)


def test_the_probabilities_of_all_colours_add_up_to_one():
    """A coarse grid of red and green with all levels of blue, and red and green by their sums."""
    pixel = MIXTURE.distribution(parameters(1, 3))
    coarse = LEVELS[::51]
    colours = np.array(list(itertools.product(coarse, coarse, LEVELS)), np.float32)
    blue = pixel.prob(colours.reshape(-1, 1, 1, 1, 3)).numpy().reshape(6, 6, 256).sum(axis=2)
    # Without blue the rest is the mixture of two channels, and without green that of one.
    logits, locs, scales, coefficients = np.split(parameters(1, 3).numpy()[0, 0, 0], [3, 12, 21])
    two = np.concatenate([logits, locs[:6], scales[:6], coefficients[:3]]).reshape(1, 1, 1, -1)
    pair = MIXTURE.distribution(tf.constant(two))
    grid = np.array(list(itertools.product(coarse, coarse)), np.float32).reshape(-1, 1, 1, 1, 2)
    np.testing.assert_allclose(blue.ravel(), pair.prob(grid)[:, 0], rtol=1e-4, atol=1e-9)
    every = np.array(list(itertools.product(LEVELS, LEVELS)), np.float32).reshape(-1, 1, 1, 1, 2)
    np.testing.assert_allclose(tf.reduce_sum(pair.prob(every)), 1.0, atol=1e-5)


@pytest.mark.parametrize("scale", [0.5, 3.0, 40.0])
@pytest.mark.parametrize("loc", [-20.0, 3.2, 128.0, 270.0])
def test_a_single_component_is_tfps_quantized_logistic(loc, scale):
    raw = [0.0, loc / 127.5 - 1.0, np.log(scale / 127.5) + 1.5]
    ours = DiscretizedLogisticMixture(1).distribution(tf.reshape(tf.constant(raw), [1, 1, 3]))
    # TFP quantizes upwards, so that the logistic is moved by half a level.
    theirs = tfd.QuantizedDistribution(tfd.Logistic(loc - 0.5, scale), low=0.0, high=255.0)
    expected = theirs.log_prob(LEVELS * 255).numpy()
    found = ours.log_prob(LEVELS.reshape(256, 1, 1, 1)).numpy()
    likely = expected > -15.0  # TFP's difference of two probabilities rounds below
    assert likely.any()
    np.testing.assert_allclose(found[likely], expected[likely], rtol=1e-4, atol=2e-3)


@pytest.mark.parametrize("channels", [1, 3])
def test_the_mean_is_that_of_the_draws(channels):
    given = parameters(40, channels, spread=0.5)
    bits = tf.random.stateless_uniform([4000, 40, 1, 1, channels + 1], [5, 6], 1e-6, 1 - 1e-6)
    every = tf.broadcast_to(given, [4000, *given.shape])
    draws = MIXTURE.distribution(every).draw(bits).numpy()
    np.testing.assert_allclose(draws * 255, np.round(draws * 255), atol=1e-3)
    error = draws.std(axis=0) / np.sqrt(4000)
    # Half a level for the rounding, and 0.01 for the variance of a channel that was clipped.
    difference = np.abs(draws.mean(axis=0) - MIXTURE.distribution(given).mean())
    assert np.all(difference <= 5 * error + 0.5 / 255 + 0.01 * (channels > 1))


def test_the_draws_have_the_probabilities():
    given = parameters(1, 2)
    bits = tf.random.stateless_uniform([50_000, 1, 1, 3], [5, 6], 1e-6, 1 - 1e-6)
    every = MIXTURE.distribution(tf.broadcast_to(given, [50_000, *given.shape[1:]]))
    draws = every.draw(bits)
    entropy = -every.log_prob(draws)  # its mean over draws is the entropy if the draws are right
    grid = np.array(list(itertools.product(LEVELS, LEVELS)), np.float32).reshape(-1, 1, 1, 1, 2)
    log_probs = MIXTURE.distribution(given).log_prob(grid).numpy()
    exact = -np.sum(np.exp(log_probs) * log_probs)
    error = np.std(entropy) / np.sqrt(50_000)
    assert abs(float(tf.reduce_mean(entropy)) - exact) < 5 * error


def test_draws_of_the_other_likelihoods_have_their_means():
    logits = tf.reshape(tf.constant([-6.0, -1.0, 0.0, 0.4, 5.0]), [5, 1, 1, 1])
    uniform = tf.reshape((tf.range(2000.0) + 0.5) / 2000, [2000, 1, 1, 1, 1])
    for kind in (Bernoulli, ContinuousBernoulli):
        pixel = kind().distribution(logits)
        drawn = tf.reduce_mean(pixel.draw(tf.broadcast_to(uniform, [2000, 5, 1, 1, 1])), axis=0)
        np.testing.assert_allclose(drawn, pixel.mean(), atol=2e-3)


def test_samples_of_an_image_share_its_pixels():
    given = tf.random.stateless_normal([2, 4, 2, 2, MIXTURE.parameters_per_pixel(3)], [1, 2])
    x = tf.random.stateless_uniform([2, 1, 2, 2, 3], [1, 3])
    together = MIXTURE.distribution(given).log_prob(x)
    assert together.shape == (2, 4)
    apart = MIXTURE.distribution(given[1, 2]).log_prob(x[1, 0])
    np.testing.assert_allclose(together[1, 2], apart, rtol=1e-5)


def test_a_number_of_parameters_that_fits_no_channels_is_refused():
    with pytest.raises(checks.InputError, match=r"takes 9 numbers for each grey pixel and 30"):
        MIXTURE.distribution(tf.zeros([1, 2, 2, 10]))


def test_the_likelihood_comes_back_from_its_configuration():
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(MIXTURE))
    assert type(again) is DiscretizedLogisticMixture
    assert again.components == 3


# ------------------------------------------------------------------------------- in a model


def colour_vae(**arguments) -> VAE:
    decoder = MLPDecoder((5, 4, 3), (8,), parameters_per_pixel=MIXTURE.parameters_per_pixel(3))
    return VAE(MLPEncoder(2, (8,)), decoder, likelihood=MIXTURE, **arguments)


def test_the_decoder_tells_the_number_of_channels():
    assert colour_vae().image_shape == (5, 4, 3)
    assert colour_vae().binarization == "none"


def test_a_decoder_of_logits_is_refused_with_the_number_to_pass():
    with pytest.raises(checks.InputError, match="Pass parameters_per_pixel=30 to the decoder"):
        VAE(MLPEncoder(2), MLPDecoder((5, 4, 3)), likelihood=MIXTURE).build((None, 5, 4, 3))


@pytest.mark.parametrize("likelihood", [MIXTURE, None, ContinuousBernoulli()])
def test_samples_are_means_or_draws(likelihood):
    vae = colour_vae() if likelihood else VAE(MLPEncoder(2, (8,)), MLPDecoder((5, 4, 3), (8,)))
    if isinstance(likelihood, ContinuousBernoulli):
        vae = VAE(MLPEncoder(2, (8,)), MLPDecoder((5, 4, 3), (8,)), likelihood=likelihood)
    np.testing.assert_array_equal(vae.sample(3), vae.decode(vae.prior_latents(3)))
    drawn = vae.sample(4, seed=1, pixels="draw")
    assert drawn.shape == (4, 5, 4, 3)
    assert np.unique(drawn).size > 1
    np.testing.assert_allclose(drawn[:2], vae.sample(2, seed=1, pixels="draw"), atol=1e-5)
    assert np.any(drawn != vae.sample(4, seed=2, pixels="draw"))
    if likelihood is None:
        assert set(np.unique(drawn)) == {0.0, 1.0}
    with pytest.raises(checks.InputError, match="pixels"):
        vae.sample(1, pixels="median")


def test_pixels_between_the_levels_are_refused():
    vae = colour_vae()
    vae.compile(jit_compile=False)
    between = np.full((4, 5, 4, 3), 0.3011, np.float32)
    with pytest.raises(checks.InputError, match="multiples of 1 / 255"):
        vae.fit(between, verbose=0)
    dataset = tf.data.Dataset.from_tensor_slices(between).batch(2)
    with pytest.raises((checks.InputError, tf.errors.InvalidArgumentError), match="multiples"):
        vae.fit(dataset, verbose=0)
    for measure in (vae.elbo, lambda x: evaluation.evaluate_elbo(vae, x, 1)):
        with pytest.raises(checks.InputError, match="multiples of 1 / 255"):
            measure(between)
    levels = np.round(between * 255).astype(np.uint8)
    vae.fit(tf.data.Dataset.from_tensors(levels / 255), verbose=0)
