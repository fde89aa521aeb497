"""TFRecord files of `tf.train.Example`, as TFDS and the TensorFlow model garden write them."""

from __future__ import annotations

import functools
import hashlib
import io
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from vae_keras.data import catalogue
from vae_keras.data.image_file import ImageFile
from vae_keras.utils import checks

_IMAGES = ("image/encoded", "image", "image_raw", "image/raw")
_LABELS = ("image/class/label", "label")
_SIZES = (("image/height", "height"), ("image/width", "width"))
_MAGIC = (b"\x89PNG", b"\xff\xd8\xff", b"RIFF", b"GIF8")  # the starts of compressed image files
_CHANNELS = ("image/channels", "channels", "image/depth", "depth")


class Records:
    """The images in TFRecord files, one in each `tf.train.Example`.

    An example holds the content of an image file under "image/encoded" or "image", or raw bytes,
    whose sizes then stand under "image/height", "image/width" and "image/channels". Its label
    stands under "image/class/label" or "label". TensorFlow compares every record's checksum.

    Args:
        root: what the files are named relative to in messages.
        paths: the files. Their names or folders may say which part of a division they hold.

    Attributes:
        notes: lines for the user.
    """

    def __init__(self, root: Path, paths: list[Path]) -> None:
        self.root, self.paths = root, paths
        self.notes: list[str] = []

    def stamp(self) -> str:
        """Returns a hash of the names, sizes and times of the files, and of the classes' names."""
        digest = hashlib.sha256()
        for path in self.paths:
            found, name = os.stat(path), os.fsencode(path.relative_to(self.root))
            digest.update(name + f"\n{found.st_size} {found.st_mtime_ns}\n".encode())
        if self._class_names.is_file():
            digest.update(self._class_names.read_bytes())
        return digest.hexdigest()

    def catalogue(self) -> catalogue.Catalogue:
        """Reads all records for the parts and labels of the images."""
        parts = [self._part(path) for path in self.paths]
        divided = len({part for part in parts if part is not None}) > 1
        if divided and None in parts:
            other = self.paths[parts.index(None)]
            raise checks.InputError(
                "the names of TFRecord files must say their parts for all files or for no file. "
                f"Received: {other} beside files that do. Rename or move it."
            )
        rows: list[int] = []
        labels: list[Any] = []
        has_labels: dict[int, bool] = {}  # of each part
        self.notes = []
        for path, part in zip(self.paths, parts, strict=True):
            row = part if divided and part is not None else catalogue.TRAIN
            for number, features in _examples(path):
                label = _label(features)
                if has_labels.setdefault(row, label is not None) != (label is not None):
                    has = "no such label" if label is None else "a label"
                    raise checks.InputError(
                        "a whole number or a text must label all records of a part, or no record. "
                        f"Received: record {number} of {path} with {has}, unlike the records "
                        "before. Write the files again."
                    )
                if label is None and not self.notes and not features.keys().isdisjoint(_LABELS):
                    self.notes = [
                        f"The labels in {path} are left out: each must be a whole number or a text."
                    ]
                rows.append(row)
                labels.append(label)
        known = [label for label in labels if label is not None]
        found = None
        if len(set(known)) > 1:
            named = iter(self._named(known))
            found = np.array(["" if label is None else next(named) for label in labels])
        return catalogue.Catalogue((), np.array(rows, np.uint8), found)

    def files(self) -> Iterator[ImageFile]:
        """Yields the image files in the order of the records."""
        for path in self.paths:
            for number, features in _examples(path):
                content = _content(features, path, number)
                opened = functools.partial(io.BytesIO, content)
                yield ImageFile(f"record {number} of {path}", len(content), opened)

    def _part(self, path: Path) -> int | None:
        """Returns the part that the file's name means, such as mnist-test.tfrecord-00000-of-1."""
        words = [*path.relative_to(self.root).parts[:-1], *re.split(r"[-_.]", path.name)]
        found = [part for part in map(catalogue.part_of, words) if part is not None]
        return found[0] if found else None

    @property
    def _class_names(self) -> Path:
        """The file in which TFDS writes the names of the classes."""
        return self.paths[0].parent / "label.labels.txt"

    def _named(self, labels: list[Any]) -> list[Any]:
        """Returns the labels under the names of the classes."""
        beside = self._class_names
        if not beside.is_file() or not all(isinstance(label, int) for label in labels):
            return labels
        names = beside.read_text("utf-8").splitlines()
        if not all(0 <= label < len(names) for label in labels):
            return labels
        for name in names:
            catalogue.check_name(name)
        return [names[label] for label in labels]


def _examples(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yields the number and the features of each record of a file."""
    with open(path, "rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
    number = 0
    dataset = tf.data.TFRecordDataset(os.fspath(path), "GZIP" if packed else "")
    try:
        for record in dataset.as_numpy_iterator():
            example = tf.train.Example.FromString(record)
            yield number, dict(example.features.feature)
            number += 1
    except (tf.errors.OpError, tf.errors.DataLossError) as error:
        reason = error.message.split("[[")[0].split(";")[0].strip().splitlines()[0]
        raise _damaged(path, number, reason) from None
    except checks.InputError:
        raise
    except Exception as error:  # protobuf's errors have no public base class
        raise _damaged(path, number, "it holds no tf.train.Example") from error


def _damaged(path: Path, number: int, reason: str) -> checks.InputError:
    return checks.InputError(
        "a TFRecord file must be whole, with tf.train.Example records. "
        f"Received: record {number} of {path} ({reason}). Write the file again."
    )


def _first(features: dict[str, Any], names: tuple[str, ...]) -> Any:
    """Returns the value of the first feature that an example has, or None."""
    for name in names:
        if name in features:
            feature = features[name]
            values = getattr(feature, feature.WhichOneof("kind") or "bytes_list").value
            if len(values) == 1:
                return values[0]
    return None


def _label(features: dict[str, Any]) -> int | str | None:
    label = _first(features, _LABELS)
    if isinstance(label, bytes):
        label = label.decode("utf-8", "surrogateescape")
        catalogue.check_name(label)
    return None if isinstance(label, float) else label


def _content(features: dict[str, Any], path: Path, number: int) -> bytes:
    """Returns the content of an image file."""
    content = _first(features, _IMAGES)
    if not isinstance(content, bytes):
        raise checks.InputError(
            "each record must hold the bytes of one image under image/encoded or image. "
            f"Received: record {number} of {path} with {', '.join(sorted(features)) or 'nothing'}. "
            "Write it with that feature."
        )
    height, width = (_first(features, names) for names in _SIZES)
    channels = _first(features, _CHANNELS)
    if not (isinstance(height, int) and isinstance(width, int)) or min(height, width) < 1:
        return content
    if content.startswith(_MAGIC):
        return content
    for count in (1, 3) if channels is None else (channels,):
        # Raw bytes become the file of a format without compression.
        if count in (1, 3) and len(content) == height * width * count:
            return b"P%d %d %d 255\n" % (5 if count == 1 else 6, width, height) + content
    return content
