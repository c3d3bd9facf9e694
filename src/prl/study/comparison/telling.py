"""A comparison for people: what the letters are, what differs in settings, then the figures of each part."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.markup import escape

from prl.console import console
from prl.report.lanes import one_line
from prl.report.tables import side_by_side, table
from prl.runs.reading import listed
from prl.statistics import Estimate
from prl.study.comparison.figures import Compared, Difference, Figures
from prl.study.comparison.methods import Method

_COUNTS = ("tokens", "critical_path")  # where the other figures of evaluations are shares


def tell(found: Compared) -> None:
    """Print all of it."""
    for method in found.methods:
        _say(_named(method))
    letters = [method.letter for method in found.methods]
    if found.settings or found.environment:
        console.print(
            side_by_side(
                [_merged(found.settings), _merged(found.environment)], letters, "what differs", "setting"
            )
        )
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


def _tell_evaluations(figures: Figures) -> None:
    columns = {
        f"{figures.labels[letter]}/{name}": value
        for letter, values in figures.values.items()
        for name, value in values.items()
        if isinstance(value, Estimate)
    }
    console.print(table(columns, title=escape(one_line(figures.title))))
    for each in figures.differences:
        form = "+.1f" if each.figure in _COUNTS else ""
        _say(f"{each.figure}, {each.second} - {each.first}, {each.how}: {each.value:{form}}")
    _say_remarks(figures)


def _tell_trainings(figures: Figures) -> None:
    names = dict.fromkeys(name for values in figures.values.values() for name in values)
    pairs = dict.fromkeys((each.second, each.first) for each in figures.differences)
    by_name = {(each.figure, each.second): each for each in figures.differences}
    rows = {
        name: [
            *(_number(values.get(name)) for values in figures.values.values()),
            *(_difference(by_name.get((name, second))) for second, _ in pairs),
        ]
        for name in names
    }
    headings = [*figures.labels.values(), *(f"{second} - {first}" for second, first in pairs)]
    console.print(side_by_side([rows], headings, figures.title, figures.of))
    hows = (f"{each.second} - {each.first}: {each.how}" for each in figures.differences if each.seeds)
    for how in dict.fromkeys(hows):
        _say(how)
    for each in figures.differences:
        if each.figure not in names:
            _say(f"{each.figure}, {each.second} - {each.first}, {each.how}: {each.value}")
    _say_remarks(figures)


def _number(value: Estimate | float | None) -> str:
    return "" if value is None else format(value, ".3g")


def _difference(each: Difference | None) -> str:
    return "" if each is None else format(each.value, "+.3g")


def _say_remarks(figures: Figures) -> None:
    for line in figures.remarks:
        _say(line)
    console.print()


def _say(line: str) -> None:
    console.print(one_line(line) if not line.isprintable() else line, markup=False)
