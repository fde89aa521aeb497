"""Draws the figures of a trained model, and compares the classes in its latent space."""

from __future__ import annotations

import math
from collections.abc import Iterator
from statistics import NormalDist
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure

from vae_keras import evaluation, inference, noise
from vae_keras.data import datasets
from vae_keras.embeddings import nearest
from vae_keras.labels import confusion
from vae_keras.model import VAE
from vae_keras.priors import StandardNormal
from vae_keras.report import figures
from vae_keras.utils.rows import Array

_PRIOR_SOURCES = {
    "prior": "z ~ N(0, I)",
    "uniform": "z ~ U[-√3, √3]",
}
_LEARNED_PRIOR_SOURCES = {
    "prior": "z ~ p(z), which is learned",
    "uniform": "U[-√3, √3] through the learned prior",
}
_PAIRS = ((3, 5), (1, 7), (4, 9), (0, 6), (2, 8))  # classes to interpolate between, of ten
_STEPS = 11
_SIDE = 20
_COLUMNS = 10  # images above their reconstructions
_MOST_CLASSES = 12  # rows of a figure of classes
_MOST_CLASSIFIED = 2000  # images of a confusion matrix
CLASSIFY_SAMPLES = 50
"""Importance samples for each image and class behind the confusion matrix."""
_NEIGHBOURS = 8
_MOST_ROWS = 1000  # images that order the latent dimensions
_TRAVERSED = 10  # dimensions
_VALUES = (-3.0, -2.25, -1.5, -0.75, 0.0, 0.75, 1.5, 2.25, 3.0)  # standard deviations


def prior_grids(model: VAE, seed: int = 0, count: int = 25) -> dict[str, np.ndarray]:
    """Draws the noise that the sample grids of a run are decoded from.

    The noise is a pure function of (seed, row), so that grids of different epochs compare.
    `VAE.prior_draws` transforms it to latents. The uniform noise has the mean 0 and the variance 1
    of the normal noise.

    Args:
        model: the model; its `latent_dim` is read.
        seed: seed of the noise, an integer >= 0. Default 0.
        count: number of rows. Default 25.

    Returns:
        "prior" and "uniform", each a float32 array [count, latent_dim].

    Example:
        >>> vae = VAE()
        >>> images = vae.decode(vae.prior_draws(prior_grids(vae)["prior"]))
    """
    bits = noise.bits16(seed, noise.Stream.UNIFORM, rows=count, size=model.latent_dim).numpy()
    unit = (bits.astype(np.float32) + 0.5) / 65536.0
    return {
        "prior": noise.normal(seed, noise.Stream.PRIOR, rows=count, size=model.latent_dim).numpy(),
        "uniform": ((2.0 * unit - 1.0) * np.sqrt(3.0)).astype(np.float32),
    }


def prior_titles(model: VAE, count: int = 25) -> dict[str, str]:
    """Returns the titles of the figures that show `prior_grids`.

    Args:
        model: the model; the titles name its prior.
        count: number of images in a figure. Default 25.

    Returns:
        Titles under the names of `prior_grids`.

    Example:
        >>> prior_titles(VAE())["prior"]
        '25 images decoded from z ~ N(0, I)'
    """
    standard = isinstance(model.prior, StandardNormal)
    sources = _PRIOR_SOURCES if standard else _LEARNED_PRIOR_SOURCES
    return {name: f"{count} images decoded from {source}" for name, source in sources.items()}


def classes_of_rows(model: VAE, count: int, columns: int) -> np.ndarray | None:
    """Returns the labels of a grid whose rows show one class each, in turn.

    Args:
        model: the model.
        count: number of images.
        columns: number of images in a row.

    Returns:
        int [count], or None for a model without classes.

    Example:
        >>> classes_of_rows(VAE(num_classes=2), 6, 2).tolist()
        [0, 0, 1, 1, 0, 0]
    """
    return None if model.classes is None else np.arange(count) // columns % model.classes.count


def predicted_classes(model: VAE, images: Any) -> np.ndarray:
    """Returns the most probable class of each image, int [N].

    Args:
        model: a model with classes.
        images: images as the model receives them, float32 [N, H, W, C].

    Example:
        >>> predicted_classes(VAE(num_classes=2), np.zeros((3, 28, 28, 1), np.float32)).shape
        (3,)
    """
    return model.classify(images, CLASSIFY_SAMPLES).log_prob.argmax(axis=1)


def image_figures(
    model: VAE,
    originals: Array,
    images: Array,
    labels: np.ndarray | None,
    invert: bool,
    split: str,
) -> Iterator[tuple[str, Figure]]:
    """Draws the figures of a model that are made from images.

    Args:
        model: the model.
        originals: the images before binarization, uint8 [N, H, W, C].
        images: the same images as the model receives them, float32 [N, H, W, C] in [0, 1].
        labels: class of each image [N], integers or texts, or None.
        invert: whether a grey 0 is drawn white, as in `figures.grid`.
        split: the split that the images are from, "training", "validation", "test", or "unseen"
            for images that the model did not train on. The titles name it.

    Yields:
        Names and figures: "reconstructions"; "interpolations" and "neighbours" if there are two
        images or more; "traverse";
        "manifold" if the latent space has two dimensions; "levels" if the latents come in groups;
        "latent_map" if the labels are classes, see `datasets.has_classes`; and "classes",
        "transfer" and "confusion" of a model with classes.

    Example:
        >>> x = np.zeros((10, 28, 28, 1), np.uint8)
        >>> drawn = dict(image_figures(VAE(), x, x / np.float32(255), None, True, "test"))
        >>> list(drawn)
        ['reconstructions', 'interpolations', 'traverse', 'neighbours']
    """
    if labels is None:
        first, names = _spread(len(images), _COLUMNS), []
    else:
        classes = np.unique(labels)[:_COLUMNS]
        each = _COLUMNS // len(classes)
        first = [int(row) for name in classes for row in np.flatnonzero(labels == name)[:each]]
        names = [str(labels[index]) for index in first]
    of_shown = None if labels is None else labels[first]
    rows = np.concatenate(
        [
            originals[first] / 255.0,
            images[first],
            model.reconstruct(model.paired(images[first], of_shown)),
        ]
    )
    yield (
        "reconstructions",
        figures.grid(
            rows,
            3,
            len(first),
            f"{split.capitalize()} images and their reconstructions",
            row_labels=("original", "model input", "reconstruction"),
            column_labels=names,
            invert=invert,
        ),
    )
    if pairs := _pairs(labels, len(images)):
        drawn = _interpolations(model, originals, images, labels, pairs, invert, split)
        yield "interpolations", drawn
    yield "traverse", _traverse(model, images, labels, invert, split)
    loc = model.encode(model.paired(images, labels)).loc
    if len(images) > 1:
        yield "neighbours", _neighbours(loc, originals, first, names, invert, split)
    if model.classes is not None and labels is not None:
        yield "classes", _classes(model, invert)
        yield "transfer", _transfer(model, originals, images, labels, first, invert, split)
        yield "confusion", _confusion(model, images, labels, split)
    elif model.latent_dim == 2:
        title = "Images decoded over the latent plane"
        yield "manifold", figures.grid(manifold(model), _SIDE, _SIDE, title, invert=invert)
    if len(inference.latent_groups(model.decoder, model.latent_dim)) > 1:
        middle = [first[len(first) // 2]]
        yield "levels", _levels(model, originals[middle], images[middle], invert, split)
    if labels is not None and datasets.has_classes(labels):
        points, axis_name = project(loc)
        title = f"Posterior means of the {split} images, by class"
        distances = class_distances(loc, labels)
        yield "latent_map", figures.latent_map(points, labels, distances, axis_name, title)


def _spread(count: int, most: int) -> list[int]:
    """Returns rows at equal distances, because images that follow one another often look alike."""
    return [int(row) for row in np.linspace(0, count - 1, min(most, count)).round()]


def _pairs(labels: np.ndarray | None, count: int) -> list[tuple[int, int, str]]:
    """Returns (start, end, label) of each interpolation; the ends differ in class if possible."""
    if labels is None:
        rows = _spread(count, 2 * min(len(_PAIRS), count // 2))
        return [(start, end, "") for start, end in zip(rows[::2], rows[1::2], strict=True)]
    names = np.unique(labels)
    classes = len(names)
    neighbours = [(i, (i + 1) % classes) for i in range(min(len(_PAIRS), classes))]
    pairs = []
    for a, b in _PAIRS if classes == 10 else neighbours:
        start = int(np.flatnonzero(labels == names[a])[0])
        end = int(np.flatnonzero(labels == names[b])[-1])
        if start != end:
            pairs.append((start, end, f"{names[a]} to {names[b]}"))
    return pairs


def _interpolations(
    model: VAE,
    originals: Array,
    images: Array,
    labels: np.ndarray | None,
    pairs: list[tuple[int, int, str]],
    invert: bool,
    split: str,
) -> Figure:
    start, end = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    ends = [
        model.paired(images[rows], None if labels is None else labels[rows])
        for rows in (start, end)
    ]
    lines = model.interpolate(ends[0], ends[1], _STEPS)
    first, last = (originals[ends][:, np.newaxis] / 255.0 for ends in (start, end))
    rows = np.concatenate([first, lines, last], axis=1)
    fractions = [f"{i / (_STEPS - 1):.1f}" for i in range(_STEPS)]
    return figures.grid(
        rows.reshape(-1, *rows.shape[2:]),
        len(pairs),
        _STEPS + 2,
        f"Interpolations between the posterior means of two {split} images",
        row_labels=[name for _, _, name in pairs] if pairs[0][2] else (),
        column_labels=["original", *fractions, "original"],
        invert=invert,
    )


def _classes(model: VAE, invert: bool) -> Figure:
    """A row of images for each class, under the same latents."""
    known = model.classes
    shown = min(known.count, _MOST_CLASSES) if known else 0
    names = [known.name(label) for label in range(shown)] if known else []
    latents = np.tile(model.prior_latents(_COLUMNS), (shown, 1))
    images = model.decode(latents, np.repeat(np.arange(shown), _COLUMNS))
    title = "Images of each class, under the same latents in each column"
    return figures.grid(images, shown, _COLUMNS, title, row_labels=names, invert=invert)


def _transfer(
    model: VAE,
    originals: Array,
    images: Array,
    labels: np.ndarray,
    rows: list[int],
    invert: bool,
    split: str,
) -> Figure:
    """The style of some images in each class."""
    moved = model.transfer(images[rows], labels[rows])[:, :_MOST_CLASSES]
    first = originals[rows][:, np.newaxis] / 255.0
    known = model.classes
    names = [known.name(label) for label in range(moved.shape[1])] if known else []
    grid = np.concatenate([first, moved], axis=1)
    return figures.grid(
        grid.reshape(-1, *grid.shape[2:]),
        len(rows),
        grid.shape[1],
        f"The style of {split} images in each class",
        column_labels=["original", *names],
        invert=invert,
    )


class Dimensions(NamedTuple):
    """The latent dimensions over some images.

    Attributes:
        order: the dimensions, from the most informative one, [latent_dim].
        measure: what orders them, [latent_dim]: the mean KL of each dimension in nats, or for a
            learned prior the variance of its posterior mean.
        measure_name: "KL" or "variance of the posterior mean".
        active: whether the posterior mean varies, bool [latent_dim].
        centre: mean of each dimension, [latent_dim].
        spread: standard deviation of each dimension over images and posterior, [latent_dim].
    """

    order: np.ndarray
    measure: np.ndarray
    measure_name: str
    active: np.ndarray
    centre: np.ndarray
    spread: np.ndarray


def dimensions(model: VAE, images: Array) -> Dimensions:
    """Orders the latent dimensions by what they tell of images.

    Args:
        model: a built model.
        images: images in any form that `VAE.fit` takes.

    Returns:
        `Dimensions`.

    Example:
        >>> dimensions(vae, x_test).order.shape
        (3,)
    """
    units = evaluation.active_units(model, images)
    loc, scale = model.encode(images)
    measure = units.variance if units.kl is None else units.kl
    return Dimensions(
        np.argsort(-measure, kind="stable"),
        measure,
        "variance of the posterior mean" if units.kl is None else "KL",
        units.variance > units.threshold,
        loc.mean(axis=0),
        np.sqrt(loc.var(axis=0) + (scale**2).mean(axis=0)),
    )


def traverse(
    model: VAE, image: np.ndarray, found: Dimensions, label: Any = None
) -> tuple[np.ndarray, np.ndarray]:
    """Decodes the latents of an image with one dimension changed at a time.

    Args:
        model: a built model.
        image: an image as the model receives it, [1, H, W, C].
        found: the order, the centres and the spreads of the dimensions, see `dimensions`.
        label: class of the image, a number or a name, for a model with classes. Default None.

    Returns:
        Pixel means [R, 9, H, W, C], and the R dimensions of the rows: at most ten, in the order of
        `found`. The columns set the dimension from -3 to 3 standard deviations from its centre.

    Example:
        >>> images, rows = traverse(vae, x_test[:1], dimensions(vae, x_test))
        >>> images.shape
        (3, 9, 6, 6, 1)
    """
    loc, rows = model.encode(image, label).loc, found.order[:_TRAVERSED]
    latents = np.repeat(loc, len(rows) * len(_VALUES), axis=0).reshape(len(rows), len(_VALUES), -1)
    for row, dimension in enumerate(rows):
        values = found.centre[dimension] + found.spread[dimension] * np.array(_VALUES)
        latents[row, :, dimension] = values
    decoded = model.decode(latents.reshape(-1, loc.shape[1]), label)
    return decoded.reshape(*latents.shape[:2], *model.image_shape), rows


def _traverse(
    model: VAE, images: Array, labels: np.ndarray | None, invert: bool, split: str
) -> Figure:
    some = None if labels is None else labels[:_MOST_ROWS]
    found = dimensions(model, model.paired(images[:_MOST_ROWS], some))
    label = None if model.classes is None or labels is None else labels[0]
    drawn, rows = traverse(model, images[:1], found, label)
    return figures.grid(
        drawn.reshape(-1, *drawn.shape[2:]),
        drawn.shape[0],
        drawn.shape[1],
        f"A {split} image, one latent dimension changed at a time",
        row_labels=[f"z{index + 1}, {found.measure[index]:.2f}" for index in rows],
        column_labels=[f"{value:g}" for value in _VALUES],
        invert=invert,
    )


def _confusion(model: VAE, images: Array, labels: np.ndarray, split: str) -> Figure:
    """How the model classifies the images."""
    known = model.classes
    if known is None:
        raise ValueError("a model without classes does not classify")
    some = images[:_MOST_CLASSIFIED]
    classes = known.numbers(labels[: len(some)], len(some))
    matrix = confusion(classes, predicted_classes(model, some), known.count)
    names = [known.name(label) for label in range(known.count)]
    title = f"The classes of {len(some):,} {split} images by Bayes' rule"
    return figures.confusion(matrix, names, title)


def _neighbours(
    loc: np.ndarray,
    originals: Array,
    first: list[int],
    names: list[str],
    invert: bool,
    split: str,
) -> Figure:
    count = min(_NEIGHBOURS, len(loc) - 1)
    rows = nearest(loc[first], loc, count + 1).rows
    # An image is its own nearest neighbour, unless another one lies at the same point.
    kept = [
        [other for other in row if other != own][:count]
        for own, row in zip(first, rows, strict=True)
    ]
    shown = [row for own, others in zip(first, kept, strict=True) for row in (own, *others)]
    return figures.grid(
        np.stack([np.asarray(originals[[row]])[0] for row in shown]) / 255.0,
        len(first),
        count + 1,
        f"{split.capitalize()} images and the nearest others by posterior mean",
        row_labels=names,
        column_labels=["image", *map(str, range(1, count + 1))],
        invert=invert,
    )


def levels(model: VAE, image: np.ndarray, count: int = _COLUMNS, seed: int = 0) -> np.ndarray:
    """Decodes the latents of an image with the lower groups drawn anew: what each level holds.

    Args:
        model: a model whose latents come in groups.
        image: an image as the model receives it, [1, H, W, C].
        count: number of draws for each level. Default 10.
        seed: seed of the draws, an integer >= 0. Default 0.

    Returns:
        Pixel means [G, count, H, W, C]. In row g, the first g + 1 of the G groups are those of the
        image, and the others are draws of the prior. The last row has one image, repeated.

    Example:
        >>> from vae_keras import TopDownDecoder, TopDownEncoder
        >>> vae = VAE(TopDownEncoder(), TopDownDecoder())
        >>> levels(vae, np.zeros((1, 28, 28, 1), np.float32), count=3).shape
        (5, 3, 28, 28, 1)
    """
    loc, draws = model.encode(image).loc, model.prior_latents(count, seed)
    rows, end = [], 0
    for shape in inference.latent_groups(model.decoder, model.latent_dim):
        end += math.prod(shape)
        kept = np.repeat(loc[:, :end], count, axis=0)
        rows.append(model.decode(np.concatenate([kept, draws[:, end:]], axis=1)))
    return np.stack(rows)


def _levels(
    model: VAE, original: np.ndarray, image: np.ndarray, invert: bool, split: str
) -> Figure:
    shapes = inference.latent_groups(model.decoder, model.latent_dim)
    drawn = levels(model, image)
    first = np.broadcast_to(original[:, np.newaxis] / 255.0, (len(drawn), 1, *drawn.shape[2:]))
    images = np.concatenate([first, drawn], axis=1)
    return figures.grid(
        images.reshape(-1, *images.shape[2:]),
        len(shapes),
        images.shape[1],
        f"A {split} image, whose lower groups of latents are drawn anew",
        row_labels=[
            f"groups 1 to {index + 1}" if index else f"group 1 of {len(shapes)}"
            for index in range(len(shapes))
        ],
        column_labels=["original", *[""] * drawn.shape[1]],
        invert=invert,
    )


def manifold(model: VAE, side: int = _SIDE) -> np.ndarray:
    """Decodes a grid over a two-dimensional latent space, evenly spaced in probability.

    The grid lines are quantiles of N(0, 1). `VAE.prior_draws` transforms them to latents.

    Args:
        model: a model with latent_dim 2.
        side: number of images in a row and in a column. Default 20.

    Returns:
        Pixel means [side * side, H, W, C], row by row from the top. The second latent dimension
        falls from row to row, the first rises from column to column.

    Example:
        >>> manifold(VAE(MLPEncoder(latent_dim=2)), side=3).shape
        (9, 28, 28, 1)

    References:
        Kingma & Welling 2014, "Auto-encoding variational Bayes", figure 4.
    """
    line = [NormalDist().inv_cdf((i + 0.5) / side) for i in range(side)]
    first, second = np.meshgrid(line, line[::-1])
    standard = np.stack([first.ravel(), second.ravel()], axis=1)
    return model.decode(model.prior_draws(standard))


class Plane(NamedTuple):
    """The plane of a latent map.

    Attributes:
        centre: the point of the latent space at the origin of the map, [latent_dim].
        directions: two orthonormal directions, [2, latent_dim]. The second one of a latent space
            with one dimension is 0.
        axis_name: name of the axes, "latent" or "principal component".
    """

    centre: np.ndarray
    directions: np.ndarray
    axis_name: str


def plane(loc: np.ndarray) -> Plane:
    """Finds the plane in which posterior means vary most, by a principal component analysis.

    The plane of one or two latent dimensions is that of the dimensions themselves.

    Args:
        loc: posterior means [N, latent_dim].

    Returns:
        `Plane`.

    Example:
        >>> plane(np.random.default_rng(0).normal(size=(100, 5))).directions.shape
        (2, 5)
    """
    size = loc.shape[1]
    if size <= 2:
        return Plane(np.zeros(size, loc.dtype), np.eye(2, size, dtype=loc.dtype), "latent")
    centre = loc.mean(axis=0)
    _, _, directions = np.linalg.svd(loc - centre, full_matrices=False)
    if len(directions) < 2:  # a single image spans no plane
        directions = np.eye(2, size, dtype=loc.dtype)
    # The sign of a singular vector is arbitrary. A fixed sign gives equal maps in two runs.
    signs = np.sign(directions[np.arange(2), np.abs(directions[:2]).argmax(axis=1)])
    return Plane(centre, directions[:2] * signs[:, np.newaxis], "principal component")


def project(loc: np.ndarray) -> tuple[np.ndarray, str]:
    """Projects posterior means to two dimensions by a principal component analysis.

    Means of one or two dimensions are returned as they are, one dimension with zeros added.

    Args:
        loc: posterior means [N, latent_dim].

    Returns:
        Coordinates [N, 2], and the name of the axes: "latent" or "principal component".

    Example:
        >>> points, axis_name = project(np.random.default_rng(0).normal(size=(100, 5)))
        >>> points.shape, axis_name
        ((100, 2), 'principal component')
    """
    centre, directions, axis_name = plane(loc)
    return (loc - centre) @ directions.T, axis_name


def latent_classes(model: VAE, images: Array, labels: np.ndarray | None) -> dict[str, Any]:
    """Compares the classes in latent space, as `metrics.json` holds the comparison.

    Args:
        model: the model.
        images: images as the model receives them, float32 [N, H, W, C] in [0, 1].
        labels: class of each image [N], or None.

    Returns:
        The classes' "names", the "distances" between their means, and for each class the others
        ordered by distance under "nearest". The result is empty if the labels are not classes, see
        `datasets.has_classes`.

    Example:
        >>> x = np.zeros((4, 28, 28, 1), np.float32)
        >>> latent_classes(VAE(), x, np.array([3, 5, 3, 5]))["nearest"]
        {'3': ['5'], '5': ['3']}
    """
    if labels is None or not datasets.has_classes(labels):
        return {}
    names = np.unique(labels)
    distances = class_distances(model.encode(model.paired(images, labels)).loc, labels)
    return {
        "names": [str(name) for name in names],
        "distances": [[round(float(value), 4) for value in row] for row in distances],
        "nearest": nearest_classes(distances, names),
    }


def class_distances(loc: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Returns the Euclidean distances between the mean posterior means of the classes.

    Args:
        loc: posterior means [N, latent_dim].
        labels: class of each row of `loc` [N].

    Returns:
        Distances [K, K], in the order of the sorted classes.

    Example:
        >>> class_distances(np.array([[0.0, 0.0], [3.0, 4.0]]), np.array(["cat", "dog"]))
        array([[0., 5.],
               [5., 0.]])
    """
    means = np.stack([loc[labels == name].mean(axis=0) for name in np.unique(labels)])
    return np.linalg.norm(means[:, np.newaxis] - means, axis=-1)


def nearest_classes(distances: np.ndarray, names: np.ndarray) -> dict[str, list[str]]:
    """Orders the other classes of each class by their distance, nearest first.

    Args:
        distances: distances [K, K] between the classes.
        names: names of the classes [K], in the order of `distances`.

    Returns:
        The ordered names of the others under the name of each class.

    Example:
        >>> distances = np.array([[0.0, 5.0, 1.0], [5.0, 0.0, 3.0], [1.0, 3.0, 0.0]])
        >>> nearest_classes(distances, np.array(["cat", "dog", "owl"]))["cat"]
        ['owl', 'dog']
    """
    order = np.argsort(distances, axis=1)
    return {
        str(name): [str(names[other]) for other in row if other != index]
        for index, (name, row) in enumerate(zip(names, order, strict=True))
    }
