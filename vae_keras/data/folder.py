"""A folder of image files, with sub-folders and links."""

from __future__ import annotations

import functools
import hashlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from vae_keras.data import catalogue
from vae_keras.data.image_file import SUFFIXES, ImageFile

_FOREIGN = ("__MACOSX",)  # folders that archives of a Mac hold beside the images


class Folder:
    """The image files below a folder, sorted by name. Links to files and folders are followed.

    Args:
        root: the folder.

    Attributes:
        names: path of each image relative to the folder, with "/" between the parts.
        tables: paths of TFRecord files, relative to the folder.
        notes: lines for the user on what was passed over.

    Raises:
        checks.InputError: for a name that cannot be printed.
        OSError: for a folder that cannot be listed.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.names: list[str] = []
        self.tables: list[str] = []
        self.notes: list[str] = []
        self._folders: list[str] = []
        self._list()
        self.names.sort()
        self.tables.sort()

    def stamp(self) -> str:
        """Returns a hash of the names, sizes and times of all image files."""
        digest = hashlib.sha256()
        for name in self.names:
            try:
                found = os.stat(self.root / name)
                facts = f"{found.st_size} {found.st_mtime_ns}"
            except OSError as error:  # a link that leads nowhere; its image is refused later
                facts = str(error.errno)
            digest.update(f"{name}\n{facts}\n".encode())
        return digest.hexdigest()

    def catalogue(self) -> catalogue.Catalogue:
        """Returns the names, parts and labels of the images."""
        return catalogue.from_names(self.names, os.fspath(self.root), self._folders)

    def files(self) -> Iterator[ImageFile]:
        """Yields the image files in the order of `names`."""
        for name in self.names:
            path = self.root / name
            try:
                length = os.stat(path).st_size
            except OSError:  # opening it says why
                length = 0
            yield ImageFile(os.fspath(path), length, functools.partial(_open, path))

    def _list(self) -> None:
        others = hidden = loops = 0
        waiting: list[tuple[Path, str, frozenset[Path]]] = [(self.root, "", frozenset())]
        while waiting:
            folder, prefix, above = waiting.pop()
            real = folder.resolve()
            if real in above:
                loops += 1
                continue
            with os.scandir(folder) as entries:
                names = [entry.name for entry in entries]
            for name in names:
                path, below = folder / name, prefix + name
                if name.startswith("."):
                    hidden += 1
                elif path.is_dir():
                    if name in _FOREIGN:
                        hidden += 1
                        continue
                    self._folders.append(below)
                    waiting.append((path, f"{below}/", above | {real}))
                elif name.lower().endswith(SUFFIXES):
                    catalogue.check_name(below)
                    self.names.append(below)
                else:
                    if ".tfrecord" in name.lower():
                        self.tables.append(below)
                    others += 1
        counts = ((others, "other"), (hidden, "hidden"))
        if passed := [f"{count:,} {kind}" for count, kind in counts if count]:
            self.notes.append(f"Files and folders passed over: {' and '.join(passed)}.")
        if loops:
            self.notes.append(f"Links that lead back to a folder above them, not followed: {loops}")


def _open(path: Path) -> IO[bytes]:
    # Opening a pipe would wait for its other end.
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise OSError("it is not a regular file")
    return open(path, "rb")
