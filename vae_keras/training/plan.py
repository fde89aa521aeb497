"""The plan of a run: everything that is decided before the run folder is touched."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from vae_keras.data import datasets, own_images
from vae_keras.labels import MISSING
from vae_keras.training.build import training_bytes
from vae_keras.training.config import TrainConfig
from vae_keras.utils import checks, files
from vae_keras.utils.rows import Array
from vae_keras.zoo import presets

SPLITS = ("training", "validation", "test")

# The recipe for own images, which nobody tuned a recipe for. Adam's steps do not depend on the size
# of the gradient; the clipped norm keeps one bad batch from undoing many good ones. bfloat16 is
# slow on processors without instructions for it. The ELBO takes one pass through the decoder, where
# an IWAE of colour images takes several, and as much more memory.
_OPTIMIZER = presets.Part("Adam", {"global_clipnorm": 100.0})
_LEARNING_RATE, _WARMUP_STEPS, _PRECISION = 0.001, 200, "float32"
_BOUND = 20.0  # of the logits: a pixel's density then has a bound, and its gradient does not vanish
_BOUNDED = ("MLPDecoder", "ConvDecoder")

# For own images whose sizes the user left open: one training image in _VALIDATION_SHARE is held
# out, and an epoch has _STEPS steps if batches of at least _MIN_BATCH images allow it.
_VALIDATION_SHARE, _STEPS, _MIN_BATCH = 10, 100, 10

# Convolutions get more stages for larger own images, until a side has at most _LOWEST pixels.
_LOWEST, _WIDEST = 8, 128


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
        classes: `num_classes` and `class_names` of the model, for a recipe with a condition.
            Default None.
    """

    preset: str
    recipe: presets.Recipe
    dataset: datasets.DataSet
    title: str
    settings: Mapping[str, Any]
    remarks: tuple[str, ...] = ()
    classes: Mapping[str, Any] | None = None

    @property
    def held_out(self) -> str:
        """The split that a run is measured on: "validation", or "training" without one."""
        return "validation" if self.recipe.validation else "training"

    def images(self, split: str) -> tuple[Array, np.ndarray | None]:
        """Returns the images of a split and their labels.

        Args:
            split: one of `SPLITS`. The validation images are the last ones of `x_train`.

        Returns:
            uint8 [N, H, W, C] in memory or as `Rows`, and labels [N] or None.
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
    changed = {
        "other data": other_data,
        "other pixels": recipe.likelihood != preset.likelihood,
        "another condition": recipe.condition != preset.condition,
    }
    if differs := [what for what, differs in changed.items() if differs]:
        if recipe.start_from:
            remarks.append(
                f"Starting from fresh weights: those of {recipe.start_from} are for {differs[0]}."
            )
        recipe = dataclasses.replace(recipe, start_from="", choices="")
    if other_data:
        title = f"{title} on {dataset.name}"
        description = f"The networks of {config.preset}, trained on {dataset.name}"
        recipe = dataclasses.replace(recipe, data=dataset.name, description=description)
    colours = dataset.images.x_train.shape[-1] == 3
    if config.binarization == "none" and colours:
        recipe = dataclasses.replace(recipe, likelihood=presets.Part("DiscretizedLogisticMixture"))
    given = dataset.validation
    if given and config.validation not in (None, given):
        raise checks.InputError(
            "validation is for data without a validation set of their own. "
            f"Received: {config.validation} beside a set of {given:,} images. Leave it out."
        )
    if given:
        recipe = dataclasses.replace(recipe, validation=given)
    if dataset.own:
        recipe = _sized(_for_own_images(recipe, config), config, dataset)
        wanted = config.validation
        if wanted is not None and wanted != recipe.validation:
            remarks.append(
                f"Held out for validation: {recipe.validation:,} instead of {wanted:,} images, so "
                "that images which stay together are on one side."
            )
    _check(recipe, dataset)
    dataset, classes = _classes_of(recipe, dataset, with_test=config.test)
    if config.test and not len(dataset.images.x_test):
        raise checks.InputError(
            "test needs test images. Received: data with a validation set only. Leave out --test, "
            "or add a folder named test."
        )
    settings = {"preset": config.preset} | recipe.to_dict()
    if recipe.start_from:
        settings[presets.START_HASH] = files.sha256(presets.weights(recipe.start_from))
    if dataset.own:
        settings["own_data"] = dict(dataset.identity)
    return Plan(config.preset, recipe, dataset, title, settings, tuple(remarks), classes)


def load_data(
    name: str,
    image_size: str | None = None,
    skip_damaged: bool = False,
    group_by: str | None = None,
    say: Callable[[str], None] = print,
) -> datasets.DataSet:
    """Loads a named data set, or own images.

    Args:
        name: a name in `datasets.KNOWN`, or a path.
        image_size, skip_damaged, group_by, say: as in `own_images.open_images`, for own images
            only. Default None, False, None and `print`.

    Returns:
        The data set.

    Raises:
        checks.InputError: if the data cannot be loaded.

    Example:
        >>> load_data("mnist").images.x_train.shape
        (60000, 28, 28, 1)
    """
    if name not in datasets.KNOWN:
        return own_images.open_images(
            name, image_size, skip_damaged=skip_damaged, group_by=group_by, say=say
        )
    for argument, value in (("image_size", image_size), ("group_by", group_by)):
        if value is not None:
            raise checks.InputError(
                f"{argument} is for own images only. Received: {value!r} for {name}. "
                "Leave it out, or name a folder."
            )
    return datasets.load(name)


def _for_own_images(recipe: presets.Recipe, config: TrainConfig) -> presets.Recipe:
    """Returns a recipe with the networks of a preset, and a training that suits any images.

    A learning rate that the user asked for stays.
    """
    rate = recipe.learning_rate if config.learning_rate is not None else _LEARNING_RATE
    more: dict[str, Any] = {}
    if recipe.likelihood.name != "DiscretizedLogisticMixture" and recipe.decoder.name in _BOUNDED:
        more["bound"] = _BOUND
    if recipe.decoder.name == "ConvDecoder":
        more["upsampling"] = "nearest"
    arguments = dict(recipe.decoder.arguments) | more
    return dataclasses.replace(
        recipe,
        decoder=dataclasses.replace(recipe.decoder, arguments=arguments),
        objective=presets.Part("ELBO"),
        optimizer=_OPTIMIZER,
        learning_rate=rate,
        warmup_steps=_WARMUP_STEPS,
        restarts=0,
        precision=_PRECISION,
    )


def _sized(
    recipe: presets.Recipe, config: TrainConfig, dataset: datasets.DataSet
) -> presets.Recipe:
    """Returns the recipe with the sizes that the user left open chosen for the data."""
    num_images, given = len(dataset.images.x_train), dataset.validation
    validation = num_images // _VALIDATION_SHARE if config.validation is None else recipe.validation
    validation = given or validation
    if not given and validation < num_images:
        validation = dataset.held_out(validation)
    recipe = dataclasses.replace(recipe, validation=validation)
    recipe = dataclasses.replace(
        recipe,
        encoder=_deepened(recipe.encoder, dataset.images.x_train.shape[1:3]),
        decoder=_deepened(recipe.decoder, dataset.images.x_train.shape[1:3]),
    )
    if config.batch_size is None:
        kept = max(num_images - recipe.validation, 1)
        batch = min(max(kept // _STEPS, _MIN_BATCH), recipe.batch_size, kept)
        recipe = dataclasses.replace(recipe, batch_size=batch)
    return recipe


def _deepened(part: presets.Part, sides: tuple[int, int]) -> presets.Part:
    """Returns a convolutional network with a stage for each halving that the images need."""
    if part.name not in ("ConvEncoder", "ConvDecoder"):
        return part
    widths = list(part.arguments.get("widths", (32, 64)))
    while max(sides) > _LOWEST * 2 ** len(widths):
        widths.append(max(widths[-1], min(2 * widths[-1], _WIDEST)))
    return dataclasses.replace(part, arguments=dict(part.arguments) | {"widths": widths})


def _classes_of(
    recipe: presets.Recipe, dataset: datasets.DataSet, with_test: bool
) -> tuple[datasets.DataSet, dict[str, Any] | None]:
    """Returns the data with labels that a model can take, and the classes of the model.

    Labels 0 to K - 1 are taken as they are. The texts of any other labels name the classes. Each
    class needs an image to train on. The classes of test images count only if they are measured.
    """
    if recipe.condition == "none":
        return dataset, None
    _, y_train, _, y_test = images = dataset.images
    kept = len(images.x_train) - recipe.validation
    labels = np.array([]) if y_train is None else y_train
    found = np.unique(labels[:kept])
    missing = int((labels == ("" if labels.dtype.kind == "U" else MISSING)).sum())
    if len(found) < 2 or missing:
        received = f"{missing:,} images without a label" if missing else "data without classes"
        raise checks.InputError(
            "condition labels needs the label of each training image, of two classes at least. "
            f"Received: {received}. Put the images of each class into a folder of their own."
        )
    if with_test and y_test is None and len(images.x_test):
        raise checks.InputError(
            "test and condition labels need the label of each test image. "
            "Received: test images without labels. Leave out --test, or add the labels."
        )
    measured = [labels[kept:], *([y_test] if with_test and y_test is not None else [])]
    unknown = np.setdiff1d(
        np.concatenate([part.astype(str) for part in measured]), found.astype(str)
    )
    if len(unknown):
        raise checks.InputError(
            "condition labels needs an image to train on of each class that is measured. Received: "
            f"held-out images of {', '.join(unknown):.100}. Add images, or leave this class out."
        )
    if np.issubdtype(found.dtype, np.integer) and np.array_equal(found, np.arange(len(found))):
        return dataset, {"num_classes": len(found)}

    def texts(labels: np.ndarray | None) -> np.ndarray | None:
        return None if labels is None else labels.astype(str)

    named = images._replace(y_train=texts(y_train), y_test=texts(y_test))
    classes = {"num_classes": len(found), "class_names": [str(name) for name in found]}
    return dataclasses.replace(dataset, images=named), classes


def _check(recipe: presets.Recipe, dataset: datasets.DataSet) -> None:
    images = dataset.images.x_train
    if recipe.validation >= len(images):
        raise checks.InputError(
            f"validation must leave images to train on. Received: {recipe.validation} of "
            f"{len(images)} images. Hold fewer out."
        )
    checks.batch_size(recipe.batch_size, len(images) - recipe.validation)
    needed, total = training_bytes(recipe, images.shape[1:]), checks.machine_memory()
    if needed > total:
        raise checks.InputError(
            "the networks and one batch of images must fit into memory. Received: "
            f"{recipe.encoder.name} and {recipe.decoder.name} for images of "
            f"{' x '.join(map(str, images.shape[1:]))}, which take about {needed:,} bytes of "
            f"{total:,}. Pass a smaller --image-size or --batch-size, or a preset of convolutions."
        )
    if recipe.likelihood.name == "ContinuousBernoulli":
        checks.not_only_binary(images)
