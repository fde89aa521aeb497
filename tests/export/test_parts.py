"""The encoder and the decoder as ONNX and LiteRT files answer as the Python model."""

import importlib.util
import os

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from tests.conftest import images, slow_except, small_vae
from tests.export.conftest import with_random_weights
from vae_keras import (
    VAE,
    ConvDecoder,
    ConvEncoder,
    DiscretizedLogisticMixture,
    TopDownDecoder,
    TopDownEncoder,
    export,
)
from vae_keras.export import parts
from vae_keras.utils import checks


def expected_parts(vae: VAE, rows: int) -> list[tuple[dict, dict[str, np.ndarray]]]:
    """The inputs of the encoder and of the decoder by name, and the model's own answers."""
    x = images(rows, vae.image_shape)
    given = {} if vae.num_classes is None else {"labels": np.arange(rows, dtype=np.int32) % 3}
    posterior = vae.encode(x, **given)
    pixels = vae.decode(posterior.loc, **given)
    return [
        ({"images": x, **given}, posterior._asdict()),
        ({"latents": posterior.loc, **given}, {export.signatures.pixel_name(vae): pixels}),
    ]


def conv() -> VAE:
    return small_vae(
        encoder=ConvEncoder(latent_dim=2, widths=(3, 4)),
        decoder=ConvDecoder(image_shape=(9, 7, 3), widths=(3, 4)),
    )


def recurrent() -> VAE:
    """A model whose encoder has loops, which LiteRT has no operations for."""
    encoder = keras.Sequential(
        [keras.Input((6, 6, 1)), layers.Reshape((6, 6)), layers.LSTM(8), layers.Dense(6)]
    )
    return small_vae(encoder=encoder)


def top_down() -> VAE:
    size = {"top_dim": 2, "groups": ((1,), (2,)), "widths": (3, 4)}
    return VAE(TopDownEncoder(**size), TopDownDecoder((9, 7, 3), **size))


def of_classes() -> VAE:
    return small_vae(num_classes=3)


def levels() -> VAE:
    mixture = DiscretizedLogisticMixture(components=2)
    numbers = mixture.parameters_per_pixel(3)
    decoder = ConvDecoder((8, 6, 3), widths=(3, 4), parameters_per_pixel=numbers)
    return VAE(ConvEncoder(latent_dim=2, widths=(3, 4)), decoder, likelihood=mixture)


ARCHITECTURES = {
    "256 levels": levels,
    "of classes": of_classes,
    "dense": small_vae,
    "convolutions": conv,
    "recurrent": recurrent,
    "top down": top_down,
}


@pytest.fixture(scope="module")
def whole(request) -> VAE:
    """A model of an architecture."""
    vae = ARCHITECTURES[request.param]()
    if not vae.built:  # the encoder of the package learns the channels from the images
        vae.build((None, *vae.decoder.image_shape))
    return with_random_weights(vae)


def of_each(*fast: str):
    """Parametrizes a test with a model of each architecture; those that are not named are slow."""
    return pytest.mark.parametrize("whole", slow_except(fast, ARCHITECTURES), indirect=True)


@pytest.fixture(scope="module")
def unsupported() -> VAE:
    """A model with an operation that neither LiteRT nor ONNX has."""

    @keras.saving.register_keras_serializable(package="tests")
    class Quantile(layers.Layer):
        def call(self, x: tf.Tensor) -> tf.Tensor:
            return tf.math.erfinv(tf.clip_by_value(x, -0.5, 0.5))

    encoder = keras.Sequential(
        [keras.Input((6, 6, 1)), layers.Flatten(), Quantile(name="quantile"), layers.Dense(6)]
    )
    return small_vae(encoder=encoder)


@of_each("of classes", "top down")
def test_onnx_parts_answer_as_the_model(whole, tmp_path):
    pytest.importorskip("tf2onnx", reason="the extra [onnx] is not installed")
    runtime = pytest.importorskip("onnxruntime", reason="the extra [onnx] is not installed")
    paths = export.export_parts(whole, tmp_path, "onnx")
    assert [path.name for path in paths] == ["encoder.onnx", "decoder.onnx"]
    sessions = [runtime.InferenceSession(path) for path in paths]
    for rows in (1, 5):
        for session, (inputs, expected) in zip(sessions, expected_parts(whole, rows), strict=True):
            names = [output.name for output in session.get_outputs()]
            outputs = session.run(None, inputs)
            require_close(dict(zip(names, outputs, strict=True)), expected)


@of_each("top down")
def test_the_terms_of_the_elbo_are_the_models_in_onnx(whole):
    """Their KL has the operation expm1, which ONNX lacks."""
    runtime = pytest.importorskip("onnxruntime", reason="the extra [onnx] is not installed")
    pytest.importorskip("tf2onnx", reason="the extra [onnx] is not installed")
    inputs = {
        "images": (images(4, whole.image_shape) > 0.5).astype(np.float32),
        "noise": np.random.default_rng(1).normal(size=(4, whole.latent_dim)).astype(np.float32),
    }
    if whole.num_classes is not None:
        inputs["labels"] = np.eye(whole.num_classes, dtype=np.float32)[[0, 2, 1, 1]]
    content = parts.onnx_bytes(
        "score",
        [whole.encoder, whole.decoder],
        lambda *tensors: whole.terms(*tensors)._asdict(),
        {name: value.shape[1:] for name, value in inputs.items()},
    )
    session = runtime.InferenceSession(content)
    found = session.run(["elbo", "log_likelihood", "kl"], inputs)
    for values, expected in zip(found, whole.terms(*inputs.values()), strict=True):
        np.testing.assert_allclose(values, expected, rtol=1e-5, atol=1e-5)


def require_close(outputs: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert outputs.keys() == expected.keys()
    for key, value in expected.items():
        np.testing.assert_allclose(outputs[key], value, rtol=0, atol=1e-5)


def litert_interpreter():
    if importlib.util.find_spec("ai_edge_litert") is not None:
        from ai_edge_litert.interpreter import Interpreter

        return Interpreter
    return tf.lite.Interpreter


@of_each("256 levels")
def test_litert_parts_answer_as_the_model_which_stays_as_it_is(whole, tmp_path):
    config, weights = whole.get_config(), whole.get_weights()
    paths = export.export_parts(whole, tmp_path, "litert")
    assert whole.get_config() == config
    for now, before in zip(whole.get_weights(), weights, strict=True):
        np.testing.assert_array_equal(now, before)
    assert [path.name for path in paths] == ["encoder.tflite", "decoder.tflite"]
    interpreters = [litert_interpreter()(model_path=os.fspath(path)) for path in paths]
    for rows in (1, 5):
        cases = zip(interpreters, expected_parts(whole, rows), strict=True)
        for interpreter, (inputs, expected) in cases:
            require_close(interpreter.get_signature_runner()(**inputs), expected)


@pytest.mark.parametrize(("format", "name"), [("litert", "LiteRT"), ("onnx", "ONNX")])
def test_an_operation_that_a_format_lacks_is_refused(unsupported, tmp_path, format, name):
    if format == "onnx":
        pytest.importorskip("tf2onnx", reason="the extra [onnx] is not installed")
    with pytest.raises(checks.InputError, match=f"Erfinv in .*quantile.*, which {name} lacks"):
        export.export_parts(unsupported, tmp_path, format)
    assert os.listdir(tmp_path) == []


def test_a_missing_extra_is_named(small, tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(checks.InputError, match=r"without tf2onnx. Run: pip install 'vae-keras\["):
        export.export_parts(small, tmp_path, "onnx")


def test_an_unknown_format_is_refused(small, tmp_path):
    with pytest.raises(checks.InputError, match="format must be one of: onnx, litert"):
        export.export_parts(small, tmp_path, "torch")


def test_a_model_without_weights_is_refused(tmp_path):
    unbuilt = VAE(layers.Dense(4), layers.Dense(4))
    with pytest.raises(checks.InputError, match="an export needs a VAE with weights"):
        export.export_parts(unbuilt, tmp_path, "litert")


@pytest.mark.slow
def test_a_global_policy_of_mixed_precision_rounds_nothing(tmp_path):
    vae = small_vae()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        export.export_parts(vae, tmp_path, "litert")
    finally:
        keras.config.set_dtype_policy("float32")
    encoder = litert_interpreter()(model_path=os.fspath(tmp_path / "encoder.tflite"))
    x = images(3) + 0.001
    require_close(encoder.get_signature_runner()(images=x), vae.encode(x)._asdict())
