"""Runs the test suite in forked processes: `python -m tests.run -m "not slow"`.

This process imports TensorFlow, Keras and the package once, and does not use them. Each group of
tests runs in a process that is forked from it, which saves the seconds of the imports for every
group. TensorFlow keeps what it compiles until a process ends, so one process for all tests would
need several times the memory. Two groups run at a time.

All arguments go to pytest.
"""

from __future__ import annotations

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import contextlib
import gc
import sys
import tempfile
import time
from pathlib import Path
from typing import IO

import pytest

TESTS = Path(__file__).resolve().parent
AT_A_TIME = 2
ALL_SLOW = pytest.ExitCode.NO_TESTS_COLLECTED
# The groups that take longest start first, so that the processes end at about the same time.
LONGEST = (
    *("conformance", "training", "export", "trainer", "utils", "test_family.py", "test_model.py"),
    *("cli", "data", "docs", "test_properties.py", "zoo", "test_priors.py", "test_examples.py"),
    *("test_evaluation.py", "report", "test_conditional.py", "kernels", "test_detection.py"),
)
# These files share one process: a process of its own costs more than most of them.
SMALL = (
    *("test_anomaly_scores.py", "test_bad_input.py", "test_compression.py", "test_conformal.py"),
    *("test_distributions.py", "test_embeddings.py", "test_inference.py", "test_labels.py"),
    *("test_logistic_mixture.py", "test_networks.py", "test_noise.py", "test_objectives.py"),
    *("test_scaling.py", "test_sharing.py", "test_wheel.py"),
)


def groups() -> dict[str, tuple[str, ...]]:
    """Returns the paths of each group: a room of the suite, a file in no room, or small files."""
    rooms = {path.parent.name for path in TESTS.glob("*/test_*.py")}
    files = {path.name for path in TESTS.glob("test_*.py")}
    small = tuple(name for name in SMALL if name in files)
    alone = (rooms | files) - set(small)
    first = [name for name in LONGEST if name in alone]
    last = sorted(alone - set(first))
    return {
        **{name: (name,) for name in first},
        "small files": small,
        **{name: (name,) for name in last},
    }


def start(paths: tuple[str, ...], arguments: list[str], output: IO[bytes]) -> int:
    """Forks a process that runs a group, and returns its id."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)
        code = int(pytest.main([*arguments, *(os.fspath(TESTS / path) for path in paths)]))
        sys.stdout.flush()
    finally:
        os._exit(code)


def main(arguments: list[str]) -> int:
    """Runs all groups.

    Args:
        arguments: arguments of pytest.

    Returns:
        0 if no test failed, else 1.
    """
    import vae_keras  # noqa: F401  # what all groups import

    # The collections of the groups then pass over the objects of the imports.
    gc.freeze()
    begun, waiting, running, failed = time.monotonic(), [*groups().items()], {}, []
    with contextlib.ExitStack() as files:
        while waiting or running:
            while waiting and len(running) < AT_A_TIME:
                group, paths = waiting.pop(0)
                output = files.enter_context(tempfile.TemporaryFile())
                sys.stdout.flush()
                running[start(paths, arguments, output)] = group, output
            child, status, used = os.wait4(-1, 0)
            group, output = running.pop(child)
            output.seek(0)
            print(f"\n{'=' * 30} {group}", output.read().decode(errors="replace"), sep="\n")
            seconds, memory = used.ru_utime + used.ru_stime, used.ru_maxrss / 1024
            print(f"{group}: {seconds:.0f} s of processor time, {memory:.0f} MB", flush=True)
            if os.waitstatus_to_exitcode(status) not in (0, ALL_SLOW):
                failed.append(group)
    print(f"\n{time.monotonic() - begun:.0f} s.", "Failed:" if failed else "All passed.", *failed)
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
