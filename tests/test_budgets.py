"""Accuracy at equal budgets: votes counted another way, and responses held to a budget by hand."""

from __future__ import annotations

from itertools import combinations, permutations
from math import inf
from statistics import fmean
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prl.analysis import budgets
from prl.analysis.budgets import (
    asked,
    by_level,
    chance,
    frontier,
    grouped,
    held_to,
    known,
    longest_of_k,
    majorities,
    majority_at_k,
    smallest_budget,
    spent,
    votes,
)
from prl.answers import Verdict


def judged(answer: str | None) -> tuple[str | None, float]:
    return answer, float(answer in ("7", "7.0"))


def vote(drawn: tuple[str | None, ...]) -> float:
    """Whether what these few agree on most is right, of as many votes what was said earlier."""
    most = max(filter(None, drawn), key=drawn.count, default=None)
    return float(most == "7")


@given(st.lists(st.sampled_from(["7", "7.0", "8", "9", None]), min_size=1, max_size=5))
def test_votes_are_the_mean_over_all_draws_one_after_another(answers: list[str | None]) -> None:
    plain = ["7" if answer == "7.0" else answer for answer in answers]
    for k in range(1, len(answers)):
        expected = fmean(map(vote, permutations(plain, k)))
        assert majority_at_k([*map(judged, answers)], k) == pytest.approx(expected)
    assert majority_at_k([*map(judged, answers)], len(answers)) == vote(tuple(plain))


@pytest.mark.parametrize(
    ("answers", "k", "expected"),
    [
        ("7 7 7 8", 4, 1),
        ("7 7 8 8", 4, 1),  # a tie, in which 7 came earlier
        ("8 7 7 8", 4, 0),
        ("8 7 8 7 9", 5, 0),
        ("9 7 8 8 7", 5, 1),
        ("7 8 9 10", 4, 1),
        ("8 7 9 10", 4, 0),
        ("7 8 8 9", 4, 0),
        ("7 8 8 9", 1, 1 / 4),
        ("- 7 8 -", 4, 1),  # who states nothing has no vote
        ("- - 7 -", 4, 1),
        ("- - - -", 4, 0),
        ("7 - - -", 2, 1 / 2),  # of two drawn, the right one is among them half of the time
        ("7 7 8 8", 2, 1 / 2),  # 7 7 in one of six, 8 8 in one, and 7 before 8 in half of four
        ("7 7 8 8", 3, 1 / 2),
        ("7 8 9 9", 2, 1 / 4),  # 9 9 in two of twelve draws; 7 first in three of ten
        ("7 7 8 -", 3, 3 / 4),  # 7 7 in two of four draws; 7 8 in two, half of the time 7 before 8
    ],
)
def test_votes_by_hand(answers: str, k: int, expected: float) -> None:
    samples = [judged(None if answer == "-" else answer) for answer in answers.split()]
    assert majority_at_k(samples, k) == pytest.approx(expected)


def test_what_is_the_same_is_what_the_verifier_finds_equal() -> None:
    answers = ("0.5", "x+1", None, r"\frac12", "1+x", "50", "1/2", r"50\%", "x + 1")
    assert grouped(answers) == ((0, 3, 6, 7), (1, 4, 8), (5,))
    assert grouped((None, None)) == grouped(()) == ()
    assert grouped((r"(x+1)^2", "x^2+2x+1", "x^2")) == ((0, 1), (2,)), "algebra"


class Table:
    """A checker that finds equal what is listed: an answer beside the first of a group."""

    def __init__(self, *equal: str, stuck: str = "") -> None:
        self.equal, self.stuck = equal, stuck
        self.asked: list[str] = []

    def check(self, answer: str, first: str) -> Verdict:
        self.asked.append(answer + first)
        if self.stuck in (answer, first):
            return Verdict(False, "timed out")
        found = answer + first in self.equal
        return Verdict(found, "equal" if found else "different")


def test_an_answer_joins_the_first_group_whose_first_answer_it_equals(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Also where equality does not carry over: z equals y alone, and w the first answers of both groups."""
    table = Table("yx", "zy", "wx", "wz")
    monkeypatch.setattr(budgets, "default_checker", lambda: table)
    assert grouped(("x", "y", "z", "w", "y", "z")) == ((0, 1, 3, 4), (2, 5))
    assert table.asked == ["yx", "zx", "wx"], "each once, and against first answers alone"
    right = [("x", 0.0), ("z", 1.0), ("z", 1.0), ("y", 0.0), ("w", 0.0)]
    assert majority_at_k(right, 5) == 0


def test_an_answer_that_holds_the_verifier_up_does_so_once(monkeypatch: pytest.MonkeyPatch) -> None:
    table = Table(stuck="s")
    monkeypatch.setattr(budgets, "default_checker", lambda: table)
    assert grouped(("p", "q", "s", "r", "s")) == ((0,), (1,), (2, 4), (3,))
    assert table.asked == ["qp", "sp", "rp", "rq"]


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


# Four samples of a problem: right or not, with what they state; tokens, of which half wait for each other.
VOTING = [
    row("a", True, 10), row("a", True, 30), row("a", False, 10), row("a", False, 10, extracted="9"),
    row("b", False, 10), row("b", True, 20), row("b", True, 40), row("b", False, 40, extracted=None),
]  # fmt: skip


@pytest.mark.parametrize(
    ("budget", "cost", "a", "b"),
    [
        (9, "critical_path", 0, 0),  # all are cut off
        (10, "critical_path", 1, 0),  # a: 7 8 9, the earliest; b: 8 alone
        (20, "critical_path", 1, 0),  # b: 8 7, the earliest
        (40, "critical_path", 1, 1),  # b: 8 7 7
        (79, "length", 0, 0),  # of 4 votes each has a quarter: 19.75 tokens
        (80, "length", 1, 0),
        (160, "length", 1, 0),
        (320, "length", 1, 1),
        (inf, "length", 1, 1),
    ],
)
def test_votes_within_a_budget_by_hand(budget: float, cost: str, a: float, b: float) -> None:
    assert held_to(VOTING, budget, cost, votes=4) == {"a": a, "b": b}


def test_fewer_votes_than_samples_are_drawn_from_what_is_within_the_budget() -> None:
    """Within 10 of critical path a states 7 - 8 9. Of four draws of three, two hold 7 - and another, in which
    7 comes first half of the time, one 7 8 9, where it does a third of the time, and one no 7."""
    held = held_to(VOTING, 10, votes=3)
    assert held["a"] == pytest.approx((2 * 1 / 2 + 1 / 3 + 0) / 4)
    assert held["b"] == 0
    assert majorities(VOTING, 4) == held_to(VOTING, inf, votes=4) == {"a": 1, "b": 1}


def test_a_vote_takes_the_seconds_of_its_samples_side_by_side() -> None:
    timed = [
        each | {"sample": number % 4, "seconds": 1.0, "seconds_together": 3.0 if number == 3 else None}
        for number, each in enumerate(VOTING)
    ]
    assert known(timed, "seconds") == timed
    assert known(timed, "seconds", votes=4) == timed[:4], "of b nobody knows how long four take"
    assert spent(timed, "seconds", votes=4) == [3.0]
    assert held_to(timed[:4], 3, "seconds", votes=4) == {"a": 1}
    assert held_to(timed[:4], 2.9, "seconds", votes=4) == {"a": 0}
    with pytest.raises(ValueError, match="not known how many seconds 4 votes take: evaluate with --latency"):
        held_to(timed, 3, "seconds", votes=4)
    assert known([*timed[:4], VOTING[4]], "seconds") == timed[:4], "of b nothing is timed"
    assert known(VOTING, "length") == VOTING
    assert spent(VOTING[:2], "length", votes=4) == [80, 240]
    assert spent(VOTING[:2], "critical_path", votes=4) == [10, 30]


def test_a_problem_that_was_not_asked_is_wrong_and_costs_nothing() -> None:
    rows = [*VOTING, row("c", False, 0, verdict="beyond context", seconds=0.0)]
    assert held_to(rows, inf, votes=4) == {"a": 1, "b": 1, "c": 0}
    assert votes(rows, 4) == votes(VOTING, 4).__class__(2 / 3, votes(VOTING, 4).tokens, 35)
    assert asked(rows) == VOTING
    assert known(rows[-1:], "seconds", votes=4) == rows[-1:]


def test_a_problem_that_is_there_twice_is_two_where_its_place_is_known() -> None:
    twice = [each | {"problem": "a", "index": int(each["problem"] == "b")} for each in VOTING]
    assert held_to(twice, 10, votes=4) == {0: 1, 1: 0}


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
