"""Binarization: its probabilities, its seeds, and the same bits from every way of computing it."""

import numpy as np
import pytest
import tensorflow as tf

from vae_keras import data, noise
from vae_keras.utils import checks


def test_binarization_is_exact_at_black_and_white_and_unbiased_between():
    levels = np.repeat(np.arange(256, dtype=np.uint8), 4096).reshape(-1, 64, 64, 1)
    drawn = data.binarize(levels, seed=1).mean(axis=(1, 2, 3))
    assert drawn[0] == 0.0
    assert drawn[255] == 1.0
    p = np.arange(256) / 255.0
    error = np.sqrt(p * (1 - p) / 4096) + 1e-9
    assert np.abs((drawn - p) / error).max() < 4.5


def test_binarization_takes_bytes_and_floats_to_the_same_bits(digits):
    np.testing.assert_array_equal(
        data.binarize(digits, 3), data.binarize((digits / 255.0).astype(np.float32), 3)
    )


def test_binarization_depends_only_on_seed_and_row(digits):
    whole = data.binarize(digits, 3)
    np.testing.assert_array_equal(whole[:7], data.binarize(digits[:7], 3))
    assert (whole != data.binarize(digits, 4)).any()
    assert set(np.unique(whole)) == {0.0, 1.0}


def test_threshold_compares_and_none_keeps_the_grey_pixels(digits):
    np.testing.assert_array_equal(data.binarize(digits, 0, "threshold"), digits >= 128)
    np.testing.assert_allclose(data.binarize(digits, 0, "none"), digits / 255.0, rtol=1e-6)
    with pytest.raises(checks.InputError, match="binarization must be one of"):
        data.binarize(digits, 0, "sometimes")


def test_compiled_binarization_is_the_eager_one(digits):
    images = tf.constant(digits)
    bits = data.pixel_bits(0, noise.Stream.TRAIN_PIXELS, digits.shape)
    compiled = tf.function(data.to_pixels, jit_compile=True)
    for mode in ("dynamic", "threshold"):
        np.testing.assert_array_equal(
            compiled(images, bits, mode), data.to_pixels(images, bits, mode)
        )
    # XLA multiplies by the reciprocal of 255, so the last bit may differ.
    grey = compiled(images, bits, "none"), data.to_pixels(images, bits, "none")
    np.testing.assert_allclose(*grey, rtol=2e-7)
