"""Scores of how unusual an image is to a model, as pure functions of tensors.

A score is made from a few `Statistics` of an image. Which score works depends on what is unusual:

- `likelihood` is -log p(x). It fails where unusual images are simpler than normal ones. A model of
  Fashion-MNIST finds digits more probable than clothes.
- `typicality` is the distance of -log p(x) from that of normal images, on either side. It fails
  where unusual images have the same likelihood.
- `complexity` subtracts the code length of the image under a general code from -log p(x). It fails
  where unusual images are more complex than normal ones.
- `pixel` and `patch` are the largest deviance of a pixel and of a smoothed patch from what the
  model expects, for defects that are small. They fail where the contrast of the defect is low.
- `detail` is the largest code length of a smoothed patch, for small defects of a texture, which no
  model can expect. It fails where the defect is smoother than the rest.
- `statistics` measures how far all of these together lie from those of normal images, and is the
  default.

A higher score is more unusual in each case.

References:
    Nalisnick et al. 2019, "Detecting out-of-distribution inputs to deep generative models using
    typicality".
    Serrà et al. 2020, "Input complexity and out-of-distribution detection with likelihood-based
    generative models", equation 4.
    Morningstar et al. 2021, "Density of states estimation for out-of-distribution detection".
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from vae_keras.model import VAE
from vae_keras.objectives import log_weights

SCORES = ("statistics", "likelihood", "typicality", "complexity", "pixel", "patch", "detail")
"""The names of the scores, the default one first."""

FITTED = ("statistics", "typicality")
"""The scores with constants, which are fitted to normal images that calibrate nothing."""

_RIDGE = 0.01  # share of its variance that is added to each statistic's variance
_CONTEXTS = (1, 3, 8, 20, 50, 100, 180)  # levels between classes of local activity
_LEVELS = 256
_PRIOR = 1.0 / 16.0  # count of each residual before any was seen
_LOGITS = np.sinh(np.linspace(-4.6, 4.6, 1401), dtype=np.float32)  # up to 50, dense around 0
_REACH = 3.0  # standard deviations at which the smoothing kernel ends


class Statistics(NamedTuple):
    """What a score is made from, float32 [N] each.

    Attributes:
        negative_log_likelihood: -log p(x) in nats, importance weighted.
        rate: KL(q(z | x) || p(z)) in nats.
        complexity: code length of the image in nats, which no model enters.
        pixel: largest deviance of a pixel, in nats.
        patch: largest smoothed deviance, in nats per pixel.
        detail: largest smoothed code length, in nats per pixel.
    """

    negative_log_likelihood: tf.Tensor
    rate: tf.Tensor
    complexity: tf.Tensor
    pixel: tf.Tensor
    patch: tf.Tensor
    detail: tf.Tensor


def statistics(model: VAE, images: tf.Tensor, noise: tf.Tensor, patch_scale: float) -> Statistics:
    """Computes the statistics of images.

    The pixels of a grey image are taken as they are. Under a Bernoulli likelihood they are the
    probabilities of binary pixels, and the likelihood is a lower bound on the expected log p of the
    binary images.

    Args:
        model: a built model.
        images: float [N, H, W, C] in [0, 1].
        noise: standard normal [N, K, latent_dim], for K importance samples of each image.
        patch_scale: standard deviation of the smoothing in pixels, > 0.

    Returns:
        `Statistics`.

    Example:
        >>> x, draws = tf.zeros([4, 6, 6, 1]), tf.zeros([4, 5, 3])
        >>> statistics(vae, x, draws, patch_scale=1.0).rate.shape
        TensorShape([4])
    """
    pixels = model.pixels(images)
    context = model.context(pixels)
    draw = model.inference(context)(noise)
    log_weight, _ = log_weights(pixels[:, tf.newaxis], draw)  # [N, K]
    samples = math.log(noise.shape[1])
    kl = tf.broadcast_to(draw.kl, tf.shape(log_weight))
    # The context of a flat posterior is its loc and scale, which need not be computed again.
    deviance = pixel_deviance(model, images, None if model.is_top_down else context.loc)
    return Statistics(
        samples - tf.reduce_logsumexp(log_weight, axis=1),
        tf.reduce_mean(kl, axis=1),
        complexity(images),
        tf.reduce_max(deviance, axis=[1, 2]),
        tf.reduce_max(smoothed(deviance, patch_scale), axis=[1, 2]),
        tf.reduce_max(smoothed(pixel_code_length(images), patch_scale), axis=[1, 2]),
    )


def score(name: str, found: Statistics, constants: dict[str, np.ndarray]) -> tf.Tensor:
    """Computes a score from the statistics of images.

    Args:
        name: one of `SCORES`.
        found: the statistics.
        constants: what `fit` returned, for a score in `FITTED`.

    Returns:
        float32 [N], without NaN: an image whose statistics are no numbers is as unusual as can be.

    Example:
        >>> ones = Statistics(*[tf.ones([2])] * 6)
        >>> score("complexity", ones, {}).numpy()
        array([0., 0.], dtype=float32)
    """
    nll = found.negative_log_likelihood
    if name == "statistics":
        centred = _features(found) - constants["center"]
        value = tf.reduce_sum(tf.square(centred @ constants["whitening"]), axis=1)
    elif name == "typicality":
        value = tf.abs(nll - constants["center"])
    elif name == "complexity":
        value = nll - found.complexity
    else:
        value = found._asdict()["negative_log_likelihood" if name == "likelihood" else name]
    return tf.where(tf.math.is_nan(value), tf.fill(tf.shape(value), np.float32(np.inf)), value)


def fit(name: str, found: Statistics) -> dict[str, np.ndarray]:
    """Fits the constants of a score to normal images.

    Args:
        name: one of `SCORES`.
        found: statistics of normal images, [N].

    Returns:
        The constants, float32, under their names; {} for a score that is not in `FITTED`.

    Example:
        >>> sorted(fit("statistics", Statistics(*[tf.range(9.0)] * 6)))
        ['center', 'whitening']
    """
    if name == "typicality":
        return {"center": np.array(np.median(found.negative_log_likelihood), np.float32)}
    if name != "statistics":
        return {}
    values = np.asarray(_features(found), np.float64)
    center = values.mean(axis=0)
    covariance = np.cov(values, rowvar=False) if len(values) > 1 else np.eye(values.shape[1])
    # The ridge keeps the inverse finite for few images, and for a statistic that is constant.
    variance = np.diag(covariance)
    covariance = covariance + np.diag(_RIDGE * variance + 1e-12)
    whitening = np.linalg.cholesky(np.linalg.inv(covariance))
    return {"center": center.astype(np.float32), "whitening": whitening.astype(np.float32)}


def pixel_deviance(model: VAE, images: tf.Tensor, loc: tf.Tensor | None = None) -> tf.Tensor:
    """Returns how far log p of each pixel lies below the best that its likelihood can give.

    The pixel's distribution is that of the posterior mean. The best is taken over the parameter of
    the likelihood: the deviance of a Bernoulli or a continuous Bernoulli is the Kullback-Leibler
    divergence from the distribution with the pixel's value as its mean. Without that term the
    highest values would lie where a grey pixel is most uncertain in itself. The best of 256 levels
    is a probability of 1.

    Args:
        model: a built model.
        images: float [N, H, W, C] in [0, 1].
        loc: posterior means [N, latent_dim], if they are known. Default None.

    Returns:
        float32 [N, H, W], in nats; the channels are summed.

    Example:
        >>> pixel_deviance(vae, tf.zeros([4, 6, 6, 1])).shape
        TensorShape([4, 6, 6])

    References:
        McCullagh & Nelder 1989, "Generalized linear models", section 2.3.
    """
    pixels = model.pixels(images)
    parameters = model.decoder(model.encode_tensors(pixels).loc if loc is None else loc)
    # Every likelihood has independent pixels. An image of one pixel gives the term of that pixel.
    single = tf.reshape(parameters, [-1, 1, 1, parameters.shape[-1]])
    values = tf.reshape(pixels, [-1, 1, 1, pixels.shape[-1]])
    log_p = tf.reshape(model.likelihood.distribution(single).log_prob(values), tf.shape(pixels)[:3])
    return tf.reduce_sum(_best_log_prob(model.likelihood, pixels), axis=-1) - log_p


def smoothed(maps: tf.Tensor, scale: float) -> tf.Tensor:
    """Smooths maps with a Gaussian; beyond the border the map is reflected.

    Args:
        maps: [N, H, W].
        scale: standard deviation in pixels, > 0.

    Returns:
        [N, H, W].

    Example:
        >>> bool(np.allclose(smoothed(tf.ones([1, 8, 8]), scale=2.0), 1.0))
        True
    """
    height, width = (_smoothing(maps.shape[axis], scale) for axis in (1, 2))
    # Products with a matrix take a twentieth of the time of a convolution with one channel.
    return tf.matmul(height, maps) @ tf.transpose(width)


def _smoothing(size: int, scale: float) -> np.ndarray:
    """Returns the matrix [size, size] that smooths a line of pixels."""
    reach = math.ceil(_REACH * scale)
    places = np.arange(-reach, reach + 1)
    kernel = np.exp(-0.5 * (places / scale) ** 2)
    # A place beyond the border is the pixel as far on this side of the border.
    inside = (np.arange(size)[:, np.newaxis] + places) % (2 * size)
    inside = np.minimum(inside, 2 * size - 1 - inside)
    matrix = np.zeros((size, size))
    np.add.at(matrix, (np.arange(size)[:, np.newaxis], inside), kernel / kernel.sum())
    return matrix.astype(np.float32)


def complexity(images: tf.Tensor) -> tf.Tensor:
    """Returns the code length of images under a general lossless code, in nats.

    Each pixel is predicted from its neighbours on the left and above, as in JPEG-LS, and each
    colour from the one before it. The residuals are coded by an adaptive arithmetic code, with one
    table for each class of local activity. Its length is exact, because the length of an adaptive
    code does not depend on the order of the symbols. It runs in a graph, which PNG does not.

    Args:
        images: float [N, H, W, C] in [0, 1]; pixels are rounded to 256 levels.

    Returns:
        float32 [N].

    Example:
        >>> flat, noisy = tf.zeros([1, 8, 8, 1]), np.random.default_rng(0).random((1, 8, 8, 1))
        >>> bool(complexity(flat) < complexity(tf.constant(noisy)))
        True

    References:
        Weinberger et al. 2000, "The LOCO-I lossless image compression algorithm", section III.
        Krichevsky & Trofimov 1981, "The performance of universal encoding".
    """
    # Beyond the border lies black, which a decoder knows, too.
    residual, activity = _residuals(images, "CONSTANT")
    residual = tf.math.floormod(residual, _LEVELS)
    context = tf.add_n([tf.cast(activity >= bound, tf.int32) for bound in _CONTEXTS])
    tables = len(_CONTEXTS) + 1
    symbols = tf.reshape(context * _LEVELS + residual, [tf.shape(images)[0], -1])
    size = tables * _LEVELS
    counts = tf.math.bincount(symbols, minlength=size, maxlength=size, axis=-1)
    counts = tf.reshape(counts, [-1, tables, _LEVELS])
    # A table of log-gammas of all possible counts takes a quarter of the time of computing them.
    most = math.prod(images.shape[1:])
    of_table = tf.gather(_rising(_LEVELS * _PRIOR, most), tf.reduce_sum(counts, axis=-1))
    of_symbol = tf.gather(_rising(_PRIOR, most), counts)
    return tf.reduce_sum(of_table, axis=-1) - tf.reduce_sum(of_symbol, axis=[1, 2])


def _rising(start: float, most: int) -> np.ndarray:
    """Returns the logarithm of start (start + 1) ... (start + n - 1) for n from 0 to `most`."""
    logs = np.log(start + np.arange(most))
    return np.concatenate([[0.0], np.cumsum(logs)]).astype(np.float32)


def pixel_code_length(images: tf.Tensor) -> tf.Tensor:
    """Returns about how many nats each pixel takes, given its neighbours on the left and above.

    A universal code of whole numbers spends about log(1 + abs(r)) on the residual r of a pixel.

    Args:
        images: float [N, H, W, C] in [0, 1]; pixels are rounded to 256 levels.

    Returns:
        float32 [N, H, W]; the channels are summed.

    Example:
        >>> float(tf.reduce_max(pixel_code_length(tf.ones([1, 8, 8, 1]))))
        0.0

    References:
        Elias 1975, "Universal codeword sets and representations of the integers".
    """
    # The border repeats its pixels, so that no border looks like a defect.
    residual, _ = _residuals(images, "SYMMETRIC")
    return tf.reduce_sum(tf.math.log1p(tf.abs(tf.cast(residual, tf.float32))), axis=-1)


def default_patch_scale(image_shape: tuple[int, ...]) -> float:
    """Returns the default scale of the smoothing: 1/28 of the shorter side, and at least 1 pixel.

    Example:
        >>> default_patch_scale((56, 56, 1))
        2.0
    """
    return max(1.0, min(image_shape[:2]) / 28.0)


def _residuals(images: tf.Tensor, beyond: str) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns what the prediction leaves of each level, and the activity around it, int32.

    Args:
        images: float [N, H, W, C] in [0, 1].
        beyond: mode of `tf.pad` for the pixels beyond the border.

    Returns:
        Residuals and activities, [N, H, W, C] each.
    """
    levels = tf.cast(tf.round(tf.cast(images, tf.float32) * (_LEVELS - 1.0)), tf.int32)
    if levels.shape[-1] == 3:
        red, green, blue = tf.unstack(levels, axis=-1)
        levels = tf.stack([red - green, green, blue - green], axis=-1)
    padded = tf.pad(levels, [[0, 0], [1, 0], [1, 0], [0, 0]], mode=beyond)
    left, above, corner = padded[:, 1:, :-1], padded[:, :-1, 1:], padded[:, :-1, :-1]
    low, high = tf.minimum(left, above), tf.maximum(left, above)
    # left + above - corner, held between the two neighbours: the median predictor
    predicted = tf.clip_by_value(left + above - corner, low, high)
    return levels - predicted, tf.abs(left - corner) + tf.abs(above - corner)


def _features(found: Statistics) -> Any:
    """Returns the statistics [N, 6] on a scale on which those of normal images look normal."""
    # asinh is a logarithm for large numbers, and takes the negative ones of a density.
    return tf.asinh(tf.stack(list(found), axis=1))


def _best_log_prob(likelihood: Any, pixels: tf.Tensor) -> tf.Tensor:
    """Returns the highest log p of each number [..., C] over the parameter of a likelihood."""
    if likelihood.support == "levels":
        return tf.zeros_like(pixels)
    with tf.init_scope():  # a constant of the graph, not a part of it
        x = tf.reshape(tf.range(_LEVELS, dtype=tf.float32) / (_LEVELS - 1.0), [-1, 1, 1, 1, 1])
        logits = tf.reshape(tf.constant(_LOGITS), [-1, 1, 1, 1])
        table = tf.reduce_max(likelihood.distribution(logits).log_prob(x), axis=1).numpy()
    place = pixels * (_LEVELS - 1.0)
    below = tf.minimum(tf.cast(place, tf.int32), _LEVELS - 2)
    share = place - tf.cast(below, tf.float32)
    return (1.0 - share) * tf.gather(table, below) + share * tf.gather(table, below + 1)
