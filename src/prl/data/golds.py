r"""The gold answer in a cell: what it says, whatever it is stored as."""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Any

from prl.data.conversations import is_filled
from prl.data.literals import decoded, escaped, once_escaped, restored, written
from prl.turns import bare, said, without_thoughts

GOLD_KEYS = ("ground_truth", "final_answer", "answer")
"""Of a dictionary that is an answer, the key that holds it; of several the first."""

ESCAPED = "{} hold LaTeX that is escaped twice, which is read as escaped once"

_SURROGATE = re.compile("[\ud800-\udfff]")
_LONGEST_BARE_ANSWER = 64  # characters; DAPO-Math's descendants keep the bare answer in `solution`
# What pandas and databases write for a missing cell.
_MISSING = {"nan", "NaN", "None", "null", "NULL", "<NA>"}
_INVISIBLE = dict.fromkeys(map(ord, "\u200b\u200c\u200d\u200e\u200f\u2060\ufeff\u00ad"))
_NARROW = _INVISIBLE | {wide: wide - 0xFEE0 for wide in range(0xFF01, 0xFF5F)}


def text_of(value: object) -> str:
    """A cell that holds text. Raises ValueError."""
    if value is None:
        raise ValueError("is missing")
    if isinstance(value, float) and value != value:
        raise ValueError("is NaN")
    if not isinstance(value, str):
        kind = float if isinstance(value, Decimal) else type(value)
        raise ValueError(f"is of type {kind.__name__}, not text")
    text = value.strip()
    if not text.isascii():
        text = text.strip("\u200b\u2060\ufeff \n")
    if not text:
        raise ValueError("is empty")
    if not text.isascii() and _SURROGATE.search(text):
        raise ValueError("holds half a surrogate pair, which no tokenizer reads")
    return text


def is_missing(value: object) -> bool:
    """Whether a cell holds no answer at all, also as pandas and databases write that."""
    if isinstance(value, str):
        return value.strip() in {"", *_MISSING}
    return not is_filled(value) if isinstance(value, dict | list) else value is None or value != value


def gold(value: object, notes: list[str], *, worked: bool) -> str:
    """The answer alone: a number or a text as it is, of a list its only element, of a dictionary what is
    under one of `GOLD_KEYS`, of a `worked` solution what it comes to.

    What is read otherwise than written is told in `notes`. Raises ValueError.
    """
    value = _alone(value, notes)
    if isinstance(value, str) and (meant := restored(value)) is not None:
        notes.append("answers hold LaTeX whose backslash JSON took for its own, which is put back")
        value = meant
    if isinstance(value, int | float | Decimal) and not isinstance(value, bool):
        return written(value)
    text = text_of(value)
    if (ended := said(text)) != text:
        notes.append("answers end with a turn marker, which is taken off")
        text = text_of(bare(ended)[0])
    try:
        spoken, off = without_thoughts(text)
    except ValueError:
        off = None  # then the grader says that it cannot be read
    if off:
        notes.append("answers come with thoughts, which are left out")
        text = text_of(spoken)
    if (meant := once_escaped(text)) is not None:
        notes.append(ESCAPED.format("answers"))
        text = meant
    if text in _MISSING:
        raise ValueError(f"is {text}")
    if "####" in text:
        return _plain(text_of(text.rpartition("####")[2]))
    box = last_box(text)
    if box is None and not worked:
        return _plain(text)
    from prl.answers import extract_answer

    # What a solution says after its box ("so our answer is correct") is no other answer.
    if found := extract_answer(text if box is None else f"\\boxed{{{box}}}", strict=True):
        return _plain(found)
    if box is not None or len(text) > _LONGEST_BARE_ANSWER or "\n" in text:
        raise ValueError("commits to no answer: no filled \\boxed{}, ####, or final-answer line")
    return _plain(text)


def _alone(value: object, notes: list[str]) -> object:
    """What a cell holds, out of the list, the dictionary or the text of one that it stands in."""
    for _ in range(4):  # verl keeps a list as text in a dictionary as text
        if isinstance(value, str) and (stored := _stored(value)) is not None:
            notes.append("answers are lists or dictionaries stored as text, which are decoded")
            value = stored
        elif isinstance(value, dict):
            key = next((key for key in GOLD_KEYS if value.get(key) is not None), None)
            if key is None:
                raise ValueError(
                    f"is missing: of its keys {', '.join(map(str, value))}, none is {GOLD_KEYS[0]}"
                )
            value = value[key]
        elif isinstance(value, list):
            if len(value) != 1:
                raise ValueError(
                    f"is of type list, not text: it has {len(value)} values; write one text with all that "
                    "belong to the answer, such as '3, -3', or keep one"
                )
            value = value[0]
        else:
            break
    return value


def _stored(text: str) -> list[Any] | dict[str, Any] | None:
    """A list or dictionary that is an answer stored as text; `[1, 2]` is one of mathematics."""
    if text.lstrip()[:1] not in ("[", "{"):
        return None
    found = decoded(escaped(text))
    if isinstance(found, list) and len(found) > 1 and not all(isinstance(each, str) for each in found):
        return None
    return found


def _plain(text: str) -> str:
    """`text` without invisible characters and with narrow letters, digits and signs."""
    return text if text.isascii() else text_of(text.translate(_NARROW))


def last_box(text: str) -> str | None:
    """What stands in the last \\boxed{…} (or `\\boxed 2`); None when there is none, or it is cut off."""
    rest = text.rpartition("\\boxed")[2].lstrip() if "\\boxed" in text else ""
    if not rest.startswith("{"):
        return next(iter(re.findall(r"\A[^\s$\\{}]+", rest)), None)
    depth = 0
    for brace in re.finditer(r"(?<!\\)[{}]", rest):
        depth += 1 if brace[0] == "{" else -1
        if depth == 0:
            return rest[1 : brace.start()]
    return None


def is_cut_off(latex: str) -> bool:
    """More braces opened than closed: no whole answer, but some copies of MATH have `\\frac{\\sqrt{3`."""
    return "{" in latex and len(re.findall(r"(?<!\\)\{", latex)) > len(re.findall(r"(?<!\\)\}", latex))


def mend(answer: str, solution: object) -> str | None:
    """The answer of a worked solution, where `answer` is its beginning."""
    try:
        whole = gold(solution, [], worked=True)
    except ValueError:
        return None
    return whole if whole.startswith(answer) and not is_cut_off(whole) else None
