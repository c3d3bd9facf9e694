"""Rewards for the outcome: a right answer, a format without faults, and valid blocks beside them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from prl.answers import REASONS
from prl.rewards.responses import (
    Completion,
    LogExtra,
    LogMetric,
    judge,
    judge_traces,
    log_parallel_ratio,
    signed,
    traces_of,
    with_block,
)

# A verdict's reason -> the metric that counts it.
_OUTCOMES = {reason: reason.replace(" ", "_") for reason in REASONS} | {
    "identical": "correct",
    "equal": "correct",
    "different": "wrong",
}


def accuracy_reward(
    completions: Sequence[Completion],
    answer: Sequence[object] | None = None,
    *,
    log_extra: LogExtra | None = None,
    log_metric: LogMetric | None = None,
    **kwargs: Any,
) -> list[float | None]:
    """+1.0 where the response's answer equals the gold one, −1.0 where not (Parallel-R1's accuracy reward).

    None, which TRL skips, where the gold answer itself cannot be read. What the checker cannot decide in its
    time is wrong. DataError without a column `answer`.

    Columns: `extracted`, the answer found or None, and `verdict`, the checker's reason. Metrics, shares of
    the batch: `accuracy/correct`, `accuracy/wrong`, and one for each other reason (`accuracy/no_answer`, …).

    >>> accuracy_reward(["Final Answer: 0.5", "Final Answer: 2", "no idea"], [r"\\frac{1}{2}"] * 3)
    [1.0, -1.0, -1.0]
    """
    extracted, verdicts = judge(completions, answer, kwargs)
    if log_extra:
        log_extra("extracted", extracted)
        log_extra("verdict", [verdict.reason for verdict in verdicts])
    if log_metric and verdicts:
        outcomes = [_OUTCOMES[verdict.reason] for verdict in verdicts]
        # Every name at every call: TRL averages a metric over the calls that reported it.
        for name in dict.fromkeys(_OUTCOMES.values()):
            log_metric(f"accuracy/{name}", outcomes.count(name) / len(outcomes))
    return [signed(verdict, verdict.equal) for verdict in verdicts]


def format_reward(
    completions: Sequence[Completion],
    *,
    truncated: Sequence[bool] | None = None,
    completion_ids: Sequence[Sequence[int]] | None = None,
    eos_token_id: int | None = None,
    path_opening: str = "none",
    log_extra: LogExtra | None = None,
    log_metric: LogMetric | None = None,
    **kwargs: Any,
) -> list[float | None]:
    """1.0 where the response has no fault of format (`prl.grammar`), else 0.0. Text without tags has none.

    Decoded text does not show whether generation stopped by itself. A response is cut off where `truncated`
    says so, or else, where `eos_token_id` is known, if its ids do not end with it. Under TRL's trainer bind
    that one: `functools.partial(format_reward, eos_token_id=tokenizer.eos_token_id)`. With neither, only what
    the text shows counts: a block, path or summary left open.

    Column: `faults`, names joined by commas. Metric: `parallel_ratio`, the share with a valid block or more.

    >>> format_reward(["Final Answer: 2", "<Parallel><Path>1 + 1"])
    [1.0, 0.0]
    >>> format_reward(["Final Ans"], completion_ids=[[7, 8]], eos_token_id=9)
    [0.0]
    """
    if truncated is None and completion_ids is not None and eos_token_id is not None:
        truncated = [len(ids) == 0 or ids[-1] != eos_token_id for ids in completion_ids]
    traces = traces_of(completions, truncated, path_opening=path_opening)
    if log_extra:
        log_extra("faults", [",".join(fault.kind for fault in trace.faults) for trace in traces])
    log_parallel_ratio(traces, log_metric)
    return [float(trace.is_valid) for trace in traces]


class ParallelReward:
    """+1.0 where the answer is right and at least one block is valid, else −1.0 (Parallel-R1's gated reward).

    None, which TRL skips, where the gold answer cannot be read. DataError without a column `answer`. A fault
    elsewhere does not take a valid block back; `format_reward` is there for that.

    Column: `parallel_verdict`, the checker's reason and whether a block is valid. Metric: `parallel_ratio`.

    >>> block = "<Parallel><Path>6*7</Path><Path>7*6</Path></Parallel><Summary>42</Summary>"
    >>> ParallelReward()([block + " Final Answer: 42", "Final Answer: 42"], answer=["42", "42"])
    [1.0, -1.0]
    """

    __name__ = "parallel_reward"  # what TRL calls it in metrics and tables

    def __call__(
        self,
        completions: Sequence[Completion],
        answer: Sequence[object] | None = None,
        *,
        log_extra: LogExtra | None = None,
        log_metric: LogMetric | None = None,
        **kwargs: Any,
    ) -> list[float | None]:
        verdicts, traces = judge_traces(completions, answer, kwargs)
        if log_extra:
            log_extra("parallel_verdict", with_block(verdicts, traces))
        log_parallel_ratio(traces, log_metric)
        return [
            signed(verdict, verdict.equal and trace.uses_parallel)
            for verdict, trace in zip(verdicts, traces, strict=True)
        ]


@dataclass(frozen=True)
class TieredReward:
    """`correct_parallel` for the right answer with blocks, `correct` without, `wrong` for all else.

    The second phase of Parallel-R1's alternating reward: 1.2, 1.0 and −1. A trace with any fault of format
    (`prl.grammar`) is `wrong`, the right answer in it included. None and DataError as in `accuracy_reward`.

    Column: `tiered_verdict`, the checker's reason and the format: blocks, no blocks or malformed. Metric:
    `parallel_ratio`.

    >>> block = "<Parallel><Path>6*7</Path><Path>7*6</Path></Parallel><Summary>42</Summary>"
    >>> texts = [block + " Final Answer: 42", "Final Answer: 42", "<Path> Final Answer: 42", "no idea"]
    >>> TieredReward()(texts, answer=["42"] * 4)
    [1.2, 1.0, -1.0, -1.0]
    """

    correct_parallel: float = 1.2
    correct: float = 1.0
    wrong: float = -1.0
    __name__ = "tiered_reward"

    def __call__(
        self,
        completions: Sequence[Completion],
        answer: Sequence[object] | None = None,
        *,
        log_extra: LogExtra | None = None,
        log_metric: LogMetric | None = None,
        **kwargs: Any,
    ) -> list[float | None]:
        verdicts, traces = judge_traces(completions, answer, kwargs)
        forms = [
            "malformed" if not trace.is_valid else "blocks" if trace.blocks else "no blocks"
            for trace in traces
        ]
        if log_extra:
            log_extra(
                "tiered_verdict",
                [f"{verdict.reason}, {form}" for verdict, form in zip(verdicts, forms, strict=True)],
            )
        log_parallel_ratio(traces, log_metric)
        worth = {"blocks": self.correct_parallel, "no blocks": self.correct, "malformed": self.wrong}
        return [
            worth[form] if verdict.equal else self.wrong if verdict.judges else None
            for verdict, form in zip(verdicts, forms, strict=True)
        ]
