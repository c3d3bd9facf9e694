"""Training runs side by side, at equal steps: what they logged at the end, and the best of it.

The end is the mean of the last ten logged steps at most, never more than a third of all, up to the last step
that all runs have; what is measured on held-out problems is the latest value there, seconds a step are the
median, memory the peak. The best is that of means over as many steps. Of two single runs a difference has an
interval only where it is of right answers: over the problems of the last steps, paired where both had the
same. Over several seeds it is Student's t, paired by seed.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf, isfinite
from pathlib import Path
from statistics import fmean, median
from typing import Any

import numpy as np
import pyarrow.compute as pc

from prl import runs
from prl.report.curves import Curve, latest_means, read_curves
from prl.statistics import Estimate, itself, paired_difference, student, unpaired_difference, welch
from prl.study.comparison.figures import (
    Difference,
    Figures,
    are_paired,
    left_out,
    no_common_seed,
    over,
    over_both,
)

MOST_STEPS = 10
"""Steps at the end of a training that its figures are means of, at most."""

LOGGED = ("reward", "share correct", "parallel ratio", "valid format", "dead groups", "loss")
HELD_OUT = ("held-out reward", "held-out share correct", "held-out loss")
SPENT = ("time/rollout", "time/verify", "time/score", "time/update")
"""What a step is made of; runs of an older prl logged `step_time` alone, which lacks the optimizer."""
LENGTH, SECONDS, MEMORY = "tokens a response", "seconds a step", "peak memory, GiB"
BEST: dict[str, Any] = {
    "reward": max,
    "share correct": max,
    "held-out reward": max,
    "held-out share correct": max,
}
BEST |= {"loss": min, "held-out loss": min}

AT_END = ", at its own end"
SHARES = ("share correct", "parallel ratio", "valid format", "dead groups")

PAID = (
    "rewards",
    "reward_weights",
    "alternate",
    "alternate_window",
    "overlong_buffer",
    "stages",
    "multi_objective_aggregation",
)
"""Settings by which two runs' rewards are other numbers."""

Folders = Mapping[str, Mapping[int, Path]]
"""Letter -> seed -> the folder of a run."""

_Side = Mapping[int, Mapping[str, float]]  # seed -> figure -> what it is


@dataclass(frozen=True)
class _Run:
    folder: Path
    curves: Mapping[str, Curve]
    seconds: Curve
    last: int


def compare_all(part: str, command: str, folders: Folders, *, resamples: int = 1000) -> Figures:
    """The figures of runs of one command, "sft" or "rl", and by what all others differ from the first.
    Raises RunError: a run that has logged nothing yet, or all have no step in common."""
    read = {
        letter: {seed: _read(folder, command) for seed, folder in each.items()}
        for letter, each in folders.items()
    }
    everyone = [run for side in read.values() for run in side.values()]
    step = min(run.last for run in everyone)
    window = max(1, min(MOST_STEPS, step // 3))
    with_ends = any(run.last > step for run in everyone)
    values = {
        letter: {seed: _figures(run, command, step, window, with_ends) for seed, run in side.items()}
        for letter, side in read.items()
    }
    remarks = _remarks(read, step)
    first, *others = read
    differences: list[Difference] = []
    for letter in others:
        sides = values[first], values[letter]
        singles = len(sides[0]) == len(sides[1]) == 1
        if are_paired(*sides) and not singles:
            if not sides[0].keys() & sides[1].keys():
                remarks.append(no_common_seed(first, letter, folders))
                continue
            remarks += left_out(first, letter, folders)
        same_pay = _pay(read[first]) == _pay(read[letter])
        if command == "rl" and not same_pay:
            remarks.append(f"{letter} - {first}: they are paid otherwise, so their rewards are other numbers")
        if are_paired(*sides):
            differences += _differences(first, letter, _pairs(*sides), same_pay)
        else:
            differences += _unpaired(first, letter, *sides, same_pay)
        if singles and command == "rl":
            of_problems = [*read[first].values(), *read[letter].values()]
            differences += _right(first, letter, of_problems[0], of_problems[1], step, window, resamples)
    if any(len(side) == 1 for side in read.values()) or not any(each.seeds for each in differences):
        remarks.append(
            "A difference of single runs is of these runs. Which settings are better, several seeds of each "
            "say."
        )
    steps = f"steps {step - window + 1} to {step}" if window > 1 else f"step {step}"
    return Figures(
        command,
        f"{part}, {steps}",
        {letter: letter + (f", {len(side)} seeds" if len(side) > 1 else "") for letter, side in read.items()},
        {letter: _means(side) for letter, side in values.items()},
        tuple(differences),
        tuple(remarks),
    )


def _read(folder: Path, command: str) -> _Run:
    curves = read_curves(folder)
    lines = [line for line in runs.read_metrics(folder) if type(line.get("step")) is int and "loss" in line]
    if command == "rl":
        if lengths := _logged(lines, "completions/mean_length"):
            curves |= {LENGTH: lengths}
        split = {name: dict(_logged(lines, name)) for name in SPENT}
        seconds = [
            (step, sum(each.get(step, 0.0) for each in split.values()) if step in split[SPENT[0]] else logged)
            for step, logged in _logged(lines, "step_time")
        ]
    else:
        at = _logged(lines, "time")
        pairs = itertools.pairwise(at)
        seconds = [(step, (now - was) / (step - before)) for (before, was), (step, now) in pairs]
    last = max(step for curve in curves.values() for step, _ in curve)
    return _Run(folder, curves, seconds, last)


def _logged(lines: Sequence[Mapping[str, Any]], key: str) -> Curve:
    """Of two values at one step the later, as after a resumed run."""
    found = {line["step"]: float(line[key]) for line in lines if isinstance(line.get(key), int | float)}
    return sorted((step, value) for step, value in found.items() if isfinite(value))


def _figures(run: _Run, command: str, step: int, window: int, with_end: bool) -> dict[str, float]:
    found: dict[str, float] = {}
    curves = {name: [at for at in curve if at[0] <= step] for name, curve in run.curves.items()}
    # Those of a cold start are of responses to held-out problems.
    latest = HELD_OUT if command == "rl" else (*HELD_OUT, "valid format", "parallel ratio")
    for name in (*LOGGED, LENGTH, *HELD_OUT):
        curve = curves.get(name)
        if not curve:
            continue
        size = 1 if name in latest else window
        smooth = latest_means(curve, size)
        found[name] = smooth[-1]
        if name in BEST:
            whole = [mean for (at, _), mean in zip(curve, smooth, strict=True) if at >= size] or smooth
            found[f"best {name}"] = BEST[name](whole)
        if name in BEST and with_end:
            found[f"{name}{AT_END}"] = latest_means(run.curves[name], size)[-1]
    if seconds := [value for at, value in run.seconds if at <= step]:
        found[SECONDS] = median(seconds)
    if memory := curves.get("peak memory"):
        found[MEMORY] = max(value for _, value in memory)
    return found


def _means(side: Mapping[int, Mapping[str, float]]) -> dict[str, Estimate | float]:
    names = dict.fromkeys(name for each in side.values() for name in each)
    found: dict[str, Estimate | float] = {}
    for name in names:
        known = {seed: {"run": each[name]} for seed, each in side.items() if name in each}
        estimate = student(itself, known, bounds=_bounds(name)) if len(known) > 1 else None
        found[name] = estimate or fmean(value for each in known.values() for value in each.values())
    return found


def _bounds(name: str) -> tuple[float, float]:
    """Between which a figure is."""
    if name.removesuffix(AT_END).endswith(SHARES):
        return 0.0, 1.0
    return (0.0, inf) if name in (LENGTH, SECONDS, MEMORY) else (-inf, inf)


def _pairs(before: _Side, after: _Side) -> dict[int, tuple[Mapping[str, float], Mapping[str, float]]]:
    """Seed -> the figures of both, of seeds that both have, or of two single runs."""
    if len(before) == len(after) == 1:
        return {0: (next(iter(before.values())), next(iter(after.values())))}
    return {seed: (before[seed], after[seed]) for seed in sorted(before.keys() & after.keys())}


def _differences(
    first: str,
    second: str,
    pairs: Mapping[int, tuple[Mapping[str, float], Mapping[str, float]]],
    same_pay: bool,
) -> list[Difference]:
    names = dict.fromkeys(name for each in pairs.values() for name in each[0])
    found = []
    for name in names:
        gains = {
            seed: {"run": after[name] - before[name]}
            for seed, (before, after) in pairs.items()
            if name in before and name in after
        }
        if not gains or not _is_subtracted(name, same_pay):
            continue
        seeds = tuple(gains)
        if len(seeds) > 1:
            value = student(itself, gains, bounds=_bounds_of_difference(name))
            assert value is not None  # for the type checker: there are seeds
            found.append(Difference(name, first, second, value, f"paired by seed, {over(seeds)}", seeds))
        else:
            found.append(Difference(name, first, second, gains[seeds[0]]["run"], "of single runs"))
    return found


def _unpaired(first: str, second: str, before: _Side, after: _Side, same_pay: bool) -> list[Difference]:
    """The same of methods whose seeds are not the same; none of what fewer than two seeds of either have."""
    found = []
    for name in dict.fromkeys(name for each in before.values() for name in each):
        if not _is_subtracted(name, same_pay):
            continue
        sides = [
            {seed: {"run": each[name]} for seed, each in side.items() if name in each}
            for side in (before, after)
        ]
        value = welch(*sides, bounds=_bounds_of_difference(name))
        if value:
            seeds = {first: tuple(sides[0]), second: tuple(sides[1])}
            both = tuple(sorted({*sides[0], *sides[1]}))
            found.append(Difference(name, first, second, value, over_both(first, second, seeds), both))
    return found


def _is_subtracted(name: str, same_pay: bool) -> bool:
    return not name.endswith(AT_END) and (same_pay or not name.endswith("reward"))


def _bounds_of_difference(name: str) -> tuple[float, float]:
    low, high = _bounds(name)
    return low - high, high - low


def _right(
    first: str, second: str, ours: _Run, theirs: _Run, step: int, window: int, resamples: int
) -> list[Difference]:
    """By how much the shares of right answers differ, with an interval over the problems of the last steps;
    none where a run keeps no samples of them."""
    before, after = (_right_by_problem(run.folder, step - window, step) for run in (ours, theirs))
    if not before or not after:
        return []
    if before.keys() == after.keys():
        how = "paired, as both had the same problems at these steps"
        values = [before[problem] for problem in before], [after[problem] for problem in before]
        found = paired_difference(*values, resamples=resamples)
    else:
        how = "not paired: their problems at these steps differ"
        found = unpaired_difference(
            np.array([*before.values()]), np.array([*after.values()]), resamples=resamples
        )
    return [Difference("share correct, by problem", first, second, found, how)]


def _right_by_problem(folder: Path, after: int, until: int) -> dict[tuple[int, str], float]:
    """(step, problem) -> the share of its responses that are right."""
    table = runs.read_samples(folder)
    if not {"step", "problem", "correct"} <= {*table.column_names}:
        return {}
    table = table.select(["step", "problem", "correct"])
    inside = pc.and_(pc.greater(table["step"], after), pc.less_equal(table["step"], until))
    found: dict[tuple[int, str], list[float]] = {}
    for row in table.filter(inside).to_pylist():
        if row["correct"] is not None:
            found.setdefault((row["step"], row["problem"]), []).append(float(row["correct"]))
    return {problem: fmean(each) for problem, each in sorted(found.items())}


def _pay(side: Mapping[int, _Run]) -> list[Any]:
    said = [runs.read_settings(run.folder) for run in side.values()]
    return [said[0].get(name) for name in PAID]


def _remarks(read: Mapping[str, Mapping[int, _Run]], step: int) -> list[str]:
    said = []
    lasts = {letter: dict.fromkeys(run.last for run in side.values()) for letter, side in read.items()}
    if any({*each} != {step} for each in lasts.values()):
        ends = ", ".join(f"{letter} {' '.join(map(str, each))}" for letter, each in lasts.items())
        said.append(f"They have other numbers of steps ({ends}): compared at step {step}.")
    unfinished = [
        letter
        for letter, side in read.items()
        if any(runs.read_summary(run.folder) is None for run in side.values())
    ]
    if unfinished:
        said.append(f"Not finished: {' '.join(unfinished)}.")
    return said
