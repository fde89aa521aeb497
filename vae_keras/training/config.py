"""The configuration of a run: a preset, and the values that replace the preset's."""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vae_keras import data
from vae_keras.data import datasets, own_images
from vae_keras.training import checkpoints
from vae_keras.utils import checks
from vae_keras.zoo import presets


@dataclass(frozen=True)
class TrainConfig:
    """What a user asks `train` for. None means the value of the preset.

    Attributes:
        preset: name of a recipe in the zoo. Default "mlp_mnist".
        epochs: passes over the training images. Default None.
        batch_size: images in a step, of all replicas together. Default None; for own images it
            then depends on their number.
        learning_rate: highest learning rate. Default None.
        seed: seed of weights, order and noise, an integer in [0, 2^31). Default None.
        workdir: the run folder. Default `runs/<preset>`, or `runs/<preset>-<data>` if `data` is
            not the preset's.
        data: a name in `datasets.KNOWN`, or a path as `own_images.open_images` takes it.
            Default None.
        image_size: "H" or "HxW". Own images are scaled to this size. Default: their own size.
        skip_damaged: whether damaged files among own images are left out. Default False.
        group_by: regular expression for the names of own images that are never divided, as in
            `own_images.open_images`. Default None.
        validation: number of training images held out for validation, the last ones. Default
            None; for own images it then depends on their number.
        binarization: "dynamic", "threshold" or "none". It also sets the likelihood. For "none" it
            is a `DiscretizedLogisticMixture` if the images have colours, and a
            `ContinuousBernoulli` if they are grey. Else it is a `Bernoulli`. Default None.
        condition: "labels" for a model of p(x | z, y) whose classes are the labels of the data, or
            "none". Default None.
        strategy: "none", "mirrored" or "multi_worker", see `cluster.join`. Default "none".
        test: whether the test set is measured and drawn at the end, too. Default False.
        overwrite: whether the folder of another run is emptied. Default False.

    Example:
        >>> TrainConfig(preset="mlp_mnist", epochs=2).recipe().epochs
        2
    """

    preset: str = "mlp_mnist"
    epochs: int | None = None
    batch_size: int | None = None
    learning_rate: float | None = None
    seed: int | None = None
    workdir: str | os.PathLike[str] | None = None
    data: str | None = None
    image_size: str | None = None
    skip_damaged: bool = False
    group_by: str | None = None
    validation: int | None = None
    binarization: str | None = None
    condition: str | None = None
    strategy: str = "none"
    test: bool = False
    overwrite: bool = False

    def recipe(self) -> presets.Recipe:
        """Returns the preset's recipe with the values of this configuration.

        Returns:
            The recipe. Its `data` is still the path if the data are own images.

        Raises:
            checks.InputError: if a value breaks a rule.

        Example:
            >>> TrainConfig(binarization="none").recipe().likelihood.name
            'ContinuousBernoulli'
        """
        values: dict[str, Any] = {
            "epochs": self.epochs,
            "batch_size": self.batch_size,
            "learning_rate": self.learning_rate,
            "seed": self.seed,
            "data": self.data,
            "validation": self.validation,
            "binarization": self.binarization,
            "condition": self.condition,
        }
        given = {name: value for name, value in values.items() if value is not None}
        recipe = dataclasses.replace(presets.load_recipe(self.preset), **given)
        if self.binarization is not None:
            kind = "ContinuousBernoulli" if self.binarization == "none" else "Bernoulli"
            recipe = dataclasses.replace(recipe, likelihood=presets.Part(kind))
        checks.whole_number("epochs", recipe.epochs, 1, checkpoints.MAX_EPOCHS)
        checks.whole_number("batch_size", recipe.batch_size, 1)
        checks.positive("learning_rate", recipe.learning_rate)
        checks.seed(recipe.seed)
        checks.whole_number("validation", recipe.validation, 0)
        checks.whole_number("warmup_steps", recipe.warmup_steps, 0)
        checks.whole_number("restarts", recipe.restarts, 0)
        checks.choice("binarization", recipe.binarization, data.BINARIZATIONS)
        checks.choice("likelihood", recipe.likelihood.name, presets.LIKELIHOODS)
        checks.choice("condition", recipe.condition, presets.CONDITIONS)
        checks.choice("precision", recipe.precision, presets.PRECISIONS)
        return recipe

    def folder(self) -> Path:
        """Returns the run folder.

        Returns:
            `workdir`, or its default.

        Raises:
            checks.InputError: if `workdir` or `data` is not a path.

        Example:
            >>> TrainConfig(data="fashion_mnist").folder().name
            'mlp_mnist-fashion_mnist'
        """
        if self.workdir is not None:
            return checks.path("workdir", self.workdir)
        if self.data in (None, presets.load_recipe(self.preset).data):
            return Path("runs") / self.preset
        name = self.data if self.data in datasets.KNOWN else own_images.name(self.data)
        return Path("runs") / f"{self.preset}-{name}"
