"""Loads models by name, and writes them to files: presets, folders, the Hugging Face Hub."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from vae_keras import assembly
from vae_keras.utils import checks, files, keras_file
from vae_keras.zoo import presets

HUB = "hf://"
_Model = TypeVar("_Model", bound="Sharing")

_CARD = """---
library_name: keras
pipeline_tag: unconditional-image-generation
tags:
- variational-autoencoder
---

# A variational autoencoder

```python
from vae_keras import VAE

vae = VAE.from_preset("{name}")
images = vae.sample(25)
```

Say here what the model was trained on, how its figures were measured, and what it is not for.
"""


class _PresetNames:
    """`VAE.presets`: the names that `VAE.from_preset` takes, read from disk when asked."""

    def __get__(self, instance: object, owner: type) -> tuple[str, ...]:
        return presets.trained()


class Sharing:
    """The methods of `VAE` that load a trained model by name, and write one to files."""

    built: bool
    classes: Any
    image_shape: tuple[int, ...]
    _require_built: Callable[[str], None]
    build: Callable[..., None]
    compile: Callable[..., None]
    from_config: Callable[..., Any]
    get_config: Callable[..., dict[str, Any]]
    get_weights: Callable[..., Any]

    presets = _PresetNames()

    @classmethod
    def from_preset(cls: type[_Model], name: str | os.PathLike[str]) -> _Model:
        """Loads a trained model of the zoo, of a file or a folder, or of the Hugging Face Hub.

        The weights of the zoo come with the package, and their hash is checked. A model from
        elsewhere may name classes of Keras and of this package only, and runs no code.

        Args:
            name: one of `VAE.presets`; "hf://NAMESPACE/NAME", a repository of the Hugging Face Hub,
                which needs the extra `[hub]`; the path of a `.keras` file; or a folder that
                `save_pretrained` wrote.

        Returns:
            A compiled `VAE`.

        Raises:
            checks.InputError: for an unknown name, weights of the zoo that are not the published
                ones, a repository that cannot be reached, and files that are damaged, name a class
                that could run code, or hold another kind of model.

        Example:
            >>> VAE.from_preset("mlp_mnist").sample(25).shape
            (25, 28, 28, 1)
        """
        model: Any = keras_file.load(_files(os.fspath(name)))
        if not isinstance(model, cls):
            raise checks.InputError(
                f"from_preset loads a {cls.__name__}. Received: {name}, which holds a "
                f"{type(model).__name__}. Load it with keras.saving.load_model."
            )
        model.compile()
        return model

    def save(self, filepath: str | os.PathLike[str], *args: Any, **kwargs: Any) -> None:
        """Saves the model as a `.keras` file; the arguments are those of `keras.Model.save`.

        Raises:
            checks.InputError: for a name that ends in ".h5" or ".hdf5", a format from which Keras
                cannot load a model of several parts, and for parts that share a layer.
        """
        if os.fspath(filepath).endswith((".h5", ".hdf5")):
            raise checks.InputError(
                f"A VAE is saved as a .keras file. Received: {filepath}. "
                "End the name in .keras, or call save_weights() with a name in .weights.h5."
            )
        assembly.check_saved_parts(self)
        super().save(filepath, *args, **kwargs)  # type: ignore[misc]

    def export(self, filepath: str | os.PathLike[str], *args: Any, **kwargs: Any) -> None:
        """Exports `call` as Keras does. `export.export_saved_model` writes the other signatures.

        Args:
            filepath, *args, **kwargs: as in `keras.Model.export`.

        Raises:
            checks.InputError: for a model with classes, whose `call` takes labels, too.
        """
        if self.classes is not None:
            raise checks.InputError(
                "Keras' export is for models that take images only. Received: a model with "
                "classes. Call vae_keras.export.export_saved_model(model, path)."
            )
        self._require_built("export")
        model: Any = self
        model(np.zeros((1, *self.image_shape), np.float32))  # Keras exports only called models
        super().export(filepath, *args, **kwargs)  # type: ignore[misc]

    def save_pretrained(self, folder: str | os.PathLike[str]) -> None:
        """Writes the model as the files of a repository of the Hugging Face Hub.

        They are the configuration and the weights, without the optimizer's state, and a model card,
        which is kept if the folder has one. `from_preset(folder)` loads them, and so does
        `keras.saving.load_model(folder)` where this package is imported.
        `huggingface_hub.upload_folder` uploads them.

        Args:
            folder: the folder. It is created if it does not exist.

        Raises:
            checks.InputError: for a model without weights.
            OSError: if a file could not be written. A full disk leaves all files as they were.

        Example:
            >>> vae.save_pretrained("mine")
            >>> sorted(path.name for path in Path("mine").iterdir())
            ['README.md', 'config.json', 'metadata.json', 'model.weights.h5']
        """
        if not self.built:
            raise checks.InputError(
                "save_pretrained needs a model with weights. Received: a model that saw no images. "
                "Call fit or build((None, H, W, C)) first."
            )
        assembly.check_saved_parts(self)
        target = checks.writable("the folder", folder, folder=True)
        with tempfile.TemporaryDirectory() as temporary:
            packed = Path(temporary) / "model.keras"
            bare = type(self).from_config(self.get_config())  # it has no optimizer
            bare.build((None, *self.image_shape))
            bare.set_weights(self.get_weights())
            bare.save(packed)
            # All files are on the disk before the first one replaces an older file.
            with zipfile.ZipFile(packed) as archive, contextlib.ExitStack() as written:
                for name in keras_file.MEMBERS:
                    file = written.enter_context(files.atomic_write(target / name))
                    file.write(archive.read(name))
                    file.flush()
        card = target / "README.md"
        if not card.exists():
            files.write_text(card, _CARD.format(name=f"{HUB}NAMESPACE/{target.name}"))


def _files(name: str) -> Path:
    """Returns the file or the folder that holds a model."""
    if name.startswith(HUB):
        return _download(name)
    if name not in presets.names() and (name.endswith(".keras") or Path(name).is_dir()):
        return Path(name)
    return presets.weights(name)


def _download(name: str) -> Path:
    """Downloads the files of a model from the Hub into the cache of `huggingface_hub`."""
    repository = name[len(HUB) :]
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repository):
        raise checks.InputError(
            f"a model of the Hub must be named {HUB}NAMESPACE/NAME. Received: {name}. "
            "Name its repository."
        )
    if importlib.util.find_spec("huggingface_hub") is None:
        raise checks.InputError(
            "a model of the Hub needs the package huggingface_hub. Received: an environment "
            "without it. Run: pip install 'vae-keras[hub]'"
        )
    import huggingface_hub

    try:
        patterns = list(keras_file.MEMBERS)
        return Path(huggingface_hub.snapshot_download(repository, allow_patterns=patterns))
    except Exception as error:  # the package, its client and the file system raise many kinds
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise checks.InputError(
            f"a model of the Hub must be within reach. Received: {name} ({reason}). "
            "Check the name, your access and the network."
        ) from error
