"""What a study is made of: its arms and cold starts, what they are compared with, and what is claimed.

A `Design` is data. `prl.study.designs` has those that there are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

Side = Literal["above", "below", "within"]
Given = Mapping[str, Mapping[str, Any]]
"""Command -> settings that it is told beyond its recipe."""

BASE = "base"
"""The model before any training, among what a study evaluates."""


TIMINGS = tuple(f"timed-{number}" for number in (1, 2, 3))
"""The evaluations of a timed arm, which are all the same: of each response the fastest counts. All arms take
their turn before the next begins, so that what slows a machine for a while slows none of them alone."""


@dataclass(frozen=True)
class Setup:
    """Overlays on the recipe of a study, joined by `+`, with what belongs to them; and `sizes`, which hold on
    the model that ships alone."""

    overlays: str = ""
    given: Given = field(default_factory=dict)
    sizes: Given = field(default_factory=dict)


@dataclass(frozen=True)
class Arm:
    """RL from a cold start, None: from the base. It is evaluated at `early_percent` of its steps too, and,
    where `timed`, one response at a time."""

    setup: Setup
    cold_start: str | None
    early_percent: int | None = None
    timed: bool = False


@dataclass(frozen=True)
class Part:
    """What can run on a machine of its own: its arms with the cold starts that they need, cold starts
    besides, and which `bases` are evaluated."""

    arms: tuple[str, ...] = ()
    cold_starts: tuple[str, ...] = ()
    bases: tuple[str, ...] = (BASE,)


@dataclass(frozen=True)
class Claim:
    """`quantity` is one of `prl.study.claims.QUANTITIES`, measured of `arms` as `given` says; `bound` is that
    of its side, for `within` on both sides of 0."""

    text: str
    arms: tuple[str, ...]
    quantity: str
    side: Side
    bound: float = 0.0
    source: str = "paper"
    given: Mapping[str, Any] = field(default_factory=dict)


REWARD_CLAIMS = (
    Claim(
        "The alternating reward raises the ratio of structured over accuracy alone (63.0 against 13.6 %)",
        ("structured-alternating", "structured-accuracy"), "parallel_ratio", "above",
    ),
    Claim(
        "The alternating reward is as accurate as accuracy alone (46.8 against 47.1 %; within 3 points)",
        ("structured-alternating", "structured-accuracy"), "accuracy", "within", 0.03,
    ),
    Claim(
        "Paying for parallel answers only brings the highest ratio (80 %; next is alternating with 63.0 %)",
        ("parallel-only", "structured-alternating"), "parallel_ratio", "above",
    ),
    Claim(
        "Paying for parallel answers only costs accuracy, against accuracy alone",
        ("parallel-only", "structured-accuracy"), "accuracy", "below",
    ),
)  # fmt: skip
"""What the paper says of rewards, of the arms that both studies have."""


@dataclass(frozen=True)
class Table:
    """Evaluations that answered the same problems, and the one that the others are compared with."""

    title: str
    names: tuple[str, ...]
    baseline: str


@dataclass(frozen=True)
class Design:
    """A study.

    name            what it is called, and the overlay that it lays over its `recipe` (over another only where
                    `always_overlaid`: where the problems are part of the study)
    arms            name -> how it is trained; `cold_starts` and `bases` (the model untrained) likewise
    parts           name -> what can run elsewhere
    tables          T1: what was evaluated, beside what
    reward_arms     T2: arms that differ in their reward, the first is what the others are compared with
    level_arms      T3: ways to draw problems of all levels
    panels          F1: title -> arm -> colour; `scaffold_panel`: F2
    frontiers       F4: title -> what is drawn against its cost
    budget          a critical path (tokens) that T1 holds all to; None: no such column
    votes           samples whose majority T1 shows, where there are as many
    greedy          whether greedy responses are evaluated beside sampled ones
    quick           what `--quick` tells each command
    terms           arm or cold start -> what it is, in a line, for the page
    paper           arm -> accuracy and parallel ratio, per cent, that the paper reports
    """

    name: str
    title: str
    intro: str
    recipe: str
    arms: Mapping[str, Arm]
    cold_starts: Mapping[str, Setup]
    bases: Mapping[str, Setup]
    parts: Mapping[str, Part]
    tables: Sequence[Table]
    claims: Sequence[Claim]
    quick: Given
    always_overlaid: bool = False
    reward_arms: tuple[str, ...] = ()
    level_arms: tuple[str, ...] = ()
    panels: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    scaffold_panel: Mapping[str, str] = field(default_factory=dict)
    frontiers: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    budget: int | None = None
    votes: int | None = None
    greedy: bool = False
    terms: Mapping[str, str] = field(default_factory=dict)
    paper: Mapping[str, tuple[float | None, float | None]] = field(default_factory=dict)

    def recipe_of(self, recipe: str | None) -> str:
        """The recipe that the arms are laid over, where this one is asked for."""
        base = recipe or self.recipe
        lays = base == self.recipe or (self.always_overlaid and self.name not in base.split("+"))
        return f"{base}+{self.name}" if lays else base


BLUE, RED, GREEN, PINK, BLACK = "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#000000"
ORANGE, SKY, GREY = "#e69f00", "#56b4e9", "#999999"
"""Okabe and Ito's colours, which colour-blind readers can tell apart, as in `prl.report.curves`."""


def cold(name: str) -> str:
    """What a cold start is called among what a study evaluates."""
    return f"cold start {name}"


def apart(name: str, part: str) -> str:
    """What an evaluation of a part is called that answered other problems than another part's of its name."""
    return f"{name} ({part})"
