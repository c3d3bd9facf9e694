"""The data set of `prl data traces`: the traces that pass, those that do not with the reasons, and its card.

    traces.parquet      problem, answer, trace, context_paths, level, source; teacher, mode, attempt, sample,
                        repairs; history, where problems have turns before them
    rejected.parquet    the same, with reasons and details
    README.md           the card, as the Hub and `datasets.load_dataset(folder)` read it

The first six columns are the schema of `prl.data.hub`, which `prl sft` reads. Files are written row group
by row group, and take their names when they are whole.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from prl.analysis import diversity, words
from prl.errors import UsageError
from prl.grammar import parse
from prl.runs.disk import check_replaceable, replacing
from prl.traces.checks import Rejection

ACCEPTED, REJECTED, CARD = "traces.parquet", "rejected.parquet", "README.md"

ROW_GROUP = 1024
"""Rows that are held before they are written."""

_TEXTS = pa.list_(pa.string())
SCHEMA = pa.schema(
    {
        "problem": pa.string(),
        "answer": pa.string(),
        "trace": pa.string(),
        "context_paths": pa.list_(pa.int64()),
        "level": pa.int64(),
        "source": pa.string(),
        "teacher": pa.string(),
        "mode": pa.string(),
        "attempt": pa.int64(),
        "sample": pa.int64(),
        "repairs": _TEXTS,
    }
)
_REASONS = pa.schema({"reasons": _TEXTS, "details": _TEXTS})
_HISTORY = pa.schema({"history": pa.list_(pa.struct({"role": pa.string(), "content": pa.string()}))})


@dataclass
class _Table:
    """A parquet file in the making."""

    writer: pq.ParquetWriter
    rows: list[Mapping[str, Any]] = field(default_factory=list)

    def add(self, row: Mapping[str, Any]) -> None:
        self.rows.append(row)
        if len(self.rows) == ROW_GROUP:
            self.flush()

    def flush(self) -> None:
        self.writer.write_table(pa.Table.from_pylist(self.rows, schema=self.writer.schema))
        self.rows = []


@dataclass(frozen=True)
class DataSet:
    """Takes rows in the schema above, one by one."""

    accepted: _Table
    rejected: _Table

    def accept(self, row: Mapping[str, Any]) -> None:
        self.accepted.add(row)

    def reject(self, row: Mapping[str, Any], rejections: Sequence[Rejection]) -> None:
        why = {
            "reasons": [rejection.reason.value for rejection in rejections],
            "details": [rejection.detail for rejection in rejections],
        }
        self.rejected.add({**row, **why})


@contextmanager
def writing(folder: Path, *, with_history: bool = False) -> Iterator[DataSet]:
    """A data set that replaces the one in `folder` when the block ends without an error; with a column for
    the turns before a problem where there are any. Raises RunError."""
    schema = pa.schema([*SCHEMA, *(_HISTORY if with_history else ())])
    with (
        replacing(folder / ACCEPTED) as accepted,
        replacing(folder / REJECTED) as rejected,
        _table(accepted, schema) as good,
        _table(rejected, pa.schema([*schema, *_REASONS])) as bad,
    ):
        yield DataSet(good, bad)


@contextmanager
def _table(file: BinaryIO, schema: pa.Schema) -> Iterator[_Table]:
    with pq.ParquetWriter(file, schema, compression="zstd") as writer:
        table = _Table(writer)
        yield table
        table.flush()


def check_output(file: Path, flag: str = "--output") -> None:
    """UsageError unless `write_rows` can write `file` anew; `flag` named it."""
    if file.suffix not in (".parquet", ".jsonl"):
        raise UsageError(f"{file}: give a name that ends with .parquet or .jsonl")
    check_replaceable(file, flag)
    if file.exists():
        raise UsageError(f"{file} exists; name another file")


def write_rows(file: Path, rows: Sequence[Mapping[str, Any]], flag: str = "--output") -> None:
    """A .jsonl or .parquet file of `rows`, whole or not at all. Raises RunError, which names `flag`."""
    with replacing(file, flag) as target:
        if file.suffix == ".jsonl":
            target.writelines((json.dumps(row, ensure_ascii=False) + "\n").encode() for row in rows)
        else:
            # Arrow takes the columns of the first row for those of all.
            columns = dict.fromkeys(column for row in rows for column in row)
            whole = [{column: row.get(column) for column in columns} for row in rows]
            pq.write_table(pa.Table.from_pylist(whole), target, compression="zstd")


def read_column(file: Path, column: str) -> Iterator[Any]:
    """The cells of a column, of which a row group is held at a time."""
    with pq.ParquetFile(file) as table:
        for batch in table.iter_batches(ROW_GROUP, columns=[column]):
            yield from batch.column(0).to_pylist()


def path_diversity(trace: str) -> float:
    """How much the paths of a trace's blocks differ: mean `prl.analysis.diversity`, 0 without paths."""
    paths = [[words(path.text) for path in block.paths] for block in parse(trace).blocks]
    differ = [value for value in map(diversity, paths) if value is not None]
    return sum(differ) / len(differ) if differ else 0.0


def public_name(name: str) -> str:
    """`name` as others may read it: of a path from the root of this machine the last part."""
    return Path(name).name if Path(name).is_absolute() else name
