"""Encoders and decoders: plain Keras layers, tensors in, tensors out.

An encoder maps images [N, H, W, C] to [N, 2 * latent_dim], the posterior's loc and its scale
before the softplus. A decoder maps latents [N, latent_dim] to logits [N, H, W, C]. Any Keras
model or layer with these shapes fits into `VAE`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from vae_keras import checks


class _MLP(keras.layers.Layer):
    """Dense hidden layers and a dense output, every kernel seeded by itself."""

    _kind: int  # keeps an encoder's and a decoder's kernels apart under one seed

    def __init__(
        self, units: int, hidden: Sequence[int], activation: str, seed: int, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.hidden = checks.sizes("hidden", hidden)
        self.activation, self.seed = activation, checks.seed(seed)
        try:
            keras.activations.get(activation)
        except (ValueError, TypeError) as error:
            raise checks.InputError(
                "activation must be the name of a Keras activation. "
                f"Received: {activation!r}. Pass 'tanh'."
            ) from error
        widths = [*self.hidden, units]
        self._dense = [
            keras.layers.Dense(
                width,
                activation=activation if index < len(self.hidden) else None,
                kernel_initializer=_glorot(seed, self._kind, index),
                dtype=self.dtype_policy,
                name=f"dense_{index}",
            )
            for index, width in enumerate(widths)
        ]

    def _stack(self, h: Any) -> Any:
        for layer in self._dense:
            h = layer(h)
        return h

    def _build_stack(self, width: int) -> None:
        for layer in self._dense:
            layer.build((None, width))
            width = layer.units

    def get_config(self) -> dict[str, Any]:
        return super().get_config() | {
            "hidden": list(self.hidden),
            "activation": self.activation,
            "seed": self.seed,
        }


@keras.saving.register_keras_serializable(package="vae_keras")
class MLPEncoder(_MLP):
    """A fully connected encoder for images of any shape.

    Args:
        latent_dim: size of the latent space. Default 50.
        hidden: widths of the hidden layers. Default (200, 200).
        activation: the hidden layers' activation, a Keras name. Default "tanh".
        seed: of the initial weights, integer >= 0. Default 0.

    Example:
        >>> MLPEncoder(latent_dim=50)(np.zeros((3, 28, 28, 1))).shape
        TensorShape([3, 100])

    References:
        Kingma & Welling 2014, "Auto-encoding variational Bayes", appendix C.2.
    """

    _kind = 0

    def __init__(
        self,
        latent_dim: int = 50,
        hidden: Sequence[int] = (200, 200),
        activation: str = "tanh",
        seed: int = 0,
        **kwargs: Any,
    ) -> None:
        checks.whole_number("latent_dim", latent_dim, 1)
        super().__init__(2 * latent_dim, hidden, activation, seed, **kwargs)
        self.latent_dim = latent_dim

    def build(self, input_shape: Sequence[int | None]) -> None:
        self._build_stack(math.prod(input_shape[1:]))

    def call(self, images: Any) -> Any:
        size = math.prod(images.shape[1:])
        return self._stack(keras.ops.reshape(images, (-1, size)))  # [N, 2 * latent_dim]

    def compute_output_shape(self, input_shape: Sequence[int | None]) -> tuple[int | None, ...]:
        return (input_shape[0], 2 * self.latent_dim)

    def get_config(self) -> dict[str, Any]:
        return super().get_config() | {"latent_dim": self.latent_dim}


@keras.saving.register_keras_serializable(package="vae_keras")
class MLPDecoder(_MLP):
    """A fully connected decoder to the logits of images of one shape.

    Args:
        image_shape: (H, W, C). Default (28, 28, 1).
        hidden: widths of the hidden layers. Default (200, 200).
        activation: the hidden layers' activation, a Keras name. Default "tanh".
        seed: of the initial weights, integer >= 0. Default 0.

    Example:
        >>> MLPDecoder()(np.zeros((3, 50))).shape
        TensorShape([3, 28, 28, 1])

    References:
        Kingma & Welling 2014, "Auto-encoding variational Bayes", appendix C.1.
    """

    _kind = 1

    def __init__(
        self,
        image_shape: Sequence[int] = (28, 28, 1),
        hidden: Sequence[int] = (200, 200),
        activation: str = "tanh",
        seed: int = 0,
        **kwargs: Any,
    ) -> None:
        image_shape = checks.sizes("image_shape", image_shape, 3)
        super().__init__(math.prod(image_shape), hidden, activation, seed, **kwargs)
        self.image_shape = image_shape

    def build(self, input_shape: Sequence[int | None]) -> None:
        self._build_stack(input_shape[-1])

    def call(self, latents: Any) -> Any:
        return keras.ops.reshape(self._stack(latents), (-1, *self.image_shape))  # [N, H, W, C]

    def compute_output_shape(self, input_shape: Sequence[int | None]) -> tuple[int | None, ...]:
        return (input_shape[0], *self.image_shape)

    def get_config(self) -> dict[str, Any]:
        return super().get_config() | {"image_shape": list(self.image_shape)}


def _glorot(seed: int, kind: int, index: int) -> keras.initializers.Initializer:
    # An initializer without a seed would take one from Python's global generator.
    state = np.random.SeedSequence([seed, kind, index]).generate_state(1)[0]
    return keras.initializers.GlorotUniform(seed=int(state) % 2**31)
