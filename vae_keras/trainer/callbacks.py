"""The callbacks that `fit` adds to those of the user."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from vae_keras.trainer import fast_path, inputs
from vae_keras.utils import checks

_LOGS_RATE = keras.callbacks.LearningRateScheduler, keras.callbacks.ReduceLROnPlateau


class Clock(keras.callbacks.Callback):
    """Tells the pipeline the number of the epoch, and refuses an epoch without any example."""

    def __init__(self, epoch: tf.Variable) -> None:
        super().__init__()
        self._number = epoch
        self._calls = 0
        self.at_start: Callable[[], None] | None = None  # what the first epoch calls

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        if self.at_start is not None:
            self.at_start()
            self.at_start = None
        self._number.assign(epoch)
        self._calls = self.model.num_calls

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        model = self.model
        if fast_path.overridden_step(model, "train_step", "make_train_function"):
            return  # a user's own step need not use the trainer's metrics
        if model.num_calls == self._calls:
            raise inputs.no_batch()
        # A loss that is NaN has raised Diverged, unless TerminateOnNaN is there to end the run.
        if model.raises_on_nan and np.isnan((logs or {}).get("loss", 0.0)):
            raise weight_error("an epoch whose weights are all 0")


@contextlib.contextmanager
def with_clock(model: keras.Model, callbacks: Any, clock: Clock) -> Iterator[Any]:
    """Yields the callbacks of `fit`, with those that the trainer and Keras add."""
    if isinstance(callbacks, keras.callbacks.CallbackList):
        clock.set_model(model)
        callbacks.callbacks.insert(0, clock)
        try:
            yield callbacks
        finally:
            callbacks.callbacks.remove(clock)
        return
    found = [clock, *flat(callbacks)]
    if not any(isinstance(callback, keras.callbacks.ProgbarLogger) for callback in found):
        # Keras would add it at the end. Here it ends its line before other callbacks print, and
        # comes after those that add the learning rate to the line.
        place = max(
            (index + 1 for index, each in enumerate(found) if isinstance(each, _LOGS_RATE)),
            default=0,
        )
        found.insert(place, keras.callbacks.ProgbarLogger())
    yield found


def flat(callbacks: Any) -> list[keras.callbacks.Callback]:
    """Returns the callbacks that a call was given, as a list.

    Raises:
        checks.InputError: for anything but callbacks.
    """
    found = [callback for callback in keras.tree.flatten(callbacks) if callback is not None]
    for callback in found:
        if not isinstance(callback, keras.callbacks.Callback):
            raise checks.InputError(
                f"callbacks must be Keras callbacks. Received: {callback!r}. Pass instances."
            )
    return found


def weight_error(received: str) -> checks.InputError:
    """Returns the error for weights that are all 0."""
    return checks.InputError(
        "sample_weight must hold one number for each example, at least one of them above 0. "
        f"Received: {received}. Weigh every example once."
    )
