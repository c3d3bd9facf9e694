"""The report of a study (`prl study`): study.md, study.json and figures/, from its run folders alone.

    write("runs/study")

Claims come first, each with its interval and verdict; then the tables (T1 all arms, T2 rewards, T3
difficulty, T4 traces, T5 from paths to answers) and the figures (F1 where blocks stand, F2 the scaffold, F3
the mix of levels, F4 what accuracy costs). What the paper found stands beside what was measured, and runs
that are missing are named.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any

from prl import runs
from prl.errors import RunError, UsageError
from prl.statistics import SeedEstimate, itself, student
from prl.study import figures, parts
from prl.study.claims import block_position, dead_groups, judge, thirds
from prl.study.page import page
from prl.study.results import (
    BASELINE,
    ENVIRONMENT,
    LEVEL_ARMS,
    REWARD_ARMS,
    SCORES,
    Study,
    gain,
    pooled,
    read,
    score,
)

_CURVES = ("correct", "parallel_ratio", "frac_reward_zero_std", "block_position", "reward")


def write(folder: str | os.PathLike[str]) -> Path:
    """Write the report of a study, complete or not, into its folder; the path of study.md.

    Without matplotlib it has no figures, and says so. Raises RunError: the folder holds no study.
    """
    study = read(folder)
    parts.save(study)
    return _write(study)


def write_merged(folder: str | os.PathLike[str]) -> Path:
    """Write the report of a study that ran in parts, from all that are in its folder; the path of study.md.

    Raises RunError: there are none, of several studies, or the folder is a study itself.
    """
    root = Path(folder).expanduser()
    if (root / "study.yaml").exists():
        raise RunError(f"{root} is a whole study: run parts in another --output_dir")
    return _write(parts.merge(root))


def _write(study: Study) -> Path:
    numbers = measure(study)
    runs.write_json(study.folder / "study.json", _plain(numbers))
    drawn, no_figures = {}, ""
    try:
        drawn = figures.draw(study)
    except UsageError as error:
        no_figures = str(error)
    path = study.folder / "study.md"
    runs.write_atomic(path, page(study, numbers, drawn, no_figures).encode())
    return path


def measure(study: Study) -> dict[str, Any]:
    """Every number of the report: `claims`, and arm -> name -> `SeedEstimate` or number for each table."""
    evaluated = {name: seeds for name, seeds in study.evaluations.items() if seeds}

    def over(reference: str, name: str, metric: str) -> SeedEstimate | None:
        return gain(evaluated[name], evaluated.get(reference, {}), metric) if name != reference else None

    environment = study.settings.get("environment") or {}
    return {
        "settings": {key: value for key, value in study.settings.items() if key != "environment"},
        "environment": {name: environment.get(name) for name in ENVIRONMENT},
        "commits": study.commits,
        "elapsed_seconds": study.elapsed_seconds,
        "run_seconds": study.run_seconds,
        "missing": study.missing,
        "claims": judge(study),
        "arms": {
            name: {each: score(seeds, each) for each in SCORES} | {"gain": over(BASELINE, name, "accuracy")}
            for name, seeds in evaluated.items()
        },
        "rewards": {
            arm: {
                "accuracy_gain": over(REWARD_ARMS[0], arm, "accuracy"),
                "parallel_ratio_gain": over(REWARD_ARMS[0], arm, "parallel_ratio"),
            }
            for arm in REWARD_ARMS
            if arm in evaluated
        },
        "difficulty": {arm: _difficulty(study, arm) for arm in LEVEL_ARMS if study.trainings.get(arm)},
        "positions": {arm: found for arm in study.arms if (found := _position(study, arm))},
        "traces": {name: pooled(seeds.values()) for name, seeds in evaluated.items()},
        "curves": {
            arm: {seed: _curves(training.curves) for seed, training in seeds.items()}
            for arm, seeds in study.trainings.items()
        },
    }


def _difficulty(study: Study, arm: str) -> dict[str, Any]:
    trainings, checkpoints = study.trainings[arm], study.checkpoints.get(arm, {})
    skipped = {seed: training.curves.get("curriculum/skipped", {}) for seed, training in trainings.items()}
    return {
        "dead_groups": student(itself, dead_groups(study, arm)),
        "skipped": student(itself, skipped),
        "steps": max(training.steps for training in trainings.values()),
        "checkpoint": max((each.steps or 0 for each in checkpoints.values()), default=None),
        "checkpoint_accuracy": score(checkpoints, "accuracy"),
    }


def _position(study: Study, arm: str) -> dict[str, SeedEstimate | None] | None:
    """Block position in the first and the last third of the steps, and the change; None: too few blocks."""
    if (change := block_position(study, arm)) is None:
        return None
    parts = {seed: thirds(training) for seed, training in study.trainings[arm].items()}
    return {
        "first": student(itself, {seed: early for seed, (early, _) in parts.items()}),
        "last": student(itself, {seed: late for seed, (_, late) in parts.items()}),
        "change": change,
    }


def _curves(curves: Mapping[str, Mapping[int, float]]) -> dict[str, Mapping[int, float]]:
    return {
        name: curve for name, curve in curves.items() if name in _CURVES or name.startswith("curriculum/")
    }


def _plain(value: Any) -> Any:
    """Dataclasses as objects of JSON, all the way down."""
    if is_dataclass(value) and not isinstance(value, type):
        return _plain(asdict(value))
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    return [_plain(each) for each in value] if isinstance(value, list | tuple) else value
