"""Embeddings of images: posterior means, scales and ELBOs, and the nearest neighbours of images."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from vae_keras.data.observations import observed
from vae_keras.model import VAE, require_built
from vae_keras.utils import checks

_BLOCK = 1000  # rows of distances at a time


class Embeddings(NamedTuple):
    """What a model knows of some images.

    Attributes:
        loc: means of the posterior, float32 [N, latent_dim].
        scale: standard deviations of the posterior, float32 [N, latent_dim].
        elbo: ELBO of each image from one sample of its posterior, in nats, float32 [N].
    """

    loc: np.ndarray
    scale: np.ndarray
    elbo: np.ndarray


class Neighbours(NamedTuple):
    """The nearest neighbours of some images, nearest first.

    Attributes:
        rows: rows of the neighbours, int [N, k].
        distance: Euclidean distances between the posterior means, float32 [N, k].
    """

    rows: np.ndarray
    distance: np.ndarray


def embed(model: VAE, x: Any, labels: Any = None) -> Embeddings:
    """Embeds images.

    loc and scale are those of `VAE.encode`, for the pixels as they are. The ELBO is that of the
    pixels as the likelihood sees them: a Bernoulli needs binary ones, which are drawn with the
    model's seed as `evaluate` draws them.

    Args:
        model: a built model.
        x: images in any form that `VAE.fit` takes.
        labels: classes of the images, as in `VAE.encode`. Default: those in x.

    Returns:
        `Embeddings`.

    Raises:
        checks.InputError: if x does not hold images of the model's shape.

    Example:
        >>> loc, scale, elbo = embed(vae, x_test)
        >>> loc.shape, elbo.shape
        ((60, 3), (60,))
    """
    require_built(model, "an embedding")
    images, *given = model.labelled(x, labels)
    classes = given[0].argmax(axis=1) if given else None
    loc, scale = model.encode(images, classes)
    seen = observed(images, model.seed, model.binarization)
    return Embeddings(loc, scale, model.elbo(seen, model.seed, classes).elbo)


def neighbours(model: VAE, x: Any, among: Any, k: int = 8) -> Neighbours:
    """Finds the images whose posterior means are nearest to those of some images.

    Args:
        model: a built model.
        x: images in any form that `VAE.fit` takes, N of them.
        among: the images to search.
        k: number of neighbours, from 1 to the number of images to search. Default 8.

    Returns:
        `Neighbours`. An image that lies in both is its own nearest neighbour.

    Raises:
        checks.InputError: if the images do not have the model's shape, or there are fewer than k.

    Example:
        >>> rows, distance = neighbours(vae, x_test[:2], x_test, k=3)
        >>> rows[:, 0].tolist(), distance.shape
        ([0, 1], (2, 3))
    """
    require_built(model, "a search for neighbours")
    return nearest(model.encode(x).loc, model.encode(among).loc, k)


def nearest(points: np.ndarray, among: np.ndarray, k: int) -> Neighbours:
    """Finds the nearest points.

    Args:
        points: [N, latent_dim].
        among: the points to search, [M, latent_dim].
        k: number of neighbours, from 1 to M.

    Returns:
        `Neighbours`.

    Raises:
        checks.InputError: if k is not from 1 to M.

    Example:
        >>> nearest(np.array([[0.9]]), np.array([[0.0], [1.0], [3.0]]), k=2).rows.tolist()
        [[1, 0]]
    """
    k = checks.whole_number("k", k, 1, len(among))
    found = []
    for start in range(0, len(points), _BLOCK):
        block = points[start : start + _BLOCK].astype(np.float64)
        # |a - b|^2 = |a|^2 + |b|^2 - 2ab. In float64 the cancellation is below float32's rounding.
        squares = (block**2).sum(axis=1)[:, np.newaxis] + (among.astype(np.float64) ** 2).sum(
            axis=1
        )
        squares -= 2.0 * block @ among.T.astype(np.float64)
        index = np.argpartition(squares, k - 1, axis=1)[:, :k]
        near = np.take_along_axis(squares, index, axis=1)
        order = np.lexsort((index, near), axis=1)
        index, near = (np.take_along_axis(part, order, axis=1) for part in (index, near))
        found.append((index, np.sqrt(np.maximum(near, 0.0)).astype(np.float32)))
    return Neighbours(*(np.concatenate(parts) for parts in zip(*found, strict=True)))
