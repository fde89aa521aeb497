"""The images that a command measures a model on, and the command that lists the caches."""

import shutil
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.conftest import images, small_vae
from vae_keras import VAE
from vae_keras.cli.main import main
from vae_keras.cli.models import list_images, load_held_out
from vae_keras.data import own_images
from vae_keras.utils import checks, files, keras_file
from vae_keras.utils.rows import Rows


@pytest.fixture(scope="module")
def model(photos_run) -> VAE:
    return keras_file.load(photos_run / "model.keras")


def held(model, run: Path, data: Path):
    weights = str(run / "model.keras")
    return load_held_out(
        Namespace(preset=None, model=weights, data=str(data), skip_damaged=False), model
    )


def others(folder: Path, count: int = 12) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(count):
        pixels = np.random.default_rng(100 + index).integers(0, 256, (7, 5, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"other{index}.png")
    return folder


def test_of_the_data_of_the_run_the_test_images_are_measured(model, photos, photos_run, capsys):
    x, y, kind, invert, names = held(model, photos_run, photos)
    np.testing.assert_array_equal(x, own_images.open_images(photos).images.x_test)
    assert (len(y), kind, invert) == (6, "test", False)
    assert [name.split("/")[0] for name in names] == list(y)
    assert "trained on these data: their 6 test images are measured" in capsys.readouterr().out


def test_of_another_folder_every_image_is_measured(model, photos_run, tmp_path, capsys):
    x, y, kind, _, _ = held(model, photos_run, others(tmp_path / "new"))
    assert (len(x), y, kind) == (12, None, "unseen")
    assert "All 12 images that the model did not train on are measured; 0 others are left out" in (
        capsys.readouterr().out
    )


def test_grey_images_are_judged_as_colour_images(model, tmp_path):
    """They are repeated when they are read, so that a large folder is never in memory whole."""
    grey = np.random.default_rng(0).integers(0, 256, (12, 7, 5, 1), dtype=np.uint8)
    np.save(tmp_path / "grey.npy", grey)
    judged = list_images(str(tmp_path / "grey.npy"), model, skip_damaged=False).pixels
    assert isinstance(judged, Rows)
    assert judged.shape == (12, 7, 5, 3)
    np.testing.assert_array_equal(judged[[3, 1]], np.repeat(grey[[3, 1]], 3, axis=-1))
    np.testing.assert_array_equal(model.encode(judged).loc, model.encode(np.asarray(judged)).loc)


def test_images_that_were_trained_on_are_left_out_wherever_they_lie(
    model, photos, photos_run, tmp_path, capsys
):
    """The run trained on 49 of the 60 photos. Five were for validation and six for testing."""
    mixed = shutil.copytree(photos, tmp_path / "mixed")
    others(mixed / "blue sky")
    x, y, _, _, _ = held(model, photos_run, mixed)
    assert len(x) == len(y) == 12 + 60 - 49
    assert "23 images that the model did not train on are measured; 49 others" in (
        capsys.readouterr().out
    )
    dataset = own_images.open_images(photos)
    trained = {image.tobytes() for image in dataset.images.x_train[:49]}
    assert not trained & {image.tobytes() for image in x}


def test_without_the_run_what_was_trained_on_is_not_known(
    model, photos, photos_run, tmp_path, capsys
):
    shutil.copy(photos_run / "model.keras", tmp_path)
    assert len(held(model, tmp_path, photos).x) == 60
    assert "What the model was trained on is not known" in capsys.readouterr().out


def test_a_division_that_comes_with_the_data_is_kept(model, photos_run, tmp_path):
    others(tmp_path / "set" / "train")
    others(tmp_path / "set" / "Testing", 3)
    assert held(model, photos_run, tmp_path / "set")[2] == "test"
    (tmp_path / "set" / "Testing").rename(tmp_path / "set" / "valid")
    x, _, kind, _, _ = held(model, photos_run, tmp_path / "set")
    assert (len(x), kind) == (3, "validation")


def test_of_a_division_of_the_same_images_those_trained_on_are_left_out(
    model, photos, photos_run, tmp_path, capsys
):
    """Another fold of a cross-validation tests images that this model has seen."""
    dataset = own_images.open_images(photos)
    for part, shown in (("train", dataset.images.x_test), ("test", dataset.images.x_train)):
        (tmp_path / "fold" / part).mkdir(parents=True)
        for index, image in enumerate(shown):
            Image.fromarray(image).save(tmp_path / "fold" / part / f"{index:02d}.png")
    x, _, kind, _, names = held(model, photos_run, tmp_path / "fold")
    assert (len(x), len(names), kind) == (5, 5, "test")
    assert "49 others are left out, because the model trained" in capsys.readouterr().out
    trained = {image.tobytes() for image in dataset.images.x_train[:49]}
    assert not trained & {image.tobytes() for image in x}


def test_images_that_were_all_trained_on_are_refused(model, photos, photos_run, tmp_path):
    dataset = own_images.open_images(photos)
    for index, image in enumerate(dataset.images.x_train[:20]):
        Image.fromarray(image).save(tmp_path / f"{index}.png")
    with pytest.raises(checks.InputError, match="whose images it has all seen"):
        held(model, photos_run, tmp_path)


def test_damaged_hashes_are_named(model, photos_run, tmp_path):
    run = shutil.copytree(photos_run, tmp_path / "run")
    (run / "trained_on.npy").write_bytes(b"x")
    with pytest.raises(checks.InputError, match=r"must be whole\. Received: .*trained_on"):
        held(model, run, others(tmp_path / "new"))


def test_the_caches_are_listed_and_removed(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.setattr(own_images, "IN_MEMORY", 0)
    own_images.open_images(others(tmp_path / "photos"), say=lambda _: None)
    assert main(["cache"]) == 0
    head, line, total = capsys.readouterr().out.splitlines()
    assert head.split() == ["name", "images", "shape", "MB", "made", "from"]
    assert line.split()[1:] == ["12", "7", "x", "5", "x", "3", "0", str(tmp_path / "photos")]
    assert total.endswith(str(tmp_path / "xdg" / "vae_keras" / "images"))
    assert main(["cache", "--remove", "nothing"]) == 2
    assert "--remove takes the name of a cache, or all" in capsys.readouterr().err
    assert main(["cache", "--remove", line.split()[0]]) == 0
    assert main(["cache"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 3  # what was removed, the head, the total


@pytest.mark.parametrize(("names", "read"), [(["1", "2", "3"], ["3"]), (["a", "b", "c"], [2])])
def test_whole_numbers_are_names_only_where_training_made_names_of_them(names, read, tmp_path):
    """A model of the labels 1 to 3 has the class 0 under the name "1"."""
    model = small_vae(num_classes=3, class_names=names)
    x = (images(20) * 255).astype(np.uint8)
    first = int(names[0] == "1")
    labels = {"y_train": np.arange(20) % 3 + first, "y_test": [2 + first] * 20}
    np.savez(tmp_path / "d.npz", x_train=x, x_test=x, **labels)
    assert list(set(held(model, tmp_path, tmp_path / "d.npz").y)) == read


def test_a_pattern_of_the_run_does_not_keep_other_data_out(tmp_path):
    files.write_json(tmp_path / "config.json", {"own_data": {"group_by": "[^_]+_", "sha256": ""}})
    np.savez(tmp_path / "d.npz", x_train=(images(20) * 255).astype(np.uint8))
    assert len(held(small_vae(), tmp_path, tmp_path / "d.npz").x) == 20
