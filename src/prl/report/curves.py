"""The curves of a run and the intervals of evaluations, as matplotlib figures (extra `report`).

    plot_run("runs/default/rl")                     reward, share correct, format, dead groups over steps
    plot_evaluations({"before": "runs/eval-sft", "after": "runs/eval-rl"})    means, 95 % intervals

A figure belongs to no window and no global state: show it in a notebook (`%matplotlib inline`) or
`figure.savefig("rl.png")`. `read_curves` gives the same points without matplotlib.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any, TypeGuard

from prl import runs
from prl.errors import RunError, UsageError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Curve = list[tuple[int, float]]
"""(step, value), by step."""

METRICS: dict[str, dict[str, str]] = {
    "sft": {
        "loss": "loss",
        "eval_loss": "held-out loss",
        "eval_format_valid": "valid format",
        "eval_parallel_ratio": "parallel ratio",
        "memory/peak": "peak memory",
    },
    "rl": {
        "reward": "reward",
        "eval_reward": "held-out reward",
        "correct": "share correct",
        "eval_correct": "held-out share correct",
        "format_valid": "valid format",
        "parallel_ratio": "parallel ratio",
        "frac_reward_zero_std": "dead groups",
        "time/rollout": "seconds of rollout",
        "time/verify": "seconds of verify",
        "time/score": "seconds of score",
        "time/update": "seconds of update",
        "memory/peak": "peak memory",
    },
}
"""Command -> key in metrics.jsonl -> name of its curve. Of a cold start, format and parallel ratio are those
of responses sampled to held-out problems; of RL, those of the responses it trains on. Peak memory is in GiB;
it and the seconds are read, and not drawn by `plot_run`."""

_PANELS: dict[str, tuple[tuple[str, tuple[str, ...]], ...]] = {
    "sft": (("loss", ("loss", "held-out loss")), ("share of responses", ("valid format", "parallel ratio"))),
    "rl": (
        ("reward", ("reward", "held-out reward")),
        (
            "share of responses",
            ("share correct", "held-out share correct", "valid format", "parallel ratio"),
        ),
        ("share of groups", ("dead groups",)),
    ),
}
"""Command -> axis label and curves of each panel."""

# Okabe and Ito's colours, which colour-blind readers can tell apart; a name has one colour in every figure.
_COLOURS = {
    "loss": "#0072b2",
    "reward": "#0072b2",
    "share correct": "#0072b2",
    "valid format": "#009e73",
    "parallel ratio": "#cc79a7",
    "dead groups": "#000000",
    "held-out loss": "#d55e00",
    "held-out reward": "#d55e00",
    "held-out share correct": "#d55e00",
}
_RUN_COLOURS = ("#999999", "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#000000")

_LEGEND_COLUMNS, _LEGEND_LINE = 2, 16  # of a legend above its panel; a line of it in points
_FEW = 20  # points up to which each gets a marker

_NO_CURVES = ("step", "time")  # where a line of metrics.jsonl stands

_EVALUATED = {"accuracy": "accuracy", "format_valid": "valid format", "parallel_ratio": "parallel ratio"}


def read_curves(run_dir: str | os.PathLike[str]) -> dict[str, Curve]:
    """The curves that an sft or rl run has logged so far, by name (`METRICS`).

    A value that is no finite number is left out; of two at one step the later counts, as after a resumed run.
    RunError: no run, one of a command without curves, or nothing logged yet.
    """
    return _command_and_curves(run_dir)[1]


def logged(lines: Iterable[Mapping[str, Any]]) -> dict[str, Curve]:
    """Key of metrics.jsonl -> its curve, of `lines` as `prl.runs.read_metrics` gives them. What is no finite
    number is left out; of two values at one step the later counts, as after a resumed run."""
    points: dict[str, dict[int, float]] = {}
    for line in lines:
        step = line.get("step")
        if _is_number(step):
            for key, value in line.items():
                if key not in _NO_CURVES and _is_number(value):
                    points.setdefault(key, {})[step] = value
    return {key: sorted(of_key.items()) for key, of_key in points.items()}


def read_stages(run_dir: str | os.PathLike[str]) -> list[tuple[int, str]]:
    """The first step and the name of each stage that a run's curriculum went through; none without one."""
    found: list[tuple[int, str]] = []
    for line in runs.read_metrics(run_dir):
        stage = line.get("stage")
        if isinstance(stage, str) and _is_number(line.get("step")) and (not found or found[-1][1] != stage):
            found.append((line["step"], stage))
    return found


def plot_run(run_dir: str | os.PathLike[str], *, smooth: int = 1) -> Figure:
    """Draw the curves of an sft or rl run over its steps; it may still be running. A dotted line is the first
    step of a new stage of its curriculum.

    `smooth` > 1 draws the mean over that many latest steps, and what was logged pale behind it.
    RunError as for `read_curves`; UsageError: matplotlib is missing, or `smooth` is less than 1.
    """
    if smooth < 1:
        raise UsageError(f"smooth {smooth} must be 1 or more: the number of steps to average over")
    command, curves = _command_and_curves(run_dir)
    panels = [
        (label, drawn) for label, names in _PANELS[command] if (drawn := [n for n in names if n in curves])
    ]
    figure = empty_figure(width=4.2 * len(panels), height=3.2)
    figure.suptitle(f"{command}: {'/'.join(Path(run_dir).resolve().parts[-2:])}")
    grid = figure.subplots(1, len(panels), sharex=True, squeeze=False)[0]
    for axes, (label, names) in zip(grid, panels, strict=True):
        for name in names:
            draw_curve(axes, name, curves[name], smooth, color=_COLOURS[name])
        mark_stages(axes, read_stages(run_dir))
        axes.set(xlabel="step", ylabel=label)
        axes.xaxis.get_major_locator().set_params(integer=True)
        legend_above(axes)
        if label.startswith("share"):
            as_shares(axes)
    return figure


def plot_evaluations(run_dirs: Mapping[str, str | os.PathLike[str]]) -> Figure:
    """Draw accuracy, valid format and parallel ratio of evaluation runs, each with its 95 % interval.

    `run_dirs` maps the name in the legend to the folder. One panel a decoding mode (greedy, sampled).
    RunError: a folder holds no evaluation, or the evaluations share no mode; UsageError: no run is named, or
    matplotlib is missing.
    """
    if not run_dirs:
        raise UsageError("no evaluation to draw: name one or more, {name: folder}")
    found = {name: _read_evaluation(Path(folder).expanduser()) for name, folder in run_dirs.items()}
    common = set.intersection(*map(set, found.values()))
    modes = [mode for mode in ("greedy", "sampled") if all(f"{mode}/{key}" in common for key in _EVALUATED)]
    if not modes:
        raise RunError(f"the evaluations {', '.join(found)} have no decoding mode in common: run one again")
    figure = empty_figure(width=4.2 * len(modes), height=3.2)
    figure.suptitle("held-out problems, 95 % intervals")
    for axes, mode in zip(figure.subplots(1, len(modes), squeeze=False)[0], modes, strict=True):
        for number, (name, metrics) in enumerate(found.items()):
            shift = 0.16 * (number - (len(found) - 1) / 2)
            estimates = [metrics[f"{mode}/{key}"] for key in _EVALUATED]
            _draw_estimates(axes, name, estimates, shift, _RUN_COLOURS[number % len(_RUN_COLOURS)])
        axes.set_xticks(range(len(_EVALUATED)), list(_EVALUATED.values()))
        axes.set(xlim=(-0.5, len(_EVALUATED) - 0.5), ylabel="share of responses")
        axes.set_title(mode, pad=6 + _LEGEND_LINE * -(-len(found) // _LEGEND_COLUMNS))
        legend_above(axes)
        as_shares(axes)
    return figure


# What was logged


def _command_and_curves(run_dir: str | os.PathLike[str]) -> tuple[str, dict[str, Curve]]:
    command = str(runs.read_config(run_dir).get("command"))
    if command not in METRICS:
        raise RunError(f"{run_dir} is a run of command {command}, which has no curves: name an sft or rl run")
    found = logged(runs.read_metrics(run_dir))
    curves = {name: found[key] for key, name in METRICS[command].items() if key in found}
    if not curves:
        raise RunError(f"{run_dir} has logged nothing to draw yet: wait for its first steps")
    return command, curves


def _is_number(value: object) -> TypeGuard[int]:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _read_evaluation(folder: Path) -> dict[str, Any]:
    """The metrics of results.json: "mode/name" -> mean, low, high."""
    path = folder / "results.json"
    try:
        metrics = json.loads(path.read_bytes())["metrics"]
        return {
            key: {side: float(each[side]) for side in ("mean", "low", "high")}
            for key, each in metrics.items()
        }
    except FileNotFoundError:
        raise RunError(f"{folder} holds no results.json: name the folder that `prl eval` wrote to") from None
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise RunError(f"{path} is no result of an evaluation ({error!r}): run `prl eval` again") from error


# Drawing


def empty_figure(width: float, height: float) -> Figure:
    """An empty figure of that many inches; without pyplot, which would keep it and look for a window."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise UsageError("curves need matplotlib, which is not installed: pip install prl[report]") from None
    return Figure(figsize=(width, height), layout="constrained")


def draw_curve(axes: Axes, name: str, curve: Curve, smooth: int = 1, **drawn: Any) -> None:
    """A line named `name`, of its mean over the `smooth` latest steps with what was logged pale behind it;
    `drawn` are matplotlib's words for a line, `color` among them."""
    steps, values = zip(*curve, strict=True)
    marker = "o" if len(curve) <= _FEW else None
    if smooth > 1:
        axes.plot(steps, values, color=drawn["color"], alpha=0.25, linewidth=1)
        values = latest_means(curve, smooth)
    axes.plot(steps, values, label=name, marker=marker, markersize=4, **drawn)


def mark_stages(
    axes: Axes, stages: Sequence[tuple[int, str]], *, colour: str = "#999999", named: bool = True
) -> None:
    """A dotted line at the first step of each stage (`read_stages`) but the first, with its name."""
    for step, stage in stages[1:]:
        axes.axvline(step, color=colour, linestyle=":", linewidth=1)
        if named:
            top = ("data", "axes fraction")
            axes.annotate(stage, (step, 1), xycoords=top, rotation=90, va="top", ha="right", fontsize=7)


def latest_means(curve: Curve, steps: int) -> tuple[float, ...]:
    """At each point, the mean of those that lie less than `steps` before it, and itself."""
    means, first = [], 0
    for at, (step, _) in enumerate(curve):
        while curve[first][0] <= step - steps:
            first += 1
        means.append(fmean(value for _, value in curve[first : at + 1]))
    return tuple(means)


def _draw_estimates(
    axes: Axes, name: str, estimates: Sequence[Mapping[str, float]], shift: float, colour: str
) -> None:
    at = [place + shift for place in range(len(estimates))]
    means = [each["mean"] for each in estimates]
    below = [max(0, each["mean"] - each["low"]) for each in estimates]
    above = [max(0, each["high"] - each["mean"]) for each in estimates]
    axes.errorbar(at, means, yerr=[below, above], fmt="o", capsize=4, color=colour, label=name)


def legend_above(axes: Axes) -> None:
    """The legend on top of the panel, where it covers no point."""
    axes.legend(
        frameon=False, loc="lower left", bbox_to_anchor=(0, 1), ncols=_LEGEND_COLUMNS, fontsize="small"
    )


def as_shares(axes: Axes) -> None:
    """From 0 to 100 %."""
    from matplotlib.ticker import PercentFormatter

    axes.set_ylim(-0.03, 1.03)
    axes.yaxis.set_major_formatter(PercentFormatter(1))
