"""Tests the image grids, curves and maps."""

import io
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from vae_keras.report import figures
from vae_keras.utils import checks


def images(num: int, height: int = 3, width: int = 2, channels: int = 1) -> np.ndarray:
    rng = np.random.default_rng(0)
    return rng.random((num, height, width, channels), dtype=np.float32)


def a_grid() -> Figure:
    return figures.grid(images(6), 2, 3, "Six images", ("top", "bottom"), ("a", "b", "c"))


def a_curve() -> Figure:
    validation = [-210.0, -160.0, -150.0]
    return figures.elbo_curve([-200.0, -150.0, -140.0], validation, figures.REFERENCE_ELBO)


def a_map(classes: int = 3) -> Figure:
    points = np.random.default_rng(0).normal(size=(8 * classes, 2))
    distances = np.abs(np.subtract.outer(np.arange(classes), np.arange(classes))).astype(float)
    labels = np.arange(8 * classes) % classes
    return figures.latent_map(points, labels, distances, "latent", "Means")


every_figure = pytest.mark.parametrize("draw", [a_grid, a_curve, a_map])


def png(figure: Figure, folder: Path) -> bytes:
    figures.save(figure, folder / "figure.png")
    return (folder / "figure.png").read_bytes()


# --------------------------------------------------------------------------------------- tile


@pytest.mark.parametrize(("channels", "gap"), [(1, 0), (1, 1), (3, 4)])
def test_images_lie_on_the_tile_row_by_row(channels, gap):
    parts = images(6, channels=channels)
    canvas = figures.tile(parts, 2, 3, gap)
    assert canvas.shape == (2 * 3 + gap, 3 * 2 + 2 * gap, channels)
    assert canvas.dtype == np.float32
    free = np.ones(canvas.shape, bool)
    for index, (row, column) in enumerate(np.ndindex(2, 3)):
        top, left = row * (3 + gap), column * (2 + gap)
        np.testing.assert_array_equal(canvas[top : top + 3, left : left + 2], parts[index])
        free[top : top + 3, left : left + 2] = False
    assert len(np.unique(canvas[free])) <= 1  # all gaps have one shade


@pytest.mark.parametrize(
    ("draw", "num"),
    [(figures.tile, 0), (figures.tile, 5), (figures.grid, 7)],
)
def test_a_wrong_number_of_images_is_refused(draw, num):
    title = ("Six",) if draw is figures.grid else ()
    message = rf"^a 2 x 3 grid takes 6 images\. Received: {num} images\. Change rows and columns\.$"
    with pytest.raises(checks.InputError, match=message):
        draw(images(num), 2, 3, *title)


# ------------------------------------------------------------------------------------ figures


@every_figure
def test_the_same_figure_gives_the_same_bytes(draw, tmp_path):
    figure = draw()
    assert isinstance(figure, Figure)
    first = png(figure, tmp_path)
    assert png(figure, tmp_path) == first
    assert png(draw(), tmp_path) == first


@every_figure
def test_a_saved_figure_has_enough_pixels_and_contrast(draw, tmp_path):
    with Image.open(io.BytesIO(png(draw(), tmp_path))) as picture:
        assert picture.format == "PNG"
        assert min(picture.size) > 300
        assert max(picture.size) > 500
        shades = np.asarray(picture.convert("L"))
    assert shades.min() < 80
    assert shades.max() == 255


@every_figure
def test_different_figures_give_different_bytes(draw, tmp_path):
    figure = draw()
    first = png(figure, tmp_path)
    figure.axes[0].set_title("another title")
    assert png(figure, tmp_path) != first


def test_a_grid_shows_its_images_title_and_labels():
    axes = a_grid().axes[0]
    shown = axes.images[0].get_array()
    np.testing.assert_array_equal(shown, figures.tile(images(6), 2, 3)[..., 0])
    assert axes.images[0].get_clim() == (0, 1)
    assert axes.get_title() == "Six images"
    assert [text.get_text() for text in axes.get_yticklabels()] == ["top", "bottom"]
    assert [text.get_text() for text in axes.get_xticklabels()] == ["a", "b", "c"]


def test_labels_are_at_the_middle_of_their_images():
    axes = a_grid().axes[0]  # images of 3 x 2 pixels with a gap of 1
    np.testing.assert_array_equal(axes.get_yticks(), [1, 5])
    np.testing.assert_array_equal(axes.get_xticks(), [0.5, 3.5, 6.5])


def test_colour_images_keep_their_colours():
    parts = images(2, channels=3)
    shown = figures.grid(parts, 1, 2, "Colours").axes[0].images[0].get_array()
    np.testing.assert_array_equal(shown, figures.tile(parts, 1, 2))


def test_a_grid_without_labels_has_none():
    axes = figures.grid(images(2), 1, 2, "Plain").axes[0]
    assert len(axes.get_xticks()) == len(axes.get_yticks()) == 0


def test_the_curve_shows_the_reference_beside_the_run():
    lines = {line.get_label(): line.get_xydata().T for line in a_curve().axes[0].lines}
    np.testing.assert_array_equal(lines["reference"], [range(14), figures.REFERENCE_ELBO])
    np.testing.assert_array_equal(lines["training"], [range(3), [-200, -150, -140]])
    np.testing.assert_array_equal(lines["validation"], [range(3), [-210, -160, -150]])


def test_the_curve_leaves_out_what_was_not_given():
    labels = [line.get_label() for line in figures.elbo_curve([-200.0]).axes[0].lines]
    assert labels == ["training"]


def test_the_reference_has_the_values_that_the_lab_report_printed():
    assert len(figures.REFERENCE_ELBO) == 14
    assert f"{figures.REFERENCE_ELBO[0]:e}" == "-2.220131e+02"
    assert figures.REFERENCE_ELBO[-1] == -117.7239
    assert list(figures.REFERENCE_ELBO) == sorted(figures.REFERENCE_ELBO)


@pytest.mark.parametrize(("invert", "white"), [(True, 0.0), (False, 1.0)])
def test_inverted_images_are_dark_on_white(invert, white):
    shown = figures.grid(images(2), 1, 2, "Two", invert=invert).axes[0].images[0]
    assert shown.cmap(shown.norm(white))[:3] == (1.0, 1.0, 1.0)
    assert shown.cmap(shown.norm(1.0 - white))[:3] == (0.0, 0.0, 0.0)


@pytest.mark.parametrize(
    ("shape", "channels"), [((200, 2), 1), ((2, 200), 3), ((1, 1), 3), ((128, 128), 1)]
)
def test_a_grid_of_any_image_shape_has_at_most_3000_pixels_a_side(tmp_path, shape, channels):
    parts = images(39, *shape, channels=channels)
    figure = figures.grid(parts, 3, 13, "Long", ["a row"] * 3, ["a long name"] * 13)
    with Image.open(io.BytesIO(png(figure, tmp_path))) as picture:
        assert max(picture.size) < 3000


def test_long_column_labels_are_rotated():
    short, long = (
        figures.grid(images(2), 1, 2, "Two", column_labels=["a", name]).axes[0]
        for name in ("original", "golden retriever")
    )
    assert {text.get_rotation() for text in short.get_xticklabels()} == {0}
    assert {text.get_rotation() for text in long.get_xticklabels()} == {40}


def test_a_map_of_many_classes_has_no_numbers():
    assert len(a_map(15).axes[1].texts) == 15 * 14
    assert len(a_map(16).axes[1].texts) == 0


def test_class_names_are_texts_and_never_formulas(tmp_path):
    names = np.array(["$\\no formula$", "golden retriever"])
    points, distances = np.zeros((4, 2)), np.array([[0.0, 2.0], [2.0, 0.0]])
    figure = figures.latent_map(points, names[[0, 1, 0, 1]], distances, "latent", "Means")
    assert [text.get_text() for text in figure.axes[0].texts] == list(names)
    assert [text.get_text() for text in figure.axes[1].get_xticklabels()] == list(names)
    assert png(figure, tmp_path)
    assert png(figures.grid(images(2), 1, 2, "Two", list(names[:1]), list(names)), tmp_path)


def test_the_map_draws_every_point_and_names_every_class_at_its_centre():
    points, labels = np.array([[0.0, 1.0], [2.0, 3.0], [5.0, 5.0]]), np.array([4, 4, 9])
    distances = np.array([[0.0, 7.25], [7.25, 0.0]])
    left, right = figures.latent_map(points, labels, distances, "component", "Means").axes
    drawn = [part.get_offsets() for part in left.collections]
    np.testing.assert_array_equal(drawn[0], points[:2])
    np.testing.assert_array_equal(drawn[1], points[2:])
    names = {text.get_text(): tuple(text.xy) for text in left.texts}
    assert names == {"4": (1.0, 2.0), "9": (5.0, 5.0)}
    assert left.get_title() == "Means"
    assert (left.get_xlabel(), left.get_ylabel()) == ("component 1", "component 2")
    assert [text.get_text() for text in right.texts] == ["7.25", "7.25"]
    assert [text.get_text() for text in right.get_xticklabels()] == ["4", "9"]


@pytest.mark.parametrize("classes", [1, 2, 10, 12])
def test_every_class_has_its_own_colour(classes):
    left = a_map(classes).axes[0]
    colours = {tuple(part.get_facecolor()[0]) for part in left.collections}
    assert len(colours) == classes


# ----------------------------------------------------------------------------------- no state


def test_drawing_needs_neither_pyplot_nor_tensorflow(tmp_path):
    script = """
        import sys, types
        import numpy as np

        package = types.ModuleType("vae_keras")  # replaces __init__.py, which needs TensorFlow
        package.__path__ = [sys.argv[1]]
        sys.modules["vae_keras"] = package
        from vae_keras.report import figures

        figures.save(figures.grid(np.zeros((2, 3, 3, 1)), 1, 2, "Two"), sys.argv[2] + "/grid.png")
        figures.save(figures.elbo_curve([-200.0]), sys.argv[2] + "/elbo.png")
        print("matplotlib.pyplot" in sys.modules, "tensorflow" in sys.modules)
    """
    command = [sys.executable, "-c", textwrap.dedent(script)]
    command += [str(Path(figures.__file__).parent.parent), str(tmp_path)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr
    assert result.stdout.split() == ["False", "False"]
    assert (tmp_path / "elbo.png").stat().st_size > 1000
