"""`evaluate`, `predict` and the `*_on_batch` methods, in every form of the data.

The expectation is the plain loop of `reference.py`. The noise of a row is keyed by its place in
the data, so neither the way in nor the batch size may change a figure.
"""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.conformance import configurations as table
from tests.conformance import reference
from tests.conftest import slow_except
from vae_keras import IWAE, VAE, ContinuousBernoulli, data, priors

X, W = table.discs(29), table.some_weights(29)
LABELS = np.arange(29)


def build(network: str = "mlp", **arguments) -> VAE:
    vae = table.build(network, **arguments)
    vae.compile(keras.optimizers.SGD(table.RATE), jit_compile=False)
    return vae


@pytest.fixture(scope="module")
def vae():
    return build()


def assert_same(got, want):
    assert set(got) == set(want)
    for name, value in want.items():
        np.testing.assert_allclose(got[name], value, rtol=2e-5, err_msg=name)


def dataset(*columns, size=8):
    parts = columns if len(columns) > 1 else columns[0]
    return tf.data.Dataset.from_tensor_slices(parts).batch(size)


def loader(*columns):
    """What a torch-style loader is to Keras: an object that yields batches."""
    for start in range(0, 29, 8):
        yield tuple(column[start : start + 8] for column in columns)


FORMS = {
    "array": lambda: ((X,), {}, None),
    "array [N, H, W]": lambda: ((X[..., 0],), {}, None),
    "integers": lambda: ((X.astype("int64"),), {}, None),
    "floats": lambda: ((X / 255.0,), {}, None),
    "(x, y)": lambda: (((X, LABELS),), {}, None),
    "x, y": lambda: ((X, LABELS), {}, None),
    "(x, y, w)": lambda: (((X, LABELS, W),), {}, W),
    "x, sample_weight": lambda: ((X,), {"sample_weight": W}, W),
    "x, sample_weight [N, 1]": lambda: ((X,), {"sample_weight": W[:, None]}, W),
    "dataset of x": lambda: ((dataset(X),), {}, None),
    "dataset of x [N, H, W]": lambda: ((dataset(X[..., 0]),), {}, None),
    "dataset of integers": lambda: ((dataset(X.astype("int64")),), {}, None),
    "dataset of float64": lambda: ((dataset(X / 255.0),), {}, None),
    "dataset of (x, y)": lambda: ((dataset(X, LABELS),), {}, None),
    "dataset of (x, y, w)": lambda: ((dataset(X, LABELS, W),), {}, W),
    "dataset of (x, y, w [N, 1])": lambda: ((dataset(X, LABELS, W[:, None]),), {}, W),
    "PyDataset": lambda: ((table.Batches(X, W),), {}, W),
    "generator of (x,)": lambda: ((loader(X),), {}, None),
    "generator of (x, y, w)": lambda: ((loader(X, LABELS, W),), {}, W),
}


# A dataset or a generator is traced anew for each element that it may yield.
FAST_FORMS = [name for name in FORMS if not name.startswith(("dataset of", "generator"))]
FAST_FORMS += ["dataset of (x, y, w)", "generator of (x, y, w)"]


@pytest.mark.parametrize("form", slow_except(FAST_FORMS, FORMS))
def test_evaluate_takes_every_form(vae, form):
    arguments, keywords, weights = FORMS[form]()
    got = vae.evaluate(*arguments, **keywords, verbose=0, return_dict=True)
    plain = reference.Loop(vae, vae.optimizer)
    images = (X / 255.0).astype(np.float32) if "float" in form else X
    assert_same(got, plain.evaluate(reference.batches(images, weights)))


def test_evaluate_is_the_mean_of_single_elbos(vae):
    got = vae.evaluate(X, sample_weight=W, batch_size=7, verbose=0, return_dict=True)
    terms = vae.elbo(data.binarize(X, seed=vae.seed), seed=vae.seed)
    for name in ("elbo", "log_likelihood", "kl"):
        mean = np.average(getattr(terms, name), weights=W)
        np.testing.assert_allclose(got[name], mean, rtol=2e-5)
    np.testing.assert_allclose(got["loss"], -got["elbo"], rtol=1e-6)


def test_evaluate_measures_the_steps_asked_for(vae):
    plain = reference.Loop(vae, vae.optimizer)
    want = plain.evaluate(reference.batches(X[:16]))
    endless = dataset(X).repeat()
    for x, more in ((X, {"batch_size": 8}), (dataset(X), {}), (endless, {})):
        assert_same(vae.evaluate(x, **more, steps=2, verbose=0, return_dict=True), want)


def test_evaluate_calls_hooks_for_each_batch(vae):
    recorder = table.Recorder()
    vae.evaluate(X, batch_size=8, callbacks=[recorder], verbose=0)
    assert [which for hook, which in recorder.calls if hook == "test batch ends"] == [0, 1, 2, 3]


def test_evaluate_returns_a_list_in_the_order_of_the_names(vae):
    named = vae.evaluate(X, verbose=0, return_dict=True)
    assert vae.evaluate(X, verbose=0) == [named[name] for name in vae.metrics_names]


@pytest.mark.parametrize(
    "network",
    [
        "regularized",
        pytest.param("batch normalization", marks=pytest.mark.slow),
        pytest.param("add_loss", marks=pytest.mark.slow),
        pytest.param("two outputs", marks=pytest.mark.slow),
        pytest.param("mixes rows", marks=pytest.mark.slow),
    ],
)
def test_evaluate_of_networks_that_are_not_plain(network):
    vae = build(network)
    plain = reference.Loop(vae, vae.optimizer, table.NETWORKS[network].posterior)
    want = plain.evaluate(reference.batches(X, W, 8))
    for x, more in ((X, {"sample_weight": W, "batch_size": 8}), (dataset(X, LABELS, W), {})):
        assert_same(vae.evaluate(x, **more, verbose=0, return_dict=True), want)


def _one_output(second):
    """An encoder whose one output holds loc and what `second` makes of the rest."""
    image = keras.Input(table.IMAGE)
    h = keras.layers.Flatten()(image)
    loc, rest = keras.layers.Dense(3)(h), keras.layers.Dense(3, second)(h)
    return keras.Model(image, keras.layers.Concatenate()([loc, rest]))


@pytest.mark.parametrize(("name", "second"), [("log_variance", None), ("scale", "softplus")])
def test_the_second_half_of_an_encoder_may_be_another_parameter(name, second):
    keras.utils.set_random_seed(2)
    vae = VAE(_one_output(second), table.decoder(), scale_parameter=name)
    vae.compile(keras.optimizers.SGD(table.RATE), jit_compile=False)

    def posterior(output):
        loc, rest = tf.split(output, 2, axis=-1)
        return loc, tf.exp(0.5 * rest) if name == "log_variance" else rest

    plain = reference.Loop(vae, vae.optimizer, posterior)
    want = plain.evaluate(reference.batches(X))
    assert_same(vae.evaluate(X, verbose=0, return_dict=True), want)


PARTS = {
    "importance-weighted": {"objective": IWAE(3)},
    "importance-weighted, resampled": {"objective": IWAE(4, num_resampled=2)},
    "grey": {"likelihood": ContinuousBernoulli()},
    "flow": {"prior": priors.AutoregressiveFlow(depth=2, hidden=(8,))},
    "threshold": {"binarization": "threshold"},
    "another seed": {"seed": 11},
}


FAST_PARTS = ("importance-weighted, resampled",)


@pytest.mark.parametrize(
    "parts", [pytest.param(p, marks=[pytest.mark.slow] * (p not in FAST_PARTS)) for p in PARTS]
)
def test_other_parts_train_and_measure_as_in_the_plain_loop(parts):
    def fresh():
        kinds = {key: _again(value) for key, value in PARTS[parts].items()}
        return table.build("mlp", **kinds)

    vae = fresh()
    vae.compile(keras.optimizers.SGD(table.RATE), jit_compile=False)
    plain = reference.Loop(fresh(), keras.optimizers.SGD(table.RATE))
    history = vae.fit(X, batch_size=8, epochs=2, validation_data=X, verbose=0).history

    def epoch(number):
        order = reference.epoch_order(29, vae.seed, number)
        return reference.batches(X, None, 8, order)

    want = plain.fit(epoch, 2, validation=reference.batches(X))
    for a, b in zip(vae.get_weights(), plain.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-5)
    assert_same(history, want)


def _again(part):
    """A copy of a part: two models must not share a layer."""
    return type(part).from_config(part.get_config()) if hasattr(part, "get_config") else part


# ---------------------------------------------------------------------------- one batch


@pytest.mark.parametrize("shape", [(29,), (29, 1)])
def test_test_on_batch_weighs_as_evaluate(vae, shape):
    want = vae.evaluate(X, sample_weight=W, verbose=0, return_dict=True)
    got = vae.test_on_batch(X, sample_weight=W.reshape(shape), return_dict=True)
    assert_same(got, want)


def test_on_batch_takes_what_keras_takes(vae):
    want = vae.test_on_batch(X, return_dict=True)
    for x in (X, tf.constant(X), X[..., 0], X.astype("int64")):
        assert_same(vae.test_on_batch(x, return_dict=True), want)
    assert_same(vae.test_on_batch(X, LABELS, return_dict=True), want)
    assert vae.test_on_batch(X) == [want[name] for name in vae.metrics_names]


def test_train_on_batch_returns_the_logs_of_its_batch():
    vae, plain = build(), reference.Loop(table.build("mlp"), keras.optimizers.SGD(table.RATE))
    for batch in reference.batches(X, W, 8):
        got = vae.train_on_batch(batch.images, sample_weight=batch.weights, return_dict=True)
        means = reference.Means()
        plain.train(batch, means)
        assert_same(got, means.logs())


def test_batches_of_any_size_share_one_model(vae):
    """Neither a larger nor a smaller batch than the first one is refused or counted wrongly."""
    plain = reference.Loop(vae, vae.optimizer)
    for rows in (3, 29, 1, 17):
        got = vae.test_on_batch(X[:rows], return_dict=True)
        assert_same(got, plain.evaluate(reference.batches(X[:rows])))


# ------------------------------------------------------------------------------ predict

PREDICTED = {
    "array": lambda: (X, {}),
    "batch_size=7": lambda: (X, {"batch_size": 7}),
    "batch_size=128": lambda: (X, {"batch_size": 128}),
    "(x, y)": lambda: ((X, LABELS), {}),
    "floats": lambda: (X / 255.0, {}),
    "dataset of x": lambda: (dataset(X), {}),
    "dataset of (x, y)": lambda: (dataset(X, LABELS), {}),
    "dataset of (x, y, w)": lambda: (dataset(X, LABELS, W), {}),
    "PyDataset": lambda: (table.Batches(X, W), {}),
    "generator": lambda: (loader(X), {}),
    "callbacks": lambda: (X, {"callbacks": [keras.callbacks.LambdaCallback()]}),
}


@pytest.mark.parametrize("form", PREDICTED)
def test_predict_takes_every_form(vae, form):
    x, more = PREDICTED[form]()
    want = vae(table.unit(X)).numpy()
    np.testing.assert_allclose(vae.predict(x, **more, verbose=0), want, atol=1e-5)


def test_predict_stops_after_the_steps_asked_for(vae):
    for x, more in ((X, {"batch_size": 8}), (dataset(X), {}), (dataset(X).repeat(), {})):
        got = vae.predict(x, **more, steps=2, verbose=0)
        np.testing.assert_allclose(got, vae.predict(X[:16], verbose=0), atol=1e-5)


def test_several_steps_a_call_measure_and_predict_alike(vae):
    other = table.build("mlp")
    other.compile(keras.optimizers.SGD(table.RATE), jit_compile=False, steps_per_execution=3)
    for x in (X, dataset(X)):
        size = {"batch_size": 8} if x is X else {}
        assert_same(
            other.evaluate(x, **size, verbose=0, return_dict=True),
            vae.evaluate(X, verbose=0, return_dict=True),
        )
        got = other.predict(x, **size, verbose=0)
        np.testing.assert_allclose(got, vae.predict(X, verbose=0), atol=1e-5)


def test_predict_on_batch(vae):
    for x in (X, X[..., 0], X.astype("int64"), table.unit(X), tf.constant(X)):
        got = vae.predict_on_batch(x)
        np.testing.assert_allclose(got, vae.predict(X, verbose=0), atol=1e-5)


def test_predict_sees_new_weights():
    vae = build()
    before = vae.predict(X, verbose=0)
    vae.fit(X, batch_size=8, verbose=0)
    assert np.abs(vae.predict(X, verbose=0) - before).max() > 1e-6


# ------------------------------------------------------- methods that say "as in fit"


@pytest.mark.parametrize("form", ["dataset of x", "dataset of (x, y)", "(x, y)", "PyDataset"])
def test_encode_reconstruct_and_elbo_take_what_fit_takes(vae, form):
    def x():
        return PREDICTED[form]()[0]

    np.testing.assert_allclose(vae.encode(x()).loc, vae.encode(X).loc, atol=1e-5)
    np.testing.assert_allclose(vae.reconstruct(x()), vae.reconstruct(X), atol=1e-5)
    np.testing.assert_allclose(vae.elbo(x()).elbo, vae.elbo(X).elbo, rtol=1e-5)


def test_parts_predict_or_say_what_to_call():
    """`vae.encoder.predict(x)` of the tutorials works, or names the method to use."""
    from vae_keras import MLPDecoder, MLPEncoder

    vae = VAE(MLPEncoder(3, (8,)), MLPDecoder(table.IMAGE, (8,)))
    for part, argument, method in (
        (vae.encoder, table.unit(X), "encode"),
        (vae.decoder, np.zeros((2, 3), np.float32), "decode"),
    ):
        try:
            assert len(part.predict(argument, verbose=0)) == len(argument)
        except AttributeError as error:
            said = str(error).replace("MLPEncoder", "").replace("MLPDecoder", "")
            assert method in said
