"""The networks of a hierarchical VAE: latents in groups, inferred from the top down.

The encoder runs from the pixels up to the top group, and gives each group below a context. The
decoder runs from the top group down to the logits. On its way, each group adds its latents to the
features h. In inference, the posterior of a group sees the context and h, and h carries all groups
above. The prior of every latent is N(0, 1). The decoder makes a group depend on those above it.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import keras

from vae_keras.distributions import SCALE_FLOOR
from vae_keras.inference import Path
from vae_keras.networks import (
    activation_function,
    kernel_size,
    output_shape,
    transposed,
    variance_scaling,
)
from vae_keras.utils import checks

# For the kernels' seeds. `MLPClassifier` has the kind 6, too, but a top-down model has no classes.
_ENCODER, _DECODER = 5, 6
_SMALL = 0.1  # gain of a kernel whose output is small in a fresh network
_UNIT = math.log(math.e - 1.0)  # softplus of it is 1
# Keras' global image_data_format may be "channels_first", so every convolution names its own.
_SAME: dict[str, Any] = {"padding": "same", "data_format": "channels_last"}


class _Kernels:
    """Makes the layers of a network. Each kernel is drawn with a seed of its own."""

    def __init__(self, seed: int, kind: int, dtype: Any) -> None:
        self._seed, self._kind, self._dtype = seed, kind, dtype
        self._count = itertools.count()

    def _initialized(self, gain: float) -> dict[str, Any]:
        initializer = variance_scaling(self._seed, self._kind, next(self._count), gain)
        return {"kernel_initializer": initializer, "dtype": self._dtype}

    def dense(self, name: str, units: int, gain: float = 1.0) -> keras.layers.Layer:
        return keras.layers.Dense(units, name=name, **self._initialized(gain))

    def conv(
        self, name: str, filters: int, size: int = 3, strides: int = 1, gain: float = 1.0
    ) -> keras.layers.Layer:
        return keras.layers.Conv2D(
            filters, size, strides, name=name, **_SAME, **self._initialized(gain)
        )

    def up(self, name: str, filters: int, size: int) -> keras.layers.Layer:
        """A transposed convolution that doubles height and width."""
        return keras.layers.Conv2DTranspose(
            filters, size, 2, name=name, **_SAME, **self._initialized(1.0)
        )


class _Block(keras.layers.Layer):
    """A residual block, h + conv(f(conv(f(h)))), of one width."""

    def __init__(self, kernels: _Kernels, width: int, activation: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._width, self._activation = width, activation
        self._first = kernels.conv("first", width)
        # The second kernel starts small, so that a fresh block is close to the identity.
        self._second = kernels.conv("second", width, gain=_SMALL)

    def build(self, input_shape: tuple[Any, ...]) -> None:
        for conv in (self._first, self._second):
            conv.build((None, None, None, self._width))

    def call(self, h: Any) -> Any:
        return h + self._second(self._activation(self._first(self._activation(h))))


class _Group(_Block):
    """A group of latents: the parameters of its posterior, and the block that takes it in."""

    def __init__(
        self, kernels: _Kernels, width: int, channels: int, activation: Any, **kwargs: Any
    ) -> None:
        super().__init__(kernels, width, activation, **kwargs)
        self.channels = channels
        self._latents = kernels.conv("latents", width, 1)
        self._posterior = kernels.conv("posterior", width)
        self._head = kernels.conv("head", 2 * channels, 1, gain=_SMALL)

    def build(self, input_shape: tuple[Any, ...]) -> None:
        super().build(input_shape)
        self._latents.build((None, None, None, self.channels))
        for conv in (self._posterior, self._head):
            conv.build((None, None, None, self._width))

    def parameters(self, active: Any, context: Any) -> Any:
        """Returns loc and the parameter of the scale, of the features f(h) and the context."""
        return self._head(self._activation(self._posterior(active) + context))

    def take_in(self, latents: Any, h: Any, active: Any) -> Any:
        """Returns the features h after they took in the latents; active is f(h)."""
        inner = self._first(active) + self._latents(latents)
        return h + self._second(self._activation(inner))


class _TopDown(keras.layers.Layer):
    """The arguments that the encoder and the decoder have in common."""

    def __init__(
        self,
        top_dim: int,
        groups: Sequence[Sequence[int]],
        widths: Sequence[int],
        activation: str,
        seed: int,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.top_dim = checks.whole_number("top_dim", top_dim, 1)
        self.widths = checks.sizes("widths", widths)
        if not self.widths or len(groups) != len(self.widths):
            raise checks.InputError(
                "groups must hold a list for each stage in widths, with the channels of each group "
                f"of latents. Received: groups {groups!r} for widths {list(widths)!r}. Pass an "
                "empty list for a stage without latents."
            )
        self.groups = tuple(checks.sizes("groups", stage) for stage in groups)
        self.activation, self.seed = activation, checks.seed(seed)
        self._activation = activation_function(activation)

    def get_config(self) -> dict[str, Any]:
        return super().get_config() | {
            "top_dim": self.top_dim,
            "groups": [list(stage) for stage in self.groups],
            "widths": list(self.widths),
            "activation": self.activation,
            "seed": self.seed,
        }


@keras.saving.register_keras_serializable(package="vae_keras")
class TopDownEncoder(_TopDown):
    """The bottom-up half of a hierarchical VAE, a residual convolutional network.

    Each stage halves height and width, rounding up, and applies a residual block.

    Args:
        top_dim: number of latents in the top group, >= 1. Default 32.
        groups: for each stage, from the highest resolution to the lowest, the number of channels of
            each group of latents at that resolution. Default ((2, 2), (4, 4)).
        widths: channels of each stage, from the highest resolution to the lowest.
            Default (32, 64).
        activation: name of the activation, as in `networks.activation_function`. Default "silu".
        seed: seed of the initial weights, integer in [0, 2^31). Default 0.

    Raises:
        checks.InputError: for an argument outside of its range.

    Example:
        >>> top, *context = TopDownEncoder()(np.zeros((3, 28, 28, 1)))
        >>> top.shape, len(context)
        (TensorShape([3, 64]), 4)

    References:
        Sønderby et al. 2016, "Ladder variational autoencoders", section 2.2.
        Vahdat & Kautz 2020, "NVAE: a deep hierarchical variational autoencoder", section 3.
    """

    def __init__(
        self,
        top_dim: int = 32,
        groups: Sequence[Sequence[int]] = ((2, 2), (4, 4)),
        widths: Sequence[int] = (32, 64),
        activation: str = "silu",
        seed: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(top_dim, groups, widths, activation, seed, **kwargs)
        kernels = _Kernels(self.seed, _ENCODER, self.dtype_policy)
        self._down, self._blocks, self._contexts = [], [], []
        for stage, width in enumerate(self.widths):
            self._down.append(kernels.conv(f"down_{stage}", width, kernel_size(stage), strides=2))
            block = _Block(
                kernels, width, self._activation, name=f"block_{stage}", dtype=self.dtype_policy
            )
            self._blocks.append(block)
            names = [f"context_{stage}_{group}" for group in range(len(self.groups[stage]))]
            self._contexts.append([kernels.conv(name, width) for name in names])
        self._head = kernels.dense("head", 2 * top_dim, gain=_SMALL)

    def build(self, input_shape: tuple[Any, ...]) -> None:
        height, width, channels = input_shape[1:]
        for down, block, contexts in zip(self._down, self._blocks, self._contexts, strict=True):
            down.build((None, height, width, channels))
            height, width, channels = -(-height // 2), -(-width // 2), down.filters
            for layer in (block, *contexts):
                layer.build((None, height, width, channels))
        self._head.build((None, height * width * channels))

    def call(self, images: Any) -> list[Any]:
        """Returns the top group's parameters [N, 2 * top_dim] and a context for each group below.

        The contexts are in the order in which the decoder meets them: the lowest resolution first.
        """
        h = images - 0.5
        context: list[Any] = []
        for down, block, contexts in zip(self._down, self._blocks, self._contexts, strict=True):
            h = self._activation(block(down(h)))
            context = [conv(h) for conv in contexts] + context
        size = math.prod(h.shape[1:])
        return [self._head(keras.ops.reshape(h, (-1, size))), *context]


@keras.saving.register_keras_serializable(package="vae_keras")
class TopDownDecoder(_TopDown):
    """The top-down half of a hierarchical VAE: latents to logits, and the inference of the latents.

    The latents are the top group, [N, top_dim], and then the groups of each stage from the lowest
    resolution to the highest, each flattened from [N, height, width, channels].

    Args:
        image_shape: (H, W, C). Default (28, 28, 1).
        top_dim: number of latents in the top group, >= 1. Default 32.
        groups: for each stage, from the highest resolution to the lowest, the number of channels of
            each group of latents at that resolution. Default ((2, 2), (4, 4)).
        widths: channels of each stage, from the highest resolution to the lowest.
            Default (32, 64).
        activation: name of the activation, as in `networks.activation_function`. Default "silu".
        seed: seed of the initial weights, integer in [0, 2^31). Default 0.
        parameters_per_pixel: numbers for each pixel that the likelihood takes, >= 1. Default None,
            for one number for each channel.

    Raises:
        checks.InputError: for an argument outside of its range.

    Example:
        >>> decoder = TopDownDecoder()
        >>> decoder(np.zeros((3, decoder.latent_dim))).shape
        TensorShape([3, 28, 28, 1])

    References:
        Sønderby et al. 2016, "Ladder variational autoencoders", section 2.2.
        Vahdat & Kautz 2020, "NVAE: a deep hierarchical variational autoencoder", section 3.
    """

    def __init__(
        self,
        image_shape: Sequence[int] = (28, 28, 1),
        top_dim: int = 32,
        groups: Sequence[Sequence[int]] = ((2, 2), (4, 4)),
        widths: Sequence[int] = (32, 64),
        activation: str = "silu",
        seed: int = 0,
        parameters_per_pixel: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(top_dim, groups, widths, activation, seed, **kwargs)
        height, width, channels = output_shape(image_shape, parameters_per_pixel)
        self.image_shape = tuple(image_shape)
        self.parameters_per_pixel = parameters_per_pixel
        self._sizes = [(height, width)]  # of the image, and of each stage
        for _ in self.widths:
            height, width = -(-height // 2), -(-width // 2)
            self._sizes.append((height, width))
        kernels = _Kernels(self.seed, _DECODER, self.dtype_policy)
        self._stem = kernels.dense("stem", height * width * self.widths[-1])
        self._blocks, self._groups, self._up = [], [], []
        for stage, width in enumerate(self.widths):
            common: dict[str, Any] = {"activation": self._activation, "dtype": self.dtype_policy}
            self._blocks.append(_Block(kernels, width, name=f"block_{stage}", **common))
            self._groups.append(
                [
                    _Group(kernels, width, number, name=f"group_{stage}_{index}", **common)
                    for index, number in enumerate(self.groups[stage])
                ]
            )
            filters = (channels, *self.widths)[stage]
            self._up.append(kernels.up(f"up_{stage}", filters, kernel_size(stage)))

    @property
    def latent_groups(self) -> list[tuple[int, ...]]:
        """The shape of each group of latents, from the top down: (top_dim,), then (h, w, c)."""
        below = [
            (*self._sizes[stage + 1], number)
            for stage in reversed(range(len(self.widths)))
            for number in self.groups[stage]
        ]
        return [(self.top_dim,), *below]

    @property
    def latent_dim(self) -> int:
        """The number of latents in all groups."""
        return sum(math.prod(shape) for shape in self.latent_groups)

    def build(self, input_shape: tuple[Any, ...]) -> None:
        self._stem.build((None, self.top_dim))
        for stage, width in enumerate(self.widths):
            for layer in (self._blocks[stage], *self._groups[stage], self._up[stage]):
                layer.build((None, None, None, width))

    def call(self, latents: Any) -> Any:
        """Returns the likelihood's parameters [N, H, W, P] of latents [N, latent_dim]."""
        return self._walk(latents, lambda part, group, active: part)

    def infer(self, context: Sequence[Any], noise: Any, training: bool = False) -> Path:
        """Draws the latents of images group by group.

        Args:
            context: what `TopDownEncoder` returned for the images.
            noise: standard normal [N, latent_dim].
            training: not used; no layer behaves differently in training. Default False.

        Returns:
            `Path`. All its members except the logits are float32.
        """
        if len(context) != len(self.latent_groups):
            raise checks.InputError(
                f"context must hold {len(self.latent_groups)} tensors, one for each group of "
                f"latents. Received: {len(context)}. Give both networks the same groups."
            )
        top, *others = context
        below, groups = iter(others), []

        def draw(part: Any, group: _Group | None, active: Any) -> Any:
            parameters = top if group is None else group.parameters(active, next(below))
            loc, raw = keras.ops.split(keras.ops.cast(parameters, "float32"), 2, axis=-1)
            scale = keras.ops.softplus(raw + _UNIT) + SCALE_FLOOR
            groups.append((loc + scale * part, loc, scale))
            return groups[-1][0]

        logits = self._walk(noise, draw)
        latents, loc, scale = (
            keras.ops.concatenate([_flat(part) for part in parts], axis=-1)
            for parts in zip(*groups, strict=True)
        )
        return Path(latents, loc, scale, logits)

    def _walk(self, values: Any, draw: Callable[[Any, _Group | None, Any], Any]) -> Any:
        """Goes from the top group down to the logits.

        Args:
            values: latents or noise, [N, latent_dim].
            draw: makes the latents of a group from its part of the values, the group (None for the
                top) and the features f(h).
        """
        shapes = self.latent_groups
        ends = list(itertools.accumulate(math.prod(shape) for shape in shapes))
        top, *others = (
            keras.ops.reshape(part, (-1, *shape))
            for part, shape in zip(keras.ops.split(values, ends[:-1], axis=-1), shapes, strict=True)
        )
        below = iter(others)
        size = (*self._sizes[-1], self.widths[-1])
        h = keras.ops.reshape(self._stem(draw(top, None, None)), (-1, *size))
        for stage in reversed(range(len(self.widths))):
            h = self._blocks[stage](h)
            for group in self._groups[stage]:
                active = self._activation(h)
                h = group.take_in(draw(next(below), group, active), h, active)
            height, width = self._sizes[stage]
            h = transposed(self._up[stage], self._activation(h))[:, :height, :width]
        return h

    def compute_output_shape(self, input_shape: tuple[Any, ...]) -> tuple[Any, ...]:
        return (input_shape[0], *output_shape(self.image_shape, self.parameters_per_pixel))

    def get_config(self) -> dict[str, Any]:
        return super().get_config() | {
            "image_shape": list(self.image_shape),
            "parameters_per_pixel": self.parameters_per_pixel,
        }


def _flat(part: Any) -> Any:
    return keras.ops.reshape(part, (-1, math.prod(part.shape[1:])))
