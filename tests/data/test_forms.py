"""Every form of a user's images: archives, arrays, TFRecord files, and all kinds of image files."""

import gzip
import io
import os
import tarfile
import zipfile

import h5py
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from tests.data.conftest import NAMES, photos, picture, same
from vae_keras.data import own_images
from vae_keras.utils import checks

# ------------------------------------------------------------------------------------ archives


def packed(folder, suffix, top="photos/"):
    """Packs a folder in an order of no meaning, with what a Mac adds."""
    path = folder.parent / f"mine{suffix}"
    names = sorted(NAMES, key=lambda name: name[::-1])
    if suffix == ".zip":
        with zipfile.ZipFile(path, "w") as archive:
            for name in names:
                archive.write(folder / name, top + name)
            archive.writestr("__MACOSX/._00.png", b"x")
            archive.writestr(f"{top}notes.txt", b"x")
    else:
        mode = {".tar": "w", ".tar.gz": "w:gz", ".tgz": "w:gz", ".tar.xz": "w:xz"}[suffix]
        with tarfile.open(path, mode) as archive:
            for name in names:
                archive.add(folder / name, top + name)
            archive.add(folder / NAMES[0], "__MACOSX/._00.png")
            archive.addfile(tarfile.TarInfo(f"{top}notes.txt"))
    return path


@pytest.mark.parametrize("where", ["memory", "disk"])
@pytest.mark.parametrize("suffix", [".zip", ".tar", ".tar.gz", ".tgz", ".tar.xz"])
def test_an_archive_is_the_folder_that_it_was_packed_from(folder, suffix, where, request):
    if where == "disk":
        request.getfixturevalue("on_disk")
    dataset = own_images.open_images(packed(folder, suffix))
    same(dataset, own_images.open_images(folder))
    assert dataset.name == "mine"
    assert "Members passed over: 1 other and 1 hidden." in dataset.notes


def test_an_archive_without_a_top_folder_keeps_its_labels(folder):
    same(own_images.open_images(packed(folder, ".zip", "")), own_images.open_images(folder))


def zipped(path, members, **options):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return path


def content(seed=0, kind="PNG", **options):
    stream = io.BytesIO()
    Image.fromarray(picture(seed)).save(stream, kind, **options)
    return stream.getvalue()


def cut(path, count):
    path.write_bytes(path.read_bytes()[:-count])
    return path


def flipped(path, where):
    held = bytearray(path.read_bytes())
    held[where] ^= 16
    path.write_bytes(held)
    return path


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda f: cut(packed(f, ".zip"), 300), "an archive of images must be whole"),
        (lambda f: cut(packed(f, ".tar"), 20000), "an archive of images must be whole"),
        (lambda f: cut(packed(f, ".tar.gz"), 1500), "an archive of images must be whole"),
        (lambda f: flipped(packed(f, ".zip"), 150), "Bad CRC-32|sound PNG"),
        (lambda f: zipped(f.parent / "a.zip", [("../x.png", b"")]), "must lie inside of it"),
        (lambda f: zipped(f.parent / "a.zip", [("/x.png", b"")]), "must lie inside of it"),
        (lambda f: zipped(f.parent / "a.zip", [("a\n.png", b"")]), "control characters"),
        (lambda f: zipped(f.parent / "a.zip", [("a.txt", b"")]), "an archive of images must hold"),
        (lambda f: zipped(f.parent / "a.zip", [("a.png", bytes(2**26 + 1))]), "more than 64"),
        (lambda f: zipped(f.parent / "a.zip", [("a.png", b"x")]), "of another kind"),
    ],
)
def test_a_bad_archive_gets_one_sentence(folder, make, sentence):
    with pytest.raises(checks.InputError, match=sentence) as error:
        own_images.open_images(make(folder))
    assert len(str(error.value).splitlines()) == 1


def test_links_in_an_archive_are_never_followed(folder, tmp_path):
    path = packed(folder, ".tar")
    with tarfile.open(path, "a") as archive:
        link = tarfile.TarInfo("photos/cat/secret.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    dataset = own_images.open_images(path)
    same(dataset, own_images.open_images(folder))
    assert "Members passed over: 2 other and 1 hidden." in dataset.notes


# -------------------------------------------------------------------------------------- arrays

X = np.stack([picture(seed) for seed in range(30)])
Y = np.arange(30) % 3


def h5(path, **arrays):
    with h5py.File(path, "w") as file:
        for name, array in arrays.items():
            file.create_dataset(name, data=array, **({} if array.ndim == 1 else {"chunks": True}))
    return path


@pytest.mark.parametrize("where", ["memory", "disk"])
@pytest.mark.parametrize(
    "dtype", [np.uint8, np.int16, np.float16, np.float32, pytest.param("F", id="by column")]
)
def test_all_files_of_arrays_hold_the_same_images(tmp_path, dtype, where, request):
    if where == "disk":
        request.getfixturevalue("on_disk")
    x = np.asfortranarray(X) if dtype == "F" else X.astype(dtype)
    x = x / dtype(255) if np.dtype(x.dtype).kind == "f" else x
    np.save(tmp_path / "a.npy", x)
    np.savez_compressed(tmp_path / "b.npz", x_train=x)
    h5(tmp_path / "c.h5", x_train=x)
    h5(tmp_path / "d.hdf5", pictures=x)
    one, *others = (
        own_images.open_images(tmp_path / n) for n in ("a.npy", "b.npz", "c.h5", "d.hdf5")
    )
    for other in others:
        same(one, other)
    held = np.concatenate([np.asarray(one.images.x_train), np.asarray(one.images.x_test)])
    assert {image.tobytes() for image in held} == {image.tobytes() for image in X}


def test_labels_and_a_division_of_an_h5(tmp_path):
    names = np.array(["cat", "dog", "owl"], object)[Y]
    path = h5(tmp_path / "a.h5", x_train=X[:20], x_test=X[20:], y_train=Y[:20], y_test=Y[20:])
    dataset = own_images.open_images(path)
    place = {image.tobytes(): label for image, label in zip(X, Y, strict=True)}
    for x, y in (dataset.images[:2], dataset.images[2:]):
        assert [place[image.tobytes()] for image in x] == y.tolist()
    assert (len(dataset.images.x_test), dataset.split) == (10, "as given")
    with h5py.File(tmp_path / "b.h5", "w") as file:
        file["x_train"] = X
        file.create_dataset("y_train", data=names, dtype=h5py.string_dtype())
    assert set(own_images.open_images(tmp_path / "b.h5").images.y_train) == {"cat", "dog", "owl"}


def outside(path):
    h5(path.parent / "other.h5", x_train=X)
    with h5py.File(path, "w") as file:
        file["x_train"] = h5py.ExternalLink("other.h5", "x_train")
    return path


def elsewhere(path):
    (path.parent / "raw").write_bytes(X.tobytes())
    with h5py.File(path, "w") as file:
        file.create_dataset(
            "x_train", X.shape, "u1", external=[(str(path.parent / "raw"), 0, 3150)]
        )
    return path


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda p: h5(p / "a.h5", x_train=X, extra=X), "Received: 'extra'"),
        (lambda p: h5(p / "a.h5", x_test=X, y_test=Y), "must hold x_train"),
        (lambda p: outside(p / "a.h5"), "must hold its arrays itself"),
        (lambda p: elsewhere(p / "a.h5"), "must hold its arrays itself"),
        (lambda p: cut(h5(p / "a.h5", x_train=X), 800), "an .h5 must be sound"),
        (lambda p: h5(p / "a.h5", x_train=X * 2.0), r"must lie in \[0, 1\]"),
        (lambda p: h5(p / "a.h5", x_train=X[..., :2]), "1 or 3 channels"),
        (lambda p: h5(p / "a.h5", x_train=X, y_train=Y[:9]), "one label for each image"),
        (lambda p: empty(p / "a.h5"), "must hold its arrays itself"),
        (lambda p: unwritten(p / "a.h5"), "one label for each image. Received: 20000000000"),
        (lambda p: np.save(p / "a.npy", X[:, :, :, :2]) or p / "a.npy", "1 or 3 channels"),
        (lambda p: np.save(p / "a.npy", np.array([{}])) or p / "a.npy", "an .npy must be sound"),
        (lambda p: cut_npy(p / "a.npy"), "an .npy must be sound"),
    ],
)
def test_a_bad_file_of_arrays_gets_one_sentence(tmp_path, make, sentence):
    with pytest.raises(checks.InputError, match=sentence) as error:
        own_images.open_images(make(tmp_path))
    assert len(str(error.value).splitlines()) == 1


def empty(path):
    with h5py.File(path, "w") as file:
        file["x_train"] = h5py.Empty("u1")
    return path


def unwritten(path):
    with h5py.File(h5(path, x_train=X), "a") as file:  # a file of kilobytes
        file.create_dataset("y_train", (2 * 10**10,), "u1", chunks=(2**20,))
    return path


def cut_npy(path):
    np.save(path, X)
    return cut(path, 10)


# ------------------------------------------------------------------------------------- records


def example(**features):
    held = {}
    for name, value in features.items():
        name = name.replace("__", "/")
        if isinstance(value, bytes):
            held[name] = tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))
        else:
            held[name] = tf.train.Feature(int64_list=tf.train.Int64List(value=[value]))
    return tf.train.Example(features=tf.train.Features(feature=held)).SerializeToString()


def records(path, rows, make, compression=""):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tf.io.TFRecordWriter(str(path), compression) as writer:
        for row in rows:
            writer.write(make(row))
    return path


def garden(row):
    return example(image__encoded=content(row), image__class__label=row % 3)


def of_tfds(row):
    return example(image=content(row), label=row % 3)


def raw(row):
    size = {"image__height": 5, "image__width": 7, "image__channels": 3}
    return example(image__encoded=picture(row).tobytes(), **size)


def pictures_of(dataset):
    held = [np.asarray(dataset.images.x_train), np.asarray(dataset.images.x_test)]
    return {image.tobytes() for image in np.concatenate(held)}


@pytest.mark.parametrize("where", ["memory", "disk"])
@pytest.mark.parametrize("make", [garden, of_tfds, raw])
def test_records_of_every_convention_are_read(tmp_path, make, where, request):
    if where == "disk":
        request.getfixturevalue("on_disk")
    for shard in range(2):
        rows = range(15 * shard, 15 * shard + 15)
        records(tmp_path / "set" / f"x.tfrecord-0000{shard}-of-00002", rows, make)
    dataset = own_images.open_images(tmp_path / "set")
    assert pictures_of(dataset) == {image.tobytes() for image in X}
    assert (dataset.images.y_train is None) == (make is raw)
    if make is not raw:
        place = {image.tobytes(): label for image, label in zip(X, Y, strict=True)}
        pairs = zip(dataset.images.x_train, dataset.images.y_train, strict=True)
        assert all(place[image.tobytes()] == label for image, label in pairs)
    same(dataset, own_images.open_images(tmp_path / "set"))


def test_a_prepared_set_of_tfds_comes_with_its_division_and_names(tmp_path):
    root = tmp_path / "birds" / "3.0.1"
    records(root / "birds-train.tfrecord-00000-of-00001", range(20), of_tfds)
    records(root / "birds-test.tfrecord-00000-of-00001", range(20, 30), of_tfds)
    (root / "label.labels.txt").write_text("crow\nowl\ntern\n")
    (root / "dataset_info.json").write_text("{}")
    dataset = own_images.open_images(tmp_path / "birds")
    assert (len(dataset.images.x_train), len(dataset.images.x_test)) == (20, 10)
    assert dataset.split == "as given"
    assert set(dataset.images.y_test) == {"crow", "owl", "tern"}
    records(tmp_path / "birds" / "4.0.0" / "birds-train.tfrecord-00000-of-00001", range(9), of_tfds)
    with pytest.raises(checks.InputError, match=r"must hold one data set. .*3.0.1, .*4.0.0"):
        own_images.open_images(tmp_path / "birds")


def unlabelled(row):
    return example(image=content(row))


def test_a_test_set_without_labels_leaves_those_of_the_training_set(tmp_path):
    records(tmp_path / "birds-train.tfrecord", range(20), of_tfds)
    records(tmp_path / "birds-test.tfrecord", range(20, 30), unlabelled)
    images = own_images.open_images(tmp_path).images
    assert set(images.y_train) == {"0", "1", "2"}
    assert images.y_test is None


def test_records_with_labels_in_places_are_refused(tmp_path):
    make = lambda row: unlabelled(row) if row == 7 else of_tfds(row)  # noqa: E731
    path = records(tmp_path / "x.tfrecord", range(12), make)
    with pytest.raises(checks.InputError, match=r"record 7 of .* with no such label"):
        own_images.open_images(path)


def test_labels_of_another_kind_are_left_out_with_a_note(tmp_path):
    def make(row):
        floats = tf.train.Feature(float_list=tf.train.FloatList(value=[row / 2]))
        held = tf.train.Example.FromString(unlabelled(row))
        held.features.feature["label"].CopyFrom(floats)
        return held.SerializeToString()

    dataset = own_images.open_images(records(tmp_path / "x.tfrecord", range(12), make))
    assert dataset.images.y_train is None
    assert any("are left out: each must be a whole number" in note for note in dataset.notes)


@pytest.mark.parametrize("change", ["division", "names"])
def test_a_changed_division_or_name_of_records_is_read_anew(tmp_path, change, on_disk):
    root = tmp_path / "birds"
    for part, rows in (("dev", range(20, 30)), ("train", range(20))):
        records(root / part / "x.tfrecord", rows, of_tfds)
    (root / "dev" / "label.labels.txt").write_text("crow\nowl\ntern\n")
    assert own_images.open_images(root).validation == 10
    if change == "division":
        (root / "dev").rename(root / "eval")
    else:
        (root / "dev" / "label.labels.txt").write_text("crow\nowl\ngull\n")
    dataset = own_images.open_images(root)
    assert dataset.validation == (10 if change == "names" else 0)
    assert ("gull" in dataset.images.y_train) == (change == "names")


def test_one_compressed_file_is_read(tmp_path):
    path = records(tmp_path / "x.tfrecord.gz", range(30), garden, "GZIP")
    with gzip.open(path) as file:
        assert file.read(1)
    assert pictures_of(own_images.open_images(path)) == {image.tobytes() for image in X}


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda p: flipped(records(p, range(12), garden), 400), "corrupted record"),
        (lambda p: cut(records(p, range(12), garden), 30), "a TFRecord file must be whole"),
        (
            lambda p: records(p, range(12), lambda _: example(label=1)),
            "record 0 of .* with label. Write it with that feature",
        ),
        (lambda p: records(p, range(12), lambda _: b"\xff\xff"), "holds no tf.train.Example"),
        (
            lambda p: records(p, range(12), lambda _: example(image=b"x")),
            "record 0 of .*of another kind",
        ),
    ],
)
def test_bad_records_get_one_sentence(tmp_path, make, sentence):
    with pytest.raises(checks.InputError, match=sentence) as error:
        own_images.open_images(make(tmp_path / "x.tfrecord"))
    assert len(str(error.value).splitlines()) == 1


# ----------------------------------------------------------------------------- kinds of image files


@pytest.mark.parametrize(
    ("suffix", "options"),
    [
        (".webp", {"lossless": True}),
        (".bmp", {}),
        (".tif", {}),
        (".TIFF", {"compression": "tiff_lzw"}),
        (".gif", {}),
    ],
)
def test_more_kinds_of_files_are_read(tmp_path, suffix, options):
    images = [Image.fromarray(picture(seed)) for seed in range(12)]
    if suffix == ".gif":  # an animation, whose first picture counts
        images = [image.quantize(256) for image in images]
        options = {"save_all": True, "append_images": [Image.new("RGB", (7, 5), "red")]}
    for number, image in enumerate(images):
        kind = {".tif": "TIFF"}.get(suffix.lower(), suffix[1:].upper())
        image.save(tmp_path / f"{number:02d}{suffix}", kind, **options)
    expected = {np.asarray(image.convert("RGB")).tobytes() for image in images}
    assert pictures_of(own_images.open_images(tmp_path)) == expected


def test_deep_tiffs_become_bytes_and_floats_are_refused(tmp_path):
    for number in range(10):
        deep = picture(number, channels=1).astype(np.uint16) * 257
        Image.fromarray(deep).save(tmp_path / f"{number}.tif")
    expected = {picture(number, channels=1).tobytes() for number in range(10)}
    assert pictures_of(own_images.open_images(tmp_path)) == expected
    Image.fromarray(np.ones((5, 7), np.float32)).save(tmp_path / "0.tif")
    with pytest.raises(checks.InputError, match="its pixels are floats"):
        own_images.open_images(tmp_path)


def test_one_level_down_divides_and_what_is_foreign_is_counted(tmp_path):
    names = [f"images/{part}/{number}.png" for part in ("Train", "Val") for number in range(12)]
    root = photos(tmp_path / "set", names)
    (root / ".DS_Store").write_text("x")
    (root / "images" / "Thumbs.db").write_text("x")
    dataset = own_images.open_images(root)
    assert (len(dataset.images.x_train), dataset.validation) == (24, 12)
    assert len(dataset.images.x_test) == 0
    assert dataset.images.y_train is None
    assert dataset.notes == ("Files and folders passed over: 1 other and 1 hidden.",)
    kept, held = dataset.training_part()
    first = {image.tobytes() for image in kept}
    assert first == {picture(seed).tobytes() for seed in range(12)}
    assert len(held) == 12


def test_links_to_links_are_counted_and_none_is_lost(tmp_path):
    root = photos(tmp_path / "set", [f"{number}.png" for number in range(12)])
    os.symlink(root, root / "again")
    dataset = own_images.open_images(root)
    assert len(dataset.images.x_train) + len(dataset.images.x_test) == 12
    assert "Links that lead back to a folder above them, not followed: 1" in dataset.notes
