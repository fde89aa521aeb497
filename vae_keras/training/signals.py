"""Ctrl-C and SIGTERM during training."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any


class Stopped(Exception):
    """A run stopped because it was asked to, and its state is saved. The message says where."""


class Interrupted(Exception):
    """Training stopped because of a signal. The message says how to continue.

    Attributes:
        signal: number of the signal: SIGINT, which is Ctrl-C, or SIGTERM.
    """

    def __init__(self, number: int, folder: Path, where: str) -> None:
        super().__init__(
            f"Stopped {where}; the state is saved in {folder}. Run the same command to go on."
        )
        self.signal = number


class Signals:
    """Turns the first Ctrl-C or SIGTERM into a request. A second Ctrl-C ends the process at once.

    Args:
        armed: as the attribute. Default True.

    Attributes:
        armed: whether there is something to save. Before that, a signal ends the process at once.
        received: number of the signal that came, or None.

    Example:
        >>> with Signals() as signals:
        ...     signals.check("before the figures")
    """

    def __init__(self, armed: bool = True) -> None:
        self.armed = armed
        self.received: int | None = None
        self._before: dict[int, Callable[..., Any] | int | None] = {}

    def __enter__(self) -> Signals:
        # Python lets only the main thread set handlers.
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._receive)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def check(self, where: str) -> None:
        """Raises `Stopped` if a signal has come.

        Args:
            where: place in the run, such as "before the figures".

        Raises:
            Stopped: if a signal has come.
        """
        if self.received is not None:
            raise Stopped(where)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and (self.received is not None or not self.armed):
            raise KeyboardInterrupt
        if not self.armed:
            raise SystemExit(128 + number)
        self.received = number
