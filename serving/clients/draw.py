"""Draws what a served model answers: images from its prior, and a path between two of them.

Run: python serving/clients/draw.py --out served.png
"""

from __future__ import annotations

import argparse
import sys

import numpy as np
from matplotlib.figure import Figure
from rest_client import URL, RequestError, pixels, predict

_SIDE = 5
_STEPS = 9


def grid(images: np.ndarray, columns: int) -> np.ndarray:
    """Lays images [N, H, W, C] out row by row.

    Args:
        images: N is a multiple of `columns`.
        columns: images a row.

    Returns:
        One image [N / columns * H, columns * W, C].
    """
    _, height, width, channels = images.shape
    tiles = images.reshape(-1, columns, height, width, channels)
    return tiles.swapaxes(1, 2).reshape(-1, columns * width, channels)


def main() -> None:
    parser = argparse.ArgumentParser(description="Draws the served model's answers.")
    parser.add_argument("--url", default=URL)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", default="served.png")
    arguments = parser.parse_args()

    count = _SIDE * _SIDE
    seeds = np.stack([np.full(count, arguments.seed), np.arange(count)], axis=1)
    samples = pixels(predict(arguments.url, "sample", {"seeds": seeds}))
    ends = {
        "start_images": np.repeat(samples[:1], _STEPS, axis=0),
        "end_images": np.repeat(samples[1:2], _STEPS, axis=0),
        "fractions": np.linspace(0.0, 1.0, _STEPS),
    }
    path = predict(arguments.url, "interpolate", ends)["output"]

    figure = Figure(figsize=(5, 6), layout="constrained")
    for axes, images, columns, title in zip(
        figure.subplots(2, 1, height_ratios=[_SIDE, 1]),
        (samples, path),
        (_SIDE, _STEPS),
        (f"{count} images, seed {arguments.seed}", "From the first to the second"),
        strict=True,
    ):
        axes.imshow(grid(images, columns).squeeze(), cmap="gray_r", vmin=0, vmax=1)
        axes.set_title(title)
        axes.set_axis_off()
    figure.savefig(arguments.out, dpi=150)
    print(arguments.out)


if __name__ == "__main__":
    try:
        main()
    except (RequestError, OSError, ValueError) as error:
        sys.exit(f"Error: {error}")
