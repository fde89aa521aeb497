"""Asks a served model over REST; the standard library and NumPy are enough.

Run: python serving/clients/rest_client.py --seed 7 --count 3
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import Any

import numpy as np

# A request without a label is answered by the newest version, also while that is only a canary.
URL = "http://localhost:8501/v1/models/mlp_mnist/labels/stable"

MAX_ROWS = 64
"""Rows in a request. A server that batches refuses more than its `max_batch_size`."""


class RequestError(Exception):
    """The server refused a request.

    Attributes:
        status: the HTTP status, 400 for rows that break a rule.
    """

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def predict(
    url: str,
    signature: str,
    inputs: Mapping[str, np.ndarray],
    timeout: float = 10.0,
    max_rows: int = MAX_ROWS,
) -> dict[str, np.ndarray]:
    """Asks for any number of rows in columnar form: each input and output is one nested list.

    Args:
        url: address of a label, such as `URL`, or of a version or of the model itself.
        signature: name of the signature.
        inputs: arrays by the name of the input, equally long.
        timeout: seconds to wait for each request. Default 10.
        max_rows: rows of a request, >= 1. More rows are sent as several requests. Default 64.

    Returns:
        Arrays by the name of the output. They are float32, and float64 for "p_value", which is
        compared with a rate. A single output, which the server leaves unnamed, has the name
        "output".

    Raises:
        ValueError: for inputs without rows or of different lengths.
        RequestError: with the message of the server.

    Example:
        >>> predict(URL, "sample", {"seeds": np.array([[7, 0], [7, 1]])})["probabilities"].shape
        (2, 28, 28, 1)
    """
    answers = []
    for part in split(inputs, max_rows):
        columns = {name: value.tolist() for name, value in part.items()}
        outputs = post(url, {"signature_name": signature, "inputs": columns}, timeout)["outputs"]
        answers.append(outputs if isinstance(outputs, dict) else {"output": outputs})
    return {
        name: np.concatenate([np.asarray(answer[name], _dtype(name)) for answer in answers])
        for name in answers[0]
    }


def _dtype(name: str) -> type:
    """Returns the type of an output, which JSON does not tell."""
    return np.float64 if name == "p_value" else np.float32


def split(inputs: Mapping[str, np.ndarray], max_rows: int) -> list[dict[str, np.ndarray]]:
    """Splits inputs into parts of at most `max_rows` rows.

    Args:
        inputs: arrays by the name of the input, equally long.
        max_rows: rows of a part, >= 1.

    Returns:
        The inputs of each request.

    Raises:
        ValueError: for inputs without rows, which a server that batches never answers, or for
            inputs of different lengths.

    Example:
        >>> [len(part["seeds"]) for part in split({"seeds": np.zeros((5, 2))}, 3)]
        [3, 2]
    """
    arrays = {name: np.asarray(value) for name, value in inputs.items()}
    lengths = {name: len(value) if value.ndim else 0 for name, value in arrays.items()}
    if not lengths or min(lengths.values()) == 0 or len(set(lengths.values())) > 1:
        raise ValueError(
            "inputs must have equally many rows, and at least one. Received: rows "
            f"{lengths}. Leave the request out if there is nothing to ask."
        )
    rows = next(iter(lengths.values()))
    return [
        {name: value[start : start + max_rows] for name, value in arrays.items()}
        for start in range(0, rows, max_rows)
    ]


def pixels(outputs: Mapping[str, np.ndarray]) -> np.ndarray:
    """Returns the images among the outputs of `sample`.

    They are called "probabilities" if pixels are binary, and "means" otherwise.

    Args:
        outputs: arrays by the name of the output.

    Returns:
        Images [N, H, W, C].
    """
    return outputs["probabilities" if "probabilities" in outputs else "means"]


def predict_rows(url: str, signature: str, rows: list[Any], timeout: float = 10.0) -> list[Any]:
    """Sends one request in row form.

    Args:
        url: as in `predict`.
        signature: name of the signature.
        rows: one entry for each row: a nested list if the signature has one input, else a
            dictionary of nested lists by the name of the input.
        timeout: seconds to wait. Default 10.

    Returns:
        One entry for each row: the nested list of a single output, else a dictionary by name.

    Raises:
        ValueError: for an empty list of rows.
        RequestError: with the message of the server.

    Example:
        >>> len(predict_rows(URL, "decode", [[0.0] * 50]))
        1
    """
    if not rows:
        raise ValueError("rows must hold at least one row. Received: an empty list.")
    return post(url, {"signature_name": signature, "instances": rows}, timeout)["predictions"]


def post(url: str, body: Mapping[str, Any], timeout: float) -> dict[str, Any]:
    """Posts a request body to `url`:predict and returns the body of the response.

    Args:
        url: as in `predict`.
        body: the request, as JSON knows it.
        timeout: seconds to wait.

    Returns:
        The response.

    Raises:
        RequestError: with the message of the server.

    Example:
        >>> post(URL, {"signature_name": "sample", "instances": [[7, 0]]}, 10.0).keys()
        dict_keys(['predictions'])
    """
    # urllib closes each connection. A connection that is kept open would wait 44 ms for each
    # response of more than 16 KB, until Linux acknowledges the first part of it.
    request = urllib.request.Request(
        f"{url}:predict", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request, timeout=timeout) as response:
            return json.load(response)
    except urllib.error.HTTPError as error:
        text = error.read().decode(errors="replace")
        with contextlib.suppress(ValueError, KeyError, TypeError):  # a proxy's page is no JSON
            text = json.loads(text)["error"]
        raise RequestError(error.code, text) from None


def main() -> None:
    parser = argparse.ArgumentParser(description="Draws images from the served model's prior.")
    parser.add_argument("--url", default=URL)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--count", type=int, default=3)
    arguments = parser.parse_args()
    seeds = np.stack([np.full(arguments.count, arguments.seed), np.arange(arguments.count)], axis=1)
    drawn = predict(arguments.url, "sample", {"seeds": seeds})
    images = pixels(drawn)
    scores = predict(arguments.url, "score", {"images": images, "seeds": seeds})
    for row, (image, elbo) in enumerate(zip(images, scores["elbo"], strict=True)):
        print(f"row {row}: image {image.shape}, mean {image.mean():.4f}, ELBO {elbo:.3f} nats")


if __name__ == "__main__":
    try:
        main()
    except (RequestError, OSError, ValueError) as error:
        sys.exit(f"Error: {error}")
