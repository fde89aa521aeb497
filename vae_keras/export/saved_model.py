"""SavedModel versions for TF Serving."""

from __future__ import annotations

import errno
import json
import math
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from vae_keras._version import __version__
from vae_keras.detection import Detector
from vae_keras.export import warmup
from vae_keras.export.errors import write_errors
from vae_keras.export.signatures import DEFAULT, Signature, example_inputs, signatures
from vae_keras.model import VAE, require_built
from vae_keras.utils import checks, files, weights

SCORE_SAMPLES = 50
"""Default number of importance samples behind `log_marginal`."""

LARGEST_BATCH = 64
"""Default number of rows of the larger warm-up requests."""

METADATA_FILE = "assets.extra/metadata.json"
GOLDEN_FILE = "assets.extra/golden.json"
_GOLDEN_ROWS = 2
_LARGEST_VERSION = 2**63 - 1  # The versions of TF Serving are int64.


def export_saved_model(
    model: VAE,
    base_path: str | os.PathLike[str],
    version: int | None = None,
    *,
    score_samples: int = SCORE_SAMPLES,
    largest_batch: int = LARGEST_BATCH,
    overwrite: bool = False,
    detector: Detector | None = None,
) -> Path:
    """Writes a new version of a model under a base path of TF Serving.

    Every signature is a pure function of its inputs, row by row. The number of rows N is free. A
    request with an input that breaks a rule is refused with INVALID_ARGUMENT.

    The signatures map inputs to outputs:

    - `serving_default` and `reconstruct`: `images` [N, H, W, C] in [0, 1] to `reconstructions`.
    - `encode`: `images` to `loc` and `scale` [N, L].
    - `decode`: `latents` [N, L] to `probabilities`.
    - `sample`: `seeds` int32 [N, 2] to `probabilities` and `latents`.
    - `interpolate`: `start_images`, `end_images` and `fractions` [N] to `probabilities`.
    - `score`: `images` and `seeds` int32 [N, 2] to `elbo`, `log_likelihood`, `kl` and
      `log_marginal`.
    - `detect`, with a detector only: `images` and `seeds` int32 [N, 2] to `score` and `p_value`
      float64 [N].

    Beside each input, a model with classes takes `labels` int32 [N], and `interpolate` takes
    `start_labels` and `end_labels`. `log_marginal` is then log p(x | y). It has two more
    signatures:

    - `transfer`: `images` and `labels` to `probabilities` [N, K, H, W, C].
    - `classify`: `images` and `seeds` int32 [N, 2] to `log_prob` and `standard_error` [N, K].

    `probabilities` and `reconstructions` are the mean of the likelihood. For a Bernoulli this is
    the probability that a pixel is 1. For any other likelihood it is the mean grey value or colour,
    and `means` is the name instead of `probabilities`. No signature draws pixels.

    The seeds of a row are (seed, row). `sample` with the seeds [[7, 0], [7, 1]] returns
    `model.sample(2, seed=7)`, and `score` with the same seeds returns `model.elbo(images, seed=7)`,
    bit for bit. `detect` returns `detector.scores(images, seed=7)` and its p-values.

    The folder `assets.extra` of the version holds `tf_serving_warmup_requests`, which a server runs
    when it loads the version, and two files for people and tests: `metadata.json`, and
    `golden.json` with a REST request in columnar form and its response for each signature.

    The version appears under the base path by one rename. A failed export leaves nothing behind.

    Args:
        model: a built model.
        base_path: folder that TF Serving polls. It is created if it does not exist.
        version: positive integer, or None for the next one. Default None.
        score_samples: importance samples behind `log_marginal`, >= 1, and behind `classify`, which
            takes two at least. Default 50.
        largest_batch: rows of the larger of the two warm-up requests of each signature, >= 1. It
            should be the largest batch of the server. Default 64.
        overwrite: whether to replace an existing version. Default False.
        detector: a detector of the model, for the signature `detect`. Default None.

    Returns:
        The folder of the version.

    Raises:
        checks.InputError: for a version that exists, a number below 1, a model without weights, or
            a detector of another model.
        OSError: if the version could not be written.

    Example:
        >>> export_saved_model(vae, "serving/mnist")
        PosixPath('serving/mnist/1')
    """
    require_built(model, "an export")
    if detector is not None and detector.model is not model:
        raise checks.InputError(
            "an export takes a detector of its own model. Received: a detector of another model. "
            "Calibrate one with this model, or load it for this model."
        )
    if detector is not None:
        detector.require_same_model()
    for name, count in (("score_samples", score_samples), ("largest_batch", largest_batch)):
        checks.memory(name, checks.whole_number(name, count, 1), 4 * math.prod(model.image_shape))
    base = checks.writable("the base path", base_path, folder=True)
    if version is not None:
        checks.whole_number("version", version, 1, _LARGEST_VERSION)
    base.mkdir(parents=True, exist_ok=True)
    target = base / str(_next_version(base) if version is None else version)
    if target.exists() and not overwrite:
        raise checks.InputError(
            f"a served version must not change. Received: version {target.name}, which {base} "
            "already holds. Leave the version out for the next one, or pass overwrite=True."
        )
    # The name is not an integer, so a server that polls the folder ignores it until the rename.
    temporary = Path(tempfile.mkdtemp(prefix=files.WRITING, dir=base))
    try:
        served = signatures(model, score_samples, detector)
        with write_errors(target):
            _write_saved_model(served, temporary)
            _write_extras(model, served, temporary, score_samples, largest_batch)
            while True:
                try:
                    _publish(temporary, target, overwrite)
                    return target
                except OSError as error:
                    if version is not None or error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                        raise
                    # Another export took this number in the meantime.
                    target = base / str(_next_version(base))
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def _next_version(base: Path) -> int:
    """Returns the number after the largest version in a base path."""
    return 1 + max((int(path.name) for path in base.iterdir() if path.name.isdigit()), default=0)


def _write_saved_model(served: dict[str, Signature], folder: Path) -> None:
    # The archive finds the weights in the functions. Tracking the layers would store them twice.
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
) -> None:
    batch_sizes = sorted({1, largest_batch})
    metadata = {
        "versions": {
            "vae_keras": __version__,
            "tensorflow": tf.__version__,
            "keras": keras.__version__,
        },
        "weights_sha256": weights.sha256(model),
        "image_shape": list(model.image_shape),
        "latent_dim": model.latent_dim,
        "score_samples": score_samples,
        "warmup_batch_sizes": batch_sizes,
    }
    if model.num_classes is not None:
        names = list(model.class_names or ())
        metadata |= {"num_classes": model.num_classes, "class_names": names}
    files.write_json(folder / METADATA_FILE, metadata)
    # Each case is one line. Indented JSON, with one pixel a line, would take seven times the space.
    cases = ",\n".join(
        json.dumps(case, separators=(",", ":"), allow_nan=False)
        for case in _golden_cases(served, folder)
    )
    files.write_text(folder / GOLDEN_FILE, f"[\n{cases}\n]\n")
    specs = {name: {spec.name: spec for spec in served[name].inputs} for name in served}
    specs[DEFAULT] = specs[next(iter(served))]
    warmup.write(folder / warmup.FILE, list(specs.items()), tuple(batch_sizes))


def _golden_cases(served: dict[str, Signature], folder: Path) -> list[dict[str, Any]]:
    """Returns REST requests in columnar form with the responses of the files just written."""
    written = tf.saved_model.load(os.fspath(folder))
    cases = []
    for name, signature in served.items():
        inputs = example_inputs(signature, _GOLDEN_ROWS)
        outputs = written.signatures[name](**{key: tf.constant(x) for key, x in inputs.items()})
        columns = {key: _json_numbers(value.numpy()) for key, value in sorted(outputs.items())}
        request = {key: _json_numbers(value) for key, value in inputs.items()}
        cases.append(
            {
                "request": {"signature_name": name, "inputs": request},
                # The server returns a single output without its name.
                "response": {
                    "outputs": columns if len(columns) > 1 else next(iter(columns.values()))
                },
            }
        )
    return cases


def _json_numbers(values: np.ndarray) -> list[Any]:
    """Returns nested lists of numbers with the fewest digits that give the same float32."""
    return (
        values.astype(str).astype(float).tolist() if values.dtype.kind == "f" else values.tolist()
    )


def _publish(temporary: Path, target: Path, overwrite: bool) -> None:
    """Writes a finished folder to the disk and then renames it to its target."""
    temporary.chmod(0o755)
    for folder, _, names in os.walk(temporary):
        for name in names:
            with open(Path(folder) / name, "rb") as file:
                os.fsync(file.fileno())
        files.sync_folder(folder)
    if overwrite and target.exists():
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
