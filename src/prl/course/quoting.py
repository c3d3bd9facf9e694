"""What others wrote, as Markdown that shows it as it is and can be read as a plain file too.

Source: CommonMark, "Code spans" and "Fenced code blocks": a run of backticks ends what as long a run began.
"""

from __future__ import annotations

import re

from prl.report.lanes import harmless, one_line


def code(text: str) -> str:
    """A code span.

    >>> print(code("a"), code("x`y"), code("`z"))
    `a` ``x`y`` `` `z ``
    """
    text = one_line(text)
    ticks, edge = "`" * (_longest_run(text) + 1), " " * (text[:1] == "`" or text[-1:] == "`" or not text)
    return f"{ticks}{edge}{text}{edge}{ticks}"


def fence(text: str, indent: str = "") -> list[str]:
    """The lines of a fenced block, in the list item that `indent` goes on with."""
    ticks = "`" * max(3, _longest_run(text) + 1)
    return [f"{indent}{line}".rstrip() for line in (ticks, *map(harmless, text.splitlines()), ticks)]


def tags_as_code(text: str) -> str:
    """Our own words, whose tags would be HTML."""
    return re.sub(r"</?\w+>", lambda tag: code(tag[0]), text)


def _longest_run(text: str) -> int:
    return max((len(run) for run in re.findall("`+", text)), default=0)
