"""Floating-point values that know their error: enough to tell in microseconds that two expressions differ.

Most wrong answers are wrong in the first digits. A value here is a complex number with a first-order bound of
its rounding error (running error analysis; Higham, Accuracy and Stability of Numerical Algorithms, section
3.3), so that `far_apart` never calls two equal expressions different; whether close ones are equal is left to
60 digits in a worker.
"""

from __future__ import annotations

import cmath
import math
from collections.abc import Callable
from fractions import Fraction
from typing import NamedTuple

_EPSILON = 2.0**-50


class Approximate(NamedTuple):
    """A complex value and a bound of its absolute error."""

    value: complex
    error: float


def exactly(value: Fraction | float | complex) -> Approximate | None:
    """`value` in floating point; None when it is too large."""
    try:
        number = complex(value)
    except OverflowError:
        return None
    exact = isinstance(value, Fraction) and Fraction(number.real) == value
    return Approximate(number, 0.0 if exact else abs(number) * _EPSILON)


def negate(one: Approximate) -> Approximate:
    return Approximate(-one.value, one.error)


def add(one: Approximate, other: Approximate) -> Approximate | None:
    return _checked(one.value + other.value, one.error + other.error)


def subtract(one: Approximate, other: Approximate) -> Approximate | None:
    return _checked(one.value - other.value, one.error + other.error)


def multiply(one: Approximate, other: Approximate) -> Approximate | None:
    return _checked(
        one.value * other.value,
        abs(one.value) * other.error + abs(other.value) * one.error + one.error * other.error,
    )


def divide(one: Approximate, other: Approximate) -> Approximate | None:
    margin = abs(other.value) - other.error
    if margin <= 0:
        return None
    quotient = one.value / other.value
    return _checked(quotient, (one.error + abs(quotient) * other.error) / margin)


def power(base: Approximate, exponent: Approximate) -> Approximate | None:
    """The power; None where roots of negative numbers could be meant in two ways."""
    whole = int(exponent.value.real) if abs(exponent.value) < 10**6 else 0
    if exponent.error == 0 and exponent.value == whole and whole:
        result = _apply(lambda x: x**whole, base)
        return (
            None
            if result is None
            else _checked(result.value, result.error + abs(whole * result.value) * _EPSILON)
        )
    if abs(base.value) <= 4 * base.error or (base.value.real < 0 and abs(base.value.imag) <= 4 * base.error):
        return None
    logarithm = _apply(cmath.log, base)
    scaled = multiply(logarithm, exponent) if logarithm else None
    return _apply(cmath.exp, scaled) if scaled else None


def function(name: str, argument: Approximate) -> Approximate | None:
    """A named elementary function; None when it is unknown here, undefined, or the argument is near a cut."""
    if name not in _FUNCTIONS or (
        abs(argument.value.imag) <= argument.error and argument.error and argument.value.imag
    ):
        return None
    if name == "ln" and argument.value.real < 0:
        return None
    return _apply(_FUNCTIONS[name], argument)


def magnitude(argument: Approximate) -> Approximate | None:
    return _checked(abs(argument.value), argument.error)


def far_apart(one: Approximate, other: Approximate) -> bool:
    """Whether the two certainly differ."""
    bound = 100 * (one.error + other.error) + 1e-9 * max(abs(one.value), abs(other.value))
    return abs(one.value - other.value) > bound


def _apply(compute: Callable[[complex], complex], argument: Approximate) -> Approximate | None:
    step = max(argument.error, abs(argument.value) * _EPSILON)
    try:
        value = compute(argument.value)
        slope = max(
            abs(compute(argument.value + step) - value), abs(compute(argument.value + 1j * step) - value)
        )
    except (ValueError, OverflowError, ZeroDivisionError):
        return None
    return _checked(value, 2 * slope)


def _checked(value: complex, error: float) -> Approximate | None:
    error += abs(value) * _EPSILON
    return Approximate(complex(value), error) if math.isfinite(error) and cmath.isfinite(value) else None


_FUNCTIONS: dict[str, Callable[[complex], complex]] = {
    "sin": cmath.sin,
    "cos": cmath.cos,
    "tan": cmath.tan,
    "cot": lambda x: 1 / cmath.tan(x),
    "sec": lambda x: 1 / cmath.cos(x),
    "csc": lambda x: 1 / cmath.sin(x),
    "sinh": cmath.sinh,
    "cosh": cmath.cosh,
    "tanh": cmath.tanh,
    "arctan": cmath.atan,
    "ln": cmath.log,
}
