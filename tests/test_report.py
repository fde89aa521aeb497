"""The page of a run and the facts around its numbers."""

import base64
import json
import re
import subprocess
from html.parser import HTMLParser

import numpy as np
import pytest

import vae_keras
from vae_keras import figures, report
from vae_keras.callbacks import COLUMNS

TRICKY = "<script>alert('a & b')</script>"
CAPTIONED = ("prior_epoch_20", "uniform_epoch_20", "elbo", "latent_map")


class Page(HTMLParser):
    """What a browser would see: tags with their attributes, cells of tables, text."""

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
        report.metric("elbo", -99.87654, unit="nats per image", standard_error=0.1234, seed=0),
        report.metric("active_units", 23, unit="dimensions", threshold=0.01),
        report.metric(TRICKY, 1.5, estimator=TRICKY),
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
    return report.page(f"Run of {TRICKY}", CONFIG, ROWS, METRICS, folder)


@pytest.fixture(scope="module")
def page(source) -> Page:
    return Page(source)


def test_the_page_needs_nothing_from_the_network(source, page):
    assert source.startswith("<!doctype html>")
    assert not re.search(r"https?:|//\w+\.|@import|url\(", re.sub(r"base64,[^\"]+", "", source))
    for tag, attributes in page.tags:
        assert tag not in ("script", "link", "iframe")
        assert "href" not in attributes
        assert attributes.get("src", "data:").startswith("data:")


def test_every_figure_is_on_the_page_as_it_is_on_disk(page, folder):
    expected = [path.read_bytes() for path in folder.glob("*.png")]
    assert sorted(page.images()) == sorted(expected)
    assert len(expected) == 5


def test_figures_come_in_the_captions_order_then_the_others(page, folder):
    order = ["elbo", "prior_epoch_20", "uniform_epoch_20", "latent_map", "mine & <yours>"]
    assert page.images() == [(folder / f"{name}.png").read_bytes() for name in order]
    for kind in ("elbo", "prior", "uniform", "latent_map"):
        assert report.CAPTIONS[kind] in page.text
    assert "mine & <yours>" in page.text


def test_every_picture_says_what_it_shows(page):
    alternatives = [attributes["alt"] for tag, attributes in page.tags if tag == "img"]
    assert alternatives[0] == report.CAPTIONS["elbo"]
    assert alternatives[-1] == "mine & <yours>"


def test_names_are_text_and_never_markup(source, page):
    assert "<script" not in source
    assert f"Run of {TRICKY}" in page.text
    assert CONFIG["description"] in page.text
    assert [TRICKY, "1.500", "", "", f"estimator {TRICKY}"] in page.rows


def test_every_metric_is_shown_with_how_it_was_measured(page):
    assert ["elbo", "-99.877", "0.123", "nats per image", "seed 0"] in page.rows
    assert ["active units", "23", "", "dimensions", "threshold 0.01"] in page.rows


def test_every_epoch_is_shown_beside_the_reports_fourteen_values(page):
    for epoch in range(16):
        known = f"{figures.REPORT_ELBO[epoch]:.3f}" if epoch < 14 else ""
        row = [
            str(epoch),
            known,
            f"{-150.5 + epoch:.3f}",
            "",
            "25.250",
            "-151.500",
            "",
            "",
            "2.500",
        ]
        assert row in page.rows


def test_a_run_shorter_than_the_report_still_shows_all_its_values(folder):
    short = Page(report.page("A short run", CONFIG, ROWS[:2], METRICS, folder))
    for value in figures.REPORT_ELBO:
        assert f"{value:.3f}" in short.text


def test_other_data_stands_without_the_report(folder):
    page = Page(report.page("A run", CONFIG | {"data": "photos"}, ROWS, METRICS, folder))
    assert "the report" not in page.text
    assert ["epoch", "elbo"] in [row[:2] for row in page.rows]
    assert ["0", "-150.500"] in [row[:2] for row in page.rows]
    assert len([row for row in page.rows if row[0].isdigit() and len(row) == 8]) == 16


def test_a_density_stands_without_the_report(folder):
    """The report's nats are of probabilities."""
    assert report.compares("mnist", "Bernoulli")
    grey = CONFIG | {"data": "mnist", "likelihood": {"name": "ContinuousBernoulli"}}
    assert "the report" not in Page(report.page("A run", grey, ROWS, METRICS, folder)).text


def test_an_epoch_that_went_wrong_is_shown_as_nan(folder):
    rows = [epoch_row(0, elbo=float("nan"))]
    page = Page(report.page("A run", CONFIG, rows, METRICS, folder))
    assert ["0", "-222.013", "nan"] in [row[:3] for row in page.rows]


def test_the_nearest_classes_are_shown_with_their_distances(page):
    assert ["3", f"5 (1.25), {TRICKY} (9.00)"] in page.rows
    assert ["5", f"3 (1.25), {TRICKY} (4.00)"] in page.rows


def test_the_configuration_and_what_made_the_numbers_are_shown(page):
    for row in (
        ["seed", "7"],
        ["encoder.name", "MLPEncoder"],
        ["commit", "0123abc"],
        ["versions.keras", "3.15"],
        ["data_sha256", "0fa7"],
    ):
        assert row in page.rows


def test_a_run_without_classes_or_figures_has_a_page_too(tmp_path):
    metrics = {name: METRICS[name] for name in ("provenance", "metrics")}
    page = Page(report.page("A run", {}, ROWS, metrics, tmp_path))
    assert page.images() == []
    assert "Which classes lie close" not in page.text


# --------------------------------------------------------------------------------- provenance


def test_a_metric_is_its_name_value_and_facts():
    entry = report.metric("elbo", -99.5, seed=0, num_images=10)
    assert entry == {"name": "elbo", "value": -99.5, "seed": 0, "num_images": 10}


def test_a_fact_that_is_not_known_is_left_out():
    """One image has no standard error, and JSON no NaN."""
    entry = report.metric("elbo", -99.5, standard_error=float("nan"), num_images=1)
    assert entry == {"name": "elbo", "value": -99.5, "num_images": 1}


def test_provenance_names_versions_hardware_and_data():
    facts = report.provenance("0fa7")
    assert json.loads(json.dumps(facts)) == facts
    assert facts["data_sha256"] == "0fa7"
    assert facts["versions"]["vae_keras"] == vae_keras.__version__
    assert set(facts["versions"]) >= {"python", "tensorflow", "keras", "numpy"}
    assert all(re.match(r"\d+\.\d+", version) for version in facts["versions"].values())
    assert facts["hardware"]["cores"] >= 1
    assert facts["hardware"]["cpu"]


def test_the_commit_is_a_hash_or_absent():
    commit = report.provenance("")["commit"]
    assert commit is None or re.fullmatch(r"[0-9a-f]{40}(-dirty)?", commit)


@pytest.mark.parametrize(
    "error", [FileNotFoundError("git"), subprocess.CalledProcessError(128, "git")]
)
def test_a_place_without_git_has_no_commit(monkeypatch, error):
    def failing(*_arguments, **_keywords):
        raise error

    monkeypatch.setattr(subprocess, "run", failing)
    assert report.provenance("")["commit"] is None
