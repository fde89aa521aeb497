"""Checks of arguments and of the environment.

A check returns the value that it accepts, converted where necessary. For any other value it raises
an error of one line, which states the rule, what was received, and the remedy unless the rule
already says it.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from vae_keras.utils.rows import Array, Rows

MAX_SEED = 2**31 - 1


class InputError(ValueError):
    """An argument breaks a rule. The message is one line, as the module says."""


def python_version(version: tuple[int, ...] = sys.version_info[:2]) -> None:
    """Raises ImportError if the dependencies do not support the version of Python."""
    if not (3, 10) <= tuple(version[:2]) <= (3, 13):
        raise ImportError(
            "vae_keras needs Python 3.10 to 3.13. "
            f"Received: Python {version[0]}.{version[1]}. Use one of those versions."
        )


def dependencies() -> None:
    """Raises ImportError if a package is missing that TensorFlow Probability imports."""
    if importlib.util.find_spec("tf_keras") is None:
        raise ImportError(
            "TensorFlow Probability needs the package tf-keras beside Keras 3. "
            "Received: an environment without it. Run: pip install tf-keras"
        )


def keras_backend(name: str) -> None:
    """Raises ImportError if Keras runs on another backend than TensorFlow."""
    if name != "tensorflow":
        raise ImportError(
            "vae_keras needs Keras on its tensorflow backend. "
            f"Received: backend {name!r}. Set KERAS_BACKEND=tensorflow before the first import."
        )


@contextlib.contextmanager
def reading(rule: str, path: Path, remedy: str) -> Iterator[None]:
    """Turns the errors of a library that reads a file into an InputError.

    Libraries raise many kinds of errors for a damaged file. Errors that tell of a missing file or
    of permissions stay as they are.

    Args:
        rule: what the file must be, without a full stop.
        path: the file.
        remedy: what the user can do, a sentence.

    Raises:
        InputError: for a file that could not be read.

    Example:
        >>> with reading("an archive must be whole", Path("pets.zip"), "Pack it again."):
        ...     content = b"what a library reads"
    """
    try:
        yield
    except (InputError, FileNotFoundError, PermissionError, GeneratorExit):
        raise
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"{rule}. Received: {path} ({reason}). {remedy}") from error


def whole_number(name: str, value: Any, minimum: int, maximum: int | None = None) -> int:
    """Returns `value` as an int in [minimum, maximum].

    Args:
        name: the argument's name in the message.
        value: an int or a NumPy integer.
        minimum: the smallest accepted value.
        maximum: the largest accepted value, or None. Default None.

    Raises:
        InputError: for a number out of range, and for booleans and floats.

    Example:
        >>> whole_number("epochs", 3, minimum=1)
        3
    """
    span = f">= {minimum}" if maximum is None else f"from {minimum} to {maximum}"
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise InputError(f"{name} must be a whole number {span}. Received: {value!r}.")
    if value < minimum or (maximum is not None and value > maximum):
        raise InputError(f"{name} must be a whole number {span}. Received: {value}.")
    return int(value)


def sizes(name: str, value: Any, count: int | None = None) -> tuple[int, ...]:
    """Returns a list of whole numbers >= 1 as a tuple, of length `count` if that is given."""
    is_sequence = isinstance(value, (list, tuple))
    if not is_sequence or (count is not None and len(value) != count):
        raise InputError(
            f"{name} must be a list of {'' if count is None else f'{count} '}whole numbers >= 1. "
            f"Received: {value!r}."
        )
    return tuple(whole_number(f"each of {name}", number, 1) for number in value)


def seed(value: Any) -> int:
    """Returns `value` as a seed, an int in [0, 2^31)."""
    return whole_number("seed", value, 0, MAX_SEED)


def positive(name: str, value: Any) -> float:
    """Returns `value` as a finite float above 0."""
    if isinstance(value, bool) or not isinstance(value, (int, float, np.number)):
        raise InputError(f"{name} must be a finite number above 0. Received: {value!r}.")
    if not (np.isfinite(value) and value > 0):
        raise InputError(f"{name} must be a finite number above 0. Received: {value}.")
    return float(value)


def fraction(name: str, value: Any) -> float:
    """Returns `value` as a float between 0 and 1, both excluded."""
    is_number = isinstance(value, (int, float, np.number)) and not isinstance(value, bool)
    if not (is_number and 0 < value < 1):
        raise InputError(f"{name} must lie between 0 and 1. Received: {value!r}.")
    return float(value)


def memory(name: str, count: int, bytes_each: int) -> int:
    """Returns `count` if that many items of `bytes_each` bytes fit into the machine's memory."""
    total = machine_memory()
    if count * bytes_each > total:
        raise InputError(
            f"{name} must be small enough for a result that fits into {total / 1e9:.0f} GB of "
            f"memory. Received: {count}, at {bytes_each} bytes each. Pass a smaller number."
        )
    return count


def machine_memory() -> int:
    """Returns the size of the machine's memory in bytes, or 2^40 if it is unknown."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return 1 << 40


def choice(name: str, value: Any, known: tuple[str, ...] | list[str]) -> str:
    """Returns `value` if it is one of the names in `known`."""
    if value not in known:
        raise InputError(f"{name} must be one of: {', '.join(known)}. Received: {value!r}.")
    return value


def auto_or(name: str, value: Any, known: Iterable[Any]) -> Any:
    """Returns `value` if it is "auto" or one of the objects in `known`."""
    # Compared by identity: 1 == True, but 1 is not accepted in its place.
    if not (value == "auto" or any(value is other for other in known)):
        raise InputError(
            f"{name} must be one of: 'auto', {', '.join(map(repr, known))}. Received: {value!r}."
        )
    return value


def path(name: str, value: Any) -> Path:
    """Returns `value` as a Path, which need not exist."""
    if not isinstance(value, (str, os.PathLike)) or not str(value) or "\0" in str(value):
        raise InputError(
            f"{name} must be a path. Received: {value!r}. Pass the name of a file or folder."
        )
    return Path(value)


def writable(name: str, value: Any, folder: bool = False) -> Path:
    """Returns a path where a file or folder can be written. Writes nothing.

    Call it before a long computation whose result goes there.

    Args:
        name: the argument's name in the message.
        value: a path. Its parent folders need not exist.
        folder: whether the path is that of a folder. Default False.

    Raises:
        InputError: if the path is of the other kind, or if its file system refuses to write there.
    """
    target = path(name, value)
    kind = "folder" if folder else "file"
    try:
        if target.exists() and target.is_dir() != folder:
            raise OSError("it is a folder" if target.is_dir() else "it is a file")
        ground = target if folder else target.parent
        ground = next(place for place in (ground, *ground.absolute().parents) if place.exists())
        if not (ground.is_dir() and os.access(ground, os.W_OK | os.X_OK)):
            raise OSError(f"{ground} is not a writable folder")
    except OSError as error:
        reason = error.strerror or error
        raise InputError(
            f"{name} must be a {kind} that can be written. Received: {target} ({reason}). "
            "Pass another path."
        ) from error
    return target


def batch_size(value: Any, num_images: int) -> int:
    """Returns `value` as a batch size from 1 to the number of images."""
    value = whole_number("batch_size", value, 1)
    if value > num_images:
        raise InputError(
            f"batch_size must not exceed the number of images. Received: batch_size {value} "
            f"for {num_images} images. Use a batch size of at most {num_images}."
        )
    return value


def images(x: Any, name: str = "x", shape: tuple[int, ...] | None = None) -> Any:
    """Returns images as [N, H, W, C], uint8 0..255 or float32 in [0, 1].

    Args:
        x: array-like [N, H, W] or [N, H, W, C] with C = 1 or 3, which holds integers 0..255,
            booleans, or floats in [0, 1].
        name: the argument's name in the message. Default "x".
        shape: the (H, W, C) that a model was built for, or None for any shape. Default None.

    Returns:
        A NumPy array, which shares the memory of `x` if no conversion was necessary. `Rows` are
        returned as they are: they hold pixels of bytes, or floats that were made from bytes.

    Raises:
        InputError: for any other rank, number of channels, shape, dtype or value, and for an empty
            array.

    Example:
        >>> images(np.zeros((5, 28, 28))).shape
        (5, 28, 28, 1)
    """
    x = x if isinstance(x, Rows) else _array(x)
    if x.dtype.kind not in "buif":
        raise InputError(
            f"{name} must hold numbers. Received: dtype {x.dtype}. "
            "Stack images of one size into an array of uint8 or float32."
        )
    if x.ndim not in (3, 4):
        if x.ndim == 2:
            remedy = (
                "Reshape flat rows of pixels to images, such as x.reshape(-1, 28, 28, 1), "
                "or give a single image a batch axis, x[np.newaxis]."
            )
        else:
            remedy = "Reshape the array to one of these."
        raise InputError(
            f"{name} must have shape [N, H, W] or [N, H, W, C]. Received: shape {x.shape}. {remedy}"
        )
    if x.ndim == 3:
        x = x[..., np.newaxis]
    if x.size == 0:
        raise InputError(
            f"{name} must hold at least one image. Received: shape {x.shape}. Pass some images."
        )
    if x.shape[-1] not in (1, 3):
        remedy = "Convert them to grey or RGB."
        if x.shape[1] in (1, 3):
            moved = (*x.shape[2:], x.shape[1])
            remedy = f"np.moveaxis(x, 1, -1) moves the channels last and gives images of {moved}."
        raise InputError(
            f"{name} must have 1 or 3 channels on the last axis"
            + ("" if shape is None else f", in images of the model's shape {tuple(shape)}")
            + f". Received: shape {x.shape}. {remedy}"
        )
    if shape is not None and x.shape[1:] != tuple(shape):
        raise InputError(
            f"{name} must hold images of the model's shape {tuple(shape)}. "
            f"Received: {x.shape[1:]}. Resize them, or build a model for that shape."
        )
    if x.dtype == np.uint8 or isinstance(x, Rows):
        return x
    if x.dtype == bool:
        return x.astype(np.float32)
    low, high = x.min(), x.max()
    if x.dtype.kind in "ui":
        if low < 0 or high > 255:
            raise InputError(
                f"{name} with integer pixels must lie in 0..255. Received: {low}..{high}. "
                "Rescale the pixels."
            )
        return x.astype(np.uint8)
    if not (np.isfinite(low) and np.isfinite(high)):  # min and max are NaN if any pixel is
        raise InputError(
            f"{name} must be finite. Received: NaN or infinite pixels. Clean the data first."
        )
    if low < 0 or high > 1:
        raise InputError(
            f"{name} with float pixels must lie in [0, 1]. Received: [{low:.8g}, {high:.8g}]. "
            "Divide by 255, or pass uint8."
        )
    return x.astype(np.float32, copy=False)


def not_only_binary(images: Array) -> None:
    """Refuses images whose pixels are all 0 or 1, which a density on [0, 1] is not made for.

    Args:
        images: uint8 0..255 or float32 in [0, 1], as `images` returns them.

    Raises:
        InputError: if no pixel lies strictly between black and white.
    """
    top = 255 if images.dtype == np.uint8 else 1.0
    # The loop ends at the first grey image, and never allocates a mask of all images.
    if all(((image == 0) | (image == top)).all() for image in images):
        raise InputError(
            "a likelihood on [0, 1] needs pixels between black and white. Received: pixels that "
            "are all 0 or 1. Pass the grey images without binarization, or use Bernoulli()."
        )


LEVEL_TOLERANCE = 0.01
"""How far a float pixel may lie from a multiple of 1 / 255, in units of 1 / 255."""

LEVEL_RULE = (
    "A likelihood of 256 levels needs pixels that are multiples of 1 / 255. Received: pixels in "
    "between. Pass uint8, or round: np.round(x * 255) / 255."
)


def levels(images: Array) -> None:
    """Refuses float images whose pixels are not 256 levels.

    Args:
        images: uint8 0..255 or float32 in [0, 1], as `images` returns them.

    Raises:
        InputError: if a pixel lies between two levels.
    """
    if images.dtype == np.uint8:
        return
    for image in images:
        scaled = image * np.float32(255)
        if (np.abs(scaled - np.round(scaled)) > LEVEL_TOLERANCE).any():
            raise InputError(LEVEL_RULE)


def batch_shape(shape: Iterable[int | None], image_shape: tuple[int, ...] | None) -> None:
    """Refuses the batches of a dataset if they do not hold images of the model's shape.

    Args:
        shape: static shape of a batch, [N, H, W] or [N, H, W, C], where None is an unknown size.
        image_shape: the (H, W, C) that a model was built for, or None for any shape.

    Raises:
        InputError: for another rank or shape.
    """
    shape = tuple(shape)
    if len(shape) not in (3, 4):
        raise InputError(
            "a dataset must yield batches [N, H, W] or [N, H, W, C]. "
            f"Received: shape {shape}. Batch it, or add the missing axis."
        )
    if image_shape is None:
        return
    size = shape[1:] if len(shape) == 4 else (*shape[1:], 1)
    if any(a not in (None, b) for a, b in zip(size, image_shape, strict=True)):
        channels_first = (*size[1:], size[0]) == tuple(image_shape)
        remedy = (
            "Move the channels last: tf.transpose(images, [0, 2, 3, 1])."
            if channels_first
            else "Resize them in the pipeline."
        )
        raise InputError(
            f"the dataset must hold images of the model's shape {tuple(image_shape)}. "
            f"Received: {size}. {remedy}"
        )


def sample_weight(weight: Any, num_images: int) -> np.ndarray:
    """Returns one weight for each image as float32 [N].

    Args:
        weight: array-like [N] or [N, 1] of finite numbers >= 0, of which at least one is above 0.
        num_images: N.

    Raises:
        InputError: for any other shape, dtype or value.

    Example:
        >>> sample_weight([1, 2], num_images=2)
        array([1., 2.], dtype=float32)
    """
    weight = _array(weight)
    if weight.dtype.kind not in "buif":
        raise InputError(
            "sample_weight must hold one number for each image. "
            f"Received: dtype {weight.dtype} for {num_images} images."
        )
    weight = weight.astype(np.float32, copy=False)
    if weight.shape == (num_images, 1):
        weight = weight[:, 0]
    if weight.shape != (num_images,):
        raise InputError(
            "sample_weight must hold one number for each image. "
            f"Received: shape {weight.shape} for {num_images} images."
        )
    if not np.isfinite(weight).all() or weight.min() < 0 or weight.max() <= 0:
        raise InputError(
            "sample_weight must be finite and >= 0, and at least one weight must be above 0. "
            f"Received: values from {weight.min()} to {weight.max()}."
        )
    return weight


def latents(z: Any, latent_dim: int) -> np.ndarray:
    """Returns `z` as finite float32 latents [N, latent_dim]."""
    z = _array(z)
    if z.dtype.kind not in "buif" or z.ndim != 2 or z.shape[1] != latent_dim or not len(z):
        raise InputError(
            f"latents must be numbers of shape [N, {latent_dim}]. "
            f"Received: dtype {z.dtype}, shape {z.shape}."
        )
    with np.errstate(over="ignore"):  # a number beyond float32 becomes infinite
        z = z.astype(np.float32, copy=False)
    if not np.isfinite(z).all():
        raise InputError("latents must be finite. Received: NaN or infinite values.")
    return z


def _array(value: Any) -> np.ndarray:
    """Converts to NumPy. A ragged list becomes a single object, which every check refuses."""
    try:
        return np.asarray(value)
    except ValueError:
        array = np.empty((), object)
        array[()] = value
        return array
