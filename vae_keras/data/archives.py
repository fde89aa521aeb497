"""A .zip or .tar archive of image files, which are read in place."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import io
import os
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

from vae_keras.data import catalogue, image_file
from vae_keras.data.image_file import ImageFile
from vae_keras.utils import checks

ZIPS = (".zip",)
TARS = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")


class Archive:
    """The image files of an archive. Nothing is unpacked to the disk.

    Args:
        path: the archive.

    Attributes:
        names: path of each image in the archive, without a top folder that all share.
        notes: lines for the user on what was passed over.

    Raises:
        checks.InputError: for a damaged archive, and for names that leave it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.notes: list[str] = []
        self._is_zip = path.name.lower().endswith(ZIPS)
        with self._reading():
            full = [name for name, _ in self._each(contents=False)]
        top = 0
        firsts = {name.split("/")[0] if "/" in name else "" for name in full}
        if len(firsts) == 1 and firsts != {""} and catalogue.part_of(*firsts) is None:
            top = len(next(iter(firsts))) + 1
        self.names = [name[top:] for name in full]

    def stamp(self) -> str:
        """Returns a hash of the archive's size and time."""
        found = os.stat(self.path)
        return hashlib.sha256(f"{found.st_size} {found.st_mtime_ns}".encode()).hexdigest()

    def catalogue(self) -> catalogue.Catalogue:
        """Returns the names, parts and labels of the images."""
        return catalogue.from_names(self.names, os.fspath(self.path))

    def files(self) -> Iterator[ImageFile]:
        """Yields the image files in the order of `names`."""
        with self._reading():
            for _, file in self._each(contents=True):
                yield file

    def _each(self, contents: bool) -> Iterator[tuple[str, ImageFile]]:
        """Yields the name and the file of every image."""
        found = self._zip_members() if self._is_zip else self._tar_members(contents)
        others = hidden = 0
        for member_name, file in found:
            parts = member_name.split("/")
            if member_name.startswith("/") or ".." in parts or "\\" in member_name:
                raise checks.InputError(
                    "the members of an archive must lie inside of it. "
                    f"Received: {member_name!a} in {self.path}. Pack the folder again."
                )
            if file is None or not parts[-1].lower().endswith(image_file.SUFFIXES):
                others += 1
            elif any(part.startswith(".") or part == "__MACOSX" for part in parts):
                hidden += 1
            else:
                catalogue.check_name(member_name)
                yield member_name, file
        counts = ((others, "other"), (hidden, "hidden"))
        if passed := [f"{count:,} {kind}" for count, kind in counts if count]:
            self.notes = [f"Members passed over: {' and '.join(passed)}."]

    def _zip_members(self) -> Iterator[tuple[str, ImageFile | None]]:
        archive = zipfile.ZipFile(self.path)  # reading in several threads is safe
        for member in sorted(archive.infolist(), key=lambda member: member.filename):
            if member.is_dir():
                continue
            if member.flag_bits & 1:
                raise ValueError(f"{member.filename} is encrypted")
            opened = functools.partial(archive.open, member)
            name = f"{member.filename} in {self.path}"
            yield member.filename, ImageFile(name, member.file_size, opened)

    def _tar_members(self, contents: bool) -> Iterator[tuple[str, ImageFile | None]]:
        # A stream is read once from its beginning to its end, whatever its compression.
        with tarfile.open(self.path, "r|*") as archive:
            end = 0
            for member in archive:
                end = member.offset_data + member.size
                if member.isdir():
                    continue
                name = member.name.removeprefix("./")
                if not member.isreg():
                    yield name, None
                    continue
                content = b""
                if contents and member.size <= image_file.MAX_FILE_BYTES:
                    stream = archive.extractfile(member)
                    content = stream.read() if stream is not None else b""
                    if len(content) < member.size:
                        raise ValueError(f"it ends within {name}")
                opened = functools.partial(io.BytesIO, content)
                yield name, ImageFile(f"{name} in {self.path}", member.size, opened)
        if self.path.suffix.lower() == ".tar":  # tarfile takes a cut header for the end
            with open(self.path, "rb") as file:
                file.seek(-(-end // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE)
                if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
                    raise ValueError("it ends without an empty block")

    def _reading(self) -> contextlib.AbstractContextManager[None]:
        return checks.reading("an archive of images must be whole", self.path, "Pack it again.")
