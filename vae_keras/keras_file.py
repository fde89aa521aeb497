"""`.keras` files of strangers: data until proven otherwise, read within limits, never run."""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras

from vae_keras import checks

MEMBERS = ("metadata.json", "config.json", "model.weights.h5")
LARGEST = 4 << 30  # bytes of a member, unpacked: a thousand times the zoo's models
_LARGEST_TEXT = 16 << 20
_PACKAGES = ("keras", "vae_keras", "builtins")  # builtins: how Keras names its own functions
# What Keras itself could load and what runs, or unpacks, somebody else's program.
_PROGRAMS = ("Lambda", "__lambda__", "TFSMLayer", "TorchModuleWrapper", "JaxLayer", "FlaxLayer")


def load(path: str | os.PathLike[str]) -> keras.Model:
    """Loads a model out of a `.keras` file in safe mode, after a look at what it names.

    The file may name classes of Keras and of this package, no others: none is imported for it.

    Args:
        path: the file.

    Returns:
        The model, compiled if it was saved so.

    Raises:
        checks.InputError: for a file that is none, is damaged, is too large unpacked, or names
            what could run code.
    """
    path = Path(path)
    if path.suffix != ".keras" or not path.is_file():
        raise checks.InputError(
            f"a model comes as a .keras file. Received: {path}. Train one: python train.py"
        )
    try:
        with zipfile.ZipFile(path) as archive:
            _require_limits(archive, path)
            config = json.loads(archive.read("config.json"))
        _require_known(config, path)
        return keras.saving.load_model(path, safe_mode=True)
    except checks.InputError:
        raise
    except Exception as error:  # a damaged archive fails in many ways
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise checks.InputError(
            f"a .keras file must be sound. Received: {path} ({reason}). Save or copy it again."
        ) from error


def _require_limits(archive: zipfile.ZipFile, path: Path) -> None:
    members = {info.filename: info.file_size for info in archive.infolist()}
    strange = sorted(set(members) - set(MEMBERS))
    if strange or len(members) != len(archive.infolist()):
        raise checks.InputError(
            f"a .keras file holds {', '.join(MEMBERS)}, each once. "
            f"Received: {path} with {strange[0] if strange else 'one of them twice'!r}. Refused."
        )
    for name, size in members.items():
        largest = LARGEST if name.endswith(".h5") else _LARGEST_TEXT
        if size > largest:
            raise checks.InputError(
                f"a .keras file's {name} may unpack to {largest} bytes. "
                f"Received: {size} in {path}. Refused."
            )


def _require_known(config: Any, path: Path) -> None:
    for module, name in _named(config):
        if module is not None and module.split(".")[0] not in _PACKAGES:
            found = f"{module}.{name}"
        elif name in _PROGRAMS or "." in name:  # Keras would find layers.Lambda in keras
            found = name
        else:
            continue
        raise checks.InputError(
            "a .keras file may name layers of Keras and of vae_keras that run no code of their "
            f"own. Received: {found} in {path}. Load a model of your own classes from Python, "
            "with keras.saving.load_model."
        )


def _named(config: Any) -> Iterator[tuple[str | None, str]]:
    """The module and the name of every object in a configuration, however deep."""
    if isinstance(config, dict):
        if "class_name" in config:
            module, name = config.get("module"), config["class_name"]
            if name == "function":
                name = config.get("config")
            yield None if module is None else str(module), str(name)
        for value in config.values():
            yield from _named(value)
    elif isinstance(config, list):
        for value in config:
            yield from _named(value)
