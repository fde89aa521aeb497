"""The commands of the zoo: what they print, what they write, what they refuse."""

import json
import shutil
from argparse import Namespace

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from vae_keras import VAE, MLPDecoder, MLPEncoder
from vae_keras.cli.main import main
from vae_keras.cli.models import trained_on
from vae_keras.data import datasets
from vae_keras.priors import AutoregressiveFlow
from vae_keras.report import engine, figures
from vae_keras.training import artifacts
from vae_keras.utils import checks, files
from vae_keras.zoo import presets

FIGURES = {
    f"{name}.png"
    for name in ("interpolations", "latent_map", "neighbours", "reconstructions", "traverse")
}


def test_presets_lists_the_zoo(capsys):
    assert main(["presets"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[0] == "preset"
    assert [line.split()[0] for line in lines[1:]] == list(presets.names())


def test_evaluate_prints_a_table_and_writes_json(tmp_path, capsys):
    path = tmp_path / "numbers.json"
    arguments = ["--samples", "20", "--images", "30", "--seed", "1", "--json", str(path)]
    assert main(["evaluate", "--preset", "mlp_mnist", *arguments]) == 0
    out = capsys.readouterr().out
    result = json.loads(path.read_text())
    nll = result["metrics"][0]
    assert nll["name"] == "negative_log_likelihood"
    assert f"{nll['value']:.3f}" in out
    assert "bound at k = 10:" in out
    assert "30 test images, dynamic binarization, seed 1" in out
    assert 60 < nll["value"] < 130
    assert 1 < nll["effective_sample_size"] < 20
    published = presets.load_metrics("mlp_mnist")
    assert result["provenance"]["data_sha256"] == datasets.KNOWN["mnist"].sha256["x_test"]
    assert list(result["importance_weighted_bounds"]) == ["1", "10", "20"]
    for entry, like in zip(result["metrics"], published["metrics"], strict=False):
        assert set(entry) == set(like), "the same facts as in the zoo"
        for fact in ("name", "unit", "estimator", "split"):
            assert entry[fact] == like[fact]


@pytest.mark.slow
def test_evaluate_refines_some_images(tmp_path, capsys):
    path = tmp_path / "numbers.json"
    arguments = ["--samples", "200", "--images", "30", "--refined", "10", "--json", str(path)]
    assert main(["evaluate", "--preset", "mlp_mnist", *arguments]) == 0
    assert "30 test images (10 with all samples), dynamic" in capsys.readouterr().out
    nll = json.loads(path.read_text())["metrics"][0]
    counts = nll["num_samples"], nll["num_images"], nll["num_refined"]
    assert counts == (200, 30, 10)


def test_sample_writes_a_picture(tmp_path, capsys):
    path = tmp_path / "s.png"
    assert main(["sample", "--preset", "mlp_mnist", "--count", "10", "--to", str(path)]) == 0
    assert tf.io.decode_png(path.read_bytes()).shape[-1] in (3, 4)
    assert capsys.readouterr().out.strip() == str(path)


def test_samples_of_a_learned_prior_say_so(tmp_path, monkeypatch):
    prior, titles = AutoregressiveFlow(depth=1, hidden=(4,)), []
    vae = VAE(MLPEncoder(3, (8,)), MLPDecoder((6, 6, 1), (8,)), prior)
    artifacts.save_weights(vae, tmp_path / "model.keras")
    grid = figures.grid

    def watched(images, rows, columns, title, **arguments):
        titles.append(title)
        return grid(images, rows, columns, title, **arguments)

    monkeypatch.setattr(figures, "grid", watched)
    arguments = ["--model", str(tmp_path / "model.keras"), "--to", str(tmp_path / "s.png")]
    assert main(["sample", *arguments, "--count", "10"]) == 0
    assert titles == ["10 images decoded from z ~ p(z), which is learned"]


def test_figures_takes_a_keras_file(tmp_path):
    weights = presets.folder() / "mlp_mnist" / "model.keras"
    given = ["--model", str(weights), "--data", "mnist"]
    assert main(["figures", *given, "--to", str(tmp_path)]) == 0
    names = {path.name for path in tmp_path.glob("*.png")}
    assert names == FIGURES


@pytest.mark.slow
def test_a_run_on_own_images_is_evaluated_and_drawn(
    photos, photos_run, tmp_path, capsys, monkeypatch
):
    model = ["--model", str(photos_run / "model.keras")]
    path = tmp_path / "numbers.json"
    arguments = ["--data", str(photos), "--samples", "10", "--json", str(path)]
    assert main(["evaluate", *model, *arguments]) == 0
    out = capsys.readouterr().out
    assert "Found photos: 60 images of 7 x 5, colour" in out
    assert "6 test images, dynamic binarization, seed 0" in out
    metrics = json.loads(path.read_text())["metrics"]
    assert {(entry["split"], entry["num_images"]) for entry in metrics} == {("test", 6)}

    assert main(["figures", *model, "--data", str(photos), "--to", str(tmp_path)]) == 0
    names = {path.name for path in tmp_path.glob("*.png")}
    assert names == FIGURES

    run = shutil.copytree(photos_run, tmp_path / "run")
    monkeypatch.setattr(engine, "find", lambda folder: engine.Engine(b"script", b"wasm"))
    of_run = ["--model", str(run / "model.keras"), "--data", str(photos)]
    assert 'href="explorer.html"' not in (run / "report.html").read_text(encoding="utf-8")
    assert main(["explore", *of_run]) == 0
    assert "report.html links to it" in capsys.readouterr().out
    assert '"count": 6' in (run / "explorer.html").read_text(encoding="utf-8")
    assert 'href="explorer.html"' in (run / "report.html").read_text(encoding="utf-8")

    path = tmp_path / "embeddings.npz"
    assert main(["embed", *model, "--data", str(photos), "--to", str(path)]) == 0
    with np.load(path, allow_pickle=False) as held:
        assert held["loc"].shape == held["scale"].shape == (6, 50)
        for file, label in zip(held["file"], held["label"], strict=True):
            assert (photos / file).exists()
            assert file.startswith(f"{label}/")

    assert main(["sample", *model, "--to", str(tmp_path / "s.png")]) == 0


def test_own_images_are_scaled_to_the_models_shape(photos_run, tmp_path, capsys):
    for index in range(10):
        image = np.random.default_rng(index).integers(0, 256, (20, 30, 3), dtype=np.uint8)
        Image.fromarray(image).save(tmp_path / f"{index}.png")
    model = ["--model", str(photos_run / "model.keras")]
    path = tmp_path / "numbers.json"
    arguments = ["--data", str(tmp_path), "--samples", "2", "--json", str(path), "--images", "1"]
    assert main(["evaluate", *model, *arguments]) == 0
    out = capsys.readouterr().out
    assert "Scaled to 7 x 5" in out
    assert "All 10 images that the model did not train on" in out
    assert out.splitlines()[-1].startswith("1 images, dynamic binarization")
    result = json.loads(path.read_text())
    assert all("standard_error" not in entry for entry in result["metrics"]), "of one image"
    assert result["model"] == model[1]
    assert result["provenance"]["weights_sha256"] == files.sha256(photos_run / "model.keras")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "--data must name the images unless a model was trained on a set with a name"),
        (["--data", "nowhere"], "data must be one of: mnist, fashion_mnist, photographs, cifar10"),
        (["--data", "mnist"], "must hold images of the model's shape (7, 5, 3)"),
    ],
)
def test_data_of_another_kind_gets_one_line(photos_run, arguments, sentence, capsys):
    model = ["--model", str(photos_run / "model.keras")]
    for name in (["evaluate", "--samples", "2"], ["figures"]):
        assert main([*name, *model, *arguments]) == 2
        error = capsys.readouterr().err.strip()
        assert sentence in error
        assert len(error.splitlines()) == 1


@pytest.mark.parametrize(
    ("content", "data"),
    [
        (None, None),
        ('{"data": "fashion_mnist"}', "fashion_mnist"),
        ('{"data": "photos"}', "photos"),
        ("{}", "mnist"),
        ("[]", "mnist"),
    ],
)
def test_a_run_folder_says_what_its_model_was_trained_on(tmp_path, content, data):
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    arguments = Namespace(preset=None, model=str(tmp_path / "model.keras"))
    assert trained_on(arguments) == data


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("{", "Expecting property name enclosed in double quotes: line 1 column 2 (char 1)"),
        (
            "[" * 10**5,
            "maximum recursion depth exceeded while decoding a JSON array from a unicode string",
        ),
    ],
)
def test_a_damaged_configuration_is_not_taken_for_none(tmp_path, content, reason):
    path = tmp_path / "config.json"
    path.write_text(content)
    with pytest.raises(checks.InputError) as caught:
        trained_on(Namespace(preset=None, model=str(tmp_path / "model.keras")))
    assert str(caught.value) == (
        f"the config.json beside a model must be valid JSON. Received: {path} ({reason}). "
        "Restore the file, or move the model to another folder."
    )


@pytest.mark.slow
def test_export_takes_the_next_version(tmp_path, capsys):
    (tmp_path / "base" / "1").mkdir(parents=True)
    assert main(["export", "--preset", "mlp_mnist", "--to", str(tmp_path / "base")]) == 0
    assert capsys.readouterr().out.strip().endswith("base/2")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["evaluate", "--preset", "nonsense"], "preset must be one of"),
        (["evaluate", "--preset", "mlp_mnist", "--samples", "0"], "--samples must be a whole"),
        (["evaluate", "--preset", "mlp_mnist", "--images", "10001"], "--images must be a whole"),
        (["evaluate", "--preset", "mlp_mnist", "--refined", "1"], "--refined must be a whole"),
        (
            ["evaluate", "--preset", "mlp_mnist", "--refined", "9", "--samples", "100"],
            "--samples must be a whole number >= 101",
        ),
        (["publish", "nowhere", "--refined", "1"], "--refined must be a whole number >= 2"),
        (["sample", "--preset", "mlp_mnist", "--count", "7"], "--count must be a multiple of 5"),
        (["sample", "--model", "nowhere.keras"], "a model must be a .keras file"),
        (["sample", "--model", "README.md"], "a model must be a .keras file"),
        (["export", "--preset", "mlp_mnist", "--to", ".", "--version", "0"], "version must be"),
        (["evaluate", "--preset", "mlp_mnist", "--seed", "-1"], "--seed must be a whole number"),
        (["evaluate", "--preset", "mlp_mnist", "--json", "."], "--json must be a file that can be"),
        (["evaluate", "--preset", "mlp_mnist", "--samples", "1" + "0" * 12], "--samples must be"),
        (["sample", "--preset", "mlp_mnist", "--count", "1" + "0" * 12], "--count must be a whole"),
        (["sample", "--preset", "mlp_mnist", "--to", "file/a.png"], "--to must be a file that can"),
        (["figures", "--preset", "mlp_mnist", "--to", "file"], "--to must be a folder that can be"),
        (["export", "--preset", "mlp_mnist", "--to", "file"], "--to must be a folder that can be"),
        (["evaluate", "--preset", "mlp_mnist", "--data", ""], "data must be a path. Received: ''"),
        (["publish", "nowhere"], "a run can be published after it is finished"),
    ],
)
def test_bad_arguments_get_one_line_and_exit_code_2(
    arguments, sentence, capsys, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("in the way")
    assert main(arguments) == 2
    error = capsys.readouterr().err.strip()
    assert sentence in error
    assert "Received: " in error
    assert len(error.splitlines()) == 1


def test_a_damaged_model_file_is_refused(tmp_path, capsys):
    path = tmp_path / "model.keras"
    path.write_bytes(b"rubbish")
    assert main(["sample", "--model", str(path)]) == 2
    assert "a .keras file must be sound" in capsys.readouterr().err
