"""The signature `detect` answers as the detector in Python, and only a detector gives it."""

import json

import numpy as np
import pytest
import tensorflow as tf

from tests.conftest import images, seeds, slow_except, small_vae
from tests.export.conftest import SIGNATURES, differing, load, run, session_calls, traced
from vae_keras import anomaly_scores, export
from vae_keras.cli.main import main
from vae_keras.detection import Detector
from vae_keras.export import saved_model
from vae_keras.export.signatures import signatures
from vae_keras.utils import checks


def answers(detector: Detector, rows: int) -> dict[str, tuple[dict, dict]]:
    x = images(rows, seed=9)
    expected = {"score": detector.scores(x, seed=7), "p_value": detector.p_values(x, seed=7)}
    return {"detect": ({"images": x, "seeds": seeds(rows)}, expected)}


@pytest.fixture(scope="module")
def detector(small):
    return Detector.calibrate(small, images(60))


@pytest.fixture(scope="module")
def detecting(small, detector, tmp_path_factory):
    base = tmp_path_factory.mktemp("detecting")
    return export.export_saved_model(small, base, largest_batch=8, detector=detector)


@pytest.fixture(scope="module")
def served(detecting):
    return load(detecting)


@pytest.mark.parametrize("rows", [1, 3, 64])
def test_it_equals_the_detector_bit_for_bit(detector, served, rows):
    assert set(served) == {*SIGNATURES, "detect", "serving_default"}
    assert not differing(lambda name, inputs: run(served[name], inputs), answers(detector, rows))


def test_a_session_as_the_server_has_one_gives_the_same_bits(detector, detecting):
    with session_calls(detecting) as call:
        assert not differing(call, answers(detector, 5))


@pytest.mark.parametrize("score", slow_except(["complexity", "patch"], anomaly_scores.SCORES))
def test_every_score_is_served(small, score):
    detector = Detector.calibrate(small, images(60), score=score)
    graph = traced(signatures(small, 2, detector)["detect"])
    assert not differing(lambda _, inputs: run(graph, inputs), answers(detector, 4))


def test_a_verdict_can_be_read_from_a_p_value(served):
    """In float32, a p-value of 0.1 would lie above the rate 0.1."""
    outputs = served["detect"].structured_outputs
    assert outputs["p_value"].dtype == tf.float64
    assert outputs["score"].dtype == tf.float32


def test_bad_requests_are_refused(served):
    good = {"images": images(2), "seeds": seeds(2)}
    for bad, words in (
        ({"images": np.full((2, 6, 6, 1), np.nan, np.float32)}, "must be finite"),
        ({"images": images(3)}, "equally many rows"),
        ({"seeds": -seeds(2)}, "whole numbers >= 0"),
    ):
        with pytest.raises(tf.errors.InvalidArgumentError, match=words):
            run(served["detect"], good | bad)


def test_the_golden_file_has_it(detecting):
    cases = json.loads((detecting / saved_model.GOLDEN_FILE).read_text())
    (case,) = [case for case in cases if case["request"]["signature_name"] == "detect"]
    assert set(case["response"]["outputs"]) == {"score", "p_value"}


def test_a_detector_of_another_model_is_refused(small, detector, tmp_path):
    with pytest.raises(checks.InputError, match="a detector of its own model"):
        export.export_saved_model(small_vae(), tmp_path, detector=detector)
    assert not list(tmp_path.iterdir())


def test_the_command_exports_the_detector_beside_the_model(
    small, detector, tmp_path, monkeypatch, capsys
):
    given = []
    monkeypatch.setattr(
        export, "export_saved_model", lambda *_, detector: given.append(detector) or "served/1"
    )
    small.save(tmp_path / "model.keras")
    arguments = ["export", "--model", str(tmp_path / "model.keras"), "--to", str(tmp_path / "to")]
    assert main(arguments) == 0
    detector.save(tmp_path / "model.keras")
    assert main(arguments) == 0
    assert given[0] is None
    np.testing.assert_array_equal(given[1].calibration, detector.calibration)
