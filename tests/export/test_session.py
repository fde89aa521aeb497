"""A server's session gives the bits of the Python model, with oneDNN's kernels and without."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import images, signature_answers
from tests.export.conftest import SESSION_MODELS, differing, session_calls, with_random_weights
from vae_keras import VAE, export

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_a_session_gives_the_bits_of_the_python_model(tmp_path):
    vae = with_random_weights(SESSION_MODELS["convolutions"]())
    answers = signature_answers(vae, 3)
    with session_calls(export.export_saved_model(vae, tmp_path)) as call:
        assert differing(call, answers) == []
        loc = answers["encode"][1]["loc"]
        other = {"encode": ({"images": images(3, seed=5)}, {"loc": loc})}
        assert differing(call, other) != []  # The comparison can fail.


@pytest.mark.slow
def test_a_session_gives_the_same_bits_on_the_kernels_of_onednn(tmp_path):
    command = [sys.executable, "-m", "tests.export.session_process", os.fspath(tmp_path)]
    environment = os.environ | {"TF_ENABLE_ONEDNN_OPTS": "1", "PYTHONPATH": os.fspath(ROOT)}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, check=True, capture_output=True, text=True, timeout=300
    )
    found = json.loads(done.stdout.splitlines()[-1])
    assert found == {name: [] for name in SESSION_MODELS}


@pytest.mark.slow
@pytest.mark.parametrize("preset", ["mlp_mnist", "conv_mnist", "best_mnist"])
def test_a_session_gives_the_bits_of_a_preset(preset, tmp_path):
    vae = VAE.from_preset(preset)
    answers = {rows: signature_answers(vae, rows) for rows in (1, 64)}
    with session_calls(export.export_saved_model(vae, tmp_path)) as call:
        assert [line for rows in answers for line in differing(call, answers[rows])] == []
