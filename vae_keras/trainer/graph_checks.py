"""Checks of values inside a graph, and the one-line error that they end in."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator

import tensorflow as tf

from vae_keras.utils import checks

# The marks find our sentence within the text that TensorFlow wraps around a failed assertion.
_START, _END = "<<", ">>"


def guard(x: tf.Tensor, condition: tf.Tensor, sentence: str) -> tf.Tensor:
    """Returns `x` once a condition is known to hold.

    Everything that is computed from the returned tensor waits for the check. A batch that fails
    it therefore changes no weight and no metric.

    Args:
        x: tensor to pass on.
        condition: boolean scalar.
        sentence: what the `checks.InputError` says when the condition does not hold.

    Returns:
        A tensor with the value of `x`.
    """
    assertion = tf.debugging.Assert(condition, [f"{_START}{sentence}{_END}"])
    with tf.control_dependencies([assertion]):
        return tf.identity(x)


@contextlib.contextmanager
def as_input_errors() -> Iterator[None]:
    """Re-raises a failed `guard` as the `checks.InputError` with its sentence."""
    try:
        yield
    except tf.errors.InvalidArgumentError as error:
        found = re.search(f"{_START}(.*?){_END}", str(error), re.DOTALL)
        if found is None:
            raise
        raise checks.InputError(found[1].replace("\\'", "'")) from error  # TensorFlow escapes it
