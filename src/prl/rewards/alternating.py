"""Paying by several rewards in turn, by the step: Parallel-R1's alternating reward."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from typing import Any

from prl.errors import DataError, UsageError
from prl.rewards.catalogue import REWARDS, reward_named, unknown
from prl.rewards.responses import Completion, LogExtra, Reward

Pattern = tuple[tuple[str, int], ...]

ALTERNATING: Pattern = (("accuracy", 8), ("tiered", 2))
"""Parallel-R1's schedule: of each 10 steps, 8 of accuracy, then 2 of the tiered reward."""


class AlternatingReward:
    """Pays by one reward after the other: `pattern` names them, each for a number of steps, over and over.

    Parallel-R1's alternating reward: in a window of 10 steps 8 by accuracy, under which blocks become rare,
    and 2 by the tiered reward, which brings them back. The step is the trainer's `global_step`,
    from 0, when the responses are generated. Windows are counted from the step `start`; set it at any time.

    `rewards` are the parts by name; those not given are made as they are by default. UsageError for a pattern
    that names an unknown reward or `alternating` itself, or a count below 1; DataError where no
    `trainer_state` is passed.

    Column: `alternating_phase`, the name of the part. What the parts write to columns is left out, as they
    would come and go with the phase; their metrics are logged.

    >>> from types import SimpleNamespace
    >>> reward = AlternatingReward((("accuracy", 2), ("format", 1)))
    >>> [reward.phase(step) for step in range(4)]
    ['accuracy', 'accuracy', 'format', 'accuracy']
    >>> reward(["<Path> Final Answer: 42"], answer=["42"], trainer_state=SimpleNamespace(global_step=2))
    [0.0]
    """

    __name__ = "alternating_reward"

    def __init__(
        self,
        pattern: Sequence[tuple[str, int]] = ALTERNATING,
        rewards: dict[str, Reward] | None = None,
        *,
        start: int = 0,
    ) -> None:
        if faults := _pattern_faults(pattern):
            raise UsageError("; ".join(faults))
        self.pattern: Pattern = tuple(pattern)
        self.window = sum(count for _, count in pattern)
        self.start = start
        given = rewards or {}
        self.rewards = {name: reward_named(name) for name, _ in pattern if name not in given} | given

    def phase(self, step: int) -> str:
        """The name of the reward that pays at `step`, the number of optimizer steps done."""
        ends = list(accumulate(count for _, count in self.pattern))
        return self.pattern[bisect_right(ends, (step - self.start) % self.window)][0]

    def __call__(
        self,
        completions: Sequence[Completion],
        answer: Sequence[object] | None = None,
        *,
        trainer_state: Any = None,
        log_extra: LogExtra | None = None,
        **kwargs: Any,
    ) -> list[float | None]:
        if trainer_state is None:
            raise DataError(
                "no trainer_state for reward alternating, which pays by the step; "
                "call it from a GRPOTrainer, or pass an object with global_step"
            )
        phase = self.phase(trainer_state.global_step)
        if log_extra:
            log_extra("alternating_phase", [phase] * len(completions))
        reward = self.rewards[phase]
        return list(reward(completions=completions, answer=answer, trainer_state=trainer_state, **kwargs))


def read_pattern(parts: Sequence[str], window: int) -> tuple[Pattern, list[str]]:
    """The pattern that words like `accuracy:8` spell, and every fault of it, each in one line.

    >>> read_pattern(["accuracy:8", "tiered:2"], window=10)
    ((('accuracy', 8), ('tiered', 2)), [])
    >>> print(*read_pattern(["accuracy:8", "tired:3"], window=10)[1], sep="\\n")
    'tired' is no reward; nearest: tiered
    11 steps in accuracy:8 tired:3, 10 in the window; make them equal
    """
    pattern, faults = [], []
    for part in parts:
        name, _, count = part.partition(":")
        if name and re.fullmatch(r"-?[0-9]{1,9}", count):
            pattern.append((name, int(count)))
        else:
            faults.append(f"{part!r} is not NAME:COUNT; write a reward and its steps, as in accuracy:8")
    if pattern or not parts:
        faults += _pattern_faults(pattern)
    steps = sum(count for _, count in pattern)
    if len(pattern) == len(parts) > 0 and steps != window:
        faults.append(f"{steps} steps in {' '.join(parts)}, {window} in the window; make them equal")
    return tuple(pattern), faults


def _pattern_faults(pattern: Sequence[tuple[str, int]]) -> list[str]:
    faults = [] if pattern else ["no rewards to alternate; write each with its steps, as in accuracy:8"]
    for name, count in pattern:
        if name == "alternating":
            faults.append("alternating cannot alternate with itself; name another reward")
        elif name not in REWARDS:
            faults.append(unknown(name))
        if count < 1:
            faults.append(f"{count} steps of {name}; give 1 or more")
    return faults
