"""The training loop that a sceptic would write: `tf.GradientTape`, one batch after the other.

`Loop` knows nothing of the package's trainer. It takes the parts of a model (encoder, decoder,
prior, likelihood, objective), the documented keys of the noise and a Keras optimizer, and repeats
what Keras' own `fit` does with batches, epochs and callbacks. The tests compare the product with
this loop, so nothing here may be copied from `vae_keras.trainer`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from vae_keras import ELBO, VAE, Bernoulli, data, noise
from vae_keras.data import pipelines
from vae_keras.distributions import StandardNormal

TRAIN = noise.Stream.TRAIN_PIXELS, noise.Stream.TRAIN_LATENTS
TEST = noise.Stream.TEST_PIXELS, noise.Stream.TEST_LATENTS


class Batch(NamedTuple):
    """Images [N, H, W, C] and their weights [N], in the order in which they are trained."""

    images: np.ndarray
    weights: np.ndarray


def batches(
    images: np.ndarray,
    weights: np.ndarray | None = None,
    size: int = 32,
    order: Sequence[int] | None = None,
) -> list[Batch]:
    """Cuts arrays into batches as Keras does; the last one may have fewer rows."""
    weights = np.ones(len(images), np.float32) if weights is None else weights
    rows = np.arange(len(images)) if order is None else np.asarray(order)
    parts = [rows[start : start + size] for start in range(0, len(rows), size)]
    return [Batch(images[part], np.asarray(weights, np.float32)[part]) for part in parts]


def epoch_order(num: int, seed: int, epoch: int) -> np.ndarray:
    """Returns the documented order of the rows of arrays with `shuffle=True`."""
    return pipelines.epoch_order(num, seed, epoch).numpy()


def log_variance_posterior(output: Sequence[tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor]:
    """The posterior of an encoder with the two outputs loc and log(scale^2)."""
    loc, log_variance = (tf.cast(part, tf.float32) for part in output)
    return loc, tf.exp(0.5 * log_variance)


def raw_scale_posterior(output: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """The posterior of an encoder with one output [N, 2 * latent_dim]."""
    loc, raw_scale = tf.split(tf.cast(output, tf.float32), 2, axis=-1)
    return loc, tf.nn.softplus(raw_scale) + 1e-4


class Loop:
    """Trains and measures a model with a plain loop; callbacks see it in place of the model.

    Args:
        vae: the model whose parts are trained. Its own trainer is never called.
        optimizer: a Keras optimizer.
        posterior: what makes (loc, scale) of the encoder's output. Default `raw_scale_posterior`.
        compiled: whether XLA compiles the gradient, for networks whose own random numbers differ
            between XLA and TensorFlow. Default False.
    """

    def __init__(
        self,
        vae: VAE,
        optimizer: keras.optimizers.Optimizer,
        posterior: Callable[[Any], tuple[tf.Tensor, tf.Tensor]] = raw_scale_posterior,
        compiled: bool = False,
    ) -> None:
        self.vae, self.optimizer, self.posterior = vae, optimizer, posterior
        self.batches_trained, self.stop_training, self.history = 0, False, None
        if compiled:
            self.gradients = tf.function(self.gradients, jit_compile=True, autograph=False)

    def __getattr__(self, name: str) -> Any:  # a callback may save the weights
        return getattr(self.vae, name)

    @property
    def parts(self) -> list[keras.layers.Layer]:
        parts = [self.vae.encoder, self.vae.decoder, self.vae.prior]
        return [part for part in parts if isinstance(part, keras.layers.Layer)]

    @property
    def variables_to_train(self) -> list[keras.Variable]:
        return [variable for part in self.parts for variable in part.trainable_variables]

    # ------------------------------------------------------------------------- one batch

    def draws(self, batch: Batch, streams: Any, step: int, row: int) -> tuple[tf.Tensor, tf.Tensor]:
        """The pixels that the likelihood sees, and the standard normal noise."""
        vae, (pixels, latents) = self.vae, streams
        bits = data.pixel_bits(vae.seed, pixels, batch.images.shape, step=step, row=row)
        seen = data.to_pixels(tf.constant(batch.images), bits, vae.binarization)
        size = vae.objective.noise_size(vae.latent_dim)
        normal = noise.normal(
            vae.seed, latents, rows=len(batch.images), size=size, step=step, row=row
        )
        return seen, normal

    def bound(
        self, pixels: tf.Tensor, normal: tf.Tensor, training: bool, step: Any
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """The objective, the log-likelihood and the KL of each image, [N] each."""
        vae = self.vae
        kinds = type(vae.objective), type(vae.prior), type(vae.likelihood)
        if kinds != (ELBO, StandardNormal, Bernoulli):
            objective, terms = vae.bound(pixels, normal, training=training, step=step)
            return objective, terms.log_likelihood, terms.kl
        loc, scale = self.posterior(vae.encoder(pixels, training=training))
        logits = tf.cast(vae.decoder(loc + scale * normal, training=training), tf.float32)
        pixel_terms = pixels * logits - tf.nn.softplus(logits)
        log_likelihood = tf.reduce_sum(pixel_terms, axis=[1, 2, 3])
        kl = tf.reduce_sum(0.5 * (loc**2 + scale**2 - 1.0) - tf.math.log(scale), axis=1)
        return log_likelihood - self.kl_weight(step) * kl, log_likelihood, kl

    def kl_weight(self, step: Any) -> float:
        beta, warmup = float(self.vae.objective.beta), self.vae.objective.warmup_steps
        return beta if step is None or not warmup else beta * min(float(step) / warmup, 1.0)

    def loss(
        self, pixels: tf.Tensor, normal: tf.Tensor, weights: tf.Tensor, training: bool, step: Any
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        objective, *terms = self.bound(pixels, normal, training, step)
        total = tf.reduce_sum(weights)
        loss = -tf.math.divide_no_nan(tf.reduce_sum(weights * objective), total)
        loss += sum(tf.cast(own, tf.float32) for part in self.parts for own in part.losses)
        return loss, *(tf.reduce_sum(weights * term) for term in terms)

    def gradients(
        self, pixels: tf.Tensor, normal: tf.Tensor, weights: tf.Tensor, step: Any
    ) -> tuple[Any, Any]:
        with tf.GradientTape() as tape:
            results = self.loss(pixels, normal, weights, True, step)
            scaled = self.optimizer.scale_loss(results[0])
        return results, tape.gradient(scaled, self.variables_to_train)

    def train(self, batch: Batch, means: Means) -> None:
        if batch.weights.sum() == 0.0:
            return  # a batch without weight has no loss, and takes no step
        step = self.optimizer.iterations
        pixels, normal = self.draws(batch, TRAIN, step=self.batches_trained, row=0)
        logged = self.kl_weight(step) if getattr(self.vae.objective, "weighs_kl", False) else None
        results, gradients = self.gradients(pixels, normal, tf.constant(batch.weights), step)
        self.optimizer.apply_gradients(zip(gradients, self.variables_to_train, strict=True))
        self.batches_trained += self.is_trained(gradients)
        means.add(batch.weights.sum(), *results, logged)

    def is_trained(self, gradients: Sequence[tf.Tensor]) -> bool:
        """Whether a batch counts. One that a dynamic loss scale skips has trained nothing."""
        skips = isinstance(self.optimizer, keras.optimizers.LossScaleOptimizer)
        return not skips or bool(self.optimizer.check_finite(gradients))

    def test(self, batch: Batch, means: Means, row: int) -> None:
        pixels, normal = self.draws(batch, TEST, step=0, row=row)
        results = self.loss(pixels, normal, tf.constant(batch.weights), False, None)
        logged = self.kl_weight(None) if getattr(self.vae.objective, "weighs_kl", False) else None
        means.add(batch.weights.sum(), *results, logged)

    # ------------------------------------------------------------------- epochs, as Keras

    def fit(
        self,
        epoch_batches: Callable[[int], Iterable[Batch]],
        epochs: int = 1,
        initial_epoch: int = 0,
        callbacks: Any = (),
        validation: list[Batch] | None = None,
    ) -> dict[str, list[float]]:
        """Trains as `keras.Model.fit` does.

        Args:
            epoch_batches: epoch number to the batches of that epoch.
            epochs, initial_epoch, callbacks: as in `keras.Model.fit`.
            validation: batches to measure after every epoch. Default None.

        Returns:
            The history of the logs.
        """
        hooks = keras.callbacks.CallbackList(
            list(callbacks), add_history=True, model=self, epochs=epochs
        )
        self.stop_training = False
        hooks.on_train_begin()
        for epoch in range(initial_epoch, epochs):
            means = Means()
            hooks.on_epoch_begin(epoch)
            for index, batch in enumerate(epoch_batches(epoch)):
                hooks.on_train_batch_begin(index)
                self.train(batch, means)
                hooks.on_train_batch_end(index, means.logs())
                if self.stop_training:
                    break
            logs = means.logs()
            if validation is not None:
                measured = self.evaluate(validation, hooks)
                logs |= {f"val_{name}": value for name, value in measured.items()}
            hooks.on_epoch_end(epoch, logs)
            if self.stop_training:
                break
        self.optimizer.finalize_variable_values(self.variables_to_train)
        hooks.on_train_end(logs)
        return self.history.history

    def evaluate(self, test_batches: Iterable[Batch], hooks: Any = None) -> dict[str, float]:
        """Measures batches as `keras.Model.evaluate` does."""
        hooks = keras.callbacks.CallbackList() if hooks is None else hooks
        hooks.on_test_begin()
        means, row = Means(), 0
        for index, batch in enumerate(test_batches):
            hooks.on_test_batch_begin(index)
            self.test(batch, means, row)
            hooks.on_test_batch_end(index, means.logs())
            row += len(batch.images)
        hooks.on_test_end(means.logs())
        return means.logs()


class Means:
    """Means of the logged values over the counted examples of an epoch."""

    def __init__(self) -> None:
        self.weight, self.sums = 0.0, dict.fromkeys(("elbo", "log_likelihood", "kl", "loss"), 0.0)

    def add(self, weight: Any, loss: Any, log_likelihood: Any, kl: Any, kl_weight: Any) -> None:
        """Adds a batch: its weight, its loss, and weighted sums of the terms."""
        values = {
            "elbo": log_likelihood - kl,
            "log_likelihood": log_likelihood,
            "kl": kl,
            "loss": weight * loss,
        }
        if kl_weight is not None:
            values["kl_weight"] = weight * kl_weight
        self.weight += float(weight)
        self.sums = {name: self.sums.get(name, 0.0) + float(v) for name, v in values.items()}

    def logs(self) -> dict[str, float]:
        return {name: total / self.weight for name, total in self.sums.items()}
