"""The figures of a study as PNG files: where blocks stand (F1), the scaffold (F2), the mix of levels (F3),
over training; and what accuracy costs (F4). What they are drawn from says `prl.study.charts`.

Bands reach from the lowest seed to the highest; a dotted line is the first step of a new stage.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from prl.report.curves import as_shares, empty_figure
from prl.report.frontiers import draw_frontiers, draw_levels
from prl.study import charts
from prl.study.charts import Series
from prl.study.results import Study

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


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
    figure = empty_figure(width=4.2 * len(panels), height=4.0)
    grid = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axes, panel in zip(grid, panels, strict=True):
        for series in panel.series:
            _draw_arm(axes, series)
        axes.set(title=panel.title, xlabel=panel.x)
        _legend_below(axes)
        as_shares(axes)
    grid[0].autoscale(axis="y")
    grid[0].set_ylabel(panels[0].y)
    return figure


def scaffold(study: Study) -> Figure | None:
    """F2: parallel ratio and accuracy of the responses trained on, with the scaffold's switch marked."""
    panels = charts.scaffold(study)
    if not panels:
        return None
    figure = empty_figure(width=4.2 * len(panels), height=4.0)
    for axes, panel in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        for series in panel.series:
            _draw_arm(axes, series, switch=f"{series.name}: accuracy alone")
        axes.set(xlabel=panel.x, ylabel=panel.y)
        as_shares(axes)
    handles, names = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=3, frameon=False, fontsize="small")
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
    for title, rows in charts.frontier_rows(study).items():
        ending = f"-{title}" if title else ""
        found[f"f4-frontiers{ending}"] = draw_frontiers(rows)
        if figure := draw_levels(rows):
            found[f"f4-levels{ending}"] = figure
    if timed := charts.timed_rows(study):
        found["f4-wall-clock"] = draw_frontiers(timed, costs=("critical_path", "seconds"))
    return found


def _legend_below(axes: Axes) -> None:
    """Where it covers no point."""
    axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(-0.05, -0.16), ncols=2, fontsize="small")


def _draw_arm(axes: Axes, series: Series, switch: str | None = None) -> None:
    """A line with its band, and a dotted line at each switch, the first named `switch`."""
    from matplotlib.ticker import MaxNLocator

    steps, mean, low, high = zip(*series.points, strict=True)
    axes.plot(steps, mean, color=series.colour, label=series.name)
    axes.fill_between(steps, low, high, color=series.colour, alpha=0.15, lw=0)
    for number, step in enumerate(series.switches):
        axes.axvline(step, color=series.colour, linestyle=":", label=None if number else switch)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
