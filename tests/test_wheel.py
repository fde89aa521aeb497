"""An installed wheel carries the zoo."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from vae_keras.zoo import presets

ROOT = Path(__file__).resolve().parent.parent
USE = """
import vae_keras
vae = vae_keras.VAE.from_preset("mlp_mnist")
print(vae_keras.__file__, *vae_keras.VAE.presets, vae.sample(2).shape)
"""


@pytest.mark.slow
def test_a_wheel_loads_presets_outside_of_a_checkout(tmp_path):
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps"]
    subprocess.run([*command, "--wheel-dir", tmp_path, ROOT], check=True, timeout=300)
    (wheel,) = tmp_path.glob("*.whl")
    installed = tmp_path / "installed"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(installed)
        assert not [name for name in archive.namelist() if name.startswith("tests")]
    answer = subprocess.run(
        [sys.executable, "-c", USE],
        cwd=installed,  # first on the path: this wheel's package is the one imported
        check=True,
        capture_output=True,
        text=True,
        timeout=120,
    ).stdout.split("\n")[-2]
    assert answer.startswith(str(installed))
    assert answer.split(maxsplit=1)[1] == f"{' '.join(presets.trained())} (2, 28, 28, 1)"
