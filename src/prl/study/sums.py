"""The study `sums`: the paper's arms and two of ours on sums, which the base solves in a line.

Nothing is left to explore there: it is the setting in which parallel thinking costs, and is kept for that.
"""

from __future__ import annotations

from prl.study.design import (
    BASE,
    BLACK,
    BLUE,
    GREEN,
    PINK,
    RED,
    REWARD_CLAIMS,
    Arm,
    Claim,
    Design,
    Part,
    Setup,
    Table,
)

# An instruction takes up to five times the tokens of the problems themselves; the two are compared with each
# other only.
_PROMPTED = {"sft": {"max_steps": 100}, "rl": {"max_steps": 15}}


def _arm(name: str, cold_start: str | None, early_percent: int | None = None) -> Arm:
    """An arm that its overlay of the same name says all of."""
    sizes = _PROMPTED if name.endswith("-prompt") else {}
    return Arm(Setup(name, sizes=sizes), cold_start, early_percent)


_COLD_STARTS = {
    "causal": "causal",
    "structured": "structured-accuracy",
    "causal-plain-prompt": "plain-prompt",
    "causal-parallel-prompt": "parallel-prompt",
}
"""Cold start -> the arm whose recipe makes it; those of the other arms that begin with it say the same."""

_ARMS = {
    "sequential": _arm("sequential", None),
    "causal": _arm("causal", "causal"),
    "causal-no-easy": _arm("causal-no-easy", "causal"),
    "structured-accuracy": _arm("structured-accuracy", "structured"),
    "structured-alternating": _arm("structured-alternating", "structured"),
    "parallel-only": _arm("parallel-only", "structured"),
    "tiered-only": _arm("tiered-only", "structured"),
    "scaffold": _arm("scaffold", "structured"),
    "plain-prompt": _arm("plain-prompt", "causal-plain-prompt"),
    "parallel-prompt": _arm("parallel-prompt", "causal-parallel-prompt"),
    "uniform": _arm("uniform", "structured", 70),
    "adaptive": _arm("adaptive", "structured", 70),
}

_CLAIMS = (
    Claim(
        "Causal parallel thinking is more accurate than GRPO without it (48.9 against 45.1 %)",
        ("causal", "sequential"), "accuracy", "above",
    ),
    Claim(
        "RL on easy problems first makes causal more accurate (48.9 against 46.6 % without)",
        ("causal", "causal-no-easy"), "accuracy", "above",
    ),
    Claim(
        "Causal is more accurate than structured (48.9 against 47.1 %)",
        ("causal", "structured-accuracy"), "accuracy", "above",
    ),
    *REWARD_CLAIMS,
    Claim(
        "Blocks move later in the response during RL (all arms with blocks)",
        (), "block_position", "above",
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
        "A prompt that asks for parallel thinking and a plain one are close (within 3 points of accuracy)",
        ("parallel-prompt", "plain-prompt"), "accuracy", "within", 0.03, "authors' 4B checkpoint",
    ),
    Claim(
        "Adaptive difficulty at least halves the share of dead groups of uniform sampling",
        ("adaptive", "uniform"), "dead_groups", "below", 0.5, "prl",
    ),
    Claim(
        "Adaptive difficulty reaches uniform sampling's final accuracy in 70 % of the steps",
        ("adaptive", "uniform"), "early_accuracy", "above", 0.0, "prl",
    ),
)  # fmt: skip
"""The numbers in the texts are the paper's (arXiv 2509.07980), at 4 B parameters on other problems."""

_LEVEL_ARMS = ("uniform", "adaptive")

SUMS = Design(
    name="sums",
    title="The paper's experiments in miniature, on sums",
    intro=(
        "What Parallel-R1 (arXiv 2509.07980) found with 4 B parameters on competition mathematics, held "
        "against the model and the problems of this study: compare directions, not sizes."
    ),
    recipe="tiny",
    arms=_ARMS,
    cold_starts={name: _ARMS[arm].setup for name, arm in _COLD_STARTS.items()},
    bases={BASE: _ARMS["sequential"].setup},
    parts={
        "causal": Part(("sequential", "causal", "causal-no-easy")),
        "structured": Part(("structured-accuracy", "structured-alternating", "parallel-only", "tiered-only")),
        "levels": Part(("scaffold", *_LEVEL_ARMS)),
        "prompts": Part(("plain-prompt", "parallel-prompt")),
    },
    tables=(
        Table(
            "accuracy and parallel ratio of all arms",
            (
                BASE,
                *(f"cold start {name}" for name in sorted(_COLD_STARTS)),
                *(name for name in _ARMS if name not in _LEVEL_ARMS),
            ),
            "sequential",
        ),
    ),
    claims=_CLAIMS,
    quick={
        "sft": {"limit": 64, "max_steps": 2},
        "rl": {"limit": 256, "max_steps": 4, "max_completion_length": 32},
        "eval": {"limit": 8, "samples": 2, "max_completion_length": 32},
    },
    reward_arms=("structured-accuracy", "parallel-only", "tiered-only", "structured-alternating"),
    level_arms=_LEVEL_ARMS,
    panels={
        "causal": {"causal": BLUE, "causal-no-easy": RED, "plain-prompt": GREEN, "parallel-prompt": PINK},
        "structured": {
            "structured-accuracy": BLUE,
            "structured-alternating": RED,
            "scaffold": GREEN,
            "parallel-only": PINK,
            "tiered-only": BLACK,
        },
        "structured, levels 1 to 6": {"uniform": BLUE, "adaptive": RED},
    },
    scaffold_panel={"structured-accuracy": BLUE, "structured-alternating": RED, "scaffold": GREEN},
    frontiers={
        "": ("sequential", "causal", "structured-accuracy", "structured-alternating", "parallel-only")
    },
    paper={
        "sequential": (45.1, None),
        "causal": (48.9, 27.3),
        "causal-no-easy": (46.6, None),
        "structured-accuracy": (47.1, 13.6),
        "structured-alternating": (46.8, 63.0),
        "parallel-only": (None, 80.0),
    },
)
