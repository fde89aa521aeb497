"""Where more machines stop helping: measured compute, a stated network, a model of the two.

`python -m benchmarks.scaling` measures a training step under a strategy at the sizes that a worker
of 1, 2, 8, 64 and 1,000 would get, writes `results/scaling.json` and brings the pages up to date.
The network is not measured but stated: a ring all-reduce sends 2 (n - 1) / n of the message through
each worker's link, in 2 (n - 1) hops, after the gradient is whole.

References:
    Patarasuk & Yuan 2009, "Bandwidth optimal all-reduce algorithms for clusters of workstations".
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import statistics
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import results

PATH = results.FOLDER / "scaling.json"
WORKERS = (1, 2, 8, 64, 1000)

_PRESET = "mlp_mnist"
_NETWORK = {"gbit_per_second": 10, "latency_us": 50}
_STEPS, _ROUNDS = 200, 7
_MOST = 100_000  # workers, as far as the model is asked


def share(batch_size: int, workers: int) -> int:
    """Returns the images that a worker gets of a global batch."""
    return -(-batch_size // workers)


def network_seconds(message_bytes: int, workers: int, network: Mapping[str, float]) -> float:
    """Returns how long a ring all-reduce takes."""
    sent = 2 * (workers - 1) / workers * message_bytes
    hops = 2 * (workers - 1)
    return sent * 8 / (network["gbit_per_second"] * 1e9) + hops * network["latency_us"] * 1e-6


def text(path: Path = PATH) -> str:
    """Renders the measurements as Markdown: a table, where scaling stops, what was measured."""
    if not path.exists():
        return "Not measured yet."
    found = json.loads(path.read_text(encoding="utf-8"))
    batch, message, network = found["batch_size"], found["message_bytes"], found["network"]
    alone = statistics.median(found["alone"])
    seconds = {int(rows): statistics.median(runs) for rows, runs in found["seconds"].items()}

    def wire(workers: int) -> float:
        return network_seconds(message, workers, network)

    lines = [
        f"| workers | compute, {batch} images shared | network | speed-up "
        f"| speed-up at {batch} images a worker |",
        "|---|---|---|---|---|",
        f"| 1, no strategy | {alone * 1e3:.1f} ms |  | 1.00 | 1.00 |",
    ]
    for workers in found["workers"]:
        own = seconds[share(batch, workers)]
        same = alone / (own + wire(workers))
        more = workers * alone / (seconds[batch] + wire(workers))
        lines.append(
            f"| {workers:,} | {own * 1e3:.1f} ms | {wire(workers) * 1e3:.1f} ms | {same:.2f} "
            f"| {more:.2f} |"
        )
    sizes = np.array(sorted(seconds))
    slope, start = np.polyfit(sizes, [seconds[size] for size in sizes], 1)
    shared = {n: start + slope * share(batch, n) + wire(n) for n in range(2, batch + 1)}
    best = min(shared, key=shared.__getitem__)
    stops = (
        f"the fastest step is that of {best} workers"
        if shared[best] < alone
        else "one process without a strategy is the fastest"
    )
    half = next(n for n in range(2, _MOST) if wire(n) > seconds[batch])
    machine = found["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in found["versions"].items())
    return "\n".join(
        [
            *lines,
            "",
            f"Each worker gives {message:,} bytes to the all-reduce of a step: the gradient of "
            f"{found['parameters']:,} parameters and a few sums. With the batch kept at {batch} "
            f"images {stops}; with {batch} images a worker, more than half of each step is network "
            f"from {half:,} workers on. Network, stated: {network['gbit_per_second']} Gbit/s, "
            f"{network['latency_us']} microseconds a hop, ring all-reduce, not overlapped with "
            f"compute. Compute, measured, Keras' loop included: `{found['preset']}`, median of "
            f"{found['rounds']} rounds of {found['steps']} steps on {machine['cores']} cores of "
            f"{machine['cpu']}, load average before the run {machine['load_average']}; {versions}.",
        ]
    )


def measure() -> dict[str, Any]:
    """Measures a step of one worker at each share of the batch, and of no strategy, in turn."""
    import keras
    import tensorflow as tf

    from vae_keras.trainer import replicas
    from vae_keras.training.build import build_model
    from vae_keras.training.plan import load_data
    from vae_keras.zoo import presets

    recipe = presets.load_recipe(_PRESET)
    batch = recipe.batch_size
    images = load_data(recipe.data).images.x_train
    about = results.machine()
    strategy = tf.distribute.MirroredStrategy(["CPU:0"], tf.distribute.ReductionToOneDevice())
    plain = build_model(recipe, images.shape[1:], len(images))
    with strategy.scope():
        shared = build_model(recipe, images.shape[1:], len(images))

    def seconds_per_step(model: keras.Model, size: int) -> float:
        ends: list[float] = []
        clock = keras.callbacks.LambdaCallback(
            on_epoch_end=lambda epoch, logs: ends.append(time.perf_counter())
        )
        rows = images[: _STEPS * size]
        # The pipeline starts in the first epoch.
        model.fit(rows, batch_size=size, epochs=2, verbose=0, callbacks=[clock])
        return (ends[1] - ends[0]) / _STEPS

    cases = [(plain, batch), *((shared, share(batch, workers)) for workers in WORKERS)]
    for case in cases:
        seconds_per_step(*case)  # compiles
    runs = [[seconds_per_step(*case) for case in cases] for _ in range(_ROUNDS)]
    alone, *others = ([run[index] for run in runs] for index in range(len(cases)))
    return {
        "preset": _PRESET,
        "parameters": shared.count_params(),
        "message_bytes": replicas.message_bytes(shared),
        "batch_size": batch,
        "network": _NETWORK,
        "workers": WORKERS[1:],
        "rounds": _ROUNDS,
        "steps": _STEPS,
        "alone": alone,
        "seconds": {size: run for (_, size), run in zip(cases[1:], others, strict=True)},
        "machine": about,
        "versions": {name: importlib.metadata.version(name) for name in ("tensorflow", "keras")},
    }


def main() -> int:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    from benchmarks import render

    PATH.write_text(json.dumps(measure(), indent=2) + "\n", encoding="utf-8")
    render.write_pages()
    print(text())
    return 0


if __name__ == "__main__":
    sys.exit(main())
