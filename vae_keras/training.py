"""A recipe to a run folder: train, draw, export, measure; go on where an earlier run stopped."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import keras
import numpy as np

from vae_keras import (
    callbacks,
    checkpoints,
    checks,
    data,
    divergence,
    evaluation,
    export,
    figures,
    files,
    gallery,
    networks,
    presets,
    report,
)
from vae_keras.model import VAE

_FIGURE_EPOCHS = (20, 30)
_ELBO_DRAWS = 10


@dataclass(frozen=True)
class TrainConfig:
    """What `train` is asked for; None takes the preset's value.

    Attributes:
        preset: name of a recipe in the zoo. Default "mlp_mnist".
        epochs, batch_size, learning_rate, seed, validation, binarization: in the recipe's place.
        workdir: the run folder. Default `runs/<preset>`.
        data: "mnist". Default "mnist".
        overwrite: whether a folder that holds another run is emptied. Default False.
    """

    preset: str = "mlp_mnist"
    epochs: int | None = None
    batch_size: int | None = None
    learning_rate: float | None = None
    seed: int | None = None
    workdir: str | os.PathLike[str] | None = None
    data: str = "mnist"
    validation: int | None = None
    binarization: str | None = None
    overwrite: bool = False

    def recipe(self) -> presets.Recipe:
        """Returns the preset's recipe with this configuration's values in place.

        Raises:
            checks.InputError: for a value that breaks a rule.
        """
        recipe = presets.load_recipe(self.preset)
        given = {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(recipe)
            if getattr(self, field.name, None) is not None
        }
        recipe = dataclasses.replace(recipe, **given)
        checks.whole_number("epochs", recipe.epochs, 1, checkpoints.MAX_EPOCHS)
        checks.whole_number("batch_size", recipe.batch_size, 1)
        checks.positive("learning_rate", recipe.learning_rate)
        checks.seed(recipe.seed)
        checks.whole_number("validation", recipe.validation, 0)
        checks.choice("binarization", recipe.binarization, data.BINARIZATIONS)
        checks.choice("schedule", recipe.schedule, presets.SCHEDULES)
        return recipe

    def folder(self) -> Path:
        """Returns the run folder."""
        if self.workdir is None:
            return Path("runs") / self.preset
        return checks.path("workdir", self.workdir)


def train(config: TrainConfig) -> Path:
    """Trains a preset and writes its run folder; the same call again goes on where it stopped.

    The folder holds `config.json`, `elbo.csv`, `figures/`, `model.keras`, `serving/1/`,
    `metrics.json`, `report.html` and, to go on from, `checkpoints/`.

    Args:
        config: what to train and where.

    Returns:
        The run folder.

    Raises:
        checks.InputError: for a configuration that cannot be right; nothing is written.
        Interrupted: after Ctrl-C or SIGTERM, with the state saved.
        divergence.Diverged: when the loss is no longer finite; names the last checkpoint.

    Example:
        >>> train(TrainConfig(preset="mlp_mnist", epochs=2, workdir="runs/short"))
    """
    recipe, folder = config.recipe(), config.folder()
    with _Signals() as signals:
        wanted = {"preset": config.preset, "data": config.data} | recipe.to_dict()
        _check_folder(folder, wanted, config.overwrite)
        if not config.overwrite and (folder / "report.html").exists():
            print(f"{folder} is complete. To train it anew, pass --overwrite.")
            return folder
        print("Loading training data...", flush=True)
        images = load_images(config.data)
        _check_sizes(recipe, len(images.x_train))
        _claim(folder, wanted, config.overwrite)
        model = build_model(recipe, images.x_train.shape[1:], len(images.x_train))
        try:
            _fit(model, recipe, images, folder, signals)
            _finish(model, recipe, config, images, folder, signals)
        except checkpoints.Stopped as stopped:
            raise Interrupted(signals.received or signal.SIGINT, folder, str(stopped)) from None
        except divergence.Diverged as error:
            raise divergence.Diverged(error.step, error.place, _remedy(folder)) from error
    return folder


class Interrupted(Exception):
    """Training was told to stop, saved its state and says how to go on.

    Attributes:
        signal: what told it: SIGINT for Ctrl-C, or SIGTERM.
    """

    def __init__(self, number: int, folder: Path, where: str) -> None:
        super().__init__(
            f"Stopped {where}; the state is saved in {folder}. Run the same command to go on."
        )
        self.signal = number


def _remedy(folder: Path) -> str:
    good = checkpoints.newest(folder / "checkpoints")
    return (
        "There is no checkpoint yet" if good is None else f"The last good checkpoint: {good}"
    ) + f" in {folder / 'checkpoints'}. Lower --learning-rate and pass another --workdir."


def load_images(name: str) -> data.Images:
    """Loads the data set called `name`."""
    checks.choice("data", name, ("mnist",))
    return data.load_mnist()


def build_model(recipe: presets.Recipe, image_shape: tuple[int, ...], num_images: int) -> VAE:
    """Builds and compiles a recipe's model for images of one shape.

    Args:
        recipe: what to build.
        image_shape: (H, W, C).
        num_images: of training and validation data together; sets the schedule's length.

    Returns:
        A compiled `VAE` whose optimizer is built.
    """
    encoder = _part(recipe.encoder, seed=recipe.seed)
    decoder = _part(recipe.decoder, seed=recipe.seed, image_shape=image_shape)
    model = VAE(encoder, decoder, binarization=recipe.binarization, seed=recipe.seed)
    steps = -(-(num_images - recipe.validation) // recipe.batch_size) * recipe.epochs
    model.compile(keras.optimizers.Adam(_schedule(recipe, steps)))
    model.optimizer.build(model.trainable_variables)
    return model


def _part(part: presets.Part, **arguments: Any) -> keras.layers.Layer:
    kinds = {
        name: kind
        for name, kind in vars(networks).items()
        if not name.startswith("_")
        and isinstance(kind, type)
        and issubclass(kind, keras.layers.Layer)
    }
    checks.choice("network", part.name, tuple(kinds))
    try:
        return kinds[part.name](**{**part.arguments, **arguments})
    except checks.InputError:
        raise
    except (TypeError, ValueError) as error:
        raise checks.InputError(
            f"a recipe's {part.name} takes that class's arguments. Received: {error}."
        ) from error


def _schedule(recipe: presets.Recipe, steps: int) -> float | Any:
    if recipe.schedule == "constant":
        return recipe.learning_rate
    warmup = min(recipe.warmup_steps, steps // 10)
    return keras.optimizers.schedules.CosineDecay(
        initial_learning_rate=0.0 if warmup else recipe.learning_rate,
        warmup_target=recipe.learning_rate if warmup else None,
        warmup_steps=warmup,
        decay_steps=steps - warmup,
    )


# --------------------------------------------------------------------------------- the stages


def _check_folder(folder: Path, wanted: dict[str, Any], overwrite: bool) -> None:
    """Refuses a folder that is not this configuration's; reads only."""
    checks.writable("workdir", folder, folder=True)
    try:
        held = _held(folder)
        others = held is None and folder.exists() and any(folder.iterdir())
    except (OSError, ValueError, RecursionError) as error:
        raise _unusable(folder, error) from error
    if others:
        raise checks.InputError(
            f"a new run needs an empty folder. Received: {folder}, which holds other files. "
            "Name another --workdir."
        )
    if held is not None and held != wanted and not overwrite:
        changed = sorted(name for name in {*held, *wanted} if held.get(name) != wanted.get(name))
        raise checks.InputError(
            f"a run folder holds one configuration. Received: {folder}, which holds another "
            f"{', '.join(changed)}. Pass --overwrite, or another --workdir."
        )


def _claim(folder: Path, wanted: dict[str, Any], overwrite: bool) -> None:
    """Makes the folder this configuration's; one that went through `_check_folder`."""
    try:
        if _held(folder) is not None:
            files.sweep(folder)
            if not overwrite:
                return
            _empty(folder)
        files.write_json(folder / "config.json", wanted)
    except OSError as error:
        raise _unusable(folder, error) from error


def _held(folder: Path) -> dict[str, Any] | None:
    path = folder / "config.json"
    if not path.exists():
        return None
    held = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(held, dict):
        raise ValueError("its config.json is no JSON object")
    return held


def _unusable(folder: Path, error: Exception) -> checks.InputError:
    return checks.InputError(
        f"the run folder must be readable and writable. Received: {folder} ({error}). "
        "Name another --workdir."
    )


def _empty(folder: Path) -> None:
    """Removes what runs write, and nothing else."""
    # The configuration goes last: until then a second try still knows the folder for a run's.
    for name in ("report.html", "metrics.json", "model.keras", "elbo.csv"):
        (folder / name).unlink(missing_ok=True)
    for name in ("checkpoints", "figures", "serving"):
        shutil.rmtree(folder / name, ignore_errors=True)
    (folder / "config.json").unlink()


def _check_sizes(recipe: presets.Recipe, num_images: int) -> None:
    if recipe.validation >= num_images:
        raise checks.InputError(
            f"validation must leave images to train on. Received: {recipe.validation} of "
            f"{num_images} images. Hold fewer out."
        )
    checks.batch_size(recipe.batch_size, num_images - recipe.validation)


def _fit(
    model: VAE,
    recipe: presets.Recipe,
    images: data.Images,
    folder: Path,
    signals: _Signals,
) -> None:
    progress = checkpoints.restore(folder / "checkpoints", model)
    csv_path = folder / "elbo.csv"
    if progress is not None:
        callbacks.write_elbo_csv(csv_path, progress.rows)
        if progress.epoch >= recipe.epochs:
            return
        print(f"Going on after epoch {progress.epoch}, step {progress.step}.", flush=True)
    writer = callbacks.ELBOWriter(csv_path, append=progress is not None)
    train_rows = len(images.x_train) - recipe.validation
    validation = (images.x_train[train_rows:],) if recipe.validation else None
    model.fit(
        images.x_train[:train_rows],
        batch_size=recipe.batch_size,
        epochs=recipe.epochs,
        initial_epoch=progress.epoch if progress is not None else 0,
        validation_data=validation,
        validation_batch_size=min(500, recipe.validation or 500),
        callbacks=[
            writer,
            callbacks.FigureWriter(
                gallery.prior_grids(model, recipe.seed),
                folder / "figures",
                epochs={min(epoch, recipe.epochs) for epoch in (*_FIGURE_EPOCHS, recipe.epochs)},
                titles=gallery.PRIOR_TITLES,
            ),
            checkpoints.Checkpointer(
                folder / "checkpoints",
                rows=lambda: writer.rows,
                progress=progress,
                should_stop=lambda: signals.received is not None,
            ),
        ],
    )


def _finish(
    model: VAE,
    recipe: presets.Recipe,
    config: TrainConfig,
    images: data.Images,
    folder: Path,
    signals: _Signals,
) -> None:
    """Writes everything that follows from the weights; done again as a whole if cut short."""
    test = data.binarize(images.x_test, recipe.seed, recipe.binarization)
    rows = callbacks.read_elbo_csv(folder / "elbo.csv")
    signals.check("before the export")
    save_weights(model, folder / "model.keras")
    export.export_saved_model(model, folder / "serving", version=1, overwrite=True)

    signals.check("before the figures")
    curve = figures.elbo_curve(
        [float(row["elbo"]) for row in rows],
        [float(row["val_elbo"]) for row in rows if row["val_elbo"]],
    )
    figures.save(curve, folder / "figures" / "elbo.png")
    for name, figure in gallery.test_figures(model, images.x_test, test, images.y_test):
        figures.save(figure, folder / "figures" / f"{name}.png")
        signals.check("between two figures")

    metrics = {
        "preset": config.preset,
        "parameters": model.count_params(),
        "provenance": report.provenance(data.fingerprint(images.x_test)),
        "metrics": measure(model, test, recipe),
        "latent_classes": latent_classes(model, test, images.y_test),
    }
    files.write_json(folder / "metrics.json", metrics)
    settings = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    page = report.page(f"Run of {config.preset}", settings, rows, metrics, folder / "figures")
    files.write_text(folder / "report.html", page)
    elbo = next(entry for entry in metrics["metrics"] if entry["name"] == "elbo")
    print(f"Test ELBO: {elbo['value']:.3f} nats per image. The report: {folder / 'report.html'}")


def measure(model: VAE, test: np.ndarray, recipe: presets.Recipe) -> list[dict[str, Any]]:
    """Measures the test set: ELBO, rate, distortion and active units, as `metrics.json` entries."""
    terms = evaluation.evaluate_elbo(model, test, _ELBO_DRAWS, seed=recipe.seed)
    units = evaluation.active_units(model, test)
    facts = {
        "num_images": len(test),
        "split": "test",
        "binarization": recipe.binarization,
        "seed": recipe.seed,
    }
    entries = [
        report.metric(
            name,
            estimate.mean,
            unit="nats per image",
            estimator="posterior draws",
            num_samples=terms.num_draws,
            standard_error=estimate.standard_error,
            seconds=terms.seconds,
            **facts,
        )
        for name, estimate in (
            ("elbo", terms.elbo),
            ("rate", terms.rate),
            ("distortion", terms.distortion),
        )
    ]
    unit_facts = {"estimator": "variance of the posterior mean", "threshold": units.threshold}
    entries.append(
        report.metric("active_units", units.count, unit="dimensions", **unit_facts, **facts)
    )
    return entries


def latent_classes(model: VAE, test: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    """Returns the distances between class means, and each class's others from the nearest on."""
    names = np.unique(labels)
    distances = gallery.class_distances(model.encode(test).loc, labels)
    return {
        "names": [str(name) for name in names],
        "distances": [[round(float(value), 4) for value in row] for row in distances],
        "nearest": gallery.nearest_classes(distances, names),
    }


def save_weights(model: VAE, path: Path) -> None:
    """Writes weights and configuration as a `.keras` file, without optimizer state."""
    bare = VAE.from_config(model.get_config())
    if not bare.built:
        bare.build((None, *model.image_shape))
    bare.set_weights(model.get_weights())
    with files.staged(path) as temporary:
        bare.save(temporary)


class _Signals:
    """Turns the first Ctrl-C or SIGTERM into a request; a second Ctrl-C ends at once."""

    def __init__(self) -> None:
        self.received: int | None = None
        self._before: dict[int, Callable[..., Any] | int | None] = {}

    def __enter__(self) -> _Signals:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def check(self, where: str) -> None:
        """Raises Stopped when a signal has come."""
        if self.received is not None:
            raise checkpoints.Stopped(where)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = number
