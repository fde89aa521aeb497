"""Kills at random moments do not change the result of a run, and the killer would notice it."""

import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import small_vae
from tests.training import killer
from vae_keras.training import callbacks
from vae_keras.utils import files

ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize(
    ("kills", "flags"),
    [
        (20, []),
        (20, ["--on-disk"]),
    ],
)
def test_every_killed_run_ends_like_a_run_without_kills(kills, flags):
    """The killer is a process of its own: the TensorFlow of this one has threads."""
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "tests.training.killer",
            "--kills",
            str(kills),
            "--seed",
            "1",
            *flags,
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=1200,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    last = done.stdout.splitlines()[-1]
    pattern = (
        rf"{kills} kills? \(.*\), \d+ runs: each ended bit for bit like the run without kills\."
    )
    assert re.fullmatch(pattern, last)


def metrics(value, name):
    """Content of `metrics.json`. The name only changes what may differ."""
    return {
        "training_seconds": len(name),
        "provenance": {"commit": name, "data_sha256": "0"},
        "metrics": [{"value": value, "seconds": len(name)}],
    }


@pytest.fixture(scope="module")
def trained(digits):
    vae = small_vae()
    vae.compile("adam", jit_compile=False)
    vae.fit(digits, batch_size=20, verbose=0)
    return vae


@pytest.fixture(scope="module")
def folders(tmp_path_factory, trained):
    """A folder of two small folders with the files that the killer compares."""
    vae, both = trained, tmp_path_factory.mktemp("folders")
    for name in ("one", "other"):
        folder = both / name
        rows = [dict.fromkeys(callbacks.COLUMNS, "1.5") | {"epoch": "0", "seconds": name}]
        callbacks.write_elbo_csv(folder / "elbo.csv", rows)
        files.write_json(folder / "metrics.json", metrics(1.5, name))
        files.write_text(folder / "figures" / "a.png", "picture")
        files.write_text(folder / "serving" / "1" / killer.saved_model.GOLDEN_FILE, "[]")
        vae.save(folder / "model.keras")
        (folder / "checkpoints").mkdir()
        vae.save(folder / "checkpoints" / "epoch-00001-step-0000000.keras")
    return both


@pytest.fixture
def finished(folders, tmp_path, trained):
    """Copies of the two folders that a test may change, and the model that they hold."""
    both = shutil.copytree(folders, tmp_path / "both")
    return both / "one", both / "other", trained


def test_runs_that_differ_only_in_durations_are_the_same(finished):
    one, other, _ = finished
    killer.require_same(one, other)


def test_all_weights_and_the_optimizers_state_are_compared(finished):
    _, other, vae = finished
    held = killer.weights(other / "model.keras")
    expected = [*vae.weights, *vae.optimizer.variables]
    sizes = sorted(int(np.prod(variable.shape)) for variable in expected)
    assert [size for size in sorted(value.size for value in held.values()) if size > 1] == [
        size for size in sizes if size > 1
    ]


@pytest.mark.parametrize(
    "change", ["model.keras", "optimizer", "elbo.csv", "metrics.json", "figure", "file"]
)
def test_any_difference_is_seen(finished, change):
    one, _, vae = finished
    if change in ("model.keras", "optimizer"):
        is_weight = change == "model.keras"
        variable = vae.decoder.weights[0] if is_weight else vae.optimizer.variables[3]
        before = np.array(variable)
        variable.assign(np.nextafter(before, np.float32(9.0)))
        vae.save(one / (change if is_weight else "checkpoints/epoch-00001-step-0000000.keras"))
        variable.assign(before)
    elif change == "elbo.csv":
        path = one / "elbo.csv"
        path.write_text(path.read_text().replace("1.5", "1.25", 1))
    elif change == "metrics.json":
        files.write_json(one / change, metrics(1.25, "one"))
    elif change == "figure":
        (one / "figures" / "a.png").write_bytes(b"another")
    else:
        (one / ".writing-1-model.keras").write_bytes(b"")
    with pytest.raises(AssertionError):
        killer.require_same(*finished[:2])


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("metrics.json", '{"a": '),
        ("model.keras", "PK"),
        ("figures/a.png", "half"),
        ("report.html", "<html>"),
        ("elbo.csv", ",".join(callbacks.COLUMNS) + "\n0,-1"),
        ("elbo.csv", ",".join(callbacks.COLUMNS) + 2 * "\n0,1,1,1,1,1,1,1" + "\n"),
        ("checkpoints/epoch-00001-step-0000000.json", json.dumps({"sha256": "0"})),
        ("serving/1/saved_model.pb", ""),
    ],
)
def test_half_files_are_seen(tmp_path, name, content):
    killer.require_sound(tmp_path)
    files.write_text(tmp_path / name, content)
    with pytest.raises((AssertionError, ValueError, KeyError, OSError, zipfile.BadZipFile)):
        killer.require_sound(tmp_path)
