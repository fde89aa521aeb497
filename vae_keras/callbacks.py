"""The epoch's ELBO to the console and a CSV file, and figure grids during training."""

from __future__ import annotations

import csv
import io
import math
import os
import time
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import tensorflow as tf
from keras.callbacks import Callback

from vae_keras import checks, figures, files

COLUMNS = (
    "epoch",
    "elbo",
    "log_likelihood",
    "kl",
    "val_elbo",
    "val_log_likelihood",
    "val_kl",
    "seconds",
)


class ELBOWriter(Callback):
    """Writes each epoch's ELBO: one console line, and one row of a CSV file.

    The line is `Epoch: 0 ELBO: -2.220131e+02`. The file is replaced whole at each epoch, so it
    never holds half a row; an epoch that is trained again replaces its own row.

    Args:
        path: the CSV file, or None for the console alone. Default None.
        append: whether rows of epochs before the first one trained are kept. Default False.

    Raises:
        checks.InputError: when a file to append to has other columns.

    Example:
        >>> vae.fit(x_train, epochs=30, callbacks=[ELBOWriter("elbo.csv")])
    """

    def __init__(self, path: str | os.PathLike[str] | None = None, append: bool = False) -> None:
        super().__init__()
        self.path = None if path is None else Path(path)
        self.append = append
        self.rows: list[dict[str, str]] = []
        self._start = 0.0

    def on_train_begin(self, logs: Mapping[str, float] | None = None) -> None:
        self.rows = []
        if self.append and self.path is not None and self.path.exists():
            self.rows = read_elbo_csv(self.path)

    def on_epoch_begin(self, epoch: int, logs: Mapping[str, float] | None = None) -> None:
        self._start = time.perf_counter()

    def on_epoch_end(self, epoch: int, logs: Mapping[str, float] | None = None) -> None:
        logs = logs or {}
        elbo = logs.get("elbo", math.nan)
        print(f"Epoch: {epoch} ELBO: {elbo:e}", flush=True)
        values = {name: repr(float(logs[name])) for name in COLUMNS if name in logs}
        values["epoch"] = str(epoch)
        values["seconds"] = f"{time.perf_counter() - self._start:.3f}"
        self.rows = [row for row in self.rows if int(row["epoch"]) < epoch]
        self.rows.append({name: values.get(name, "") for name in COLUMNS})
        if self.path is not None:
            write_elbo_csv(self.path, self.rows)


def read_elbo_csv(path: str | os.PathLike[str]) -> list[dict[str, str]]:
    """Reads the rows of an ELBO file, values as text.

    Raises:
        checks.InputError: when the file is not one.
    """
    try:
        with open(path, newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            columns, rows = tuple(reader.fieldnames or ()), list(reader)
    except (UnicodeDecodeError, csv.Error) as error:
        raise checks.InputError(
            f"{path} must be a CSV file. Received: {error}. Name another file."
        ) from error
    if columns != COLUMNS:
        raise checks.InputError(
            f"{path} must have the columns {','.join(COLUMNS)}. "
            f"Received: {','.join(columns) or 'nothing'}. Name another file."
        )
    for row in rows:
        if not row["epoch"].isdigit() or None in row or None in row.values():
            raise checks.InputError(
                f"each row of {path} must have an epoch and {len(COLUMNS)} fields. "
                f"Received: {','.join(map(str, row.values()))}. Name another file."
            )
    return rows


def write_elbo_csv(path: str | os.PathLike[str], rows: Iterable[Mapping[str, str]]) -> None:
    """Replaces an ELBO file by one with these rows."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    files.write_text(path, text.getvalue())


class FigureWriter(Callback):
    """Draws image grids from fixed latents after chosen epochs, so that pictures compare.

    Args:
        grids: name to latents [rows * columns, latent_dim]; each becomes `<name>_epoch_<n>.png`.
        folder: where the PNG files go, or None for TensorBoard alone. Default None.
        epochs: after how many epochs to draw, counted from 1. Default: after every epoch.
        columns: of the grid. Default 5.
        titles: name to the figure's title. Default: the name.
        log_dir: TensorBoard folder that gets the same grids as images, and the ELBO terms as
            scalars. Default None.
        ink: whether a grey 0 is drawn white, as in `figures.grid`. Default True.

    Example:
        >>> latents = {"prior": vae.prior_latents(25)}
        >>> writer = FigureWriter(latents, "figures", epochs=(20, 30))
        >>> vae.fit(x_train, epochs=30, callbacks=[writer])
    """

    def __init__(
        self,
        grids: Mapping[str, np.ndarray],
        folder: str | os.PathLike[str] | None = None,
        epochs: Iterable[int] | None = None,
        columns: int = 5,
        titles: Mapping[str, str] | None = None,
        log_dir: str | os.PathLike[str] | None = None,
        ink: bool = True,
    ) -> None:
        super().__init__()
        checks.whole_number("columns", columns, 1)
        for name, latents in grids.items():
            if len(latents) % columns:
                raise checks.InputError(
                    f"a grid of {columns} columns needs a multiple of {columns} latents. "
                    f"Received: {len(latents)} for {name!r}."
                )
        self.grids = dict(grids)
        self.folder = None if folder is None else Path(folder)
        self.epochs = None if epochs is None else set(epochs)
        self.columns = columns
        self.titles = dict(titles or {})
        self.ink = ink
        self._log_dir = log_dir
        self._writer: tf.summary.SummaryWriter | None = None

    def on_train_begin(self, logs: Mapping[str, float] | None = None) -> None:
        if self._log_dir is not None:
            self._writer = tf.summary.create_file_writer(os.fspath(self._log_dir))

    def on_epoch_end(self, epoch: int, logs: Mapping[str, float] | None = None) -> None:
        if self._writer is not None:
            with self._writer.as_default(step=epoch):
                for name, value in (logs or {}).items():
                    _write_summary("scalars", f"epoch_{name}", tf.cast(value, tf.float32))
        done = epoch + 1
        if self.epochs is not None and done not in self.epochs:
            return
        for name, latents in self.grids.items():
            images = self.model.decode(self.model.prior_draws(latents))
            rows = len(images) // self.columns
            if self.folder is not None:
                title = f"{self.titles.get(name, name)}, after epoch {done}"
                figure = figures.grid(images, rows, self.columns, title, ink=self.ink)
                figures.save(figure, self.folder / f"{name}_epoch_{done}.png")
            if self._writer is not None:
                canvas = figures.tile(images, rows, self.columns)
                with self._writer.as_default(step=epoch):
                    png = tf.io.encode_png(np.uint8(np.rint(canvas * 255.0)))
                    height, width = canvas.shape[:2]
                    _write_summary("images", name, tf.stack([str(width), str(height), png]))

    def on_train_end(self, logs: Mapping[str, float] | None = None) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None


def _write_summary(plugin: str, name: str, value: tf.Tensor) -> None:
    """Writes what `tf.summary.scalar` and `image` write, which need TensorBoard installed."""
    metadata = tf.compat.v1.SummaryMetadata()
    metadata.plugin_data.plugin_name = plugin
    tf.summary.write(name, value, metadata=metadata)
