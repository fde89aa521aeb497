"""Reading of a user's own images from a folder of PNG and JPEG files, or from an .npz file.

Sizes are compared with this module's limits before anything is decoded or unpacked.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import math
import os
import re
import unicodedata
import warnings
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np
from PIL import ExifTags, Image, ImageOps

from vae_keras import noise
from vae_keras.data.datasets import KNOWN, DataSet, Images
from vae_keras.utils import checks

SPLIT_SEED = 0
TEST_SHARE = 10
"""One image in `TEST_SHARE` is for testing if the data come without a division."""

MIN_IMAGES = 10
MAX_VALUES = 2**16
"""Largest number of values in an image, H x W x C. The networks' sizes grow with it."""

MAX_BYTES = 2**30
"""Largest size of all pixels together, at a byte each."""

MAX_FILE_BYTES = 2**26
MAX_FILE_PIXELS = 2**26  # a camera's 50 megapixels are accepted
SUFFIXES = (".png", ".jpg", ".jpeg")

_MEMBERS = ("x_train.npy", "y_train.npy", "x_test.npy", "y_test.npy")
_ZIP_KINDS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_GREY_MODES = ("1", "L", "LA", "I", "I;16", "I;16B", "I;16L")


class _Found(NamedTuple):
    """What a folder or file holds, before it is divided; `x_test` is None without a division."""

    x: np.ndarray
    y: np.ndarray | None
    x_test: np.ndarray | None
    y_test: np.ndarray | None
    notes: list[str]


def load(path: str | os.PathLike[str], image_size: str | None = None) -> DataSet:
    """Reads images and labels, and divides them into training and test images.

    In a folder, the names of the sub-folders are the labels, and sub-folders `train` and `test`
    divide the images. Links to files and folders are followed. If any image has colours, all
    images become colour images, otherwise all become grey. Transparent pixels become white.

    An .npz file holds `x_train` [N, H, W] or [N, H, W, C], C = 1 or 3, as uint8 or as floats in
    [0, 1], which are rounded to 256 levels. It may also hold `x_test`, `y_train` and `y_test`.

    If the data come without a division, one image in ten is for testing. The division and the
    order of the images are random with the seed `SPLIT_SEED`: the same files always give the same
    images in the same order.

    Args:
        path: the folder or the .npz file.
        image_size: "H" or "HxW" in pixels. Images of other sizes are scaled and cropped around the
            middle, with their proportions kept. Default None, for images that all have one size.

    Returns:
        A `DataSet` with uint8 images.

    Raises:
        checks.InputError: for any other path, for a file that cannot be decoded, and for data
            beyond a limit of this module.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     np.savez(f"{folder}/dots.npz", x_train=np.zeros((20, 8, 8), np.uint8))
        ...     dataset = load(f"{folder}/dots.npz")
        >>> dataset.name, dataset.images.x_train.shape, dataset.images.x_test.shape
        ('dots', (18, 8, 8, 1), (2, 8, 8, 1))
    """
    path = checks.path("data", path)
    _check_name(name(path))
    size = None if image_size is None else parse_size(image_size)
    try:
        if path.is_dir():
            found = _read_folder(path, size)
        elif path.suffix == ".npz" and path.is_file():
            found = _read_npz(path, size)
        else:
            raise checks.InputError(
                "data must be one of: mnist, fashion_mnist, or the path of an .npz file or of a "
                f"folder of images. Received: {os.fspath(path)!r}. Pass a path that exists."
            )
    except OSError as error:
        raise checks.InputError(
            f"data must be readable. Received: {path} ({error.strerror or error}). "
            "Check its permissions."
        ) from error
    images, split = _divide(found)
    identity = {
        "sha256": fingerprint(images),
        "image_shape": list(images.x_train.shape[1:]),
        "train_images": len(images.x_train),
        "test_images": len(images.x_test),
        "split": split,
        "split_seed": SPLIT_SEED,
    }
    return DataSet(name(path), images, split, notes=tuple(found.notes), identity=identity)


def name(path: str | os.PathLike[str]) -> str:
    """Returns the name of the data set at a path: the file's or the folder's name.

    Args:
        path: the folder or the .npz file, which need not exist.

    Returns:
        The name, with "own-" in front if it is a name in `datasets.KNOWN`.

    Example:
        >>> name("data/photos"), name("data/mnist.npz")
        ('photos', 'own-mnist')
    """
    whole = checks.path("data", path).resolve()
    own = (whole.stem if whole.suffix == ".npz" else whole.name) or "data"
    return f"own-{own}" if own in KNOWN else own


def _check_name(text: str) -> None:
    """Refuses a name with characters that break a line or cannot be encoded."""
    if any(unicodedata.category(letter) in ("Cc", "Cs") for letter in text):
        raise checks.InputError(
            "names of files and labels must not hold control characters or undecodable bytes. "
            f"Received: {text!a}. Rename it."
        )


def parse_size(text: str) -> tuple[int, int]:
    """Parses "H" or "HxW" to (H, W) in pixels.

    Raises:
        checks.InputError: for any other text, a side of 0, or more than `MAX_VALUES` pixels.

    Example:
        >>> parse_size("24x40"), parse_size("32")
        ((24, 40), (32, 32))
    """
    match = re.fullmatch(r"([0-9]{1,6})(?:x([0-9]{1,6}))?", str(text))
    height, width = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
    if not 1 <= height * width <= MAX_VALUES:
        raise checks.InputError(
            f"image_size must be H or HxW, with 1 to {MAX_VALUES:,} pixels in total. "
            f"Received: {text!r}. Pass 32 or 24x40, for instance."
        )
    return height, width


def fingerprint(images: Images) -> str:
    """Returns the SHA-256 of all pixels and labels with their shapes, as 64 hexadecimal digits.

    Example:
        >>> x = np.zeros((2, 4, 4, 1), np.uint8)
        >>> fingerprint(Images(x, None, x, None)) == fingerprint(Images(x + 1, None, x, None))
        False
    """
    digest = hashlib.sha256()
    for part, x in images._asdict().items():
        if x is not None:
            digest.update(f"{part} {x.shape}\n".encode())
            pixels = part.startswith("x")
            digest.update(x.data if pixels else "\n".join(map(str, x)).encode())
    return digest.hexdigest()


# --------------------------------------------------------------------------------- the division


def _divide(found: _Found) -> tuple[Images, str]:
    """Shuffles the images, and sets a tenth aside for testing if there is no test set."""
    x, y, x_test, y_test, _ = found
    count = len(x) + (0 if x_test is None else len(x_test))
    if count < MIN_IMAGES:
        raise checks.InputError(
            f"a data set must hold at least {MIN_IMAGES} images. Received: {count}. Add images."
        )
    train = _shuffled(len(x))
    if x_test is not None:
        test, split = _shuffled(len(x_test)), "as given"
    else:
        test, train = np.split(train, [len(x) // TEST_SHARE])
        x_test, y_test = x, y
        split = f"one in {TEST_SHARE} for testing, drawn with seed {SPLIT_SEED}"
    images = Images(
        x_train=np.take(x, train, axis=0),
        y_train=None if y is None else y[train],
        x_test=np.take(x_test, test, axis=0),
        y_test=None if y_test is None else y_test[test],
    )
    return images, split


def _shuffled(count: int) -> np.ndarray:
    """Returns a permutation of range(count), from sorting random bits of each row."""
    bits = noise.bits16(SPLIT_SEED, noise.Stream.SPLIT, rows=count, size=4).numpy()
    return np.lexsort(bits.T)


def _check_size(count: int, height: int, width: int, channels: int) -> None:
    """Refuses images that exceed a limit, before they are decoded."""
    if height * width * channels > MAX_VALUES:
        raise checks.InputError(
            f"an image must hold at most {MAX_VALUES:,} numbers, H x W x channels. "
            f"Received: {height} x {width} x {channels}. Pass --image-size 64, for instance."
        )
    total = count * height * width * channels
    if total > MAX_BYTES:
        raise checks.InputError(
            f"the pixels of all images must fit into {MAX_BYTES / 2**20:,.0f} MB. "
            f"Received: {count:,} images of {height} x {width} x {channels}, "
            f"{total / 2**20:,.0f} MB. Pass a smaller --image-size, or use fewer images."
        )


# ----------------------------------------------------------------------------------- a folder


class _Header(NamedTuple):
    """What the header of an image file says."""

    height: int
    width: int
    colour: bool
    transparent: bool


def _read_folder(root: Path, size: tuple[int, int] | None) -> _Found:
    files, skipped = _list(root)
    divided = (root / "train").is_dir() and (root / "test").is_dir()
    if divided:
        parts = [[path for path in files if path.parts[0] == part] for part in ("train", "test")]
        roots = [root / "train", root / "test"]
        if sum(map(len, parts)) < len(files):
            other = next(path for path in files if path.parts[0] not in ("train", "test"))
            raise checks.InputError(
                "a folder with train and test sub-folders must hold all images in them. "
                f"Received: {root / other}. Move it into one of the two."
            )
    else:
        parts, roots = [files], [root]
    labels = [_labels(root, part, top) for part, top in zip(parts, roots, strict=True)]
    x, notes = _decode_all(root, [path for part in parts for path in part], size)
    if skipped:
        notes.append(f"{skipped:,} other files skipped.")
    if not divided:
        return _Found(x, labels[0], None, None, notes)
    kept = len(parts[0])
    return _Found(x[:kept], labels[0], x[kept:], labels[1], notes)


def _list(root: Path) -> tuple[list[Path], int]:
    """Returns the sorted image files below a folder, relative to it, and the number of others."""
    found, others = [], 0
    folders: list[tuple[Path, frozenset[Path]]] = [(root, frozenset())]
    while folders:
        folder, above = folders.pop()
        real = folder.resolve()
        if real in above:  # a link to a folder that contains it
            continue
        with os.scandir(folder) as entries:
            names = [entry.name for entry in entries if not entry.name.startswith(".")]
        for path in map(folder.joinpath, names):
            if path.is_dir():
                folders.append((path, above | {real}))
            elif path.name.lower().endswith(SUFFIXES):
                found.append(path.relative_to(root))
                _check_name(found[-1].as_posix())
            else:
                others += 1
    return sorted(found, key=lambda path: path.as_posix()), others


def _labels(root: Path, files: list[Path], top: Path) -> np.ndarray | None:
    """Returns the sub-folder of `top` that each file lies in, or None if there is at most one."""
    if not files:
        raise checks.InputError(
            f"a folder of images must hold {', '.join(SUFFIXES)} files. "
            f"Received: {top} without any. Pass another folder."
        )
    below = [(root / path).relative_to(top).parts for path in files]
    outside = [path for path, parts in zip(files, below, strict=True) if len(parts) == 1]
    if len(outside) == len(files):
        return None
    if outside:
        raise checks.InputError(
            "images must lie either all in sub-folders or links to folders, whose names are the "
            f"labels, or all outside of them. Received: {root / outside[0]} beside "
            f"{len(files) - len(outside)} images in sub-folders of {top}. Move it."
        )
    labels = [parts[0] for parts in below]
    for folder in sorted(path for path in top.iterdir() if path.is_dir()):
        if not folder.name.startswith(".") and folder.name not in labels:
            raise checks.InputError(
                "every sub-folder is a label and must hold images. "
                f"Received: {folder} without any. Remove it, or add images."
            )
    return np.array(labels) if len(set(labels)) > 1 else None


def _decode_all(
    root: Path, files: list[Path], size: tuple[int, int] | None
) -> tuple[np.ndarray, list[str]]:
    """Decodes the files to uint8 [N, H, W, C], after a check of all headers."""
    first = _header(root / files[0])
    height, width = size or (first.height, first.width)
    _check_size(len(files), height, width, 1)  # fails before thousands of headers are read
    headers = [_header(root / path) for path in files]
    for path, header in zip(files, headers, strict=True):
        if size is None and (header.height, header.width) != (height, width):
            raise checks.InputError(
                "images must all be of one size, or be scaled to one size. "
                f"Received: {files[0]} of {height} x {width} and {path} of {header.height} x "
                f"{header.width}. Pass --image-size, such as --image-size 64."
            )
    colour = any(header.colour for header in headers)
    _check_size(len(files), height, width, 3 if colour else 1)
    x = np.empty((len(files), height, width, 3 if colour else 1), np.uint8)

    def decode(path: Path) -> np.ndarray:
        return _decode(root / path, (height, width), colour)

    with ThreadPoolExecutor(max_workers=min(4, os.cpu_count() or 1)) as pool:
        for index, pixels in enumerate(pool.map(decode, files)):
            x[index] = pixels
    notes = []
    if size is not None and any((h.height, h.width) != size for h in headers):
        notes.append(f"Scaled to {height} x {width} and cropped around the middle.")
    if transparent := sum(header.transparent for header in headers):
        notes.append(f"Images with transparent pixels, which became white: {transparent:,}.")
    if colour and (x == x[..., :1]).all():
        x = np.ascontiguousarray(x[..., :1])
        notes.append("All images are stored in colour but are grey, so they were read as grey.")
    elif colour and (grey := sum(not header.colour for header in headers)):
        notes.append(f"Grey images that were read as colour, like the others: {grey:,}.")
    return x, notes


@contextlib.contextmanager
def _decoding(path: Path) -> Iterator[None]:
    """Turns the errors of Pillow into an InputError."""
    try:
        yield
    except checks.InputError:
        raise
    except Image.UnidentifiedImageError:
        raise _unsound(path, "its content is neither PNG nor JPEG") from None
    except Exception as error:  # Pillow raises many kinds of errors
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise _unsound(path, reason.splitlines()[0]) from error


def _unsound(path: Path, reason: str) -> checks.InputError:
    return checks.InputError(
        f"an image file must be a sound PNG or JPEG. Received: {path} ({reason}). "
        "Repair or remove it."
    )


def _open(source: Path | IO[bytes]) -> Image.Image:
    return Image.open(source, formats=("PNG", "JPEG"))


def _header(path: Path) -> _Header:
    with _decoding(path), warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # our limit is lower
        length = path.stat().st_size
        if not path.is_file():
            raise _unsound(path, "it is not a regular file")
        if length > MAX_FILE_BYTES:
            raise _unsound(path, f"{length / 2**20:,.0f} MB, more than {MAX_FILE_BYTES >> 20}")
        with _open(path) as image:
            width, height = image.size
            if width * height > MAX_FILE_PIXELS:
                raise _unsound(path, f"{width} x {height} pixels, more than {MAX_FILE_PIXELS:,}")
            if _orientation(image) >= 5:  # stored on its side
                width, height = height, width
            return _Header(
                height,
                width,
                colour=image.mode not in _GREY_MODES,
                transparent=image.has_transparency_data,
            )


def _orientation(image: Image.Image) -> int:
    """Returns the orientation in EXIF, from 1 (upright) to 8, or 1 if EXIF cannot be read."""
    # getexif would decode the whole PNG to look for EXIF data behind the pixels.
    if image.format == "PNG" and "exif" not in image.info:
        return 1
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # Pillow raises many kinds of errors, and the pixels may be sound
        return 1


def _decode(path: Path, size: tuple[int, int], colour: bool) -> np.ndarray:
    """Decodes a file to uint8 [H, W, 3] or [H, W, 1], upright and with the requested size."""
    with _decoding(path):
        content = path.read_bytes()
        with _open(io.BytesIO(content)) as image:
            image.verify()  # compares a PNG's checksums, after which the image must be opened again
        with _open(io.BytesIO(content)) as image:
            # Decodes a JPEG at a fraction of its size that is still twice the requested one.
            image.draft(None, (2 * max(size), 2 * max(size)))
            if _orientation(image) > 1:
                image = ImageOps.exif_transpose(image)
            pixels = _fit(_plain(image), size)
        pixels = pixels.convert("RGB" if colour else "L")
        return np.asarray(pixels).reshape(*size, 3 if colour else 1)


def _plain(image: Image.Image) -> Image.Image:
    """Converts to mode L or RGB: 8 bits, without a palette or transparency."""
    if image.mode.startswith("I"):  # 16 bits a pixel; Pillow's convert would clip them at 255
        deep = np.asarray(image).astype(np.uint32)
        return Image.fromarray(((deep * 255 + 32767) // 65535).astype(np.uint8))
    grey = image.mode in _GREY_MODES
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer)
    return image.convert("L" if grey else "RGB")


def _fit(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Scales and crops around the middle to (H, W)."""
    height, width = size
    return image if image.size == (width, height) else ImageOps.fit(image, (width, height))


# ------------------------------------------------------------------------------------ an .npz


def _read_npz(path: Path, size: tuple[int, int] | None) -> _Found:
    arrays = _read_arrays(path)
    if "x_train" not in arrays:
        raise checks.InputError(
            f"an .npz of images must hold x_train. Received: {path} with "
            f"{', '.join(arrays) or 'no array'}. Save it as np.savez(path, x_train=images)."
        )
    if "y_test" in arrays and "x_test" not in arrays:
        raise checks.InputError(
            f"y_test must come with x_test. Received: {path} without x_test. Add it, or remove "
            "y_test."
        )
    notes, parts = [], {}
    for part in ("x_train", "x_test"):
        if part in arrays:
            x = checks.images(arrays[part], f"{part} of {path}")
            if x.dtype != np.uint8:
                x = np.rint(x * 255.0).astype(np.uint8)
                notes.append(f"{part}: {arrays[part].dtype} pixels were rounded to 256 levels.")
            parts[part] = x
    count = sum(map(len, parts.values()))
    height, width, channels = parts["x_train"].shape[1:]
    height, width = size or (height, width)
    _check_size(count, height, width, channels)
    if size is not None:
        parts = {part: _fit_array(x, size) for part, x in parts.items()}
    x, x_test = parts["x_train"], parts.get("x_test")
    if x_test is not None and x.shape[1:] != x_test.shape[1:]:
        raise checks.InputError(
            f"x_train and x_test must hold images of one shape. Received: {x.shape[1:]} and "
            f"{x_test.shape[1:]} in {path}. Resize one of them."
        )
    y = _npz_labels(path, arrays, "y_train", len(x))
    y_test = None if x_test is None else _npz_labels(path, arrays, "y_test", len(x_test))
    return _Found(x, y, x_test, y_test, notes)


def _fit_array(x: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    images = (Image.fromarray(image.squeeze(-1) if x.shape[-1] == 1 else image) for image in x)
    fitted = np.stack([np.asarray(_fit(image, size)) for image in images])
    return fitted.reshape(len(x), *size, x.shape[-1])


def _npz_labels(
    path: Path, arrays: dict[str, np.ndarray], part: str, num_images: int
) -> np.ndarray | None:
    """Returns the labels of a part, or None if it has none or only one class."""
    if part not in arrays:
        return None
    y = arrays[part]
    if y.ndim == 2 and y.shape[1] == 1:
        y = y[:, 0]
    if y.dtype.kind not in "biuU" or y.ndim != 1:
        raise checks.InputError(
            f"{part} must hold a whole number or a text for each image, with shape [N]. "
            f"Received: dtype {y.dtype}, shape {y.shape} in {path}. Convert it, or leave it out."
        )
    if len(y) != num_images:
        raise checks.InputError(
            f"{part} must hold one label for each image. Received: {len(y)} labels for "
            f"{num_images} images in {path}. Save as many labels as images."
        )
    classes = np.unique(y)
    for label in classes:
        _check_name(str(label))
    return y if len(classes) > 1 else None


def _read_arrays(path: Path) -> dict[str, np.ndarray]:
    """Reads the arrays of an archive, after a comparison of their sizes with the limit."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            names = [member.filename for member in members]
            if unknown := [name for name in names if name not in _MEMBERS]:
                raise checks.InputError(
                    "an .npz of images may hold x_train, x_test, y_train and y_test. "
                    f"Received: {unknown[0]!r} in {path}. Save it without other arrays."
                )
            if len(set(names)) < len(names):
                raise ValueError("it holds a name twice")
            if any(member.compress_type not in _ZIP_KINDS for member in members):
                raise ValueError("its compression is not one that NumPy uses")
            declared = sum(member.file_size for member in members)
            if declared > MAX_BYTES:
                raise checks.InputError(
                    f"an .npz must unpack to at most {MAX_BYTES / 2**20:,.0f} MB. "
                    f"Received: {path}, which unpacks to {declared / 2**20:,.0f} MB. "
                    "Store uint8, smaller images, or fewer images."
                )
            return {member.filename[:-4]: _read_array(archive, member, path) for member in members}
    except checks.InputError:
        raise
    except Exception as error:  # zipfile, zlib and NumPy raise many kinds of errors
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise checks.InputError(
            f"an .npz must be a sound archive of arrays. Received: {path} ({reason}). "
            "Save it again with np.savez."
        ) from error


def _read_array(archive: zipfile.ZipFile, member: zipfile.ZipInfo, path: Path) -> np.ndarray:
    with archive.open(member) as file:
        version = np.lib.format.read_magic(file)
        if version not in ((1, 0), (2, 0)):
            raise ValueError(f"{member.filename} has an unknown version")
        read = getattr(np.lib.format, f"read_array_header_{version[0]}_0")
        shape, _, dtype = read(file)
        if dtype.hasobject:
            raise checks.InputError(
                "arrays must hold numbers or texts. Python objects are never read. "
                f"Received: {member.filename} of dtype {dtype} in {path}. "
                "Stack images of one size into uint8."
            )
        # Checked before an array of that shape is allocated. zipfile reads no more than the size
        # that it declares.
        if min(shape, default=1) < 0 or file.tell() + math.prod(shape) * dtype.itemsize != (
            member.file_size
        ):
            raise ValueError(f"the length of {member.filename} does not fit its shape {shape}")
    with archive.open(member) as file:
        return np.lib.format.read_array(file, allow_pickle=False)
