"""Where responses to be shown come from: a run, a folder of runs, a data file, what is piped in.

    source = read_source("runs/mine/rl")       also an evaluation, a demo, traces.parquet, gsm8k
    source.rows                                as `prl.report.choosing` takes them

Whatever wrote them, they are data: a cell of another type than its column should have is left out.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import json
import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any, BinaryIO

from prl import runs
from prl.data.columns import CONTEXT_PATHS, known_columns
from prl.data.files import json_records_in
from prl.data.hub import load_rows
from prl.errors import DataError, RunError, UsageError
from prl.prompts import transcript
from prl.report.choosing import Choice, Row, choose, judge, none_matches, numbered
from prl.runs.reading import contents, listed, looking_into, run_around, run_folder, runs_in

log = logging.getLogger(__name__)

_STDIN = "stdin"
_SAMPLES = "samples.parquet"
_LEVELS = 4  # at which runs are looked for in a folder that holds none itself

_TEXTS = {"command", "stage", "phase", "mode", "problem", "answer", "text", "extracted", "verdict"}
_NUMBERS = {"length", "critical_path", "advantage", "correct", "group", "seconds"}
_MOST = 1e300  # of a number; a file may hold some that no float does
_NEED = ("problem", "trace")
_LIKE_SAMPLES = {"problem", "text", "verdict"}
"""Columns by which a file holds responses as a run keeps them."""


@dataclass(frozen=True)
class Source:
    """Responses and where they come from: `name` for people; `folders` of the runs, the latest first, none
    for other sources."""

    name: str
    rows: list[Row]
    folders: tuple[Path, ...] = ()


def read_source(
    given: str | os.PathLike[str] | None, *, split: str = "train", stdin: BinaryIO | None = None
) -> Source:
    """The responses of a run folder (sft, rl, eval; it may still be running), of all runs in a folder, such
    as that of a demo, or of a data set with traces (`read_traces`); where `given` is "-" or None, of `stdin`:
    JSON lines, or one raw response.

    Raises RunError: a folder without runs, or runs without responses; DataError as `load_rows`; UsageError:
    nothing given, and nothing piped in.
    """
    if given is None or str(given) == "-":
        return _piped(stdin, split)
    path = Path(given).expanduser()
    with looking_into(path):
        if path.name == _SAMPLES or path.is_dir():
            return _of_folder(run_around(path))
        if stored := _stored(path):
            return Source(str(given), stored)
        if _is_misspelt_run(path):
            run_folder(path)  # it says which there are
    return read_traces(str(given), split)


def read_traces(dataset: str, split: str = "train") -> Source:
    """The traces of a data set, by its `prl.data.hub.load_rows`. Raises DataError as that does."""
    return Source(dataset, _traces(load_rows(dataset, split=split, need=_NEED)))


def select(source: Source, choice: Choice, limit: int | None) -> tuple[int, list[Row]]:
    """How many rows are as `choice` wants them, and the first `limit` of these, judged where nobody has.
    Raises DataError, with what there is, where none is; VerifierError."""
    rows = choose(source.rows, choice)
    if not rows:
        raise DataError(none_matches(source.name, source.rows))
    judge(shown := rows[:limit])
    return len(rows), shown


def _is_misspelt_run(path: Path) -> bool:
    """Whether what is not there would be a run rather than a data set of the Hub, whose names have a stroke
    too."""
    is_below = path.parts[:1] == ("runs",) or (path.parent.name and path.parent.is_dir())
    return bool(len(path.parts) > 1 and is_below and not path.suffix and not path.exists())


def _of_folder(folder: Path) -> Source:
    """The responses of a run, or of the runs in a folder, the latest first."""
    if (folder / "environment.json").exists():
        if rows := _of_run(folder):
            return Source(str(folder), numbered(rows, opening=_opening(folder)), (folder,))
        if (traces := folder / "traces.parquet").exists():  # of `prl data traces`
            return read_traces(str(traces))
        raise RunError(
            f"{folder} has kept no response (yet): `prl rl` keeps those of each step, `prl sft` those of an "
            "evaluation (--sample_count), `prl eval` all at its end"
        )
    inside = runs_in(folder)[::-1]
    read = {run: rows for run in inside if (rows := _of_run(run))}
    if not read:
        raise RunError(f"{folder} {_nothing_in(folder, inside)}")
    found = [row for run, rows in read.items() for row in numbered(rows, run.name, _opening(run))]
    return Source(str(folder), found, tuple(read))


def _nothing_in(folder: Path, inside: Sequence[Path]) -> str:
    """Why nothing in a folder can be shown, and what else can be named."""
    if inside:
        return f"holds runs that have kept no response (yet): {listed([run.name for run in inside])}"
    deeper = map(str, runs_in(folder, levels=_LEVELS))
    files = (name for name in contents(folder) if name.endswith((".parquet", ".jsonl", ".csv")))
    names = [*deeper] or [str(folder / name) for name in files]
    return f"is no run and holds none: name {listed(names) if names else 'the --output_dir of a command'}"


def _of_run(folder: Path) -> list[dict[str, Any]]:
    """The samples of a run, also of one that finishes while it is read: then its parts vanish."""
    whole = folder / _SAMPLES
    was_done = whole.exists()
    table = runs.read_samples(folder)
    if not was_done and whole.exists():
        table = runs.read_samples(folder)
    return [_sample(row) for row in table.drop_columns(["token_ids"]).to_pylist()]


def _opening(folder: Path) -> str:
    with contextlib.suppress(RunError):
        return runs.read_path_opening(folder)
    return "none"


def _stored(path: Path) -> list[Row]:
    """The rows of a parquet or jsonl file that holds responses as a run keeps them; none of another."""
    if path.suffix.lower() == ".parquet" and path.is_file():
        import pyarrow.parquet as pq

        with contextlib.suppress(OSError, ValueError), pq.ParquetFile(path) as file:  # told when it is read
            if {*file.schema_arrow.names} >= _LIKE_SAMPLES:
                return numbered(map(_sample, file.read().to_pylist()))
    if path.suffix.lower() == ".jsonl" and path.is_file():
        with path.open("rb") as lines:
            return _stored_json(lines, str(path))
    return []


def _stored_json(file: BinaryIO, name: str) -> list[Row]:
    records = json_records_in(file, name, "train")
    first = next(records, ("", ""))
    if not {*first[1]} >= _LIKE_SAMPLES:
        return []
    found = []
    for where, record in itertools.chain([first], records):
        if isinstance(record, dict):
            found.append(_sample(record))
        else:
            log.warning("%s, %s: %s; it is left out", name, where, record)
    return numbered(found)


def _piped(stdin: BinaryIO | None, split: str) -> Source:
    if stdin is None:
        raise UsageError(
            "nothing to show: name a run folder, an evaluation, a demo or a data file, or pipe a response in"
        )
    said = stdin.read()
    if not said.strip():
        raise UsageError("stdin is empty: pipe a response or JSON lines in, or name a run folder or a file")
    if not _is_rows(said):
        row = {"text": said.decode("utf-8", "replace"), "row": 1, "run": None, "group": None}
        return Source(_STDIN, [row])
    if stored := _stored_json(io.BytesIO(said), _STDIN):
        return Source(_STDIN, stored)
    return Source(_STDIN, _traces(load_rows(_STDIN, split=split, need=_NEED, stream=io.BytesIO(said))))


def _is_rows(said: bytes) -> bool:
    """Whether a text is rows, and no response that happens to be JSON: its first line, or all of it, is an
    object, or a list of objects, with a column that is known."""
    for part in (said.lstrip().partition(b"\n")[0], said):
        with contextlib.suppress(ValueError, RecursionError):
            found = json.loads(part)
            first = found[0] if isinstance(found, list) and found else found
            if isinstance(first, dict):
                return not known_columns().isdisjoint(name.strip().lower() for name in first)
    return False


def _traces(rows: Iterable[Mapping[str, Any]]) -> list[Row]:
    """The rows of a data set in the columns of samples."""
    return [
        {
            "row": number,
            "run": None,
            "group": None,
            "problem": transcript(row["problem"], row.get("history")),
            "answer": row.get("answer"),
            "text": row["trace"],
            CONTEXT_PATHS: row.get(CONTEXT_PATHS) or [],
        }
        for number, row in enumerate(rows, 1)
    ]


def _sample(stored: Mapping[str, Any]) -> dict[str, Any]:
    """Of a stored response the columns that are shown, each of the type that it should have."""
    row: dict[str, Any] = {}
    for name, value in stored.items():
        if name in _TEXTS and isinstance(value, str):
            row[name] = value
        elif (name in _NUMBERS or name.startswith("reward_")) and _is_number(value):
            row[name] = float(value)
        elif name == "step" and _is_number(value):
            row[name] = int(value)
        elif name == "truncated" and isinstance(value, bool):
            row[name] = value
        elif name == "faults" and isinstance(value, list):
            row[name] = [str(fault) for fault in value]
        elif name == CONTEXT_PATHS:
            row[name] = _places(value)
    return row


def _is_number(value: object) -> bool:
    return isinstance(value, int | float | Decimal) and not isinstance(value, bool) and -_MOST < value < _MOST


def _places(value: object) -> list[int]:
    """The places of paths that a cell names, also as JSON in a text, as samples keep them."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            return []
    return [place for place in value if type(place) is int] if isinstance(value, list) else []
