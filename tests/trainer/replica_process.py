"""Trains on one device and on several replicas of one process; `test_replicas.py` starts it.

It runs apart because the CPU must be split into logical devices before TensorFlow starts. Argument:
the file to write, an npz of "<case> <replicas> <what>".
"""

import contextlib
import os
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
import tensorflow as tf

from vae_keras import ELBO, VAE, MLPDecoder, MLPEncoder

tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 4
)
rng = np.random.default_rng(0)
images = rng.integers(0, 256, (61, 6, 6, 1), dtype=np.uint8)
weights = rng.random(61).astype(np.float32)


def strategy(replicas, collective):
    """Two strategies in one process must not both use collective operations."""
    devices = [f"CPU:{index}" for index in range(4 - replicas, 4)]  # not the preferred one
    operations = None if collective else tf.distribute.ReductionToOneDevice()
    return tf.distribute.MirroredStrategy(devices, operations)


def build(case):
    parts = MLPEncoder(latent_dim=3, hidden=(8,)), MLPDecoder(image_shape=(6, 6, 1), hidden=(8,))
    vae = VAE(*parts, objective=ELBO(2.0, warmup_steps=8) if case is weighted else ELBO())
    # Clipping by the norm of the gradient tells its sum over replicas from a part of it.
    vae.compile(keras.optimizers.Adam(global_clipnorm=1.0), jit_compile=case is compiled)
    return vae


def batches():
    return tf.data.Dataset.from_tensor_slices((images, np.zeros(61), weights)).batch(14)


def arrays(vae):
    """A batch that no replica count divides, a ragged last one, weights."""
    held_out = (images[:33],)
    fit = vae.fit(
        images, sample_weight=weights, batch_size=14, epochs=2, validation_data=held_out, verbose=0
    )
    return fit.history, vae.evaluate(images, batch_size=23, verbose=0)


class Raises(keras.callbacks.Callback):
    """Raises the weight of the KL with each epoch."""

    def on_epoch_begin(self, epoch, logs=None):
        self.model.objective.beta = 2.0 + epoch


def compiled(vae):
    """XLA compiles what lies before and after the message. The objective was made elsewhere."""
    vae.objective = ELBO(beta=2.0)
    vae.fit(images, batch_size=14, epochs=2, callbacks=[Raises()], verbose=0)
    return arrays(vae)


def dataset(vae):
    fit = vae.fit(batches(), epochs=2, validation_data=batches(), verbose=0)
    return fit.history, vae.evaluate(batches(), verbose=0)


def weighted(vae):
    """A weight of the KL that rises from step to step."""
    return arrays(vae)


found = {}
cases = {arrays: (0, 1, 2, 4), compiled: (0, 1, 2), dataset: (0, 2), weighted: (0, 2)}
for case, counts in cases.items():
    for replicas in counts:  # 0 is no strategy
        collective = case is arrays and replicas == 2
        made = strategy(replicas, collective) if replicas else None
        with made.scope() if made else contextlib.nullcontext():
            vae = build(case)
        # Inside of the scope, one replica takes the steps of several ones.
        with made.scope() if replicas == 1 else contextlib.nullcontext():
            history, evaluated = case(vae)
        results = {name: np.array(values) for name, values in history.items()}
        results["evaluate"] = np.array(evaluated)
        results["weights"] = np.concatenate([w.ravel() for w in vae.get_weights()])
        results["steps"] = vae.optimizer.iterations.numpy()
        results["reconstruct"] = vae.reconstruct(images[:5])
        results["predict"] = vae.predict(images[:5], verbose=0)
        for name, value in results.items():
            found[f"{case.__name__} {replicas} {name}"] = value
np.savez(sys.argv[1], **found)
