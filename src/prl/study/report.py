"""The report of a study (`prl study`): study.md, study.html, study.json and figures/, from its run folders
alone.

    write("runs/study")

Claims come first, each with its interval and verdict; then the tables (T1 all arms, T2 rewards, T3
difficulty, T4 traces, T5 from paths to answers) and the figures (F1 where blocks stand, F2 the scaffold, F3
the mix of levels, F4 what accuracy costs). What the paper found stands beside what was measured, and runs
that are missing are named.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, is_dataclass
from math import inf
from pathlib import Path
from statistics import fmean
from typing import Any

from prl import runs
from prl.analysis.budgets import asked, by_level, chance, held_to, mean_over_problems
from prl.errors import RunError, UsageError
from prl.statistics import SeedEstimate, itself, median, student
from prl.study import figures, parts
from prl.study.charts import charts_of, findings
from prl.study.claims import block_position, dead_groups, judge, rl_gain, thirds
from prl.study.design import Table
from prl.study.document import markdown
from prl.study.estimates import gain, pooled, score, voted, within
from prl.study.page import sections
from prl.study.results import ENVIRONMENT, SCORES, Evaluation, Study, matched, read
from prl.study.web import html

_CURVES = ("correct", "parallel_ratio", "frac_reward_zero_std", "block_position", "reward")


def write(folder: str | os.PathLike[str]) -> Path:
    """Write the report of a study, complete or not, into its folder; the path of study.md, which has the page
    study.html beside it.

    Without matplotlib it has no figures, and says so. Raises RunError: the folder holds no study.
    """
    study = parts.completed(read(folder))
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
    panels = charts_of(study)
    told = sections(study, numbers, findings(panels, numbers))
    path = study.folder / "study.md"
    runs.write_atomic(path, markdown(told, drawn, no_figures).encode())
    runs.write_atomic(path.with_suffix(".html"), html(told, panels).encode())
    return path


def measure(study: Study) -> dict[str, Any]:
    """Every number of the report: `claims`, and arm -> name -> `SeedEstimate` or number for each table; of
    each T1, by its title, arm -> its accuracy over the baseline."""
    evaluated = {name: seeds for name, seeds in study.evaluations.items() if seeds}

    def over(reference: str, name: str, metric: str) -> SeedEstimate | None:
        return gain(evaluated[name], evaluated.get(reference, {}), metric) if name != reference else None

    environment, design = study.settings.get("environment") or {}, study.design
    return {
        "settings": {key: value for key, value in study.settings.items() if key != "environment"},
        "environment": {name: environment.get(name) for name in ENVIRONMENT},
        "commits": study.commits,
        "elapsed_seconds": study.elapsed_seconds,
        "run_seconds": study.run_seconds,
        "missing": study.missing,
        "claims": judge(study, design),
        "arms": {
            name: {each: score(seeds, each) for each in (*SCORES, "greedy")}
            | {"within": within(seeds, design.budget, "critical_path") if design.budget else None}
            | {"voted": _votes(seeds, design.votes) if design.votes else None}
            for name, seeds in evaluated.items()
        },
        "tables": {table.title: _gains(study, table) for table in design.tables},
        "after_rl": {arm: rl_gain(study, arm) for arm in study.arms if arm in design.arms},
        "levels": {name: _levels(seeds) for name, seeds in evaluated.items()},
        "timed": {arm: _timed(seeds) for arm, seeds in study.timed.items() if seeds},
        "rewards": {
            arm: {
                "accuracy_gain": over(design.reward_arms[0], arm, "accuracy"),
                "parallel_ratio_gain": over(design.reward_arms[0], arm, "parallel_ratio"),
            }
            for arm in design.reward_arms
            if arm in evaluated
        },
        "difficulty": {arm: _difficulty(study, arm) for arm in design.level_arms if study.trainings.get(arm)},
        "positions": {arm: found for arm in study.arms if (found := _position(study, arm))},
        "traces": {name: pooled(seeds.values()) for name, seeds in evaluated.items()},
        "curves": {
            arm: {seed: _curves(training.curves) for seed, training in seeds.items()}
            for arm, seeds in study.trainings.items()
        },
    }


def _gains(study: Study, table: Table) -> dict[str, SeedEstimate | None]:
    """What a table has, under the names by which it answered the problems of the baseline -> its accuracy
    over that; None of the baseline itself."""
    pairs = {name: matched(study, name, table.baseline) for name in table.names}
    return {
        ours: gain(seeds, study.evaluations.get(theirs, {}), "accuracy") if name != table.baseline else None
        for name, (ours, theirs) in pairs.items()
        if (seeds := study.evaluations.get(ours))
    }


def _votes(seeds: Mapping[int, Evaluation], votes: int) -> SeedEstimate | None:
    """Accuracy of the majority of so many samples."""
    found = {seed: shares for seed, each in seeds.items() if (shares := voted(each, votes))}
    return student(itself, found, bounds=(0.0, 1.0), drawn_units=True)


def _levels(seeds: Mapping[int, Evaluation]) -> dict[str, dict[str, Any]]:
    """Level of which a problem was asked -> accuracy over seeds, beside that of the commonest answer, and
    what the responses cost."""
    by_seed = {seed: by_level(each.rows) for seed, each in seeds.items()}
    responses = [by_level(asked(each.rows)) for each in seeds.values()]
    levels = sorted({level for each in responses for level in each}, key=float)
    return {
        level: {
            "accuracy": student(
                itself,
                {seed: held_to(of[level], inf) for seed, of in by_seed.items() if level in of},
                bounds=(0.0, 1.0),
                drawn_units=True,
            ),
            "chance": fmean(chance(of[level]) for of in by_seed.values() if level in of),
            **{
                cost: fmean(mean_over_problems(of[level], cost) for of in responses if level in of)
                for cost in ("length", "critical_path")
            },
        }
        for level in levels
    }


def _timed(seeds: Mapping[int, Evaluation]) -> dict[str, Any]:
    """Of one response at a time: accuracy, critical path, median seconds, on the wall and of the processor;
    those on the wall level by level."""
    by_seed = {seed: by_level(asked(each.rows)) for seed, each in seeds.items()}
    levels = sorted({level for each in by_seed.values() for level in each}, key=float)

    def medians(
        rows_of: Mapping[int, Sequence[Mapping[str, Any]]], clock: str = "seconds"
    ) -> SeedEstimate | None:
        found = {
            seed: median([row[clock] for row in rows])
            for seed, rows in rows_of.items()
            if rows and all(row.get(clock) is not None for row in rows)
        }
        if len(found) == 1:
            ((seed, alone),) = found.items()
            return SeedEstimate(alone.mean, alone.low, alone.high, {seed: alone.mean})
        return student(itself, {seed: {"": each.mean} for seed, each in found.items()}, bounds=(0.0, inf))

    return {
        "accuracy": score(seeds, "accuracy"),
        "critical_path": score(seeds, "critical_path"),
        **{
            clock: medians({seed: asked(each.rows) for seed, each in seeds.items()}, clock)
            for clock in ("seconds", "cpu_seconds")
        },
        "levels": {
            level: medians({seed: of.get(level, []) for seed, of in by_seed.items()}) for level in levels
        },
    }


def _difficulty(study: Study, arm: str) -> dict[str, Any]:
    trainings, checkpoints = study.trainings[arm], study.checkpoints.get(arm, {})
    skipped = {seed: training.curves.get("curriculum/skipped", {}) for seed, training in trainings.items()}
    return {
        "dead_groups": student(itself, dead_groups(study, arm), bounds=(0.0, 1.0)),
        "skipped": student(itself, skipped, bounds=(0.0, inf)),
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
        "first": student(itself, {seed: early for seed, (early, _) in parts.items()}, bounds=(0.0, 1.0)),
        "last": student(itself, {seed: late for seed, (_, late) in parts.items()}, bounds=(0.0, 1.0)),
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
