"""Checkpoints: the state of a run on disk, complete, hashed, the last two of them.

A checkpoint is a Keras model file, which includes the optimizer, and a JSON file with the hash of
the model file. The JSON file is written last, and a checkpoint without it does not exist. Keras
makes a `.keras` file in memory. Its `save_weights` lets HDF5 write to the disk instead, which ends
the process when the disk is full.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import keras

from vae_keras.model import VAE
from vae_keras.trainer import nonfinite
from vae_keras.training.signals import Stopped
from vae_keras.utils import checks, files

_KEEP = 2
_FIRST = "epoch-00001-step-0000000"  # the highest name that the first checkpoint of a run can have
MAX_EPOCHS = 99_999  # names have five digits for the epoch, so that they sort by it


@dataclass(frozen=True)
class Progress:
    """How far a run has come.

    Attributes:
        epoch: number of complete epochs.
        step: number of complete steps of the epoch after them.
        metrics: values of the metrics' variables if `step` is not 0, else [].
        rows: rows of `elbo.csv` so far.
        seconds: duration so far of the epoch after the complete ones, in seconds. Default 0.0.
    """

    epoch: int
    step: int
    metrics: list[float]
    rows: list[dict[str, str]]
    seconds: float = 0.0


def save(folder: str | os.PathLike[str], model: VAE, progress: Progress) -> None:
    """Writes a checkpoint, and removes all but the last two.

    Args:
        folder: folder of the checkpoints.
        model: a compiled model.
        progress: how far the run has come.

    Raises:
        nonfinite.Diverged: if a weight is not finite. Nothing is written.

    Example:
        >>> save("checkpoints", vae, Progress(epoch=1, step=0, metrics=[], rows=[]))
    """
    held = (*model.variables, *model.optimizer.variables)
    step = int(model.optimizer.iterations.numpy()) - 1
    nonfinite.require_finite(held, step)
    folder = Path(folder)
    name = f"epoch-{progress.epoch:05d}-step-{progress.step:07d}"
    if newest(folder) is None:  # a kill before the first JSON file must leave at most one file
        for path in folder.glob("epoch-*.keras"):
            path.unlink()
    # Only a damaged checkpoint can have this name. Its JSON file is removed first, because it must
    # never hold the hash of other weights.
    (folder / f"{name}.json").unlink(missing_ok=True)
    with files.staged(folder / f"{name}.keras") as temporary:
        model.save(temporary)
        digest = files.sha256(temporary)
    files.write_json(folder / f"{name}.json", asdict(progress) | {"sha256": digest})
    stems = sorted(path.stem for path in folder.glob("epoch-*.json"))
    # In this order the JSON file of a checkpoint is removed before its model file.
    for path in sorted(folder.glob("epoch-*")):
        if path.name.split(".")[0] not in stems[-_KEEP:]:
            path.unlink(missing_ok=True)


def restore(
    folder: str | os.PathLike[str], model: VAE, curve: str | os.PathLike[str] | None = None
) -> Progress | None:
    """Loads the newest undamaged checkpoint.

    Args:
        folder: folder of the checkpoints.
        model: a compiled model whose optimizer is built. It gets the weights and the state of the
            optimizer.
        curve: the run's `elbo.csv`. Its rows show that checkpoints existed. Default None.

    Returns:
        The progress, or None if the run has not written a checkpoint yet.

    Raises:
        checks.InputError: if all checkpoints are damaged or lost.

    Example:
        >>> restore("no_checkpoints_here", vae) is None
        True
    """
    found = _newest_sound(folder, curve)
    if found is None:
        return None
    weights, progress = found
    model.load_weights(weights)
    return progress


def pack(folder: str | os.PathLike[str], curve: str | os.PathLike[str] | None = None) -> bytes:
    """Returns as bytes what `restore` would load, for another machine.

    Args:
        folder, curve: as in `restore`.

    Returns:
        The checkpoint, or b"" if the run has not written one yet.

    Raises:
        checks.InputError: as `restore`.

    Example:
        >>> pack("no_checkpoints_here")
        b''
    """
    found = _newest_sound(folder, curve)
    if found is None:
        return b""
    weights, progress = found
    return json.dumps(asdict(progress)).encode() + b"\n" + weights.read_bytes()


def unpack(message: bytes, model: VAE) -> Progress | None:
    """Loads a checkpoint that `pack` returned.

    Args:
        message: what `pack` returned.
        model: as in `restore`.

    Returns:
        The progress, or None for b"".

    Example:
        >>> unpack(b"", vae) is None
        True
    """
    if not message:
        return None
    content, _, weights = message.partition(b"\n")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "packed.keras"
        with files.atomic_write(path) as file:
            file.write(weights)
        model.load_weights(path)
    return Progress(**json.loads(content))


def _newest_sound(
    folder: str | os.PathLike[str], curve: str | os.PathLike[str] | None
) -> tuple[Path, Progress] | None:
    """Returns the model file and the progress of the newest undamaged checkpoint."""
    folder = Path(folder)
    for path in sorted(folder.glob("epoch-*.json"), reverse=True):
        weights = path.with_suffix(".keras")
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            if files.sha256(weights) != content.pop("sha256"):
                raise ValueError("its hash does not match")
            progress = Progress(**content)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            warnings.warn(
                f"checkpoint {path.stem} is damaged ({error}); it is skipped", stacklevel=2
            )
            continue
        return weights, progress
    names = {path.stem for path in folder.glob("epoch-*")}
    rows = 0
    if curve is not None and Path(curve).exists():
        rows = max(0, len(Path(curve).read_bytes().splitlines()) - 1)
    # A kill before the first JSON file leaves at most one file, of the first epoch, and one row.
    if newest(folder) is None and len(names) < 2 and max(names, default="") <= _FIRST and rows < 2:
        return None
    raise checks.InputError(
        f"a run goes on from an undamaged checkpoint. Received: {len(names)} in {folder}, all "
        "damaged or lost. Restore one of them, or start anew with --overwrite."
    )


def newest(folder: str | os.PathLike[str]) -> str | None:
    """Returns the name of the newest checkpoint, or None if there is none.

    Args:
        folder: folder of the checkpoints.

    Returns:
        A name such as "epoch-00002-step-0000000".

    Example:
        >>> newest("no_checkpoints_here") is None
        True
    """
    return max((path.stem for path in Path(folder).glob("epoch-*.json")), default=None)


class Checkpointer(keras.callbacks.Callback):
    """Saves the state of a run after each epoch, and at intervals within an epoch.

    Args:
        folder: folder of the checkpoints. None writes no checkpoint, for workers that are not the
            chief.
        rows: returns the rows of `elbo.csv` so far.
        progress: where the run goes on, as `restore` returned it. Default None, its beginning.
        seconds: interval between checkpoints within an epoch, in seconds. Default 60.
        should_stop: is called after each compiled call. If it returns True, the state is saved and
            training ends. Default: never.
        epoch_seconds: returns the duration of the epoch so far, in seconds. Default: a function
            that returns 0.0.

    Raises:
        Stopped: from `fit`, after `should_stop` returned True.

    Example:
        >>> checkpointer = Checkpointer("checkpoints", rows=list)
        >>> history = vae.fit(x_train, callbacks=[checkpointer], verbose=0)
    """

    model: VAE  # pyright: ignore[reportIncompatibleMethodOverride]
    # The trainer may call the batch hooks once for each compiled call of several steps.
    runs_per_execution = True

    def __init__(
        self,
        folder: str | os.PathLike[str] | None,
        rows: Callable[[], list[dict[str, str]]],
        progress: Progress | None = None,
        seconds: float = 60.0,
        should_stop: Callable[[], bool] = lambda: False,
        epoch_seconds: Callable[[], float] = lambda: 0.0,
    ) -> None:
        super().__init__()
        self.folder, self.rows = None if folder is None else Path(folder), rows
        self.epoch_seconds = epoch_seconds
        self.seconds = checks.positive("seconds", seconds)
        self.progress, self.should_stop = progress, should_stop
        self._epoch, self._skipped, self._saved_at = 0, 0, 0.0

    def on_train_begin(self, logs: Mapping[str, float] | None = None) -> None:
        self._saved_at = time.monotonic()
        if self.progress is not None and self.progress.step:
            self.model.steps_to_skip = self.progress.step

    def on_epoch_begin(self, epoch: int, logs: Mapping[str, float] | None = None) -> None:
        self._epoch = epoch
        self._skipped = 0 if self.progress is None else self.progress.step
        if self.progress is not None and self.progress.step:
            for variable, value in zip(self._metrics(), self.progress.metrics, strict=True):
                variable.assign(value)
        self.progress = None

    def on_train_batch_end(self, batch: int, logs: Mapping[str, float] | None = None) -> None:
        if batch < self._skipped:  # these steps were done before the checkpoint
            return
        # The last call of an epoch may have room for more steps than the epoch has left.
        step = min(batch + 1, self.params.get("steps") or batch + 1)
        stop = self.should_stop()
        if stop or time.monotonic() - self._saved_at > self.seconds:
            self._save(self._epoch, step)
        if stop:
            raise Stopped(f"in epoch {self._epoch} after step {step}")

    def on_epoch_end(self, epoch: int, logs: Mapping[str, float] | None = None) -> None:
        self._save(epoch + 1, 0)
        if self.should_stop():
            raise Stopped(f"after epoch {epoch}")

    def _save(self, epoch: int, step: int) -> None:
        if self.folder is None:
            return
        metrics = [float(variable.numpy()) for variable in self._metrics()] if step else []
        seconds = self.epoch_seconds() if step else 0.0
        save(self.folder, self.model, Progress(epoch, step, metrics, self.rows(), seconds))
        self._saved_at = time.monotonic()

    def _metrics(self) -> list[keras.Variable]:
        return [variable for metric in self.model.metrics for variable in metric.variables]
