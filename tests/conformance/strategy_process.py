"""Trains without a strategy and on one and two logical devices; `test_strategy.py` starts it.

It runs in a process of its own because the CPU must be split before TensorFlow starts. Argument:
the file to write, an npz of "<case> <scope> <what>".
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
from tests.conformance import reference
from vae_keras import VAE, MLPClassifier, MLPDecoder, MLPEncoder

X, W = table.discs(45), table.some_weights(45)
HELD = table.discs(21, seed=2)
Y, HELD_Y = np.arange(45) % 3, np.arange(21) % 3
MISSING = np.where(np.arange(45) % 2, Y, -1)
ONE_BATCH_OF_0 = np.where((np.arange(45) // 8) == 1, 0.0, 1.0).astype(np.float32)


def dataset(*columns):
    data = columns if len(columns) > 1 else columns[0]
    return tf.data.Dataset.from_tensor_slices(data).batch(table.BATCH)


def _synchronized():
    layer = keras.layers.BatchNormalization(momentum=0.5, synchronized=True)
    return table.encoder(hidden=[layer]), table.decoder()


table.NETWORKS["synchronized"] = table.Network(_synchronized)


def _several():
    kinds = keras.optimizers
    if not hasattr(kinds, "MultiOptimizer"):  # Keras before 3.13
        return kinds.SGD(table.RATE)
    biases = {".*bias": kinds.SGD(table.RATE / 2)}
    return kinds.MultiOptimizer(kinds.OptimizerMap(kinds.SGD(table.RATE), biases))


table.OPTIMIZERS["several"] = _several


def build(network):
    """A model of the table, or one of three classes, with or without a classifier."""
    if network not in ("classes", "classes that miss"):
        return table.build(network)
    size = {"hidden": (16,), "seed": 5}
    return VAE(
        MLPEncoder(3, **size),
        MLPDecoder(table.IMAGE, **size),
        seed=3,
        num_classes=3,
        classifier=MLPClassifier(3, (8,)) if "miss" in network else None,
    )


# name: network, optimizer, arguments of fit
CASES = {
    "labels": (
        "classes",
        "sgd",
        lambda: {"x": X, "y": Y, "batch_size": 8, "validation_data": (HELD, HELD_Y)},
    ),
    "missing-labels": ("classes that miss", "sgd", lambda: {"x": dataset(X, MISSING)}),
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
    "synchronized": ("synchronized", "sgd", lambda: {"x": X, "batch_size": 8}),
    "synchronized-dataset": ("synchronized", "sgd", lambda: {"x": dataset(X[:40])}),
    "loss-scale": ("mlp", "loss_scale_factor", lambda: {"x": X, "batch_size": 8}),
    "dynamic-scale": ("mlp", "dynamic loss scale", lambda: {"x": X, "batch_size": 8}),
    "ema": ("mlp", "ema", lambda: {"x": X, "batch_size": 8}),
    "steps": ("mlp", "sgd", lambda: {"x": X, "batch_size": 8, "steps_per_epoch": 3, "epochs": 5}),
    "several": ("mlp", "several", lambda: {"x": X, "batch_size": 8}),
    "distributed": ("mlp", "sgd", lambda: {"x": dataset(X, np.zeros(45), W)}),
    "checkpoint-rate": ("mlp", "sgd", lambda: {"x": X, "batch_size": 8, "shuffle": False}),
    "mixed": ("mixed bfloat16", "sgd", lambda: {"x": X, "batch_size": 8}),
}
# What only several replicas refuse: network, optimizer, arguments of compile and fit, the words
REFUSED = {
    "accumulation": ("mlp", "accumulation", {}, {"x": X}, "gradient_accumulation_steps=4"),
    "uneven-epochs": (
        "mlp",
        "sgd",
        {},
        {"x": X, "batch_size": 8, "steps_per_epoch": 4},
        "must divide the number of batches, 6. Received: 4",
    ),
    "compiled-state": (
        "batch normalization",
        "sgd",
        {"jit_compile": True},
        {"x": X},
        "batch_normalization/moving_mean. Pass jit_compile='auto'",
    ),
    "batch-for-one": (
        "batch normalization",
        "sgd",
        {},
        {"x": X[:33], "batch_size": 8},
        "needs a row for each of 2 replicas",
    ),
}
FAST = ("arrays",)  # the cases of the fast suite


def one_device():
    """A strategy with one replica, which does not run on the device that TensorFlow prefers."""
    return tf.distribute.MirroredStrategy(["CPU:1"], tf.distribute.ReductionToOneDevice())


def two_devices():
    operations = tf.distribute.ReductionToOneDevice()
    return tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"], operations)


SCOPES = {"none": lambda: None, "one": one_device, "two": two_devices}


def case(name):
    """The network, the optimizer, and the arguments of compile and fit of a case."""
    if name in CASES:
        network, optimizer, arguments = CASES[name]
        return network, optimizer, {"jit_compile": False}, {"epochs": 2, **arguments()}
    network, optimizer, compiled, arguments, _ = REFUSED[name]
    return network, optimizer, {"jit_compile": False, **compiled}, {"epochs": 3, **arguments}


def refusal(name):
    """What a case of `REFUSED` says, and whether a weight has changed."""
    network, optimizer, compiled, arguments = case(name)
    with two_devices().scope():
        vae = table.build(network)
        vae.compile(table.OPTIMIZERS[optimizer](), **compiled)
    steps = 0 if name != "batch-for-one" else 4
    try:
        vae.fit(**arguments, shuffle=False, verbose=0)
    except ValueError as error:
        taken = int(keras.ops.convert_to_numpy(vae.optimizer.iterations))
        return f"{error}" if taken == steps else f"it took {taken} steps"
    return "nothing"


def as_keras(network):
    """Weights of a plain loop under the strategy: each replica normalises its own rows.

    Keras' layers run in `strategy.run` as in `keras.Model.fit`, and Keras' optimizer adds the
    gradients of the replicas.
    """
    strategy = two_devices()
    with strategy.scope():
        vae = table.build(network)
        optimizer = table.OPTIMIZERS["sgd"]()
        optimizer.build(vae.trainable_variables)
    loop = reference.Loop(vae, optimizer, table.NETWORKS[network].posterior)

    def replica(pixels, normal, total):
        with tf.GradientTape() as tape:
            objective, *_ = loop.bound(pixels, normal, True, None)
            loss = -tf.reduce_sum(objective) / total
        gradients = tape.gradient(loss, vae.trainable_variables)
        optimizer.apply_gradients(zip(gradients, vae.trainable_variables, strict=True))

    for step, batch in enumerate(reference.batches(X[:40], size=8) * 2):
        parts = loop.draws(batch, reference.TRAIN, step=step, row=0)
        shares = [
            strategy.experimental_distribute_values_from_function(
                lambda context, part=part: part[4 * context.replica_id_in_sync_group :][:4]
            )
            for part in parts
        ]
        strategy.run(replica, args=(*shares, 8.0))
    return [np.array(weight) for weight in vae.get_weights()]


def normalised_apart():
    """The product's weights after the same batches."""
    with two_devices().scope():
        vae = table.build("batch normalization")
        vae.compile(table.OPTIMIZERS["sgd"](), jit_compile=False)
    vae.fit(X[:40], batch_size=8, shuffle=False, epochs=2, verbose=0)
    return [np.array(weight) for weight in vae.get_weights()]


def main(path, names):
    if set(names) <= set(FAST):  # as in the processes of the fast suite
        tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})
    processor = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(
        processor, [tf.config.LogicalDeviceConfiguration()] * 2
    )
    found = {f"refused two {name}": refusal(name) for name in names if name in REFUSED}
    if "batch-norm" in names:
        expected, got = as_keras("batch normalization"), normalised_apart()
        for index, (a, b) in enumerate(zip(expected, got, strict=True)):
            found[f"batch-norm Keras {index}"], found[f"batch-norm two {index}"] = a, b
    for name in (name for name in names if name in CASES or name in REFUSED):
        for scope, made in SCOPES.items():
            if scope == "two" and name in REFUSED:
                continue
            network, optimizer, compiled, arguments = case(name)
            recorder = table.Recorder()
            key = f"{name} {scope}"
            try:
                strategy = made()
                with contextlib.nullcontext() if strategy is None else strategy.scope():
                    vae = build(network)
                    vae.compile(table.OPTIMIZERS[optimizer](), **compiled)
                measured = vae.paired(HELD, HELD_Y)
                start = np.concatenate([w.ravel() for w in vae.get_weights()])
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    if name == "distributed" and strategy is not None:
                        arguments["x"] = strategy.experimental_distribute_dataset(arguments["x"])
                    history = vae.fit(**arguments, callbacks=[recorder], verbose=0)
                found[f"{key} evaluate"] = vae.evaluate(measured, batch_size=8, verbose=0)
                found[f"{key} predict"] = vae.predict(measured, verbose=0)
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
    main(sys.argv[1], sys.argv[2:])
