"""The figures of a study: where blocks stand (F1), the scaffold (F2), the mix of levels (F3), over training;
and what accuracy costs (F4).

Lines are means over seeds of the latest `SMOOTH` steps, bands reach from the lowest seed to the highest.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from statistics import fmean
from typing import TYPE_CHECKING

from prl.report.curves import Curve, as_shares, empty_figure, latest_means
from prl.report.frontiers import draw_frontiers, draw_levels
from prl.study.results import Study, Training

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SMOOTH = 5
"""Steps; as many as the alternating reward's window in the overlays of studies, whose phases would show."""

_LEVEL = "curriculum/share_level_"


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
    panels = {
        title: shown
        for title, arms in study.design.panels.items()
        if (shown := {arm: colour for arm, colour in arms.items() if _logged(study, arm, "block_position")})
    }
    if not panels:
        return None
    figure = empty_figure(width=4.2 * len(panels), height=3.4)
    grid = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axes, (title, arms) in zip(grid, panels.items(), strict=True):
        for arm, colour in arms.items():
            _draw_arm(axes, arm, _logged(study, arm, "block_position"), colour)
            _mark_switches(axes, study.trainings[arm].values(), colour)
        axes.set(title=title, xlabel="step")
        axes.legend(frameon=False)
        as_shares(axes)
    grid[0].autoscale(axis="y")
    grid[0].set_ylabel("start of blocks / length")
    return figure


def scaffold(study: Study) -> Figure | None:
    """F2: parallel ratio and accuracy of the responses trained on, with the scaffold's switch marked."""
    panel = study.design.scaffold_panel
    arms = {arm: colour for arm, colour in panel.items() if _logged(study, arm, "parallel_ratio")}
    if not arms:
        return None
    figure = empty_figure(width=8.4, height=3.4)
    panels = {"parallel_ratio": "parallel ratio", "correct": "share correct"}
    for axes, (key, label) in zip(figure.subplots(1, 2), panels.items(), strict=True):
        for arm, colour in arms.items():
            _draw_arm(axes, arm, _logged(study, arm, key), colour)
            _mark_switches(axes, study.trainings[arm].values(), colour, label=f"{arm}: accuracy alone")
        axes.set(xlabel="step", ylabel=label)
        axes.legend(frameon=False)
        as_shares(axes)
    return figure


def levels(study: Study) -> Figure | None:
    """F3: the share of each level among the problems of a step, in uniform and adaptive sampling."""
    shares = {arm: found for arm in study.design.level_arms if (found := _level_shares(study, arm))}
    if not shares:
        return None
    from matplotlib import colormaps

    known = sorted({level for found in shares.values() for level in found})
    figure = empty_figure(width=4.2 * len(shares) + 0.8, height=3.4)
    grid = figure.subplots(1, len(shares), sharey=True, squeeze=False)[0]
    for axes, (arm, found) in zip(grid, shares.items(), strict=True):
        steps = sorted({step for curve in found.values() for step in curve})
        stack = [[found.get(level, {}).get(step, 0.0) for step in steps] for level in known]
        colours = [colormaps["cividis"](at / max(1, len(known) - 1)) for at in range(len(known))]
        axes.stackplot(steps, stack, colors=colours, labels=[f"level {level}" for level in known])
        axes.set(title=arm, xlabel="step", xlim=(steps[0], steps[-1]))
        as_shares(axes)
        axes.set_ylim(0, 1)
    grid[0].set_ylabel("share of problems")
    handles, labels = grid[-1].get_legend_handles_labels()
    grid[-1].legend(handles[::-1], labels[::-1], frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def frontiers(study: Study) -> dict[str, Figure]:
    """F4, by name of its file: accuracy against critical path and total tokens, of sampled responses; level
    by level; and against wall clock, of the greedy ones of timed arms."""
    found: dict[str, Figure] = {}
    for title, names in study.design.frontiers.items():
        rows = {name: [each.rows for each in study.evaluations.get(name, {}).values()] for name in names}
        rows = {name: seeds for name, seeds in rows.items() if seeds}
        if len(rows) > 1:
            ending = f"-{title}" if title else ""
            found[f"f4-frontiers{ending}"] = draw_frontiers(rows)
            if figure := draw_levels(rows):
                found[f"f4-levels{ending}"] = figure
    timed = {arm: [each.rows for each in seeds.values()] for arm, seeds in study.timed.items() if seeds}
    if len(timed) > 1:
        found["f4-wall-clock"] = draw_frontiers(timed, costs=("critical_path", "seconds"))
    return found


def _logged(study: Study, arm: str, key: str) -> list[dict[int, float]]:
    """The curve of each seed that has one."""
    trainings = study.trainings.get(arm, {}).values()
    return [curve for training in trainings if (curve := training.curves.get(key))]


def _level_shares(study: Study, arm: str) -> dict[int, dict[int, float]]:
    """Level -> step -> share, mean over seeds."""
    trainings = study.trainings.get(arm, {}).values()
    keys = {key for training in trainings for key in training.curves if key.startswith(_LEVEL)}
    found = {int(key.removeprefix(_LEVEL)): _over_seeds(_logged(study, arm, key)) for key in keys}
    return {level: {step: fmean(shares) for step, shares in each.items()} for level, each in found.items()}


def _over_seeds(curves: Iterable[Mapping[int, float]]) -> dict[int, list[float]]:
    """Step -> the smoothed value of each seed that has that step."""
    found: dict[int, list[float]] = {}
    for curve in curves:
        points: Curve = sorted(curve.items())
        for (step, _), value in zip(points, latest_means(points, SMOOTH), strict=True):
            found.setdefault(step, []).append(value)
    return dict(sorted(found.items()))


def _draw_arm(axes: Axes, arm: str, curves: Iterable[Mapping[int, float]], colour: str) -> None:
    from matplotlib.ticker import MaxNLocator

    by_step = _over_seeds(curves)
    values = by_step.values()
    axes.plot([*by_step], [fmean(each) for each in values], color=colour, label=arm)
    axes.fill_between(
        [*by_step],
        [min(each) for each in values],
        [max(each) for each in values],
        color=colour,
        alpha=0.15,
        lw=0,
    )
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def _mark_switches(axes: Axes, trainings: Iterable[Training], colour: str, label: str | None = None) -> None:
    """A dotted line where a stage begins, in any seed."""
    for step in sorted({step for training in trainings for step in training.switches}):
        axes.axvline(step, color=colour, linestyle=":", label=label)
        label = None  # one entry in the legend
