"""The command `export`: writes a model for TF Serving, ONNX or LiteRT."""

from __future__ import annotations

import argparse

from vae_keras import detection, export
from vae_keras.cli import models
from vae_keras.utils import checks


def run(arguments: argparse.Namespace) -> None:
    """Writes the export and prints its paths."""
    checks.writable("--to", arguments.to, folder=True)
    model = models.read_model(arguments)
    if arguments.format == "saved_model":
        detector = None
        if arguments.model is not None and detection.beside(arguments.model).exists():
            detector = detection.Detector.load(arguments.model, model)
        path = export.export_saved_model(model, arguments.to, arguments.version, detector=detector)
        print(path)
        return
    for path in export.export_parts(model, arguments.to, arguments.format):
        print(path)
