r"""From tokens to an expression: what people write, with the meaning that people give it.

Recursive descent that knows what latex2sympy2's grammar does not: `\frac12`, mixed numbers, `x^12`,
`\sin 2x \cos x`, degrees inside functions, repeating decimals, `e` and `i`. Depth is bounded by
`limits.MAX_DEPTH`, time is linear in the tokens for each level.
"""

# ruff: noqa: SIM905 (lists of names read better as words)

from __future__ import annotations

import cmath
import math
import re
from collections.abc import Callable
from fractions import Fraction

from prl.answers import expression as ex
from prl.answers.expression import Expression
from prl.answers.limits import MAX_DEPTH, Refused, Unreadable
from prl.answers.notation import FUNCTIONS, match_groups

_LETTERS = frozenset(
    (
        "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi rho sigma tau upsilon phi "
        "chi psi omega Gamma Delta Theta Lambda Xi Pi Sigma Phi Psi Omega ell hbar uniti unitj unitk"
    ).split()
)
_ACCENTS = frozenset("overline vec hat bar tilde widehat".split())
TRIGONOMETRIC = frozenset("sin cos tan cot sec csc cis".split())
_NUMBER = re.compile(r"\d[\d,]*(?:\.\d*)?|\.\d+")
_STOPS = frozenset(["+", "-", "/", r"\cdot", ",", ", ", ")", "]", "}", "|", "=", "!", ""])
_LONGEST_NAME = 40


def translate(tokens: list[str]) -> Expression:
    """The expression that `tokens` spell out. Raises Unreadable where there is none, Refused over a limit."""
    return _Reader(tokens, match_groups(tokens), 0, len(tokens), 0, degrees=False).whole()


class _Reader:
    """A stretch of tokens, `at` the next one. `degrees`: in a trigonometric argument, where ° has a value."""

    def __init__(
        self, tokens: list[str], closing: dict[int, int], at: int, end: int, depth: int, *, degrees: bool
    ) -> None:
        if depth > MAX_DEPTH:
            raise Refused(f"nested deeper than {MAX_DEPTH}")
        self.tokens, self.closing, self.at, self.end = tokens, closing, at, end
        self.depth, self.degrees = depth, degrees

    def peek(self, ahead: int = 0) -> str:
        return self.tokens[self.at + ahead] if self.at + ahead < self.end else ""

    def take(self) -> str:
        token = self.peek()
        self.at += 1
        return token

    def stretch(self, start: int, end: int, *, degrees: bool = False) -> Expression:
        """The expression of tokens start … end-1, all of them."""
        degrees = degrees or self.degrees
        return _Reader(self.tokens, self.closing, start, end, self.depth + 1, degrees=degrees).whole()

    def group(self) -> Expression:
        """The bracketed expression that starts here."""
        start, end = self.at, self.closing[self.at]
        self.at = end + 1
        return self.stretch(start + 1, end)

    def whole(self) -> Expression:
        at = self.at
        while at < self.end:
            if self.tokens[at] in (r"\over", r"\choose"):
                top, bottom = self.stretch(self.at, at), self.stretch(at + 1, self.end)
                return ex.over(top, bottom) if self.tokens[at] == r"\over" else ex.binomial(top, bottom)
            at = self.closing.get(at, at) + 1
        found = self.sum()
        if self.at < self.end:
            raise Unreadable(f"unexpected {self.peek()!r}")
        return found

    def sign(self) -> int:
        """Of the signs that stand here; 0 when none does."""
        sign = 0
        while self.peek() in ("+", "-"):
            sign = (sign or 1) * (1 if self.take() == "+" else -1)
        return sign

    def sum(self) -> Expression:
        sign = self.sign()
        total = ex.negated(self.product()) if sign < 0 else self.product()
        while sign := self.sign():
            total = ex.plus(total, self.product(), sign)
        return total

    def product(self) -> Expression:
        total = self.power()
        while True:
            token = self.peek()
            if token in ("/", r"\cdot"):
                self.at += 1
                sign = self.sign()
                factor = ex.negated(self.power()) if sign < 0 else self.power()
                total = ex.over(total, factor) if token == "/" else ex.times(total, factor)
            elif (
                token in ("{", "(", "[", "|")
                or token.isalpha()
                or (token[:1] == "\\" and token not in _STOPS)
            ):
                total = ex.times(total, self.power())
            elif _NUMBER.fullmatch(token):
                if _NUMBER.fullmatch(self.tokens[self.at - 1]):
                    raise Unreadable(f"two numbers side by side: {self.tokens[self.at - 1]} {token}")
                total = ex.times(total, self.power())
            else:
                return total

    def power(self) -> Expression:
        base = self.postfix(self.atom())
        if self.peek() != "^":
            return base
        self.at += 1
        result = self.postfix(ex.raised(base, self.exponent()))
        if self.peek() == "^":
            raise Unreadable("a double exponent")
        return result

    def postfix(self, base: Expression) -> Expression:
        while self.peek() in ("!", r"\deg"):
            if self.take() == "!":
                base = ex.factorial(base)
            elif self.degrees:
                base = ex.times(base, ex.over(ex.constant(r"\pi", math.pi), ex.rational(180)))
        return base

    def exponent(self) -> Expression:
        """What stands after `^`: a group, or a sign and one token; `x^12` has both digits, 2^3^2 is 2^9."""
        if self.peek() in ("{", "("):
            return self.group()
        if sign := self.sign():
            inner = self.postfix(self.atom())
            return ex.negated(inner) if sign < 0 else inner
        inner = self.atom()
        if self.peek() == "^":
            self.at += 1
            return ex.raised(inner, self.exponent())
        return inner

    def argument(self) -> Expression:
        r"""A macro's argument: a group, or one token, of which `\frac12` means two digits."""
        token = self.peek()
        if token == "{":
            return self.group()
        if token.isdecimal():
            if len(token) > 1:
                self.tokens[self.at] = token[1:]
            else:
                self.at += 1
            return ex.number(token[0])
        return self.atom()

    def atom(self) -> Expression:
        token = self.peek()
        if not token:
            raise Unreadable("an operand is missing")
        if token in ("(", "{", "["):
            inner = self.group()
            return inner._replace(latex=f"({inner.latex})", loose=ex.ATOM) if inner.loose else inner
        if token == "|":
            return self.absolute()
        if token in (r"\lfloor", r"\lceil"):
            return ex.rounded(self.group(), up=token == r"\lceil")
        self.at += 1
        if _NUMBER.fullmatch(token):
            return self.after_number(ex.number(token), token)
        if token.isalpha() and len(token) == 1:
            return self.letter(token)
        if token.startswith("\\"):
            return self.command(token[1:])
        raise Unreadable(f"unexpected {token!r}")

    def after_number(self, whole: Expression, literal: str) -> Expression:
        r"""`1\frac{4}{5}` and `1 4/5` as 1 + 4/5, `0.\overline{3}` as 1/3; otherwise the number itself."""
        assert whole.value is not None
        period = self.peek(2)
        if "." in literal:
            if (
                self.peek() == r"\overline"
                and self.peek(1) == "{"
                and period.isdecimal()
                and self.peek(3) == "}"
            ):
                self.at += 4
                scale = 10 ** len(literal.partition(".")[2])
                return ex.rational(whole.value + Fraction(int(period), scale * (10 ** len(period) - 1)))
            return whole
        start, tokens = self.at, list(self.tokens)
        part = None
        if self.peek() == r"\frac":
            self.at += 1
            part = self.proper_fraction(self.argument, self.argument)
        elif self.peek().isdecimal() and self.peek(1) == "/" and self.peek(2).isdecimal():
            self.at += 3
            top, bottom = self.tokens[start], self.tokens[start + 2]
            part = self.proper_fraction(lambda: ex.number(top), lambda: ex.number(bottom))
        if part is None or whole.value == 0:
            self.at, self.tokens[:] = start, tokens
            return whole
        mixed = ex.plus(whole, part)
        return mixed._replace(latex=f"({mixed.latex})", loose=ex.ATOM)

    def proper_fraction(
        self, top: Callable[[], Expression], bottom: Callable[[], Expression]
    ) -> Expression | None:
        """top/bottom where both are natural numbers in digits and top < bottom, as in a mixed number."""
        try:
            one, other = top(), bottom()
        except Unreadable:
            return None
        if (
            one.latex.isdecimal()
            and other.latex.isdecimal()
            and one.value
            and other.value
            and one.value < other.value
        ):
            return ex.over(one, other)
        return None

    def letter(self, name: str) -> Expression:
        index = self.index()
        if not index and name in ("e", "i"):
            return ex.constant(ex.E_NAME, cmath.e) if name == "e" else ex.constant(ex.I_NAME, 1j)
        if name in ("f", "g", "h") and self.peek() == "(":
            return ex.variable(f"{name}{index}({self.group().latex})")
        return ex.variable(name + index)

    def index(self) -> str:
        """The subscript that stands here, as text with its underscore; "" when none does."""
        if self.peek() != "_":
            return ""
        self.at += 1
        end = self.closing.get(self.at, self.at)
        inner = "".join(self.tokens[self.at : end + 1]).removeprefix("{").removesuffix("}")
        self.at = end + 1
        return "_" + _named(re.sub(r"\\text\{([^{}]*)\}", r"\1", inner))

    def absolute(self) -> Expression:
        start = end = self.at + 1
        while end < self.end and self.tokens[end] != "|":
            end = self.closing.get(end, end) + 1
        if end >= self.end:
            raise Unreadable("an unclosed |")
        self.at = end + 1
        return ex.absolute(self.stretch(start, end))

    def command(self, name: str) -> Expression:
        if name == "pi":
            return ex.constant(r"\pi", math.pi)
        if name == "infty":
            return Expression(r"\infty")
        if name == "frac":
            return ex.over(self.argument(), self.argument())
        if name == "binom":
            return ex.binomial(self.argument(), self.argument())
        if name == "sqrt":
            index = self.group() if self.peek() == "[" else None
            return ex.root(self.atom(), index)  # \sqrt12 is the root of 12 to those who write it
        if name in FUNCTIONS:
            return self.function(name)
        if name in _LETTERS:
            return ex.variable(f"\\{name}{self.index()}")
        if name.startswith("name{"):  # reading's mark for a name of several tokens
            return ex.variable(_named(name))
        if name in ("angle", "triangle"):
            start = self.at
            while self.peek().isalpha():
                self.at += 1
            return ex.variable(_named(name + "".join(self.tokens[start : self.at])))
        if name in _ACCENTS and self.peek() == "{":
            start, self.at = self.at, self.closing[self.at] + 1
            return ex.variable(_named(name + "".join(self.tokens[start : self.at])))
        raise Unreadable(f"\\{name}")

    def function(self, name: str) -> Expression:
        base = exponent = None
        if name == "log" and self.peek() == "_":
            self.at += 1
            two = len(self.peek()) == 2 and self.peek().isdecimal() and self.peek(1) in _STOPS  # \log_28
            base = self.argument() if two or self.peek() == "{" else self.atom()
        if self.peek() == "^":
            self.at += 1
            exponent = self.exponent()
            if exponent.value == -1 and name in TRIGONOMETRIC:
                name, exponent = "arc" + name, None
        argument = self.function_argument(degrees=name in TRIGONOMETRIC)
        if name == "exp":
            result = ex.raised(ex.constant(ex.E_NAME, cmath.e), argument)
        elif name in ("log", "lg"):
            result = ex.over(ex.applied("ln", argument), ex.applied("ln", base or ex.rational(10)))
        elif name == "cis":
            sine = ex.times(ex.constant(ex.I_NAME, 1j), ex.applied("sin", argument))
            result = ex.plus(ex.applied("cos", argument), sine)
        else:
            result = ex.applied(name, argument)
        if exponent is None:
            return (
                result._replace(latex=f"({result.latex})", loose=ex.ATOM)
                if result.loose == ex.SUM
                else result
            )
        return ex.raised(result._replace(loose=ex.SUM), exponent)

    def function_argument(self, *, degrees: bool) -> Expression:
        r"""A bracketed argument, or the product up to the next operator or function."""
        start = self.at
        if self.peek() == "|":
            return self.absolute()
        if self.peek() in ("(", "{", "["):
            self.at = self.closing[start] + 1
            return self.stretch(start + 1, self.at - 1, degrees=degrees)
        while (token := self.peek()) not in _STOPS:
            is_function = token.startswith("\\") and token[1:] in FUNCTIONS and token != r"\sqrt"
            if is_function or (token in ("(", "[") and self.at > start):
                break
            self.at = self.closing.get(self.at, self.at) + 1
        return self.stretch(start, self.at, degrees=degrees)


def _named(name: str) -> str:
    if not name or len(name) > _LONGEST_NAME:
        raise Unreadable(f"a name of {len(name)} characters")
    return name
