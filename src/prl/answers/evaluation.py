"""Values of sympy expressions at a point, in mpmath's current precision.

Two readings of roots and logarithms: over the reals, where the cube root of -8 is -2 and the square root of
-4 is undefined, for expressions that do not speak of i; and principal complex values for those that do.
"""

# ruff: noqa: SIM905 (lists of names read better as words)

from __future__ import annotations

import mpmath  # type: ignore[import-untyped]
import sympy

from prl.answers.limits import Refused, Unreadable

Point = dict[sympy.Symbol, mpmath.mpf]

_MAX_EXPONENT = 10**6
_MAX_FACTORIAL = 5000
_FUNCTIONS = {
    **{name: getattr(mpmath, name) for name in "sin cos tan cot sec csc sinh cosh tanh exp".split()},
    **{name: getattr(mpmath, name) for name in "asin acos atan acot asec acsc".split()},
    **{name: getattr(mpmath, name) for name in "floor factorial binomial".split()},
    "Abs": mpmath.fabs,
    "ceiling": mpmath.ceil,
}


def value(expression: sympy.Expr, point: Point, *, real: bool) -> mpmath.mpc | None:
    """The value at `point`; None where it is undefined, which over the reals includes what is not real.

    Raises Unreadable for what has no numeric value here, Refused for what is too large to compute.
    """
    try:
        found = _value(expression, point, real)
    except ZeroDivisionError:  # also raised below for what is undefined
        return None
    except (ValueError, OverflowError, TypeError) as error:
        raise Unreadable(f"cannot evaluate: {error}") from error
    if real and mpmath.im(found) != 0:
        return None
    return found


def _value(expression: sympy.Expr, point: Point, real: bool) -> mpmath.mpc:
    if expression.is_Symbol:
        return point[expression]
    if expression.is_Rational:
        return mpmath.mpf(expression.p) / expression.q
    if expression in _NUMBERS:
        return _NUMBERS[expression]()
    if expression.is_Pow:
        return _power(expression, point, real)
    arguments = [_value(part, point, real) for part in expression.args]
    if not arguments:
        raise Unreadable(f"{expression} has no value")
    if expression.is_Add:
        return mpmath.fsum(arguments)
    if expression.is_Mul:
        return mpmath.fprod(arguments)
    return _function(expression.func.__name__, arguments, real)


_NUMBERS = {
    sympy.pi: mpmath.pi,
    sympy.E: mpmath.e,
    sympy.I: lambda: mpmath.mpc(0, 1),
    sympy.oo: lambda: mpmath.inf,
    -sympy.oo: lambda: -mpmath.inf,
}


def _power(expression: sympy.Expr, point: Point, real: bool) -> mpmath.mpc:
    base, exponent = (_value(part, point, real) for part in expression.args)
    if base == 0:
        if mpmath.re(exponent) < 0:
            raise ZeroDivisionError
        return mpmath.power(base, exponent)
    if abs(exponent) * (1 + abs(mpmath.log(base))) > _MAX_EXPONENT:
        raise Refused(f"a power beyond e^{_MAX_EXPONENT:,}")
    if not real or mpmath.im(base) != 0 or base > 0:
        return mpmath.power(base, exponent)
    exact = expression.exp if expression.exp.free_symbols else expression.exp.doit()
    if not exact.is_Rational or exact.q % 2 == 0:
        raise ZeroDivisionError
    size = mpmath.power(-base, exponent)
    return -size if exact.p % 2 else size


def _function(name: str, arguments: list[mpmath.mpc], real: bool) -> mpmath.mpc:
    first = arguments[0]
    if name == "log":
        if first == 0 or (real and any(mpmath.im(each) == 0 and each < 0 for each in arguments)):
            raise ZeroDivisionError
        logarithms = [mpmath.log(each) for each in arguments]
        return logarithms[0] / logarithms[1] if len(logarithms) == 2 else logarithms[0]
    if name not in _FUNCTIONS:
        raise Unreadable(f"a function {name} without a value")
    limit = _MAX_FACTORIAL if name in ("factorial", "binomial") else _MAX_EXPONENT
    if abs(first) > limit and name not in ("Abs", "floor", "ceiling"):
        raise Refused(f"{name} of a number above {limit:,}")
    return _FUNCTIONS[name](*arguments)
