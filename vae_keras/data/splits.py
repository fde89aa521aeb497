"""The division of images into training, validation and test images, by their content."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from vae_keras import noise
from vae_keras.data.catalogue import TEST, TRAIN, VALIDATION, Catalogue
from vae_keras.utils import checks

SPLIT_SEED = 0
TEST_SHARE = 10
"""One image in `TEST_SHARE` is for testing if the data come without a division."""


class Division(NamedTuple):
    """Which image is for what.

    Attributes:
        train: rows of the training images and then of the given validation images, int64 [N].
        test: rows of the test images, int64 [M].
        validation: number of given validation images.
        continues: bool [N], whether an image of `train` must stay on one side with the one before
            it, or None if all may be separated.
        words: how the images were divided.
        notes: lines for the user on what repeats.
    """

    train: np.ndarray
    test: np.ndarray
    validation: int
    continues: np.ndarray | None
    words: str
    notes: list[str]


def divide(catalogue: Catalogue, digests: np.ndarray, group_by: str | None = None) -> Division:
    """Divides images as their source says, or else sets a tenth aside for testing.

    Images with equal pixels form a group, and so do images whose names share what `group_by`
    matches. Without a given division no group has images on both sides. The order of the images is
    random with the seed `SPLIT_SEED`: the same images always give the same division.

    Args:
        catalogue: the names, parts and labels of the images.
        digests: hashes of their pixels, uint64 [N].
        group_by: regular expression that is matched at the start of each file's name. Its first
            group, or else the whole match, names the group. Default None.

    Returns:
        The `Division`.

    Raises:
        checks.InputError: for a pattern that does not match a name, for a division without
            training images, and for images that all belong to one group.

    Example:
        >>> rows = Catalogue((), np.zeros(20, np.uint8), None)
        >>> division = divide(rows, np.arange(20, dtype=np.uint64))
        >>> len(division.train), len(division.test)
        (18, 2)
    """
    count = len(digests)
    # Images are numbered by their names, so that a folder and its archive are divided alike.
    by_name = np.arange(count)
    if catalogue.names:
        by_name = np.array(sorted(range(count), key=catalogue.names.__getitem__), np.int64)
    keys = [np.unique(digests, return_inverse=True)[1]]
    repeats = count - int(keys[0].max()) - 1
    if group_by is not None:
        keys.append(_name_groups(catalogue.names, group_by))
    parts = catalogue.parts[by_name]
    given = [by_name[parts == part] for part in (TRAIN, VALIDATION, TEST)]
    if not len(given[TRAIN]):
        raise checks.InputError(
            "a divided data set must hold training images. Received: a division without any. "
            "Add a folder named train."
        )
    tied = repeats > 0 or group_by is not None
    notes = []
    if len(given[TRAIN]) < count:
        train, group = _ordered(given[TRAIN], keys, tied)
        held, test = (part[shuffled(len(part))] for part in given[VALIDATION:])
        words = "as given"
        notes += _shared(digests, train, held, "validation") + _shared(digests, train, test, "test")
        # Given validation images are not drawn from the training images.
        group = np.concatenate([group, count + np.arange(len(held))])
        train = np.concatenate([train, held])
    else:
        order, groups = _ordered(by_name, keys, tied)
        if groups[-1] == groups[0] and group_by is not None:
            raise checks.InputError(
                "images must form at least two groups, one for training and one for testing. "
                f"Received: {count} images in one group of {group_by!r}. Pass another --group-by."
            )
        chosen = _test_rows(groups, count // TEST_SHARE)
        test, held = order[chosen], order[:0]
        train, group = order[~chosen], groups[~chosen]
        words = f"one in {TEST_SHARE} for testing, drawn with seed {SPLIT_SEED}"
        if group_by is not None:
            words += ", whole groups"
        if not len(test):
            words = "without test images, because all images are equal"
    if repeats:
        kept = "" if words == "as given" else " Equal images stay on one side."
        notes.append(f"Images with the pixels of another one: {repeats:,}.{kept}")
    continues = np.append(False, group[1:] == group[:-1])
    return Division(train, test, len(held), continues if continues.any() else None, words, notes)


def shuffled(count: int) -> np.ndarray:
    """Returns a permutation of range(count), from sorting random bits of each row.

    Example:
        >>> sorted(shuffled(3).tolist())
        [0, 1, 2]
    """
    if not count:
        return np.arange(0)
    bits = noise.bits16(SPLIT_SEED, noise.Stream.SPLIT, rows=count, size=4).numpy()
    return np.lexsort(bits.T)


def _ordered(rows: np.ndarray, keys: list[np.ndarray], tied: bool) -> tuple[np.ndarray, np.ndarray]:
    """Shuffles rows so that each group stays together; returns them and their groups' numbers."""
    order = rows[shuffled(len(rows))]
    places = np.arange(len(rows))
    if not tied:
        return order, places
    group = places  # a group's number is the place of its first member
    while True:
        before = group
        for key in keys:
            held = np.unique(key[order], return_inverse=True)[1]
            first = np.full(held.max() + 1, len(rows))
            np.minimum.at(first, held, group)
            group = first[held]
        if np.array_equal(before, group):
            break
    together = np.lexsort((places, group))
    return order[together], group[together]


def _test_rows(groups: np.ndarray, wanted: int) -> np.ndarray:
    """Chooses groups, from the first one on, that hold about `wanted` images together.

    The only group of all images is not chosen.
    """
    starts = np.flatnonzero(np.append(True, groups[1:] != groups[:-1]))
    sizes = np.diff(starts, append=len(groups))
    chosen = np.zeros(len(groups), bool)
    left = wanted if len(sizes) > 1 else 0
    for start, size in zip(starts, sizes, strict=True):
        if left == 0:
            break
        if size <= left:
            chosen[start : start + size] = True
            left -= size
    if not chosen.any() and len(sizes) > 1:  # every group is larger than a tenth
        smallest = int(sizes.argmin())
        chosen[starts[smallest] : starts[smallest] + sizes[smallest]] = True
    return chosen


def _name_groups(names: Sequence[str], group_by: str) -> np.ndarray:
    """Numbers the groups of `--group-by`."""
    if not names:
        raise checks.InputError(
            "group_by needs image files with names. "
            f"Received: {group_by!r} for arrays or records. Leave it out."
        )
    try:
        pattern = re.compile(group_by)
    except re.error as error:
        raise checks.InputError(
            f"group_by must be a regular expression. Received: {group_by!r} ({error}). "
            "Pass one that matches the shared start of names, such as '[^_]+'."
        ) from error
    found = []
    for name in names:
        match = pattern.match(name.rpartition("/")[2])
        if match is None:
            raise checks.InputError(
                "group_by must match the start of every file's name. "
                f"Received: {group_by!r}, which does not match {name}. Pass another pattern."
            )
        found.append(match[1] or "" if pattern.groups else match[0])
    return np.unique(found, return_inverse=True)[1]


def _shared(digests: np.ndarray, train: np.ndarray, held: np.ndarray, part: str) -> list[str]:
    """Reports images of a given part that also are training images."""
    count = int(np.isin(digests[held], digests[train]).sum())
    return [f"{part.capitalize()} images that are also training images: {count:,}."] * (count > 0)
