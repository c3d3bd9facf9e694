"""Reward functions with TRL's signature, for prl's own RL stage and for anyone's `GRPOTrainer`.

    GRPOTrainer(reward_funcs=[accuracy_reward, format_reward, ParallelReward()], ...)
    GRPOTrainer(reward_funcs=list(reward_functions(["accuracy", "diversity"]).values()), ...)

    name              pays                                                                        range
    accuracy          the right answer                                                            −1, 1
    format            no fault of format                                                          0, 1
    parallel          the right answer with a valid block                                         −1, 1
    bonus             accuracy, and ½ for a valid block                                           −1 … 1.5
    tiered            the right answer, more with blocks, not in a malformed trace                −1, 1, 1.2
    alternating       one of the others, by the step                                              theirs
    diversity         paths that share few n-grams: − self-BLEU                                   −1 … 0
    set_diversity     paths that share few words                                                  0 … 1
    efficiency        what decoding the paths side by side saves                                  0 … 1
    gated_efficiency  the same, where the answer is right and the format has no fault             0 … 1
    overlong          responses that keep away from the length limit                              −1 … 0

Rewards that judge the answer need a column `answer`, the gold one, which `prl.answers` compares with the
response's. Completions are strings or conversations. Only they are read: tags and answers in a prompt count
for nothing. All take time linear in the length of a response.

Each function writes columns of its own to TRL's table of completions (`log_extra`): TRL extends a column at
every call, so two functions writing the same one would tear the table. Shares of the batch go to its metrics.

What a path says is not judged: `<Path>.</Path>` is a path. Diversity and efficiency alone are best paid by
nonsense; give them a small weight (`reward_weights`) beside a reward that judges the answer.
"""

from __future__ import annotations

import functools
import re
from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from statistics import fmean
from typing import Any

from prl.analysis import critical_path, diversity, self_bleu, words
from prl.answers import REASONS, Verdict, default_checker
from prl.errors import DataError, UsageError, nearest
from prl.grammar import Trace, parse, parse_ids

Reward = Callable[..., Sequence[float | None]]
Pattern = tuple[tuple[str, int], ...]

REWARDS = (
    "accuracy",
    "format",
    "parallel",
    "bonus",
    "tiered",
    "alternating",
    "diversity",
    "set_diversity",
    "efficiency",
    "gated_efficiency",
    "overlong",
)

ALTERNATING: Pattern = (("accuracy", 8), ("tiered", 2))
"""Parallel-R1's schedule: of each 10 steps, 8 of accuracy, then 2 of the tiered reward."""

Completion = str | list[dict[str, Any]]

# A verdict's reason -> the metric that counts it.
_OUTCOMES = {reason: reason.replace(" ", "_") for reason in REASONS} | {
    "identical": "correct",
    "equal": "correct",
    "different": "wrong",
}
# What else TRL passes by name.
_NOT_COLUMNS = {"prompts", "completion_ids", "trainer_state", "environments", "log_metric"}


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
        verdicts, traces = _judge_traces(completions, answer, kwargs)
        if log_extra:
            log_extra("parallel_verdict", _with_block(verdicts, traces))
        _log_parallel_ratio(traces, log_metric)
        return [
            _signed(verdict, verdict.equal and trace.uses_parallel)
            for verdict, trace in zip(verdicts, traces, strict=True)
        ]


@dataclass(frozen=True)
class BonusReward:
    """Accuracy (±1) + `bonus` for a valid block, whatever the answer (Parallel-R1's accuracy with a bonus).

    A wrong answer with a block earns more than one without, so blocks pay where the answer is out of reach.
    None and DataError as in `accuracy_reward`.

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
        log_extra: Callable[[str, list[Any]], None] | None = None,
        log_metric: Callable[[str, float], None] | None = None,
        **kwargs: Any,
    ) -> list[float | None]:
        verdicts, traces = _judge_traces(completions, answer, kwargs)
        if log_extra:
            log_extra("bonus_verdict", _with_block(verdicts, traces))
        _log_parallel_ratio(traces, log_metric)
        signed = [_signed(verdict, verdict.equal) for verdict in verdicts]
        return [
            None if accuracy is None else accuracy + self.bonus * trace.uses_parallel
            for accuracy, trace in zip(signed, traces, strict=True)
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
        log_extra: Callable[[str, list[Any]], None] | None = None,
        log_metric: Callable[[str, float], None] | None = None,
        **kwargs: Any,
    ) -> list[float | None]:
        verdicts, traces = _judge_traces(completions, answer, kwargs)
        forms = [
            "malformed" if not trace.is_valid else "blocks" if trace.blocks else "no blocks"
            for trace in traces
        ]
        if log_extra:
            log_extra(
                "tiered_verdict",
                [f"{verdict.reason}, {form}" for verdict, form in zip(verdicts, forms, strict=True)],
            )
        _log_parallel_ratio(traces, log_metric)
        worth = {"blocks": self.correct_parallel, "no blocks": self.correct, "malformed": self.wrong}
        return [
            worth[form] if verdict.equal else self.wrong if verdict.judges else None
            for verdict, form in zip(verdicts, forms, strict=True)
        ]


class AlternatingReward:
    """Pays by one reward after the other: `pattern` names them, each for a number of steps, over and over.

    Parallel-R1's alternating reward: in a window of 10 steps 8 by accuracy, under which blocks become rare,
    and 2 by the tiered reward, which brings them back. The step is the trainer's `global_step`,
    from 0, when the responses are generated. Windows are counted from the step `start`; set it at any time.

    `rewards` are the parts by name; those not given are built by `reward_functions`. UsageError for a pattern
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
        self.rewards = reward_functions([name for name, _ in pattern if name not in given]) | given

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
        log_extra: Callable[[str, list[Any]], None] | None = None,
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


def diversity_reward(
    completions: Sequence[Completion],
    *,
    log_extra: Callable[[str, list[Any]], None] | None = None,
    **kwargs: Any,
) -> list[float]:
    """− the mean self-BLEU of the paths: −1.0 where they are all alike, 0.0 where they share no word.

    Parallel-R1's diversity reward; its factor c is TRL's `reward_weights`. Blocks with two or more paths that
    are not blank count, other faults or not, and the mean is over these blocks (`self_bleu`).

    A response without such a block earns 0.0, which is the most there is: alone, or with a large weight, this
    reward teaches not to open blocks. Pay for blocks beside it.

    Column: `self_bleu`, None where there is no such block.

    >>> same = "<Parallel><Path>6 * 7 = 42</Path><Path>6 * 7 = 42</Path></Parallel><Summary>42</Summary>"
    >>> other = "<Parallel><Path>6 * 7 = 42</Path><Path>add it up</Path></Parallel><Summary>42</Summary>"
    >>> diversity_reward([same, other, "Final Answer: 42"])
    [-1.0, 0.0, 0.0]
    """
    scores = [_over_blocks(trace, self_bleu) for trace in _traces(completions)]
    if log_extra:
        log_extra("self_bleu", scores)
    return [-score if score else 0.0 for score in scores]


def set_diversity_reward(
    completions: Sequence[Completion],
    *,
    log_extra: Callable[[str, list[Any]], None] | None = None,
    **kwargs: Any,
) -> list[float]:
    """How far the paths differ in the words they use, 0.0 (the same) to 1.0 (none shared).

    The Sørensen–Dice distance of the paths' sets of words and symbols (`prl.analysis.diversity`), over the
    same blocks as `diversity_reward`. A response without such a block earns 0.0, so here blocks pay, and
    paths of different nonsense most.

    Column: `set_diversity`, None where there is no such block.

    >>> block = "<Parallel><Path>6 * 7</Path><Path>7 * 6</Path><Path>40 + 2</Path></Parallel>"
    >>> set_diversity_reward([block, "Final Answer: 42"])
    [0.5, 0.0]
    """
    scores = [_over_blocks(trace, diversity) for trace in _traces(completions)]
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
        log_extra: Callable[[str, list[Any]], None] | None = None,
        **kwargs: Any,
    ) -> list[float | None]:
        traces = _traces(completions)
        if self.tag_ids is None or completion_ids is None:
            measured = traces
        else:
            measured = [parse_ids(ids, self.tag_ids) for ids in completion_ids]
        saved = [(trace.length - critical_path(trace)) / max(trace.length, 1) for trace in measured]
        if not self.gated:
            if log_extra:
                log_extra("efficiency", saved)
            return list(saved)
        _, verdicts = _judge(completions, answer, kwargs)
        if log_extra:
            log_extra(
                "gated_efficiency_verdict",
                [f"{verdict.reason}, {share:.3f}" for verdict, share in zip(verdicts, saved, strict=True)],
            )
        return [
            None if not verdict.judges else share if verdict.equal and trace.is_valid else 0.0
            for verdict, trace, share in zip(verdicts, traces, saved, strict=True)
        ]


def reward_functions(
    names: Iterable[str],
    *,
    eos_token_id: int | None = None,
    tag_ids: Sequence[int] | None = None,
    max_completion_length: int | None = None,
    overlong_buffer: int | None = None,
    pattern: Sequence[tuple[str, int]] = ALTERNATING,
) -> dict[str, Reward]:
    """The rewards of these names, in their order, each told what it needs of the run.

    `eos_token_id` is for `format`, `tag_ids` for `efficiency`, `pattern` for `alternating`. `overlong` is
    TRL's `get_soft_overlong_punishment` (DAPO, arXiv 2503.14476, eq. 13): 0.0 up to `overlong_buffer` tokens
    before `max_completion_length`, from there down to −1.0 at the limit; the buffer is a fifth of the limit
    unless given, as in DAPO (4,096 of 20,480). UsageError for names that are unknown and for `overlong`
    without a limit.

    >>> [reward.__name__ for reward in reward_functions(["tiered", "format"]).values()]
    ['tiered_reward', 'format_reward']
    """
    names = list(names)
    if faults := [_unknown(name) for name in names if name not in REWARDS]:
        raise UsageError("; ".join(faults))

    def build(name: str) -> Reward:
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
            case "alternating":
                parts = {part: build(part) for part, _ in pattern if part in REWARDS and part != name}
                return AlternatingReward(pattern, parts)
            case "diversity":
                return diversity_reward
            case "set_diversity":
                return set_diversity_reward
            case "overlong":
                return _overlong_reward(max_completion_length, overlong_buffer)
            case _:
                return EfficiencyReward(tag_ids, gated=name == "gated_efficiency")

    return {name: build(name) for name in names}


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


def _judge(
    completions: Sequence[Completion], answer: Sequence[object] | None, columns: dict[str, Any]
) -> tuple[list[str | None], list[Verdict]]:
    """Extracted answers and verdicts; the checker's cache makes a second reward on the same batch free."""
    if answer is None:
        given = ", ".join(sorted(columns.keys() - _NOT_COLUMNS)) or "none"
        raise DataError(f"no column 'answer' among the columns given ({given}); name the gold answers so")
    judged = default_checker().check_responses(map(text_of, completions), answer)
    return [stated for stated, _ in judged], [verdict for _, verdict in judged]


def _judge_traces(
    completions: Sequence[Completion], answer: Sequence[object] | None, columns: dict[str, Any]
) -> tuple[list[Verdict], list[Trace]]:
    return _judge(completions, answer, columns)[1], _traces(completions)


def _with_block(verdicts: list[Verdict], traces: list[Trace]) -> list[str]:
    found = {True: "valid block", False: "no valid block"}
    return [
        f"{verdict.reason}, {found[trace.uses_parallel]}"
        for verdict, trace in zip(verdicts, traces, strict=True)
    ]


def _log_parallel_ratio(traces: list[Trace], log_metric: Callable[[str, float], None] | None) -> None:
    if log_metric and traces:
        log_metric("parallel_ratio", sum(trace.uses_parallel for trace in traces) / len(traces))


def _traces(completions: Sequence[Completion], truncated: Sequence[bool] | None = None) -> list[Trace]:
    cut_off = [False] * len(completions) if truncated is None else truncated
    return [parse(text_of(each), truncated=cut) for each, cut in zip(completions, cut_off, strict=True)]


def text_of(completion: Completion) -> str:
    """What a completion says, be it a text or the messages of a conversation."""
    """A conversational completion is what the assistant said in it."""
    if isinstance(completion, str):
        return completion
    return "".join(
        message.get("content") or ""
        for message in completion
        if message.get("role", "assistant") == "assistant"
    )


def _signed(verdict: Verdict, deserved: bool) -> float | None:
    if not verdict.judges:
        return None
    return 1.0 if deserved else -1.0


def _over_blocks(trace: Trace, measure: Callable[[list[list[str]]], float | None]) -> float | None:
    """The mean of a measure of token sequences over the blocks for which it is not None."""
    scores = [measure([words(path.text) for path in block.paths]) for block in trace.blocks]
    measured = [score for score in scores if score is not None]
    return fmean(measured) if measured else None


def _overlong_reward(limit: int | None, buffer: int | None) -> Reward:
    if limit is None:
        raise UsageError("reward overlong needs a limit; give max_completion_length")
    from trl.rewards import get_soft_overlong_punishment  # imports torch

    reward = get_soft_overlong_punishment(limit, limit // 5 if buffer is None else buffer)
    reward.__name__ = "overlong_reward"
    return reward


def _pattern_faults(pattern: Sequence[tuple[str, int]]) -> list[str]:
    faults = [] if pattern else ["no rewards to alternate; write each with its steps, as in accuracy:8"]
    for name, count in pattern:
        if name == "alternating":
            faults.append("alternating cannot alternate with itself; name another reward")
        elif name not in REWARDS:
            faults.append(_unknown(name))
        if count < 1:
            faults.append(f"{count} steps of {name}; give 1 or more")
    return faults


def _unknown(name: str) -> str:
    hint = nearest(name, REWARDS) or f"; one of {', '.join(REWARDS)}"
    return f"{name!r} is no reward{hint}"
