"""The variational autoencoder as a Keras model: its parts, tensor methods and array methods."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from vae_keras import assembly, data, distributions, inference, noise, priors
from vae_keras.array_methods import ArrayMethods, Graphs, Posterior
from vae_keras.image_examples import ImageExamples
from vae_keras.logistic_mixture import DiscretizedLogisticMixture
from vae_keras.networks import MLPDecoder, MLPEncoder
from vae_keras.objectives import ELBO, IWAE, Terms, elbo_terms
from vae_keras.sharing import Sharing
from vae_keras.trainer import Bound, Trainer, fast_path
from vae_keras.utils import checks, graphs

__all__ = ["VAE", "Posterior", "require_built"]

Likelihood = (
    distributions.Bernoulli | distributions.ContinuousBernoulli | DiscretizedLogisticMixture
)


class Draws(NamedTuple):
    """The random numbers of a batch, which are drawn outside of the compiled kernel.

    Attributes:
        bits: uint16 [..., N, H, W, C], for the binarization.
        noise: float32 [..., N, noise_size], standard normal, for the posterior.
    """

    bits: tf.Tensor
    noise: tf.Tensor


@keras.saving.register_keras_serializable(package="vae_keras")
class VAE(Sharing, ArrayMethods, ImageExamples, Trainer):
    """A variational autoencoder with a diagonal normal posterior and independent pixels.

    `fit`, `evaluate` and `predict` take what those of `keras.Model` take. Images are uint8 in
    0..255 or floats in [0, 1], with or without a channel axis. The logs are `elbo`,
    `log_likelihood` and `kl` in nats per image, and `loss`, which the optimizer minimises: means
    over the examples seen. A higher `elbo` is better. An objective that weighs the KL adds
    `kl_weight`. `evaluate` measures the `loss` with its final value.

    Args:
        encoder: Keras layer or model from images [N, H, W, C] to the posterior's parameters: loc
            and the parameter of the scale, as one tensor [N, 2 * latent_dim] or as two tensors
            [N, latent_dim]. For a top-down decoder, it returns what that decoder's `infer` takes.
            Default `MLPEncoder()`.
        decoder: Keras layer or model from latents [N, latent_dim] to logits [N, H, W, C], or to
            the parameters of another likelihood. A decoder with `latent_dim` and `infer`, such as
            `TopDownDecoder`, infers the latents in groups. Default `MLPDecoder()`.
        prior: p(z), `priors.StandardNormal()` or `priors.AutoregressiveFlow()`.
            Default `priors.StandardNormal()`.
        objective: the bound that training maximises, `ELBO()` or `IWAE()`. It may be replaced
            later; the next step uses it. Default `ELBO()`.
        binarization: how `fit` and `evaluate` make pixels binary: "dynamic" draws them anew at
            every step, "threshold" compares them with 1/2, "none" takes them as they are. A
            likelihood of grey images takes "none" only. With a Bernoulli likelihood "none" is
            for images that are binary already: a Bernoulli likelihood is not a valid density for
            grey pixels. Default "dynamic", or "none" for a likelihood of grey images.
        seed: seed of all noise, integer in [0, 2^31). Default 0.
        likelihood: p(x | z): `Bernoulli()`, `ContinuousBernoulli()` for grey images, or
            `DiscretizedLogisticMixture()` for images with 256 levels. Default `Bernoulli()`.
        scale_parameter: what the encoder returns beside loc: "raw" for the scale before a
            softplus, "log_variance" or "scale". An encoder with two outputs must state it.
            Default "raw" for an encoder with one output.

    Raises:
        checks.InputError: for parts that cannot be right, an unknown binarization or one that
            does not go with the likelihood, or a seed out of range.

    Example:
        >>> vae = VAE()
        >>> vae.compile()
        >>> vae.sample(25).shape
        (25, 28, 28, 1)

    References:
        Kingma & Welling 2014, "Auto-encoding variational Bayes".
    """

    term_names = Terms._fields
    possible_settings = ("kl_weight",)

    def __init__(
        self,
        encoder: keras.layers.Layer | None = None,
        decoder: keras.layers.Layer | None = None,
        prior: priors.StandardNormal | priors.AutoregressiveFlow | None = None,
        objective: ELBO | IWAE | None = None,
        binarization: str | None = None,
        seed: int = 0,
        likelihood: Likelihood | None = None,
        scale_parameter: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        assembly.check_global_settings()
        self.encoder = assembly.network("encoder", MLPEncoder() if encoder is None else encoder)
        self.decoder = assembly.network("decoder", MLPDecoder() if decoder is None else decoder)
        self.prior = assembly.prior(priors.StandardNormal() if prior is None else prior)
        self.likelihood = assembly.likelihood(
            distributions.Bernoulli() if likelihood is None else likelihood
        )
        self.scale_parameter = assembly.scale_parameter(scale_parameter)
        self.objective = ELBO() if objective is None else objective
        self.binarization = binarization
        self.seed = seed
        image_shape = assembly.declared_image_shape(self.encoder, self.decoder, self.likelihood)
        if image_shape is not None:
            self.build((None, *image_shape))

    # ------------------------------------------------------------------------ construction

    @property
    def objective(self) -> ELBO | IWAE:
        """The bound that training maximises. A new one acts from the next step on."""
        return self._objective

    @objective.setter
    def objective(self, value: ELBO | IWAE) -> None:
        self._objective = assembly.objective(value)

    @property
    def binarization(self) -> str:
        """How pixels are made binary. A new value acts from the next step on."""
        return self._binarization

    @binarization.setter
    def binarization(self, value: str | None) -> None:
        self._binarization = assembly.binarization(value, self.likelihood)

    @property
    def seed(self) -> int:
        """The seed of all noise. A new value acts from the next step on."""
        return self._seed

    @seed.setter
    def seed(self, value: int) -> None:
        self._seed = checks.seed(value)

    def __setattr__(self, name: str, value: Any) -> None:
        fixed = ("encoder", "decoder", "prior", "likelihood", "scale_parameter")
        if name in fixed and getattr(self, "built", False):
            raise checks.InputError(
                f"The {name} of a model is fixed once the model is built. Received: another "
                f"{name}. Make a new VAE with it."
            )
        super().__setattr__(name, value)

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Creates the weights.

        Args:
            input_shape: shape of a batch of images, (None, H, W, C).

        Raises:
            checks.InputError: when the encoder and the decoder do not fit each other.
        """
        shape = assembly.batch_shape(input_shape)
        with self.scope():
            parts = self.encoder, self.decoder, self.scale_parameter, self.likelihood
            latent_dim = assembly.build(*parts, shape)
            if self.is_top_down:
                assembly.check_top_down(self.prior, self.scale_parameter)
            if isinstance(self.prior, keras.layers.Layer) and not self.prior.built:
                self.prior.build((None, latent_dim))
        self.latent_dim, self.image_shape = latent_dim, shape[1:]
        self._build_shapes_dict = {"input_shape": shape}
        self.graphs = self._trace_later()
        self.built = True

    def _trace_later(self) -> Graphs:
        images = tf.TensorSpec((None, *self.image_shape))
        latents = tf.TensorSpec((None, self.latent_dim))
        number = tf.TensorSpec((), tf.int64)

        def terms(rows: tf.Tensor, seed: tf.Tensor, row: tf.Tensor) -> Terms:
            count, stream = tf.shape(rows)[0], noise.Stream.TEST_LATENTS
            draws = noise.normal(seed, stream, rows=count, size=self.latent_dim, row=row)
            return self.terms(rows, draws)

        context = graphs.compiled(self.context, [images])
        # The context of a flat posterior is its loc and scale.
        encode = graphs.compiled(self.encode_tensors, [images])
        return Graphs(
            context=context,
            encode=encode if self.is_top_down else context,
            decode=graphs.compiled(self.decode_tensors, [latents]),
            draw=graphs.compiled(self.draw_tensors, [latents, number, number]),
            prior=graphs.compiled(self.prior.transform, [latents]),
            reconstruct=graphs.compiled(self.call, [images]),
            terms=graphs.compiled(terms, [images, number, number]),
        )

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments, the parts serialized."""
        names = ("encoder", "decoder", "prior", "objective", "likelihood")
        serialized = {
            name: keras.saving.serialize_keras_object(getattr(self, name)) for name in names
        }
        plain = {"binarization": self.binarization, "seed": self.seed}
        if self.scale_parameter is not None:
            plain["scale_parameter"] = self.scale_parameter
        return super().get_config() | serialized | plain

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> VAE:
        """Makes the model that `get_config` describes, without its weights."""
        loaded = {
            name: keras.saving.deserialize_keras_object(config[name])
            for name in ("encoder", "decoder", "prior", "objective", "likelihood")
            if name in config  # the first files have no likelihood
        }
        return cls(**(config | loaded))

    def save(self, filepath: str | os.PathLike[str], *args: Any, **kwargs: Any) -> None:
        """Saves the model as a `.keras` file; the arguments are those of `keras.Model.save`.

        Raises:
            checks.InputError: for a name that ends in ".h5", a format that Keras cannot load
                a model with several parts from.
        """
        if os.fspath(filepath).endswith((".h5", ".hdf5")):
            raise checks.InputError(
                f"A VAE is saved as a .keras file. Received: {filepath}. "
                "End the name in .keras, or call save_weights() with a name in .weights.h5."
            )
        super().save(filepath, *args, **kwargs)

    # ---------------------------------------------------------------- the model, on tensors

    @property
    def is_top_down(self) -> bool:
        """Whether the decoder infers the latents in groups, from the top down."""
        return inference.is_top_down(self.decoder)

    def context(self, images: tf.Tensor, training: bool = False) -> Any:
        """Returns what inference knows of each image.

        Args:
            images: float [N, H, W, C] in [0, 1].
            training: whether the encoder trains. Default False.

        Returns:
            `Posterior(loc, scale)`, or the outputs of the encoder for a top-down decoder.
        """
        parameters = self.encoder(images, training=training)
        if self.is_top_down:
            return tuple(tf.nest.flatten(parameters))
        normal = distributions.posterior(parameters, self.scale_parameter or "raw").distribution
        return Posterior(normal.loc, normal.scale)

    def inference(self, context: Any, training: bool = False) -> inference.Infer:
        """Returns the function from noise to samples of the posterior.

        Args:
            context: what `context` returned for N images.
            training: whether the decoder trains. Default False.
        """
        prior = self.prior.distribution(self.latent_dim)
        if self.is_top_down:
            walk = functools.partial(self.decoder.infer, training=training)
            return inference.top_down(walk, context, prior, self.likelihood.distribution)
        posterior = distributions.diagonal_normal(*context)
        decode = functools.partial(self.decode_distribution, training=training)
        return inference.flat(posterior, prior, decode)

    def posterior(
        self, images: tf.Tensor, training: bool = False
    ) -> distributions.tfd.Distribution:
        """Returns q(z | x) as a TFP distribution.

        The posterior of a top-down decoder is conditioned on the mean of each group above, as in
        `encode`.

        Args:
            images: float [N, H, W, C] in [0, 1].
            training: whether the networks train. Default False.
        """
        return distributions.diagonal_normal(*self.encode_tensors(images, training=training))

    def decode_distribution(
        self, latents: tf.Tensor, training: bool = False
    ) -> distributions.tfd.Distribution:
        """Returns p(x | z) as a TFP distribution.

        Args:
            latents: [..., latent_dim].
            training: whether the decoder trains. Default False.
        """
        parameters = self.decoder(tf.reshape(latents, [-1, self.latent_dim]), training=training)
        shape = tf.concat([tf.shape(latents)[:-1], list(parameters.shape[1:])], axis=0)
        return self.likelihood.distribution(tf.reshape(parameters, shape))

    def bound(
        self,
        images: tf.Tensor,
        noise: tf.Tensor,
        training: bool = False,
        step: tf.Tensor | None = None,
    ) -> tuple[tf.Tensor, Terms]:
        """Returns the objective [N] and its `Terms`.

        Args:
            images: float [N, H, W, C] as the likelihood sees them.
            noise: standard normal [N, objective.noise_size(latent_dim)].
            training: whether the networks train. Default False.
            step: number of optimizer steps so far, for an objective that changes during training,
                or None after training. Default None.
        """
        infer = self.inference(self.context(images, training), training)
        return self.objective(images, infer, noise, step)

    def terms(self, images: tf.Tensor, noise: tf.Tensor) -> Terms:
        """Returns the `Terms` [N] of the ELBO, for any objective and noise [N, latent_dim]."""
        return elbo_terms(images, self.inference(self.context(images))(noise))

    def call(self, images: tf.Tensor) -> tf.Tensor:
        """Reconstructs images through the mean of the posterior, without noise.

        Args:
            images: [N, H, W, C], uint8 in 0..255 or float in [0, 1].

        Returns:
            Pixel means, float32 [N, H, W, C]. A Bernoulli's are the probabilities of a 1.
        """
        return self.decode_tensors(self.encode_tensors(self.pixels(images)).loc)

    def encode_tensors(
        self, images: tf.Tensor, noise: tf.Tensor | None = None, training: bool = False
    ) -> Posterior:
        """Returns loc and scale of the posterior, [N, latent_dim] each.

        A top-down decoder conditions each group of latents on the groups above it.

        Args:
            images: float [N, H, W, C] in [0, 1].
            noise: standard normal [N, latent_dim], from which a top-down decoder draws the groups
                above. Default: 0, so that each group above is at its mean.
            training: whether the networks train. Default False.
        """
        context = self.context(images, training)
        if not self.is_top_down:
            return context
        if noise is None:
            noise = tf.zeros([tf.shape(images)[0], self.latent_dim])
        path = self.decoder.infer(context, noise, training=training)
        return Posterior(path.loc, path.scale)

    def decode_tensors(self, latents: tf.Tensor) -> tf.Tensor:
        """Returns pixel means [..., H, W, C] for latents [..., latent_dim]."""
        return self.decode_distribution(latents).mean()

    # ---------------------------------------------------------------- what the trainer asks

    @property
    def parts(self) -> tuple[Any, ...]:
        """The networks and functions that a step runs through."""
        return self.encoder, self.decoder, self.prior, self.likelihood, self.objective

    @property
    def setting_names(self) -> tuple[str, ...]:
        """The settings that are logged: the weight of the KL where it differs from 1."""
        return () if self._kl_weight() is None else ("kl_weight",)

    def traced_settings(self) -> tuple[Any, ...]:
        """The Python values that a compiled step has read."""
        return (*assembly.settings(self.objective), self.binarization, self.seed)

    def xla_pays(self) -> bool:
        """Whether XLA makes these networks faster on the devices at hand."""
        # XLA on a CPU does not use oneDNN's convolutions, and TensorFlow outside of XLA does.
        layers = (*fast_path.layers_of(self.encoder), *fast_path.layers_of(self.decoder))
        convolves = any(fast_path.is_conv(layer) for layer in layers)
        return not convolves or bool(tf.config.list_physical_devices("GPU"))

    def check_parts(self) -> None:
        """Warns of a decoder that returns probabilities instead of logits."""
        if not type(self.decoder).__module__.startswith("vae_keras."):
            assembly.warn_of_probabilities(self.decoder, self.latent_dim)

    def draws(
        self, rows: int | tf.Tensor, step: int | tf.Tensor, row: int | tf.Tensor, training: bool
    ) -> Draws:
        """Draws the random numbers of some rows, see `StepModel.draws`."""
        streams = noise.Stream
        pixels = streams.TRAIN_PIXELS if training else streams.TEST_PIXELS
        latents = streams.TRAIN_LATENTS if training else streams.TEST_LATENTS
        size = self.objective.noise_size(self.latent_dim)
        normal = noise.normal(self.seed, latents, rows=rows, size=size, step=step, row=row)
        if self.binarization == "dynamic":
            bits = data.pixel_bits(self.seed, pixels, (rows, *self.image_shape), step, row)
        else:
            bits = tf.zeros([*normal.shape[:-2], rows, *self.image_shape], tf.uint16)
        return Draws(bits, normal)

    def evaluate_bound(
        self, examples: tf.Tensor, draws: Draws, training: bool, step: tf.Tensor | None
    ) -> Bound:
        """Evaluates the objective and the terms of a batch, see `StepModel.evaluate_bound`."""
        x = data.to_pixels(examples, draws.bits, self.binarization)
        objective, terms = self.bound(x, draws.noise, training, step)
        weight = self._kl_weight()
        return Bound(objective, terms, [] if weight is None else [weight(step)])

    def _kl_weight(self) -> Callable[[tf.Tensor | None], Any] | None:
        """The objective's weight of the KL at a step, or None where it is always 1."""
        weighs_kl = getattr(self.objective, "weighs_kl", False)
        return getattr(self.objective, "kl_weight", None) if weighs_kl else None


def require_built(model: Any, purpose: str) -> VAE:
    """Returns a model that is a `VAE` with weights.

    Args:
        model: the object to check.
        purpose: what needs the model, with its article, such as "an export".

    Raises:
        checks.InputError: for anything else.
    """
    if not (isinstance(model, VAE) and model.built):
        received = "a VAE that saw no images" if isinstance(model, VAE) else repr(model)
        raise checks.InputError(
            f"{purpose} needs a VAE with weights. Received: {received}. "
            "Call fit or build((None, H, W, C)) first."
        )
    return model
