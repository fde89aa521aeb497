"""The benchmarks' results and what shows them."""

import json

import pytest

from benchmarks import commands, contests, goals, render, results


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


def test_a_goal_is_met_at_its_bound():
    least = goals.Goal("case", "figure", lambda rows: 0.0, at_least=1.3)
    most = goals.Goal("case", "figure", lambda rows: 0.0, at_most=1.7)
    assert [least.is_met_by(figure) for figure in (1.29, 1.3, 1.4)] == [False, True, True]
    assert [most.is_met_by(figure) for figure in (1.6, 1.7, 1.71)] == [True, True, False]


def test_a_goal_compares_within_a_round_with_the_fastest():
    rows = {
        name: {"contestant": name, "floor": "floor" in name, "seconds": seconds}
        for name, seconds in {
            "ours, VAE.fit": [1.0, 2.0, 1.0],
            "ours, otherwise": [0.1, 0.1, 0.1],
            "slow": [3.0, 6.0, 3.0],
            "fast": [2.0, 4.0, 2.0],
            "floor: a": [0.5, 1.0, 0.5],
            "floor: b": [0.8, 1.6, 0.8],
        }.items()
    }
    measured = {goal.what: goal.measure(rows) for goal in goals.GOALS if goal.case == "train_20"}
    assert measured == {"the fastest peer's time over ours": 2.0}
    over_floor = next(goal for goal in goals.GOALS if "floor" in goal.what)
    assert over_floor.measure(rows) == 2.0


def test_every_goal_is_of_a_case():
    assert {goal.case for goal in goals.GOALS} <= {*contests.CONTESTS, *commands.COMMANDS}
