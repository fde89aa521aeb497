"""Patches of 32 x 32 pixels of photographs in Debian's packages."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

SIDE = 32
"""Height and width of a patch."""

WIDTH = 256
"""Width to which a photograph is reduced before it is cut into patches to measure."""

PACKAGES = (
    "mate-backgrounds",
    "plasma-workspace-wallpapers",
    "lomiri-wallpapers-16.04",
    "lomiri-wallpapers-20.04",
    "opencv-doc",
)
"""The Debian packages that hold the photographs."""

# For the patches for training: the width of the photograph, and the pixels from one patch to the
# next. Smaller photographs are not enlarged. The other patches are cut at `WIDTH` and do not
# overlap.
_FOR_TRAINING = ((WIDTH, 8), (384, 12), (576, 16), (864, 24))
_MATE = "share/backgrounds/mate/nature/{}.jpg"
_PLASMA = "share/wallpapers/{}/contents/images/2560x1600.jpg"
_LOMIRI = "share/backgrounds/{}.jpg"
_OPENCV = "share/doc/opencv-doc/examples/{}.jpg"

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
_LOMIRI_NAMES = (
    "Bridge_by_Sander_Klootwijk",
    "Dragonfly_by_Bolly",
    "Picture_0B_by_freespace",
    "Picture_1A_by_freespace",
    "Wine_by_Jakkub_Mede",
    "aitzgorri_by_Aitzol_Berasategi",
    "friends_by_Aitzol_Berasategi",
    "greentock_by_Peter_Nerlich",
    "life_by_Aitzol_Berasategi",
    "picosdeeuropa_by_Aitzol_Berasategi",
    "seeding_by_Clements_Engelhardt",
    "sunset_by_Aitzol_Berasategi",
    "Kleiber_by_Lukas_Baubkus",
)
# These are smaller and were compressed more strongly, so nothing is measured on them.
_OPENCV_NAMES = (
    "alphamat/input_images/plant",
    "data/aero1",
    "data/aero3",
    "data/aloeL",
    "data/apple",
    "data/baboon",
    "data/board",
    "data/building",
    "data/butterfly",
    "data/fruits",
    "data/home",
    "data/left",
    "data/leuvenA",
    "data/licenseplate_motion",
    "data/messi5",
    "data/orange",
    "data/squirrel_cls",
    "data/stuff",
    "hfs/data/000",
    "hfs/data/001",
    "hfs/data/002",
    "text/scenetext01",
    "text/scenetext03",
    "text/scenetext04",
    "text/scenetext05",
    "text/scenetext06",
)
NAMES = (
    *map(_MATE.format, _MATE_NAMES),
    *map(_PLASMA.format, _PLASMA_NAMES),
    *map(_LOMIRI.format, _LOMIRI_NAMES),
)
"""Paths of the wallpapers below `/usr`. Drawings and renderings among the wallpapers are left
out."""

MORE_NAMES = (*map(_OPENCV.format, _OPENCV_NAMES),)
"""Paths of the photographs that are for training only."""


def read(root: Path = Path("/usr")) -> tuple[np.ndarray, np.ndarray, int]:
    """Reads the photographs and cuts them into patches.

    No photograph has patches in two splits. The patches for training overlap, come from several
    widths of a photograph, and every second one is mirrored. They overlap less at a larger width.

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
    for index, name in enumerate(NAMES + MORE_NAMES):
        with Image.open(root / name) as image:
            photograph = image.convert("RGB")
        if index < len(NAMES) and index % 5 in (1, 4):
            others = validation if index % 5 == 1 else testing
            others += patches(_reduced(photograph, WIDTH), SIDE)
            continue
        for width, step in _FOR_TRAINING:
            if width > photograph.width:
                continue
            dense = patches(_reduced(photograph, width), step)
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


def _reduced(photograph: Image.Image, width: int) -> np.ndarray:
    height = round(photograph.height * width / photograph.width)
    return np.asarray(photograph.resize((width, height), Image.Resampling.LANCZOS))
