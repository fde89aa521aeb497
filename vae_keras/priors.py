"""Priors over the latents: N(0, I), and a learned autoregressive flow."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from vae_keras.distributions import StandardNormal, tfb, tfd
from vae_keras.networks import activation_function, variance_scaling
from vae_keras.utils import checks

__all__ = ["AutoregressiveFlow", "StandardNormal"]

_KIND = 4  # for the kernels' seeds; no network has this kind
# Every factor exp(alpha) lies between e^-3 and e^3, so that a single bad training step cannot make
# the density infinite.
_MAX_ALPHA = 3.0


@keras.saving.register_keras_serializable(package="vae_keras")
class AutoregressiveFlow(keras.layers.Layer):
    """A learned prior: a stack of masked autoregressive flows over N(0, I).

    Each flow maps u to z, one dimension after the other: z_d = u_d * exp(alpha_d) + mu_d, where
    alpha_d and mu_d are functions of z_1 to z_(d-1). The order of the dimensions is reversed
    between two flows. A fresh prior is N(0, I). A density takes one pass through each flow's
    network. A draw takes one pass for each dimension.

    Args:
        depth: number of flows, >= 1. Default 4.
        hidden: widths of the hidden layers of each flow's network. Default (256, 256).
        activation: name of the hidden layers' activation, as in `networks.activation_function`.
            Default "elu".
        seed: seed of the initial weights, integer in [0, 2^31). Default 0.

    Raises:
        checks.InputError: for an argument outside of its range.

    Example:
        >>> from vae_keras import VAE
        >>> vae = VAE(prior=AutoregressiveFlow())
        >>> vae.prior_latents(25).shape
        (25, 50)

    References:
        Papamakarios et al. 2017, "Masked autoregressive flow for density estimation", equation 3.
        Germain et al. 2015, "MADE: masked autoencoder for distribution estimation", section 3.
        Chen et al. 2017, "Variational lossy autoencoder", section 3.2.
    """

    def __init__(
        self,
        depth: int = 4,
        hidden: Sequence[int] = (256, 256),
        activation: str = "elu",
        seed: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if self.variable_dtype != "float32":
            raise checks.InputError(
                "AutoregressiveFlow must keep its weights in float32. "
                f"Received: dtype {self.dtype_policy.name!r}. Pass dtype='float32', or call "
                "keras.config.set_dtype_policy('float32')."
            )
        self.depth = checks.whole_number("depth", depth, 1)
        self.hidden = checks.sizes("hidden", hidden)
        self.activation, self.seed = activation, checks.seed(seed)
        self._activation = activation_function(activation)

    def build(self, input_shape: tuple[Any, ...]) -> None:
        latent_dim = int(input_shape[-1])
        self._masks = _masks(latent_dim, self.hidden)
        last = len(self._masks) - 1
        self._layers_of = [
            [
                (
                    self.add_weight(
                        shape=mask.shape,
                        initializer="zeros"  # mu = alpha = 0: the flow is the identity
                        if index == last
                        else variance_scaling(self.seed, _KIND, flow * (last + 1) + index),
                        name=f"kernel_{flow}_{index}",
                    ),
                    self.add_weight(
                        shape=mask.shape[1:], initializer="zeros", name=f"bias_{flow}_{index}"
                    ),
                )
                for index, mask in enumerate(self._masks)
            ]
            for flow in range(self.depth)
        ]

    def distribution(self, latent_dim: int) -> tfd.Distribution:
        """Returns the prior as a distribution.

        Args:
            latent_dim: number of latent dimensions.

        Returns:
            A TFP distribution with event shape [latent_dim].
        """
        base = StandardNormal().distribution(latent_dim)
        return tfd.TransformedDistribution(base, self._bijector(latent_dim))

    def transform(self, noise: tf.Tensor) -> tf.Tensor:
        """Transforms standard normal noise to draws of the prior.

        Args:
            noise: float32 [N, latent_dim].

        Returns:
            float32 [N, latent_dim].
        """
        return self._bijector(noise.shape[-1]).forward(noise)

    def _bijector(self, latent_dim: Any) -> tfb.Bijector:
        if not self.built:
            self.build((None, latent_dim))
        reverse = tfb.Permute(np.arange(latent_dim)[::-1])
        flows = [
            tfb.MaskedAutoregressiveFlow(lambda z, flow=flow: self._mu_and_alpha(flow, z))
            for flow in range(self.depth)
        ]
        chain = [flows[0], *(part for flow in flows[1:] for part in (reverse, flow))]
        return tfb.Chain(chain)

    def _mu_and_alpha(self, flow: int, z: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        h = z  # [..., latent_dim]
        for index, ((kernel, bias), mask) in enumerate(
            zip(self._layers_of[flow], self._masks, strict=True)
        ):
            h = self._activation(h) if index else h
            h = tf.tensordot(h, kernel * mask, 1) + bias
        mu, alpha = tf.split(h, 2, axis=-1)
        return mu, _MAX_ALPHA * tf.tanh(alpha / _MAX_ALPHA)

    def get_config(self) -> dict[str, Any]:
        return super().get_config() | {
            "depth": self.depth,
            "hidden": list(self.hidden),
            "activation": self.activation,
            "seed": self.seed,
        }


def _masks(latent_dim: int, hidden: Sequence[int]) -> list[np.ndarray]:
    """Returns masks [in, out] of the kernels: outputs for dimension d depend on 1 to d - 1 only."""
    dimensions = np.arange(1, latent_dim + 1)
    most = max(latent_dim - 1, 1)  # a hidden unit of degree d depends on the dimensions 1 to d
    degrees = [dimensions, *(np.arange(width) % most + 1 for width in hidden)]
    masks = [before[:, np.newaxis] <= after for before, after in itertools.pairwise(degrees)]
    last = degrees[-1][:, np.newaxis] < dimensions
    masks.append(np.concatenate([last, last], axis=1))  # mu, then alpha
    return [mask.astype(np.float32) for mask in masks]
