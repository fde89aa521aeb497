"""One training step over several replicas of the model, under any `tf.distribute` strategy.

The loss is a weighted mean over the *global* batch. Each replica takes its rows of that batch and
gives sums: of the gradient, of the terms and of the weights. One all-reduce adds the sums of all
replicas up, and the division by the global weight comes after it, so that replicas may hold
unequal weights: a ragged tail, sample weights, or no row at all. Noise is keyed by a row's place
in the global batch. So the number of replicas changes nothing beyond float error.

References:
    Patarasuk & Yuan 2009, "Bandwidth optimal all-reduce algorithms for clusters of workstations".
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from vae_keras import checks, data, divergence
from vae_keras.objectives import Terms


class GlobalMean(keras.metrics.Mean):
    """A mean that all replicas are told alike: its variables are copies and not shares.

    Keras' own keeps a share a replica, and reading it asks every worker.
    """

    def add_variable(self, *args: Any, **kwargs: Any) -> keras.Variable:
        return super().add_variable(*args, **{**kwargs, "aggregation": "only_first_replica"})


def dataset(
    strategy: tf.distribute.Strategy,
    images: np.ndarray,
    weights: np.ndarray,
    batch_size: int,
    shuffle_seed: int | None,
    first_epoch: int,
) -> tf.distribute.DistributedDataset:
    """Endless epochs of `data.Share`s, to each replica its own rows of every global batch.

    Every worker computes the same order, so no row is read twice or left out.

    Args:
        strategy: whose replicas share the batches.
        images, weights, batch_size, shuffle_seed, first_epoch: as in `data.stacks`; the batch is
            the global one.

    Returns:
        What `keras.Model.fit` takes in a dataset's place.
    """

    def shares(context: tf.distribute.InputContext) -> tf.data.Dataset:
        here = context.num_replicas_in_sync // context.num_input_pipelines
        first = context.input_pipeline_id * here
        mine = range(first, first + here)
        count = context.num_replicas_in_sync
        return data.shares(images, weights, batch_size, mine, count, shuffle_seed, first_epoch)

    return strategy.distribute_datasets_from_function(shares)


def message_bytes(model: Any) -> int:
    """Returns how much each replica gives to the all-reduce of a training step, in bytes."""
    gradient = sum(math.prod(variable.shape) for variable in model.trainable_variables)
    wish_and_weight = 2
    return 4 * (wish_and_weight + len(model.metrics) + gradient)


def step_function(model: Any, training: bool) -> Callable[[Any], dict[str, tf.Tensor]]:
    """Makes what Keras calls for each global batch: an iterator to the logs.

    Args:
        model: a built and compiled `VAE` that was made under a strategy.
        training: whether to ascend the objective, or only to measure it.

    Raises:
        checks.InputError: for networks that carry state from batch to batch.
    """
    _check_stateless(model)
    if training:
        # Keras would sum the gradients over the replicas again, and clip them before.
        model.optimizer._all_reduce_sum_gradients = lambda pairs: pairs

    def sums(images: tf.Tensor, weights: tf.Tensor, draws: Any) -> tf.Tensor:
        """A replica's sums, flat: the terms, the loss, the weights, and the gradient."""
        with tf.GradientTape() as tape:
            objective, terms, kl_weights = model._weighted_sums(images, weights, draws, training)
            loss = -objective
        parts = [tf.stack([*terms, loss, *kl_weights, tf.reduce_sum(weights)])]
        if training:
            variables = model.trainable_variables
            gradients = tape.gradient(loss, variables, unconnected_gradients="zero")
            parts += [tf.reshape(gradient, [-1]) for gradient in gradients]
        return tf.concat(parts, axis=0)

    kernel = sums
    if not model.run_eagerly:
        kernel = tf.function(sums, jit_compile=model.uses_xla, autograph=False)
    num_totals = len(model.metrics) + 1

    def replica(batch: Any, wants_stop: tf.Tensor, first_row: tf.Tensor) -> tuple[tf.Tensor, ...]:
        context = tf.distribute.get_replica_context()
        share = batch if isinstance(batch, data.Share) else _share(model, batch, context)
        rows, row = tf.shape(share.images)[0], first_row + tf.cast(share.row, tf.int64)
        if training:
            draws = model._train_draws(rows, model.optimizer.iterations, row)
        else:
            draws = model._test_draws(rows, row)
        mine = tf.concat([[wants_stop], kernel(share.images, share.weights, draws)], axis=0)
        if training:
            mine = tf.ensure_shape(mine, [message_bytes(model) // 4])
        # The one message of a step.
        stops, totals, gradient = tf.split(context.all_reduce("sum", mine), [1, num_totals, -1])
        *sums, loss = tf.unstack(totals)[: len(Terms._fields) + 1]
        sums = Terms(*sums)
        fault = divergence.fault([sums.kl, sums.log_likelihood, sums.elbo, loss], [gradient])
        if training:
            (gradient,) = divergence.hold_back(fault, [gradient])
            _ascend(model, tf.math.divide_no_nan(gradient, totals[-1]))
        return stops[0], tf.concat([totals, [tf.cast(fault, tf.float32)]], axis=0), share.batch

    def global_step(iterator: Any, wants_stop: tf.Tensor) -> tuple[dict[str, Any], tf.Tensor]:
        strategy = model.strategy
        with strategy.scope():
            first_row = tf.constant(0, tf.int64) if training else tf.identity(model._test_row)
            results = strategy.run(replica, args=(next(iterator), wants_stop, first_row))
            # Every replica has been told the same.
            stops, totals, rows = (strategy.experimental_local_results(r)[0] for r in results)
            if not training:
                model._next_test_row(rows)
            model._track(model._note_fault(tf.cast(totals, tf.float64)))
            return model.get_metrics_result(), stops

    if not model.run_eagerly:
        global_step = tf.function(global_step, autograph=False)

    def function(iterator: Any) -> dict[str, tf.Tensor]:
        if not isinstance(iterator, (tf.data.Iterator, tf.distribute.DistributedIterator)):
            raise checks.InputError(
                "a model made under a strategy takes arrays or a tf.data.Dataset, through fit or "
                f"evaluate. Received: a {type(iterator).__name__}. Call fit instead."
            )
        wants_stop = training and model.wants_stop()
        logs, stops = global_step(iterator, tf.constant(float(wants_stop)))
        model._raise_fault()
        if training:
            model.all_stop = bool(stops > 0)
        return logs

    return function


def _ascend(model: Any, gradient: tf.Tensor) -> None:
    """Hands the global gradient, flat, to the optimizer."""
    variables = model.trainable_variables
    parts = tf.split(gradient, [math.prod(variable.shape) for variable in variables])
    gradients = [
        tf.reshape(part, variable.shape) for part, variable in zip(parts, variables, strict=True)
    ]
    model.optimizer.apply_gradients(zip(gradients, variables, strict=True))


def _share(model: Any, batch: Any, context: tf.distribute.ReplicaContext) -> data.Share:
    """A replica's part of a batch of the user's dataset.

    How the rows fall to the replicas is TensorFlow's choice, so they tell each other their counts.
    """
    images, weights = model._unpack(batch)
    rank, count = context.replica_id_in_sync_group, context.num_replicas_in_sync
    mine = tf.one_hot(rank, count, dtype=tf.int32) * tf.shape(images)[0]
    rows = context.all_reduce("sum", mine)
    return data.Share(images, weights, tf.cumsum(rows, exclusive=True)[rank], tf.reduce_sum(rows))


def _check_stateless(model: Any) -> None:
    state = [variable.path for variable in model.non_trainable_variables]
    if state:
        raise checks.InputError(
            "networks under a strategy may keep no state from batch to batch. "
            f"Received: {state[0]}. Leave that layer out, or train without a strategy."
        )
