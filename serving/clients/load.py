"""Loads a served model with concurrent clients, and measures latencies and errors.

Run: python serving/clients/load.py --clients 1 8 32
"""

from __future__ import annotations

import argparse
import collections
import json
import re
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import rest_client

_MARKED = re.compile(r"(<!-- begin load -->\n).*?(<!-- end load -->)", re.DOTALL)


def measure(ask: Callable[[], object], clients: int, seconds: float) -> dict[str, Any]:
    """Lets clients ask again and again, each as soon as it has its answer.

    Args:
        ask: sends one request and returns when the answer is there. It is called in threads.
        clients: number of concurrent clients, >= 1.
        seconds: time after which no new request is sent.

    Returns:
        `clients`, `requests` and `errors` by code; `median_ms` and `p99_ms` of the answered
        requests, or None if there is no answer; and `per_second`, the answers in a second.

    Example:
        >>> measure(lambda: None, clients=2, seconds=0.01)["errors"]
        {}
    """
    latencies: list[float] = []
    errors: collections.Counter[str] = collections.Counter()
    began = time.perf_counter()

    def client() -> None:
        while (sent := time.perf_counter()) < began + seconds:
            try:
                ask()
            except Exception as error:  # Each kind of failure is a finding here.
                errors[code(error)] += 1
            else:
                latencies.append(time.perf_counter() - sent)

    threads = [threading.Thread(target=client) for _ in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    elapsed = time.perf_counter() - began
    median, p99 = np.percentile(latencies, (50, 99)) * 1000 if latencies else (None, None)
    return {
        "clients": clients,
        "requests": len(latencies) + sum(errors.values()),
        "errors": dict(sorted(errors.items())),
        "median_ms": median,
        "p99_ms": p99,
        "per_second": len(latencies) / elapsed,
    }


def code(error: Exception) -> str:
    """Names an error: the HTTP status, the code of gRPC, or the class of the exception.

    Args:
        error: what a request raised.

    Returns:
        The name.

    Example:
        >>> code(rest_client.RequestError(400, "images must be finite"))
        'HTTP 400'
    """
    if isinstance(error, rest_client.RequestError):
        return f"HTTP {error.status}"
    if callable(getattr(error, "code", None)):
        return error.code().name
    return type(error).__name__


def table(measured: Mapping[str, Any]) -> str:
    """Renders measurements as Markdown.

    Args:
        measured: `results`, a list of what `measure` returns with `protocol` added, and `about`, a
            sentence about the server and the machine.

    Returns:
        A table, followed by the sentence.

    Example:
        >>> print(table({"results": [], "about": "Nothing is measured."}).splitlines()[-1])
        Nothing is measured.
    """
    head = ("protocol", "clients", "median, ms", "p99, ms", "answers a second", "errors")
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    for row in measured["results"]:
        times = ["" if row[key] is None else f"{row[key]:.2f}" for key in ("median_ms", "p99_ms")]
        errors = [f"{count} {name}" for name, count in row["errors"].items()] or ["no error"]
        rate = f"{row['per_second']:,.0f}"
        cells = (row["protocol"], row["clients"], *times, rate, ", ".join(errors))
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join([*lines, "", measured["about"]])


def rendered(readme: str, measured: Mapping[str, Any]) -> str:
    """Returns the text of a README with the table between its marks.

    Args:
        readme: text with the marks `<!-- begin load -->` and `<!-- end load -->`.
        measured: as in `table`.

    Returns:
        The new text.

    Example:
        >>> "Nothing" in rendered("<!-- begin load -->\\n<!-- end load -->", MEASURED)
        True
    """
    return _MARKED.sub(lambda match: f"{match[1]}{table(measured)}\n{match[2]}", readme)


def requests(arguments: argparse.Namespace) -> dict[str, Callable[[], object]]:
    """Returns a function that sends one request, for each protocol."""
    shape = (arguments.rows, *arguments.shape)
    images = {"images": np.random.default_rng(0).random(shape, dtype=np.float32)}
    asks: dict[str, Callable[[], object]] = {}
    if "grpc" in arguments.protocols:
        import grpc_client  # needs tensorflow-serving-api

        channel = grpc_client.open_channel(arguments.target)
        asks["grpc"] = lambda: grpc_client.predict(
            channel, arguments.model, arguments.signature, images, label=arguments.label
        )
    if "rest" in arguments.protocols:
        label = f"/labels/{arguments.label}" if arguments.label else ""
        url = f"{arguments.rest}/v1/models/{arguments.model}{label}"
        asks["rest"] = lambda: rest_client.predict(url, arguments.signature, images)
    return asks


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Measures a server under concurrent requests.")
    parser.add_argument("--target", default="localhost:8500", help="address of gRPC")
    parser.add_argument("--rest", default="http://localhost:8501", help="address of REST")
    parser.add_argument("--model", default="mlp_mnist")
    parser.add_argument("--label", default="stable", help="'' asks the newest version")
    parser.add_argument("--signature", default="reconstruct", help="one that takes images")
    parser.add_argument("--shape", type=int, nargs=3, default=(28, 28, 1), help="of an image")
    parser.add_argument("--rows", type=int, default=1, help="images in a request")
    parser.add_argument("--clients", type=int, nargs="+", default=(1, 8, 32))
    parser.add_argument("--seconds", type=float, default=5.0, help="for each row of the table")
    parser.add_argument(
        "--protocols", nargs="+", choices=("grpc", "rest"), default=("grpc", "rest")
    )
    parser.add_argument("--about", default="", help="a sentence about server and machine")
    parser.add_argument("--to", type=Path, help="writes JSON, and the README.md beside it")
    arguments = parser.parse_args(argv)

    results = []
    for protocol, ask in requests(arguments).items():
        ask()  # The first request pays for the connection.
        for clients in arguments.clients:
            results.append({"protocol": protocol} | measure(ask, clients, arguments.seconds))
    measured = {"results": results, "about": arguments.about}
    print(table(measured))
    if arguments.to:
        arguments.to.write_text(json.dumps(measured, indent=2) + "\n", encoding="utf-8")
        readme = arguments.to.with_name("README.md")
        readme.write_text(rendered(readme.read_text(encoding="utf-8"), measured), encoding="utf-8")


if __name__ == "__main__":
    try:
        main()
    except Exception as error:  # One line, whatever the first request met.
        detail = error.details() if callable(getattr(error, "details", None)) else error
        sys.exit(f"Error: {code(error)}: {detail}")
