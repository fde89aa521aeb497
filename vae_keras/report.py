"""The page of a run: one HTML file that needs nothing else, and the facts around its numbers."""

from __future__ import annotations

import base64
import html
import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import matplotlib
import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from vae_keras import figures
from vae_keras._version import __version__

CAPTIONS = {
    "elbo": "The ELBO after each epoch, beside the fourteen values of the report.",
    "prior": "Images decoded from 25 draws of the prior, the same draws in each picture.",
    "uniform": "Images decoded from 25 uniform draws on [-√3, √3], of the same mean and variance.",
    "samples": "Images decoded from 25 draws of the prior.",
    "reconstructions": "Test images, of each class where there are classes: the original, what the "
    "model sees, and the reconstruction through the posterior mean.",
    "interpolations": "Eleven steps along the straight line between the posterior means of two "
    "test images, the originals at both ends.",
    "manifold": "Images decoded over the two-dimensional latent space, at the prior's quantiles.",
    "latent_map": "Posterior means of the test images in two dimensions, and the distances "
    "between the classes' means in all of them.",
}


def compares(data: str, likelihood: str) -> bool:
    """Whether the lab report's ELBO may stand beside a run's: probabilities of the same data."""
    return data == "mnist" and likelihood == "Bernoulli"


def captions(compared: bool) -> dict[str, str]:
    """Returns the figures' captions, for a curve with the lab report's values or without."""
    return CAPTIONS if compared else CAPTIONS | {"elbo": "The ELBO after each epoch."}


def provenance(data_sha256: str) -> dict[str, Any]:
    """Returns what a number was made with: commit, versions, hardware, the data's hash."""
    return {
        "commit": _commit(),
        "versions": {
            "vae_keras": __version__,
            "python": platform.python_version(),
            "tensorflow": tf.__version__,
            "keras": keras.__version__,
            "tensorflow_probability": tfp.__version__,
            "numpy": np.__version__,
            "matplotlib": matplotlib.__version__,
        },
        "hardware": {
            "system": f"{platform.system()} {platform.machine()}",
            "cpu": _cpu(),
            "cores": os.cpu_count(),
            "gpus": len(tf.config.list_physical_devices("GPU")),
        },
        "data_sha256": data_sha256,
    }


def _commit() -> str | None:
    """The checkout's commit, "-dirty" when files differ from it; None outside of one."""
    here = Path(__file__).resolve().parent.parent

    def git(*arguments: str) -> str:
        command = ["git", "-C", os.fspath(here), *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    try:
        if Path(git("rev-parse", "--show-toplevel")).resolve() != here:
            return None
        changed = git("status", "--porcelain", "--untracked-files=no")
        return git("rev-parse", "HEAD") + ("-dirty" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or "unknown"


def metric(name: str, value: float, **facts: Any) -> dict[str, Any]:
    """Returns a number with how it was made, as `metrics.json` lists them.

    Args:
        name: of the figure.
        value: of it.
        **facts: on it; those that are NaN, such as one image's standard error, are left out.
    """
    known = {fact: given for fact, given in facts.items() if given == given}
    return {"name": name, "value": value, **known}


def page(
    title: str,
    config: Mapping[str, Any],
    rows: Sequence[Mapping[str, str]],
    metrics: Mapping[str, Any],
    figures_folder: Path,
) -> str:
    """Renders a run as one HTML page: figures inline, nothing from the network.

    Args:
        title: of the page.
        config: the run's configuration, as `config.json` holds it.
        rows: of `elbo.csv`.
        metrics: as `metrics.json` holds them.
        figures_folder: its PNG files are shown, those with a caption first.

    Returns:
        HTML text.
    """
    likelihood = config.get("likelihood", {}).get("name", "Bernoulli")
    compared = compares(config.get("data", "mnist"), likelihood)
    paths = sorted(figures_folder.glob("*.png"), key=_rank)
    shown = "".join(_figure(path, captions(compared)) for path in paths)
    epochs = _epoch_rows(rows, figures.REPORT_ELBO if compared else ())
    head = f"<title>{html.escape(title)}</title><style>{_STYLE}</style>"
    parts = [
        f"<h1>{html.escape(title)}</h1>",
        f"<p>{html.escape(str(config.get('description', '')))}</p>",
        "<h2>Numbers</h2>",
        _table(
            ("figure", "value", "standard error", "unit", "how it was measured"),
            [_metric_row(entry) for entry in metrics["metrics"]],
        ),
        "<h2>Figures</h2>",
        shown,
        "<h2>The ELBO of each epoch</h2>",
        _table(("epoch", *(("the report",) if compared else ()), *_CURVE), epochs),
        _neighbours(metrics.get("latent_classes", {})),
        "<h2>Configuration</h2>",
        _table(("field", "value"), _flatten(config)),
        "<h2>Made with</h2>",
        _table(("what", "value"), _flatten(metrics["provenance"])),
    ]
    body = "\n".join(parts)
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8">{head}</head>'
        f"<body>\n{body}\n</body></html>\n"
    )


_CURVE = ("elbo", "log_likelihood", "kl", "val_elbo", "val_log_likelihood", "val_kl", "seconds")

_STYLE = """
body{font:15px/1.5 system-ui,sans-serif;color:#222;max-width:62rem;margin:2rem auto;padding:0 1rem}
h1{font-size:1.7rem}h2{font-size:1.2rem;margin-top:2.2rem;border-bottom:1px solid #ddd}
figure{margin:1.2rem 0;break-inside:avoid}figure img{max-width:100%}
figure.pair{display:inline-block;width:46%;margin-right:2%}
figcaption{color:#555;font-size:.9rem}.wide{overflow-x:auto}
table{border-collapse:collapse;font-size:.85rem;font-variant-numeric:tabular-nums}
td,th{padding:.2rem .7rem;border-bottom:1px solid #eee;text-align:right}
td:first-child,th:first-child,td.text{text-align:left}th{background:#f6f6f6}
"""


def _rank(path: Path) -> tuple[int, str]:
    names = list(CAPTIONS)
    kind = path.stem.split("_epoch_")[0]
    return (names.index(kind) if kind in names else len(names), path.name)


def _figure(path: Path, texts: Mapping[str, str]) -> str:
    kind = path.stem.split("_epoch_")[0]
    caption = html.escape(texts.get(kind, path.stem))
    image = base64.b64encode(path.read_bytes()).decode()
    pair = ' class="pair"' if kind in ("prior", "uniform") else ""
    picture = f'<img src="data:image/png;base64,{image}" alt="{caption}">'
    return f"<figure{pair}>{picture}<figcaption>{caption}</figcaption></figure>\n"


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    top = "".join(f"<th>{html.escape(name)}</th>" for name in header)
    body = "".join("<tr>" + "".join(_cell(value) for value in row) + "</tr>\n" for row in rows)
    return f'<div class="wide"><table><tr>{top}</tr>\n{body}</table></div>\n'


def _cell(value: str) -> str:
    number = value.replace("-", "").replace(".", "").replace("e", "").isdigit() or not value
    return (
        f"<td>{html.escape(value)}</td>"
        if number
        else f'<td class="text">{html.escape(value)}</td>'
    )


def _metric_row(entry: Mapping[str, Any]) -> list[str]:
    facts = {k: v for k, v in entry.items() if k not in ("name", "value", "unit", "standard_error")}
    how = ", ".join(
        f"{name.replace('_', ' ')} {value:.3g}"
        if isinstance(value, float)
        else f"{name.replace('_', ' ')} {value}"
        for name, value in facts.items()
    )
    value, error = entry["value"], entry.get("standard_error")
    return [
        entry["name"].replace("_", " "),
        f"{value:.3f}" if isinstance(value, float) else str(value),
        "" if error is None else f"{error:.3f}",
        entry.get("unit", ""),
        how,
    ]


def _epoch_rows(rows: Sequence[Mapping[str, str]], report: Sequence[float]) -> list[list[str]]:
    """The run's epochs, beside the report's where there are any: also those of one of the two."""
    run = {int(row["epoch"]): [_rounded(row[name]) for name in _CURVE] for row in rows}
    table = []
    for epoch in sorted({*range(len(report)), *run}):
        beside = [f"{report[epoch]:.3f}" if epoch < len(report) else ""] if report else []
        table.append([str(epoch), *beside, *run.get(epoch, [""] * len(_CURVE))])
    return table


def _rounded(value: str) -> str:
    return f"{float(value):.3f}" if value else ""


def _neighbours(classes: Mapping[str, Any]) -> str:
    if not classes:
        return ""
    names, distances = classes["names"], classes["distances"]
    rows = []
    for index, name in enumerate(names):
        order = classes["nearest"][name]
        near = ", ".join(
            f"{other} ({distances[index][names.index(other)]:.2f})" for other in order[:3]
        )
        rows.append([name, near])
    return "<h2>Which classes lie close</h2>" + _table(("class", "nearest, with distances"), rows)


def _flatten(values: Mapping[str, Any], prefix: str = "") -> list[list[str]]:
    rows: list[list[str]] = []
    for name, value in values.items():
        if isinstance(value, Mapping):
            rows += _flatten(value, f"{prefix}{name}.")
        else:
            rows.append([prefix + name, str(value)])
    return rows
