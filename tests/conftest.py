"""Fixtures that several test files share."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np
import pytest

from vae_keras import VAE, MLPDecoder, MLPEncoder, data


@pytest.fixture(scope="session")
def mnist() -> data.Images:
    """The real data set."""
    return data.load_mnist()


@pytest.fixture(scope="session")
def digits() -> np.ndarray:
    """Sixty grey 6 x 6 images, uint8: enough for everything that is not about digits."""
    return np.random.default_rng(0).integers(0, 256, (60, 6, 6, 1), dtype=np.uint8)


def small_vae(seed: int = 0, **arguments) -> VAE:
    """A compiled VAE for 6 x 6 images; without XLA, whose compilation takes seconds."""
    parts = {
        "encoder": MLPEncoder(latent_dim=3, hidden=(8,), seed=seed),
        "decoder": MLPDecoder(image_shape=(6, 6, 1), hidden=(8,), seed=seed),
    }
    vae = VAE(**(parts | {"seed": seed} | arguments))
    vae.compile(jit_compile=False)
    return vae


@pytest.fixture
def vae() -> VAE:
    """A fresh small model."""
    return small_vae()
