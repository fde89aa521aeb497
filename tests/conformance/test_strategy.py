"""Two devices under a strategy give what one device gives: weights, logs, steps, hooks.

A new case is one entry of `CASES` in `strategy_process.py`. Each must end as on one device. A
combination that no strategy supports is an entry of `REFUSED`, with the words of its sentence.
Batch normalization is compared with Keras' layers in a plain loop under the same strategy, because
each replica normalises its own rows.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.conformance.strategy_process import CASES, FAST, REFUSED

ROOT = Path(__file__).resolve().parents[2]
TOLERANCE = {"mixed": 5e-2}


def found(path: Path, names) -> dict[tuple[str, str], dict[str, np.ndarray]]:
    command = [sys.executable, "-m", "tests.conformance.strategy_process", str(path), *names]
    subprocess.run(command, cwd=ROOT, check=True, timeout=450)
    results: dict[tuple[str, str], dict[str, np.ndarray]] = {}
    with np.load(path) as file:
        for key in file.files:
            case, replicas, name = key.split(" ", 2)
            results.setdefault((case, replicas), {})[name] = file[key]
    return results


@pytest.fixture(scope="module")
def fast(tmp_path_factory):
    return found(tmp_path_factory.mktemp("fast") / "found.npz", FAST)


@pytest.fixture(scope="module")
def slow(tmp_path_factory):
    names = [name for name in (*CASES, "batch-norm", *REFUSED) if name not in FAST]
    return found(tmp_path_factory.mktemp("slow") / "found.npz", names)


def assert_same(results, case: str) -> None:
    one, two = results[case, "1"], results[case, "2"]
    assert "error" not in one, str(one["error"])
    assert "error" not in two, str(two["error"])
    assert set(one) == set(two)
    tolerance = TOLERANCE.get(case, 1e-4)
    moved = np.abs(one["weights"] - one["start"]).max()
    assert moved > 1e-5
    np.testing.assert_allclose(two["weights"], one["weights"], rtol=0, atol=tolerance * moved)
    assert two["steps"] == one["steps"]
    assert list(two["calls"]) == list(one["calls"])
    for name in set(one) - {"weights", "steps", "calls", "start"}:
        close = {"rtol": max(2e-5, tolerance / 10), "atol": tolerance, "err_msg": name}
        np.testing.assert_allclose(two[name], one[name], **close)


@pytest.mark.parametrize("case", FAST)
def test_two_devices_give_what_one_gives(fast, case):
    assert_same(fast, case)


@pytest.mark.slow
def test_batch_normalization_is_what_keras_makes_of_it(slow):
    want, got = slow["batch-norm", "1"], slow["batch-norm", "2"]
    assert len(want) == 8 + 4  # those of the layer: gamma, beta, mean, variance
    for name, value in want.items():
        np.testing.assert_allclose(got[name], value, rtol=0, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("case", [name for name in CASES if name not in FAST])
def test_two_devices_give_what_one_gives_in_every_case(slow, case):
    assert_same(slow, case)


@pytest.mark.slow
@pytest.mark.parametrize("case", REFUSED)
def test_what_no_strategy_supports_is_refused_in_one_sentence(slow, case):
    said = str(slow["refused", "2"][case])
    assert REFUSED[case][-1] in said
    assert "\n" not in said
