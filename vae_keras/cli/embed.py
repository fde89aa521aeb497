"""The command `embed`: writes the posterior, the ELBO, the name and the label of each image."""

from __future__ import annotations

import argparse
from pathlib import Path

from vae_keras import embeddings
from vae_keras.cli import models
from vae_keras.report import embedding_files


def run(arguments: argparse.Namespace) -> None:
    """Writes the embeddings of held-out images to `--to`."""
    path = Path(arguments.to)
    embedding_files.check(path)
    model = models.read_model(arguments)
    held = models.load_held_out(arguments, model)
    found = embeddings.embed(model, model.paired(held.x, held.y))
    embedding_files.write(path, found, held.names, held.y, held.x, held.invert)
    print(f"{path} ({len(held.x):,} {held.kind} images, {model.latent_dim} latent dimensions)")
