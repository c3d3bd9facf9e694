"""What grades are told as: a table, `grades.csv`, and a file of feedback for each student.

What a submission said is text in them all, whatever it spells: no markup, no formula, no HTML.
"""

from __future__ import annotations

import csv
import html
import re
from collections.abc import Sequence
from pathlib import Path

from rich.table import Table
from rich.text import Text

from prl.course.exercises import EXERCISES
from prl.course.grading import Grade, Result
from prl.report.lanes import harmless, one_line

POINTS = sum(exercise.points for exercise in EXERCISES)


def table(grades: Sequence[Grade]) -> Table:
    """A row a student, a column an exercise."""
    grid = Table(title=f"{len(grades)} submissions, {POINTS} points", title_justify="left")
    grid.add_column("student", overflow="fold")
    for exercise in EXERCISES:
        grid.add_column(f"{exercise.name} /{exercise.points}", justify="right", overflow="fold")
    grid.add_column("points", justify="right")
    for grade in grades:
        cells = [str(result.points) for result in grade.results]
        grid.add_row(Text(one_line(grade.student)), *cells, str(grade.points))
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
    lines = [f"# {escaped(grade.student)}: {grade.points} of {POINTS} points", ""]
    lines += [f"- {escaped(remark)}" for remark in grade.remarks] + [""] * bool(grade.remarks)
    for result in grade.results:
        lines += _of_exercise(result)
    return "\n".join(lines).rstrip() + "\n"


def _of_exercise(result: Result) -> list[str]:
    exercise = result.exercise
    lines = [f"## {exercise.name}: {result.points} of {exercise.points}"]
    if said := (*result.notes, *result.lost):
        lines += ["", *(f"- {escaped(each)}" for each in said)]
    if result.lost and result.lost != ["not handed in"]:
        lines += ["", *(f"Hint: {escaped(hint)}" for hint in exercise.hints)]
        if exercise.compare != "settings":
            lines += ["", "Only the cell of the exercise is run, with the standard library alone."]
    if result.printed:
        lines += ["", "It printed, which counts for nothing:", ""]
        lines += [f"    {harmless(line)}" for line in result.printed.splitlines()]
    return [*lines, ""]


def escaped(text: str) -> str:
    """A text on one line that Markdown and HTML show as it is."""
    return re.sub(r"([\\`*_{}\[\]()#+!|~$<>-])", r"\\\1", html.escape(one_line(text), quote=False))


def _cell(text: str) -> str:
    """A spreadsheet takes what begins so for a formula."""
    return f"'{text}" if text.startswith(("=", "+", "-", "@")) else text
