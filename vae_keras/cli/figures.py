"""The command `figures`: draws the figures of a model from held-out images."""

from __future__ import annotations

import argparse
from pathlib import Path

from vae_keras.cli import models
from vae_keras.data.observations import observed
from vae_keras.report import figures, gallery
from vae_keras.utils import checks


def run(arguments: argparse.Namespace) -> None:
    """Writes one PNG file for each figure to the folder `--to`."""
    checks.writable("--to", arguments.to, folder=True)
    model = models.read_model(arguments)
    x, labels, kind, invert, _ = models.load_held_out(arguments, model)
    seen = observed(x, model.seed, model.binarization)
    for name, figure in gallery.image_figures(model, x, seen, labels, invert, kind):
        path = Path(arguments.to) / f"{name}.png"
        figures.save(figure, path)
        print(path)
