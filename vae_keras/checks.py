"""What the package accepts, and the sentence it answers with when it does not.

Each check states the rule, what was received and the remedy, in one line.
"""

from __future__ import annotations

import importlib.util
import sys
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


def choice(name: str, value: Any, known: tuple[str, ...] | list[str]) -> str:
    """Returns `value` if it is one of the `known` names."""
    if value not in known:
        raise InputError(f"{name} must be one of: {', '.join(known)}. Received: {value!r}.")
    return value


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
