"""A user's own images: the formats that are read, their division, and the data that are refused."""

import io
import os
import shutil
import struct
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vae_keras.data import cache, datasets, image_file, own_images, splits
from vae_keras.utils import checks

RNG = np.random.default_rng(0)


def pixels(height=5, width=7, channels=3) -> np.ndarray:
    shape = (height, width) if channels == 1 else (height, width, channels)
    return RNG.integers(0, 256, shape, dtype=np.uint8)


def png(path: Path, x: np.ndarray | Image.Image | None = None, **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = x if isinstance(x, Image.Image) else Image.fromarray(pixels() if x is None else x)
    image.save(path, **options)
    return path


def folder_of(root: Path, count: int = 12, suffix: str = ".png", **shape) -> Path:
    for index in range(count):
        png(root / f"{index:03d}{suffix}", pixels(**shape))
    return root


def labelled(root: Path, **counts: int) -> Path:
    for label, count in counts.items():
        folder_of(root / label, count)
    return root


def everything(dataset: datasets.DataSet) -> np.ndarray:
    return np.concatenate([dataset.images.x_train, dataset.images.x_test])


def as_set(x: np.ndarray) -> set[bytes]:
    return {image.tobytes() for image in x}


# ------------------------------------------------------------------------------------ folders


@pytest.mark.parametrize("channels", [1, 3])
def test_a_folder_of_png_files_is_read_pixel_for_pixel(tmp_path, channels):
    folder_of(tmp_path / "pictures", 20, channels=channels)
    dataset = own_images.open_images(tmp_path / "pictures")
    x_train, y_train, x_test, y_test = dataset.images
    assert dataset.name == "pictures"
    assert dataset.own
    assert (x_train.shape, x_test.shape) == ((18, 5, 7, channels), (2, 5, 7, channels))
    assert x_train.dtype == np.uint8
    assert y_train is None
    assert y_test is None
    files = [np.asarray(Image.open(path)) for path in (tmp_path / "pictures").iterdir()]
    assert as_set(everything(dataset)) == as_set(np.stack(files))


def test_jpeg_files_are_read_whatever_the_case_of_their_ending(tmp_path):
    for index in range(10):
        png(tmp_path / f"{index}{('.jpg', '.JPEG', '.JPG')[index % 3]}", pixels(), quality=95)
    x = everything(own_images.open_images(tmp_path))
    files = [np.asarray(Image.open(path)) for path in tmp_path.iterdir()]
    assert as_set(x) == as_set(np.stack(files))


def test_sub_folders_are_labels_also_deeper_ones(tmp_path):
    labelled(tmp_path, cat=6, dog=5)
    folder_of(tmp_path / "dog" / "puppies", 4)
    dataset = own_images.open_images(tmp_path)
    _, y_train, _, y_test = dataset.images
    names, counts = np.unique(np.concatenate([y_train, y_test]), return_counts=True)
    assert dict(zip(names, counts, strict=True)) == {"cat": 6, "dog": 9}
    cats = as_set(np.stack([np.asarray(Image.open(p)) for p in (tmp_path / "cat").iterdir()]))
    for image, label in zip(dataset.images.x_train, y_train, strict=True):
        assert (image.tobytes() in cats) == (label == "cat")


def test_one_sub_folder_names_no_class(tmp_path):
    assert own_images.open_images(labelled(tmp_path, images=12)).images.y_train is None


def test_train_and_test_folders_are_the_division(tmp_path):
    labelled(tmp_path / "train", cat=6, dog=5)
    labelled(tmp_path / "test", cat=2, dog=1)
    dataset = own_images.open_images(tmp_path)
    assert dataset.split == "as given"
    assert (len(dataset.images.x_train), len(dataset.images.x_test)) == (11, 3)
    assert sorted(dataset.images.y_test) == ["cat", "cat", "dog"]
    files = [np.asarray(Image.open(path)) for path in (tmp_path / "test").rglob("*.png")]
    assert as_set(dataset.images.x_test) == as_set(np.stack(files))


@pytest.mark.parametrize("suffix", [".zip", ".tar"])
def test_an_archive_without_folders_has_the_names_of_its_files(tmp_path, suffix):
    source = folder_of(tmp_path / "photos")
    made = shutil.make_archive(os.fspath(tmp_path / "photos"), suffix[1:], source)
    packed, loose = own_images.open_images(made), own_images.open_images(source)
    assert packed.files == loose.files
    assert packed.identity["sha256"] == loose.identity["sha256"]


def test_hidden_files_are_passed_over_and_others_counted(tmp_path):
    folder_of(tmp_path)
    folder_of(tmp_path / ".thumbnails", 3)
    (tmp_path / ".hidden.png").write_text("no picture")
    (tmp_path / "notes.txt").write_text("mine")
    dataset = own_images.open_images(tmp_path)
    assert len(everything(dataset)) == 12
    assert dataset.notes == ("Files and folders passed over: 1 other and 2 hidden.",)


@pytest.fixture
def disk(tmp_path):
    """A folder with two label folders of ten images each, for links to point to."""
    return labelled(tmp_path / "disk", cat=10, dog=10)


def labels_of(dataset: datasets.DataSet) -> dict[str, int]:
    names = np.concatenate([dataset.images.y_train, dataset.images.y_test])
    return {name: int((names == name).sum()) for name in np.unique(names)}


def test_links_to_folders_are_folders(tmp_path, disk):
    root = tmp_path / "photos"
    folder_of(root / "cat", 5)
    (root / "cat" / "more").symlink_to(disk / "cat")
    (root / "dog").symlink_to(disk / "dog")
    assert labels_of(own_images.open_images(root)) == {"cat": 15, "dog": 10}
    (tmp_path / "link").symlink_to(root)
    assert labels_of(own_images.open_images(tmp_path / "link")) == {"cat": 15, "dog": 10}


def test_train_and_test_may_be_links(tmp_path, disk):
    root = tmp_path / "photos"
    root.mkdir()
    for part in ("train", "test"):
        (root / part).symlink_to(disk)
    dataset = own_images.open_images(root)
    assert (len(dataset.images.x_train), len(dataset.images.x_test)) == (20, 20)
    assert labels_of(dataset) == {"cat": 20, "dog": 20}


def test_a_linked_folder_beside_loose_images_is_refused(tmp_path, disk):
    root = folder_of(tmp_path / "photos")
    (root / "more").symlink_to(disk / "dog")
    with pytest.raises(checks.InputError, match=r"links to folders.*beside 10 images in sub-fold"):
        own_images.open_images(root)


def test_links_in_a_circle_end(tmp_path):
    one, two = folder_of(tmp_path / "one"), tmp_path / "two"
    two.mkdir()
    (one / "itself").symlink_to(one)
    (one / "nowhere").symlink_to(one / "nowhere")
    (one / "other").symlink_to(two)
    (two / "back").symlink_to(one)
    assert len(everything(own_images.open_images(one))) == 12


def test_names_in_any_script_are_taken(tmp_path):
    labelled(tmp_path, **{"猫": 6, "Straße $x$": 6})
    png(tmp_path / "猫" / "Screenshot at 1.23\u202fPM.png")
    labels = own_images.open_images(tmp_path).images.y_train
    assert set(labels) == {"猫", "Straße $x$"}


def test_the_order_of_files_on_disk_changes_nothing(tmp_path):
    images = [pixels() for _ in range(15)]
    for folder, order in (("a", range(15)), ("b", reversed(range(15)))):
        for index in order:
            png(tmp_path / folder / f"{index:02d}.png", images[index])
    a, b = (own_images.open_images(tmp_path / folder).images for folder in "ab")
    np.testing.assert_array_equal(a.x_train, b.x_train)
    np.testing.assert_array_equal(a.x_test, b.x_test)


# ------------------------------------------------------------------------------ kinds of files


def one_kind(root: Path, image: Image.Image, name: str = "x.png", **options) -> np.ndarray:
    """Reads a folder of ten copies of an image, and returns one of them as [H, W, C]."""
    for index in range(10):
        png(root / ("test" if index == 9 else "train") / f"{index}{name}", image, **options)
    x = everything(own_images.open_images(root))
    np.testing.assert_array_equal(x, np.broadcast_to(x[:1], x.shape))
    return x[0]


def test_sixteen_bits_become_eight(tmp_path):
    deep = np.array([[0, 128, 129], [257, 32896, 65535]], np.uint16)
    read = one_kind(tmp_path, Image.fromarray(deep))
    np.testing.assert_array_equal(read[..., 0], [[0, 0, 1], [1, 128, 255]])


def test_pixels_of_32_bits_are_refused(tmp_path):
    deep = Image.fromarray(np.full((4, 4), 60, np.int32))
    with pytest.raises(checks.InputError, match="32 bits, whose range no format states"):
        one_kind(tmp_path, deep, "x.tif")


def test_black_and_white_becomes_grey(tmp_path):
    bits = Image.fromarray(np.array([[0, 255], [255, 0]], np.uint8)).convert("1")
    np.testing.assert_array_equal(one_kind(tmp_path, bits)[..., 0], [[0, 255], [255, 0]])


def test_palettes_become_what_they_mean(tmp_path):
    image = Image.fromarray(np.array([[0, 1, 2]], np.uint8), mode="P")
    image.putpalette([255, 0, 0, 0, 255, 0, 7, 8, 9])
    expected = [[[255, 0, 0], [0, 255, 0], [7, 8, 9]]]
    np.testing.assert_array_equal(one_kind(tmp_path, image), expected)


def test_grey_stored_in_colour_is_grey(tmp_path):
    grey = pixels(channels=1)
    read = one_kind(tmp_path, Image.fromarray(grey).convert("RGB"))
    np.testing.assert_array_equal(read[..., 0], grey)
    assert read.shape == (5, 7, 1)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparency_is_put_on_white(tmp_path, mode):
    if mode == "P":
        image = Image.fromarray(np.array([[0, 1]], np.uint8), mode="P")
        image.putpalette([10, 20, 30, 10, 20, 30])
        options = {"transparency": 0}
    else:
        image = Image.new("RGBA", (2, 1), (10, 20, 30, 255))
        image.putpixel((0, 0), (10, 20, 30, 0))
        image, options = image.convert(mode), {}
    read = one_kind(tmp_path, image, **options)
    np.testing.assert_array_equal(read[0, 0], [255] * read.shape[-1])
    assert read[0, 1].max() <= 30
    assert (
        own_images.open_images(tmp_path).notes[0]
        == "Images with transparent pixels, which became white: 10."
    )


def test_half_transparent_pixels_mix_with_white(tmp_path):
    read = one_kind(tmp_path, Image.new("RGBA", (1, 1), (200, 0, 100, 51)))
    np.testing.assert_allclose(read[0, 0], [244, 204, 224], atol=1)


def test_a_transparent_grey_of_16_bits_becomes_white(tmp_path):
    image = Image.fromarray(np.array([[0, 257], [65535, 1000]], np.uint16))
    read = one_kind(tmp_path, image, transparency=1000)
    assert read[..., 0].tolist() == [[0, 1], [255, 255]]


@pytest.mark.parametrize("orientation", range(10))
@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif"])
def test_cameras_orientation_is_followed(tmp_path, orientation, suffix):
    x = np.zeros((16, 32), np.uint8)
    x[:8, :8] = 255  # bright in the top left corner
    exif = Image.Exif()
    exif[0x0112] = orientation
    read = one_kind(tmp_path, Image.fromarray(x), f"x{suffix}", exif=exif)[..., 0]
    assert read.shape == ((32, 16) if 5 <= orientation <= 8 else (16, 32))
    corners = {1: (0, 0), 2: (0, -1), 3: (-1, -1), 4: (-1, 0)}
    corners |= {5: (0, 0), 6: (0, -1), 7: (-1, -1), 8: (-1, 0)}
    assert read[corners.get(orientation, (0, 0))] > 200
    assert (read > 127).mean() == pytest.approx(1 / 8, abs=0.02)


def test_cmyk_becomes_colour(tmp_path):
    image = Image.new("CMYK", (8, 8), (0, 255, 255, 0))
    assert one_kind(tmp_path, image, "x.jpg", quality=95).shape == (8, 8, 3)


def test_grey_among_colour_is_read_as_colour_and_said(tmp_path):
    folder_of(tmp_path, 10)
    grey = pixels(channels=1)
    png(tmp_path / "grey.png", grey)
    dataset = own_images.open_images(tmp_path)
    assert dataset.images.x_train.shape[1:] == (5, 7, 3)
    assert np.repeat(grey[..., np.newaxis], 3, axis=-1).tobytes() in as_set(everything(dataset))
    assert dataset.notes == ("Grey images that were read as colour, like the others: 1.",)


# ------------------------------------------------------------------------------------- scaling


@pytest.mark.parametrize(("text", "size"), [("6", (6, 6)), ("4x9", (4, 9)), ("1", (1, 1))])
def test_images_of_any_size_are_scaled_to_one(tmp_path, text, size):
    for index in range(10):
        png(tmp_path / f"{index}.{('png', 'jpg')[index % 2]}", pixels(5 + index, 30 - index))
    dataset = own_images.open_images(tmp_path, text)
    assert everything(dataset).shape == (10, *size, 3)
    assert dataset.notes == (f"Scaled to {size[0]} x {size[1]} and cropped around the middle.",)


def test_scaling_keeps_proportions_and_crops_the_sides(tmp_path):
    x = np.zeros((20, 60, 3), np.uint8)
    x[:, 20:40] = (250, 120, 10)  # the middle square
    read = one_kind(tmp_path / "whole", Image.fromarray(x))
    assert read.shape == (20, 60, 3)
    scaled = everything(own_images.open_images(tmp_path / "whole", "10"))[0]
    assert scaled.shape == (10, 10, 3)
    inside = scaled[:, 2:-2]  # bicubic filtering mixes the outermost columns with what was cut
    np.testing.assert_array_equal(inside, np.broadcast_to([250, 120, 10], inside.shape))


def test_a_large_jpeg_is_scaled_as_its_pixels_are(tmp_path):
    ramp = np.linspace(0, 255, 1600).astype(np.uint8)
    image = Image.fromarray(np.broadcast_to(ramp, (1200, 1600)).copy())
    for kind, options in (("jpg", {"quality": 95}), ("png", {})):
        one_kind(tmp_path / kind, image, f"x.{kind}", **options)
    jpg, exact = (
        everything(own_images.open_images(tmp_path / kind, "12x16")) for kind in ("jpg", "png")
    )
    np.testing.assert_allclose(jpg.astype(int), exact, atol=3)


def test_images_that_have_the_size_are_left_alone(tmp_path):
    folder_of(tmp_path)
    whole, asked = own_images.open_images(tmp_path), own_images.open_images(tmp_path, "5x7")
    np.testing.assert_array_equal(whole.images.x_train, asked.images.x_train)
    assert asked.notes == ()


@pytest.mark.parametrize(
    "text",
    [
        "0",
        "-3",
        "0x5",
        "5x0",
        "",
        "x",
        "32x",
        "x32",
        "3.5",
        "4x4x3",
        "٣",
        "1e2",
        " 32",
        "32\n",
        "999999999999",
    ],
)
def test_sizes_that_cannot_be_are_refused(text):
    with pytest.raises(checks.InputError, match="image_size must be H or HxW") as error:
        own_images.parse_size(text)
    assert f"Received: {text!r}" in str(error.value)


# ------------------------------------------------------------------------------------- an .npz


def npz(path: Path, **arrays) -> Path:
    np.savez(path, **arrays)
    return path


@pytest.mark.parametrize("shape", [(20, 5, 4), (20, 5, 4, 1), (20, 5, 4, 3)])
def test_an_npz_is_read_as_it_is(tmp_path, shape):
    x = RNG.integers(0, 256, shape, dtype=np.uint8)
    path = tmp_path / "mine.npz"
    np.savez_compressed(path, x_train=x, y_train=np.arange(20) % 3)
    dataset = own_images.open_images(path)
    assert dataset.name == "mine"
    assert (len(dataset.images.x_train), len(dataset.images.x_test)) == (18, 2)
    x = x.reshape(20, 5, 4, -1)
    place = {image.tobytes(): index for index, image in enumerate(x)}
    for part in ("train", "test"):
        for image, label in zip(
            getattr(dataset.images, f"x_{part}"), getattr(dataset.images, f"y_{part}"), strict=True
        ):
            assert place[image.tobytes()] % 3 == label


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.int64, bool])
def test_numbers_of_other_kinds_become_bytes(tmp_path, dtype):
    x = RNG.integers(0, 256, (10, 3, 3), dtype=np.uint8)
    given = {"f": x / 255, "i": x, "b": x > 127}[np.dtype(dtype).kind].astype(dtype)
    dataset = own_images.open_images(npz(tmp_path / "x.npz", x_train=given))
    expected = np.where(x > 127, 255, 0).astype(np.uint8) if dtype is bool else x
    assert as_set(everything(dataset)) == as_set(expected)
    words = "rounded to 256 levels" in " ".join(dataset.notes)
    assert words == (np.dtype(dtype).kind != "i")


def test_a_given_test_set_stays_one(tmp_path):
    x = RNG.integers(0, 256, (12, 3, 3), dtype=np.uint8)
    names = np.array(["cat", "dog"] * 6)
    path = npz(tmp_path / "x.npz", x_train=x[:8], x_test=x[8:], y_train=names[:8], y_test=names[8:])
    dataset = own_images.open_images(path)
    assert dataset.split == "as given"
    assert as_set(dataset.images.x_test) == as_set(x[8:])
    assert sorted(dataset.images.y_test) == ["cat", "cat", "dog", "dog"]


def test_a_test_set_of_one_class_keeps_all_labels(tmp_path):
    x = RNG.integers(0, 256, (12, 3, 3), dtype=np.uint8)
    given = {"y_train": np.arange(8) % 2, "y_test": np.ones(4, np.int64)}
    images = own_images.open_images(npz(tmp_path / "x.npz", x_train=x[:8], x_test=x[8:], **given))
    assert sorted(images.images.y_train) == [0] * 4 + [1] * 4
    assert images.images.y_test.tolist() == [1] * 4


def test_an_npz_is_scaled_too(tmp_path):
    x = RNG.integers(0, 256, (10, 6, 8, 3), dtype=np.uint8)
    dataset = own_images.open_images(npz(tmp_path / "x.npz", x_train=x), "3x4")
    assert everything(dataset).shape == (10, 3, 4, 3)


# -------------------------------------------------------------------------------- the division


def test_the_division_is_drawn_and_always_the_same(tmp_path):
    x = np.arange(200, dtype=np.uint8).reshape(200, 1, 1)
    path = npz(tmp_path / "x.npz", x_train=x, y_train=np.repeat(np.arange(10), 20))
    first, second = own_images.open_images(path), own_images.open_images(path)
    assert first.split == "one in 10 for testing, drawn with seed 0"
    for ours, theirs in zip(first.images, second.images, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    train, test = first.images.x_train.ravel(), first.images.x_test.ravel()
    assert (len(train), len(test)) == (180, 20)
    np.testing.assert_array_equal(np.sort([*train, *test]), np.arange(200))
    # Files are often sorted by class. Test images and validation images must mix the classes.
    assert len(np.unique(first.images.y_test)) > 5
    assert len(np.unique(first.images.y_train[-18:])) > 5


def test_the_order_depends_only_on_the_count_and_is_uniform():
    first = [splits.shuffled(count)[0] for count in range(20, 400)]
    place = np.array(first) / np.arange(20, 400)
    order = splits.shuffled(1000)
    assert abs(np.corrcoef(order, np.arange(1000))[0, 1]) < 0.1
    assert sorted(order) == list(range(1000))
    assert 0 <= place.min() < place.max() < 1


def test_the_identity_follows_the_content(tmp_path):
    folder = labelled(tmp_path / "a", cat=6, dog=6)
    identity = own_images.open_images(folder).identity
    assert identity == own_images.open_images(folder).identity
    assert identity["split_seed"] == 0
    assert identity["image_shape"] == [5, 7, 3]
    assert (identity["train_images"], identity["test_images"]) == (11, 1)
    (folder / "notes.txt").write_text("changes nothing")
    assert own_images.open_images(folder).identity == identity
    assert own_images.open_images(folder, "4").identity["sha256"] != identity["sha256"]
    image = folder / "cat" / "000.png"
    content = np.asarray(Image.open(image)).copy()
    content[0, 0, 0] ^= 1
    png(image, content)
    assert own_images.open_images(folder).identity["sha256"] != identity["sha256"]


def test_a_moved_label_is_another_identity(tmp_path):
    folder = labelled(tmp_path / "a", cat=6, dog=6)
    before = own_images.open_images(folder).identity["sha256"]
    (folder / "dog").rename(folder / "wolf")
    assert own_images.open_images(folder).identity["sha256"] != before


@pytest.mark.parametrize(
    ("path", "name"),
    [("a/photos", "photos"), ("a/b.npz", "b"), ("mnist", "own-mnist"), ("/", "data")],
)
def test_a_data_set_is_called_after_its_file_or_folder(path, name):
    assert own_images.name(path) == name


# ------------------------------------------------------------------------------------ bad files


def chunk(kind: bytes, content: bytes) -> bytes:
    body = kind + content
    return struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))


def png_bomb(path: Path, side: int) -> None:
    """Writes a PNG of a few hundred bytes whose header claims side x side pixels."""
    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    content = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 1000))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + content + chunk(b"IEND", b""))


def in_folder(make):
    """Returns a builder of a folder with ten sound 40 x 40 images and what `make` adds."""

    def build(root: Path) -> Path:
        folder_of(root / "data", 10, height=40, width=40)
        make(root / "data")
        return root / "data"

    return build


def bare(make):
    """Returns a builder of a folder that holds only what `make` adds."""

    def build(root: Path) -> Path:
        (root / "data").mkdir()
        make(root / "data")
        return root / "data"

    return build


def changed(change):
    """Returns a builder of a folder with a PNG whose bytes `change` has damaged."""

    def make(folder: Path) -> None:
        path = png(folder / "bad.png", pixels(40, 40))
        path.write_bytes(change(path.read_bytes()))

    return in_folder(make)


def flipped(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 0x10]) + content[middle + 1 :]


def jpeg_cut(folder: Path) -> None:
    path = png(folder / "bad.jpg", pixels(40, 40))
    path.write_bytes(path.read_bytes()[:-200])


def icon_in_disguise(folder: Path) -> None:
    Image.fromarray(pixels(32, 32)).save(folder / "bad.ico")
    (folder / "bad.ico").rename(folder / "bad.png")


def too_long(folder: Path) -> None:
    with open(folder / "bad.png", "wb") as file:
        file.truncate(image_file.MAX_FILE_BYTES + 1)


def no_permission(folder: Path) -> None:
    if os.geteuid() == 0:
        (folder / "bad.png").symlink_to(folder / "nowhere.png")
    else:
        png(folder / "bad.png").chmod(0)


def of_size(*sizes):
    def make(folder: Path) -> None:
        for index in range(10):
            png(folder / f"{index}.png", pixels(*sizes[index % len(sizes)]))

    return bare(make)


def image(reason: str) -> str:
    """Returns the whole message about a bad image file."""
    return (
        "an image file must be a sound PNG, JPEG, WebP, GIF, BMP or TIFF. "
        f"Received: {{root}}/data/bad.png ({reason}). Repair or remove it, or pass --skip-damaged."
    )


def packed(reason: str) -> str:
    """Returns the whole message about a bad archive."""
    return (
        "an .npz must be a sound archive of arrays. "
        f"Received: {{root}}/data.npz ({reason}). Save it again with np.savez."
    )


BAD_FOLDERS = {
    "empty": (bare(lambda _: None), "must hold .png, .jpg, .jpeg, .webp"),
    "only texts": (
        bare(lambda f: (f / "a.txt").write_text("x")),
        "must hold .png, .jpg, .jpeg, .webp",
    ),
    "one image": (bare(lambda f: png(f / "a.png")), "at least 10 images. Received: 1."),
    "nine images": (bare(lambda f: folder_of(f, 9)), "at least 10 images. Received: 9."),
    "only hidden images": (bare(lambda f: folder_of(f / ".x")), "must hold .png, .jpg"),
    "truncated PNG": (changed(lambda content: content[:-30]), image("Truncated File Read")),
    "PNG cut in its header": (changed(lambda content: content[:20]), image("Truncated File Read")),
    "a flipped bit in a PNG": (changed(flipped), "must be a sound PNG, JPEG"),
    "empty file": (changed(lambda _: b""), image("its content is of another kind")),
    "truncated JPEG": (in_folder(jpeg_cut), "must be a sound PNG, JPEG"),
    "icon called PNG": (in_folder(icon_in_disguise), image("its content is of another kind")),
    "text called JPEG": (
        in_folder(lambda f: (f / "bad.jpg").write_text("hello")),
        "its content is of another kind",
    ),
    "program called PNG": (
        in_folder(lambda f: (f / "bad.png").write_bytes(b"#!/bin/sh\nrm -rf /\n")),
        "its content is of another kind",
    ),
    "PNG bomb": (
        in_folder(lambda f: png_bomb(f / "bad.png", 10**4)),
        image("10000 x 10000 pixels, more than 67,108,864"),
    ),
    "PNG bomb beyond Pillow's own limit": (
        in_folder(lambda f: png_bomb(f / "bad.png", 10**5)),
        image(
            "Image size (10000000000 pixels) exceeds limit of 178956970 pixels, could be "
            "decompression bomb DOS attack."
        ),
    ),
    "PNG without its pixels": (
        in_folder(lambda f: png_bomb(f / "000.png", 40)),
        "must be a sound PNG, JPEG",
    ),
    "file of 64 MB": (in_folder(too_long), "64 MB, more than 64"),
    "unreadable file": (in_folder(no_permission), "must be a sound PNG, JPEG"),
    "dangling link": (
        in_folder(lambda f: (f / "bad.png").symlink_to("nowhere")),
        "No such file or directory",
    ),
    "pipe": (in_folder(lambda f: os.mkfifo(f / "bad.png")), image("it is not a regular file")),
    "mixed sizes": (of_size((5, 7), (5, 8)), "all be of one size, or be scaled to one size"),
    "images beside labels": (
        in_folder(lambda f: folder_of(f / "cat")),
        "must lie either all in sub-folders or links to folders, whose names are the labels",
    ),
    "a label without images": (
        bare(lambda f: (labelled(f, cat=9, dog=9), (f / "owl").mkdir())),
        "every sub-folder is a label and must hold images",
    ),
    "a line break in a name": (
        in_folder(lambda f: png(f / "a\nb.png")),
        "must not hold control characters or undecodable bytes. Received: 'a\\nb.png'",
    ),
    "a label that is no text": (
        bare(lambda f: (labelled(f, cat=9), folder_of(f / os.fsdecode(b"d\xffg"), 9))),
        "control characters or undecodable bytes. Received: 'd\\udcffg/000.png'",
    ),
    "train without images": (
        bare(lambda f: (labelled(f, test=12), (f / "train").mkdir())),
        "every part of a division must hold images",
    ),
    "images beside train and test": (
        in_folder(lambda f: labelled(f, train=9, test=9)),
        "must hold all images in them",
    ),
    "a third part beside train and test": (
        bare(lambda f: labelled(f, train=9, test=9, extra=2)),
        "must hold all images in them",
    ),
}


def grey(count=12, height=4, width=4):
    return RNG.integers(0, 256, (count, height, width), dtype=np.uint8)


def arrays(**given):
    def build(root: Path) -> Path:
        return npz(root / "data.npz", **{name: make() for name, make in given.items()})

    return build


def members(*pairs, compression=zipfile.ZIP_STORED):
    """Returns a builder of an archive with the given names and contents."""

    def build(root: Path) -> Path:
        path = root / "data.npz"
        with zipfile.ZipFile(path, "w", compression) as archive:
            for name, content in pairs:
                archive.writestr(name, content)
        return path

    return build


def npy(x: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, x)
    return buffer.getvalue()


def header(shape, descr="|u1", version=b"\x01\x00") -> bytes:
    text = f"{{'descr': {descr!r}, 'fortran_order': False, 'shape': {shape!r}, }}\n".encode()
    return b"\x93NUMPY" + version + struct.pack("<H", len(text)) + text


def bytes_changed(change):
    def build(root: Path) -> Path:
        path = npz(root / "data.npz", x_train=grey(200))
        path.write_bytes(change(path.read_bytes()))
        return path

    return build


def twice(root: Path) -> Path:
    with pytest.warns(UserWarning, match="Duplicate name"):
        return members(("x_train.npy", npy(grey())), ("x_train.npy", npy(grey())))(root)


class Evil:
    """Creates a folder if it is ever unpickled."""

    def __reduce__(self):
        return os.mkdir, ("ran",)


BAD_ARCHIVES = {
    "a text": (bytes_changed(lambda _: b"hello"), packed("File is not a zip file")),
    "empty file": (bytes_changed(lambda _: b""), "must be a sound archive of arrays"),
    "truncated": (bytes_changed(lambda content: content[:-300]), packed("File is not a zip file")),
    "a flipped bit": (bytes_changed(flipped), packed("Bad CRC-32 for file 'x_train.npy'")),
    "no arrays": (members(), "must hold x_train"),
    "no x_train": (arrays(x_test=grey), "must hold x_train. Received"),
    "another name": (arrays(x_train=grey, x_val=grey), "Received: 'x_val.npy'"),
    "a path upwards": (
        members(("x_train.npy", npy(grey())), ("../../evil.npy", npy(grey()))),
        "an .npz of images may hold x_train, x_test, y_train and y_test. "
        "Received: '../../evil.npy' in {root}/data.npz. Save it without other arrays.",
    ),
    "an absolute path": (members(("/etc/passwd", b"root")), "Received: '/etc/passwd'"),
    "a name twice": (twice, packed("it holds a name twice")),
    "Python objects": (
        arrays(x_train=lambda: np.array([Evil()] * 12)),
        "arrays must hold numbers or texts. Python objects are never read. Received: x_train.npy "
        "of dtype object in {root}/data.npz. Stack images of one size into uint8.",
    ),
    "ragged images": (
        arrays(x_train=lambda: np.array([np.zeros((2, 2)), np.zeros((3, 3))] * 6, object)),
        "Python objects are never read",
    ),
    "a pickle for an array": (
        members(("x_train.npy", b"\x80\x04cos\nsystem\n.")),
        packed("the magic string is not correct; expected b'\\x93NUMPY', got b'\\x80\\x04cos\\n'"),
    ),
    "a header that promises more": (
        members(("x_train.npy", header((10**9, 10**3, 10**3)) + b"\0" * 100)),
        packed("the length of x_train.npy does not fit its shape (1000000000, 1000, 1000)"),
    ),
    "a negative shape": (
        members(("x_train.npy", header((-12, -4, 4)) + b"\0" * 192)),
        "the length of x_train.npy does not fit its shape",
    ),
    "a header that is code": (
        members(("x_train.npy", header("__import__('os').mkdir('ran')"))),
        packed("shape is not valid: \"__import__('os').mkdir('ran')\""),
    ),
    "an unknown version": (
        members(("x_train.npy", header((12, 4, 4), version=b"\x09\x00"))),
        "must be a sound archive of arrays",
    ),
    "another packing": (
        members(("x_train.npy", npy(grey())), compression=zipfile.ZIP_LZMA),
        packed("its compression is not one that NumPy uses"),
    ),
    "floats up to 255": (
        arrays(x_train=lambda: grey().astype(np.float32)),
        "with float pixels must lie in [0, 1]",
    ),
    "NaN": (arrays(x_train=lambda: np.full((12, 4, 4), np.nan)), "must be finite"),
    "integers beyond a byte": (
        arrays(x_train=lambda: np.full((12, 4, 4), 256)),
        "with integer pixels must lie in 0..255",
    ),
    "texts": (arrays(x_train=lambda: np.full((12, 4, 4), "a")), "must hold numbers"),
    "complex numbers": (arrays(x_train=lambda: np.ones((12, 4, 4), complex)), "hold numbers"),
    "one image without its axis": (arrays(x_train=lambda: grey()[0]), "must have shape [N, H, W]"),
    "five axes": (arrays(x_train=lambda: grey()[None, ..., None]), "must have shape [N, H, W]"),
    "four channels": (arrays(x_train=lambda: np.ones((12, 4, 4, 4), np.uint8)), "1 or 3 channels"),
    "no images": (arrays(x_train=lambda: grey(0)), "must hold at least one image"),
    "images without pixels": (arrays(x_train=lambda: grey(12, 0)), "at least one image"),
    "too few images": (arrays(x_train=lambda: grey(9)), "at least 10 images. Received: 9."),
    "an empty test set": (
        arrays(x_train=grey, x_test=lambda: grey(0)),
        "x_test of",
    ),
    "shapes that differ": (
        arrays(x_train=grey, x_test=lambda: grey(4, 4, 5)),
        "must hold images of one shape. Received: (4, 4, 1) and (4, 5, 1)",
    ),
    "a label too few": (
        arrays(x_train=grey, y_train=lambda: np.arange(11)),
        "must hold one label for each image. Received: 11 labels for 12 images",
    ),
    "labels as floats": (
        arrays(x_train=grey, y_train=lambda: np.ones(12)),
        "y_train must hold a whole number or a short text for each image",
    ),
    "labels one-hot": (
        arrays(x_train=grey, y_train=lambda: np.eye(12, dtype=int)),
        "y_train must hold a whole number or a short text for each image",
    ),
    "labels as long texts": (
        arrays(x_train=grey, y_train=lambda: np.full(12, "a", "U2000")),
        "y_train must hold a whole number or a short text for each image",
    ),
    "labels as objects": (
        arrays(x_train=grey, y_train=lambda: np.array([Evil()] * 12)),
        "Python objects are never read",
    ),
    "a line break in a label": (
        arrays(x_train=grey, y_train=lambda: np.array(["a", "b\n"] * 6)),
        "control characters or undecodable bytes. Received: 'b\\n'",
    ),
    "test labels without images": (
        arrays(x_train=grey, y_test=lambda: np.arange(12)),
        "y_test must come with x_test",
    ),
    "a folder's name": (lambda root: root / "nowhere", "data must be one of: mnist, fashion_mnist"),
    "an image alone": (
        lambda root: png(root / "a.png"),
        "or the path of a folder of images or of a file: .npz, .npy",
    ),
}


@pytest.mark.parametrize(
    ("build", "sentence"),
    [*BAD_FOLDERS.values(), *BAD_ARCHIVES.values()],
    ids=[*(f"folder, {name}" for name in BAD_FOLDERS), *(f"npz, {name}" for name in BAD_ARCHIVES)],
)
def test_bad_data_gets_one_sentence(build, sentence, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(checks.InputError) as error:
        own_images.open_images(build(tmp_path))
    message = str(error.value)
    if "{root}" in sentence:  # the whole message
        assert message == sentence.replace("{root}", str(tmp_path))
    assert "{root}" in sentence or sentence in message
    assert "Received: " in message
    assert len(message.splitlines()) == 1
    assert message.endswith(".")
    assert not (tmp_path / "ran").exists(), "nothing of a file may run"


def test_an_unlistable_folder_is_refused(tmp_path, monkeypatch):
    folder_of(tmp_path)

    def refuse(_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(own_images.os, "scandir", refuse)
    with pytest.raises(checks.InputError, match="data must be readable") as error:
        own_images.open_images(tmp_path)
    assert "Permission denied" in str(error.value)


def test_a_bomb_asks_for_its_space_before_it_is_unpacked(tmp_path, monkeypatch):
    path = tmp_path / "bomb.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x_train.npy", header((2**10, 2**10, 2**5)) + bytes(2**25))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(own_images, "IN_MEMORY", 0)
    monkeypatch.setattr(cache.shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(9, 8, 2**25))
    with pytest.raises(checks.InputError, match="may take half of the free disk") as error:
        own_images.open_images(path)
    assert "33,554,432 bytes of 33,554,432 that are free" in str(error.value)
    assert [file.name for file in (tmp_path / "cache").rglob("*") if file.is_file()] == ["lock"]
