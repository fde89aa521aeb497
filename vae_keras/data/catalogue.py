"""What the names of images say: their part of a division, and their labels."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from vae_keras.utils import checks

TRAIN, VALIDATION, TEST = range(3)

# What people call the parts of a division, in any case.
_PARTS = {
    "train": TRAIN,
    "training": TRAIN,
    "val": VALIDATION,
    "valid": VALIDATION,
    "validation": VALIDATION,
    "dev": VALIDATION,
    "test": TEST,
    "testing": TEST,
    "eval": TEST,
}


class Catalogue(NamedTuple):
    """The images of a source, in the order in which the source gives them.

    Attributes:
        names: name of each image, or () for arrays, whose images have no names.
        parts: uint8 [N], the part of each image: `TRAIN`, `VALIDATION` or `TEST`. All are `TRAIN`
            if the source has no division.
        labels: [N] integers or texts, or None. An empty text stands for no label.
    """

    names: Sequence[str]
    parts: np.ndarray
    labels: np.ndarray | None


def check_name(text: str) -> None:
    """Refuses a name with characters that break a line or cannot be encoded.

    Raises:
        checks.InputError: for such a name.
    """
    if any(unicodedata.category(letter) in ("Cc", "Cs") for letter in text):
        raise checks.InputError(
            "names of files and labels must not hold control characters or undecodable bytes. "
            f"Received: {text!a}. Rename it."
        )


def part_of(name: str) -> int | None:
    """Returns the part that a folder's name means, in any case, or None.

    Example:
        >>> part_of("Testing") == TEST, part_of("cats") is None
        (True, True)
    """
    return _PARTS.get(name.lower())


def from_names(names: Sequence[str], where: str, folders: Iterable[str] = ()) -> Catalogue:
    """Reads parts and labels from the folders in the names of images.

    Args:
        names: path of each image relative to its folder or archive, with "/" between the parts.
        where: the folder or archive, for messages.
        folders: paths of all folders, also of those without images. Default ().

    Returns:
        The `Catalogue`. Folders such as "train" and "test", at the top or one level below it, are
        parts. The folders below that, or else the folders at the top, are labels.

    Raises:
        checks.InputError: for a division or labels that leave some images out.

    Example:
        >>> catalogue = from_names(["train/cat/1.png", "train/dog/2.png", "test/cat/3.png"], "pets")
        >>> catalogue.parts.tolist(), catalogue.labels.tolist()
        ([0, 0, 2], ['cat', 'dog', 'cat'])
    """
    paths = [name.split("/") for name in names]
    folders = set(folders)
    depth = _division(paths, folders)
    if depth is None:
        labels = _labels(paths, [path[:-1] for path in paths], where, where)
        if labels is not None and len(set(labels)) == 1:
            labels = None  # a single folder around the images
        if labels is not None:
            _require_images({f for f in folders if "/" not in f}, set(labels), where)
        return Catalogue(names, np.zeros(len(names), np.uint8), labels)
    parts = np.zeros(len(names), np.uint8)
    for row, path in enumerate(paths):
        part = part_of(path[depth]) if len(path) > depth + 1 else None
        if part is None:
            known = sorted({path[depth] for path in paths if len(path) > depth + 1} & _named(paths))
            raise checks.InputError(
                f"a folder that is divided into {' and '.join(known)} must hold all images in "
                f"them. Received: {where}/{'/'.join(path)}. Move it into one of them."
            )
        parts[row] = part
    # pets/cat/train/1.png: the label stands above the part.
    above = depth == 1 and len({path[0] for path in paths}) > 1
    below = [path[: 1 if above else 0] + path[depth + 1 : -1] for path in paths]
    labels = np.full(len(names), "", object)
    for part in np.unique(parts):
        rows = np.flatnonzero(parts == part)
        held = [paths[row] for row in rows]
        top = "/".join([where, *held[0][: depth + 1]])
        found = _labels(held, [below[row] for row in rows], where, top)
        if found is not None:
            labels[rows] = found
            prefix = "/".join(held[0][: depth + 1]) + "/"
            inside = {f[len(prefix) :] for f in folders if f.startswith(prefix)}
            if not above and len(set(found)) > 1:
                _require_images({f for f in inside if "/" not in f}, set(found), top)
    for folder in folders:
        part = part_of(folder.rpartition("/")[2])
        if folder.count("/") == depth and part is not None and part not in parts:
            raise checks.InputError(
                "every part of a division must hold images. "
                f"Received: {where}/{folder} without any. Remove it, or add images."
            )
    has_labels = len(set(labels) - {""}) > 1
    return Catalogue(names, parts, labels.astype(str) if has_labels else None)


def _named(paths: list[list[str]]) -> set[str]:
    """Returns the folders whose names mean parts."""
    return {folder for path in paths for folder in path[:-1] if part_of(folder) is not None}


def _division(paths: list[list[str]], folders: set[str]) -> int | None:
    """Returns the level of the folders that divide the images, or None."""
    for depth in (0, 1):
        holding = {path[depth] if len(path) > depth + 1 else "" for path in paths}
        empty = {folder.rpartition("/")[2] for folder in folders if folder.count("/") == depth}
        parts = {part_of(folder) for folder in holding | empty} - {None}
        # A class may be called "train". With a second part beside it, it is a part.
        is_part = any(part_of(folder) is not None for folder in holding)
        if is_part and (len(parts) > 1 or (len(holding) == 1 and parts == {TRAIN})):
            return depth
    return None


def _labels(
    paths: list[list[str]], below: list[list[str]], where: str, top: str
) -> np.ndarray | None:
    """Returns the first folder of each image in `below`, or None if there are no folders."""
    outside = [path for path, folders in zip(paths, below, strict=True) if not folders]
    if len(outside) == len(paths):
        return None
    if outside:
        raise checks.InputError(
            "images must lie either all in sub-folders or links to folders, whose names are the "
            f"labels, or all outside of them. Received: {where}/{'/'.join(outside[0])} beside "
            f"{len(paths) - len(outside)} images in sub-folders of {top}. Move it."
        )
    return np.array([folders[0] for folders in below])


def _require_images(folders: set[str], labels: set[str], top: str) -> None:
    """Refuses a folder whose name would be a label, but that holds no image."""
    for folder in sorted(folders - labels):
        raise checks.InputError(
            "every sub-folder is a label and must hold images. "
            f"Received: {top}/{folder} without any. Remove it, or add images."
        )
