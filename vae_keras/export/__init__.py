"""Models for use without this package: SavedModels for TF Serving, ONNX and LiteRT files."""

from vae_keras.export.parts import export_parts
from vae_keras.export.saved_model import export_saved_model

__all__ = ["export_parts", "export_saved_model"]
