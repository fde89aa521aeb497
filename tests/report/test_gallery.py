"""Tests the figures of a model, and the distances between classes."""

import json

import numpy as np
import pytest
from matplotlib.figure import Figure

from vae_keras import VAE, MLPDecoder, MLPEncoder, TopDownDecoder, TopDownEncoder
from vae_keras.report import figures, gallery

SHAPE = (6, 5, 1)
ALWAYS = ("reconstructions", "interpolations", "traverse", "neighbours")  # of two images or more


@pytest.fixture(scope="module")
def model() -> VAE:
    return VAE(MLPEncoder(latent_dim=4, hidden=(8,)), MLPDecoder(SHAPE, hidden=(8,)))


@pytest.fixture
def grids(monkeypatch) -> dict[str, dict]:
    """The arguments of every call of `figures.grid`, under the title of the figure."""
    return noted_grids(monkeypatch)


def noted_grids(patch: pytest.MonkeyPatch) -> dict[str, dict]:
    noted, real = {}, figures.grid

    def grid(images, rows, columns, title, **arguments):
        noted[title] = {"images": images, "rows": rows, "columns": columns, **arguments}
        return real(images, rows, columns, title, **arguments)

    patch.setattr(figures, "grid", grid)
    return noted


@pytest.fixture(scope="module")
def shown(model):
    """Images of ten classes, their figures, and what each grid was drawn from."""
    originals = np.random.default_rng(0).integers(0, 256, (60, *SHAPE), dtype=np.uint8)
    labels = np.random.default_rng(1).permutation(60) % 10
    seen = (originals > 127).astype(np.float32)
    with pytest.MonkeyPatch.context() as patch:
        grids = noted_grids(patch)
        drawn = dict(gallery.image_figures(model, originals, seen, labels, True, "validation"))
    return originals, seen, labels, drawn, grids


def grey_images(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Images as uint8 and as the model receives them."""
    originals = np.random.default_rng(0).integers(0, 256, (count, *SHAPE), dtype=np.uint8)
    return originals, originals / np.float32(255)


def plane(direction) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Points of a plane in five dimensions, and their coordinates up to 3 and up to 1."""
    rng = np.random.default_rng(0)
    a, b = rng.permuted(np.linspace(-3, 3, 101)), rng.permuted(np.linspace(-1, 1, 101))
    b -= a * (a @ b) / (a @ a)  # uncorrelated, so these axes are the principal ones
    first, second = np.array(direction), np.array([0.0, 0.0, 0.0, 0.6, 0.8])
    points = np.outer(a, first) + np.outer(b, second) + np.array([5.0, -2.0, 0.0, 1.0, 9.0])
    return points, a, b


# --------------------------------------------------------------------------------- projection


def test_two_dimensions_pass_through():
    loc = np.random.default_rng(0).normal(size=(7, 2))
    points, axes = gallery.project(loc)
    np.testing.assert_array_equal(points, loc)
    assert axes == "latent"


def test_one_dimension_gets_a_second_of_zeros():
    points, axes = gallery.project(np.array([[1.0], [-2.0]]))
    np.testing.assert_array_equal(points, [[1.0, 0.0], [-2.0, 0.0]])
    assert axes == "latent"


@pytest.mark.parametrize(
    ("direction", "sign"), [((0.8, -0.6, 0, 0, 0), 1), ((-0.8, 0.6, 0, 0, 0), -1)]
)
def test_principal_components_recover_a_plane_with_a_fixed_sign(direction, sign):
    loc, a, b = plane(direction)
    points, axes = gallery.project(loc)
    # The largest entry of each direction is positive.
    np.testing.assert_allclose(points, np.stack([sign * a, b], axis=1), atol=1e-12)
    assert axes == "principal component"


def test_the_order_of_the_images_does_not_move_the_map():
    loc = np.random.default_rng(0).normal(size=(50, 6)) * np.arange(1, 7)
    order = np.random.default_rng(1).permutation(50)
    points, _ = gallery.project(loc)
    np.testing.assert_allclose(gallery.project(loc[order])[0], points[order], atol=1e-10)


# ------------------------------------------------------------------------------------ classes


def test_distances_are_between_class_means():
    loc = np.array([[0.0, 0.0], [3.0, 5.0], [0.0, 2.0], [0.0, 13.0]])
    labels = np.array([3, 5, 3, 8])
    expected = [[0, 5, 12], [5, 0, np.hypot(3, 8)], [12, np.hypot(3, 8), 0]]
    np.testing.assert_allclose(gallery.class_distances(loc, labels), expected)


def test_every_class_lists_the_others_by_distance():
    distances = np.array([[0.0, 5.0, 12.0], [5.0, 0.0, 3.0], [12.0, 3.0, 0.0]])
    assert gallery.nearest_classes(distances, np.array([3, 5, 8])) == {
        "3": ["5", "8"],
        "5": ["8", "3"],
        "8": ["5", "3"],
    }


def test_a_class_is_not_among_its_own_neighbours_even_at_distance_zero():
    nearest = gallery.nearest_classes(np.zeros((3, 3)), np.array(["a", "b", "c"]))
    assert {name: sorted(others) for name, others in nearest.items()} == {
        "a": ["b", "c"],
        "b": ["a", "c"],
        "c": ["a", "b"],
    }


def test_the_comparison_of_classes_is_that_of_their_means(model):
    _, seen = grey_images(12)
    labels = np.array(["cat", "dog", "owl"])[np.arange(12) % 3]
    found = gallery.latent_classes(model, seen, labels)
    distances = gallery.class_distances(model.encode(seen).loc, labels)
    assert found["names"] == ["cat", "dog", "owl"]
    np.testing.assert_allclose(found["distances"], distances, atol=5e-5)
    assert found["nearest"] == gallery.nearest_classes(distances, np.unique(labels))
    assert json.loads(json.dumps(found)) == found


@pytest.mark.parametrize("labels", [None, np.zeros(12, int)], ids=["no labels", "one class"])
def test_without_classes_there_is_no_comparison(model, labels):
    assert gallery.latent_classes(model, grey_images(12)[1], labels) == {}


# -------------------------------------------------------------------------------- prior grids


def test_the_grids_use_the_same_latents_every_time(model):
    first, again = gallery.prior_grids(model, seed=3), gallery.prior_grids(model, seed=3)
    assert set(first) == {"prior", "uniform"} == set(gallery.prior_titles(model))
    for name, latents in first.items():
        assert latents.shape == (25, 4)
        assert latents.dtype == np.float32
        np.testing.assert_array_equal(latents, again[name])
        assert not np.isclose(latents, gallery.prior_grids(model, seed=4)[name]).any()


def test_the_prior_grid_is_what_sample_decodes(model):
    grid = gallery.prior_grids(model, seed=3)["prior"]
    np.testing.assert_allclose(model.decode(grid), model.sample(25, seed=3), atol=1e-6)


def test_uniform_latents_fill_plus_minus_root_three_with_variance_one(model):
    uniform = gallery.prior_grids(model, count=5000)["uniform"].astype(np.float64).ravel()
    assert np.sqrt(3) - 0.01 < np.abs(uniform).max() <= np.sqrt(3)
    assert abs(uniform.mean()) < 4 / np.sqrt(uniform.size)
    assert abs(uniform.var() - 1) < 4 * np.sqrt(0.8 / uniform.size)  # a uniform's kurtosis is 1.8
    counts, _ = np.histogram(uniform, 10, (-np.sqrt(3), np.sqrt(3)))
    assert np.abs(counts / uniform.size - 0.1).max() < 0.01


# ----------------------------------------------------------------------------- image figures


def test_images_of_ten_classes_give_three_figures(shown):
    drawn = shown[3]
    assert list(drawn) == [*ALWAYS, "latent_map"]
    assert all(isinstance(figure, Figure) for figure in drawn.values())


@pytest.mark.parametrize("split", ["training", "test"])
def test_every_title_names_the_split(model, grids, split):
    originals, seen = grey_images(12)
    drawn = dict(gallery.image_figures(model, originals, seen, np.arange(12) % 3, True, split))
    titles = [*grids, drawn["latent_map"].axes[0].get_title()]
    assert len(titles) == 5
    assert all(f"{split} image" in title.lower() for title in titles)


def test_reconstructions_are_below_their_originals_one_of_each_class(model, shown):
    originals, seen, labels, _, arguments = shown
    grid = arguments["Validation images and their reconstructions"]
    first = [int(np.flatnonzero(labels == name)[0]) for name in range(10)]
    assert (grid["rows"], grid["columns"]) == (3, 10)
    assert grid["column_labels"] == [str(name) for name in range(10)]
    original, as_seen, reconstruction = np.split(grid["images"], 3)
    np.testing.assert_allclose(original, originals[first] / 255)
    np.testing.assert_array_equal(as_seen, seen[first])
    np.testing.assert_allclose(reconstruction, model.reconstruct(seen[first]), atol=1e-6)


def test_interpolations_go_from_one_original_to_another_of_a_different_class(model, shown):
    originals, seen, labels, _, arguments = shown
    grid = arguments["Interpolations between the posterior means of two validation images"]
    assert (grid["rows"], grid["columns"]) == (5, 13)
    tenths = [f"{tenth / 10:.1f}" for tenth in range(11)]
    assert grid["column_labels"] == ["original", *tenths, "original"]
    rows = grid["images"].reshape(5, 13, *SHAPE)
    scaled = (originals / 255).reshape(60, -1)
    for row, label in zip(rows, grid["row_labels"], strict=True):
        ends = [np.abs(scaled - end.ravel()).sum(axis=1).argmin() for end in (row[0], row[-1])]
        np.testing.assert_allclose([row[0], row[-1]], originals[ends] / 255)
        assert label == f"{labels[ends[0]]} to {labels[ends[1]]}"
        assert labels[ends[0]] != labels[ends[1]]
        np.testing.assert_allclose(row[[1, -2]], model.reconstruct(seen[ends]), atol=1e-5)
        middle = model.decode(model.encode(seen[ends]).loc.mean(axis=0, keepdims=True))
        np.testing.assert_allclose(row[6], middle[0], atol=1e-5)


def test_the_latent_map_shows_all_images_and_classes(shown):
    left, right = shown[3]["latent_map"].axes
    assert sum(len(part.get_offsets()) for part in left.collections) == 60
    assert left.get_xlabel() == "principal component 1"
    assert len(right.texts) == 90


@pytest.mark.parametrize("classes", [1, 3])
def test_a_map_is_drawn_for_two_classes_or_more(model, classes):
    labels = np.arange(12) % classes
    drawn = dict(gallery.image_figures(model, *grey_images(12), labels, True, "test"))
    maps = ["latent_map"] if classes > 1 else []
    assert list(drawn) == [*ALWAYS, *maps]


@pytest.mark.parametrize(("count", "pairs"), [(1, 0), (2, 1), (7, 3), (30, 5)])
def test_images_without_labels_are_drawn_at_equal_distances(model, grids, count, pairs):
    originals, seen = grey_images(count)
    drawn = dict(gallery.image_figures(model, originals, seen, None, False, "test"))
    assert list(drawn) == (list(ALWAYS) if pairs else ["reconstructions", "traverse"])
    assert not any(grid["invert"] for grid in grids.values())
    below, *between = list(grids.values())[: 1 + bool(pairs)]
    first = np.linspace(0, count - 1, min(count, 10)).round().astype(int)
    np.testing.assert_allclose(below["images"][: len(first)], originals[first] / 255)
    if pairs:
        assert (between[0]["rows"], between[0]["columns"]) == (pairs, 13)
        ends = between[0]["images"].reshape(pairs, 13, *SHAPE)[:, [0, -1]]
        rows = np.linspace(0, count - 1, 2 * pairs).round().astype(int)
        np.testing.assert_allclose(ends.reshape(-1, *SHAPE), originals[rows] / 255)


def test_one_image_of_each_class_is_enough_for_interpolations(model):
    labels = np.array(["cat", "dog"])
    drawn = dict(gallery.image_figures(model, *grey_images(2), labels, False, "test"))
    assert list(drawn) == [*ALWAYS, "latent_map"]


def test_few_classes_show_several_images_each(model, grids):
    labels = np.array(["cat", "dog", "owl"])[np.arange(12) % 3]
    list(gallery.image_figures(model, *grey_images(12), labels, True, "test"))
    below, between, *_ = grids.values()
    assert below["column_labels"] == ["cat"] * 3 + ["dog"] * 3 + ["owl"] * 3
    assert between["row_labels"] == ["cat to dog", "dog to owl", "owl to cat"]


def test_a_latent_plane_is_drawn_at_the_quantiles_of_the_prior(grids):
    plane = VAE(MLPEncoder(latent_dim=2, hidden=(8,)), MLPDecoder(SHAPE, hidden=(8,)))
    drawn = dict(gallery.image_figures(plane, *grey_images(3), None, True, "test"))
    assert list(drawn) == [*ALWAYS, "manifold"]
    images = grids["Images decoded over the latent plane"]["images"].reshape(20, 20, *SHAPE)
    outer = 1.959964  # the quantile of N(0, 1) at 0.975, half a step inside of the twentieth
    corners = np.array([[-outer, outer], [outer, -outer]], np.float32)
    found = np.stack([images[0, 0], images[-1, -1]])
    np.testing.assert_allclose(found, plane.decode(corners), atol=1e-5)


def test_levels_keep_the_upper_groups_and_draw_the_lower_ones():
    size = {"top_dim": 2, "groups": ((1,), (2,)), "widths": (3, 4)}
    vae = VAE(TopDownEncoder(**size), TopDownDecoder((6, 6, 1), **size))
    vae.set_weights([2.0 * weight for weight in vae.get_weights()])
    image = np.eye(6, dtype=np.float32)[np.newaxis, ..., np.newaxis]
    drawn = gallery.levels(vae, image, count=4)
    assert drawn.shape == (3, 4, 6, 6, 1)
    np.testing.assert_allclose(drawn[-1], np.repeat(vae.reconstruct(image), 4, axis=0), rtol=1e-5)
    for row in drawn[:-1]:
        assert row.std(axis=0).max() > 0
    figures_of = dict(gallery.image_figures(vae, image * 255, image, None, True, "test"))
    assert list(figures_of) == ["reconstructions", "traverse", "levels"]


def test_a_model_with_classes_is_drawn_by_class(grids):
    parts = MLPEncoder(latent_dim=4, hidden=(8,)), MLPDecoder(SHAPE, hidden=(8,))
    vae = VAE(*parts, num_classes=3, class_names=["cat", "dog", "emu"])
    labels = np.array(["cat", "dog", "emu"])[np.arange(12) % 3]
    originals, seen = grey_images(12)
    drawn = dict(gallery.image_figures(vae, originals, seen, labels, True, "test"))
    of_classes = ["classes", "transfer", "confusion"]
    of_latents = ["interpolations", "traverse", "neighbours"]
    assert list(drawn) == ["reconstructions", *of_latents, *of_classes, "latent_map"]
    by_class = grids["Images of each class, under the same latents in each column"]
    assert (by_class["rows"], by_class["row_labels"]) == (3, ["cat", "dog", "emu"])
    np.testing.assert_allclose(by_class["images"][10:20], vae.sample(10, labels="dog"), atol=1e-6)
    moved = grids["The style of test images in each class"]
    first = int(np.flatnonzero(labels == "cat")[0])
    expected = vae.transfer(seen[first : first + 1], ["cat"])[0]
    np.testing.assert_allclose(moved["images"][1:4], expected, atol=1e-6)
    counts = [int(text.get_text()) for text in drawn["confusion"].axes[0].texts]
    assert sum(counts) == 12
    assert "nearest" in gallery.latent_classes(vae, seen, labels)


def test_a_traverse_changes_one_dimension_at_a_time(model):
    _, seen = grey_images(30)
    found = gallery.dimensions(model, seen)
    assert (np.diff(found.measure[found.order]) <= 0).all()
    drawn, rows = gallery.traverse(model, seen[:1], found)
    assert drawn.shape == (4, 9, *SHAPE)
    np.testing.assert_array_equal(rows, found.order)
    latents = np.repeat(model.encode(seen[:1]).loc, 2, axis=0)
    latents[:, rows[1]] = found.centre[rows[1]] + found.spread[rows[1]] * np.array([-3, 3])
    np.testing.assert_allclose(drawn[1][[0, -1]], model.decode(latents), atol=1e-5)


def test_neighbours_are_the_nearest_others(model, grids):
    originals, seen = grey_images(10)
    list(gallery.image_figures(model, originals, seen, None, True, "test"))
    (grid,) = (grid for title, grid in grids.items() if "nearest" in title)
    loc = model.encode(seen).loc
    order = np.argsort(np.linalg.norm(loc[3] - loc, axis=1))
    assert order[0] == 3
    shown = grid["images"].reshape(10, 9, *SHAPE)[3]
    np.testing.assert_allclose(shown, originals[order[:9]] / 255.0)
