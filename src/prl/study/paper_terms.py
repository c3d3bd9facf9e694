"""What the arms and cold starts of the study `paper-mini` are, in a line each."""

from __future__ import annotations

from collections.abc import Mapping

from prl.study.design import BASE, cold

_REWARDED = "RL of 24 steps from `cold start anywhere`, structured; rewarded: "
_TAUGHT = "RL of 24 steps from `cold start anywhere-taught`, structured; rewarded: "
_RISKY = "RL from `cold start harm` at 2e-4, twice the recipe's rate"
_FAST = "RL of 24 steps from `cold start rate` at 5e-4, five times the recipe's rate"
_SIX = "*which*, 120 steps on traces with six paths"

TERMS: Mapping[str, str] = {
    BASE: "the model that ships, which solves *which* in sequence and has seen no tag",
    cold("sequential"): "*which*, sequential solutions",
    "sequential": "RL from there by accuracy alone: sequential GRPO",
    "sequential-held": "the same, trained and evaluated with at most 64 tokens in a response",
    cold("terse"): "*which*, sequential solutions with nothing but what each step comes to",
    cold("numbered"): "*which*, six paths, each begun by its number, which try one sum each",
    "numbered": "RL from there by accuracy alone",
    cold("six"): f"{_SIX}, begun by their numbers",
    cold("six-unnumbered"): f"{_SIX} that nothing tells apart",
    cold("six-shuffled"): f"{_SIX}, numbered, where chance deals out the sums",
    cold("six-planned"): (
        "*which*, 120 steps on traces whose main thread writes a plan, a line for each sum, and which have a "
        "path for each line, begun by it"
    ),
    cold("six-causal"): f"{_SIX} without numbers, written one after another, each seeing those before",
    cold("two"): "*which*, 120 steps on traces with two numbered paths, which share the sums",
    cold("four"): "*which*, 120 steps on traces with four numbered paths, which share the sums",
    "base-products": "the model that ships, on *products*",
    cold("products-sequential"): "*products*, 280 steps on sequential solutions",
    "products-sequential": "RL from there by accuracy alone: sequential GRPO",
    cold("products-sequential-longer"): "*products*, sequential solutions with as many tokens as `votes` saw",
    "products-sequential-longer": "RL from there by accuracy alone",
    cold(
        "votes"
    ): "*products*, 280 steps on traces with four paths, one a way to multiply, and a summary that "
    "takes the majority; wrong paths are context, not targets",
    "votes": "RL from there by accuracy alone",
    cold("anywhere"): "*products*, 120 steps on traces half of which are in sequence, blocks early and late",
    "structured-accuracy": f"{_REWARDED}accuracy alone",
    "structured-alternating": f"{_REWARDED}accuracy, and in turn more for a right answer with a block",
    "parallel-only": f"{_REWARDED}right answers with a valid block, and nothing else",
    "tiered-only": f"{_REWARDED}1.2 for a right answer with a block, 1.0 for another, at every step",
    "gated-efficiency": f"{_REWARDED}accuracy, and of right answers the share off the critical path",
    "judged": "`structured-accuracy` where wrong paths of right answers get no credit",
    "scaffold-early": "alternating for the first third of the steps, then accuracy alone",
    "scaffold": "alternating for two thirds of the steps, then accuracy alone",
    cold("anywhere-taught"): "`cold start anywhere` with 280 steps",
    "taught-accuracy": f"{_TAUGHT}accuracy alone",
    "taught-alternating": f"{_TAUGHT}alternating",
    "taught-scaffold-early": f"{_TAUGHT}alternating for a third of the steps, then accuracy alone",
    "taught-scaffold": f"{_TAUGHT}alternating for two thirds of the steps, then accuracy alone",
    cold("wrong-paths"): "`cold start anywhere-taught` once more",
    "taught-credited": "`taught-accuracy` from there",
    "taught-judged": "the same where wrong paths of right answers get no credit",
    "long-accuracy": "RL of 120 steps from `cold start anywhere` by accuracy alone",
    "blocks-first": "the same, paid for right answers with a block for the first 48 steps",
    cold("anywhere-causal"): "`cold start anywhere` with paths written one after another, without numbers",
    "causal": "RL from there: on easy problems for right answers with a block, then on all for accuracy",
    "causal-no-easy": "RL from there on all problems for accuracy alone",
    cold("never-late"): "`cold start anywhere` with blocks at the beginning of a response alone, none late",
    "never-late": "RL from there by accuracy alone",
    cold("harm"): "`cold start votes` once more",
    "full-rate": f"{_RISKY}, 24 steps",
    "live-rate": f"{_RISKY}, times the share of groups that are live: those whose rewards differ",
    "low-rate": "RL from `cold start harm` at 3e-5",
    "large-batch": f"{_RISKY}, 6 steps of four times the batch",
    "dynamic-sampling": f"{_RISKY}, on live groups alone, of up to four times the samples",
    "clipped": f"{_RISKY}, the norm of a gradient clipped to 0.005",
    cold("rate"): "`cold start numbered` once more",
    "numbered-high-rate": f"{_FAST}, whatever the share of live groups",
    "numbered-high-live-rate": f"{_FAST}, times the share of live groups",
}
