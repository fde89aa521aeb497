"""The command `presets`: lists the zoo."""

from __future__ import annotations

import argparse

from vae_keras.cli import table
from vae_keras.zoo import presets


def run(_: argparse.Namespace) -> None:
    """Prints a table of all presets."""
    rows = [("preset", "-log p(x)", "epochs", "what it is")]
    trained = presets.trained()
    for name in presets.names():
        recipe = presets.load_recipe(name)
        value = _negative_log_likelihood(name) if name in trained else "no weights"
        rows.append((name, value, str(recipe.epochs), recipe.description))
    table.show(rows)


def _negative_log_likelihood(name: str) -> str:
    for entry in presets.load_metrics(name)["metrics"]:
        if entry["name"] == "negative_log_likelihood":
            return f"{entry['value']:.2f}"
    return "not measured"
