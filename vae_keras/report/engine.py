"""Finds the engine that runs a model in the browser: two files of ONNX Runtime Web."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path
from typing import NamedTuple

from vae_keras.data.datasets import default_cache_dir
from vae_keras.utils import checks, files

PACKAGE, VERSION = "onnxruntime-web", "1.30.0"
_SHA256 = {  # the files of the WASM build, which needs no GPU and no second thread
    "ort.wasm.bundle.min.mjs": "11e64bd8ffe11bd1a2a2f0d6275fdfbbba7262f0b76b99b53d228a8a22ef3d90",
    "ort-wasm-simd-threaded.wasm": (
        "3398c10d07d229bd91b364548e130e0e51a8e5704b88c7c083ebbeb78842dee2"
    ),
}
_INSTALL = f"npm install {PACKAGE}@{VERSION}"
_TIMEOUT = 300  # seconds for npm to fetch 33 MB


class Engine(NamedTuple):
    """The files of the engine.

    Attributes:
        script: a JavaScript module.
        wasm: the WebAssembly module that the script runs.
    """

    script: bytes
    wasm: bytes


def find(folder: str | os.PathLike[str] | None = None) -> Engine:
    """Returns the engine from a folder, from the cache, or from npm.

    npm fetches the package from the registry that it is set up for. The files are kept beside the
    data sets, in `default_cache_dir()`. Files with another SHA-256 are never used.

    Args:
        folder: an installed or unpacked npm package, or its folder `dist`. Default: the cache, and
            npm if the cache is empty.

    Returns:
        `Engine`.

    Raises:
        checks.InputError: if the files are not there and npm cannot fetch them, or if they are of
            another version.
        OSError: if the cache cannot be written.

    Example:
        >>> script, wasm = find("node_modules/onnxruntime-web")  # doctest: +SKIP
    """
    if folder is not None:
        folder = Path(folder)
        dist = folder / "dist" if (folder / "dist").is_dir() else folder
        found = _read(dist)
        if found is None:
            raise checks.InputError(
                f"--engine must be a folder of {PACKAGE} {VERSION}. Received: {folder}, which "
                f"lacks its files or holds another version. Run: {_INSTALL}"
            )
        return found
    cache = default_cache_dir() / f"{PACKAGE}-{VERSION}"
    found = _read(cache)
    if found is None:
        _fetch(cache)
        found = _read(cache)
    if found is None:
        raise checks.InputError(
            f"the files of {PACKAGE} {VERSION} must have the known SHA-256. Received: files "
            f"with another one from npm. {_other_way()}"
        )
    return found


def _read(folder: Path) -> Engine | None:
    """Returns the engine if the folder holds both files and their hashes are known."""
    try:
        contents = [(folder / name).read_bytes() for name in _SHA256]
    except OSError:
        return None
    hashes = [hashlib.sha256(content).hexdigest() for content in contents]
    return Engine(*contents) if hashes == list(_SHA256.values()) else None


def _fetch(target: Path) -> None:
    """Writes the files of the package that npm downloads to a folder."""
    npm = shutil.which("npm")
    if npm is None:
        raise _missing("no npm to fetch it with")
    with tempfile.TemporaryDirectory() as folder:
        command = [npm, "pack", f"{PACKAGE}@{VERSION}", "--silent", "--pack-destination", folder]
        try:
            subprocess.run(command, check=True, capture_output=True, timeout=_TIMEOUT, cwd=folder)
            (package,) = Path(folder).glob("*.tgz")
            with tarfile.open(package) as archive:
                for name in _SHA256:
                    member = archive.extractfile(f"package/dist/{name}")
                    if member is None:
                        raise KeyError(name)
                    with member, files.atomic_write(target / name) as file:
                        shutil.copyfileobj(member, file)
        except (subprocess.SubprocessError, ValueError, KeyError, tarfile.TarError) as error:
            raise _missing("an npm that could not fetch it") from error


def _missing(received: str) -> checks.InputError:
    return checks.InputError(
        f"the explorer needs {PACKAGE} {VERSION}, which runs the model in the browser. "
        f"Received: {received}. {_other_way()}"
    )


def _other_way() -> str:
    return f"Run `{_INSTALL}` where a network is, and pass --engine node_modules/{PACKAGE}."
