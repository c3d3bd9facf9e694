"""`prl data import`: a file of traces in another project's format, written as traces of prl.

    prl data import npr.jsonl --format npr --output traces.parquet

Columns are those that every data set is read by. The trace is taken as it is written, thoughts and all,
because other formats have their blocks in them. A row may have no answer, but none that cannot be read.
Nothing is recorded about wrong paths.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from prl.data.columns import by_column, column_of, missing_column
from prl.data.conversations import last_answer, read_conversation
from prl.data.golds import is_missing, text_of
from prl.data.hub import LISTED_FAULTS, bad_rows, stream_rows, told
from prl.data.rows import to_row
from prl.errors import DataError
from prl.grammar import parse
from prl.settings import Settings
from prl.settings.arguments import DataImportArguments
from prl.traces.dataset import check_output, write_rows
from prl.traces.foreign import FORMATS


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
    if notes:
        print(f"  as read: {told(notes)}")
    print(f"  prl data check {output}")


def imported(row: Mapping[str, Any], form: str, name: str) -> dict[str, Any]:
    """A row of `load_rows(all_columns=True)` with the trace that its columns hold in the format `form`.

    Raises ValueError: what of it has no form in prl, or an answer that cannot be read; DataError: the data
    set `name` has no column for it.
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
        trace = text_of(value)
    except ValueError as error:
        raise ValueError(f"{column} {error}") from error
    kept = {key: cell for key, cell in row.items() if key != "columns"}
    return kept | {"trace": FORMATS[form](trace)}
