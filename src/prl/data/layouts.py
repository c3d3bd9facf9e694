"""A JSON document that is one object: where the rows in it are.

    {"problem": ["a", "b"], "answer": ["1", "2"]}                      a list a column
    {"problem": {"0": "a", "1": "b"}, "answer": {"0": "1", "1": "2"}}  as pandas writes it (orient columns)
    {"0": {"problem": "a", …}, "1": …}                                 (orient index)
    {"columns": ["problem", …], "data": [["a", …], …]}                 (orient split)
    {"version": "1.0", "data": [{"problem": "a", …}, …]}               the one list of objects
    {"train": [{…}, …], "test": [{…}, …]}                              splits, of which one is asked for

Anything else is one row itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from prl.data.columns import column_of, known_columns
from prl.data.conversations import is_conversation

_SPLITS = ("train", "test", "validation", "valid", "val", "dev", "eval", "heldout")
_DEEPEST = 4


def rows_of(document: Mapping[str, Any], split: str, depth: int = 0) -> tuple[list[Any], str] | None:
    """The rows in `document`, and what was taken for them in words; None where it is a row.

    Raises ValueError: there are several lists of rows and none is `split`, or columns of unequal length.
    """
    if (problem := _problem_of(document)) is not None:
        return _of_columns(document, document[problem])
    if {"columns", "data"} <= document.keys() and isinstance(document["data"], list):
        return _of_table(document["columns"], document["data"])
    if document and all(_is_row(value) for value in document.values()):
        return [*document.values()], f"its {len(document)} objects, each a row"
    looks = (_holds_problems, _holds_rows)
    found = ({key: value for key, value in document.items() if looks_so(value)} for looks_so in looks)
    holders = next(filter(None, found), None)
    if not holders or depth == _DEEPEST:
        return None
    key = _chosen(holders, split)
    rows, more = (holders[key], "") if isinstance(holders[key], list) else _inner(holders[key], split, depth)
    others = f", of {', '.join(holders)}" if len(holders) > 1 else ""
    return rows, f"what is under {key!r}{others}{more}"


def _inner(value: Mapping[str, Any], split: str, depth: int) -> tuple[list[Any], str]:
    found = rows_of(value, split, depth + 1)
    return ([value], "") if found is None else (found[0], f": {found[1]}")


def _chosen(holders: Mapping[str, Any], split: str) -> str:
    """The one holder of rows, or that of `split`. Raises ValueError."""
    if split in holders:
        return split
    names = ", ".join(map(repr, holders))
    if len(holders) > 1:
        raise ValueError(f"has rows under {names} and none under the split {split!r}: name one as the split")
    (key,) = holders
    if key in _SPLITS:
        raise ValueError(f"has the split {key!r} and not {split!r}: name it as the split")
    return key


def _of_columns(document: Mapping[str, Any], problem: Any) -> tuple[list[Any], str] | None:
    """Rows of columns that are lists, or what pandas writes; None where the document is a row."""
    known = {key: value for key, value in document.items() if key.strip().lower() in known_columns()}
    if isinstance(problem, list) and problem and not is_conversation(problem):
        columns = {key: value for key, value in known.items() if isinstance(value, list)}
        lengths = {key: len(value) for key, value in columns.items()}
        if len({*lengths.values()}) > 1:
            told = ", ".join(f"{key!r} has {length}" for key, length in lengths.items())
            raise ValueError(f"is a list a column, and they differ in length: {told}")
        rows = [dict(zip(columns, cells, strict=True)) for cells in zip(*columns.values(), strict=True)]
        return rows, f"its columns, a list each, as {len(rows)} rows"
    if isinstance(problem, dict) and problem and not is_conversation(problem):
        frames = {key: value for key, value in known.items() if isinstance(value, dict)}
        rows = [
            {key: column[index] for key, column in frames.items() if index in column} for index in problem
        ]
        return rows, f"its columns, by index, as {len(rows)} rows"
    return None


def _of_table(columns: Any, data: list[Any]) -> tuple[list[Any], str]:
    if not isinstance(columns, list) or not all(
        isinstance(cells, list) and len(cells) == len(columns) for cells in data
    ):
        raise ValueError("has 'columns' and 'data' that do not fit: give each row as many cells as columns")
    return [dict(zip(map(str, columns), cells, strict=True)) for cells in data], "its 'columns' and 'data'"


def _is_row(value: Any) -> bool:
    """Whether `value` is one row, and not columns of several."""
    if not isinstance(value, dict) or (problem := _problem_of(value)) is None:
        return False
    return isinstance(value[problem], str) or is_conversation(value[problem])


def _problem_of(value: Mapping[str, Any]) -> str | None:
    """The key of a problem."""
    keys = {key.strip().lower(): key for key in value}
    column = column_of("problem", dict.fromkeys(keys))
    return None if column is None else keys[column]


def _holds_problems(value: Any) -> bool:
    """Whether rows with a problem are somewhere in `value`."""
    if isinstance(value, list):
        return bool(value) and all(isinstance(item, dict) and _problem_of(item) for item in value)
    return isinstance(value, dict) and (
        _problem_of(value) is not None or any(map(_holds_problems, value.values()))
    )


def _holds_rows(value: Any) -> bool:
    """Whether it may be rows of which no column is known."""
    return (
        isinstance(value, list)
        and all(isinstance(item, dict) for item in value)
        and not is_conversation(value)
    )
