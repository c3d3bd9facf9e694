"""`prl course grade`: from a folder of submissions to a table, `grades.csv` and feedback beside them."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from pathlib import Path

from prl.console import console, quiet_libraries
from prl.course import feedback, sandbox
from prl.course.grading import CACHE, Grade, grade, measured_once
from prl.course.submissions import read
from prl.errors import RunError
from prl.report.lanes import one_line
from prl.runs.disk import check_writable


def run(folder: Path, students: Sequence[str] = (), *, personal: bool = False, unsafe: bool = False) -> None:
    """Grade what is in a folder, show the table, write grades and feedback there.

    Raises PrlError where nothing can be graded; RunError where submissions cannot be isolated and `unsafe`
    does not say to run them all the same.
    """
    quiet_libraries()
    submissions = read(folder, students)
    if platform.system() == "Windows":  # where a process takes over no pipe but the three
        raise RunError("submissions are graded on Linux, or with --unsafe on macOS; take the folder to one")
    if not unsafe and (reason := sandbox.why_not()):
        raise RunError(
            f"submissions cannot be isolated here ({reason}); grade on a Linux machine with user namespaces, "
            "or with --unsafe what you would run yourself"
        )
    check_writable(folder)

    def tell(done: Grade) -> None:
        console.print(f"{one_line(done.student)}: {done.points} of {feedback.POINTS}", markup=False)

    grades = grade(
        submissions, measured_once(folder / CACHE), personal=personal, isolated=not unsafe, on_done=tell
    )
    feedback.write(grades, folder)
    console.print(feedback.table(grades))
    console.print(f"{folder / 'grades.csv'}, and feedback to each in {folder / 'feedback'}", markup=False)
