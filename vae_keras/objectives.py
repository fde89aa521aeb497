"""What training maximises: bounds on log p(x), per example, in nats. Pure functions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from vae_keras.distributions import kl_divergence, reparameterize, tfd


class Terms(NamedTuple):
    """The terms of the ELBO, one number an example, in nats: elbo = log_likelihood - kl."""

    elbo: tf.Tensor
    log_likelihood: tf.Tensor
    kl: tf.Tensor


@keras.saving.register_keras_serializable(package="vae_keras")
class ELBO:
    """The evidence lower bound: E_q[log p(x | z)] - KL(q(z | x) || p(z)).

    Example:
        >>> vae = VAE(MLPEncoder(), MLPDecoder(), objective=ELBO())

    References:
        Kingma & Welling 2014, "Auto-encoding variational Bayes", equations 3 and 7.
    """

    def __call__(
        self,
        x: tf.Tensor,
        posterior: tfd.Distribution,
        prior: tfd.Distribution,
        decode: Callable[[tf.Tensor], tfd.Distribution],
        noise: tf.Tensor,
    ) -> tuple[tf.Tensor, Terms]:
        """Estimates the bound with one draw from the posterior for each row of `noise`.

        Args:
            x: images [N, H, W, C] as the likelihood sees them.
            posterior: q(z | x), batch [N].
            prior: p(z).
            decode: latents [N, latent_dim] to p(x | z).
            noise: standard normal [N, latent_dim].

        Returns:
            What to maximise, [N], and the `Terms` to report.
        """
        z = reparameterize(posterior, noise)  # [N, latent_dim]
        log_likelihood = decode(z).log_prob(x)  # [N]
        kl = kl_divergence(posterior, prior)  # [N]
        elbo = log_likelihood - kl
        return elbo, Terms(elbo, log_likelihood, kl)

    def get_config(self) -> dict[str, Any]:
        return {}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> ELBO:
        return cls(**config)
