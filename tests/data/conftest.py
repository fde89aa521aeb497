"""Image files and caches that the tests of the data room share."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vae_keras.data import own_images


def picture(seed: int, height: int = 5, width: int = 7, channels: int = 3) -> np.ndarray:
    """Returns random pixels, [H, W, 3] or [H, W]."""
    shape = (height, width) if channels == 1 else (height, width, channels)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def photos(root: Path, names: list[str], **shape) -> Path:
    """Writes an image file of its own pixels under each name."""
    for seed, name in enumerate(names):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture(seed, **shape)).save(path)
    return root


NAMES = [f"{label}/{number:02d}.png" for label in ("cat", "dog") for number in range(12)]


@pytest.fixture
def folder(tmp_path) -> Path:
    """24 image files of two labels."""
    return photos(tmp_path / "photos", NAMES)


def same(one, other) -> None:
    """Compares the images, the labels and the identity of two sets."""
    for ours, theirs in zip(one.images, other.images, strict=True):
        np.testing.assert_array_equal(np.asarray(ours), np.asarray(theirs))
    assert one.identity == other.identity


@pytest.fixture
def on_disk(tmp_path, monkeypatch) -> Path:
    """Every set is decoded into a cache. Returns the folder of all caches."""
    monkeypatch.setattr(own_images, "IN_MEMORY", 0)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    return tmp_path / "xdg" / "vae_keras" / "images"
