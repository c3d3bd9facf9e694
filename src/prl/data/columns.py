"""The columns of a data set: which of them holds what, and what to say where none does."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import cache
from typing import Any

from prl.errors import DataError
from prl.turns import has_turns

COLUMNS: dict[str, tuple[str, ...]] = {
    "problem": (
        *("problem", "question", "prompt", "query", "messages", "conversations", "conversation"),
        *("instruction", "input", "text"),
    ),
    "answer": (
        *("final_answer", "expected_answer", "ground_truth", "reward_model", "answer", "solution", "text"),
    ),
    "trace": (
        *("trace", "response", "completion", "solution", "messages", "conversations", "conversation"),
        *("output", "text"),
    ),
    "level": ("level",),
    "source": ("source", "data_source"),
}
"""field -> the columns that it is read from, whatever their case; of several the first. To `instruction` an
`input` is added. `text` is the trace beside a problem, and its answer the one that it commits to; alone it is
a conversation that a chat template was applied to."""

WHOLE = ("messages", "conversations", "conversation", "text")
"""Columns of conversations that hold the answer too; in others they end with the question."""

HISTORY, SYSTEM = ("history",), ("system", "system_prompt")
"""Columns of what stands before the problem: turns, or pairs of question and answer; a turn of the system."""

EARLIER = frozenset(HISTORY + SYSTEM)
"""All of these."""

CONTEXT_PATHS = "context_paths"
"""The column beside a trace that says which of its paths are context and no targets: a list of their places,
from 0, counted over all blocks as they are written. An empty list: none. No cell: nobody looked."""

# Names that are like none of those in COLUMNS, for the hint.
_ALIKE = {
    "problem": ("task", "statement", "exercise"),
    "answer": ("gold", "target", "label", "result"),
    "trace": ("generation", "generations", "reasoning", "cot", "rationale", "chosen"),
}
_LIKE = 0.75  # of 1, at which a name is taken for a variant of another


class MissingColumn(DataError):
    """No column of a data set is one that `field` is read from."""

    def __init__(self, message: str, field: str) -> None:
        super().__init__(message)
        self.field = field


def by_column(record: Mapping[str, Any]) -> dict[str, Any]:
    """The cells of a record by their columns, in lower case and without space around them."""
    return {column.strip().lower(): value for column, value in record.items()}


def column_of(field: str, cells: Mapping[str, Any]) -> str | None:
    """The column that holds `field`; a `text` is a problem only where it is a conversation, or not known."""
    for column in COLUMNS[field]:
        if column in cells:
            value = cells[column]
            is_told = field == "problem" and column == "text" and value is not None
            if not is_told or (isinstance(value, str) and has_turns(value)):
                return column
    return None


@cache
def known_columns() -> frozenset[str]:
    """All columns that are read, in lower case."""
    return EARLIER.union({CONTEXT_PATHS}, *COLUMNS.values())


def wanted_columns(
    name: str, columns: Sequence[str], need: Sequence[str], all_columns: bool = False
) -> list[str]:
    """The columns of a table to read. Raises DataError when a needed field has none, or one stands twice."""
    for field in need:
        if column_of(field, by_column(dict.fromkeys(columns))) is None:
            raise missing_column(name, field, columns)
    known = known_columns()
    wanted = [column for column in columns if all_columns or column.strip().lower() in known]
    if repeated_columns(wanted):
        raise DataError(f"{name} has one column twice: {', '.join(columns)}. Rename or drop one")
    return wanted


def missing_column(name: str, field: str, columns: Collection[str]) -> MissingColumn:
    """What to say where no column is `field`: which one may be it, of those that are not read as another."""
    taken = {column for other, names in COLUMNS.items() if other != field for column in names} - {"text"}
    free = [column for column in columns if column.strip().lower() not in taken]

    def likeness(column: str) -> float:
        known = (*COLUMNS[field], *_ALIKE.get(field, ()))
        name = column.strip().lower()
        return max(1 if each in name else difflib.SequenceMatcher(None, name, each).ratio() for each in known)

    advice = f"Add one of the name {field!r}"
    if free:
        nearest = max(free, key=likeness)
        hint = f" (perhaps {nearest!r})" if likeness(nearest) >= _LIKE else ""
        advice = f"Rename the one that holds it{hint} to {field!r}"
    return MissingColumn(
        f"{name} has no column for the {field}; it has {', '.join(columns)}. {advice}; "
        f"read as {field}: {', '.join(COLUMNS[field])}",
        field,
    )


def repeated_columns(columns: Iterable[str]) -> list[str]:
    """Of columns that are read, those whose names differ in case and space alone."""
    names = Counter(column.strip().lower() for column in columns)
    again = {name for name, count in names.items() if count > 1} & known_columns()
    return [column for column in columns if column.strip().lower() in again]
