"""Reward functions with TRL's signature, for prl's own RL stage and for anyone's `GRPOTrainer`.

    GRPOTrainer(reward_funcs=[accuracy_reward, format_reward, ParallelReward()], ...)

The data set needs a column `answer`, the gold one, which `prl.answers` compares with the response's.
Completions are strings or conversations. Only they are read: tags and answers in a prompt count for nothing.

Each function writes columns of its own to TRL's table of completions (`log_extra`): TRL extends a column at
every call, so two functions writing the same one would tear the table. Shares of the batch go to its metrics.

What the rewards do not see is whether paths differ, or say anything: `<Path>.</Path>` is a path.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from prl.answers import REASONS, Verdict, default_checker, extract_answer
from prl.errors import DataError
from prl.grammar import Trace, parse

Completion = str | list[dict[str, Any]]

# A verdict's reason -> the metric that counts it.
_OUTCOMES = {reason: reason.replace(" ", "_") for reason in REASONS} | {
    "identical": "correct",
    "equal": "correct",
    "different": "wrong",
}
_NOT_COLUMNS = {"prompts", "completion_ids", "trainer_state", "environments"}  # what else TRL passes by name


def accuracy_reward(
    completions: Sequence[Completion],
    answer: Sequence[object] | None = None,
    *,
    log_extra: Callable[[str, list[Any]], None] | None = None,
    log_metric: Callable[[str, float], None] | None = None,
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
    extracted, verdicts = _judge(completions, answer, kwargs)
    if log_extra:
        log_extra("extracted", extracted)
        log_extra("verdict", [verdict.reason for verdict in verdicts])
    if log_metric and verdicts:
        outcomes = [_OUTCOMES[verdict.reason] for verdict in verdicts]
        # Every name at every call: TRL averages a metric over the calls that reported it.
        for name in dict.fromkeys(_OUTCOMES.values()):
            log_metric(f"accuracy/{name}", outcomes.count(name) / len(outcomes))
    return [_signed(verdict, verdict.equal) for verdict in verdicts]


def format_reward(
    completions: Sequence[Completion],
    *,
    truncated: Sequence[bool] | None = None,
    completion_ids: Sequence[Sequence[int]] | None = None,
    eos_token_id: int | None = None,
    log_extra: Callable[[str, list[Any]], None] | None = None,
    log_metric: Callable[[str, float], None] | None = None,
    **kwargs: Any,
) -> list[float]:
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
    traces = _traces(completions, truncated)
    if log_extra:
        log_extra("faults", [",".join(fault.kind for fault in trace.faults) for trace in traces])
    _log_parallel_ratio(traces, log_metric)
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
        log_extra: Callable[[str, list[Any]], None] | None = None,
        log_metric: Callable[[str, float], None] | None = None,
        **kwargs: Any,
    ) -> list[float | None]:
        _, verdicts = _judge(completions, answer, kwargs)
        traces = _traces(completions)
        pairs = [(verdict, trace.uses_parallel) for verdict, trace in zip(verdicts, traces, strict=True)]
        if log_extra:
            found = {True: "valid block", False: "no valid block"}
            log_extra("parallel_verdict", [f"{verdict.reason}, {found[block]}" for verdict, block in pairs])
        _log_parallel_ratio(traces, log_metric)
        return [_signed(verdict, verdict.equal and block) for verdict, block in pairs]


def _judge(
    completions: Sequence[Completion], answer: Sequence[object] | None, columns: dict[str, Any]
) -> tuple[list[str | None], list[Verdict]]:
    """Extracted answers and verdicts; the checker's cache makes a second reward on the same batch free."""
    if answer is None:
        given = ", ".join(sorted(columns.keys() - _NOT_COLUMNS)) or "none"
        raise DataError(f"no column 'answer' among the columns given ({given}); name the gold answers so")
    extracted = [extract_answer(_text(completion)) for completion in completions]
    golds = ["" if gold is None else str(gold) for gold in answer]
    return extracted, default_checker().check_many(list(zip(extracted, golds, strict=True)))


def _log_parallel_ratio(traces: list[Trace], log_metric: Callable[[str, float], None] | None) -> None:
    if log_metric and traces:
        log_metric("parallel_ratio", sum(trace.uses_parallel for trace in traces) / len(traces))


def _traces(completions: Sequence[Completion], truncated: Sequence[bool] | None = None) -> list[Trace]:
    cut_off = [False] * len(completions) if truncated is None else truncated
    return [parse(_text(each), truncated=cut) for each, cut in zip(completions, cut_off, strict=True)]


def _text(completion: Completion) -> str:
    """A conversational completion is what the assistant said in it."""
    if isinstance(completion, str):
        return completion
    return "".join(
        message.get("content") or ""
        for message in completion
        if message.get("role", "assistant") == "assistant"
    )


def _signed(verdict: Verdict, deserved: bool) -> float | None:
    if verdict.reason == "unparseable gold":
        return None
    return 1.0 if deserved else -1.0
