"""The reward that is TRL's own, beside the others; tests/test_rewards.py has those, and needs no torch."""

from __future__ import annotations

import pickle
from types import SimpleNamespace
from typing import Any

import pytest

from prl.rewards import REWARDS, reward_functions


# Limit 100 tokens, buffer 20: from 80 on a twentieth a token.
@pytest.mark.parametrize(
    ("length", "expected"),
    [(0, 0), (1, 0), (80, 0), (81, -0.05), (90, -0.5), (99, -0.95), (100, -1), (101, -1)],
)
def test_overlong_is_dapos(length: int, expected: float) -> None:
    for buffer in (20, None):
        reward = reward_functions(["overlong"], max_completion_length=100, overlong_buffer=buffer)["overlong"]
        assert reward(completions=["any"], completion_ids=[[7] * length]) == [pytest.approx(expected)]


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
