"""Sets of reals as sorted disjoint spans, exact: what unions, intersections and inequalities come down to.

A bound is (value, side): side 0 at the value, 1 just above it, -1 just below it, so that bounds compare as
tuples. [1, 2) is ((1, 0), (2, -1)). `FAR` stands for infinity.
"""

from __future__ import annotations

from fractions import Fraction

Bound = tuple[Fraction, int]
Span = tuple[Bound, Bound]

FAR = Fraction(10**400)


def span(low: Fraction, high: Fraction, low_closed: bool = False, high_closed: bool = False) -> Span:
    return (low, 0 if low_closed else 1), (high, 0 if high_closed else -1)


def point(value: Fraction) -> Span:
    return span(value, value, True, True)


def half_line(sign: str, value: Fraction) -> list[Span]:
    """The x with x `sign` `value`, for a sign of `reading.RELATIONS`."""
    if sign == "=":
        return [point(value)]
    if sign == "!=":
        return complement([point(value)])
    if sign.startswith("<"):
        return [span(-FAR, value, high_closed=sign == "<=")]
    return [span(value, FAR, low_closed=sign == ">=")]


def union(spans: list[Span]) -> list[Span]:
    merged: list[Span] = []
    for low, high in sorted(each for each in spans if each[0] <= each[1]):
        if merged and _touch(merged[-1][1], low):
            merged[-1] = merged[-1][0], max(merged[-1][1], high)
        else:
            merged.append((low, high))
    return merged


def _touch(high: Bound, low: Bound) -> bool:
    """Whether a span that ends at `high` and one that begins at `low` leave no gap: [0,1) and [1,2]."""
    return low <= high or (low[0] == high[0] and low[1] - high[1] == 1)


def intersection(left: list[Span], right: list[Span]) -> list[Span]:
    return union([(max(a[0], b[0]), min(a[1], b[1])) for a in left for b in right])


def complement(spans: list[Span]) -> list[Span]:
    result = []
    low: Bound = (-FAR, 1)
    for start, end in union(spans):
        result.append((low, (start[0], start[1] - 1)))
        low = (end[0], end[1] + 1)
    result.append((low, (FAR, -1)))
    return [each for each in result if each[0] <= each[1]]


def rounded(value: Fraction) -> Fraction:
    """To 30 decimals, so that one number reached in two ways is one end point."""
    return Fraction(round(value * 10**30), 10**30)
