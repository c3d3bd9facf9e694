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
    measured.json.gz                         what the report is written from (`prl.study.parts`)

With --part it is one of several such folders, <output_dir>/<part>/, and the report of all is in <output_dir>.

The folders are the only memory, so the same command continues a study that was stopped anywhere. What the
tasks are says `prl.study.plan`, how they run `prl.study.tasks`, and what came out `prl.study.report`.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock, Timeout

from prl import config, runs
from prl.answers import default_checker
from prl.console import console
from prl.errors import RunError, UsageError, nearest
from prl.recipes import ships
from prl.settings import Settings
from prl.settings.arguments import StudyArguments
from prl.study.plan import ARMS, PARTS, plan, schedule_of, sizes_of, without_none
from prl.study.tasks import execute

STUDIES = ("paper-mini",)


def run(settings: Settings[StudyArguments]) -> Path:
    """Run what is left of a study, write its report and return the path of that.

    Raises UsageError: unknown arms and the like, all at once; RunError: the folder is in use, is no study or
    one with other settings, or tasks failed (after all others were run and reported); PrlError: interrupted.
    """
    from prl.study import report

    arguments = settings.arguments
    _check(arguments)
    chosen = PARTS[arguments.part] if arguments.part else arguments.arms
    arms = [name for name in ARMS if chosen is None or name in chosen]
    root, model = Path(arguments.output_dir).expanduser(), arguments.model_name_or_path
    folder = root / arguments.part if arguments.part else root
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
    sizes = {arm: sizes_of(arm, recipe, arguments.quick) for arm in ARMS}
    # Every recipe is read before anything runs: a slip shows in seconds, not amid the study.
    given = without_none(model_name_or_path=model, threads=1)
    resolved = {
        arm: config.resolve("rl", recipe=f"{recipe}+{arm}", **given, **sizes[arm].get("rl", {}))
        for arm in arms
    }
    schedules = {arm: schedule_of(arm, resolved[arm].trainer) for arm in arms if ARMS[arm].early_percent}
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
    if arguments.part:
        written = report.write_merged(root)
    console.print(f"report: {written}", markup=False)
    if failed:
        lost = sum(not task.is_done for task in tasks) - len(failed)
        raise RunError(_failures(failed, lost, len(tasks)))
    return written


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
    if arguments.part and arguments.part not in PARTS:
        faults.append(f"unknown part {arguments.part!r}{nearest(arguments.part, PARTS)}; {', '.join(PARTS)}")
    if arguments.part and arguments.arms is not None:
        faults.append("arms and part: a part has its arms; leave one of the two out")
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
