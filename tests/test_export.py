"""SavedModel versions that answer as the Python model does, and the parts in other formats."""

import importlib.util
import json
import os
import re
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.protobuf import config_pb2, saved_model_pb2

from tests.conftest import images, seeds, signature_answers, small_vae
from vae_keras import VAE, ConvDecoder, ConvEncoder, checks, export, noise, warmup
from vae_keras.priors import AutoregressiveFlow
from vae_keras.signatures import example_inputs, signatures

SIGNATURES = {  # inputs and outputs, shapes without N
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
# Every op of the MLP preset's SavedModel; a random op among them but the stateless one would be
# state, and an op of another library would not load in a server.
STOCK_OPS = {
    *("Abs", "AddV2", "All", "Assert", "AssignVariableOp", "BiasAdd", "BroadcastArgs"),
    *("BroadcastTo", "Cast", "ConcatV2", "Const"),
    *("DisableCopyOnRead", "EnsureShape", "Equal", "Exp", "Expm1", "Fill", "GreaterEqual"),
    *("Identity", "IdentityN", "If", "IsFinite", "Less", "LessEqual", "Log", "Log1p", "LogicalAnd"),
    *("MatMul", "Max", "MergeV2Checkpoints", "Min", "Minimum", "Mul", "Neg", "NoOp", "Pack"),
    *("Placeholder", "PlaceholderWithDefault", "Range", "Rank", "ReadVariableOp", "RealDiv"),
    *("Relu", "Reshape", "RestoreV2", "SaveV2", "Select", "SelectV2", "Shape", "ShardedFilename"),
    *("Sigmoid", "Softplus", "Split", "SquaredDifference", "StatefulPartitionedCall"),
    *("StatelessRandomNormalV2", "StatelessWhile", "StaticRegexFullMatch", "StopGradient"),
    *("StridedSlice", "StringJoin", "Sub", "Sum", "Tanh", "TensorListFromTensor"),
    *("TensorListGetItem", "TensorListReserve", "TensorListSetItem", "TensorListStack"),
    *("VarHandleOp", "VarIsInitializedOp", "While"),
}


def with_random_weights(vae: VAE) -> VAE:
    """Biases are zero in a fresh model, and would hide an error in them."""
    generator = np.random.default_rng(5)
    weights = [generator.normal(0, 0.1, part.shape) for part in vae.get_weights()]
    vae.set_weights(weights)
    return vae


def run(signature, inputs: dict) -> dict[str, np.ndarray]:
    outputs = signature(**{name: tf.constant(value) for name, value in inputs.items()})
    return {name: value.numpy() for name, value in outputs.items()}


@pytest.fixture(scope="module")
def small() -> VAE:
    return with_random_weights(small_vae())


@pytest.fixture(scope="module")
def version(small, tmp_path_factory):
    return export.export_saved_model(small, tmp_path_factory.mktemp("small"), largest_batch=8)


@pytest.fixture(scope="module")
def served(version):
    return tf.saved_model.load(os.fspath(version)).signatures


@pytest.fixture(scope="module")
def preset() -> VAE:
    """The MLP preset's network."""
    return with_random_weights(VAE())


@pytest.fixture(scope="module")
def preset_version(preset, tmp_path_factory):
    return export.export_saved_model(preset, tmp_path_factory.mktemp("preset"))


@pytest.fixture(scope="module")
def unchecked_call(version):
    """Calls a signature as the server does: without a look at the declared shapes."""
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


# ------------------------------------------------------------------------------- the signatures


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
def test_a_signature_gives_the_python_models_own_bits(preset, preset_version, rows):
    served = tf.saved_model.load(os.fspath(preset_version)).signatures
    for name, (inputs, expected) in signature_answers(preset, rows).items():
        outputs = run(served[name], inputs)
        for key, value in expected.items():
            np.testing.assert_array_equal(outputs[key], value, f"{name} {key}")


def test_encoded_pixels_are_binarized_as_the_model_does(tmp_path):
    vae = with_random_weights(small_vae(binarization="threshold"))
    served = tf.saved_model.load(os.fspath(export.export_saved_model(vae, tmp_path))).signatures
    for name, (inputs, expected) in signature_answers(vae, 3).items():
        outputs = run(served[name], inputs)
        for key, value in expected.items():
            np.testing.assert_array_equal(outputs[key], value, f"{name} {key}")


def test_stored_bytes_and_scaled_floats_are_the_same_images(small, served):
    stored = np.random.default_rng(3).integers(0, 256, (4, 6, 6, 1), dtype=np.uint8)
    outputs = run(served["encode"], {"images": stored / np.float32(255)})
    np.testing.assert_array_equal(outputs["loc"], small.encode(stored).loc)


def test_a_line_is_that_of_interpolate(small, served):
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


def test_the_log_marginal_is_the_importance_weighted_one(small, served):
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


def test_concurrent_threads_get_the_answers_of_one(small, served):
    cases = list(signature_answers(small, 3).items()) * 6

    def ask(case):
        name, (inputs, _) = case
        return run(served[name], inputs)

    alone = [ask(case) for case in cases]
    with ThreadPoolExecutor(8) as pool:
        for one, other in zip(alone, pool.map(ask, cases), strict=True):
            for key, value in one.items():
                np.testing.assert_array_equal(value, other[key])


def test_a_fresh_process_without_this_package_gives_the_same_bits(preset, preset_version, tmp_path):
    for rows in (1, 3, 64):
        for name, (inputs, expected) in signature_answers(preset, rows).items():
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
    assert found["seconds"] < 2


# ------------------------------------------------------------------------------- what is refused

BAD_SHAPES = [(2, 36), (2, 6, 6), (2, 6, 6, 3), (2, 5, 6, 1), (2, 1, 6, 6, 1), (2,), ()]


@pytest.mark.parametrize("shape", BAD_SHAPES)
@pytest.mark.parametrize("signature", ["reconstruct", "encode", "score", "interpolate"])
def test_images_of_another_shape_are_refused(unchecked_call, signature, shape):
    inputs, _ = SIGNATURES[signature]
    values = {"fractions": np.full(2, 0.5, np.float32), "seeds": seeds(2)}
    good = {key: values.get(key, images(2)) for key in inputs}
    for name in (key for key in inputs if "images" in key):
        received = " ".join(map(str, shape))
        sentence = rf"{name} must have shape \[N, 6, 6, 1\]. Received: shape\] \[{received}\]"
        with pytest.raises(tf.errors.InvalidArgumentError, match=sentence):
            unchecked_call(signature, good | {name: np.zeros(shape, np.float32)})


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
def test_values_outside_the_unit_interval_are_refused(served, signature, name, value):
    definition = signatures(small_vae(), 1, True)[
        signature.replace("serving_default", "reconstruct")
    ]
    inputs = example_inputs(definition, 3)
    inputs[name][-1] = value
    with pytest.raises(tf.errors.InvalidArgumentError, match=f"{name} must be finite and lie in"):
        run(served[signature], inputs)


def test_the_sentence_says_what_was_received(served):
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
def test_what_breaks_another_rule_is_refused(unchecked_call, signature, inputs, sentence):
    typed = {
        name: np.asarray(value, np.int32 if name == "seeds" else np.float32)
        for name, value in inputs.items()
    }
    with pytest.raises(tf.errors.InvalidArgumentError, match=sentence):
        unchecked_call(signature, typed)


def test_without_validation_nothing_is_checked(small, tmp_path):
    path = export.export_saved_model(small, tmp_path, validate=False)
    assert "Assert" not in ops(path)
    served = tf.saved_model.load(os.fspath(path)).signatures
    x = images(3)
    np.testing.assert_array_equal(run(served["encode"], {"images": x})["loc"], small.encode(x).loc)
    x[1] = np.nan
    outputs = run(served["reconstruct"], {"images": x})["reconstructions"]
    assert np.isnan(outputs[1]).all()
    np.testing.assert_allclose(outputs[::2], small.reconstruct(x[::2] * 1.0), atol=1e-5)
    assert json.loads((path / export.METADATA_FILE).read_text())["validate"] is False


# ------------------------------------------------------------------------------------- the graph


def functions(path) -> list:
    """The node lists of a SavedModel: the main graph and every function."""
    saved = saved_model_pb2.SavedModel.FromString((path / "saved_model.pb").read_bytes())
    (meta_graph,) = saved.meta_graphs
    graph = meta_graph.graph_def
    return [graph.node, *(function.node_def for function in graph.library.function)]


def ops(path) -> set[str]:
    return {node.op for nodes in functions(path) for node in nodes}


def test_the_ops_are_stock_ops_and_keep_no_random_state(preset_version):
    found = ops(preset_version)
    assert found <= STOCK_OPS, sorted(found - STOCK_OPS)


def test_nothing_asks_for_xla(preset_version):
    saved = saved_model_pb2.SavedModel.FromString((preset_version / "saved_model.pb").read_bytes())
    library = saved.meta_graphs[0].graph_def.library.function
    holders = [*library, *(node for nodes in functions(preset_version) for node in nodes)]
    for holder in holders:
        for name in ("_XlaMustCompile", "_XlaCompile"):
            assert not (name in holder.attr and holder.attr[name].b)


def test_the_variables_are_the_weights_and_nothing_else(preset, preset_version):
    listed = tf.train.list_variables(os.fspath(preset_version / "variables" / "variables"))
    sizes = sorted(tuple(shape) for name, shape in listed if "OBJECT_GRAPH" not in name)
    parts = [*preset.encoder.weights, *preset.decoder.weights]
    assert sizes == sorted(tuple(weight.shape) for weight in parts)


def test_the_preset_is_small(preset_version):
    size = sum(path.stat().st_size for path in preset_version.rglob("*") if path.is_file())
    assert size < 4_000_000


# ---------------------------------------------------------------------------- the version folder


@pytest.fixture
def quick_writes(monkeypatch):
    """Writes a folder that holds a name instead of a model: what follows is about folders."""

    def write(_served, folder):
        (folder / "saved_model.pb").touch()

    monkeypatch.setattr(export, "_write_saved_model", write)
    monkeypatch.setattr(export, "_write_extras", lambda *_: None)


@pytest.mark.usefixtures("quick_writes")
def test_versions_count_up_and_never_change(small, tmp_path):
    assert export.export_saved_model(small, tmp_path / "base") == tmp_path / "base" / "1"
    assert export.export_saved_model(small, tmp_path / "base", version=7).name == "7"
    (tmp_path / "base" / "notes").mkdir()
    assert export.export_saved_model(small, tmp_path / "base").name == "8"
    with pytest.raises(checks.InputError, match="a served version must not change"):
        export.export_saved_model(small, tmp_path / "base", version=7)
    mark = tmp_path / "base" / "7" / "mark"
    mark.touch()
    export.export_saved_model(small, tmp_path / "base", version=7, overwrite=True)
    assert not mark.exists()
    assert sorted(os.listdir(tmp_path / "base")) == ["1", "7", "8", "notes"]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"version": 0}, "version must be a whole number from 1 to"),
        ({"version": True}, "version must be a whole number from 1 to"),
        ({"score_samples": 0}, "score_samples must be a whole number >= 1"),
        ({"largest_batch": 0}, "largest_batch must be a whole number >= 1"),
    ],
)
def test_bad_arguments_are_refused(small, tmp_path, arguments, sentence):
    with pytest.raises(checks.InputError, match=sentence):
        export.export_saved_model(small, tmp_path, **arguments)


def test_a_model_without_weights_is_refused(tmp_path):
    import keras

    unbuilt = VAE(keras.layers.Dense(4), keras.layers.Dense(4))
    for call in (export.export_saved_model, lambda *a: export.export_parts(*a, "litert")):
        with pytest.raises(checks.InputError, match="an export needs a VAE with weights"):
            call(unbuilt, tmp_path)


@pytest.mark.usefixtures("quick_writes")
@pytest.mark.parametrize("stage", ["_write_saved_model", "_write_extras", "_publish"])
def test_a_failed_export_leaves_nothing(small, tmp_path, monkeypatch, stage):
    def fail(*_arguments):
        raise OSError("No space left on device")

    monkeypatch.setattr(export, stage, fail)
    with pytest.raises(OSError, match="No space left"):
        export.export_saved_model(small, tmp_path)
    assert os.listdir(tmp_path) == []


def test_who_polls_sees_whole_versions_only(small, tmp_path):
    expected = {"saved_model.pb", "variables", "assets.extra", "fingerprint.pb"}
    seen, stop = [], threading.Event()

    def poll():
        while not stop.is_set():
            for path in tmp_path.iterdir():
                if path.name.isdigit():
                    seen.append(expected <= set(os.listdir(path)))
                    seen.append(len(os.listdir(path / "assets.extra")) == 3)

    thread = threading.Thread(target=poll)
    thread.start()
    try:
        export.export_saved_model(small, tmp_path)
    finally:
        stop.set()
        thread.join()
    assert all(seen)


# -------------------------------------------------------------------------------- assets.extra


def test_the_metadata_names_weights_and_code(small, version):
    metadata = json.loads((version / export.METADATA_FILE).read_text())
    assert metadata.pop("versions").keys() == {"vae_keras", "tensorflow", "keras"}
    assert metadata == {
        "weights_sha256": export.weights_sha256(small),
        "image_shape": [6, 6, 1],
        "latent_dim": 3,
        "score_samples": 50,
        "validate": True,
        "warmup_batch_sizes": [1, 8],
    }


def test_the_fingerprint_follows_the_weights():
    one, same, other = small_vae(seed=1), small_vae(seed=1), small_vae(seed=2)
    assert re.fullmatch("[0-9a-f]{64}", export.weights_sha256(one))
    assert export.weights_sha256(one) == export.weights_sha256(same)
    assert export.weights_sha256(one) != export.weights_sha256(other)
    weights = one.get_weights()
    weights[-1][..., 0] = np.nextafter(weights[-1][..., 0], 1, dtype=np.float32)
    one.set_weights(weights)
    assert export.weights_sha256(one) != export.weights_sha256(same)


def test_the_fingerprint_follows_a_learned_prior():
    one, other = (small_vae(prior=AutoregressiveFlow(1, (4,), seed=seed)) for seed in (1, 2))
    assert export.weights_sha256(one) != export.weights_sha256(other)
    assert export.weights_sha256(one) != export.weights_sha256(small_vae())


def test_the_golden_requests_get_the_golden_responses(small, served, version):
    cases = json.loads((version / export.GOLDEN_FILE).read_text())
    assert [case["request"]["signature_name"] for case in cases] == list(SIGNATURES)
    for case in cases:
        name = case["request"]["signature_name"]
        inputs = {
            key: np.asarray(value, np.int32 if key == "seeds" else np.float32)
            for key, value in case["request"]["inputs"].items()
        }
        outputs, recorded = run(served[name], inputs), case["response"]["outputs"]
        named = recorded if len(outputs) > 1 else {next(iter(outputs)): recorded}
        assert outputs.keys() == named.keys()
        for key, value in outputs.items():
            np.testing.assert_array_equal(value, np.asarray(named[key], np.float32))
    images_case = next(case for case in cases if case["request"]["signature_name"] == "encode")
    x = np.asarray(images_case["request"]["inputs"]["images"], np.float32)
    recorded = np.asarray(images_case["response"]["outputs"]["loc"], np.float32)
    np.testing.assert_array_equal(small.encode(x).loc, recorded)


def test_a_varint_takes_seven_bits_a_byte():
    assert warmup._varint(0) == b"\x00"
    assert warmup._varint(127) == b"\x7f"
    assert warmup._varint(300) == b"\xac\x02"  # the encoding guide's own example


# ---------------------------------------------------------------------------- ONNX and LiteRT


def expected_parts(vae: VAE, rows: int) -> list[tuple[np.ndarray, dict[str, np.ndarray]]]:
    x = images(rows, vae.image_shape)
    posterior = vae.encode(x)
    return [(x, posterior._asdict()), (posterior.loc, {"probabilities": vae.decode(posterior.loc)})]


@pytest.fixture(scope="module", params=["mlp_mnist", "convolutions"])
def whole(request) -> VAE:
    """What parts are taken from."""
    if request.param == "mlp_mnist":
        return request.getfixturevalue("preset")
    networks = {
        "encoder": ConvEncoder(latent_dim=2, widths=(3, 4)),
        "decoder": ConvDecoder(image_shape=(9, 7, 3), widths=(3, 4)),
    }
    return with_random_weights(small_vae(**networks))


@pytest.mark.parametrize("rows", [1, 5])
def test_onnx_parts_answer_as_the_model(whole, tmp_path, rows):
    pytest.importorskip("tf2onnx", reason="the extra [onnx] is not installed")
    runtime = pytest.importorskip("onnxruntime", reason="the extra [onnx] is not installed")
    paths = export.export_parts(whole, tmp_path, "onnx")
    assert [path.name for path in paths] == ["encoder.onnx", "decoder.onnx"]
    for path, (value, expected) in zip(paths, expected_parts(whole, rows), strict=True):
        session = runtime.InferenceSession(path)
        names = [output.name for output in session.get_outputs()]
        outputs = dict(
            zip(names, session.run(None, {session.get_inputs()[0].name: value}), strict=True)
        )
        assert outputs.keys() == expected.keys()
        for key, want in expected.items():
            np.testing.assert_allclose(outputs[key], want, rtol=0, atol=1e-5)


def litert_interpreter():
    if importlib.util.find_spec("ai_edge_litert") is not None:
        from ai_edge_litert.interpreter import Interpreter

        return Interpreter
    return tf.lite.Interpreter


@pytest.mark.parametrize("rows", [1, 5])
def test_litert_parts_answer_as_the_model(whole, tmp_path, rows):
    paths = export.export_parts(whole, tmp_path, "litert")
    assert [path.name for path in paths] == ["encoder.tflite", "decoder.tflite"]
    for path, (value, expected) in zip(paths, expected_parts(whole, rows), strict=True):
        runner = litert_interpreter()(model_path=os.fspath(path)).get_signature_runner()
        outputs = runner(**{next(iter(runner.get_input_details())): value})
        assert outputs.keys() == expected.keys()
        for key, want in expected.items():
            np.testing.assert_allclose(outputs[key], want, rtol=0, atol=1e-5)


def test_a_missing_extra_is_named(small, tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(checks.InputError, match=r"without tf2onnx. Run: pip install 'vae-keras\["):
        export.export_parts(small, tmp_path, "onnx")


def test_an_unknown_format_is_refused(small, tmp_path):
    with pytest.raises(checks.InputError, match="format must be one of: onnx, litert"):
        export.export_parts(small, tmp_path, "torch")
