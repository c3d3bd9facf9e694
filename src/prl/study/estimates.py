"""How surely it is known what the runs of a study measured (`prl.study.results`).

An estimate is a mean over seeds with Student's 95 % interval. Two sides are compared where they answered the
same problems, paired on seed and problem: other seeds are left out, and where none is left there is None.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from math import inf
from statistics import fmean

import numpy as np

from prl.analysis.budgets import asked, held_to, majorities, smallest_budget
from prl.statistics import SeedEstimate, Units, itself, student, told_apart
from prl.study.results import Evaluation

_MOST = {"tokens": inf, "critical_path": inf}  # where the others are shares
_RATIO = (0.0, inf)
_OF_BLOCKS = ("paths_per_block", "block_position", "path_diversity", "self_bleu")


def score(evaluations: Mapping[int, Evaluation], name: str) -> SeedEstimate | None:
    """The mean of one of `prl.study.results.SCORES` over problems and seeds."""
    return student(itself, _scored(evaluations, name), bounds=(0.0, _MOST.get(name, 1.0)), drawn_units=True)


def within(evaluations: Mapping[int, Evaluation], budget: float, cost: str) -> SeedEstimate | None:
    """Accuracy held to a budget: a response that costs more counts as wrong. `cost` is one of
    `prl.analysis.budgets.COSTS`."""
    return student(itself, _held(evaluations, budget, cost), bounds=(0.0, 1.0), drawn_units=True)


def gain(first: Mapping[int, Evaluation], second: Mapping[int, Evaluation], name: str) -> SeedEstimate | None:
    """A score in `first` minus that in `second`."""
    return _difference(_scored(first, name), _scored(second, name), _MOST.get(name, 1.0))


def gain_within(
    first: Mapping[int, Evaluation], second: Mapping[int, Evaluation], budget: float, cost: str
) -> SeedEstimate | None:
    """Accuracy of `first` minus that of `second`, both held to a budget as for `within`."""
    return _difference(_held(first, budget, cost), _held(second, budget, cost))


def gain_over_votes(
    first: Mapping[int, Evaluation], second: Mapping[int, Evaluation], votes: int
) -> SeedEstimate | None:
    """Accuracy of `first` minus that of the majority of so many samples of `second`."""
    majority = {seed: voted(each, votes) for seed, each in second.items()}
    return _difference(_scored(first, "accuracy"), majority)


def _scored(evaluations: Mapping[int, Evaluation], name: str) -> Units:
    return {seed: each.scores.get(name, {}) for seed, each in evaluations.items()}


def _held(evaluations: Mapping[int, Evaluation], budget: float, cost: str) -> Units:
    return {seed: held_to(each.rows, budget, cost) for seed, each in evaluations.items()}


def _shared(first: Units, second: Units) -> list[int]:
    """The seeds in which both sides answered the same problems."""
    seeds = sorted(first.keys() & second.keys())
    return [seed for seed in seeds if first[seed] and first[seed].keys() == second[seed].keys()]


def _difference(first: Units, second: Units, most: float = 1.0) -> SeedEstimate | None:
    """The mean of differences of no more than `most`."""
    paired = {
        seed: {problem: ours - second[seed][problem] for problem, ours in first[seed].items()}
        for seed in _shared(first, second)
    }
    found = student(itself, paired, bounds=(-most, most), drawn_units=True)
    if not found or len(found.seeds) > 1:
        return found
    return told_apart(found, *(paired[seed].values() for seed in found.seeds))


def times_more(
    first: Mapping[int, Evaluation], second: Mapping[int, Evaluation], name: str
) -> SeedEstimate | None:
    """A mean score of `first` as a multiple of that of `second`, seed by seed.

    None where a seed of `second` has nothing of it: there is no such number then.
    """
    ours, theirs = _scored(first, name), _scored(second, name)
    seeds = _shared(ours, theirs)
    if not all(any(theirs[seed].values()) for seed in seeds):
        return None
    return student(
        np.divide, *({seed: side[seed] for seed in seeds} for side in (ours, theirs)), bounds=_RATIO
    )


def voted(evaluation: Evaluation, votes: int) -> dict[str, float]:
    """Problem -> accuracy of the majority of so many of its samples; empty where there are fewer."""
    counts = Counter(row["problem"] for row in asked(evaluation.rows))
    return majorities(evaluation.rows, votes) if min(counts.values(), default=0) >= votes else {}


def traced(evaluations: Mapping[int, Evaluation], name: str) -> Units:
    """Seed -> what `describe` found under a name, of the seeds that have it."""
    return {
        seed: {name: value}
        for seed, each in evaluations.items()
        if (value := each.described.get(name)) is not None
    }


def mean_of(evaluations: Mapping[int, Evaluation], name: str) -> float:
    """The mean of a score over all seeds and problems."""
    return fmean(fmean(each.scores[name].values()) for each in evaluations.values())


def times_less(
    first: Mapping[int, Evaluation], second: Mapping[int, Evaluation], accuracy: float, cost: str
) -> SeedEstimate | None:
    """How many times what `first` needs `second` needs for an accuracy: budgets divided, seed by seed.

    None where a seed of either does not reach it: there is no such number then.
    """
    ratios = {}
    for seed in sorted(first.keys() & second.keys()):
        ours, theirs = (smallest_budget(each[seed].rows, accuracy, cost) for each in (first, second))
        if not ours or not theirs:
            return None
        ratios[seed] = {"ratio": theirs / ours}
    return student(itself, ratios, bounds=_RATIO)


def pooled(evaluations: Iterable[Evaluation]) -> dict[str, float | None]:
    """What `describe` says of all seeds' responses: counts added, means weighted by what they are of."""
    found: dict[str, float | None] = {}
    described = [each.described for each in evaluations]
    for name in dict.fromkeys(name for each in described for name in each):
        known = [(each.get(name), _count_of(each, name)) for each in described]
        weighed = [(value, weight) for value, weight in known if value is not None and weight]
        if name == "responses" or name.endswith("_of"):
            counts = [value for value, _ in known if value is not None]
            found[name] = sum(counts) if len(counts) == len(known) else None
        else:
            total = sum(weight for _, weight in weighed)
            found[name] = sum(value * weight for value, weight in weighed) / total if total else None
    return found


def _count_of(described: Mapping[str, float | None], name: str) -> float:
    """How many values a mean of `describe` is over; of blocks where a study of before did not count them."""
    if (count := described.get(f"{name}_of")) is not None:
        return count
    of_one = described.get("blocks_per_response") if name in _OF_BLOCKS else 1
    return (described["responses"] or 0) * (of_one or 0)
