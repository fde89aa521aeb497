"""How a command ends: one line and an exit code for every exception, a traceback with --debug."""

import signal
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import tensorflow as tf

from vae_keras.cli import outcome
from vae_keras.trainer import nonfinite
from vae_keras.training.cluster import WorkerLost
from vae_keras.training.signals import Interrupted
from vae_keras.utils import checks


def raising(error):
    def command():
        raise error

    return command


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (checks.InputError("a rule. Received: x."), 2, "Error: a rule. Received: x."),
        (OSError(28, "No space left on device", "run/a"), 2, "No space left on device: 'run/a'"),
        (ImportError("No module named 'onnx'"), 2, "Error: No module named 'onnx'"),
        (nonfinite.Diverged(7, "log_likelihood"), 3, "at step 7, first in the log likelihood"),
        (WorkerLost("Worker 1 lost worker 0"), 75, "Error: Worker 1 lost worker 0"),
        (MemoryError(), 2, "Error: the command needs more memory than there is."),
        (tf.errors.ResourceExhaustedError(None, None, "OOM"), 2, "more memory than there is"),
        (
            RuntimeError("two\n lines"),
            1,
            "Error: unexpected RuntimeError: two lines. This is a bug; --debug shows where.",
        ),
        (KeyError(), 1, "--debug shows where."),
        (RuntimeError("x" * 10**5), 1, "xxx.... This is a bug; --debug shows where."),
        (KeyboardInterrupt(), 130, "Stopped."),
        (Interrupted(signal.SIGTERM, Path("run"), "in epoch 1"), 143, "Stopped in epoch 1"),
    ],
)
def test_every_exception_is_one_line_and_a_code(error, code, line, capsys):
    assert outcome.run(raising(error)) == code
    text = capsys.readouterr().err.strip()
    assert line in text
    assert len(text.splitlines()) == 1
    assert len(text) < 1100


@pytest.mark.parametrize(
    ("error", "shown"),
    [
        (RuntimeError("x"), True),
        (checks.InputError("x"), True),
        (Interrupted(signal.SIGINT, Path("run"), "in epoch 1"), False),
    ],
)
def test_debug_shows_the_traceback_of_an_error_above_the_line(error, shown, capsys):
    outcome.run(raising(error), debug=True)
    lines = capsys.readouterr().err.splitlines()
    assert ("Traceback (most recent call last):" in lines) == shown
    assert lines[-1].startswith("Error: " if shown else "Stopped ")


def test_a_command_that_returns_is_0(capsys):
    assert outcome.run(lambda: "ignored") == 0
    assert capsys.readouterr().err == ""


def test_a_warning_is_one_line_without_the_place_in_the_source(capsys, printed_warnings):
    before = warnings.formatwarning
    assert outcome.run(lambda: warnings.warn("two\n lines", stacklevel=2)) == 0
    assert capsys.readouterr().err == "Warning: two lines\n"
    assert warnings.formatwarning is before


def test_an_error_before_tensorflow_is_imported_does_not_import_it():
    code = (
        "import sys\n"
        "sys.argv[0] = 'vae-keras'\n"
        "from vae_keras.cli import outcome\n"
        "assert outcome.run(lambda: 1 / 0) == 1\n"
        "assert 'tensorflow' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr == (
        "Error: unexpected ZeroDivisionError: division by zero. "
        "This is a bug; --debug shows where.\n"
    )
