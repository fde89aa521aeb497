"""Reads the presets of the zoo: recipes, weights and measurements.

Presets are data: no file of a preset is executed. This module imports neither TensorFlow nor the
model.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vae_keras.utils import checks, files

LIKELIHOODS = ("Bernoulli", "ContinuousBernoulli", "DiscretizedLogisticMixture")
PRECISIONS = ("float32", "mixed_bfloat16")
CONDITIONS = ("none", "labels")
TEXTS = ("description", "choices")  # fields that do not change a run
BESIDE = ("probes", "labels", "flat")  # JSON files of later measurements, beside the weights
START_HASH = "start_weights_sha256"  # key of the hash of the weights that a run started from
_PARTS = ("encoder", "decoder", "prior", "objective", "likelihood", "optimizer")
_CONVOLUTIONS = ("ConvEncoder", "ConvDecoder")


@dataclass(frozen=True)
class Part:
    """Names a class of `networks`, `priors`, `objectives`, `distributions` or `optimizers`.

    Attributes:
        name: name of the class.
        arguments: arguments of its constructor. Default {}.
    """

    name: str
    arguments: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclass(frozen=True)
class Recipe:
    """Describes how a preset is trained; `recipe.json` holds these fields.

    The learning rate rises linearly for `warmup_steps` and then falls to 0 along a cosine. This is
    repeated after every restart.

    Attributes:
        description: one line that says what the preset is.
        encoder: the encoder.
        decoder: the decoder.
        epochs: number of passes over the training images.
        batch_size: number of images in a step.
        learning_rate: highest learning rate of the optimizer.
        prior: the prior p(z). Default `StandardNormal`.
        objective: what training maximises. Default `ELBO`.
        likelihood: the likelihood p(x|z) of the pixels. Default `Bernoulli`.
        optimizer: the optimizer. Default `Adam`.
        precision: Keras dtype policy of the networks during training. The saved model computes in
            float32. Default "float32".
        start_from: preset whose encoder and decoder weights training starts from, or "" for fresh
            weights. Default "".
        warmup_steps: steps of the linear rise. Default 0.
        restarts: how often the learning rate starts again. The `restarts + 1` cycles have the same
            number of steps. Default 0.
        binarization: "dynamic", "threshold" or "none". Default "dynamic".
        validation: number of images held out for validation, the last ones of the training images.
            Default 10000.
        seed: seed of the weights, the order and the noise, an integer >= 0. Default 0.
        data: name of the data set. Default "mnist".
        condition: "labels" for a model of p(x | z, y) whose classes are the labels of the data, or
            "none". Default "none".
        choices: sentences for the model card that say how the recipe was chosen and what else was
            tried. Default "".
    """

    description: str
    encoder: Part
    decoder: Part
    epochs: int
    batch_size: int
    learning_rate: float
    prior: Part = dataclasses.field(default_factory=lambda: Part("StandardNormal"))
    objective: Part = dataclasses.field(default_factory=lambda: Part("ELBO"))
    likelihood: Part = dataclasses.field(default_factory=lambda: Part("Bernoulli"))
    optimizer: Part = dataclasses.field(default_factory=lambda: Part("Adam"))
    precision: str = "float32"
    start_from: str = ""
    warmup_steps: int = 0
    restarts: int = 0
    binarization: str = "dynamic"
    validation: int = 10000
    seed: int = 0
    data: str = "mnist"
    condition: str = "none"
    choices: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Returns the recipe as JSON-ready values.

        Returns:
            The value of each field under its name.

        Example:
            >>> load_recipe("mlp_mnist").to_dict()["epochs"]
            30
        """
        return json.loads(json.dumps(dataclasses.asdict(self)))

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Recipe:
        """Builds a recipe from JSON values.

        Args:
            values: the values of the fields under their names. Names of version 0.1.0 are read,
                too, see `with_current_names`.

        Returns:
            The `Recipe`.

        Raises:
            checks.InputError: if a field is missing or unknown.

        Example:
            >>> recipe = load_recipe("mlp_mnist")
            >>> Recipe.from_dict(recipe.to_dict()) == recipe
            True
        """
        values = with_current_names(values)
        known = {field.name for field in dataclasses.fields(cls)}
        if unknown := sorted(set(values) - known):
            raise checks.InputError(
                f"a recipe must hold known fields only. Received: {unknown}. Remove them."
            )
        try:
            for name in _PARTS:
                if name in values:
                    values[name] = Part(**values[name])
            return cls(**values)
        except TypeError as error:
            raise checks.InputError(
                "a recipe must hold a value for every field without a default. "
                f"Received: {error}. Add what is missing."
            ) from error


def with_current_names(values: Mapping[str, Any]) -> dict[str, Any]:
    """Renames the fields of a recipe that version 0.1.0 wrote.

    `cycles` becomes `restarts`, which is one less. The `depth` of a convolutional network becomes
    `blocks_per_stage`. `schedule`, whose only value was "cosine", is removed.

    Args:
        values: a recipe as JSON values, such as `recipe.json`, or the `config.json` of a run.

    Returns:
        The values under the current names.

    Raises:
        checks.InputError: if `schedule` is not "cosine", or `cycles` is not an integer >= 1.

    Example:
        >>> with_current_names({"schedule": "cosine", "cycles": 2})
        {'restarts': 1}
    """
    current = dict(values)
    if "schedule" in current:
        checks.choice("schedule", current.pop("schedule"), ("cosine",))
    if "cycles" in current and "restarts" not in current:
        current["restarts"] = checks.whole_number("cycles", current.pop("cycles"), 1) - 1
    for name in ("encoder", "decoder"):
        part = current.get(name)
        if not isinstance(part, Mapping) or part.get("name") not in _CONVOLUTIONS:
            continue
        arguments = part.get("arguments")
        if isinstance(arguments, Mapping):
            new = {"depth": "blocks_per_stage"} if "blocks_per_stage" not in arguments else {}
            renamed = {new.get(key, key): value for key, value in arguments.items()}
            current[name] = {**part, "arguments": renamed}
    return current


def folder() -> Path:
    """Returns the folder of the zoo.

    Returns:
        `saved_models` inside of the package if it is installed, beside it in a checkout.

    Example:
        >>> (folder() / "mlp_mnist" / "recipe.json").exists()
        True
    """
    here = Path(__file__).resolve().parent.parent
    inside = here / "saved_models"
    return inside if inside.is_dir() else here.parent / "saved_models"


def names() -> tuple[str, ...]:
    """Returns the names of all presets, with or without weights.

    Returns:
        Names in alphabetical order.

    Example:
        >>> "mlp_mnist" in names()
        True
    """
    return tuple(sorted(path.parent.name for path in folder().glob("*/recipe.json")))


def trained() -> tuple[str, ...]:
    """Returns the names of the presets that have weights.

    Returns:
        Names in alphabetical order.

    Example:
        >>> "mlp_mnist" in trained()
        True
    """
    return tuple(name for name in names() if (folder() / name / "model.keras").exists())


def load_recipe(name: str) -> Recipe:
    """Reads the recipe of a preset.

    Args:
        name: one of `names()`.

    Returns:
        The `Recipe`.

    Raises:
        checks.InputError: if the name is not in the zoo, or the file is damaged.

    Example:
        >>> load_recipe("mlp_mnist").encoder.name
        'MLPEncoder'
    """
    return Recipe.from_dict(_read(name, "recipe.json"))


def load_metrics(name: str) -> dict[str, Any]:
    """Reads the `metrics.json` of a preset.

    Args:
        name: one of `names()`.

    Returns:
        The content of the file.

    Raises:
        checks.InputError: if the name is not in the zoo, or the file is missing or damaged.

    Example:
        >>> load_metrics("mlp_mnist")["preset"]
        'mlp_mnist'
    """
    return _read(name, "metrics.json")


def weights(name: str) -> Path:
    """Returns the `model.keras` of a preset after its hash was verified.

    Args:
        name: one of `trained()`.

    Returns:
        Path of the file.

    Raises:
        checks.InputError: if the name is not in the zoo, the preset has no weights, or their
            SHA-256 differs from the one in `metrics.json`.

    Example:
        >>> weights("mlp_mnist").name
        'model.keras'
    """
    checks.choice("preset", name, names())
    path = folder() / name / "model.keras"
    if not path.exists():
        raise checks.InputError(
            f"a preset can be loaded after it was trained. Received: {name}, which has a recipe "
            f"but no weights. Train it: vae-keras train --preset {name}"
        )
    try:
        expected = str(load_metrics(name)["provenance"]["weights_sha256"])
    except (KeyError, TypeError) as error:
        raise checks.InputError(
            "the metrics.json of a preset must hold the SHA-256 of its weights. "
            f"Received: {folder() / name / 'metrics.json'} without it. Install the package again."
        ) from error
    found = files.sha256(path)
    if found != expected:
        raise checks.InputError(
            "the weights of a preset must have the SHA-256 in its metrics.json, "
            f"{expected[:12]}.... Received: {path} with {found[:12]}.... "
            "Install the package again."
        )
    return path


def _read(name: str, file_name: str) -> dict[str, Any]:
    checks.choice("preset", name, names())
    path = folder() / name / file_name
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(values, dict):
            raise ValueError("the file does not hold a JSON object")
    except (OSError, ValueError, RecursionError) as error:
        raise checks.InputError(
            f"a preset must have a readable {file_name}. Received: {path} ({error}). "
            "Install the package again."
        ) from error
    return values
