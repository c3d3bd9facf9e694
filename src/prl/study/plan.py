"""The tasks that a study comes to: which commands, in which order, told what."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from prl.errors import UsageError
from prl.study.design import TIMINGS, Arm, Design, Part, Setup
from prl.study.tasks import Task

TIMED: Mapping[str, Any] = {"timed": True, "limit": 100, "samples": 0, "greedy": True}
"""What the evaluation of a timed arm is told: a hundred problems, one greedy response at a time."""


@dataclass(frozen=True)
class Schedule:
    """Optimizer steps of a run, and how often it saves at most."""

    steps: int
    save_steps: int


@dataclass(frozen=True)
class Asked:
    """What a study was asked: how often, over which recipe, and with which model instead of the recipe's.

    `ships`: that it is the model that ships, whose sizes hold then.
    """

    seeds: int
    recipe: str
    model: str | None = None
    ships: bool = True
    quick: bool = False
    threads: int | None = None


def plan(
    design: Design, folder: Path, part: Part, asked: Asked, schedules: Mapping[str, Schedule]
) -> list[Task]:
    """The tasks of a study or a part of one, the first to start first.

    Seed by seed, so that a study that is stopped has whole seeds: cold starts, because arms wait for them,
    RL runs, and their evaluations, which are short and fill the cores while the last long runs end. Timed
    ones come last, and alone. `schedules` has the arms that are evaluated early too.
    """

    def task(
        command: str,
        name: str,
        setup: Setup,
        seed: int,
        start: str | None,
        needs: Sequence[str],
        **given: Any,
    ) -> Task:
        given = without_none(
            recipe=recipe_of(setup, asked),
            model_name_or_path=start,
            output_dir=folder / name,
            seed=seed,
            threads=asked.threads,
            **{**told(design, setup, asked).get(command, {}), **given},
        )
        words = (f"--{key}={value}" for key, value in given.items())
        return Task(name, (command, *words), folder / name, tuple(needs), alone="timed" in given)

    def evaluation(
        name: str, setup: Setup, seed: int, of: str | None, checkpoint: str = "", **given: Any
    ) -> Task:
        start = str(folder / of / checkpoint) if of else asked.model
        return task(
            "eval", name, setup, seed, start, [of] if of else [], **{"greedy": design.greedy, **given}
        )

    cold_starts = cold_starts_of(design, part)
    tasks: list[Task] = []
    timed: dict[str, list[Task]] = {timing: [] for timing in TIMINGS}
    for seed in range(asked.seeds):
        for name, setup in cold_starts.items():
            tasks.append(task("sft", f"cold-start/{name}/seed-{seed}", setup, seed, asked.model, []))
        evaluations = []
        for name in part.arms:
            arm, place = design.arms[name], f"arms/{name}/seed-{seed}"
            begin = f"cold-start/{arm.cold_start}/seed-{seed}" if arm.cold_start else None
            start = str(folder / begin) if begin else asked.model
            early = _early(arm, schedules[name]) if name in schedules else None
            saving = _saving(early, schedules[name]) if early else {}
            rl = f"{place}/rl"
            tasks.append(task("rl", rl, arm.setup, seed, start, [begin] if begin else [], **saving))
            evaluations.append(evaluation(f"{place}/eval", arm.setup, seed, rl))
            if early:
                evaluations.append(
                    evaluation(f"{place}/eval-{early}", arm.setup, seed, rl, f"checkpoint-{early}")
                )
            if arm.timed:
                given = {**TIMED, "limit": design.quick["eval"]["limit"]} if asked.quick else TIMED
                for timing, of_timing in timed.items():
                    of_timing.append(evaluation(f"{place}/{timing}", arm.setup, seed, rl, **given))
        for name, setup in cold_starts.items():
            begin = f"cold-start/{name}/seed-{seed}"
            evaluations.append(evaluation(f"{begin}-eval", setup, seed, begin))
        bases = [
            evaluation(f"{name}/seed-{seed}-eval", design.bases[name], seed, None) for name in part.bases
        ]
        tasks += evaluations + bases
    return tasks + [task for of_timing in timed.values() for task in of_timing]


def left(tasks: Sequence[Task], known: Collection[str]) -> list[Task]:
    """The tasks whose results are not known otherwise, after those that they need and that are not done."""
    kept: list[Task] = []
    needed: set[str] = set()
    for task in reversed(tasks):
        if task.name not in known or task.name in needed:
            kept.append(replace(task, needs=()) if task.is_done else task)
            needed.update(kept[-1].needs)
    return kept[::-1]


def cold_starts_of(design: Design, part: Part) -> dict[str, Setup]:
    """The cold starts of a part, in the order of the design."""
    needed = {design.arms[name].cold_start for name in part.arms} | {*part.cold_starts}
    return {name: setup for name, setup in design.cold_starts.items() if name in needed}


def chosen(design: Design, arms: Iterable[str] | None, part: str | None) -> Part:
    """What to run: a part, some arms with the bases of all, or the whole study."""
    if part:
        return design.parts[part]
    bases = tuple(design.bases)
    if arms is not None:
        asked = {*arms}
        return Part(tuple(name for name in design.arms if name in asked), bases=bases)
    return Part(tuple(design.arms), tuple(design.cold_starts), bases)


def recipe_of(setup: Setup, asked: Asked) -> str:
    """The recipe of a setup: its overlays over what was asked for."""
    return f"{asked.recipe}+{setup.overlays}" if setup.overlays else asked.recipe


def told(design: Design, setup: Setup, asked: Asked) -> dict[str, dict[str, Any]]:
    """What each command of a setup is told beyond its recipe."""
    sizes = [design.quick] if asked.quick else [setup.sizes] if asked.ships else []
    found: dict[str, dict[str, Any]] = {}
    for given in (setup.given, *sizes):
        for command, settings in given.items():
            found.setdefault(command, {}).update(settings)
    return found


def without_none(**settings: Any) -> dict[str, Any]:
    """`settings` without those that are left to the recipe (None)."""
    return {key: value for key, value in settings.items() if value is not None}


def schedule_of(arm: str, trainer: Any) -> Schedule:
    """That of an RL run with these settings of TRL. Raises UsageError: they set no number of steps."""
    if trainer.max_steps < 1:
        raise UsageError(f"arm {arm} is evaluated amid its steps, so its recipe must set rl: max_steps")
    # Below 1 it is a share of all steps.
    save_steps = trainer.save_steps * (trainer.max_steps if trainer.save_steps < 1 else 1)
    return Schedule(trainer.max_steps, max(1, int(save_steps)))


def _early(arm: Arm, schedule: Schedule) -> int:
    return max(1, schedule.steps * (arm.early_percent or 100) // 100)


def _saving(step: int, schedule: Schedule) -> dict[str, int]:
    """Settings under which checkpoint-<step> is written, about as often as the recipe saves, and kept."""
    every = max(count for count in range(1, min(step, schedule.save_steps) + 1) if step % count == 0)
    return {"save_steps": every, "save_total_limit": 1 - (step - schedule.steps) // every}
