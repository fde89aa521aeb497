"""Model cards and zoo tables, rendered from the JSON files beside the weights."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vae_keras import datasets, presets, report

_MARK = re.compile(r"(<!-- zoo -->\n).*?(<!-- /zoo -->)", re.DOTALL)


def render(folder: Path | None = None) -> dict[Path, str]:
    """Renders every file that shows the zoo's numbers.

    Args:
        folder: the zoo. Default `presets.folder()`.

    Returns:
        Path to text: a card a preset with weights, `saved_models/README.md`, and the project's
        README with its table in place, where there is one.
    """
    zoo = presets.folder() if folder is None else folder
    published = json.loads((zoo / "published.json").read_text(encoding="utf-8"))
    measured = {
        path.parent.name: json.loads(path.read_text(encoding="utf-8"))
        for path in sorted(zoo.glob("*/metrics.json"))
    }
    texts = {
        zoo / name / "README.md": card(
            presets.load_recipe(name), metrics, published.get(name), _figures(zoo / name)
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


def zoo_table(
    measured: Mapping[str, Mapping[str, Any]],
    published: Mapping[str, Mapping[str, Any]],
    link: str = "",
) -> str:
    """Renders the presets as a Markdown table, our figure beside the published one.

    Args:
        measured: preset to its metrics.
        published: preset to the figure of the same class and its source.
        link: put before a preset's folder. Default none.

    Returns:
        Markdown.
    """
    lines = [
        "| preset | data | parameters | test -log p(x) | test ELBO | published, same class "
        "| source |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, metrics in measured.items():
        entries = {entry["name"]: entry for entry in metrics["metrics"]}
        other = published.get(name, {})
        lines.append(
            f"| [{name}]({link}{name}/README.md) "
            f"| {datasets.KNOWN[presets.load_recipe(name).data].title} "
            f"| {metrics['parameters']:,} "
            f"| {_number(entries['negative_log_likelihood'])} | {_number(entries['elbo'])} "
            f"| {other.get('value', '')} | {other.get('source', '')} |"
        )
    first = next(iter(measured.values()))["metrics"]
    entry = next(entry for entry in first if entry["name"] == "negative_log_likelihood")
    some = [name for name, metrics in measured.items() if _refined(metrics)]
    exception = f"; with {' and '.join(some)} most took fewer, see the card" if some else ""
    return "\n".join(lines) + (
        f"\n\nNats per image, mean ± standard error over the {entry['num_images']:,} test images "
        f"of the preset's data, {entry['binarization']} binarization; -log p(x) from "
        f"{entry['num_samples']:,} importance samples an image{exception}.\n"
    )


def card(
    recipe: presets.Recipe,
    metrics: Mapping[str, Any],
    published: Mapping[str, Any] | None,
    figures: list[str],
) -> str:
    """Renders a preset's model card.

    Args:
        recipe: what trained it.
        metrics: what was measured, as `metrics.json` holds it.
        published: the figure of the same class, {"value", "source"}, or None.
        figures: names of the figures in its folder, without the suffix.

    Returns:
        Markdown.
    """
    name, made = metrics["preset"], metrics["provenance"]
    data = datasets.KNOWN[recipe.data]
    captions = report.captions(report.compares(recipe.data, recipe.likelihood.name))
    held = recipe.validation
    trained_on = (
        f"all 60,000 training images of {data.title}"
        if not held
        else f"the first {60000 - held:,} training images of {data.title}, the last {held:,} held "
        "out"
    )
    rows = "".join(
        f"| {entry['name'].replace('_', ' ')} | {_number(entry)} | {entry.get('unit', '')} "
        f"| {_how(entry)} |\n"
        for entry in metrics["metrics"]
    )
    pixels = "grey" if recipe.likelihood.name == "ContinuousBernoulli" else "binary"
    curve = metrics.get("importance_weighted_bounds", {})
    bounds = ", ".join(f"{value:.2f} at k = {int(k):,}" for k, value in curve.items())
    evaluated = made.get("evaluated")  # zoo folders from before it was kept do without
    lines = [
        f"# {name}\n",
        f"{recipe.description}.\n",
        "```python\nfrom vae_keras import VAE\n\n"
        f'vae = VAE.from_preset("{name}")\nimages = vae.sample(25)\n```\n',
        "```bash\n"
        f"python -m vae_keras export --preset {name} --to models/{name}  # for TF Serving\n```\n",
        "## Numbers\n",
        f"| figure | value | unit | how |\n|---|---|---|---|\n{rows}",
    ]
    if published:
        lines.append(
            f"The published figure of this class is {published['value']} ({published['source']}).\n"
        )
    if bounds:
        lines.append(f"The bound on -log p(x) tightens with the samples: {bounds}.\n")
    if refined := _refined(metrics):
        lines.append(_why_refined(name, refined))
    lines += [
        f"How the recipe was chosen: {recipe.choices}. A run reads the test set after its last "
        "epoch.\n",
        "## Training\n",
        f"{recipe.epochs:,} epochs on {trained_on}{_origin(recipe, made)}; objective "
        f"{_part(recipe.objective)}, batch size {recipe.batch_size}, {_part(recipe.optimizer)} at "
        f"{recipe.learning_rate:g}, {_schedule(recipe)}, {recipe.binarization} binarization, "
        f"{recipe.precision.replace('_', ' ')} networks, seed {recipe.seed}. "
        f"{metrics['parameters']:,} parameters.\n",
        f"```bash\npython train.py --preset {name}{_needs(recipe)}\n```\n",
        "## Figures\n",
        *(f"![{captions[name]}](figures/{name}.png)\n" for name in figures),
        "## Made with\n",
        f"{_made_with(made)}; weights SHA-256 `{made['weights_sha256']}`.\n",
        *([f"-log p(x) measured with {_made_with(evaluated)}.\n"] if evaluated else []),
        "## Limits\n",
        f"It models {pixels} images of {data.subject} and nothing else: an image that is none "
        "is encoded all the same. Likelihoods compare only with figures on the same data under "
        "the same binarization.\n",
    ]
    return "\n".join(lines)


def _origin(recipe: presets.Recipe, made: Mapping[str, Any]) -> str:
    if not recipe.start_from:
        return ""
    began = made[presets.START_HASH]
    if began == presets.load_metrics(recipe.start_from)["provenance"]["weights_sha256"]:
        return f", from the weights of `{recipe.start_from}`"
    return (
        f", from weights that `{recipe.start_from}` had before its present ones (those at this "
        f"preset's commit, SHA-256 `{began[:12]}...`)"
    )


def _needs(recipe: presets.Recipe) -> str:
    return "  # with Python 3.11 or newer" if recipe.optimizer.name == "Muon" else ""


def _schedule(recipe: presets.Recipe) -> str:
    once = f"{recipe.schedule} schedule after {recipe.warmup_steps} steps of warm-up"
    return once if recipe.cycles == 1 else f"{recipe.cycles} cycles of a {once}"


def _refined(metrics: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The entry of a likelihood that took all samples on some images only, or None."""
    return next((entry for entry in metrics["metrics"] if "num_refined" in entry), None)


def _why_refined(name: str, entry: Mapping[str, Any]) -> str:
    samples, images, some = entry["num_samples"], entry["num_images"], entry["num_refined"]
    drawn = images * entry["num_few"] + some * samples
    minutes = entry["seconds"] / 60
    return (
        f"{samples:,} samples on all {images:,} images would have taken about "
        f"{minutes * images * samples / drawn:.0f} minutes in place of {minutes:.0f}: "
        f"{some:,} images, spread evenly over the test set, took them, every image took "
        f"{entry['num_few']}, and all are raised by the mean of what the many gain over the few. "
        "The standard error holds both.\n\n"
        f"```bash\npython -m vae_keras evaluate --preset {name} --refined {some}\n```\n"
    )


def _made_with(made: Mapping[str, Any]) -> str:
    versions = ", ".join(f"{what} {which}" for what, which in made["versions"].items())
    hardware = made["hardware"]
    return f"{versions}; {hardware['cpu']}, {hardware['cores']} cores; commit `{made['commit']}`"


def _part(part: presets.Part) -> str:
    arguments = ", ".join(f"{name} {value}" for name, value in part.arguments.items())
    return f"{part.name} ({arguments})" if arguments else part.name


def _figures(folder: Path) -> list[str]:
    return [name for name in report.CAPTIONS if (folder / "figures" / f"{name}.png").exists()]


def _number(entry: Mapping[str, Any]) -> str:
    value, error = entry["value"], entry.get("standard_error")
    if isinstance(value, int):
        return str(value)
    return f"{value:.2f}" if error is None else f"{value:.2f} ± {error:.2f}"


def _how(entry: Mapping[str, Any]) -> str:
    facts = [str(entry["estimator"]).replace("_", " ")]
    if "num_refined" in entry:
        facts.append(
            f"{entry['num_samples']:,} samples on {entry['num_refined']:,} images, "
            f"{entry['num_few']} on the others"
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
