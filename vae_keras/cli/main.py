"""Parses the command line and runs one command.

This module imports neither TensorFlow nor the model, so that `--help` and usage errors are
printed at once.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import importlib
import logging
import os
import sys

from vae_keras.cli import outcome
from vae_keras.utils import startup

_FORMATS = ("saved_model", "onnx", "litert")
_FORMS = (
    "a set by name, or own images: a folder, a .zip or .tar, an .npz, .npy or .h5, or TFRecord "
    "files"
)
_SKIP = "leave damaged image files out and list them"


def main(argv: list[str] | None = None) -> int:
    """Runs one command.

    Args:
        argv: arguments of the command line. Default: those of the process.

    Returns:
        The exit code, see `outcome.run`.

    Example:
        >>> exit_code = main(["presets"])  # doctest: +ELLIPSIS
        preset ...
    """
    argv = sys.argv[1:] if argv is None else argv
    parser = _parser()
    if not argv:
        parser.exit(outcome.USAGE_ERROR, parser.format_help())
    arguments = parser.parse_args(argv)
    return outcome.run(lambda: _run(arguments), arguments.debug)


def _run(arguments: argparse.Namespace) -> None:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "0" if arguments.debug else "3")
    with contextlib.nullcontext() if arguments.debug else startup.quiet():
        if startup.PROGRAM is not None:  # these settings are of the whole process
            # The imports make many objects that stay. Python's default threshold of 700 searches
            # them so often that it costs 6% of the time to the first epoch's line.
            gc.set_threshold(50_000)
            # TensorFlow leaves oneDNN's convolutions off on processors without instructions for
            # neural networks. On such an AMD EPYC a training step of hierarchical_mnist takes 0.75
            # of its processor time with them.
            os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
            if getattr(arguments, "strategy", "none") != "none":
                startup.keep_freed_memory()
            if sys.stdout is not None:  # a name may have letters that the terminal lacks
                sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
            if not arguments.debug:
                logging.getLogger("tensorflow").setLevel(logging.ERROR)
        if arguments.needs_keras:
            startup.require_environment()
        command = importlib.import_module(f"vae_keras.cli.{arguments.command}")
    command.run(arguments)


def _parser() -> argparse.ArgumentParser:
    program = startup.PROGRAM or "vae-keras"
    parser = argparse.ArgumentParser(
        prog=program, description="Trains, measures, draws and exports variational autoencoders."
    )
    commands = parser.add_subparsers(required=True, dest="command", metavar="COMMAND")

    def add(name: str, text: str, needs_keras: bool = True) -> argparse.ArgumentParser:
        prog = program if program == "python train.py" else f"{program} {name}"
        command = commands.add_parser(name, prog=prog, help=text, description=text)
        command.set_defaults(needs_keras=needs_keras)
        command.add_argument(
            "--debug", action="store_true", help="show tracebacks and TensorFlow's log"
        )
        return command

    _add_train(add("train", "Trains a preset and writes a run folder."))
    add("presets", "Lists the presets of the zoo.", needs_keras=False)

    command = add("evaluate", "Measures -log p(x), the ELBO and its terms on held-out images.")
    _add_model(command)
    _add_data(command, "what the model was trained on")
    command.add_argument(
        "--samples", type=int, default=5000, metavar="K", help="importance samples (default: 5000)"
    )
    command.add_argument(
        "--images", type=int, metavar="N", help="measure the first N images (default: all)"
    )
    _add_refined(command)
    _add_seed(command)
    command.add_argument("--json", metavar="FILE", help="also write the numbers to this file")

    command = add("detect", "Says which images are anomalies, at a rate of false alarms.")
    _add_model(command)
    command.add_argument("--data", required=True, metavar="DATA", help=f"the images; {_FORMS}")
    command.add_argument(
        "--calibrate",
        metavar="DATA",
        help="normal images that the model did not train on (default: the calibration beside the "
        "model, or the validation images of its data)",
    )
    command.add_argument(
        "--false-alarms", type=float, default=0.01, metavar="RATE", help="rate (default: 0.01)"
    )
    command.add_argument(
        "--together",
        action="store_true",
        help="the rate limits the share of false alarms among the anomalies "
        "(Benjamini and Hochberg)",
    )
    command.add_argument(
        "--score", metavar="NAME", help="how a new calibration scores (default: statistics)"
    )
    command.add_argument("--skip-damaged", action="store_true", help=_SKIP)
    _add_seed(command)
    command.add_argument(
        "--to", default="verdicts", metavar="DIR", help="folder (default: verdicts)"
    )

    command = add("sample", "Draws images from the prior into one PNG file.")
    _add_model(command)
    command.add_argument(
        "--count", type=int, default=25, metavar="N", help="a multiple of 5 (default: 25)"
    )
    command.add_argument(
        "--label", metavar="CLASS", help="draw this class: a number or a name (default: every one)"
    )
    _add_seed(command)
    command.add_argument("--to", default="samples.png", metavar="FILE", help="default: samples.png")

    command = add("figures", "Draws the figures of a model from held-out images.")
    _add_model(command)
    _add_data(command, "what the model was trained on")
    command.add_argument("--to", default="figures", metavar="DIR", help="folder (default: figures)")

    command = add("explore", "Writes a page in which the model runs without a network.")
    _add_model(command)
    _add_data(command, "what the model was trained on")
    command.add_argument(
        "--to",
        metavar="FILE",
        help="the HTML file (default: explorer.html, in the run folder of --model if it has one)",
    )
    command.add_argument(
        "--engine", metavar="DIR", help="onnxruntime-web as npm installs it (default: npm is run)"
    )

    command = add("embed", "Writes the posterior, the ELBO and the label of each image to a file.")
    _add_model(command)
    _add_data(command, "what the model was trained on")
    command.add_argument(
        "--to",
        required=True,
        metavar="FILE",
        help="an .npz or .parquet file, or a folder for TensorBoard's projector",
    )

    command = add("export", "Exports a model for TF Serving, ONNX or LiteRT.")
    _add_model(command)
    command.add_argument(
        "--to", required=True, metavar="DIR", help="folder of the export, the base path of a server"
    )
    command.add_argument(
        "--version", type=int, metavar="V", help="version of the SavedModel (default: the next)"
    )
    command.add_argument(
        "--format", default=_FORMATS[0], choices=_FORMATS, help="default: saved_model"
    )

    command = add("publish", "Measures a finished run on the test set and adds it to the zoo.")
    command.add_argument("run_folder", metavar="RUN", help="a run folder, such as runs/mlp_mnist")
    _add_refined(command)

    command = add("cache", "Lists the caches of decoded images, and removes them.", False)
    command.add_argument(
        "--remove", metavar="NAME", help="remove the cache of this name, or all of them: all"
    )
    add("render", "Writes the cards and tables of the zoo from their JSON files.")
    return parser


def _add_train(command: argparse.ArgumentParser) -> None:
    command.usage = "%(prog)s [-h] [flags]"  # all flags are listed below
    add = command.add_argument
    add("--preset", default="mlp_mnist", metavar="NAME", help="a recipe (default: mlp_mnist)")
    add("--epochs", type=int, metavar="N", help="passes over the training images")
    add("--batch-size", type=int, metavar="N", help="images in a step")
    add("--learning-rate", type=float, metavar="RATE", help="highest learning rate")
    add("--seed", type=int, metavar="S", help="seed of weights, order and noise")
    add("--workdir", metavar="DIR", help="the run folder (default: runs/PRESET[-DATA])")
    _add_data(command, "the preset's")
    add("--image-size", metavar="H[xW]", help="scale own images to this size")
    add("--group-by", metavar="PATTERN", help="never divide own images whose names share this")
    add("--validation", type=int, metavar="N", help="training images to hold out")
    add(
        "--binarization",
        choices=("dynamic", "none", "threshold"),
        help="how pixels become binary; none keeps them grey",
    )
    add(
        "--condition",
        choices=("labels", "none"),
        help="labels: draw and measure each class by its label, such as a sub-folder's name",
    )
    add(
        "--strategy",
        default="none",
        metavar="NAME",
        help="mirrored or multi_worker (default: none)",
    )
    add("--test", action="store_true", help="also measure and draw the test set")
    add("--overwrite", action="store_true", help="empty the folder of another run first")


def _add_model(command: argparse.ArgumentParser) -> None:
    source = command.add_mutually_exclusive_group(required=True)
    source.add_argument("--preset", metavar="NAME", help="a model of the zoo")
    source.add_argument("--model", metavar="PATH", help="a .keras file")


def _add_data(command: argparse.ArgumentParser, default: str) -> None:
    command.add_argument(
        "--data",
        metavar="DATA",
        help=f"{_FORMS} (default: {default})",
    )
    command.add_argument("--skip-damaged", action="store_true", help=_SKIP)


def _add_refined(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--refined",
        type=int,
        metavar="N",
        help="only N images take all samples, the others 100; for slow models",
    )


def _add_seed(command: argparse.ArgumentParser) -> None:
    command.add_argument("--seed", type=int, default=0, metavar="S", help="seed (default: 0)")
