"""What the figures of a study are drawn from, as PNG (`prl.study.figures`) and on its page (`prl.study.web`),
and what each shows in a sentence.

    charts_of(study)              F1 … F4: name of a figure -> its panels
    findings(charts, numbers)     name of a figure -> what it shows

Curves are means over seeds of the latest `SMOOTH` steps, with the lowest and the highest seed. An arm looks
the same in all figures of its study (`styles`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, product
from statistics import fmean
from typing import Any

from prl.analysis.budgets import Row, chance
from prl.report.curves import Curve, latest_means
from prl.report.frontiers import COLOURS, UNITS, Frontier, Style, common_levels, frontier_of, shown_until
from prl.study.claims import FEWEST_BLOCKS, verdict
from prl.study.design import Design, cold
from prl.study.results import Study, Training

SMOOTH = 5
"""Steps; as many as the alternating reward's window in the overlays of studies, whose phases would show."""

_LEVEL = "curriculum/share_level_"
_COSTS = ("critical_path", "length")
_DASHES: tuple[tuple[float, ...], ...] = ((), (3.5, 1.2), (1.2, 1.0), (4.5, 1.0, 1.2, 1.0))
"""Solid and three kinds of strokes, in widths of the line."""
_SHADES = ("#00224e", "#35456c", "#666970", "#948e77", "#c8b866", "#fee838")
"""matplotlib's cividis in six steps: levels from the easiest to the hardest."""

Point = tuple[float, float, float, float]
"""Step or budget, mean over seeds, the lowest and the highest seed's."""


@dataclass(frozen=True)
class Series:
    """What one arm shows, in its colour and the `dash` of its line (`Style`). `switches`: first steps of its
    later stages, in any seed. Of a frontier `end` is the mean cost and the accuracy without limits, `votes`
    k -> the same of the majority of k samples."""

    name: str
    colour: str
    points: Sequence[Point]
    switches: Sequence[int] = ()
    dash: Sequence[float] = ()
    end: tuple[float, float] | None = None
    votes: Mapping[int, tuple[float, float]] = field(default_factory=dict)


@dataclass(frozen=True)
class Panel:
    """Series on the same axes. `kind`: curves, areas (stacked shares) or frontiers, which have `chance` and
    are shown until `widest`. `note`: what its series differ in beside what is compared."""

    kind: str
    title: str
    x: str
    y: str
    series: Sequence[Series]
    chance: float | None = None
    widest: float | None = None
    note: str = ""

    @property
    def name(self) -> str:
        """What tells it from the other panels of its figure."""
        return self.title or (f"against {self.x}" if self.kind == "frontiers" else self.y)


def charts_of(study: Study) -> dict[str, list[Panel]]:
    """The panels of each figure that the study has runs for."""
    found = {
        "f1-block-position": block_positions(study),
        "f2-scaffold": scaffold(study),
        "f3-levels": levels(study),
    }
    looks = styles(study.design)
    for title, rows in frontier_rows(study).items():
        ending, note = f"-{title}" if title else "", trained_otherwise(study, [*rows])
        found[f"f4-frontiers{ending}"] = [_frontiers(rows, cost, looks, note=note) for cost in _COSTS]
        found[f"f4-levels{ending}"] = _level_frontiers(rows, looks)
    if timed := timed_rows(study):
        found["f4-wall-clock"] = [_frontiers(timed, cost, looks) for cost in ("critical_path", "seconds")]
    return {name: panels for name, panels in found.items() if panels}


def styles(design: Design) -> dict[str, Style]:
    """Name -> how it looks in all figures: in the colour that the design gives it, where no other of a panel
    with it has that, and dashed where another of its figure has the same."""
    wanted = dict(design.scaffold_panel)
    for panel in design.panels.values():
        wanted |= panel
    timed = tuple(name for name, arm in design.arms.items() if arm.timed)
    others = [tuple(design.scaffold_panel), *design.frontiers.values(), timed]
    panels = [*map(tuple, design.panels.values()), *others]
    figures = [tuple(chain(*design.panels.values())), *others]
    found: dict[str, Style] = {}
    for name in dict.fromkeys(chain(*panels)):
        mates = {*chain(*(panel for panel in panels if name in panel))} - {name}
        kept = {found[mate].colour if mate in found else wanted.get(mate) for mate in mates}
        free = [colour for colour in (wanted.get(name), *COLOURS) if colour and colour not in kept]
        free = free[:1] if name in wanted else free
        choice = [Style(colour, dash) for dash, colour in product(_DASHES, free or COLOURS)]
        taken = {found.get(each) for figure in figures if name in figure for each in figure}
        found[name] = next((style for style in choice if style not in taken), choice[0])
    return found


def block_positions(study: Study) -> list[Panel]:
    """F1: where blocks begin, as a share of the response; a panel a family of arms. Of steps with too few
    blocks in any seed it has no point."""
    panels = []
    for title, arms in study.design.panels.items():
        if series := _curves(study, arms, where_blocks_stand):
            panels.append(Panel("curves", title, "step", "start of blocks / length", series))
    return panels


def scaffold(study: Study) -> list[Panel]:
    """F2: parallel ratio and accuracy of the responses trained on."""
    panels = []
    for key, label in {"parallel_ratio": "parallel ratio", "correct": "share correct"}.items():
        if series := _curves(study, study.design.scaffold_panel, _logged(key)):
            panels.append(Panel("curves", "", "step", label, series))
    return panels


def levels(study: Study) -> list[Panel]:
    """F3: the share of each level among the problems of a step; a panel an arm."""
    shares = {arm: found for arm in study.design.level_arms if (found := _level_shares(study, arm))}
    known = sorted({level for found in shares.values() for level in found})
    colours = {level: _SHADES[round(5 * at / max(1, len(known) - 1))] for at, level in enumerate(known)}
    return [
        Panel(
            "areas",
            arm,
            "step",
            "share of problems",
            [
                Series(
                    f"level {level}", colours[level], [(step, share, share, share) for step, share in curve]
                )
                for level, curve in _filled(found, known).items()
            ],
        )
        for arm, found in shares.items()
    ]


def frontier_rows(study: Study) -> dict[str, dict[str, list[Sequence[Row]]]]:
    """F4: title -> what is drawn against its cost -> seed by seed its sampled responses."""
    found = {}
    for title, names in study.design.frontiers.items():
        rows = {name: [each.rows for each in study.evaluations.get(name, {}).values()] for name in names}
        rows = {name: seeds for name, seeds in rows.items() if seeds}
        if len(rows) > 1:
            found[title] = rows
    return found


def timed_rows(study: Study) -> dict[str, list[Sequence[Row]]]:
    """The greedy responses of timed arms, where there are two of them or more."""
    timed = {arm: [each.rows for each in seeds.values()] for arm, seeds in study.timed.items() if seeds}
    return timed if len(timed) > 1 else {}


def trained_otherwise(study: Study, names: Sequence[str]) -> str:
    """What is to be known beside a comparison of these: that their cold starts had other numbers of steps, or
    RL another rate. Empty where all are alike, as where the sizes of the design do not hold."""
    design, settings = study.design, study.settings
    if settings.get("quick") or settings.get("recipe") != design.recipe_of(None):
        return ""
    found: dict[tuple[int | None, float | None], list[str]] = {}
    for name in names:
        arm = design.arms.get(name)
        start = (arm.cold_start or "") if arm else name.removeprefix(cold(""))
        sizes = design.cold_starts[start].sizes if start in design.cold_starts else {}
        rate = arm.setup.sizes.get("rl", {}).get("learning_rate") if arm else None
        found.setdefault((sizes.get("sft", {}).get("max_steps"), rate), []).append(name)
    told = [
        f"{', '.join(alike)} from cold starts of {steps or 'as many as the recipe has'} steps"
        + (f", by RL at a rate of {rate}" if rate else "")
        for (steps, rate), alike in found.items()
    ]
    return f"Not trained alike: {'; '.join(told)}." if len(found) > 1 else ""


# What each figure shows


def findings(charts: Mapping[str, Sequence[Panel]], numbers: Mapping[str, Any]) -> dict[str, str]:
    """Name of a figure -> a sentence or two for its caption; `numbers` are those of the report."""
    found = {}
    for name, panels in charts.items():
        if name.startswith("f1"):
            found[name] = _moves(panels, numbers["positions"])
        elif name.startswith("f4-levels"):
            found[name] = f"The most accurate: {', '.join(_best(panel) for panel in panels)}."
        elif name.startswith("f4"):
            found[name] = " ".join(told for told in (_costs(panels), panels[0].note) if told)
        else:
            found[name] = " ".join(f"{panel.name}: {says(panel)}" for panel in panels)
    return found


def says(panel: Panel) -> str:
    """What one panel shows: of curves the ends of each, of frontiers cost and accuracy without limits.

    >>> says(Panel("curves", "", "step", "ratio", [Series("a", "", [(1, 0.5, 0, 1), (9, 0.25, 0, 1)])]))
    'a from 50.0% to 25.0%.'
    """
    told = [
        f"{each.name} from {each.points[0][1]:.1%} to {each.points[-1][1]:.1%}"
        if each.end is None
        else f"{each.name} {each.end[1]:.1%} at {_amount(panel, each.end[0])}"
        for each in panel.series
    ]
    return "; ".join(told) + "."


def _moves(panels: Sequence[Panel], positions: Mapping[str, Mapping[str, Any]]) -> str:
    """Which of the arms that are drawn move their blocks, by the verdicts of the table of positions."""
    drawn = dict.fromkeys(series.name for panel in panels for series in panel.series)
    arms: dict[str, list[str]] = {}
    for arm in drawn:
        known = verdict(positions[arm]["change"], "above") if arm in positions else "too few"
        arms.setdefault(known, []).append(arm)
    told = {
        "supported": "later in",
        "not supported": "earlier in",
        "undecided": "undecided in",
        "too few": "with too few blocks at the end to say in",
    }
    parts = [f"{words} {', '.join(arms[key])}" for key, words in told.items() if key in arms]
    moved = f"Over RL blocks move: {'; '.join(parts)}." if {*arms} - {"too few"} else ""
    return moved or "There are too few blocks to say more."


def _best(panel: Panel) -> str:
    best = max(panel.series, key=lambda each: each.end[1] if each.end else 0.0)
    return f"{panel.title} {best.name} ({best.end[1]:.1%})" if best.end else panel.title


def _costs(panels: Sequence[Panel]) -> str:
    """Accuracy without limits and the mean costs of each, the most accurate first."""
    ends: dict[str, list[str]] = {}
    right: dict[str, float] = {}
    for panel in panels:
        for each in panel.series:
            if each.end:
                right[each.name] = each.end[1]
                ends.setdefault(each.name, []).append(_amount(panel, each.end[0]))
    ranked = sorted(right, key=lambda name: -right[name])
    told = "; ".join(f"{name} {right[name]:.1%} at {', '.join(ends[name])}" for name in ranked)
    samples = sorted({k for panel in panels for each in panel.series for k in each.votes})
    votes = f" Diamonds are majorities of {samples[0]} samples." if len(samples) == 1 else ""
    return f"Without limits, at mean costs: {told}.{votes}"


def _amount(panel: Panel, cost: float) -> str:
    if panel.x == UNITS["seconds"]:
        return f"{cost:.3f} s"
    return f"critical path {cost:.0f}" if panel.x == UNITS["critical_path"] else f"{cost:.0f} tokens"


# Numbers


def _curves(study: Study, arms: Iterable[str], curve_of: Callable[[Training], Curve | None]) -> list[Series]:
    """Of each arm the steps that no seed lacks; a seed of which nothing is known, None, counts for none."""
    looks, found = styles(study.design), []
    for arm in arms:
        trainings = [*study.trainings.get(arm, {}).values()]
        curves = [curve for training in trainings if (curve := curve_of(training)) is not None]
        whole = {step: of for step, of in _over_seeds(curves).items() if len(of) == len(curves)}
        if whole:
            points = [(step, fmean(of), min(of), max(of)) for step, of in whole.items()]
            switches = sorted({step for training in trainings for step in training.switches})
            found.append(Series(arm, looks[arm].colour, points, switches, looks[arm].dash))
    return found


def _logged(key: str) -> Callable[[Training], Curve | None]:
    return lambda training: _smooth(training.curves[key]) if training.curves.get(key) else None


def where_blocks_stand(training: Training) -> Curve:
    """Where the blocks of the latest steps begin, on average, at each step that has enough of them."""
    positions, found = training.curves.get("block_position", {}), []
    for step in range(1, training.steps + 1):
        window = [at for at in range(step - SMOOTH + 1, step + 1) if at in positions]
        blocks = sum(training.blocks[at] for at in window)
        if blocks >= FEWEST_BLOCKS:
            found.append((step, sum(positions[at] * training.blocks[at] for at in window) / blocks))
    return found


def _level_shares(study: Study, arm: str) -> dict[int, dict[int, float]]:
    """Level -> step -> share, mean over seeds."""
    trainings = [*study.trainings.get(arm, {}).values()]
    found = {}
    for key in {key for training in trainings for key in training.curves if key.startswith(_LEVEL)}:
        curves = [curve for training in trainings if (curve := training.curves.get(key))]
        shares = {step: fmean(of) for step, of in _over_seeds(map(_smooth, curves)).items()}
        found[int(key.removeprefix(_LEVEL))] = shares
    return found


def _filled(
    shares: Mapping[int, Mapping[int, float]], known: Iterable[int]
) -> dict[int, list[tuple[int, float]]]:
    """Each level at each step, which it may not have been drawn at."""
    steps = sorted({step for curve in shares.values() for step in curve})
    return {level: [(step, shares.get(level, {}).get(step, 0.0)) for step in steps] for level in known}


def _smooth(curve: Mapping[int, float]) -> Curve:
    points = sorted(curve.items())
    return [(step, mean) for (step, _), mean in zip(points, latest_means(points, SMOOTH), strict=True)]


def _over_seeds(curves: Iterable[Curve]) -> dict[int, list[float]]:
    """Step -> the value of each seed that has that step."""
    found: dict[int, list[float]] = {}
    for curve in curves:
        for step, value in curve:
            found.setdefault(step, []).append(value)
    return dict(sorted(found.items()))


def _frontiers(
    seeds: Mapping[str, Sequence[Sequence[Row]]],
    cost: str,
    looks: Mapping[str, Style],
    title: str = "",
    note: str = "",
) -> Panel:
    found = {name: frontier_of(each, cost) for name, each in seeds.items()}
    widest = max(shown_until(each, cost) for each in found.values())
    return Panel(
        "frontiers",
        title,
        UNITS[cost],
        "accuracy within the budget",
        [
            Series(
                name,
                looks[name].colour,
                _steps(each, widest),
                dash=looks[name].dash,
                end=each.end,
                votes=each.votes,
            )
            for name, each in found.items()
        ],
        chance=fmean(chance(rows) for each in seeds.values() for rows in each),
        widest=widest,
        note=note,
    )


def _steps(found: Frontier, widest: float) -> list[Point]:
    """From no budget to the widest that is shown."""
    shown: list[Point] = [(0.0, 0.0, 0.0, 0.0), *(point for point in found.points if point[0] < widest)]
    return [*shown, (widest, *shown[-1][1:])]


def _level_frontiers(seeds: Mapping[str, Sequence[Sequence[Row]]], looks: Mapping[str, Style]) -> list[Panel]:
    """A panel for each level of which all were asked a problem, against the critical path."""
    return [
        _frontiers(of_level, "critical_path", looks, f"level {level}")
        for level, of_level in common_levels(seeds).items()
    ]
