"""The weights of the best epoch: kept, taken when the run ended far below them, and only then."""

import json

import keras
import numpy as np
import pytest

from tests.conftest import small_vae
from tests.training.conftest import config
from vae_keras import ELBO, IWAE, TopDownDecoder, TopDownEncoder, training
from vae_keras.training import artifacts, best, remarks
from vae_keras.utils import keras_file


def trained(callback, losses, name="val_loss"):
    """One `fit` as the callback sees it, with weights that are the number of the epoch."""
    model = small_vae()
    callback.set_model(model)
    callback.on_train_begin()
    for epoch, loss in enumerate(losses):
        model.set_weights([np.full_like(weight, epoch + 1) for weight in model.get_weights()])
        callback.on_epoch_end(epoch, {name: loss})


@pytest.mark.parametrize("name", ["val_loss", "loss"])
def test_the_weights_of_the_lowest_loss_are_kept(tmp_path, name):
    path = tmp_path / "best.npz"
    trained(best.BestWeights(path), [5.0, 3.0, np.nan, 4.0], name)
    epoch, loss, weights = best.load(path)
    assert (epoch, loss) == (2, 3.0)
    assert all((weight == 2).all() for weight in weights)


def test_a_run_that_goes_on_keeps_the_better_weights_of_before(tmp_path):
    path = tmp_path / "best.npz"
    trained(best.BestWeights(path), [3.0])
    trained(best.BestWeights(path), [4.0, 3.5])
    assert best.load(path)[:2] == (1, 3.0)
    trained(best.BestWeights(path), [2.0])
    assert best.load(path)[:2] == (1, 2.0)


@pytest.mark.parametrize("damage", ["cut", "a flipped bit", "no archive"])
def test_damaged_weights_are_skipped_with_a_warning(tmp_path, digits, damage):
    path = tmp_path / "best.npz"
    trained(best.BestWeights(path), [3.0])
    content = bytearray(path.read_bytes())
    if damage == "a flipped bit":
        content[len(content) // 2] ^= 1
    path.write_bytes({"cut": content[:-200], "no archive": b"x"}.get(damage, content))
    vae = small_vae()
    weights = vae.get_weights()
    with pytest.warns(UserWarning, match=r"best.npz is damaged .*; it is skipped"):
        assert best.choose(vae, digits, path, last_epoch=2) == best.Choice(2, 2)
    for weight, before in zip(vae.get_weights(), weights, strict=True):
        np.testing.assert_array_equal(weight, before)
    with pytest.warns(UserWarning, match=r"best.npz is damaged"):
        trained(best.BestWeights(path), [4.0])
    assert best.load(path)[:2] == (1, 4.0)


@pytest.mark.parametrize(
    "objective",
    [
        pytest.param(ELBO(), id="elbo"),
        pytest.param(IWAE(3, num_resampled=1), id="iwae", marks=pytest.mark.slow),
    ],
)
def test_the_best_weights_replace_far_worse_ones(tmp_path, digits, objective):
    path, vae = tmp_path / "best.npz", small_vae(objective=objective)
    vae.fit(digits, batch_size=20, epochs=3, verbose=0, callbacks=[best.BestWeights(path)])
    good = best.load(path)[2]
    vae.set_weights([weight + 3.0 for weight in good])
    choice = best.choose(vae, digits, path, last_epoch=9)
    assert choice.takes_best
    assert choice.lost > 3 * choice.standard_error > 0
    for weight, kept in zip(vae.get_weights(), good, strict=True):
        np.testing.assert_array_equal(weight, kept)
    (sentence,) = remarks.of_choice(choice, "validation")
    assert f"epoch {choice.best_epoch} of 9 on the validation images" in sentence


def test_one_held_out_image_decides_nothing(tmp_path, digits):
    path, vae = tmp_path / "best.npz", small_vae()
    vae.fit(digits, batch_size=20, verbose=0, callbacks=[best.BestWeights(path)])
    choice = best.choose(vae, digits[:1], path, last_epoch=9)
    assert not choice.takes_best
    assert choice.standard_error is None  # JSON has no NaN


def test_a_run_that_ends_near_its_best_keeps_its_last_weights(tmp_path, digits):
    path, vae = tmp_path / "best.npz", small_vae()
    vae.fit(digits, batch_size=20, epochs=1, verbose=0, callbacks=[best.BestWeights(path)])
    worse = [weight + 3.0 for weight in best.load(path)[2]]
    with open(path, "wb") as file:  # the last weights are the better ones of the two
        named = {f"weight_{i:03d}": weight for i, weight in enumerate(worse)}
        np.savez(file, epoch=1, loss=0.0, **named)
    last = vae.get_weights()
    choice = best.choose(vae, digits, path, last_epoch=2)
    assert choice.lost < 0 < choice.standard_error
    assert not choice.takes_best
    assert remarks.of_choice(choice, "validation") == []
    for weight, expected in zip(vae.get_weights(), last, strict=True):
        np.testing.assert_array_equal(weight, expected)


def test_three_standard_errors_decide():
    assert not best.Choice(1, 2, lost=2.9, standard_error=1.0).takes_best
    assert best.Choice(1, 2, lost=3.1, standard_error=1.0).takes_best


def test_a_run_without_the_file_keeps_its_last_weights(tmp_path, digits):
    choice = best.choose(small_vae(), digits, tmp_path / "best.npz", last_epoch=2)
    assert (choice.best_epoch, choice.takes_best) == (2, False)


def test_the_last_epoch_needs_no_measurement(tmp_path):
    path = tmp_path / "best.npz"
    trained(best.BestWeights(path), [3.0, 2.0])
    assert best.choose(small_vae(), None, path, last_epoch=2) == best.Choice(2, 2)


def test_a_run_that_fell_says_so_and_exports_its_best_weights(
    tmp_path, capsys, monkeypatch, fast_training
):
    """The weights jump at the end of the last epoch, as after a step that is far too long."""

    class Fall(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            if epoch == 1:
                self.model.set_weights([w + 0.5 for w in self.model.get_weights()])
                logs["val_loss"] = 1e6

    before = best.BestWeights.on_epoch_end

    def fallen(self, epoch, logs=None):
        fall = Fall()
        fall.set_model(self.model)
        fall.on_epoch_end(epoch, logs)
        before(self, epoch, logs)

    monkeypatch.setattr(best.BestWeights, "on_epoch_end", fallen)
    folder = training.train(config(tmp_path / "run"))
    last = capsys.readouterr().out.splitlines()[-1]
    assert "below its best epoch, which is epoch 1 of 2 on the validation images" in last
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "The weights of epoch 1 were exported and measured." in page
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["best_epoch"]["takes_best"] is True
    kept = best.load(folder / "checkpoints" / best.FILE)[2]
    for weight, expected in zip(
        keras_file.load(folder / "model.keras").get_weights(), kept, strict=True
    ):
        np.testing.assert_array_equal(weight, expected)


@pytest.mark.slow
def test_a_group_of_latents_that_collapsed_gets_a_sentence_and_idle_places_none(digits):
    size = {"top_dim": 3, "groups": ((1,), (2,)), "widths": (4, 6)}
    vae = small_vae(encoder=TopDownEncoder(**size), decoder=TopDownDecoder((6, 6, 1), **size))
    x = (digits > 127).astype(np.float32)
    metrics = artifacts.measure(vae, x, "none", 0, "test")
    entries = {entry["name"]: entry for entry in metrics}
    for name in entries:  # as of a trained model, with places that stay idle
        if name.startswith("rate"):
            entries[name]["value"] = 1.0
    assert entries["active_units"]["value"] < vae.latent_dim
    assert not [text for text in remarks.of_model(vae, x, metrics) if "collapsed" in text]
    entries["rate_of_group_3"]["value"] = 0.001
    (text,) = (text for text in remarks.of_model(vae, x, metrics) if "collapsed" in text)
    assert text.startswith("Group 3 of 3 groups of latents collapsed: its KL is 0.")


def test_collapsed_latents_a_kl_of_0_and_saturated_logits_get_a_sentence(digits):
    vae = small_vae()
    x = (digits > 127).astype(np.float32)

    def found():
        return " ".join(remarks.of_model(vae, x, artifacts.measure(vae, x, "none", 0, "test")))

    assert "saturated" not in found()
    vae.set_weights([weight * 0 for weight in vae.get_weights()])
    # A raw scale of 0.5413 is a scale of 1, so the posterior is the prior.
    head = vae.encoder.weights[-1]
    head.assign(np.concatenate([np.zeros(vae.latent_dim), np.full(vae.latent_dim, 0.5412)]))
    assert "The KL is 0" in found()
    vae.decoder.weights[-1].assign(np.full(vae.decoder.weights[-1].shape, 60.0))
    assert "100% of the decoder's outputs are saturated" in found()
    kernel = vae.encoder.weights[-2]
    kernel.assign(np.zeros(kernel.shape))
    head.assign(np.concatenate([np.ones(vae.latent_dim), np.zeros(vae.latent_dim)]))
    size = vae.latent_dim
    assert f"{size} of {size} latent dimensions collapsed" in found()
    x = x[:1]  # whose posterior mean cannot vary
    assert "collapsed" not in found()
