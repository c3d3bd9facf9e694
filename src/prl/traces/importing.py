"""`prl data import`: a file of traces in another project's format, written as traces of prl.

    prl data import npr.jsonl --format npr --output traces.parquet

Columns are those that every data set is read by. The trace is taken as it is written, thoughts and all,
because other formats have their blocks in them. A row may have no answer, but none that cannot be read.
`context_paths` are those that the file records, else, where there is an answer, those that the verifier finds
by it; without either there are none, and nobody looked.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from prl.data.columns import CONTEXT_PATHS, by_column, column_of, missing_column
from prl.data.conversations import last_answer, read_conversation
from prl.data.golds import is_missing, text_of
from prl.data.hub import LISTED_FAULTS, bad_rows, stream_rows, told
from prl.data.rows import context_paths, to_row
from prl.data.targets import wrong_paths
from prl.errors import DataError
from prl.grammar import parse
from prl.settings import Settings
from prl.settings.arguments import DataImportArguments
from prl.traces.dataset import check_output, write_rows
from prl.traces.foreign import FORMATS, path_places
from prl.traces.inspecting import wrong_paths_of


def run(settings: Settings[DataImportArguments]) -> None:
    """`prl data import`. Raises UsageError for the output; DataError for rows that cannot be read or have no
    form in prl, unless they may be left out."""
    given = settings.arguments
    name, output = str(given.file), Path(given.output)
    check_output(output)
    notes: Counter[str] = Counter()
    rows: list[dict[str, Any]] = []
    faults: list[str] = []
    read = stream_rows(name, split=given.split, need=("problem",), all_columns=True, notes=notes)
    for where, row in read:
        try:
            if isinstance(row, str):
                raise ValueError(row)
            rows.append(imported(row, str(given.format), name))
        except ValueError as error:
            faults.append(f"{where}: {error}")
    total = len(rows) + len(faults)
    if faults:
        report = bad_rows(name, len(faults), total, faults[:LISTED_FAULTS])
        if given.on_bad_rows == "error" or not rows:
            raise DataError(f"{report}\nCorrect them, or leave them out: --on_bad_rows skip.")
        print(f"{report}\nThey are left out.")
    write_rows(output, rows)
    blocks = [block for row in rows for block in parse(row["trace"]).blocks]
    paths = sum(len(block.paths) for block in blocks)
    print(f"{output}: {len(rows):,} of {total:,} traces, {len(blocks):,} blocks of {paths:,} paths")
    for line in wrong_paths_of(rows):
        print(f"  {line}")
    if notes:
        print(f"  as read: {told(notes)}")
    print(f"  prl data check {output}")


def imported(row: Mapping[str, Any], form: str, name: str) -> dict[str, Any]:
    """A row of `load_rows(all_columns=True)` with the trace that its columns hold in the format `form`, and
    which of its paths are no targets, where that can be said.

    Raises ValueError: what of it has no form in prl, an answer that cannot be read, or `context_paths` that
    it does not have; DataError: the data set `name` has no column for the trace.
    """
    cells = by_column(row.get("columns", {}))
    column = column_of("trace", cells)
    if column is None:
        raise missing_column(name, "trace", list(cells))
    at_answer = column_of("answer", cells)
    is_answered = at_answer and at_answer not in (column, "text") and not is_missing(cells[at_answer])
    if is_answered and (wrong := to_row(cells, ("answer",), name).wrong):
        raise ValueError("; ".join(wrong))
    value = cells[column]
    if turns := read_conversation(value, []):
        at = last_answer(turns)
        value = None if at is None else turns[at].text
    try:
        written = text_of(value)
    except ValueError as error:
        raise ValueError(f"{column} {error}") from error
    kept = {key: cell for key, cell in row.items() if key != "columns"}
    kept["trace"] = trace = FORMATS[form](written)
    context = _recorded(cells.get(CONTEXT_PATHS), path_places(written, form))
    if context is None and "answer" in kept:
        context = wrong_paths(trace, kept["answer"])
    return kept if context is None else kept | {CONTEXT_PATHS: context}


def _recorded(cell: object, places: Sequence[int | None]) -> list[int] | None:
    """The places in the trace of prl of the paths that a cell names by their places in the file; None for an
    empty one. Raises ValueError."""
    try:
        named = context_paths(cell, len(places))
    except ValueError as error:
        raise ValueError(f"{CONTEXT_PATHS} {error}") from None
    if named is None:
        return None
    if (lost := next((path for path in named if places[path] is None), None)) is not None:
        raise ValueError(
            f"{CONTEXT_PATHS} names path {lost}, which is alone in its block and becomes text, and text is "
            "learned: leave the row out, or the path off the list"
        )
    return [place for path in named if (place := places[path]) is not None]
