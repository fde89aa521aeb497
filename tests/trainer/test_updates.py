"""Under which strategy, and on which device, a step runs."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.conftest import small_vae
from vae_keras.trainer import updates


@pytest.fixture(scope="module")
def one():
    return tf.distribute.MirroredStrategy(["CPU:0"], tf.distribute.ReductionToOneDevice())


def test_a_single_replica_shares_no_batch_outside_of_its_scope(one):
    assert updates.shared(None) is None
    assert updates.shared(one) is None
    with one.scope():
        assert updates.shared(one) is one


def test_the_steps_run_on_the_device_of_the_replica(one):
    with updates.device(one):
        assert tf.zeros(1).device == one.extended.worker_devices[0]


@pytest.mark.parametrize("frequency", [None, pytest.param(2, marks=pytest.mark.slow)])
def test_averages_and_decay_of_one_replica_are_those_of_no_strategy(one, digits, frequency):
    """What Keras' optimizers do beside the update itself: weight decay and moving averages."""

    def trained():
        vae = small_vae()
        optimizer = keras.optimizers.SGD(
            0.01, weight_decay=0.1, use_ema=True, ema_overwrite_frequency=frequency
        )
        vae.compile(optimizer, jit_compile=False)
        return vae

    alone = trained()
    with one.scope():
        shared = trained()
    for vae in (alone, shared):
        vae.fit(digits[:40], batch_size=10, verbose=0)
    for ours, theirs in zip(shared.get_weights(), alone.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)
