"""Figures of trained models: ELBO, rate and distortion, log-likelihood, active units.

Every figure is in nats per image. It is computed for each image first and is reduced once, with a
standard error over images. The noise of an image is keyed by the image's own pixels and by the
index of the sample. The order of the images and the sizes of chunks and batches therefore change a
figure by float rounding only. The one exception is `estimate_by_difference`, which selects the
images that it refines by their position.
"""

from __future__ import annotations

import concurrent.futures
import hashlib
import math
import time
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from vae_keras import data, inference, noise
from vae_keras.data.observations import observed
from vae_keras.model import VAE, require_built
from vae_keras.objectives import log_weights
from vae_keras.priors import StandardNormal
from vae_keras.utils import checks, graphs
from vae_keras.utils.rows import Array, Rows, select

ACTIVE_THRESHOLD = 0.01
"""Variance of a posterior mean above which a latent dimension is active (Burda et al. 2016)."""

CURVE = (1, 10, 100, 1000, 5000)
"""Default numbers of samples k at which the IWAE-k bound is reported."""

FEW = 100
"""Samples that `estimate_by_difference` draws for every image."""

_THREADS = 2  # One computes while the other draws noise. The benchmarks' findings have the gain.
_KERNEL_ROWS = 1000  # decoder rows in one matrix product; 200 and 500 take the same time


@dataclass(frozen=True)
class Estimate:
    """A mean over images with its standard error.

    Attributes:
        mean: mean over images.
        standard_error: standard error of the mean; NaN for a single image.
        per_example: float64 [N], the value of each image.
    """

    mean: float
    standard_error: float
    per_example: np.ndarray

    @classmethod
    def of(cls, per_example: np.ndarray) -> Estimate:
        """Computes mean and standard error in float64.

        Args:
            per_example: [N], one value for each image.

        Returns:
            `Estimate`.

        Example:
            >>> Estimate.of(np.array([1.0, 3.0])).mean
            2.0
        """
        values = np.asarray(per_example, np.float64)
        error = values.std(ddof=1) / math.sqrt(len(values)) if len(values) > 1 else math.nan
        return cls(float(values.mean()), float(error), values)


@dataclass(frozen=True)
class LogLikelihood:
    """An importance-weighted estimate of log p(x).

    Attributes:
        estimate: log p(x) from all samples, in nats per image.
        effective_sample_size: (sum w)^2 / sum w^2 for each image that has all samples, [N]. It lies
            between 1 and num_samples.
        curve: maps k to the bound from k samples (IWAE-k), for each k <= num_samples. A bound is
            the mean over all disjoint groups of k samples.
        num_samples: importance samples for each image.
        seed: seed of the noise.
        seconds: wall time.
        num_refined: number of images that have all samples, or None if every image has them. See
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
    """The ELBO and its terms: elbo = -(rate + distortion).

    Attributes:
        elbo: evidence lower bound, in nats per image.
        rate: KL(q(z | x) || p(z)), in nats per image.
        distortion: negative expected log-likelihood, in nats per image.
        num_samples: posterior samples for each image.
        seed: seed of the noise.
        seconds: wall time.
    """

    elbo: Estimate
    rate: Estimate
    distortion: Estimate
    num_samples: int
    seed: int
    seconds: float


@dataclass(frozen=True)
class GroupUnits:
    """The latents of one group.

    Attributes:
        shape: (height, width, channels) of the group, or (latent_dim,).
        active: number of active dimensions.
        rate: KL of the group given the groups above, in nats per image, or None for a learned
            prior.
    """

    shape: tuple[int, ...]
    active: int
    rate: float | None


@dataclass(frozen=True)
class ActiveUnits:
    """Which latent dimensions carry information.

    Attributes:
        variance: variance of the posterior mean over the data, [latent_dim].
        kl: mean KL of each dimension in nats, [latent_dim]. It sums to the rate. None for a learned
            prior, whose KL does not split into dimensions.
        threshold: a dimension is active if its variance exceeds this number.
        shapes: the shape of each group of latents, from the top down. A flat model has one group.
    """

    variance: np.ndarray
    kl: np.ndarray | None
    threshold: float
    shapes: tuple[tuple[int, ...], ...]

    @property
    def count(self) -> int:
        """Number of active dimensions."""
        return int((self.variance > self.threshold).sum())

    @property
    def groups(self) -> list[GroupUnits]:
        """The groups of latents, from the top down."""
        found, start = [], 0
        for shape in self.shapes:
            members = slice(start, start + math.prod(shape))
            active = int((self.variance[members] > self.threshold).sum())
            rate = None if self.kl is None else float(self.kl[members].sum())
            found.append(GroupUnits(shape, active, rate))
            start = members.stop
        return found


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
    labels: Any = None,
) -> LogLikelihood:
    """Estimates log p(x) of each image with importance samples from its posterior.

    A model with classes is measured by log p(x | y).

    The estimate is log mean_k p(x, z_k) / q(z_k | x). Its expectation is a lower bound on log p(x)
    that tightens with k. The weights are reduced chunk by chunk: at most chunk_size * batch_size of
    them are held by each of two threads, whatever num_samples is.

    Args:
        model: a built model.
        x: images in any form that `VAE.fit` takes. A `Bernoulli` likelihood needs binary pixels, 0
            and 1 or 0 and 255; `data.binarize` makes them. A `ContinuousBernoulli` needs grey
            pixels, uint8 0..255 or floats in [0, 1]. A `DiscretizedLogisticMixture` needs uint8
            pixels or multiples of 1/255.
        num_samples: importance samples for each image, from 1 to 2^31 - 1. Default 5000.
        seed: seed of the noise, integer in [0, 2^31). Default 0.
        chunk_size: samples of an image that are drawn at a time. Default 1000.
        batch_size: images at a time. Default 20.
        curve: numbers of samples k at which the bound is reported. Those above num_samples are left
            out. Default `CURVE`.
        verbose: whether to show a progress bar. Default True.
        labels: classes of the images, as in `VAE.encode`. Default: those in x.

    Returns:
        `LogLikelihood`, in nats per image.

    Raises:
        checks.InputError: if the likelihood does not support the pixels, if a pixel is NaN, or if a
            count is below 1 or does not fit into memory.

    Example:
        >>> x = data.binarize(x_test, seed=0)
        >>> result = estimate_log_likelihood(vae, x, num_samples=10, verbose=False)
        >>> sorted(result.curve)
        [1, 10]

    References:
        Burda et al. 2016, "Importance weighted autoencoders", equation 8 and section 5.
    """
    images, *given = labelled_observations(model, x, labels)
    # The index of a sample is an int32. The logits of a chunk are held at once.
    num_samples = checks.whole_number("num_samples", num_samples, 1, 2**31 - 1)
    chunk = min(checks.whole_number("chunk_size", chunk_size, 1), num_samples)
    batch = min(checks.whole_number("batch_size", batch_size, 1), len(images))
    checks.memory("chunk_size", chunk, 4 * images[0].size)
    curve = [checks.whole_number("each k of the curve", k, 1) for k in curve]
    kernel = _log_weight_kernel(model, chunk, batch)
    seed = checks.seed(seed)
    started = time.perf_counter()
    bar = keras.utils.Progbar(len(images), unit_name="image", verbose=int(verbose))
    wanted = [k for k in {*curve, num_samples} if k <= num_samples]

    def of_batch(start: int) -> tuple[dict[int, np.ndarray], np.ndarray]:
        """Returns the bound for each k and the effective sample sizes of up to `batch` images."""
        held = min(batch, len(images) - start)
        rows, *classes = (
            _filled(np.asarray(part[start : start + batch]), batch) for part in (images, *given)
        )
        context = model.graphs.context(rows, *classes)
        identity = tf.constant([_identity(row) for row in rows])
        totals = {k: np.zeros(batch) for k in wanted}  # sums of the log-sums of finished groups
        unfinished = {k: np.full(batch, -np.inf) for k in wanted}
        squares = np.full(batch, -np.inf)  # log sum w^2
        for first in range(0, num_samples, chunk):
            weights = kernel(rows, context, identity, tf.constant(first), tf.constant(seed))
            weights = weights.numpy()[:, : num_samples - first].astype(np.float64)
            for k in wanted:
                finished, unfinished[k] = _group_log_sums(weights, first, k, unfinished[k])
                totals[k] += finished.sum(axis=1)
            squares = np.logaddexp(squares, _segment_log_sums(2.0 * weights, [0])[:, 0])
        bounds = {k: total / (num_samples // k) - math.log(k) for k, total in totals.items()}
        sizes = np.exp(2.0 * totals[num_samples] - squares)
        return {k: bound[:held] for k, bound in bounds.items()}, sizes[:held]

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
        pool.shutdown(cancel_futures=True)  # No new batch starts after an interrupt.
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
    labels: Any = None,
) -> LogLikelihood:
    """Estimates log p(x) where all samples for every image would take too long.

    Every image is measured with 100 samples. `num_refined` images, spread evenly over x, are also
    measured with all `num_samples`, and their mean gain is added to every other image. The
    estimate has the expectation of `estimate_log_likelihood` if the gain of an image does not
    depend on its position in x. The gain differs little from image to image, so the standard error
    is nearly as small.

    Args:
        model: a built model.
        x: images, as in `estimate_log_likelihood`.
        num_samples: importance samples for each refined image, from 101 to 2^31 - 1. Default 5000.
        num_refined: number of images that are measured with all samples, from 2 to N. Default 1000.
        seed: seed of the noise, integer in [0, 2^31). Default 0.
        verbose: whether to show progress bars. Default True.
        labels: classes of the images, as in `VAE.encode`. Default: those in x.

    Returns:
        `LogLikelihood`. In `per_example` each image has its bound from 100 samples plus a gain,
        which is its own if it is refined, and else the mean gain.

    Raises:
        checks.InputError: as in `estimate_log_likelihood`, and for num_samples of 100 or fewer.

    Example:
        >>> x = data.binarize(x_test, seed=0)
        >>> estimate_by_difference(vae, x, 101, num_refined=2, verbose=False).num_refined
        2

    References:
        Särndal, Swensson & Wretman 1992, "Model assisted survey sampling", section 6.3 on the
        difference estimator.
    """
    images, *given = labelled_observations(model, x, labels)
    checks.whole_number("num_samples", num_samples, FEW + 1, 2**31 - 1)
    checks.whole_number("num_refined", num_refined, 2, len(images))
    rows = np.arange(num_refined) * len(images) // num_refined
    every = images, *(each.argmax(axis=1) for each in given)
    refined = tuple(select(part, rows) for part in every)
    few = estimate_log_likelihood(model, every, FEW, seed=seed, verbose=verbose)
    full = estimate_log_likelihood(model, refined, num_samples, seed=seed, verbose=verbose)
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
    """Adds the mean gain of k samples, measured on the refined images, to the bound from few.

    Args:
        few: the bound of every image from few samples.
        full: the bounds of the refined images.
        k: number of samples whose bound is estimated.
        rows: positions of the refined images.
    """
    bound = few.estimate.per_example
    gain = full.curve[k].per_example - full.curve[few.num_samples].per_example
    values = bound + gain.mean()
    values[rows] = bound[rows] + gain
    # The first term is the variance if the gain of every image were known. The second one is the
    # variance of the mean gain, which was measured on some images only.
    (_, shared), (_, spread) = np.cov(bound[rows], gain)
    all_images, some = len(bound), len(rows)
    variance = (bound.var(ddof=1) + 2 * shared + spread) / all_images
    variance += spread * (1 / some - 1 / all_images)
    # The covariance of a few images can be far off, so the sum may be negative.
    return Estimate(float(values.mean()), math.sqrt(max(variance, 0.0)), values)


def evaluate_elbo(
    model: VAE, x: Any, num_samples: int = 1, *, seed: int = 0, labels: Any = None
) -> ElboTerms:
    """Measures the ELBO, the rate and the distortion of each image.

    Args:
        model: a built model.
        x: images in any form that `VAE.fit` takes. They are not binarized here.
        num_samples: posterior samples that are averaged for each image, >= 1. Default 1.
        seed: seed of the noise, integer in [0, 2^31). Default 0.
        labels: classes of the images, as in `VAE.elbo`. Default: those in x.

    Returns:
        `ElboTerms`, in nats per image.

    Raises:
        checks.InputError: if x does not hold images of the model's shape, if num_samples is below 1
            or does not fit into memory, and for pixels between the levels of a likelihood with 256
            levels.

    Example:
        >>> evaluate_elbo(vae, x_test).elbo.per_example.shape
        (60,)
    """
    num_samples = checks.whole_number("num_samples", num_samples, 1)
    built = require_built(model, "an evaluation")
    images, *given = built.labelled(x, labels, may_miss=True)
    model.check_support(images, is_whole=False)
    checks.memory("num_samples", num_samples, 4 * model.latent_dim * min(1000, len(images)))
    seed = checks.seed(seed)
    started = time.perf_counter()

    draw_noise = graphs.compiled(
        lambda identity: _keyed_noise(model.latent_dim, seed, identity, num_samples, 0)
    )
    bound = graphs.compiled(model.terms)
    blocks = []
    for start in range(0, len(images), 1000):
        rows = np.asarray(images[start : start + 1000])
        if rows.dtype == np.uint8:
            rows = rows.astype(np.float32) / 255.0
        draws = draw_noise(tf.constant([_identity(row) for row in rows]))  # [N, S, L]
        parts = [tf.constant(part[start : start + 1000]) for part in given]
        terms = [bound(tf.constant(rows), draws[:, index], *parts) for index in range(num_samples)]
        blocks.append(np.mean(terms, axis=0, dtype=np.float64))  # [3, N]
    elbo, log_likelihood, kl = np.concatenate(blocks, axis=1)
    return ElboTerms(
        elbo=Estimate.of(elbo),
        rate=Estimate.of(kl),
        distortion=Estimate.of(-log_likelihood),
        num_samples=num_samples,
        seed=seed,
        seconds=time.perf_counter() - started,
    )


def bits_per_nat(image_shape: Sequence[int]) -> float:
    """Returns the factor from nats per image to bits per dimension: 1 / (H * W * C * log 2).

    Args:
        image_shape: (H, W, C).

    Example:
        >>> uniform = 4 * 4 * 3 * np.log(256.0)  # nats of an image whose levels are equally likely
        >>> round(float(uniform * bits_per_nat((4, 4, 3))), 6)
        8.0

    References:
        Theis et al. 2016, "A note on the evaluation of generative models", section 3.1.
    """
    return 1.0 / (math.prod(image_shape) * math.log(2.0))


def rate_distortion(
    model: VAE, x: Any, num_samples: int = 1, *, seed: int = 0
) -> tuple[float, float]:
    """Returns the mean rate and the mean distortion of images: elbo = -(rate + distortion).

    Args:
        model: a built model.
        x: images, as in `evaluate_elbo`.
        num_samples: posterior samples that are averaged for each image, >= 1. Default 1.
        seed: seed of the noise, integer in [0, 2^31). Default 0.

    Returns:
        The rate and the distortion, in nats per image.

    Raises:
        checks.InputError: as in `evaluate_elbo`.

    Example:
        >>> rate, distortion = rate_distortion(vae, x_test)
        >>> rate > 0
        True

    References:
        Alemi et al. 2018, "Fixing a broken ELBO".
    """
    terms = evaluate_elbo(model, x, num_samples, seed=seed)
    return terms.rate.mean, terms.distortion.mean


def active_units(
    model: VAE, x: Any, threshold: float = ACTIVE_THRESHOLD, labels: Any = None
) -> ActiveUnits:
    """Finds the latent dimensions whose posterior mean varies over the data.

    Args:
        model: a built model.
        x: images in any form that `VAE.fit` takes.
        threshold: smallest variance of an active dimension, > 0. Default `ACTIVE_THRESHOLD`.
        labels: classes of the images, as in `VAE.encode`. Default: those in x.

    Returns:
        `ActiveUnits`.

    Raises:
        checks.InputError: if x does not hold images of the model's shape, or if the threshold is
            not above 0.

    Example:
        >>> active_units(vae, x_test).variance.shape
        (3,)

    References:
        Burda et al. 2016, "Importance weighted autoencoders", section 5.2.
    """
    threshold = checks.positive("threshold", threshold)
    images, *given = require_built(model, "an evaluation").labelled(x, labels)
    posterior = model.encode(images, *(each.argmax(axis=1) for each in given))
    variance = posterior.loc.var(axis=0)
    kl = None
    if isinstance(model.prior, StandardNormal):
        loc, scale = _drawn_posterior(model, images) if model.is_top_down else posterior
        kl = 0.5 * (loc**2 + scale**2 - 1.0) - np.log(scale)
        kl = kl.mean(axis=0, dtype=np.float64)
    shapes = inference.latent_groups(model.decoder, model.latent_dim)
    return ActiveUnits(variance, kl, threshold, tuple(shapes))


def _drawn_posterior(model: VAE, images: Array) -> tuple[np.ndarray, np.ndarray]:
    """Returns loc and scale of each latent of a top-down model, given a draw of those above."""

    def posterior(rows: tf.Tensor, identity: tf.Tensor) -> Any:
        draws = _keyed_noise(model.latent_dim, 0, identity, 1, 0)[:, 0]
        return model.encode_tensors(model.pixels(rows), noise=draws)

    compiled = graphs.compiled(posterior)
    starts = range(0, len(images), _KERNEL_ROWS)
    blocks = (np.asarray(images[start : start + _KERNEL_ROWS]) for start in starts)
    parts = [
        compiled(tf.constant(block), tf.constant([_identity(row) for row in block]))
        for block in blocks
    ]
    return tf.nest.map_structure(lambda *each: np.concatenate(each), *parts)


def observations(model: VAE, x: Any) -> Array:
    """Returns images as float32 in [0, 1] after checking that the likelihood supports them.

    A Bernoulli is not a valid density for grey pixels. A density at binary pixels has no upper
    bound. A likelihood of 256 levels has no probability for pixels between them. A figure made of
    any of these could not be compared with others.

    Args:
        model: a built model.
        x: images in any form that `VAE.fit` takes.

    Returns:
        float32 [N, H, W, C], as `Rows` for `Rows`.

    Raises:
        checks.InputError: for grey pixels if the likelihood is binary, for binary images if it is
            a density on [0, 1], and for pixels between the levels if it has 256 levels.

    Example:
        >>> observations(vae, np.full([1, 6, 6], 255, np.uint8)).shape
        (1, 6, 6, 1)
    """
    return _supported(model, require_built(model, "an evaluation").images(x))


def labelled_observations(model: VAE, x: Any, labels: Any = None) -> tuple[Any, ...]:
    """Returns images as `observations`, and for a model with classes their one-hot labels.

    Args:
        model: a built model.
        x: images, or images with their labels.
        labels: classes of the images, as in `VAE.encode`. Default: those in x.

    Raises:
        checks.InputError: as `observations`, and for unknown labels.

    Example:
        >>> len(labelled_observations(vae, np.full([1, 6, 6], 255, np.uint8)))
        1
    """
    images, *given = require_built(model, "an evaluation").labelled(x, labels)
    return _supported(model, images), *given


def _supported(model: VAE, images: Array) -> Array:
    """Returns images as float32 after checking that the likelihood supports them."""
    if model.likelihood.support == "binary":
        _require_binary(images)
    else:
        model.check_support(images)
    if isinstance(images, Rows):
        return images if images.dtype == np.float32 else observed(images, 0, "none")
    return data.to_pixels(tf.constant(images), None, "none").numpy()


def _require_binary(images: Array) -> None:
    count, example = 0, 0.0
    for start in range(0, len(images), 1000):
        block = np.asarray(images[start : start + 1000])
        grey = (block != 0) & (block != (255 if block.dtype == np.uint8 else 1.0))
        if grey.any():
            count += int(grey.sum())
            example = example or float(block[grey][0])
    if count:
        raise checks.InputError(
            "a likelihood figure needs binary pixels, 0 and 1. Received: "
            f"{count / images.size:.1%} of pixels in between, such as {example:.4g}. "
            "Binarize first: vae_keras.data.binarize(x, seed=0)."
        )


def _identity(image: np.ndarray) -> int:
    """Returns a hash of the image's pixels, which keys its noise."""
    digest = hashlib.blake2b(np.ascontiguousarray(image).data, digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1  # The result fits into a signed 64-bit integer.


def _filled(rows: np.ndarray, num: int) -> np.ndarray:
    """Repeats the first row until there are `num` rows. The compiled kernel has one shape."""
    return np.concatenate([rows, np.repeat(rows[:1], num - len(rows), axis=0)])


def _keyed_noise(
    latent_dim: int,
    seed: int | tf.Tensor,
    identity: tf.Tensor,
    samples: int,
    first: int | tf.Tensor,
) -> tf.Tensor:
    """Returns standard normal noise [N, samples, latent_dim] keyed by (seed, image, sample)."""
    return noise.normal(
        seed, noise.Stream.IMPORTANCE, rows=samples, size=latent_dim, step=identity, row=first
    )


_Kernel = Callable[..., tf.Tensor]
# The kernels of a model are freed with the model.
_kernels: weakref.WeakKeyDictionary[VAE, dict[tuple[int, int], _Kernel]] = (
    weakref.WeakKeyDictionary()
)


def _log_weight_kernel(model: VAE, chunk: int, batch: int) -> _Kernel:
    """Returns a model's compiled kernel. A second call with the same sizes compiles nothing."""
    kernels = _kernels.setdefault(model, {})
    if (chunk, batch) not in kernels:
        # A kernel that held the model would keep its own key alive.
        kernels[chunk, batch] = _compile_log_weights(weakref.proxy(model), chunk, batch)
    return kernels[chunk, batch]


def _compile_log_weights(model: Any, chunk: int, batch: int) -> _Kernel:
    """Compiles log p(x, z) - log q(z | x) of `chunk` samples for each of `batch` images."""
    most = max(1, _KERNEL_ROWS // chunk)
    together = max(n for n in range(1, most + 1) if batch % n == 0)  # images a matrix product

    def some(rows: tf.Tensor, draws: tf.Tensor, *context: tf.Tensor) -> tf.Tensor:
        # rows [G, H, W, C], draws [G, S, L], each part of the context [G, ...]
        log_weight, _ = log_weights(rows[:, tf.newaxis], model.inference(context)(draws))
        return log_weight  # [G, S]

    @tf.function(jit_compile=model.xla_pays(), autograph=False)
    def compiled(*parts: tf.Tensor) -> tf.Tensor:
        split = [tf.reshape(part, [-1, together, *part.shape[1:]]) for part in parts]
        out = tf.map_fn(lambda args: some(*args), tuple(split), fn_output_signature=tf.float32)
        return tf.reshape(out, [batch, chunk])

    @tf.function(autograph=False)
    def kernel(
        rows: tf.Tensor, context: Any, identity: tf.Tensor, first: tf.Tensor, seed: tf.Tensor
    ) -> tf.Tensor:
        draws = _keyed_noise(model.latent_dim, seed, identity, chunk, first)
        return compiled(rows, draws, *context)

    return kernel


def _group_log_sums(
    log_weight: np.ndarray, first: int, k: int, unfinished: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Reduces a chunk of samples to log sum exp of each group of k samples.

    Args:
        log_weight: [N, S], the log weights of the samples first, first + 1, ...
        first: index of the first sample. Sample i belongs to group i // k.
        k: size of the groups.
        unfinished: [N], log sum exp of the earlier samples of the first sample's group.

    Returns:
        log sum exp of each group that the chunk finishes, [N, G], and of the samples of the group
        that it leaves unfinished, [N].
    """
    size = log_weight.shape[1]
    starts = [0, *range(k - first % k, size, k)]
    sums = _segment_log_sums(log_weight, starts)
    sums[:, 0] = np.logaddexp(unfinished, sums[:, 0])
    if (first + size) % k:
        return sums[:, :-1], sums[:, -1]
    return sums, np.full_like(unfinished, -np.inf)


def _segment_log_sums(values: np.ndarray, starts: Sequence[int]) -> np.ndarray:
    """Returns log sum exp over the columns from each start to the next: [N, len(starts)]."""
    sizes = np.diff(starts, append=values.shape[1])
    peaks = np.maximum.reduceat(values, starts, axis=1)
    sums = np.add.reduceat(np.exp(values - np.repeat(peaks, sizes, axis=1)), starts, axis=1)
    return np.log(sums) + peaks
