"""The records of a file: where each stands and its cells by column, or why it cannot be read."""

from __future__ import annotations

import codecs
import csv
import json
import logging
from collections.abc import Generator, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from prl.data.columns import known_columns, wanted_columns
from prl.data.layouts import rows_of
from prl.data.literals import EXACT, Repeated
from prl.errors import DataError, first_line

log = logging.getLogger(__name__)

_SEPARATORS = (",", ";", "\t", "|")

BATCH = 1024
"""Rows held at a time, beside those that are kept."""

Record = tuple[str, dict[str, Any] | str]
"""Where a row stands ("line 7") and its cells by column; or, in place of the cells, why it cannot be read."""

Records = Generator[Record, None, None]


def parquet_records(path: Path, need: Sequence[str], all_columns: bool = False) -> Records:
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            wanted = wanted_columns(str(path), file.schema_arrow.names, need, all_columns)
            yield from arrow_records(file.iter_batches(batch_size=BATCH, columns=wanted))
    except OSError as error:
        raise DataError(f"{path} cannot be read: {first_line(error)}. Copy it again") from error
    except ValueError as error:  # pyarrow's ArrowInvalid
        raise DataError(f"{path} is not a whole parquet file: {first_line(error)}. Write it again") from error


def arrow_records(batches: Iterable[Any]) -> Records:
    number = 0
    for batch in batches:
        try:
            rows = batch.to_pylist()
        except UnicodeDecodeError:
            rows = [_arrow_row(batch.slice(index, 1)) for index in range(batch.num_rows)]
        narrow = [column for column in batch.schema if "float" in str(column.type)]  # float64 is "double"
        for row in rows:
            number += 1
            if isinstance(row, dict):
                row |= {column.name: _as_meant(row[column.name], column.type) for column in narrow}
            yield f"row {number}", row


def _arrow_row(batch: Any) -> dict[str, Any] | str:
    try:
        return batch.to_pylist()[0]
    except UnicodeDecodeError as error:
        return f"byte {error.start + 1} of a cell is not UTF-8"


def _as_meant(value: Any, kind: Any) -> Any:
    """`value`, of the Arrow type `kind`, with the shortest decimal for each fraction of 16 or 32 bits: 0.1,
    where float64 would say 0.10000000149011612."""
    import numpy as np
    from pyarrow import types

    if value is None:
        return None
    if types.is_dictionary(kind):
        return _as_meant(value, kind.value_type)
    if types.is_float16(kind) or types.is_float32(kind):
        number = float(value)
        width = np.float16 if types.is_float16(kind) else np.float32
        # Of a whole number the shortest decimal may be another one: of 2**27, 134217730.
        return number if number.is_integer() else float(str(width(number)))
    if types.is_struct(kind):
        return {field.name: _as_meant(value[field.name], field.type) for field in kind}
    if types.is_map(kind):
        return [(_as_meant(key, kind.key_type), _as_meant(item, kind.item_type)) for key, item in value]
    return [_as_meant(each, kind.value_type) for each in value] if isinstance(value, list) else value


def json_records(path: Path, split: str) -> Records:
    """One object a line, one array of objects, or one object that holds rows (`prl.data.layouts`); what the
    file begins with decides."""
    with _open_text(path) as file:
        yield from json_records_in(file, str(path), split)


def json_records_in(file: BinaryIO, path: str, split: str) -> Records:
    """The same of a file that is open where it begins and can seek; `path` is what messages call it."""
    start = file.tell()
    if file.read(len(codecs.BOM_UTF8)) == codecs.BOM_UTF8:
        start = file.tell()
    file.seek(start)
    is_array = file.read(4096).lstrip().startswith(b"[")
    file.seek(start)
    if is_array:
        try:
            items = _parsed(file.read())
        except (ValueError, RecursionError) as error:
            raise DataError(
                f"{path}: {_json_fault(error)}. Correct it, or write one object a line"
            ) from error
        yield from ((f"row {number}", _object(item)) for number, item in enumerate(items, 1))
        return
    document, is_one_line = _whole(file)
    rows = None if document is None else _rows_in(document, path, split)
    if rows is not None or not is_one_line:
        whole = [document] if rows is None else rows
        yield from ((f"row {number}", _object(row)) for number, row in enumerate(whole, 1))
        return
    file.seek(start)
    for number, line in enumerate(file, 1):
        if line.strip():
            yield f"line {number}", _json_line(line)


def _whole(file: BinaryIO) -> tuple[dict[str, Any] | None, bool]:
    """The object that the rest of `file` is, or None; and whether it stands on a line of its own."""
    first = next((line for line in file if line.strip()), b"")
    try:
        found = _parsed(first)
        return (found if isinstance(found, dict) and not any(line.strip() for line in file) else None), True
    except (ValueError, RecursionError):
        if first.rstrip().endswith(b"}"):  # one of many
            return None, True
    try:
        found = _parsed(first + file.read())
    except (ValueError, RecursionError):
        return None, True
    return (found, False) if isinstance(found, dict) else (None, True)


def _rows_in(document: dict[str, Any], path: str, split: str) -> list[Any] | None:
    name, cut, _ = split.partition("[")
    try:
        found = rows_of(document, name)
    except ValueError as error:
        raise DataError(f"{path} {error}") from None
    if found is None:
        return None
    if twice := [key for key in _again(document) if key.strip().lower() in known_columns() or key == name]:
        raise DataError(f"{path} has {', '.join(map(repr, twice))} twice. Rename or drop one")
    if cut:
        raise DataError(
            f"{path}: only the Hub cuts a split, as in {split!r}: name {name!r}, and give a limit"
        )
    log.warning("%s is one object, read as rows: %s", path, found[1])
    return found[0]


def _again(document: dict[str, Any]) -> list[str]:
    """The keys that stand twice in a document or in an object right below it: a split, a column, its rows."""
    objects = [document, *(value for value in document.values() if isinstance(value, dict))]
    return [key for each in objects if isinstance(each, Repeated) for key in each.again]


def _parsed(text: bytes) -> Any:
    return EXACT.decode(text.decode())


def _json_line(line: bytes) -> dict[str, Any] | str:
    try:
        return _object(_parsed(line))
    except (ValueError, RecursionError) as error:
        return _json_fault(error)


def _object(item: object) -> dict[str, Any] | str:
    if isinstance(item, Repeated) and (
        twice := [name for name in item.again if name.strip().lower() in known_columns()]
    ):
        return f"has one column twice: {', '.join(twice)}"
    return item if isinstance(item, dict) else f"is of type {type(item).__name__}, not an object"


def _json_fault(error: Exception) -> str:
    match error:
        case UnicodeDecodeError():
            return f"byte {error.start + 1} is not UTF-8"
        case json.JSONDecodeError():
            line = f"line {error.lineno}, " if error.lineno > 1 else ""
            return f"not JSON: {error.msg} at {line}column {error.colno}"
        case RecursionError():
            return "not JSON that can be read: nested too deeply"
    return f"not JSON that can be read: {first_line(error)}"


LONGEST_CELL = 2**31 - 1
"""Characters; what a C long holds everywhere. Python's own limit of 131,072 ends a cell amid its quotes."""


def csv_records(path: Path, need: Sequence[str]) -> Records:
    csv.field_size_limit(LONGEST_CELL)  # of the process, as Python has it
    undecodable: dict[int, str] = {}

    def lines(file: BinaryIO) -> Iterator[str]:
        for number, line in enumerate(file, 1 + skipped):
            try:
                yield line.decode()
            except UnicodeDecodeError as error:
                undecodable[number] = f"byte {error.start + 1} of line {number} is not UTF-8"
                yield line.decode(errors="replace")

    with _open_text(path) as file:
        separator, skipped = _separator(path, file)
        reader = csv.reader(lines(file), strict=True, delimiter=separator)
        header: list[str] = []
        while True:
            begin = skipped + reader.line_num + 1
            fields: list[str] | None = []
            fault = None
            try:
                fields = next(reader, None)
            except csv.Error as error:
                fault = f"not CSV: {error}"
            if fields is None:
                return
            fault = next(
                (undecodable[at] for at in range(begin, skipped + reader.line_num + 1) if at in undecodable),
                fault,
            )
            if fault and not header:
                raise DataError(f"{path}, line {begin}: {fault}. Save it as comma-separated UTF-8")
            if fault:
                yield f"line {begin}", fault
            elif not header:
                header = fields
                if header:
                    wanted_columns(str(path), header, need)
            elif fields and len(fields) != len(header):
                yield f"line {begin}", f"{len(fields)} fields where the header has {len(header)}"
            elif fields:
                yield f"line {begin}", dict(zip(header, fields, strict=True))


def _separator(path: Path, file: BinaryIO) -> tuple[str, int]:
    """What separates the fields, and how many lines say so: a comma, unless the header holds more names of
    columns with another sign."""
    start = file.tell()
    header = file.readline().decode(errors="replace").rstrip("\r\n")
    if header.lower().startswith("sep=") and len(header) == 5:  # Excel's
        return header[-1], 1
    file.seek(start)

    def known(separator: str) -> int:
        names = (name.strip(" \"'").lower() for name in header.split(separator))
        return len(known_columns().intersection(names))

    found = max(_SEPARATORS, key=known)
    if found != ",":
        log.warning("%s: its fields are separated by %r", path, found)
    return found, 0


def _open_text(path: Path) -> BinaryIO:
    """The file past its byte order mark; as bytes, so that a line that is not UTF-8 still counts as one."""
    try:
        file = path.open("rb")
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}. Check its permissions") from error
    mark = file.read(3)
    if mark.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        file.close()
        raise DataError(f"{path} is UTF-16: save it as UTF-8")
    file.seek(3 if mark == codecs.BOM_UTF8 else 0)
    return file
