"""How latents are inferred: from a flat posterior, or in groups from the top down.

An objective sees a function of noise, `Infer`, and does not know which kind of model it measures.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import tensorflow as tf

from vae_keras.distributions import (
    diagonal_normal,
    kl_divergence,
    reparameterize,
    stop_gradient,
    tfd,
)
from vae_keras.kernels import gradients


class Draw(NamedTuple):
    """Samples of the posterior, with what a bound on log p(x) needs to know of them.

    Attributes:
        latents: z, [..., latent_dim].
        likelihood: p(x | z), batch shape [...].
        kl: KL(q(z | x) || p(z)) in nats, in closed form where one exists. Its shape broadcasts
            with [...].
        log_prior: log p(z) in nats, [...].
        log_posterior: log q(z | x) in nats, [...].
    """

    latents: tf.Tensor
    likelihood: tfd.Distribution
    kl: tf.Tensor
    log_prior: tf.Tensor
    log_posterior: tf.Tensor


class Infer(Protocol):
    """Draws from the posterior of N images, as a function of noise."""

    def __call__(
        self, noise: tf.Tensor, path_weights: Callable[[], tf.Tensor] | None = None
    ) -> Draw:
        """Maps standard normal noise to samples of the posterior.

        Args:
            noise: [N, latent_dim], or [N, k, latent_dim] for k samples of each image.
            path_weights: for a bound with importance weights: returns the normalised weights
                [N, k] when the gradient is computed. A flat posterior then forms the doubly
                reparameterised gradient. Default None, for the total derivative.
        """


def flat(
    posterior: tfd.Distribution,
    prior: tfd.Distribution,
    decode: Callable[[tf.Tensor], tfd.Distribution],
) -> Infer:
    """Infers all latents at once: z = loc + scale * noise.

    Args:
        posterior: q(z | x), batch shape [N].
        prior: p(z).
        decode: latents [..., latent_dim] to p(x | z).

    Returns:
        The function that an objective takes.

    References:
        Kingma & Welling 2014, "Auto-encoding variational Bayes", section 2.4.
        Tucker et al. 2018, "Doubly reparameterized gradient estimators for Monte Carlo
        objectives", equation 8.
    """

    def infer(noise: tf.Tensor, path_weights: Callable[[], tf.Tensor] | None = None) -> Draw:
        each = posterior
        if len(noise.shape) == 3:  # batch shape [N, 1]
            normal = posterior.distribution
            each = diagonal_normal(normal.loc[:, tf.newaxis], normal.scale[:, tf.newaxis])
        z, density = reparameterize(each, noise), each
        if path_weights is not None:
            # The gradient of the bound weighs sample k by w_k. The encoder, to which z leads,
            # takes w_k^2 with the density of the posterior held fixed.
            z, density = _weighted_gradient(z, path_weights), stop_gradient(each)
        kl = kl_divergence(each, prior, z)
        return Draw(z, decode(z), kl, prior.log_prob(z), density.log_prob(z))

    return infer


def is_top_down(decoder: Any) -> bool:
    """Returns whether a decoder infers its latents in groups.

    Args:
        decoder: a Keras layer or model. A top-down one has `latent_dim` and
            `infer(context, noise, training)`, which returns a `Path`.
    """
    return hasattr(decoder, "latent_dim") and callable(getattr(decoder, "infer", None))


def latent_groups(decoder: Any, latent_dim: int) -> list[tuple[int, ...]]:
    """Returns the shape of each group of latents, from the top down.

    Args:
        decoder: a Keras layer or model.
        latent_dim: number of latents in all groups.

    Returns:
        The decoder's `latent_groups`, or a single group for a decoder without.

    Example:
        >>> from vae_keras import MLPDecoder
        >>> latent_groups(MLPDecoder(), 50)
        [(50,)]
    """
    return list(getattr(decoder, "latent_groups", [(latent_dim,)]))


class Path(NamedTuple):
    """Latents that were drawn group by group, and the posterior of each group on the way.

    Attributes:
        latents: [N, latent_dim].
        loc: mean of each latent, given the latents of the groups above it, [N, latent_dim].
        scale: standard deviation of each latent, given those above it, [N, latent_dim].
        parameters: what the likelihood takes, such as logits [N, H, W, C].
    """

    latents: tf.Tensor
    loc: tf.Tensor
    scale: tf.Tensor
    parameters: tf.Tensor


def top_down(
    walk: Callable[[Sequence[tf.Tensor], tf.Tensor], Path],
    context: Sequence[tf.Tensor],
    prior: tfd.Distribution,
    likelihood: Callable[[tf.Tensor], tfd.Distribution],
) -> Infer:
    """Infers the latents in groups: each group's posterior is conditioned on the groups above it.

    The prior of every latent is N(0, 1). The KL of a group is in closed form, given the latents
    above it, so the sum over groups is an estimate of the whole KL.

    The gradient is the total derivative. The doubly reparameterised gradient of a flat posterior
    does not hold here, because loc and scale of a group depend on the samples above it.

    Args:
        walk: context and noise [N, latent_dim] to a `Path`.
        context: what the encoder knows of each image, tensors [N, ...].
        prior: p(z), N(0, I).
        likelihood: a path's parameters to p(x | z).

    Returns:
        The function that an objective takes.

    References:
        Sønderby et al. 2016, "Ladder variational autoencoders", equations 4 to 10.
        Bauer & Mnih 2021, "Generalized doubly reparameterized gradient estimators", section 3.
    """

    def infer(noise: tf.Tensor, path_weights: Callable[[], tf.Tensor] | None = None) -> Draw:
        has_samples = len(noise.shape) == 3
        parts = list(context)
        if has_samples:  # The encoder runs once for each image, and its output is repeated.
            parts = [tf.repeat(part, tf.shape(noise)[1], axis=0) for part in parts]
        path = walk(parts, tf.reshape(noise, [-1, prior.event_shape[0]]))

        def of_each(flat: tf.Tensor) -> tf.Tensor:
            if not has_samples:
                return flat
            return tf.reshape(flat, tf.concat([tf.shape(noise)[:2], flat.shape[1:]], axis=0))

        z, loc, scale, parameters = map(of_each, path)
        posterior = diagonal_normal(loc, scale)
        kl = kl_divergence(posterior, prior, z)
        return Draw(z, likelihood(parameters), kl, prior.log_prob(z), posterior.log_prob(z))

    return infer


def _weighted_gradient(z: tf.Tensor, weights: Callable[[], tf.Tensor]) -> Any:
    """Returns z, whose gradient is multiplied by weights that are known only later."""

    @gradients.custom_gradient
    def same(z: tf.Tensor) -> tuple[tf.Tensor, Callable[[tf.Tensor], tf.Tensor]]:
        return tf.identity(z), lambda upstream: upstream * weights()[..., tf.newaxis]

    return same(z)
