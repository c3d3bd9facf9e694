"""The house stands as README.md draws it: few rooms, small files and functions, imports that only go down.

A room is an entry of src/prl. FLOORS lists them from the ground up; a room imports those on lower floors
only, also inside functions, so that what is pure stays so.
"""

from __future__ import annotations

import ast
import importlib
import re
import zipfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from hatchling.builders.wheel import WheelBuilder

PACKAGE = Path(__file__).parents[1] / "src" / "prl"
NO_ROOMS = {"__init__", "__main__", "py", "__pycache__"}

FLOORS = (
    "errors grammar statistics",
    "prompts turns",
    "answers recipes runs",
    "analysis console structure",
    "data decoding rewards",
    "curriculum report tiny",
    "settings",
    "machine",
    "model",
    "config",
    "trainer",
    "doctor evaluation rl sft",
    "study traces",
    "course",
    "cli harness",
)

PURE = ("analysis", "answers", "curriculum", "errors", "grammar", "prompts", "rewards", "statistics", "turns")
"""Rooms that know neither torch nor a trainer nor settings."""

HEAVY = {"torch", "transformers", "trl", "peft", "accelerate", "datasets"}
KNOW_TRL = {"settings", "trainer"}

MOST_ROOMS, MOST_LINES, MOST_LINES_OF_A_FUNCTION = 32, 450, 70


def rooms() -> set[str]:
    return {path.stem for path in PACKAGE.iterdir()} - NO_ROOMS


@cache
def trees() -> dict[str, ast.Module]:
    """Module -> its syntax tree."""
    return {
        ".".join(["prl", *path.relative_to(PACKAGE).with_suffix("").parts]).removesuffix(
            ".__init__"
        ): ast.parse(path.read_text(encoding="utf-8"))
        for path in sorted(PACKAGE.rglob("*.py"))
    }


def imports(module: str) -> Iterator[tuple[str, int]]:
    """What a module imports, wherever in it, and at which line: modules of prl in full, others by their
    first name."""
    for node in ast.walk(trees()[module]):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: a relative import"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        for name in names:
            if name.split(".")[0] != "prl":
                yield name.split(".")[0], node.lineno
            else:
                yield name if name in trees() else name.rpartition(".")[0], node.lineno


def room_of(module: str) -> str:
    return module.split(".")[1] if "." in module else "__init__"


def test_each_room_stands_on_a_floor() -> None:
    placed = " ".join(FLOORS).split()
    assert sorted(placed) == sorted(rooms())
    assert len(placed) <= MOST_ROOMS


def test_imports_only_go_down() -> None:
    floor = {room: number for number, names in enumerate(FLOORS) for room in names.split()}
    climbs = [
        f"{module}:{line} imports {name}"
        for module in trees()
        if room_of(module) in floor
        for name, line in imports(module)
        if name.startswith("prl.") and room_of(name) != room_of(module)
        if floor[room_of(name)] >= floor[room_of(module)]
    ]
    assert climbs == []


def test_no_modules_import_each_other_in_a_circle() -> None:
    below = {module: {name for name, _ in imports(module) if name != module} for module in trees()}
    done: set[str] = set()

    def visit(module: str, above: tuple[str, ...]) -> None:
        assert module not in above, " -> ".join([*above[above.index(module) :], module])
        if module not in done and module in below:
            for name in sorted(below[module]):
                visit(name, (*above, module))
            done.add(module)

    for module in trees():
        visit(module, ())


@pytest.mark.parametrize("room", PURE)
def test_pure_rooms_know_no_trainer(room: str) -> None:
    found = [
        f"{module}:{line} imports {name}"
        for module in trees()
        if room_of(module) == room
        for name, line in imports(module)
        if name in HEAVY or (name.startswith("prl.") and room_of(name) in {"settings", "trainer", "config"})
    ]
    assert found == []


def test_only_two_rooms_know_trl() -> None:
    knowing = {room_of(module) for module in trees() for name, _ in imports(module) if name == "trl"}
    assert knowing <= KNOW_TRL


def test_files_and_functions_are_small() -> None:
    long_files = [
        f"{path.relative_to(PACKAGE)}: {count} lines"
        for path in sorted(PACKAGE.rglob("*.py"))
        if (count := len(path.read_text(encoding="utf-8").splitlines())) > MOST_LINES
    ]
    assert long_files == []
    long_functions = [
        f"{module}.{node.name}: {count} lines"
        for module, tree in trees().items()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (count := (node.end_lineno or 0) - node.lineno + 1) > MOST_LINES_OF_A_FUNCTION
    ]
    assert long_functions == []


def test_what_the_texts_name_is_there() -> None:
    """`prl.room.name`, in docs and docstrings, is a module or an attribute of one."""
    root = PACKAGE.parents[1]
    texts = [
        root / "README.md",
        root / "CONTRIBUTING.md",
        *root.glob("docs/**/*.md"),
        *PACKAGE.rglob("*.py"),
        *root.glob("benchmarks/*.py"),
        *root.glob("examples/*.py"),
    ]
    named = {
        name: path.relative_to(root)
        for path in texts
        for name in re.findall(r"`(prl(?:\.\w+)+)`", path.read_text(encoding="utf-8"))
        if name != "prl.json"  # a file
    }
    gone = []
    for name, path in sorted(named.items()):
        parts = name.split(".")
        count = next(n for n in range(len(parts), 0, -1) if ".".join(parts[:n]) in trees())
        found = importlib.import_module(".".join(parts[:count]))
        for attribute in parts[count:]:
            found = getattr(found, attribute, None)
        if found is None:
            gone.append(f"{path}: {name}")
    assert gone == []


def test_the_wheel_holds_every_package(tmp_path: Path) -> None:
    """Also src/prl/runs, which a `runs/` in .gitignore would have kept out, with all that is no code; and the
    notebooks, for `prl course new`."""
    (built,) = WheelBuilder(str(PACKAGE.parents[1])).build(directory=str(tmp_path), versions=["standard"])
    with zipfile.ZipFile(built) as wheel:
        held = {name for name in wheel.namelist() if name.startswith("prl/")}
    there = {path.relative_to(PACKAGE.parent).as_posix() for path in PACKAGE.rglob("*") if path.is_file()}
    notebooks = PACKAGE.parents[1] / "notebooks"
    there |= {f"prl/course/notebooks/{each.name}" for each in notebooks.iterdir() if each.is_file()}
    assert held == {name for name in there if "__pycache__" not in name}
