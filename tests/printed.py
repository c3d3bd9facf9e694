"""What a page shows of a command's output, held against what the command printed, with figures masked."""

from __future__ import annotations

import re
from collections.abc import Sequence

FIGURE = re.compile(r"[+−-]?\d+(?:[.,:/]\d+)*(?:e[+-]?\d+)?")
GAP = "…"
"""A line of a page in whose place any lines may stand."""


def masked(line: str) -> str:
    """A line without its figures, its spaces and the lines of a table, whose widths follow from figures.

    >>> masked("step   20/100  loss 0.8793  lr 4.9e-03"), masked("│ RL │ −91.6 [89.6, 93.4] │")
    ('step # loss # lr #', 'RL # [#, #]')
    """
    return " ".join(re.sub(r"[─-╿]+", " ", FIGURE.sub("#", line)).split())


def missing(page: str, printed: str) -> str | None:
    """The lines of a page's block that do not stand where they should; None where all do. Lines of the block
    follow each other in what was printed, but for what `GAP` stands for; empty ones count for nothing.
    Nothing is missing of a trace: what a model writes hangs on rounding, and tests/test_readme.py parses it.

    >>> missing("a 1\\n…\\na 3\\nc 3", "a 2\\na 3\\na 4\\nc 4"), missing("a 1\\nc 3", "a 2\\nb\\nc 4")
    (None, 'a 1, c 3')
    """
    if "<Path>" in page:
        return None
    told, at = _told(printed), 0
    for part in re.split(rf"^{GAP}$", page, flags=re.MULTILINE):
        wanted = _told(part)
        places = range(at, len(told) - len(wanted) + 1)
        found = next((place for place in places if told[place : place + len(wanted)] == wanted), None)
        if found is None:
            return ", ".join(part.split("\n")).strip(", ")
        at = found + len(wanted)
    return None


def _told(printed: str) -> Sequence[str]:
    return [line for line in map(masked, printed.splitlines()) if line]


def shown(page: str) -> list[tuple[list[str], str]]:
    """The `prl` commands of each `sh` block of a page, and the `text` block after it; empty where none is.

    >>> shown("```sh\\nprl a  # why\\nmake b\\n```\\n\\n```text\\n1\\n```\\n```sh\\nprl c\\n```\\n")
    [(['prl a'], '1\\n'), (['prl c'], '')]
    """
    blocks = re.findall(r"^```sh\n(.*?)^```\n(?:\n*^```text\n(.*?)^```)?", page, re.MULTILINE | re.DOTALL)
    return [
        ([line.partition("  #")[0].strip() for line in lines.splitlines() if line.startswith("prl ")], text)
        for lines, text in blocks
    ]
