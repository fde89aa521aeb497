"""What a served model answers: pure functions of their inputs, row by row, that check them."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from vae_keras import noise
from vae_keras.model import VAE

DEFAULT = "serving_default"
"""The name that servers look for first; the first signature answers to it too."""


class Signature(NamedTuple):
    """A function that a SavedModel carries, and what it takes; N, the first axis, is free."""

    function: Callable[..., dict[str, tf.Tensor]]
    inputs: list[tf.TensorSpec]


def signatures(model: VAE, score_samples: int, validate: bool) -> dict[str, Signature]:
    """Builds a model's signatures, the default one first.

    Args:
        model: a built model.
        score_samples: importance samples behind `log_marginal`.
        validate: whether rows that break a rule end in INVALID_ARGUMENT.

    Returns:
        `Signature` by name, as the table in `export.export_saved_model` lists them.
    """
    size = model.latent_dim
    check = _Checks() if validate else _NoChecks()

    def images(name: str = "images") -> tf.TensorSpec:
        return tf.TensorSpec([None, *model.image_shape], name=name)

    latent_spec = tf.TensorSpec([None, size], name="latents")
    fraction_spec = tf.TensorSpec([None], name="fractions")
    seed_spec = tf.TensorSpec([None, 2], tf.int32, name="seeds")

    def posterior_mean(rows: tf.Tensor) -> tf.Tensor:
        return model.posterior(model.pixels(rows)).distribution.loc

    def probabilities(latents: tf.Tensor) -> tf.Tensor:
        return model.likelihood(latents).mean()

    def reconstruct(images: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"reconstructions": model.call(check.unit("images", images, model.image_shape))}

    def encode(images: tf.Tensor) -> dict[str, tf.Tensor]:
        rows = check.unit("images", images, model.image_shape)
        normal = model.posterior(model.pixels(rows)).distribution
        return {"loc": normal.loc, "scale": normal.scale}

    def decode(latents: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"probabilities": probabilities(check.finite("latents", latents, (size,)))}

    def sample(seeds: tf.Tensor) -> dict[str, tf.Tensor]:
        latents = model.prior.transform(_row_noise(check.seeds(seeds), noise.Stream.PRIOR, size))
        return {"probabilities": probabilities(latents), "latents": latents}

    def interpolate(
        start_images: tf.Tensor, end_images: tf.Tensor, fractions: tf.Tensor
    ) -> dict[str, tf.Tensor]:
        start = check.unit("start_images", start_images, model.image_shape)
        end = check.unit("end_images", end_images, model.image_shape)
        weight = check.unit("fractions", fractions, ())
        names = "start_images, end_images and fractions"
        start, end, weight = check.same_rows(names, start, end, weight)
        weight = weight[:, tf.newaxis]  # [N, 1]
        line = (1.0 - weight) * posterior_mean(start) + weight * posterior_mean(end)
        return {"probabilities": probabilities(line)}

    def score(images: tf.Tensor, seeds: tf.Tensor) -> dict[str, tf.Tensor]:
        rows = check.unit("images", images, model.image_shape)
        rows, seeds = check.same_rows("images and seeds", rows, check.seeds(seeds))
        terms = model.terms(rows, _row_noise(seeds, noise.Stream.TEST_LATENTS, size))
        return {**terms._asdict(), "log_marginal": _log_marginal(model, rows, seeds, score_samples)}

    return {
        "reconstruct": Signature(reconstruct, [images()]),
        "encode": Signature(encode, [images()]),
        "decode": Signature(decode, [latent_spec]),
        "sample": Signature(sample, [seed_spec]),
        "interpolate": Signature(
            interpolate, [images("start_images"), images("end_images"), fraction_spec]
        ),
        "score": Signature(score, [images(), seed_spec]),
    }


def example_inputs(signature: Signature, rows: int) -> dict[str, np.ndarray]:
    """Makes valid inputs that are short as JSON: eighths from 0 to 1, and seeds (0, row).

    Args:
        signature: what they are for.
        rows: N.

    Returns:
        Arrays by the input's name.
    """
    examples = {}
    for spec in signature.inputs:
        if spec.dtype == tf.int32:
            values = np.stack([np.zeros(rows), np.arange(rows)], axis=1)
        else:
            shape = (rows, *spec.shape[1:])
            values = (np.arange(math.prod(shape)) % 9 / 8).reshape(shape)
        examples[spec.name] = values.astype(spec.dtype.as_numpy_dtype)
    return examples


# ------------------------------------------------------------------------------ random numbers


def _row_noise(seeds: tf.Tensor, stream: noise.Stream, size: int) -> tf.Tensor:
    """Standard normal noise [N, size], each row from its own (seed, row)."""

    def one(pair: tf.Tensor) -> tf.Tensor:
        return noise.normal(pair[0], stream, rows=1, size=size, row=pair[1])[0]

    return tf.map_fn(one, seeds, fn_output_signature=tf.TensorSpec([size], tf.float32))


def _log_marginal(model: VAE, images: tf.Tensor, seeds: tf.Tensor, samples: int) -> tf.Tensor:
    """Importance-weighted log p(x), [N], one image at a time so that memory stays bounded."""
    prior = model.prior.distribution(model.latent_dim)

    def one(row: tuple[tf.Tensor, tf.Tensor]) -> tf.Tensor:
        image, pair = row
        draws = noise.normal(
            pair[0], noise.Stream.IMPORTANCE, rows=samples, size=model.latent_dim, step=pair[1]
        )
        posterior = model.posterior(image[tf.newaxis]).distribution
        z = posterior.loc + posterior.scale * draws  # [S, L]
        log_q = tf.reduce_sum(posterior.log_prob(z), axis=-1)
        log_weight = model.likelihood(z).log_prob(image) + prior.log_prob(z) - log_q
        return tf.reduce_logsumexp(log_weight) - math.log(samples)

    return tf.map_fn(one, (images, seeds), fn_output_signature=tf.TensorSpec([], tf.float32))


# -------------------------------------------------------------------------------------- checks


class _NoChecks:
    """Takes every row as it comes."""

    def unit(self, name: str, x: tf.Tensor, shape: tuple[int, ...]) -> tf.Tensor:
        """Returns x, finite and in [0, 1], [N, *shape]."""
        return x

    def finite(self, name: str, x: tf.Tensor, shape: tuple[int, ...]) -> tf.Tensor:
        """Returns x, finite, [N, *shape]."""
        return x

    def seeds(self, x: tf.Tensor) -> tf.Tensor:
        """Returns x, pairs of whole numbers >= 0, [N, 2]."""
        return x

    def same_rows(self, names: str, *parts: tf.Tensor) -> list[tf.Tensor]:
        """Returns the parts, which have equally many rows."""
        return list(parts)


class _Checks(_NoChecks):
    """Ends in INVALID_ARGUMENT and one sentence for rows that break a rule."""

    def unit(self, name: str, x: tf.Tensor, shape: tuple[int, ...]) -> tf.Tensor:
        x = self._shaped(name, x, shape)
        # A comparison with NaN is false, so one pass refuses NaN, infinities and values outside.
        inside = tf.reduce_all((x >= 0.0) & (x <= 1.0))
        rule = f"{name} must be finite and lie in [0, 1]. Received: values from"
        return _guard(x, inside, [rule, tf.reduce_min(x), "to", tf.reduce_max(x)])

    def finite(self, name: str, x: tf.Tensor, shape: tuple[int, ...]) -> tf.Tensor:
        x = self._shaped(name, x, shape)
        finite = tf.reduce_all(tf.math.is_finite(x))
        return _guard(x, finite, [f"{name} must be finite. Received: NaN or infinite values."])

    def seeds(self, x: tf.Tensor) -> tf.Tensor:
        x = self._shaped("seeds", x, (2,))
        rule = "seeds must be pairs (seed, row) of whole numbers >= 0. Received: a smallest of"
        return _guard(x, tf.reduce_all(x >= 0), [rule, tf.reduce_min(x)])

    def same_rows(self, names: str, *parts: tf.Tensor) -> list[tf.Tensor]:
        counts = tf.stack([tf.shape(part)[0] for part in parts])
        same = tf.reduce_all(tf.equal(counts, counts[0]))
        message = [f"{names} must have equally many rows. Received: row counts", counts]
        return [_guard(part, same, message) for part in parts]

    def _shaped(self, name: str, x: tf.Tensor, shape: tuple[int, ...]) -> tf.Tensor:
        # TF Serving enforces no declared shape. The placeholder hides it here too, and the rank is
        # compared as data, or the optimizer would take the declaration's word and fold the check.
        x = tf.raw_ops.PlaceholderWithDefault(input=x, shape=None)
        received = tf.shape(x)
        marked = tf.concat([tf.minimum(received[:1], 0), received[1:], [-1]], axis=0)
        same = tf.raw_ops.Equal(
            x=marked, y=tf.constant([0, *shape, -1]), incompatible_shape_error=False
        )
        rule = f"{name} must have shape [{', '.join(map(str, ('N', *shape)))}]. Received: shape"
        x = _guard(x, tf.reduce_all(same), [rule, received])
        return tf.ensure_shape(x, [None, *shape])


def _guard(x: tf.Tensor, condition: tf.Tensor, message: list[str | tf.Tensor]) -> tf.Tensor:
    with tf.control_dependencies([tf.debugging.Assert(condition, message, summarize=8)]):
        return tf.identity(x)
