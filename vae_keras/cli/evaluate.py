"""The command `evaluate`: measures a model on held-out images."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from vae_keras import evaluation
from vae_keras.cli import models, table
from vae_keras.data import datasets
from vae_keras.data.observations import observed
from vae_keras.report.provenance import provenance
from vae_keras.training import artifacts
from vae_keras.utils import checks, files
from vae_keras.zoo import presets, publish


def run(arguments: argparse.Namespace) -> None:
    """Prints the measurements, and writes them to `--json` if it is given."""
    checks.whole_number("--samples", arguments.samples, 1, 2**31 - 1)
    if arguments.images is not None:
        checks.whole_number("--images", arguments.images, 1)
    checks.whole_number("--seed", arguments.seed, 0, checks.MAX_SEED)
    if arguments.json is not None:
        checks.writable("--json", arguments.json)
    model = models.read_model(arguments)
    held = models.load_held_out(arguments, model)
    images = held.x
    count = checks.whole_number("--images", arguments.images or len(images), 1, len(images))
    if arguments.refined is not None:
        checks.whole_number("--refined", arguments.refined, 2, count)
        checks.whole_number("--samples", arguments.samples, evaluation.FEW + 1)
    mode = _binarization(model)
    x = observed(images[:count], arguments.seed, mode)
    x = model.paired(x, None if held.y is None else held.y[:count])
    likelihood = publish.estimate_likelihood(
        model, x, arguments.samples, arguments.seed, arguments.refined
    )
    metrics = [
        *publish.likelihood_metrics(model, likelihood, mode, held.kind),
        *artifacts.measure(model, x, mode, arguments.seed, held.kind),
    ]
    for unit in ("nats per image", "bits per dimension", "share of images"):
        if rows := _rows(metrics, unit):
            table.show([(unit, "mean", "standard error", "samples"), *rows])
    for k, bound in likelihood.curve.items():
        print(f"bound at k = {k}: {bound.mean:.3f}")
    refined = "" if arguments.refined is None else f" ({arguments.refined} with all samples)"
    kind = "" if held.kind == "unseen" else f"{held.kind} "
    print(f"{count} {kind}images{refined}, {mode} binarization, seed {arguments.seed}")
    if arguments.json is not None:
        path = Path(presets.weights(arguments.preset) if arguments.preset else arguments.model)
        if path.is_dir():  # what `save_pretrained` writes
            path /= "model.weights.h5"
        hashes = {"weights_sha256": files.sha256(path)}
        result = {
            "model": arguments.preset or arguments.model,
            "provenance": provenance(datasets.fingerprint(images)) | hashes,
            "metrics": metrics,
            "importance_weighted_bounds": publish.bounds(likelihood),
        }
        files.write_json(arguments.json, result)


def _binarization(model: Any) -> str:
    """Returns the model's binarization, or "dynamic" if it would leave grey pixels to a Bernoulli.

    A Bernoulli that was trained on grey pixels is measured on binary ones, as the literature does.
    """
    if model.binarization == "none" and model.likelihood.support == "binary":
        return "dynamic"
    return model.binarization


def _rows(metrics: list[dict[str, Any]], unit: str) -> list[tuple[str, ...]]:
    return [
        (
            entry["name"],
            f"{entry['value']:.3f}",
            # A single image has no standard error.
            f"{entry['standard_error']:.3f}" if "standard_error" in entry else "-",
            str(entry.get("num_samples", "-")),
        )
        for entry in metrics
        if entry["unit"] == unit
    ]
