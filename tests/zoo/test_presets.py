"""Tests the recipes, the weights and the measurements of the zoo, which are data."""

import dataclasses
import json
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

import vae_keras
from tests.conftest import trainable
from vae_keras import VAE
from vae_keras.training.build import build_model
from vae_keras.utils import checks
from vae_keras.zoo import presets

# ------------------------------------------------------------------------------------ recipes


@pytest.mark.parametrize("name", trainable(presets.names(), fast=["hierarchical_mnist"]))
def test_every_recipe_builds_its_model(name):
    recipe = presets.load_recipe(name)
    model = build_model(recipe, (28, 28, 1), 60000)
    assert model.image_shape == (28, 28, 1)
    assert model.binarization == recipe.binarization


@pytest.mark.parametrize("prior", ["StandardNormal", "AutoregressiveFlow"])
def test_the_seed_reaches_every_part_that_has_weights(prior):
    def weights(seed: int) -> list[np.ndarray]:
        recipe = dataclasses.replace(
            presets.load_recipe("planar_mnist"), prior=presets.Part(prior), seed=seed
        )
        model = build_model(recipe, (28, 28, 1), 60000)
        parts = model.encoder, model.decoder, model.prior
        return [weight.numpy() for part in parts for weight in getattr(part, "weights", ())]

    for one, same, other in zip(weights(1), weights(1), weights(2), strict=True):
        np.testing.assert_array_equal(one, same)
        assert np.any(one != other) or not np.any(one)  # biases start at 0


@pytest.mark.parametrize("name", ["nonsense", "../mlp_mnist", "mlp_mnist/", "", "."])
def test_a_name_that_is_not_in_the_zoo_is_refused_with_the_known_ones(name):
    for read in (presets.load_recipe, presets.load_metrics, presets.weights):
        with pytest.raises(checks.InputError, match=r"preset must be one of: .*mlp_mnist") as error:
            read(name)
        assert f"Received: {name!r}" in str(error.value)


def test_recipes_refuse_unknown_and_missing_fields():
    values = presets.load_recipe("mlp_mnist").to_dict()
    with pytest.raises(checks.InputError, match=r"known fields only. Received: \['epoch'\]"):
        presets.Recipe.from_dict(values | {"epoch": 3})
    values.pop("epochs")
    with pytest.raises(checks.InputError, match="a value for every field without a default"):
        presets.Recipe.from_dict(values)


@pytest.mark.parametrize("name", presets.names())
def test_committed_recipes_have_the_current_names(name):
    values = json.loads((presets.folder() / name / "recipe.json").read_text(encoding="utf-8"))
    assert presets.with_current_names(values) == values
    recipe = presets.load_recipe(name)
    assert presets.Recipe.from_dict(recipe.to_dict()) == recipe
    assert values["description"][-1] != "."
    assert values["choices"][-1] == "."


def test_recipes_of_version_0_1_0_are_read():
    flow = presets.Part("AutoregressiveFlow", {"depth": 4})
    recipe = dataclasses.replace(presets.load_recipe("conv_mnist"), prior=flow)
    old = recipe.to_dict() | {"schedule": "cosine", "cycles": 3}
    old.pop("restarts")
    for network in ("encoder", "decoder"):
        old[network]["arguments"]["depth"] = old[network]["arguments"].pop("blocks_per_stage")
    read = presets.Recipe.from_dict(old)
    assert read == dataclasses.replace(recipe, restarts=2)
    assert read.prior.arguments["depth"] == 4  # the flow's depth keeps its name


def test_only_convolutional_networks_are_renamed():
    part = {"name": "UserEncoder", "arguments": {"depth": 3}}
    assert presets.with_current_names({"encoder": part}) == {"encoder": part}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"schedule": "linear"}, "schedule must be one of: cosine. Received: 'linear'"),
        ({"cycles": 0}, "cycles must be a whole number >= 1. Received: 0"),
        ({"cycles": "2"}, "cycles must be a whole number >= 1. Received: '2'"),
    ],
)
def test_old_fields_without_a_current_value_are_refused(values, message):
    with pytest.raises(checks.InputError, match=message):
        presets.with_current_names(values)


def test_an_old_field_beside_its_current_one_is_refused():
    values = presets.load_recipe("conv_mnist").to_dict() | {"cycles": 2}
    with pytest.raises(checks.InputError, match=r"known fields only. Received: \['cycles'\]"):
        presets.Recipe.from_dict(values)


# ------------------------------------------------------------------------------------ weights


def test_presets_are_listed():
    assert "mlp_mnist" in VAE.presets
    assert set(VAE.presets) <= set(presets.names())


def test_a_preset_without_weights_is_not_listed(copy):
    assert VAE.presets == ("mlp_mnist",)
    (copy / "model.keras").unlink()
    assert VAE.presets == ()
    assert presets.names() == ("mlp_mnist",)


def test_a_preset_without_weights_says_how_to_train_it(copy):
    (copy / "model.keras").unlink()
    with pytest.raises(checks.InputError, match=r"vae-keras train --preset mlp_mnist"):
        VAE.from_preset("mlp_mnist")


def test_changed_weights_are_refused_before_they_are_read(copy, monkeypatch):
    path = copy / "model.keras"
    content = bytearray(path.read_bytes())
    content[1000] ^= 1
    path.write_bytes(content)
    read = "vae_keras.utils.keras_file.load"
    monkeypatch.setattr(read, lambda *_: pytest.fail("the weights were read"))
    with pytest.raises(checks.InputError, match=r"must have the SHA-256 in its metrics\.json"):
        VAE.from_preset("mlp_mnist")


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("metrics.json", "{", "a preset must have a readable metrics.json"),
        ("metrics.json", "[]", "readable metrics.json.*does not hold a JSON object"),
        ("metrics.json", "{}", "metrics.json of a preset must hold the SHA-256 of its weights"),
        ("metrics.json", None, "a preset must have a readable metrics.json"),
        ("recipe.json", "{", "a preset must have a readable recipe.json"),
        ("recipe.json", "{}", "a recipe must hold a value for every field"),
        ("recipe.json", '{"encoder": 3}', "a recipe must hold a value for every field"),
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


# ------------------------------------------------------------------------------------ imports


def test_presets_need_neither_tensorflow_nor_the_model():
    script = """
        import sys, types

        package = types.ModuleType("vae_keras")  # replaces __init__.py, which needs TensorFlow
        package.__path__ = [sys.argv[1]]
        sys.modules["vae_keras"] = package
        from vae_keras.zoo import presets

        presets.load_recipe("mlp_mnist")
        print(presets.weights("mlp_mnist").name)
        print([name for name in ("tensorflow", "keras", "vae_keras.model") if name in sys.modules])
    """
    command = [sys.executable, "-c", textwrap.dedent(script)]
    command.append(str(Path(vae_keras.__file__).parent))
    result = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr
    assert result.stdout.split("\n") == ["model.keras", "[]", ""]
