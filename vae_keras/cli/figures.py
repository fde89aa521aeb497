"""The command `figures`: draws the figures of a model from the test set."""

from __future__ import annotations

import argparse
from pathlib import Path

from vae_keras import data
from vae_keras.cli import models
from vae_keras.report import figures, gallery
from vae_keras.utils import checks


def run(arguments: argparse.Namespace) -> None:
    """Writes one PNG file for each figure to the folder `--to`."""
    checks.writable("--to", arguments.to, folder=True)
    model = models.read_model(arguments)
    dataset = models.load_test_data(arguments, model)
    x, labels = dataset.images.x_test, dataset.images.y_test
    seen = data.binarize(x, model.seed, model.binarization)
    for name, figure in gallery.image_figures(model, x, seen, labels, dataset.invert, "test"):
        path = Path(arguments.to) / f"{name}.png"
        figures.save(figure, path)
        print(path)
