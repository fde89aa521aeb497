"""The state of a training run on disk: written whole, hashed, the last two kept.

A checkpoint is Keras' own model file, optimizer included, and a JSON file that names its hash.
The JSON is written last: a checkpoint without it does not exist. Keras makes a `.keras` file in
memory; its `save_weights` lets HDF5 write to the disk, which ends the process when that is full.
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

from vae_keras import checks, divergence, files
from vae_keras.model import VAE

_KEEP = 2
_FIRST = "epoch-00001-step-0000000"  # the latest name that a run's first checkpoint can have
MAX_EPOCHS = 99_999  # five digits of a checkpoint's name, which sorts by them


@dataclass(frozen=True)
class Progress:
    """How far a run has come.

    Attributes:
        epoch: complete epochs.
        step: steps of the next epoch that are done.
        metrics: the values of the metrics' variables, in the middle of an epoch.
        rows: the rows of `elbo.csv` so far.
    """

    epoch: int
    step: int
    metrics: list[float]
    rows: list[dict[str, str]]


def save(folder: str | os.PathLike[str], model: VAE, progress: Progress) -> None:
    """Writes a checkpoint and removes all but the last two.

    Args:
        folder: of the checkpoints; made when missing.
        model: a compiled model.
        progress: what its weights stand for.

    Raises:
        divergence.Diverged: when a weight is not finite; nothing is written.
    """
    held = (*model.variables, *model.optimizer.variables)
    step = int(keras.ops.convert_to_numpy(model.optimizer.iterations)) - 1
    divergence.require_finite(held, step)
    folder = Path(folder)
    name = f"epoch-{progress.epoch:05d}-step-{progress.step:07d}"
    if newest(folder) is None:  # a kill before the first JSON leaves one file and never two
        for path in folder.glob("epoch-*.keras"):
            path.unlink()
    # Only a damaged one can have this name. Its hash goes first: at no moment may it be the hash
    # of other weights.
    (folder / f"{name}.json").unlink(missing_ok=True)
    with files.staged(folder / f"{name}.keras") as temporary:
        model.save(temporary)
        digest = files.sha256(temporary)
    files.write_json(folder / f"{name}.json", asdict(progress) | {"sha256": digest})
    stems = sorted(path.stem for path in folder.glob("epoch-*.json"))
    for path in sorted(folder.glob("epoch-*")):  # .json goes before .keras, as it came after it
        if path.name.split(".")[0] not in stems[-_KEEP:]:
            path.unlink(missing_ok=True)


def restore(
    folder: str | os.PathLike[str], model: VAE, curve: str | os.PathLike[str] | None = None
) -> Progress | None:
    """Loads the newest sound checkpoint into a compiled model whose optimizer is built.

    Args:
        folder: of the checkpoints.
        model: takes the weights and the optimizer's state.
        curve: the run's `elbo.csv`, which knows of checkpoints that are lost. Default None.

    Returns:
        Its progress, or None when the run never wrote a checkpoint.

    Raises:
        checks.InputError: when there are, or have been, checkpoints and all are damaged.
    """
    found = _newest_sound(folder, curve)
    if found is None:
        return None
    weights, progress = found
    model.load_weights(weights)
    return progress


def pack(folder: str | os.PathLike[str], curve: str | os.PathLike[str] | None = None) -> bytes:
    """Returns what `restore` would load as one message, empty when there is nothing.

    Raises:
        checks.InputError: as `restore` does.
    """
    found = _newest_sound(folder, curve)
    if found is None:
        return b""
    weights, progress = found
    return json.dumps(asdict(progress)).encode() + b"\n" + weights.read_bytes()


def unpack(message: bytes, model: VAE) -> Progress | None:
    """Does what `restore` does, from what `pack` returned on another machine."""
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
    """The weights file and the progress of the newest sound checkpoint."""
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
    # A kill before the first JSON leaves at most one file, of the first epoch, and one row.
    if newest(folder) is None and len(names) < 2 and max(names, default="") <= _FIRST and rows < 2:
        return None
    raise checks.InputError(
        f"a run goes on from a sound checkpoint. Received: {len(names)} in {folder}, all damaged "
        "or lost. Restore one of them, or start anew with --overwrite."
    )


def newest(folder: str | os.PathLike[str]) -> str | None:
    """Returns the newest checkpoint's name, None when there is none."""
    return max((path.stem for path in Path(folder).glob("epoch-*.json")), default=None)


class Checkpointer(keras.callbacks.Callback):
    """Saves a run's state at each epoch's end, and every minute in between.

    Args:
        folder: of the checkpoints, or None to write none: the chief of several workers does.
        rows: gives the rows of `elbo.csv` so far.
        progress: where the run goes on, from `restore`. Default: at its beginning.
        seconds: between checkpoints within an epoch. Default 60.
        should_stop: is asked after each compiled call; a true answer saves and ends `fit`.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str] | None,
        rows: Callable[[], list[dict[str, str]]],
        progress: Progress | None = None,
        seconds: float = 60.0,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> None:
        super().__init__()
        self.folder, self.rows = None if folder is None else Path(folder), rows
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
        if batch < self._skipped:  # still on the way to where the checkpoint was made
            return
        stop = self.should_stop()
        if stop or time.monotonic() - self._saved_at > self.seconds:
            self._save(self._epoch, batch + 1)
        if stop:
            raise Stopped(f"in epoch {self._epoch} after step {batch + 1}")

    def on_epoch_end(self, epoch: int, logs: Mapping[str, float] | None = None) -> None:
        self._save(epoch + 1, 0)
        if self.should_stop():
            raise Stopped(f"after epoch {epoch}")

    def _save(self, epoch: int, step: int) -> None:
        if self.folder is None:
            return
        metrics = [float(variable.numpy()) for variable in self._metrics()] if step else []
        save(self.folder, self.model, Progress(epoch, step, metrics, self.rows()))
        self._saved_at = time.monotonic()

    def _metrics(self) -> list[keras.Variable]:
        return [variable for metric in self.model.metrics for variable in metric.variables]


class Stopped(Exception):
    """A run was asked to stop, saved its state and did; the message says where."""
