r"""The quantities of a sentence: stretches of mathematics with words between them.

A stretch is what TeX delimits, numbers, commands, signs, brackets, and the unit behind it.
"""

# ruff: noqa: SIM905 (lists of names read better as words)

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

_PIECE = re.compile(
    r"(?P<quantity>\$\$(?:[^$\\]|\\.)+\$\$|\\\[.*?\\\]|\\\(.*?\\\)"
    r"|\\text\s*\{\s*\d[\d:.,]*\s*(?:[ap]\.?\s?m\.?)?\s*\}"
    r"|(?<!\\)\$(?!\d[\d.,]*[ ,.][^$\\]*[a-z]{2}[^$\\]*\$\d)(?:[^$\\]|\\.)+\$"  # no "$18 and spends $20"
    r"|\\begin\{.*?\\end\{\w+\*?\}"
    r"|\d{1,2}:\d\d(?:\s?[ap]\.?m\b\.?)?"
    r"|(?:\\?[$€£¥₹] ?)?(?:\d[\d.,]*(?<![.,])|\.\d+)(?!\d*(?:st|nd|rd|th)\b)|[π∞])"
    r"|\\(?:text(?:bf|it|rm)?|mbox|mathrm)\s*\{(?P<text>[^{}\d]*)\}(?:\^\{?\d\}?)?"
    r"|(?P<space>\s+|\\[,;:! ]|\*\*"
    r"|\\(?:q?quad|left|right|text(?:bf|it|rm)?|mbox|mathrm|displaystyle)(?![a-zA-Z]))"
    r"|(?P<command>\\[a-zA-Z]+|\\.)"
    r"|(?P<word>[^\W\d_]{1,5}/[^\W\d_]{1,5}(?![^\W\d_])|(?:\d+(?:st|nd|rd|th)\b)"
    r"|[^\W\d_¹²³⁰⁴-⁹]+(?:['’-][^\W\d_]+)*)"
    r"|(?P<mark>.)",
    re.DOTALL,
)
_SIGNS = frozenset("¹²³⁰⁴⁵⁶⁷⁸⁹+-−–*/^_=<>≤≥≠≈±∓∞√π°%()[]{}|×÷·∪∩∈∅⁄⟨⟩!'&€£¥₹$")
_OPENING, _CLOSING = "([{⟨", ")]}⟩"
_FUNCTIONS = frozenset("sin cos tan cot sec csc ln log lg exp sqrt pi infinity arcsin arccos arctan".split())
JOINING = frozenset(", ; & and or".split())
PREPOSITIONS = frozenset(
    "after in within when if for at over during on until before since where with from while through via "
    "among per every each across of out to".split()
)
NO_UNIT = PREPOSITIONS.union(
    JOINING,
    "of to by as a an the than is are was were will be that this it which who there then so but not because "
    "given using he she they we you her his their its has have had therefore thus hence more less left only "
    "total altogether works do does did can could should would must cannot gives leaves makes".split(),
)
_LONGEST_UNIT = 3  # words
_NAME = re.compile(r"\$\s*[a-zA-Z]\s*\$")  # a variable
_WORD = re.compile(r"[^\W\d_]+|[,;]")
_IN_RATIO = re.compile(r":(?<=\d:)\d")
_BESIDE_A_SIGN = re.compile(r".\s*(?:[=<>+*/^_≤≥-]|\\(?:le|ge|lt|gt|in|ne|cdot|times)\b)")


class Stretch(NamedTuple):
    """Place in the sentence, unit included; the words and marks between it and the stretch before, and those
    between it and the one behind."""

    start: int
    end: int
    text: str
    before: list[str]
    behind: list[str]


def stretches(sentence: str) -> tuple[list[Stretch], list[str]]:
    """The stretches of `sentence` that hold a quantity, and the words and marks behind the last of them: all
    of its words where it holds none."""
    found: list[Stretch] = []
    words: list[str] = []
    start = end = -1  # of the stretch that goes on; -1 where none does
    is_quantity = False
    unit = 0  # words that may yet belong to the unit behind the last stretch
    for kind, begin, stop, token in [*_pieces(sentence), ("mark", len(sentence), len(sentence), "")]:
        if kind in ("quantity", "sign"):
            if start < 0:
                start, is_quantity = begin, False
            end, is_quantity = stop, is_quantity or kind == "quantity"
            continue
        if start >= 0 and is_quantity:
            end = start + len(_unclosed(sentence[start:end]))
            if found and not words and unit == _LONGEST_UNIT - 1:  # 2 hours 30 minutes
                found[-1] = found[-1]._replace(end=end)
            else:
                found.append(Stretch(start, end, "", words, []))
            words, unit = [], _LONGEST_UNIT
        start = -1
        is_unit = kind == "word" and unit and (token not in NO_UNIT or token == "per")
        if is_unit and "(" not in sentence[found[-1].end : begin]:
            found[-1] = found[-1]._replace(end=stop)
            unit -= token != "per"
        elif token:
            unit = 0
            words.append(token)
    gaps = [*(each.before for each in found[1:]), words]
    return [
        each._replace(text=sentence[each.start : each.end], behind=behind)
        for each, behind in zip(found, gaps, strict=False)
    ], words


def _pieces(sentence: str) -> Iterator[tuple[str, int, int, str]]:
    """Kind (quantity, sign, word, mark), place and text of each piece of `sentence`."""
    depth = 0
    for piece in _PIECE.finditer(sentence):
        kind, token, start, end = piece.lastgroup or "", piece[0], *piece.span()
        if kind == "space":
            continue
        if kind == "quantity" and _NAME.fullmatch(token):
            yield "sign", start, end, token
        elif kind == "text":
            for word in _WORD.findall(piece["text"]):
                yield "word", start, end, word.lower()
        elif kind == "word" and not (
            token in _FUNCTIONS or (len(token) == 1 and _is_letter(sentence, start))
        ):
            depth = 0
            for word in re.split("['’]", token.lower()):
                yield "word", start, end, word
        elif kind == "mark" and not (
            token in _SIGNS or (token in ",;" and depth) or _IN_RATIO.match(sentence, start)
        ):
            yield "mark", start, end, token
        else:
            depth += (token in _OPENING) - (token in _CLOSING)
            yield "quantity" if kind in ("quantity", "command") else "sign", start, end, token


def _unclosed(stretch: str) -> str:
    """`stretch` without what opens or closes a bracket, or begins a relation, outside of it."""
    stretch = stretch.rstrip("([{=: ")
    while stretch.endswith(tuple(_CLOSING)) and sum(map(stretch.count, _CLOSING)) > sum(
        map(stretch.count, _OPENING)
    ):
        stretch = stretch[:-1].rstrip()
    return stretch


def _is_letter(sentence: str, at: int) -> bool:
    """Whether the single letter at `at` is a variable, no article: `a` only beside a sign."""
    if not sentence[at].isascii() and not "α" <= sentence[at] <= "ω":
        return False
    return sentence[at] not in "aAI" or _BESIDE_A_SIGN.match(sentence, at) is not None
