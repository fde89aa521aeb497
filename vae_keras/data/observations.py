"""Images as the likelihood sees them, without a copy of all of them in memory."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from vae_keras import noise
from vae_keras.data.binarization import BINARIZATIONS, binarize, pixel_bits, to_pixels
from vae_keras.utils import checks
from vae_keras.utils.rows import Array, Rows


def observed(images: Array, seed: int, mode: str) -> Array:
    """Binarizes images as `binarize` does, those of `Rows` when they are read.

    Args:
        images: [N, H, W, C], uint8 0..255 or float in [0, 1].
        seed: integer in [0, 2^31).
        mode: as in `binarize`.

    Returns:
        float32 [N, H, W, C]: an array for an array, `Rows` for `Rows`.

    Raises:
        checks.InputError: as `binarize`.

    Example:
        >>> observed(np.zeros((10, 8, 8, 1), np.uint8), 0, "threshold").shape
        (10, 8, 8, 1)
    """
    if not isinstance(images, Rows):
        return binarize(images, seed, mode)
    checks.choice("binarization", mode, BINARIZATIONS)
    source = checks.images(images)
    seed = checks.seed(seed)

    def read(index: np.ndarray) -> np.ndarray:
        pixels = np.empty((len(index), *source.shape[1:]), np.float32)
        # Noise is keyed by the number of the row, so rows that follow one another share a call.
        cuts = np.flatnonzero(np.diff(index) != 1) + 1
        for first, last in zip([0, *cuts], [*cuts, len(index)], strict=True):
            block = source[index[first:last]]
            row = int(index[first])
            bits = pixel_bits(seed, noise.Stream.TEST_PIXELS, block.shape, row=row)
            pixels[first:last] = to_pixels(tf.constant(block), bits, mode)
        return pixels

    return Rows(read, np.arange(len(source)), source.shape[1:], np.float32)
