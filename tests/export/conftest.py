"""Models and their exported versions, which several files of this folder share."""

import os
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from tests.conftest import small_vae
from vae_keras import VAE, export

SIGNATURES = {  # shapes of inputs and outputs, without N
    "reconstruct": ({"images": (6, 6, 1)}, {"reconstructions": (6, 6, 1)}),
    "encode": ({"images": (6, 6, 1)}, {"loc": (3,), "scale": (3,)}),
    "decode": ({"latents": (3,)}, {"probabilities": (6, 6, 1)}),
    "sample": ({"seeds": (2,)}, {"probabilities": (6, 6, 1), "latents": (3,)}),
    "interpolate": (
        {"start_images": (6, 6, 1), "end_images": (6, 6, 1), "fractions": ()},
        {"probabilities": (6, 6, 1)},
    ),
    "score": (
        {"images": (6, 6, 1), "seeds": (2,)},
        {"elbo": (), "log_likelihood": (), "kl": (), "log_marginal": ()},
    ),
}


def with_random_weights(vae: VAE) -> VAE:
    """Sets all weights. The biases of a fresh model are zero, which would hide an error in them."""
    generator = np.random.default_rng(5)
    vae.set_weights([generator.normal(0, 0.1, part.shape) for part in vae.get_weights()])
    return vae


def run(signature, inputs: dict) -> dict[str, np.ndarray]:
    outputs = signature(**{name: tf.constant(value) for name, value in inputs.items()})
    return {name: value.numpy() for name, value in outputs.items()}


def load(version: Path) -> dict:
    return tf.saved_model.load(os.fspath(version)).signatures


@pytest.fixture(scope="package")
def small() -> VAE:
    """The small model that most tests use."""
    return with_random_weights(small_vae())


@pytest.fixture(scope="package")
def version(small, tmp_path_factory) -> Path:
    return export.export_saved_model(small, tmp_path_factory.mktemp("small"), largest_batch=8)


@pytest.fixture(scope="package")
def served(version) -> dict:
    return load(version)


@pytest.fixture(scope="package")
def preset() -> VAE:
    """The network of the preset `mlp_mnist`."""
    return with_random_weights(VAE())


@pytest.fixture(scope="package")
def preset_version(preset, tmp_path_factory) -> Path:
    return export.export_saved_model(preset, tmp_path_factory.mktemp("models") / "mlp_mnist")
