"""The variational autoencoder as a Keras model: its parts, tensor methods and array methods."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from vae_keras import assembly, distributions, inference, labels, priors
from vae_keras.array_methods import Graphs, Posterior
from vae_keras.conditional import ConditionalMethods, Conditioned
from vae_keras.image_examples import ImageExamples
from vae_keras.logistic_mixture import DiscretizedLogisticMixture
from vae_keras.networks import MLPDecoder, MLPEncoder
from vae_keras.objectives import ELBO, IWAE, Terms, elbo_terms
from vae_keras.sharing import Sharing
from vae_keras.trainer import Trainer
from vae_keras.utils import checks

__all__ = ["VAE", "Posterior", "require_built"]

Likelihood = (
    distributions.Bernoulli | distributions.ContinuousBernoulli | DiscretizedLogisticMixture
)


@keras.saving.register_keras_serializable(package="vae_keras")
class VAE(Sharing, ConditionalMethods, ImageExamples, Trainer):
    """A variational autoencoder with a diagonal normal posterior and independent pixels.

    `fit`, `evaluate` and `predict` take what those of `keras.Model` take. Images are uint8 in
    0..255 or floats in [0, 1], with or without a channel axis. The logs are `elbo`,
    `log_likelihood` and `kl` in nats per image, and `loss`, which the optimizer minimises: means
    over the examples seen. A higher `elbo` is better. An objective that weighs the KL adds
    `kl_weight`. `evaluate` measures the `loss` with the weight after the warm-up.

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
        num_classes: number of classes K of a conditional model, p(z) p(x | z, y) and q(z | x, y).
            Its networks take `[images, labels]` and `[latents, labels]` with one-hot labels
            [N, K], and its figures are those of log p(x | y). Default None, for the number of
            `class_names`, or for no classes without them.
        class_names: K names that labels may be given by. Default None.
        classifier: Keras layer or model from images to logits [N, K] of q(y | x). It lets images
            without a label, -1 or an empty name, be trained on. Every image is then measured
            under each class. Default None.
        classifier_weight: weight of log q(y | x) in the loss of an image with a label, > 0.
            Default 1.0.

    Raises:
        checks.InputError: for a part that is not a Keras layer or lacks a method that the model
            calls, networks that do not fit each other, an unknown binarization or one that does
            not go with the likelihood, or a number out of range.

    Example:
        >>> vae = VAE()
        >>> vae.compile()
        >>> vae.sample(25).shape
        (25, 28, 28, 1)

    References:
        Kingma & Welling 2014, "Auto-encoding variational Bayes".
        Kingma et al. 2014, "Semi-supervised learning with deep generative models".
        Sohn et al. 2015, "Learning structured output representation using deep conditional
        generative models".
    """

    term_names = Terms._fields

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
        num_classes: int | None = None,
        class_names: Sequence[str] | None = None,
        classifier: keras.layers.Layer | None = None,
        classifier_weight: float = 1.0,
        **kwargs: Any,
    ) -> None:
        # Keras would round the images to a policy's compute dtype before they are made binary.
        super().__init__(autocast=False, **kwargs)
        assembly.check_global_settings()
        self.encoder = assembly.network("encoder", MLPEncoder() if encoder is None else encoder)
        self.decoder = assembly.network("decoder", MLPDecoder() if decoder is None else decoder)
        self.prior = assembly.prior(priors.StandardNormal() if prior is None else prior)
        self.likelihood = assembly.likelihood(
            distributions.Bernoulli() if likelihood is None else likelihood
        )
        self.scale_parameter = assembly.scale_parameter(scale_parameter)
        self.classes = labels.Classes.of(num_classes, class_names, classifier is not None)
        self.classifier = assembly.classifier(classifier, self.classes, self.decoder)
        self.classifier_weight = classifier_weight
        self.objective = ELBO() if objective is None else objective
        self.binarization = binarization
        self.seed = seed
        parts = self.encoder, self.decoder, self.likelihood
        image_shape = assembly.declared_image_shape(*parts, self.num_classes)
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
        if self.built:  # these functions have read the old value while they were traced
            self.graphs, self.predict_function = Graphs.of(self), None

    @property
    def classifier_weight(self) -> float:
        """The weight of log q(y | x) in the loss. A new value acts from the next step on."""
        return self._classifier_weight

    @classifier_weight.setter
    def classifier_weight(self, value: float) -> None:
        self._classifier_weight = checks.positive("classifier_weight", value)

    @property
    def seed(self) -> int:
        """The seed of all noise. A new value acts from the next step on."""
        return self._seed

    @seed.setter
    def seed(self, value: int) -> None:
        self._seed = checks.seed(value)

    def __setattr__(self, name: str, value: Any) -> None:
        fixed = ("encoder", "decoder", "prior", "likelihood", "scale_parameter")
        if name in (*fixed, "classes", "classifier") and getattr(self, "built", False):
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
            latent_dim = assembly.build(*parts, shape, self.num_classes)
            if self.is_top_down:
                assembly.check_top_down(self.prior, self.scale_parameter)
            if isinstance(self.prior, keras.layers.Layer) and not self.prior.built:
                self.prior.build((None, latent_dim))
            self.build_classes(shape)
        self.latent_dim, self.image_shape = latent_dim, shape[1:]
        self._build_shapes_dict = {"input_shape": shape}
        self.graphs = Graphs.of(self)
        self.built = True

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments, the parts serialized."""
        names = ("encoder", "decoder", "prior", "objective", "likelihood")
        serialized = {
            name: keras.saving.serialize_keras_object(getattr(self, name)) for name in names
        }
        plain = {"binarization": self.binarization, "seed": self.seed}
        if self.scale_parameter is not None:
            plain["scale_parameter"] = self.scale_parameter
        if self.classes is not None:
            plain |= {"num_classes": self.num_classes, "class_names": self.class_names}
        if self.classifier is not None:
            serialized["classifier"] = keras.saving.serialize_keras_object(self.classifier)
            plain["classifier_weight"] = self.classifier_weight
        return super().get_config() | serialized | plain

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> VAE:
        """Makes the model that `get_config` describes, without its weights."""
        loaded = {
            name: keras.saving.deserialize_keras_object(config[name])
            for name in ("encoder", "decoder", "prior", "objective", "likelihood", "classifier")
            if name in config  # the first files have no likelihood
        }
        return cls(**(config | loaded))

    # ---------------------------------------------------------------- the model, on tensors

    @property
    def is_top_down(self) -> bool:
        """Whether the decoder infers the latents in groups, from the top down."""
        return inference.is_top_down(self.decoder)

    def context(
        self, images: tf.Tensor, labels: tf.Tensor | None = None, training: bool = False
    ) -> Any:
        """Returns what inference knows of each image.

        Args:
            images: float [N, H, W, C] in [0, 1].
            labels: one-hot [N, K], for a model with classes. Default None.
            training: whether the encoder trains. Default False.

        Returns:
            `Posterior(loc, scale)`, or the outputs of the encoder for a top-down decoder. For a
            model with classes `Conditioned(loc, scale, labels)`.
        """
        inputs = images if labels is None else [images, labels]
        parameters = self.encoder(inputs, training=training)
        if self.is_top_down:
            return tuple(tf.nest.flatten(parameters))
        normal = distributions.posterior(parameters, self.scale_parameter or "raw").distribution
        if labels is None:
            return Posterior(normal.loc, normal.scale)
        return Conditioned(normal.loc, normal.scale, labels)

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
        loc, scale, *labels = context

        def decode(latents: tf.Tensor) -> distributions.tfd.Distribution:
            given = {"labels": labels[0]} if labels else {}
            return self.decode_distribution(latents, training=training, **given)

        return inference.flat(distributions.diagonal_normal(loc, scale), prior, decode)

    def posterior(
        self, images: tf.Tensor, labels: tf.Tensor | None = None, training: bool = False
    ) -> distributions.tfd.Distribution:
        """Returns q(z | x), or q(z | x, y), as a TFP distribution.

        The posterior of a top-down decoder is conditioned on the mean of each group above, as in
        `encode`.

        Args:
            images, labels, training: as in `context`.
        """
        return distributions.diagonal_normal(*self.encode_tensors(images, labels, None, training))

    def decode_distribution(
        self, latents: tf.Tensor, labels: tf.Tensor | None = None, training: bool = False
    ) -> distributions.tfd.Distribution:
        """Returns p(x | z), or p(x | z, y), as a TFP distribution.

        Args:
            latents: [N, latent_dim], or [N, k, latent_dim] for k samples of each image.
            labels: one-hot [N, K], for a model with classes. Default None.
            training: whether the decoder trains. Default False.
        """
        inputs: Any = tf.reshape(latents, [-1, self.latent_dim])
        if labels is not None:
            if len(latents.shape) == 3:  # several samples of each image
                labels = tf.repeat(labels, tf.shape(latents)[1], axis=0)
            inputs = [inputs, labels]
        parameters = self.decoder(inputs, training=training)
        shape = tf.concat([tf.shape(latents)[:-1], list(parameters.shape[1:])], axis=0)
        return self.likelihood.distribution(tf.reshape(parameters, shape))

    def bound(
        self,
        images: tf.Tensor,
        noise: tf.Tensor,
        training: bool = False,
        step: tf.Tensor | None = None,
        labels: tf.Tensor | None = None,
    ) -> tuple[tf.Tensor, Terms]:
        """Returns the objective [N] and its `Terms`.

        Args:
            images: float [N, H, W, C] as the likelihood sees them.
            noise: standard normal [N, objective.noise_size(latent_dim)].
            training: whether the networks train. Default False.
            step: number of optimizer steps so far, for an objective that changes during training,
                or None after training. Default None.
            labels: one-hot [N, K], for a model with classes. The row of a missing label is zero.
                Default None.
        """

        def of(
            images: tf.Tensor, noise: tf.Tensor, labels: tf.Tensor | None
        ) -> tuple[tf.Tensor, Terms]:
            infer = self.inference(self.context(images, labels, training), training)
            return self.objective(images, infer, noise, step)

        return self.over_classes(of, images, noise, labels, training)

    def terms(self, images: tf.Tensor, noise: tf.Tensor, labels: tf.Tensor | None = None) -> Terms:
        """Returns the `Terms` [N] of the ELBO, for any objective and noise [N, latent_dim]."""

        def of(
            images: tf.Tensor, noise: tf.Tensor, labels: tf.Tensor | None
        ) -> tuple[tf.Tensor, Terms]:
            terms = elbo_terms(images, self.inference(self.context(images, labels))(noise))
            return terms.elbo, terms

        return self.over_classes(of, images, noise, labels)[1]

    def call(self, images: tf.Tensor, labels: tf.Tensor | None = None) -> tf.Tensor:
        """Reconstructs images through the mean of the posterior, without noise.

        Args:
            images: [N, H, W, C], uint8 in 0..255 or float in [0, 1].
            labels: one-hot [N, K], for a model with classes. Default None.

        Returns:
            Pixel means, float32 [N, H, W, C]. A Bernoulli's are the probabilities of a 1.
        """
        loc = self.encode_tensors(self.pixels(images), labels).loc
        return self.decode_tensors(loc, labels)

    def encode_tensors(
        self,
        images: tf.Tensor,
        labels: tf.Tensor | None = None,
        noise: tf.Tensor | None = None,
        training: bool = False,
    ) -> Posterior:
        """Returns loc and scale of the posterior, [N, latent_dim] each.

        A top-down decoder conditions each group of latents on the groups above it.

        Args:
            images, labels, training: as in `context`.
            noise: standard normal [N, latent_dim], from which a top-down decoder draws the groups
                above. Default: 0, so that each group above is at its mean.
        """
        context = self.context(images, labels, training)
        if not self.is_top_down:
            return Posterior(*context[:2])
        if noise is None:
            noise = tf.zeros([tf.shape(images)[0], self.latent_dim])
        path = self.decoder.infer(context, noise, training=training)
        return Posterior(path.loc, path.scale)

    def decode_tensors(self, latents: tf.Tensor, labels: tf.Tensor | None = None) -> tf.Tensor:
        """Returns pixel means [..., H, W, C] for latents [..., latent_dim]."""
        return self.decode_distribution(latents, labels).mean()

    # ---------------------------------------------------------------- what the trainer asks

    @property
    def parts(self) -> tuple[Any, ...]:
        """The networks and functions that a step runs through."""
        parts = self.encoder, self.decoder, self.prior, self.likelihood, self.objective
        return parts if self.classifier is None else (*parts, self.classifier)

    def traced_settings(self) -> tuple[Any, ...]:
        """The Python values that a compiled step has read."""
        settings = (*assembly.settings(self.objective), self.binarization, self.seed)
        return settings if self.classifier is None else (*settings, self.classifier_weight)


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
