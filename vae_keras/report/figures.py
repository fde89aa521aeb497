"""Draws image grids, curves and maps as matplotlib Figures.

Nothing here uses pyplot, so there is no global state and no window.
"""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from vae_keras.utils import checks
from vae_keras.utils.files import atomic_write

# The reference curve, in nats per image. A lab report on MNIST trained a VAE with the sizes of
# `mlp_mnist`, 784-200-200-50, and printed the ELBO after each of its epochs 0 to 13.
REFERENCE_ELBO = (
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
_GAP_VALUE = {1: 0.15, 3: 1.0}  # by channels; 0.15 is a light grey where 0 is drawn white
_CELL_ASPECT = 4.0  # the largest ratio between the sides of a grid's cell
_LONG_NAME, _LONG_COLUMN = 3, 8  # letters that fit into a circle, and above a column
_MANY_CLASSES = 15  # a map of more classes has no room for numbers in its cells
_DARK, _ACCENT, _SECOND = "#222222", "#1f6fb4", "#c4501b"


def save(figure: Figure, path: str | os.PathLike[str]) -> None:
    """Writes a figure as a PNG file through a temporary file.

    Equal figures give equal bytes, because neither a date nor a version is written.

    Args:
        figure: the figure. Its layout is computed here and stays fixed afterwards.
        path: the PNG file. Its folder is created if it is missing.

    Raises:
        OSError: if the file system refuses; `path` is then unchanged.

    Example:
        >>> save(grid(np.zeros((2, 28, 28, 1)), 1, 2, "Two images"), "grid.png")
    """
    content = png(figure)
    with atomic_write(path) as file:
        file.write(content)


def png(figure: Figure) -> bytes:
    """Returns a figure as the content of a PNG file, see `save`.

    Example:
        >>> png(grid(np.zeros((2, 28, 28, 1)), 1, 2, "Two images"))[1:4]
        b'PNG'
    """
    # A second layout pass would move a grid by a pixel, so the layout is computed once.
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=_DPI, metadata={"Software": None})
    return file.getvalue()


def tile(images: np.ndarray, rows: int, columns: int, gap: int = 1) -> np.ndarray:
    """Arranges images in a grid, row by row, in one array.

    Args:
        images: array [rows * columns, H, W, C] in [0, 1], with C = 1 or 3.
        rows: number of rows.
        columns: number of columns.
        gap: pixels between two images. Default 1.

    Returns:
        float32 array [rows * (H + gap) - gap, columns * (W + gap) - gap, C].

    Raises:
        checks.InputError: if the number of images is not rows * columns.

    Example:
        >>> tile(np.zeros((6, 28, 28, 1)), rows=2, columns=3).shape
        (57, 86, 1)
    """
    num, height, width, channels = images.shape
    if num != rows * columns:
        raise checks.InputError(
            f"a {rows} x {columns} grid takes {rows * columns} images. Received: {num} images. "
            "Change rows and columns."
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
    invert: bool = True,
) -> Figure:
    """Draws a grid of images with a title, and with labels of its rows and columns if given.

    Args:
        images: array [rows * columns, H, W, C] in [0, 1], with C = 1 or 3.
        rows: number of rows.
        columns: number of columns.
        title: text above the grid.
        row_labels: one text for each row, or none. Default ().
        column_labels: one text for each column, or none. Default ().
        invert: whether a grey 0 is drawn white and a grey 1 black. It has no effect on colour
            images. Default True.

    Returns:
        A matplotlib Figure.

    Raises:
        checks.InputError: if the number of images is not rows * columns.

    Example:
        >>> figure = grid(np.zeros((6, 28, 28, 1)), 2, 3, "Six images", ("top", "bottom"))
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
        cmap="gray_r" if invert else "gray",
        vmin=0,
        vmax=1,
        # Pixels are drawn as squares, unless the picture has fewer pixels than the images.
        interpolation="nearest" if width <= cell * _DPI else "antialiased",
    )
    axes.set_title(title, fontsize=10, color=_DARK)
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.xaxis.tick_top()
    axes.set_xticks([(width + 1) * i + width / 2 - 0.5 for i in range(len(column_labels))])
    axes.set_xticklabels(
        column_labels,
        fontsize=7,
        rotation=40 if long else 0,
        ha="left" if long else "center",
        parse_math=False,  # two dollar signs in a name would be drawn as a formula
    )
    axes.set_yticks([(height + 1) * i + height / 2 - 0.5 for i in range(len(row_labels))])
    axes.set_yticklabels(row_labels, fontsize=8, parse_math=False)
    axes.tick_params(length=0, colors=_DARK)
    return figure


def elbo_curve(
    elbo: Sequence[float], val_elbo: Sequence[float] = (), reference: Sequence[float] = ()
) -> Figure:
    """Draws the ELBO after each epoch, beside a reference curve if one is given.

    Args:
        elbo: training ELBO after each epoch, in nats per image.
        val_elbo: validation ELBO after each epoch, in nats per image. Default ().
        reference: ELBO to compare with, one value for each epoch, such as `REFERENCE_ELBO`.
            Default ().

    Returns:
        A matplotlib Figure.

    Example:
        >>> figure = elbo_curve([-200.0, -150.0], [-210.0, -160.0], REFERENCE_ELBO)
    """
    figure = _figure(6.4, 3.8)
    axes = figure.subplots()
    if len(reference):
        epochs = range(len(reference))
        axes.plot(epochs, reference, "s--", label="reference", color=_SECOND, markersize=3, lw=1)
    axes.plot(range(len(elbo)), elbo, "o-", color=_ACCENT, markersize=3, label="training")
    if len(val_elbo):
        axes.plot(range(len(val_elbo)), val_elbo, "-", color=_DARK, lw=1, label="validation")
    axes.set_xlabel("epoch")
    axes.set_ylabel("ELBO, nats per image (higher is better)")
    axes.set_title("The evidence lower bound after each epoch", fontsize=10)
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    return figure


def latent_map(
    points: np.ndarray, labels: np.ndarray, distances: np.ndarray, axis_name: str, title: str
) -> Figure:
    """Draws the classes in latent space, and the distances between their means.

    Args:
        points: coordinates [N, 2].
        labels: class of each point, integers or texts [N].
        distances: distances [K, K] between the class means, in the order of the sorted classes.
        axis_name: name of the two axes, such as "principal component".
        title: text above the points.

    Returns:
        A matplotlib Figure with a scatter plot on the left and the distances on the right.

    Example:
        >>> points, labels = np.zeros((4, 2)), np.array([0, 0, 1, 1])
        >>> figure = latent_map(points, labels, np.zeros((2, 2)), "latent", "Posterior means")
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
    left.set_title(title, fontsize=10)
    left.set_xlabel(f"{axis_name} 1")
    left.set_ylabel(f"{axis_name} 2")
    right.imshow(np.where(np.eye(len(names), dtype=bool), np.nan, distances), cmap="Blues_r")
    limit = np.median(distances[~np.eye(len(names), dtype=bool)]) if len(names) > 1 else 0.0
    numbered = range(len(names)) if len(names) <= _MANY_CLASSES else ()
    for row in numbered:
        for column in numbered:
            if row != column:
                value = distances[row, column]
                text = {"ha": "center", "va": "center", "size": 7}
                text["color"] = "white" if value < limit else _DARK
                right.text(column, row, f"{value:.2f}", **text)
    size = 10 if len(names) <= _MANY_CLASSES else 5
    text = {"fontsize": size, "parse_math": False}
    right.set_xticks(range(len(names)), names, rotation=90 if long else 0, **text)
    right.set_yticks(range(len(names)), names, **text)
    right.set_title("Distance between class means (dark is close)", fontsize=10)
    return figure


def confusion(matrix: np.ndarray, names: Sequence[str], title: str) -> Figure:
    """Draws how many images of each class are taken for each class.

    Args:
        matrix: counts [K, K], the true class along the rows.
        names: names of the K classes.
        title: text above the matrix.

    Returns:
        A matplotlib Figure.

    Example:
        >>> figure = confusion(np.array([[9, 1], [0, 8]]), ("cat", "dog"), "Cats and dogs")
    """
    figure = _figure(5.5, 5.2)
    axes = figure.subplots()
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    axes.imshow(shares, cmap="Blues", vmin=0.0, vmax=1.0)
    few = len(names) <= _MANY_CLASSES
    for row, column in np.argwhere(matrix > 0) if few else ():
        colour = "white" if shares[row, column] > 0.5 else _DARK
        count = f"{matrix[row, column]:,}"
        axes.text(column, row, count, ha="center", va="center", size=8, color=colour)
    text: dict[str, Any] = {"fontsize": 10 if few else 5, "parse_math": False}
    long = any(len(name) > _LONG_NAME for name in names)
    axes.set_xticks(range(len(names)), names, rotation=90 if long else 0, **text)
    axes.set_yticks(range(len(names)), names, **text)
    axes.set_xlabel("most probable class")
    axes.set_ylabel("label")
    axes.set_title(title, fontsize=10)
    return figure


def _class_colours(count: int) -> list:
    palette = colormaps["tab10" if count <= 10 else "turbo"]
    return [palette(i if count <= 10 else i / (count - 1)) for i in range(count)]


def _figure(width: float, height: float) -> Figure:
    figure = Figure(figsize=(width, height), dpi=_DPI, layout="constrained")
    FigureCanvasAgg(figure)
    return figure
