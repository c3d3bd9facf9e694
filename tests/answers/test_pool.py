"""Workers: started late, killed in time, replaced, and gone when the program is, whatever the program is."""

from __future__ import annotations

import contextlib
import errno
import importlib.util
import os
import re
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import psutil
import pytest

from prl.answers import AnswerChecker
from prl.answers.pool import PROGRAM
from prl.errors import VerifierError

NEEDS_WORKER = ("x + 1", "1 + x")
TORCH = pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="needs torch")
POSIX = pytest.mark.skipif(os.name != "posix", reason="stops and forks processes with POSIX calls")


def workers() -> list[psutil.Process]:
    return psutil.Process().children()


@pytest.fixture
def checker():
    before = {process.pid for process in workers()}
    with AnswerChecker(workers=1, deadline=0.5, cache=0) as made:
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
    assert not stuck.is_running(), "killed, and not left as a zombie"
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


# A worker that never became ready says nothing about a pair: the installation is at fault.


@pytest.fixture
def broken(tmp_path, monkeypatch):
    """The module path begins with a library that cannot be imported."""
    (tmp_path / "latex2sympy2.py").write_text("from typing.oi import TextIO\n")
    monkeypatch.syspath_prepend(tmp_path)


def test_a_verifier_that_cannot_start_is_an_error_that_names_the_cause(checker, broken):
    cause = "ModuleNotFoundError: No module named 'typing.oi'; 'typing' is not a package"
    line = (
        f"answers cannot be judged, the verifier's process does not start: {cause}; reinstall "
        f"latex2sympy2==1.9.1, until `{sys.executable} -c 'import prl.answers.algebra'` passes"
    )
    two = AnswerChecker(workers=2)
    for judged in (
        checker.start,
        lambda: checker.check(*NEEDS_WORKER),
        lambda: two.check_many([NEEDS_WORKER, ("x + 2", "2 + x"), ("x + 3", "3 + x")]),
    ):
        with pytest.raises(VerifierError) as error:
            judged()
        assert str(error.value) == line
    assert checker.check("1/2", "0.5").equal, "what needs no worker is judged"


def test_a_worker_that_ends_before_it_is_ready_is_tried_once_more(checker, monkeypatch, tmp_path):
    mark = tmp_path / "mark"
    once = f"import pathlib; mark = pathlib.Path({str(mark)!r})"
    once += "; mark.exists() or mark.touch() or __import__('os')._exit(9)"
    monkeypatch.setattr("prl.answers.pool.PROGRAM", f"{once}; {PROGRAM}")
    assert checker.check(*NEEDS_WORKER).equal
    monkeypatch.setattr("prl.answers.pool.PROGRAM", "raise SystemExit(9)")
    checker.close()
    with pytest.raises(VerifierError, match="does not start: it ended with status 9; free memory"):
        checker.check(*NEEDS_WORKER)


@POSIX
def test_a_worker_that_hangs_before_it_is_ready_is_told(checker, monkeypatch):
    monkeypatch.setattr("prl.answers.pool.PATIENCE", 1)
    monkeypatch.setattr("prl.answers.pool.START_SECONDS", 0.2)
    monkeypatch.setattr("prl.answers.pool.PROGRAM", "import threading; threading.Event().wait()")
    free = re.escape("free memory or processes (`ulimit -u`) and try again")
    with pytest.raises(
        VerifierError, match=rf"does not start: it was not ready within 0\.[2-9]\d* s; {free}$"
    ):
        checker.start()
    monkeypatch.setattr("prl.answers.pool.PATIENCE", 10)
    monkeypatch.setattr("prl.answers.pool._cpu_seconds", lambda pid: 0.0)  # it hardly runs
    with pytest.raises(VerifierError, match=r"not ready within [2-9][.\d]* s; "):
        checker.start()


def test_a_system_that_gives_no_process_is_told(checker, monkeypatch):
    def refused(*given, **more):
        raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    monkeypatch.setattr(subprocess, "Popen", refused)
    with pytest.raises(VerifierError, match=r"Resource temporarily unavailable; free memory or processes"):
        checker.start()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux enforces an address-space cap")
@pytest.mark.parametrize("memory_mb", [8, 16, 30, 36, 46, 54])
def test_a_memory_cap_that_no_worker_fits_is_told(memory_mb):
    """At most of these the interpreter names something else: SystemError, ImportError, OSError."""
    with (
        AnswerChecker(workers=1, memory_mb=memory_mb) as checker,
        pytest.raises(VerifierError, match=r"does not start: .*; free memory"),
    ):
        checker.check(*NEEDS_WORKER)


def test_no_interpreter_is_told(checker, monkeypatch):
    monkeypatch.setattr(sys, "executable", "")
    with pytest.raises(VerifierError, match=r"does not start: .*''; have `sys.executable` name the Python"):
        checker.check(*NEEDS_WORKER)


def test_a_checker_that_was_started_has_a_worker_and_one_only(checker):
    checker.start()
    first = own_worker(checker).pid
    checker.start()
    assert checker.check(*NEEDS_WORKER).equal
    assert own_worker(checker).pid == first


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


def run(code: str, folder: Path, *, expect: int = 0, launcher: tuple[str, ...] = ()) -> str:
    """Run a program of its own, as users do: a file without a `__main__` guard; it must end by itself."""
    script = folder / "program.py"
    script.write_text(textwrap.dedent(code))
    environment = dict(os.environ, PYTHONPATH=os.pathsep.join(sys.path), OMP_NUM_THREADS="1")
    done = subprocess.run(
        [sys.executable, *launcher, str(script)],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=250,
    )
    assert done.returncode == expect, done.stderr
    return done.stdout


def assert_gone(pids: str) -> None:
    assert pids
    latest = time.monotonic() + 10
    for pid in map(int, pids.split()):
        with contextlib.suppress(psutil.NoSuchProcess):
            while psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:  # an orphan's zombie is init's
                assert time.monotonic() < latest, f"{pid} is left"


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
@pytest.mark.parametrize(
    ("ending", "status"), [("", 0), ("os.kill(os.getpid(), signal.SIGKILL)", -signal.SIGKILL)]
)
def test_a_busy_worker_ends_with_its_program(tmp_path, ending, status):
    """A daemon thread waits for a worker that runs for good; the program ends, or is killed, meanwhile."""
    code = f"""
    import prl.answers.pool as pool
    forever = "judging.judge = lambda *pair: any(0 for _ in iter(int, 1))"
    pool.PROGRAM = f"import prl.answers.judging as judging; {{forever}}; {{pool.PROGRAM}}"
    checker = AnswerChecker(workers=1, deadline=200, cache=0)
    threading.Thread(target=checker.check, args=("x + 5", "5 + x"), daemon=True).start()
    while not checker._pool._busy:
        pass
    print(pid, *(worker.process.pid for worker in checker._pool._busy), flush=True)
    {ending}
    """
    output = run(PRELUDE + code, tmp_path, expect=status)
    assert_gone(output.split("\n")[1])


@POSIX
def test_ctrl_c_ends_check_many_at_once_and_leaves_no_worker(tmp_path):
    code = """
    checker = AnswerChecker(workers=2, deadline=200, cache=0)
    checker.check_many([("x + 1", "1 + x"), ("x + 2", "2 + x")])
    stuck = [worker.process.pid for worker in checker._pool._idle]
    print(*stuck, flush=True)
    for each in stuck:
        os.kill(each, signal.SIGSTOP)  # as deaf as a worker inside one C call
    os.setpgid(0, 0)
    def interrupt():
        while len(checker._pool._busy) < 2:
            pass
        os.killpg(0, signal.SIGINT)
    threading.Thread(target=interrupt).start()
    checker.check_many([(f"x^{n} + 1", f"1 + x^{n}") for n in range(2, 40)])
    """
    output = run(PRELUDE + code, tmp_path, expect=-signal.SIGINT)
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


@TORCH
def test_a_dataloader_worker_can_judge(tmp_path):
    """A process of torch's, forked and spawned; the daemonic ones start no `multiprocessing` children."""
    code = """
    import os
    from torch.utils.data import DataLoader, Dataset
    from prl.answers import is_equal

    class Pairs(Dataset):
        def __len__(self):
            return 2

        def __getitem__(self, n):
            return is_equal(f"x + {n}", f"{1 - n} + x") if n else is_equal("x + 1", "1 + x")

    if __name__ == "__main__":
        for method in ("spawn", "fork") if hasattr(os, "fork") else ("spawn",):
            loader = DataLoader(Pairs(), num_workers=1, multiprocessing_context=method)
            print([bool(equal) for batch in loader for equal in batch])
    """
    assert set(run(code, tmp_path).split("\n")) == {"[True, False]", ""}


@TORCH
@POSIX
def test_two_processes_of_accelerate_launch_can_judge(tmp_path):
    code = """
    import torch.distributed
    from accelerate import Accelerator
    from prl.answers import default_checker, is_equal

    accelerator = Accelerator(cpu=True)
    equal = is_equal("x + 1", "1 + x")
    pid = default_checker()._pool._idle[0].process.pid
    print(f"{accelerator.process_index} of {accelerator.num_processes} {equal} {pid}\\n", end="", flush=True)
    torch.distributed.destroy_process_group()
    """
    options = "--multi_gpu --num_processes 2 --num_machines 1 --mixed_precision no --dynamo_backend no"
    launcher = ("-m", "accelerate.commands.launch", *options.split(), "--main_process_port", "0")
    lines = sorted(run(code, tmp_path, launcher=launcher).split("\n"))
    assert [line[:11] for line in lines[1:]] == ["0 of 2 True", "1 of 2 True"]
    assert_gone(" ".join(line.split()[-1] for line in lines[1:]))


def test_a_notebook_can_judge(tmp_path, monkeypatch):
    nbclient = pytest.importorskip("nbclient", reason="needs the extra `notebooks`")
    pytest.importorskip("ipykernel", reason="needs the extra `notebooks`")
    import nbformat

    for name in ("JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "JUPYTER_CONFIG_DIR", "IPYTHONDIR"):
        monkeypatch.setenv(name, str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    source = """
    from prl.answers import default_checker, is_equal
    print(is_equal("x + 1", "1 + x"), is_equal("2x + 2", "2(x + 2)"))
    print(is_equal("x + 1", "1 + x"), default_checker()._pool._idle[0].process.pid)
    """
    cell = nbformat.v4.new_code_cell(textwrap.dedent(source))
    notebook = nbformat.v4.new_notebook(cells=[cell])
    nbclient.NotebookClient(notebook, kernel_name="python3", timeout=120).execute()
    first, second = notebook.cells[0].outputs[0]["text"].splitlines()
    assert first == "True False"
    assert_gone(second.split()[-1])
