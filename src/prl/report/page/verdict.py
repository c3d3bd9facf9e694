"""What a page says first: how it went, in sentences with intervals, and no more than the data carry."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from prl.grammar import PARALLEL
from prl.report.page.reading import Told
from prl.statistics import Estimate, bootstrap, paired_difference, unpaired_difference

ENDS = 10
"""Most steps at each end of a training that are held against each other; never more than a third of it."""


def sentences(told: Sequence[Told]) -> list[str]:
    """Two or three for a run; of several evaluations, which is the most accurate and by how much."""
    evaluated = [run for run in told if run.results]
    said = _compared(evaluated)
    if len(told) > 1 and not evaluated:
        said.append("Which of these runs is better only evaluations can say; none is on this page.")
    for run in told:
        if len(evaluated) < 2 or not run.results:  # else they stand in a table
            prefix = f"{run.name}: " if len(told) > 1 else ""
            said += [prefix + line for line in _of(run)]
    return said or ["Nothing has been logged yet."]


def evaluations(told: Sequence[Told]) -> list[tuple[str, ...]]:
    """A row each evaluation and mode: name, mode, problems, accuracy, and where the first evaluation has the
    same problems the paired difference to it; none for fewer than two evaluations."""
    evaluated = [run for run in told if run.results]
    rows: list[tuple[str, ...]] = []
    for run in evaluated if len(evaluated) > 1 else ():
        for mode, scores in run.results["scores"].items():
            found = bootstrap(_scores(run, mode))
            gain = _gain(evaluated[0], run, mode) if run is not evaluated[0] else None
            rows.append((run.name, mode, str(len(scores)), share(found), points(gain) if gain else ""))
    return rows


def reward_changes(run: Told) -> list[tuple[str, Estimate, Estimate, Estimate]]:
    """Name of each reward, its mean over the first and over the last steps, and the difference, with 95 %
    bootstrap intervals over groups of responses."""
    names = sorted({key for row in run.samples[:1] for key in row if key.startswith("reward_")})
    found = []
    for name in names:
        first, last = _ends(run, lambda row, name=name: row.get(name))
        if len(first) and len(last):
            change = unpaired_difference(first, last)
            found.append((name.removeprefix("reward_"), bootstrap(first), bootstrap(last), change))
    return found


def milestones(run: Told) -> dict[str, int]:
    """Name -> the first step at which, as a mean of five: half of the gain in right answers was there ("half
    of the gain"), and half of the responses had a valid block ("blocks")."""
    found = {}
    right = _smooth(run, "correct")
    if right:
        low, high = right[0][1], right[-1][1]
        if high - low > 0.02:
            found["half of the gain"] = next(step for step, value in right if value >= (low + high) / 2)
    blocks = _smooth(run, "parallel_ratio")
    reached = next((step for step, value in blocks if value >= 0.5), None)
    if reached is not None:
        found["blocks"] = reached
    return found


def _of(run: Told) -> list[str]:
    if run.results:
        return _of_evaluation(run.results)
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


def _of_evaluation(results: Mapping[str, Any]) -> list[str]:
    said = []
    for mode, scores in results["scores"].items():
        found = bootstrap([score for score in scores if score is not None])
        how = "greedy" if mode == "greedy" else f"mean of {results.get('samples')} samples a problem"
        said.append(f"Right in {share(found)} of {len(scores)} problems of {results.get('dataset')} ({how}).")
    return said


def _of_rl(run: Told) -> list[str]:
    first, last = _ends(run, lambda row: row.get("correct"))
    if not len(first) or not len(last):
        return []
    change, steps = unpaired_difference(first, last), _end_steps(run)
    verb = "rose" if change.low > 0 else "fell" if change.high < 0 else "did not clearly change"
    said = [
        f"The share of right answers to the problems that it trained on {verb}: "
        f"{share(bootstrap(first))} in the first {steps} steps, {share(bootstrap(last))} in the last, "
        f"{points(change)} points. Their problems differ; only an evaluation says what was learnt."
    ]
    before, after = _ends(run, _has_clean_block)
    said.append(
        f"Responses with a block and no fault: {before.mean():.0%} at first, {after.mean():.0%} at the end."
    )
    reached = milestones(run)
    if change.low > 0 and (step := reached.get("half of the gain")) is not None:
        said.append(f"Half of the gain was there at step {step}.")
    if (step := reached.get("blocks")) is not None:
        said.append(
            f"From step {step} on half of the responses or more had a block, as a mean of five steps."
        )
    return said


def _has_clean_block(row: Mapping[str, Any]) -> float:
    return float(not row["faults"] and PARALLEL in (row["text"] or ""))


def _compared(evaluated: Sequence[Told]) -> list[str]:
    """How the most accurate evaluation compares to the first that answered the same problems, in a sentence;
    none where no two did."""
    for mode in ("sampled", "greedy"):
        of_mode = [run for run in evaluated if _problems(run, mode)]
        same = [run for run in of_mode if _problems(run, mode) == _problems(of_mode[0], mode)]
        if len(same) < 2:
            continue
        best = max(same, key=lambda run: bootstrap(_scores(run, mode), resamples=0).mean)
        base = same[0] if best is not same[0] else same[1]
        found = _gain(base, best, mode)
        assert found is not None  # for the type checker: they answered the same problems
        more = "more accurate than" if found.low > 0 else "not clearly more accurate than"
        return [
            f"Of {len(same)} evaluations of the same problems {best.name} has the highest accuracy ({mode}): "
            f"{share(bootstrap(_scores(best, mode)))}. It is {more} {base.name}: {points(found)} points, "
            "problem by problem. That is of single runs; of methods, only several seeds tell."
        ]
    return []


def _gain(base: Told, other: Told, mode: str) -> Estimate | None:
    """The paired difference of accuracy, `other` minus `base`; None where they answered other problems."""
    if not _problems(other, mode) or _problems(other, mode) != _problems(base, mode):
        return None
    scores = (run.results["scores"][mode] for run in (base, other))
    pairs = [(a, b) for a, b in zip(*scores, strict=True) if a is not None and b is not None]
    return paired_difference(*zip(*pairs, strict=True))


def _scores(run: Told, mode: str) -> list[float]:
    return [score for score in run.results["scores"][mode] if score is not None]


def _problems(run: Told, mode: str) -> list[str]:
    if mode not in run.results["scores"]:
        return []
    return [*dict.fromkeys(row["problem"] for row in run.samples if row.get("mode") == mode)]


def _end_steps(run: Told) -> int:
    steps = len({row["step"] for row in run.samples})
    return max(1, min(ENDS, steps // 3))


def _ends(run: Told, value: Any) -> tuple[Any, Any]:
    """Means of groups in the first and in the last steps of a training."""
    steps = sorted({row["step"] for row in run.samples})
    count = _end_steps(run)
    ends = []
    for chosen in ({*steps[:count]}, {*steps[-count:]}):
        groups: dict[Any, list[float]] = defaultdict(list)
        for row in run.samples:
            if row["step"] in chosen and (found := value(row)) is not None:
                groups[row["step"], row.get("group"), row["problem"]].append(found)
        ends.append(np.array([sum(found) / len(found) for found in groups.values()]))
    return ends[0], ends[1]


def _smooth(run: Told, key: str) -> list[tuple[int, float]]:
    points = [(line["step"], line[key]) for line in run.lines if isinstance(line.get(key), float)]
    latest = [[value for _, value in points[max(0, at - 4) : at + 1]] for at in range(len(points))]
    return [(step, sum(values) / len(values)) for (step, _), values in zip(points, latest, strict=True)]


def share(found: Estimate) -> str:
    """An estimate of a share with its interval, in per cent."""
    return f"{found.mean:.1%} [{found.low:.1%}, {found.high:.1%}]"


def points(found: Estimate) -> str:
    """An estimate of a difference of shares with its interval, in points."""
    return f"{100 * found.mean:+.1f} [{100 * found.low:+.1f}, {100 * found.high:+.1f}]"
