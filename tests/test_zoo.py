"""Every published model still gives what it gave: hash, parameters, golden outputs."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
import tensorflow as tf

from tests.conftest import trainable
from vae_keras import VAE, checks, data, export, presets, training, zoo

PUBLISHED = presets.trained()


def golden(name: str) -> dict[str, np.ndarray]:
    return dict(np.load(presets.folder() / name / "golden.npz"))


@pytest.mark.parametrize("name", PUBLISHED)
def test_golden_outputs_hold(name):
    model, stored = VAE.from_preset(name), golden(name)
    assert model.count_params() == presets.load_metrics(name)["parameters"]
    found = zoo.golden(model, stored["images"])
    assert set(found) == set(stored)
    for key, value in found.items():
        # The ELBO is a float32 sum over 784 pixels, hundreds of nats: another order of summation
        # alone moves it by more than 1e-4.
        relative = 1e-5 if key == "elbo" else 0.0
        np.testing.assert_allclose(value, stored[key], atol=1e-4, rtol=relative, err_msg=key)


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_saved_model_gives_the_golden_outputs(name, tmp_path):
    version = presets.folder() / name / "1"
    if name not in zoo.SERVED:
        assert not version.exists()  # its weights would be there twice
        version = export.export_saved_model(VAE.from_preset(name), tmp_path)
    served = tf.saved_model.load(str(version)).signatures
    stored = golden(name)
    images = tf.constant(data.binarize(stored["images"], zoo.GOLDEN_SEED))
    found = {
        "reconstructions": served["reconstruct"](images=images)["reconstructions"],
        **served["encode"](images=images),
    }
    assert set(found) == {"reconstructions", "loc", "scale"}
    for key, value in found.items():
        np.testing.assert_allclose(value, stored[key], atol=1e-4, rtol=0.0, err_msg=key)


def test_the_converged_presets_figure_is_at_most_the_best_published_one():
    published = json.loads((presets.folder() / "published.json").read_text(encoding="utf-8"))
    metrics = presets.load_metrics("mlp_mnist_converged")["metrics"]
    (figure,) = (entry for entry in metrics if entry["name"] == "negative_log_likelihood")
    assert figure["value"] <= published["mlp_mnist_converged"]["value"]
    assert (figure["num_samples"], figure["num_images"]) == (5000, 10000)
    assert (figure["split"], figure["binarization"]) == ("test", "dynamic")


@pytest.mark.parametrize("name", trainable(PUBLISHED))
def test_published_weights_are_the_recipes(name):
    model, recipe = VAE.from_preset(name), presets.load_recipe(name)
    recipe = dataclasses.replace(recipe, precision="float32")  # whatever it trained in
    fresh = training.build_model(recipe, model.image_shape, 60000)
    assert model.count_params() == fresh.count_params()
    for part in ("encoder", "decoder"):
        ours, expected = (vae.get_config()[part]["config"] for vae in (model, fresh))
        assert ours | {"name": None} == expected | {"name": None}  # Keras counts names up
    for part in ("prior", "likelihood"):
        ours, expected = (vae.get_config()[part] for vae in (model, fresh))
        assert ours["class_name"] == expected["class_name"]
        names = {"name": None, "dtype": None}
        assert ours["config"] | names == expected["config"] | names
    assert model.binarization == recipe.binarization


def test_the_zoo_is_small():
    sizes = [path.stat().st_size for path in presets.folder().rglob("*") if path.is_file()]
    assert sum(sizes) < 25e6


def test_presets_are_listed():
    assert "mlp_mnist" in VAE.presets
    assert set(VAE.presets) <= set(presets.names())


def test_a_preset_without_weights_is_not_offered(copy):
    assert VAE.presets == ("mlp_mnist",)
    (copy / "model.keras").unlink()
    assert VAE.presets == ()
    assert presets.names() == ("mlp_mnist",)


@pytest.fixture
def copy(tmp_path, monkeypatch):
    """A zoo of one preset that a test may damage."""
    shutil.copytree(presets.folder() / "mlp_mnist", tmp_path / "mlp_mnist")
    monkeypatch.setattr(presets, "folder", lambda: tmp_path)
    return tmp_path / "mlp_mnist"


def test_changed_weights_are_refused_before_they_are_read(copy, monkeypatch):
    path = copy / "model.keras"
    content = bytearray(path.read_bytes())
    content[1000] ^= 1
    path.write_bytes(content)
    monkeypatch.setattr("vae_keras.keras_file.load", lambda *_: pytest.fail("they were read"))
    with pytest.raises(checks.InputError, match=r"must have the hash in its metrics\.json"):
        VAE.from_preset("mlp_mnist")


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("metrics.json", "{", "a preset needs a sound metrics.json"),
        ("metrics.json", "[]", r"a preset needs a sound metrics.json.*no JSON object"),
        ("metrics.json", "{}", r"a preset's metrics.json must hold the SHA-256 of its weights"),
        ("metrics.json", None, "a preset needs a sound metrics.json"),
        ("recipe.json", "{", "a preset needs a sound recipe.json"),
        ("recipe.json", "{}", "a recipe needs every field"),
        ("recipe.json", '{"encoder": 3}', "a recipe needs every field"),
    ],
)
def test_damaged_metadata_is_refused(copy, name, content, sentence):
    if content is None:
        (copy / name).unlink()
    else:
        (copy / name).write_text(content)
    read = presets.load_recipe if name == "recipe.json" else presets.weights
    with pytest.raises(checks.InputError, match=sentence):
        read("mlp_mnist")


def test_a_recipe_without_weights_says_how_to_train_it(copy):
    (copy / "model.keras").unlink()
    with pytest.raises(checks.InputError, match=r"python train\.py --preset mlp_mnist"):
        VAE.from_preset("mlp_mnist")


def test_unfinished_and_changed_runs_are_not_published(tmp_path):
    with pytest.raises(checks.InputError, match="only a finished run"):
        zoo.publish(tmp_path)
    recipe = presets.load_recipe("mlp_mnist").to_dict()
    config = {"preset": "mlp_mnist", "data": "mnist"} | recipe | {"epochs": 2}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "report.html").write_text("")
    (tmp_path / "config.json").write_text(json.dumps(config | {"own_data": {}}))
    with pytest.raises(checks.InputError, match=r"follows its preset's recipe.*own data"):
        zoo.publish(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(checks.InputError, match="follows its preset's recipe"):
        zoo.publish(tmp_path)


def test_one_epoch_on_real_mnist_lands_in_its_band(mnist):
    """The regression gate: the first epoch of the preset's own schedule, in nats per image.

    The epoch's own ELBO lands in (-190, -180), that of the validation images in (-136, -129).
    """
    recipe = presets.load_recipe("mlp_mnist")
    model = training.build_model(recipe, (28, 28, 1), len(mnist.x_train))
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
