"""The curves of a page: which numbers of metrics.jsonl and of the samples stand in which chart."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from prl.grammar import PARALLEL
from prl.report.curves import Curve, logged
from prl.report.page.reading import Told


@dataclass(frozen=True)
class Chart:
    """`series` are keys of metrics.jsonl, each with its name; a key that ends in `*` is every key that begins
    so, named by its name and what the `*` stands for. `says` is a line below the title for who sees it the
    first time. `is_share`: in per cent, on an axis from 0 to 100 % where any is above 50 %, else to what is
    there. `is_logarithmic`: by powers of ten. `is_from_zero`: an axis that begins there, whatever the values
    are."""

    title: str
    says: str
    series: Mapping[str, str]
    is_share: bool = False
    is_logarithmic: bool = False
    is_from_zero: bool = False


CHARTS = (
    Chart("Reward", "what a response is paid, on average", {"reward": "reward", "eval_reward": "held-out"}),
    Chart("Rewards by name", "the parts of the reward", {"rewards/*": ""}),
    Chart(
        "Right answers",
        "share of the responses whose final answer the verifier finds equal to the gold answer",
        {"correct": "trained on", "eval_correct": "held-out"},
        is_share=True,
    ),
    Chart(
        "Parallel ratio and format",
        "share of responses with a valid block, and without any fault of format",
        {
            "parallel_ratio": "parallel ratio",
            "format_valid": "valid format",
            "eval_parallel_ratio": "parallel ratio, held-out",
            "eval_format_valid": "valid format, held-out",
        },
        is_share=True,
    ),
    Chart(
        "Length and critical path",
        "tokens of a response, and of its longest way from first to last token",
        {"completions/mean_length": "tokens", "sampled/critical_path": "critical path"},
    ),
    Chart(
        "Block position",
        "where in the response its first block begins: 0 at the first character, 100 % at the last",
        {"sampled/block_position": "first block"},
        is_share=True,
    ),
    Chart(
        "Dead groups",
        "share of the groups whose responses were all paid the same, which teach nothing",
        {"frac_reward_zero_std": "dead groups"},
        is_share=True,
    ),
    Chart("Entropy", "how undecided the policy is, in nats a token", {"entropy": "entropy"}),
    Chart(
        "Sampling gap",
        "how far log-probabilities differ between sampling and scoring; in float32 no more than 1e-4",
        {"sampling_gap/max": "largest", "sampling_gap/mean": "mean"},
        is_logarithmic=True,
    ),
    Chart("Loss", "what the optimizer lowers", {"loss": "loss", "eval_loss": "held-out"}),
    Chart("Gradient norm", "before clipping", {"grad_norm": "gradient norm"}),
    Chart("Learning rate", "after warm-up, schedule and live rate", {"learning_rate": "learning rate"}),
    Chart("Difficulty", "share of the problems of each level", {"sampled/level/*": "level "}, is_share=True),
    Chart(
        "Cut off",
        "share of the responses that reached the length limit",
        {"completions/clipped_ratio": "cut off"},
        is_share=True,
    ),
    Chart("Time of a step", "seconds", {"step_time": "whole step", "time/*": ""}),
    Chart(
        "Memory",
        "GiB at the peak, and the limit: of the GPU, or without one of the machine or the container",
        {"memory/peak": "peak", "memory/limit": "limit"},
        is_from_zero=True,
    ),
)


def charts_of(told: Sequence[Told]) -> list[dict[str, Any]]:
    """The charts in which any run has a point: id, title, says, what was `found` in words, a line a run,
    share, logarithmic, zero, and `series` of {run, name, points}.

    Steps of sft and of rl are not alike, nor is what they lower: each command has a chart of its own.
    """
    every = [(run, curves_of(run)) for run in told]
    found = []
    for chart in CHARTS:
        drawn: dict[str, list[dict[str, Any]]] = {}
        for run, curves in every:
            for name, points in _series(chart, curves):
                drawn.setdefault(run.command, []).append({"run": run.name, "name": name, "points": points})
        for place, (command, series) in enumerate(drawn.items()):
            name = "-".join(chart.title.lower().split())
            runs = [(run, curves) for run, curves in every if run.command == command]
            found.append(
                {
                    "id": f"chart-{name}-{command}" if place else f"chart-{name}",
                    "title": f"{chart.title}, {command}" if len(drawn) > 1 else chart.title,
                    "says": chart.says,
                    "found": _found(chart, runs, is_alone=len(told) == 1),
                    "share": chart.is_share,
                    "logarithmic": chart.is_logarithmic,
                    "zero": chart.is_from_zero,
                    "series": series,
                }
            )
    return found


def _found(chart: Chart, runs: Iterable[tuple[Told, Mapping[str, Curve]]], *, is_alone: bool) -> list[str]:
    """What a chart comes to, in words, a line a run."""
    tell = {"Memory": _memory_told, "Time of a step": _time_told}.get(chart.title)
    said = [(run.name, tell(curves)) for run, curves in runs] if tell else []
    return [line[0].upper() + line[1:] if is_alone else f"{name}: {line}" for name, line in said if line]


def _memory_told(curves: Mapping[str, Curve]) -> str:
    """How near a run came to its limit, which is what it was at the step that came nearest."""
    peaks, limits = curves.get("memory/peak"), dict(curves.get("memory/limit", ()))
    shares = [(held / limits[step], held, limits[step]) for step, held in peaks or () if limits.get(step)]
    if shares:
        share, held, limit = max(shares)
        return f"at most {held:.3g} of {limit:.3g} GiB, {share:.0%} of the limit"
    return f"at most {max(held for _, held in peaks):.3g} GiB; the limit was not recorded" if peaks else ""


def _time_told(curves: Mapping[str, Curve]) -> str:
    """The seconds of all steps that were logged, and which share of them went where, the most first."""
    steps = curves.get("step_time", [])
    whole = _over_all_steps(steps)
    parts = {
        key.removeprefix("time/"): _over_all_steps(curve) / whole
        for key, curve in curves.items()
        if key.startswith("time/") and whole
    }
    most = sorted((name for name in parts if parts[name] >= 0.005), key=lambda name: -parts[name])
    told = f"{whole:.3g} s in {sum(_steps_of(steps))} steps"
    return ", ".join([told, *(f"{name} {parts[name]:.0%}" for name in most)]) if whole else ""


def _over_all_steps(curve: Curve) -> float:
    """The sum over steps of what was logged as a mean of those since the line before."""
    return sum(count * value for count, (_, value) in zip(_steps_of(curve), curve, strict=True))


def _steps_of(curve: Curve) -> list[int]:
    """How many steps each point is of; the first of as many as the second, or of those that there were."""
    gaps = [later - step for (step, _), (later, _) in pairwise(curve)]
    return [min(curve[0][0], *gaps[:1]) if gaps else curve[0][0], *gaps] if curve else []


def _series(chart: Chart, curves: Mapping[str, Curve]) -> Iterable[tuple[str, Curve]]:
    for key, name in chart.series.items():
        if key.endswith("*"):
            named = {
                k.removeprefix(key[:-1]).removesuffix("/mean"): k for k in curves if k.startswith(key[:-1])
            }
            yield from ((name + short, curves[k]) for short, k in named.items() if not short.endswith("/std"))
        elif key in curves:
            yield name, curves[key]


def curves_of(run: Told) -> dict[str, Curve]:
    """Key -> what was logged under it, and what the samples of a training say of its steps: `sampled/…`."""
    sampled = _sampled(run.samples) if run.command == "rl" else {}
    return logged(run.lines) | {key: sorted(points.items()) for key, points in sampled.items()}


def _sampled(samples: Iterable[Mapping[str, Any]]) -> dict[str, dict[int, float]]:
    """What the samples of a training say of its steps."""
    values: dict[str, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    levels: dict[int, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    for row in samples:
        step = row["step"]
        if row.get("critical_path") is not None:
            values["sampled/critical_path"][step].append(row["critical_path"])
        text = row["text"] or ""
        if (start := text.find(PARALLEL)) >= 0:  # which opens the first block, without reading all the others
            values["sampled/block_position"][step].append(start / len(text))
        if row.get("level") is not None:
            levels[step][f"{row['level']:g}"] += 1
    means = {key: {step: sum(found) / len(found) for step, found in of.items()} for key, of in values.items()}
    names = {name for counts in levels.values() for name in counts}
    for name in sorted(names, key=float) if len(names) > 1 else ():
        means[f"sampled/level/{name}"] = {
            step: counts.get(name, 0) / sum(counts.values()) for step, counts in levels.items()
        }
    return means
