"""What the benchmarks are to show, and whether the results of today do."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks import results, scaling
from benchmarks.race import Ratio

_Rows = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Goal:
    """A bound on a figure of one case.

    Attributes:
        case: its results are read.
        what: the figure, in words.
        measure: contestant to its row, to the figure of each round.
        at_least, at_most: the bound; one of them is given.
    """

    case: str
    what: str
    measure: Callable[[_Rows], Ratio]
    at_least: float | None = None
    at_most: float | None = None

    def is_met_by(self, figure: float) -> bool:
        """Whether the figure, to the two digits shown, keeps the bound."""
        figure = round(figure, 2)
        if self.at_least is not None:
            return figure >= self.at_least
        return figure <= self.at_most


def table() -> str:
    """Renders every goal as a line of a Markdown table."""
    lines = [
        "| case | figure | goal | measured | quartiles | met |",
        "|---|---|---|---|---|---|",
    ]
    for goal in GOALS:
        bound = f"≥ {goal.at_least:g}" if goal.at_least is not None else f"≤ {goal.at_most:g}"
        try:
            figure = goal.measure(rows_of(goal.case))
        except (KeyError, ValueError):  # a contestant is not measured yet
            lines.append(f"| {goal.case} | {goal.what} | {bound} | not yet |  |  |")
            continue
        met = "yes" if goal.is_met_by(figure.median) else "no"
        spread = f"{figure.low:.2f} to {figure.high:.2f}" if len(figure.rounds) > 1 else ""
        lines.append(
            f"| {goal.case} | {goal.what} | {bound} | {figure.median:.2f} | {spread} | {met} |"
        )
    return "\n".join(lines)


def rows_of(case: str) -> _Rows:
    """Returns what was measured in a case: the contestant to its row."""
    if case == "scaling":
        return scaling.rows()
    return {row["contestant"]: row for row in results.read(case) if row["seconds"]}


def _ratio(of: str, to: str) -> Callable[[_Rows], Ratio]:
    return lambda rows: Ratio.of(rows[of]["seconds"], rows[to]["seconds"])


def _fastest(rows: Sequence[Mapping[str, Any]]) -> list[float]:
    return min((row["seconds"] for row in rows), key=statistics.median)


def _over_peers(rows: _Rows) -> Ratio:
    ours, *others = rows.values()
    peers = [r for r in others if not r["floor"] and not r["contestant"].startswith("ours")]
    return Ratio.of(_fastest(peers), ours["seconds"])


def _over_floor(rows: _Rows) -> Ratio:
    ours, *others = rows.values()
    return Ratio.of(ours["seconds"], _fastest([r for r in others if r["floor"]]))


def _images_per_second(rows: _Rows) -> Ratio:
    ours, *_ = rows.values()
    return Ratio.of([1.0] * len(ours["seconds"]), ours["seconds"])


def _pipeline_share(rows: _Rows) -> Ratio:
    without = _ratio("ours, input pipeline removed", "ours, VAE.fit")(rows)
    shares = [1.0 - ratio for ratio in without.rounds]
    return Ratio.of(shares, [1.0] * len(shares))


def _gigabytes(contestant: str) -> Callable[[_Rows], Ratio]:
    return lambda rows: Ratio.of([rows[contestant]["peak_rss"] / 1e9], [1.0])


_FIRST, _BARE = "train.py to its first epoch's line", "bare import tensorflow, plus one epoch"
_WHOLE = "train.py of one epoch, to its end"
_ONE, _TWO = "one process on one core", "two workers, one core each"
_WORKERS = "the time of one process over that of two workers"

GOALS = (
    Goal("train_200", "the fastest peer's time over ours", _over_peers, at_least=1.5),
    Goal("train_200", "our time over the floor's", _over_floor, at_most=1.2),
    Goal("train_20", "the fastest peer's time over ours", _over_peers, at_least=1.6),
    Goal("train_20", "our time over the floor's", _over_floor, at_most=1.8),
    Goal("train_conv", "the fastest peer's time over ours", _over_peers, at_least=1.6),
    Goal("train_conv", "our time over the floor's", _over_floor, at_most=1.4),
    Goal("train_photographs", "the fastest peer's time over ours", _over_peers, at_least=1.3),
    Goal(
        "train_photographs",
        "the input pipeline's share of the epoch",
        _pipeline_share,
        at_most=0.05,
    ),
    Goal(
        "train_32",
        "vae.compile(); vae.fit(x) over train.py at its batch size",
        _ratio("ours, vae.compile(); vae.fit(x)", "ours, as train.py"),
        at_most=1.15,
    ),
    Goal("train_200", "the input pipeline's share of the epoch", _pipeline_share, at_most=0.05),
    Goal("likelihood", "pythae's time over ours", _over_peers, at_least=5.0),
    Goal("likelihood", "our time over the floor's", _over_floor, at_most=1.7),
    Goal("likelihood_conv", "our images a second", _images_per_second, at_least=4.0),
    Goal("first_epoch", "time over bare import and one epoch", _ratio(_FIRST, _BARE), at_most=1.4),
    Goal(
        "import",
        "time over importing TensorFlow and TFP",
        _ratio("import vae_keras", "import tensorflow, tensorflow_probability"),
        at_most=1.25,
    ),
    Goal("first_epoch", "peak memory to the first epoch, GB", _gigabytes(_FIRST), at_most=1.2),
    Goal("first_epoch", "peak memory of the whole run, GB", _gigabytes(_WHOLE), at_most=1.1),
    Goal(
        "first_prediction",
        "time over importing TensorFlow",
        _ratio("import, from_preset, reconstruct", "bare import tensorflow"),
        at_most=1.2,
    ),
    Goal(
        "scaling",
        "a step of dense networks at batch size 100, one worker under a strategy over no strategy",
        _ratio("a strategy", "no strategy"),
        at_most=1.15,
    ),
    Goal("two_workers_conv", _WORKERS, _ratio(_ONE, _TWO), at_least=1.85),
    Goal("two_workers_dense", _WORKERS, _ratio(_ONE, _TWO), at_least=1.4),
)
