"""The paper's experiments in miniature (`prl study paper-mini`, `make study`): arms on several seeds; then
tables, figures and a verdict on each claim. What they are says a design (`prl.study.designs`).

A study is a folder, and a list of tasks. A task is a command of prl that writes a run folder:

    study.yaml                               what was asked, and the environment it was asked in
    cold-start/<cold start>/seed-<s>/        sft, shared by the arms that begin with it
    cold-start/<cold start>/seed-<s>-eval/   before RL; base/seed-<s>-eval/ of the model without any training
    arms/<arm>/seed-<s>/rl/
    arms/<arm>/seed-<s>/eval/                held-out accuracy
    arms/<arm>/seed-<s>/timed-<n>/           one response at a time, with nothing beside; three times
    arms/<arm>/seed-<s>/eval-<n>/            the same of checkpoint-<n>
    logs/<task>.log                          what the command printed
    study.md, study.html, study.json, figures/     `prl.study.report`
    measured.json.gz                         what the report is written from (`prl.study.parts`)

With --part it is one of several such folders, <output_dir>/<part>/, and the report of all is in <output_dir>.

The folders are the only memory, so the same command continues a study that was stopped anywhere. Where its
measured.json.gz is alone, as on another machine, it runs what that lacks. What the tasks are says
`prl.study.plan`, how they run `prl.study.tasks`, and what came out `prl.study.report`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from prl import config, runs
from prl.answers import default_checker
from prl.console import console
from prl.errors import RunError, UsageError, nearest
from prl.recipes import ships
from prl.settings import Settings
from prl.settings.arguments import StudyArguments
from prl.study import parts
from prl.study.design import Design, Part
from prl.study.designs import DESIGNS
from prl.study.plan import (
    Asked,
    Schedule,
    chosen,
    cold_starts_of,
    left,
    plan,
    recipe_of,
    schedule_of,
    told,
    without_none,
)
from prl.study.tasks import execute, owned


def run(settings: Settings[StudyArguments]) -> Path:
    """Run what is left of a study, write its report and return the path of that.

    Raises UsageError: unknown arms and the like, all at once; RunError: the folder is in use, is no study or
    one with other settings, or tasks failed (after all others were run and reported); PrlError: interrupted.
    """
    from prl.study import report

    arguments = settings.arguments
    _check(arguments)
    design = DESIGNS[arguments.study]
    part = chosen(design, arguments.arms, arguments.part)
    root, model = Path(arguments.output_dir).expanduser(), arguments.model_name_or_path
    folder = root / arguments.part if arguments.part else root
    if model:
        runs.adapter_dir(model)  # for its refusal of a folder that is not there
    recipe = _recipe(design, arguments, _read(folder))
    asked = {
        "study": arguments.study,
        "arms": [*part.arms],
        "seeds": arguments.seeds,
        "recipe": recipe,
        "model_name_or_path": model,
        "quick": arguments.quick,
    }
    _check_same(folder, asked)
    ships = recipe == design.recipe_of(None)
    words = Asked(arguments.seeds, recipe, model, ships=ships, quick=arguments.quick)
    schedules, device = _resolved(design, part, words)
    jobs = _jobs(arguments.jobs, device)
    default_checker().start()  # not amid the study either
    with owned(folder, "prl study"):
        earlier = parts.earlier(folder)
        if parts.is_only_measured(folder):
            (folder / parts.FILE).rename(folder / parts.EARLIER)
        _check_same(folder, asked)
        ran = {"part": arguments.part, "bases": [*part.bases], "environment": runs.describe_environment()}
        known = _read(folder) if (folder / "study.yaml").exists() else ran
        runs.write_atomic(
            folder / "study.yaml", yaml.safe_dump(asked | known | asked, sort_keys=False).encode()
        )
        tasks = plan(design, folder, part, replace(words, threads=1 if jobs > 1 else None), schedules)
        if arguments.trust_remote_code:
            tasks = [replace(task, argv=(*task.argv, "--trust_remote_code")) for task in tasks]
        if earlier is not None:
            every, tasks = len(tasks), left(tasks, parts.known(earlier))
            console.print(f"{every - len(tasks)} of {every} tasks were measured elsewhere", markup=False)
        failed = execute(tasks, folder / "logs", jobs=jobs)
        written = report.write(folder)
    if arguments.part:
        written = report.write_merged(root)
    console.print(f"report: {written}", markup=False)
    console.print(f"page: {written.with_suffix('.html')}", markup=False)
    if failed:
        lost = sum(not task.is_done for task in tasks) - len(failed)
        raise RunError(_failures(failed, lost, len(tasks)))
    return written


def _resolved(design: Design, part: Part, asked: Asked) -> tuple[dict[str, Schedule], str]:
    """The schedules of the arms that are evaluated amid their steps, and the device of all.

    Every recipe is read before anything runs: a slip shows in seconds, not amid the study.
    """
    given = without_none(model_name_or_path=asked.model, threads=1)
    schedules, device = {}, "cpu"
    for setup in cold_starts_of(design, part).values():
        settings = told(design, setup, asked).get("sft", {})
        device = config.resolve("sft", recipe=recipe_of(setup, asked), **given, **settings).arguments.device
    for name in part.arms:
        arm = design.arms[name]
        settings = told(design, arm.setup, asked).get("rl", {})
        resolved = config.resolve("rl", recipe=recipe_of(arm.setup, asked), **given, **settings)
        device = resolved.arguments.device
        if arm.early_percent:
            schedules[name] = schedule_of(name, resolved.trainer)
    return schedules, device


def _failures(failed: Mapping[str, str], lost: int, total: int) -> str:
    waiting = f", {lost} that need them were not run" if lost else ""
    lines = [f"{name}: {why}" for name, why in failed.items()]
    return "\n  ".join(
        [f"{len(failed)} of {total} tasks failed{waiting}; the same command tries them again", *lines]
    )


# --- What was asked, and the folder


def _check(arguments: StudyArguments) -> None:
    design, faults = DESIGNS.get(arguments.study), []
    if design is None:
        faults.append(f"unknown study {arguments.study!r}{nearest(arguments.study, DESIGNS)}")
    arms, known = (design.arms, design.parts) if design else ({}, {})
    if arguments.arms == []:
        faults.append("no arms: name some, or leave --arms out for all")
    if design:
        given = arguments.arms or ()
        faults += [f"unknown arm {arm!r}{nearest(arm, arms)}" for arm in given if arm not in arms]
    if design and arguments.part and arguments.part not in known:
        faults.append(f"unknown part {arguments.part!r}{nearest(arguments.part, known)}; {', '.join(known)}")
    if arguments.part and arguments.arms is not None:
        faults.append("arms and part: a part has its arms; leave one of the two out")
    if arguments.seeds < 1:
        faults.append(f"seeds {arguments.seeds}: must be 1 or more")
    if arguments.jobs != "auto" and not (arguments.jobs.isdecimal() and int(arguments.jobs) >= 1):
        faults.append(f"jobs {arguments.jobs!r}: must be a number from 1, or auto")
    if faults:
        what = f"The arms of {design.name}" if design else "The studies"
        raise UsageError("\n  ".join([*faults, f"{what} are {', '.join(arms if design else DESIGNS)}"]))


def _recipe(design: Design, arguments: StudyArguments, earlier: Mapping[str, Any]) -> str:
    """What the arms are laid over: the recipe asked for, that of the study to go on with, or prl's choice;
    the design's own with the sizes of this study."""
    recipe = arguments.recipe or earlier.get("recipe")
    if not arguments.recipe and recipe is not None:
        if not ships(str(recipe)):
            where = arguments.output_dir
            raise RunError(f"{where} is a study with a recipe of its own: pass --recipe {recipe!r} to go on")
        return str(recipe)
    if recipe is None:
        model = arguments.model_name_or_path or design.recipe
        overlay = next(iter(design.bases.values())).overlays
        chosen = config.resolve("eval", recipe=overlay, model_name_or_path=model, threads=1)
        console.print(f"recipe: {chosen.chosen['recipe']}", markup=False)
        recipe = str(chosen.recipe).removesuffix(f"+{overlay}")
    return design.recipe_of(recipe)


def _jobs(asked: str, device: str) -> int:
    """Runs at once: one a core on a CPU, since so small a model gains nothing from a second thread; one on a
    GPU, whose memory a recipe fills."""
    if asked != "auto":
        return int(asked)
    if device != "cpu":
        return 1
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _read(folder: Path) -> dict[str, Any]:
    """What study.yaml, or what was measured elsewhere, says; empty when there is neither. Raises RunError."""
    path = folder / "study.yaml"
    try:
        stored = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        earlier = parts.earlier(folder)
        return earlier.settings if earlier else {}
    except (OSError, ValueError, yaml.YAMLError) as error:
        stored = error
    if not isinstance(stored, dict):
        raise RunError(f"{path} cannot be read as the settings of a study: choose another --output_dir")
    return stored


def _check_same(folder: Path, asked: Mapping[str, Any]) -> None:
    """Raises RunError: the folder holds another study, or something else. More seeds go on with it: what it
    has of the first ones does not depend on how many there are."""
    stored = _read(folder)
    others = sorted(path.name for path in folder.glob("*") if not path.name.startswith("."))
    if others and not stored:
        raise RunError(
            f"{folder} is not empty and no study ({', '.join(others[:5])}): choose another --output_dir"
        )
    differences = [
        f"{key} {_text(stored.get(key))}, not {_text(value)}"
        for key, value in asked.items()
        if stored and stored.get(key) != value and not (key == "seeds" and _is_more(value, stored.get(key)))
    ]
    if differences:
        raise RunError(
            f"{folder} is a study with {'; '.join(differences)}: "
            "ask for the same (--seeds: as many or more), or choose another --output_dir"
        )


def _is_more(seeds: int, than: Any) -> bool:
    return isinstance(than, int) and seeds > than


def _text(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
