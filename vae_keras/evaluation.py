"""Test-set figures one can trust: ELBO, importance-weighted log-likelihood, active units.

Every figure is in nats per image, per example first and reduced once, with a standard error over
images. Noise is keyed by the image's own pixels and the sample's index, so neither the order of
the images nor the sizes of chunks and batches change a figure beyond float error; only which images
`estimate_by_difference` refines goes by their place.
"""

from __future__ import annotations

import concurrent.futures
import functools
import hashlib
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from vae_keras import checks, data, noise
from vae_keras.model import VAE, require_built
from vae_keras.priors import StandardNormal

ACTIVE_THRESHOLD = 0.01  # variance of a posterior mean over the data, as Burda et al. set it
CURVE = (1, 10, 100, 1000, 5000)
FEW = 100  # samples for each image where only some take all of them
_THREADS = 2  # one computes while the other draws noise or waits: 0.77 of one's time on two cores
_KERNEL_ROWS = 1000  # decoder rows at a time; 200 and 500 were level


@dataclass(frozen=True)
class Estimate:
    """A mean over images with its standard error, and the values it is the mean of."""

    mean: float
    standard_error: float
    per_example: np.ndarray

    @classmethod
    def of(cls, per_example: np.ndarray) -> Estimate:
        """Reduces values [N] in float64."""
        values = np.asarray(per_example, np.float64)
        error = values.std(ddof=1) / math.sqrt(len(values)) if len(values) > 1 else math.nan
        return cls(float(values.mean()), float(error), values)


@dataclass(frozen=True)
class LogLikelihood:
    """An importance-weighted estimate of log p(x).

    Attributes:
        estimate: log p(x) from all samples, nats per image.
        effective_sample_size: (sum w)^2 / sum w^2 of each image that took all samples, [N], from
            1 to num_samples.
        curve: k to the bound from k samples (IWAE-k), for each k <= num_samples; each is a mean
            over all disjoint groups of k samples.
        num_samples: importance samples an image.
        seed: of the noise.
        seconds: wall time.
        num_refined: how many images took all samples, or None for every one, see
            `estimate_by_difference`.
    """

    estimate: Estimate
    effective_sample_size: np.ndarray
    curve: dict[int, Estimate]
    num_samples: int
    seed: int
    seconds: float
    num_refined: int | None = None


@dataclass(frozen=True)
class ElboTerms:
    """The ELBO and its terms: rate is the KL, distortion the negative expected log-likelihood."""

    elbo: Estimate
    rate: Estimate
    distortion: Estimate
    num_draws: int
    seed: int
    seconds: float


@dataclass(frozen=True)
class ActiveUnits:
    """Which latent dimensions carry information.

    Attributes:
        variance: of the posterior mean over the data, [latent_dim].
        kl: mean KL of each dimension, [latent_dim], nats; sums to the rate. None for a learned
            prior, which knows no dimension by itself.
        threshold: a dimension is active when its variance exceeds it.
    """

    variance: np.ndarray
    kl: np.ndarray | None
    threshold: float

    @property
    def count(self) -> int:
        """How many dimensions are active."""
        return int((self.variance > self.threshold).sum())


def estimate_log_likelihood(
    model: VAE,
    x: Any,
    num_samples: int = 5000,
    *,
    seed: int = 0,
    chunk_size: int = 1000,
    batch_size: int = 20,
    curve: Sequence[int] = CURVE,
    verbose: bool = True,
) -> LogLikelihood:
    """Estimates log p(x) of each image with `num_samples` draws from its posterior.

    log p(x) is estimated as log mean_k p(x, z_k) / q(z_k | x): a lower bound in expectation that
    tightens with k. Weights are reduced chunk by chunk, so memory does not grow with num_samples.

    Args:
        model: the model.
        x: images as the model's likelihood has them: binary, pixels 0 and 1 (or 0 and 255), see
            `data.binarize`; for a `ContinuousBernoulli` grey, as they are.
        num_samples: importance samples k an image, >= 1. Default 5000.
        seed: of the noise. Default 0.
        chunk_size: samples of an image at a time. Default 1000.
        batch_size: images at a time. Default 20.
        curve: the k of the curve; those above num_samples are left out.
        verbose: whether a progress bar is shown. Default True.

    Returns:
        `LogLikelihood`, in nats per image.

    Raises:
        checks.InputError: for pixels that the likelihood does not have, NaN, counts below 1 or
            beyond memory.

    Example:
        >>> x = data.binarize(x_test, seed=0)
        >>> estimate_log_likelihood(vae, x).estimate.mean

    References:
        Burda et al. 2016, "Importance weighted autoencoders", equation 8 and section 5.
    """
    images = observations(model, x)
    # A sample's index is an int32, and a chunk of them is held with its logits.
    num_samples = checks.whole_number("num_samples", num_samples, 1, 2**31 - 1)
    chunk = min(checks.whole_number("chunk_size", chunk_size, 1), num_samples)
    batch = min(checks.whole_number("batch_size", batch_size, 1), len(images))
    checks.memory("chunk_size", chunk, 4 * images[0].size)
    curve = [checks.whole_number("each k of the curve", k, 1) for k in curve]
    kernel = _log_weight_kernel(model, chunk, batch)
    seed = checks.seed(seed)
    started = time.perf_counter()
    known = images, *model.encode(images)
    bar = keras.utils.Progbar(len(images), unit_name="image", verbose=int(verbose))
    wanted = [k for k in {*curve, num_samples} if k <= num_samples]

    def of_batch(start: int) -> tuple[dict[int, np.ndarray], np.ndarray]:
        """The bounds for each k and the effective sample size of up to `batch` images."""
        held = min(batch, len(images) - start)
        rows, loc, scale = (_filled(part[start : start + batch], batch) for part in known)
        identity = tf.constant([_identity(row) for row in rows])
        groups = {k: _GroupMeans(k, batch) for k in wanted}
        squares = _RunningSum(batch)
        for first in range(0, num_samples, chunk):
            log_weights = kernel(rows, loc, scale, identity, tf.constant(first), tf.constant(seed))
            log_weights = log_weights.numpy()[:, : num_samples - first].astype(np.float64)
            for group in groups.values():
                group.add(log_weights)
            squares.add(2.0 * log_weights)
        total = groups[num_samples].mean() + math.log(num_samples)
        bounds = {k: group.mean()[:held] for k, group in groups.items()}
        return bounds, np.exp(2.0 * total - squares.log_sum)[:held]

    bounds: dict[int, list[np.ndarray]] = {k: [] for k in wanted}
    sizes = []
    pool = concurrent.futures.ThreadPoolExecutor(_THREADS)
    try:
        for of_each, size in pool.map(of_batch, range(0, len(images), batch)):
            for k, values in of_each.items():
                bounds[k].append(values)
            sizes.append(size)
            bar.add(len(size))
    finally:
        pool.shutdown(cancel_futures=True)  # after Ctrl-C nothing more begins
    estimates = {k: Estimate.of(np.concatenate(parts)) for k, parts in sorted(bounds.items())}
    return LogLikelihood(
        estimate=estimates[num_samples],
        effective_sample_size=np.concatenate(sizes),
        curve=estimates,
        num_samples=num_samples,
        seed=seed,
        seconds=time.perf_counter() - started,
    )


def estimate_by_difference(
    model: VAE,
    x: Any,
    num_samples: int = 5000,
    num_refined: int = 1000,
    *,
    seed: int = 0,
    verbose: bool = True,
) -> LogLikelihood:
    """Estimates log p(x) where all samples for every image would take too long.

    Every image takes 100 samples; `num_refined`, spread evenly over x, take all `num_samples`, and
    by what these gain on average all are raised. Where the gain has nothing to do with an image's
    place in x, the expectation is that of all samples everywhere; as the gain differs little from
    image to image, the standard error is nearly as small.

    Args:
        model, x, num_samples, seed, verbose: as in `estimate_log_likelihood`.
        num_refined: images that take all samples, 2 to N. Default 1000.

    Returns:
        `LogLikelihood`. In `per_example` an image stands with its bound from 100 samples plus the
        gain, its own or the mean one.

    Raises:
        checks.InputError: as `estimate_log_likelihood`, and for num_samples of 100 or fewer.

    References:
        Särndal, Swensson & Wretman 1992, "Model assisted survey sampling", section 6.3 on the
        difference estimator.
    """
    images = observations(model, x)
    checks.whole_number("num_samples", num_samples, FEW + 1, 2**31 - 1)
    checks.whole_number("num_refined", num_refined, 2, len(images))
    rows = np.arange(num_refined) * len(images) // num_refined
    few = estimate_log_likelihood(model, images, FEW, seed=seed, verbose=verbose)
    full = estimate_log_likelihood(model, images[rows], num_samples, seed=seed, verbose=verbose)
    raised = {k: _raised(few, full, k, rows) for k in full.curve if k > FEW}
    return LogLikelihood(
        estimate=raised[num_samples],
        effective_sample_size=full.effective_sample_size,
        curve=few.curve | raised,
        num_samples=num_samples,
        seed=seed,
        seconds=few.seconds + full.seconds,
        num_refined=num_refined,
    )


def _raised(few: LogLikelihood, full: LogLikelihood, k: int, rows: np.ndarray) -> Estimate:
    """The bound from `few` samples, raised by what k gain over as many at the images `rows`."""
    bound = few.estimate.per_example
    gain = full.curve[k].per_example - full.curve[few.num_samples].per_example
    values = bound + gain.mean()
    values[rows] = bound[rows] + gain
    # As if every image had its gain, and the gain's own error for having been seen at some.
    (_, shared), (_, spread) = np.cov(bound[rows], gain)
    all_images, some = len(bound), len(rows)
    variance = (bound.var(ddof=1) + 2 * shared + spread) / all_images
    variance += spread * (1 / some - 1 / all_images)
    # Of a few images the estimated covariance can be far off.
    return Estimate(float(values.mean()), math.sqrt(max(variance, 0.0)), values)


def evaluate_elbo(model: VAE, x: Any, num_draws: int = 1, *, seed: int = 0) -> ElboTerms:
    """Measures the ELBO, the rate and the distortion of images as they are.

    Args:
        model: the model.
        x: images, as in `VAE.fit`; nothing is binarized here.
        num_draws: posterior draws an image, averaged, >= 1. Default 1.
        seed: of the noise. Default 0.

    Returns:
        `ElboTerms`, in nats per image.

    Raises:
        checks.InputError: for what are no images of the model's shape, or counts below 1 or beyond
            memory.
    """
    num_draws = checks.whole_number("num_draws", num_draws, 1)
    images = checks.images(x, shape=_image_shape(model))
    checks.memory("num_draws", num_draws, 4 * model.latent_dim * min(1000, len(images)))
    if images.dtype == np.uint8:
        images = images.astype(np.float32) / 255.0
    seed = checks.seed(seed)
    started = time.perf_counter()

    draw_noise = tf.function(
        lambda identity: _keyed_noise(model.latent_dim, seed, identity, num_draws, tf.constant(0)),
        autograph=False,
    )
    bound = tf.function(model.terms, autograph=False)
    blocks = []
    for start in range(0, len(images), 1000):
        rows = images[start : start + 1000]
        draws = draw_noise(tf.constant([_identity(row) for row in rows]))  # [N, S, L]
        terms = [bound(tf.constant(rows), draws[:, index]) for index in range(num_draws)]
        blocks.append(np.mean(terms, axis=0, dtype=np.float64))  # [3, N]
    elbo, log_likelihood, kl = np.concatenate(blocks, axis=1)
    return ElboTerms(
        elbo=Estimate.of(elbo),
        rate=Estimate.of(kl),
        distortion=Estimate.of(-log_likelihood),
        num_draws=num_draws,
        seed=seed,
        seconds=time.perf_counter() - started,
    )


def rate_distortion(
    model: VAE, x: Any, num_draws: int = 1, *, seed: int = 0
) -> tuple[float, float]:
    """Returns the mean rate and distortion of images, nats per image: elbo = -(rate + distortion).

    Args:
        model, x, num_draws, seed: as in `evaluate_elbo`.

    References:
        Alemi et al. 2018, "Fixing a broken ELBO".
    """
    terms = evaluate_elbo(model, x, num_draws, seed=seed)
    return terms.rate.mean, terms.distortion.mean


def active_units(model: VAE, x: Any, threshold: float = ACTIVE_THRESHOLD) -> ActiveUnits:
    """Finds the latent dimensions whose posterior mean varies over the data.

    Args:
        model: the model.
        x: images, as in `VAE.fit`.
        threshold: on Cov_x(E_q[z]). Default 0.01.

    Returns:
        `ActiveUnits`.

    Raises:
        checks.InputError: for what are no images of the model's shape, or a threshold of 0 or less.

    References:
        Burda et al. 2016, section 5.2.
    """
    threshold = checks.positive("threshold", threshold)
    _image_shape(model)
    loc, scale = model.encode(x)
    kl = None
    if isinstance(model.prior, StandardNormal):
        kl = 0.5 * (loc**2 + scale**2 - 1.0) - np.log(scale)
        kl = kl.mean(axis=0, dtype=np.float64)
    return ActiveUnits(loc.var(axis=0), kl, threshold)


def observations(model: VAE, x: Any) -> np.ndarray:
    """Returns images as float32 in [0, 1], and refuses those the model has no likelihood of.

    Args:
        model: the model.
        x: images [N, H, W, C] or [N, H, W], uint8 or float.

    Raises:
        checks.InputError: for grey pixels where the likelihood is of binary ones, or the other way
            round: a Bernoulli's probability of a grey value is no probability, a density at binary
            pixels has no upper bound, and a figure made of either compares with none.
    """
    images = checks.images(x, shape=_image_shape(model))
    if model.likelihood_part.takes_grey:
        checks.grey(images)
    else:
        _require_binary(images)
    return data.to_pixels(tf.constant(images), None, "none").numpy()


def _require_binary(images: np.ndarray) -> None:
    grey = (images != 0) & (images != (255 if images.dtype == np.uint8 else 1.0))
    if grey.any():
        raise checks.InputError(
            "a likelihood figure needs binary pixels, 0 and 1. Received: "
            f"{grey.mean():.1%} of pixels in between, such as {images[grey][0]:.4g}. "
            "Binarize first: vae_keras.data.binarize(x, seed=0)."
        )


def _image_shape(model: VAE) -> tuple[int, int, int]:
    return require_built(model, "an evaluation").image_shape


def _identity(image: np.ndarray) -> int:
    """A number that names an image by its pixels, for its noise."""
    digest = hashlib.blake2b(np.ascontiguousarray(image), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1  # fits a signed 64-bit integer


def _filled(rows: np.ndarray, num: int) -> np.ndarray:
    """Repeats the first row until there are `num`: the compiled kernel has one shape."""
    return np.concatenate([rows, np.repeat(rows[:1], num - len(rows), axis=0)])


def _keyed_noise(
    latent_dim: int, seed: tf.Tensor, identity: tf.Tensor, samples: int, first: tf.Tensor
) -> tf.Tensor:
    """Standard normal noise [N, samples, latent_dim] by (seed, image, sample's index)."""
    return noise.normal(
        seed, noise.Stream.IMPORTANCE, rows=samples, size=latent_dim, step=identity, row=first
    )


@functools.lru_cache(maxsize=2)  # a second call, such as after the next epoch, compiles nothing
def _log_weight_kernel(model: VAE, chunk: int, batch: int) -> Callable[..., tf.Tensor]:
    """Compiles log p(x, z) - log q(z | x) of `chunk` samples for each of `batch` images."""
    prior = model.prior.distribution(model.latent_dim)
    most = max(1, _KERNEL_ROWS // chunk)
    together = max(n for n in range(1, most + 1) if batch % n == 0)  # images a matrix product

    def some(rows: tf.Tensor, loc: tf.Tensor, scale: tf.Tensor, draws: tf.Tensor) -> tf.Tensor:
        # rows [G, H, W, C], loc and scale [G, L], draws [G, S, L]
        z = loc[:, tf.newaxis] + scale[:, tf.newaxis] * draws
        log_q = tf.reduce_sum(
            -0.5 * draws**2 - tf.math.log(scale)[:, tf.newaxis] - 0.5 * math.log(2 * math.pi), -1
        )
        log_likelihood = model.likelihood(z).log_prob(rows[:, tf.newaxis])
        return log_likelihood + prior.log_prob(z) - log_q  # [G, S]

    @tf.function(jit_compile=model.xla_pays(), autograph=False)
    def compiled(rows: tf.Tensor, loc: tf.Tensor, scale: tf.Tensor, draws: tf.Tensor) -> tf.Tensor:
        def split(part: tf.Tensor) -> tf.Tensor:
            return tf.reshape(part, [-1, together, *part.shape[1:]])

        parts = [split(part) for part in (rows, loc, scale, draws)]
        out = tf.map_fn(lambda args: some(*args), tuple(parts), fn_output_signature=tf.float32)
        return tf.reshape(out, [batch, chunk])

    @tf.function(autograph=False)
    def kernel(
        rows: tf.Tensor,
        loc: tf.Tensor,
        scale: tf.Tensor,
        identity: tf.Tensor,
        first: tf.Tensor,
        seed: tf.Tensor,
    ) -> tf.Tensor:
        draws = _keyed_noise(model.latent_dim, seed, identity, chunk, first)
        return compiled(rows, loc, scale, draws)

    return kernel


class _RunningSum:
    """log sum exp over a stream of columns, for each of `rows` rows."""

    def __init__(self, rows: int) -> None:
        self.log_sum = np.full(rows, -np.inf)

    def add(self, values: np.ndarray) -> None:
        self.log_sum = np.logaddexp(self.log_sum, _log_sum_exp(values))


class _GroupMeans:
    """Mean over disjoint groups of k columns of log mean exp, wherever the chunks are cut."""

    def __init__(self, k: int, rows: int) -> None:
        self.k, self.rows = k, rows
        self.total, self.groups = np.zeros(rows), 0
        self._open, self._filled = _RunningSum(rows), 0

    def add(self, values: np.ndarray) -> None:
        if self._filled:  # first fill the group that the last chunk left open
            values = self._extend(values)
        whole = values.shape[1] // self.k
        if whole:
            block = values[:, : whole * self.k].reshape(self.rows, whole, self.k)
            self.total += (_log_sum_exp(block) - math.log(self.k)).sum(axis=1)
            self.groups += whole
        if values.shape[1] % self.k:
            self._extend(values[:, whole * self.k :])

    def mean(self) -> np.ndarray:
        return self.total / self.groups

    def _extend(self, values: np.ndarray) -> np.ndarray:
        taken = min(self.k - self._filled, values.shape[1])
        self._open.add(values[:, :taken])
        self._filled += taken
        if self._filled == self.k:
            self.total += self._open.log_sum - math.log(self.k)
            self.groups += 1
            self._open, self._filled = _RunningSum(self.rows), 0
        return values[:, taken:]


def _log_sum_exp(values: np.ndarray) -> np.ndarray:
    peak = values.max(axis=-1, keepdims=True)
    return np.log(np.exp(values - peak).sum(axis=-1)) + peak[..., 0]
