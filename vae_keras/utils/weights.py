"""A hash of weights, by which a file recognises the model that it belongs to."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np


def sha256(model: Any) -> str:
    """Returns the SHA-256 of the values, shapes and dtypes of the weights of a model.

    The weights are those of the encoder, the decoder, the prior and the classifier, and p(y) of a
    model with classes. The optimizer's state is left out.

    Args:
        model: a built `VAE`.

    Returns:
        64 hexadecimal digits.

    Example:
        >>> len(sha256(vae))
        64
    """
    parts = model.encoder, model.decoder, model.prior, model.classifier
    values = [weight.numpy() for part in parts for weight in getattr(part, "weights", ())]
    if model.num_classes is not None:
        values.append(model.class_probabilities)
    digest = hashlib.sha256()
    for value in map(np.ascontiguousarray, values):
        digest.update(f"{value.dtype.name}{value.shape}".encode())
        digest.update(value.tobytes())
    return digest.hexdigest()
