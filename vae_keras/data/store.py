"""Decoded images: rows of bytes in memory or in a file, with a hash of each."""

from __future__ import annotations

import hashlib
import math
import sys
import time
from collections.abc import Callable, Iterator
from typing import IO, Any, NamedTuple

import numpy as np

from vae_keras.data.decoding import Pictures

_EVERY = 10.0  # seconds from one line of progress to the next where no terminal shows it


class Stored(NamedTuple):
    """Decoded images in the order of their source.

    Attributes:
        pixels: uint8 [M, H, W, C], an array or a memory map, also with rows for damaged images.
        rows: rows of `pixels` that hold images, int64 [N].
        digests: a hash of the pixels of each image, uint64 [N].
        damaged: why an image is left out, under its row.
        notes: lines for the user.
    """

    pixels: np.ndarray
    rows: np.ndarray
    digests: np.ndarray
    damaged: dict[int, str]
    notes: list[str]


def in_memory(pictures: Pictures) -> Stored:
    """Decodes all images into one array.

    Args:
        pictures: what is known of the source.

    Returns:
        `Stored`. Images that are grey although their files have colours have one channel.
    """
    pixels = np.empty((pictures.count, *pictures.shape), np.uint8)
    start, is_grey = 0, True
    for block in pictures.blocks():
        pixels[start : start + len(block)] = block
        start += len(block)
        is_grey = is_grey and grey(block)
    notes = list(pictures.notes)
    if pictures.shape[-1] == 3 and is_grey:
        pixels = np.ascontiguousarray(pixels[..., :1])
        notes = _grey_notes(notes)
    rows = np.delete(np.arange(pictures.count), sorted(pictures.damaged))
    return Stored(pixels, rows, digests(pixels)[rows], pictures.damaged, notes)


def into_file(pictures: Pictures, file: IO[bytes], show: Callable[[int], None]) -> Stored:
    """Decodes all images into a file, one row of bytes after the other.

    Args:
        pictures: what is known of the source.
        file: a file that can be written and read. It holds only the rows at the end.
        show: called with the number of images after each block.

    Returns:
        `Stored`, whose `pixels` is an empty array of the right shape.

    Raises:
        OSError: if the disk is full.
    """
    done, is_grey, hashes = 0, True, []
    for block in pictures.blocks():
        file.write(np.ascontiguousarray(block).data)
        done += len(block)
        is_grey = is_grey and grey(block)
        hashes.append(digests(block))
        show(done)
    shape, notes = pictures.shape, list(pictures.notes)
    if shape[-1] == 3 and is_grey:
        hashes = list(_drop_colours(file, shape, done))
        shape, notes = (*shape[:2], 1), _grey_notes(notes)
    rows = np.delete(np.arange(done), sorted(pictures.damaged))
    nothing = np.empty((0, *shape), np.uint8)
    return Stored(nothing, rows, np.concatenate(hashes)[rows], pictures.damaged, notes)


def digests(images: np.ndarray) -> np.ndarray:
    """Returns a hash of the pixels of each image, uint64 [N].

    Example:
        >>> bool(np.equal(*digests(np.zeros((2, 4, 4, 1), np.uint8))))
        True
    """
    found = b"".join(
        hashlib.blake2b(np.ascontiguousarray(image).data, digest_size=8).digest()
        for image in images
    )
    return np.frombuffer(found, np.uint64)


def grey(images: np.ndarray) -> bool:
    """Returns whether all channels of all images are equal."""
    return bool((images == images[..., :1]).all())


class Progress:
    """Shows how many images are decoded, and how long the others will take.

    Args:
        count: number of all images.
        say: prints a line.
    """

    def __init__(self, count: int, say: Callable[[str], None]) -> None:
        self._count, self._say = count, say
        self._started = self._shown = time.monotonic()
        self._live = say is print and sys.stdout.isatty()

    def __call__(self, done: int) -> None:
        now, is_last = time.monotonic(), done == self._count
        if now - self._shown < (0.2 if self._live else _EVERY) and not (is_last and self._live):
            return
        self._shown = now
        left = (now - self._started) / max(done, 1) * (self._count - done)
        text = f"{done:,} of {self._count:,} images decoded, {_duration(left)} left"
        if self._live:
            filled = 30 * done // self._count
            end = "\n" if is_last else "\r"
            print(f"[{'=' * filled:30}] {text}   ", end=end, flush=True)
        else:
            self._say(text)


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    return f"{seconds:.0f} s" if seconds < 90 else f"{minutes // 60} h {minutes % 60:02d} min"


def _drop_colours(file: IO[bytes], shape: tuple[int, int, int], count: int) -> Iterator[np.ndarray]:
    """Keeps the first channel of each image in a file. It yields the hashes of the images."""
    size = math.prod(shape)
    rows = max(1, (1 << 24) // size)
    for start in range(0, count, rows):
        held = min(rows, count - start)
        file.seek(start * size)
        block: Any = np.frombuffer(file.read(held * size), np.uint8).reshape(held, *shape)
        block = np.ascontiguousarray(block[..., :1])
        file.seek(start * size // 3)
        file.write(block.data)
        yield digests(block)
    file.truncate(count * size // 3)


def _grey_notes(notes: list[str]) -> list[str]:
    kept = [note for note in notes if not note.startswith("Grey images that were read as colour")]
    return [*kept, "All images are stored in colour but are grey, so they were read as grey."]
