r"""What is boxed, `\boxed{…}`: the last box, or the last run of boxes that are one answer."""

from __future__ import annotations

import re
from itertools import pairwise

from prl.answers.formulas import DISPLAY, usable

_LONGEST_JOINT = 80  # characters between two boxes of one answer
_AROUND = 5_000  # characters before and behind in which a display that holds both may stand

BOX = re.compile(r"\\(?:boxed|fbox)\s*(?:(?=\{)|(\\?[^\s{}$\\]+))")
_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)
_DENIED = re.compile(r"\bnot\s*(?:\$|\\\()?$")
# Between boxes that are one answer: commas, "and", "or", names to be filled in.
_BETWEEN = re.compile(
    r"(?:\s|\$|\\[()\[\],;!: ]|\\text\s*\{\s*,?\s*(?:and|or)?\s*,?\s*\}|\\q?quad|\\\\|[,;&.]|\b(?:and|or)\b"
    r"|\\?[a-zA-Z](?:_\{?\w\}?)?\s*(?:=|\\in))*"
)
_JOINED = re.compile(r"[,;&]|\b(?:and|or)\b|\\q?quad")

Box = tuple[int, int, str | None]
"""Start, end and content of a box, or of several that are one answer; no content where it is cut off."""


def last_box(text: str) -> Box | None:
    """The last run of boxes that hold something."""
    boxes = _boxes(text)
    if not boxes or boxes[-1][2] is None:
        return boxes[-1] if boxes else None
    run = [boxes[-1]]
    for box in reversed(boxes[:-1]):
        if box[2] is None or not _are_joined(text, box, run[0]):
            break
        run.insert(0, box)
    contents = list(dict.fromkeys(content for _, _, content in run if content))
    word = " or " if any(re.search(r"\bor\b", text[a[1] : b[0]]) for a, b in pairwise(run)) else " and "
    return run[0][0], run[-1][1], contents[0] if len(contents) == 1 else word.join(contents)


def _boxes(text: str) -> list[Box]:
    """Place and content of each box that holds something and no other box; no content where it is cut off."""
    if "boxed" not in text and "fbox" not in text:
        return []
    closing = _braces(text)
    boxes: list[Box] = []
    for match in BOX.finditer(text):
        if boxes and match.start() < boxes[-1][1]:
            boxes.pop()  # \boxed{\boxed{5}}
        end = match.end() if match[1] else closing.get(match.end())
        if end is None:
            boxes.append((match.start(), len(text), None))
        elif _DENIED.search(text, max(0, match.start() - 10), match.start()):
            continue
        elif content := usable(match[1] or text[match.end() + 1 : end]):
            boxes.append((match.start(), end + (not match[1]), content))
    return boxes


def _are_joined(text: str, one: Box, other: Box) -> bool:
    between = text[one[1] : other[0]]
    if len(between) > _LONGEST_JOINT or not _BETWEEN.fullmatch(between):
        return False
    if _JOINED.search(between):
        return True
    around = text[max(0, one[0] - _AROUND) : other[1] + _AROUND]
    place = min(one[0], _AROUND)
    return any(
        show.start() < place < place + other[0] - one[0] < show.end() for show in DISPLAY.finditer(around)
    )


def _braces(text: str) -> dict[int, int]:
    """Position of each `{` -> position of the `}` that closes it; escaped braces are text."""
    closing: dict[int, int] = {}
    open_: list[int] = []
    for match in _BRACE.finditer(text):
        if match.group() == "{":
            open_.append(match.start())
        elif match.group() == "}" and open_:
            closing[open_.pop()] = match.start()
    return closing
