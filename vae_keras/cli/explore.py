"""The command `explore`: writes a page in which a model runs without a network."""

from __future__ import annotations

import argparse
from pathlib import Path

from vae_keras.cli import models
from vae_keras.export import parts
from vae_keras.report import engine, explorer
from vae_keras.training import artifacts, run_folder
from vae_keras.utils import checks


def run(arguments: argparse.Namespace) -> None:
    """Writes the page `--to` and prints its path and size.

    The explorer of a run lies in its folder by default, and the page of the run then links to it.
    """
    folder = None if arguments.model is None else Path(arguments.model).parent
    is_run = folder is not None and (folder / run_folder.REPORT).exists()
    home = folder / run_folder.EXPLORER if folder is not None and is_run else None
    path = checks.writable("--to", arguments.to or home or run_folder.EXPLORER)
    parts.require_packages("onnx")
    found = engine.find(arguments.engine)
    model = models.read_model(arguments)
    held = models.load_held_out(arguments, model)
    title = arguments.preset or Path(arguments.model).resolve().parent.name
    explorer.write(
        path, model, held.x, held.y, found, title=title, split=held.kind, invert=held.invert
    )
    print(f"{path} ({path.stat().st_size / 1e6:.1f} MB)")
    if home is not None and path.resolve() == home.resolve():
        print(f"{artifacts.write_page(home.parent)} links to it.")
