"""What students hand in: notebooks and Python files, of which only the exercises' cells count, as text."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from prl.course.exercises import EXERCISES, MARK, Exercise, folded
from prl.course.quoting import code
from prl.errors import DataError
from prl.report.lanes import one_line

LARGEST = 20_000_000  # bytes of a file
MOST_FILES = 200  # of a student
OURS = ("feedback", "instructor")
"""Folders beside the submissions that are nobody's."""

_MARK = re.compile(rf"{re.escape(MARK)}(\w+)")
_CELL = re.compile(rf"^(?=# %%|# In\[|{re.escape(MARK)})", re.MULTILINE)  # the second is nbconvert's


@dataclass
class Submission:
    """A student's cells by exercise, remarks (Markdown) on what could not be read or was there twice, and the
    exercises of which another version than the one here was filled in too."""

    student: str
    cells: dict[str, str] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)
    several: set[str] = field(default_factory=set)


def read(folder: Path, students: Sequence[str] = ()) -> list[Submission]:
    """Every submission in a folder, or those of `students`: a folder each (also nbgrader's
    STUDENT/ASSIGNMENT/), or a file each. Raises DataError where there is none."""
    if not folder.is_dir():
        raise DataError(f"{folder} is no folder; give the one that holds a folder or a file for each student")
    files: dict[str, list[Path]] = {}
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or path.is_symlink() or (path.is_dir() and path.name in OURS):
            continue
        held = [*_files(path)]
        if held:
            name = path.name if path.is_dir() else path.stem
            name = name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")  # out of an old archive
            files.setdefault(name, []).extend(held)
    asked = {folded(student) for student in students}
    if missing := [student for student in students if folded(student) not in map(folded, files)]:
        known = one_line(", ".join(files)) or "nobody"
        raise DataError(f"{folder} holds nothing of {', '.join(missing)}; it does of {known}")
    if not files:
        raise DataError(
            f"{folder} holds no submission: neither .ipynb nor .py, in a folder or file a student"
        )
    return [_read(student, held) for student, held in files.items() if not asked or folded(student) in asked]


def _files(path: Path) -> Iterator[Path]:
    """Notebooks and Python files at or under a path; no link is followed."""
    if path.is_dir():
        found = 0
        for each in sorted(path.rglob("*")):
            hidden = any(part.startswith(".") for part in each.relative_to(path).parts)
            if not hidden and not each.is_symlink() and each.is_file() and each.suffix in (".ipynb", ".py"):
                found += 1
                if found > MOST_FILES:
                    return
                yield each
    elif path.is_file() and path.suffix in (".ipynb", ".py"):
        yield path


def _read(student: str, paths: Sequence[Path]) -> Submission:
    submission = Submission(student)
    versions: dict[str, list[tuple[str, str]]] = {}  # of each exercise, with the file's name
    for path in paths:
        try:
            if path.stat().st_size > LARGEST:
                raise ValueError(f"larger than {LARGEST // 1_000_000} MB")
            text = path.read_text(encoding="utf-8")
            cells = [*(_of_notebook(text) if path.suffix == ".ipynb" else _of_python(text))]
        except (OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
            submission.remarks.append(f"{code(path.name)} cannot be read: {type(error).__name__}")
            continue
        for name, source in cells:
            versions.setdefault(name, []).append((path.name, source))
    for exercise in EXERCISES:
        if exercise.name in versions:
            _choose(submission, exercise, versions[exercise.name])
    return submission


def _choose(submission: Submission, exercise: Exercise, versions: list[tuple[str, str]]) -> None:
    """Take the last version that was filled in; the last of all where none was."""
    filled = [each for each in versions if not exercise.is_starter(each[1])]
    file, submission.cells[exercise.name] = (filled or versions)[-1]
    if len({source.strip() for _, source in filled}) > 1:
        submission.several.add(exercise.name)
        files = ", ".join(code(name) for name in dict.fromkeys(name for name, _ in filled))
        submission.remarks.append(
            f"{exercise.name} is filled in more than once, and differently ({files}); the last, in "
            f"{code(file)}, is graded"
        )


def _of_notebook(text: str) -> Iterator[tuple[str, str]]:
    for cell in json.loads(text)["cells"]:
        if cell.get("cell_type") != "code":
            continue
        source = cell["source"] if isinstance(cell["source"], str) else "".join(cell["source"])
        if name := exercise_of(source, cell.get("metadata") or {}):
            yield name, source


def _of_python(text: str) -> Iterator[tuple[str, str]]:
    for cell in _CELL.split(text):
        source = "\n".join(line for line in cell.splitlines() if not line.startswith("# %%"))
        if name := exercise_of(source, {}):
            yield name, source


def exercise_of(source: str, metadata: dict[str, object]) -> str | None:
    """Which exercise a cell is of: by its `grade_id` for nbgrader, or by the comment that it begins with."""
    known = {exercise.name for exercise in EXERCISES}
    said = metadata.get("nbgrader")
    identity = said.get("grade_id") if isinstance(said, dict) else None
    if isinstance(identity, str) and identity in known:
        return identity
    marked = _MARK.match(source.lstrip())
    return marked.group(1) if marked and marked.group(1) in known else None
