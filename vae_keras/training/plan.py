"""The plan of a run: everything that is decided before the run folder is touched."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from vae_keras.data import datasets, image_folder
from vae_keras.training.config import TrainConfig
from vae_keras.utils import checks, files
from vae_keras.zoo import presets

SPLITS = ("training", "validation", "test")

# For own images whose sizes the user left open: one training image in _VALIDATION_SHARE is held
# out, and an epoch has _STEPS steps if batches of at least _MIN_BATCH images allow it.
_VALIDATION_SHARE, _STEPS, _MIN_BATCH = 10, 100, 10


@dataclass(frozen=True)
class Plan:
    """What a run does.

    Attributes:
        preset: name of the preset.
        recipe: the recipe, with the user's values and sized by the data.
        dataset: the data.
        title: title of the run's page.
        settings: content of the run's `config.json`.
        remarks: lines for the user on what the data changed. Default ().
    """

    preset: str
    recipe: presets.Recipe
    dataset: datasets.DataSet
    title: str
    settings: Mapping[str, Any]
    remarks: tuple[str, ...] = ()

    @property
    def held_out(self) -> str:
        """The split that a run is measured on: "validation", or "training" without one."""
        return "validation" if self.recipe.validation else "training"

    def images(self, split: str) -> tuple[np.ndarray, np.ndarray | None]:
        """Returns the images of a split and their labels.

        Args:
            split: one of `SPLITS`. The validation images are the last ones of `x_train`.

        Returns:
            uint8 [N, H, W, C], and labels [N] or None.
        """
        checks.choice("split", split, SPLITS)
        images = self.dataset.images
        if split == "test":
            return images.x_test, images.y_test
        kept = len(images.x_train) - self.recipe.validation
        rows = slice(None, kept) if split == "training" else slice(kept, None)
        labels = None if images.y_train is None else images.y_train[rows]
        return images.x_train[rows], labels

    def describe(self) -> list[str]:
        """Returns lines for the user: what was found, and what is done with it."""
        kept = len(self.dataset.images.x_train) - self.recipe.validation
        steps = -(-kept // self.recipe.batch_size)
        return [
            *datasets.describe(self.dataset),
            *self.remarks,
            f"Training on {kept:,} images, {self.recipe.validation:,} held out for validation: "
            f"{self.recipe.epochs:,} epochs of {steps:,} steps, {self.recipe.batch_size} images a "
            "step.",
        ]


def make_plan(config: TrainConfig, recipe: presets.Recipe, dataset: datasets.DataSet) -> Plan:
    """Makes the plan of a run from its recipe and its data.

    Args:
        config: what the user asked for. It says which sizes the user left open.
        recipe: the recipe of `config`.
        dataset: the data that the recipe names.

    Returns:
        The plan.

    Raises:
        checks.InputError: if the data do not suffice for the recipe, or do not suit its
            likelihood.

    Example:
        >>> config = TrainConfig(epochs=2)
        >>> plan = make_plan(config, config.recipe(), datasets.load("mnist"))
        >>> len(plan.images("validation")[0])
        10000
    """
    preset, remarks = presets.load_recipe(config.preset), []
    title = f"Run of {config.preset}"
    other_data = dataset.name != preset.data
    if other_data or recipe.likelihood != preset.likelihood:
        if recipe.start_from:
            what = "data" if other_data else "pixels"
            remarks.append(
                f"Starting from fresh weights: those of {recipe.start_from} are for other {what}."
            )
        recipe = dataclasses.replace(recipe, start_from="", choices="")
    if other_data:
        title = f"{title} on {dataset.name}"
        description = f"The networks of {config.preset}, trained on {dataset.name}"
        recipe = dataclasses.replace(recipe, data=dataset.name, description=description)
    if dataset.own:
        recipe = _sized(recipe, config, len(dataset.images.x_train))
    _check(recipe, dataset)
    settings = {"preset": config.preset} | recipe.to_dict()
    if recipe.start_from:
        settings[presets.START_HASH] = files.sha256(presets.weights(recipe.start_from))
    if dataset.own:
        settings["own_data"] = dict(dataset.identity)
    return Plan(config.preset, recipe, dataset, title, settings, tuple(remarks))


def load_data(name: str, image_size: str | None = None) -> datasets.DataSet:
    """Loads a named data set, or own images.

    Args:
        name: a name in `datasets.KNOWN`, or a path.
        image_size: "H" or "HxW", as in `image_folder.load`. Only own images are scaled.
            Default None.

    Returns:
        The data set.

    Raises:
        checks.InputError: if the data cannot be loaded.

    Example:
        >>> load_data("mnist").images.x_train.shape
        (60000, 28, 28, 1)
    """
    if name not in datasets.KNOWN:
        return image_folder.load(name, image_size)
    if image_size is not None:
        raise checks.InputError(
            f"image_size scales your own images. Received: {image_size!r} for {name}. "
            "Leave it out, or name a folder."
        )
    return datasets.load(name)


def _sized(recipe: presets.Recipe, config: TrainConfig, num_images: int) -> presets.Recipe:
    """Returns the recipe with the sizes that the user left open chosen for `num_images`."""
    if config.validation is None:
        recipe = dataclasses.replace(recipe, validation=num_images // _VALIDATION_SHARE)
    if config.batch_size is None:
        kept = max(num_images - recipe.validation, 1)
        batch = min(max(kept // _STEPS, _MIN_BATCH), recipe.batch_size, kept)
        recipe = dataclasses.replace(recipe, batch_size=batch)
    return recipe


def _check(recipe: presets.Recipe, dataset: datasets.DataSet) -> None:
    images = dataset.images.x_train
    if recipe.validation >= len(images):
        raise checks.InputError(
            f"validation must leave images to train on. Received: {recipe.validation} of "
            f"{len(images)} images. Hold fewer out."
        )
    checks.batch_size(recipe.batch_size, len(images) - recipe.validation)
    if recipe.likelihood.name == "ContinuousBernoulli":
        checks.not_only_binary(images)
