"""Muon's steps: orthogonal for every kernel, Adam's for the rest."""

import keras
import numpy as np
import pytest

from tests.conftest import needs_muon
from vae_keras import VAE, ConvDecoder, ConvEncoder, checks, optimizers


def step(optimizer, start: np.ndarray, gradient: np.ndarray) -> np.ndarray:
    """How far one step goes."""
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
    # Five Newton-Schulz iterations come so near to 1, and not nearer.
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
    vae = VAE(ConvEncoder(3, (4, 6)), ConvDecoder((8, 8, 1), (4, 6)))
    vae.compile(optimizers.Muon(0.01))
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
