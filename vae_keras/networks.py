"""Encoders and decoders: plain Keras layers, tensors in, tensors out.

An encoder maps images [N, H, W, C] to [N, 2 * latent_dim], the posterior's loc and its scale
before the softplus. A decoder maps latents [N, latent_dim] to logits [N, H, W, C]. Any Keras
model or layer with these shapes fits into `VAE`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
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
        function = activation_function(activation)
        widths = [*self.hidden, units]
        self._dense = [
            keras.layers.Dense(
                width,
                activation=function if index < len(self.hidden) else None,
                kernel_initializer=variance_scaling(seed, self._kind, index),
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


class _Residual(keras.layers.Layer):
    """h + conv(f(conv(f(h)))), of the same shape."""

    def __init__(self, width: int, activation: str, seeds: tuple[int, int, int], **kwargs: Any):
        super().__init__(**kwargs)
        self._activation = activation_function(activation)
        seed, kind, index = seeds
        # The second kernel starts small: a deep network starts as the straight path through it.
        self._convs = [
            keras.layers.Conv2D(
                width,
                3,
                padding="same",
                kernel_initializer=variance_scaling(seed, kind, index + offset, scale),
                dtype=self.dtype_policy,
                name=f"conv_{offset}",
            )
            for offset, scale in enumerate((1.0, 0.1))
        ]

    def build(self, input_shape: Sequence[int | None]) -> None:
        for conv in self._convs:
            conv.build(input_shape)

    def call(self, h: Any) -> Any:
        update = h
        for conv in self._convs:
            update = conv(self._activation(update))
        return h + update

    def compute_output_shape(self, input_shape: Sequence[int | None]) -> tuple[int | None, ...]:
        return tuple(input_shape)


class _Conv(keras.layers.Layer):
    """What a residual encoder and decoder share: one width a scale, `depth` blocks at each."""

    _kind: int
    _MOST_BLOCKS = 50  # at each scale, so that no two kernels share a seed

    def __init__(
        self, widths: Sequence[int], depth: int, activation: str, seed: int, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.widths = checks.sizes("widths", widths)
        if not self.widths:
            raise checks.InputError("widths must name the channels of a scale. Received: none.")
        self.depth = checks.whole_number("depth", depth, 0, self._MOST_BLOCKS)
        self.activation, self.seed = activation, checks.seed(seed)
        self._activation = activation_function(activation)
        self._residuals = [
            _Residual(
                width,
                activation,
                (seed, self._kind, 2 * self._MOST_BLOCKS * (scale + 1) + 2 * block),
                dtype=self.dtype_policy,
                name=f"residual_{scale}_{block}",
            )
            for scale, width in enumerate(self.widths)
            for block in range(depth)
        ]

    def _initializer(self, index: int) -> keras.initializers.Initializer:
        return variance_scaling(self.seed, self._kind, index)

    def _refine(self, h: Any, scale: int) -> Any:
        for residual in self._residuals[scale * self.depth : (scale + 1) * self.depth]:
            h = residual(h)
        return self._activation(h)

    def _build_residuals(self) -> None:
        for index, residual in enumerate(self._residuals):
            residual.build((None, None, None, self.widths[index // self.depth]))

    def get_config(self) -> dict[str, Any]:
        return super().get_config() | {
            "widths": list(self.widths),
            "depth": self.depth,
            "activation": self.activation,
            "seed": self.seed,
        }


@keras.saving.register_keras_serializable(package="vae_keras")
class ConvEncoder(_Conv):
    """A residual convolutional encoder: each scale halves height and width, rounding up.

    Args:
        latent_dim: size of the latent space. Default 50.
        widths: channels of each scale, from the largest images down. Default (32, 64).
        depth: residual blocks a scale. Default 1.
        activation: a Keras name. Default "elu".
        seed: of the initial weights, integer >= 0. Default 0.

    Example:
        >>> ConvEncoder(latent_dim=50)(np.zeros((3, 28, 28, 1))).shape
        TensorShape([3, 100])

    References:
        He et al. 2016, "Identity mappings in deep residual networks".
    """

    _kind = 2

    def __init__(
        self,
        latent_dim: int = 50,
        widths: Sequence[int] = (32, 64),
        depth: int = 1,
        activation: str = "elu",
        seed: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(widths, depth, activation, seed, **kwargs)
        self.latent_dim = checks.whole_number("latent_dim", latent_dim, 1)
        self._down = [
            keras.layers.Conv2D(
                width,
                _edge_kernel(scale),
                strides=2,
                padding="same",
                kernel_initializer=self._initializer(scale),
                dtype=self.dtype_policy,
                name=f"down_{scale}",
            )
            for scale, width in enumerate(self.widths)
        ]
        self._head = keras.layers.Dense(
            2 * latent_dim,
            kernel_initializer=self._initializer(len(self.widths)),
            dtype=self.dtype_policy,
            name="head",
        )

    def build(self, input_shape: Sequence[int | None]) -> None:
        height, width, channels = input_shape[1:]
        for conv in self._down:
            conv.build((None, height, width, channels))
            height, width, channels = -(-height // 2), -(-width // 2), conv.filters
        self._build_residuals()
        self._head.build((None, height * width * channels))

    def call(self, images: Any) -> Any:
        h = images
        for scale, conv in enumerate(self._down):
            h = self._refine(conv(h), scale)
        size = math.prod(h.shape[1:])
        return self._head(keras.ops.reshape(h, (-1, size)))  # [N, 2 * latent_dim]

    def compute_output_shape(self, input_shape: Sequence[int | None]) -> tuple[int | None, ...]:
        return (input_shape[0], 2 * self.latent_dim)

    def get_config(self) -> dict[str, Any]:
        return super().get_config() | {"latent_dim": self.latent_dim}


@keras.saving.register_keras_serializable(package="vae_keras")
class ConvDecoder(_Conv):
    """A residual convolutional decoder: each scale doubles height and width; the rest is cut off.

    Args:
        image_shape: (H, W, C). Default (28, 28, 1).
        widths: channels of each scale, from the largest images down. Default (32, 64).
        depth: residual blocks a scale. Default 1.
        activation: a Keras name. Default "elu".
        seed: of the initial weights, integer >= 0. Default 0.

    Example:
        >>> ConvDecoder()(np.zeros((3, 50))).shape
        TensorShape([3, 28, 28, 1])

    References:
        He et al. 2016, "Identity mappings in deep residual networks".
    """

    _kind = 3

    def __init__(
        self,
        image_shape: Sequence[int] = (28, 28, 1),
        widths: Sequence[int] = (32, 64),
        depth: int = 1,
        activation: str = "elu",
        seed: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(widths, depth, activation, seed, **kwargs)
        self.image_shape = checks.sizes("image_shape", image_shape, 3)
        height, width, channels = self.image_shape
        for _ in self.widths:
            height, width = -(-height // 2), -(-width // 2)
        self._start = (height, width, self.widths[-1])
        self._stem = keras.layers.Dense(
            math.prod(self._start),
            kernel_initializer=self._initializer(len(self.widths)),
            dtype=self.dtype_policy,
            name="stem",
        )
        self._up = [
            keras.layers.Conv2DTranspose(
                filters,
                _edge_kernel(scale),
                strides=2,
                padding="same",
                kernel_initializer=self._initializer(scale),
                dtype=self.dtype_policy,
                name=f"up_{scale}",
            )
            for scale, filters in enumerate((channels, *self.widths[:-1]))
        ]

    def build(self, input_shape: Sequence[int | None]) -> None:
        self._stem.build((None, input_shape[-1]))
        self._build_residuals()
        for conv, width in zip(self._up, self.widths, strict=True):
            conv.build((None, None, None, width))

    def call(self, latents: Any) -> Any:
        h = keras.ops.reshape(self._stem(latents), (-1, *self._start))
        for scale in reversed(range(len(self.widths))):
            h = self._up[scale](self._refine(h, scale))
        height, width, _ = self.image_shape
        return h[:, :height, :width]  # [N, H, W, C]

    def compute_output_shape(self, input_shape: Sequence[int | None]) -> tuple[int | None, ...]:
        return (input_shape[0], *self.image_shape)

    def get_config(self) -> dict[str, Any]:
        return super().get_config() | {"image_shape": list(self.image_shape)}


@keras.saving.register_keras_serializable(package="vae_keras")
def mish(x: Any) -> Any:
    """x * tanh(softplus(x)), with tanh and softplus folded into one exponential.

    References:
        Misra 2019, "Mish: a self regularized non-monotonic activation function".
    """
    # tanh(log(1 + e)) = (e^2 + 2e) / (e^2 + 2e + 2); from x = 10 on it is 1 in float32.
    e = keras.ops.exp(keras.ops.minimum(x, 10.0))
    ratio = e * (e + 2.0)
    return x * (ratio / (ratio + 2.0))


def activation_function(name: str) -> Callable[[Any], Any]:
    """Returns the activation of that name, Keras' or `mish`.

    Args:
        name: as `keras.activations` has it.

    Raises:
        checks.InputError: for anything else. Keras takes None for no activation, and objects that
            a configuration cannot name.
    """
    try:
        if not isinstance(name, str):
            raise TypeError("no name")
        return mish if name == "mish" else keras.activations.get(name)
    except (ValueError, TypeError) as error:
        raise checks.InputError(
            f"activation must be the name of a Keras activation. Received: {name!r}. Pass 'tanh'."
        ) from error


def _edge_kernel(scale: int) -> int:
    return 5 if scale == 0 else 3  # beside the images, where a channel costs least


def variance_scaling(
    seed: int, kind: int, index: int, scale: float = 1.0
) -> keras.initializers.Initializer:
    """Returns Glorot and Bengio's uniform initializer, at `scale` of its variance.

    Args:
        seed, kind, index: of the model, of the network, and of the kernel in it.
        scale: of the variance. Default 1.0.
    """
    # An initializer without a seed would take one from Python's global generator.
    state = np.random.SeedSequence([seed, kind, index]).generate_state(1)[0]
    return keras.initializers.VarianceScaling(
        scale=scale, mode="fan_avg", distribution="uniform", seed=int(state) % 2**31
    )
