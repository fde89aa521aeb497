"""Decoding of one image file to 8 bits, after a comparison of its header with the limits."""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Callable, Iterator
from typing import IO, NamedTuple

import numpy as np
from PIL import ExifTags, Image, ImageOps, TiffImagePlugin

from vae_keras.utils import checks

MAX_FILE_BYTES = 2**26
MAX_FILE_PIXELS = 2**26  # a camera's 50 megapixels are accepted
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff")

_FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM")  # PPM: the raw bytes of TFRecords
_GREY_MODES = ("1", "L", "LA", "I", "I;16", "I;16B", "I;16L")


class ImageFile(NamedTuple):
    """An image file that is not decoded yet.

    Attributes:
        name: its name in messages.
        length: its size in bytes.
        open: opens it for reading.
    """

    name: str
    length: int
    open: Callable[[], IO[bytes]]


class Header(NamedTuple):
    """What the header of an image file says."""

    height: int
    width: int
    colour: bool
    transparent: bool


def header(file: ImageFile) -> Header:
    """Reads the header of an image file.

    Args:
        file: the file.

    Returns:
        The `Header`, with height and width as a camera's orientation says.

    Raises:
        checks.InputError: for a file of another kind, and for one beyond a limit of this module.
    """
    with _decoding(file.name), warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # our limit is lower
        if file.length > MAX_FILE_BYTES:
            megabytes = f"{file.length / 2**20:,.0f} MB, more than {MAX_FILE_BYTES >> 20}"
            raise _unsound(file.name, megabytes)
        with file.open() as stream, _open(stream) as image:
            width, height = _stored_size(image)
            if width * height > MAX_FILE_PIXELS:
                reason = f"{width} x {height} pixels, more than {MAX_FILE_PIXELS:,}"
                raise _unsound(file.name, reason)
            if _orientation(image) >= 5:  # stored on its side
                width, height = height, width
            return Header(
                height,
                width,
                colour=image.mode not in _GREY_MODES,
                transparent=image.has_transparency_data,
            )


def decode(file: ImageFile, size: tuple[int, int], colour: bool) -> np.ndarray:
    """Decodes an image file, upright and with the requested size.

    Of several pictures in a file, such as those of an animation, the first one is decoded. Pixels
    of 16 bits become 8 bits, and transparent pixels become white.

    Args:
        file: the file.
        size: (H, W) in pixels. An image of another size is scaled and cropped around the middle.
        colour: whether the result has three channels or one.

    Returns:
        uint8 [H, W, 3] or [H, W, 1].

    Raises:
        checks.InputError: for a file that cannot be decoded.
    """
    with _decoding(file.name):
        with file.open() as stream:
            content = stream.read()
        with _open(io.BytesIO(content)) as image:
            image.verify()  # compares a PNG's checksums, after which the image must be opened again
        with _open(io.BytesIO(content)) as image:
            # Decodes a JPEG at a fraction of its size that is still twice the requested one.
            image.draft(None, (2 * max(size), 2 * max(size)))
            if _orientation(image) > 1:
                image = ImageOps.exif_transpose(image)
            pixels = fit(_plain(image), size)
        pixels = pixels.convert("RGB" if colour else "L")
        return np.asarray(pixels).reshape(*size, 3 if colour else 1)


def fit(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Scales and crops an image around the middle to (H, W)."""
    height, width = size
    return image if image.size == (width, height) else ImageOps.fit(image, (width, height))


@contextlib.contextmanager
def _decoding(name: str) -> Iterator[None]:
    """Turns the errors of Pillow into an InputError."""
    try:
        yield
    except checks.InputError:
        raise
    except Image.UnidentifiedImageError:
        raise _unsound(name, "its content is of another kind") from None
    except Exception as error:  # Pillow raises many kinds of errors
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise _unsound(name, reason.splitlines()[0]) from error


def _unsound(name: str, reason: str) -> checks.InputError:
    return checks.InputError(
        "an image file must be a sound PNG, JPEG, WebP, GIF, BMP or TIFF. "
        f"Received: {name} ({reason}). Repair or remove it, or pass --skip-damaged."
    )


def _open(source: IO[bytes]) -> Image.Image:
    return Image.open(source, formats=_FORMATS)


def _stored_size(image: Image.Image) -> tuple[int, int]:
    """Returns width and height as the file stores them.

    Pillow swaps the `size` of a TIFF that a camera stored on its side, but not that of a JPEG.
    """
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        tags = image.tag_v2
        return int(tags[TiffImagePlugin.IMAGEWIDTH]), int(tags[TiffImagePlugin.IMAGELENGTH])
    return image.size


def _orientation(image: Image.Image) -> int:
    """Returns the orientation in EXIF, from 1 (upright) to 8, or 1 if EXIF cannot be read."""
    # getexif would decode the whole PNG to look for EXIF data behind the pixels.
    if image.format == "PNG" and "exif" not in image.info:
        return 1
    try:
        value = int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # Pillow raises many kinds of errors, and the pixels may be sound
        return 1
    return value if 1 <= value <= 8 else 1  # a file may hold any number


def _plain(image: Image.Image) -> Image.Image:
    """Converts to mode L or RGB: 8 bits, without a palette or transparency."""
    if image.mode == "F":
        raise ValueError("its pixels are floats, whose range no format states")
    if image.mode == "I" and image.format == "TIFF":
        raise ValueError("its pixels have 32 bits, whose range no format states")
    if image.mode.startswith("I"):  # 16 bits a pixel; Pillow's convert would clip them at 255
        deep = np.asarray(image).astype(np.int64)
        if isinstance(value := image.info.get("transparency"), int):  # one grey is transparent
            deep[deep == value] = 65535
        if deep.min() < 0 or deep.max() > 65535:
            raise ValueError("its pixels have more than 16 bits")
        return Image.fromarray(((deep * 255 + 32767) // 65535).astype(np.uint8))
    grey = image.mode in _GREY_MODES
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer)
    return image.convert("L" if grey else "RGB")
