"""The engine of the explorer comes from a folder, the cache or npm, and is never another one."""

import io
import subprocess
import tarfile
from pathlib import Path

import pytest

from vae_keras.report import engine
from vae_keras.utils import checks

FILES = {"ort.wasm.bundle.min.mjs": b"script", "ort-wasm-simd-threaded.wasm": b"wasm"}


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    """An empty cache, for an engine of two small files."""
    hashes = [engine.hashlib.sha256(content).hexdigest() for content in FILES.values()]
    monkeypatch.setattr(engine, "_SHA256", dict(zip(FILES, hashes, strict=True)))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "vae_keras" / f"onnxruntime-web-{engine.VERSION}"


def installed(folder: Path, contents=FILES) -> Path:
    (folder / "dist").mkdir(parents=True)
    for name, content in contents.items():
        (folder / "dist" / name).write_bytes(content)
    return folder


def npm(monkeypatch, contents):
    """An npm that packs `contents`, or fails where they are None."""

    def run(command, *, cwd, **_):
        assert command[1:3] == ["pack", f"onnxruntime-web@{engine.VERSION}"]
        if contents is None:
            raise subprocess.CalledProcessError(1, command)
        with tarfile.open(Path(cwd) / "package.tgz", "w:gz") as archive:
            for name, content in contents.items():
                info = tarfile.TarInfo(f"package/dist/{name}")
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))

    monkeypatch.setattr(engine.shutil, "which", lambda _: "npm")
    monkeypatch.setattr(engine.subprocess, "run", run)


def test_a_folder_of_npm_is_read(cache, tmp_path):
    folder = installed(tmp_path / "node_modules" / "onnxruntime-web")
    assert engine.find(folder) == engine.find(folder / "dist") == (b"script", b"wasm")


def test_npm_fills_the_cache_once(cache, monkeypatch):
    npm(monkeypatch, FILES)
    assert engine.find() == (b"script", b"wasm")
    assert sorted(path.name for path in cache.iterdir()) == sorted(FILES)
    npm(monkeypatch, None)
    assert engine.find() == (b"script", b"wasm")


@pytest.mark.parametrize("contents", [{}, FILES | {"ort-wasm-simd-threaded.wasm": b"other"}])
def test_a_folder_of_another_version_is_refused(cache, tmp_path, contents):
    folder = installed(tmp_path / "other", contents)
    with pytest.raises(checks.InputError, match=r"another version. Run: npm install onnxruntime"):
        engine.find(folder)


def test_other_files_from_npm_are_refused(cache, monkeypatch):
    npm(monkeypatch, FILES | {"ort-wasm-simd-threaded.wasm": b"other"})
    with pytest.raises(checks.InputError, match="must have the known SHA-256"):
        engine.find()


@pytest.mark.parametrize("contents", [None, {"README.md": b""}])
def test_an_npm_without_the_package_is_named(cache, monkeypatch, contents):
    npm(monkeypatch, contents)
    with pytest.raises(
        checks.InputError, match=r"an npm that could not fetch it. Run `npm install"
    ):
        engine.find()
    assert not cache.exists()


def test_a_machine_without_npm_is_named(cache, monkeypatch):
    monkeypatch.setattr(engine.shutil, "which", lambda _: None)
    with pytest.raises(checks.InputError, match=r"no npm to fetch it with. Run `npm install"):
        engine.find()
