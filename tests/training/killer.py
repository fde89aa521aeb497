"""Kills training runs at random moments until they finish, and compares their results bit for bit.

    python -m tests.training.killer --kills 100 --seed 0
    python -m tests.training.killer --kills 100 --seed 0 --on-disk

A run is the command `train` on small real digits. The killer sends SIGKILL while the run trains,
writes a checkpoint, draws, exports or does anything else. It then checks the files on the disk and
starts the same command again. A finished run must hold what a run without kills holds: the weights,
the state of the optimizer, the ELBO of every epoch, the figures and the served model.

With --on-disk the killed runs read their images from a cache on the disk, which they make first,
and the run without kills reads the same images from memory.

Each attempt is forked from a process that has imported TensorFlow and has not used it. No thread of
TensorFlow's runtime exists in it yet, and an attempt saves the seconds of the imports.
"""

from __future__ import annotations

import argparse
import collections
import csv
import functools
import hashlib
import io
import json
import os
import random
import select
import shutil
import signal
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from vae_keras import VAE, export
from vae_keras.cli.main import main as command
from vae_keras.data import datasets, own_images
from vae_keras.export import saved_model, warmup
from vae_keras.report import figures
from vae_keras.trainer import inputs
from vae_keras.training import artifacts, callbacks, checkpoints, run

STAGES = ("start", "epoch", "checkpoint", "figures", "export", "results")
TRAINING, AFTER = STAGES[:3], STAGES[3:]  # a run that was killed after training does not train
FLAGS = ("--epochs", "3", "--validation", "200", "--batch-size", "50")
PATIENCE = 300.0  # seconds that an attempt may take on a busy machine


@dataclass
class Attempt:
    """One process of a run.

    Attributes:
        code: its exit code, or None if it was killed.
        stage: the stage in which it ended.
        stages: each stage that it entered, and the seconds that it spent there.
    """

    code: int | None = None
    stage: str = "start"
    stages: list[tuple[str, float]] = field(default_factory=list)


def main(argv: list[str] | None = None) -> int:
    """Runs the killer.

    Args:
        argv: the arguments. Default: those of the process.

    Returns:
        0 if every run ended like the run without kills.
    """
    parser = argparse.ArgumentParser(prog="python -m tests.training.killer")
    parser.add_argument("--kills", type=int, default=20, help="number of kills (default: 20)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the moments (default: 0)")
    parser.add_argument("--on-disk", action="store_true", help="killed runs read from the disk")
    arguments = parser.parse_args(argv)
    rng = random.Random(arguments.seed)
    mnist = datasets.load_mnist()  # does not use TensorFlow
    x, x_test = mnist.x_train[:1200, ::4, ::4], mnist.x_test[:100, ::4, ::4]
    cut = datasets.Images(x, mnist.y_train[:1200], x_test, mnist.y_test[:100])
    with tempfile.TemporaryDirectory() as name:
        base, killed = Path(name), collections.Counter()
        flags: tuple[str, ...] = ()
        if arguments.on_disk:
            np.savez(base / "digits.npz", **cut._asdict())
            flags = ("--data", str(base / "digits.npz"))
        cache = base / "cache" if arguments.on_disk else None
        whole = attempt(base / "whole", cut, lambda _: None, flags)
        if whole.code != 0:
            print(f"the run without kills ended with {whole.code}")
            return 1
        seconds = collections.defaultdict(list)
        for stage, spent in whole.stages:
            seconds[stage].append(spent)
        runs = 0
        while killed.total() < arguments.kills:
            runs += 1
            folder = base / "run"
            stages = rng.choices(TRAINING, k=rng.randint(2, 8)) + rng.choices(AFTER, k=3)
            while True:
                alive = killed.total() == arguments.kills or not stages
                moment = (lambda _: None) if alive else plan(rng, stages.pop(0), seconds)
                ended = attempt(folder, cut, moment, flags, cache)
                print(f"run {runs}: {ended.code} in {ended.stage}", flush=True)
                if ended.code is None:
                    killed[ended.stage] += 1
                    require_sound(folder)
                elif ended.code == 0:
                    break
                else:
                    print(f"run {runs} ended with {ended.code} in {ended.stage}")
                    return 1
            require_same(folder, base / "whole")
            shutil.rmtree(folder)
            if cache is not None:
                require_cached(cache)
                shutil.rmtree(cache)
    where = ", ".join(f"{stage} {killed[stage]}" for stage in STAGES)
    print(
        f"{killed.total()} kills ({where}), {runs} runs: each ended bit for bit like the run "
        "without kills."
    )
    return 0


def plan(
    rng: random.Random, stage: str, seconds: dict[str, list[float]]
) -> Callable[[Attempt], float | None]:
    """Chooses when an attempt is killed: some time after it entered a stage for the n-th time.

    Args:
        rng: source of the choice.
        stage: one of `STAGES`.
        seconds: duration of each visit of a stage in the run without kills.

    Returns:
        A function of the attempt so far, called whenever it enters a stage. It returns the seconds
        until the kill, or None.
    """
    visit = rng.randint(1, min(6, len(seconds[stage])))
    delay = rng.uniform(0.0, rng.choice(seconds[stage]))

    def asked(so_far: Attempt) -> float | None:
        visits = sum(name == stage for name, _ in so_far.stages)
        return delay if so_far.stage == stage and visits == visit else None

    return asked


def attempt(
    folder: Path,
    images: datasets.Images,
    moment: Callable[[Attempt], float | None],
    flags: tuple[str, ...] = (),
    cache: Path | None = None,
) -> Attempt:
    """Runs the command once in a child process, and kills it at the chosen moment."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        code = 1
        try:
            code = _train(folder, images, writer, flags, cache)
        finally:
            os._exit(code)
    os.close(writer)
    so_far = Attempt(stages=[("start", 0.0)])
    entered = time.monotonic()
    deadline, wait = entered + PATIENCE, moment(so_far)
    kill_at = deadline if wait is None else entered + wait
    try:
        while True:
            ready, _, _ = select.select([reader], [], [], max(0.0, kill_at - time.monotonic()))
            if not ready:
                break
            message = os.read(reader, 1)
            if not message:  # the attempt has ended
                kill_at = None
                break
            now = time.monotonic()
            so_far.stages[-1] = (so_far.stage, now - entered)
            entered, so_far.stage = now, STAGES[message[0]]
            so_far.stages.append((so_far.stage, 0.0))
            wait = moment(so_far)
            if wait is not None:
                kill_at = now + wait
    finally:
        os.close(reader)
        if kill_at is not None:
            os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
    so_far.stages[-1] = (so_far.stage, time.monotonic() - entered)
    so_far.code = os.waitstatus_to_exitcode(status)
    if so_far.code == -signal.SIGKILL:
        if kill_at == deadline:
            raise TimeoutError(f"an attempt took more than {PATIENCE:.0f} s, in {so_far.stage}")
        so_far.code = None
    return so_far


def _train(
    folder: Path, images: datasets.Images, pipe: int, flags: tuple[str, ...], cache: Path | None
) -> int:
    """Runs the command in the child process, and tells the killer which stage it enters."""
    if cache is not None:
        os.environ["XDG_CACHE_HOME"] = str(cache)
        own_images.IN_MEMORY = 0
    stage = 0

    def within(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def told(*arguments: Any, **keywords: Any) -> Any:
            nonlocal stage
            before, stage = stage, STAGES.index(name)
            os.write(pipe, bytes([stage]))
            result = function(*arguments, **keywords)
            stage = before
            os.write(pipe, bytes([stage]))
            return result

        return told

    with open(os.devnull, "w") as nothing:
        os.dup2(nothing.fileno(), 1)
    inputs.Arrays.stack_size = lambda *_: 2  # many calls in an epoch
    VAE.xla_pays = lambda _: False  # its compilation takes seconds
    datasets.load_mnist = lambda *_: images
    checkpoints.Checkpointer = functools.partial(checkpoints.Checkpointer, seconds=0.02)
    run.fit = within("epoch", run.fit)
    artifacts.write = within("results", artifacts.write)
    checkpoints.save = within("checkpoint", checkpoints.save)
    figures.save = within("figures", figures.save)
    export.export_saved_model = within("export", export.export_saved_model)
    return command(["train", "--workdir", str(folder), *FLAGS, *flags])


# ------------------------------------------------------------------------- the files on the disk


def require_sound(folder: Path) -> None:
    """Looks for incomplete files under final names after a kill.

    Raises:
        AssertionError: if there is one.
    """
    for path in (path for path in folder.rglob("*") if path.is_file()):
        if any(part.startswith((".writing-", ".retired-")) for part in path.parts):
            continue
        if path.suffix == ".json":
            json.loads(path.read_text(encoding="utf-8"))
        elif path.suffix == ".keras":
            with zipfile.ZipFile(path) as archive:
                assert archive.testzip() is None, path
        elif path.suffix == ".png":
            assert path.read_bytes()[-8:-4] == b"IEND", path
        elif path.suffix == ".html":
            assert path.read_text(encoding="utf-8").endswith("</html>\n"), path
    if (folder / "elbo.csv").exists():
        rows = callbacks.read_elbo_csv(folder / "elbo.csv")
        assert [row["epoch"] for row in rows] == [str(epoch) for epoch in range(len(rows))]
        assert all(row["elbo"] and row["val_elbo"] and row["seconds"] for row in rows)
    for path in (folder / "checkpoints").glob("epoch-*.json"):
        digest = hashlib.sha256(path.with_suffix(".keras").read_bytes()).hexdigest()
        assert digest == json.loads(path.read_text(encoding="utf-8"))["sha256"], path
    version = folder / "serving" / "1"
    if version.exists():
        golden, metadata = saved_model.GOLDEN_FILE, saved_model.METADATA_FILE
        for name in ("saved_model.pb", golden, metadata, warmup.FILE):
            assert (version / name).exists(), name


def require_cached(cache: Path) -> None:
    """Looks for anything but one whole cache.

    Raises:
        AssertionError: if there is something else.
    """
    found = sorted(path.name.split("-")[0] for path in cache.rglob("*") if path.is_file())
    assert found == ["cache.json", "catalogue", "lock", "pixels"], found


def require_same(one: Path, other: Path) -> None:
    """Compares two finished runs.

    Raises:
        AssertionError: if they differ in more than durations.
    """
    # The clock decides which checkpoint comes before the newest one.
    names = [
        {str(p.relative_to(f)) for p in f.rglob("*") if p.parent.name != "checkpoints"}
        for f in (one, other)
    ]
    assert names[0] == names[1], names[0] ^ names[1]
    newest = max((one / "checkpoints").glob("*.keras")).name
    for name in ("model.keras", f"checkpoints/{newest}"):
        ours, theirs = weights(one / name), weights(other / name)
        assert ours.keys() == theirs.keys()
        for key in ours:
            np.testing.assert_array_equal(ours[key], theirs[key], err_msg=f"{name} {key}")
    for read in (curve, results):
        ours, theirs = read(one), read(other)
        assert ours == theirs, f"{read.__name__}: {ours} is not {theirs}"
    for path in (*(one / "figures").glob("*.png"), one / "serving" / "1" / saved_model.GOLDEN_FILE):
        name = path.relative_to(one)
        assert path.read_bytes() == (other / name).read_bytes(), name


def weights(path: Path) -> dict[str, np.ndarray]:
    """Reads all arrays of a `.keras` file, with those of the optimizer, without TensorFlow."""
    found = {}

    def collect(name: str, item: object) -> None:
        if isinstance(item, h5py.Dataset):
            found[name] = item[()]

    with zipfile.ZipFile(path) as archive:
        content = io.BytesIO(archive.read("model.weights.h5"))
    with h5py.File(content) as file:
        file.visititems(collect)
    return found


def curve(folder: Path) -> list[dict[str, str]]:
    """Reads `elbo.csv` without the durations."""
    with open(folder / "elbo.csv", newline="", encoding="utf-8") as file:
        return [{k: v for k, v in row.items() if k != "seconds"} for row in csv.DictReader(file)]


def results(folder: Path) -> dict[str, Any]:
    """Reads `metrics.json` without durations, and without the commit, which may change."""
    found = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    found["provenance"].pop("commit")
    found.pop("training_seconds")
    for entry in found["metrics"]:
        entry.pop("seconds", None)
    return found


if __name__ == "__main__":
    sys.exit(main())
