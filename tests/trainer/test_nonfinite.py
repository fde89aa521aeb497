"""A non-finite number ends training at its step, is named, and is never saved."""

import contextlib
import re

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.conftest import slow_except, small_vae
from vae_keras import objectives
from vae_keras.data import pipelines
from vae_keras.trainer import nonfinite, step
from vae_keras.trainer.nonfinite import Diverged
from vae_keras.training import checkpoints

MODES = {
    "stack, XLA": {"jit_compile": True, "steps_per_execution": 4},
    "stack": {"jit_compile": False, "steps_per_execution": 4},
    "one by one": {"jit_compile": False, "steps_per_execution": 1},
    "eager": {"run_eagerly": True},
    "mirrored": {"jit_compile": False},
}
BAD_STEP = 5  # the second batch of the second compiled call


@tf.custom_gradient
def spoilt_on_the_way_back(x, bad):
    return tf.identity(x), lambda upstream: (tf.where(bad, np.nan, upstream), None)


PLACES = nonfinite.places(objectives.Terms._fields)


@keras.saving.register_keras_serializable(package="tests")
class Poisoned(objectives.ELBO):
    """An ELBO that spoils one place at one step."""

    __module__ = "vae_keras.tests"  # the trainer knows that it treats each row by itself

    def __init__(self, place="", value=np.nan):
        super().__init__()
        self.place, self.value = place, value

    def __call__(self, x, infer, noise, step=None):
        _, (elbo, log_likelihood, kl) = super().__call__(x, infer, noise)
        bad = tf.equal(step, BAD_STEP)
        if self.place == "kl":
            kl = tf.where(bad, self.value, kl)
        if self.place == "log_likelihood":
            log_likelihood = tf.where(bad, self.value, log_likelihood)
        elbo = log_likelihood - kl
        if self.place == "elbo":
            elbo = tf.where(bad, self.value, elbo)
        objective = elbo
        if self.place == "loss":
            objective = tf.where(bad, self.value, objective)
        if self.place == "gradient":
            objective = spoilt_on_the_way_back(objective, bad)
        return objective, objectives.Terms(elbo, log_likelihood, kl)


def poisoned(place, value=np.nan, parts=dict, **options):
    vae = small_vae(objective=Poisoned(place, value), **parts())
    vae.compile(keras.optimizers.Adam(0.01), **options)
    vae.optimizer.build(vae.trainable_variables)
    return vae


def scope_of(mode):
    """Inside of the scope of a strategy, one replica takes the steps of several ones."""
    if mode != "mirrored":
        return contextlib.nullcontext()
    one = tf.distribute.ReductionToOneDevice()
    return tf.distribute.MirroredStrategy(["CPU:0"], one).scope()


CASES = [("stack", place) for place in PLACES[:-1]] + [
    (mode, place) for mode in MODES if mode != "stack" for place in ("kl", "gradient")
]
SLOW_CASES = (
    *(("stack", place) for place in ("elbo", "log_likelihood", "loss")),
    *((mode, "kl") for mode in ("stack, XLA", "one by one", "mirrored", "eager")),
)


@pytest.mark.parametrize(
    ("mode", "place"),
    [pytest.param(*case, marks=pytest.mark.slow if case in SLOW_CASES else ()) for case in CASES],
)
def test_the_step_and_the_place_are_named_and_no_later_step_is_taken(digits, mode, place):
    with scope_of(mode):
        vae = poisoned(place, **MODES[mode])
        with pytest.raises(Diverged) as caught:
            vae.fit(digits, batch_size=6, epochs=3, verbose=0)
    assert (caught.value.step, caught.value.place) == (BAD_STEP, place)
    assert vae.optimizer.iterations.numpy() == BAD_STEP + 1
    if place == "gradient":  # which is held back
        nonfinite.require_finite(vae.variables, BAD_STEP)


def test_gradients_of_a_step_with_a_fault_are_held_back():
    gradients = [tf.constant([1.0, np.nan]), None, tf.constant([[2.0]])]
    sound = nonfinite.hold_back(tf.constant(0), gradients)
    assert sound[1] is None
    for given, held in ((gradients[0], sound[0]), (gradients[2], sound[2])):
        np.testing.assert_array_equal(given, held)
    held = nonfinite.hold_back(tf.constant(1 + PLACES.index("gradient")), gradients)
    assert held[1] is None
    np.testing.assert_array_equal(held[0], [0.0, 0.0])
    np.testing.assert_array_equal(held[2], [[0.0]])


@pytest.mark.slow
def test_the_compiled_step_copies_no_kernel(digits):
    """What holding back is for, beside the bad step: XLA changes every kernel in place."""
    vae = small_vae()
    vae.compile(keras.optimizers.Adam(0.01), jit_compile=True)
    vae.optimizer.build(vae.trainable_variables)
    stack = next(iter(pipelines.stacks(digits, np.ones(len(digits), np.float32), 6, 2)))
    draws = vae.draws(6, tf.range(2), 0, training=True)

    @tf.function(jit_compile=True, autograph=False)
    def kernel(images, weights, steps, bits, noise):
        stack = pipelines.Stack(images, weights, steps)
        return step.many_steps(vae, stack, type(draws)(bits, noise), training=True)

    compiled = kernel.experimental_get_compiler_ir(*stack, *draws)(stage="optimized_hlo")
    copied = set(re.findall(r"f32\[(\d+,\d+)\]\S* copy\(", compiled))
    kernels = {"{},{}".format(*kernel.shape) for kernel in vae.trainable_variables[::2]}
    assert "36,8" in kernels
    assert not kernels & copied


def without_biases():
    layers = [keras.layers.Flatten(), keras.layers.Dense(6, use_bias=False)]
    encoder = keras.Sequential([keras.Input((6, 6, 1)), *layers])
    layers = [keras.layers.Dense(36, use_bias=False), keras.layers.Reshape((6, 6, 1))]
    return {"encoder": encoder, "decoder": keras.Sequential([keras.Input((3,)), *layers])}


def test_a_bad_gradient_of_a_network_without_biases_is_found_at_its_step(digits):
    vae = poisoned("gradient", parts=without_biases, jit_compile=False)
    with pytest.raises(Diverged) as caught:
        vae.fit(digits, batch_size=6, epochs=3, verbose=0)
    assert (caught.value.step, caught.value.place) == (BAD_STEP, "gradient")


@pytest.mark.parametrize("value", slow_except([np.inf], [np.inf, -np.inf]))
def test_infinity_is_as_bad(digits, value):
    vae = poisoned("log_likelihood", value, jit_compile=False)
    with pytest.raises(Diverged, match="at step 5, first in the log likelihood"):
        vae.fit(digits, batch_size=6, verbose=0)


def test_datasets_are_watched_too_within_several_steps_a_call(digits):
    for steps in (1, 4):
        vae = poisoned("kl", jit_compile=False, steps_per_execution=steps)
        with pytest.raises(Diverged) as caught:
            vae.fit(tf.data.Dataset.from_tensor_slices(digits).batch(6), verbose=0)
        assert (caught.value.step, caught.value.place) == (BAD_STEP, "kl")


def test_weights_that_a_last_step_spoils_are_found_at_the_end(vae, digits):
    class Overflow(keras.optimizers.SGD):
        def update_step(self, gradient, variable, learning_rate):
            variable.assign(tf.fill(variable.shape, np.inf))

    vae.compile(Overflow(), jit_compile=False)
    with pytest.raises(Diverged, match="at step 0, first in the weights"):
        vae.fit(digits, batch_size=60, verbose=0)


def test_the_model_can_be_used_after_it(digits):
    vae = poisoned("kl", jit_compile=False)
    weights = vae.get_weights()
    with pytest.raises(Diverged):
        vae.fit(digits, batch_size=6, verbose=0)
    vae.set_weights(weights)
    vae.compile(jit_compile=False)
    vae.objective.place = ""
    assert np.isfinite(vae.fit(digits, batch_size=6, verbose=0).history["elbo"]).all()


def test_a_sound_run_is_the_same_bit_for_bit(digits):
    """Watching changes no number: the objective with its places unspoilt is the plain one."""
    weights = []
    for vae in (poisoned("", jit_compile=False), small_vae()):
        vae.compile(keras.optimizers.Adam(0.01), jit_compile=False)
        vae.fit(digits, batch_size=6, verbose=0)
        weights.append(vae.get_weights())
    for a, b in zip(*weights, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("where", ["weights", "optimizer"])
def test_a_checkpoint_of_spoilt_numbers_is_not_written(vae, tmp_path, where):
    vae.compile("adam", jit_compile=False)
    vae.optimizer.build(vae.trainable_variables)
    variables = vae.trainable_variables if where == "weights" else vae.optimizer.variables[2:]
    variables[0].assign(tf.fill(variables[0].shape, np.nan))
    with pytest.raises(Diverged, match="first in the weights"):
        checkpoints.save(tmp_path, vae, checkpoints.Progress(1, 0, [], []))
    assert list(tmp_path.iterdir()) == []
