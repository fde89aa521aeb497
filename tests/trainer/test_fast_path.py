"""Many steps run in one call for the package's networks, and one by one where it would show."""

import keras
import pytest

from tests.conftest import small_vae
from vae_keras import ConvDecoder, ConvEncoder, MLPDecoder, MLPEncoder
from vae_keras.priors import AutoregressiveFlow
from vae_keras.trainer import fast_path

SHAPE = (6, 6, 1)


@pytest.mark.parametrize(
    "parts",
    [
        {},
        {"encoder": ConvEncoder(3, (4, 6)), "decoder": ConvDecoder(SHAPE, (4, 6))},
        {
            "encoder": MLPEncoder(3, (8,), activation="mish"),
            "decoder": MLPDecoder(SHAPE, (8,), activation="mish"),
            "prior": AutoregressiveFlow(2, (8,)),
        },
    ],
    ids=["mlp", "convolutions", "mish and flow"],
)
def test_the_networks_of_the_package_keep_the_fast_path(parts):
    assert fast_path.one_by_one(small_vae(**parts), []) is None


@pytest.mark.parametrize(
    "layer",
    [
        keras.layers.BatchNormalization(),
        keras.layers.Dropout(0.1),
        keras.layers.Softmax(axis=0),
        keras.layers.Softmax(axis=-2),
        keras.layers.Dense(4, activation=lambda x: x),
        keras.layers.Dense(4, activity_regularizer="l2"),
    ],
)
def test_a_layer_that_may_look_at_other_rows_leaves_it(layer):
    layers = [keras.Input(SHAPE), keras.layers.Flatten(), layer, keras.layers.Dense(6)]
    assert layer.name in fast_path.one_by_one(small_vae(encoder=keras.Sequential(layers)), [])


def test_a_network_of_the_package_with_a_regularizer_of_its_outputs_leaves_it():
    encoder = MLPEncoder(3, (8,), activity_regularizer="l2")
    assert encoder.name in fast_path.one_by_one(small_vae(encoder=encoder), [])


def test_a_callback_with_a_batch_hook_leaves_it():
    hooked = keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: None)
    every_epoch = keras.callbacks.ModelCheckpoint("a.keras", save_freq="epoch")
    vae = small_vae()
    assert fast_path.one_by_one(vae, [every_epoch, keras.callbacks.History()]) is None
    assert "on_train_batch_end" in fast_path.one_by_one(vae, [hooked])
