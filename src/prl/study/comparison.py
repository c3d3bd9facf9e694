"""Two demos or evaluations side by side, on the same problems (`prl compare`, `make compare`).

    prl compare runs/demo runs/demo-structured
    prl compare runs/a runs/b --figure frontiers.png

For each model: the metrics of both with their 95 % intervals, and the paired difference in accuracy, second
minus first. Both answered the same problems, so the difference problem by problem is known better than the
two intervals suggest. Results that are not of the same problems are refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prl import runs
from prl.console import console
from prl.errors import RunError, UsageError
from prl.evaluation import read_results
from prl.report.frontiers import plot_frontiers
from prl.report.tables import table
from prl.runs.reading import looking_into
from prl.settings import Settings
from prl.settings.arguments import CompareArguments
from prl.statistics import Estimate, paired_difference
from prl.study.demo import EVALUATIONS

METRICS = ("accuracy", "parallel_ratio", "format_valid", "tokens", "critical_path")

SAME = {
    "dataset": "dataset",
    "problems": "limit",
    "seed": "seed",
    "samples": "samples",
    "temperature": "temperature",
}
"""What two results must agree in to be compared -> the flag that sets it."""


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


def run(settings: Settings[CompareArguments]) -> dict[str, Comparison]:
    """Compare two folders, model by model, and print it. Raises RunError where they cannot be compared."""
    arguments = settings.arguments
    first, second = Path(str(arguments.first)).expanduser(), Path(str(arguments.second)).expanduser()
    ours, theirs = _evaluations(first), _evaluations(second)
    both = [name for name in ours if name in theirs]
    if not both:
        raise RunError(f"{first} and {second}: one is a demo, the other an evaluation; name two of a kind")
    compared = {name: compare(ours[name], theirs[name], resamples=arguments.bootstrap) for name in both}
    for name, each in compared.items():
        labels = (f"A {_attention(ours[name])}", f"B {_attention(theirs[name])}")
        columns = {
            f"{label}/{metric}": metrics[metric]
            for label, metrics in zip(labels, (each.first, each.second), strict=True)
            for metric in METRICS
            if metric in metrics
        }
        console.print(table(columns, title=f"{name}, {each.mode}, {each.problems} problems"))
        console.print(f"accuracy, B - A, paired: {each.difference}\n", markup=False)
    console.print(f"A {first}\nB {second}", markup=False)
    if arguments.figure:
        _draw(Path(arguments.figure).expanduser(), {"A": ours, "B": theirs}, compared)
    return compared


def _draw(path: Path, sides: Mapping[str, Mapping[str, Path]], compared: Mapping[str, Comparison]) -> None:
    """Save the frontiers of the last model of both sides. Raises UsageError."""
    model, found = [*compared.items()][-1]
    named = {f"{side} {_attention(each[model])}": each[model] for side, each in sides.items()}
    figure = plot_frontiers(named, mode=found.mode)
    try:
        figure.savefig(path, dpi=120)
    except (OSError, ValueError) as error:
        raise UsageError(f"--figure {path} cannot be written ({error}): name a .png, .svg or .pdf") from error
    console.print(f"figure: {path}", markup=False)


def compare(first: Path, second: Path, *, resamples: int = 1000) -> Comparison:
    """Compare the results of two evaluation runs: sampled if both sampled, else greedy.

    Raises RunError: a folder without results, other problems, or settings that make them harder to answer.
    """
    refused = f"{first} and {second} cannot be compared"
    ours, theirs = read_results(first), read_results(second)
    for key, flag in SAME.items():
        if ours.get(key) != theirs.get(key):
            raise RunError(
                f"{refused}: {key} is {ours.get(key)} and {theirs.get(key)}; evaluate both with one --{flag}"
            )
    mode = next(
        (mode for mode in ("sampled", "greedy") if mode in ours["scores"] and mode in theirs["scores"]), None
    )
    if mode is None:
        raise RunError(f"{refused}: one is sampled, the other greedy; evaluate both with --greedy")
    if _problems(first) != _problems(second):
        raise RunError(f"{refused}: {ours['dataset']} gave them other problems; evaluate the older one again")
    before, after = ours["scores"][mode], theirs["scores"][mode]
    difference = paired_difference(before, after, resamples=resamples, seed=ours["seed"])
    return Comparison(len(before), mode, _metrics(ours, mode), _metrics(theirs, mode), difference)


def _evaluations(folder: Path) -> dict[str, Path]:
    """Model -> the folder of its evaluation."""
    with looking_into(folder):
        if (folder / "demo.json").is_file():
            # A demo of before there was a sequential arm has none.
            return {model: folder / name for model, name in EVALUATIONS.items() if (folder / name).is_dir()}
        if (folder / "results.json").is_file():
            return {"evaluation": folder}
    raise RunError(
        f"{folder} holds neither a finished demo (demo.json) nor a finished evaluation (results.json): "
        "name an --output_dir of `prl demo` or `prl eval`"
    )


def _metrics(results: dict[str, Any], mode: str) -> dict[str, Estimate]:
    return {
        name.removeprefix(f"{mode}/"): Estimate(**estimate)
        for name, estimate in results["metrics"].items()
        if name.startswith(f"{mode}/")
    }


def _problems(folder: Path) -> list[str]:
    """The problems that an evaluation answered, in order."""
    return list(dict.fromkeys(runs.read_samples(folder)["problem"].to_pylist()))


def _attention(folder: Path) -> str:
    return runs.read_settings(folder).get("attention", "causal")
