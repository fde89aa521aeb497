"""Verdicts: the guarantee on a trained model, scores, heat maps, the file, and what is refused."""

import functools
import json

import numpy as np
import pytest
import tensorflow as tf

from tests.conftest import bars, images, small_vae
from vae_keras import (
    ContinuousBernoulli,
    DiscretizedLogisticMixture,
    MLPDecoder,
    anomaly_scores,
    conformal,
    detection,
    export,
)
from vae_keras.data import store
from vae_keras.detection import FILE, Detector, beside
from vae_keras.utils import checks, files


@pytest.fixture(scope="module")
def trained():
    vae = small_vae()
    vae.fit(bars(600, seed=1), batch_size=20, epochs=6, verbose=0)
    return vae


@pytest.fixture(scope="module")
def detector(trained):
    return Detector.calibrate(trained, bars(400, seed=2))


def other_likelihoods():
    levels = DiscretizedLogisticMixture(2)
    decoder = MLPDecoder(image_shape=(6, 6, levels.parameters_per_pixel(1)), hidden=(8,))
    return {
        "grey": {"likelihood": ContinuousBernoulli()},
        "levels": {"likelihood": levels, "decoder": decoder},
    }


@pytest.fixture(scope="module")
def held_out_scores(trained):
    """Returns the scores of 1,200 normal images, of each kind once."""

    @functools.cache
    def scores(score):
        fitting = Detector.calibrate(trained, bars(200, seed=3), score=score)
        return fitting.scores(bars(1200, seed=4))

    return scores


@pytest.mark.parametrize("score", ["statistics", "likelihood"])
@pytest.mark.parametrize("rate", [0.1, 0.05, 0.01])
def test_realised_rates_over_re_splits_lie_in_the_band(held_out_scores, score, rate):
    """200 re-splits of the same held-out images: calibration and normal images change places."""
    scores = held_out_scores(score)
    rng, realised = np.random.default_rng(5), []
    for _ in range(200):
        order = rng.permutation(len(scores))
        p = conformal.p_values(scores[order[:400]], scores[order[400:]])
        realised.append((p <= rate).sum())
    low, high = conformal.false_alarm_band(400, 800, rate)
    inside = np.mean([low <= count <= high for count in realised])
    assert inside >= 0.92
    # Over all re-splits the mean is the exact rate; re-splits of one set vary less than new sets.
    expected = conformal.alarms_allowed(400, rate) / 401 * 800
    assert abs(np.mean(realised) - expected) < 4 * np.std(realised) / np.sqrt(200) + 0.5


def test_unusual_images_are_found(detector):
    normal, noise = bars(200, seed=6), images(200)
    assert (detector.verdicts(noise).verdicts == "anomaly").mean() > 0.9
    low, high = conformal.false_alarm_band(len(detector.calibration), 200, 0.1)
    alarms = (detector.verdicts(normal, 0.1).verdicts == "anomaly").sum()
    assert low <= alarms <= high


def test_a_verdict_follows_from_the_p_value(detector):
    x = np.concatenate([bars(50, seed=6), (images(50) * 255).astype(np.uint8)])
    found = detector.verdicts(x, 0.05)
    np.testing.assert_array_equal(found.scores, detector.scores(x))
    np.testing.assert_array_equal(found.p_values, detector.p_values(x))
    np.testing.assert_array_equal(found.verdicts == "anomaly", found.p_values <= 0.05)
    line = conformal.threshold(detector.calibration, 0.05)
    np.testing.assert_array_equal(found.verdicts == "anomaly", found.scores > line)
    together = detector.verdicts(x, 0.05, procedure="benjamini_hochberg")
    expected = conformal.benjamini_hochberg(found.p_values, 0.05)
    np.testing.assert_array_equal(together.verdicts == "anomaly", expected)


@pytest.mark.parametrize("score", anomaly_scores.SCORES)
def test_every_score_calibrates_and_is_a_function_of_seed_and_row(trained, score):
    detector = Detector.calibrate(trained, bars(80, seed=2), score=score)
    x = bars(30, seed=7)
    whole = detector.scores(x, seed=3)
    assert whole.dtype == np.float32
    np.testing.assert_allclose(detector.scores(x[:10], seed=3), whole[:10], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(
        detector.scores(x / np.float32(255), seed=3), whole, rtol=1e-4, atol=1e-4
    )
    # Fitting is symmetric: scores in FITTED leave a quarter of the images out.
    assert len(detector.calibration) == (60 if score in anomaly_scores.FITTED else 80)


@pytest.mark.parametrize("kind", ["grey", "levels"])
def test_other_likelihoods_are_judged(kind):
    vae = small_vae(**other_likelihoods()[kind])
    x = bars(60, seed=8)
    detector = Detector.calibrate(vae, x)
    found = detector.verdicts(x, 0.1)
    assert np.isfinite(found.scores).all()
    black = np.zeros((1, 6, 6, 1), np.uint8)  # a set of them would be refused for training
    assert np.isfinite(detector.scores(black)).all()
    assert (detector.heat_maps(x) > -1e-3).all()


def test_a_likelihood_is_that_of_the_evaluation(trained):
    """On binary images -log p(x) is `estimate_log_likelihood` with other noise."""
    from vae_keras import evaluation

    x = (bars(100, seed=9) > 127).astype(np.float32)
    detector = Detector.calibrate(trained, x, score="likelihood", num_samples=2000)
    estimate = evaluation.estimate_log_likelihood(trained, x, 2000, verbose=False).estimate
    np.testing.assert_allclose(detector.scores(x), -estimate.per_example, atol=0.3)
    assert detector.scores(x).mean() == pytest.approx(-estimate.mean, abs=0.02)


def test_heat_maps_show_where(detector):
    x = bars(200, seed=11)
    x[:, 1, 1] = 255 - x[:, 1, 1]
    clean = detector.heat_maps(bars(200, seed=11))
    heat = detector.heat_maps(x)
    assert heat.shape == (200, 6, 6)
    assert heat.dtype == np.float32
    found = _statistics(detector, x)
    hottest = np.maximum(found.patch / detector.hot[0], found.detail / detector.hot[1])
    np.testing.assert_allclose(heat.max(axis=(1, 2)), hottest, rtol=1e-5)
    here = heat[:, 1, 1].mean() - clean[:, 1, 1].mean()
    assert here > 5 * abs(heat[:, 5, 5].mean() - clean[:, 5, 5].mean())
    assert np.mean(clean.max(axis=(1, 2)) > 1) < 0.08


def _statistics(detector, x):
    draws = tf.zeros([len(x), detector.num_samples, 3])
    pixels = tf.constant(x / np.float32(255))
    return anomaly_scores.statistics(detector.model, pixels, draws, detector.patch_scale)


def test_a_detector_is_saved_beside_its_model(detector, trained, tmp_path):
    path = detector.save(tmp_path / "model.keras")
    assert path == tmp_path / "detector.json"
    loaded = Detector.load(path, trained)
    x = images(30)
    for ours, theirs in zip(detector.verdicts(x), loaded.verdicts(x), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    np.testing.assert_array_equal(detector.heat_maps(x), loaded.heat_maps(x))
    assert loaded.save(tmp_path / "again.json").read_bytes() == path.read_bytes()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda text: text[: len(text) // 2], "must be sound"),
        (lambda text: text.replace('"fitted": 100', '"fitted": 101'), "hash"),
        (lambda text: text.replace('"format": 1', '"format": 2'), "format 1"),
        (lambda text: "[]", "must be sound"),
        (lambda text: "{}", "must be sound"),
    ],
)
def test_a_file_that_is_not_this_detector_is_refused(detector, trained, tmp_path, change, words):
    path = detector.save(tmp_path / "detector.json")
    text = path.read_text()
    assert change(text) != text
    path.write_text(change(text))
    with pytest.raises(checks.InputError, match=words):
        Detector.load(path, trained)


def test_a_detector_of_another_model_is_refused(detector, tmp_path):
    path = detector.save(tmp_path / "model.keras")
    with pytest.raises(checks.InputError, match="other weights"):
        Detector.load(path, small_vae(seed=1))
    with pytest.raises(FileNotFoundError):
        Detector.load(tmp_path / "none.json", detector.model)


def test_calibration_refuses_what_cannot_calibrate(trained):
    x = bars(60, seed=2)
    for bad, words in (
        (x[:19], "at least 20 images. Received: 19"),
        (x[:, :5], "model's shape"),
        (np.repeat(x, 3, axis=-1), "model's shape"),
        (np.where(x > 100, np.nan, x / 255.0), "finite"),
        (x.astype(np.float32), r"lie in \[0, 1\]"),
    ):
        with pytest.raises(checks.InputError, match=words):
            Detector.calibrate(trained, bad)
    for arguments, words in (
        ({"score": "luck"}, "must be one of"),
        ({"num_samples": 0}, "num_samples"),
        ({"patch_scale": 0}, "patch_scale"),
        ({"seed": -1}, "seed"),
        ({"trained_on": store.digests(x[5:8])}, "Received: 3 of 60 images that it trained on"),
    ):
        for form in (x, x / np.float32(255)):
            with pytest.raises(checks.InputError, match=words):
                Detector.calibrate(trained, form, **arguments)
    broken = small_vae()
    broken.set_weights([np.full_like(w, np.nan) for w in broken.get_weights()])
    with pytest.raises(checks.InputError, match="must be finite"):
        Detector.calibrate(broken, x)


def test_verdicts_refuse_what_cannot_be_judged(detector):
    x = bars(5, seed=2)
    with pytest.raises(checks.InputError, match="takes 1332 calibration images"):
        detector.verdicts(x, 0.001)
    for rate in (0, 1, "often", True):
        with pytest.raises(checks.InputError, match="false_alarms must lie between 0 and 1"):
            detector.verdicts(x, rate)
    with pytest.raises(checks.InputError, match="procedure"):
        detector.verdicts(x, procedure="none")
    for method in (detector.scores, detector.p_values, detector.verdicts, detector.heat_maps):
        with pytest.raises(checks.InputError, match="model's shape"):
            method(x[:, :5])
        with pytest.raises(checks.InputError, match="finite"):
            method(np.full((2, 6, 6), np.nan))
        with pytest.raises(checks.InputError, match="at least one image"):
            method(x[:0])


def test_the_statistics_are_those_behind_the_score(detector):
    x = bars(30, seed=12)
    found = anomaly_scores.Statistics(*map(tf.constant, detector.statistics(x, seed=1)))
    scores = anomaly_scores.score("statistics", found, detector.constants)
    np.testing.assert_allclose(scores, detector.scores(x, seed=1), rtol=1e-4, atol=1e-4)


def test_a_saved_detector_names_no_path_of_the_machine(detector, tmp_path):
    content = json.loads(detector.save(tmp_path / "detector.json").read_text())
    assert str(tmp_path) not in json.dumps(content)
    assert content["format"] == 1


def test_a_detector_belongs_to_the_weights_of_its_calibration(tmp_path):
    vae = small_vae()
    detector = Detector.calibrate(vae, images(60), score="complexity")
    vae.decoder.weights[-1].assign_add(tf.ones(36))
    for use in (
        lambda: detector.save(tmp_path / "model.keras"),
        lambda: detector.scores(images(2)),
        lambda: export.export_saved_model(vae, tmp_path, detector=detector),
    ):
        with pytest.raises(checks.InputError, match="other weights than at its calibration"):
            use()
    assert list(tmp_path.iterdir()) == []
    assert beside(tmp_path) == tmp_path / FILE  # of a folder with a model


def test_a_detector_belongs_to_the_binarization_of_its_calibration(tmp_path):
    vae = small_vae()
    detector = Detector.calibrate(vae, images(60), score="complexity")
    path = detector.save(tmp_path / "model.keras")
    vae.binarization = "threshold"
    for use in (
        lambda: detector.save(path),
        lambda: detector.verdicts(images(2), 0.1),
        lambda: detector.heat_maps(images(2)),
        lambda: Detector.load(path, vae),
    ):
        with pytest.raises(checks.InputError, match="'dynamic' at its calibration"):
            use()
    content = json.loads(path.read_text())
    del content["binarization"], content["sha256"]  # as the first detectors were saved
    files.write_json(path, {"sha256": detection._content_sha256(content)} | content)
    Detector.load(path, vae)
