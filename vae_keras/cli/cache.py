"""The command `cache`: lists the caches of decoded images, and removes them."""

from __future__ import annotations

import argparse

from vae_keras.cli import table
from vae_keras.data import cache
from vae_keras.utils import checks


def run(arguments: argparse.Namespace) -> None:
    """Prints a table of all caches, or removes those that `--remove` names."""
    entries = list(cache.entries())
    if arguments.remove is None:
        rows = [("name", "images", "shape", "MB", "made from")]
        for entry in entries:
            shape = " x ".join(map(str, entry.shape))
            size = f"{entry.size / 1e6:,.0f}"
            rows.append((entry.folder.name, f"{entry.num_images:,}", shape, size, entry.source))
        table.show(rows)
        total = sum(entry.size for entry in entries)
        print(f"{total / 1e6:,.0f} MB in {cache.root()}")
        return
    chosen = [e for e in entries if arguments.remove in ("all", e.folder.name)]
    if not chosen and arguments.remove != "all":
        raise checks.InputError(
            "--remove takes the name of a cache, or all. "
            f"Received: {arguments.remove!r}. Look it up: vae-keras cache"
        )
    refused: checks.InputError | None = None
    for entry in chosen:
        try:
            cache.remove(entry)
        except checks.InputError as error:  # the others are removed
            refused = error
        else:
            print(f"Removed {entry.folder} ({entry.size / 1e6:,.0f} MB).")
    if refused is not None:
        raise refused
