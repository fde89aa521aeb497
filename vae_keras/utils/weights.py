"""A hash of weights, by which a file recognises the model that it belongs to."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any

import numpy as np


def sha256(parts: Iterable[Any], more: Iterable[np.ndarray] = ()) -> str:
    """Returns the SHA-256 of the values, shapes and dtypes of weights.

    Args:
        parts: objects whose `weights` are hashed in order. Those without weights add nothing.
        more: arrays that are hashed after them. Default ().

    Returns:
        64 hexadecimal digits.

    Example:
        >>> len(sha256([keras.layers.Dense(1)]))
        64
    """
    digest = hashlib.sha256()
    values = [weight.numpy() for part in parts for weight in getattr(part, "weights", ())]
    for value in map(np.ascontiguousarray, (*values, *more)):
        digest.update(f"{value.dtype.name}{value.shape}".encode())
        digest.update(value.tobytes())
    return digest.hexdigest()
