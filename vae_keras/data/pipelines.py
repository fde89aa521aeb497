"""`tf.data` pipelines whose order is a pure function of (seed, epoch)."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from vae_keras.utils.rows import Array, is_mapped


class Stack(NamedTuple):
    """Several batches for one compiled call.

    The last batch is padded with rows of weight 0.

    Attributes:
        examples: [steps, batch, ...], a tensor or a structure of tensors.
        weights: float32 [steps, batch].
        steps: int32 scalar, the number of batches that hold anything.
    """

    examples: Any
    weights: tf.Tensor
    steps: tf.Tensor


class Share(NamedTuple):
    """The rows of a global batch that one replica takes.

    Attributes:
        examples: [rows, ...], a tensor or a structure of tensors.
        weights: float32 [rows].
        row: int32 scalar, the place of the first row in the global batch.
        batch: int32 scalar, the number of rows of the global batch.
        total_weight: float32 scalar, the sum of weights of the global batch.
        fraction: float32 scalar, the part of the global batch's rows that the share holds.
        ends_epoch: bool scalar, whether the global batch is the last one of an epoch.
    """

    examples: Any
    weights: tf.Tensor
    row: tf.Tensor
    batch: tf.Tensor
    total_weight: tf.Tensor
    fraction: tf.Tensor
    ends_epoch: tf.Tensor


def batches(
    parts: Any, num: int, batch_size: int, shuffle_seed: int | None, epoch: tf.Variable | int
) -> tf.data.Dataset:
    """Makes one pass over arrays, in batches of the form that Keras' own adapters give.

    Args:
        parts: structure of arrays [N, ...] such as (images,) or (images, labels, weights); a
            part may be None.
        num: N, the number of rows.
        batch_size: rows of a batch. The last batch may have fewer.
        shuffle_seed: seed of the order, or None for the order of the data.
        epoch: number of the pass. A variable is read when the pass begins.

    Returns:
        A `tf.data.Dataset` of ceil(N / batch_size) elements.
    """
    gathers = tf.nest.map_structure(lambda part: None if part is None else _gather(part), parts)

    def batch(rows: tf.Tensor) -> Any:
        return tf.nest.map_structure(
            lambda gather: None if gather is None else gather(rows), gathers
        )

    order = _number(epoch).map(lambda number: epoch_order(num, shuffle_seed, number))
    served = order.rebatch(batch_size).map(batch, num_parallel_calls=2, deterministic=True)
    cardinality = tf.data.experimental.assert_cardinality(-(-num // batch_size))
    return _prefetched(served).apply(cardinality)


def stacks(
    examples: Any,
    weights: np.ndarray,
    batch_size: int,
    stack_size: int,
    shuffle_seed: int | None = None,
    first_epoch: tf.Variable | int = 0,
) -> tf.data.Dataset:
    """Makes endless passes over arrays, in `Stack`s of batches.

    Args:
        examples: [N, ...], an array or a structure of arrays. An array with several numbers a row
            is not copied: each batch reads its rows from it. `Rows` are read in the same way.
        weights: float32 [N].
        batch_size: rows of a batch.
        stack_size: batches of a stack.
        shuffle_seed: seed of the order, or None for the order of the data. Default None.
        first_epoch: number of the first pass. A variable is read when that pass begins.
            Default 0.

    Returns:
        A `tf.data.Dataset` of `Stack`, ceil(ceil(N / batch_size) / stack_size) in a pass.
    """
    num, rows = len(weights), batch_size * stack_size
    gather = _padded_rows(examples, weights, rows)

    def in_batches(part: tf.Tensor) -> tf.Tensor:
        return tf.reshape(part, (stack_size, batch_size, *part.shape[1:]))

    def one_pass(number: tf.Tensor) -> tf.data.Dataset:
        order = epoch_order(num, shuffle_seed, number)

        def stack(start: tf.Tensor) -> Stack:
            held, weight, count = gather(order[start : start + rows])
            steps = -(-count // batch_size)
            return Stack(tf.nest.map_structure(in_batches, held), in_batches(weight), steps)

        starts = tf.data.Dataset.range(0, num, rows, output_type=tf.int32)
        return starts.map(stack, num_parallel_calls=2, deterministic=True)

    return _endless(one_pass, first_epoch)


def shares(
    examples: Any,
    weights: np.ndarray,
    batch_size: int,
    replicas: range,
    num_replicas: int,
    shuffle_seed: int | None = None,
    first_epoch: tf.Variable | int = 0,
    padded: bool = True,
    epochs_of_pass: int = 1,
) -> tf.data.Dataset:
    """Makes the `Share`s that some of the replicas take of every global batch.

    All replicas together get each row once in a pass, in the order and the batches of `stacks`.

    Args:
        examples, weights, shuffle_seed, first_epoch: as in `stacks`.
        batch_size: rows of a global batch. A replica takes ceil(batch_size / num_replicas) rows.
        replicas: the replicas to read for. Their shares follow one another.
        num_replicas: number of replicas of all workers.
        padded: whether missing rows are padded with rows of weight 0, so that all shares have
            one shape. Otherwise a share may hold fewer rows, or no row. Default True.
        epochs_of_pass: number of epochs that share a pass, a divisor of the number of batches.
            Default 1.

    Returns:
        An endless `tf.data.Dataset` of `Share`, ceil(N / batch_size) * len(replicas) in a pass.
    """
    num, rows, here = len(weights), -(-batch_size // num_replicas), len(replicas)
    num_batches = -(-num // batch_size)
    batches_of_epoch = num_batches // epochs_of_pass
    gather = _padded_rows(examples, weights, rows)
    weight_of = _gather(weights)

    def one_pass(number: tf.Tensor) -> tf.data.Dataset:
        order = epoch_order(num, shuffle_seed, number)

        def share(index: tf.Tensor) -> Share:
            batch = order[index // here * batch_size :][:batch_size]
            row = (replicas.start + index % here) * rows
            held, weight, count = gather(batch[row : row + rows])
            fraction = tf.constant(1.0 / num_replicas)
            if not padded:
                held, weight = tf.nest.map_structure(lambda part: part[:count], (held, weight))
                fraction = tf.cast(count / tf.size(batch), tf.float32)
            held, weight = tf.nest.map_structure(
                lambda part: tf.ensure_shape(part, (rows if padded else None, *part.shape[1:])),
                (held, weight),
            )
            total = tf.reduce_sum(weight_of(batch))
            ends_epoch = tf.equal((index // here + 1) % batches_of_epoch, 0)
            return Share(held, weight, row, tf.constant(batch_size), total, fraction, ends_epoch)

        indices = tf.data.Dataset.range(num_batches * here, output_type=tf.int32)
        return indices.map(share, num_parallel_calls=2, deterministic=True)

    # Workers ask each other at every step whether all have data left, unless the dataset says
    # that it is endless.
    infinite = tf.data.experimental.assert_cardinality(tf.data.INFINITE_CARDINALITY)
    return _endless(one_pass, first_epoch, epochs_of_pass).apply(infinite)


def epoch_order(num: int, seed: int | None, epoch: int | tf.Tensor) -> tf.Tensor:
    """Returns the order of the rows in an epoch.

    Args:
        num: number of rows.
        seed: seed of the order, or None for the order of the data.
        epoch: number of the epoch.

    Returns:
        int32 [num].
    """
    order = tf.range(num)
    if seed is None:
        return order
    key = tf.stack([tf.cast(seed, tf.int64), tf.cast(epoch, tf.int64)])
    return tf.random.experimental.stateless_shuffle(order, key, alg="philox")


def _padded_rows(
    examples: Any, weights: np.ndarray, rows: int
) -> Callable[[tf.Tensor], tuple[Any, tf.Tensor, tf.Tensor]]:
    """Gathers rows by index and pads them to `rows` rows, the added ones with weight 0."""
    gathers, weight_of = tf.nest.map_structure(_gather, examples), _gather(weights)

    def gather(index: tf.Tensor) -> tuple[Any, tf.Tensor, tf.Tensor]:
        count = tf.shape(index)[0]
        index = tf.pad(index, [[0, rows - count]])
        held = tf.cast(tf.range(rows) < count, tf.float32)
        found = tf.nest.map_structure(lambda gather: gather(index), gathers)
        return found, weight_of(index) * held, count

    return gather


def _number(epoch: tf.Variable | int) -> tf.data.Dataset:
    """A dataset of one number, which is read when the first element is asked for."""
    return tf.data.Dataset.range(1).map(lambda _: tf.cast(tf.identity(epoch), tf.int64))


def _endless(
    one_pass: Callable[[tf.Tensor], tf.data.Dataset], first: tf.Variable | int, step: int = 1
) -> tf.data.Dataset:
    epochs = _number(first).flat_map(
        lambda number: tf.data.Dataset.counter(number, step, dtype=tf.int64)
    )
    return _prefetched(epochs.flat_map(one_pass))


def _prefetched(dataset: tf.data.Dataset) -> tf.data.Dataset:
    options = tf.data.Options()
    # There is nothing to tune, and the tuner may delay the end of `fit` by two seconds.
    options.autotune.enabled = False
    return dataset.prefetch(2).with_options(options)


def _gather(array: Array) -> Callable[[tf.Tensor], tf.Tensor]:
    """Returns a function from row numbers to rows of an array."""
    if isinstance(array, np.ndarray) and array.ndim == 1 and not is_mapped(array):
        # TensorFlow keeps two copies of the array of a constant. One number a row is little.
        with tf.device("CPU"):  # the operations of a pipeline run there
            store = tf.constant(array)
        return lambda index: tf.gather(store, index)

    # TensorFlow keeps the Python functions of a graph until the process ends, so `read` has a weak
    # reference only. `gather` keeps the array, and the dataset that maps `gather` keeps `gather`.
    rows = weakref.proxy(array)

    def read(index: np.ndarray) -> np.ndarray:
        # NumPy's own `take` copies the whole of an array whose rows lie apart.
        return rows[index]

    def gather(index: tf.Tensor) -> tf.Tensor:
        found = tf.numpy_function(read, [index], array.dtype, stateful=False)
        return tf.ensure_shape(found, (*index.shape, *array.shape[1:]))

    return gather
