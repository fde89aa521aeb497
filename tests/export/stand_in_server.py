"""A stand-in for tensorflow_model_server with the part of its APIs that the clients use.

It answers from a SavedModel with TensorFlow's own loader, over REST and, if tensorflow-serving-api
is installed, over gRPC. A test against it shows that a client sends and reads the right messages.
It shows nothing about the real server.

Run: python -m tests.export.stand_in_server serving/models/mlp_mnist
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

LABEL = "stable"


@contextlib.contextmanager
def serve(model: str, version: Path, port: int = 0) -> Iterator[str]:
    """Serves a version over REST on a loopback port and yields the address of the server."""
    loaded = tf.saved_model.load(os.fspath(version))
    labels = ("", f"/labels/{LABEL}")

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if self.path not in (f"/v1/models/{model}{label}:predict" for label in labels):
                self._send(404, {"error": f"Servable not found for request: {self.path}"})
                return
            try:
                self._send(200, answer(loaded, body))
            except (tf.errors.InvalidArgumentError, TypeError, ValueError) as error:
                self._send(400, {"error": str(error)})

        def _send(self, status: int, body: dict[str, Any]) -> None:
            payload = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(payload)))
            self.end_headers()
            self.wfile.write(payload)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextlib.contextmanager
def serve_grpc(model: str, version: Path, port: int = 0) -> Iterator[str]:
    """Serves a version over gRPC on a loopback port and yields the target."""
    import grpc
    from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

    loaded = tf.saved_model.load(os.fspath(version))

    class Service(prediction_service_pb2_grpc.PredictionServiceServicer):
        def Predict(self, request, context):
            spec = request.model_spec
            if spec.name != model or spec.version_label not in ("", LABEL):
                context.abort(grpc.StatusCode.NOT_FOUND, f"Servable not found: {spec}")
            tensors = {name: tf.make_ndarray(value) for name, value in request.inputs.items()}
            try:
                outputs = run(loaded, spec.signature_name, tensors)
            except tf.errors.InvalidArgumentError as error:
                context.abort(grpc.StatusCode.INVALID_ARGUMENT, error.message)
            response = predict_pb2.PredictResponse()
            for name, value in outputs.items():
                response.outputs[name].CopyFrom(tf.make_tensor_proto(value))
            return response

    limits = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
    server = grpc.server(ThreadPoolExecutor(64), options=limits)
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(Service(), server)
    port = server.add_insecure_port(f"127.0.0.1:{port}")
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(None).wait()


def run(loaded: Any, name: str, inputs: dict[str, Any]) -> dict[str, np.ndarray]:
    """Calls a signature with inputs of its dtypes."""
    signature = loaded.signatures[name]
    _, specs = signature.structured_input_signature
    tensors = {key: tf.constant(inputs[key], spec.dtype) for key, spec in specs.items()}
    return {key: value.numpy() for key, value in signature(**tensors).items()}


def answer(loaded: Any, body: dict[str, Any]) -> dict[str, Any]:
    """Answers a predict request in its own form, row or columnar."""
    signature = body.get("signature_name", "serving_default")
    _, specs = loaded.signatures[signature].structured_input_signature
    by_rows = "instances" in body
    inputs = to_columns(body["instances"], list(specs)) if by_rows else body["inputs"]
    outputs = run(loaded, signature, inputs)
    if not by_rows:
        columns = {name: value.tolist() for name, value in outputs.items()}
        return {"outputs": columns if len(columns) > 1 else next(iter(columns.values()))}
    rows = [dict(zip(outputs, row, strict=True)) for row in zip(*outputs.values(), strict=True)]
    plain = [{name: np.asarray(value).tolist() for name, value in row.items()} for row in rows]
    return {"predictions": plain if len(outputs) > 1 else [next(iter(r.values())) for r in plain]}


def to_columns(rows: list[Any], names: list[str]) -> dict[str, list[Any]]:
    """Converts the row form to the columnar form. A single input needs no name."""
    if len(names) == 1 and not isinstance(rows[0], dict):
        return {names[0]: rows}
    return {name: [row[name] for row in rows] for name in names}


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    with (
        serve(folder.name, folder / "1", 8501) as rest,
        serve_grpc(folder.name, folder / "1", 8500) as target,
    ):
        print(rest, target, flush=True)
        threading.Event().wait()
