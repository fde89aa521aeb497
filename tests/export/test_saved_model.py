"""A version of a SavedModel: its graph, its folder and its extra files."""

import json
import os
import threading
import time

import numpy as np
import pytest
import tensorflow as tf
from keras import layers
from tensorflow.core.protobuf import saved_model_pb2

from tests.conftest import copy_instead_of_tracing
from tests.export.conftest import SIGNATURES, run
from vae_keras import VAE, export
from vae_keras.export import saved_model
from vae_keras.utils import checks, weights

# Every operation of the SavedModel of the MLP preset. Any other random operation would have a
# state, and an operation of another library would not load in a server.
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


# ------------------------------------------------------------------------------------- the graph


def functions(path) -> list:
    """Returns the nodes of the main graph and of every function of a SavedModel."""
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
    """Writes an empty file instead of a model, for tests about folders."""

    def write(_served, folder):
        (folder / "saved_model.pb").touch()

    monkeypatch.setattr(saved_model, "_write_saved_model", write)
    monkeypatch.setattr(saved_model, "_write_extras", lambda *_: None)


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
    unbuilt = VAE(layers.Dense(4), layers.Dense(4))
    with pytest.raises(checks.InputError, match="an export needs a VAE with weights"):
        export.export_saved_model(unbuilt, tmp_path)


@pytest.mark.usefixtures("quick_writes")
@pytest.mark.parametrize("stage", ["_write_saved_model", "_write_extras", "_publish"])
def test_a_failed_export_leaves_nothing(small, tmp_path, monkeypatch, stage):
    def fail(*_arguments):
        raise OSError("No space left on device")

    monkeypatch.setattr(saved_model, stage, fail)
    with pytest.raises(OSError, match="No space left"):
        export.export_saved_model(small, tmp_path)
    assert os.listdir(tmp_path) == []


def test_a_server_that_polls_sees_only_whole_versions(small, version, tmp_path, monkeypatch):
    copy_instead_of_tracing(monkeypatch, version)
    expected = {"saved_model.pb", "variables", "assets.extra", "fingerprint.pb"}
    seen, stop = [], threading.Event()

    def poll():
        while not stop.is_set():
            for path in tmp_path.iterdir():
                if path.name.isdigit():
                    seen.append(expected <= set(os.listdir(path)))
                    seen.append(len(os.listdir(path / "assets.extra")) == 3)
            time.sleep(0.001)  # the export needs the interpreter, too

    thread = threading.Thread(target=poll)
    thread.start()
    try:
        export.export_saved_model(small, tmp_path)
    finally:
        stop.set()
        thread.join()
    assert all(seen)


# -------------------------------------------------------------------------------- assets.extra


def test_the_metadata_names_the_weights_and_the_code(small, version):
    metadata = json.loads((version / saved_model.METADATA_FILE).read_text())
    assert metadata.pop("versions").keys() == {"vae_keras", "tensorflow", "keras"}
    assert metadata == {
        "weights_sha256": weights.sha256(small),
        "image_shape": [6, 6, 1],
        "latent_dim": 3,
        "score_samples": 50,
        "warmup_batch_sizes": [1, 8],
    }


def test_the_golden_requests_get_the_golden_responses(small, served, version):
    cases = json.loads((version / saved_model.GOLDEN_FILE).read_text())
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


def test_two_exports_at_once_take_two_numbers(small, version, tmp_path, monkeypatch):
    copy_instead_of_tracing(monkeypatch, version)
    real = saved_model._write_extras

    def with_another_export(*arguments):
        real(*arguments)
        (tmp_path / "1").mkdir()
        (tmp_path / "1" / "saved_model.pb").write_bytes(b"of another process")

    monkeypatch.setattr(saved_model, "_write_extras", with_another_export)
    assert export.export_saved_model(small, tmp_path).name == "2"
    assert (tmp_path / "1" / "saved_model.pb").read_bytes() == b"of another process"
