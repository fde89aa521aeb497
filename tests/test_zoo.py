"""Every published model still gives what it gave: hash, parameters, golden outputs."""

import dataclasses
import json
import shutil

import numpy as np
import pytest

from vae_keras import VAE, checks, presets, training, zoo

PUBLISHED = presets.trained()


@pytest.mark.parametrize("name", PUBLISHED)
def test_golden_outputs_hold(name):
    model = VAE.from_preset(name)
    stored = dict(np.load(presets.folder() / name / "golden.npz"))
    assert model.count_params() == presets.load_metrics(name)["parameters"]
    for key, value in zoo.golden(model, stored["images"]).items():
        np.testing.assert_allclose(value, stored[key], atol=1e-4, rtol=1e-4, err_msg=key)


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_weights_are_the_recipes(name):
    model, recipe = VAE.from_preset(name), presets.load_recipe(name)
    recipe = dataclasses.replace(recipe, precision="float32")  # whatever it trained in
    fresh = training.build_model(recipe, model.image_shape, 60000)
    assert model.count_params() == fresh.count_params()
    for part in ("encoder", "decoder"):
        ours, expected = (vae.get_config()[part]["config"] for vae in (model, fresh))
        assert ours | {"name": None} == expected | {"name": None}  # Keras counts names up
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
    with pytest.raises(checks.InputError, match="follows its preset's recipe"):
        zoo.publish(tmp_path)


def test_one_epoch_on_real_mnist_lands_in_its_band(mnist):
    """The regression gate: the first epoch of the preset's own schedule."""
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
