"""What a `VAE` does with arrays and whole data sets: NumPy in, NumPy out."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from vae_keras import data, noise
from vae_keras.objectives import Terms
from vae_keras.trainer import inputs
from vae_keras.utils import checks

_BLOCK = 1000  # rows at a time


class Posterior(NamedTuple):
    """A diagonal normal posterior.

    Attributes:
        loc: means, [N, latent_dim].
        scale: standard deviations, [N, latent_dim].
    """

    loc: Any
    scale: Any


class Graphs(NamedTuple):
    """The tensor functions of the array methods, as graphs with a free number of rows.

    TensorFlow fuses operations in a graph, and fused operations round differently. Only graphs
    answer bit for bit as the served model does.
    """

    context: Callable[..., Any]
    encode: Callable[..., Posterior]
    decode: Callable[..., tf.Tensor]
    draw: Callable[..., tf.Tensor]
    prior: Callable[..., tf.Tensor]
    reconstruct: Callable[..., tf.Tensor]
    terms: Callable[..., Terms]


class ArrayMethods:
    """The methods of `VAE` that take arrays, datasets, or nothing, and return arrays.

    Attributes:
        graphs: the tensor functions behind the methods.
    """

    graphs: Graphs
    built: bool
    latent_dim: int
    image_shape: tuple[int, ...]
    pixels: Callable[[tf.Tensor], tf.Tensor]
    as_examples: Callable[..., np.ndarray]
    likelihood: Any
    decode_distribution: Callable[..., Any]

    def encode(self, x: Any) -> Posterior:
        """Returns the posterior of each image.

        The latents of a top-down model are inferred in groups. Their loc and scale are those given
        the mean of each group above, so `decode(encode(x).loc)` equals `reconstruct(x)`.

        Args:
            x: images in any form that `fit` takes.

        Returns:
            `Posterior(loc, scale)`, float32 [N, latent_dim] each.
        """
        return Posterior(*self._map(lambda rows, _: self.graphs.encode(self.pixels(rows)), x))

    def decode(self, latents: Any) -> np.ndarray:
        """Returns pixel means [N, H, W, C] for latents [N, latent_dim]."""
        self._require_built("decode")
        return _in_blocks(self.graphs.decode, checks.latents(latents, self.latent_dim))

    def reconstruct(self, x: Any) -> np.ndarray:
        """Returns pixel means [N, H, W, C] through the mean of each image's posterior.

        Args:
            x: images in any form that `fit` takes.
        """
        return self._map(lambda rows, _: self.graphs.reconstruct(self.pixels(rows)), x)

    def prior_latents(self, n: int, seed: int = 0) -> np.ndarray:
        """Draws latents from the prior. Row i is a function of (seed, i).

        Args:
            n: number of latents, >= 1.
            seed: integer in [0, 2^31). Default 0.

        Returns:
            float32 [n, latent_dim].
        """
        self._require_built("sample")
        n, seed = checks.whole_number("n", n, 1), checks.seed(seed)
        checks.memory("n", n, 4 * self.latent_dim)
        draws = noise.normal(seed, noise.Stream.PRIOR, rows=n, size=self.latent_dim)
        return self.prior_draws(draws.numpy())

    def prior_draws(self, standard: Any) -> np.ndarray:
        """Maps standard normal numbers to draws from the prior, both [N, latent_dim]."""
        self._require_built("sample")
        return _in_blocks(self.graphs.prior, checks.latents(standard, self.latent_dim))

    def sample(self, n: int, seed: int = 0, pixels: str = "mean") -> np.ndarray:
        """Draws images from the model. Row i is a function of (seed, i).

        Args:
            n: number of images, >= 1.
            seed: integer in [0, 2^31). Default 0.
            pixels: "mean" for the means of the pixels of each image, which look smooth, or "draw"
                to draw the pixels from the likelihood, too. Default "mean".

        Returns:
            float32 [n, H, W, C]. Drawn pixels are values that the likelihood gives: 0 and 1 for a
            Bernoulli, and multiples of 1 / 255 for 256 levels.
        """
        self._require_built("sample")
        checks.choice("pixels", pixels, ("mean", "draw"))
        checks.memory("n", checks.whole_number("n", n, 1), self._image_bytes())
        latents = self.prior_latents(n, seed)
        if pixels == "mean":
            return self.decode(latents)
        number = tf.constant(checks.seed(seed), tf.int64)
        return np.concatenate(
            [
                self.graphs.draw(tf.constant(latents[row : row + _BLOCK]), number, row)
                for row in range(0, n, _BLOCK)
            ]
        )

    def interpolate(self, a: Any, b: Any, steps: int = 11) -> np.ndarray:
        """Decodes the straight line between the posterior means of pairs of images.

        Args:
            a: images at the start, in any form that `fit` takes, [N, ...].
            b: images at the end, as many.
            steps: number of points on each line, both ends included, >= 2. Default 11.

        Returns:
            Pixel means, float32 [N, steps, H, W, C].
        """
        start, end = self.encode(a).loc, self.encode(b).loc
        if len(start) != len(end):
            raise checks.InputError(
                "interpolate needs as many images at the end as at the start. "
                f"Received: {len(start)} and {len(end)}. Pass pairs."
            )
        checks.whole_number("steps", steps, 2)
        checks.memory("steps", len(start) * steps, self._image_bytes())
        fractions = np.linspace(0.0, 1.0, steps, dtype=np.float32)
        weight = fractions[np.newaxis, :, np.newaxis]
        line = (1.0 - weight) * start[:, np.newaxis] + weight * end[:, np.newaxis]
        images = self.decode(line.reshape(-1, self.latent_dim))
        return images.reshape(len(start), len(fractions), *self.image_shape)

    def elbo(self, x: Any, seed: int = 0) -> Terms:
        """Estimates the ELBO of each image with one sample of its posterior.

        The images are taken as they are. Binarize them first (`data.binarize`) for a figure that
        compares with published ones.

        Args:
            x: images in any form that `fit` takes.
            seed: integer in [0, 2^31). Default 0.

        Returns:
            `Terms(elbo, log_likelihood, kl)`, float32 [N] each, in nats. elbo is
            log_likelihood - kl, and a higher one is better.
        """
        number = tf.constant(checks.seed(seed), tf.int64)

        def block(rows: tf.Tensor, first: int) -> Terms:
            pixels = data.to_pixels(rows, None, "none")
            return self.graphs.terms(pixels, number, tf.constant(first, tf.int64))

        return Terms(*self._map(block, x))

    def images(self, x: Any, name: str = "x") -> Any:
        """Returns the images of data in any form that `fit` takes, as one array [N, H, W, C].

        `Rows` are returned as they are, and no image is read.

        Raises:
            checks.InputError: for anything that is no images of the model's shape.
        """
        blocks = list(self._blocks(x, name))
        return blocks[0] if len(blocks) == 1 else np.concatenate(blocks)

    def draw_tensors(self, latents: tf.Tensor, seed: tf.Tensor, row: tf.Tensor) -> tf.Tensor:
        """Returns images [N, H, W, C] drawn from p(x | z); row is the index of the first image."""
        *size, channels = self.image_shape
        numbers = self.likelihood.uniforms_per_pixel(channels)
        bits = noise.bits16(
            seed,
            noise.Stream.DRAWN_PIXELS,
            rows=tf.shape(latents)[0],
            size=math.prod(size) * numbers,
            row=row,
        )
        uniform = (tf.cast(bits, tf.float32) + 0.5) / 65536.0
        uniform = tf.reshape(uniform, [-1, *size, numbers])
        return self.decode_distribution(latents).draw(uniform)

    def _blocks(self, x: Any, name: str = "x") -> Iterator[np.ndarray]:
        """The images of data in any form, checked: one array, or one for each batch."""
        if not inputs.is_pipeline(x):
            yield self.as_examples(inputs.unpack(x)[0], name)
            return
        is_empty = True
        for batch in x:
            is_empty = False
            yield self.as_examples(keras.utils.unpack_x_y_sample_weight(batch)[0], name)
        if is_empty:
            raise inputs.no_batch()

    def _map(self, function: Callable[[tf.Tensor, int], Any], x: Any) -> Any:
        """Applies a function of rows and the first one's index, and joins the results."""
        results, first = [], 0
        for images in self._blocks(x):
            for start in range(0, len(images), _BLOCK):
                rows = tf.constant(np.asarray(images[start : start + _BLOCK]))
                results.append(function(rows, first + start))
            first += len(images)
        return tf.nest.map_structure(lambda *each: np.concatenate(each), *results)

    def _image_bytes(self) -> int:
        return 4 * math.prod(self.image_shape)

    def _require_built(self, method: str) -> None:
        if not self.built:
            raise checks.InputError(
                f"{method} needs to know the shape of the images. Received: a model that saw no "
                "images. Call fit or build((None, H, W, C)) first."
            )


def _in_blocks(function: Callable[..., Any], array: np.ndarray) -> np.ndarray:
    """Applies a tensor function to blocks of rows and joins what it returns."""
    starts = range(0, len(array), _BLOCK)
    return np.concatenate([function(tf.constant(array[s : s + _BLOCK])) for s in starts])
