"""The variational autoencoder as a Keras model."""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from vae_keras import (
    checks,
    data,
    distributions,
    divergence,
    keras_file,
    noise,
    presets,
    priors,
    replicas,
)
from vae_keras.networks import MLPDecoder, MLPEncoder
from vae_keras.objectives import ELBO, IWAE, Terms

__all__ = ["VAE", "Posterior"]

_STACK_ROWS = 6000  # rows one compiled call works through: enough to hide its overhead
_STACK_STEPS = 50
_STACK_VALUES = _STACK_ROWS * 28 * 28  # and no more pixels: large images would fill the memory
_BLOCK = 1000  # rows at a time in the methods that take whole data sets


class Posterior(NamedTuple):
    """A diagonal normal posterior, loc and scale [N, latent_dim]."""

    loc: np.ndarray
    scale: np.ndarray


class _Graphs(NamedTuple):
    """Tensor functions that run as graphs, batch size free; see `VAE._trace_later`."""

    encode: Callable[..., Posterior]
    decode: Callable[..., tf.Tensor]
    prior: Callable[..., tf.Tensor]
    reconstruct: Callable[..., tf.Tensor]
    terms: Callable[..., Terms]


class _Draws(NamedTuple):
    """The random numbers of a step, drawn outside of the compiled kernel."""

    bits: tf.Tensor  # uint16 [..., N, H, W, C]
    noise: tf.Tensor  # float32 [..., N, objective.noise_size]


class _PresetNames:
    """`VAE.presets`: what `VAE.from_preset` takes, read from disk when asked."""

    def __get__(self, instance: object, owner: type) -> tuple[str, ...]:
        return presets.trained()


@keras.saving.register_keras_serializable(package="vae_keras")
class VAE(keras.Model):
    """A variational autoencoder: q(z | x) diagonal normal, p(x | z) pixel by pixel.

    `fit`, `evaluate` and `predict` take NumPy arrays (uint8 0..255 or floats in [0, 1], with or
    without a channel axis), `(x, y)` pairs whose y is ignored, or a `tf.data.Dataset` of batches.
    The logs are `elbo`, `log_likelihood` and `kl` in nats per image, higher `elbo` is better, and
    `loss`, what the optimizer minimises: exact means over the examples seen. An objective that
    weighs the KL adds its `kl_weight`; `evaluate` measures the `loss` with the final one.

    Args:
        encoder: Keras layer or model, images [N, H, W, C] to [N, 2 * latent_dim]: the posterior's
            loc and its scale before the softplus. Default `MLPEncoder()`.
        decoder: Keras layer or model, latents [N, latent_dim] to logits [N, H, W, C].
            Default `MLPDecoder()`.
        prior: p(z), `priors.StandardNormal()` or `priors.AutoregressiveFlow()`.
            Default `priors.StandardNormal()`.
        objective: what training maximises. Default `objectives.ELBO()`.
        likelihood: p(x | z). Default `distributions.Bernoulli()`, of binary images;
            `distributions.ContinuousBernoulli()` is that of grey ones.
        binarization: how `fit` and `evaluate` make the pixels binary: "dynamic" (a fresh draw at
            every step), "threshold" or "none". A Bernoulli takes all of them, "none" for images
            that are binary already: of grey ones it has no probability, and nats without meaning.
            Grey images' likelihood takes "none" alone. Default "dynamic", or "none" for that.
        seed: of all noise, integer in [0, 2^31). Default 0.

    Raises:
        checks.InputError: for parts that are no layers, an unknown binarization or one that does
            not go with the likelihood, or a seed out of range.

    Example:
        >>> vae = VAE()
        >>> vae.compile()
        >>> history = vae.fit(x_train, epochs=30)
        >>> images = vae.sample(25)

    References:
        Kingma & Welling 2014, "Auto-encoding variational Bayes".
    """

    def __init__(
        self,
        encoder: keras.layers.Layer | None = None,
        decoder: keras.layers.Layer | None = None,
        prior: priors.StandardNormal | priors.AutoregressiveFlow | None = None,
        objective: ELBO | IWAE | None = None,
        binarization: str | None = None,
        seed: int = 0,
        likelihood: distributions.Bernoulli | distributions.ContinuousBernoulli | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.encoder = _part("encoder", MLPEncoder() if encoder is None else encoder)
        self.decoder = _part("decoder", MLPDecoder() if decoder is None else decoder)
        self.prior = priors.StandardNormal() if prior is None else prior
        self.objective = ELBO() if objective is None else objective
        self.likelihood_part = distributions.Bernoulli() if likelihood is None else likelihood
        self.binarization = _binarization(binarization, self.likelihood_part)
        self.seed = checks.seed(seed)
        weight = ("kl_weight",) if self.objective.weighs_kl else ()
        self._trackers = {
            # Sums of 60,000 values of about -100 do not fit into float32 to six digits.
            name: replicas.GlobalMean(name=name, dtype="float64")
            for name in (*Terms._fields, "loss", *weight)
        }
        self._test_row = tf.Variable(0, dtype=tf.int64, trainable=False)
        # What `divergence.fault` says of the first step that went wrong, and the steps until then.
        self._fault = tf.Variable([0, 0], dtype=tf.int64, trainable=False)
        self._auto_steps = True
        self.steps_to_skip = 0  # of the next `fit`: an earlier run has done them
        self._stack_start = tf.Variable(0, trainable=False)  # so many of a stack are done
        self.strategy = tf.distribute.get_strategy() if tf.distribute.has_strategy() else None
        self.wants_stop: Callable[[], bool] = lambda: False  # is asked before each shared step
        self.all_stop = False  # whether any worker's `wants_stop` said so at the last one
        image_shape = self._declared_image_shape()
        if image_shape is not None:
            self.build((None, *image_shape))

    # ------------------------------------------------------------------------ construction

    presets = _PresetNames()

    @classmethod
    def from_preset(cls, name: str) -> VAE:
        """Loads a trained model of the zoo, offline, its weights checked against their hash.

        Args:
            name: one of `VAE.presets`.

        Returns:
            A compiled `VAE`.

        Raises:
            checks.InputError: for an unknown name, or weights that are not the published ones.

        Example:
            >>> VAE.from_preset("mlp_mnist").sample(25).shape
            (25, 28, 28, 1)
        """
        model = keras_file.load(presets.weights(name))
        model.compile()
        return model

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Creates the weights for images of shape [N, H, W, C].

        Raises:
            checks.InputError: when encoder and decoder do not fit each other.
        """
        shape = (None, *input_shape[1:])
        if len(shape) != 4:
            raise checks.InputError(
                "images and the decoder's logits must have shape [N, H, W, C]. "
                f"Received: {shape}. Reshape the decoder's output to the images' shape."
            )
        parameters = self.encoder.compute_output_shape(shape)
        if len(parameters) != 2 or parameters[-1] is None or parameters[-1] % 2:
            raise checks.InputError(
                "the encoder must return [N, 2 * latent_dim]. "
                f"Received: {tuple(parameters)} for images {shape}. "
                "End it with Dense(2 * latent_dim)."
            )
        self.latent_dim = int(parameters[-1]) // 2
        logits = self.decoder.compute_output_shape((None, self.latent_dim))
        if tuple(logits[1:]) != shape[1:]:
            raise checks.InputError(
                f"the decoder must return logits of the images' shape {shape}. "
                f"Received: {tuple(logits)} for latents {(None, self.latent_dim)}. "
                "Reshape its output to the images' shape."
            )
        self.image_shape = tuple(int(size) for size in shape[1:])
        for part, part_shape in ((self.encoder, shape), (self.decoder, (None, self.latent_dim))):
            if not part.built:
                part.build(part_shape)
        if isinstance(self.prior, keras.layers.Layer) and not self.prior.built:
            self.prior.build((None, self.latent_dim))
        self._build_shapes_dict = {"input_shape": shape}
        self._graphs = self._trace_later()
        self.built = True

    def _trace_later(self) -> _Graphs:
        """The array methods' tensor functions as graphs, as `export` writes them.

        TensorFlow fuses operations in a graph, and the fused ones round differently: only a graph
        answers bit for bit as the served model does.
        """
        images = tf.TensorSpec((None, *self.image_shape))
        latents = tf.TensorSpec((None, self.latent_dim))
        number = tf.TensorSpec((), tf.int64)
        return _Graphs(
            encode=tf.function(self._moments, [images], autograph=False),
            decode=tf.function(self._means, [latents], autograph=False),
            prior=tf.function(self.prior.transform, [latents], autograph=False),
            reconstruct=tf.function(self.call, [images], autograph=False),
            terms=tf.function(self._terms, [images, number, number], autograph=False),
        )

    def _declared_image_shape(self) -> tuple[int, ...] | None:
        """The image shape when the parts state it, else None: `build` then waits for data."""
        latent_dim = getattr(self.encoder, "latent_dim", None)
        if latent_dim is not None:
            return tuple(self.decoder.compute_output_shape((None, latent_dim))[1:])
        if self.encoder.built and hasattr(self.encoder, "input_shape"):
            return tuple(self.encoder.input_shape[1:])
        return None

    def get_config(self) -> dict[str, Any]:
        parts = {
            "encoder": self.encoder,
            "decoder": self.decoder,
            "prior": self.prior,
            "objective": self.objective,
            "likelihood": self.likelihood_part,
        }
        serialized = {
            name: keras.saving.serialize_keras_object(part) for name, part in parts.items()
        }
        plain = {"binarization": self.binarization, "seed": self.seed}
        return super().get_config() | serialized | plain

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> VAE:
        parts = {
            name: keras.saving.deserialize_keras_object(config[name])
            for name in ("encoder", "decoder", "prior", "objective", "likelihood")
            if name in config  # the first files had no likelihood yet
        }
        return cls(**(config | parts))

    # ---------------------------------------------------------------- the model, on tensors

    def posterior(
        self, images: tf.Tensor, training: bool = False
    ) -> distributions.tfd.Distribution:
        """Returns q(z | x) for float images [N, H, W, C], as a TFP distribution."""
        return distributions.posterior(self.encoder(images, training=training))

    def likelihood(
        self, latents: tf.Tensor, training: bool = False
    ) -> distributions.tfd.Distribution:
        """Returns p(x | z) for latents [..., latent_dim], as a TFP distribution."""
        logits = self.decoder(tf.reshape(latents, [-1, self.latent_dim]), training=training)
        shape = tf.concat([tf.shape(latents)[:-1], self.image_shape], axis=0)
        return self.likelihood_part.distribution(tf.reshape(logits, shape))

    def bound(
        self,
        images: tf.Tensor,
        noise: tf.Tensor,
        training: bool = False,
        step: tf.Tensor | None = None,
    ) -> tuple[tf.Tensor, Terms]:
        """Returns the objective [N] and its `Terms` for float images.

        Args:
            images: [N, H, W, C] as the likelihood sees them.
            noise: standard normal [N, objective.noise_size(latent_dim)].
            training: whether the networks train. Default False.
            step: of the optimizer, for an objective that changes on the way, or None after all of
                them. Default None.
        """
        return self._bound(self.objective, images, noise, training, step)

    def terms(self, images: tf.Tensor, noise: tf.Tensor) -> Terms:
        """Returns the ELBO's `Terms` [N], whatever the objective, for noise [N, latent_dim]."""
        return self._bound(ELBO(), images, noise, training=False)[1]

    def _bound(
        self,
        objective: ELBO | IWAE,
        images: tf.Tensor,
        noise: tf.Tensor,
        training: bool,
        step: tf.Tensor | None = None,
    ) -> tuple[tf.Tensor, Terms]:
        posterior = self.posterior(images, training)
        prior = self.prior.distribution(self.latent_dim)
        decode = functools.partial(self.likelihood, training=training)
        return objective(images, posterior, prior, decode, noise, step)

    def call(self, images: tf.Tensor) -> tf.Tensor:
        """Reconstructs images through the posterior mean: no noise, the same answer each time.

        Args:
            images: [N, H, W, C], uint8 0..255 or float in [0, 1].

        Returns:
            Pixel means, float32 [N, H, W, C]: of a Bernoulli they are the probabilities of 1.
        """
        posterior = self.posterior(self.pixels(images))
        return self._means(posterior.distribution.loc)

    def _means(self, latents: tf.Tensor) -> tf.Tensor:
        return self.likelihood(latents).mean()

    def _moments(self, images: tf.Tensor) -> Posterior:
        normal = self.posterior(images).distribution
        return Posterior(normal.loc, normal.scale)

    def _terms(self, images: tf.Tensor, seed: tf.Tensor, row: tf.Tensor) -> Terms:
        rows, stream = tf.shape(images)[0], noise.Stream.TEST_LATENTS
        draws = noise.normal(seed, stream, rows=rows, size=self.latent_dim, row=row)
        return self.terms(images, draws)

    def pixels(self, images: tf.Tensor) -> tf.Tensor:
        """Images as the encoder sees them where nothing may be random."""
        mode = "none" if self.binarization == "dynamic" else self.binarization
        return data.to_pixels(_as_images(images), None, mode)

    # ----------------------------------------------------------------- the model, on arrays

    def encode(self, x: Any) -> Posterior:
        """Returns the posterior of each image.

        Args:
            x: images, as in `fit`.

        Returns:
            `Posterior(loc, scale)`, float32 [N, latent_dim] each.
        """
        images = self._images(x)
        return Posterior(*_in_blocks(lambda rows: self._graphs.encode(self.pixels(rows)), images))

    def decode(self, latents: Any) -> np.ndarray:
        """Returns pixel means [N, H, W, C] for latents [N, latent_dim]."""
        self._require_built("decode")
        return _in_blocks(self._graphs.decode, checks.latents(latents, self.latent_dim))

    def reconstruct(self, x: Any) -> np.ndarray:
        """Returns pixel means [N, H, W, C] through the posterior mean of each image."""
        images = self._images(x)
        return _in_blocks(lambda rows: self._graphs.reconstruct(self.pixels(rows)), images)

    def prior_latents(self, n: int, seed: int = 0) -> np.ndarray:
        """Draws latents from the prior; row i depends on (seed, i) alone.

        Args:
            n: how many, >= 1.
            seed: integer in [0, 2^31). Default 0.

        Returns:
            float32 [n, latent_dim].
        """
        self._require_built("sample")
        n, seed = checks.whole_number("n", n, 1), checks.seed(seed)
        checks.memory("n", n, 4 * self.latent_dim)
        draws = noise.normal(seed, noise.Stream.PRIOR, rows=n, size=self.latent_dim)
        return self.prior_draws(draws.numpy())

    def prior_draws(self, standard: Any) -> np.ndarray:
        """Makes draws from the prior, float32, of standard normal ones, both [N, latent_dim]."""
        self._require_built("sample")
        return _in_blocks(self._graphs.prior, checks.latents(standard, self.latent_dim))

    def sample(self, n: int, seed: int = 0) -> np.ndarray:
        """Draws images from the model; row i depends on (seed, i) alone.

        Args:
            n: how many, >= 1.
            seed: integer in [0, 2^31). Default 0.

        Returns:
            Pixel means, float32 [n, H, W, C].
        """
        self._require_built("sample")
        checks.memory("n", checks.whole_number("n", n, 1), self._image_bytes())
        return self.decode(self.prior_latents(n, seed))

    def interpolate(self, a: Any, b: Any, steps: int = 11) -> np.ndarray:
        """Decodes the straight line between the posterior means of image pairs.

        Args:
            a: images at the start, as in `fit`, [N, ...].
            b: images at the end, of the same shape.
            steps: points on each line, both ends included, >= 2. Default 11.

        Returns:
            Pixel means, float32 [N, steps, H, W, C].
        """
        a, b = self._images(a, "a"), self._images(b, "b")
        if len(a) != len(b):
            raise checks.InputError(
                "interpolate needs as many end as start images. "
                f"Received: {len(a)} and {len(b)}. Pass pairs."
            )
        checks.whole_number("steps", steps, 2)
        checks.memory("steps", len(a) * steps, self._image_bytes())
        fractions = np.linspace(0.0, 1.0, steps, dtype=np.float32)
        start, end = self.encode(a).loc, self.encode(b).loc
        weight = fractions[np.newaxis, :, np.newaxis]
        line = (1.0 - weight) * start[:, np.newaxis] + weight * end[:, np.newaxis]
        images = self.decode(line.reshape(-1, self.latent_dim))
        return images.reshape(len(a), len(fractions), *self.image_shape)

    def elbo(self, x: Any, seed: int = 0) -> Terms:
        """Estimates the ELBO of each image with one draw from its posterior.

        The images are taken as they are: binarize them first (`data.binarize`) for a figure that
        compares with others'.

        Args:
            x: images, as in `fit`.
            seed: integer in [0, 2^31). Default 0.

        Returns:
            `Terms(elbo, log_likelihood, kl)`, float32 [N] each, in nats; elbo is
            log_likelihood - kl, higher is better.
        """
        images, seed = self._images(x), tf.constant(checks.seed(seed), tf.int64)

        def block(rows: tf.Tensor, indices: tf.Tensor) -> Terms:
            return self._graphs.terms(data.to_pixels(rows, None, "none"), seed, indices[0])

        return Terms(*_in_blocks(block, images, np.arange(len(images))))

    def _images(self, x: Any, name: str = "x") -> np.ndarray:
        images = checks.images(x, name, shape=self.image_shape if self.built else None)
        if not self.built:
            with self._scope():
                self.build((None, *images.shape[1:]))
        return images

    def _image_bytes(self) -> int:
        return 4 * math.prod(self.image_shape)

    def _scope(self) -> contextlib.AbstractContextManager[Any]:
        return contextlib.nullcontext() if self.strategy is None else self.strategy.scope()

    def _build_for(self, dataset: Any) -> None:
        """Builds from a dataset's shapes where there is no building inside of a step."""
        if self.strategy is not None and not self.built:
            images = keras.utils.unpack_x_y_sample_weight(dataset.element_spec)[0]
            shape = images.shape if images.shape.rank == 4 else (*images.shape, 1)
            with self._scope():
                self.build((None, *shape[1:]))

    def _maybe_symbolic_build(self, iterator: Any = None, data_batch: Any = None) -> None:
        # Keras learns the shapes from the mean over replicas, which fails for unequal shares.
        if self.strategy is not None and self.built and not self.optimizer.built:
            with self._scope():
                self.optimizer.build(self.trainable_variables)

    def _require_built(self, method: str) -> None:
        if not self.built:
            raise checks.InputError(
                f"{method} needs to know the images' shape. Received: a model that saw no images. "
                "Call fit or build((None, H, W, C)) first."
            )

    # ---------------------------------------------------------------------------- training

    def compile(
        self,
        optimizer: str | keras.optimizers.Optimizer = "adam",
        *,
        steps_per_execution: int | str = "auto",
        jit_compile: bool | str = "auto",
        run_eagerly: bool = False,
    ) -> None:
        """Prepares training; the defaults are the fast ones.

        Args:
            optimizer: a Keras optimizer or its name. Default "adam".
            steps_per_execution: batches a compiled call, or "auto": about 6,000 images when `fit`
                gets arrays, one batch when it gets a dataset or the model was made under a
                `tf.distribute` strategy. Default "auto".
            jit_compile: whether XLA compiles the step; noise is drawn outside either way.
                "auto" leaves networks with convolutions to oneDNN on a CPU. Default "auto".
            run_eagerly: runs Python for every step, for debugging. Default False.

        Raises:
            checks.InputError: for an optimizer that Keras does not know, or another value.
        """
        checks.auto_or("jit_compile", jit_compile, (True, False))
        if steps_per_execution != "auto":
            checks.whole_number("steps_per_execution", steps_per_execution, 1)
        try:
            optimizer = keras.optimizers.get(optimizer)
        except (ValueError, TypeError) as error:
            raise checks.InputError(
                "optimizer must be a Keras optimizer or its name. "
                f"Received: {optimizer!r}. Pass 'adam'."
            ) from error
        if self.strategy is not None and steps_per_execution not in ("auto", 1):
            raise checks.InputError(
                "a compiled call under a strategy does one batch. "
                f"Received: steps_per_execution {steps_per_execution}. Leave it out."
            )
        self._auto_steps = steps_per_execution == "auto"
        self._compile_arguments = {
            "steps_per_execution": steps_per_execution,
            "jit_compile": jit_compile,
            "run_eagerly": run_eagerly,
        }
        # Keras' own jit_compile would pull the noise into the kernel, where it is slow.
        super().compile(
            optimizer=optimizer,
            jit_compile=False,
            run_eagerly=run_eagerly,
            steps_per_execution=1 if self._auto_steps else steps_per_execution,
        )
        self.uses_xla = use_xla = self.xla_pays() if jit_compile == "auto" else jit_compile
        if run_eagerly:
            self._step_kernel, self._stack_kernel = self._one_step, self._many_steps
        else:
            # AutoGraph would read all that a step calls, and find nothing to convert.
            self._step_kernel, self._stack_kernel = (
                tf.function(f, jit_compile=use_xla, autograph=False)
                for f in (self._one_step, self._many_steps)
            )

    def get_compile_config(self) -> dict[str, Any]:
        if not self.compiled:
            return {}
        optimizer = keras.saving.serialize_keras_object(self.optimizer)
        return {"optimizer": optimizer, **self._compile_arguments}

    def compile_from_config(self, config: dict[str, Any]) -> None:
        config = dict(config)
        self.compile(keras.saving.deserialize_keras_object(config.pop("optimizer")), **config)
        if self.built:
            self.optimizer.build(self.trainable_variables)

    def xla_pays(self) -> bool:
        """Whether XLA makes these networks faster on the devices at hand."""
        # On a CPU XLA does not use oneDNN's convolutions; TensorFlow outside of it does.
        layers = [*self.encoder._flatten_layers(), *self.decoder._flatten_layers()]
        convolves = any(
            isinstance(layer, keras.layers.Layer) and _is_conv(layer) for layer in layers
        )
        return not convolves or bool(tf.config.list_physical_devices("GPU"))

    @property
    def metrics(self) -> list[keras.metrics.Metric]:
        return list(self._trackers.values())

    def reset_metrics(self) -> None:
        super().reset_metrics()
        self._test_row.assign(0)

    def train_step(self, batch: Any) -> dict[str, tf.Tensor]:
        """Ascends the objective on one batch; the noise is keyed by (seed, step, row)."""
        images, weights = self._unpack(batch)
        draws = self._train_draws(tf.shape(images)[0], self.optimizer.iterations)
        self._track(self._note_fault(self._step_kernel(images, weights, draws, training=True)))
        return self.get_metrics_result()

    def test_step(self, batch: Any) -> dict[str, tf.Tensor]:
        """Measures one batch; the noise is keyed by (seed, the row's place in the data)."""
        images, weights = self._unpack(batch)
        rows = tf.shape(images)[0]
        draws = self._test_draws(rows, self._next_test_row(rows))
        self._track(self._step_kernel(images, weights, draws, training=False))
        return self.get_metrics_result()

    def _train_stack(self, stack: data.Stack) -> dict[str, tf.Tensor]:
        """Does `train_step` for every batch of a stack in one compiled call."""
        steps, rows = stack.weights.shape
        start = tf.identity(self._stack_start)
        first = self.optimizer.iterations - tf.cast(start, self.optimizer.iterations.dtype)
        draws = self._train_draws(rows, first + tf.range(steps, dtype=first.dtype))
        self._track(self._note_fault(self._stack_kernel(stack, draws, training=True, first=start)))
        return self.get_metrics_result()

    def _test_stack(self, stack: data.Stack) -> dict[str, tf.Tensor]:
        """Does `test_step` for every batch of a stack in one compiled call."""
        steps, rows = stack.weights.shape
        draws = tf.nest.map_structure(
            lambda part: tf.reshape(part, [steps, rows, *part.shape[1:]]),
            self._test_draws(steps * rows, self._next_test_row(steps * rows)),
        )
        self._track(self._stack_kernel(stack, draws, training=False))
        return self.get_metrics_result()

    def _train_draws(
        self, rows: int | tf.Tensor, step: tf.Tensor, row: int | tf.Tensor = 0
    ) -> _Draws:
        streams = noise.Stream.TRAIN_PIXELS, noise.Stream.TRAIN_LATENTS
        return self._draws(streams, rows, step, row)

    def _test_draws(self, rows: int | tf.Tensor, row: int | tf.Tensor = 0) -> _Draws:
        streams = noise.Stream.TEST_PIXELS, noise.Stream.TEST_LATENTS
        return self._draws(streams, rows, 0, row)

    def _next_test_row(self, rows: int | tf.Tensor) -> tf.Tensor:
        """The place in the data of the batch's first row; the batch after it is `rows` further."""
        first = tf.identity(self._test_row)
        self._test_row.assign_add(tf.cast(rows, tf.int64))
        return first

    def _draws(
        self,
        streams: tuple[noise.Stream, noise.Stream],
        rows: int | tf.Tensor,
        step: int | tf.Tensor,
        row: int | tf.Tensor,
    ) -> _Draws:
        pixels, latents = streams
        size = self.objective.noise_size(self.latent_dim)
        normal = noise.normal(self.seed, latents, rows=rows, size=size, step=step, row=row)
        if self.binarization == "dynamic":
            bits = data.pixel_bits(self.seed, pixels, (rows, *self.image_shape), step, row)
        else:
            bits = tf.zeros([*normal.shape[:-2], rows, *self.image_shape], tf.uint16)
        return _Draws(bits, normal)

    def _one_step(
        self, images: tf.Tensor, weights: tf.Tensor, draws: _Draws, training: bool
    ) -> tf.Tensor:
        """One batch, inside the compiled kernel.

        Returns:
            float64 [2 + len(metrics)]: the metrics' weighted sums, the sum of weights, and
            `divergence.fault`.
        """
        total_weight = tf.reduce_sum(weights)
        with tf.GradientTape() as tape:
            objective, sums, kl_weights = self._weighted_sums(images, weights, draws, training)
            loss = -tf.math.divide_no_nan(objective, total_weight)
        variables = self.trainable_variables if training else []
        gradients = tape.gradient(loss, variables) if training else []
        fault = divergence.fault([sums.kl, sums.log_likelihood, sums.elbo, loss], gradients)
        if training:
            gradients = divergence.hold_back(fault, gradients)
            self.optimizer.apply_gradients(zip(gradients, variables, strict=True))
        totals = [*sums, loss * total_weight, *kl_weights, total_weight, fault]
        return tf.stack([tf.cast(total, tf.float64) for total in totals])

    def _weighted_sums(
        self, images: tf.Tensor, weights: tf.Tensor, draws: _Draws, training: bool
    ) -> tuple[tf.Tensor, Terms, list[tf.Tensor]]:
        """The weighted sums over a batch: of the objective, of the terms to report, and of the
        KL's weight where it is reported."""
        x = data.to_pixels(images, draws.bits, self.binarization)
        step = tf.convert_to_tensor(self.optimizer.iterations) if training else None
        objective, terms = self.bound(x, draws.noise, training, step)
        sums = Terms(*(tf.reduce_sum(weights * tf.stop_gradient(term)) for term in terms))
        kl_weights = []
        if self.objective.weighs_kl:
            kl_weights = [tf.reduce_sum(weights) * self.objective.kl_weight(step)]
        return tf.reduce_sum(weights * objective), sums, kl_weights

    def _many_steps(
        self, stack: data.Stack, draws: _Draws, training: bool, first: int | tf.Tensor = 0
    ) -> tf.Tensor:
        """The batches of a stack one after the other, inside one compiled kernel."""

        def body(index: tf.Tensor, totals: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            step_draws = _Draws(draws.bits[index], draws.noise[index])
            images, weights = stack.images[index], stack.weights[index]
            return index + 1, totals + self._one_step(images, weights, step_draws, training)

        def goes_on(index: tf.Tensor, totals: tf.Tensor) -> tf.Tensor:
            left = index < stack.steps
            return left & tf.equal(totals[-1], 0.0) if training else left  # stops at a fault

        start = (tf.convert_to_tensor(first), tf.zeros(len(self._trackers) + 2, tf.float64))
        return tf.while_loop(goes_on, body, start)[1]

    def _note_fault(self, totals: tf.Tensor) -> tf.Tensor:
        now = tf.stack(
            [tf.cast(totals[-1], tf.int64), tf.cast(self.optimizer.iterations, tf.int64)]
        )
        self._fault.assign(tf.where(tf.equal(self._fault[0], 0), now, self._fault))
        return totals

    def _raise_fault(self) -> None:
        code, steps = tf.convert_to_tensor(self._fault).numpy().tolist()
        if code:
            self._fault.assign([0, 0])
            raise divergence.Diverged(steps - 1, divergence.PLACES[code - 1])

    def _track(self, totals: tf.Tensor) -> None:
        weight = totals[-2]
        for index, tracker in enumerate(self._trackers.values()):
            tracker.update_state(tf.math.divide_no_nan(totals[index], weight), weight)

    def _unpack(self, batch: Any) -> tuple[tf.Tensor, tf.Tensor]:
        images, _, weights = keras.utils.unpack_x_y_sample_weight(batch)
        images = _as_images(images)
        if not self.built:
            self.build((None, *images.shape[1:]))
        checks.batch_shape(images.shape, self.image_shape)
        if images.dtype != tf.uint8:
            tf.debugging.Assert(tf.reduce_all((images >= 0.0) & (images <= 1.0)), [_PIXELS])
        weights = tf.ones(tf.shape(images)[0]) if weights is None else tf.cast(weights, tf.float32)
        return images, weights

    # ------------------------------------------------------------------ fit, evaluate, predict

    def make_train_function(self, force: bool = False) -> None:
        if self.train_function is None or force:
            self.train_function = self._skip_first(
                self._per_batch_or_stack(self.train_step, self._train_stack)
                if self.strategy is None
                else replicas.step_function(self, training=True)
            )

    def make_test_function(self, force: bool = False) -> None:
        if self.test_function is None or force:
            self.test_function = (
                self._per_batch_or_stack(self.test_step, self._test_stack)
                if self.strategy is None
                else replicas.step_function(self, training=False)
            )

    def _per_batch_or_stack(
        self, step: Callable[[Any], Any], stack_step: Callable[[data.Stack], Any]
    ) -> Callable[[Any], Any]:
        """Keras' function for the user's datasets, ours for the stacks that arrays become."""
        per_batch = self._make_function(step)

        def per_stack(iterator: Iterator[data.Stack]) -> Any:
            return stack_step(next(iterator))

        if not self.run_eagerly:
            per_stack = tf.function(per_stack, autograph=False)

        def function(iterator: Any) -> Any:
            spec = getattr(iterator, "element_spec", None)
            with _pixel_errors():
                logs = (per_stack if isinstance(spec, data.Stack) else per_batch)(iterator)
            self._raise_fault()
            return logs

        return function

    def _skip_first(self, function: Callable[[Any], Any]) -> Callable[[Any], Any]:
        """Passes over the batches of the steps that an earlier run has done.

        It may have stopped within a stack: under a strategy a call is one step.
        """

        def skipping(iterator: Any) -> Any:
            if self.steps_to_skip == 0:
                return function(iterator)
            size = self.steps_per_execution
            skipped = min(self.steps_to_skip, size)
            self.steps_to_skip -= skipped
            stacked = isinstance(getattr(iterator, "element_spec", None), data.Stack)
            if not stacked or skipped == size:
                for _ in range(1 if stacked else size):
                    next(iterator)
                return self.get_metrics_result()
            self._stack_start.assign(skipped)
            try:
                return function(iterator)
            finally:
                self._stack_start.assign(0)

        return skipping

    def fit(
        self,
        x: Any = None,
        y: Any = None,
        batch_size: int | None = None,
        epochs: int = 1,
        verbose: str | int = "auto",
        callbacks: list[keras.callbacks.Callback] | None = None,
        validation_split: float = 0.0,
        validation_data: Any = None,
        shuffle: bool = True,
        sample_weight: Any = None,
        initial_epoch: int = 0,
        steps_per_epoch: int | None = None,
        validation_steps: int | None = None,
        validation_batch_size: int | None = None,
        validation_freq: int = 1,
    ) -> keras.callbacks.History:
        """Trains the model; the arguments are those of `keras.Model.fit`.

        Arrays are shuffled and binarized by pure functions of (seed, epoch, step, row): the same
        call on the same model gives the same weights, bit for bit. `validation_split` and
        `validation_data` hold arrays out as Keras does.

        Args:
            x: images [N, H, W] or [N, H, W, C], uint8 0..255 or float in [0, 1], or an `(x, y)`
                pair of them, or a `tf.data.Dataset` of batches.
            y: ignored.
            batch_size: images a step, for arrays. Default 32, or all images when there are fewer.

        Returns:
            The Keras `History`.

        Raises:
            checks.InputError: for images, weights or sizes that cannot be right.
            divergence.Diverged: at the first step whose loss or weights are not finite.
        """
        checks.whole_number("initial_epoch", initial_epoch, 0)
        checks.whole_number("epochs", epochs, 1)
        for name, value in (
            ("batch_size", batch_size),
            ("steps_per_epoch", steps_per_epoch),
            ("validation_steps", validation_steps),
            ("validation_batch_size", validation_batch_size),
        ):
            if value is not None:
                checks.whole_number(name, value, 1)
        self._require_compiled("fit")
        if _is_pipeline(validation_data):
            self._require_pipeline(validation_data)
        callbacks = _flat(callbacks)
        if not any(isinstance(callback, keras.callbacks.ProgbarLogger) for callback in callbacks):
            # Keras would append it: first, it has ended its line when others print theirs.
            callbacks = [keras.callbacks.ProgbarLogger(), *callbacks]
        arguments: dict[str, Any] = {
            "epochs": epochs,
            "verbose": verbose,
            "callbacks": callbacks,
            "initial_epoch": initial_epoch,
            "steps_per_epoch": steps_per_epoch,
            "validation_freq": validation_freq,
            "validation_steps": validation_steps,
            "shuffle": False,  # the pipeline has done it
        }
        if _is_pipeline(x):
            self._require_pipeline(x, batch_size, sample_weight, validation_split)
            self._build_for(x)
            self._set_steps(1)
            if validation_data is not None and not _is_pipeline(validation_data):
                val_x, _, val_weight = _unpack_arrays(validation_data, None)
                val_images = self._images(val_x, "validation_data")
                validation_data = _batches(val_images, val_weight, validation_batch_size or 32)
            return self._fit_finite(x, validation_data=validation_data, **arguments)

        x, _, sample_weight = _unpack_arrays(x, sample_weight)
        images = self._images(x)
        weights = _weights(sample_weight, len(images))
        if validation_split and validation_data is None:
            images, weights, validation_data = _split(images, weights, validation_split)
        size = _batch_size(batch_size, len(images))
        steps = -(-len(images) // size)
        self._set_steps(1 if steps_per_epoch else _stack_size(steps, size, self.image_shape))
        first_epoch = initial_epoch if steps_per_epoch is None else 0
        dataset = self._dataset(
            images, weights, size, self.seed if shuffle else None, first_epoch=first_epoch
        )
        arguments["steps_per_epoch"] = steps_per_epoch or steps
        if validation_data is not None and not _is_pipeline(validation_data):
            val_x, _, val_weight = _unpack_arrays(validation_data, None)
            val_images = self._images(val_x, "validation_data")
            val_size = _batch_size(
                validation_batch_size or min(size, len(val_images)), len(val_images)
            )
            arguments["validation_steps"] = validation_steps or -(-len(val_images) // val_size)
            val_weights = _weights(val_weight, len(val_images))
            validation_data = self._dataset(val_images, val_weights, val_size, None)
        return self._fit_finite(dataset, validation_data=validation_data, **arguments)

    def _fit_finite(self, x: tf.data.Dataset, **arguments: Any) -> keras.callbacks.History:
        """Keras' `fit`, whose last step is looked at, too."""
        history = super().fit(x, **arguments)
        steps = int(keras.ops.convert_to_numpy(self.optimizer.iterations))
        divergence.require_finite(self.variables, steps - 1)
        return history

    def evaluate(
        self,
        x: Any = None,
        y: Any = None,
        batch_size: int | None = None,
        verbose: str | int = "auto",
        sample_weight: Any = None,
        steps: int | None = None,
        callbacks: Any = None,
        return_dict: bool = False,
        **kwargs: Any,
    ) -> Any:
        """Returns the mean ELBO and its terms; the same figures for the same data, twice.

        The arguments are those of `keras.Model.evaluate`; x as in `fit`. Binarization and noise
        are keyed by (seed, row), so the batch size changes nothing beyond float error.
        """
        arguments = {
            "verbose": verbose,
            "steps": steps,
            "callbacks": callbacks,
            "return_dict": return_dict,
        }
        if kwargs:  # Keras' own call from within fit
            return super().evaluate(x, **arguments, **kwargs)
        self._require_compiled("evaluate")
        if steps is not None:
            checks.whole_number("steps", steps, 1)
        if _is_pipeline(x):
            self._require_pipeline(x, batch_size, sample_weight)
            self._build_for(x)
            return super().evaluate(x, **arguments)
        x, _, sample_weight = _unpack_arrays(x, sample_weight)
        images = self._images(x)
        weights = _weights(sample_weight, len(images))
        size = _batch_size(batch_size, len(images))
        num_steps = -(-len(images) // size)
        self._set_steps(1 if steps else _stack_size(num_steps, size, self.image_shape))
        dataset = self._dataset(images, weights, size, None)
        arguments["steps"] = steps or num_steps
        return super().evaluate(dataset, **arguments)

    def predict(self, x: Any, batch_size: int | None = None, **kwargs: Any) -> np.ndarray:
        """Returns pixel means [N, H, W, C] through the posterior mean, as `call` does."""
        if _is_pipeline(x):
            self._require_pipeline(x, batch_size)
        else:
            x = _unpack_arrays(x, None)[0]
            x = self._images(x)
            batch_size = _batch_size(batch_size, len(x))
        with _pixel_errors():
            return super().predict(x, batch_size=batch_size, **kwargs)

    def predict_step(self, batch: Any) -> tf.Tensor:
        """Reconstructs one batch."""
        return self(self._unpack(batch)[0])

    def _require_compiled(self, method: str) -> None:
        if not self.compiled:
            raise checks.InputError(
                f"{method} needs an optimizer and its metrics. Received: a model that is not "
                "compiled. Call compile() first."
            )

    def _require_pipeline(
        self,
        dataset: Any,
        batch_size: int | None = None,
        sample_weight: Any = None,
        validation_split: float = 0.0,
    ) -> None:
        """Refuses a dataset of other things than batches of images, and what only arrays take."""
        given = {
            "batch_size": batch_size is not None,
            "sample_weight": sample_weight is not None,
            "validation_split": bool(validation_split),
        }
        for name in (name for name, is_given in given.items() if is_given):
            raise checks.InputError(
                f"{name} goes with arrays. Received: {name} beside a dataset. "
                "Leave it out, and prepare the dataset so."
            )
        spec = getattr(dataset, "element_spec", None)
        while isinstance(spec, (tuple, list)) and not hasattr(spec, "_fields") and spec:
            spec = spec[0]
        if spec is None:
            return
        if not isinstance(spec, tf.TensorSpec) or not (
            spec.dtype.is_floating or spec.dtype == tf.uint8
        ):
            raise checks.InputError(
                "a dataset must yield batches of images, uint8 or float, or (images, ...). "
                f"Received: {spec}. Map it to that."
            )
        if spec.shape.rank is not None:
            checks.batch_shape(spec.shape, self.image_shape if self.built else None)

    def _set_steps(self, stack_size: int) -> None:
        if self.compiled and self._auto_steps:
            one = self.run_eagerly or self.strategy is not None
            self.steps_per_execution = 1 if one else stack_size

    def _dataset(
        self,
        images: np.ndarray,
        weights: np.ndarray,
        batch_size: int,
        shuffle_seed: int | None,
        first_epoch: int = 0,
    ) -> tf.data.Dataset | tf.distribute.DistributedDataset:
        if self.strategy is not None:
            return replicas.dataset(
                self.strategy, images, weights, batch_size, shuffle_seed, first_epoch
            )
        return data.stacks(
            images, weights, batch_size, self.steps_per_execution, shuffle_seed, first_epoch
        )


# ------------------------------------------------------------------------------------ helpers


_PIXELS = "float pixels of a dataset must be finite and lie in [0, 1]"


@contextlib.contextmanager
def _pixel_errors() -> Iterator[None]:
    """Gives the graph's word on a dataset's pixels in our own."""
    try:
        yield
    except tf.errors.InvalidArgumentError as error:
        if _PIXELS not in str(error):
            raise
        raise checks.InputError(
            f"{_PIXELS}. Received: others in a batch. Divide by 255, or pass uint8."
        ) from error


def _part(name: str, part: Any) -> keras.layers.Layer:
    if not isinstance(part, keras.layers.Layer):
        raise checks.InputError(
            f"the {name} must be a Keras layer or model. Received: {part!r}. Pass an instance."
        )
    return part


def _binarization(mode: str | None, likelihood: Any) -> str:
    """The mode, or the likelihood's own where none is given."""
    if mode is None:
        return "none" if likelihood.takes_grey else "dynamic"
    checks.choice("binarization", mode, data.BINARIZATIONS)
    if likelihood.takes_grey and mode != "none":
        raise checks.InputError(
            f"a {type(likelihood).__name__} takes grey pixels. Received: binarization {mode!r}. "
            "Leave the binarization out, or the likelihood."
        )
    return mode


def _as_images(images: Any) -> tf.Tensor:
    """A tensor [N, H, W, C], uint8 or float32, from a batch with or without a channel axis."""
    images = tf.convert_to_tensor(images)
    if images.shape.rank == 3:
        images = images[..., tf.newaxis]
    if images.shape.rank != 4:
        raise checks.InputError(
            "images must have shape [N, H, W] or [N, H, W, C]. "
            f"Received: {images.shape}. Batch the dataset, or add the missing axis."
        )
    return images if images.dtype == tf.uint8 else tf.cast(images, tf.float32)


def _in_blocks(function: Callable[..., Any], *arrays: np.ndarray) -> Any:
    """Applies a tensor function to blocks of rows and joins what it returns, as NumPy."""
    blocks = [
        function(*(tf.constant(array[start : start + _BLOCK]) for array in arrays))
        for start in range(0, len(arrays[0]), _BLOCK)
    ]
    return tf.nest.map_structure(lambda *parts: np.concatenate(parts), *blocks)


def _is_pipeline(x: Any) -> bool:
    return isinstance(x, (tf.data.Dataset, tf.distribute.DistributedDataset, keras.utils.PyDataset))


def require_built(model: Any, purpose: str) -> VAE:
    """Returns a model that is a `VAE` with weights.

    Args:
        model: what is to be one.
        purpose: what needs it, with its article.

    Raises:
        checks.InputError: for anything else.
    """
    if not (isinstance(model, VAE) and model.built):
        received = "one that saw no images" if isinstance(model, VAE) else repr(model)
        raise checks.InputError(
            f"{purpose} needs a VAE with weights. Received: {received}. "
            "Call fit or build((None, H, W, C)) first."
        )
    return model


def _flat(callbacks: Any) -> list[keras.callbacks.Callback]:
    flat = [callback for callback in keras.tree.flatten(callbacks) if callback is not None]
    for callback in flat:
        if not isinstance(callback, keras.callbacks.Callback):
            raise checks.InputError(
                f"callbacks must be Keras callbacks. Received: {callback!r}. Pass instances."
            )
    return flat


def _is_conv(layer: keras.layers.Layer) -> bool:
    return "Conv" in type(layer).__name__


def _unpack_arrays(x: Any, sample_weight: Any) -> tuple[Any, Any, Any]:
    """Accepts x, (x,), (x, y) and (x, y, sample_weight), as Keras does for datasets."""
    if isinstance(x, tuple):
        if not 1 <= len(x) <= 3:
            raise checks.InputError(
                "data must be images, (images, labels) or (images, labels, sample_weight). "
                f"Received: a tuple of {len(x)}. Name the arrays in that order."
            )
        x, y, inner = keras.utils.unpack_x_y_sample_weight(x)
        return x, y, inner if sample_weight is None else sample_weight
    return x, None, sample_weight


def _weights(sample_weight: Any, num: int) -> np.ndarray:
    if sample_weight is None:
        return np.ones(num, np.float32)
    return checks.sample_weight(sample_weight, num)


def _batch_size(value: int | None, num: int) -> int:
    return min(32, num) if value is None else checks.batch_size(value, num)


def _stack_size(steps: int, batch_size: int, image_shape: tuple[int, ...]) -> int:
    """Batches a compiled call: about _STACK_ROWS images, a divisor of the epoch's steps if any
    is near, so that the progress bar ends where the epoch does."""
    rows = min(_STACK_ROWS, _STACK_VALUES // math.prod(image_shape))
    target = max(1, min(steps, _STACK_STEPS, rows // batch_size))
    divisor = max(size for size in range(1, target + 1) if steps % size == 0)
    return divisor if 2 * divisor >= target else target


def _split(
    images: np.ndarray, weights: np.ndarray, fraction: float
) -> tuple[np.ndarray, np.ndarray, tuple[np.ndarray, None, np.ndarray]]:
    checks.fraction("validation_split", fraction)
    kept = int(len(images) * (1.0 - fraction))
    if kept == 0 or kept == len(images):
        raise checks.InputError(
            "validation_split must leave images on both sides. "
            f"Received: {fraction} of {len(images)} images."
        )
    return images[:kept], weights[:kept], (images[kept:], None, weights[kept:])


def _batches(images: np.ndarray, weight: Any, batch_size: int) -> tf.data.Dataset:
    weights = _weights(weight, len(images))
    dataset = tf.data.Dataset.from_tensor_slices((images, np.zeros(len(images)), weights))
    return dataset.batch(batch_size)
