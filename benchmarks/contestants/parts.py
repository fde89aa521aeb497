"""The parts of our training step, each by itself over as many steps as a slice has.

They overlap in the whole: the parts need not add up to it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from benchmarks.contestants import ours
from benchmarks.gate import Gate
from benchmarks.workload import LATENT_DIM, LAYERS, LEARNING_RATE, Workload
from vae_keras import VAE, data, distributions, noise
from vae_keras.data import pipelines
from vae_keras.image_examples import Draws
from vae_keras.trainer.inputs import STACK_STEPS, Arrays

_SHAPE = (28, 28, 1)


def kernel(workload: Workload, gate: Gate) -> None:
    """`VAE.fit` on one and the same stack with one and the same noise."""
    draw = VAE.draws
    held: list[tf.Variable] = []  # variables: constants would be folded into the graph

    def once(vae: VAE, rows: int, step: tf.Tensor, row: int, training: bool) -> Draws:
        if not held:
            with tf.init_scope():
                draws = draw(vae, rows, tf.range(*step.shape), row, training)
                held.extend(tf.Variable(part, trainable=False) for part in draws)
        return Draws(*(part.read_value() for part in held))

    VAE.draws = once
    ours.fit_without_pipeline(workload, gate)


def products(workload: Workload, gate: Gate) -> None:
    """The matrix products of forward and backward pass, chained as in a linear network."""
    kernels = [tf.Variable(value) for value in workload.weights()[::2]]
    rows = tf.random.uniform([_stack(workload), workload.batch_size, LAYERS[0][0]])

    @tf.function(jit_compile=True)
    def steps() -> None:
        for_each = tf.range(len(rows))

        def body(index: tf.Tensor) -> tf.Tensor:
            inputs, h = [], rows[index]
            for kernel in kernels:
                inputs.append(h[:, : kernel.shape[0]])
                h = inputs[-1] @ kernel
            upstream = h
            for kernel, given in zip(kernels[::-1], inputs[::-1], strict=True):
                gradient = tf.matmul(given, upstream, transpose_a=True)
                upstream = tf.matmul(upstream, kernel, transpose_b=True)
                width = given.shape[1]
                if width == LATENT_DIM:  # the encoder gives loc and scale
                    upstream = tf.concat([upstream, upstream], axis=1)
                kernel.assign(1e-12 * gradient)
            return index + 1

        tf.while_loop(lambda index: index < len(for_each), body, [tf.constant(0)])

    _repeat(steps, workload, gate)


def adam(workload: Workload, gate: Gate) -> None:
    """Keras' Adam on the network's twelve variables."""
    variables = [keras.Variable(value) for value in workload.weights()]
    optimizer = keras.optimizers.Adam(LEARNING_RATE)
    optimizer.build(variables)
    gradients = [tf.random.normal(variable.shape) for variable in variables]
    stack = _stack(workload)

    @tf.function(jit_compile=True)
    def steps() -> None:
        def body(index: tf.Tensor) -> tf.Tensor:
            scaled = [gradient * tf.cast(index, tf.float32) for gradient in gradients]
            optimizer.apply_gradients(zip(scaled, variables, strict=True))
            return index + 1

        tf.while_loop(lambda index: index < stack, body, [tf.constant(0)])

    _repeat(steps, workload, gate)


def adam_traffic(workload: Workload, gate: Gate) -> None:
    """What Adam must read and write, with a multiplication each: its memory's limit."""
    shapes = [value.shape for value in workload.weights()]
    weights, first, second = ([tf.Variable(tf.ones(shape)) for shape in shapes] for _ in range(3))
    gradients = [tf.random.normal(shape) for shape in shapes]
    stack = _stack(workload)

    @tf.function(jit_compile=True)
    def steps() -> None:
        def body(index: tf.Tensor) -> tf.Tensor:
            for weight, m, v, gradient in zip(weights, first, second, gradients, strict=True):
                weight.assign(weight + 1e-9 * gradient)
                m.assign(0.999 * m)
                v.assign(0.999 * v)
            return index + 1

        tf.while_loop(lambda index: index < stack, body, [tf.constant(0)])

    _repeat(steps, workload, gate)


def bernoulli(workload: Workload, gate: Gate) -> None:
    """log p(x | z) of given logits and its gradient."""
    shape = (_stack(workload), workload.batch_size, *_SHAPE)
    logits, x = tf.random.normal(shape), tf.cast(tf.random.uniform(shape) < 0.5, tf.float32)

    def step(index: tf.Tensor) -> tf.Tensor:
        given = logits[index]
        with tf.GradientTape() as tape:
            tape.watch(given)
            total = tf.reduce_sum(distributions.Bernoulli().distribution(given).log_prob(x[index]))
        return tape.gradient(total, given)

    _repeat(_loop(step, shape), workload, gate)


def comparison(workload: Workload, gate: Gate) -> None:
    """Stored pixels and random bits to binary images."""
    shape = (_stack(workload), workload.batch_size, *_SHAPE)
    images = tf.reshape(workload.train_images()[: shape[0] * shape[1]], shape)
    bits = tf.cast(tf.random.uniform(shape, maxval=2**16, dtype=tf.int32), tf.uint16)

    def step(index: tf.Tensor) -> tf.Tensor:
        return data.to_pixels(images[index], bits[index], "dynamic")

    _repeat(_loop(step, shape), workload, gate)


def pixel_bits(workload: Workload, gate: Gate) -> None:
    """The random bits of the binarization."""
    shape = (workload.batch_size, *_SHAPE)
    _draw(data.pixel_bits, noise.Stream.TRAIN_PIXELS, workload, gate, shape=shape)


def latent_noise(workload: Workload, gate: Gate) -> None:
    """The posterior's normal draws."""
    size = {"rows": workload.batch_size, "size": LATENT_DIM}
    _draw(noise.normal, noise.Stream.TRAIN_LATENTS, workload, gate, **size)


def pipeline(workload: Workload, gate: Gate) -> None:
    """Shuffling and gathering by `pipelines.stacks`, whose stacks are not used."""
    images = workload.train_images().reshape(-1, *_SHAPE)
    weights = tf.ones(len(images)).numpy()
    stacks = iter(pipelines.stacks(images, weights, workload.batch_size, _stack(workload), 0))
    _repeat(lambda: next(stacks), workload, gate)


def _stack(workload: Workload) -> int:
    """Batches a compiled call, as `VAE.fit` sizes it."""
    examples = np.broadcast_to(np.uint8(0), (workload.num_images, *_SHAPE))
    return Arrays(examples, None, None, workload.batch_size).stack_size(STACK_STEPS)


def _loop(step: Callable[[tf.Tensor], tf.Tensor], shape: tuple[int, ...]) -> Callable[[], Any]:
    """Compiles a loop over a stack whose every step writes its result out."""

    @tf.function(jit_compile=True)
    def steps() -> tf.Tensor:
        def body(index: tf.Tensor, _: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            return index + 1, step(index)

        start = (tf.constant(0), tf.zeros(shape[1:]))
        return tf.while_loop(lambda index, _: index < shape[0], body, start)[1]

    return steps


def _draw(
    draw: Callable[..., tf.Tensor],
    stream: noise.Stream,
    workload: Workload,
    gate: Gate,
    **size: Any,
) -> None:
    """Draws for all steps of a stack, as `VAE.fit` does."""
    drawn = tf.function(lambda step: draw(0, stream, step=step, **size), autograph=False)
    steps = tf.range(_stack(workload))
    _repeat(lambda: drawn(steps), workload, gate)


def _repeat(function: Callable[[], Any], workload: Workload, gate: Gate) -> None:
    calls = workload.num_images // (_stack(workload) * workload.batch_size)
    gate.ready()
    while True:
        for _ in range(calls):
            function()
        gate.passed(workload.num_images, lambda: None)
