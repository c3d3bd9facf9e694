"""Every reward by its name, and the one that a name stands for."""

# ruff: noqa: SIM905 (lists of names read better as words)

from __future__ import annotations

import functools
from collections.abc import Sequence

from prl.errors import UsageError, nearest
from prl.rewards.experimental import (
    BonusReward,
    EfficiencyReward,
    OverlongReward,
    diversity_reward,
    set_diversity_reward,
)
from prl.rewards.outcomes import ParallelReward, TieredReward, accuracy_reward, format_reward
from prl.rewards.responses import Reward

REWARDS = tuple(
    "accuracy format parallel bonus tiered alternating diversity set_diversity efficiency gated_efficiency "
    "overlong".split()
)

EXPERIMENTAL = ("bonus", "diversity", "set_diversity", "efficiency", "overlong")
"""Those that no shipped recipe or overlay uses, and so no arm of the study."""


def reward_named(
    name: str,
    *,
    eos_token_id: int | None = None,
    tag_ids: Sequence[int] | None = None,
    max_completion_length: int | None = None,
    overlong_buffer: int | None = None,
) -> Reward:
    """The reward of this name, any but `alternating`, which is made of the others.

    The keywords are those of `by_name.reward_functions`. UsageError for `overlong` without a limit.
    """
    match name:
        case "accuracy":
            return accuracy_reward
        case "format":
            bound = functools.partial(format_reward, eos_token_id=eos_token_id)
            return functools.update_wrapper(bound, format_reward)
        case "parallel":
            return ParallelReward()
        case "bonus":
            return BonusReward()
        case "tiered":
            return TieredReward()
        case "diversity":
            return diversity_reward
        case "set_diversity":
            return set_diversity_reward
        case "efficiency" | "gated_efficiency":
            return EfficiencyReward(tag_ids, gated=name == "gated_efficiency")
        case "overlong":
            limit, buffer = max_completion_length, overlong_buffer
            if limit is None:
                raise UsageError("reward overlong needs a limit; give max_completion_length")
            return OverlongReward(limit, limit // 5 if buffer is None else buffer)
    raise UsageError(unknown(name))


def unknown(name: str) -> str:
    hint = nearest(name, REWARDS) or f"; one of {', '.join(REWARDS)}"
    return f"{name!r} is no reward{hint}"
