"""The cache of decoded images: one file of rows for each source, which is mapped into memory.

A cache is a folder with `cache.json`, which names a file of pixels and a file with the catalogue.
It is written last and replaced as a whole: a reader sees the old cache, the new one, or no cache.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import math
import os
import secrets
import shutil
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from vae_keras.data import store
from vae_keras.data.catalogue import Catalogue
from vae_keras.data.datasets import default_cache_dir
from vae_keras.data.decoding import Pictures
from vae_keras.data.store import Stored
from vae_keras.utils import checks, files

try:
    import fcntl
except ImportError:  # not on Windows, where two processes make the cache twice
    fcntl = None  # type: ignore[assignment]

_VERSION = 1  # of the layout and of the rules of decoding
_HASHED = 2**26  # bytes of pixels under one hash
_META = "cache.json"
_MOVE = "Set XDG_CACHE_HOME to a folder on another disk, or free some space"


class Entry(NamedTuple):
    """A cache on the disk.

    Attributes:
        folder: its folder.
        source: path of the images that it was made from.
        num_images: number of images.
        shape: (H, W, C).
        size: bytes on the disk.
    """

    folder: Path
    source: str
    num_images: int
    shape: tuple[int, ...]
    size: int


class Key(NamedTuple):
    """What a cache is of.

    Attributes:
        source: absolute path of the images.
        size: (H, W) that they are scaled to, or None.
        stamp: hash of the names, sizes and times of the source's files.
    """

    source: Path
    size: tuple[int, int] | None
    stamp: str

    @property
    def folder(self) -> Path:
        """The folder of the cache."""
        text = f"{_VERSION}\n{self.source}\n{self.size}"
        digest = hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()
        name = "".join(c if c.isalnum() or c in "-_" else "-" for c in self.source.name[:40])
        return root() / f"{name}-{digest[:12]}"


def root() -> Path:
    """Returns the folder of all caches of images."""
    return default_cache_dir() / "images"


def find(key: Key, say: Callable[[str], None]) -> tuple[Catalogue, Stored] | None:
    """Opens the cache of some images, after a comparison of its hashes.

    Args:
        key: what the cache is of.
        say: prints a line, for instance that a cache is damaged.

    Returns:
        The catalogue of all images and what is stored of them, or None if there is no usable
        cache.
    """
    for known in dict.fromkeys((key.size, None)):
        # Images that were not scaled may be what a run of their own size asks for.
        folder = key._replace(size=known).folder
        try:
            meta = json.loads((folder / _META).read_text("utf-8"))
            if meta.pop("sha256") != _hash(meta):
                raise ValueError(f"{_META} has another hash")
            if known != key.size and tuple(meta["shape"][:2]) != key.size:
                continue
            if meta["stamp"] != key.stamp:
                say(f"{key.source.name} has changed since its cache was made.")
                continue
            return _open(folder, meta)
        except FileNotFoundError:
            continue
        except (OSError, ValueError, KeyError, TypeError) as error:
            say(f"The cache {folder} is damaged ({str(error) or type(error).__name__}).")
    return None


def make(
    key: Key,
    catalogue: Catalogue,
    pictures: Pictures,
    say: Callable[[str], None],
) -> tuple[Catalogue, Stored]:
    """Makes the cache of some images, or waits until another process has made it.

    Args:
        key: what the cache is of.
        catalogue: the catalogue of all images.
        pictures: decodes them.
        say: prints a line.

    Returns:
        As `find`.

    Raises:
        checks.InputError: if the disk is full or not writable, or if the user does not agree to
            fill more than half of it.
    """
    folder = key.folder
    needed = pictures.count * math.prod(pictures.shape)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _alone(folder, lambda: say(f"Waiting for the process that makes {folder}.")):
            found = find(key, lambda _: None)  # another process may have made it
            if found is not None:
                return found
            files.sweep(folder)
            _agree(folder, needed)
            say(f"Decoding {pictures.count:,} images into {folder} ({needed / 1e6:,.0f} MB).")
            meta = _write(key, catalogue, pictures, say)
            _remove_others(folder, meta)
            return _open(folder, meta, is_new=True)
    except OSError as error:
        raise checks.InputError(
            f"the cache of decoded images must be writable, with {needed:,} bytes of space. "
            f"Received: {folder} ({error.strerror or error}). {_MOVE}."
        ) from error


def entries() -> Iterator[Entry]:
    """Yields the caches on the disk, sorted by name, with those that are not finished."""
    for folder in sorted(path for path in root().glob("*") if path.is_dir()):
        size = sum(file.stat().st_size for file in folder.iterdir() if file.is_file())
        try:
            meta = json.loads((folder / _META).read_text("utf-8"))
            facts = str(meta["source"]), int(meta["count"]), tuple(meta["shape"])
        except FileNotFoundError:  # a process is making it, or was killed
            facts = "not finished", 0, ()
        except (OSError, ValueError, KeyError, TypeError):
            facts = "damaged", 0, ()
        yield Entry(folder, *facts, size)


def remove(entry: Entry) -> None:
    """Removes a cache. A process that reads it keeps what it has mapped.

    Raises:
        checks.InputError: if another process is making the cache, or if it cannot be removed.
    """

    def refuse() -> None:
        raise checks.InputError(
            "a cache is removed while no process makes it. "
            f"Received: {entry.folder}, which another process is making. Wait for its end."
        )

    try:
        with _alone(entry.folder, refuse):
            (entry.folder / _META).unlink(missing_ok=True)
            files.remove_tree(entry.folder)
    except OSError as error:
        raise checks.InputError(
            f"a cache must be writable to be removed. Received: {entry.folder} "
            f"({error.strerror or error}). Change its permissions."
        ) from error


# ------------------------------------------------------------------------------ the files


def _write(
    key: Key, catalogue: Catalogue, pictures: Pictures, say: Callable[[str], None]
) -> dict[str, Any]:
    """Writes the files of a cache and returns the content of `cache.json`."""
    folder, number = key.folder, secrets.token_hex(4)
    pixels, lists = f"pixels-{number}.u8", f"catalogue-{number}.npz"
    progress = store.Progress(pictures.count, say)
    try:
        with files.staged(folder / pixels) as name, open(name, "x+b") as file:
            stored = store.into_file(pictures, file, progress)
        mapped = np.memmap(folder / pixels, np.uint8, mode="r")
        with files.atomic_write(folder / lists) as file:
            np.savez(file, **_arrays(catalogue, stored))
        meta = {
            "version": _VERSION,
            "source": os.fspath(key.source).encode(errors="replace").decode(),
            "stamp": key.stamp,
            "count": len(stored.rows),
            "shape": list(stored.pixels.shape[1:]),
            "pixels": pixels,
            "pixels_sha256": _hashes(mapped),
            "catalogue": lists,
            "catalogue_sha256": files.sha256(folder / lists),
            "damaged": {str(row): text for row, text in stored.damaged.items()},
            "notes": stored.notes,
        }
        files.write_json(folder / _META, meta | {"sha256": _hash(meta)})
    except BaseException:
        for written in (pixels, lists):
            with contextlib.suppress(OSError):
                os.unlink(folder / written)
        raise
    return meta


def _open(folder: Path, meta: dict[str, Any], is_new: bool = False) -> tuple[Catalogue, Stored]:
    """Maps the pixels of a cache into memory. The hashes of a new one need no comparison.

    Raises:
        ValueError: if a file is not what was written.
    """
    shape = tuple(meta["shape"])
    lists = (folder / meta["catalogue"]).read_bytes()
    if hashlib.sha256(lists).hexdigest() != meta["catalogue_sha256"]:
        raise ValueError(f"{meta['catalogue']} has another hash")
    with np.load(io.BytesIO(lists), allow_pickle=False) as arrays:
        held = {name: arrays[name] for name in arrays.files}
    pixels = np.memmap(folder / meta["pixels"], np.uint8, mode="r")
    if not is_new and _hashes(pixels) != meta["pixels_sha256"]:
        raise ValueError(f"{meta['pixels']} has another hash")
    text = held["names"].tobytes().decode("utf-8", "surrogateescape")
    catalogue = Catalogue(text.split("\n") if text else (), held["parts"], held.get("labels"))
    damaged = {int(row): reason for row, reason in meta["damaged"].items()}
    rows = pixels.reshape(-1, *shape)
    return catalogue, Stored(rows, held["rows"], held["digests"], damaged, meta["notes"])


def _arrays(catalogue: Catalogue, stored: Stored) -> dict[str, Any]:
    names = "\n".join(catalogue.names).encode("utf-8", "surrogateescape")
    arrays = {
        "names": np.frombuffer(names, np.uint8),
        "parts": catalogue.parts,
        "rows": stored.rows,
        "digests": stored.digests,
    }
    return arrays if catalogue.labels is None else arrays | {"labels": catalogue.labels}


def _hash(meta: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(meta, sort_keys=True).encode()).hexdigest()


def _hashes(pixels: np.ndarray) -> list[str]:
    """Returns the SHA-256 of each part of the pixels, computed on all cores."""
    starts = range(0, len(pixels), _HASHED)
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        return list(
            pool.map(
                lambda start: hashlib.sha256(pixels[start : start + _HASHED].data).hexdigest(),
                starts,
            )
        )


def _remove_others(folder: Path, meta: dict[str, Any]) -> None:
    """Removes the files of the cache that was there before."""
    kept = (meta["pixels"], meta["catalogue"])
    for path in [*folder.glob("pixels-*"), *folder.glob("catalogue-*")]:
        if path.name not in kept:
            path.unlink(missing_ok=True)


# ------------------------------------------------------------------- other processes, and the user


@contextlib.contextmanager
def _alone(folder: Path, say_waiting: Callable[[], None]) -> Iterator[None]:
    """Lets one process at a time make a cache.

    The system frees the lock when its process ends, however it ends.
    """
    with open(folder / "lock", "ab") as file:
        if fcntl is not None:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                say_waiting()
                fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _agree(folder: Path, needed: int) -> None:
    """Refuses a cache that does not fit on the disk, and asks before it takes over half of it."""
    free = shutil.disk_usage(folder).free
    facts = f"{needed:,} bytes of {free:,} that are free in {folder}"
    if needed > free:
        raise checks.InputError(
            f"the cache of decoded images must fit on its disk. Received: {facts}. {_MOVE}."
        )
    if 2 * needed <= free:
        return
    if sys.stdin is not None and sys.stdin.isatty():
        answer = input(f"The cache of decoded images will take {facts}. Go on? [y/N] ")
        if answer.strip().lower() in ("y", "yes"):
            return
        remedy = f"Answer y to go on, or {_MOVE[0].lower()}{_MOVE[1:]}"
    else:
        remedy = f"{_MOVE}, or start the command in a terminal and agree"
    raise checks.InputError(
        "the cache of decoded images may take half of the free disk, and more if you agree. "
        f"Received: {facts}. {remedy}."
    )
