"""Units beside a number: ignored when one side leaves them out, compared when both name one."""

from __future__ import annotations

import re
from fractions import Fraction

from prl.answers.notation import FUNCTIONS, LETTER_UNITS

# dimension -> names of the units with their size in the first one
_TABLE: dict[str, dict[str, str]] = {
    "length": {
        "m meter meters metre metres": "1",
        "mm millimeter millimeters": "1/1000",
        "cm centimeter centimeters centimetre centimetres": "1/100",
        "km kilometer kilometers kilometre kilometres": "1000",
        "in inch inches": "127/5000",
        "ft foot feet": "381/1250",
        "yd yard yards": "1143/1250",
        "mi mile miles": "201168/125",
    },
    "time": {
        "s sec secs second seconds": "1",
        "ms millisecond milliseconds": "1/1000",
        "min mins minute minutes": "60",
        "h hr hrs hour hours": "3600",
        "day days": "86400",
        "week weeks": "604800",
    },
    "months": {"month months": "1", "year years yr yrs": "12"},
    "mass": {
        "g gm gram grams": "1",
        "mg milligram milligrams": "1/1000",
        "kg kilogram kilograms": "1000",
        "t ton tons tonne tonnes": "1000000",
    },
    "weight": {"oz ounce ounces": "1", "lb lbs pound pounds": "16"},
    "volume": {"l liter liters litre litres": "1", "ml milliliter milliliters": "1/1000"},
    "dollar": {"usd dollar dollars": "1", "cent cents": "1/100"},
    "euro": {"eur euro euros": "1"},
    "sterling": {"gbp": "1", "pence": "1/100"},
    "yen": {"jpy yen": "1"},
    "rupee": {"inr rupee rupees": "1"},
    "angle": {"deg": "1"},
    "celsius": {"celsius": "1"},
    "fahrenheit": {"fahrenheit": "1"},
    "radian": {"rad radian radians": "1"},
}
_UNITS = {
    name: (dimension, Fraction(size))
    for dimension, names in _TABLE.items()
    for group, size in names.items()
    for name in group.split()
}
_ABBREVIATIONS = {"mph": "mile/hour", "kph": "km/hour"}
_CURRENCY = frozenset([r"\usd", r"\eur", r"\gbp", r"\jpy", r"\inr"])
_TAIL = frozenset(["^", "{", "}", "/", "(", ")", r"\cdot", "-"])
_NO_UNIT = re.compile(  # 5 metres or feet have neither unit; and 5 "that is impossible" is not 5
    r"\b(?:or|not(?! counting| including)|never|cannot)\b|n['’]t\b"
    r"|\b(?:is|are|was|were)\W+(?:[a-z]+\W+)?(?:impossible|incorrect|wrong|false|invalid)\b"
)
_POWER_WORDS = {"square": 2, "sq": 2, "squared": 2, "cubic": 3, "cu": 3, "cubed": 3}


def split_unit(items: list[str]) -> tuple[list[str], tuple[str, Fraction] | None]:
    """`items` without the unit or currency beside the expression, and its (dimension, size) when it is a
    known one."""
    if items[0] in _CURRENCY and len(items) > 1:
        body, _ = split_unit(items[1:])  # $5 per hour
        if body[-1:] == ["/"] and len(body) < len(items) - 1:
            return body[:-1], known_unit(_in_words([items[0], *items[len(body) :]]))
        return body, known_unit(items[0]) if len(body) == len(items) - 1 else None
    if items[0] == "-" and len(items) > 2 and items[1] in _CURRENCY:
        return ["-", *items[2:]], known_unit(items[1])
    if items[-1] in _CURRENCY:
        return items[:-1], known_unit(items[-1])
    if items[-1] == r"\deg" and not any(token[1:] in FUNCTIONS for token in items):
        return items, known_unit("deg")
    start = next((index for index, token in enumerate(items) if token.startswith(r"\text") and index), None)
    if start is None or not all(
        _in_unit(items[index - 1], items[index]) for index in range(start, len(items))
    ):
        return items, None
    body, tail = items[:start], _in_words(items[start:])
    if _NO_UNIT.search(tail):
        return items, None
    while body and body[-1] == r"\cdot":
        body = body[:-1]
    return body, known_unit(tail)


def _in_words(items: list[str]) -> str:
    return re.sub(r"\\text\{([^{}]*)\}", r" \1 ", "".join(items))


def _in_unit(before: str, token: str) -> bool:
    """Whether `token` can stand in a unit; a digit only as an exponent: 2 hours 30 minutes is none."""
    if token.isdecimal():
        return before in ("^", "{")
    return token.startswith(r"\text") or token in _TAIL or token in LETTER_UNITS


def known_unit(text: str) -> tuple[str, Fraction] | None:
    """(dimension, size) of a unit such as "square feet", "cm^{2}", "km/h"; None when a name is unknown."""
    dimension, size = "", Fraction(1)
    text = text.lower().strip()
    for place, part in enumerate(re.split(r"/|\bper\b", _ABBREVIATIONS.get(text, text))):
        power, names = 1, []
        for word in re.findall(r"[a-z]+|\d", part):
            if word in _POWER_WORDS or word.isdecimal():
                power = _POWER_WORDS.get(word) or int(word)
            else:
                names.append(word)
        if len(names) != 1 or names[0] not in _UNITS:
            return None
        base, factor = _UNITS[names[0]]
        dimension += f"{'/' if place else ''}{base}^{power}"
        size *= factor**power if place == 0 else Fraction(1) / factor**power
    return dimension, size
