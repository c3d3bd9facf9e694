"""Accuracy at equal budgets: votes of several samples, responses held to a length, frontiers.

    grouped(answers)                     which answers are the same, in the order of the samples
    majority_at_k(samples, k)            the chance that the majority of k samples is right (maj@k)
    majorities(rows, k)                  the same for each problem
    votes(rows, k)                       their mean, with what k samples cost
    held_to(rows, budget, cost, k)       each problem's accuracy, of a response or of k that vote, within a
                                         budget: what is beyond it does not count
    smallest_budget(rows, accuracy, cost)   what an accuracy takes at least
    frontier(rows, cost)                 accuracy under every budget
    by_level(rows), chance(rows)         what all of these are looked at for, and held against

`rows` are samples as `runs.read_samples(run).to_pylist()` gives them, those of one mode: read are `index` or
`problem`, `answer`, `extracted`, `correct`, `verdict` and the cost, which is one of `COSTS`; of votes in
seconds also `sample` and `seconds_together`. Every function is pure; votes ask the checker of the rewards
what is the same.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from itertools import groupby
from math import comb, inf
from operator import itemgetter
from statistics import fmean
from typing import Any

from prl.analysis.decisions import vote_key
from prl.answers import default_checker

Row = Mapping[str, Any]

COSTS = {"critical_path": "critical path", "length": "total tokens", "seconds": "wall clock"}
"""Column of a sample -> what it is called. `seconds` is there where a problem was timed (`known`)."""

NOT_ASKED = "beyond context"
"""The verdict of a problem that left a response no room: its one row is no response, and not right."""


@dataclass(frozen=True)
class Votes:
    """Accuracy of the majority of k samples a problem, means over problems; `tokens` of all k together,
    `critical_path` of the longest of them, which is that of k samples decoded side by side."""

    accuracy: float
    tokens: float
    critical_path: float


def votes(rows: Iterable[Row], k: int) -> Votes:
    """Self-consistency (arXiv 2203.11171) with k samples (`majority_at_k`), and what these cost.

    ValueError: a problem has fewer than k samples, or there is none. The cost is that of problems that were
    asked.
    """
    listed = list(rows)
    problems = [*_problems(asked(listed)).values()]
    if not problems:
        raise ValueError("no samples to vote: evaluate with --samples")
    return Votes(
        fmean(majorities(listed, k).values()),
        fmean(k * fmean(row["length"] for row in each) for each in problems),
        fmean(longest_of_k([row["critical_path"] for row in each], k) for each in problems),
    )


def majorities(rows: Iterable[Row], k: int) -> dict[Any, float]:
    """Problem -> `majority_at_k` of its samples. ValueError: it has fewer than k."""
    return held_to(rows, inf, votes=k)


def majority_at_k(samples: Sequence[tuple[str | None, float]], k: int) -> float:
    """The chance that the majority of k of these `samples`, (answer, whether it is right), is right.

    Answers are `grouped`, the largest group wins, of several as large the one that began earlier, and it is
    right where its first answer is. Who states no answer (None) has no vote, and without a vote the answer is
    wrong. With fewer k than samples it is the mean over all ways to draw k of them, one after another and
    without replacement: what resampling comes to, exactly. Of groups that tie, each then began earlier as
    often as the others. ValueError for fewer samples than k.

    >>> right, wrong = ("7", 1.0), ("8", 0.0)
    >>> majority_at_k([right, right, wrong], 3), majority_at_k([right, right, wrong], 2)
    (1.0, 0.6666666666666666)
    >>> majority_at_k([right, wrong], 2), majority_at_k([wrong, right], 2)
    (1.0, 0.0)
    """
    if not 1 <= k <= len(samples):
        raise ValueError(f"k {k} must be between 1 and the {len(samples)} samples of a problem")
    groups = grouped(tuple(answer for answer, _ in samples))
    if k == len(samples):
        return float(samples[max(groups, key=len)[0]][1]) if groups else 0.0
    counts = tuple(sorted(map(len, groups)))
    silent = len(samples) - sum(counts)
    wins = {count: _wins(count, counts, silent, k) for count in set(counts)}
    return sum(fmean(samples[place][1] for place in group) * wins[len(group)] for group in groups)


@lru_cache(maxsize=8192)
def grouped(answers: tuple[str | None, ...]) -> tuple[tuple[int, ...], ...]:
    r"""The places of the answers in groups of what is the same, in order; None is in none.

    Each joins the first group whose first answer it equals, as the checker of the rewards judges that. What
    the checker once gave up on joins what reads alike, and nothing else: it costs its time-out once.

    >>> grouped(("0.5", "8", None, r"\frac12", "8.0"))
    ((0, 3), (1, 4))
    """
    groups: list[list[int]] = []
    firsts: list[_First] = []
    joined: dict[str, int] = {}
    for place, answer in enumerate(answers):
        if answer is None:
            continue
        if answer not in joined:
            new = _First(answer, vote_key(answer))
            joined[answer] = next((at for at, first in enumerate(firsts) if first.equals(new)), len(firsts))
            if joined[answer] == len(firsts):
                firsts.append(new)
                groups.append([])
        groups[joined[answer]].append(place)
    return tuple(map(tuple, groups))


@dataclass
class _First:
    """The first answer of a group, or one that looks for its group."""

    text: str
    key: Hashable
    given_up: bool = False

    def equals(self, other: _First) -> bool:
        if self.key == other.key:
            return True
        numbers = isinstance(self.key, Fraction) and isinstance(other.key, Fraction)
        if numbers or self.given_up or other.given_up:
            return False
        verdict = default_checker().check(other.text, self.text)
        other.given_up = verdict.reason in ("timed out", "crashed")
        return verdict.equal


@lru_cache(maxsize=4096)
def _wins(own: int, counts: tuple[int, ...], silent: int, k: int) -> float:
    """The chance that k samples choose an answer that `own` of them state, where other answers are stated as
    often as `counts` say (one of which is `own`) and `silent` samples state none."""
    others = list(counts)
    others.remove(own)
    total = 0.0
    for most in range(1, min(own, k) + 1):
        # (samples drawn so far, other answers with `most` votes) -> in how many ways
        ways = Counter(
            {
                (most + taken, 0): comb(own, most) * comb(silent, taken)
                for taken in range(min(silent, k - most) + 1)
            }
        )
        for count in others:
            further: Counter[tuple[int, int]] = Counter()
            for (drawn, tied), number in ways.items():
                for taken in range(min(count, most, k - drawn) + 1):
                    further[drawn + taken, tied + (taken == most)] += number * comb(count, taken)
            ways = further
        total += sum(number / (1 + tied) for (drawn, tied), number in ways.items() if drawn == k)
    return total / comb(sum(counts) + silent, k)


def longest_of_k(values: Sequence[float], k: int) -> float:
    """The mean of the largest of k of these values, over all ways to draw them.

    >>> longest_of_k([1, 2, 3], 2)
    2.6666666666666665
    """
    ranked = sorted(values)
    ways = sum(value * comb(below, k - 1) for below, value in enumerate(ranked))
    return ways / comb(len(ranked), k)


def held_to(
    rows: Iterable[Row], budget: float, cost: str = "critical_path", votes: int = 1
) -> dict[Any, float]:
    """Problem -> share of its responses that are right and cost no more than `budget`.

    What a model would be right in that is cut off there. One that is told of its budget, or trained to it,
    may do better.

    Of several `votes`: `majority_at_k` of responses that are cut off there, which then have no vote. Each has
    all of the critical path, as they are decoded side by side, and an equal share of the tokens. A vote takes
    the `seconds_together` of so many samples, and counts as wrong where they are more; ValueError where a
    problem does not know them (`known`), or has fewer samples than votes.
    """
    return {problem: _held(each, budget, cost, votes) for problem, each in _problems(rows).items()}


def known(rows: Iterable[Row], cost: str, votes: int = 1) -> list[Row]:
    """The rows of problems whose cost is known, of so many votes: all for tokens, for seconds the timed."""
    return [row for each in _problems(rows).values() if _knows(each, cost, votes) for row in each]


def asked(rows: Iterable[Row]) -> list[Row]:
    """The rows that are responses, without those of problems that were not asked."""
    return [row for row in rows if row.get("verdict") != NOT_ASKED]


def spent(rows: Iterable[Row], cost: str, votes: int = 1) -> list[float]:
    """What each response costs, or each vote of so many: in tokens so many times a response, in critical path
    as much, and in seconds what they took together; of problems where that is known."""
    responses = asked(rows)
    if cost == "seconds" and votes > 1:
        return [seconds for row in responses if (seconds := _together(row, votes)) is not None]
    times = votes if cost == "length" else 1
    return [times * row[cost] for row in responses if row.get(cost) is not None]


def smallest_budget(rows: Iterable[Row], accuracy: float, cost: str = "critical_path") -> float | None:
    """The least budget under which responses reach an accuracy; None where none does."""
    return next((budget for budget, reached in frontier(rows, cost) if reached >= accuracy), None)


def frontier(rows: Iterable[Row], cost: str = "critical_path") -> list[tuple[float, float]]:
    """(budget, accuracy of responses held to it), at each budget at which one more response is right. Each
    problem counts once, however many responses it has.

    >>> shorter, longer = {"correct": 1.0, "length": 9}, {"correct": 1.0, "length": 30}
    >>> frontier([longer, shorter, {"correct": 0.0, "length": 12}, {"correct": 0.0, "length": 4}], "length")
    [(9, 0.25), (30, 0.5)]
    """
    problems = [*_problems(rows).values()]
    shares = (
        (row[cost], Fraction(1, len(each) * len(problems)))
        for each in problems
        for row in each
        if row["correct"]
    )
    points, reached = [], Fraction(0)
    for budget, same in groupby(sorted(shares), key=itemgetter(0)):
        reached += sum((share for _, share in same), Fraction(0))
        points.append((budget, float(reached)))
    return points


def mean_over_problems(rows: Iterable[Row], name: str) -> float:
    """The mean of a column over problems, of its mean over the responses of each."""
    return fmean(fmean(row[name] for row in each) for each in _problems(rows).values())


def by_level(rows: Iterable[Row]) -> dict[str, list[Row]]:
    """Level of the problem -> its rows, the lowest first; none where problems have no levels."""
    found: dict[float, list[Row]] = {}
    for row in rows:
        if row.get("level") is not None:
            found.setdefault(row["level"], []).append(row)
    return {f"{level:g}": found[level] for level in sorted(found)}


def chance(rows: Iterable[Row]) -> float:
    """What one would score who gave the commonest answer to every problem."""
    golds = Counter(vote_key(str(each[0]["answer"])) for each in _problems(rows).values())
    return max(golds.values()) / golds.total()


def problem_of(row: Row) -> Any:
    """Which problem a row is of: its place among all, or its text where that is not known, so that a problem
    that a data set holds twice is two."""
    return row.get("problem") if row.get("index") is None else row["index"]


def _problems(rows: Iterable[Row]) -> dict[Any, list[Row]]:
    """The samples of each problem."""
    found: dict[Any, list[Row]] = {}
    for row in rows:
        found.setdefault(problem_of(row), []).append(row)
    return found


def _within(row: Row, budget: float, cost: str) -> float:
    return float(bool(row["correct"]) and row[cost] <= budget)


def _held(each: Sequence[Row], budget: float, cost: str, k: int) -> float:
    """`held_to` of the samples of one problem."""
    if k == 1:
        return fmean(_within(row, budget, cost) for row in each)
    responses = asked(each)
    if not responses:
        return 0.0
    if cost == "seconds":
        took = [seconds for row in each if (seconds := _together(row, k)) is not None]
        if not took:
            raise ValueError(f"it is not known how many seconds {k} votes take: evaluate with --latency")
        voted = majority_at_k([(row.get("extracted"), row["correct"]) for row in responses], k)
        return voted * fmean(seconds <= budget for seconds in took)
    own = budget / k if cost == "length" else budget
    return majority_at_k(
        [(row.get("extracted") if row[cost] <= own else None, _within(row, own, cost)) for row in responses],
        k,
    )


def _knows(each: Sequence[Row], cost: str, votes: int) -> bool:
    if cost != "seconds" or votes == 1 or not asked(each):
        return all(row.get(cost) is not None for row in each)
    return bool(spent(each, cost, votes))


def _together(row: Row, votes: int) -> float | None:
    """The seconds of the first so many samples side by side, which the last of them has."""
    return row.get("seconds_together") if row.get("sample") == votes - 1 else None
