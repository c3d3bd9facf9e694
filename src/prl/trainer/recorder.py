"""Every sampled response with what it was paid and why: into the run, and to the curriculum."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from accelerate.utils import gather_object
from transformers import PreTrainedTokenizerBase, TrainerCallback
from trl import GRPOTrainer

from prl import runs
from prl.answers import default_checker
from prl.decoding import Response
from prl.grammar import parse
from prl.model import token_columns
from prl.rewards import AlternatingReward
from prl.trainer.sample_tables import SampleTables
from prl.trainer.staging import Staging


class SampleRecorder(TrainerCallback):
    """Keeps every response of a training step with what it was paid and why, and tells the curriculum.

    `judge` sees what this process sampled, before it is paid; `keep` the rewards and advantages of all
    processes, in GRPOTrainer's `_logs` (trl 1.16), once they are computed. The two meet by their order.
    """

    def __init__(
        self,
        folder: runs.Run,
        tokenizer: PreTrainedTokenizerBase,
        staging: Staging | None = None,
        alternating: AlternatingReward | None = None,
        path_opening: str = "none",
    ) -> None:
        self.folder, self.tokenizer = folder, tokenizer
        self.staging, self.alternating, self.path_opening = staging, alternating, path_opening
        self.tables = SampleTables(path_opening)
        self.tells = True  # the curriculum what came of its draw
        self.batch: list[dict[str, Any]] = []  # of this process's last generation
        self.rows: list[dict[str, Any]] = []  # of the step at hand
        self.labels: dict[str, str] = {}

    def judge(
        self,
        rows: Sequence[Mapping[str, Any]],
        completions: Sequence[str],
        completion_ids: Sequence[list[int]],
        log_metric: Callable[[str, float], None],
        responses: Sequence[Response] | None = None,
    ) -> None:
        """Remember what was sampled for `rows`, whatever the rewards pay for, and log the shares of right,
        valid and parallel responses. All of this process: a row, a text and its token ids for each, and what
        the decoder says of it, where that sampled it."""
        truncated = [not ids or ids[-1] != self.tokenizer.eos_token_id for ids in completion_ids]
        traces = [
            parse(text, truncated=cut, opening=self.path_opening)
            for text, cut in zip(completions, truncated, strict=True)
        ]
        judged = default_checker().check_responses(completions, [row["answer"] for row in rows])
        # Of other engines' responses, token by token nothing is kept.
        of_tokens = [token_columns(self.tokenizer, each) for each in responses or ()] or [{}] * len(rows)
        self.batch = [
            runs.sample_row(
                row["problem"],
                row["answer"],
                trace,
                ids,
                truncated=cut,
                judged=found,
                level=row.get("level"),
                parallel=float(trace.uses_parallel),
                critical_path=row.get("critical_path"),
                **tokens,
            )
            for row, trace, ids, cut, found, tokens in zip(
                rows, traces, completion_ids, truncated, judged, of_tokens, strict=True
            )
        ]
        shares: dict[str, list[Any]] = {
            "correct": [row["correct"] for row in self.batch if row["correct"] is not None],
            "format_valid": [trace.is_valid for trace in traces],
            "parallel_ratio": [trace.uses_parallel for trace in traces],
        }
        for name, hits in shares.items():
            if hits:
                log_metric(name, sum(hits) / len(hits))

    def keep(self, trainer: GRPOTrainer) -> None:
        """Take over the generation that was just scored."""
        logs, size = trainer._logs, trainer.num_generations
        rows = gather_object(self.batch)  # in the order of the processes, as TRL's own
        weights = trainer.reward_weights.tolist()
        paid = {
            f"reward_{name.removesuffix('_reward')}": [None if math.isnan(paid) else paid for paid in values]
            for name, values in logs["rewards"].items()
        }
        totals = [_total(amounts, weights) for amounts in zip(*logs["rewards"].values(), strict=True)]
        earlier = len(self.rows) // size
        self.labels = self._labels(trainer.state.global_step)
        columns = {"advantage": logs["advantages"], "reward": totals, **paid}
        scored = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
        for index, (row, score) in enumerate(zip(rows, scored, strict=True)):
            self.rows.append(row | score | {"group": earlier + index // size} | self.labels)
        if self.staging and self.tells:
            self.staging.observe(
                [row["correct"] == 1 for row in rows], [row["parallel"] == 1 for row in rows]
            )

    def leave_out(
        self,
        judged: Sequence[dict[str, Any]],
        rewards: Sequence[str],
        paid: Sequence[Sequence[float]],
        trainer: Any,
    ) -> None:
        """Keep a group that is not trained on, with no advantage: what was `judged` of each response, and was
        paid by each of `rewards`."""
        group, labels = len(self.rows) // trainer.num_generations, self._labels(trainer.state.global_step)
        weights = trainer.reward_weights.tolist()
        for row, amounts in zip(judged, paid, strict=True):
            by_name = {
                f"reward_{name}": None if math.isnan(amount) else amount
                for name, amount in zip(rewards, amounts, strict=True)
            }
            unused = {"advantage": None, "reward": _total(amounts, weights)}
            self.rows.append(row | unused | by_name | {"group": group} | labels)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.folder.log_samples(state.global_step, self.rows)
        if control.should_log:
            self.tables.show(self.rows, state)
        self.rows = []

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        if logs is not None and "loss" in logs:
            logs |= self.labels

    def _labels(self, step: int) -> dict[str, str]:
        """Stage and phase of the reward schedule, where there are any."""
        labels = {"stage": self.staging.curriculum.stage.name} if self.staging else {}
        if self.alternating and (not self.staging or self.staging.pays("alternating")):
            labels["phase"] = self.alternating.phase(step)
        return labels


def _total(amounts: Sequence[float], weights: Sequence[float]) -> float | None:
    """What a response was paid in all, as TRL adds it up; None where no reward judged it."""
    known = [
        weight * amount for weight, amount in zip(weights, amounts, strict=True) if not math.isnan(amount)
    ]
    return sum(known) if known else None
