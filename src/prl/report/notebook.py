"""A run or a trace in a notebook: `prl.show`."""

from __future__ import annotations

import base64
import io
import os
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prl import runs
from prl.errors import PrlError, UsageError
from prl.grammar import Trace, parse
from prl.report.choosing import Choice
from prl.report.curves import METRICS, plot_evaluations, plot_run
from prl.report.lanes import one_line, trace_html, trace_text
from prl.report.responses import head_of, response_html, response_text
from prl.report.shown import Shown
from prl.report.sources import Source, read_source, select
from prl.runs.reading import read_environment

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_WIDTH = 100  # columns, where there is no HTML


def show(source: str | os.PathLike[str] | Trace, *, limit: int = 3, **choice: Any) -> Shown:
    """The curves of a run and its last responses as lanes, or the lanes of one trace.

    `source` is a run folder (its evaluation has intervals in the place of curves), a folder of runs, a file
    with traces, each by a path that is there, a response as text, or what `prl.grammar.parse` makes of one.
    `limit` responses are drawn, of those that are as `choice` wants them (fields of
    `prl.report.choosing.Choice`: `show(run, right=False, step="last")`).

    Raises RunError or DataError: a folder or file that cannot be read, or that has no such response;
    UsageError: no such field.
    """
    if isinstance(source, Trace):
        return Shown(trace_html(source), trace_text(source, _WIDTH))
    if isinstance(source, str) and not _is_there(source):
        return show(parse(source))
    read = read_source(source)
    try:
        wanted = Choice(**choice)
    except TypeError:
        known = ", ".join(Choice.__dataclass_fields__)
        raise UsageError(f"show: {', '.join(choice)}: choose by {known}") from None
    matched, rows = select(read, wanted, limit)
    picture, remark = _picture(read)
    told = f"{read.name}: {matched} of {len(read.rows)} responses, {len(rows)} shown"
    html = [picture, *(f"<p>{escape(one_line(line))}</p>" for line in (remark, told) if line)]
    text = [one_line(line) for line in (remark, told) if line]
    for row in rows:
        head = head_of(row, odds=wanted.disagree)
        html.append(response_html(row, head))
        text += response_text(row, _WIDTH, head)
    return Shown("".join(html), "\n".join(text))


def _is_there(name: str) -> bool:
    try:
        return bool(name) and Path(name).expanduser().exists()
    except (OSError, RuntimeError, ValueError):  # too long for a name, or of no home: a text
        return False


def _picture(source: Source) -> tuple[str, str]:
    """The curves of a run, or the intervals of evaluations, as an <img>; "" where there are none, and why."""
    try:
        figure = _figure(source.folders)
    except PrlError as error:
        return "", str(error)
    if figure is None:
        return "", ""
    data = io.BytesIO()
    figure.savefig(data, format="png", dpi=100)
    encoded = base64.b64encode(data.getvalue()).decode()
    name = escape(one_line(source.name), quote=True)
    return f'<img alt="curves of {name}" style="max-width:100%" src="data:image/png;base64,{encoded}">', ""


def _figure(folders: Sequence[Path]) -> Figure | None:
    if len(folders) == 1 and read_environment(folders[0]).get("command") in METRICS:
        return plot_run(folders[0])
    # What is timed is greedy alone, and of fewer problems.
    evaluations = {
        folder.name: folder
        for folder in folders
        if (folder / "results.json").is_file() and not runs.read_settings(folder).get("timed")
    }
    return plot_evaluations(evaluations) if evaluations else None
