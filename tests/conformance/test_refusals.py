"""What cannot be right ends in one sentence, before anything has changed.

Every case of the tables below is refused with a `ValueError` of fewer than 500 characters that
holds the words named. No weight, no optimizer step and no metric may differ afterwards. Somebody
who adds a way in, or an argument, adds the values that it must refuse.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

from tests.conformance import configurations as table
from tests.conftest import covering
from vae_keras import (
    ELBO,
    IWAE,
    VAE,
    Bernoulli,
    DiscretizedLogisticMixture,
    MLPDecoder,
    MLPEncoder,
    priors,
)

L = keras.layers
X = table.discs(24)
UNIT = table.unit(X)
LABELS = np.zeros(24)
LONGEST = 500


def build(**arguments: Any) -> VAE:
    vae = table.build("mlp", **arguments)
    # Adam and weight decay move weights even where the gradient is 0.
    vae.compile(keras.optimizers.Adam(1e-3, weight_decay=0.1), jit_compile=False)
    return vae


class State:
    """All numbers of a model that a refused call must leave as they are."""

    def __init__(self, vae: VAE) -> None:
        variables = [*vae.variables, *vae.optimizer.variables]
        self.numbers = [np.array(variable) for variable in variables]
        self.metrics = {metric.name: float(metric.result()) for metric in vae.metrics}

    def assert_is(self, other: State) -> None:
        assert len(self.numbers) == len(other.numbers)
        for mine, theirs in zip(self.numbers, other.numbers, strict=True):
            np.testing.assert_array_equal(mine, theirs)
        for name, value in self.metrics.items():
            np.testing.assert_equal(other.metrics[name], value)


@pytest.fixture(scope="module")
def vae():
    """A model that has been trained: its optimizer and its metrics hold something."""
    model = build()
    model.fit(X, batch_size=8, verbose=0)
    return model


def refused(action: Callable[[], Any], *words: str, kinds: Any = ValueError) -> str:
    """Returns the sentence that the action ends in."""
    with pytest.raises(kinds) as caught:
        action()
    said = str(caught.value)
    assert len(said) < LONGEST, said
    assert "\n" not in said.strip(), said
    for word in words:
        assert word.lower() in said.lower(), f"{word!r} is not in: {said}"
    return said


def dataset(*columns: Any, size: int = 8) -> tf.data.Dataset:
    return tf.data.Dataset.from_tensor_slices(columns if len(columns) > 1 else columns[0]).batch(
        size
    )


def with_pixel(value: float, row: int = 0) -> np.ndarray:
    images = UNIT.copy()
    images[row, 3, 3, 0] = value
    return images


# ------------------------------------------------------------------------------- images

BAD_IMAGES = {
    "above 1": (with_pixel(1.5), ("[0, 1]",)),
    "below 0": (with_pixel(-0.5), ("[0, 1]",)),
    "NaN": (with_pixel(np.nan), ("finite",)),
    "infinite": (with_pixel(np.inf), ("finite",)),
    "another size": (table.unit(np.zeros((24, 10, 12, 1))), ("12, 12, 1",)),
    "another number of channels": (np.zeros((24, 12, 12, 3), np.float32), ("12, 12, 1",)),
    "channels first": (np.zeros((24, 1, 12, 12), np.float32), ("channel",)),
    "flat rows": (np.zeros((24, 144), np.float32), ("[N, H, W",)),
}
CALLS = {
    "fit array": lambda vae, x: vae.fit(x, verbose=0),
    "fit dataset": lambda vae, x: vae.fit(dataset(x, size=24), verbose=0),
    "fit generator": lambda vae, x: vae.fit(iter_of(x), verbose=0),
    "fit PyDataset": lambda vae, x: vae.fit(table.Batches(x, np.ones(24), 24), verbose=0),
    "validation array": lambda vae, x: vae.fit(X, validation_data=x, epochs=1, verbose=0),
    "evaluate array": lambda vae, x: vae.evaluate(x, verbose=0),
    "evaluate dataset": lambda vae, x: vae.evaluate(dataset(x, size=24), verbose=0),
    "predict array": lambda vae, x: vae.predict(x, verbose=0),
    "predict dataset": lambda vae, x: vae.predict(dataset(x, size=24), verbose=0),
    "train_on_batch": lambda vae, x: vae.train_on_batch(x),
    "test_on_batch": lambda vae, x: vae.test_on_batch(x),
    "predict_on_batch": lambda vae, x: vae.predict_on_batch(x),
}
RESETS = ("generator", "dataset", "PyDataset")  # Keras resets the metrics when the pass begins


def iter_of(*columns: Any):
    """A Python generator of one batch."""
    yield tuple(columns)


@pytest.mark.parametrize(("case", "call"), covering(BAD_IMAGES, CALLS))
def test_images_that_cannot_be_right(vae, call, case):
    x, words = BAD_IMAGES[case]
    if any(way in call for way in ("dataset", "generator", "PyDataset")):
        words = tuple(word for word in words if word not in ("channel", "finite"))
    before = State(vae)
    refused(lambda: CALLS[call](vae, x), *words)
    after = State(vae)
    if any(way in call for way in RESETS):
        after.metrics = before.metrics = {}
    before.assert_is(after)


def test_a_bad_image_in_a_later_batch_keeps_what_was_trained_before(vae):
    """The batches before the bad one are trained; the bad one changes nothing."""
    steps = int(vae.optimizer.iterations)
    refused(lambda: vae.fit(dataset(with_pixel(7.0, row=20)), verbose=0), "[0, 1]")
    assert int(vae.optimizer.iterations) == steps + 2
    after = State(vae)
    refused(lambda: vae.fit(dataset(with_pixel(7.0, row=3)), verbose=0), "[0, 1]")
    changed = State(vae)
    changed.metrics = after.metrics = {}
    after.assert_is(changed)


BAD_INPUTS = {
    "a dictionary": ({"image": X, "label": LABELS}, ()),
    "a list of arrays": ([X, X], ()),
    "images and labels in a list": ([X, LABELS], ()),
    "text": (np.array([["a"] * 12] * 12), ()),
    "nothing": (None, ()),
    "no image": (X[:0], ("at least one",)),
    "objects of unequal size": ([np.zeros((3, 3)), np.zeros((4, 4))], ()),
}


TAKE_ARRAYS = ("fit array", "evaluate array", "predict array", "train_on_batch")


@pytest.mark.parametrize(("case", "call"), covering(BAD_INPUTS, TAKE_ARRAYS))
def test_inputs_that_are_no_images(vae, call, case):
    x, words = BAD_INPUTS[case]
    before = State(vae)
    refused(lambda: CALLS[call](vae, x), *words)
    before.assert_is(State(vae))


BAD_DATASETS = {
    "a dictionary": (lambda: dataset({"image": X, "label": LABELS}), ("yield",)),
    "((dict), y)": (
        lambda: tf.data.Dataset.from_tensor_slices(({"image": X}, LABELS)).batch(8),
        ("yield",),
    ),
    "((images, labels), y)": (
        lambda: tf.data.Dataset.from_tensor_slices(((X, LABELS), LABELS)).batch(8),
        ("yield",),
    ),
    "four columns": (lambda: dataset(X, LABELS, LABELS, LABELS), ()),
    "not batched": (lambda: tf.data.Dataset.from_tensor_slices(X), ()),
    "no batch": (lambda: dataset(X).take(0), ("batch",)),
    "no batch after a filter": (lambda: dataset(X).filter(lambda _: False), ("batch",)),
    "endless": (lambda: dataset(X).repeat(), ("steps",)),
    "text": (lambda: dataset(np.array(["a"] * 24)), ()),
}


@pytest.mark.parametrize(
    ("case", "call"), covering(BAD_DATASETS, ["fit", "evaluate", "predict", "validation"])
)
def test_datasets_that_cannot_be_right(vae, call, case):
    make, words = BAD_DATASETS[case]
    before = State(vae)
    if call == "validation":
        # A dataset that only turns out to be empty is found after the epoch before it.
        refused(lambda: vae.fit(X, validation_data=make(), verbose=0), *words)
        return
    refused(lambda: getattr(vae, call)(make(), verbose=0), *words)
    after = State(vae)
    if case == "no batch after a filter":
        before.metrics = after.metrics = {}
    before.assert_is(after)


def call_with(vae, call, shape):
    getattr(vae, call)(unknown(shape), verbose=0)


def unknown(shape):
    def batches():
        for start in range(0, 24, 8):
            yield UNIT[start : start + 8]

    spec = tf.TensorSpec(shape, tf.float32)
    return tf.data.Dataset.from_generator(batches, output_signature=spec)


UNKNOWN = {
    "rank": None,
    "every size": (None, None, None, None),
    "channels": (None, 12, 12, None),
    "height and width": (None, None, None, 1),
}


@pytest.mark.parametrize(("what", "call"), covering(UNKNOWN, ["fit", "evaluate", "predict"]))
def test_a_dataset_of_unknown_shape_works_or_names_the_remedy(vae, call, what):
    """A built model knows the sizes. A model that is not built must be told."""
    shape = UNKNOWN[what]
    call_with(vae, call, shape)
    parts = keras.Sequential([L.Flatten(), L.Dense(6)]), table.decoder()
    fresh = VAE(*parts)
    if not fresh.built:
        fresh.compile("sgd", jit_compile=False)
        refused(lambda: call_with(fresh, call, shape), "ensure_shape")


class Iterable:
    """An iterable of batches that Keras does not know."""

    def __len__(self):
        return 3

    def __iter__(self):
        return iter([(UNIT[:8],)] * 3)


class TorchDataset(Iterable):
    """An iterable of torch that is not its DataLoader, which is all that Keras takes of torch."""

    __module__ = "torch.utils.data.dataset"


class Sequence(keras.utils.PyDataset):
    """A PyDataset of as many batches as it is told, None for no end."""

    def __init__(self, number: int | None) -> None:
        super().__init__()
        self.number = number

    @property
    def num_batches(self) -> int | None:
        return self.number

    def __getitem__(self, index: int) -> tuple[np.ndarray]:
        return (UNIT[:8],)


OTHER_ITERABLES = {
    "a class": Iterable,
    "an iterator": lambda: iter(Iterable()),
    "a dataset of torch": TorchDataset,
}
TAKE_BATCHES = {
    "fit": lambda vae, x: vae.fit(x, verbose=0),
    "validation": lambda vae, x: vae.fit(X, validation_data=x, verbose=0),
    "evaluate": lambda vae, x: vae.evaluate(x, verbose=0),
    "predict": lambda vae, x: vae.predict(x, verbose=0),
}


@pytest.mark.parametrize("kind", OTHER_ITERABLES)
@pytest.mark.parametrize("call", TAKE_BATCHES)
def test_iterables_that_keras_does_not_know(vae, call, kind):
    """Keras refuses them, too. Ours is known before an epoch is trained."""
    before = State(vae)
    refused(lambda: TAKE_BATCHES[call](vae, OTHER_ITERABLES[kind]()), "generator")
    before.assert_is(State(vae))


@pytest.mark.parametrize(("number", "word"), [(0, "batch"), (None, "steps")])
@pytest.mark.parametrize("call", TAKE_BATCHES)
def test_a_pydataset_without_a_batch_or_an_end(vae, call, number, word):
    before = State(vae)
    refused(lambda: TAKE_BATCHES[call](vae, Sequence(number)), word)
    before.assert_is(State(vae))


def test_floats_between_the_levels_of_a_likelihood_are_refused_everywhere():
    mixture = DiscretizedLogisticMixture(1)
    decoder = MLPDecoder(table.IMAGE, (8,), parameters_per_pixel=mixture.parameters_per_pixel(1))
    levels = VAE(MLPEncoder(3, (8,)), decoder, likelihood=mixture)
    levels.compile("sgd", jit_compile=False)
    good, between = np.round(UNIT * 255) / 255, (np.round(UNIT * 255) + 0.4) / 256
    before = levels.get_weights()
    for action in (
        lambda: levels.fit(between, verbose=0),
        lambda: levels.fit(good, validation_data=between, verbose=0),
        lambda: levels.evaluate(between, verbose=0),
        lambda: levels.evaluate(between, steps=2, verbose=0),
        lambda: levels.predict(between, verbose=0),
        lambda: levels.train_on_batch(between),
        lambda: levels.test_on_batch(between),
        lambda: levels.predict_on_batch(between),
    ):
        refused(action, "multiples of 1 / 255")
    assert np.isfinite(levels.evaluate(good, verbose=0)).all()
    for a, b in zip(before, levels.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_generators_that_cannot_be_right(vae):
    before = State(vae)
    refused(lambda: vae.fit((_ for _ in ()), verbose=0), "batch")
    refused(lambda: vae.fit(iter_of({"image": UNIT}), verbose=0))
    after = State(vae)
    before.metrics = after.metrics = {}
    before.assert_is(after)


# ------------------------------------------------------------------------------- weights

BAD_WEIGHTS = {
    "negative": np.array([-1.0] + [1.0] * 23, np.float32),
    "NaN": np.array([np.nan] + [1.0] * 23, np.float32),
    "infinite": np.array([np.inf] + [1.0] * 23, np.float32),
    "all 0": np.zeros(24, np.float32),
    "one for two": np.ones(12, np.float32),
    "one for each pixel": np.ones((24, 12, 12), np.float32),
    "two columns": np.ones((24, 2), np.float32),
    "a number": np.float32(2.0),
    "text": np.array(["a"] * 24),
}
WEIGHTED = {
    "fit": lambda vae, w: vae.fit(X, sample_weight=w, verbose=0),
    "fit (x, y, w)": lambda vae, w: vae.fit((X, LABELS, w), verbose=0),
    "evaluate": lambda vae, w: vae.evaluate(X, sample_weight=w, verbose=0),
    "validation": lambda vae, w: vae.fit(X, validation_data=(X, LABELS, w), verbose=0),
    "train_on_batch": lambda vae, w: vae.train_on_batch(X, sample_weight=w),
    "test_on_batch": lambda vae, w: vae.test_on_batch(X, sample_weight=w),
}


@pytest.mark.parametrize(("case", "call"), covering(BAD_WEIGHTS, WEIGHTED))
def test_weights_of_arrays_that_cannot_be_right(vae, call, case):
    before = State(vae)
    refused(lambda: WEIGHTED[call](vae, BAD_WEIGHTS[case]), "weight")
    before.assert_is(State(vae))


IN_BATCHES = [case for case in BAD_WEIGHTS if case not in ("one for two", "a number")]


@pytest.mark.parametrize(
    ("case", "call", "form"), covering(IN_BATCHES, ["fit", "evaluate"], ["dataset", "generator"])
)
def test_weights_in_batches_that_cannot_be_right(vae, call, form, case):
    weights = BAD_WEIGHTS[case]
    make = {
        "dataset": lambda: dataset(X, LABELS, weights, size=24),
        "generator": lambda: iter_of(X, LABELS, weights),
    }[form]
    before = State(vae)
    refused(lambda: getattr(vae, call)(make(), verbose=0), "weight")
    after = State(vae)
    before.metrics = after.metrics = {}
    before.assert_is(after)


# ----------------------------------------------------------------- arguments of the methods

ARGUMENTS = {
    "class_weight": (lambda vae: vae.fit(X, LABELS, class_weight={0: 1.0}), ("class_weight",)),
    "class_weight of a batch": (
        lambda vae: vae.train_on_batch(X, LABELS, class_weight={0: 1.0}),
        ("class_weight",),
    ),
    "epochs=0": (lambda vae: vae.fit(X, epochs=0), ("epochs",)),
    "epochs=1.5": (lambda vae: vae.fit(X, epochs=1.5), ("epochs",)),
    "batch_size=0": (lambda vae: vae.fit(X, batch_size=0), ("batch_size",)),
    "batch_size='8'": (lambda vae: vae.fit(X, batch_size="8"), ("batch_size",)),
    "steps_per_epoch=0": (lambda vae: vae.fit(X, steps_per_epoch=0), ("steps_per_epoch",)),
    "validation_steps=-1": (
        lambda vae: vae.fit(X, validation_data=X, validation_steps=-1),
        ("validation_steps",),
    ),
    "validation_batch_size=0": (
        lambda vae: vae.fit(X, validation_data=X, validation_batch_size=0),
        ("batch_size",),
    ),
    "validation_split=1.5": (lambda vae: vae.fit(X, validation_split=1.5), ("validation_split",)),
    "validation_split of a dataset": (
        lambda vae: vae.fit(dataset(X), validation_split=0.5),
        ("validation_split",),
    ),
    "batch_size of a dataset": (lambda vae: vae.fit(dataset(X), batch_size=8), ("batch_size",)),
    "sample_weight of a dataset": (
        lambda vae: vae.fit(dataset(X), sample_weight=np.ones(24)),
        ("sample_weight",),
    ),
    "y of a dataset": (lambda vae: vae.fit(dataset(X), LABELS), ("y",)),
    "labels of other rows": (lambda vae: vae.fit(X, LABELS[:5]), ("y",)),
    "callbacks that are none": (lambda vae: vae.fit(X, callbacks=["stop"]), ("callback",)),
    "callbacks that are a class": (
        lambda vae: vae.fit(X, callbacks=[keras.callbacks.TerminateOnNaN]),
        ("callback",),
    ),
    "validation_freq=0": (lambda vae: vae.fit(X, validation_freq=0), ("validation_freq",)),
    "validation_freq=[1, 0]": (
        lambda vae: vae.fit(X, validation_data=X, validation_freq=[1, 0]),
        ("validation_freq",),
    ),
    "validation_steps=-1 of a split": (
        lambda vae: vae.fit(X, validation_split=0.5, validation_steps=-1),
        ("validation_steps",),
    ),
    "a split with weights of 0": (
        lambda vae: vae.fit(X, sample_weight=np.arange(24) < 12, validation_split=0.25),
        ("validation_split", "weight"),
    ),
    "a misspelt argument": (lambda vae: vae.evaluate(X, batchsize=8), ("batchsize",)),
    "steps=0": (lambda vae: vae.evaluate(X, steps=0), ("steps",)),
    "validation_data of four": (lambda vae: vae.fit(X, validation_data=(X, X, X, X)), ()),
}


@pytest.mark.parametrize("case", ARGUMENTS)
def test_arguments_that_cannot_be_right(vae, case):
    action, words = ARGUMENTS[case]
    before = State(vae)
    refused(lambda: action(vae), *words, kinds=(ValueError, TypeError))
    before.assert_is(State(vae))


COMPILES = {
    "None": (lambda vae: vae.compile(None), "optimizer"),
    "loss": (lambda vae: vae.compile("adam", loss="mse"), "loss"),
    "loss=None": (lambda vae: vae.compile("adam", loss=None), "loss"),
    "a positional loss": (lambda vae: vae.compile("adam", "mse"), "compile"),
    "metrics": (lambda vae: vae.compile("adam", metrics=["mae"]), "metrics"),
    "weighted_metrics": (lambda vae: vae.compile("adam", weighted_metrics=[]), "weighted_metrics"),
    "loss_weights": (lambda vae: vae.compile("adam", loss_weights=[1.0]), "loss_weights"),
    "a class": (lambda vae: vae.compile(keras.optimizers.Adam), "optimizer"),
    "a number": (lambda vae: vae.compile(0.001), "optimizer"),
    "an unknown name": (lambda vae: vae.compile("steepest"), "optimizer"),
    "jit_compile": (lambda vae: vae.compile("adam", jit_compile="yes"), "jit_compile"),
    "steps_per_execution": (
        lambda vae: vae.compile("adam", steps_per_execution=0),
        "steps_per_execution",
    ),
}


@pytest.mark.parametrize("case", COMPILES)
def test_compile_refuses_what_the_model_cannot_use(case):
    action, word = COMPILES[case]
    refused(lambda: action(table.build("mlp")), word, kinds=(ValueError, TypeError))


@pytest.mark.parametrize("method", ["fit", "evaluate", "train_on_batch", "test_on_batch"])
def test_a_model_that_is_not_compiled(method):
    refused(lambda: getattr(table.build("mlp"), method)(X), "compile")


def test_jit_compile_true_names_the_layer_that_xla_lacks():
    for _ in range(2):  # Keras gives the second one's operations another prefix
        layer = table.WithoutXla(name="grows_bright_areas")
        vae = VAE(table.encoder(layer), table.decoder())
        vae.compile("sgd", jit_compile=True)
        before = vae.get_weights()
        for action in (lambda vae: vae.fit(X, verbose=0), lambda vae: vae.train_on_batch(X)):
            refused(lambda: action(vae), "layer 'grows_bright_areas'", "jit_compile")  # noqa: B023
        for a, b in zip(before, vae.get_weights(), strict=True):
            np.testing.assert_array_equal(a, b)


# -------------------------------------------------------------------------------- parts


def _sigmoid_decoder():
    return keras.Sequential([keras.Input((3,)), L.Dense(144, "sigmoid"), L.Reshape(table.IMAGE)])


def _sigmoid_layer_decoder():
    return keras.Sequential(
        [keras.Input((3,)), L.Dense(144), L.Reshape(table.IMAGE), L.Activation("sigmoid")]
    )


def _functional_sigmoid_decoder():
    z = keras.Input((3,))
    h = L.Dense(36, "relu")(z)
    h = L.Reshape((6, 6, 1))(h)
    out = L.Conv2DTranspose(1, 3, 2, "same", activation="sigmoid")(h)
    return keras.Model(z, out)


def _uint8_encoder():
    image = keras.Input(table.IMAGE, dtype="uint8")
    h = L.Flatten()(L.Rescaling(1 / 255)(image))
    return keras.Model(image, L.Dense(6)(h))


PARTS = {
    "a decoder that ends in a sigmoid": (lambda: {"decoder": _sigmoid_decoder()}, "sigmoid"),
    "one with a layer for it": (lambda: {"decoder": _sigmoid_layer_decoder()}, "sigmoid"),
    "a functional one": (lambda: {"decoder": _functional_sigmoid_decoder()}, "sigmoid"),
    "an encoder that declares uint8": (lambda: {"encoder": _uint8_encoder()}, "uint8"),
    "a TFP distribution as prior": (
        lambda: {"prior": tfp.distributions.MultivariateNormalDiag(tf.zeros(3))},
        "prior",
    ),
    "a class as prior": (lambda: {"prior": priors.StandardNormal}, "prior"),
    "a string as prior": (lambda: {"prior": "normal"}, "prior"),
    "a class as objective": (lambda: {"objective": IWAE}, "objective"),
    "a string as objective": (lambda: {"objective": "elbo"}, "objective"),
    "a class as likelihood": (lambda: {"likelihood": Bernoulli}, "likelihood"),
    "a string as likelihood": (lambda: {"likelihood": "bernoulli"}, "likelihood"),
    "a function as encoder": (lambda: {"encoder": lambda x: x}, "encoder"),
    "a class as decoder": (lambda: {"decoder": MLPDecoder}, "decoder"),
    "an unknown binarization": (lambda: {"binarization": "maybe"}, "binarization"),
    "a seed below 0": (lambda: {"seed": -1}, "seed"),
    "two outputs without a word on the second": (lambda: {"encoder": table.two_outputs()}, "scale"),
    "an unknown scale parameter": (lambda: {"scale_parameter": "variance"}, "scale_parameter"),
    "an odd number of parameters": (
        lambda: {"encoder": keras.Sequential([keras.Input(table.IMAGE), L.Flatten(), L.Dense(5)])},
        "encoder",
    ),
    "logits of another shape": (lambda: {"decoder": MLPDecoder((6, 6, 1), (8,))}, "decoder"),
}


@pytest.mark.parametrize("case", PARTS)
def test_parts_that_cannot_be_right(case):
    make, word = PARTS[case]

    def action():
        parts = {"encoder": table.encoder(), "decoder": table.decoder()} | make()
        vae = VAE(**parts)
        vae.compile("sgd", jit_compile=False)
        vae.fit(X, verbose=0)

    refused(action, word)


STRUCTURE = {
    "encoder": lambda: MLPEncoder(3, (8,)),
    "decoder": lambda: MLPDecoder(table.IMAGE, (8,)),
    "prior": lambda: priors.AutoregressiveFlow(),
    "likelihood": lambda: Bernoulli(),
}


@pytest.mark.parametrize("name", STRUCTURE)
def test_a_part_that_is_set_after_the_build_is_refused(vae, name):
    refused(lambda: setattr(vae, name, STRUCTURE[name]()), name, kinds=(ValueError, AttributeError))
    vae.fit(X, batch_size=8, verbose=0)


@pytest.mark.parametrize(
    ("name", "value"),
    [("objective", "elbo"), ("objective", IWAE), ("binarization", "maybe"), ("seed", -1)],
)
def test_a_setting_that_cannot_be_right(vae, name, value):
    refused(lambda: setattr(vae, name, value), name)
    vae.fit(X, batch_size=8, verbose=0)


def test_a_beta_that_cannot_be_right():
    objective = ELBO()
    refused(lambda: setattr(objective, "beta", -1.0), "beta")
    refused(lambda: setattr(objective, "beta", "warm"), "beta")


# ------------------------------------------------------------------------ global settings

POLICIES = ("float64", "float16", "bfloat16")


@pytest.mark.parametrize("policy", POLICIES)
def test_a_policy_of_other_weights_works_or_is_named(policy):
    """In float64 or float16, the numbers are right, or the policy is named."""
    keras.config.set_dtype_policy(policy)
    try:
        _trains_or_names(policy)
    finally:
        keras.config.set_dtype_policy("float32")


@pytest.mark.parametrize("floatx", ["float64", "float16", "bfloat16"])
def test_a_floatx_works_or_is_named(floatx):
    keras.config.set_floatx(floatx)
    try:
        _trains_or_names(floatx)
    finally:
        keras.config.set_floatx("float32")
        keras.config.set_dtype_policy("float32")


def _trains_or_names(name: str) -> None:
    said, elbo = "", 0.0
    try:
        vae = VAE(table.encoder(), table.decoder())
        vae.compile("sgd", jit_compile=False)
        elbo = vae.fit(X, batch_size=8, validation_data=X, verbose=0).history["elbo"][0]
        vae.predict(X, verbose=0)
        vae.sample(2)
    except (ValueError, TypeError) as error:
        said = str(error)
    assert -200 < elbo < -20 or name in said, said
    assert len(said) < LONGEST, said


def test_channels_first_leaves_the_package_networks_as_they_are():
    from vae_keras import ConvDecoder, ConvEncoder

    def trained():
        vae = VAE(ConvEncoder(3, (4, 8)), ConvDecoder(table.IMAGE, (4, 8)))
        vae.compile("sgd", jit_compile=False)
        vae.fit(X, batch_size=8, verbose=0)
        return vae.get_weights()

    want = trained()
    keras.config.set_image_data_format("channels_first")
    try:
        got = trained()
    finally:
        keras.config.set_image_data_format("channels_last")
    for a, b in zip(got, want, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)
