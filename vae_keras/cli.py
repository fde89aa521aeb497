"""How every command ends: its result, or one line on standard error, and an exit code."""

from __future__ import annotations

import sys
import traceback
import warnings
from collections.abc import Callable

BUG, USAGE_ERROR, DIVERGED = 1, 2, 3
TRY_AGAIN = 75  # EX_TEMPFAIL of sysexits.h
_LONGEST = 1000  # characters: TensorFlow's errors can list a whole graph


def run(command: Callable[[], object], debug: bool = False) -> int:
    """Runs a command and turns every exception into one line and an exit code, warnings into lines.

    Args:
        command: what to do; its result is ignored.
        debug: whether an exception's traceback is shown above its line. Default False.

    Returns:
        0; 1 for an error that nobody expected; 2 for bad input or a refusing file system; 3 when
        training met a number that is not finite; 75 when a worker was lost; 130 after Ctrl-C; 143
        after SIGTERM.
    """
    import tensorflow as tf

    from vae_keras.checks import InputError
    from vae_keras.cluster import WorkerLost
    from vae_keras.divergence import Diverged
    from vae_keras.training import Interrupted

    format_before, warnings.formatwarning = warnings.formatwarning, _warning
    try:
        command()
    except Interrupted as stop:
        print(f"\n{stop}", file=sys.stderr)
        return 128 + stop.signal
    except KeyboardInterrupt:
        print("\nStopped.", file=sys.stderr)
        return 130
    except Exception as error:
        if debug:
            traceback.print_exc()
        if isinstance(error, (InputError, OSError)):
            return _say(error, USAGE_ERROR)
        if isinstance(error, Diverged):
            return _say(error, DIVERGED)
        if isinstance(error, WorkerLost):
            return _say(error, TRY_AGAIN)
        if isinstance(error, (MemoryError, tf.errors.ResourceExhaustedError)):
            return _say("it needs more memory than there is. Ask for less at a time.", USAGE_ERROR)
        hint = "This is a bug; --debug shows where."
        return _say(f"unexpected {type(error).__name__}: {error}. {hint}", BUG)
    finally:
        warnings.formatwarning = format_before
    return 0


def _say(error: object, code: int) -> int:
    print(f"Error: {_line(error)}", file=sys.stderr)
    return code


def _warning(message: object, *_: object) -> str:
    return f"Warning: {_line(message)}\n"


def _line(message: object) -> str:
    text = " ".join(str(message).split())
    return f"{text[:_LONGEST]}{'...' * (len(text) > _LONGEST)}"
