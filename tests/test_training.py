"""`train`: a recipe to a run folder, end to end, on a cut of real MNIST."""

import json
import math
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

import train as command
from tests import killer
from tests.conftest import trainable
from vae_keras import (
    VAE,
    ContinuousBernoulli,
    callbacks,
    checks,
    datasets,
    keras_file,
    own_images,
    presets,
    training,
)
from vae_keras.__main__ import main

ROOT = Path(__file__).resolve().parent.parent
FIGURES = {
    "elbo.png",
    "interpolations.png",
    "latent_map.png",
    "prior_epoch_2.png",
    "reconstructions.png",
    "uniform_epoch_2.png",
}


@pytest.fixture(scope="module")
def small_data(mnist):
    return datasets.Images(
        mnist.x_train[:1200], mnist.y_train[:1200], mnist.x_test[:300], mnist.y_test[:300]
    )


@pytest.fixture(autouse=True)
def cut(monkeypatch, small_data):
    """Trains on 1,200 images, and without XLA, whose compilation takes seconds."""
    monkeypatch.setattr(training.datasets, "load_mnist", lambda: small_data)
    monkeypatch.setattr(training.VAE, "xla_pays", lambda _: False)


def config(folder, **changes):
    settings = {"epochs": 2, "validation": 200, "batch_size": 100, "workdir": folder}
    return training.TrainConfig(**(settings | changes))


@pytest.fixture(scope="module")
def run(tmp_path_factory, small_data):
    """One finished run that several tests read."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training.datasets, "load_mnist", lambda: small_data)
        patch.setattr(training.VAE, "xla_pays", lambda _: False)
        training.train(config(folder))
    return folder


def figures(folder):
    rows = callbacks.read_elbo_csv(folder / "elbo.csv")
    return [{name: value for name, value in row.items() if name != "seconds"} for row in rows]


def test_the_run_folder_is_whole(run):
    names = {path.name for path in run.iterdir()}
    assert names == {
        "config.json",
        "elbo.csv",
        "figures",
        "model.keras",
        "serving",
        "metrics.json",
        "report.html",
        "checkpoints",
    }
    assert {path.name for path in (run / "figures").iterdir()} == FIGURES
    assert (run / "serving" / "1" / "saved_model.pb").exists()


def test_the_curve_has_every_column(run):
    rows = callbacks.read_elbo_csv(run / "elbo.csv")
    assert [row["epoch"] for row in rows] == ["0", "1"]
    for row in rows:
        assert all(row.values())
        terms = [float(row[name]) for name in ("elbo", "log_likelihood", "kl")]
        assert terms[0] == pytest.approx(terms[1] - terms[2], rel=1e-6)


def test_metrics_say_how_they_were_measured(run, small_data):
    metrics = json.loads((run / "metrics.json").read_text())
    assert set(metrics) == {"preset", "parameters", "provenance", "metrics", "latent_classes"}
    assert metrics["provenance"]["data_sha256"] == datasets.fingerprint(small_data.x_test)
    by_name = {entry["name"]: entry for entry in metrics["metrics"]}
    assert set(by_name) == {"elbo", "rate", "distortion", "active_units"}
    elbo = by_name["elbo"]
    assert elbo["value"] == pytest.approx(
        -by_name["rate"]["value"] - by_name["distortion"]["value"]
    )
    assert (elbo["split"], elbo["num_images"], elbo["unit"]) == ("test", 300, "nats per image")
    assert elbo["standard_error"] > 0
    distances = np.array(metrics["latent_classes"]["distances"])
    assert distances.shape == (10, 10)
    np.testing.assert_allclose(distances, distances.T)
    assert len(metrics["latent_classes"]["nearest"]["5"]) == 9


def test_saved_weights_are_the_trained_ones_without_optimizer(run, small_data):
    model = keras.saving.load_model(run / "model.keras")
    assert not model.compiled
    recipe = config(run).recipe()
    again = training.build_model(recipe, (28, 28, 1), 1200)
    training.checkpoints.restore(run / "checkpoints", again)
    np.testing.assert_array_equal(
        model.reconstruct(small_data.x_test), again.reconstruct(small_data.x_test)
    )


def test_the_same_command_twice_is_bit_identical(run, tmp_path):
    training.train(config(tmp_path / "again"))
    assert figures(tmp_path / "again") == figures(run)
    for a, b in zip(
        keras.saving.load_model(tmp_path / "again" / "model.keras").get_weights(),
        keras.saving.load_model(run / "model.keras").get_weights(),
        strict=True,
    ):
        np.testing.assert_array_equal(a, b)


def test_mirrored_trains_as_one_device_does(run, tmp_path):
    training.train(config(tmp_path / "run", strategy="mirrored"))
    for expected, found in zip(figures(run), figures(tmp_path / "run"), strict=True):
        for name in expected:
            assert float(found[name]) == pytest.approx(float(expected[name]), rel=1e-5), name
    a, b = (keras.saving.load_model(f / "model.keras") for f in (run, tmp_path / "run"))
    for one, other in zip(a.get_weights(), b.get_weights(), strict=True):
        np.testing.assert_allclose(other, one, rtol=1e-3, atol=1e-4)


def test_without_validation_its_columns_stay_empty(tmp_path):
    training.train(config(tmp_path / "run", validation=0, epochs=1))
    (row,) = callbacks.read_elbo_csv(tmp_path / "run" / "elbo.csv")
    assert row["val_elbo"] == row["val_kl"] == row["val_log_likelihood"] == ""
    assert row["elbo"]


def test_a_finished_run_is_left_alone(run, capsys):
    before = (run / "report.html").stat().st_mtime_ns
    training.train(config(run))
    assert "is complete" in capsys.readouterr().out
    assert (run / "report.html").stat().st_mtime_ns == before


def test_a_stopped_run_goes_on_to_the_same_end(run, tmp_path, monkeypatch):
    folder = tmp_path / "run"
    real, calls = training._Signals.check, []

    def stop_at_the_figures(self, where):
        calls.append(where)
        if where == "before the figures" and calls.count(where) == 1:
            self.received = signal.SIGTERM
        real(self, where)

    monkeypatch.setattr(training._Signals, "check", stop_at_the_figures)
    with pytest.raises(training.Interrupted, match="Run the same command to go on") as stop:
        training.train(config(folder))
    assert stop.value.signal == signal.SIGTERM
    assert not (folder / "report.html").exists()
    training.train(config(folder))
    assert figures(folder) == figures(run)
    assert (folder / "report.html").exists()


def cut_short(run, folder):
    """The run before its last stage, in a folder that a test may damage."""
    shutil.copytree(run, folder)
    (folder / "report.html").unlink()
    return folder


FLAGS = ("--epochs", "2", "--validation", "200", "--batch-size", "100")


def test_a_damaged_newest_checkpoint_is_one_warning_and_the_same_end(
    run, tmp_path, capsys, printed_warnings
):
    folder = cut_short(run, tmp_path / "run")
    damaged = folder / "checkpoints" / "epoch-00002-step-0000000.keras"
    damaged.write_bytes(damaged.read_bytes()[:-1])
    (folder / "model.keras").unlink()
    assert command.main(["--workdir", str(folder), *FLAGS]) == 0
    said = capsys.readouterr()
    assert said.err == (
        "Warning: checkpoint epoch-00002-step-0000000 is damaged (its hash does not match); "
        "it is skipped\n"
    )
    assert "Going on after epoch 1, step 0." in said.out
    killer.require_same(folder, run)


@pytest.mark.parametrize("lost", ["*.json", "*"])
def test_lost_checkpoints_are_an_error_and_nothing_is_overwritten(run, tmp_path, capsys, lost):
    folder = cut_short(run, tmp_path / "run")
    for path in (folder / "checkpoints").glob(lost):
        path.unlink()
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert command.main(["--workdir", str(folder), *FLAGS]) == 2
    error = capsys.readouterr().err
    assert error.startswith("Error: a run goes on from a sound checkpoint. Received: ")
    assert len(error.splitlines()) == 1
    assert before == {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# ------------------------------------------------------------------------------- command line


def test_help_is_short(capsys):
    with pytest.raises(SystemExit) as stop:
        command.main(["--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    flags = "preset epochs batch-size learning-rate seed workdir data validation binarization"
    for flag in [*flags.split(), "image-size", "strategy", "overwrite"]:
        assert f"--{flag}" in text
    assert len(text.splitlines()) < 30


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (
            ["--preset", "nonsense"],
            f"preset must be one of: {', '.join(presets.names())}. Received",
        ),
        (["--epochs", "0"], "epochs must be a whole number from 1 to 99999"),
        (["--batch-size", "0"], "batch_size must be a whole number >= 1"),
        (["--batch-size", "1001", "--validation", "200"], "batch_size must not exceed"),
        (["--learning-rate", "nan"], "learning_rate must be a finite number above 0"),
        (["--learning-rate", "-1"], "learning_rate must be a finite number above 0"),
        (["--seed", "-1"], "seed must be a whole number"),
        (["--validation", "-1"], "validation must be a whole number >= 0"),
        (["--validation", "1200"], "validation must leave images to train on"),
        (["--data", ""], "data must be a path. Received: ''. Name a file or folder."),
        (["--data", "a\0b"], "data must be a path. Received: 'a\\x00b'. Name a file or folder."),
        (["--data", "nowhere"], "data must be one of: mnist"),
        (["--strategy", "multi_worker"], "strategy multi_worker needs TF_CONFIG, or a Slurm step"),
        (["--image-size", "32"], "image_size scales your own images. Received: '32' for mnist"),
        (["--data", ".", "--image-size", "0"], "image_size must be H or HxW"),
    ],
)
def test_bad_flags_get_one_line_and_exit_code_2(tmp_path, capsys, arguments, sentence):
    folder = tmp_path / "run"
    assert command.main(["--workdir", str(folder), *arguments]) == 2
    error = capsys.readouterr().err
    assert sentence in error
    assert "Received: " in error
    assert len(error.strip().splitlines()) == 1
    assert not list(folder.glob("*")), "nothing may be left half-written"


def test_another_configuration_asks_for_overwrite(run, capsys):
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    assert command.main(["--workdir", str(run), "--epochs", "3"]) == 2
    error = capsys.readouterr().err
    assert "which holds another" in error
    assert "epochs" in error
    assert "--overwrite" in error
    assert before == {path: path.stat().st_mtime_ns for path in run.rglob("*")}


def test_other_words_about_a_preset_make_no_other_run(run, tmp_path, capsys):
    shutil.copytree(run, tmp_path / "run")
    path = tmp_path / "run" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"description": "Another sentence"}))
    training.train(config(tmp_path / "run"))
    assert "is complete" in capsys.readouterr().out


def test_overwrite_empties_the_run_and_nothing_else(tmp_path, capsys):
    folder = tmp_path / "run"
    training.train(config(folder, epochs=1))
    (folder / "notes.txt").write_text("mine")
    training.train(config(folder, seed=1, epochs=1, overwrite=True))
    assert (folder / "notes.txt").read_text() == "mine"
    assert json.loads((folder / "config.json").read_text())["seed"] == 1


def test_a_folder_of_other_files_is_refused(tmp_path, capsys):
    (tmp_path / "thesis.tex").write_text("years")
    assert command.main(["--workdir", str(tmp_path), "--overwrite"]) == 2
    assert "holds other files" in capsys.readouterr().err
    assert (tmp_path / "thesis.tex").read_text() == "years"


def test_an_unwritable_workdir_is_refused(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert command.main(["--workdir", str(tmp_path / "file" / "run")]) == 2
    assert "workdir must be a folder that can be written" in capsys.readouterr().err


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_ctrl_c_and_sigterm_save_and_say_how_to_go_on(tmp_path, number, code):
    folder = tmp_path / "run"
    command_line = [sys.executable, "train.py", "--workdir", str(folder)]
    process = subprocess.Popen(
        command_line, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 120
    while not (folder / "elbo.csv").exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    process.send_signal(number)
    _, error = process.communicate(timeout=60)
    assert process.returncode == code
    assert "Run the same command to go on." in error.splitlines()[-1]
    assert "Traceback" not in error
    assert list((folder / "checkpoints").glob("*.json"))


def test_recipe_takes_given_values_and_keeps_the_rest():
    recipe = training.TrainConfig(epochs=3, binarization="none").recipe()
    preset = presets.load_recipe("mlp_mnist")
    assert (recipe.epochs, recipe.binarization) == (3, "none")
    assert (recipe.batch_size, recipe.encoder) == (preset.batch_size, preset.encoder)


@pytest.mark.parametrize(
    ("binarization", "likelihood"),
    [(None, "Bernoulli"), ("threshold", "Bernoulli"), ("none", "ContinuousBernoulli")],
)
def test_the_likelihood_goes_with_the_binarization(binarization, likelihood):
    recipe = training.TrainConfig(binarization=binarization).recipe()
    assert recipe.likelihood == presets.Part(likelihood)
    assert presets.Recipe.from_dict(recipe.to_dict()) == recipe


def test_a_run_of_a_version_without_a_field_goes_on(tmp_path):
    folder = tmp_path / "run"
    recipe = config(folder).recipe()
    wanted = {"preset": "mlp_mnist"} | recipe.to_dict()
    folder.mkdir()
    old = {name: value for name, value in wanted.items() if name != "likelihood"}
    (folder / "config.json").write_text(json.dumps(old))
    training._check_folder(folder, wanted, overwrite=False)
    with pytest.raises(checks.InputError, match="which holds another likelihood"):
        training._check_folder(
            folder, wanted | {"likelihood": {"name": "ContinuousBernoulli", "arguments": {}}}, False
        )


def test_config_is_frozen():
    with pytest.raises(AttributeError):
        training.TrainConfig().epochs = 3
    with pytest.raises(checks.InputError):
        training.TrainConfig(epochs=True).recipe()


# ------------------------------------------------------------------------------------ own data


def test_a_run_on_own_images_is_whole(photos_run):
    assert {path.name for path in photos_run.iterdir()} == {
        "config.json",
        "elbo.csv",
        "figures",
        "model.keras",
        "serving",
        "metrics.json",
        "report.html",
        "checkpoints",
    }
    assert {path.name for path in (photos_run / "figures").iterdir()} == FIGURES
    rows = callbacks.read_elbo_csv(photos_run / "elbo.csv")
    assert all(math.isfinite(float(value)) for row in rows for value in row.values())
    model = keras.saving.load_model(photos_run / "model.keras")
    assert model.image_shape == (7, 5, 3)


def test_own_images_configuration_knows_their_content(photos, photos_run):
    config = json.loads((photos_run / "config.json").read_text())
    assert config["data"] == "photos"
    assert config["description"] == "The networks of mlp_mnist, trained on photos"
    assert config["own_data"] == dict(own_images.load(photos).identity)
    assert config["own_data"]["split"] == "one in 10 for testing, drawn with seed 0"
    assert (config["validation"], config["batch_size"]) == (5, 10)
    assert str(photos) not in (photos_run / "config.json").read_text()


def test_own_labels_stand_in_numbers_and_page(photos_run):
    classes = json.loads((photos_run / "metrics.json").read_text())["latent_classes"]
    assert set(classes["names"]) <= {"red poppy", "green leaf", "blue sky"}
    assert len(classes["names"]) > 1
    page = (photos_run / "report.html").read_text()
    assert classes["names"][0] in page
    assert "<h1>Run of mlp_mnist on photos</h1>" in page
    assert "the report" not in page.lower(), "its figures are MNIST's"


def test_own_images_are_served_in_their_shape(photos, photos_run):
    x = own_images.load(photos).images.x_test
    served = tf.saved_model.load(str(photos_run / "serving" / "1")).signatures["reconstruct"]
    assert served.structured_input_signature[1]["images"].shape.as_list() == [None, 7, 5, 3]
    images = tf.constant(x / np.float32(255))
    model = keras.saving.load_model(photos_run / "model.keras")
    np.testing.assert_array_equal(
        served(images=images)["reconstructions"], model.reconstruct(images)
    )


def test_what_was_found_is_said_before_training(tmp_path, capsys, monkeypatch):
    x = np.arange(30 * 12, dtype=np.uint16).reshape(30, 3, 4) % 200
    np.savez(tmp_path / "mine.npz", x_train=x)
    monkeypatch.setattr(training, "_fit", lambda *_: print("TRAINING"))
    monkeypatch.setattr(training, "_finish", lambda *_: None)
    training.train(training.TrainConfig(data=str(tmp_path / "mine.npz"), workdir=tmp_path / "run"))
    said = capsys.readouterr().out.split("TRAINING")[0].splitlines()
    assert said == [
        "Loading training data...",
        "Found mine: 30 images of 3 x 4, grey, pixels 0..199.",
        "No labels, so no maps of classes.",
        "Split one in 10 for testing, drawn with seed 0: 27 for training, 3 for testing.",
        "Training on 25 images, 2 held out for validation: 30 epochs of 3 steps, 10 images a step.",
    ]


def test_a_run_on_an_npz_without_labels_draws_no_maps(tmp_path):
    x = np.random.default_rng(0).integers(0, 256, (24, 4, 3), dtype=np.uint8)
    np.savez(tmp_path / "mine.npz", x_train=x)
    folder = tmp_path / "run"
    training.train(training.TrainConfig(data=str(tmp_path / "mine.npz"), epochs=2, workdir=folder))
    assert {path.name for path in (folder / "figures").iterdir()} == FIGURES - {"latent_map.png"}
    assert json.loads((folder / "metrics.json").read_text())["latent_classes"] == {}
    assert keras.saving.load_model(folder / "model.keras").image_shape == (4, 3, 1)
    assert (folder / "report.html").exists()


def test_grey_images_as_they_are_get_a_density(tmp_path, capsys):
    x = np.random.default_rng(0).integers(0, 256, (60, 4, 3), dtype=np.uint8)
    path, folder = tmp_path / "mine.npz", tmp_path / "run"
    np.savez(path, x_train=x)
    arguments = ["--data", str(path), "--binarization", "none"]
    assert command.main([*arguments, "--epochs", "1", "--workdir", str(folder)]) == 0
    settings = json.loads((folder / "config.json").read_text())
    assert settings["likelihood"]["name"] == "ContinuousBernoulli"
    model = keras.saving.load_model(folder / "model.keras")
    assert (type(model.likelihood_part), model.binarization) == (ContinuousBernoulli, "none")
    served = tf.saved_model.load(str(folder / "serving" / "1")).signatures["sample"]
    pictures = served(seeds=tf.constant([[0, 0], [0, 1]]))["probabilities"]
    np.testing.assert_array_equal(pictures, model.sample(2, seed=0))
    evaluate = ["evaluate", "--model", str(folder / "model.keras"), "--data", str(path)]
    assert main([*evaluate, "--samples", "10"]) == 0
    assert "6 images, none binarization" in capsys.readouterr().out


def test_binary_images_are_refused_a_density_before_anything_is_written(tmp_path, capsys):
    np.savez(tmp_path / "mine.npz", x_train=np.eye(30, dtype=np.uint8)[:, :, np.newaxis] * 255)
    arguments = ["--data", str(tmp_path / "mine.npz"), "--binarization", "none"]
    assert command.main([*arguments, "--workdir", str(tmp_path / "run")]) == 2
    assert "Received: binary pixels, 0 and 1 alone." in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_changed_images_do_not_go_on_with_the_run(photos, photos_run, tmp_path, capsys):
    changed = tmp_path / "photos"
    shutil.copytree(photos, changed)
    arguments = ["--data", str(changed), "--epochs", "2", "--workdir", str(photos_run)]
    assert command.main(arguments) == 0
    assert "is complete" in capsys.readouterr().out, "the same content elsewhere is the same data"
    (changed / "blue sky" / "0.png").unlink()
    assert command.main(arguments) == 2
    error = capsys.readouterr().err
    assert "which holds another" in error
    assert "own_data" in error


@pytest.mark.parametrize(
    ("preset", "data_name", "folder"),
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
def test_every_data_set_has_a_run_folder_of_its_own(preset, data_name, folder):
    assert training.TrainConfig(preset=preset, data=data_name).folder() == Path("runs") / folder


@pytest.mark.parametrize(
    ("rows", "given", "validation", "batch"),
    [
        (9, {}, 0, 9),
        (50, {}, 5, 10),
        (2000, {}, 200, 18),
        (60000, {}, 6000, 100),
        (2000, {"validation": 0}, 0, 20),
        (2000, {"batch_size": 7}, 200, 7),
        (2000, {"validation": 1900, "batch_size": 50}, 1900, 50),
    ],
)
def test_own_data_sizes_what_was_not_given(rows, given, validation, batch):
    x = np.zeros((rows, 1, 1, 1), np.uint8)
    dataset = datasets.DataSet("mine", datasets.Images(x, None, x[:1], None), "as given")
    settings = training.TrainConfig(data="mine.npz", **given)
    recipe = training._sized(settings.recipe(), settings, dataset)
    assert (recipe.validation, recipe.batch_size) == (validation, batch)
    training._check_sizes(recipe, rows)


def test_another_named_set_keeps_the_presets_sizes(small_data):
    settings = training.TrainConfig(data="fashion_mnist")
    dataset = datasets.DataSet("fashion_mnist", small_data, "as published")
    recipe = training._sized(settings.recipe(), settings, dataset)
    assert (recipe.validation, recipe.batch_size, recipe.data) == (10000, 100, "fashion_mnist")
    assert recipe.description == "The networks of mlp_mnist, trained on fashion_mnist"


@pytest.mark.parametrize("preset", trainable(["iwae_mnist"]))
def test_other_data_than_the_presets_starts_from_fresh_weights(
    preset, tmp_path, capsys, monkeypatch
):
    x = np.random.default_rng(0).integers(0, 256, (30, 3, 4), dtype=np.uint8)
    np.savez(tmp_path / "mine.npz", x_train=x)
    folder = tmp_path / "run"
    assert presets.load_recipe(preset).start_from, "the case needs a preset with a beginning"
    monkeypatch.setattr(training, "_fit", lambda *_: None)
    monkeypatch.setattr(training, "_finish", lambda *_: None)
    training.train(training.TrainConfig(preset, data=str(tmp_path / "mine.npz"), workdir=folder))
    said = capsys.readouterr().out
    assert "Starting from fresh weights: those of mlp_mnist_converged are for other data." in said
    config = json.loads((folder / "config.json").read_text())
    assert config["start_from"] == ""
    assert presets.START_HASH not in config


def test_another_likelihood_than_the_presets_starts_from_fresh_weights(small_data, capsys):
    settings = training.TrainConfig("iwae_mnist", binarization="none")
    dataset = datasets.DataSet("mnist", small_data, "as published")
    recipe = training._sized(settings.recipe(), settings, dataset)
    assert (recipe.start_from, recipe.choices) == ("", "")
    assert (recipe.likelihood.name, recipe.batch_size) == ("ContinuousBernoulli", 100)
    training._announce(recipe, settings, dataset)
    said = capsys.readouterr().out
    assert "Starting from fresh weights: those of mlp_mnist_converged are for other pixels." in said


@pytest.mark.parametrize("preset", trainable(["best_mnist"]))
def test_networks_start_from_the_named_presets_weights(preset):
    recipe = presets.load_recipe(preset)
    model = training.build_model(recipe, (28, 28, 1), 60000)
    start = VAE.from_preset(recipe.start_from)
    for part in ("encoder", "decoder"):
        ours, theirs = (getattr(vae, part).get_weights() for vae in (model, start))
        for one, other in zip(ours, theirs, strict=True):
            np.testing.assert_array_equal(one, other)
    standard = np.float32([[0.3] * 32, [-1.0] * 32])
    np.testing.assert_allclose(model.prior_draws(standard), standard, atol=1e-6)  # a fresh flow


@pytest.mark.parametrize("preset", trainable(["best_mnist"]))
def test_a_run_of_every_part_there_is(preset, tmp_path):
    """Convolutions in bfloat16, a learned prior, IWAE, Muon, weights to start from."""
    recipe = presets.load_recipe(preset)
    assert (recipe.precision, recipe.optimizer.name) == ("mixed_bfloat16", "Muon")
    folder = training.train(config(tmp_path / "run", preset=preset, epochs=1))
    metrics = json.loads((folder / "metrics.json").read_text())
    start = presets.load_metrics(recipe.start_from)["provenance"]["weights_sha256"]
    assert metrics["provenance"][presets.START_HASH] == start
    entries = {entry["name"]: entry["value"] for entry in metrics["metrics"]}
    assert -110 < entries["elbo"] < -80  # where its starting weights are, or near
    model = keras_file.load(folder / "model.keras")
    assert type(model.prior).__name__ == recipe.prior.name
    assert model.encoder.dtype_policy.name == "float32"


def test_the_presets_own_data_starts_where_the_recipe_says(small_data):
    settings = training.TrainConfig("iwae_mnist")
    dataset = datasets.DataSet("mnist", small_data, "as published")
    assert training._sized(settings.recipe(), settings, dataset) == settings.recipe()
