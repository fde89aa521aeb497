"""One step over several replicas is the step of one device."""

import contextlib
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.conftest import needs_muon, slow_except, small_vae
from vae_keras.optimizers import Muon
from vae_keras.trainer import replicas
from vae_keras.trainer.nonfinite import Diverged
from vae_keras.utils import checks

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What `replica_process.py` found: (case, replicas) to its results."""
    path = tmp_path_factory.mktemp("replicas") / "found.npz"
    command = [sys.executable, "-m", "tests.trainer.replica_process", str(path)]
    subprocess.run(command, cwd=ROOT, check=True, timeout=300)
    results: dict[tuple[str, int], dict[str, np.ndarray]] = {}
    with np.load(path) as file:
        for key in file.files:
            case, replicas, name = key.split()
            results.setdefault((case, int(replicas)), {})[name] = file[key]
    return results


@pytest.mark.slow
@pytest.mark.parametrize(
    ("case", "replicas"),
    [
        ("arrays", 1),
        ("arrays", 2),
        ("arrays", 4),
        ("compiled", 1),
        ("compiled", 2),
        ("dataset", 2),
        ("weighted", 2),
    ],
)
def test_replicas_change_nothing_beyond_float_error(found, case, replicas):
    one, several = found[case, 0], found[case, replicas]
    assert set(one) == set(several)
    assert several["steps"] == one["steps"] == (20 if case == "compiled" else 10)
    for name, value in one.items():
        np.testing.assert_allclose(several[name], value, rtol=2e-6, atol=2e-6, err_msg=name)


@pytest.mark.slow
def test_the_case_moves_the_weights_further_than_the_tolerance(found):
    start = np.concatenate([w.ravel() for w in small_vae().get_weights()])
    assert np.abs(found["arrays", 0]["weights"] - start).max() > 1e-3
    assert np.ptp(found["arrays", 0]["elbo"]) > 1e-3


@pytest.fixture(scope="module")
def made():
    return tf.distribute.MirroredStrategy(["CPU:0"], tf.distribute.ReductionToOneDevice())


@pytest.fixture
def strategy(made):
    """A strategy inside of whose scope a test runs: one replica takes the steps of several ones."""
    with made.scope():
        yield made


class Ends(keras.callbacks.Callback):
    """Notes the last batch of each compiled call."""

    runs_per_execution = True

    def __init__(self):
        super().__init__()
        self.found = []

    def on_train_batch_end(self, batch, logs=None):
        self.found.append(batch)


def compiled_vae(steps="auto", optimizer=keras.optimizers.Adam, xla=False):
    vae = small_vae()
    vae.compile(optimizer(0.01), steps_per_execution=steps, jit_compile=xla)
    return vae


def test_one_replica_trains_as_no_strategy_does(made, digits):
    """Inside of the scope up to float error; outside of it to the last bit, in the same calls."""

    def trained(strategy, inside=False):
        with strategy.scope() if strategy else contextlib.nullcontext():
            vae = compiled_vae()
        with strategy.scope() if inside else contextlib.nullcontext():
            history = vae.fit(digits[:50], batch_size=20, epochs=2, verbose=0)
        return vae.num_calls, history.history["elbo"], vae.get_weights()

    calls, elbo, weights = trained(None)
    assert calls == 2
    _, shared_elbo, shared_weights = trained(made, inside=True)
    np.testing.assert_allclose(shared_elbo, elbo, rtol=1e-5)
    for ours, theirs in zip(shared_weights, weights, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0.0, atol=2e-6)
    own_calls, own_elbo, own_weights = trained(made)
    assert (own_calls, own_elbo) == (calls, elbo)
    for ours, theirs in zip(own_weights, weights, strict=True):
        np.testing.assert_array_equal(ours, theirs)


CALLS = {4: [3, 7, 3, 7], "auto": [5, 5]}


@pytest.mark.parametrize(("steps", "ends"), slow_except([(4, CALLS[4])], CALLS.items()))
def test_several_batches_a_call_change_no_bit(strategy, digits, steps, ends):
    """Six batches, the last one ragged, in calls that hold all of them or end in the middle."""
    several, one = compiled_vae(steps), compiled_vae(1)
    noted = Ends()
    given = {"batch_size": 11, "epochs": 2, "validation_data": digits[:25], "verbose": 0}
    history = [
        vae.fit(digits, callbacks=callbacks, **given).history
        for vae, callbacks in ((several, [noted]), (one, []))
    ]
    assert noted.found == ends
    assert history[0] == history[1]
    assert several.optimizer.iterations == one.optimizer.iterations == 12
    for a, b in zip(several.get_weights(), one.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    assert several.evaluate(digits, batch_size=11, verbose=0) == one.evaluate(
        digits, batch_size=11, verbose=0
    )


@pytest.mark.slow
@pytest.mark.parametrize("skipped", [3, 5, 6])
def test_a_run_goes_on_within_a_call(strategy, digits, skipped):
    whole, first, second = (compiled_vae(steps) for steps in (1, 1, 4))
    whole.fit(digits, batch_size=11, epochs=2, verbose=0)

    class Stop(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            self.model.stop_training = batch + 1 == skipped

    first.fit(digits, batch_size=11, callbacks=[Stop()], verbose=0)
    second.optimizer.build(second.trainable_variables)

    def state(vae):
        return [variable for metric in vae.metrics for variable in metric.variables]

    class Restore(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 0:
                for new, old in zip(state(second), state(first), strict=True):
                    new.assign(old)

    second.set_weights(first.get_weights())
    for new, old in zip(second.optimizer.variables, first.optimizer.variables, strict=True):
        new.assign(old)
    second.steps_to_skip = skipped
    second.fit(digits, batch_size=11, epochs=2, callbacks=[Restore()], verbose=0)
    assert second.optimizer.iterations == 12
    for a, b in zip(second.get_weights(), whole.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_several_batches_of_a_dataset_in_a_call_are_refused(strategy, digits):
    vae = compiled_vae(5)
    before = vae.get_weights()
    with pytest.raises(checks.InputError, match=r"one batch of a dataset. Received: .* 5"):
        vae.fit(tf.data.Dataset.from_tensor_slices(digits).batch(20), verbose=0)
    np.testing.assert_array_equal(vae.get_weights()[0], before[0])


class Spoilt(keras.optimizers.SGD):
    """Spoils the weights in the third step."""

    def update_step(self, gradient, variable, learning_rate):
        bad = tf.equal(self.iterations, 2)
        super().update_step(tf.where(bad, np.nan, gradient), variable, learning_rate)


def test_a_numpy_number_of_batches_is_a_number(strategy, digits):
    assert "elbo" in compiled_vae(np.int64(3)).evaluate(digits, verbose=0, return_dict=True)


@pytest.mark.slow
def test_a_fault_that_a_callback_waits_for_leaves_the_epochs_as_they_are(strategy, digits):
    vae = compiled_vae(6, Spoilt)
    vae.fit(digits, batch_size=10, callbacks=[keras.callbacks.TerminateOnNaN()], verbose=0)
    assert vae.optimizer.iterations == 6


def test_a_fault_ends_a_call_of_several_batches_at_its_step(strategy, digits):
    vae = compiled_vae(6, Spoilt)
    with pytest.raises(Diverged) as caught:
        vae.fit(digits, batch_size=10, verbose=0)
    assert caught.value.step == 3  # the weights were spoilt by the step before
    assert vae.optimizer.iterations == 4


@pytest.mark.parametrize(
    "optimizer",
    [keras.optimizers.Adam, pytest.param(Muon, marks=[pytest.mark.slow, needs_muon])],
)
def test_xla_compiles_the_update_of_the_optimizer_too(strategy, digits, optimizer, monkeypatch):
    kernels = []
    make = replicas.graphs.compiled

    def noted(function, *given, jit_compile=None):
        kernels.append(bool(jit_compile))
        return make(function, *given, jit_compile=jit_compile)

    monkeypatch.setattr(replicas.graphs, "compiled", noted)
    plain, compiled = (compiled_vae(1, optimizer, xla) for xla in (False, True))
    for vae, count in ((plain, 0), (compiled, 3)):
        kernels.clear()
        vae.fit(digits, batch_size=20, verbose=0)
        assert sum(kernels) == count  # the gradient, the totals and the updates
        assert "_distributed_tf_update_step" not in vars(vae.optimizer)
    for a, b in zip(plain.get_weights(), compiled.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-5)


def test_single_batches_are_refused(strategy, digits):
    with pytest.raises(checks.InputError, match=r"through fit or evaluate. Received: a generator"):
        small_vae().train_on_batch(digits[:4])


def test_networks_without_shapes_are_built_from_a_dataset(made, digits):
    def build():
        encoder = [keras.layers.Flatten(), keras.layers.Dense(6, kernel_initializer="ones")]
        decoder = [
            keras.layers.Dense(36, kernel_initializer="ones"),
            keras.layers.Reshape((6, 6, 1)),
        ]
        return small_vae(encoder=keras.Sequential(encoder), decoder=keras.Sequential(decoder))

    def elbo(vae):
        assert not vae.built
        batches = tf.data.Dataset.from_tensor_slices(digits[..., 0]).batch(20)
        return vae.fit(batches, verbose=0).history["elbo"]

    want = elbo(build())
    with made.scope():
        one = build()
        np.testing.assert_allclose(elbo(build()), want, rtol=1e-6)
    assert elbo(one) == want


def test_a_request_to_stop_is_what_all_are_told(strategy, digits):
    told = []

    class Tell(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            told.append(self.model.all_stop)

    vae = small_vae()
    asked = iter([False, True, False])
    vae.wants_stop = lambda: next(asked)
    vae.fit(digits, batch_size=20, callbacks=[Tell()], verbose=0)
    assert told == [False, True, False]
