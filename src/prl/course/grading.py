"""Grades, from the grader's own process: what submissions are asked, and what each answer is worth.

    grade(submissions, ...)     one `Grade` a student, a `Result` an exercise

An exercise is paid by groups of cases. A group with a wrong answer pays nothing, and the first of those is
told: what the function was given, what it returned, which rule that breaks.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from prl import __version__
from prl.course import homework, sandbox
from prl.course.cases import cases, judge
from prl.course.exercises import BUDGET, EXERCISES, Exercise, Group, variant
from prl.course.homework import Measured
from prl.course.submissions import Submission
from prl.errors import PrlError, UsageError

CACHE = ".measured.json"
"""Beside the submissions: what the grader measured, so that nothing is measured twice."""

CLOSE = 0.01
"""So far below the reference is still as good as it."""

Measure = Callable[[dict[str, Any], str | None], Measured]


@dataclass
class Result:
    """An exercise's points and why not more; `printed` is the first of what the submission printed."""

    exercise: Exercise
    points: int = 0
    lost: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    printed: str = ""


@dataclass
class Grade:
    student: str
    results: list[Result]
    remarks: list[str]

    @property
    def points(self) -> int:
        return sum(result.points for result in self.results)


def grade(
    submissions: Iterable[Submission],
    measure: Measure,
    *,
    personal: bool = False,
    isolated: bool = True,
    on_done: Callable[[Grade], None] = lambda done: None,
) -> list[Grade]:
    """Grade submissions. `measure` runs settings (`measured_once`); `personal`: with each student's own
    numbers, as `prl course new --student NAME` wrote them; `isolated`: `prl.course.sandbox.ask`."""
    grades = []
    for submission in submissions:
        results = []
        for exercise in EXERCISES:
            source = submission.cells.get(exercise.name)
            if source is None:
                results.append(Result(exercise, lost=["not handed in"]))
            elif exercise.compare == "settings":
                results.append(_settings(exercise, source, submission.student if personal else None, measure))
            else:
                results.append(_function(exercise, source, submission.student, personal, isolated))
        grades.append(Grade(submission.student, results, submission.remarks))
        on_done(grades[-1])
    return grades


def _function(exercise: Exercise, source: str, student: str, personal: bool, isolated: bool) -> Result:
    asked_for = cases(exercise, student, numbers=variant(student if personal else None))
    asked = sandbox.ask(source, exercise.name, [case.arguments for case in asked_for], isolated=isolated)
    result = Result(exercise, printed=asked.printed)
    pairs = [*zip(asked_for, asked.answers, strict=True)]
    for group in exercise.groups:
        wrong = [
            said
            for case, answer in pairs
            if case.group is group and (said := judge(exercise, case, answer.value, answer.error))
        ]
        of = sum(case.group is group for case in asked_for)
        _pay(result, group, f"{len(wrong)} of {of} wrong: {wrong[0]}" if wrong else None)
    return result


def _settings(exercise: Exercise, source: str, student: str | None, measure: Measure) -> Result:
    result = Result(exercise)
    groups = {group.name: group for group in exercise.groups}
    try:
        settings, claim = homework.read_cell(source)
        if wrong := homework.faults(settings):
            raise UsageError("; ".join(wrong))
        assert isinstance(settings, dict)
        found = measure(settings, student)
    except PrlError as error:
        for group in exercise.groups:
            _pay(result, group, str(error))
        return result
    baseline, reference = measure(homework.BASELINE, student), measure(homework.REFERENCE, student)
    result.notes.append(f"measured: {found.right:.3f} right, {found.tokens:.0f} tokens a problem")
    over = None if found.is_within_budget else f"{found.tokens:.1f} tokens a problem, {BUDGET} are allowed"
    _pay(result, groups["settings"], None)
    _pay(result, groups["budget"], over)
    beaten = found.right > baseline.right
    _pay(
        result,
        groups["beats the baseline"],
        over or (None if beaten else f"{found.right:.3f} right, the base asked once {baseline.right:.3f}"),
    )
    as_good = found.right >= reference.right - CLOSE
    _pay(
        result, groups["as good as the reference"], over or (None if as_good else f"{found.right:.3f} right")
    )
    true = homework.is_claim_true(claim, found.right)
    _pay(result, groups["claim"], None if true else f"CLAIM is {claim}, the run found {found.right:.3f}")
    return result


def _pay(result: Result, group: Group, fault: str | None) -> None:
    if fault is None:
        result.points += group.points
    else:
        rule = "" if group.rule in fault else f" ({group.rule})"
        result.lost.append(f"{group.name}, {group.points} of {result.exercise.points} points: {fault}{rule}")


def measured_once(cache: Path) -> Measure:
    """`prl.course.homework.measure`, kept in a file: nothing is run twice by this version of prl and torch on
    this kind of processor. A file that cannot be read is written anew."""

    def measure(settings: dict[str, Any], student: str | None) -> Measured:
        import torch

        made_by = f"prl {__version__}, torch {torch.__version__}, {platform.machine()}"
        problems = homework.problems_of(student)
        key = json.dumps([made_by, problems[0], dict(sorted(settings.items()))])
        held = _held(cache)
        if key not in held:
            held[key] = asdict(homework.measure(settings, student))
            new = cache.with_name(f"{cache.name}.new")
            new.write_text(json.dumps(held, indent=1), encoding="utf-8")
            new.replace(cache)
        return Measured(**held[key])

    return measure


def _held(cache: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(cache.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return {}
