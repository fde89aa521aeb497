"""The signatures of a served model answer as the Python model, and check their inputs."""

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers
from tensorflow.core.protobuf import config_pb2

from tests.conftest import images, seeds, signature_answers, small_vae
from tests.export.conftest import SIGNATURES, load, run, traced, with_random_weights
from vae_keras import VAE, ContinuousBernoulli, ConvDecoder, ConvEncoder, export, noise
from vae_keras.export import saved_model
from vae_keras.export.signatures import example_inputs, signatures
from vae_keras.priors import AutoregressiveFlow


def test_the_signatures_are_those_of_the_table(served):
    assert set(served) == {*SIGNATURES, "serving_default"}
    for name, (inputs, outputs) in SIGNATURES.items():
        _, specs = served[name].structured_input_signature
        assert {key: tuple(spec.shape[1:]) for key, spec in specs.items()} == inputs
        assert {
            key: tuple(spec.shape) for key, spec in served[name].structured_outputs.items()
        } == {key: (None, *shape) for key, shape in outputs.items()}
        for key, spec in specs.items():
            assert spec.shape[0] is None
            assert spec.dtype == (tf.int32 if key == "seeds" else tf.float32)
        assert all(spec.dtype == tf.float32 for spec in served[name].structured_outputs.values())


@pytest.mark.parametrize("rows", [1, 3, 64])
def test_a_signature_equals_the_python_model_bit_for_bit(served_preset, preset_answers, rows):
    for name, (inputs, expected) in preset_answers(rows).items():
        outputs = run(served_preset[name], inputs)
        for key, value in expected.items():
            np.testing.assert_array_equal(outputs[key], value, f"{name} {key}")


def conv() -> VAE:
    networks = {
        "encoder": ConvEncoder(latent_dim=2, widths=(3, 4)),
        "decoder": ConvDecoder(image_shape=(9, 7, 3), widths=(3, 4)),
    }
    return small_vae(**networks, likelihood=ContinuousBernoulli())


def of_other_layers() -> VAE:
    """A model of a user's layers, which behave otherwise in training."""
    encoder = keras.Sequential(
        [
            keras.Input((6, 6, 1)),
            layers.RandomFlip(),
            layers.Reshape((6, 6)),
            layers.LSTM(8),
            layers.BatchNormalization(),
            layers.Dropout(0.3),
            layers.Dense(6),
        ]
    )
    generator = np.random.default_rng(6)
    for statistic in encoder.non_trainable_weights:  # those of a fresh layer change nothing
        statistic.assign(generator.uniform(0.5, 2.0, statistic.shape))
    return small_vae(encoder=encoder)


ARCHITECTURES = {
    "convolutions": conv,
    "learned prior": lambda: small_vae(prior=AutoregressiveFlow(1, (4,))),
    "threshold": lambda: small_vae(binarization="threshold"),
    "other layers": of_other_layers,
    "classes": lambda: small_vae(num_classes=3),
}


@pytest.mark.parametrize(
    "architecture",
    # The family's fast tests serve convolutions and a learned prior.
    [pytest.param(a, marks=[pytest.mark.slow] * (a != "other layers")) for a in ARCHITECTURES],
)
def test_every_architecture_answers_as_the_python_model(architecture, tmp_path):
    vae = with_random_weights(ARCHITECTURES[architecture]())
    served = load(export.export_saved_model(vae, tmp_path))
    for name, (inputs, expected) in signature_answers(vae, 3).items():
        outputs = run(served[name], inputs)
        for key, value in expected.items():
            np.testing.assert_array_equal(outputs[key], value, f"{name} {key}")


@pytest.fixture(scope="module")
def of_classes() -> VAE:
    return small_vae(num_classes=3, class_names=["a", "b", "c"])


def test_the_metadata_of_a_model_with_classes_names_them(of_classes, tmp_path, monkeypatch):
    monkeypatch.setattr(saved_model, "_write_saved_model", lambda *_: None)
    monkeypatch.setattr(saved_model, "_golden_cases", lambda *_: [])
    version = export.export_saved_model(of_classes, tmp_path)
    metadata = json.loads((version / saved_model.METADATA_FILE).read_text())
    assert (metadata["num_classes"], metadata["class_names"]) == (3, ["a", "b", "c"])


def test_a_label_out_of_range_is_refused_with_the_rule(of_classes):
    refused = []
    for name, signature in signatures(of_classes, score_samples=2).items():
        graph, inputs = traced(signature), example_inputs(signature, 3)
        for key in (key for key in inputs if key.endswith("labels")):
            rule = f"{key} must be whole numbers from 0 to 2. Received: values from"
            for labels, sentence in (([0, 3, 1], rule), ([0, 1], "equally many rows")):
                given = inputs | {key: np.array(labels, np.int32)}
                # A signature gathers its labels, so it takes no argument of their name.
                with pytest.raises(tf.errors.InvalidArgumentError, match=sentence):
                    graph(*map(tf.constant, given.values()))
            refused.append((name, key))
    assert len(refused) == 8


def test_stored_bytes_and_scaled_floats_are_the_same_images(small, served):
    stored = np.random.default_rng(3).integers(0, 256, (4, 6, 6, 1), dtype=np.uint8)
    outputs = run(served["encode"], {"images": stored / np.float32(255)})
    np.testing.assert_array_equal(outputs["loc"], small.encode(stored).loc)


def test_interpolate_gives_the_points_of_the_models_line(small, served):
    start, end, fractions = images(2), images(2, seed=1), np.linspace(0, 1, 5, dtype=np.float32)
    for column, fraction in enumerate(fractions):
        inputs = {"start_images": start, "end_images": end, "fractions": fraction.repeat(2)}
        np.testing.assert_allclose(
            run(served["interpolate"], inputs)["probabilities"],
            small.interpolate(start, end, steps=5)[:, column],
            rtol=0,
            atol=1e-5,
        )


def test_a_rows_answer_does_not_depend_on_its_batch(small, served):
    for name, (inputs, _) in signature_answers(small, 64).items():
        whole = run(served[name], inputs)
        for start, stop in ((0, 1), (1, 4), (30, 64)):
            part = run(served[name], {key: value[start:stop] for key, value in inputs.items()})
            for key, value in whole.items():
                np.testing.assert_allclose(
                    part[key], value[start:stop], rtol=1e-5, atol=1e-5, err_msg=f"{name} {key}"
                )


def test_the_log_marginal_is_the_importance_weighted_estimate(small, served):
    x, pairs = images(4), seeds(4)
    outputs = run(served["score"], {"images": x, "seeds": pairs})
    for row, (image, (seed, place)) in enumerate(zip(x, pairs, strict=True)):
        draws = noise.normal(
            int(seed), noise.Stream.IMPORTANCE, rows=50, size=3, step=int(place)
        ).numpy()
        loc, scale = (np.float64(part[row]) for part in small.encode(x))
        z = loc + scale * draws
        p = np.float64(small.decode(z))
        log_likelihood = (image * np.log(p) + (1 - image) * np.log1p(-p)).sum(axis=(1, 2, 3))
        log_prior = -0.5 * (z**2 + np.log(2 * np.pi)).sum(axis=1)
        log_q = -0.5 * (draws**2 + np.log(2 * np.pi) + 2 * np.log(scale)).sum(axis=1)
        expected = np.log(np.mean(np.exp(log_likelihood + log_prior - log_q)))
        assert outputs["log_marginal"][row] == pytest.approx(expected, abs=1e-3)


def test_concurrent_threads_get_the_answers_of_a_single_thread(small, served):
    cases = list(signature_answers(small, 3).items()) * 6

    def ask(case):
        name, (inputs, _) = case
        return run(served[name], inputs)

    alone = [ask(case) for case in cases]
    with ThreadPoolExecutor(8) as pool:
        for one, other in zip(alone, pool.map(ask, cases), strict=True):
            for key, value in one.items():
                np.testing.assert_array_equal(value, other[key])


def test_a_fresh_process_without_this_package_gives_the_same_bits(
    preset_answers, preset_version, tmp_path
):
    for rows in (1, 3, 64):
        for name, (inputs, expected) in preset_answers(rows).items():
            arrays = {f"in {key}": value for key, value in inputs.items()}
            arrays |= {f"out {key}": value for key, value in expected.items()}
            np.savez(tmp_path / f"{name}.{rows}.npz", **arrays)
    script = Path(__file__).with_name("fresh_process.py")
    command = [
        sys.executable,
        "-I",
        os.fspath(script),
        os.fspath(preset_version),
        os.fspath(tmp_path),
    ]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=120)
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["cases"] == 3 * (len(SIGNATURES) + 1)
    assert found["wrong"] == []
    assert found["ours"] == []


# ------------------------------------------------------------------------------- what is refused


@pytest.fixture(scope="module")
def unchecked_call(version):
    """Calls a signature as the server does, which ignores the declared shapes."""
    graph = tf.Graph()
    session = tf.compat.v1.Session(graph=graph)
    with graph.as_default():
        meta_graph = tf.compat.v1.saved_model.loader.load(session, ["serve"], os.fspath(version))

    def call(signature: str, inputs: dict) -> list[np.ndarray]:
        definition = meta_graph.signature_def[signature]
        options = config_pb2.CallableOptions(
            feed=[definition.inputs[name].name for name in inputs],
            fetch=[tensor.name for tensor in definition.outputs.values()],
        )
        return session._make_callable_from_options(options)(*map(np.asarray, inputs.values()))

    yield call
    session.close()


BAD_SHAPES = [
    (0, 6, 6, 1),
    (2, 36),
    (2, 6, 6),
    (2, 6, 6, 3),
    (2, 5, 6, 1),
    (2, 1, 6, 6, 1),
    (2,),
    (),
]


@pytest.mark.parametrize("shape", BAD_SHAPES)
@pytest.mark.parametrize("signature", ["reconstruct", "encode", "score", "interpolate"])
def test_images_of_another_shape_are_refused(unchecked_call, signature, shape):
    inputs, _ = SIGNATURES[signature]
    values = {"fractions": np.full(2, 0.5, np.float32), "seeds": seeds(2)}
    good = {key: values.get(key, images(2)) for key in inputs}
    for name in (key for key in inputs if "images" in key):
        received = " ".join(map(str, shape))
        sentence = (
            rf"{name} must have shape \[N, 6, 6, 1\] with N >= 1. Received: shape\] \[{received}\]"
        )
        with pytest.raises(tf.errors.InvalidArgumentError, match=sentence):
            unchecked_call(signature, good | {name: np.zeros(shape, np.float32)})


@pytest.fixture(scope="module")
def definitions(small) -> dict:
    return signatures(small, score_samples=1)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, -0.01, 1.01, 255.0])
@pytest.mark.parametrize(
    ("signature", "name"),
    [
        ("reconstruct", "images"),
        ("serving_default", "images"),
        ("encode", "images"),
        ("score", "images"),
        ("interpolate", "start_images"),
        ("interpolate", "end_images"),
        ("interpolate", "fractions"),
    ],
)
def test_values_outside_the_unit_interval_are_refused(served, definitions, signature, name, value):
    default = "reconstruct" if signature == "serving_default" else signature
    inputs = example_inputs(definitions[default], 3)
    inputs[name][-1] = value
    with pytest.raises(tf.errors.InvalidArgumentError, match=f"{name} must be finite and lie in"):
        run(served[signature], inputs)


def test_the_message_says_what_was_received(served):
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"values from\] \[0\] \[to\] \[255\]"):
        run(
            served["encode"],
            {"images": np.array([0.0, 255.0], np.float32).repeat(36).reshape(2, 6, 6, 1)},
        )


@pytest.mark.parametrize(
    ("signature", "inputs", "sentence"),
    [
        ("decode", {"latents": np.full((2, 3), np.nan)}, "latents must be finite"),
        ("decode", {"latents": np.full((2, 3), np.inf)}, "latents must be finite"),
        ("decode", {"latents": np.zeros((2, 4))}, r"latents must have shape \[N, 3\]"),
        ("decode", {"latents": np.zeros(3)}, r"latents must have shape \[N, 3\]"),
        ("sample", {"seeds": [[-1, 0]]}, "seeds must be pairs .* >= 0"),
        ("sample", {"seeds": [[0, -1]]}, "seeds must be pairs .* >= 0"),
        ("sample", {"seeds": [[0, 0, 0]]}, r"seeds must have shape \[N, 2\]"),
        (
            "interpolate",
            {"start_images": images(1), "end_images": images(1), "fractions": 0.5},
            r"fractions must have shape \[N\]",
        ),
        (
            "interpolate",
            {"start_images": images(1), "end_images": images(1), "fractions": [[0.5]]},
            r"fractions must have shape \[N\]",
        ),
        ("sample", {"seeds": np.zeros((0, 2))}, r"seeds must have shape \[N, 2\] with N >= 1"),
        ("decode", {"latents": np.zeros((0, 3))}, r"latents must have shape \[N, 3\] with N >= 1"),
        ("sample", {"seeds": 0}, r"seeds must have shape \[N, 2\]"),
        ("sample", {"seeds": [0, 0]}, r"seeds must have shape \[N, 2\]"),
        ("score", {"images": images(3), "seeds": seeds(1)}, "images and seeds must have equally"),
        ("score", {"images": images(1), "seeds": seeds(3)}, "images and seeds must have equally"),
        (
            "interpolate",
            {"start_images": images(3), "end_images": images(3), "fractions": [0.5]},
            "start_images, end_images and fractions must have equally many rows",
        ),
        (
            "interpolate",
            {"start_images": images(3), "end_images": images(1), "fractions": [0.5] * 3},
            "start_images, end_images and fractions must have equally many rows",
        ),
    ],
)
def test_inputs_that_break_another_rule_are_refused(unchecked_call, signature, inputs, sentence):
    typed = {
        name: np.asarray(value, np.int32 if name == "seeds" else np.float32)
        for name, value in inputs.items()
    }
    with pytest.raises(tf.errors.InvalidArgumentError, match=sentence):
        unchecked_call(signature, typed)
