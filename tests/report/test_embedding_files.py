"""Files of embeddings hold every column, and a folder is what TensorBoard's projector reads."""

import errno
import importlib.util
import os
import re

import numpy as np
import pytest
from PIL import Image

from vae_keras.embeddings import Embeddings
from vae_keras.report import embedding_files
from vae_keras.utils import checks

GENERATOR = np.random.default_rng(0)
FOUND = Embeddings(*(GENERATOR.normal(size=s).astype(np.float32) for s in ((5, 3), (5, 3), (5,))))
NAMES = [f"a/{row}.png" for row in range(5)]
LABELS = np.array(["cat", "dog", "cat", "owl", "dog"])
IMAGES = GENERATOR.integers(0, 256, (5, 6, 4, 1), dtype=np.uint8)


def test_an_npz_file_holds_every_column(tmp_path):
    embedding_files.write(tmp_path / "e.npz", FOUND, NAMES, LABELS, IMAGES)
    with np.load(tmp_path / "e.npz", allow_pickle=False) as held:
        assert list(held) == ["file", "label", "loc", "scale", "elbo"]
        assert held["file"].tolist() == NAMES
        for name, expected in {"label": LABELS, **FOUND._asdict()}.items():
            np.testing.assert_array_equal(held[name], expected)


def test_a_parquet_file_holds_every_column(tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet", reason="the extra [parquet] is not installed")
    embedding_files.write(tmp_path / "e.parquet", FOUND, NAMES, None, IMAGES)
    held = parquet.read_table(tmp_path / "e.parquet")
    assert held.column_names == ["file", "loc", "scale", "elbo"]
    np.testing.assert_array_equal(held["loc"].to_pylist(), FOUND.loc)
    assert held["file"].to_pylist() == NAMES


def test_a_folder_is_what_the_projector_reads(tmp_path):
    embedding_files.write(tmp_path / "p", FOUND, NAMES, LABELS, IMAGES, invert=True)
    np.testing.assert_allclose(np.loadtxt(tmp_path / "p" / "tensors.tsv"), FOUND.loc, rtol=1e-6)
    lines = (tmp_path / "p" / "metadata.tsv").read_text(encoding="utf-8").splitlines()
    assert lines[0] == "label\tfile\telbo"
    assert [line.split("\t")[:2] for line in lines[1:]] == [
        [*row] for row in zip(LABELS, NAMES, strict=True)
    ]
    config = (tmp_path / "p" / "projector_config.pbtxt").read_text(encoding="utf-8")
    assert re.findall(r"single_image_dim: (\d+)", config) == ["4", "6"]
    sprite = np.asarray(Image.open(tmp_path / "p" / "sprite.png"))
    assert sprite.shape == (18, 12)  # five images of 6 x 4 in a square of three by three
    np.testing.assert_array_equal(sprite[6:12, 0:4], 255 - IMAGES[3, ..., 0])


def test_a_half_written_folder_has_no_configuration(tmp_path, monkeypatch):
    embedding_files.write(tmp_path / "p", FOUND, NAMES, LABELS, IMAGES)

    def fails(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(np, "savetxt", fails)
    with pytest.raises(OSError, match="No space left"):
        embedding_files.write(tmp_path / "p", FOUND, NAMES, LABELS, IMAGES)
    assert not (tmp_path / "p" / "projector_config.pbtxt").exists()


def test_a_sprite_keeps_to_the_size_that_a_browser_draws(tmp_path, monkeypatch):
    monkeypatch.setattr(embedding_files, "_SPRITE", 9)
    embedding_files.write(tmp_path / "p", FOUND, NAMES, LABELS, IMAGES)
    assert max(Image.open(tmp_path / "p" / "sprite.png").size) <= 9


def test_another_ending_is_refused(tmp_path):
    with pytest.raises(checks.InputError, match=r"--to must end in .npz or .parquet, or name a"):
        embedding_files.check(tmp_path / "e.csv")


def test_a_missing_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(checks.InputError, match=r"Run: pip install 'vae-keras\[parquet\]'"):
        embedding_files.check(tmp_path / "e.parquet")
