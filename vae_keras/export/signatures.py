"""The signatures of a served model. Each is a pure function of its inputs, row by row.

Every signature checks its inputs. An input that breaks a rule raises INVALID_ARGUMENT with one
sentence.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from vae_keras import noise
from vae_keras.detection import Detector
from vae_keras.model import VAE
from vae_keras.objectives import log_weights

DEFAULT = "serving_default"
"""The name that servers look for first. It is a second name of the first signature."""


class Signature(NamedTuple):
    """A function of a SavedModel.

    Attributes:
        function: maps tensors to a dictionary of tensors.
        inputs: the specification of each input. The first axis, N, is free.
    """

    function: Callable[..., dict[str, tf.Tensor]]
    inputs: list[tf.TensorSpec]


def signatures(
    model: VAE, score_samples: int, detector: Detector | None = None
) -> dict[str, Signature]:
    """Builds the signatures of a model, the default one first.

    Args:
        model: a built model.
        score_samples: importance samples behind `log_marginal`, >= 1.
        detector: a detector of the model, for the signature `detect`. Default None.

    Returns:
        Maps names to `Signature`s. The table in `export.export_saved_model` lists them.

    Example:
        >>> list(signatures(vae, score_samples=50))
        ['reconstruct', 'encode', 'decode', 'sample', 'interpolate', 'score']
    """
    size, shown, count = model.latent_dim, pixel_name(model), model.num_classes

    def image_spec(name: str = "images") -> tf.TensorSpec:
        return tf.TensorSpec([None, *model.image_shape], name=name)

    def label_spec(name: str = "labels") -> list[tf.TensorSpec]:
        return [] if count is None else [tf.TensorSpec([None], tf.int32, name=name)]

    latent_spec = tf.TensorSpec([None, size], name="latents")
    fraction_spec = tf.TensorSpec([None], name="fractions")
    seed_spec = tf.TensorSpec([None, 2], tf.int32, name="seeds")

    def checked_images(rows: tf.Tensor, name: str = "images") -> tf.Tensor:
        return _unit_interval(name, rows, model.image_shape)

    def with_labels(name: str, rows: tf.Tensor, labels: tuple[tf.Tensor, ...]) -> list[tf.Tensor]:
        """Rows, and for a model with classes their labels, one-hot."""
        if count is None:
            return [rows]
        classes = _labels("labels", labels[0], count)
        rows, classes = _same_rows(f"{name} and labels", rows, classes)
        return [rows, tf.one_hot(classes, count)]

    def posterior_mean(rows: tf.Tensor, *labels: tf.Tensor) -> tf.Tensor:
        return model.encode_tensors(model.pixels(rows), *labels).loc

    def reconstruct(images: tf.Tensor, *labels: tf.Tensor) -> dict[str, tf.Tensor]:
        rows = with_labels("images", checked_images(images), labels)
        return {"reconstructions": model.call(*rows)}

    def encode(images: tf.Tensor, *labels: tf.Tensor) -> dict[str, tf.Tensor]:
        rows, *one_hot = with_labels("images", checked_images(images), labels)
        return model.encode_tensors(model.pixels(rows), *one_hot)._asdict()

    def decode(latents: tf.Tensor, *labels: tf.Tensor) -> dict[str, tf.Tensor]:
        rows = with_labels("latents", _finite("latents", latents, (size,)), labels)
        return {shown: model.decode_tensors(*rows)}

    def sample(seeds: tf.Tensor, *labels: tf.Tensor) -> dict[str, tf.Tensor]:
        seeds, *one_hot = with_labels("seeds", _seeds(seeds), labels)
        latents = model.prior.transform(_row_noise(seeds, noise.Stream.PRIOR, size)[:, 0])
        return {shown: model.decode_tensors(latents, *one_hot), "latents": latents}

    def interpolate(
        start_images: tf.Tensor, end_images: tf.Tensor, fractions: tf.Tensor, *labels: tf.Tensor
    ) -> dict[str, tf.Tensor]:
        start = checked_images(start_images, "start_images")
        end = checked_images(end_images, "end_images")
        weight = _unit_interval("fractions", fractions, ())
        ends = [
            _labels(name, given, count or 0)
            for name, given in zip(("start_labels", "end_labels"), labels, strict=False)
        ]
        names = "start_images, end_images and fractions"
        if ends:
            names = "start_images, end_images, fractions, start_labels and end_labels"
        start, end, weight, *ends = _same_rows(names, start, end, weight, *ends)
        weight = weight[:, tf.newaxis]  # [N, 1]
        one_hot = [tf.one_hot(each, count) for each in ends]
        start, end = posterior_mean(start, *one_hot[:1]), posterior_mean(end, *one_hot[1:])
        pairs = [(start, end), *([tuple(one_hot)] if one_hot else [])]
        line = [(1.0 - weight) * first + weight * last for first, last in pairs]
        return {shown: model.decode_tensors(*line)}

    def score(images: tf.Tensor, seeds: tf.Tensor, *labels: tf.Tensor) -> dict[str, tf.Tensor]:
        rows, seeds = _same_rows("images and seeds", checked_images(images), _seeds(seeds))
        rows, *one_hot = with_labels("images", rows, labels)
        draws = _row_noise(seeds, noise.Stream.TEST_LATENTS, size)[:, 0]
        log_marginal = _log_marginal(model, score_samples, rows, seeds, *one_hot)
        return {**model.terms(rows, draws, *one_hot)._asdict(), "log_marginal": log_marginal}

    def transfer(images: tf.Tensor, labels: tf.Tensor) -> dict[str, tf.Tensor]:
        rows = with_labels("images", checked_images(images), (labels,))
        latents = tf.repeat(posterior_mean(*rows), count, axis=0)
        every = tf.tile(tf.eye(count), [tf.shape(images)[0], 1])
        decoded = model.decode_tensors(latents, every)
        return {shown: tf.reshape(decoded, [-1, count, *model.image_shape])}

    def classify(images: tf.Tensor, seeds: tf.Tensor) -> dict[str, tf.Tensor]:
        rows, seeds = _same_rows("images and seeds", checked_images(images), _seeds(seeds))
        return model.classify_tensors(rows, seeds, max(score_samples, 2))._asdict()

    def detect(images: tf.Tensor, seeds: tf.Tensor) -> dict[str, tf.Tensor]:
        assert detector is not None
        rows, seeds = _same_rows("images and seeds", checked_images(images), _seeds(seeds))
        samples = detector.num_samples
        draws = _row_noise(seeds, noise.Stream.DETECTION, size, samples)
        scores, p_values = detector.detect_tensors(rows, draws)
        return {"score": scores, "p_value": p_values}

    ends = [image_spec("start_images"), image_spec("end_images"), fraction_spec]
    made = {
        "reconstruct": Signature(reconstruct, [image_spec(), *label_spec()]),
        "encode": Signature(encode, [image_spec(), *label_spec()]),
        "decode": Signature(decode, [latent_spec, *label_spec()]),
        "sample": Signature(sample, [seed_spec, *label_spec()]),
        "interpolate": Signature(
            interpolate, [*ends, *label_spec("start_labels"), *label_spec("end_labels")]
        ),
        "score": Signature(score, [image_spec(), seed_spec, *label_spec()]),
    }
    if count is not None:
        made["transfer"] = Signature(transfer, [image_spec(), *label_spec()])
        made["classify"] = Signature(classify, [image_spec(), seed_spec])
    if detector is not None:
        made["detect"] = Signature(detect, [image_spec(), seed_spec])
    return made


def pixel_name(model: VAE) -> str:
    """Returns the name of the images that a decoder gives: "probabilities" or "means".

    The means of a Bernoulli's pixels are the probabilities of a 1. No signature draws pixels.

    Args:
        model: a built model.

    Example:
        >>> pixel_name(vae)
        'probabilities'
    """
    return "probabilities" if model.likelihood.support == "binary" else "means"


def example_inputs(signature: Signature, rows: int) -> dict[str, np.ndarray]:
    """Makes valid inputs that are short as JSON: eighths from 0 to 1, seeds (0, row), labels 0, 1.

    Args:
        signature: the signature that takes the inputs.
        rows: number of rows N, >= 1.

    Returns:
        Maps the names of the inputs to arrays.

    Example:
        >>> example_inputs(signatures(vae, score_samples=50)["sample"], rows=2)["seeds"].tolist()
        [[0, 0], [0, 1]]
    """
    examples = {}
    for spec in signature.inputs:
        if spec.dtype == tf.int32:
            is_label = spec.shape.rank == 1
            values = np.stack([np.zeros(rows), np.arange(rows)], axis=1)
            values = np.arange(rows) % 2 if is_label else values
        else:
            shape = (rows, *spec.shape[1:])
            values = (np.arange(math.prod(shape)) % 9 / 8).reshape(shape)
        examples[spec.name] = values.astype(spec.dtype.as_numpy_dtype)
    return examples


# ------------------------------------------------------------------------------ random numbers


def _row_noise(seeds: tf.Tensor, stream: noise.Stream, size: int, samples: int = 1) -> tf.Tensor:
    """Returns standard normal noise [N, samples, size]. Each row is keyed by its (seed, row)."""

    def one(pair: tf.Tensor) -> tf.Tensor:
        first = tf.cast(pair[1], tf.int64) * samples
        return noise.normal(pair[0], stream, rows=samples, size=size, row=first)

    return tf.map_fn(one, seeds, fn_output_signature=tf.TensorSpec([samples, size], tf.float32))


def _log_marginal(
    model: VAE, samples: int, images: tf.Tensor, seeds: tf.Tensor, *labels: tf.Tensor
) -> tf.Tensor:
    """Returns the importance-weighted estimate of log p(x), or of log p(x | y), [N].

    The images are measured one at a time, which bounds the memory.
    """

    def one(row: tuple[tf.Tensor, ...]) -> tf.Tensor:
        image, pair, *label = row
        draws = noise.normal(
            pair[0], noise.Stream.IMPORTANCE, rows=samples, size=model.latent_dim, step=pair[1]
        )
        given = [each[tf.newaxis] for each in (image, *label)]
        infer = model.inference(model.context(*given))
        log_weight, _ = log_weights(image, infer(draws[tf.newaxis]))  # [1, S]
        return tf.reduce_logsumexp(log_weight) - math.log(samples)

    rows = images, seeds, *labels
    return tf.map_fn(one, rows, fn_output_signature=tf.TensorSpec([], tf.float32))


# -------------------------------------------------------------------------------------- checks


def _unit_interval(name: str, x: tf.Tensor, shape: tuple[int, ...]) -> tf.Tensor:
    """Returns x [N, *shape] after checking that it is finite and lies in [0, 1]."""
    x = _shaped(name, x, shape)
    # A comparison with NaN is false. One pass refuses NaN, infinities and values outside.
    inside = tf.reduce_all((x >= 0.0) & (x <= 1.0))
    rule = f"{name} must be finite and lie in [0, 1]. Received: values from"
    return _guard(x, inside, [rule, tf.reduce_min(x), "to", tf.reduce_max(x)])


def _finite(name: str, x: tf.Tensor, shape: tuple[int, ...]) -> tf.Tensor:
    """Returns x [N, *shape] after checking that it is finite."""
    x = _shaped(name, x, shape)
    finite = tf.reduce_all(tf.math.is_finite(x))
    return _guard(x, finite, [f"{name} must be finite. Received: NaN or infinite values."])


def _seeds(x: tf.Tensor) -> tf.Tensor:
    """Returns x [N, 2] after checking that it holds whole numbers >= 0."""
    x = _shaped("seeds", x, (2,))
    rule = "seeds must be pairs (seed, row) of whole numbers >= 0. Received: a smallest of"
    return _guard(x, tf.reduce_all(x >= 0), [rule, tf.reduce_min(x)])


def _labels(name: str, x: tf.Tensor, count: int) -> tf.Tensor:
    """Returns x [N] after checking that it holds classes."""
    x = _shaped(name, x, ())
    inside = tf.reduce_all((x >= 0) & (x < count))
    rule = f"{name} must be whole numbers from 0 to {count - 1}. Received: values from"
    return _guard(x, inside, [rule, tf.reduce_min(x), "to", tf.reduce_max(x)])


def _same_rows(names: str, *parts: tf.Tensor) -> list[tf.Tensor]:
    """Returns the parts after checking that they have equally many rows."""
    counts = tf.stack([tf.shape(part)[0] for part in parts])
    same = tf.reduce_all(tf.equal(counts, counts[0]))
    message = [f"{names} must have equally many rows. Received: row counts", counts]
    return [_guard(part, same, message) for part in parts]


def _shaped(name: str, x: tf.Tensor, shape: tuple[int, ...]) -> tf.Tensor:
    """Returns x after checking that it has the shape [N, *shape] and at least one row."""
    # TF Serving does not enforce a declared shape. The placeholder hides the declaration, and the
    # rank is compared as data. Otherwise the graph optimizer would trust the declaration and
    # remove the check.
    x = tf.raw_ops.PlaceholderWithDefault(input=x, shape=None)
    received = tf.shape(x)
    marked = tf.concat([tf.minimum(received[:1], 1), received[1:], [-1]], axis=0)
    same = tf.raw_ops.Equal(
        x=marked, y=tf.constant([1, *shape, -1]), incompatible_shape_error=False
    )
    dimensions = ", ".join(map(str, ("N", *shape)))
    rule = f"{name} must have shape [{dimensions}] with N >= 1. Received: shape"
    x = _guard(x, tf.reduce_all(same), [rule, received])
    return tf.ensure_shape(x, [None, *shape])


def _guard(x: tf.Tensor, condition: tf.Tensor, message: list[str | tf.Tensor]) -> tf.Tensor:
    """Returns x, which is available only after the condition was found true."""
    with tf.control_dependencies([tf.debugging.Assert(condition, message, summarize=8)]):
        return tf.identity(x)
