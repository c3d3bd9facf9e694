"""What the study `paper-mini` claims: the paper's statements, and ours, each where it could be refuted."""

from __future__ import annotations

from prl.study.design import REWARD_CLAIMS, Claim, cold

BUDGET = 64
"""Tokens of critical path: where six numbered paths end on six sums, in nearly all responses."""

VOTES = 4
"""Samples in sequence that take about as many tokens as four paths with their summary."""

_OURS = "prl"
_LATENCY = "Six numbered paths, held to the critical path at which they end (64 tokens), are "
CLAIMS = (
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
        "… of the processor's time, which hardly knows of what else the machine does",
        ("numbered", "sequential"), "cpu_seconds", "above", 1.7, _OURS,
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
        ("scaffold-early", "structured-alternating"), "accuracy", "above", 0.0, _OURS,
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
        ("taught-scaffold", "taught-accuracy"), "accuracy", "above", 0.0, _OURS,
    ),
    Claim(
        "… and one that switches after a third of the steps",
        ("taught-scaffold-early", "taught-accuracy"), "accuracy", "above", 0.0, _OURS,
    ),
    Claim(
        "… and than the alternating reward throughout",
        ("taught-scaffold", "taught-alternating"), "accuracy", "above", 0.0, _OURS,
    ),
    Claim(
        "Blocks first (48 of 120 steps), then accuracy alone, ends more accurate than accuracy alone",
        ("blocks-first", "long-accuracy"), "accuracy", "above", 0.0, _OURS,
    ),
    Claim(
        "… and keeps blocks that accuracy alone gives up",
        ("blocks-first", "long-accuracy"), "parallel_ratio", "above", 0.0, _OURS,
    ),
    Claim(
        "… and is more accurate than four votes of it, which take about as many tokens",
        ("blocks-first", "long-accuracy"), "over_votes", "above", 0.0, _OURS, {"votes": VOTES},
    ),
    Claim(
        "RL whose groups are mostly dead takes back what the cold start knew (at twice the recipe's rate)",
        ("full-rate",), "rl_gain", "below", 0.0, _OURS,
    ),
    Claim(
        "… and ends more accurate if the rate follows the share of live groups",
        ("live-rate", "full-rate"), "accuracy", "above", 0.0, _OURS,
    ),
    *(
        Claim(f"… {what} keeps it (to a point)", (arm,), "rl_gain", "above", -0.01, _OURS)
        for arm, what in (
            ("live-rate", "which"),
            ("low-rate", "a low rate throughout"),
            ("large-batch", "four times the batch, in a quarter of the steps,"),
            ("dynamic-sampling", "a batch of live groups alone, of up to four times the samples,"),
            ("clipped", "a gradient clipped to a norm of 0.005"),
        )
    ),
)  # fmt: skip
"""The numbers in the texts of the paper's claims are its own (arXiv 2509.07980), at 4 B parameters."""
