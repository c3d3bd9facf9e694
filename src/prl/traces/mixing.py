"""`prl data mix`: one file of traces from several, in shares.

    prl data mix mine.parquet:3 arithmetic:coldstart:1 --parallel_share 0.8 --size 2000 --output mix.parquet

A number after the last colon of a set is its weight. Rows are drawn by `--seed`, none twice; the same traces
in two sets are one row, the first one's. What was asked for is met to the row, or an error says which set
lacks what.
"""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

from prl.data.hub import load_rows
from prl.errors import DataError, UsageError
from prl.grammar import parse
from prl.settings import Settings
from prl.settings.arguments import DataMixArguments
from prl.traces.dataset import check_output, public_name, write_rows
from prl.traces.modes import conversation

Row = dict[str, Any]

_WEIGHTED = re.compile(r"(.+):(\d+(?:\.\d+)?)")
_KINDS = {True: "parallel", False: "sequential"}


class Stratum(NamedTuple):
    """Rows of one set that hold a block, or hold none; `parallel` None: both."""

    dataset: str
    parallel: bool | None

    def __str__(self) -> str:
        return self.dataset if self.parallel is None else f"{_KINDS[self.parallel]} traces of {self.dataset}"


def run(settings: Settings[DataMixArguments]) -> None:
    """`prl data mix`. Raises UsageError, DataError."""
    given = settings.arguments
    output = Path(given.output)
    check_output(output)
    weights = dict(_weight(text) for text in given.sets)
    if len(weights) < len(given.sets):
        raise UsageError("sets: one is named twice; name it once, with the sum of its weights")
    rows, duplicates = _read(given, list(weights))
    mixed = mix(
        rows,
        weights if any(weights.values()) else None,
        size=given.size,
        parallel_share=given.parallel_share,
        seed=given.seed,
    )
    write_rows(output, [row | {"set": public_name(row["set"])} for row in mixed])
    print(f"{output}: {len(mixed):,} traces, of {sum(map(len, rows.values())):,}")
    for name in rows:
        ours = [row for row in mixed if row["set"] == name]
        parallel = sum(_is_parallel(row) for row in ours)
        print(f"  {name}: {len(ours):,}, {parallel:,} of them parallel")
    levels = Counter(row["level"] for row in mixed if row["level"] is not None)
    if levels:
        print("  levels " + ", ".join(f"{level}: {levels[level]:,}" for level in sorted(levels)))
    if duplicates:
        print(f"  left out: {duplicates:,} that another set, or the same, has too")
    print(f"  prl sft --dataset {output}")


def mix(
    rows: Mapping[str, Sequence[Row]],
    weights: Mapping[str, Fraction] | None = None,
    *,
    size: int | None = None,
    parallel_share: float | None = None,
    seed: int = 0,
) -> list[Row]:
    """Rows of the sets in `rows`, shuffled, with their set under "set"; none twice.

    `weights` None: of each as much as it has. `size` None: the most rows that the shares allow.
    Raises DataError: a set has too few rows of a kind.
    """
    kinds = (None,) if parallel_share is None else (True, False)
    drawer = Random(seed)
    strata: dict[Stratum, list[Row]] = defaultdict(list)
    for name, held in rows.items():
        for kind in kinds:
            own = [row | {"set": name} for row in held if kind is None or _is_parallel(row) == kind]
            strata[Stratum(name, kind)] = drawer.sample(own, len(own))
    wanted = _shares(strata, weights, parallel_share)
    most = _largest(strata, wanted)
    if size is None and not most:
        lacking = next(stratum for stratum, share in wanted.items() if share and not strata[stratum])
        raise DataError(f"there are no {lacking}; leave it out, or change --parallel_share")
    sizes = _counts(wanted, size or most)
    for stratum, count in sizes.items():
        if count > (has := len(strata[stratum])):
            raise DataError(
                f"{count:,} {stratum} are asked for and there are {has:,}; the most that these shares allow "
                f"is --size {most:,}"
            )
    mixed = [row for stratum, count in sizes.items() for row in strata[stratum][:count]]
    drawer.shuffle(mixed)
    return mixed


def _weight(text: str) -> tuple[str, Fraction]:
    """A set and its weight, 0 where none is given."""
    match = _WEIGHTED.fullmatch(text)
    if match is None:
        return text, Fraction(0)
    weight = Fraction(match[2])
    if not weight:
        raise UsageError(f"sets: {text!r} weighs nothing; leave it out")
    return match[1], weight


def _read(given: DataMixArguments, names: Sequence[str]) -> tuple[dict[str, list[Row]], int]:
    """The traces of each set in the levels that are wanted, and how many were there twice."""
    seen: set[tuple[str, str]] = set()
    found: dict[str, list[Row]] = {}
    duplicates = 0
    for name in names:
        found[name] = []
        for row in load_rows(name, split=given.split, need=("problem", "answer", "trace"), seed=given.seed):
            if given.levels and row["level"] not in given.levels:
                continue
            text = (conversation(row), row["trace"])
            duplicates += text in seen
            if text not in seen:
                seen.add(text)
                found[name].append(row)
        if not found[name]:
            levels = f" in the levels {', '.join(map(str, given.levels))}" if given.levels else ""
            raise DataError(f"{name}: no trace is left{levels} that no other set has; leave the set out")
    return found, duplicates


def _shares(
    strata: Mapping[Stratum, Sequence[Row]],
    weights: Mapping[str, Fraction] | None,
    parallel_share: float | None,
) -> dict[Stratum, Fraction]:
    """The share of each stratum in the whole; sums to 1."""
    names = list(dict.fromkeys(stratum.dataset for stratum in strata))
    if weights is None:
        sizes = {
            name: sum(len(held) for each, held in strata.items() if each.dataset == name) for name in names
        }
        weights = {name: Fraction(size) for name, size in sizes.items()}
    elif without := [name for name in names if not weights[name]]:
        raise UsageError(
            f"sets: {without[0]!r} has no weight and others have; give each one, as in {without[0]}:1"
        )
    total = sum(weights.values())
    parallel = None if parallel_share is None else Fraction(str(parallel_share))
    of_kind = {None: Fraction(1), True: parallel or Fraction(0), False: 1 - (parallel or 0)}
    return {stratum: weights[stratum.dataset] / total * of_kind[stratum.parallel] for stratum in strata}


def _largest(strata: Mapping[Stratum, Sequence[Row]], wanted: Mapping[Stratum, Fraction]) -> int:
    """The most rows in all of which no stratum runs out."""
    bounds = [Fraction(len(strata[stratum])) / share for stratum, share in wanted.items() if share]
    size = math.floor(min(bounds))
    # Rounding may give a stratum one more than its share.
    while size and any(count > len(strata[each]) for each, count in _counts(wanted, size).items()):
        size -= 1
    return size


def _counts(wanted: Mapping[Stratum, Fraction], size: int) -> dict[Stratum, int]:
    """`size` rows in the shares that are wanted, by largest remainder."""
    exact = {stratum: share * size for stratum, share in wanted.items()}
    counts = {stratum: math.floor(count) for stratum, count in exact.items()}
    left = size - sum(counts.values())
    for stratum in sorted(exact, key=lambda each: counts[each] - exact[each])[:left]:
        counts[stratum] += 1
    return counts


def _is_parallel(row: Row) -> bool:
    return bool(parse(row["trace"]).blocks)
