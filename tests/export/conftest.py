"""Models and their exported versions, which several files of this folder share."""

import contextlib
import functools
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from tests.conftest import signature_answers, small_vae
from vae_keras import VAE, ConvDecoder, ConvEncoder, export
from vae_keras.export.signatures import Signature
from vae_keras.priors import AutoregressiveFlow

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
    """Sets what trains. The biases of a fresh model are zero, which would hide an error in them."""
    generator = np.random.default_rng(5)
    for variable in vae.trainable_variables:
        variable.assign(generator.normal(0, 0.1, variable.shape))
    return vae


def run(signature, inputs: dict) -> dict[str, np.ndarray]:
    outputs = signature(**{name: tf.constant(value) for name, value in inputs.items()})
    return {name: value.numpy() for name, value in outputs.items()}


def load(version: Path) -> dict:
    return tf.saved_model.load(os.fspath(version)).signatures


def traced(signature: Signature) -> Callable[..., dict[str, tf.Tensor]]:
    """A signature as a graph with one trace, which is what an export writes."""
    return tf.function(signature.function, input_signature=signature.inputs, autograph=False)


def conv_with_flow() -> VAE:
    """A small model of convolutions with a learned prior."""
    return small_vae(
        encoder=ConvEncoder(latent_dim=3, widths=(4, 8), activation="silu"),
        decoder=ConvDecoder(image_shape=(6, 6, 1), widths=(4, 8), activation="silu"),
        prior=AutoregressiveFlow(1, (4,)),
    )


SESSION_MODELS = {"dense": small_vae, "convolutions": conv_with_flow}


@contextlib.contextmanager
def session_calls(version: Path) -> Iterator[Callable[[str, dict], dict]]:
    """Yields a function that calls signatures as a server does, in a session."""
    graph = tf.Graph()
    session = tf.compat.v1.Session(graph=graph)
    with graph.as_default():
        meta_graph = tf.compat.v1.saved_model.loader.load(session, ["serve"], os.fspath(version))

    def call(name: str, inputs: dict) -> dict[str, np.ndarray]:
        signature = meta_graph.signature_def[name]
        feeds = {signature.inputs[key].name: value for key, value in inputs.items()}
        return session.run({key: out.name for key, out in signature.outputs.items()}, feeds)

    yield call
    session.close()


def differing(call: Callable[[str, dict], dict], answers: dict[str, tuple[dict, dict]]) -> list:
    """Returns a line for each output that differs from the expected one in any bit."""
    lines = []
    for name, (inputs, expected) in answers.items():
        outputs = call(name, inputs)
        for key, value in expected.items():
            if not np.array_equal(outputs[key], value):
                error = np.abs(outputs[key] - value).max()
                lines.append(f"{name} {key}, {len(value)} rows: {error}")
    return lines


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
def preset_answers(preset) -> Callable[[int], dict[str, tuple[dict, dict]]]:
    """Returns `signature_answers` of the preset for a number of rows, each made once."""
    return functools.cache(functools.partial(signature_answers, preset))


@pytest.fixture(scope="package")
def preset_version(preset, tmp_path_factory) -> Path:
    return export.export_saved_model(preset, tmp_path_factory.mktemp("models") / "mlp_mnist")


@pytest.fixture(scope="package")
def served_preset(preset_version) -> dict:
    return load(preset_version)
