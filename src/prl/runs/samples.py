"""The responses that a run sampled: the columns of samples.parquet, one row, and the files they lie in.

Each logging is a file of its own under samples/, so that what was logged before a kill stays readable; they
are merged into samples.parquet when the run is done.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import math
import os
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prl.errors import RunError, first_line
from prl.grammar import Trace
from prl.runs.disk import plain, replacing, to_json, writing
from prl.runs.reading import read_config, read_environment, run_folder

if TYPE_CHECKING:
    import pyarrow as pa

log = logging.getLogger(__name__)

SAMPLE_COLUMNS: dict[str, str] = {
    "step": "int64",
    "command": "string",
    "stage": "string",
    "phase": "string",
    "mode": "string",
    "problem": "string",
    "answer": "string",
    "text": "string",
    "token_ids": "list<int32>",
    "token_lengths": "list<int32>",
    "token_logprobs": "list<float>",
    "forced": "list<bool>",
    "length": "int32",
    "truncated": "bool",
    "extracted": "string",
    "verdict": "string",
    "faults": "list<string>",
    "advantage": "double",
}
"""Columns that samples.parquet always has: `command` wrote the row, in which `stage` of a curriculum, `phase`
of a reward schedule and `mode` of decoding (greedy, sampled), each null where there is none; `answer` is the
gold, `length` is in tokens. Of each of `token_ids`: `token_lengths`, how many characters of `text` it wrote;
`token_logprobs`, the log-probability that it was sampled with, null where it was `forced`, which is by the
decoder and not by the model. Null where they are not known: of responses that prl's decoder did not sample,
and of runs from before there were these columns. There may be more: a `reward_<name>` (double) for each
reward, and what else a command logs, numbers as double, other things as string."""

LOGPROB_STEP = 2**-8
"""Log-probabilities are kept in steps of this, so probabilities within 0.2 % of themselves: further digits
would be most of what a compressed file holds, and say nothing that is looked at token by token."""


def sample_row(
    problem: str,
    answer: str | None,
    trace: Trace,
    token_ids: Sequence[int],
    *,
    truncated: bool,
    judged: tuple[str | None, Any] | None = None,
    logprobs: Sequence[float] | None = None,
    **more: Any,
) -> dict[str, Any]:
    """One sampled response as `Run.log_samples` takes it: the `problem` it was asked, the gold `answer`, and
    the response, with `more` columns as they are.

    `logprobs` are of the tokens, as `prl.decoding` has them: nan where one was forced. They become
    `token_logprobs`, in steps of `LOGPROB_STEP`, and `forced`.

    `judged`, where it was, is what `check_responses` says: the answer found in it, None where there is none,
    and the verdict. `correct` is then 1 or 0, or None where the gold answer cannot be read, which says
    nothing of a response: neither right nor wrong.
    """
    row: dict[str, Any] = {
        "problem": problem,
        "answer": answer,
        "text": trace.text,
        "token_ids": token_ids,
        "length": len(token_ids),
        "truncated": truncated,
        "faults": [fault.kind.value for fault in trace.faults],
    }
    if logprobs is not None:
        row["token_logprobs"] = [
            round(each / LOGPROB_STEP) * LOGPROB_STEP if math.isfinite(each) else None for each in logprobs
        ]
        row["forced"] = [math.isnan(each) for each in logprobs]
    if judged:
        extracted, verdict = judged
        correct = float(verdict.equal) if verdict.judges else None
        row |= {"extracted": extracted, "verdict": str(verdict.reason), "correct": correct}
    return row | more


def read_samples(run_dir: str | os.PathLike[str]) -> pa.Table:
    """All responses that a run logged, finished or not, as an arrow table (`.to_pylist()`, `.to_pandas()`).

    Columns are those of `SAMPLE_COLUMNS` and all that any step had; a step without one has nulls there, and a
    run from before there was `command` or `mode` has them too. A file that cannot be read is left out, with a
    notice.
    """
    import pyarrow as pa

    folder = run_folder(run_dir)
    paths = [folder / "samples.parquet"] if (folder / "samples.parquet").exists() else shards(folder)
    tables = [table for path in paths if (table := _read_parquet(path)) is not None]
    schema, wrote = _union(table.schema for table in tables), _wrote(folder)
    fitting = [_fit(table, schema, wrote) for table in tables]
    return pa.concat_tables(fitting) if tables else schema.empty_table()


def write_shard(folder: Path, step: int, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write one logging of a run: a file under samples/. Raises RunError."""
    import pyarrow.parquet as pq

    within = folder / "samples"
    with writing(within):
        within.mkdir(exist_ok=True)
    # Not by listing the folder, which holds a file for every step of the run.
    names = (within / f"step-{step:06d}-{number:02d}.parquet" for number in itertools.count())
    path = next(name for name in names if not name.exists())
    with replacing(path) as file:
        pq.write_table(_sample_table(rows), file, compression="zstd")


def merge_shards(folder: Path) -> None:
    """Write samples.parquet from what was logged, one logging in memory at a time."""
    import pyarrow.parquet as pq

    read = {path: _read_parquet(path, only_schema=True) for path in shards(folder)}
    schemas = {path: schema for path, schema in read.items() if schema is not None}
    if not schemas:
        return
    schema, wrote = _union(schemas.values()), _wrote(folder)
    with (
        replacing(folder / "samples.parquet") as file,
        pq.ParquetWriter(file, schema, compression="zstd") as writer,
    ):
        for path in schemas:
            if (table := _read_parquet(path)) is not None:
                writer.write_table(_fit(table, schema, wrote))


def shards(folder: Path) -> list[Path]:
    """The files that a run's loggings left under samples/, in the order they were logged in."""
    return sorted((folder / "samples").glob("step-*-*.parquet"), key=shard_order)


def shard_order(path: Path) -> tuple[int, int]:
    """The step, and the number of the logging within the step."""
    _, step, number = path.stem.split("-")
    return int(step), int(number)


def _sample_table(rows: Sequence[Mapping[str, Any]]) -> pa.Table:
    import pyarrow as pa

    types = {name: _arrow_type(kind) for name, kind in SAMPLE_COLUMNS.items()}
    for name in dict.fromkeys(name for row in rows for name in row if name not in types):
        numeric = all(isinstance(value := plain(row.get(name)), int | float) or value is None for row in rows)
        types[name] = pa.float64() if numeric or name.startswith("reward_") else pa.string()
    columns = [pa.array([_cell(row.get(name), kind) for row in rows], kind) for name, kind in types.items()]
    return pa.table(dict(zip(types, columns, strict=True)))


def _arrow_type(kind: str) -> pa.DataType:
    import pyarrow as pa

    item = re.fullmatch(r"list<(\w+)>", kind)
    return pa.list_(pa.type_for_alias(item[1])) if item else pa.type_for_alias(kind)


def _cell(value: Any, kind: pa.DataType) -> Any:
    import pyarrow.types as types

    if value is not None and types.is_list(kind):
        items = value.tolist() if hasattr(value, "tolist") else value
        return [str(item) for item in items] if types.is_string(kind.value_type) else items
    value = plain(value)
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if types.is_string(kind):
        text = value if isinstance(value, str) else to_json(value)
        return text.encode("utf-8", "replace").decode()
    return float(value) if types.is_floating(kind) else bool(value) if types.is_boolean(kind) else int(value)


def _read_parquet(path: Path, *, only_schema: bool = False) -> Any:
    """The table of a file, or its schema; None, with a notice, when the file is not whole."""
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            return file.schema_arrow if only_schema else file.read()
    except (OSError, ValueError) as error:
        log.warning("%s cannot be read and is left out: %s", path, first_line(error))
        return None


def _union(schemas: Iterable[pa.Schema]) -> pa.Schema:
    """`SAMPLE_COLUMNS` and all others, in order of appearance; one that changes its type is text."""
    import pyarrow as pa

    types: dict[str, pa.DataType] = {}
    for field in (field for schema in (_sample_table([]).schema, *schemas) for field in schema):
        types[field.name] = field.type if types.get(field.name, field.type) == field.type else pa.string()
    return pa.schema(list(types.items()))


def _wrote(folder: Path) -> tuple[str | None, set[str]]:
    """The command of a run, and the stages of its curriculum by name."""
    command, stages = read_environment(folder).get("command"), set()
    with contextlib.suppress(RunError, KeyError, TypeError, AttributeError):
        config = read_config(folder)
        command = command or config["command"]
        stages = {stage["name"] for stage in config[command].get("stages") or ()}
    return command, stages


def _fit(table: pa.Table, schema: pa.Schema, wrote: tuple[str | None, set[str]]) -> pa.Table:
    """`table` with the columns of `schema`, as `_wrote` says that a run writes them now."""
    import pyarrow as pa

    have, (command, stages) = {*table.column_names}, wrote
    if command and "command" not in have and {"stage", "phase"} <= have:
        table = _with_command(table, command, stages)
        have = {*table.column_names}
    columns = [
        table[name].cast(kind) if name in have else pa.nulls(len(table), kind)
        for name, kind in zip(schema.names, schema.types, strict=True)
    ]
    return pa.table(columns, schema=schema)


def _with_command(table: pa.Table, command: str, stages: Collection[str]) -> pa.Table:
    """A table from before there were `command` and `mode`: `stage` held the command where there was no
    curriculum of `stages`, and `phase` the mode of an evaluation."""
    import pyarrow as pa
    import pyarrow.compute as pc

    nothing = pa.nulls(len(table), pa.string())
    columns = {name: table[name] for name in table.column_names}
    columns["command"] = pa.array([command] * len(table), pa.string())
    if command not in stages:
        columns["stage"] = pc.if_else(pc.equal(table["stage"], command), nothing, table["stage"])
    if command == "eval":
        columns |= {"mode": table["phase"], "phase": nothing}
    return pa.table(columns)
