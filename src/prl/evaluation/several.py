"""Several models on the same problems (`prl eval --models A B`): an evaluation of each, and what the others
have over the first.

    OUTPUT_DIR/<name>/           an evaluation, as that of one model
    OUTPUT_DIR/comparison.json   the differences in accuracy, paired by problem, with their intervals, also
                                 within budgets of tokens, critical path and seconds
    OUTPUT_DIR/frontiers.png     accuracy against these, the models over each other

What is asked, and where it computes, is the same for all: as the flags say, else as they would be for the
first. What belongs to a model (prompt style, attention, paths, openings) is its own.
"""

from __future__ import annotations

import gc
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from rich.markup import escape

from prl import evaluation, runs
from prl.analysis.equal_budgets import EqualBudgets
from prl.config import again
from prl.console import console
from prl.errors import RunError, UsageError
from prl.evaluation.frontiers import draw, frontiers_of, tell, written
from prl.evaluation.keeping import check_same, inputs_of
from prl.evaluation.results import EvalResult, read_result
from prl.model import check_loadable, settle_tags
from prl.report.frontiers import responses
from prl.report.tables import models_table
from prl.runs.adapters import lies_in
from prl.runs.reading import read_environment
from prl.settings import Settings
from prl.settings.arguments import EvalArguments
from prl.statistics import Estimate, paired_difference

ASKED = (
    "dataset", "dataset_split", "limit", "on_bad_rows", "greedy", "samples", "temperature", "top_p", "top_k",
    "min_p", "max_completion_length", "latency", "timed", "bootstrap", "seed", "device", "dtype",
    "load_in_4bit", "threads",
)  # fmt: skip
"""Settings that all have as the first has them."""

FILE = "comparison.json"
_NAME = re.compile(r"\w[\w.-]*")
_NAMED = re.compile(r"([^=/\\]*)=(.+)")


@dataclass(frozen=True)
class Several:
    """The evaluation of each model by its name, and of all but the first the paired difference in accuracy to
    that one; `mode` is "sampled" where there are samples, else "greedy"."""

    results: dict[str, EvalResult]
    mode: str
    over_first: dict[str, Estimate]


def run(settings: Settings[EvalArguments]) -> EvalResult | Several:
    """`prl eval`: of one model, or of several. Raises PrlError, before anything is decoded where it can."""
    if not settings.arguments.models:
        return evaluation.run(settings)
    folder, given = Path(settings.arguments.output_dir), {each.key for each in settings.given}
    if "model_name_or_path" in given:
        raise UsageError("--models and --model_name_or_path: name all models with --models, the first first")
    if (folder / "environment.json").exists():
        raise RunError(f"{folder} is a run of its own: choose another --output_dir for several models")
    each = _settle(settings, folder)
    for name, one in each.items():
        _check_place(folder / name, str(one.arguments.model_name_or_path))
    there = [name for name in each if (folder / name / "environment.json").exists()]
    if there and not (settings.arguments.resume or settings.arguments.overwrite_output_dir):
        raise RunError(
            f"{folder} holds evaluations of {', '.join(there)}: --resume keeps what is done, "
            "--overwrite_output_dir begins anew, or choose another --output_dir"
        )
    for one in each.values():
        check_loadable(one.arguments.model_name_or_path, trust_remote_code=one.arguments.trust_remote_code)
    results = {}
    for name, one in each.items():
        if one.arguments.resume and runs.read_summary(one.arguments.output_dir):
            console.print(f"{name}: evaluated already", markup=False)
            results[name] = _finished(one)
        else:
            results[name] = evaluation.run(one)
        gc.collect()  # the next model is to find the memory of this one
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
    asked: dict[str, Any] = {"resamples": settings.arguments.bootstrap, "seed": settings.arguments.seed}
    found = compare(results, **asked)
    models = {name: one.arguments.model_name_or_path for name, one in each.items()}
    samples = {name: responses(result.folder, found.mode) for name, result in found.results.items()}
    tables = frontiers_of(samples, **asked)
    _tell(found, models, folder, tables)
    if len(samples) > 1:
        draw(samples, folder)
    return found


def compare(results: Mapping[str, EvalResult], *, resamples: int = 1000, seed: int = 0) -> Several:
    """What each has over the first on the same problems."""
    first, *others = results
    mode = "sampled" if "sampled" in results[first].scores else "greedy"
    scores = {name: result.scores[mode] for name, result in results.items()}
    over = {
        name: paired_difference(scores[first], scores[name], resamples=resamples, seed=seed)
        for name in others
    }
    return Several(dict(results), mode, over)


def names_of(models: Sequence[str]) -> dict[str, str]:
    """Name -> model, each `NAME=MODEL` or a MODEL alone: then its name is as much of the end of its path as
    tells it from the others. Raises UsageError.

    >>> names_of(["Qwen/Qwen3-0.6B", "runs/a/rl", "runs/b/rl", "mine=runs/c/rl"])
    {'Qwen3-0.6B': 'Qwen/Qwen3-0.6B', 'a-rl': 'runs/a/rl', 'b-rl': 'runs/b/rl', 'mine': 'runs/c/rl'}
    """
    said = [_NAMED.fullmatch(each) for each in models]
    paths = [re.split(r"[/\\]+", each.strip("/\\")) for each in models]
    unnamed = [path for path, found in zip(paths, said, strict=True) if not found]
    named: dict[str, str] = {}
    for each, found, path in zip(models, said, paths, strict=True):
        name, model = (found[1], found[2]) if found else (_end_of(path, unnamed), each)
        if not _NAME.fullmatch(name):
            raise UsageError(f"models: {each!r} makes no name of a folder: give it one, NAME=MODEL")
        if name in named:
            raise UsageError(
                f"models: {name} stands for {named[name]} and for {model}: give one another NAME="
            )
        named[name] = model
    return named


def _end_of(path: list[str], paths: Sequence[list[str]]) -> str:
    """As much of the end of a path as no other ends with, as a name."""
    sizes = range(1, len(path) + 1)
    size = next((n for n in sizes if sum(other[-n:] == path[-n:] for other in paths) == 1), len(path))
    return re.sub(r"[^\w.-]+", "-", "-".join(path[-size:])).strip(".-")


def _settle(settings: Settings[EvalArguments], folder: Path) -> dict[str, Settings[EvalArguments]]:
    """The settings of each model by its name: what it is asked as the first is."""
    each: dict[str, Settings[EvalArguments]] = {}
    asked: dict[str, Any] = {"threads": settings.arguments.threads}
    for name, model in names_of(settings.arguments.models or []).items():
        own = folder / name
        resume = settings.arguments.resume and (own / "environment.json").exists()
        given = {"models": None, "model_name_or_path": model, "output_dir": str(own), "resume": resume}
        settled = again(settings, **asked, **given)
        # Of what the first was asked, it has told what does nothing; nobody said it of the others.
        chosen = {key: why for key, why in settled.chosen.items() if key not in asked}
        each[name] = replace(settled, chosen=chosen)
        if len(each) == 1:
            asked = {setting: getattr(each[name].arguments, setting) for setting in ASKED}
    return each


def _check_place(own: Path, model: str) -> None:
    """Raises RunError: where an evaluation is to be there is what it must not touch, whatever the flags."""
    environment = read_environment(own)
    found = environment.get("command", environment.get("overwrites", "unknown"))
    if (own / "environment.json").exists() and found != "eval":
        raise RunError(f"{own} is a run of command {found}: choose another --output_dir")
    if lies_in(model, own):
        raise RunError(f"{own} has the model {model} in it: choose another --output_dir")


def _finished(settings: Settings[EvalArguments]) -> EvalResult:
    """What an evaluation found that is done. Raises UsageError: it was another one."""
    settings, _ = settle_tags(settings)
    folder = Path(settings.arguments.output_dir)
    rows, _ = evaluation.problems_of(settings.arguments)
    stored = read_environment(folder).get("inputs", {})
    check_same(settings, inputs_of(settings, rows), runs.read_config(folder), stored, folder)
    return read_result(folder)


def _tell(found: Several, models: Mapping[str, str], folder: Path, tables: Sequence[EqualBudgets]) -> None:
    first = next(iter(found.results))
    metrics = {
        name: {
            metric.partition("/")[2]: estimate
            for metric, estimate in result.metrics.items()
            if metric.startswith(f"{found.mode}/")
        }
        for name, result in found.results.items()
    }
    problems = len(found.results[first].scores[found.mode])
    title = f"{found.mode}, {problems} problems; over {first}: paired"
    console.print(models_table(metrics, found.over_first, escape(title)))
    if len(models) > 1:  # what is to be said of one it has said
        tell(found.mode, tables, models=len(models))
    comparison = {
        "models": dict(models),
        "mode": found.mode,
        "problems": problems,
        "accuracy_over": first,
        "differences": {name: asdict(each) for name, each in found.over_first.items()},
        "frontiers": written(found.mode, tables, models=len(models)),
    }
    runs.write_json(folder / FILE, comparison)
    console.print(f"{folder / FILE}", markup=False)
