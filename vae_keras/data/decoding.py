"""Decoding of a whole source to rows of bytes, with all cores."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

import numpy as np

from vae_keras.data import image_file
from vae_keras.data.arrays import ArrayFile
from vae_keras.data.catalogue import Catalogue
from vae_keras.data.image_file import ImageFile
from vae_keras.utils import checks

_T = TypeVar("_T")
_R = TypeVar("_R")
_WAITING = 64  # files of a thread that are read ahead
_WAITING_BYTES = 2**28  # of the files that wait: an archive holds their contents in memory
_BLOCK = 64  # images of a block


class FileSource(Protocol):
    """A source of image files: a folder, an archive, or TFRecord files."""

    notes: list[str]

    def stamp(self) -> str: ...

    def catalogue(self) -> Catalogue: ...

    def files(self) -> Iterator[ImageFile]: ...


Source = FileSource | ArrayFile


@dataclass(frozen=True)
class Pictures:
    """What is known of a source before its pixels are decoded.

    Attributes:
        count: number of images, with the damaged ones.
        shape: (H, W, C) of the decoded images.
        damaged: why an image is left out, under its row.
        notes: lines for the user.
        blocks: decodes the images in their order. It yields uint8 [M, H, W, C], and a row of zeros
            for each image in `damaged`, to which it adds those that it finds.
    """

    count: int
    shape: tuple[int, int, int]
    damaged: dict[int, str]
    notes: list[str]
    blocks: Callable[[], Iterator[np.ndarray]]


@dataclass
class _Headers:
    """What the headers of a source say together."""

    count: int = 0
    size: tuple[int, int] | None = None
    colours: int = 0
    transparent: int = 0
    scaled: int = 0
    damaged: dict[int, str] = field(default_factory=dict)


def survey(source: Source, size: tuple[int, int] | None, skip_damaged: bool) -> Pictures:
    """Reads the headers of all images, before a pixel is decoded.

    Args:
        source: the source.
        size: (H, W) that images are scaled to, or None if they must all have one size.
        skip_damaged: whether damaged image files are left out.

    Returns:
        The `Pictures`.

    Raises:
        checks.InputError: for a damaged image file unless they are left out, and for images of
            several sizes if `size` is None.
    """
    if isinstance(source, ArrayFile):
        height, width, channels = source.image_shape
        height, width = size or (height, width)
        count = len(source.catalogue().parts)
        notes = [] if size in (None, source.image_shape[:2]) else [_scaled(size)]
        target = (height, width)
        return Pictures(count, (*target, channels), {}, notes, lambda: source.blocks(target))
    found = _headers(source, size, skip_damaged)
    if found.size is None:
        raise checks.InputError(
            "data must hold images that can be read. "
            f"Received: {found.count} images, all damaged. Pass other data."
        )
    target, colour = size or found.size, found.colours > 0
    notes = [_scaled(size)] if size is not None and found.scaled else []
    if found.transparent:
        notes.append(f"Images with transparent pixels, which became white: {found.transparent:,}.")
    grey = found.count - len(found.damaged) - found.colours
    if colour and grey:
        notes.append(f"Grey images that were read as colour, like the others: {grey:,}.")

    def blocks() -> Iterator[np.ndarray]:
        return _decoded(source, target, colour, found.damaged, skip_damaged)

    shape = (*target, 3 if colour else 1)
    return Pictures(found.count, shape, found.damaged, notes, blocks)


def _headers(source: FileSource, size: tuple[int, int] | None, skip_damaged: bool) -> _Headers:
    found, first = _Headers(), ""

    def read(file: ImageFile) -> image_file.Header | checks.InputError:
        return _unless_damaged(lambda: image_file.header(file), skip_damaged)

    for file, header in _in_order(read, source.files(), lambda file: file.length):
        row, found.count = found.count, found.count + 1
        if isinstance(header, checks.InputError):
            found.damaged[row] = str(header)
            continue
        if found.size is None:
            found.size, first = (header.height, header.width), file.name
        if size is None and (header.height, header.width) != found.size:
            raise checks.InputError(
                "images must all be of one size, or be scaled to one size. "
                f"Received: {first} of {found.size[0]} x {found.size[1]} and {file.name} of "
                f"{header.height} x {header.width}. Pass --image-size, such as --image-size 64."
            )
        found.colours += header.colour
        found.transparent += header.transparent
        found.scaled += (header.height, header.width) != size
    return found


def _decoded(
    source: FileSource,
    size: tuple[int, int],
    colour: bool,
    damaged: dict[int, str],
    skip_damaged: bool,
) -> Iterator[np.ndarray]:
    shape = (*size, 3 if colour else 1)
    nothing = np.zeros(shape, np.uint8)

    def read(numbered: tuple[int, ImageFile]) -> np.ndarray | checks.InputError:
        row, file = numbered
        if row in damaged:
            return nothing
        return _unless_damaged(lambda: image_file.decode(file, size, colour), skip_damaged)

    block = []
    for (row, _), pixels in _in_order(read, enumerate(source.files()), lambda it: it[1].length):
        if isinstance(pixels, checks.InputError):
            damaged[row] = str(pixels)
            pixels = nothing
        block.append(pixels)
        if len(block) == _BLOCK:
            yield np.stack(block)
            block = []
    if block:
        yield np.stack(block)


def _unless_damaged(act: Callable[[], _R], skip_damaged: bool) -> _R | checks.InputError:
    try:
        return act()
    except checks.InputError as error:
        if not skip_damaged:
            raise
        return error


def _in_order(
    function: Callable[[_T], _R], items: Iterable[_T], length: Callable[[_T], int]
) -> Iterator[tuple[_T, _R]]:
    """Applies a function in threads, one for each core, and yields the results in order.

    The items that wait are limited in number and in bytes. One for each core may wait in any case.
    """
    threads, held = os.cpu_count() or 1, 0
    pool = ThreadPoolExecutor(threads)
    waiting: deque[tuple[_T, Future[Any]]] = deque()
    try:
        for item in items:
            waiting.append((item, pool.submit(function, item)))
            held += length(item)
            while len(waiting) >= _WAITING * threads or (
                held > _WAITING_BYTES and len(waiting) > threads
            ):
                done, future = waiting.popleft()
                held -= length(done)
                yield done, future.result()
        while waiting:
            done, future = waiting.popleft()
            yield done, future.result()
    finally:
        pool.shutdown(cancel_futures=True)


def _scaled(size: tuple[int, int] | None) -> str:
    assert size is not None
    return f"Scaled to {size[0]} x {size[1]} and cropped around the middle."
