"""Sets that are generated: `arithmetic:SPLIT` and `search:KIND-PART`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from prl.data import problems, search
from prl.errors import DataError, nearest

FAMILIES = ("arithmetic", "search")

MOST_MADE = 20
"""So many rows are made for each that is to differ: a set may hold fewer problems than are asked for."""


def is_procedural(dataset: str) -> bool:
    """Whether `dataset` names a generated set: it needs no file and no network."""
    return dataset.partition(":")[0] in FAMILIES


def procedural_rows(
    dataset: str, split: str, need: Sequence[str], count: int, seed: int, *, unique: bool = False
) -> list[dict[str, Any]]:
    """The first `count` rows of a generated set, in the schema of `prl.data`; where they are to be `unique`
    those of problems that none before had, of the first `count * MOST_MADE`. `split` names the set where
    `dataset` is the family alone, or its part where that is `search:KIND`. Raises DataError: no such split,
    or one without traces where they are needed."""
    make_row = _maker(dataset, split, need, seed)
    if not unique:
        return [make_row(index) for index in range(count)]
    found: dict[str, dict[str, Any]] = {}
    for index in range(count * MOST_MADE):
        row = make_row(index)
        found.setdefault(row["problem"], row)
        if len(found) == count:
            break
    return [*found.values()]


def _maker(dataset: str, split: str, need: Sequence[str], seed: int) -> Callable[[int], dict[str, Any]]:
    """What makes a row of a set, by its index."""
    family, _, name = dataset.partition(":")
    name = name or split
    if family == "search":
        found = search.read_split(f"{name}-{split}" if name in search.KINDS else name)
        if "trace" in need and not found.is_traced:
            options = ", ".join(f"search:{found.kind}-{part}" for part in search.TRACED)
            raise DataError(f"search:{found.name} holds no traces: choose one of {options}")
        return lambda index: search.make_row(found, index, seed)
    known = {str(option): option for option in problems.LEVELS}
    if name not in known:
        options = ", ".join(f"arithmetic:{option}" for option in known)
        raise DataError(f"{dataset} has no split {name!r}{nearest(name, known)}. Choose one of {options}")
    if "trace" in need and name not in problems.PARALLEL_SHARE:
        options = " or ".join(f"arithmetic:{option}" for option in problems.PARALLEL_SHARE)
        raise DataError(f"arithmetic:{name} holds no traces: choose {options}")
    return lambda index: problems.make_row(known[name], index, seed)
