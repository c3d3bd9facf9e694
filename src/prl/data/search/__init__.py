"""Procedural problems with alternatives, where parallel thinking has something to gain: `search:KIND-PART`.

    which       which of these sums gives it        the work can be divided; level: number of sums
    equations   the x that solves it, by trial      the work can be divided; level: number of candidates
    products    several methods for one product     the methods can vote; level: size of the factors

Built as `prl.data.problems`: an item is a function of (seed, split, index) alone. A hash of the problem
decides whether it is held out, may be trained on, or was seen in the pretraining of the base that ships
(`prl.data.search.problems.SHARES`), so that the reward of training, too, is of problems never seen as they
are asked. A product turned round, or an equation over another range, is another problem to the hash.

The parts: `easy`, `hard`, `wide` to train on; `heldout`, `heldout-wide` to evaluate; and with traces
`coldstart`, `sequential` (the same problems, solved in sequence: the control) and `terse` (the same in as few
words as can be), `mixed` (half with blocks, half in sequence, so that a reward on parallel thinking has
something to move), `late` (a block after a solution in the main thread, to verify it), `anywhere` (as mixed,
half of the blocks late, so that where they stand can move too), `plan` (the main thread says first what each
path does, of as many as there is work for) and `shuffled` (which path does what is chance). A number after a
part with blocks is that of their paths, of a plan the most: `search:which-coldstart-3`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any, NamedTuple

from prl.data.search.problems import Problem, Side, draw_equation, draw_product, draw_which, side_of
from prl.data.search.traces import Written, divided, sequential, voting
from prl.errors import DataError, nearest

TRACED = ("coldstart", "sequential", "terse", "mixed", "anywhere", "plan", "shuffled", "late")
"""The parts with traces."""

IN_SEQUENCE = ("sequential", "terse")
"""Of these the parts without a block."""

PARALLEL_SHARE = {"sequential": 0.0, "terse": 0.0, "mixed": 0.5, "anywhere": 0.5}  # of the traces; else: all
LATE_SHARE = {"late": 1.0, "anywhere": 0.5}  # of the blocks; else: none
WRONG_SHARE = 0.6  # of the voting blocks have one or two paths that slip
SUMMARY_SHARE = 0.4  # of the voting blocks teach the summary alone: deciding is learned last
MOST_PATHS = 6


@dataclass(frozen=True)
class Kind:
    """A kind of problem: how one of a level is drawn, its levels by part, and the paths of its blocks."""

    draw: Callable[[Random, int], Problem]
    known: tuple[int, ...]
    easy: tuple[int, ...]
    hard: tuple[int, ...]
    wide: tuple[int, ...]
    paths: int


KINDS: dict[str, Kind] = {
    "which": Kind(draw_which, (2, 3, 4, 5, 6), (2, 3, 4), (4, 5, 6), (2, 3, 4, 5, 6, 7, 8, 9), 6),
    "equations": Kind(draw_equation, (2, 3, 4, 5, 6), (2, 3, 4), (4, 5, 6), (2, 3, 4, 5, 6, 7, 8, 9), 6),
    "products": Kind(draw_product, (1, 2, 3), (1, 2), (2, 3), (1, 2, 3, 4), 4),
}
"""`known`: the levels that the base that ships was pretrained on, and that traces are of."""


class Split(NamedTuple):
    """What a name such as `which-coldstart-3` says."""

    name: str
    kind: str
    part: str
    paths: int

    @property
    def levels(self) -> tuple[int, ...]:
        kind = KINDS[self.kind]
        if self.is_traced:
            return kind.known
        return {"easy": kind.easy, "wide": kind.wide, "heldout-wide": kind.wide}.get(self.part, kind.hard)

    @property
    def is_traced(self) -> bool:
        return self.part in TRACED

    @property
    def side(self) -> Side:
        return "heldout" if self.part.startswith("heldout") else "training"


PARTS = (*TRACED, "easy", "hard", "wide", "heldout", "heldout-wide")


def read_split(name: str) -> Split:
    """The split of a name. Raises DataError, with the nearest that there is."""
    body, paths = name, None
    if numbered := re.fullmatch(r"(.+)-(\d{1,3})", name):
        body, paths = numbered.group(1), int(numbered.group(2))
    kind, _, part = body.partition("-")
    if kind not in KINDS or part not in PARTS:
        known = [f"{one}-{other}" for one in KINDS for other in PARTS]
        raise DataError(
            f"search has no split {name!r}{nearest(body, known)}. It is KIND-PART, of the kinds "
            f"{', '.join(KINDS)} and the parts {', '.join(PARTS)}"
        )
    with_blocks = [each for each in TRACED if each not in IN_SEQUENCE]
    if paths is not None and not (part in with_blocks and 2 <= paths <= MOST_PATHS):
        raise DataError(
            f"search:{name}: a number of paths, 2 to {MOST_PATHS}, stands after a part with blocks "
            f"({', '.join(with_blocks)})"
        )
    return Split(name, kind, part, paths or KINDS[kind].paths)


def make_row(split: Split, index: int, seed: int = 0) -> dict[str, Any]:
    """Row `index` of `split`, the same whatever was made before it.

    The traced parts of a kind have the same problems, row by row, so that arms that begin with different ones
    saw the same.
    """
    problems = "coldstart" if split.is_traced else split.part
    problem = make_problem(Random(f"{seed}/{split.kind}-{problems}/{index}"), split)
    row: dict[str, Any] = {
        "problem": problem.text,
        "answer": problem.answer,
        "level": problem.level,
        "source": f"search:{split.name}",
    }
    if split.is_traced:
        written = make_trace(Random(f"{seed}/{split.name}/{index}/trace"), problem, split)
        row |= {"trace": written.trace, "context_paths": written.context_paths}
    return row


def make_problem(rng: Random, split: Split) -> Problem:
    """The next problem of `rng` on the split's side."""
    while True:
        problem = KINDS[split.kind].draw(rng, rng.choice(split.levels))
        if side_of(problem.key) == split.side:
            return problem


def make_trace(rng: Random, problem: Problem, split: Split) -> Written:
    """A response that solves `problem` as the split's part says."""
    if rng.random() >= PARALLEL_SHARE.get(split.part, 1.0):
        return sequential(rng, problem, terse=split.part == "terse")
    how = {name: split.part == name for name in ("plan", "shuffled")}
    late_share = LATE_SHARE.get(split.part, 0.0)
    how["late"] = late_share > 0 and rng.random() < late_share
    if problem.target is not None:
        return divided(rng, problem, split.paths, **how)
    wrong = rng.choice((1, 2)) if rng.random() < WRONG_SHARE else 0
    summary_only = rng.random() < SUMMARY_SHARE
    if summary_only:
        wrong = max(wrong, 1)
    return voting(rng, problem, split.paths, wrong=wrong, summary_only=summary_only, **how)


def pretraining_problem(rng: Random, kind: str) -> Problem:
    """The next problem of `rng` for a base to be pretrained on: of the known levels, none of any split."""
    while True:
        level = rng.choice(KINDS[kind].known)
        problem = draw_which(rng, level, shifted=True) if kind == "which" else KINDS[kind].draw(rng, level)
        if side_of(problem.key) == "pretraining":
            return problem
