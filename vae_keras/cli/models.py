"""What several commands share: the model and the data that the user named."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from vae_keras import optimizers  # noqa: F401  a checkpoint names its classes
from vae_keras.data import datasets
from vae_keras.model import VAE
from vae_keras.training.plan import load_data
from vae_keras.utils import checks, keras_file
from vae_keras.zoo import presets


def read_model(arguments: argparse.Namespace) -> VAE:
    """Loads the model of `--preset` or `--model`.

    Args:
        arguments: the parsed arguments.

    Returns:
        The model.

    Raises:
        checks.InputError: if there is no such model, or the file is damaged or holds another one.
    """
    if arguments.preset is not None:
        return VAE.from_preset(arguments.preset)
    model = keras_file.load(arguments.model)
    if not isinstance(model, VAE):
        raise checks.InputError(
            f"--model takes a VAE. Received: a {type(model).__name__} in {arguments.model}. "
            "Train one: vae-keras train"
        )
    return model


def trained_on(arguments: argparse.Namespace) -> str:
    """Returns the name of the data that a model was trained on.

    Args:
        arguments: the parsed arguments.

    Returns:
        The data of the preset's recipe, or of the `config.json` beside the `.keras` file. "mnist"
        if there is no such file.

    Raises:
        checks.InputError: if the `config.json` is damaged.
    """
    if arguments.preset is not None:
        return presets.load_recipe(arguments.preset).data
    path = Path(arguments.model).parent / "config.json"
    try:
        return str(json.loads(path.read_text("utf-8"))["data"])
    except (FileNotFoundError, KeyError, TypeError):
        return "mnist"
    except (ValueError, RecursionError) as error:
        raise checks.InputError(
            f"the config.json beside a model must be valid JSON. Received: {path} ({error}). "
            "Restore the file, or move the model to another folder."
        ) from error


def load_test_data(arguments: argparse.Namespace, model: VAE) -> datasets.DataSet:
    """Loads the data of `--data`, or else the data that the model was trained on.

    Args:
        arguments: the parsed arguments.
        model: the model. Own images are scaled to its image size.

    Returns:
        The data set.

    Raises:
        checks.InputError: if the data cannot be loaded, or the user has to name them.
    """
    name = arguments.data
    if name is None:
        name = trained_on(arguments)
        if name not in datasets.KNOWN:
            raise checks.InputError(
                "--data must name the images if a model was trained on own images. "
                f"Received: {arguments.model}, trained on {name!r}, without --data. "
                "Pass their file or folder."
            )
    if name in datasets.KNOWN:
        return load_data(name)
    height, width, _ = model.image_shape
    dataset = load_data(name, f"{height}x{width}")
    print("\n".join(datasets.describe(dataset)))
    return dataset
