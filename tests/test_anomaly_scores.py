"""The parts of anomaly scores against exact values."""

import io
import math

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from tests.conftest import images, small_vae
from vae_keras import Bernoulli, ContinuousBernoulli, anomaly_scores
from vae_keras.anomaly_scores import Statistics


def test_complexity_is_the_length_of_an_adaptive_code():
    """A coder that counts symbol by symbol, against the closed form. All activity is 0 here."""
    row = np.array([5, 5, 5, 5, 5, 5], np.uint8)
    x = np.repeat(row[np.newaxis], 4, axis=0)
    counts = np.full((8, 256), 1 / 16)
    nats = 0.0
    padded = np.pad(x.astype(int), ((1, 0), (1, 0)))
    for i, j in np.ndindex(x.shape):
        left, above, corner = padded[i + 1, j], padded[i, j + 1], padded[i, j]
        low, high = min(left, above), max(left, above)
        guess = low if corner >= high else high if corner <= low else left + above - corner
        context = sum(
            abs(left - corner) + abs(above - corner) >= np.array([1, 3, 8, 20, 50, 100, 180])
        )
        table, symbol = counts[context], (x[i, j] - guess) % 256
        nats -= math.log(table[symbol] / table.sum())
        table[symbol] += 1
    found = anomaly_scores.complexity(tf.constant(x[np.newaxis, ..., np.newaxis] / np.float32(255)))
    assert found.numpy()[0] == pytest.approx(nats, rel=1e-4)


def test_complexity_orders_images_as_png_does():
    rng = np.random.default_rng(0)
    x = [np.full((64, 64), 90), np.arange(64)[None] + np.arange(64)[:, None]]
    x += [np.clip(rng.normal(128, spread, (64, 64)), 0, 255) for spread in (1, 4, 16, 64)]
    x = np.stack(x).astype(np.uint8)
    ours = anomaly_scores.complexity(tf.constant(x[..., np.newaxis] / np.float32(255))).numpy()
    sizes = []
    for image in x:
        file = io.BytesIO()
        Image.fromarray(image).save(file, "PNG", optimize=True)
        sizes.append(len(file.getvalue()) * 8 * math.log(2))
    assert (np.argsort(ours[2:]) == np.argsort(sizes[2:])).all()
    assert ours[:2].max() < ours[2:].min()
    np.testing.assert_allclose(ours[3:], sizes[3:], rtol=0.1)  # nothing predicts noise


def test_the_code_length_of_a_pixel_is_that_of_its_residual():
    x = np.full((1, 6, 6, 1), 100, np.uint8)
    x[0, 3, 3] = 140
    nats = anomaly_scores.pixel_code_length(tf.constant(x / np.float32(255))).numpy()[0]
    expected = np.zeros((6, 6))
    expected[3, 3] = expected[3, 4] = expected[4, 3] = np.log(41)
    expected[4, 3] = expected[3, 4] = np.log(41)
    # The pixel below and to the right has a corner outside of its neighbours' range.
    np.testing.assert_allclose(nats, expected, atol=1e-5)


def test_complexity_of_colours_that_agree_is_small():
    grey = np.random.default_rng(0).integers(0, 256, (1, 32, 32, 1)).astype(np.float32) / 255
    one, three = anomaly_scores.complexity(grey), anomaly_scores.complexity(np.repeat(grey, 3, -1))
    assert three < 1.4 * one


@pytest.mark.parametrize("likelihood", [Bernoulli(), ContinuousBernoulli()])
def test_the_deviance_is_a_divergence(likelihood):
    """It is KL(mean = x || mean = m): 0 where the mean fits, and positive elsewhere."""
    vae = small_vae(likelihood=likelihood, binarization="none")
    x = images(4, seed=1)
    deviance = anomaly_scores.pixel_deviance(vae, tf.constant(x)).numpy()
    assert (deviance > -1e-4).all()
    fitted = vae.reconstruct(x)
    parameters = vae.decoder(vae.encode_tensors(tf.constant(x)).loc)
    best = likelihood.distribution(parameters).log_prob(fitted)  # its mean has the best parameter
    found = tf.reduce_sum(
        anomaly_scores._best_log_prob(likelihood, tf.constant(fitted)), axis=[1, 2, 3]
    )
    np.testing.assert_allclose(best, found, atol=0.01)


def test_the_deviance_of_bernoulli_pixels_by_hand(vae):
    x = images(3, seed=2)
    p = vae.reconstruct(x)
    exact = x * np.log(x / p) + (1 - x) * np.log((1 - x) / (1 - p))
    found = anomaly_scores.pixel_deviance(vae, tf.constant(x))
    np.testing.assert_allclose(found, exact[..., 0], atol=0.01)


def test_smoothing_keeps_the_mean_of_a_flat_map_and_spreads_a_point():
    point = np.zeros((1, 31, 31), np.float32)
    point[0, 15, 15] = 1
    spread = anomaly_scores.smoothed(tf.constant(point), 2.0).numpy()[0]
    assert spread.sum() == pytest.approx(1.0, abs=1e-5)
    assert spread[15, 15] == pytest.approx(1 / (2 * np.pi * 4), rel=0.02)
    at = np.arange(31) - 15
    assert (spread.sum(axis=0) * at**2).sum() == pytest.approx(4.0, rel=0.05)
    thin = anomaly_scores.smoothed(tf.ones([1, 1, 5]), 9.0)
    np.testing.assert_allclose(thin, 1.0, rtol=1e-6)


def test_statistics_are_whitened():
    rng = np.random.default_rng(3)
    values = rng.gamma(2.0, size=(6, 400)).astype(np.float32) * 100
    found = Statistics(*map(tf.constant, values))
    constants = anomaly_scores.fit("statistics", found)
    scores = anomaly_scores.score("statistics", found, constants).numpy()
    assert scores.mean() == pytest.approx(6.0, rel=0.05)  # the mean of a chi-squared with 6 degrees
    assert anomaly_scores.fit("likelihood", found) == {}


def test_no_number_is_as_unusual_as_can_be():
    found = Statistics(*[tf.constant([np.nan, 1.0])] * 6)
    for name in anomaly_scores.SCORES:
        constants = {"center": np.float32(0), "whitening": np.eye(6, dtype=np.float32)}
        scores = anomaly_scores.score(name, found, constants).numpy()
        assert scores[0] == np.inf
        assert np.isfinite(scores[1])
