"""Data sets by name, a user's own images, binarization, and the pipelines of `fit`."""

from vae_keras.data.binarization import BINARIZATIONS, binarize, pixel_bits, to_pixels

__all__ = ["BINARIZATIONS", "binarize", "pixel_bits", "to_pixels"]
