"""How every command ends: its result, one line on standard error, or a sentence on how to go on."""

from __future__ import annotations

import sys
from collections.abc import Callable

USAGE_ERROR = 2
TRY_AGAIN = 75  # EX_TEMPFAIL of sysexits.h


def run(command: Callable[[], object]) -> int:
    """Runs a command and turns what a user can mend into one line and an exit code.

    Args:
        command: what to do; its result is ignored.

    Returns:
        0, 2 for bad input or a refusing file system, 75 when a worker was lost, 130 after Ctrl-C,
        143 after SIGTERM.
    """
    from vae_keras.checks import InputError
    from vae_keras.cluster import WorkerLost
    from vae_keras.training import Interrupted

    try:
        command()
    except (InputError, OSError) as error:
        print(f"Error: {error}", file=sys.stderr)
        return USAGE_ERROR
    except WorkerLost as error:
        print(f"\nError: {error}", file=sys.stderr)
        return TRY_AGAIN
    except Interrupted as stop:
        print(f"\n{stop}", file=sys.stderr)
        return 128 + stop.signal
    except KeyboardInterrupt:
        print("\nStopped.", file=sys.stderr)
        return 130
    return 0
