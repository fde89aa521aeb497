"""Tests that the model cards and tables say what their JSON files say."""

import dataclasses
import json
import re

import pytest

from vae_keras.report import page
from vae_keras.utils import files
from vae_keras.zoo import cards, presets

PUBLISHED = [
    name for name in presets.names() if (presets.folder() / name / "metrics.json").exists()
]


def card(name: str, metrics=None, published=None, figures=()) -> str:
    metrics = presets.load_metrics(name) if metrics is None else metrics
    return cards.card(presets.load_recipe(name), metrics, published, list(figures))


@pytest.mark.parametrize("path", sorted(cards.render(), key=str), ids=lambda path: path.parent.name)
def test_rendered_files_are_what_their_json_gives(path):
    message = f"{path} differs from its JSON files: run python -m vae_keras render"
    assert path.read_text(encoding="utf-8") == cards.render()[path], message


def test_the_readme_has_marks_around_the_table():
    """Without the marks, rendering would change nothing and the test above would pass."""
    readme = presets.folder().parent / "README.md"
    assert readme in cards.render()
    text = readme.read_text(encoding="utf-8")
    (table,) = re.findall(r"^<!-- zoo -->\n(.*?)^<!-- /zoo -->$", text, re.DOTALL | re.MULTILINE)
    for name in PUBLISHED:
        assert f"[{name}](saved_models/{name}/README.md)" in table


# Name of a data set: its test images, and the largest standard error of their mean.
TEST_IMAGES = {"photographs": (344, 150.0)}


@pytest.mark.parametrize("name", PUBLISHED)
def test_metrics_hold_what_a_reader_needs(name):
    metrics = presets.load_metrics(name)
    assert metrics["preset"] == name
    made = {"commit", "versions", "hardware", "data_sha256"}
    start = {presets.START_HASH} if presets.load_recipe(name).start_from else set()
    # The first presets were published before `evaluated` was recorded.
    assert set(metrics["provenance"]) - {"evaluated"} == made | start | {"weights_sha256"}
    assert set(metrics["provenance"].get("evaluated", made)) == made
    entries = {entry["name"]: entry for entry in metrics["metrics"]}
    assert {entry["split"] for entry in entries.values()} == {"test"}
    nll = entries["negative_log_likelihood"]
    assert nll["num_samples"] == 5000
    count, largest_error = TEST_IMAGES.get(presets.load_recipe(name).data, (10000, 1.0))
    assert nll["num_images"] == count
    assert nll["estimator"] == "importance_weighted"
    assert 0 < nll["standard_error"] < largest_error
    bounds = list(metrics["importance_weighted_bounds"].values())
    assert bounds == sorted(bounds, reverse=True)
    assert bounds[-1] == pytest.approx(nll["value"])
    assert nll["value"] < -entries["elbo"]["value"]
    assert {"elbo", "rate", "distortion", "active_units"} < set(entries)


def test_a_card_shows_the_numbers_of_its_json():
    metrics = presets.load_metrics("mlp_mnist")
    metrics["metrics"][0]["value"] = 12.344
    text = card("mlp_mnist", metrics, {"value": 99.1, "source": "someone"})
    assert "| negative log likelihood | 12.34 ± 0.25 | nats per image |" in text
    assert "The published figure of this class is 99.10 (someone)." in text
    assert "The published figure" not in card("mlp_mnist")


def test_a_card_shows_what_the_latents_tell_of_the_labels():
    probe = {"name": "linear_probe", "features": "posterior means", "dimensions": 50}
    probe |= {"accuracy": 0.91234, "interval": [0.9, 0.92]}
    found = {"neighbours": 10, "train_images": 50000, "probes": [probe]}
    recipe, metrics = presets.load_recipe("mlp_mnist"), presets.load_metrics("mlp_mnist")
    text = cards.card(recipe, metrics, None, [], {"probes": found})
    row = "| 50 posterior means | linear probe | 91.23% | 90.00 to 92.00% |"
    assert row in text
    assert "fitted to 50,000 training images" in text
    assert "What the latents tell" not in cards.card(recipe, metrics, None, [])


def test_a_card_shows_what_labels_bring():
    recipe, metrics = presets.load_recipe("mlp_mnist"), presets.load_metrics("mlp_mnist")
    nats = {"nats": 80.126, "standard_error": 0.2}
    likelihood = {"given_the_label": nats, "without_labels": nats, "saved": nats}
    likelihood |= {"samples": 5000, "images": 10000, "models": ["conditional_mnist", "plain"]}
    rate = {"error": 0.0123, "standard_error": 0.001}
    found = {
        "likelihood": likelihood,
        "drawn": {"share": 0.991, "standard_error": 0.001, "images": 10000}
        | {"accuracy_of_the_classifier": 0.992},
        "classify": rate | {"samples": 100},
        "few": {"bayes": rate, "classifier": rate, "labels_only": rate}
        | {"labels": 100, "copies": 300, "draws": 10},
    }
    text = cards.card(recipe, metrics, None, [], {"labels": found})
    assert "| saved by the label | 80.13 ± 0.20 nats per image | mean of the paired" in text
    assert "| drawn images of the class asked for | 99.10 ± 0.10% | 10,000 images" in text
    assert "| test error of `classify` | 1.23 ± 0.10% | 100 importance samples" in text
    assert "| test error with 100 labels, by the network q(y given x) | 1.23 ± 0.10% |" in text
    some = cards.card(recipe, metrics, None, [], {"labels": {"classify": found["classify"]}})
    assert "drawn images" not in some
    assert "What the labels bring" not in cards.card(recipe, metrics, None, [])


def test_a_card_says_how_long_training_took(monkeypatch):
    recipe, metrics = presets.load_recipe("mlp_mnist"), presets.load_metrics("mlp_mnist")
    timed = metrics | {"training_seconds": 5401.0}
    cores = metrics["provenance"]["hardware"]["cores"]
    took = f"1.5 hours on {cores} cores, at most {1.5 * cores + 0.1:.1f} core-hours"
    assert f" The epochs took {took}.\n" in cards.card(recipe, timed, None, [])
    for untimed in (metrics, metrics | {"training_seconds": None}):
        assert "epochs took" not in cards.card(recipe, untimed, None, [])
    monkeypatch.setattr(presets, "load_metrics", lambda name: timed)
    later = dataclasses.replace(recipe, start_from="mlp_mnist")
    made = metrics["provenance"]
    for start, text in (
        (made["weights_sha256"], f"{took}, after those of `mlp_mnist`, which took {took}"),
        ("0" * 64, took),  # other weights, whose training may have taken another time
    ):
        started = timed | {"provenance": made | {presets.START_HASH: start}}
        assert f" The epochs took {text}.\n" in cards.card(later, started, None, [])


def test_a_card_shows_what_levels_of_latents_bring():
    recipe, metrics = presets.load_recipe("mlp_mnist"), presets.load_metrics("mlp_mnist")
    size = {"parameters": 1994802, "latents": 544}
    bits = {
        name: {"bits": value, "standard_error": 0.0123}
        for name, value in (("elbo", 4.126), ("likelihood", 4.051))
    }
    found = {"images": 344, "samples": 100, "levels": size | bits, "flat": size | bits}
    text = cards.card(recipe, metrics, None, [], {"flat": found | {"saved": bits}})
    assert "| this preset | 1,994,802 | 544 | 4.126 ± 0.012 | 4.051 ± 0.012 |" in text
    assert "What the levels of latents bring" not in cards.card(recipe, metrics, None, [])


@pytest.mark.parametrize("kind", presets.BESIDE)
@pytest.mark.parametrize("name", PUBLISHED)
def test_what_was_measured_is_of_the_weights_beside_it(name, kind):
    path = presets.folder() / name / f"{kind}.json"
    if path.exists():
        held = json.loads(path.read_text(encoding="utf-8"))
        assert held["weights_sha256"] == files.sha256(presets.weights(name))


@pytest.mark.parametrize("name", [n for n in PUBLISHED if presets.load_recipe(n).start_from])
def test_a_card_says_when_the_starting_weights_were_replaced(name):
    start = presets.load_recipe(name).start_from
    metrics = presets.load_metrics(name)
    current = presets.load_metrics(start)["provenance"]["weights_sha256"]
    metrics["provenance"][presets.START_HASH] = current
    assert f"Training started from the weights of `{start}`." in card(name, metrics)
    metrics["provenance"][presets.START_HASH] = "0123456789abcdef"
    text = card(name, metrics)
    assert f"Training started from earlier weights of `{start}`" in text
    assert "SHA-256 `0123456789ab...`" in text


def test_a_card_says_why_some_images_took_fewer_samples():
    name = "mlp_mnist"
    metrics = presets.load_metrics(name)
    assert "--refined" not in card(name, metrics)
    metrics["metrics"][0] |= {"num_refined": 1000, "num_few": 100, "seconds": 360.0}
    text = card(name, metrics)
    assert "5,000 samples for 1,000 images, 100 for the others" in text
    # 6 million samples took 6 minutes, so 50 million take 50.
    assert "5,000 samples for all 10,000 images would have taken about 50 minutes" in text
    assert f"evaluate --preset {name} --refined 1000" in text
    table = cards.zoo_table({name: metrics}, {})
    assert f"samples for each image, but most images of {name} took fewer." in table


def test_a_card_says_what_trained_and_what_published():
    metrics = presets.load_metrics("mlp_mnist")
    made = metrics["provenance"]
    made.pop("evaluated", None)
    text = card("mlp_mnist", metrics)
    assert f"commit `{made['commit']}`" in text
    assert "The preset was published with" not in text
    made["evaluated"] = {
        "commit": "0123abc",
        "versions": {"keras": "9.9"},
        "hardware": {"cpu": "Abacus", "cores": 3},
    }
    text = card("mlp_mnist", metrics)
    assert f"commit `{made['commit']}`" in text
    assert (
        "The preset was published with keras 9.9 on Abacus, 3 cores, at commit `0123abc`." in text
    )


@pytest.mark.parametrize(
    ("name", "sentences"),
    [
        ("mlp_mnist", ["without the last 10,000, which were held out", "along a cosine. "]),
        ("mlp_mnist_converged", ["on all training images of MNIST. "]),
        ("conv_mnist", ["without the last 5,000,", "along a cosine, with 2 restarts. "]),
    ],
)
def test_a_card_describes_the_training(name, sentences):
    text = card(name)
    for sentence in sentences:
        assert sentence in text


def test_a_card_explains_the_reference_where_it_is_drawn():
    assert page.REFERENCE_NOTE in card("mlp_mnist", figures=["elbo"])
    text = card("mlp_fashion_mnist", figures=["elbo"])
    assert "![The ELBO after each epoch.](figures/elbo.png)" in text
    assert "reference" not in text


@pytest.mark.parametrize("name", PUBLISHED)
def test_figures_of_the_cards_exist(name):
    folder = presets.folder() / name
    text = (folder / "README.md").read_text(encoding="utf-8")
    shown = re.findall(r"^!\[.+\]\((.+)\)$", text, re.MULTILINE)
    assert len(shown) >= 5
    for figure in shown:
        assert (folder / figure).stat().st_size > 5000


def test_json_of_the_zoo_holds_no_nan():
    for path in presets.folder().rglob("*.json"):
        json.loads(path.read_text(encoding="utf-8"), parse_constant=pytest.fail)


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_front_matter_is_what_the_hub_reads(name):
    hub = pytest.importorskip("huggingface_hub", reason="needs the extra [hub]")
    text = (presets.folder() / name / "README.md").read_text(encoding="utf-8")
    about = hub.ModelCard(text).data
    assert (about.library_name, about.license) == ("keras", "apache-2.0")
    assert about.model_name == name
    metrics = presets.load_metrics(name)["metrics"]
    found = {result.metric_type: result.metric_value for result in about.eval_results}
    assert found == {entry["name"]: pytest.approx(entry["value"], abs=0.005) for entry in metrics}
    assert {result.dataset_split for result in about.eval_results} == {"test"}


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_front_matter_stands_at_the_top(name):
    text = card(name)
    head, body = text.removeprefix("---\n").split("\n---\n\n", 1)
    assert text.startswith("---\n")
    assert body.startswith(f"# {name}\n")
    assert f"\n- name: {name}\n" in head
    for entry in presets.load_metrics(name)["metrics"]:
        assert f"\n    - type: {entry['name']}\n" in head
