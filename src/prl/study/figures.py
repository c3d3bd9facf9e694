"""The figures of a study as PNG files: where blocks stand (F1), the scaffold (F2), the mix of levels (F3),
over training; and what accuracy costs (F4). What they are drawn from says `prl.study.charts`.

Bars and bands reach from the lowest seed to the highest; a dotted line is the first step of a new stage.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from prl.report.curves import as_shares, empty_figure
from prl.report.frontiers import Style, draw_frontiers, draw_levels, legend_below, nested
from prl.study import charts
from prl.study.charts import Series
from prl.study.results import Study

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_COLUMNS = 3
_BARS = 8


def draw(study: Study) -> dict[str, str]:
    """Save all figures that the study has runs for: name -> path in its folder.

    Raises UsageError: matplotlib is missing.
    """
    saved = {}
    for name, figure in (
        ("f1-block-position", block_positions(study)),
        ("f2-scaffold", scaffold(study)),
        ("f3-levels", levels(study)),
        *frontiers(study).items(),
    ):
        if figure:
            saved[name] = f"figures/{name}.png"
            (study.folder / "figures").mkdir(exist_ok=True)
            figure.savefig(study.folder / saved[name], dpi=120)
    return saved


def block_positions(study: Study) -> Figure | None:
    """F1: where blocks begin, as a share of the response; a panel a family of arms."""
    panels = charts.block_positions(study)
    if not panels:
        return None
    columns = min(_COLUMNS, len(panels))
    rows = -(-len(panels) // columns)
    figure = empty_figure(width=4.2 * columns, height=3.8 * rows)
    grid = figure.subplots(rows, columns, sharey=True, squeeze=False)
    for axes, panel in zip(grid.flat, panels, strict=False):
        _draw_arms(axes, panel.series)
        axes.set(title=panel.title, xlabel=panel.x)
        axes.tick_params(labelleft=True)
        axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(-0.05, -0.16), handlelength=3.2)
        as_shares(axes)
    for axes in grid.flat[len(panels) :]:
        axes.remove()
    grid[0][0].autoscale(axis="y")
    for first in grid[:, 0]:
        first.set_ylabel(panels[0].y)
    return figure


def scaffold(study: Study) -> Figure | None:
    """F2: parallel ratio and accuracy of the responses trained on, with the scaffold's switch marked."""
    panels = charts.scaffold(study)
    if not panels:
        return None
    figure = empty_figure(width=4.2 * len(panels), height=4.0)
    for axes, panel in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        _draw_arms(axes, panel.series, switch="{}: accuracy alone")
        axes.set(xlabel=panel.x, ylabel=panel.y)
        as_shares(axes)
    legend_below(figure, *figure.axes[0].get_legend_handles_labels(), handlelength=3.2)
    return figure


def levels(study: Study) -> Figure | None:
    """F3: the share of each level among the problems of a step, in uniform and adaptive sampling."""
    panels = charts.levels(study)
    if not panels:
        return None
    figure = empty_figure(width=4.2 * len(panels) + 0.8, height=3.4)
    grid = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axes, panel in zip(grid, panels, strict=True):
        steps = [step for step, *_ in panel.series[0].points]
        stack = [[share for _, share, *_ in series.points] for series in panel.series]
        colours, names = zip(*((series.colour, series.name) for series in panel.series), strict=True)
        axes.stackplot(steps, stack, colors=colours, labels=names)
        axes.set(title=panel.title, xlabel=panel.x, xlim=(steps[0], steps[-1]))
        as_shares(axes)
        axes.set_ylim(0, 1)
    grid[0].set_ylabel(panels[0].y)
    handles, labels = grid[-1].get_legend_handles_labels()
    grid[-1].legend(handles[::-1], labels[::-1], frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def frontiers(study: Study) -> dict[str, Figure]:
    """F4, by name of its file: accuracy against critical path and total tokens, of sampled responses; level
    by level; and against wall clock, of the greedy ones of timed arms."""
    found: dict[str, Figure] = {}
    looks = charts.styles(study.design)
    for title, rows in charts.frontier_rows(study).items():
        ending = f"-{title}" if title else ""
        found[f"f4-frontiers{ending}"] = draw_frontiers(rows, styles=looks)
        if figure := draw_levels(rows, styles=looks):
            found[f"f4-levels{ending}"] = figure
    if timed := charts.timed_rows(study):
        found["f4-wall-clock"] = draw_frontiers(timed, ("critical_path", "seconds"), looks)
    return found


def _draw_arms(axes: Axes, drawn: Sequence[Series], switch: str = "") -> None:
    """A line an arm, the lower ones wider, with bars at steps of its own; and a dotted line at each switch,
    the first named `switch` of its arm."""
    from matplotlib.ticker import MaxNLocator

    for number, series in enumerate(drawn):
        style = Style(series.colour, tuple(series.dash))
        steps, mean, low, high = zip(*series.points, strict=True)
        axes.plot(steps, mean, linewidth=nested(number, len(drawn)), label=series.name, **style.line)
        apart = max(len(drawn), -(-len(steps) // _BARS))
        at = slice(min(number * apart // len(drawn), len(steps) - 1), None, apart)
        axes.vlines(steps[at], low[at], high[at], color=series.colour, linewidth=1.1, alpha=0.8)
        for first, step in enumerate(series.switches):
            named = switch.format(series.name) if switch and not first else None
            axes.axvline(step, color=series.colour, linestyle=":", label=named)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
