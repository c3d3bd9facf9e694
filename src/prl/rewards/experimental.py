"""Rewards that no shipped recipe or overlay uses, and so no arm of the study, but for `gated_efficiency`.

`prl rewards replay` tells what they would have paid for the responses of a run.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from prl.analysis import critical_path, diversity, self_bleu, words
from prl.grammar import Trace, parse_ids
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


@dataclass(frozen=True)
class BonusReward:
    """Accuracy (±1) + `bonus` for a valid block, whatever the answer (Parallel-R1's accuracy with a bonus).

    A wrong answer with a block earns more than one without, so blocks pay where the answer is out of reach.
    None and DataError as in `accuracy_reward`.

    Experimental: no recipe uses it.

    Column: `bonus_verdict`, the checker's reason and whether a block is valid. Metric: `parallel_ratio`.

    >>> block = "<Parallel><Path>6*7</Path><Path>7*6</Path></Parallel><Summary>42</Summary>"
    >>> BonusReward()([block + " Final Answer: 42", "Final Answer: 42", block], answer=["42"] * 3)
    [1.5, 1.0, -0.5]
    """

    bonus: float = 0.5
    __name__ = "bonus_reward"

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
            log_extra("bonus_verdict", with_block(verdicts, traces))
        log_parallel_ratio(traces, log_metric)
        accuracies = [signed(verdict, verdict.equal) for verdict in verdicts]
        return [
            None if accuracy is None else accuracy + self.bonus * trace.uses_parallel
            for accuracy, trace in zip(accuracies, traces, strict=True)
        ]


def diversity_reward(
    completions: Sequence[Completion],
    *,
    path_opening: str = "none",
    log_extra: LogExtra | None = None,
    **kwargs: Any,
) -> list[float | None]:
    """− the mean self-BLEU of the paths: −1.0 where they are all alike, 0.0 where they share no word.

    Parallel-R1's diversity reward; its factor c is TRL's `reward_weights`. Blocks with two or more paths that
    are not blank count, other faults or not, and the mean is over these blocks (`self_bleu`).

    A response without such a block earns 0.0, which is the most there is: alone, or with a large weight, this
    reward teaches not to open blocks. Pay for blocks beside it.

    Experimental: no recipe uses it.

    Column: `self_bleu`, None where there is no such block.

    >>> same = "<Parallel><Path>6 * 7 = 42</Path><Path>6 * 7 = 42</Path></Parallel><Summary>42</Summary>"
    >>> other = "<Parallel><Path>6 * 7 = 42</Path><Path>add it up</Path></Parallel><Summary>42</Summary>"
    >>> diversity_reward([same, other, "Final Answer: 42"])
    [-1.0, 0.0, 0.0]
    """
    scores = [_over_blocks(trace, self_bleu) for trace in traces_of(completions, path_opening=path_opening)]
    if log_extra:
        log_extra("self_bleu", scores)
    return [-score if score else 0.0 for score in scores]


def set_diversity_reward(
    completions: Sequence[Completion],
    *,
    path_opening: str = "none",
    log_extra: LogExtra | None = None,
    **kwargs: Any,
) -> list[float | None]:
    """How far the paths differ in the words they use, 0.0 (the same) to 1.0 (none shared).

    The Sørensen–Dice distance of the paths' sets of words and symbols (`prl.analysis.diversity`), over the
    same blocks as `diversity_reward`. A response without such a block earns 0.0, so here blocks pay, and
    paths of different nonsense most.

    Experimental: no recipe uses it.

    Column: `set_diversity`, None where there is no such block.

    >>> block = "<Parallel><Path>6 * 7</Path><Path>7 * 6</Path><Path>40 + 2</Path></Parallel>"
    >>> set_diversity_reward([block, "Final Answer: 42"])
    [0.5, 0.0]
    """
    scores = [_over_blocks(trace, diversity) for trace in traces_of(completions, path_opening=path_opening)]
    if log_extra:
        log_extra("set_diversity", scores)
    return [score or 0.0 for score in scores]


@dataclass(frozen=True)
class EfficiencyReward:
    """(total − critical path) / total: the share of a response that decoding paths side by side saves.

    Parallel-R1's efficiency reward. Lengths are in tokens where `tag_ids`, the ids of `prl.grammar.TAGS`, and
    the responses' `completion_ids` are known, else in characters. Responses of causal attention are measured
    as if their paths had been decoded side by side too. Blocks count as they are parsed, faults or not, so
    alone it is best paid by many long paths of nonsense.

    `gated` pays 0.0 unless the answer is right and the trace has no fault of format; then None and DataError
    are as in `accuracy_reward`. It is the term c·v·(1 − D/T) of the reproduction Parallel-R1-repro.

    Experimental: no recipe uses it. Gated, the overlay `gated-efficiency` of a study does.

    Column: `efficiency` or, gated, `gated_efficiency_verdict`, the checker's reason and the share saved.

    >>> EfficiencyReward()(["<Parallel><Path>abc</Path><Path>abc</Path></Parallel>", "Final Answer: 42"])
    [0.3018867924528302, 0.0]
    """

    tag_ids: Sequence[int] | None = None
    gated: bool = False

    @property
    def __name__(self) -> str:
        return "gated_efficiency_reward" if self.gated else "efficiency_reward"

    def __call__(
        self,
        completions: Sequence[Completion],
        answer: Sequence[object] | None = None,
        *,
        completion_ids: Sequence[Sequence[int]] | None = None,
        path_opening: str = "none",
        log_extra: LogExtra | None = None,
        **kwargs: Any,
    ) -> list[float | None]:
        traces = traces_of(completions, path_opening=path_opening)
        if self.tag_ids is None or completion_ids is None:
            measured = traces
        else:
            of_ids = [parse_ids(ids, self.tag_ids) for ids in completion_ids]
            # Tags that a tokenizer spells out are none of its ids.
            measured = [ids if ids.blocks else text for ids, text in zip(of_ids, traces, strict=True)]
        saved = [(trace.length - critical_path(trace)) / max(trace.length, 1) for trace in measured]
        if not self.gated:
            if log_extra:
                log_extra("efficiency", saved)
            return list(saved)
        _, verdicts = judge(completions, answer, kwargs)
        if log_extra:
            log_extra(
                "gated_efficiency_verdict",
                [f"{verdict.reason}, {share:.3f}" for verdict, share in zip(verdicts, saved, strict=True)],
            )
        return [
            None if not verdict.judges else share if verdict.equal and trace.is_valid else 0.0
            for verdict, trace, share in zip(verdicts, traces, saved, strict=True)
        ]


@dataclass(frozen=True)
class OverlongReward:
    """0.0 up to `buffer` tokens before `limit`, from there down to −1.0 at the limit and beyond.

    The soft overlong punishment of DAPO (arXiv 2503.14476, eq. 13), and TRL's `get_soft_overlong_punishment`.
    Experimental: no recipe uses it.

    >>> reward = OverlongReward(limit=100, buffer=20)
    >>> reward(completions=["…"] * 3, completion_ids=[[7] * 80, [7] * 90, [7] * 120])
    [0.0, -0.5, -1.0]
    """

    limit: int
    buffer: int
    __name__ = "overlong_reward"

    def __call__(self, *, completion_ids: Sequence[Sequence[int]], **kwargs: Any) -> list[float | None]:
        return [overlong(len(ids), self.limit, self.buffer) for ids in completion_ids]


def overlong(length: int, limit: int, buffer: int) -> float:
    """DAPO's eq. 13, for a response of `length` tokens."""
    if length <= limit - buffer:
        return 0.0
    return (limit - buffer - length) / buffer if length <= limit else -1.0


def _over_blocks(trace: Trace, measure: Callable[[list[list[str]]], float | None]) -> float | None:
    """The mean of a measure of token sequences over the blocks for which it is not None."""
    scores = [measure([words(path.content) for path in block.paths]) for block in trace.blocks]
    measured = [score for score in scores if score is not None]
    return fmean(measured) if measured else None
