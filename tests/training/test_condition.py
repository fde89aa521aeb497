"""A run on the names of sub-folders, from the command line to the page and one class."""

import json

import numpy as np
import pytest

from vae_keras import VAE
from vae_keras.cli.main import main
from vae_keras.utils import keras_file


@pytest.mark.slow
def test_a_conditional_run_draws_and_knows_the_classes(photos, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(VAE, "xla_pays", lambda _: False)
    run, flags = tmp_path / "run", ["--epochs", "8", "--learning-rate", "0.01"]
    given = ["--data", str(photos), "--condition", "labels", "--workdir", str(run), "--test"]
    assert main(["train", *given, *flags]) == 0
    model = keras_file.load(run / "model.keras")
    assert model.class_names == ("blue sky", "green leaf", "red poppy")
    metrics = json.loads((run / "metrics.json").read_text())
    errors = [e for e in metrics["metrics"] if e["name"] == "classification_error"]
    assert [error["split"] for error in errors] == ["validation", "test"]
    assert errors[0]["value"] <= 0.2
    page = (run / "report.html").read_text()
    for caption in ("Images of each class.", "decoded in each class", "most probable class"):
        assert caption in page
    red = model.sample(20, labels="red poppy").mean(axis=(0, 1, 2))
    assert red.argmax() == 0
    assert main(["train", *given, *flags]) == 0  # it is complete
    of_model = ["--model", str(run / "model.keras")]
    to = tmp_path / "red.png"
    draw = ["sample", *of_model, "--count", "10", "--to", str(to)]
    assert main([*draw, "--label", "red poppy"]) == 0
    assert to.stat().st_size > 0
    assert main([*draw, "--label", "cow"]) != 0
    assert "blue sky, green leaf, red poppy" in capsys.readouterr().err
    measure = ["evaluate", *of_model, "--data", str(photos), "--samples", "20"]
    assert main([*measure, "--json", str(tmp_path / "m.json")]) == 0
    measured = json.loads((tmp_path / "m.json").read_text())["metrics"]
    assert np.isfinite([entry["value"] for entry in measured]).all()
    assert main(["figures", *of_model, "--data", str(photos), "--to", str(tmp_path / "f")]) == 0
    assert (tmp_path / "f" / "confusion.png").exists()
