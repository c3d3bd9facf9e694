"""The paper's experiments in miniature (`prl study paper-mini`, `make study`): the training arms of
Parallel-R1 and two of ours, each on several seeds; then tables, figures and a verdict on each claim.

A study is a folder, and a list of tasks. A task is a command of prl that writes a run folder:

    study.yaml                               what was asked, and the environment it was asked in
    cold-start/<cold start>/seed-<s>/        sft, shared by the arms that begin with it
    cold-start/<cold start>/seed-<s>-eval/   before RL; base/seed-<s>-eval/ of the model without any training
    arms/<arm>/seed-<s>/rl/
    arms/<arm>/seed-<s>/eval/                held-out accuracy, sampled
    arms/<arm>/seed-<s>/eval-<n>/            the same of checkpoint-<n>
    logs/<task>.log                          what the command printed
    study.md, study.json, figures/           `prl.study.report`

Tasks are processes, several at once, so that the arms share nothing but the machine. The folders are the only
memory: a task with a DONE is not run again, an interrupted one goes on from its last checkpoint, so the same
command continues a study that was stopped anywhere.
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
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import fmean
from typing import Any

import yaml
from filelock import FileLock, Timeout

from prl import config, runs
from prl.answers import default_checker
from prl.console import console
from prl.errors import PrlError, RunError, UsageError, nearest
from prl.recipes import ships
from prl.settings import Settings
from prl.settings.arguments import StudyArguments

STUDIES = ("paper-mini",)


@dataclass(frozen=True)
class Arm:
    """A way to train, as the overlay recipe of the same name says.

    It begins with `cold_start`, None: with the base; and is evaluated at `early_percent` of its steps too.
    `sizes` is what its commands are told besides, on the model that ships.
    """

    cold_start: str | None
    early_percent: int | None = None
    sizes: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


# An instruction takes up to five times the tokens of the problems themselves; the two are compared with each
# other only.
_PROMPTED = {"sft": {"max_steps": 100}, "rl": {"max_steps": 15}}

ARMS: dict[str, Arm] = {
    "sequential": Arm(None),
    "causal": Arm("causal"),
    "causal-no-easy": Arm("causal"),
    "structured-accuracy": Arm("structured"),
    "structured-alternating": Arm("structured"),
    "parallel-only": Arm("structured"),
    "tiered-only": Arm("structured"),
    "scaffold": Arm("structured"),
    "plain-prompt": Arm("causal-plain-prompt", sizes=_PROMPTED),
    "parallel-prompt": Arm("causal-parallel-prompt", sizes=_PROMPTED),
    "uniform": Arm("structured", early_percent=70),
    "adaptive": Arm("structured", early_percent=70),
}

COLD_STARTS = {
    "causal": "causal",
    "structured": "structured-accuracy",
    "causal-plain-prompt": "plain-prompt",
    "causal-parallel-prompt": "parallel-prompt",
}
"""Cold start -> the arm whose recipe makes it; those of the other arms that begin with it say the same."""

BASE = "sequential"
"""The arm whose recipe evaluates the base."""

QUICK: dict[str, dict[str, Any]] = {
    "sft": {"limit": 64, "max_steps": 2},
    "rl": {"limit": 256, "max_steps": 4, "max_completion_length": 32},
    "eval": {"limit": 8, "samples": 2, "max_completion_length": 32},
}
"""What `--quick` tells each command: enough to see that everything runs."""

LAUNCHER = (sys.executable, "-m", "prl")

_POLL_SECONDS = 0.1
_SECONDS_TO_DIE = 10
_LONGEST_LINE = 300  # characters of a log's last line


@dataclass(frozen=True)
class Task:
    """One command of prl: its words, the run folder that it writes, and the tasks that come before it."""

    name: str
    argv: tuple[str, ...]
    folder: Path
    needs: tuple[str, ...] = ()

    @property
    def is_done(self) -> bool:
        """Whether its run is finished."""
        return (self.folder / "DONE").exists()


@dataclass(frozen=True)
class Schedule:
    """Optimizer steps of a run, and how often it saves at most."""

    steps: int
    save_steps: int


def run(settings: Settings[StudyArguments]) -> Path:
    """Run what is left of a study, write its report and return the path of that.

    Raises UsageError: unknown arms and the like, all at once; RunError: the folder is in use, is no study or
    one with other settings, or tasks failed (after all others were run and reported); PrlError: interrupted.
    """
    from prl.study import report

    arguments = settings.arguments
    _check(arguments)
    arms = [name for name in ARMS if arguments.arms is None or name in arguments.arms]
    folder, model = Path(arguments.output_dir).expanduser(), arguments.model_name_or_path
    if model:
        runs.adapter_dir(model)  # for its refusal of a folder that is not there
    recipe = _recipe(arguments, _read(folder), arms[0])
    asked = {
        "study": arguments.study,
        "arms": arms,
        "seeds": arguments.seeds,
        "recipe": recipe,
        "model_name_or_path": model,
        "quick": arguments.quick,
    }
    _check_same(folder, asked)
    # Of all arms: a cold start, and the base, may go by the recipe of one that was not asked for.
    sizes = {arm: _sizes(arm, recipe, arguments.quick) for arm in ARMS}
    # Every recipe is read before anything runs: a slip shows in seconds, not amid the study.
    given = _without_none(model_name_or_path=model, threads=1)
    resolved = {
        arm: config.resolve("rl", recipe=f"{recipe}+{arm}", **given, **sizes[arm].get("rl", {}))
        for arm in arms
    }
    schedules = {arm: _schedule(arm, resolved[arm].trainer) for arm in arms if ARMS[arm].early_percent}
    jobs = _jobs(arguments.jobs, resolved[arms[0]].arguments.device)
    default_checker().start()  # not amid the study either
    with _owned(folder):
        if not _check_same(folder, asked):
            text = yaml.safe_dump({**asked, "environment": runs.describe_environment()}, sort_keys=False)
            runs.write_atomic(folder / "study.yaml", text.encode())
        tasks = plan(
            folder,
            arms,
            seeds=arguments.seeds,
            recipe=recipe,
            model=model,
            sizes=sizes,
            schedules=schedules,
            threads=1 if jobs > 1 else None,
        )
        if arguments.trust_remote_code:
            tasks = [replace(task, argv=(*task.argv, "--trust_remote_code")) for task in tasks]
        failed = execute(tasks, folder / "logs", jobs=jobs)
        written = report.write(folder)
    console.print(f"report: {written}", markup=False)
    if failed:
        lost = sum(not task.is_done for task in tasks) - len(failed)
        raise RunError(_failures(failed, lost, len(tasks)))
    return written


def plan(
    folder: Path,
    arms: Sequence[str],
    *,
    seeds: int,
    recipe: str,
    model: str | None = None,
    sizes: Mapping[str, Mapping[str, Mapping[str, Any]]],
    schedules: Mapping[str, Schedule],
    threads: int | None = None,
) -> list[Task]:
    """The tasks of a study, the first to start first.

    Cold starts come first because arms wait for them, then seed by seed its RL runs, and after these their
    evaluations, which are short and fill the cores while the last long runs end. `sizes` maps an arm to what
    each command is told beyond the recipe; `schedules` has the arms that are evaluated early too.
    """

    def task(
        command: str, name: str, arm: str, seed: int, start: str | None, needs: Sequence[str], **given: Any
    ) -> Task:
        given = _without_none(
            recipe=f"{recipe}+{arm}",
            model_name_or_path=start,
            output_dir=folder / name,
            seed=seed,
            threads=threads,
            **{**sizes[arm].get(command, {}), **given},
        )
        words = (f"--{key}={value}" for key, value in given.items())
        return Task(name, (command, *words), folder / name, tuple(needs))

    def evaluation(name: str, arm: str, seed: int, of: str | None, checkpoint: str = "") -> Task:
        start = str(folder / of / checkpoint) if of else model
        return task("eval", name, arm, seed, start, [of] if of else [], greedy=False)

    cold_starts = [name for name in COLD_STARTS if name in {ARMS[arm].cold_start for arm in arms}]
    tasks = [
        task("sft", f"cold-start/{name}/seed-{seed}", COLD_STARTS[name], seed, model, [])
        for seed in range(seeds)
        for name in cold_starts
    ]
    for seed in range(seeds):
        evaluations = []
        for arm in arms:
            cold_start = ARMS[arm].cold_start
            begin = f"cold-start/{cold_start}/seed-{seed}" if cold_start else None
            start = str(folder / begin) if begin else model
            place = f"arms/{arm}/seed-{seed}"
            early = _early(arm, schedules[arm]) if arm in schedules else None
            saving = _saving(early, schedules[arm]) if early else {}
            tasks.append(task("rl", f"{place}/rl", arm, seed, start, [begin] if begin else [], **saving))
            evaluations.append(evaluation(f"{place}/eval", arm, seed, f"{place}/rl"))
            if early:
                evaluations.append(
                    evaluation(f"{place}/eval-{early}", arm, seed, f"{place}/rl", f"checkpoint-{early}")
                )
        for name in cold_starts:
            begin = f"cold-start/{name}/seed-{seed}"
            evaluations.append(evaluation(f"{begin}-eval", COLD_STARTS[name], seed, begin))
        tasks += [*evaluations, evaluation(f"base/seed-{seed}-eval", BASE, seed, None)]
    return tasks


def _sizes(arm: str, recipe: str, quick: bool) -> Mapping[str, Mapping[str, Any]]:
    if quick:
        return QUICK
    return ARMS[arm].sizes if recipe.startswith("tiny+") else {}


def _without_none(**settings: Any) -> dict[str, Any]:
    """`settings` without those that are left to the recipe (None)."""
    return {key: value for key, value in settings.items() if value is not None}


def _schedule(arm: str, trainer: Any) -> Schedule:
    if trainer.max_steps < 1:
        raise UsageError(f"arm {arm} is evaluated amid its steps, so its recipe must set rl: max_steps")
    # Below 1 it is a share of all steps.
    save_steps = trainer.save_steps * (trainer.max_steps if trainer.save_steps < 1 else 1)
    return Schedule(trainer.max_steps, max(1, int(save_steps)))


def _early(arm: str, schedule: Schedule) -> int:
    return max(1, schedule.steps * (ARMS[arm].early_percent or 100) // 100)


def _saving(step: int, schedule: Schedule) -> dict[str, int]:
    """Settings under which checkpoint-<step> is written, about as often as the recipe saves, and kept."""
    every = max(count for count in range(1, min(step, schedule.save_steps) + 1) if step % count == 0)
    return {"save_steps": every, "save_total_limit": 1 - (step - schedule.steps) // every}


# --- Running tasks


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

    Returns task -> why it failed; what needs a failed task is not run, everything else is. Ctrl-C reaches
    the processes as well, which finish their step and save; then PrlError says how to go on. SIGTERM does the
    same.
    """
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
                if len(children) == jobs:
                    break
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


def _start(task: Task, logs: Path, launcher: Sequence[str]) -> _Child:
    """Start a task, or go on with it; in our own process group, so that Ctrl-C reaches it."""
    resumable = task.argv[0] != "eval" and runs.last_checkpoint(task.folder)
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


def _failures(failed: Mapping[str, str], lost: int, total: int) -> str:
    waiting = f", {lost} that need them were not run" if lost else ""
    lines = [f"{name}: {why}" for name, why in failed.items()]
    return "\n  ".join(
        [f"{len(failed)} of {total} tasks failed{waiting}; the same command tries them again", *lines]
    )


# --- What was asked, and the folder


def _check(arguments: StudyArguments) -> None:
    faults = []
    if arguments.study not in STUDIES:
        faults.append(f"unknown study {arguments.study!r}{nearest(arguments.study, STUDIES)}")
    if arguments.arms == []:
        faults.append("no arms: name some, or leave --arms out for all")
    faults += [f"unknown arm {arm!r}{nearest(arm, ARMS)}" for arm in arguments.arms or () if arm not in ARMS]
    if arguments.seeds < 1:
        faults.append(f"seeds {arguments.seeds}: must be 1 or more")
    if arguments.jobs != "auto" and not (arguments.jobs.isdecimal() and int(arguments.jobs) >= 1):
        faults.append(f"jobs {arguments.jobs!r}: must be a number from 1, or auto")
    if faults:
        raise UsageError("\n  ".join([*faults, f"The arms are {', '.join(ARMS)}"]))


def _recipe(arguments: StudyArguments, earlier: Mapping[str, Any], arm: str) -> str:
    """What the arms are laid over: the recipe asked for, that of the study to go on with, or prl's choice;
    `tiny` with the sizes of this study."""
    recipe = arguments.recipe or earlier.get("recipe")
    if not arguments.recipe and recipe is not None and not ships(str(recipe)):
        raise RunError(
            f"{arguments.output_dir} is a study with a recipe of its own: pass --recipe {recipe!r} to go on"
        )
    if recipe is None:
        model = arguments.model_name_or_path or "tiny"
        chosen = config.resolve("eval", recipe=arm, model_name_or_path=model, threads=1)
        console.print(f"recipe: {chosen.chosen['recipe']}", markup=False)
        recipe = str(chosen.recipe).removesuffix(f"+{arm}")
    return f"tiny+{arguments.study}" if recipe == "tiny" else recipe


def _jobs(asked: str, device: str) -> int:
    """Runs at once: one a core on a CPU, since so small a model gains nothing from a second thread; one on a
    GPU, whose memory a recipe fills."""
    if asked != "auto":
        return int(asked)
    if device != "cpu":
        return 1
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextlib.contextmanager
def _owned(folder: Path) -> Iterator[None]:
    """The study folder, for this process alone. Raises RunError."""
    lock = FileLock(folder / ".lock", timeout=0, fallback_to_soft=False)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout:
        raise RunError(
            f"{folder} is in use by another `prl study`: wait for it, or choose another --output_dir"
        ) from None
    except OSError as error:
        raise RunError(
            f"{folder} cannot be written: {error.strerror or error}. Choose another --output_dir"
        ) from error
    try:
        yield
    finally:
        lock.release()


def _read(folder: Path) -> dict[str, Any]:
    """What study.yaml holds; empty when there is none. Raises RunError."""
    path = folder / "study.yaml"
    try:
        stored = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (OSError, ValueError, yaml.YAMLError) as error:
        stored = error
    if not isinstance(stored, dict):
        raise RunError(f"{path} cannot be read as the settings of a study: choose another --output_dir")
    return stored


def _check_same(folder: Path, asked: Mapping[str, Any]) -> bool:
    """Whether the folder holds this study already. Raises RunError: it holds another, or something else."""
    stored = _read(folder)
    others = sorted(path.name for path in folder.glob("*") if not path.name.startswith("."))
    if others and not stored:
        raise RunError(
            f"{folder} is not empty and no study ({', '.join(others[:5])}): choose another --output_dir"
        )
    differences = [
        f"{key} {_text(stored.get(key))}, not {_text(value)}"
        for key, value in asked.items()
        if stored and stored.get(key) != value
    ]
    if differences:
        raise RunError(
            f"{folder} is a study with {'; '.join(differences)}: "
            "ask for the same, or choose another --output_dir"
        )
    return bool(stored)


def _text(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
