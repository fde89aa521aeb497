"""The model's contract: inputs, logs, randomness, saving, methods."""

import random
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.conftest import needs_muon, small_vae
from vae_keras import ELBO, VAE, Bernoulli, ContinuousBernoulli, MLPDecoder, MLPEncoder
from vae_keras.noise import Stream
from vae_keras.trainer.inputs import STACK_STEPS, Arrays
from vae_keras.utils import checks

ROOT = Path(__file__).resolve().parent.parent

LOGS = {"elbo", "log_likelihood", "kl", "loss"}


def fitted(x, seed=0, **arguments):
    vae = small_vae(seed)
    settings = {"batch_size": 7, "epochs": 2, "verbose": 0} | arguments
    return vae, vae.fit(x, **settings).history


# -------------------------------------------------------------------------------- fit's inputs


def test_bytes_floats_and_missing_channels_train_alike(digits):
    floats = (digits[..., 0] / 255.0).astype(np.float32)
    (_, of_bytes), (_, of_floats) = fitted(digits), fitted(floats)
    np.testing.assert_allclose(of_floats["elbo"], of_bytes["elbo"], rtol=1e-6)


@pytest.mark.slow
def test_pairs_are_accepted_and_labels_ignored(digits):
    labels = np.arange(len(digits))
    plain = fitted(digits)[1]
    assert fitted((digits, labels))[1] == plain
    assert fitted(digits, y=labels)[1] == plain


def test_xla_eager_and_graph_agree(digits):
    results = []
    for options in ({"jit_compile": True}, {"jit_compile": False}, {"run_eagerly": True}):
        vae = small_vae()
        vae.compile(**options)
        results.append(vae.fit(digits, batch_size=7, epochs=2, verbose=0).history["elbo"])
    np.testing.assert_allclose(results[1:], [results[0]] * 2, rtol=1e-5)


# --------------------------------------------------------------------------------------- logs


def test_evaluate_twice_gives_the_same_figure(digits):
    vae = small_vae()
    assert vae.evaluate(digits, verbose=0) == vae.evaluate(digits, verbose=0)


def test_callbacks_print_below_the_progress_bar(digits, capsys):
    class Line(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            print(f"Epoch: {epoch}")

    small_vae().fit(digits, batch_size=30, epochs=2, callbacks=[Line()], verbose=1)
    lines = capsys.readouterr().out.split("\n")
    assert [line for line in lines if line.startswith("Epoch: ")] == ["Epoch: 0", "Epoch: 1"]


@pytest.mark.slow
def test_training_improves_the_elbo(mnist):
    vae = VAE(MLPEncoder(hidden=(64,), latent_dim=8), MLPDecoder(hidden=(64,)))
    vae.compile()
    history = vae.fit(mnist.x_train[:4000], batch_size=50, epochs=3, verbose=0).history
    assert history["elbo"][0] < history["elbo"][1] < history["elbo"][2]
    assert history["elbo"][2] > -220


# --------------------------------------------------------------------------------- randomness


def test_global_random_state_is_neither_read_nor_written(digits):
    """Whatever it is, a fit is the same bit for bit. Only the model's seed makes another one."""

    def run():
        vae, history = fitted(digits, validation_split=0.2)
        return history, vae.sample(3), vae.evaluate(digits, verbose=0), vae.get_weights()

    random.seed(1)
    np.random.seed(1)
    tf.random.set_seed(1)
    before = random.getstate(), np.random.get_state()[1].copy()
    first = run()
    after = random.getstate(), np.random.get_state()[1].copy()
    assert before[0] == after[0]
    np.testing.assert_array_equal(before[1], after[1])
    random.seed(2)
    np.random.seed(2)
    tf.random.set_seed(2)
    second = run()
    assert first[0] == second[0]
    np.testing.assert_array_equal(first[1], second[1])
    assert first[2] == second[2]
    for a, b in zip(first[3], second[3], strict=True):
        np.testing.assert_array_equal(a, b)
    assert fitted(digits, seed=1, validation_split=0.2)[1] != first[0]


def test_training_noise_changes_with_the_step_and_is_not_the_test_noise(vae):
    draws = [vae.draws(4, tf.constant(step), 0, training=True) for step in (0, 1)]
    assert not np.allclose(draws[0].noise, draws[1].noise)
    assert (draws[0].bits.numpy() != draws[1].bits.numpy()).any()
    assert not np.allclose(vae.draws(4, 0, 0, training=False).noise, draws[0].noise)
    assert len(set(Stream)) == len(Stream)


# ---------------------------------------------------------------------------- save and reload


@pytest.mark.slow
def test_saved_model_reloads_without_custom_objects(digits, tmp_path):
    vae, _ = fitted(digits)
    vae.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    for size in (1, 7, 60):
        np.testing.assert_allclose(
            again.predict(digits[:size], verbose=0),
            vae.predict(digits[:size], verbose=0),
            atol=1e-6,
        )
    for a, b in zip(again.get_weights(), vae.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)
    np.testing.assert_allclose(
        again.evaluate(digits, verbose=0), vae.evaluate(digits, verbose=0), rtol=1e-6
    )


@pytest.mark.slow
def test_a_reloaded_model_trains_on_as_if_never_saved(digits, tmp_path):
    vae, _ = fitted(digits)
    vae.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    for model in (vae, again):
        model.fit(digits, batch_size=7, epochs=3, initial_epoch=2, verbose=0)
    for a, b in zip(again.get_weights(), vae.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_config_round_trips(vae):
    other = small_vae(seed=3, binarization="threshold")
    again = VAE.from_config(other.get_config())
    assert again.get_config() == other.get_config()
    assert (again.seed, again.binarization, again.latent_dim) == (3, "threshold", 3)
    assert again.image_shape == (6, 6, 1)
    grey = VAE.from_config(small_vae(likelihood=ContinuousBernoulli()).get_config())
    assert (type(grey.likelihood), grey.binarization) == (ContinuousBernoulli, "none")


def test_a_configuration_from_before_there_were_likelihoods_is_a_bernoullis(vae):
    config = vae.get_config()
    del config["likelihood"]
    assert VAE.from_config(config).get_config() == vae.get_config()


def test_pictures_of_grey_pixels_are_their_means(digits):
    vae = small_vae(likelihood=ContinuousBernoulli())
    logits = vae.decoder(vae.prior_latents(5)).numpy().astype(np.float64)
    np.testing.assert_allclose(vae.sample(5), 1 / (1 - np.exp(-logits)) - 1 / logits, rtol=1e-5)
    history = vae.fit(digits, epochs=5, verbose=0).history
    assert history["elbo"][-1] > history["elbo"][0]


# ------------------------------------------------------------------------ the weight of the KL


WEIGHTS = [1 / 3, 4 / 3, 2.0]  # means over the three steps of each epoch
MODES = {
    "stack, XLA": {"jit_compile": True},
    "stack": {"jit_compile": False},
    "one by one": {"jit_compile": False, "steps_per_execution": 1},
    "eager": {"run_eagerly": True},
}


def weighted_vae(**compiled) -> VAE:
    vae = small_vae(objective=ELBO(beta=2.0, warmup_steps=6))
    vae.compile(keras.optimizers.Adam(0.01), **(compiled or MODES["stack"]))
    return vae


def weights_history(vae: VAE, digits, epochs: int = 3, **arguments) -> dict[str, list[float]]:
    return vae.fit(digits, batch_size=20, epochs=epochs, verbose=0, **arguments).history


@pytest.mark.parametrize(
    "mode",
    [
        "stack",
        *(pytest.param(m, marks=pytest.mark.slow) for m in ("one by one", "stack, XLA", "eager")),
    ],
)
def test_the_weight_is_logged_and_the_loss_has_it(digits, mode):
    vae = weighted_vae(**MODES[mode])
    history = weights_history(vae, digits, validation_data=digits[:30])
    assert set(history) == {
        prefix + metric.name for prefix in ("", "val_") for metric in vae.metrics
    }
    np.testing.assert_allclose(history["kl_weight"], WEIGHTS, rtol=1e-6)
    for prefix, epochs in (("", [2]), ("val_", [0, 1, 2])):  # where the weight is 2 throughout
        elbo, log_likelihood, kl, loss, _ = (
            np.array(history[prefix + metric.name]) for metric in vae.metrics
        )
        np.testing.assert_allclose(elbo, log_likelihood - kl, rtol=1e-6)
        np.testing.assert_allclose((2 * kl - log_likelihood)[epochs], loss[epochs], rtol=1e-6)
    assert history["val_kl_weight"] == [2.0] * 3


def test_a_dataset_is_trained_under_the_same_weights(digits):
    batches = tf.data.Dataset.from_tensor_slices(digits).batch(20)
    history = weighted_vae().fit(batches, epochs=3, verbose=0).history
    np.testing.assert_allclose(history["kl_weight"], WEIGHTS, rtol=1e-6)


def test_a_warm_up_goes_on_where_it_was_saved(digits, tmp_path):
    whole, cut = weighted_vae(), weighted_vae()
    weights_history(whole, digits)
    weights_history(cut, digits, epochs=1)
    cut.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    history = weights_history(again, digits, initial_epoch=1)
    np.testing.assert_allclose(history["kl_weight"], WEIGHTS[1:], rtol=1e-6)
    for ours, theirs in zip(again.get_weights(), whole.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_the_plain_elbo_logs_no_weight(vae, digits):
    history = vae.fit(digits, verbose=0)
    assert isinstance(history, keras.callbacks.History)
    assert set(history.history) == LOGS
    assert "kl_weight" not in vae.evaluate(digits, verbose=0, return_dict=True)


@pytest.mark.slow
def test_a_heavier_kl_is_a_smaller_one(digits):
    rates = []
    for beta in (0.1, 10.0):
        vae = small_vae(objective=ELBO(beta))
        vae.compile(keras.optimizers.Adam(0.01), jit_compile=False)
        rates.append(vae.fit(digits, batch_size=20, epochs=40, verbose=0).history["kl"][-1])
    assert rates[0] > 2 * rates[1]


# -------------------------------------------------------------------------------------- memory


@pytest.mark.slow
@pytest.mark.parametrize("jit_compile", [True, False], ids=["xla", "plain"])
def test_fifty_importance_samples_at_batch_200_fit_into_a_gigabyte(jit_compile):
    """What two epochs add to the peak of a process that has built the model: 0.36 to 0.5 GB."""
    program = f"""
import resource
import numpy as np
from vae_keras import IWAE, VAE
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6  # from kB
x = np.random.default_rng(0).integers(0, 256, (2000, 28, 28, 1), dtype=np.uint8)
vae = VAE(objective=IWAE(50))
vae.compile(jit_compile={jit_compile})
before = peak()
vae.fit(x, batch_size=200, epochs=2, verbose=0)
print(peak() - before)
"""
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    assert float(done.stdout.splitlines()[-1]) < 1.0


# ------------------------------------------------------------------------------------- methods


def test_methods_have_the_documented_shapes(vae, digits):
    loc, scale = vae.encode(digits)
    assert loc.shape == scale.shape == (60, 3)
    assert (scale > 0).all()
    assert vae.decode(loc).shape == vae.reconstruct(digits).shape == (60, 6, 6, 1)
    assert vae.sample(5).shape == (5, 6, 6, 1)
    assert vae.interpolate(digits[:2], digits[2:4], steps=5).shape == (2, 5, 6, 6, 1)
    assert vae.elbo(digits).elbo.shape == (60,)


def test_call_predict_and_reconstruct_are_one_thing(vae, digits):
    expected = vae.reconstruct(digits)
    assert ((expected > 0) & (expected < 1)).all()
    np.testing.assert_allclose(vae(digits), expected, atol=1e-6)
    np.testing.assert_allclose(vae.predict(digits, verbose=0), expected, atol=1e-6)
    np.testing.assert_allclose(vae.decode(vae.encode(digits).loc), expected, atol=1e-6)


def test_interpolation_starts_and_ends_at_the_reconstructions(vae, digits):
    line = vae.interpolate(digits[:4], digits[4:8], steps=11)
    np.testing.assert_allclose(line[:, 0], vae.reconstruct(digits[:4]), atol=1e-6)
    np.testing.assert_allclose(line[:, -1], vae.reconstruct(digits[4:8]), atol=1e-6)


def test_samples_are_rows_of_one_sequence(vae):
    np.testing.assert_allclose(vae.sample(3, seed=4), vae.sample(9, seed=4)[:3], atol=1e-6)
    assert not np.allclose(vae.sample(3, seed=4), vae.sample(3, seed=5))


def test_elbo_is_its_terms_and_reproducible(vae, digits):
    terms = vae.elbo(digits, seed=2)
    np.testing.assert_allclose(terms.elbo, terms.log_likelihood - terms.kl, rtol=1e-6)
    np.testing.assert_array_equal(terms.elbo, vae.elbo(digits, seed=2).elbo)
    assert (terms.elbo != vae.elbo(digits, seed=3).elbo).any()


def test_any_keras_encoder_and_decoder_fit_in(digits):
    layers = keras.layers
    encoder = keras.Sequential(
        [layers.Input((6, 6, 1)), layers.Conv2D(4, 3, strides=2), layers.Flatten(), layers.Dense(4)]
    )
    latents = layers.Input((2,))
    logits = layers.Reshape((6, 6, 1))(layers.Dense(36)(latents))
    vae = VAE(encoder, keras.Model(latents, logits))
    assert vae.sample(2).shape == (2, 6, 6, 1)  # built from what the parts declare
    vae.compile()
    vae.fit(digits, batch_size=10, epochs=1, verbose=0)
    assert vae.latent_dim == 2


@pytest.mark.slow
def test_parts_know_when_they_train(digits):
    layers = keras.layers
    encoder = keras.Sequential(
        [layers.Input((6, 6, 1)), layers.Flatten(), layers.BatchNormalization(), layers.Dense(4)]
    )
    vae = VAE(encoder, MLPDecoder((6, 6, 1), hidden=(4,)))
    vae.compile(jit_compile=False)
    vae.fit(digits, batch_size=10, verbose=0)
    moving_mean = encoder.layers[1].moving_mean.numpy()
    assert np.abs(moving_mean).max() > 0.01
    vae.evaluate(digits, verbose=0)
    np.testing.assert_array_equal(encoder.layers[1].moving_mean, moving_mean)


def test_parts_that_do_not_fit_are_refused():
    odd = keras.Sequential([keras.layers.Flatten(), keras.layers.Dense(5)])
    with pytest.raises(checks.InputError, match=r"must return \[N, 2 \* latent_dim\]"):
        VAE(odd, MLPDecoder((6, 6, 1))).build((None, 6, 6, 1))
    with pytest.raises(checks.InputError, match="logits of the images' shape"):
        VAE(MLPEncoder(3), MLPDecoder((6, 6, 1))).build((None, 5, 6, 1))


# ------------------------------------------------------------------------------------ refusals


@pytest.mark.parametrize(
    ("shape", "batch", "steps"),
    [((28, 28, 1), 200, 25), ((7, 5, 3), 200, 25), ((56, 56, 1), 200, 5), ((256, 256, 1), 200, 1)],
)
def test_large_images_make_smaller_stacks(shape, batch, steps):
    examples = np.broadcast_to(np.uint8(0), (1000 * batch, *shape))
    assert Arrays(examples, None, None, batch).stack_size(STACK_STEPS) == steps


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda v, x: v.fit(x, epochs=0), "epochs must be a whole number >= 1"),
        (lambda v, x: v.fit(x, batch_size=0), "batch_size must be a whole number >= 1"),
        (lambda v, x: v.fit(x[..., :0]), "must hold at least one image"),
        (lambda v, x: v.fit(x / 100.0), r"float pixels must lie in \[0, 1\]"),
        (lambda v, x: v.fit(np.full((2, 6, 6), np.nan)), "must be finite"),
        (lambda v, x: v.fit(x.astype(int) + 1), "integer pixels must lie in 0..255"),
        (lambda v, x: v.fit(x[:, 0, 0]), "must have shape"),
        (lambda v, x: v.fit(np.repeat(x, 2, -1)), "must have 1 or 3 channels"),
        (lambda v, x: v.fit(x[:, :5]), r"must hold images of the model's shape \(6, 6, 1\)"),
        (lambda v, x: v.fit(x.astype(object)), "must hold numbers"),
        (lambda v, x: v.fit(x, validation_split=1.5), "validation_split must lie between"),
        (lambda v, x: v.fit(x, sample_weight=np.ones(3)), "one number for each image"),
        (lambda v, x: v.fit(x, sample_weight=-np.ones(60)), "finite and >= 0"),
        (lambda v, x: v.predict(x[:, :5]), r"images of the model's shape \(6, 6, 1\)"),
        (lambda v, x: v.decode(np.zeros((2, 4))), r"shape \[N, 3\]"),
        (lambda v, x: v.decode(np.full((2, 3), np.inf)), "latents must be finite"),
        (lambda v, x: v.sample(0), "n must be a whole number >= 1"),
        (lambda v, x: v.sample(2, seed=-1), "seed must be a whole number"),
        (lambda v, x: v.interpolate(x[:2], x[:3]), "as many images at the end"),
        (lambda v, x: v.interpolate(x[:2], x[:2], steps=1), "steps must be a whole number >= 2"),
        (lambda v, x: VAE(binarization="maybe"), "binarization must be one of"),
        (lambda v, x: VAE(seed=1.5), "seed must be a whole number"),
        (
            lambda v, x: VAE(MLPEncoder(4), keras.layers.Dense(9)),
            r"logits must have shape \[N, H, W, C\]",
        ),
    ],
)
def test_bad_input_gets_one_clear_line(vae, digits, call, sentence):
    weights = [weight.copy() for weight in vae.get_weights()]
    with pytest.raises(checks.InputError, match=sentence) as error:
        call(vae, digits)
    assert "Received: " in str(error.value)
    assert "\n" not in str(error.value)
    for a, b in zip(vae.get_weights(), weights, strict=True):
        np.testing.assert_array_equal(a, b)


def test_bad_pixels_in_a_dataset_are_refused(vae):
    bad = tf.data.Dataset.from_tensors(np.full((2, 6, 6, 1), 2.0, np.float32))
    for method in (vae.fit, vae.evaluate, vae.predict):
        with pytest.raises(checks.InputError, match=r"must be finite and lie in \[0, 1\]"):
            method(bad, verbose=0)


def test_a_model_that_saw_no_images_says_so():
    encoder = keras.Sequential([keras.layers.Flatten(), keras.layers.Dense(4)])
    with pytest.raises(checks.InputError, match="needs to know the shape of the images"):
        VAE(encoder, MLPDecoder((6, 6, 1))).sample(1)


def test_a_decoder_whose_output_looks_like_probabilities_is_warned_of(digits):
    class Squashed(keras.layers.Layer):
        """A decoder whose sigmoid no attribute shows."""

        def __init__(self):
            super().__init__()
            self.dense = keras.layers.Dense(36)

        def call(self, latents):
            return keras.ops.reshape(keras.ops.sigmoid(self.dense(latents)), (-1, 6, 6, 1))

    vae = small_vae(decoder=Squashed())
    with pytest.warns(UserWarning, match="The decoder must return logits"):
        vae.fit(digits, batch_size=20, verbose=0)


def test_an_encoder_with_two_outputs_says_what_the_second_is(digits):
    def build(scale_parameter):
        images = keras.Input((6, 6, 1))
        h = keras.layers.Flatten()(images)
        encoder = keras.Model(images, [keras.layers.Dense(3)(h), keras.layers.Dense(3)(h)])
        return small_vae(encoder=encoder, scale_parameter=scale_parameter)

    with pytest.raises(checks.InputError, match="scale_parameter to say what the second is"):
        build(None)
    for name, scale in (
        ("log_variance", lambda second: np.exp(0.5 * second)),
        ("raw", lambda second: np.log1p(np.exp(second)) + 1e-4),
        ("scale", lambda second: second),
    ):
        vae = build(name)
        loc, second = (np.asarray(part) for part in vae.encoder(vae.pixels(digits)))
        posterior = vae.encode(digits)
        np.testing.assert_allclose(posterior.loc, loc, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(posterior.scale, scale(second), rtol=1e-5, atol=1e-6)
        assert VAE.from_config(vae.get_config()).scale_parameter == name


def test_a_part_is_fixed_once_the_model_is_built(vae):
    with pytest.raises(checks.InputError, match="The decoder of a model is fixed"):
        vae.decoder = MLPDecoder((6, 6, 1))


OLD_FILES = Path(__file__).parent / "old_files"


@needs_muon
@pytest.mark.parametrize("name", ["mlp_adam", "conv_muon"])
def test_old_files_load(name):
    """A file that version 0.1.0 wrote holds weights, configuration and optimizer."""
    model = keras.saving.load_model(OLD_FILES / f"{name}.keras")
    with np.load(OLD_FILES / f"{name}.npz") as expected:
        np.testing.assert_allclose(model.sample(3), expected["sample"], rtol=1e-5, atol=1e-6)


@needs_muon
@pytest.mark.parametrize("name", ["mlp_adam", pytest.param("conv_muon", marks=pytest.mark.slow)])
def test_old_files_train_on(name, digits):
    model = keras.saving.load_model(OLD_FILES / f"{name}.keras")
    model.fit(digits, batch_size=20, epochs=1, verbose=0)
    with np.load(OLD_FILES / f"{name}_next.npz") as expected:
        for weight, file in zip(model.get_weights(), expected.files, strict=True):
            np.testing.assert_allclose(weight, expected[file], rtol=1e-4, atol=1e-5)


def test_another_binarization_acts_at_once(digits):
    """What was traced under the old value is traced again."""
    vae, fresh = small_vae(binarization="threshold"), small_vae()
    old = vae.predict(digits, verbose=0), vae.reconstruct(digits)
    vae.binarization = "dynamic"
    for before, now in zip(
        old, (vae.predict(digits, verbose=0), vae.reconstruct(digits)), strict=True
    ):
        np.testing.assert_allclose(now, fresh.reconstruct(digits), atol=1e-5)
        assert np.abs(now - before).max() > 1e-3


def test_pixels_are_not_rounded_to_the_policy_before_they_become_binary():
    policy = keras.dtype_policies.DTypePolicy("mixed_bfloat16")
    vae = small_vae(binarization="threshold", dtype=policy)
    x = np.full((2, 6, 6, 1), 0.4995, np.float32)  # 0.5 in bfloat16
    np.testing.assert_array_equal(vae.predict(x, verbose=0), vae.predict(0 * x, verbose=0))


def test_parts_that_share_a_layer_are_not_saved(tmp_path):
    shared = keras.layers.Dense(8)
    image, latents = keras.Input((6, 6, 1)), keras.Input((8,))
    encoded = keras.layers.Dense(16)(shared(keras.layers.Dense(8)(keras.layers.Flatten()(image))))
    pixels = keras.layers.Reshape((6, 6, 1))(keras.layers.Dense(36)(shared(latents)))
    vae = small_vae(encoder=keras.Model(image, encoded), decoder=keras.Model(latents, pixels))
    with pytest.raises(checks.InputError, match=f"share {shared.name}"):
        vae.save(tmp_path / "model.keras")
    assert not list(tmp_path.iterdir())


def test_keras_exports_what_fit_trained(digits, tmp_path):
    vae = small_vae()
    vae.fit(digits, verbose=0)
    vae.export(tmp_path / "served", verbose=False)
    loaded = tf.saved_model.load(tmp_path / "served")
    served = loaded.serve(digits[:3].astype(np.float32) / 255)
    np.testing.assert_allclose(served, vae.reconstruct(digits[:3]), atol=1e-6)


def test_a_dataset_without_end_is_not_read(digits):
    endless = tf.data.Dataset.from_tensor_slices(digits).batch(4).repeat()
    with pytest.raises(checks.InputError, match="a dataset with an end"):
        small_vae().encode(endless)


def test_a_step_on_the_instance_is_called_for_each_batch(digits):
    vae, calls = small_vae(), []
    take = vae.train_step
    vae.train_step = lambda batch: calls.append(1) or take(batch)
    vae.run_eagerly = True
    vae.fit(digits, batch_size=20, verbose=0)
    assert len(calls) == 3


def test_a_warm_up_may_begin_later(digits):
    vae = small_vae()
    vae.objective.warmup_steps = 4
    assert vae.fit(digits, batch_size=20, verbose=0).history["kl_weight"] == [0.25]


def test_a_likelihood_without_draws_is_refused_where_they_are_asked_for():
    class Means(Bernoulli):
        uniforms_per_pixel = property()  # raises AttributeError

    with pytest.raises(checks.InputError, match=r"Received: Means\. Pass pixels='mean'"):
        small_vae(likelihood=Means()).sample(2, pixels="draw")
