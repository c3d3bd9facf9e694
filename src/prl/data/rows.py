"""A row of the schema from the cells of a record: which column holds what, and what a cell says."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Collection, Sequence
from typing import Any

from prl.errors import DataError

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


class MissingColumn(DataError):
    """No column of a data set is one that `field` is read from."""

    def __init__(self, message: str, field: str) -> None:
        super().__init__(message)
        self.field = field


def to_row(
    record: dict[str, Any], need: Sequence[str], source: str
) -> tuple[dict[str, Any], list[str], bool]:
    """The row that a record holds, all that is wrong with it, and whether its answer had to be mended."""
    cells = by_column(record)
    row: dict[str, Any] = {}
    wrong: list[str] = []
    for field in ("problem", "answer", *(["trace"] if "trace" in need else [])):
        column = column_of(field, cells)
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
    column = column_of("source", cells)
    row["source"] = cells[column] if column and isinstance(cells[column], str) else source
    return row, wrong, mended is not None


def by_column(record: dict[str, Any]) -> dict[str, Any]:
    return {column.strip().lower(): value for column, value in record.items()}


def column_of(field: str, cells: Collection[str]) -> str | None:
    return next((column for column in COLUMNS[field] if column in cells), None)


def _read_cell(field: str, column: str | None, value: object) -> str:
    match field:
        case "problem":
            return _problem(_turn(field, value))
        case "answer":
            return _answer(value, worked=column == "solution")
    return text_of(_turn(field, value))


def _turn(field: str, value: object) -> object:
    """What the last turn of a conversation says that can be a `field`; anything else as it is."""
    if not (isinstance(value, list) and all(isinstance(turn, dict) for turn in value)):
        return value
    for turn in reversed(value):
        if turn.get("role", turn.get("from")) in _TURNS[field]:
            return turn.get("content", turn.get("value"))
    raise ValueError(f"has no turn of {' or '.join(_TURNS[field])}")


def text_of(value: object) -> str:
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
    return text_of(_AFTER_PROBLEM.sub("", _BEFORE_PROBLEM.sub("", text_of(value))))


def _answer(value: object, *, worked: bool) -> str:
    """The gold answer in a cell: a number, a text, {"ground_truth": …}, or what a worked solution says."""
    if isinstance(value, dict):
        value = value.get("ground_truth")
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        return str(value).removesuffix(".0")
    text = text_of(value)
    if text in _MISSING:
        raise ValueError(f"is {text}")
    if "####" in text:
        return text_of(text.rpartition("####")[2])
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


def wanted_columns(name: str, columns: Sequence[str], need: Sequence[str]) -> list[str]:
    """The columns of a table to read. Raises DataError when a needed field has none, or one stands twice."""
    for field in need:
        if column_of(field, by_column(dict.fromkeys(columns))) is None:
            raise missing_column(name, field, columns)
    known = {column for names in COLUMNS.values() for column in names}
    wanted = [column for column in columns if column.strip().lower() in known]
    if len({column.strip().lower() for column in wanted}) < len(wanted):
        raise DataError(f"{name} has one column twice: {', '.join(columns)}. Rename or drop one")
    return wanted


def missing_column(name: str, field: str, columns: Collection[str]) -> MissingColumn:
    def likeness(column: str) -> float:
        return max(difflib.SequenceMatcher(None, column.lower(), known).ratio() for known in COLUMNS[field])

    return MissingColumn(
        f"{name} has no column for the {field}; it has {', '.join(columns)}. "
        f"Rename the one that holds it (perhaps {max(columns, key=likeness)!r}) to {COLUMNS[field][0]!r}; "
        f"read as {field}: {', '.join(COLUMNS[field])}",
        field,
    )
