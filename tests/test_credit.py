"""Where the credit of an answer falls among the paths of a response."""

from __future__ import annotations

from typing import Any

import pytest

from prl.grammar import render
from prl.rewards.credit import path_credit

RIGHT, WRONG = "2+3=5", "2+3=6"


def row(paths: list[str], advantage: float | None, **other: Any) -> dict[str, Any]:
    return {"text": render(paths, "5"), "truncated": False, "answer": "5", "advantage": advantage, **other}


def test_wrong_paths_of_right_and_of_wrong_responses() -> None:
    found = path_credit(
        [
            row([RIGHT, WRONG], 0.5),
            row([RIGHT, RIGHT, "so it goes"], 1.0),
            row([WRONG, WRONG], -1.5),
            row([RIGHT, WRONG], 0.0),
            row([RIGHT, WRONG], None),
        ]
    )
    assert found == {
        "paths": 10,
        "path_accuracy": pytest.approx(0.5),
        "wrong_credited": pytest.approx(1 / 3),
        "wrong_of_credited": pytest.approx(1 / 4),
        "wrong_of_blamed": pytest.approx(1.0),
        "credit_of_right": pytest.approx((0.5 + 1 + 1 + 0) / 4),
        "credit_of_wrong": pytest.approx((0.5 - 1.5 - 1.5 + 0) / 4),
    }


def test_the_number_of_a_path_is_no_wrong_result() -> None:
    rows = [row([f"\n1\n{RIGHT}", "\n2\nhm"], 1.0)]
    assert path_credit(rows)["path_accuracy"] == 0.5
    assert path_credit(rows, "number")["path_accuracy"] == 1


@pytest.mark.parametrize(
    "given",
    [
        {"text": f"<Parallel><Path>{WRONG}</Path></Parallel>"},
        {"text": "It is 5."},
        {"text": None},
        {"answer": None},
    ],
)
def test_what_has_no_paths_to_judge(given: dict[str, Any]) -> None:
    found = path_credit([row([WRONG, WRONG], 1.0) | given])
    assert found.pop("paths") == 0
    assert {*found.values()} == {None}
