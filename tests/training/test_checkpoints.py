"""Checkpoints are complete and hashed, the last two are kept, and a run goes on bit for bit."""

import contextlib
import functools
import json
import os
import shutil

import numpy as np
import pytest

from tests.conftest import needs_muon, small_vae
from vae_keras import ConvDecoder, ConvEncoder, optimizers
from vae_keras.objectives import IWAE
from vae_keras.priors import AutoregressiveFlow
from vae_keras.training import callbacks, checkpoints
from vae_keras.training.signals import Stopped
from vae_keras.utils import checks


def progress(epoch=1, step=0):
    return checkpoints.Progress(epoch, step, [1.25] if step else [], [{"epoch": "0"}])


def variables(vae):
    return [np.array(v) for v in (*vae.variables, *vae.optimizer.variables)]


@pytest.fixture(scope="module")
def trained(tmp_path_factory, digits):
    """A trained model and the folder of its three checkpoints, of which two are left."""
    vae, folder = small_vae(), tmp_path_factory.mktemp("trained")
    vae.fit(digits, batch_size=20, verbose=0)
    for epoch in (1, 2, 3):
        checkpoints.save(folder, vae, progress(epoch))
    return vae, folder


@pytest.fixture
def saved(trained, tmp_path):
    """The trained model and a copy of its folder that the test may change."""
    vae, folder = trained
    return vae, shutil.copytree(folder, tmp_path / "saved")


def empty():
    vae = small_vae(seed=9)
    vae.optimizer.build(vae.trainable_variables)
    return vae


@pytest.fixture(scope="module")
def any_model():
    """A model for all tests that do not look at its weights, which they may change."""
    return empty()


def test_the_last_two_are_kept(saved):
    _, folder = saved
    names = sorted(path.name for path in folder.iterdir())
    assert [name for name in names if name.endswith(".json")] == [
        "epoch-00002-step-0000000.json",
        "epoch-00003-step-0000000.json",
    ]
    assert len(names) == 4


def test_restore_gives_weights_optimizer_and_progress_back(saved):
    vae, folder = saved
    other = empty()
    assert checkpoints.restore(folder, other) == progress(3)
    for a, b in zip(variables(other), variables(vae), strict=True):
        np.testing.assert_array_equal(a, b)
    assert int(other.optimizer.iterations) == 3


def test_nothing_to_restore_is_none(any_model, tmp_path):
    assert checkpoints.restore(tmp_path / "none", any_model) is None


@pytest.mark.parametrize("kind", ["weights", "json", "missing weights", "wrong hash"])
def test_a_damaged_newest_falls_back_with_a_warning(saved, any_model, kind):
    _, folder = saved
    weights = folder / "epoch-00003-step-0000000.keras"
    text = folder / "epoch-00003-step-0000000.json"
    if kind == "weights":
        content = bytearray(weights.read_bytes())
        content[len(content) // 2] ^= 1
        weights.write_bytes(content)
    elif kind == "json":
        text.write_text(text.read_text()[:-10])
    elif kind == "missing weights":
        weights.unlink()
    else:
        text.write_text(json.dumps(json.loads(text.read_text()) | {"sha256": "0" * 64}))
    with pytest.warns(UserWarning, match="epoch-00003-step-0000000 is damaged"):
        assert checkpoints.restore(folder, any_model).epoch == 2


def test_all_damaged_is_an_error_and_nothing_is_overwritten(saved, any_model):
    _, folder = saved
    for path in folder.glob("*.keras"):
        path.write_bytes(b"rubbish")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with (
        pytest.warns(UserWarning, match="damaged"),
        pytest.raises(checks.InputError, match="all damaged"),
    ):
        checkpoints.restore(folder, any_model)
    assert before == {path.name: path.read_bytes() for path in folder.iterdir()}


def curve(path, epochs):
    rows = [dict.fromkeys(callbacks.COLUMNS, "1") | {"epoch": str(e)} for e in range(epochs)]
    callbacks.write_elbo_csv(path, rows)
    return path


@pytest.mark.parametrize(
    ("names", "epochs"),
    [
        (["epoch-00002-step-0000000", "epoch-00003-step-0000000"], 0),
        (["epoch-00000-step-0000007", "epoch-00001-step-0000000"], 1),
        (["epoch-00001-step-0000001"], 1),
        (["epoch-00002-step-0000000"], 0),
        (["epoch-00001-step-0000000"], 2),
        ([], 2),
    ],
)
def test_lost_hashes_are_damage_and_no_fresh_start(any_model, tmp_path, names, epochs):
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    for name in names:
        (folder / f"{name}.keras").write_bytes(b"weights")
    path = curve(tmp_path / "elbo.csv", epochs)
    for look in (
        lambda: checkpoints.restore(folder, any_model, path),
        lambda: checkpoints.pack(folder, path),
    ):
        with pytest.raises(checks.InputError) as caught:
            look()
        assert str(caught.value) == (
            f"a run goes on from an undamaged checkpoint. Received: {len(names)} in {folder}, all "
            "damaged or lost. Restore one of them, or start anew with --overwrite."
        )
    assert {file.stem for file in folder.iterdir()} == set(names)


class Killed(BaseException):
    pass


@pytest.mark.parametrize(
    ("first", "epochs"), [((0, 5), 0), ((0, 5), 1), ((1, 0), 1), (None, 0), (None, 1)]
)
def test_a_kill_before_the_first_hash_starts_afresh(
    any_model, tmp_path, monkeypatch, first, epochs
):
    """Twice, too: the second try comes to its first checkpoint after another number of steps."""
    folder = tmp_path / "checkpoints"
    path = curve(tmp_path / "elbo.csv", epochs)

    def killed(*_):
        raise Killed

    for step in (0, 3):
        if first is not None:
            state = progress(first[0], first[1] + step * (not epochs))
            with monkeypatch.context() as patch:
                patch.setattr(checkpoints.files, "write_json", killed)
                with pytest.raises(Killed):
                    checkpoints.save(folder, any_model, state)
            assert len(list(folder.iterdir())) == 1
        assert checkpoints.restore(folder, any_model, path) is None
    checkpoints.save(folder, any_model, progress(1))
    assert checkpoints.restore(folder, any_model, path) == progress(1)


@pytest.mark.parametrize("call", range(8))
@pytest.mark.parametrize("saves", [1, 2, 3])
def test_no_kill_within_a_save_is_taken_for_damage(any_model, tmp_path, monkeypatch, saves, call):
    """Killed before each change of the folder in turn; what is left is restored or legal."""
    folder, left = tmp_path / "checkpoints", iter(range(call))

    def dying(real):
        def change(*arguments, **keywords):
            if next(left, None) is None:
                raise Killed
            return real(*arguments, **keywords)

        return change

    for epoch in range(1, saves):
        checkpoints.save(folder, any_model, progress(epoch))
    with monkeypatch.context() as patch, contextlib.suppress(Killed):
        patch.setattr(checkpoints.Path, "unlink", dying(checkpoints.Path.unlink))
        patch.setattr(checkpoints.files.os, "replace", dying(os.replace))
        # A folder is listed in any order.
        listed = checkpoints.Path.glob
        patch.setattr(checkpoints.Path, "glob", lambda *of: sorted(listed(*of), reverse=True))
        checkpoints.save(folder, any_model, progress(saves))
    assert all(path.with_suffix(".keras").exists() for path in folder.glob("*.json"))
    state = checkpoints.restore(folder, any_model, curve(tmp_path / "elbo.csv", saves))
    assert state in ([None, progress(1)] if saves == 1 else [progress(saves - 1), progress(saves)])


def convolutions(dtype="float32"):
    return {
        "encoder": ConvEncoder(latent_dim=2, widths=(3,), dtype=dtype),
        "decoder": ConvDecoder(image_shape=(6, 6, 1), widths=(3,), dtype=dtype),
        "objective": IWAE(num_samples=3, num_resampled=2),
    }


def learned_prior():
    return convolutions("mixed_bfloat16") | {"prior": AutoregressiveFlow(depth=2, hidden=(4,))}


def compiled(parts=dict, optimizer="Adam", xla=False, steps=4):
    vae = small_vae(**parts())
    rule = getattr(optimizers, optimizer)(0.01)
    vae.compile(rule, steps_per_execution=steps, jit_compile=xla)
    vae.optimizer.build(vae.trainable_variables)
    return vae


def train(vae, images, folder, should_stop=lambda: False):
    """Trains for three epochs from the folder's last checkpoint on, and returns the curve."""
    state = checkpoints.restore(folder, vae)
    assert state is None or (state.seconds > 0.0) == (state.step > 0)
    rows = state.rows if state else []
    if rows:
        callbacks.write_elbo_csv(folder / "elbo.csv", rows)
    writer = callbacks.ELBOWriter(folder / "elbo.csv", append=bool(rows))
    checkpointer = checkpoints.Checkpointer(
        folder,
        rows=lambda: writer.rows,
        progress=state,
        epoch_seconds=writer.seconds,
        should_stop=should_stop,
    )
    vae.fit(
        images,
        batch_size=10,
        epochs=3,
        initial_epoch=state.epoch if state else 0,
        validation_data=images[:20],
        callbacks=[writer, checkpointer],
        verbose=0,
    )
    return [{name: row[name] for name in row if name != "seconds"} for row in writer.rows]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory, digits):
    """Returns the curve and the variables of a run that nothing interrupts, for each model once."""

    @functools.cache
    def result(parts, optimizer, xla):
        vae = compiled(parts, optimizer, xla)
        return train(vae, digits, tmp_path_factory.mktemp("whole")), variables(vae)

    return result


@pytest.mark.parametrize(
    ("stop_after", "parts", "optimizer", "xla", "steps"),
    [(4, dict, "Adam", False, (2, 2))]
    + [
        pytest.param(4, dict, "Adam", True, (2, 2), marks=pytest.mark.slow),
        pytest.param(10, dict, "Adam", False, (2, 2), marks=pytest.mark.slow),
        pytest.param(4, convolutions, "Adam", False, (2, 2), marks=pytest.mark.slow),
        pytest.param(4, learned_prior, "Muon", False, (2, 2), marks=[needs_muon, pytest.mark.slow]),
    ]
    # The run that goes on may do another number of steps in a call. The place where the first one
    # stopped may then be in the middle of a call, or at the end of one. In the last case the last
    # call of an epoch has room for more steps than the epoch has left.
    + [
        pytest.param(stop, dict, "Adam", False, steps, marks=pytest.mark.slow)
        for stop, steps in [
            *((4, (2, 4)), (1, (2, 2)), (7, (2, 2)), (9, (2, 2))),
            *((5, (2, 4)), (6, (2, 4)), (4, (4, 2)), (3, (3, 4))),
        ]
    ],
)
def test_a_stopped_run_goes_on_bit_for_bit(
    digits, tmp_path, uninterrupted, stop_after, parts, optimizer, xla, steps
):
    """The run stops after a compiled call, within an epoch or at its end, and another goes on."""
    rows, weights = uninterrupted(parts, optimizer, xla)
    asked = iter(range(100))
    with pytest.raises(Stopped):
        train(
            compiled(parts, optimizer, xla, steps[0]),
            digits,
            tmp_path,
            should_stop=lambda: next(asked) == stop_after,
        )
    resumed = compiled(parts, optimizer, xla, steps[1])
    resumed.set_weights([weight + 1.0 for weight in resumed.get_weights()])
    assert train(resumed, digits, tmp_path) == rows
    for found, expected in zip(variables(resumed), weights, strict=True):
        np.testing.assert_array_equal(found, expected)


def test_an_interval_of_nothing_is_refused(tmp_path):
    with pytest.raises(checks.InputError, match="seconds must be a finite number above 0"):
        checkpoints.Checkpointer(tmp_path, rows=list, seconds=0)


def test_the_checkpointer_does_not_cost_the_calls_of_many_steps(digits, tmp_path):
    vae, batches = compiled(), []

    class Noted(checkpoints.Checkpointer):
        def on_train_batch_end(self, batch, logs=None):
            batches.append(batch)
            super().on_train_batch_end(batch, logs)

    vae.fit(digits, batch_size=10, verbose=0, callbacks=[Noted(tmp_path, rows=list)])
    assert batches == [3, 7]  # Keras counts the steps that a call has room for
