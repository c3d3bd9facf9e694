"""Measure how often an interval over few seeds holds the truth (`python benchmarks/intervals.py`).

Made-up studies whose truth is known: each seed has a mean of its own, its problems are drawn (anew for each
seed, as procedural ones are, or the same for all, as those of a file), and what a problem gives is normal
around both. Of the intervals at 95 %, the share that holds the truth and the mean width: Student's t over
seeds (`statistics.student`) beside the bootstrap of seeds and problems (`statistics.over_seeds`). Then the
same of Welch's t (`statistics.welch`) for two methods with other seeds, of which the second differs from seed
to seed more than the first does, or as much.

How far seeds differ is told as a multiple of what their problems make them differ by.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import numpy.typing as npt

from prl.statistics import Estimate, Units, itself, over_seeds, student, welch

PROBLEMS = 64
SPREAD = 0.25  # of what problems give: the half of its variance is the problem's, the other half chance


def main(arguments: Sequence[str] | None = None) -> list[dict[str, Any]]:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--studies", type=int, default=400, help="made up for each line")
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args(arguments)
    print("| seeds | they differ by | problems | Student's t: holds | width | bootstrap: holds | width |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    found = [
        measure(seeds, times, shared, options.studies)
        for seeds in (3, 5)
        for shared in (False, True)
        for times in (0.0, 1.0, 5.0)
    ]
    print("\n| seeds | the second's differ | problems | Welch's t: holds | width |")
    print("| --- | --- | --- | --- | --- |")
    found += [
        measure_two(seeds, more, shared, options.studies)
        for seeds in ((3, 3), (3, 5), (5, 3), (2, 5), (5, 2))
        for shared in (False, True)
        for more in (1.0, 3.0)
    ]
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return found


def measure(seeds: int, times: float, shared: bool, studies: int) -> dict[str, Any]:
    """Make up studies of one kind and print their line."""
    rng = np.random.default_rng([seeds, int(times), shared])
    intervals: dict[str, list[Estimate | None]] = {"student": [], "bootstrap": []}
    for _ in range(studies):
        units = study(rng, seeds, times, shared)
        intervals["student"].append(student(itself, units, drawn_units=True))
        intervals["bootstrap"].append(over_seeds(itself, units))
    line: dict[str, Any] = {"seeds": seeds, "times": times, "shared": shared}
    for name, each in intervals.items():
        known = [one for one in each if one]
        holds = fmean(one.low <= 0 <= one.high for one in known)
        line[name] = {"holds": holds, "width": fmean(one.high - one.low for one in known)}
    problems = "the same" if shared else "their own"
    cells = (f"{line[name]['holds']:.1%} | {line[name]['width']:.3f}" for name in intervals)
    print(f"| {seeds} | {times:g}× | {problems} | {' | '.join(cells)} |", flush=True)
    return line


def measure_two(seeds: tuple[int, int], more: float, shared: bool, studies: int) -> dict[str, Any]:
    """Make up two methods as good as each other, which differ in what each problem gives, and print their
    line."""
    rng, known = np.random.default_rng([*seeds, int(more), shared]), []
    for _ in range(studies):
        problems = rng.normal(0, SPREAD / 2**0.5, PROBLEMS)
        sides = [
            study(rng, count, times, shared, problems + rng.normal(0, SPREAD / 4, PROBLEMS), start)
            for count, times, start in ((seeds[0], 1.0, 0), (seeds[1], more, seeds[0]))
        ]
        found = welch(*sides, drawn_units=True)
        assert found is not None  # for the type checker: there are two seeds or more
        known.append(found)
    holds = fmean(one.low <= 0 <= one.high for one in known)
    width = fmean(one.high - one.low for one in known)
    both, problems_told = f"{seeds[0]} and {seeds[1]}", "the same" if shared else "their own"
    print(f"| {both} | {more:g}× as much | {problems_told} | {holds:.1%} | {width:.3f} |", flush=True)
    line = {"seeds": seeds, "more": more, "shared": shared}
    return line | {"welch": {"holds": holds, "width": width}}


def study(
    rng: np.random.Generator,
    seeds: int,
    times: float,
    shared: bool,
    problems: npt.NDArray[np.float64] | None = None,
    start: int = 0,
) -> Units:
    """What each problem of each seed gives, around 0; `problems` are those that are shared, `start` is the
    first seed."""
    half = SPREAD / 2**0.5
    means = rng.normal(0, times * SPREAD / PROBLEMS**0.5, (seeds, 1))
    drawn = rng.normal(0, half, (1 if shared else seeds, PROBLEMS))
    if shared and problems is not None:
        drawn = problems
    values = means + drawn + rng.normal(0, half, (seeds, PROBLEMS))
    first = [0 if shared else (start + seed) * PROBLEMS for seed in range(seeds)]
    return {
        start + seed: {first[seed] + n: value for n, value in enumerate(values[seed].tolist())}
        for seed in range(seeds)
    }


if __name__ == "__main__":
    main()
