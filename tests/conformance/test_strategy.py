"""A strategy gives what a model without one gives: weights, logs, steps, hooks.

A new case is one entry of `CASES` in `strategy_process.py`. Each must end with one and with two
devices as without a strategy. What several replicas do not support is an entry of `REFUSED`, with
the words of its sentence; one replica supports it. Batch normalization on two devices is compared
with Keras' layers in a plain loop under the same strategy, because each replica normalises its own
rows.
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
    subprocess.run(command, cwd=ROOT, check=True, timeout=600)
    results: dict[tuple[str, str], dict[str, np.ndarray]] = {}
    with np.load(path) as file:
        for key in file.files:
            case, scope, name = key.split(" ", 2)
            results.setdefault((case, scope), {})[name] = file[key]
    return results


@pytest.fixture(scope="module")
def fast(tmp_path_factory):
    return found(tmp_path_factory.mktemp("fast") / "found.npz", FAST)


@pytest.fixture(scope="module")
def slow(tmp_path_factory):
    names = [name for name in (*CASES, "batch-norm", *REFUSED) if name not in FAST]
    return found(tmp_path_factory.mktemp("slow") / "found.npz", names)


def assert_same(results, case: str, scope: str) -> None:
    want, got = results[case, "none"], results[case, scope]
    assert "error" not in want, str(want["error"])
    assert "error" not in got, str(got["error"])
    assert set(want) == set(got)
    tolerance = TOLERANCE.get(case, 1e-4)
    moved = np.abs(want["weights"] - want["start"]).max()
    assert moved > 1e-5
    np.testing.assert_allclose(got["weights"], want["weights"], rtol=0, atol=tolerance * moved)
    assert got["steps"] == want["steps"]
    assert list(got["calls"]) == list(want["calls"])
    for name in set(want) - {"weights", "steps", "calls", "start"}:
        close = {"rtol": max(2e-5, tolerance / 10), "atol": tolerance, "err_msg": name}
        np.testing.assert_allclose(got[name], want[name], **close)


def assert_equal(results, case: str) -> None:
    """One replica takes the steps of no strategy, to the last bit."""
    want, got = results[case, "none"], results[case, "one"]
    assert_same(results, case, "one")
    for name, value in want.items():
        np.testing.assert_array_equal(got[name], value, err_msg=name)


@pytest.mark.parametrize("case", FAST)
def test_two_devices_give_what_no_strategy_gives(fast, case):
    assert_same(fast, case, "two")


@pytest.mark.parametrize("case", FAST)
def test_one_device_gives_what_no_strategy_gives(fast, case):
    assert_equal(fast, case)


@pytest.mark.slow
def test_batch_normalization_is_what_keras_makes_of_it(slow):
    want, got = slow["batch-norm", "Keras"], slow["batch-norm", "two"]
    assert len(want) == 8 + 4  # those of the layer: gamma, beta, mean, variance
    for name, value in want.items():
        np.testing.assert_allclose(got[name], value, rtol=0, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("case", [name for name in CASES if name not in FAST])
def test_two_devices_give_what_no_strategy_gives_in_every_case(slow, case):
    assert_same(slow, case, "two")


@pytest.mark.slow
@pytest.mark.parametrize("case", [name for name in (*CASES, *REFUSED) if name not in FAST])
def test_one_device_gives_what_no_strategy_gives_in_every_case(slow, case):
    assert_equal(slow, case)


@pytest.mark.slow
@pytest.mark.parametrize("case", REFUSED)
def test_what_several_replicas_do_not_support_is_refused_in_one_sentence(slow, case):
    said = str(slow["refused", "two"][case])
    assert REFUSED[case][-1] in said
    assert "\n" not in said
