"""Requests that TF Serving answers while it loads a version, before anybody waits for one.

The file is a TFRecord of `PredictionLog` messages. Their classes live in another package,
`tensorflow-serving-api`; three nested messages are few enough to write by hand.

References:
    tensorflow/serving, `apis/prediction_log.proto`, `apis/predict.proto`, `apis/model.proto`.
    Protocol Buffers, "Encoding": a length-delimited field is its tag, its length, its bytes.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

import tensorflow as tf

FILE = "assets.extra/tf_serving_warmup_requests"

# Field numbers, all of fields that hold a message or a string.
_LOG_PREDICT = 6  # PredictionLog.predict_log
_PREDICT_REQUEST = 1  # PredictLog.request
_REQUEST_MODEL_SPEC = 1  # PredictRequest.model_spec
_REQUEST_INPUTS = 2  # PredictRequest.inputs, a map: repeated entries of key and value
_MODEL_SPEC_SIGNATURE = 3  # ModelSpec.signature_name
_MAP_KEY, _MAP_VALUE = 1, 2


def write(
    path: str | os.PathLike[str],
    requests: list[tuple[str, Mapping[str, tf.TensorSpec]]],
    batch_sizes: tuple[int, ...],
) -> None:
    """Writes one warm-up request for each signature and batch size.

    Args:
        path: the TFRecord to write.
        requests: signatures' names, each with its inputs by name; the first axis is free.
        batch_sizes: rows a request.
    """
    with tf.io.TFRecordWriter(os.fspath(path)) as writer:
        for signature, inputs in requests:
            for rows in batch_sizes:
                writer.write(prediction_log(signature, inputs, rows))


def prediction_log(signature: str, inputs: Mapping[str, tf.TensorSpec], rows: int) -> bytes:
    """Encodes a `PredictionLog` of one request whose rows are all alike.

    Args:
        signature: the signature's name.
        inputs: its inputs by name.
        rows: the batch size.

    Returns:
        The serialized message. A tensor of one repeated value takes a few bytes at any size.
    """
    request = _field(_REQUEST_MODEL_SPEC, _field(_MODEL_SPEC_SIGNATURE, signature.encode()))
    for name, spec in inputs.items():
        value = 0 if spec.dtype.is_integer else 0.5
        tensor = tf.make_tensor_proto(value, spec.dtype, [rows, *spec.shape[1:]])
        entry = _field(_MAP_KEY, name.encode()) + _field(_MAP_VALUE, tensor.SerializeToString())
        request += _field(_REQUEST_INPUTS, entry)
    return _field(_LOG_PREDICT, _field(_PREDICT_REQUEST, request))


def _field(number: int, payload: bytes) -> bytes:
    """A length-delimited field, wire type 2."""
    return bytes([number << 3 | 2]) + _varint(len(payload)) + payload


def _varint(value: int) -> bytes:
    """Seven bits a byte, the lowest first; the high bit says that more follow."""
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*encoded, value])
