"""Figures of runs for papers and slides, as SVG, PDF and PNG (`prl report --figures DIR`; extra `report`).

    write_figures(read_runs(["runs/demo"]), "figures")      all that the runs have something for

    block-position         where in the response the first block begins, over the steps of RL
    ratio-and-accuracy     parallel ratio and share correct of the responses trained on, over the steps of RL
    frontiers-<mode>       accuracy against what it costs, of the evaluations of the same problems
    mask, positions        what each token of one response sees, and its position id

Dotted lines are the first steps of a new stage. Curves of more than a few steps are means over the latest
`SMOOTH`. The response is the shortest without a fault that has a block, of those that are right where any is
(`prl.report.trace_pictures.example`), of the first run that has one. Files are the same to the byte for the
same runs and the same matplotlib.
"""

from __future__ import annotations

import contextlib
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prl.analysis.budgets import Row
from prl.errors import RunError
from prl.report.curves import Curve, as_shares, draw_curve, empty_figure, mark_stages
from prl.report.frontiers import COLOURS, counted, draw_frontiers
from prl.report.page.charts import curves_of
from prl.report.page.reading import Told
from prl.report.trace_pictures import Attention, draw_masks, draw_positions, example, legible, pieces_of
from prl.runs.disk import check_writable, replacing

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FORMATS: dict[str, dict[str, Any]] = {
    "svg": {"metadata": {"Date": None}},
    "pdf": {"metadata": {"CreationDate": None}},
    "png": {"dpi": 200},
}
"""Ending of a file -> what matplotlib is told to write it with; no date, so that it is the same again."""

SMOOTH = 5
"""Steps that a curve is a mean of, where it has `_MANY`."""

_MANY = 40
_DASHES = ("-", "--", ":", "-.")
_FLAG = "--figures"


def write_figures(told: Sequence[Told], folder: str | os.PathLike[str]) -> dict[str, str]:
    """Draw what the runs have something for into `folder`: name -> what it shows.

    Raises UsageError: matplotlib is missing; RunError: the runs have nothing to draw, or `folder` cannot be
    written.
    """
    root = Path(folder).expanduser()
    empty_figure(1, 1)  # whether there is matplotlib at all, before what takes long
    check_writable(root, _FLAG)
    said = {}
    with style():
        for name, (figure, shows) in _figures(told):
            save(figure, root, name)
            said[name] = shows
    if not said:
        raise RunError(
            "none of these runs has anything to draw: it takes the steps of an RL run, sampled or greedy "
            "responses of an evaluation, or a response with a valid block"
        )
    return said


def save(
    figure: Figure, folder: Path, name: str, endings: Iterable[str] = tuple(FORMATS), flag: str = _FLAG
) -> None:
    """Write a figure in some of `FORMATS`. Raises RunError: the folder, that of `flag`, cannot be written."""
    for ending in endings:
        with replacing(folder / f"{name}.{ending}", flag) as file:
            figure.savefig(file, format=ending, **FORMATS[ending])


@contextlib.contextmanager
def style() -> Iterator[None]:
    """matplotlib's own style, whatever this machine's is: names are no formulas, fonts of a PDF can be
    edited, ids in an SVG are the same again."""
    import matplotlib

    ours = {"text.parse_math": False, "pdf.fonttype": 42, "svg.hashsalt": "prl"}
    defaults = {key: value for key, value in matplotlib.rcParamsDefault.items() if key != "backend"}
    with matplotlib.rc_context(defaults | ours):
        yield


def _figures(told: Sequence[Told]) -> Iterator[tuple[str, tuple[Figure, str]]]:
    trained = [(run, curves_of(run)) for run in told if run.command == "rl"]
    if figure := block_positions(trained):
        yield "block-position", (figure, "where the first block of a response begins, over RL")
    if figure := ratio_and_accuracy(trained):
        yield "ratio-and-accuracy", (figure, "parallel ratio and share correct, over RL")
    for name, rows in _comparable(told):
        left_out = f"; {len(rows) - len(COLOURS)} more have no colour" if len(rows) > len(COLOURS) else ""
        shown = dict(islice(rows.items(), len(COLOURS)))
        drawn = dict(zip(_in_legend(shown), shown.values(), strict=True))
        yield name, (draw_frontiers(drawn), f"accuracy against its cost: {', '.join(shown)}{left_out}")
    for run in told:
        if row := example(run.samples):
            pieces = pieces_of(row["text"], row.get("token_lengths"))
            attention = _attention(run)
            where = f"{run.name}, step {row['step']}, {len(pieces)} tokens"
            yield "mask", (draw_masks(pieces, trained=attention), f"which token sees which ({where})")
            yield "positions", (draw_positions(pieces, trained=attention), f"position ids ({where})")
            return


def block_positions(trained: Sequence[tuple[Told, Mapping[str, Curve]]]) -> Figure | None:
    """Where the first block begins, as a share of the response, over the steps of RL runs, each with its
    `prl.report.page.charts.curves_of`; None where none has blocks. Raises UsageError: no matplotlib."""
    return _over_steps(trained, {"sampled/block_position": "start of first block / length"})


def ratio_and_accuracy(trained: Sequence[tuple[Told, Mapping[str, Curve]]]) -> Figure | None:
    """Parallel ratio and share correct over the steps of RL runs, as `block_positions`."""
    return _over_steps(trained, {"parallel_ratio": "parallel ratio", "correct": "share correct"})


def _over_steps(
    trained: Sequence[tuple[Told, Mapping[str, Curve]]], panels: Mapping[str, str]
) -> Figure | None:
    """A panel a key, a line a run; a run without any of the keys is left out."""
    from matplotlib.ticker import MaxNLocator

    shown = [(run, curves) for run, curves in trained if any(key in curves for key in panels)]
    if not shown:
        return None
    names = _in_legend([run.name for run, _ in shown])
    figure = empty_figure(width=4.6 * len(panels) + 0.6, height=3.6)
    grid = figure.subplots(1, len(panels), squeeze=False)[0]
    for axes, (key, label) in zip(grid, panels.items(), strict=True):
        for number, (run, curves) in enumerate(shown):
            colour, dash = COLOURS[number % len(COLOURS)], _DASHES[number // len(COLOURS) % len(_DASHES)]
            if curve := curves.get(key):
                smooth = SMOOTH if len(curve) >= _MANY else 1
                draw_curve(axes, names[number], curve, smooth, color=colour, linestyle=dash)
            mark_stages(axes, run.stages, colour=colour, named=len(shown) == 1)
        axes.set(xlabel="step", ylabel=label)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        as_shares(axes)
    if len(panels) == 1:  # a share that hardly moves is looked at from near
        figure.axes[0].autoscale(axis="y")
        figure.axes[0].set_ylim(bottom=0)
    if len(shown) > 1:
        drawn = (pair for axes in figure.axes for pair in zip(*axes.get_legend_handles_labels(), strict=True))
        handles = {name: line for line, name in drawn}
        figure.legend([*handles.values()], [*handles], loc="outside lower center", ncols=2, frameon=False)
    else:
        figure.suptitle(names[0], fontsize=11)
    return figure


def _in_legend(names: Iterable[str]) -> list[str]:
    """Names of runs as they can be drawn, numbered where several then read alike; matplotlib leaves out of a
    legend what begins with a line."""
    drawn = [legible(f" {name}" if name.startswith("_") else name) for name in names]
    alike = Counter(drawn)
    return [
        f"{name} ({drawn[: place + 1].count(name)})" if alike[name] > 1 else name
        for place, name in enumerate(drawn)
    ]


def _comparable(told: Iterable[Told]) -> Iterator[tuple[str, dict[str, list[list[Row]]]]]:
    """Name of a figure, and by their names the evaluations whose responses of a mode are to the same
    problems, as `draw_frontiers` takes them."""
    evaluated = [run for run in told if run.command == "eval"]
    for mode in ("sampled", "greedy"):
        asked: dict[frozenset[str], dict[str, list[list[Row]]]] = {}
        for run in evaluated:
            rows = counted(row for row in run.samples if row.get("mode") == mode)
            if rows:
                asked.setdefault(frozenset(row["problem"] for row in rows), {})[run.name] = [rows]
        for number, rows_of in enumerate(asked.values(), 1):
            yield f"frontiers-{mode}" + (f"-{number}" if number > 1 else ""), rows_of


def _attention(run: Told) -> Attention | None:
    told = run.settings.get("attention")
    return told if told in ("causal", "structured") else None
