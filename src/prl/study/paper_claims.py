"""What the study `paper-mini` claims: the paper's statements, and ours, each where it could be refuted."""

from __future__ import annotations

from prl.study.design import REWARD_CLAIMS, Claim, cold

BUDGET = 64
"""Tokens of critical path: where six numbered paths end on six sums, in nearly all responses."""

VOTES = 4
"""Samples in sequence that take seven eighths of the tokens of four paths with their summary."""

_OURS = "prl"
_LATENCY = "Held to 64 tokens of critical path, where theirs end, six numbered paths are at least 25 points "
_FOUR_VOTES = "the majority of four samples in sequence, which take seven eighths of the tokens"
_FOUR_WAYS = "Four ways side by side, whose summary takes the majority, are at least 8.4 % (relative) more "
CLAIMS = (
    Claim(
        f"{_LATENCY}more accurate than sequential GRPO held to them",
        ("numbered", "sequential"), "accuracy_within", "above", 0.25, _OURS, {"budget": BUDGET},
    ),
    Claim(
        f"{_LATENCY}more accurate than sequential GRPO trained and evaluated within them",
        ("numbered", "sequential-held"), "accuracy_within", "above", 0.25, _OURS, {"budget": BUDGET},
    ),
    Claim(
        f"{_LATENCY}more accurate than a cold start on the tersest solutions in sequence",
        ("numbered", cold("terse")), "accuracy_within", "above", 0.25, _OURS, {"budget": BUDGET},
    ),
    Claim(
        "Held to a budget of critical path, six numbered paths reach 95 % of the lower accuracy with half of "
        "what sequential GRPO needs",
        ("numbered", "sequential"), "critical_path", "above", 2.0, _OURS, {"share": 0.95},
    ),
    Claim(
        "Without a budget, six numbered paths take at most half of the critical path of sequential GRPO",
        ("numbered", "sequential"), "mean_critical_path", "above", 2.0, _OURS,
    ),
    Claim(
        "Six numbered paths answer at least 1.7 times as fast as sequential GRPO, one problem at a time on "
        "one thread",
        ("numbered", "sequential"), "seconds", "above", 1.7, _OURS,
    ),
    Claim(
        "Without a budget, six numbered paths are no less accurate than sequential GRPO (to a point)",
        ("numbered", "sequential"), "accuracy", "above", -0.01, _OURS,
    ),
    Claim(
        f"{_FOUR_WAYS}accurate than sequential GRPO, by which the paper's causal arm is",
        ("votes", "products-sequential"), "accuracy_ratio", "above", 1.084, _OURS,
    ),
    Claim(
        f"{_FOUR_WAYS}accurate than sequential GRPO, where both answer greedily",
        ("votes", "products-sequential"), "accuracy_ratio", "above", 1.084, _OURS, {"score": "greedy"},
    ),
    Claim(
        f"{_FOUR_WAYS}accurate than sequential GRPO whose cold start saw as many tokens",
        ("votes", "products-sequential-longer"), "accuracy_ratio", "above", 1.084, _OURS,
    ),
    Claim(
        "After as many steps of cold start, four ways are at least 5 points more accurate than in sequence",
        (cold("votes"), cold("products-sequential")), "accuracy", "above", 0.05, _OURS,
    ),
    Claim(
        f"After as many steps of cold start, four ways are at least a point more accurate than {_FOUR_VOTES}",
        (cold("votes"), cold("products-sequential")), "over_votes", "above", 0.01, _OURS, {"votes": VOTES},
    ),
    Claim(
        f"After RL, four ways are at least a point more accurate than {_FOUR_VOTES}",
        ("votes", "products-sequential"), "over_votes", "above", 0.01, _OURS, {"votes": VOTES},
    ),
    Claim(
        f"After RL, four ways are at least a point more accurate than {_FOUR_VOTES}, where the cold start in "
        "sequence saw as many tokens",
        ("votes", "products-sequential-longer"), "over_votes", "above", 0.01, _OURS, {"votes": VOTES},
    ),
    Claim(
        "After RL, the summary of four ways is right as often as the majority of its paths (to a point)",
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
        "It is by what the number says: numbered paths are more accurate than with shares dealt by chance",
        (cold("six"), cold("six-shuffled")), "accuracy", "above", 0.0, _OURS,
    ),
    Claim(
        "Paths that begin with lines of a plan are as accurate as numbered ones (within 3 points)",
        (cold("six-planned"), cold("six")), "accuracy", "within", 0.03, _OURS,
    ),
    Claim(
        "Paths that begin with lines of a plan make valid blocks as often as numbered ones (within 3 points)",
        (cold("six-planned"), cold("six")), "parallel_ratio", "within", 0.03, _OURS,
    ),
    Claim(
        "Causal paths, which see each other, are as accurate without numbers or a plan (within 3 points)",
        (cold("six-causal"), cold("six")), "accuracy", "within", 0.03, _OURS,
    ),
    Claim(
        "Held to 64 tokens of critical path, six paths are more accurate than four",
        (cold("six"), cold("four")), "accuracy_within", "above", 0.0, _OURS, {"budget": BUDGET},
    ),
    Claim(
        "Held to 64 tokens of critical path, four paths are more accurate than two",
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
        ("causal", "structured-accuracy"), "accuracy", "above",
    ),
    Claim(
        "Causal is more accurate than structured, without a stage on easy problems in either",
        ("causal-no-easy", "structured-accuracy"), "accuracy", "above", 0.0, _OURS,
    ),
    *REWARD_CLAIMS,
    Claim(
        "RL that gives wrong paths of right answers no credit ends more accurate than RL that does",
        ("judged", "structured-accuracy"), "accuracy", "above", 0.0, _OURS,
    ),
    Claim(
        "RL that gives wrong paths of right answers no credit ends more accurate than RL that does, where "
        "blocks become frequent (a cold start of 280 steps)",
        ("taught-judged", "taught-credited"), "accuracy", "above", 0.0, _OURS,
    ),
    Claim(
        "RL that gives wrong paths of right answers no credit ends with paths that are right more often than "
        "RL that does, where blocks become frequent",
        ("taught-judged", "taught-credited"), "path_accuracy", "above", 0.0, _OURS,
    ),
    Claim(
        "Blocks move later in the response during RL (structured, accuracy alone, late blocks known)",
        ("structured-accuracy",), "block_position", "above",
    ),
    Claim(
        "Blocks move later in the response during RL (the same, from a cold start of 280 steps, after which "
        "blocks become frequent)",
        ("taught-accuracy",), "block_position", "above",
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
        "Scaffold: after the switch the parallel ratio falls by more than under the alternating reward",
        ("scaffold", "structured-alternating"), "ratio_after_switch_over", "below", 0.0, _OURS,
    ),
    Claim(
        "Scaffold ends more accurate than the alternating reward throughout",
        ("scaffold", "structured-alternating"), "accuracy", "above",
    ),
    Claim(
        "Scaffold that switches after a third of the steps ends more accurate than the alternating reward",
        ("scaffold-early", "structured-alternating"), "accuracy", "above", 0.0, _OURS,
    ),
    Claim(
        "Scaffold ends more accurate than accuracy alone throughout",
        ("scaffold", "structured-accuracy"), "accuracy", "above",
    ),
    Claim(
        "Accuracy alone makes blocks rare after a cold start of 120 steps, where answers with one are wrong "
        "more often",
        ("structured-accuracy", cold("anywhere")), "parallel_ratio", "below", 0.0, _OURS,
    ),
    Claim(
        "Accuracy alone makes blocks frequent after a cold start of 280 steps, where they are right as often",
        ("taught-accuracy", cold("anywhere-taught")), "parallel_ratio", "above", 0.0, _OURS,
    ),
    Claim(
        "After 280 steps of cold start, scaffold ends more accurate than accuracy alone throughout",
        ("taught-scaffold", "taught-accuracy"), "accuracy", "above", 0.0, _OURS,
    ),
    Claim(
        "After 280 steps of cold start, scaffold that switches after a third of the steps ends more accurate "
        "than accuracy alone throughout",
        ("taught-scaffold-early", "taught-accuracy"), "accuracy", "above", 0.0, _OURS,
    ),
    Claim(
        "After 280 steps of cold start, scaffold ends more accurate than the alternating reward throughout",
        ("taught-scaffold", "taught-alternating"), "accuracy", "above", 0.0, _OURS,
    ),
    Claim(
        "Blocks first (48 of 120 steps), then accuracy alone, ends more accurate than accuracy alone",
        ("blocks-first", "long-accuracy"), "accuracy", "above", 0.0, _OURS,
    ),
    Claim(
        "Blocks first, then accuracy alone, keeps blocks that accuracy alone gives up",
        ("blocks-first", "long-accuracy"), "parallel_ratio", "above", 0.0, _OURS,
    ),
    Claim(
        f"Blocks first, then accuracy alone, is more accurate than {_FOUR_VOTES}",
        ("blocks-first", "long-accuracy"), "over_votes", "above", 0.0, _OURS, {"votes": VOTES},
    ),
    Claim(
        "RL whose groups are mostly dead takes back what the cold start knew, at twice the recipe's rate",
        ("full-rate",), "rl_gain", "below", 0.0, _OURS,
    ),
    Claim(
        "At twice the recipe's rate, RL ends more accurate if a step's rate follows the share of live groups",
        ("live-rate", "full-rate"), "accuracy", "above", 0.0, _OURS,
    ),
    *(
        Claim(
            f"RL keeps what the cold start knew (to a point) with {what}",
            (arm,), "rl_gain", "above", -0.01, _OURS,
        )
        for arm, what in (
            ("live-rate", "a rate that follows the share of live groups"),
            ("low-rate", "a low rate throughout"),
            ("large-batch", "four times the batch, in a quarter of the steps"),
            ("dynamic-sampling", "batches of live groups alone, of up to four times the samples"),
            ("clipped", "a gradient clipped to a norm of 0.005"),
        )
    ),
    Claim(
        "Where six numbered paths divide the work, RL at five times the recipe's rate, whatever the share of "
        "live groups, takes back what the cold start knew",
        ("numbered-high-rate",), "rl_gain", "below", 0.0, _OURS,
    ),
    Claim(
        "Where six numbered paths divide the work, RL at the recipe's rate ends more accurate than at five "
        "times that, whatever the share of live groups",
        ("numbered", "numbered-high-rate"), "accuracy", "above", 0.0, _OURS,
    ),
    Claim(
        "At five times the recipe's rate, RL keeps what six numbered paths knew (to a point) if a step's "
        "rate follows the share of live groups",
        ("numbered-high-live-rate",), "rl_gain", "above", -0.01, _OURS,
    ),
)  # fmt: skip
"""Percentages in brackets, in the texts of the paper's claims, are its own (arXiv 2509.07980), of 4 B
parameters."""
