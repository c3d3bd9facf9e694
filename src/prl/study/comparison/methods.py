"""Which of the inputs are seeds of one method, and what differs between methods.

Inputs are one method where the settings of all that made them agree (`subjects`) but for seeds, places and
what changes no result, and each has a seed of its own. The seed is the first that tells them apart: that of
the run itself, else that of the run which its model comes from (five models, each evaluated with --seed 0).
Two of the same settings and seeds are repetitions, and stand alone, as does a single input.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from string import ascii_uppercase
from typing import Any

from prl.errors import RunError
from prl.evaluation.keeping import HARMLESS
from prl.study.comparison.subjects import CONTENT, KINDS, Named, Subject, shown
from prl.trainer.resuming import KIND

_OTHER_WORDS = {"recipe", CONTENT, "peft_version"}
_SAME = HARMLESS | {name for name, kind in KIND.items() if kind == "harmless"} | _OTHER_WORDS
"""Settings in which seeds of one method may differ: they change no result, or say in other words, or for one
seed, what others say."""


@dataclass(frozen=True)
class Method:
    """Inputs with one letter: seed -> input. One alone is of its own seed, or 0 where it has none."""

    letter: str
    seeds: Mapping[int, Named]

    def of(self, part: str) -> dict[int, Subject]:
        """Seed -> what is compared as `part`, of those that have it; "" is whatever an input is alone."""
        return {
            seed: named.parts[part] if part else next(iter(named.parts.values()))
            for seed, named in self.seeds.items()
            if not part or part in named.parts
        }


def parted(named: Sequence[Named]) -> tuple[list[list[Named]], list[str]]:
    """What each of the named is compared as, one or several, and the names of what is compared of all.

    Folders that share a name (two demos, two pipelines) are compared name by name. Else each run in them is
    an input of its own, compared with those of its kind.
    """
    first, *others = named
    common = [
        part
        for part, subject in first.parts.items()
        if all(part in each.parts and each.parts[part].kind == subject.kind for each in others)
    ]
    if others and common:
        return [[Named(each.name, {part: each.parts[part] for part in common})] for each in named], common
    apart = [
        [Named(str(subject.folder), {KINDS[subject.kind]: subject}) for subject in each.parts.values()]
        for each in named
    ]
    kinds = [part for each in apart for one in each for part in one.parts]
    return apart, [kind for kind in dict.fromkeys(kinds) if kinds.count(kind) > 1]


def grouped(inputs: Sequence[Named]) -> list[Method]:
    """The inputs as methods, by their settings, in the order in which they were named; where all are seeds of
    one, each alone."""
    alike: dict[str, list[Named]] = {}
    for each in inputs:
        alike.setdefault(_signature(each), []).append(each)
    found: list[dict[int, Named]] = []
    for group in alike.values():
        seeds = numbered(group) if len(group) > 1 and len(alike) > 1 else None
        found += [seeds] if seeds else [{_own_seed(each): each} for each in group]
    return _lettered(found)


def by_hand(sides: Sequence[Sequence[Named]]) -> list[Method]:
    """Each side as one method. Raises RunError: two inputs of a side have the same seeds."""
    found = []
    for side in sides:
        seeds = numbered(side) if len(side) > 1 else {_own_seed(side[0]): side[0]}
        if not seeds:
            raise RunError(
                f"{side[0].name} and {len(side) - 1} more beside it are no seeds of one method: no seed "
                "tells them apart; name runs with a --seed of their own"
            )
        found.append(seeds)
    return _lettered(found)


def numbered(inputs: Sequence[Named]) -> dict[int, Named] | None:
    """Seed -> input, by the first seed that tells them apart; None where none does."""
    for part in inputs[0].parts:
        chains = [each.parts[part].seeds if part in each.parts else () for each in inputs]
        for level in range(min(map(len, chains))):
            seeds = [chain[level] for chain in chains]
            if len({*seeds}) == len(seeds):
                return dict(sorted(zip(seeds, inputs, strict=True), key=lambda item: item[0]))
    return None


def remarks(methods: Sequence[Method]) -> list[str]:
    """What has to be said of methods that `grouped` found alike."""
    alike: dict[str, list[Method]] = {}
    for method in methods:
        alike.setdefault(_signature(next(iter(method.seeds.values()))), []).append(method)
    said = []
    for group in alike.values():
        letters = " ".join(method.letter for method in group)
        inputs = [named for method in group for named in method.seeds.values()]
        if len(group) < 2 or any(len(method.seeds) > 1 for method in group):
            continue
        if not any(subject.seeds for named in inputs for subject in named.parts.values()):
            continue
        if numbered(inputs):
            said.append(f"{letters} are seeds of one method: by what they differ is chance")
        else:
            said.append(
                f"{letters} have the same settings and seeds, so they are repetitions, or of other code: "
                "name those of one method after --against, to make two of them"
            )
    return said


def differing(methods: Sequence[Method], parts: Iterable[str], of: str) -> dict[str, list[str]]:
    """Setting -> what each method has, in words, of what at least two have and not all alike.

    `of` is "settings", "environment" or "adapter". Methods with values that differ from seed to seed show
    all; what differs otherwise from part to part is named with its part.
    """
    rows: dict[str, dict[str, tuple[str, ...]]] = {}
    for part in parts:
        values = [_values(method, part, of) for method in methods]
        for name in dict.fromkeys(name for each in values for name in each):
            cells = tuple(each.get(name, "–") for each in values)
            if sum(name in each for each in values) > 1 and len({*cells}) > 1:
                rows.setdefault(name, {})[part] = cells
    found: dict[str, list[str]] = {}
    for name, by_part in rows.items():
        if len({*by_part.values()}) == 1:
            found[name] = [*next(iter(by_part.values()))]
        else:
            found |= {f"{part}: {name}": [*cells] for part, cells in by_part.items()}
    return found


def _values(method: Method, part: str, of: str) -> dict[str, str]:
    said: list[Mapping[str, Any]] = [getattr(subject, of) for subject in method.of(part).values()]
    names = dict.fromkeys(name for each in said for name in each)
    return {
        name: " / ".join(dict.fromkeys(shown(each[name]) for each in said if name in each)) for name in names
    }


def _signature(named: Named) -> str:
    """What seeds of one method have in common, and nothing else has."""
    return json.dumps({part: _identity(subject) for part, subject in named.parts.items()}, sort_keys=True)


def _identity(subject: Subject) -> dict[str, Any]:
    said: dict[str, Any] = {"kind": subject.kind}
    shape = subject.adapter if subject.kind == "adapter" else {}  # else what trained it says it
    for name, value in {**subject.settings, **shape}.items():
        setting = name.partition(".")[2] or name
        if setting in ("model_name_or_path", "base_model_name_or_path"):
            said[name] = _without_seeds(str(value), subject.seeds)
        elif setting not in _SAME:
            said[name] = shown(value)
    return said


def _without_seeds(path: str, seeds: Iterable[int]) -> str:
    """A model that is no run that can be found, by its name but for the seed in it."""
    return (
        re.sub(rf"(?<!\d)({'|'.join(map(str, seeds))})(?!\d)", "*", path) if "/" in path and seeds else path
    )


def _own_seed(named: Named) -> int:
    return next((subject.seeds[0] for subject in named.parts.values() if subject.seeds), 0)


def _lettered(groups: Sequence[Mapping[int, Named]]) -> list[Method]:
    if len(groups) > len(ascii_uppercase):
        raise RunError(f"{len(groups)} are too many side by side: name {len(ascii_uppercase)} or fewer")
    return [Method(letter, group) for letter, group in zip(ascii_uppercase, groups, strict=False)]
