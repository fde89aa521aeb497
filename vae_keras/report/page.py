"""Renders the page of a run: one HTML file with its figures inside, which loads nothing."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2

from vae_keras.report import figures

# Explains the reference curve to readers of a page or a card.
REFERENCE_NOTE = (
    "The reference curve is from a lab report on MNIST, which trained a VAE with the layer sizes "
    "of mlp_mnist (784-200-200-50) and printed the ELBO after each of its first "
    f"{len(figures.REFERENCE_ELBO)} epochs."
)

TEMPLATES = jinja2.Environment(
    loader=jinja2.PackageLoader("vae_keras.report"),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
)
"""The templates of all pages."""

_CURVE = ("elbo", "log_likelihood", "kl", "val_elbo", "val_log_likelihood", "val_kl", "seconds")
_CAPTIONS = {
    "elbo": "The ELBO after each epoch{beside}.",
    "explorer": "The explorer of the model in a browser, which `vae-keras explore` writes.",
    "prior": "Images decoded from 25 draws of the prior. Every epoch's figure uses the same draws.",
    "uniform": "Images decoded from 25 uniform draws on [-√3, √3], which have the mean and the "
    "variance of the normal draws.",
    "samples": "Images decoded from 25 draws of the prior.",
    "reconstructions": "{Split} images, grouped by class if there are classes: the original, the "
    "model's input, and the reconstruction through the posterior mean.",
    "interpolations": "Interpolations in eleven steps between the posterior means of two {split} "
    "images. The originals are at both ends.",
    "classes": "Images of each class. The images of a column are decoded from the same draw of the "
    "prior.",
    "transfer": "The latents of a {split} image, decoded in each class: the style stays, the class "
    "changes.",
    "confusion": "Some {split} images of each class, by their most probable class under Bayes' "
    "rule.",
    "traverse": "The latents of a {split} image with one dimension changed at a time, from -3 to 3 "
    "standard deviations. The rows are the dimensions with the highest KL in nats, or with the "
    "highest variance of the posterior mean if the prior is learned.",
    "neighbours": "{Split} images and the eight others whose posterior means are nearest.",
    "manifold": "Images decoded over the two-dimensional latent space, at quantiles of the prior.",
    "levels": "What each group of latents holds. The named groups are those of a {split} image, "
    "and the groups below are drawn anew.",
    "latent_map": "Posterior means of the {split} images in two dimensions, and the distances "
    "between the means of the classes in all latent dimensions.",
}
KINDS = tuple(_CAPTIONS)  # of figures, in the order of a page and of a card


def reference_curve(data: str, likelihood: str) -> Sequence[float]:
    """Returns the reference curve if a run's ELBO can be compared with it, else nothing.

    Args:
        data: name of the data set.
        likelihood: name of the likelihood's class. The nats of a density do not compare with those
            of a probability.

    Returns:
        `figures.REFERENCE_ELBO` for a Bernoulli likelihood on MNIST, else ().

    Example:
        >>> reference_curve("fashion_mnist", "Bernoulli")
        ()
    """
    return figures.REFERENCE_ELBO if (data, likelihood) == ("mnist", "Bernoulli") else ()


def captions(split: str, reference: Sequence[float]) -> dict[str, str]:
    """Returns the captions of the figures.

    Args:
        split: the split of the images in the figures, "training", "validation" or "test".
        reference: the reference curve, see `reference_curve`.

    Returns:
        Captions under the names in `KINDS`.

    Example:
        >>> captions("test", ())["elbo"]
        'The ELBO after each epoch.'
    """
    words = {
        "split": split,
        "Split": split.capitalize(),
        "beside": ", beside the reference curve" if reference else "",
    }
    return {kind: text.format(**words) for kind, text in _CAPTIONS.items()}


def page(
    title: str,
    config: Mapping[str, Any],
    rows: Sequence[Mapping[str, str]],
    metrics: Mapping[str, Any],
    figures_folder: Path,
    split: str,
    explorer: str | None = None,
) -> str:
    """Renders a run as one HTML page with its figures inside.

    Args:
        title: title of the page.
        config: the run's configuration, as `config.json` holds it.
        rows: the rows of `elbo.csv`.
        metrics: the content of `metrics.json`. Its `remarks` are sentences on what went badly.
        figures_folder: folder of PNG files. Those named in `KINDS` come first.
        split: the split of the images in the figures, "training", "validation" or "test".
        explorer: link to the explorer of the model, or None if none was written. Default None.

    Returns:
        HTML text. The browser loads nothing else for it.

    Example:
        >>> metrics = {"provenance": {}, "metrics": []}
        >>> html = page("An empty run", {}, [], metrics, Path("figures"), "validation")
    """
    likelihood = config.get("likelihood", {}).get("name", "Bernoulli")
    reference = reference_curve(config.get("data", "mnist"), likelihood)
    texts = captions(split, reference)
    return TEMPLATES.get_template("page.html.j2").render(
        title=title,
        description=config.get("description", ""),
        remarks=metrics.get("remarks", []),
        split=split,
        explorer=explorer,
        metrics=[_metric(entry) for entry in metrics["metrics"]],
        figures=[_figure(path, texts) for path in sorted(figures_folder.glob("*.png"), key=_rank)],
        note=REFERENCE_NOTE if reference else "",
        curve=(*(("reference",) if reference else ()), *_CURVE),
        epochs=_epochs(rows, reference),
        classes=_neighbours(metrics.get("latent_classes", {})),
        config=_flatten(config),
        provenance=_flatten(metrics["provenance"]),
    )


def _rank(path: Path) -> tuple[int, str]:
    kind = _kind(path)
    return (KINDS.index(kind) if kind in KINDS else len(KINDS), path.name)


def _kind(path: Path) -> str:
    return path.stem.split("_epoch_")[0]


def _figure(path: Path, texts: Mapping[str, str]) -> dict[str, Any]:
    kind = _kind(path)
    return {
        "caption": texts.get(kind, path.stem),
        "png": base64.b64encode(path.read_bytes()).decode(),
        "pair": kind in ("prior", "uniform"),
    }


def _metric(entry: Mapping[str, Any]) -> dict[str, str]:
    shown = ("name", "value", "unit", "standard_error", "num_images", "split")
    facts = {fact: value for fact, value in entry.items() if fact not in shown}
    value, error = entry["value"], entry.get("standard_error")
    images = f"{entry['num_images']:,} {entry['split']} images" if "split" in entry else ""
    return {
        "name": entry["name"].replace("_", " "),
        "value": f"{value:.3f}" if isinstance(value, float) else str(value),
        "standard_error": "" if error is None else f"{error:.3f}",
        "unit": entry.get("unit", ""),
        "images": images,
        "how": ", ".join(
            f"{fact.replace('_', ' ')} {value:.3g}"
            if isinstance(value, float)
            else f"{fact.replace('_', ' ')} {value}"
            for fact, value in facts.items()
        ),
    }


def _epochs(rows: Sequence[Mapping[str, str]], reference: Sequence[float]) -> list[list[str]]:
    """Returns a table row for each epoch that the run or the reference curve has."""
    run = {int(row["epoch"]): [_rounded(row[name]) for name in _CURVE] for row in rows}
    table = []
    for epoch in sorted({*range(len(reference)), *run}):
        beside = [f"{reference[epoch]:.3f}" if epoch < len(reference) else ""] if reference else []
        table.append([str(epoch), *beside, *run.get(epoch, [""] * len(_CURVE))])
    return table


def _rounded(value: str) -> str:
    return f"{float(value):.3f}" if value else ""


def _neighbours(classes: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Returns each class with the three nearest others and their distances."""
    if not classes:
        return []
    names, distances = classes["names"], classes["distances"]
    return [
        (
            name,
            ", ".join(
                f"{other} ({distances[index][names.index(other)]:.2f})"
                for other in classes["nearest"][name][:3]
            ),
        )
        for index, name in enumerate(names)
    ]


def _flatten(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    rows: list[tuple[str, str]] = []
    for name, value in values.items():
        if isinstance(value, Mapping):
            rows += _flatten(value, f"{prefix}{name}.")
        else:
            rows.append((prefix + name, str(value)))
    return rows
