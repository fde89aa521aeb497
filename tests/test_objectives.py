"""The ELBO against log p(x) by quadrature on a one-dimensional latent."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from vae_keras import distributions
from vae_keras.networks import MLPDecoder, MLPEncoder
from vae_keras.objectives import ELBO, Terms

DRAWS = 20000
GRID = np.linspace(-10.0, 10.0, 8001)
IMAGES = np.array([[1, 0, 0, 1], [0, 1, 1, 1], [0, 0, 0, 0]], np.float32).reshape(3, 2, 2, 1)


@pytest.fixture(scope="module")
def decode():
    """p(x | z) of four pixels that depend strongly on one latent."""
    decoder = MLPDecoder(image_shape=(2, 2, 1), hidden=(5,), seed=1)
    decoder.build((None, 1))
    decoder.set_weights([2.0 * weight + 0.3 for weight in decoder.get_weights()])
    return lambda z: distributions.likelihood(decoder(z))


def posterior(loc, scale, rows: int) -> distributions.tfd.Distribution:
    raw = np.log(np.expm1(scale - distributions.SCALE_FLOOR))
    return distributions.posterior(np.tile(np.float32([[loc, raw]]), (rows, 1)))


def prior(latent_dim: int = 1) -> distributions.tfd.Distribution:
    return distributions.StandardNormal().distribution(latent_dim)


def draws(rows: int, latent_dim: int = 1) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((rows, latent_dim)).astype(np.float32)


def normal_log_prob(z, loc=0.0, scale=1.0):
    return -0.5 * ((z - loc) / scale) ** 2 - np.log(scale) - 0.5 * np.log(2 * np.pi)


def integral(values: np.ndarray) -> float:
    return float(np.trapezoid(values, GRID))


def log_joint(decode, image) -> np.ndarray:
    """log p(x, z) on the grid."""
    log_likelihood = decode(np.float32(GRID[:, np.newaxis])).log_prob(image)
    return log_likelihood.numpy().astype(np.float64) + normal_log_prob(GRID)


def log_evidence(decode, image) -> float:
    """log p(x) = log of the integral of p(x, z) over z."""
    return float(np.log(integral(np.exp(log_joint(decode, image)))))


def test_the_quadrature_gives_a_distribution_over_images(decode):
    bits = (np.arange(16)[:, np.newaxis] >> np.arange(4)) & 1
    images = bits.astype(np.float32).reshape(16, 2, 2, 1)
    total = sum(np.exp(log_evidence(decode, image)) for image in images)
    assert total == pytest.approx(1.0, abs=1e-5)


@pytest.mark.parametrize("image", IMAGES, ids=["diagonal", "three", "empty"])
@pytest.mark.parametrize(("loc", "scale"), [(0.0, 1.0), (0.7, 0.5), (-1.0, 0.3)])
def test_the_elbo_lies_below_log_p_by_the_kl_to_the_true_posterior(decode, image, loc, scale):
    x = np.repeat(image[np.newaxis], DRAWS, axis=0)
    elbo, _ = ELBO()(x, posterior(loc, scale, DRAWS), prior(), decode, draws(DRAWS))
    elbo = elbo.numpy().astype(np.float64)
    error = elbo.std() / np.sqrt(DRAWS)

    log_p, log_q = log_evidence(decode, image), normal_log_prob(GRID, loc, scale)
    gap = integral(np.exp(log_q) * (log_q - (log_joint(decode, image) - log_p)))
    assert gap > 0
    assert elbo.mean() - 4 * error <= log_p
    assert abs(elbo.mean() - (log_p - gap)) < 4 * error


def test_the_elbo_is_log_p_when_the_posterior_is_the_true_one():
    # The decoder ignores z: the true posterior is the prior.
    logits = np.array([0.5, -1.0, 2.0, 0.0], np.float32).reshape(2, 2, 1)

    def decode(z):
        return distributions.likelihood(tf.tile(logits[np.newaxis], [len(z), 1, 1, 1]))

    elbo, _ = ELBO()(IMAGES, posterior(0.0, 1.0, 3), prior(), decode, draws(3))
    expected = [log_evidence(decode, image) for image in IMAGES]
    np.testing.assert_allclose(elbo, expected, rtol=1e-5)


def test_the_terms_add_up_and_are_per_example(decode):
    objective, terms = ELBO()(IMAGES, posterior(0.7, 0.5, 3), prior(), decode, draws(3))
    assert isinstance(terms, Terms)
    assert terms.elbo.shape == terms.log_likelihood.shape == terms.kl.shape == (3,)
    np.testing.assert_allclose(terms.elbo, terms.log_likelihood - terms.kl, rtol=1e-6)
    np.testing.assert_array_equal(objective, terms.elbo)
    np.testing.assert_allclose(terms.kl, [0.5 * (0.49 + 0.25 - 1) - np.log(0.5)] * 3, rtol=1e-4)


def test_the_log_likelihood_is_that_of_the_drawn_latent(decode):
    noise = draws(3)
    _, terms = ELBO()(IMAGES, posterior(0.7, 0.5, 3), prior(), decode, noise)
    expected = decode(0.7 + 0.5 * noise).log_prob(IMAGES)
    np.testing.assert_allclose(terms.log_likelihood, expected, rtol=1e-4)


def test_an_example_does_not_depend_on_those_beside_it(decode):
    noise = draws(3)
    whole, _ = ELBO()(IMAGES, posterior(0.7, 0.5, 3), prior(), decode, noise)
    for row in range(3):
        one = slice(row, row + 1)
        alone, _ = ELBO()(IMAGES[one], posterior(0.7, 0.5, 1), prior(), decode, noise[one])
        np.testing.assert_allclose(alone[0], whole[row], rtol=1e-6)


def test_gradients_reach_every_weight():
    encoder = MLPEncoder(latent_dim=2, hidden=(5, 4))
    decoder = MLPDecoder(image_shape=(2, 2, 1), hidden=(5, 4))
    with tf.GradientTape() as tape:
        bound, _ = ELBO()(
            IMAGES,
            distributions.posterior(encoder(IMAGES)),
            prior(2),
            lambda z: distributions.likelihood(decoder(z)),
            draws(3, 2),
        )
        loss = -tf.reduce_mean(bound)
    weights = [*encoder.trainable_variables, *decoder.trainable_variables]
    assert len(weights) == 12
    for weight, gradient in zip(weights, tape.gradient(loss, weights), strict=True):
        assert gradient is not None, weight.path
        assert np.isfinite(gradient).all(), weight.path
        assert np.abs(gradient).max() > 0, weight.path


def test_the_elbo_comes_back_from_its_configuration():
    serialized = keras.saving.serialize_keras_object(ELBO())
    assert type(keras.saving.deserialize_keras_object(serialized)) is ELBO
