"""Rewards of one's own: from a file or from Python, their faults in one line, their code remembered."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from prl.errors import UsageError
from prl.rewards.own import fingerprint, own_rewards

MINE = """
import helper

def short_answer(completions, **columns):
    return [1.0 if len(text) < helper.LIMIT else 0.0 for text in completions]

def by_column(completions, weight, **columns):
    return [len(text) / weight for text, weight in zip(completions, weight)]
"""


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    (tmp_path / "helper.py").write_text("LIMIT = 5\n")
    (tmp_path / "mine.py").write_text(MINE)
    return tmp_path / "mine.py"


def pay(function: Any, completions: list[str], **columns: Any) -> Any:
    (own,) = own_rewards([], [function]).values()
    return own.pay(prompts=["?"] * len(completions), completions=completions, **columns)


def test_a_file_named_on_the_command_line_is_run_beside_what_it_imports(mine: Path) -> None:
    own = own_rewards(["accuracy", f"{mine}:short_answer"], [])
    assert [*own] == [f"{mine}:short_answer"]
    (reward,) = own.values()
    assert reward.pay(completions=["1234", "12345"]) == [1.0, 0.0]
    assert reward.pay.__name__ == "short_answer"


def test_columns_of_the_data_set_reach_it(mine: Path) -> None:
    (reward,) = own_rewards([f"{mine}:by_column"], []).values()
    assert reward.pay(completions=["12", "123"], weight=[2, 0.5], answer=["7", "7"]) == [1.0, 6.0]


@pytest.mark.parametrize(
    ("paid", "numbers"),
    [
        ([1, None, True], [1.0, None, 1.0]),
        ((0.5, 0.25, 0), [0.5, 0.25, 0.0]),
        (torch.tensor([1.0, 2.0, 3.0]), [1.0, 2.0, 3.0]),
        (np.array([1, 2, 3]), [1.0, 2.0, 3.0]),
        ([torch.tensor(1.5), np.float32(0.5), 0], [1.5, 0.5, 0.0]),
    ],
)
def test_numbers_of_any_library_are_taken(paid: Any, numbers: list[float | None]) -> None:
    def reward(completions: list[str], **columns: Any) -> Any:
        return paid

    assert pay(reward, ["a", "b", "c"]) == numbers


@pytest.mark.parametrize(
    ("paid", "told"),
    [
        ([1.0], "reward reward returned 1 numbers for 2 responses: return one each"),
        (1.0, "reward reward returned float: return a list, a number a response"),
        (None, "reward reward returned NoneType: return a list, a number a response"),
        ([1.0, float("nan")], "reward reward returned nan: return finite numbers, or None"),
        ([1.0, float("inf")], "reward reward returned inf: return finite numbers, or None"),
        ([1.0, "much"], "reward reward returned 'much': return finite numbers, or None"),
        ([[1.0], [2.0]], "reward reward returned [1.0]: return finite numbers, or None"),
    ],
)
def test_what_is_no_number_a_response_is_told(paid: Any, told: str) -> None:
    def reward(completions: list[str], **columns: Any) -> Any:
        return paid

    with pytest.raises(UsageError) as caught:
        pay(reward, ["a", "b"])
    assert str(caught.value) == told


def test_a_failing_function_is_told_with_its_line(tmp_path: Path) -> None:
    file = tmp_path / "bad.py"
    file.write_text("def bad(completions, **columns):\n    x = 0\n    return [1 / x for _ in completions]\n")
    (reward,) = own_rewards([f"{file}:bad"], []).values()
    with pytest.raises(UsageError) as caught:
        reward.pay(completions=["a"])
    assert str(caught.value) == f"reward {file}:bad, line 3, failed: ZeroDivisionError: division by zero"


@pytest.mark.parametrize(
    ("text", "name", "told"),
    [
        (None, "f", "there is no file"),
        ("def f(:\n", "f", "line 1, cannot be run: SyntaxError: "),
        ("import nothing_like_it\n", "f", "line 1, cannot be run: ModuleNotFoundError: "),
        (
            "def short_answer(completions): ...\n",
            "short_anser",
            "defines no short_anser; nearest: short_answer",
        ),
        ("f = 3\n", "f", "is no plain function that takes completions and columns"),
        ("async def f(completions): ...\n", "f", "is no plain function that takes completions and columns"),
        ("class f: ...\n", "f", "is no plain function that takes completions and columns"),
        ("def accuracy_reward(completions): ...\n", "accuracy_reward", "another has that name in logs"),
    ],
)
def test_a_file_that_gives_no_reward_is_told(tmp_path: Path, text: str | None, name: str, told: str) -> None:
    file = tmp_path / "mine.py"
    if text is not None:
        file.write_text(text)
    with pytest.raises(UsageError) as caught:
        own_rewards([f"{file}:{name}"], [])
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_name_stands_for_one_reward(mine: Path) -> None:
    def short_answer(completions: list[str], **columns: Any) -> list[float]:
        return [0.0 for _ in completions]

    with pytest.raises(UsageError, match="reward short_answer: another has that name"):
        own_rewards([f"{mine}:short_answer"], [short_answer])
    with pytest.raises(UsageError, match="reward short_answer stands twice"):
        own_rewards([], [short_answer, short_answer])


def test_the_code_has_a_fingerprint(mine: Path) -> None:
    def one(completions: list[str], **columns: Any) -> list[float]:
        return [1.0 for _ in completions]

    def two(completions: list[str], **columns: Any) -> list[float]:
        return [2.0 for _ in completions]

    assert fingerprint({}) == ""
    assert len({fingerprint(own_rewards([], [each])) for each in (one, two)}) == 2
    assert fingerprint(own_rewards([], [one])) == fingerprint(own_rewards([], [one]))
    before = fingerprint(own_rewards([f"{mine}:short_answer"], []))
    mine.write_text(mine.read_text().replace("1.0 if", "2.0 if"))
    assert fingerprint(own_rewards([f"{mine}:short_answer"], [])) != before
