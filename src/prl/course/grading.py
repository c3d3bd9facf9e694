"""Grades, from the grader's own process: what submissions are asked, and what each answer is worth.

    grade(submissions, ...)     one `Grade` a student, a `Result` an exercise

An exercise is paid by groups of cases. A group with a wrong answer pays nothing, and the shortest case of
those is told: what the function was given, what it returned, which rule that breaks.
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
from prl.course.cases import Finding, cases, findings
from prl.course.exercises import EXERCISES, OF_ANOTHER, Exercise, Group, variant
from prl.course.homework import Measured
from prl.course.submissions import Submission
from prl.errors import PrlError, UsageError

CACHE = ".measured.json"
"""Beside the submissions: what the grader measured, so that nothing is measured twice."""

CLOSE = 0.01
"""So far below the reference is still as good as it."""

NOT_THE_PAPERS = "the numbers in this cell are a student's own; it was graded with those that all have"

Measure = Callable[[dict[str, Any], str | None], Measured]


@dataclass
class Result:
    """What is wrong with an exercise; `lost` is None where nothing was handed in. `printed` is the first of
    what the submission printed."""

    exercise: Exercise
    lost: list[Finding] | None = None
    notes: list[str] = field(default_factory=list)
    printed: str = ""
    is_one_of_several: bool = False

    @property
    def earned(self) -> list[Group]:
        if self.lost is None:
            return []
        return [each for each in self.exercise.groups if not any(each in found.groups for found in self.lost)]

    @property
    def points(self) -> int:
        return sum(group.points for group in self.earned)


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
        own = submission.student if personal else None
        for exercise in EXERCISES:
            source = submission.cells.get(exercise.name)
            if source is None:
                results.append(Result(exercise))
                continue
            if exercise.compare == "settings":
                result = _settings(exercise, source, own, measure)
            else:
                result = _function(exercise, source, submission.student, personal, isolated)
            result.is_one_of_several = exercise.name in submission.several
            if exercise.is_of_another(source, own):
                result.notes.append(OF_ANOTHER if personal else NOT_THE_PAPERS)
            results.append(result)
        grades.append(Grade(submission.student, results, submission.remarks))
        on_done(grades[-1])
    return grades


def _function(exercise: Exercise, source: str, student: str, personal: bool, isolated: bool) -> Result:
    asked_for = cases(exercise, student, numbers=variant(student if personal else None))
    asked = sandbox.ask(source, exercise.name, [case.arguments for case in asked_for], isolated=isolated)
    answers = [
        (case, answer.value, answer.error) for case, answer in zip(asked_for, asked.answers, strict=True)
    ]
    return Result(exercise, findings(exercise, answers), printed=asked.printed)


def _settings(exercise: Exercise, source: str, student: str | None, measure: Measure) -> Result:
    try:
        settings, claim = homework.read_cell(source)
        if wrong := homework.faults(settings):
            raise UsageError("\n".join(wrong))
        assert isinstance(settings, dict)
        found = measure(settings, student)
    except PrlError as error:
        return Result(exercise, [Finding(exercise.groups, exercise.groups[0].rule, str(error))])
    baseline, reference = measure(homework.BASELINE, student), measure(homework.REFERENCE, student)
    faults = {
        "budget": not found.is_within_budget,
        "beats the baseline": not (found.is_within_budget and found.right > baseline.right),
        "as good as the reference": not (found.is_within_budget and found.right >= reference.right - CLOSE),
        "claim": not homework.is_claim_true(claim, found.right),
    }
    shown = {
        "beats the baseline": f"{found}\nthe base, asked once: {baseline}",
        "claim": f"CLAIM = {str(claim)[:60]}\nthe grader's run: {found.right:.3f}",
    }
    lost = [
        Finding((group,), group.rule, shown.get(group.name, str(found)))
        for group in exercise.groups
        if faults.get(group.name)
    ]
    return Result(exercise, lost, [f"measured: {found}"])


def measured_once(cache: Path) -> Measure:
    """`prl.course.homework.measure`, kept in a file: nothing is run twice by this version of prl and torch on
    this kind of processor. A file that cannot be read is written anew."""

    def measure(settings: dict[str, Any], student: str | None) -> Measured:
        import torch

        made_by = f"prl {__version__}, torch {torch.__version__}, {platform.machine()}"
        key = json.dumps([made_by, variant(student).problems, dict(sorted(settings.items()))])
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
