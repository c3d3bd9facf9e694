r"""An expression in three forms at once: LaTeX for latex2sympy2, its exact value, its approximate value.

latex2sympy2 1.9.1 misreads or rejects much that people write (`1\frac{4}{5}` is a product to it, `\frac12` an
error, `d x` a differential that poisons its later parses). So the LaTeX built here keeps to the part of its
grammar that is safe: explicit products, brackets and braces everywhere, functions with bracketed arguments,
and each variable as `x_{n}`, n encoding its name, so that no letter has a meaning of its own.

Rational expressions are folded exactly, with bounded numbers; the others carry floating-point values at two
sample points. Most pairs are decided by these and never need a parser process.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable
from fractions import Fraction
from typing import NamedTuple

from prl.answers import approximation
from prl.answers.approximation import Approximate
from prl.answers.limits import MAX_BITS, MAX_FACTORIAL, Refused, Unreadable

E_NAME, I_NAME = "x_{12}", "x_{11}"  # Euler's number and the imaginary unit

ATOM, POWER, PRODUCT, SUM = range(4)  # how an expression binds; the loose need brackets inside the tight

Near = tuple[Approximate | None, Approximate | None]


class Expression(NamedTuple):
    """`value` is exact, None where the expression is not rational; see `near` for `sampled`."""

    latex: str
    value: Fraction | None = None
    loose: int = ATOM
    sampled: Near = (None, None)


def near(expression: Expression) -> Near:
    """Approximate values at the two sample points of its variables; None where they are unknown."""
    if expression.value is None:
        return expression.sampled
    value = approximation.exactly(expression.value)
    return value, value


def combine(operation: Callable[..., Approximate | None], *parts: Near) -> Near:
    """`operation` at each sample point where all `parts` are known."""
    first, second = (operation(*at) if None not in at else None for at in zip(*parts, strict=True))
    return first, second


def bracketed(expression: Expression, tight: int) -> str:
    """The LaTeX, in brackets unless it binds tighter than `tight`."""
    return expression.latex if expression.loose < tight else f"({expression.latex})"


# -- atoms


def variable(name: str) -> Expression:
    encoded = name.encode()
    seed = zlib.crc32(encoded)
    first = 0.3 + (seed % 9973) / 3989
    second = (1 if seed % 2 else -1) * (0.4 + (seed % 7919) / 3571)  # of either sign
    points = approximation.exactly(first), approximation.exactly(second)
    return Expression(f"x_{{{int.from_bytes(encoded, 'big') + 100}}}", sampled=points)


def variable_name(latex: str) -> str:
    """The name that `variable` encoded."""
    code = int(latex[3:-1]) - 100
    return code.to_bytes((code.bit_length() + 7) // 8, "big").decode()


def constant(latex: str, value: complex) -> Expression:
    point = approximation.exactly(value)
    return Expression(latex, sampled=(point, point))


def number(digits: str) -> Expression:
    """A literal such as 12,345.6, .5 or 3."""
    digits = digits.replace(",", "").rstrip(".")
    return Expression("0" + digits if digits.startswith(".") else digits, Fraction(digits))


def rational(value: Fraction | int) -> Expression:
    """`value` spelt out."""
    value = Fraction(value)
    if value < 0:
        return negated(rational(-value))
    if value.denominator == 1:
        return Expression(str(value), value)
    return Expression(f"\\frac{{{value.numerator}}}{{{value.denominator}}}", value, POWER)


# -- operations


def negated(one: Expression) -> Expression:
    value = None if one.value is None else -one.value
    return Expression("-" + bracketed(one, SUM), value, SUM, combine(approximation.negate, near(one)))


def plus(one: Expression, other: Expression, sign: int = 1) -> Expression:
    value = _folded(lambda a, b: a + sign * b, one, other)
    total = combine(approximation.add if sign > 0 else approximation.subtract, near(one), near(other))
    return Expression(f"{one.latex}{'+' if sign > 0 else '-'}{bracketed(other, SUM)}", value, SUM, total)


def times(one: Expression, other: Expression) -> Expression:
    product = combine(approximation.multiply, near(one), near(other))
    latex = f"{bracketed(one, SUM)} \\cdot {bracketed(other, PRODUCT)}"
    return Expression(latex, _folded(lambda a, b: a * b, one, other), PRODUCT, product)


def over(top: Expression, bottom: Expression) -> Expression:
    if bottom.value == 0:
        raise Unreadable("division by zero")
    quotient = combine(approximation.divide, near(top), near(bottom))
    value = _folded(lambda a, b: a / b, top, bottom)
    return Expression(f"\\frac{{{top.latex}}}{{{bottom.latex}}}", value, POWER, quotient)


def raised(base: Expression, exponent: Expression) -> Expression:
    if base.value == 0 and exponent.value is not None and exponent.value < 0:
        raise Unreadable("division by zero")
    power = combine(approximation.power, near(base), near(exponent))
    # latex2sympy2's parser is 20 times slower on a bare variable under an exponent
    tight = f"({base.latex})" if base.latex.startswith("x_") else bracketed(base, POWER)
    return Expression(f"{tight}^{{{exponent.latex}}}", _power_value(base, exponent), POWER, power)


def root(inner: Expression, index: Expression | None = None) -> Expression:
    """The root; an odd one of a negative number is real."""
    degree = index or rational(2)
    if inner.value is not None and inner.value < 0 and degree.value is not None and degree.value % 2 == 1:
        return negated(root(rational(-inner.value), index))
    value = None
    if inner.value is not None and inner.value >= 0 and degree.value in (2, 3, 4, 5):
        top, bottom = (_integer_root(part, int(degree.value)) for part in inner.value.as_integer_ratio())
        value = None if top is None or bottom is None else Fraction(top, bottom)
    exponent = combine(approximation.divide, near(rational(1)), near(degree))
    latex = f"\\sqrt{f'[{index.latex}]' if index else ''}{{{inner.latex}}}"
    return Expression(latex, value, ATOM, combine(approximation.power, near(inner), exponent))


def absolute(inner: Expression) -> Expression:
    value = None if inner.value is None else abs(inner.value)
    return Expression(
        f"\\left|{inner.latex}\\right|", value, ATOM, combine(approximation.magnitude, near(inner))
    )


def factorial(inner: Expression) -> Expression:
    latex = f"{bracketed(inner, POWER)}!"
    if inner.value is None:
        return Expression(latex, loose=POWER)
    return Expression(latex, _bounded(Fraction(math.factorial(_natural(inner.value, "a factorial")))), POWER)


def binomial(top: Expression, bottom: Expression) -> Expression:
    latex = f"\\binom{{{top.latex}}}{{{bottom.latex}}}"
    if top.value is None or bottom.value is None:
        return Expression(latex)
    counts = [_natural(value, "a binomial coefficient") for value in (top.value, bottom.value)]
    return Expression(latex, _bounded(Fraction(math.comb(*counts))))


def applied(name: str, argument: Expression) -> Expression:
    """A function of latex2sympy2's, `\\name(argument)`."""
    value = combine(lambda at: approximation.function(name, at), near(argument))
    return Expression(f"\\{name}({argument.latex})", sampled=value)


def rounded(argument: Expression, up: bool) -> Expression:
    if argument.value is not None:
        return rational(math.ceil(argument.value) if up else math.floor(argument.value))
    kind = "ceil" if up else "floor"
    return Expression(f"\\l{kind} {argument.latex} \\r{kind}")


# -- exact values


def _folded(
    operation: Callable[[Fraction, Fraction], Fraction], one: Expression, other: Expression
) -> Fraction | None:
    if one.value is None or other.value is None:
        return None
    return _bounded(operation(one.value, other.value))


def _bounded(value: Fraction) -> Fraction:
    if max(value.numerator.bit_length(), value.denominator.bit_length()) > MAX_BITS:
        raise Refused(f"a number of more than {MAX_BITS:,} bits")
    return value


def _natural(value: Fraction, what: str) -> int:
    if value.denominator != 1 or value < 0:
        raise Unreadable(f"{what} of a number that is no natural number")
    if value > MAX_FACTORIAL:
        raise Refused(f"{what} of a number above {MAX_FACTORIAL:,}")
    return int(value)


def _power_value(base: Expression, exponent: Expression) -> Fraction | None:
    if base.value is None or exponent.value is None or exponent.value.denominator != 1:
        return None
    if base.value in (0, 1, -1):
        return base.value ** int(exponent.value % 2 if base.value else exponent.value)
    bits = max(base.value.numerator.bit_length(), base.value.denominator.bit_length())
    if abs(exponent.value) * bits > MAX_BITS:
        raise Refused(f"a power of more than {MAX_BITS:,} bits")
    return base.value ** int(exponent.value)


def _integer_root(radicand: int, degree: int) -> int | None:
    """The exact root of a natural number; None when there is none, or floating point cannot find it."""
    if degree == 2:
        found = math.isqrt(radicand)
    else:
        found = round(radicand ** (1 / degree)) if radicand < 2**53 else 0
    return found if found**degree == radicand else None
