"""How a command ends: one line and a code, whatever happens; a traceback on demand alone."""

import os
import signal
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import tensorflow as tf

import train
from vae_keras import __main__, checks, cli, divergence, training

ROOT = Path(__file__).resolve().parent.parent


def raising(error):
    def command():
        raise error

    return command


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (checks.InputError("a rule. Received: x."), 2, "Error: a rule. Received: x."),
        (OSError(28, "No space left on device", "run/a"), 2, "No space left on device: 'run/a'"),
        (divergence.Diverged(7, "log_likelihood"), 3, "at step 7, first in the log likelihood"),
        (MemoryError(), 2, "Error: it needs more memory than there is."),
        (tf.errors.ResourceExhaustedError(None, None, "OOM"), 2, "more memory than there is"),
        (
            RuntimeError("two\n lines"),
            1,
            "Error: unexpected RuntimeError: two lines. This is a bug",
        ),
        (KeyError(), 1, "--debug shows where."),
        (RuntimeError("x" * 10**5), 1, "xxx..."),
        (KeyboardInterrupt(), 130, "Stopped."),
        (
            training.Interrupted(signal.SIGTERM, Path("run"), "in epoch 1"),
            143,
            "Stopped in epoch 1",
        ),
    ],
)
def test_every_exception_is_one_line_and_a_code(error, code, line, capsys):
    assert cli.run(raising(error)) == code
    text = capsys.readouterr().err.strip()
    assert line in text
    assert len(text.splitlines()) == 1
    assert len(text) < 1100


@pytest.mark.parametrize("error", [RuntimeError("x"), checks.InputError("x")])
def test_debug_shows_the_traceback_above_the_line(error, capsys):
    cli.run(raising(error), debug=True)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("Traceback")
    assert lines[-1].startswith("Error: ")


def test_a_command_that_returns_is_0(capsys):
    assert cli.run(lambda: "ignored") == 0
    assert capsys.readouterr().err == ""


def test_a_warning_is_one_line_without_the_place_in_the_source(capsys, printed_warnings):
    before = warnings.formatwarning
    assert cli.run(lambda: warnings.warn("two\n lines", stacklevel=2)) == 0
    assert capsys.readouterr().err == "Warning: two lines\n"
    assert warnings.formatwarning is before


@pytest.mark.parametrize("debug", [[], ["--debug"]])
def test_both_commands_know_debug(debug, monkeypatch, capsys):
    def bug(*_):
        raise AssertionError("a bug of ours")

    monkeypatch.setattr(training, "train", bug)
    monkeypatch.setattr("vae_keras.presets.names", bug)
    for main, arguments in ((train.main, []), (__main__.main, ["presets"])):
        assert main([*arguments, *debug]) == 1
        error = capsys.readouterr().err
        assert "unexpected AssertionError: a bug of ours" in error
        assert ("Traceback" in error) == bool(debug)


@pytest.mark.parametrize("command", [["train.py"], ["-m", "vae_keras", "presets"]])
def test_ctrl_c_during_the_imports_is_one_line(command, tmp_path):
    """They take seconds: a stand-in for Keras gets the signal in the middle of them."""
    (tmp_path / "keras.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGINT)\n")
    result = subprocess.run(
        [sys.executable, *command],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        # A shell's background job ignores Ctrl-C, and so would its children.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (result.returncode, result.stderr) == (130, "\nStopped.\n")


@pytest.mark.parametrize("command", [["train.py"], ["-m", "vae_keras", "presets"]])
@pytest.mark.parametrize("debug", [[], ["--debug"]])
def test_a_wrong_backend_is_one_line(command, debug):
    result = subprocess.run(
        [sys.executable, *command, *debug],
        cwd=ROOT,
        env=os.environ | {"KERAS_BACKEND": "jax"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    sentence = "vae_keras needs Keras on its tensorflow backend. Received: backend 'jax'."
    assert sentence in result.stderr.splitlines()[-1]
    assert ("Traceback" in result.stderr) == bool(debug)
    assert result.returncode == (1 if debug else 2)
