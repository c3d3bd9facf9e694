"""A study in parts: what each measured as one small file, and one study of them all.

    save(study)              <folder>/measured.json.gz, from which a report can be written without the runs
    earlier(folder)          what such a file has, whose runs are elsewhere
    completed(study)         what was run, with that
    merge(folder)            the study of all parts, <folder>/<part>/measured.json.gz

The file holds no text of a response: of each its answer, whether it is right, and what it cost; problems are
named by a hash. It is the same to the byte for the same study, and says nothing of the machine but what a
report does, so that it can be committed. A part that ran elsewhere is merged by putting its file where the
part would be. Alone in its folder, as earlier.json.gz then, it is what `prl study` goes on from: only what it
lacks is run.
"""

from __future__ import annotations

import gzip
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from prl import runs
from prl.errors import RunError
from prl.study.design import BASE, TIMINGS, apart, cold
from prl.study.provenance import held_out
from prl.study.results import ENVIRONMENT, Evaluation, Study, Training

FILE = "measured.json.gz"
EARLIER = "earlier.json.gz"

KINDS = ("trainings", "evaluations", "checkpoints", "timed")
"""What a study measured: name -> seed -> what came of it."""

SAME = ("study", "recipe", "model_name_or_path", "quick")
"""What the parts of a study were all asked. A part whose question is closer may have more seeds."""


class Hashed(str):
    """A problem by its hash."""


def save(study: Study) -> Path:
    """Write what a study measured into its folder. Raises RunError."""
    environment = study.settings.get("environment") or {}
    known = {name: environment[name] for name in ENVIRONMENT if name in environment}
    written = {
        "settings": study.settings | {"environment": known},
        "trainings": {
            arm: {seed: vars(each) for seed, each in seeds.items()} for arm, seeds in study.trainings.items()
        },
        "evaluations": _compact(study.evaluations),
        "checkpoints": _compact(study.checkpoints),
        "timed": _compact(study.timed),
        "missing": study.missing,
        "commits": study.commits,
        "run_seconds": study.run_seconds,
        "elapsed_seconds": study.elapsed_seconds,
    }
    path = study.folder / FILE
    text = json.dumps(written, ensure_ascii=False, separators=(",", ":"))
    runs.write_atomic(path, gzip.compress(text.encode(), mtime=0))
    return path


def load(path: Path) -> Study:
    """The study that `save` wrote. Raises RunError: the file cannot be read, or is none."""
    try:
        stored = json.loads(gzip.decompress(path.read_bytes()))
        trainings = {
            arm: {int(seed): _training(each) for seed, each in seeds.items()}
            for arm, seeds in stored["trainings"].items()
        }
        return Study(
            path.parent,
            **stored
            | {"trainings": trainings}
            | {name: _expanded(stored[name]) for name in ("evaluations", "checkpoints", "timed")},
        )
    except (OSError, EOFError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise RunError(f"{path} cannot be read as a part of a study ({error}): run the part again") from error


def completed(study: Study) -> Study:
    """`study` with what was taken up in its folder; of what both have, its own runs count. Raises RunError:
    the file cannot be read, or is of another study."""
    if (before := earlier(study.folder)) is None:
        return study
    _check_same(study, before)
    for kind in ("evaluations", "checkpoints", "timed"):  # problems by their hash, as there
        setattr(study, kind, _expanded(_compact(getattr(study, kind))))
    for kind in KINDS:
        ours = getattr(study, kind)
        for name, seeds in getattr(before, kind).items():
            ours[name] = dict(sorted((seeds | ours.get(name, {})).items()))
    measured = known(before)
    study.missing = [each for each in study.missing if each.split(":")[0] not in measured]
    study.commits = sorted({*study.commits, *before.commits})
    study.run_seconds += before.run_seconds
    study.elapsed_seconds += before.elapsed_seconds
    return study


def earlier(folder: Path) -> Study | None:
    """What was measured elsewhere, if anything was put into `folder`. Raises RunError: it cannot be read."""
    path = folder / FILE if is_only_measured(folder) else folder / EARLIER
    return load(path) if path.exists() else None


def is_only_measured(folder: Path) -> bool:
    """Whether a folder holds what was measured elsewhere and nothing else: a study can go on there."""
    return [path.name for path in folder.glob("[!.]*")] == [FILE]


def known(study: Study) -> set[str]:
    """The tasks (`prl.study.plan`) whose results a study holds; a cold start is known by its evaluation."""
    arms, bases = study.settings["arms"], study.settings.get("bases", [BASE])
    tasks = {f"arms/{arm}/seed-{seed}/rl" for arm, seeds in study.trainings.items() for seed in seeds}
    homes = [f"arms/{arm}/seed-{seed}" for arm, seeds in study.timed.items() for seed in seeds]
    tasks |= {f"{home}/{timing}" for home in homes for timing in TIMINGS}
    for arm, seeds in study.checkpoints.items():
        tasks |= {f"arms/{arm}/seed-{seed}/eval-{each.steps}" for seed, each in seeds.items()}
    for name, seeds in study.evaluations.items():
        for seed in seeds:
            start = f"cold-start/{name.removeprefix(cold(''))}/seed-{seed}"
            if name in arms:
                tasks.add(f"arms/{name}/seed-{seed}/eval")
            elif name in bases:
                tasks.add(f"{name}/seed-{seed}-eval")
            else:
                tasks |= {start, f"{start}-eval"}
    return tasks


def merge(folder: Path) -> Study:
    """The parts in `folder` as one study. Of what two parts have the first counts, and the other, where it
    answered other problems, is kept as `apart` names it. Raises RunError: there is none, or they were asked
    other things."""
    parts = [load(path) for path in sorted(folder.glob(f"*/{FILE}"))]
    if not parts:
        raise RunError(f"{folder} holds no part of a study (*/{FILE}): run one with --part")
    first = parts[0]
    for other in parts[1:]:
        _check_same(first, other)
    settings = {name: first.settings.get(name) for name in SAME}
    settings["parts"] = {part.folder.name: _provenance(part) for part in parts}
    whole = Study(folder, settings)
    _tell_apart(parts)
    for part in reversed(parts):  # of what two parts have, as the base, the first counts
        for kind in KINDS:
            ours = getattr(whole, kind)
            for name, seeds in getattr(part, kind).items():
                ours[name] = dict(sorted((ours.get(name, {}) | seeds).items()))
    order = [arm for arm in whole.design.arms if arm in whole.trainings]
    whole.settings["arms"] = [*order]
    whole.trainings = {arm: whole.trainings[arm] for arm in order}
    before = [name for name in whole.evaluations if name not in order]
    whole.evaluations = {name: whole.evaluations[name] for name in (*sorted(before), *order)}
    whole.settings["bases"] = sorted({base for part in parts for base in part.settings.get("bases", [BASE])})
    measured = known(whole)
    missing = {each for part in parts for each in part.missing}
    whole.missing = sorted(each for each in missing if each.split(":")[0] not in measured)
    whole.commits = sorted({each for part in parts for each in part.commits})
    whole.run_seconds = sum(part.run_seconds for part in parts)
    whole.elapsed_seconds = sum(part.elapsed_seconds for part in parts)
    return whole


def _provenance(part: Study) -> dict[str, Any]:
    """What a report says of a part: what it was asked, of which problems, where, at which commits."""
    return part.settings | {
        "commits": part.commits,
        "run_seconds": part.run_seconds,
        "elapsed_seconds": part.elapsed_seconds,
        "held_out": held_out(part),
    }


def _tell_apart(parts: Sequence[Study]) -> None:
    """Rename evaluations that answered other problems than an earlier part's of their name, and what of them
    is missing."""
    taken: dict[str, dict[int, Evaluation]] = {}
    for part in parts:
        kept: dict[str, dict[int, Evaluation]] = {}
        for name, seeds in part.evaluations.items():
            own, others = apart(name, part.folder.name), (apart(name, each.folder.name) for each in parts)
            names = (name, *(each for each in others if each in taken), own)
            new = next(each for each in names if _fits(seeds, taken.get(each, {})))
            kept[new], taken[new] = seeds, seeds | taken.get(new, {})
            if new != name:
                bases = part.settings.get("bases", [BASE])
                part.settings["bases"] = [new if base == name else base for base in bases]
                was, now = (_place(each) for each in (name, new))
                part.missing = [
                    now + each.removeprefix(was) if each.startswith(was) else each for each in part.missing
                ]
        part.evaluations = kept


def _place(name: str) -> str:
    """Where the runs of a base or a cold start are, as `known` and `missing` have it."""
    start = name.removeprefix(cold(""))
    return f"{name}/" if start == name else f"cold-start/{start}/"


def _fits(ours: Mapping[int, Evaluation], theirs: Mapping[int, Evaluation]) -> bool:
    """Whether two answered the same problems, in seeds that both have."""
    return all(ours[seed].problems == theirs[seed].problems for seed in ours.keys() & theirs.keys())


def _check_same(first: Study, other: Study) -> None:
    for name in SAME:
        ours, theirs = first.settings.get(name), other.settings.get(name)
        if ours != theirs:
            raise RunError(
                f"{other.folder} is a part of another study than {first.folder}: {name} {theirs}, not "
                f"{ours}; run it again with the same, or move it away"
            )


def _compact(evaluations: Mapping[str, Mapping[int, Evaluation]]) -> dict[str, Any]:
    """Scores by the place of a problem, None where it was not asked; rows as columns."""
    return {
        name: {
            seed: {
                "dataset": each.dataset,
                "problems": [_hashed(problem) for problem in each.scores["accuracy"]],
                "scores": {
                    score: [values.get(problem) for problem in each.scores["accuracy"]]
                    for score, values in each.scores.items()
                },
                "described": each.described,
                "steps": each.steps,
                "rows": _columns(each),
            }
            for seed, each in seeds.items()
        }
        for name, seeds in evaluations.items()
    }


def _columns(evaluation: Evaluation) -> dict[str, list[Any]]:
    place = {problem: number for number, problem in enumerate(evaluation.scores["accuracy"])}
    rows: Sequence[Mapping[str, Any]] = evaluation.rows
    names = dict.fromkeys(name for row in rows for name in row)
    return {
        name: [place[row[name]] if name == "problem" else row.get(name) for row in rows] for name in names
    }


def _expanded(stored: Mapping[str, Any]) -> dict[str, dict[int, Evaluation]]:
    return {
        name: {int(seed): _evaluation(each) for seed, each in seeds.items()} for name, seeds in stored.items()
    }


def _evaluation(stored: Mapping[str, Any]) -> Evaluation:
    problems, columns = [Hashed(problem) for problem in stored["problems"]], stored["rows"]
    rows = [dict(zip(columns, cells, strict=True)) for cells in zip(*columns.values(), strict=True)]
    scores: dict[str, dict[str, float]] = {
        name: {problem: of for problem, of in zip(problems, values, strict=True) if of is not None}
        for name, values in stored["scores"].items()
    }
    named = [row | {"problem": problems[row["problem"]]} for row in rows]
    return Evaluation(stored["dataset"], scores, stored["described"], stored["steps"], named)


def _training(stored: Mapping[str, Any]) -> Training:
    curves = {name: _by_step(curve) for name, curve in stored["curves"].items()}
    return Training(curves, _by_step(stored["blocks"]), _by_step(stored["switches"]))


def _by_step(values: Mapping[str, Any]) -> dict[int, Any]:
    return {int(step): value for step, value in values.items()}


def _hashed(problem: str) -> str:
    if isinstance(problem, Hashed):
        return problem
    return hashlib.sha256(problem.encode("utf-8", "replace")).hexdigest()[:12]
