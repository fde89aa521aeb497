"""Muon's steps, which are orthogonal for kernels and Adam's for the rest; learning rates."""

import keras
import numpy as np
import pytest

from tests.conftest import needs_muon
from vae_keras import VAE, ConvDecoder, ConvEncoder, optimizers
from vae_keras.utils import checks


def step(optimizer, start: np.ndarray, gradient: np.ndarray) -> np.ndarray:
    """Returns the change that one step makes."""
    variable = keras.Variable(start)
    optimizer.apply_gradients([(keras.ops.convert_to_tensor(gradient), variable)])
    return variable.numpy() - start


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@needs_muon
@pytest.mark.parametrize("shape", [(30, 12), (12, 30), (3, 3, 4, 8), (5, 5, 1, 6)])
def test_a_kernel_moves_as_far_in_every_direction(shape):
    moved = step(optimizers.Muon(0.01), normal(*shape), normal(*shape, seed=1))
    matrix = moved.reshape(-1, shape[-1])
    lengths = np.linalg.svd(matrix, compute_uv=False) / (0.01 * 0.2 * max(matrix.shape) ** 0.5)
    # Five Newton-Schulz iterations bring every singular value this close to 1.
    assert 0.6 < lengths.min() <= lengths.max() < 1.3


@needs_muon
@pytest.mark.parametrize("shape", [(30, 12), (3, 3, 4, 8)])
def test_an_excluded_kernel_gets_adam(shape):
    def moved(**arguments) -> np.ndarray:
        gradient = np.sign(normal(*shape, seed=1))
        return step(optimizers.Muon(0.01, **arguments), normal(*shape), gradient)

    np.testing.assert_allclose(np.abs(moved(exclude_layers=["variable"])), 0.01, rtol=1e-3)
    np.testing.assert_array_equal(moved(exclude_layers=["another"]), moved())


@needs_muon
def test_a_convolution_moves_as_its_matrix_does():
    kernel, gradient = normal(3, 3, 4, 8), normal(3, 3, 4, 8, seed=1)
    moved = step(optimizers.Muon(0.01), kernel, gradient)
    flat = step(optimizers.Muon(0.01), kernel.reshape(36, 8), gradient.reshape(36, 8))
    np.testing.assert_allclose(moved.reshape(36, 8), flat, rtol=1e-5, atol=1e-8)


@needs_muon
def test_a_matrix_moves_as_keras_moves_it():
    ours = step(optimizers.Muon(0.01), normal(30, 12), normal(30, 12, seed=1))
    plain = keras.optimizers.Muon(0.01, weight_decay=None, adam_weight_decay=None)
    np.testing.assert_array_equal(ours, step(plain, normal(30, 12), normal(30, 12, seed=1)))


@needs_muon
def test_a_bias_moves_as_adam_moves_it():
    ours = step(optimizers.Muon(0.01), normal(12), normal(12, seed=1))
    adams = step(optimizers.Adam(0.01), normal(12), normal(12, seed=1))
    np.testing.assert_allclose(ours, adams, rtol=1e-4)


@needs_muon
def test_nothing_decays_without_a_gradient():
    zeros = np.zeros((3, 3, 4, 8), np.float32)
    assert not step(optimizers.Muon(0.01), normal(3, 3, 4, 8), zeros).any()


@needs_muon
def test_a_saved_model_trains_on_as_if_it_had_not_been_saved(tmp_path):
    x = np.random.default_rng(0).integers(0, 256, (16, 8, 8, 1), dtype=np.uint8)
    vae = VAE(ConvEncoder(3, (4,)), ConvDecoder((8, 8, 1), (4,)))
    vae.compile(optimizers.Muon(0.01), jit_compile=False)
    vae.fit(x, batch_size=8, epochs=2, verbose=0)
    vae.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    assert again.optimizer.get_config() == vae.optimizer.get_config()
    for model in (vae, again):
        model.fit(x, batch_size=8, epochs=1, verbose=0)
    for ours, theirs in zip(vae.get_weights(), again.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_an_older_muon_is_refused(monkeypatch):
    monkeypatch.delattr(keras.optimizers.Muon, "lr_adjust", raising=False)
    with pytest.raises(checks.InputError, match=r"needs Keras 3\.13 or newer. Received: Keras"):
        optimizers.Muon(0.01)


# ------------------------------------------------------------------------------ learning rates


def rates(schedule, *steps: int) -> list[float]:
    return [float(schedule(step)) for step in steps]


def test_the_rate_rises_and_falls_to_zero():
    at = rates(optimizers.cosine(0.003, 1000, warmup_steps=100), 0, 50, 100, 500, 999, 1000, 5000)
    assert at[:3] == pytest.approx([0.0, 0.0015, 0.003])
    assert at[2] > at[3] > at[4] > 0.0
    assert at[5:] == pytest.approx([0.0, 0.0], abs=1e-9)


def test_without_a_warm_up_the_rate_starts_at_the_top():
    assert rates(optimizers.cosine(0.003, 1000), 0, 500) == pytest.approx([0.003, 0.0015])


def test_a_warm_up_takes_at_most_a_tenth_of_a_cycle():
    one = optimizers.cosine(1.0, 200, warmup_steps=500)
    assert rates(one, 10, 20) == pytest.approx([0.5, 1.0])
    two = optimizers.cosine(1.0, 200, warmup_steps=500, restarts=1)
    assert rates(two, 5, 10) == pytest.approx([0.5, 1.0])


@pytest.mark.parametrize("restarts", [1, 2])
def test_a_restart_repeats_the_first_cycle_bit_for_bit(restarts):
    cycles = restarts + 1
    once = optimizers.cosine(0.004, 60, warmup_steps=5)
    schedule = optimizers.cosine(0.004, 60 * cycles, warmup_steps=5, restarts=restarts)
    assert rates(schedule, *range(60 * cycles)) == rates(once, *range(60)) * cycles


def test_cycles_round_their_share_of_the_steps_up():
    once = rates(optimizers.cosine(1.0, 4), 0, 1, 2, 3)
    three = rates(optimizers.cosine(1.0, 10, restarts=2), *range(10))
    assert three == [*once, *once, *once[:2]]


def test_more_restarts_than_steps_stay_at_the_top():
    assert rates(optimizers.cosine(1.0, 2, restarts=4), 0, 1) == [1.0, 1.0]


def test_a_schedule_comes_back_from_its_config():
    schedule = optimizers.cosine(0.004, 100, warmup_steps=5, restarts=1)
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(schedule))
    assert rates(again, *range(100)) == rates(schedule, *range(100))


def test_a_schedule_saved_by_version_0_1_0_comes_back():
    schedule = optimizers.cosine(0.004, 100, warmup_steps=5, restarts=1)
    saved = keras.saving.serialize_keras_object(schedule)
    old = saved | {"module": "vae_keras.schedules", "class_name": "Cycles"}
    assert old["registered_name"] == "vae_keras>Cycles"
    assert set(old["config"]) == {"schedule", "length"}
    again = keras.saving.deserialize_keras_object(old)
    assert rates(again, *range(100)) == rates(schedule, *range(100))


def test_an_optimizer_follows_the_restarts():
    variable = keras.Variable(np.zeros(1, np.float32))
    optimizer = keras.optimizers.SGD(optimizers.cosine(1.0, 4, restarts=1))
    moves = []
    for _ in range(4):
        before = variable.numpy()
        optimizer.apply_gradients([(keras.ops.ones(1), variable)])
        moves.append(float(before[0] - variable.numpy()[0]))
    assert moves == pytest.approx([1.0, 0.5, 1.0, 0.5])
