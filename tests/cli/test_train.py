"""The command `train`: every flag reaches the configuration, and bad values get one line."""

import dataclasses

import pytest

from vae_keras import training
from vae_keras.cli.main import main
from vae_keras.training import TrainConfig
from vae_keras.zoo import presets


@pytest.fixture
def asked(monkeypatch):
    """What the command asks `training.train` for."""
    configs = []
    monkeypatch.setattr(training, "train", configs.append)
    return configs


def test_without_flags_the_defaults_are_trained(asked):
    assert main(["train"]) == 0
    assert asked == [TrainConfig()]


def test_every_flag_reaches_the_configuration(asked):
    flags = {
        "preset": "planar_mnist",
        "epochs": 3,
        "batch_size": 7,
        "learning_rate": 0.5,
        "seed": 9,
        "workdir": "somewhere",
        "data": "photos",
        "image_size": "8x9",
        "validation": 11,
        "binarization": "threshold",
        "strategy": "mirrored",
        "group_by": "[a-z]+",
        "condition": "labels",
    }
    switches = {"test": True, "overwrite": True, "skip_damaged": True}
    arguments = [f"--{name.replace('_', '-')}={value}" for name, value in flags.items()]
    arguments += [f"--{name.replace('_', '-')}" for name in switches]
    assert main(["train", *arguments]) == 0
    assert asked == [TrainConfig(**flags, **switches)]
    fields = {field.name for field in dataclasses.fields(TrainConfig)}
    assert fields == {*flags, *switches}


def test_help_names_every_flag_and_is_short(capsys):
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    text = capsys.readouterr().out
    for field in dataclasses.fields(TrainConfig):
        assert f"--{field.name.replace('_', '-')}" in text
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
        (["--batch-size", "59801", "--validation", "200"], "batch_size must not exceed"),
        (["--learning-rate", "nan"], "learning_rate must be a finite number above 0"),
        (["--learning-rate", "-1"], "learning_rate must be a finite number above 0"),
        (["--seed", "-1"], "seed must be a whole number"),
        (["--validation", "-1"], "validation must be a whole number >= 0"),
        (["--validation", "60000"], "validation must leave images to train on"),
        (["--data", ""], "data must be a path. Received: ''."),
        (["--data", "a\0b"], "data must be a path. Received: 'a\\x00b'."),
        (["--data", "nowhere"], "data must be one of: mnist"),
        (["--strategy", "multi_worker"], "strategy multi_worker needs TF_CONFIG, or a Slurm step"),
        (["--strategy", "all"], "strategy must be one of: none, mirrored, multi_worker"),
        (["--image-size", "32"], "image_size is for own images only. Received: '32' for mnist"),
        (["--data", ".", "--image-size", "0"], "image_size must be H or HxW"),
    ],
)
def test_a_bad_flag_gets_one_line_and_exit_code_2(tmp_path, capsys, arguments, sentence):
    folder = tmp_path / "run"
    assert main(["train", "--workdir", str(folder), *arguments]) == 2
    error = capsys.readouterr().err
    assert sentence in error
    assert "Received: " in error
    assert len(error.strip().splitlines()) == 1
    assert not folder.exists()


def test_a_folder_of_other_files_is_refused(tmp_path, capsys):
    (tmp_path / "thesis.tex").write_text("years")
    assert main(["train", "--workdir", str(tmp_path), "--overwrite"]) == 2
    assert "holds other files" in capsys.readouterr().err
    assert (tmp_path / "thesis.tex").read_text() == "years"
