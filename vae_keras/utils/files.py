"""Atomic writing of files, and their hashes."""

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

WRITING = ".writing-"
"""How the names of temporary files begin."""


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[IO[bytes]]:
    """Opens a temporary file that replaces `path` when the `with` block ends without an error.

    Other processes see either the old file or the complete new one, even after a crash.

    Args:
        path: path of the finished file. Its folder is created if it is missing.

    Yields:
        A binary file to write to.

    Raises:
        OSError: if the file system refuses. `path` is then unchanged.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with atomic_write(f"{folder}/numbers.csv") as file:
        ...         _ = file.write(b"1,2")
        ...     Path(folder, "numbers.csv").read_text()
        '1,2'
    """
    with staged(path) as name:
        # mkstemp would set the mode 0600, which a server could not read. This mode obeys the umask.
        descriptor = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        with os.fdopen(descriptor, "wb") as file:
            yield file


@contextlib.contextmanager
def staged(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yields a temporary name for a library that writes the file itself.

    The file of that name replaces `path` when the `with` block ends without an error.

    Args:
        path: path of the finished file. Its folder is created if it is missing.

    Yields:
        A path in the same folder with the same suffix.

    Raises:
        OSError: if the file system refuses. `path` is then unchanged.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with staged(f"{folder}/numbers.csv") as name:
        ...         _ = name.write_text("1,2")
        ...     Path(folder, "numbers.csv").read_text()
        '1,2'
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
        # An error of another file that was written inside of this block keeps that file's name.
        # An error without a number has a message only, which a name would replace.
        if isinstance(error, OSError) and error.errno and error.filename in (None, os.fspath(name)):
            error.filename, error.filename2 = os.fspath(path), None  # the name that the user gave
        raise
    sync_folder(path.parent)


def temporary_name(path: Path) -> Path:
    """Returns a hidden name in the same folder as `path`, which `sweep` recognises.

    A name has at most 255 bytes, so the temporary one has only the end of a long name.
    """
    end = os.fsencode(path.name)[-200:].decode(errors="ignore")
    return path.with_name(f"{WRITING}{secrets.token_hex(8)}-{end}")


def remove_tree(path: Path) -> None:
    """Removes a folder with what it holds, or a link to one. A missing path is no error."""
    if path.is_symlink():
        path.unlink()
    elif path.exists():
        shutil.rmtree(path)


def sweep(folder: str | os.PathLike[str]) -> None:
    """Removes the temporary files that killed writers left in a folder and its sub-folders."""
    for kind in (f"{WRITING}*", ".retired-*"):
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
    """Writes `value` as indented JSON through `atomic_write`. Raises ValueError for NaN."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def sha256(path: str | os.PathLike[str]) -> str:
    """Returns the SHA-256 of a file as 64 hexadecimal digits."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


def sync_folder(folder: str | os.PathLike[str]) -> None:
    """Flushes a folder, so that a rename in it survives a power cut, if the platform can."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
