"""The study `paper-mini`: the paper's experiments, and ours, on problems in which alternatives matter.

latency       `which`: six numbered paths that divide the work, beside GRPO in sequence, free and held short
openings      `which`: what tells paths apart: nothing, numbers, numbers that mean nothing, a plan; and causal
widths        `which`: two and four paths
votes         `products`: four ways that vote, beside GRPO in sequence at as many steps
tokens        `products`: GRPO in sequence whose cold start saw as many tokens as that of the four ways
rewards       `products`: four rewards, from a cold start half of which is in sequence
more-rewards  `products`: from the same a reward for short critical paths, no credit for wrong paths, and two
              scaffolds
taught        `products`: accuracy alone, alternating and two scaffolds from such a cold start of all steps,
              after which an answer with a block is right as often as one without
wrong-paths   `products`: from such a cold start, by accuracy alone, with and without credit for wrong paths
scaffold      `products`: five times the steps of RL, by accuracy alone or by blocks first, from a cold start
              of half the steps
stages        `products`: causal with and without the stage on easy problems; a cold start without late blocks
harm          `products`: what RL takes back of what the cold start of `votes` knew, and what rate keeps it
harm-batches  `products`: the same, with other batches
rate          `which`: what RL at five times the recipe's rate takes back of what six numbered paths knew
"""

from __future__ import annotations

from prl.study.design import (
    BASE,
    BLACK,
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PINK,
    RED,
    SKY,
    Arm,
    Design,
    Given,
    Part,
    Setup,
    Table,
    cold,
)
from prl.study.paper_claims import BUDGET, CLAIMS, VOTES
from prl.study.paper_terms import TERMS

_HALF: Given = {"sft": {"max_steps": 120}}
"""Of cold starts that are compared with each other only, or are to leave RL something to do."""

_SPARSE: Given = {**_HALF, "rl": {"learning_rate": 2e-4}}
"""And of the RL that begins there: nearly all groups teach, so that a larger rate is safe."""

_TAUGHT: Given = {"sft": {"max_steps": 280}, "rl": _SPARSE["rl"]}
"""All steps of a cold start, and the same RL."""

_LONG: Given = {**_HALF, "rl": {**_SPARSE["rl"], "max_steps": 120}}
"""Half of a cold start, and RL that has time to learn what a cold start did not."""


def _which(part: str | None = None, opening: str = "number", paths: int = 6) -> Setup:
    """A cold start on `which` whose paths differ in what tells them apart or in their number."""
    split = {} if part is None else {"dataset_split": part}
    return Setup(
        "", {"sft": {"path_opening": opening, "paths": paths, **split}, "eval": {"paths": paths}}, _HALF
    )


_PLANNED = {"path_opening": "plan", "paths": 6}
_AS_PLANNED = {"paths": "auto", "max_paths": 6}

_SEQUENTIAL = Setup("in-sequence")
_TERSE = {"sft": {"dataset_split": "terse"}}
_HELD = {"max_completion_length": BUDGET}
_NUMBERED = Setup("")
_VOTING = Setup("products", sizes={"sft": {"max_steps": 280}})
_PRODUCTS_SEQUENTIAL = Setup("products+in-sequence", sizes=_VOTING.sizes)
_LONGER = Setup("products+in-sequence", sizes={"sft": {"max_steps": 1015, "limit": 32480}})
_ANYWHERE = {"sft": {"dataset_split": "anywhere"}}
_MIXED = {"sft": {"dataset_split": "mixed"}}
_CAUSAL = {"sft": {"dataset_split": "anywhere", "path_opening": "none"}}


def _products(overlay: str, sizes: Given = _SPARSE) -> Setup:
    """An arm on products from a cold start half of which is in sequence."""
    return Setup(f"products+{overlay}", _ANYWHERE, sizes)


def _judged(sizes: Given) -> Setup:
    """Such an arm by accuracy alone, in which wrong paths of right answers get no credit."""
    return Setup("products+structured-accuracy", {**_ANYWHERE, "rl": {"wrong_paths": "judged"}}, sizes)


def _risky(**rl: object) -> Setup:
    """The arm `votes` at twice the recipe's rate, at which it shows what a step of few live groups does."""
    return Setup("products", {"rl": {"live_rate": False, "learning_rate": 2e-4} | rl}, _VOTING.sizes)


def _fast(*, live_rate: bool) -> Setup:
    """The arm `numbered` at five times the recipe's rate."""
    return Setup("", {"rl": {"live_rate": live_rate, "learning_rate": 5e-4}})


_ARMS = {
    "sequential": Arm(_SEQUENTIAL, "sequential", timed=True),
    "sequential-held": Arm(Setup("in-sequence", {"rl": _HELD, "eval": _HELD}), "sequential"),
    "numbered": Arm(_NUMBERED, "numbered", timed=True),
    "products-sequential": Arm(_PRODUCTS_SEQUENTIAL, "products-sequential"),
    "products-sequential-longer": Arm(_LONGER, "products-sequential-longer"),
    "votes": Arm(_VOTING, "votes"),
    "structured-accuracy": Arm(_products("structured-accuracy"), "anywhere"),
    "structured-alternating": Arm(_products("structured-alternating"), "anywhere"),
    "parallel-only": Arm(_products("parallel-only"), "anywhere"),
    "tiered-only": Arm(_products("tiered-only"), "anywhere"),
    "gated-efficiency": Arm(_products("gated-efficiency"), "anywhere"),
    "judged": Arm(_judged(_SPARSE), "anywhere"),
    "scaffold-early": Arm(_products("scaffold-early"), "anywhere"),
    "scaffold": Arm(_products("scaffold"), "anywhere"),
    "taught-accuracy": Arm(_products("structured-accuracy", _TAUGHT), "anywhere-taught"),
    "taught-alternating": Arm(_products("structured-alternating", _TAUGHT), "anywhere-taught"),
    "taught-scaffold-early": Arm(_products("scaffold-early", _TAUGHT), "anywhere-taught"),
    "taught-scaffold": Arm(_products("scaffold", _TAUGHT), "anywhere-taught"),
    "taught-credited": Arm(_products("structured-accuracy", _TAUGHT), "wrong-paths"),
    "taught-judged": Arm(_judged(_TAUGHT), "wrong-paths"),
    "long-accuracy": Arm(_products("structured-accuracy", _LONG), "anywhere"),
    "blocks-first": Arm(_products("blocks-first", _LONG), "anywhere"),
    "causal": Arm(Setup("products+causal", _CAUSAL, _SPARSE), "anywhere-causal"),
    "causal-no-easy": Arm(Setup("products+causal-no-easy", _CAUSAL, _SPARSE), "anywhere-causal"),
    "never-late": Arm(Setup("products+structured-accuracy", _MIXED, _SPARSE), "never-late"),
    "full-rate": Arm(_risky(), "harm"),
    "live-rate": Arm(_risky(live_rate=True), "harm"),
    "low-rate": Arm(_risky(learning_rate=3e-5), "harm"),
    "large-batch": Arm(_risky(gradient_accumulation_steps=8, max_steps=6), "harm"),
    "dynamic-sampling": Arm(_risky(dynamic_sampling=4), "harm"),
    "clipped": Arm(_risky(max_grad_norm=0.005), "harm"),
    "numbered-high-rate": Arm(_fast(live_rate=False), "rate"),
    "numbered-high-live-rate": Arm(_fast(live_rate=True), "rate"),
}

_COLD_STARTS = {
    "sequential": _SEQUENTIAL,
    "terse": Setup("in-sequence", _TERSE),
    "numbered": _NUMBERED,
    "six": _which(),
    "six-unnumbered": _which(opening="none"),
    "six-shuffled": _which("shuffled"),
    "six-planned": Setup("", {"sft": {**_PLANNED, "dataset_split": "plan"}, "eval": _AS_PLANNED}, _HALF),
    "six-causal": Setup(
        "causal-no-easy", {"sft": {"path_opening": "none", "paths": 6}, "eval": {"paths": 6}}, _HALF
    ),
    "two": _which("coldstart-2", paths=2),
    "four": _which("coldstart-4", paths=4),
    "votes": _VOTING,
    "products-sequential": _PRODUCTS_SEQUENTIAL,
    "products-sequential-longer": _LONGER,
    "anywhere": _products("structured-accuracy"),
    "anywhere-taught": _products("structured-accuracy", _TAUGHT),
    "wrong-paths": _products("structured-accuracy", _TAUGHT),
    "anywhere-causal": Setup("products+causal", _CAUSAL, _SPARSE),
    "never-late": Setup("products+structured-accuracy", _MIXED, _SPARSE),
    "harm": _VOTING,
    "rate": _NUMBERED,
}

_FOUR_REWARDS = ("structured-accuracy", "structured-alternating", "parallel-only", "tiered-only")
_REWARDS = (*_FOUR_REWARDS, "gated-efficiency")
_SCAFFOLDS = ("scaffold-early", "scaffold")
_FROM_TAUGHT = ("taught-accuracy", "taught-alternating", "taught-scaffold-early", "taught-scaffold")
_PATHS_PAID = ("taught-credited", "taught-judged")
_HIGH_RATES = ("numbered-high-rate", "numbered-high-live-rate")
_RATES = ("full-rate", "live-rate", "low-rate", "clipped")
_BATCHES = ("large-batch", "dynamic-sampling")
_HARM = ("full-rate", "live-rate", "low-rate", "large-batch", "dynamic-sampling", "clipped")

PAPER_MINI = Design(
    name="paper-mini",
    title="Where parallel thinking pays: the paper's experiments, and ours, in miniature",
    intro=(
        "What Parallel-R1 (arXiv 2509.07980) found with 4 B parameters on competition mathematics, and what "
        "prl adds, held against a model of 0.85 M parameters and problems in which alternatives matter "
        "(`search:`): *which* of four to six sums gives a number, where paths divide the work, and "
        "*products*, where paths go different ways to one result and vote. Compare directions, not sizes. "
        "Each claim stands in a setting in which it could have been refuted; the arms of a claim are named "
        "under Terms. A held-out problem is one never asked as it is written: of the products three in four "
        "are known with their factors the other way round (README). Cold starts that are compared have "
        "as many steps, so as many problems; with four ways they have 3.6 times the tokens of those in "
        "sequence, and part `tokens` has one in sequence of as many. Part `scaffold` was looked at with five "
        "seeds, at which its first claim was undecided (+2.0 [−0.5, +4.5]), before it was given ten; the "
        "rate of part `harm` was chosen so that harm shows. Parts `rewards` and `more-rewards` ran as one, "
        "and so did `harm` and `harm-batches`: the time of the whole is shared out by what RL took in each, "
        "and for the rest by the number of evaluations. Run alone, each makes the cold start of both anew. "
        "Part `wrong-paths` had other work beside it; the time of the others counts from the start of their "
        "first run to the end of their last."
    ),
    recipe="tiny-search",
    always_overlaid=True,
    arms=_ARMS,
    cold_starts=_COLD_STARTS,
    bases={BASE: _SEQUENTIAL, "base-products": _PRODUCTS_SEQUENTIAL},
    parts={
        "latency": Part(("sequential", "sequential-held", "numbered"), ("terse",)),
        "openings": Part((), ("six", "six-unnumbered", "six-shuffled", "six-planned", "six-causal"), ()),
        "widths": Part((), ("two", "four"), ()),
        "votes": Part(("products-sequential", "votes"), (), ("base-products",)),
        "tokens": Part(("products-sequential-longer",), (), ()),
        "rewards": Part(_FOUR_REWARDS, (), ()),
        "more-rewards": Part(("gated-efficiency", "judged", *_SCAFFOLDS), (), ()),
        "taught": Part(_FROM_TAUGHT, (), ()),
        "wrong-paths": Part(_PATHS_PAID, (), ()),
        "scaffold": Part(("long-accuracy", "blocks-first"), (), ()),
        "stages": Part(("causal", "causal-no-easy", "never-late"), (), ()),
        "harm": Part(_RATES, (), ()),
        "harm-batches": Part(_BATCHES, (), ()),
        "rate": Part(_HIGH_RATES, (), ()),
    },
    tables=(
        Table(
            "*which*, latency: six paths divide the work",
            (
                BASE,
                cold("sequential"),
                "sequential",
                "sequential-held",
                cold("terse"),
                cold("numbered"),
                "numbered",
            ),
            "sequential",
        ),
        Table(
            "*which*, what tells paths apart, and how many there are: cold starts of half the steps",
            tuple(
                map(
                    cold,
                    ("six-unnumbered", "six-shuffled", "six-planned", "six-causal", "two", "four", "six"),
                )
            ),
            cold("six"),
        ),
        Table(
            "*products*, votes: four ways to one result",
            (
                "base-products",
                cold("products-sequential"),
                "products-sequential",
                cold("products-sequential-longer"),
                "products-sequential-longer",
                cold("votes"),
                "votes",
            ),
            "products-sequential",
        ),
        Table(
            "*products*, from cold starts of 120 steps, half of them in sequence",
            (
                cold("anywhere"),
                *_REWARDS,
                "judged",
                *_SCAFFOLDS,
                cold("anywhere-causal"),
                "causal",
                "causal-no-easy",
                cold("never-late"),
                "never-late",
            ),
            "structured-accuracy",
        ),
        Table(
            "*products*, from a cold start of 280 steps, half of it in sequence",
            (cold("anywhere-taught"), *_FROM_TAUGHT),
            "taught-accuracy",
        ),
        Table(
            "*products*, from a cold start of 280 steps once more: with and without credit for wrong paths",
            (cold("wrong-paths"), *_PATHS_PAID),
            "taught-credited",
        ),
        Table(
            "*products*, five times the steps of RL: accuracy alone, and blocks first",
            (cold("anywhere"), "long-accuracy", "blocks-first"),
            "long-accuracy",
        ),
        Table(
            "*products*, what RL takes back, and what keeps it",
            (cold("harm"), *_HARM),
            cold("harm"),
        ),
        Table(
            "*which*, what RL takes back at five times the recipe's rate",
            (cold("rate"), "numbered", *_HIGH_RATES),
            cold("rate"),
        ),
    ),
    claims=CLAIMS,
    quick={
        "sft": {"limit": 64, "max_steps": 2},
        "rl": {"limit": 64, "max_steps": 4, "max_completion_length": 64},
        "eval": {"limit": 8, "samples": 2, "max_completion_length": 64},
    },
    reward_arms=_REWARDS,
    panels={
        "structured, rewards": {
            "structured-accuracy": BLUE,
            "structured-alternating": RED,
            "parallel-only": PINK,
            "tiered-only": BLACK,
            "gated-efficiency": GREY,
        },
        "structured, scaffolds": {"scaffold-early": ORANGE, "scaffold": GREEN, "never-late": SKY},
        "structured, after 280 steps": {
            "taught-accuracy": BLUE,
            "taught-alternating": RED,
            "taught-scaffold-early": ORANGE,
            "taught-scaffold": GREEN,
            "taught-credited": PINK,
            "taught-judged": SKY,
        },
        "structured, 120 steps": {"long-accuracy": BLUE, "blocks-first": GREEN},
        "causal": {"causal": BLUE, "causal-no-easy": RED},
    },
    scaffold_panel={
        "structured-accuracy": BLUE,
        "structured-alternating": RED,
        "scaffold-early": ORANGE,
        "scaffold": GREEN,
    },
    frontiers={
        "which": ("sequential", "sequential-held", cold("terse"), "numbered"),
        "widths": (cold("two"), cold("four"), cold("six"), cold("six-unnumbered"), cold("six-causal")),
        "openings": tuple(map(cold, ("six", "six-unnumbered", "six-shuffled", "six-planned", "six-causal"))),
        "products": ("products-sequential", "products-sequential-longer", "votes", "structured-accuracy"),
        "rewards": (*_REWARDS, "judged"),
        "stages": ("structured-accuracy", *_SCAFFOLDS, "causal", "causal-no-easy", "never-late"),
        "taught": _FROM_TAUGHT,
        "wrong-paths": (cold("wrong-paths"), *_PATHS_PAID),
        "blocks-first": ("long-accuracy", "blocks-first"),
        "harm": (cold("harm"), *_HARM),
        "rate": (cold("rate"), "numbered", *_HIGH_RATES),
    },
    budget=BUDGET,
    votes=VOTES,
    greedy=True,
    terms=TERMS,
    paper={
        "causal": (48.9, 27.3),
        "causal-no-easy": (46.6, None),
        "structured-accuracy": (47.1, 13.6),
        "structured-alternating": (46.8, 63.0),
        "parallel-only": (None, 80.0),
    },
)
