"""What grades are told as: a table, `grades.csv`, and a file of feedback for each student.

What a submission said is text in them all, whatever it spells: no markup, no formula, no HTML. In Markdown it
stands in code, which a plain file shows as it is.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

from rich.table import Table
from rich.text import Text

from prl.course.exercises import EXERCISES, Group
from prl.course.grading import Grade, Result
from prl.course.quoting import code, fence, tags_as_code
from prl.report.lanes import one_line

POINTS = sum(exercise.points for exercise in EXERCISES)


def table(grades: Sequence[Grade]) -> Table:
    """A row a student, a column an exercise; a star where another version was handed in too."""
    grid = Table(title=f"{len(grades)} submissions, {POINTS} points", title_justify="left")
    grid.add_column("student", overflow="fold")
    for exercise in EXERCISES:
        name = exercise.name.replace("_", "_\n")
        grid.add_column(f"{name}\n/{exercise.points}", justify="right", no_wrap=True)
    grid.add_column("points", justify="right", no_wrap=True)
    for grade in grades:
        cells = [f"{result.points}{'*' * result.is_one_of_several}" for result in grade.results]
        grid.add_row(Text(one_line(grade.student)), *cells, str(grade.points))
    if any(result.is_one_of_several for grade in grades for result in grade.results):
        grid.caption = "* filled in more than once, and differently: the last is graded"
    return grid


def write(grades: Sequence[Grade], folder: Path) -> None:
    """`grades.csv` and `feedback/STUDENT.md` in the folder; what is there of others stays."""
    file = folder / "grades.csv"
    with file.open("w", encoding="utf-8", newline="") as opened:
        writer = csv.writer(opened)
        writer.writerow(["student", *(exercise.name for exercise in EXERCISES), "points", "of"])
        for grade in grades:
            points = [result.points for result in grade.results]
            writer.writerow([_cell(grade.student), *points, grade.points, POINTS])
    (folder / "feedback").mkdir(exist_ok=True)
    for grade in grades:
        path = folder / "feedback" / f"{grade.student}.md"
        path.write_text(markdown(grade), encoding="utf-8")


def markdown(grade: Grade) -> str:
    """The feedback to one student."""
    lines = [f"# {code(grade.student)}: {grade.points} of {POINTS} points", ""]
    lines += [f"- {remark}" for remark in grade.remarks] + [""] * bool(grade.remarks)
    for result in grade.results:
        lines += _of_exercise(result)
    return "\n".join(lines).rstrip() + "\n"


def _of_exercise(result: Result) -> list[str]:
    exercise = result.exercise
    lines = [f"## {exercise.name}: {result.points} of {exercise.points}", ""]
    if result.lost is None:
        return [*lines, "Not handed in.", ""]
    lines += [f"- {note}" for note in result.notes]
    if result.earned:
        lines.append(f"- Earned: {_groups(result.earned)}")
    for found in result.lost:
        lines.append(f"- Lost: {_groups(found.groups)}: {tags_as_code(found.said)}")
        lines += ["", *fence(found.shown, "  "), ""]
    if result.lost:
        lines += [f"Hint: {tags_as_code(hint)}\n" for hint in exercise.hints]
        if exercise.compare != "settings":
            lines += ["Only the cell of the exercise is run, with the standard library alone."]
    if result.printed:
        lines += ["", "It printed, which counts for nothing:", "", *fence(result.printed)]
    return [*lines, ""]


def _groups(groups: Sequence[Group]) -> str:
    return ", ".join(f"{group.name} ({group.points})" for group in groups)


def _cell(text: str) -> str:
    """A spreadsheet takes what begins so for a formula."""
    return f"'{text}" if text.startswith(("=", "+", "-", "@")) else text
