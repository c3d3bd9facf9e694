"""Evaluations side by side: paired problem by problem where both answered the same in the same way.

Single models have the intervals that their evaluations found, over problems, and of two the paired bootstrap.
Several seeds of a method have Student's t over them, and differences are paired by seed and problem
(`prl.study.estimates.gain`), or have Welch's t where two methods have other seeds. What answered other
problems of a data set, or sampled otherwise, is held against each other unpaired, which is said; evaluations
of other data sets are refused.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from itertools import product
from math import inf
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from prl import runs
from prl.errors import RunError
from prl.evaluation import read_results
from prl.model.loading import ATTENTIONS
from prl.statistics import Estimate, itself, paired_difference, student, unpaired_difference, welch
from prl.study.comparison.figures import (
    Difference,
    Figures,
    are_paired,
    left_out,
    no_common_seed,
    of_two,
    over,
    over_both,
)
from prl.study.estimates import gain, score
from prl.study.results import SCORES, Evaluation, read_evaluation

METRICS = ("accuracy", "parallel_ratio", "format_valid", "tokens", "critical_path")

SAME = {
    "dataset": "dataset",
    "problems": "limit",
    "seed": "seed",
    "samples": "samples",
    "temperature": "temperature",
}
"""What two results must agree in to be paired -> the flag that sets it."""
_SAMPLING = ("top_p", "top_k", "min_p")  # of config.yaml, as results do not say them

SHARES = ("accuracy", "parallel_ratio")
MODES = ("sampled", "greedy")

Folders = Mapping[str, Mapping[int, Path]]
"""Letter -> seed -> the folder of an evaluation."""


@dataclass(frozen=True)
class Comparison:
    """One model: the metrics of both, and the paired difference in accuracy, second minus first.

    `problems` is how many were answered, `mode` how: "sampled" or "greedy".
    """

    problems: int
    mode: str
    first: dict[str, Estimate]
    second: dict[str, Estimate]
    difference: Estimate


def compare(first: Path, second: Path, *, resamples: int = 1000) -> Comparison:
    """Compare the results of two evaluation runs: sampled if both sampled, else greedy.

    Raises RunError: a folder without results, other problems, or settings that make them harder to answer.
    """
    ours, theirs = read_results(first), read_results(second)
    if reason := _unlike(first, ours, second, theirs):
        raise RunError(f"{first} and {second} cannot be compared: {reason}")
    mode = _mode({first: ours, second: theirs})
    before, after = ours["scores"][mode], theirs["scores"][mode]
    difference = paired_difference(before, after, resamples=resamples, seed=ours["seed"])
    return Comparison(len(before), mode, _metrics(ours, mode), _metrics(theirs, mode), difference)


def compare_all(part: str, folders: Folders, *, resamples: int = 1000) -> Figures:
    """The figures of evaluations, and by what all others differ from the first. Raises RunError: a folder
    without results, other data sets, or no mode that all answered in."""
    results = {folder: read_results(folder) for each in folders.values() for folder in each.values()}
    (first, of_first), *others = results.items()
    for folder, found in others:
        if found["dataset"] != of_first["dataset"]:
            reason = _other("dataset", of_first, found)
            raise RunError(f"{first} and {folder} cannot be compared: {reason}")
    mode = _mode(results)
    if any(len(seeds) > 1 for seeds in folders.values()):
        return _over_seeds(part, folders, results, mode)
    single = {letter: next(iter(each.values())) for letter, each in folders.items()}
    return _of_singles(part, single, results, mode, resamples)


def attention(folder: Path) -> str:
    """What an evaluation was decoded with."""
    said = runs.read_settings(folder).get("attention", "causal")
    return said if said in ATTENTIONS else "unknown"


# --- What may be paired


def _mode(results: Mapping[Path, Mapping[str, Any]]) -> str:
    """The first mode that all answered in. Raises RunError."""
    for mode in MODES:
        if all(mode in found["scores"] for found in results.values()):
            return mode
    lacking = {
        mode: next(at for at, found in results.items() if mode not in found["scores"]) for mode in MODES
    }
    raise RunError(
        f"{lacking['greedy']} and {lacking['sampled']} cannot be compared: one is sampled, the other greedy; "
        "evaluate both with --greedy"
    )


def _unlike(first: Path, ours: Mapping[str, Any], second: Path, theirs: Mapping[str, Any]) -> str:
    """Why two evaluations cannot be paired, with the next step; nothing where they can."""
    if reason := _answered_otherwise(first, ours, second, theirs):
        return reason
    if _problems(first) != _problems(second):
        return f"{ours['dataset']} gave them other problems; evaluate the older one again"
    return ""


def _answered_otherwise(
    first: Path,
    ours: Mapping[str, Any],
    second: Path,
    theirs: Mapping[str, Any],
    same: Collection[str] = SAME,
) -> str:
    said = [runs.read_settings(folder) for folder in (first, second)]
    for key in same:
        if ours.get(key) != theirs.get(key):
            return _other(key, ours, theirs)
    for key in _SAMPLING:
        if said[0].get(key) != said[1].get(key):
            return _other(key, *said)
    return ""


def _other(key: str, ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> str:
    return f"{key} is {ours.get(key)} and {theirs.get(key)}; evaluate both with one --{SAME.get(key, key)}"


def _problems(folder: Path) -> list[str]:
    """The problems that an evaluation answered, in order."""
    return list(dict.fromkeys(runs.read_samples(folder)["problem"].to_pylist()))


# --- Single models


def _of_singles(
    part: str,
    folders: Mapping[str, Path],
    results: Mapping[Path, Mapping[str, Any]],
    mode: str,
    resamples: int,
) -> Figures:
    differences = []
    first, base = next(iter(folders.items()))
    counts = [len(results[folder]["scores"][mode]) for folder in folders.values()]
    for letter, folder in folders.items():
        if letter == first:
            continue
        before, after = (results[each]["scores"][mode] for each in (base, folder))
        seed = results[base]["seed"]
        if reason := _unlike(base, results[base], folder, results[folder]):
            how = f"not paired: {reason}"
            found = unpaired_difference(np.array(before), np.array(after), resamples=resamples, seed=seed)
        else:
            how, found = "paired", paired_difference(before, after, resamples=resamples, seed=seed)
        differences.append(Difference("accuracy", first, letter, found, how))
    problems = " and ".join(map(str, dict.fromkeys(counts)))
    return Figures(
        "evaluation",
        f"{part}, {mode}, {problems} problems",
        {letter: f"{letter} {attention(folder)}" for letter, folder in folders.items()},
        {
            letter: {
                name: found for name, found in _metrics(results[folder], mode).items() if name in METRICS
            }
            for letter, folder in folders.items()
        },
        tuple(differences),
        (of_two(f"{'these' if len({*counts}) == 1 else 'their'} {problems} problems"),),
        mode,
    )


def _metrics(results: Mapping[str, Any], mode: str) -> dict[str, Estimate]:
    return {
        name.removeprefix(f"{mode}/"): Estimate(**estimate)
        for name, estimate in results["metrics"].items()
        if name.startswith(f"{mode}/")
    }


# --- Methods over seeds


def _over_seeds(part: str, folders: Folders, results: Mapping[Path, Mapping[str, Any]], mode: str) -> Figures:
    read = {
        letter: {seed: read_evaluation(folder, mode) for seed, folder in each.items()}
        for letter, each in folders.items()
    }
    first, *others = read
    differences, remarks = [], []
    for letter in others:
        if not are_paired(read[first], read[letter]):
            differences += _unpaired(first, letter, folders, results, read)
            continue
        shared = tuple(sorted(read[first].keys() & read[letter].keys()))
        if not shared:
            remarks.append(no_common_seed(first, letter, folders))
            continue
        unlike = ""
        for seed in shared:
            pair = folders[first][seed], folders[letter][seed]
            unlike = unlike or _unlike(pair[0], results[pair[0]], pair[1], results[pair[1]])
        ours, theirs = ({seed: side[seed] for seed in shared} for side in (read[first], read[letter]))
        found = [_gain(name, first, ours, letter, theirs, unlike) for name in SCORES]
        differences += found
        remarks += left_out(first, letter, folders)
        if len(shared) == 1:
            remarks.append(f"{letter} - {first}: {of_two(f'the problems of seed {shared[0]}')}")
    counts = [len(each.scores["accuracy"]) for side in read.values() for each in side.values()]
    problems = " to ".join(map(str, dict.fromkeys((min(counts), max(counts)))))
    if any(len(each.seeds) > 1 for each in differences):
        remarks.append("What is over seeds is of the methods, as far as so few tell.")
    if any(len(each) == 1 for each in read.values()):
        remarks.append("The values of what has one seed have intervals over its problems alone.")
    return Figures(
        "evaluation",
        f"{part}, {mode}, {problems} different problems a seed",
        {letter: _heading(letter, each) for letter, each in folders.items()},
        {letter: _means(each) for letter, each in read.items()},
        tuple(differences),
        tuple(remarks),
        mode,
    )


def _means(evaluations: Mapping[int, Evaluation]) -> dict[str, Estimate | float]:
    return {name: found for name in SCORES if (found := score(evaluations, name))}


def _heading(letter: str, seeds: Mapping[int, Path]) -> str:
    count = f"{len(seeds)} seeds" if len(seeds) > 1 else "1 seed"
    return f"{letter} {attention(next(iter(seeds.values())))}, {count}"


def _gain(
    name: str,
    first: str,
    ours: Mapping[int, Evaluation],
    second: str,
    theirs: Mapping[int, Evaluation],
    unlike: str,
) -> Difference:
    """By what the second has more of a score than the first, over the seeds that both have."""
    found = None if unlike else gain(theirs, ours, name)
    if found:
        seeds = tuple(found.seeds)
        how = (
            f"paired by seed and problem, {over(seeds)}"
            if len(seeds) > 1
            else f"paired, seed {seeds[0]} alone"
        )
        return Difference(name, first, second, found, how, seeds)
    seeds = tuple(ours)
    why = unlike or "their problems differ"
    if len(seeds) == 1:
        before, after = (np.array([*side[seeds[0]].scores[name].values()]) for side in (ours, theirs))
        return Difference(
            name,
            first,
            second,
            unpaired_difference(before, after),
            f"seed {seeds[0]} alone, not paired: {why}",
        )
    gains = {
        seed: {"mean": fmean(theirs[seed].scores[name].values()) - fmean(ours[seed].scores[name].values())}
        for seed in seeds
    }
    by_seed = student(itself, gains, bounds=_bounds(name))
    assert by_seed is not None  # for the type checker: there are seeds
    how = f"paired by seed, not by problem ({why}), {over(seeds)}"
    return Difference(name, first, second, by_seed, how, seeds)


def _unpaired(
    first: str,
    second: str,
    folders: Folders,
    results: Mapping[Path, Mapping[str, Any]],
    read: Mapping[str, Mapping[int, Evaluation]],
) -> list[Difference]:
    """By what the second has more of each score than the first, where their seeds are not the same."""
    pairs = product(folders[first].values(), folders[second].values())
    unlike = (_answered_otherwise(a, results[a], b, results[b], {*SAME} - {"seed"}) for a, b in pairs)
    how = over_both(first, second, folders, next(filter(None, unlike), ""))
    seeds = tuple(sorted({*folders[first], *folders[second]}))
    found = []
    for name in SCORES:
        before, after = (
            {seed: each.scores.get(name, {}) for seed, each in read[letter].items()}
            for letter in (first, second)
        )
        value = welch(before, after, bounds=_bounds(name), drawn_units=True)
        found += [Difference(name, first, second, value, how, seeds)] if value else []
    return found


def _bounds(name: str) -> tuple[float, float]:
    """Between which a difference is."""
    return (-1.0, 1.0) if name in SHARES else (-inf, inf)
