"""The figures of an evaluation by hand, from its samples."""

from __future__ import annotations

from typing import Any

import pytest

from prl.analysis.metrics import levels, metrics
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
