"""Data sets by name, a user's own images, binarization, and the pipelines of `fit`."""

import importlib
from typing import TYPE_CHECKING, Any

from vae_keras.data.binarization import BINARIZATIONS, binarize, pixel_bits, to_pixels

if TYPE_CHECKING:
    from vae_keras.data.own_images import open_images as open_images

__all__ = ["BINARIZATIONS", "binarize", "open_images", "pixel_bits", "to_pixels"]


def __getattr__(name: str) -> Any:
    """Imports the readers of images when they are first used: they need h5py and Pillow."""
    if name == "open_images":
        return importlib.import_module(f"{__name__}.own_images").open_images
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
