"""Asks a served model over gRPC; needs the extra `[serving]`, which is tensorflow-serving-api.

Run: python serving/clients/grpc_client.py --seed 7 --count 3
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping

import grpc
import numpy as np
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

TARGET = "localhost:8500"
MODEL = "mlp_mnist"


def predict(
    channel: grpc.Channel,
    model: str,
    signature: str,
    inputs: Mapping[str, np.ndarray],
    timeout: float = 10.0,
) -> dict[str, np.ndarray]:
    """Sends one request.

    Args:
        channel: an open channel; keep it for many requests.
        model: the model's name.
        signature: the signature's name.
        inputs: arrays by the input's name, of the signature's dtypes.
        timeout: seconds until DEADLINE_EXCEEDED. Default 10.

    Returns:
        Arrays by the output's name.

    Raises:
        grpc.RpcError: code INVALID_ARGUMENT and a sentence for rows that break a rule.

    Example:
        >>> with grpc.insecure_channel(TARGET) as channel:
        ...     predict(channel, MODEL, "sample", {"seeds": np.array([[7, 0]], np.int32)})
    """
    request = predict_pb2.PredictRequest()
    request.model_spec.name = model
    request.model_spec.signature_name = signature
    for name, value in inputs.items():
        request.inputs[name].CopyFrom(tf.make_tensor_proto(value))
    stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
    response = stub.Predict(request, timeout)
    return {name: tf.make_ndarray(value) for name, value in response.outputs.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description="Draws images from the served model's prior.")
    parser.add_argument("--target", default=TARGET)
    parser.add_argument("--model", default=MODEL)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--count", type=int, default=3)
    arguments = parser.parse_args()
    seeds = [[arguments.seed, row] for row in range(arguments.count)]
    with grpc.insecure_channel(arguments.target) as channel:
        inputs = {"seeds": np.array(seeds, np.int32)}
        drawn = predict(channel, arguments.model, "sample", inputs)
    for row, image in enumerate(drawn["probabilities"]):
        print(f"row {row}: image {image.shape}, mean {image.mean():.4f}")


if __name__ == "__main__":
    try:
        main()
    except grpc.RpcError as error:
        sys.exit(f"Error: {error.code().name}: {error.details()}")
