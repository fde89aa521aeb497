"""What the names of images say: parts of a division, in every spelling, and labels."""

import numpy as np
import pytest

from vae_keras.data.catalogue import TEST, TRAIN, VALIDATION, check_name, from_names, part_of
from vae_keras.utils import checks


def parts(*names, folders=()):
    return from_names(names, "photos", folders).parts.tolist()


def labels(*names, folders=()):
    found = from_names(names, "photos", folders).labels
    return None if found is None else found.tolist()


@pytest.mark.parametrize(
    ("train", "other", "part"),
    [
        ("train", "test", TEST),
        ("Training", "Testing", TEST),
        ("TRAIN", "eval", TEST),
        ("train", "val", VALIDATION),
        ("train", "Valid", VALIDATION),
        ("training", "validation", VALIDATION),
        ("train", "dev", VALIDATION),
    ],
)
@pytest.mark.parametrize("above", ["", "images/"])
def test_names_of_parts_divide_and_are_never_labels(train, other, part, above):
    names = [f"{above}{train}/1.png", f"{above}{other}/2.png"]
    assert parts(*names) == [TRAIN, part]
    assert labels(*names) is None


def test_labels_stand_below_a_part():
    names = ["images/train/cat/1.png", "images/train/dog/2.png", "images/val/dog/3.png"]
    assert labels(*names, "images/val/cat/4.png") == ["cat", "dog", "dog", "cat"]


def test_labels_may_stand_above_the_parts():
    names = ["cat/train/1.png", "cat/test/2.png", "dog/train/3.png", "dog/test/4.png"]
    assert parts(*names) == [TRAIN, TEST, TRAIN, TEST]
    assert labels(*names) == ["cat", "cat", "dog", "dog"]


def test_a_class_may_be_called_train():
    names = ["train/1.png", "car/2.png", "bus/3.png"]
    assert parts(*names) == [TRAIN] * 3
    assert labels(*names) == ["train", "car", "bus"]


def test_a_training_part_without_another_is_no_division():
    names = ["train/cat/1.png", "train/dog/2.png"]
    assert parts(*names) == [TRAIN, TRAIN]
    assert labels(*names) == ["cat", "dog"]


def test_a_part_without_labels_keeps_those_of_the_others():
    names = ["train/cat/1.png", "train/dog/2.png", "test/3.png"]
    assert labels(*names) == ["cat", "dog", ""]


def test_deep_folders_belong_to_the_label_above_them():
    assert labels("cat/a/b/1.png", "dog/2.png") == ["cat", "dog"]


@pytest.mark.parametrize(
    ("names", "folders", "sentence"),
    [
        (["train/1.png", "test/2.png", "3.png"], (), r"hold all images in them. .*photos/3.png"),
        (["train/1.png", "test/2.png", "extra/3.png"], (), "divided into test and train"),
        (["images/train/1.png", "images/test/2.png", "more/x/3.png"], (), "photos/more/x/3.png"),
        (["train/1.png"], ("train", "test"), "every part of a division must hold images"),
        (["cat/1.png", "dog/2.png"], ("cat", "dog", "owl"), "photos/owl without any"),
        (
            ["train/cat/1.png", "train/dog/2.png", "test/cat/3.png", "test/dog/4.png"],
            ("train/owl",),
            "photos/train/owl without any",
        ),
        (["cat/1.png", "2.png"], (), "either all in sub-folders"),
        (["train/cat/1.png", "train/2.png", "test/3.png"], (), "sub-folders of photos/train"),
    ],
)
def test_a_division_that_leaves_something_out_is_refused(names, folders, sentence):
    with pytest.raises(checks.InputError, match=sentence):
        from_names(names, "photos", folders)


@pytest.mark.parametrize("name", ["a\nb", "a\x1b[2J", "d\udcff"])
def test_names_that_break_a_line_are_refused(name):
    with pytest.raises(checks.InputError, match="control characters"):
        check_name(name)


def test_other_names_are_no_parts():
    assert [part_of(name) for name in ("cats", "trains", "tests", "")] == [None] * 4
    assert from_names(["1.png"], "photos").parts.dtype == np.uint8
