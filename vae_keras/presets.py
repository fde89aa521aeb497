"""The zoo: names to recipes, weights and cards. Presets are data, read and never run."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vae_keras import checks, files

LIKELIHOODS = ("Bernoulli", "ContinuousBernoulli")
SCHEDULES = ("cosine",)
TEXTS = ("description", "choices")  # fields for people: they change no run
PRECISIONS = ("float32", "mixed_bfloat16")
START_HASH = "start_weights_sha256"  # of the weights a run started from, beside its recipe


@dataclass(frozen=True)
class Part:
    """A class of `networks`, `priors`, `objectives`, `distributions` or `optimizers`, by name.

    Attributes:
        name: of the class.
        arguments: of its constructor. Default none.
    """

    name: str
    arguments: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclass(frozen=True)
class Recipe:
    """What trains a preset; `recipe.json` holds exactly these fields.

    Attributes:
        description: one line for people.
        encoder, decoder: the networks.
        epochs: passes over the training images.
        batch_size: images a step.
        learning_rate: the optimizer's, at its highest.
        prior: p(z). Default N(0, I).
        objective: what training maximises. Default the ELBO.
        likelihood: of the pixels; it goes with the binarization. Default the Bernoulli.
        optimizer: what takes the steps. Default Adam.
        precision: the networks' Keras dtype policy while they train; what is saved computes in
            float32. Default "float32".
        start_from: the preset whose networks' weights training starts from, or "" for fresh ones,
            as for all other data than the preset's own. Default "".
        schedule: "cosine", which falls to 0 with the last step. Default "cosine".
        warmup_steps: steps of linear rise before. Default 0.
        cycles: how often rise and fall are run through, an equal share of the steps each.
            Default 1.
        binarization: "dynamic", "threshold" or "none". Default "dynamic".
        validation: how many of the last training images are held out. Default 10000.
        seed: of weights, order and noise. Default 0.
        data: name of the data set. Default "mnist".
        choices: how the recipe was chosen and what else was tried, sentences for its card without
            the last full stop. Default "", for recipes without a card.
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
    schedule: str = "cosine"
    warmup_steps: int = 0
    cycles: int = 1
    binarization: str = "dynamic"
    validation: int = 10000
    seed: int = 0
    data: str = "mnist"
    choices: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Returns the recipe as JSON-ready values."""
        return json.loads(json.dumps(dataclasses.asdict(self)))

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Recipe:
        """Builds a recipe from JSON values.

        Raises:
            checks.InputError: for fields that are missing or unknown.
        """
        known = {field.name for field in dataclasses.fields(cls)}
        if unknown := sorted(set(values) - known):
            raise checks.InputError(f"a recipe has no field {unknown[0]!r}. Received: {unknown}.")
        values = dict(values)
        try:
            for part in ("encoder", "decoder", "prior", "objective", "likelihood", "optimizer"):
                if part in values:
                    values[part] = Part(**values[part])
            return cls(**values)
        except TypeError as error:
            raise checks.InputError(f"a recipe needs every field. Received: {error}.") from error


def folder() -> Path:
    """Returns the zoo's folder: beside the package in a checkout, inside it when installed."""
    here = Path(__file__).resolve().parent
    inside = here / "saved_models"
    return inside if inside.is_dir() else here.parent / "saved_models"


def names() -> tuple[str, ...]:
    """Returns the names of the presets that can be trained, sorted."""
    return tuple(sorted(path.parent.name for path in folder().glob("*/recipe.json")))


def trained() -> tuple[str, ...]:
    """Returns the names of the presets that have weights, sorted."""
    return tuple(name for name in names() if (folder() / name / "model.keras").exists())


def load_recipe(name: str) -> Recipe:
    """Reads a preset's recipe.

    Args:
        name: one of `names()`.

    Returns:
        The `Recipe`.

    Raises:
        checks.InputError: for a name that is not in the zoo, which lists those that are, or a
            damaged file.
    """
    checks.choice("preset", name, names())
    return Recipe.from_dict(_read(name, "recipe.json"))


def weights(name: str) -> Path:
    """Returns a preset's `model.keras` after its hash was compared with the metadata's.

    Raises:
        checks.InputError: for an unknown name, missing weights or a wrong hash.
    """
    checks.choice("preset", name, names())
    path = folder() / name / "model.keras"
    if not path.exists():
        raise checks.InputError(
            f"a preset needs its weights. Received: {name}, which has a recipe alone. "
            f"Train it: python train.py --preset {name}"
        )
    try:
        expected = str(load_metrics(name)["provenance"]["weights_sha256"])
    except (KeyError, TypeError) as error:
        raise checks.InputError(
            "a preset's metrics.json must hold the SHA-256 of its weights. "
            f"Received: {name}'s without it. Install the package again."
        ) from error
    found = files.sha256(path)
    if found != expected:
        raise checks.InputError(
            f"a preset's weights must have the hash in its metrics.json. Received: {path} with "
            f"SHA-256 {found[:12]}..., not {expected[:12]}.... Install the package again."
        )
    return path


def load_metrics(name: str) -> dict[str, Any]:
    """Reads a preset's `metrics.json`.

    Args:
        name: one of `names()`.

    Returns:
        Its content.

    Raises:
        checks.InputError: for a name that is not in the zoo, or a missing or damaged file.
    """
    checks.choice("preset", name, names())
    return _read(name, "metrics.json")


def _read(name: str, file_name: str) -> dict[str, Any]:
    path = folder() / name / file_name
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(values, dict):
            raise ValueError("no JSON object")
    except (OSError, ValueError, RecursionError) as error:
        raise checks.InputError(
            f"a preset needs a sound {file_name}. Received: {path} ({error}). "
            "Install the package again."
        ) from error
    return values
