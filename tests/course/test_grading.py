"""Grades: right and wrong submissions, partial points, personal numbers, claims, and what is told of them."""

from __future__ import annotations

import ast
import builtins
import csv
import io
import platform
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from handed_in import BY_NAME, HOSTILE, REFERENCE, WRONG, WRONG_POINTS, hand_in
from markdown_it import MarkdownIt
from rich.console import Console

from prl import cli
from prl.course import feedback, grading, homework, quoting, sandbox
from prl.course.cases import cases, findings, judge
from prl.course.checking import check
from prl.course.exercises import BUDGET, EXERCISES, Exercise, variant
from prl.course.homework import Measured
from prl.course.solutions import solution
from prl.course.submissions import Submission, read
from prl.errors import DataError, RunError, UsageError

FUNCTIONS = [exercise for exercise in EXERCISES if exercise.compare != "settings"]


@pytest.fixture
def isolated() -> None:
    if reason := sandbox.why_not():
        pytest.skip(f"no namespaces here: {reason}")


def measured(settings: dict[str, Any], student: str | None) -> Measured:
    """A stand-in for minutes of decoding, with the figures that the docs name."""
    right = {"base": 0.75, "course": 0.955 if settings["temperature"] == 0 else 0.87}[settings["model"]]
    each = {"base": 44.0, "course": 42.0 + 41.5 * settings["paths"]}[settings["model"]]
    return Measured(right, each * settings["votes"])


def points(submission: Submission, **options: Any) -> dict[str, int]:
    (graded,) = grading.grade([submission], measured, **options)
    return {result.exercise.name: result.points for result in graded.results}


def call(source: str, name: str) -> Any:
    space: dict[str, Any] = {}
    exec(source, space)
    return space[name]


@pytest.mark.usefixtures("isolated")
def test_the_reference_gets_all_points_and_wrong_ones_some() -> None:
    assert points(Submission("ada", REFERENCE)) == {name: BY_NAME[name].points for name in BY_NAME}
    assert points(Submission("bob", WRONG)) == WRONG_POINTS
    assert points(Submission("eve", {})) == dict.fromkeys(BY_NAME, 0)


@pytest.mark.parametrize("exercise", FUNCTIONS, ids=lambda exercise: exercise.name)
def test_solutions_are_right_and_starters_earn_nothing(exercise: Exercise) -> None:
    for student in ("ada", "bob", "eve"):
        numbers = variant(student)
        asked = cases(exercise, student, numbers=numbers)
        for source, is_right in ((solution(exercise, student), True), (exercise.cell(student), False)):
            function = call(source, exercise.name)
            wrong = {case.group for case in asked if judge(exercise, case, function(*case.arguments))}
            assert wrong == (set() if is_right else set(exercise.groups))


def matches(path: str, summary: str, flags: int = re.DOTALL) -> Callable[[str], float]:
    """A format reward that knows the texts of paths and summaries by a regular expression."""
    one = rf"<Path>{path}</Path>"
    block = rf"<Parallel>\s*{one}(?:\s*{one})+\s*</Parallel>\s*<Summary>{summary}</Summary>"

    def format_reward(text: str) -> float:
        rest, count = re.subn(block, "", text, flags=flags)
        return float(count > 0 and not re.search(TAG, rest))

    return format_reward


TAG = "</?(?:Parallel|Path|Summary)>"
NO_TAG = rf"(?=\s*(?!{TAG})\S)(?:(?!{TAG}).)*?"


def jumps_at_every_end(tokens: list[str]) -> list[int]:
    """Positions that go on behind the longest path at any `</Parallel>`, though no block is open."""
    found, at, longest, length, is_open, in_path = [], 0, 0, 0, False, False
    for token in tokens:
        if token == "<Parallel>" and not is_open:
            is_open, longest = True, 0
        elif token == "</Parallel>":
            at, is_open, in_path = at + longest, False, False
        elif is_open and (token == "<Path>" or in_path):
            in_path, length = True, 0 if token == "<Path>" else length
            found.append(at + length)
            length += 1
            longest = max(longest, length)
            continue
        found.append(at)
        at += 1
    return found


@pytest.mark.parametrize(
    ("name", "nearly", "group"),
    [
        ("format_reward", matches(NO_TAG, NO_TAG), None),
        ("format_reward", matches(NO_TAG, NO_TAG, flags=0), "whole blocks"),
        ("format_reward", matches(NO_TAG, r"(?=\s*(?!</Summary>)\S).*?"), "tags out of place"),
        (
            "format_reward",
            matches(r"(?=\s*(?!</Path>)\S)(?:(?!</?Parallel>|</?Path>).)*?", NO_TAG),
            "tags out of place",
        ),
        ("positions", jumps_at_every_end, "tags out of place"),
    ],
    ids=["right", "no text of several lines", "any tag in a summary", "a summary in a path", "a second end"],
)
def test_what_is_nearly_right_loses_the_points_of_its_group(
    name: str, nearly: Callable[..., Any], group: str | None
) -> None:
    exercise = BY_NAME[name]
    for student in ("ada", "bob", "eve", "zoë"):
        found = findings(exercise, [(c, nearly(*c.arguments), None) for c in cases(exercise, student)])
        assert [each.name for wrong in found for each in wrong.groups] == ([group] if group else [])


@pytest.mark.parametrize("exercise", FUNCTIONS, ids=lambda exercise: exercise.name)
def test_no_constant_earns_a_point(exercise: Exercise) -> None:
    """No constant earns a point."""
    asked = cases(exercise, "ada")
    for value in {repr(case.expected): case.expected for case in asked}.values():
        found = findings(exercise, [(case, value, None) for case in asked])
        assert {group.name for each in found for group in each.groups} == {g.name for g in exercise.groups}


@pytest.mark.parametrize("exercise", FUNCTIONS, ids=lambda exercise: exercise.name)
def test_a_solution_uses_only_names_that_its_cell_introduces(exercise: Exercise) -> None:
    tree = ast.parse(solution(exercise))
    imported = {
        alias.name.split(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
    }
    bound = {
        node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
    }
    bound |= {node.arg for node in ast.walk(tree) if isinstance(node, ast.arg)}
    bound |= {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
    used = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    assert imported <= sys.stdlib_module_names
    assert used - bound - imported - set(dir(builtins)) == set()


def test_answers_are_compared_with_their_types() -> None:
    alternating, positions = BY_NAME["alternating"], BY_NAME["positions"]
    (case, *_) = [case for case in cases(alternating, "ada") if case.expected == 1.0]
    assert judge(alternating, case, 1) is None
    assert judge(alternating, case, True) is not None
    assert judge(alternating, case, float("nan")) is not None
    assert judge(alternating, case, 10**400) is not None
    (case, *_) = [case for case in cases(positions, "ada") if case.expected[:2] == [0, 1]]
    assert judge(positions, case, case.expected) is None
    assert judge(positions, case, [False, True, *case.expected[2:]]) is not None


@pytest.mark.usefixtures("isolated")
def test_numbers_of_ones_own_make_a_copy_fail() -> None:
    assert variant("ada") != variant("bob") != variant()
    own = {"alternating": solution(BY_NAME["alternating"], "ada")}
    assert points(Submission("ada", own), personal=True)["alternating"] == BY_NAME["alternating"].points
    assert points(Submission("bob", own), personal=True)["alternating"] < BY_NAME["alternating"].points
    assert points(Submission("ada", REFERENCE), personal=True)["alternating"] < BY_NAME["alternating"].points


def test_a_list_is_told_where_it_differs_first_in_the_shortest_case() -> None:
    positions = BY_NAME["positions"]
    asked = cases(positions, "ada")
    (found, *_) = [
        each
        for each in findings(positions, [(case, [0, 7], None) for case in asked[::-1]])
        if each.groups[0].name == "one block"
    ]
    shortest = min(
        (case for case in asked if case.group.name == "one block"), key=lambda c: len(str(c.arguments))
    )
    assert found.shown == (
        f"positions({shortest.arguments[0]!r})\nreturned [0, 7]\n"
        "differs first at index 1: returned 7, expected 1"
    )
    assert "paths start together" in found.said
    said = judge(positions, shortest, shortest.expected[:-1]) or ""
    assert said.endswith(f"returned {len(shortest.expected) - 1} numbers, expected {len(shortest.expected)}")


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("positions", None, "returned None: is there a `return`?"),
        ("positions", "x", "returned 'x', of type str, not list"),
        ("alternating", None, "returned None: is there a `return`?"),
        ("majority", None, "returned None: is there a `return`?"),
        ("majority", 12, "returned 12, of type int, not str"),
    ],
)
def test_a_value_of_another_kind_is_told(name: str, value: Any, told: str) -> None:
    (found, *_) = findings(BY_NAME[name], [(case, value, None) for case in cases(BY_NAME[name], "ada")])
    assert told in found.shown


def test_a_none_among_other_values_may_be_meant() -> None:
    majority = BY_NAME["majority"]
    asked = [
        (case, call(WRONG["majority"], "majority")(*case.arguments), None) for case in cases(majority, "ada")
    ]
    (found,) = [each for each in findings(majority, asked) if each.groups[0].name == "paths without a result"]
    assert found.shown.endswith("returned None")


def test_each_group_of_alternating_has_cases_of_its_own_kind_alone() -> None:
    for student in ("", "ada", "bob"):
        numbers = variant(student)
        for case in cases(BY_NAME["alternating"], student, numbers=numbers):
            step, _, is_right = case.arguments
            assert is_right == (case.group.name != "wrong answers")
            is_first = step < numbers.accuracy_steps + numbers.tiered_steps
            if is_right:
                assert is_first == (case.group.name == "the first window")


@pytest.mark.usefixtures("isolated")
def test_a_function_without_end_is_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "CASE_SECONDS", 0.3)
    source = "def positions(tokens):\n    while True: pass"
    (graded,) = grading.grade([Submission("ada", {"positions": source})], measured)
    told = feedback.markdown(graded)
    assert told.count("no answer within 0.3 seconds: does it end?") == 1
    assert told.count("Lost") == 1
    assert "rule" not in told


@pytest.mark.usefixtures("isolated")
def test_the_numbers_of_another_name_are_told() -> None:
    cells = {"alternating": solution_in_starter("ada")}
    for student, personal, told in (
        (" ADA ", True, None),
        ("bob", True, "not those made for your name"),
        ("ada", False, "a student's own; it was graded with those that all have"),
    ):
        (graded,) = grading.grade([Submission(student, cells)], measured, personal=personal)
        (result,) = [each for each in graded.results if each.exercise.name == "alternating"]
        assert [told in note for note in result.notes] == [True] * (told is not None)
        assert (result.points == result.exercise.points) == (told is None)
    (graded,) = grading.grade([Submission("ada", {"alternating": REFERENCE["alternating"]})], measured)
    assert [note for result in graded.results for note in result.notes] == []


def solution_in_starter(student: str) -> str:
    """The starter with its docstring, solved below it."""
    exercise = BY_NAME["alternating"]
    body = solution(exercise, student).split("-> float:\n")[1]
    return exercise.cell(student).replace("    return 0.0  # your code\n", body)


# --- The homework


@pytest.mark.parametrize(
    ("cell", "earned"),
    [
        (REFERENCE["homework"], 8),
        (REFERENCE["homework"].replace("0.955", "0.9551"), 6),
        (REFERENCE["homework"].replace("0.955", "0.9"), 6),
        (REFERENCE["homework"].replace("CLAIM = 0.955", ""), 6),
        (REFERENCE["homework"].replace("0.955", "float('0.955')"), 6),
        (
            REFERENCE["homework"]
            .replace('"temperature": 0.0', '"temperature": 1.0')
            .replace("0.955", "0.870"),
            6,
        ),
        (REFERENCE["homework"].replace('"votes": 1', '"votes": 2'), 3),
        (REFERENCE["homework"].replace('"course"', '"base"').replace("0.955", "0.750"), 4),
        (BY_NAME["homework"].cell(), 2),
        ("SETTINGS = dict(model='course')", 0),
        ("SETTINGS = {'model': __import__('os').getcwd()}", 0),
        ("SETTINGS = {'model': 'course', 'paths': True, 'votes': 1, 'temperature': 0, 'max_tokens': 99}", 0),
        ("SETTINGS = {'model': '/etc', 'paths': 2, 'votes': 1, 'temperature': 0, 'max_tokens': 99}", 0),
        ("SETTINGS = {'model': 'base', 'paths': 2, 'votes': 10**9, 'temperature': 0, 'max_tokens': 99}", 0),
        ("SETTINGS = " + "[" * 5000, 0),
        ("SETTINGS = " + "-" * 9000 + "1", 0),
        ("SETTINGS = {" + "9" * 9000 + ": 1}", 0),
        ("SETTINGS = {'model': ['course'], 'paths': float, 'votes': 1}", 0),
        ("x" * 20_000, 0),
        ("", 0),
    ],
)
def test_settings_are_read_measured_and_held_against_the_claim(cell: str, earned: int) -> None:
    assert points(Submission("ada", {"homework": cell}))["homework"] == earned


def test_the_faults_of_settings_are_told_at_once() -> None:
    assert homework.faults(
        {"model": "bass", "path": 2, "votes": 9, "temperature": "hot", "max_tokens": 2}
    ) == [
        "no key 'paths'",
        "model 'bass' must be one of base, course",
        "unknown key 'path'; nearest: paths",
        "votes 9 must be int from 1 to 8",
        "temperature 'hot' must be float from 0 to 2",
        "max_tokens 2 must be int from 32 to 400",
    ]
    with pytest.raises(UsageError, match="SETTINGS is computed"):
        homework.read_cell(f"SETTINGS = {{'paths': 0x{'F' * 5000}}}")
    with pytest.raises(UsageError, match="no key 'model'"):
        homework.measure({})


def test_a_measurement_repeats_to_the_bit_and_three_paths_pay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(homework, "PROBLEMS", 40)
    reference, baseline = homework.measure(homework.REFERENCE), homework.measure(homework.BASELINE)
    assert homework.measure(homework.REFERENCE) == reference
    assert baseline.right + 0.1 < reference.right
    assert baseline.tokens < reference.tokens <= BUDGET
    assert homework.problems_of("ada") != homework.problems_of(None)


def test_what_was_measured_is_kept_by_settings_and_problems(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs: list[object] = []

    def count(settings: dict[str, Any], student: str | None) -> Measured:
        runs.append(student)
        return Measured(0.5, 7.0)

    monkeypatch.setattr(homework, "measure", count)
    cache = tmp_path / "kept.json"
    for student in ("ada", None, "ada"):
        assert grading.measured_once(cache)(homework.BASELINE, student) == Measured(0.5, 7.0)
    grading.measured_once(cache)({**homework.BASELINE, "votes": 2}, None)
    assert runs == ["ada", None, None]
    cache.write_text("{", encoding="utf-8")
    grading.measured_once(cache)(homework.BASELINE, None)
    assert len(runs) == 4


def test_what_was_measured_says_whether_it_is_within_the_budget() -> None:
    assert str(Measured(0.955, 166.3)) == "0.955 right, 166.3 tokens a problem: within the budget of 180"
    assert str(Measured(0.99, 206)) == "0.990 right, 206.0 tokens a problem: over the budget of 180"


@pytest.mark.parametrize("asked", ["check(format_reward)", "check(positions)", "measure(homework.BASELINE)"])
def test_libraries_keep_quiet_where_they_are_first_imported(asked: str) -> None:
    program = f"""
from prl.course import check, homework, measure
homework.PROBLEMS = 1
def format_reward(text): return 0.0
def positions(tokens): return []
{asked}
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stderr == ""


def test_what_is_quoted_stays_code() -> None:
    for text in ("`", "a``b", "```\n# x\n```", "<b>[x](y)</b>", " ", "", "*a* \\`"):
        page = MarkdownIt().render(quoting.code(text))
        assert re.fullmatch("<p><code>[^<]*</code></p>\\n", page), page
        page = MarkdownIt().render("\n".join(["- x", "", *quoting.fence(text, "  ")]))
        assert len(re.findall("<(?!/)", page)) == 5, page  # ul, li, p, pre, code


# --- Files


def test_submissions_are_found_in_folders_and_files(tmp_path: Path) -> None:
    hand_in(tmp_path, "ada", REFERENCE)
    hand_in(tmp_path, "bob", WRONG, kind="py")
    hand_in(tmp_path / "eve", "assignment", REFERENCE)
    (tmp_path / "eve" / "broken.ipynb").write_text("{", encoding="utf-8")
    (tmp_path / "feedback").mkdir()
    (tmp_path / "feedback" / "x.py").write_text(REFERENCE["majority"], encoding="utf-8")
    (tmp_path / "mallory.py").symlink_to("/etc/passwd")
    found = {each.student: each for each in read(tmp_path)}
    assert set(found) == {"ada", "bob", "eve"}
    assert found["ada"].cells == REFERENCE
    assert set(found["bob"].cells) == set(WRONG)
    assert found["eve"].cells == REFERENCE
    assert found["eve"].remarks == ["`broken.ipynb` cannot be read: JSONDecodeError"]
    assert [each.student for each in read(tmp_path, [" Bob"])] == ["bob"]
    (tmp_path / "ada" / "lesson.ipynb").unlink()
    cells = [f"# In[{number}]:\n\n\n{cell}\n" for number, cell in enumerate(REFERENCE.values())]
    script = "\n# In[ ]:\n\n\nright = check(majority)\n\n".join(["#!/usr/bin/env python\n", *cells])
    (tmp_path / "ada" / "by_nbconvert.py").write_text(script, encoding="utf-8")
    (ada,) = read(tmp_path, ["ada"])
    assert {name: cell.strip() for name, cell in ada.cells.items()} == {
        name: cell.strip() for name, cell in REFERENCE.items()
    }
    with pytest.raises(DataError, match="holds nothing of zoe; it does of ada, bob, eve"):
        read(tmp_path, ["zoe"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="holds no submission"):
        read(tmp_path / "empty")


@pytest.mark.parametrize("made_for", [None, "ada", "bob"])
def test_cells_as_they_were_handed_out_do_not_hide_those_filled_in(
    tmp_path: Path, made_for: str | None
) -> None:
    hand_in(tmp_path, "ada", {exercise.name: exercise.cell(made_for) for exercise in EXERCISES})
    (tmp_path / "ada" / "exercises.py").write_text(
        "".join(f"# %%\n{cell}\n" for cell in REFERENCE.values()), encoding="utf-8"
    )
    (submission,) = read(tmp_path)
    assert {name: cell.strip() for name, cell in submission.cells.items()} == {
        name: cell.strip() for name, cell in REFERENCE.items()
    }
    assert (submission.remarks, submission.several) == ([], set())


def test_of_two_that_were_filled_in_the_last_counts_and_is_marked(tmp_path: Path) -> None:
    hand_in(tmp_path, "ada", {"majority": WRONG["majority"]})
    (tmp_path / "ada" / "a.py").write_text(REFERENCE["majority"], encoding="utf-8")
    (submission,) = read(tmp_path)
    assert submission.cells["majority"] == WRONG["majority"]
    assert submission.remarks == [
        "majority is filled in more than once, and differently (`a.py`, `lesson.ipynb`); the last, in "
        "`lesson.ipynb`, is graded"
    ]
    results = [grading.Result(e, is_one_of_several=e.name in submission.several) for e in EXERCISES]
    shown = Console(width=80, file=io.StringIO())
    shown.print(feedback.table([grading.Grade("ada", results, submission.remarks)]))
    text = shown.file.getvalue()
    assert "0*" in text
    assert "* filled in more than once" in text
    for word in ("positions", "majority", "reward", "alternating", "homework", "points"):
        assert re.search(rf"\b{word}\b|_{word}", text)


@pytest.mark.usefixtures("isolated")
def test_the_command_writes_grades_and_feedback_that_is_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(homework, "measure", measured)
    hand_in(tmp_path, "ada", REFERENCE)
    hand_in(tmp_path, "=cmd|' [red]", {"majority": HOSTILE["markup"][0]})
    hand_in(
        tmp_path, "printer", {"majority": "print('<b>\\x1b[31m [x](y) 3 points')\n" + REFERENCE["majority"]}
    )
    assert cli.main(["course", "grade", str(tmp_path)]) == 0
    with (tmp_path / "grades.csv").open(encoding="utf-8", newline="") as file:
        rows = {row["student"]: row for row in csv.DictReader(file)}
    assert rows["ada"]["points"] == rows["ada"]["of"] == str(feedback.POINTS)
    assert rows["'=cmd|' [red]"]["points"] == "0"
    assert rows["printer"]["majority"] == "3"
    told = (tmp_path / "feedback" / "=cmd|' [red].md").read_text(encoding="utf-8")
    assert "\n  returned '[red]</b><script>alert(1)</script> ![x](http://e.vil) | =1+1'\n" in told
    assert "\\" not in told
    page = MarkdownIt().render(told)
    assert not re.search("<(script|img|a|b)\\b", page)
    assert page.count("&lt;script&gt;") == 3
    assert "- Earned: one result wins (1), ties (1), paths without a result (1)\n" in (
        tmp_path / "feedback" / "ada.md"
    ).read_text(encoding="utf-8")
    printed = (tmp_path / "feedback" / "printer.md").read_text(encoding="utf-8")
    assert "\n```\n<b>\N{REPLACEMENT CHARACTER}[31m [x](y) 3 points\n```\n" in printed
    assert "=cmd|' [red]" in capsys.readouterr().err
    before = (tmp_path / "grades.csv").read_bytes()
    assert cli.main(["course", "grade", str(tmp_path)]) == 0
    assert (tmp_path / "grades.csv").read_bytes() == before


def test_without_isolation_nothing_is_run_unless_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sandbox, "why_not", lambda: "no namespaces")
    monkeypatch.setattr(homework, "measure", measured)
    hand_in(tmp_path, "ada", {"majority": REFERENCE["majority"]})
    assert cli.main(["course", "grade", str(tmp_path)]) == 1
    err = capsys.readouterr().err
    assert err.startswith("prl course: submissions cannot be isolated here (no namespaces); ")
    assert err.count("\n") == 1
    assert cli.main(["course", "grade", str(tmp_path), "--unsafe"]) == 0
    assert "ada: 3 of" in capsys.readouterr().err


def test_windows_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    hand_in(tmp_path, "ada", {"majority": REFERENCE["majority"]})
    monkeypatch.setattr(platform, "system", lambda: "Windows")
    assert cli.main(["course", "grade", str(tmp_path), "--unsafe"]) == 1
    assert "graded on Linux, or with --unsafe on macOS" in capsys.readouterr().err


# --- A student's own look


def test_check_tells_right_from_wrong(capsys: pytest.CaptureFixture[str]) -> None:
    assert check(call(REFERENCE["majority"], "majority"))
    assert capsys.readouterr().out.count(": right") == 3
    assert not check(call(WRONG["majority"], "majority"))
    out = capsys.readouterr().out
    assert "rule 3: None has no vote" in out
    assert check(call(solution(BY_NAME["alternating"], "ada"), "alternating"), "ada")
    assert not check(call("def majority(results): return 1 / 0", "majority"))
    assert "ZeroDivisionError" in capsys.readouterr().out
    capsys.readouterr()
    made_for_ada = call(solution_in_starter("ada"), "alternating")
    assert not check(made_for_ada)
    assert "not those made for your name: check(alternating, YOUR_NAME)" in capsys.readouterr().out
    assert check(made_for_ada, " Ada ")
    assert "your name" not in capsys.readouterr().out
    with pytest.raises(UsageError, match="no exercise asks for 'majorty'; nearest: majority"):
        check(call("def majorty(): ...", "majorty"))


def test_an_isolation_that_fails_is_an_error_of_the_grader(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RunError("submissions cannot be isolated here: too many namespaces")

    monkeypatch.setattr(sandbox, "ask", fail)
    with pytest.raises(RunError, match="too many"):
        points(Submission("ada", REFERENCE))
