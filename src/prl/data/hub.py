"""Load a data set from the Hub, a local file or the procedural generator, as rows of one schema.

    row = {"problem": str, "answer": str, "trace": str, "level": int | None, "source": str}

`answer` is the gold answer alone: what follows `####` in GSM8K, the box of a MATH solution. `trace` is there
when asked for. The public sets, by their cards and by code that reads them:

gsm8k           openai/gsm8k, configuration main: question, answer ("... #### 72"); 7,473 train, 1,319 test.
math            DigitalLearningGmbH/MATH-lighteval: problem, solution (boxed), level ("Level 5"), type; 7,500
                train, 5,000 test. `EleutherAI/hendrycks_math:algebra` is one of seven parts of the same.
dapo            BytedTsinghua-SIA/DAPO-Math-17k: prompt [{role, content}], with an instruction around the
                problem, and reward_model {ground_truth}; train only: 17 thousand problems, each 100 times.
parallel-gsm8k  Parallel-R1/parallel-r1-cold-start-filter: JSON, train only, a few thousand rows.

Not verified: the columns of parallel-gsm8k, which its card does not name. They are looked for under the names
in `COLUMNS`; where these do not fit, the set is refused with the list of the columns that it has.
"""

from __future__ import annotations

import codecs
import contextlib
import csv
import difflib
import itertools
import json
import logging
import math
import re
from collections.abc import Collection, Generator, Iterable, Iterator, Sequence
from pathlib import Path
from random import Random
from typing import Any, BinaryIO, Literal

from prl.errors import DataError

log = logging.getLogger(__name__)

HUB_SETS: dict[str, tuple[str, str | None]] = {
    "gsm8k": ("openai/gsm8k", "main"),
    "math": ("DigitalLearningGmbH/MATH-lighteval", None),
    "dapo": ("BytedTsinghua-SIA/DAPO-Math-17k", None),
    "parallel-gsm8k": ("Parallel-R1/parallel-r1-cold-start-filter", None),
}
"""alias -> Hub name and configuration (None: the only one)."""

COLUMNS: dict[str, tuple[str, ...]] = {
    "problem": ("problem", "question", "prompt", "query", "messages", "conversations"),
    "answer": ("final_answer", "expected_answer", "ground_truth", "reward_model", "answer", "solution"),
    "trace": ("trace", "response", "completion", "solution", "messages", "conversations"),
    "level": ("level",),
    "source": ("source", "data_source"),
}
"""field -> the columns that it is read from, whatever their case; of several the first. A conversation gives
its last user turn as the problem, its last assistant turn as the trace."""

_TURNS = {"problem": ("user", "human"), "trace": ("assistant", "gpt")}  # TRL's names and ShareGPT's

PROCEDURAL_ROWS = 2000
"""Rows of a procedural set when no limit is given."""

_SUFFIXES = (".parquet", ".jsonl", ".json", ".csv")
_REPEATING = "BytedTsinghua-SIA/DAPO-Math-17k"
LISTED_FAULTS = 20
_BATCH = 1024  # rows held at a time, beside those that are kept
_LONGEST_BARE_ANSWER = 64  # characters; DAPO-Math's descendants keep the bare answer in `solution`
# What pandas and databases write for a missing cell.
_MISSING = {"nan", "NaN", "None", "null", "NULL", "<NA>"}

# DAPO-Math's instruction around the problem, and the variants of sets made from it.
_BEFORE_PROBLEM = re.compile(
    r"\ASolve the following math problem step by step\. The last line of your response should be of the form "
    r"Answer: \S+ (?:\(without quotes\) )?where \$Answer is the answer to the problem\.\s*",
    re.IGNORECASE,
)
_AFTER_PROBLEM = re.compile(
    r'Remember to put your answer on its own line after "Answer:"\.?\s*\Z', re.IGNORECASE
)

Record = tuple[str, dict[str, Any] | str]
"""Where a row stands ("line 7") and its cells by column; or, in place of the cells, why it cannot be read."""

Records = Generator[Record, None, None]


class MissingColumn(DataError):
    """No column of a data set is one that `field` is read from."""

    def __init__(self, message: str, field: str) -> None:
        super().__init__(message)
        self.field = field


def load_rows(
    dataset: str,
    *,
    split: str = "train",
    need: Sequence[str] = ("problem", "answer"),
    limit: int | None = None,
    seed: int | None = None,
    on_bad: Literal["error", "skip"] = "error",
) -> list[dict[str, Any]]:
    """The rows of `dataset` in the schema of this module.

    `dataset` is an alias (`gsm8k`, `math`, `dapo`, `parallel-gsm8k`), any Hub name (`owner/name` or
    `owner/name:configuration`), a local .parquet, .jsonl, .json or .csv file, or a procedural set
    (`arithmetic:coldstart|mixed|easy|hard|wide|heldout`; or `arithmetic`, with that word as `split`).
    `split` is the Hub's: "train", "test[:100]"; a local file has no splits and is read whole.

    `need` names the fields that every row must have; `problem` is always one. An answer that is not needed
    is read where there is one, a trace only when needed. `limit` takes the first rows, and no more are read;
    with a `seed`, a sample of all rows, in an order that the seed decides. Procedural rows are made from
    `seed` (0 if None).

    Bad rows (an empty problem, a missing answer, a wrong type, a line that is not JSON, a wrong number of
    CSV fields) are reported together in one DataError. With `on_bad="skip"` they are left out, and the same
    report is logged as a warning. An answer that is cut off, braces open, is taken from the row's `solution`
    where it is the beginning of that one's answer, with a warning. Of DAPO-Math's repeated problems the first
    is kept.

    Raises DataError: no such file or set, the Hub out of reach, an unknown suffix, a missing column, bad
    rows, no rows.
    """
    if unknown := sorted({*need} - {*COLUMNS}):
        raise ValueError(f"need takes {', '.join(COLUMNS)}, not {unknown[0]!r}")
    if on_bad not in ("error", "skip"):
        raise ValueError(f'on_bad takes "error" or "skip", not {on_bad!r}')
    if limit is not None and limit < 1:
        raise DataError(
            f"a limit of {limit} leaves no row of {dataset}: give 1 or more, or none to take all rows"
        )
    need = tuple(dict.fromkeys(("problem", *need)))
    if dataset.partition(":")[0] == "arithmetic":
        return _procedural_rows(dataset, split, need, limit or PROCEDURAL_ROWS, seed or 0)

    records = _open(dataset, split, need)
    unique = HUB_SETS.get(dataset, (dataset,))[0] == _REPEATING
    with contextlib.closing(records):
        rows = _read(
            dataset, records, need, limit if seed is None else None, unique=unique, skip=on_bad == "skip"
        )
    return rows if limit is None or seed is None else Random(seed).sample(rows, min(limit, len(rows)))


def _open(dataset: str, split: str, need: Sequence[str]) -> Records:
    if dataset in HUB_SETS:
        return _hub_records(*HUB_SETS[dataset], split, need)
    path = Path(dataset).expanduser()
    if path.suffix.lower() in _SUFFIXES or path.exists():
        return _file_records(path, need)
    name, _, config = dataset.partition(":")
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        raise DataError(
            f"{dataset}: no such file or data set.{_nearest(dataset, HUB_SETS)} {_what_it_takes()}"
        )
    return _hub_records(name, config or dict(HUB_SETS.values()).get(name), split, need)


def stream_rows(
    dataset: str,
    *,
    split: str = "train",
    need: Sequence[str] = ("problem", "answer"),
    keep_trace: bool = False,
    limit: int | None = None,
    seed: int = 0,
) -> Iterator[tuple[str, dict[str, Any] | str]]:
    """The rows of `load_rows` one by one, with where each stands ("line 7"); in place of a bad row what is
    wrong with it. Nothing is held but what the file format asks for (a JSON array is read whole).
    `keep_trace`: a row keeps what a column of the name `trace` holds, where it is a text, also if none is
    needed.

    Raises DataError as `load_rows` does, but not for bad rows; some of it only at the end.
    """
    need = tuple(dict.fromkeys(("problem", *need)))
    if dataset.partition(":")[0] == "arithmetic":
        rows = _procedural_rows(dataset, split, need, limit or PROCEDURAL_ROWS, seed)
        yield from ((f"row {number}", row) for number, row in enumerate(rows, 1))
        return
    with contextlib.closing(_open(dataset, split, need)) as records:
        for where, row, wrong, _ in itertools.islice(_rows(dataset, records, need, keep_trace), limit):
            yield where, "; ".join(wrong) or row


def _rows(
    name: str, records: Records, need: Sequence[str], keep_trace: bool = False
) -> Iterator[tuple[str, dict[str, Any], list[str], bool]]:
    """Of each record: where it stands, its row, what is wrong with it, whether its answer had to be mended.

    Raises DataError where there is no record, or none had a column for a needed field.
    """
    source = Path(name).stem if name.lower().endswith(_SUFFIXES) else name
    is_empty = True
    columns: dict[str, None] = {}
    nowhere = {*need}  # needed fields that no row has had a column for
    for where, record in records:
        is_empty = False
        if isinstance(record, str):
            yield where, {}, [record], False
            continue
        if nowhere:
            columns |= dict.fromkeys(record)
            nowhere = {field for field in nowhere if _column(field, _by_column(record)) is None}
        row, wrong, is_mended = _to_row(record, need, source)
        if keep_trace and "trace" not in row:
            with contextlib.suppress(ValueError):
                row["trace"] = _text(_by_column(record).get("trace"))
        yield where, row, wrong, is_mended
    if columns and nowhere:
        raise _missing_column(name, sorted(nowhere)[0], columns)
    if is_empty:
        raise DataError(f"{name} is empty: it has no rows. Choose another. {_what_it_takes()}")


def _read(
    name: str, records: Records, need: Sequence[str], stop: int | None, *, unique: bool, skip: bool
) -> list[dict[str, Any]]:
    """The first `stop` good rows of `records`. Raises DataError for bad ones that may not be skipped."""
    rows: list[dict[str, Any]] = []
    faults: list[str] = []
    read = bad = mended = 0
    seen: set[str] = set()
    for where, row, wrong, is_mended in _rows(name, records, need):
        read += 1
        mended += is_mended
        if wrong:
            bad += 1
            if len(faults) < LISTED_FAULTS:
                faults.append(f"{where}: {'; '.join(wrong)}")
            continue
        if unique:
            if row["problem"] in seen:
                continue
            seen.add(row["problem"])
        rows.append(row)
        if len(rows) == stop:
            break
    if bad:
        report = bad_rows(name, bad, read, faults)
        if not skip or not rows:
            raise DataError(f"{report}\nCorrect them, or leave them out with --on_bad_rows skip.")
        log.warning("%s\nThey are left out.", report)
    if mended:
        log.warning("%s: %d answers are cut off and were taken from the solutions instead", name, mended)
    return rows


def bad_rows(name: str, bad: int, read: int, faults: Sequence[str]) -> str:
    """A report of bad rows, of which `faults` says some."""
    more = f"\n  and {bad - len(faults)} more" if bad > len(faults) else ""
    return f"{name}: bad rows: {bad} of {read}\n  " + "\n  ".join(faults) + more


def _to_row(
    record: dict[str, Any], need: Sequence[str], source: str
) -> tuple[dict[str, Any], list[str], bool]:
    """The row that a record holds, all that is wrong with it, and whether its answer had to be mended."""
    cells = _by_column(record)
    row: dict[str, Any] = {}
    wrong: list[str] = []
    for field in ("problem", "answer", *(["trace"] if "trace" in need else [])):
        column = _column(field, cells)
        try:
            row[field] = _read_cell(field, column, cells.get(column or ""))
        except ValueError as error:
            if field in need:
                wrong.append(f"{column} {error}" if column else f"no {field}")
    mended = None
    if _is_cut_off(answer := row.get("answer", "")):
        mended = _mend(answer, cells.get("solution"))
        if mended:
            row["answer"] = mended
        elif "answer" in need:
            wrong.append(f"the answer is cut off: {answer[-40:]!r}")
    row["level"] = _level(cells.get("level"))
    if "level" in need and row["level"] is None:
        wrong.append(f"level {cells.get('level')!r} is no number")
    column = _column("source", cells)
    row["source"] = cells[column] if column and isinstance(cells[column], str) else source
    return row, wrong, mended is not None


def _by_column(record: dict[str, Any]) -> dict[str, Any]:
    return {column.strip().lower(): value for column, value in record.items()}


def _column(field: str, cells: Collection[str]) -> str | None:
    return next((column for column in COLUMNS[field] if column in cells), None)


def _read_cell(field: str, column: str | None, value: object) -> str:
    match field:
        case "problem":
            return _problem(_turn(field, value))
        case "answer":
            return _answer(value, worked=column == "solution")
    return _text(_turn(field, value))


def _turn(field: str, value: object) -> object:
    """What the last turn of a conversation says that can be a `field`; anything else as it is."""
    if not (isinstance(value, list) and all(isinstance(turn, dict) for turn in value)):
        return value
    for turn in reversed(value):
        if turn.get("role", turn.get("from")) in _TURNS[field]:
            return turn.get("content", turn.get("value"))
    raise ValueError(f"has no turn of {' or '.join(_TURNS[field])}")


def _text(value: object) -> str:
    if value is None:
        raise ValueError("is missing")
    if isinstance(value, float) and math.isnan(value):
        raise ValueError("is NaN")
    if not isinstance(value, str):
        raise ValueError(f"is of type {type(value).__name__}, not text")
    if not (text := value.strip()):
        raise ValueError("is empty")
    if re.search("[\ud800-\udfff]", text):
        raise ValueError("holds half a surrogate pair, which no tokenizer reads")
    return text


def _problem(value: object) -> str:
    """A text, without DAPO-Math's instruction around it."""
    return _text(_AFTER_PROBLEM.sub("", _BEFORE_PROBLEM.sub("", _text(value))))


def _answer(value: object, *, worked: bool) -> str:
    """The gold answer in a cell: a number, a text, {"ground_truth": …}, or what a worked solution says."""
    if isinstance(value, dict):
        value = value.get("ground_truth")
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        return str(value).removesuffix(".0")
    text = _text(value)
    if text in _MISSING:
        raise ValueError(f"is {text}")
    if "####" in text:
        return _text(text.rpartition("####")[2])
    box = _last_box(text)
    if box is None and not worked:
        return text
    from prl.answers import extract_answer

    # What a solution says after its box ("so our answer is correct") is no other answer.
    if found := extract_answer(text if box is None else f"\\boxed{{{box}}}"):
        return found
    if box is not None or len(text) > _LONGEST_BARE_ANSWER or "\n" in text:
        raise ValueError("commits to no answer: no filled \\boxed{}, ####, or final-answer line")
    return text


def _last_box(text: str) -> str | None:
    """What stands in the last \\boxed{…} (or `\\boxed 2`); None when there is none, or it is cut off."""
    rest = text.rpartition("\\boxed")[2].lstrip() if "\\boxed" in text else ""
    if not rest.startswith("{"):
        return next(iter(re.findall(r"\A[^\s$\\{}]+", rest)), None)
    depth = 0
    for brace in re.finditer(r"(?<!\\)[{}]", rest):
        depth += 1 if brace[0] == "{" else -1
        if depth == 0:
            return rest[1 : brace.start()]
    return None


def _is_cut_off(latex: str) -> bool:
    """More braces opened than closed: no whole answer, but some copies of MATH have `\\frac{\\sqrt{3`."""
    return len(re.findall(r"(?<!\\)\{", latex)) > len(re.findall(r"(?<!\\)\}", latex))


def _mend(answer: str, solution: object) -> str | None:
    """The answer of a worked solution, where `answer` is its beginning."""
    try:
        whole = _answer(solution, worked=True)
    except ValueError:
        return None
    return whole if whole.startswith(answer) and not _is_cut_off(whole) else None


def _level(value: object) -> int | None:
    """5 for 5, "5" and "Level 5"; None where the level is not known ("Level ?" in MATH)."""
    found = re.fullmatch(r"(?:level\s*)?(\d{1,3})(?:\.0)?", str(value).strip(), re.IGNORECASE)
    return int(found[1]) if found else None


def _file_records(path: Path, need: Sequence[str]) -> Records:
    if path.is_dir():
        inside = sorted(child.name for child in path.iterdir() if child.suffix.lower() in _SUFFIXES)
        held = f": {', '.join(inside[:5])}" if inside else f"; it holds no {', '.join(_SUFFIXES)} file"
        raise DataError(f"{path} is a folder: name one file in it{held}")
    if not path.exists():
        siblings = [child.name for child in path.parent.iterdir()] if path.parent.is_dir() else []
        raise DataError(f"{path}: no such file.{_nearest(path.name, siblings)} {_what_it_takes()}")
    match path.suffix.lower():
        case ".parquet":
            return _parquet_records(path, need)
        case ".csv":
            return _csv_records(path, need)
        case ".json" | ".jsonl":
            return _json_records(path)
        case other:
            raise DataError(
                f"{path}: the suffix is {other!r}; convert the file to one of {', '.join(_SUFFIXES)}"
            )


def _parquet_records(path: Path, need: Sequence[str]) -> Records:
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            wanted = _wanted_columns(str(path), file.schema_arrow.names, need)
            yield from _arrow_records(file.iter_batches(batch_size=_BATCH, columns=wanted))
    except OSError as error:
        raise DataError(f"{path} cannot be read: {_first_line(error)}. Copy it again") from error
    except ValueError as error:  # pyarrow's ArrowInvalid
        raise DataError(
            f"{path} is not a whole parquet file: {_first_line(error)}. Write it again"
        ) from error


def _arrow_records(batches: Iterable[Any]) -> Records:
    number = 0
    for batch in batches:
        try:
            rows = batch.to_pylist()
        except UnicodeDecodeError:
            rows = [_arrow_row(batch.slice(index, 1)) for index in range(batch.num_rows)]
        for row in rows:
            number += 1
            yield f"row {number}", row


def _arrow_row(batch: Any) -> dict[str, Any] | str:
    try:
        return batch.to_pylist()[0]
    except UnicodeDecodeError as error:
        return f"byte {error.start + 1} of a cell is not UTF-8"


def _json_records(path: Path) -> Records:
    """One object a line, or one array of objects; what the file begins with decides."""
    with _open_text(path) as file:
        start = file.tell()
        is_array = file.read(4096).lstrip().startswith(b"[")
        file.seek(start)
        if is_array:
            try:
                items = json.loads(file.read().decode())
            except (ValueError, RecursionError) as error:
                raise DataError(
                    f"{path}: {_json_fault(error)}. Correct it, or write one object a line"
                ) from error
            yield from ((f"row {number}", _object(item)) for number, item in enumerate(items, 1))
            return
        for number, line in enumerate(file, 1):
            if line.strip():
                yield f"line {number}", _json_line(line)


def _json_line(line: bytes) -> dict[str, Any] | str:
    try:
        return _object(json.loads(line.decode()))
    except (ValueError, RecursionError) as error:
        return _json_fault(error)


def _object(item: object) -> dict[str, Any] | str:
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
    return f"not JSON that can be read: {_first_line(error)}"


def _csv_records(path: Path, need: Sequence[str]) -> Records:
    undecodable: dict[int, str] = {}

    def lines(file: BinaryIO) -> Iterator[str]:
        for number, line in enumerate(file, 1):
            try:
                yield line.decode()
            except UnicodeDecodeError as error:
                undecodable[number] = f"byte {error.start + 1} of line {number} is not UTF-8"
                yield line.decode(errors="replace")

    with _open_text(path) as file:
        reader = csv.reader(lines(file), strict=True)
        header: list[str] = []
        while True:
            begin = reader.line_num + 1
            fields: list[str] | None = []
            fault = None
            try:
                fields = next(reader, None)
            except csv.Error as error:
                fault = f"not CSV: {error}"
            if fields is None:
                return
            fault = next(
                (undecodable[at] for at in range(begin, reader.line_num + 1) if at in undecodable), fault
            )
            if fault and not header:
                raise DataError(f"{path}, line {begin}: {fault}. Save it as comma-separated UTF-8")
            if fault:
                yield f"line {begin}", fault
            elif not header:
                header = fields
                if header:
                    _wanted_columns(str(path), header, need)
            elif fields and len(fields) != len(header):
                yield f"line {begin}", f"{len(fields)} fields where the header has {len(header)}"
            elif fields:
                yield f"line {begin}", dict(zip(header, fields, strict=True))


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


def _hub_records(name: str, config: str | None, split: str, need: Sequence[str]) -> Records:
    import datasets

    try:
        loaded = datasets.load_dataset(name, config, split=split)
    except datasets.exceptions.DatasetNotFoundError as error:
        raise DataError(
            f"{name}: no such file, and no such data set on the Hub, or one behind `hf auth login`. "
            + _what_it_takes()
        ) from error
    except ConnectionError as error:
        raise DataError(
            f"{name}: the Hub cannot be reached ({_first_line(error)}). Go online or pass a local file"
        ) from error
    except (datasets.exceptions.DatasetsError, OSError, ValueError, RuntimeError) as error:
        raise DataError(
            f"{name}, split {split!r}: {_first_line(error)}. Name a split, or a configuration ({name}:NAME)"
        ) from error
    wanted = _wanted_columns(name, loaded.column_names, need)
    yield from _arrow_records(loaded.select_columns(wanted).with_format("arrow").iter(batch_size=_BATCH))


def _procedural_rows(
    dataset: str, split: str, need: Sequence[str], count: int, seed: int
) -> list[dict[str, Any]]:
    from prl.data.problems import LEVELS, PARALLEL_SHARE, generate

    name = dataset.partition(":")[2] or split
    known = {str(option): option for option in LEVELS}
    if name not in known:
        options = ", ".join(f"arithmetic:{option}" for option in known)
        raise DataError(f"{dataset} has no split {name!r}.{_nearest(name, known)} Choose one of {options}")
    if "trace" in need and name not in PARALLEL_SHARE:
        options = " or ".join(f"arithmetic:{option}" for option in PARALLEL_SHARE)
        raise DataError(f"arithmetic:{name} holds no traces: choose {options}")
    return generate(known[name], count, seed)


def _wanted_columns(name: str, columns: Sequence[str], need: Sequence[str]) -> list[str]:
    """The columns of a table to read. Raises DataError when a needed field has none, or one stands twice."""
    for field in need:
        if _column(field, _by_column(dict.fromkeys(columns))) is None:
            raise _missing_column(name, field, columns)
    known = {column for names in COLUMNS.values() for column in names}
    wanted = [column for column in columns if column.strip().lower() in known]
    if len({column.strip().lower() for column in wanted}) < len(wanted):
        raise DataError(f"{name} has one column twice: {', '.join(columns)}. Rename or drop one")
    return wanted


def _missing_column(name: str, field: str, columns: Collection[str]) -> MissingColumn:
    def likeness(column: str) -> float:
        return max(difflib.SequenceMatcher(None, column.lower(), known).ratio() for known in COLUMNS[field])

    return MissingColumn(
        f"{name} has no column for the {field}; it has {', '.join(columns)}. "
        f"Rename the one that holds it (perhaps {max(columns, key=likeness)!r}) to {COLUMNS[field][0]!r}; "
        f"read as {field}: {', '.join(COLUMNS[field])}",
        field,
    )


def _what_it_takes() -> str:
    names = ", ".join((*_SUFFIXES, *HUB_SETS))
    return f"A data set is a file, a name ({names}, arithmetic:easy) or one of the Hub (owner/name)"


def _nearest(value: str, options: Collection[str]) -> str:
    close = difflib.get_close_matches(value, options, n=1)
    return f" Did you mean {close[0]!r}?" if close else ""


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)[:300].rstrip(".")
