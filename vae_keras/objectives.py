"""What training maximises: bounds on log p(x), per example, in nats. Pure functions."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from vae_keras.distributions import tfd
from vae_keras.inference import Draw, Infer
from vae_keras.utils import checks


class Terms(NamedTuple):
    """The terms of the ELBO of each example, in nats: elbo = log_likelihood - kl."""

    elbo: tf.Tensor
    log_likelihood: tf.Tensor
    kl: tf.Tensor


def log_weights(x: tf.Tensor, draw: Draw) -> tuple[tf.Tensor, tf.Tensor]:
    """Computes the importance weights log p(x | z) + log p(z) - log q(z | x).

    Args:
        x: images as the likelihood sees them, [..., H, W, C]; they broadcast with the samples.
        draw: samples of the posterior, [...].

    Returns:
        The log weights and log p(x | z), in nats, [...] each.

    References:
        Burda et al. 2016, "Importance weighted autoencoders", equation 7.
    """
    log_likelihood = draw.likelihood.log_prob(x)
    return log_likelihood + draw.log_prior - draw.log_posterior, log_likelihood


def elbo_terms(x: tf.Tensor, draw: Draw) -> Terms:
    """Estimates the terms of the ELBO with one sample of the posterior for each image.

    Args:
        x: images [N, H, W, C] as the likelihood sees them.
        draw: samples of the posterior, [N].

    Returns:
        `Terms` [N].
    """
    log_likelihood = draw.likelihood.log_prob(x)
    return Terms(log_likelihood - draw.kl, log_likelihood, draw.kl)


@keras.saving.register_keras_serializable(package="vae_keras")
class ELBO:
    """The evidence lower bound: E_q[log p(x | z)] - KL(q(z | x) || p(z)).

    Training may weigh the KL by another number than 1. The reported `elbo` always has the weight 1.
    A `beta` above 1 lowers the rate and raises the distortion, one below 1 does the opposite. A
    warm-up lets the decoder learn before the KL switches latent dimensions off.

    `beta` and `warmup_steps` may be set at any time, for example by a callback. A new value acts
    from the next step on.

    Args:
        beta: weight of the KL, > 0. Default 1.0.
        warmup_steps: number of optimizer steps over which the weight rises linearly from 0 to
            `beta`, >= 0. Default 0.

    Example:
        >>> vae = VAE(objective=ELBO(beta=4.0, warmup_steps=1000))

    References:
        Kingma & Welling 2014, "Auto-encoding variational Bayes", equations 3 and 7.
        Higgins et al. 2017, "beta-VAE: learning basic visual concepts with a constrained
        variational framework", equation 4.
        Sønderby et al. 2016, "Ladder variational autoencoders", section 2.3 on the warm-up.
    """

    def __init__(self, beta: float = 1.0, warmup_steps: int = 0) -> None:
        self._variable: tf.Variable | None = None
        self._beta, self._warmup_steps = 1.0, 0
        self.warmup_steps = warmup_steps
        self.beta = beta

    @property
    def beta(self) -> float:
        """The weight of the KL after the warm-up."""
        return self._beta

    @beta.setter
    def beta(self, value: float) -> None:
        self._beta = checks.positive("beta", value)
        self._keep_weight()

    @property
    def warmup_steps(self) -> int:
        """The number of optimizer steps over which the weight of the KL rises from 0."""
        return self._warmup_steps

    @warmup_steps.setter
    def warmup_steps(self, value: int) -> None:
        self._warmup_steps = checks.whole_number("warmup_steps", value, 0)
        self._keep_weight()

    def _keep_weight(self) -> None:
        # A compiled step reads the variable, so that a new value needs no new compilation.
        if self._variable is not None:
            self._variable.assign(self._beta)
        elif self.weighs_kl:
            self._variable = tf.Variable(self._beta, trainable=False, dtype=tf.float32)

    def place_weight(self, strategy: tf.distribute.Strategy) -> None:
        """Makes the variable of the weight anew unless it belongs to a strategy.

        A replica's kernel can only read a variable of its own device.

        Args:
            strategy: the strategy whose replicas read the weight.
        """
        placed = self._variable
        if placed is not None and not strategy.extended.variable_created_in_scope(placed):
            with strategy.scope():
                self._variable = tf.Variable(self._beta, trainable=False, dtype=tf.float32)

    @property
    def weighs_kl(self) -> bool:
        """Whether the weight of the KL differs from 1 at any step."""
        return self.beta != 1.0 or self.warmup_steps > 0

    def traced_settings(self) -> tuple[Any, ...]:
        """Returns the Python values that a compiled step has read."""
        return self.warmup_steps, self.weighs_kl, id(self._variable)

    def kl_weight(self, step: tf.Tensor | None) -> float | tf.Tensor:
        """Returns the weight of the KL.

        Args:
            step: number of optimizer steps so far, or None for the weight after the warm-up.
        """
        if not self.weighs_kl:
            return 1.0
        beta = tf.convert_to_tensor(self._variable)
        if step is None or not self.warmup_steps:
            return beta
        return beta * tf.minimum(tf.cast(step, tf.float32) / self.warmup_steps, 1.0)

    def noise_size(self, latent_dim: int) -> int:
        """Returns how many standard normal numbers an example needs."""
        return latent_dim

    def __call__(
        self,
        x: tf.Tensor,
        infer: Infer,
        noise: tf.Tensor,
        step: tf.Tensor | None = None,
    ) -> tuple[tf.Tensor, Terms]:
        """Estimates the bound with one sample of the posterior for each row of `noise`.

        Args:
            x: images [N, H, W, C] as the likelihood sees them.
            infer: noise to samples of the posterior of each image.
            noise: standard normal [N, latent_dim].
            step: number of optimizer steps so far, or None after training. Default None.

        Returns:
            The value to maximise, [N], and the `Terms` to report.
        """
        terms = elbo_terms(x, infer(noise))
        return terms.log_likelihood - self.kl_weight(step) * terms.kl, terms

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {"beta": self.beta, "warmup_steps": self.warmup_steps}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> ELBO:
        """Makes the objective that `get_config` describes."""
        return cls(**config)


@keras.saving.register_keras_serializable(package="vae_keras")
class IWAE:
    """The importance-weighted bound: E log mean_k p(x, z_k) / q(z_k | x), with z_k from q(z | x).

    The bound lies between the ELBO and log p(x), and it rises with k. The encoder of a flat
    posterior gets the doubly reparameterised gradient, whose noise does not drown the signal as k
    grows. A top-down posterior gets the total derivative.

    `num_resampled` draws that many of the k samples by their weights, and only those carry the
    gradient. The others need no backward pass. The expected gradient stays the same, and the
    reported bound is that of all k samples.

    Args:
        num_samples: k, the number of samples of the posterior for each image, >= 1. Default 50.
        num_resampled: number of samples that a backward pass goes through, 1 to k, or None for
            all of them. Default None.

    Example:
        >>> vae = VAE(objective=IWAE(50, num_resampled=5))

    References:
        Burda et al. 2016, "Importance weighted autoencoders", equation 8; section 3 on sampling
        the samples of the backward pass.
        Tucker et al. 2018, "Doubly reparameterized gradient estimators for Monte Carlo
        objectives", equation 8.
        Kitagawa 1996, "Monte Carlo filter and smoother for non-Gaussian nonlinear state space
        models", on systematic resampling.
    """

    def __init__(self, num_samples: int = 50, num_resampled: int | None = None) -> None:
        self._num_samples = checks.whole_number("num_samples", num_samples, 1)
        if num_resampled is not None:
            checks.whole_number("num_resampled", num_resampled, 1, num_samples)
        self._num_resampled = num_resampled

    @property
    def num_samples(self) -> int:
        """The number of samples of the posterior for each image. It is fixed."""
        return self._num_samples

    @property
    def num_resampled(self) -> int | None:
        """The number of samples that are decoded again for the gradient. It is fixed."""
        return self._num_resampled

    def traced_settings(self) -> tuple[Any, ...]:
        """Returns the Python values that a compiled step has read."""
        return self.num_samples, self.num_resampled

    def noise_size(self, latent_dim: int) -> int:
        """Returns how many standard normal numbers an example needs: k samples, and resampling."""
        return self.num_samples * latent_dim + (self.num_resampled is not None)

    def __call__(
        self,
        x: tf.Tensor,
        infer: Infer,
        noise: tf.Tensor,
        step: tf.Tensor | None = None,
    ) -> tuple[tf.Tensor, Terms]:
        """Estimates the bound.

        Args:
            x, infer: as in `ELBO.__call__`.
            noise: standard normal [N, noise_size].
            step: not used; every step has the same bound. Default None.

        Returns:
            The bound, [N], and the `Terms` of the ELBO, which are means over the same samples.
        """
        latent_dim = (noise.shape[1] - (self.num_resampled is not None)) // self.num_samples
        samples = tf.reshape(
            noise[:, : self.num_samples * latent_dim], [-1, self.num_samples, latent_dim]
        )
        # The weights are known when the gradient is computed.
        draw = infer(samples, path_weights=lambda: weights)  # [N, k]
        log_weight, log_likelihood = log_weights(x[:, tf.newaxis], draw)
        kl = tf.reduce_mean(draw.kl, axis=1)
        weights = tf.stop_gradient(tf.nn.softmax(log_weight, axis=1))
        bound = tf.reduce_logsumexp(log_weight, axis=1) - math.log(self.num_samples)
        if self.num_resampled is not None:
            kept = _systematic(weights, noise[:, -1], self.num_resampled)  # [N, num_resampled]
            weights = tf.gather(weights, kept, batch_dims=1)
            again = infer(tf.gather(samples, kept, batch_dims=1), path_weights=lambda: weights)
            # Samples that were drawn by their weights count alike.
            carrier = tf.reduce_mean(log_weights(x[:, tf.newaxis], again)[0], axis=1)
            bound = tf.stop_gradient(bound - carrier) + carrier

        log_likelihood = tf.reduce_mean(log_likelihood, axis=1)
        return bound, Terms(log_likelihood - kl, log_likelihood, kl)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {"num_samples": self.num_samples, "num_resampled": self.num_resampled}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> IWAE:
        """Makes the objective that `get_config` describes."""
        return cls(**config)


def _systematic(weights: tf.Tensor, noise: tf.Tensor, num: int) -> tf.Tensor:
    """Draws `num` indices of each row by its weights [N, k], from standard normal noise [N]."""
    offset = tfd.Normal(0.0, 1.0).cdf(noise)[:, tf.newaxis]  # uniform
    places = (tf.range(num, dtype=weights.dtype) + offset) / num  # [N, num]
    passed = tf.cumsum(weights, axis=1)[:, tf.newaxis] <= places[..., tf.newaxis]
    # The rounded weights may add up to less than the last place.
    return tf.minimum(tf.reduce_sum(tf.cast(passed, tf.int32), axis=-1), weights.shape[1] - 1)
