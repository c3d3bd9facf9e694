"""Sets that are generated: `arithmetic:SPLIT` and `search:KIND-PART`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from prl.data import problems, search
from prl.errors import DataError, nearest

FAMILIES = ("arithmetic", "search")


def is_procedural(dataset: str) -> bool:
    """Whether `dataset` names a generated set: it needs no file and no network."""
    return dataset.partition(":")[0] in FAMILIES


def procedural_rows(
    dataset: str, split: str, need: Sequence[str], count: int, seed: int
) -> list[dict[str, Any]]:
    """The first `count` rows of a generated set, in the schema of `prl.data`; `split` names it where
    `dataset` is the family alone, or its part where that is `search:KIND`. Raises DataError: no such split,
    or one without traces where they are needed."""
    family, _, name = dataset.partition(":")
    name = name or split
    if family == "search":
        found = search.read_split(f"{name}-{split}" if name in search.KINDS else name)
        if "trace" in need and not found.is_traced:
            options = ", ".join(f"search:{found.kind}-{part}" for part in search.TRACED)
            raise DataError(f"search:{found.name} holds no traces: choose one of {options}")
        return search.generate(found, count, seed)
    known = {str(option): option for option in problems.LEVELS}
    if name not in known:
        options = ", ".join(f"arithmetic:{option}" for option in known)
        raise DataError(f"{dataset} has no split {name!r}{nearest(name, known)}. Choose one of {options}")
    if "trace" in need and name not in problems.PARALLEL_SHARE:
        options = " or ".join(f"arithmetic:{option}" for option in problems.PARALLEL_SHARE)
        raise DataError(f"arithmetic:{name} holds no traces: choose {options}")
    return problems.generate(known[name], count, seed)
