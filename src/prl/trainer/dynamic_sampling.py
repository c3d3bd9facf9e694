"""Groups that teach in the place of those that do not: DAPO's dynamic sampling (arXiv 2503.14476, 3.2).

A group whose responses are all paid the same has no gradient. Where most are, a step is made of what a
handful of groups happen to say. Here a step draws other problems in the place of such groups, a bounded
number of times, before GRPOTrainer (trl 1.16) sees any of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from prl.decoding import Response
from prl.trainer.groups import teaching
from prl.trainer.recorder import SampleRecorder
from prl.trainer.rollouts import Rollouts
from prl.trainer.staging import Staging


@dataclass(frozen=True)
class Group:
    """The responses to one problem: rows, what the rollouts say of each, what the recorder does, rewards, of
    shape (responses, functions), and the columns that these add to TRL's table of completions."""

    rows: Sequence[dict[str, Any]]
    sampled: dict[str, Sequence[Any]]
    judged: Sequence[dict[str, Any]]
    paid: Tensor
    columns: dict[str, list[Any]]
    teaches: bool


class DynamicSampling:
    """The `rollout_func` of a GRPOTrainer whose `staging` chooses problems, in one process.

    `fill` samples and scores groups that teach, as far as `draws` more draws find them; when GRPOTrainer asks
    for responses and rewards of that generation, `__call__` and `take` hand them over. Every draw is recorded
    and told to the curriculum, so that accuracy is that of what was sampled, not of what was kept.
    """

    def __init__(self, rollouts: Rollouts, staging: Staging, recorder: SampleRecorder, draws: int) -> None:
        self.rollouts, self.staging, self.recorder, self.draws = rollouts, staging, recorder, draws
        recorder.tells = False  # a part of each draw would be left to tell
        self.kept: list[Group] = []

    def __call__(self, prompts: list[str], trainer: Any) -> dict[str, Any]:
        """The responses that `fill` found; in an evaluation what the rollouts sample."""
        if not self.kept:
            return self.rollouts(prompts, trainer)
        names = self.kept[0].sampled
        return {"logprobs": None} | {
            name: [*chain.from_iterable(group.sampled[name] for group in self.kept)] for name in names
        }

    def take(self, trainer: Any) -> Tensor | None:
        """The rewards of what `fill` found, once: shape (responses, functions)."""
        if not self.kept:
            return None
        self.recorder.batch = [*chain.from_iterable(group.judged for group in self.kept)]
        paid = torch.cat([group.paid for group in self.kept])
        for name in {name for group in self.kept for name in group.columns}:
            for group in self.kept:
                trainer._log_completion_extra(name, group.columns.get(name) or [None] * len(group.rows))
        self.kept = []
        return paid

    def fill(self, rows: list[dict[str, Any]], trainer: Any) -> list[dict[str, Any]]:
        """As many rows as `rows`, the first draw, each problem `num_generations` times in a row: of groups
        that teach, and of the first draw's others where too few were found."""
        size = trainer.num_generations
        wanted, drawn = len(rows) // size, 0
        teaching: list[Group] = []
        others: list[Group] = []
        sampled: dict[tuple[int, ...], Response] = {}
        for draw in range(self.draws + 1):
            if draw:
                rows = self.staging.rows((wanted - len(teaching)) * size, trainer)
            drawn += len(rows) // size
            for group in self._draw(rows, trainer):
                (teaching if group.teaches else others).append(group)
            sampled |= self.rollouts.sampled
            if len(teaching) == wanted:
                break
        missing = wanted - len(teaching)
        self.kept = teaching + others[:missing]
        self.rollouts.sampled = sampled  # what is scored next is of several draws
        names = [name.removesuffix("_reward") for name in trainer.reward_func_names]
        for group in others[missing:]:
            self.recorder.leave_out(group.judged, names, group.paid.tolist(), trainer)
        trainer._log_metric("dynamic_sampling/groups", drawn)
        return [row for group in self.kept for row in group.rows]

    def _draw(self, rows: list[dict[str, Any]], trainer: Any) -> Iterator[Group]:
        """The groups of a draw, sampled, judged, paid, and told to the curriculum."""
        size, prompts = trainer.num_generations, [row["prompt"] for row in rows]
        with trainer.times.of("rollout"):
            sampled = self.rollouts(prompts, trainer)
        ids = sampled["completion_ids"]
        for row, path in zip(rows, sampled["critical_path"], strict=True):
            row["critical_path"] = path  # as trl does with what a rollout_func returns besides
        texts = trainer.processing_class.batch_decode(ids, skip_special_tokens=True)
        paid = trainer._calculate_rewards(rows, prompts, texts, ids)
        judged = self.recorder.batch
        self.staging.observe(
            [row["correct"] == 1 for row in judged], [row["parallel"] == 1 for row in judged]
        )
        told = dict(trainer._pending_extra_logs)
        trainer._pending_extra_logs.clear()
        for number, differs in enumerate(teaching(paid, trainer).tolist()):
            part = slice(number * size, (number + 1) * size)
            mine = {name: each[part] for name, each in sampled.items() if each is not None}
            columns = {name: values[part] for name, values in told.items()}
            yield Group(rows[part], mine, judged[part], paid[part], columns, differs)
