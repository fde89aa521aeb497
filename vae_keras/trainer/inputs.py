"""What `fit`, `evaluate` and `predict` take: arrays, or anything that gives batches.

Both kinds become a dataset for Keras' own loops. Arrays are checked before anything else happens.
Batches of a dataset, a generator or a `PyDataset` are checked when they arrive.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import warnings
from collections.abc import Iterable, Iterator
from types import GeneratorType
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from vae_keras.data import pipelines
from vae_keras.data.collection import DataSet
from vae_keras.trainer import replicas
from vae_keras.utils import checks
from vae_keras.utils.rows import Array, is_mapped

STACK_STEPS = 50
"""Most batches of a compiled call."""

SHARED_STEPS = 10
"""Most batches of a compiled call under a strategy. A request to stop waits until a call ends."""

_STACK_ROWS = 6000  # rows of a compiled call: enough to hide the overhead of the call
_STACK_VALUES = _STACK_ROWS * 28 * 28  # values of a compiled call: large images fill the memory


@dataclasses.dataclass(frozen=True)
class Arrays:
    """Examples in memory, or `Rows` that are read when they are needed.

    Attributes:
        examples: [N, ...].
        labels: structure of arrays [N, ...], or None.
        weights: float32 [N], or None when all examples weigh the same.
        batch_size: rows of a batch. Default 32.
    """

    examples: Array
    labels: Any
    weights: np.ndarray | None
    batch_size: int = 32

    def __len__(self) -> int:
        return len(self.examples)

    @property
    def in_memory(self) -> bool:
        """Whether the examples lie in memory, and not in a file."""
        return isinstance(self.examples, np.ndarray) and not is_mapped(self.examples)

    @property
    def trained_labels(self) -> Any:
        """The labels of the examples that are trained on: those with a weight above 0."""
        if self.weights is None or self.labels is None:
            return self.labels
        return tf.nest.map_structure(lambda each: each[self.weights > 0], self.labels)

    @property
    def num_batches(self) -> int:
        """The number of batches of a pass."""
        return -(-len(self) // self.batch_size)

    def in_batches(self, batch_size: int | None, steps: int | None) -> Arrays:
        """Sets the rows of a batch as Keras does.

        Args:
            batch_size: rows of a batch, or None for as many as give `steps` batches.
            steps: number of batches that the user asked for, or None. Batches have 32 rows if both
                are None.

        Returns:
            The same arrays with another `batch_size`.
        """
        if batch_size is None:
            # Keras takes its own limit for a number of steps, too.
            limits = [limit for limit in (steps, keras.config.max_steps_per_epoch()) if limit]
            batch_size = -(-len(self) // min(limits)) if limits else 32
        return dataclasses.replace(self, batch_size=min(batch_size, len(self)))

    def epochs_of_pass(self, steps: int | None) -> int:
        """Returns how many epochs of `steps` steps a pass over the data takes."""
        return -(-self.num_batches // min(steps or self.num_batches, self.num_batches))

    def check_epochs(self, steps: int | None) -> None:
        """Refuses epochs of which the last one of a pass would be shorter than the others.

        Keras ends an epoch where a pass ends. Under a strategy, passes follow one another without
        an end that Keras could see.
        """
        if steps is not None and steps < self.num_batches and self.num_batches % steps:
            raise checks.InputError(
                "steps_per_epoch under a strategy must divide the number of batches, "
                f"{self.num_batches}. Received: {steps}. Pass a divisor, or leave it out."
            )

    def split(self, fraction: float) -> tuple[Arrays, Arrays]:
        """Holds out the last rows, as Keras does.

        Args:
            fraction: part of the rows to hold out, between 0 and 1.

        Returns:
            The rows kept and the rows held out.

        Raises:
            checks.InputError: when no row, or no weight above 0, is left on one side.
        """
        checks.fraction("validation_split", fraction)
        kept = math.floor(len(self) * (1.0 - fraction))
        if kept == 0 or kept == len(self):
            raise checks.InputError(
                "validation_split must leave examples on both sides. "
                f"Received: {fraction} of {len(self)} examples. Pass another fraction."
            )

        def rows(part: slice) -> Arrays:
            labels, weights = tf.nest.map_structure(
                lambda each: None if each is None else each[part], (self.labels, self.weights)
            )
            if weights is not None and not weights.any():
                raise checks.InputError(
                    "validation_split must leave a weight above 0 on both sides. "
                    f"Received: {fraction} of {len(self)} examples. Pass another fraction."
                )
            return Arrays(self.examples[part], labels, weights, self.batch_size)

        return rows(slice(kept)), rows(slice(kept, None))

    def largest_stack(self, most: int) -> int:
        """Returns how many batches a compiled call may hold in memory, from 1 to `most`."""
        rows = min(_STACK_ROWS, _STACK_VALUES // math.prod(self.examples.shape[1:]))
        return max(1, min(most, rows // self.batch_size))

    def stack_size(self, most: int) -> int:
        """Returns how many batches go into one compiled call, `most` or fewer.

        It is a divisor of the number of batches where one is near, so that the progress bar ends
        where the epoch does.
        """
        target = min(self.num_batches, self.largest_stack(most))
        divisor = max(size for size in range(1, target + 1) if self.num_batches % size == 0)
        return divisor if 2 * divisor >= target else target

    def dataset(
        self,
        *,
        strategy: tf.distribute.Strategy | None,
        stack_size: int,
        labelled: bool,
        paired: bool = False,
        padded: bool = False,
        shuffle_seed: int | None = None,
        epoch: tf.Variable | int = 0,
        epochs_of_pass: int = 1,
    ) -> tf.data.Dataset | tf.distribute.DistributedDataset:
        """Makes the dataset that Keras iterates over.

        Args:
            strategy: strategy whose replicas share the batches, or None.
            stack_size: batches of a compiled call; 1 for batches in Keras' own form.
            labelled: whether batches in Keras' own form carry the labels.
            paired: whether examples are pairs of examples and labels. Default False.
            padded: whether rows of weight 0 may complete a replica's part of a batch. Default
                False.
            shuffle_seed: seed of the order, or None for the order of the data. Default None.
            epoch: number of the epoch in which the first pass begins. Default 0.
            epochs_of_pass: number of epochs that a pass takes. Default 1.
        """
        weights = self.weights
        if strategy is None and stack_size == 1:
            labels = self.labels if labelled or paired else None
            count = 3 if weights is not None else 2 if labels is not None else 1
            # Keras' form: x by itself where there is nothing beside it.
            parts = (self.examples, labels, weights)[:count] if count > 1 else self.examples
            return pipelines.batches(parts, len(self), self.batch_size, shuffle_seed, epoch)
        if weights is None:
            weights = np.ones(len(self), np.float32)
        examples = (self.examples, self.labels) if paired else self.examples
        if strategy is not None:
            return replicas.dataset(
                strategy,
                examples,
                weights,
                self.batch_size,
                shuffle_seed,
                epoch,
                padded,
                epochs_of_pass,
            )
        return pipelines.stacks(examples, weights, self.batch_size, stack_size, shuffle_seed, epoch)

    def steps(self, given: int | None, is_endless: bool) -> int | None:
        """Returns the number of steps to name to Keras for a pass.

        Keras itself ends a pass of a dataset that is not endless.
        """
        if not is_endless:
            return given
        if given is not None and given > self.num_batches:
            warnings.warn(
                f"The data has {self.num_batches} batches. Received: {given} steps. Each epoch "
                "ends after the last batch.",
                stacklevel=3,
            )
        return min(given or self.num_batches, self.num_batches)


def is_pipeline(x: Any) -> bool:
    """Whether `x` gives batches by itself, as datasets and generators do."""
    known = (tf.data.Dataset, tf.distribute.DistributedDataset, keras.utils.PyDataset, Iterator)
    if isinstance(x, known):
        return True
    is_array = hasattr(x, "__array__") or isinstance(x, (list, tuple, dict, str, bytes))
    return not is_array and isinstance(x, Iterable)


def unpack(data: Any) -> tuple[Any, Any, Any]:
    """Returns x, y and sample_weight of data given as one argument.

    Args:
        data: x, or a tuple of up to three of x, y and sample_weight.

    Raises:
        checks.InputError: for a longer or an empty tuple.
    """
    if isinstance(data, DataSet):
        raise checks.InputError(
            "Only fit takes a whole DataSet. Received: a DataSet. Pass one of its arrays, such as "
            "dataset.images.x_test."
        )
    if not isinstance(data, tuple):
        return data, None, None
    if not 1 <= len(data) <= 3:
        raise checks.InputError(
            "Data must be x, (x, y) or (x, y, sample_weight). "
            f"Received: a tuple of {len(data)} elements. Pass the arrays in that order."
        )
    return keras.utils.unpack_x_y_sample_weight(data)


def labels(y: Any, num: int) -> Any:
    """Returns labels as a structure of arrays with N rows.

    Raises:
        checks.InputError: for another number of rows.
    """

    def array(part: Any) -> np.ndarray:
        part = np.asarray(part)
        if part.dtype.kind == "f":  # as Keras does
            part = part.astype(keras.config.floatx())
        elif part.dtype.kind in "UO":  # texts become UTF-8: `tf.numpy_function` refuses others
            part = tf.constant(part).numpy()
        else:  # `tf.numpy_function` would take numbers of the other byte order for other numbers
            part = part.astype(part.dtype.newbyteorder("="), copy=False)
        if part.ndim == 0 or len(part) != num:
            raise checks.InputError(
                "y must hold one row for each example. "
                f"Received: shape {part.shape} for {num} examples. Pass y for all of x."
            )
        return part

    if y is None:
        return None
    return tf.nest.map_structure(array, y) if isinstance(y, (dict, tuple)) else array(y)


def check_pipeline(
    dataset: Any,
    *,
    steps_name: str,
    steps: int | None,
    arguments_of_arrays: dict[str, bool],
) -> None:
    """Refuses a dataset without an end or a batch, other iterables, and arguments of arrays.

    Args:
        dataset: what `fit` and its like were given.
        steps_name: name of the argument that counts its batches.
        steps: value of that argument.
        arguments_of_arrays: name of an argument to whether it was given.

    Raises:
        checks.InputError: for each of these.
    """
    for name, is_given in arguments_of_arrays.items():
        if is_given:
            raise checks.InputError(
                f"{name} is supported for arrays only. Received: {name} beside a "
                f"{type(dataset).__name__}. Batch, weigh or divide the dataset instead."
            )
    if not _is_known_to_keras(dataset):
        raise checks.InputError(
            "Batches must come from a tf.data.Dataset, a keras.utils.PyDataset, a generator, or a "
            f"loader of torch or grain. Received: a {type(dataset).__name__}. Pass a generator, "
            "such as (batch for batch in x)."
        )
    num_batches = _num_batches(dataset)
    if num_batches == tf.data.INFINITE_CARDINALITY and steps is None:
        raise checks.InputError(
            f"An endless dataset needs {steps_name}. Received: a dataset that repeats without "
            f"end. Pass {steps_name}, or leave out repeat()."
        )
    if num_batches == 0:
        raise no_batch()


def _num_batches(dataset: Any) -> int:
    """Returns the number of batches, or the constant of `tf.data` for no end or an unknown one."""
    if isinstance(dataset, tf.data.Dataset):
        return int(dataset.cardinality())
    if isinstance(dataset, keras.utils.PyDataset):
        found = dataset.num_batches
        return tf.data.INFINITE_CARDINALITY if found is None else int(found)
    return tf.data.UNKNOWN_CARDINALITY


# Keras knows the loaders of libraries that need not be installed by the names of their classes.
_LOADERS = {"torch": ("DataLoader",), "grain": ("DataLoader", "MapDataset", "IterDataset")}


def _is_known_to_keras(dataset: Any) -> bool:
    kinds = (tf.data.Dataset, tf.distribute.DistributedDataset, keras.utils.PyDataset)
    if isinstance(dataset, (*kinds, GeneratorType)):
        return True
    return any(
        parent.__name__ in _LOADERS.get(parent.__module__.split(".")[0], ())
        for parent in type(dataset).__mro__
    )


def batches_of(dataset: Any) -> Any:
    """Returns a dataset, or a generator whose batches are tuples, as Keras wants them.

    Raises:
        checks.InputError: for a generator without a batch, and while iterating for weights that
            are not numbers.
    """

    def as_tuple(batch: Any) -> tuple[Any, ...]:
        batch = batch if isinstance(batch, tuple) else (batch,)
        weights = np.asarray(batch[2]) if len(batch) == 3 and batch[2] is not None else None
        if weights is not None and weights.dtype.kind not in "buif":
            raise checks.InputError(
                "sample_weight must hold one number for each example. "
                f"Received: dtype {weights.dtype} in a batch. Weigh every example once."
            )
        return batch

    if not isinstance(dataset, GeneratorType):
        return dataset
    first = list(itertools.islice(dataset, 1))  # Keras looks at it in the same way
    if not first:
        raise no_batch()
    # Keras takes no other kind of iterator.
    return (as_tuple(batch) for batch in itertools.chain(first, dataset))


def no_batch() -> checks.InputError:
    """Returns the error for data without any batch."""
    return checks.InputError(
        "Data must hold at least one batch. Received: a dataset without a batch. "
        "Check its filters, and whether a generator was used up."
    )


def examples_spec(dataset: Any) -> tf.TensorSpec | None:
    """Returns the spec of a dataset's examples, or None where it is not known in advance.

    Raises:
        checks.InputError: for elements with examples in several parts.
    """
    if isinstance(dataset, tf.distribute.DistributedDataset):
        return None  # its specs are of all replicas together
    spec = getattr(dataset, "element_spec", None)
    if isinstance(spec, tuple) and not hasattr(spec, "_fields") and 1 <= len(spec) <= 3:
        spec = spec[0]
    if spec is None or isinstance(spec, tf.TensorSpec):
        return spec
    if isinstance(spec, tuple) and len(spec) == 1 and isinstance(spec[0], tf.TensorSpec):
        return spec[0]
    raise checks.InputError(
        "A dataset must yield x, (x, y) or (x, y, sample_weight) with x a single tensor. "
        f"Received: x = {spec}. Map the dataset to that."
    )
