"""Tests the HTML page of a run."""

import base64
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from vae_keras.report import figures, page
from vae_keras.report.provenance import metric
from vae_keras.training.callbacks import COLUMNS

TRICKY = "<script>alert('a & b')</script>"
CAPTIONED = ("prior_epoch_20", "uniform_epoch_20", "elbo", "latent_map")


class Page(HTMLParser):
    """Parses a page into its tags with their attributes, the cells of its tables, and its text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.rows: list[list[str]] = []
        self.text, self._in_cell = "", False
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
        self._in_cell = tag in ("td", "th")

    def handle_endtag(self, tag):
        self._in_cell = False

    def handle_data(self, data):
        self.text += data
        if self._in_cell:
            self.rows[-1][-1] += data

    def images(self) -> list[bytes]:
        sources = [attributes["src"] for tag, attributes in self.tags if tag == "img"]
        kind = "data:image/png;base64,"
        assert all(source.startswith(kind) for source in sources)
        return [base64.b64decode(source.removeprefix(kind)) for source in sources]


def epoch_row(epoch: int, **values: float) -> dict[str, str]:
    texts = {name: repr(value) for name, value in values.items()}
    return dict.fromkeys(COLUMNS, "") | {"epoch": str(epoch), "seconds": "2.500"} | texts


ROWS = [epoch_row(epoch, elbo=-150.5 + epoch, kl=25.25, val_elbo=-151.5) for epoch in range(16)]
METRICS = {
    "provenance": {"commit": "0123abc", "versions": {"keras": "3.15"}, "data_sha256": "0fa7"},
    "metrics": [
        metric(
            "elbo",
            -99.87654,
            unit="nats per image",
            standard_error=0.1234,
            num_images=10000,
            split="validation",
            seed=0,
        ),
        metric("active_units", 23, unit="dimensions", threshold=0.01),
        metric(TRICKY, 1.5, estimator=TRICKY),
    ],
    "latent_classes": {
        "names": ["3", "5", TRICKY],
        "distances": [[0.0, 1.25, 9.0], [1.25, 0.0, 4.0], [9.0, 4.0, 0.0]],
        "nearest": {"3": ["5", TRICKY], "5": ["3", TRICKY], TRICKY: ["5", "3"]},
    },
}
CONFIG = {"description": f"A model {TRICKY}", "seed": 7, "encoder": {"name": "MLPEncoder"}}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("figures")
    for index, name in enumerate([*CAPTIONED, "mine & <yours>"]):
        picture = np.full((2, 4, 4, 1), index / 10, np.float32)
        figures.save(figures.grid(picture, 1, 2, "Two"), path / f"{name}.png")
    (path / "notes.txt").write_text("not a picture")
    return path


@pytest.fixture(scope="module")
def source(folder) -> str:
    return page.page(f"Run of {TRICKY}", CONFIG, ROWS, METRICS, folder, "validation")


@pytest.fixture(scope="module")
def parsed(source) -> Page:
    return Page(source)


def a_page(folder: Path, config=CONFIG, rows=ROWS, metrics=METRICS, split="validation") -> Page:
    return Page(page.page("A run", config, rows, metrics, folder, split))


def test_the_page_loads_nothing(source, parsed):
    assert source.startswith("<!doctype html>")
    assert not re.search(r"https?:|//\w+\.|@import|url\(", re.sub(r"base64,[^\"]+", "", source))
    for tag, attributes in parsed.tags:
        assert tag not in ("script", "link", "iframe")
        assert "href" not in attributes
        assert attributes.get("src", "data:").startswith("data:")


def test_every_figure_is_on_the_page_as_it_is_on_disk(parsed, folder):
    expected = [path.read_bytes() for path in folder.glob("*.png")]
    assert sorted(parsed.images()) == sorted(expected)
    assert len(expected) == 5


def test_figures_have_the_order_of_the_kinds_then_of_their_names(parsed, folder):
    order = ["elbo", "prior_epoch_20", "uniform_epoch_20", "latent_map", "mine & <yours>"]
    assert parsed.images() == [(folder / f"{name}.png").read_bytes() for name in order]


def test_every_figure_has_its_caption(parsed):
    captions = page.captions("validation", figures.REFERENCE_ELBO)
    expected = [captions[kind] for kind in ("elbo", "prior", "uniform", "latent_map")]
    expected.append("mine & <yours>")
    assert [attributes["alt"] for tag, attributes in parsed.tags if tag == "img"] == expected
    assert all(caption in parsed.text for caption in expected)


@pytest.mark.parametrize("split", ["training", "validation", "test"])
def test_captions_name_the_split_of_the_images(split):
    captions = page.captions(split, ())
    assert tuple(captions) == page.KINDS
    for kind in ("reconstructions", "interpolations", "latent_map"):
        assert f"{split} images" in captions[kind].lower()
    assert not any("{" in caption for caption in captions.values())


@pytest.mark.parametrize("split", ["training", "validation"])
def test_the_page_names_the_split_of_its_figures_and_distances(folder, split):
    text = a_page(folder, split=split).text
    assert f"show {split} images" in text
    assert f"over the {split} images" in text


def test_the_page_links_to_an_explorer_that_there_is(folder):
    arguments = ("A run", CONFIG, ROWS, METRICS, folder, "validation")
    assert '<a href="explorer.html">' in page.page(*arguments, "explorer.html")
    assert "<a href" not in page.page(*arguments)


def test_texts_are_never_markup(source, parsed):
    assert "<script" not in source
    assert f"Run of {TRICKY}" in parsed.text
    assert CONFIG["description"] in parsed.text
    assert [TRICKY, "1.500", "", "", "", f"estimator {TRICKY}"] in parsed.rows


def test_every_metric_is_shown_with_its_images_and_how_it_was_measured(parsed):
    images = "10,000 validation images"
    assert ["elbo", "-99.877", "0.123", "nats per image", images, "seed 0"] in parsed.rows
    assert ["active units", "23", "", "dimensions", "", "threshold 0.01"] in parsed.rows


def test_every_epoch_is_shown_beside_the_reference(parsed):
    columns = [
        "reference",
        "elbo",
        "log_likelihood",
        "kl",
        "val_elbo",
        "val_log_likelihood",
        "val_kl",
        "seconds",
    ]
    assert ["epoch", *columns] in parsed.rows
    for epoch in range(16):
        known = f"{figures.REFERENCE_ELBO[epoch]:.3f}" if epoch < 14 else ""
        run = [f"{-150.5 + epoch:.3f}", "", "25.250", "-151.500", "", "", "2.500"]
        assert [str(epoch), known, *run] in parsed.rows
    assert page.REFERENCE_NOTE in parsed.text


def test_a_run_with_fewer_epochs_than_the_reference_shows_all_of_it(folder):
    text = a_page(folder, rows=ROWS[:2]).text
    assert all(f"{value:.3f}" in text for value in figures.REFERENCE_ELBO)


@pytest.mark.parametrize(
    "other",
    [{"data": "photos"}, {"data": "mnist", "likelihood": {"name": "ContinuousBernoulli"}}],
    ids=["other data", "a density"],
)
def test_a_run_that_does_not_compare_has_no_reference(folder, other):
    parsed = a_page(folder, CONFIG | other)
    assert "reference" not in parsed.text
    assert ["epoch", "elbo"] in [row[:2] for row in parsed.rows]
    assert ["0", "-150.500"] in [row[:2] for row in parsed.rows]
    assert len([row for row in parsed.rows if row[0].isdigit() and len(row) == 8]) == 16


def test_an_elbo_that_is_not_finite_is_shown_as_nan(folder):
    parsed = a_page(folder, rows=[epoch_row(0, elbo=float("nan"))])
    assert ["0", "-222.013", "nan"] in [row[:3] for row in parsed.rows]


def test_the_nearest_classes_are_shown_with_their_distances(parsed):
    assert ["3", f"5 (1.25), {TRICKY} (9.00)"] in parsed.rows
    assert ["5", f"3 (1.25), {TRICKY} (4.00)"] in parsed.rows


def test_the_configuration_and_the_provenance_are_shown(parsed):
    for row in (
        ["seed", "7"],
        ["encoder.name", "MLPEncoder"],
        ["commit", "0123abc"],
        ["versions.keras", "3.15"],
        ["data_sha256", "0fa7"],
    ):
        assert row in parsed.rows


def test_a_run_without_classes_and_figures_has_a_page(tmp_path):
    metrics = {name: METRICS[name] for name in ("provenance", "metrics")}
    parsed = a_page(tmp_path, {}, ROWS, metrics)
    assert parsed.images() == []
    assert "Which classes are close" not in parsed.text
