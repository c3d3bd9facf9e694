"""The rewards against TRL, which calls them; tests/test_rewards.py needs no torch."""

from __future__ import annotations

import inspect
import pickle
from types import SimpleNamespace
from typing import Any, get_args, get_type_hints

import pytest

from prl.rewards import REWARDS, OverlongReward, reward_functions


# Limit 100 tokens, buffer 20: from 80 on a twentieth a token.
@pytest.mark.parametrize(
    ("length", "expected"),
    [(0, 0), (1, 0), (80, 0), (81, -0.05), (90, -0.5), (99, -0.95), (100, -1), (101, -1)],
)
def test_overlong_is_dapos(length: int, expected: float) -> None:
    for buffer in (20, None):
        reward = reward_functions(["overlong"], max_completion_length=100, overlong_buffer=buffer)["overlong"]
        assert reward(completions=["any"], completion_ids=[[7] * length]) == [pytest.approx(expected)]


@pytest.mark.parametrize(("limit", "buffer"), [(100, 20), (20_480, 4_096), (64, 64), (7, 3), (50, 0), (1, 0)])
def test_overlong_is_that_of_trl(limit: int, buffer: int) -> None:
    from trl.rewards import get_soft_overlong_punishment

    batch = {"completion_ids": [[7] * length for length in range(0, limit + 50, max(1, limit // 300))]}
    theirs = get_soft_overlong_punishment(limit, buffer)(**batch)
    assert OverlongReward(limit, buffer)(completions=["any"] * len(theirs), **batch) == theirs


@pytest.mark.parametrize("name", REWARDS)
def test_rewards_type_check_as_reward_funcs_of_trl(name: str) -> None:
    """A list is invariant: `list[float]` is none of `float | None` to a type checker."""
    from trl.trainer.grpo_trainer import RewardFunc

    reward = inspect.unwrap(reward_functions([name], max_completion_length=100)[name])
    function = reward if inspect.isfunction(reward) else type(reward).__call__
    _, returned = get_args(get_args(RewardFunc)[-1])
    assert get_type_hints(function)["return"] == returned


def test_all_rewards_are_paid_on_one_batch_in_their_order() -> None:
    """With every keyword that `GRPOTrainer._calculate_rewards` gives."""
    rewards = reward_functions(REWARDS, eos_token_id=2, tag_ids=range(10, 16), max_completion_length=100)
    assert list(rewards) == list(REWARDS)
    columns: dict[str, list[Any]] = {}
    batch: dict[str, Any] = {
        "prompts": ["6 * 7?"] * 2,
        "completions": ["Final Answer: 42", "Final Answer: 41"],
        "completion_ids": [[1, 2], [1] * 90],
        "answer": ["42"] * 2,
        "level": [None] * 2,
        "trainer_state": SimpleNamespace(global_step=0),
        "log_extra": lambda name, values: columns.setdefault(name, []).extend(values),
        "log_metric": lambda name, value: None,
    }
    paid = {name: list(reward(**batch)) for name, reward in rewards.items()}
    assert paid["overlong"] == [0, pytest.approx(-0.5)]
    assert {len(values) for values in (*paid.values(), *columns.values())} == {2}


def test_overlong_is_picklable_and_named_for_trl() -> None:
    """TRL's asynchronous rollouts send it to a spawned process and name metrics by `__name__`."""
    reward = reward_functions(["overlong"], max_completion_length=100)["overlong"]
    copy = pickle.loads(pickle.dumps(reward))
    assert copy.__name__ == "overlong_reward"
    assert copy(completions=["any"], completion_ids=[[7] * 90]) == [pytest.approx(-0.5)]
    assert copy(completions=[], completion_ids=[]) == []


def test_alternating_pays_overlong_in_its_turn() -> None:
    pattern = (("overlong", 1), ("accuracy", 1))
    reward = reward_functions(["alternating"], max_completion_length=100, pattern=pattern)["alternating"]
    batch: dict[str, Any] = {"completions": ["any"], "completion_ids": [[7] * 90], "answer": ["42"]}
    paid = [reward(**batch, trainer_state=SimpleNamespace(global_step=step))[0] for step in range(3)]
    assert paid == [pytest.approx(-0.5), -1, pytest.approx(-0.5)]
