"""The command line: what it prints, what it writes, how it refuses."""

import json

import pytest
import tensorflow as tf

from vae_keras import presets
from vae_keras.__main__ import main


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
    assert "30 images, dynamic binarization, seed 1" in out
    assert 60 < nll["value"] < 130


def test_sample_writes_a_picture(tmp_path, capsys):
    path = tmp_path / "s.png"
    assert main(["sample", "--preset", "mlp_mnist", "--count", "10", "--to", str(path)]) == 0
    assert tf.io.decode_png(path.read_bytes()).shape[-1] in (3, 4)
    assert capsys.readouterr().out.strip() == str(path)


def test_figures_takes_a_keras_file(tmp_path):
    weights = presets.folder() / "mlp_mnist" / "model.keras"
    assert main(["figures", "--model", str(weights), "--to", str(tmp_path)]) == 0
    names = {path.name for path in tmp_path.glob("*.png")}
    assert names == {"interpolations.png", "latent_map.png", "reconstructions.png"}


def test_export_takes_the_next_version(tmp_path, capsys):
    for version in ("1", "2"):
        assert main(["export", "--preset", "mlp_mnist", "--to", str(tmp_path / "base")]) == 0
        assert capsys.readouterr().out.strip().endswith(f"base/{version}")


@pytest.mark.parametrize(
    "name", ["presets", "evaluate", "sample", "figures", "export", "publish", "render"]
)
def test_every_command_has_help(name, capsys):
    with pytest.raises(SystemExit) as stop:
        main([name, "--help"])
    assert stop.value.code == 0
    assert f"python -m vae_keras {name}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["evaluate", "--preset", "nonsense"], "preset must be one of"),
        (["evaluate", "--preset", "mlp_mnist", "--samples", "0"], "--samples must be a whole"),
        (["evaluate", "--preset", "mlp_mnist", "--images", "10001"], "--images must be a whole"),
        (["sample", "--preset", "mlp_mnist", "--count", "7"], "--count must be a multiple of 5"),
        (["sample", "--model", "nowhere.keras"], "a model comes as a .keras file"),
        (["sample", "--model", "README.md"], "a model comes as a .keras file"),
        (["export", "--preset", "mlp_mnist", "--to", ".", "--version", "0"], "version must be"),
        (["evaluate", "--preset", "mlp_mnist", "--seed", "-1"], "--seed must be a whole number"),
        (["evaluate", "--preset", "mlp_mnist", "--json", "."], "--json must be a file that can be"),
        (["evaluate", "--preset", "mlp_mnist", "--samples", "1" + "0" * 12], "--samples must be"),
        (["sample", "--preset", "mlp_mnist", "--count", "1" + "0" * 12], "--count must be a whole"),
        (["sample", "--preset", "mlp_mnist", "--to", "file/a.png"], "--to must be a file that can"),
        (["figures", "--preset", "mlp_mnist", "--to", "file"], "--to must be a folder that can be"),
        (["export", "--preset", "mlp_mnist", "--to", "file"], "--to must be a folder that can be"),
        (["publish", "nowhere"], "only a finished run is published"),
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


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["nonsense"],
        ["sample"],
        ["sample", "--preset"],
        ["sample", "--preset", "mlp_mnist", "--model", "m.keras"],
        ["evaluate", "--preset", "mlp_mnist", "--samples", "many"],
        ["export", "--preset", "mlp_mnist", "--to", "x", "--format", "torch"],
    ],
)
def test_missing_arguments_are_usage_errors(arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    assert "usage:" in capsys.readouterr().err
