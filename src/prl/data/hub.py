"""Load a data set from the Hub, a local file or the procedural generator, as rows of one schema.

    row = {"problem": str, "answer": str, "trace": str, "context_paths": [int, …], "level": int | None,
           "source": str, "history": [{"role": str, "content": str}, …]}

`answer` is the gold answer alone: what follows `####` in GSM8K, the box of a MATH solution. `trace` is there
when asked for, and beside it `context_paths` where it is recorded which paths are not to be learned
(`prl.data.columns`); `history` where turns stand before the problem (`prl.prompts.render_prompt` renders
them). What is read otherwise than written, turn markers for one, is told with the number of rows. The public
sets, by their cards and by code that reads them:

gsm8k           openai/gsm8k, configuration main: question, answer ("... #### 72"); 7,473 train, 1,319 test.
math            DigitalLearningGmbH/MATH-lighteval: problem, solution (boxed), level ("Level 5"), type; 7,500
                train, 5,000 test. `EleutherAI/hendrycks_math:algebra` is one of seven parts of the same.
dapo            BytedTsinghua-SIA/DAPO-Math-17k: prompt [{role, content}], with an instruction around the
                problem, and reward_model {ground_truth}; train only: 17 thousand problems, each 100 times.
parallel-gsm8k  Parallel-R1/parallel-r1-cold-start-filter: JSON, train only, a few thousand rows: problem, and
                text (a trace that ends with "Final Answer:", which is the gold answer too).
math500         HuggingFaceH4/MATH-500: problem, solution, answer, subject, level (1 to 5); 500, test only.
amc23           math-ai/amc23: question, answer; 40, test only.
aime24          HuggingFaceH4/aime_2024: problem, solution, answer; 30, in the Hub's split train.
aime25          math-ai/aime25: problem, answer; 30, test only.

The last four are benchmarks: the short name has a split test and no other. Any other set is read by the names
of its columns (`prl.data.columns.COLUMNS`); where none fits, it is refused with the list of what it has.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from decimal import Decimal
from pathlib import Path
from random import Random
from typing import Any, BinaryIO, Literal

from prl.data.columns import COLUMNS, by_column, column_of, missing_column, wanted_columns
from prl.data.files import (
    BATCH,
    Records,
    arrow_records,
    csv_records,
    json_records,
    json_records_in,
    parquet_records,
)
from prl.data.procedural import is_procedural, procedural_rows
from prl.data.rows import Read, own_trace, to_row
from prl.errors import DataError, first_line, nearest
from prl.prompts import transcript
from prl.runs.reading import looking_into

log = logging.getLogger(__name__)

HUB_SETS: dict[str, tuple[str, str | None]] = {
    "gsm8k": ("openai/gsm8k", "main"),
    "math": ("DigitalLearningGmbH/MATH-lighteval", None),
    "dapo": ("BytedTsinghua-SIA/DAPO-Math-17k", None),
    "parallel-gsm8k": ("Parallel-R1/parallel-r1-cold-start-filter", None),
    "math500": ("HuggingFaceH4/MATH-500", None),
    "amc23": ("math-ai/amc23", None),
    "aime24": ("HuggingFaceH4/aime_2024", None),
    "aime25": ("math-ai/aime25", None),
}
"""alias -> Hub name and configuration (None: the only one)."""

BENCHMARKS = {"gsm8k": 1319, "math": 5000, "math500": 500, "amc23": 40, "aime24": 30, "aime25": 30}
"""alias -> problems of its split test."""

_TEST_ONLY = {"math500": "test", "amc23": "test", "aime24": "train", "aime25": "test"}
"""alias of what is a benchmark and nothing else -> what the Hub calls its split test."""

PROCEDURAL_ROWS = 2000
"""Rows of a procedural set when no limit is given."""

_SUFFIXES = (".parquet", ".jsonl", ".json", ".csv")
_REPEATING = "BytedTsinghua-SIA/DAPO-Math-17k"
_REPEATED = "rows ask what one before did, and are left out"
LISTED_FAULTS = 20
_SHOWN = 60  # characters of an answer in a message


def load_rows(
    dataset: str,
    *,
    split: str = "train",
    need: Sequence[str] = ("problem", "answer"),
    limit: int | None = None,
    seed: int | None = None,
    on_bad: Literal["error", "skip"] = "error",
    graded: bool = False,
    unique: bool = False,
    all_columns: bool = False,
    notes: Counter[str] | None = None,
    stream: BinaryIO | None = None,
) -> list[dict[str, Any]]:
    """The rows of `dataset` in the schema of this module.

    `dataset` is an alias (`HUB_SETS`), any Hub name (`owner/name` or
    `owner/name:configuration`), a local .parquet, .jsonl, .json or .csv file, or a procedural set
    (`arithmetic:coldstart|mixed|easy|hard|wide|heldout`, `search:KIND-PART`; or the word before the colon,
    with the rest as `split`).
    `split` is the Hub's: "train", "test[:100]"; a local file is read whole, unless it is one JSON object that
    holds several splits.

    `need` names the fields that every row must have; `problem` is always one. An answer that is not needed
    is read where there is one, a trace only when needed. With `all_columns` a row of a file or of the Hub has
    the field `columns`: every cell as it is written, by its column. `limit` takes the first rows, and no more
    are read; with a `seed`, a sample of all rows, in an order that the seed decides. Procedural rows are made
    from `seed` (0 if None).

    Bad rows (an empty problem, a missing answer, a wrong type, a line that is not JSON, a wrong number of
    CSV fields, a turn marker inside a trace, `context_paths` that it does not have; where answers are to be
    `graded`, one that `prl.answers` cannot read) are reported together in one DataError. With
    `on_bad="skip"` they are left out, and the same report is logged as a warning. An answer that is cut off,
    braces open, is taken from the row's `solution` where it is the beginning of that one's answer. Of the
    rows with the same problem the first is kept in DAPO-Math and where they are to be `unique`, as problems
    to evaluate on are: one that is asked twice is no second witness. What is read otherwise than written is
    logged in one line with its number of rows, or counted in `notes` where that is given. A `stream` that can
    seek is read as a JSON file in the place of `dataset`, which is then what messages call it.

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
    if stream is None and is_procedural(dataset):
        return procedural_rows(dataset, split, need, limit or PROCEDURAL_ROWS, seed or 0, unique=unique)

    records = json_records_in(stream, dataset, split) if stream else _open(dataset, split, need, all_columns)
    found: Counter[str] = Counter() if notes is None else notes
    with contextlib.closing(records):
        rows = _read(
            dataset,
            _rows(dataset, records, need, graded=graded, all_columns=all_columns),
            limit if seed is None else None,
            unique=unique or HUB_SETS.get(dataset, (dataset,))[0] == _REPEATING,
            skip=on_bad == "skip",
            notes=found,
        )
    if found and notes is None:
        log.warning("%s: %s", dataset, told(found))
    return rows if limit is None or seed is None else Random(seed).sample(rows, min(limit, len(rows)))


def _open(dataset: str, split: str, need: Sequence[str], all_columns: bool = False) -> Records:
    if dataset in HUB_SETS:
        return _hub_records(*HUB_SETS[dataset], _split_of(dataset, split), need, all_columns)
    path = Path(dataset).expanduser()
    is_path = dataset.startswith((".", "~")) or path.is_absolute() or "\\" in dataset
    with looking_into(path, DataError):
        if is_path or path.suffix.lower() in _SUFFIXES or path.exists():
            return _file_records(path, split, need, all_columns)
    name, _, config = dataset.partition(":")
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        raise DataError(
            f"{dataset}: no such file or data set{nearest(dataset, HUB_SETS)}. {_what_it_takes()}"
        )
    return _hub_records(name, config or dict(HUB_SETS.values()).get(name), split, need, all_columns)


def _split_of(alias: str, split: str) -> str:
    """What the Hub calls the split of a set with a short name. Raises DataError: a benchmark is no data to
    train on."""
    name, bracket, part = split.partition("[")
    if alias not in _TEST_ONLY:
        return split
    if name != "test":
        raise DataError(
            f"{alias}, split {split!r}: it is a benchmark, its only split is test; name another "
            f"--dataset, or {HUB_SETS[alias][0]} to have what is there"
        )
    return _TEST_ONLY[alias] + bracket + part


def stream_rows(
    dataset: str,
    *,
    split: str = "train",
    need: Sequence[str] = ("problem", "answer"),
    keep_trace: bool = False,
    limit: int | None = None,
    seed: int = 0,
    graded: bool = False,
    all_columns: bool = False,
    notes: Counter[str] | None = None,
) -> Iterator[tuple[str, dict[str, Any] | str]]:
    """The rows of `load_rows` one by one, with where each stands ("line 7"); in place of a bad row what is
    wrong with it. Nothing is held but what the file format asks for (a JSON array is read whole).
    `keep_trace`: a row keeps what a column of the name `trace` holds, where it is a text, also if none is
    needed. `all_columns` is that of `load_rows`, and `notes` takes up what it tells.

    Raises DataError as `load_rows` does, but not for bad rows; some of it only at the end.
    """
    need = tuple(dict.fromkeys(("problem", *need)))
    if is_procedural(dataset):
        rows = procedural_rows(dataset, split, need, limit or PROCEDURAL_ROWS, seed)
        yield from ((f"row {number}", row) for number, row in enumerate(rows, 1))
        return
    with contextlib.closing(_open(dataset, split, need, all_columns)) as records:
        read_rows = _rows(dataset, records, need, keep_trace, graded, all_columns)
        for where, read in itertools.islice(read_rows, limit):
            if notes is not None and not read.wrong:
                notes.update({*read.notes})
            yield where, "; ".join(read.wrong) or read.row


def _rows(
    name: str,
    records: Records,
    need: Sequence[str],
    keep_trace: bool = False,
    graded: bool = False,
    all_columns: bool = False,
) -> Iterator[tuple[str, Read]]:
    """Of each record: where it stands, and its row.

    Raises DataError where there is no record, or none had a column for a needed field.
    """
    source = Path(name).stem if name.lower().endswith(_SUFFIXES) else name
    is_empty = True
    columns: dict[str, None] = {}
    nowhere = {*need}  # needed fields that no row has had a column for
    for where, record in records:
        is_empty = False
        if isinstance(record, str):
            yield where, Read({}, [record], [])
            continue
        if nowhere:
            columns |= dict.fromkeys(record)
            nowhere = {field for field in nowhere if column_of(field, by_column(record)) is None}
        read = to_row(record, need, source)
        if graded and not read.wrong:
            read.wrong.extend(_ungraded(read.row["answer"]))
        if keep_trace and "trace" not in read.row and (trace := own_trace(record)):
            read.row["trace"] = trace
        if all_columns:
            read.row["columns"] = {column: _without_decimals(cell) for column, cell in record.items()}
        yield where, read
    if columns and nowhere:
        raise missing_column(name, sorted(nowhere)[0], columns)
    if is_empty:
        raise DataError(f"{name} is empty: it has no rows. Choose another. {_what_it_takes()}")


def _without_decimals(cell: Any) -> Any:
    """A cell with floats for the decimals that JSON is read as, so that a gold stays as it is written."""
    if isinstance(cell, Decimal):
        return float(cell)
    if isinstance(cell, dict):
        return {key: _without_decimals(value) for key, value in cell.items()}
    return [_without_decimals(value) for value in cell] if isinstance(cell, list) else cell


def _ungraded(answer: str) -> list[str]:
    """What is wrong with a gold answer that the grader cannot read."""
    from prl.answers import unreadable_gold

    why = unreadable_gold(answer)
    shown = answer if len(answer) <= _SHOWN else f"{answer[:_SHOWN]}…"
    return [f"no response can be graded against the answer {shown!r}: {why}"] if why else []


def _read(
    name: str,
    records: Iterable[tuple[str, Read]],
    stop: int | None,
    *,
    unique: bool,
    skip: bool,
    notes: Counter[str],
) -> list[dict[str, Any]]:
    """The first `stop` good rows of `_rows`. Raises DataError for bad ones that may not be skipped."""
    rows: list[dict[str, Any]] = []
    faults: list[str] = []
    count = bad = 0
    seen: set[str] = set()
    for where, read in records:
        count += 1
        if read.wrong:
            bad += 1
            if len(faults) < LISTED_FAULTS:
                faults.append(f"{where}: {'; '.join(read.wrong)}")
            continue
        if unique:
            if (asked := transcript(read.row["problem"], read.row.get("history"))) in seen:
                notes[_REPEATED] += 1
                continue
            seen.add(asked)
        rows.append(read.row)
        if read.notes:
            notes.update({*read.notes})
        if len(rows) == stop:
            break
    if bad:
        report = bad_rows(name, bad, count, faults)
        if not skip or not rows:
            raise DataError(
                f"{report}\nCorrect them, or have training and evaluation leave them out: --on_bad_rows skip."
            )
        log.warning("%s\nThey are left out.", report)
    return rows


def told(notes: Counter[str]) -> str:
    """What was read otherwise than written, in a line: how many rows and what."""
    return "; ".join(f"{count} {note}" for note, count in notes.most_common())


def bad_rows(name: str, bad: int, read: int, faults: Sequence[str]) -> str:
    """A report of bad rows, of which `faults` says some."""
    more = f"\n  and {bad - len(faults)} more" if bad > len(faults) else ""
    return f"{name}: bad rows: {bad} of {read}\n  " + "\n  ".join(faults) + more


def _file_records(path: Path, split: str, need: Sequence[str], all_columns: bool) -> Records:
    if path.is_dir():
        inside = sorted(child.name for child in path.iterdir() if child.suffix.lower() in _SUFFIXES)
        held = f": {', '.join(inside[:5])}" if inside else f"; it holds no {', '.join(_SUFFIXES)} file"
        raise DataError(f"{path} is a folder: name one file in it{held}")
    if not path.exists():
        raise DataError(f"{path}: no such file{_sibling(path)}. {_what_it_takes()}")
    match path.suffix.lower():
        case ".parquet":
            return parquet_records(path, need, all_columns)
        case ".csv":
            return csv_records(path, need)
        case ".json" | ".jsonl":
            return json_records(path, split)
        case other:
            raise DataError(
                f"{path}: the suffix is {other!r}; convert the file to one of {', '.join(_SUFFIXES)}"
            )


def _hub_records(
    name: str, config: str | None, split: str, need: Sequence[str], all_columns: bool
) -> Records:
    import datasets

    try:
        loaded = datasets.load_dataset(name, config, split=split)
    except datasets.exceptions.DatasetNotFoundError as error:
        raise DataError(
            f"{name}: no such file, and no such data set on the Hub, or one behind `hf auth login`"
            f"{_sibling(Path(name))}. {_what_it_takes()}"
        ) from error
    except ConnectionError as error:
        is_known = name in dict(HUB_SETS.values())
        raise DataError(
            f"{name}: {'' if is_known else 'no such file, and '}the Hub cannot be reached "
            f"({first_line(error)}){_sibling(Path(name))}. Go online or pass a local file"
        ) from error
    except (datasets.exceptions.DatasetsError, OSError, ValueError, RuntimeError) as error:
        raise DataError(
            f"{name}, split {split!r}: {first_line(error)}. Name a split, or a configuration ({name}:NAME)"
        ) from error
    wanted = wanted_columns(name, loaded.column_names, need, all_columns)
    yield from arrow_records(loaded.select_columns(wanted).with_format("arrow").iter(batch_size=BATCH))


def _what_it_takes() -> str:
    names = ", ".join((*_SUFFIXES, *HUB_SETS))
    generated = "arithmetic:easy, search:which-easy"
    return f"A data set is a file, a name ({names}, {generated}) or one of the Hub (owner/name)"


def _sibling(path: Path) -> str:
    """The file beside `path` that may have been meant."""
    siblings: list[str] = []
    with contextlib.suppress(OSError):  # no such folder, or none that may be listed
        siblings = [child.name for child in path.parent.iterdir() if child.is_file()]
    return nearest(path.name, siblings)
