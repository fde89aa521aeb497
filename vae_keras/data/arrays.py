"""Images in arrays: an .npz, .npy or .h5 file, which is read block by block."""

from __future__ import annotations

import contextlib
import hashlib
import math
import os
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
from PIL import Image

from vae_keras.data import catalogue, image_file
from vae_keras.utils import checks

SUFFIXES = (".npz", ".npy", ".h5", ".hdf5")

_PARTS = {"x_train": catalogue.TRAIN, "x_test": catalogue.TEST}
_NAMES = ("x_train", "y_train", "x_test", "y_test")
_ZIP_KINDS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_BLOCK_BYTES = 2**24
_LONGEST_LABEL = 2**12  # bytes


class _Array(NamedTuple):
    """An array in a file.

    Attributes:
        shape, dtype: those of the array.
        blocks: reads rows in their order, as many at a time as are asked for.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    blocks: Callable[[int], Iterator[np.ndarray]]


class ArrayFile:
    """The images in an .npz, .npy or .h5 file.

    An .npz and an .h5 file hold `x_train` [N, H, W] or [N, H, W, C], C = 1 or 3, as uint8 or as
    floats in [0, 1], which are rounded to 256 levels. They may also hold `x_test`, `y_train` and
    `y_test`. An .npy file, and an .h5 file with a single array, hold the images only.

    Args:
        path: the file.

    Attributes:
        notes: lines for the user.

    Raises:
        checks.InputError: for a damaged file, and for arrays of other names, shapes or dtypes.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.notes: list[str] = []
        with self._reading():
            self._arrays = self._find()
        if "x_train" not in self._arrays:
            raise checks.InputError(
                f"an {path.suffix} of images must hold x_train. Received: {path} with "
                f"{', '.join(self._arrays) or 'no array'}. Save the images under that name."
            )
        if "y_test" in self._arrays and "x_test" not in self._arrays:
            raise checks.InputError(
                f"y_test must come with x_test. Received: {path} without x_test. Add it, or "
                "remove y_test."
            )
        self._parts = [part for part in _PARTS if part in self._arrays]
        # A look at one image checks rank, channels and dtype before anything large is read.
        shapes = [self._first(part).shape[1:] for part in self._parts]
        if len(set(shapes)) > 1:
            raise checks.InputError(
                f"x_train and x_test must hold images of one shape. Received: {shapes[0]} and "
                f"{shapes[1]} in {path}. Resize one of them."
            )
        self.image_shape = shapes[0]
        for part in self._parts:
            if (dtype := self._arrays[part].dtype) != np.uint8 and dtype.kind in "fb":
                self.notes.append(f"{part}: {dtype} pixels were rounded to 256 levels.")

    def stamp(self) -> str:
        """Returns a hash of the file's size and time."""
        found = os.stat(self.path)
        return hashlib.sha256(f"{found.st_size} {found.st_mtime_ns}".encode()).hexdigest()

    def catalogue(self) -> catalogue.Catalogue:
        """Returns the parts and labels of the images, which have no names."""
        counts = [self._arrays[part].shape[0] for part in self._parts]
        parts = np.repeat(np.array([_PARTS[part] for part in self._parts], np.uint8), counts)
        with self._reading():
            found = [
                self._labels(part.replace("x", "y"), count)
                for part, count in zip(self._parts, counts, strict=True)
            ]
        known = [labels for labels in found if labels is not None]
        if len({str(label) for labels in known for label in np.unique(labels)}) < 2:
            return catalogue.Catalogue((), parts, None)
        if any(labels is None for labels in found):  # an empty text stands for no label
            pairs = zip(found, counts, strict=True)
            found = [
                np.full(count, "") if labels is None else labels.astype(str)
                for labels, count in pairs
            ]
        return catalogue.Catalogue((), parts, np.concatenate([np.asarray(y) for y in found]))

    def blocks(self, size: tuple[int, int]) -> Iterator[np.ndarray]:
        """Yields the images in blocks.

        Args:
            size: (H, W) in pixels. Images of another size are scaled and cropped.

        Yields:
            uint8 [M, H, W, C].
        """
        for part in self._parts:
            array = self._arrays[part]
            rows = max(1, _BLOCK_BYTES // (array.dtype.itemsize * math.prod(array.shape[1:])))
            with self._reading():
                for block in array.blocks(rows):
                    x = checks.images(block, f"{part} of {self.path}")
                    if x.dtype != np.uint8:
                        x = np.rint(x * 255.0).astype(np.uint8)
                    yield x if x.shape[1:3] == size else _fit(x, size)

    # ----------------------------------------------------------------------------- the formats

    def _find(self) -> dict[str, _Array]:
        suffix = self.path.suffix.lower()
        if suffix == ".npy":
            array = np.lib.format.open_memmap(self.path, mode="r")
            return {"x_train": _Array(array.shape, array.dtype, lambda rows: _slices(array, rows))}
        return self._find_npz() if suffix == ".npz" else self._find_h5()

    def _find_npz(self) -> dict[str, _Array]:
        with zipfile.ZipFile(self.path) as archive:
            members = archive.infolist()
            names = [member.filename for member in members]
            self._refuse_others([name for name in names if name.removesuffix(".npy") not in _NAMES])
            if len(set(names)) < len(names):
                raise ValueError("it holds a name twice")
            if any(member.compress_type not in _ZIP_KINDS for member in members):
                raise ValueError("its compression is not one that NumPy uses")
            return {
                name.removesuffix(".npy"): self._npz_array(archive, member)
                for name, member in zip(names, members, strict=True)
            }

    def _npz_array(self, archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> _Array:
        with archive.open(member) as file:
            version = np.lib.format.read_magic(file)
            if version not in ((1, 0), (2, 0)):
                raise ValueError(f"{member.filename} has an unknown version")
            read = getattr(np.lib.format, f"read_array_header_{version[0]}_0")
            shape, by_column, dtype = read(file)
            self._refuse_objects(member.filename, dtype)
            start = file.tell()
            # Checked before an array of that shape is allocated. zipfile reads no more than the
            # size that it declares.
            if min(shape, default=1) < 0 or start + math.prod(shape) * dtype.itemsize != (
                member.file_size
            ):
                raise ValueError(f"the length of {member.filename} does not fit its shape {shape}")

        def blocks(rows: int) -> Iterator[np.ndarray]:
            with zipfile.ZipFile(self.path) as archive, archive.open(member) as file:
                if by_column or not shape:  # its rows do not follow one another
                    yield from _slices(np.lib.format.read_array(file, allow_pickle=False), rows)
                    return
                file.read(start)
                row_bytes = math.prod(shape[1:]) * dtype.itemsize
                for first in range(0, shape[0], rows):
                    count = min(rows, shape[0] - first)
                    content = file.read(count * row_bytes)
                    yield np.frombuffer(content, dtype).reshape(count, *shape[1:])
                file.read(1)  # compares the checksum

        return _Array(shape, dtype, blocks)

    def _find_h5(self) -> dict[str, _Array]:
        found = {}
        with h5py.File(self.path, "r") as file:
            for name in file:
                # Links and external storage could name any other file of this machine.
                is_own = isinstance(file.get(name, getlink=True), h5py.HardLink)
                data = file[name] if is_own else None
                if (
                    not isinstance(data, h5py.Dataset)
                    or data.shape is None
                    or data.external
                    or data.is_virtual
                ):
                    raise checks.InputError(
                        "an .h5 of images must hold its arrays itself, at the top. "
                        f"Received: {name!r} in {self.path}. Save the arrays there."
                    )
                dtype = np.dtype(object)  # of texts
                if h5py.check_string_dtype(data.dtype) is None:
                    dtype = data.dtype
                    self._refuse_objects(name, dtype)
                found[name] = _Array(data.shape, dtype, self._h5_blocks(name))
        if len(found) == 1 and "x_train" not in found:
            return {"x_train": next(iter(found.values()))}
        self._refuse_others([name for name in found if name not in _NAMES])
        return found

    def _h5_blocks(self, name: str) -> Callable[[int], Iterator[np.ndarray]]:
        def blocks(rows: int) -> Iterator[np.ndarray]:
            with h5py.File(self.path, "r") as file:
                data = file[name]
                is_text = h5py.check_string_dtype(data.dtype) is not None
                yield from _slices(data.asstr() if is_text else data, rows)

        return blocks

    def _refuse_others(self, others: list[str]) -> None:
        if others:
            raise checks.InputError(
                f"an {self.path.suffix} of images may hold x_train, x_test, y_train and y_test. "
                f"Received: {others[0]!r} in {self.path}. Save it without other arrays."
            )

    def _refuse_objects(self, name: str, dtype: np.dtype) -> None:
        if dtype.hasobject:
            raise checks.InputError(
                "arrays must hold numbers or texts. Python objects are never read. "
                f"Received: {name} of dtype {dtype} in {self.path}. "
                "Stack images of one size into uint8."
            )

    # ------------------------------------------------------------------------------ the content

    def _first(self, part: str) -> np.ndarray:
        """Returns the first image of a part, checked, with an axis of length 1 before it."""
        array = self._arrays[part]
        fits = array.dtype.kind in "buif" and len(array.shape) in (3, 4)
        empty = math.prod(array.shape) == 0 if array.shape else True
        if not fits or empty:  # the check says what is wrong, and needs no content for it
            probe = np.broadcast_to(
                np.zeros((), "U1" if array.dtype.kind in "OSU" else array.dtype), array.shape
            )
            return checks.images(probe, f"{part} of {self.path}")
        # uint8 zeros, so that values are not checked here.
        probe = np.broadcast_to(np.uint8(0), (1, *array.shape[1:]))
        return checks.images(probe, f"{part} of {self.path}")

    def _labels(self, part: str, num_images: int) -> np.ndarray | None:
        """Returns the labels of a part, or None if it has none or only one class."""
        if part not in self._arrays:
            return None
        array = self._arrays[part]
        shape, dtype = array.shape, array.dtype
        # A small file may name billions of labels, so no label is read before these checks.
        fits = dtype.kind in "biuUO" and dtype.itemsize <= _LONGEST_LABEL
        if not fits or not (len(shape) == 1 or shape[1:] == (1,)):
            raise checks.InputError(
                f"{part} must hold a whole number or a short text for each image, with shape [N]. "
                f"Received: dtype {dtype}, shape {shape} in {self.path}. Convert it, or leave "
                "it out."
            )
        if shape[0] != num_images:
            raise checks.InputError(
                f"{part} must hold one label for each image. Received: {shape[0]} labels for "
                f"{num_images} images in {self.path}. Save as many labels as images."
            )
        (y,) = array.blocks(num_images)
        y = y.reshape(num_images)
        if y.dtype == object:
            y = y.astype(str)
        for label in np.unique(y):
            catalogue.check_name(str(label))
        return y

    def _reading(self) -> contextlib.AbstractContextManager[None]:
        if self.path.suffix.lower() == ".npz":
            rule, remedy = (
                "an .npz must be a sound archive of arrays",
                "Save it again with np.savez.",
            )
        else:
            rule, remedy = f"an {self.path.suffix} must be sound", "Save it again."
        return checks.reading(rule, self.path, remedy)


def _slices(array: Any, rows: int) -> Iterator[np.ndarray]:
    for start in range(0, array.shape[0], rows):
        yield np.asarray(array[start : start + rows])


def _fit(x: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    images = (Image.fromarray(image.squeeze(-1) if x.shape[-1] == 1 else image) for image in x)
    fitted = np.stack([np.asarray(image_file.fit(image, size)) for image in images])
    return fitted.reshape(len(x), *size, x.shape[-1])
