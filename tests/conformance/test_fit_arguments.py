"""Every argument of `fit` does what it does in `keras.Model.fit`.

The numbers come from the plain loop of `reference.py`. Where Keras counts (batches of an epoch,
calls of hooks, warnings), the expectation is what a plain Keras model does when it is given the
same arguments. Somebody who adds an argument adds a test with one of these two expectations.
"""

from __future__ import annotations

import sys
import types
import warnings
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.conformance import configurations as table
from tests.conformance import reference
from tests.conftest import covering, slow_except
from vae_keras import ELBO, VAE

L = keras.layers
X, W = table.discs(45), table.some_weights(45)
HELD = table.discs(21, seed=2)
EVERY_OPTIMIZER = (
    *("SGD", "RMSprop", "Adam", "AdamW", "Adadelta", "Adagrad", "Adamax"),
    *("Adafactor", "Nadam", "Ftrl", "Lion", "Lamb", "Muon"),
)


class _Shared:
    """A compiled model, and what it needs to be as good as new for each test."""

    def __init__(self) -> None:
        self.vae, self.objective = fresh(), ELBO()
        self.vae.optimizer.build(self.vae.trainable_variables)
        self.variables = [*self.vae.variables, *self.vae.optimizer.variables]
        self.values = [np.array(variable) for variable in self.variables]

    def renewed(self) -> VAE:
        for variable, value in zip(self.variables, self.values, strict=True):
            variable.assign(value)
        # The same objective each time: another one would be traced anew.
        self.vae.seed, self.vae.binarization, self.vae.objective = 0, "dynamic", self.objective
        return self.vae


_SHARED: list[_Shared] = []


def shared() -> VAE:
    """A compiled model as good as new, which is traced once for all tests that use it."""
    if not _SHARED:
        _SHARED.append(_Shared())
    return _SHARED[0].renewed()


def fresh(network: str = "mlp", optimizer: Any = None, jit: Any = False, **arguments: Any) -> VAE:
    """A new compiled model."""
    compiled = {k: arguments.pop(k) for k in ("steps_per_execution",) if k in arguments}
    vae = table.build(network, **arguments)
    vae.compile(optimizer or keras.optimizers.SGD(table.RATE), jit_compile=jit, **compiled)
    return vae


def loop(network: str = "mlp", optimizer: Any = None, **arguments: Any) -> reference.Loop:
    vae = table.build(network, **arguments)
    posterior = table.NETWORKS[network].posterior
    return reference.Loop(vae, optimizer or keras.optimizers.SGD(table.RATE), posterior)


def ordered(images=X, weights=None, size=table.BATCH):
    return lambda epoch: reference.batches(images, weights, size)


def shuffled(images=X, weights=None, size=table.BATCH):
    return lambda epoch: reference.batches(
        images, weights, size, reference.epoch_order(len(images), 0, epoch)
    )


def assert_same_weights(got: Any, want: Any, tolerance: float = 1e-5) -> None:
    for a, b in zip(got.get_weights(), want.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance)


def assert_same_logs(got: dict, want: dict, prefix: str = "") -> None:
    for name, value in want.items():
        np.testing.assert_allclose(got[prefix + name], value, rtol=2e-5, err_msg=name)


class Twin:
    """A plain Keras model, whose batches and hooks are the expectation for ours."""

    def __init__(self, **compiled: Any) -> None:
        self.model = keras.Sequential([keras.Input(table.IMAGE), L.Flatten(), L.Dense(1)])
        self.model.compile("sgd", "mse", run_eagerly=True, **compiled)
        self.recorder = table.Recorder()

    def fit(self, *args: Any, **kwargs: Any) -> list[tuple[str, Any]]:
        callbacks = [self.recorder, *kwargs.pop("callbacks", [])]
        self.model.fit(*args, callbacks=callbacks, verbose=0, **kwargs)
        return _without_names(self.recorder.calls)


def _without_names(calls: list[tuple[str, Any]]) -> list[tuple[str, Any]]:
    """The calls without the names of the logs, which another model has others of."""
    return [(hook, which[0] if hook == "epoch ends" else which) for hook, which in calls]


# --------------------------------------------------------------------------- validation


def _held_dataset(*columns):
    return tf.data.Dataset.from_tensor_slices(columns).batch(4)


HELD_WEIGHTS = table.some_weights(21, seed=3)
FORMS = {
    "array": (lambda: HELD, None),
    "(x,)": (lambda: (HELD,), None),
    "(x, y)": (lambda: (HELD, np.zeros(21)), None),
    "(x, None, w)": (lambda: (HELD, None, HELD_WEIGHTS), HELD_WEIGHTS),
    "[x, y]": (lambda: [HELD, np.zeros(21)], None),
    "dataset of x": (lambda: tf.data.Dataset.from_tensor_slices(HELD).batch(4), None),
    "dataset of (x, y)": (lambda: _held_dataset(HELD, np.zeros(21)), None),
    "dataset of (x, y, w)": (
        lambda: _held_dataset(HELD, np.zeros(21), HELD_WEIGHTS),
        HELD_WEIGHTS,
    ),
    "PyDataset": (lambda: table.Batches(HELD, HELD_WEIGHTS, 4), HELD_WEIGHTS),
}


@pytest.fixture
def trained():
    """The shared model with a rate of 0: its weights stay."""
    vae = shared()
    vae.optimizer.learning_rate = 0.0
    return vae


@pytest.mark.parametrize("form", slow_except(["(x, None, w)", "PyDataset"], FORMS))
def test_validation_data_in_each_form(trained, form):
    make, weights = FORMS[form]
    history = trained.fit(
        X, batch_size=8, epochs=2, validation_data=make(), validation_batch_size=4, verbose=0
    ).history
    want = loop().evaluate(reference.batches(HELD, weights, 4))
    assert_same_logs(history, {name: [value] * 2 for name, value in want.items()}, "val_")


def test_validation_data_of_a_dataset_beside_another(trained):
    data = tf.data.Dataset.from_tensor_slices(X).batch(8)
    history = trained.fit(data, validation_data=HELD, epochs=2, verbose=0).history
    want = loop().evaluate(reference.batches(HELD))
    assert_same_logs(history, {name: [value] * 2 for name, value in want.items()}, "val_")


@pytest.mark.parametrize(
    "kind",
    slow_except(["array", "endless dataset"], ["array", "dataset", "endless dataset", "generator"]),
)
def test_validation_steps_measure_the_first_batches(trained, kind):
    dataset = tf.data.Dataset.from_tensor_slices(HELD).batch(8)
    data = {
        "array": lambda: HELD,
        "dataset": lambda: dataset,
        "endless dataset": lambda: dataset.repeat(),
        "generator": lambda: table.generator(HELD),
    }[kind]()
    epochs = 1 if kind == "generator" else 2
    history = trained.fit(
        X, batch_size=8, epochs=epochs, validation_data=data, validation_steps=2, verbose=0
    ).history
    want = loop().evaluate(reference.batches(HELD[:16], size=8))
    assert_same_logs(history, {name: [value] * epochs for name, value in want.items()}, "val_")


def test_validation_split_holds_out_the_last_rows():
    vae, plain = shared(), loop()
    history = vae.fit(
        X, sample_weight=W, batch_size=8, epochs=2, validation_split=0.2, verbose=0
    ).history
    want = plain.fit(shuffled(X[:36], W[:36]), 2, validation=reference.batches(X[36:], W[36:], 8))
    assert_same_weights(vae, plain)
    assert_same_logs(history, want)


def test_validation_freq(trained):
    for freq, count in ((2, 1), ([1, 3], 2)):
        history = trained.fit(
            X, batch_size=8, epochs=3, validation_data=HELD, validation_freq=freq, verbose=0
        ).history
        assert len(history["val_elbo"]) == count
        assert len(history["elbo"]) == 3


# ------------------------------------------------------------------------ steps and epochs


@pytest.mark.parametrize(
    ("kind", "steps"), covering(["arrays", "dataset", "endless dataset"], [2, 3, 4, 6])
)
def test_steps_per_epoch_counts_batches_as_keras(trained, kind, steps):
    """Six batches; Keras goes on where the epoch before ended, and stops short at the end."""
    dataset = tf.data.Dataset.from_tensor_slices((X, np.zeros((45, 1)))).batch(8)
    data = {
        "arrays": {"x": X, "y": np.zeros((45, 1)), "batch_size": 8},
        "dataset": {"x": dataset},
        "endless dataset": {"x": dataset.repeat()},
    }[kind]
    recorder = table.Recorder()
    arguments = {"epochs": 3, "steps_per_epoch": steps, "verbose": 0}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Keras warns that the data ran out
        expected = Twin().fit(**data, epochs=3, steps_per_epoch=steps)
        trained.fit(**data, callbacks=[recorder], **arguments)
    assert _without_names(recorder.calls) == expected


def test_steps_per_epoch_goes_on_where_the_epoch_before_ended():
    vae, plain = shared(), loop()
    history = vae.fit(
        X, batch_size=8, epochs=4, steps_per_epoch=3, shuffle=False, verbose=0
    ).history
    batches = reference.batches(X, size=8)
    want = plain.fit(lambda epoch: batches[3 * (epoch % 2) :][:3], 4)
    assert_same_weights(vae, plain)
    assert_same_logs(history, want)


def test_steps_per_epoch_of_all_batches_shuffles_as_without():
    vae, plain = shared(), loop()
    vae.fit(X, batch_size=8, epochs=3, steps_per_epoch=6, verbose=0)
    plain.fit(shuffled(), epochs=3)
    assert_same_weights(vae, plain)


def test_initial_epoch_keeps_the_order_of_that_epoch():
    vae, plain = shared(), loop()
    history = vae.fit(X, batch_size=8, initial_epoch=2, epochs=4, verbose=0)
    want = plain.fit(shuffled(), epochs=4, initial_epoch=2)
    assert history.epoch == [2, 3]
    assert_same_weights(vae, plain)
    assert_same_logs(history.history, want)


@pytest.mark.parametrize("kind", slow_except(["arrays"], ["arrays", "dataset"]))
def test_explicit_steps_per_execution_changes_no_number(kind):
    vae, plain, recorder = fresh(steps_per_execution=4), loop(), table.Recorder()
    labels = np.zeros((45, 1))
    dataset = tf.data.Dataset.from_tensor_slices((X, labels)).batch(8)
    data = {
        "arrays": {"x": X, "y": labels, "batch_size": 8, "shuffle": False},
        "dataset": {"x": dataset},
    }[kind]
    history = vae.fit(**data, epochs=2, callbacks=[recorder], verbose=0).history
    want = plain.fit(ordered(), 2)
    assert_same_weights(vae, plain)
    assert_same_logs(history, want)
    assert int(vae.optimizer.iterations) == 12
    # Keras calls the hooks once for the batches of a call.
    assert _without_names(recorder.calls) == Twin(steps_per_execution=4).fit(**data, epochs=2)


@pytest.mark.slow
def test_backup_and_restore_goes_on_with_the_epoch_that_was_cut(tmp_path):
    class Ends(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 2:
                raise RuntimeError("killed")

    def fit(vae, *callbacks):
        backup = keras.callbacks.BackupAndRestore(tmp_path / "backup")
        return vae.fit(X, batch_size=8, epochs=4, callbacks=[backup, *callbacks], verbose=0)

    adam = table.OPTIMIZERS["adam"]
    with pytest.raises(RuntimeError, match="killed"):
        fit(fresh(optimizer=adam()), Ends())
    resumed, plain = fresh(optimizer=adam()), loop(optimizer=adam())
    history = fit(resumed)
    plain.fit(shuffled(), epochs=4)
    assert history.epoch == [2, 3]
    assert int(resumed.optimizer.iterations) == 24
    assert_same_weights(resumed, plain)


def test_two_fits_are_one_longer_fit():
    """The noise goes on with the batches trained; the order begins with the epoch named."""
    vae, plain = shared(), loop()
    vae.fit(X, batch_size=8, epochs=2, verbose=0)
    vae.fit(X, batch_size=8, initial_epoch=2, epochs=3, verbose=0)
    plain.fit(shuffled(), epochs=3)
    assert_same_weights(vae, plain)


# ------------------------------------------------------------------------- PyDataset


class Logged(table.Batches):
    """Writes down which batches are read, and the ends of epochs."""

    def __init__(self, *args, **more):
        super().__init__(*args, **more)
        self.read = []

    def __getitem__(self, index):
        self.read.append(index)
        return super().__getitem__(index)

    def on_epoch_end(self):
        self.read.append("end")


def test_a_pydataset_is_shuffled_and_told_of_epochs_as_by_keras(trained):
    data = Logged(np.repeat(X, 4, axis=0), np.ones(180, np.float32))
    keras.utils.set_random_seed(0)
    trained.fit(data, epochs=1, verbose=0)
    mine = data.read
    data.read = []
    keras.utils.set_random_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        Twin().fit(data, epochs=1)
    assert mine == data.read


@pytest.mark.slow
def test_workers_of_a_pydataset_keep_the_order():
    vae, plain = shared(), loop()
    data = table.Batches(X, W, workers=2, max_queue_size=4)
    vae.fit(data, epochs=2, shuffle=False, verbose=0)
    plain.fit(ordered(X, W), 2)
    assert_same_weights(vae, plain)


def test_an_iterable_that_keras_takes_is_a_way_in():
    """A generator of (x, y, w) without steps ends with its last batch."""
    vae, plain = shared(), loop()
    batches = [(b.images, np.zeros(len(b.images)), b.weights) for b in ordered(X, W)(0)]
    vae.fit((batch for batch in batches), verbose=0)
    plain.fit(ordered(X, W), 1)
    assert_same_weights(vae, plain)


class _TorchTensor:
    """What Keras asks of a tensor of torch."""

    def __init__(self, values):
        self.values, self.shape, self.dtype = values, values.shape, values.dtype

    def cpu(self):
        return self.values


class _Loader:
    """A torch DataLoader as Keras sees one: an iterable of lists of tensors, with a length."""

    def __init__(self, *columns, batch_size=8):
        self.columns, self.batch_size, self.dataset = columns, batch_size, columns[0]

    def __len__(self):
        return -(-len(self.dataset) // self.batch_size)

    def __iter__(self):
        for start in range(0, len(self.dataset), self.batch_size):
            rows = slice(start, start + self.batch_size)
            yield [_TorchTensor(column[rows]) for column in self.columns]


@pytest.fixture
def data_loader(monkeypatch):
    """The class `torch.utils.data.DataLoader` of a stand-in for torch, which is not needed here."""
    data, utils, torch = (types.ModuleType(name) for name in ("data", "utils", "torch"))
    data.DataLoader = type("DataLoader", (_Loader,), {"__module__": "torch.utils.data.dataloader"})
    utils.data, torch.utils = data, utils
    monkeypatch.setitem(sys.modules, "torch", torch)
    return data.DataLoader


@pytest.mark.parametrize("columns", [3, *(pytest.param(n, marks=pytest.mark.slow) for n in (1, 2))])
def test_a_torch_data_loader_is_a_way_in(data_loader, columns):
    vae, plain = shared(), loop()
    weights = W if columns == 3 else None
    parts = (X, np.zeros(45, np.float32), W)[:columns]
    held = data_loader(HELD, batch_size=4)
    history = vae.fit(data_loader(*parts), epochs=2, validation_data=held, verbose=0).history
    want = plain.fit(ordered(X, weights), 2, validation=reference.batches(HELD, size=4))
    assert_same_weights(vae, plain)
    assert_same_logs(history, want)
    assert_same_logs(
        vae.evaluate(data_loader(*parts), return_dict=True, verbose=0),
        plain.evaluate(reference.batches(X, weights, 8)),
    )
    np.testing.assert_allclose(
        vae.predict(data_loader(*parts), verbose=0), vae.predict(X, verbose=0), atol=1e-6
    )


# ------------------------------------------------------------------------- sample weights


@pytest.mark.parametrize(
    ("way", "shape"), covering(["arrays", "dataset", "train_on_batch"], [(45,), (45, 1)])
)
def test_weights_of_either_shape_weigh_alike(way, shape):
    vae, plain, weights = shared(), loop(), W.reshape(shape)
    if way == "arrays":
        vae.fit(X, sample_weight=weights, batch_size=8, shuffle=False, verbose=0)
    elif way == "dataset":
        data = tf.data.Dataset.from_tensor_slices((X, np.zeros(45), weights)).batch(8)
        vae.fit(data, verbose=0)
    else:
        for start in range(0, 45, 8):
            rows = slice(start, start + 8)
            vae.train_on_batch(X[rows], sample_weight=weights[rows])
    plain.fit(ordered(X, W), 1)
    assert_same_weights(vae, plain)


@pytest.mark.parametrize("way", slow_except(["arrays"], ["arrays", "dataset"]))
def test_one_batch_of_weights_0_among_others_moves_nothing(way):
    """A batch may happen to hold only rows of weight 0: it takes no step."""
    weights = np.ones(45, np.float32)
    weights[8:16] = 0.0
    vae, plain = shared(), loop()
    if way == "arrays":
        history = vae.fit(X, sample_weight=weights, batch_size=8, shuffle=False, verbose=0)
    else:
        data = tf.data.Dataset.from_tensor_slices((X, np.zeros(45), weights)).batch(8)
        history = vae.fit(data, verbose=0)
    want = plain.fit(ordered(X, weights), 1)
    assert_same_weights(vae, plain)
    assert_same_logs(history.history, want)


def test_a_batch_without_rows_among_others_moves_nothing():
    """A filter may leave no row of a batch. Under a strategy such a batch takes no step, too."""

    def kept(batch):
        return tf.boolean_mask(batch, tf.reduce_any(batch != X[8], axis=[1, 2, 3]))

    whole = np.concatenate([X[:8], X[[8] * 8], X[9:17]])
    vae, weights = shared(), np.repeat(np.array([1, 0, 1], np.float32), 8)
    vae.fit(whole, sample_weight=weights, batch_size=8, shuffle=False, verbose=0)
    want = vae.get_weights()
    vae = shared()
    vae.fit(tf.data.Dataset.from_tensor_slices(whole).batch(8).map(kept), verbose=0)
    assert int(vae.optimizer.iterations) == 2
    for ours, theirs in zip(vae.get_weights(), want, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0.0, atol=2e-6)


# ------------------------------------------- what must not be noticed of many steps a call


@keras.saving.register_keras_serializable(package="conformance")
class BatchELBO(ELBO):
    """An objective that looks at all rows of a batch, as a total-correlation term does."""

    def __call__(self, x, infer, noise, step=None):
        objective, terms = super().__call__(x, infer, noise, step)
        return objective - 0.1 * (terms.kl - tf.reduce_mean(terms.kl)) ** 2, terms


def _softmax_over_rows():
    return table.encoder(hidden=[L.Softmax(axis=0), L.Rescaling(8.0)]), table.decoder()


def _softmax_over_rows_from_the_end():
    return table.encoder(hidden=[L.Softmax(axis=-2), L.Rescaling(8.0)]), table.decoder()


def _normalised_over_rows():
    return table.encoder(hidden=[L.UnitNormalization(axis=0)]), table.decoder()


def _regularized_package_network():
    from vae_keras import MLPDecoder, MLPEncoder

    encoder = MLPEncoder(3, (8,), activity_regularizer=keras.regularizers.L2(0.1))
    return encoder, MLPDecoder(table.IMAGE, (8,))


def _mean_in_a_functional_model():
    image = keras.Input(table.IMAGE)
    h = L.Dense(8, "tanh")(L.Flatten()(image))
    h = h - keras.ops.mean(h, axis=0, keepdims=True)
    return keras.Model(image, L.Dense(6)(h)), table.decoder()


def _activation_of_the_user():
    return table.encoder(hidden=[L.Activation(lambda h: h - tf.reduce_mean(h, 0))]), table.decoder()


def _weights_with_a_constraint():
    constrained = {"kernel_constraint": keras.constraints.UnitNorm(axis=0)}
    return table.encoder(**constrained), table.decoder(**constrained)


def _spectral():
    inner = L.SpectralNormalization(L.Dense(8, kernel_initializer=keras.initializers.Ones()))
    return table.encoder(hidden=[inner]), table.decoder()


SLOW_CASES = (
    "softmax over the batch",
    "softmax over the batch, axis -2",
    "unit normalization over the batch",
    "activity regularizer of the package's network",
    "activation of the user",
    "constrained kernels",
    "spectral normalization",
)
BATCH_WISE = {
    "softmax over the batch": _softmax_over_rows,
    "softmax over the batch, axis -2": _softmax_over_rows_from_the_end,
    "unit normalization over the batch": _normalised_over_rows,
    "activity regularizer of the package's network": _regularized_package_network,
    "operation of a functional model": _mean_in_a_functional_model,
    "activation of the user": _activation_of_the_user,
    "constrained kernels": _weights_with_a_constraint,
    "spectral normalization": _spectral,
}


@pytest.mark.parametrize(
    "case", [pytest.param(c, marks=[pytest.mark.slow] * (c in SLOW_CASES)) for c in BATCH_WISE]
)
def test_arrays_with_a_ragged_last_batch_train_as_the_plain_loop(case):
    def build():
        keras.utils.set_random_seed(5)
        return VAE(*BATCH_WISE[case]())

    vae, plain = build(), reference.Loop(build(), keras.optimizers.SGD(table.RATE))
    vae.compile(keras.optimizers.SGD(table.RATE), jit_compile=False)
    history = vae.fit(X, batch_size=8, epochs=2, validation_data=HELD, verbose=0).history
    want = plain.fit(shuffled(), 2, validation=reference.batches(HELD, size=8))
    assert_same_weights(vae, plain)
    assert_same_logs(history, want)


@pytest.mark.slow
def test_an_objective_of_the_user_may_look_at_the_whole_batch():
    vae, plain = shared(), loop(objective=BatchELBO())
    vae.objective = BatchELBO()
    history = vae.fit(X, batch_size=8, epochs=2, shuffle=False, verbose=0).history
    want = plain.fit(ordered(), 2)
    assert_same_weights(vae, plain)
    assert_same_logs(history, want)


def test_a_subclass_that_overrides_a_step_is_called_for_each_batch():
    calls = []

    class Mine(VAE):
        def train_step(self, data):
            calls.append("train")
            return {**super().train_step(data), "mine": tf.constant(1.0)}

        def test_step(self, data):
            calls.append("test")
            return {**super().test_step(data), "mine": tf.constant(2.0)}

    plain = loop()
    want = plain.fit(shuffled(), 2, validation=reference.batches(HELD))
    for data in ({"x": X, "batch_size": 8}, {"x": tf.data.Dataset.from_tensor_slices(X).batch(8)}):
        keras.utils.set_random_seed(5)
        vae = Mine(*table.NETWORKS["mlp"].parts())
        vae.compile(keras.optimizers.SGD(table.RATE), jit_compile=False)
        calls.clear()
        history = vae.fit(**data, validation_data=HELD, epochs=2, verbose=0).history
        assert {"train", "test"} <= set(calls)
        assert history["mine"] == [1.0, 1.0]
        assert history["val_mine"] == [2.0, 2.0]
        if "batch_size" in data:
            assert_same_weights(vae, plain)
            assert_same_logs(history, want)


def test_a_step_of_a_subclass_gets_labels_and_weights():
    seen = []

    class Mine(VAE):
        def train_step(self, data):
            x, y, w = keras.utils.unpack_x_y_sample_weight(data)
            seen.append((x.shape[1:], None if y is None else y.dtype, w is None))
            return super().train_step((x, y, w))

    vae = Mine(*table.NETWORKS["mlp"].parts())
    vae.compile("sgd", jit_compile=False)
    vae.fit(X, np.arange(45), sample_weight=W, batch_size=8, verbose=0)
    assert seen[0][0] == table.IMAGE
    assert seen[0][1] is not None
    assert seen[0][2] is False


def test_a_callback_that_measures_changes_nothing():
    class Measures(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            self.found = self.model.evaluate(HELD, batch_size=4, verbose=0, return_dict=True)
            self.images = self.model.predict(HELD, batch_size=4, verbose=0)

    vae, plain, callback = shared(), loop(), Measures()
    vae.predict(HELD, verbose=0)  # Keras keeps the function that this compiles
    history = vae.fit(X, batch_size=8, epochs=2, callbacks=[callback], verbose=0).history
    want = plain.fit(shuffled(), 2)
    assert_same_weights(vae, plain)
    assert_same_logs(history, want)
    assert_same_logs(callback.found, plain.evaluate(reference.batches(HELD)))
    np.testing.assert_allclose(callback.images, vae.predict(HELD, verbose=0), atol=1e-6)


def test_a_callback_list_is_taken_as_by_keras():
    vae, recorder = shared(), table.Recorder()
    callbacks = keras.callbacks.CallbackList([recorder], add_history=True, model=vae, epochs=1)
    history = vae.fit(X, batch_size=8, callbacks=callbacks, verbose=0)
    assert [which for hook, which in recorder.calls if hook == "batch begins"] == list(range(6))
    assert len(history.history["elbo"]) == 1


def test_lambda_callbacks_see_every_batch():
    seen = []
    callback = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: seen.append((batch, logs["elbo"]))
    )
    vae, plain, recorder = shared(), loop(), table.Recorder()
    vae.fit(X, batch_size=8, callbacks=[callback], verbose=0)
    plain.fit(shuffled(), 1, callbacks=[recorder])
    assert [batch for batch, _ in seen] == list(range(6))
    wanted = [logs["elbo"] for logs in recorder.running]
    np.testing.assert_allclose([elbo for _, elbo in seen], wanted, rtol=2e-5)


def test_max_steps_of_the_keras_configuration_hold():
    vae = shared()
    keras.config.set_max_steps_per_epoch(2)
    keras.config.set_max_epochs(1)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            vae.fit(X, batch_size=8, epochs=3, verbose=0)
    finally:
        keras.config.set_max_steps_per_epoch(None)
        keras.config.set_max_epochs(None)
    assert int(vae.optimizer.iterations) == 2


# ------------------------------------------------- attributes that a callback changes


class Sets(keras.callbacks.Callback):
    """Sets something of the model at the start of an epoch."""

    def __init__(self, action):
        super().__init__()
        self.action = action

    def on_epoch_begin(self, epoch, logs=None):
        self.action(self.model, epoch)


def _beta(model, epoch):
    model.objective.beta = 5.0 * epoch + 0.5


def _objective(model, epoch):
    if epoch == 1:
        model.objective = ELBO(beta=4.0)


def _seed(model, epoch):
    model.seed = epoch


def _binarization(model, epoch):
    model.binarization = ("dynamic", "threshold", "dynamic")[epoch]


@pytest.mark.parametrize(
    "action",
    [_beta, *(pytest.param(f, marks=pytest.mark.slow) for f in (_seed, _objective, _binarization))],
)
def test_a_setting_that_a_callback_changes_acts_from_the_next_step_on(action):
    vae, plain = shared(), loop()
    if action is _beta:
        vae.objective, plain.vae.objective = ELBO(beta=0.5), ELBO(beta=0.5)
    calls = [Sets(action)]
    history = vae.fit(
        X, batch_size=8, epochs=3, shuffle=False, callbacks=calls, validation_data=HELD, verbose=0
    ).history

    # The loop has attributes of its own; a callback must reach those of the VAE.
    class Inner(Sets):
        def on_epoch_begin(self, epoch, logs=None):
            self.action(self.model.vae, epoch)

    want = plain.fit(ordered(), 3, callbacks=[Inner(action)], validation=reference.batches(HELD))
    assert_same_weights(vae, plain)
    for name in ("elbo", "loss", "val_elbo", "val_loss"):
        np.testing.assert_allclose(history[name], want[name], rtol=2e-5, err_msg=name)
    if action is _beta:
        np.testing.assert_allclose(history["kl_weight"], [0.5, 5.5, 10.5], rtol=1e-6)


@keras.saving.register_keras_serializable(package="conformance")
class ListedELBO(ELBO):
    """A user's objective whose setting is in a list or an array."""

    def __init__(self, **more):
        super().__init__(**more)
        self.factors = [1.0]

    def __call__(self, x, infer, noise, step=None):
        objective, terms = super().__call__(x, infer, noise, step)
        return objective - self.factors[0] * terms.kl, terms


@pytest.mark.parametrize("make", slow_except([list], [list, np.float32]))
def test_a_setting_of_a_user_s_objective_acts_from_the_next_step_on(make):
    class Changes(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            vae = getattr(self.model, "vae", self.model)
            vae.objective.factors = make([5.0 * epoch])

    vae, plain = shared(), loop(objective=ListedELBO())
    vae.objective = ListedELBO()
    vae.fit(X, batch_size=8, epochs=2, shuffle=False, callbacks=[Changes()], verbose=0)
    plain.fit(ordered(), 2, callbacks=[Changes()])
    assert_same_weights(vae, plain)


def test_a_beta_that_changes_with_every_batch():
    class Anneals(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            vae = getattr(self.model, "vae", self.model)
            vae.objective.beta = 0.5 + batch

    vae, plain = shared(), loop(objective=ELBO(beta=0.5))
    vae.objective = ELBO(beta=0.5)
    vae.fit(X, batch_size=8, shuffle=False, callbacks=[Anneals()], verbose=0)
    plain.fit(ordered(), 1, callbacks=[Anneals()])
    assert_same_weights(vae, plain)


def test_the_rate_set_between_two_fits_acts():
    vae = shared()
    vae.fit(X, batch_size=8, verbose=0)
    before = vae.get_weights()
    vae.optimizer.learning_rate = 0.0
    vae.fit(X, batch_size=8, verbose=0)
    for a, b in zip(before, vae.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.slow
def test_a_layer_that_is_frozen_before_compile_stays():
    vae = fresh()
    vae.fit(X, batch_size=8, verbose=0)
    vae.encoder.trainable = False
    vae.compile(keras.optimizers.SGD(table.RATE), jit_compile=False)
    before, decoder = vae.encoder.get_weights(), vae.decoder.get_weights()
    vae.fit(X, batch_size=8, verbose=0)
    for a, b in zip(before, vae.encoder.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    assert np.abs(decoder[0] - vae.decoder.get_weights()[0]).max() > 1e-5


# ------------------------------------------------------------- monitors and first contact


@pytest.mark.parametrize(
    ("monitor", "best"),
    [
        ("val_elbo", max),
        ("kl", min),
        pytest.param("elbo", max, marks=pytest.mark.slow),
        pytest.param("val_log_likelihood", max, marks=pytest.mark.slow),
        pytest.param("val_loss", min, marks=pytest.mark.slow),
    ],
)
def test_callbacks_know_which_direction_of_a_log_is_better(trained, monitor, best, tmp_path):
    """`mode="auto"` keeps the best model, or asks for the mode; it never keeps the worst."""
    values = []

    class Changes(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            bias = self.model.decoder.trainable_variables[1]
            bias.assign(np.full(bias.shape, (0.0, -0.2, 0.3, 0.1)[epoch]))

        def on_epoch_end(self, epoch, logs=None):
            values.append(logs[monitor])

    saver = keras.callbacks.ModelCheckpoint(
        tmp_path / "best.weights.h5", monitor, save_best_only=True, save_weights_only=True
    )
    calls, said = [Changes(), saver], ""
    try:
        trained.fit(X, batch_size=8, epochs=4, validation_data=HELD, callbacks=calls, verbose=0)
    except ValueError as error:
        said = str(error)  # Keras' own sentence, where it does not know the direction
    assert "mode='max'" in said or saver.best == best(values)


@pytest.mark.slow
@pytest.mark.parametrize("way", slow_except(["arrays", "dataset of x"], table.WAYS))
def test_a_model_that_is_not_built_yet_is_trained_from_every_way_in(way):
    def unbuilt():
        keras.utils.set_random_seed(3)
        vae = VAE(
            keras.Sequential([L.Flatten(), L.Dense(6)]),
            keras.Sequential([L.Dense(144), L.Reshape(table.IMAGE)]),
        )
        vae.compile(keras.optimizers.SGD(table.RATE), jit_compile=False)
        return vae

    images = table.WAYS[way].prepare(X)
    vae, built = unbuilt(), unbuilt()
    assert not vae.built
    built.build((None, *table.IMAGE))
    for each in (vae, built):
        if way == "train_on_batch":
            each.train_on_batch(images)
        else:
            each.fit(**table.WAYS[way].arguments(images, W), verbose=0)
    assert_same_weights(vae, built)


# -------------------------------------------------------------------------- optimizers


def test_accumulated_micro_batches_have_noise_of_their_own():
    """One image repeated and a rate of 0: only the noise tells the batches apart."""
    one = np.repeat(table.discs(1), 32, axis=0)
    zero = keras.optimizers.SGD(0.0, gradient_accumulation_steps=4)
    vae = fresh(optimizer=zero)
    seen = [
        vae.train_on_batch(one[start : start + 8], return_dict=True)["elbo"]
        for start in range(0, 32, 8)
    ]
    assert len({round(float(value), 3) for value in seen}) == 4


def test_a_dynamic_loss_scale_skips_the_steps_that_overflow():
    def optimizer():
        inner = keras.optimizers.SGD(table.RATE, clipnorm=0.5)
        return keras.optimizers.LossScaleOptimizer(inner, initial_scale=2.0**126)

    objective = {"objective": ELBO(beta=100.0)}  # with large gradients
    vae, plain = fresh(optimizer=optimizer(), **objective), loop(optimizer=optimizer(), **objective)
    history = vae.fit(X, batch_size=8, epochs=3, shuffle=False, verbose=0).history
    want = plain.fit(ordered(), 3)
    steps = int(plain.optimizer.iterations)
    assert 0 < steps < 18, "the case must overflow at first, and then train"
    assert int(vae.optimizer.iterations) == steps
    assert float(vae.optimizer.dynamic_scale) == float(plain.optimizer.dynamic_scale)
    assert_same_weights(vae, plain)
    assert_same_logs(history, want)


def test_nothing_trainable_warns_and_measures():
    vae = table.build("mlp")
    vae.trainable = False
    vae.compile("sgd", jit_compile=False)
    before = vae.get_weights()
    with pytest.warns(UserWarning, match="trainable"):
        history = vae.fit(X, batch_size=8, shuffle=False, verbose=0).history
    assert np.isfinite(history["elbo"]).all()
    batches = tf.data.Dataset.from_tensor_slices(X).batch(8)
    np.testing.assert_allclose(vae.fit(batches, verbose=0).history["elbo"], history["elbo"])
    for a, b in zip(before, vae.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.slow
@pytest.mark.parametrize("name", EVERY_OPTIMIZER)
def test_every_optimizer_of_keras_trains_as_in_the_plain_loop(name):
    vae = fresh(optimizer=getattr(keras.optimizers, name)())
    plain = loop(optimizer=getattr(keras.optimizers, name)())
    start = plain.get_weights()
    vae.fit(X, batch_size=8, verbose=0)
    plain.fit(shuffled(), 1)
    moved = max(np.abs(a - b).max() for a, b in zip(start, plain.get_weights(), strict=True))
    assert_same_weights(vae, plain, tolerance=0.02 * moved)


@pytest.mark.slow
@pytest.mark.parametrize("network", ["mlp", "batch normalization", "two outputs"])
def test_run_eagerly_changes_no_number(network):
    vae, plain = table.build(network), loop(network)
    vae.compile(keras.optimizers.SGD(table.RATE), run_eagerly=True)
    history = vae.fit(X, batch_size=8, epochs=2, validation_data=HELD, verbose=0).history
    want = plain.fit(shuffled(), 2, validation=reference.batches(HELD, size=8))
    assert_same_weights(vae, plain, 1e-4)
    assert_same_logs(history, want)
