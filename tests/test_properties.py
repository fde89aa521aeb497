"""Whatever the shapes and the legal values: finite numbers, documented shapes, equal sums."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tests.conftest import covering, slow_except, small_vae
from vae_keras import VAE, MLPDecoder, MLPEncoder, data, distributions, evaluation
from vae_keras.data import pipelines
from vae_keras.utils import checks, files

QUICK = settings(max_examples=25, deadline=None, derandomize=True)
SLOW = settings(max_examples=3, deadline=None, derandomize=True)  # each traces graphs of its own

SIZES = st.tuples(st.integers(1, 9), st.integers(1, 9), st.sampled_from([1, 3]))
VAES = small_vae()
LIMIT = 1e4  # of a logit, on either side


def images(shape):
    return st.one_of(
        hnp.arrays(np.uint8, shape),
        hnp.arrays(np.float32, shape, elements=st.floats(0.0, 1.0, width=32)),
    )


def answer(check, *arguments):
    """What a check returns, or None and the message of its refusal."""
    try:
        return check(*arguments), ""
    except checks.InputError as error:
        return None, str(error)


# ----------------------------------------------------------------------------------- shapes


@SLOW
@given(SIZES, st.integers(1, 5), st.integers(1, 4), st.data())
def test_any_image_shape_trains_and_answers_in_the_documented_shapes(size, rows, latent_dim, draw):
    vae = VAE(MLPEncoder(latent_dim, hidden=(4,)), MLPDecoder(size, hidden=(4,)))
    vae.compile(jit_compile=False)
    x = draw.draw(images((rows, *size)))
    batch_size = draw.draw(st.integers(1, rows))
    history = vae.fit(x, batch_size=batch_size, epochs=2, verbose=0).history
    assert all(np.isfinite(values).all() for values in history.values())
    assert [part.shape for part in vae.encode(x)] == [(rows, latent_dim)] * 2
    assert vae.reconstruct(x).shape == vae.predict(x, verbose=0).shape == (rows, *size)
    assert vae.sample(rows).shape == (rows, *size)
    assert vae.interpolate(x, x[::-1], steps=2).shape == (rows, 2, *size)
    assert vae.elbo(x).elbo.shape == (rows,)


@SLOW
@given(st.integers(1, 40), st.integers(1, 40))
def test_any_batch_size_measures_the_same(rows, batch_size):
    """Also one image, a batch of one, and a ragged last batch."""
    x = data.binarize(np.random.default_rng(rows).integers(0, 256, (rows, 6, 6, 1), np.uint8), 0)
    expected = VAES.elbo(data.binarize(x, 0), 0).elbo.mean(dtype=np.float64)
    logs = VAES.evaluate(x, batch_size=min(batch_size, rows), verbose=0, return_dict=True)
    assert logs["elbo"] == pytest.approx(expected, rel=1e-5)


@settings(QUICK, max_examples=8)  # each builds a pipeline
@given(st.integers(1, 50), st.integers(1, 50), st.integers(1, 8), st.integers(0, 2**31 - 1))
def test_any_stack_serves_each_row_once(rows, batch_size, stack_size, seed):
    x = np.arange(rows, dtype=np.float32).reshape(rows, 1, 1, 1)
    calls = -(-rows // (batch_size * stack_size))
    served = pipelines.stacks(x, np.ones(rows, np.float32), batch_size, stack_size, seed)
    stacks = list(served.take(calls).as_numpy_iterator())
    held = np.concatenate([stack.examples.ravel()[stack.weights.ravel() > 0] for stack in stacks])
    np.testing.assert_array_equal(np.sort(held), np.arange(rows))
    assert sum(int(stack.steps) for stack in stacks) == -(-rows // batch_size)


# ----------------------------------------------------------------------------------- values


@QUICK
@given(hnp.arrays(np.uint8, (3, 4, 5, 1)), st.integers(0, 2**31 - 1))
def test_binarization_keeps_black_and_white_and_the_other_values_are_bits(x, seed):
    bits = data.binarize(x, seed)
    assert set(np.unique(bits)) <= {0.0, 1.0}
    assert (bits[x == 0] == 0).all()
    assert (bits[x == 255] == 1).all()
    np.testing.assert_array_equal(data.binarize(bits, seed), bits)  # nothing is left to draw


@QUICK
@given(
    hnp.arrays(np.float32, (2, 6), elements=st.floats(-LIMIT, LIMIT, width=32)),
    hnp.arrays(np.float32, (2, 6), elements=st.floats(0.0, 1.0, width=32)),
)
def test_the_likelihood_and_its_gradient_are_right_and_finite_at_any_logit(logits, x):
    logits, x = (tf.constant(part.reshape(2, 2, 3, 1)) for part in (logits, x))
    with tf.GradientTape() as tape:
        tape.watch(logits)
        value = distributions.Bernoulli().distribution(logits).log_prob(x)
    exact = np.float64(logits)
    expected = (np.float64(x) * exact - np.logaddexp(0.0, exact)).sum(axis=(1, 2, 3))
    np.testing.assert_allclose(value, expected, rtol=1e-5, atol=1e-5)
    assert np.isfinite(tape.gradient(value, logits)).all()


@QUICK
@given(
    hnp.arrays(np.float32, (2, 8), elements=st.floats(-LIMIT, LIMIT, width=32)),
    hnp.arrays(np.float32, (2, 4), elements=st.floats(-6.0, 6.0, width=32)),
)
def test_the_posterior_is_finite_at_any_parameter_and_its_kl_is_not_negative(parameters, noise):
    parameters = tf.constant(parameters)
    with tf.GradientTape() as tape:
        tape.watch(parameters)
        posterior = distributions.posterior(parameters)
        prior = distributions.StandardNormal().distribution(4)
        kl = distributions.kl_divergence(posterior, prior, posterior.mean())
    assert (posterior.distribution.scale.numpy() >= distributions.SCALE_FLOOR).all()
    assert np.isfinite(distributions.reparameterize(posterior, tf.constant(noise))).all()
    assert np.isfinite(kl).all()
    assert (kl.numpy() >= -1e-4).all()
    assert np.isfinite(tape.gradient(kl, parameters)).all()


@pytest.mark.parametrize("value", [0, 255])
@pytest.mark.parametrize("jit_compile", slow_except([False], [True, False]))
def test_black_and_white_images_train_to_finite_numbers(value, jit_compile):
    x = np.full((20, 6, 6, 1), value, np.uint8)
    vae = small_vae()
    vae.compile(keras.optimizers.Adam(0.05), jit_compile=jit_compile)
    history = vae.fit(x, batch_size=7, epochs=20, verbose=0).history
    assert np.isfinite([history[name] for name in history]).all()
    assert history["elbo"][-1] > history["elbo"][0]
    assert np.abs(vae.reconstruct(x) * 255.0 - value).max() < 64.0


@pytest.mark.parametrize(("sign", "jit_compile"), covering([-1.0, 1.0], [True, False]))
def test_a_model_at_its_limits_trains_and_measures_in_finite_numbers(digits, sign, jit_compile):
    """Logits of +-1e4, and scales at their floor."""
    vae = small_vae()
    vae.decoder.weights[-1].assign(np.full(36, sign * LIMIT))
    vae.encoder.weights[-1].assign([0.0] * 3 + [-LIMIT] * 3)
    vae.compile(keras.optimizers.SGD(1e-9), jit_compile=jit_compile)
    np.testing.assert_allclose(vae.encode(digits).scale, distributions.SCALE_FLOOR, rtol=1e-6)
    history = vae.fit(digits, batch_size=7, verbose=0).history
    assert np.isfinite(list(history.values())).all()
    assert np.isfinite(vae.evaluate(digits, verbose=0)).all()
    binary = data.binarize(digits[:2], 0)
    likelihood = evaluation.estimate_log_likelihood(vae, binary, 8, verbose=False)
    assert np.isfinite(likelihood.estimate.per_example).all()
    assert np.isfinite(likelihood.effective_sample_size).all()


@QUICK
@given(
    hnp.arrays(
        st.sampled_from([np.float32, np.float64, np.int16, np.uint8, np.bool_]),
        hnp.array_shapes(min_dims=0, max_dims=5, min_side=0, max_side=4),
    )
)
def test_images_are_taken_whole_or_refused_in_one_line(x):
    taken, message = answer(checks.images, x)
    if taken is None:
        assert "Received: " in message
        assert "\n" not in message
        return
    assert taken.ndim == 4
    assert taken.dtype in (np.uint8, np.float32)
    top = 255 if taken.dtype == np.uint8 else 1
    assert taken.min() >= 0
    assert taken.max() <= top
    np.testing.assert_allclose(taken.reshape(x.shape), x, rtol=1e-6)


@QUICK
@given(st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(), st.binary()))
def test_counts_are_whole_or_refused_in_one_line(value):
    taken, message = answer(checks.whole_number, "n", value, 1, 100)
    if taken is None:
        assert message.startswith("n must be a whole number from 1 to 100. Received: ")
        assert "\n" not in message
    else:
        assert taken in range(1, 101)


JSON = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.floats(allow_nan=False, allow_infinity=False),
        st.text(),
    ),
    lambda inner: st.one_of(st.lists(inner), st.dictionaries(st.text(), inner)),
    max_leaves=8,
)


@QUICK
@given(JSON)
def test_json_comes_back_as_it_was(tmp_path_factory, value):
    path = tmp_path_factory.mktemp("json") / "value.json"
    files.write_json(path, value)
    assert json.loads(path.read_text(encoding="utf-8")) == value
