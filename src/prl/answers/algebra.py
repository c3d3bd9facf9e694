"""What needs sympy, inside a worker: latex2sympy2 reads the expressions, their values are compared.

Two expressions are equal when their exact difference is zero or vanishes, to 40 digits, at fixed sample
points of both signs. That decides polynomials in any form, roots and trigonometry alike, in a millisecond and
without `simplify`, whose run time has no bound. Only `translation.translate` writes what is read here:
latex2sympy2 never sees a model's own text.
"""

# ruff: noqa: SIM905 (lists of names read better as words)

from __future__ import annotations

import re
from fractions import Fraction
from functools import lru_cache

import latex2sympy2
import mpmath  # type: ignore[import-untyped]
import sympy
from antlr4 import PredictionMode  # type: ignore[import-untyped]

from prl.answers import spans
from prl.answers.evaluation import value
from prl.answers.expression import E_NAME, I_NAME
from prl.answers.limits import Refused, Unreadable
from prl.answers.spans import FAR, Span

_DIGITS = 100
# One-token names for up to 26 variables; \\iota and \\eta are kept for i and e.
_NAMES = [
    f"\\{name}"
    for name in "alpha beta gamma delta zeta theta kappa lambda mu nu xi rho sigma tau upsilon chi psi omega "
    "Gamma Delta Theta Lambda Xi Sigma Phi Omega".split()
]
_CONSTANTS = {sympy.Symbol("iota"): sympy.I, sympy.Symbol("eta"): sympy.E}
_RELATIONS = {"<": sympy.Lt, ">": sympy.Gt, "<=": sympy.Le, ">=": sympy.Ge, "=": sympy.Eq, "!=": sympy.Ne}
_CODE = re.compile(r"x_\{\d+\}")


class _SllParser(latex2sympy2.PSParser):
    """latex2sympy2's parser in ANTLR's SLL mode, 20 to 100 times faster on powers and functions.

    Where SLL succeeds it gives the parse that full LL gives (Parr, The Definitive ANTLR 4 Reference, section
    13.7); where it fails, LL is tried.
    """

    def __init__(self, tokens: object) -> None:
        super().__init__(tokens)
        self._interp.predictionMode = PredictionMode.SLL


_PARSERS = (_SllParser, latex2sympy2.PSParser)


def named(*latex: str) -> list[str]:
    """`latex`, several texts, with their variables `x_{n}` renamed alike to names that latex2sympy2 reads as
    one token."""
    codes = sorted({code for text in latex for code in _CODE.findall(text)} - {I_NAME, E_NAME})
    if len(codes) > len(_NAMES):
        raise Refused(f"more than {len(_NAMES)} variables")
    names = {**dict(zip(codes, _NAMES, strict=False)), I_NAME: r"\iota", E_NAME: r"\eta"}
    return [_CODE.sub(lambda match: names[match.group()] + " ", text) for text in latex]


@lru_cache(maxsize=512)
def parse(latex: str) -> sympy.Expr:
    """The sympy expression of LaTeX that `translate` wrote and `named` renamed. Raises Unreadable.

    latex2sympy2 keeps variable tables between calls (a differential in one answer once broke every later
    one): they are emptied first.
    """
    failure: Exception | None = None
    for parser in _PARSERS:
        latex2sympy2.variances, latex2sympy2.var = {}, {}
        latex2sympy2.PSParser = parser
        try:
            parsed = latex2sympy2.latex2sympy(latex)
        except RecursionError as error:
            raise Refused("nested too deep to parse") from error
        except Exception as error:  # latex2sympy2 raises bare Exception for a syntax error
            failure = error
            continue
        if not isinstance(parsed, sympy.Expr):
            raise Unreadable(f"latex2sympy2 read a {type(parsed).__name__}")
        return parsed.xreplace(_CONSTANTS)
    raise Unreadable(
        f"latex2sympy2: {str(failure).splitlines()[0] if str(failure) else type(failure).__name__}"
    )


def equal(left: str, right: str) -> bool:
    """Whether two expressions are the same function of their real variables."""
    if left == right:
        return True
    one, other = map(parse, named(left, right))
    return _vanishes(one, other)


def constant(latex: str) -> Fraction | None:
    """A real constant to 40 decimals; None when it has variables or is not real."""
    expression = parse(*named(latex))
    return None if expression.free_symbols else _real(expression)


def proportional(left: str, right: str) -> int:
    """Sign of the real constant c ≠ 0 for which left = c · right everywhere; 0 when there is none."""
    return _constant_ratio(*map(parse, named(left, right)))


def same_zeros(left: str, right: str) -> bool:
    """Whether left = 0 and right = 0 are one equation.

    They are multiples of each other, or their numerators over a common denominator are: y = 1/x, xy = 1.
    """
    one, other = map(parse, named(left, right))
    if _constant_ratio(one, other):
        return True
    numerators = [sympy.together(side).as_numer_denom()[0] for side in (one, other)]
    return _constant_ratio(*numerators) != 0


def _constant_ratio(one: sympy.Expr, other: sympy.Expr) -> int:
    if one.free_symbols != other.free_symbols or not one.free_symbols:
        return 0
    ratio = None
    tiny = mpmath.mpf(10) ** -30
    with mpmath.workdps(_DIGITS):
        for point in _points(one.free_symbols):
            top, bottom = value(one, point, real=False), value(other, point, real=False)
            if top is None or bottom is None or abs(bottom) < tiny:
                continue
            quotient = top / bottom
            if abs(mpmath.im(quotient)) > tiny or abs(quotient) < tiny:
                return 0
            if ratio is not None and abs(quotient - ratio) > tiny * abs(ratio):
                return 0
            ratio = quotient
    return 0 if ratio is None else (1 if mpmath.re(ratio) > 0 else -1)


def solve(sides: tuple[str, str], sign: str) -> list[Span] | None:
    """The real solutions of a relation in one variable, ends to 30 decimals; None when sympy cannot tell."""
    left, right = map(parse, named(*sides))
    symbols = left.free_symbols | right.free_symbols
    if len(symbols) != 1:
        return None
    to_real = dict.fromkeys(symbols, sympy.Symbol("t", real=True))
    try:
        relation = _RELATIONS[sign](*(side.xreplace(to_real).doit() for side in (left, right)))
        solutions = sympy.S.Reals if relation == sympy.true else relation.as_set()
    except Exception as error:  # sympy's solvers raise whatever they meet
        raise Unreadable(f"cannot solve the relation: {type(error).__name__}") from error
    found: list[Span] = []
    for piece in solutions.args if isinstance(solutions, sympy.Union) else (solutions,):
        if isinstance(piece, sympy.FiniteSet):
            ends = [(end, end, True, True) for end in map(_bound, piece)]
        elif isinstance(piece, sympy.Interval):
            ends = [(_bound(piece.start), _bound(piece.end), not piece.left_open, not piece.right_open)]
        elif piece is sympy.S.EmptySet:
            continue
        else:
            return None
        for low, high, low_closed, high_closed in ends:
            if low is None or high is None:
                return None
            found.append(spans.span(low, high, low_closed, high_closed))
    return spans.union(found)


def _bound(end: sympy.Expr) -> Fraction | None:
    if end in (sympy.oo, -sympy.oo):
        return FAR if end == sympy.oo else -FAR
    real = _real(end)
    return None if real is None else spans.rounded(real)


def _real(expression: sympy.Expr) -> Fraction | None:
    """The value of a constant expression; None when it is not real."""
    with mpmath.workdps(_DIGITS):
        found = value(expression, {}, real=True)
        if found is None or not mpmath.isfinite(found):
            return None
        sign, mantissa, exponent, _ = mpmath.re(found)._mpf_
    magnitude = Fraction(int(mantissa)) * Fraction(2) ** int(exponent)
    return -magnitude if sign else magnitude


# Signs of up to three variables at the four sample points: each two variables meet all four pairs of signs.
_SIGNS = ((1, -1, 1, -1), (1, 1, -1, -1), (1, -1, -1, 1))
_SCALES = (3, 3, 17, 31)


def _points(symbols: set[sympy.Symbol]) -> list[dict[sympy.Symbol, mpmath.mpf]]:
    """Four fixed sample points: irrational-looking reals of both signs, two of them larger than the rest."""
    points = []
    for sample, scale in enumerate(_SCALES):
        point = {}
        for index, symbol in enumerate(sorted(symbols, key=str)):
            fraction = mpmath.frac(mpmath.sqrt(2 + 3 * index + 7 * sample) * (sample + mpmath.phi))
            point[symbol] = _SIGNS[index % 3][sample] * (fraction * scale + mpmath.mpf(1) / 7)
        points.append(point)
    return points


def _vanishes(left: sympy.Expr, right: sympy.Expr) -> bool:
    """Whether left = right at the sample points at which both are defined: √(xy) is √x √y, ln x² 2 ln x."""
    symbols = left.free_symbols | right.free_symbols
    if not symbols:
        return _same_constant(left, right)
    for real in [False] if _complex(left, right) else [True, False]:  # nowhere real: principal values decide
        with mpmath.workdps(_DIGITS):
            values = [[value(side, point, real=real) for side in (left, right)] for point in _points(symbols)]
            defined = [pair for pair in values if None not in pair]
            if defined:
                return all(_close(*pair) for pair in defined)
    return False


def _same_constant(left: sympy.Expr, right: sympy.Expr) -> bool:
    """Whether two constants agree to 40 decimals, or to 40 digits where they are small."""
    for real in [False] if _complex(left, right) else [True, False]:
        with mpmath.workdps(_DIGITS):
            sizes: list[mpmath.mpc] = [value(side, {}, real=real) for side in (left, right)]
            if None in sizes:
                continue
            if not all(map(mpmath.isfinite, sizes)):
                return bool(sizes[0] == sizes[1])
            digits = int(mpmath.log10(max(1, *map(abs, sizes)))) + _DIGITS
        if digits > 20 * _DIGITS:
            raise Refused("a constant too large to compare")
        with mpmath.workdps(digits):
            one, other = (mpmath.mpmathify(value(side, {}, real=real)) for side in (left, right))
            tolerance = mpmath.mpf(10) ** -40 * min(1, max(abs(one), abs(other)))
            return bool(abs(one - other) <= tolerance)
    return False


def _complex(*sides: sympy.Expr) -> bool:
    return any(side.has(sympy.I) for side in sides)


def _close(one: mpmath.mpc, other: mpmath.mpc) -> bool:
    if not (mpmath.isfinite(one) and mpmath.isfinite(other)):
        return bool(one == other)
    return bool(abs(one - other) <= mpmath.mpf(10) ** -40 * max(abs(one), abs(other), mpmath.mpf(10) ** -10))
