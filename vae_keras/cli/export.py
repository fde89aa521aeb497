"""The command `export`: writes a model for TF Serving, ONNX or LiteRT."""

from __future__ import annotations

import argparse

from vae_keras import export
from vae_keras.cli import models
from vae_keras.utils import checks


def run(arguments: argparse.Namespace) -> None:
    """Writes the export and prints its paths."""
    checks.writable("--to", arguments.to, folder=True)
    model = models.read_model(arguments)
    if arguments.format == "saved_model":
        print(export.export_saved_model(model, arguments.to, arguments.version))
        return
    for path in export.export_parts(model, arguments.to, arguments.format):
        print(path)
