"""The run folder: whether a run may use it, and whether the run in it is finished."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from vae_keras import detection
from vae_keras.utils import checks, files
from vae_keras.zoo import presets

try:
    import fcntl
except ImportError:  # not on Windows, where nothing keeps two processes apart
    fcntl = None  # type: ignore[assignment]

CONFIG, REPORT, METRICS = "config.json", "report.html", "metrics.json"
EXPLORER = "explorer.html"
TRAINED_ON = "trained_on.npy"  # hashes of the pixels of own images that the run trained on


def check(folder: Path, settings: Mapping[str, Any], overwrite: bool) -> None:
    """Refuses a folder that a run with these settings may not use. It only reads.

    Args:
        folder: the run folder.
        settings: the content that the run's `config.json` will have.
        overwrite: whether the folder may hold another run.

    Raises:
        checks.InputError: if the folder holds another run or other files, or cannot be read or
            written.

    Example:
        >>> check(Path("runs/new"), {"preset": "mlp_mnist"}, overwrite=False)
    """
    checks.writable("workdir", folder, folder=True)
    try:
        held = _read_settings(folder)
        others = held is None and folder.exists() and any(map(_is_kept, folder.iterdir()))
    except (OSError, ValueError, RecursionError) as error:
        raise _unusable(folder, error) from error
    if others:
        raise checks.InputError(
            f"a new run needs an empty folder. Received: {folder}, which holds other files. "
            "Name another --workdir."
        )
    if held is None or overwrite:
        return
    names = {*held, *settings}.difference(presets.TEXTS)
    changed = sorted(name for name in names if held.get(name) != settings.get(name))
    if changed:
        raise checks.InputError(
            f"a run folder holds one configuration. Received: {folder}, which holds another "
            f"{', '.join(changed)}. Pass --overwrite, or another --workdir."
        )


def is_complete(folder: Path, test: bool) -> bool:
    """Returns whether the run in a folder is finished.

    Args:
        folder: the run folder.
        test: whether the run must have measured the test set, too.

    Returns:
        True if the page of the run exists, and the measurements that are asked for.

    Example:
        >>> is_complete(Path("runs/new"), test=False)
        False
    """
    if not (folder / REPORT).exists():
        return False
    if not test:
        return True
    try:
        metrics = json.loads((folder / METRICS).read_text(encoding="utf-8"))
        return any(entry["split"] == "test" for entry in metrics["metrics"])
    except (OSError, ValueError, KeyError, TypeError):
        return False


@contextlib.contextmanager
def held(folder: Path) -> Iterator[None]:
    """Keeps a run folder from other processes inside the `with` block.

    Args:
        folder: the run folder. It is created if it does not exist.

    Raises:
        checks.InputError: if another process trains in the folder, or it cannot be created.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder, os.O_RDONLY) if fcntl else None
    except OSError as error:
        raise _unusable(folder, error) from error
    try:
        if descriptor is not None:
            # The lock ends with the process. A file system without locks raises another OSError,
            # and the run goes on without a lock.
            with contextlib.suppress(OSError):
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError as error:
                    raise checks.InputError(
                        "a run folder is for one process at a time. Received: "
                        f"{folder}, in which another process trains. Wait for its end, or name "
                        "another --workdir."
                    ) from error
        yield
    finally:
        if descriptor is not None:
            os.close(descriptor)


def claim(folder: Path, settings: Mapping[str, Any], overwrite: bool) -> None:
    """Prepares a folder that passed `check` for a run.

    Args:
        folder: the run folder.
        settings: the content of its `config.json`.
        overwrite: whether what an earlier run wrote is removed.

    Raises:
        checks.InputError: if the folder cannot be read or written.

    Example:
        >>> claim(Path("runs/new"), {"preset": "mlp_mnist"}, overwrite=False)
    """
    try:
        files.sweep(folder)
        if (folder / CONFIG).exists():
            if not overwrite:
                # What is written from the final weights is written anew. The page is last, so
                # that a folder with a page is complete.
                (folder / REPORT).unlink(missing_ok=True)
                return
            _empty(folder)
        files.write_json(folder / CONFIG, settings)
    except OSError as error:
        raise _unusable(folder, error) from error


def _read_settings(folder: Path) -> dict[str, Any] | None:
    """Returns the settings of the run in a folder, or None if there is no run."""
    path = folder / CONFIG
    if not path.exists():
        return None
    held = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(held, dict):
        raise ValueError("its config.json is not a JSON object")
    # An earlier version did not know every field. It ran with what is now the field's default.
    defaults = presets.Recipe("", presets.Part(""), presets.Part(""), 0, 0, 0.0).to_dict()
    return defaults | presets.with_current_names(held)


def _is_kept(path: Path) -> bool:
    """Whether a file is more than what a killed writer left."""
    return not path.name.startswith(files.WRITING)


def _unusable(folder: Path, error: Exception) -> checks.InputError:
    return checks.InputError(
        f"the run folder must be readable and writable. Received: {folder} ({error}). "
        "Name another --workdir."
    )


def _empty(folder: Path) -> None:
    """Removes what a run writes but its configuration, and nothing else.

    The configuration of the next run replaces it, so a killed process leaves a run folder.
    """
    written = (REPORT, EXPLORER, METRICS, TRAINED_ON, detection.FILE, "model.keras", "elbo.csv")
    for name in written:
        (folder / name).unlink(missing_ok=True)
    for name in ("checkpoints", "figures", "serving"):
        # A checkpoint that stayed would be taken for one of the new run.
        files.remove_tree(folder / name)
