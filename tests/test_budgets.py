"""Accuracy at equal budgets: votes counted another way, and responses held to a budget by hand."""

from __future__ import annotations

from itertools import combinations
from math import inf
from statistics import fmean
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prl.analysis.budgets import (
    by_level,
    chance,
    frontier,
    held_to,
    longest_of_k,
    majority_at_k,
    smallest_budget,
    votes,
)

SAMPLES = st.lists(st.sampled_from(["7", "7.0", "8", "9", "10", None]), min_size=1, max_size=7)


def judged(answer: str | None) -> tuple[str | None, float]:
    return answer, float(answer in ("7", "7.0"))


def vote(drawn: tuple[str | None, ...]) -> float:
    """The chance that what these few agree on most is right, a tie broken by lot."""
    counts = {value: drawn.count(value) for value in drawn if value is not None}
    most = [value for value in counts if counts[value] == max(counts.values())]
    return fmean(value == "7" for value in most) if most else 0.0


@given(SAMPLES)
def test_votes_are_the_mean_over_all_subsets(answers: list[str | None]) -> None:
    plain = ["7" if answer == "7.0" else answer for answer in answers]
    for k in range(1, len(answers) + 1):
        expected = fmean(map(vote, combinations(plain, k)))
        assert majority_at_k([*map(judged, answers)], k) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("answers", "k", "expected"),
    [
        ("7 7 7 8", 4, 1),
        ("7 7 8 8", 4, 1 / 2),  # a tie
        ("7 8 9 10", 4, 1 / 4),
        ("7 8 8 9", 4, 0),
        ("7 8 8 9", 1, 1 / 4),
        ("7 8 - -", 4, 1 / 2),  # who states nothing has no vote
        ("- - - -", 4, 0),
        ("7 - - -", 2, 1 / 2),  # of two drawn, the right one is among them half of the time
    ],
)
def test_votes_by_hand(answers: str, k: int, expected: float) -> None:
    samples = [judged(None if answer == "-" else answer) for answer in answers.split()]
    assert majority_at_k(samples, k) == pytest.approx(expected)


def test_sixty_four_samples_that_all_differ_are_counted_at_once() -> None:
    samples = [(str(number), float(number == 0)) for number in range(64)]
    assert majority_at_k(samples, 32) == pytest.approx(32 / 64 / 32)


@pytest.mark.parametrize("k", [0, 3])
def test_more_votes_than_samples_are_refused(k: int) -> None:
    with pytest.raises(ValueError, match=f"k {k} must be between 1 and the 2 samples"):
        majority_at_k([("7", 1.0), ("8", 0.0)], k)


@given(st.lists(st.integers(0, 50), min_size=1, max_size=6))
def test_the_longest_of_k_is_the_mean_over_all_subsets(values: list[int]) -> None:
    for k in range(1, len(values) + 1):
        assert longest_of_k(values, k) == pytest.approx(fmean(map(max, combinations(values, k))))


def row(problem: str, right: bool, cost: float, **more: Any) -> dict[str, Any]:
    return {"problem": problem, "correct": float(right), "length": 2 * cost, "critical_path": cost,
            "answer": "7", "extracted": "7" if right else "8"} | more  # fmt: skip


ROWS = [
    row("a", True, 10), row("a", True, 30), row("a", True, 50), row("a", False, 5),
    row("b", True, 30), row("b", False, 20), row("b", False, 20), row("b", False, 20),
]  # fmt: skip


def test_votes_and_what_they_cost() -> None:
    found = votes(ROWS, 4)
    assert found.accuracy == (1 + 0) / 2
    assert found.tokens == 4 * (2 * 95 / 4 + 2 * 90 / 4) / 2
    assert found.critical_path == (50 + 30) / 2, "side by side, the longest of them"
    one = votes(ROWS, 1)
    assert (one.accuracy, one.tokens, one.critical_path) == (0.5, 2 * 185 / 8, 185 / 8)
    with pytest.raises(ValueError, match="no samples"):
        votes([], 4)


def test_what_costs_more_than_the_budget_is_wrong() -> None:
    assert held_to(ROWS, inf) == {"a": 3 / 4, "b": 1 / 4}
    assert held_to(ROWS, 30) == {"a": 2 / 4, "b": 1 / 4}
    assert held_to(ROWS, 29) == {"a": 1 / 4, "b": 0}
    assert held_to(ROWS, 29, "length") == held_to(ROWS, 14.5) == {"a": 1 / 4, "b": 0}


def test_a_frontier_rises_to_the_accuracy_without_limits() -> None:
    assert frontier(ROWS) == [(10, 1 / 8), (30, 3 / 8), (50, 4 / 8)]
    assert frontier(ROWS, "length") == [(20, 1 / 8), (60, 3 / 8), (100, 4 / 8)]
    assert frontier([row("a", False, 3)]) == []
    for budget, reached in frontier(ROWS):
        assert fmean(held_to(ROWS, budget).values()) == reached
        assert smallest_budget(ROWS, reached) == budget
    assert smallest_budget(ROWS, 0.2) == 30
    assert smallest_budget(ROWS, 0.51) is None


def test_levels_are_those_of_the_problems_the_lowest_first() -> None:
    rows = [row("c", True, 9, level=10.0), row("a", True, 9, level=2.0), row("b", False, 9, level=2.0)]
    assert {level: len(each) for level, each in by_level(rows).items()} == {"2": 2, "10": 1}
    assert [*by_level(rows)] == ["2", "10"]
    assert by_level(ROWS) == {}


def test_chance_is_what_the_commonest_answer_would_score() -> None:
    golds = {"a": "3", "b": "3.0", "c": "5", "d": "1"}
    rows = [row(problem, True, 9, answer=gold) for problem, gold in golds.items() for _ in range(2)]
    assert chance(rows) == 2 / 4
