"""Workers: started late, killed in time, replaced, and gone when the program is, whatever the program is."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import psutil
import pytest

from prl.answers import AnswerChecker

NEEDS_WORKER = ("x + 1", "1 + x")
POSIX = pytest.mark.skipif(os.name != "posix", reason="stops and forks processes with POSIX calls")


def workers() -> list[psutil.Process]:
    return psutil.Process().children()


@pytest.fixture
def checker():
    before = {process.pid for process in workers()}
    with AnswerChecker(workers=1, deadline=1.0, cache=0) as made:
        yield made
    assert {process.pid for process in workers()} <= before, "a closed checker leaves no process"


def own_worker(checker: AnswerChecker) -> psutil.Process:
    (worker,) = checker._pool._idle
    return psutil.Process(worker.process.pid)


@pytest.mark.parametrize(
    ("pred", "gold"),
    [
        ("42", "42"),
        ("42", "43"),
        ("0.5", r"\frac12"),
        ("(1,2)", "[1,2]"),
        ("friday", "Friday"),
        ("9^9^9^9", "5"),
        ("x", "y"),
        ("x+1", "x+2"),
    ],
)
def test_exact_and_obvious_pairs_start_no_worker(checker, pred, gold):
    checker.check(pred, gold)
    assert checker._pool._idle == []


def test_a_worker_is_started_once_and_reused(checker):
    assert checker.check(*NEEDS_WORKER).equal
    first = own_worker(checker).pid
    assert checker.check("x + 2", "2 + x").equal
    assert own_worker(checker).pid == first


@POSIX
def test_the_deadline_kills_the_worker_and_the_next_pair_gets_a_new_one(checker, monkeypatch):
    monkeypatch.setattr("prl.answers.pool.PATIENCE", 1)  # a stopped process looks like a starved one
    checker.check(*NEEDS_WORKER)
    stuck = own_worker(checker)
    stuck.suspend()  # as deaf as a worker inside one C call
    verdict = checker.check("x + 2", "2 + x")
    assert (verdict.equal, verdict.reason) == (False, "timed out")
    assert not stuck.is_running() or stuck.status() != psutil.STATUS_ZOMBIE
    assert checker.check("x + 2", "2 + x").equal


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process's processor time")
def test_a_worker_that_cannot_run_is_given_time(checker):
    checker.check(*NEEDS_WORKER)
    starved = own_worker(checker)
    starved.suspend()
    later = threading.Timer(1.5 * checker._pool.deadline, starved.resume)
    later.start()
    assert checker.check("x + 2", "2 + x").equal
    later.join()


def test_a_worker_that_dies_while_idle_is_replaced_unseen(checker):
    checker.check(*NEEDS_WORKER)
    dead = own_worker(checker)
    dead.kill()
    dead.wait(5)
    assert checker.check("x + 2", "2 + x").equal


@POSIX
def test_a_worker_that_dies_at_work_is_a_crash_with_that_reason():
    with AnswerChecker(workers=1, deadline=30, cache=0) as checker:
        checker.check(*NEEDS_WORKER)
        worker = own_worker(checker)
        worker.suspend()
        killer = threading.Timer(0.1, worker.kill)
        killer.start()
        assert checker.check("x + 2", "2 + x").reason == "crashed"
        killer.join()
        assert checker.check("x + 2", "2 + x").equal


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux enforces an address-space cap")
def test_a_worker_under_an_impossible_memory_cap_is_a_crash_not_an_exception():
    with AnswerChecker(workers=1, memory_mb=16) as checker:
        assert checker.check(*NEEDS_WORKER).reason == "crashed"


def test_no_interpreter_is_a_crash_not_an_exception(checker, monkeypatch):
    monkeypatch.setattr(sys, "executable", "")
    assert checker.check(*NEEDS_WORKER).reason == "crashed"


def test_check_many_keeps_the_order_and_judges_a_repeated_pair_once():
    pairs = [(f"x + {n}", f"{n} + x") if n % 3 else (str(n), "3") for n in range(12)] * 2
    with AnswerChecker(workers=2, cache=0) as checker:
        verdicts = checker.check_many(pairs)
    assert [verdict.equal for verdict in verdicts] == [bool(n % 3) or n == 3 for n in range(12)] * 2


def test_threads_share_the_pool(checker):
    wrong: list[int] = []

    def judge(n: int) -> None:
        if not checker.check(f"x^2 + {n}", f"{n} + x^2").equal:
            wrong.append(n)

    threads = [threading.Thread(target=judge, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert len(checker._pool._idle) == 1


def test_a_checker_that_is_dropped_ends_its_workers():
    checker = AnswerChecker(workers=1)
    checker.check(*NEEDS_WORKER)
    worker = own_worker(checker)
    del checker
    worker.wait(5)


def run(code: str, folder: Path, *, expect: int = 0) -> str:
    """Run a program of its own, as users do: a file without a `__main__` guard; it must end by itself."""
    script = folder / "program.py"
    script.write_text(textwrap.dedent(code))
    environment = dict(os.environ, PYTHONPATH=os.pathsep.join(sys.path))
    done = subprocess.run(
        [sys.executable, str(script)],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=250,
    )
    assert done.returncode == expect, done.stderr
    return done.stdout


def assert_gone(pids: str) -> None:
    for pid in map(int, pids.split()):
        with contextlib.suppress(psutil.NoSuchProcess):
            psutil.Process(pid).wait(10)


PRELUDE = """
    import os, signal, sys, threading
    from prl.answers import AnswerChecker, default_checker, is_equal
    print("main runs")
    assert is_equal("x + 1", "1 + x")
    pid = default_checker()._pool._idle[0].process.pid
"""


def test_a_program_without_a_guard_ends_and_leaves_no_worker(tmp_path):
    (tmp_path / "sympy.py").write_text("raise SystemExit('imported from the current folder')")
    output = run(PRELUDE + "    print(pid)", tmp_path)
    assert output.count("main runs") == 1
    assert_gone(output.split("\n")[1])


@POSIX
def test_a_killed_program_leaves_no_worker(tmp_path):
    output = run(
        PRELUDE + "    print(pid, flush=True)\n    os.kill(os.getpid(), signal.SIGKILL)",
        tmp_path,
        expect=-signal.SIGKILL,
    )
    assert_gone(output.split("\n")[1])


@POSIX
def test_ctrl_c_reaches_the_caller_and_the_checker_works_on(tmp_path):
    code = """
    checker = AnswerChecker(workers=1, deadline=30)
    checker.check("x + 1", "1 + x")
    stuck = checker._pool._idle[0].process.pid
    os.kill(stuck, signal.SIGSTOP)
    threading.Timer(0.2, lambda: os.killpg(os.getpgid(0), signal.SIGINT)).start()
    os.setpgid(0, 0)
    try:
        checker.check("x + 2", "2 + x")
    except KeyboardInterrupt:
        print("interrupted", checker.check("x + 2", "2 + x").equal)
    """
    output = run(PRELUDE + code, tmp_path)
    assert "interrupted True" in output


@POSIX
def test_a_forked_child_has_workers_of_its_own(tmp_path):
    code = """
    child = os.fork()
    if child == 0:
        assert is_equal("x + 3", "3 + x")
        assert default_checker()._pool._idle[0].process.pid != pid
        default_checker().close()
        os._exit(7)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    assert is_equal("x + 4", "4 + x")
    assert default_checker()._pool._idle[0].process.pid == pid
    print("parent", pid)
    """
    assert "parent" in run(PRELUDE + code, tmp_path)


@pytest.mark.parametrize("method", ["spawn", "fork"])
def test_daemonic_processes_can_judge(tmp_path, method):
    if method == "fork" and not hasattr(os, "fork"):
        pytest.skip("no fork here")
    code = f"""
    import multiprocessing
    from prl.answers import is_equal

    def judge(results):
        results.put((multiprocessing.current_process().daemon, is_equal("x + 1", "1 + x")))

    if __name__ == "__main__":
        context = multiprocessing.get_context({method!r})
        results = context.Queue()
        process = context.Process(target=judge, args=(results,), daemon=True)
        process.start()
        print(results.get(timeout=50))
        process.join(10)
        print(process.exitcode)
    """
    assert run(code, tmp_path).split("\n")[:2] == ["(True, True)", "0"]
