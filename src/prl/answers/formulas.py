r"""Formulas in a text: where they are displayed, and what is written around one."""

from __future__ import annotations

import re

DISPLAY = re.compile(r"\\\[(.*?)\\\]|\$\$(.*?)\$\$", re.DOTALL)
_ROWS = re.compile(
    r"(?:\\\[|\$\$)?\s*\\begin\{(align|aligned|gather|gathered|equation|eqnarray|multline|split)\*?\}"
    r"(.*?)\\end\{\1\*?\}\s*(?:\\\]|\$\$)?",
    re.DOTALL,
)
ASSIGNED = re.compile(r"[$(\s]*\\?[a-zA-Z](?:_\{?\w+\}?)?\s*=")
_PAIRS = (("$$", "$$"), ("$", "$"), (r"\(", r"\)"), (r"\[", r"\]"), ("__", "__"), ("_", "_"), ("'", "'"))
# **45** dollars; 2**3**4 is a power
_BOLD = re.compile(r"(?<![\w)}*])\*\*(?=[^\s*])([^*\n]+?)(?<=\S)\*\*(?![\w(*{])")
_LEFT_OVER = re.compile(r"(?<=[^\s*])\*\*(?=\s)")  # of what began in front of a label
_MEANING = re.compile(r"[^\W_]|\\[a-zA-Z]")
_EMPTY = ("N/A", "answer", r"\boxed{}", r"\boxed")


def display_at(text: str) -> str | None:
    """Between the delimiters of the display that `text` begins with; None where it begins with none."""
    display = DISPLAY.match(text.lstrip())
    return (display[1] or display[2] or "") if display else None


def last_rows(text: str) -> str:
    r"""`text` with a display in place of each `align` and its like: of the last row, or of all where each
    gives a value to a name."""
    return _ROWS.sub(_last_row, text) if r"\begin{" in text else text


def _last_row(rows: re.Match[str]) -> str:
    lines = [
        line.strip().rstrip(".,").replace("&", "") for line in rows[2].split(r"\\") if line.strip(" \n&")
    ]
    if not lines or not all(map(ASSIGNED.match, lines)):
        lines = [line.lstrip("= ") for line in lines[-1:]]
    return rf"\[ {', '.join(lines)} \]"


def strip_wrapping(answer: str) -> str:
    """`answer` without surrounding spaces, markdown, math delimiters, quotes and trailing punctuation."""
    if "**" in answer:
        answer = _LEFT_OVER.sub("", _BOLD.sub(r"\1", answer))
    previous = None
    while answer != previous:
        previous = answer
        answer = answer.strip(' \t\r\n\u00a0*`"“”,;')
        if answer.endswith(".") and not answer.endswith(("..", "a.m.", "p.m.")):
            answer = answer[:-1]
        answer = answer.removesuffix(":").removesuffix("\\\\")
        for opening, closing in _PAIRS:
            inner = answer[len(opening) : -len(closing)]
            if inner and answer.startswith(opening) and answer.endswith(closing) and opening not in inner:
                answer = inner.strip()
    return answer


def usable(answer: str) -> str | None:
    """`answer` without its wrapping; None where that says nothing: signs alone, "N/A", an empty box."""
    answer = strip_wrapping(answer)
    return answer if _MEANING.search(answer) and answer not in _EMPTY else None
