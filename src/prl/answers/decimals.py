"""Whether a decimal of many digits is a rounding of a number whose decimals never end."""

from __future__ import annotations

import math
from fractions import Fraction

LONG = 10
"""Significant digits from which on a decimal that is right in all of them is the number."""
_DOUBLE = 15  # significant digits that a double has for certain


def is_endless(value: Fraction) -> bool:
    """Whether its decimals never end."""
    rest = value.denominator
    for prime in (2, 5):
        while rest % prime == 0:
            rest //= prime
    return rest > 1


def agree(decimal: Fraction, digits: int, exact: Fraction) -> bool:
    """Whether `decimal` of so many significant digits is `exact`, rounded or cut."""
    if not exact:
        return False
    bits = exact.numerator.bit_length() - exact.denominator.bit_length()
    unit = Fraction(10) ** round(bits * math.log10(2))  # the place of the first digit, or one beside it
    while abs(exact) < unit:
        unit /= 10
    while abs(exact) >= 10 * unit:
        unit *= 10
    return abs(decimal - exact) < unit / 10 ** (min(digits, _DOUBLE) - 1)
