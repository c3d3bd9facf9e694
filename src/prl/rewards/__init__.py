"""Reward functions with TRL's signature, for prl's own RL stage and for anyone's `GRPOTrainer`.

    GRPOTrainer(reward_funcs=[accuracy_reward, format_reward, ParallelReward()], ...)
    GRPOTrainer(reward_funcs=list(reward_functions(["accuracy", "diversity"]).values()), ...)

    name              pays                                                                        range
    accuracy          the right answer                                                            −1, 1
    format            no fault of format                                                          0, 1
    parallel          the right answer with a valid block                                         −1, 1
    bonus             accuracy, and ½ for a valid block                                           −1 … 1.5
    tiered            the right answer, more with blocks, not in a malformed trace                −1, 1, 1.2
    alternating       one of the others, by the step                                              theirs
    diversity         paths that share few n-grams: − self-BLEU                                   −1 … 0
    set_diversity     paths that share few words                                                  0 … 1
    efficiency        what decoding the paths side by side saves                                  0 … 1
    gated_efficiency  the same, where the answer is right and the format has no fault             0 … 1
    overlong          responses that keep away from the length limit                              −1 … 0

A new one is written beside its like (`outcomes`, `experimental`) and entered in `catalogue` and the table.
`bonus` and all from `diversity` on but `gated_efficiency` are experimental (`EXPERIMENTAL`): no shipped
recipe or overlay uses them, and so no arm of the study.

Rewards that judge the answer need a column `answer`, the gold one, which `prl.answers` compares with the
response's. Completions are strings or conversations. Only they are read: tags and answers in a prompt count
for nothing. All take time linear in the length of a response.

Each function writes columns of its own to TRL's table of completions (`log_extra`): TRL extends a column at
every call, so two functions writing the same one would tear the table. Shares of the batch go to its metrics.

What a path says is not judged: `<Path>.</Path>` is a path. Diversity and efficiency alone are best paid by
nonsense; give them a small weight (`reward_weights`) beside a reward that judges the answer.
"""

from prl.rewards.alternating import ALTERNATING, AlternatingReward, Pattern, read_pattern
from prl.rewards.by_name import reward_functions
from prl.rewards.catalogue import EXPERIMENTAL, REWARDS
from prl.rewards.experimental import (
    BonusReward,
    EfficiencyReward,
    OverlongReward,
    diversity_reward,
    set_diversity_reward,
)
from prl.rewards.outcomes import ParallelReward, TieredReward, accuracy_reward, format_reward
from prl.rewards.responses import Completion, Reward, text_of

__all__ = [
    "ALTERNATING",
    "EXPERIMENTAL",
    "REWARDS",
    "AlternatingReward",
    "BonusReward",
    "Completion",
    "EfficiencyReward",
    "OverlongReward",
    "ParallelReward",
    "Pattern",
    "Reward",
    "TieredReward",
    "accuracy_reward",
    "diversity_reward",
    "format_reward",
    "read_pattern",
    "reward_functions",
    "set_diversity_reward",
    "text_of",
]
