"""Rounds in turn, and what they say: the ratio of two costs within one round."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

_PAUSE = 0.2  # seconds between two slices: threads of the one before stop spinning


@dataclass(frozen=True)
class Ratio:
    """A contestant's cost over the reference's, round by round.

    Attributes:
        median: over the rounds.
        low, high: the quartiles.
        rounds: the ratio of each round.
    """

    median: float
    low: float
    high: float
    rounds: list[float]

    @classmethod
    def of(cls, costs: Sequence[float], reference: Sequence[float]) -> Ratio:
        """Divides the costs of each round and sums up."""
        rounds = [cost / base for cost, base in zip(costs, reference, strict=True)]
        if len(rounds) < 2:
            return cls(rounds[0], rounds[0], rounds[0], rounds)
        low, median, high = statistics.quantiles(rounds, n=4, method="inclusive")
        return cls(median, low, high, rounds)


def race(
    contestants: Mapping[str, Callable[[], float]],
    rounds: int,
    say: Callable[[str], None],
) -> dict[str, list[float]]:
    """Lets each contestant in turn do one slice, round after round.

    Machines drift: what lies within one round compares, what lies minutes apart does not.

    Args:
        contestants: name to a function that does a slice and returns its cost.
        rounds: how many.
        say: gets one line a round.

    Returns:
        Name to the costs, one a round.
    """
    costs: dict[str, list[float]] = {name: [] for name in contestants}
    names = list(contestants)
    for number in range(rounds):
        # Another order each round: nobody always follows the same one.
        for name in random.Random(number).sample(names, len(names)):
            time.sleep(_PAUSE)
            costs[name].append(contestants[name]())
        line = ", ".join(f"{name} {1e6 * costs[name][-1]:.3g}" for name in names)
        say(f"round {number + 1}/{rounds}, microseconds: {line}")
    return costs
