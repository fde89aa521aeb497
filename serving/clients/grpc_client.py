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
from rest_client import MAX_ROWS, pixels, split
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

TARGET = "localhost:8500"
MODEL = "mlp_mnist"
LABEL = "stable"
"""Without a label the newest version answers, also while it is only a canary."""


def open_channel(target: str = TARGET) -> grpc.Channel:
    """Opens a channel that takes messages of any size. By default gRPC refuses more than 4 MB.

    Args:
        target: host and port. Default "localhost:8500".

    Returns:
        A channel without encryption. Keep it for many requests.

    Example:
        >>> open_channel("localhost:8500").close()
    """
    limits = ("grpc.max_send_message_length", "grpc.max_receive_message_length")
    return grpc.insecure_channel(target, options=[(limit, -1) for limit in limits])


def predict(
    channel: grpc.Channel,
    model: str,
    signature: str,
    inputs: Mapping[str, np.ndarray],
    timeout: float = 10.0,
    max_rows: int = MAX_ROWS,
    label: str = LABEL,
) -> dict[str, np.ndarray]:
    """Asks for any number of rows.

    Args:
        channel: an open channel.
        model: name of the model.
        signature: name of the signature.
        inputs: arrays by the name of the input, of the dtypes of the signature, equally long.
        timeout: seconds until DEADLINE_EXCEEDED, for each request. Default 10.
        max_rows: rows of a request, >= 1. More rows are sent as several requests. Default 64.
        label: label of the version, or "" for the newest version. Default "stable".

    Returns:
        Arrays by the name of the output.

    Raises:
        ValueError: for inputs without rows or of different lengths.
        grpc.RpcError: with the code INVALID_ARGUMENT and a message for rows that break a rule.

    Example:
        >>> with open_channel() as channel:
        ...     predict(channel, MODEL, "sample", {"seeds": np.array([[7, 0]], np.int32)})
    """
    stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
    answers = []
    for part in split(inputs, max_rows):
        request = predict_pb2.PredictRequest()
        request.model_spec.name = model
        request.model_spec.signature_name = signature
        if label:
            request.model_spec.version_label = label
        for name, value in part.items():
            request.inputs[name].CopyFrom(tf.make_tensor_proto(value))
        outputs = stub.Predict(request, timeout).outputs
        answers.append({name: tf.make_ndarray(value) for name, value in outputs.items()})
    return {name: np.concatenate([answer[name] for answer in answers]) for name in answers[0]}


def main() -> None:
    parser = argparse.ArgumentParser(description="Draws images from the served model's prior.")
    parser.add_argument("--target", default=TARGET)
    parser.add_argument("--model", default=MODEL)
    parser.add_argument("--label", default=LABEL, help="'' asks the newest version")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--count", type=int, default=3)
    arguments = parser.parse_args()
    seeds = [[arguments.seed, row] for row in range(arguments.count)]
    with open_channel(arguments.target) as channel:
        inputs = {"seeds": np.array(seeds, np.int32)}
        drawn = predict(channel, arguments.model, "sample", inputs, label=arguments.label)
    for row, image in enumerate(pixels(drawn)):
        print(f"row {row}: image {image.shape}, mean {image.mean():.4f}")


if __name__ == "__main__":
    try:
        main()
    except grpc.RpcError as error:
        sys.exit(f"Error: {error.code().name}: {error.details()}")
    except ValueError as error:
        sys.exit(f"Error: {error}")
