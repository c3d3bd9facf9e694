"""Numbers that are written in another base, which a subscript or words tell."""

from __future__ import annotations

import re
from dataclasses import replace
from fractions import Fraction

from prl.answers.kinds import Answer
from prl.answers.limits import Unreadable

_NAMES = {
    word: str(n)
    for n, word in enumerate(
        ["two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"], 2
    )
}
_TOLD = re.compile(
    r"^\(?([0-9A-Za-z]+(?:\.[0-9A-Za-z]+)?)\)?\s*(?:\\text\{)?\s*\(?(?:in )?base[- ]?(\w+)\)?\s*\}?$"
)
_DIGITS = re.compile(r"\d[0-9A-Za-z]*(?:\.[0-9A-Za-z]+)?|[A-Z][0-9A-Z]+|[a-z]{2,}")


def told_base(text: str) -> Answer | None:
    """The reading of a number with its base in words, `77 base eight`; None for anything else."""
    if (match := _TOLD.match(text)) is None:
        return None
    base = _NAMES.get(match[2].lower(), match[2])
    return _based(match[1], int(base)) if base.isdecimal() else None


def subscripted_base(items: list[str]) -> Answer | None:
    """The reading of the tokens of a number with its base as an index, `1011_2`; None for anything else."""
    if "_" not in items:
        return None
    if items[0] == "-":
        based = subscripted_base(items[1:])
        return None if based is None else replace(based, text="-" + based.text)
    at = items.index("_")
    digits, base = (re.sub(r"\\text|[\s{}(),]", "", "".join(part)) for part in (items[:at], items[at + 1 :]))
    base = base.lower().removeprefix("base")
    base = _NAMES.get(base, base)
    # A_{16} could be an indexed name; a digit above 9 needs another beside it
    if not base.isdecimal() or not re.fullmatch(_DIGITS, digits):
        return None
    if not digits[0].isdecimal() and int(base) <= 10:
        return None
    return _based(digits, int(base))


def _based(digits: str, base: int) -> Answer:
    if not 2 <= base <= 36:
        raise Unreadable(f"base {base}")
    whole, _, part = digits.upper().partition(".")
    if any(int(digit, 36) >= base for digit in whole + part):
        raise Unreadable(f"{digits} is not written in base {base}")
    if base == 10:
        return Answer("expression", text=digits, value=Fraction(digits))
    return Answer(
        "base",
        text=(whole.lstrip("0") or "0") + ("." + part.rstrip("0") if part.strip("0") else ""),
        value=Fraction(base),
    )


def in_base_ten(answer: Answer) -> Fraction | None:
    """The value of a number in whatever base; None where it is not known exactly."""
    if answer.kind != "base" or answer.value is None:
        return answer.value
    return None if "." in answer.text else Fraction(int(answer.text, int(answer.value)))
