"""Models and votes within equal budgets: tables by hand, where intervals come from, what is said of them."""

from __future__ import annotations

from math import inf
from typing import Any

import pytest
from rich.console import Console

from prl.analysis.equal_budgets import ALONE, EqualBudgets, Within, equal_budgets
from prl.report.equal_budgets import budgets_table, claims
from prl.report.tables import repeating_told
from prl.statistics import Estimate, paired_difference

Rows = list[dict[str, Any]]


def rows(text: str, **more: Any) -> Rows:
    """`p +10 -20 | q +40`: problems, and of each sample whether it is right and its critical path; it has
    twice as many tokens."""
    found = []
    for place, part in enumerate(text.split("|")):
        problem, *samples = part.split()
        for number, sample in enumerate(samples):
            right, cost = sample[0] == "+", float(sample[1:])
            stated = "7" if right else f"1{number}"
            found.append(
                {"problem": problem, "index": place, "sample": number, "answer": "7", "extracted": stated,
                 "correct": float(right), "critical_path": cost, "length": 2 * cost} | more
            )  # fmt: skip
    return found


QUICK, SLOW = rows("p +10 | q +20 | r -30 | s +60"), rows("p +40 | q -20 | r +50 | s +100")


def means(found: EqualBudgets) -> dict[float, list[float]]:
    """Budget -> accuracies and differences."""
    return {
        row.budget: [each.mean for each in (*row.accuracy.values(), *row.over.values())] for row in found.rows
    }


def test_two_models_by_hand() -> None:
    found = equal_budgets({"A": QUICK, "B": SLOW}, "critical_path", resamples=50, seed=3)
    assert found is not None
    assert (found.cost, found.problems) == ("critical_path", 4)
    assert [*found.rows[0].accuracy] == ["A", "B"]
    assert [*found.rows[0].over] == [("B", "A")]
    assert means(found) == {
        16: [1 / 4, 0, -1 / 4],
        32: [2 / 4, 0, -2 / 4],
        64: [3 / 4, 2 / 4, -1 / 4],
        128: [3 / 4, 3 / 4, 0],
        inf: [3 / 4, 3 / 4, 0],
    }
    assert found.rows[1].over["B", "A"] == paired_difference([1, 1, 0, 0], [0] * 4, resamples=50, seed=3)
    assert found.telling == {("B", "A"): [32, 64]}, "half of what A wrote has 25 at most, of what B wrote 45"


def test_votes_are_sides_too_and_the_others_are_over_those_of_the_first() -> None:
    voting = {
        "A": rows("p +10 -20 +10 -10 | q -10 -10 +10 +10"),
        "B": rows("p +20 +20 +20 +20 | q -8 -8 -8 -8"),
    }
    found = equal_budgets(voting, "length", resamples=20)
    assert found is not None
    assert [*found.rows[0].accuracy] == ["A", "A maj@4", "B", "B maj@4"]
    assert [*found.rows[0].over] == [("B", "A"), ("B", "A maj@4")]
    assert means(found) == {
        32: [4 / 8, 0, 0, 0, -4 / 8, 0],  # a quarter of 32 tokens holds nothing
        64: [4 / 8, 0, 1 / 2, 0, 0, 1 / 2],
        128: [4 / 8, 2 / 2, 1 / 2, 0, 0, -1 / 2],  # without the longest of p, whose answer is its own
        256: [4 / 8, 2 / 2, 1 / 2, 1 / 2, 0, -1 / 2],
        inf: [4 / 8, 2 / 2, 1 / 2, 1 / 2, 0, -1 / 2],
    }
    assert found.telling == {("B", "A"): [32], ("B", "A maj@4"): [128]}, "in 32 no vote of four"
    alone = equal_budgets({"A": voting["A"]}, "critical_path", resamples=20)
    assert alone is not None
    assert [*alone.rows[0].accuracy] == [ALONE, "maj@4"]
    assert [*alone.rows[0].over] == [("maj@4", ALONE)]
    assert means(alone)[16] == [4 / 8, 1, 4 / 8]


def test_intervals_come_from_problems_and_not_from_their_samples() -> None:
    half, none = rows("|".join(["p +9 -9"] * 6)), rows("|".join(["p -9 -9"] * 6))
    found = equal_budgets({"A": none, "B": half}, "critical_path", resamples=200)
    assert found is not None
    assert found.rows[-1].over["B", "A"] == Estimate(0.5, 0.5, 0.5), "each problem says one half"
    uneven = equal_budgets({"A": none[:6], "B": rows("p +9 +9 | q -9 +9 | r -9 -9")}, "critical_path")
    assert uneven is not None
    over = uneven.rows[-1].over["B", "A"]
    assert (over.mean, over.low, over.high) == (0.5, 0, 1), "all p, or all r"


def test_seconds_are_compared_on_the_problems_that_both_know() -> None:
    timed = rows("p +1 | q +2", seconds=0.3)
    found = equal_budgets({"A": timed, "B": [timed[0], rows("p +1 | q +2")[1]]}, "seconds")
    assert found is not None
    assert found.problems == 1
    assert means(found) == {0.5: [1, 1, 0], inf: [1, 1, 0]}
    assert equal_budgets({"A": timed, "B": rows("p +1 | q +2")}, "seconds") is None
    votes = [row | {"seconds": 0.25, "seconds_together": 1.5 if row["sample"] == 3 else None} for row in
             rows("p +9 +9 +9 -9")]  # fmt: skip
    of_votes = equal_budgets({"A": votes}, "seconds", resamples=5)
    assert of_votes is not None
    assert means(of_votes) == {
        0.25: [3 / 4, 0, -3 / 4], 0.5: [3 / 4, 0, -3 / 4], 1: [3 / 4, 0, -3 / 4], 2: [3 / 4, 1, 1 / 4],
        inf: [3 / 4, 1, 1 / 4],
    }  # fmt: skip
    votes[3]["seconds_together"] = None
    without = equal_budgets({"A": votes}, "seconds", resamples=5)
    assert without is not None
    assert [*without.rows[0].accuracy] == [ALONE], "where nobody knows what a vote takes"


def test_where_nothing_is_right_there_is_nothing_to_say() -> None:
    found = equal_budgets({"A": rows("p -9"), "B": rows("p -3")}, "critical_path", resamples=5)
    assert found is not None
    assert means(found) == {inf: [0, 0, 0]}
    assert found.telling == {}
    assert claims([found], models=2) == []
    not_asked = rows("p -0", verdict="beyond context")
    nothing = equal_budgets({"A": not_asked}, "critical_path", resamples=5)
    assert nothing is not None
    assert means(nothing) == {inf: [0]}


@pytest.mark.parametrize(
    ("differing", "said"), [(5, "cannot be told from A"), (6, "points more often than A")]
)
def test_few_problems_tell_no_model_from_another(differing: int, said: str) -> None:
    """Five are of one sign once in 16 times by chance, six once in 32."""
    wrong, right = (
        rows("|".join(["p -9"] * 7)),
        rows("|".join(["p +9"] * differing + ["q -9"] * (7 - differing))),
    )
    found = equal_budgets({"A": wrong, "B": right}, "critical_path")
    assert found is not None
    assert said in claims([found], models=2)[0]


BOTH = ("B", "A")


def within(budget: float, *gain: float) -> Within:
    some = Estimate(0.5, 0.25, 0.75)
    return Within(budget, {"A": some, "B": some}, {BOTH: Estimate(*gain)})


def test_what_may_be_claimed_is_said_with_its_interval() -> None:
    table = EqualBudgets(
        "critical_path",
        200,
        [within(32, -0.4, -0.45, -0.351), within(64, 0.123, 0.081, 0.169)],
        {BOTH: [32, 64]},
    )
    unsure = EqualBudgets("seconds", 9, [within(1, 0.01, -0.02, 0.04), within(inf, 0, 0, 0)], {BOTH: [1]})
    assert claims([table, unsure], models=2) == [
        "Within 32 tokens of critical path B is right 40.0 points less often than A [35.1, 45.0], within 64 "
        "B is right 12.3 points more often than A [8.1, 16.9], paired on 200 problems.",
        "Within 1 second B cannot be told from A (+1.0 [-2.0, +4.0] points), paired on 9 problems.",
        "One training of each: differences of these models on these problems, not of methods.",
    ]
    assert claims([table], models=1)[-1] == "One training: of this model on these problems, not of a method."


def test_a_table_has_a_row_a_budget() -> None:
    grid = budgets_table(EqualBudgets("length", 3, [within(64, 0.1, 0, 0.2), within(inf, 0, 0, 0)], {}))
    assert [[*column.cells] for column in grid.columns] == [
        ["64", "no limit"], ["50.0", "50.0"], ["50.0", "50.0"], ["+10.0 [+0.0, +20.0]", "+0.0 [+0.0, +0.0]"],
    ]  # fmt: skip
    assert [column.header for column in grid.columns] == ["tokens in all", "A", "B", "B over A"]
    shown = Console(width=80, record=True, quiet=True)
    shown.print(grid)


@pytest.mark.parametrize(("share", "said"), [(None, 0), (0.0, 0), (0.98, 1)])
def test_paths_that_repeat_each_other_are_told(share: float | None, said: int) -> None:
    lines = repeating_told({"repeating": share, "repeating_of": 50})
    assert len(lines) == said
    assert all(line.startswith("all paths are the same in 98.0% of 50 blocks: without an") for line in lines)
