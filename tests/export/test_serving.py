"""Configuration files and clients of TF Serving, against a stand-in and against the real server.

The tests with the mark `tfserving` start the binary named in TENSORFLOW_MODEL_SERVER on loopback
ports.
"""

import contextlib
import http.client
import importlib
import itertools
import json
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format

from tests.export import stand_in_server
from vae_keras import VAE, export
from vae_keras.export.saved_model import GOLDEN_FILE, LARGEST_BATCH

SERVING = Path(__file__).resolve().parents[2] / "serving"
MODEL = "mlp_mnist"
BINARY = os.environ.get("TENSORFLOW_MODEL_SERVER")

sys.path.insert(0, os.fspath(SERVING / "clients"))
rest_client = importlib.import_module("rest_client")
load = importlib.import_module("load")


@pytest.fixture(scope="module")
def vae(preset) -> VAE:
    """The network of the preset that the clients ask for."""
    return preset


@pytest.fixture(scope="module")
def base(preset_version) -> Path:
    """The folder that the server polls."""
    return preset_version.parent


def api(module: str):
    """Imports a module of tensorflow-serving-api, or skips the test."""
    reason = "tensorflow-serving-api is not installed; it is the extra [serving]"
    return pytest.importorskip(f"tensorflow_serving.apis.{module}", reason=reason)


def cases(rows: int, vae: VAE) -> dict[str, tuple[dict, dict]]:
    """Returns inputs and the answers of the Python model for each signature."""
    x = np.random.default_rng(0).random((rows, 28, 28, 1), dtype=np.float32)
    z = np.random.default_rng(1).normal(size=(rows, vae.latent_dim)).astype(np.float32)
    seeds = np.stack([np.full(rows, 7), np.arange(rows)], axis=1).astype(np.int32)
    posterior = vae.encode(x)
    halves = np.full(rows, 0.5, np.float32)
    line = 0.5 * posterior.loc + 0.5 * vae.encode(x[::-1]).loc
    return {
        "reconstruct": ({"images": x}, {"reconstructions": vae.reconstruct(x)}),
        "encode": ({"images": x}, posterior._asdict()),
        "decode": ({"latents": z}, {"probabilities": vae.decode(z)}),
        "sample": ({"seeds": seeds}, {"probabilities": vae.sample(rows, seed=7)}),
        "interpolate": (
            {"start_images": x, "end_images": x[::-1].copy(), "fractions": halves},
            {"probabilities": vae.decode(line)},
        ),
        "score": ({"images": x, "seeds": seeds}, vae.elbo(x, seed=7)._asdict()),
    }


# -------------------------------------------------------------------------------- configuration

# The API package has no messages for these two files. Transcribed from tensorflow/serving,
# servables/tensorflow/session_bundle_config.proto and config/monitoring_config.proto.
_INT64, _BOOL, _STRING, _MESSAGE = 3, 8, 9, 11
_OTHER_MESSAGES = {
    "Int64Value": [("value", 1, _INT64, "")],
    "StringValue": [("value", 1, _STRING, "")],
    "BatchingParameters": [
        ("max_batch_size", 1, _MESSAGE, "Int64Value"),
        ("batch_timeout_micros", 2, _MESSAGE, "Int64Value"),
        ("max_enqueued_batches", 3, _MESSAGE, "Int64Value"),
        ("num_batch_threads", 4, _MESSAGE, "Int64Value"),
        ("thread_pool_name", 5, _MESSAGE, "StringValue"),
        ("allowed_batch_sizes", 6, _INT64, "repeated"),
        ("pad_variable_length_inputs", 7, _BOOL, ""),
    ],
    "PrometheusConfig": [("enable", 1, _BOOL, ""), ("path", 2, _STRING, "")],
    "MonitoringConfig": [("prometheus_config", 1, _MESSAGE, "PrometheusConfig")],
}


def transcribed(name: str):
    """Returns an empty message of the transcription above."""
    file = descriptor_pb2.FileDescriptorProto(name="transcribed.proto", syntax="proto3")
    for message, fields in _OTHER_MESSAGES.items():
        described = file.message_type.add(name=message)
        for field, number, kind, detail in fields:
            added = described.field.add(name=field, number=number, type=kind)
            added.label = 3 if detail == "repeated" else 1
            if kind == _MESSAGE:
                added.type_name = f".{detail}"
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(name))()


def test_the_model_configuration_is_what_the_server_reads():
    api("predict_pb2")
    from tensorflow_serving.config import model_server_config_pb2

    text = (SERVING / "models.config").read_text()
    parsed = text_format.Parse(text, model_server_config_pb2.ModelServerConfig())
    (model,) = parsed.model_config_list.config
    assert (model.name, model.base_path) == (MODEL, f"/models/{MODEL}")
    assert model.model_platform == "tensorflow"
    assert set(model.version_labels.values()) <= set(model.model_version_policy.specific.versions)
    assert model.version_labels["stable"] == 1  # the label that the clients ask for


def test_the_canary_in_the_readme_is_a_model_configuration():
    api("predict_pb2")
    from tensorflow_serving.config import model_server_config_pb2

    (text,) = (block for language, block in blocks() if "canary" in block and not language)
    model = text_format.Parse(text, model_server_config_pb2.ModelConfig())
    assert dict(model.version_labels) == {"stable": 1, "canary": 2}
    assert list(model.model_version_policy.specific.versions) == [1, 2]


def test_the_batching_configuration_is_valid():
    text = (SERVING / "batching.config").read_text()
    batching = text_format.Parse(text, transcribed("BatchingParameters"))
    sizes = list(batching.allowed_batch_sizes)
    assert sizes == sorted(set(sizes))
    assert sizes[-1] == batching.max_batch_size.value == LARGEST_BATCH
    assert batching.num_batch_threads.value >= 1
    assert batching.max_enqueued_batches.value >= 1
    assert batching.batch_timeout_micros.value >= 0


def test_the_monitoring_configuration_is_valid():
    text = (SERVING / "monitoring.config").read_text()
    monitoring = text_format.Parse(text, transcribed("MonitoringConfig"))
    assert monitoring.prometheus_config.enable
    assert monitoring.prometheus_config.path == "/monitoring/prometheus/metrics"


def test_the_compose_file_mounts_existing_files_and_publishes_only_on_loopback():
    text = (SERVING / "docker-compose.yml").read_text()
    sources = set(re.findall(r"- (\.\.?/\S+?):", text)) - {"./models"}  # `make serve` writes it
    for source in sources:
        assert (SERVING / source).exists(), source
    mounted = set(re.findall(r":(/config/\S+):ro", text))
    read = set(re.findall(r"_file=(\S+)", text))
    assert read == mounted | {"/models/models.config"}
    published = re.findall(r"- (\S+):(?:8500|8501)$", text, re.MULTILINE)
    assert len(published) == 2
    assert all(address.startswith("127.0.0.1:") for address in published)


def server_flags(name: str) -> dict[str, str]:
    """Returns the flags that a file passes to the server. Paths are shortened to file names."""
    found = dict(re.findall(r"--(\w+)=(\S+)", (SERVING / name).read_text()))
    return {flag: value.strip('"').rpartition("/")[2] for flag, value in found.items()}


def test_docker_and_the_binary_get_the_same_flags():
    binary, docker = server_flags("serve.sh"), server_flags("docker-compose.yml")
    assert binary == docker | {"port": "8500", "rest_api_port": "8501"}  # those of the image
    assert int(binary["grpc_max_threads"]) >= 128


@pytest.mark.parametrize("name", ["mlp_mnist", "best_mnist"])
def test_the_script_configures_the_server_for_the_preset(base, tmp_path, name):
    api("predict_pb2")
    from tensorflow_serving.config import model_server_config_pb2

    serving = tmp_path / "with a space"
    shutil.copytree(SERVING, serving, ignore=shutil.ignore_patterns("models", "clients"))
    (serving / "models" / name / "1").mkdir(parents=True)
    (serving / "models" / name / "1" / "saved_model.pb").touch()
    binary = tmp_path / "server"
    binary.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    binary.chmod(0o755)
    environment = os.environ | {"TENSORFLOW_MODEL_SERVER": os.fspath(binary)}
    command = ["sh", os.fspath(serving / "serve.sh"), name]
    done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    flags = dict(line[2:].split("=", 1) for line in done.stdout.splitlines())
    for flag in ("monitoring_config_file", "batching_parameters_file"):
        assert Path(flags[flag]).exists()
    text = Path(flags["model_config_file"]).read_text()
    parsed = text_format.Parse(text, model_server_config_pb2.ModelServerConfig())
    (model,) = parsed.model_config_list.config
    assert (model.name, model.base_path) == (name, f"{serving}/models/{name}")


def test_the_script_says_what_is_missing(tmp_path):
    shutil.copy(SERVING / "serve.sh", tmp_path)
    command = ["sh", os.fspath(tmp_path / "serve.sh"), "conv_mnist"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    assert "Run: make serve PRESET=conv_mnist" in done.stderr


# -------------------------------------------------------------- clients against the stand-in


def blocks() -> list[tuple[str, str]]:
    """Returns the code blocks of the README with their languages."""
    return re.findall(r"^```(\w*)\n(.*?)^```$", (SERVING / "README.md").read_text(), re.M | re.S)


def printed_commands() -> list[str]:
    lines = "\n".join(block for language, block in blocks() if language == "sh")
    return lines.replace("\\\n", " ").splitlines()


@pytest.fixture(scope="module")
def stand_in(base):
    with stand_in_server.serve(MODEL, base / "1") as address:
        yield address


@pytest.fixture(scope="module")
def grpc_stand_in(base):
    api("predict_pb2")
    with stand_in_server.serve_grpc(MODEL, base / "1") as target:
        yield target


def run_client(script: str, *arguments: str) -> str:
    command = [sys.executable, os.fspath(SERVING / "clients" / script), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=120).stdout


@pytest.mark.parametrize("rows", [1, 3])
def test_the_rest_client_gets_the_answers_of_the_model_bit_for_bit(stand_in, vae, rows):
    url = f"{stand_in}/v1/models/{MODEL}"
    for name, (inputs, expected) in cases(rows, vae).items():
        outputs = rest_client.predict(url, name, inputs)
        for key, value in expected.items():
            np.testing.assert_array_equal(outputs[key if len(outputs) > 1 else "output"], value)


def test_the_rest_client_keeps_the_bits_of_a_p_value(monkeypatch):
    """A p-value of 0.05 that was rounded to float32 is above a rate of 0.05."""
    outputs = {"score": [1.5, 2.5], "p_value": [0.05, 0.001]}
    monkeypatch.setattr(rest_client, "post", lambda *_: {"outputs": outputs})
    found = rest_client.predict("", "detect", {"images": np.zeros((2, 4, 4, 1), np.float32)})
    assert found["p_value"].tolist() == outputs["p_value"]
    assert found["score"].dtype == np.float32


@pytest.mark.parametrize("rows", [1, 3])
def test_the_grpc_client_gets_the_answers_of_the_model_bit_for_bit(grpc_stand_in, vae, rows):
    grpc_client = importlib.import_module("grpc_client")
    with grpc_client.open_channel(grpc_stand_in) as channel:
        for name, (inputs, expected) in cases(rows, vae).items():
            outputs = grpc_client.predict(channel, MODEL, name, inputs)
            for key, value in expected.items():
                np.testing.assert_array_equal(outputs[key], value)


def test_the_grpc_client_receives_more_than_4_mb(grpc_stand_in):
    grpc_client = importlib.import_module("grpc_client")
    z = np.zeros((1400, 50), np.float32)
    with grpc_client.open_channel(grpc_stand_in) as channel:
        outputs = grpc_client.predict(channel, MODEL, "decode", {"latents": z}, max_rows=1400)
    assert outputs["probabilities"].nbytes > 4 * 2**20


def test_the_clients_split_requests_at_the_largest_batch_of_the_server(stand_in, grpc_stand_in):
    grpc_client = importlib.import_module("grpc_client")
    assert rest_client.MAX_ROWS == LARGEST_BATCH
    rows = {"latents": np.random.default_rng(0).normal(size=(130, 50)).astype(np.float32)}
    assert [len(part["latents"]) for part in rest_client.split(rows, 64)] == [64, 64, 2]
    url = f"{stand_in}/v1/models/{MODEL}/labels/stable"
    by_rest = rest_client.predict(url, "decode", rows)["output"]
    with grpc_client.open_channel(grpc_stand_in) as channel:
        by_grpc = grpc_client.predict(channel, MODEL, "decode", rows)["probabilities"]
        parts = [
            grpc_client.predict(channel, MODEL, "decode", {"latents": rows["latents"][part]})
            for part in (slice(0, 64), slice(64, 128), slice(128, 130))
        ]
    np.testing.assert_array_equal(by_rest, by_grpc)
    whole = np.concatenate([part["probabilities"] for part in parts])
    np.testing.assert_array_equal(by_grpc, whole)


@pytest.mark.parametrize(
    "inputs",
    [{}, {"seeds": np.zeros((0, 2))}, {"images": np.zeros((2, 6)), "seeds": np.zeros((1, 2))}],
)
def test_the_clients_refuse_inputs_without_rows_or_of_different_lengths(inputs):
    with pytest.raises(ValueError, match="equally many rows, and at least one"):
        rest_client.predict("http://127.0.0.1:9", "score", inputs)
    with pytest.raises(ValueError, match="at least one row"):
        rest_client.predict_rows("http://127.0.0.1:9", "score", [])


def test_the_rest_client_raises_the_message_of_the_server(stand_in):
    with pytest.raises(
        rest_client.RequestError, match="images must be finite and lie in"
    ) as caught:
        rest_client.predict(
            f"{stand_in}/v1/models/{MODEL}", "encode", {"images": np.full((1, 28, 28, 1), 255.0)}
        )
    assert caught.value.status == 400
    with pytest.raises(rest_client.RequestError, match="not found") as caught:
        rest_client.predict(f"{stand_in}/v1/models/other", "sample", {"seeds": [[7, 0]]})
    assert caught.value.status == 404


def test_the_printed_curl_commands_work(stand_in, vae):
    commands = [command for command in printed_commands() if command.startswith("curl")]
    assert len(commands) == 2
    for command in commands:
        *_, url, flag, body = shlex.split(command)
        assert flag == "-d"
        answer = rest_client.post(
            url.removesuffix(":predict").replace("http://localhost:8501", stand_in),
            json.loads(body),
            timeout=10,
        )
        columns = answer.get("outputs") or {
            key: [row[key] for row in answer["predictions"]] for key in answer["predictions"][0]
        }
        np.testing.assert_array_equal(
            np.asarray(columns["probabilities"], np.float32), vae.sample(2, seed=7)
        )


def test_the_printed_python_commands_name_clients_that_exist():
    commands = [shlex.split(line) for line in printed_commands() if line.startswith("python ser")]
    assert {Path(command[1]).name for command in commands} == {
        path.name for path in (SERVING / "clients").glob("*.py")
    }
    assert all((SERVING.parent / command[1]).exists() for command in commands)


def test_the_scripts_ask_score_and_draw(stand_in, tmp_path):
    url = f"{stand_in}/v1/models/{MODEL}"
    printed = run_client("rest_client.py", "--url", url, "--seed", "7", "--count", "3")
    assert len(re.findall(r"row \d: image \(28, 28, 1\), mean 0\.\d+, ELBO -\d+", printed)) == 3
    picture = tmp_path / "served.png"
    assert run_client("draw.py", "--url", url, "--out", os.fspath(picture)).strip() == str(picture)
    assert picture.read_bytes().startswith(b"\x89PNG")


# ---------------------------------------------------------------------------------- the load test


def test_the_load_test_counts_answers_and_errors():
    calls = itertools.count()

    def ask():
        time.sleep(0.001)
        if next(calls) % 4 == 3:
            raise rest_client.RequestError(400, "images must be finite")

    found = load.measure(ask, clients=3, seconds=0.2)
    (failed,) = found["errors"].values()
    assert found["errors"].keys() == {"HTTP 400"}
    assert found["clients"] == 3
    assert found["requests"] == next(calls)
    assert failed == found["requests"] // 4
    assert 1 <= found["median_ms"] <= found["p99_ms"]
    assert found["per_second"] > 0
    nothing = load.measure(lambda: 1 / 0, clients=1, seconds=0.01)
    assert nothing["errors"].keys() == {"ZeroDivisionError"}
    assert nothing["median_ms"] is None


def test_the_load_test_asks_over_both_protocols(stand_in, grpc_stand_in, tmp_path, capsys):
    (tmp_path / "README.md").write_text("before\n<!-- begin load -->\n<!-- end load -->\nafter\n")
    arguments = f"--rest {stand_in} --target {grpc_stand_in} --clients 1 2 --seconds 0.1"
    load.main([*arguments.split(), "--to", os.fspath(tmp_path / "load.json"), "--about", "Here."])
    measured = json.loads((tmp_path / "load.json").read_text())
    found = [(row["protocol"], row["clients"], row["errors"]) for row in measured["results"]]
    assert found == [(name, count, {}) for name in ("grpc", "rest") for count in (1, 2)]
    printed = capsys.readouterr().out.strip()
    assert printed == load.table(measured).strip()
    assert printed in (tmp_path / "README.md").read_text()


def test_the_load_test_says_in_one_line_that_no_server_is_there():
    command = [sys.executable, os.fspath(SERVING / "clients" / "load.py"), "--protocols", "rest"]
    done = subprocess.run(
        [*command, "--rest", "http://127.0.0.1:9"], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 1
    assert done.stderr.startswith("Error: ")
    assert done.stderr.count("\n") == 1


def test_the_table_in_the_readme_is_that_of_its_measurements():
    readme = (SERVING / "README.md").read_text()
    measured = json.loads((SERVING / "load.json").read_text())
    assert load.rendered(readme, measured) == readme
    assert "<!-- begin load -->" in readme


# ------------------------------------------------------------------------------ the real server

server_only = [
    pytest.mark.tfserving,
    pytest.mark.skipif(
        not BINARY, reason="TENSORFLOW_MODEL_SERVER does not name a tensorflow_model_server binary"
    ),
]


def marked(test):
    for mark in server_only:
        test = mark(test)
    return test


class Server:
    """The addresses of a running server."""

    def __init__(self, rest_port: int, grpc_port: int) -> None:
        self.rest_port = rest_port
        self.address = f"http://127.0.0.1:{rest_port}"
        self.url = f"{self.address}/v1/models/{MODEL}"
        self.target = f"127.0.0.1:{grpc_port}"

    def get(self, path: str) -> dict:
        with urllib.request.urlopen(self.address + path, timeout=10) as response:
            return json.load(response)

    def available(self) -> set[str]:
        """Returns the versions that take requests."""
        with contextlib.suppress(urllib.error.URLError, ConnectionError, TimeoutError):
            states = self.get(f"/v1/models/{MODEL}")["model_version_status"]
            return {state["version"] for state in states if state["state"] == "AVAILABLE"}
        return set()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextlib.contextmanager
def running(log: Path, *flags: str, versions: tuple[str, ...] = ("1",)):
    """Runs the binary until the block ends, and waits for the versions before the block."""
    server = Server(free_port(), free_port())
    command = [BINARY, f"--rest_api_port={server.rest_port}"]
    command += [f"--port={server.target.rpartition(':')[2]}", "--file_system_poll_wait_seconds=1"]
    command.append("--grpc_max_threads=256")
    # The log level of the tests would keep the server from logging its warm-up.
    environment = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "0"}
    with open(log, "wb") as output:
        process = subprocess.Popen(
            [*command, *flags], stdout=output, stderr=subprocess.STDOUT, env=environment
        )
    try:
        wait_for(lambda: server.available() >= set(versions), process, log)
        yield server
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def wait_for(condition, process=None, log: Path | None = None, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        if process is not None and process.poll() is not None:
            pytest.fail(f"the server ended with {process.returncode}:\n{log.read_text()[-3000:]}")
        if time.monotonic() > deadline:
            pytest.fail("the server took too long" + (log.read_text()[-3000:] if log else ""))
        time.sleep(0.1)


def single_model(base: Path) -> tuple[str, str]:
    return f"--model_name={MODEL}", f"--model_base_path={base}"


@pytest.fixture(scope="module")
def server(base, tmp_path_factory):
    with running(tmp_path_factory.mktemp("log") / "server.log", *single_model(base)) as found:
        yield found


def rpc(server: Server, signature: str, inputs: dict, **spec) -> dict[str, np.ndarray]:
    predict_pb2, stubs = api("predict_pb2"), api("prediction_service_pb2_grpc")
    import grpc

    request = predict_pb2.PredictRequest()
    request.model_spec.name = MODEL
    request.model_spec.signature_name = signature
    if "label" in spec:
        request.model_spec.version_label = spec["label"]
    for name, value in inputs.items():
        request.inputs[name].CopyFrom(tf.make_tensor_proto(value))
    with grpc.insecure_channel(server.target) as channel:
        response = stubs.PredictionServiceStub(channel).Predict(request, 30)
    return {name: tf.make_ndarray(value) for name, value in response.outputs.items()}


@marked
@pytest.mark.parametrize("rows", [1, 3, 64])
def test_grpc_gives_the_python_models_bits(server, vae, rows):
    for name, (inputs, expected) in cases(rows, vae).items():
        outputs = rpc(server, name, inputs)
        for key, value in expected.items():
            np.testing.assert_array_equal(outputs[key], value, f"{name} {key}")


@marked
@pytest.mark.parametrize("preset", ["mlp_mnist", "conv_mnist", "best_mnist"])
def test_a_preset_gives_the_python_models_bits(preset, tmp_path):
    """Dense networks, convolutions, and latents in groups."""
    model = VAE.from_preset(preset)
    base = tmp_path / preset
    version = export.export_saved_model(model, base)
    with running(tmp_path / "log", *single_model(base)) as server:
        for rows in (1, 3, 64):
            for name, (inputs, expected) in cases(rows, model).items():
                by_rpc = rpc(server, name, inputs)
                by_rest = rest_client.predict(server.url, name, inputs)
                for key, value in expected.items():
                    np.testing.assert_array_equal(by_rpc[key], value, f"{rows} {name} {key}")
                    column = by_rest[key if len(by_rest) > 1 else "output"]
                    np.testing.assert_array_equal(column, value, f"{rows} {name} {key}")
        require_golden(server, version)


@marked
@pytest.mark.parametrize("rows", [1, 3, 64])
def test_rest_gives_the_python_models_bits_in_both_forms(server, vae, rows):
    for name, (inputs, expected) in cases(rows, vae).items():
        columns = rest_client.predict(server.url, name, inputs)
        lists = {key: value.tolist() for key, value in inputs.items()}
        entries = [dict(zip(lists, row, strict=True)) for row in zip(*lists.values(), strict=True)]
        if len(inputs) == 1:
            entries = [next(iter(entry.values())) for entry in entries]
        answered = rest_client.predict_rows(server.url, name, entries)
        single = len(columns) == 1
        for key, value in expected.items():
            np.testing.assert_array_equal(columns["output" if single else key], value)
            by_row = [row if single else row[key] for row in answered]
            np.testing.assert_array_equal(np.asarray(by_row, np.float32), value)


@marked
def test_the_golden_requests_get_the_golden_responses(server, base):
    require_golden(server, base / "1")


def require_golden(server: Server, version: Path) -> None:
    for case in json.loads((version / GOLDEN_FILE).read_text()):
        answer = rest_client.post(server.url, case["request"], timeout=10)
        recorded = case["response"]["outputs"]
        if not isinstance(recorded, dict):
            recorded, answer = {"": recorded}, {"outputs": {"": answer["outputs"]}}
        assert answer["outputs"].keys() == recorded.keys()
        for key, value in recorded.items():
            np.testing.assert_array_equal(
                np.asarray(answer["outputs"][key], np.float32), np.asarray(value, np.float32)
            )


@marked
def test_health_and_metadata(server):
    assert server.available() == {"1"}
    metadata = server.get(f"/v1/models/{MODEL}/metadata")["metadata"]["signature_def"]
    images = metadata["signature_def"]["encode"]["inputs"]["images"]["tensor_shape"]["dim"]
    assert [int(dim["size"]) for dim in images] == [-1, 28, 28, 1]
    with pytest.raises(urllib.error.HTTPError) as caught:
        server.get("/v1/models/other")
    assert caught.value.code == 404


@marked
@pytest.mark.parametrize(
    ("inputs", "sentence"),
    [
        ({"images": np.full((2, 28, 28, 1), 255.0)}, "images must be finite and lie in"),
        ({"images": np.zeros((2, 784))}, "images must have shape"),
        ({"images": np.zeros((2, 28, 28))}, "images must have shape"),
        ({"images": np.zeros((0, 28, 28, 1))}, ""),  # an empty list has a shape of its own
    ],
)
def test_bad_rows_end_in_400_and_the_sentence(server, inputs, sentence):
    columns = {name: value.tolist() for name, value in inputs.items()}
    body = {"signature_name": "encode", "inputs": columns}
    with pytest.raises(rest_client.RequestError, match=sentence) as caught:
        rest_client.post(server.url, body, timeout=10)
    assert caught.value.status == 400


@marked
def test_bad_rows_end_in_invalid_argument_over_grpc(server):
    api("predict_pb2")
    import grpc

    x = np.zeros((2, 28, 28, 1), np.float32)
    x[1, 0, 0, 0] = np.nan
    for bad, sentence in ((x, "images must be finite"), (x[:0], "with N >= 1")):
        with pytest.raises(grpc.RpcError, match=sentence) as caught:
            rpc(server, "reconstruct", {"images": bad})
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    with pytest.raises(grpc.RpcError) as caught:
        rpc(server, "nothing", {"images": x})
    assert caught.value.code() in (
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.FAILED_PRECONDITION,
        grpc.StatusCode.NOT_FOUND,
    )


@marked
def test_the_printed_scripts_work_on_the_server(server, tmp_path):
    run_client("rest_client.py", "--url", server.url)
    picture = tmp_path / "served.png"
    run_client("draw.py", "--url", server.url, "--out", os.fspath(picture))
    assert picture.read_bytes().startswith(b"\x89PNG")
    api("predict_pb2")
    printed = run_client("grpc_client.py", "--target", server.target, "--label", "")
    assert len(re.findall(r"row \d: image \(28, 28, 1\)", printed)) == 3


@marked
def test_batched_concurrent_clients_get_their_own_rows(base, vae, tmp_path):
    flags = ["--enable_batching=true", f"--batching_parameters_file={SERVING / 'batching.config'}"]
    flags.append(f"--monitoring_config_file={SERVING / 'monitoring.config'}")
    singles = [(7, row) for row in range(48)]
    expected = vae.sample(len(singles), seed=7)

    with running(tmp_path / "log", *single_model(base), *flags) as server:

        def ask(pair):
            return rest_client.predict(server.url, "sample", {"seeds": np.array([pair])})

        with ThreadPoolExecutor(16) as pool:
            for answer, image in zip(pool.map(ask, singles), expected, strict=True):
                np.testing.assert_allclose(answer["probabilities"][0], image, rtol=0, atol=1e-5)
        connection = http.client.HTTPConnection("127.0.0.1", server.rest_port, timeout=10)
        connection.request("GET", "/monitoring/prometheus/metrics")
        assert b":tensorflow:" in connection.getresponse().read()
        connection.close()


@marked
def test_more_clients_than_the_default_threads_are_answered(base, tmp_path):
    """The default of the server, four threads for each core, refuses further requests."""
    flags = ["--enable_batching=true", f"--batching_parameters_file={SERVING / 'batching.config'}"]
    api("predict_pb2")
    grpc_client = importlib.import_module("grpc_client")
    x = {"images": np.zeros((1, 28, 28, 1), np.float32)}
    with (
        running(tmp_path / "log", *single_model(base), *flags) as server,
        grpc_client.open_channel(server.target) as channel,
    ):
        found = load.measure(
            lambda: grpc_client.predict(channel, MODEL, "reconstruct", x, label=""),
            clients=64,
            seconds=3,
        )
    assert found["errors"] == {}
    assert found["requests"] > 64


@marked
def test_the_grpc_client_receives_more_than_4_mb_from_the_server(server):
    api("predict_pb2")
    grpc_client = importlib.import_module("grpc_client")
    z = {"latents": np.zeros((1400, 50), np.float32)}
    with grpc_client.open_channel(server.target) as channel:
        out = grpc_client.predict(channel, MODEL, "decode", z, max_rows=1400, label="")
    assert out["probabilities"].nbytes > 4 * 2**20


@marked
def test_the_script_serves_the_label_that_the_clients_ask_for(vae, tmp_path):
    for port in (8500, 8501):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                pytest.skip(f"port {port} is in use")
    serving = tmp_path / "serving"
    shutil.copytree(SERVING, serving, ignore=shutil.ignore_patterns("models"))
    export.export_saved_model(vae, serving / "models" / MODEL)
    log = tmp_path / "log"
    with open(log, "wb") as output:
        process = subprocess.Popen(
            ["sh", os.fspath(serving / "serve.sh"), MODEL], stdout=output, stderr=subprocess.STDOUT
        )
    try:
        server = Server(8501, 8500)
        wait_for(lambda: server.available() == {"1"}, process, log)
        assert "row 2: image (28, 28, 1)" in run_client("rest_client.py")
        api("predict_pb2")
        assert "row 2: image (28, 28, 1)" in run_client("grpc_client.py")
        assert "no error" in run_client("load.py", "--clients", "8", "--seconds", "1")
    finally:
        process.terminate()
        process.wait(30)


@marked
def test_the_warm_up_runs_on_load(base, tmp_path):
    log = tmp_path / "log"
    with running(log, *single_model(base)):
        pass
    text = log.read_text()
    assert re.search(r"[Ww]arm-?up", text)
    assert "14" in "".join(re.findall(r".*[Ww]arm-?up.*", text))  # 7 signatures at 2 sizes


@marked
def test_a_version_swaps_under_load_without_a_failed_request(vae, tmp_path):
    base = tmp_path / MODEL
    export.export_saved_model(vae, base)
    failures, answered, stop = [], [], threading.Event()

    def load(server):
        while not stop.is_set():
            try:
                rest_client.predict(server.url, "sample", {"seeds": np.array([[7, 0]])})
                answered.append(1)
            except (rest_client.RequestError, OSError) as error:
                failures.append(error)

    with running(tmp_path / "log", *single_model(base)) as server:
        clients = [threading.Thread(target=load, args=(server,)) for _ in range(4)]
        for client in clients:
            client.start()
        try:
            export.export_saved_model(vae, base)
            wait_for(lambda: server.available() == {"2"})
        finally:
            stop.set()
            for client in clients:
                client.join()
    assert failures == []
    assert len(answered) > 100


@marked
def test_labels_choose_the_version(vae, tmp_path):
    api("predict_pb2")
    base = tmp_path / MODEL
    export.export_saved_model(vae, base)
    other = VAE()
    export.export_saved_model(other, base)
    (canary,) = (block for language, block in blocks() if "canary" in block and not language)
    config = tmp_path / "models.config"
    config.write_text(
        f'model_config_list {{ config {{ name: "{MODEL}" base_path: "{base}" '
        f'model_platform: "tensorflow" {canary} }} }}'
    )
    flags = [f"--model_config_file={config}", "--allow_version_labels_for_unavailable_models=true"]
    with running(tmp_path / "log", *flags, versions=("1", "2")) as server:
        for label, model in (("stable", vae), ("canary", other)):
            inputs = {"seeds": np.array([[7, 0]], np.int32)}
            expected = model.sample(1, seed=7)
            url = f"{server.url}/labels/{label}"
            by_rest = rest_client.predict(url, "sample", inputs)["probabilities"]
            np.testing.assert_array_equal(by_rest, expected)
            by_rpc = rpc(server, "sample", inputs, label=label)["probabilities"]
            np.testing.assert_array_equal(by_rpc, expected)
