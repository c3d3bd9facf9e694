"""What a page says first: how it went, in sentences with intervals, and no more than the data carry."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter
from statistics import fmean
from typing import Any

import numpy as np

from prl.analysis.budgets import problem_of
from prl.grammar import PARALLEL
from prl.report.curves import latest_means, logged
from prl.report.page.reading import Told
from prl.statistics import (
    Estimate,
    Floats,
    bootstrap,
    of_shares,
    paired_difference,
    unpaired_difference,
)

ENDS = 10
"""Most steps at each end of a training that are held against each other; never more than a third of it."""

SMOOTH = 5
"""Steps of which a milestone is a mean."""

_MODES = ("sampled", "greedy")

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Paid:
    """A reward over a training: `when` it was paid, in words and empty for always; the `least` and the
    `greatest` that it paid; its means over its `first` and its `last` steps, each named by `steps`, and the
    difference, with intervals over groups of responses."""

    name: str
    when: str
    least: float
    greatest: float
    steps: tuple[str, str]
    first: Estimate
    last: Estimate
    change: Estimate


def sentences(told: Sequence[Told]) -> list[str]:
    """Two or three for a run; of several evaluations of the same problems, which is the most accurate and by
    how much."""
    alike = [(mode, same) for mode in _MODES for same in _alike(told, mode)]
    compared = {run.name for _, same in alike for run in same}
    said = _compared(alike)
    if len(told) > 1 and not any(run.results for run in told):
        said.append("Which of these runs is better only evaluations can say; none is on this page.")
    for run in told:
        if run.name not in compared:  # else they stand in a table
            prefix = f"{run.name}: " if len(told) > 1 else ""
            said += [prefix + line for line in _of(run)]
    return said or ["Nothing has been logged yet."]


def evaluations(told: Sequence[Told]) -> list[tuple[str, ...]]:
    """Headings, then a row each evaluation and mode: accuracy, of several evaluations the paired difference
    to the first where it has the same problems, and what responses are like; empty without an evaluation."""
    evaluated = [run for run in told if run.results]
    over = (f"points over {evaluated[0].name}",) if len(evaluated) > 1 else ()
    rows: list[tuple[str, ...]] = [
        ("evaluation", "mode", "problems", "right", *over, "with a block", "tokens", "critical path")
    ]
    for run in evaluated:
        for mode in run.results["scores"]:
            accuracy = share(_accuracy(run, mode))
            gain = (_points_over(evaluated[0], run, mode),) if over else ()
            count = str(len(_scores(run, mode)))
            rows.append((run.name, mode, count, accuracy, *gain, *_form(run, mode)))
    return rows if evaluated else []


def rewards_paid(run: Told) -> list[Paid]:
    """What came of each reward of a training, by its name."""
    found = []
    steps = sorted({row["step"] for row in run.samples})
    for name in sorted({key for row in run.samples for key in row if key.startswith("reward_")}):
        rows = [row for row in run.samples if row.get(name) is not None]
        if rows:
            first, last, where = _ends(rows, itemgetter(name))
            paid = [row[name] for row in rows]
            found.append(
                Paid(
                    name.removeprefix("reward_"),
                    _when(sorted({row["step"] for row in rows}), steps),
                    min(paid),
                    max(paid),
                    where,
                    bootstrap(first),
                    bootstrap(last),
                    unpaired_difference(first, last),
                )
            )
    return found


def milestones(run: Told) -> dict[str, int]:
    """Name -> the first step at which, as a mean of five: half of the gain in right answers between the first
    and the last steps was there ("half of the gain"), and half of the responses had a valid block ("blocks",
    0 where they had from the start)."""
    found = {}
    first, last, _ = _ends(run.samples, lambda row: row.get("correct"))
    if len(first) and len(last):
        half = (first.mean() + last.mean()) / 2
        reached = next((step for step, value in _smooth(run, "correct") if value >= half), None)
        if last.mean() - first.mean() > 0.02 and reached is not None:
            found["half of the gain"] = reached
    blocks = _smooth(run, "parallel_ratio")
    reached = next((step for step, value in blocks if value >= 0.5), None)
    if reached is not None:
        found["blocks"] = 0 if reached == blocks[0][0] else reached
    return found


def _of(run: Told) -> list[str]:
    if run.results:
        return _of_evaluation(run)
    if run.command == "rl" and run.samples:
        return _of_rl(run)
    losses = [line["loss"] for line in run.lines if isinstance(line.get("loss"), float)]
    if not losses:
        return []
    said = [f"The loss went from {losses[0]:.3g} to {losses[-1]:.3g} in {run.lines[-1].get('step')} steps."]
    valid = [line["eval_format_valid"] for line in run.lines if "eval_format_valid" in line]
    if valid:
        said.append(f"Of the responses sampled to held-out problems {valid[-1]:.0%} have a valid format.")
    return said


def _of_evaluation(run: Told) -> list[str]:
    said = []
    for mode in run.results["scores"]:
        found = _accuracy(run, mode)
        how = "greedy" if mode == "greedy" else f"mean of {run.results.get('samples')} samples a problem"
        count, data = len(_scores(run, mode)), run.results.get("dataset")
        said.append(f"Right in {share(found)} of {count} problems of {data} ({how}).")
    return said


def _of_rl(run: Told) -> list[str]:
    first, last, (at_first, at_last) = _ends(run.samples, lambda row: row.get("correct"))
    if not len(first) or not len(last):
        return []
    change = unpaired_difference(first, last)
    verb = "rose" if change.low > 0 else "fell" if change.high < 0 else "did not clearly change"
    reached = milestones(run)
    half = reached.get("half of the gain") if change.low > 0 else None
    when = f" Half of that was there at step {half}, as a mean of {SMOOTH} steps." if half else ""
    before, after, _ = _ends(run.samples, _has_clean_block)
    said = [
        f"The share of right answers to the problems that it trained on {verb}: "
        f"{share(of_shares(first))} in {at_first}, {share(of_shares(last))} in {at_last}, "
        f"{points(change)} points.{when} Their problems differ; only an evaluation says what was learnt.",
        f"Responses with a block and no fault: {before.mean():.0%} in {at_first}, {after.mean():.0%} in "
        f"{at_last}.",
    ]
    if (step := reached.get("blocks")) == 0:
        blocks = [line for line in run.lines if isinstance(line.get("parallel_ratio"), float)]
        (begun, early), (ended, late) = ((blocks[at]["step"], blocks[at]["parallel_ratio"]) for at in (0, -1))
        said.append(
            f"Blocks were there from the start: {early:.0%} of the responses had one at step {begun}, "
            f"{late:.0%} at step {ended}."
        )
    elif step is not None:
        said.append(f"Half of the responses had a block first at step {step}, as a mean of {SMOOTH} steps.")
    return said


def _has_clean_block(row: Row) -> float:
    return float(not row["faults"] and PARALLEL in (row["text"] or ""))


# --- Evaluations


def _alike(told: Sequence[Told], mode: str) -> list[list[Told]]:
    """The evaluations that answered the same problems in a mode, where there are two of them or more."""
    asked: dict[tuple[str, ...], list[Told]] = defaultdict(list)
    for run in told:
        if run.results and (problems := _problems(run, mode)):
            asked[tuple(problems)].append(run)
    return [same for same in asked.values() if len(same) > 1]


def _compared(alike: Sequence[tuple[str, Sequence[Told]]]) -> list[str]:
    """How the most accurate of evaluations that answered the same problems in a mode compares to the next and
    to the first, in a sentence, and in another where another one is ahead in another mode."""
    said: list[str] = []
    leaders: list[Told] = []
    for mode, same in alike:
        best, second, *_ = sorted(same, key=lambda run: -_mean(run, mode))
        accuracy = share(_accuracy(best, mode))
        leader = next((run for run in leaders if run in same), None)
        if leader is None:
            leaders.append(best)
            base = same[0]
            than = [second] if base in (best, second) else [second, base]
            said.append(
                f"Of {len(same)} evaluations of the same problems {best.name} has the highest accuracy "
                f"({mode}): {accuracy}. It is {', and '.join(_held(best, run, mode) for run in than)}, "
                "problem by problem. That is of single runs; of methods, only several seeds tell."
            )
        elif _mean(best, mode) > _mean(leader, mode):
            said.append(
                f"Decoded greedily another one is ahead: {best.name}, {accuracy}, which is "
                f"{_held(best, leader, mode)}."
            )
    return said


def _held(best: Told, other: Told, mode: str) -> str:
    found = _gain(other, best, mode)
    more = "more accurate than" if found.low > 0 else "not clearly more accurate than"
    return f"{more} {other.name} ({points(found)} points)"


def _points_over(base: Told, run: Told, mode: str) -> str:
    if run is base:
        return ""
    is_same = _problems(run, mode) and _problems(run, mode) == _problems(base, mode)
    return points(_gain(base, run, mode)) if is_same else "other problems"


def _gain(base: Told, other: Told, mode: str) -> Estimate:
    """The paired difference of accuracy, `other` minus `base`, which answered the same problems."""
    return paired_difference(_scores(base, mode), _scores(other, mode))


def _mean(run: Told, mode: str) -> float:
    return fmean(_scores(run, mode))


def _accuracy(run: Told, mode: str) -> Estimate:
    return of_shares(_scores(run, mode))


def _scores(run: Told, mode: str) -> list[float]:
    """The share of right responses of each problem."""
    scores: list[float] = run.results["scores"][mode]
    return scores


def _form(run: Told, mode: str) -> tuple[str, str, str]:
    """What the responses are like, those to problems that were asked: share with a valid block, tokens,
    critical path."""
    names = ("parallel_ratio", "tokens", "critical_path")
    blocks, tokens, path = (run.results.get("metrics", {}).get(f"{mode}/{name}") for name in names)
    longer, critical = (f"{each['mean']:.0f}" if each else "" for each in (tokens, path))
    return f"{Estimate(**blocks):.0%}" if blocks else "", longer, critical


def _problems(run: Told, mode: str) -> list[str]:
    """The problems, in the order of their scores."""
    of_mode = [row for row in run.samples if row.get("mode") == mode]
    return [*{problem_of(row): row["problem"] for row in of_mode}.values()]


# --- Trainings


def _ends(
    rows: Sequence[Row], value: Callable[[Row], float | None]
) -> tuple[Floats, Floats, tuple[str, str]]:
    """Means of groups in the first and in the last steps of `rows`, and which steps these are."""
    steps = sorted({row["step"] for row in rows})
    count = max(1, min(ENDS, len(steps) // 3))
    parts = (steps[:count], steps[-count:])
    ends = []
    for chosen in map(set, parts):
        groups: dict[Any, list[float]] = defaultdict(list)
        for row in rows:
            if row["step"] in chosen and (found := value(row)) is not None:
                groups[row["step"], row.get("group"), row["problem"]].append(found)
        ends.append(np.array([fmean(found) for found in groups.values()]))
    return ends[0], ends[1], (_range(parts[0]), _range(parts[1]))


def _range(steps: Sequence[int]) -> str:
    if not steps:
        return "no step"
    return f"step {steps[0]}" if len(steps) == 1 else f"steps {steps[0]}–{steps[-1]}"


def _when(paid: Sequence[int], steps: Sequence[int]) -> str:
    """When a reward was paid, in words: of all `steps` in those of `paid`, both in order; empty for all."""
    if len(paid) == len(steps):
        return ""
    begun = steps.index(paid[0])
    if [*paid] == [*steps[begun : begun + len(paid)]]:
        return f"paid in {_range(paid)} only"
    return f"paid in {len(paid)} of {len(steps)} steps"


def _smooth(run: Told, key: str) -> list[tuple[int, float]]:
    """The mean over so many latest steps, from the first step that has as many."""
    curve = logged(run.lines).get(key, [])
    means = zip(curve, latest_means(curve, SMOOTH), strict=True)
    return [(step, mean) for (step, _), mean in means if step >= SMOOTH]


def share(found: Estimate) -> str:
    """An estimate of a share with its interval, in per cent."""
    return f"{found.mean:.1%} [{found.low:.1%}, {found.high:.1%}]"


def points(found: Estimate) -> str:
    """An estimate of a difference of shares with its interval, in points."""
    return f"{100 * found.mean:+.1f} [{100 * found.low:+.1f}, {100 * found.high:+.1f}]"
