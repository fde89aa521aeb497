"""Ways of using Keras that its users know, with the outcome of a plain Keras model.

A test trains or measures a small plain model beside ours, or states what Keras' documentation
promises. Somebody who finds another idiom that comes out otherwise adds a test here.
"""

from __future__ import annotations

import copy
import math
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.conformance import configurations as table
from vae_keras import ELBO, VAE, MLPDecoder, MLPEncoder
from vae_keras.trainer import inputs

L = keras.layers
X = table.discs(45)


def made(kind: type[VAE] = VAE, optimizer: Any = None, **compiled: Any) -> VAE:
    """A compiled model of a subclass, as good as new. By default its steps are not traced."""
    keras.utils.set_random_seed(5)
    vae = kind(*table.NETWORKS["mlp"].parts())
    how = compiled or {"run_eagerly": True}
    vae.compile(optimizer or keras.optimizers.SGD(table.RATE), **how)
    return vae


def twin() -> keras.Model:
    model = keras.Sequential([keras.Input(table.IMAGE), L.Flatten(), L.Dense(1)])
    model.compile("sgd", "mse", run_eagerly=True)
    return model


def taken(model: keras.Model) -> int:
    return int(model.optimizer.iterations)


# ------------------------------------------------------------- numbers of steps and of batches


class Batches(keras.callbacks.Callback):
    """Counts the batches of each kind."""

    def __init__(self) -> None:
        super().__init__()
        self.trained = self.measured = self.predicted = 0

    def on_train_batch_end(self, batch, logs=None):
        self.trained += 1

    def on_test_batch_end(self, batch, logs=None):
        self.measured += 1

    def on_predict_batch_end(self, batch, logs=None):
        self.predicted += 1


def counted(model: keras.Model, x: np.ndarray, y: Any) -> list[Any]:
    """What a number of steps without a batch size does."""
    fitted, split, measured, predicted = Batches(), Batches(), Batches(), Batches()
    quiet = {"verbose": 0}
    held = x if y is None else (x, y)
    model.fit(x, y, steps_per_epoch=5, epochs=2, callbacks=[fitted], **quiet)
    model.fit(x, y, validation_split=0.2, validation_steps=3, callbacks=[split], **quiet)
    model.fit(x, y, validation_data=held, validation_steps=4, callbacks=[split], **quiet)
    model.evaluate(x, y, steps=2, callbacks=[measured], **quiet)
    rows = len(model.predict(x, steps=6, callbacks=[predicted], **quiet))
    everything = [vars(each) for each in (fitted, split, measured, predicted)]
    return [rows, [(e["trained"], e["measured"], e["predicted"]) for e in everything]]


class Idle(VAE):
    """Its steps do nothing, where only the batches count."""

    def train_step(self, data):
        return {"loss": 0.0}

    def test_step(self, data):
        return {"loss": 0.0}

    def predict_step(self, data):
        return data


@pytest.mark.slow
def test_steps_without_a_batch_size_cover_all_rows():
    x = np.concatenate([X] * 4)
    assert counted(made(Idle), x, None) == counted(twin(), x / 255, np.zeros(len(x)))
    vae = made()
    in_steps = vae.evaluate(x, steps=7, verbose=0)
    np.testing.assert_allclose(in_steps, vae.evaluate(x, verbose=0), rtol=1e-5)


def test_the_limit_of_keras_on_steps_sets_the_batch_size_too():
    x = np.concatenate([X] * 4)
    keras.config.set_max_steps_per_epoch(2)
    try:
        with pytest.warns(UserWarning, match="Limiting steps_per_epoch"):
            assert len(made().predict(x, verbose=0)) == len(x)
    finally:
        keras.config.set_max_steps_per_epoch(None)


@pytest.mark.parametrize("hook", ["on_train_begin", "on_epoch_begin"])
def test_training_that_is_stopped_before_a_batch_takes_one(hook):
    def stop(model: keras.Model) -> keras.callbacks.Callback:
        def now(*_: Any) -> None:
            model.stop_training = True

        return keras.callbacks.LambdaCallback(**{hook: now})

    vae, plain = made(jit_compile=False), twin()
    vae.fit(X, batch_size=8, callbacks=[stop(vae)], verbose=0)
    plain.fit(X, np.zeros(45), batch_size=8, callbacks=[stop(plain)], verbose=0)
    assert taken(vae) == taken(plain) == 1
    vae.fit(X, batch_size=8, verbose=0)
    assert taken(vae) == 7


@pytest.mark.slow
def test_a_stop_before_a_call_of_several_batches_leaves_it_whole_as_keras_does():
    def stop(model: keras.Model, name: str) -> keras.callbacks.Callback:
        return keras.callbacks.LambdaCallback(
            **{f"on_{name}_begin": lambda *_: setattr(model, ENDS[name], True)}
        )

    ENDS = {"train": "stop_training", "test": "stop_evaluating"}
    vae, plain = made(jit_compile=False, steps_per_execution=4), twin()
    plain.compile("sgd", "mse", steps_per_execution=4)
    vae.fit(X, batch_size=8, callbacks=[stop(vae, "train")], verbose=0)
    plain.fit(X, np.zeros(45), batch_size=8, callbacks=[stop(plain, "train")], verbose=0)
    assert taken(vae) == taken(plain) == 4
    vae = made(jit_compile=False)
    measured = {"batch_size": 8, "verbose": 0}
    stopped = vae.evaluate(X, callbacks=[stop(vae, "test")], **measured)
    np.testing.assert_allclose(stopped, vae.evaluate(X[:8], **measured), rtol=1e-6)
    assert stopped != vae.evaluate(X, **measured)


def test_a_number_of_steps_in_a_call_that_is_assigned_counts():
    vae = made(jit_compile=False, steps_per_execution=2)
    vae.steps_per_execution = 3
    vae.fit(X, batch_size=8, verbose=0)
    assert taken(vae) == 6


def test_more_steps_in_a_call_than_memory_holds_are_read_batch_by_batch(monkeypatch):
    monkeypatch.setattr(inputs.Arrays, "largest_stack", lambda *_: 2)
    stacks = []
    monkeypatch.setattr(inputs.pipelines, "stacks", lambda *_: stacks.append(1))
    vae = made(jit_compile=False, steps_per_execution=1000)
    vae.fit(X, batch_size=8, verbose=0)
    assert not stacks
    assert taken(vae) == 6


def test_a_number_of_steps_in_a_call_may_be_above_what_auto_takes():
    arrays = inputs.Arrays(X, None, None, batch_size=8)
    assert arrays.largest_stack(50) == 50
    assert arrays.largest_stack(100) == 100
    assert arrays.largest_stack(1000) == 6000 // 8


def test_a_refused_compile_leaves_the_model_as_it_was():
    vae = made(jit_compile=False)
    with pytest.raises(ValueError, match="optimizer must be"):
        vae.compile("adamm", steps_per_execution=4, jit_compile=True)
    vae.fit(X, batch_size=8, verbose=0)
    assert taken(vae) == 6


def test_the_frequency_of_validation_may_be_a_number_of_numpy_or_a_tuple():
    for frequency in (np.int64(2), (2,)):
        arguments = {"validation_data": X[:8], "validation_freq": frequency, "epochs": 2}
        history = made().fit(X[:8], **arguments, verbose=0)
        assert len(history.history["val_loss"]) == 1


def test_validation_data_go_before_a_split_for_datasets_too():
    batches = tf.data.Dataset.from_tensor_slices(X).batch(8)
    history = made().fit(batches, validation_data=X, validation_split=0.1, verbose=0)
    assert np.isfinite(history.history["val_loss"]).all()


def test_a_prediction_reads_no_weights():
    vae, weights = made(), np.full(45, -1.0)
    expected = vae.predict(X, verbose=0)
    in_batches = tf.data.Dataset.from_tensor_slices((X, weights, weights)).batch(32)
    generated = ((X[i : i + 32], None, weights[i : i + 32]) for i in (0, 32))
    for data in ((X, None, weights), in_batches, generated):
        np.testing.assert_allclose(vae.predict(data, verbose=0), expected, rtol=1e-6)


# --------------------------------------------------------------------------------- subclasses


def test_a_subclass_adds_metrics_and_layers_after_the_constructor_of_the_model():
    class Mine(VAE):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self.error = keras.metrics.Mean("error")
            self.head = L.Dense(1)
            self.head.build((None, table.LATENTS))

        def train_step(self, data):
            logs = super().train_step(data)
            self.error.update_state(3.0)
            return logs | {"error": self.error.result()}

    vae = made(Mine)
    history = vae.fit(X, batch_size=8, verbose=0).history
    assert history["error"] == [3.0]
    assert len(vae.trainable_variables) == len(made().trainable_variables) + 2


class OwnSteps(VAE):
    """Replaces both steps and uses nothing of the trainer in them."""

    def train_step(self, data):
        images = self.unpack(data)[0]
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(tf.square(self.encoder(images)))
        gradients = tape.gradient(loss, self.encoder.trainable_variables)
        self.optimizer.apply_gradients(
            zip(gradients, self.encoder.trainable_variables, strict=True)
        )
        return {"mine": loss}

    def test_step(self, data):
        return {"mine": tf.constant(2.0)}


def test_own_steps_need_not_use_the_metrics_of_the_trainer():
    vae = made(OwnSteps)
    vae.decoder.trainable = False
    vae.compile(keras.optimizers.SGD(table.RATE), run_eagerly=True)
    arguments = {"batch_size": 8, "epochs": 2, "validation_data": X, "shuffle": False}
    history = vae.fit(X, **arguments, verbose=0).history
    assert history["mine"][1] < history["mine"][0]
    assert history["val_mine"] == [2.0, 2.0]
    assert vae.evaluate(X, verbose=0, return_dict=True) == {"mine": 2.0}


def test_an_own_step_gets_images_by_themselves_as_with_keras():
    seen = []

    class Mine(VAE):
        def train_step(self, data):
            seen.append(data)
            return super().train_step(data)

        def test_step(self, data):
            seen.append(data)
            return super().test_step(data)

    vae = made(Mine)
    vae.fit(X, batch_size=45, validation_data=X, verbose=0)
    vae.evaluate(X, batch_size=45, verbose=0)
    assert [part.shape for part in seen] == [X.shape] * 3


def test_an_own_step_gets_labels_in_keras_float_type():
    seen = []

    class Mine(VAE):
        def train_step(self, data):
            seen.append(data[1].dtype)
            return super().train_step(data)

    made(Mine).fit(X, np.linspace(0, 1, 45), batch_size=8, verbose=0)
    assert seen[0] == tf.float32


@pytest.mark.parametrize(
    "labels",
    [
        np.arange(90).reshape(45, 2).astype(">i4"),
        np.array([["Wal", "B\u00e4r"]] * 45),
        np.array([["Wal", "B\u00e4r"]] * 45, object),
    ],
    ids=["numbers of the other byte order", "texts", "objects"],
)
@pytest.mark.parametrize("columns", [1, 2])
def test_an_own_step_gets_labels_of_every_kind(labels, columns):
    seen = []

    class Mine(VAE):
        def train_step(self, data):
            seen.append(data[1].numpy())
            return super().train_step(data)

    vae = made(Mine)
    vae.compile(keras.optimizers.SGD(table.RATE), run_eagerly=True)
    labels = labels[:, 0] if columns == 1 else labels
    vae.fit(X, labels, batch_size=45, shuffle=False, verbose=0)
    np.testing.assert_array_equal(seen[0], tf.constant(labels).numpy())


@pytest.mark.parametrize("name", ["compute_loss", "compute_metrics"])
def test_a_method_that_no_step_calls_is_refused(name):
    kind = type("Mine", (VAE,), {name: lambda self, *args, **kwargs: 0.0})
    with pytest.raises(ValueError, match=f"do not call {name}. Received: Mine"):
        made(kind)
    made(type("WithSteps", (kind,), {"train_step": OwnSteps.train_step}))


@keras.saving.register_keras_serializable(package="conformance")
class OwnCompile(VAE):
    def compile(self, optimizer="sgd", alpha=0.5, **kwargs):
        super().compile(optimizer, **kwargs)
        self.alpha = alpha


def test_a_subclass_with_its_own_compile_is_loaded_as_by_keras(tmp_path):
    keras.utils.set_random_seed(5)
    vae = OwnCompile(*table.NETWORKS["mlp"].parts())
    vae.compile("sgd", alpha=2.0, run_eagerly=True)
    vae.save(tmp_path / "mine.keras")
    with pytest.warns(UserWarning, match="was not called as part of model loading"):
        loaded = keras.saving.load_model(tmp_path / "mine.keras")
    with pytest.raises(ValueError, match="Call compile"):
        loaded.fit(X, verbose=0)
    loaded.compile(alpha=2.0, run_eagerly=True)
    loaded.fit(X, batch_size=8, verbose=0)


# ---------------------------------------------------------------------------------- optimizers


def test_an_evaluation_leaves_the_optimizer_as_it_is():
    vae = made(optimizer=keras.optimizers.Adam(table.RATE))
    vae.encoder.trainable = False
    optimizer = keras.optimizers.Adam(table.RATE)
    vae.compile(optimizer, run_eagerly=True)
    vae.evaluate(X, verbose=0)
    assert not optimizer.built
    vae.encoder.trainable = True
    vae.compile(optimizer, run_eagerly=True)
    before = vae.encoder.get_weights()
    vae.fit(X, batch_size=8, verbose=0)
    assert all((a != b).any() for a, b in zip(before, vae.encoder.get_weights(), strict=True))


@pytest.mark.skipif(
    not hasattr(keras.optimizers, "MultiOptimizer"), reason="this version of Keras lacks it"
)
def test_several_optimizers_share_the_weights():
    def several(rate_of_biases: float) -> keras.optimizers.Optimizer:
        rest = keras.optimizers.SGD(table.RATE)
        biases = {".*bias": keras.optimizers.SGD(rate_of_biases)}
        return keras.optimizers.MultiOptimizer(keras.optimizers.OptimizerMap(rest, biases))

    plain, same, frozen = made(), made(optimizer=several(table.RATE)), made(optimizer=several(0.0))
    start = plain.get_weights()
    for vae in (plain, same, frozen):
        vae.fit(X, batch_size=8, verbose=0)
    for a, b in zip(plain.get_weights(), same.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-6)
    for a, b in zip(frozen.get_weights(), start, strict=True):
        assert (a == b).all() == (a.ndim == 1)


def test_the_loss_is_scaled_for_float16_unless_told_otherwise():
    def optimizer_of(**arguments: Any) -> keras.optimizers.Optimizer:
        vae = table.build("mixed float16")
        vae.compile("sgd", jit_compile=False, **arguments)
        return copy.deepcopy(vae).optimizer

    assert isinstance(optimizer_of(), keras.optimizers.LossScaleOptimizer)
    assert isinstance(optimizer_of(auto_scale_loss=False), keras.optimizers.SGD)


# ----------------------------------------------------------------------------------- callbacks


class Poisons(keras.callbacks.Callback):
    """Makes a weight NaN before the third batch, and notes which hooks follow."""

    def __init__(self) -> None:
        super().__init__()
        self.ended: list[str] = []

    def on_train_batch_begin(self, batch, logs=None):
        if batch == 2:
            variable = self.model.trainable_variables[0]
            variable.assign(np.full(variable.shape, math.nan))

    def on_epoch_end(self, epoch, logs=None):
        self.ended.append("epoch")

    def on_train_end(self, logs=None):
        self.ended.append("train")


def test_terminate_on_nan_ends_the_training_as_in_keras():
    found = []
    for model, y in ((made(), None), (twin(), np.zeros(45))):
        callback = Poisons()
        stops = [callback, keras.callbacks.TerminateOnNaN()]
        history = model.fit(
            X.astype("float32") / 255, y, batch_size=8, epochs=3, callbacks=stops, verbose=0
        ).history
        found.append((callback.ended, np.isnan(history["loss"]).tolist()))
    assert found[0] == found[1] == (["epoch", "train"], [True])
    with pytest.raises(FloatingPointError, match="at step 2"):
        made().fit(X, batch_size=8, callbacks=[Poisons()], verbose=0)


def test_the_progress_line_shows_what_a_schedule_logs(capsys):
    schedule = keras.callbacks.LearningRateScheduler(lambda epoch: 1e-3)
    made().fit(X, batch_size=8, verbose=2, callbacks=[schedule])
    assert "learning_rate: " in capsys.readouterr().out


def test_a_callback_list_is_given_back_as_it_was():
    vae = made()
    given = keras.callbacks.CallbackList([], add_history=True, model=vae, epochs=1)
    before = [*given.callbacks]
    for _ in range(2):
        vae.fit(X, callbacks=given, verbose=0)
    with pytest.raises(ValueError, match="batch_size"):
        vae.fit(X, callbacks=given, batch_size=0)
    assert given.callbacks == before


def test_an_error_of_a_callback_reaches_the_user():
    def broken(batch, logs):
        if batch < 0:
            value = 1
        print(value)

    callback = keras.callbacks.LambdaCallback()
    callback.on_predict_batch_end = broken
    with pytest.raises(UnboundLocalError, match="value"):
        made().predict(X, callbacks=[callback], verbose=0)


# -------------------------------------------------------------------------------------- layers


@keras.saving.register_keras_serializable(package="conformance")
class Masked(L.Layer):
    """Keeps a constant of minus infinity, as masks do."""

    def build(self, shape):
        minus = keras.initializers.Constant(-math.inf)
        self.floor = self.add_weight(shape=(), initializer=minus, trainable=False, name="floor")

    def call(self, h):
        return keras.ops.maximum(h, self.floor)

    def compute_output_shape(self, shape):
        return shape


def test_a_constant_that_is_not_finite_is_not_a_fault():
    keras.utils.set_random_seed(5)
    vae = VAE(table.encoder(hidden=[Masked()]), table.decoder())
    vae.compile("sgd", run_eagerly=True)
    assert np.isfinite(vae.fit(X, batch_size=8, verbose=0).history["loss"]).all()


def test_a_constant_of_a_model_that_its_first_batch_builds_is_not_a_fault():
    keras.utils.set_random_seed(5)
    vae = VAE(
        keras.Sequential([L.Flatten(), Masked(), L.Dense(2 * table.LATENTS)]),
        keras.Sequential([L.Dense(144), L.Reshape(table.IMAGE)]),
    )
    vae.compile("sgd", run_eagerly=True)
    assert not vae.built
    batches = (X[i : i + 8] for i in range(0, 40, 8))
    assert np.isfinite(vae.fit(batches, verbose=0).history["loss"]).all()


def test_a_change_of_trainable_without_compile_does_nothing_whatever_the_callbacks():
    class Hooked(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            pass

    vae = made(jit_compile=False)
    vae.fit(X, batch_size=8, verbose=0)
    vae.encoder.trainable = False
    before = vae.encoder.get_weights()
    vae.fit(X, batch_size=8, callbacks=[Hooked()], verbose=0)
    assert any((a != b).any() for a, b in zip(before, vae.encoder.get_weights(), strict=True))


def test_a_new_objective_decides_anew_whether_xla_compiles_the_step():
    class Mine(ELBO):
        """Calls Python, which XLA cannot."""

        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            objective, terms = super().__call__(*args, **kwargs)
            called = tf.py_function(lambda x: x, [objective], tf.float32)
            return tf.ensure_shape(called, objective.shape), terms

    keras.utils.set_random_seed(5)
    vae = VAE(MLPEncoder(3, (8,)), MLPDecoder(table.IMAGE, (8,)))
    vae.compile("sgd")
    vae.evaluate(X, batch_size=8, verbose=0)
    assert vae.uses_xla
    vae.objective = Mine()
    vae.evaluate(X, batch_size=8, verbose=0)
    assert not vae.uses_xla
