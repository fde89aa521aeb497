"""The encoder and the decoder of a model as separate ONNX or LiteRT files."""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import os
import re
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from vae_keras.export.errors import write_errors
from vae_keras.export.signatures import pixel_name
from vae_keras.model import VAE, require_built
from vae_keras.trainer.fast_path import layers_of
from vae_keras.utils import checks, files

# Maps a format to the suffix of its files and to the packages that it needs in addition.
_FORMATS = {"onnx": (".onnx", ("tf2onnx", "onnx")), "litert": (".tflite", ())}


def export_parts(model: VAE, folder: str | os.PathLike[str], format: str) -> tuple[Path, Path]:
    """Writes the encoder and the decoder as separate files, with the exporters of Keras.

    The encoder maps images [N, H, W, C] in [0, 1] to `loc` and `scale` [N, L] of the posterior. The
    decoder maps latents [N, L] to `probabilities` [N, H, W, C], the mean of the likelihood. It is
    called `means` where the pixels are not binary. N is free. For a model with classes both take
    `labels` int32 [N] in addition. Neither file checks its inputs. A learned prior is part of
    neither file.

    Args:
        model: a built model with float32 weights.
        folder: folder of the files `encoder` and `decoder` with the suffix of the format. It is
            created if it does not exist.
        format: "onnx", which needs the extra `[onnx]`, or "litert".

    Returns:
        The paths of the encoder and of the decoder.

    Raises:
        checks.InputError: for an unknown format, a format whose packages are missing, a model
            without weights, or layers that LiteRT has no operations for.
        OSError: if a file could not be written. Both are written before one replaces an older file.

    Example:
        >>> export_parts(vae, "exported", "litert")
        (PosixPath('exported/encoder.tflite'), PosixPath('exported/decoder.tflite'))
    """
    require_built(model, "an export")
    suffix = _FORMATS[checks.choice("format", format, tuple(_FORMATS))][0]
    require_packages(format)

    count = model.num_classes
    label = [] if count is None else [tf.TensorSpec([None], tf.int32, name="labels")]

    def one_hot(labels: tuple[tf.Tensor, ...]) -> list[tf.Tensor]:
        return [tf.one_hot(each, count) for each in labels]

    def encode(images: tf.Tensor, *labels: tf.Tensor) -> dict[str, tf.Tensor]:
        return model.encode_tensors(model.pixels(images), *one_hot(labels))._asdict()

    def decode(latents: tf.Tensor, *labels: tf.Tensor) -> dict[str, tf.Tensor]:
        return {pixel_name(model): model.decode_tensors(latents, *one_hot(labels))}

    parts = {
        # A top-down decoder infers the latents, so the file of the encoder has weights of both.
        "encoder": ([model.encoder, model.decoder], encode, "images", model.image_shape),
        "decoder": ([model.decoder], decode, "latents", (model.latent_dim,)),
    }
    folder = checks.writable("folder", folder, folder=True)
    write = _write_litert if format == "litert" else _write_onnx
    with contextlib.ExitStack() as written:
        # Both files are written before the first one replaces an older file.
        for name, (layers, function, input_name, shape) in parts.items():
            specs = [tf.TensorSpec([None, *shape], name=input_name), *label]
            part = _Part(name, layers, function, specs)
            path = folder / (name + suffix)
            written.enter_context(write_errors(path))
            write(part, os.fspath(written.enter_context(files.staged(path))))
    return folder / ("encoder" + suffix), folder / ("decoder" + suffix)


def require_packages(format: str) -> None:
    """Refuses a format whose packages are missing.

    Args:
        format: "onnx" or "litert".

    Raises:
        checks.InputError: if a package that the format needs is not installed.

    Example:
        >>> require_packages("litert")
    """
    packages = _FORMATS[format][1]
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        raise checks.InputError(
            f"format {format} needs the packages {' and '.join(packages)}. Received: an "
            f"environment without {missing[0]}. Run: pip install 'vae-keras[{format}]'"
        )


def onnx_bytes(
    name: str,
    networks: list[Any],
    function: Callable[..., dict[str, tf.Tensor]],
    inputs: Mapping[str, tuple[int, ...]],
) -> bytes:
    """Returns a function of tensors as the content of an ONNX file.

    Args:
        name: name of the model in the file.
        networks: the layers whose weights the function uses.
        function: maps float32 tensors [N, ...] to named tensors [N, ...].
        inputs: the shape of each argument without N, under its name.

    Returns:
        The content of the file, with its weights.

    Raises:
        checks.InputError: if ONNX lacks an operation of the function.

    Example:
        >>> content = onnx_bytes(
        ...     "prior", [], lambda noise: {"latents": 2.0 * noise}, {"noise": (3,)}
        ... )
    """
    require_packages("onnx")
    specs = [tf.TensorSpec([None, *shape], name=text) for text, shape in inputs.items()]
    part = _Part(name, networks, function, specs)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"{name}.onnx"
        _write_onnx(part, os.fspath(path))
        return path.read_bytes()


class _Part(keras.Model):
    """A network and the function that a file computes, in the form that Keras exports.

    Args:
        name: name of the model.
        layers: networks whose weights the function uses.
        function: maps the inputs to a dictionary of outputs.
        specs: the inputs.
    """

    def __init__(
        self, name: str, layers: list[Any], function: Callable[..., Any], specs: list[tf.TensorSpec]
    ) -> None:
        # A global policy of mixed precision would round the inputs.
        super().__init__(name=name, dtype="float32")
        self.networks, self.function = layers, function
        # The exporters of Keras take several inputs as one list.
        self.input_signature = [specs if len(specs) > 1 else specs[0]]
        self(tf.nest.map_structure(_zeros, self.input_signature[0]))

    def call(self, inputs: Any) -> Any:
        return self.function(*tf.nest.flatten(inputs))


def _zeros(spec: tf.TensorSpec) -> tf.Tensor:
    return tf.zeros((1, *spec.shape[1:]), spec.dtype)


def _write_onnx(part: _Part, path: str) -> None:
    """Writes a part as ONNX, and refuses the file if ONNX lacks one of its operations."""
    import onnx

    # tf2onnx logs operations that are replaced or refused below, and Keras warns of its own code.
    with _silent("tf2onnx.tfonnx"), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        part.export(path, format="onnx", input_signature=part.input_signature, verbose=False)
    content = onnx.load(path)
    if any(node.op_type == "Expm1" for node in content.graph.node):
        _replace_expm1(content)
        onnx.save(content, path)
    try:
        onnx.checker.check_model(path)
    except onnx.checker.ValidationError as error:
        _refuse_operation("ONNX", r"Name: (\S+)/\S+ OpType: (\w+)", error)
        raise


@contextlib.contextmanager
def _silent(name: str) -> Iterator[None]:
    """Turns the messages of a logger off."""
    logger = logging.getLogger(name)
    level = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        logger.setLevel(level)


def _replace_expm1(content: Any) -> None:
    """Computes exp(x) - 1 in two steps, because ONNX has no operation for both.

    The KL between normal distributions has it. The error is at most the rounding of exp(x).
    """
    import onnx

    graph, nodes = content.graph, []
    for node in graph.node:
        if node.op_type != "Expm1":
            nodes.append(node)
            continue
        (source,), (target,) = node.input, node.output
        power = f"{target}/power"
        nodes.append(onnx.helper.make_node("Exp", [source], [power]))
        nodes.append(onnx.helper.make_node("Sub", [power, "expm1/one"], [target]))
    del graph.node[:]
    graph.node.extend(nodes)
    graph.initializer.append(onnx.helper.make_tensor("expm1/one", onnx.TensorProto.FLOAT, (), [1]))


def _write_litert(part: _Part, path: str) -> None:
    """Writes a part with LiteRT's own operations only, which every interpreter can run."""
    builtins = {"supported_ops": [tf.lite.OpsSet.TFLITE_BUILTINS]}
    arguments = {
        "format": "litert",
        "input_signature": part.input_signature,
        "target_spec": builtins,
    }
    try:
        with _unrolled(part.networks):
            part.export(path, verbose=False, **arguments)
    except Exception as error:  # The converter's own class is not public.
        # The message lists the operation between the calls of the functions around it.
        _refuse_operation("LiteRT", r'"(?!Stateful)\w+:", "([^"@]+)/(\w+)', error)
        raise


def _refuse_operation(format: str, pattern: str, error: Exception) -> None:
    """Raises an InputError that names the operation which a format lacks, if the error names it.

    Args:
        format: name of the format.
        pattern: regular expression whose groups are the layer and the operation.
        error: error of the converter.
    """
    found = re.search(pattern, str(error))
    if found is not None:
        layer, operation = found.groups()
        raise checks.InputError(
            f"{format} must have an operation for every step of a layer. "
            f"Received: {operation} in {layer}, which {format} lacks. "
            "Replace that layer, or export a SavedModel."
        ) from error


@contextlib.contextmanager
def _unrolled(networks: list[keras.layers.Layer]) -> Iterator[None]:
    """Unrolls recurrent layers, because LiteRT cannot run their loops for a free batch size."""
    looped = [
        layer
        for network in networks
        for layer in layers_of(network)
        if isinstance(layer, keras.layers.RNN) and not layer.unroll
    ]
    try:
        for layer in looped:
            layer.unroll = True
        yield
    finally:
        for layer in looped:
            layer.unroll = False
