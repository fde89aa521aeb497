"""The command `publish`: puts a finished run into the zoo."""

from __future__ import annotations

import argparse
from pathlib import Path

from vae_keras.utils import checks
from vae_keras.zoo import publish


def run(arguments: argparse.Namespace) -> None:
    """Measures the run on the test set, and writes the folder of its preset."""
    if arguments.refined is not None:
        checks.whole_number("--refined", arguments.refined, 2)
    print(publish.publish(Path(arguments.run_folder), num_refined=arguments.refined))
