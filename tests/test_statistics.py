"""Intervals: their numbers by hand or counted another way, and how often they hold the truth."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import combinations
from math import comb, inf
from statistics import fmean

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prl.statistics import (
    FEWEST_DIFFERING,
    Estimate,
    SeedEstimate,
    bootstrap,
    itself,
    median,
    of_shares,
    over_seeds,
    paired_difference,
    pass_at_k,
    student,
    t_quantile,
    unpaired_difference,
    welch,
)


@pytest.mark.parametrize("samples", [1, 4, 6])
def test_pass_at_k_is_the_share_of_subsets_with_a_right_sample(samples: int) -> None:
    for correct in range(samples + 1):
        for k in range(1, samples + 1):
            subsets = [*combinations([index < correct for index in range(samples)], k)]
            assert pass_at_k(samples, correct, k) == pytest.approx(fmean(map(any, subsets)))


def binomial_quantile(n: int, p: float, q: float) -> int:
    """The least count that so large a share of Binomial(n, p) does not exceed."""
    held = 0.0
    for count in range(n + 1):
        held += comb(n, count) * p**count * (1 - p) ** (n - count)
        if held >= q:
            return count
    return n


@pytest.mark.parametrize(("n", "right"), [(3, 1), (50, 15), (400, 300)])
def test_an_interval_holds_the_middle_95_percent_of_resampled_means(n: int, right: int) -> None:
    """Of zeros and ones, a resampled sum is binomial."""
    found = bootstrap([1.0] * right + [0.0] * (n - right), resamples=4000, seed=1)
    low, high = (binomial_quantile(n, right / n, q) / n for q in (0.025, 0.975))
    slack = 0 if n == 3 else 0.1 * (high - low)
    assert found.mean == right / n
    assert found.low == pytest.approx(low, abs=slack)
    assert found.high == pytest.approx(high, abs=slack)


def test_an_interval_follows_its_seed() -> None:
    values = [float(n % 7) for n in range(40)]
    assert bootstrap(values, seed=1) == bootstrap(values, seed=1) != bootstrap(values, seed=2)


def test_differences_are_paired_and_after_minus_before() -> None:
    before = [float(n % 5) for n in range(60)]
    found = paired_difference(before, [value + 0.25 for value in before])
    assert (found.mean, found.low, found.high) == pytest.approx((0.25, 0.25, 0.25))


def test_differences_of_two_values_by_hand() -> None:
    """Of four resamples of two values one is all the lower, one all the higher: the interval ends there."""
    assert paired_difference([0.25, 0.5], [0.75, 0.5]) == Estimate(0.25, 0.0, 0.5)
    assert unpaired_difference(np.array([0.0, 1.0]), np.array([2.0, 4.0])) == Estimate(2.5, 1.0, 4.0)


@pytest.mark.parametrize("count", [1, 5, 64])
def test_shares_that_are_all_alike_are_as_sure_as_so_many_can_be(count: int) -> None:
    """At the bound, all of so many are alike in one of 40 draws."""
    low, none = of_shares([1.0] * count), of_shares([0.0] * count)
    assert (low.mean, low.high, none.mean, none.low) == (1, 1, 0, 0)
    assert low.low**count == pytest.approx(0.025)
    assert (1 - none.high) ** count == pytest.approx(0.025)
    some = [1.0] * count + [0.5]
    assert of_shares(some, seed=3) == bootstrap(some, seed=3)
    assert of_shares([1.0] * count, resamples=0) == Estimate(1, 1, 1)


def test_problems_that_all_agree_bound_a_difference() -> None:
    """Were one problem in so many different, as many would all agree in one sample of 40."""
    for alike in ([1.0] * 30, [0.0, 0.25, 0.5] * 10):
        found = paired_difference(alike, alike)
        assert (found.mean, found.low) == (0.0, -found.high)
        assert (1 - found.high) ** 30 == pytest.approx(0.025)
    assert paired_difference([1.0] * 3, [1.0] * 3, resamples=0) == Estimate(0.0, 0.0, 0.0)


def test_fewer_than_six_problems_that_differ_tell_nothing_apart() -> None:
    for count in range(1, 9):
        assert (count >= FEWEST_DIFFERING) == (2 * 0.5**count <= 0.05), "a two-sided sign test"
    alike = [0.5] * 50
    for better in (1.0, 0.0):
        ends = [paired_difference(alike, [better] * count + alike[count:]) for count in (5, 6)]
        assert [found.low * found.high > 0 for found in ends] == [False, True]
    few = paired_difference(alike, [1.0] * 5 + alike[5:])
    assert (few.mean, few.low) == (pytest.approx(0.05), 0)
    assert paired_difference([0, 1, 0], [1, 0, 0]) == bootstrap([1, -1, 0]), "which held it"


def test_without_resamples_an_interval_is_its_mean() -> None:
    assert bootstrap([0.0, 0.5, 1.0], resamples=0) == Estimate(0.5, 0.5, 0.5)


def test_an_estimate_is_shown_as_a_share() -> None:
    assert str(Estimate(0.05, 0.0, 0.125)) == "  5.0%  [0.0%, 12.5%]"


def coverage(interval: Callable[[np.random.Generator], Estimate], truth: float, of: int = 200) -> float:
    """The share of `of` made-up experiments whose interval holds the truth."""
    rng = np.random.default_rng(0)
    found = [interval(rng) for _ in range(of)]
    return fmean(each.low <= truth <= each.high for each in found)


def test_intervals_hold_the_truth_about_as_often_as_they_say() -> None:
    """In 95 % of the cases, less the little that a percentile bootstrap of so few misses; ± 3 by chance."""

    def accuracy(rng: np.random.Generator) -> Estimate:
        return bootstrap(rng.binomial(4, 0.3, 60) / 4, resamples=100)

    def gain(rng: np.random.Generator) -> Estimate:
        easy = rng.uniform(0, 0.7, 60)  # problems are alike hard before and after
        before, after = rng.binomial(4, easy) / 4, rng.binomial(4, easy + 0.1) / 4
        return paired_difference(before.tolist(), after.tolist(), resamples=100)

    def rise(rng: np.random.Generator) -> Estimate:
        return unpaired_difference(rng.normal(0, 1, 30), rng.normal(0.5, 2, 50), resamples=100)

    for interval, truth in ((accuracy, 0.3), (gain, 0.1), (rise, 0.5)):
        assert 0.91 <= coverage(interval, truth) <= 0.98, interval.__name__


# --- Over seeds


def test_a_mean_is_that_of_the_seeds_whatever_number_of_units_they_have() -> None:
    found = over_seeds(itself, {0: {"a": 1.0, "b": 0.0}, 1: {"a": 1.0, "b": 1.0, "c": 1.0, "d": 0.0}})
    assert found is not None
    assert found.mean == pytest.approx((0.5 + 0.75) / 2)
    assert found.seeds == {0: 0.5, 1: 0.75}
    assert found.low < found.mean < found.high


def test_what_no_seed_has_whole_has_no_estimate() -> None:
    assert over_seeds(itself, {}) is None
    assert over_seeds(itself, {0: {}}) is None
    assert over_seeds(np.subtract, {0: {"a": 1.0}}, {1: {"a": 1.0}}) is None
    found = over_seeds(np.subtract, {0: {"a": 1.0}, 1: {"a": 0.5}}, {1: {"b": 0.25}, 2: {"b": 0.0}})
    assert found == SeedEstimate(0.25, 0.25, 0.25, {1: 0.25})


def test_seeds_that_differ_widen_an_interval() -> None:
    alike = over_seeds(itself, {seed: {n: n % 2 for n in range(40)} for seed in range(3)})
    apart = over_seeds(itself, {seed: {n: n % 2 + seed - 1 for n in range(40)} for seed in range(3)})
    assert alike is not None
    assert apart is not None
    assert alike.mean == apart.mean
    assert apart.high - apart.low > 3 * (alike.high - alike.low)


def test_three_seeds_spread_by_the_square_root_of_three_halves() -> None:
    """Seeds 1 below, at and 1 above the mean, on every problem: of 27 ways to draw three of them, one (3.7 %)
    draws the lowest three times, so the interval ends there but for the factor √(n / (n − 1))."""
    problems = {n: 100.0 * (n % 2) for n in range(40)}
    ours = {seed: {n: value + seed - 1 for n, value in problems.items()} for seed in range(3)}
    found = over_seeds(np.subtract, ours, dict.fromkeys(range(3), problems))
    assert found is not None
    assert (found.mean, found.low, found.high) == pytest.approx((0, -(1.5**0.5), 1.5**0.5))
    two = over_seeds(np.subtract, {0: ours[0], 2: ours[2]}, dict.fromkeys((0, 2), problems))
    assert two is not None
    assert (two.low, two.high) == pytest.approx((-(2**0.5), 2**0.5)), "of 4 ways one draws the lower twice"


def test_intervals_over_seeds_hold_the_truth_about_as_often_as_they_say() -> None:
    rng, held = np.random.default_rng(1), 0
    for _ in range(100):
        problems = rng.normal(0, 0.2, 60)  # alike hard for all seeds
        seeds = rng.normal(0, 0.05, 3)
        draws = seeds[:, None] + problems + rng.normal(0, 0.4, (3, 60))
        found = over_seeds(itself, {seed: dict(enumerate(draws[seed])) for seed in range(3)})
        assert found is not None
        held += found.low <= 0 <= found.high
    assert held >= 93


# --- Student's t


@pytest.mark.parametrize(
    ("free", "tabled"),
    [(1, 12.7062), (2, 4.3027), (3, 3.1824), (4, 2.7764), (5, 2.5706), (10, 2.2281), (29, 2.0452),
     (100, 1.9840), (10_000, 1.9600), (1.16955, 9.08278), (2.5, 3.57465), (24.9885, 2.05959)],
)  # fmt: skip
def test_quantiles_are_those_of_the_tables(free: float, tabled: float) -> None:
    """Those of no whole number as scipy.stats.t.ppf has them."""
    assert t_quantile(free) == pytest.approx(tabled, abs=5e-5)


def test_an_interval_by_hand() -> None:
    """Means 0.1, 0.2, 0.3: a standard error of 0.1 / √3, by 4.303."""
    means = {0: 0.1, 1: 0.2, 2: 0.3}
    found = student(itself, {seed: {"a": mean - 0.05, "b": mean + 0.05} for seed, mean in means.items()})
    half = 4.3027 * 0.1 / 3**0.5
    assert found is not None
    assert (found.mean, found.low, found.high) == pytest.approx((0.2, 0.2 - half, 0.2 + half), abs=1e-4)
    assert found.seeds == pytest.approx(means)


def test_a_ratio_is_that_of_each_seed() -> None:
    ours, theirs = {0: {1: 0.2}, 1: {1: 0.6}}, {0: {1: 0.4, 2: 0.4}, 1: {1: 0.8}, 2: {1: 1.0}}
    found = student(np.divide, ours, theirs)
    assert found is not None
    assert (found.mean, found.seeds) == (pytest.approx(0.625), pytest.approx({0: 0.5, 1: 0.75}))


def test_an_interval_ends_at_its_bounds_and_one_seed_has_that_of_its_units() -> None:
    wide = {0: {"a": 0.9, "b": 1.0}, 1: {"c": 0.7, "d": 0.9}}
    found = student(itself, wide, bounds=(0.0, 1.0))
    assert found is not None
    assert (found.low, found.high) == (pytest.approx(0.0, abs=0.01), 1.0)
    assert student(itself, {0: wide[0]}) == over_seeds(itself, {0: wide[0]})
    assert student(itself, {}) is None


def test_one_seed_of_one_unit_may_be_anywhere_within_its_bounds() -> None:
    one, many = {0: {"": 0.5}, 1: {}}, {0: {"a": 0.25, "b": 0.5}, 2: {"a": 1.0}}
    assert student(itself, one, bounds=(0.0, 1.0)) == SeedEstimate(0.5, 0.0, 1.0, {0: 0.5})
    assert student(itself, one) == SeedEstimate(0.5, -inf, inf, {0: 0.5})
    found = student(np.subtract, many, one, bounds=(-1.0, 1.0))
    assert found == SeedEstimate(-0.125, -1.0, 1.0, {0: -0.125}), "of the seed that both have, all units"
    alone = student(np.subtract, many, {0: dict(many[0])}, bounds=(-1.0, 1.0))
    assert alone == over_seeds(np.subtract, many, {0: many[0]})


def test_problems_that_seeds_share_are_chance_too() -> None:
    """Two seeds that agree on every problem: their means tell nothing of how the problems were drawn."""
    problems = {n: float(n % 2) for n in range(40)}
    alike = {0: problems, 1: problems}
    fixed, drawn = student(itself, alike), student(itself, alike, drawn_units=True)
    own = student(itself, {s: {(s, n): v for n, v in problems.items()} for s in alike}, drawn_units=True)
    assert fixed is not None
    assert drawn is not None
    assert own is not None
    assert fixed.low == fixed.high == own.low == own.high == 0.5
    assert drawn.high - 0.5 == pytest.approx(t_quantile(39) * (0.25 / 40) ** 0.5)


@pytest.mark.parametrize("seeds", [3, 5])
@pytest.mark.parametrize("apart", [0.0, 0.2], ids=["little", "much"])
@pytest.mark.parametrize("shared", [False, True], ids=["their own problems", "the same problems"])
def test_students_intervals_hold_the_truth_however_far_seeds_differ(
    seeds: int, apart: float, shared: bool
) -> None:
    """`benchmarks/intervals.py` has more of these, and the bootstrap beside them; ± 3 % by chance."""
    rng, held = np.random.default_rng(1), 0
    for _ in range(200):
        problems = rng.normal(0, 0.2, (1 if shared else seeds, 30))
        draws = rng.normal(0, apart, (seeds, 1)) + problems + rng.normal(0, 0.2, (seeds, 30))
        units = {
            seed: {(0 if shared else seed, n): value for n, value in enumerate(draws[seed].tolist())}
            for seed in range(seeds)
        }
        found = student(itself, units, drawn_units=True)
        assert found is not None
        held += found.low <= 0 <= found.high
    assert 0.91 <= held / 200 <= 0.985


# --- Welch's t


def seeds_of(means: Sequence[float], start: int = 0) -> dict[int, dict[int, float]]:
    return {seed: {seed: mean} for seed, mean in enumerate(means, start)}


WELCH_BY_HAND = (
    # Means 2 and 6, 1 / 3 + 8 / 2 = 13 / 3: (13 / 3)² / ((1 / 3)² / 2 + 4² / 1) = 1.16955 degrees of freedom.
    ([1, 2, 3], [4, 8], 4, 9.08278 * (13 / 3) ** 0.5),
    # An example that texts on Welch's test share: t = 2.1667 / 1.0520 with 24.9885 degrees of freedom.
    (
        [27.5, 21.0, 19.0, 23.6, 17.0, 17.9, 16.9, 20.1, 21.9, 22.6, 23.1, 19.6, 19.0, 21.7, 21.4],
        [27.1, 22.0, 20.8, 23.4, 23.4, 23.5, 25.8, 22.0, 24.8, 20.2, 21.9, 22.1, 22.9, 20.5, 24.4],
        2.166667, 1.817430,
    ),
)  # fmt: skip


@pytest.mark.parametrize(("before", "after", "mean", "half"), WELCH_BY_HAND)
def test_welchs_interval_is_that_of_its_formula(
    before: Sequence[float], after: Sequence[float], mean: float, half: float
) -> None:
    found = welch(seeds_of(before), seeds_of(after, 100))
    assert found is not None
    assert (found.mean, found.low, found.high) == pytest.approx((mean, mean - half, mean + half), abs=1e-4)
    other_way = welch(seeds_of(after), seeds_of(before))
    assert other_way is not None
    assert (other_way.low, other_way.high) == pytest.approx((-found.high, -found.low))


def test_welchs_interval_takes_two_seeds_a_side_and_ends_at_its_bounds() -> None:
    assert welch(seeds_of([1.0, 2.0]), seeds_of([1.0])) is None
    assert welch(seeds_of([1.0, 2.0]), {0: {0: 1.0}, 1: {}}) is None
    assert welch(seeds_of([0.5, 0.5]), seeds_of([1.0, 1.0, 1.0])) == Estimate(0.5, 0.5, 0.5)
    assert welch(seeds_of([0.0, 0.2]), seeds_of([0.9, 0.3]), bounds=(-1.0, 1.0)) == Estimate(0.5, -1.0, 1.0)


def test_what_problems_add_to_a_difference_is_of_those_that_both_answered() -> None:
    """Seeds that agree on every problem: a method that is better by the same on each is so on any problems;
    one that is right where the other is wrong is so on these."""
    problems = {n: float(n % 2) for n in range(40)}
    before = {0: problems, 1: problems}
    better = {seed: {n: value / 2 + 0.5 for n, value in problems.items()} for seed in (2, 3, 4)}
    equal = {seed: {n: value + 0.5 for n, value in problems.items()} for seed in (2, 3, 4)}
    assert welch(before, equal, drawn_units=True) == Estimate(0.5, 0.5, 0.5)
    assert welch(before, better) == Estimate(0.25, 0.25, 0.25)
    found = welch(before, better, drawn_units=True)
    assert found is not None
    assert found.high - 0.25 == pytest.approx(t_quantile(39) * (0.25**2 / 40) ** 0.5)


@pytest.mark.parametrize("shared", [False, True], ids=["their own problems", "the same problems"])
@pytest.mark.parametrize("ratio", [1, 3], ids=["alike", "unlike"])
def test_welchs_intervals_hold_the_truth(ratio: float, shared: bool) -> None:
    """`benchmarks/intervals.py` has more of these; ± 3 % by chance."""
    rng, held = np.random.default_rng(1), 0
    for _ in range(200):
        problems = rng.normal(0, 0.2, (2, 30)) * shared
        sides = []
        for place, (seeds, apart) in enumerate(((3, 0.05), (5, 0.05 * ratio))):
            of_method = problems[: place + 1].sum(axis=0) + rng.normal(0, 0.2, (seeds, 30))
            draws = rng.normal(0, apart, (seeds, 1)) + of_method
            sides.append(
                {
                    seed: {(0 if shared else (place, seed), n): value for n, value in enumerate(row.tolist())}
                    for seed, row in enumerate(draws)
                }
            )
        found = welch(*sides, drawn_units=True)
        assert found is not None
        held += found.low <= 0 <= found.high
    assert 0.91 <= held / 200 <= 0.985


# --- Medians


@pytest.mark.parametrize(
    ("count", "low", "high"),
    [(1, 1, 1), (5, 1, 5), (6, 1, 6), (10, 2, 9), (20, 6, 15), (100, 40, 61), (5000, 2431, 2570)],
)
def test_the_interval_of_a_median_is_that_of_the_sign_test(count: int, low: int, high: int) -> None:
    """Ranks as in the tables, as in Hollander and Wolfe's; the last by the normal approximation."""
    found = median([float(rank) for rank in range(count, 0, -1)])
    assert (found.mean, found.low, found.high) == ((count + 1) / 2, low, high)


def test_nothing_has_no_median() -> None:
    with pytest.raises(ValueError, match="no values"):
        median([])


values = st.dictionaries(
    st.integers(0, 3), st.dictionaries(st.integers(0, 5), st.floats(0, 1), max_size=4), max_size=4
)


@given(values)
def test_any_estimate_is_ordered_bounded_and_repeatable(part: dict[int, dict[int, float]]) -> None:
    found = over_seeds(itself, part)
    seen = [value for units in part.values() for value in units.values()]
    assert (found is None) == (not seen)
    if found:
        rounding = 1e-9
        assert min(seen) - rounding <= found.low <= found.high <= max(seen) + rounding
        assert over_seeds(itself, part) == found
