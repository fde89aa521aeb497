"""The command `sample`: draws images from the prior."""

from __future__ import annotations

import argparse
from typing import Any

from vae_keras.cli import models
from vae_keras.data import datasets
from vae_keras.report import figures, gallery
from vae_keras.utils import checks


def run(arguments: argparse.Namespace) -> None:
    """Writes a grid of images to `--to`."""
    count = checks.whole_number("--count", arguments.count, 5, 10000)
    if count % 5:
        raise checks.InputError(
            f"--count must be a multiple of 5. Received: {count}. Pass {count - count % 5}."
        )
    checks.whole_number("--seed", arguments.seed, 0, checks.MAX_SEED)
    checks.writable("--to", arguments.to)
    model = models.read_model(arguments)
    title = gallery.prior_titles(model, count)["prior"]
    labels: Any = gallery.classes_of_rows(model, count, 5)
    if arguments.label is not None:
        named = model.class_names is not None or not arguments.label.isdigit()
        labels = arguments.label if named else int(arguments.label)
        title = f"{title}, in class {arguments.label}"
    images = model.sample(count, arguments.seed, labels=labels)
    known = datasets.KNOWN.get(models.trained_on(arguments) or "")
    invert = known is not None and known.invert
    figures.save(figures.grid(images, count // 5, 5, title, invert=invert), arguments.to)
    print(arguments.to)
