"""`prl show` and `prl data show`: responses and traces drawn as lanes, in the terminal or into a pipe."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from prl.errors import PrlError, UsageError
from prl.report.choosing import OF_RUNS, OF_STEPS, Choice
from prl.report.lanes import harmless, one_line
from prl.report.responses import head_of, response_text
from prl.report.sources import Source, read_source, read_traces, select
from prl.settings import Settings
from prl.settings.arguments import DataShowArguments, ShowArguments

_LIMIT, _WIDEST = 3, 120


def run(settings: Settings[Any]) -> None:
    """`prl show` or `prl data show`. Raises what `read_source` and `select` do, and UsageError for a row
    that is not there; names and cells in what they say steer no terminal."""
    given = settings.arguments
    try:
        for line in _rows(given) if isinstance(given, DataShowArguments) else _chosen(given):
            print(line)
    except PrlError as error:
        error.args = (harmless(str(error)), *error.args[1:])
        raise


def _rows(given: DataShowArguments) -> Iterator[str]:
    """The rows of a data set as they stand there."""
    source = read_traces(str(given.file), given.split)
    _check_rows(given.rows, source)
    for number in given.rows:
        row = source.rows[number - 1] | {"opening": given.path_opening}
        yield from response_text(row, _width(), f"row {number}")


def _chosen(given: ShowArguments) -> Iterator[str]:
    piped = None if sys.stdin is None or (given.source is None and sys.stdin.isatty()) else sys.stdin.buffer
    source = read_source(given.source, split=given.split, stdin=piped)
    _check_rows(given.rows or (), source)
    if given.path_opening != "auto":
        for row in source.rows:
            row["opening"] = given.path_opening
    limit = given.limit or (None if given.rows else _LIMIT)
    matched, shown = select(source, _choice(given), limit)
    if len(source.rows) > 1:
        yield _told(source, matched, len(shown), bool(given.rows))
        yield ""
    for row in shown:
        head = head_of(row, odds=given.disagree)
        yield from response_text(row, given.width or _width(), head)


def _told(source: Source, matched: int, shown: int, by_row: bool) -> str:
    """How many there are, match and are shown, and in which order."""
    there, name, orders = len(source.rows), source.name, []
    if len(source.folders) > 1:
        name += f" ({', '.join(folder.name for folder in source.folders)})"
        orders.append(OF_RUNS)
    if len({row.get("step") for row in source.rows}) > 1:
        orders.append(OF_STEPS)
    match = f"{there} responses" if matched == there else f"{matched} of {there} responses match"
    more = [] if matched == shown else [f"{shown} shown (--limit {matched} for all)"]
    return one_line(f"{name}: {', '.join([match, *more, *([] if by_row else orders)])}")


def _choice(given: ShowArguments) -> Choice:
    return Choice(
        rows=given.rows or (),
        step=given.step,
        group=given.group,
        problem=given.problem,
        right=_either(given.right, given.wrong),
        valid=_either(given.valid, given.faulty),
        disagree=given.disagree,
    )


def _either(yes: bool, no: bool) -> bool | None:
    return True if yes else False if no else None


def _check_rows(numbers: Sequence[int], source: Source) -> None:
    """Raises UsageError: a row that is not there, or whose run is not said."""
    if numbers and len(source.folders) > 1:
        names = ", ".join(str(folder) for folder in source.folders)
        raise UsageError(f"rows: each of several runs has its own; name one of {names}")
    for number in numbers:
        if not 1 <= number <= len(source.rows):
            raise UsageError(f"rows: {number} is none of {source.name}, which has 1 to {len(source.rows)}")


def _width() -> int:
    """The columns of the terminal, also where stdout is a pipe into a pager."""
    columns = os.environ.get("COLUMNS", "")
    if columns.isdecimal() and int(columns):
        return min(int(columns), _WIDEST)
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):
            return min(os.get_terminal_size(stream.fileno()).columns or _WIDEST, _WIDEST)
    return 80
