"""The gate between the driver and a contestant's process: one works, the others stand still."""

from __future__ import annotations

import contextlib
import importlib
import multiprocessing
import os
import signal
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from benchmarks.alone import hide_peers
from benchmarks.workload import Workload


class Closed(Exception):
    """The driver wants no more work; a contestant lets it pass."""


@dataclass(frozen=True)
class Slice:
    """One slice of work.

    Attributes:
        seconds: it took, on the contestant's own clock.
        images: it went through.
    """

    seconds: float
    images: int


class Gate:
    """The contestant's side: waits for the driver, times the work between two waits.

    Example:
        >>> def train(workload, gate):
        ...     gate.ready()
        ...     while True:
        ...         gate.passed(train_one_epoch(), outcome=weights)
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._started = 0.0

    def ready(self) -> None:
        """Tells that the set-up is done and waits for the first slice.

        Raises:
            Closed: when there is none.
        """
        self._connection.send("ready")
        self._wait(lambda: None)

    def passed(self, images: int, outcome: Callable[[], Any]) -> None:
        """Reports a finished slice and waits for the next one.

        Args:
            images: the slice went through.
            outcome: computes what the driver may ask for, outside of the timing: weights after
                training, log-likelihoods after an evaluation.

        Raises:
            Closed: when there is no next one.
        """
        self._connection.send(Slice(time.perf_counter() - self._started, images))
        self._wait(outcome)

    def _wait(self, outcome: Callable[[], Any]) -> None:
        while (order := self._connection.recv()) != "go":
            if order == "close":
                raise Closed
            self._connection.send(outcome())
        self._started = time.perf_counter()


class Worker:
    """The driver's side: a contestant in a process of its own, stopped while others work.

    Args:
        target: "module:function" under `benchmarks.contestants`.
        workload: what it works on.

    Raises:
        RuntimeError: from any method, when the contestant failed; holds its traceback.
    """

    def __init__(self, target: str, workload: Workload) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        # A daemon may not start processes, and PyTorch's loader starts its workers. They are not
        # stopped with the contestant. Between two slices they have nothing to do.
        self._process = context.Process(target=_serve, args=(target, workload, theirs))
        self._process.start()
        theirs.close()
        try:
            self._receive()
        except RuntimeError:
            self._process.join()
            raise
        self._stop()

    def slice(self) -> Slice:
        """Lets the contestant do one slice."""
        return self._ask("go")

    def outcome(self) -> Any:
        """Returns what the last slice led to."""
        return self._ask("outcome")

    def peak_rss(self) -> int:
        """Returns the most memory the process has held so far, in bytes."""
        return peak_rss(self._process.pid)

    def close(self) -> None:
        """Ends the process."""
        with contextlib.suppress(OSError):
            self._continue()
            self._connection.send("close")
        self._process.join(timeout=10)
        if self._process.is_alive():
            self._process.kill()

    def _ask(self, order: str) -> Any:
        self._continue()
        self._connection.send(order)
        answer = self._receive()
        self._stop()
        return answer

    def _receive(self) -> Any:
        try:
            answer = self._connection.recv()
        except EOFError as error:
            raise RuntimeError("its process ended") from error
        if isinstance(answer, Exception):
            raise answer
        return answer

    def _stop(self) -> None:
        os.kill(self._process.pid, signal.SIGSTOP)

    def _continue(self) -> None:
        os.kill(self._process.pid, signal.SIGCONT)


def peak_rss(pid: int) -> int:
    """Returns a living process's peak resident memory in bytes, as Linux counts it."""
    lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
    held = next(line for line in lines if line.startswith("VmHWM:"))
    return int(held.split()[1]) * 1024


def _serve(target: str, workload: Workload, connection: Connection) -> None:
    """Runs a contestant in its process; what it prints, progress bars too, goes nowhere."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(nowhere, stream)
    # TensorFlow leaves oneDNN off on some processors. Our command line turns it on.
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
    module, function = target.split(":")
    if module not in ("jax_scan", "pythae_vae"):
        hide_peers()
    try:
        contestant = getattr(importlib.import_module(f"benchmarks.contestants.{module}"), function)
        contestant(workload, Gate(connection))
    except Closed:
        pass
    except Exception:
        connection.send(RuntimeError(traceback.format_exc()))
