"""`train` from a recipe to a run folder: a run that is finished, interrupted or on own images."""

import dataclasses
import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.conftest import needs_muon
from tests.training import killer
from tests.training.conftest import FLAGS, config, patch_training
from vae_keras import ContinuousBernoulli
from vae_keras.cli.main import main
from vae_keras.data import datasets, own_images
from vae_keras.training import TrainConfig, callbacks, checkpoints, run
from vae_keras.training.build import build_model
from vae_keras.training.signals import Interrupted, Signals
from vae_keras.utils import checks, keras_file
from vae_keras.zoo import presets

ROOT = Path(__file__).resolve().parent.parent.parent
CONTENT = {
    "config.json",
    "elbo.csv",
    "figures",
    "model.keras",
    "serving",
    "metrics.json",
    "report.html",
    "checkpoints",
}
FIGURES = {
    "elbo.png",
    "interpolations.png",
    "neighbours.png",
    "traverse.png",
    "latent_map.png",
    "prior_epoch_2.png",
    "reconstructions.png",
    "uniform_epoch_2.png",
}


def same_training(folder, other):
    """Compares what does not depend on the export."""
    assert killer.curve(folder) == killer.curve(other)
    assert killer.results(folder) == killer.results(other)
    weights = [killer.weights(path / "model.keras") for path in (folder, other)]
    for name in weights[1]:
        np.testing.assert_array_equal(weights[0][name], weights[1][name])


def names(folder):
    return {path.name for path in folder.iterdir()}


# --------------------------------------------------------------------------------- a finished run


def test_a_run_folder_holds_everything(finished):
    assert names(finished) == CONTENT
    assert names(finished / "figures") == FIGURES
    assert (finished / "serving" / "1" / "saved_model.pb").exists()


def test_the_curve_has_every_column(finished):
    rows = callbacks.read_elbo_csv(finished / "elbo.csv")
    assert [row["epoch"] for row in rows] == ["0", "1"]
    for row in rows:
        assert all(row.values())
        elbo, log_likelihood, kl = (float(row[name]) for name in ("elbo", "log_likelihood", "kl"))
        assert elbo == pytest.approx(log_likelihood - kl, rel=1e-6)


def test_the_saved_weights_are_the_trained_ones_without_an_optimizer(finished, small_mnist):
    model = keras.saving.load_model(finished / "model.keras")
    assert not model.compiled
    again = build_model(config(finished).recipe(), (7, 7, 1), 1200)
    checkpoints.restore(finished / "checkpoints", again)
    np.testing.assert_array_equal(
        model.reconstruct(small_mnist.x_test), again.reconstruct(small_mnist.x_test)
    )


def test_a_second_run_is_bit_identical_and_does_not_depend_on_the_test_set(
    finished, tmp_path, monkeypatch, fast_training
):
    noise = np.random.default_rng(0).integers(0, 256, (40, 7, 7, 1), dtype=np.uint8)
    patch_training(monkeypatch, fast_training._replace(x_test=noise, y_test=np.arange(40) % 3))
    run.train(config(tmp_path / "again"))
    same_training(tmp_path / "again", finished)
    page = (tmp_path / "again" / "report.html").read_text()
    assert "validation images" in page
    assert "test images" not in page


@pytest.mark.slow
def test_mirrored_trains_as_one_device_does(finished, tmp_path, small_training):
    run.train(config(tmp_path / "run", strategy="mirrored"))
    curves = [killer.curve(folder) for folder in (finished, tmp_path / "run")]
    for expected, found in zip(*curves, strict=True):
        for name in expected:
            assert float(found[name]) == pytest.approx(float(expected[name]), rel=1e-5), name
    models = [keras.saving.load_model(f / "model.keras") for f in (finished, tmp_path / "run")]
    for one, other in zip(*(model.get_weights() for model in models), strict=True):
        np.testing.assert_allclose(other, one, rtol=1e-3, atol=1e-4)


def test_a_finished_run_is_left_alone(finished, capsys, small_training):
    before = (finished / "report.html").stat().st_mtime_ns
    run.train(config(finished))
    assert "is complete" in capsys.readouterr().out
    assert (finished / "report.html").stat().st_mtime_ns == before


def test_another_description_does_not_make_another_run(copied, capsys, small_training):
    path = copied / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"description": "Another sentence"}))
    run.train(config(copied))
    assert "is complete" in capsys.readouterr().out


# ----------------------------------------------------------------------------- the measured split


def elbos(folder):
    metrics = json.loads((folder / "metrics.json").read_text())["metrics"]
    return [(m["split"], m["num_images"]) for m in metrics if m["name"] == "elbo"]


def test_the_test_set_is_measured_on_request(copied, capsys, fast_training):
    """A finished run is not trained again for it."""
    weights = (copied / "checkpoints").stat().st_mtime_ns
    run.train(config(copied, test=True))
    assert elbos(copied) == [("validation", 200), ("test", 300)]
    assert (copied / "checkpoints").stat().st_mtime_ns == weights
    # This call draws no figure of images, and that of the validation images does not stay.
    left = {name for name in names(copied / "figures") if "epoch" not in name}
    assert left == {"elbo.png"}
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith("Validation ELBO: -")
    assert " nats per image. Test ELBO: -" in last
    assert last.endswith(f" nats per image. The report: {copied / 'report.html'}")
    assert "The figures that start from images show test images." in (
        copied / "report.html"
    ).read_text(encoding="utf-8")
    for test in (True, False):
        run.train(config(copied, test=test))
        assert "is complete" in capsys.readouterr().out


def test_a_recipe_that_cannot_be_built_claims_no_folder(tmp_path, monkeypatch, fast_training):
    def refused(*_):
        raise checks.InputError("a top-down decoder takes no labels")

    monkeypatch.setattr(run, "build_model", refused)
    with pytest.raises(checks.InputError, match="takes no labels"):
        run.train(config(tmp_path / "run"))
    assert not (tmp_path / "run" / "config.json").exists()


@pytest.mark.slow
def test_without_validation_images_the_training_images_are_measured(
    tmp_path, capsys, fast_training
):
    run.train(config(tmp_path / "run", validation=0, epochs=1))
    (row,) = callbacks.read_elbo_csv(tmp_path / "run" / "elbo.csv")
    assert row["val_elbo"] == row["val_kl"] == row["val_log_likelihood"] == ""
    assert row["elbo"]
    assert elbos(tmp_path / "run") == [("training", 1200)]
    assert capsys.readouterr().out.splitlines()[-1].startswith("Training ELBO: -")


# -------------------------------------------------------------------------------- interrupted runs


def test_a_stopped_run_goes_on_to_the_same_end(finished, tmp_path, monkeypatch, fast_training):
    folder = tmp_path / "run"
    check, places = Signals.check, []

    def stop_at_the_figures(self, where):
        places.append(where)
        if where == "before the figures" and places.count(where) == 1:
            self.received = signal.SIGTERM
        check(self, where)

    monkeypatch.setattr(Signals, "check", stop_at_the_figures)
    with pytest.raises(Interrupted, match="Run the same command to go on") as stop:
        run.train(config(folder))
    assert stop.value.signal == signal.SIGTERM
    assert not (folder / "report.html").exists()
    run.train(config(folder))
    same_training(folder, finished)


@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGINT, 130), pytest.param(signal.SIGTERM, 143, marks=pytest.mark.slow)],
)
def test_a_signal_saves_the_state_and_says_how_to_go_on(
    tmp_path, number, code, capsys, monkeypatch, fast_training
):
    checkpointer = checkpoints.Checkpointer

    class Signalled(checkpoints.Checkpointer):
        def on_train_batch_end(self, batch, logs=None):
            os.kill(os.getpid(), number)
            super().on_train_batch_end(batch, logs)

    monkeypatch.setattr(checkpoints, "Checkpointer", Signalled)
    folder = tmp_path / "run"
    assert main(["train", "--workdir", str(folder), *FLAGS]) == code
    error = capsys.readouterr().err
    assert error.startswith("\nStopped in epoch 0 after step ")
    assert error.endswith(f"the state is saved in {folder}. Run the same command to go on.\n")
    (state,) = (folder / "checkpoints").glob("*.json")
    progress = json.loads(state.read_text())
    assert 0.0 < progress["seconds"] < 100.0
    state.write_text(json.dumps(progress | {"seconds": 100.0}))
    monkeypatch.setattr(checkpoints, "Checkpointer", checkpointer)
    run.train(config(folder))
    assert 100.0 <= float(callbacks.read_elbo_csv(folder / "elbo.csv")[0]["seconds"]) < 200.0


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_the_script_of_the_checkout(tmp_path, number, code):
    folder = tmp_path / "run"
    process = subprocess.Popen(
        [sys.executable, "train.py", "--workdir", str(folder)],
        cwd=ROOT,
        env={key: os.environ[key] for key in os.environ if key != "TF_CPP_MIN_LOG_LEVEL"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 120
    while not (folder / "elbo.csv").exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    process.send_signal(number)
    _, error = process.communicate(timeout=60)
    assert process.returncode == code
    assert "Run the same command to go on." in error.splitlines()[-1]
    assert len(error.splitlines()) == 2  # an empty line ends the progress bar's
    assert list((folder / "checkpoints").glob("*.json"))


def test_a_damaged_newest_checkpoint_is_one_warning_and_the_same_end(
    finished, cut_short, capsys, printed_warnings, fast_training
):
    damaged = cut_short / "checkpoints" / "epoch-00002-step-0000000.keras"
    damaged.write_bytes(damaged.read_bytes()[:-1])
    (cut_short / "model.keras").unlink()
    assert main(["train", "--workdir", str(cut_short), *FLAGS]) == 0
    said = capsys.readouterr()
    assert said.err == (
        "Warning: checkpoint epoch-00002-step-0000000 is damaged (its hash does not match); "
        "it is skipped\n"
    )
    assert "Going on after epoch 1, step 0." in said.out
    same_training(cut_short, finished)


@pytest.mark.parametrize("lost", ["*.json", "*"])
def test_lost_checkpoints_are_an_error_and_nothing_is_overwritten(
    cut_short, capsys, lost, small_training
):
    for path in (cut_short / "checkpoints").glob(lost):
        path.unlink()
    before = {path: path.read_bytes() for path in cut_short.rglob("*") if path.is_file()}
    assert main(["train", "--workdir", str(cut_short), *FLAGS]) == 2
    error = capsys.readouterr().err
    assert error.startswith("Error: a run goes on from an undamaged checkpoint. Received: ")
    assert len(error.splitlines()) == 1
    assert before == {path: path.read_bytes() for path in cut_short.rglob("*") if path.is_file()}


# -------------------------------------------------------------------------------------- own images


def test_a_run_on_own_images_holds_everything(photos_run):
    assert names(photos_run) == CONTENT | {"trained_on.npy"}
    assert names(photos_run / "figures") == FIGURES
    rows = callbacks.read_elbo_csv(photos_run / "elbo.csv")
    assert all(math.isfinite(float(value)) for row in rows for value in row.values())
    assert keras.saving.load_model(photos_run / "model.keras").image_shape == (7, 5, 3)
    assert elbos(photos_run) == [("validation", 5)]


def test_the_configuration_identifies_own_images_by_their_content(photos, photos_run):
    settings = json.loads((photos_run / "config.json").read_text())
    assert settings["data"] == "photos"
    assert settings["description"] == "The networks of mlp_mnist, trained on photos"
    assert settings["own_data"] == dict(own_images.open_images(photos).identity)
    assert (settings["validation"], settings["batch_size"]) == (5, 10)
    assert str(photos) not in (photos_run / "config.json").read_text()


def test_own_labels_are_in_the_numbers_and_on_the_page(photos_run):
    classes = json.loads((photos_run / "metrics.json").read_text())["latent_classes"]
    assert set(classes["names"]) <= {"red poppy", "green leaf", "blue sky"}
    assert len(classes["names"]) > 1
    page = (photos_run / "report.html").read_text()
    assert classes["names"][0] in page
    assert "<h1>Run of mlp_mnist on photos</h1>" in page
    assert "reference" not in page.lower(), "the reference curve is of MNIST"


def test_own_images_are_served_in_their_shape(photos, photos_run):
    x = own_images.open_images(photos).images.x_test
    served = tf.saved_model.load(str(photos_run / "serving" / "1")).signatures["reconstruct"]
    assert served.structured_input_signature[1]["images"].shape.as_list() == [None, 7, 5, 3]
    images = tf.constant(x / np.float32(255))
    model = keras.saving.load_model(photos_run / "model.keras")
    np.testing.assert_array_equal(
        served(images=images)["reconstructions"], model.reconstruct(images)
    )


def test_the_data_are_described_before_training(tmp_path, capsys, monkeypatch):
    x = np.arange(30 * 12, dtype=np.uint16).reshape(30, 3, 4) % 200
    np.savez(tmp_path / "mine.npz", x_train=x)
    monkeypatch.setattr(run, "fit", lambda *_: print("TRAINING"))
    monkeypatch.setattr(run.artifacts, "write", lambda *_: None)
    run.train(TrainConfig(data=str(tmp_path / "mine.npz"), workdir=tmp_path / "run"))
    said = capsys.readouterr().out.split("TRAINING")[0].splitlines()
    assert said[0] == "Loading training data..."
    assert said[1].startswith("Found mine: 30 images of 3 x 4, grey")
    assert said[-1] == (
        "Training on 25 images, 2 held out for validation: 30 epochs of 3 steps, 10 images a step."
    )


@pytest.mark.slow
def test_grey_images_get_a_density_and_without_labels_no_map(tmp_path, capsys, small_training):
    x = np.random.default_rng(0).integers(0, 256, (60, 4, 3), dtype=np.uint8)
    path, folder = tmp_path / "mine.npz", tmp_path / "run"
    np.savez(path, x_train=x)
    flags = ["--data", str(path), "--binarization", "none", "--epochs", "1"]
    assert main(["train", *flags, "--workdir", str(folder)]) == 0
    settings = json.loads((folder / "config.json").read_text())
    assert settings["likelihood"]["name"] == "ContinuousBernoulli"
    assert names(folder / "figures") == {
        name.replace("epoch_2", "epoch_1") for name in FIGURES - {"latent_map.png"}
    }
    assert json.loads((folder / "metrics.json").read_text())["latent_classes"] == {}
    assert (folder / "report.html").exists()
    model = keras.saving.load_model(folder / "model.keras")
    assert (type(model.likelihood), model.binarization) == (ContinuousBernoulli, "none")
    assert model.image_shape == (4, 3, 1)
    served = tf.saved_model.load(str(folder / "serving" / "1")).signatures["sample"]
    pictures = served(seeds=tf.constant([[0, 0], [0, 1]]))["means"]
    np.testing.assert_array_equal(pictures, model.sample(2, seed=0))
    evaluate = ["evaluate", "--model", str(folder / "model.keras"), "--data", str(path)]
    assert main([*evaluate, "--samples", "10"]) == 0
    assert "6 test images, none binarization" in capsys.readouterr().out


@pytest.mark.slow
def test_colour_images_get_256_levels_in_bits_per_dimension(
    photos, tmp_path, capsys, fast_training
):
    folder = tmp_path / "run"
    flags = ["--data", str(photos), "--binarization", "none", "--epochs", "1"]
    assert main(["train", *flags, "--workdir", str(folder)]) == 0
    settings = json.loads((folder / "config.json").read_text())
    assert settings["likelihood"]["name"] == "DiscretizedLogisticMixture"
    page = (folder / "report.html").read_text(encoding="utf-8")
    for name in ("bits per dimension", "png bits per dimension", "webp bits per dimension"):
        assert f"<td>{name}</td>" in page
    evaluate = ["evaluate", "--model", str(folder / "model.keras"), "--data", str(photos)]
    assert main([*evaluate, "--samples", "10"]) == 0
    lines = capsys.readouterr().out.splitlines()
    shown = [line.split()[0] for line in lines if "bits_per_dimension" in line]
    assert shown == [
        "bits_per_dimension_of_the_likelihood",
        "bits_per_dimension",
        "png_bits_per_dimension",
        "webp_bits_per_dimension",
    ]


def test_changed_images_do_not_go_on_with_the_run(photos, photos_run, tmp_path, capsys):
    changed = killer.shutil.copytree(photos, tmp_path / "photos")
    flags = ["--data", str(changed), "--epochs", "2", "--workdir", str(photos_run)]
    assert main(["train", *flags]) == 0
    assert "is complete" in capsys.readouterr().out, "the same content elsewhere is the same data"
    (changed / "blue sky" / "0.png").unlink()
    assert main(["train", *flags]) == 2
    error = capsys.readouterr().err
    assert "which holds another" in error
    assert "own_data" in error


# --------------------------------------------------------------------------------- other recipes


@pytest.mark.slow
@needs_muon
def test_a_run_of_every_kind_of_part(tmp_path, mnist, monkeypatch):
    """Convolutions in bfloat16, a learned prior, IWAE, Muon, weights to start from."""
    images = datasets.Images(
        mnist.x_train[:1200], mnist.y_train[:1200], mnist.x_test[:300], mnist.y_test[:300]
    )
    patch_training(monkeypatch, images)
    recipe = dataclasses.replace(
        presets.load_recipe("conv_mnist"),
        prior=presets.Part("AutoregressiveFlow", {"depth": 4, "hidden": [64]}),
        precision="mixed_bfloat16",
        start_from="conv_mnist",
    )
    assert (recipe.objective.name, recipe.optimizer.name) == ("IWAE", "Muon")
    monkeypatch.setattr(presets, "load_recipe", lambda name: recipe)
    folder = run.train(config(tmp_path / "run", preset="conv_mnist", epochs=1))
    metrics = json.loads((folder / "metrics.json").read_text())
    start = presets.load_metrics(recipe.start_from)["provenance"]["weights_sha256"]
    assert metrics["provenance"][presets.START_HASH] == start
    entries = {entry["name"]: entry["value"] for entry in metrics["metrics"]}
    assert -110 < entries["elbo"] < -80  # close to the weights that it started from
    model = keras_file.load(folder / "model.keras")
    assert type(model.prior).__name__ == recipe.prior.name
    assert model.encoder.dtype_policy.name == "float32"
