"""Kills training runs at random moments until they finish, and compares their ends bit for bit.

    python -m tests.killer --kills 100 --seed 0

A run is `train.py` on real digits, small. The killer sends SIGKILL while it trains, writes a
checkpoint, draws, exports or does anything else, looks at what lies on the disk, and starts the
same command again. Whatever it survived, a finished run must hold what a run holds that nobody
touched: the weights, the optimizer's state, the ELBO of every epoch, the figures, the served model.

Each attempt is forked from a process that has imported TensorFlow and not used it: no thread of
its runtime is there yet, and an attempt does without seven seconds of imports.
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

import train as command
from vae_keras import callbacks, checkpoints, datasets, export, figures, model, training

STAGES = ("start", "epoch", "checkpoint", "figures", "export", "results")
TRAINING, AFTER = STAGES[:3], STAGES[3:]  # a run that was killed after training trains no more
FLAGS = ("--epochs", "3", "--validation", "200", "--batch-size", "50")
PATIENCE = 300.0  # seconds for one attempt, on a machine with other work


@dataclass
class Attempt:
    """One process of a run.

    Attributes:
        code: its exit code, None when it was killed.
        stage: where it was at its end.
        stages: each stage it entered, and the seconds it spent there.
    """

    code: int | None = None
    stage: str = "start"
    stages: list[tuple[str, float]] = field(default_factory=list)


def main(argv: list[str] | None = None) -> int:
    """Runs the killer.

    Args:
        argv: the arguments. Default: the process'.

    Returns:
        0 when every run ended as the one that nobody touched.
    """
    parser = argparse.ArgumentParser(prog="python -m tests.killer")
    parser.add_argument("--kills", type=int, default=20, help="how many (default: 20)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments (default: 0)")
    arguments = parser.parse_args(argv)
    rng = random.Random(arguments.seed)
    mnist = datasets.load_mnist()  # NumPy alone
    cut = datasets.Images(
        mnist.x_train[:1200], mnist.y_train[:1200], mnist.x_test[:100], mnist.y_test[:100]
    )
    with tempfile.TemporaryDirectory() as name:
        base, killed = Path(name), collections.Counter()
        whole = attempt(base / "whole", cut, lambda _: None)
        if whole.code != 0:
            print(f"the untouched run ended with {whole.code}")
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
                ended = attempt(folder, cut, moment)
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
    where = ", ".join(f"{stage} {killed[stage]}" for stage in STAGES)
    print(f"{killed.total()} kills ({where}), {runs} runs: each ended bit for bit as untouched.")
    return 0


def plan(
    rng: random.Random, stage: str, seconds: dict[str, list[float]]
) -> Callable[[Attempt], float | None]:
    """Chooses when an attempt is killed: some time into some visit of a stage.

    Args:
        rng: the choice's source.
        stage: one of `STAGES`.
        seconds: what each visit of a stage took in the untouched run.

    Returns:
        A function that is asked on every entrance, and answers with the seconds left to live.
    """
    visit = rng.randint(1, min(6, len(seconds[stage])))
    delay = rng.uniform(0.0, rng.choice(seconds[stage]))

    def asked(so_far: Attempt) -> float | None:
        visits = sum(name == stage for name, _ in so_far.stages)
        return delay if so_far.stage == stage and visits == visit else None

    return asked


def attempt(
    folder: Path, images: datasets.Images, moment: Callable[[Attempt], float | None]
) -> Attempt:
    """Runs `train.py` once in a child, and kills it when its moment has come."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        code = 1
        try:
            code = _train(folder, images, writer)
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
            if not message:  # it has ended by itself
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


def _train(folder: Path, images: datasets.Images, pipe: int) -> int:
    """In the child: the command itself, that tells the killer which stage it enters."""
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
    model._STACK_ROWS = 100  # many calls an epoch
    training.VAE.xla_pays = lambda _: False  # its compilation takes seconds
    datasets.load_mnist = lambda *_: images
    training.checkpoints.Checkpointer = functools.partial(checkpoints.Checkpointer, seconds=0.02)
    training._fit = within("epoch", training._fit)
    training._finish = within("results", training._finish)
    checkpoints.save = within("checkpoint", checkpoints.save)
    figures.save = within("figures", figures.save)
    export.export_saved_model = within("export", export.export_saved_model)
    return command.main(["--workdir", str(folder), *FLAGS])


# ----------------------------------------------------------------------- what lies on the disk


def require_sound(folder: Path) -> None:
    """Looks for half files under final names, after a kill.

    Raises:
        AssertionError: when there is one.
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
        for name in (
            "saved_model.pb",
            export.GOLDEN_FILE,
            export.METADATA_FILE,
            export.warmup.FILE,
        ):
            assert (version / name).exists(), name


def require_same(one: Path, other: Path) -> None:
    """Compares two finished runs.

    Raises:
        AssertionError: for any difference but in what the clock says.
    """
    # Which checkpoint the newest one follows, the clock decides.
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
    for path in (*(one / "figures").glob("*.png"), one / "serving" / "1" / export.GOLDEN_FILE):
        name = path.relative_to(one)
        assert path.read_bytes() == (other / name).read_bytes(), name


def weights(path: Path) -> dict[str, np.ndarray]:
    """Reads every array of a `.keras` file, the optimizer's too, without TensorFlow."""
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
    """Reads `elbo.csv` without its seconds."""
    with open(folder / "elbo.csv", newline="", encoding="utf-8") as file:
        return [{k: v for k, v in row.items() if k != "seconds"} for row in csv.DictReader(file)]


def results(folder: Path) -> dict[str, Any]:
    """Reads `metrics.json` without its seconds, and without the commit: somebody may be at work."""
    found = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    found["provenance"].pop("commit")
    for entry in found["metrics"]:
        entry.pop("seconds", None)
    return found


if __name__ == "__main__":
    sys.exit(main())
