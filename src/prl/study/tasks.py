"""The tasks of a study as processes, several at once, so that the arms share nothing but the machine.

The folders are the only memory: a task with a DONE is not run again, an interrupted one goes on from its last
checkpoint, an evaluation from its samples.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

from filelock import FileLock, Timeout

from prl import runs
from prl.console import console
from prl.errors import PrlError, RunError
from prl.runs.disk import writing
from prl.runs.samples import shards

LAUNCHER = (sys.executable, "-m", "prl")

_POLL_SECONDS = 0.1
_SECONDS_TO_DIE = 10
_LONGEST_LINE = 300  # characters of a log's last line


@dataclass(frozen=True)
class Task:
    """One command of prl: its words, the run folder that it writes, and the tasks that come before it.

    `alone`: nothing may run beside it, as where it is timed.
    """

    name: str
    argv: tuple[str, ...]
    folder: Path
    needs: tuple[str, ...] = ()
    alone: bool = False

    @property
    def is_done(self) -> bool:
        """Whether its run is finished."""
        return (self.folder / "DONE").exists()


@dataclass
class _Child:
    task: Task
    process: subprocess.Popen[bytes]
    log: Path
    log_start: int
    started: float = field(default_factory=time.monotonic)

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.started


def execute(
    tasks: Sequence[Task], logs: Path, *, jobs: int, launcher: Sequence[str] = LAUNCHER
) -> dict[str, str]:
    """Run the tasks that are not done, `jobs` at once, in their order as far as `needs` allows.

    A task that is to be alone starts when nothing else runs, and nothing starts beside it. Returns task ->
    why it failed; what needs a failed task is not run, everything else is. Ctrl-C reaches
    the processes as well, which finish their step and save; then PrlError says how to go on. SIGTERM does the
    same. ValueError: a task needs one that is not among them, and would be waited for without end.
    """
    names = {task.name for task in tasks}
    if lost := sorted({need for task in tasks for need in task.needs} - names):
        raise ValueError(f"needed, and no task: {', '.join(lost)}")
    logs.mkdir(parents=True, exist_ok=True)
    done = {task.name for task in tasks if task.is_done}
    waiting = [task for task in tasks if task.name not in done]
    seconds = _seconds_of(task for task in tasks if task.is_done)
    failed: dict[str, str] = {}
    children: list[_Child] = []
    said_busy = False
    console.print(f"{len(waiting)} of {len(tasks)} tasks to do, {jobs} at once; logs: {logs}", markup=False)
    with _ending(children):
        while waiting or children:
            for child in [child for child in children if child.process.poll() is not None]:
                children.remove(child)
                name = child.task.name
                if why := _why_failed(child):
                    failed[name] = why
                    waiting = _without_those_that_need(name, waiting)
                    said = f"failed after {_minutes(child.seconds)}: {why}"
                else:
                    done.add(name)
                    seconds.setdefault(child.task.argv[0], []).append(child.seconds)
                    said = _minutes(child.seconds) + _left(waiting, children, seconds, jobs)
                ended = len(tasks) - len(waiting) - len(children)
                console.print(f"{ended:>4}/{len(tasks)}  {name}  {said}", markup=False)
            for task in [task for task in waiting if done.issuperset(task.needs)]:
                if len(children) == jobs or any(child.task.alone for child in children):
                    break
                if task.alone and children:
                    continue
                if _is_in_use(task.folder):
                    if not said_busy:
                        console.print(
                            f"{task.folder}: another process still writes it; waiting", markup=False
                        )
                    said_busy = True
                    continue
                waiting.remove(task)
                if task.is_done:
                    done.add(task.name)
                else:
                    children.append(_start(task, logs, launcher))
            time.sleep(_POLL_SECONDS)
    return failed


@contextlib.contextmanager
def owned(folder: Path, command: str) -> Iterator[None]:
    """A folder of several runs, for this process of `command` alone. Raises RunError: it is in use, or cannot
    be written."""
    lock = FileLock(folder / ".lock", timeout=0, fallback_to_soft=False)
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire()
        except Timeout:  # an OSError too
            raise RunError(
                f"{folder} is in use by another `{command}`: wait for it, or choose another --output_dir"
            ) from None
    try:
        yield
    finally:
        lock.release()


def _start(task: Task, logs: Path, launcher: Sequence[str]) -> _Child:
    """Start a task, or go on with it; in our own process group, so that Ctrl-C reaches it."""
    resumable = shards(task.folder) if task.argv[0] == "eval" else runs.last_checkpoint(task.folder)
    how = "--resume" if resumable else "--overwrite_output_dir"
    log = logs / f"{task.name.replace('/', '-')}.log"
    with log.open("ab") as file:
        log_start = file.tell()
        process = subprocess.Popen(
            [*launcher, *task.argv, how],
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            env=os.environ | {"PYTHONIOENCODING": "utf-8"},  # a log is read back, whatever the locale
        )
    return _Child(task, process, log, log_start)


@contextlib.contextmanager
def _ending(children: list[_Child]) -> Iterator[None]:
    """Leave no process behind, however the block ends; PrlError where Ctrl-C or SIGTERM ended it."""

    def terminated(number: int, frame: Any) -> None:
        for child in children:
            child.process.send_signal(signal.SIGINT)
        raise KeyboardInterrupt

    handles = threading.current_thread() is threading.main_thread()  # signals can be handled nowhere else
    previous = signal.signal(signal.SIGTERM, terminated) if handles else None
    try:
        yield
    except KeyboardInterrupt:
        console.print("waiting for the runs to finish their step and save; Ctrl-C again stops at once")
        with contextlib.suppress(KeyboardInterrupt):
            for child in children:
                child.process.wait()
        raise PrlError(
            "interrupted; what was done is kept, and the same command goes on from there"
        ) from None
    finally:
        for child in children:
            child.process.terminate()
        for child in children:
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.process.wait(_SECONDS_TO_DIE)
            child.process.kill()
            child.process.wait()
        if handles:
            signal.signal(signal.SIGTERM, previous)


def _is_in_use(run: Path) -> bool:
    """Whether a process writes the run: one that outlived a killed study goes on with its task."""
    if not (run / ".lock").exists():
        return False
    try:
        with FileLock(run / ".lock", timeout=0, fallback_to_soft=False):
            return False
    except Timeout:
        return True


def _why_failed(child: _Child) -> str | None:
    """The last line that a process wrote, and what ended it if prl did not; None for a finished run."""
    status = child.process.returncode
    if status == 0 and child.task.is_done:
        return None
    last = _last_line(child.log, child.log_start)
    if status > 0:
        return last or f"exit status {status}, without a word"
    ended = f"killed by signal {-status}" if status < 0 else "it ended without a DONE"
    return f"{ended}; its last line: {last}" if last else ended


def _last_line(log: Path, start: int) -> str:
    """The end of the last line with text from `start` on; of a log of any size."""
    with log.open("rb") as file:
        file.seek(max(start, log.stat().st_size - 8 * _LONGEST_LINE))
        lines = file.read().decode(errors="replace").split("\n")
    return next((line.strip()[-_LONGEST_LINE:] for line in reversed(lines) if line.strip()), "")


def _without_those_that_need(name: str, waiting: Sequence[Task]) -> list[Task]:
    lost, kept = {name}, []
    for task in waiting:  # a task comes after those that it needs
        if lost.isdisjoint(task.needs):
            kept.append(task)
        else:
            lost.add(task.name)
    return kept


def _seconds_of(tasks: Iterator[Task]) -> dict[str, list[float]]:
    """Command -> how long runs of it took."""
    seconds: dict[str, list[float]] = {}
    for task in tasks:
        summary = runs.read_summary(task.folder) or {}
        if isinstance(took := summary.get("wall_seconds"), int | float):
            seconds.setdefault(task.argv[0], []).append(took)
    return seconds


def _left(
    waiting: Sequence[Task], children: Sequence[_Child], seconds: Mapping[str, list[float]], jobs: int
) -> str:
    """What is left by the mean of each command so far; one that was not run yet counts as the others."""
    every = [took for each in seconds.values() for took in each]

    def expected(task: Task) -> float:
        return fmean(seconds.get(task.argv[0]) or every)

    left = sum(map(expected, waiting)) + sum(
        max(0.0, expected(child.task) - child.seconds) for child in children
    )
    return f", about {_minutes(left / jobs)} left" if left else ""


def _minutes(seconds: float) -> str:
    return f"{seconds / 60:.1f} min"
