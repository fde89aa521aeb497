"""Runs the command line as `python -m vae_keras COMMAND`."""

import sys

from vae_keras.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
