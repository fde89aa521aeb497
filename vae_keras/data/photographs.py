"""Patches of 32 x 32 pixels of the photographs among Debian's wallpapers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

SIDE = 32
"""Height and width of a patch."""

WIDTH = 256
"""Width to which a photograph is reduced before it is cut."""

PACKAGES = ("mate-backgrounds", "plasma-workspace-wallpapers")
"""The Debian packages that hold the photographs."""

_DENSE = 4  # pixels from a patch for training to the next one; other patches do not overlap
_MATE = "share/backgrounds/mate/nature/{}.jpg"
_PLASMA = "share/wallpapers/{}/contents/images/2560x1600.jpg"

# By package and alphabet. Of every five photographs the last is for testing, and the second for
# validation: the choice does not look at what they show.
_MATE_NAMES = (
    "Aqua",
    "Blinds",
    "Dune",
    "FreshFlower",
    "Garden",
    "GreenMeadow",
    "LadyBird",
    "RainDrops",
    "Storm",
    "TwoWings",
    "Wood",
    "YellowFlower",
)
_PLASMA_NAMES = (
    "BytheWater",
    "ColdRipple",
    "ColorfulCups",
    "DarkestHour",
    "EveningGlow",
    "FallenLeaf",
    "Grey",
    "Kite",
    "OneStandsOut",
    "Path",
    "summer_1am",
)
NAMES = (*map(_MATE.format, _MATE_NAMES), *map(_PLASMA.format, _PLASMA_NAMES))
"""Paths of the photographs below `/usr`. Drawings and renderings among the wallpapers are left
out."""


def read(root: Path = Path("/usr")) -> tuple[np.ndarray, np.ndarray, int]:
    """Reads the photographs and cuts them into patches.

    No photograph has patches in two splits. The patches for training overlap, and every second one
    is mirrored. The others do not overlap.

    Args:
        root: folder in which the packages are installed. Default "/usr".

    Returns:
        The patches for training and validation, uint8 [N, 32, 32, 3], those for validation last;
        the patches for testing; and the number of patches for validation.

    Raises:
        OSError: if a photograph is missing or cannot be decoded.
    """
    training: list[np.ndarray] = []
    validation: list[np.ndarray] = []
    testing: list[np.ndarray] = []
    for index, name in enumerate(NAMES):
        photograph = _reduced(root / name)
        if index % 5 == 4:
            testing += patches(photograph, SIDE)
        elif index % 5 == 1:
            validation += patches(photograph, SIDE)
        else:
            dense = patches(photograph, _DENSE)
            training += [patch[:, ::-1] if i % 2 else patch for i, patch in enumerate(dense)]
    return np.stack(training + validation), np.stack(testing), len(validation)


def patches(photograph: np.ndarray, step: int) -> list[np.ndarray]:
    """Cuts a photograph into patches, row by row.

    Args:
        photograph: uint8 [H, W, 3].
        step: pixels from the corner of a patch to that of the next one.

    Returns:
        Patches [32, 32, 3].

    Example:
        >>> len(patches(np.zeros((64, 96, 3), np.uint8), step=32))
        6
    """
    height, width, _ = photograph.shape
    return [
        photograph[top : top + SIDE, left : left + SIDE]
        for top in range(0, height - SIDE + 1, step)
        for left in range(0, width - SIDE + 1, step)
    ]


def _reduced(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        height = round(image.height * WIDTH / image.width)
        colours = image.convert("RGB")
        return np.asarray(colours.resize((WIDTH, height), Image.Resampling.LANCZOS))
