"""How the data of a call reach Keras' own loops: checked arrays, datasets, stacks of batches."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from vae_keras.trainer import fast_path, inputs, replicas
from vae_keras.trainer.step_model import StepModel
from vae_keras.utils import checks

_LOG = logging.getLogger(__name__)


class Intake(StepModel):
    """A model that knows how to take what `fit` and its like are given."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        with tf.device("CPU"):  # a pipeline reads it
            self._epoch = tf.Variable(0, dtype=tf.int64, trainable=False)

    def _take(
        self,
        x: Any,
        y: Any,
        sample_weight: Any,
        batch_size: int | None,
        steps_name: str,
        steps: int | None,
        validation_split: float = 0.0,
        name: str = "x",
        trained: bool = False,
    ) -> Any:
        """Checks data of any form and builds the model for it."""
        if steps is not None:
            checks.whole_number(steps_name, steps, 1)
        if batch_size is not None:
            checks.whole_number("batch_size", batch_size, 1)
        if inputs.is_pipeline(x):
            given = {
                "y": y is not None,
                "sample_weight": sample_weight is not None,
                "validation_split": bool(validation_split),
                "batch_size": batch_size is not None and name == "x",
            }
            inputs.check_pipeline(x, steps_name=steps_name, steps=steps, arguments_of_arrays=given)
            spec = inputs.examples_spec(x)
            if spec is not None:
                self.check_spec(spec)
            return inputs.batches_of(x)
        x, inner_y, inner_weight = inputs.unpack(x)
        y = inner_y if y is None else y
        sample_weight = inner_weight if sample_weight is None else sample_weight
        examples = self.as_examples(x, name)
        self.check_support(examples, is_whole=trained)
        weights = None
        if sample_weight is not None:
            weights = checks.sample_weight(sample_weight, len(examples))
        arrays = inputs.Arrays(examples, self.as_labels(y, len(examples)), weights)
        return arrays.in_batches(batch_size, steps)

    def as_labels(self, y: Any, rows: int) -> Any:
        """Returns the labels of examples as a structure of arrays [rows, ...], or None."""
        return inputs.labels(y, rows)

    def _batch(self, method: str, x: Any, y: Any, sample_weight: Any) -> tuple[Any, Any, Any]:
        self._require_compiled(method)
        x = np.asarray(self.as_examples(x))
        self.check_support(x, is_whole=False)
        y = self.as_labels(y, len(x)) if self.reads_labels else y
        if sample_weight is not None:
            sample_weight = checks.sample_weight(sample_weight, len(x))
        self.reset_metrics()  # Keras does so from version 3.15 on
        return x, y, sample_weight

    def _dataset(
        self,
        data: Any,
        stack_size: int,
        shuffle: bool | None = None,
        steps_per_epoch: int | None = None,
    ) -> Any:
        """Returns what Keras iterates over; `shuffle` is None for data that is measured."""
        if not isinstance(data, inputs.Arrays):
            return data
        training = shuffle is not None
        return data.dataset(
            strategy=self.shared_strategy,
            stack_size=stack_size,
            labelled=fast_path.overridden_step(self, "train_step", "test_step") is not None,
            paired=self.reads_labels,
            padded=fast_path.not_rowwise(self) is None,
            shuffle_seed=self.seed if shuffle else None,
            epoch=self._epoch if training else 0,
            epochs_of_pass=data.epochs_of_pass(steps_per_epoch),
        )

    @contextlib.contextmanager
    def _calls_of(
        self, data: Any, validation: Any, callbacks: Any, counts: dict[str, int | None]
    ) -> Iterator[int]:
        """Sets how many batches a compiled call does, and yields that number."""
        stack, wanted = 1, None
        if self._steps_per_execution != "auto":
            # Keras lets users assign it.
            wanted = checks.whole_number("steps_per_execution", self.steps_per_execution, 1)
        listed = getattr(callbacks, "callbacks", callbacks)
        arrays = [part for part in (data, validation) if part is not None]
        are_arrays = all(isinstance(part, inputs.Arrays) for part in arrays)
        if self.shared_strategy is not None and wanted not in (None, 1) and not are_arrays:
            raise checks.InputError(
                "A compiled call under a strategy does one batch of a dataset. "
                f"Received: steps_per_execution {wanted}. Leave it out, or pass arrays."
            )
        if are_arrays:
            reason = fast_path.one_by_one(self, listed, **counts)
            most = inputs.STACK_STEPS
            if self.shared_strategy is not None and wanted is None:
                most = inputs.SHARED_STEPS
                # All workers must do the same steps in a call, whatever callbacks each has.
                if replicas.any_worker(self.strategy, reason is not None):
                    reason = reason or "another worker needs it"
            if reason is None:
                largest = min(part.largest_stack(wanted or most) for part in arrays)
                if wanted is None:
                    stack = min(data.stack_size(most), largest)
                elif wanted == largest:  # else Keras' own loop reads one batch after the other
                    stack = wanted
            elif wanted is None:
                _LOG.debug("Batches run one by one: %s.", reason)
        with self._executing(stack):
            yield stack

    @contextlib.contextmanager
    def _stopped_by(self, callbacks: Any) -> Iterator[None]:
        """Leaves a number that is not finite to `TerminateOnNaN` where it is a callback."""
        listed = getattr(callbacks, "callbacks", callbacks)
        stops = any(isinstance(each, keras.callbacks.TerminateOnNaN) for each in listed)
        self.raises_on_nan = not stops
        try:
            yield
        finally:
            self.raises_on_nan = True

    def scope(self) -> contextlib.AbstractContextManager[Any]:
        """Returns the context to create variables in."""
        return contextlib.nullcontext() if self.strategy is None else self.strategy.scope()

    def _require_compiled(self, method: str) -> None:
        # Keras calls a model compiled that it loaded without a call of the subclass's compile.
        if not self.compiled or getattr(self, "optimizer", None) is None:
            raise checks.InputError(
                f"{method} needs an optimizer. Received: a model that is not compiled. "
                "Call compile() first."
            )

    @contextlib.contextmanager
    def _executing(self, steps: int) -> Iterator[None]:
        """Sets how many batches Keras' loop gives to a call, unless the user wants a number."""
        before = self.steps_per_execution
        if getattr(self, "_steps_per_execution", "auto") == "auto":
            self.steps_per_execution = steps
        try:
            yield
        finally:
            self.steps_per_execution = before
