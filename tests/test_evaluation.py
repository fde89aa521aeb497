"""The figures of models whose log p(x) is known exactly."""

import gc
import itertools
import weakref

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.conftest import small_vae
from vae_keras import VAE, ContinuousBernoulli, MLPDecoder, MLPEncoder, evaluation
from vae_keras.distributions import tfd
from vae_keras.utils import checks

SHAPE = (3, 3, 1)


@pytest.fixture(scope="module")
def x():
    return np.random.default_rng(1).integers(0, 2, (24, *SHAPE)).astype(np.float32)


def bent(vae: VAE, seed: int = 0) -> VAE:
    """Replaces the small initial weights, so that the posterior is not exact."""
    rng = np.random.default_rng(seed)
    vae.set_weights([rng.normal(0.0, 0.7, w.shape).astype(np.float32) for w in vae.get_weights()])
    return vae


def planar_vae(likelihood=None) -> VAE:
    """Makes a model with two latents whose posterior is wider than the true one.

    A posterior narrower than the true one would give weights of unbounded variance, for which no
    standard error holds.
    """
    parts = MLPEncoder(2, hidden=(6,)), MLPDecoder(SHAPE, hidden=(6,))
    vae = bent(VAE(*parts, likelihood=likelihood))
    *hidden, kernel, _ = vae.encoder.get_weights()
    vae.encoder.set_weights([*hidden, 0.3 * kernel, np.array([0, 0, 1, 1], np.float32)])
    return vae


@pytest.fixture(scope="module")
def planar() -> VAE:
    """The planar model of binary pixels."""
    return planar_vae()


def by_quadrature(vae: VAE, x: np.ndarray) -> np.ndarray:
    """Computes log p(x) on a grid. The error of the trapezoid rule is far below float rounding."""
    line = np.linspace(-7.0, 7.0, 281)
    z = np.stack(np.meshgrid(line, line), -1).reshape(-1, 2)
    logits = vae.decoder(z.astype(np.float32)).numpy().astype(np.float64).reshape(len(z), -1)
    pixels = x.reshape(len(x), -1)
    if vae.likelihood.support == "unit_interval":
        log_normalizer = np.log(np.expm1(logits) / logits)
    else:
        log_normalizer = np.logaddexp(0.0, logits)
    log_likelihood = pixels @ logits.T - log_normalizer.sum(-1)
    log_prior = -0.5 * (z**2).sum(-1) - np.log(2 * np.pi)
    return np.logaddexp.reduce(log_likelihood + log_prior, axis=1) + 2 * np.log(line[1] - line[0])


@keras.saving.register_keras_serializable(package="tests")
class LinearGaussian(VAE):
    """p(z) = N(0, I), p(x | z) = N(W z + b, I / 4): log p(x) is a normal density."""

    def decode_distribution(self, latents, labels=None, training=False) -> tfd.Distribution:
        return tfd.Independent(tfd.Normal(self.decoder(latents), 0.5), 3)


def linear_gaussian() -> VAE:
    """Makes a model whose posterior has the exact mean and twice the exact scale.

    With the exact posterior every weight would be p(x). With a narrower one the variance of the
    weights would be unbounded.
    """
    vae = bent(LinearGaussian(MLPEncoder(2, hidden=()), MLPDecoder(SHAPE, hidden=())), seed=3)
    kernel, bias = (weight.numpy().astype(np.float64) for weight in vae.decoder.weights)
    precision = np.eye(2) + 4.0 * kernel @ kernel.T
    mean_map = 4.0 * np.linalg.solve(precision, kernel).T
    scale = 2.0 / np.sqrt(np.diag(precision))
    encoder_kernel = np.concatenate([mean_map, np.zeros_like(mean_map)], 1)
    encoder_bias = np.concatenate([-bias @ mean_map, np.log(np.expm1(scale - 1e-4))])
    vae.encoder.set_weights([encoder_kernel.astype(np.float32), encoder_bias.astype(np.float32)])
    return vae


def by_formula(vae: VAE, x: np.ndarray) -> np.ndarray:
    """Computes log p(x) of a linear-Gaussian model, in which x is N(b, W W^T + I / 4)."""
    kernel, bias = (weight.numpy().astype(np.float64) for weight in vae.decoder.weights)
    covariance = kernel.T @ kernel + 0.25 * np.eye(len(bias))
    gap = x.reshape(len(x), -1) - bias
    _, log_det = np.linalg.slogdet(2 * np.pi * covariance)
    return -0.5 * ((gap * np.linalg.solve(covariance, gap.T).T).sum(-1) + log_det)


@pytest.fixture(
    scope="module",
    params=[pytest.param("bernoulli", marks=pytest.mark.slow), "linear_gaussian"],
)
def known(request, planar, x) -> tuple[VAE, np.ndarray]:
    """A model whose log p(x) is known exactly, and log p(x)."""
    if request.param == "bernoulli":
        return planar, by_quadrature(planar, x)
    vae = linear_gaussian()
    return vae, by_formula(vae, x)


def require_converged(vae: VAE, x: np.ndarray, truth: np.ndarray) -> None:
    """Asserts that 5,000 samples give log p(x) within their standard error."""
    result = evaluation.estimate_log_likelihood(vae, x, 5000, verbose=False)
    # The Monte Carlo error of log mean w follows from the effective sample size. Its variance is
    # var w / (k mean(w)^2).
    spread = np.sqrt(1.0 / result.effective_sample_size - 1.0 / 5000)
    error = result.estimate.per_example - truth
    assert np.abs(error / spread).max() < 4.0
    assert abs(error.mean()) < 3.0 * np.sqrt((spread**2).sum()) / len(x)


def test_the_estimate_converges_to_the_truth_within_its_standard_error(known, x):
    require_converged(known[0], x, known[1])


def test_the_estimate_of_grey_images_converges_too(x):
    vae, grey = planar_vae(ContinuousBernoulli()), 0.9 * x + 0.05
    require_converged(vae, grey, by_quadrature(vae, grey))


def test_bounds_are_ordered_and_near_the_truth_with_k(known, x):
    """With 50,000 samples each difference is more than four times its standard error."""
    vae, truth = known
    result = evaluation.estimate_log_likelihood(vae, x, 50_000, verbose=False)
    assert list(result.curve) == [1, 10, 100, 1000, 5000, 50_000]
    elbo = evaluation.evaluate_elbo(vae, x, 2000).elbo.mean
    bounds = {k: result.curve[k].mean for k in (1, 10, 100)}
    error = np.sqrt((1.0 / result.effective_sample_size).sum()) / len(x)
    for lower, higher in itertools.pairwise([elbo, bounds[10], bounds[100], truth.mean()]):
        assert higher - lower > 4.0 * error
    assert bounds[1] == pytest.approx(elbo, abs=0.05)
    distance = {k: np.abs(e.per_example - truth).mean() for k, e in result.curve.items()}
    assert distance[1] > distance[10] > distance[100] > distance[5000]


def test_order_chunks_and_batches_change_nothing(planar, x):
    expected = evaluation.estimate_log_likelihood(planar, x, 120, verbose=False)
    order = np.random.default_rng(0).permutation(len(x))
    permuted = evaluation.estimate_log_likelihood(planar, x[order], 120, verbose=False)
    np.testing.assert_allclose(
        permuted.estimate.per_example, expected.estimate.per_example[order], rtol=1e-5
    )
    for chunk, batch in ((7, 5), (120, 1), (50, 24), (1000, 1000)):
        other = evaluation.estimate_log_likelihood(
            planar, x, 120, chunk_size=chunk, batch_size=batch, verbose=False
        )
        for k in (1, 10, 100, 120):
            np.testing.assert_allclose(
                other.curve[k].per_example, expected.curve[k].per_example, rtol=1e-5
            )
        np.testing.assert_allclose(
            other.effective_sample_size, expected.effective_sample_size, rtol=1e-4
        )


def test_a_kernel_holds_few_rows_whatever_the_batch(planar, x, monkeypatch):
    """The decoder gets at most 1,000 rows at a time, also for a batch that is no multiple of 3."""
    rows, decode = [], planar.decode_distribution

    def watched(latents, **training):
        rows.append(int(np.prod(latents.shape[:-1])))
        return decode(latents, **training)

    monkeypatch.setattr(planar, "decode_distribution", watched)
    evaluation.estimate_log_likelihood(planar, x, 300, batch_size=23, verbose=False)
    assert rows
    assert max(rows) <= 1000


def test_seeds_reproduce_and_differ(planar, x):
    def estimate(seed):
        result = evaluation.estimate_log_likelihood(planar, x, 20, seed=seed, verbose=False)
        return result.estimate.mean

    assert estimate(0) == estimate(0)
    assert estimate(0) != estimate(1)


def test_one_sample_has_an_effective_size_of_one(planar, x):
    result = evaluation.estimate_log_likelihood(planar, x, 1, verbose=False)
    np.testing.assert_allclose(result.effective_sample_size, 1.0, rtol=1e-6)
    assert list(result.curve) == [1]


def test_effective_size_is_all_samples_when_the_posterior_is_exact(x):
    """All weights are equal if the decoder ignores z and the posterior is the prior."""
    vae = VAE(MLPEncoder(2, hidden=()), MLPDecoder(SHAPE, hidden=()))
    raw = np.log(np.expm1(1.0 - 1e-4))
    kernel, bias = vae.encoder.get_weights()
    vae.encoder.set_weights([0 * kernel, np.array([0, 0, raw, raw], np.float32) + 0 * bias])
    vae.decoder.set_weights([0 * weight for weight in vae.decoder.get_weights()])
    result = evaluation.estimate_log_likelihood(vae, x, 200, verbose=False)
    np.testing.assert_allclose(result.effective_sample_size, 200.0, rtol=1e-3)
    np.testing.assert_allclose(result.estimate.per_example, -9 * np.log(2), rtol=1e-5)


@pytest.mark.parametrize("chunk", [1, 7, 33, 100])
@pytest.mark.parametrize("k", [1, 3, 10, 40])
def test_groups_of_samples_are_reduced_exactly_for_any_chunk(k, chunk):
    values = 900.0 * np.random.default_rng(0).normal(size=(3, 100))  # exp(900) overflows
    whole = values[:, : 100 // k * k].reshape(3, -1, k)
    unfinished, found = np.full(3, -np.inf), []
    for first in range(0, 100, chunk):
        part = values[:, first : first + chunk]
        sums, unfinished = evaluation._group_log_sums(part, first, k, unfinished)
        found.append(sums)
    expected = np.logaddexp.reduce(whole, axis=-1)
    np.testing.assert_allclose(np.concatenate(found, axis=1), expected, rtol=1e-12)


def test_memory_does_not_grow_with_the_number_of_samples(planar, x, monkeypatch):
    """Every array of log weights has the size of a chunk."""
    sizes, reduce = set(), evaluation._segment_log_sums

    def watched(values, starts):
        sizes.add(values.shape)
        return reduce(values, starts)

    monkeypatch.setattr(evaluation, "_segment_log_sums", watched)
    evaluation.estimate_log_likelihood(planar, x, 2000, chunk_size=100, verbose=False)
    assert sizes == {(20, 100)}


@pytest.mark.parametrize("jit_compile", [False, True], ids=["plain", "xla"])
def test_an_evaluated_model_is_freed(x, jit_compile, monkeypatch):
    monkeypatch.setattr(VAE, "xla_pays", lambda _: jit_compile)
    vae = planar_vae()
    first = evaluation.estimate_log_likelihood(vae, x, 20, verbose=False).estimate.mean
    again = evaluation.estimate_log_likelihood(vae, x, 20, verbose=False).estimate.mean
    evaluation.evaluate_elbo(vae, x)
    evaluation.active_units(vae, x)
    assert again == first
    model, decoder = weakref.ref(vae), weakref.ref(vae.decoder)
    del vae
    gc.collect()
    assert model() is None
    assert decoder() is None


def test_a_second_estimate_compiles_nothing(planar, x, monkeypatch):
    evaluation.estimate_log_likelihood(planar, x, 20, verbose=False)
    monkeypatch.setattr(evaluation, "_compile_log_weights", None)
    evaluation.estimate_log_likelihood(planar, x, 20, seed=1, verbose=False)


def test_every_figure_takes_what_fit_takes(planar, x):
    batches = tf.data.Dataset.from_tensor_slices((x, np.zeros(len(x)))).batch(7)
    for form in ((x, np.zeros(len(x))), batches):
        for measure in (
            lambda x: evaluation.estimate_log_likelihood(planar, x, 20, verbose=False).estimate,
            lambda x: evaluation.evaluate_elbo(planar, x).elbo,
        ):
            np.testing.assert_allclose(measure(form).per_example, measure(x).per_example, rtol=1e-6)
        assert evaluation.active_units(planar, form).count == 2


def test_the_difference_estimate_adds_the_mean_gain(planar):
    """The error has two sources: the spread of the gain among the refined images, and the noise of
    the few samples."""
    x = np.random.default_rng(2).integers(0, 2, (200, *SHAPE)).astype(np.float32)
    full = evaluation.estimate_log_likelihood(planar, x, 5000, verbose=False)
    result = evaluation.estimate_by_difference(planar, x, 5000, 50, verbose=False)
    assert list(result.curve) == [1, 10, 100, 1000, 5000]
    assert (result.num_samples, result.num_refined) == (5000, 50)
    assert result.estimate.mean == pytest.approx(result.estimate.per_example.mean())
    assert len(result.effective_sample_size) == 50
    few = evaluation.estimate_log_likelihood(planar, x, 100, verbose=False).estimate
    gain = full.estimate.per_example - full.curve[100].per_example
    noise = (
        few.per_example - full.curve[100].per_example
    )  # the noise of 100 samples, which every image keeps
    error = np.sqrt(gain.var() / 50 + noise.var() / 200)
    assert abs(result.estimate.mean - full.estimate.mean) < 4.0 * error
    assert error < 0.3 * full.estimate.standard_error
    assert result.estimate.standard_error == pytest.approx(full.estimate.standard_error, rel=0.1)


def test_the_standard_error_of_the_difference_estimate_is_its_spread():
    """The mean over 2,000 populations of 100 images, of which 20 are refined."""
    rng, rows = np.random.default_rng(0), np.arange(20) * 5
    means, errors = [], []

    def likelihood(curve: dict[int, np.ndarray]) -> evaluation.LogLikelihood:
        estimates = {k: evaluation.Estimate.of(values) for k, values in curve.items()}
        return evaluation.LogLikelihood(
            estimates[max(curve)], np.ones(1), estimates, max(curve), seed=0, seconds=0.0
        )

    for _ in range(2000):
        hardness, noise = rng.normal(size=(2, 100))
        gain = 2.0 - 0.5 * hardness + rng.normal(size=100)
        few = likelihood({100: -90.0 + hardness + 0.3 * noise})
        full = likelihood({100: -90.0 + hardness[rows], 5000: -90.0 + (hardness + gain)[rows]})
        estimate = evaluation._raised(few, full, 5000, rows)
        means.append(estimate.mean)
        errors.append(estimate.standard_error**2)
    assert np.mean(means) == pytest.approx(-88.0, abs=4 * np.std(means) / np.sqrt(2000))
    assert np.sqrt(np.mean(errors)) == pytest.approx(np.std(means), rel=0.05)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"num_samples": 100}, "num_samples must be a whole number from 101"),
        ({"num_refined": 1}, "num_refined must be a whole number from 2 to 24"),
        ({"num_refined": 25}, "num_refined must be a whole number from 2 to 24"),
    ],
)
def test_a_difference_needs_few_and_all_samples(planar, x, arguments, sentence):
    with pytest.raises(checks.InputError, match=sentence):
        evaluation.estimate_by_difference(planar, x, verbose=False, **arguments)


def test_elbo_is_minus_rate_minus_distortion(planar, x):
    terms = evaluation.evaluate_elbo(planar, x, 3)
    assert terms.elbo.mean == pytest.approx(-terms.rate.mean - terms.distortion.mean, rel=1e-6)
    assert evaluation.rate_distortion(planar, x, 3) == (terms.rate.mean, terms.distortion.mean)
    assert terms.elbo.standard_error == pytest.approx(
        terms.elbo.per_example.std(ddof=1) / np.sqrt(len(x))
    )
    assert terms.elbo.per_example.shape == (24,)


def test_active_units_finds_the_dimensions_that_vary(x):
    vae = bent(VAE(MLPEncoder(4, hidden=()), MLPDecoder(SHAPE, hidden=())))
    kernel, bias = vae.encoder.get_weights()
    kernel[:, 2] = 0.0  # loc of dimension 2 is constant
    vae.encoder.set_weights([kernel, bias])
    units = evaluation.active_units(vae, x)
    assert units.count == 3
    assert units.variance[2] == pytest.approx(0.0, abs=1e-10)
    rate = evaluation.evaluate_elbo(vae, x).rate.mean
    assert units.kl.sum() == pytest.approx(rate, rel=1e-5)


@pytest.mark.parametrize(
    ("change", "arguments", "sentence"),
    [
        (lambda x: x * 0.5, {}, "needs binary pixels, 0 and 1"),
        (lambda x: x * np.nan, {}, "must be finite"),
        (lambda x: x[:0], {}, "at least one image"),
        (lambda x: x[:, :2], {}, "must hold images of the model.s shape"),
        (lambda x: x, {"num_samples": 0}, "num_samples must be a whole number from 1"),
        (lambda x: x, {"num_samples": 2.5}, "num_samples must be a whole number from 1"),
        (lambda x: x, {"chunk_size": 0}, "chunk_size must be"),
        (lambda x: x, {"batch_size": -1}, "batch_size must be"),
        (lambda x: x, {"seed": -1}, "seed must be"),
    ],
)
def test_what_would_mislead_is_refused(planar, x, change, arguments, sentence):
    with pytest.raises(checks.InputError, match=sentence):
        evaluation.estimate_log_likelihood(planar, change(x), verbose=False, **arguments)


def test_bytes_0_and_255_are_binary(digits):
    vae = small_vae()
    binary = np.where(digits > 127, 255, 0).astype(np.uint8)
    floats = (binary / 255).astype(np.float32)
    results = [
        evaluation.estimate_log_likelihood(vae, images[:4], 10, verbose=False).estimate.mean
        for images in (binary, floats)
    ]
    assert results[0] == results[1]


def test_a_second_estimate_sees_new_weights(x):
    """The compiled kernel is kept between calls."""

    def fresh(seed: int) -> VAE:
        return bent(VAE(MLPEncoder(2, hidden=(6,)), MLPDecoder(SHAPE, hidden=(6,))), seed)

    def estimate(model: VAE) -> np.ndarray:
        return evaluation.estimate_log_likelihood(model, x, 20, verbose=False).estimate.per_example

    vae, another = fresh(0), fresh(1)
    first = estimate(vae)
    np.testing.assert_array_equal(estimate(vae), first)
    vae.set_weights(another.get_weights())
    np.testing.assert_array_equal(estimate(vae), estimate(another))
    assert np.abs(estimate(vae) - first).max() > 0.1


def test_an_estimate_stops_where_an_error_does(x, planar, monkeypatch):
    """An interrupt does not wait for the remaining images."""
    begun = []

    def failing(image: np.ndarray) -> int:
        begun.append(image)
        raise KeyboardInterrupt

    monkeypatch.setattr(evaluation, "_identity", failing)
    with pytest.raises(KeyboardInterrupt):
        evaluation.estimate_log_likelihood(planar, x, 20, batch_size=1, verbose=False)
    assert len(begun) < len(x)
