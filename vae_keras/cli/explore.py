"""The command `explore`: writes a page in which a model runs without a network."""

from __future__ import annotations

import argparse
from pathlib import Path

from vae_keras.cli import models
from vae_keras.export import parts
from vae_keras.report import engine, explorer
from vae_keras.utils import checks


def run(arguments: argparse.Namespace) -> None:
    """Writes the page `--to` and prints its path and size."""
    path = checks.writable("--to", arguments.to)
    parts.require_packages("onnx")
    found = engine.find(arguments.engine)
    model = models.read_model(arguments)
    x, labels, kind, invert = models.load_held_out(arguments, model)
    title = arguments.preset or Path(arguments.model).resolve().parent.name
    explorer.write(path, model, x, labels, found, title=title, split=kind, invert=invert)
    print(f"{path} ({path.stat().st_size / 1e6:.1f} MB)")
