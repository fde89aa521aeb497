"""Trains a preset and writes its run folder: figures, SavedModel, numbers, one report page."""

import argparse
import gc
import os
import sys


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--preset", default="mlp_mnist", help="what to train (default: mlp_mnist)")
    parser.add_argument("--epochs", type=int, help="passes over the data")
    parser.add_argument("--batch-size", type=int, help="images a step")
    parser.add_argument(
        "--learning-rate", type=float, metavar="RATE", help="the optimizer's, at its highest"
    )
    parser.add_argument("--seed", type=int, help="of weights, order and noise")
    parser.add_argument("--workdir", help="the run folder (default: runs/PRESET[-DATA])")
    parser.add_argument(
        "--data", help="mnist, fashion_mnist, an .npz, or a folder of images (default: PRESET's)"
    )
    parser.add_argument("--image-size", metavar="H[xW]", help="scales own images to this size")
    parser.add_argument("--validation", type=int, help="how many training images to hold out")
    parser.add_argument(
        "--binarization",
        choices=("dynamic", "none", "threshold"),
        help="how pixels become binary, or none for grey ones",
    )
    parser.add_argument("--strategy", default="none", help="none, mirrored or multi_worker")
    parser.add_argument("--overwrite", action="store_true", help="empty a folder of another run")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    arguments = vars(parser.parse_args(argv))
    debug = arguments.pop("debug")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    try:
        from vae_keras import cli, training
    except ImportError as error:
        if debug:
            raise
        print(f"Error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:  # the imports take seconds
        print("\nStopped.", file=sys.stderr)
        return 130
    return cli.run(lambda: training.train(training.TrainConfig(**arguments)), debug)


if __name__ == "__main__":
    # What the imports make stays: looking through it as often as Python's default of 700 has it
    # costs 6% of the time to the first epoch's line.
    gc.set_threshold(50_000)
    sys.exit(main())
