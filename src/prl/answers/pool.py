"""Worker processes that can be killed: the only place where model text meets a computer algebra system.

A worker is a plain child process with two pipes, not a `multiprocessing` one: it starts under any start
method, in daemonic DataLoader workers, in notebooks and threads, and never imports the caller's `__main__`.
It is started when a pair first needs it, serves one pair at a time, and is killed from outside when the
deadline passes.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
import time
import weakref
from pathlib import Path
from typing import Any

from prl.answers.judging import Verdict
from prl.answers.worker import receive, send
from prl.errors import VerifierError

START_SECONDS = 120.0  # imports of sympy from a cold disk, on a machine that is busy
STARTS = 2  # tries: the first may be killed by the system, or by whoever stops a group of processes
PATIENCE = 5  # times the deadline, for a worker that gets less than STARVED of a core
STARVED = 0.25
PROGRAM = "from prl.answers.worker import main; main()"
RECYCLE_AFTER = 20_000  # pairs, so that a slow leak in a library stays small

REINSTALL = f"reinstall latex2sympy2==1.9.1, until `{sys.executable} -c 'import prl.answers.algebra'` passes"
FREE = "free memory or processes (`ulimit -u`) and try again"
NO_PYTHON = "have `sys.executable` name the Python that prl is installed in"
"""Advice where a worker says itself why it cannot start, where it is not let, and where no Python is."""


# Ctrl-C goes to the parent alone, which then decides what becomes of its workers.
_OWN_GROUP: dict[str, Any] = (
    {"process_group": 0}
    if os.name == "posix"
    else {"creationflags": getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0)}
)


def _cpu_seconds(pid: int) -> float | None:
    """Processor time that a process has used; None where the system does not say (Linux does, in /proc)."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError, AttributeError):
        return None


def _module_path() -> list[str]:
    """This process's module path, less the script's and the current folder, where a sympy.py may lie."""
    own = {Path.cwd(), Path(sys.argv[0] or ".").resolve().parent}
    return [
        entry for entry in sys.path if isinstance(entry, str) and entry and Path(entry).resolve() not in own
    ]


class Worker:
    """One child process. Not thread-safe: a worker is owned by one thread at a time.

    `fault` says why it did not become ready, and `advice` what may help; empty where it did.
    """

    def __init__(self, deadline: float, memory: int) -> None:
        self.deadline = deadline
        self.served = 0
        path = [str(Path(__file__).parents[2]), *_module_path()]
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONINSPECT"}
        environment |= {
            "PYTHONPATH": os.pathsep.join(path),
            "PYTHONHASHSEED": "0",
            "PYTHONWARNINGS": "ignore",
        }
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-c", PROGRAM, str(deadline), str(memory)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
            **_OWN_GROUP,
        )
        self.fault, self.advice = self._start()

    def judge(self, pred: str, gold: str) -> Verdict | None:
        """The worker's verdict; None when the worker is gone: killed at the deadline, or dead by itself."""
        self.served += 1
        message = self._exchange({"pred": pred, "gold": gold}, self.deadline)
        if message is None:
            return None
        if message.get("retire"):
            self.kill()
        return Verdict(bool(message["equal"]), str(message["reason"]), str(message["detail"]))

    def _start(self) -> tuple[str, str]:
        first = self._exchange(None, START_SECONDS)
        if first and "ready" in first:
            return "", ""
        self.kill()
        if first:
            fault = " ".join(str(first["fault"]).split())
            return fault, FREE if first["full"] else REINSTALL
        if self.expired:
            return f"it was not ready within {self.waited:.3g} s", FREE
        return f"it ended with status {self.process.returncode}", FREE

    def abandon(self) -> None:
        """In a forked child: drop the pipes without writing to them; the parent's ends are the last."""
        for stream in (self.process.stdin, self.process.stdout):
            raw = getattr(stream, "raw", None)
            if raw is not None:
                raw.close()

    @property
    def alive(self) -> bool:
        return self.process.returncode is None and self.served < RECYCLE_AFTER

    def _exchange(self, request: dict[str, str] | None, seconds: float) -> dict[str, object] | None:
        """The reply to `request` (None: the first frame); None when the process had to be killed or died."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.expired, self.waited = False, 0.0
        done = threading.Event()
        watchdog = threading.Thread(target=self._watch, args=(seconds, done), daemon=True)
        watchdog.start()
        message = None
        try:
            if request is not None:
                send(self.process.stdin, request)
            message = receive(self.process.stdout)
        except (OSError, ValueError):
            pass  # the pipe broke: the worker is dead
        finally:  # also on Ctrl-C between request and reply, when the pipe is out of step
            done.set()
            watchdog.join()
            if message is None or self.expired:
                self.kill()
        return message

    def _watch(self, seconds: float, done: threading.Event) -> None:
        """Kill the process unless it is `done` in time.

        One that has hardly run, because the machine is busy with others or reads its pages from disk, gets up
        to `PATIENCE` times as long: a late verdict is better than a wrong one.
        """
        start, used = time.monotonic(), _cpu_seconds(self.process.pid)
        late = not done.wait(seconds)
        while late and time.monotonic() - start < PATIENCE * seconds:
            elapsed = time.monotonic() - start
            now = _cpu_seconds(self.process.pid)
            if used is None or now is None or now - used > STARVED * elapsed:
                break
            late = not done.wait(seconds / 8)
        if late:
            self.expired, self.waited = True, time.monotonic() - start
            self.process.kill()

    def kill(self) -> None:
        """End the process and collect it: no zombie stays."""
        self.process.kill()
        self.close()

    def close(self) -> None:
        """Close the pipes, on which the worker exits, and collect it."""
        for stream in (self.process.stdin, self.process.stdout):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()
        try:
            self.process.wait(2)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


class Pool:
    """At most `size` workers, started on demand, shared by threads."""

    def __init__(self, size: int, deadline: float, memory: int) -> None:
        self.size, self.deadline, self.memory = size, deadline, memory
        self._inherited: list[Worker] = []
        self._reset()
        _pools.add(self)

    def _reset(self) -> None:
        self._slots = threading.BoundedSemaphore(self.size)
        self._lock = threading.Lock()
        self._idle: list[Worker] = []
        self._busy: set[Worker] = set()

    def judge(self, pred: str, gold: str) -> Verdict:
        """A worker's verdict on the pair; "timed out" or "crashed" when it gave none. Blocks while all
        workers are busy. Raises VerifierError where none can start: that says nothing about the pair."""
        with self._slots:
            worker = self._take()
            try:
                self._busy.add(worker)
                verdict = worker.judge(pred, gold)
            finally:
                self._busy.discard(worker)
                self._give_back(worker)
            if verdict is not None:
                return verdict
            if worker.expired:
                return Verdict(False, "timed out", f"no decision in {self.deadline:g} s")
            return Verdict(False, "crashed", f"the worker died with status {worker.process.returncode}")

    def start(self) -> None:
        """Have a worker ready. Raises VerifierError where none can start."""
        with self._slots:
            self._give_back(self._take())

    def _take(self) -> Worker:
        """An idle worker, else a new one."""
        with self._lock:
            worker = self._idle.pop() if self._idle else None
        if worker is not None:
            if worker.process.poll() is None:
                return worker
            worker.kill()  # died while idle
        fault, advice = "", FREE
        for _ in range(STARTS):
            try:
                worker = Worker(self.deadline, self.memory)
            except (OSError, RuntimeError, TypeError) as error:  # no process, thread or interpreter to be had
                fault = str(error)
                if isinstance(error, FileNotFoundError | PermissionError | TypeError):
                    advice = NO_PYTHON
                continue
            if not worker.fault:
                return worker
            fault, advice = worker.fault, worker.advice
            if worker.expired:
                break
        raise VerifierError(
            f"answers cannot be judged, the verifier's process does not start: {fault}; {advice}"
        )

    def _give_back(self, worker: Worker) -> None:
        if worker.alive:
            with self._lock:
                self._idle.append(worker)
        else:
            worker.close()

    def close(self) -> None:
        """End all idle workers; the pool starts new ones when it is used again."""
        with self._lock:
            idle, self._idle = self._idle, []
        for worker in idle:
            worker.close()

    def interrupt(self) -> None:
        """Kill the workers that are at work, so that the threads that wait for them can end."""
        for worker in list(self._busy):
            worker.process.kill()

    def forget(self) -> None:
        """In a forked child: the workers are the parent's. Their pipes are dropped, unused; this process
        starts its own."""
        for worker in self._idle:
            worker.abandon()
        self._inherited += self._idle
        self._reset()


_pools: weakref.WeakSet[Pool] = weakref.WeakSet()


def _after_fork() -> None:
    for pool in _pools:
        pool.forget()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
