"""A submission's function is asked in a process that can harm nobody, and answers in JSON or not at all.

    why_not()                                why this machine cannot isolate; None where it can
    Asking(isolated=True).ask(source, name, inputs)

`prl.course.jail` says what the process is shut off from, `prl.course.runner` what is said on its pipes.
Inputs go one after another: who answers one knows none of the later, and right answers are never sent. What
comes back is data: a line at most `LONGEST_LINE` long, read as JSON. Time is limited for loading, for each
case and in all; who exceeds it is ended with all that it has started.
"""

from __future__ import annotations

import json
import os
import selectors
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from prl.course.cases import NOT_ASKED
from prl.errors import RunError

LOAD_SECONDS, CASE_SECONDS, MOST_SECONDS = 10.0, 2.0, 60
MOST_DEATHS = 2  # of one exercise: then the rest counts as not answered
LONGEST_LINE, MOST_PRINTED, LONGEST_SOURCE = 100_000, 2_000, 200_000
MIB = 2**20
LIMITS = {"AS": 256 * MIB, "CPU": MOST_SECONDS, "FSIZE": 4 * MIB, "NOFILE": 32, "NPROC": 4, "CORE": 0}
SCRATCH_MIB = 8

_HERE = Path(__file__).parent
_SYSTEM = ("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/etc/ld.so.cache")


@dataclass(frozen=True)
class Answer:
    """What came back for one input: a `value`, or an `error`, in the words of the submission's exception or
    of the grader, where the process ended or exceeded a limit."""

    value: Any = None
    error: str | None = None


@dataclass
class Asked:
    """The answers to all inputs, in order, and the first of what the submission printed."""

    answers: list[Answer] = field(default_factory=list)
    printed: str = ""


@cache
def why_not() -> str | None:
    """Why submissions cannot be isolated here, or None where they can. It is tried, once."""
    if sys.platform != "linux":
        return f"{sys.platform} has no namespaces"
    try:
        with _Child(isolated=True) as child:
            found = child.load("def echo(x): return x", "echo")
            if found.value is True and child.say({"arguments": [7]}, LOAD_SECONDS).value == 7:
                return None
            return found.error or "the isolated process does not answer"
    except (OSError, RunError) as error:
        return str(error)


def ask(source: str, name: str, inputs: Sequence[Sequence[Any]], *, isolated: bool = True) -> Asked:
    """What function `name` of `source` answers to each of `inputs`, its arguments.

    A process that ended is started anew for the next input, MOST_DEATHS times. Without `isolated` it is an
    ordinary process of this user: for submissions that one would run oneself. RunError where isolation fails.
    """
    asked = Asked()
    if len(source) > LONGEST_SOURCE:
        asked.answers = [Answer(error=f"a cell of {len(source)} characters; {LONGEST_SOURCE} are read")]
        asked.answers *= len(inputs)
        return asked
    deaths, stop = 0, time.monotonic() + MOST_SECONDS
    while len(asked.answers) < len(inputs):
        with _Child(isolated) as child:
            found = child.load(source, name)
            if found.value is not True:
                error = found.error or f"{name} is no function"
                asked.answers += [Answer(error=error)] * (len(inputs) - len(asked.answers))
            while child.is_alive and len(asked.answers) < len(inputs):
                given = {"arguments": inputs[len(asked.answers)]}
                asked.answers.append(child.say(given, min(CASE_SECONDS, stop - time.monotonic())))
            deaths += not child.is_alive
            child.hear()
        asked.printed = asked.printed or child.printed.decode("utf-8", "replace")
        if deaths > MOST_DEATHS:
            left = len(inputs) - len(asked.answers)
            asked.answers += [Answer(error=NOT_ASKED)] * left
    return asked


class _Child:
    """One process with its pipes; leaving the context ends it, and all that it has started."""

    def __init__(self, isolated: bool) -> None:
        self.isolated, self.is_alive, self.printed, self._read = isolated, True, b"", b""
        self._scratch = tempfile.mkdtemp(prefix="prl-course-")
        self._out, out = os.pipe()
        program = [_python(), "-I", "-S", "-B", "-u"]
        run = [*program, "-c", (_HERE / "runner.py").read_text(encoding="utf-8"), str(out)]
        if isolated:
            given = {"out": out, "scratch": self._scratch, "exec": run, "seconds": MOST_SECONDS + 30}
            given |= {"limits": LIMITS, "scratch_mib": SCRATCH_MIB, **_shown()}
            run = [*program, str(_HERE / "jail.py"), json.dumps(given)]
        self._process = subprocess.Popen(
            run,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            pass_fds=[out],
            start_new_session=True,
            env={},
            cwd=self._scratch,
        )
        os.close(out)
        for pipe in (self._out, self._process.stdin, self._process.stdout):
            os.set_blocking(pipe if isinstance(pipe, int) else pipe.fileno(), False)  # type: ignore[union-attr]

    def __enter__(self) -> _Child:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()
        os.close(self._out)
        for pipe in (self._process.stdin, self._process.stdout):
            with suppress(OSError):  # of what was not sent any more
                pipe.close()  # type: ignore[union-attr]
        shutil.rmtree(self._scratch, ignore_errors=True)

    def end(self) -> None:
        self.is_alive = False
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def load(self, source: str, name: str) -> Answer:
        """Whether `name` is a function of the source, or why it cannot be run. RunError where it does not
        come to that: until the process is ready, nothing in it is the submission's."""
        said: bytes | None = b"unshared"
        if self.isolated and (said := self._exchange(b"", LOAD_SECONDS)) == b"unshared":
            _map_users(self._process.pid)
            self._send(b"\n")
        if said == b"unshared":
            said = self._exchange(b"", LOAD_SECONDS)
        if said != b"ready":
            reason = (said or self.printed or b"no answer").decode("utf-8", "replace")
            raise RunError(f"submissions cannot be run here: {reason.removeprefix('failed: ')}")
        return self.say({"source": source, "name": name}, LOAD_SECONDS)

    def say(self, given: Any, seconds: float) -> Answer:
        """The answer to one line."""
        line = self._exchange(json.dumps(given).encode() + b"\n", seconds)
        if line is None:
            return Answer(error="the process ended, or its answer was too long")
        if line == b"":
            return Answer(error=f"no answer within {max(seconds, 0):.2g} seconds: does it end?")
        try:
            said = json.loads(line)
            error = said.get("error")
            return Answer(said.get("value"), None if error is None else str(error)[:300])
        except (ValueError, RecursionError, AttributeError):
            return Answer(error="an answer that is none: something else wrote into its pipe")

    def _exchange(self, payload: bytes, seconds: float) -> bytes | None:
        """Send, and read a line: b"" where none came in time, None where the process has ended."""
        stop = time.monotonic() + seconds
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(self._out, selectors.EVENT_READ)
            selector.register(stdout, selectors.EVENT_READ)
            if payload:
                selector.register(stdin, selectors.EVENT_WRITE)
            while b"\n" not in self._read:
                left = stop - time.monotonic()
                if left <= 0 or len(self._read) > LONGEST_LINE:
                    self.end()
                    return b"" if left <= 0 else None
                for key, _ in selector.select(left):
                    if key.fileobj is stdin:
                        payload = payload[self._send(payload) :]
                        if not payload:
                            selector.unregister(stdin)
                    elif key.fileobj is stdout:
                        if not self.hear():
                            selector.unregister(stdout)
                    elif new := os.read(self._out, 65536):
                        self._read += new
                    else:
                        self.end()
                        return None
        line, _, self._read = self._read.partition(b"\n")
        return line or b"nothing"

    def hear(self) -> bool:
        """Take in what it printed since; whether there may be more to come."""
        try:
            printed = os.read(self._process.stdout.fileno(), 65536)  # type: ignore[union-attr]
        except BlockingIOError:
            return True
        self.printed += printed[: MOST_PRINTED - len(self.printed)]
        return bool(printed)

    def _send(self, payload: bytes) -> int:
        try:
            return os.write(self._process.stdin.fileno(), payload)  # type: ignore[union-attr]
        except BlockingIOError:
            return 0
        except BrokenPipeError:
            return len(payload)  # nobody reads it; that the process ended is seen where it should answer


def _map_users(process: int) -> None:
    """Say which users the namespace has: root, as who its files are made ready, and nobody, as who the
    submission runs; where this is no root, the one user that there is."""
    folder = Path(f"/proc/{process}")
    if os.geteuid() == 0:
        maps = ("0 0 1\n65534 65534 1",) * 2
    else:
        (folder / "setgroups").write_text("deny")
        maps = (f"0 {os.geteuid()} 1", f"0 {os.getegid()} 1")
    for name, text in zip(("uid_map", "gid_map"), maps, strict=True):
        (folder / name).write_text(text)


@cache
def _python() -> str:
    """The interpreter itself, not that of a virtual environment."""
    return os.path.realpath(getattr(sys, "_base_executable", sys.executable))


@cache
def _shown() -> dict[str, list[str]]:
    """What of this machine the process sees: the interpreter, its standard library and the system's
    libraries, without any package that was installed."""
    roots: list[str] = []
    for path in sorted({*_SYSTEM, os.path.realpath(sys.base_prefix)}):
        if Path(path).exists() and not any(path.startswith(f"{root}/") for root in roots):
            roots.append(path)
    folders = [Path(root) for root in roots if Path(root).is_dir() and not Path(root).is_symlink()]
    patterns = [
        f"{lead}python3*/{kind}-packages" for lead in ("", "lib/", "local/lib/") for kind in ("site", "dist")
    ]
    hidden = {str(path) for folder in folders for pattern in patterns for path in folder.glob(pattern)}
    return {"roots": roots, "hidden": sorted(path for path in hidden if not Path(path).is_symlink())}
