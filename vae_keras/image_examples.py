"""Checks, random numbers and the bound for images as training examples.

The examples of a model with classes are pairs of images and labels.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from vae_keras import assembly, data, noise
from vae_keras.labels import Classes
from vae_keras.objectives import ELBO, Terms
from vae_keras.trainer import Bound, fast_path, graph_checks
from vae_keras.trainer.provided import Provided
from vae_keras.utils import checks
from vae_keras.utils.rows import Array


class Draws(NamedTuple):
    """The random numbers of a batch, which are drawn outside of the compiled kernel.

    Attributes:
        bits: uint16 [..., N, H, W, C], for the binarization.
        noise: float32 [..., N, noise_size], standard normal, for the posterior.
    """

    bits: tf.Tensor
    noise: tf.Tensor


class ImageExamples(Provided):
    """What the trainer asks about examples, see `trainer.Trainer`, for a model of images."""

    built: bool
    image_shape: tuple[int, ...]
    binarization: str
    likelihood: Any
    objective: Any
    seed: int
    encoder: Any
    decoder: Any
    latent_dim: int
    classes: Classes | None
    build: Callable[[tuple[int | None, ...]], None]
    bound: Callable[..., tuple[tf.Tensor, Terms]]
    unpack: Callable[[Any], tuple[Any, tf.Tensor]]
    __call__: Callable[..., tf.Tensor]
    possible_settings: tuple[str, ...] = ("kl_weight",)

    @property
    def setting_names(self) -> tuple[str, ...]:
        """The settings that are logged: the weight of the KL where it differs from 1."""
        return () if self._kl_weight() is None else ("kl_weight",)

    def xla_pays(self) -> bool:
        """Whether XLA makes these networks faster on the devices at hand."""
        # XLA on a CPU does not use oneDNN's convolutions, and TensorFlow outside of XLA does.
        layers = (*fast_path.layers_of(self.encoder), *fast_path.layers_of(self.decoder))
        convolves = any(fast_path.is_conv(layer) for layer in layers)
        return not convolves or bool(tf.config.list_physical_devices("GPU"))

    def check_parts(self) -> None:
        """Warns of a decoder that returns probabilities instead of logits."""
        if not type(self.decoder).__module__.startswith("vae_keras."):
            count = None if self.classes is None else self.classes.count
            assembly.warn_of_probabilities(self.decoder, self.latent_dim, count)

    @property
    def example_spec(self) -> Any:
        """The specs of an image and, for a model with classes, of its label."""
        image = tf.TensorSpec(self.image_shape)
        return image if self.classes is None else (image, tf.TensorSpec((), tf.int32))

    def as_examples(self, x: Any, name: str = "x") -> Any:
        """Returns images [N, H, W, C] as uint8 or float32, checked, and builds the model."""
        images = checks.images(x, name, shape=self.image_shape if self.built else None)
        if not self.built:
            self.build((None, *images.shape[1:]))
        return images

    def check_spec(self, spec: tf.TensorSpec) -> None:
        """Refuses a dataset with images of another form, and builds the model for the others."""
        shape = assembly.dataset_shape(spec, self.image_shape if self.built else None)
        if not self.built:
            self.build((None, *shape))

    def check_support(self, examples: Array, is_whole: bool = True) -> None:
        """Refuses images that the likelihood gives no probability or no bounded density."""
        if self.likelihood.support == "unit_interval" and is_whole:
            checks.not_only_binary(examples)
        elif self.likelihood.support == "levels":
            checks.levels(examples)

    def standardize(self, x: Any, y: Any = None) -> Any:
        """Returns a batch as images [N, H, W, C], uint8 or float32, checked inside the graph.

        For a model with classes it returns the images and their labels, int32 [N].
        """
        images = assembly.image_tensor(x, self.image_shape if self.built else None)
        if not self.built:
            self.build((None, *images.shape[1:]))
        images = assembly.checked(images, self.image_shape, self.likelihood.support)
        if self.classes is None:
            return images
        return assembly.same_rows(images, self.classes.tensor(y))

    def pixels(self, images: tf.Tensor) -> tf.Tensor:
        """Returns images as the encoder sees them where nothing may be random."""
        mode = "none" if self.binarization == "dynamic" else self.binarization
        return data.to_pixels(assembly.image_tensor(images), None, mode)

    def draws(
        self, rows: int | tf.Tensor, step: int | tf.Tensor, row: int | tf.Tensor, training: bool
    ) -> Draws:
        """Draws the random numbers of some rows, see `Provided.draws`."""
        streams = noise.Stream
        pixels = streams.TRAIN_PIXELS if training else streams.TEST_PIXELS
        latents = streams.TRAIN_LATENTS if training else streams.TEST_LATENTS
        size = self.objective.noise_size(self.latent_dim)
        normal = noise.normal(self.seed, latents, rows=rows, size=size, step=step, row=row)
        if self.binarization == "dynamic":
            bits = data.pixel_bits(self.seed, pixels, (rows, *self.image_shape), step, row)
        else:
            bits = tf.zeros([*normal.shape[:-2], rows, *self.image_shape], tf.uint16)
        return Draws(bits, normal)

    def evaluate_bound(
        self, examples: Any, draws: Draws, training: bool, step: tf.Tensor | None
    ) -> Bound:
        """Evaluates the objective and the terms of a batch, see `Provided.evaluate_bound`."""
        images, *labels = self._for_networks(examples)
        x = data.to_pixels(images, draws.bits, self.binarization)
        objective, terms = self.bound(x, draws.noise, training, step, *labels)
        weight = self._kl_weight()
        return Bound(objective, terms, [] if weight is None else [weight(step)])

    def predict_step(self, batch: Any) -> tf.Tensor:
        """Calls the model on one batch, see `StepModel.predict_step`."""
        x, y, _ = keras.utils.unpack_x_y_sample_weight(batch)
        images, *labels = self._for_networks(self.standardize(x, y))
        if labels:
            sums = tf.reduce_sum(labels[0], axis=1)
            rule = "predict needs a label for each image. Received: a missing label. Fill it in."
            images = graph_checks.guard(images, tf.reduce_all(sums > 0.0), rule)
        return self(images, *labels)

    def _for_networks(self, examples: Any) -> tuple[tf.Tensor, ...]:
        """The images of a batch, and for a model with classes their one-hot labels."""
        if self.classes is None:
            return (examples,)
        images, labels = examples
        return images, tf.one_hot(labels, self.classes.count)

    def place_settings(self, strategy: tf.distribute.Strategy | None) -> None:
        """Places the variable of the objective, see `Provided.place_settings`."""
        if strategy is not None and isinstance(self.objective, ELBO):
            self.objective.place_weight(strategy)

    def _kl_weight(self) -> Callable[[tf.Tensor | None], Any] | None:
        """The objective's weight of the KL at a step, or None where it is always 1."""
        weighs_kl = getattr(self.objective, "weighs_kl", False)
        return getattr(self.objective, "kl_weight", None) if weighs_kl else None
