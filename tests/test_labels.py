"""Labels: how they are read, the bound of missing ones, and Bayes' rule, against enumeration."""

import numpy as np
import pytest
import tensorflow as tf

from vae_keras import labels
from vae_keras.objectives import Terms
from vae_keras.utils import checks

K, ROWS = 3, 5
NAMES = ("cat", "dog", "emu")
RNG = np.random.default_rng(0)
LOG_LIKELIHOOD = tf.constant(RNG.normal(-5.0, 2.0, (ROWS, K)), tf.float32)
KL = tf.constant(RNG.gamma(2.0, 1.0, (ROWS, K)), tf.float32)
LOGITS = tf.constant(RNG.normal(size=(ROWS, K)), tf.float32)
LOG_PRIOR = tf.math.log(tf.constant([0.5, 0.3, 0.2]))
KNOWN = np.array([-1, 2, -1, 0, -1])


def classes(may_miss: bool = True) -> labels.Classes:
    return labels.Classes(K, NAMES, may_miss)


def by_table(images, noise, one_hot):
    """A bound whose value for image i and class y stands in the tables; it weighs the KL by 2."""
    cell = tf.stack([tf.cast(images, tf.int32), tf.argmax(one_hot, 1, tf.int32)], axis=1)
    log_likelihood, kl = tf.gather_nd(LOG_LIKELIHOOD, cell), tf.gather_nd(KL, cell)
    return log_likelihood - 2.0 * kl, Terms(log_likelihood - kl, log_likelihood, kl)


def marginal(logits=LOGITS, known=KNOWN, weight=1.5):
    one_hot = tf.constant(classes().one_hot(known))
    images, noise = tf.range(float(ROWS)), tf.zeros((ROWS, 1))
    return labels.marginal(by_table, images, noise, one_hot, logits, LOG_PRIOR, weight)


def test_the_marginal_bound_equals_the_sum_over_the_classes():
    objective, terms = marginal()
    log_q = np.log(np.exp(LOGITS) / np.exp(LOGITS).sum(1, keepdims=True))
    for i, label in enumerate(KNOWN):
        if label >= 0:
            log_likelihood, kl = LOG_LIKELIHOOD[i, label], KL[i, label]
            value = log_likelihood - 2.0 * kl + 1.5 * log_q[i, label]
        else:
            q = np.exp(log_q[i])
            gap = sum(q[y] * (log_q[i, y] - LOG_PRIOR[y]) for y in range(K))
            log_likelihood = sum(q[y] * LOG_LIKELIHOOD[i, y] for y in range(K))
            kl = sum(q[y] * KL[i, y] for y in range(K)) + gap
            value = sum(q[y] * (LOG_LIKELIHOOD[i, y] - 2.0 * KL[i, y]) for y in range(K)) - gap
        np.testing.assert_allclose(objective[i], value, rtol=1e-5)
        np.testing.assert_allclose(terms.log_likelihood[i], log_likelihood, rtol=1e-5)
        np.testing.assert_allclose(terms.kl[i], kl, rtol=1e-5)
        np.testing.assert_allclose(terms.elbo[i], log_likelihood - kl, rtol=1e-5)


def test_the_best_classifier_is_bayes_rule_and_closes_the_gap():
    none = np.full(ROWS, labels.MISSING)
    joint = LOG_LIKELIHOOD - 2.0 * KL + LOG_PRIOR
    best = tf.Variable(joint)
    with tf.GradientTape() as tape:
        objective, _ = marginal(best, none)
    np.testing.assert_allclose(objective, tf.reduce_logsumexp(joint, axis=1), rtol=1e-5)
    np.testing.assert_allclose(tape.gradient(objective, best), np.zeros((ROWS, K)), atol=1e-5)
    assert np.all(marginal(LOGITS, none)[0] < objective)


def test_the_gradient_is_that_of_finite_differences():
    logits = tf.Variable(LOGITS)
    with tf.GradientTape() as tape:
        total = tf.reduce_sum(marginal(logits)[0])
    found = tape.gradient(total, logits).numpy()
    step = 1e-2
    for cell in np.ndindex(ROWS, K):
        moved = np.zeros((ROWS, K), np.float32)
        moved[cell] = step
        up, down = (tf.reduce_sum(marginal(LOGITS + s * moved)[0]) for s in (1, -1))
        np.testing.assert_allclose(found[cell], (up - down) / (2 * step), rtol=2e-2, atol=2e-3)


def log_weights(samples: int, seed: int) -> tf.Tensor:
    """Importance weights of normals with a known mean, which the classes share in part."""
    rng = np.random.default_rng(seed)
    shared, own = rng.normal(size=(1, samples)), rng.normal(size=(K, samples))
    spread = np.array([[0.3], [0.5], [0.7]])
    weights = 0.4 * shared + spread * own + np.log([[3.0], [2.0], [1.0]])
    return tf.constant(weights - (0.4**2 + spread**2) / 2, tf.float32)  # E exp is 3, 2 and 1


def test_bayes_rule_and_its_standard_error():
    exact = np.array([3.0, 2.0, 1.0]) * np.exp(LOG_PRIOR)
    exact = np.log(exact / exact.sum())
    found = [labels.bayes(log_weights(400, seed), LOG_PRIOR) for seed in range(300)]
    log_prob = np.array([each[0] for each in found])
    errors = np.array([each[1] for each in found])
    np.testing.assert_allclose(log_prob.mean(0), exact, atol=4 * log_prob.std(0).max() / 300**0.5)
    np.testing.assert_allclose(errors.mean(0), log_prob.std(0), rtol=0.15)
    np.testing.assert_allclose(np.exp(log_prob).sum(1), 1.0, rtol=1e-5)


@pytest.mark.parametrize(
    "given",
    [
        [2, -1, 0],
        np.array([[2], [-1], [0]]),
        np.array([2.0, -1.0, 0.0]),
        ["emu", "", "cat"],
        np.array(["emu", "", "cat"], object),
        np.array([b"emu", b"", b"cat"]),
    ],
)
def test_labels_are_read_alike_in_arrays_and_in_graphs(given):
    assert classes().numbers(given, 3).tolist() == [2, -1, 0]
    array = np.asarray(given)
    tensor = tf.constant(array.astype(object) if array.dtype.kind in "US" else array)
    found = tf.function(classes().tensor)(tensor)
    assert found.numpy().tolist() == [2, -1, 0]
    assert classes().one_hot(found.numpy()).tolist() == [[0, 0, 1], [0, 0, 0], [1, 0, 0]]


def test_an_unsigned_type_that_turned_minus_one_into_another_number_is_named():
    given = np.where([True, False], np.array([1, 2], np.uint8), -1)
    with pytest.raises(
        checks.InputError, match=r"Received: 255, in an array of uint8, which holds no -1"
    ):
        labels.Classes(3, (), may_miss=True).numbers(given, 2)


def test_one_label_stands_for_all_rows():
    assert classes().numbers("dog", 3).tolist() == [1, 1, 1]


def test_frequencies_leave_missing_labels_out():
    assert classes().frequencies(np.array([0, -1, 1, 2, 0])).tolist() == [0.5, 0.25, 0.25]


def test_confusion_counts_known_labels():
    found = labels.confusion(np.array([0, 0, 2, -1]), np.array([0, 1, 2, 2]), 3)
    assert found.tolist() == [[1, 1, 0], [0, 0, 0], [0, 0, 1]]
