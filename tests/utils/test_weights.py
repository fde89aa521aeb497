"""The hash of a model's weights."""

import re

import numpy as np

from tests.conftest import small_vae
from vae_keras.priors import AutoregressiveFlow
from vae_keras.utils import weights


def test_the_hash_follows_the_weights():
    one, same, other = small_vae(seed=1), small_vae(seed=1), small_vae(seed=2)
    assert re.fullmatch("[0-9a-f]{64}", weights.sha256(one))
    assert weights.sha256(one) == weights.sha256(same)
    assert weights.sha256(one) != weights.sha256(other)
    values = one.get_weights()
    values[-1][..., 0] = np.nextafter(values[-1][..., 0], 1, dtype=np.float32)
    one.set_weights(values)
    assert weights.sha256(one) != weights.sha256(same)


def test_the_hash_follows_a_learned_prior():
    one, other = (small_vae(prior=AutoregressiveFlow(1, (4,), seed=seed)) for seed in (1, 2))
    assert weights.sha256(one) != weights.sha256(other)
    assert weights.sha256(one) != weights.sha256(small_vae())


def test_the_hash_follows_the_probabilities_of_the_classes():
    one, other = (small_vae(num_classes=3) for _ in range(2))
    assert weights.sha256(one) == weights.sha256(other)
    other.class_probabilities = [1, 2, 1]
    assert weights.sha256(one) != weights.sha256(other)
