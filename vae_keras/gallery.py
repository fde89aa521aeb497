"""What a trained model shows: its figures on test images, and distances between classes."""

from __future__ import annotations

from collections.abc import Iterator
from statistics import NormalDist

import numpy as np
from matplotlib.figure import Figure

from vae_keras import datasets, figures, noise
from vae_keras.model import VAE
from vae_keras.priors import StandardNormal

_PRIOR_SOURCES = {
    "prior": "z ~ N(0, I)",
    "uniform": "z ~ U[-√3, √3]",
}
_LEARNED_PRIOR_SOURCES = {
    "prior": "z ~ p(z), which is learned",
    "uniform": "U[-√3, √3] through the learned prior",
}
_PAIRS = ((3, 5), (1, 7), (4, 9), (0, 6), (2, 8))  # digits people confuse, and two they do not
_STEPS = 11
_SIDE = 20
_COLUMNS = 10  # test images shown beside their reconstructions


def prior_grids(model: VAE, seed: int = 0, count: int = 25) -> dict[str, np.ndarray]:
    """Draws what the sample grids start from, the same for the same seed.

    The uniform draws have the normal ones' mean 0 and variance 1. `VAE.prior_draws` makes latents
    of both: they are the latents where the prior is N(0, I).

    Returns:
        "prior" and "uniform" to float32 [count, latent_dim].
    """
    bits = noise.bits16(seed, noise.Stream.UNIFORM, rows=count, size=model.latent_dim).numpy()
    unit = (bits.astype(np.float32) + 0.5) / 65536.0
    return {
        "prior": noise.normal(seed, noise.Stream.PRIOR, rows=count, size=model.latent_dim).numpy(),
        "uniform": ((2.0 * unit - 1.0) * np.sqrt(3.0)).astype(np.float32),
    }


def prior_titles(model: VAE, count: int = 25) -> dict[str, str]:
    """Returns the titles of the grids that `prior_grids` starts."""
    standard = isinstance(model.prior, StandardNormal)
    sources = _PRIOR_SOURCES if standard else _LEARNED_PRIOR_SOURCES
    return {name: f"{count} images decoded from {source}" for name, source in sources.items()}


def test_figures(
    model: VAE,
    originals: np.ndarray,
    images: np.ndarray,
    labels: np.ndarray | None,
    ink: bool,
) -> Iterator[tuple[str, Figure]]:
    """Draws the figures that need test images, one after the other.

    Args:
        model: the model.
        originals: test images as they are, uint8 [N, H, W, C].
        images: the same as the model sees them, float32 [N, H, W, C].
        labels: their classes [N], or None.
        ink: as in `figures.grid`.

    Yields:
        Name and figure: "reconstructions", "interpolations" for two images and more, "manifold"
        for a two-dimensional latent, and "latent_map" where labels are classes.
    """
    if labels is None:
        first, names = list(range(min(_COLUMNS, len(images)))), []
    else:
        classes = np.unique(labels)[:_COLUMNS]
        each = _COLUMNS // len(classes)
        first = [int(row) for name in classes for row in np.flatnonzero(labels == name)[:each]]
        names = [str(labels[index]) for index in first]
    rows = np.concatenate(
        [originals[first] / 255.0, images[first], model.reconstruct(images[first])]
    )
    yield (
        "reconstructions",
        figures.grid(
            rows,
            3,
            len(first),
            "Test images and their reconstructions",
            row_labels=("original", "as seen", "reconstruction"),
            column_labels=names,
            ink=ink,
        ),
    )
    if pairs := _pairs(labels, len(images)):
        yield "interpolations", _interpolations(model, originals, images, pairs, ink)
    if model.latent_dim == 2:
        plane = figures.grid(manifold(model), _SIDE, _SIDE, "The latent plane, decoded", ink=ink)
        yield "manifold", plane
    if datasets.has_classes(labels):
        loc = model.encode(images).loc
        points, axes = project(loc)
        yield "latent_map", figures.latent_map(points, labels, class_distances(loc, labels), axes)


def _pairs(labels: np.ndarray | None, count: int) -> list[tuple[int, int, str]]:
    """Pairs of test images to go between, and what to call them: of two classes where there are."""
    if labels is None:
        return [(2 * i, 2 * i + 1, "") for i in range(min(len(_PAIRS), count // 2))]
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
    originals: np.ndarray,
    images: np.ndarray,
    pairs: list[tuple[int, int, str]],
    ink: bool,
) -> Figure:
    start, end = ([pair[i] for pair in pairs] for i in (0, 1))
    lines = model.interpolate(images[start], images[end], _STEPS)
    ends = originals[start, np.newaxis] / 255.0, originals[end, np.newaxis] / 255.0
    rows = np.concatenate([ends[0], lines, ends[1]], axis=1)
    fractions = [f"{i / (_STEPS - 1):.1f}" for i in range(_STEPS)]
    return figures.grid(
        rows.reshape(-1, *rows.shape[2:]),
        len(pairs),
        _STEPS + 2,
        "Along the straight line between two posterior means",
        row_labels=[name for _, _, name in pairs] if pairs[0][2] else (),
        column_labels=["original", *fractions, "original"],
        ink=ink,
    )


def manifold(model: VAE, side: int = _SIDE) -> np.ndarray:
    """Decodes a grid over a two-dimensional latent space, evenly spaced in probability.

    The grid's lines are the quantiles of N(0, I), by the inverse of its distribution function.

    Args:
        model: a model with latent_dim 2.
        side: images a side. Default 20.

    Returns:
        Pixel means [side * side, H, W, C], row by row from the top: the second latent
        falls from row to row, the first rises from column to column.

    References:
        Kingma & Welling 2014, figure 4.
    """
    line = [NormalDist().inv_cdf((i + 0.5) / side) for i in range(side)]
    first, second = np.meshgrid(line, line[::-1])
    standard = np.stack([first.ravel(), second.ravel()], axis=1)
    return model.decode(model.prior_draws(standard))


def project(loc: np.ndarray) -> tuple[np.ndarray, str]:
    """Projects posterior means to two dimensions: PCA, or the latents themselves where they fit.

    Args:
        loc: [N, latent_dim].

    Returns:
        float [N, 2], and what the axes are.
    """
    if loc.shape[1] <= 2:
        return np.pad(loc, ((0, 0), (0, 2 - loc.shape[1]))), "latent"
    centred = loc - loc.mean(axis=0)
    _, _, directions = np.linalg.svd(centred, full_matrices=False)
    # A singular vector's sign is arbitrary: fix it, so that two runs draw the same map.
    signs = np.sign(directions[np.arange(2), np.abs(directions[:2]).argmax(axis=1)])
    return centred @ (directions[:2] * signs[:, np.newaxis]).T, "principal component"


def class_distances(loc: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Returns Euclidean distances [K, K] between the classes' mean posterior means."""
    means = np.stack([loc[labels == name].mean(axis=0) for name in np.unique(labels)])
    return np.linalg.norm(means[:, np.newaxis] - means, axis=-1)


def nearest_classes(distances: np.ndarray, names: np.ndarray) -> dict[str, list[str]]:
    """Orders, for each class, the other classes from the nearest to the farthest."""
    order = np.argsort(distances, axis=1)
    return {
        str(name): [str(names[other]) for other in row if other != index]
        for index, (name, row) in enumerate(zip(names, order, strict=True))
    }
