"""`fit` and `train_on_batch` are the plain loop, in every configuration of the table.

When somebody adds a network, an optimizer, a callback or a way to give data, the entry goes into
`configurations.py`, and this file tests it beside all others without a change. A row that fails is
a fault of the product: its weights, its logs or its callbacks are not what Keras' `fit` gives. The
tolerance of a row states how far float rounding may move a weight, as a part of the way that
training moved it; a tolerance is never raised to make a row pass.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from tests.conformance import configurations as table
from tests.conformance import reference
from vae_keras import VAE, noise

ROWS = table.pairs(table.DIMENSIONS)


def _cover(rows: list[table.Row]) -> list[table.Row]:
    """A few rows that hold every value of every dimension, except those left out of `rows`."""
    chosen, left = [], {item for row in rows for item in row._asdict().items()}
    while left:
        gains = [len(left & set(row._asdict().items())) for row in rows]
        chosen.append(rows[gains.index(max(gains))])
        left -= set(chosen[-1]._asdict().items())
    return chosen


# XLA compiles for seconds, so only one of the fast rows asks for it.
FAST = _cover([row for row in ROWS if row.jit_compile is False])
FAST += [table.Row("mlp", "adam", "arrays", "none", "elbo", 48, "auto")]


class Outcome:
    """What a training run leaves: weights, logs, steps, calls of hooks, files."""

    def __init__(self, model: Any, history: dict, optimizer: Any, callbacks: list, folder: Path):
        self.weights = [np.array(w) for w in model.get_weights()]
        self.history = history
        self.steps = int(optimizer.iterations)
        recorders = [call for call in callbacks if isinstance(call, table.Recorder)]
        self.calls = recorders[0].calls if recorders else []
        self.running = recorders[0].running if recorders else []
        self.files = sorted(path.name for path in folder.glob("*"))


def run(row: table.Row, vae: VAE, images, weights, held_out, folder: Path) -> Outcome:
    """Trains with the product."""
    vae.compile(table.OPTIMIZERS[row.optimizer](), jit_compile=row.jit_compile)
    callbacks = table.CALLBACKS[row.callbacks](folder)
    if row.way == "train_on_batch":
        history: dict[str, list[float]] = {}
        for batch in reference.batches(images, weights, table.BATCH) * table.EPOCHS:
            logs = vae.train_on_batch(batch.images, sample_weight=batch.weights, return_dict=True)
            for name, value in logs.items():
                history.setdefault(name, []).append(value)
    else:
        history = vae.fit(
            **table.WAYS[row.way].arguments(images, weights),
            epochs=table.EPOCHS,
            callbacks=callbacks,
            validation_data=held_out,
            validation_batch_size=table.BATCH,
            verbose=0,
        ).history
    return Outcome(vae, history, vae.optimizer, callbacks, folder)


def expect(row: table.Row, vae: VAE, images, weights, held_out, folder: Path) -> Outcome:
    """Trains with the plain loop."""
    network, way = table.NETWORKS[row.network], table.WAYS[row.way]
    optimizer = table.reference_optimizer(row.optimizer, row.network)
    loop = reference.Loop(vae, optimizer, network.posterior)
    callbacks = table.CALLBACKS[row.callbacks](folder)

    def epoch(number: int) -> list[reference.Batch]:
        order = reference.epoch_order(len(images), vae.seed, number) if way.shuffled else None
        return reference.batches(images, weights if way.weighted else None, table.BATCH, order)

    if row.way == "train_on_batch":
        history: dict[str, list[float]] = {}
        for batch in epoch(0) * table.EPOCHS:
            means = reference.Means()
            loop.train(batch, means)
            for name, value in means.logs().items():
                history.setdefault(name, []).append(value)
    else:
        validation = None if held_out is None else reference.batches(held_out, size=table.BATCH)
        history = loop.fit(epoch, table.EPOCHS, callbacks=callbacks, validation=validation)
    return Outcome(vae, history, optimizer, callbacks, folder)


def assert_same(got: Outcome, want: Outcome, start: list[np.ndarray], tolerance: float) -> None:
    """Compares two outcomes; `start` holds the weights that both began with."""
    moved = max(np.abs(a - b).max() for a, b in zip(want.weights, start, strict=True))
    assert moved > 1e-5, "the case trains nothing, so it proves nothing"
    for index, (a, b) in enumerate(zip(got.weights, want.weights, strict=True)):
        gap = np.abs(a.astype(np.float64) - b).max()
        assert gap <= tolerance * moved, f"weight {index} is off by {gap:.2e}, moved {moved:.2e}"
    assert got.steps == want.steps
    assert got.calls == want.calls
    assert got.files == want.files
    assert set(got.history) == set(want.history)
    for name, values in want.history.items():
        close = {"rtol": max(2e-5, tolerance / 10), "atol": tolerance, "err_msg": name}
        np.testing.assert_allclose(got.history[name], values, **close)
    for mine, theirs in zip(got.running, want.running, strict=True):
        assert set(theirs) <= set(mine)
        for name, value in theirs.items():
            close = {"rtol": max(2e-5, tolerance / 10), "atol": tolerance, "err_msg": name}
            np.testing.assert_allclose(mine[name], value, **close)


def check(row: table.Row, tmp_path: Path) -> None:
    images = table.WAYS[row.way].prepare(table.discs(row.rows))
    weights = table.some_weights(row.rows)
    held_out = table.discs(21, seed=2) if row.callbacks in table.VALIDATED else None
    outcomes = []
    for function in (run, expect):
        folder = tmp_path / function.__name__
        folder.mkdir()
        vae = table.build(row.network, objective=table.OBJECTIVES[row.objective]())
        start = [np.array(w) for w in vae.get_weights()]
        outcomes.append(function(row, vae, images, weights, held_out, folder))
    assert_same(*outcomes, start, table.NETWORKS[row.network].tolerance)


@pytest.mark.parametrize("row", FAST, ids=str)
def test_a_configuration_trains_as_the_plain_loop(row, tmp_path):
    check(row, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("row", [row for row in ROWS if row not in FAST], ids=str)
def test_every_pair_of_values_trains_as_the_plain_loop(row, tmp_path):
    check(row, tmp_path)


def test_the_fast_rows_hold_every_value_of_the_table():
    """No value may be left to the slow rows."""
    for index, values in enumerate(table.DIMENSIONS.values()):
        assert {row[index] for row in FAST} == set(values)


def test_the_rows_hold_every_pair_of_the_table():
    names = list(table.DIMENSIONS)
    for a in range(len(names)):
        for b in range(a + 1, len(names)):
            met = {(row[a], row[b]) for row in ROWS}
            for value_a in table.DIMENSIONS[names[a]]:
                for value_b in table.DIMENSIONS[names[b]]:
                    if table.allowed({names[a]: value_a, names[b]: value_b}):
                        assert (value_a, value_b) in met


def test_the_plain_loop_and_the_model_agree_on_the_bound():
    """The loop writes the ELBO by hand; `VAE.bound` is the product's."""
    vae = table.build("mlp")
    pixels = (table.unit(table.discs(5)) > 0.5).astype(np.float32)
    normal = noise.normal(0, noise.Stream.TEST_LATENTS, rows=5, size=table.LATENTS)
    loop = reference.Loop(vae, keras.optimizers.SGD())
    by_hand = loop.bound(pixels, normal, training=False, step=None)
    objective, terms = vae.bound(pixels, normal, training=False)
    for mine, theirs in zip(by_hand, (objective, terms.log_likelihood, terms.kl), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-5)
