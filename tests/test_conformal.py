"""Conformal p-values: ranks, ties, exact rates, and the false discovery rate."""

import itertools

import numpy as np
import pytest
import tensorflow as tf

from vae_keras import conformal
from vae_keras.utils import checks

RATES = (0.1, 0.05, 0.01)


def rolled(rng, size):
    """Scores with many ties."""
    return rng.integers(0, 20, size).astype(np.float32)


@pytest.mark.parametrize("draw", [rolled, lambda rng, size: rng.normal(size=size)])
def test_p_values_equal_those_of_crepes(draw):
    base = pytest.importorskip("crepes.base", reason="needs the extra [test]")
    rng = np.random.default_rng(0)
    calibration, scores = draw(rng, 150), draw(rng, 400)
    expected = base.p_values_batch(calibration, scores, smoothing=False)
    np.testing.assert_allclose(conformal.p_values(calibration, scores), expected, rtol=1e-15)


def test_p_values_in_a_graph_are_the_same_bits():
    rng = np.random.default_rng(1)
    calibration, scores = np.sort(rolled(rng, 99)), rolled(rng, 200)
    p = tf.function(lambda x: conformal.p_value_tensors(calibration, x))(tf.constant(scores))
    np.testing.assert_array_equal(p.numpy(), conformal.p_values(calibration, scores))


def test_the_rate_is_exact_over_all_orders():
    """Each of n + 1 exchangeable scores is as likely as the others to be the new one."""
    scores = np.array([3.0, 1.0, 4.0, 1.5, 9.0, 2.6, 5.0])
    p = np.array(
        [conformal.p_values(np.delete(scores, new), scores[[new]])[0] for new in range(len(scores))]
    )
    for j in range(1, len(scores) + 1):
        assert (p <= j / len(scores)).mean() == j / len(scores)


def test_ties_never_raise_the_rate():
    for scores in itertools.product((0.0, 1.0, 2.0), repeat=6):
        scores = np.array(scores)
        p = np.array([conformal.p_values(np.delete(scores, i), scores[[i]])[0] for i in range(6)])
        for j in range(1, 7):
            assert (p <= j / 6).mean() <= j / 6


@pytest.mark.parametrize("rate", RATES)
def test_realised_rates_lie_in_the_beta_binomial_band(rate):
    """200 random splits of images: one in twenty may lie outside of the 95% band."""
    rng = np.random.default_rng(2)
    inside = 0
    for _ in range(200):
        scores = rng.gamma(
            2.0, size=900
        )  # new images each time, so that the splits are independent
        alarms = (conformal.p_values(scores[:400], scores[400:]) <= rate).sum()
        low, high = conformal.false_alarm_band(400, 500, rate)
        inside += low <= alarms <= high
    assert inside >= 184  # a binomial of 200 at 0.95 lies below with a probability of 0.01


def test_the_band_is_that_of_simulated_counts():
    rng = np.random.default_rng(3)
    counts = rng.binomial(50, rng.beta(3, 27, size=200_000))  # n = 29, a rate of 0.1
    low, high = conformal.false_alarm_band(29, 50, 0.1)
    assert (counts < low).mean() <= 0.025 < (counts <= low).mean()
    assert (counts > high).mean() <= 0.026 < (counts >= high).mean()


@pytest.mark.parametrize("rate", [*RATES, 0.3, 1 / 3, 0.001, 0.0101])
def test_the_line_separates_what_the_p_values_separate(rate):
    rng = np.random.default_rng(4)
    needed = conformal.images_needed(rate)
    assert 1 / (needed + 1) <= rate < 1 / max(needed, 1)
    for count in (needed, needed + 1, 2 * needed + 5):
        calibration = rng.integers(0, 50, count)
        scores = np.arange(-1, 52)
        line = conformal.threshold(calibration, rate)
        flagged = conformal.p_values(calibration, scores) <= rate
        np.testing.assert_array_equal(scores > line, flagged)
    with pytest.raises(checks.InputError, match=f"takes {needed} calibration images"):
        conformal.require_support(needed - 1, rate)


def test_an_unsupported_rate_names_the_images_that_it_takes_with_those_that_fit_the_score():
    with pytest.raises(checks.InputError, match=r"takes 132 calibration images\. Received: 100"):
        conformal.require_support(75, 0.01, share=0.75)


def test_benjamini_hochberg_controls_the_share_of_false_alarms():
    rng = np.random.default_rng(5)
    shares, found = [], []
    for _ in range(300):
        calibration = rng.normal(size=300)
        normal, unusual = rng.normal(size=80), rng.normal(4.0, size=20)
        p = conformal.p_values(calibration, np.concatenate([normal, unusual]))
        flagged = conformal.benjamini_hochberg(p, 0.2)
        shares.append(flagged[:80].sum() / max(flagged.sum(), 1))
        found.append(flagged[80:].mean())
    error = np.std(shares) / np.sqrt(len(shares))
    # The expectation is the rate times the share of normal images.
    assert np.mean(shares) <= 0.2 * 0.8 + 3 * error
    assert np.mean(found) > 0.9


def test_benjamini_hochberg_by_hand():
    p = np.array([0.04, 0.001, 0.03, 0.019, 0.9])
    assert conformal.benjamini_hochberg(p, 0.05).tolist() == [True, True, True, True, False]
    assert not conformal.benjamini_hochberg([0.5, 0.06], 0.05).any()


@pytest.mark.parametrize("needed", [48, 97, 102, 106, 195])
def test_a_rate_of_one_in_n_takes_no_image_too_many(needed):
    assert conformal.images_needed(1 / (needed + 1)) == needed


def test_a_p_value_on_the_line_of_benjamini_and_hochberg_passes():
    p = np.r_[np.full(35, 7 / 100), np.ones(15)]  # 35 of 50 at 0.1 * 35 / 50
    assert conformal.benjamini_hochberg(p, rate=0.1).sum() == 35
