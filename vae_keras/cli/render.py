"""The command `render`: writes the cards and tables of the zoo."""

from __future__ import annotations

import argparse

from vae_keras.zoo import cards


def run(_: argparse.Namespace) -> None:
    """Writes every card and table from its JSON files."""
    for path in cards.write():
        print(path)
