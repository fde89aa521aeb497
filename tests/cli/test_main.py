"""The command line itself: help, usage errors, and a quiet start."""

import os
import re
import signal
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from vae_keras import training
from vae_keras.cli.main import main
from vae_keras.zoo import presets

ROOT = Path(__file__).resolve().parent.parent.parent
COMMANDS = (
    "train",
    "presets",
    "evaluate",
    "detect",
    "sample",
    "figures",
    "explore",
    "embed",
    "export",
    "publish",
    "cache",
    "render",
)
SCRIPT = Path(sysconfig.get_path("scripts")) / "vae-keras"
SAMPLE = ("sample", "--preset", "mlp_mnist", "--count", "5")


def start(*command, **environment):
    """Runs a command in a process of its own."""
    inherited = {key: os.environ[key] for key in os.environ if key != "TF_CPP_MIN_LOG_LEVEL"}
    return subprocess.run(
        [sys.executable, *command],
        cwd=ROOT,
        env=inherited | environment,
        # A background job of a shell ignores Ctrl-C, and so would its children.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        capture_output=True,
        text=True,
        timeout=120,
    )


# --------------------------------------------------------------------------------- help and usage


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command, capsys):
    with pytest.raises(SystemExit) as stop:
        main([command, "--help"])
    assert stop.value.code == 0
    assert f"vae-keras {command}" in capsys.readouterr().out


def test_help_lists_every_command(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    text = capsys.readouterr().out
    assert re.findall(r"^    (\w+) ", text, re.MULTILINE) == list(COMMANDS)
    assert len(text.splitlines()) < 30


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["nonsense"],
        ["sample"],
        ["sample", "--preset"],
        ["sample", "--preset", "mlp_mnist", "--model", "m.keras"],
        ["evaluate", "--preset", "mlp_mnist", "--samples", "many"],
        ["export", "--preset", "mlp_mnist", "--to", "x", "--format", "torch"],
        ["train", "--epochs", "two"],
    ],
)
def test_wrong_arguments_are_usage_errors(arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    assert "usage:" in capsys.readouterr().err


@pytest.mark.parametrize("debug", [[], ["--debug"]])
def test_every_command_knows_debug(debug, monkeypatch, capsys):
    def bug(*_):
        raise AssertionError("a bug of ours")

    monkeypatch.setattr(training, "train", bug)
    monkeypatch.setattr(presets, "names", bug)
    for command in ("train", "presets"):
        assert main([command, *debug]) == 1
        error = capsys.readouterr().err
        assert "unexpected AssertionError: a bug of ours" in error
        assert ("Traceback" in error) == bool(debug)


# ---------------------------------------------------------------------------------- the processes


@pytest.mark.parametrize(
    ("command", "program"),
    [
        (["-m", "vae_keras"], "python -m vae_keras sample"),
        (["train.py"], "python train.py"),
        pytest.param(
            [str(SCRIPT)],
            "vae-keras sample",
            marks=pytest.mark.skipif(not SCRIPT.exists(), reason="the package is not installed"),
        ),
    ],
)
def test_help_does_not_import_tensorflow(command, program):
    arguments = ["--help"] if command == ["train.py"] else ["sample", "--help"]
    done = start("-X", "importtime", *command, *arguments)
    assert done.returncode == 0
    assert f"usage: {program} [-h]" in done.stdout
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "vae_keras.cli.main" in imported
    assert not {"tensorflow", "keras", "numpy"} & imported


def test_presets_does_not_import_tensorflow():
    done = start("-X", "importtime", "-m", "vae_keras", "presets")
    assert done.stdout.startswith("preset ")
    assert not re.search(r"\| +(tensorflow|keras)$", done.stderr, re.MULTILINE)


@pytest.mark.parametrize("debug", [[], pytest.param(["--debug"], marks=pytest.mark.slow)])
def test_the_log_of_tensorflow_is_shown_with_debug_only(debug, tmp_path):
    path = tmp_path / "s.png"
    done = start("-m", "vae_keras", *SAMPLE, "--to", str(path), *debug)
    assert (done.returncode, done.stdout) == (0, f"{path}\n")
    assert ("cpu_feature_guard" in done.stderr) == bool(debug)
    assert done.stderr == "" or debug


@pytest.mark.parametrize("command", [["train.py"], ["-m", "vae_keras", *SAMPLE]])
def test_ctrl_c_during_the_imports_is_one_line(command, tmp_path):
    """The imports take seconds. A stand-in for Keras sends the signal in the middle of them."""
    (tmp_path / "keras.py").write_text(
        "import os, signal, sys\n"
        "print('a line of a library', file=sys.stderr)\n"
        "os.kill(os.getpid(), signal.SIGINT)\n"
    )
    done = start(*command, PYTHONPATH=str(tmp_path))
    assert (done.returncode, done.stderr) == (130, "\nStopped.\n")


@pytest.mark.parametrize(("given", "used"), [({}, "1"), ({"TF_ENABLE_ONEDNN_OPTS": "0"}, "0")])
def test_a_command_uses_onednn_unless_the_user_says_otherwise(given, used, tmp_path, monkeypatch):
    """TensorFlow reads the variable when it is imported, which a stand-in for Keras would do."""
    monkeypatch.delenv("TF_ENABLE_ONEDNN_OPTS", raising=False)
    (tmp_path / "keras.py").write_text(
        "import os\nraise ImportError(os.environ['TF_ENABLE_ONEDNN_OPTS'])\n"
    )
    done = start("-m", "vae_keras", *SAMPLE, PYTHONPATH=str(tmp_path), **given)
    assert done.stderr == f"Error: {used}\n"


@pytest.mark.parametrize(("strategy", "said"), [("none", ""), ("multi_worker", "kept\n")])
def test_only_training_under_a_strategy_keeps_freed_memory(strategy, said):
    code = (
        "import sys\n"
        "sys.argv[0] = 'vae-keras'\n"
        "from vae_keras.cli.main import main\n"
        "from vae_keras.utils import startup\n"
        "startup.keep_freed_memory = lambda: print('kept')\n"
        "startup.require_environment = sys.exit\n"
        f"main(['train', '--strategy', '{strategy}'])\n"
    )
    assert start("-c", code).stdout == said


@pytest.mark.parametrize("command", [["train.py"], ["-m", "vae_keras", *SAMPLE]])
@pytest.mark.parametrize("debug", [[], ["--debug"]])
def test_an_import_that_fails_is_one_line(command, debug, tmp_path):
    """With --debug nothing is held back that a library has printed before."""
    (tmp_path / "keras.py").write_text(
        "import os\nos.write(2, b'a line of a library\\n')\nraise ImportError('no Keras here')\n"
    )
    done = start(*command, *debug, PYTHONPATH=str(tmp_path))
    assert done.returncode == 2
    lines = done.stderr.splitlines()
    assert lines[-1] == "Error: no Keras here"
    if debug:
        assert lines[0] == "a line of a library"
        assert lines[1].startswith("Traceback")
    else:
        assert len(lines) == 1


@pytest.mark.parametrize("command", [["train.py"], ["-m", "vae_keras", *SAMPLE]])
@pytest.mark.parametrize("debug", [[], ["--debug"]])
def test_a_wrong_backend_is_one_line(command, debug):
    done = start(*command, *debug, KERAS_BACKEND="jax")
    sentence = "Error: vae_keras needs Keras on its tensorflow backend. Received: backend 'jax'."
    assert done.stderr.splitlines()[-1].startswith(sentence)
    assert ("Traceback" in done.stderr) == bool(debug)
    assert done.returncode == 2


def test_the_library_raises_where_the_command_line_prints_a_line():
    done = start("-c", "import vae_keras", KERAS_BACKEND="jax")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("ImportError: vae_keras needs Keras")
