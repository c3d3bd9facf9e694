"""Accuracy against what it costs: critical path, total tokens, wall clock (extra `report`).

    plot_frontiers({"sequential": "runs/a", "structured": "runs/b"})      a panel a cost
    plot_levels({"sequential": "runs/a", "structured": "runs/b"})         a panel a level

Lines are what an evaluation's responses are right in when those that cost more than the budget count as wrong
(`prl.analysis.budgets.frontier`); a dot is the mean cost of a response and the accuracy without limits.
Hollow diamonds are votes of several samples (maj@k), numbered where there are several k: their tokens
together, the critical path of the longest, and their seconds side by side, or one after another where those
were not measured. A dotted line is chance:
the commonest answer for all problems. A name may stand for the evaluations of several seeds: then lines are
means, and bands reach from the lowest to the highest.
"""

from __future__ import annotations

import os
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from prl import runs
from prl.analysis.budgets import (
    COSTS,
    Row,
    asked,
    by_level,
    chance,
    frontier,
    known,
    mean_over_problems,
    problem_of,
    spent,
    votes,
)
from prl.errors import RunError, UsageError
from prl.report.curves import as_shares, empty_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Folder = str | os.PathLike[str]
Samples = Mapping[str, Sequence[Sequence[Row]]]
Named = Mapping[str, Folder | Sequence[Folder]]

# Okabe and Ito's, which colour-blind readers can tell apart, the darker ones first.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#999999")

UNITS = {
    "critical_path": "critical path, tokens",
    "length": "total tokens",
    "seconds": "wall clock on one thread, seconds",
}
"""Cost -> what stands at its axis."""

# A dot is seen inside a diamond that lies on it.
_END: dict[str, Any] = {"marker": "o", "markersize": 7.5, "markeredgecolor": "white", "zorder": 5}
_VOTED: dict[str, Any] = {
    "marker": "D", "markersize": 10, "markeredgewidth": 1.8, "markerfacecolor": "none", "linestyle": "--",
    "linewidth": 1.2, "zorder": 4,
}  # fmt: skip
_PALE: dict[str, Any] = {"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 0.5}
_BESIDE = ((0, 10), (0, -17), (15, -4), (-15, -4), (0, 24), (0, -31))
"""Points from a diamond to what is written beside it, the best place first."""
_COLUMNS = (
    "mode",
    "index",
    "problem",
    "answer",
    "extracted",
    "correct",
    "verdict",
    "level",
    "length",
    "critical_path",
    "sample",
    "seconds",
    "seconds_together",
)
_VOTES = (4, 8, 16, 32, 64)
_MOST_NAMES = len(COLOURS)


@dataclass(frozen=True)
class Style:
    """How a line looks: its colour, and strokes and gaps in widths of the line; none where it is solid."""

    colour: str
    dash: tuple[float, ...] = ()

    @property
    def line(self) -> dict[str, Any]:
        """In matplotlib's words."""
        return {"color": self.colour, "linestyle": (0, self.dash) if self.dash else "-"}


@dataclass(frozen=True)
class Frontier:
    """Of one name: `points` (budget, accuracy, the lowest and the highest seed's), `end` (mean cost, accuracy
    without limits) and `votes`, k -> (cost, accuracy); means over the seeds."""

    points: list[tuple[float, float, float, float]]
    end: tuple[float, float]
    votes: dict[int, tuple[float, float]]


def plot_frontiers(run_dirs: Named, *, mode: str = "sampled") -> Figure:
    """Draw accuracy against each cost that all evaluations know; wall clock, of the problems that were timed.

    `run_dirs` maps a name to the folder of its evaluation, or to those of its seeds. RunError: a folder holds
    no evaluation with responses of this mode; UsageError: no name, more than eight, or matplotlib is missing.
    """
    return draw_frontiers(_read(run_dirs, mode))


def draw_frontiers(
    seeds: Samples, costs: Iterable[str] = tuple(COSTS), styles: Mapping[str, Style] | None = None
) -> Figure:
    """The same from samples: name -> seed -> rows; `styles` are those of the names that have their own.

    Raises UsageError: matplotlib is missing.
    """
    panels = {cost: found for cost in costs if (found := _knowing(seeds, cost))}
    figure = empty_figure(width=5.0 * len(panels), height=4.6)
    grid = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    drawn = []
    for axes, (cost, of_cost) in zip(grid, panels.items(), strict=True):
        drawn.append(_draw_panel(axes, of_cost, cost, styles or {}))
        axes.set(xlabel=UNITS[cost])
    _finish(figure, drawn)
    return figure


def plot_levels(run_dirs: Named, *, cost: str = "critical_path", mode: str = "sampled") -> Figure:
    """The same against one cost, with a panel for each level of which all evaluations asked a problem.

    Raises also RunError: the evaluations share no level, or were not timed where `cost` is seconds.
    """
    seeds = _knowing(_read(run_dirs, mode), cost)
    if not seeds:
        raise RunError(f"not all evaluations know {cost}: evaluate with --latency, or draw another cost")
    if figure := draw_levels(seeds, cost):
        return figure
    raise RunError(f"the evaluations {', '.join(seeds)} have no level in common: plot_frontiers needs none")


def draw_levels(
    seeds: Samples, cost: str = "critical_path", styles: Mapping[str, Style] | None = None
) -> Figure | None:
    """The same from samples, as `draw_frontiers`; None where they have no level in common."""
    levels = common_levels(seeds)
    if not levels:
        return None
    figure = empty_figure(width=max(5.0, 3.4 * len(levels)), height=4.6)
    grid = figure.subplots(1, len(levels), sharey=True, squeeze=False)[0]
    drawn = []
    for axes, (level, of_level) in zip(grid, levels.items(), strict=True):
        drawn.append(_draw_panel(axes, of_level, cost, styles or {}))
        axes.set(title=f"level {level}", xlabel=UNITS[cost])
    _finish(figure, drawn)
    return figure


def common_levels(seeds: Samples) -> dict[str, Samples]:
    """Level -> the samples of it, of those that every seed was asked a problem of, the lowest first."""
    levels = {name: [by_level(rows) for rows in each] for name, each in seeds.items()}
    everywhere = [of_seed for each in levels.values() for of_seed in each]
    return {
        level: {name: [of_seed[level] for of_seed in each] for name, each in levels.items()}
        for level in everywhere[0]
        if all(asked(of_seed.get(level, ())) for of_seed in everywhere)
    }


def frontier_of(seeds: Sequence[Sequence[Row]], cost: str) -> Frontier:
    """What one name's line is drawn from; `seeds` are the samples of each seed's evaluation, each with a
    problem that was asked."""
    curves = [frontier(rows, cost) for rows in seeds]
    points = []
    for budget in sorted({budget for curve in curves for budget, _ in curve}):
        reached = [_reached(curve, budget) for curve in curves]
        points.append((budget, fmean(reached), min(reached), max(reached)))
    known_of = [asked(rows) for rows in seeds]
    end = fmean(mean_over_problems(rows, cost) for rows in known_of)
    accuracy = fmean(mean_over_problems(rows, "correct") for rows in seeds)
    # Where places are not known, a problem that is there twice has twice as many samples as the others.
    samples = min(min(Counter(map(problem_of, rows)).values()) for rows in known_of)
    found = {}
    for k in (k for k in _VOTES if k <= samples):
        voted = [votes(rows, k) for rows in seeds]
        took = [spent(rows, cost, k) for rows in seeds]
        if cost == "critical_path":
            at = fmean(each.critical_path for each in voted)
        elif cost == "seconds" and all(took):
            at = fmean(map(fmean, took))
        else:
            at = k * end
        found[k] = (at, fmean(each.accuracy for each in voted))
    return Frontier(points, (end, accuracy), found)


def _knowing(seeds: Samples, cost: str) -> Samples:
    """The rows of problems whose cost is known; empty where not all evaluations know it of any that they
    asked."""
    found = {name: [known(rows, cost) for rows in each] for name, each in seeds.items()}
    return found if all(asked(rows) for each in found.values() for rows in each) else {}


def _reached(curve: Sequence[tuple[float, float]], budget: float) -> float:
    at = bisect_right(curve, (budget, 2.0))
    return curve[at - 1][1] if at else 0.0


def _read(run_dirs: Named, mode: str) -> dict[str, list[list[Row]]]:
    """Name -> seed -> its samples."""
    if not 1 <= len(run_dirs) <= _MOST_NAMES:
        raise UsageError(f"{len(run_dirs)} evaluations to draw: name 1 to {_MOST_NAMES}, {{name: folder}}")
    found = {}
    for name, folders in run_dirs.items():
        each: Iterable[Folder] = [folders] if isinstance(folders, str | os.PathLike) else folders
        found[name] = [responses(Path(folder).expanduser(), mode) for folder in each]
        if not found[name]:
            raise UsageError(f"{name}: no folder to draw; name that of an evaluation")
    return found


def responses(folder: Path, mode: str) -> list[Row]:
    """The samples of an evaluation in one mode, as budgets read them. Raises RunError: there are none."""
    table = runs.read_samples(folder)
    columns = [name for name in _COLUMNS if name in table.column_names]
    rows = [row for row in table.select(columns).to_pylist() if row["mode"] == mode]
    if not rows or "critical_path" not in rows[0]:
        raise RunError(
            f"{folder} holds no {mode} responses of an evaluation: name the folder of a `prl eval`"
        )
    return counted(rows)


def counted(rows: Iterable[Row]) -> list[Row]:
    """The responses of an evaluation that a frontier counts: those whose gold answer can be read."""
    return [row for row in rows if row["correct"] is not None and row.get("critical_path") is not None]


def _draw_panel(axes: Axes, seeds: Samples, cost: str, styles: Mapping[str, Style]) -> list[Frontier]:
    found = {name: frontier_of(each, cost) for name, each in seeds.items()}
    widest = max(shown_until(each, cost) for each in found.values())
    for number, (name, each) in enumerate(found.items()):
        drawn = styles.get(name) or Style(COLOURS[number])
        width = nested(number, len(found))
        _draw_frontier(axes, name, each, widest, drawn, width, bands=len(seeds[name]) > 1)
    guessed = fmean(chance(rows) for each in seeds.values() for rows in each)
    axes.axhline(guessed, color="#666666", linestyle=":", linewidth=1.5, label="chance")
    axes.set_xlim(0, widest)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=11)
    axes.xaxis.label.set_fontsize(12)
    axes.title.set_fontsize(12)
    as_shares(axes)
    axes.set_ylim(top=1.1)  # room for the votes and what is written above them
    return [*found.values()]


def nested(number: int, count: int) -> float:
    """The width of a line among so many, points: those drawn first are wider, and seen under the others."""
    return 1.7 + 0.7 * (count - 1 - number)


def shown_until(found: Frontier, cost: str) -> float:
    """How far a figure shows it: to where its line has all but ended; few responses are far longer than all
    others, and shown by no eye."""
    nearly = [budget for budget, accuracy, *_ in found.points if accuracy <= 0.99 * found.end[1]]
    ends = [found.end[0], *nearly[-1:], *(spent for spent, _ in found.votes.values())]
    return 1.08 * max(ends)


def _draw_frontier(
    axes: Axes, name: str, found: Frontier, widest: float, style: Style, width: float, *, bands: bool
) -> None:
    last = found.points[-1][1:] if found.points else (0.0, 0.0, 0.0)
    budgets = [0.0, *(point[0] for point in found.points), max(widest, found.end[0])]
    mean, low, high = zip((0.0, 0.0, 0.0), *(point[1:] for point in found.points), last, strict=True)
    axes.plot(budgets, mean, linewidth=width, drawstyle="steps-post", label=name, **style.line)
    if bands:
        axes.fill_between(budgets, low, high, color=style.colour, alpha=0.18, linewidth=0, step="post")
    axes.plot(*found.end, color=style.colour, **_END)
    if found.votes:
        axes.plot(*zip(*found.votes.values(), strict=True), color=style.colour, **_VOTED)


def _number_votes(axes: Axes, drawn: Sequence[Frontier]) -> None:
    """How many samples each diamond is of, where nothing else lies."""
    votes = [(k, at) for each in drawn for k, at in each.votes.items()]
    marks = [*(at for _, at in votes), *(each.end for each in drawn)]
    points = 72 / axes.figure.dpi
    taken = [tuple(points * axes.transData.transform(at)) for at in marks]
    for k, at in votes:
        x, y = points * axes.transData.transform(at)
        free = (
            (right, up)
            for right, up in _BESIDE
            if all(abs(x + right - other) > 12 or abs(y + up + 4 - height) > 9 for other, height in taken)
        )
        right, up = next(free, _BESIDE[0])
        taken.append((x + right, y + up + 4))
        axes.annotate(
            f"{k}", at, (right, up), textcoords="offset points", ha="center", fontsize=10, bbox=_PALE
        )


def _finish(figure: Figure, panels: Sequence[Sequence[Frontier]]) -> None:
    """One legend for all panels, no wider than they are: a line a name, and in black what the marks are."""
    from matplotlib.lines import Line2D

    first = figure.axes[0]
    first.set_ylabel("accuracy within the budget", size=12)
    handles, labels = first.get_legend_handles_labels()
    marks = {"mean cost, accuracy without limits": Line2D([], [], color="#333333", linestyle="", **_END)}
    samples = {k for drawn in panels for each in drawn for k in each.votes}
    if samples:
        alone = len(samples) == 1
        told = f"{min(samples)} samples (maj@{min(samples)})" if alone else "so many samples (maj@k)"
        marks[f"majority of {told}"] = Line2D([], [], color="#333333", **_VOTED)
    if len(samples) > 1:
        for axes, drawn in zip(figure.axes, panels, strict=True):
            _number_votes(axes, drawn)
    legend_below(figure, [*handles, *marks.values()], [*labels, *marks], fontsize=11)


def legend_below(figure: Figure, handles: Sequence[Any], labels: Sequence[str], **drawn: Any) -> None:
    """A legend under all panels, in as many columns as fit; `drawn` are matplotlib's words for it."""
    for columns in (3, 2, 1):
        legend = figure.legend(
            handles, labels, loc="outside lower center", ncols=columns, frameon=False, **drawn
        )
        if legend.get_window_extent().width <= figure.bbox.width:
            return
        if columns > 1:
            legend.remove()
