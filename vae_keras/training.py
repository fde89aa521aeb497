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
from types import FrameType, ModuleType
from typing import Any

import numpy as np

from vae_keras import (
    callbacks,
    checkpoints,
    checks,
    cluster,
    data,
    datasets,
    distributions,
    divergence,
    evaluation,
    export,
    figures,
    files,
    gallery,
    networks,
    objectives,
    optimizers,
    own_images,
    presets,
    priors,
    report,
    schedules,
)
from vae_keras.model import VAE

_FIGURE_EPOCHS = (20, 30)
_ELBO_DRAWS = 10
# Own data: one training image in so many is held out, and an epoch has so many steps where there
# are images enough for batches of this size.
_OWN_VALIDATION_SHARE, _OWN_STEPS, _OWN_BATCH = 10, 100, 10


@dataclass(frozen=True)
class TrainConfig:
    """What `train` is asked for; None takes the preset's value.

    Attributes:
        preset: name of a recipe in the zoo. Default "mlp_mnist".
        epochs, batch_size, learning_rate, seed, validation: in the recipe's place.
        binarization: in the recipe's place, with its likelihood: a `ContinuousBernoulli` for
            "none", else a `Bernoulli`.
        workdir: the run folder. Default `runs/<preset>`, or `runs/<preset>-<data>` for other data
            than the preset's.
        data: a name in `datasets.KNOWN`, or a path as `own_images.load` takes it; batch size and
            validation images are then sized by the data where they are not given.
        image_size: "H" or "HxW" to scale own images to. Default: as they are.
        strategy: "none", "mirrored" or "multi_worker", see `cluster.join`; the batch size is the
            global one, and the result the same up to float error. Default "none".
        overwrite: whether a folder that holds another run is emptied. Default False.
    """

    preset: str = "mlp_mnist"
    epochs: int | None = None
    batch_size: int | None = None
    learning_rate: float | None = None
    seed: int | None = None
    workdir: str | os.PathLike[str] | None = None
    data: str | None = None
    image_size: str | None = None
    validation: int | None = None
    binarization: str | None = None
    strategy: str = "none"
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
        if self.binarization is not None:
            kind = "ContinuousBernoulli" if self.binarization == "none" else "Bernoulli"
            given["likelihood"] = presets.Part(kind)
        recipe = dataclasses.replace(recipe, **given)
        checks.whole_number("epochs", recipe.epochs, 1, checkpoints.MAX_EPOCHS)
        checks.whole_number("batch_size", recipe.batch_size, 1)
        checks.positive("learning_rate", recipe.learning_rate)
        checks.seed(recipe.seed)
        checks.whole_number("validation", recipe.validation, 0)
        checks.whole_number("warmup_steps", recipe.warmup_steps, 0)
        checks.whole_number("cycles", recipe.cycles, 1)
        checks.choice("binarization", recipe.binarization, data.BINARIZATIONS)
        checks.choice("likelihood", recipe.likelihood.name, presets.LIKELIHOODS)
        checks.choice("schedule", recipe.schedule, presets.SCHEDULES)
        checks.choice("precision", recipe.precision, presets.PRECISIONS)
        return recipe

    def folder(self) -> Path:
        """Returns the run folder."""
        if self.workdir is not None:
            return checks.path("workdir", self.workdir)
        if self.data in (None, presets.load_recipe(self.preset).data):
            return Path("runs") / self.preset
        name = self.data if self.data in datasets.KNOWN else own_images.name(self.data)
        return Path("runs") / f"{self.preset}-{name}"


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
        cluster.WorkerLost: when another worker ended; its place is in the chief's checkpoint.

    Example:
        >>> train(TrainConfig(preset="mlp_mnist", epochs=2, workdir="runs/short"))
    """
    recipe, folder = config.recipe(), config.folder()
    team = cluster.join(config.strategy)
    with _Signals() as signals, team.watched():
        if team.is_chief:
            print("Loading training data...", flush=True)
        dataset = load_data(recipe.data, config.image_size)
        images = dataset.images
        recipe = _sized(recipe, config, dataset)
        wanted = {"preset": config.preset} | recipe.to_dict()
        if recipe.start_from:
            wanted[presets.START_HASH] = files.sha256(presets.weights(recipe.start_from))
        if dataset.own:
            wanted["own_data"] = dict(dataset.identity)
        if _is_complete(team, folder, wanted, config.overwrite):
            return folder
        _check_sizes(recipe, len(images.x_train))
        if recipe.likelihood.name == "ContinuousBernoulli":
            checks.grey(images.x_train)
        if team.is_chief:
            _announce(recipe, config, dataset)
        team.on_chief(lambda: _claim(folder, wanted, config.overwrite))
        with team.scope():
            model = build_model(recipe, images.x_train.shape[1:], len(images.x_train))
        try:
            _fit(model, recipe, dataset, folder, signals, team)
            team.on_chief(lambda: _finish(model, recipe, config, dataset, folder, signals))
        except checkpoints.Stopped as stopped:
            # Without a signal of its own, this worker stopped for another's.
            raise Interrupted(signals.received or signal.SIGTERM, folder, str(stopped)) from None
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


def load_data(name: str, image_size: str | None = None) -> datasets.DataSet:
    """Loads the data set called `name`, or the user's own at that path.

    Args:
        name: one of `datasets.KNOWN`, or a path.
        image_size: as in `own_images.load`; own images alone are scaled. Default None.

    Raises:
        checks.InputError: for data that cannot be had or read.
    """
    if name not in datasets.KNOWN:
        return own_images.load(name, image_size)
    if image_size is not None:
        raise checks.InputError(
            f"image_size scales your own images. Received: {image_size!r} for {name}. "
            "Leave it out, or name a folder."
        )
    return datasets.load(name)


def build_model(recipe: presets.Recipe, image_shape: tuple[int, ...], num_images: int) -> VAE:
    """Builds and compiles a recipe's model for images of one shape.

    Args:
        recipe: what to build; its `start_from` names a model of the same parts and shape.
        image_shape: (H, W, C).
        num_images: of training and validation data together; sets the schedule's length.

    Returns:
        A compiled `VAE` whose optimizer is built.
    """
    model = _network(recipe, image_shape, recipe.precision)
    if recipe.start_from:
        source = VAE.from_preset(recipe.start_from)
        model.encoder.set_weights(source.encoder.get_weights())
        model.decoder.set_weights(source.decoder.get_weights())
    steps = -(-(num_images - recipe.validation) // recipe.batch_size) * recipe.epochs
    rate = schedules.cosine(
        recipe.learning_rate, steps, warmup_steps=recipe.warmup_steps, cycles=recipe.cycles
    )
    model.compile(_part(optimizers, recipe.optimizer, learning_rate=rate))
    model.optimizer.build(model.trainable_variables)
    return model


def _network(recipe: presets.Recipe, image_shape: tuple[int, ...], precision: str) -> VAE:
    """A recipe's model with fresh weights, not compiled."""
    given = {"seed": recipe.seed, "dtype": precision}
    prior_seed = {} if recipe.prior.name == "StandardNormal" else {"seed": recipe.seed}
    return VAE(
        _part(networks, recipe.encoder, **given),
        _part(networks, recipe.decoder, **given, image_shape=image_shape),
        prior=_part(priors, recipe.prior, **prior_seed),
        objective=_part(objectives, recipe.objective),
        likelihood=_part(distributions, recipe.likelihood),
        binarization=recipe.binarization,
        seed=recipe.seed,
    )


def _part(module: ModuleType, part: presets.Part, **arguments: Any) -> Any:
    kinds = {
        name: kind
        for name, kind in vars(module).items()
        if not name.startswith("_") and hasattr(kind, "from_config")
    }
    checks.choice(module.__name__.rpartition(".")[2].removesuffix("s"), part.name, tuple(kinds))
    try:
        return kinds[part.name](**{**part.arguments, **arguments})
    except checks.InputError:
        raise
    except (TypeError, ValueError) as error:
        raise checks.InputError(
            f"a recipe's {part.name} takes that class's arguments. Received: {error}."
        ) from error


# --------------------------------------------------------------------------------- the stages


def _is_complete(
    team: cluster.Cluster, folder: Path, wanted: dict[str, Any], overwrite: bool
) -> bool:
    """Whether the chief's folder holds this run, finished; refuses another run's folder."""

    def look() -> bytes:
        _check_folder(folder, wanted, overwrite)
        complete = not overwrite and (folder / "report.html").exists()
        if complete:
            print(f"{folder} is complete. To train it anew, pass --overwrite.")
        return json.dumps([complete, wanted]).encode()

    complete, chiefs = json.loads(team.on_chief(look))
    if chiefs != json.loads(json.dumps(wanted)):
        raise checks.InputError(
            "all workers must train the same configuration on the same data. Received: another "
            "one than the chief's. Start every worker with the same command."
        )
    return complete


def _sized(
    recipe: presets.Recipe, config: TrainConfig, dataset: datasets.DataSet
) -> presets.Recipe:
    """The recipe for this data: what the preset sized for its own and the user did not give."""
    preset = presets.load_recipe(config.preset)
    if recipe.likelihood != preset.likelihood or dataset.name != preset.data:
        # The weights it starts from are for the preset's likelihood, data and shape alone.
        recipe = dataclasses.replace(recipe, start_from="", choices="")
    if dataset.name == preset.data:
        return recipe
    recipe = dataclasses.replace(
        recipe,
        data=dataset.name,
        description=f"The networks of {config.preset}, trained on {dataset.name}",
    )
    if not dataset.own:
        return recipe
    rows = len(dataset.images.x_train)
    held = rows // _OWN_VALIDATION_SHARE if config.validation is None else recipe.validation
    batch = min(
        max((rows - held) // _OWN_STEPS, _OWN_BATCH), recipe.batch_size, max(rows - held, 1)
    )
    if config.batch_size is not None:
        batch = config.batch_size
    return dataclasses.replace(recipe, validation=held, batch_size=batch)


def _announce(recipe: presets.Recipe, config: TrainConfig, dataset: datasets.DataSet) -> None:
    """Says what was found and what is done with it."""
    kept = len(dataset.images.x_train) - recipe.validation
    print("\n".join(datasets.describe(dataset)))
    start = config.recipe().start_from
    if start != recipe.start_from:
        what = "data" if dataset.name != presets.load_recipe(config.preset).data else "pixels"
        print(f"Starting from fresh weights: those of {start} are for other {what}.")
    print(
        f"Training on {kept:,} images, {recipe.validation:,} held out for validation: "
        f"{recipe.epochs:,} epochs of {-(-kept // recipe.batch_size):,} steps, "
        f"{recipe.batch_size} images a step.",
        flush=True,
    )


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
    held = wanted if held is None else held
    changed = {name for name in {*held, *wanted} if held.get(name) != wanted.get(name)}
    changed = sorted(changed.difference(presets.TEXTS))
    if changed and not overwrite:
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
    # A run of an earlier version ran with the defaults of the fields that came since.
    defaults = presets.Recipe("", presets.Part(""), presets.Part(""), 0, 0, 0.0).to_dict()
    return defaults | held


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
    dataset: datasets.DataSet,
    folder: Path,
    signals: _Signals,
    team: cluster.Cluster,
) -> None:
    images = dataset.images
    progress = _restore(model, folder, team)
    csv_path = folder / "elbo.csv"
    if progress is not None:
        if team.is_chief:
            callbacks.write_elbo_csv(csv_path, progress.rows)
        if progress.epoch >= recipe.epochs:
            return
        if team.is_chief:
            print(f"Going on after epoch {progress.epoch}, step {progress.step}.", flush=True)
    writer = callbacks.ELBOWriter(csv_path, append=progress is not None)
    train_rows = len(images.x_train) - recipe.validation
    validation = (images.x_train[train_rows:],) if recipe.validation else None
    checkpointer = checkpoints.Checkpointer(
        folder / "checkpoints" if team.is_chief else None,
        rows=lambda: writer.rows,
        progress=progress,
        should_stop=lambda: signals.received is not None,
    )
    if team.has_peers:  # they all stop after the same step, or those that go on wait in vain
        model.wants_stop = checkpointer.should_stop
        checkpointer.should_stop = lambda: model.all_stop
    figure_writer = callbacks.FigureWriter(
        gallery.prior_grids(model, recipe.seed),
        folder / "figures",
        epochs={min(epoch, recipe.epochs) for epoch in (*_FIGURE_EPOCHS, recipe.epochs)},
        titles=gallery.prior_titles(model),
        ink=dataset.ink,
    )
    model.fit(
        images.x_train[:train_rows],
        batch_size=recipe.batch_size,
        epochs=recipe.epochs,
        initial_epoch=progress.epoch if progress is not None else 0,
        validation_data=validation,
        validation_batch_size=min(500, recipe.validation or 500),
        verbose="auto" if team.is_chief else 0,
        callbacks=[writer, figure_writer, checkpointer] if team.is_chief else [checkpointer],
    )


def _restore(model: VAE, folder: Path, team: cluster.Cluster) -> checkpoints.Progress | None:
    """Goes back to the chief's checkpoint; the other workers need not see its folder."""
    held, curve = folder / "checkpoints", folder / "elbo.csv"
    if not team.has_peers:
        return checkpoints.restore(held, model, curve)
    return checkpoints.unpack(team.on_chief(lambda: checkpoints.pack(held, curve)), model)


def _finish(
    model: VAE,
    recipe: presets.Recipe,
    config: TrainConfig,
    dataset: datasets.DataSet,
    folder: Path,
    signals: _Signals,
) -> None:
    """Writes everything that follows from the weights; done again as a whole if cut short."""
    model = _bare(model, recipe)
    images = dataset.images
    test = data.binarize(images.x_test, recipe.seed, recipe.binarization)
    rows = callbacks.read_elbo_csv(folder / "elbo.csv")
    signals.check("before the export")
    save_weights(model, folder / "model.keras")
    export.export_saved_model(model, folder / "serving", version=1, overwrite=True)

    signals.check("before the figures")
    curve = figures.elbo_curve(
        [float(row["elbo"]) for row in rows],
        [float(row["val_elbo"]) for row in rows if row["val_elbo"]],
        report=report.compares(recipe.data, recipe.likelihood.name),
    )
    figures.save(curve, folder / "figures" / "elbo.png")
    for name, figure in gallery.test_figures(
        model, images.x_test, test, images.y_test, dataset.ink
    ):
        figures.save(figure, folder / "figures" / f"{name}.png")
        signals.check("between two figures")

    settings = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    metrics = {
        "preset": config.preset,
        "parameters": model.count_params(),
        "provenance": report.provenance(datasets.fingerprint(images.x_test)),
        "metrics": measure(model, test, recipe.binarization, recipe.seed),
        "latent_classes": latent_classes(model, test, images.y_test),
    }
    if presets.START_HASH in settings:
        metrics["provenance"][presets.START_HASH] = settings[presets.START_HASH]
    files.write_json(folder / "metrics.json", metrics)
    other = "" if recipe.data == presets.load_recipe(config.preset).data else f" on {recipe.data}"
    page = report.page(
        f"Run of {config.preset}{other}", settings, rows, metrics, folder / "figures"
    )
    files.write_text(folder / "report.html", page)
    elbo = next(entry for entry in metrics["metrics"] if entry["name"] == "elbo")
    print(f"Test ELBO: {elbo['value']:.3f} nats per image. The report: {folder / 'report.html'}")


def measure(model: VAE, test: np.ndarray, binarization: str, seed: int) -> list[dict[str, Any]]:
    """Measures test images: ELBO, rate, distortion and active units, as `metrics.json` entries.

    Args:
        model: the model.
        test: as `data.binarize` gives them, with that binarization and seed.
        binarization: theirs.
        seed: theirs, and that of the posterior draws.
    """
    terms = evaluation.evaluate_elbo(model, test, _ELBO_DRAWS, seed=seed)
    units = evaluation.active_units(model, test)
    facts = {
        "num_images": len(test),
        "split": "test",
        "binarization": binarization,
        "seed": seed,
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


def latent_classes(model: VAE, test: np.ndarray, labels: np.ndarray | None) -> dict[str, Any]:
    """Returns the distances between class means, and each class's others from the nearest on.

    Without classes to compare, see `datasets.has_classes`, it returns nothing.
    """
    if not datasets.has_classes(labels):
        return {}
    names = np.unique(labels)
    distances = gallery.class_distances(model.encode(test).loc, labels)
    return {
        "names": [str(name) for name in names],
        "distances": [[round(float(value), 4) for value in row] for row in distances],
        "nearest": gallery.nearest_classes(distances, names),
    }


def save_weights(model: VAE, path: Path) -> None:
    """Writes weights and configuration as a `.keras` file."""
    with files.staged(path) as temporary:
        model.save(temporary)


def _bare(model: VAE, recipe: presets.Recipe) -> VAE:
    """The trained network in float32, without optimizer state and strategy: the chief works alone
    from here on."""
    bare = _network(recipe, model.image_shape, "float32")
    bare.set_weights(model.get_weights())
    return bare


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
