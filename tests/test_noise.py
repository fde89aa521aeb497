"""The random numbers are a pure function of (seed, stream, step, row)."""

import random

import numpy as np
import pytest
import tensorflow as tf

from vae_keras import noise
from vae_keras.noise import Stream

both = pytest.mark.parametrize("draw", [noise.normal, noise.bits16])
sizes = pytest.mark.parametrize("size", [1, 3, 4, 5, 8, 9, 50])


def global_states(action) -> list:
    """Sets the global generators, runs `action` and returns the states of the generators."""
    random.seed(5)
    np.random.seed(5)
    tf.random.set_seed(5)
    tf.random.get_global_generator().reset_from_seed(5)
    action()
    numpy_state = [np.asarray(part).tolist() for part in np.random.get_state()]
    generator = tf.random.get_global_generator().state.numpy().tolist()
    return [random.getstate(), numpy_state, float(tf.random.uniform([])), generator]


def reseed_globals(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed)
    tf.random.set_seed(seed)


def kolmogorov(uniform: np.ndarray) -> float:
    """Returns sqrt(n) times the largest distance from the uniform distribution function."""
    ordered, n = np.sort(uniform.ravel()), uniform.size
    above = np.arange(1, n + 1) / n - ordered
    return float(np.sqrt(n) * max(above.max(), (1 / n - above).max()))


@both
@sizes
def test_a_row_does_not_depend_on_the_rows_drawn_with_it(draw, size):
    whole = draw(7, Stream.PRIOR, rows=11, size=size, step=3).numpy()
    prefix = draw(7, Stream.PRIOR, rows=4, size=size, step=3).numpy()
    middle = draw(7, Stream.PRIOR, rows=5, size=size, step=3, row=6).numpy()
    assert whole.shape == (11, size)
    np.testing.assert_array_equal(prefix, whole[:4])
    np.testing.assert_array_equal(middle, whole[6:])


@both
def test_many_rows_drawn_at_once_equal_the_rows_drawn_one_by_one(draw):
    # TensorFlow splits large draws over threads.
    whole = draw(0, Stream.PRIOR, rows=5000, size=101).numpy()
    for row in (0, 1, 2499, 4999):
        alone = draw(0, Stream.PRIOR, rows=1, size=101, row=row).numpy()
        np.testing.assert_array_equal(alone[0], whole[row])


@both
@pytest.mark.parametrize(
    "other",
    [
        {"seed": 8},
        {"seed": 2**31 - 1},
        {"stream": Stream.UNIFORM},
        {"step": 1},
        {"step": 2**40},
        {"row": 6},
        {"row": 2**33},
    ],
)
def test_seeds_streams_steps_and_rows_never_share_numbers(draw, other):
    place = {"seed": 7, "stream": Stream.PRIOR, "step": 0, "row": 0, "rows": 6, "size": 20}
    same = draw(**place).numpy() == draw(**(place | other)).numpy()
    assert same.mean() < 0.05


@both
def test_streams_differ(draw):
    rows = [draw(0, stream, rows=1, size=8).numpy().tobytes() for stream in Stream]
    assert len(set(rows)) == len(Stream)


@both
@sizes
def test_rows_of_a_draw_differ(draw, size):
    rows = draw(0, Stream.PRIOR, rows=100, size=size).numpy()
    assert len(np.unique(rows, axis=0)) >= 99  # two rows of 16 bits may be equal by chance


@both
def test_tensors_and_graphs_give_the_numbers_of_python_integers(draw):
    @tf.function
    def in_graph(seed, rows, step, row):
        return draw(seed, Stream.PRIOR, rows=rows, size=7, step=step, row=row)

    expected = draw(3, Stream.PRIOR, rows=4, size=7, step=9, row=2).numpy()
    for dtype in (tf.int32, tf.int64):
        seed, step, row = (tf.constant(value, dtype) for value in (3, 9, 2))
        np.testing.assert_array_equal(in_graph(seed, tf.constant(4), step, row), expected)


@both
def test_a_vector_of_steps_gives_the_draws_of_each_step(draw):
    steps, place = [7, 8, 2**40], {"rows": 5, "size": 21, "row": 3}
    together = draw(3, Stream.SPLIT, step=tf.constant(steps, tf.int64), **place)
    each = tf.stack([draw(3, Stream.SPLIT, step=step, **place) for step in steps])
    assert together.shape == (3, 5, 21)
    assert together.dtype == each.dtype
    np.testing.assert_allclose(together, each, rtol=0, atol=3e-6)


def test_the_width_is_known_in_a_graph():
    @tf.function(input_signature=[tf.TensorSpec([], tf.int32)])
    def shapes(rows):
        normal = noise.normal(0, Stream.PRIOR, rows=rows, size=5)
        bits = noise.bits16(0, Stream.PRIOR, rows=rows, size=5)
        assert normal.shape.as_list() == bits.shape.as_list() == [None, 5]
        return normal

    assert shapes(2).shape == (2, 5)


def test_normal_numbers_have_the_moments_of_the_normal():
    x = noise.normal(0, Stream.TRAIN_LATENTS, rows=4000, size=25).numpy().astype(np.float64)
    # The moments' standard errors are sqrt(1, 2, 15, 96) / sqrt(n).
    for power, expected, variance in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)):
        error = np.sqrt(variance / x.size)
        assert abs((x**power).mean() - expected) < 4 * error, power


def test_normal_numbers_follow_the_normal_distribution_function():
    x = noise.normal(1, Stream.PRIOR, rows=4000, size=10).numpy().astype(np.float64)
    cdf = 0.5 * (1.0 + tf.math.erf(x / np.sqrt(2.0)).numpy())
    assert kolmogorov(cdf) < 1.95  # exceeded by chance once in a thousand


def test_normal_numbers_of_neighbouring_places_are_uncorrelated():
    x = noise.normal(0, Stream.PRIOR, rows=20000, size=6).numpy()
    following = noise.normal(0, Stream.PRIOR, rows=20000, size=6, step=1).numpy()
    correlations = np.corrcoef(np.concatenate([x, following, np.roll(x, 1, axis=0)], axis=1).T)
    assert np.abs(correlations - np.eye(18)).max() < 5 / np.sqrt(20000)


def test_bits_are_uniform_on_sixteen_bits():
    bits = noise.bits16(0, Stream.TRAIN_PIXELS, rows=500, size=801).numpy()
    assert bits.dtype == np.uint16
    assert bits.min() < 10
    assert bits.max() > 65525
    assert kolmogorov((bits + np.float64(0.5)) / 65536) < 1.95


@pytest.mark.parametrize("bit", range(16))
def test_every_bit_is_set_half_of_the_time(bit):
    bits = noise.bits16(2, Stream.TRAIN_PIXELS, rows=200, size=500).numpy()
    assert abs(((bits >> bit) & 1).mean() - 0.5) < 4 * 0.5 / np.sqrt(bits.size)


@both
def test_the_global_generators_are_not_read(draw):
    reseed_globals(1)
    first = draw(0, Stream.PRIOR, rows=3, size=5).numpy()
    reseed_globals(2)
    np.testing.assert_array_equal(draw(0, Stream.PRIOR, rows=3, size=5).numpy(), first)


@both
def test_the_global_generators_are_not_written(draw):
    before = global_states(lambda: None)
    assert global_states(lambda: draw(0, Stream.PRIOR, rows=3, size=5)) == before
