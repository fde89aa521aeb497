"""A Keras model whose steps maximise a per-example objective with stateless randomness.

`Trainer` owns compile, fit, evaluate and predict. It keeps to the contract of `keras.Model`: the
same data in the same order gives the same weights and logs, up to the rounding of float32, and the
same calls of callbacks, whatever form the data has. It knows nothing of latents or pixels beyond
what a subclass tells it:

| member | what it says |
|---|---|
| `term_names`, `possible_settings`, `setting_names` | what is logged beside `loss` |
| `seed` | the seed of all random numbers |
| `parts` | the networks and functions that a step runs through |
| `example_spec` | the structure of `tf.TensorSpec`s of an example |
| `as_examples(x)` | an array of examples, checked, or an `InputError` |
| `check_parts()` | a warning about mistakes in the parts |
| `check_spec(spec)`, `check_support(examples)` | an `InputError` for data that a step cannot use |
| `standardize(x, y)` | a batch of a dataset as examples, checked inside the graph |
| `reads_labels`, `as_labels(y, rows)` | whether examples are pairs (x, y), and checked labels |
| `learn_from(labels)` | a function that takes in the labels of all examples to train on |
| `draws(rows, step, row, training)` | the random numbers of some rows, a pure function |
| `evaluate_bound(examples, draws, training, step)` | a `Bound`: the objective and the terms, [N] |
| `traced_settings()` | the Python values that a compiled step has read |
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from vae_keras.data.collection import DataSet
from vae_keras.trainer import fast_path, graph_checks, inputs, nonfinite
from vae_keras.trainer.step_model import StepModel
from vae_keras.utils import checks

_LOG = logging.getLogger(__name__)


class Trainer(StepModel):
    """The base class of the package's models; the table above lists what a subclass provides."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        with tf.device("CPU"):  # a pipeline reads it
            self._epoch = tf.Variable(0, dtype=tf.int64, trainable=False)

    def fit(
        self,
        x: Any = None,
        y: Any = None,
        batch_size: int | None = None,
        epochs: int = 1,
        verbose: str | int = "auto",
        callbacks: Any = None,
        validation_split: float = 0.0,
        validation_data: Any = None,
        shuffle: bool = True,
        class_weight: Any = None,
        sample_weight: Any = None,
        initial_epoch: int = 0,
        steps_per_epoch: int | None = None,
        validation_steps: int | None = None,
        validation_batch_size: int | None = None,
        validation_freq: int | list[int] = 1,
    ) -> keras.callbacks.History:
        """Trains the model; the arguments are those of `keras.Model.fit`.

        The order of arrays and all random numbers are pure functions of (seed, epoch, step, row):
        the same call on the same model gives the same weights, bit for bit.

        Args:
            x: examples as an array, an `(x, y)` or `(x, y, sample_weight)` tuple of arrays, or
                batches of these as a `tf.data.Dataset`, a `keras.utils.PyDataset`, a generator
                or any other iterable that Keras takes. Of a `DataSet` of `data.open_images` the
                training images are taken, and its validation images are measured if it has some
                and neither `validation_data` nor `validation_split` is given.
            y: labels of the examples, for a model with classes: numbers, or names from its
                `class_names`. Other models do not read them; a subclass's own `train_step` gets
                them. Default None.
            batch_size: number of examples in a batch, for arrays. Default 32.
            epochs: number of the epoch to end with, counted from 1. Default 1.
            verbose: "auto", 0 for silence, 1 for a progress bar, 2 for a line an epoch.
                Default "auto".
            callbacks: `keras.callbacks.Callback` instances. Default None.
            validation_split: fraction of the arrays to hold out, from their end. Default 0.0.
            validation_data: data to measure after an epoch, in any form that `x` takes. It takes
                precedence over `validation_split`. Default None.
            shuffle: whether the order of arrays changes from epoch to epoch. Default True.
            class_weight: must be None. Weigh the examples with `sample_weight`.
            sample_weight: weights of the examples, [N], for arrays. Their scale does not matter.
                Default None.
            initial_epoch: number of epochs that were trained before. Default 0.
            steps_per_epoch: number of batches in an epoch. Default: all of them.
            validation_steps: number of batches to measure. Default: all of them.
            validation_batch_size: number of examples in a batch that is measured. Default:
                `batch_size`.
            validation_freq: number of epochs from one measurement to the next, or a list of
                epochs, counted from 1. Default 1.

        Returns:
            The Keras `History`.

        Raises:
            checks.InputError: for data of another shape, type or range, and for arguments that
                contradict the data or each other. No weight has changed.
            Diverged: at the first step whose loss or weights are not finite.

        Example:
            >>> history = vae.fit(x_train, epochs=2, validation_split=0.1, verbose=0)
            >>> sorted(history.history)[:2]
            ['elbo', 'kl']
        """
        self._require_compiled("fit")
        checks.whole_number("initial_epoch", initial_epoch, 0)
        checks.whole_number("epochs", epochs, 1)
        if validation_batch_size is not None:
            checks.whole_number("validation_batch_size", validation_batch_size, 1)
        if class_weight is not None:
            raise checks.InputError(
                "class_weight needs a loss of labels, which this model does not have. "
                "Received: class_weight. Pass sample_weight instead."
            )
        if isinstance(x, DataSet):
            x, held_out = x.training_part(self.reads_labels)
            if validation_data is None and not validation_split:
                validation_data = held_out
        data = self._take(
            x, y, sample_weight, batch_size, "steps_per_epoch", steps_per_epoch, validation_split
        )
        validation = None
        if validation_data is not None:
            held = tuple(validation_data) if isinstance(validation_data, list) else validation_data
            val_x, val_y, val_weight = inputs.unpack(held)
            validation = self._take(
                val_x,
                val_y,
                val_weight,
                validation_batch_size or batch_size,
                "validation_steps",
                validation_steps,
                name="validation_data",
            )
        elif validation_split:
            data, validation = data.split(validation_split, validation_batch_size)
        clock = _Clock(self._epoch)
        if isinstance(data, inputs.Arrays):
            self.check_support(data.examples)
            clock.at_start = self.learn_from(data.labels)
        if self.built:
            self.check_parts()
        callbacks = _with_clock(self, callbacks, clock)
        counts = {"steps_per_epoch": steps_per_epoch, "validation_steps": validation_steps}
        if isinstance(data, inputs.Arrays) and data.weights is not None and not data.weights.all():
            counts["a sample_weight of 0"] = 0  # a batch may have no weight, and takes no step
        with self._calls_of(data, validation, callbacks, counts) as stack:
            made = self._dataset(data, stack, shuffle)
            endless = stack > 1 or self.strategy is not None
            if isinstance(data, inputs.Arrays):
                steps_per_epoch = data.steps(steps_per_epoch, endless)
            if isinstance(validation, inputs.Arrays):
                validation_steps = validation.steps(validation_steps, endless)
            history = super().fit(
                made,
                epochs=epochs,
                verbose=verbose,
                callbacks=callbacks,
                validation_data=None if validation is None else self._dataset(validation, stack),
                # The pipelines of arrays shuffle by themselves. Keras shuffles a PyDataset.
                shuffle=shuffle and isinstance(data, keras.utils.PyDataset),
                initial_epoch=initial_epoch,
                steps_per_epoch=steps_per_epoch,
                validation_steps=validation_steps,
                validation_freq=validation_freq,
            )
        # A step finds the weights that it starts from. This looks at those that the last one made.
        nonfinite.require_finite(self.variables, int(self.train_counter) - 1)
        return history

    def evaluate(
        self,
        x: Any = None,
        y: Any = None,
        batch_size: int | None = None,
        verbose: str | int = "auto",
        sample_weight: Any = None,
        steps: int | None = None,
        callbacks: Any = None,
        return_dict: bool = False,
        **kwargs: Any,
    ) -> Any:
        """Measures the mean of each term over the data.

        The random numbers are keyed by (seed, row), so the same data gives the same figures, and
        the batch size changes nothing beyond float error.

        Args:
            x: data in any form that `fit` takes.
            y: labels, for a model with classes. Default None.
            batch_size: number of examples in a batch, for arrays. Default 32.
            verbose: "auto", 0 for silence, 1 for a progress bar, 2 for a line. Default "auto".
            sample_weight: weights of the examples, [N], for arrays. Default None.
            steps: number of batches to measure. Default: all of them.
            callbacks: `keras.callbacks.Callback` instances. Default None.
            return_dict: whether the figures are returned by name. Default False.

        Returns:
            The figures in the order of `metrics_names`, or a dictionary.

        Raises:
            checks.InputError: as `fit`.
        """
        arguments = {
            "verbose": verbose,
            "steps": steps,
            "callbacks": callbacks,
            "return_dict": return_dict,
        }
        if kwargs.pop("_use_cached_eval_dataset", False):  # Keras' own call from within fit
            return self._measured(super().evaluate(x, **arguments, _use_cached_eval_dataset=True))
        if kwargs:
            raise checks.InputError(
                f"evaluate takes the arguments of keras.Model.evaluate. Received: {min(kwargs)}. "
                "Check its spelling."
            )
        self._require_compiled("evaluate")
        data = self._take(x, y, sample_weight, batch_size, "steps", steps)
        if not isinstance(callbacks, keras.callbacks.CallbackList):
            arguments["callbacks"] = _flat(callbacks)
        with self._calls_of(data, None, arguments["callbacks"], {"steps": steps}) as stack:
            if isinstance(data, inputs.Arrays):
                endless = stack > 1 or self.strategy is not None
                arguments["steps"] = data.steps(steps, endless)
            return self._measured(super().evaluate(self._dataset(data, stack), **arguments))

    def predict(
        self,
        x: Any,
        batch_size: int | None = None,
        verbose: str | int = "auto",
        steps: int | None = None,
        callbacks: Any = None,
    ) -> np.ndarray:
        """Calls the model on the data, batch by batch.

        Args:
            x: data in any form that `fit` takes. Weights are ignored, and so are labels unless the
                model has classes.
            batch_size: number of examples in a batch, for arrays. Default 32.
            verbose: "auto", 0 for silence, 1 for a progress bar, 2 for a line. Default "auto".
            steps: number of batches. Default: all of them.
            callbacks: `keras.callbacks.Callback` instances. Default None.

        Returns:
            What `call` returns, for all examples.

        Raises:
            checks.InputError: as `fit`.
        """
        x, y, _ = inputs.unpack(x)
        y = y if self.reads_labels else None
        data = self._take(x, y, None, batch_size, "steps", steps)
        is_array = isinstance(data, inputs.Arrays) and data.in_memory and y is None
        if isinstance(data, inputs.Arrays) and not is_array:
            data = data.dataset(
                strategy=None, stack_size=1, labelled=False, paired=self.reads_labels
            )
        # A callback may predict while `fit` gives many batches to a call.
        with (
            graph_checks.as_input_errors(),
            _executing(self, 1, getattr(self, "_steps_per_execution", "auto")),
        ):
            try:
                return super().predict(
                    data.examples if is_array else data,
                    batch_size=data.batch_size if is_array else None,
                    verbose=verbose,
                    steps=steps,
                    callbacks=callbacks,
                )
            except UnboundLocalError as error:  # Keras' loop over a dataset without a batch
                raise inputs.no_batch() from error

    def train_on_batch(
        self,
        x: Any,
        y: Any = None,
        sample_weight: Any = None,
        class_weight: Any = None,
        return_dict: bool = False,
    ) -> Any:
        """Takes one optimizer step on one batch of arrays.

        Args:
            x: examples.
            y: labels, for a model with classes or a subclass's own `train_step`. Default None.
            sample_weight: weights of the examples, [N] or [N, 1]. Default None.
            class_weight: must be None. Weigh the examples with `sample_weight`.
            return_dict: whether the logs are returned by name. Default False.

        Returns:
            The logs of this batch.

        Raises:
            checks.InputError: for data of another shape, type or range. No weight has changed.
        """
        if class_weight is not None:
            raise checks.InputError(
                "class_weight needs a loss of labels, which this model does not have. "
                "Received: class_weight. Pass sample_weight instead."
            )
        x, y, sample_weight = self._batch("train_on_batch", x, y, sample_weight)
        return super().train_on_batch(x, y, sample_weight, return_dict=return_dict)

    def test_on_batch(
        self, x: Any, y: Any = None, sample_weight: Any = None, return_dict: bool = False
    ) -> Any:
        """Measures one batch of arrays; arguments and result as in `train_on_batch`."""
        x, y, sample_weight = self._batch("test_on_batch", x, y, sample_weight)
        return super().test_on_batch(x, y, sample_weight, return_dict=return_dict)

    def predict_on_batch(self, x: Any) -> np.ndarray:
        """Calls the model on one batch of arrays, x or for a model with classes (x, y)."""
        if not self.reads_labels:
            return super().predict_on_batch(np.asarray(self.as_examples(x)))
        return self.predict(x, batch_size=2**31 - 1, verbose=0)

    # ---------------------------------------------------------------------------- the ways in

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
        weights = None
        if sample_weight is not None:
            weights = checks.sample_weight(sample_weight, len(examples))
        size = min(batch_size or 32, len(examples))
        return inputs.Arrays(examples, self.as_labels(y, len(examples)), weights, size)

    def as_labels(self, y: Any, rows: int) -> Any:
        """Returns the labels of examples as a structure of arrays [rows, ...], or None."""
        return inputs.labels(y, rows)

    def _batch(self, method: str, x: Any, y: Any, sample_weight: Any) -> tuple[Any, Any, Any]:
        self._require_compiled(method)
        x = np.asarray(self.as_examples(x))
        y = self.as_labels(y, len(x)) if self.reads_labels else y
        if sample_weight is not None:
            sample_weight = checks.sample_weight(sample_weight, len(x))
        self.reset_metrics()  # Keras does so from version 3.15 on
        return x, y, sample_weight

    def _dataset(self, data: Any, stack_size: int, shuffle: bool | None = None) -> Any:
        """What Keras iterates over; `shuffle` is None for data that is measured."""
        if not isinstance(data, inputs.Arrays):
            return data
        training = shuffle is not None
        return data.dataset(
            strategy=self.strategy,
            stack_size=stack_size,
            labelled=fast_path.overridden_step(self, "train_step", "test_step") is not None,
            paired=self.reads_labels,
            padded=fast_path.not_rowwise(self) is None,
            shuffle_seed=self.seed if shuffle else None,
            epoch=self._epoch if training else 0,
        )

    @contextlib.contextmanager
    def _calls_of(
        self, data: Any, validation: Any, callbacks: Any, counts: dict[str, int | None]
    ) -> Iterator[int]:
        """Sets how many batches a compiled call does, and yields that number."""
        if self.built and not self.optimizer.built:
            with self.scope():
                self.optimizer.build(self.trainable_variables)
        wanted, stack = self._steps_per_execution, 1
        listed = getattr(callbacks, "callbacks", callbacks)
        arrays = [part for part in (data, validation) if part is not None]
        if self.strategy is None and all(isinstance(part, inputs.Arrays) for part in arrays):
            reason = fast_path.one_by_one(self, listed, **counts)
            if reason is None:
                largest = min(part.largest_stack() for part in arrays)
                stack = min(data.stack_size(), largest) if wanted == "auto" else wanted
            else:
                _LOG.debug("Batches run one by one: %s.", reason)
        with _executing(self, stack, self._steps_per_execution):
            yield stack

    def _measured(self, logs: Any) -> Any:
        """Returns the result of an evaluation that has seen an example."""
        if self._trackers["loss"].count == 0:
            if self._test_row == 0:
                raise inputs.no_batch()
            raise _weight_error("weights that are all 0")
        return logs

    def scope(self) -> contextlib.AbstractContextManager[Any]:
        """Returns the context to create variables in."""
        return contextlib.nullcontext() if self.strategy is None else self.strategy.scope()

    def _require_compiled(self, method: str) -> None:
        if not self.compiled:
            raise checks.InputError(
                f"{method} needs an optimizer. Received: a model that is not compiled. "
                "Call compile() first."
            )

    def _maybe_symbolic_build(self, iterator: Any = None, data_batch: Any = None) -> None:
        # The model and the optimizer are built before. Keras would learn the shapes from the mean
        # over replicas, which fails for shares of unequal size.
        pass


class _Clock(keras.callbacks.Callback):
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
        if self.model.num_calls == self._calls:
            raise inputs.no_batch()
        if np.isnan((logs or {}).get("loss", 0.0)):
            raise _weight_error("an epoch whose weights are all 0")


def _with_clock(model: Trainer, callbacks: Any, clock: _Clock) -> Any:
    """The callbacks of `fit`, with those that the trainer and Keras add."""
    if isinstance(callbacks, keras.callbacks.CallbackList):
        clock.set_model(model)
        callbacks.callbacks.append(clock)
        return callbacks
    flat = [clock, *_flat(callbacks)]
    if not any(isinstance(callback, keras.callbacks.ProgbarLogger) for callback in flat):
        # Keras would add it at the end. As the first one it ends its line before others print.
        flat.insert(0, keras.callbacks.ProgbarLogger())
    return flat


def _flat(callbacks: Any) -> list[keras.callbacks.Callback]:
    flat = [callback for callback in keras.tree.flatten(callbacks) if callback is not None]
    for callback in flat:
        if not isinstance(callback, keras.callbacks.Callback):
            raise checks.InputError(
                f"callbacks must be Keras callbacks. Received: {callback!r}. Pass instances."
            )
    return flat


def _weight_error(received: str) -> checks.InputError:
    return checks.InputError(
        "sample_weight must hold one number for each example, at least one of them above 0. "
        f"Received: {received}. Weigh every example once."
    )


@contextlib.contextmanager
def _executing(model: Trainer, steps: int, wanted: int | str) -> Iterator[None]:
    """Sets how many batches Keras' loop gives to a call, unless the user wants a number."""
    before = model.steps_per_execution
    if wanted == "auto":
        model.steps_per_execution = steps
    try:
        yield
    finally:
        model.steps_per_execution = before
