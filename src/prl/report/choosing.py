"""Which responses of a run or a file are shown, and in which order.

    rows = numbered(runs.read_samples(run).to_pylist())
    chosen = choose(rows, Choice(step="last", right=False))

A row is what `runs.read_samples` gives, or less: what a column that is not there would decide, nobody knows.
Its `opening`, of `prl.grammar.OPENINGS`, is what its paths begin with, "none" where it has no such field.
Pure: nothing is read, and the verifier is asked only about rows that nobody has judged.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from prl.analysis import Dissent, correct_of, dissent
from prl.answers import default_checker
from prl.grammar import PARALLEL, Trace, parse

Row = dict[str, Any]

OF_RUNS, OF_STEPS = "the latest run first", "the latest step first"
"""How chosen rows stand; each step as it was sampled, those of a file as they stand in it."""


@dataclass(frozen=True)
class Choice:
    """What a row has to be; a field that is empty or None asks for nothing.

    rows       its number, from 1; the rows come in this order
    step       a number, or "first" or "last" of its run
    group      the group of its problem, from 0
    problem    words that its problem holds, whatever their case
    right      True: right; False: wrong; a row that cannot be judged is neither
    valid      True: without a fault; False: with one
    disagree   whether a path is at odds with the answer (`prl.analysis.dissent`)
    """

    rows: Sequence[int] = ()
    step: str | int | None = None
    group: int | None = None
    problem: str | None = None
    right: bool | None = None
    valid: bool | None = None
    disagree: bool = False

    @property
    def judges(self) -> bool:
        """Whether it asks what is right."""
        return self.right is not None or self.disagree


def numbered(rows: Iterable[Mapping[str, Any]], run: str | None = None, opening: str = "none") -> list[Row]:
    """The rows of one run, each with its number from 1 (`row`), its `group`, and its place among the samples
    of that (`sample`, from 1, of `samples`); with the name of the `run`, where several are shown, and its
    `opening`.

    A group is what was sampled to one problem at one step. Where no column says which, they are counted from
    0 in each step and mode, as rows with one problem stand together.
    """
    found: list[Row] = []
    members: list[Row] = []
    counted: dict[Any, int] = {}
    last: Any = None
    for number, row in enumerate(rows, 1):
        where = (row.get("step"), row.get("mode"))
        told = _whole(row.get("group"))
        key = (*where, row.get("problem") if told is None else told)
        if not members or key != last:
            _place(members)
            members, last = [], key
            counted[where] = counted.get(where, -1) + 1
        group = counted[where] if told is None else told
        members.append({**row, "row": number, "run": run, "opening": opening, "group": group})
        found.append(members[-1])
    _place(members)
    return found


def choose(rows: Sequence[Row], choice: Choice) -> list[Row]:
    """The rows that are as `choice` wants them, in the order to be shown: that of `choice.rows`,
    or else `in_order`.

    Rows that nobody has judged are judged where the choice asks what is right. Raises VerifierError.
    """
    found = list(rows)
    if choice.rows:
        wanted = {number: place for place, number in reversed([*enumerate(choice.rows)])}
        found = sorted((row for row in found if row["row"] in wanted), key=lambda row: wanted[row["row"]])
    if choice.step is not None:
        steps = _steps(rows, choice.step)
        found = [row for row in found if row.get("step") is not None and row["step"] == steps[row["run"]]]
    if choice.group is not None:
        found = [row for row in found if row["group"] == choice.group]
    if choice.problem is not None:
        held = choice.problem.casefold()
        found = [row for row in found if held in str(row.get("problem") or "").casefold()]
    if choice.valid is not None:
        found = [row for row in found if is_valid(row) is choice.valid]
    if choice.judges:
        judge(found)
    if choice.right is not None:
        found = [row for row in found if correct_of(row) is choice.right]
    if choice.disagree:
        found = [row for row in found if at_odds(row)]
    return found if choice.rows else in_order(found)


def in_order(rows: Sequence[Row]) -> list[Row]:
    """The latest step of each run first; runs, and the rows of a step, as they stand."""
    runs = {run: place for place, run in enumerate(dict.fromkeys(row["run"] for row in rows))}
    return sorted(rows, key=lambda row: (runs[row["run"]], -(row.get("step") or 0)))


def judge(rows: Iterable[Row]) -> None:
    """Give rows that have a gold answer and no verdict `extracted`, `verdict` and `correct`. Raises
    VerifierError."""
    open_ones = [
        row
        for row in rows
        if row.get("answer") is not None and not row.get("verdict") and row.get("correct") is None
    ]
    judged = default_checker().check_responses(
        [text_of(row) for row in open_ones], [row["answer"] for row in open_ones]
    )
    for row, (extracted, verdict) in zip(open_ones, judged, strict=True):
        correct = float(verdict.equal) if verdict.judges else None
        row |= {"extracted": extracted, "verdict": str(verdict.reason), "correct": correct}


def is_valid(row: Row) -> bool:
    """Whether a response is without a fault, as was found when it was sampled, or else as it is read now."""
    faults = row.get("faults")
    return not faults if faults is not None else trace_of(row).is_valid


def at_odds(row: Row) -> tuple[Dissent, ...]:
    """The paths that are at odds with the answer; none where nobody knows what is right."""
    correct = correct_of(row)
    if correct is None or row.get("answer") is None or PARALLEL not in text_of(row):
        return ()
    return dissent(trace_of(row), str(row["answer"]), correct)


def trace_of(row: Row) -> Trace:
    """The response of a row, read."""
    truncated, opening = bool(row.get("truncated")), row.get("opening", "none")
    return parse(text_of(row), truncated=truncated, opening=opening)


def text_of(row: Row) -> str:
    """What was answered, "" where nothing was."""
    return row.get("text") or ""


def none_matches(name: str, rows: Sequence[Row]) -> str:
    """What to say where no row is as wanted: what there is, by steps, groups, verdicts and faults."""
    steps = [row["step"] for row in rows if row.get("step") is not None]
    groups = [row["group"] for row in rows if row.get("group") is not None]
    verdicts = [correct_of(row) for row in rows]
    valid = sum(is_valid(row) for row in rows)
    parts = [f"{len(rows)} responses"]
    if {*steps} - {0}:
        parts.append(f"steps {min(steps)} to {max(steps)}")
    if groups and steps:
        parts.append(f"groups {min(groups)} to {max(groups)}")
    if any(verdict is not None for verdict in verdicts):
        parts.append(f"{verdicts.count(True)} right, {verdicts.count(False)} wrong")
    parts.append(f"{valid} valid, {len(rows) - valid} faulty")
    return f"nothing of {name} matches: it has {', '.join(parts)}"


def _steps(rows: Sequence[Row], step: str | int) -> dict[str | None, int | None]:
    """The step that is meant, of each run; None where it has none."""
    if step not in ("first", "last"):
        return dict.fromkeys((row["run"] for row in rows), int(step))
    of_runs: dict[str | None, list[int]] = {}
    for row in rows:
        of_runs.setdefault(row["run"], [])
        if row.get("step") is not None:
            of_runs[row["run"]].append(row["step"])
    pick = min if step == "first" else max
    return {run: pick(steps, default=None) for run, steps in of_runs.items()}


def _place(members: Sequence[Row]) -> None:
    """Say of the rows of a group which sample each is."""
    for place, row in enumerate(members, 1):
        row |= {"sample": place, "samples": len(members)}


def _whole(number: Any) -> int | None:
    """A column of whole numbers is stored as one of floats."""
    return int(number) if isinstance(number, int | float) and math.isfinite(number) else None
