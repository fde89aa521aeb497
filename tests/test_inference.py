"""Flat and top-down inference against quantities that can be computed in another way."""

import itertools
import math

import numpy as np
import pytest
import tensorflow as tf

from vae_keras import distributions, inference
from vae_keras.distributions import StandardNormal, tfd
from vae_keras.objectives import IWAE, elbo_terms, log_weights

SIZE = 2
IMAGES = np.array([[1.0, 0.0], [0.0, 0.0], [1.0, 1.0]], np.float32)
CONTEXT = [
    np.array([[0.4], [-0.9], [0.1]], np.float32),
    np.array([[0.2], [0.3], [-1.0]], np.float32),
]


def walk(context, noise):
    """Two latents, one below the other: the second's loc and scale depend on the first one."""
    above, below = context
    loc, scale = 0.8 * above, 1.1 + 0.0 * above
    first = loc + scale * noise[:, :1]
    second_loc, second_scale = tf.sin(first) * 0.7 + below, 0.9 + 0.3 * tf.sigmoid(first)
    second = second_loc + second_scale * noise[:, 1:]
    logits = tf.concat([first - second, first * second + 0.5], axis=1)
    return inference.Path(
        tf.concat([first, second], 1),
        tf.concat([loc, second_loc], 1),
        tf.concat([scale, second_scale], 1),
        logits,
    )


def bernoulli(logits):
    return tfd.Independent(tfd.Bernoulli(logits=logits, dtype=tf.float32), 1)


def top_down(context=CONTEXT):
    return inference.top_down(
        walk,
        [tf.constant(part) for part in context],
        StandardNormal().distribution(SIZE),
        bernoulli,
    )


def decode(z):
    first, second = z[:, :1], z[:, 1:]
    return np.concatenate([first - second, first * second + 0.5], axis=1)


def normal(rows, *samples, seed=0):
    return np.random.default_rng(seed).standard_normal((rows, *samples, SIZE)).astype(np.float32)


def log_evidence(image):
    """log p(x) by quadrature over both latents."""
    line = np.linspace(-7, 7, 601)
    z = np.array(list(itertools.product(line, line)))
    logits = decode(z)
    log_joint = (image * logits - np.logaddexp(0, logits)).sum(1) - 0.5 * (z**2).sum(1)
    cell = math.log(line[1] - line[0])
    return float(np.logaddexp.reduce(log_joint) - math.log(2 * math.pi) + 2 * cell)


def test_the_weights_of_top_down_samples_average_to_the_evidence():
    draw = top_down()(normal(3, 100_000))
    log_weight, _ = log_weights(IMAGES[:, np.newaxis], draw)
    found = tf.reduce_logsumexp(log_weight, axis=1) - math.log(100_000)
    np.testing.assert_allclose(found, [log_evidence(image) for image in IMAGES], atol=0.01)


def test_the_kl_of_a_path_has_the_expectation_of_the_log_ratio():
    draw = top_down()(normal(3, 100_000))
    ratio = draw.log_posterior - draw.log_prior
    np.testing.assert_allclose(
        tf.reduce_mean(draw.kl, axis=1), tf.reduce_mean(ratio, axis=1), atol=0.02
    )
    assert float(tf.math.reduce_std(draw.kl[0])) > 0  # it depends on the sample above


def test_the_elbo_of_a_top_down_model_lies_below_the_evidence():
    repeated = [np.repeat(part, 20_000, axis=0) for part in CONTEXT]
    terms = elbo_terms(np.repeat(IMAGES, 20_000, axis=0), top_down(repeated)(normal(60_000)))
    means = tf.reduce_mean(tf.reshape(terms.elbo, [3, -1]), axis=1)
    assert np.all(means.numpy() < [log_evidence(image) for image in IMAGES])


def test_samples_of_an_image_are_those_of_the_image_by_itself():
    noise = normal(3, 4)
    together = top_down()(noise)
    for sample in range(4):
        one = top_down()(noise[:, sample])
        np.testing.assert_allclose(together.latents[:, sample], one.latents, rtol=1e-6)
        for part in ("kl", "log_prior", "log_posterior"):
            np.testing.assert_allclose(
                getattr(together, part)[:, sample], getattr(one, part), rtol=1e-5
            )


@pytest.mark.parametrize("objective", [IWAE(3), IWAE(1)], ids=["three", "one"])
def test_the_gradient_of_a_top_down_bound_is_the_total_derivative(objective):
    """Finite differences of the bound in the context, with the noise held fixed."""
    noise = normal(3, objective.num_samples).reshape(3, -1)

    def bound(context):
        infer = inference.top_down(walk, context, StandardNormal().distribution(SIZE), bernoulli)
        return objective(IMAGES, infer, noise)[0]

    context = [tf.constant(part) for part in CONTEXT]
    with tf.GradientTape() as tape:
        tape.watch(context)
        value = bound(context)
    gradients = tape.gradient(value, context)
    for index, gradient in enumerate(gradients):
        shifted = [
            bound([part + sign * 1e-2 * (i == index) for i, part in enumerate(context)])
            for sign in (-1.0, 1.0)
        ]
        difference = (shifted[1] - shifted[0]) / 2e-2
        np.testing.assert_allclose(gradient[:, 0], difference, rtol=0.01, atol=2e-3)


def test_a_resampled_gradient_has_the_expectation_of_the_whole():
    rows = 4000
    places = tf.math.ndtri((np.arange(rows, dtype=np.float32) + 0.5) / rows)[:, np.newaxis]
    draws = np.repeat(normal(1, 5).reshape(1, -1), rows, axis=0)
    image = np.repeat(IMAGES[:1], rows, axis=0)

    def gradient(objective, noise):
        parts = [tf.constant(part[:1]) for part in CONTEXT]
        with tf.GradientTape() as tape:
            tape.watch(parts)
            infer = top_down([tf.repeat(part, rows, axis=0) for part in parts])
            value = tf.reduce_mean(objective(image, infer, noise)[0])
        return tape.gradient(value, parts)

    whole = gradient(IWAE(5), draws)
    one = gradient(IWAE(5, 1), np.concatenate([draws, places], axis=1))
    for ours, theirs in zip(one, whole, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=2e-3, atol=2e-4)


def test_flat_samples_broadcast_over_images():
    posterior = distributions.posterior(np.float32([[0.4, -0.3], [1.0, 0.5]]))
    infer = inference.flat(
        posterior, StandardNormal().distribution(1), lambda z: bernoulli(z * [1.0, 2.0])
    )
    noise = normal(2, 3)[..., :1]
    draw = infer(noise)
    assert draw.latents.shape == (2, 3, 1)
    for sample in range(3):
        one = infer(noise[:, sample])
        np.testing.assert_allclose(draw.log_posterior[:, sample], one.log_posterior, rtol=1e-6)
        np.testing.assert_allclose(draw.kl[:, 0], one.kl, rtol=1e-6)
