"""Trains the recipe for own images on real sets, one run after the other, and tabulates the ends.

    python -m benchmarks.own_images --data SETS  # SETS holds emoji/, textile/, fashion.npz, ...
    python -m benchmarks --render  # writes the table in the guide on own images

A set of `CASES` that the folder does not hold is left out.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any, NamedTuple

from vae_keras.utils import files

RESULTS = Path(__file__).resolve().parent / "results" / "own_images.json"


class Case(NamedTuple):
    """A set at a size, and how many epochs it is trained for."""

    title: str
    name: str
    size: str | None
    epochs: int


CASES = (
    Case("emoji, colour", "emoji", "28", 8),
    Case("emoji, colour", "emoji", "64", 8),
    Case("emoji, grey", "emoji-grey", "28", 8),
    Case("textile photographs, grey", "textile", "28", 8),
    Case("textile photographs, grey", "textile", "64", 8),
    Case("patches of photographs, colour", "patches.npz", None, 8),
    Case("patches of photographs, grey", "patches-grey.npz", None, 8),
    Case("Fashion-MNIST, grey", "fashion.npz", None, 8),
    Case("digits of scikit-learn, grey", "digits.npz", None, 8),
    Case("emoji, colour", "emoji", "128", 4),
)


def run(case: Case, data: Path, folder: Path) -> dict[str, Any]:
    """Trains one case with the networks of conv_mnist; a finished run is only read."""
    from vae_keras.training import TrainConfig, callbacks, train  # rendering needs no TensorFlow

    target = folder / f"{Path(case.name).stem}-{case.size or 'own'}"
    train(
        TrainConfig(
            preset="conv_mnist",
            data=str(data / case.name),
            image_size=case.size,
            binarization="none",
            epochs=case.epochs,
            workdir=target,
        )
    )
    rows = callbacks.read_elbo_csv(target / "elbo.csv")
    metrics = json.loads((target / "metrics.json").read_text(encoding="utf-8"))
    config = json.loads((target / "config.json").read_text(encoding="utf-8"))
    values = {entry["name"]: entry["value"] for entry in metrics["metrics"]}
    height, width, channels = config["own_data"]["image_shape"]
    return {
        "title": case.title,
        "size": f"{height} x {width} x {channels}",
        "likelihood": config["likelihood"]["name"],
        "val_elbo": [float(row["val_elbo"]) for row in rows],
        "bits": {name: values[name] for name in values if name.endswith("bits_per_dimension")},
        "best_epoch": metrics["best_epoch"],
        "provenance": metrics["provenance"],
    }


def table() -> str:
    """Renders the results as a Markdown table."""
    if not RESULTS.exists():
        return "Not measured yet."
    results = json.loads(RESULTS.read_text(encoding="utf-8"))
    lines = [
        "The networks are those of `conv_mnist`, with `--binarization none`. The ELBO is in nats "
        "per image of the validation images; those of a continuous Bernoulli are log-densities.",
        "",
        "| set | size | validation ELBO of the first epoch | the middle | the last | best epoch |"
        " bits per dimension (PNG, WebP) |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in results:
        curve, best = row["val_elbo"], row["best_epoch"]
        bits = row["bits"]
        shown = (
            f"{bits['bits_per_dimension']:.2f} ({bits['png_bits_per_dimension']:.2f}, "
            f"{bits['webp_bits_per_dimension']:.2f})"
            if bits
            else ""
        )
        lines.append(
            f"| {row['title']} | {row['size']} | {curve[0]:,.1f} | "
            f"{curve[len(curve) // 2]:,.1f} | {curve[-1]:,.1f} | {best['best_epoch']} of "
            f"{best['last_epoch']} | {shown} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--runs", type=Path, default=Path("runs/own_images"))
    arguments = parser.parse_args()
    results = []
    for case in CASES:
        if (arguments.data / case.name).exists():
            results.append(run(case, arguments.data, arguments.runs))
            files.write_json(RESULTS, results)


if __name__ == "__main__":
    main()
