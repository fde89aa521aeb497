"""A user's own images, in any form and of any number."""

from __future__ import annotations

import hashlib
import math
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from vae_keras.data import archives, arrays, cache, decoding, splits, store
from vae_keras.data.archives import Archive
from vae_keras.data.arrays import ArrayFile
from vae_keras.data.catalogue import Catalogue, check_name, part_of
from vae_keras.data.collection import DataSet, Images
from vae_keras.data.datasets import KNOWN
from vae_keras.data.folder import Folder
from vae_keras.data.image_file import SUFFIXES
from vae_keras.data.store import Stored
from vae_keras.data.tfrecord import Records
from vae_keras.utils import checks, rows

MIN_IMAGES = 10
IN_MEMORY = 2**28
"""Bytes of pixels up to which images are decoded into memory at each start."""

_FILES = (*arrays.SUFFIXES, *archives.ZIPS, *archives.TARS)
_SHOWN = 5  # damaged images that are listed


def open_images(
    path: str | os.PathLike[str],
    image_size: str | None = None,
    *,
    skip_damaged: bool = False,
    group_by: str | None = None,
    say: Callable[[str], None] = print,
) -> DataSet:
    """Opens a user's own images, which `VAE.fit` then trains on.

    The path is a folder or a .zip or .tar archive of image files (PNG, JPEG, WebP, GIF, BMP, TIFF),
    an .npz, .npy or .h5 file of arrays, or TFRecord files or a folder of them. Links to files and
    folders are followed.

    In a folder or archive, the names of the sub-folders are the labels. Sub-folders such as
    `train`, `val` and `test` divide the images. If any image has colours, all images become colour
    images, otherwise all become grey. Transparent pixels become white.

    If the data come without a division, one image in ten is for testing. The division and the
    order of the images are random with the seed `splits.SPLIT_SEED`: the same images always give
    the same division. No split that is drawn divides images with equal pixels.

    Images of more than `IN_MEMORY` bytes are decoded once, into a cache on the disk, which is then
    mapped into memory.

    Args:
        path: the folder or file.
        image_size: "H" or "HxW" in pixels. Images of other sizes are scaled and cropped around the
            middle, with their proportions kept. Default None, for images that all have one size.
        skip_damaged: whether damaged image files are left out and listed. Default False, to refuse
            them.
        group_by: regular expression that is matched at the start of each file's name. Images whose
            names share what it matches are never divided. Default None.
        say: called with each line on the progress. Default `print`.

    Returns:
        A `DataSet` with uint8 images.

    Raises:
        checks.InputError: for any other path, for a file that cannot be read, and for images of
            several sizes without `image_size`.

    Example:
        >>> import tempfile
        >>> dots = np.arange(20, dtype=np.uint8).repeat(64).reshape(20, 8, 8)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     np.savez(f"{folder}/dots.npz", x_train=dots)
        ...     dataset = open_images(f"{folder}/dots.npz")
        >>> dataset.name, dataset.images.x_train.shape, dataset.images.x_test.shape
        ('dots', (18, 8, 8, 1), (2, 8, 8, 1))
    """
    source, catalogue, stored = _read(path, image_size, skip_damaged, say)
    if len(stored.rows) < MIN_IMAGES:
        raise checks.InputError(
            f"a data set must hold at least {MIN_IMAGES} images. "
            f"Received: {len(stored.rows)}. Add images."
        )
    division = splits.divide(catalogue, stored.digests, group_by)
    images = _images(catalogue, stored, division)
    digests = stored.digests[division.train], stored.digests[division.test]
    identity = {
        "sha256": fingerprint(images, digests),
        "image_shape": list(images.x_train.shape[1:]),
        "train_images": len(images.x_train),
        "test_images": len(images.x_test),
        "split": division.words,
        "split_seed": splits.SPLIT_SEED,
    }
    if division.validation:
        identity["validation_images"] = division.validation
    if group_by is not None:
        identity["group_by"] = group_by
    return DataSet(
        name(path),
        images,
        division.words,
        notes=(*source.notes, *stored.notes, *_damage(stored.damaged), *division.notes),
        identity=identity,
        own=True,
        divided=division.words == "as given",
        validation=division.validation,
        continues=division.continues,
        digests=digests,
        files=_files(catalogue, division),
    )


class Listed(NamedTuple):
    """Images in the order of their source, without a division.

    Attributes:
        names: name of each image: its path in the folder or archive, or its row in an array.
        pixels: uint8 [N, H, W, C], in memory or as `rows.Rows`.
        notes: lines for the user.
    """

    names: list[str]
    pixels: rows.Array
    notes: list[str]


def list_images(
    path: str | os.PathLike[str],
    image_size: str | None = None,
    *,
    skip_damaged: bool = False,
    say: Callable[[str], None] = print,
) -> Listed:
    """Reads images that are neither divided nor trained on, one of them at least.

    Args:
        path, image_size, skip_damaged, say: as in `open_images`.

    Returns:
        `Listed`.

    Raises:
        checks.InputError: as in `open_images`.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     np.save(f"{folder}/dots.npy", np.zeros((2, 8, 8), np.uint8))
        ...     listed = list_images(f"{folder}/dots.npy")
        >>> listed.names, listed.pixels.shape
        (['dots/0', 'dots/1'], (2, 8, 8, 1))
    """
    source, catalogue, stored = _read(path, image_size, skip_damaged, say)
    on_disk = isinstance(stored.pixels, np.memmap)
    pixels = rows.of(stored.pixels, stored.rows) if on_disk else stored.pixels[stored.rows]
    names = list(catalogue.names) or [f"{name(path)}/{row}" for row in stored.rows]
    return Listed(names, pixels, [*source.notes, *stored.notes, *_damage(stored.damaged)])


def name(path: str | os.PathLike[str]) -> str:
    """Returns the name of the data set at a path: the file's or the folder's name.

    Args:
        path: the folder or file, which need not exist.

    Returns:
        The name without the ending of a file, with "own-" in front if it is a name in
        `datasets.KNOWN`.

    Example:
        >>> name("data/photos"), name("data/photos.tar.gz"), name("data/mnist.npz")
        ('photos', 'photos', 'own-mnist')
    """
    # `Path.resolve` raises an error of its own for a link that leads to itself.
    own = os.path.basename(os.path.realpath(checks.path("data", path))) or "data"
    for suffix in sorted(_FILES, key=len, reverse=True):
        if own.lower().endswith(suffix) and len(own) > len(suffix):
            own = own[: -len(suffix)]
            break
    return f"own-{own}" if own in KNOWN else own


def parse_size(text: str) -> tuple[int, int]:
    """Parses "H" or "HxW" to (H, W) in pixels.

    Raises:
        checks.InputError: for any other text, and a side of 0.

    Example:
        >>> parse_size("24x40"), parse_size("32")
        ((24, 40), (32, 32))
    """
    match = re.fullmatch(r"([0-9]{1,5})(?:x([0-9]{1,5}))?", str(text))
    height, width = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
    if height * width < 1:
        raise checks.InputError(
            f"image_size must be H or HxW, with sides from 1 to 99999. Received: {text!r}. "
            "Pass 32 or 24x40, for instance."
        )
    return height, width


def fingerprint(images: Images, digests: Sequence[np.ndarray]) -> str:
    """Returns a hash of all pixels and labels with their shapes, as 64 hexadecimal digits.

    Args:
        images: the images, whose pixels are not read.
        digests: hashes of the pixels of the training and the test images, uint64 [N] each.
    """
    whole = hashlib.sha256()
    for part, x, hashes, labels in (
        ("train", images.x_train, digests[0], images.y_train),
        ("test", images.x_test, digests[1], images.y_test),
    ):
        whole.update(f"{part} {x.shape}\n".encode())
        whole.update(np.ascontiguousarray(hashes, "<u8").data)
        if labels is not None:
            whole.update("\n".join(map(str, labels)).encode())
    return whole.hexdigest()


def _source(path: Path) -> decoding.Source:
    """Returns the reader of a path."""
    kind = path.name.lower()
    if path.is_dir():
        folder = Folder(path)
        if folder.names or not folder.tables:
            if not folder.names:
                raise checks.InputError(
                    f"a folder of images must hold {', '.join(SUFFIXES)} or .tfrecord files. "
                    f"Received: {path} without any. Pass another folder."
                )
            return folder
        return _records(path, [path / table for table in folder.tables])
    if path.is_file():
        if kind.endswith(arrays.SUFFIXES):
            return ArrayFile(path)
        if kind.endswith((*archives.ZIPS, *archives.TARS)):
            archive = Archive(path)
            if not archive.names:
                raise checks.InputError(
                    f"an archive of images must hold {', '.join(SUFFIXES)} files. "
                    f"Received: {path} without any. Pass another one."
                )
            return archive
        if ".tfrecord" in kind:
            return Records(path.parent, [path])
    raise checks.InputError(
        f"data must be one of: {', '.join(KNOWN)}, or the path of a folder of images or of a "
        f"file: {', '.join(_FILES)}, .tfrecord. Received: {os.fspath(path)!r}. "
        "Pass a path that exists."
    )


def _records(root: Path, paths: list[Path]) -> Records:
    """Returns the reader of a folder of TFRecord files, which must belong to one set."""
    records = Records(root, paths)
    folders = {path.relative_to(root).parts[:-1] for path in paths}
    versions = {root.joinpath(*parts) for parts in folders if not any(map(_is_part, parts))}
    if len(versions) > 1:
        raise checks.InputError(
            "a folder of TFRecord files must hold one data set. "
            f"Received: {', '.join(sorted(map(str, versions)))}. Name one of them."
        )
    return records


def _is_part(folder: str) -> bool:
    return part_of(folder) is not None


def _read(
    path: str | os.PathLike[str],
    image_size: str | None,
    skip_damaged: bool,
    say: Callable[[str], None],
) -> tuple[decoding.Source, Catalogue, Stored]:
    """Opens and decodes a source. The catalogue and the rows are those of sound images."""
    path = checks.path("data", path)
    check_name(name(path))
    size = None if image_size is None else parse_size(image_size)
    try:
        source = _source(path)
        catalogue, stored = _decoded(source, path, size, skip_damaged, say)
    except OSError as error:
        raise checks.InputError(
            f"data must be readable. Received: {path} ({error.strerror or error}). "
            "Check its permissions."
        ) from error
    if stored.damaged and not skip_damaged:  # of a cache that was made without them
        raise checks.InputError(next(iter(stored.damaged.values())))
    return source, _without(catalogue, stored.rows), stored


def _decoded(
    source: decoding.Source,
    path: Path,
    size: tuple[int, int] | None,
    skip_damaged: bool,
    say: Callable[[str], None],
) -> tuple[Catalogue, Stored]:
    """Decodes the images into memory or into a cache, or opens their cache."""
    key = cache.Key(path.resolve(), size, source.stamp())
    found = cache.find(key, say)
    if found is not None:
        return found
    catalogue = source.catalogue()  # refuses names before anything is decoded
    pictures = decoding.survey(source, size, skip_damaged)
    if pictures.count * math.prod(pictures.shape) <= IN_MEMORY:
        return catalogue, store.in_memory(pictures)
    return cache.make(key, catalogue, pictures, say)


def _without(catalogue: Catalogue, kept: np.ndarray) -> Catalogue:
    """Returns the catalogue of the images that are not damaged."""
    if len(kept) == len(catalogue.parts):
        return catalogue
    names = [catalogue.names[row] for row in kept] if catalogue.names else ()
    labels = None if catalogue.labels is None else catalogue.labels[kept]
    return Catalogue(names, catalogue.parts[kept], labels)


def _files(catalogue: Catalogue, division: splits.Division) -> tuple[list[str], list[str]] | None:
    """Returns the names of the files of the training and of the test images."""
    if not catalogue.names:
        return None
    train, test = ([catalogue.names[row] for row in of] for of in (division.train, division.test))
    return train, test


def _images(catalogue: Catalogue, stored: Stored, division: splits.Division) -> Images:
    on_disk = isinstance(stored.pixels, np.memmap)

    def part(of: np.ndarray) -> rows.Array:
        at = stored.rows[of]
        return rows.of(stored.pixels, at) if on_disk else np.take(stored.pixels, at, axis=0)

    def labels(of: np.ndarray) -> np.ndarray | None:
        if catalogue.labels is None:
            return None
        y = catalogue.labels[of]
        return None if y.dtype.kind == "U" and (y == "").any() else y

    return Images(
        part(division.train), labels(division.train), part(division.test), labels(division.test)
    )


def _damage(damaged: dict[int, str]) -> list[str]:
    """Lists the damaged images that were left out."""
    if not damaged:
        return []
    found = [re.sub(r".*Received: (.*)\. Repair or.*", r"\1", text) for text in damaged.values()]
    more = ", ..." if len(found) > _SHOWN else ""
    return [f"Damaged images left out: {len(found):,}: {', '.join(found[:_SHOWN])}{more}."]
