"""JAX: one jitted call an epoch, `lax.scan` over the steps, optax's Adam."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import optax

from benchmarks.gate import Gate
from benchmarks.workload import (
    ENCODER_LAYERS,
    LATENT_DIM,
    LAYERS,
    LEARNING_RATE,
    SCALE_FLOOR,
    Weights,
    Workload,
)

_ADAM = optax.adam(LEARNING_RATE)


def scan(workload: Workload, gate: Gate) -> None:
    """Epoch after epoch of the jitted scan."""
    images = jnp.asarray(workload.train_images())
    weights = [jnp.asarray(weight) for weight in workload.weights()]
    state, key = _ADAM.init(weights), jax.random.key(0)
    gate.ready()
    while True:
        key, epoch_key = jax.random.split(key)
        weights, state, loss = _epoch(workload.batch_size, weights, state, images, epoch_key)
        loss.block_until_ready()
        gate.passed(len(images), lambda held=weights: [jax.device_get(part) for part in held])


@functools.partial(jax.jit, static_argnums=0, donate_argnums=(1, 2))
def _epoch(
    batch_size: int, weights: Weights, state: optax.OptState, images: jax.Array, key: jax.Array
) -> tuple[Weights, optax.OptState, jax.Array]:
    order_key, noise_key = jax.random.split(key)
    order = jax.random.permutation(order_key, len(images)).reshape(-1, batch_size)

    def step(carry: tuple, rows: jax.Array) -> tuple[tuple, jax.Array]:
        weights, state, key = carry
        key, pixel_key, latent_key = jax.random.split(key, 3)
        # Sixteen bits a pixel, as in vae_keras: faster here than float uniforms.
        bits = jax.random.bits(pixel_key, (batch_size, images.shape[1]), jnp.uint16)
        x = (bits < images[rows].astype(jnp.int32) * 257).astype(jnp.float32)
        noise = jax.random.normal(latent_key, (batch_size, LATENT_DIM))
        loss, gradients = jax.value_and_grad(_loss)(weights, x, noise)
        updates, state = _ADAM.update(gradients, state)
        return (optax.apply_updates(weights, updates), state, key), loss

    (weights, state, _), losses = jax.lax.scan(step, (weights, state, noise_key), order)
    return weights, state, losses.mean()


def _loss(weights: Weights, x: jax.Array, noise: jax.Array) -> jax.Array:
    loc, raw = jnp.split(_layers(weights, x, 0, ENCODER_LAYERS), 2, axis=-1)
    scale = jax.nn.softplus(raw) + SCALE_FLOOR
    logits = _layers(weights, loc + scale * noise, ENCODER_LAYERS, len(LAYERS))
    log_likelihood = (x * logits - jax.nn.softplus(logits)).sum(axis=-1)
    kl = (0.5 * (loc**2 + scale**2 - 1.0) - jnp.log(scale)).sum(axis=-1)
    return (kl - log_likelihood).mean()


def _layers(weights: Weights, h: jax.Array, start: int, stop: int) -> jax.Array:
    for index in range(start, stop):
        h = h @ weights[2 * index] + weights[2 * index + 1]
        if index + 1 < stop:
            h = jnp.tanh(h)
    return h
