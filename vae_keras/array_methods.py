"""What a `VAE` does with arrays and whole data sets: NumPy in, NumPy out."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from vae_keras import data, noise
from vae_keras.labels import Classes
from vae_keras.objectives import Terms
from vae_keras.trainer import inputs
from vae_keras.utils import checks, graphs

_BLOCK = 1000  # rows at a time


class Posterior(NamedTuple):
    """A diagonal normal posterior.

    Attributes:
        loc: means, [N, latent_dim].
        scale: standard deviations, [N, latent_dim].
    """

    loc: Any
    scale: Any


@dataclass(frozen=True)  # no tuple, whose members Keras would export beside `call`
class Graphs:
    """The tensor functions of the array methods, as graphs with a free number of rows.

    Those of a conditional model take one-hot labels [N, K] in addition. Only it can `classify`.

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
    classify: Callable[..., Any]

    @classmethod
    def of(cls, model: Any) -> Graphs:
        """Makes the graphs of a built `VAE`, which are traced when they are first called."""
        images = tf.TensorSpec((None, *model.image_shape))
        latents = tf.TensorSpec((None, model.latent_dim))
        number = tf.TensorSpec((), tf.int64)
        labels = [] if model.num_classes is None else [tf.TensorSpec((None, model.num_classes))]

        def terms(rows: tf.Tensor, seed: tf.Tensor, row: tf.Tensor, *labels: tf.Tensor) -> Terms:
            count, stream = tf.shape(rows)[0], noise.Stream.TEST_LATENTS
            draws = noise.normal(seed, stream, rows=count, size=model.latent_dim, row=row)
            return model.terms(rows, draws, *labels)

        context = graphs.compiled(model.context, [images, *labels])
        encode = context  # The context of a flat posterior is its loc and scale.
        if model.is_top_down or labels:
            encode = graphs.compiled(model.encode_tensors, [images, *labels])
        classify = [images, tf.TensorSpec((None, 2), tf.int32), tf.TensorSpec((), tf.int32)]
        return cls(
            context=context,
            encode=encode,
            decode=graphs.compiled(model.decode_tensors, [latents, *labels]),
            draw=graphs.compiled(model.draw_tensors, [latents, number, number, *labels]),
            prior=graphs.compiled(model.prior.transform, [latents]),
            reconstruct=graphs.compiled(model.call, [images, *labels]),
            terms=graphs.compiled(terms, [images, number, number, *labels]),
            classify=graphs.compiled(model.classify_tensors, classify),
        )


class ArrayMethods:
    """The methods of `VAE` that take arrays, datasets, or nothing, and return arrays.

    Attributes:
        graphs: the tensor functions behind the methods.

    Example:
        >>> vae = VAE()
        >>> x = np.zeros((3, 28, 28, 1), np.uint8)
        >>> latents = vae.encode(x).loc
        >>> vae.decode(latents).shape, vae.reconstruct(x).shape
        ((3, 28, 28, 1), (3, 28, 28, 1))
        >>> vae.sample(25, seed=1).shape, vae.interpolate(x[:1], x[1:2], steps=5).shape
        ((25, 28, 28, 1), (1, 5, 28, 28, 1))
        >>> vae.elbo(x).elbo.shape
        (3,)
    """

    graphs: Graphs
    built: bool
    latent_dim: int
    image_shape: tuple[int, ...]
    pixels: Callable[[tf.Tensor], tf.Tensor]
    as_examples: Callable[..., np.ndarray]
    check_support: Callable[..., None]
    likelihood: Any
    decode_distribution: Callable[..., Any]
    classes: Classes | None
    given: Callable[..., tuple[np.ndarray, ...]]

    def encode(self, x: Any, labels: Any = None) -> Posterior:
        """Returns the posterior of each image.

        The latents of a top-down model are inferred in groups. Their loc and scale are those given
        the mean of each group above, so `decode(encode(x).loc)` equals `reconstruct(x)`.

        Args:
            x: images in any form that `fit` takes.
            labels: classes of the images, numbers or names [N], for a model with classes.
                Default: those in `x`.

        Returns:
            `Posterior(loc, scale)`, float32 [N, latent_dim] each.

        Raises:
            checks.InputError: for images of another form, and for unknown labels.
        """
        return Posterior(*self._map(self._encode, self._labelled_blocks(x, labels)))

    def decode(self, latents: Any, labels: Any = None) -> np.ndarray:
        """Returns pixel means [N, H, W, C] for latents [N, latent_dim].

        Args:
            latents: [N, latent_dim].
            labels: classes to decode in, numbers or names, [N] or a single one, for a model with
                classes. Default None.

        Raises:
            checks.InputError: for latents of another shape, unknown labels, and a model that is not
                built.
        """
        self._require_built("decode")
        latents = checks.latents(latents, self.latent_dim)
        return _in_blocks(self.graphs.decode, latents, *self.given(labels, len(latents)))

    def reconstruct(self, x: Any, labels: Any = None) -> np.ndarray:
        """Returns pixel means [N, H, W, C] through the mean of each image's posterior.

        Args:
            x: images in any form that `fit` takes.
            labels: as in `encode`. Default: those in `x`.

        Raises:
            checks.InputError: for images of another form, and for unknown labels.
        """

        def block(rows: tf.Tensor, _: int, *given: tf.Tensor) -> tf.Tensor:
            return self.graphs.reconstruct(self.pixels(rows), *given)

        return self._map(block, self._labelled_blocks(x, labels))

    def prior_latents(self, n: int, seed: int = 0) -> np.ndarray:
        """Draws latents from the prior. Row i is a function of (seed, i).

        Args:
            n: number of latents, >= 1.
            seed: integer in [0, 2^31). Default 0.

        Returns:
            float32 [n, latent_dim].

        Raises:
            checks.InputError: for a number out of range, and for a model that is not built.
        """
        self._require_built("prior_latents")
        n, seed = checks.whole_number("n", n, 1), checks.seed(seed)
        checks.memory("n", n, 4 * self.latent_dim)
        draws = noise.normal(seed, noise.Stream.PRIOR, rows=n, size=self.latent_dim)
        return self.prior_draws(draws.numpy())

    def prior_draws(self, standard: Any) -> np.ndarray:
        """Maps standard normal numbers to draws from the prior.

        Args:
            standard: standard normal numbers [N, latent_dim].

        Returns:
            float32 [N, latent_dim].

        Raises:
            checks.InputError: for another shape, and for a model that is not built.
        """
        self._require_built("prior_draws")
        return _in_blocks(self.graphs.prior, checks.latents(standard, self.latent_dim))

    def sample(self, n: int, seed: int = 0, pixels: str = "mean", labels: Any = None) -> np.ndarray:
        """Draws images from the model. Row i is a function of (seed, i).

        Args:
            n: number of images, >= 1.
            seed: integer in [0, 2^31). Default 0.
            pixels: "mean" for the means of the pixels of each image, which look smooth, or "draw"
                to draw the pixels from the likelihood, too. Default "mean".
            labels: classes to draw, numbers or names, [n] or a single one, for a model with
                classes. Default None.

        Returns:
            float32 [n, H, W, C]. Drawn pixels are values that the likelihood gives: 0 and 1 for a
            Bernoulli, and multiples of 1 / 255 for 256 levels.

        Raises:
            checks.InputError: for a number out of range, unknown labels, and a model that is not
                built.
        """
        self._require_built("sample")
        checks.choice("pixels", pixels, ("mean", "draw"))
        checks.memory("n", checks.whole_number("n", n, 1), self._image_bytes())
        given = self.given(labels, n)
        latents = self.prior_latents(n, seed)
        if pixels == "mean":
            return _in_blocks(self.graphs.decode, latents, *given)
        number = tf.constant(checks.seed(seed), tf.int64)
        blocks = []
        for row in range(0, n, _BLOCK):
            rows, *of_rows = (part[row : row + _BLOCK] for part in (latents, *given))
            blocks.append(self.graphs.draw(tf.constant(rows), number, row, *of_rows))
        return np.concatenate(blocks)

    def interpolate(
        self, a: Any, b: Any, steps: int = 11, labels: Any = None, end_labels: Any = None
    ) -> np.ndarray:
        """Decodes the straight line between the posterior means of pairs of images.

        Between images of two classes, the one-hot labels move along the line, too.

        Args:
            a: images at the start, in any form that `fit` takes, [N, ...].
            b: images at the end, as many.
            steps: number of points on each line, both ends included, >= 2. Default 11.
            labels: classes of the images at the start, as in `encode`. Default: those in `a`.
            end_labels: classes of the images at the end. Default: those in `b`, or `labels`.

        Returns:
            Pixel means, float32 [N, steps, H, W, C].

        Raises:
            checks.InputError: for images of another form, unknown labels, and fewer images at one
                end than at the other.
        """
        of_end = end_labels
        if of_end is None and not inputs.is_pipeline(b) and inputs.unpack(b)[1] is None:
            of_end = labels
        ends = []
        for x, y in ((a, labels), (b, of_end)):
            images, *given = self.labelled(x, y)
            ends.append((self._map(self._encode, [(images, *given)])[0], *given))
        start, end = ends[0][0], ends[1][0]
        if len(start) != len(end):
            raise checks.InputError(
                "interpolate needs as many images at the end as at the start. "
                f"Received: {len(start)} and {len(end)}. Pass pairs."
            )
        checks.whole_number("steps", steps, 2)
        checks.memory("steps", len(start) * steps, self._image_bytes())
        fractions = np.linspace(0.0, 1.0, steps, dtype=np.float32)
        weight = fractions[np.newaxis, :, np.newaxis]
        lines = [
            (1.0 - weight) * first[:, np.newaxis] + weight * last[:, np.newaxis]
            for first, last in zip(*ends, strict=True)
        ]
        rows = [line.reshape(-1, line.shape[-1]) for line in lines]
        images = _in_blocks(self.graphs.decode, *rows)
        return images.reshape(len(start), len(fractions), *self.image_shape)

    def elbo(self, x: Any, seed: int = 0, labels: Any = None) -> Terms:
        """Estimates the ELBO of each image with one sample of its posterior.

        The images are taken as they are. Binarize them first (`data.binarize`) for a figure that
        compares with published ones.

        Args:
            x: images in any form that `fit` takes.
            seed: integer in [0, 2^31). Default 0.
            labels: as in `encode`. The ELBO is then a bound on log p(x | y), and on log p(x) where
                a label is missing, for a model with a classifier. Default: those in `x`.

        Returns:
            `Terms(elbo, log_likelihood, kl)`, float32 [N] each, in nats. elbo is
            log_likelihood - kl, and a higher one is better.

        Raises:
            checks.InputError: for images of another form, for unknown labels, and for pixels
                between the levels of a likelihood with 256 levels.
        """
        number = tf.constant(checks.seed(seed), tf.int64)

        def block(rows: tf.Tensor, first: int, *given: tf.Tensor) -> Terms:
            pixels = data.to_pixels(rows, None, "none")
            return self.graphs.terms(pixels, number, tf.constant(first, tf.int64), *given)

        def supported() -> Iterator[tuple[Any, ...]]:
            for parts in self._labelled_blocks(x, labels, may_miss=True):
                self.check_support(parts[0], is_whole=False)
                yield parts

        return Terms(*self._map(block, supported()))

    def images(self, x: Any, name: str = "x") -> Any:
        """Returns the images of data in any form that `fit` takes, as one array [N, H, W, C].

        `Rows` are returned as they are, and no image is read.

        Raises:
            checks.InputError: for anything but images of the model's shape.
        """
        blocks = [images for images, _ in self._blocks(x, name)]
        return blocks[0] if len(blocks) == 1 else np.concatenate(blocks)

    def labelled(self, x: Any, labels: Any = None, may_miss: bool = False) -> tuple[Any, ...]:
        """Returns the images of data in any form that `fit` takes, and their labels.

        Args:
            x: images, or images with their labels.
            labels: classes of the images, numbers or names [N], for a model with classes.
                Default: those in `x`.
            may_miss: whether a label may be missing if the model has a classifier. Default False.

        Returns:
            The images as `images` returns them. For a model with classes also the labels, one-hot
            float32 [N, K], in which the row of a missing label is zero.

        Raises:
            checks.InputError: for images of another form, and for unknown labels.
        """
        blocks = list(self._labelled_blocks(x, labels, may_miss))
        return (
            blocks[0] if len(blocks) == 1 else tuple(map(np.concatenate, zip(*blocks, strict=True)))
        )

    def draw_tensors(
        self, latents: tf.Tensor, seed: tf.Tensor, row: tf.Tensor, labels: tf.Tensor | None = None
    ) -> tf.Tensor:
        """Returns images [N, H, W, C] drawn from p(x | z); row is the index of the first image."""
        *size, channels = self.image_shape
        if not hasattr(self.likelihood, "uniforms_per_pixel"):
            raise checks.InputError(
                "pixels='draw' needs a likelihood with uniforms_per_pixel, and a distribution with "
                f"draw. Received: {type(self.likelihood).__name__}. Pass pixels='mean'."
            )
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
        return self.decode_distribution(latents, labels).draw(uniform)

    def _blocks(self, x: Any, name: str = "x") -> Iterator[tuple[Any, Any]]:
        """The images of data in any form, checked, and y: all of them, or those of each batch."""
        if not inputs.is_pipeline(x):
            x, y, _ = inputs.unpack(x)
            yield self.as_examples(x, name), y
            return
        if isinstance(x, tf.data.Dataset) and int(x.cardinality()) == tf.data.INFINITE_CARDINALITY:
            raise checks.InputError(
                f"{name} must be a dataset with an end. Received: one that repeats without end. "
                "Leave out repeat(), or call take()."
            )
        is_empty = True
        for batch in x:
            is_empty = False
            images, y, _ = keras.utils.unpack_x_y_sample_weight(batch)
            yield self.as_examples(images, name), y
        if is_empty:
            raise inputs.no_batch()

    def _labelled_blocks(
        self, x: Any, labels: Any, may_miss: bool = False
    ) -> Iterator[tuple[Any, ...]]:
        """The images of data in any form, and for a model with classes their one-hot labels."""
        if labels is not None and inputs.is_pipeline(x):
            raise checks.InputError(
                "labels are given beside arrays only. Received: labels beside a "
                f"{type(x).__name__}. Let its batches be (images, labels)."
            )
        for images, y in self._blocks(x):
            y = y if labels is None and self.classes else labels
            yield images, *self.given(y, len(images), may_miss)

    def _map(self, function: Callable[..., Any], blocks: Iterable[tuple[Any, ...]]) -> Any:
        """Applies a function of rows, the first one's index and labels, and joins the results."""
        results, first = [], 0
        for parts in blocks:
            for start in range(0, len(parts[0]), _BLOCK):
                rows, *given = (
                    tf.constant(np.asarray(part[start : start + _BLOCK])) for part in parts
                )
                results.append(function(rows, first + start, *given))
            first += len(parts[0])
        return tf.nest.map_structure(lambda *each: np.concatenate(each), *results)

    def _encode(self, rows: tf.Tensor, _: int, *given: tf.Tensor) -> Posterior:
        return self.graphs.encode(self.pixels(rows), *given)

    def _image_bytes(self) -> int:
        return 4 * math.prod(self.image_shape)

    def _require_built(self, method: str) -> None:
        if not self.built:
            raise checks.InputError(
                f"{method} needs to know the shape of the images. Received: a model that saw no "
                "images. Call fit or build((None, H, W, C)) first."
            )


def _in_blocks(function: Callable[..., Any], *arrays: np.ndarray) -> np.ndarray:
    """Applies a tensor function to blocks of rows and joins what it returns."""
    starts = range(0, len(arrays[0]), _BLOCK)
    blocks = ([tf.constant(array[s : s + _BLOCK]) for array in arrays] for s in starts)
    return np.concatenate([function(*block) for block in blocks])
