"""Problems with alternatives: which of these gives it, equations by trial, products by several methods.

A problem knows its alternatives as work that can be written down: each is a label and a function that writes
its steps and says what they come to. Of `which` and `equations` exactly one alternative gives the target, so
the work can be divided; of `products` every alternative is another way to the same result, so they can vote.
An item's key, hashed, decides for what it may be used, whatever seed or split it is drawn for.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Literal, NamedTuple

Side = Literal["heldout", "training", "pretraining"]

SHARES: dict[Side, float] = {"heldout": 0.1, "training": 0.3, "pretraining": 0.6}
"""Of all problems: kept for evaluation; for cold start and RL; seen by the base that ships."""

Settle = Callable[[int], int]
"""Called with each result of a step; gives it back, or another where the step is to slip."""

_TERMS = (2, 60)
_TOTALS = (5, 140)  # what a sum comes to; on the way it stays in 0..180
_HIGHEST = 180
_NEAR = (1, -1, 2, -2, 10, -10)
_NEAR_SHARE = 0.4  # of the wrong alternatives: off by so little that only the whole sum tells
_SHIFTED_SHARE = 0.3  # of the problems of `which` for pretraining: labels from another number than 1 on
_LAST_LABEL = 12
_LARGEST_FACTOR = 12


class Alternative(NamedTuple):
    """What can be tried: its label, and its steps in writing with what they come to."""

    label: str
    work: Callable[[Settle], tuple[str, int]]


@dataclass(frozen=True)
class Problem:
    """A problem in words. `target`: what the one right alternative comes to; None where all are ways to
    `answer`. `key` says the same for the same problem."""

    text: str
    answer: str
    level: int
    key: str
    alternatives: tuple[Alternative, ...]
    target: int | None = None


def side_of(key: str) -> Side:
    """What a problem may be used for: decided by its key, never by a seed."""
    share = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") / 2**64
    if share < SHARES["heldout"]:
        return "heldout"
    return "training" if share < SHARES["heldout"] + SHARES["training"] else "pretraining"


def draw_which(rng: Random, level: int, *, shifted: bool = False) -> Problem:
    """`level` sums of three terms, of which one gives the number that is asked for. The answer is its label.

    `shifted`: labels may begin at another number than 1, so that those beyond the levels are read, too.
    """
    target = rng.randint(*_TOTALS)
    right = rng.randrange(level)
    sums = [_sum_for(rng, target) if i == right else _wrong_sum(rng, target) for i in range(level)]
    first = 1
    if shifted and rng.random() < _SHIFTED_SHARE:
        first = rng.randint(2, _LAST_LABEL + 1 - level)
    labels = [str(first + i) for i in range(level)]
    shown = " ".join(f"{label}: {_shown(terms)}." for label, terms in zip(labels, sums, strict=True))
    text = f"Which gives {target}? {shown}"
    return Problem(
        text,
        answer=labels[right],
        level=level,
        key=f"which {target} {sorted(sums)}",
        alternatives=tuple(
            Alternative(label, _running(terms)) for label, terms in zip(labels, sums, strict=True)
        ),
        target=target,
    )


def draw_equation(rng: Random, level: int) -> Problem:
    """An equation in x with one solution among `level` numbers in a row, to be found by trying them."""
    while True:
        first = rng.randint(1, _LARGEST_FACTOR + 1 - level)
        last = first + level - 1
        shift, constant = (rng.choice((1, -1)) * rng.randint(1, most) for most in (9, 40))
        values = [x * (x + shift) + constant for x in range(first, last + 1)]
        solution = rng.randrange(level)
        target = values[solution]
        in_table = first + shift >= 1 and last + shift <= _LARGEST_FACTOR
        if in_table and min(values) >= 0 and values.count(target) == 1:
            break
    left = f"x * (x {'+-'[shift < 0]} {abs(shift)}) {'+-'[constant < 0]} {abs(constant)}"
    return Problem(
        f"Find x from {first} to {last}: {left} = {target}.",
        answer=str(first + solution),
        level=level,
        key=f"equations {first} {level} {shift} {constant} {target}",
        alternatives=tuple(
            Alternative(str(x), _inserted(x, shift, constant)) for x in range(first, last + 1)
        ),
        target=target,
    )


_FACTORS = {
    1: ((11, 29), (11, 19)),
    2: ((21, 59), (12, 39)),
    3: ((21, 99), (21, 99)),
    4: ((101, 299), (21, 99)),
}
"""Of products: level -> the range of each factor."""


def draw_product(rng: Random, level: int) -> Problem:
    """A product of two numbers that do not end in 0, and six ways to it."""
    a, b = 0, 0
    while not (a % 10 and b % 10):
        a, b = (rng.randint(*size) for size in _FACTORS[level])
    tens_a, tens_b = a // 10 * 10, b // 10 * 10
    ways = (
        _parts((a, tens_b), (a, b - tens_b)),
        _parts((tens_a, b), (a - tens_a, b)),
        _parts((a, tens_b + 10), (a, b - tens_b - 10)),
        _parts((tens_a + 10, b), (a - tens_a - 10, b)),
        _parts((a, b - tens_b), (a, tens_b)),
        _parts((a - tens_a, b), (tens_a, b)),
    )
    return Problem(
        f"Compute {a} * {b}.",
        answer=str(a * b),
        level=level,
        key=f"products {a} {b}",
        alternatives=tuple(Alternative(str(number), way) for number, way in enumerate(ways, 1)),
    )


def _parts(first: tuple[int, int], second: tuple[int, int]) -> Callable[[Settle], tuple[str, int]]:
    """Two products and their sum; a negative factor of the second takes it away."""

    def work(settle: Settle) -> tuple[str, int]:
        (a, b), (c, d) = first, second
        sign = -1 if min(c, d) < 0 else 1
        c, d = abs(c), abs(d)
        one, other = settle(a * b), settle(c * d)
        total = settle(one + sign * other)
        return f"{a}*{b}={one}. {c}*{d}={other}. {one}{'+-'[sign < 0]}{other}={total}.", total

    return work


def _inserted(x: int, shift: int, constant: int) -> Callable[[Settle], tuple[str, int]]:
    def work(settle: Settle) -> tuple[str, int]:
        bracket = settle(x + shift)
        product = settle(x * bracket)
        total = settle(product + constant)
        return f"{x}{shift:+d}={bracket}. {x}*{bracket}={product}. {product}{constant:+d}={total}.", total

    return work


def _running(terms: tuple[int, ...]) -> Callable[[Settle], tuple[str, int]]:
    def work(settle: Settle) -> tuple[str, int]:
        steps, total = [], terms[0]
        for term in terms[1:]:
            result = settle(total + term)
            steps.append(f"{total}{term:+d}={result}.")
            total = result
        return " ".join(steps), total

    return work


def _sum_for(rng: Random, total: int) -> tuple[int, ...]:
    """Three terms, the first positive, that come to `total` without leaving 0..180 on the way."""
    low, high = _TERMS
    while True:
        second, third = (rng.randint(low, high) * rng.choice((1, -1)) for _ in range(2))
        first = total - second - third
        if low <= first <= high and 0 <= first + second <= _HIGHEST:
            return first, second, third


def _wrong_sum(rng: Random, target: int) -> tuple[int, ...]:
    low, high = _TOTALS
    while True:
        total = target + rng.choice(_NEAR) if rng.random() < _NEAR_SHARE else rng.randint(low, high)
        if total != target and low <= total <= high:
            return _sum_for(rng, total)


def _shown(terms: tuple[int, ...]) -> str:
    return str(terms[0]) + "".join(f" {'+-'[term < 0]} {abs(term)}" for term in terms[1:])
