"""Patches of photographs: no photograph in two splits, and a remedy for missing packages."""

import numpy as np
import pytest
from PIL import Image

from vae_keras.data import datasets, photographs
from vae_keras.utils import checks


@pytest.fixture
def root(tmp_path):
    """Photographs of one colour each, which tells a patch's photograph."""
    for index, name in enumerate(photographs.NAMES + photographs.MORE_NAMES):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        # Colours of JPEG are off by one or two.
        Image.new("RGB", (512, 128), (4 * index, 100, 50)).save(tmp_path / name, quality=95)
    return tmp_path


def test_no_photograph_has_patches_in_two_splits(root):
    x, x_test, num_validation = photographs.read(root)
    assert x.dtype == x_test.dtype == np.uint8
    assert x.shape[1:] == x_test.shape[1:] == (32, 32, 3)
    splits = (x[:-num_validation], x[-num_validation:], x_test)
    shown = [{round(patch[0, 0, 0] / 4) for patch in split} for split in splits]
    assert sorted(len(each) for each in shown) == [7, 7, 48]
    assert set.union(*shown) == set(range(62))
    assert len(x_test) == num_validation == 7 * 8 * 2


def test_the_patches_of_a_photograph_are_its_pixels():
    photograph = np.random.default_rng(0).integers(0, 256, (70, 100, 3), dtype=np.uint8)
    cut = photographs.patches(photograph, 32)
    assert len(cut) == 6
    np.testing.assert_array_equal(cut[4], photograph[32:64, 32:64])


def test_missing_packages_are_named(monkeypatch, tmp_path):
    read = photographs.read
    monkeypatch.setattr(photographs, "read", lambda: read(tmp_path))
    with pytest.raises(checks.InputError, match="apt-get install mate-backgrounds plasma"):
        datasets.load("photographs")


def test_other_photographs_are_refused(monkeypatch, root):
    read = photographs.read
    monkeypatch.setattr(photographs, "read", lambda: read(root))
    with pytest.raises(checks.InputError, match="does not have the SHA-256 of Photographs"):
        datasets.load("photographs")


def test_cifar10_comes_from_keras(monkeypatch):
    from keras.datasets import cifar10

    x, y = np.zeros((2, 32, 32, 3), np.uint8), np.array([[3], [9]], np.uint8)
    monkeypatch.setattr(cifar10, "load_data", lambda: ((x, y), (x, y)))
    dataset = datasets.load("cifar10")
    assert dataset.images.y_train.tolist() == ["cat", "truck"]
    assert not dataset.invert

    def refuse():
        raise Exception("no route to the host")

    monkeypatch.setattr(cifar10, "load_data", refuse)
    with pytest.raises(checks.InputError, match=r"no route to the host\. Connect"):
        datasets.load("cifar10")
