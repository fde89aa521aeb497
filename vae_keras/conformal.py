"""Conformal p-values: the rank of a score among calibration scores, exact for any sample size.

A p-value is the share of scores that are at least as high, where the score itself counts as one of
them. If an image comes from the same source as the n calibration images, its p-value is at most
j / (n + 1) with a probability of at most j / (n + 1), for each j. Without equal scores the
probability is exactly j / (n + 1). Nothing is assumed about the distribution of the scores.

References:
    Vovk et al. 2005, "Algorithmic learning in a random world", section 2.2.
    Bates et al. 2023, "Testing for outliers with conformal p-values".
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import tensorflow as tf

from vae_keras.utils import checks


def p_values(calibration: Any, scores: Any) -> np.ndarray:
    """Returns the conformal p-value of each score. A low one is unusual.

    Args:
        calibration: scores of n calibration images, finite, [n], in any order.
        scores: scores of new images, [N]. A higher score is more unusual. Equal scores count as at
            least as high.

    Returns:
        float64 [N], whole multiples of 1 / (n + 1) from 1 / (n + 1) to 1.

    Example:
        >>> p_values([1.0, 2.0, 2.0, 3.0], [0.0, 2.0, 9.0]).tolist()
        [1.0, 0.8, 0.2]
    """
    ordered = np.sort(np.asarray(calibration))
    as_high = len(ordered) - np.searchsorted(ordered, np.asarray(scores), side="left")
    return (1.0 + as_high) / (len(ordered) + 1.0)


def p_value_tensors(calibration: np.ndarray, scores: tf.Tensor) -> tf.Tensor:
    """Returns what `p_values` returns, inside a graph.

    Args:
        calibration: float32 [n], sorted.
        scores: float32 [N], without NaN.

    Returns:
        float64 [N]. In float32, a p-value of 0.1 would be higher than the rate 0.1.

    Example:
        >>> p_value_tensors(np.float32([1, 2, 2, 3]), tf.constant([0.0, 2.0, 9.0])).numpy()
        array([1. , 0.8, 0.2])
    """
    lower = tf.searchsorted(tf.constant(calibration, tf.float32), scores, side="left")
    # A graph would divide by multiplying with a rounded reciprocal. A table has the quotients.
    table = np.arange(len(calibration) + 1, 0, -1) / (len(calibration) + 1.0)
    return tf.gather(tf.constant(table, tf.float64), lower)


def images_needed(rate: float) -> int:
    """Returns how many calibration images a rate of false alarms takes: 1 / (n + 1) <= rate.

    Args:
        rate: rate of false alarms, between 0 and 1.

    Example:
        >>> images_needed(0.01), images_needed(0.05)
        (99, 19)
    """
    count = max(1, math.ceil(1.0 / rate) - 1)
    # The quotient is rounded, and the comparison with a p-value is not.
    while 1.0 / (count + 1.0) > rate:
        count += 1
    while count > 1 and 1.0 / count <= rate:
        count -= 1
    return count


def alarms_allowed(calibrated: int, rate: float) -> int:
    """Returns the largest j with j / (n + 1) <= rate.

    Args:
        calibrated: number n of calibration images.
        rate: rate of false alarms, between 0 and 1.

    Example:
        >>> alarms_allowed(99, 0.01), alarms_allowed(98, 0.01)
        (1, 0)
    """
    allowed = math.floor(rate * (calibrated + 1.0)) + 1  # rounding may have lost one
    while allowed / (calibrated + 1.0) > rate:
        allowed -= 1
    return allowed


def threshold(calibration: Any, rate: float) -> float:
    """Returns the calibration line: p <= rate holds for the scores above it, and only for them.

    Args:
        calibration: scores of n calibration images, [n].
        rate: rate of false alarms, between 0 and 1.

    Returns:
        The score, one of the calibration scores.

    Raises:
        checks.InputError: if the calibration images cannot support the rate.

    Example:
        >>> threshold(np.arange(99), 0.05)
        94.0
    """
    require_support(len(calibration), rate)
    return float(np.sort(np.asarray(calibration))[-alarms_allowed(len(calibration), rate)])


def require_support(calibrated: int, rate: float, share: float = 1.0) -> None:
    """Refuses a rate of false alarms that is below the lowest possible p-value.

    Args:
        calibrated: number of images whose scores calibrate.
        rate: rate of false alarms, between 0 and 1.
        share: share of the calibration images whose scores calibrate; the others fit the score.
            Default 1.

    Raises:
        checks.InputError: with the number of calibration images that the rate takes.
    """
    needed = images_needed(checks.fraction("false_alarms", rate))
    if calibrated < needed:
        raise checks.InputError(
            f"a rate of {rate:g} false alarms takes {math.ceil(needed / share)} calibration "
            f"images. Received: {round(calibrated / share)}. Calibrate with more images, or ask "
            f"for a rate of at least {1.0 / (calibrated + 1.0):.4g}."
        )


def benjamini_hochberg(p: Any, rate: float) -> np.ndarray:
    """Returns which images are anomalies so that few of the flagged ones are false alarms.

    The procedure controls the false discovery rate: the expected share of normal images among the
    flagged ones is at most `rate`. It does not control the share of normal images that are flagged.
    Conformal p-values that share their calibration images depend on one another in a way that keeps
    this control.

    Args:
        p: conformal p-values of all images together, [N].
        rate: highest expected share of false alarms among the flagged images, between 0 and 1.

    Returns:
        bool [N].

    Example:
        >>> benjamini_hochberg([0.01, 0.02, 0.5, 0.9], rate=0.05).tolist()
        [True, True, False, False]

    References:
        Benjamini & Hochberg 1995, "Controlling the false discovery rate", section 3.
        Bates et al. 2023, "Testing for outliers with conformal p-values", theorem 2.
    """
    p = np.asarray(p, np.float64)
    ordered = np.sort(p)
    # A p-value on the line passes, also where both products were rounded apart.
    line = rate * np.arange(1, len(p) + 1) * (1.0 + 1e-12)
    passed = np.flatnonzero(ordered * len(p) <= line)
    if not len(passed):
        return np.zeros(len(p), bool)
    return p <= ordered[passed[-1]]


def false_alarm_band(
    calibrated: int, tested: int, rate: float, coverage: float = 0.95
) -> tuple[int, int]:
    """Returns between which counts the false alarms among normal images lie.

    The count is Beta-binomial: it varies with the calibration images and with the tested ones. It
    is exact for scores without ties.

    Args:
        calibrated: number n of calibration images.
        tested: number of tested images, all of them normal.
        rate: rate of false alarms, between 0 and 1.
        coverage: probability of the band, between 0 and 1. Default 0.95.

    Returns:
        The lowest and the highest count of a band that leaves at most (1 - coverage) / 2 on each
        side.

    Example:
        >>> false_alarm_band(999, 1000, 0.01)
        (3, 20)

    References:
        Vovk 2012, "Conditional validity of inductive conformal predictors", proposition 2b.
    """
    allowed = alarms_allowed(calibrated, rate)
    if allowed == 0:
        return 0, 0
    # With j alarms allowed, the probability of an alarm is Beta(j, n + 1 - j) distributed.
    a, b = float(allowed), float(calibrated + 1 - allowed)
    counts = np.arange(tested + 1)
    log_gamma = np.array([math.lgamma(k + 1.0) for k in counts])
    choices = log_gamma[-1] - log_gamma - log_gamma[::-1]
    alarms = np.array([math.lgamma(k + a) for k in counts])
    silent = np.array([math.lgamma(tested - k + b) for k in counts])
    log_mass = choices + alarms + silent - math.lgamma(tested + a + b)
    log_mass += math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b)
    below = np.cumsum(np.exp(log_mass))
    tail = 0.5 * (1.0 - coverage)
    low = int(np.searchsorted(below, tail, side="right"))
    high = int(np.searchsorted(below, 1.0 - tail, side="left"))
    return low, min(high, tested)
