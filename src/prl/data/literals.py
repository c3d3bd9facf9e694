"""Lists, dictionaries, numbers and LaTeX as files hold them: stored as text, or escaped once too often."""

from __future__ import annotations

import ast
import json
import re
import warnings
from collections import Counter
from decimal import Decimal, InvalidOperation
from typing import Any


def _exact(number: str) -> Decimal:
    """Raises ValueError where the exponent is beyond those of Decimal."""
    try:
        return Decimal(number)
    except InvalidOperation:
        raise ValueError(f"the number {number[:40]} is out of range") from None


class Repeated(dict[str, Any]):
    """A JSON object in which the keys `again` stand more than once; it holds the last value of each."""

    again: list[str]


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) == len(pairs):
        return found
    repeated = Repeated(found)
    repeated.again = [key for key, count in Counter(key for key, _ in pairs).items() if count > 1]
    return repeated


EXACT = json.JSONDecoder(parse_float=_exact, object_pairs_hook=_pairs)
"""Reads JSON; a number keeps the digits that it is written with, an object says what stands in it twice."""

MAX_STORED = 1_000_000
"""Characters of a list or a dictionary that is decoded."""

MOST_PLACES = 40
"""Digits that a number may need when it is written out; beyond them it keeps its exponent."""

_STRING = r"'(?:[^'\\]|\\.)*+'?|\"(?:[^\"\\]|\\.)*+\"?"  # to its end, also where it has none
_ADJACENT = re.compile(rf"({_STRING}|[}}\]])(\s*(?=['\"{{\[]))?", re.DOTALL)


def decoded(text: str) -> list[Any] | dict[str, Any] | None:
    """The list or dictionary that `text` is: in JSON, or as Python or numpy print it. None for other text.

    Nothing is evaluated. numpy puts no commas between its elements: what stands side by side is two of them,
    never one joined text.

    >>> decoded("['7']"), decoded("{'ground_truth': '7'}"), decoded("['3' '-3']"), decoded("(1, 2]")
    (['7'], {'ground_truth': '7'}, ['3', '-3'], None)
    """
    text = text.strip()
    if not (text.startswith(("[", "{")) and text.endswith(("]", "}")) and len(text) <= MAX_STORED):
        return None
    try:
        found = EXACT.decode(text)
    except (ValueError, RecursionError):
        try:
            with warnings.catch_warnings(action="error"):  # an escape that Python does not know
                found = ast.literal_eval(_ADJACENT.sub(_separated, text))
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError, SyntaxWarning):
            return None
    return found if isinstance(found, list | dict) and found else None


def _separated(found: re.Match[str]) -> str:
    return found[1] if found[2] is None else f"{found[1]},{found[2]}"


def written(number: float | Decimal) -> str:
    """`number` as one would write it, exactly; ValueError where it is none or not finite.

    >>> written(1e22), written(1e-07), written(72.0), written(-0.0), written(1e300)
    ('10000000000000000000000', '0.0000001', '72', '0', '1e+300')
    """
    if isinstance(number, bool) or not isinstance(number, int | float | Decimal):
        raise ValueError(f"is of type {type(number).__name__}, not a number")
    if isinstance(number, int):
        return str(number)
    exact = Decimal(repr(number)) if isinstance(number, float) else number
    if exact.is_nan():
        raise ValueError("is NaN")
    if exact.is_infinite():
        raise ValueError("is infinite")
    if not exact:
        return "0"
    if not -MOST_PLACES < exact.adjusted() < MOST_PLACES:
        return str(exact).lower()
    text = format(exact, "f")
    return text.rstrip("0").rstrip(".") if "." in text else text


_COMMANDS = (
    "alpha angle approx bar because begin beta bigl bigr binom boxed bmod cap cdot cdots ceil circ cong "
    "cos cot csc cup dbinom degree delta dfrac displaystyle div dots emptyset end epsilon equiv exp frac "
    "gamma ge geq hat implies in infty int lambda langle lceil ldots le left leq lfloor lim ln log mathbb "
    "mathbf mathcal mathrm max min mod mp mu ne neq omega operatorname overline parallel perp phi pi pm "
    "pmod prod qquad quad rangle rceil rfloor rho right rightarrow sec setminus sigma sim sin sqrt subset "
    "sum tan tau tbinom text textbf tfrac theta times to triangle underline vec"
)
_COMMAND = rf"(?:{'|'.join(_COMMANDS.split())})(?![a-zA-Z])"
_DOUBLED = re.compile(rf"(?<!\\)(?:\\\\)+{_COMMAND}")
_SINGLE = re.compile(r"(?<!\\)(?:\\\\)*\\(?!\\)")
_LOST = {"\b": "b", "\f": "f", "\r": "r", "\t": "t"}
_EATEN = re.compile(
    "\b(?=(?:oxed|eta|egin|inom|ar|igl|igr)[^a-zA-Z])|\f(?=rac[^a-zA-Z])"
    "|\r(?=(?:ight|ho|angle|ceil|floor)[^a-zA-Z])|\t(?=(?:imes|heta|ext|extbf|frac|binom|riangle)[^a-zA-Z])"
)
_UNESCAPED = re.compile(rf"(?<!\\)\\(?={_COMMAND})")


def once_escaped(text: str) -> str | None:
    r"""`text` with `\` for `\\`, where its LaTeX was escaped once too often; else None.

    That is where every backslash is doubled and a command stands behind one of them: in LaTeX as it is meant
    `\\` ends a line, and commands have one backslash.

    >>> once_escaped(r"\\frac{1}{2}"), once_escaped(r"\begin{array} a \\ b")
    ('\\frac{1}{2}', None)
    """
    if "\\\\" not in text or _SINGLE.search(text) or not _DOUBLED.search(text):
        return None
    return text.replace("\\\\", "\\")


def restored(text: str) -> str | None:
    r"""`text` with the backslashes of its LaTeX, where JSON made a control character of one and the first
    letter of a command; else None.

    >>> restored("\frac{1}{2}"), restored("1\t2")
    ('\\frac{1}{2}', None)
    """
    if text.isprintable() or not _EATEN.search(text):
        return None
    return _EATEN.sub(lambda found: "\\" + _LOST[found[0]], text)


def escaped(text: str) -> str:
    r"""`text`, a list or a dictionary as text, with `\\` for `\` before each LaTeX command that stands in it
    unescaped: decoded as it is, `\frac` would begin with a form feed."""
    return _UNESCAPED.sub(r"\\\\", text) if "\\" in text else text
