"""Encoders and decoders: Keras layers that map tensors to tensors.

An encoder maps images [N, H, W, C] to [N, 2 * latent_dim]: the posterior's loc, followed by its
scale before the softplus. A decoder maps latents [N, latent_dim] to the parameters of the
likelihood [N, H, W, P], which for a Bernoulli are one logit for each channel. `VAE` takes any Keras
model or layer with these shapes.

The networks of a conditional model take `[images, labels]` and `[latents, labels]`, where the
labels are one-hot, [N, num_classes]. A fully connected network joins them to its features. A
convolutional network adds a bias for each class to the channels of each stage.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import keras
import numpy as np
import tensorflow as tf

from vae_keras.utils import checks

# A `.keras` file names a network's weights after the attributes that hold its layers and after the
# layers' classes: renaming `_dense`, `_stem`, `_down`, `_residuals`, `_convs`, `_up`, `_head`,
# `_class_biases` or `_Residual` would make saved files unreadable.


class _Network(keras.layers.Layer):
    """Base class of the encoders and decoders."""

    _kind: int  # gives the kernels of different networks different seeds

    def __init__(self, activation: str, seed: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if isinstance(self.dtype_policy, keras.dtype_policies.QuantizedDTypePolicy):
            raise checks.InputError(
                f"{type(self).__name__} cannot compute in a quantized dtype policy. "
                f"Received: {self.dtype_policy.name!r}. Pass dtype='float32', or call "
                "keras.config.set_dtype_policy('float32')."
            )
        self.activation, self.seed = activation, checks.seed(seed)
        self._activation = activation_function(activation)

    def _initializer(self, index: int) -> Any:
        return variance_scaling(self.seed, self._kind, index)

    @property
    def predict(self) -> NoReturn:
        """Raises AttributeError: a layer has no `predict`. The VAE has `encode` and `decode`."""
        name = type(self).__name__
        raise AttributeError(
            f"predict is a method of Keras models, and {name} is a layer. "
            f"Received: {name}.predict. Call vae.encode(images) or vae.decode(latents) for arrays, "
            "or call the layer itself for a batch of tensors."
        )

    def get_config(self) -> dict[str, Any]:
        return super().get_config() | {"activation": self.activation, "seed": self.seed}


class _MLP(_Network):
    """A stack of dense layers: hidden layers with an activation, and a linear output layer."""

    def __init__(
        self, units: int, hidden: Sequence[int], activation: str, seed: int, **kwargs: Any
    ) -> None:
        super().__init__(activation, seed, **kwargs)
        self.hidden = checks.sizes("hidden", hidden)
        self._dense = [
            keras.layers.Dense(
                width,
                activation=self._activation if index < len(self.hidden) else None,
                kernel_initializer=self._initializer(index),
                dtype=self.dtype_policy,
                name=f"dense_{index}",
            )
            for index, width in enumerate([*self.hidden, units])
        ]

    def _stack_of_images(self, images: Any, labels: Any = None) -> Any:
        return self._stack(keras.ops.reshape(images, (-1, math.prod(images.shape[1:]))), labels)

    def _stack(self, h: Any, labels: Any = None) -> Any:
        if labels is not None:
            h = keras.ops.concatenate([h, keras.ops.cast(labels, h.dtype)], axis=-1)
        for layer in self._dense:
            h = layer(h)
        return h

    def _build_stack(self, width: int) -> None:
        for layer in self._dense:
            layer.build((None, width))
            width = layer.units

    def get_config(self) -> dict[str, Any]:
        return super().get_config() | {"hidden": list(self.hidden)}


@keras.saving.register_keras_serializable(package="vae_keras")
class MLPEncoder(_MLP):
    """A fully connected encoder for images of any shape.

    Args:
        latent_dim: number of latent dimensions, >= 1. Default 50.
        hidden: widths of the hidden layers. Default (200, 200).
        activation: name of the hidden layers' activation, as in `activation_function`.
            Default "tanh".
        seed: seed of the initial weights, integer in [0, 2^31). Default 0.

    Raises:
        checks.InputError: for an argument outside of its range.

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

    def build(self, input_shape: Any) -> None:
        shape, num_classes = _input_shapes(input_shape)
        self._build_stack(math.prod(shape[1:]) + num_classes)

    def call(self, inputs: Any) -> Any:
        return self._stack_of_images(*_features_and_labels(inputs))  # [N, 2 * latent_dim]

    def compute_output_shape(self, input_shape: Any) -> tuple[Any, ...]:
        return (_input_shapes(input_shape)[0][0], 2 * self.latent_dim)

    def get_config(self) -> dict[str, Any]:
        return super().get_config() | {"latent_dim": self.latent_dim}


@keras.saving.register_keras_serializable(package="vae_keras")
class MLPDecoder(_MLP):
    """A fully connected decoder to the logits of images of one shape.

    Args:
        image_shape: (H, W, C). Default (28, 28, 1).
        hidden: widths of the hidden layers. Default (200, 200).
        activation: name of the hidden layers' activation, as in `activation_function`.
            Default "tanh".
        seed: seed of the initial weights, integer in [0, 2^31). Default 0.
        parameters_per_pixel: numbers for each pixel that the likelihood takes, >= 1. Default None,
            for one number for each channel.
        bound: largest absolute value of the output, > 0, which is bound * tanh(output / bound).
            It bounds the density of a `ContinuousBernoulli`. Default None, for no bound.

    Raises:
        checks.InputError: for an argument outside of its range.

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
        parameters_per_pixel: int | None = None,
        bound: float | None = None,
        **kwargs: Any,
    ) -> None:
        self._output = output_shape(image_shape, parameters_per_pixel)
        super().__init__(math.prod(self._output), hidden, activation, seed, **kwargs)
        self.image_shape = tuple(image_shape)
        self.parameters_per_pixel = parameters_per_pixel
        self.bound = None if bound is None else checks.positive("bound", bound)

    def build(self, input_shape: Any) -> None:
        shape, num_classes = _input_shapes(input_shape)
        self._build_stack(shape[-1] + num_classes)

    def call(self, inputs: Any) -> Any:
        h = self._stack(*_features_and_labels(inputs))
        return _bounded(keras.ops.reshape(h, (-1, *self._output)), self.bound)  # [N, H, W, P]

    def compute_output_shape(self, input_shape: Any) -> tuple[Any, ...]:
        return (_input_shapes(input_shape)[0][0], *self._output)

    def get_config(self) -> dict[str, Any]:
        return super().get_config() | {
            "image_shape": list(self.image_shape),
            "parameters_per_pixel": self.parameters_per_pixel,
            "bound": self.bound,
        }


@keras.saving.register_keras_serializable(package="vae_keras")
class MLPClassifier(_MLP):
    """A fully connected classifier q(y | x) for images of any shape.

    A conditional model needs it to learn from images without a label.

    Args:
        num_classes: number of classes, >= 2. Default 10.
        hidden: widths of the hidden layers. Default (200, 200).
        activation: name of the hidden layers' activation, as in `activation_function`.
            Default "relu".
        seed: seed of the initial weights, integer in [0, 2^31). Default 0.

    Raises:
        checks.InputError: for an argument outside of its range.

    Example:
        >>> MLPClassifier(num_classes=10)(np.zeros((3, 28, 28, 1))).shape
        TensorShape([3, 10])

    References:
        Kingma et al. 2014, "Semi-supervised learning with deep generative models", equation 4.
    """

    _kind = 6

    def __init__(
        self,
        num_classes: int = 10,
        hidden: Sequence[int] = (200, 200),
        activation: str = "relu",
        seed: int = 0,
        **kwargs: Any,
    ) -> None:
        checks.whole_number("num_classes", num_classes, 2)
        super().__init__(num_classes, hidden, activation, seed, **kwargs)
        self.num_classes = num_classes

    def build(self, input_shape: tuple[Any, ...]) -> None:
        self._build_stack(math.prod(input_shape[1:]))

    def call(self, images: Any) -> Any:
        return self._stack_of_images(images)  # [N, num_classes]

    def compute_output_shape(self, input_shape: tuple[Any, ...]) -> tuple[Any, ...]:
        return (input_shape[0], self.num_classes)

    def get_config(self) -> dict[str, Any]:
        return super().get_config() | {"num_classes": self.num_classes}


# Keras' global image_data_format may be "channels_first", so every convolution names its own.
_CHANNELS_LAST = "channels_last"

UPSAMPLINGS = ("transposed", "nearest")
"""How a stage of `ConvDecoder` doubles height and width."""

# Above this number of filters the transposed convolution is left as it is. With oneDNN, three
# filters took 0.4 to 0.6 of the time forward and 0.7 to 1.1 with the gradients. Six filters took
# 0.6 and 1.0.
_FEW_FILTERS = 3


class _Residual(keras.layers.Layer):
    """A residual block, h + conv(f(conv(f(h)))), whose output has the shape of its input."""

    def __init__(self, width: int, activation: str, seeds: tuple[int, int, int], **kwargs: Any):
        super().__init__(**kwargs)
        self._activation = activation_function(activation)
        seed, kind, index = seeds
        # The second kernel starts small, so that a fresh block is close to the identity.
        self._convs = [
            keras.layers.Conv2D(
                width,
                3,
                padding="same",
                data_format=_CHANNELS_LAST,
                kernel_initializer=variance_scaling(seed, kind, index + offset, gain),
                dtype=self.dtype_policy,
                name=f"conv_{offset}",
            )
            for offset, gain in enumerate((1.0, 0.1))
        ]

    def build(self, input_shape: tuple[Any, ...]) -> None:
        for conv in self._convs:
            conv.build(input_shape)

    def call(self, h: Any) -> Any:
        update = h
        for conv in self._convs:
            update = conv(self._activation(update))
        return h + update

    def compute_output_shape(self, input_shape: tuple[Any, ...]) -> tuple[Any, ...]:
        return tuple(input_shape)


class _Conv(_Network):
    """Stages of residual blocks; every stage has its own resolution and number of channels."""

    _MOST_BLOCKS = 50  # in a stage, so that no two kernels share a seed

    def __init__(
        self,
        widths: Sequence[int],
        blocks_per_stage: int,
        activation: str,
        seed: int,
        **kwargs: Any,
    ) -> None:
        super().__init__(activation, seed, **kwargs)
        self.widths = checks.sizes("widths", widths)
        if not self.widths:
            raise checks.InputError(
                "widths must hold at least one number of channels. Received: an empty list. "
                "Pass one number for each stage."
            )
        self.blocks_per_stage = checks.whole_number(
            "blocks_per_stage", blocks_per_stage, 0, self._MOST_BLOCKS
        )
        self._residuals = [
            _Residual(
                width,
                activation,
                (seed, self._kind, 2 * self._MOST_BLOCKS * (stage + 1) + 2 * block),
                dtype=self.dtype_policy,
                name=f"residual_{stage}_{block}",
            )
            for stage, width in enumerate(self.widths)
            for block in range(blocks_per_stage)
        ]

    def _refine(self, h: Any, stage: int, labels: Any) -> Any:
        if labels is not None:
            h = h + self._class_biases[stage](labels)[:, None, None]
        first = stage * self.blocks_per_stage
        for residual in self._residuals[first : first + self.blocks_per_stage]:
            h = residual(h)
        return self._activation(h)

    def _build_stages(self, num_classes: int) -> None:
        for index, residual in enumerate(self._residuals):
            residual.build((None, None, None, self.widths[index // self.blocks_per_stage]))
        if not num_classes:
            return
        first = 2 * self._MOST_BLOCKS * (len(self.widths) + 1)
        self._class_biases = [
            keras.layers.Dense(
                width,
                use_bias=False,
                kernel_initializer=self._initializer(first + stage),
                dtype=self.dtype_policy,
                name=f"class_bias_{stage}",
            )
            for stage, width in enumerate(self.widths)
        ]
        for bias in self._class_biases:
            bias.build((None, num_classes))

    def get_config(self) -> dict[str, Any]:
        return super().get_config() | {
            "widths": list(self.widths),
            "blocks_per_stage": self.blocks_per_stage,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> _Conv:
        config = dict(config)
        if "depth" in config:  # the name of `blocks_per_stage` in files of version 0.1.0
            config["blocks_per_stage"] = config.pop("depth")
        return super().from_config(config)


@keras.saving.register_keras_serializable(package="vae_keras")
class ConvEncoder(_Conv):
    """A residual convolutional encoder.

    Each stage halves height and width, rounding up, and then applies its residual blocks.

    Args:
        latent_dim: number of latent dimensions, >= 1. Default 50.
        widths: channels of each stage, from the highest resolution to the lowest.
            Default (32, 64).
        blocks_per_stage: residual blocks in each stage, integer from 0 to 50. Default 1.
        activation: name of the activation, as in `activation_function`. Default "elu".
        seed: seed of the initial weights, integer in [0, 2^31). Default 0.

    Raises:
        checks.InputError: for an argument outside of its range.

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
        blocks_per_stage: int = 1,
        activation: str = "elu",
        seed: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(widths, blocks_per_stage, activation, seed, **kwargs)
        self.latent_dim = checks.whole_number("latent_dim", latent_dim, 1)
        self._down = [
            keras.layers.Conv2D(
                width,
                kernel_size(stage),
                strides=2,
                padding="same",
                data_format=_CHANNELS_LAST,
                kernel_initializer=self._initializer(stage),
                dtype=self.dtype_policy,
                name=f"down_{stage}",
            )
            for stage, width in enumerate(self.widths)
        ]
        self._head = keras.layers.Dense(
            2 * latent_dim,
            kernel_initializer=self._initializer(len(self.widths)),
            dtype=self.dtype_policy,
            name="head",
        )

    def build(self, input_shape: Any) -> None:
        shape, num_classes = _input_shapes(input_shape)
        height, width, channels = shape[1:]
        for conv in self._down:
            conv.build((None, height, width, channels))
            height, width, channels = -(-height // 2), -(-width // 2), conv.filters
        self._build_stages(num_classes)
        self._head.build((None, height * width * channels))

    def call(self, inputs: Any) -> Any:
        h, labels = _features_and_labels(inputs)
        for stage, conv in enumerate(self._down):
            h = self._refine(conv(h), stage, labels)
        size = math.prod(h.shape[1:])
        return self._head(keras.ops.reshape(h, (-1, size)))  # [N, 2 * latent_dim]

    def compute_output_shape(self, input_shape: Any) -> tuple[Any, ...]:
        return (_input_shapes(input_shape)[0][0], 2 * self.latent_dim)

    def get_config(self) -> dict[str, Any]:
        return super().get_config() | {"latent_dim": self.latent_dim}


@keras.saving.register_keras_serializable(package="vae_keras")
class ConvDecoder(_Conv):
    """A residual convolutional decoder.

    Each stage applies its residual blocks and then doubles height and width. The last stage's
    output is cropped to the image's height and width.

    Args:
        image_shape: (H, W, C). Default (28, 28, 1).
        widths: channels of each stage, from the highest resolution to the lowest.
            Default (32, 64).
        blocks_per_stage: residual blocks in each stage, integer from 0 to 50. Default 1.
        activation: name of the activation, as in `activation_function`. Default "elu".
        seed: seed of the initial weights, integer in [0, 2^31). Default 0.
        parameters_per_pixel: numbers for each pixel that the likelihood takes, >= 1. Default None,
            for one number for each channel.
        upsampling: how a stage doubles height and width. "transposed" is a transposed convolution
            with strides of 2, which may leave a checkerboard on smooth images. "nearest" repeats
            each row and each column, and then applies a convolution. Default "transposed".
        bound: largest absolute value of the output, > 0, which is bound * tanh(output / bound).
            It bounds the density of a `ContinuousBernoulli`. Default None, for no bound.

    Raises:
        checks.InputError: for an argument outside of its range.

    Example:
        >>> ConvDecoder()(np.zeros((3, 50))).shape
        TensorShape([3, 28, 28, 1])

    References:
        He et al. 2016, "Identity mappings in deep residual networks".
        Odena et al. 2016, "Deconvolution and checkerboard artifacts".
    """

    _kind = 3

    def __init__(
        self,
        image_shape: Sequence[int] = (28, 28, 1),
        widths: Sequence[int] = (32, 64),
        blocks_per_stage: int = 1,
        activation: str = "elu",
        seed: int = 0,
        parameters_per_pixel: int | None = None,
        upsampling: str = "transposed",
        bound: float | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(widths, blocks_per_stage, activation, seed, **kwargs)
        height, width, channels = output_shape(image_shape, parameters_per_pixel)
        self.image_shape = tuple(image_shape)
        self.parameters_per_pixel = parameters_per_pixel
        self.upsampling = checks.choice("upsampling", upsampling, UPSAMPLINGS)
        self.bound = None if bound is None else checks.positive("bound", bound)
        for _ in self.widths:
            height, width = -(-height // 2), -(-width // 2)
        self._start = (height, width, self.widths[-1])
        self._stem = keras.layers.Dense(
            math.prod(self._start),
            kernel_initializer=self._initializer(len(self.widths)),
            dtype=self.dtype_policy,
            name="stem",
        )
        repeats = upsampling == "nearest"
        self._up = [
            (keras.layers.Conv2D if repeats else keras.layers.Conv2DTranspose)(
                filters,
                kernel_size(stage) if not repeats else 3,
                strides=1 if repeats else 2,
                padding="same",
                data_format=_CHANNELS_LAST,
                kernel_initializer=self._initializer(stage),
                dtype=self.dtype_policy,
                name=f"up_{stage}",
            )
            for stage, filters in enumerate((channels, *self.widths[:-1]))
        ]

    def build(self, input_shape: Any) -> None:
        shape, num_classes = _input_shapes(input_shape)
        self._stem.build((None, shape[-1]))
        self._build_stages(num_classes)
        for conv, width in zip(self._up, self.widths, strict=True):
            conv.build((None, None, None, width))

    def call(self, inputs: Any) -> Any:
        latents, labels = _features_and_labels(inputs)
        h: Any = keras.ops.reshape(self._stem(latents), (-1, *self._start))
        for stage in reversed(range(len(self.widths))):
            h = self._refine(h, stage, labels)
            up = self._up[stage]
            h = up(_doubled(h)) if self.upsampling == "nearest" else transposed(up, h)
        height, width, _ = self.image_shape
        h = h[:, :height, :width]  # [N, H, W, P]
        return _bounded(h, self.bound)

    def compute_output_shape(self, input_shape: Any) -> tuple[Any, ...]:
        rows = _input_shapes(input_shape)[0][0]
        return (rows, *output_shape(self.image_shape, self.parameters_per_pixel))

    def get_config(self) -> dict[str, Any]:
        return super().get_config() | {
            "image_shape": list(self.image_shape),
            "parameters_per_pixel": self.parameters_per_pixel,
            "upsampling": self.upsampling,
            "bound": self.bound,
        }


@keras.saving.register_keras_serializable(package="vae_keras")
def mish(x: Any) -> Any:
    """Computes x * tanh(softplus(x)) with a single exponential.

    Args:
        x: float tensor of any shape.

    Returns:
        A tensor of the same shape and dtype.

    Example:
        >>> round(float(mish(keras.ops.ones(()))), 4)
        0.8651

    References:
        Misra 2019, "Mish: a self regularized non-monotonic activation function".
    """
    # tanh(log(1 + e)) = (e^2 + 2e) / (e^2 + 2e + 2), which rounds to 1 in float32 from x = 10 on,
    # and in float16 from x = 5 on, where a larger e^2 would overflow.
    is_half = keras.backend.standardize_dtype(getattr(x, "dtype", "float32")) == "float16"
    e: Any = keras.ops.exp(keras.ops.minimum(x, 5.0 if is_half else 10.0))
    ratio = e * (e + 2.0)
    return x * (ratio / (ratio + 2.0))


@keras.saving.register_keras_serializable(package="vae_keras")
def silu(x: Any) -> Any:
    """Computes x * sigmoid(x), in a form that Python and a server's session compute alike.

    Args:
        x: float tensor with at least one dimension.

    Returns:
        A tensor of the same shape and dtype.

    Example:
        >>> round(float(silu(keras.ops.ones((1,)))[0]), 4)
        0.7311

    References:
        Elfwing et al. 2017, "Sigmoid-weighted linear units for neural network function
        approximation in reinforcement learning", equation 3.
    """
    # `tf.nn.silu` is x * sigmoid(beta * x), and its default beta is a scalar 1. A session merges it
    # with any other scalar 1 of the graph, such as the upper limit of a check. The constant then
    # stays, and oneDNN's swish does not replace the operations, as it does in Python. A beta of
    # shape [1] is merged with nothing, so the multiplication by 1 is always removed.
    return tf.nn.silu(x, beta=np.ones(1, np.float32))


_OWN_ACTIVATIONS = {"mish": mish, "silu": silu, "swish": silu}


def activation_function(name: str) -> Callable[[Any], Any]:
    """Returns the activation with a name.

    Args:
        name: a name in `keras.activations`. "mish", "silu" and "swish" are those of this module.

    Returns:
        A function from a tensor to a tensor of the same shape.

    Raises:
        checks.InputError: for any other value. Functions and None are refused, too, because a
            configuration must name the activation.

    Example:
        >>> activation_function("mish").__name__
        'mish'
    """
    try:
        if not isinstance(name, str):
            raise TypeError("not a name")
        return _OWN_ACTIVATIONS.get(name) or keras.activations.get(name)
    except (ValueError, TypeError) as error:
        raise checks.InputError(
            f"activation must be the name of a Keras activation. Received: {name!r}. Pass 'tanh'."
        ) from error


def output_shape(
    image_shape: Sequence[int], parameters_per_pixel: int | None
) -> tuple[int, int, int]:
    """Returns the shape of a decoder's output for one image, (H, W, P).

    Args:
        image_shape: (H, W, C).
        parameters_per_pixel: P, or None for C.

    Raises:
        checks.InputError: for sizes below 1.

    Example:
        >>> output_shape((28, 28, 3), 50)
        (28, 28, 50)
    """
    height, width, channels = checks.sizes("image_shape", image_shape, 3)
    if parameters_per_pixel is None:
        return height, width, channels
    numbers = checks.whole_number("parameters_per_pixel", parameters_per_pixel, 1)
    return height, width, numbers


def _features_and_labels(inputs: Any) -> tuple[Any, Any]:
    """Returns images or latents, and the labels beside them or None."""
    return tuple(inputs) if isinstance(inputs, (list, tuple)) else (inputs, None)


def _input_shapes(input_shape: Any) -> tuple[tuple[Any, ...], int]:
    """Returns the shape of images or latents, and the number of classes beside them or 0."""
    if not isinstance(input_shape[0], (list, tuple)):
        return tuple(input_shape), 0
    features, labels = input_shape
    return tuple(features), int(labels[-1])


def _bounded(h: Any, bound: float | None) -> Any:
    """Returns bound * tanh(h / bound), or h without a bound."""
    return h if bound is None else bound * keras.ops.tanh(h / bound)


def _doubled(h: Any) -> Any:
    """Repeats each row and each column of [N, H, W, C]."""
    _, height, width, channels = h.shape
    h = keras.ops.broadcast_to(
        h[:, :, None, :, None], (keras.ops.shape(h)[0], height, 2, width, 2, channels)
    )
    return keras.ops.reshape(h, (-1, 2 * height, 2 * width, channels))


def transposed(conv: keras.layers.Conv2DTranspose, h: Any) -> Any:
    """Applies a transposed convolution of stride 2; one with few filters runs as an ordinary one.

    With a kernel of 5 x 5, the 2 x 2 pixels of the output that belong to a pixel of the input
    depend on 3 x 3 pixels of the input. An ordinary convolution with four times the filters
    computes them. On a processor, forward passes with one filter took a third of the time with
    oneDNN, and 0.9 to 2 times as long without it.

    Args:
        conv: the layer, built, with strides of 2, `padding="same"`, channels last and a bias. It
            has no activation, no dilation and no output padding.
        h: float tensor [N, height, width, channels].

    Returns:
        Tensor [N, 2 * height, 2 * width, filters] of the layer's compute dtype. Both forms differ
        by rounding only.

    Example:
        >>> layer = keras.layers.Conv2DTranspose(1, 5, 2, "same", data_format="channels_last")
        >>> layer.build((None, 14, 14, 16))
        >>> transposed(layer, np.zeros((3, 14, 14, 16), np.float32)).shape
        TensorShape([3, 28, 28, 1])

    References:
        Shi et al. 2016, "Is the deconvolution layer the same as a convolutional layer?"
    """
    if conv.kernel_size != (5, 5) or conv.filters > _FEW_FILTERS:
        return conv(h)
    # `infer` of a top-down decoder is not a layer's call, in which Keras itself casts the weights.
    h, kernel, bias = (keras.ops.cast(x, conv.compute_dtype) for x in (h, conv.kernel, conv.bias))
    # Row a of an output's pair takes row d of the three through row 1 + a - 2 * (d - 1) of the
    # kernel. One row of zeros before the five makes them three pairs, the last one for d = 0.
    kernel = keras.ops.pad(kernel, ((1, 0), (1, 0), (0, 0), (0, 0)))
    kernel = keras.ops.reshape(kernel, (3, 2, 3, 2, conv.filters, -1))[::-1, :, ::-1]
    kernel = keras.ops.transpose(kernel, (0, 2, 5, 1, 3, 4))  # [3, 3, channels, 2, 2, filters]
    kernel = keras.ops.reshape(kernel, (3, 3, -1, 4 * conv.filters))
    pixels = keras.ops.conv(h, kernel, padding="same", data_format=_CHANNELS_LAST)
    return tf.nn.depth_to_space(pixels + keras.ops.tile(bias, 4), 2)


def kernel_size(stage: int) -> int:
    """Returns the size of a stage's kernels, which is larger where channels are few.

    Args:
        stage: number of the stage, 0 for the one at the resolution of the images.

    Returns:
        Height and width of a kernel.
    """
    return 5 if stage == 0 else 3


def variance_scaling(seed: int, kind: int, index: int, gain: float = 1.0) -> Any:
    """Returns Glorot and Bengio's uniform initializer with a seed of its own.

    Args:
        seed: seed of the network, integer >= 0.
        kind: number of the network's class, which separates networks of one seed.
        index: number of the kernel in its network.
        gain: factor on the variance. Default 1.0.

    Returns:
        A Keras initializer that draws the same kernel every time.

    Example:
        >>> variance_scaling(seed=0, kind=0, index=0)((2, 3)).shape
        TensorShape([2, 3])

    References:
        Glorot & Bengio 2010, "Understanding the difficulty of training deep feedforward neural
        networks", equation 16.
    """
    # An initializer without a seed would read Python's global random generator.
    state = np.random.SeedSequence([seed, kind, index]).generate_state(1)[0]
    return keras.initializers.VarianceScaling(
        scale=gain, mode="fan_avg", distribution="uniform", seed=int(state) % 2**31
    )
