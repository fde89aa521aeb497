"""The warm-up requests are those that the official messages encode."""

import os

import pytest
import tensorflow as tf

from vae_keras.export import warmup

REASON = "tensorflow-serving-api is not installed; it is the extra [serving]"


def test_every_warm_up_record_is_a_request_that_the_model_answers(preset_version, served_preset):
    predict_log = pytest.importorskip("tensorflow_serving.apis.prediction_log_pb2", reason=REASON)
    records = list(tf.data.TFRecordDataset(os.fspath(preset_version / warmup.FILE)))
    asked = []
    for record in records:
        log = predict_log.PredictionLog.FromString(record.numpy())
        assert log.WhichOneof("log_type") == "predict_log"
        request = log.predict_log.request
        assert log.SerializeToString(deterministic=True)  # An unknown field would raise.
        signature = request.model_spec.signature_name
        tensors = {name: tf.constant(tf.make_ndarray(t)) for name, t in request.inputs.items()}
        outputs = served_preset[signature](**tensors)
        (rows,) = {int(tensor.shape[0]) for tensor in tensors.values()}
        assert {int(value.shape[0]) for value in outputs.values()} == {rows}
        asked.append((signature, rows))
    assert sorted(asked) == sorted((name, rows) for name in served_preset for rows in (1, 64))
    assert len(records) < 1000


def test_a_warm_up_record_is_byte_for_byte_the_official_one():
    predict_log = pytest.importorskip("tensorflow_serving.apis.prediction_log_pb2", reason=REASON)
    official = predict_log.PredictionLog()
    request = official.predict_log.request
    request.model_spec.signature_name = "score"
    request.inputs["images"].CopyFrom(tf.make_tensor_proto(0.5, tf.float32, [300, 28, 28, 1]))
    request.inputs["seeds"].CopyFrom(tf.make_tensor_proto(0, tf.int32, [300, 2]))
    inputs = {
        "images": tf.TensorSpec([None, 28, 28, 1]),
        "seeds": tf.TensorSpec([None, 2], tf.int32),
    }
    encoded = warmup.prediction_log("score", inputs, 300)
    assert encoded == official.SerializeToString(deterministic=True)


def test_a_long_message_has_a_length_of_several_bytes():
    """The length of a message is a varint with seven bits in each byte, the lowest first."""
    name = "x" * 300
    message = warmup.prediction_log(name, {}, rows=1)
    assert b"\x1a\xac\x02" + name.encode() in message  # field 3, length 300
