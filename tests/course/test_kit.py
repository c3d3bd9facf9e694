"""The kit: what is in it, for whom, and that nbgrader and the grader find its exercises."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path

import pytest
from handed_in import BY_NAME

from prl import cli
from prl.course import kit
from prl.course.exercises import EXERCISES, MARK, variant
from prl.course.submissions import exercise_of, read
from prl.errors import RunError


@pytest.fixture
def lessons(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Notebooks with a cell for each exercise, one of them known by its metadata alone."""
    folder = tmp_path / "lessons"
    folder.mkdir()
    for exercise in EXERCISES:
        source = "x = 1" if exercise.name == "majority" else exercise.cell()
        known = (
            {"nbgrader": {"grade_id": exercise.name}} if exercise.name == "majority" else {"tags": ["mine"]}
        )
        cell = {"cell_type": "code", "metadata": known, "source": source.splitlines(keepends=True)}
        cell |= {"outputs": [{"output_type": "stream"}], "execution_count": 3}
        text = {"cell_type": "markdown", "metadata": {}, "source": [f"{MARK}{exercise.name}"]}
        (folder / f"{exercise.name}.ipynb").write_text(
            json.dumps({"cells": [text, cell], "metadata": {}, "nbformat": 4, "nbformat_minor": 5})
        )
    monkeypatch.setattr(kit, "_notebooks", lambda: folder)
    return folder


def test_the_kit_of_the_package_holds_all_a_course_needs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["course", "new", str(tmp_path / "course")]) == 0
    told = capsys.readouterr().out.split()
    held = {path.relative_to(tmp_path / "course").as_posix() for path in map(Path, told)}
    assert {"README.md", "exercises.py", "instructor/notes.md", "instructor/slides.md"} <= held
    assert {f"instructor/solutions/{exercise.name}.py" for exercise in EXERCISES} <= held
    assert any(name.startswith("notebooks/") and name.endswith(".ipynb") for name in held)
    assert {path for path in (tmp_path / "course").rglob("*") if path.is_file()} == {*map(Path, told)}
    slides = (tmp_path / "course" / "instructor" / "slides.md").read_text(encoding="utf-8")
    shown = re.findall(r"!\[[^]]+\]\(([^)]+)\)", slides)
    assert sorted(shown) == sorted(f"figures/{name}.png" for name in kit.PICTURES)
    pictures = [(tmp_path / "course" / "instructor" / name).read_bytes() for name in shown]
    assert all(picture.startswith(b"\x89PNG") for picture in pictures)
    assert len({*pictures}) == len(pictures)


def test_the_notebooks_exercise_cells_are_the_starters() -> None:
    notebooks = sorted(kit._notebooks().glob("*.ipynb"))
    assert notebooks
    for path in notebooks:
        for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
            source = "".join(cell["source"])
            if cell["cell_type"] == "code" and source.startswith(MARK):
                name = exercise_of(source, {})
                assert name, f"{path.name}: no exercise is called so: {source.splitlines()[0]}"
                assert BY_NAME[name].notebook == path.stem
                assert source.strip() == BY_NAME[name].cell().strip(), f"{path.name}: {name} has changed"


def test_students_get_no_solutions(tmp_path: Path) -> None:
    for words in (["--student"], ["--student", "ada"]):
        folder = tmp_path / f"kit{len(words)}"
        assert cli.main(["course", "new", str(folder), *words]) == 0
        assert not (folder / "instructor").exists()
        text = "".join(path.read_text(encoding="utf-8") for path in folder.rglob("*.*"))
        assert "is_tiered = step %" not in text


def test_a_name_gives_numbers_of_its_own(tmp_path: Path, lessons: Path) -> None:
    kit.new(tmp_path / "ada", student="ada")
    numbers = variant("ada")
    for name in ("exercises.py", "notebooks/alternating.ipynb"):
        text = (tmp_path / "ada" / name).read_text(encoding="utf-8")
        assert f"the last {numbers.tiered_steps} by tiers: {numbers.bonus}" in text


def test_cells_that_check_say_the_name(tmp_path: Path) -> None:
    kit.new(tmp_path / "ada", student=' Ada "A" \\1')
    calls = []
    for path in (tmp_path / "ada" / "notebooks").glob("*.ipynb"):
        for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
            source = "".join(cell["source"])
            if cell["cell_type"] == "code" and not source.startswith(MARK):
                calls += [
                    (node.func.id, [ast.unparse(argument) for argument in node.args])
                    for node in ast.walk(ast.parse(re.sub("(?m)^[%!].*", "", source)))
                    if isinstance(node, ast.Call)
                    and isinstance(node.func, ast.Name)
                    and node.func.id in ("check", "measure")
                ]
    name = repr('ada "a" \\1')
    assert {tuple(arguments) for _, arguments in calls} == {
        (exercise.name if exercise.compare != "settings" else "SETTINGS", name) for exercise in EXERCISES
    }


def test_neither_case_nor_space_of_a_name_counts() -> None:
    for exercise in EXERCISES:
        assert exercise.cell(" Ada") == exercise.cell("ada")
    assert variant("ADA ") == variant("ada") != variant("bob")


def test_a_folder_that_is_not_empty_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    assert cli.main(["course", "new", str(tmp_path)]) == 2
    assert capsys.readouterr().err == f"prl course: {tmp_path} exists and is not empty; name a new folder\n"
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(RunError, match=r"cannot be written: Not a directory. Choose another DIR"):
        kit.new(tmp_path / "file" / "course")


def test_exercise_cells_carry_what_nbgrader_documents(tmp_path: Path, lessons: Path) -> None:
    """The metadata format of nbgrader, schema version 3: contributor guide, "Metadata format"."""
    kit.new(tmp_path / "kit", student="")
    found = set()
    for path in (tmp_path / "kit" / "notebooks").glob("*.ipynb"):
        text, cell = json.loads(path.read_text(encoding="utf-8"))["cells"]
        assert "nbgrader" not in text["metadata"]
        told = cell["metadata"]["nbgrader"]
        assert set(told) == {"schema_version", "grade", "solution", "locked", "task", "points", "grade_id"}
        assert told["schema_version"] == 3
        # A cell that is graded and written in: "manually graded answer".
        assert (told["grade"], told["solution"], told["locked"], told["task"]) == (True, True, False, False)
        assert re.fullmatch(r"[\w-]+", told["grade_id"])
        assert told["points"] == BY_NAME[told["grade_id"]].points
        assert (cell["outputs"], cell["execution_count"]) == ([], None)
        assert "".join(cell["source"]) == BY_NAME[told["grade_id"]].cell().rstrip()
        found.add(told["grade_id"])
    assert found == set(BY_NAME)


def test_what_the_kit_wrote_can_be_handed_in(tmp_path: Path, lessons: Path) -> None:
    kit.new(tmp_path / "class" / "ada" / "homework-1", student="")
    (submission,) = read(tmp_path / "class")
    assert {name: cell.strip() for name, cell in submission.cells.items()} == {
        exercise.name: exercise.cell().strip() for exercise in EXERCISES
    }
    assert submission.remarks == []


def test_a_package_without_its_notebooks_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kit, "__file__", str(tmp_path / "a" / "b" / "c" / "d" / "kit.py"))
    with pytest.raises(RunError, match="was installed without its notebooks"):
        kit.new(tmp_path / "kit", student="")


def test_notes_name_the_points_there_are() -> None:
    notes = kit._read("notes.md")
    for exercise in EXERCISES:
        assert f"| {exercise.name} | {exercise.points} |" in notes
    assert f"{sum(exercise.points for exercise in EXERCISES)} points:" in notes
