"""Bits per dimension of PNG and of lossless WebP, which a model of 256 levels compares with."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from PIL import Image

from vae_keras.evaluation import Estimate
from vae_keras.utils import checks

# Maps a format to the bytes of its smallest headers, which hold no pixels, and to Pillow's options.
_FORMATS: dict[str, tuple[int, dict[str, Any]]] = {
    "png": (57, {"format": "PNG", "optimize": True}),
    "webp": (20, {"format": "WEBP", "lossless": True, "quality": 100, "method": 6}),
}
FORMATS = tuple(_FORMATS)


def bits_per_dimension(images: Any, format: str) -> Estimate:
    """Compresses images without loss, each into a file of its own.

    The headers of a file, which are equally long for all images, are not counted.

    Args:
        images: uint8 [N, H, W, C] or float [N, H, W, C] whose pixels are multiples of 1 / 255,
            C = 1 or 3.
        format: "png", or "webp" for lossless WebP, both at the strongest compression that Pillow
            offers.

    Returns:
        Bits per dimension of each image, their mean and its standard error.

    Raises:
        checks.InputError: for an unknown format, or images that do not have 256 levels.

    Example:
        >>> black = np.zeros((2, 32, 32, 3), np.uint8)
        >>> bits_per_dimension(black, "png").mean < 0.2
        True
    """
    headers, options = _FORMATS[checks.choice("format", format, FORMATS)]
    sizes = []
    for image in images:  # one image in memory at a time
        pixels = checks.images(image[np.newaxis], "images")
        checks.levels(pixels)
        if pixels.dtype != np.uint8:
            pixels = np.round(pixels * 255).astype(np.uint8)
        file = io.BytesIO()
        picture = Image.fromarray(pixels[0, ..., 0] if pixels.shape[-1] == 1 else pixels[0])
        picture.save(file, **options)
        sizes.append((file.tell() - headers) * 8 / pixels.size)
    return Estimate.of(np.array(sizes))
