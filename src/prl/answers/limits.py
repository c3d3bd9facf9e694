"""What is refused before anything parses it.

Model text is data of any size and shape. These checks are linear in the text and keep every later step, here
and in the workers, within milliseconds; the worker's deadline is the last line of defence, not the first.
"""

from __future__ import annotations

import re

MAX_CHARS = 4000  # the longest answer in MATH has 160
MAX_DEPTH = 40  # nested brackets
MAX_DIGITS = 1000  # of one literal
MAX_BITS = 65536  # of an exact number while it is folded; 2004! has 19,122
MAX_FACTORIAL = 3000
MAX_POWER_CHAIN = 4  # a^{b^{c^{d}}}
MAX_CELLS = 400  # entries of a matrix, items of a list

_LONG_NUMBER = re.compile(rf"\d{{{MAX_DIGITS + 1}}}")
_OPENING, _CLOSING = frozenset("([{"), frozenset(")]}")


class Refused(Exception):
    """The text is larger, deeper or heavier than an answer can be; the message says by which rule."""


class Unreadable(Exception):
    """The text is not an answer that this package can read; the message says where reading stopped."""


def check_size(text: str) -> None:
    """Raise `Refused` when `text` is over a size limit. Linear; looks at no more than `MAX_CHARS`
    characters."""
    if _LONG_NUMBER.search(text):
        raise Refused(f"a number of more than {MAX_DIGITS:,} digits")
    depth = chain = 0
    for character in text:
        if character in _OPENING:
            depth += 1
            if depth > MAX_DEPTH:
                raise Refused(f"brackets nested deeper than {MAX_DEPTH}")
        elif character in _CLOSING:
            depth -= 1
            chain = 0 if depth <= 0 else chain
        elif character == "^":
            chain += 1
        elif character in "+-=,;&":
            chain = 0
        if chain > MAX_POWER_CHAIN * 4:
            raise Refused("a tower of powers")
    if text.count("&") > MAX_CELLS or text.count(",") > MAX_CELLS:
        raise Refused(f"more than {MAX_CELLS} entries")
