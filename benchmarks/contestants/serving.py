"""Reconstruction one small batch a call: through the exported SavedModel, and in-process."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import tensorflow as tf

from benchmarks.gate import Gate
from benchmarks.workload import Workload
from vae_keras import VAE, export


def saved_model(workload: Workload, gate: Gate) -> None:
    """The signature of a SavedModel that was written and loaded again."""
    folder = export.export_saved_model(_vae(workload), workload.folder / "serving")
    reconstruct = tf.saved_model.load(str(folder)).signatures["reconstruct"]
    _call(lambda images: reconstruct(images=images)["reconstructions"], workload, gate)


def in_process(workload: Workload, gate: Gate) -> None:
    """The same graph as a `tf.function` of the model in memory."""
    spec = tf.TensorSpec([None, 28, 28, 1])
    vae = _vae(workload)
    _call(tf.function(vae.call, autograph=False).get_concrete_function(spec), workload, gate)


def _vae(workload: Workload) -> VAE:
    vae = VAE()
    vae.set_weights(workload.weights())
    return vae


def _call(reconstruct: Callable[[tf.Tensor], tf.Tensor], workload: Workload, gate: Gate) -> None:
    images = workload.train_images()[: workload.batch_size].astype(np.float32) / 255.0
    images = tf.constant(images.reshape(-1, 28, 28, 1))
    gate.ready()
    while True:
        for _ in range(workload.num_images // workload.batch_size):
            result = reconstruct(images).numpy()
        gate.passed(workload.num_images, lambda held=result: held)
