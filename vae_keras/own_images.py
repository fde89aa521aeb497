"""A user's own images: an .npz file, or a folder of PNG and JPEG files, checked before decoding."""

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
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
from PIL import ExifTags, Image, ImageOps

from vae_keras import checks, noise
from vae_keras.datasets import KNOWN, DataSet, Images

SPLIT_SEED = 0
TEST_SHARE = 10  # one image in so many
MIN_IMAGES = 10
MAX_VALUES = 2**16  # numbers an image: the networks are sized by them
MAX_BYTES = 2**30  # of all pixels, at a byte each
MAX_FILE_BYTES = 2**26
MAX_FILE_PIXELS = 2**26  # a camera's 50 megapixels pass
SUFFIXES = (".png", ".jpg", ".jpeg")

_MEMBERS = ("x_train.npy", "y_train.npy", "x_test.npy", "y_test.npy")
_ZIP_KINDS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_GREY_MODES = ("1", "L", "LA", "I", "I;16", "I;16B", "I;16L")


def load(path: str | os.PathLike[str], image_size: str | None = None) -> DataSet:
    """Reads images and labels from a file or folder, and divides them where it does not.

    An .npz holds `x_train` [N, H, W] or [N, H, W, C], C = 1 or 3, uint8 or floats in [0, 1]
    (stored in 256 levels), and may hold `x_test`, `y_train` and `y_test`. In a folder,
    sub-folders are labels; `train` and `test` sub-folders divide it. All images of a folder
    become grey when no one has colours, else colour; transparency is put on white. Without a
    division, one image in ten is for testing. The division and the order of the images are drawn
    with `SPLIT_SEED`: the same files give the same images in the same places.

    Args:
        path: the .npz file or the folder.
        image_size: "H" or "HxW" to scale the images to, cropped to its proportions around the
            middle. Default: as they are, all of one size.

    Returns:
        A `DataSet` with uint8 images.

    Raises:
        checks.InputError: for anything that is not such a file or folder, does not decode, or
            breaks a limit of this module. Sizes are compared with the limits before decoding.
    """
    path = checks.path("data", path)
    _check_name(name(path))
    size = None if image_size is None else parse_size(image_size)
    try:
        if path.is_dir():
            images, notes = _read_folder(path, size)
        elif path.suffix == ".npz" and path.is_file():
            images, notes = _read_npz(path, size)
        else:
            raise checks.InputError(
                "data must be one of: mnist, fashion_mnist, or the path of an .npz file or of a "
                f"folder of images. Received: {os.fspath(path)!r}. Name one that exists."
            )
    except OSError as error:
        raise checks.InputError(
            f"data must be readable. Received: {path} ({error.strerror or error}). "
            "Check its permissions."
        ) from error
    images, split = _divide(images)
    identity = {
        "sha256": fingerprint(images),
        "image_shape": list(images.x_train.shape[1:]),
        "train_images": len(images.x_train),
        "test_images": len(images.x_test),
        "split": split,
        "split_seed": SPLIT_SEED,
    }
    return DataSet(name(path), images, split, notes=tuple(notes), identity=identity)


def name(path: str | os.PathLike[str]) -> str:
    """Returns what a data set at `path` is called: the file's or the folder's own name.

    A name that `datasets.KNOWN` has taken gets "own-" in front.
    """
    whole = checks.path("data", path).resolve()
    own = (whole.stem if whole.suffix == ".npz" else whole.name) or "data"
    return f"own-{own}" if own in KNOWN else own


def _check_name(text: str) -> None:
    """Refuses a name that could not be written to a page or printed in a line."""
    if any(unicodedata.category(letter) in ("Cc", "Cs") for letter in text):
        raise checks.InputError(
            "names of files and labels must be of letters, without control characters. "
            f"Received: {text!a}. Rename it."
        )


def parse_size(text: str) -> tuple[int, int]:
    """Reads "H" or "HxW" as (H, W), in pixels.

    Raises:
        checks.InputError: for another text, a side of 0, or more than `MAX_VALUES` pixels.
    """
    match = re.fullmatch(r"([0-9]{1,6})(?:x([0-9]{1,6}))?", str(text))
    height, width = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
    if not 1 <= height * width <= MAX_VALUES:
        raise checks.InputError(
            f"image_size must be H or HxW, 1 to {MAX_VALUES:,} pixels in all. "
            f"Received: {text!r}. Pass 32 or 24x40, for instance."
        )
    return height, width


def fingerprint(images: Images) -> str:
    """Returns the SHA-256 of all pixels and labels, with their shapes, as 64 hexadecimal digits."""
    digest = hashlib.sha256()
    for part, x in images._asdict().items():
        if x is not None:
            digest.update(f"{part} {x.shape}\n".encode())
            pixels = part.startswith("x")
            digest.update(x.data if pixels else "\n".join(map(str, x)).encode())
    return digest.hexdigest()


# --------------------------------------------------------------------------------- the division


def _divide(images: Images) -> tuple[Images, str]:
    """Puts all images in a drawn order, and sets a tenth aside where there is no test set."""
    x, y, x_test, y_test = images
    count = len(x) + (0 if x_test is None else len(x_test))
    if count < MIN_IMAGES:
        raise checks.InputError(
            f"a data set must hold at least {MIN_IMAGES} images. Received: {count}. Add images."
        )
    order = _drawn_order(len(x))
    if x_test is not None:
        test_order = _drawn_order(len(x_test))
        x, y = _rows(x, order), _rows(y, order)
        return Images(x, y, _rows(x_test, test_order), _rows(y_test, test_order)), "as given"
    test, train = np.split(order, [len(x) // TEST_SHARE])
    split = f"one in {TEST_SHARE} for testing, drawn with seed {SPLIT_SEED}"
    return Images(_rows(x, train), _rows(y, train), _rows(x, test), _rows(y, test)), split


def _drawn_order(count: int) -> np.ndarray:
    """A shuffled range(count): rows sorted by random bits of their own."""
    bits = noise.bits16(SPLIT_SEED, noise.Stream.SPLIT, rows=count, size=4).numpy()
    return np.lexsort(bits.T)


def _rows(x: np.ndarray | None, order: np.ndarray) -> np.ndarray | None:
    return None if x is None else np.ascontiguousarray(x[order])


def _check_size(count: int, height: int, width: int, channels: int) -> None:
    """Refuses what would not fit, from sizes alone."""
    if height * width * channels > MAX_VALUES:
        raise checks.InputError(
            f"an image must hold at most {MAX_VALUES:,} numbers, H x W x channels. "
            f"Received: {height} x {width} x {channels}. Pass a smaller --image-size, such as 64."
        )
    total = count * height * width * channels
    if total > MAX_BYTES:
        raise checks.InputError(
            f"the pixels of all images must fit into {MAX_BYTES / 2**20:,.0f} MB. "
            f"Received: {count:,} images of {height} x {width} x {channels}, "
            f"{total / 2**20:,.0f} MB. Pass a smaller --image-size, or fewer images."
        )


# ----------------------------------------------------------------------------------- a folder


@dataclass(frozen=True)
class _Header:
    """What an image file says of itself before it is decoded."""

    height: int
    width: int
    colour: bool
    transparent: bool


def _read_folder(root: Path, size: tuple[int, int] | None) -> tuple[Images, list[str]]:
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
    kept = len(parts[0])
    if divided:
        return Images(x[:kept], labels[0], x[kept:], labels[1]), notes
    return Images(x, labels[0], None, None), notes


def _list(root: Path) -> tuple[list[Path], int]:
    """The image files below a folder, relative to it and in order, and how many others it has."""

    def refuse(error: OSError) -> None:
        raise error

    found, others = [], 0
    for folder, folders, names in os.walk(root, onerror=refuse):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            if name.startswith("."):
                continue
            if name.lower().endswith(SUFFIXES):
                relative = (Path(folder) / name).relative_to(root)
                _check_name(relative.as_posix())
                found.append(relative)
            else:
                others += 1
    return sorted(found, key=lambda path: path.as_posix()), others


def _labels(root: Path, files: list[Path], top: Path) -> np.ndarray | None:
    """The sub-folder of `top` that each file lies in, or None where there is none or only one."""
    if not files:
        raise checks.InputError(
            f"a folder of images must hold {', '.join(SUFFIXES)} files. "
            f"Received: {top} without any. Name another folder."
        )
    below = [(root / path).relative_to(top).parts for path in files]
    outside = [path for path, parts in zip(files, below, strict=True) if len(parts) == 1]
    if len(outside) == len(files):
        return None
    if outside:
        raise checks.InputError(
            "images must lie either all in sub-folders, which are their labels, or none. "
            f"Received: {root / outside[0]} beside {len(files) - len(outside)} in sub-folders "
            f"of {top}. Move it."
        )
    labels = [parts[0] for parts in below]
    for folder in sorted(path for path in top.iterdir() if path.is_dir()):
        if not folder.name.startswith(".") and folder.name not in labels:
            raise checks.InputError(
                "every sub-folder is a label and must hold images. "
                f"Received: {folder} without any. Remove it, or fill it."
            )
    return np.array(labels) if len(set(labels)) > 1 else None


def _decode_all(
    root: Path, files: list[Path], size: tuple[int, int] | None
) -> tuple[np.ndarray, list[str]]:
    """Reads all headers, compares them with the limits, then decodes: uint8 [N, H, W, C]."""
    first = _header(root / files[0])
    height, width = size or (first.height, first.width)
    _check_size(len(files), height, width, 1)  # before thousands of headers are read
    headers = [_header(root / path) for path in files]
    for path, header in zip(files, headers, strict=True):
        if size is None and (header.height, header.width) != (height, width):
            raise checks.InputError(
                "images must all be of one size, or be scaled to one. "
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
        notes.append(f"Scaled to {height} x {width}, cropped around the middle.")
    if transparent := sum(header.transparent for header in headers):
        notes.append(f"{transparent:,} with transparency, put on white.")
    if colour and (x == x[..., :1]).all():
        x = np.ascontiguousarray(x[..., :1])
        notes.append("Stored in colour, but grey throughout: read as grey.")
    elif colour and (grey := sum(not header.colour for header in headers)):
        notes.append(f"{grey:,} grey images among those in colour: read as colour.")
    return x, notes


@contextlib.contextmanager
def _decoding(path: Path) -> Iterator[None]:
    """Turns what Pillow raises for a bad file into one line."""
    try:
        yield
    except checks.InputError:
        raise
    except Image.UnidentifiedImageError:
        raise _unsound(path, "it is neither PNG nor JPEG inside") from None
    except Exception as error:  # Pillow raises many kinds
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise _unsound(path, reason.splitlines()[0]) from error


def _unsound(path: Path, reason: str) -> checks.InputError:
    return checks.InputError(
        f"an image file must be a sound PNG or JPEG. Received: {path} ({reason}). "
        "Mend or remove it."
    )


def _open(source: Path | IO[bytes]) -> Image.Image:
    return Image.open(source, formats=("PNG", "JPEG"))


def _header(path: Path) -> _Header:
    with _decoding(path), warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the limit below is lower
        length = path.stat().st_size
        if not path.is_file():
            raise _unsound(path, "it is no regular file")
        if length > MAX_FILE_BYTES:
            raise _unsound(path, f"{length / 2**20:,.0f} MB, more than {MAX_FILE_BYTES >> 20}")
        with _open(path) as image:
            width, height = image.size
            if width * height > MAX_FILE_PIXELS:
                raise _unsound(path, f"{width} x {height} pixels, more than {MAX_FILE_PIXELS:,}")
            if _orientation(image) >= 5:  # on its side
                width, height = height, width
            return _Header(
                height,
                width,
                colour=image.mode not in _GREY_MODES,
                transparent=image.has_transparency_data,
            )


def _orientation(image: Image.Image) -> int:
    """EXIF's, from 1, upright, to 8; 1 where EXIF cannot be read."""
    # Asked for EXIF behind its pixels, a PNG would be decoded: only what is in front counts.
    if image.format == "PNG" and "exif" not in image.info:
        return 1
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # Pillow raises many kinds; the pixels may be sound all the same
        return 1


def _decode(path: Path, size: tuple[int, int], colour: bool) -> np.ndarray:
    """The pixels of a file, uint8 [H, W, 3] or [H, W, 1], upright and of the wanted size."""
    with _decoding(path):
        content = path.read_bytes()
        with _open(io.BytesIO(content)) as image:
            image.verify()  # a PNG's checksums; it must be opened anew afterwards
        with _open(io.BytesIO(content)) as image:
            # JPEG decodes at a fraction of its size, twice what is needed at least.
            image.draft(None, (2 * max(size), 2 * max(size)))
            if _orientation(image) > 1:
                image = ImageOps.exif_transpose(image)
            pixels = _scaled(_plain(image), size)
        pixels = pixels.convert("RGB" if colour else "L")
        return np.asarray(pixels).reshape(*size, 3 if colour else 1)


def _plain(image: Image.Image) -> Image.Image:
    """An image of mode L or RGB: 8 bits, without palette or transparency."""
    if image.mode.startswith("I"):  # 16 bits a pixel, which Pillow's convert would cut off
        deep = np.asarray(image).astype(np.uint32)
        return Image.fromarray(((deep * 255 + 32767) // 65535).astype(np.uint8))
    grey = image.mode in _GREY_MODES
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer)
    return image.convert("L" if grey else "RGB")


def _scaled(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """The image at (H, W), filled and cropped around its middle."""
    height, width = size
    return image if image.size == (width, height) else ImageOps.fit(image, (width, height))


# ------------------------------------------------------------------------------------ an .npz


def _read_npz(path: Path, size: tuple[int, int] | None) -> tuple[Images, list[str]]:
    arrays = _read_arrays(path)
    if "x_train" not in arrays:
        raise checks.InputError(
            f"an .npz of images must hold x_train. Received: {path} with "
            f"{', '.join(arrays) or 'nothing'}. Save it as np.savez(path, x_train=images)."
        )
    if "y_test" in arrays and "x_test" not in arrays:
        raise checks.InputError(
            f"y_test must come with x_test. Received: {path} with y_test alone. Leave it out."
        )
    notes, parts = [], {}
    for part in ("x_train", "x_test"):
        if part in arrays:
            x = checks.images(arrays[part], f"{part} of {path}")
            if x.dtype != np.uint8:
                x = np.rint(x * 255.0).astype(np.uint8)
                notes.append(f"{part}: {arrays[part].dtype} pixels, stored in 256 levels.")
            parts[part] = x
    count = sum(map(len, parts.values()))
    _check_size(count, *(size or parts["x_train"].shape[1:3]), parts["x_train"].shape[-1])
    if size is not None:
        parts = {part: _scale_array(x, size) for part, x in parts.items()}
    x, x_test = parts["x_train"], parts.get("x_test")
    if x_test is not None and x.shape[1:] != x_test.shape[1:]:
        raise checks.InputError(
            f"x_train and x_test must hold images of one shape. Received: {x.shape[1:]} and "
            f"{x_test.shape[1:]} in {path}. Resize one of them."
        )
    y, y_test = (
        _npz_labels(path, arrays, f"y_{part}", parts.get(f"x_{part}")) for part in ("train", "test")
    )
    return Images(x, y, x_test, y_test), notes


def _scale_array(x: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    images = (Image.fromarray(image.squeeze(-1) if x.shape[-1] == 1 else image) for image in x)
    scaled = np.stack([np.asarray(_scaled(image, size)) for image in images])
    return scaled.reshape(len(x), *size, x.shape[-1])


def _npz_labels(
    path: Path, arrays: dict[str, np.ndarray], part: str, x: np.ndarray | None
) -> np.ndarray | None:
    if part not in arrays:
        return None
    y = arrays[part]
    if y.ndim == 2 and y.shape[1] == 1:
        y = y[:, 0]
    if y.dtype.kind not in "biuU" or y.ndim != 1:
        raise checks.InputError(
            f"{part} must hold a whole number or a text an image, shape [N]. "
            f"Received: dtype {y.dtype}, shape {y.shape} in {path}. Convert it, or leave it out."
        )
    if len(y) != len(x):
        raise checks.InputError(
            f"{part} must hold one label an image. Received: {len(y)} labels for {len(x)} images "
            f"in {path}. Match them."
        )
    classes = np.unique(y)
    for label in classes:
        _check_name(str(label))
    return y if len(classes) > 1 else None


def _read_arrays(path: Path) -> dict[str, np.ndarray]:
    """The arrays of an archive, each compared with the limit before it is unpacked."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            names = [member.filename for member in members]
            if unknown := [name for name in names if name not in _MEMBERS]:
                raise checks.InputError(
                    "an .npz of images may hold x_train, x_test, y_train and y_test. "
                    f"Received: {unknown[0]!r} in {path}. Save it without the others."
                )
            if len(set(names)) < len(names):
                raise ValueError("a name stands in it twice")
            if any(member.compress_type not in _ZIP_KINDS for member in members):
                raise ValueError("it is packed in another way than NumPy does")
            declared = sum(member.file_size for member in members)
            if declared > MAX_BYTES:
                raise checks.InputError(
                    f"an .npz must unpack to at most {MAX_BYTES / 2**20:,.0f} MB. "
                    f"Received: {path}, which unpacks to {declared / 2**20:,.0f} MB. "
                    "Store uint8, smaller images or fewer."
                )
            return {member.filename[:-4]: _read_array(archive, member, path) for member in members}
    except checks.InputError:
        raise
    except Exception as error:  # zipfile, zlib and numpy raise many kinds
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise checks.InputError(
            f"an .npz must be a sound archive of arrays. Received: {path} ({reason}). "
            "Save it anew with np.savez."
        ) from error


def _read_array(archive: zipfile.ZipFile, member: zipfile.ZipInfo, path: Path) -> np.ndarray:
    with archive.open(member) as file:
        version = np.lib.format.read_magic(file)
        if version not in ((1, 0), (2, 0)):
            raise ValueError(f"{member.filename} is of an unknown version")
        read = getattr(np.lib.format, f"read_array_header_{version[0]}_0")
        shape, _, dtype = read(file)
        if dtype.hasobject:
            raise checks.InputError(
                "arrays must hold numbers or texts: Python objects are never read. "
                f"Received: {member.filename} of dtype {dtype} in {path}. "
                "Stack images of one size into uint8."
            )
        # Before anything of that size is made: zipfile reads no more than the declared bytes.
        if min(shape, default=1) < 0 or file.tell() + math.prod(shape) * dtype.itemsize != (
            member.file_size
        ):
            raise ValueError(f"{member.filename} is not as long as its shape {shape} says")
    with archive.open(member) as file:
        return np.lib.format.read_array(file, allow_pickle=False)
