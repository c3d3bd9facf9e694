"""The rewards of a run, made by the names that its settings give; `catalogue` has what there is."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial, update_wrapper

from prl.errors import UsageError
from prl.rewards.alternating import ALTERNATING, AlternatingReward
from prl.rewards.catalogue import REWARDS, reward_named, unknown
from prl.rewards.responses import Reward


def reward_functions(
    names: Iterable[str],
    *,
    eos_token_id: int | None = None,
    tag_ids: Sequence[int] | None = None,
    max_completion_length: int | None = None,
    overlong_buffer: int | None = None,
    pattern: Sequence[tuple[str, int]] = ALTERNATING,
    path_opening: str = "none",
) -> dict[str, Reward]:
    """The rewards of these names, in their order, each told what it needs of the run.

    `eos_token_id` is for `format`, `tag_ids` for `efficiency`, `pattern` for `alternating`; `path_opening`,
    of `prl.grammar.OPENINGS`, tells those that look at paths what these were to begin with. `overlong` falls
    over the last `overlong_buffer` tokens before `max_completion_length`: a fifth of the limit unless given,
    as in DAPO (4,096 of 20,480). UsageError for names that are unknown and for `overlong` without a limit.

    >>> [reward.__name__ for reward in reward_functions(["tiered", "format"]).values()]
    ['tiered_reward', 'format_reward']
    """
    names = list(names)
    if faults := [unknown(name) for name in names if name not in REWARDS]:
        raise UsageError("; ".join(faults))

    def build(name: str) -> Reward:
        reward = reward_named(
            name,
            eos_token_id=eos_token_id,
            tag_ids=tag_ids,
            max_completion_length=max_completion_length,
            overlong_buffer=overlong_buffer,
        )
        if path_opening == "none":
            return reward
        return update_wrapper(partial(reward, path_opening=path_opening), reward)

    def alternating() -> Reward:
        parts = {part: build(part) for part, _ in pattern if part in REWARDS and part != "alternating"}
        return AlternatingReward(pattern, parts)

    return {name: alternating() if name == "alternating" else build(name) for name in names}
