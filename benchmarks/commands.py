"""Whole processes: imports, the first epoch's line, a first prediction, workers that train."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks import tiles, workers
from benchmarks.alone import HIDE_PEERS
from benchmarks.gate import peak_rss
from benchmarks.race import Ratio, race
from benchmarks.results import Result

_ROOT = Path(__file__).resolve().parent.parent
_PRESET = "mlp_mnist"
_FIRST_PREDICTION = (
    "import numpy, vae_keras;"
    f"vae_keras.VAE.from_preset({_PRESET!r}).reconstruct(numpy.zeros((1, 28, 28), 'uint8'))"
)


@dataclass(frozen=True)
class Command:
    """A contestant that is a process.

    Attributes:
        name: in the table.
        seconds: runs it and returns its time and its peak memory in bytes.
    """

    name: str
    seconds: Callable[[], tuple[float, int]]


def _python(code: str) -> Callable[[], tuple[float, int]]:
    def run() -> tuple[float, int]:
        return _to_its_end([sys.executable, "-c", HIDE_PEERS + code])

    return run


def _to_its_end(command: list[str]) -> tuple[float, int]:
    """Runs a command; returns its seconds and its peak memory in bytes.

    Linux counts a child's memory from that of its parent on: this process, which is small.
    """
    started = time.perf_counter()
    with subprocess.Popen(
        command, cwd=_ROOT, env=_environment(), stdout=subprocess.DEVNULL
    ) as process:
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - started
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    return seconds, usage.ru_maxrss * 1024


def _import_and_one_epoch() -> tuple[float, int]:
    seconds, _ = _python("import tensorflow")()
    (first, second), memory = _epoch_lines(2)
    return seconds + second - first, memory


def _first_epoch_line() -> tuple[float, int]:
    (first,), memory = _epoch_lines(1)
    return first, memory


def _whole_run() -> tuple[float, int]:
    with tempfile.TemporaryDirectory() as folder:
        return _to_its_end([*_train(folder), "--epochs", "1"])


def _epoch_lines(count: int) -> tuple[list[float], int]:
    """Starts `train.py`, and ends it as soon as it has printed the lines of `count` epochs.

    Returns:
        The seconds from its start to each line, and its peak memory in bytes.
    """
    with tempfile.TemporaryDirectory() as folder:
        command = [*_train(folder), "--epochs", str(count + 1)]
        started = time.perf_counter()
        with subprocess.Popen(
            command, cwd=_ROOT, env=_environment(), stdout=subprocess.PIPE, text=True
        ) as process:
            times: list[float] = []
            for line in process.stdout:
                if "Epoch:" in line:
                    times.append(time.perf_counter() - started)
                if len(times) == count:
                    break
            memory = peak_rss(process.pid)
            process.kill()
    return times, memory


def _train(folder: str) -> list[str]:
    code = HIDE_PEERS + "import runpy; runpy.run_path('train.py', run_name='__main__')"
    return [sys.executable, "-u", "-c", code, "--preset", _PRESET, "--workdir", folder]


def _environment() -> dict[str, str]:
    return os.environ | {"TF_CPP_MIN_LOG_LEVEL": "2"}


COMMANDS = {
    "import": (
        Command(
            "import tensorflow, tensorflow_probability",
            _python("import tensorflow, tensorflow_probability.python.distributions"),
        ),
        Command("import vae_keras", _python("import vae_keras")),
    ),
    "first_epoch": (
        Command("bare import tensorflow, plus one epoch", _import_and_one_epoch),
        Command("train.py to its first epoch's line", _first_epoch_line),
        Command("train.py of one epoch, to its end", _whole_run),
    ),
    "first_prediction": (
        Command("bare import tensorflow", _python("import tensorflow")),
        Command("import, from_preset, reconstruct", _python(_FIRST_PREDICTION)),
    ),
    **{
        f"two_workers_{networks}": (
            Command("one process on one core", workers.epoch(*epoch, workers=1)),
            Command("two workers, one core each", workers.epoch(*epoch, workers=2)),
        )
        for networks, epoch in {
            "conv": ("conv_mnist", 200, 20),
            "dense": ("mlp_mnist", 1000, 50),
        }.items()
    },
}

TITLES = {
    "import": "Import, from the start of a process",
    "first_epoch": "From the start of a process to the first epoch's line",
    "first_prediction": "From the start of a process to the first prediction of a preset",
    "two_workers_conv": "An epoch of convolutional networks at batch size 200, on one machine",
    "two_workers_dense": "An epoch of dense networks at batch size 1,000, on one machine",
}


def why_skipped(case: str) -> str | None:
    """Returns why a case cannot be run here, or None."""
    if (
        case == "first_prediction"
        and not (_ROOT / "saved_models" / _PRESET / "model.keras").exists()
    ):
        return f"saved_models/{_PRESET} holds no weights yet"
    if case.startswith("two_workers") and len(os.sched_getaffinity(0)) < 2:
        return "it needs two cores"
    if case == "train_photographs" and not tiles.photographs():
        return f"it needs Debian's package {tiles.PACKAGE}, which is not installed"
    return None


def run(case: str, rounds: int, say: Callable[[str], None]) -> list[Result]:
    """Times the commands of a case in turn; the first round only warms the file cache.

    Args:
        case: a key of `COMMANDS`.
        rounds: of timing.
        say: gets lines on the progress.

    Returns:
        One result a command, the reference first.
    """
    commands = COMMANDS[case]
    memory: dict[str, int] = {command.name: 0 for command in commands}

    def timed(command: Command) -> Callable[[], float]:
        def seconds() -> float:
            elapsed, held = command.seconds()
            memory[command.name] = max(memory[command.name], held)
            return elapsed

        return seconds

    costs = race({command.name: timed(command) for command in commands}, rounds + 1, say)
    costs = {name: values[1:] for name, values in costs.items()}
    reference = costs[commands[0].name]
    return [
        Result(
            case,
            command.name,
            seconds=costs[command.name],
            per="process",
            ratio=Ratio.of(costs[command.name], reference),
            peak_rss=memory[command.name],
        )
        for command in commands
    ]
