"""This project, by its public interface."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from benchmarks.contestants.keras_gate import GateCallback
from benchmarks.gate import Gate
from benchmarks.workload import LEARNING_RATE, NUM_SAMPLES, Weights, Workload
from vae_keras import VAE, callbacks, checkpoints, data, evaluation


def fit(workload: Workload, gate: Gate) -> None:
    """`VAE.fit` on arrays."""
    _fit(workload, gate)


def fit_with_defaults(workload: Workload, gate: Gate) -> None:
    """`vae.compile(); vae.fit(x)` as a user types it, progress bar and all."""
    vae = _vae(workload.weights())
    vae.compile()
    _fit_compiled(vae, workload, gate, [], verbose="auto")


def fit_as_train_py(workload: Workload, gate: Gate) -> None:
    """`VAE.fit` with what `train.py` does at the end of an epoch: its line, CSV and checkpoint."""
    writer = callbacks.ELBOWriter(workload.folder / "elbo.csv")
    keeper = checkpoints.Checkpointer(workload.folder / "checkpoints", rows=lambda: writer.rows)
    _fit(workload, gate, [writer, keeper], verbose="auto")


def fit_without_pipeline(workload: Workload, gate: Gate) -> None:
    """`VAE.fit` fed with one and the same stack of batches: no shuffling, no gathering."""
    pipeline = data.stacks

    def frozen(*arguments: Any, **options: Any) -> tf.data.Dataset:
        first = next(iter(pipeline(*arguments, **options)))
        return tf.data.Dataset.from_tensors(first).repeat()

    data.stacks = frozen
    _fit(workload, gate)


def likelihood(workload: Workload, gate: Gate) -> None:
    """`evaluation.estimate_log_likelihood`."""
    vae = _vae(workload.weights())
    images = workload.test_images().reshape(-1, 28, 28, 1)
    gate.ready()
    while True:
        result = evaluation.estimate_log_likelihood(vae, images, NUM_SAMPLES, verbose=False)
        gate.passed(len(images), lambda held=result: held.estimate.per_example)


def _vae(weights: Weights) -> VAE:
    vae = VAE()
    vae.set_weights(weights)
    return vae


def _fit(
    workload: Workload,
    gate: Gate,
    epoch_end: list[keras.callbacks.Callback] | None = None,
    verbose: str | int = 0,
) -> None:
    vae = _vae(workload.weights())
    vae.compile(keras.optimizers.Adam(LEARNING_RATE))
    _fit_compiled(vae, workload, gate, epoch_end or [], verbose)


def _fit_compiled(
    vae: VAE,
    workload: Workload,
    gate: Gate,
    epoch_end: list[keras.callbacks.Callback],
    verbose: str | int,
) -> None:
    images = workload.train_images().reshape(-1, 28, 28, 1)
    passes = GateCallback(gate, len(images), vae.get_weights)
    vae.fit(
        images,
        batch_size=workload.batch_size,
        epochs=np.iinfo(np.int32).max,
        verbose=verbose,
        callbacks=[*epoch_end, passes],
    )
