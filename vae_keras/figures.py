"""Image grids, curves and maps as matplotlib Figures; no pyplot, so no state and no windows."""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np
from matplotlib import colormaps
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from vae_keras import checks
from vae_keras.files import atomic_write

# The ELBO that the report printed after each of its epochs 0..13, in nats per image.
REPORT_ELBO = (
    -222.0131,
    -193.4818,
    -180.5705,
    -166.4317,
    -154.8852,
    -146.3863,
    -139.0776,
    -134.3981,
    -130.3842,
    -126.1567,
    -122.8824,
    -120.5947,
    -119.0836,
    -117.7239,
)

_DPI = 160
_GAP_VALUE = {1: 0.15, 3: 1.0}  # by channels: a light line where a grey 0 is drawn white
_CELL_ASPECT = 4.0  # a cell's sides differ by no more, however long its image is
_LONG_NAME, _LONG_COLUMN = 3, 8  # letters; longer ones do not fit a circle, a column
_MANY_CLASSES = 15  # from here on a map is too full for numbers in its cells
_INK, _ACCENT, _SECOND = "#222222", "#1f6fb4", "#c4501b"


def save(figure: Figure, path: str | os.PathLike[str]) -> None:
    """Writes a figure as PNG, whole or not at all.

    The same figure gives the same bytes: no date, no version is written into the file.
    """
    figure.draw_without_rendering()  # lays it out, once: a second pass would move a grid a little
    figure.set_layout_engine("none")
    with atomic_write(path) as file:
        figure.savefig(file, format="png", dpi=_DPI, metadata={"Software": None})


def tile(images: np.ndarray, rows: int, columns: int, gap: int = 1) -> np.ndarray:
    """Lays images out on a grid, row by row.

    Args:
        images: [rows * columns, H, W, C] in [0, 1], C = 1 or 3.
        rows, columns: the grid.
        gap: pixels between images. Default 1.

    Returns:
        float32 [rows * (H + gap) - gap, columns * (W + gap) - gap, C].

    Raises:
        checks.InputError: when the number of images is not rows * columns.
    """
    num, height, width, channels = images.shape
    if num != rows * columns:
        raise checks.InputError(
            f"a {rows} x {columns} grid takes {rows * columns} images. Received: {num}."
        )
    shape = (rows * (height + gap) - gap, columns * (width + gap) - gap, channels)
    canvas = np.full(shape, _GAP_VALUE[channels], np.float32)
    for index, image in enumerate(images):
        top = (index // columns) * (height + gap)
        left = (index % columns) * (width + gap)
        canvas[top : top + height, left : left + width] = image
    return canvas


def grid(
    images: np.ndarray,
    rows: int,
    columns: int,
    title: str,
    row_labels: Sequence[str] = (),
    column_labels: Sequence[str] = (),
    ink: bool = True,
) -> Figure:
    """Draws a grid of images with a title and, where given, labels of rows and columns.

    Args:
        images: [rows * columns, H, W, C] in [0, 1].
        rows, columns: the grid.
        title: above the grid.
        row_labels, column_labels: one text a row, a column. Default none.
        ink: whether a grey 0 is drawn white and 1 black, as ink on paper. Default True.

    Returns:
        A matplotlib Figure.
    """
    height, width = images.shape[1:3]
    cell = 0.55 if columns > 6 else 0.8
    aspect = min(max(height / width, 1 / _CELL_ASPECT), _CELL_ASPECT)
    long = any(len(text) > _LONG_COLUMN for text in column_labels)
    figure = _figure(
        max(3.6, cell * columns + (0.9 if row_labels else 0.2)),
        cell * rows * aspect + 0.55 + (0.2 if column_labels else 0.0) + (0.4 if long else 0.0),
    )
    axes = figure.subplots()
    canvas = tile(images, rows, columns)
    axes.imshow(
        canvas.squeeze(-1) if canvas.shape[-1] == 1 else canvas,
        cmap="gray_r" if ink else "gray",
        vmin=0,
        vmax=1,
        # Pixels stay squares, unless the picture has fewer than the images.
        interpolation="nearest" if width <= cell * _DPI else "antialiased",
    )
    axes.set_title(title, fontsize=10, color=_INK)
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.xaxis.tick_top()
    axes.set_xticks([(width + 1) * i + width / 2 - 0.5 for i in range(len(column_labels))])
    axes.set_xticklabels(
        column_labels,
        fontsize=7,
        rotation=40 if long else 0,
        ha="left" if long else "center",
        parse_math=False,  # a name with two dollars is no formula
    )
    axes.set_yticks([(height + 1) * i + height / 2 - 0.5 for i in range(len(row_labels))])
    axes.set_yticklabels(row_labels, fontsize=8, parse_math=False)
    axes.tick_params(length=0, colors=_INK)
    return figure


def elbo_curve(
    elbo: Sequence[float], val_elbo: Sequence[float] = (), report: bool = True
) -> Figure:
    """Draws the ELBO per epoch, beside the report's own fourteen values on MNIST.

    Args:
        elbo: of the training data, a value an epoch, nats per image.
        val_elbo: of the validation data, likewise. Default none.
        report: whether the report's values are drawn. Default True.

    Returns:
        A matplotlib Figure.
    """
    figure = _figure(6.4, 3.8)
    axes = figure.subplots()
    if report:
        epochs = range(len(REPORT_ELBO))
        axes.plot(epochs, REPORT_ELBO, "s--", color=_SECOND, markersize=3, lw=1, label="the report")
    axes.plot(range(len(elbo)), elbo, "o-", color=_ACCENT, markersize=3, label="training")
    if len(val_elbo):
        axes.plot(range(len(val_elbo)), val_elbo, "-", color=_INK, lw=1, label="validation")
    axes.set_xlabel("epoch")
    axes.set_ylabel("ELBO, nats per image (higher is better)")
    axes.set_title("The evidence lower bound after each epoch", fontsize=10)
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    return figure


def latent_map(
    points: np.ndarray, labels: np.ndarray, distances: np.ndarray, axes_are: str
) -> Figure:
    """Draws where the classes lie in latent space, and how far apart their means are.

    Args:
        points: [N, 2].
        labels: integers or texts [N].
        distances: [K, K] between class means, all latent dimensions.
        axes_are: what the two axes are, such as "principal component".

    Returns:
        A matplotlib Figure: a scatter plot beside a matrix with its numbers.
    """
    figure = _figure(11.0, 5.0)
    left, right = figure.subplots(1, 2, width_ratios=(1.05, 1))
    names = np.unique(labels)
    colours = _class_colours(len(names))
    long = any(len(str(name)) > _LONG_NAME for name in names)
    dot = min(max(20_000 / len(points), 3.0), 20.0)
    for name, colour in zip(names, colours, strict=True):
        rows = labels == name
        left.scatter(*points[rows].T, s=dot, color=colour, alpha=0.55, lw=0)
    for name, colour in zip(names, colours, strict=True):
        centre = points[labels == name].mean(axis=0)
        box = {
            "boxstyle": f"{'round' if long else 'circle'},pad=0.25",
            "fc": "white",
            "ec": colour,
            "lw": 1.5,
        }
        size = 9 if len(names) <= _MANY_CLASSES else 6
        text = {"ha": "center", "va": "center", "fontsize": size, "parse_math": False}
        left.annotate(str(name), centre, bbox=box, **text)
    left.set_title("Posterior means of the test images, by class", fontsize=10)
    left.set_xlabel(f"{axes_are} 1")
    left.set_ylabel(f"{axes_are} 2")
    right.imshow(np.where(np.eye(len(names), dtype=bool), np.nan, distances), cmap="Blues_r")
    limit = np.median(distances[~np.eye(len(names), dtype=bool)]) if len(names) > 1 else 0.0
    numbered = range(len(names)) if len(names) <= _MANY_CLASSES else ()
    for row in numbered:
        for column in numbered:
            if row != column:
                value = distances[row, column]
                ink = "white" if value < limit else _INK
                right.text(column, row, f"{value:.2f}", ha="center", va="center", size=7, color=ink)
    size = 10 if len(names) <= _MANY_CLASSES else 5
    text = {"fontsize": size, "parse_math": False}
    right.set_xticks(range(len(names)), names, rotation=90 if long else 0, **text)
    right.set_yticks(range(len(names)), names, **text)
    right.set_title("Distance between class means (dark is close)", fontsize=10)
    return figure


def _class_colours(count: int) -> list:

    palette = colormaps["tab10" if count <= 10 else "turbo"]
    return [palette(i if count <= 10 else i / (count - 1)) for i in range(count)]


def _figure(width: float, height: float) -> Figure:
    figure = Figure(figsize=(width, height), dpi=_DPI, layout="constrained")
    FigureCanvasAgg(figure)
    return figure
