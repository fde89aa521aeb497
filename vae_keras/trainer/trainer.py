"""A Keras model whose steps maximise a per-example objective with stateless randomness.

`Trainer` owns compile, fit, evaluate and predict. It keeps to the contract of `keras.Model`: the
same data in the same order gives the same weights and logs, up to the rounding of float32, and the
same calls of callbacks, whatever form the data has. It knows nothing of latents or pixels beyond
what a subclass tells it, see `Provided`.
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from vae_keras.data.collection import DataSet
from vae_keras.trainer import fast_path, graph_checks, inputs, nonfinite, updates
from vae_keras.trainer.callbacks import Clock, flat, weight_error, with_clock
from vae_keras.trainer.intake import Intake
from vae_keras.utils import checks


class Trainer(Intake):
    """The base class of the package's models; `Provided` lists what a subclass provides."""

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
            batch_size: number of examples in a batch, for arrays. Default: as many as give
                `steps_per_epoch` batches, or 32 without `steps_per_epoch`.
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
                `batch_size`, or as many as give `validation_steps` batches.
            validation_freq: number of epochs from one measurement to the next, or a list of
                the epochs that end with one, counted from 1. Default 1.

        Returns:
            The Keras `History`.

        Raises:
            checks.InputError: for data of another shape, type or range, and for arguments that
                contradict the data or each other. No weight has changed.
            Diverged: at the first step whose loss or weights are not finite, unless
                `keras.callbacks.TerminateOnNaN` is among the callbacks and ends the training.

        Example:
            >>> history = vae.fit(x_train, epochs=2, validation_split=0.1, verbose=0)
            >>> sorted(history.history)[:2]
            ['elbo', 'kl']
        """
        self._require_compiled("fit")
        if not isinstance(shuffle, (bool, np.bool_)):
            raise checks.InputError(
                f"shuffle must be True or False. Received: {shuffle!r}. Shuffle a tf.data.Dataset "
                "of your own for another order."
            )
        checks.whole_number("initial_epoch", initial_epoch, 0)
        checks.whole_number("epochs", epochs, 1)
        if validation_batch_size is not None:
            checks.whole_number("validation_batch_size", validation_batch_size, 1)
        validation_freq = _validation_freq(validation_freq)
        _refuse_class_weight(class_weight)
        if isinstance(x, DataSet):
            x, held_out = x.training_part(self.reads_labels)
            if validation_data is None and not validation_split:
                validation_data = held_out
        data = self._take(
            x,
            y,
            sample_weight,
            batch_size,
            "steps_per_epoch",
            steps_per_epoch,
            validation_split=0.0 if validation_data is not None else validation_split,
            trained=True,
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
            if validation_steps is not None:
                checks.whole_number("validation_steps", validation_steps, 1)
            kept, held_out = data.split(validation_split)
            data = kept.in_batches(batch_size, steps_per_epoch)
            validation = held_out.in_batches(validation_batch_size or batch_size, validation_steps)
        clock = Clock(self._epoch)
        if isinstance(data, inputs.Arrays):
            clock.at_start = self.learn_from(data.trained_labels)
        if self.built:
            self.check_parts()
        counts = {"steps_per_epoch": steps_per_epoch, "validation_steps": validation_steps}
        if isinstance(data, inputs.Arrays) and data.weights is not None and not data.weights.all():
            counts["a sample_weight of 0"] = 0  # a batch whose weights are all 0 takes no step
        if self.built and not self.optimizer.built:  # BackupAndRestore restores its variables
            with self.scope():
                self.optimizer.build(self.trainable_variables)
            updates.leave_sums_to_step(self)
        # A constant may be infinite, such as a mask. A model that its first batch builds has no
        # variables yet, so nobody knows its constants.
        was_built, constants = self.built, nonfinite.not_finite(self.variables)
        with (
            with_clock(self, callbacks, clock) as callbacks,
            self._calls_of(data, validation, callbacks, counts) as stack,
            self._stopped_by(callbacks),
        ):
            endless = stack > 1 or self.shared_strategy is not None
            if isinstance(data, inputs.Arrays):
                if self.shared_strategy is not None:
                    data.check_epochs(steps_per_epoch)
                made = self._dataset(data, stack, shuffle, steps_per_epoch)
                steps_per_epoch = data.steps(steps_per_epoch, endless)
            else:
                made = data
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
            # A step checks the weights that it starts from. Those that the last one made are left.
            if self.raises_on_nan:
                last_step = int(self.train_counter) - 1
                watched = self.variables if was_built else self.trainable_variables
                nonfinite.require_finite(watched, last_step, except_for=constants)
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
            batch_size: number of examples in a batch, for arrays. Default: as many as give
                `steps` batches, or 32 without `steps`.
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
            arguments["callbacks"] = flat(callbacks)
        with self._calls_of(data, None, arguments["callbacks"], {"steps": steps}) as stack:
            if isinstance(data, inputs.Arrays):
                endless = stack > 1 or self.shared_strategy is not None
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
            batch_size: number of examples in a batch, for arrays. Default: as many as give
                `steps` batches, or 32 without `steps`.
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
            self._executing(1),
        ):
            try:
                return super().predict(
                    data.examples if is_array else data,
                    batch_size=data.batch_size if is_array else None,
                    verbose=verbose,
                    steps=steps,
                    callbacks=callbacks,
                )
            except UnboundLocalError as error:
                if "batch_outputs" in str(error):  # of Keras' loop over a dataset without a batch
                    raise inputs.no_batch() from error
                raise

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
        _refuse_class_weight(class_weight)
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
            with graph_checks.as_input_errors():
                return super().predict_on_batch(np.asarray(self.as_examples(x)))
        return self.predict(x, batch_size=2**31 - 1, verbose=0)

    def _measured(self, logs: Any) -> Any:
        """Returns the result of an evaluation that has seen an example."""
        if fast_path.overridden_step(self, "test_step", "make_test_function"):
            return logs  # a user's own step need not use the trainer's metrics
        if self._trackers["loss"].count == 0:
            if self._test_row == 0:
                raise inputs.no_batch()
            raise weight_error("weights that are all 0")
        return logs

    def _maybe_symbolic_build(self, iterator: Any = None, data_batch: Any = None) -> None:
        # The model and the optimizer are built before. Keras would learn the shapes from the mean
        # over replicas, which fails for shares of unequal size.
        pass


def _validation_freq(epochs: Any) -> int | list[int]:
    """Returns `validation_freq` in the types that Keras takes."""
    if isinstance(epochs, (list, tuple)):
        return [checks.whole_number("validation_freq", epoch, 1) for epoch in epochs]
    return checks.whole_number("validation_freq", epochs, 1)


def _refuse_class_weight(class_weight: Any) -> None:
    if class_weight is not None:
        raise checks.InputError(
            "class_weight is not supported, because labels have no part in the weight of an "
            "example. Received: class_weight. Pass sample_weight instead."
        )
