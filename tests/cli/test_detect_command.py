"""The command `detect`: its files, its page, where its calibration comes from, what it refuses."""

import contextlib
import csv
import io

import numpy as np
import pytest
from PIL import Image

from tests.conftest import bars, small_vae
from vae_keras.cli.main import main
from vae_keras.data import store
from vae_keras.detection import FILE, Detector
from vae_keras.utils import files, keras_file


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """A folder with a model, good parts, and new parts of which two are bad."""
    folder = tmp_path_factory.mktemp("parts")
    vae = small_vae()
    vae.fit(bars(400, seed=1), batch_size=20, epochs=5, verbose=0)
    vae.save(folder / "model.keras")
    np.save(folder / "good.npy", bars(160, seed=2))
    new = folder / "new parts"
    for name in ("bad, both", "good"):
        (new / name).mkdir(parents=True)
    for row, image in enumerate(bars(20, seed=3)):
        Image.fromarray(image[..., 0]).save(new / f"good/{row:02d}.png")
    rng = np.random.default_rng(4)
    for row in range(2):
        Image.fromarray(rng.integers(0, 256, (6, 6), np.uint8)).save(new / f"bad, both/{row}.png")
    return folder


def detect(folder, *arguments, data="new parts", to="verdicts"):
    places = ["--data", str(folder / data), "--to", str(folder / to)]
    return main(["detect", "--model", str(folder / "model.keras"), *places, *arguments])


def table(folder, to="verdicts"):
    with open(folder / to / "verdicts.csv", newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def calibrated(parts):
    """What the command prints when it calibrates, and the content of the detector's file."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        assert detect(parts, "--calibrate", str(parts / "good.npy"), "--false-alarms", "0.02") == 0
    return out.getvalue(), (parts / FILE).read_text()


@pytest.fixture
def calibration(parts, calibrated):
    """The content of the detector's file, which is beside the model again."""
    files.write_text(parts / FILE, calibrated[1])
    return calibrated[1]


@pytest.mark.usefixtures("calibration")
def test_verdicts_are_written_and_then_need_no_calibration(parts, calibrated, capsys):
    assert "images are anomalies" in calibrated[0]
    rows = table(parts)
    assert list(rows[0]) == ["file", "score", "p_value", "verdict"]
    assert [row["file"] for row in rows] == sorted(row["file"] for row in rows)
    assert {row["verdict"] for row in rows if row["file"].startswith("bad, both")} == {"anomaly"}
    flagged = [row for row in rows if row["verdict"] == "anomaly"]
    assert len(flagged) <= 5
    for row in rows:
        assert (float(row["p_value"]) <= 0.02) == (row["verdict"] == "anomaly")
    pictures = sorted((parts / "verdicts" / "heat_maps").glob("*.png"))
    assert len(pictures) == len(flagged)
    assert Image.open(pictures[0]).size == (2 * 228 + 8, 228)
    page = (parts / "verdicts" / "verdicts.html").read_text(encoding="utf-8")
    assert page.count("data:image/png") == len(flagged) + 1
    assert "http" not in page
    worst = max(flagged, key=lambda row: float(row["score"]))
    assert f"1. {worst['file']}" in page
    assert detect(parts, "--false-alarms", "0.02", to="again") == 0
    assert table(parts, "again") == rows
    assert detect(parts, "--false-alarms", "0.1", "--together") == 0
    assert "false discovery rate" in capsys.readouterr().out
    together = table(parts)
    assert len(list((parts / "verdicts" / "heat_maps").glob("*.png"))) == sum(
        row["verdict"] == "anomaly" for row in together
    )


@pytest.mark.usefixtures("calibration")
def test_the_python_detector_gives_the_same_verdicts(parts):
    model = keras_file.load(parts / "model.keras")
    detector = Detector.load(parts / "model.keras", model)
    same = Detector.calibrate(model, np.load(parts / "good.npy"))
    np.testing.assert_array_equal(detector.calibration, same.calibration)


def test_a_rate_without_support_and_other_bad_input_is_one_line(parts, tmp_path, capsys):
    good = str(parts / "good.npy")
    np.save(tmp_path / "few.npy", bars(19, seed=2))
    np.save(
        tmp_path / "colour.npy", np.zeros((30, 6, 6, 3), np.uint8) + np.arange(3, dtype=np.uint8)
    )
    for arguments, words in (
        (["--calibrate", good, "--false-alarms", "0.001"], "takes 1332 calibration images"),
        (["--calibrate", good, "--false-alarms", "0"], "between 0 and 1"),
        (["--calibrate", str(tmp_path / "few.npy")], "at least 20 images. Received: 19"),
        (["--calibrate", str(tmp_path / "colour.npy")], "model's shape (6, 6, 1)"),
        (["--calibrate", str(tmp_path / "none")], "must be one of"),
        (["--calibrate", good, "--score", "luck"], "score must be one of: statistics"),
    ):
        (parts / FILE).unlink(missing_ok=True)
        assert detect(parts, *arguments, to="refused") == 2
        error = capsys.readouterr().err.strip()
        assert error.startswith("Error: ")
        assert words in error
        assert len(error.splitlines()) == 1
        assert not (parts / "refused").exists()
    assert detect(parts) == 2
    assert "--calibrate must name normal images" in capsys.readouterr().err


def test_calibration_images_that_a_run_trained_on_are_refused(parts, capsys):
    good = np.load(parts / "good.npy")
    with files.atomic_write(parts / "trained_on.npy") as file:
        np.save(file, store.digests(good[40:43]))
    try:
        assert detect(parts, "--calibrate", str(parts / "good.npy")) == 2
        assert "Received: 3 of 160 images that it trained on" in capsys.readouterr().err
    finally:
        (parts / "trained_on.npy").unlink()


def test_a_detector_of_other_weights_is_refused(parts, calibration, capsys):
    other = parts / "other"
    other.mkdir()
    small_vae(seed=3).save(other / "model.keras")
    files.write_text(other / FILE, calibration)
    places = ["--data", str(parts / "new parts"), "--to", str(other / "verdicts")]
    assert main(["detect", "--model", str(other / "model.keras"), *places]) == 2
    assert "other weights" in capsys.readouterr().err
    assert detect(parts, "--score", "pixel") == 2
    assert "--score without --calibrate" in capsys.readouterr().err


def test_verdicts_do_not_need_a_calibration_that_can_be_kept(parts, capsys, monkeypatch):
    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Detector, "save", refuse)
    assert detect(parts, "--calibrate", str(parts / "good.npy")) == 0
    assert "The calibration could not be kept: Permission denied." in capsys.readouterr().out
