"""Callbacks that write the ELBO of each epoch and draw images during training."""

from __future__ import annotations

import csv
import io
import math
import os
import time
from collections.abc import Iterable, Mapping
from pathlib import Path

import keras
import numpy as np

from vae_keras.model import VAE
from vae_keras.report import figures, gallery
from vae_keras.utils import checks, files

COLUMNS: tuple[str, ...] = (
    "epoch",
    "elbo",
    "log_likelihood",
    "kl",
    "val_elbo",
    "val_log_likelihood",
    "val_kl",
    "seconds",
)


class ELBOWriter(keras.callbacks.Callback):
    """Writes the ELBO after each epoch: a line on the console, and a row of a CSV file.

    The line reads `Epoch: 0 ELBO: -2.220131e+02`. The whole file is replaced after each epoch, so
    that it never holds part of a row. An epoch that is trained again replaces its row.

    Args:
        path: the CSV file, or None to write the console only. Default None.
        append: whether rows of epochs before the first trained one are kept. Default False.
        seconds_before: how long an earlier process trained the first epoch, in seconds. Default
            0.0.

    Raises:
        checks.InputError: at the start of training, if the file to append to has other columns.

    Example:
        >>> history = vae.fit(x_train, epochs=2, callbacks=[ELBOWriter("elbo.csv")], verbose=0)
        Epoch: 0 ELBO: ...
        Epoch: 1 ELBO: ...
    """

    def __init__(
        self,
        path: str | os.PathLike[str] | None = None,
        append: bool = False,
        seconds_before: float = 0.0,
    ) -> None:
        super().__init__()
        self.path = None if path is None else Path(path)
        self.append = append
        self.rows: list[dict[str, str]] = []
        self._start, self._before = 0.0, seconds_before

    def on_train_begin(self, logs: Mapping[str, float] | None = None) -> None:
        self.rows = []
        if self.append and self.path is not None and self.path.exists():
            self.rows = read_elbo_csv(self.path)

    def on_epoch_begin(self, epoch: int, logs: Mapping[str, float] | None = None) -> None:
        self._start = time.perf_counter()

    def seconds(self) -> float:
        """Returns the duration of the epoch so far, in seconds."""
        return self._before + time.perf_counter() - self._start

    def on_epoch_end(self, epoch: int, logs: Mapping[str, float] | None = None) -> None:
        logs = logs or {}
        elbo = logs.get("elbo", math.nan)
        print(f"Epoch: {epoch} ELBO: {elbo:e}", flush=True)
        values = {name: repr(float(logs[name])) for name in COLUMNS if name in logs}
        values["epoch"] = str(epoch)
        values["seconds"] = f"{self.seconds():.3f}"
        self._before = 0.0
        self.rows = [row for row in self.rows if int(row["epoch"]) < epoch]
        self.rows.append({name: values.get(name, "") for name in COLUMNS})
        if self.path is not None:
            write_elbo_csv(self.path, self.rows)


def read_elbo_csv(path: str | os.PathLike[str]) -> list[dict[str, str]]:
    """Reads the rows that `ELBOWriter` wrote.

    Args:
        path: the CSV file.

    Returns:
        One dictionary for each epoch, from the names in `COLUMNS` to texts. A value that was not
        measured is "".

    Raises:
        checks.InputError: if the file is not such a file.

    Example:
        >>> write_elbo_csv("elbo.csv", [dict.fromkeys(COLUMNS, "0")])
        >>> read_elbo_csv("elbo.csv")[0]["elbo"]
        '0'
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
    """Replaces a CSV file by one with these rows.

    Args:
        path: the CSV file.
        rows: dictionaries from the names in `COLUMNS` to texts.

    Example:
        >>> write_elbo_csv("elbo.csv", [dict.fromkeys(COLUMNS, "0")])
    """
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    files.write_text(path, text.getvalue())


class FigureWriter(keras.callbacks.Callback):
    """Draws grids of images after chosen epochs, always from the same latents.

    Each row of a model with classes shows one class.

    Args:
        grids: names and standard normal draws [rows * columns, latent_dim], from which the prior
            makes latents. Each grid becomes `<name>_epoch_<n>.png`.
        folder: folder of the PNG files.
        epochs: the epochs after which grids are drawn, counted from 1. Default: every epoch.
        columns: columns of a grid. Default 5.
        titles: titles of the figures under the names of `grids`. Default: the names.
        invert: whether a grey 0 is drawn white, as in `figures.grid`. Default True.

    Raises:
        checks.InputError: if a number of draws is not a multiple of `columns`.

    Example:
        >>> draws = {"prior": np.random.default_rng(0).normal(size=(25, vae.latent_dim))}
        >>> writer = FigureWriter(draws, "figures", epochs=(1, 2))
        >>> history = vae.fit(x_train, epochs=2, callbacks=[writer], verbose=0)
    """

    model: VAE  # pyright: ignore[reportIncompatibleMethodOverride]

    def __init__(
        self,
        grids: Mapping[str, np.ndarray],
        folder: str | os.PathLike[str],
        epochs: Iterable[int] | None = None,
        columns: int = 5,
        titles: Mapping[str, str] | None = None,
        invert: bool = True,
    ) -> None:
        super().__init__()
        checks.whole_number("columns", columns, 1)
        for name, draws in grids.items():
            if len(draws) % columns:
                raise checks.InputError(
                    f"a grid of {columns} columns needs a multiple of {columns} latents. "
                    f"Received: {len(draws)} for {name!r}. Pass another number."
                )
        self.grids = dict(grids)
        self.folder = Path(folder)
        self.epochs = None if epochs is None else set(epochs)
        self.columns = columns
        self.titles = dict(titles or {})
        self.invert = invert

    def on_epoch_end(self, epoch: int, logs: Mapping[str, float] | None = None) -> None:
        done = epoch + 1
        if self.epochs is not None and done not in self.epochs:
            return
        for name, draws in self.grids.items():
            labels = gallery.classes_of_rows(self.model, len(draws), self.columns)
            images = self.model.decode(self.model.prior_draws(draws), labels)
            rows = len(images) // self.columns
            title = f"{self.titles.get(name, name)}, after epoch {done}"
            figure = figures.grid(images, rows, self.columns, title, invert=self.invert)
            figures.save(figure, self.folder / f"{name}_epoch_{done}.png")
