"""The arms of a study, and the tasks that it comes to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from prl.errors import UsageError
from prl.study.tasks import Task


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

PARTS: dict[str, tuple[str, ...]] = {
    "causal": ("sequential", "causal", "causal-no-easy"),
    "structured": ("structured-accuracy", "structured-alternating", "parallel-only", "tiered-only"),
    "levels": ("scaffold", "uniform", "adaptive"),
    "prompts": ("plain-prompt", "parallel-prompt"),
}
"""Part -> its arms. Each makes the cold starts that it needs, so that it can run on another machine."""

COLD_STARTS = {
    "causal": "causal",
    "structured": "structured-accuracy",
    "causal-plain-prompt": "plain-prompt",
    "causal-parallel-prompt": "parallel-prompt",
}
"""Cold start -> the arm whose recipe makes it; those of the other arms that begin with it say the same."""

BASE_ARM = "sequential"
"""The arm whose recipe evaluates the base."""

QUICK: dict[str, dict[str, Any]] = {
    "sft": {"limit": 64, "max_steps": 2},
    "rl": {"limit": 256, "max_steps": 4, "max_completion_length": 32},
    "eval": {"limit": 8, "samples": 2, "max_completion_length": 32},
}
"""What `--quick` tells each command: enough to see that everything runs."""


@dataclass(frozen=True)
class Schedule:
    """Optimizer steps of a run, and how often it saves at most."""

    steps: int
    save_steps: int


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
        given = without_none(
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
        tasks += [*evaluations, evaluation(f"base/seed-{seed}-eval", BASE_ARM, seed, None)]
    return tasks


def sizes_of(arm: str, recipe: str, quick: bool) -> Mapping[str, Mapping[str, Any]]:
    """What each command of an arm is told beyond `recipe`."""
    if quick:
        return QUICK
    return ARMS[arm].sizes if recipe.startswith("tiny+") else {}


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


def _early(arm: str, schedule: Schedule) -> int:
    return max(1, schedule.steps * (ARMS[arm].early_percent or 100) // 100)


def _saving(step: int, schedule: Schedule) -> dict[str, int]:
    """Settings under which checkpoint-<step> is written, about as often as the recipe saves, and kept."""
    every = max(count for count in range(1, min(step, schedule.save_steps) + 1) if step % count == 0)
    return {"save_steps": every, "save_total_limit": 1 - (step - schedule.steps) // every}
