"""Atomic writing of files, and their hashes."""

import errno
import json
import os
import stat
from concurrent.futures import ThreadPoolExecutor

import pytest

from vae_keras.utils import files


@pytest.fixture
def old_file(tmp_path):
    path = tmp_path / "numbers.csv"
    path.write_bytes(b"old")
    return path


def failing(*_arguments, **_keywords):
    raise OSError(errno.ENOSPC, "No space left on device")


def names_in(folder) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_is_replaced_by_what_was_written(old_file):
    with files.atomic_write(old_file) as file:
        file.write(b"new, ")
        file.write(b"whole")
        assert old_file.read_bytes() == b"old"  # until the block ends
    assert old_file.read_bytes() == b"new, whole"
    assert names_in(old_file.parent) == ["numbers.csv"]


def test_missing_folders_are_made(tmp_path):
    files.write_text(tmp_path / "a" / "b" / "c.txt", "text")
    assert (tmp_path / "a" / "b" / "c.txt").read_text() == "text"


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_an_exception_leaves_the_old_file_and_nothing_else(old_file, error):
    def write_half() -> None:
        with files.atomic_write(old_file) as file:
            file.write(b"half")
            raise error

    with pytest.raises(error):
        write_half()
    assert old_file.read_bytes() == b"old"
    assert names_in(old_file.parent) == ["numbers.csv"]


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_failing_system_call_leaves_the_old_file_and_nothing_else(old_file, monkeypatch, call):
    monkeypatch.setattr(os, call, failing)
    with pytest.raises(OSError, match="No space left"):
        files.write_text(old_file, "new")
    assert old_file.read_bytes() == b"old"
    assert names_in(old_file.parent) == ["numbers.csv"]


def test_a_new_file_that_fails_does_not_exist(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "replace", failing)
    with pytest.raises(OSError, match="No space left"):
        files.write_text(tmp_path / "new.txt", "text")
    assert names_in(tmp_path) == []


def test_the_content_is_on_disk_before_the_rename(old_file, monkeypatch):
    calls = []
    for name in ("fsync", "replace"):
        real = getattr(os, name)

        def noted(*arguments, name=name, real=real):
            calls.append(name)
            return real(*arguments)

        monkeypatch.setattr(os, name, noted)
    files.write_text(old_file, "new")
    assert calls == ["fsync", "replace", "fsync"]  # the file, its name, the folder


@pytest.mark.parametrize("umask", [0o022, 0o002, 0o077])
def test_permissions_follow_the_umask(tmp_path, umask):
    before = os.umask(umask)
    try:
        files.write_text(tmp_path / "new.txt", "text")
        assert os.umask(umask) == umask
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "new.txt").stat().st_mode) == 0o666 & ~umask


def test_the_umask_is_not_changed_even_for_a_moment(tmp_path, monkeypatch):
    # The umask belongs to the whole process, so another thread's files could become readable.
    changes = []
    real = os.umask
    monkeypatch.setattr(os, "umask", lambda mask: changes.append(mask) or real(mask))
    files.write_text(tmp_path / "new.txt", "text")
    assert changes == []


def test_a_failed_file_is_named_by_the_block_that_wrote_it(tmp_path):
    def write() -> None:
        with files.atomic_write(tmp_path / "one"), files.atomic_write(tmp_path / "other"):
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    with pytest.raises(OSError, match="Input/output error") as caught:
        write()
    assert caught.value.filename == str(tmp_path / "other")
    assert names_in(tmp_path) == []


def test_concurrent_writers_give_one_whole_file(tmp_path):
    path = tmp_path / "shared.bin"
    contents = [bytes([65 + index]) * (200_000 + index) for index in range(4)]
    files.write_text(path, contents[0].decode())

    def write(content: bytes) -> None:
        for _ in range(5):
            with files.atomic_write(path) as file:
                file.write(content[:1000])
                file.write(content[1000:])

    with ThreadPoolExecutor(4) as pool:
        pending = [pool.submit(write, content) for content in contents]
        while not all(task.done() for task in pending):
            assert path.read_bytes() in contents
        for task in pending:
            task.result()
    assert path.read_bytes() in contents
    assert names_in(tmp_path) == ["shared.bin"]


def test_text_is_utf8_with_the_line_ends_it_was_given(tmp_path):
    files.write_text(tmp_path / "text.txt", "√3\nKL\r\n")
    assert (tmp_path / "text.txt").read_bytes() == "√3\nKL\r\n".encode()


def test_json_reads_back_and_ends_its_last_line(tmp_path):
    value = {"elbo": -99.123456789, "names": ["a", None], "n": 10000}
    files.write_json(tmp_path / "metrics.json", value)
    text = (tmp_path / "metrics.json").read_text()
    assert json.loads(text) == value
    assert text.endswith("}\n")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_json_refuses_nan_and_infinity(old_file, value):
    with pytest.raises(ValueError, match="JSON compliant"):
        files.write_json(old_file, {"elbo": value})
    assert old_file.read_bytes() == b"old"


def test_sha256_is_the_published_digest(tmp_path):
    # The digests of FIPS 180-4's examples: "abc", and a million times "a".
    (tmp_path / "abc").write_bytes(b"abc")
    (tmp_path / "million").write_bytes(b"a" * 1_000_000)
    assert files.sha256(tmp_path / "abc") == (
        "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    )
    assert files.sha256(tmp_path / "million") == (
        "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0"
    )


def test_a_digest_covers_every_block(tmp_path):
    (tmp_path / "a").write_bytes(bytes((1 << 20) + 1))
    (tmp_path / "b").write_bytes(bytes(1 << 20) + b"\1")
    assert files.sha256(tmp_path / "a") != files.sha256(tmp_path / "b")


def test_a_folder_that_cannot_be_synced_is_no_error(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", failing)
    files.sync_folder(tmp_path)
    files.sync_folder(tmp_path / "missing")


def test_a_name_of_255_bytes_is_written(tmp_path):
    path = tmp_path / (125 * "ä" + ".json")
    files.write_text(path, "x")
    assert [each.name for each in tmp_path.iterdir()] == [path.name]
