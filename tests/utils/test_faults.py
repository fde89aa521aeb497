"""A full, a failing and a broken disk, at every place where the package writes.

The kernel makes the faults, so that they reach writers in C++, too: /dev/full gives ENOSPC, a limit
on the size of files ends a write half-way, and another process's unmapped memory gives EIO. Only
the EIO of a flush is raised in Python.

The fast suite breaks each place once and uses each fault once. The full product is slow.
"""

import ast
import contextlib
import errno
import itertools
import json
import os
import re
import resource
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from tests.conftest import copy_instead_of_tracing, covering, draw_nothing, small_vae
from tests.test_architecture import MODULES
from vae_keras import VAE, export
from vae_keras.cli.main import main
from vae_keras.data import datasets
from vae_keras.export import saved_model
from vae_keras.training import artifacts, callbacks, checkpoints
from vae_keras.utils import files, keras_file
from vae_keras.zoo import presets, publish

FAULTS = {
    "full": "No space left on device",
    "half": "File too large",
    "refusing": "Input/output error",
    "failing": "Input/output error",  # when the file is flushed
}
WRITING = ("full", "half", "refusing")  # the faults of a write
SOFT, HARD = resource.getrlimit(resource.RLIMIT_FSIZE)
HALF = 100  # bytes, fewer than any file that is written here

pytestmark = pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")


class Disk:
    """A disk that fails in one way when a file with a given name is written."""

    def __init__(self, monkeypatch, victim):
        self.fault, self.name = "", ""
        self.devices = {"full": "/dev/full", "refusing": f"/proc/{victim}/mem"}
        self._patch, self._name = monkeypatch, files.temporary_name
        monkeypatch.setattr(files, "temporary_name", self._temporary_name)

    @contextlib.contextmanager
    def fails(self, fault, name):
        self.fault, self.name, self.met = fault, name, False
        with self._patch.context() as patch:
            self._inner = patch
            try:
                yield
            finally:
                self.name = ""
                resource.setrlimit(resource.RLIMIT_FSIZE, (SOFT, HARD))
        assert self.met, f"{name} was not written"

    def _temporary_name(self, path):
        temporary = self._name(path)
        if self.name and f"/{path.as_posix()}".endswith(f"/{self.name}"):
            self.strike(temporary)
        return temporary

    def strike(self, temporary):
        self.met = True
        if self.fault in self.devices:
            # The link makes a writer open the bad device. O_EXCL would refuse to follow it.
            temporary.parent.mkdir(exist_ok=True)
            temporary.symlink_to(self.devices[self.fault])
            real = os.open
            self._inner.setattr(
                os,
                "open",
                lambda path, flags, *rest, **keywords: real(
                    path, flags & ~os.O_EXCL if path == temporary else flags, *rest, **keywords
                ),
            )
        elif self.fault == "half":
            resource.setrlimit(resource.RLIMIT_FSIZE, (HALF, HARD))
        else:
            self._inner.setattr(os, "fsync", raise_eio)


def raise_eio(_):
    raise OSError(errno.EIO, os.strerror(errno.EIO))


@pytest.fixture
def disk(monkeypatch):
    with subprocess.Popen(["sleep", "3600"]) as victim:  # writing to its address 0 gives EIO
        yield Disk(monkeypatch, victim.pid)
        victim.kill()


def content(folder):
    """Returns the bytes of every file in a folder, hidden ones included."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def leftovers(folder):
    return [path for path in folder.rglob(".*") if path.name.startswith((".writing", ".retired"))]


# ------------------------------------------------------------------------------ a whole run


@pytest.fixture
def run_command(monkeypatch, mnist):
    """The command `train` on 300 small images, without tracing, which is slow."""
    x, x_test = mnist.x_train[:300, ::4, ::4], mnist.x_test[:60, ::4, ::4]
    cut = datasets.Images(x, mnist.y_train[:300], x_test, mnist.y_test[:60])
    monkeypatch.setattr(datasets, "load_mnist", lambda *_: cut)
    monkeypatch.setattr(VAE, "xla_pays", lambda _: False)
    flags = ["--epochs", "2", "--validation", "100", "--batch-size", "50"]
    tf.config.run_functions_eagerly(True)
    yield lambda folder: main(["train", "--workdir", str(folder), *flags])
    tf.config.run_functions_eagerly(False)


SITES = (  # in the order in which a run writes them
    "config.json",
    "elbo.csv",
    "best.npz",
    "epoch-00001-step-0000000.keras",
    "epoch-00001-step-0000000.json",
    "prior_epoch_2.png",
    "model.keras",
    "metadata.json",
    "elbo.png",
    "latent_map.png",
    "metrics.json",
    "report.html",
)


def state(folder):
    """Returns the weights and the optimizer's variables of the newest checkpoint."""
    path = max((folder / "checkpoints").glob("*.keras"))
    model = keras_file.load(path)
    return [np.array(variable) for variable in (*model.variables, *model.optimizer.variables)]


def same_run(one, other):
    """Asserts that two finished runs are equal, apart from the times that they measured."""
    ours, theirs = content(one), content(other)
    assert set(ours) == set(theirs)
    rows = [callbacks.read_elbo_csv(folder / "elbo.csv") for folder in (one, other)]
    for a, b in zip(*rows, strict=True):
        assert {**a, "seconds": ""} == {**b, "seconds": ""}
    for name in ours:
        if (name.startswith("figures/") and "elbo" not in name) or name.endswith("golden.json"):
            assert ours[name] == theirs[name], name
    for a, b in zip(*(state(folder) for folder in (one, other)), strict=True):
        np.testing.assert_array_equal(a, b)


# One file of each way to write: JSON, a table, NumPy's and Keras' files, a figure and a page. The
# faults of a SavedModel follow below.
FAST = tuple(
    zip(
        [name for name in SITES if not name.endswith((".json", "2.png", "map.png", "model.keras"))]
        + ["metrics.json"],
        itertools.cycle(WRITING),
        strict=False,
    )
)


@pytest.mark.parametrize(
    "broken",
    [FAST, pytest.param(tuple(itertools.product(SITES, WRITING)), marks=pytest.mark.slow)],
    ids=["each file once", "every fault"],
)
def test_a_run_goes_through_every_fault_to_the_same_end(
    tmp_path, disk, run_command, capsys, monkeypatch, broken
):
    """An export takes seconds: in the fast case, only the run that breaks it makes one.

    The fast case breaks no figure of what the model shows, so its runs draw none.
    """
    if broken is FAST:
        draw_nothing(monkeypatch)

    def exports(wanted):
        made = saved if wanted else lambda *_, **__: None
        monkeypatch.setattr(artifacts.export, "export_saved_model", made)

    saved = export.export_saved_model
    whole, folder = tmp_path / "whole", tmp_path / "run"
    exports(broken is not FAST)
    assert run_command(whole) == 0
    unraisable = []
    monkeypatch.setattr(sys, "unraisablehook", unraisable.append)
    for name, fault in broken:
        reason, before = FAULTS[fault], content(folder)
        exports(name == "metadata.json")
        with disk.fails(fault, name):
            assert run_command(folder) == 2, (name, fault)
        captured = capsys.readouterr().err.strip()
        error = captured.splitlines()[-1]
        assert error.startswith("Error: ")
        assert reason in error or name in error, (name, fault, error)
        assert "Traceback" not in captured
        assert unraisable == [], (name, fault)
        assert leftovers(folder) == []
        after = content(folder)
        wanted = folder / next((n for n in before if n.endswith(name)), "nothing")
        if wanted.exists():
            key = str(wanted.relative_to(folder))
            assert after[key] == before[key], (name, fault)
        else:
            assert not any(n.endswith(f"/{name}") or n == name for n in after), (name, fault)
    exports(broken is not FAST)
    assert run_command(folder) == 0
    same_run(folder, whole)


# --------------------------------------------------------------------------- the other places


@pytest.mark.parametrize("fault", FAULTS)
def test_the_cache_of_mnist(digits, tmp_path, disk, fault):
    said, images = [], datasets.Images(digits, digits[:, 0, 0, 0], digits, digits[:, 0, 0, 0])
    with disk.fails(fault, "mnist.npz"):
        datasets._write_cache("MNIST", tmp_path / "mnist.npz", images, said.append)
    assert list(tmp_path.iterdir()) == []
    assert f"could not be cached at {tmp_path / 'mnist.npz'} ({FAULTS[fault]})" in said[0]


@pytest.mark.parametrize(
    ("name", "fault"), list(zip(keras_file.MEMBERS, WRITING, strict=True)), ids=WRITING
)
def test_the_folder_of_a_shared_model(tmp_path, disk, name, fault):
    """A new model replaces all files of an older one, or not one of them."""
    small_vae().save_pretrained(tmp_path)
    before, other = content(tmp_path), small_vae(seed=1)
    with disk.fails(fault, name), pytest.raises(OSError, match=FAULTS[fault]):
        other.save_pretrained(tmp_path)
    assert content(tmp_path) == before
    other.save_pretrained(tmp_path)
    assert np.array_equal(VAE.from_preset(tmp_path).sample(2), other.sample(2))


COMMANDS = (
    ("s.png", ["sample", "--count", "5", "--to", "s.png"]),
    ("n.json", ["evaluate", "--samples", "1", "--images", "2", "--json", "n.json"]),
    ("reconstructions.png", ["figures", "--to", "."]),
)


@pytest.mark.parametrize(("command", "fault"), covering(COMMANDS, FAULTS))
def test_the_file_of_a_command(tmp_path, disk, command, fault, capsys, monkeypatch):
    name, arguments = command
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).write_bytes(b"old")
    with disk.fails(fault, name):
        assert main([*arguments, "--preset", "mlp_mnist"]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert FAULTS[fault] in error
    assert name in error
    assert content(tmp_path) == {name: b"old"}


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A small model and the folder of its first version."""
    vae, folder = small_vae(), tmp_path_factory.mktemp("exported")
    export.export_saved_model(vae, folder, 1)
    return vae, folder


@pytest.fixture
def served(exported, tmp_path):
    """A model, a folder with a version of it that a test may damage, and the folder's content."""
    vae, folder = exported
    shutil.copytree(folder, tmp_path / "served")
    return vae, tmp_path / "served", content(folder)


def strike_in(module, function, disk, monkeypatch):
    """Starts the fault when a function is called, for the file in its first argument."""
    real = getattr(module, function)

    def struck(path, *arguments, **keywords):
        disk.strike(path)
        return real(path, *arguments, **keywords)

    monkeypatch.setattr(module, function, struck)


EXPORTS = (
    ("_write_saved_model", saved_model, "half"),
    ("write", saved_model.warmup, "half"),
    ("_publish", saved_model, "failing"),
)


@pytest.mark.parametrize(("place", "version"), covering(EXPORTS, [1, 2]))
def test_a_version_that_is_served_stays(served, disk, monkeypatch, place, version):
    """TensorFlow writes these files itself, under names that it chooses."""
    (function, module, fault), (vae, folder, before) = place, served
    if function != "_write_saved_model":
        copy_instead_of_tracing(monkeypatch, folder / "1")
    strike_in(module, function, disk, monkeypatch)
    with disk.fails(fault, "none"), pytest.raises(OSError, match=FAULTS[fault]):
        export.export_saved_model(vae, folder, version, overwrite=True)
    assert content(folder) == before
    assert [path.name for path in folder.iterdir()] == ["1"]


@pytest.mark.parametrize(
    "error",
    [
        tf.errors.ResourceExhaustedError(None, None, "variables; No space left on device"),
        tf.errors.UnknownError(None, None, "variables; Input/output error"),
    ],
)
def test_the_errors_of_tensorflow_for_a_full_or_broken_disk(served, monkeypatch, error):
    """TensorFlow chooses the names of a SavedModel's files, so no device can replace them."""
    vae, base, before = served

    def half(_, folder):
        (folder / "variables").mkdir()
        (folder / "variables" / "variables.index").write_bytes(b"half")
        raise error

    monkeypatch.setattr(saved_model, "_write_saved_model", half)
    for version in (1, 2):
        with pytest.raises(OSError, match=error.message):
            export.export_saved_model(vae, base, version, overwrite=True)
        assert content(base) == before
        assert [path.name for path in base.iterdir()] == ["1"]


@pytest.mark.parametrize("fault", WRITING)
def test_warm_up_requests(tmp_path, disk, monkeypatch, fault):
    monkeypatch.setattr(saved_model, "_write_saved_model", lambda *_: None)
    monkeypatch.setattr(saved_model, "_golden_cases", lambda *_: [])
    strike_in(saved_model.warmup, "write", disk, monkeypatch)
    with disk.fails(fault, "none"), pytest.raises(OSError, match=FAULTS[fault]):
        export.export_saved_model(small_vae(), tmp_path, 1)
    assert list(tmp_path.iterdir()) == []


def test_a_version_that_could_not_be_replaced_is_put_back(served, monkeypatch):
    vae, folder, before = served
    copy_instead_of_tracing(monkeypatch, folder / "1")
    real = os.replace

    def refuse_new(source, target):
        if Path(source).name.startswith(".writing"):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        real(source, target)

    monkeypatch.setattr(os, "replace", refuse_new)
    with pytest.raises(OSError, match="Input/output error"):
        export.export_saved_model(vae, folder, 1, overwrite=True)
    assert content(folder) == before
    assert [path.name for path in folder.iterdir()] == ["1"]


@pytest.mark.parametrize(
    ("format", "fault"), covering(["litert", "onnx"], ["half", "full", "refusing", "failing"])
)
def test_parts_in_other_formats(tmp_path, disk, fault, format):
    suffix = "onnx" if format == "onnx" else "tflite"
    if format == "onnx":
        pytest.importorskip("tf2onnx", reason="the extra [onnx] is not installed")
    old = [tmp_path / f"{name}.{suffix}" for name in ("encoder", "decoder")]
    for path in old:
        path.write_bytes(b"old")
    with disk.fails(fault, old[-1].name), pytest.raises(OSError, match=FAULTS[fault]):
        export.export_parts(small_vae(), tmp_path, format)
    # A new encoder beside an old decoder would decode the wrong latents.
    assert [path.read_bytes() for path in old] == [b"old", b"old"]
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize("fault", FAULTS)
def test_a_checkpoint_that_came_over_the_network(tmp_path, disk, fault, monkeypatch):
    vae, other = small_vae(), small_vae(seed=1)
    for model in (vae, other):
        model.optimizer.build(model.trainable_variables)
    checkpoints.save(tmp_path / "chief", vae, checkpoints.Progress(1, 0, [], []))
    message, before = checkpoints.pack(tmp_path / "chief"), other.get_weights()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "worker"))
    (tmp_path / "worker").mkdir()
    with disk.fails(fault, "packed.keras"), pytest.raises(OSError, match=FAULTS[fault]):
        checkpoints.unpack(message, other)
    assert list((tmp_path / "worker").iterdir()) == []
    for weight, old in zip(other.get_weights(), before, strict=True):
        np.testing.assert_array_equal(weight, old)
    assert checkpoints.unpack(message, other).epoch == 1


def test_a_damaged_cache_that_cannot_be_moved(tmp_path, monkeypatch):
    path = tmp_path / "mnist.npz"
    path.write_bytes(b"damaged")

    def refuse(*_):
        raise_eio(_)

    monkeypatch.setattr(datasets.os, "replace", refuse)
    with pytest.raises(datasets.SourceError) as caught:
        datasets._from_cache("mnist", path)
    assert str(caught.value) == "it is damaged (and could not be moved: Input/output error)"
    assert content(tmp_path) == {"mnist.npz": b"damaged"}


@pytest.fixture
def finished(tmp_path, monkeypatch, mnist):
    """A finished run of the preset, and a zoo that a test may damage."""
    cut = datasets.Images(
        mnist.x_train[:9], mnist.y_train[:9], mnist.x_test[:20], mnist.y_test[:20]
    )
    monkeypatch.setattr(datasets, "load_mnist", lambda *_: cut)
    run, target = tmp_path / "run", tmp_path / "zoo" / "mlp_mnist"
    shutil.copytree(presets.folder() / "mlp_mnist", target)
    shutil.copy(presets.folder() / "published.json", tmp_path / "zoo")
    shutil.copytree(target, run)
    recipe = presets.load_recipe("mlp_mnist").to_dict()
    files.write_json(run / "config.json", {"preset": "mlp_mnist", "data": "mnist"} | recipe)
    files.write_text(run / "report.html", "")
    monkeypatch.setattr(presets, "folder", lambda: tmp_path / "zoo")
    return run, target


FAST_PUBLISHED = (("model.keras", "half"),)
PUBLISHED = ("model.keras", "golden.npz", "elbo.png", "samples.png", "metrics.json", "README.md")


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        pytest.param(name, fault, marks=[pytest.mark.slow] * ((name, fault) not in FAST_PUBLISHED))
        for name, fault in itertools.product(PUBLISHED, WRITING)
    ],
)
def test_publishing(finished, disk, name, fault):
    run, target = finished
    before = content(target)
    with disk.fails(fault, name), pytest.raises(OSError, match=FAULTS[fault]):
        publish.publish(run, num_samples=2)
    after = content(target)
    assert set(after) == set(before)
    wanted = next(key for key in before if key.endswith(name))
    assert after[wanted] == before[wanted]


@pytest.mark.slow
def test_publishing_goes_on_after_a_fault(finished, disk):
    run, target = finished
    with disk.fails("full", "metrics.json"), pytest.raises(OSError, match=FAULTS["full"]):
        publish.publish(run, num_samples=2)
    publish.publish(run, num_samples=2)
    metrics = json.loads((target / "metrics.json").read_text())
    made = metrics["provenance"]
    assert made["weights_sha256"] == files.sha256(run / "model.keras")
    assert made["commit"] == json.loads((run / "metrics.json").read_text())["provenance"]["commit"]
    assert set(made["evaluated"]) == {"commit", "versions", "hardware", "data_sha256"}


@pytest.mark.parametrize(("place", "fault"), covering(["zoo/mlp_mnist", "zoo", ""], FAULTS))
def test_rendering(finished, tmp_path, disk, fault, place, capsys):
    path = tmp_path / place / "README.md"
    path.write_text("old" * HALF)
    with disk.fails(fault, str(path.relative_to("/"))):
        assert main(["render"]) == 2
    error = capsys.readouterr().err.strip()
    assert FAULTS[fault] in error
    assert str(path) in error
    assert path.read_text() == "old" * HALF
    assert leftovers(tmp_path) == []


def test_verdicts(tmp_path, disk, capsys):
    vae, rng = small_vae(), np.random.default_rng(0)
    vae.save(tmp_path / "model.keras")
    np.save(tmp_path / "good.npy", rng.integers(0, 9, (60, 6, 6), np.uint8))
    np.save(tmp_path / "new.npy", rng.integers(0, 256, (3, 6, 6), np.uint8))
    places = {"model": "model.keras", "data": "new.npy", "to": "verdicts"}
    flags = [part for name, at in places.items() for part in (f"--{name}", str(tmp_path / at))]
    arguments = ["detect", *flags, "--false-alarms", "0.05"]
    calibrate = ["--calibrate", str(tmp_path / "good.npy")]
    assert main([*arguments, *calibrate]) == 0
    (first,) = (tmp_path / "verdicts" / "heat_maps").glob("1-*.png")
    written = (tmp_path / "verdicts" / name for name in ("verdicts.csv", "verdicts.html"))
    paths = tmp_path / "detector.json", *written, first
    for path, fault in zip(paths, FAULTS, strict=True):
        name = path.name
        before = path.read_bytes()
        with disk.fails(fault, name):
            given = calibrate if path == paths[0] else []  # the others read the detector
            assert main([*arguments, *given]) == 2, (name, fault)
        error = capsys.readouterr().err.strip().splitlines()[-1]
        assert FAULTS[fault] in error
        assert leftovers(tmp_path) == []
        if path == first:  # the heat maps of earlier verdicts were removed
            assert not path.exists()
        else:
            assert path.read_bytes() == before


# -------------------------------------------------------------------------------- the census

# Every call of the package that can write a file, and what makes the write atomic. The test fails
# for a new call until it goes through `files.atomic_write` or `files.staged` and is listed here.
WRITERS = {
    ("cli.detect", "detector.save"),  # write_json
    ("compression", "picture.save"),  # into memory
    ("data.cache", "np.savez"),  # atomic_write
    ("data.cache", "open"),  # staged, and the lock
    ("training.artifacts", "np.save"),  # atomic_write
    ("data.datasets", "pooch.retrieve"),  # into a temporary folder
    ("data.datasets", "np.savez"),  # atomic_write
    ("data.datasets", "os.replace"),  # moves a damaged cache aside
    ("export.parts", "onnx.save"),  # staged
    ("export.parts", "part.export"),  # staged
    ("export.saved_model", "archive.write_out"),  # into a folder that is renamed
    ("export.saved_model", "os.replace"),  # renames that folder
    ("export.warmup", "tf.io.TFRecordWriter"),  # into a folder that is renamed
    ("report.embedding_files", "np.savetxt"),  # atomic_write
    ("report.embedding_files", "held.open"),  # atomic_write
    ("report.embedding_files", "sprite.save"),  # atomic_write
    ("report.engine", "shutil.copyfileobj"),  # atomic_write
    ("report.figures", "figure.savefig"),  # into memory
    ("report.verdicts", "drawn.save"),  # into memory
    ("sharing", "bare.save"),  # into a temporary folder
    ("sharing", "super().export"),  # the user's own call of Keras' export
    ("sharing", "super().save"),  # the user's own call of Keras' save
    ("training.artifacts", "detector.save"),  # write_json
    ("training.artifacts", "model.save"),  # staged
    ("training.best", "np.savez"),  # atomic_write
    ("training.checkpoints", "model.save"),  # staged
    ("utils.files", "open"),  # to flush a staged file
    ("utils.files", "os.fdopen"),
    ("training.run_folder", "os.open"),  # the folder, to lock it
    ("utils.files", "os.open"),
    ("utils.files", "os.replace"),
    ("utils.files", "shutil.copyfileobj"),  # atomic_write
    ("utils.startup", "os.open"),  # the null device
    ("zoo.publish", "np.savez_compressed"),  # atomic_write
}
NAMES = {
    "write_text", "write_bytes", "fdopen", "replace", "rename", "savez", "savez_compressed",
    "tofile", "savetxt", "dump", "save", "save_weights", "savefig", "imsave", "export",
    "write_out", "copy", "copy2", "copyfile", "copyfileobj", "copytree", "move", "symlink_to",
    "hardlink_to", "touch", "write_file", "TFRecordWriter", "create_file_writer", "to_csv",
    "make_archive", "extractall", "mkstemp", "NamedTemporaryFile", "urlretrieve", "get_file",
    "retrieve",
}  # fmt: skip
OURS = ("files.", "figures.save", "checkpoints.save", "dataclasses.replace", "write_text", "save")


def writers(module, source):
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        last = name.rsplit(".", maxsplit=1)[-1]
        if last == "open" and name != "os.open":
            given = [*node.args, *(keyword.value for keyword in node.keywords)]
            texts = [part.value for part in given if isinstance(part, ast.Constant)]
            if not any(re.fullmatch(r"[rbt]*[wax+][rbt+]*", str(text)) for text in texts):
                continue
        elif last == "replace" and not name.startswith(("os.", "path", "Path")):
            continue  # a method of str
        elif last not in NAMES and name != "os.open":
            continue
        if not name.startswith(OURS):
            yield module, name.split("tf.summary.")[-1]


def test_nothing_else_writes_files():
    found = {
        writer
        for module, path in MODULES.items()
        for writer in writers(module, path.read_text(encoding="utf-8"))
    }
    assert found == WRITERS


@pytest.mark.parametrize(
    "line",
    [
        "open(p, 'w')",
        "open(p, mode='ab')",
        "p.open('r+')",
        "p.write_text('')",
        "np.savez(p)",
        "shutil.copy(a, b)",
        "model.save(p)",
        "json.dump(v, f)",
        "os.replace(a, b)",
        "path.replace(b)",
    ],
)
def test_a_new_writer_would_be_found(line):
    assert list(writers("new", line))


@pytest.mark.parametrize(
    "line", ["open(p)", "open(p, 'rb')", "text.replace('a', 'b')", "files.write_text(p, '')"]
)
def test_a_reader_is_not_a_writer(line):
    assert not list(writers("new", line))
