"""Where a response takes its answer back, "Wait, that is wrong", or corrects it at once, "12, no, 13"."""

from __future__ import annotations

import re

_DOUBT = re.compile(r"\b(?:wait|hold on|hmm|oops|actually|no(?=[,.!:]))\b", re.IGNORECASE)
_FAULT = re.compile(
    r"\b(?:wrong|mistaken?|misread|incorrect|error|not\s(?:right|correct|true))\b"
    r"|\b(?:can['’]t|cannot)"
    r"(?:\sbe\s(?:(?:right|correct|true|so|it|that|the)\b|[-$\\\d])|(?:\sbe)?(?=[.,!?\n]|\Z))",
    re.IGNORECASE,
)
_NO_FAULT = re.compile(r"(?:\bno|\bnot(?: an?)?|\bwithout|n['’]t) \Z", re.IGNORECASE)
_SOON = 200  # characters from a doubt to the fault that it finds
_RETRACTION = re.compile(  # "there is no wait" is none
    r"(?<![a-z] )\b(?:no,?\s{1,4}wait|wait,?\s{1,4}no|scratch\s{1,4}that)\b(?=\s{0,4}[,.:;!…–—-])",
    re.IGNORECASE,
)
_CORRECTION = re.compile(
    r"(?:[,;:?…–—(]|\.\.|\s-|\s(?=or\b))\s{0,4}(?:or\s{1,4})?"
    r"(?:(?:sorry|oops|actually|correction|rather|i\s{1,4}meant?|make\s{1,4}(?:it|that)|scratch\s{1,4}that"
    r"|(?:no|wait)(?=\s{0,4}[,.:;!…–—-]|\s{1,4}(?:no|wait)\b))\b[\s,.:;!…–—-]{1,8}){1,4}"
    r"(?:(?:it|that|this|the|answer|should|must|is|be|s)\b[\s'’,:]{1,4}){0,6}"
    r"(?=[-−+$(\\{]{0,4}(?:\d|[dt]?frac|sqrt|pi\b|[a-z]\s{0,2}=))",  # what it is corrected to
    re.IGNORECASE,
)
_BEHIND_ANSWER = re.compile(rf"[\s$*.)}}\\]{{0,8}}{_CORRECTION.pattern}", re.IGNORECASE)


def correction_end(text: str) -> int:
    """Where in the first line of `text` the answer begins that it corrects itself to: 13 in "12, no, 13"; 0
    where it does not."""
    start = len(text) - len(text.lstrip())
    line = text[start:].partition("\n")[0]
    ends = [match.end() for match in _CORRECTION.finditer(line) if re.search(r"\d", line[: match.start()])]
    return start + ends[-1] if ends else 0


def taken_back(text: str, start: int, end: int) -> int | None:
    """Where the words begin that take back the answer from `start` to `end`; None where none do.

    They are "no wait" in it or behind it, a correction at once, or a doubt that finds a fault soon after; a
    check that finds "no error" takes nothing back. The doubt is behind the answer, which may be "no" itself.
    """
    found = _RETRACTION.search(text, start), _BEHIND_ANSWER.match(text, end)
    places = [match.start() for match in found if match]
    for fault in _FAULT.finditer(text, end):
        before = text[max(end, fault.start() - _SOON) : fault.start()].rpartition("\n")[2]
        doubt = _DOUBT.search(before)
        if doubt and not _NO_FAULT.search(before):
            places.append(fault.start() - len(before) + doubt.start())
            break
    return min(places, default=None)
