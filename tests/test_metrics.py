"""The figures of an evaluation by hand, from its samples."""

from __future__ import annotations

from typing import Any

import pytest

from prl.analysis.metrics import levels, metrics, verdicts
from prl.grammar import parse, render

BLOCK = render(["a", "b"], "c")


def sample(
    text: str, stated: str | None, right: bool, *, tokens: int, path: int = 0, **more: Any
) -> dict[str, Any]:
    """A row as `runs.read_samples` gives it."""
    trace = parse(text, truncated=bool(more.get("truncated")))
    faults = [fault.kind.value for fault in trace.faults]
    row = {"text": text, "extracted": stated, "correct": float(right), "faults": faults, "truncated": False}
    return row | {"length": tokens, "critical_path": path or tokens} | more


GROUPS = [
    [
        sample(f"{BLOCK} 7", "7", True, tokens=30, path=22),
        sample("7", "8", False, tokens=2),
        sample("<Path>7", "8", False, tokens=4),  # a fault, no block
        sample("7 and", None, False, tokens=4, truncated=True),
    ],
    [
        sample(f"{BLOCK} <Path>", "7", True, tokens=31, path=23),  # a valid block, but a fault behind it
        *[sample("7", stated, stated != "8", tokens=3) for stated in ("7.0", "7", "8")],
    ],
]


def test_every_metric_by_hand() -> None:
    """Two problems, four samples each."""
    found = metrics(GROUPS, resamples=20)
    assert {name: estimate.mean for name, estimate in found.items()} == pytest.approx(
        {
            "accuracy": (1 / 4 + 3 / 4) / 2,
            "pass@2": (3 / 6 + 1) / 2,  # of 6 pairs 3 hold the one that is right
            "pass@4": 1,
            "maj@4": (0 + 1) / 2,
            "parallel_ratio": (1 / 4 + 1 / 4) / 2,
            "format_valid": (2 / 4 + 3 / 4) / 2,
            "truncated": (1 / 4 + 0) / 2,
            "tokens": (40 / 4 + 40 / 4) / 2,
            "critical_path": (32 / 4 + 32 / 4) / 2,
        }
    )
    assert (found["accuracy"].low, found["accuracy"].high) == (0.25, 0.75), "problems are resampled"
    assert (found["tokens"].low, found["tokens"].high) == (10, 10)


# Right and wrong samples of a problem, in order, and by hand: pass@2, pass@4, maj@4, and maj@8 of eight.
TABLE = [
    ("+ - - -", 3 / 6, 1, 1, None),  # four answers that all differ: the earliest
    ("- + - -", 3 / 6, 1, 0, None),
    ("- + + -", 5 / 6, 1, 1, None),
    ("- - - -", 0, 0, 0, None),
    # Of 28 pairs 15 hold no right one, of 70 fours 15; a four has two right ones or none of what counts most.
    ("+ - + - - - - -", 13 / 28, 55 / 70, (15 + 40 / 4) / 70, 1),
    ("- - - - - - - +", 7 / 28, 35 / 70, 35 / 4 / 70, 0),
]


@pytest.mark.parametrize(("row", "two", "four", "most", "all_eight"), TABLE)
def test_pass_and_majority_by_hand(
    row: str, two: float, four: float, most: float, all_eight: float | None
) -> None:
    group = [
        sample("7", "7" if mark == "+" else f"1{place}", mark == "+", tokens=1)
        for place, mark in enumerate(row.split())
    ]
    found = metrics([group, group], resamples=5)
    names = {"pass@2": two, "pass@4": four, "maj@4": most, "maj@8": all_eight}
    assert {
        name: each.mean for name, each in found.items() if "@" in name and name != "pass@8"
    } == pytest.approx({name: value for name, value in names.items() if value is not None})
    ends = {0: (0, 1 - 0.025**0.5), 1: (0.025**0.5, 1)}  # what two problems that are alike leave open
    assert (found["maj@4"].low, found["maj@4"].high) == pytest.approx(ends.get(most, (most, most)))
    assert (found["tokens"].low, found["tokens"].high) == (1, 1), "no share"


def test_verdicts_are_counted_by_their_reason() -> None:
    rows = [{"verdict": reason} for reason in ("equal", "different", "no answer", "different", "identical")]
    assert [*verdicts(rows).items()] == [("different", 2), ("equal", 1), ("identical", 1), ("no answer", 1)]


def test_a_problem_that_was_not_asked_is_not_solved_and_nothing_else() -> None:
    asked, found = metrics(GROUPS), metrics([GROUPS[0], [], GROUPS[1]])
    for name in ("accuracy", "pass@2", "pass@4", "maj@4"):
        assert found[name].mean == pytest.approx(asked[name].mean * 2 / 3)
    for name in ("parallel_ratio", "format_valid", "truncated", "tokens", "critical_path"):
        assert found[name] == asked[name]


def test_a_path_that_is_all_opening_makes_no_response_parallel() -> None:
    groups = [[sample(render(["\n1\n7", "\n2\n"], "7"), "7", True, tokens=9)]]
    assert metrics(groups)["parallel_ratio"].mean == 1
    assert metrics(groups, "number")["parallel_ratio"].mean == 0


def test_the_figures_of_each_level() -> None:
    rows = [
        sample("7", "7", gold == "7", tokens=tokens, path=5, level=level, problem=problem, answer=gold)
        for problem, gold, level, tokens in (
            ("a", "7", 3, 10), ("a", "7", 3, 20), ("b", "7", 3, 30), ("c", "9", 3, 30), ("d", "7", 12, 5),
        )
    ]  # fmt: skip
    found = levels(rows, resamples=20)
    assert [*found] == ["3", "12"]
    accuracy = found["3"].pop("accuracy")
    assert (accuracy["mean"], {*accuracy}) == (pytest.approx(2 / 3), {"mean", "low", "high"})
    assert found["3"] == {"problems": 3, "tokens": 22.5, "critical_path": 5, "chance": pytest.approx(2 / 3)}
    assert (found["12"]["chance"], found["12"]["accuracy"]["mean"]) == (1, 1)
    assert levels([row | {"level": None} for row in rows]) == {}


def test_on_a_level_too_what_was_not_asked_is_not_solved_and_nothing_else() -> None:
    given = {"level": 3, "answer": "7"}
    rows = [sample("7", "7", True, tokens=tokens, problem="a", **given) for tokens in (10, 20)]
    none = sample("", None, False, tokens=0, verdict="beyond context", problem="b", **given)
    found = levels([*rows, none, none | {"level": 5}], resamples=20)
    assert (found["3"]["problems"], found["3"]["accuracy"]["mean"], found["3"]["tokens"]) == (2, 0.5, 15)
    assert (found["5"]["problems"], found["5"]["accuracy"]["mean"], found["5"]["tokens"]) == (1, 0, None)
