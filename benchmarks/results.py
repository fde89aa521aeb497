"""Results as JSON lines: one a contestant, each with the machine and the versions it ran on."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.race import Ratio

FOLDER = Path(__file__).resolve().parent / "results"

_PACKAGES = (
    "tensorflow",
    "keras",
    "tensorflow-probability",
    "numpy",
    "torch",
    "jax",
    "optax",
    "pythae",
)


@dataclass(frozen=True)
class Result:
    """What a contest says about one contestant.

    Attributes:
        case: the contest's name.
        contestant: its name.
        floor: whether it does only the matrix products of the work.
        seconds: a unit of work, one value a round. Only ratios within a round compare.
        per: the unit of work.
        ratio: of its seconds to the reference's, or None when it did not run.
        figure: what it came to in the check before the timing: ELBO or log-likelihood.
        peak_rss: bytes its process held at most.
        failure: why it could not run.
        limit: the contestant that does the least that this one must, or "".
    """

    case: str
    contestant: str
    floor: bool = False
    seconds: list[float] = dataclasses.field(default_factory=list)
    per: str = ""
    ratio: Ratio | None = None
    figure: float | None = None
    peak_rss: int | None = None
    failure: str | None = None
    limit: str = ""


def about(packages: Sequence[str] = _PACKAGES) -> dict[str, dict[str, Any]]:
    """Returns what a case is run on and with; asked before it runs, for the load average's sake."""
    return {"machine": machine(), "versions": versions(packages)}


def write(
    case: str,
    results: Sequence[Result],
    about: dict[str, dict[str, Any]],
    folder: Path = FOLDER,
) -> None:
    """Writes the results of a case, and what it was run on and with, as `<case>.jsonl`."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps(dataclasses.asdict(result) | about) for result in results]
    (folder / f"{case}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


def read(case: str, folder: Path = FOLDER) -> list[dict[str, Any]]:
    """Reads the results of a case, or an empty list when there are none yet."""
    path = folder / f"{case}.jsonl"
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def machine() -> dict[str, Any]:
    """Returns what the numbers were measured on."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "cpu": names[0],
        "cores": len(names),
        "avx512": "avx512f" in _cpu_flags(),
        "memory_gib": round(memory / 2**30, 1),
        "load_average": round(os.getloadavg()[0], 2),
    }


def has_bfloat16() -> bool:
    """Whether the processor multiplies in bfloat16."""
    return "avx512_bf16" in _cpu_flags()


def _cpu_flags() -> set[str]:
    """Returns what the processor can do, by Linux' names; nothing on other systems."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return set(next((line for line in lines if line.startswith("flags")), "").split())


def versions(packages: Sequence[str] = _PACKAGES) -> dict[str, str]:
    """Returns the versions of Python and of what takes part."""
    found = {"python": platform.python_version()}
    for name in packages:
        found[name] = importlib.metadata.version(name)
    return found
