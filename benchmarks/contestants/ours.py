"""This project, by its public interface."""

from __future__ import annotations

import dataclasses
import os
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from benchmarks.contestants.keras_gate import GateCallback
from benchmarks.gate import Gate
from benchmarks.workload import (
    CONV_LATENT_DIM,
    CONV_WIDTHS,
    DIGIT,
    LEARNING_RATE,
    NUM_CONV_SAMPLES,
    NUM_SAMPLES,
    Weights,
    Workload,
)
from vae_keras import VAE, ConvDecoder, ConvEncoder, evaluation
from vae_keras.data import own_images, pipelines

_FOR_EVER = np.iinfo(np.int32).max


def fit(workload: Workload, gate: Gate) -> None:
    """`VAE.fit` on arrays."""
    _fit(_compiled(workload), workload, gate)


def fit_conv(workload: Workload, gate: Gate) -> None:
    """`VAE.fit` with the convolutional networks."""
    _fit_conv(conv_vae(), workload, gate)


def fit_conv_bfloat16(workload: Workload, gate: Gate) -> None:
    """`VAE.fit` with the convolutional networks in bfloat16."""
    _fit_conv(conv_vae("mixed_bfloat16"), workload, gate)


def _fit_conv(vae: VAE, workload: Workload, gate: Gate, images: Any = None) -> None:
    vae.set_weights(workload.weights())
    vae.compile(keras.optimizers.Adam(LEARNING_RATE))
    _fit(vae, workload, gate, images)


def fit_photographs(workload: Workload, gate: Gate) -> None:
    """`VAE.fit` on a folder of image files, which are decoded once into the cache on the disk."""
    os.environ["XDG_CACHE_HOME"] = str(workload.folder)
    own_images.IN_MEMORY = 0  # so few images would be decoded into memory
    images = own_images.open_images(workload.folder / "tiles", say=lambda _: None).images.x_train
    _fit_conv(conv_vae(shape=workload.shape, binarization="none"), workload, gate, images)


def fit_photographs_without_pipeline(workload: Workload, gate: Gate) -> None:
    """The same fed with one and the same batch: no reading, no shuffling."""
    pipeline = pipelines.batches

    # Two batches of this size would be too large for one call, so `fit` reads single batches.
    def frozen(*arguments: Any, **options: Any) -> tf.data.Dataset:
        dataset = pipeline(*arguments, **options)
        return _first_of(dataset).repeat(dataset.cardinality())

    pipelines.batches = frozen
    fit_photographs(workload, gate)


def conv_vae(precision: str = "float32", shape: tuple[int, int, int] = DIGIT, **more: Any) -> VAE:
    """The networks of the convolutional cases, with our initial weights."""
    given = {"blocks_per_stage": 1, "activation": "elu", "dtype": precision}
    vae = VAE(
        ConvEncoder(CONV_LATENT_DIM, CONV_WIDTHS, **given),
        ConvDecoder(shape, CONV_WIDTHS, **given),
        **more,
    )
    vae.build((None, *shape))
    return vae


def fit_with_defaults(workload: Workload, gate: Gate) -> None:
    """`vae.compile(); vae.fit(x)` as a user types it, batch size and progress bar included."""
    vae, images = _vae(workload.weights()), _images(workload)
    vae.compile()
    vae.fit(images, epochs=_FOR_EVER, callbacks=[_passes(gate, vae, images)])


def fit_as_train_py(workload: Workload, gate: Gate) -> None:
    """The training stage of `train.py` itself, with all its callbacks; no images held out."""
    from vae_keras.data import datasets
    from vae_keras.training import TrainConfig, cluster, run
    from vae_keras.training.plan import make_plan
    from vae_keras.training.signals import Signals
    from vae_keras.zoo import presets

    vae, images = _compiled(workload), _images(workload)
    vae.optimizer.build(vae.trainable_variables)
    recipe = dataclasses.replace(
        presets.load_recipe("mlp_mnist"),
        batch_size=workload.batch_size,
        epochs=_FOR_EVER,
        validation=0,
    )
    dataset = datasets.DataSet("mnist", datasets.Images(images, None, images[:1], None), "")
    fit, passes = vae.fit, _passes(gate, vae, images)
    vae.fit = lambda *arguments, callbacks, **options: fit(
        *arguments, callbacks=[*callbacks, passes], **options
    )
    plan = make_plan(TrainConfig(), recipe, dataset)
    run.fit(vae, plan, workload.folder / "run", Signals(), cluster.join("none"))


def fit_without_pipeline(workload: Workload, gate: Gate) -> None:
    """`VAE.fit` fed with one and the same stack of batches: no shuffling, no gathering."""
    pipeline = pipelines.stacks

    def frozen(*arguments: Any, **options: Any) -> tf.data.Dataset:
        return _first_of(pipeline(*arguments, **options)).repeat()

    pipelines.stacks = frozen
    _fit(_compiled(workload), workload, gate)


def likelihood(workload: Workload, gate: Gate) -> None:
    """`evaluation.estimate_log_likelihood`."""
    _likelihood(_vae(workload.weights()), NUM_SAMPLES, workload, gate)


def likelihood_conv(workload: Workload, gate: Gate) -> None:
    """`evaluation.estimate_log_likelihood` with the convolutional networks."""
    vae = conv_vae()
    vae.set_weights(workload.weights())
    _likelihood(vae, NUM_CONV_SAMPLES, workload, gate)


def _likelihood(vae: VAE, num_samples: int, workload: Workload, gate: Gate) -> None:
    images = workload.test_images().reshape(-1, 28, 28, 1)
    gate.ready()
    while True:
        result = evaluation.estimate_log_likelihood(vae, images, num_samples, verbose=False)
        gate.passed(len(images), lambda held=result: held.estimate.per_example)


def _vae(weights: Weights) -> VAE:
    vae = VAE()
    vae.set_weights(weights)
    return vae


def _compiled(workload: Workload) -> VAE:
    vae = _vae(workload.weights())
    vae.compile(keras.optimizers.Adam(LEARNING_RATE))
    return vae


def _images(workload: Workload) -> np.ndarray:
    return workload.train_images().reshape(-1, 28, 28, 1)


def _first_of(dataset: tf.data.Dataset) -> tf.data.Dataset:
    """The first element of a pipeline, with its options: the tuner may delay an epoch's end."""
    return tf.data.Dataset.from_tensors(next(iter(dataset))).with_options(dataset.options())


def _passes(gate: Gate, vae: VAE, images: np.ndarray) -> GateCallback:
    return GateCallback(gate, len(images), vae.get_weights)


def _fit(vae: VAE, workload: Workload, gate: Gate, images: Any = None) -> None:
    images = _images(workload) if images is None else images
    vae.fit(
        images,
        batch_size=workload.batch_size,
        epochs=_FOR_EVER,
        verbose=0,
        callbacks=[_passes(gate, vae, images)],
    )
