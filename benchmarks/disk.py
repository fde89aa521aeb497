"""What training from the disk costs: memory from 1 to 10 GB of images, and speed beside memory.

`python -m benchmarks.disk FOLDER` makes images in FOLDER, which needs 12 GB, and removes them
again. It writes `results/disk.json` and brings the guide up to date. Each amount of images gets a
process of its own, which makes the cache and trains. The images of the memory table differ in their
first bytes only, which leaves their file sparse; the cache holds all bytes.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import results

PATH = results.FOLDER / "disk.json"
GIGABYTES = (1, 3, 10)
_SIDE = 128  # pixels of the memory table's images, in colour
_STEPS = 50
_ROUNDS = 7
_LARGEST = (20_000, 256)  # images and pixels of the run with convolutions


def text(path: Path = PATH) -> str:
    """Renders the measurements as Markdown."""
    if not path.exists():
        return "Not measured yet."
    found = json.loads(path.read_text(encoding="utf-8"))
    lines = [
        "| images on the disk | memory, cache made and trained | memory, trained from the cache |",
        "|---|---|---|",
    ]
    for row in found["memory"]:
        made, again = (f"{row[key] / 1e6:,.0f} MB" for key in ("making", "training"))
        lines.append(f"| {row['gigabytes']} GB, {row['images']:,} images | {made} | {again} |")
    lines += ["", "| networks | images/s from the disk over images/s from memory |", "|---|---|"]
    for case in found["speed"]:
        ratios = [m / d for m, d in zip(case["memory"], case["disk"], strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4)
        lines.append(f"| {case['title']} | {middle:.2f} ({low:.2f} to {high:.2f}) |")
    large, machine = found["largest"], found["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in found["versions"].items())
    lines += [
        "",
        f"`{large['preset']}` on {large['images']:,} images of {large['side']} x {large['side']} x "
        f"3 ({large['parameters']:,} parameters, {large['batch']} images a step): "
        f"{large['images_per_second']:.1f} images/s and {large['memory'] / 1e6:,.0f} MB of "
        "anonymous memory.",
        "",
        f"Peak anonymous memory, images of {_SIDE} x {_SIDE} x 3, {_STEPS} steps of 100 images. "
        f"Speed: median (quartiles) of {_ROUNDS} interleaved rounds. {machine['cores']} cores of "
        f"{machine['cpu']}, {machine['memory_gib']} GiB, load average before the run "
        f"{machine['load_average']}; {versions}.",
    ]
    return "\n".join(lines)


def measure(folder: Path) -> dict[str, Any]:
    """Runs every measurement in processes of its own."""
    about = results.machine()
    speed = [_child("speed", folder, name) for name in ("mlp_mnist", "conv_mnist")]
    memory = []
    for gigabytes in GIGABYTES:
        with _images(folder, gigabytes * 10**9 // (3 * _SIDE**2), _SIDE) as path:
            row = {"gigabytes": gigabytes} | _child("memory", path)
            memory.append(row | {"training": _child("memory", path)["making"]})
    count, side = _LARGEST
    with _images(folder, count, side) as path:
        largest = _child("largest", path)
    return {
        "memory": memory,
        "speed": speed,
        "largest": largest,
        "machine": about,
        "versions": {name: importlib.metadata.version(name) for name in ("tensorflow", "keras")},
    }


class _images:
    """Makes a file of images, and removes it with its cache at the end."""

    def __init__(self, folder: Path, count: int, side: int) -> None:
        self._folder, self._shape = Path(tempfile.mkdtemp(dir=folder)), (count, side, side, 3)

    def __enter__(self) -> Path:
        path = self._folder / "images.npy"
        images = np.lib.format.open_memmap(path, "w+", np.uint8, self._shape)
        numbers = np.arange(len(images), dtype="<u4").view(np.uint8).reshape(-1, 4)
        for row, number in enumerate(numbers):
            images[row, 0, :4, row % 3] = number
        images.flush()
        return path

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self._folder)


def _child(what: str, path: Path, *more: str) -> dict[str, Any]:
    """Runs a part of the measurement in a process of its own and returns its result."""
    command = [sys.executable, "-m", "benchmarks.disk", "--part", what, str(path), *more]
    cache = path if path.is_dir() else path.parent
    environment = os.environ | {"XDG_CACHE_HOME": str(cache / "cache")}
    done = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True)
    print(what, *more, done.stdout.splitlines()[-1], flush=True)
    return json.loads(done.stdout.splitlines()[-1])


def memory(path: Path) -> dict[str, Any]:
    """Makes the cache unless it is there, trains and evaluates; returns the peak of its memory."""
    from vae_keras import VAE, MLPDecoder, MLPEncoder, data

    with _Peak() as peak:
        dataset = data.open_images(path, say=lambda _: None)
        x = dataset.images.x_train
        vae = VAE(MLPEncoder(16, (32,)), MLPDecoder(x.shape[1:], (32,)))
        vae.compile()
        vae.fit(dataset, batch_size=100, steps_per_epoch=_STEPS, verbose=0)
        vae.evaluate(dataset.images.x_test[:2000], verbose=0)
        vae.encode(dataset.images.x_test[:2000])
    return {"images": len(x) + len(dataset.images.x_test), "making": peak.bytes}


def speed(folder: Path, preset: str) -> dict[str, Any]:
    """Trains on the same images in memory and on the disk, in turn."""
    from vae_keras import data
    from vae_keras.training.build import build_model
    from vae_keras.training.config import TrainConfig
    from vae_keras.training.plan import make_plan
    from vae_keras.utils import rows

    side, channels, count, batch = (28, 1, 20_000, 100) if "mlp" in preset else (128, 3, 120, 20)
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (count, side, side, channels), dtype=np.uint8)
    path = folder / f"{preset}.npy"
    np.save(path, images)
    dataset = data.open_images(path, say=lambda _: None)
    config = TrainConfig(preset, data=str(path), batch_size=batch, validation=0)
    recipe = make_plan(config, config.recipe(), dataset).recipe
    in_memory = np.asarray(dataset.images.x_train)
    mapped = np.memmap(folder / "rows", np.uint8, "w+", shape=in_memory.shape)
    mapped[:] = in_memory
    mapped.flush()
    on_disk = rows.of(
        np.memmap(folder / "rows", np.uint8, "r", shape=mapped.shape), np.arange(len(mapped))
    )
    model = build_model(recipe, in_memory.shape[1:], len(in_memory))
    seconds: dict[str, list[float]] = {"memory": [], "disk": []}
    for number in range(_ROUNDS + 1):
        for name, x in (("memory", in_memory), ("disk", on_disk))[:: 1 if number % 2 else -1]:
            started = time.perf_counter()
            model.fit(x, batch_size=batch, verbose=0)
            seconds[name].append(time.perf_counter() - started)
    kind = "convolutions" if "conv" in preset else "MLP"
    title = f"`{preset}`, {kind} at {side} x {side} x {channels}, {batch} images a step"
    return {"title": title} | {name: runs[1:] for name, runs in seconds.items()}


def largest(path: Path) -> dict[str, Any]:
    """Trains convolutions on large images for some steps."""
    from vae_keras import data
    from vae_keras.training.build import build_model
    from vae_keras.training.config import TrainConfig
    from vae_keras.training.plan import make_plan

    steps, batch = 8, 10
    with _Peak() as peak:
        dataset = data.open_images(path, say=lambda _: None)
        x = dataset.images.x_train
        config = TrainConfig("conv_mnist", data=str(path), batch_size=batch)
        recipe = make_plan(config, config.recipe(), dataset).recipe
        model = build_model(recipe, x.shape[1:], len(x))
        model.fit(x, batch_size=batch, steps_per_epoch=2, verbose=0)
        started = time.perf_counter()
        model.fit(x, batch_size=batch, steps_per_epoch=steps, verbose=0)
        seconds = time.perf_counter() - started
    return {
        "preset": "conv_mnist",
        "images": len(x) + len(dataset.images.x_test),
        "side": x.shape[1],
        "parameters": model.count_params(),
        "batch": batch,
        "images_per_second": steps * batch / seconds,
        "memory": peak.bytes,
    }


class _Peak:
    """The most anonymous memory that this process holds inside the `with` block.

    Attributes:
        bytes: that memory.
    """

    def __enter__(self) -> _Peak:
        self.bytes, self._over = 0, threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(0.02):
            self.bytes = max(self.bytes, _anonymous())


def _anonymous() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return sum(1024 * int(line.split()[1]) for line in lines if line.startswith("RssAnon"))


def main() -> int:
    """Measures everything, or one part in this process."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.disk")
    parser.add_argument("--part", choices=("memory", "speed", "largest"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("more", nargs="*")
    arguments = parser.parse_args()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    if arguments.part is not None:
        parts = {"memory": memory, "speed": speed, "largest": largest}
        print(json.dumps(parts[arguments.part](arguments.folder, *arguments.more)))
        return 0
    from benchmarks import render

    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        found = measure(Path(folder))
    PATH.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    render.write_pages()
    print(text())
    return 0


if __name__ == "__main__":
    sys.exit(main())
