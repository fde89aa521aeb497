"""Builds the model of a recipe."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from vae_keras.distributions import Bernoulli, ContinuousBernoulli
from vae_keras.logistic_mixture import DiscretizedLogisticMixture
from vae_keras.model import VAE
from vae_keras.networks import ConvDecoder, ConvEncoder, MLPDecoder, MLPEncoder
from vae_keras.objectives import ELBO, IWAE
from vae_keras.optimizers import Adam, Muon, cosine
from vae_keras.priors import AutoregressiveFlow, StandardNormal
from vae_keras.top_down import TopDownDecoder, TopDownEncoder
from vae_keras.utils import checks
from vae_keras.zoo import presets

# The classes that a recipe may name.
ENCODERS = {
    "MLPEncoder": MLPEncoder,
    "ConvEncoder": ConvEncoder,
    "TopDownEncoder": TopDownEncoder,
}
DECODERS = {
    "MLPDecoder": MLPDecoder,
    "ConvDecoder": ConvDecoder,
    "TopDownDecoder": TopDownDecoder,
}
PRIORS = {"StandardNormal": StandardNormal, "AutoregressiveFlow": AutoregressiveFlow}
OBJECTIVES = {"ELBO": ELBO, "IWAE": IWAE}
LIKELIHOODS = {
    "Bernoulli": Bernoulli,
    "ContinuousBernoulli": ContinuousBernoulli,
    "DiscretizedLogisticMixture": DiscretizedLogisticMixture,
}
OPTIMIZERS = {"Adam": Adam, "Muon": Muon}


def build_model(
    recipe: presets.Recipe,
    image_shape: tuple[int, ...],
    num_images: int,
    classes: Mapping[str, Any] | None = None,
) -> VAE:
    """Builds and compiles the model of a recipe.

    Args:
        recipe: the recipe. If it has a `start_from`, the encoder and the decoder start with the
            weights of that preset, which must have the same networks and image shape.
        image_shape: shape (H, W, C) of the images.
        num_images: number of training and validation images together. The learning rate reaches
            zero after the steps of all epochs.
        classes: as in `build_network`. Default None.

    Returns:
        A compiled `VAE` whose optimizer is built.

    Raises:
        checks.InputError: if the recipe names an unknown class, or an argument that the class does
            not take.

    Example:
        >>> recipe = presets.load_recipe("mlp_mnist")
        >>> build_model(recipe, (28, 28, 1), 60_000).count_params()
        425284
    """
    model = build_network(recipe, image_shape, recipe.precision, classes)
    if recipe.start_from:
        source = VAE.from_preset(recipe.start_from)
        model.encoder.set_weights(source.encoder.get_weights())
        model.decoder.set_weights(source.decoder.get_weights())
    steps = -(-(num_images - recipe.validation) // recipe.batch_size) * recipe.epochs
    rate = cosine(
        recipe.learning_rate, steps, warmup_steps=recipe.warmup_steps, restarts=recipe.restarts
    )
    model.compile(_part("optimizer", recipe.optimizer, OPTIMIZERS, learning_rate=rate))
    model.optimizer.build(model.trainable_variables)
    return model


def build_network(
    recipe: presets.Recipe,
    image_shape: tuple[int, ...],
    precision: str,
    classes: Mapping[str, Any] | None = None,
) -> VAE:
    """Builds the model of a recipe with fresh weights and without an optimizer.

    Args:
        recipe: the recipe.
        image_shape: shape (H, W, C) of the images.
        precision: Keras dtype policy of the encoder and the decoder.
        classes: `num_classes` and `class_names` of a recipe with a condition. Default None.

    Returns:
        A `VAE` that is not compiled.

    Raises:
        checks.InputError: as `build_model`.

    Example:
        >>> recipe = presets.load_recipe("mlp_mnist")
        >>> build_network(recipe, (28, 28, 1), "float32").latent_dim
        50
    """
    network = {"seed": recipe.seed, "dtype": precision}
    likelihood = _part("likelihood", recipe.likelihood, LIKELIHOODS)
    decoder = {"image_shape": image_shape}
    numbers = likelihood.parameters_per_pixel(image_shape[-1])
    if numbers != image_shape[-1]:
        decoder["parameters_per_pixel"] = numbers
    learned = recipe.prior.name != "StandardNormal"  # a learned prior has weights to draw
    return VAE(
        _part("encoder", recipe.encoder, ENCODERS, **network),
        _part("decoder", recipe.decoder, DECODERS, **network, **decoder),
        prior=_part("prior", recipe.prior, PRIORS, **({"seed": recipe.seed} if learned else {})),
        objective=_part("objective", recipe.objective, OBJECTIVES),
        likelihood=likelihood,
        binarization=recipe.binarization,
        seed=recipe.seed,
        **(classes or {}),
    )


def training_bytes(recipe: presets.Recipe, image_shape: tuple[int, ...]) -> int:
    """Estimates the memory that training takes, from the largest layers of the networks.

    Args:
        recipe: the recipe.
        image_shape: shape (H, W, C) of the images.

    Returns:
        Bytes of the weights, their gradients and two moments, and of one batch with its
        activations. What TensorFlow itself takes is not counted.

    Example:
        >>> recipe = presets.load_recipe("mlp_mnist")
        >>> training_bytes(recipe, (28, 28, 1)) < 10**8
        True
    """
    values = math.prod(image_shape)
    weights, activations = 0, 8 * values  # pixels, random bits, logits, and their gradients
    for part in (recipe.encoder, recipe.decoder):
        widths = part.arguments.get("widths", ())
        latent_dim = recipe.encoder.arguments.get("latent_dim", 50)
        height, width = image_shape[:2]
        for channels in widths:
            height, width = -(-height // 2), -(-width // 2)
            blocks = part.arguments.get("blocks_per_stage", 1)
            # Measured: 52 MB for an image of 256 x 256 x 3 in the networks of conv_mnist.
            activations += (3 + 5 * blocks) * height * width * channels
        if widths:
            weights += height * width * widths[-1] * 2 * latent_dim
        else:
            hidden = part.arguments.get("hidden", (200, 200))
            weights += values * (hidden[0] if part is recipe.encoder else hidden[-1])
    return 4 * (4 * weights + recipe.batch_size * activations)


def _part(kind: str, part: presets.Part, classes: Mapping[str, type], **arguments: Any) -> Any:
    """Makes a part of a model from the class that a recipe names."""
    checks.choice(kind, part.name, tuple(classes))
    try:
        return classes[part.name](**{**part.arguments, **arguments})
    except checks.InputError:
        raise
    except (TypeError, ValueError) as error:
        raise checks.InputError(
            f"a recipe may give {part.name} only the arguments that the class takes. "
            f"Received: {error}. Correct the recipe."
        ) from error
