"""What training maximises: bounds on log p(x), per example, in nats. Pure functions."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from vae_keras import checks
from vae_keras.distributions import frozen, kl_divergence, reparameterize, tfd


class Terms(NamedTuple):
    """The terms of the ELBO, one number an example, in nats: elbo = log_likelihood - kl."""

    elbo: tf.Tensor
    log_likelihood: tf.Tensor
    kl: tf.Tensor


@keras.saving.register_keras_serializable(package="vae_keras")
class ELBO:
    """The evidence lower bound: E_q[log p(x | z)] - KL(q(z | x) || p(z)).

    What training maximises may weigh the KL by another number than 1; the `elbo` that is reported
    never does. A `beta` above 1 buys a low rate with distortion, one below 1 the other way round; a
    warm-up lets the decoder learn before the KL switches latent dimensions off.

    Args:
        beta: the KL's weight, > 0. Default 1.0.
        warmup_steps: optimizer steps over which the weight rises linearly from 0 to beta, >= 0.
            Default 0.

    Example:
        >>> vae = VAE(MLPEncoder(), MLPDecoder(), objective=ELBO(beta=4.0, warmup_steps=1000))

    References:
        Kingma & Welling 2014, "Auto-encoding variational Bayes", equations 3 and 7.
        Higgins et al. 2017, "beta-VAE: learning basic visual concepts with a constrained
        variational framework", equation 4.
        Sønderby et al. 2016, "Ladder variational autoencoders", section 2.3 on the warm-up.
    """

    def __init__(self, beta: float = 1.0, warmup_steps: int = 0) -> None:
        self.beta = checks.positive("beta", beta)
        self.warmup_steps = checks.whole_number("warmup_steps", warmup_steps, 0)

    @property
    def weighs_kl(self) -> bool:
        """Whether the KL's weight is ever another number than 1."""
        return self.beta != 1.0 or self.warmup_steps > 0

    def kl_weight(self, step: tf.Tensor | None) -> float | tf.Tensor:
        """Returns the KL's weight at an optimizer step from 0 on, or beta for None."""
        if step is None or not self.warmup_steps:
            return self.beta
        return self.beta * tf.minimum(tf.cast(step, tf.float32) / self.warmup_steps, 1.0)

    def noise_size(self, latent_dim: int) -> int:
        """How many standard normal numbers an example needs."""
        return latent_dim

    def __call__(
        self,
        x: tf.Tensor,
        posterior: tfd.Distribution,
        prior: tfd.Distribution,
        decode: Callable[[tf.Tensor], tfd.Distribution],
        noise: tf.Tensor,
        step: tf.Tensor | None = None,
    ) -> tuple[tf.Tensor, Terms]:
        """Estimates the bound with one draw from the posterior for each row of `noise`.

        Args:
            x: images [N, H, W, C] as the likelihood sees them.
            posterior: q(z | x), batch [N].
            prior: p(z).
            decode: latents [..., latent_dim] to p(x | z).
            noise: standard normal [N, latent_dim].
            step: of the optimizer, integer [], or None after all of them. Default None.

        Returns:
            What to maximise, [N], and the `Terms` to report.
        """
        z = reparameterize(posterior, noise)  # [N, latent_dim]
        log_likelihood = decode(z).log_prob(x)  # [N]
        kl = kl_divergence(posterior, prior, z)  # [N]
        weighted = log_likelihood - self.kl_weight(step) * kl
        return weighted, Terms(log_likelihood - kl, log_likelihood, kl)

    def get_config(self) -> dict[str, Any]:
        return {"beta": self.beta, "warmup_steps": self.warmup_steps}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> ELBO:
        return cls(**config)


@keras.saving.register_keras_serializable(package="vae_keras")
class IWAE:
    """The importance-weighted bound: E log mean_k p(x, z_k) / q(z_k | x), with z_k from q(z | x).

    It lies between the ELBO and log p(x) and rises with k. The encoder's gradient is the doubly
    reparameterised one: its noise does not drown the signal as k grows.

    Few of many draws carry the gradient: `num_resampled` picks that many by their weights, so that
    the others need no backward pass. Its expectation stays the same; the bound is that of all.

    Args:
        num_samples: k, draws from the posterior an image, >= 1. Default 50.
        num_resampled: draws a backward pass goes through, 1 to k, or None for all. Default None.

    Example:
        >>> vae = VAE(MLPEncoder(), MLPDecoder(), objective=IWAE(50, num_resampled=5))

    References:
        Burda et al. 2016, "Importance weighted autoencoders", equation 8; section 3 on sampling
        the draws of the backward pass.
        Tucker et al. 2018, "Doubly reparameterized gradient estimators for Monte Carlo
        objectives", equation 8.
        Kitagawa 1996, "Monte Carlo filter and smoother for non-Gaussian nonlinear state space
        models", on systematic resampling.
    """

    weighs_kl = False

    def __init__(self, num_samples: int = 50, num_resampled: int | None = None) -> None:
        self.num_samples = checks.whole_number("num_samples", num_samples, 1)
        if num_resampled is not None:
            checks.whole_number("num_resampled", num_resampled, 1, self.num_samples)
        self.num_resampled = num_resampled

    def noise_size(self, latent_dim: int) -> int:
        """How many standard normal numbers an example needs: k draws, and one to resample."""
        return self.num_samples * latent_dim + (self.num_resampled is not None)

    def __call__(
        self,
        x: tf.Tensor,
        posterior: tfd.Distribution,
        prior: tfd.Distribution,
        decode: Callable[[tf.Tensor], tfd.Distribution],
        noise: tf.Tensor,
        step: tf.Tensor | None = None,
    ) -> tuple[tf.Tensor, Terms]:
        """Estimates the bound; arguments as in `ELBO`, but for the noise.

        Args:
            x, posterior, prior, decode: as in `ELBO.__call__`.
            noise: standard normal [N, noise_size].
            step: not asked for; every step has the same bound.

        Returns:
            The bound, [N], and the `Terms` of the ELBO, means over the same draws.
        """
        latent_dim = prior.event_shape[0]
        draws = tf.reshape(
            noise[:, : self.num_samples * latent_dim], [-1, self.num_samples, latent_dim]
        )
        each = posterior[:, tf.newaxis]  # batch [N, 1]

        @tf.custom_gradient
        def weighted_once_more(z: tf.Tensor) -> tuple[tf.Tensor, Callable[[tf.Tensor], tf.Tensor]]:
            # The bound's gradient weighs draw k by w_k. The encoder, which z leads to, takes w_k^2,
            # with the posterior's own density held fixed. `weights` is known when this runs.
            return tf.identity(z), lambda upstream: upstream * weights[..., tf.newaxis]

        def log_weights(z: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            log_likelihood = decode(z).log_prob(x[:, tf.newaxis])  # [N, k]
            log_prior, log_posterior = prior.log_prob(z), frozen(each).log_prob(z)
            return log_likelihood + log_prior - log_posterior, log_likelihood

        z = weighted_once_more(reparameterize(each, draws))  # [N, k, latent_dim]
        log_weight, log_likelihood = log_weights(z)
        kl = tf.reduce_mean(kl_divergence(each, prior, z), axis=1)
        weights = tf.stop_gradient(tf.nn.softmax(log_weight, axis=1))
        bound = tf.reduce_logsumexp(log_weight, axis=1) - math.log(self.num_samples)
        if self.num_resampled is not None:
            kept = _systematic(weights, noise[:, -1], self.num_resampled)  # [N, num_resampled]
            weights = tf.gather(weights, kept, batch_dims=1)
            z = weighted_once_more(reparameterize(each, tf.gather(draws, kept, batch_dims=1)))
            # Drawn by their weights, the draws count alike.
            carrier = tf.reduce_mean(log_weights(z)[0], axis=1)
            bound = tf.stop_gradient(bound - carrier) + carrier

        log_likelihood = tf.reduce_mean(log_likelihood, axis=1)
        return bound, Terms(log_likelihood - kl, log_likelihood, kl)

    def get_config(self) -> dict[str, Any]:
        return {"num_samples": self.num_samples, "num_resampled": self.num_resampled}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> IWAE:
        return cls(**config)


def _systematic(weights: tf.Tensor, noise: tf.Tensor, num: int) -> tf.Tensor:
    """Picks `num` indices of each row of weights [N, k] by them, with standard normal noise [N]."""
    offset = tfd.Normal(0.0, 1.0).cdf(noise)[:, tf.newaxis]  # uniform
    places = (tf.range(num, dtype=weights.dtype) + offset) / num  # [N, num]
    passed = tf.cumsum(weights, axis=1)[:, tf.newaxis] <= places[..., tf.newaxis]
    # Rounded, the weights may add up to less than the last place.
    return tf.minimum(tf.reduce_sum(tf.cast(passed, tf.int32), axis=-1), weights.shape[1] - 1)
