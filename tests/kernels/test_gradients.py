"""A custom gradient is TensorFlow's, and lives as long as the graph that it belongs to."""

import gc
import weakref

import pytest
import tensorflow as tf

from vae_keras.kernels import gradients


def doubled(decorator):
    """x itself, with twice the gradient."""
    return decorator(lambda x: (tf.identity(x), lambda upstream: 2.0 * upstream))


def by_tape(x):
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = doubled(gradients.custom_gradient)(x) ** 2
    return tape.gradient(y, x)


def by_name(x):
    """`tf.gradients` looks the gradient up by its name, as `tf.while_loop` does."""
    return tf.gradients(doubled(gradients.custom_gradient)(x) ** 2, x)[0]


@pytest.mark.parametrize("compiled", [None, False, True])
@pytest.mark.parametrize("gradient", [by_tape, by_name])
def test_the_gradient_is_the_functions_own(gradient, compiled):
    if compiled is None and gradient is by_name:
        pytest.skip("tf.gradients needs a graph")
    function = gradient if compiled is None else tf.function(gradient, jit_compile=compiled)
    assert float(function(tf.constant(3.0))) == 2.0 * 2.0 * 3.0


def test_a_graph_is_freed_with_its_function():
    def trace(decorator):
        function = tf.function(doubled(decorator))
        return weakref.ref(function.get_concrete_function(tf.constant(3.0)).graph)

    ours, theirs = trace(gradients.custom_gradient), trace(tf.custom_gradient)
    gc.collect()
    assert ours() is None
    # TensorFlow keeps this one. If it no longer does, the module has nothing left to do.
    assert theirs() is not None
