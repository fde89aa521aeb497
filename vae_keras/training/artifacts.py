"""Everything that a run writes from its final weights."""

from __future__ import annotations

import dataclasses
import json
import math
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from vae_keras import compression, detection, evaluation, export
from vae_keras.data import datasets
from vae_keras.data.observations import observed
from vae_keras.model import VAE
from vae_keras.report import figures, gallery, page
from vae_keras.report.provenance import metric, provenance
from vae_keras.training import best, callbacks, remarks, run_folder
from vae_keras.training.build import build_network
from vae_keras.training.plan import Plan
from vae_keras.training.signals import Signals
from vae_keras.utils import checks, files
from vae_keras.utils.rows import Array
from vae_keras.zoo import presets

_NUM_SAMPLES = 10  # posterior samples for each image behind the ELBO in metrics.json
_MOST_TRAINING_IMAGES = 10_000  # so many are measured when nothing is held out


class _Images(NamedTuple):
    """Images before binarization, as the model receives them, and their labels or None."""

    originals: Array
    images: Array
    labels: np.ndarray | None


def write(model: VAE, plan: Plan, folder: Path, test: bool, signals: Signals) -> None:
    """Writes the weights, the SavedModel, the figures, the measurements and the page of a run.

    The images come from the validation split, or from the training split if nothing is held out.
    The test set is read only if `test` is True. The page is written last: in a folder without a
    page, everything is written again.

    Args:
        model: the trained model.
        plan: the plan of the run.
        folder: the run folder. It must hold `elbo.csv`.
        test: whether the test set is measured in addition. The figures then show test images.
        signals: the signals of the run, which are checked between the artifacts.

    Raises:
        Stopped: if a signal has come.
    """
    recipe, settings = plan.recipe, plan.settings
    model = _in_float32(model, plan)
    rows = callbacks.read_elbo_csv(folder / "elbo.csv")
    splits = (plan.held_out, "test") if test else (plan.held_out,)
    images = {split: _images(plan, split) for split in splits}
    held = images[plan.held_out]
    kept_weights = folder / "checkpoints" / best.FILE
    choice = best.choose(model, held.originals, kept_weights, recipe.epochs, held.labels)
    signals.check("before the export")
    save_weights(model, folder / "model.keras")
    if plan.dataset.digests is not None:
        kept = len(plan.dataset.images.x_train) - recipe.validation
        with files.atomic_write(folder / run_folder.TRAINED_ON) as file:
            np.save(file, plan.dataset.digests[0][:kept])
    detector = _kept(model, folder)
    if detector is None:
        detector = _calibrated(model, plan, images[plan.held_out].originals)
        if detector is not None:
            detector.save(folder / "model.keras")
    export.export_saved_model(
        model, folder / "serving", version=1, overwrite=True, detector=detector
    )

    signals.check("before the figures")
    curve = figures.elbo_curve(
        [float(row["elbo"]) for row in rows],
        [float(row["val_elbo"]) for row in rows if row["val_elbo"]],
        page.reference_curve(recipe.data, recipe.likelihood.name),
    )
    figures.save(curve, folder / "figures" / "elbo.png")
    shown, invert = images[splits[-1]], plan.dataset.invert
    given = {split: model.paired(each.images, each.labels) for split, each in images.items()}
    drawn = {"elbo"}
    for name, figure in gallery.image_figures(model, *shown, invert, splits[-1]):
        figures.save(figure, folder / "figures" / f"{name}.png")
        drawn.add(name)
        signals.check("between two figures")
    for name in set(page.KINDS) - drawn:  # an earlier call may have shown images with labels
        (folder / "figures" / f"{name}.png").unlink(missing_ok=True)

    metrics: dict[str, Any] = {
        "title": plan.title,
        "shown": splits[-1],
        "preset": plan.preset,
        "parameters": model.count_params(),
        "training_seconds": sum(float(row["seconds"]) for row in rows),
        "provenance": provenance(datasets.fingerprint(plan.dataset.images.x_train)),
        "metrics": [
            entry
            for split in splits
            for entry in measure(model, given[split], recipe.binarization, recipe.seed, split)
        ],
        "latent_classes": gallery.latent_classes(model, shown.images, shown.labels),
        "best_epoch": dataclasses.asdict(choice) | {"takes_best": choice.takes_best},
    }
    of_held_out = [entry for entry in metrics["metrics"] if entry["split"] == plan.held_out]
    ended = remarks.of_choice(choice, plan.held_out)
    others = remarks.of_model(model, given[plan.held_out], of_held_out)
    metrics["remarks"] = [*ended, *others]
    if presets.START_HASH in settings:
        metrics["provenance"][presets.START_HASH] = settings[presets.START_HASH]
    files.write_json(folder / run_folder.METRICS, metrics)
    report = write_page(folder)
    elbos = [entry for entry in metrics["metrics"] if entry["name"] == "elbo"]
    sentences = [
        f"{elbo['split'].capitalize()} ELBO: {elbo['value']:.3f} nats per image." for elbo in elbos
    ]
    print(*others, sep="\n", end="\n" if others else "")
    print(*sentences, *ended, f"The report: {report}")


def write_page(folder: Path) -> Path:
    """Writes the page of a finished run from the files of its folder.

    The page links to the explorer of the run, if `explorer.html` lies in the folder.

    Args:
        folder: a run folder that holds `config.json`, `elbo.csv`, `metrics.json` and the figures.

    Returns:
        The path of the page.

    Raises:
        OSError: if a file is missing, or the page cannot be written.

    Example:
        >>> write_page(Path("runs/mlp_mnist"))  # doctest: +SKIP
        PosixPath('runs/mlp_mnist/report.html')
    """
    settings, metrics = (
        json.loads((folder / name).read_text(encoding="utf-8"))
        for name in (run_folder.CONFIG, run_folder.METRICS)
    )
    html = page.page(
        metrics["title"],
        settings,
        callbacks.read_elbo_csv(folder / "elbo.csv"),
        metrics,
        folder / "figures",
        metrics["shown"],
        run_folder.EXPLORER if (folder / run_folder.EXPLORER).exists() else None,
    )
    report = folder / run_folder.REPORT
    files.write_text(report, html)
    return report


def measure(
    model: VAE, images: Any, binarization: str, seed: int, split: str
) -> list[dict[str, Any]]:
    """Measures the ELBO, the rate, the distortion and the active units.

    A likelihood of 256 levels is also measured in bits per dimension, beside PNG and lossless WebP.
    A model with classes is measured given the labels, and by the share of images whose class it
    does not find.

    Args:
        model: the model.
        images: images as `data.binarize` returns them for `binarization` and `seed`, float32
            [N, H, W, C], and their labels for a model with classes, see `VAE.paired`.
        binarization: how the images were binarized.
        seed: seed of the binarization and of the posterior samples.
        split: the split that the images are from: "training", "validation", "test" or "unseen".

    Returns:
        Entries of `metrics.json`.

    Example:
        >>> x = np.zeros((2, 28, 28, 1), np.float32)
        >>> [entry["name"] for entry in measure(VAE(), x, "dynamic", 0, "test")]
        ['elbo', 'rate', 'distortion', 'active_units']
    """
    terms = evaluation.evaluate_elbo(model, images, _NUM_SAMPLES, seed=seed)
    units = evaluation.active_units(model, images)
    pixels, *one_hot = model.labelled(images)
    facts = {
        "num_images": len(pixels),
        "split": split,
        "binarization": binarization,
        "seed": seed,
    }
    if one_hot:
        facts["given"] = "labels"
    entries = [
        metric(
            name,
            estimate.mean,
            unit="nats per image",
            estimator="posterior draws",
            num_samples=terms.num_samples,
            standard_error=estimate.standard_error,
            seconds=terms.seconds,
            **facts,
        )
        for name, estimate in (
            ("elbo", terms.elbo),
            ("rate", terms.rate),
            ("distortion", terms.distortion),
        )
    ]
    if model.likelihood.support == "levels":
        entries += _bits(model, pixels, terms, facts)
    how = {"estimator": "variance of the posterior mean", "threshold": units.threshold}
    entries.append(metric("active_units", units.count, unit="dimensions", **how, **facts))
    if len(units.groups) > 1:
        entries += [_of_group(index, group, facts) for index, group in enumerate(units.groups)]
    if one_hot:
        entries.append(_classification_error(model, pixels, one_hot[0].argmax(axis=1), facts))
    return entries


def _classification_error(
    model: VAE, images: Array, classes: np.ndarray, facts: dict[str, Any]
) -> dict[str, Any]:
    """Returns the share of images whose class is not the most probable one by Bayes' rule."""
    started = time.perf_counter()
    found = gallery.predicted_classes(model, images)
    error = evaluation.Estimate.of(found != classes)
    facts = {name: value for name, value in facts.items() if name != "given"}
    return metric(
        "classification_error",
        error.mean,
        unit="share of images",
        estimator="Bayes' rule with importance samples",
        num_samples=gallery.CLASSIFY_SAMPLES,
        standard_error=error.standard_error,
        seconds=time.perf_counter() - started,
        **facts,
    )


def _of_group(index: int, group: evaluation.GroupUnits, facts: dict[str, Any]) -> dict[str, Any]:
    """The rate of one group; the prior of groups is N(0, I), so every group has a rate."""
    shape, count = " x ".join(map(str, group.shape)), math.prod(group.shape)
    how = f"KL given the groups above; {shape} latents, {group.active} of {count} active"
    rate = math.nan if group.rate is None else group.rate
    name = f"{remarks.RATE_OF_GROUP}{index + 1}"
    return metric(name, rate, unit="nats per image", estimator=how, **facts)


def _bits(
    model: VAE, images: Array, terms: evaluation.ElboTerms, facts: dict[str, Any]
) -> list[dict[str, Any]]:
    """Returns the bits per dimension of a model, of PNG and of lossless WebP for some images."""
    bits = evaluation.bits_per_nat(model.image_shape)
    measured: dict[str, tuple[evaluation.Estimate, dict[str, Any]]] = {
        "bits_per_dimension": (
            evaluation.Estimate.of(-terms.elbo.per_example * bits),
            {"estimator": "negative ELBO", "num_samples": terms.num_samples},
        )
    }
    for format in compression.FORMATS:
        how = {"estimator": "Pillow, one file an image, without its headers"}
        measured[f"{format}_bits_per_dimension"] = (
            compression.bits_per_dimension(images, format),
            how,
        )
    return [
        metric(
            name,
            estimate.mean,
            unit="bits per dimension",
            standard_error=estimate.standard_error,
            **how,
            **facts,
        )
        for name, (estimate, how) in measured.items()
    ]


def save_weights(model: VAE, path: Path) -> None:
    """Writes weights and configuration as a `.keras` file.

    Args:
        model: the model.
        path: the file. It is replaced only when the new one is whole.

    Example:
        >>> save_weights(VAE(), Path("model.keras"))
    """
    with files.staged(path) as temporary:
        model.save(temporary)


def _kept(model: VAE, folder: Path) -> detection.Detector | None:
    """Returns a detector of these weights that lies in the folder, such as the user's own."""
    try:
        return detection.Detector.load(folder / "model.keras", model)
    except (checks.InputError, FileNotFoundError):
        return None


def _calibrated(model: VAE, plan: Plan, originals: Array) -> detection.Detector | None:
    """Returns a detector of own images that is calibrated with those held out, if they suffice.

    The held-out images may have chosen the epoch of the weights, so their scores can be a little
    lower than those of new images.
    """
    enough = len(originals) >= detection.FEWEST and plan.held_out == "validation"
    judges = plan.dataset.own and plan.classes is None and enough
    if not judges:
        return None
    try:
        return detection.Detector.calibrate(model, originals)
    except checks.InputError as error:  # the user asked for a model and not for a detector
        print(f"No detector was calibrated: {error}")
        return None


def _in_float32(model: VAE, plan: Plan) -> VAE:
    """Returns the trained model in float32, without optimizer and strategy."""
    trained = build_network(plan.recipe, model.image_shape, "float32", plan.classes)
    trained.set_weights(model.get_weights())
    return trained


def _images(plan: Plan, split: str) -> _Images:
    originals, labels = plan.images(split)
    if split == "training":
        originals = originals[:_MOST_TRAINING_IMAGES]
        labels = None if labels is None else labels[:_MOST_TRAINING_IMAGES]
    recipe = plan.recipe
    images = observed(originals, recipe.seed, recipe.binarization)
    return _Images(originals, images, labels)
