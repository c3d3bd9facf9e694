"""The responses of a batch as rewards see them: as text, as traces, and judged against the gold answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from prl.answers import Verdict, default_checker
from prl.errors import DataError
from prl.grammar import Trace, parse

Reward = Callable[..., list[float | None]]
"""What TRL takes for a reward function. It is called by keyword, with `prompts`, `completions`,
`completion_ids`, `trainer_state`, `log_extra`, `log_metric` and every column of the data set, and gives a
number for each completion, or None where it judges nothing."""

Completion = str | list[dict[str, Any]]
LogExtra = Callable[[str, list[Any]], None]
LogMetric = Callable[[str, float], None]

# What else TRL passes by name.
_NOT_COLUMNS = {"prompts", "completion_ids", "trainer_state", "environments", "log_metric"}


def judge(
    completions: Sequence[Completion], answer: Sequence[object] | None, columns: Mapping[str, Any]
) -> tuple[list[str | None], list[Verdict]]:
    """Extracted answers and verdicts; the checker's cache makes a second reward on the same batch free."""
    if answer is None:
        given = ", ".join(sorted(columns.keys() - _NOT_COLUMNS)) or "none"
        raise DataError(f"no column 'answer' among the columns given ({given}); name the gold answers so")
    judged = default_checker().check_responses(map(text_of, completions), answer)
    return [stated for stated, _ in judged], [verdict for _, verdict in judged]


def judge_traces(
    completions: Sequence[Completion], answer: Sequence[object] | None, columns: Mapping[str, Any]
) -> tuple[list[Verdict], list[Trace]]:
    opening = columns.get("path_opening", "none")
    return judge(completions, answer, columns)[1], traces_of(completions, path_opening=opening)


def traces_of(
    completions: Sequence[Completion],
    truncated: Sequence[bool] | None = None,
    *,
    path_opening: str = "none",
) -> list[Trace]:
    """`path_opening`, of `prl.grammar.OPENINGS`: what paths were to begin with, which `reward_functions`
    binds to each reward that looks at paths."""
    cut_off = [False] * len(completions) if truncated is None else truncated
    return [
        parse(text_of(each), truncated=cut, opening=path_opening)
        for each, cut in zip(completions, cut_off, strict=True)
    ]


def text_of(completion: Completion) -> str:
    """A conversational completion is what the assistant said in it."""
    if isinstance(completion, str):
        return completion
    return "".join(
        message.get("content") or ""
        for message in completion
        if message.get("role", "assistant") == "assistant"
    )


def signed(verdict: Verdict, deserved: bool) -> float | None:
    """1.0 or −1.0; None where the verdict says nothing of the response."""
    if not verdict.judges:
        return None
    return 1.0 if deserved else -1.0


def with_block(verdicts: list[Verdict], traces: list[Trace]) -> list[str]:
    """For the table of completions: each verdict's reason, and whether the response has a valid block."""
    found = {True: "valid block", False: "no valid block"}
    return [
        f"{verdict.reason}, {found[trace.uses_parallel]}"
        for verdict, trace in zip(verdicts, traces, strict=True)
    ]


def log_parallel_ratio(traces: list[Trace], log_metric: LogMetric | None) -> None:
    if log_metric and traces:
        log_metric("parallel_ratio", sum(trace.uses_parallel for trace in traces) / len(traces))
