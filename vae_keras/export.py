"""Models for use without this package: SavedModel versions for TF Serving, ONNX and LiteRT."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import json
import math
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from vae_keras import checks, files, warmup
from vae_keras._version import __version__
from vae_keras.model import VAE, require_built
from vae_keras.signatures import DEFAULT, Signature, example_inputs, signatures

SCORE_SAMPLES = 50  # importance samples behind `log_marginal`
LARGEST_BATCH = 64  # rows of the larger warm-up requests

METADATA_FILE = "assets.extra/metadata.json"
GOLDEN_FILE = "assets.extra/golden.json"
_GOLDEN_ROWS = 2
_LARGEST_VERSION = 2**63 - 1  # TF Serving's versions are int64

# What a format's files end in, and the packages that write it beyond this one's own needs.
_PART_FORMATS = {"onnx": (".onnx", ("tf2onnx", "onnx")), "litert": (".tflite", ())}


def export_saved_model(
    model: VAE,
    base_path: str | os.PathLike[str],
    version: int | None = None,
    *,
    score_samples: int = SCORE_SAMPLES,
    largest_batch: int = LARGEST_BATCH,
    validate: bool = True,
    overwrite: bool = False,
) -> Path:
    """Writes a version of the model under a TF Serving base path, whole or not at all.

    Every signature is a pure function of its inputs, row by row; N is free.

    | signature | inputs | outputs |
    |---|---|---|
    | `serving_default` = `reconstruct` | `images` [N, H, W, C] in [0, 1] | `reconstructions` |
    | `encode` | `images` | `loc`, `scale` [N, L] |
    | `decode` | `latents` [N, L] | `probabilities` |
    | `sample` | `seeds` int32 [N, 2] | `probabilities`, `latents` |
    | `interpolate` | `start_images`, `end_images`, `fractions` [N] | `probabilities` |
    | `score` | `images`, `seeds` int32 [N, 2] | `elbo`, `log_likelihood`, `kl`, `log_marginal` |

    `probabilities` and `reconstructions` are the likelihood's mean: of a Bernoulli the pixels'
    probabilities of 1, of a continuous Bernoulli their mean grey.

    A row's seeds are (seed, row): `sample` of [[7, 0], [7, 1]] is `model.sample(2, seed=7)`, and
    `score` of the same rows is `model.elbo(images, seed=7)`, bit for bit.

    The version's `assets.extra` holds what a server reads on loading,
    `tf_serving_warmup_requests`, and for people and tests `metadata.json` and `golden.json`,
    REST requests in columnar form with their responses.

    Args:
        model: a built model.
        base_path: the folder that TF Serving polls; made when missing.
        version: positive integer, or None for the next one. Default None.
        score_samples: importance samples behind `log_marginal`. Default 50.
        largest_batch: rows of the larger of the two warm-up requests of each signature; the
            server's largest batch. Default 64.
        validate: whether bad rows are refused with INVALID_ARGUMENT. Default True.
        overwrite: whether an existing version is replaced. Default False.

    Returns:
        The version's folder.

    Raises:
        checks.InputError: for a version that exists, a number below 1 or a model without weights.

    Example:
        >>> export_saved_model(vae, "serving/mnist")
        PosixPath('serving/mnist/1')
    """
    require_built(model, "an export")
    for name, count in (("score_samples", score_samples), ("largest_batch", largest_batch)):
        checks.memory(name, checks.whole_number(name, count, 1), 4 * math.prod(model.image_shape))
    base = checks.writable("the base path", base_path, folder=True)
    if version is not None:
        checks.whole_number("version", version, 1, _LARGEST_VERSION)
    base.mkdir(parents=True, exist_ok=True)
    if version is None:
        version = 1 + max(
            (int(path.name) for path in base.iterdir() if path.name.isdigit()), default=0
        )
    target = base / str(version)
    if target.exists() and not overwrite:
        raise checks.InputError(
            f"a served version must not change. Received: version {version}, which {base} already "
            "holds. Leave the version out for the next one, or pass overwrite=True."
        )
    # A name that is no integer: a server that polls ignores it until the rename.
    temporary = Path(tempfile.mkdtemp(prefix=".writing-", dir=base))
    try:
        served = signatures(model, score_samples, validate)
        with _refusals(target):
            _write_saved_model(served, temporary)
            _write_extras(model, served, temporary, score_samples, largest_batch, validate)
            _publish(temporary, target)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    return target


def export_parts(model: VAE, folder: str | os.PathLike[str], format: str) -> tuple[Path, Path]:
    """Writes encoder and decoder as files of their own, through Keras' exporters.

    The encoder takes images [N, H, W, C] in [0, 1] and returns the posterior's `loc` and `scale`
    [N, L]; the decoder takes latents [N, L] and returns `probabilities` [N, H, W, C]. N is free.
    Neither checks its rows. A learned prior is in neither: latents to decode are the caller's.

    Args:
        model: a built model with float32 weights.
        folder: where `encoder` and `decoder` go, with the format's suffix; made when missing.
        format: "onnx" (extra `[onnx]`) or "litert".

    Returns:
        The encoder's and the decoder's path.

    Raises:
        checks.InputError: for an unknown format, one whose packages are missing, or a model
            without weights.

    Example:
        >>> export_parts(vae, "exported", "onnx")
        (PosixPath('exported/encoder.onnx'), PosixPath('exported/decoder.onnx'))
    """
    require_built(model, "an export")
    suffix, packages = _PART_FORMATS[checks.choice("format", format, tuple(_PART_FORMATS))]
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        raise checks.InputError(
            f"format {format} needs the packages {' and '.join(packages)}. Received: an "
            f"environment without {missing[0]}. Run: pip install 'vae-keras[{format}]'"
        )

    def encode(images: tf.Tensor) -> dict[str, tf.Tensor]:
        normal = model.posterior(model.pixels(images)).distribution
        return {"loc": normal.loc, "scale": normal.scale}

    def decode(latents: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"probabilities": model.likelihood(latents).mean()}

    parts = {
        "encoder": (model.encoder, encode, "images", model.image_shape),
        "decoder": (model.decoder, decode, "latents", (model.latent_dim,)),
    }
    folder = checks.writable("folder", folder, folder=True)
    paths = []
    for name, (layer, function, input_name, shape) in parts.items():
        part = _Part(name, layer, function)
        part(tf.zeros((1, *shape)))
        path = folder / (name + suffix)
        spec = tf.TensorSpec([None, *shape], name=input_name)
        with _refusals(path), files.staged(path) as temporary:
            part.export(os.fspath(temporary), format=format, input_signature=[spec], verbose=False)
        paths.append(path)
    return paths[0], paths[1]


def weights_sha256(model: VAE) -> str:
    """Returns the SHA-256 of the weights, shapes and dtypes included.

    Args:
        model: a built model.

    Returns:
        64 hexadecimal digits.
    """
    digest = hashlib.sha256()
    parts = model.encoder, model.decoder, model.prior
    for weight in (weight for part in parts for weight in getattr(part, "weights", ())):
        value = np.ascontiguousarray(weight.numpy())
        digest.update(f"{value.dtype.name}{value.shape}".encode())
        digest.update(value.tobytes())
    return digest.hexdigest()


class _Part(keras.Model):
    """A network and what it computes, in the form that Keras' exporters take."""

    def __init__(
        self, name: str, layer: keras.layers.Layer, function: Callable[[tf.Tensor], Any]
    ) -> None:
        super().__init__(name=name)
        self.layer, self.function = layer, function

    def call(self, x: tf.Tensor) -> Any:
        return self.function(x)


@contextlib.contextmanager
def _refusals(target: Path) -> Iterator[None]:
    """Turns TensorFlow's word for what a file system refused into Python's."""
    try:
        yield
    except tf.errors.OpError as error:
        raise OSError(f"{target} could not be written: {error.message}") from error


def _write_saved_model(served: dict[str, Signature], folder: Path) -> None:
    # The archive finds the weights in the functions; tracking the layers would store them twice.
    archive = keras.export.ExportArchive()
    for name, signature in served.items():
        archive.add_endpoint(name, signature.function, input_signature=signature.inputs)
    archive.write_out(os.fspath(folder), verbose=False)


def _write_extras(
    model: VAE,
    served: dict[str, Signature],
    folder: Path,
    score_samples: int,
    largest_batch: int,
    validate: bool,
) -> None:
    batch_sizes = sorted({1, largest_batch})
    metadata = {
        "versions": {
            "vae_keras": __version__,
            "tensorflow": tf.__version__,
            "keras": keras.__version__,
        },
        "weights_sha256": weights_sha256(model),
        "image_shape": list(model.image_shape),
        "latent_dim": model.latent_dim,
        "score_samples": score_samples,
        "validate": validate,
        "warmup_batch_sizes": batch_sizes,
    }
    files.write_json(folder / METADATA_FILE, metadata)
    # One line a case: indented, a pixel a line, the file would be seven times the size.
    cases = ",\n".join(
        json.dumps(case, separators=(",", ":"), allow_nan=False)
        for case in _golden_cases(served, folder)
    )
    files.write_text(folder / GOLDEN_FILE, f"[\n{cases}\n]\n")
    specs = {name: {spec.name: spec for spec in served[name].inputs} for name in served}
    specs[DEFAULT] = specs[next(iter(served))]
    warmup.write(folder / warmup.FILE, list(specs.items()), tuple(batch_sizes))


def _golden_cases(served: dict[str, Signature], folder: Path) -> list[dict[str, Any]]:
    """REST bodies in columnar form, the responses as the files just written give them."""
    written = tf.saved_model.load(os.fspath(folder))
    cases = []
    for name, signature in served.items():
        inputs = example_inputs(signature, _GOLDEN_ROWS)
        outputs = written.signatures[name](**{key: tf.constant(x) for key, x in inputs.items()})
        columns = {key: _json_numbers(value.numpy()) for key, value in outputs.items()}
        request = {key: _json_numbers(value) for key, value in inputs.items()}
        cases.append(
            {
                "request": {"signature_name": name, "inputs": request},
                # The server gives a single output bare.
                "response": {
                    "outputs": columns if len(columns) > 1 else next(iter(columns.values()))
                },
            }
        )
    return cases


def _json_numbers(values: np.ndarray) -> list[Any]:
    """Nested lists in the fewest digits that read back as the same float32."""
    return (
        values.astype(str).astype(float).tolist() if values.dtype.kind == "f" else values.tolist()
    )


def _publish(temporary: Path, target: Path) -> None:
    """Puts a finished folder in its place: on the disk first, then under its name."""
    temporary.chmod(0o755)
    for folder, _, names in os.walk(temporary):
        for name in names:
            with open(Path(folder) / name, "rb") as file:
                os.fsync(file.fileno())
        files.sync_folder(folder)
    if target.exists():
        retired = Path(tempfile.mkdtemp(prefix=".retired-", dir=target.parent))
        try:
            os.replace(target, retired / target.name)
            os.replace(temporary, target)
        finally:
            if not target.exists():
                os.replace(retired / target.name, target)
            shutil.rmtree(retired, ignore_errors=True)
    else:
        os.replace(temporary, target)
    files.sync_folder(target.parent)
