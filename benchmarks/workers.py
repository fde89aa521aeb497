"""Two workers with a core each, beside one process on one core."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import resource
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.alone import hide_peers

if TYPE_CHECKING:
    from vae_keras.zoo import presets

_ROOT = Path(__file__).resolve().parent.parent


def recipe(preset: str) -> presets.Recipe:
    """Returns the recipe of a preset's networks, trained with the ELBO in float32 on all images."""
    from vae_keras.zoo import presets

    return dataclasses.replace(
        presets.load_recipe(preset),
        objective=presets.Part("ELBO"),
        precision="float32",
        validation=0,
    )


def epoch(
    preset: str, batch_size: int, num_steps: int, workers: int
) -> Callable[[], tuple[float, int]]:
    """Returns a function that starts processes with a core each, which train together.

    Args:
        preset: its networks are trained.
        batch_size: images a step, of all workers together.
        num_steps: steps of the epoch.
        workers: the number of processes. One process runs without a strategy.

    Returns:
        A function that returns the seconds of the second epoch, and the chief's peak memory in
        bytes.
    """

    def seconds() -> tuple[float, int]:
        cluster = {"worker": _free_addresses(workers)}
        processes = []
        try:
            for core in range(workers):
                environment = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"}
                if workers > 1:
                    config = {"cluster": cluster, "task": {"type": "worker", "index": core}}
                    environment["TF_CONFIG"] = json.dumps(config)
                call = f"train({preset!r}, {batch_size}, {num_steps}, {core})"
                processes.append(
                    subprocess.Popen(
                        [sys.executable, "-c", f"from {__name__} import train; {call}"],
                        cwd=_ROOT,
                        env=environment,
                        stdout=subprocess.PIPE,
                        text=True,
                    )
                )
            # A worker that is missing at the meeting keeps the others waiting.
            while any(process.poll() is None for process in processes):
                if any(process.returncode for process in processes):
                    break
                time.sleep(0.1)
        finally:
            for process in processes:
                process.kill()
        told = [process.communicate()[0] for process in processes]
        for process in processes:
            if process.returncode:
                raise subprocess.CalledProcessError(process.returncode, process.args)
        found = json.loads(told[0].splitlines()[-1])
        return found["seconds"], found["peak_rss"]

    return seconds


def train(preset: str, batch_size: int, num_steps: int, core: int) -> None:
    """Trains for two epochs on one core and prints the seconds of the second one as JSON.

    Args:
        preset, batch_size, num_steps: as in `epoch`.
        core: number of the core among those that the process may use.
    """
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[core]})  # before TensorFlow counts the cores
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
    hide_peers()
    import keras
    import tensorflow as tf

    from vae_keras.data import datasets
    from vae_keras.training.build import build_model
    from vae_keras.utils import startup

    scope: contextlib.AbstractContextManager = contextlib.nullcontext()
    if "TF_CONFIG" in os.environ:
        startup.keep_freed_memory()
        scope = tf.distribute.MultiWorkerMirroredStrategy().scope()
    images = datasets.load_mnist().x_train[: num_steps * batch_size]
    with scope:
        vae = build_model(recipe(preset), images.shape[1:], len(images))
    ends: list[float] = []
    told = keras.callbacks.LambdaCallback(on_epoch_end=lambda *_: ends.append(time.perf_counter()))
    vae.fit(images, batch_size=batch_size, epochs=2, verbose=0, callbacks=[told])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"seconds": ends[1] - ends[0], "peak_rss": peak}), flush=True)


def _free_addresses(count: int) -> list[str]:
    with contextlib.ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [f"127.0.0.1:{one.getsockname()[1]}" for one in sockets]
