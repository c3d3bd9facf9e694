"""A comparison for people: what the letters are, what differs in settings, then the figures of each part."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.markup import escape
from rich.table import Table

from prl.console import console
from prl.report.lanes import one_line
from prl.report.tables import in_blocks, shown, side_by_side, table
from prl.runs.reading import listed
from prl.statistics import Estimate
from prl.study.comparison.figures import Compared, Difference, Figures
from prl.study.comparison.methods import Method

_COUNTS = ("tokens", "critical_path")  # where the other figures of evaluations are shares
_FOLDED = 2
"""Methods that stand side by side however wide they are."""
_ANY_WIDTH = 10_000


def tell(found: Compared) -> None:
    """Print all of it."""
    for method in found.methods:
        _say(_named(method))
    if found.settings or found.environment:
        _tell_differing(found)
    if not found.settings:
        _say("Their settings are the same.")
    for line in found.remarks:
        _say(line)
    for figures in found.figures.values():
        if figures.of == "evaluation":
            _tell_evaluations(figures)
        else:
            _tell_trainings(figures)


def _merged(rows: Mapping[str, Sequence[str]]) -> dict[str, Sequence[str]]:
    """What differs alike in several commands once, without their names."""
    by_name: dict[str, list[str]] = {}
    for row in rows:
        by_name.setdefault(row.rpartition(".")[2] if row.count(".") == 1 else row, []).append(row)
    found: dict[str, Sequence[str]] = {}
    for name, several in by_name.items():
        is_one = len(several) > 1 and len({*map(tuple, map(rows.__getitem__, several))}) == 1
        found |= {name: rows[several[0]]} if is_one else {row: rows[row] for row in several}
    return found


def _named(method: Method) -> str:
    names = [named.name for named in method.seeds.values()]
    seeds = f" (seeds {' '.join(map(str, method.seeds))})" if len(names) > 1 else ""
    return f"{method.letter} {listed(names)}{seeds}"


def _tell_differing(found: Compared) -> None:
    letters = [method.letter for method in found.methods]
    sections = [_merged(found.settings), _merged(found.environment)]
    grid = side_by_side(sections, letters, "what differs", "setting")
    if not _is_readable(grid, len(letters)):
        turned = [{name: _by_value(letters, cells) for name, cells in rows.items()} for rows in sections]
        grid = in_blocks(turned, ["setting", ""], "what differs")
    console.print(grid)


def _by_value(letters: Sequence[str], cells: Sequence[str]) -> list[tuple[str, str]]:
    """Who has the same, and what."""
    found: dict[str, list[str]] = {}
    for letter, cell in zip(letters, cells, strict=True):
        found.setdefault(cell, []).append(letter)
    return [(" ".join(each), cell) for cell, each in found.items()]


def _is_readable(grid: Table, columns: int) -> bool:
    """Whether a table of so many columns beside its first needs no folding, or has so few that it may."""
    wide = console.options.update(width=_ANY_WIDTH)
    return columns <= _FOLDED or console.measure(grid, options=wide).maximum <= console.width


def _tell_evaluations(figures: Figures) -> None:
    columns = {
        f"{figures.labels[letter]}/{name}": value
        for letter, values in figures.values.items()
        for name, value in values.items()
        if isinstance(value, Estimate)
    }
    grid = table(columns, title=escape(one_line(figures.title)))
    if _is_readable(grid, len(figures.labels)):
        console.print(grid)
        for each in figures.differences:
            _say(f"{each.figure}, {each.second} - {each.first}, {each.how}: {_difference(figures, each)}")
    else:
        _tell_turned(figures)
    _say_remarks(figures)


def _tell_trainings(figures: Figures) -> None:
    names = _names(figures)
    pairs = dict.fromkeys((each.second, each.first) for each in figures.differences)
    by_name = {(each.figure, each.second): each for each in figures.differences}
    rows = {
        name: [
            *(_number(figures, name, values.get(name)) for values in figures.values.values()),
            *(_difference(figures, by_name.get((name, second))) for second, _ in pairs),
        ]
        for name in names
    }
    headings = [*figures.labels.values(), *(f"{second} - {first}" for second, first in pairs)]
    grid = side_by_side([rows], headings, figures.title, figures.of)
    if _is_readable(grid, len(figures.labels)):
        console.print(grid)
        _say_hows(figures)
    else:
        _tell_turned(figures)
    for each in figures.differences:
        if each.figure not in names:
            _say(f"{each.figure}, {each.second} - {each.first}, {each.how}: {_difference(figures, each)}")
    _say_remarks(figures)


def _tell_turned(figures: Figures) -> None:
    """A block a figure, a line a method: what it has, and by how much that is more than the first has."""
    by_name = {(each.figure, each.second): each for each in figures.differences}
    blocks = {
        name: [
            (
                figures.labels[letter],
                _number(figures, name, values.get(name)),
                _difference(figures, by_name.get((name, letter))),
            )
            for letter, values in figures.values.items()
        ]
        for name in _names(figures)
    }
    has_intervals = any(
        isinstance(value, Estimate) for each in figures.values.values() for value in each.values()
    )
    columns = [figures.of, "95 % interval" if has_intervals else "", f"- {next(iter(figures.labels))}"]
    console.print(in_blocks([blocks], columns, figures.title))
    _say_hows(figures)


def _say_hows(figures: Figures) -> None:
    """How the differences in a table were taken, once for all methods of which that is the same."""
    letters: dict[tuple[str, str], dict[str, None]] = {}
    names = _names(figures)
    for each in figures.differences:
        if each.figure in names and (each.seeds or isinstance(each.value, Estimate)):
            letters.setdefault((each.first, each.how), {})[each.second] = None
    for (first, how), others in letters.items():
        _say(f"{', '.join(f'{second} - {first}' for second in others)}: {how}")


def _names(figures: Figures) -> list[str]:
    return [*dict.fromkeys(name for values in figures.values.values() for name in values)]


def _number(figures: Figures, name: str, value: Estimate | float | None) -> str:
    if value is None:
        return ""
    if figures.of == "evaluation" and isinstance(value, Estimate):
        return shown(name, value)
    return format(value, ".3g")


def _difference(figures: Figures, each: Difference | None) -> str:
    if each is None:
        return ""
    if figures.of == "evaluation" or each.figure not in _names(figures):
        return format(each.value, "+.1f" if each.figure in _COUNTS else "")
    return format(each.value, "+.3g")


def _say_remarks(figures: Figures) -> None:
    for line in figures.remarks:
        _say(line)
    console.print()


def _say(line: str) -> None:
    console.print(one_line(line) if not line.isprintable() else line, markup=False)
