"""The study `paper-mini`: the paper's experiments, and ours, on problems in which alternatives matter.

latency     `which`: six numbered paths that divide the work, beside GRPO in sequence, free and held short
openings    `which`: what tells paths apart: nothing, numbers, numbers that mean nothing, a plan; and causal
widths      `which`: two and four paths
votes       `products`: four ways that vote, beside GRPO in sequence at as many steps
tokens      `products`: GRPO in sequence whose cold start saw as many tokens as that of the four ways
rewards     `products`: five rewards, two scaffolds, and no credit for wrong paths, from a cold start half of
            which is in sequence
taught      `products`: accuracy alone, alternating and two scaffolds from such a cold start of all steps,
            after which blocks pay
stages      `products`: causal with and without the stage on easy problems; a cold start without late blocks
harm        `products`: what keeps RL from taking back what the cold start knew
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
    REWARD_CLAIMS,
    SKY,
    Arm,
    Claim,
    Design,
    Given,
    Part,
    Setup,
    Table,
    cold,
)

BUDGET = 64
"""Tokens of critical path: where six numbered paths end on six sums, in nearly all responses."""

VOTES = 4
"""Samples in sequence that take about as many tokens as four paths with their summary."""

_HALF: Given = {"sft": {"max_steps": 120}}
"""Of cold starts that are compared with each other only, or are to leave RL something to do."""

_SPARSE: Given = {**_HALF, "rl": {"learning_rate": 2e-4}}
"""And of the RL that begins there: nearly all groups teach, so that a larger rate is safe."""

_TAUGHT: Given = {"sft": {"max_steps": 280}, "rl": _SPARSE["rl"]}
"""All steps of a cold start, and the same RL."""


def _which(part: str | None = None, opening: str = "number", paths: int = 6) -> Setup:
    """A cold start on `which` whose paths differ in what tells them apart or in their number."""
    split = {} if part is None else {"dataset_split": part}
    return Setup(
        "", {"sft": {"path_opening": opening, "paths": paths, **split}, "eval": {"paths": paths}}, _HALF
    )


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


def _kept(**rl: object) -> Setup:
    """The arm `votes` with another RL."""
    return Setup("products", {"rl": rl}, _VOTING.sizes)


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
    "judged": Arm(
        Setup("products+structured-accuracy", {**_ANYWHERE, "rl": {"wrong_paths": "judged"}}, _SPARSE),
        "anywhere",
    ),
    "scaffold-early": Arm(_products("scaffold-early"), "anywhere"),
    "scaffold": Arm(_products("scaffold"), "anywhere"),
    "taught-accuracy": Arm(_products("structured-accuracy", _TAUGHT), "anywhere-taught"),
    "taught-alternating": Arm(_products("structured-alternating", _TAUGHT), "anywhere-taught"),
    "taught-scaffold-early": Arm(_products("scaffold-early", _TAUGHT), "anywhere-taught"),
    "taught-scaffold": Arm(_products("scaffold", _TAUGHT), "anywhere-taught"),
    "causal": Arm(Setup("products+causal", _CAUSAL, _SPARSE), "anywhere-causal"),
    "causal-no-easy": Arm(Setup("products+causal-no-easy", _CAUSAL, _SPARSE), "anywhere-causal"),
    "never-late": Arm(Setup("products+structured-accuracy", _MIXED, _SPARSE), "never-late"),
    "full-rate": Arm(_kept(live_rate=False), "votes"),
    "low-rate": Arm(_kept(live_rate=False, learning_rate=1.6e-5), "votes"),
    "warm-up": Arm(
        _kept(live_rate=False, lr_scheduler_type="constant_with_warmup", warmup_steps=12), "votes"
    ),
    "large-batch": Arm(_kept(live_rate=False, gradient_accumulation_steps=8, max_steps=6), "votes"),
    "dynamic-sampling": Arm(_kept(live_rate=False, dynamic_sampling=4), "votes"),
    "kl": Arm(_kept(live_rate=False, beta=0.04), "votes"),
    "clipped": Arm(_kept(live_rate=False, max_grad_norm=0.005), "votes"),
}

_COLD_STARTS = {
    "sequential": _SEQUENTIAL,
    "terse": Setup("in-sequence", _TERSE),
    "numbered": _NUMBERED,
    "six": _which(),
    "six-unnumbered": _which(opening="none"),
    "six-shuffled": _which("shuffled"),
    "six-planned": _which("plan", "plan"),
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
    "anywhere-causal": Setup("products+causal", _CAUSAL, _SPARSE),
    "never-late": Setup("products+structured-accuracy", _MIXED, _SPARSE),
}

_OURS = "prl"
_LATENCY = "Six numbered paths, held to the critical path at which they end (64 tokens), are "
_CLAIMS = (
    Claim(
        f"{_LATENCY}right at least 25 points more often than sequential GRPO held to it",
        ("numbered", "sequential"), "accuracy_within", "above", 0.25, _OURS, {"budget": BUDGET},
    ),
    Claim(
        "… than sequential GRPO that was trained and is evaluated within it",
        ("numbered", "sequential-held"), "accuracy_within", "above", 0.25, _OURS, {"budget": BUDGET},
    ),
    Claim(
        "… than a cold start on the tersest solutions in sequence",
        ("numbered", cold("terse")), "accuracy_within", "above", 0.25, _OURS, {"budget": BUDGET},
    ),
    Claim(
        "They need at most half of the critical path for 95 % of the lower accuracy",
        ("numbered", "sequential"), "critical_path", "above", 2.0, _OURS, {"share": 0.95},
    ),
    Claim(
        "They answer at least 1.7 times as fast, one problem at a time on one thread",
        ("numbered", "sequential"), "seconds", "above", 1.7, _OURS,
    ),
    Claim(
        "… and are no less accurate than sequential GRPO with all its room (by more than a point)",
        ("numbered", "sequential"), "accuracy", "above", -0.01, _OURS,
    ),
    Claim(
        "Four ways side by side are at least 8.4 % (relative) more accurate than sequential GRPO",
        ("votes", "products-sequential"), "accuracy_ratio", "above", 1.084,
    ),
    Claim(
        "… and greedy",
        ("votes", "products-sequential"), "accuracy_ratio", "above", 1.084, _OURS, {"score": "greedy"},
    ),
    Claim(
        "… and than sequential GRPO whose cold start saw as many tokens",
        ("votes", "products-sequential-longer"), "accuracy_ratio", "above", 1.084, _OURS,
    ),
    Claim(
        "After the same cold start, four ways are at least 5 points more accurate than in sequence",
        (cold("votes"), cold("products-sequential")), "accuracy", "above", 0.05, _OURS,
    ),
    Claim(
        "… and at least 1 point more than four votes in sequence, which take about as many tokens",
        (cold("votes"), cold("products-sequential")), "over_votes", "above", 0.01, _OURS, {"votes": VOTES},
    ),
    Claim(
        "… also after RL",
        ("votes", "products-sequential"), "over_votes", "above", 0.01, _OURS, {"votes": VOTES},
    ),
    Claim(
        "The summary is right as often as the majority of its paths (to a point), after RL",
        ("votes",), "summary", "above", -0.01, _OURS,
    ),
    *(
        Claim(
            f"RL does not take back what the cold start knew: {arm} (by more than a point)",
            (arm,), "rl_gain", "above", -0.01, _OURS,
        )
        for arm in ("numbered", "sequential", "votes", "products-sequential")
    ),
    Claim(
        "Numbers let paths divide the work: more accurate than paths that nothing tells apart",
        (cold("six"), cold("six-unnumbered")), "accuracy", "above", 0.0, _OURS,
    ),
    Claim(
        "It is what the number says that does it: more accurate than with shares that chance deals out",
        (cold("six"), cold("six-shuffled")), "accuracy", "above", 0.0, _OURS,
    ),
    Claim(
        "A plan of the main thread does the same (within 3 points of numbers)",
        (cold("six-planned"), cold("six")), "accuracy", "within", 0.03, _OURS,
    ),
    Claim(
        "Causal paths divide the work without either (within 3 points of numbers)",
        (cold("six-causal"), cold("six")), "accuracy", "within", 0.03, _OURS,
    ),
    Claim(
        "Six paths are more accurate within 64 tokens of critical path than four",
        (cold("six"), cold("four")), "accuracy_within", "above", 0.0, _OURS, {"budget": BUDGET},
    ),
    Claim(
        "… and four than two",
        (cold("four"), cold("two")), "accuracy_within", "above", 0.0, _OURS, {"budget": BUDGET},
    ),
    Claim(
        "Causal parallel thinking is more accurate than GRPO in sequence (48.9 against 45.1 %)",
        ("causal", "products-sequential"), "accuracy", "above",
    ),
    Claim(
        "RL on easy problems first makes causal more accurate (48.9 against 46.6 % without)",
        ("causal", "causal-no-easy"), "accuracy", "above",
    ),
    Claim(
        "Causal is more accurate than structured (48.9 against 47.1 %)",
        ("causal-no-easy", "structured-accuracy"), "accuracy", "above",
    ),
    *REWARD_CLAIMS,
    Claim(
        "RL that gives wrong paths of right answers no credit ends more accurate than RL that does",
        ("judged", "structured-accuracy"), "accuracy", "above", 0.0, _OURS,
    ),
    Claim(
        "Blocks move later in the response during RL (structured, accuracy alone, late blocks known)",
        ("structured-accuracy",), "block_position", "above",
    ),
    Claim(
        "A cold start with late blocks ends more accurate than one without",
        ("structured-accuracy", "never-late"), "accuracy", "above", 0.0, _OURS,
    ),
    Claim(
        "Scaffold: the parallel ratio falls after the switch to accuracy alone",
        ("scaffold",), "ratio_after_switch", "below",
    ),
    Claim(
        "Scaffold ends more accurate than the alternating reward throughout",
        ("scaffold", "structured-alternating"), "accuracy", "above",
    ),
    Claim(
        "… and so does one that switches after a third of the steps",
        ("scaffold-early", "structured-alternating"), "accuracy", "above",
    ),
    Claim(
        "Scaffold ends more accurate than accuracy alone throughout",
        ("scaffold", "structured-accuracy"), "accuracy", "above",
    ),
    Claim(
        "Accuracy alone makes blocks rare where they hardly pay yet (a cold start of 120 steps)",
        ("structured-accuracy", cold("anywhere")), "parallel_ratio", "below", 0.0, _OURS,
    ),
    Claim(
        "… and frequent where they pay (the same of 280 steps)",
        ("taught-accuracy", cold("anywhere-taught")), "parallel_ratio", "above", 0.0, _OURS,
    ),
    Claim(
        "From there, too, the scaffold ends more accurate than accuracy alone throughout",
        ("taught-scaffold", "taught-accuracy"), "accuracy", "above",
    ),
    Claim(
        "… and one that switches after a third of the steps",
        ("taught-scaffold-early", "taught-accuracy"), "accuracy", "above",
    ),
    Claim(
        "… and than the alternating reward throughout",
        ("taught-scaffold", "taught-alternating"), "accuracy", "above",
    ),
    Claim(
        "A rate that follows the share of live groups keeps what a full rate takes back",
        ("votes", "full-rate"), "accuracy", "above", 0.0, _OURS,
    ),
)  # fmt: skip
"""The numbers in the texts of the paper's claims are its own (arXiv 2509.07980), at 4 B parameters."""

_REWARDS = (
    "structured-accuracy",
    "structured-alternating",
    "parallel-only",
    "tiered-only",
    "gated-efficiency",
)
_SCAFFOLDS = ("scaffold-early", "scaffold")
_FROM_TAUGHT = ("taught-accuracy", "taught-alternating", "taught-scaffold-early", "taught-scaffold")
_HARM = ("full-rate", "low-rate", "warm-up", "large-batch", "dynamic-sampling", "kl", "clipped")

PAPER_MINI = Design(
    name="paper-mini",
    title="Where parallel thinking pays: the paper's experiments, and ours, in miniature",
    intro=(
        "What Parallel-R1 (arXiv 2509.07980) found with 4 B parameters on competition mathematics, and what "
        "prl adds, held against a model of 0.85 M parameters and problems in which alternatives matter "
        "(`search:`): *which* of four to six sums gives a number, where paths divide the work, and "
        "*products*, where paths go different ways to one result and vote. Compare directions, not sizes. "
        "Each claim stands in a setting in which it could have been refuted."
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
        "rewards": Part((*_REWARDS, "judged", *_SCAFFOLDS), (), ()),
        "taught": Part(_FROM_TAUGHT, (), ()),
        "stages": Part(("causal", "causal-no-easy", "never-late"), (), ()),
        "harm": Part(_HARM, (), ()),
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
            "*products*, from cold starts that leave RL something to do",
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
            "*products*, from a cold start after which blocks pay",
            (cold("anywhere-taught"), *_FROM_TAUGHT),
            "taught-accuracy",
        ),
        Table(
            "*products*, what RL takes back, and what keeps it",
            (cold("votes"), "votes", *_HARM),
            cold("votes"),
        ),
    ),
    claims=_CLAIMS,
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
        "structured, once blocks pay": {
            "taught-accuracy": BLUE,
            "taught-alternating": RED,
            "taught-scaffold-early": ORANGE,
            "taught-scaffold": GREEN,
        },
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
        "products": ("products-sequential", "products-sequential-longer", "votes", "structured-accuracy"),
    },
    budget=BUDGET,
    votes=VOTES,
    greedy=True,
    paper={
        "causal": (48.9, 27.3),
        "causal-no-easy": (46.6, None),
        "structured-accuracy": (47.1, 13.6),
        "structured-alternating": (46.8, 63.0),
        "parallel-only": (None, 80.0),
    },
)
