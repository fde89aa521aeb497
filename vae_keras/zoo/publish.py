"""Publishes a finished run in the zoo: weights, test measurements, golden outputs, card."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np

from vae_keras import data, evaluation
from vae_keras.data import datasets
from vae_keras.model import VAE
from vae_keras.report import figures, gallery
from vae_keras.report.provenance import metric, provenance
from vae_keras.training import artifacts, run_folder
from vae_keras.utils import checks, files, keras_file
from vae_keras.zoo import cards, presets

GOLDEN_SEED = 0
_GOLDEN_IMAGES = 10


def publish(run: Path, num_samples: int = 5000, num_refined: int | None = None) -> Path:
    """Publishes a finished run of a preset in the zoo.

    Training reads the test set only if `--test` asks for it. This function reads it, and so do the
    commands that measure or draw a finished model. All measurements are made before the first file
    of the zoo is written.

    Args:
        run: folder of a run that trained a preset without changes to its recipe.
        num_samples: importance samples for each test image. Default 5000.
        num_refined: number of test images that take all samples, see `estimate_likelihood`.
            Default: all test images.

    Returns:
        The preset's folder in the zoo.

    Raises:
        checks.InputError: if the run is not finished, or does not follow the preset's recipe.

    Example:
        >>> folder = publish(Path("runs/mlp_mnist"))  # doctest: +SKIP
    """
    name, recipe = _recipe(run)
    trained = json.loads((run / run_folder.METRICS).read_text(encoding="utf-8"))
    target = presets.folder() / name
    model = keras_file.load(run / "model.keras")
    dataset = datasets.load(recipe.data)
    x, labels = dataset.images.x_test, dataset.images.y_test
    pixels = data.binarize(x, recipe.seed, recipe.binarization)
    test = model.paired(pixels, labels)
    likelihood = estimate_likelihood(model, test, num_samples, recipe.seed, num_refined)
    measured = artifacts.measure(model, test, recipe.binarization, recipe.seed, "test")
    evaluated = provenance(datasets.fingerprint(x))  # before files of the checkout change
    weights = {"weights_sha256": files.sha256(run / "model.keras")}
    metrics = {
        "preset": name,
        "parameters": model.count_params(),
        "training_seconds": trained.get("training_seconds"),  # None: a run of an earlier version
        "provenance": trained["provenance"] | weights | {"evaluated": evaluated},
        "metrics": [
            *likelihood_metrics(model, likelihood, recipe.binarization),
            *measured,
        ],
        "latent_classes": gallery.latent_classes(model, pixels, labels),
        "importance_weighted_bounds": bounds(likelihood),
    }

    first = None if labels is None else labels[:_GOLDEN_IMAGES]
    outputs = golden(model, x[:_GOLDEN_IMAGES], first)
    title = gallery.prior_titles(model)["prior"]
    samples = model.sample(25, labels=gallery.classes_of_rows(model, 25, 5))
    drawn = {"samples": figures.grid(samples, 5, 5, title, invert=dataset.invert)}
    drawn |= gallery.image_figures(model, x, pixels, labels, dataset.invert, "test")

    # Everything is there by now. A file that is missing stops the publication before it begins.
    files.copy(run / "figures" / "elbo.png", target / "figures" / "elbo.png")
    # They were made from the weights before.
    stale = [target / "figures" / "explorer.png"]
    stale += [target / f"{kind}.json" for kind in presets.BESIDE]
    published = target / "model.keras"
    if published.exists() and files.sha256(published) != weights["weights_sha256"]:
        for path in stale:
            path.unlink(missing_ok=True)
    # Without an entry of these weights in its metadata, the preset cannot be loaded.
    files.copy(run / "model.keras", published)
    files.write_json(target / "metrics.json", metrics)
    with files.atomic_write(target / "golden.npz") as file:
        np.savez_compressed(file, **outputs)
    for kind, figure in drawn.items():
        figures.save(figure, target / "figures" / f"{kind}.png")
    cards.write()
    return target


def golden(model: VAE, images: np.ndarray, labels: Any = None) -> dict[str, Any]:
    """Returns inputs and outputs of a model, which later versions must reproduce.

    Args:
        model: the model.
        images: uint8 [N, H, W, C].
        labels: their labels, which a model with classes reads. Default None.

    Returns:
        Arrays under "images", "loc", "scale", "reconstructions", "elbo", "samples" and
        "interpolations"; for a model with classes also "labels", "transfer" and "log_prob".

    Example:
        >>> golden(VAE(), np.zeros((10, 28, 28, 1), np.uint8))["loc"].shape
        (10, 50)
    """
    pixels = data.binarize(images, GOLDEN_SEED, model.binarization)
    seen = model.paired(pixels, labels)
    first, second = (
        model.paired(pixels[row : row + 1], None if labels is None else labels[row : row + 1])
        for row in (0, 1)
    )
    loc, scale = model.encode(seen)
    found = {
        "images": images,
        "loc": loc,
        "scale": scale,
        "reconstructions": model.reconstruct(seen),
        "elbo": model.elbo(seen, GOLDEN_SEED).elbo,
        "samples": model.sample(4, GOLDEN_SEED, labels=gallery.classes_of_rows(model, 4, 1)),
        "interpolations": model.interpolate(first, second, 5),
    }
    if model.reads_labels:
        found["labels"] = np.asarray(labels)
        found["transfer"] = model.transfer(seen)
        found["log_prob"] = model.classify(pixels, 50, GOLDEN_SEED).log_prob
    return found


def estimate_likelihood(
    model: VAE, test: Any, num_samples: int, seed: int, num_refined: int | None
) -> evaluation.LogLikelihood:
    """Estimates log p(x) of the test images for a model card.

    Args:
        model: the model.
        test: test images, binary for a Bernoulli likelihood, float32 [N, H, W, C], and their labels
            for a model with classes, see `VAE.paired`.
        num_samples: importance samples for each image.
        seed: seed of the noise, an integer >= 0.
        num_refined: number of images that take all samples. The others take
            `evaluation.FEW`, see `evaluation.estimate_by_difference`. None: all images.

    Returns:
        `LogLikelihood`, in nats per image.

    Raises:
        checks.InputError: as `evaluation.estimate_log_likelihood` and `estimate_by_difference`.

    Example:
        >>> x = np.zeros((2, 28, 28, 1), np.float32)
        >>> estimate_likelihood(VAE(), x, 100, seed=0, num_refined=None).num_samples
        100
    """
    if num_refined is None:
        return evaluation.estimate_log_likelihood(model, test, num_samples, seed=seed)
    return evaluation.estimate_by_difference(model, test, num_samples, num_refined, seed=seed)


def likelihood_metrics(
    model: VAE, likelihood: evaluation.LogLikelihood, binarization: str, split: str = "test"
) -> list[dict[str, Any]]:
    """Returns an estimate of -log p(x) as entries of `metrics.json`.

    Args:
        model: the model. If its likelihood has 256 levels, there is an entry in bits per dimension.
        likelihood: the estimate of log p(x) of the images.
        binarization: how the images were binarized.
        split: the split that the images are from. Default "test".

    Returns:
        JSON-ready values, in nats per image and in bits per dimension.

    Example:
        >>> x = np.zeros((2, 28, 28, 1), np.float32)
        >>> likelihood = estimate_likelihood(VAE(), x, 100, seed=0, num_refined=None)
        >>> likelihood_metrics(VAE(), likelihood, "dynamic")[0]["num_images"]
        2
    """
    refined = {}
    if likelihood.num_refined is not None:
        refined = {"num_refined": likelihood.num_refined, "num_few": evaluation.FEW}
    facts = {
        "estimator": "importance_weighted",
        **refined,
        "num_samples": likelihood.num_samples,
        "num_images": len(likelihood.estimate.per_example),
        "split": split,
        "binarization": binarization,
        "seed": likelihood.seed,
        "seconds": likelihood.seconds,
        "effective_sample_size": float(np.median(likelihood.effective_sample_size)),
    }
    if model.reads_labels:
        facts["given"] = "labels"
    error = likelihood.estimate.standard_error
    entries = [
        metric(
            "negative_log_likelihood",
            -likelihood.estimate.mean,
            unit="nats per image",
            standard_error=error,
            **facts,
        )
    ]
    if model.likelihood.support == "levels":
        bits = evaluation.bits_per_nat(model.image_shape)
        entries.append(
            metric(
                "bits_per_dimension_of_the_likelihood",
                -likelihood.estimate.mean * bits,
                unit="bits per dimension",
                standard_error=error * bits,
                **facts,
            )
        )
    return entries


def bounds(likelihood: evaluation.LogLikelihood) -> dict[str, float]:
    """Returns the importance-weighted bounds on -log p(x) as `metrics.json` holds them.

    Args:
        likelihood: the estimate of log p(x).

    Returns:
        The bound from k samples under the text of k, in nats per image.

    Example:
        >>> x = np.zeros((2, 28, 28, 1), np.float32)
        >>> list(bounds(estimate_likelihood(VAE(), x, 100, seed=0, num_refined=None)))
        ['1', '10', '100']
    """
    return {str(k): -estimate.mean for k, estimate in likelihood.curve.items()}


def _recipe(run: Path) -> tuple[str, presets.Recipe]:
    """Returns the preset that a run trained and its recipe, if the run can be published."""
    if not (run / run_folder.REPORT).exists():
        raise checks.InputError(
            f"a run can be published after it is finished. Received: {run}, which has no "
            f"{run_folder.REPORT}. Run the same train command again to finish it."
        )
    try:
        config = json.loads((run / run_folder.CONFIG).read_text(encoding="utf-8"))
        name = config["preset"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise checks.InputError(
            f"a published run must have a readable {run_folder.CONFIG}. "
            f"Received: {run} ({error!r}). Train the preset again."
        ) from error
    recipe = presets.load_recipe(name)
    if "own_data" in config:
        raise checks.InputError(
            f"a published run must follow its preset's recipe. Received: {run}, which was trained "
            "on own images. Pass its model.keras to the other commands as --model."
        )
    beside = ("preset", presets.START_HASH)
    followed = presets.Recipe.from_dict({key: config[key] for key in config if key not in beside})
    texts = {field: getattr(recipe, field) for field in presets.TEXTS}
    if dataclasses.replace(followed, **texts) != recipe:
        raise checks.InputError(
            f"a published run must follow its preset's recipe. Received: {run}, which differs from "
            f"the recipe of {name}. Train the preset without other flags."
        )
    return name, recipe
