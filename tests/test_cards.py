"""Rendered files say what their JSON says, and nothing else."""

import json
import re

import pytest

from vae_keras import cards, presets

PUBLISHED = [
    name for name in presets.names() if (presets.folder() / name / "metrics.json").exists()
]


@pytest.mark.parametrize("path", sorted(cards.render(), key=str), ids=lambda path: path.parent.name)
def test_rendered_files_are_what_their_json_gives(path):
    message = f"{path} differs from its JSON files: run python -m vae_keras render"
    assert path.read_text(encoding="utf-8") == cards.render()[path], message


def test_the_readme_has_a_place_for_the_table():
    """Without its marks rendering would change nothing, and nothing would differ."""
    readme = presets.folder().parent / "README.md"
    assert readme in cards.render()
    text = readme.read_text(encoding="utf-8")
    (table,) = re.findall(r"^<!-- zoo -->\n(.*?)^<!-- /zoo -->$", text, re.DOTALL | re.MULTILINE)
    for name in PUBLISHED:
        assert f"[{name}](saved_models/{name}/README.md)" in table


@pytest.mark.parametrize("name", PUBLISHED)
def test_metrics_hold_what_a_reader_needs(name):
    metrics = presets.load_metrics(name)
    assert metrics["preset"] == name
    made = {"commit", "versions", "hardware", "data_sha256"}
    start = {presets.START_HASH} if presets.load_recipe(name).start_from else set()
    # `evaluated`, what measured the likelihood, is not in folders published before it was kept.
    assert set(metrics["provenance"]) - {"evaluated"} == made | start | {"weights_sha256"}
    assert set(metrics["provenance"].get("evaluated", made)) == made
    entries = {entry["name"]: entry for entry in metrics["metrics"]}
    nll = entries["negative_log_likelihood"]
    assert nll["num_samples"] == 5000
    assert nll["num_images"] == 10000
    assert nll["estimator"] == "importance_weighted"
    assert nll["split"] == "test"
    assert 0 < nll["standard_error"] < 1
    bounds = list(metrics["importance_weighted_bounds"].values())
    assert bounds == sorted(bounds, reverse=True)
    assert bounds[-1] == pytest.approx(nll["value"])
    assert nll["value"] < -entries["elbo"]["value"]
    assert {"elbo", "rate", "distortion", "active_units"} < set(entries)


def test_a_card_follows_its_numbers(tmp_path):
    name = PUBLISHED[0]
    metrics = json.loads(json.dumps(presets.load_metrics(name)))
    metrics["metrics"][0]["value"] = 12.345
    text = cards.card(presets.load_recipe(name), metrics, {"value": 99, "source": "someone"}, [])
    assert "12.35" in text or "12.34" in text
    assert "99 (someone)" in text


@pytest.mark.parametrize("name", [n for n in PUBLISHED if presets.load_recipe(n).start_from])
def test_a_card_says_when_a_run_cannot_start_from_the_same_weights_again(name):
    recipe = presets.load_recipe(name)
    metrics = json.loads(json.dumps(presets.load_metrics(name)))
    today = presets.load_metrics(recipe.start_from)["provenance"]["weights_sha256"]
    metrics["provenance"][presets.START_HASH] = today
    assert f"from the weights of `{recipe.start_from}`;" in cards.card(recipe, metrics, None, [])
    metrics["provenance"][presets.START_HASH] = "0123456789abcdef"
    text = cards.card(recipe, metrics, None, [])
    assert f"`{recipe.start_from}` had before its present ones" in text
    assert "SHA-256 `0123456789ab...`" in text


def test_a_card_says_why_some_images_took_fewer_samples():
    name = "mlp_mnist"
    metrics, recipe = presets.load_metrics(name), presets.load_recipe(name)
    assert "--refined" not in cards.card(recipe, metrics, None, [])
    metrics["metrics"][0] |= {"num_refined": 1000, "num_few": 100, "seconds": 360.0}
    text = cards.card(recipe, metrics, None, [])
    assert "5,000 samples on 1,000 images, 100 on the others" in text
    # 6 million samples in 6 minutes, so 50 million in 50.
    assert "5,000 samples on all 10,000 images would have taken about 50 minutes" in text
    assert f"evaluate --preset {name} --refined 1000" in text
    table = cards.zoo_table({name: metrics}, {})
    assert f"importance samples an image; with {name} most took fewer, see the card" in table


def test_a_card_names_what_trained_and_what_evaluated():
    metrics = json.loads(json.dumps(presets.load_metrics(PUBLISHED[0])))
    made = metrics["provenance"]
    made.pop("evaluated", None)
    recipe = presets.load_recipe(PUBLISHED[0])
    alone = cards.card(recipe, metrics, None, [])
    assert f"commit `{made['commit']}`" in alone
    assert "-log p(x) measured with" not in alone
    made["evaluated"] = {
        "commit": "0123abc",
        "versions": {"keras": "9.9"},
        "hardware": {"cpu": "Abacus", "cores": 3},
    }
    text = cards.card(recipe, metrics, None, [])
    assert f"commit `{made['commit']}`" in text
    assert "-log p(x) measured with keras 9.9; Abacus, 3 cores; commit `0123abc`." in text


def test_figures_of_the_cards_exist():
    for name in PUBLISHED:
        folder = presets.folder() / name
        text = (folder / "README.md").read_text(encoding="utf-8")
        shown = [line.split("](")[1].rstrip(")\n") for line in text.splitlines() if "![" in line]
        assert len(shown) >= 3
        for figure in shown:
            assert (folder / figure).stat().st_size > 5000
