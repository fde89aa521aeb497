"""A finished run to a zoo folder: weights, the likelihood, goldens, card; a served SavedModel."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np

from vae_keras import (
    cards,
    checks,
    data,
    datasets,
    evaluation,
    export,
    figures,
    files,
    gallery,
    keras_file,
    presets,
    report,
    training,
)
from vae_keras.model import VAE

GOLDEN_SEED = 0
# The presets whose SavedModel is in the repository: those that serving/ starts. It repeats the
# weights, which are kept once; `python -m vae_keras export` writes that of any preset.
SERVED = ("mlp_mnist",)
_GOLDEN_IMAGES = 10
_FIGURES = ("elbo", "reconstructions", "interpolations", "manifold", "latent_map")


def publish(run: Path, num_samples: int = 5000, num_refined: int | None = None) -> Path:
    """Publishes a finished run of a preset in the zoo; this is where the test set is touched.

    Args:
        run: the run folder of an unchanged preset.
        num_samples: importance samples an image. Default 5000.
        num_refined: test images that take all of them, see `estimate_likelihood`. Default: all.

    Returns:
        The zoo folder.

    Raises:
        checks.InputError: for a run that is not finished, or not of the preset's recipe.
    """
    if not (run / "report.html").exists():
        raise checks.InputError(f"only a finished run is published. Received: {run}. Finish it.")
    try:
        config = json.loads((run / "config.json").read_text(encoding="utf-8"))
        name = config["preset"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise checks.InputError(
            f"a published run has a sound config.json. Received: {run} ({error!r}). Train it anew."
        ) from error
    recipe = presets.load_recipe(name)
    if "own_data" in config:
        raise checks.InputError(
            f"a published run follows its preset's recipe. Received: {run}, trained on own data. "
            "Keep its model.keras: every command takes it as --model."
        )
    beside = ("preset", presets.START_HASH)
    followed = presets.Recipe.from_dict({key: config[key] for key in config if key not in beside})
    texts = {name: getattr(recipe, name) for name in presets.TEXTS}
    if dataclasses.replace(followed, **texts) != recipe:
        raise checks.InputError(
            f"a published run follows its preset's recipe. Received: {run}, which differs from "
            f"{name}. Train without other flags."
        )
    target = presets.folder() / name
    model = keras_file.load(run / "model.keras")
    dataset = training.load_data(recipe.data)
    images = dataset.images
    test = data.binarize(images.x_test, recipe.seed, recipe.binarization)
    likelihood = estimate_likelihood(model, test, num_samples, recipe.seed, num_refined)
    # Before anything is written: what follows changes files of the checkout.
    evaluated = report.provenance(datasets.fingerprint(images.x_test))
    files.copy(run / "model.keras", target / "model.keras")
    if name in SERVED:
        export.export_saved_model(model, target, version=1, overwrite=True)
    with files.atomic_write(target / "golden.npz") as file:
        np.savez_compressed(file, **golden(model, images.x_test[:_GOLDEN_IMAGES]))
    for path in (path for kind in _FIGURES for path in (run / "figures").glob(f"{kind}.png")):
        files.copy(path, target / "figures" / path.name)
    samples = figures.grid(
        model.sample(25), 5, 5, gallery.prior_titles(model)["prior"], ink=dataset.ink
    )
    figures.save(samples, target / "figures" / "samples.png")
    files.write_json(target / "metrics.json", _metrics(run, recipe, likelihood, evaluated))
    for path, text in cards.render().items():
        files.write_text(path, text)
    return target


def golden(model: VAE, images: np.ndarray) -> dict[str, np.ndarray]:
    """Returns inputs and what the model makes of them, for the conformance test.

    Args:
        model: the model.
        images: uint8 [N, H, W, C].

    Returns:
        Name to array: images, loc, scale, reconstructions, elbo, samples, interpolations.
    """
    seen = data.binarize(images, GOLDEN_SEED, model.binarization)
    loc, scale = model.encode(seen)
    return {
        "images": images,
        "loc": loc,
        "scale": scale,
        "reconstructions": model.reconstruct(seen),
        "elbo": model.elbo(seen, GOLDEN_SEED).elbo,
        "samples": model.sample(4, GOLDEN_SEED),
        "interpolations": model.interpolate(seen[:1], seen[1:2], 5),
    }


def estimate_likelihood(
    model: VAE, test: np.ndarray, num_samples: int, seed: int, num_refined: int | None
) -> evaluation.LogLikelihood:
    """Estimates log p(x) of test images, as a card's figure is.

    Args:
        model: the model.
        test: images as its likelihood has them.
        num_samples: importance samples an image.
        seed: of the noise.
        num_refined: how many images take all of them, or None for every one; by their gain over
            a few samples all are raised, see `evaluation.estimate_by_difference`.

    Returns:
        `LogLikelihood`, in nats per image.

    Raises:
        checks.InputError: as the functions of `evaluation`.
    """
    if num_refined is None:
        return evaluation.estimate_log_likelihood(model, test, num_samples, seed=seed)
    return evaluation.estimate_by_difference(model, test, num_samples, num_refined, seed=seed)


def likelihood_metric(likelihood: evaluation.LogLikelihood, binarization: str) -> dict[str, object]:
    """Returns an estimate on the test set as `metrics.json` holds it.

    Args:
        likelihood: of the test images.
        binarization: theirs.
    """
    refined = {}
    if likelihood.num_refined is not None:
        refined = {"num_refined": likelihood.num_refined, "num_few": evaluation.FEW}
    return report.metric(
        "negative_log_likelihood",
        -likelihood.estimate.mean,
        unit="nats per image",
        estimator="importance_weighted",
        **refined,
        num_samples=likelihood.num_samples,
        num_images=len(likelihood.estimate.per_example),
        standard_error=likelihood.estimate.standard_error,
        split="test",
        binarization=binarization,
        seed=likelihood.seed,
        seconds=likelihood.seconds,
        effective_sample_size=float(np.median(likelihood.effective_sample_size)),
    )


def bounds(likelihood: evaluation.LogLikelihood) -> dict[str, float]:
    """Returns the bounds on -log p(x), k to nats per image, as `metrics.json` holds them."""
    return {str(k): -estimate.mean for k, estimate in likelihood.curve.items()}


def _metrics(
    run: Path,
    recipe: presets.Recipe,
    likelihood: evaluation.LogLikelihood,
    evaluated: dict[str, object],
) -> dict[str, object]:
    """The run's numbers, the likelihood in front, what measured it, and the weights' hash.

    `provenance` is the run's, of what trained the weights and measured the rest; `evaluated` in it
    is that of the likelihood.
    """
    metrics = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
    metrics["provenance"] |= {
        "weights_sha256": files.sha256(run / "model.keras"),
        "evaluated": evaluated,
    }
    entry = likelihood_metric(likelihood, recipe.binarization)
    return metrics | {
        "metrics": [entry, *metrics["metrics"]],
        "importance_weighted_bounds": bounds(likelihood),
    }
