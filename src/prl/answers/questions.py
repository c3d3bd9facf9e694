"""What a comparison asks of algebra: sympy in a worker (`algebra`), nobody in the parent process."""

from __future__ import annotations

from fractions import Fraction
from typing import Protocol

from prl.answers.spans import Span


class NeedsAlgebra(Exception):
    """The pair cannot be decided by exact rational arithmetic and structure."""


class Algebra(Protocol):
    """What a worker answers about LaTeX that `translation.translate` wrote."""

    def equal(self, left: str, right: str) -> bool:
        """Whether two expressions are the same function of their variables."""

    def constant(self, latex: str) -> Fraction | None:
        """A real constant to 40 decimals; None when it is not real or has variables."""

    def proportional(self, left: str, right: str) -> int:
        """Sign of the constant c ≠ 0 with left = c · right; 0 when there is none."""

    def same_zeros(self, left: str, right: str) -> bool:
        """Whether left = 0 and right = 0 are the same equation."""

    def solve(self, sides: tuple[str, str], sign: str) -> list[Span] | None:
        """The real solutions of a relation in one variable, as spans; None when it cannot tell."""


def asked(algebra: Algebra | None) -> Algebra:
    """Who answers; raises NeedsAlgebra where nobody does."""
    if algebra is None:
        raise NeedsAlgebra
    return algebra
