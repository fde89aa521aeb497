"""The additional methods of a `VAE` with classes: style transfer and classification.

p(z) p(x | z, y) and q(z | x, y), for a label y of K classes. p(y) are the frequencies of the labels
that the model was trained on.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from vae_keras import assembly, data, noise
from vae_keras.array_methods import ArrayMethods
from vae_keras.labels import Classes, bayes, marginal
from vae_keras.objectives import Terms, log_weights
from vae_keras.utils import checks


class Classification(NamedTuple):
    """What a conditional model says of the class of each image.

    Attributes:
        log_prob: log p(y | x), float32 [N, K].
        standard_error: standard error of `log_prob` from the importance samples, float32 [N, K].
    """

    log_prob: Any
    standard_error: Any


class Conditioned(NamedTuple):
    """What inference knows of each image of a conditional model.

    Attributes:
        loc: means of q(z | x, y), [N, latent_dim].
        scale: standard deviations, [N, latent_dim].
        labels: one-hot y, [N, K].
    """

    loc: tf.Tensor
    scale: tf.Tensor
    labels: tf.Tensor


class ConditionalMethods(ArrayMethods):
    """The array methods of a `VAE` with classes, and what every method asks about labels."""

    classifier: Any
    classifier_weight: float
    add_weight: Callable[..., Any]
    context: Callable[..., Any]
    inference: Callable[..., Any]
    _frequencies: Any

    @property
    def num_classes(self) -> int | None:
        """The number of classes, or None for a model without."""
        return None if self.classes is None else self.classes.count

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """The names of the classes, or None for classes without names."""
        return (self.classes.names or None) if self.classes else None

    @property
    def class_probabilities(self) -> np.ndarray:
        """p(y), float32 [K]: the frequencies of the labels of the arrays that `fit` took last.

        Examples of weight 0 are not counted. The frequencies are uniform before that. `fit` does
        not count the labels of datasets and generators: set the probabilities if your classes are
        of unequal size.
        """
        self._require_classes("class_probabilities")
        self._require_built("class_probabilities")
        return self._frequencies.numpy()

    @class_probabilities.setter
    def class_probabilities(self, value: Any) -> None:
        count = self._require_classes("class_probabilities").count
        self._require_built("class_probabilities")
        try:
            array = np.asarray(value, np.float64)
        except (TypeError, ValueError):
            array = np.empty(0)
        with np.errstate(divide="ignore", invalid="ignore"):
            share = (array / array.sum()).astype(np.float32)
        above_0 = (array > 0).all() and (share > 0).all() and np.isfinite(share).all()
        if array.shape != (count,) or not above_0:
            raise checks.InputError(
                f"class_probabilities must be {count} numbers above 0. Received: {value!r:.100}. "
                "Pass the number of images in each class."
            )
        self._frequencies.assign(share)

    def transfer(self, x: Any, labels: Any = None) -> np.ndarray:
        """Decodes the style of each image in each class: its latents, given every label in turn.

        Args:
            x: images in any form that `fit` takes.
            labels: classes of the images, numbers or names [N]. Default: those in `x`.

        Returns:
            Pixel means, float32 [N, K, H, W, C].

        Raises:
            checks.InputError: for a model without classes, and for unknown labels.

        References:
            Kingma et al. 2014, "Semi-supervised learning with deep generative models", figure 1.
        """
        count = self._require_classes("transfer").count
        latents = self.encode(x, labels).loc
        checks.memory("x", len(latents), 4 * count * int(np.prod(self.image_shape)))
        every = np.tile(np.arange(count), len(latents))
        images = self.decode(np.repeat(latents, count, axis=0), every)
        return images.reshape(len(latents), count, *self.image_shape)

    def classify(self, x: Any, num_samples: int = 100, seed: int = 0) -> Classification:
        """Computes log p(y | x) of each class by Bayes' rule.

        log p(x | y) is estimated for each class with importance samples from q(z | x, y), and p(y)
        is `class_probabilities`. Row i is a function of (seed, i). The images are taken as they
        are: binarize those that a Bernoulli likelihood is to classify.

        Args:
            x: images in any form that `fit` takes. Their labels are not read.
            num_samples: importance samples for each image and class, >= 2. Default 100.
            seed: integer in [0, 2^31). Default 0.

        Returns:
            `Classification(log_prob, standard_error)`, float32 [N, K] each.

        Raises:
            checks.InputError: for a model without classes, and for images of another form.

        References:
            Kingma et al. 2014, "Semi-supervised learning with deep generative models", section 2.
        """
        count = self._require_classes("classify").count
        samples = checks.whole_number("num_samples", num_samples, 2, 2**31 - 1)
        checks.memory("num_samples", samples, 4 * count * int(np.prod(self.image_shape)))
        number = checks.seed(seed)

        def block(rows: tf.Tensor, first: int) -> Classification:
            pixels = data.to_pixels(rows, None, "none")
            place = tf.range(first, first + len(rows))
            seeds = tf.stack([tf.fill(tf.shape(place), number), place], axis=1)
            return self.graphs.classify(pixels, seeds, tf.constant(samples))

        return Classification(*self._map(block, [(self.images(x),)]))

    def classify_tensors(
        self, images: tf.Tensor, seeds: tf.Tensor, num_samples: int | tf.Tensor
    ) -> Classification:
        """Returns log p(y | x) and its standard error, [N, K] each.

        The images are measured one at a time, which bounds the memory.

        Args:
            images: float [N, H, W, C] as the likelihood sees them.
            seeds: int32 [N, 2], the (seed, row) of each image.
            num_samples: importance samples for each image and class.
        """
        count = self._require_classes("classify").count
        log_prior = tf.math.log(tf.convert_to_tensor(self._frequencies))

        def one(row: tuple[tf.Tensor, tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor]:
            image, pair = row
            draws = noise.normal(
                pair[0],
                noise.Stream.IMPORTANCE,
                rows=num_samples,
                size=self.latent_dim,
                step=pair[1],
            )  # [S, L], the same for all classes
            known = self.context(tf.repeat(image[tf.newaxis], count, axis=0), tf.eye(count))
            drawn = self.inference(known)(tf.repeat(draws[tf.newaxis], count, axis=0))
            return bayes(log_weights(image, drawn)[0], log_prior)

        spec = tf.TensorSpec([count], tf.float32)
        return Classification(*tf.map_fn(one, (images, seeds), fn_output_signature=(spec, spec)))

    # --------------------------------------------------------------- what the other methods ask

    @property
    def reads_labels(self) -> bool:
        """Whether a step reads the labels of its examples."""
        return self.classes is not None

    def build_classes(self, shape: tuple[Any, ...]) -> None:
        """Creates p(y) and the weights of the classifier, for images of a shape."""
        if self.classes is None or self.built:
            return
        self._frequencies = self.add_weight(
            shape=(self.classes.count,),
            initializer=keras.initializers.Constant(1.0 / self.classes.count),
            trainable=False,
            name="class_probabilities",
        )
        if self.classifier is not None:
            assembly.build_classifier(self.classifier, shape, self.classes.count)

    def over_classes(
        self,
        bound: Callable[..., tuple[tf.Tensor, Terms]],
        images: tf.Tensor,
        noise: tf.Tensor,
        labels: tf.Tensor | None,
        training: bool = False,
    ) -> tuple[tf.Tensor, Terms]:
        """Evaluates a bound, for a model with a classifier under each class, see `marginal`."""
        if self.classifier is None:
            return bound(images, noise, labels)
        logits = self.classifier(images, training=training)
        log_prior = tf.math.log(tf.convert_to_tensor(self._frequencies))
        weight = self.classifier_weight
        return marginal(bound, images, noise, labels, logits, log_prior, weight)

    def paired(self, images: Any, labels: Any) -> Any:
        """Returns images with their labels for a model with classes, else the images only."""
        return (images, labels) if self.reads_labels else images

    def given(self, labels: Any, rows: int, may_miss: bool = False) -> tuple[np.ndarray, ...]:
        """Returns the labels of some rows as the networks take them.

        Args:
            labels: numbers or names, [rows] or a single one, or None.
            rows: number of rows.
            may_miss: whether a label may be missing if the model has a classifier. Default False.

        Returns:
            One array, one-hot [rows, K], or no array for a model without classes.

        Raises:
            checks.InputError: for unknown labels, no labels for a model with classes,
                and labels for a model without.
        """
        if self.classes is None:
            if labels is not None:
                raise _without_classes("labels")
            return ()
        numbers = self.classes.numbers(labels, rows)
        return (self.classes.one_hot(numbers if may_miss else self.classes.complete(numbers)),)

    def as_labels(self, y: Any, rows: int) -> Any:
        """Returns the labels of examples to train on or to measure, see `Trainer.as_labels`."""
        if self.classes is None:
            return super().as_labels(y, rows)  # type: ignore[misc]
        return self.classes.numbers(y, rows)

    def learn_from(self, labels: Any) -> Callable[[], None]:
        """Takes p(y) from the labels to train on, see `Provided.learn_from`."""
        if self.classes is None:
            return lambda: None
        found = self.classes.frequencies(labels)
        return lambda: self._frequencies.assign(found)

    def _require_classes(self, method: str) -> Classes:
        if self.classes is None:
            raise _without_classes(method)
        return self.classes


def _without_classes(received: str) -> checks.InputError:
    return checks.InputError(
        f"labels and classes need a model with classes. Received: {received}, for a model without. "
        "Make the model with VAE(..., num_classes=...)."
    )
