"""SavedModel signatures for TF Serving, in version folders that appear whole or not at all."""

from __future__ import annotations

import math
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import keras
import tensorflow as tf

from vae_keras import checks, files, noise
from vae_keras.model import VAE

SCORE_SAMPLES = 50  # importance samples behind `log_marginal`


def export_saved_model(
    model: VAE,
    base_path: str | os.PathLike[str],
    version: int | None = None,
    *,
    score_samples: int = SCORE_SAMPLES,
    validate: bool = True,
    overwrite: bool = False,
) -> Path:
    """Writes a version of the model under a TF Serving base path.

    Every signature is a pure function of its inputs, row by row; N is free.

    | signature | inputs | outputs |
    |---|---|---|
    | `serving_default` = `reconstruct` | `images` [N, H, W, C] in [0, 1] | `reconstructions` |
    | `encode` | `images` | `loc`, `scale` [N, L] |
    | `decode` | `latents` [N, L] | `probabilities` |
    | `sample` | `seeds` int32 [N, 2] | `probabilities`, `latents` |
    | `interpolate` | `start_images`, `end_images`, `fractions` [N] | `probabilities` |
    | `score` | `images`, `seeds` int32 [N, 2] | `elbo`, `log_likelihood`, `kl`, `log_marginal` |

    A row's seeds are (seed, row): `sample` of [[7, 0], [7, 1]] is `model.sample(2, seed=7)`, and
    `score` of the same rows is `model.elbo(images, seed=7)`.

    Args:
        model: a built model.
        base_path: the folder that TF Serving polls; made when missing.
        version: positive integer, or None for the next one. Default None.
        score_samples: importance samples behind `log_marginal`. Default 50.
        validate: whether bad rows are refused with INVALID_ARGUMENT. Default True.
        overwrite: whether an existing version is replaced. Default False.

    Returns:
        The version's folder.

    Raises:
        checks.InputError: for a version that exists, a version < 1 or a model without weights.

    Example:
        >>> export_saved_model(vae, "serving/mnist")
        PosixPath('serving/mnist/1')
    """
    if not model.built:
        raise checks.InputError(
            "export needs a model with weights. Received: one that saw no images. "
            "Call fit or build((None, H, W, C)) first."
        )
    base = Path(base_path)
    base.mkdir(parents=True, exist_ok=True)
    if version is None:
        version = (
            max((int(entry.name) for entry in base.iterdir() if entry.name.isdigit()), default=0)
            + 1
        )
    target = base / str(checks.whole_number("version", version, 1))
    if target.exists() and not overwrite:
        raise checks.InputError(
            f"a served version must not change. Received: version {version}, which {base} already "
            "holds. Leave the version out for the next one, or pass overwrite=True."
        )
    # A name that is no integer: a server that polls ignores it until the rename.
    temporary = Path(tempfile.mkdtemp(prefix=".writing-", dir=base))
    try:
        _write(model, temporary, score_samples, validate)
        temporary.chmod(0o755)
        for folder, _, names in os.walk(temporary):
            for name in names:
                _sync_file(Path(folder) / name)
            files.sync_folder(folder)
        if target.exists():
            retired = Path(tempfile.mkdtemp(prefix=".retired-", dir=base))
            os.replace(target, retired / target.name)
            os.replace(temporary, target)
            shutil.rmtree(retired)
        else:
            os.replace(temporary, target)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    files.sync_folder(base)
    return target


def _write(model: VAE, folder: Path, score_samples: int, validate: bool) -> None:
    archive = keras.export.ExportArchive()
    archive.track(model.encoder)
    archive.track(model.decoder)
    for name, (function, specs) in _signatures(model, score_samples, validate).items():
        archive.add_endpoint(name, function, input_signature=specs)
    archive.write_out(os.fspath(folder), verbose=False)


def _signatures(
    model: VAE, score_samples: int, validate: bool
) -> dict[str, tuple[Callable[..., dict[str, tf.Tensor]], list[tf.TensorSpec]]]:
    """The functions by name, the default one first, with what they take."""
    latent_dim, image_shape = model.latent_dim, model.image_shape
    # Only the first axis is declared: TF Serving does not enforce shapes, the checks do.
    images = tf.TensorSpec([None, None, None, None] if validate else [None, *image_shape])
    latents = tf.TensorSpec([None, None] if validate else [None, latent_dim])
    fractions = tf.TensorSpec([None], name="fractions")
    seeds = tf.TensorSpec([None, 2], tf.int32, name="seeds")

    def named(spec: tf.TensorSpec, name: str) -> tf.TensorSpec:
        return tf.TensorSpec(spec.shape, spec.dtype, name=name)

    def checked_images(x: tf.Tensor, name: str) -> tf.Tensor:
        if validate:
            rule = f"{name} must have shape [N, {', '.join(map(str, image_shape))}]"
            same = tf.reduce_all(tf.equal(tf.shape(x)[1:], image_shape))
            with tf.control_dependencies([tf.debugging.Assert(same, [rule, tf.shape(x)])]):
                x = tf.identity(x)
            x = _within_unit(x, name)
        return tf.ensure_shape(x, [None, *image_shape])

    def checked_latents(z: tf.Tensor) -> tf.Tensor:
        if validate:
            same = tf.equal(tf.shape(z)[1], latent_dim)
            shape = tf.debugging.Assert(
                same, [f"latents must have shape [N, {latent_dim}]", tf.shape(z)]
            )
            finite = tf.debugging.Assert(
                tf.reduce_all(tf.math.is_finite(z)), ["latents must be finite"]
            )
            with tf.control_dependencies([shape, finite]):
                z = tf.identity(z)
        return tf.ensure_shape(z, [None, latent_dim])

    def probabilities(z: tf.Tensor) -> tf.Tensor:
        return tf.sigmoid(tf.cast(model.decoder(z), tf.float32))

    def reconstruct(images: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"reconstructions": model.call(checked_images(images, "images"))}

    def encode(images: tf.Tensor) -> dict[str, tf.Tensor]:
        normal = model.posterior(checked_images(images, "images")).distribution
        return {"loc": normal.loc, "scale": normal.scale}

    def decode(latents: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"probabilities": probabilities(checked_latents(latents))}

    def sample(seeds: tf.Tensor) -> dict[str, tf.Tensor]:
        z = _row_noise(seeds, noise.Stream.PRIOR, latent_dim)
        return {"probabilities": probabilities(z), "latents": z}

    def interpolate(
        start_images: tf.Tensor, end_images: tf.Tensor, fractions: tf.Tensor
    ) -> dict[str, tf.Tensor]:
        start = model.posterior(checked_images(start_images, "start_images")).distribution.loc
        end = model.posterior(checked_images(end_images, "end_images")).distribution.loc
        weight = _within_unit(fractions, "fractions") if validate else fractions
        weight = weight[:, tf.newaxis]
        return {"probabilities": probabilities((1.0 - weight) * start + weight * end)}

    def score(images: tf.Tensor, seeds: tf.Tensor) -> dict[str, tf.Tensor]:
        x = checked_images(images, "images")
        _, terms = model.bound(x, _row_noise(seeds, noise.Stream.TEST_LATENTS, latent_dim))
        marginal = _log_marginal(model, x, seeds, score_samples)
        return {**terms._asdict(), "log_marginal": marginal}

    image_spec = named(images, "images")
    return {
        "reconstruct": (reconstruct, [image_spec]),
        "encode": (encode, [image_spec]),
        "decode": (decode, [named(latents, "latents")]),
        "sample": (sample, [seeds]),
        "interpolate": (
            interpolate,
            [named(images, "start_images"), named(images, "end_images"), fractions],
        ),
        "score": (score, [image_spec, seeds]),
    }


def _row_noise(seeds: tf.Tensor, stream: noise.Stream, size: int) -> tf.Tensor:
    """Standard normal noise [N, size], each row from its own (seed, row)."""

    def one(pair: tf.Tensor) -> tf.Tensor:
        return noise.normal(pair[0], stream, rows=1, size=size, row=pair[1])[0]

    return tf.map_fn(one, seeds, fn_output_signature=tf.TensorSpec([size], tf.float32))


def _log_marginal(model: VAE, x: tf.Tensor, seeds: tf.Tensor, samples: int) -> tf.Tensor:
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

    return tf.map_fn(one, (x, seeds), fn_output_signature=tf.TensorSpec([], tf.float32))


def _within_unit(x: tf.Tensor, name: str) -> tf.Tensor:
    # A comparison with NaN is false, so one pass refuses NaN, infinities and values outside.
    inside = tf.reduce_all((x >= 0.0) & (x <= 1.0))
    rule = f"{name} must be finite and lie in [0, 1]"
    with tf.control_dependencies([tf.debugging.Assert(inside, [rule])]):
        return tf.identity(x)


def _sync_file(path: Path) -> None:
    with open(path, "rb") as file:
        os.fsync(file.fileno())
