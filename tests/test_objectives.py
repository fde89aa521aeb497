"""The ELBO against log p(x) by quadrature on a one-dimensional latent."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from vae_keras import distributions, inference
from vae_keras.networks import MLPDecoder, MLPEncoder
from vae_keras.objectives import ELBO, IWAE, Terms
from vae_keras.utils import checks

DRAWS = 20000
GRID = np.linspace(-10.0, 10.0, 8001)
IMAGES = np.array([[1, 0, 0, 1], [0, 1, 1, 1], [0, 0, 0, 0]], np.float32).reshape(3, 2, 2, 1)


@pytest.fixture(scope="module")
def decode():
    """p(x | z) of four pixels that depend strongly on one latent."""
    decoder = MLPDecoder(image_shape=(2, 2, 1), hidden=(5,), seed=1)
    decoder.build((None, 1))
    decoder.set_weights([2.0 * weight + 0.3 for weight in decoder.get_weights()])

    def decode(z):  # [..., 1], as VAE.likelihood takes them
        logits = decoder(tf.reshape(z, [-1, 1]))
        return distributions.Bernoulli().distribution(tf.reshape(logits, [*z.shape[:-1], 2, 2, 1]))

    return decode


def posterior(loc, scale, rows: int) -> distributions.tfd.Distribution:
    raw = np.log(np.expm1(scale - distributions.SCALE_FLOOR))
    return distributions.posterior(np.tile(np.float32([[loc, raw]]), (rows, 1)))


def prior(latent_dim: int = 1) -> distributions.tfd.Distribution:
    return distributions.StandardNormal().distribution(latent_dim)


def measure(objective, x, q, p, decode, noise, step=None) -> tuple[tf.Tensor, Terms]:
    """The objective of images under a flat posterior."""
    return objective(x, inference.flat(q, p, decode), noise, step)


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
    elbo, _ = measure(ELBO(), x, posterior(loc, scale, DRAWS), prior(), decode, draws(DRAWS))
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
        return distributions.Bernoulli().distribution(
            tf.tile(logits[np.newaxis], [len(z), 1, 1, 1])
        )

    elbo, _ = measure(ELBO(), IMAGES, posterior(0.0, 1.0, 3), prior(), decode, draws(3))
    expected = [log_evidence(decode, image) for image in IMAGES]
    np.testing.assert_allclose(elbo, expected, rtol=1e-5)


def test_the_terms_add_up_and_are_per_example(decode):
    objective, terms = measure(ELBO(), IMAGES, posterior(0.7, 0.5, 3), prior(), decode, draws(3))
    assert isinstance(terms, Terms)
    assert terms.elbo.shape == terms.log_likelihood.shape == terms.kl.shape == (3,)
    np.testing.assert_allclose(terms.elbo, terms.log_likelihood - terms.kl, rtol=1e-6)
    np.testing.assert_array_equal(objective, terms.elbo)
    np.testing.assert_allclose(terms.kl, [0.5 * (0.49 + 0.25 - 1) - np.log(0.5)] * 3, rtol=1e-4)


def test_the_log_likelihood_is_that_of_the_drawn_latent(decode):
    noise = draws(3)
    _, terms = measure(ELBO(), IMAGES, posterior(0.7, 0.5, 3), prior(), decode, noise)
    expected = decode(0.7 + 0.5 * noise).log_prob(IMAGES)
    np.testing.assert_allclose(terms.log_likelihood, expected, rtol=1e-4)


def test_an_example_does_not_depend_on_those_beside_it(decode):
    noise = draws(3)
    whole, _ = measure(ELBO(), IMAGES, posterior(0.7, 0.5, 3), prior(), decode, noise)
    for row in range(3):
        one = slice(row, row + 1)
        alone, _ = measure(ELBO(), IMAGES[one], posterior(0.7, 0.5, 1), prior(), decode, noise[one])
        np.testing.assert_allclose(alone[0], whole[row], rtol=1e-6)


def test_gradients_reach_every_weight():
    encoder = MLPEncoder(latent_dim=2, hidden=(5, 4))
    decoder = MLPDecoder(image_shape=(2, 2, 1), hidden=(5, 4))
    with tf.GradientTape() as tape:
        bound, _ = measure(
            ELBO(),
            IMAGES,
            distributions.posterior(encoder(IMAGES)),
            prior(2),
            lambda z: distributions.Bernoulli().distribution(decoder(z)),
            draws(3, 2),
        )
        loss = -tf.reduce_mean(bound)
    weights = [*encoder.trainable_variables, *decoder.trainable_variables]
    assert len(weights) == 12
    for weight, gradient in zip(weights, tape.gradient(loss, weights), strict=True):
        assert gradient is not None, weight.path
        assert np.isfinite(gradient).all(), weight.path
        assert np.abs(gradient).max() > 0, weight.path


@pytest.mark.parametrize(
    "objective",
    [ELBO(), ELBO(4.0, warmup_steps=9), IWAE(7), IWAE(7, 2)],
    ids=["elbo", "weighted", "iwae", "resampled"],
)
def test_an_objective_comes_back_from_its_configuration(objective):
    serialized = keras.saving.serialize_keras_object(objective)
    again = keras.saving.deserialize_keras_object(serialized)
    assert type(again) is type(objective)
    assert again.get_config() == objective.get_config()


def test_a_configuration_from_before_there_were_weights_is_the_plain_elbo():
    assert ELBO.from_config({}).get_config() == ELBO().get_config()


# -------------------------------------------------------------------------- the weight of the KL


def test_the_weight_rises_linearly_and_stays():
    objective = ELBO(beta=3.0, warmup_steps=4)
    weights = [float(objective.kl_weight(tf.constant(step))) for step in (0, 1, 2, 4, 5, 10**9)]
    assert weights == [0.0, 0.75, 1.5, 3.0, 3.0, 3.0]
    assert objective.kl_weight(None) == 3.0
    assert ELBO(3.0).kl_weight(tf.constant(0)) == 3.0


def test_the_weight_is_in_the_objective_and_not_in_the_terms(decode):
    arguments = IMAGES, posterior(0.7, 0.5, 3), prior(), decode, draws(3)
    _, plain = measure(ELBO(), *arguments)
    objective = ELBO(beta=3.0, warmup_steps=4)
    for step, weight in ((None, 3.0), (tf.constant(0), 0.0), (tf.constant(2), 1.5)):
        weighted, terms = measure(objective, *arguments, step)
        np.testing.assert_allclose(weighted, plain.log_likelihood - weight * plain.kl, rtol=1e-6)
        for ours, theirs in zip(terms, plain, strict=True):
            np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("beta", [0.25, 1.0, 4.0])
def test_the_gradient_vanishes_at_the_tempered_posterior(beta):
    """For x = z + 0.5 noise the best normal q has precision 1 + 4 / beta, and mean (4 / beta) x."""
    precision = 1.0 + 4.0 / beta
    x, loc, scale = 0.8, 0.8 * 4.0 / beta / precision, precision**-0.5
    normal = distributions.tfd.Normal

    def decode(z):
        return distributions.tfd.Independent(normal(z, 0.5), 1)

    loc, scale = tf.constant([[loc]] * 2), tf.constant([[scale]] * 2)
    with tf.GradientTape() as tape:
        tape.watch([loc, scale])
        q = distributions.tfd.Independent(normal(loc, scale), 1)
        # Draws one scale above and below have the moments of all draws.
        weighted, _ = measure(
            ELBO(beta), np.full((2, 1), x), q, prior(), decode, np.float32([[1], [-1]])
        )
        total = tf.reduce_sum(weighted)
    for gradient in tape.gradient(total, [loc, scale]):
        np.testing.assert_allclose(tf.reduce_sum(gradient), 0.0, atol=1e-5)


@pytest.mark.parametrize("arguments", [{"beta": 0}, {"beta": np.nan}, {"warmup_steps": -1}])
def test_a_weight_that_is_none_is_refused(arguments):
    with pytest.raises(checks.InputError, match=f"{next(iter(arguments))} must be"):
        ELBO(**arguments)


# ---------------------------------------------------------------------- importance weighting


def importance_bounds(decode, image, k: int, repeats: int = 4000) -> np.ndarray:
    x = np.repeat(image[np.newaxis], repeats, axis=0)
    q = posterior(0.2, 0.8, repeats)
    return measure(IWAE(k), x, q, prior(), decode, draws(repeats, k))[0].numpy().astype(np.float64)


@pytest.mark.parametrize("image", IMAGES, ids=["diagonal", "three", "empty"])
def test_the_bound_rises_with_k_towards_log_p(decode, image):
    bounds = [importance_bounds(decode, image, k) for k in (1, 10, 100)]
    means = [bound.mean() for bound in bounds]
    errors = [bound.std() / np.sqrt(len(bound)) for bound in bounds]
    log_p = log_evidence(decode, image)
    assert means[0] < means[1] < means[2] <= log_p + 4 * errors[2]
    assert log_p - means[2] < 0.02


def test_one_sample_is_the_elbo_with_a_sampled_kl(decode):
    x, noise = np.repeat(IMAGES, 4000, axis=0), draws(12000)
    bound, terms = measure(IWAE(1), x, posterior(0.7, 0.5, 12000), prior(), decode, noise)
    _, expected = measure(ELBO(), x, posterior(0.7, 0.5, 12000), prior(), decode, noise)
    for ours, theirs in zip(terms, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5)
    gap = bound.numpy() - terms.elbo.numpy()
    assert abs(gap.mean()) < 4 * gap.std() / np.sqrt(len(gap))


def test_the_terms_are_means_over_the_draws(decode):
    noise = draws(3, 4)
    _, terms = measure(IWAE(4), IMAGES, posterior(0.7, 0.5, 3), prior(), decode, noise)
    each = [
        measure(ELBO(), IMAGES, posterior(0.7, 0.5, 3), prior(), decode, noise[:, k : k + 1])[
            1
        ].elbo
        for k in range(4)
    ]
    np.testing.assert_allclose(terms.elbo, np.mean(each, axis=0), rtol=1e-5)


def bound_gradients(objective, rows: int, plain: bool = False, noise=None):
    """Gradients of the mean bound of one image in the posterior's parameters and the decoder's."""
    k, x = 5, np.repeat(IMAGES[:1], rows, axis=0)
    parameters, weight = tf.Variable([[0.4, -0.3]]), tf.Variable([[1.5, -0.5, 1.0, 2.0]])
    noise = draws(rows, k) if noise is None else noise

    def decode(z):
        logits = tf.reshape(z @ weight, tf.concat([tf.shape(z)[:-1], [2, 2, 1]], 0))
        return distributions.Bernoulli().distribution(logits)

    with tf.GradientTape() as tape:
        q = distributions.posterior(tf.repeat(parameters, rows, axis=0))
        if plain:  # the bound as autodiff sees it
            each = q[:, tf.newaxis]
            z = distributions.reparameterize(each, noise[..., np.newaxis])
            log_weight = decode(z).log_prob(x[:, np.newaxis]) + prior().log_prob(z)
            bound = tf.reduce_logsumexp(log_weight - each.log_prob(z), axis=1) - np.log(k)
        else:
            bound = measure(objective, x, q, prior(), decode, noise)[0]
        loss = tf.reduce_mean(bound)
    return [gradient.numpy() for gradient in tape.gradient(loss, [parameters, weight])]


def test_the_decoders_gradient_is_the_bounds_own():
    ours, plain = bound_gradients(IWAE(5), 200), bound_gradients(IWAE(5), 200, plain=True)
    np.testing.assert_allclose(ours[1], plain[1], rtol=1e-4)


def test_the_encoders_gradient_has_the_expectation_of_the_bounds_own():
    ours, plain = bound_gradients(IWAE(5), 200_000), bound_gradients(IWAE(5), 200_000, plain=True)
    assert not np.allclose(ours[0], plain[0], rtol=1e-4, atol=0)  # another estimator ...
    np.testing.assert_allclose(ours[0], plain[0], rtol=0.05)  # ... of the same gradient


def test_the_encoders_gradient_vanishes_at_the_true_posterior():
    # The decoder ignores z, so the prior is the true posterior: every draw's gradient is 0,
    # which the plain estimator only reaches in the mean.
    logits, noise = np.zeros((2, 2, 1), np.float32), draws(3, 5)

    def decode(z):
        shape = tf.concat([tf.shape(z)[:-1], [2, 2, 1]], 0)
        return distributions.Bernoulli().distribution(tf.broadcast_to(logits, shape))

    raw = np.float32(np.log(np.expm1(1.0 - distributions.SCALE_FLOOR)))
    parameters = tf.Variable(np.tile([[np.float32(0.0), raw]], (3, 1)))
    with tf.GradientTape() as tape:
        q = distributions.posterior(parameters)
        bound, _ = measure(IWAE(5), IMAGES, q, prior(), decode, noise)
    np.testing.assert_allclose(tape.gradient(bound, parameters), np.zeros((3, 2)), atol=1e-6)


def test_a_count_of_samples_below_one_is_refused():
    with pytest.raises(checks.InputError, match=r"num_samples must be .*Received: 0"):
        IWAE(0)
    with pytest.raises(checks.InputError, match=r"num_resampled must be .* 1 to 5. Received: 6"):
        IWAE(5, num_resampled=6)


def test_resampling_leaves_the_bound_and_its_terms(decode):
    noise = draws(3, 4)
    place = np.zeros((3, 1), np.float32)
    of_all = measure(IWAE(4), IMAGES, posterior(0.7, 0.5, 3), prior(), decode, noise)
    resampled = measure(
        IWAE(4, 2),
        IMAGES,
        posterior(0.7, 0.5, 3),
        prior(),
        decode,
        np.concatenate([noise, place], axis=1),
    )
    for ours, theirs in zip(tf.nest.flatten(resampled), tf.nest.flatten(of_all), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-6)
    assert IWAE(4, 2).noise_size(3) == 13
    assert IWAE(4).noise_size(3) == 12


@pytest.mark.parametrize("num_resampled", [1, 2, 5])
def test_resampling_leaves_the_gradients_expectation(num_resampled):
    """Over all places of the grid of picks, the gradient is that through all draws."""
    rows = 4000
    places = tf.math.ndtri((np.arange(rows, dtype=np.float32) + 0.5) / rows)[:, np.newaxis]

    def gradients(objective, *extra):
        noise = np.concatenate([np.repeat(draws(1, 5), rows, axis=0), *extra], axis=1)
        return bound_gradients(objective, rows, noise=noise)

    of_all = gradients(IWAE(5))
    for ours, theirs in zip(gradients(IWAE(5, num_resampled), places), of_all, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=2e-3, atol=2e-4)
