"""What the runs of a study measured, arm by arm and seed by seed.

`read` takes in the run folders of a study (`prl study`) and nothing else; a run that is not there or not
finished is named. How surely what they hold is known, `prl.study.estimates` says.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from datetime import datetime
from itertools import product
from pathlib import Path
from statistics import fmean
from typing import Any

import yaml

from prl import runs
from prl.analysis import block_positions, describe
from prl.analysis.budgets import Row, asked
from prl.errors import RunError
from prl.grammar import parse
from prl.report.curves import logged, read_stages
from prl.study.design import BASE, TIMINGS, Design, apart, cold
from prl.study.designs import design_of

SCORES = ("accuracy", "parallel_ratio", "tokens", "critical_path")
ENVIRONMENT = ("prl", "git_commit", "python", "platform", "cpu_count", "gpus", "versions")
"""What a report says of the machine, and nothing else."""

ROW = (
    "problem", "answer", "extracted", "correct", "level", "length", "critical_path", "seconds", "cpu_seconds",
)  # fmt: skip
"""Columns of a sample that budgets, votes and levels need; the last two where an evaluation was timed."""


@dataclass(frozen=True)
class Evaluation:
    """One evaluation run: its sampled responses, or the greedy ones where it has no others.

    `scores` maps the names in `SCORES` -> problem -> mean over its samples, and `greedy` -> problem ->
    whether the greedy response is right, where there are both; a problem that was not asked is not solved,
    and in nothing but these two. `described` is `prl.analysis.describe` of all responses; `steps` is the
    checkpoint's, None for a model at its end. `rows` are the samples as `prl.analysis.budgets` reads them
    (`ROW`, and the verdict where a problem was not asked).
    """

    dataset: str
    scores: dict[str, dict[str, float]]
    described: dict[str, float | None]
    steps: int | None = None
    rows: Sequence[Mapping[str, Any]] = ()

    @property
    def problems(self) -> Set[str]:
        return self.scores.get("accuracy", {}).keys()


@dataclass(frozen=True)
class Training:
    """One RL run, step by step.

    `curves` maps what metrics.jsonl logged -> step -> value, and `block_position` -> step -> mean start of
    the step's blocks over the length of their responses, in characters. `blocks` counts them; `switches` maps
    the first step of each later stage -> its name.
    """

    curves: dict[str, dict[int, float]]
    blocks: dict[int, int]
    switches: dict[int, str]

    @property
    def steps(self) -> int:
        return max((step for curve in self.curves.values() for step in curve), default=0)


@dataclass
class Study:
    """What is finished, as arm -> seed -> run, and what is `missing`.

    `evaluations` are of the final models, and of base and cold starts; `checkpoints` of models on the way;
    `timed` of final models, one response at a time, three times, of which the fastest counts.
    `run_seconds` is the sum over all runs, `elapsed_seconds` the time in which one was under way; of several
    parts their sum.
    """

    folder: Path
    settings: dict[str, Any]
    trainings: dict[str, dict[int, Training]] = field(default_factory=dict)
    evaluations: dict[str, dict[int, Evaluation]] = field(default_factory=dict)
    checkpoints: dict[str, dict[int, Evaluation]] = field(default_factory=dict)
    timed: dict[str, dict[int, Evaluation]] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    commits: list[str] = field(default_factory=list)
    run_seconds: float = 0.0
    elapsed_seconds: float = 0.0

    @property
    def arms(self) -> list[str]:
        return list(self.trainings)

    @property
    def design(self) -> Design:
        return design_of(self.settings)


def read(folder: str | os.PathLike[str]) -> Study:
    """Read the run folders of a study. Raises RunError: the folder holds none."""
    root = Path(folder).expanduser()
    study = Study(root, _read_settings(root))
    design = study.design
    seeds = range(int(study.settings["seeds"]))
    for base in study.settings.get("bases", [BASE]):
        places = ((seed, root / base / f"seed-{seed}-eval") for seed in seeds)
        study.evaluations[base] = _read_evaluations(study, places)
    for start in sorted(path for path in root.glob("cold-start/*") if path.is_dir()):
        for seed in seeds:
            _is_finished(study, start / f"seed-{seed}")
        places = ((seed, start / f"seed-{seed}-eval") for seed in seeds)
        study.evaluations[cold(start.name)] = _read_evaluations(study, places)
    for arm in study.settings["arms"]:
        homes = {seed: root / "arms" / arm / f"seed-{seed}" for seed in seeds}
        study.trainings[arm] = {
            seed: _read_training(home / "rl")
            for seed, home in homes.items()
            if _is_finished(study, home / "rl")
        }
        study.evaluations[arm] = _read_evaluations(study, ((s, home / "eval") for s, home in homes.items()))
        early = ((seed, path) for seed, home in homes.items() for path in sorted(home.glob("eval-*")))
        study.checkpoints[arm] = _read_evaluations(study, early)
        if arm in design.arms and design.arms[arm].timed:
            study.timed[arm] = _read_timed(study, homes)
    _read_costs(study)
    return study


def matched(study: Study, first: str, second: str) -> tuple[str, str]:
    """The names under which a study has two evaluations that answered the same problems, in the most seeds:
    these themselves, unless parts of it answered others under one name (`prl.study.parts.merge`)."""
    pairs = product(_variants(study, first), _variants(study, second))
    return max(pairs, key=lambda pair: _same_problems(study, *pair), default=(first, second))


def _variants(study: Study, name: str) -> list[str]:
    names = (name, *(apart(name, part) for part in study.settings.get("parts", ())))
    return [each for each in names if each in study.evaluations]


def _same_problems(study: Study, first: str, second: str) -> int:
    """In how many seeds."""
    ours, theirs = (study.evaluations[name] for name in (first, second))
    return sum(ours[seed].problems == theirs[seed].problems for seed in ours.keys() & theirs.keys())


def read_evaluation(run_dir: Path, mode: str) -> Evaluation:
    """One evaluation alone, by its responses of one mode, "sampled" or "greedy". Raises RunError: it holds
    none."""
    if rows := _responses(run_dir).get(mode):
        return _evaluation(run_dir, rows, ())
    raise RunError(f"{run_dir} holds no {mode} responses of an evaluation: evaluate again")


def _read_settings(folder: Path) -> dict[str, Any]:
    path = folder / "study.yaml"
    try:
        settings = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RunError(f"{folder} holds no study.yaml: name the --output_dir of a `prl study`") from None
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise RunError(f"{path} cannot be read ({error}): start the study in another --output_dir") from error
    if not isinstance(settings, dict) or not {"arms", "seeds"} <= settings.keys():
        raise RunError(f"{path} names no arms and seeds: start the study in another --output_dir")
    return settings


def _is_finished(study: Study, run_dir: Path) -> bool:
    """Whether a run is whole; one that is not is named in `missing`."""
    if (run_dir / "DONE").is_file():
        return True
    state = "not finished" if (run_dir / "environment.json").is_file() else "not begun"
    study.missing.append(f"{_name(study, run_dir)}: {state}")
    return False


def _name(study: Study, run_dir: Path) -> str:
    return run_dir.relative_to(study.folder).as_posix()


def _read_evaluations(study: Study, places: Iterable[tuple[int, Path]]) -> dict[int, Evaluation]:
    found = {}
    for seed, run_dir in places:
        if _is_finished(study, run_dir):
            modes = _responses(run_dir)
            if rows := modes.get("sampled") or modes.get("greedy"):
                greedy = modes.get("greedy", ()) if "sampled" in modes else ()
                found[seed] = _evaluation(run_dir, rows, greedy)
            else:
                study.missing.append(f"{_name(study, run_dir)}: holds no responses")
    return found


def _read_timed(study: Study, homes: Mapping[int, Path]) -> dict[int, Evaluation]:
    """Of the seeds whose timings are all there, with the least that each response took, by either clock."""
    timings = [
        _read_evaluations(study, ((seed, home / timing) for seed, home in homes.items()))
        for timing in TIMINGS
    ]
    found = {}
    for seed in homes:
        each = [timing[seed] for timing in timings if seed in timing]
        if len(each) == len(TIMINGS):
            found[seed] = replace(each[0], rows=fastest([one.rows for one in each]))
    return found


def fastest(timings: Sequence[Sequence[Row]]) -> list[dict[str, Any]]:
    """The rows of the first of several timings of the same responses, with the least `seconds` and
    `cpu_seconds` that any took. Raises RunError: they are of different responses."""
    found = []
    for rows in zip(*timings, strict=True):
        if len({(row["problem"], row["length"]) for row in rows}) > 1:
            raise RunError(
                f"{rows[0]['problem']!r} was answered otherwise when it was timed again: remove the folders "
                f"{', '.join(TIMINGS)} of that seed, and run the study again"
            )
        clocks = {clock: [row.get(clock) for row in rows] for clock in ("seconds", "cpu_seconds")}
        least = {clock: min(each) for clock, each in clocks.items() if None not in each}
        found.append({**rows[0], **least})
    return found


def _responses(run_dir: Path) -> dict[str, list[dict[str, Any]]]:
    """Mode -> its responses."""
    samples = runs.read_samples(run_dir)
    columns = {*ROW, "mode", "text", "truncated", "verdict"}
    found: dict[str, list[dict[str, Any]]] = {}
    for row in samples.select([name for name in samples.column_names if name in columns]).to_pylist():
        found.setdefault(row["mode"], []).append(row)
    return found


def _evaluation(
    run_dir: Path, rows: Sequence[Mapping[str, Any]], greedy: Sequence[Mapping[str, Any]]
) -> Evaluation:
    opening, responses = runs.read_path_opening(run_dir), asked(rows)
    found: dict[str, dict[str, list[float]]] = {name: {} for name in SCORES}
    for row in rows:
        found["accuracy"].setdefault(row["problem"], []).append(row["correct"])
    for row in responses:
        parallel = parse(row["text"], truncated=row["truncated"], opening=opening).uses_parallel
        measured = (float(parallel), float(row["length"]), row["critical_path"])
        for name, value in zip(SCORES[1:], measured, strict=True):
            found[name].setdefault(row["problem"], []).append(value)
    scores = {name: {problem: fmean(of) for problem, of in each.items()} for name, each in found.items()}
    of_greedy = {row["problem"]: float(row["correct"]) for row in greedy}
    if of_greedy.keys() == scores["accuracy"].keys():
        scores["greedy"] = of_greedy
    dataset, step = runs.read_config(run_dir)["eval"]["dataset"], run_dir.name.removeprefix("eval-")
    names = ROW if len(responses) == len(rows) else (*ROW, "verdict")
    kept = [{name: row[name] for name in names if name in row} for row in rows]
    described = describe(responses, opening)
    return Evaluation(dataset, scores, described, int(step) if step.isdecimal() else None, kept)


def _read_training(run_dir: Path) -> Training:
    curves = {name: dict(curve) for name, curve in logged(runs.read_metrics(run_dir)).items()}
    positions: dict[int, list[float]] = {}
    for row in runs.read_samples(run_dir).select(["step", "text", "truncated"]).to_pylist():
        trace = parse(row["text"] or "", truncated=bool(row["truncated"]))
        positions.setdefault(row["step"], []).extend(block_positions(trace))
    curves["block_position"] = {step: fmean(found) for step, found in sorted(positions.items()) if found}
    blocks = {step: len(found) for step, found in positions.items()}
    return Training(curves, blocks, dict(read_stages(run_dir)[1:]))


def _read_costs(study: Study) -> None:
    """Times of all finished runs, a resumed one from its resumption, and the commits that they ran at."""
    bases = [f"{base}/*/DONE" for base in study.settings.get("bases", [BASE])]
    patterns = (*bases, "cold-start/*/*/DONE", "arms/*/*/*/DONE")
    finished = sorted(done.parent for pattern in patterns for done in study.folder.glob(pattern))
    summaries = [summary for run_dir in finished if (summary := runs.read_summary(run_dir))]
    environments = [json.loads((run_dir / "environment.json").read_bytes()) for run_dir in finished]
    study.commits = sorted({each["git_commit"] for each in environments if each["git_commit"]})
    study.run_seconds = sum(each["wall_seconds"] for each in summaries)
    times = (
        [datetime.fromisoformat(each[name]).timestamp() for name in ("started_at", "finished_at")]
        for each in summaries
    )
    ended = 0.0  # a study that is taken up again has pauses
    for start, end in sorted(times):
        study.elapsed_seconds += max(0.0, end - max(start, ended))
        ended = max(ended, end)
