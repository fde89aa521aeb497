"""Safe reading of Keras' model files, which may come from somebody else and name code to run."""

from __future__ import annotations

import json
import os
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import keras

from vae_keras.utils import checks

MEMBERS = ("metadata.json", "config.json", "model.weights.h5")
LARGEST = 4 << 30
"""Largest unpacked size of the weights in bytes, about a thousand times the presets' size."""

_LARGEST_TEXT = 16 << 20
_PACKAGES = ("keras", "vae_keras", "builtins")  # Keras writes its own functions as "builtins"
# Classes of Keras that run, or unpickle, a program which comes with the file.
_PROGRAMS = ("Lambda", "__lambda__", "TFSMLayer", "TorchModuleWrapper", "JaxLayer", "FlaxLayer")


def load(path: str | os.PathLike[str]) -> keras.Model:
    """Loads a model from a `.keras` file in safe mode, after a check of all classes it names.

    The file may name classes of Keras and of this package only. No other module is imported.

    Args:
        path: the file, or a folder with the members of such a file, as a repository of the Hugging
            Face Hub holds them. Other files in the folder are not read.

    Returns:
        The model, which is compiled if it was compiled when it was saved.

    Raises:
        checks.InputError: for a path that is not a `.keras` file, and for a file that is damaged,
            is too large when unpacked, or names a class that could run code.

    Example:
        >>> import tempfile
        >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     model.save(f"{folder}/model.keras")
        ...     load(f"{folder}/model.keras").output_shape
        (None, 1)
    """
    path = Path(path)
    if path.is_dir():
        with tempfile.TemporaryDirectory() as temporary:
            return load(_packed(path, Path(temporary) / "model.keras"))
    if path.suffix != ".keras" or not path.is_file():
        raise checks.InputError(
            f"a model must be a .keras file. Received: {path}. Train one: vae-keras train"
        )
    try:
        with zipfile.ZipFile(path) as archive:
            _require_limits(archive, path)
            config = json.loads(archive.read("config.json"))
        _require_known(config, path)
        model: Any = keras.saving.load_model(path, safe_mode=True)
        return model
    except checks.InputError:
        raise
    except Exception as error:  # damaged archives raise many kinds of errors
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise checks.InputError(
            f"a .keras file must be sound. Received: {path} ({reason}). Save or copy it again."
        ) from error


def _packed(folder: Path, path: Path) -> Path:
    """Packs the members of a folder, so that the checks and Keras read the same bytes."""
    sizes = {name: (folder / name).stat().st_size for name in MEMBERS if (folder / name).is_file()}
    if missing := sorted(set(MEMBERS) - set(sizes)):
        raise checks.InputError(
            f"a folder with a model must hold {', '.join(MEMBERS)}. Received: {folder} without "
            f"{missing[0]}. Write it with save_pretrained."
        )
    _require_sizes(sizes, folder)
    with zipfile.ZipFile(path, "w") as archive:
        for name in MEMBERS:
            archive.write(folder / name, name)
    return path


def _require_limits(archive: zipfile.ZipFile, path: Path) -> None:
    members = {info.filename: info.file_size for info in archive.infolist()}
    strange = sorted(set(members) - set(MEMBERS))
    if strange or len(members) != len(archive.infolist()):
        raise checks.InputError(
            f"a .keras file must hold {', '.join(MEMBERS)}, each once. "
            f"Received: {path} with {strange[0] if strange else 'one of them twice'!r}. "
            "Save the model again."
        )
    _require_sizes(members, path)


def _require_sizes(members: Mapping[str, int], path: Path) -> None:
    for name, size in members.items():
        largest = LARGEST if name.endswith(".h5") else _LARGEST_TEXT
        if size > largest:
            raise checks.InputError(
                f"{name} of a .keras file must unpack to at most {largest} bytes. "
                f"Received: {size} bytes in {path}. Use a smaller model."
            )


def _require_known(config: Any, path: Path) -> None:
    for module, name in _named(config):
        if module is not None and module.split(".")[0] not in _PACKAGES:
            found = f"{module}.{name}"
        elif name in _PROGRAMS or "." in name:  # Keras finds "layers.Lambda" in the module keras
            found = name
        else:
            continue
        raise checks.InputError(
            "a .keras file may name layers of Keras and of vae_keras that run no code of their "
            f"own. Received: {found} in {path}. Load a model with your own classes in Python, "
            "with keras.saving.load_model."
        )


def _named(config: Any) -> Iterator[tuple[str | None, str]]:
    """Yields the module and the name of every object in a nested configuration."""
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
