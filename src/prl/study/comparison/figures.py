"""What a comparison finds in one part: figures of each method, and by how much they differ."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from prl.runs.disk import plain
from prl.statistics import Estimate
from prl.study.comparison.methods import Method


@dataclass(frozen=True)
class Difference:
    """A figure of `second` minus that of `first`, two letters: an Estimate, or where no interval can be had a
    number. `how` it was taken, for people; `seeds`, of which seeds, where it is of methods over several."""

    figure: str
    first: str
    second: str
    value: Estimate | float
    how: str
    seeds: tuple[int, ...] = ()


@dataclass(frozen=True)
class Figures:
    """What is compared as one part: `of` an "evaluation", or of an "rl" or "sft" run.

    `labels` is letter -> heading, `values` letter -> figure -> its mean, with an interval where there is one;
    `title` says what they are of, `remarks` how much they carry, and `mode` how responses were decoded.
    """

    of: str
    title: str
    labels: Mapping[str, str]
    values: Mapping[str, Mapping[str, Estimate | float]]
    differences: tuple[Difference, ...]
    remarks: tuple[str, ...]
    mode: str = ""


@dataclass(frozen=True)
class Compared:
    """What a comparison found. `settings` and `environment` are what differs: name -> what each method has,
    in their order, "–" where it has nothing of that name; `figures` is part -> what was measured there;
    `remarks` are of the methods."""

    methods: tuple[Method, ...]
    settings: Mapping[str, Sequence[str]]
    environment: Mapping[str, Sequence[str]]
    figures: Mapping[str, Figures]
    remarks: tuple[str, ...]

    @property
    def written(self) -> dict[str, Any]:
        """The same as JSON takes it."""
        methods = {
            method.letter: {str(seed): named.name for seed, named in method.seeds.items()}
            for method in self.methods
        }
        found: dict[str, Any] = plain({each.name: getattr(self, each.name) for each in fields(self)[1:]})
        return {"methods": methods, **found}


def of_two(what: str) -> str:
    """What a difference of single runs says."""
    return (
        f"These are single models on {what}: the interval is over the problems, and says nothing of other "
        "seeds. Which method is better, several seeds of each say."
    )


def over(seeds: tuple[int, ...]) -> str:
    """What a difference over seeds is of."""
    return f"over {len(seeds)} seeds ({_said(seeds)}), Student's t"


def over_both(first: str, second: str, seeds: Mapping[str, Iterable[int]], why: str = "") -> str:
    """What a difference of methods with other seeds is of."""
    has = f"{first} has seeds {_said(seeds[first])}, {second} {_said(seeds[second])}"
    return f"not paired ({has}{'; ' if why else ''}{why}), Welch's t"


def no_common_seed(first: str, second: str, seeds: Mapping[str, Iterable[int]]) -> str:
    """Why there is no difference over seeds."""
    has = ", ".join(f"{each} has {_said(seeds[each])}" for each in (first, second))
    return (
        f"{second} - {first}: no seed in common ({has}), so no difference: run both with the same --seed, or "
        "each with two seeds"
    )


def left_out(first: str, second: str, seeds: Mapping[str, Iterable[int]]) -> list[str]:
    """Which seeds a difference is without; nothing where both have the same."""
    alone = sorted({*seeds[first]} ^ {*seeds[second]})
    return [f"{second} - {first}: without the seeds {_said(alone)}, which one alone has"] if alone else []


def are_paired(first: Collection[int], second: Collection[int]) -> bool:
    """Whether two methods are held against each other seed by seed: where they have the same, and where one
    has a single seed, which alone has no spread."""
    return {*first} == {*second} or min(len(first), len(second)) < 2


def _said(seeds: Iterable[int]) -> str:
    return " ".join(map(str, seeds))
