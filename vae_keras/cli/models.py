"""What several commands share: the model and the data that the user named."""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from vae_keras import optimizers  # noqa: F401  a checkpoint names its classes
from vae_keras.data import datasets, own_images, store
from vae_keras.data.collection import leave_out
from vae_keras.model import VAE
from vae_keras.training import run_folder
from vae_keras.training.plan import load_data
from vae_keras.utils import checks, keras_file
from vae_keras.utils.rows import Array, Rows
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


def trained_on(arguments: argparse.Namespace) -> str | None:
    """Returns the name of the data that a model was trained on.

    Args:
        arguments: the parsed arguments.

    Returns:
        The data of the preset's recipe, or of the `config.json` beside the `.keras` file. None if
        there is no such file. The first runs wrote no name, and their data are "mnist".

    Raises:
        checks.InputError: if the `config.json` is damaged.
    """
    if arguments.preset is not None:
        return presets.load_recipe(arguments.preset).data
    settings = _settings(arguments)
    return None if settings is None else str(settings.get("data", "mnist"))


def _settings(arguments: argparse.Namespace) -> dict[str, Any] | None:
    """Returns the content of the `config.json` beside a model, or None without one."""
    if arguments.preset is not None:
        return None
    path = Path(arguments.model).parent / run_folder.CONFIG
    try:
        settings = json.loads(path.read_text("utf-8"))
        return settings if isinstance(settings, dict) else {}
    except FileNotFoundError:
        return None
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
        kind: what they are: "test" or "validation" images of a division, or "unseen" images of
            data without one.
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
        The test images of the data that the model was trained on, or of another given division.
        Of other data without a division these are all images. Images that the model trained on are
        left out.

    Raises:
        checks.InputError: if the data cannot be loaded, or the user has to name them.
    """
    name = arguments.data
    if name is None:
        name = trained_on(arguments)
        if name not in datasets.KNOWN:
            data = "unknown data" if name is None else repr(name)
            raise checks.InputError(
                "--data must name the images unless a model was trained on a set with a name. "
                f"Received: {arguments.model}, trained on {data}, without --data. "
                "Pass mnist or another set, or a file or folder."
            )
    if name in datasets.KNOWN:
        dataset = load_data(name)
        x, y = dataset.images.x_test, dataset.images.y_test
        return Held(x, y, "test", dataset.invert, dataset.names()[1])
    height, width, _ = model.image_shape
    known = (_settings(arguments) or {}).get("own_data")
    known = known if isinstance(known, dict) else {}
    size, group_by = f"{height}x{width}", known.get("group_by")
    try:
        dataset = load_data(name, size, arguments.skip_damaged, group_by)
    except checks.InputError:
        if group_by is None:
            raise
        # The pattern is for the names of the run's own images. Other images need not match it.
        dataset = load_data(name, size, arguments.skip_damaged)
    print("\n".join(datasets.describe(dataset)))
    held = _held_out(arguments, dataset, known.get("sha256") == dataset.identity["sha256"])
    return held._replace(y=_as_named(model, held.y))


def _as_named(model: VAE, labels: np.ndarray | None) -> np.ndarray | None:
    """Returns whole-number labels as texts if the names of the model's classes are such numbers.

    Training on the labels 1 to 10 makes the class 0 with the name "1". For a model with other
    names, whole numbers are the numbers of its classes.
    """
    names = model.class_names or ()
    are_numbers = bool(names) and all(re.fullmatch(r"-?\d+|True|False", name) for name in names)
    if labels is None or labels.dtype.kind not in "biu" or not are_numbers:
        return labels
    return labels.astype(str)


def _held_out(arguments: argparse.Namespace, dataset: datasets.DataSet, is_same: bool) -> Held:
    """Chooses the images to measure of own data; `is_same` says whether the model knows them."""
    x_train, y_train, x, y = dataset.images
    trained_names, names = dataset.names()
    seen = None if is_same else _hashes_of_run(arguments)
    if is_same or dataset.divided:
        assert dataset.digests is not None  # own images have them
        kind, digests = "test", dataset.digests[1]
        if not len(x):
            kept = len(x_train) - dataset.validation
            x, y, kind = x_train[kept:], None if y_train is None else y_train[kept:], "validation"
            names, digests = trained_names[kept:], dataset.digests[0][kept:]
        whole = len(x)
        if seen is not None:
            x, y, names = leave_out(seen, digests, x, y, names)
        if not len(x):
            raise checks.InputError(
                "a model is measured on images that it did not train on. "
                f"Received: {arguments.data}, which holds no other images. Pass other images."
            )
        trained = "The model was trained on these data" if is_same else "The data come divided"
        print(f"{trained}: their {len(x):,} {kind} images are measured.")
        if len(x) < whole:
            print(f"{whole - len(x):,} others are left out, because the model trained on them.")
        return Held(x, y, kind, dataset.invert, names)
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


def list_images(data: str, model: VAE, skip_damaged: bool) -> own_images.Listed:
    """Reads images that are judged, or by which others are judged, with the name of each.

    Args:
        data: a set by name, whose test images are read, or the path of own images.
        model: the model. Own images are scaled to its image size, and grey ones become colour
            images for a model of colours.
        skip_damaged: whether damaged image files are left out.

    Returns:
        `own_images.Listed`.

    Raises:
        checks.InputError: if the data cannot be loaded.
    """
    if data in datasets.KNOWN:
        x = load_data(data).images.x_test
        return own_images.Listed([f"{data}/{row}" for row in range(len(x))], x, [])
    height, width, channels = model.image_shape
    listed = own_images.list_images(data, f"{height}x{width}", skip_damaged=skip_damaged)
    print(*listed.notes, sep="\n", end="\n" if listed.notes else "")
    return listed._replace(pixels=_as_taken(listed.pixels, channels))


def _as_taken(x: Array, channels: int) -> Array:
    """Returns images with the channels of a model: grey ones become colour images when read."""
    if (channels, x.shape[-1]) != (3, 1):
        return x

    def in_colours(index: np.ndarray) -> np.ndarray:
        return np.repeat(x[index], 3, axis=-1)

    return Rows(in_colours, np.arange(len(x)), (*x.shape[1:-1], 3), x.dtype)


def validation_images(arguments: argparse.Namespace) -> Any:
    """Returns the validation images of the named data that a model was trained on.

    Args:
        arguments: the parsed arguments.

    Returns:
        uint8 [N, H, W, C]. N is 0 if the model was trained on own images or held nothing out.
    """
    train, count = _named_training_images(arguments)
    return train[len(train) - count :]


def hashes_trained_on(arguments: argparse.Namespace) -> np.ndarray | None:
    """Returns the hashes of the images that a model trained on.

    Args:
        arguments: the parsed arguments.

    Returns:
        uint64 [M]: those that a run on own images wrote, or those of the named data. None if they
        are not known.

    Raises:
        checks.InputError: if the file of the hashes is damaged.
    """
    seen = _hashes_of_run(arguments)
    if seen is not None:
        return seen
    train, count = _named_training_images(arguments)
    return store.digests(train[: len(train) - count]) if len(train) else None


def _hashes_of_run(arguments: argparse.Namespace) -> np.ndarray | None:
    """Returns the hashes that a run on own images wrote, or None without such a run."""
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


def _named_training_images(arguments: argparse.Namespace) -> tuple[Any, int]:
    """Returns the training images of the named data of a model, and how many were held out.

    Both are empty for a model of own images, and for a `.keras` file without a run.
    """
    if arguments.preset is not None:
        recipe = presets.load_recipe(arguments.preset)
        name, count = recipe.data, recipe.validation
    else:
        settings = _settings(arguments) or {}
        name, count = str(settings.get("data")), int(settings.get("validation", 0))
    if name not in datasets.KNOWN:
        return np.zeros((0, 1, 1, 1), np.uint8), 0
    return load_data(name).images.x_train, count
