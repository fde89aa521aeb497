"""The configuration of a run: what it makes of the preset's recipe, and where the run goes."""

import dataclasses
from pathlib import Path

import pytest

from vae_keras.training import TrainConfig
from vae_keras.utils import checks
from vae_keras.zoo import presets


def test_a_recipe_takes_the_given_values_and_keeps_the_rest():
    preset = presets.load_recipe("mlp_mnist")
    given = {"epochs": 3, "batch_size": 7, "learning_rate": 0.5, "seed": 9, "validation": 11}
    recipe = TrainConfig(**given, data="fashion_mnist", binarization="threshold").recipe()
    changed = given | {"data": "fashion_mnist", "binarization": "threshold"}
    assert recipe == dataclasses.replace(preset, **changed)


@pytest.mark.parametrize(
    ("binarization", "likelihood"),
    [(None, "Bernoulli"), ("threshold", "Bernoulli"), ("none", "ContinuousBernoulli")],
)
def test_the_likelihood_goes_with_the_binarization(binarization, likelihood):
    recipe = TrainConfig(binarization=binarization).recipe()
    assert recipe.likelihood == presets.Part(likelihood)
    assert presets.Recipe.from_dict(recipe.to_dict()) == recipe


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"epochs": 10**9},
            "epochs must be a whole number from 1 to 99999. Received: 1000000000.",
        ),
        ({"epochs": True}, "epochs must be a whole number from 1 to 99999. Received: True."),
        (
            {"learning_rate": float("nan")},
            "learning_rate must be a finite number above 0. Received: nan.",
        ),
        ({"validation": -1}, "validation must be a whole number >= 0. Received: -1."),
    ],
)
def test_a_value_that_breaks_a_rule_is_refused(changes, message):
    with pytest.raises(checks.InputError) as caught:
        TrainConfig(**changes).recipe()
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"workdir": ""}, "workdir must be a path. Received: ''."),
        ({"workdir": "a\0b"}, "workdir must be a path. Received: 'a\\x00b'."),
        ({"data": "a\0b"}, "data must be a path. Received: 'a\\x00b'."),
    ],
)
def test_a_folder_without_a_path_is_refused(changes, message):
    with pytest.raises(checks.InputError) as caught:
        TrainConfig(**changes).folder()
    assert str(caught.value).startswith(message)


def test_a_configuration_is_frozen():
    with pytest.raises(AttributeError):
        TrainConfig().epochs = 3


@pytest.mark.parametrize(
    ("preset", "data", "folder"),
    [
        ("mlp_mnist", None, "mlp_mnist"),
        ("mlp_mnist", "mnist", "mlp_mnist"),
        ("mlp_mnist", "fashion_mnist", "mlp_mnist-fashion_mnist"),
        ("mlp_mnist", "a/photos", "mlp_mnist-photos"),
        ("planar_mnist", "b/mine.npz", "planar_mnist-mine"),
        ("mlp_mnist", "./mnist", "mlp_mnist-own-mnist"),
        ("mlp_fashion_mnist", None, "mlp_fashion_mnist"),
        ("mlp_fashion_mnist", "mnist", "mlp_fashion_mnist-mnist"),
    ],
)
def test_each_data_set_has_its_own_run_folder(preset, data, folder):
    assert TrainConfig(preset=preset, data=data).folder() == Path("runs") / folder
