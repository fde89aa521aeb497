"""A VAE as one writes it for Keras' `fit` on a NumPy array, every setting its default."""

from __future__ import annotations

import keras
import numpy as np
import tensorflow as tf
from keras import layers

from benchmarks.contestants.keras_gate import GateCallback
from benchmarks.gate import Gate
from benchmarks.workload import LATENT_DIM, LEARNING_RATE, SCALE_FLOOR, Weights, Workload


class PlainVAE(keras.Model):
    """Two `Sequential`s, a `train_step` with a gradient tape, one loss tracker."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = _mlp(784, 2 * LATENT_DIM)
        self.decoder = _mlp(LATENT_DIM, 784)
        self.noise = keras.random.SeedGenerator(0)
        self.loss_tracker = keras.metrics.Mean(name="loss")
        self.built = True

    @property
    def metrics(self) -> list[keras.metrics.Metric]:
        return [self.loss_tracker]

    def train_step(self, images: tf.Tensor) -> dict[str, tf.Tensor]:
        draws = keras.random.uniform(tf.shape(images), seed=self.noise)
        x = tf.cast(draws < images, tf.float32)
        with tf.GradientTape() as tape:
            loc, raw = tf.split(self.encoder(x), 2, axis=-1)
            scale = tf.nn.softplus(raw) + SCALE_FLOOR
            z = loc + scale * keras.random.normal(tf.shape(loc), seed=self.noise)
            cross_entropy = tf.nn.sigmoid_cross_entropy_with_logits(x, self.decoder(z))
            kl = 0.5 * (loc**2 + scale**2 - 1.0) - tf.math.log(scale)
            loss = tf.reduce_mean(tf.reduce_sum(cross_entropy, -1) + tf.reduce_sum(kl, -1))
        gradients = tape.gradient(loss, self.trainable_weights)
        self.optimizer.apply(gradients, self.trainable_weights)
        self.loss_tracker.update_state(loss)
        return {"loss": self.loss_tracker.result()}


def fit(workload: Workload, gate: Gate) -> None:
    """Keras' `fit` with its defaults."""
    images = workload.train_images().astype(np.float32) / 255.0
    vae = PlainVAE()
    kernels = [weight for part in (vae.encoder, vae.decoder) for weight in part.weights]
    for variable, value in zip(kernels, workload.weights(), strict=True):
        variable.assign(value)
    vae.compile(optimizer=keras.optimizers.Adam(LEARNING_RATE))

    def weights() -> Weights:
        return [kernel.numpy() for kernel in kernels]

    vae.fit(
        images,
        batch_size=workload.batch_size,
        epochs=np.iinfo(np.int32).max,
        callbacks=[GateCallback(gate, len(images), weights)],
    )


def _mlp(wide: int, narrow: int) -> keras.Sequential:
    return keras.Sequential(
        [
            layers.Input((wide,)),
            layers.Dense(200, activation="tanh"),
            layers.Dense(200, activation="tanh"),
            layers.Dense(narrow),
        ]
    )
