"""Writes the explorer of a model: one HTML file in which the model runs without a network."""

from __future__ import annotations

import base64
import gzip
import hashlib
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from vae_keras.data import datasets
from vae_keras.data.observations import observed
from vae_keras.export import parts
from vae_keras.model import VAE, require_built
from vae_keras.priors import StandardNormal
from vae_keras.report import gallery
from vae_keras.report.engine import Engine
from vae_keras.report.page import TEMPLATES
from vae_keras.utils import files
from vae_keras.utils.rows import Array, select

MOST_IMAGES = 3000
"""Points on a map."""

_MOST_BYTES = 6 << 20  # of pixels in the file
_DRAWABLE = (28, 28, 1)  # the images that a reader can draw by hand
_SHARED = 1024  # bytes from which a tensor is kept once for all parts
_REACH = 3.5  # standard deviations from the centre to an end of a slider


def write(
    path: Path,
    model: VAE,
    x: Array,
    labels: np.ndarray | None,
    engine: Engine,
    *,
    title: str,
    split: str = "test",
    invert: bool = False,
) -> Path:
    """Writes the explorer of a model as one HTML file that works from the disk.

    The file holds the engine, the weights once, and up to `MOST_IMAGES` images. The page shows a
    map of their posterior means. It decodes any point of the latent space, walks between two
    images, draws from the prior, and encodes a digit that is drawn by hand. The page of a model
    with classes lets the reader choose the class to decode in.

    Args:
        path: the HTML file. It is replaced only when the new one is whole.
        model: a built model with float32 weights.
        x: images for the map, uint8 [N, H, W, C]. If there are too many, evenly spaced ones are
            taken.
        labels: label of each image [N], integers or texts, or None. A model with classes needs
            the class of each image.
        engine: what runs the model in the browser, see `engine.find`.
        title: title of the page.
        split: what the images are, such as "test". Default "test".
        invert: whether a grey 0 is drawn white. Default False.

    Returns:
        The path.

    Raises:
        checks.InputError: if a package for ONNX is missing, ONNX lacks an operation of the model,
            or a label of a model with classes is unknown.
        OSError: if the file system refuses.

    Example:
        >>> write(Path("e.html"), vae, x, None, engine, title="digits")  # doctest: +SKIP
        PosixPath('e.html')
    """
    require_built(model, "an explorer")
    most = min(MOST_IMAGES, max(2, _MOST_BYTES // math.prod(model.image_shape)))
    rows = np.unique(np.linspace(0, len(x) - 1, min(len(x), most)).astype(int))
    images = np.ascontiguousarray(select(x, rows))
    some = None if labels is None else labels[rows]
    if model.classes is not None:
        some = model.classes.complete(model.classes.numbers(some, len(images)))
    facts, points = _facts(model, images, some)
    contents, weights = _share({name: make() for name, make in _parts(model).items()})
    blobs = {
        "engine-script": engine.script,
        "engine-wasm": engine.wasm,
        "weights": weights,
        "images": images.tobytes(),
        "points": points.astype("<f4").tobytes(),
        **{f"part-{name}": content for name, content in contents.items()},
    }
    html = TEMPLATES.get_template("explorer.html.j2").render(
        title=title,
        facts=facts | {"split": split, "invert": invert and model.image_shape[-1] == 1},
        blobs={name: _packed(content) for name, content in blobs.items()},
    )
    files.write_text(path, html)
    return path


def _facts(
    model: VAE, images: np.ndarray, labels: np.ndarray | None
) -> tuple[dict[str, Any], np.ndarray]:
    """Returns what the page knows of the model and of the images, and their points on the map."""
    known = model.classes
    loc = model.encode(model.paired(images, labels)).loc
    centre, directions, axis_name = gallery.plane(loc)
    points = (loc - centre) @ directions.T
    found = gallery.dimensions(model, model.paired(images, labels))
    observations = observed(images, model.seed, model.binarization)
    elbo = model.elbo(model.paired(observations, labels), model.seed).elbo.astype(np.float64)
    names: Any = ()
    classes = None
    if known is not None:
        names, classes = [known.name(number) for number in range(known.count)], labels
        labels = np.array(names)[labels]
    elif labels is not None and datasets.has_classes(labels):
        names, classes = np.unique(labels, return_inverse=True)
    return {
        "shape": list(model.image_shape),
        "latent_dim": model.latent_dim,
        "count": len(images),
        "binary": model.likelihood.support == "binary",
        "drawable": model.image_shape == _DRAWABLE,
        "learned_prior": not isinstance(model.prior, StandardNormal),
        "conditional": known is not None,
        "names": [str(name) for name in names],
        "labels": None if labels is None else [str(label) for label in labels],
        "classes": None if classes is None else classes.tolist(),
        "elbo": {"mean": float(elbo.mean()), "low": float(np.quantile(elbo, 0.05))},
        "centre": centre.tolist(),
        "directions": directions.tolist(),
        "axis_name": axis_name,
        "ordered_by": found.measure_name,
        "dimensions": [
            {
                "index": int(index),
                "measure": float(found.measure[index]),
                "active": bool(found.active[index]),
                "low": float(found.centre[index] - _REACH * found.spread[index]),
                "high": float(found.centre[index] + _REACH * found.spread[index]),
            }
            for index in found.order
        ],
    }, points


def _parts(model: VAE) -> dict[str, Callable[[], bytes]]:
    """Returns what the page computes, each part as a function that makes its ONNX file."""
    networks = [model.encoder, model.decoder]
    has_weights = isinstance(model.prior, keras.layers.Layer)
    learned = [model.prior] if has_weights else []
    images, latents = {"images": model.image_shape}, (model.latent_dim,)
    # One-hot labels are the last input of what depends on the class.
    label = {} if model.num_classes is None else {"labels": (model.num_classes,)}

    def encode(images: tf.Tensor, *labels: tf.Tensor) -> dict[str, tf.Tensor]:
        return model.encode_tensors(model.pixels(images), *labels)._asdict()

    def decode(latents: tf.Tensor, *labels: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"means": model.decode_tensors(latents, *labels)}

    def score(images: tf.Tensor, noise: tf.Tensor, *labels: tf.Tensor) -> dict[str, tf.Tensor]:
        return model.terms(images, noise, *labels)._asdict()

    def transform(noise: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"latents": model.prior.transform(noise)}

    def made(name: str, layers: list[Any], function: Any, inputs: Any) -> Callable[[], bytes]:
        return lambda: parts.onnx_bytes(name, layers, function, inputs)

    found = {
        "encoder": made("encoder", networks, encode, images | label),
        "decoder": made("decoder", [model.decoder], decode, {"latents": latents} | label),
    }
    if model.image_shape == _DRAWABLE:
        inputs = images | {"noise": latents} | label
        classifier = [] if model.classifier is None else [model.classifier]
        found["score"] = made("score", networks + learned + classifier, score, inputs)
    if not isinstance(model.prior, StandardNormal):
        found["prior"] = made("prior", learned, transform, {"noise": latents})
    return found


def _share(contents: Mapping[str, bytes]) -> tuple[dict[str, bytes], bytes]:
    """Moves the weights of ONNX files to one place, where equal ones are kept once.

    Args:
        contents: ONNX files with their weights inside, under their names.

    Returns:
        The files without their weights, which ONNX calls external data, and the weights.
    """
    import onnx

    kept: dict[bytes, tuple[int, bytes]] = {}
    size, slim = 0, {}
    for name, content in contents.items():
        model = onnx.load_from_string(content)
        for tensor in model.graph.initializer:
            raw = onnx.numpy_helper.to_array(tensor).tobytes()
            if len(raw) < _SHARED:
                continue
            key = hashlib.sha256(raw).digest()
            if key not in kept:
                kept[key] = size, raw
                size += len(raw)
            tensor.ClearField("raw_data")
            tensor.ClearField("float_data")
            tensor.data_location = onnx.TensorProto.EXTERNAL
            del tensor.external_data[:]
            place = {"location": "weights", "offset": kept[key][0], "length": len(raw)}
            for field, value in place.items():
                tensor.external_data.add(key=field, value=str(value))
        slim[name] = model.SerializeToString()
    return slim, b"".join(raw for _, raw in kept.values())


def _packed(content: bytes) -> str:
    # A fixed time in the header gives equal files for equal models.
    return base64.b64encode(gzip.compress(content, 6, mtime=0)).decode()
