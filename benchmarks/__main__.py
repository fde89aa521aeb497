"""Runs the benchmark's cases and renders their results: `python -m benchmarks train_200`."""

from __future__ import annotations

import argparse
import json
import os
import sys

from benchmarks import commands, contests, results, trace

_CASES = (*contests.CONTESTS, *commands.COMMANDS, "trace")
_LEAST_ROUNDS = 7


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("cases", nargs="*", help=f"any of: {', '.join(_CASES)} (default: all)")
    parser.add_argument(
        "--rounds", type=int, default=_LEAST_ROUNDS, help="of timing; fewer than 7 with --dry-run"
    )
    parser.add_argument("--only", nargs="*", default=[], help="contestants whose name has this")
    parser.add_argument("--dry-run", action="store_true", help="write no results")
    parser.add_argument("--render", action="store_true", help="render what is there, run nothing")
    arguments = parser.parse_args(argv)
    if unknown := [case for case in arguments.cases if case not in _CASES]:
        parser.error(f"unknown case {unknown[0]}; there are: {', '.join(_CASES)}")
    if arguments.rounds < _LEAST_ROUNDS and not arguments.dry_run:
        parser.error(f"a result takes {_LEAST_ROUNDS} rounds or more; fewer go with --dry-run")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    failed = False
    cases = arguments.cases or _CASES
    for case in cases:
        if not arguments.render:
            failed |= not _run(case, arguments)
    if arguments.dry_run:
        return int(failed)
    # It imports TensorFlow, and the memory of a command counts from that of this process on.
    from benchmarks import render

    for case in cases:
        if case == "trace":
            render.write_pages()
        elif results.read(case):
            render.write(case, _title(case))
    return int(failed)


def _run(case: str, arguments: argparse.Namespace) -> bool:
    """Runs a case and writes its results; False when a check failed."""
    if case == "trace":
        found = trace.measure()
        _say(f"trace: {found['shares']}")
        if not arguments.dry_run:
            trace.PATH.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
        return True
    if reason := commands.why_skipped(case):
        _say(f"{case}: skipped, {reason}")
        return True
    _say(f"{case}: {_title(case)}")
    about = results.about()
    try:
        if case in commands.COMMANDS:
            rows = commands.run(case, arguments.rounds, _say)
        else:
            only = tuple(arguments.only)
            rows = contests.run(contests.CONTESTS[case], arguments.rounds, only, _say)
    except contests.CheckFailed as error:
        _say(f"{case}: not timed: {error}")
        return False
    for row in rows:
        if row.ratio is not None:
            ratio = row.ratio
            _say(f"{row.contestant}: {ratio.median:.2f} ({ratio.low:.2f} to {ratio.high:.2f})")
    if not arguments.dry_run:
        results.write(case, rows, about)
    return True


def _title(case: str) -> str:
    return commands.TITLES.get(case) or contests.CONTESTS[case].title


def _say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main())
