"""The gradient steps of a Keras model: compile, train_step, test_step, and the compiled calls."""

from __future__ import annotations

import functools
import types
from collections.abc import Callable, Iterator
from typing import Any, Literal

import keras
import numpy as np
import tensorflow as tf

from vae_keras.data.pipelines import Stack
from vae_keras.trainer import fast_path, graph_checks, nonfinite, replicas, step, updates
from vae_keras.trainer.provided import Provided
from vae_keras.utils import checks, graphs

_WHOLE_STACK = np.iinfo(np.int32).max


class StepModel(Provided, keras.Model):
    """A Keras model that takes gradient steps on a per-example objective.

    `Trainer` adds `fit` and its like. Both know nothing of latents or pixels beyond what a
    subclass provides, see `Provided`.

    Attributes:
        strategy: the `tf.distribute` strategy that the model was made under, or None.
        steps_to_skip: number of steps of the next `fit` that an earlier run has done.
        num_calls: number of calls of the training function, each with one step or several.
        wants_stop: function that each worker calls before a call that they share. True asks all
            workers to stop.
        all_stop: whether any worker's `wants_stop` was true before the last call.
        stack_start: number of batches of the next call that an earlier run has done.
        stack_end: number of the batch of a stack at which a call ends.
        raises_on_nan: whether a step with a number that is not finite raises `Diverged`.
    """

    train_function: Callable[[Any], Any] | None
    test_function: Callable[[Any], Any] | None
    steps_per_execution: int

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.strategy = tf.distribute.get_strategy() if tf.distribute.has_strategy() else None
        if updates.is_single(self.strategy):
            self._distribute_strategy = None  # Keras would run each step inside of the strategy
        self.steps_to_skip = 0
        self.num_calls = 0
        self.wants_stop: Callable[[], bool] = lambda: False
        self.all_stop = False
        # A sum of 60,000 values of about -100 does not fit into float32 to six digits.
        self._trackers = {
            name: replicas.GlobalMean(name=name, dtype="float64")
            for name in (*self.term_names, "loss", *self.possible_settings)
        }
        self._kernels: dict[str, Callable[..., tf.Tensor]] = {}
        self._test_row = tf.Variable(0, dtype=tf.int64, trainable=False)
        # The first fault of a call, as `nonfinite.fault` numbers it, and the steps until then.
        self._fault = tf.Variable([0, 0], dtype=tf.int64, trainable=False)
        self.stack_start = tf.Variable(0, trainable=False)
        self.stack_end = tf.Variable(_WHOLE_STACK, trainable=False)
        self.raises_on_nan = True
        # Keras would track the variables a second time if the list were an attribute of its own.
        self._trained = types.SimpleNamespace(variables=None)

    # ---------------------------------------------------------------------------- compile

    def compile(
        self,
        optimizer: str | keras.optimizers.Optimizer = "adam",
        *,
        steps_per_execution: int | Literal["auto"] = "auto",
        jit_compile: bool | Literal["auto"] = "auto",
        run_eagerly: bool = False,
        auto_scale_loss: bool = True,
    ) -> None:
        """Prepares training. The defaults are the fast ones.

        Args:
            optimizer: a Keras optimizer or its name. Default "adam".
            steps_per_execution: number of batches in a compiled call. "auto" takes up to 50
                batches or 6,000 rows in a call where this changes only the speed, else one batch.
                With a number, callbacks are called once for that many batches, as in Keras. With
                several replicas, "auto" takes up to 10 batches, and a number above 1 needs arrays.
                Default "auto".
            jit_compile: whether XLA compiles the step. "auto" compiles networks of layers that
                XLA makes faster, to the same numbers. Default "auto".
            run_eagerly: whether every step runs as Python, for debugging. Default False.
            auto_scale_loss: whether the optimizer is wrapped in a
                `keras.optimizers.LossScaleOptimizer` under a `mixed_float16` policy. Default True.

        Raises:
            checks.InputError: for an unknown optimizer, for other values of `jit_compile` or
                `steps_per_execution`, and for a subclass with a `compute_loss` or
                `compute_metrics` that nothing would call.

        Example:
            >>> vae = VAE()
            >>> vae.compile("adam", jit_compile=False)
        """
        checks.auto_or("jit_compile", jit_compile, (True, False))
        if steps_per_execution != "auto":
            checks.whole_number("steps_per_execution", steps_per_execution, 1)
        for name in ("compute_loss", "compute_metrics"):
            if getattr(type(self), name) is not getattr(keras.Model, name) and not (
                fast_path.overridden_step(self, "train_step", "test_step")
            ):
                raise checks.InputError(
                    f"The steps of this model do not call {name}. Received: {type(self).__name__}, "
                    "which overrides it. Override evaluate_bound, or train_step and test_step."
                )
        found = _optimizer(optimizer, self.parts, auto_scale_loss)
        self._steps_per_execution = steps_per_execution
        self._jit_compile_argument = jit_compile
        self._uses_xla: bool | None = None
        self._kernels = {}
        self._trained.variables = None
        self._auto_scale_loss = auto_scale_loss
        # Keras' own jit_compile would pull the random numbers into the kernel, where they are
        # slow. The step has a kernel of its own.
        super().compile(
            optimizer=found,
            auto_scale_loss=False,  # Keras looks at the policy of the model, not of its parts
            jit_compile=False,
            run_eagerly=run_eagerly,
            steps_per_execution=1 if steps_per_execution == "auto" else steps_per_execution,
        )
        updates.leave_sums_to_step(self)

    def get_compile_config(self) -> dict[str, Any]:
        """Returns the arguments of `compile` for a saved model."""
        if not self.compiled:
            return {}
        return {
            "optimizer": keras.saving.serialize_keras_object(self.optimizer),
            "steps_per_execution": self._steps_per_execution,
            "jit_compile": self._jit_compile_argument,
            "run_eagerly": self.run_eagerly,
            "auto_scale_loss": self._auto_scale_loss,
        }

    def compile_from_config(self, config: dict[str, Any]) -> None:
        """Compiles the model as it was when it was saved."""
        if type(self).compile is not StepModel.compile:
            super().compile_from_config(config)  # Keras warns that it cannot call it
            return
        config = dict(config)
        self.compile(keras.saving.deserialize_keras_object(config.pop("optimizer")), **config)
        if self.built:
            self.optimizer.build(self.trainable_variables)
            updates.leave_sums_to_step(self)

    def _lock_state(self) -> None:
        # The model is built in its constructor. As in Keras' functional models, a subclass may
        # still add metrics and layers after that.
        pass

    @property
    def shared_strategy(self) -> tf.distribute.Strategy | None:
        """The strategy whose replicas share each batch, or None for the steps of no strategy."""
        return updates.shared(self.strategy)

    @property
    def uses_xla(self) -> bool:
        """Whether XLA compiles the step."""
        if self._uses_xla is None:
            self._uses_xla = fast_path.wants_xla(self, self._jit_compile_argument)
        return self._uses_xla

    # ------------------------------------------------------------------------------ steps

    @property
    def metrics(self) -> list[keras.metrics.Metric]:
        """The means of the terms, the loss and the settings, and a subclass's own metrics."""
        ours = [self._trackers[name] for name in self.metrics_of_steps]
        others = [metric for metric in super().metrics if metric is not self._loss_tracker]
        known = {id(metric) for metric in self._trackers.values()}
        return ours + [metric for metric in others if id(metric) not in known]

    @property
    def metrics_of_steps(self) -> tuple[str, ...]:
        """The names of what a step measures: the terms, the loss and the settings."""
        return (*self.term_names, "loss", *self.setting_names)

    def reset_metrics(self) -> None:
        """Sets the means and the place in the data of the next row back to the start."""
        super().reset_metrics()
        self._test_row.assign(0)

    @property
    def train_counter(self) -> tf.Tensor:
        """The number of batches trained on so far, also those whose gradients are accumulated."""
        # `iterations` counts updates of the weights. It stands still while gradients accumulate.
        return tf.convert_to_tensor(step.optimizers_of(self)[0].variables[0])

    @property
    def test_row(self) -> tf.Tensor:
        """The place in the data of the next row to evaluate."""
        return tf.identity(self._test_row)

    def advance_test_row(self, rows: int | tf.Tensor) -> None:
        """Counts rows that were evaluated."""
        self._test_row.assign_add(tf.cast(rows, tf.int64))

    @property
    def variables_to_train(self) -> list[keras.Variable]:
        """The variables that a step trains: those that were trainable when it was first traced.

        As in Keras, a change of `trainable` acts after the next call of `compile`.
        """
        if self._trained.variables is None or self.run_eagerly:
            found = self.trainable_variables
            if not self.built:
                return found
            self._trained.variables = found
        return self._trained.variables

    def train_step(self, batch: Any) -> dict[str, tf.Tensor]:
        """Takes one optimizer step.

        Args:
            batch: x, (x,), (x, y) or (x, y, sample_weight).

        Returns:
            The logs, scalars by name. The noise is keyed by (seed, step, row).
        """
        examples, weights = self.unpack(batch)
        # The optimizer's counter and its weight decay do not read the batch. Without the control
        # dependency they would not wait for its checks.
        with tf.control_dependencies([*tf.nest.flatten(examples), weights]):
            draws = self.draws(step.num_rows(examples), self.train_counter, 0, training=True)
            one_step = self._kernel("one_step")
            take = functools.partial(one_step, examples, weights, draws, training=True)
            is_weighed = keras.utils.unpack_x_y_sample_weight(batch)[2] is not None
            if not is_weighed and tf.nest.flatten(examples)[0].shape[0]:
                totals = take()
            else:  # a batch without any weight, such as one without rows, takes no step
                nothing = tf.zeros(len(self.metrics_of_steps) + 2, tf.float64)
                totals = tf.cond(tf.reduce_sum(weights) > 0.0, take, lambda: nothing)
            self.track(totals)
            return self.get_metrics_result()

    def test_step(self, batch: Any) -> dict[str, tf.Tensor]:
        """Measures one batch; arguments and result as in `train_step`.

        The noise is keyed by (seed, row), with the row's place in the whole data.
        """
        examples, weights = self.unpack(batch)
        with tf.control_dependencies([*tf.nest.flatten(examples), weights]):
            rows = step.num_rows(examples)
            draws = self.draws(rows, 0, self.test_row, training=False)
            self.advance_test_row(rows)
            self.track(self._kernel("one_step")(examples, weights, draws, training=False))
            return self.get_metrics_result()

    def predict_step(self, batch: Any) -> tf.Tensor:
        """Calls the model on one batch."""
        x, y, _ = keras.utils.unpack_x_y_sample_weight(batch)
        return self(self.standardize(x, y))

    def _train_stack(self, stack: Stack) -> dict[str, tf.Tensor]:
        """Does `train_step` for every batch of a stack in one compiled call."""
        steps, rows = stack.weights.shape
        start, end = tf.identity(self.stack_start), tf.identity(self.stack_end)
        stack = stack._replace(steps=tf.minimum(stack.steps, end))
        counter = self.train_counter
        first = counter - tf.cast(start, counter.dtype)
        draws = self.draws(rows, first + tf.range(steps, dtype=first.dtype), 0, training=True)
        self.track(self._kernel("many_steps")(stack, draws, training=True, first=start))
        return self.get_metrics_result()

    def _test_stack(self, stack: Stack) -> dict[str, tf.Tensor]:
        """Does `test_step` for every batch of a stack in one compiled call."""
        steps, rows = stack.weights.shape
        stack = stack._replace(steps=tf.minimum(stack.steps, tf.identity(self.stack_end)))
        draws = tf.nest.map_structure(
            lambda part: tf.reshape(part, [steps, rows, *part.shape[1:]]),
            self.draws(steps * rows, 0, self.test_row, training=False),
        )
        self.advance_test_row(steps * rows)
        self.track(self._kernel("many_steps")(stack, draws, training=False))
        return self.get_metrics_result()

    def _kernel(self, name: str) -> Callable[..., tf.Tensor]:
        """A function of `step` for this model, compiled unless the model runs eagerly."""
        if name not in self._kernels:
            function: Callable[..., tf.Tensor] = functools.partial(getattr(step, name), self)
            if not self.run_eagerly:
                function = graphs.compiled(function, jit_compile=self.uses_xla)

            def on_its_device(*args: Any, **kwargs: Any) -> tf.Tensor:
                with updates.device(self.strategy):
                    return function(*args, **kwargs)

            self._kernels[name] = on_its_device
        return self._kernels[name]

    def track(self, totals: tf.Tensor) -> None:
        """Adds the totals of `step.checked` to the metrics and notes a fault."""
        fault, weight = tf.cast(totals[-1], tf.int64), totals[-2]
        now = tf.stack([fault, tf.cast(self.train_counter, tf.int64)])
        self._fault.assign(tf.where(tf.equal(self._fault[0], 0), now, self._fault))
        for index, name in enumerate(self.metrics_of_steps):
            mean = tf.math.divide_no_nan(totals[index], weight)
            self._trackers[name].update_state(mean, weight)

    def _raise_fault(self, training: bool) -> None:
        code, steps = self._fault.numpy().tolist()
        if code:
            self._fault.assign([0, 0])
            if training and self.raises_on_nan:
                raise nonfinite.Diverged(steps - 1, nonfinite.places(self.term_names)[code - 1])

    def unpack(self, batch: Any) -> tuple[Any, tf.Tensor]:
        """Returns a batch's examples and weights, checked, as tensors [N, ...] and float32 [N]."""
        x, y, weights = keras.utils.unpack_x_y_sample_weight(batch)
        examples = self.standardize(x, y)
        rows = step.num_rows(examples)
        if weights is None:
            return examples, tf.ones(rows)
        weights = tf.convert_to_tensor(weights)
        is_number = weights.dtype.is_floating or weights.dtype.is_integer or weights.dtype.is_bool
        is_flat = weights.shape.rank in (None, 1) or weights.shape[1:] == [1]
        if not (is_number and is_flat):
            raise checks.InputError(
                "sample_weight must hold one number for each example. Received: dtype "
                f"{weights.dtype.name}, shape {weights.shape} in a batch. "
                "Weigh every example once."
            )
        weights = tf.cast(weights, tf.float32)
        weights = graph_checks.guard(
            tf.reshape(weights, [-1]),
            tf.equal(tf.size(weights), rows),
            "sample_weight must hold one number for each example. Received: another number of "
            "weights in a batch. Weigh every example once.",
        )
        sound = tf.reduce_all(tf.math.is_finite(weights) & (weights >= 0.0))
        sentence = (
            "sample_weight must be finite and not below 0. Received: other weights in a batch. "
            "Clean the weights first."
        )
        weights = graph_checks.guard(weights, sound, sentence)
        # The examples wait for the check of the weights: a refused batch changes nothing.
        examples = tf.nest.map_structure(
            lambda part: graph_checks.guard(part, sound, sentence), examples
        )
        return examples, tf.ensure_shape(weights, [None])

    # --------------------------------------------------------------- functions that Keras calls

    def make_train_function(self, force: bool = False) -> None:
        """Makes the function that Keras calls for each batch, or for each stack of batches."""
        if self.train_function is None or force:
            self._trained.variables = None
            self.train_function = _skip_first(self, self._function(training=True))

    def make_test_function(self, force: bool = False) -> None:
        """Makes the function that Keras calls for each batch of an evaluation."""
        if self.test_function is None or force:
            self.test_function = self._function(training=False)

    def _function(self, training: bool) -> Callable[[Any], Any]:
        """A function from an iterator to logs that is compiled anew when a setting changes."""
        made: dict[str, Any] = {"settings": None}

        def function(iterator: Any) -> Any:
            self.place_settings(self.strategy)
            settings = (self.shared_strategy, *self.traced_settings())
            if made["settings"] != settings:
                self._kernels = {}
                if made["settings"] is not None:
                    self._uses_xla = None
                # The parts stay alive, so that no new objective gets the `id` of an old one.
                made.update(settings=settings, parts=self.parts, call=self._make_call(training))
            with graph_checks.as_input_errors():
                logs = made["call"](iterator)
            self.num_calls += training
            self._raise_fault(training)
            return logs

        return function

    def _make_call(self, training: bool) -> Callable[[Any], Any]:
        own_step = fast_path.overridden_step(self, "train_step" if training else "test_step")
        if self.shared_strategy is not None:
            if own_step:
                raise checks.InputError(
                    f"A model under a strategy runs the trainer's own steps. Received: {own_step}. "
                    "Override evaluate_bound instead."
                )
            steps = replicas.step_function(self, training)
            return lambda iterator: steps(iterator, self._batches_of_call(training))
        if self.built:
            _ = self.uses_xla  # refuses an operation that XLA lacks before a batch is read
        per_batch = self._make_function(self.train_step if training else self.test_step)
        stack_step = self._train_stack if training else self._test_stack

        def per_stack(iterator: Iterator[Stack]) -> Any:
            return stack_step(next(iterator))

        if not self.run_eagerly:
            per_stack = graphs.compiled(per_stack)

        def call(iterator: Any) -> Any:
            if not isinstance(getattr(iterator, "element_spec", None), Stack):
                return per_batch(iterator)
            self.stack_end.assign(self.stack_start + self._batches_of_call(training))
            return per_stack(iterator)

        return call

    def _batches_of_call(self, training: bool) -> int:
        """Returns the largest number of batches that the next compiled call may do."""
        # Keras makes one more call after something asked it to stop. With "auto", that call
        # does one batch, as a call of a plain Keras model does.
        asked = getattr(self, "stop_training" if training else "stop_evaluating", False)
        if asked and self._steps_per_execution == "auto":
            return 1
        return self.steps_per_execution - int(tf.identity(self.stack_start))


def _skip_first(model: StepModel, function: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Passes over the batches of the steps that an earlier run has done.

    That run may have stopped within a call of this one: its calls may have had other sizes.
    """

    def skipping(iterator: Any) -> Any:
        if model.steps_to_skip == 0:
            return function(iterator)
        size = model.steps_per_execution
        skipped = min(model.steps_to_skip, size)
        model.steps_to_skip -= skipped
        is_stacked = isinstance(getattr(iterator, "element_spec", None), Stack)
        is_over = skipped == size or not is_stacked
        if model.shared_strategy is not None:
            is_over = replicas.pass_over(model.strategy, iterator, skipped) or skipped == size
        elif is_over:
            for _ in range(1 if is_stacked else size):
                next(iterator)
        if is_over:
            model.num_calls += 1
            return model.get_metrics_result()
        model.stack_start.assign(skipped)
        try:
            return function(iterator)
        finally:
            model.stack_start.assign(0)

    return skipping


def _optimizer(
    optimizer: Any, parts: tuple[Any, ...], auto_scale_loss: bool
) -> keras.optimizers.Optimizer:
    """Returns an optimizer, wrapped in a loss scale where a network computes in float16."""
    try:
        found = keras.optimizers.get(optimizer)
        if not isinstance(found, keras.optimizers.Optimizer):
            raise TypeError("not an optimizer")
    except (ValueError, TypeError) as error:
        raise checks.InputError(
            "optimizer must be a Keras optimizer or its name. "
            f"Received: {optimizer!r}. Pass 'adam'."
        ) from error
    is_scaled = isinstance(found, keras.optimizers.LossScaleOptimizer)
    layers = [layer for part in parts for layer in fast_path.layers_of(part)]
    if (
        is_scaled
        or not auto_scale_loss
        or all(layer.dtype_policy.name != "mixed_float16" for layer in layers)
    ):
        return found
    return keras.optimizers.LossScaleOptimizer(found, name="loss_scale_optimizer")
