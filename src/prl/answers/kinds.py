"""`Answer`, what `reading.read` makes of a text: a number, a list, an interval …; and questions about one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from prl.answers.expression import E_NAME, I_NAME, Near


@dataclass(frozen=True, slots=True)
class Answer:
    """One reading of an answer.

    kind        items / text
    expression  text: LaTeX for latex2sympy2; value: exact, if rational; unit and percent beside it
    word        text: letters and digits in lower case
    choice      text: the letter in upper case
    base        text: digits; value: the base
    ratio       items: the terms
    list        items, unordered; text "and", "or" or ","
    set         items
    tuple       items; text: its two brackets, e.g. "[)"
    matrix      items: rows, each a tuple
    relation    items: sides; text: signs between them, e.g. "< <="
    member      items: variable, set
    union, intersection, difference   items: sets
    reals, empty
    """

    kind: str
    items: tuple[Answer, ...] = ()
    text: str = ""
    value: Fraction | None = None
    unit: tuple[str, Fraction] | None = None
    percent: bool = False
    near: Near = (None, None)  # of an expression, at two sample points
    counted: str = ""  # what is counted, where that is no known unit: chicken
    digits: int = 0  # significant ones, of a number written as a decimal
    unsigned: Answer | None = None  # an expression without the degree signs in its functions
    alternative: Answer | None = None  # a second reading, taken when the other side is clearly of that kind
    plain: str = ""  # letters and digits as written, for word comparison


def variables(answer: Answer) -> set[str]:
    """The variables of an expression, as its LaTeX names them."""
    found = {f"x_{{{piece.split('}', 1)[0]}}}" for piece in answer.text.split("x_{")[1:]}
    return found - {I_NAME, E_NAME}


def is_name(answer: Answer) -> bool:
    r"""A bare variable or a function of one, `x`, `a_1`, `f(x)`, or a word such as \text{Area}."""
    return answer.kind == "word" or (answer.kind == "expression" and variables(answer) == {answer.text})


def assigned_names(items: Sequence[Answer]) -> list[Answer]:
    """The left sides when every item is an assignment, else nothing."""
    found = [
        item.items[0]
        for item in items
        if item.kind == "relation" and item.text == "=" and is_name(item.items[0])
    ]
    return found if len(found) == len(items) else []
