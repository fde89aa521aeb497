"""How the parts of a `VAE` fit together: which parts it takes, their shapes, and its images."""

from __future__ import annotations

import contextlib
import math
import warnings
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from vae_keras import data, distributions, inference, noise
from vae_keras.trainer import fast_path, graph_checks
from vae_keras.utils import checks

_PIXEL_RULE = (
    "Float pixels of a dataset must be finite and lie in [0, 1]. Received: other pixels in a "
    "batch. Divide by 255, or pass uint8."
)
_PROBABILITIES = ("sigmoid", "hard_sigmoid", "softmax")


def check_global_settings() -> None:
    """Refuses global settings of Keras under which a model computes other numbers.

    Raises:
        checks.InputError: for a floatx or a dtype policy whose weights are not float32.
    """
    policy, floatx = keras.config.dtype_policy(), keras.config.floatx()
    if floatx != "float32":
        raise checks.InputError(
            "keras.config.floatx() must be 'float32': noise and likelihood are computed in it. "
            f"Received: {floatx!r}. Call keras.config.set_floatx('float32')."
        )
    if policy.variable_dtype != "float32":
        raise checks.InputError(
            "keras.config.dtype_policy() must keep weights in float32. "
            f"Received: {policy.name!r}. Set 'float32', 'mixed_bfloat16' or 'mixed_float16'."
        )


def network(name: str, part: Any) -> keras.layers.Layer:
    """Returns an encoder or a decoder.

    Args:
        name: "encoder" or "decoder".
        part: a Keras layer or model.

    Raises:
        checks.InputError: for anything else, an encoder that declares integer images, or a
            decoder that ends in probabilities.
    """
    if not isinstance(part, keras.layers.Layer):
        raise checks.InputError(
            f"The {name} must be a Keras layer or model. Received: {part!r}. Pass an instance."
        )
    if name == "encoder":
        for tensor in getattr(part, "inputs", None) or ():
            if not tensor.dtype.startswith(("float", "bfloat")):
                raise checks.InputError(
                    "The encoder must declare float images: it sees pixels in [0, 1]. "
                    f"Received: an Input of dtype {tensor.dtype!r}. Leave its dtype out."
                )
    else:
        _require_logits(name, part, "the likelihood applies the sigmoid itself")
    return part


def _require_logits(name: str, part: keras.layers.Layer, reason: str) -> None:
    if (activation := _last_activation(part)) in _PROBABILITIES:
        raise checks.InputError(
            f"The {name} must end in logits, without an activation: {reason}. "
            f"Received: a last layer with activation {activation!r}. Remove it."
        )


def _last_activation(network: keras.layers.Layer) -> str | None:
    """The activation behind the output of a network, looking through layers that only reshape."""
    layers = list(getattr(network, "layers", ()))
    while layers:
        last = layers.pop()
        if isinstance(last, (keras.Sequential, keras.Model)) and last.layers:
            layers = list(last.layers)
        elif not isinstance(
            last, (keras.layers.Reshape, keras.layers.Flatten, keras.layers.Permute)
        ):
            activation = getattr(last, "activation", None)
            return getattr(activation, "__name__", None)
    return None


def prior(part: Any) -> Any:
    """Returns a prior: an object with `distribution(latent_dim)` and `transform(noise)`.

    Raises:
        checks.InputError: for anything else.
    """
    return _with_methods("prior", part, ("distribution", "transform"), "priors.StandardNormal()")


def likelihood(part: Any) -> Any:
    """Returns a likelihood: an object with `distribution(logits)` and `support`.

    Raises:
        checks.InputError: for anything else.
    """
    return _with_methods("likelihood", part, ("distribution",), "Bernoulli()", "support")


def parameters_per_pixel(likelihood: Any, channels: int) -> int:
    """Returns how many numbers a decoder must return for each pixel of an image with C channels.

    A likelihood that does not say takes one number for each channel.
    """
    count = getattr(likelihood, "parameters_per_pixel", None)
    return channels if count is None else int(count(channels))


def objective(part: Any) -> Any:
    """Returns an objective: a callable with `noise_size(latent_dim)`.

    Raises:
        checks.InputError: for anything else.
    """
    return _with_methods("objective", part, ("noise_size", "__call__"), "ELBO()")


def _with_methods(name: str, part: Any, methods: Sequence[str], example: str, *more: str) -> Any:
    is_instance = not isinstance(part, (type, str))
    fits = all(callable(getattr(part, method, None)) for method in methods)
    if not (is_instance and fits and all(hasattr(part, attribute) for attribute in more)):
        wanted = ", ".join((*methods, *more))
        received = f"the class {part.__name__}" if isinstance(part, type) else repr(part)
        raise checks.InputError(
            f"The {name} must be an object with {wanted}. Received: {received[:200]}. "
            f"Pass an instance such as {example}."
        )
    return part


def classifier(part: Any, classes: Any, decoder: Any) -> keras.layers.Layer | None:
    """Returns a classifier, or None.

    Raises:
        checks.InputError: for anything but a Keras layer or model, for a model without classes,
            for a classifier that ends in probabilities, and for classes beside a top-down decoder.
    """
    if classes is not None and inference.is_top_down(decoder):
        raise checks.InputError(
            "A top-down decoder takes no labels. "
            f"Received: {classes.count} classes. Use other networks, or leave the classes out."
        )
    if part is None:
        return None
    if classes is None or not isinstance(part, keras.layers.Layer):
        received = "a model without classes" if classes is None else repr(part)
        raise checks.InputError(
            "The classifier must be a Keras layer or model, for a model with classes. "
            f"Received: {received:.200}. Pass num_classes and an instance."
        )
    _require_logits("classifier", part, "the loss applies the softmax itself")
    return part


def scale_parameter(name: str | None) -> str | None:
    """Returns what an encoder gives beside loc, or None.

    Raises:
        checks.InputError: for an unknown name.
    """
    if name is not None:
        checks.choice("scale_parameter", name, distributions.SCALE_PARAMETERS)
    return name


def binarization(mode: str | None, likelihood: Any) -> str:
    """Returns the binarization, or the likelihood's default for None.

    Raises:
        checks.InputError: for an unknown mode, or one that does not go with the likelihood.
    """
    is_grey = likelihood.support != "binary"
    if mode is None:
        return "none" if is_grey else "dynamic"
    checks.choice("binarization", mode, data.BINARIZATIONS)
    if is_grey and mode != "none":
        raise checks.InputError(
            f"A {type(likelihood).__name__} likelihood takes grey pixels. "
            f"Received: binarization {mode!r}. Leave out the binarization or the likelihood."
        )
    return mode


def settings(objective: Any) -> tuple[Any, ...]:
    """Returns the Python values of an objective that a compiled step has read."""
    known = objective.traced_settings() if hasattr(objective, "traced_settings") else ()
    kinds = (bool, int, float, str, tuple, list, dict, set, type(None), np.generic, np.ndarray)
    plain = sorted(
        (name, _content(value))
        for name, value in getattr(objective, "__dict__", {}).items()
        if isinstance(value, kinds) and not name.startswith("_")
    )
    return (id(objective), *known, *plain)


def _content(value: Any) -> Any:
    """Returns what tells a value from others, quickly: this is asked before each call of a step."""
    if isinstance(value, np.ndarray):  # the text of a long array is shortened
        return value.dtype.str, value.shape, value.tobytes()
    return repr(value)


def check_saved_parts(model: Any) -> None:
    """Refuses parts that share a layer, because Keras would save its weights for one of them only.

    Args:
        model: a `VAE`.

    Raises:
        checks.InputError: for a layer of two parts.
    """
    owners: dict[int, int] = {}
    for number, part in enumerate(model.parts):
        for layer in fast_path.layers_of(part):
            if owners.setdefault(id(layer), number) != number and layer.weights:
                raise checks.InputError(
                    "Keras saves a model only if its parts have no layer in common. "
                    f"Received: parts that share {layer.name}. Call save_weights() with a name in "
                    ".weights.h5, or give each part a layer of its own."
                )


# ------------------------------------------------------------------------------------- shapes


def batch_shape(shape: Sequence[Any]) -> tuple[Any, ...]:
    """Returns the shape of a batch of images, (None, H, W, C).

    Raises:
        checks.InputError: for another rank or sizes that are not known.
    """
    if len(shape) != 4 or any(size is None for size in shape[1:]):
        raise checks.InputError(
            "Images and the decoder's logits must have shape [N, H, W, C]. "
            f"Received: {tuple(shape)}. Reshape the decoder's output to the images' shape."
        )
    return (None, *(int(size) for size in shape[1:]))


def declared_image_shape(
    encoder: keras.layers.Layer,
    decoder: keras.layers.Layer,
    likelihood: Any,
    num_classes: int | None,
) -> tuple[int, ...] | None:
    """Returns the image shape that the parts state, or None when only data can tell."""
    latent_dim = getattr(decoder if inference.is_top_down(decoder) else encoder, "latent_dim", None)
    shape = None
    if encoder.built and hasattr(encoder, "input_shape"):
        shape = encoder.input_shape
        shape = shape[0] if num_classes and isinstance(shape, list) else shape
    elif isinstance(latent_dim, int):
        with contextlib.suppress(Exception):  # a decoder that cannot tell is asked at the build
            *most, numbers = decoder(_symbols((None, latent_dim), num_classes)).shape
            fits = (
                c for c in range(1, numbers + 1) if parameters_per_pixel(likelihood, c) == numbers
            )
            # A wrong number is refused when data come, which tell the number of channels.
            shape = (*most, next(fits, None))
    if not isinstance(shape, tuple) or any(size is None for size in shape[1:]):
        return None
    return shape[1:]


def build(
    encoder: keras.layers.Layer,
    decoder: keras.layers.Layer,
    scale_parameter: str | None,
    likelihood: Any,
    shape: tuple[Any, ...],
    num_classes: int | None,
) -> int:
    """Creates the weights of both networks.

    Args:
        encoder: images to the posterior's parameters.
        decoder: latents to the likelihood's parameters.
        scale_parameter: what the encoder gives beside loc, or None.
        likelihood: p(x | z), which says how many parameters a pixel has.
        shape: of a batch of images, (None, H, W, C).
        num_classes: number of classes, or None for networks that take no labels.

    Returns:
        The number of latent dimensions.

    Raises:
        checks.InputError: when the networks do not fit each other or the images.
    """
    parameters = _output("encoder", encoder, shape, num_classes)
    if inference.is_top_down(decoder):
        latent_dim = _build_inference(encoder, decoder, shape)
    elif isinstance(parameters, list):
        if len(parameters) != 2 or scale_parameter is None or parameters[0] != parameters[1]:
            raise checks.InputError(
                "The encoder must return [N, 2 * latent_dim], or two tensors [N, latent_dim] "
                "with scale_parameter to say what the second is: 'raw', 'log_variance' or "
                f"'scale'. Received: {len(parameters)} outputs of shapes {parameters} and "
                f"scale_parameter {scale_parameter!r}. Return loc and the scale's parameter."
            )
        latent_dim = parameters[0][-1]
    else:
        if len(parameters) != 2 or parameters[-1] is None or parameters[-1] % 2:
            raise checks.InputError(
                "The encoder must return [N, 2 * latent_dim]. "
                f"Received: {parameters} for images {shape}. End it with Dense(2 * latent_dim)."
            )
        latent_dim = parameters[-1] // 2
    parameters = _output("decoder", decoder, (None, latent_dim), num_classes)
    numbers = parameters_per_pixel(likelihood, shape[-1])
    if isinstance(parameters, list) or parameters[1:] != (*shape[1:-1], numbers):
        kind, is_plain = type(likelihood).__name__, numbers == shape[-1]
        raise checks.InputError(
            (
                f"The decoder must return logits of the images' shape {shape}. "
                if is_plain
                else f"The decoder must return {numbers} numbers for each pixel of images {shape}, "
                f"as {kind}.parameters_per_pixel({shape[-1]}) says. "
            )
            + f"Received: {parameters} for latents {(None, latent_dim)}. "
            + (
                "Reshape its output to the images' shape."
                if is_plain
                else f"Pass parameters_per_pixel={numbers} to the decoder."
            )
        )
    for name, part in (("encoder", encoder), ("decoder", decoder)):
        for variable in part.trainable_variables:
            if variable.dtype != "float32":
                raise checks.InputError(
                    f"The weights of the {name} must be float32. Received: {variable.path} of "
                    f"dtype {variable.dtype}. Leave its dtype out, or pass 'mixed_bfloat16'."
                )
    return int(latent_dim)


def _build_inference(encoder: keras.layers.Layer, decoder: Any, shape: tuple[Any, ...]) -> int:
    """Creates the weights that a top-down decoder infers with, and returns its latent_dim."""
    latent_dim = checks.whole_number("the decoder's latent_dim", decoder.latent_dim, 1)
    context = tf.nest.flatten(encoder(tf.zeros((1, *shape[1:]))))
    try:
        path = inference.Path(*decoder.infer(context, tf.zeros((1, latent_dim)), training=False))
    except (TypeError, ValueError, IndexError, tf.errors.InvalidArgumentError) as error:
        raise checks.InputError(
            "A top-down decoder must infer its latents from the outputs of the encoder. Received: "
            f"outputs of shapes {[tuple(part.shape) for part in context]}, and the error "
            f"{str(error).splitlines()[0][:200]}. Give both networks the same widths and groups."
        ) from error
    for name, part in zip(("latents", "loc", "scale"), path[:3], strict=True):
        if tuple(part.shape) != (1, latent_dim) or part.dtype != tf.float32:
            raise checks.InputError(
                f"A top-down decoder must infer {name} as float32 [N, latent_dim]. "
                f"Received: {part.dtype.name} {tuple(part.shape)} for latent_dim {latent_dim}. "
                "Join the groups along the last axis."
            )
    return latent_dim


def check_top_down(prior: Any, scale_parameter: str | None) -> None:
    """Refuses parts that a top-down decoder cannot use.

    Raises:
        checks.InputError: for a learned prior, or a parameter of the scale.
    """
    if not isinstance(prior, distributions.StandardNormal):
        raise checks.InputError(
            "A top-down decoder needs the prior N(0, I): it learns the dependence between latents "
            f"itself. Received: {type(prior).__name__}. Leave the prior out."
        )
    if scale_parameter is not None:
        raise checks.InputError(
            "A top-down decoder computes the posterior's scale itself. "
            f"Received: scale_parameter {scale_parameter!r}. Leave it out."
        )


def build_classifier(
    classifier: keras.layers.Layer, shape: tuple[Any, ...], num_classes: int | None
) -> None:
    """Creates the weights of a classifier.

    Raises:
        checks.InputError: for another shape than [N, num_classes].
    """
    found = _output("classifier", classifier, shape)
    if found != (None, num_classes):
        raise checks.InputError(
            f"The classifier must return logits [N, {num_classes}]. "
            f"Received: {found} for images {shape}. End it with Dense({num_classes})."
        )


def _output(
    name: str, part: keras.layers.Layer, shape: tuple[Any, ...], num_classes: int | None = None
) -> Any:
    """The shape of a network's output, or a list of shapes; this creates its weights."""
    try:
        output = part(_symbols(shape, num_classes))
    except (ValueError, TypeError) as error:
        if num_classes is None:
            raise
        features = "images" if name == "encoder" else "latents"
        raise checks.InputError(
            f"The {name} of a model with classes must take [{features}, labels], with one-hot "
            f"labels [N, {num_classes}]. Received: a network that refuses them "
            f"({str(error).splitlines()[0]:.200}). Give it two inputs."
        ) from error
    if isinstance(output, keras.KerasTensor):
        return tuple(output.shape)
    if isinstance(output, (tuple, list)):
        return [tuple(tensor.shape) for tensor in output]
    wanted = {"encoder": "[N, 2 * latent_dim]", "decoder": "logits [N, H, W, C]"}
    raise checks.InputError(
        f"The {name} must return {wanted.get(name, 'logits [N, num_classes]')}. "
        f"Received: a {type(output).__name__}. Return a tensor."
    )


def _symbols(shape: tuple[Any, ...], num_classes: int | None) -> Any:
    """What a network is called with to learn the shape of its output."""
    features = keras.KerasTensor(shape)
    return features if num_classes is None else [features, keras.KerasTensor((None, num_classes))]


# ------------------------------------------------------------------------------------- images


def dataset_shape(spec: tf.TensorSpec, image_shape: tuple[int, ...] | None) -> tuple[int, ...]:
    """Returns the shape of a dataset's images, (H, W, C).

    Args:
        spec: of a batch of images.
        image_shape: the model's, or None for a model that is not built.

    Raises:
        checks.InputError: for a shape that is unknown or another one than the model's, and for
            values that are not pixels.
    """
    if not (spec.dtype.is_floating or spec.dtype.is_integer or spec.dtype.is_bool):
        raise checks.InputError(
            "A dataset must yield batches of images, uint8 or float, or (images, ...). "
            f"Received: dtype {spec.dtype.name}. Map it to that."
        )
    rank = spec.shape.rank
    if rank is not None:
        checks.batch_shape(spec.shape, image_shape)
    if image_shape is not None:  # an unknown shape is checked batch by batch
        return image_shape
    shape: tuple[Any, ...] = (None,)
    if rank is not None:
        shape = tuple(spec.shape[1:]) + (1,) * (rank == 3)
    if any(size is None for size in shape):
        raise checks.InputError(
            "A dataset must state the shape of its images where the model does not. "
            f"Received: shape {spec.shape}. Set it with your sizes: "
            "dataset.map(lambda x: tf.ensure_shape(x, (None, 28, 28, 1)))."
        )
    return shape


def image_tensor(images: Any, image_shape: tuple[int, ...] | None = None) -> tf.Tensor:
    """Returns a batch with or without a channel axis as [N, H, W, C], uint8 or float32.

    Args:
        images: the batch.
        image_shape: the model's (H, W, C), which a batch of unknown shape is checked against, or
            None for a model that is not built. Default None.

    Raises:
        checks.InputError: for several parts, or another rank.
    """
    if isinstance(images, (dict, list, tuple)):
        raise checks.InputError(
            "A batch must hold images in a single tensor. "
            f"Received: a {type(images).__name__}. Pass the images only."
        )
    images = tf.convert_to_tensor(images)
    if images.shape.rank is None and image_shape is not None:
        # Keras forgets the rank once it has seen batches with and without a channel axis.
        height_width = tf.concat([tf.shape(images), [-1, -1]], axis=0)[1:3]
        fits = tf.reduce_all(height_width == image_shape[:2])
        fits &= tf.size(images) == tf.shape(images)[0] * math.prod(image_shape)
        images = tf.reshape(
            graph_checks.guard(images, fits, _shape_rule(image_shape)), [-1, *image_shape]
        )
    if images.shape.rank == 3:
        images = images[..., tf.newaxis]
    if images.shape.rank != 4:
        received = "an unknown shape" if images.shape.rank is None else f"shape {images.shape}"
        raise checks.InputError(
            "Images must have shape [N, H, W] or [N, H, W, C]. "
            f"Received: {received}. Batch the dataset and set its shape with tf.ensure_shape."
        )
    if images.dtype.is_integer and images.dtype != tf.uint8:
        wide = tf.cast(images, tf.int64)  # 255 is no number of int8
        inside = tf.reduce_all((wide >= 0) & (wide <= 255))
        rule = (
            "Integer pixels of a dataset must lie in 0..255. Received: other pixels in a batch. "
            "Rescale the pixels."
        )
        return tf.cast(graph_checks.guard(images, inside, rule), tf.uint8)
    return images if images.dtype == tf.uint8 else tf.cast(images, tf.float32)


def checked(images: tf.Tensor, image_shape: tuple[int, ...], support: str) -> tf.Tensor:
    """Returns a batch of images once its shape and its pixels are known to be right.

    Args:
        images: as `image_tensor` returns them.
        image_shape: the model's, (H, W, C).
        support: the pixels that the likelihood takes.

    Raises:
        checks.InputError: for a shape that is known to be another one.
    """
    checks.batch_shape(images.shape, image_shape)
    if not images.shape[1:].is_fully_defined():
        sizes = tf.shape(images)[1:]
        fits = tf.reduce_all(sizes == image_shape)
        images = graph_checks.guard(images, fits, _shape_rule(image_shape))
        images = tf.ensure_shape(images, (None, *image_shape))
    if images.dtype == tf.uint8:
        return images
    # A comparison with NaN is false, so one pass refuses NaN, infinity and values outside.
    inside = tf.reduce_all((images >= 0.0) & (images <= 1.0))
    images = graph_checks.guard(images, inside, _PIXEL_RULE)
    if support != "levels":
        return images
    distance = tf.abs(images * 255.0 - tf.round(images * 255.0))
    return graph_checks.guard(
        images, tf.reduce_all(distance <= checks.LEVEL_TOLERANCE), checks.LEVEL_RULE
    )


def same_rows(images: tf.Tensor, labels: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns images and labels once it is known that there are equally many."""
    same = tf.equal(tf.shape(images)[0], tf.shape(labels)[0])
    rule = (
        "labels must hold one class for each image. Received: another number of labels in a batch. "
        "Pass one label for each of them."
    )
    labels = graph_checks.guard(labels, same, rule)
    with tf.control_dependencies([labels]):  # the images wait for the checks of the labels
        return tf.identity(images), labels


def _shape_rule(image_shape: tuple[int, ...]) -> str:
    return (
        "A dataset must yield images [N, H, W] or [N, H, W, C] of the model's shape "
        f"{image_shape}. Received: another shape in a batch. Resize the images in the pipeline."
    )


def warn_of_probabilities(
    decoder: keras.layers.Layer, latent_dim: int, num_classes: int | None
) -> None:
    """Warns when a decoder returns values in [0, 1] only, which logits hardly ever are.

    Args:
        decoder: latents to logits.
        latent_dim: number of latent dimensions.
        num_classes: number of classes, or None for a decoder that takes no labels.
    """
    latents = noise.normal(0, noise.Stream.PRIOR, rows=8, size=latent_dim)
    inputs = latents if num_classes is None else [latents, tf.one_hot([0] * 8, num_classes)]
    logits = tf.cast(decoder(inputs, training=False), tf.float32)
    if bool(tf.reduce_all((logits >= 0.0) & (logits <= 1.0)) & tf.reduce_any(logits > 0.0)):
        warnings.warn(
            "The decoder must return logits, of any sign and size. Received: values that all lie "
            "in [0, 1], as probabilities do. Remove its last sigmoid.",
            stacklevel=4,
        )
