"""Fixtures for the tests of the zoo."""

import shutil
from pathlib import Path

import pytest

from vae_keras.zoo import presets


@pytest.fixture
def copy(tmp_path, monkeypatch) -> Path:
    """The folder of `mlp_mnist` in a zoo of its own, whose files a test may damage."""
    zoo = tmp_path / "zoo"
    shutil.copytree(presets.folder() / "mlp_mnist", zoo / "mlp_mnist")
    monkeypatch.setattr(presets, "folder", lambda: zoo)
    return zoo / "mlp_mnist"
