"""What several commands share: the model and the data that the user named."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from vae_keras import optimizers  # noqa: F401  a checkpoint names its classes
from vae_keras.data import datasets
from vae_keras.model import VAE
from vae_keras.training import run_folder
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
    return str(_settings(arguments).get("data", "mnist"))


def _settings(arguments: argparse.Namespace) -> dict[str, Any]:
    """Returns the content of the `config.json` beside a model, or {} without one."""
    if arguments.preset is not None:
        return {}
    path = Path(arguments.model).parent / run_folder.CONFIG
    try:
        settings = json.loads(path.read_text("utf-8"))
        return settings if isinstance(settings, dict) else {}
    except FileNotFoundError:
        return {}
    except (ValueError, RecursionError) as error:
        raise checks.InputError(
            f"the config.json beside a model must be valid JSON. Received: {path} ({error}). "
            "Restore the file, or move the model to another folder."
        ) from error


class Held(NamedTuple):
    """The images that a model is measured on.

    Attributes:
        x: uint8 [N, H, W, C], in memory or as `Rows`.
        y: labels [N], or None.
        kind: what they are: "test" or "validation" images of the data that the model was trained
            on, or "unseen" images.
        invert: whether figures draw black as white.
        names: name of each image.
    """

    x: Any
    y: np.ndarray | None
    kind: str
    invert: bool
    names: Sequence[str]


def load_held_out(arguments: argparse.Namespace, model: VAE) -> Held:
    """Loads images that a model did not train on, and says which.

    Args:
        arguments: the parsed arguments. `--data` names the data. Its default is the data that the
            model was trained on.
        model: the model. Own images are scaled to its image size.

    Returns:
        The test images of the data. Without a given division these are all images that the model
        did not train on.

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
        dataset = load_data(name)
        x, y = dataset.images.x_test, dataset.images.y_test
        return Held(x, y, "test", dataset.invert, dataset.names()[1])
    height, width, _ = model.image_shape
    known = _settings(arguments).get("own_data")
    known = known if isinstance(known, dict) else {}
    group_by = known.get("group_by")
    dataset = load_data(name, f"{height}x{width}", arguments.skip_damaged, group_by)
    print("\n".join(datasets.describe(dataset)))
    return _held_out(arguments, dataset, known.get("sha256") == dataset.identity["sha256"])


def _held_out(arguments: argparse.Namespace, dataset: datasets.DataSet, is_same: bool) -> Held:
    """Chooses the images to measure of own data; `is_same` says whether the model knows them."""
    x_train, y_train, x, y = dataset.images
    trained_names, names = dataset.names()
    if is_same or dataset.divided:
        kind = "test"
        if not len(x):
            kept = len(x_train) - dataset.validation
            x, y, kind = x_train[kept:], None if y_train is None else y_train[kept:], "validation"
            names = trained_names[kept:]
        if not len(x):
            raise checks.InputError(
                "a model is measured on images that it did not train on. "
                f"Received: {arguments.data}, which holds training images only. "
                "Pass other images."
            )
        trained = "The model was trained on these data" if is_same else "The data come divided"
        print(f"{trained}: their {len(x):,} {kind} images are measured.")
        return Held(x, y, kind, dataset.invert, names)
    seen = _seen(arguments)
    x, y, names = dataset.unseen(seen)
    whole = len(x_train) + len(dataset.images.x_test)
    if not len(x):
        raise checks.InputError(
            "a model is measured on images that it did not train on. "
            f"Received: {arguments.data}, whose images it has all seen. Pass other images."
        )
    if seen is None:
        print(f"All {whole:,} images are measured. What the model was trained on is not known.")
    else:
        print(
            f"All {len(x):,} images that the model did not train on are measured; "
            f"{whole - len(x):,} others are left out."
        )
    return Held(x, y, "unseen", dataset.invert, names)


def _seen(arguments: argparse.Namespace) -> np.ndarray | None:
    """Returns the hashes of the images that a run trained on, or None if they are not known."""
    if arguments.preset is not None:
        return None
    path = Path(arguments.model).parent / run_folder.TRAINED_ON
    try:
        return np.load(path, allow_pickle=False)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, EOFError) as error:
        raise checks.InputError(
            "the hashes of the images that a run trained on must be whole. "
            f"Received: {path} ({error}). Restore the file, or remove it."
        ) from error
