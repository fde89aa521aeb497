"""Encoders and decoders as Keras layers."""

import json
import math

import keras
import numpy as np
import pytest
import tensorflow as tf
from test_noise import global_states, reseed_globals

from vae_keras.networks import (
    ConvDecoder,
    ConvEncoder,
    MLPDecoder,
    MLPEncoder,
    mish,
    silu,
    transposed,
)
from vae_keras.utils import checks

shapes = pytest.mark.parametrize("image_shape", [(28, 28, 1), (5, 7, 3), (1, 3, 1), (4, 4, 3)])
SMALL = {"hidden": (8, 8, 8), "seed": 3}


def encoder(image_shape=(6, 4, 1), latent_dim=4, **arguments) -> MLPEncoder:
    """A built encoder. With latent_dim 4, its last kernel has the shape of the hidden kernels."""
    layer = MLPEncoder(latent_dim=latent_dim, **(SMALL | arguments))
    layer.build((None, *image_shape))
    return layer


def decoder(image_shape=(6, 4, 1), latent_dim=4, **arguments) -> MLPDecoder:
    layer = MLPDecoder(image_shape=image_shape, **(SMALL | arguments))
    layer.build((None, latent_dim))
    return layer


def inputs(*shape) -> np.ndarray:
    return np.random.default_rng(0).random(shape, dtype=np.float32)


def kernels(layer) -> list[np.ndarray]:
    return [weight for weight in layer.get_weights() if weight.ndim == 2]


@shapes
@pytest.mark.parametrize("num", [1, 3])
def test_an_encoder_gives_two_numbers_a_latent(image_shape, num):
    layer = encoder(image_shape, latent_dim=5)
    assert layer(inputs(num, *image_shape)).shape == (num, 10)
    assert layer.compute_output_shape((None, *image_shape)) == (None, 10)


@shapes
@pytest.mark.parametrize("num", [1, 3])
def test_a_decoder_gives_the_images_shape(image_shape, num):
    layer = decoder(image_shape, latent_dim=5)
    assert layer(inputs(num, 5)).shape == (num, *image_shape)
    assert layer.compute_output_shape((None, 5)) == (None, *image_shape)


def test_the_numbers_are_those_of_a_tanh_network():
    layer, x = encoder(), inputs(3, 6, 4, 1)
    h = x.reshape(3, -1)
    *hidden, last = zip(layer.get_weights()[::2], layer.get_weights()[1::2], strict=True)
    for kernel, bias in hidden:
        h = np.tanh(h @ kernel + bias)
    np.testing.assert_allclose(layer(x), h @ last[0] + last[1], rtol=1e-5, atol=1e-6)


def test_a_decoder_fills_images_row_by_row():
    layer, z = decoder((3, 2, 3)), inputs(2, 4)
    layer.set_weights([0 * weight for weight in layer.get_weights()[:-1]] + [np.arange(18.0)])
    np.testing.assert_array_equal(layer(z)[1], np.arange(18.0).reshape(3, 2, 3))


def test_the_default_network_has_the_papers_size():
    sizes = []
    for layer, shape in ((MLPEncoder(), (None, 28, 28, 1)), (MLPDecoder(), (None, 50))):
        layer.build(shape)
        sizes.append(layer.count_params())
    # 784-200-200-100 and 50-200-200-784, biases included
    assert sizes == [157_000 + 40_200 + 20_100, 10_200 + 40_200 + 157_584]


@pytest.mark.parametrize(
    ("build", "shape"), [(encoder, (2, 6, 4, 1)), (decoder, (2, 4))], ids=["encoder", "decoder"]
)
@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"hidden": ()},
        {"activation": "relu", "name": "mine", "seed": 9},
        {"dtype": "mixed_bfloat16"},
    ],
    ids=["small", "linear", "relu", "bfloat16"],
)
def test_a_configuration_makes_the_same_network_again(build, shape, arguments):
    layer, x = build(**arguments), inputs(*shape)
    layer.set_weights([weight + 0.1 for weight in layer.get_weights()])
    serialized = json.loads(json.dumps(keras.saving.serialize_keras_object(layer)))
    again = keras.saving.deserialize_keras_object(serialized)
    assert again.built
    again.set_weights(layer.get_weights())
    assert again.get_config() == layer.get_config()
    assert again.dtype_policy.name == layer.dtype_policy.name
    np.testing.assert_array_equal(again(x), layer(x))


def test_a_configuration_keeps_every_argument():
    config = encoder(hidden=(7, 5), activation="relu", seed=11, latent_dim=6).get_config()
    assert {name: config[name] for name in ("hidden", "activation", "seed", "latent_dim")} == {
        "hidden": [7, 5],
        "activation": "relu",
        "seed": 11,
        "latent_dim": 6,
    }
    assert decoder((5, 7, 3)).get_config()["image_shape"] == [5, 7, 3]


def test_mixed_precision_reaches_every_dense_layer():
    layer = encoder(dtype="mixed_bfloat16")
    assert keras.backend.standardize_dtype(layer(inputs(1, 6, 4, 1)).dtype) == "bfloat16"
    assert {weight.dtype for weight in layer.weights} == {"float32"}


@pytest.mark.parametrize("build", [encoder, decoder])
def test_the_same_seed_gives_the_same_weights(build):
    for first, second in zip(build().get_weights(), build().get_weights(), strict=True):
        np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("build", [encoder, decoder])
def test_another_seed_gives_other_weights(build):
    for first, second in zip(kernels(build()), kernels(build(seed=4)), strict=True):
        assert not np.isclose(first, second).any()


def test_encoder_decoder_and_layers_start_from_different_weights():
    square = [k for layer in (encoder(), decoder()) for k in kernels(layer) if k.shape == (8, 8)]
    assert len(square) == 5
    assert len(np.unique(np.stack(square).reshape(5, -1), axis=0)) == 5


def test_weights_start_as_glorot_and_bengio_have_it():
    layer = encoder((20, 20, 1), hidden=(100,), latent_dim=50)
    for kernel in kernels(layer):
        limit = math.sqrt(6 / sum(kernel.shape))
        assert 0.99 * limit < np.abs(kernel).max() <= limit
        assert abs(kernel.var() / (limit**2 / 3) - 1) < 0.05
    for bias in layer.get_weights()[1::2]:
        assert not bias.any()


@pytest.mark.parametrize("build", [encoder, decoder])
def test_the_global_generators_are_neither_read_nor_written(build):
    before = global_states(lambda: None)
    assert global_states(build) == before
    reseed_globals(1)
    first = build().get_weights()
    reseed_globals(2)
    for one, other in zip(first, build().get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


# ------------------------------------------------------------------------- convolutional networks

CONV = {"widths": (4, 6), "blocks_per_stage": 2, "seed": 3}
odd_shapes = pytest.mark.parametrize(
    "image_shape", [(28, 28, 1), (5, 7, 3), (1, 3, 1), (13, 8, 3), (9, 9, 1)]
)


def conv_encoder(image_shape=(6, 4, 1), latent_dim=4, **arguments) -> ConvEncoder:
    layer = ConvEncoder(latent_dim=latent_dim, **(CONV | arguments))
    layer.build((None, *image_shape))
    return layer


def conv_decoder(image_shape=(6, 4, 1), latent_dim=4, **arguments) -> ConvDecoder:
    layer = ConvDecoder(image_shape=image_shape, **(CONV | arguments))
    layer.build((None, latent_dim))
    return layer


@odd_shapes
@pytest.mark.parametrize("widths", [(4,), (4, 6, 8)], ids=["one stage", "three stages"])
def test_convolutional_networks_take_any_shape(image_shape, widths):
    parameters = conv_encoder(image_shape, 5, widths=widths)(inputs(3, *image_shape))
    assert parameters.shape == (3, 10)
    logits = conv_decoder(image_shape, 5, widths=widths)(inputs(3, 5))
    assert logits.shape == (3, *image_shape)


def test_every_pixel_reaches_the_latents_and_is_reached_by_them():
    shape = (9, 6, 3)
    encode, decode = conv_encoder(shape), conv_decoder(shape)
    images = keras.Variable(inputs(1, *shape))
    with tf.GradientTape() as tape:
        total = tf.reduce_sum(encode(images) ** 2)
    assert np.abs(tape.gradient(total, images.value)).min() > 0
    varied = np.ptp(decode(inputs(20, 4)), axis=0)
    assert varied.shape == shape
    assert varied.min() > 0


def test_a_residual_block_adds_to_its_input():
    layer = conv_encoder()._residuals[0]
    h = inputs(2, 6, 4, 4)
    assert 0 < np.abs(layer(h) - h).max() < 1
    layer.set_weights([0 * weight for weight in layer.get_weights()])
    np.testing.assert_array_equal(layer(h), h)


@pytest.mark.parametrize(
    ("build", "shape"),
    [(conv_encoder, (2, 6, 4, 1)), (conv_decoder, (2, 4))],
    ids=["encoder", "decoder"],
)
@pytest.mark.parametrize(
    "arguments",
    [{}, {"widths": [3], "blocks_per_stage": 0, "activation": "mish"}, {"dtype": "mixed_bfloat16"}],
    ids=["small", "flat", "bfloat16"],
)
def test_a_configuration_makes_the_same_convolutions_again(build, shape, arguments):
    layer, x = build(**arguments), inputs(*shape)
    serialized = json.loads(json.dumps(keras.saving.serialize_keras_object(layer)))
    again = keras.saving.deserialize_keras_object(serialized)
    assert again.built
    assert again.get_config() == layer.get_config()
    again.set_weights(layer.get_weights())
    np.testing.assert_array_equal(again(x), layer(x))


@pytest.mark.parametrize("build", [conv_encoder, conv_decoder])
def test_a_configuration_of_version_0_1_0_is_read(build):
    layer = build()
    old = layer.get_config()
    old["depth"] = old.pop("blocks_per_stage")
    again = type(layer).from_config(old)
    assert "depth" in old  # the caller's dictionary is not changed
    assert again.get_config() == layer.get_config()


@pytest.mark.parametrize("build", [conv_encoder, conv_decoder])
def test_convolutions_are_seeded_apart(build):
    weights = [weight for weight in build().get_weights() if weight.ndim == 4]
    again = [weight for weight in build().get_weights() if weight.ndim == 4]
    for first, second in zip(weights, again, strict=True):
        np.testing.assert_array_equal(first, second)
    other = [weight for weight in build(seed=4).get_weights() if weight.ndim == 4]
    assert all(not np.isclose(a, b).any() for a, b in zip(weights, other, strict=True))
    alike = [w for w in weights if w.shape == (3, 3, 4, 4)]
    assert len(np.unique(np.stack(alike).reshape(len(alike), -1), axis=0)) == len(alike) == 4


def test_silu_has_the_values_and_the_gradient_of_tensorflow():
    x = tf.constant(np.random.default_rng(0).normal(0, 3, (4, 5)), tf.float32)

    def both(function):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = function(x)
        return y, tape.gradient(y, x, output_gradients=tf.cos(x))

    for ours, theirs in zip(both(silu), both(tf.nn.silu), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_silu_has_no_scalar_that_a_graph_optimizer_could_merge():
    def scalars(function) -> list:
        graph = tf.function(function).get_concrete_function(tf.TensorSpec([None, 3])).graph
        constants = [op.outputs[0] for op in graph.get_operations() if op.type == "Const"]
        return [constant for constant in constants if constant.shape == ()]

    assert scalars(silu) == []
    assert scalars(tf.nn.silu) != []


def test_mish_is_keras_mish():
    x = np.concatenate([np.linspace(-30, 30, 2001), [-1e4, 1e4]]).astype(np.float32)
    ours, theirs = keras.Variable(x), keras.Variable(x)
    with tf.GradientTape() as tape:
        values = mish(ours), keras.activations.mish(theirs)
        total = tf.reduce_sum(values[0]) + tf.reduce_sum(values[1])
    np.testing.assert_allclose(*values, rtol=1e-5, atol=1e-6)
    gradients = tape.gradient(total, [ours.value, theirs.value])
    np.testing.assert_allclose(*gradients, rtol=1e-5, atol=1e-6)


# ------------------------------------------------------------------------ Keras' global settings

BUILDS = {
    "MLPEncoder": (encoder, (2, 6, 4, 1)),
    "MLPDecoder": (decoder, (2, 4)),
    "ConvEncoder": (conv_encoder, (2, 6, 4, 1)),
    "ConvDecoder": (conv_decoder, (2, 4)),
}
networks = pytest.mark.parametrize(("build", "shape"), BUILDS.values(), ids=BUILDS)


@pytest.fixture
def global_settings():
    """Restores Keras' global settings after a test."""
    yield
    keras.config.set_image_data_format("channels_last")
    keras.config.set_epsilon(1e-7)
    keras.config.set_dtype_policy("float32")


@networks
def test_the_global_data_format_and_epsilon_change_nothing(build, shape, global_settings):
    expected, x = build(), inputs(*shape)
    outputs = expected(x)
    keras.config.set_image_data_format("channels_first")
    keras.config.set_epsilon(0.1)
    layer = build()
    np.testing.assert_array_equal(layer(x), outputs)
    for ours, theirs in zip(layer.get_weights(), expected.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@networks
def test_the_global_policy_is_followed_or_refused(build, shape, global_settings):
    keras.config.set_dtype_policy("mixed_bfloat16")
    layer = build()
    assert keras.backend.standardize_dtype(layer(inputs(*shape)).dtype) == "bfloat16"
    assert {weight.dtype for weight in layer.weights} == {"float32"}
    keras.config.set_dtype_policy("int8_from_float32")
    sentence = r"quantized dtype policy\. Received: 'int8_from_float32'\. .*set_dtype_policy"
    with pytest.raises(checks.InputError, match=sentence):
        build()


@networks
def test_a_layer_has_no_predict_and_says_what_to_call(build, shape):
    layer = build()
    assert not hasattr(layer, "predict")
    with pytest.raises(
        AttributeError, match=r"Call vae\.encode\(images\) or vae\.decode\(latents\)"
    ):
        layer.predict(inputs(*shape))


# ---------------------------------------------------------------- upsampling, bounds, parameters


@pytest.mark.parametrize("upsampling", ["transposed", "nearest"])
@pytest.mark.parametrize("shape", [(28, 28, 1), (9, 7, 3)])
def test_both_upsamplings_give_the_images_shape(upsampling, shape):
    decoder = ConvDecoder(shape, (3, 4), upsampling=upsampling)
    assert decoder(np.zeros((2, 5))).shape == (2, *shape)
    assert decoder.compute_output_shape((None, 5)) == (None, *shape)


@pytest.mark.parametrize("jit_compile", [False, True])
@pytest.mark.parametrize(("size", "filters"), [(5, 1), (5, 3), (5, 4), (3, 1)])
def test_both_forms_of_a_transposed_convolution_agree(size, filters, jit_compile):
    """With their gradients. The layer itself is the reference."""
    layer = keras.layers.Conv2DTranspose(
        filters, size, 2, "same", data_format="channels_last", bias_initializer="normal"
    )
    layer.build((None, None, None, 6))
    x = tf.constant(np.random.default_rng(0).standard_normal((2, 4, 3, 6)), tf.float32)
    w = tf.constant(np.random.default_rng(1).standard_normal((2, 8, 6, filters)), tf.float32)

    def results(form) -> list[tf.Tensor]:
        given = [x, layer.kernel.value, layer.bias.value]
        with tf.GradientTape() as tape:
            tape.watch(given)
            out = form(x)
            total = tf.reduce_sum(w * out)
        return [out, *tape.gradient(total, given)]

    ours = tf.function(lambda: results(lambda h: transposed(layer, h)), jit_compile=jit_compile)()
    for found, expected in zip(ours, results(layer), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_a_transposed_convolution_outside_of_a_call_keeps_the_policy(policy):
    """`infer` of a top-down decoder is such a place."""
    given = {"strides": 2, "padding": "same", "data_format": "channels_last", "dtype": policy}
    layer = keras.layers.Conv2DTranspose(1, 5, **given)
    layer.build((None, None, None, 6))
    x = np.random.default_rng(0).standard_normal((2, 4, 3, 6)).astype(np.float32)
    assert transposed(layer, x).dtype == layer(x).dtype == layer.compute_dtype


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_a_transposed_convolution_keeps_the_policy(policy):
    decoder = ConvDecoder(widths=(4,), dtype=policy)
    plain = ConvDecoder(widths=(4,))
    latents = np.random.default_rng(0).standard_normal((3, 5)).astype(np.float32)
    logits = decoder(latents)
    plain.build((None, 5))
    plain.set_weights(decoder.get_weights())
    assert logits.dtype == keras.dtype_policies.get(policy).compute_dtype
    np.testing.assert_allclose(tf.cast(logits, "float32"), plain(latents), atol=0.05)


def test_nearest_upsampling_draws_no_checkerboard():
    """A constant inside stays constant; a transposed convolution turns it into a pattern."""

    def roughness(upsampling: str) -> float:
        decoder = ConvDecoder((32, 32, 1), (4, 4), 0, upsampling=upsampling)
        decoder.build((None, 2))
        stem = decoder.weights[0] if "stem" in decoder.weights[0].path else decoder._stem.kernel
        stem.assign(np.zeros(stem.shape))
        decoder._stem.bias.assign(np.ones(decoder._stem.bias.shape))
        inside = np.asarray(decoder(np.zeros((1, 2))))[0, 8:-8, 8:-8]
        return float(np.std(inside))

    assert roughness("nearest") < 1e-6 < 1e-3 < roughness("transposed")


def test_bounded_logits_stay_inside():
    decoder = ConvDecoder((8, 8, 1), (3,), bound=2.0, upsampling="nearest")
    logits = np.asarray(decoder(1e4 * np.ones((3, 4), np.float32)))
    assert np.abs(logits).max() <= 2.0
    assert np.abs(logits).max() > 1.0


@pytest.mark.parametrize("kind", [MLPDecoder, ConvDecoder])
def test_a_decoder_gives_as_many_numbers_for_a_pixel_as_the_likelihood_takes(kind):
    decoder = kind((8, 6, 3), parameters_per_pixel=11)
    assert decoder(np.zeros((2, 4))).shape == (2, 8, 6, 11)
    again = kind.from_config(decoder.get_config())
    assert again(np.zeros((2, 4))).shape == (2, 8, 6, 11)


@pytest.mark.parametrize(
    "arguments", [{"upsampling": "bilinear"}, {"bound": 0.0}, {"parameters_per_pixel": 0}]
)
def test_decoder_options_outside_of_their_range_are_refused(arguments):
    with pytest.raises(checks.InputError):
        ConvDecoder(**arguments)


def test_mish_of_a_large_half_is_the_number_itself():
    x = np.array([4.0, 5.0, 6.0, 8.0, 12.0, 100.0], np.float16)
    np.testing.assert_allclose(mish(tf.constant(x)), keras.activations.mish(x), rtol=2e-3)
