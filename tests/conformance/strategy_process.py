"""Trains on one device and on two logical ones; `test_strategy.py` starts it.

It runs in a process of its own because the CPU must be split before TensorFlow starts. Argument:
the file to write, an npz of "<case> <replicas> <what>".
"""

import os
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import contextlib
import warnings

import keras
import numpy as np
import tensorflow as tf

from tests.conformance import configurations as table

X, W = table.discs(45), table.some_weights(45)
HELD = table.discs(21, seed=2)
ONE_BATCH_OF_0 = np.where((np.arange(45) // 8) == 1, 0.0, 1.0).astype(np.float32)


def dataset(*columns):
    data = columns if len(columns) > 1 else columns[0]
    return tf.data.Dataset.from_tensor_slices(data).batch(table.BATCH)


# name: network, optimizer, arguments of fit
CASES = {
    "arrays": ("mlp", "sgd", lambda: {"x": X, "batch_size": 8, "validation_data": HELD}),
    "weighted": (
        "mlp",
        "global_clipnorm",
        lambda: {"x": X, "y": np.zeros(45), "sample_weight": W, "batch_size": 8},
    ),
    "no-weight": (
        "mlp",
        "sgd",
        lambda: {"x": X, "sample_weight": ONE_BATCH_OF_0, "batch_size": 8, "shuffle": False},
    ),
    "no-weight-dataset": (
        "mlp",
        "sgd",
        lambda: {"x": dataset(X, np.zeros(45), ONE_BATCH_OF_0)},
    ),
    "dataset": (
        "mlp",
        "adam",
        lambda: {"x": dataset(X, np.zeros(45), W), "validation_data": dataset(HELD)},
    ),
    "regularized": ("regularized", "sgd", lambda: {"x": X, "batch_size": 8}),
    "add_loss": ("add_loss", "sgd", lambda: {"x": X, "batch_size": 9}),
    "frozen": ("frozen encoder", "sgd", lambda: {"x": X, "batch_size": 8}),
    "two-outputs": ("two outputs", "weight decay", lambda: {"x": X, "batch_size": 8}),
    "accumulation": ("mlp", "accumulation", lambda: {"x": X, "batch_size": 8}),
    "loss-scale": ("mlp", "loss_scale_factor", lambda: {"x": X, "batch_size": 8}),
    "dynamic-scale": ("mlp", "dynamic loss scale", lambda: {"x": X, "batch_size": 8}),
    "ema": ("mlp", "ema", lambda: {"x": X, "batch_size": 8}),
    "steps": ("mlp", "sgd", lambda: {"x": X, "batch_size": 8, "steps_per_epoch": 3}),
    "checkpoint-rate": ("mlp", "sgd", lambda: {"x": X, "batch_size": 8, "shuffle": False}),
    "mixed": ("mixed bfloat16", "sgd", lambda: {"x": X, "batch_size": 8}),
}


def main(path, names):
    processor = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(
        processor, [tf.config.LogicalDeviceConfiguration()] * 2
    )
    found = {}
    for name in names:
        network, optimizer, arguments = CASES[name]
        for replicas in (1, 2):
            recorder = table.Recorder()
            devices = ["CPU:0", "CPU:1"]
            operations = tf.distribute.ReductionToOneDevice()
            scope = (
                tf.distribute.MirroredStrategy(devices, operations).scope()
                if replicas == 2
                else contextlib.nullcontext()
            )
            key = f"{name} {replicas}"
            try:
                with scope:
                    vae = table.build(network)
                    vae.compile(table.OPTIMIZERS[optimizer](), jit_compile=False)
                start = np.concatenate([w.ravel() for w in vae.get_weights()])
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    history = vae.fit(**arguments(), epochs=2, callbacks=[recorder], verbose=0)
                found[f"{key} evaluate"] = vae.evaluate(HELD, batch_size=8, verbose=0)
                found[f"{key} predict"] = vae.predict(HELD, verbose=0)
                found[f"{key} start"] = start
                found[f"{key} weights"] = np.concatenate([w.ravel() for w in vae.get_weights()])
                found[f"{key} steps"] = keras.ops.convert_to_numpy(vae.optimizer.iterations)
                found[f"{key} calls"] = np.array([repr(call) for call in recorder.calls])
                for log, values in history.history.items():
                    found[f"{key} {log}"] = values
            except Exception as error:
                found[f"{key} error"] = np.array(f"{type(error).__name__}: {error}")
    np.savez(path, **{name: np.asarray(value) for name, value in found.items()})


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:] or list(CASES))
