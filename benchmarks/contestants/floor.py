"""The floor: the matrix products of the work and nothing else, through several sgemms.

Three products a layer and step: forward, the kernel's gradient and the input's, which the first
layer does without. The likelihood needs only the decoder's forward products.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.gate import Gate
from benchmarks.workload import ENCODER_LAYERS, LAYERS, NUM_SAMPLES, Workload

Shapes = list[tuple[int, int, int]]  # (m, k, n) of [m, k] @ [k, n]


def training_products(batch_size: int) -> Shapes:
    """Returns the products of one training step."""
    shapes: Shapes = []
    for index, (wide, narrow) in enumerate(LAYERS):
        shapes.append((batch_size, wide, narrow))
        shapes.append((wide, batch_size, narrow))
        if index > 0:
            shapes.append((batch_size, narrow, wide))
    return shapes


def likelihood_products(rows: int) -> Shapes:
    """Returns the products of decoding `rows` samples."""
    return [(rows, wide, narrow) for wide, narrow in LAYERS[ENCODER_LAYERS:]]


def _operands(shapes: Shapes) -> list[tuple[np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(0)
    return [(rng.random((m, k), np.float32), rng.random((k, n), np.float32)) for m, k, n in shapes]


def _numpy(shapes: Shapes) -> Callable[[int], None]:
    products = [(a, b, np.empty((len(a), b.shape[1]), np.float32)) for a, b in _operands(shapes)]

    def repeat(times: int) -> None:
        for _ in range(times):
            for a, b, out in products:
                np.matmul(a, b, out=out)

    return repeat


def _torch(shapes: Shapes) -> Callable[[int], None]:
    import torch

    products = [
        (torch.from_numpy(a), torch.from_numpy(b), torch.empty(len(a), b.shape[1]))
        for a, b in _operands(shapes)
    ]

    @torch.no_grad()
    def repeat(times: int) -> None:
        for _ in range(times):
            for a, b, out in products:
                torch.mm(a, b, out=out)

    return repeat


def _tensorflow(shapes: Shapes) -> Callable[[int], None]:
    import tensorflow as tf

    # A graph drops what nobody reads and does what never changes only once: so the smaller operand
    # comes in two copies in turn, and one number of each product goes into the sum.
    products = [
        (tf.stack([a, a]), tf.constant(b))
        if a.size < b.size
        else (tf.constant(a), tf.stack([b, b]))
        for a, b in _operands(shapes)
    ]

    @tf.function(autograph=False)
    def loop(times: tf.Tensor) -> tf.Tensor:
        def body(index: tf.Tensor, total: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            for pair in products:
                a, b = (part[index % 2] if part.shape.rank == 3 else part for part in pair)
                total += tf.matmul(a, b)[0, 0]
            return index + 1, total

        start = (tf.constant(0), tf.constant(0.0))
        return tf.while_loop(lambda index, _: index < times, body, start)[1]

    return lambda times: loop(tf.constant(times)).numpy()


def _train(build: Callable[[Shapes], Callable[[int], Any]], workload: Workload, gate: Gate) -> None:
    repeat = build(training_products(workload.batch_size))
    steps = workload.num_images // workload.batch_size
    gate.ready()
    while True:
        repeat(steps)
        gate.passed(workload.num_images, lambda: None)


def _likelihood(
    build: Callable[[Shapes], Callable[[int], Any]], workload: Workload, gate: Gate
) -> None:
    repeat = build(likelihood_products(NUM_SAMPLES))
    gate.ready()
    while True:
        repeat(workload.num_images)
        gate.passed(workload.num_images, lambda: None)


train_numpy = functools.partial(_train, _numpy)
train_torch = functools.partial(_train, _torch)
train_tensorflow = functools.partial(_train, _tensorflow)
likelihood_numpy = functools.partial(_likelihood, _numpy)
likelihood_torch = functools.partial(_likelihood, _torch)
likelihood_tensorflow = functools.partial(_likelihood, _tensorflow)
