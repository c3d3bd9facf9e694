"""How surely a number is known: means with 95 % intervals, differences, pass@k.

    bootstrap, paired_difference     of one model or two: problems are resampled, never the samples of one
    of_shares                        the same of shares of right answers, which may all be 0 or 1
    student                          of several seeds: Student's t, what a study reports
    welch                            the difference of two methods whose seeds are not the same: Welch's t
    over_seeds                       the same by a bootstrap, for a single seed or a look at its problems
    median                           of times, which have outliers

How often those over seeds hold the truth of few is measured by `benchmarks/intervals.py`. Everything is
seeded: the same figures give the same interval, to the last digit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from math import comb, exp, inf, lgamma, pi, tan
from statistics import NormalDist, fmean, variance
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

Units = Mapping[int, Mapping[Any, float]]
"""Seed -> unit (a problem, a step) -> its value."""

FEWEST_DIFFERING = 6
"""Problems that must differ before two models do: the fewest of which a sign test can tell it, at 5 %."""

SEED_RESAMPLES = 2000
_LEGENDRE = np.polynomial.legendre.leggauss(64)


@dataclass(frozen=True)
class Estimate:
    """A mean with its 95 % bootstrap interval. As a string it is a share; a format is that of each number.

    >>> found = Estimate(0.5, 0.25, 0.75)
    >>> print(found, f"{found:+.2f}", sep=", ")
     50.0%  [25.0%, 75.0%], +0.50 [+0.25, +0.75]
    """

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:6.1%}  [{self.low:.1%}, {self.high:.1%}]"

    def __format__(self, form: str) -> str:
        return f"{self.mean:{form}} [{self.low:{form}}, {self.high:{form}}]" if form else str(self)


@dataclass(frozen=True)
class SeedEstimate(Estimate):
    """A mean over seeds with its 95 % interval, and the value of each seed alone; `wider` is the interval of
    99 %, where there are seeds enough for one."""

    seeds: dict[int, float]
    wider: tuple[float, float] | None = None


E = TypeVar("E", bound=Estimate)


def bootstrap(values: Sequence[float] | Floats, *, resamples: int = 1000, seed: int = 0) -> Estimate:
    """Mean of `values` (one a problem) and its 95 % percentile interval over resampled problems."""
    data = np.asarray(values, dtype=float)
    draws = _resampled(data, resamples, seed)
    return _estimate(data.mean(), draws if resamples else data.mean(keepdims=True))


def of_shares(values: Sequence[float] | Floats, *, resamples: int = 1000, seed: int = 0) -> Estimate:
    """`bootstrap` of shares of what is 0 or 1, one a problem. Where all are 0, or all 1, it has nothing to
    resample, and the interval is the exact one of so many problems: 1 − 0.025^(1/n) wide (Clopper and Pearson
    1934).

    >>> print(of_shares([1.0] * 64))
    100.0%  [94.4%, 100.0%]
    """
    found, count = bootstrap(values, resamples=resamples, seed=seed), len(values)
    if not resamples or 0.0 < found.mean < 1.0:
        return found
    bound = 0.025 ** (1 / count)
    return replace(found, low=bound) if found.mean else replace(found, high=1 - bound)


def paired_difference(
    before: Sequence[float], after: Sequence[float], *, resamples: int = 1000, seed: int = 0
) -> Estimate:
    """Mean gain of `after` over `before`, shares of what is right of the same problems, with its paired 95 %
    bootstrap interval, which holds 0 where few problems differ (`told_apart`). Where none does, it has
    nothing to resample, and reaches as far to either side as the interval of as many that are alike
    (`of_shares`).

    >>> print(f"{paired_difference([1.0] * 64, [1.0] * 64):+.1%}")
    +0.0% [-5.6%, +5.6%]
    """
    gains = [b - a for a, b in zip(before, after, strict=True)]
    if resamples and not any(gains):
        bound = 1 - 0.025 ** (1 / len(gains))
        return Estimate(0.0, -bound, bound)
    return told_apart(bootstrap(gains, resamples=resamples, seed=seed), gains)


def told_apart(found: E, gains: Iterable[float]) -> E:
    """The mean of paired `gains` as it was `found`; where fewer than `FEWEST_DIFFERING` are not 0, so wide
    that it holds 0: a bootstrap of them would not, though all of so few have one sign by chance.

    >>> told_apart(Estimate(0.75, 0.25, 1.0), [1, 1, 1, 0])
    Estimate(mean=0.75, low=0.0, high=1.0)
    """
    if sum(gain != 0 for gain in gains) >= FEWEST_DIFFERING:
        return found
    return replace(found, low=min(found.low, 0.0), high=max(found.high, 0.0))


def unpaired_difference(before: Floats, after: Floats, *, resamples: int = 1000, seed: int = 0) -> Estimate:
    """Mean of `after` minus that of `before`, two independent samples, with its 95 % bootstrap interval."""
    draws = _resampled(after, resamples, seed + 1) - _resampled(before, resamples, seed)
    return _estimate(after.mean() - before.mean(), draws)


def over_seeds(of: Callable[..., Any], *parts: Units) -> SeedEstimate | None:
    """`of` applied to the mean of each part, with a 95 % interval; None where no seed has all parts.

    The mean of a part is that over seeds of the mean over their units. The interval is a percentile bootstrap
    on two levels. Units get random weights (the Bayesian bootstrap of Rubin 1981, in which no resample leaves
    a part empty), the same unit alike in all parts and seeds, because all answered the same problems. Seeds
    are drawn with replacement; their deviations are scaled by √(n / (n − 1)), by which the spread of n draws
    falls short. With one seed, the interval knows of its units only.

    In simulation with 3 seeds it holds the truth in 99 % of the cases while seeds differ no more than their
    problems make them, but in 84 % where they differ far more: there, look at the seeds, or at `student`.
    """
    seeds = _common_seeds(parts)
    if not seeds:
        return None
    units = dict.fromkeys(unit for part in parts for seed in seeds for unit in part[seed])
    row = {unit: index for index, unit in enumerate(units)}
    rng = np.random.default_rng(0)
    weights = rng.standard_exponential((SEED_RESAMPLES, len(row)))
    drawn = rng.integers(0, len(seeds), (SEED_RESAMPLES, len(seeds)))
    widen = (len(seeds) / (len(seeds) - 1)) ** 0.5 if len(seeds) > 1 else 1.0
    exact, resampled = [], []
    for part in parts:
        values, present = np.zeros((2, len(row), len(seeds)))
        for column, seed in enumerate(seeds):
            at = [row[unit] for unit in part[seed]]
            values[at, column] = [*part[seed].values()]
            present[at, column] = 1
        means = (weights @ values) / (weights @ present)  # resamples × seeds
        centre = means.mean(axis=1)
        spread = widen * (np.take_along_axis(means, drawn, axis=1).mean(axis=1) - centre)
        seen = values[present > 0]
        resampled.append(np.clip(centre + spread, seen.min(), seen.max()))
        exact.append(values.sum(axis=0) / present.sum(axis=0))
    found = _estimate(of(*(means.mean() for means in exact)), of(*resampled))
    by_seed = dict(zip(seeds, map(float, of(*exact)), strict=True))
    return SeedEstimate(found.mean, found.low, found.high, by_seed)


def student(
    of: Callable[..., Any],
    *parts: Units,
    bounds: tuple[float, float] = (-inf, inf),
    drawn_units: bool = False,
) -> SeedEstimate | None:
    """The mean over seeds of `of`, applied to the mean of each part, with Student's 95 and 99 % intervals.

    Seeds are few, so the interval is that of their number less one degrees of freedom: wide with three (4.3
    standard errors), less so with five (2.8), and right however far they differ. With `drawn_units`, the
    units of the first part are a sample too, as problems are and steps are not: what the same units have in
    common in several seeds adds its variance, with degrees of freedom by Satterthwaite. None where no seed
    has all parts; of one seed alone what `over_seeds` says, which knows of its units only, and where a part
    is one unit, of which nothing is known, the `bounds`. No interval goes beyond them.
    """
    seeds = _common_seeds(parts)
    if len(seeds) < 2:
        found = over_seeds(of, *parts)
        is_known = all(len(part[seed]) > 1 for part in parts for seed in seeds)
        return found if not found or is_known else replace(found, low=bounds[0], high=bounds[1])
    by_seed = {seed: float(of(*(fmean(part[seed].values()) for part in parts))) for seed in seeds}
    of_seeds, of_units = variance(by_seed.values()) / len(seeds), 0.0
    free = len(seeds) - 1
    if drawn_units:
        of_units, count = _of_shared_units({seed: parts[0][seed] for seed in seeds})
        if of_units:
            free = int((of_seeds + of_units) ** 2 / (of_seeds**2 / free + of_units**2 / (count - 1)))
    mean, error = fmean(by_seed.values()), (of_seeds + of_units) ** 0.5

    def interval(share: float) -> tuple[float, float]:
        half = t_quantile(free, share) * error
        return max(bounds[0], mean - half), min(bounds[1], mean + half)

    return SeedEstimate(mean, *interval(0.95), by_seed, wider=interval(0.99))


def welch(
    before: Units,
    after: Units,
    *,
    bounds: tuple[float, float] = (-inf, inf),
    drawn_units: bool = False,
) -> Estimate | None:
    """The mean over the seeds of `after` minus that over those of `before`, with Welch's 95 % interval.

    For methods whose seeds are not the same, so that no two belong together: their numbers and variances may
    differ (Welch 1947; degrees of freedom by Satterthwaite). With `drawn_units`, what units that several
    seeds share add to the difference is added to its variance, as in `student`. None where either has fewer
    than two seeds. An interval ends at its `bounds`.
    """
    sides = [{seed: units for seed, units in side.items() if units} for side in (before, after)]
    if min(map(len, sides)) < 2:
        return None
    means = [[fmean(units.values()) for units in side.values()] for side in sides]
    parts = [(variance(side) / len(side), len(side) - 1) for side in means]
    if drawn_units:
        of_units, count = _of_shared_units(*sides)
        parts += [(of_units, count - 1)] if of_units else []
    of_all = sum(part for part, _ in parts)
    mean = fmean(means[1]) - fmean(means[0])
    half = 0.0
    if of_all:
        half = t_quantile(of_all**2 / sum(part**2 / free for part, free in parts)) * of_all**0.5
    return Estimate(mean, max(bounds[0], mean - half), min(bounds[1], mean + half))


def _common_seeds(parts: Sequence[Units]) -> list[int]:
    return sorted(set.intersection(*({seed for seed, units in part.items() if units} for part in parts)))


def _of_shared_units(*sides: Units) -> tuple[float, int]:
    """The variance that units which several seeds share add to the mean over seeds, or of two sides to the
    difference of these, and how many units these are.

    A unit's deviation from its seed's mean holds what is its own and what is left of chance: the spread among
    the seeds of a side tells how much the latter is.
    """
    deviations: dict[Any, list[list[float]]] = {}
    for side, part in enumerate(sides):
        for units in part.values():
            mean = fmean(units.values())
            for unit, value in units.items():
                of_unit = deviations.setdefault(unit, [[] for _ in sides])
                of_unit[side].append((value - mean) / (len(units) * len(part)))
    shared = [each for each in deviations.values() if any(len(side) > 1 for side in each)]
    found = 0.0
    for each in shared:
        own = [sum(side) for side in each if len(side) > 1]
        chance = sum(len(side) * variance(side) for side in each if len(side) > 1)
        found += (own[0] - own[1] if len(own) > 1 else own[0]) ** 2 - chance
    return (max(0.0, found), len(shared)) if len(shared) > 1 else (0.0, 0)


@cache  # of few numbers of seeds, which a study's page asks for some thousand times
def t_quantile(free: float, share: float = 0.95) -> float:
    """Within how much of 0 Student's t lies in this share of all cases, 0.95 or 0.99, with so many degrees of
    freedom, 1 or more, whole or not.

    With t = tan(angle) · √free its density is cos(angle) ** (free - 1) up to a factor: that is integrated by
    Gauss and Legendre's rule, and the angle found by bisection.

    >>> [round(t_quantile(free), 3) for free in (1, 2, 4, 30)]
    [12.706, 4.303, 2.776, 2.042]
    >>> [round(t_quantile(free, 0.99), 3) for free in (1, 4, 9)]
    [63.657, 4.604, 3.25]
    """
    if free > 1000:
        return NormalDist().inv_cdf((1 + share) / 2)
    low, high = 0.0, pi / 2
    for _ in range(60):
        angle = (low + high) / 2
        low, high = (angle, high) if _t_within(angle, free) < share else (low, angle)
    return tan(low) * free**0.5


def _t_within(angle: float, free: float) -> float:
    """The chance that |t| is below tan(angle) · √free."""
    places, weights = _LEGENDRE
    density = np.cos((places + 1) * angle / 2) ** (free - 1)
    scale = exp(lgamma((free + 1) / 2) - lgamma(free / 2)) / pi**0.5
    return float(angle * scale * (weights @ density))


def median(values: Sequence[float]) -> Estimate:
    """The median (in `mean`) with a 95 % interval between two of the values, whatever their distribution.

    That of the sign test: the k-th lowest and the k-th highest, the largest k of which either is on the wrong
    side with a chance of 2.5 % at most. Of fewer than six values it is from the lowest to the highest, which
    is less sure. ValueError for no values.

    >>> print(f"{median([3.0, 1.0, 2.0, 9.0, 4.0, 5.0]):.1f}")
    3.5 [1.0, 9.0]
    """
    ranked = sorted(values)
    if not ranked:
        raise ValueError("no values have a median")
    count, below, at = len(ranked), 0, 0
    while 40 * (below := below + comb(count, at)) <= 2**count:  # 2.5 %, in integers of any size
        at += 1
    at = max(at - 1, 0)
    return Estimate(float(np.median(ranked)), ranked[at], ranked[count - 1 - at])


def itself(mean: Any) -> Any:
    """What `over_seeds` applies for a plain mean."""
    return mean


def pass_at_k(samples: int, correct: int, k: int) -> float:
    """Unbiased estimate of the chance that one of k samples is right: 1 − C(n − c, k) / C(n, k) (arXiv
    2107.03374).

    >>> pass_at_k(4, 1, 2)
    0.5
    """
    return 1.0 - comb(samples - correct, k) / comb(samples, k)


def _estimate(mean: float, draws: Floats) -> Estimate:
    """A mean with the middle 95 % of what it was in resamples (resamples,)."""
    low, high = np.percentile(draws, [2.5, 97.5])
    return Estimate(float(mean), float(low), float(high))


def _resampled(values: Floats, resamples: int, seed: int) -> Floats:
    """The means (resamples,) of samples that are drawn from `values` (n,) with replacement, n at a time."""
    rng = np.random.default_rng(seed)
    return np.array([values[rng.integers(0, len(values), len(values))].mean() for _ in range(resamples)])
