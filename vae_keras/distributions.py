"""Prior, posterior and likelihood: the only module that imports TensorFlow Probability.

The objects live inside the model's methods; networks and exported signatures see tensors.
"""

from __future__ import annotations

import math
from typing import Any

import keras
import tensorflow as tf
import tensorflow_probability as tfp

tfb, tfd = tfp.bijectors, tfp.distributions

SCALE_FLOOR = 1e-4
"""Smallest scale of a posterior: keeps its log finite where softplus underflows. The smallest
that planar_mnist gives a test image is 0.008."""


def posterior(parameters: tf.Tensor) -> tfd.Distribution:
    """Builds the diagonal normal posterior q(z | x) from an encoder's output.

    Args:
        parameters: [N, 2 * latent_dim], loc and, before the softplus, scale.

    Returns:
        `Independent(Normal)` with batch [N] and event [latent_dim]; scale = softplus + SCALE_FLOOR.
    """
    loc, raw_scale = tf.split(tf.cast(parameters, tf.float32), 2, axis=-1)
    return tfd.Independent(tfd.Normal(loc, tf.nn.softplus(raw_scale) + SCALE_FLOOR), 1)


def reparameterize(posterior: tfd.Distribution, noise: tf.Tensor) -> tf.Tensor:
    """Moves standard normal noise [..., N, latent_dim] to the posterior: z = loc + scale * noise.

    References:
        Kingma & Welling 2014, section 2.4.
    """
    normal = posterior.distribution
    return normal.loc + normal.scale * noise


def frozen(posterior: tfd.Distribution) -> tfd.Distribution:
    """Returns the same posterior with no gradient to its parameters."""
    normal = posterior.distribution
    loc, scale = tf.stop_gradient(normal.loc), tf.stop_gradient(normal.scale)
    return tfd.Independent(tfd.Normal(loc, scale), 1)


class Pixels(tfd.Independent):
    """TFP's Independent over the Bernoulli pixels of an image, its log-probability in one softplus.

    TFP evaluates softplus twice a pixel and guards both products against NaN. For finite logits
    `x * logits - softplus(logits)` is the same number, and its gradient is `x - sigmoid(logits)`.
    Images [..., 1, H, W, C] against logits [..., S, H, W, C] are S draws that share an image.
    """

    def _terms(self, x: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
        """[..., P] to [..., K], whose sum over the last axis is the log-probability."""
        return _bernoulli_terms(x, logits)

    def _pixel_means(self, logits: tf.Tensor) -> tf.Tensor:
        return tf.sigmoid(logits)

    def _log_prob(self, x: tf.Tensor) -> tf.Tensor:
        logits = self.distribution.logits  # [..., H, W, C]
        size = math.prod(logits.shape[-3:])

        def flat(pixels: tf.Tensor) -> tf.Tensor:
            # XLA on a CPU sums one long axis faster than three short ones.
            return tf.reshape(pixels, tf.concat([tf.shape(pixels)[:-3], [size]], axis=0))

        x, logits = flat(tf.cast(x, logits.dtype)), flat(logits)
        shares_image = x.shape[:-1] == [*logits.shape[:-2], 1] and x.shape.is_fully_defined()
        if x.shape != logits.shape and not shares_image:
            shape = tf.broadcast_dynamic_shape(tf.shape(x), tf.shape(logits))
            x, logits = tf.broadcast_to(x, shape), tf.broadcast_to(logits, shape)

        @tf.custom_gradient
        def log_prob(x: tf.Tensor, logits: tf.Tensor) -> tuple[tf.Tensor, Any]:
            def gradient(upstream: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
                each = upstream[..., tf.newaxis]
                if shares_image:
                    x_gradient = tf.linalg.matmul(upstream[..., tf.newaxis, :], logits)
                else:
                    x_gradient = each * logits
                return x_gradient, each * (x - self._pixel_means(logits))

            terms = self._terms(x, logits)
            # A product with ones: XLA on a CPU would fuse a sum with its terms, and then compute
            # these one by one.
            count = terms.shape[-1]
            sums = tf.matmul(tf.reshape(terms, [-1, count]), tf.ones([count, 1]))
            return tf.reshape(sums, tf.shape(terms)[:-1]), gradient

        return log_prob(x, logits)


class ContinuousPixels(Pixels):
    """The same over continuous Bernoulli pixels, whose log-normaliser is log((e^l - 1) / l).

    That is softplus(l) - log C(l) for logits l. TFP's own goes through probabilities, which round
    to 0 and 1 where logits are large; so does its mean.
    """

    def _terms(self, x: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
        # By symmetry of the logits' magnitude a: relu(logits) + log((1 - e^-a) / a). Both branches
        # of the `where` are finite: the first one's a is out of the way of 0, where the series is.
        is_small, small, large = _by_size(logits)
        square = small**2
        series = -small / 2 + square * (1 / 24 - square * (1 / 2880 - square / 181440))
        log_ratio = tf.where(is_small, series, tf.math.log((1.0 - tf.exp(-large)) / large))
        return x * logits - tf.nn.relu(logits) - log_ratio

    def _pixel_means(self, logits: tf.Tensor) -> tf.Tensor:
        is_small, small, large = _by_size(logits)
        square, tail = small**2, tf.exp(-large)
        series = 0.5 - small * (1 / 12 - square * (1 / 720 - square / 30240))
        dark = tf.where(is_small, series, 1.0 / large - tail / (1.0 - tail))  # of -a
        return tf.where(logits < 0.0, dark, 1.0 - dark)

    def _mean(self) -> tf.Tensor:
        return self._pixel_means(self.distribution.logits)


def _by_size(logits: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Whether logits are near 0, and their magnitudes, once kept near it and once away from it."""
    a = tf.abs(logits)
    return a < 0.5, tf.minimum(a, 0.5), tf.maximum(a, 0.5)


def _bernoulli_terms(x: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """x * logits - softplus(logits), summed over up to 16 pixels each.

    softplus is relu + log(1 + e^-|l|). Up to 16 factors, each at most 2, share one logarithm:
    rounding them costs 1e-6 nats, sixteen logarithms an eighth of the likelihood estimate's time.
    """
    size = logits.shape[-1]
    # Parts of whole vectors of 8 numbers, where there are such.
    parts = next((n for n in range(16, 1, -1) if size % (8 * n) == 0), 1)
    linear, factors = 0.0, 1.0
    for pixel, logit in zip(tf.split(x, parts, -1), tf.split(logits, parts, -1), strict=True):
        linear += pixel * logit - tf.nn.relu(logit)
        factors *= 1.0 + tf.exp(-tf.abs(logit))
    return linear - tf.math.log(factors)


@keras.saving.register_keras_serializable(package="vae_keras")
class Bernoulli:
    """The likelihood of binary images: each pixel is 1 with probability sigmoid(logit), or 0."""

    takes_grey = False  # whether pixels between 0 and 1, or those two alone, have a probability

    def distribution(self, logits: tf.Tensor) -> tfd.Distribution:
        """Returns p(x | z), one event an image, from a decoder's output [..., H, W, C]."""
        pixels = tfd.Bernoulli(logits=tf.cast(logits, tf.float32), dtype=tf.float32)
        return Pixels(pixels, 3)

    def get_config(self) -> dict[str, Any]:
        return {}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Bernoulli:
        return cls(**config)


@keras.saving.register_keras_serializable(package="vae_keras")
class ContinuousBernoulli:
    """The likelihood of grey images: each pixel has a density on [0, 1], C e^(logit * pixel).

    Its mean is no sigmoid: 1 / (1 - e^-logit) - 1 / logit, which is grey for most logits. Nats of
    a density may be positive, and compare only with those of densities on [0, 1].

    References:
        Loaiza-Ganem & Cunningham 2019, "The continuous Bernoulli: fixing a pervasive error in
        variational autoencoders", equations 8 and 11.
    """

    takes_grey = True

    def distribution(self, logits: tf.Tensor) -> tfd.Distribution:
        """Returns p(x | z), one event an image, from a decoder's output [..., H, W, C]."""
        pixels = tfd.ContinuousBernoulli(logits=tf.cast(logits, tf.float32), dtype=tf.float32)
        return ContinuousPixels(pixels, 3)

    def get_config(self) -> dict[str, Any]:
        return {}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> ContinuousBernoulli:
        return cls(**config)


@keras.saving.register_keras_serializable(package="vae_keras")
class StandardNormal:
    """The prior N(0, I)."""

    def distribution(self, latent_dim: int) -> tfd.Distribution:
        """Returns the prior over latents [latent_dim]."""
        return tfd.Independent(tfd.Normal(tf.zeros(latent_dim), tf.ones(latent_dim)), 1)

    def transform(self, noise: tf.Tensor) -> tf.Tensor:
        """Moves standard normal noise [N, latent_dim] to draws of the prior: there they are."""
        return noise

    def get_config(self) -> dict[str, Any]:
        return {}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> StandardNormal:
        return cls(**config)


def kl_divergence(posterior: tfd.Distribution, prior: tfd.Distribution, z: tf.Tensor) -> tf.Tensor:
    """Returns KL(q(z | x) || p(z)), in nats, in closed form where there is one.

    Args:
        posterior: q(z | x).
        prior: p(z).
        z: draws from the posterior, [..., latent_dim]; where there is no closed form,
            log q(z | x) - log p(z) at each is its estimate, right in expectation.

    Returns:
        The posterior's batch shape, or that of the draws.
    """
    try:
        return tfd.kl_divergence(posterior, prior)
    except NotImplementedError:
        return posterior.log_prob(z) - prior.log_prob(z)
