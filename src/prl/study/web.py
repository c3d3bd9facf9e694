"""The report of a study as a page, study.html: one file that opens from disk and asks nothing of any network.

It says what study.md says, claims first; its figures are drawn in the page, from the same numbers, and follow
its width and its light. Every word is put in by templates that escape it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from math import isfinite
from typing import Any

from prl.report.page.building import render
from prl.study.charts import Panel, says
from prl.study.document import Drawn, Grid, Held, Listed, Part, Section, Verdicts, runs_of

_DIGITS = 5  # of a number in a chart
_INTERVAL = re.compile(r"\[[^\]]*\]")


def html(sections: Sequence[Section], charts: Mapping[str, Sequence[Panel]]) -> str:
    """The page of a report, its title first; `charts` are the panels of each figure by name."""
    title, *others = sections
    opening = next((at for at, part in enumerate(title.parts) if not isinstance(part, str)), len(title.parts))
    drawn = [panel for panels in charts.values() for panel in panels]
    places = {id(panel): number for number, panel in enumerate(drawn)}
    shown = {
        name: [(places[id(panel)], panel.name, says(panel)) for panel in panels]
        for name, panels in charts.items()
    }
    return render(
        "study.html",
        {"charts": [_chart(panel) for panel in drawn]},
        title=_plain(title.title),
        opening=[_told(part, shown) for part in title.parts[:opening]],
        facts=[_told(part, shown) for part in title.parts[opening:]],
        sections=[
            {
                "id": _id(section.title),
                "title": runs_of(section.title),
                "about": _plain(section.title),
                "parts": [_told(part, shown) for part in section.parts],
            }
            for section in others
        ],
    )


def _whole(interval: re.Match[str]) -> str:
    """An interval that no line breaks."""
    return interval[0].replace(" ", "\u00a0")


def _plain(text: str) -> str:
    """A text without its marks."""
    return "".join(words for _, words in runs_of(text))


def _id(title: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")


def _told(part: Part, shown: Mapping[str, Sequence[tuple[int, str, str]]]) -> dict[str, Any]:
    """A part as the template takes it, by its kind; of a panel `shown` has place, name and what it says."""
    if isinstance(part, Grid):
        rows = [[runs_of(_INTERVAL.sub(_whole, cell)) for cell in row] for row in part.rows]
        return {"kind": "grid", "heads": part.heads, "rows": rows}
    if isinstance(part, Listed):
        return {"kind": "list", "items": part.items}
    if isinstance(part, Verdicts):
        return {"kind": "claims", "claims": [_held(each) for each in part.claims]}
    if isinstance(part, Drawn):
        panels = [
            {"place": place, "title": name, "says": "" if words in part.finding else words}
            for place, name, words in shown[part.name]
        ]
        told = {"id": part.name, "title": part.title, "finding": part.finding}
        return {"kind": "figure", "panels": panels, **told}
    return {"kind": "text", "text": runs_of(part)}


def _held(each: Held) -> dict[str, Any]:
    """A claim, and where interval and bounds lie on a bar of 100."""
    mean, low, high = each.interval
    ends = [end for end in (mean, low, high, *each.bounds) if isfinite(end)]
    least, span = min(ends), (max(ends) - min(ends)) or 1.0

    def at(value: float) -> float:
        return round(4 + 92 * (min(max(value, least), least + span) - least) / span, 2)

    words = {"claim": runs_of(each.claim), "measured": each.measured, "seeds": each.seeds}
    bar = {"mean": at(mean), "low": at(low), "high": at(high), "bounds": [at(each_) for each_ in each.bounds]}
    return words | {"verdict": each.verdict, "mark": each.verdict.replace(" ", "-"), "bar": bar}


def _chart(panel: Panel) -> dict[str, Any]:
    """A panel as the script of the page takes it."""
    return _short(asdict(panel)) | {"says": f"{panel.name}: {says(panel)}"}


def _short(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.{_DIGITS}g}")
    if isinstance(value, dict):
        return {key: _short(each) for key, each in value.items()}
    return [_short(each) for each in value] if isinstance(value, list | tuple) else value
