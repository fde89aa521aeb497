"""The learned prior: its density, its draws and its initial state."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.conftest import covering
from vae_keras import ELBO, IWAE, VAE, MLPDecoder, MLPEncoder, distributions, evaluation, export
from vae_keras.priors import AutoregressiveFlow
from vae_keras.utils import checks


def moved(latent_dim: int, deviation: float = 0.3, **arguments) -> AutoregressiveFlow:
    """A flow with random weights, far from N(0, I)."""
    flow = AutoregressiveFlow(**({"depth": 2, "hidden": (16,)} | arguments))
    flow.build((None, latent_dim))
    rng = np.random.default_rng(0)
    flow.set_weights([rng.normal(0, deviation, w.shape).astype(np.float32) for w in flow.weights])
    return flow


def normal(rows: int, size: int) -> tf.Tensor:
    return tf.constant(np.random.default_rng(1).standard_normal((rows, size)), tf.float32)


def test_a_fresh_flow_is_the_standard_normal():
    z = normal(7, 5)
    flow = AutoregressiveFlow()
    np.testing.assert_array_equal(flow.transform(z), z[:, ::-1])  # three reversals
    standard = distributions.StandardNormal().distribution(5)
    np.testing.assert_allclose(flow.distribution(5).log_prob(z), standard.log_prob(z), rtol=1e-6)


def test_the_density_integrates_to_one():
    points = np.linspace(-12, 12, 301)
    grid = np.stack(np.meshgrid(points, points), axis=-1).reshape(-1, 2).astype(np.float32)
    density = np.exp(moved(2).distribution(2).log_prob(grid).numpy().astype(np.float64))
    assert density.sum() * (points[1] - points[0]) ** 2 == pytest.approx(1.0, abs=1e-3)


@pytest.mark.parametrize(("latent_dim", "hidden"), covering([1, 2, 5], [[], [16], [8, 12]]))
def test_log_prob_is_that_of_the_noise_and_the_jacobian(latent_dim, hidden):
    flow, noise = moved(latent_dim, hidden=hidden), normal(4, latent_dim)
    with tf.GradientTape() as tape:
        tape.watch(noise)
        z = flow.transform(noise)
    jacobian = tape.batch_jacobian(z, noise)
    base = distributions.StandardNormal().distribution(latent_dim).log_prob(noise)
    expected = base - tf.linalg.slogdet(jacobian).log_abs_determinant
    np.testing.assert_allclose(flow.distribution(latent_dim).log_prob(z), expected, atol=1e-4)


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_every_dimension_depends_on_every_other_from_two_flows_on(depth):
    flow, noise = moved(4, depth=depth), normal(1, 4)
    with tf.GradientTape() as tape:
        tape.watch(noise)
        z = flow.transform(noise)
    seen = tape.batch_jacobian(z, noise)[0].numpy() != 0
    if depth == 1:
        np.testing.assert_array_equal(seen, np.tril(np.ones((4, 4), bool)))
    else:
        assert seen.sum() == 16


def test_a_wild_network_keeps_the_density_finite():
    flow = moved(5, deviation=100.0)
    assert np.isfinite(flow.distribution(5).log_prob(100.0 * normal(9, 5))).all()


def test_the_kl_without_a_closed_form_is_right_in_expectation():
    """A fresh flow is N(0, I), so its estimated KL must agree with the closed form."""
    posterior = distributions.posterior(tf.constant([[0.5, -1.0, 0.3, -2.0]]))
    noise = normal(20_000, 2)
    z = distributions.reparameterize(posterior, noise)
    standard = distributions.StandardNormal().distribution(2)
    exact = distributions.kl_divergence(posterior, standard, z)
    draws = distributions.kl_divergence(posterior, AutoregressiveFlow().distribution(2), z).numpy()
    error = float(draws.std() / len(draws) ** 0.5)
    assert exact.shape == (1,)
    assert float(draws.mean()) == pytest.approx(float(exact[0]), abs=4 * error)


def model(objective, prior) -> VAE:
    return VAE(MLPEncoder(3, (16,)), MLPDecoder((6, 5, 1), (16,)), prior=prior, objective=objective)


@pytest.mark.parametrize(
    ("objective", "jit_compile"),
    [
        pytest.param(ELBO(), False, id="elbo", marks=pytest.mark.slow),
        pytest.param(IWAE(4), False, id="iwae"),
        pytest.param(IWAE(4), True, id="iwae, XLA", marks=pytest.mark.slow),
        pytest.param(IWAE(4, num_resampled=2), False, id="resampled", marks=pytest.mark.slow),
    ],
)
def test_a_fresh_flow_changes_no_bound_and_then_learns(objective, jit_compile):
    x = np.random.default_rng(0).integers(0, 256, (40, 6, 5), dtype=np.uint8)
    vae = model(objective, AutoregressiveFlow(2, (16,)))
    plain = model(objective, None)
    images, noise = tf.cast(x[..., None] > 127, tf.float32), normal(40, objective.noise_size(3))
    bounds = [m.bound(images, noise)[0] for m in (vae, plain)]
    if not isinstance(objective, ELBO):  # only the standard normal has a KL in closed form
        np.testing.assert_allclose(*bounds, rtol=1e-5)
    before = vae.prior.get_weights()
    vae.compile(keras.optimizers.Adam(0.01), jit_compile=jit_compile)
    logs = vae.fit(x, batch_size=10, epochs=20, verbose=0).history
    assert logs["elbo"][-1] > logs["elbo"][0]
    for old, new in zip(before, vae.prior.get_weights(), strict=True):
        assert not np.array_equal(old, new)


@pytest.mark.slow
def test_a_learned_prior_survives_saving_and_has_its_figures(tmp_path):
    x = np.random.default_rng(0).integers(0, 256, (20, 6, 5), dtype=np.uint8)
    vae = model(ELBO(), moved(3))
    vae.compile(jit_compile=False)
    vae.fit(x, batch_size=10, epochs=1, verbose=0)
    vae.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    assert again.prior.get_config() == vae.prior.get_config()
    np.testing.assert_array_equal(again.sample(4), vae.sample(4))
    assert not np.array_equal(vae.prior_latents(4), model(ELBO(), None).prior_latents(4))
    binary = (x > 127).astype(np.float32)
    elbo = evaluation.evaluate_elbo(vae, binary, 400).elbo.mean
    bound = evaluation.estimate_log_likelihood(vae, binary, 400, verbose=False)
    assert elbo < bound.curve[10].mean < bound.curve[100].mean < bound.estimate.mean
    assert evaluation.active_units(vae, binary).kl is None


@pytest.mark.slow  # the family's fast tests serve one
def test_a_learned_prior_is_served(tmp_path):
    vae = model(ELBO(), moved(3))
    served = tf.saved_model.load(str(export.export_saved_model(vae, tmp_path))).signatures
    seeds = tf.constant([[0, row] for row in range(4)])
    drawn = served["sample"](seeds=seeds)
    np.testing.assert_allclose(drawn["latents"], vae.prior_latents(4, seed=0), atol=1e-6)
    np.testing.assert_allclose(drawn["probabilities"], vae.sample(4, seed=0), atol=1e-6)
    x = np.eye(6, 5, dtype=np.float32)[np.newaxis, ..., np.newaxis]
    scored = served["score"](images=tf.constant(x), seeds=seeds[:1])
    np.testing.assert_allclose(scored["elbo"], vae.elbo(x, seed=0).elbo, rtol=1e-5)


@pytest.mark.parametrize("arguments", [{"depth": 0}, {"hidden": (0,)}, {"activation": "no"}])
def test_bad_arguments_are_refused(arguments):
    with pytest.raises(checks.InputError):
        AutoregressiveFlow(**arguments)


@pytest.fixture
def half_precision():
    keras.config.set_dtype_policy("float16")
    yield
    keras.config.set_dtype_policy("float32")


def test_weights_of_another_precision_are_refused(half_precision):
    with pytest.raises(checks.InputError, match=r"in float32\. Received: dtype 'float16'"):
        AutoregressiveFlow()
    with pytest.raises(checks.InputError, match=r"in float32\. Received: dtype 'float64'"):
        AutoregressiveFlow(dtype="float64")
    assert AutoregressiveFlow(dtype="mixed_float16").variable_dtype == "float32"
