"""Embeddings are the model's own numbers, and neighbours are those of a plain search."""

import numpy as np
import pytest

from vae_keras import data, embeddings
from vae_keras.utils import checks


def test_an_embedding_is_what_the_model_says(vae, digits):
    loc, scale, elbo = embeddings.embed(vae, digits)
    expected = vae.encode(digits)
    np.testing.assert_array_equal(loc, expected.loc)
    np.testing.assert_array_equal(scale, expected.scale)
    seen = data.binarize(digits, vae.seed, vae.binarization)
    np.testing.assert_array_equal(elbo, vae.elbo(seen, vae.seed).elbo)


def test_the_nearest_points_are_those_of_a_plain_search():
    generator = np.random.default_rng(0)
    points, among = (generator.normal(size=(n, 4)).astype(np.float32) for n in (1100, 50))
    found = embeddings.nearest(points, among, 3)
    distances = np.linalg.norm(points[:, np.newaxis] - among, axis=-1)
    np.testing.assert_array_equal(found.rows, np.argsort(distances, axis=1)[:, :3])
    expected = np.sort(distances, axis=1)[:, :3]
    np.testing.assert_allclose(found.distance, expected, rtol=1e-5)


def test_equal_points_are_given_in_their_order():
    among = np.zeros((4, 2), np.float32)
    assert embeddings.nearest(among[:1] + 1, among, 4).rows.tolist() == [[0, 1, 2, 3]]


def test_an_image_among_others_is_its_own_neighbour(vae, digits):
    rows, distance = embeddings.neighbours(vae, digits[5:7], digits, k=2)
    assert rows[:, 0].tolist() == [5, 6]
    np.testing.assert_allclose(distance[:, 0], 0, atol=1e-6)


@pytest.mark.parametrize("k", [0, 61])
def test_an_impossible_number_of_neighbours_is_refused(vae, digits, k):
    with pytest.raises(checks.InputError, match="k must be a whole number"):
        embeddings.neighbours(vae, digits[:1], digits, k)
