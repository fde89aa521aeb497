"""The ELBO of each epoch on the console and in a CSV file, and figures during training."""

import io
import math

import keras
import numpy as np
import pytest
from PIL import Image

from vae_keras import VAE, MLPDecoder, MLPEncoder
from vae_keras.training import callbacks
from vae_keras.training.callbacks import COLUMNS, ELBOWriter, FigureWriter
from vae_keras.utils.checks import InputError

IMAGES = np.random.default_rng(0).integers(0, 256, (12, 4, 3, 1), dtype=np.uint8)
LOGS = {"elbo": -222.0131, "log_likelihood": -240.5, "kl": 18.4869, "loss": 222.0131}


@pytest.fixture(scope="module")
def model() -> VAE:
    vae = VAE(MLPEncoder(latent_dim=2, hidden=(4,)), MLPDecoder((4, 3, 1), hidden=(4,)))
    vae.compile(run_eagerly=True)
    return vae


def run(callback, epochs, logs=LOGS) -> None:
    """One `fit` as the callback sees it; `logs` may be a function of the epoch."""
    callback.on_train_begin()
    for epoch in epochs:
        callback.on_epoch_begin(epoch)
        callback.on_epoch_end(epoch, logs(epoch) if callable(logs) else logs)
    callback.on_train_end()


def numbered(epoch: int) -> dict[str, float]:
    return {"elbo": -100.0 - epoch}


def written(path) -> list[tuple[int, float]]:
    return [(int(row["epoch"]), float(row["elbo"])) for row in callbacks.read_elbo_csv(path)]


# ------------------------------------------------------------------------------- ELBO: console


@pytest.mark.parametrize(
    ("epoch", "elbo", "line"),
    [
        (0, -222.0131, "Epoch: 0 ELBO: -2.220131e+02\n"),
        (13, np.float32(-117.7239), "Epoch: 13 ELBO: -1.177239e+02\n"),
        (4, math.nan, "Epoch: 4 ELBO: nan\n"),
    ],
)
def test_an_epoch_is_one_line(capsys, epoch, elbo, line):
    run(ELBOWriter(), [epoch], {"elbo": elbo, "loss": 1.0})
    assert capsys.readouterr().out == line


def test_an_epoch_without_an_elbo_says_nan(capsys):
    run(ELBOWriter(), [0], None)
    assert capsys.readouterr().out == "Epoch: 0 ELBO: nan\n"


# ----------------------------------------------------------------------------------- ELBO: CSV


def test_the_file_holds_the_terms_in_named_columns(tmp_path):
    path = tmp_path / "runs" / "elbo.csv"
    run(ELBOWriter(path), [0], LOGS | {"val_elbo": -230.25})
    header, row, *rest = path.read_text().splitlines()
    assert header == "epoch,elbo,log_likelihood,kl,val_elbo,val_log_likelihood,val_kl,seconds"
    *values, seconds = row.split(",")
    assert values == ["0", "-222.0131", "-240.5", "18.4869", "-230.25", "", ""]
    assert 0 <= float(seconds) < 10
    assert rest == []


def test_an_epoch_that_goes_on_counts_what_it_took_before(tmp_path):
    writer = ELBOWriter(tmp_path / "elbo.csv", seconds_before=100.0)
    run(writer, [3, 4], LOGS)
    first, second = (float(row["seconds"]) for row in writer.rows)
    assert 100.0 <= first < 110.0
    assert 0.0 <= second < 10.0


def test_the_numbers_read_back_to_the_last_bit(tmp_path):
    elbo = -100 / 3
    run(ELBOWriter(tmp_path / "elbo.csv"), [0], {"elbo": elbo})
    assert written(tmp_path / "elbo.csv") == [(0, elbo)]


def test_the_file_is_whole_after_every_epoch(tmp_path):
    writer, path = ELBOWriter(tmp_path / "elbo.csv"), tmp_path / "elbo.csv"
    writer.on_train_begin()
    for epoch in range(3):
        writer.on_epoch_begin(epoch)
        writer.on_epoch_end(epoch, numbered(epoch))
        assert [number for number, _ in written(path)] == list(range(epoch + 1))
    assert [path.name for path in tmp_path.iterdir()] == ["elbo.csv"]


def test_a_second_fit_begins_the_file_anew(tmp_path):
    writer = ELBOWriter(tmp_path / "elbo.csv")
    run(writer, range(5), numbered)
    run(writer, range(2), {"elbo": -5.0})
    assert written(tmp_path / "elbo.csv") == [(0, -5.0), (1, -5.0)]
    assert [row["elbo"] for row in writer.rows] == ["-5.0", "-5.0"]


def test_without_append_even_a_fit_that_goes_on_begins_the_file_anew(tmp_path):
    writer = ELBOWriter(tmp_path / "elbo.csv")
    run(writer, range(5), numbered)
    run(writer, [3, 4], {"elbo": -5.0})
    assert written(tmp_path / "elbo.csv") == [(3, -5.0), (4, -5.0)]


@pytest.mark.parametrize("same_writer", [True, False])
def test_append_keeps_earlier_epochs_and_replaces_retrained_ones(tmp_path, same_writer):
    path = tmp_path / "elbo.csv"
    writer = ELBOWriter(path, append=True)
    run(writer, range(5), numbered)
    run(writer if same_writer else ELBOWriter(path, append=True), [3], {"elbo": -5.0})
    assert written(path) == [(0, -100.0), (1, -101.0), (2, -102.0), (3, -5.0)]


def test_append_to_no_file_begins_one(tmp_path):
    run(ELBOWriter(tmp_path / "elbo.csv", append=True), [0], numbered)
    assert written(tmp_path / "elbo.csv") == [(0, -100.0)]


def test_rows_of_nan_and_infinity_survive(tmp_path):
    path = tmp_path / "elbo.csv"
    values = [-100.0, math.nan, -math.inf]
    run(ELBOWriter(path), range(3), lambda epoch: {"elbo": values[epoch]})
    run(ELBOWriter(path, append=True), [3], {"elbo": -5.0})
    np.testing.assert_array_equal([elbo for _, elbo in written(path)], [*values, -5.0])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            b"\xff\xfe",
            "{path} must be a CSV file. Received: 'utf-8' codec can't decode byte 0xff in position "
            "0: invalid start byte. Name another file.",
        ),
        (
            ",".join(COLUMNS).encode() + b"\n0,-1.5\n",
            "each row of {path} must have an epoch and 8 fields. Received: "
            "0,-1.5,None,None,None,None,None,None. Name another file.",
        ),
    ],
)
def test_a_damaged_file_is_refused(tmp_path, content, message):
    path = tmp_path / "elbo.csv"
    path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        callbacks.read_elbo_csv(path)
    assert str(caught.value) == message.format(path=path)


@pytest.mark.parametrize(
    ("text", "received"),
    [
        ("epoch,loss\n0,5\n", "epoch,loss"),
        ("", "nothing"),
        ("elbo," + ",".join(COLUMNS) + "\n", "elbo," + ",".join(COLUMNS)),
    ],
)
def test_a_file_with_other_columns_is_refused_and_left_alone(tmp_path, text, received):
    path = tmp_path / "elbo.csv"
    path.write_text(text)
    with pytest.raises(InputError) as caught:
        run(ELBOWriter(path, append=True), [0])
    assert str(caught.value) == (
        f"{path} must have the columns {','.join(COLUMNS)}. Received: {received}. "
        "Name another file."
    )
    assert path.read_text() == text


def test_any_keras_model_that_logs_an_elbo_will_do(tmp_path, capsys):
    def elbo(y_true, y_pred):
        return -keras.ops.square(y_true - y_pred)

    plain = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    plain.compile(loss="mse", metrics=[elbo], run_eagerly=True)
    x = np.ones((4, 1), np.float32)
    writer = ELBOWriter(tmp_path / "elbo.csv")
    history = plain.fit(x, x, validation_data=(x, x), epochs=2, verbose=0, callbacks=[writer])
    values = history.history["elbo"]
    expected = [f"Epoch: {epoch} ELBO: {value:e}" for epoch, value in enumerate(values)]
    assert capsys.readouterr().out.splitlines() == expected
    assert written(tmp_path / "elbo.csv") == list(enumerate(values))
    val_elbo = [float(row["val_elbo"]) for row in callbacks.read_elbo_csv(tmp_path / "elbo.csv")]
    assert val_elbo == history.history["val_elbo"]


# ------------------------------------------------------------------------------------- figures


def figure_writer(model, *arguments, **keywords) -> FigureWriter:
    writer = FigureWriter(*arguments, **keywords)
    writer.set_model(model)
    return writer


def names_in(folder) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize(
    ("epochs", "drawn"), [(None, [1, 2, 3]), ((2, 3), [2, 3]), (iter([1]), [1]), ((30,), [])]
)
def test_grids_are_drawn_after_the_chosen_epochs(model, tmp_path, epochs, drawn):
    latents = model.prior_latents(4)
    writer = figure_writer(model, {"prior": latents}, tmp_path, epochs=epochs, columns=2)
    run(writer, range(3))
    assert names_in(tmp_path) == [f"prior_epoch_{epoch}.png" for epoch in drawn]


def test_every_grid_is_a_picture_of_its_own(model, tmp_path):
    grids = {"prior": model.prior_latents(10), "zero": np.zeros((5, 2), np.float32)}
    run(figure_writer(model, grids, tmp_path), [0])
    pictures = [Image.open(io.BytesIO(path.read_bytes())) for path in sorted(tmp_path.iterdir())]
    assert names_in(tmp_path) == ["prior_epoch_1.png", "zero_epoch_1.png"]
    assert all(picture.width > 300 for picture in pictures)
    assert pictures[0].height > pictures[1].height  # two rows and one


def test_the_same_weights_draw_the_same_file(model, tmp_path):
    for folder in ("a", "b"):
        run(figure_writer(model, {"prior": model.prior_latents(5)}, tmp_path / folder), [0])
    first, second = (tmp_path / folder / "prior_epoch_1.png" for folder in ("a", "b"))
    assert first.read_bytes() == second.read_bytes()


@pytest.mark.parametrize(("titles", "start"), [({"prior": "Draws"}, "Draws"), (None, "prior")])
@pytest.mark.parametrize("invert", [True, False])
def test_the_title_says_what_and_when(model, tmp_path, monkeypatch, titles, start, invert):
    shown = []
    draw = callbacks.figures.grid

    def noted(images, rows, columns, title, invert):
        shown.append((title, invert))
        return draw(images, rows, columns, title, invert=invert)

    monkeypatch.setattr(callbacks.figures, "grid", noted)
    latents = {"prior": model.prior_latents(5)}
    run(figure_writer(model, latents, tmp_path, titles=titles, invert=invert), [19])
    assert shown == [(f"{start}, after epoch 20", invert)]


@pytest.mark.parametrize("num", [1, 4, 6])
def test_latents_that_do_not_fill_the_grid_are_refused(num):
    with pytest.raises(InputError) as caught:
        FigureWriter({"prior": np.zeros((num, 2))}, "figures")
    assert str(caught.value) == (
        f"a grid of 5 columns needs a multiple of 5 latents. Received: {num} for 'prior'. "
        "Pass another number."
    )


def test_a_grid_without_columns_is_refused():
    with pytest.raises(InputError, match="columns must be a whole number >= 1"):
        FigureWriter({"prior": np.zeros((5, 2))}, "figures", columns=0)


def test_both_callbacks_work_in_one_fit(model, tmp_path):
    elbo = ELBOWriter(tmp_path / "elbo.csv")
    grids = FigureWriter({"prior": model.prior_latents(5)}, tmp_path / "figures", epochs=(2,))
    history = model.fit(IMAGES, batch_size=5, epochs=2, verbose=0, callbacks=[elbo, grids])
    assert written(tmp_path / "elbo.csv") == list(enumerate(history.history["elbo"]))
    assert names_in(tmp_path / "figures") == ["prior_epoch_2.png"]
