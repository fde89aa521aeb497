"""The cache of decoded images: what it holds, who makes it, and what spoils it."""

import dataclasses
import errno
import json
import os
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from tests.data.conftest import picture
from tests.data.conftest import same as same_images
from vae_keras.data import cache, datasets, decoding, own_images, store
from vae_keras.utils import checks
from vae_keras.utils.rows import Rows


def same(one, other):
    same_images(one, other)
    assert one.notes == other.notes


def in_memory(dataset):
    """Reads what a damaged file would change."""
    x_train, x_test = np.asarray(dataset.images.x_train), np.asarray(dataset.images.x_test)
    images = dataset.images._replace(x_train=x_train, x_test=x_test)
    return dataclasses.replace(dataset, images=images)


def files_of(caches: Path) -> list[str]:
    kinds = (path.name.split("-")[0] for path in caches.rglob("*") if path.is_file())
    return sorted(kinds)


WHOLE = ["cache.json", "catalogue", "lock", "pixels"]


def test_what_is_read_from_the_disk_is_what_is_read_into_memory(folder, monkeypatch, on_disk):
    said = []
    mapped = own_images.open_images(folder, say=said.append)
    assert isinstance(mapped.images.x_train, Rows)
    assert said == [f"Decoding 24 images into {next(on_disk.iterdir())} (0 MB)."]
    again = own_images.open_images(folder, say=said.append)
    assert len(said) == 1, "the second start decodes nothing"
    assert files_of(on_disk) == WHOLE
    same(mapped, again)
    (on_disk.parent / "images").rename(on_disk.parent / "gone")
    monkeypatch.setattr(own_images, "IN_MEMORY", 2**20)
    same(mapped, own_images.open_images(folder))


def test_grey_images_stored_in_colour_take_one_byte_a_pixel(tmp_path, on_disk):
    grey = np.stack([picture(seed, channels=1) for seed in range(12)])
    np.save(tmp_path / "colour.npy", np.repeat(grey[..., None], 3, axis=-1))
    root = tmp_path / "photos"
    for seed, image in enumerate(grey):
        store_png(root / f"{seed:02d}.png", np.repeat(image[..., None], 3, axis=-1))
    dataset = own_images.open_images(root)
    assert dataset.images.x_train.shape == (11, 5, 7, 1)
    held = [np.asarray(dataset.images.x_train), np.asarray(dataset.images.x_test)]
    assert {x.tobytes() for x in np.concatenate(held)} == {x.tobytes() for x in grey}
    (pixels,) = on_disk.rglob("pixels-*")
    assert pixels.stat().st_size == grey.size
    assert any("but are grey" in note for note in dataset.notes)


def store_png(path: Path, x: np.ndarray) -> None:
    from PIL import Image

    path.parent.mkdir(exist_ok=True)
    Image.fromarray(x).save(path)


def test_a_size_that_all_images_have_needs_no_other_cache(folder, on_disk):
    whole = own_images.open_images(folder)
    asked = own_images.open_images(folder, "5x7", say=lambda line: pytest.fail(line))
    same(whole, asked)
    assert own_images.open_images(folder, "4").images.x_train.shape[1:] == (4, 4, 3)
    assert len(list(on_disk.iterdir())) == 2


@pytest.mark.parametrize("change", ["added", "removed", "edited"])
def test_a_changed_source_is_decoded_anew(folder, on_disk, change):
    before = own_images.open_images(folder)
    if change == "added":
        store_png(folder / "cat" / "new.png", picture(99))
    elif change == "removed":
        (folder / "dog" / "03.png").unlink()
    else:
        store_png(folder / "dog" / "03.png", picture(99))
    said = []
    after = own_images.open_images(folder, say=said.append)
    assert said[0] == "photos has changed since its cache was made."
    assert after.identity["sha256"] != before.identity["sha256"]
    assert files_of(on_disk) == WHOLE, "the old cache is removed"
    np.asarray(before.images.x_train)  # a run that has mapped it goes on


@pytest.mark.parametrize("name", ["pixels", "catalogue", "cache.json"])
@pytest.mark.parametrize("damage", ["a bit", "cut", "gone"])
def test_a_damaged_cache_is_made_anew(folder, on_disk, name, damage):
    before = in_memory(own_images.open_images(folder))
    (path,) = on_disk.rglob(f"{name}*")
    content = bytearray(path.read_bytes())
    if damage == "gone":
        path.unlink()
    else:
        content[len(content) // 2] ^= 64
        path.write_bytes(content if damage == "a bit" else content[:-7])
    said = []
    same(own_images.open_images(folder, say=said.append), before)
    assert ("is damaged" in said[0]) == (damage != "gone")
    assert files_of(on_disk) == WHOLE


def test_a_full_disk_leaves_nothing_and_is_said(folder, on_disk, monkeypatch):
    real = store.digests
    seen = []

    def fill(images):  # after the first block of two
        seen.append(len(images))
        if len(seen) > 1:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(images)

    monkeypatch.setattr("vae_keras.data.decoding._BLOCK", 12)
    monkeypatch.setattr(store, "digests", fill)
    with pytest.raises(checks.InputError, match="with 2,520 bytes of space") as error:
        own_images.open_images(folder)
    assert "No space left on device" in str(error.value)
    assert len(str(error.value).splitlines()) == 1
    assert files_of(on_disk) == ["lock"]


def test_a_folder_that_cannot_be_written_is_said(folder, tmp_path, on_disk):
    (tmp_path / "xdg").write_text("a file where the folder should be")
    with pytest.raises(
        checks.InputError, match="cache of decoded images must be writable"
    ) as error:
        own_images.open_images(folder)
    assert "Set XDG_CACHE_HOME to a folder on another disk" in str(error.value)


def usage(free):
    return lambda _: shutil._ntuple_diskusage(2 * free, free, free)


@pytest.mark.parametrize(
    ("free", "terminal", "answer", "sentence"),
    [
        (2519, True, "y", "must fit on its disk. Received: 2,520 bytes of 2,519 that are free"),
        (5000, False, "", "or start the command in a terminal and agree"),
        (5000, True, "n", "Answer y to go on"),
        (5000, True, "y", None),
        (5040, False, "", None),
    ],
)
def test_more_than_half_of_the_disk_needs_a_yes(
    folder, on_disk, monkeypatch, free, terminal, answer, sentence
):
    asked = []
    monkeypatch.setattr(cache.shutil, "disk_usage", usage(free))
    monkeypatch.setattr(cache.sys, "stdin", type("In", (), {"isatty": lambda _: terminal})())
    monkeypatch.setattr("builtins.input", lambda text: asked.append(text) or answer)
    if sentence is None:
        own_images.open_images(folder)
    else:
        with pytest.raises(checks.InputError, match=sentence):
            own_images.open_images(folder)
        assert files_of(on_disk) == ["lock"]
    assert len(asked) == (terminal and free > 2520)


def test_two_processes_make_a_cache_once(folder, on_disk):
    """Two threads stand for two processes: each takes the lock through a file of its own."""
    said = []
    key = cache.Key(folder.resolve(), None, "")
    key.folder.mkdir(parents=True)
    with ThreadPoolExecutor(2) as pool:
        with cache._alone(key.folder, lambda: None):
            opened = [pool.submit(own_images.open_images, folder, say=said.append) for _ in "ab"]
            deadline = time.monotonic() + 60
            while len(said) < 2 and time.monotonic() < deadline:
                time.sleep(0.01)
            assert [line.split()[0] for line in said] == ["Waiting", "Waiting"]
        one, other = (future.result() for future in opened)
    assert [line.split()[0] for line in said[2:]] == ["Decoding"]
    same(one, other)
    assert files_of(on_disk) == WHOLE


def test_what_a_killed_maker_left_is_swept(folder, on_disk):
    key = cache.Key(folder.resolve(), None, "")
    key.folder.mkdir(parents=True)
    (key.folder / ".writing-0123456789abcdef-pixels-1.u8").write_bytes(bytes(100))
    own_images.open_images(folder)
    assert files_of(on_disk) == WHOLE


def test_damaged_images_are_refused_or_left_out_and_listed(folder, on_disk):
    (folder / "cat" / "05.png").write_bytes(b"no picture")
    content = (folder / "dog" / "03.png").read_bytes()
    (folder / "dog" / "03.png").write_bytes(content[:-20])
    with pytest.raises(checks.InputError, match=r"Received: .*cat/05.png .*--skip-damaged"):
        own_images.open_images(folder)
    dataset = own_images.open_images(folder, skip_damaged=True)
    assert len(dataset.images.x_train) + len(dataset.images.x_test) == 22
    (note,) = (note for note in dataset.notes if note.startswith("Damaged"))
    assert note.startswith("Damaged images left out: 2: ")
    assert "05.png" in note
    assert "03.png" in note
    held = {x.tobytes() for x in np.asarray(dataset.images.x_train)}
    assert bytes(105) not in held, "no empty image stands in for a damaged one"
    labels = np.concatenate([dataset.images.y_train, dataset.images.y_test])
    assert sorted(labels) == ["cat"] * 11 + ["dog"] * 11
    with pytest.raises(checks.InputError, match="--skip-damaged"):
        own_images.open_images(folder)  # the cache was made without them


def test_caches_are_listed_and_removed(folder, on_disk):
    assert list(cache.entries()) == []
    dataset = own_images.open_images(folder)
    (entry,) = cache.entries()
    assert (entry.source, entry.num_images) == (str(folder), 24)
    assert entry.shape == (5, 7, 3)
    assert entry.size > 2520
    (entry.folder / "cache.json").write_text("{")
    assert [found.source for found in cache.entries()] == ["damaged"]
    cache.remove(entry)
    assert not entry.folder.exists()
    np.asarray(dataset.images.x_train)  # what is mapped stays


def test_what_a_killed_maker_left_is_listed_and_removed(folder, on_disk):
    key = cache.Key(folder.resolve(), None, "")
    key.folder.mkdir(parents=True)
    (key.folder / ".writing-0123456789abcdef-pixels-1.u8").write_bytes(bytes(100))
    (entry,) = cache.entries()
    assert (entry.source, entry.num_images, entry.size) == ("not finished", 0, 100)
    with (
        cache._alone(key.folder, lambda: None),
        pytest.raises(checks.InputError, match="which another process is making"),
    ):
        cache.remove(entry)
    cache.remove(entry)
    assert list(cache.entries()) == []


def test_waiting_files_are_limited_in_bytes(monkeypatch):
    """Archives hold the content of each file that waits."""
    monkeypatch.setattr(decoding, "_WAITING_BYTES", 100)
    monkeypatch.setattr(decoding.os, "cpu_count", lambda: 2)
    read = []

    def items():
        for index in range(20):
            read.append(index)
            yield index

    done = []
    for item, result in decoding._in_order(lambda index: -index, items(), lambda _: 30):
        assert len(read) - len(done) <= 4
        done.append((item, result))
    assert done == [(index, -index) for index in range(20)]


def test_the_configuration_names_no_path(folder, on_disk):
    assert str(folder) not in json.dumps(dict(own_images.open_images(folder).identity))
    assert os.environ["XDG_CACHE_HOME"] in str(on_disk)


def test_a_user_without_a_home_folder_is_told_what_to_set(monkeypatch):
    def none():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(datasets.Path, "home", none)
    with pytest.raises(checks.InputError, match="Set XDG_CACHE_HOME to a folder"):
        datasets.default_cache_dir()
