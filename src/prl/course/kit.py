"""The kit that a course is held with, copied out of the installed package: `prl course new DIR`.

notebooks/          the lessons; exercise cells carry nbgrader's metadata
exercises.py        the same exercises as cells of one file
instructor/         notes for two sessions, slides with their pictures, solutions; not with `student`
"""

from __future__ import annotations

import base64
import json
from importlib import resources
from pathlib import Path
from typing import Any

from prl.course.exercises import EXERCISES, Exercise, with_name
from prl.course.solutions import solution
from prl.course.submissions import exercise_of
from prl.errors import RunError, UsageError
from prl.runs.disk import writing

HAND_IN = """\
# Exercises of the course, a cell each. Hand in this file or the notebooks, whichever you filled in. Of a cell
# that is a function only the cell itself is run: what it needs stands in it. `prl.course.check(positions)`
# tells where yours goes wrong.
"""

PICTURES = {
    "mask": ("01_parallel_thought", "draw_masks("),
    "positions": ("01_parallel_thought", "draw_positions("),
    "cold-start": ("02_cold_start", "plot_run("),
    "rl": ("03_reinforcement_learning", "plot_evaluations("),
    "brevity": ("04_rewards_go_wrong", "plot_run("),
    "frontiers": ("05_when_does_it_pay", "plot_frontiers("),
}
"""What the slides show -> the lesson that keeps it, and the call that drew it there."""


def new(folder: Path, *, student: str | None = None) -> list[Path]:
    """Write the kit and return its files. For a `student` it leaves out what is the instructor's, and is in
    that student's numbers where the name is not empty. UsageError for a folder that is not empty, RunError
    where no notebooks are, or the folder cannot be written."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"{folder} exists and is not empty; name a new folder")
    files: dict[str, str | bytes] = {"README.md": _read("student.md")}
    for notebook in sorted(_notebooks().glob("*.ipynb")):
        files[f"notebooks/{notebook.name}"] = _with_exercises(notebook.read_text(encoding="utf-8"), student)
    files["exercises.py"] = with_name(HAND_IN, student) + _cells([each.cell(student) for each in EXERCISES])
    if student is None:
        files |= {f"instructor/{name}": _read(name) for name in ("notes.md", "slides.md")}
        files |= {f"instructor/figures/{name}.png": _picture(*of) for name, of in PICTURES.items()}
        files |= {f"instructor/solutions/{each.name}.py": solution(each) for each in EXERCISES}
    written = []
    with writing(folder, "DIR"):
        for name, content in files.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content if isinstance(content, bytes) else content.encode())
            written.append(path)
    return written


def nbgrader_metadata(exercise: Exercise) -> dict[str, Any]:
    """What nbgrader, schema 3, calls a manually graded answer: a cell to write in that has points."""
    return {
        "schema_version": 3,
        "grade": True,
        "solution": True,
        "locked": False,
        "task": False,
        "points": exercise.points,
        "grade_id": exercise.name,
    }


def _with_exercises(text: str, student: str | None) -> str:
    """A notebook, its exercise cells as they start, with metadata and without output; what checks or measures
    them is asked with the student's name."""
    notebook, known = json.loads(text), {exercise.name: exercise for exercise in EXERCISES}
    for cell in notebook["cells"]:
        source = "".join(cell["source"])
        name = exercise_of(source, cell["metadata"]) if cell["cell_type"] == "code" else None
        if name:
            cell["source"] = known[name].cell(student).rstrip().splitlines(keepends=True)
            cell["metadata"] = {**cell["metadata"], "nbgrader": nbgrader_metadata(known[name])}
            cell |= {"outputs": [], "execution_count": None}
        elif student and cell["cell_type"] == "code":
            cell["source"] = with_name(source, student).splitlines(keepends=True)
    return json.dumps(notebook, indent=1, ensure_ascii=False) + "\n"


def _cells(cells: list[str]) -> str:
    return "".join(f"\n# %%\n{cell}" for cell in cells)


def _picture(notebook: str, call: str) -> bytes:
    """The PNG that a lesson keeps of the first cell with this call."""
    lesson = json.loads((_notebooks() / f"{notebook}.ipynb").read_text(encoding="utf-8"))
    outputs = next(cell["outputs"] for cell in lesson["cells"] if call in "".join(cell["source"]))
    return next(base64.b64decode(each["data"]["image/png"]) for each in outputs if "data" in each)


def _notebooks() -> Path:
    """The lessons in the installed package; in a checkout they lie at its top."""
    here = Path(__file__).parent / "notebooks"
    for folder in (here, Path(__file__).parents[3] / "notebooks"):
        if folder.is_dir():
            return folder
    raise RunError(f"{here} is not there: this prl was installed without its notebooks; install it again")


def _read(name: str) -> str:
    return resources.files("prl.course").joinpath("material", name).read_text(encoding="utf-8")
