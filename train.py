"""The command `python -m vae_keras train` as a script of the checkout."""

import sys

from vae_keras.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
