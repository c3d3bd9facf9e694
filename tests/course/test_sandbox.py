"""What a submission can do: answer. All else comes to nothing, in bounded time."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from handed_in import HOSTILE, REFERENCE

import prl
from prl.course import sandbox
from prl.course.cases import cases
from prl.course.exercises import EXERCISES
from prl.course.grading import grade
from prl.course.homework import Measured
from prl.course.submissions import Submission
from prl.errors import RunError

MAJORITY = next(exercise for exercise in EXERCISES if exercise.name == "majority")


@pytest.fixture(autouse=True)
def _isolated(monkeypatch: pytest.MonkeyPatch) -> None:
    if reason := sandbox.why_not():
        pytest.skip(f"no namespaces here: {reason}")
    monkeypatch.setattr(sandbox, "CASE_SECONDS", 1.0)
    monkeypatch.setattr(sandbox, "LOAD_SECONDS", 3.0)


def left_behind() -> list[psutil.Process]:
    """Processes of submissions that still run once those that were ended have gone."""
    found = []
    for process in psutil.process_iter():
        try:
            if any("answers the inputs that it is sent" in word for word in process.cmdline()):
                found.append(process)
        except psutil.Error:
            continue
    return psutil.wait_procs(found, timeout=5)[1]


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_submission_harms_nobody(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, folder = tmp_path / "home", tmp_path / "submissions"
    for each in (home, folder):
        each.mkdir()
        (each / "secret").write_text("root:x:0 expected")
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("SECRET", "root:x:0")
    source, points = HOSTILE[name]
    with socket.create_server(("127.0.0.1", 0)) as server:
        for place, text in (
            ("HOME_HERE", home),
            ("FOLDER_HERE", folder),
            ("SOURCE_HERE", Path(prl.__file__).parents[1]),
            ("PORT_HERE", server.getsockname()[1]),
        ):
            source = source.replace(place, str(text))
        submission = Submission("mallory", {"majority": source})
        (graded,) = grade([submission], lambda settings, student: Measured(0, 0))
    by_name = {result.exercise.name: result for result in graded.results}
    majority = by_name["majority"]
    if name == "kills_the_first":  # by whom it is tried depends on who grades
        assert majority.points in (0, 3)
    else:
        assert majority.points == points, majority.lost
    assert graded.points == majority.points
    told = "".join(each.said + each.shown for each in majority.lost or ())
    assert "root:x:0" not in told + majority.printed
    assert len(told) < 4_000
    assert len(majority.printed) <= sandbox.MOST_PRINTED
    assert [(each / "secret").read_text() for each in (home, folder)] == ["root:x:0 expected"] * 2
    assert left_behind() == []


def test_a_submission_sees_no_package_no_file_and_no_other_case(tmp_path: Path) -> None:
    (tmp_path / "grades.csv").write_text("mallory,20")
    source = """
import os, sys
def look(path, number):
    packages = [p for p in sys.path if "-packages" in p]
    return [[*os.environ], os.listdir("/"), os.path.exists(path), os.listdir("."), packages, number]
"""
    asked = sandbox.ask(source, "look", [[str(tmp_path), 1], [str(tmp_path), 2]])
    for number, answer in enumerate(asked.answers, 1):
        names, top, sees_file, here, packages, said = answer.value
        assert set(names) <= {"LC_CTYPE"}
        assert set(top) <= {"etc", "lib", "lib64", "tmp", "usr", Path(sys.base_prefix).parts[1]}
        assert (sees_file, here, packages, said) == (False, [], [], number)


def test_a_submission_has_no_rights_and_gets_none() -> None:
    source = """
import ctypes
def act():
    libc = ctypes.CDLL(None)
    found = [libc.unshare(0x10000000), libc.unshare(0x20000), libc.mount(None, b"/lib", None, 4128, None)]
    found += [libc.umount2(b"/lib", 2), libc.ptrace(16, 1, 0, 0), libc.sethostname(b"x", 1)]
    return [*found, libc.chroot(b"/tmp")]
"""
    (answer,) = sandbox.ask(source, "act", [[]]).answers
    assert answer.value == [-1] * 7


def test_one_that_ends_is_started_anew_until_it_ends_too_often() -> None:
    source = "import os\ndef f(x):\n    if x < 0: os._exit(1)\n    return x"
    asked = sandbox.ask(source, "f", [[-1], [2], [-3], [4], [-5], [6]])
    assert [answer.value for answer in asked.answers] == [None, 2, None, 4, None, None]
    assert "ended too often" in (asked.answers[-1].error or "")


def test_without_isolation_an_honest_submission_is_graded_too() -> None:
    inputs = [case.arguments for case in cases(MAJORITY, "ada")]
    isolated = sandbox.ask(REFERENCE["majority"], "majority", inputs)
    assert sandbox.ask(REFERENCE["majority"], "majority", inputs, isolated=False) == isolated
    looping = sandbox.ask("def f():\n    while True: pass", "f", [[]], isolated=False)
    assert "no answer within" in (looping.answers[0].error or "")


def test_what_the_kernel_refuses_is_said_in_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "_shown", lambda: {"roots": ["/is/not/there"], "hidden": []})
    with pytest.raises(RunError, match="submissions cannot be run here: "):
        sandbox.ask("def f(): ...", "f", [[]])


def test_another_user_than_root_isolates_too() -> None:
    """As one who is not root outside: the namespace has a single user."""
    program = "from prl.course import sandbox; import os; print(os.geteuid(), sandbox.why_not())"
    as_other = ["unshare", "--user", "--map-user=1000", "--map-group=1000"]
    try:
        done = subprocess.run([*as_other, sys.executable, "-c", program], capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip("no unshare here")
    if done.returncode and "unshare" in done.stderr:
        pytest.skip(done.stderr.strip())
    assert done.stdout.split() == ["1000", "None"], done.stderr
