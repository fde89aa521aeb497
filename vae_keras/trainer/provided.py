"""What a subclass of `Trainer` provides."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from vae_keras.trainer.step import Bound
from vae_keras.utils.rows import Array


class Provided:
    """What the trainer asks of a model about its examples.

    Attributes:
        term_names: names of the per-example terms, which are logged beside `loss`.
        possible_settings: names of the settings that may be logged.
        seed: the seed of all random numbers.
    """

    term_names: tuple[str, ...] = ()
    possible_settings: tuple[str, ...] = ()
    seed: int

    @property
    def parts(self) -> tuple[Any, ...]:
        """The networks and functions that a step runs through."""
        raise NotImplementedError

    @property
    def setting_names(self) -> tuple[str, ...]:
        """The settings among `possible_settings` that are logged now."""
        return ()

    @property
    def example_spec(self) -> Any:
        """The structure of `tf.TensorSpec`s of an example."""
        raise NotImplementedError

    @property
    def reads_labels(self) -> bool:
        """Whether examples are pairs (x, y), and not x."""
        return False

    def as_examples(self, x: Any, name: str = "x") -> np.ndarray:
        """Returns an array of examples [N, ...] and builds the model for it.

        Raises:
            checks.InputError: for anything but an array of examples.
        """
        raise NotImplementedError

    def standardize(self, x: Any, y: Any = None) -> Any:
        """Returns a batch as examples [N, ...], with the checks of their values in the graph."""
        raise NotImplementedError

    def check_spec(self, spec: tf.TensorSpec) -> None:
        """Refuses a dataset with examples of another form, and builds the model for the others."""
        raise NotImplementedError

    def check_parts(self) -> None:
        """Warns about mistakes in the parts, before training."""
        raise NotImplementedError

    def check_support(self, examples: Array, is_whole: bool = True) -> None:
        """Refuses examples for which the objective has no meaning.

        Args:
            examples: [N, ...], as `as_examples` returns them.
            is_whole: whether these are all examples of a set to train on. A few may by chance
                look like examples of another kind. Default True.
        """
        raise NotImplementedError

    def learn_from(self, labels: Any) -> Callable[[], None]:
        """Checks the labels of all examples to train on.

        Returns:
            A function that takes them in. The first epoch calls it when it begins.
        """
        return lambda: None

    def draws(
        self, rows: int | tf.Tensor, step: int | tf.Tensor, row: int | tf.Tensor, training: bool
    ) -> Any:
        """Draws the random numbers of some rows.

        Args:
            rows: number of rows.
            step: number of the training step, or [S] of them; 0 in evaluation.
            row: place of the first row in its batch, or in evaluation in the data.
            training: whether the rows are trained on.

        Returns:
            A structure of tensors [rows, ...], or [S, rows, ...] for several steps.
        """
        raise NotImplementedError

    def evaluate_bound(
        self, examples: Any, draws: Any, training: bool, step: tf.Tensor | None
    ) -> Bound:
        """Evaluates the objective and the terms of a batch.

        Args:
            examples: [N, ...], a tensor, or a structure of tensors such as (x, y).
            draws: as `draws` returns them.
            training: whether the networks train.
            step: number of optimizer steps so far, or None outside of training.
        """
        raise NotImplementedError

    def traced_settings(self) -> tuple[Any, ...]:
        """The Python values that a compiled step has read; a change compiles it anew."""
        return ()

    def place_settings(self, strategy: tf.distribute.Strategy | None) -> None:
        """Lets the replicas of a strategy read the variables of settings, before each call.

        Args:
            strategy: the strategy that the model was built under, or None.
        """

    def xla_pays(self) -> bool:
        """Whether XLA makes these networks faster on the devices at hand."""
        raise NotImplementedError
