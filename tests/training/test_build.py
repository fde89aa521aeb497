"""A recipe becomes a compiled model: its classes, their arguments, the weights it starts from."""

import dataclasses

import keras
import numpy as np
import pytest

from tests.conftest import trainable
from vae_keras import VAE
from vae_keras.training.build import build_model, build_network
from vae_keras.utils import checks
from vae_keras.zoo import presets

RECIPE = presets.load_recipe("mlp_mnist")


@pytest.mark.parametrize("preset", trainable(presets.names()))
def test_every_preset_builds(preset):
    recipe = presets.load_recipe(preset)
    model = build_network(recipe, (28, 28, 1), "float32")
    for part in ("encoder", "decoder", "prior", "objective", "likelihood"):
        assert type(getattr(model, part)).__name__ == getattr(recipe, part).name
    assert (model.seed, model.binarization) == (recipe.seed, recipe.binarization)
    assert not model.compiled


@pytest.mark.parametrize(("validation", "steps"), [(10, 45), (0, 50)])
def test_the_learning_rate_reaches_zero_with_the_last_step(validation, steps):
    recipe = dataclasses.replace(
        RECIPE, epochs=5, batch_size=10, validation=validation, warmup_steps=0
    )
    model = build_model(recipe, (4, 4, 1), 95)
    rates = [float(model.optimizer.learning_rate.numpy())]
    schedule = model.optimizer._learning_rate
    rates += [float(keras.ops.convert_to_numpy(schedule(step))) for step in (steps - 1, steps)]
    assert rates[0] == pytest.approx(recipe.learning_rate)
    assert rates[1] > 0.0
    assert rates[2] == 0.0


def test_the_networks_compute_in_the_recipes_precision():
    recipe = dataclasses.replace(RECIPE, precision="mixed_bfloat16")
    model = build_model(recipe, (4, 4, 1), 60_000)
    assert model.encoder.dtype_policy.name == model.decoder.dtype_policy.name == "mixed_bfloat16"


@pytest.mark.parametrize("preset", ["iwae_mnist", *trainable(["best_mnist"])])
def test_networks_start_from_the_weights_of_the_named_preset(preset):
    recipe = presets.load_recipe(preset)
    model = build_model(recipe, (28, 28, 1), 60_000)
    start = VAE.from_preset(recipe.start_from)
    for part in ("encoder", "decoder"):
        ours, theirs = (getattr(vae, part).get_weights() for vae in (model, start))
        for one, other in zip(ours, theirs, strict=True):
            np.testing.assert_array_equal(one, other)
    standard = np.float32([[0.3] * model.latent_dim, [-1.0] * model.latent_dim])
    # A prior without weights, or a fresh flow, is the identity.
    np.testing.assert_allclose(model.prior_draws(standard), standard, atol=1e-6)


@pytest.mark.parametrize(
    ("field", "part", "message"),
    [
        (
            "encoder",
            presets.Part("os.system"),
            "encoder must be one of: MLPEncoder, ConvEncoder, TopDownEncoder. "
            "Received: 'os.system'.",
        ),
        (
            "optimizer",
            presets.Part("cosine"),
            "optimizer must be one of: Adam, Muon. Received: 'cosine'.",
        ),
        (
            "prior",
            presets.Part("StandardNormal", {"depth": 3}),
            "a recipe may give StandardNormal only the arguments that the class takes. Received: ",
        ),
        (
            "encoder",
            presets.Part("MLPEncoder", {"depth": 3}),
            "a recipe may give MLPEncoder only the arguments that the class takes. Received: ",
        ),
    ],
)
def test_what_a_recipe_may_not_name_is_refused(field, part, message):
    with pytest.raises(checks.InputError) as caught:
        build_model(dataclasses.replace(RECIPE, **{field: part}), (4, 4, 1), 60_000)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)
