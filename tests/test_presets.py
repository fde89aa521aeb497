"""Presets are data: recipes that parse, name known parts and round-trip."""

import dataclasses

import numpy as np
import pytest

from tests.conftest import trainable
from vae_keras import checks, presets, training


@pytest.mark.parametrize("name", trainable(presets.names()))
def test_every_recipe_builds_its_model(name):
    recipe = presets.load_recipe(name)
    assert presets.Recipe.from_dict(recipe.to_dict()) == recipe
    model = training.build_model(recipe, (28, 28, 1), 60000)
    assert model.image_shape == (28, 28, 1)
    assert model.binarization == recipe.binarization


@pytest.mark.parametrize("prior", ["StandardNormal", "AutoregressiveFlow"])
def test_the_seed_reaches_every_part_that_has_weights(prior):
    def weights(seed: int) -> list[np.ndarray]:
        recipe = dataclasses.replace(
            presets.load_recipe("planar_mnist"), prior=presets.Part(prior), seed=seed
        )
        model = training.build_model(recipe, (28, 28, 1), 60000)
        parts = model.encoder, model.decoder, model.prior
        return [weight.numpy() for part in parts for weight in getattr(part, "weights", ())]

    for one, same, other in zip(weights(1), weights(1), weights(2), strict=True):
        np.testing.assert_array_equal(one, same)
        assert np.any(one != other) or not np.any(one)  # biases start at 0


def test_unknown_preset_names_the_known_ones():
    with pytest.raises(checks.InputError, match="mlp_mnist") as error:
        presets.load_recipe("nonsense")
    assert "Received: 'nonsense'" in str(error.value)


@pytest.mark.parametrize("name", ["../mlp_mnist", "mlp_mnist/", "", "."])
def test_path_tricks_are_no_presets(name):
    with pytest.raises(checks.InputError, match="preset must be one of"):
        presets.load_recipe(name)


def test_recipes_refuse_unknown_and_missing_fields():
    values = presets.load_recipe("mlp_mnist").to_dict()
    with pytest.raises(checks.InputError, match="no field 'epoch'"):
        presets.Recipe.from_dict(values | {"epoch": 3})
    values.pop("epochs")
    with pytest.raises(checks.InputError, match="needs every field"):
        presets.Recipe.from_dict(values)
