"""tests/warm.py: a process of its server does what one that starts as ever does, and ends with its client."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import warm

pytestmark = pytest.mark.skipif(
    not hasattr(os, "pidfd_open"), reason="needs os.pidfd_open (Linux); elsewhere launcher() is a cold Python"
)

PROBE = """
import os, signal, sys, threading
print(sys.argv, sys.path, os.getcwd(), __name__, globals().get("__file__"), __spec__ and __spec__.name)
print(sorted(os.environ.items()), sys.stdin.read(), threading.active_count())
print(*(signal.getsignal(number) for number in range(1, signal.NSIG)))
print(sys.modules["__main__"].__dict__ is globals(), sys.stdout.line_buffering, sys.stderr.line_buffering)
print("aside", file=sys.stderr)
"""


@pytest.fixture(scope="module")
def server() -> Iterator[warm.Server]:
    """One that has imported little: it starts at once."""
    server = warm.Server(["colorsys"])
    yield server
    server.end()


def run(python: tuple[str, ...], *words: str, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*python, *words], capture_output=True, text=True, **options)


def begun(python: tuple[str, ...], code: str) -> subprocess.Popen[str]:
    """A process that has printed its first line, "ready"."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = subprocess.Popen([*python, "-c", code], text=True, **pipes)
    assert process.stdout
    assert process.stdout.readline() == "ready\n"
    return process


@pytest.mark.parametrize("way", [("-c", PROBE), ("-m", "probe"), ("../probe.py",)], ids=lambda way: way[0])
def test_it_finds_what_it_finds_in_a_cold_one(
    way: tuple[str, ...], server: warm.Server, tmp_path: Path
) -> None:
    for folder in (tmp_path, tmp_path / "below"):
        folder.mkdir(exist_ok=True)
        (folder / "probe.py").write_text(PROBE)
    given = {"cwd": tmp_path / "below", "env": os.environ | {"MINE": "ä\n"}, "input": "handed over"}
    found, expected = (run(python, *way, "a b", "", **given) for python in (server.words, (sys.executable,)))
    assert found.stdout == expected.stdout
    assert "handed over" in found.stdout
    assert (found.returncode, found.stderr) == (0, "aside\n")


@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("", 0),
        ("raise SystemExit(7)", 7),
        ("import os; os._exit(200)", 200),
        ("1 / 0", 1),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", -signal.SIGKILL),
        ("import os; os.abort()", -signal.SIGABRT),
        ("raise KeyboardInterrupt", -signal.SIGINT),
    ],
)
def test_the_client_ends_as_its_process_does(code: str, status: int, server: warm.Server) -> None:
    done = run(server.words, "-c", code)
    assert done.returncode == status
    assert ("ZeroDivisionError: division by zero\n" in done.stderr) == (code == "1 / 0")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("handled", [True, False])
def test_signals_are_handed_on(number: signal.Signals, handled: bool, server: warm.Server) -> None:
    code = f"""
import signal, sys
if {handled}:
    signal.signal({number}, lambda number, frame: sys.exit(number))
print("ready", flush=True)
signal.pause()
"""
    with begun(server.words, code) as process:
        process.send_signal(number)
        process.communicate()
    assert process.returncode == (number if handled else -number)


def test_a_process_ends_with_its_client(server: warm.Server) -> None:
    """A pipe that is read to its end has lost its writer."""
    with begun(server.words, "import signal\nprint('ready', flush=True)\nsignal.pause()") as process:
        process.kill()
        assert process.communicate() == ("", "")


def test_a_process_ends_with_the_server() -> None:
    server = warm.Server(())
    with begun(server.words, "import signal\nprint('ready', flush=True)\nsignal.pause()") as process:
        server.end()
        assert process.communicate() == ("", "")
    assert process.returncode == -signal.SIGKILL
    assert not Path(server.folder.name).exists()


def test_several_run_at_once(server: warm.Server) -> None:
    """The first waits for the second."""
    reading, writing = os.pipe()
    with (
        subprocess.Popen([*server.words, "-c", "import sys; sys.exit(len(sys.stdin.read()))"], stdin=reading)
        as first,
        subprocess.Popen([*server.words, "-c", "print(end='12345')"], stdout=writing) as second,
    ):  # fmt: skip
        os.close(reading)
        os.close(writing)
    assert (first.returncode, second.returncode) == (5, 0)


def test_what_is_left_to_the_exit_is_done(server: warm.Server) -> None:
    code = """
import atexit, threading
atexit.register(print, "at exit")
threading.Thread(target=lambda: print("in a thread")).start()
print("unflushed", end=" ")
raise SystemExit(3)
"""
    done = run(server.words, "-c", code)
    assert "unflushed" in done.stdout
    assert done.stdout.index("in a thread") < done.stdout.index("at exit")
    assert done.returncode == 3


def test_it_may_spawn_processes(server: warm.Server, tmp_path: Path) -> None:
    """These import the script anew, by what `__main__` says of itself."""
    (tmp_path / "script.py").write_text("""
import multiprocessing

def square(number):
    return number * number

if __name__ == "__main__":
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        print(pool.map(square, [2, 3]))
""")
    for way in (("script.py",), ("-m", "script")):
        done = run(server.words, *way, cwd=tmp_path)
        assert (done.stdout, done.stderr) == ("[4, 9]\n", "")


def test_another_environment_of_libraries_starts_cold(server: warm.Server) -> None:
    code = "import sys; print('colorsys' in sys.modules, sys.flags.no_user_site); sys.exit(3)"
    given = {"MINE": "1"}, {"PYTHONNOUSERSITE": "1"}
    found = [run(server.words, "-c", code, env=os.environ | each) for each in given]
    assert [(each.stdout, each.returncode) for each in found] == [("True 0\n", 3), ("False 1\n", 3)]


def test_where_it_cannot_be_watched_it_starts_cold(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "pidfd_open")
    assert warm.launcher() == (sys.executable,)


def test_libraries_are_there_and_prl_is_not() -> None:
    code = """
import os, sys
print([name in sys.modules for name in ("torch", "transformers", "trl", "prl", "warm", "ipykernel")])
print(len(os.listdir("/proc/self/task")))
"""
    given = os.environ | {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}
    done = run(warm.launcher(), "-c", code, env=given)
    assert done.stdout == "[True, True, True, False, False, False]\n1\n", done.stderr
