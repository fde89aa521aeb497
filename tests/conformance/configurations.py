"""The table of the conformance suite: ways in, networks, callbacks, optimizers.

Somebody who adds a configuration adds one entry to one of the dictionaries below. `pairs` then
puts it beside every value of every other dimension, and `test_fit.py` compares each of these rows
with the plain loop of `reference.py`. Nothing else has to be written. An entry that the contract
cannot hold for is an entry of `FORBIDDEN`, with the reason.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from tests.conformance import reference
from vae_keras import ELBO, VAE

L = keras.layers
IMAGE, LATENTS, BATCH, EPOCHS = (12, 12, 1), 3, 8, 2

# ------------------------------------------------------------------------------------- data


def discs(rows: int, seed: int = 0) -> np.ndarray:
    """Grey images uint8 [rows, 12, 12, 1] of a bright disc each."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:12, :12]
    centre_y, centre_x = rng.uniform(2, 10, (2, rows, 1, 1))
    radius = rng.uniform(1.5, 4, (rows, 1, 1))
    level = np.clip(radius + 0.5 - np.hypot(y - centre_y, x - centre_x), 0, 1)
    return np.rint(255 * level[..., None]).astype(np.uint8)


def unit(images: np.ndarray) -> np.ndarray:
    """The same images as float32 in [0, 1]."""
    return (images / 255.0).astype(np.float32)


def some_weights(rows: int, seed: int = 1) -> np.ndarray:
    """Weights from 0 to 2; every seventh one is 0."""
    weights = np.random.default_rng(seed).uniform(0.2, 2.0, rows).astype(np.float32)
    weights[::7] = 0.0
    return weights


# --------------------------------------------------------------------------------- networks


@keras.saving.register_keras_serializable(package="conformance")
class WithoutXla(L.Layer):
    """Makes bright areas grow, with an operation that XLA has no kernel for."""

    def call(self, images):
        flat = tf.zeros((3, 3, images.shape[-1]), images.dtype)
        return tf.nn.dilation2d(images, flat, [1, 1, 1, 1], "SAME", "NHWC", [1, 1, 1, 1])

    def compute_output_shape(self, shape):
        return shape


@keras.saving.register_keras_serializable(package="conformance")
class OwnLoss(L.Layer):
    """Adds the mean square of its input to the loss."""

    def call(self, h):
        self.add_loss(2.0 * tf.reduce_mean(tf.square(h)))
        return h

    def compute_output_shape(self, shape):
        return shape


@keras.saving.register_keras_serializable(package="conformance")
class MixesRows(L.Layer):
    """Subtracts the mean over the batch, and keeps no state."""

    def call(self, h):
        return h - tf.reduce_mean(h, axis=0, keepdims=True)

    def compute_output_shape(self, shape):
        return shape


def encoder(*before: Any, hidden: Sequence[Any] = (), **dense: Any) -> keras.Sequential:
    first = L.Dense(8, "tanh", **dense)
    return keras.Sequential(
        [keras.Input(IMAGE), *before, L.Flatten(), first, *hidden, L.Dense(2 * LATENTS)]
    )


def decoder(**dense: Any) -> keras.Sequential:
    return keras.Sequential(
        [keras.Input((LATENTS,)), L.Dense(8, "tanh", **dense), L.Dense(144), L.Reshape(IMAGE)]
    )


def two_outputs() -> keras.Model:
    """The encoder of the tutorials: [loc, log-variance]."""
    image = keras.Input(IMAGE)
    h = L.Dense(8, "tanh")(L.Flatten()(image))
    return keras.Model(image, [L.Dense(LATENTS)(h), L.Dense(LATENTS)(h)])


def _frozen() -> keras.Sequential:
    model = encoder(hidden=[L.BatchNormalization()])
    model.trainable = False
    return model


def _regularized() -> tuple[keras.Sequential, keras.Sequential]:
    kernel = keras.regularizers.L2(0.3)
    activity = keras.regularizers.L2(0.1)
    return (
        encoder(kernel_regularizer=kernel, activity_regularizer=activity),
        decoder(kernel_regularizer=kernel),
    )


class Network(NamedTuple):
    """How to build the parts, and what the plain loop must know of them.

    Attributes:
        parts: makes the encoder and the decoder.
        arguments: further arguments of `VAE`.
        policy: Keras' global dtype policy. Default "float32".
        posterior: reads the encoder's output in the plain loop.
        tolerance: largest error of a weight, as a part of how far the weights moved.
    """

    parts: Callable[[], tuple[Any, Any]]
    arguments: Mapping[str, Any] = MappingProxyType({})
    policy: str = "float32"
    posterior: Callable[[Any], Any] = reference.raw_scale_posterior
    tolerance: float = 1e-4


NETWORKS = {
    "mlp": Network(lambda: (encoder(), decoder())),
    "batch normalization": Network(
        lambda: (encoder(hidden=[L.BatchNormalization(momentum=0.5)]), decoder()), tolerance=1e-3
    ),
    "dropout": Network(lambda: (encoder(hidden=[L.Dropout(0.4, seed=3)]), decoder())),
    "regularized": Network(_regularized),
    "frozen encoder": Network(lambda: (_frozen(), decoder())),
    "two outputs": Network(
        lambda: (two_outputs(), decoder()),
        arguments={"scale_parameter": "log_variance"},
        posterior=reference.log_variance_posterior,
    ),
    "random flip": Network(lambda: (encoder(L.RandomFlip(seed=4)), decoder())),
    "random rotation": Network(lambda: (encoder(L.RandomRotation(0.2, seed=5)), decoder())),
    "mixed float16": Network(
        lambda: (encoder(), decoder()), policy="mixed_float16", tolerance=3e-2
    ),
    "mixed bfloat16": Network(
        lambda: (encoder(), decoder()), policy="mixed_bfloat16", tolerance=1e-1
    ),
    "without XLA": Network(lambda: (encoder(WithoutXla()), decoder())),
    "add_loss": Network(lambda: (encoder(hidden=[OwnLoss()]), decoder())),
    "mixes rows": Network(lambda: (encoder(hidden=[MixesRows()]), decoder())),
}


def build(network: str, seed: int = 5, **arguments: Any) -> VAE:
    """Makes a model that is not compiled; two of one network and seed have the same weights."""
    keras.utils.set_random_seed(seed)
    keras.config.set_dtype_policy(NETWORKS[network].policy)
    try:
        return VAE(*NETWORKS[network].parts(), **(dict(NETWORKS[network].arguments) | arguments))
    finally:
        keras.config.set_dtype_policy("float32")


# ------------------------------------------------------------------------------- optimizers

RATE = 1e-3
OPTIMIZERS: dict[str, Callable[[], keras.optimizers.Optimizer]] = {
    "sgd": lambda: keras.optimizers.SGD(RATE),
    # A large epsilon: the step of a gradient near 0 must not hang on its rounding.
    "adam": lambda: keras.optimizers.Adam(RATE, epsilon=1e-2),
    "ema": lambda: keras.optimizers.SGD(RATE, use_ema=True, ema_momentum=0.7),
    "ema overwrites": lambda: keras.optimizers.SGD(
        RATE, use_ema=True, ema_momentum=0.7, ema_overwrite_frequency=3
    ),
    "accumulation": lambda: keras.optimizers.SGD(RATE, gradient_accumulation_steps=4),
    "dynamic loss scale": lambda: keras.optimizers.LossScaleOptimizer(
        keras.optimizers.SGD(RATE), initial_scale=64.0, dynamic_growth_steps=3
    ),
    "loss_scale_factor": lambda: keras.optimizers.SGD(RATE, loss_scale_factor=32.0),
    "clipnorm": lambda: keras.optimizers.SGD(RATE, clipnorm=0.5),
    "global_clipnorm": lambda: keras.optimizers.SGD(RATE, global_clipnorm=0.5),
    "weight decay": lambda: keras.optimizers.SGD(RATE, weight_decay=5.0),
    "schedule": lambda: keras.optimizers.SGD(
        keras.optimizers.schedules.ExponentialDecay(RATE, 1, 0.8)
    ),
}


def reference_optimizer(optimizer: str, network: str) -> keras.optimizers.Optimizer:
    """The optimizer as Keras' `compile` takes it: scaled under the policy mixed_float16."""
    made = OPTIMIZERS[optimizer]()
    scales = isinstance(made, keras.optimizers.LossScaleOptimizer)
    if NETWORKS[network].policy == "mixed_float16" and not scales:
        return keras.optimizers.LossScaleOptimizer(made)
    return made


# --------------------------------------------------------------------------------- callbacks


class Recorder(keras.callbacks.Callback):
    """Writes down every call of every hook, and the running logs of each batch."""

    def __init__(self):
        super().__init__()
        self.calls: list[tuple[str, Any]] = []
        self.running: list[dict[str, float]] = []

    def on_train_begin(self, logs=None):
        self.calls.append(("train begins", None))

    def on_train_end(self, logs=None):
        self.calls.append(("train ends", None))

    def on_epoch_begin(self, epoch, logs=None):
        self.calls.append(("epoch begins", epoch))

    def on_epoch_end(self, epoch, logs=None):
        self.calls.append(("epoch ends", (epoch, sorted(logs))))

    def on_train_batch_begin(self, batch, logs=None):
        self.calls.append(("batch begins", batch))

    def on_train_batch_end(self, batch, logs=None):
        self.calls.append(("batch ends", batch))
        self.running.append(dict(logs))

    def on_test_begin(self, logs=None):
        self.calls.append(("test begins", None))

    def on_test_end(self, logs=None):
        self.calls.append(("test ends", None))

    def on_test_batch_begin(self, batch, logs=None):
        self.calls.append(("test batch begins", batch))

    def on_test_batch_end(self, batch, logs=None):
        self.calls.append(("test batch ends", batch))
        self.running.append(dict(logs))


class StopsAt(keras.callbacks.Callback):
    """Stops training at the end of a batch."""

    def __init__(self, batch: int):
        super().__init__()
        self.batch = batch

    def on_train_batch_end(self, batch, logs=None):
        if batch >= self.batch:
            self.model.stop_training = True


class RaisesTheRate(keras.callbacks.Callback):
    """Warms the learning rate up, one batch after the other."""

    def on_train_batch_begin(self, batch, logs=None):
        optimizer = self.model.optimizer
        optimizer.learning_rate = float(optimizer.learning_rate) * 1.1


def _checkpoint(folder: Path) -> keras.callbacks.Callback:
    return keras.callbacks.ModelCheckpoint(
        f"{folder}/{{epoch}}-{{batch}}.weights.h5", save_weights_only=True, save_freq=4
    )


CALLBACKS: dict[str, Callable[[Path], list[keras.callbacks.Callback]]] = {
    "none": lambda _: [],
    "recorder": lambda _: [Recorder()],
    "checkpoint every 4 batches": lambda folder: [_checkpoint(folder)],
    "stops at batch 5": lambda _: [StopsAt(4)],
    "rate of the epoch": lambda _: [
        keras.callbacks.LearningRateScheduler(lambda epoch: RATE * (1.0, 0.3)[epoch])
    ],
    "rate of the batch": lambda _: [RaisesTheRate()],
    "early stopping": lambda _: [
        # Training moves the ELBO by more than this in no epoch: the second one is the last.
        keras.callbacks.EarlyStopping("val_elbo", min_delta=1e3, patience=1, mode="max")
    ],
}
VALIDATED = ("early stopping", "recorder")  # rows with these callbacks have validation data

# --------------------------------------------------------------------------------- ways in


class Batches(keras.utils.PyDataset):
    """A sequence of (images, labels, weights), in the order of the data."""

    def __init__(self, images, weights, size=BATCH, **more):
        super().__init__(**more)
        self.images, self.weights, self.size = images, weights, size

    def __len__(self):
        return -(-len(self.images) // self.size)

    def __getitem__(self, index):
        rows = slice(index * self.size, (index + 1) * self.size)
        return self.images[rows], np.zeros(len(self.images[rows])), self.weights[rows]


def generator(images: np.ndarray, size: int = BATCH, epochs: int = EPOCHS):
    """Yields the batches of several epochs, as tuples, which Keras asks for."""
    for _ in range(epochs):
        for start in range(0, len(images), size):
            yield (images[start : start + size],)


class Way(NamedTuple):
    """How a model is given its batches.

    Attributes:
        arguments: images and weights to the arguments of `fit`.
        prepare: what the images are before they go in: uint8, or float32 in [0, 1].
        weighted: whether the weights go in.
        shuffled: whether the rows go in in the documented order of (seed, epoch).
    """

    arguments: Callable[[np.ndarray, np.ndarray], dict[str, Any]]
    prepare: Callable[[np.ndarray], np.ndarray] = lambda images: images
    weighted: bool = False
    shuffled: bool = False


def _dataset(*columns: np.ndarray) -> tf.data.Dataset:
    data = columns if len(columns) > 1 else columns[0]
    return tf.data.Dataset.from_tensor_slices(data).batch(BATCH)


WAYS = {
    "arrays": Way(lambda x, w: {"x": x, "batch_size": BATCH}, shuffled=True),
    "(x, y) arrays with weights": Way(
        lambda x, w: {
            "x": x,
            "y": np.zeros(len(x)),
            "sample_weight": w,
            "batch_size": BATCH,
            "shuffle": False,
        },
        prepare=unit,
        weighted=True,
    ),
    "dataset of x": Way(lambda x, w: {"x": _dataset(x)}, prepare=unit),
    "dataset of (x, y)": Way(lambda x, w: {"x": _dataset(x, np.zeros(len(x)))}),
    "dataset of (x, y, w)": Way(
        lambda x, w: {"x": _dataset(x, np.zeros(len(x)), w)}, weighted=True
    ),
    "PyDataset": Way(lambda x, w: {"x": Batches(x, w), "shuffle": False}, weighted=True),
    "generator": Way(
        lambda x, w: {"x": generator(x), "steps_per_epoch": -(-len(x) // BATCH)}, prepare=unit
    ),
    "train_on_batch": Way(lambda x, w: {}, weighted=True),  # `test_fit.run` calls it
}

# ------------------------------------------------------------------------------------ pairs

OBJECTIVES = {"elbo": lambda: ELBO(), "warm-up": lambda: ELBO(beta=2.0, warmup_steps=5)}

DIMENSIONS: dict[str, Sequence[Any]] = {
    "network": tuple(NETWORKS),
    "optimizer": tuple(OPTIMIZERS),
    "way": tuple(WAYS),
    "callbacks": tuple(CALLBACKS),
    "objective": tuple(OBJECTIVES),
    "rows": (6 * BATCH, 6 * BATCH - 3),  # the last batch is full, or holds 5 rows
    "jit_compile": (False, "auto"),
}

FORBIDDEN = {
    # train_on_batch takes no callbacks.
    ("way", "train_on_batch"): {"callbacks": ("none",)},
    # A callback cannot set the rate of an optimizer whose rate is a schedule.
    ("optimizer", "schedule"): {
        "callbacks": tuple(
            name for name in CALLBACKS if name not in ("rate of the epoch", "rate of the batch")
        )
    },
}


class Row(NamedTuple):
    """One configuration, a value of each dimension."""

    network: str
    optimizer: str
    way: str
    callbacks: str
    objective: str
    rows: int
    jit_compile: bool | str

    def __str__(self) -> str:
        return " - ".join(str(value) for value in self)


def allowed(row: dict[str, Any]) -> bool:
    """Whether a row, or a part of it, keeps to `FORBIDDEN`."""
    return all(
        row.get(name) != value or all(row.get(key, kept[0]) in kept for key, kept in rule.items())
        for (name, value), rule in FORBIDDEN.items()
    )


def pairs(dimensions: dict[str, Sequence[Any]]) -> list[Row]:
    """Makes rows such that any two values of any two dimensions meet in one of them.

    The algorithm is greedy and has no random numbers: a row starts with a pair that no row has
    had, and takes the value that meets most new partners, dimension after dimension. The first
    rows therefore hold most pairs.
    """
    names = list(dimensions)
    left = {
        frozenset(((a, value_a), (b, value_b))): None
        for a, b in itertools.combinations(names, 2)
        for value_a in dimensions[a]
        for value_b in dimensions[b]
        if allowed({a: value_a, b: value_b})
    }
    used = {(name, value): 0 for name in names for value in dimensions[name]}

    def gain(row: dict[str, Any], item: tuple[str, Any]) -> tuple[int, int]:
        return sum(frozenset((item, other)) in left for other in row.items()), -used[item]

    rows = []
    while left:
        row = dict(min(left, key=lambda pair: sum(used[item] for item in pair)))
        for name in sorted(set(names) - set(row), key=lambda name: (-len(dimensions[name]), name)):
            items = [(name, value) for value in dimensions[name] if allowed(row | {name: value})]
            gains = [gain(row, item) for item in items]
            row[name] = items[gains.index(max(gains))][1]
        for pair in itertools.combinations(row.items(), 2):
            left.pop(frozenset(pair), None)
        for item in row.items():
            used[item] += 1
        rows.append(Row(**row))
    return rows
