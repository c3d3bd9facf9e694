"""Procedural arithmetic: problems from easy to hard, and parallel traces that solve them.

The cold start and the RL of the tiny model run on these, so that the whole method fits a laptop and every
item can be checked by addition. An item is a function of (seed, split, index) alone: item 7 can be made
without the six before it. A sum's terms, hashed, decide whether it may be trained on or is held out, so that
no held-out sum, in either wording, is seen in training, whatever the seeds.

A parallel trace solves the same sum by two or three different strategies side by side. In a share of them one
path slips and the paths disagree, so that the summary has something to decide: it recomputes and keeps the
right total. The path that slipped is named in `context_paths`: it is there to be decided about, not to be
learned. Another share of the traces is sequential, because a cold start that is 100 % parallel leaves a
reward on parallel thinking nothing to move.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any, Literal

from prl.errors import RunError
from prl.grammar import render
from prl.prompts import FINAL_ANSWER
from prl.runs.disk import write_atomic, writing

Split = Literal["coldstart", "mixed", "easy", "hard", "wide", "heldout", "heldout-wide"]

LEVELS: dict[Split, tuple[int, ...]] = {
    "coldstart": (1, 2, 3, 4, 5),
    "mixed": (1, 2, 3, 4, 5),
    "easy": (1, 2, 3),
    "hard": (3, 4, 5),
    "wide": (1, 2, 3, 4, 5, 6),
    "heldout": (3, 4, 5),
    "heldout-wide": (1, 2, 3, 4, 5, 6),
}
"""The levels that a split draws from; a problem of level n has n + 1 terms."""

SIZES: dict[Split, int] = {"coldstart": 600, "easy": 300, "hard": 600, "heldout": 600}
"""Rows of each set that `write_sets` writes (seed 0); any number more can be generated."""

PARALLEL_SHARE = {"coldstart": 0.8, "mixed": 0.5}  # of the traces
DISAGREE_SHARE = {"coldstart": 0.2, "mixed": 0.4}  # of the parallel traces
THREE_PATHS_SHARE = 0.2  # of the parallel traces
LATE_BLOCK_SHARE = (
    0.3  # of the parallel traces of four terms and more: the first step is taken before the block
)
STORY_SHARE = 0.3  # of the problems
HELD_OUT_SHARE = 0.1  # of all sums

_TERMS = (2, 60)
_LARGEST_TOTAL = 199
_NAMES = ("Ann", "Ben", "Eva", "Leo", "Mia", "Tom")
_THINGS = ("apples", "books", "cards", "coins", "pens", "shells")
_GAINS = ("buys", "finds", "gets")
_LOSSES = ("gives away", "loses", "sells")

Add = Callable[[int, int], int]
"""How a path adds two numbers: exactly, or with one slip."""


@dataclass(frozen=True)
class Problem:
    """A sum in words. `terms` are signed; every running total from the left lies in 0..199."""

    terms: tuple[int, ...]
    text: str

    @property
    def level(self) -> int:
        return len(self.terms) - 1

    @property
    def answer(self) -> str:
        return str(sum(self.terms))


def generate(split: Split, count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Rows 0..count-1 of `split` in the schema of `prl.data`; rows of "coldstart" hold a `trace` and its
    `context_paths`."""
    return [make_row(split, index, seed) for index in range(count)]


def write_sets(folder: Path) -> list[Path]:
    """Write the sets of SIZES and their card to `folder`, the same bytes every time; the files written.

    Raises RunError: the folder cannot be written, or a file of one of these names is none of these sets.
    """
    texts = {"README.md": _card()}
    for split, count in SIZES.items():
        lines = [json.dumps(row, ensure_ascii=False) for row in generate(split, count)]
        texts[f"{split}.jsonl"] = "\n".join(lines) + "\n"
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in texts.items():
            if (folder / name).exists() and not _begins_alike(folder / name, text):
                raise RunError(
                    f"{folder / name} is not of `prl data`, so it stays: choose another --output_dir"
                )
    for name, text in texts.items():
        write_atomic(folder / name, text.encode())
    return [folder / name for name in texts]


def _begins_alike(path: Path, text: str) -> bool:
    """Whether a file may be an earlier writing of `text`: by its title, or the source of its first row."""
    with path.open(encoding="utf-8", errors="replace") as file:
        found, first = file.readline(4096).strip(), text.partition("\n")[0]
    if path.suffix != ".jsonl":
        return found == first
    try:
        return json.loads(found)["source"] == json.loads(first)["source"]
    except (ValueError, KeyError, TypeError):
        return False


def make_row(split: Split, index: int, seed: int = 0) -> dict[str, Any]:
    """Row `index` of `split`, the same whatever was made before it."""
    # A string seed keeps (seed 0, item 1) and (seed 1, item 0) apart, which `Random(seed + index)` does not.
    rng = Random(f"{seed}/{split}/{index}")
    problem = make_problem(rng, split)
    row = {
        "problem": problem.text,
        "answer": problem.answer,
        "level": problem.level,
        "source": f"arithmetic:{split}",
    }
    if split in PARALLEL_SHARE:
        parallel = rng.random() < PARALLEL_SHARE[split]
        row["trace"], row["context_paths"] = make_trace(
            rng, problem, parallel=parallel, disagree_share=DISAGREE_SHARE[split]
        )
    return row


def make_problem(rng: Random, split: Split) -> Problem:
    """The next problem of `rng` that belongs on this side of the held-out border."""
    while True:
        terms = _draw_terms(rng, count=rng.choice(LEVELS[split]) + 1)
        if is_held_out(terms) == split.startswith("heldout"):
            return Problem(terms, _word(rng, terms))


def is_held_out(terms: Sequence[int]) -> bool:
    """Whether this sum belongs to the held-out tenth; decided by its terms, never by a seed or a wording."""
    digest = hashlib.sha256(" ".join(map(str, terms)).encode()).digest()
    return int.from_bytes(digest[:8], "big") < HELD_OUT_SHARE * 2**64


def make_trace(
    rng: Random, problem: Problem, *, parallel: bool, disagree_share: float = DISAGREE_SHARE["coldstart"]
) -> tuple[str, list[int]]:
    """A response that solves `problem`, one block of two or three strategies or one strategy without a block;
    and the places of the paths that slipped."""
    opening, terms = "", problem.terms
    if parallel and len(terms) > 3 and rng.random() < LATE_BLOCK_SHARE:
        first = terms[0] + terms[1]
        opening, terms = f"{terms[0]}{terms[1]:+d}={first}.\n\n", (first, *terms[2:])
    strategies = applicable_strategies(terms)
    rng.shuffle(strategies)
    if not parallel or len(strategies) < 2:
        return f"{opening}{strategies[0](terms, _add)[0]}\n\n{FINAL_ANSWER} {problem.answer}", []

    chosen = strategies[: 3 if rng.random() < THREE_PATHS_SHARE else 2]
    paths = [strategy(terms, _add) for strategy in chosen]
    summary = f"Both give {problem.answer}."
    slipped: list[int] = []
    if rng.random() < disagree_share:
        slipped = [rng.randrange(len(paths))]
        paths[slipped[0]] = _slip(rng, chosen[slipped[0]], terms)
    totals = [total for _, total in paths]
    if len(totals) > 2 or len(set(totals)) > 1:
        summary = " ".join(f"{total}." for total in totals)
    if len(set(totals)) > 1:
        summary += f" {in_order(terms, _add)[0]}"
    block = render([text for text, _ in paths], summary)
    return f"{opening}{block}\n\n{FINAL_ANSWER} {problem.answer}", slipped


def applicable_strategies(terms: Sequence[int]) -> list[Callable[[Sequence[int], Add], tuple[str, int]]]:
    """The strategies that write a path of their own for this sum, without a negative total on the way."""
    minus = [term for term in terms if term < 0]
    tens, units = _tens_and_units(terms)
    return [
        in_order,
        *([gather] if len(minus) >= 2 or (minus and terms[-1] > 0) else []),
        *([backwards] if _backwards(terms) != list(terms) else []),
        *(
            [by_place]
            if _never_negative(tens) and _never_negative(units) and all(map(any, (tens, units)))
            else []
        ),
        *([split_one] if _splittable(terms) else []),
    ]


def in_order(terms: Sequence[int], add: Add) -> tuple[str, int]:
    """From left to right."""
    steps, total = _chain(terms, add)
    return f"In order: {steps}", total


def gather(terms: Sequence[int], add: Add) -> tuple[str, int]:
    """What is added first, then what is taken away, then the difference."""
    gained, plus = _chain([term for term in terms if term > 0], add)
    lost, minus = _chain([-term for term in terms if term < 0], add)
    difference, total = _chain([plus, -minus], add)
    return " ".join(["Gather:", *filter(None, [gained, lost]), difference]), total


def backwards(terms: Sequence[int], add: Add) -> tuple[str, int]:
    """From right to left, what is taken away last."""
    steps, total = _chain(_backwards(terms), add)
    return f"Backwards: {steps}", total


def by_place(terms: Sequence[int], add: Add) -> tuple[str, int]:
    """Tens, then units, then both."""
    (tens, high), (units, low) = (
        _chain([part for part in parts if part], add) for parts in _tens_and_units(terms)
    )
    both, total = _chain([high, low], add)
    return " ".join(["By place:", *filter(None, [tens, units]), both]), total


def split_one(terms: Sequence[int], add: Add) -> tuple[str, int]:
    """From left to right, the last term of two digits in two steps: its tens, then its units."""
    at = _splittable(terms)[-1]
    ten, unit = (parts[at] for parts in _tens_and_units(terms))
    steps, total = _chain([*terms[:at], ten, unit, *terms[at + 1 :]], add)
    return f"Split: {steps}", total


def _slip(
    rng: Random, strategy: Callable[[Sequence[int], Add], tuple[str, int]], terms: Sequence[int]
) -> tuple[str, int]:
    """The path that `strategy` writes when one of its additions goes wrong by 1, 2 or 10."""
    additions: list[int] = []

    def count(a: int, b: int) -> int:
        additions.append(a + b)
        return a + b

    strategy(terms, count)
    at, error = rng.randrange(len(additions)), rng.choice((1, -1, 2, -2, 10, -10))
    if error < 0 and min(additions[at:]) + error < 0:
        error = -error
    taken = iter(range(len(additions)))
    return strategy(terms, lambda a, b: a + b + (error if next(taken) == at else 0))


def _add(a: int, b: int) -> int:
    return a + b


def _chain(values: Sequence[int], add: Add) -> tuple[str, int]:
    """Steps such as `27+15=42. 42-8=34.` and the total that they reach; no steps for one value."""
    steps, total = [], values[0]
    for value in values[1:]:
        result = add(total, value)
        steps.append(f"{total}{value:+d}={result}.")
        total = result
    return " ".join(steps), total


def _backwards(terms: Sequence[int]) -> list[int]:
    reverse = list(reversed(terms))
    return reverse if _never_negative(reverse) else sorted(reverse, key=lambda term: term < 0)


def _tens_and_units(terms: Sequence[int]) -> tuple[list[int], list[int]]:
    signs = [1 if term > 0 else -1 for term in terms]
    tens = [sign * (abs(term) // 10 * 10) for sign, term in zip(signs, terms, strict=True)]
    return tens, [term - ten for term, ten in zip(terms, tens, strict=True)]


def _splittable(terms: Sequence[int]) -> list[int]:
    tens, units = _tens_and_units(terms)
    return [at for at in range(1, len(terms)) if tens[at] and units[at]]


def _never_negative(terms: Sequence[int]) -> bool:
    total = 0
    for term in terms:
        total += term
        if total < 0:
            return False
    return True


def _draw_terms(rng: Random, count: int) -> tuple[int, ...]:
    terms = [rng.randint(*_TERMS)]
    while len(terms) < count:
        term = rng.randint(*_TERMS) * rng.choice((1, -1))
        if 0 <= sum(terms) + term <= _LARGEST_TOTAL:
            terms.append(term)
    return tuple(terms)


def _word(rng: Random, terms: Sequence[int]) -> str:
    if rng.random() >= STORY_SHARE:
        return f"Compute {terms[0]}" + "".join(f" {'+-'[term < 0]} {abs(term)}" for term in terms[1:]) + "."
    name, things = rng.choice(_NAMES), rng.choice(_THINGS)
    events = "".join(
        f" {name} {rng.choice(_GAINS if term > 0 else _LOSSES)} {abs(term)}." for term in terms[1:]
    )
    return f"{name} has {terms[0]} {things}.{events} How many {things} now?"


def _card() -> str:
    rows = "\n".join(
        f"| `{split}.jsonl` | {count} | {', '.join(map(str, LEVELS[split]))} | {traces} |"
        for split, count in SIZES.items()
        for traces in ["yes" if split == "coldstart" else ""]
    )
    parallel, disagree = PARALLEL_SHARE["coldstart"], DISAGREE_SHARE["coldstart"]
    return f"""# Procedural arithmetic

Sums in words, made by `prl.data.problems` (seed 0). `make data` writes these files again, to the same bytes;
`--dataset arithmetic:NAME` generates any number of further rows without a file.

| file | rows | levels | traces |
|---|---|---|---|
{rows}

A problem of level n has n + 1 terms of {_TERMS[0]} to {_TERMS[1]}, added or subtracted;
{STORY_SHARE:.0%} are told as a story.

Columns: `problem`, `answer`, `level`, `source`; where there are traces `trace`, and `context_paths`, the
places of its paths that slip, from 0: a cold start reads them and does not learn them.

- Held out: a tenth of all sums, by a hash of their terms, is in `heldout` only, whatever the seed or wording.
- Traces: {parallel:.0%} hold one block of two paths ({THREE_PATHS_SHARE:.0%} of these: three),
  each path another strategy; the rest is sequential. In {disagree:.0%} of the blocks one path slips
  by 1, 2 or 10, and the summary recomputes and decides. The final answer is always right.
- Without a file: `arithmetic:mixed`, traces of which half hold a block, and two fifths of these a slip, so
  that rewards have something to move; `arithmetic:wide` and `arithmetic:heldout-wide`, problems of levels 1
  to 6 on both sides of the held-out border.
- Made for a model of a million parameters: what it teaches is the format and a little adding, no mathematics.

Licence: Apache-2.0, as the code.
"""
