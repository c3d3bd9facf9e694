"""Accuracy against what it costs, at the end of an evaluation: tables, sentences, figures.

    <folder>/frontiers.png, frontiers.svg     drawn where matplotlib is installed (`prl.report.frontiers`)

Tokens and critical path are of all problems; seconds of those that were timed (--latency).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from math import isinf
from pathlib import Path
from typing import Any

from prl.analysis.budgets import COSTS, Row
from prl.analysis.equal_budgets import EqualBudgets, equal_budgets
from prl.console import console
from prl.errors import UsageError
from prl.report.equal_budgets import HOW, budgets_table, claims
from prl.report.figures import save, style
from prl.report.frontiers import COLOURS, draw_frontiers


def frontiers_of(models: Mapping[str, Sequence[Row]], *, resamples: int, seed: int) -> list[EqualBudgets]:
    """The table of each cost that is known, of the samples of each model in one mode."""
    found = (equal_budgets(models, cost, resamples=resamples, seed=seed) for cost in COSTS)
    return [each for each in found if each]


def written(mode: str, tables: Sequence[EqualBudgets], *, models: int) -> dict[str, Any]:
    """The tables and what may be claimed, as results.json holds them; `budget` null: without a limit."""
    return {
        "mode": mode,
        "how": HOW,
        "costs": {
            table.cost: {
                "problems": table.problems,
                "budgets": [
                    {
                        "budget": None if isinf(row.budget) else row.budget,
                        "accuracy": {name: asdict(each) for name, each in row.accuracy.items()},
                        "over": [
                            {"of": one, "over": other, **asdict(each)}
                            for (one, other), each in row.over.items()
                        ],
                    }
                    for row in table.rows
                ],
            }
            for table in tables
        },
        "claims": claims(tables, models=models),
    }


def tell(mode: str, tables: Sequence[EqualBudgets], *, models: int) -> None:
    """Print the tables, how budgets were applied, and what may be claimed."""
    if not any(len(table.rows) > 1 for table in tables):
        console.print(f"  {mode}: no response is right within any budget", style="dim", markup=False)
        return
    for table in tables:
        console.print(budgets_table(table))
    console.print(f"  {mode}: {HOW}", style="dim", markup=False)
    for line in claims(tables, models=models):
        console.print(f"  {line}", markup=False)


def draw(models: Mapping[str, Sequence[Row]], folder: Path) -> None:
    """Save the figure, the models over each other, or say why there is none. Raises RunError: it cannot be
    written."""
    if len(models) > len(COLOURS):
        console.print(
            f"  frontiers not drawn: {len(models)} models, of which {len(COLOURS)} fit", style="dim"
        )
        return
    try:
        figure = draw_frontiers({name: [rows] for name, rows in models.items()})
    except UsageError as error:
        console.print(f"  frontiers not drawn: {error}", style="dim", markup=False)
        return
    with style():
        save(figure, folder, "frontiers", ("png", "svg"), "--output_dir")
    console.print(f"  {folder / 'frontiers.png'}, .svg", style="dim", markup=False)
