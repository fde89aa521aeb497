"""Priors: N(0, I), and one that is learned, an autoregressive flow over the latents."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from vae_keras import checks
from vae_keras.distributions import StandardNormal, tfb, tfd
from vae_keras.networks import activation_function, variance_scaling

__all__ = ["AutoregressiveFlow", "StandardNormal"]

_SEEDS = 4  # encoders and decoders hold the kinds before
_STEEPEST = 3.0  # a scale lies within e^-3 and e^3: one wild step of training cannot end it


@keras.saving.register_keras_serializable(package="vae_keras")
class AutoregressiveFlow(keras.layers.Layer):
    """A learned prior: masked autoregressive flows over N(0, I), which it is when fresh.

    Each flow shifts and scales a dimension by functions of those before it; between two flows the
    order is reversed. A density takes one pass through each network, a draw one a dimension.

    Args:
        depth: how many flows. Default 4.
        hidden: widths of the hidden layers of each flow's network. Default (256, 256).
        activation: of the hidden layers, a Keras name. Default "elu".
        seed: of the initial weights, integer >= 0. Default 0.

    Example:
        >>> VAE(prior=AutoregressiveFlow()).prior_latents(25).shape
        (25, 50)

    References:
        Papamakarios et al. 2017, "Masked autoregressive flow for density estimation", equation 3.
        Germain et al. 2015, "MADE", section 3, on the masks.
        Chen et al. 2017, "Variational lossy autoencoder", section 3.2, on such a prior.
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
        self.depth = checks.whole_number("depth", depth, 1)
        self.hidden = checks.sizes("hidden", hidden)
        self.activation, self.seed = activation, checks.seed(seed)
        self._activation = activation_function(activation)

    def build(self, input_shape: Sequence[int | None]) -> None:
        latent_dim = int(input_shape[-1])
        self._masks = _masks(latent_dim, self.hidden)
        last = len(self._masks) - 1
        self._layers_of = [
            [
                (
                    self.add_weight(
                        shape=mask.shape,
                        initializer="zeros"  # no shift and a scale of 1
                        if index == last
                        else variance_scaling(self.seed, _SEEDS, flow * (last + 1) + index),
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
        """Returns the prior over latents [latent_dim]."""
        base = StandardNormal().distribution(latent_dim)
        return tfd.TransformedDistribution(base, self._bijector(latent_dim))

    def transform(self, noise: tf.Tensor) -> tf.Tensor:
        """Moves standard normal noise [N, latent_dim] to draws of the prior."""
        return self._bijector(noise.shape[-1]).forward(noise)

    def _bijector(self, latent_dim: int) -> tfb.Bijector:
        if not self.built:
            self.build((None, latent_dim))
        reverse = tfb.Permute(np.arange(latent_dim)[::-1])
        flows = [
            tfb.MaskedAutoregressiveFlow(lambda z, flow=flow: self._shift_and_log_scale(flow, z))
            for flow in range(self.depth)
        ]
        chain = [flows[0], *(part for flow in flows[1:] for part in (reverse, flow))]
        return tfb.Chain(chain)

    def _shift_and_log_scale(self, flow: int, z: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        h = z  # [..., latent_dim]
        for index, ((kernel, bias), mask) in enumerate(
            zip(self._layers_of[flow], self._masks, strict=True)
        ):
            h = self._activation(h) if index else h
            h = tf.tensordot(h, kernel * mask, 1) + bias
        shift, raw = tf.split(h, 2, axis=-1)
        return shift, _STEEPEST * tf.tanh(raw / _STEEPEST)

    def get_config(self) -> dict[str, Any]:
        return super().get_config() | {
            "depth": self.depth,
            "hidden": list(self.hidden),
            "activation": self.activation,
            "seed": self.seed,
        }


def _masks(latent_dim: int, hidden: Sequence[int]) -> list[np.ndarray]:
    """Which weights may differ from 0, [in, out]: dimension d sees those before it alone."""
    dimensions = np.arange(1, latent_dim + 1)
    most = max(latent_dim - 1, 1)
    degrees = [dimensions, *(np.arange(width) % most + 1 for width in hidden)]
    masks = [
        np.float32(before[:, np.newaxis] <= after) for before, after in itertools.pairwise(degrees)
    ]
    out = np.float32(degrees[-1][:, np.newaxis] < dimensions)
    return [*masks, np.concatenate([out, out], axis=1)]  # shifts, then log scales
