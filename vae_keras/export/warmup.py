"""Warm-up requests, which TF Serving answers while it loads a version.

The file is a TFRecord of `PredictionLog` messages. Their classes belong to another package,
`tensorflow-serving-api`. The messages are written by hand because there are only three kinds.

References:
    tensorflow/serving, `apis/prediction_log.proto`, `apis/predict.proto`, `apis/model.proto`.
    Protocol Buffers, "Encoding": a length-delimited field consists of tag, length and bytes.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

import tensorflow as tf

FILE = "assets.extra/tf_serving_warmup_requests"
"""Path inside a version where TF Serving looks for the requests."""

# The numbers of fields that hold a message or a string.
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
        path: path of the TFRecord.
        requests: name of each signature with the specification of its inputs by name. The first
            axis of each input is free.
        batch_sizes: numbers of rows. Each signature gets one request for each number.

    Example:
        >>> spec = tf.TensorSpec([None, 50])
        >>> write("requests", [("decode", {"latents": spec})], batch_sizes=(1, 64))
    """
    with tf.io.TFRecordWriter(os.fspath(path)) as writer:
        for signature, inputs in requests:
            for rows in batch_sizes:
                writer.write(prediction_log(signature, inputs, rows))


def prediction_log(signature: str, inputs: Mapping[str, tf.TensorSpec], rows: int) -> bytes:
    """Encodes a `PredictionLog` of one request whose rows are all equal.

    Args:
        signature: name of the signature.
        inputs: specification of each input by name.
        rows: number of rows.

    Returns:
        The serialized message. A tensor of one repeated value takes a few bytes at any size.

    Example:
        >>> type(prediction_log("decode", {"latents": tf.TensorSpec([None, 50])}, rows=1))
        <class 'bytes'>
    """
    request = _field(_REQUEST_MODEL_SPEC, _field(_MODEL_SPEC_SIGNATURE, signature.encode()))
    for name, spec in inputs.items():
        value = 0 if spec.dtype.is_integer else 0.5
        tensor = tf.make_tensor_proto(value, spec.dtype, [rows, *spec.shape[1:]])
        entry = _field(_MAP_KEY, name.encode()) + _field(_MAP_VALUE, tensor.SerializeToString())
        request += _field(_REQUEST_INPUTS, entry)
    return _field(_LOG_PREDICT, _field(_PREDICT_REQUEST, request))


def _field(number: int, payload: bytes) -> bytes:
    """Encodes a length-delimited field, wire type 2."""
    return bytes([number << 3 | 2]) + _varint(len(payload)) + payload


def _varint(value: int) -> bytes:
    """Encodes an integer with seven bits in each byte, the lowest first.

    The high bit of a byte is set if another byte follows.
    """
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*encoded, value])
