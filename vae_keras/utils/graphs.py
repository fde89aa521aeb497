"""`tf.function` for functions that every model makes for itself."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf


def compiled(
    function: Callable[..., Any],
    signature: Sequence[tf.TensorSpec] | None = None,
    jit_compile: bool | None = None,
) -> Callable[..., Any]:
    """Returns a `tf.function` of a function, without AutoGraph.

    AutoGraph would read everything that the function calls, and find nothing to convert.

    TensorFlow counts how often a function is traced by the code that it runs. It would warn of
    frequent tracing when several models trace the same code once each. A partial has no code of
    its own, so TensorFlow counts each of these functions by itself.

    Args:
        function: function of tensors.
        signature: specs of its arguments. Default: traced anew for each shape.
        jit_compile: whether XLA compiles it. Default: where TensorFlow decides so.

    Returns:
        The compiled function.

    Example:
        >>> twice = compiled(lambda x: 2 * x)
        >>> twice(tf.constant(3)).numpy()
        np.int32(6)
    """
    return tf.function(
        functools.partial(function), signature, autograph=False, jit_compile=jit_compile
    )
