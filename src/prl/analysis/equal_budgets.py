"""Models, and votes of their samples, within the same budgets: a table with paired intervals.

    equal_budgets({"A": rows, "B": rows}, "critical_path")

Budgets are powers of two, from the first within which a response is right to the first that holds all there
is. What is within one: `prl.analysis.budgets.held_to`. Differences are paired by problem, of the problems
that all models answered; intervals are percentile bootstraps over these.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil, inf, log2
from statistics import median

from prl.analysis.budgets import Row, asked, held_to, known, problem_of, spent
from prl.analysis.metrics import voters
from prl.statistics import Estimate, of_shares, paired_difference

ALONE = "one response"


@dataclass(frozen=True)
class Within:
    """One budget (inf: without a limit): the accuracy of each side, and of each pair (one, other) what the
    one has over the other."""

    budget: float
    accuracy: dict[str, Estimate]
    over: dict[tuple[str, str], Estimate]


@dataclass(frozen=True)
class EqualBudgets:
    """A table against one cost: a row a budget, the last without a limit.

    `telling` are those to speak of for a pair, chosen by cost alone: the first within which half of the
    responses (or votes) of the one are, and the first with half of those of the other; none that holds less
    than half of the votes, as nobody would vote within it.
    """

    cost: str
    problems: int
    rows: list[Within]
    telling: dict[tuple[str, str], list[float]]


def equal_budgets(
    models: Mapping[str, Sequence[Row]], cost: str, *, resamples: int = 1000, seed: int = 0
) -> EqualBudgets | None:
    """The samples of each model, in one mode of decoding, held to equal budgets of `cost`.

    Sides are each model, and the votes of as many of its samples as maj@k goes to (`NAME maj@k`; of one model
    alone `ALONE` and `maj@k`). All other models are held against the first and its votes; of one model, its
    votes against a single response. None: no problem whose cost all models know.
    """
    shared = _shared(models, cost)
    problems = [*dict.fromkeys(problem_of(row) for row in next(iter(shared.values())))]
    if not problems:
        return None
    sides = _sides(shared, cost)
    pairs = _pairs([*shared], [*sides])
    budgets = _budgets(sides, cost)
    rows = []
    for budget in (*budgets, inf):
        held = {name: held_to(each, budget, cost, votes) for name, (each, votes) in sides.items()}
        listed = {name: [scores[problem] for problem in problems] for name, scores in held.items()}
        accuracy = {
            name: of_shares(scores, resamples=resamples, seed=seed) for name, scores in listed.items()
        }
        over = {
            (one, other): paired_difference(listed[other], listed[one], resamples=resamples, seed=seed)
            for one, other in pairs
        }
        rows.append(Within(budget, accuracy, over))
    return EqualBudgets(cost, len(problems), rows, _telling(pairs, sides, cost, budgets))


def _shared(models: Mapping[str, Sequence[Row]], cost: str) -> dict[str, list[Row]]:
    """The rows of the problems whose cost all models know."""
    of = {name: known(rows, cost) for name, rows in models.items()}
    problems = set.intersection(*({*map(problem_of, rows)} for rows in of.values()))
    return {name: [row for row in rows if problem_of(row) in problems] for name, rows in of.items()}


def _sides(models: Mapping[str, list[Row]], cost: str) -> dict[str, tuple[list[Row], int]]:
    """Name -> rows and how many of them vote."""
    counts = [Counter(map(problem_of, asked(rows))) for rows in models.values()]
    k = max(voters(min((least for each in counts for least in each.values()), default=1)), default=1)
    vote = k > 1 and all(len(known(rows, cost, k)) == len(rows) for rows in models.values())
    sides = {}
    for name, rows in models.items():
        sides[name if len(models) > 1 else ALONE] = (rows, 1)
        if vote:
            sides[f"{name} maj@{k}" if len(models) > 1 else f"maj@{k}"] = (rows, k)
    return sides


def _pairs(models: Sequence[str], sides: Sequence[str]) -> list[tuple[str, str]]:
    if len(models) == 1:
        return [(voted, ALONE) for voted in sides[1:]]
    first = [models[0], *(side for side in sides[1:2] if side not in models)]
    return [(name, other) for name in models[1:] for other in first]


def _budgets(sides: Mapping[str, tuple[list[Row], int]], cost: str) -> list[float]:
    right = [row[cost] for rows, votes in sides.values() if votes == 1 for row in rows if row["correct"]]
    if not right:
        return []
    most = max(each for rows, votes in sides.values() for each in spent(rows, cost, votes))
    return [2.0**n for n in range(_exponent(min(right)), _exponent(most) + 1)]


def _exponent(cost: float) -> int:
    """Of the first power of two that is no less; what costs nothing counts as a millionth."""
    return ceil(log2(max(cost, 2.0**-20)))


def _telling(
    pairs: Sequence[tuple[str, str]],
    sides: Mapping[str, tuple[list[Row], int]],
    cost: str,
    budgets: Sequence[float],
) -> dict[tuple[str, str], list[float]]:
    found: dict[tuple[str, str], list[float]] = {}
    for pair in pairs if budgets else ():
        halves, least = set(), 0.0
        for rows, votes in map(sides.__getitem__, pair):
            half = median(spent(rows, cost, votes) or [0.0])
            halves.add(next(budget for budget in budgets if budget >= half))
            least = max(least, half) if votes > 1 else least
        found[pair] = sorted(budget for budget in halves if budget >= least)
    return found
