"""The contests: who does what against whom, and the check that comes before the timing."""

from __future__ import annotations

import functools
import multiprocessing
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks import results, tiles
from benchmarks.gate import Worker
from benchmarks.race import Ratio, race
from benchmarks.results import Result
from benchmarks.workload import (
    DIGIT,
    Networks,
    Weights,
    Workload,
    binary,
    conv,
    initial_weights,
    judge_elbo,
    mlp,
    write_weights,
)

_JUDGED = 5000  # test images
_ELBO_TOLERANCE = 7.0  # nats: seeds differ by 1.2 (batch 200) to 1.7 (batch 20), two of them here
_TRAINED_EPOCHS = 3  # before a likelihood is estimated


@dataclass(frozen=True)
class Entry:
    """A contestant.

    Attributes:
        name: in the table.
        target: its function.
        num_images: of one of its slices.
        floor: whether it does only the matrix products of the work.
        limit: name of the contestant that does the least that this one must. Default none.
    """

    name: str
    target: str
    num_images: int
    floor: bool = False
    limit: str = ""


@dataclass(frozen=True)
class Contest:
    """One case.

    Attributes:
        name: on the command line and of the results' files.
        title: of its table and chart.
        entries: who takes part; the first one is the reference.
        batch_size: images a step or call.
        trained: whether the weights are trained ones, else initial ones.
        judge: name of the check in `_JUDGES`; contestants that differ from the reference by more
            than `tolerance` end the run.
        tolerance: in the judge's unit.
        check_slices: slices before the check. Default 1.
        conv: whether the weights are the convolutional networks'. Default False.
        photographs: whether the images are tiles of photographs, in files. Default False.
    """

    name: str
    title: str
    entries: tuple[Entry, ...]
    batch_size: int
    trained: bool
    judge: str
    tolerance: float
    check_slices: int = 1
    conv: bool = False
    photographs: bool = False

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape of an image."""
        return tiles.SHAPE if self.photographs else DIGIT


def _entries(num_images: int, targets: Mapping[str, str], floor: bool = False) -> tuple[Entry, ...]:
    """Makes contestants whose slices have the same number of images, from names and functions."""
    return tuple(Entry(name, target, num_images, floor) for name, target in targets.items())


def _training(batch_size: int, num_images: int) -> Contest:
    targets = {
        "ours, VAE.fit": "ours:fit",
        "ours, as train.py": "ours:fit_as_train_py",
        "ours, input pipeline removed": "ours:fit_without_pipeline",
        "JAX, jit and scan, optax": "jax_scan:scan",
        "PyTorch, eager, fused Adam": "pytorch:eager",
        "PyTorch, torch.compile": "pytorch:compiled",
        "Keras fit on a NumPy array": "plain_keras:fit",
        "pythae, its trainer": "pythae_vae:train",
    }
    floors = {
        "floor: sgemm of NumPy": "floor:train_numpy",
        "floor: sgemm of PyTorch": "floor:train_torch",
        "floor: sgemm of TensorFlow": "floor:train_tensorflow",
    }
    return Contest(
        name=f"train_{batch_size}",
        title=f"Training at batch size {batch_size}",
        entries=(
            *_entries(num_images, targets),
            *_entries(num_images, floors, floor=True),
        ),
        batch_size=batch_size,
        trained=False,
        judge="elbo",
        tolerance=_ELBO_TOLERANCE,
        check_slices=60000 // num_images,
    )


def _parts(batch_size: int, num_images: int) -> Contest:
    floor, traffic = "floor: sgemm of TensorFlow", "only Adam's reads and writes"
    parts = (
        ("the whole of VAE.fit", "ours:fit", floor),
        ("the compiled kernel", "parts:kernel", floor),
        ("matrix products in XLA", "parts:products", floor),
        ("Adam", "parts:adam", traffic),
        ("Bernoulli log-probability and gradient", "parts:bernoulli", ""),
        ("binarization: bits", "parts:pixel_bits", ""),
        ("binarization: comparison", "parts:comparison", ""),
        ("latent noise", "parts:latent_noise", ""),
        ("shuffle and gather", "parts:pipeline", ""),
        (traffic, "parts:adam_traffic", ""),
    )
    return Contest(
        name=f"profile_{batch_size}",
        title=f"Where a training step's time goes, batch size {batch_size}",
        entries=(
            *(Entry(name, target, num_images, limit=limit) for name, target, limit in parts),
            Entry(floor, "floor:train_tensorflow", num_images, floor=True),
        ),
        batch_size=batch_size,
        trained=False,
        judge="none",
        tolerance=0.0,
    )


def _serving(batch_size: int, calls: int) -> Contest:
    num_images = batch_size * calls
    return Contest(
        name=f"serving_{batch_size}",
        title=f"Reconstruction of {batch_size} image{'s' * (batch_size > 1)} a call",
        entries=(
            Entry("the same graph in-process", "serving:in_process", num_images),
            Entry("through the SavedModel", "serving:saved_model", num_images),
        ),
        batch_size=batch_size,
        trained=False,
        judge="array",
        tolerance=1e-5,
    )


_NO_THOUGHT = Contest(
    name="train_32",
    title="vae.compile(); vae.fit(x) beside train.py at its batch size",
    entries=(
        Entry("ours, as train.py", "ours:fit_as_train_py", 60000),
        Entry("ours, vae.compile(); vae.fit(x)", "ours:fit_with_defaults", 60000),
    ),
    batch_size=32,  # the default
    trained=False,
    judge="elbo",
    tolerance=_ELBO_TOLERANCE,
)

_CONV = Contest(
    name="train_conv",
    title="Training residual convolutional networks at batch size 100",
    entries=(
        *_entries(
            10000,
            {
                "ours, VAE.fit": "ours:fit_conv",
                "PyTorch, eager, fused Adam": "pytorch_conv:eager",
                "PyTorch, torch.compile": "pytorch_conv:compiled",
                "PyTorch, channels last": "pytorch_conv:channels_last",
                "PyTorch, channels last, torch.compile": "pytorch_conv:channels_last_compiled",
            }
            | (
                {
                    "ours, VAE.fit in bfloat16": "ours:fit_conv_bfloat16",
                    "PyTorch, its best in bfloat16": "pytorch_conv:bfloat16",
                }
                if results.has_bfloat16()
                else {}
            ),
        ),
        Entry("floor: convolutions of PyTorch", "floor_conv:train", 10000, floor=True),
    ),
    batch_size=100,
    trained=False,
    judge="conv_elbo",
    tolerance=_ELBO_TOLERANCE,
    check_slices=3,
    conv=True,
)

_PHOTOGRAPHS = Contest(
    name="train_photographs",
    title="Training on a folder of photographs, 128 x 128 x 3, with convolutions",
    entries=_entries(
        180,
        {
            "ours, VAE.fit": "ours:fit_photographs",
            "ours, input pipeline removed": "ours:fit_photographs_without_pipeline",
            "PyTorch, its loader": "pytorch_conv:photographs",
            "PyTorch, its loader, channels last": "pytorch_conv:photographs_channels_last",
            "PyTorch, its loader, channels last, torch.compile": (
                "pytorch_conv:photographs_channels_last_compiled"
            ),
        },
    ),
    batch_size=60,
    trained=False,
    judge="photographs_elbo",
    tolerance=1000.0,  # nats: five seeds differ by 630, the nine steps before the check gain 2,500
    check_slices=3,
    conv=True,
    photographs=True,
)

_LIKELIHOOD = Contest(
    name="likelihood",
    title="Log-likelihood at 5,000 importance samples",
    entries=(
        Entry("ours, estimate_log_likelihood", "ours:likelihood", 300),
        Entry("pythae, get_nll", "pythae_vae:likelihood", 120),
        Entry("floor: sgemm of NumPy", "floor:likelihood_numpy", 300, floor=True),
        Entry("floor: sgemm of PyTorch", "floor:likelihood_torch", 300, floor=True),
        Entry("floor: sgemm of TensorFlow", "floor:likelihood_tensorflow", 300, floor=True),
    ),
    batch_size=20,
    trained=True,
    judge="log_likelihood",
    tolerance=0.3,  # nats: two estimates of 120 images differ by 0.06, a standard deviation
)

_LIKELIHOOD_CONV = Contest(
    name="likelihood_conv",
    title="Log-likelihood of convolutional networks at 1,000 importance samples",
    entries=(
        Entry("ours, estimate_log_likelihood", "ours:likelihood_conv", 20),
        Entry("floor: convolutions of PyTorch", "floor_conv:likelihood", 20, floor=True),
    ),
    batch_size=20,
    trained=True,
    judge="log_likelihood",
    tolerance=0.0,  # only ours has a figure
    conv=True,
)

CONTESTS = {
    contest.name: contest
    for contest in (
        _training(200, 60000),
        _training(20, 20000),
        _NO_THOUGHT,
        _CONV,
        _PHOTOGRAPHS,
        _LIKELIHOOD,
        _LIKELIHOOD_CONV,
        _serving(1, 2000),
        _serving(64, 300),
        _parts(200, 60000),
        _parts(20, 20000),
    )
}


class CheckFailed(Exception):
    """A contestant came to another figure than the reference: its time would mean nothing."""


def run(
    contest: Contest, rounds: int, only: tuple[str, ...], say: Callable[[str], None]
) -> list[Result]:
    """Checks and times a contest.

    Args:
        contest: which one.
        rounds: of timing; they start when every contestant has passed the check.
        only: parts of the names that take part beside the reference; all when empty.
        say: gets lines on the progress.

    Returns:
        One result a contestant, the reference first.

    Raises:
        CheckFailed: when a contestant does other work than the reference.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _prepare(contest, folder, say)
        workers: dict[str, Worker] = {}
        failures: dict[str, str] = {}
        figures: dict[str, float | None] = {}
        reference = contest.entries[0]
        entries = [
            entry
            for entry in contest.entries
            if entry is reference or not only or any(part in entry.name for part in only)
        ]
        try:
            outcomes = {}
            for entry in entries:
                try:
                    worker = Worker(entry.target, _workload(contest, entry, folder))
                    workers[entry.name] = worker
                    seconds = worker.slice().seconds
                    for _ in range(contest.check_slices - 1):
                        worker.slice()
                    outcomes[entry.name] = worker.outcome()
                except RuntimeError as error:
                    workers.pop(entry.name, None)
                    failures[entry.name] = str(error).strip().splitlines()[-1]
                    say(f"{entry.name}: could not run ({error})")
                    continue
                say(f"{entry.name}: first slice {seconds:.2f} s")
            figures = _check(contest, folder, outcomes, say)
            costs = race({name: _cost(worker) for name, worker in workers.items()}, rounds, say)
            return [_result(contest, entry, workers, costs, figures, failures) for entry in entries]
        finally:
            for worker in workers.values():
                worker.close()


def _cost(worker: Worker) -> Callable[[], float]:
    def seconds_per_image() -> float:
        done = worker.slice()
        return done.seconds / done.images

    return seconds_per_image


def _result(
    contest: Contest,
    entry: Entry,
    workers: Mapping[str, Worker],
    costs: Mapping[str, list[float]],
    figures: Mapping[str, float | None],
    failures: Mapping[str, str],
) -> Result:
    if entry.name in failures:
        return Result(contest.name, entry.name, entry.floor, failure=failures[entry.name])
    return Result(
        contest.name,
        entry.name,
        entry.floor,
        seconds=costs[entry.name],
        per="image",
        ratio=Ratio.of(costs[entry.name], costs[contest.entries[0].name]),
        limit=entry.limit,
        figure=figures.get(entry.name),
        peak_rss=workers[entry.name].peak_rss(),
    )


# ------------------------------------------------------------------------ before the timing


def _workload(contest: Contest, entry: Entry, folder: Path) -> Workload:
    return Workload(folder, contest.batch_size, entry.num_images, contest.shape)


def _prepare(contest: Contest, folder: Path, say: Callable[[str], None]) -> None:
    """Writes images and weights; a process of its own loads them, this one stays small."""
    process = multiprocessing.get_context("spawn").Process(
        target=_write_images, args=(folder, contest)
    )
    process.start()
    process.join()
    if process.exitcode:
        raise RuntimeError(
            "A case needs its images and weights. Received: a process that could not write them. "
            "Its error is above."
        )
    if contest.trained:
        say(f"training for {_TRAINED_EPOCHS} epochs first")
        fit = ("ours:fit_conv", 100, 10000) if contest.conv else ("ours:fit", 200, 60000)
        worker = Worker(fit[0], Workload(folder, *fit[1:]))
        try:
            for _ in range(_TRAINED_EPOCHS):
                worker.slice()
            write_weights(folder, worker.outcome())
        finally:
            worker.close()


def _write_images(folder: Path, contest: Contest) -> None:
    from vae_keras.data import datasets

    if contest.conv:
        from benchmarks.contestants import ours

        write_weights(folder, ours.conv_vae(shape=contest.shape).get_weights())
    else:
        write_weights(folder, initial_weights())
    if contest.photographs:
        tiles.write(folder / "tiles")
        return
    images = datasets.load_mnist()
    for name in ("x_train", "x_test"):
        np.save(folder / f"{name}.npy", getattr(images, name).reshape(-1, 784))


def _check(
    contest: Contest,
    folder: Path,
    outcomes: Mapping[str, object],
    say: Callable[[str], None],
) -> dict[str, float | None]:
    """Judges each outcome, holds it against the reference's, and returns the figures."""
    if contest.judge == "none":
        return {}
    if contest.photographs:
        images = tiles.read(folder / "tiles" / "test") / np.float32(255.0)
    else:
        images = binary(np.load(folder / "x_test.npy")[:_JUDGED])
    outcomes = {name: outcome for name, outcome in outcomes.items() if outcome is not None}
    if contest.judge == "log_likelihood":  # over the images that all have in common
        shared = min(len(outcome) for outcome in outcomes.values())
        outcomes = {name: outcome[:shared] for name, outcome in outcomes.items()}
    reference = outcomes[contest.entries[0].name]
    figures: dict[str, float | None] = {}
    for name, outcome in outcomes.items():
        figure, difference = _JUDGES[contest.judge](outcome, reference, images)
        figures[name] = figure
        say(f"{name}: {contest.judge} {figure:.3f}, {difference:.2g} from the reference")
        if not difference <= contest.tolerance:
            raise CheckFailed(
                f"{name} comes to {figure:.3f}, {difference:.3g} from the reference, which is "
                f"more than {contest.tolerance}"
            )
    return figures


def _judge_weights(
    networks: Networks, outcome: Weights, reference: Weights, images: np.ndarray
) -> tuple[float, float]:
    figure = judge_elbo(outcome, images, networks)
    return figure, abs(figure - judge_elbo(reference, images, networks))


def _judge_log_likelihood(
    outcome: np.ndarray, reference: np.ndarray, images: np.ndarray
) -> tuple[float, float]:
    figure = float(np.mean(outcome))
    return figure, abs(figure - float(np.mean(reference)))


def _judge_array(
    outcome: np.ndarray, reference: np.ndarray, images: np.ndarray
) -> tuple[float, float]:
    return float(outcome.mean()), float(np.abs(outcome - reference).max())


_JUDGES: dict[str, Callable[..., tuple[float, float]]] = {
    "elbo": functools.partial(_judge_weights, mlp),
    "conv_elbo": functools.partial(_judge_weights, conv),
    "photographs_elbo": functools.partial(
        _judge_weights, functools.partial(conv, shape=tiles.SHAPE)
    ),
    "log_likelihood": _judge_log_likelihood,
    "array": _judge_array,
}
