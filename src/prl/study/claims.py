"""What a study measured, held against the claims of its design.

A claim names arms, a quantity and the side on which its 95 % interval has to lie. `supported`: the interval
lies wholly on that side; `not supported`: wholly on the other; `undecided` at this size: it holds the bound.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from math import inf
from statistics import fmean
from typing import Literal

import numpy as np

from prl.analysis.budgets import asked
from prl.statistics import SeedEstimate, Units, median, student
from prl.study.design import BASE, Claim, Design, Side, cold
from prl.study.estimates import gain, gain_over_votes, gain_within, mean_of, times_less, times_more, traced
from prl.study.results import Evaluation, Study, Training, matched

Unit = Literal["points", "times"]

SWITCH_WINDOW = 10
"""Steps before the switch, and at the end of the run, whose means are compared."""

FEWEST_BLOCKS = 20
"""Blocks that the first and the last third of a run need each, for their positions to be compared."""

FEWEST_DEAD = 1e-3
"""Share of dead groups that counts at least, where shares are divided by it."""

_DIFFERENCE, _RATIO = (-1.0, 1.0), (0.0, inf)


@dataclass(frozen=True)
class Judged:
    """A claim with what was measured; None, and `lacking` says of what, where nothing was. `is_firm`: an
    interval of 99 % has the same verdict."""

    claim: Claim
    measured: SeedEstimate | None
    verdict: str
    lacking: str = ""
    is_firm: bool = True


def judge(study: Study, design: Design) -> list[Judged]:
    """All claims of the design, in order."""
    judged = []
    for claim in design.claims:
        measured = QUANTITIES[claim.quantity].measure(study, *claim.arms, **claim.given)
        if measured:
            found = verdict(measured, claim.side, claim.bound)
            low, high = measured.wider or (measured.low, measured.high)
            wider = verdict(replace(measured, low=low, high=high), claim.side, claim.bound)
            judged.append(Judged(claim, measured, found, is_firm=wider == found))
        else:
            absent = [arm for arm in claim.arms if not study.evaluations.get(arm)]
            lacking = f"no finished run of {', '.join(absent)}" if absent else "too little to measure it"
            judged.append(Judged(claim, None, "not measured", lacking))
    return judged


def verdict(measured: SeedEstimate, side: Side, bound: float = 0.0) -> str:
    """What an interval says of a claim.

    >>> found = SeedEstimate(0.02, 0.01, 0.04, {})
    >>> verdict(found, "above"), verdict(found, "below"), verdict(found, "within", 0.03)
    ('supported', 'not supported', 'undecided')
    """
    above, below = measured.low > bound, measured.high < bound
    if side == "within":
        holds = measured.low > -bound and below
        fails = above or measured.high < -bound
    else:
        holds, fails = (above, below) if side == "above" else (below, above)
    return "supported" if holds else "not supported" if fails else "undecided"


# Quantities


def _accuracy(study: Study, first: str, second: str) -> SeedEstimate | None:
    return gain(*_both(study, first, second), "accuracy")


def _parallel_ratio(study: Study, first: str, second: str) -> SeedEstimate | None:
    return gain(*_both(study, first, second), "parallel_ratio")


def _accuracy_within(study: Study, first: str, second: str, *, budget: int) -> SeedEstimate | None:
    return gain_within(*_both(study, first, second), budget, "critical_path")


def _accuracy_ratio(study: Study, first: str, second: str, *, score: str = "accuracy") -> SeedEstimate | None:
    return times_more(*_both(study, first, second), score)


def _over_votes(study: Study, first: str, second: str, *, votes: int) -> SeedEstimate | None:
    return gain_over_votes(*_both(study, first, second), votes)


def _critical_path(study: Study, first: str, second: str, *, share: float) -> SeedEstimate | None:
    """How many times the critical path of `first` `second` needs for this share of the lower accuracy."""
    ours, theirs = _both(study, first, second)
    if not ours or not theirs:
        return None
    accuracy = share * min(mean_of(ours, "accuracy"), mean_of(theirs, "accuracy"))
    return times_less(ours, theirs, accuracy, "critical_path")


def _mean_critical_path(study: Study, first: str, second: str) -> SeedEstimate | None:
    return times_more(_of(study, second), _of(study, first), "critical_path")


def _seconds(study: Study, first: str, second: str) -> SeedEstimate | None:
    """The median seconds a problem of `second` over those of `first`, one at a time."""
    ours, theirs = (
        {
            seed: {"": median([row["seconds"] for row in rows]).mean}
            for seed, each in study.timed.get(arm, {}).items()
            if (rows := asked(each.rows))
        }
        for arm in (first, second)
    )
    if not ours or not theirs:
        return None
    return student(lambda one, other: other / one, ours, theirs, bounds=_RATIO)


def _summary(study: Study, arm: str) -> SeedEstimate | None:
    """The accuracy of the summary minus that of the majority of its paths."""
    summary, majority = (traced(_of(study, arm), name) for name in ("summary_accuracy", "path_majority"))
    return student(np.subtract, summary, majority, bounds=_DIFFERENCE)


def _path_accuracy(study: Study, first: str, second: str) -> SeedEstimate | None:
    """The share of the paths of valid blocks that conclude the right answer, minus that of another arm, in
    the seeds in which both answered the same problems."""
    ours, theirs = _both(study, first, second)
    seeds = [seed for seed in ours.keys() & theirs.keys() if ours[seed].problems == theirs[seed].problems]
    right = [traced({seed: side[seed] for seed in seeds}, "path_accuracy") for side in (ours, theirs)]
    return student(np.subtract, *right, bounds=_DIFFERENCE)


def rl_gain(study: Study, arm: str) -> SeedEstimate | None:
    """The accuracy of an arm minus that of the cold start, or the base, that its RL began with; of an arm
    that is evaluated within a length, both within that."""
    start, told = study.design.arms[arm].cold_start, study.design.arms[arm].setup.given.get("eval", {})
    ours, theirs = _both(study, arm, cold(start) if start else BASE)
    if (limit := told.get("max_completion_length")) is not None:
        return gain_within(ours, theirs, limit, "length")
    return gain(ours, theirs, "accuracy")


def _early_accuracy(study: Study, first: str, second: str) -> SeedEstimate | None:
    return gain(study.checkpoints.get(first, {}), _of(study, second), "accuracy")


def _of(study: Study, arm: str) -> Mapping[int, Evaluation]:
    return study.evaluations.get(arm, {})


def _both(study: Study, first: str, second: str) -> tuple[Mapping[int, Evaluation], Mapping[int, Evaluation]]:
    """Two evaluations, of the same problems where there are such."""
    ours, theirs = matched(study, first, second)
    return _of(study, ours), _of(study, theirs)


def block_position(study: Study, *arms: str) -> SeedEstimate | None:
    """Mean block position in the last third of the steps minus that in the first, of some arms or of all.

    Runs with fewer than `FEWEST_BLOCKS` blocks in either third are left out. Positions count from the run's
    own mean in the first third, so that arms which lose their blocks on the way shift nothing.
    """
    first: dict[int, dict[tuple[str, int], float]] = {}
    last: dict[int, dict[tuple[str, int], float]] = {}
    for arm in arms or study.arms:
        for seed, training in study.trainings.get(arm, {}).items():
            early, late = thirds(training)
            if early and late:
                start = fmean(early.values())
                first.setdefault(seed, {}).update({(arm, step): at - start for step, at in early.items()})
                last.setdefault(seed, {}).update({(arm, step): at - start for step, at in late.items()})
    return student(np.subtract, last, first, bounds=_DIFFERENCE) if first else None


def thirds(training: Training) -> tuple[dict[int, float], dict[int, float]]:
    """Step -> block position, in the first and in the last third of the steps; empty with too few blocks."""
    positions, third = training.curves["block_position"], training.steps // 3
    parts = (range(1, third + 1), range(training.steps - third + 1, training.steps + 1))
    if any(sum(training.blocks.get(step, 0) for step in part) < FEWEST_BLOCKS for part in parts):
        return {}, {}
    early, late = ({step: positions[step] for step in part if step in positions} for part in parts)
    return early, late


def _ratio_after_switch(study: Study, arm: str) -> SeedEstimate | None:
    """Parallel ratio in training at the end of the run minus that just before its last stage."""
    before, after = _around_switch(study, arm, arm)
    return student(np.subtract, after, before, bounds=_DIFFERENCE) if before else None


def _ratio_after_switch_over(study: Study, arm: str, control: str) -> SeedEstimate | None:
    """The same, minus what the ratio of an arm without that switch changes by over the same steps."""
    ours, theirs = _around_switch(study, arm, arm), _around_switch(study, arm, control)
    if not ours[0] or not theirs[0]:
        return None

    def further(before: float, after: float, others_before: float, others_after: float) -> float:
        return (after - before) - (others_after - others_before)

    return student(further, *ours, *theirs, bounds=(-2.0, 2.0))


def _around_switch(study: Study, arm: str, of: str) -> tuple[Units, Units]:
    """Seed -> step -> parallel ratio in training `of` an arm, just before the last stage of `arm` and at its
    end."""
    before: dict[int, dict[int, float]] = {}
    after: dict[int, dict[int, float]] = {}
    for seed, training in study.trainings.get(arm, {}).items():
        if training.switches and (other := study.trainings.get(of, {}).get(seed)):
            switch = max(training.switches)
            ratios = other.curves.get("parallel_ratio", {})
            end = max(switch, training.steps - SWITCH_WINDOW + 1)
            before[seed] = {step: ratios[step] for step in ratios if switch - SWITCH_WINDOW <= step < switch}
            after[seed] = {step: ratios[step] for step in ratios if end <= step <= training.steps}
    return before, after


def _dead_groups(study: Study, first: str, second: str) -> SeedEstimate | None:
    """The share of dead groups over all steps, as a multiple of the other arm's; None where that has none."""
    ours, theirs = dead_groups(study, first), dead_groups(study, second)
    if not all(any(theirs[seed].values()) for seed in ours.keys() & theirs.keys()):
        return None
    return student(lambda one, other: one / np.maximum(other, FEWEST_DEAD), ours, theirs, bounds=_RATIO)


def dead_groups(study: Study, arm: str) -> Units:
    """Seed -> step -> share of groups whose rewards are all equal."""
    trainings = study.trainings.get(arm, {})
    return {seed: training.curves.get("frac_reward_zero_std", {}) for seed, training in trainings.items()}


@dataclass(frozen=True)
class Quantity:
    """What a claim is about; `measure` takes the study, the claim's arms and what it is given, which fill
    `name` in."""

    name: str
    unit: Unit
    measure: Callable[..., SeedEstimate | None]


QUANTITIES = {
    "accuracy": Quantity("accuracy, {} − {}", "points", _accuracy),
    "parallel_ratio": Quantity("parallel ratio, {} − {}", "points", _parallel_ratio),
    "block_position": Quantity("start of blocks / length, last − first third", "points", block_position),
    "ratio_after_switch": Quantity(
        "ratio in training, end − before the switch", "points", _ratio_after_switch
    ),
    "ratio_after_switch_over": Quantity(
        "ratio in training, end − before the switch of {0}: {0} − {1}", "points", _ratio_after_switch_over
    ),
    "dead_groups": Quantity("dead groups, {} / {}", "times", _dead_groups),
    "accuracy_within": Quantity("accuracy held to the budget, {} − {}", "points", _accuracy_within),
    "accuracy_ratio": Quantity("accuracy, {} / {}", "times", _accuracy_ratio),
    "over_votes": Quantity("accuracy, {} − majority of {votes} samples of {}", "points", _over_votes),
    "critical_path": Quantity(
        "budget of critical path for the same accuracy, {1} / {0}", "times", _critical_path
    ),
    "mean_critical_path": Quantity("mean critical path, {1} / {0}", "times", _mean_critical_path),
    "seconds": Quantity("median seconds a problem, {1} / {0}", "times", _seconds),
    "summary": Quantity("right: summary − majority of the paths, {}", "points", _summary),
    "path_accuracy": Quantity("right paths, {} − {}", "points", _path_accuracy),
    "rl_gain": Quantity("accuracy, {} − where its RL began", "points", rl_gain),
    "early_accuracy": Quantity("accuracy, {} at its checkpoint − {} at its end", "points", _early_accuracy),
}
