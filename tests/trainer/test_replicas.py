"""One step over several replicas is the step of one device."""

import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.conftest import small_vae
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
    [("arrays", 1), ("arrays", 2), ("arrays", 4), ("dataset", 2), ("weighted", 2)],
)
def test_replicas_change_nothing_beyond_float_error(found, case, replicas):
    one, several = found[case, 0], found[case, replicas]
    assert set(one) == set(several)
    assert several["steps"] == one["steps"] == 10
    for name, value in one.items():
        np.testing.assert_allclose(several[name], value, rtol=2e-6, atol=2e-6, err_msg=name)


@pytest.mark.slow
def test_the_case_moves_the_weights_further_than_the_tolerance(found):
    start = np.concatenate([w.ravel() for w in small_vae().get_weights()])
    assert np.abs(found["arrays", 0]["weights"] - start).max() > 1e-3
    assert np.ptp(found["arrays", 0]["elbo"]) > 1e-3


@pytest.fixture(scope="module")
def strategy():
    return tf.distribute.MirroredStrategy(["CPU:0"], tf.distribute.ReductionToOneDevice())


def test_several_batches_a_call_are_refused(strategy):
    with strategy.scope():
        vae = small_vae()
    with pytest.raises(checks.InputError, match=r"does one batch. Received: .* 5"):
        vae.compile(steps_per_execution=5)


def test_single_batches_are_refused(strategy, digits):
    with strategy.scope():
        vae = small_vae()
    with pytest.raises(checks.InputError, match=r"through fit or evaluate. Received: a generator"):
        vae.train_on_batch(digits[:4])


def test_networks_without_shapes_are_built_from_a_dataset(strategy, digits):
    def build():
        encoder = [keras.layers.Flatten(), keras.layers.Dense(6, kernel_initializer="ones")]
        decoder = [
            keras.layers.Dense(36, kernel_initializer="ones"),
            keras.layers.Reshape((6, 6, 1)),
        ]
        return small_vae(encoder=keras.Sequential(encoder), decoder=keras.Sequential(decoder))

    with strategy.scope():
        shared = build()
    alone = build()
    assert not shared.built
    elbo = [
        vae.fit(tf.data.Dataset.from_tensor_slices(digits[..., 0]).batch(20), verbose=0)
        for vae in (shared, alone)
    ]
    np.testing.assert_allclose(elbo[0].history["elbo"], elbo[1].history["elbo"], rtol=1e-6)


def test_a_request_to_stop_is_what_all_are_told(strategy, digits):
    told = []

    class Tell(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            told.append(self.model.all_stop)

    with strategy.scope():
        vae = small_vae()
    asked = iter([False, True, False])
    vae.wants_stop = lambda: next(asked)
    vae.fit(digits, batch_size=20, callbacks=[Tell()], verbose=0)
    assert told == [False, True, False]
