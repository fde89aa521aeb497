"""A stand-in for tensorflow_model_server with the part of its REST API that the clients use.

It answers from a SavedModel with TensorFlow's own loader. A test against it shows that a client
sends and reads the right JSON. It shows nothing about the real server.
"""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf


@contextlib.contextmanager
def serve(model: str, version: Path) -> Iterator[str]:
    """Serves a version on a loopback port and yields the address of the server."""
    loaded = tf.saved_model.load(str(version))

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if self.path != f"/v1/models/{model}:predict":
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

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def answer(loaded: Any, body: dict[str, Any]) -> dict[str, Any]:
    """Answers a predict request in its own form, row or columnar."""
    signature = loaded.signatures[body.get("signature_name", "serving_default")]
    _, specs = signature.structured_input_signature
    by_rows = "instances" in body
    inputs = to_columns(body["instances"], list(specs)) if by_rows else body["inputs"]
    tensors = {name: tf.constant(inputs[name], spec.dtype) for name, spec in specs.items()}
    outputs = {name: value.numpy() for name, value in signature(**tensors).items()}
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
