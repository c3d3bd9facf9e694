"""The figures of an evaluation, which its results.json calls `metrics` and `levels`.

    metrics(groups)     accuracy, pass@k, maj@k, parallel ratio, lengths: means over problems, with intervals
    levels(rows)        accuracy, lengths and chance on each level
    verdicts(rows)      how many responses were judged so, for each reason

Samples are rows as `runs.read_samples(run).to_pylist()` gives them, those of one mode of decoding: read are
`extracted`, `correct`, `verdict`, `text`, `truncated`, `faults`, `length`, `critical_path`, `level`.
Intervals are percentile bootstraps over problems (of shares `prl.statistics.of_shares`), because the samples
of one problem are not independent of each other.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict
from statistics import fmean
from typing import Any

from prl.analysis.budgets import Row, asked, by_level, chance, held_to, majority_at_k
from prl.analysis.shapes import mean
from prl.grammar import parse
from prl.statistics import Estimate, bootstrap, of_shares, pass_at_k

_KS = (2, 4, 8, 16, 32, 64)  # of pass@k and maj@k, as far as there are samples
_NO_SHARES = ("tokens", "critical_path")


def metrics(
    groups: Sequence[Sequence[Row]], path_opening: str = "none", *, resamples: int = 1000, seed: int = 0
) -> dict[str, Estimate]:
    """Each metric by its name. `groups` are the samples of each problem, as many for each; a problem without
    any was not asked: it is not solved, and in nothing but the accuracy.

    accuracy         share of right samples: mean@k, as in Parallel-R1's tables
    pass@k           chance that one of k samples is right (Chen et al., arXiv 2107.03374, unbiased)
    maj@k            chance that the majority of k samples is (`prl.analysis.budgets.majority_at_k`)
    parallel_ratio   share of responses with a valid block, whose paths begin with `path_opening`
    format_valid, truncated, tokens, critical_path
    """
    answered = [group for group in groups if group]
    count = len(answered[0])
    stated = [[(row["extracted"], bool(row["correct"])) for row in group] for group in groups]
    verdicts = [group or [(None, False)] * count for group in stated]
    right = [[verdict for _, verdict in group] for group in verdicts]

    def means(of: Callable[[Row], float]) -> list[float]:
        return [fmean(map(of, group)) for group in answered]

    def is_parallel(row: Row) -> bool:
        return parse(row["text"], truncated=row["truncated"], opening=path_opening).uses_parallel

    by_problem = {
        "accuracy": [fmean(group) for group in right],
        **{f"pass@{k}": [pass_at_k(count, sum(each), k) for each in right] for k in _KS if k <= count},
        **{f"maj@{k}": [majority_at_k(group, k) for group in verdicts] for k in voters(count)},
        "parallel_ratio": means(is_parallel),
        "format_valid": means(lambda row: not row["faults"]),
        "truncated": means(lambda row: row["truncated"]),
        "tokens": means(lambda row: row["length"]),
        "critical_path": means(lambda row: row["critical_path"]),
    }
    return {
        name: (bootstrap if name in _NO_SHARES else of_shares)(values, resamples=resamples, seed=seed)
        for name, values in by_problem.items()
    }


def voters(count: int) -> list[int]:
    """The k of maj@k where a problem has `count` samples; a vote of two is as good as one of them.

    >>> voters(9)
    [4, 8]
    """
    return [k for k in _KS if 2 < k <= count]


def verdicts(rows: Sequence[Row]) -> dict[str, int]:
    """Reason of a verdict -> responses that were judged so, the commonest first."""
    found = Counter(str(row["verdict"]) for row in rows)
    return {reason: found[reason] for reason in sorted(found, key=lambda each: (-found[each], each))}


def levels(rows: Sequence[Row], *, resamples: int = 1000, seed: int = 0) -> dict[str, dict[str, Any]]:
    """Level -> problems, accuracy, mean tokens and critical path of the responses (None where no problem was
    asked), and what giving the commonest answer to all would score (`chance`); empty where problems have no
    levels."""
    found = {}
    for level, samples in by_level(rows).items():
        accuracy, responses = held_to(samples, float("inf")), asked(samples)
        found[level] = {
            "problems": len(accuracy),
            "accuracy": asdict(of_shares([*accuracy.values()], resamples=resamples, seed=seed)),
            "tokens": mean(row["length"] for row in responses),
            "critical_path": mean(row["critical_path"] for row in responses),
            "chance": chance(samples),
        }
    return found
