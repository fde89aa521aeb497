"""A run: configuration, recipe, data, model, fit, artifacts."""

from __future__ import annotations

import contextlib
import json
import signal
from pathlib import Path

from vae_keras.model import VAE
from vae_keras.report import gallery
from vae_keras.trainer.nonfinite import Diverged
from vae_keras.training import artifacts, best, callbacks, checkpoints, cluster, run_folder
from vae_keras.training.build import build_model
from vae_keras.training.config import TrainConfig
from vae_keras.training.plan import Plan, load_data, make_plan
from vae_keras.training.signals import Interrupted, Signals, Stopped
from vae_keras.utils import checks

_FIGURE_EPOCHS = (20, 30)
_VALIDATION_BATCH = 500


def train(config: TrainConfig) -> Path:
    """Trains a preset and writes its run folder. The same call again goes on where it stopped.

    The folder holds `config.json`, `elbo.csv`, `figures/`, `model.keras`, `serving/1/`,
    `metrics.json` and `report.html`, and in `checkpoints/` what the run goes on from.

    Args:
        config: what to train, and where.

    Returns:
        The run folder.

    Raises:
        checks.InputError: if the configuration breaks a rule. Nothing is written.
        Interrupted: after Ctrl-C or SIGTERM. The state is saved.
        Diverged: if the loss or a weight is not finite. The message names the last checkpoint.
        cluster.WorkerLost: if another worker ended. The chief's checkpoint holds the state.

    Example:
        >>> folder = train(TrainConfig(epochs=2, workdir="runs/short"))  # doctest: +SKIP
    """
    recipe, folder = config.recipe(), config.folder()
    team = cluster.join(config.strategy)
    with (
        Signals(armed=False) as signals,
        team.watched(),
        contextlib.ExitStack() as held,
    ):
        if team.is_chief:
            print("Loading training data...", flush=True)
        dataset = load_data(
            recipe.data,
            config.image_size,
            config.skip_damaged,
            config.group_by,
            say=print if team.is_chief else lambda _: None,
        )
        plan = make_plan(config, recipe, dataset)
        if _is_complete(team, plan, folder, config):
            return folder
        if team.is_chief:
            print("\n".join(plan.describe()), flush=True)
        signals.armed = True
        team.on_chief(lambda: held.enter_context(run_folder.held(folder)))
        images = dataset.images.x_train
        with team.scope():
            model = build_model(plan.recipe, images.shape[1:], len(images), plan.classes)
        team.on_chief(lambda: run_folder.claim(folder, plan.settings, config.overwrite))
        try:
            fit(model, plan, folder, signals, team)
            team.on_chief(lambda: artifacts.write(model, plan, folder, config.test, signals))
        except Stopped as stop:
            # A worker without a signal of its own stopped because another worker got one.
            raise Interrupted(signals.received or signal.SIGTERM, folder, str(stop)) from None
        except Diverged as error:
            raise Diverged(error.step, error.place, _remedy(folder)) from error
    return folder


def fit(model: VAE, plan: Plan, folder: Path, signals: Signals, team: cluster.Cluster) -> None:
    """Trains a model for the epochs of its recipe that are not done yet.

    Args:
        model: a compiled model whose optimizer is built.
        plan: the plan of the run.
        folder: the run folder. The chief writes `elbo.csv`, figures and checkpoints there.
        signals: the signals of the run.
        team: the processes that train together.

    Raises:
        Stopped: if a signal has come. The state is saved.
        Diverged: if the loss or a weight is not finite.
    """
    recipe, csv_path = plan.recipe, folder / "elbo.csv"
    progress = _restore(model, folder, team)
    if progress is not None:
        if team.is_chief:
            callbacks.write_elbo_csv(csv_path, progress.rows)
            print(f"Going on after epoch {progress.epoch}, step {progress.step}.", flush=True)
        if progress.epoch >= recipe.epochs:
            return
    writer = callbacks.ELBOWriter(
        csv_path,
        append=progress is not None,
        seconds_before=0.0 if progress is None else progress.seconds,
    )
    checkpointer = checkpoints.Checkpointer(
        folder / "checkpoints" if team.is_chief else None,
        rows=lambda: writer.rows,
        progress=progress,
        epoch_seconds=writer.seconds,
        should_stop=lambda: signals.received is not None,
    )
    if team.has_peers:
        # All workers must stop after the same step: one that goes on would wait for the others.
        model.wants_stop = checkpointer.should_stop
        checkpointer.should_stop = lambda: model.all_stop
    # The best weights are written before the checkpoint: a run that ends in between repeats both.
    kept = best.BestWeights(folder / "checkpoints" / best.FILE)
    figures = callbacks.FigureWriter(
        gallery.prior_grids(model, recipe.seed),
        folder / "figures",
        epochs={min(epoch, recipe.epochs) for epoch in (*_FIGURE_EPOCHS, recipe.epochs)},
        titles=gallery.prior_titles(model),
        invert=plan.dataset.invert,
    )
    x, y = plan.images("training")
    x_val, y_val = plan.images("validation")
    held_out = (x_val, y_val) if model.reads_labels else (x_val,)
    model.fit(
        x,
        y if model.reads_labels else None,
        batch_size=recipe.batch_size,
        epochs=recipe.epochs,
        initial_epoch=0 if progress is None else progress.epoch,
        validation_data=held_out if len(x_val) else None,
        validation_batch_size=min(_VALIDATION_BATCH, len(x_val) or _VALIDATION_BATCH),
        verbose="auto" if team.is_chief else 0,
        callbacks=[writer, kept, figures, checkpointer] if team.is_chief else [checkpointer],
    )


def _is_complete(team: cluster.Cluster, plan: Plan, folder: Path, config: TrainConfig) -> bool:
    """Returns whether the chief's folder holds this run, finished; refuses another run's folder."""

    def look() -> bytes:
        run_folder.check(folder, plan.settings, config.overwrite)
        complete = not config.overwrite and run_folder.is_complete(folder, config.test)
        if complete:
            print(f"{folder} is complete. To train it anew, pass --overwrite.")
        return json.dumps([complete, plan.settings]).encode()

    complete, of_chief = json.loads(team.on_chief(look))
    if of_chief != plan.settings:
        raise checks.InputError(
            "all workers must train the same configuration on the same data. Received: a "
            "configuration that differs from the chief's. Start every worker with the same command."
        )
    return complete


def _restore(model: VAE, folder: Path, team: cluster.Cluster) -> checkpoints.Progress | None:
    """Restores the chief's checkpoint. The other workers need not see the chief's folder."""
    saved, curve = folder / "checkpoints", folder / "elbo.csv"
    if not team.has_peers:
        return checkpoints.restore(saved, model, curve)
    return checkpoints.unpack(team.on_chief(lambda: checkpoints.pack(saved, curve)), model)


def _remedy(folder: Path) -> str:
    saved = folder / "checkpoints"
    newest = checkpoints.newest(saved)
    found = (
        "There is no checkpoint yet" if newest is None else f"The last good checkpoint: {newest}"
    )
    return f"{found} in {saved}. Lower --learning-rate and pass another --workdir."
