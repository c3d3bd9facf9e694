"""Responses become samples, judged, and samples figures."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Any

from prl import runs
from prl.analysis import describe
from prl.analysis.budgets import NOT_ASKED, votes
from prl.analysis.metrics import levels, metrics, verdicts, voters
from prl.answers import default_checker, unreadable_gold
from prl.decoding import Response
from prl.errors import DataError
from prl.grammar import parse
from prl.prompts import transcript
from prl.settings.arguments import EvalArguments
from prl.statistics import Estimate, median

_LISTED = 3  # unreadable golds in a message

Sample = dict[str, Any]
"""A row for samples.parquet: that of `runs.sample_row`, with `index` (the place of the problem among all that
are evaluated, from 0), `sample` (which of its responses, from 0; none where it was not asked) and, where it
was timed, `seconds`, `cpu_seconds` and `seconds_together` (`prl.evaluation.asking`)."""


@dataclass(frozen=True)
class Measured:
    """One decoding mode. `samples` are in order of the problems; `scores` is the share of right samples of
    each problem; `votes` maps each k of maj@k to what so many votes are right in and take, `levels` each
    level to its figures. Of the problems that were asked, `described` is `prl.analysis.describe`, `verdicts`
    maps each reason of a verdict to how many have it; `timing` is the median of the seconds of a problem,
    where they were taken."""

    samples: list[Sample]
    metrics: dict[str, Estimate]
    scores: list[float]
    described: dict[str, float | None]
    votes: dict[str, dict[str, float]]
    levels: dict[str, dict[str, Any]]
    verdicts: dict[str, int]
    timing: Estimate | None = None


def measure(
    mode: str,
    rows: Sequence[dict[str, Any]],
    groups: Sequence[Sequence[Sample]],
    arguments: EvalArguments,
    timed: Collection[int] = (),
) -> Measured:
    """Count one mode. `groups` are the samples of each of `rows`, as many for each; a problem without any was
    not asked: it is not solved, and in nothing but the accuracy. `timed` are the problems that were."""
    opening = arguments.path_opening
    known = [sample for group in groups for sample in group]
    drawing = {"resamples": arguments.bootstrap, "seed": arguments.seed}
    asked = max(map(len, groups))
    seconds = [fmean(each["seconds"] for each in groups[i]) for i in sorted(timed) if groups[i]]
    samples = [
        sample
        for index, group in enumerate(groups)
        for sample in group or [_not_asked(mode, index, rows[index], timed=index in timed)]
    ]
    return Measured(
        samples=samples,
        metrics=metrics(groups, opening, **drawing),
        scores=[fmean(bool(each["correct"]) for each in group) if group else 0.0 for group in groups],
        described=describe(known, opening),
        votes={str(k): asdict(votes(samples, k)) for k in voters(asked)},
        levels=levels(samples, **drawing),
        verdicts=verdicts(known),
        timing=median(seconds) if seconds else None,
    )


def judge(
    rows: Sequence[dict[str, Any]], answers: Sequence[Sequence[Response]]
) -> list[list[tuple[str | None, Any]]]:
    """For each response, the answer found in it and the checker's verdict against the row's `answer`."""
    golds = [row["answer"] for row, group in zip(rows, answers, strict=True) for _ in group]
    judged = iter(
        default_checker().check_responses((each.text for group in answers for each in group), golds)
    )
    return [[next(judged) for _ in group] for group in answers]


def sample_of(
    row: dict[str, Any],
    response: Response,
    judged: tuple[str | None, Any] | None,
    opening: str,
    **more: Any,
) -> Sample:
    """What is kept of a `response` to the problem of `row`, with `more` columns."""
    return runs.sample_row(
        transcript(row["problem"], row.get("history")),
        row["answer"],
        parse(response.text, truncated=response.truncated, opening=opening),
        response.token_ids,
        truncated=response.truncated,
        judged=judged,
        level=row.get("level"),
        critical_path=response.critical_path,
        **more,
    )


def _not_asked(mode: str, index: int, row: dict[str, Any], *, timed: bool) -> Sample:
    """The sample of a problem that leaves a response no room: it stays in every list of problems."""
    none = Response([], "", True, [], [], [], 0)
    told = {"extracted": None, "verdict": NOT_ASKED, "correct": 0.0}
    took = {"seconds": 0.0, "cpu_seconds": 0.0} if timed else {}
    return sample_of(row, none, None, "none", mode=mode, index=index, sample=None) | told | took


def graded(
    rows: Sequence[dict[str, Any]], dataset: str
) -> tuple[list[dict[str, Any]], list[tuple[str, str]]]:
    """The rows whose gold answer the grader can read, which metrics are over; of the others the answer, and
    why not. DataError where none can be read."""
    faults = [unreadable_gold(row["answer"]) for row in rows]
    readable = [row for row, why in zip(rows, faults, strict=True) if why is None]
    others = [(str(row["answer"]), why) for row, why in zip(rows, faults, strict=True) if why is not None]
    if others and not readable:
        raise DataError(
            f"{dataset}: {ungraded_told(others, len(rows))}; correct them, none is left to evaluate on"
        )
    return readable, others


def ungraded_told(ungraded: Sequence[tuple[str, str]], of: int) -> str:
    """How many gold answers cannot be read, of how many, and some of them with why."""
    shown = "; ".join(f"{answer[:40]!r} ({why})" for answer, why in ungraded[:_LISTED])
    more = f" and {len(ungraded) - _LISTED} more" if len(ungraded) > _LISTED else ""
    count = f"{len(ungraded)} of {of} gold answers"
    return f"{count} cannot be read and count as neither right nor wrong: {shown}{more}"
