"""What a run writes from its final weights: measurements with their split and their origin."""

import json

import numpy as np
import pytest

from tests.conftest import small_vae
from tests.training.conftest import config
from vae_keras import (
    VAE,
    DiscretizedLogisticMixture,
    MLPDecoder,
    MLPEncoder,
    compression,
    data,
    evaluation,
)
from vae_keras.data import datasets
from vae_keras.training import artifacts
from vae_keras.training.callbacks import read_elbo_csv
from vae_keras.training.plan import make_plan
from vae_keras.utils import keras_file


def test_measurements_say_how_they_were_made(finished, small_mnist):
    metrics = json.loads((finished / "metrics.json").read_text())
    names = {"title", "shown", "preset", "parameters", "provenance", "metrics", "latent_classes"}
    assert set(metrics) == names | {"training_seconds", "best_epoch", "remarks"}
    rows = read_elbo_csv(finished / "elbo.csv")
    assert metrics["training_seconds"] == sum(float(row["seconds"]) for row in rows) > 0.0
    assert metrics["provenance"]["data_sha256"] == datasets.fingerprint(small_mnist.x_train)
    by_name = {entry["name"]: entry for entry in metrics["metrics"]}
    assert set(by_name) == {"elbo", "rate", "distortion", "active_units"}
    assert all(entry["split"] == "validation" for entry in metrics["metrics"])
    elbo = by_name["elbo"]
    assert elbo["value"] == pytest.approx(
        -by_name["rate"]["value"] - by_name["distortion"]["value"]
    )
    assert (elbo["num_images"], elbo["unit"], elbo["num_samples"]) == (200, "nats per image", 10)
    assert elbo["standard_error"] > 0


def test_the_measured_images_are_the_held_out_ones(finished, small_mnist):
    model = keras_file.load(finished / "model.keras")
    x = data.binarize(small_mnist.x_train[1000:], 0, "dynamic")
    expected = evaluation.evaluate_elbo(model, x, 10, seed=0).elbo.mean
    metrics = json.loads((finished / "metrics.json").read_text())["metrics"]
    assert metrics[0]["value"] == pytest.approx(expected, rel=1e-6)


def test_classes_are_compared(finished):
    classes = json.loads((finished / "metrics.json").read_text())["latent_classes"]
    distances = np.array(classes["distances"])
    assert distances.shape == (10, 10)
    np.testing.assert_allclose(distances, distances.T)
    assert len(classes["nearest"]["5"]) == 9


def test_each_measurement_carries_its_split(digits):
    x = data.binarize(digits, 3, "dynamic")
    entries = artifacts.measure(small_vae(), x, "dynamic", 3, "training")
    facts = {(e["split"], e["num_images"], e["binarization"], e["seed"]) for e in entries}
    assert facts == {("training", 60, "dynamic", 3)}


def test_256_levels_are_measured_in_bits_beside_png_and_webp():
    likelihood = DiscretizedLogisticMixture(2)
    decoder = MLPDecoder((8, 8, 3), (8,), parameters_per_pixel=likelihood.parameters_per_pixel(3))
    vae = VAE(MLPEncoder(2, (8,)), decoder, likelihood=likelihood)
    levels = np.random.default_rng(0).integers(0, 256, (10, 8, 8, 3), dtype=np.uint8)
    x = data.binarize(levels, 0, "none")
    entries = {e["name"]: e for e in artifacts.measure(vae, x, "none", 0, "test")}
    bits = entries["bits_per_dimension"]
    assert bits["value"] == pytest.approx(-entries["elbo"]["value"] / (192 * np.log(2)))
    assert bits["standard_error"] > 0
    for name in ("png", "webp"):
        beside = entries[f"{name}_bits_per_dimension"]
        assert beside["value"] == compression.bits_per_dimension(levels, name).mean
        assert (beside["unit"], beside["num_images"]) == ("bits per dimension", 10)


def test_of_many_training_images_the_first_are_measured(tmp_path, monkeypatch, small_mnist):
    monkeypatch.setattr(artifacts, "_MOST_TRAINING_IMAGES", 100)
    settings = config(tmp_path, validation=0)
    dataset = datasets.DataSet("mnist", small_mnist, "as published")
    plan = make_plan(settings, settings.recipe(), dataset)
    measured = artifacts._images(plan, "training")
    np.testing.assert_array_equal(measured.originals, small_mnist.x_train[:100])
    np.testing.assert_array_equal(measured.labels, small_mnist.y_train[:100])
    np.testing.assert_array_equal(
        measured.images, data.binarize(small_mnist.x_train, 0, "dynamic")[:100]
    )


def test_saved_weights_load_again(tmp_path, vae, digits):
    artifacts.save_weights(vae, tmp_path / "model.keras")
    again = keras_file.load(tmp_path / "model.keras")
    np.testing.assert_array_equal(again.reconstruct(digits), vae.reconstruct(digits))
