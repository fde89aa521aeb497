"""Tests that published models give what they gave, and what a publication writes."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from tests.conftest import slow_except, trainable
from vae_keras import VAE, MLPDecoder, MLPEncoder, data, export
from vae_keras.data import datasets
from vae_keras.training import artifacts
from vae_keras.training.build import build_model
from vae_keras.utils import checks, files
from vae_keras.zoo import presets, publish

PUBLISHED = presets.trained()

# --------------------------------------------------------------------------- published models


def golden(name: str) -> dict[str, np.ndarray]:
    return dict(np.load(presets.folder() / name / "golden.npz"))


@pytest.mark.parametrize("name", PUBLISHED)
def test_golden_outputs_hold(name):
    model, stored = VAE.from_preset(name), golden(name)
    assert model.count_params() == presets.load_metrics(name)["parameters"]
    found = publish.golden(model, stored["images"], stored.get("labels"))
    assert set(found) == set(stored)
    for key, value in found.items():
        # The ELBO is a float32 sum over 784 pixels of hundreds of nats. Another order of summation
        # changes it by more than 1e-4.
        relative = 1e-5 if key == "elbo" else 0.0
        np.testing.assert_allclose(value, stored[key], atol=1e-4, rtol=relative, err_msg=key)


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_repository_holds_the_weights_of_a_preset_once(name):
    assert list((presets.folder() / name).rglob("saved_model.pb")) == []


@pytest.mark.slow
@pytest.mark.parametrize("name", PUBLISHED)
def test_the_saved_model_gives_the_golden_outputs(name, tmp_path):
    model, stored = VAE.from_preset(name), golden(name)
    version = export.export_saved_model(model, tmp_path)
    served = tf.saved_model.load(str(version)).signatures
    images = data.binarize(stored["images"], publish.GOLDEN_SEED, model.binarization)
    given = {"images": tf.constant(images)}
    if model.num_classes is not None:
        given["labels"] = tf.constant(stored["labels"], tf.int32)
    found = {
        "reconstructions": served["reconstruct"](**given)["reconstructions"],
        **served["encode"](**given),
    }
    assert set(found) == {"reconstructions", "loc", "scale"}
    for key, value in found.items():
        np.testing.assert_allclose(value, stored[key], atol=1e-4, rtol=0.0, err_msg=key)


def test_the_converged_presets_figure_is_at_most_the_published_one():
    published = json.loads((presets.folder() / "published.json").read_text(encoding="utf-8"))
    metrics = presets.load_metrics("mlp_mnist_converged")["metrics"]
    (figure,) = (entry for entry in metrics if entry["name"] == "negative_log_likelihood")
    assert figure["value"] <= published["mlp_mnist_converged"]["value"]
    assert (figure["num_samples"], figure["num_images"]) == (5000, 10000)
    assert (figure["split"], figure["binarization"]) == ("test", "dynamic")


@pytest.mark.parametrize("name", trainable(PUBLISHED))
def test_published_weights_are_the_recipes(name):
    model, recipe = VAE.from_preset(name), presets.load_recipe(name)
    recipe = dataclasses.replace(recipe, precision="float32")  # of every saved model
    classes = None
    if model.classes is not None:
        classes = {"num_classes": model.num_classes, "class_names": model.class_names}
    fresh = build_model(recipe, model.image_shape, 60000, classes)
    assert (model.num_classes is None) == (recipe.condition == "none")
    assert model.count_params() == fresh.count_params()
    for part in ("encoder", "decoder"):
        ours, expected = (vae.get_config()[part]["config"] for vae in (model, fresh))
        assert ours | {"name": None} == expected | {"name": None}  # Keras numbers equal names
    for part in ("prior", "likelihood"):
        ours, expected = (vae.get_config()[part] for vae in (model, fresh))
        assert ours["class_name"] == expected["class_name"]
        names = {"name": None, "dtype": None}
        assert ours["config"] | names == expected["config"] | names
    assert model.binarization == recipe.binarization


def test_the_zoo_is_small():
    """Weights have four bytes a parameter, without an optimizer's state; the rest is small."""
    sizes = {path: path.stat().st_size for path in presets.folder().rglob("*") if path.is_file()}
    for name in presets.trained():
        parameters = presets.load_metrics(name)["parameters"]
        assert sizes.pop(presets.weights(name)) < 4.2 * parameters + 5e5
    assert sum(sizes.values()) < 12e6


@pytest.mark.slow
def test_one_epoch_on_real_mnist_lands_in_its_band(mnist):
    """Checks the first epoch of the preset's own schedule, in nats per image.

    The training ELBO is in (-190, -180), the ELBO of the validation images in (-136, -129).
    """
    recipe = presets.load_recipe("mlp_mnist")
    model = build_model(recipe, (28, 28, 1), len(mnist.x_train))
    kept = len(mnist.x_train) - recipe.validation
    history = model.fit(
        mnist.x_train[:kept],
        batch_size=recipe.batch_size,
        validation_data=mnist.x_train[kept:],
        validation_batch_size=500,
        verbose=0,
    ).history
    assert -190.0 < history["elbo"][0] < -180.0
    assert -136.0 < history["val_elbo"][0] < -129.0


# --------------------------------------------------------------------------------- publishing

SHAPE = (28, 28, 1)
RECIPE = presets.Recipe(
    description="A small network",
    encoder=presets.Part("MLPEncoder", {"latent_dim": 3, "hidden": [4]}),
    decoder=presets.Part("MLPDecoder", {"hidden": [4]}),
    epochs=1,
    batch_size=10,
    learning_rate=0.001,
    choices="Nothing was chosen.",
)
RUN_PROVENANCE = {
    "commit": "0123abc",
    "versions": {"keras": "3.15"},
    "hardware": {"cpu": "Abacus", "cores": 3},
    "data_sha256": "4567def",
}


@pytest.fixture(scope="module")
def dataset() -> datasets.DataSet:
    """Forty training and twenty test images of ten classes."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (60, *SHAPE), dtype=np.uint8)
    labels = np.arange(60) % 10
    parts = datasets.Images(images[:40], labels[:40], images[40:], labels[40:])
    return datasets.DataSet("mnist", parts, split="as published", invert=True)


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> tuple[Path, VAE]:
    """The files of a finished run that a publication reads, and the run's model."""
    run = tmp_path_factory.mktemp("run")
    model = VAE(
        MLPEncoder(latent_dim=3, hidden=(4,)), MLPDecoder(image_shape=SHAPE, hidden=(4,)), seed=0
    )
    model.save(run / "model.keras")
    files.write_json(run / "config.json", {"preset": "small"} | RECIPE.to_dict())
    validation = {"name": "elbo", "value": -1.0, "split": "validation"}
    measured = {"training_seconds": 90.0, "metrics": [validation]}
    files.write_json(run / "metrics.json", {"provenance": RUN_PROVENANCE} | measured)
    files.write_text(run / "report.html", "")
    files.write_text(run / "figures" / "elbo.png", "the curve")
    files.write_text(run / "figures" / "reconstructions.png", "of validation images")
    return run, model


@pytest.fixture
def run(finished, dataset, tmp_path, monkeypatch) -> Path:
    """A copy of the finished run, beside a zoo that holds its recipe and nothing else."""
    zoo, run = tmp_path / "zoo", tmp_path / "run"
    files.write_json(zoo / "small" / "recipe.json", RECIPE.to_dict())
    files.write_json(zoo / "published.json", {})
    shutil.copytree(finished[0], run)
    monkeypatch.setattr(presets, "folder", lambda: zoo)
    monkeypatch.setattr(datasets, "load", lambda name: {"mnist": dataset}[name])
    return run


def test_a_publication_measures_and_draws_the_test_set(run, dataset, finished):
    folder = publish.publish(run, num_samples=20)
    model, images = finished[1], dataset.images
    test = data.binarize(images.x_test, RECIPE.seed, RECIPE.binarization)
    metrics = presets.load_metrics("small")
    assert metrics["preset"] == "small"
    assert metrics["parameters"] == model.count_params()
    assert metrics["training_seconds"] == 90.0
    assert {entry["split"] for entry in metrics["metrics"]} == {"test"}
    assert {entry["num_images"] for entry in metrics["metrics"]} == {20}
    likelihood, *others = metrics["metrics"]
    assert (likelihood["name"], likelihood["num_samples"]) == ("negative_log_likelihood", 20)
    expected = artifacts.measure(model, test, RECIPE.binarization, RECIPE.seed, "test")
    for ours, theirs in zip(others, expected, strict=True):
        assert ours["name"] == theirs["name"]
        assert ours["value"] == pytest.approx(theirs["value"], rel=1e-5)
    made = metrics["provenance"]
    assert made["weights_sha256"] == files.sha256(run / "model.keras")
    assert {name: made[name] for name in RUN_PROVENANCE} == RUN_PROVENANCE
    assert made["evaluated"]["data_sha256"] == datasets.fingerprint(images.x_test)
    assert len(metrics["latent_classes"]["names"]) == 10

    drawn = ("reconstructions", "interpolations", "traverse", "neighbours", "latent_map")
    kinds = ("elbo", "samples", *drawn)
    assert {path.stem for path in (folder / "figures").iterdir()} == set(kinds)
    assert (folder / "figures" / "elbo.png").read_text() == "the curve"
    assert (folder / "figures" / "reconstructions.png").read_bytes().startswith(b"\x89PNG")
    assert presets.weights("small").read_bytes() == (run / "model.keras").read_bytes()
    loaded = VAE.from_preset("small")
    np.testing.assert_allclose(
        golden("small")["reconstructions"], loaded.reconstruct(test[:10]), atol=1e-6
    )
    assert "20 test images" in (folder / "README.md").read_text(encoding="utf-8")
    assert "[small](small/README.md)" in (folder.parent / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("place", slow_except(["measurement"], ["measurement", "figures", "curve"]))
def test_a_publication_that_fails_leaves_the_zoo_as_it_is(run, monkeypatch, place):
    def failing(*_):
        raise FileNotFoundError("it failed")

    if place == "measurement":
        monkeypatch.setattr(artifacts, "measure", failing)
    elif place == "figures":
        monkeypatch.setattr(publish.gallery, "image_figures", failing)
    else:
        (run / "figures" / "elbo.png").unlink()
    before = {path: path.read_bytes() for path in presets.folder().rglob("*") if path.is_file()}
    with pytest.raises(FileNotFoundError):
        publish.publish(run, num_samples=2)
    after = {path: path.read_bytes() for path in presets.folder().rglob("*") if path.is_file()}
    assert after == before


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"epochs": 2}, "must follow its preset's recipe.*differs from the recipe of small"),
        ({"own_data": {}}, r"must follow its preset's recipe.*own images"),
        ({"preset": "other"}, "preset must be one of: small. Received: 'other'"),
    ],
)
def test_a_run_that_is_not_the_presets_is_refused(run, changed, message):
    config = json.loads((run / "config.json").read_text(encoding="utf-8"))
    files.write_json(run / "config.json", config | changed)
    with pytest.raises(checks.InputError, match=message):
        publish.publish(run)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("report.html", None, "a run can be published after it is finished"),
        ("config.json", None, "a published run must have a readable config.json"),
        ("config.json", "{}", "a published run must have a readable config.json"),
        ("config.json", "[", "a published run must have a readable config.json"),
    ],
)
def test_an_unfinished_or_damaged_run_is_refused(run, name, content, message):
    if content is None:
        (run / name).unlink()
    else:
        (run / name).write_text(content)
    with pytest.raises(checks.InputError, match=message):
        publish.publish(run)


class Accepted(Exception):
    """The run passed all checks."""


@pytest.mark.parametrize(
    "changed", [{"description": "Other words", "choices": ""}, {"schedule": "cosine", "cycles": 1}]
)
def test_other_texts_and_old_names_make_no_other_recipe(run, monkeypatch, changed):
    def estimate(*_):
        raise Accepted

    monkeypatch.setattr(publish, "estimate_likelihood", estimate)
    config = json.loads((run / "config.json").read_text(encoding="utf-8")) | changed
    if "cycles" in changed:
        config.pop("restarts")
    files.write_json(run / "config.json", config)
    with pytest.raises(Accepted):
        publish.publish(run)
