"""A report as sections of texts, tables and figures, so that study.md and study.html say the same.

In headings, texts and the cells of a table `code`, *emphasis* and **strong** are marked as in Markdown; all
else is plain.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from prl.runs.cards import table

_MARKS = re.compile(r"`(?P<code>[^`]+)`|\*\*(?P<strong>[^*]+)\*\*|\*(?P<em>[^*]+)\*")


@dataclass(frozen=True)
class Grid:
    """A table; the first cell of a row is what it is about."""

    heads: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Listed:
    """A list of names."""

    items: Sequence[str]


@dataclass(frozen=True)
class Drawn:
    """A figure by its name, and what it shows."""

    name: str
    title: str
    finding: str


@dataclass(frozen=True)
class Held:
    """A claim, what was measured of it in words and of each seed, and its verdict; `interval` is mean, low
    and high, and `bounds` the one or two numbers that it is held against."""

    claim: str
    measured: str
    seeds: str
    verdict: str
    interval: tuple[float, float, float]
    bounds: Sequence[float]


@dataclass(frozen=True)
class Verdicts:
    """Claims that were held against what was measured."""

    claims: Sequence[Held]


Part = str | Grid | Listed | Drawn | Verdicts


@dataclass(frozen=True)
class Section:
    """A heading and what stands under it; the first of a report is its title."""

    title: str
    parts: Sequence[Part]


def markdown(sections: Iterable[Section], drawn: Mapping[str, str], no_figures: str = "") -> str:
    """The report as Markdown. `drawn` are the paths of the figures that there are; `no_figures` says why
    there are none."""
    found = []
    for number, section in enumerate(sections):
        found.append(f"{'##' if number else '#'} {section.title}")
        if no_figures and any(isinstance(part, Drawn) for part in section.parts):
            found.append(no_figures)
        else:
            found += [_markdown(part, drawn) for part in section.parts]
    return "\n\n".join(part for part in found if part) + "\n"


def _markdown(part: Part, drawn: Mapping[str, str]) -> str:
    if isinstance(part, Grid):
        return table(part.heads, part.rows)
    if isinstance(part, Verdicts):
        rows = [[each.claim, each.measured, each.seeds, f"**{each.verdict}**"] for each in part.claims]
        return table(["claim", "measured", "each seed", "verdict"], rows)
    if isinstance(part, Listed):
        return "\n".join(f"- {item}" for item in part.items)
    if isinstance(part, Drawn):
        told = f"{part.title}. {part.finding}\n\n![{part.finding}]({{}})"
        return told.format(drawn[part.name]) if part.name in drawn else ""
    return part


def runs_of(text: str) -> list[tuple[str, str]]:
    """The stretches of a text, each with what marks it: code, strong, em, or nothing.

    >>> runs_of("by `prl study`: **supported**")
    [('', 'by '), ('code', 'prl study'), ('', ': '), ('strong', 'supported')]
    """
    found, at = [], 0
    for mark in _MARKS.finditer(text):
        found += [
            ("", text[at : mark.start()]),
            *((kind, words) for kind, words in mark.groupdict().items() if words),
        ]
        at = mark.end()
    return [(kind, words) for kind, words in [*found, ("", text[at:])] if words]
