"""Turns the end of a command into an exit code and, after a failure, one line."""

from __future__ import annotations

import operator
import sys
import traceback
import warnings
from collections.abc import Callable
from typing import Any

BUG, USAGE_ERROR, DIVERGED = 1, 2, 3
TRY_AGAIN = 75  # EX_TEMPFAIL of sysexits.h
_INTERRUPTED = 130  # 128 + SIGINT
_LONGEST = 1000  # characters of a line; TensorFlow's errors can list a whole graph
_NO_MEMORY = "Error: the command needs more memory than there is. Ask for fewer images at a time."


def run(command: Callable[[], object], debug: bool = False) -> int:
    """Runs a command. Exceptions and warnings become single lines on standard error.

    Args:
        command: the command. Its result is ignored.
        debug: whether the traceback of an exception is printed above its line. Default False.

    Returns:
        The exit code: 0 after success; 1 after an unexpected error; 2 if an input breaks a rule,
        the file system refuses, a package is missing or the memory does not suffice; 3 if training
        met a number that was not finite; 75 if another worker was lost; 130 after Ctrl-C; 143 after
        SIGTERM.

    Example:
        >>> run(lambda: None)
        0
    """
    format_before = warnings.formatwarning
    warnings.formatwarning = _warning  # type: ignore[assignment]
    try:
        command()
    except KeyboardInterrupt:
        print("\nStopped.", file=sys.stderr)
        return _INTERRUPTED
    except Exception as error:
        text, code = _explain(error)
        if debug and code < _INTERRUPTED:
            traceback.print_exc()
        print(text, file=sys.stderr)
        return code
    finally:
        warnings.formatwarning = format_before
    return 0


def _explain(error: Any) -> tuple[str, int]:
    """Returns what is printed for an exception, and the exit code."""
    from vae_keras.utils.checks import InputError  # imports NumPy, which --help does not need

    line = f"Error: {_line(error)}"
    if isinstance(error, (InputError, OSError, ImportError)):
        return line, USAGE_ERROR
    if isinstance(error, (MemoryError, *_loaded("tensorflow", "errors.ResourceExhaustedError"))):
        return _NO_MEMORY, USAGE_ERROR
    if isinstance(error, _loaded("vae_keras.training.signals", "Interrupted")):
        return f"\n{error}", 128 + error.signal
    if isinstance(error, _loaded("vae_keras.trainer.nonfinite", "Diverged")):
        return line, DIVERGED
    if isinstance(error, _loaded("vae_keras.training.cluster", "WorkerLost")):
        return line, TRY_AGAIN
    unexpected = f"unexpected {type(error).__name__}: {_line(error)}"
    return f"Error: {unexpected}. This is a bug; --debug shows where.", BUG


def _loaded(module: str, name: str) -> tuple[Any, ...]:
    """Returns a class if its module was imported. An import may be what failed."""
    try:
        return (operator.attrgetter(name)(sys.modules[module]),)
    except (KeyError, AttributeError):
        return ()


def _warning(message: object, *_: object) -> str:
    return f"Warning: {_line(message)}\n"


def _line(message: object) -> str:
    text = " ".join(str(message).split())
    return f"{text[:_LONGEST]}{'...' * (len(text) > _LONGEST)}"
