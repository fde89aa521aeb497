"""Hypothesis makes shapes, dtypes, weights and batch sizes; no outcome but two is right.

Either the figures are those of the plain loop in `reference.py`, or the call is refused in one
sentence and nothing has changed. The models are made once and shared by all examples.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import hypothesis.strategies as st
import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import HealthCheck, given, settings

from tests.conformance import configurations as table
from tests.conformance import reference
from vae_keras import VAE, MLPDecoder, MLPEncoder

SHAPE = (4, 4, 1)
LONGEST = 500
FEW = settings(
    max_examples=10,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)


@pytest.fixture(scope="module")
def vae():
    """A model whose weights no training moves, with noise that no counter changes."""
    model = VAE(MLPEncoder(2, (4,)), MLPDecoder(SHAPE, (4,)), binarization="threshold")
    model.compile(keras.optimizers.SGD(0.0), jit_compile=False)
    return model


@pytest.fixture(scope="module")
def trains():
    """A model with a rate above 0."""
    model = VAE(MLPEncoder(2, (4,)), MLPDecoder(SHAPE, (4,)))
    model.compile(keras.optimizers.Adam(1e-3, weight_decay=0.1), jit_compile=False)
    model.fit(np.zeros((4, *SHAPE), np.float32), verbose=0)
    return model


# ---------------------------------------------------------------------------------- inputs

DTYPES = ("uint8", "int32", "int64", "uint16", "bool", "float16", "float32", "float64", "bfloat16")


@st.composite
def images(draw: Any) -> np.ndarray:
    """Images that are right as a rule; the shape, the dtype or a value may be wrong."""
    rows = draw(st.integers(1, 20))
    shape = draw(
        st.sampled_from([SHAPE] * 6 + [SHAPE[:2], (4, 4, 3), (1, 4, 4), (5, 4, 1), (16,), (4,)])
    )
    dtype = draw(st.sampled_from(DTYPES))
    rng = np.random.default_rng(draw(st.integers(0, 100)))
    levels = rng.integers(0, 256, (rows, *shape))
    if "int" in dtype:
        x = levels.astype(dtype)
    elif dtype == "bool":
        x = levels > 127
    elif dtype == "bfloat16":
        x = tf.cast(levels / 255.0, tf.bfloat16).numpy()
    else:
        x = (levels / 255.0).astype(dtype)
    wrong = draw(st.sampled_from([None] * 5 + ["large", "negative", "nan", "inf"]))
    if wrong and dtype in ("float16", "float32", "float64", "int32", "int64"):
        value = {"large": 300, "negative": -1, "nan": np.nan, "inf": np.inf}[wrong]
        if np.isfinite(value) or "float" in dtype:
            x.flat[draw(st.integers(0, x.size - 1))] = value
    return x


@st.composite
def weights(draw: Any, rows: int) -> np.ndarray | None:
    """Weights that are right as a rule, of the shapes [N] and [N, 1]."""
    kind = draw(st.sampled_from(["none", "none", "ones", "some", "some", "column", "wrong"]))
    rng = np.random.default_rng(draw(st.integers(0, 100)))
    some = rng.uniform(0, 3, rows) * (rng.random(rows) < 0.8)
    if kind == "none":
        return None
    if kind == "wrong":
        wrong = {
            "negative": some - 1.0,
            "nan": np.where(some > 0, np.nan, 1.0),
            "zero": np.zeros(rows),
            "short": np.ones(max(rows - 1, 0) or 2),
            "square": np.ones((rows, 2)),
            "pixels": np.ones((rows, 4, 4)),
        }
        return wrong[draw(st.sampled_from(sorted(wrong)))]
    dtype = draw(st.sampled_from(["float32", "float64", "int64", "bool"]))
    made = (np.ones(rows) if kind == "ones" else some).astype(dtype)
    return made[:, None] if kind == "column" else made


@st.composite
def inputs(draw: Any) -> tuple[np.ndarray, np.ndarray | None, int]:
    """Images, weights or None, and a batch size."""
    x = draw(images())
    return x, draw(weights(len(x))), draw(st.integers(1, 25))


# ----------------------------------------------------------------------------- expectation


def expected(vae: VAE, x: np.ndarray, w: np.ndarray | None) -> dict[str, float] | None:
    """The figures of the plain loop, or None when the data cannot be right."""
    x = np.asarray(x)
    if x.ndim == 3:
        x = x[..., None]
    if x.shape[1:] != SHAPE:
        return None
    numbers = x.astype(np.float64)
    top = 255 if x.dtype.kind in "iu" else 1
    if not (np.isfinite(numbers).all() and numbers.min() >= 0 and numbers.max() <= top):
        return None
    scale = 255.0 if x.dtype.kind in "iu" else 1.0
    if w is not None:
        w = np.asarray(w)
        if w.ndim == 2 and w.shape[1] == 1:
            w = w[:, 0]
        if w.shape != (len(x),) or not np.isfinite(w).all() or w.min() < 0 or w.max() <= 0:
            return None
    pixels = (numbers / scale).astype(np.float32)
    return reference.Loop(vae, vae.optimizer).evaluate(reference.batches(pixels, w))


def outcome(action: Callable[[], Any]) -> tuple[Any, str]:
    """What an action returns and "", or None and the sentence that it is refused with."""
    try:
        return action(), ""
    except ValueError as error:
        said = str(error)
    assert said
    assert len(said) < LONGEST, said
    assert "\n" not in said.strip(), said
    return None, said


class State:
    """The weights and the optimizer's variables, and the metrics unless a pass resets them."""

    def __init__(self, vae: VAE, with_metrics: bool = False) -> None:
        self.numbers = [np.array(v) for v in (*vae.variables, *vae.optimizer.variables)]
        if with_metrics:
            self.numbers += [np.array(float(metric.result())) for metric in vae.metrics]

    def assert_is(self, other: State) -> None:
        for mine, theirs in zip(self.numbers, other.numbers, strict=True):
            np.testing.assert_array_equal(mine, theirs)


def assert_one_of_two(vae: VAE, action: Any, x: Any, w: Any, may_refuse: bool = False) -> None:
    """Runs an action and checks that it is right, or refused in one sentence."""
    want, before = expected(vae, x, w), State(vae)
    got, said = outcome(action)
    before.assert_is(State(vae))
    if said:
        assert want is None or may_refuse, f"refused what is right: {said}"
        return
    assert want is not None, "nothing was said of data that cannot be right"
    for name, value in want.items():
        np.testing.assert_allclose(got[name], value, rtol=5e-5, atol=1e-4, err_msg=name)


def batched(x: Any, w: Any, size: int) -> tf.data.Dataset:
    labels = np.zeros(len(x))
    data = (x,) if w is None else (x, labels, w)
    return tf.data.Dataset.from_tensor_slices(data).batch(size)


def is_even(x: Any, w: Any) -> bool:
    """Whether a dataset can be made of the columns at all."""
    return w is None or len(w) == len(x)


how_many = pytest.mark.parametrize("examples", [5, pytest.param(100, marks=pytest.mark.slow)])


def examine(check: Callable[[Any, Any, int], None], examples: int) -> None:
    """Calls a check with generated images, weights and batch sizes."""

    @settings(FEW, max_examples=examples)
    @given(inputs())
    def run(case: tuple[Any, Any, int]) -> None:
        check(*case)

    run()


@how_many
def test_arrays_are_measured_or_refused(vae, examples):
    def check(x, w, size):
        assert_one_of_two(
            vae,
            lambda: vae.evaluate(x, sample_weight=w, batch_size=size, verbose=0, return_dict=True),
            x,
            w,
            may_refuse=str(x.dtype) == "bfloat16",
        )

    examine(check, examples)


@how_many
def test_datasets_are_measured_or_refused(vae, examples):
    def check(x, w, size):
        if is_even(x, w):
            measure = lambda: vae.evaluate(batched(x, w, size), verbose=0, return_dict=True)  # noqa: E731
            assert_one_of_two(vae, measure, x, w)

    examine(check, examples)


@how_many
def test_single_batches_are_measured_or_refused(vae, examples):
    def check(x, w, _):
        assert_one_of_two(
            vae,
            lambda: vae.test_on_batch(x, sample_weight=w, return_dict=True),
            x,
            w,
            may_refuse=str(x.dtype) == "bfloat16",
        )

    examine(check, examples)


@how_many
def test_training_is_right_or_refused_before_anything_changed(trains, examples):
    """`fit` and `train_on_batch` either train, or change neither a weight nor a metric."""

    def check(x, w, size):
        is_wrong = expected(trains, x, w) is None
        for action in (
            lambda: trains.train_on_batch(x, sample_weight=w),
            lambda: trains.fit(x, sample_weight=w, batch_size=size, verbose=0),
        ):
            before = State(trains, with_metrics=True)
            _, said = outcome(action)
            assert bool(said) == is_wrong or str(x.dtype) == "bfloat16", said
            if said:
                before.assert_is(State(trains, with_metrics=True))

    examine(check, examples)


@how_many
def test_images_are_predicted_or_refused(vae, examples):
    def check(x, _, size):
        wanted = expected(vae, x, None)
        pixels = table.unit(x) if x.dtype.kind in "iu" else np.asarray(x, np.float32)
        for action in (
            lambda: vae.predict(x, batch_size=size, verbose=0),
            lambda: vae.predict_on_batch(x),
            lambda: vae.reconstruct(x),
        ):
            got, said = outcome(action)
            assert bool(said) == (wanted is None) or str(x.dtype) == "bfloat16", said
            if not said:
                want = vae(pixels.reshape(len(x), *SHAPE)).numpy()
                np.testing.assert_allclose(got, want, atol=1e-5)

    examine(check, examples)
