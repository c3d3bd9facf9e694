"""The whole method in minutes on a CPU, beside what it has to be held against (`prl demo`, `make demo`).

On the same held-out problems: the base, the cold start, RL; sequential RL, which has the same budget and
solves the same problems without paths; and the votes of several of its samples, at the tokens that the paths
take. `--recipe` says which problems (`KINDS`).

Each run is a command of prl, a process on a core of its own, two at once (`prl.study.tasks`), as the control
needs nothing of the rest. What is timed comes last, with nothing beside it.

`.demo.json` says that a demo has begun, how and when; it goes when demo.json is written. While it is there,
the same command goes on: runs that are done since then are kept, one that was interrupted is resumed.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.table import Table

from prl import evaluation, runs
from prl.analysis.budgets import majority_at_k, votes
from prl.config import parse, resolve
from prl.console import console
from prl.errors import RunError, UsageError, nearest
from prl.evaluation import EvalResult, read_result, read_results
from prl.report.page import write_page
from prl.report.tables import paths_told
from prl.runs.checkpoints import prune
from prl.runs.disk import read_json, writing
from prl.runs.reading import listed
from prl.settings import Settings
from prl.settings.arguments import DemoArguments
from prl.statistics import Estimate, of_shares, paired_difference
from prl.study.tasks import Task, execute, owned

Sizes = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Kind:
    """What a demo does with a recipe: the overlay that makes its sequential control, whether this begins with
    a cold start of its own, and what each command is told besides."""

    control: str = "in-sequence"
    has_cold_start: bool = True
    sizes: Sizes = field(default_factory=dict)


_SHORTER: Sizes = {"sft": {"max_steps": 120, "save_steps": 60}, "eval": {"limit": 300}}
"""A demo in ten minutes on two cores, where the recipe would take a quarter of an hour."""

KINDS: dict[str, Kind] = {
    # To decide between paths is learned last: after 200 steps four of them were no surer than five votes.
    "tiny-search+products": Kind(sizes={**_SHORTER, "sft": {"max_steps": 280, "save_steps": 140}}),
    "tiny-search": Kind(sizes=_SHORTER),
    "tiny-search+equations": Kind(sizes=_SHORTER),
    # The base adds in one line as well as it ever will: a cold start in sequence has nothing to teach it.
    "tiny": Kind("sequential", has_cold_start=False),
}
"""Recipe -> its demo."""

QUICK: dict[str, dict[str, Any]] = {
    "sft": {"limit": 64, "max_steps": 2, "sample_count": 0},
    "rl": {"limit": 32, "max_steps": 2, "max_completion_length": 32},
    "eval": {"limit": 8, "max_completion_length": 32},
}
"""What `--quick` changes: enough to see that everything runs."""

STATE = ".demo.json"

EVALUATIONS = {"base": "eval-base", "SFT": "eval-sft", "sequential": "eval-sequential", "RL": "eval-rl"}
"""Model -> where its evaluation is in the folder of a demo."""

TIMED = {name: folder.replace("eval", "timed") for name, folder in EVALUATIONS.items()}
"""Model -> where its responses are timed, one after another."""

TITLES = {"base": "base", "SFT": "cold start", "RL": "RL", "sequential": "sequential RL"}
"""Model -> what people are told that it is."""

BESIDE = ("sequential", "votes")
"""What RL is held against."""

_TIMED_PROBLEMS, _TIMED_QUICKLY = 50, 4
_VOTERS = 8  # samples of a problem that may vote
_FEWEST_VOTERS = 3  # the vote of two is that of one


@dataclass(frozen=True)
class Voted:
    """The majority of `k` samples of the sequential control a problem: `scores`, the chance that it is right,
    of each; and the means over problems of what the samples cost."""

    k: int
    accuracy: Estimate
    tokens: float
    critical_path: float
    scores: list[float]


@dataclass(frozen=True)
class DemoResult:
    """The evaluations of the models base, SFT, RL and sequential, in `stages`, the `seconds` a problem of
    each (median), the votes of the last, and in sampled held-out accuracy, paired: the gain of RL over SFT,
    and RL `over` "sequential" and its "votes"."""

    stages: dict[str, EvalResult]
    seconds: dict[str, float]
    voted: Voted
    gain: Estimate
    over: dict[str, Estimate]


def run(settings: Settings[DemoArguments]) -> DemoResult:
    """Run the demo, or what is left of it; write a run folder for each command, demo.json and report.html.

    Raises UsageError: a recipe that has no demo; RunError: the folder cannot be written, is in use, or holds
    an interrupted demo with other settings, or runs of no demo, or a command failed; PrlError: interrupted.
    """
    arguments, started = settings.arguments, time.monotonic()
    if arguments.recipe not in KINDS:
        known = ", ".join(KINDS)
        raise UsageError(
            f"recipe {arguments.recipe!r} has no demo{nearest(arguments.recipe, KINDS)}; choose of {known}"
        )
    # Two at once, as the control and the rest are; a model of this size gains little from a second thread.
    jobs = min(2, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    asked = _asked(arguments)
    folder = Path(arguments.output_dir).expanduser()
    tasks, timed = plan(folder, asked, threads=max(1, int(arguments.threads) // jobs))
    with owned(folder, "prl demo"):
        _check_is_free(folder, [*tasks, *timed])
        state = _begin(folder, asked, anew=arguments.overwrite_output_dir)
        for task in [*tasks, *timed]:
            _forget_unless_of_this(task.folder, state["begun_at"])
        try:
            _execute(tasks, folder / "logs", jobs)
            _time(timed)
        except BaseException:
            state["seconds"] += time.monotonic() - started
            runs.write_json(folder / STATE, state)
            raise
        result = read(folder, seed=arguments.seed)
        minutes = (state["seconds"] + time.monotonic() - started) / 60
        runs.write_json(folder / "demo.json", _written(asked, minutes, result))
        evaluations = [folder / name for name in EVALUATIONS.values()]
        trainings = [task.folder for task in tasks if task.folder not in evaluations]
        page = write_page([*evaluations, *trainings], folder / "report.html")
        with writing(folder):
            (folder / STATE).unlink(missing_ok=True)
    _tell(result, asked)
    console.print(
        f"{asked['recipe']}, {asked['attention']} attention, seed {asked['seed']}, {minutes:.1f} minutes; "
        f"the runs are in {folder}, and on a page: {page}",
        markup=False,
    )
    return result


def plan(folder: Path, asked: Mapping[str, Any], *, threads: int) -> tuple[list[Task], list[Task]]:
    """The tasks of a demo, the first to start first, and those to be timed, with nothing beside them.

    The branch with paths is the longer one, so it goes first wherever both could.
    """
    recipe, kind = asked["recipe"], KINDS[asked["recipe"]]
    control = f"{recipe}+{kind.control}"
    sizes = QUICK if asked["quick"] else kind.sizes

    def task(command: str, name: str, recipe: str, start: str | None, **given: Any) -> Task:
        told = {
            "recipe": recipe,
            **({"model_name_or_path": folder / start} if start else {}),
            "output_dir": folder / name,
            "seed": asked["seed"],
            "threads": threads,
            **{**sizes.get(command, {}), **given},
        }
        words = (f"--{key}={value}" for key, value in told.items())
        return Task(name, (command, *words), folder / name, (start,) if start else ())

    models: dict[str, tuple[str, str | None]] = {
        "base": (control, None),
        "SFT": (recipe, "sft"),
        "sequential": (control, "sequential-rl"),
        "RL": (recipe, "rl"),
    }
    begin = "sequential-sft" if kind.has_cold_start else None
    voters: Sizes = {"sequential": {"samples": _VOTERS}}
    problems = _TIMED_QUICKLY if asked["quick"] else _TIMED_PROBLEMS
    timing: Mapping[str, Any] = {"timed": True, "samples": 0, "limit": problems}
    tasks = [
        task("sft", "sft", recipe, None, attention=asked["attention"]),
        *([task("sft", begin, control, None)] if begin else []),
        task("rl", "rl", recipe, "sft"),
        task("rl", "sequential-rl", control, begin),
        *(task("eval", EVALUATIONS[name], *of, **voters.get(name, {})) for name, of in models.items()),
    ]
    return tasks, [task("eval", TIMED[name], *of, **timing) for name, of in models.items()]


def read(folder: Path, *, seed: int) -> DemoResult:
    """What the finished runs of a demo found. Raises RunError: one of them cannot be read."""
    stages = {name: read_result(folder / output) for name, output in EVALUATIONS.items()}
    seconds = {
        name: read_results(folder / output)["timing"]["greedy"]["median"] for name, output in TIMED.items()
    }
    budget = stages["RL"].metrics["sampled/tokens"].mean
    voted = _vote(folder / EVALUATIONS["sequential"], budget, seed)
    scores = {name: result.scores["sampled"] for name, result in stages.items()} | {"votes": voted.scores}
    over = {name: paired_difference(scores[name], scores["RL"], seed=seed) for name in scores if name != "RL"}
    return DemoResult(stages, seconds, voted, over["SFT"], {name: over[name] for name in BESIDE})


def _vote(folder: Path, budget: float, seed: int) -> Voted:
    """The votes of as many samples as have `budget` tokens together, or of all that there are."""
    rows = [row for row in runs.read_samples(folder).to_pylist() if row["mode"] == "sampled"]
    each = read_results(folder)["samples"]
    groups = [rows[start : start + each] for start in range(0, len(rows), each)]
    k = next((k for k in range(_FEWEST_VOTERS, each) if votes(rows, k).tokens >= budget), each)
    scores = [majority_at_k([(row["extracted"], row["correct"]) for row in group], k) for group in groups]
    costs = votes(rows, k)
    return Voted(k, of_shares(scores, seed=seed), costs.tokens, costs.critical_path, scores)


# --- What was asked, and the folder


def _asked(arguments: DemoArguments) -> dict[str, Any]:
    """The settings of a demo: the same command with the same goes on with it."""
    attention = {"attention": arguments.attention} if arguments.attention != "auto" else {}
    settled = resolve("eval", recipe=arguments.recipe, threads=arguments.threads, **attention)
    return {
        "recipe": arguments.recipe,
        "attention": settled.arguments.attention,
        "seed": arguments.seed,
        "quick": arguments.quick,
    }


def _check_is_free(folder: Path, tasks: Sequence[Task]) -> None:
    """Raises RunError: where the runs of a demo are to be there are some, and no demo."""
    if (folder / STATE).exists() or (folder / "demo.json").exists():
        return
    if others := [task.name for task in tasks if (task.folder / "environment.json").exists()]:
        raise RunError(f"{folder} holds runs of no demo ({listed(others)}): choose another --output_dir")


def _begin(folder: Path, asked: Mapping[str, Any], *, anew: bool) -> dict[str, Any]:
    """What `.demo.json` holds: what is asked, when the demo began, and its seconds so far; those of one that
    was interrupted in `folder`, else a new one. Raises RunError."""
    stored = {} if anew else read_json(folder / STATE)
    if "begun_at" in stored:
        before = {"recipe": "tiny", "seconds": 0.0} | stored  # demos were of nothing else once
        if other := [
            f"{name} {before.get(name)}, not {value}"
            for name, value in asked.items()
            if before.get(name) != value
        ]:
            raise RunError(
                f"{folder} holds an interrupted demo with {'; '.join(other)}: ask for the same to go on with "
                "it, choose another --output_dir, or pass --overwrite_output_dir"
            )
        console.print(
            f"{folder}: going on with the demo that was begun at {before['begun_at']}", markup=False
        )
        return before
    if finished := read_json(folder / "demo.json"):
        had = ", ".join(f"{name} {finished[name]}" for name in asked if name in finished)
        console.print(f"{folder}: the finished demo there ({had}) is replaced", markup=False)
    state = {**asked, "begun_at": datetime.now(UTC).isoformat(timespec="seconds"), "seconds": 0.0}
    runs.write_json(folder / STATE, state)
    with writing(folder):  # after that: a kill between them leaves a demo, not runs of none
        (folder / "demo.json").unlink(missing_ok=True)
    return state


def _forget_unless_of_this(folder: Path, begun: str) -> None:
    """Let a run of an earlier demo not count as done, or as one to go on with: it will be written over."""
    if str(read_json(folder / "environment.json").get("started_at", "")) < begun:
        with writing(folder):
            (folder / "DONE").unlink(missing_ok=True)
            prune(folder, keep=0)


def _execute(tasks: Sequence[Task], logs: Path, jobs: int) -> None:
    """Run what is left of the tasks. Raises RunError: one failed."""
    for name, why in execute(tasks, logs, jobs=jobs).items():
        log = logs / f"{name}.log"
        raise RunError(f"{name} failed: {why}; {log} has all of it, and the same command goes on from there")


def _time(tasks: Sequence[Task]) -> None:
    """Run evaluations here, one after another and without a word, so that nothing is beside them."""
    console.print("seconds a problem, one model after another, with nothing beside it", markup=False)
    was_quiet, console.quiet = console.quiet, True
    try:
        for task in tasks:
            if not task.is_done:
                evaluation.run(parse(task.argv[0], [*task.argv[1:], "--overwrite_output_dir"]))
    finally:
        console.quiet = was_quiet


# --- What came out


def _written(asked: Mapping[str, Any], minutes: float, result: DemoResult) -> dict[str, Any]:
    """What demo.json holds."""
    return {
        **asked,
        "minutes": minutes,
        "gain": asdict(result.gain),
        "over": {name: asdict(estimate) for name, estimate in result.over.items()},
        "stages": {
            name: {metric: asdict(estimate) for metric, estimate in stage.metrics.items()}
            for name, stage in result.stages.items()
        },
        "votes": {name: value for name, value in asdict(result.voted).items() if name != "scores"},
        "seconds": result.seconds,
        "analysis": {name: stage.described for name, stage in result.stages.items()},
    }


def _tell(result: DemoResult, asked: Mapping[str, Any]) -> None:
    k = result.voted.k
    console.print(_comparison(result))
    if KINDS[asked["recipe"]].has_cold_start:
        control = "a cold start in sequence, as many steps on the same problems, then the same budget of RL"
    else:
        control = "the same budget of RL, without a cold start: the base solves in sequence already"
    console.print(f"sequential RL: {control}", style="dim", markup=False)
    console.print(
        "seconds: of a problem, the median; greedy, one response at a time on one thread, votes one after "
        "another at most",
        style="dim",
        markup=False,
    )
    for name in ("SFT", "RL"):
        for line in paths_told(result.stages[name].described.get("sampled", {})):
            console.print(f"{TITLES[name]}: {line}", style="dim", markup=False)
    against = {"cold start": result.gain, "sequential RL": result.over["sequential"]}
    against[f"{k} votes of sequential RL"] = result.over["votes"]
    for name, gain in against.items():
        console.print(f"RL over {name}, sampled accuracy, paired: {gain}", markup=False)


def _comparison(result: DemoResult) -> Table:
    """A row a model: what it gets right, and what that takes."""
    problems = len(result.voted.scores)
    grid = Table(title=f"{problems} held-out problems, 95 % intervals", title_justify="left")
    grid.add_column("sampled at temperature 1")
    grid.add_column("right, %", justify="right", no_wrap=True)
    for heading in ("greedy", "tokens", "critical path", "seconds"):
        grid.add_column(heading, justify="right")
    for name, title in TITLES.items():
        found = result.stages[name].metrics
        grid.add_row(
            title,
            _percent(found["sampled/accuracy"]),
            f"{100 * found['greedy/accuracy'].mean:.1f}",
            f"{found['sampled/tokens'].mean:.0f}",
            f"{found['sampled/critical_path'].mean:.0f}",
            f"{result.seconds[name]:.3f}",
        )
    voted = result.voted
    grid.add_row(
        f"{voted.k} votes of it",
        _percent(voted.accuracy),
        "",
        f"{voted.tokens:.0f}",
        f"{voted.critical_path:.0f}",
        f"≤ {voted.k * result.seconds['sequential']:.3f}",
    )
    return grid


def _percent(share: Estimate) -> str:
    return f"{100 * share.mean:.1f} [{100 * share.low:.1f}, {100 * share.high:.1f}]"
