"""Tiles of photographs in a folder of JPEG files, for the training case on image files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

PACKAGE = "mate-backgrounds"
"""The Debian package that holds the photographs."""

SHAPE = (128, 128, 3)
"""Shape of a tile."""

_NATURE = "share/backgrounds/mate/nature"

_PER_PHOTOGRAPH, _FOR_TESTING = 20, 5  # tiles; the last five are for testing
_WIDTH = 1280  # to which a photograph is reduced before it is cut


def photographs(root: Path = Path("/usr")) -> list[Path]:
    """Returns the paths of the photographs by name, or [] where the package is not installed.

    Args:
        root: folder in which the package is installed. Default "/usr".
    """
    return sorted((root / _NATURE).glob("*.jpg"))


def write(folder: Path, root: Path = Path("/usr")) -> None:
    """Cuts the photographs into tiles and writes them into the folders `train` and `test`.

    Args:
        folder: where the folders `train` and `test` are made.
        root: folder in which the package is installed. Default "/usr".

    Raises:
        FileNotFoundError: if the package is not installed.
    """
    paths = photographs(root)
    if not paths:
        raise FileNotFoundError(
            f"This case takes the photographs of Debian's package {PACKAGE}. Received: a machine "
            f"without it. Install {PACKAGE}."
        )
    for part in ("train", "test"):
        (folder / part).mkdir(parents=True)
    for number, path in enumerate(paths):
        with Image.open(path) as image:
            height = round(image.height * _WIDTH / image.width)
            photograph = np.asarray(image.convert("RGB").resize((_WIDTH, height)))
        corners = [
            (top, left)
            for top in range(0, height - SHAPE[0] + 1, SHAPE[0])
            for left in range(0, _WIDTH - SHAPE[1] + 1, SHAPE[1])
        ]
        for index, (top, left) in enumerate(corners[::3][:_PER_PHOTOGRAPH]):
            part = "test" if index >= _PER_PHOTOGRAPH - _FOR_TESTING else "train"
            tile = photograph[top : top + SHAPE[0], left : left + SHAPE[1]]
            Image.fromarray(tile).save(folder / part / f"{number:02d}-{index:02d}.jpg", quality=90)


def read(folder: Path) -> np.ndarray:
    """Returns the tiles of a folder by name, uint8 [N, pixels]."""
    images = [np.asarray(Image.open(path)).reshape(-1) for path in sorted(folder.glob("*.jpg"))]
    return np.stack(images)
