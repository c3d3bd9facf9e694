"""Accuracy within equal budgets, for people: a table for each cost, and sentences on what may be claimed."""

from __future__ import annotations

from collections.abc import Iterable
from math import isinf

from rich.table import Table

from prl.analysis.budgets import COSTS
from prl.analysis.equal_budgets import EqualBudgets
from prl.statistics import Estimate

HOW = (
    "a response that costs more than the budget counts as wrong, as if it were cut off there, and has no "
    "vote; of maj@k each has all of the critical path and 1/k of the tokens, and the seconds are those of k "
    "side by side"
)
"""How budgets are applied, wherever figures within them are shown."""

_AMOUNTS = {"critical_path": "tokens of critical path", "length": "tokens in all", "seconds": "seconds"}


def budgets_table(found: EqualBudgets) -> Table:
    """A row a budget, a column a side, and a column a pair with its paired interval; all in percent."""
    grid = Table(title=f"right within a budget of {COSTS[found.cost]}, %", title_justify="left")
    grid.add_column(_AMOUNTS[found.cost], justify="right", overflow="fold")
    first = found.rows[0]
    for heading in (*first.accuracy, *(f"{one} over {other}" for one, other in first.over)):
        grid.add_column(heading, justify="right", overflow="fold")
    for row in found.rows:
        cells = [f"{100 * each.mean:.1f}" for each in row.accuracy.values()]
        cells += [_points(each) for each in row.over.values()]
        grid.add_row("no limit" if isinf(row.budget) else f"{row.budget:g}", *cells)
    return grid


def claims(tables: Iterable[EqualBudgets], *, models: int) -> list[str]:
    """What the tables allow to say, a sentence for each cost and pair, and last what they do not.

    >>> from prl.analysis.equal_budgets import Within
    >>> way = Estimate(0.123, 0.081, 0.169)
    >>> row = Within(64.0, {"A": way, "B": way}, {("A", "B"): way})
    >>> for line in claims([EqualBudgets("seconds", 200, [row], {("A", "B"): [64.0]})], models=2):
    ...     print(line)
    Within 64 seconds A is right 12.3 points more often than B [8.1, 16.9], paired on 200 problems.
    One training of each: differences of these models on these problems, not of methods.
    """
    lines = [line for found in tables for line in _of_cost(found)]
    if not lines:
        return []
    of_models = "One training of each: differences of these models on these problems, not of methods."
    of_one = "One training: of this model on these problems, not of a method."
    return [*lines, of_models if models > 1 else of_one]


def _of_cost(found: EqualBudgets) -> list[str]:
    by_budget = {row.budget: row for row in found.rows}
    lines = []
    for pair, budgets in found.telling.items():
        one, other = pair
        telling = [by_budget[budget] for budget in budgets]
        amounts = [f"{row.budget:g}" for row in telling]
        amounts[0] += f" {_AMOUNTS[found.cost]}"
        amounts = ["1 second" if each == "1 seconds" else each for each in amounts]
        said = [
            f"within {amount} {one} {_said(row.over[pair], other)}"
            for amount, row in zip(amounts, telling, strict=True)
        ]
        line = f"{', '.join(said)}, paired on {found.problems} problems."
        lines.append(line[0].upper() + line[1:])
    return lines


def _said(gain: Estimate, other: str) -> str:
    low, high = sorted((100 * abs(gain.low), 100 * abs(gain.high)))
    if gain.low > 0 or gain.high < 0:
        more = "more" if gain.low > 0 else "less"
        return f"is right {100 * abs(gain.mean):.1f} points {more} often than {other} [{low:.1f}, {high:.1f}]"
    return f"cannot be told from {other} ({_points(gain)} points)"


def _points(gain: Estimate) -> str:
    return format(Estimate(100 * gain.mean, 100 * gain.low, 100 * gain.high), "+.1f")
