"""What needs sympy, inside a worker: latex2sympy2 reads the expressions, their values are compared.

Two expressions are equal when their exact difference is zero or vanishes, to 40 digits, at fixed sample
points of both signs. That decides polynomials in any form, roots and trigonometry alike, in a millisecond and
without `simplify`, whose run time has no bound. Only `translation.translate` writes what is read here:
latex2sympy2 never sees a model's own text.
"""

# ruff: noqa: SIM905 (lists of names read better as words)
# ruff: noqa: E402 (what antlr4 looks for is there before it is imported)

from __future__ import annotations

import operator
import re
import sys
import typing
from fractions import Fraction
from functools import lru_cache
from itertools import pairwise, product

from prl.errors import first_line

# antlr4 4.7.2, which latex2sympy2 1.9.1 pins, imports `typing.io`, gone since Python 3.13.
sys.modules.setdefault("typing.io", typing)

import latex2sympy2
import mpmath  # type: ignore[import-untyped]
import sympy
from antlr4 import (  # type: ignore[import-untyped]
    ParserATNSimulator,
    ParserRuleContext,
    PredictionMode,
    Token,
    TokenStream,
)

from prl.answers import spans
from prl.answers.evaluation import value
from prl.answers.expression import E_NAME, I_NAME
from prl.answers.limits import Refused, Unreadable
from prl.answers.spans import FAR, Span

_DIGITS = 100
_MAX_DEGREE = 24  # of a relation that is solved, both sides together; answers have 2 to 6
# One-token names for up to 26 variables; \\iota and \\eta are kept for i and e.
_NAMES = [
    f"\\{name}"
    for name in "alpha beta gamma delta zeta theta kappa lambda mu nu xi rho sigma tau upsilon chi psi omega "
    "Gamma Delta Theta Lambda Xi Sigma Phi Omega".split()
]
_CONSTANTS = {sympy.Symbol("iota"): sympy.I, sympy.Symbol("eta"): sympy.E}
_RELATIONS = {"<": sympy.Lt, ">": sympy.Gt, "<=": sympy.Le, ">=": sympy.Ge, "=": sympy.Eq, "!=": sympy.Ne}
_CODE = re.compile(r"x_\{\d+\}")


class _Prediction(ParserATNSimulator):
    """ANTLR's choices in SLL mode, 20 to 100 times faster than full LL on powers and functions.

    Where SLL succeeds it gives the parse that LL gives (Parr, The Definitive ANTLR 4 Reference, section
    13.7). Two choices look ahead to the end of the text and took most of the time on a form not met before,
    but are plain in what `translate` writes: an expression is no list, and a product goes on at `\\cdot`.
    """

    def adaptivePredict(self, stream: TokenStream, decision: int, context: ParserRuleContext) -> int:
        if decision == _LIST_OR_NOT:
            return 1
        if decision == _PRODUCT_GOES_ON:
            goes_on = stream.LA(1) == self.parser.CMD_CDOT and self.parser.precpred(self.parser._ctx, 2)
            return 1 if goes_on else 2
        return super().adaptivePredict(stream, decision, context)


_LIST_OR_NOT, _PRODUCT_GOES_ON = 0, 18  # decisions of latex2sympy2 1.9.1's grammar


class _Parser(latex2sympy2.PSParser):
    """latex2sympy2's parser with these choices, for all of the text."""

    def __init__(self, tokens: TokenStream) -> None:
        super().__init__(tokens)
        self._interp = _Prediction(self, self.atn, self.decisionsToDFA, self.sharedContextCache)
        self._interp.predictionMode = PredictionMode.SLL

    def math(self) -> ParserRuleContext:
        found = super().math()
        if self._input.LA(1) != Token.EOF:
            raise Unreadable("a part only")
        return found


latex2sympy2.PSParser = _Parser


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
    latex2sympy2.variances, latex2sympy2.var = {}, {}
    try:
        parsed = latex2sympy2.latex2sympy(latex)
    except RecursionError as error:
        raise Refused("nested too deep to parse") from error
    except Exception as error:  # latex2sympy2 raises bare Exception for a syntax error
        raise Unreadable(f"latex2sympy2: {first_line(error)}") from error
    if not isinstance(parsed, sympy.Expr):
        raise Unreadable(f"latex2sympy2 read a {type(parsed).__name__}")
    return parsed.xreplace(_CONSTANTS)


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
    real = sympy.Symbol("t", real=True)
    to_real = dict.fromkeys(symbols, real)
    try:
        left, right = (side.xreplace(to_real).doit() for side in (left, right))
        if _degree(left) + _degree(right) > _MAX_DEGREE:
            raise Refused(f"a relation of a degree above {_MAX_DEGREE}")
        if (found := _solve_by_signs(left - right, real, sign)) is not None:
            return found
        relation = _RELATIONS[sign](left, right)
        solutions = sympy.S.Reals if relation == sympy.true else relation.as_set()
    except Refused:
        raise
    except Exception as error:  # sympy's solvers raise whatever they meet
        raise Unreadable(f"cannot solve the relation: {type(error).__name__}") from error
    found = []
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


def _degree(expression: sympy.Expr) -> int:
    """A bound of the degrees of the polynomials that solving meets."""
    if expression.is_Symbol:
        return 1
    inside = sum(map(_degree, expression.args))
    if expression.is_Pow and expression.exp.is_Rational:
        return int(sympy.ceiling(abs(expression.exp))) * inside
    return inside


def _solve_by_signs(difference: sympy.Expr, symbol: sympy.Symbol, sign: str) -> list[Span] | None:
    """Where `difference` `sign` 0 holds, for a rational function with rational coefficients and at most three
    absolute values; None for another.

    It keeps its sign between the zeros and poles of all ways to drop the absolute values.
    """
    absolutes = sorted(difference.atoms(sympy.Abs), key=str)
    if len(absolutes) > 3:
        return None
    insides = [each.args[0] for each in absolutes]
    branches = [
        difference.xreplace(dict(zip(absolutes, choice, strict=True)))
        for choice in product(*((inside, -inside) for inside in insides))
    ]
    zeros: dict[Fraction, Fraction] = {}  # rounded -> to 90 digits
    poles: dict[Fraction, Fraction] = {}
    try:
        for each in branches + insides:
            top, bottom = sympy.together(each).as_numer_denom()
            zeros |= _real_roots(top, symbol)
            poles |= _real_roots(bottom, symbol)
    except sympy.polys.polyerrors.BasePolynomialError:
        return None
    edges = zeros | poles
    ordered = sorted(edges)
    middles = [(low + high) / 2 for low, high in pairwise(ordered)]
    samples = [ordered[0] - 1, *middles, ordered[-1] + 1] if ordered else [Fraction(0)]
    with mpmath.workdps(_DIGITS):

        def holds(at: Fraction) -> bool:
            found = value(difference, {symbol: mpmath.mpf(at.numerator) / at.denominator}, real=True)
            if found is None:
                return False
            size = 0 if abs(found) < mpmath.mpf(10) ** -70 else mpmath.re(found)
            return bool(_HOLDS[sign](size, 0))

        solved = [spans.point(edge) for edge in edges.keys() - poles.keys() if holds(edges[edge])]
        for gap, sample in zip(pairwise([-FAR, *ordered, FAR]), samples, strict=True):
            if holds(sample):
                solved.append(spans.span(*gap))
    return spans.union(solved)


_HOLDS = {
    "<": operator.lt,
    ">": operator.gt,
    "<=": operator.le,
    ">=": operator.ge,
    "=": operator.eq,
    "!=": operator.ne,
}


def _real_roots(expression: sympy.Expr, symbol: sympy.Symbol) -> dict[Fraction, Fraction]:
    """Real roots of a polynomial, rounded -> to 90 digits. Raises PolynomialError for anything else."""
    polynomial = sympy.Poly(expression, symbol, domain="QQ")
    if polynomial.degree() < 1:
        return {}
    polynomial = polynomial.sqf_part()
    roots = []
    with mpmath.workdps(_DIGITS):
        coefficients = [mpmath.mpf(each.p) / each.q for each in polynomial.all_coeffs()]
        for low, high in polynomial.intervals(eps=sympy.Rational(1, 10**9), sqf=True):
            root = mpmath.mpf((low + high).p) / (low + high).q / 2
            for _ in range(5 if low < high else 0):  # Newton's steps: each doubles the digits
                level, slope = mpmath.polyval(coefficients, root, derivative=True)
                root -= level / slope
            roots.append(_fraction(root))
            if low < high and not low < roots[-1] < high:
                raise sympy.PolynomialError("roots too close for Newton's steps")
    return {spans.rounded(root): root for root in roots}


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
        return _fraction(mpmath.re(found))


def _fraction(number: mpmath.mpf) -> Fraction:
    """The exact value of a floating-point number."""
    sign, mantissa, exponent, _ = number._mpf_
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
