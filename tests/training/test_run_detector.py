"""A run on own images calibrates a detector with what it held out."""

import numpy as np

from tests.conftest import draw_nothing, images
from vae_keras import VAE, training
from vae_keras.cli.main import main
from vae_keras.data import datasets
from vae_keras.detection import FILE, Detector
from vae_keras.training import artifacts
from vae_keras.training.plan import make_plan
from vae_keras.utils import checks, keras_file


def test_a_run_offers_its_held_out_images(tmp_path, monkeypatch, capsys):
    given = []
    monkeypatch.setattr(VAE, "xla_pays", lambda _: False)
    monkeypatch.setattr(
        artifacts.export, "export_saved_model", lambda *_, **named: given.append(named["detector"])
    )
    draw_nothing(monkeypatch)
    np.savez(tmp_path / "dots.npz", x_train=(images(230) * 255).astype(np.uint8))
    run = tmp_path / "run"
    settings = {"data": str(tmp_path / "dots.npz"), "epochs": 1, "workdir": run}
    training.train(training.TrainConfig(**settings))
    detector = Detector.load(run / FILE, keras_file.load(run / "model.keras"))
    np.testing.assert_array_equal(detector.calibration, given[0].calibration)
    assert len(detector.calibration) + detector.fitted == 20
    np.save(tmp_path / "new.npy", (images(30, seed=1) * 255).astype(np.uint8))
    places = ["--data", str(tmp_path / "new.npy"), "--to", str(tmp_path / "verdicts")]
    capsys.readouterr()
    arguments = ["detect", "--model", str(run / "model.keras"), *places]
    assert main([*arguments, "--false-alarms", "0.1"]) == 0
    assert "of 30 images are anomalies" in capsys.readouterr().out
    assert main(arguments) == 2
    assert "takes 132 calibration images. Received: 20" in capsys.readouterr().err


def test_a_run_whose_held_out_images_cannot_calibrate_ends_without_a_detector(
    tmp_path, monkeypatch, capsys
):
    """Grey pages may have held-out images that are all black and white."""

    def refused(*_):
        raise checks.InputError("it needs grey images")

    pages = (images(200) * 255).astype(np.uint8)
    dataset = datasets.DataSet("scans", datasets.Images(pages, None, pages[:1], None), "", own=True)
    settings = training.TrainConfig(data="scans", binarization="none", validation=40)
    plan = make_plan(settings, settings.recipe(), dataset)
    monkeypatch.setattr(Detector, "calibrate", refused)
    assert artifacts._calibrated(None, plan, pages[-40:]) is None
    assert "No detector was calibrated: it needs grey images" in capsys.readouterr().out
