"""The networks of a hierarchical VAE."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from vae_keras import IWAE, VAE, TopDownDecoder, TopDownEncoder, evaluation
from vae_keras.priors import AutoregressiveFlow
from vae_keras.utils import checks

SHAPE = (9, 7, 1)
SMALL = {"top_dim": 3, "groups": ((1,), (2, 1)), "widths": (4, 6)}


def small(**arguments) -> VAE:
    return VAE(TopDownEncoder(**SMALL), TopDownDecoder(SHAPE, **SMALL), **arguments)


@pytest.fixture(scope="module")
def vae() -> VAE:
    """A model whose groups all matter: its weights are far from the fresh ones."""
    model = small()
    numbers = np.random.default_rng(0)
    model.set_weights(
        [w + 0.3 * numbers.standard_normal(w.shape).astype(np.float32) for w in model.get_weights()]
    )
    return model


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return (np.random.default_rng(1).random((5, *SHAPE)) > 0.5).astype(np.float32)


def test_the_latents_of_all_groups_are_counted(vae):
    assert vae.decoder.latent_groups == [(3,), (3, 2, 2), (3, 2, 1), (5, 4, 1)]
    assert vae.latent_dim == vae.decoder.latent_dim == 3 + 12 + 6 + 20


def test_the_reconstruction_is_the_decoded_mean_path(vae, images):
    np.testing.assert_array_equal(vae.decode(vae.encode(images).loc), vae.reconstruct(images))


def test_inferred_latents_decode_to_the_logits_of_the_path(vae, images):
    noise = np.random.default_rng(2).standard_normal((5, vae.latent_dim)).astype(np.float32)
    path = vae.decoder.infer(vae.context(images), noise)
    np.testing.assert_allclose(path.latents, path.loc + path.scale * noise, rtol=1e-6)
    np.testing.assert_allclose(vae.decoder(path.latents), path.parameters, rtol=1e-4, atol=1e-5)


def test_a_group_depends_on_those_above_it_and_on_no_other(vae, images):
    zeros = np.zeros((5, vae.latent_dim), np.float32)
    ends = np.cumsum([0, 3, 12, 6, 20])
    loc = vae.decoder.infer(vae.context(images), zeros).loc.numpy()
    for group in range(4):
        noise = zeros.copy()
        noise[:, ends[group] : ends[group + 1]] = 1.0
        moved = vae.decoder.infer(vae.context(images), noise).loc.numpy()
        np.testing.assert_array_equal(moved[:, : ends[group + 1]], loc[:, : ends[group + 1]])
        if group < 3:
            assert np.abs(moved - loc)[:, ends[group + 1] :].max() > 1e-3


def test_a_fresh_posterior_is_close_to_the_prior(images):
    loc, scale = small().encode(images)
    assert np.abs(loc).max() < 1.0
    np.testing.assert_allclose(scale, 1.0, atol=0.5)


def test_every_weight_has_a_gradient(images):
    model = small(objective=IWAE(3, num_resampled=1))
    size = model.objective.noise_size(model.latent_dim)
    noise = np.random.default_rng(3).standard_normal((5, size)).astype(np.float32)
    with tf.GradientTape() as tape:
        bound, _ = model.bound(tf.constant(images), noise, training=True)
    for weight, gradient in zip(
        model.trainable_variables, tape.gradient(bound, model.trainable_variables), strict=True
    ):
        assert gradient is not None, weight.path
        assert np.isfinite(gradient).all(), weight.path


def test_no_two_kernels_are_drawn_alike():
    model = small()
    kernels = [
        weight.numpy().ravel()
        for weight in model.trainable_variables
        if weight.path.endswith("kernel")
    ]
    firsts = [round(float(kernel[0] / np.abs(kernel).max()), 6) for kernel in kernels]
    assert len(set(firsts)) == len(firsts)


def test_saved_networks_answer_alike(vae, images, tmp_path):
    vae.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(again.reconstruct(images), vae.reconstruct(images))
    np.testing.assert_array_equal(again.sample(3), vae.sample(3))


def test_the_rates_of_the_groups_add_up(vae, images):
    units = evaluation.active_units(vae, images)
    assert [group.shape for group in units.groups] == vae.decoder.latent_groups
    rate = evaluation.evaluate_elbo(vae, images, 1).rate.mean
    assert sum(group.rate for group in units.groups) == pytest.approx(rate, rel=1e-4)
    assert sum(group.active for group in units.groups) == units.count


def test_another_size_and_colour():
    arguments = {"top_dim": 2, "groups": ((), (1,), (1,)), "widths": (4, 4, 4)}
    shape = (11, 16, 3)
    model = VAE(TopDownEncoder(**arguments), TopDownDecoder(shape, **arguments))
    assert model.decoder.latent_groups == [(2,), (2, 2, 1), (3, 4, 1)]
    assert model.sample(2).shape == (2, *shape)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TopDownEncoder(groups=((1,),)), "groups must hold a list for each stage"),
        (lambda: TopDownEncoder(top_dim=0), "top_dim must be a whole number >= 1"),
        (lambda: small(prior=AutoregressiveFlow()), r"needs the prior N\(0, I\)"),
        (lambda: small(scale_parameter="raw"), "computes the posterior's scale itself"),
        (
            lambda: VAE(TopDownEncoder(**SMALL | {"top_dim": 4}), TopDownDecoder(SHAPE, **SMALL)),
            "infer its latents from the outputs of the encoder",
        ),
        (
            lambda: VAE(
                TopDownEncoder(**SMALL | {"groups": ((), (2,))}), TopDownDecoder(SHAPE, **SMALL)
            ),
            "infer its latents from the outputs of the encoder",
        ),
    ],
    ids=["stages", "top", "flow", "scale", "sizes", "groups"],
)
def test_parts_that_do_not_fit_are_refused(make, message):
    with pytest.raises(checks.InputError, match=message):
        make()
