"""A gradient step over several replicas, under any `tf.distribute` strategy.

The loss is a weighted mean over the global batch. Each replica takes its rows of that batch and
computes sums and gradients, one all-reduce adds those of all replicas, and each replica applies
the same gradient. Replicas may hold unequal weights: a ragged last batch, sample weights, or no row
at all. Noise is keyed by the place of a row in the global batch. The number of replicas therefore
changes nothing beyond float error.

References:
    Patarasuk & Yuan 2009, "Bandwidth optimal all-reduce algorithms for clusters of workstations".
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from vae_keras.data import pipelines
from vae_keras.trainer import graph_checks, step, updates
from vae_keras.trainer.fast_path import state_variables
from vae_keras.utils import checks, graphs


class GlobalMean(keras.metrics.Mean):
    """A mean that every replica updates with the same global sums.

    Its variables are copies. Keras' own mean keeps a share on each replica, and reading it asks
    every worker. The mean of no weight at all is NaN.
    """

    def add_variable(self, *args: Any, **kwargs: Any) -> keras.Variable:
        return super().add_variable(*args, **{**kwargs, "aggregation": "only_first_replica"})

    def result(self) -> tf.Tensor:
        return self.total / self.count


def dataset(
    strategy: tf.distribute.Strategy,
    examples: Any,
    weights: np.ndarray,
    batch_size: int,
    shuffle_seed: int | None,
    first_epoch: tf.Variable | int,
    padded: bool,
    epochs_of_pass: int = 1,
) -> tf.distribute.DistributedDataset:
    """Makes endless passes over arrays and gives each replica its rows of every global batch.

    Every worker computes the same order, so each row is read once in a pass.

    Args:
        strategy: strategy whose replicas share the batches.
        examples, weights, shuffle_seed, first_epoch: as in `pipelines.stacks`.
        batch_size: rows of the global batch.
        padded, epochs_of_pass: as in `pipelines.shares`.

    Returns:
        A dataset that `keras.Model.fit` takes.
    """

    def shares(context: tf.distribute.InputContext) -> tf.data.Dataset:
        here = context.num_replicas_in_sync // context.num_input_pipelines
        first = context.input_pipeline_id * here
        mine = range(first, first + here)
        count = context.num_replicas_in_sync
        return pipelines.shares(
            examples,
            weights,
            batch_size,
            mine,
            count,
            shuffle_seed,
            first_epoch,
            padded,
            epochs_of_pass,
        )

    return strategy.distribute_datasets_from_function(shares)


def message_bytes(model: Any) -> int:
    """Returns the size of what each replica gives to the all-reduce of a step, in bytes."""
    gradient = sum(math.prod(variable.shape) for variable in model.variables_to_train)
    wish_and_weight = 2
    values = len(model.term_names) + 1 + len(model.setting_names)
    return 4 * (wish_and_weight + values + gradient)


def step_function(model: Any, training: bool) -> Callable[[Any, int], dict[str, tf.Tensor]]:
    """Makes the function that does steps on global batches.

    Networks that keep state, such as moving statistics, run as in Keras: each replica normalises
    its own rows, and the replicas' new statistics are averaged.

    Args:
        model: a built and compiled `Trainer` that was made under a strategy.
        training: whether the optimizer takes steps.

    Returns:
        A function from an iterator and the largest number of steps of the call to the logs. The
        call ends with the epoch, and in training with a number that is not finite if the model
        raises an error for it.

    Raises:
        checks.InputError: for an optimizer or a compilation that no strategy supports.
    """
    state = state_variables(model) if training else []
    _check_supported(model, state)

    def sums_and_gradient(
        examples: Any,
        weights: tf.Tensor,
        total_weight: tf.Tensor,
        fraction: tf.Tensor,
        draws: Any,
        wants_stop: tf.Tensor,
    ) -> tf.Tensor:
        """Returns a replica's wish to stop, values, weight and gradient, in one vector."""
        sums, gradients = step.sums_and_gradients(
            model,
            examples,
            weights,
            draws,
            training,
            total_weight=total_weight,
            fraction=fraction,
        )
        flat = [
            tf.reshape(tf.zeros(variable.shape) if gradient is None else gradient, [-1])
            for gradient, variable in zip(gradients, model.variables_to_train, strict=False)
        ]
        mine = tf.concat([sums.values, [sums.weight], *flat], axis=0)
        if weights.shape[0] is None:  # the mean of a layer's own loss over no row is NaN
            mine = tf.where(tf.size(weights) > 0, mine, tf.zeros_like(mine))
        return tf.concat([[wants_stop], mine], axis=0)

    num_values = len(model.metrics_of_steps)

    def read(message: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, list[tf.Tensor]]:
        """Returns whether a worker wants to stop, and `step.checked` of the whole batch."""
        variables = model.variables_to_train if training else []
        sizes = [math.prod(variable.shape) for variable in variables]
        stops, values, weight, *flat = tf.split(message, [1, num_values, 1, *sizes])
        gradients = [
            tf.reshape(part, variable.shape) for part, variable in zip(flat, variables, strict=True)
        ]
        return stops[0], *step.checked(model, step.Sums(values, weight[0]), gradients)

    def outcome(*arguments: Any) -> tuple[tf.Tensor, tf.Tensor, list[tf.Tensor]]:
        """Returns what `read` does for the sum of all replicas."""
        mine = kernel(*arguments)
        if training:
            mine = tf.ensure_shape(mine, [message_bytes(model) // 4])
        # Arrays and networks without state need no other message in a step.
        return read(tf.distribute.get_replica_context().all_reduce("sum", mine))

    kernel = sums_and_gradient
    if not model.run_eagerly:
        compiled = functools.partial(graphs.compiled, jit_compile=model.uses_xla)
        # The replicas meet where a layer assigns its state, which they cannot do inside a kernel.
        kernel, read = kernel if state else compiled(kernel), compiled(read)

    def replica(batch: Any, wants_stop: tf.Tensor, first_row: tf.Tensor) -> tuple[Any, ...]:
        """Returns what `read` does, the rows of the global batch, and whether an epoch ends."""
        context = tf.distribute.get_replica_context()
        is_share = isinstance(batch, pipelines.Share)
        share = batch if is_share else _share(model, batch, context)
        rows, row = step.num_rows(share.examples), first_row + tf.cast(share.row, tf.int64)
        examples = _with_rows_for_all(share.examples, state, context) if state else share.examples
        draws = model.draws(rows, model.train_counter if training else 0, row, training)
        found = outcome(
            examples, share.weights, share.total_weight, share.fraction, draws, wants_stop
        )
        return *found, share.batch, share.ends_epoch

    def global_step(iterator: Any, wants_stop: tf.Tensor) -> tuple[tf.Tensor, ...]:
        """Returns the totals of a step, whether a worker wants to stop, and if an epoch ends."""
        strategy = model.strategy
        with strategy.scope():
            first_row = tf.constant(0, tf.int64) if training else model.test_row
            stops, totals, gradients, rows, ends_epoch = strategy.run(
                replica, args=(next(iterator), wants_stop, first_row)
            )
            # All replicas hold the same results.
            stops, totals, rows, ends_epoch = (
                strategy.experimental_local_results(result)[0]
                for result in (stops, totals, rows, ends_epoch)
            )

            def take() -> tf.Tensor:
                with updates.compiled(model, strategy):
                    strategy.run(functools.partial(step.apply, model), args=(gradients,))
                return totals

            if training:  # a batch without any weight takes no step
                totals = tf.cond(totals[-2] > 0.0, take, lambda: tf.zeros_like(totals))
            else:
                model.advance_test_row(rows)
            return totals, stops, ends_epoch

    def global_steps(
        iterator: Any, wants_stop: tf.Tensor, most: tf.Tensor, ends_at_fault: tf.Tensor
    ) -> tuple[dict[str, Any], tf.Tensor]:
        """Does up to `most` steps, and returns the logs and whether a worker wants to stop."""

        def body(index: tf.Tensor, _: Any, __: Any, totals: tf.Tensor) -> tuple[tf.Tensor, ...]:
            found, stops, ends = global_step(iterator, wants_stop)
            ends |= ends_at_fault & (found[-1] > 0.0)
            return index + 1, ends, stops, totals + found

        def goes_on(index: tf.Tensor, ends: tf.Tensor, *_: tf.Tensor) -> tf.Tensor:
            return (index < most) & ~ends

        start = (tf.constant(0), tf.constant(False), tf.constant(0.0))
        totals = tf.zeros(num_values + 2, tf.float64)
        # The messages of one step must not overtake those of another.
        _, _, stops, totals = tf.while_loop(goes_on, body, (*start, totals), parallel_iterations=1)
        with model.strategy.scope():
            model.track(totals)
            return model.get_metrics_result(), stops

    if not model.run_eagerly:
        global_steps = graphs.compiled(global_steps)

    def function(iterator: Any, most: int) -> dict[str, tf.Tensor]:
        if not isinstance(iterator, (tf.data.Iterator, tf.distribute.DistributedIterator)):
            raise checks.InputError(
                "A model made under a strategy takes arrays or a tf.data.Dataset, through fit or "
                f"evaluate. Received: a {type(iterator).__name__}. Call fit instead."
            )
        wants_stop = training and model.wants_stop()
        logs, stops = global_steps(
            iterator,
            tf.constant(float(wants_stop)),
            tf.constant(most, tf.int32),
            tf.constant(training and model.raises_on_nan),
        )
        if training:
            model.all_stop = bool(stops > 0)
        return logs

    return function


def pass_over(strategy: tf.distribute.Strategy, iterator: Any, count: int) -> bool:
    """Reads global batches without a step, and returns whether an epoch ends with the last one.

    Args:
        strategy: strategy of the model.
        iterator: iterator over the batches.
        count: number of batches to read.
    """
    batch = None
    for _ in range(count):
        batch = next(iterator)
    if not isinstance(batch, pipelines.Share):
        return False
    return bool(strategy.experimental_local_results(batch.ends_epoch)[0])


def any_worker(strategy: tf.distribute.Strategy, says: bool) -> bool:
    """Returns whether any worker says True. Every worker must call this function.

    Args:
        strategy: strategy of the model.
        says: what this worker says.
    """
    if updates.num_local(strategy) == strategy.num_replicas_in_sync:
        return says

    def add(value: tf.Tensor) -> tf.Tensor:
        # TensorFlow adds what lies on a device, which an argument of a graph does not.
        return tf.distribute.get_replica_context().all_reduce("sum", tf.identity(value))

    total = graphs.compiled(lambda value: strategy.run(add, args=(value,)))
    return bool(strategy.experimental_local_results(total(tf.constant(float(says))))[0] > 0.0)


def _share(model: Any, batch: Any, context: tf.distribute.ReplicaContext) -> pipelines.Share:
    """Makes a replica's share from its part of a batch of the user's dataset.

    TensorFlow decides how the rows fall to the replicas, so the replicas tell each other their
    numbers of rows and their weights.
    """
    examples, weights = model.unpack(batch)
    rank, count = context.replica_id_in_sync_group, context.num_replicas_in_sync
    rows = tf.one_hot(rank, count) * tf.cast(step.num_rows(examples), tf.float32)
    mine = tf.concat([rows, [tf.reduce_sum(weights)]], axis=0)
    *rows, total_weight = tf.unstack(context.all_reduce("sum", mine))
    rows = tf.stack(rows)
    fraction = rows[rank] / tf.reduce_sum(rows)
    rows = tf.cast(rows, tf.int32)
    first = tf.cumsum(rows, exclusive=True)[rank]
    # A call does one batch of a dataset, whose end nobody knows.
    return pipelines.Share(
        examples, weights, first, tf.reduce_sum(rows), total_weight, fraction, tf.constant(True)
    )


def _with_rows_for_all(
    examples: Any, state: list[keras.Variable], context: tf.distribute.ReplicaContext
) -> Any:
    """Returns the examples once it is known that each replica holds one; no mean is then NaN."""
    empty = context.all_reduce("sum", tf.cast(step.num_rows(examples) == 0, tf.float32))
    rule = (
        f"{state[0].path} under a strategy needs a row for each of "
        f"{context.num_replicas_in_sync} replicas in every batch. Received: a smaller batch. "
        "Drop the last batch, or pass another batch_size."
    )
    return tf.nest.map_structure(
        lambda part: graph_checks.guard(part, tf.equal(empty, 0.0), rule), examples
    )


def _check_supported(model: Any, state: list[keras.Variable]) -> None:
    for optimizer in step.optimizers_of(model):
        if optimizer.gradient_accumulation_steps:
            raise checks.InputError(
                "Keras accumulates no gradients under a strategy. Received: "
                f"gradient_accumulation_steps={optimizer.gradient_accumulation_steps}. "
                "Leave it out, and pass a larger batch_size."
            )
    if state and model.get_compile_config()["jit_compile"] is True:
        raise checks.InputError(
            "jit_compile=True under a strategy needs networks that keep no state. "
            f"Received: {state[0].path}. Pass jit_compile='auto' to compile()."
        )
