"""Files that are written whole or not at all, and their hashes."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[IO[bytes]]:
    """Opens a temporary neighbour of `path` that takes its place only when all went well.

    Readers, and a process that starts after a crash, see the old file or the whole new one.

    Args:
        path: where the finished file goes. Its folder is made when missing.

    Yields:
        A binary file to write to.

    Raises:
        OSError: if the file system refuses; `path` is then what it was before.

    Example:
        >>> with atomic_write("numbers.csv") as file:
        ...     file.write(b"1,2\\n")
    """
    with staged(path) as name:
        # Not mkstemp: its 0600 would hide the file from a server. 0o666 less the umask, as open.
        descriptor = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        with os.fdopen(descriptor, "wb") as file:
            yield file


@contextlib.contextmanager
def staged(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Names a temporary neighbour of `path`, for libraries that write a file by its name.

    What they wrote takes the place of `path` only when all went well.

    Args:
        path: where the finished file goes. Its folder is made when missing.

    Yields:
        The neighbour's path, which ends as `path` does.

    Raises:
        OSError: if the file system refuses; `path` is then what it was before.

    Example:
        >>> with staged("model.keras") as name:
        ...     model.save(name)
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    name = temporary_name(path)
    try:
        yield name
        with open(name, "r+b") as file:
            os.fsync(file.fileno())
        os.replace(name, path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            os.unlink(name)
        if isinstance(error, OSError):
            error.filename, error.filename2 = os.fspath(path), None  # the name that people know
        raise
    sync_folder(path.parent)


def temporary_name(path: Path) -> Path:
    """Returns a name beside `path` that no reader looks for, and that `sweep` knows."""
    return path.with_name(f".writing-{secrets.token_hex(8)}-{path.name}")


def sweep(folder: str | os.PathLike[str]) -> None:
    """Removes what writers that were killed left in a folder and below it."""
    for kind in (".writing-*", ".retired-*"):
        for path in list(Path(folder).rglob(kind)):
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)


def copy(source: str | os.PathLike[str], path: str | os.PathLike[str]) -> None:
    """Copies a file through `atomic_write`."""
    with open(source, "rb") as original, atomic_write(path) as file:
        shutil.copyfileobj(original, file)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Writes `text` as UTF-8 through `atomic_write`."""
    with atomic_write(path) as file:
        file.write(text.encode())


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Writes `value` as indented JSON through `atomic_write`; NaN is refused."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def sha256(path: str | os.PathLike[str]) -> str:
    """Returns the SHA-256 of a file's bytes as 64 hexadecimal digits."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


def sync_folder(folder: str | os.PathLike[str]) -> None:
    """Makes a rename in `folder` survive a power cut, where the platform can."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
