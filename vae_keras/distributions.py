"""Posterior, likelihoods and the standard normal prior, as TFP distributions.

The other modules take TensorFlow Probability's distributions from here. The distribution objects
exist only inside the methods of the model. Networks and exported signatures work on tensors.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf
from tensorflow_probability import bijectors as tfb  # noqa: F401  # for the priors
from tensorflow_probability import distributions as tfd

from vae_keras.kernels import bernoulli

SCALE_FLOOR = 1e-4
"""Smallest scale of a posterior. It keeps log(scale) finite where softplus underflows."""


SATURATED = 50.0
"""A logit beyond this absolute value is saturated: its pixel is within e^-50 of black or white."""

SCALE_PARAMETERS = ("raw", "log_variance", "scale")
"""What an encoder may return beside loc: the scale before the softplus, the log-variance, or the
scale itself."""


def posterior(
    parameters: tf.Tensor | Sequence[tf.Tensor], scale_parameter: str = "raw"
) -> tfd.Distribution:
    """Builds the diagonal normal posterior q(z | x) from the output of an encoder.

    Args:
        parameters: loc and the parameter of the scale, as two tensors [N, latent_dim] or as the
            halves of one tensor [N, 2 * latent_dim].
        scale_parameter: "raw" for scale = softplus(parameter) + `SCALE_FLOOR`, "log_variance" for
            scale = exp(parameter / 2), or "scale". Default "raw".

    Returns:
        `Independent(Normal)` with batch shape [N] and event shape [latent_dim].

    Example:
        >>> posterior(tf.zeros([8, 6])).event_shape
        TensorShape([3])
    """
    if isinstance(parameters, (tuple, list)):
        loc, parameter = (tf.cast(part, tf.float32) for part in parameters)
    else:
        loc, parameter = tf.split(tf.cast(parameters, tf.float32), 2, axis=-1)
    if scale_parameter == "raw":
        scale = tf.nn.softplus(parameter) + SCALE_FLOOR
    else:
        scale = tf.exp(0.5 * parameter) if scale_parameter == "log_variance" else parameter
    return diagonal_normal(loc, scale)


def diagonal_normal(loc: tf.Tensor, scale: tf.Tensor) -> tfd.Distribution:
    """Returns independent normal distributions over the last axis.

    Args:
        loc: means, [..., latent_dim].
        scale: standard deviations, [..., latent_dim].

    Returns:
        `Independent(Normal)` with batch shape [...] and event shape [latent_dim].

    Example:
        >>> diagonal_normal(tf.zeros([8, 3]), tf.ones([8, 3])).batch_shape
        TensorShape([8])
    """
    return tfd.Independent(tfd.Normal(loc, scale), 1)


def reparameterize(posterior: tfd.Distribution, noise: tf.Tensor) -> tf.Tensor:
    """Maps standard normal noise to samples of the posterior: z = loc + scale * noise.

    Args:
        posterior: q(z | x) with batch shape [N] and event shape [latent_dim].
        noise: standard normal, [..., N, latent_dim].

    Returns:
        Samples [..., N, latent_dim]. Gradients flow to the posterior's loc and scale.

    Example:
        >>> reparameterize(posterior(tf.zeros([8, 6])), tf.zeros([5, 8, 3])).shape
        TensorShape([5, 8, 3])

    References:
        Kingma & Welling 2014, "Auto-encoding variational Bayes", section 2.4.
    """
    normal = posterior.distribution
    return normal.loc + normal.scale * noise


def stop_gradient(posterior: tfd.Distribution) -> tfd.Distribution:
    """Returns the same posterior without a gradient to its loc and scale.

    Args:
        posterior: q(z | x), as `posterior` builds it.

    Returns:
        A distribution with equal parameters, which count as constants in differentiation.

    Example:
        >>> stop_gradient(posterior(tf.zeros([8, 6]))).batch_shape
        TensorShape([8])
    """
    normal = posterior.distribution
    return diagonal_normal(tf.stop_gradient(normal.loc), tf.stop_gradient(normal.scale))


@keras.saving.register_keras_serializable(package="vae_keras")
class Bernoulli:
    """The likelihood of binary images: each pixel is 1 with probability sigmoid(logit), else 0.

    Example:
        >>> Bernoulli().distribution(tf.zeros([8, 28, 28, 1])).log_prob(tf.ones([28, 28, 1])).shape
        TensorShape([8])
    """

    support = "binary"
    """The pixels that have a probability: 0 and 1."""

    def distribution(self, logits: tf.Tensor) -> tfd.Distribution:
        """Returns p(x | z) with one event for each image.

        Args:
            logits: output of a decoder, the log-odds of each pixel, [..., H, W, C].

        Returns:
            A distribution with batch shape [...] and event shape [H, W, C].
        """
        logits = tf.cast(logits, tf.float32)
        return _BernoulliPixels(tfd.Bernoulli(logits=logits, dtype=tf.float32), 3)

    def parameters_per_pixel(self, channels: int) -> int:
        """Returns how many numbers a decoder must return for each pixel: C."""
        return channels

    def uniforms_per_pixel(self, channels: int) -> int:
        """Returns how many uniform numbers `draw` takes for each pixel: C."""
        return channels

    def get_config(self) -> dict[str, Any]:
        return {}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Bernoulli:
        return cls(**config)


@keras.saving.register_keras_serializable(package="vae_keras")
class ContinuousBernoulli:
    """The likelihood of grey images: each pixel has the density C(l) e^(l * x) on [0, 1].

    The mean of a pixel with logit l is 1 / (1 - e^-l) - 1 / l, which is not sigmoid(l). The
    log-probability is a log-density. It may be positive, and can be compared only with other
    log-densities on [0, 1].

    Example:
        >>> ContinuousBernoulli().distribution(tf.zeros([8, 28, 28, 1])).mean().shape
        TensorShape([8, 28, 28, 1])

    References:
        Loaiza-Ganem & Cunningham 2019, "The continuous Bernoulli: fixing a pervasive error in
        variational autoencoders", equations 8 and 11.
    """

    support = "unit_interval"
    """The pixels that have a density: all of [0, 1]."""

    def distribution(self, logits: tf.Tensor) -> tfd.Distribution:
        """Returns p(x | z) with one event for each image.

        Args:
            logits: output of a decoder, the natural parameter of each pixel, [..., H, W, C].

        Returns:
            A distribution with batch shape [...] and event shape [H, W, C].
        """
        logits = tf.cast(logits, tf.float32)
        pixels = tfd.ContinuousBernoulli(logits=logits, dtype=tf.float32)
        return _ContinuousBernoulliPixels(pixels, 3)

    def parameters_per_pixel(self, channels: int) -> int:
        """Returns how many numbers a decoder must return for each pixel: C."""
        return channels

    def uniforms_per_pixel(self, channels: int) -> int:
        """Returns how many uniform numbers `draw` takes for each pixel: C."""
        return channels

    def get_config(self) -> dict[str, Any]:
        return {}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> ContinuousBernoulli:
        return cls(**config)


@keras.saving.register_keras_serializable(package="vae_keras")
class StandardNormal:
    """The prior N(0, I).

    Example:
        >>> StandardNormal().distribution(latent_dim=3).log_prob(tf.zeros([3])).shape
        TensorShape([])
    """

    def distribution(self, latent_dim: int) -> tfd.Distribution:
        """Returns the prior p(z).

        Args:
            latent_dim: number of latent dimensions.

        Returns:
            A distribution with event shape [latent_dim].
        """
        return tfd.Independent(tfd.Normal(tf.zeros(latent_dim), tf.ones(latent_dim)), 1)

    def transform(self, noise: tf.Tensor) -> tf.Tensor:
        """Maps standard normal noise to samples of the prior, which is the identity here.

        Args:
            noise: standard normal, [N, latent_dim].

        Returns:
            Samples [N, latent_dim].
        """
        return noise

    def get_config(self) -> dict[str, Any]:
        return {}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> StandardNormal:
        return cls(**config)


def kl_divergence(posterior: tfd.Distribution, prior: tfd.Distribution, z: tf.Tensor) -> tf.Tensor:
    """Returns KL(q(z | x) || p(z)) in nats, in closed form where one exists.

    Args:
        posterior: q(z | x).
        prior: p(z).
        z: samples of the posterior, [..., latent_dim]. Without a closed form the result is
            log q(z | x) - log p(z) at each sample, which is an unbiased estimate of the KL.

    Returns:
        The closed form has the batch shape of the posterior. The estimate has the batch shape of
        the samples.

    Example:
        >>> prior = StandardNormal().distribution(3)
        >>> q = posterior(tf.zeros([8, 6]))
        >>> kl_divergence(q, prior, reparameterize(q, tf.zeros([8, 3]))).shape
        TensorShape([8])
    """
    try:
        return tfd.kl_divergence(posterior, prior)
    except NotImplementedError:
        return posterior.log_prob(z) - prior.log_prob(z)


class _BernoulliPixels(tfd.Independent):
    """TFP's Independent over Bernoulli pixels, with the log-probability of `kernels.bernoulli`."""

    def _log_prob(self, x: tf.Tensor) -> tf.Tensor:
        return bernoulli.bernoulli_log_prob(x, self.distribution.logits)

    def draw(self, uniform: tf.Tensor) -> tf.Tensor:
        """Maps uniform numbers in (0, 1), [..., H, W, C], to images of zeros and ones."""
        return tf.cast(uniform < tf.sigmoid(self.distribution.logits), tf.float32)

    def saturated(self) -> tf.Tensor:
        """Returns which logits lie beyond `SATURATED`, [..., H, W, C]."""
        return tf.abs(self.distribution.logits) > SATURATED


class _ContinuousBernoulliPixels(tfd.Independent):
    """TFP's Independent over continuous Bernoulli pixels, with the kernels' sum and mean."""

    def _log_prob(self, x: tf.Tensor) -> tf.Tensor:
        return bernoulli.continuous_bernoulli_log_prob(x, self.distribution.logits)

    def _mean(self) -> tf.Tensor:
        return bernoulli.continuous_bernoulli_mean(self.distribution.logits)

    def draw(self, uniform: tf.Tensor) -> tf.Tensor:
        """Maps uniform numbers in (0, 1), [..., H, W, C], to grey images."""
        logits = self.distribution.logits
        is_dark = logits < 0.0
        # The inverse distribution function at -|l|. At |l| = 1e-3 it differs from that of l = 0,
        # which has no quotient, by 1e-4 at most.
        slope = tf.maximum(tf.abs(logits), 1e-3)
        place = tf.where(is_dark, uniform, 1.0 - uniform)
        dark = -tf.math.log1p(place * tf.math.expm1(-slope)) / slope
        return tf.clip_by_value(tf.where(is_dark, dark, 1.0 - dark), 0.0, 1.0)

    def saturated(self) -> tf.Tensor:
        """Returns which logits lie beyond `SATURATED`, [..., H, W, C]."""
        return tf.abs(self.distribution.logits) > SATURATED
