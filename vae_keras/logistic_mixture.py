"""The likelihood of images with 256 levels: a mixture of discretized logistics for each pixel."""

from __future__ import annotations

import math
from typing import Any

import keras
import tensorflow as tf

from vae_keras.distributions import tfd
from vae_keras.kernels import logistic_mixture as kernel
from vae_keras.utils import checks

_WHITE = kernel.LEVELS - 1


@keras.saving.register_keras_serializable(package="vae_keras")
class DiscretizedLogisticMixture:
    """The likelihood of images with 256 grey levels, or 256 levels of each colour.

    A pixel is drawn from one of K components. In a component each channel is a logistic, rounded
    to the nearest level; what lies outside of 0..255 counts as 0 or as 255. The location of a
    channel is shifted by a linear function of the pixel's earlier channels (red, then green, then
    blue). The log-probability is at most 0, and its nats compare with those of any other model of
    8-bit images: bits per dimension are nats / (H * W * C * log 2).

    A decoder returns `parameters_per_pixel(C)` numbers for each pixel: the log-weights of the
    components, then for each channel the locations, the log-scales and the coefficients of the
    earlier channels.

    Args:
        components: K, the number of components, >= 1. Default 5.

    Raises:
        checks.InputError: for an argument outside of its range.

    Example:
        >>> likelihood = DiscretizedLogisticMixture(components=5)
        >>> likelihood.parameters_per_pixel(channels=3)
        50
        >>> likelihood.distribution(tf.zeros([8, 32, 32, 50])).log_prob(tf.zeros([32, 32, 3])).shape
        TensorShape([8])

    References:
        Salimans et al. 2017, "PixelCNN++: improving the PixelCNN with discretized logistic mixture
        likelihood and other modifications", section 2.1 and equation 3.
    """

    support = "levels"
    """The pixels that have a probability: multiples of 1 / 255 from 0 to 1."""

    def __init__(self, components: int = 5) -> None:
        self.components = checks.whole_number("components", components, 1)

    def parameters_per_pixel(self, channels: int) -> int:
        """Returns how many numbers a decoder must return for each pixel.

        Args:
            channels: number of channels of an image, C.

        Example:
            >>> DiscretizedLogisticMixture(components=1).parameters_per_pixel(channels=1)
            3
        """
        return kernel.numbers_per_pixel(channels, self.components)

    def uniforms_per_pixel(self, channels: int) -> int:
        """Returns how many uniform numbers `draw` takes for each pixel: C + 1."""
        return channels + 1

    def distribution(self, parameters: tf.Tensor) -> tfd.Distribution:
        """Returns p(x | z) with one event for each image.

        Args:
            parameters: output of a decoder, [..., H, W, parameters_per_pixel(C)].

        Returns:
            A distribution with batch shape [...] and event shape [H, W, C]. It has the methods
            `log_prob`, `mean`, and `draw`.

        Raises:
            checks.InputError: if no number of channels has that many parameters.
        """
        given = parameters.shape[-1]
        channels = 1
        while self.parameters_per_pixel(channels) < given:
            channels += 1
        if self.parameters_per_pixel(channels) != given:
            raise checks.InputError(
                f"a mixture of {self.components} components takes {self.parameters_per_pixel(1)} "
                f"numbers for each grey pixel and {self.parameters_per_pixel(3)} for each colour "
                f"pixel. Received: {given}. Give the decoder as many output channels."
            )
        return _LogisticMixturePixels(tf.cast(parameters, tf.float32), channels, self.components)

    def get_config(self) -> dict[str, Any]:
        return {"components": self.components}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> DiscretizedLogisticMixture:
        return cls(**config)


class _LogisticMixturePixels(tfd.Distribution):
    """Independent pixels, each from a mixture of discretized logistics; an image is one event."""

    def __init__(self, parameters: tf.Tensor, channels: int, components: int) -> None:
        super().__init__(
            dtype=tf.float32,
            reparameterization_type=tfd.NOT_REPARAMETERIZED,
            validate_args=False,
            allow_nan_stats=False,
            parameters={"parameters": parameters, "channels": channels, "components": components},
            name="LogisticMixturePixels",
        )
        self._raw, self._channels, self._components = parameters, channels, components

    def _event_shape(self) -> tf.TensorShape:
        return tf.TensorShape([*self._raw.shape[-3:-1], self._channels])

    def _event_shape_tensor(self) -> tf.Tensor:
        return tf.concat([tf.shape(self._raw)[-3:-1], [self._channels]], axis=0)

    def _batch_shape(self) -> tf.TensorShape:
        return self._raw.shape[:-3]

    def _batch_shape_tensor(self, **_: Any) -> tf.Tensor:
        return tf.shape(self._raw)[:-3]

    def _log_prob(self, x: tf.Tensor) -> tf.Tensor:
        levels, raw = tf.round(tf.cast(x, tf.float32) * _WHITE), self._raw
        if levels.shape[:-1] != raw.shape[:-1]:
            shape = tf.broadcast_dynamic_shape(tf.shape(levels)[:-1], tf.shape(raw)[:-1])
            levels = tf.broadcast_to(levels, tf.concat([shape, [self._channels]], axis=0))
            raw = tf.broadcast_to(raw, tf.concat([shape, [raw.shape[-1]]], axis=0))
        pixels = kernel.log_prob(
            tf.reshape(levels, [-1, self._channels]),
            tf.reshape(raw, [-1, raw.shape[-1]]),
            self._channels,
            self._components,
        )
        images = tf.reshape(pixels, tf.concat([tf.shape(raw)[:-3], [self._num_pixels()]], axis=0))
        return tf.reduce_sum(images, axis=-1)

    def _mean(self) -> tf.Tensor:
        """The mean of the logistics, clipped to [0, 1] but not rounded.

        Rounding moves it by less than half a level. Where an earlier channel is clipped, the mean
        of a later one takes it as a logistic with the clipped mean and a bounded variance.
        """
        parts = self._mixture()
        weights = tf.nn.softmax(parts.logits, axis=0)  # [K, R]
        means: list[tf.Tensor] = []
        squares: list[tf.Tensor] = []  # of the scales
        for channel in range(self._channels):
            square = tf.exp(2.0 * parts.log_scales[channel])
            first = channel * (channel - 1) // 2
            for earlier in range(channel):
                square += parts.coefficients[first + earlier] ** 2 * squares[earlier]
            loc, scale = parts.shifted(channel, means), tf.sqrt(square)
            # The integral of P(y > t) over t from -1 to 1 is the mean of the clipped y, plus 1.
            above = tf.nn.softplus((loc + 1.0) / scale) - tf.nn.softplus((loc - 1.0) / scale)
            means.append(scale * above - 1.0)
            # Clipping to [-1, 1] leaves a variance of at most 1 - mean^2.
            most = (1.0 - means[-1] ** 2) * (3.0 / math.pi**2)
            squares.append(tf.clip_by_value(most, 0.0, square))
        mixed = tf.stack([tf.reduce_sum(weights * mean, axis=0) for mean in means], axis=-1)
        return self._images(tf.clip_by_value(0.5 * (mixed + 1.0), 0.0, 1.0))

    def draw(self, uniform: tf.Tensor) -> tf.Tensor:
        """Maps uniform numbers to images.

        Args:
            uniform: in (0, 1), [..., H, W, C + 1]: one number for the component of each pixel, and
                one for each of its channels.

        Returns:
            Images [..., H, W, C] whose pixels are multiples of 1 / 255.
        """
        parts = self._mixture()
        component, *each = tf.unstack(tf.transpose(tf.reshape(uniform, [-1, self._channels + 1])))
        passed = tf.cumsum(tf.nn.softmax(parts.logits, axis=0), axis=0) < component
        # The rounded weights may add up to less than the number.
        index = tf.minimum(tf.reduce_sum(tf.cast(passed, tf.int32), axis=0), self._components - 1)
        chosen = tf.one_hot(index, self._components, axis=0)
        levels: list[tf.Tensor] = []
        for channel, number in enumerate(each):
            loc = parts.shifted(channel, [level / (0.5 * _WHITE) - 1.0 for level in levels])
            y = loc + tf.exp(parts.log_scales[channel]) * tf.math.log(number / (1.0 - number))
            y = tf.clip_by_value(tf.reduce_sum(chosen * y, axis=0), -1.0, 1.0)
            levels.append(tf.round((y + 1.0) * (0.5 * _WHITE)))
        return self._images(tf.stack(levels, axis=-1) / _WHITE)

    def saturated(self) -> tf.Tensor:
        """Returns which log-scales lie at their upper bound, [C, K, pixels].

        The lower bound is no fault: pixels of a constant background have the smallest scale.
        """
        return self._mixture().log_scales >= kernel.MAX_LOG_SCALE

    def _mixture(self) -> kernel.Mixture:
        flat = tf.reshape(self._raw, [-1, self._raw.shape[-1]])
        return kernel.mixture(flat, self._channels, self._components)

    def _images(self, pixels: tf.Tensor) -> tf.Tensor:
        shape = tf.concat([tf.shape(self._raw)[:-1], [self._channels]], axis=0)
        images = tf.reshape(pixels, shape)
        images.set_shape([*self._raw.shape[:-1], self._channels])  # LiteRT has no EnsureShape
        return images

    def _num_pixels(self) -> int:
        return math.prod(self._raw.shape[-3:-1])
