"""The benchmarks' results and what shows them."""

import json

import pytest

from benchmarks import render, results


@pytest.mark.parametrize("path", render.READMES, ids=["benchmarks", "top"])
def test_the_readmes_show_the_results(path):
    assert render.rendered(path) == path.read_text(encoding="utf-8")


@pytest.mark.parametrize("path", sorted(results.FOLDER.glob("*.jsonl")), ids=lambda path: path.stem)
def test_a_ratio_is_that_of_its_seconds(path):
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    reference = rows[0]
    for row in (row for row in rows if row["ratio"]):
        assert len(row["seconds"]) >= 7
        ratio = results.Ratio.of(row["seconds"], reference["seconds"])
        assert ratio.median == pytest.approx(row["ratio"]["median"])
