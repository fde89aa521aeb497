"""What the package accepts, and the sentence it answers with when it does not.

Each check states the rule, what was received and the remedy, in one line.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

MAX_SEED = 2**31 - 1


class InputError(ValueError):
    """An input breaks a rule; the message is one line: rule, what was received, remedy."""


def python_version(version: tuple[int, ...] = sys.version_info[:2]) -> None:
    """Raises ImportError on a Python that the dependencies do not support."""
    if not (3, 10) <= tuple(version[:2]) <= (3, 13):
        raise ImportError(
            "vae_keras needs Python 3.10 to 3.13. "
            f"Received: Python {version[0]}.{version[1]}. Use one of those versions."
        )


def dependencies() -> None:
    """Raises ImportError when TensorFlow Probability would not import."""
    if importlib.util.find_spec("tf_keras") is None:
        raise ImportError(
            "TensorFlow Probability needs the package tf-keras beside Keras 3. "
            "Received: an environment without it. Run: pip install tf-keras"
        )


def keras_backend(name: str) -> None:
    """Raises ImportError when Keras does not run on TensorFlow."""
    if name != "tensorflow":
        raise ImportError(
            "vae_keras needs Keras on its tensorflow backend. "
            f"Received: backend {name!r}. Set KERAS_BACKEND=tensorflow before the first import."
        )


def whole_number(name: str, value: Any, minimum: int, maximum: int | None = None) -> int:
    """Returns `value` as an int in [minimum, maximum].

    Raises:
        InputError: for any other value, booleans and floats included.
    """
    span = f">= {minimum}" if maximum is None else f"from {minimum} to {maximum}"
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise InputError(f"{name} must be a whole number {span}. Received: {value!r}.")
    if value < minimum or (maximum is not None and value > maximum):
        raise InputError(f"{name} must be a whole number {span}. Received: {value}.")
    return int(value)


def sizes(name: str, value: Any, count: int | None = None) -> tuple[int, ...]:
    """Returns a list of whole numbers >= 1, `count` of them where that is given, as a tuple."""
    is_sequence = isinstance(value, (list, tuple))
    if not is_sequence or (count is not None and len(value) != count):
        raise InputError(
            f"{name} must be a list of {'' if count is None else f'{count} '}whole numbers >= 1. "
            f"Received: {value!r}."
        )
    return tuple(whole_number(f"each of {name}", number, 1) for number in value)


def seed(value: Any) -> int:
    """Returns `value` as a seed in [0, 2^31)."""
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
    """Returns `count` when that many things of a size fit into the machine's memory."""
    total = _memory()
    if count * bytes_each > total:
        raise InputError(
            f"{name} must leave a result that fits into {total / 1e9:.0f} GB of memory. Received: "
            f"{count} of {bytes_each} bytes each. Ask for fewer at a time."
        )
    return count


def _memory() -> int:
    """Bytes of the machine's memory; 2^40 where it does not say."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return 1 << 40


def choice(name: str, value: Any, known: tuple[str, ...] | list[str]) -> str:
    """Returns `value` if it is one of the `known` names."""
    if value not in known:
        raise InputError(f"{name} must be one of: {', '.join(known)}. Received: {value!r}.")
    return value


def auto_or(name: str, value: Any, known: Iterable[Any]) -> Any:
    """Returns `value` when it is "auto" or one of the `known` values of its own type."""
    if not (value == "auto" or any(value is other for other in known)):
        raise InputError(
            f"{name} must be one of: 'auto', {', '.join(map(repr, known))}. Received: {value!r}."
        )
    return value


def path(name: str, value: Any) -> Path:
    """Returns a path that a file system could take."""
    if not isinstance(value, (str, os.PathLike)) or not str(value) or "\0" in str(value):
        raise InputError(f"{name} must be a path. Received: {value!r}. Name a file or folder.")
    return Path(value)


def writable(name: str, value: Any, folder: bool = False) -> Path:
    """Returns a path where a file, or a folder of files, can be made; makes nothing.

    Asked before work whose result goes there.
    """
    target = path(name, value)
    kind = "folder" if folder else "file"
    try:
        if target.exists() and target.is_dir() != folder:
            raise OSError("it is a folder" if target.is_dir() else "it is a file")
        ground = target if folder else target.parent
        ground = next(place for place in (ground, *ground.absolute().parents) if place.exists())
        if not (ground.is_dir() and os.access(ground, os.W_OK | os.X_OK)):
            raise OSError(f"nothing can be made in {ground}")
    except OSError as error:
        reason = error.strerror or error
        raise InputError(
            f"{name} must be a {kind} that can be written. Received: {target} ({reason}). "
            "Name another."
        ) from error
    return target


def batch_size(value: Any, num_images: int) -> int:
    """Returns a batch size from 1 to the number of images."""
    value = whole_number("batch_size", value, 1)
    if value > num_images:
        raise InputError(
            f"batch_size must not exceed the number of images. Received: batch_size {value} "
            f"for {num_images} images. Use a batch size of at most {num_images}."
        )
    return value


def images(x: Any, name: str = "x", shape: tuple[int, int, int] | None = None) -> np.ndarray:
    """Returns images as [N, H, W, C], uint8 0..255 or float32 in [0, 1].

    Args:
        x: array-like [N, H, W] or [N, H, W, C] with C = 1 or 3; integers 0..255, booleans, or
            floats in [0, 1].
        name: what the message calls it. Default "x".
        shape: the (H, W, C) a model was built for, or None for any. Default None.

    Returns:
        A NumPy array, the same memory where nothing had to change.

    Raises:
        InputError: for another rank, channel count, shape, dtype or value, or no image at all.
    """
    x = _array(x)
    if x.dtype.kind not in "buif":
        raise InputError(
            f"{name} must hold numbers. Received: dtype {x.dtype}. "
            "Stack images of one size into an array of uint8 or float32."
        )
    if x.ndim not in (3, 4):
        raise InputError(
            f"{name} must have shape [N, H, W] or [N, H, W, C]. Received: shape {x.shape}. "
            "Add the missing axis, also for a single image."
        )
    if x.ndim == 3:
        x = x[..., np.newaxis]
    if x.size == 0:
        raise InputError(
            f"{name} must hold at least one image. Received: shape {x.shape}. Pass some images."
        )
    if x.shape[-1] not in (1, 3):
        raise InputError(
            f"{name} must have 1 or 3 channels, last. Received: shape {x.shape}. "
            "Move the channels last, or convert to grey or RGB."
        )
    if shape is not None and x.shape[1:] != tuple(shape):
        raise InputError(
            f"{name} must hold images of shape {tuple(shape)}, the model's. "
            f"Received: {x.shape[1:]}. Resize them, or build a model for that shape."
        )
    if x.dtype == np.uint8:
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
    if not (np.isfinite(low) and np.isfinite(high)):  # min and max carry any NaN
        raise InputError(
            f"{name} must be finite. Received: NaN or infinite pixels. Clean the data first."
        )
    if low < 0 or high > 1:
        raise InputError(
            f"{name} with float pixels must lie in [0, 1]. Received: [{low:.6g}, {high:.6g}]. "
            "Divide by 255, or pass uint8."
        )
    return x.astype(np.float32, copy=False)


def grey(images: np.ndarray) -> None:
    """Refuses images, as `images` returns them, of which no pixel lies between black and white."""
    top = 255 if images.dtype == np.uint8 else 1.0
    # One by one: it ends at the first grey image, and takes no memory for a mask of all.
    if all(((image == 0) | (image == top)).all() for image in images):
        raise InputError(
            "a likelihood of grey images needs pixels between black and white. Received: binary "
            "pixels, 0 and 1 alone. Pass grey images as they are, or take a Bernoulli."
        )


def batch_shape(shape: Iterable[int | None], image_shape: tuple[int, ...] | None) -> None:
    """Refuses a dataset whose batches [N, H, W] or [N, H, W, C] are of another shape."""
    shape = tuple(shape)
    if len(shape) not in (3, 4):
        raise InputError(
            "a dataset must yield batches [N, H, W] or [N, H, W, C]. "
            f"Received: shape {shape}. Batch it, or add the missing axis."
        )
    size = shape[1:] if len(shape) == 4 else (*shape[1:], 1)
    expected = size if image_shape is None else image_shape
    if any(a not in (None, b) for a, b in zip(size, expected, strict=True)):
        raise InputError(
            f"the dataset must hold images of shape {tuple(image_shape)}, the model's. "
            f"Received: {size}. Resize them in the pipeline."
        )


def sample_weight(weight: Any, num_images: int) -> np.ndarray:
    """Returns one finite weight >= 0 an image as float32 [N], at least one of them above 0."""
    weight = _array(weight)
    if weight.dtype.kind not in "buif":
        raise InputError(
            "sample_weight must hold one number an image. "
            f"Received: dtype {weight.dtype} for {num_images} images."
        )
    weight = weight.astype(np.float32, copy=False)
    if weight.shape != (num_images,):
        raise InputError(
            "sample_weight must hold one number an image. "
            f"Received: shape {weight.shape} for {num_images} images."
        )
    if not np.isfinite(weight).all() or weight.min() < 0 or weight.max() <= 0:
        raise InputError(
            "sample_weight must be finite, >= 0 and somewhere above 0. "
            f"Received: values from {weight.min()} to {weight.max()}."
        )
    return weight


def latents(z: Any, latent_dim: int) -> np.ndarray:
    """Returns finite latents as float32 [N, latent_dim]."""
    z = _array(z)
    if z.dtype.kind not in "buif" or z.ndim != 2 or z.shape[1] != latent_dim or not len(z):
        raise InputError(
            f"latents must be numbers of shape [N, {latent_dim}]. "
            f"Received: dtype {z.dtype}, shape {z.shape}."
        )
    if not np.isfinite(z).all():
        raise InputError("latents must be finite. Received: NaN or infinite values.")
    return z.astype(np.float32, copy=False)


def _array(value: Any) -> np.ndarray:
    """NumPy's array of anything; ragged lists become one object, which no check takes."""
    try:
        return np.asarray(value)
    except ValueError:
        array = np.empty((), object)
        array[()] = value
        return array
