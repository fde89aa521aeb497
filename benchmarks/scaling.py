"""Where more machines stop helping: measured compute, a stated network, a model of the two.

`python -m benchmarks.scaling` measures training steps without a strategy, of one worker, and of one
among several, writes `results/scaling.json` and brings the pages up to date. A strategy with one
replica takes the steps of several ones inside of its scope, so one process can measure them. The
dense networks are measured at the sizes that a worker of 2, 8, 64 and 1,000 would get of one batch.
Dense and convolutional networks are measured at 100 and 1,000 images a worker. The network between
the workers is not measured but stated: a ring all-reduce sends 2 (n - 1) / n of the message through
each worker's link, in 2 (n - 1) hops, after the gradient is whole.

References:
    Patarasuk & Yuan 2009, "Bandwidth optimal all-reduce algorithms for clusters of workstations".
"""

from __future__ import annotations

import contextlib
import dataclasses
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

from benchmarks import results, workers
from benchmarks.race import Ratio

PATH = results.FOLDER / "scaling.json"
WORKERS = (1, 2, 8, 64, 1000)

_PRESET = "mlp_mnist"
_NETWORK = {"gbit_per_second": 10, "latency_us": 50}
_STEPS, _ROUNDS = 200, 7
_MOST = 100_000  # workers, as far as the model is asked


@dataclasses.dataclass(frozen=True)
class Case:
    """Networks at a number of images a worker.

    Attributes:
        name: what the table calls them.
        preset: the preset whose networks they are, trained with the ELBO in float32.
        image_size: height and width of the images, in pixels.
        batch_size: images a worker.
        steps: steps of a measurement.
    """

    name: str
    preset: str
    image_size: int
    batch_size: int
    steps: int


CASES = (
    Case("dense, 28 x 28", "mlp_mnist", 28, 1000, 40),
    Case("convolutions, 28 x 28", "conv_mnist", 28, 100, 40),
    Case("convolutions, 28 x 28", "conv_mnist", 28, 1000, 6),
    Case("convolutions, 128 x 128", "conv_mnist", 128, 100, 4),
    Case("convolutions, 128 x 128", "conv_mnist", 128, 1000, 1),
)


def share(batch_size: int, workers: int) -> int:
    """Returns the images that a worker gets of a global batch."""
    return -(-batch_size // workers)


def network_seconds(message_bytes: int, workers: int, network: Mapping[str, float]) -> float:
    """Returns how long a ring all-reduce takes."""
    sent = 2 * (workers - 1) / workers * message_bytes
    hops = 2 * (workers - 1)
    return sent * 8 / (network["gbit_per_second"] * 1e9) + hops * network["latency_us"] * 1e-6


def rows(path: Path = PATH) -> dict[str, dict[str, list[float]]]:
    """Returns the seconds of a step in each round, under what was measured.

    The result is {} if nothing was measured yet.
    """
    if not path.exists():
        return {}
    found = json.loads(path.read_text(encoding="utf-8"))
    return {
        "no strategy": {"seconds": found["alone"]},
        "a strategy": {"seconds": found["one_replica"]},
    }


def text(path: Path = PATH) -> str:
    """Renders the measurements as Markdown: a table, where scaling stops, what was measured."""
    if not path.exists():
        return "Not measured yet."
    found = json.loads(path.read_text(encoding="utf-8"))
    batch, message, network = found["batch_size"], found["message_bytes"], found["network"]
    alone = statistics.median(found["alone"])
    one = _seconds(found["one_replica"], found["alone"])
    seconds = {int(rows): _seconds(runs, found["alone"]) for rows, runs in found["seconds"].items()}

    def wire(count: int) -> float:
        return network_seconds(message, count, network)

    lines = [
        f"| workers | compute, {batch} images shared | network | speed-up "
        f"| speed-up at {batch} images a worker |",
        "|---|---|---|---|---|",
        f"| 1, no strategy | {alone * 1e3:.1f} ms |  | 1.00 | 1.00 |",
        f"| 1, a strategy | {one * 1e3:.1f} ms |  | {alone / one:.2f} | {alone / one:.2f} |",
    ]
    for count in found["workers"]:
        own = seconds[share(batch, count)]
        same = alone / (own + wire(count))
        more = count * alone / (seconds[batch] + wire(count))
        lines.append(
            f"| {count:,} | {own * 1e3:.1f} ms | {wire(count) * 1e3:.1f} ms | {same:.2f} "
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
            f"from {half:,} workers on.",
            "",
            "The next table shows the speed-up over one process without a strategy, at the same "
            "number of images a worker:",
            "",
            *_table_of_cases(found["cases"], found["workers"], network),
            "",
            f"Network, stated: {network['gbit_per_second']} Gbit/s, "
            f"{network['latency_us']} microseconds a hop, ring all-reduce, not overlapped with "
            "compute. Compute, measured, Keras' loop included: the networks of "
            f"{' and '.join(f'`{name}`' for name in found['presets'])} with the ELBO in float32, "
            f"median of {found['rounds']} rounds on {machine['cores']} cores of {machine['cpu']}, "
            f"load average before the run {machine['load_average']}; {versions}. The time of a "
            "step under a strategy is the median time of the step without one, times the median "
            "ratio of the two in the same round.",
        ]
    )


def _seconds(runs: list[float], alone: list[float]) -> float:
    """Returns the seconds of a step under a strategy, without the drift of the machine.

    They are the median time of the step without a strategy, times the median ratio of the two in
    the same round.

    Args:
        runs: seconds of the step under a strategy in each round.
        alone: seconds of the step without one in each round.
    """
    return statistics.median(alone) * Ratio.of(runs, alone).median


def _table_of_cases(
    cases: list[dict[str, Any]], workers: list[int], network: Mapping[str, float]
) -> list[str]:
    """Renders the cases as lines of a Markdown table."""
    columns = "".join(f" {count:,} workers |" for count in workers)
    lines = [
        f"| networks | images a worker | step, no strategy | step, several workers | message |"
        f"{columns}",
        "|---" * (5 + len(workers)) + "|",
    ]
    for case in cases:
        alone, own = statistics.median(case["alone"]), _seconds(case["shared"], case["alone"])
        wires = (network_seconds(case["message_bytes"], count, network) for count in workers)
        speed = (n * alone / (own + wire) for n, wire in zip(workers, wires, strict=True))
        lines.append(
            f"| {case['name']} | {case['batch_size']:,} | {alone * 1e3:.1f} ms "
            f"| {own * 1e3:.1f} ms | {case['message_bytes'] / 1e6:.1f} MB |"
            + "".join(f" {times:,.2f} |" for times in speed)
        )
    return lines


def measure() -> dict[str, Any]:
    """Measures the steps of no strategy, of one worker, and of one among several, in turn."""
    import keras
    import tensorflow as tf

    from vae_keras.data import datasets
    from vae_keras.trainer import replicas
    from vae_keras.training.build import build_model
    from vae_keras.utils import startup
    from vae_keras.zoo import presets

    about = results.machine()
    startup.keep_freed_memory()
    strategy = tf.distribute.MirroredStrategy(["CPU:0"], tf.distribute.ReductionToOneDevice())
    digits = datasets.load_mnist().x_train

    def built(preset: str, image_size: int) -> tuple[Any, Any, np.ndarray]:
        """Returns a model without a strategy, one under it, and images."""
        images = digits
        if image_size != digits.shape[1]:
            resized = tf.image.resize(digits[:2000], (image_size, image_size))
            images = tf.cast(tf.round(resized), tf.uint8).numpy()
        arguments = workers.recipe(preset), images.shape[1:], len(digits)
        with strategy.scope():
            shared = build_model(*arguments)
        return build_model(*arguments), shared, images

    def seconds_per_step(
        model: keras.Model, images: np.ndarray, size: int, steps: int, several: bool = False
    ) -> float:
        ends: list[float] = []
        clock = keras.callbacks.LambdaCallback(
            on_epoch_end=lambda epoch, logs: ends.append(time.perf_counter())
        )
        rows = images[: steps * size]
        # The first epoch compiles what is new, and the pipeline starts in it. It is not timed.
        with strategy.scope() if several else contextlib.nullcontext():
            model.fit(rows, batch_size=size, epochs=2, verbose=0, callbacks=[clock])
        return (ends[1] - ends[0]) / steps

    def rounds(cases: list[tuple[Any, ...]]) -> list[list[float]]:
        """Returns the seconds a step of each case in each round."""
        runs = [[seconds_per_step(*case) for case in cases] for _ in range(_ROUNDS)]
        return [list(of_case) for of_case in zip(*runs, strict=True)]

    plain, shared, images = built(_PRESET, 28)
    batch = presets.load_recipe(_PRESET).batch_size
    sizes = [share(batch, count) for count in WORKERS]
    alone, one, *others = rounds(
        [
            (plain, images, batch, _STEPS),
            (shared, images, batch, _STEPS),
            *((shared, images, size, _STEPS, True) for size in sizes),
        ]
    )
    cases = []
    for case in CASES:
        pair = built(case.preset, case.image_size)
        given = pair[2], case.batch_size, case.steps
        first, second = rounds([(pair[0], *given), (pair[1], *given, True)])
        message = {"message_bytes": replicas.message_bytes(pair[1])}
        cases.append(dataclasses.asdict(case) | message | {"alone": first, "shared": second})
        print(cases[-1], flush=True)
    return {
        "presets": sorted({case.preset for case in CASES}),
        "parameters": shared.count_params(),
        "message_bytes": replicas.message_bytes(shared),
        "batch_size": batch,
        "network": _NETWORK,
        "workers": WORKERS[1:],
        "rounds": _ROUNDS,
        "alone": alone,
        "one_replica": one,
        "seconds": dict(zip(sizes, others, strict=True)),
        "cases": cases,
        "machine": about,
        "versions": {name: importlib.metadata.version(name) for name in ("tensorflow", "keras")},
    }


def main() -> int:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
    from benchmarks import render

    PATH.write_text(json.dumps(measure(), indent=2) + "\n", encoding="utf-8")
    render.write_pages()
    print(text())
    return 0


if __name__ == "__main__":
    sys.exit(main())
