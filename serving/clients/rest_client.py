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

URL = "http://localhost:8501/v1/models/mlp_mnist"


class RequestError(Exception):
    """The server refused a request.

    Attributes:
        status: the HTTP status, 400 for rows that break a rule.
    """

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def predict(
    url: str, signature: str, inputs: Mapping[str, np.ndarray], timeout: float = 10.0
) -> dict[str, np.ndarray]:
    """Sends one request in columnar form: each input and output is one nested list.

    Args:
        url: of the model, such as `URL`, or of a version or label below it.
        signature: the signature's name.
        inputs: arrays by the input's name, equally long.
        timeout: seconds to wait. Default 10.

    Returns:
        float32 arrays by the output's name; a single output, which the server leaves unnamed,
        under "output".

    Raises:
        RequestError: with the server's sentence.

    Example:
        >>> predict(URL, "sample", {"seeds": np.array([[7, 0], [7, 1]])})["probabilities"].shape
        (2, 28, 28, 1)
    """
    columns = {name: np.asarray(value).tolist() for name, value in inputs.items()}
    outputs = post(url, {"signature_name": signature, "inputs": columns}, timeout)["outputs"]
    named = outputs if isinstance(outputs, dict) else {"output": outputs}
    return {name: np.asarray(value, np.float32) for name, value in named.items()}


def predict_rows(url: str, signature: str, rows: list[Any], timeout: float = 10.0) -> list[Any]:
    """Sends one request in row form.

    Args:
        url: as in `predict`.
        signature: the signature's name.
        rows: one entry a row: a nested list when the signature has one input, else a dictionary
            of them by the input's name.
        timeout: seconds to wait. Default 10.

    Returns:
        One entry a row: the nested list of a single output, else a dictionary by name.

    Raises:
        RequestError: with the server's sentence.
    """
    return post(url, {"signature_name": signature, "instances": rows}, timeout)["predictions"]


def post(url: str, body: Mapping[str, Any], timeout: float) -> dict[str, Any]:
    """Posts a request body to `url`:predict and returns the response's."""
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
    scores = predict(arguments.url, "score", {"images": drawn["probabilities"], "seeds": seeds})
    for row, (image, elbo) in enumerate(zip(drawn["probabilities"], scores["elbo"], strict=True)):
        print(f"row {row}: image {image.shape}, mean {image.mean():.4f}, ELBO {elbo:.3f} nats")


if __name__ == "__main__":
    try:
        main()
    except (RequestError, OSError) as error:
        sys.exit(f"Error: {error}")
