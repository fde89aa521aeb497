"""Divisions by content: nothing that belongs together lies on both sides."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vae_keras.data import splits
from vae_keras.data.catalogue import Catalogue
from vae_keras.data.collection import DataSet, Images
from vae_keras.utils import checks


def numbered(count: int, parts=None, names=()) -> Catalogue:
    parts = np.zeros(count, np.uint8) if parts is None else np.array(parts, np.uint8)
    return Catalogue(names, parts, None)


def as_set(division: splits.Division) -> DataSet:
    x = division.train[:, np.newaxis, np.newaxis, np.newaxis]
    images = Images(x, None, division.test, None)
    return DataSet("x", images, "", continues=division.continues)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 12), min_size=10, max_size=60), st.integers(0, 60))
def test_equal_pixels_never_lie_on_two_sides(digests, wanted):
    digests = np.array(digests, np.uint64)
    division = splits.divide(numbered(len(digests)), digests)
    assert sorted([*division.train, *division.test]) == list(range(len(digests)))
    assert (len(division.test) > 0) == (len(np.unique(digests)) > 1)
    held = as_set(division).held_out(min(wanted, len(division.train)))
    kept = len(division.train) - held
    sides = [division.train[:kept], division.train[kept:], division.test]
    found = [set(digests[side].tolist()) for side in sides]
    assert sum(map(len, found)) == len(set(digests.tolist()))
    assert len(sides[0]) > 0


@pytest.mark.parametrize("count", [20, 29, 300])
def test_without_repeats_exactly_a_tenth_is_for_testing(count):
    division = splits.divide(numbered(count), np.arange(count, dtype=np.uint64))
    assert len(division.test) == count // 10
    assert division.continues is None
    assert division.notes == []
    order = splits.shuffled(count)
    np.testing.assert_array_equal(np.concatenate([division.test, division.train]), order)


def test_groups_of_names_stay_together_and_join_through_equal_pixels():
    names = [f"cat/p{number // 4:02d}_{number % 4}.png" for number in range(80)]
    digests = np.arange(80, dtype=np.uint64)
    digests[79] = digests[0]  # patients 0 and 19 share an image
    division = splits.divide(numbered(80, names=names), digests, r"p\d+")
    patient = np.arange(80) // 4
    patient[patient == 19] = 0
    assert not set(patient[division.train]) & set(patient[division.test])
    assert len(division.test) in (4, 8)
    held = as_set(division).held_out(7)
    tail, head = division.train[-held:], division.train[:-held]
    assert not set(patient[tail]) & set(patient[head])
    assert division.words.endswith("whole groups")
    assert division.notes == [
        "Images with the pixels of another one: 1. Equal images stay on one side."
    ]


def test_the_first_group_of_a_pattern_names_the_group():
    names = [f"scan-{number % 20}-of-{number // 20}.png" for number in range(60)]
    division = splits.divide(
        numbered(60, names=names), np.arange(60, dtype=np.uint64), r"scan-(\d+)-of"
    )
    assert len(division.test) == 6
    assert len(set(division.test % 20)) == 2


def test_names_decide_the_order_whatever_the_order_of_the_source():
    names = [f"{number:02d}.png" for number in range(30)]
    digests = np.arange(30, dtype=np.uint64)
    straight = splits.divide(numbered(30, names=names), digests)
    turned = splits.divide(numbered(30, names=names[::-1]), digests[::-1])
    for ours, theirs in zip(straight[:2], turned[:2], strict=True):
        np.testing.assert_array_equal(ours, 29 - theirs)


def test_given_parts_are_kept_and_what_they_share_is_reported():
    digests = np.arange(40, dtype=np.uint64)
    digests[35:] = digests[:5]  # test images that are also training images
    digests[21] = digests[7]
    parts = [0] * 20 + [1] * 10 + [2] * 10
    division = splits.divide(numbered(40, parts), digests)
    assert sorted(division.test) == list(range(30, 40))
    assert sorted(division.train[:20]) == list(range(20))
    assert sorted(division.train[20:]) == list(range(20, 30))
    assert (division.validation, division.words) == (10, "as given")
    assert division.notes == [
        "Validation images that are also training images: 1.",
        "Test images that are also training images: 5.",
        "Images with the pixels of another one: 6.",
    ]


@pytest.mark.parametrize(
    ("names", "parts", "pattern", "sentence"),
    [
        ((), None, "p", "group_by needs image files with names"),
        ("ab", None, "(", "group_by must be a regular expression"),
        ("ab", None, "a", "which does not match b"),
        ("aa", None, "a", "images in one group of 'a'"),
        ((), [2] * 20, None, "must hold training images"),
    ],
)
def test_what_cannot_divide_is_refused(names, parts, pattern, sentence):
    names = [letter for letter in names for _ in range(10)]
    with pytest.raises(checks.InputError, match=sentence):
        splits.divide(numbered(20, parts, names), np.arange(20, dtype=np.uint64), pattern)
