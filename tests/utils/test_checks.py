"""The values that each check accepts, and the one line that it refuses others with."""

import importlib.util

import numpy as np
import pytest

from vae_keras.utils import checks
from vae_keras.utils.checks import InputError

IMAGE = np.zeros((2, 4, 3, 1), np.float32)


def with_pixel(value, dtype=np.float32) -> np.ndarray:
    images = np.zeros((2, 4, 3, 1), dtype)
    images[1, 2, 1, 0] = value
    return images


def refused(check, *arguments) -> str:
    """Returns the one line that a check refuses its arguments with."""
    with pytest.raises(InputError) as caught:
        check(*arguments)
    message = str(caught.value)
    assert "\n" not in message
    assert "Received: " in message
    return message


def test_an_input_error_is_a_value_error():
    assert issubclass(InputError, ValueError)


# ------------------------------------------------------------------------------- environment


@pytest.mark.parametrize("version", [(3, 10), (3, 11, 4), (3, 13)])
def test_supported_pythons_pass(version):
    checks.python_version(version)


@pytest.mark.parametrize(("version", "text"), [((3, 9), "3.9"), ((3, 14), "3.14"), ((4, 0), "4.0")])
def test_other_pythons_are_refused(version, text):
    with pytest.raises(ImportError) as caught:
        checks.python_version(version)
    assert str(caught.value) == (
        f"vae_keras needs Python 3.10 to 3.13. Received: Python {text}. Use one of those versions."
    )


def test_this_environment_passes():
    checks.python_version()
    checks.dependencies()
    checks.keras_backend("tensorflow")


def test_a_missing_tf_keras_is_named_with_its_remedy(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError) as caught:
        checks.dependencies()
    assert str(caught.value) == (
        "TensorFlow Probability needs the package tf-keras beside Keras 3. "
        "Received: an environment without it. Run: pip install tf-keras"
    )


@pytest.mark.parametrize("name", ["jax", "torch", "numpy"])
def test_another_keras_backend_is_refused(name):
    with pytest.raises(ImportError) as caught:
        checks.keras_backend(name)
    assert str(caught.value) == (
        f"vae_keras needs Keras on its tensorflow backend. Received: backend '{name}'. "
        "Set KERAS_BACKEND=tensorflow before the first import."
    )


# ------------------------------------------------------------------------------------ numbers


@pytest.mark.parametrize("value", [1, 12, np.int64(5), np.uint8(7)])
def test_whole_numbers_come_back_as_int(value):
    returned = checks.whole_number("steps", value, 1, 12)
    assert returned == value
    assert type(returned) is int


@pytest.mark.parametrize(
    "value", [True, np.True_, 2.0, np.float32(2), "2", None, [2], np.array([2])]
)
def test_a_value_that_is_not_a_whole_number_is_refused(value):
    message = refused(checks.whole_number, "steps", value, 1)
    assert message == f"steps must be a whole number >= 1. Received: {value!r}."


@pytest.mark.parametrize("value", [-1, 0, 13, 10**30])
def test_whole_numbers_out_of_range_are_refused(value):
    message = refused(checks.whole_number, "steps", value, 1, 12)
    assert message == f"steps must be a whole number from 1 to 12. Received: {value}."


@pytest.mark.parametrize("value", [0, 1, 2**31 - 1])
def test_seeds_fill_31_bits(value):
    assert checks.seed(value) == value


@pytest.mark.parametrize("value", [-1, 2**31])
def test_seeds_out_of_range_are_refused(value):
    message = refused(checks.seed, value)
    assert message == f"seed must be a whole number from 0 to 2147483647. Received: {value}."


@pytest.mark.parametrize("value", [1, 1e-300, np.float32(0.5), np.int32(3)])
def test_positive_numbers_come_back_as_float(value):
    returned = checks.positive("rate", value)
    assert returned == value
    assert type(returned) is float


@pytest.mark.parametrize("value", [0, -1.5, float("nan"), float("inf")])
def test_numbers_that_are_not_positive_and_finite_are_refused(value):
    message = refused(checks.positive, "rate", value)
    assert message == f"rate must be a finite number above 0. Received: {value}."


@pytest.mark.parametrize("value", [True, "1", None, [1.0]])
def test_a_value_that_is_not_a_number_is_refused(value):
    message = refused(checks.positive, "rate", value)
    assert message == f"rate must be a finite number above 0. Received: {value!r}."


def test_a_known_name_passes():
    assert checks.choice("preset", "b", ("a", "b")) == "b"


@pytest.mark.parametrize("value", ["c", "", None, 1])
def test_an_unknown_name_lists_the_known_ones(value):
    message = refused(checks.choice, "preset", value, ("a", "b"))
    assert message == f"preset must be one of: a, b. Received: {value!r}."


@pytest.mark.parametrize("value", [1, 59, 60])
def test_batch_sizes_up_to_the_data_pass(value):
    assert checks.batch_size(value, 60) == value


def test_a_batch_larger_than_the_data_is_refused():
    assert refused(checks.batch_size, 61, 60) == (
        "batch_size must not exceed the number of images. Received: batch_size 61 for 60 images. "
        "Use a batch size of at most 60."
    )


@pytest.mark.parametrize("value", [0, -5])
def test_a_batch_without_images_is_refused(value):
    message = refused(checks.batch_size, value, 60)
    assert message == f"batch_size must be a whole number >= 1. Received: {value}."


# ------------------------------------------------------------------------------------- images


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@pytest.mark.parametrize("shape", [(2, 4, 3), (2, 4, 3, 1), (2, 4, 3, 3)])
def test_images_are_not_copied_where_nothing_has_to_change(dtype, shape):
    images = np.ones(shape, dtype)
    returned = checks.images(images)
    assert np.shares_memory(returned, images)
    assert returned.dtype == dtype
    assert returned.shape == (shape if len(shape) == 4 else (*shape, 1))


@pytest.mark.parametrize(
    ("dtype", "top", "returned_dtype"),
    [
        (bool, 1, np.float32),
        (np.float16, 1, np.float32),
        (np.float64, 1, np.float32),
        (">f4", 1, np.float32),
        (np.int8, 127, np.uint8),
        (np.int64, 255, np.uint8),
        (np.uint16, 255, np.uint8),
    ],
)
def test_other_dtypes_are_converted_with_their_values(dtype, top, returned_dtype):
    images = with_pixel(top, dtype)
    returned = checks.images(images)
    assert returned.dtype == returned_dtype
    assert returned.dtype.isnative
    np.testing.assert_array_equal(returned, images)


def test_nested_lists_of_one_size_are_images():
    assert checks.images([[[0.0, 1.0]], [[0.5, 0.5]]]).shape == (2, 1, 2, 1)


def test_the_callers_array_is_left_alone():
    images = with_pixel(0.25, np.float64)
    before = images.copy()
    checks.images(images)
    np.testing.assert_array_equal(images, before)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (
            np.array([["a"]]),
            "x must hold numbers. Received: dtype <U1. "
            "Stack images of one size into an array of uint8 or float32.",
        ),
        (
            np.array([IMAGE, None], dtype=object),
            "x must hold numbers. Received: dtype object. "
            "Stack images of one size into an array of uint8 or float32.",
        ),
        (
            IMAGE.astype(np.complex64),
            "x must hold numbers. Received: dtype complex64. "
            "Stack images of one size into an array of uint8 or float32.",
        ),
        (
            np.zeros((4, 3)),
            "x must have shape [N, H, W] or [N, H, W, C]. Received: shape (4, 3). "
            "Reshape flat rows of pixels to images, such as x.reshape(-1, 28, 28, 1), "
            "or give a single image a batch axis, x[np.newaxis].",
        ),
        (
            0.5,
            "x must have shape [N, H, W] or [N, H, W, C]. Received: shape (). "
            "Reshape the array to one of these.",
        ),
        (
            np.zeros((1, 2, 4, 3, 1)),
            "x must have shape [N, H, W] or [N, H, W, C]. Received: shape (1, 2, 4, 3, 1). "
            "Reshape the array to one of these.",
        ),
        (
            np.zeros((0, 4, 3, 1)),
            "x must hold at least one image. Received: shape (0, 4, 3, 1). Pass some images.",
        ),
        (
            np.zeros((0, 4, 3)),
            "x must hold at least one image. Received: shape (0, 4, 3, 1). Pass some images.",
        ),
        (
            np.zeros((3, 4, 1, 2)),
            "x must have 1 or 3 channels on the last axis. Received: shape (3, 4, 1, 2). "
            "Convert them to grey or RGB.",
        ),
        (
            np.zeros((2, 3, 8, 6)),
            "x must have 1 or 3 channels on the last axis. Received: shape (2, 3, 8, 6). "
            "np.moveaxis(x, 1, -1) moves the channels last and gives images of (8, 6, 3).",
        ),
        (
            with_pixel(256, np.int32),
            "x with integer pixels must lie in 0..255. Received: 0..256. Rescale the pixels.",
        ),
        (
            with_pixel(-1, np.int8),
            "x with integer pixels must lie in 0..255. Received: -1..0. Rescale the pixels.",
        ),
        (
            with_pixel(np.nan),
            "x must be finite. Received: NaN or infinite pixels. Clean the data first.",
        ),
        (
            with_pixel(-np.inf, np.float64),
            "x must be finite. Received: NaN or infinite pixels. Clean the data first.",
        ),
        (
            with_pixel(255.0),
            "x with float pixels must lie in [0, 1]. Received: [0, 255]. "
            "Divide by 255, or pass uint8.",
        ),
        (
            with_pixel(-1e-3),
            "x with float pixels must lie in [0, 1]. Received: [-0.001, 0]. "
            "Divide by 255, or pass uint8.",
        ),
    ],
)
def test_images_that_cannot_be_right_are_refused(images, message):
    assert refused(checks.images, images) == message


@pytest.mark.parametrize("other", [(5, 3), (4, 5), (4,)])
def test_images_of_several_sizes_are_refused(other):
    message = refused(checks.images, [np.zeros((4, 3)), np.zeros(other)])
    assert message.startswith("x must hold numbers. Received: ")
    assert message.endswith("Stack images of one size into an array of uint8 or float32.")


def test_the_message_uses_the_arguments_name():
    assert refused(checks.images, with_pixel(2.0), "validation_data").startswith("validation_data ")


def test_images_of_the_models_shape_pass():
    assert checks.images(IMAGE[..., 0], shape=(4, 3, 1)).shape == IMAGE.shape


def test_images_of_another_shape_than_the_models_are_refused():
    assert refused(checks.images, IMAGE, "x", (3, 4, 1)) == (
        "x must hold images of the model's shape (3, 4, 1). Received: (4, 3, 1). "
        "Resize them, or build a model for that shape."
    )


@pytest.mark.parametrize("shape", [(None, 3, 4), (7, 3, 4, 1), (None, None, 4, None)])
def test_batches_of_the_models_shape_pass(shape):
    checks.batch_shape(shape, (3, 4, 1))
    checks.batch_shape(shape, None)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        (
            (3, 4),
            "a dataset must yield batches [N, H, W] or [N, H, W, C]. Received: shape (3, 4). "
            "Batch it, or add the missing axis.",
        ),
        (
            (None, 3, 4, 1),
            "the dataset must hold images of the model's shape (4, 5, 3). Received: (3, 4, 1). "
            "Resize them in the pipeline.",
        ),
        (
            (None, 3, 4, 5),
            "the dataset must hold images of the model's shape (4, 5, 3). Received: (3, 4, 5). "
            "Move the channels last: tf.transpose(images, [0, 2, 3, 1]).",
        ),
    ],
)
def test_batches_of_another_shape_are_refused(shape, message):
    assert refused(checks.batch_shape, shape, (4, 5, 3)) == message


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_images_with_one_grey_pixel_are_not_only_binary(dtype):
    images = np.zeros((3, 4, 3, 1), dtype)
    images[0] = 255 if dtype == np.uint8 else 1
    assert refused(checks.not_only_binary, images) == (
        "a likelihood on [0, 1] needs pixels between black and white. Received: pixels that are "
        "all 0 or 1. Pass the grey images without binarization, or use Bernoulli()."
    )
    images[2, 1, 1, 0] = 7 if dtype == np.uint8 else 0.1
    checks.not_only_binary(images)


# -------------------------------------------------------------------------- weights, latents


@pytest.mark.parametrize(
    "weight", [[1, 0, 2], np.array([0.5, 0.0, 1e-9]), (True, False, True), [[1], [0], [2]]]
)
def test_weights_come_back_as_float32(weight):
    returned = checks.sample_weight(weight, 3)
    assert returned.dtype == np.float32
    np.testing.assert_allclose(returned, np.asarray(weight, np.float32).reshape(3))


def test_float32_weights_and_latents_are_not_copied():
    weight, z = np.ones(3, np.float32), np.ones((3, 2), np.float32)
    assert np.shares_memory(checks.sample_weight(weight, 3), weight)
    assert np.shares_memory(checks.latents(z, 2), z)


@pytest.mark.parametrize(
    ("weight", "message"),
    [
        (
            [1, 1],
            "sample_weight must hold one number for each image. Received: shape (2,) for 3 images.",
        ),
        (
            np.ones((3, 2)),
            "sample_weight must hold one number for each image. "
            "Received: shape (3, 2) for 3 images.",
        ),
        (
            [0, 0, 0],
            "sample_weight must be finite and >= 0, and at least one weight must be above 0. "
            "Received: values from 0.0 to 0.0.",
        ),
        (
            [1, -2, 1],
            "sample_weight must be finite and >= 0, and at least one weight must be above 0. "
            "Received: values from -2.0 to 1.0.",
        ),
        (
            [1, np.nan, 1],
            "sample_weight must be finite and >= 0, and at least one weight must be above 0. "
            "Received: values from nan to nan.",
        ),
    ],
)
def test_weights_that_cannot_be_right_are_refused(weight, message):
    assert refused(checks.sample_weight, weight, 3) == message


@pytest.mark.parametrize("weight", [["a", "b", "c"], [[1], [1, 2], [1]]])
def test_weights_that_are_no_numbers_are_refused(weight):
    assert refused(checks.sample_weight, weight, 3).startswith(
        "sample_weight must hold one number for each image. Received: "
    )


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int32, np.uint8, bool])
def test_latents_come_back_as_float32(dtype):
    returned = checks.latents(np.ones((3, 2), dtype), 2)
    assert returned.dtype == np.float32
    np.testing.assert_array_equal(returned, np.ones((3, 2)))


@pytest.mark.parametrize(
    ("z", "received"),
    [
        (np.zeros((3, 4)), "dtype float64, shape (3, 4)"),
        (np.zeros(2), "dtype float64, shape (2,)"),
        (np.zeros((0, 2)), "dtype float64, shape (0, 2)"),
        (np.zeros((1, 3, 2)), "dtype float64, shape (1, 3, 2)"),
        (np.array([["a", "b"]]), "dtype <U1, shape (1, 2)"),
        (np.array([[None, 1]], dtype=object), "dtype object, shape (1, 2)"),
    ],
)
def test_latents_of_another_shape_or_kind_are_refused(z, received):
    message = refused(checks.latents, z, 2)
    assert message == f"latents must be numbers of shape [N, 2]. Received: {received}."


def test_latents_of_several_lengths_are_refused():
    message = refused(checks.latents, [[1.0, 2.0], [3.0]], 2)
    assert message.startswith("latents must be numbers of shape [N, 2]. Received: ")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_latents_that_are_not_finite_are_refused(value):
    message = refused(checks.latents, [[0.0, value]], 2)
    assert message == "latents must be finite. Received: NaN or infinite values."
