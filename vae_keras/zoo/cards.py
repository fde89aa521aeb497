"""Renders the model cards and the tables of the zoo from the JSON files beside the weights."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2

from vae_keras.data import datasets
from vae_keras.report import page
from vae_keras.utils import files
from vae_keras.zoo import presets

_PIXELS = {"ContinuousBernoulli": "grey", "DiscretizedLogisticMixture": "colour"}
_MARK = re.compile(r"(<!-- zoo -->\n).*?(<!-- /zoo -->)", re.DOTALL)


def render(folder: Path | None = None) -> dict[Path, str]:
    """Renders every file that shows the numbers of the zoo.

    Args:
        folder: folder of the zoo. Default: `presets.folder()`.

    Returns:
        Texts under their paths: the model card of each preset with measurements, the README of the
        zoo, and the README of the project if there is one, with a new table between its marks.

    Example:
        >>> presets.folder() / "mlp_mnist" / "README.md" in render()
        True
    """
    zoo = presets.folder() if folder is None else folder
    published = json.loads((zoo / "published.json").read_text(encoding="utf-8"))
    measured = {
        path.parent.name: json.loads(path.read_text(encoding="utf-8"))
        for path in sorted(zoo.glob("*/metrics.json"))
    }
    texts = {
        zoo / name / "README.md": card(
            presets.load_recipe(name),
            metrics,
            published.get(name),
            _figures(zoo / name),
            _beside(zoo / name),
        )
        for name, metrics in measured.items()
    }
    texts[zoo / "README.md"] = "# The zoo\n\n" + zoo_table(measured, published)
    readme = zoo.parent / "README.md"
    if readme.exists():
        table = zoo_table(measured, published, link="saved_models/")
        old = readme.read_text(encoding="utf-8")
        texts[readme] = _MARK.sub(lambda match: match[1] + table + match[2], old)
    return texts


def write() -> list[Path]:
    """Writes every file that `render` renders.

    Returns:
        The paths of the files.

    Raises:
        OSError: if a file could not be written. It is then as it was.

    Example:
        >>> paths = write()  # doctest: +SKIP
    """
    texts = render()
    for path, text in texts.items():
        files.write_text(path, text)
    return list(texts)


def zoo_table(
    measured: Mapping[str, Mapping[str, Any]],
    published: Mapping[str, Mapping[str, Any]],
    link: str = "",
) -> str:
    """Renders the presets as a Markdown table, with published figures beside the measured ones.

    Args:
        measured: the content of `metrics.json` under each preset's name.
        published: a figure of the same class and its source, {"value", "source"}, under the names
            of the presets that have one.
        link: path from the table's file to the zoo. Default "".

    Returns:
        Markdown.

    Example:
        >>> measured = {"mlp_mnist": presets.load_metrics("mlp_mnist")}
        >>> table = zoo_table(measured, {"mlp_mnist": {"value": 86.76, "source": "a paper"}})
    """
    rows = [
        {
            "name": name,
            "data": datasets.KNOWN[presets.load_recipe(name).data].title,
            "parameters": metrics["parameters"],
            "likelihood": _entry(metrics, "negative_log_likelihood"),
            "elbo": _entry(metrics, "elbo"),
            "published": published.get(name, {"value": "", "source": ""}),
        }
        for name, metrics in measured.items()
    ]
    return _TEMPLATES.get_template("table.md.j2").render(
        rows=rows,
        link=link,
        entry=rows[0]["likelihood"],
        bits=[
            name
            for name in measured
            if presets.load_recipe(name).likelihood.name == "DiscretizedLogisticMixture"
        ],
        given=[row["name"] for row in rows if "given" in row["likelihood"]],
        refined=[row["name"] for row in rows if "num_refined" in row["likelihood"]],
    )


def card(
    recipe: presets.Recipe,
    metrics: Mapping[str, Any],
    published: Mapping[str, Any] | None,
    figures: list[str],
    beside: Mapping[str, Any] | None = None,
) -> str:
    """Renders the model card of a preset.

    Args:
        recipe: the recipe that the preset was trained by.
        metrics: the content of its `metrics.json`.
        published: a figure of the same class and its source, {"value", "source"}, or None.
        figures: names of the figures in the preset's folder, without the suffix.
        beside: the content of those files of `presets.BESIDE` that the preset has, by name.
            Default None.

    Returns:
        Markdown.

    Example:
        >>> name = "mlp_mnist"
        >>> text = card(presets.load_recipe(name), presets.load_metrics(name), None, ["samples"])
    """
    made = metrics["provenance"]
    reference = page.reference_curve(recipe.data, recipe.likelihood.name)
    bounds = metrics.get("importance_weighted_bounds", {})
    likelihood = _entry(metrics, "negative_log_likelihood")
    return _TEMPLATES.get_template("card.md.j2").render(
        name=metrics["preset"],
        recipe=recipe,
        data=datasets.KNOWN[recipe.data],
        metrics=metrics,
        published=published,
        bounds=", ".join(f"{value:.2f} at k = {int(k):,}" for k, value in bounds.items()),
        refined=_refined(likelihood),
        pixels=_PIXELS.get(recipe.likelihood.name, "binary"),
        compressed={
            entry["name"]: _number(entry)
            for entry in metrics["metrics"]
            if entry["name"].endswith("bits_per_dimension")
        },
        start=_start(recipe, made),
        hours=_hours(recipe, metrics),
        note=page.REFERENCE_NOTE if reference else "",
        captions=page.captions("test", reference),
        figures=figures,
        **dict.fromkeys(presets.BESIDE) | dict(beside or {}),
        made=made,
    )


def _entry(metrics: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    return next(entry for entry in metrics["metrics"] if entry["name"] == name)


def _refined(entry: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a likelihood's entry with the minutes it took and those of the full estimate.

    The result is empty if all images took all samples.
    """
    if "num_refined" not in entry:
        return {}
    samples, images, refined = entry["num_samples"], entry["num_images"], entry["num_refined"]
    drawn = images * entry["num_few"] + refined * samples
    minutes = entry["seconds"] / 60
    return {
        **entry,
        "minutes": round(minutes),
        "full_minutes": round(minutes * images * samples / drawn),
    }


def _hours(recipe: presets.Recipe, metrics: Mapping[str, Any]) -> str:
    """Returns the duration of the epochs and an upper bound of the processor time they took.

    The bound is rounded up. The result is "" for a preset whose duration was not measured.
    """
    seconds = metrics.get("training_seconds")
    if seconds is None:
        return ""
    hours = seconds / 3600
    cores = metrics["provenance"]["hardware"]["cores"]
    bound = math.ceil(10 * hours * cores) / 10
    text = f"{hours:.1f} hours on {cores} cores, at most {bound:.1f} core-hours"
    if _start(recipe, metrics["provenance"]) == "current":
        before = presets.load_metrics(recipe.start_from)
        if before_text := _hours(presets.load_recipe(recipe.start_from), before):
            text += f", after those of `{recipe.start_from}`, which took {before_text}"
    return text


def _start(recipe: presets.Recipe, made: Mapping[str, Any]) -> str:
    """Returns "current" if training started from the present weights of `start_from`.

    If they were replaced since, the result is the beginning of the hash of the earlier weights.
    """
    if not recipe.start_from:
        return ""
    began = made[presets.START_HASH]
    current = presets.load_metrics(recipe.start_from)["provenance"]["weights_sha256"]
    return "current" if began == current else began[:12]


def _figures(folder: Path) -> list[str]:
    return [kind for kind in page.KINDS if (folder / "figures" / f"{kind}.png").exists()]


def _value(entry: Mapping[str, Any]) -> str:
    value = entry["value"]
    return str(value) if isinstance(value, int) else f"{value:.{_decimals(entry)}f}"


def _decimals(entry: Mapping[str, Any]) -> int:
    return 4 if entry["unit"] == "share of images" else 2


def _beside(folder: Path) -> dict[str, Any]:
    """Returns the content of the JSON files beside the weights, those that were measured."""
    paths = {kind: folder / f"{kind}.json" for kind in presets.BESIDE}
    return {
        kind: json.loads(path.read_text(encoding="utf-8"))
        for kind, path in paths.items()
        if path.exists()
    }


def _number(entry: Mapping[str, Any]) -> str:
    error = entry.get("standard_error")
    return _value(entry) if error is None else f"{_value(entry)} ± {error:.{_decimals(entry)}f}"


def _how(entry: Mapping[str, Any]) -> str:
    facts = [str(entry["estimator"]).replace("_", " ")]
    if "given" in entry:
        facts.append(f"given the {entry['given']}")
    if "num_refined" in entry:
        facts.append(
            f"{entry['num_samples']:,} samples for {entry['num_refined']:,} images, "
            f"{entry['num_few']} for the others"
        )
    elif "num_samples" in entry:
        facts.append(f"{entry['num_samples']:,} samples")
    facts += [
        f"{entry['num_images']:,} {entry['split']} images",
        f"{entry['binarization']} binarization",
        f"seed {entry['seed']}",
    ]
    if "seconds" in entry:
        facts.append(f"{entry['seconds']:.0f} s")
    return ", ".join(facts)


def _part(part: presets.Part) -> str:
    arguments = ", ".join(f"{name} {value}" for name, value in part.arguments.items())
    return f"{part.name} ({arguments})" if arguments else part.name


def _made_with(made: Mapping[str, Any]) -> str:
    versions = ", ".join(f"{what} {which}" for what, which in made["versions"].items())
    hardware = made["hardware"]
    return (
        f"{versions} on {hardware['cpu']}, {hardware['cores']} cores, at commit `{made['commit']}`"
    )


_TEMPLATES = jinja2.Environment(
    loader=jinja2.PackageLoader("vae_keras.zoo"),
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
)
_TEMPLATES.filters |= {
    "how": _how,
    "made_with": _made_with,
    "number": _number,
    "part": _part,
    "nats": lambda found: f"{found['nats']:.2f} ± {found['standard_error']:.2f} nats per image",
    "bits": lambda found: f"{found['bits']:.3f} ± {found['standard_error']:.3f}",
    "percent": lambda share: f"{100 * share:.2f}",
    "value": _value,
    "thousands": lambda number: f"{number:,}",
}
