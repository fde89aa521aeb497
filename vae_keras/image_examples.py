"""The examples of a `VAE` are images: how arrays and batches become checked images."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from vae_keras import assembly, data
from vae_keras.utils import checks
from vae_keras.utils.rows import Array


class ImageExamples:
    """What the trainer asks about examples, see `trainer.Trainer`, for a model of images."""

    built: bool
    image_shape: tuple[int, ...]
    binarization: str
    likelihood: Any
    build: Callable[[tuple[int | None, ...]], None]

    @property
    def example_shape(self) -> tuple[int, ...]:
        """The shape of an image, (H, W, C)."""
        return self.image_shape

    def as_examples(self, x: Any, name: str = "x") -> Any:
        """Returns images [N, H, W, C] as uint8 or float32, checked, and builds the model."""
        images = checks.images(x, name, shape=self.image_shape if self.built else None)
        if not self.built:
            self.build((None, *images.shape[1:]))
        return images

    def check_spec(self, spec: tf.TensorSpec) -> None:
        """Refuses a dataset whose images cannot be right, and builds the model for the others."""
        shape = assembly.dataset_shape(spec, self.image_shape if self.built else None)
        if not self.built:
            self.build((None, *shape))

    def check_support(self, examples: Array) -> None:
        """Refuses images that the likelihood gives no probability or no bounded density."""
        if self.likelihood.support == "unit_interval":
            checks.not_only_binary(examples)
        elif self.likelihood.support == "levels":
            checks.levels(examples)

    def standardize(self, x: Any) -> tf.Tensor:
        """Returns a batch as images [N, H, W, C], uint8 or float32, checked inside the graph."""
        images = assembly.image_tensor(x, self.image_shape if self.built else None)
        if not self.built:
            self.build((None, *images.shape[1:]))
        return assembly.checked(images, self.image_shape, self.likelihood.support)

    def pixels(self, images: tf.Tensor) -> tf.Tensor:
        """Returns images as the encoder sees them where nothing may be random."""
        mode = "none" if self.binarization == "dynamic" else self.binarization
        return data.to_pixels(assembly.image_tensor(images), None, mode)
