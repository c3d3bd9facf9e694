r"""Which answer a response commits to.

A response commits to an answer by `\boxed{…}`, by a label (`Final Answer: …`, or `Answer: …` at the start of
a line), by GSM8K's `#### …`, by `<answer>…</answer>`, or by a sentence ("the answer is …"). The last
commitment of the main thread wins; text inside `<Path>` is exploration and counts only when the main thread
commits to nothing. A summary belongs to the main thread here: it says what the paths came to. Linear in the
text, whatever the text is.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from prl.grammar import END_PATH, PATH, TAGS, parse
from prl.turns import said

MAX_RESPONSE = 2_000_000  # characters looked at, from the end
_MAX_TRIES = 50  # marks without an answer behind them, from the end
_MAX_LINE = 5_000

_BOX = re.compile(r"\\(?:boxed|fbox)\s*(?:(?=\{)|(\\?[^\s{}$\\]+))")
_LABEL = re.compile(
    r"(?:\bfinal\s{1,4}answer|^[ \t>*_#-]{0,12}answer)s?[ \t*_]{0,6}"
    r"(?::|：|\n|(?<=[*_])\s|is\s*:)[ \t*_]{0,6}",
    re.IGNORECASE | re.MULTILINE,
)
_HASHES = re.compile(r"(?<!#)####[ \t]{0,8}(?=[^\s#])")
_ANSWER_TAG = re.compile(r"<answer>", re.IGNORECASE)
_SENTENCE = re.compile(
    r"\b(?:answers?|(?:correct|right|best)\s{1,4}(?:option|choice))\s{1,4}"
    r"(?:is|are|equals|=|would\s{1,4}be|must\s{1,4}be|to\s[^.\n]{1,60}?\s(?:is|are))(?![a-z'’])\s{0,4}:?\s{0,4}"
    r"(?:(?:therefore|thus|simply|exactly|then|just|also|hence|indeed|actually|approximately|about"
    r"|given\s{1,4}by)\s{1,4})?",
    re.IGNORECASE,
)
_NEGATED = re.compile(r"(?:not|never|unknown|unclear|wrong|incorrect)\b", re.IGNORECASE)
_REMARK = re.compile(r"(?:correct|right|reasonable|clear|obvious|as follows|above|below)\W*", re.IGNORECASE)
# "The number of ways is 24", "There are 24": an answer in a sentence of its own, behind a label
_STATEMENT = re.compile(
    r"[A-Z][a-z]*\b(?:(?!n't|\bnot\b|\bnever\b)[^\d\\$=<>\n]){0,200}?\s(?:is|are|equals|has|have)\s+"
    r"(?=[-+(\[*]*[\d\\$])"
)
_DISPLAY = re.compile(r"\s*(?:\\\[(.*?)\\\]|\$\$(.*?)\$\$)", re.DOTALL)
_SENTENCE_END = re.compile(
    r"\.(?=[\s*$\"')]|\Z)(?<!a\.m\.)(?<!p\.m\.)|[\n\r]|[!?](?=\s|\Z)"
    r"|,?\s\(?(?:since|because|which|so|as|where|given)\s|<"
)
_TAG = re.compile("|".join(TAGS))
_STRAY_PATH = re.compile(rf"{PATH}.*?(?:{END_PATH}|\Z)", re.DOTALL)
_MARKER = re.compile(r"<\|[a-z_]{1,30}\|>")
_QUANTITY = re.compile(r"(?!(?:[a-z]{2,}|a) +[a-z]).*(?:\d|\\[a-zA-Z]|\$)|\(?[A-Z]\)?$", re.DOTALL)
_MEANING = re.compile(r"[^\W_]|\\[a-zA-Z]")
_EMPTY = ("N/A", "answer", r"\boxed{}", r"\boxed")
_PAIRS = (("$$", "$$"), ("$", "$"), (r"\(", r"\)"), (r"\[", r"\]"), ("__", "__"), ("_", "_"), ("'", "'"))


def extract_answer(text: str, *, paths: bool = True) -> str | None:
    r"""The answer that `text` commits to last, as written (still LaTeX), or None when it commits to nothing.

    What follows the end of its turn, whatever family's marker says so, is not its own.

    `paths` says whether a commitment inside `<Path>` may stand in when the main thread makes none.

    >>> extract_answer(r"<Path>\boxed{1}</Path> ... Final Answer: $2$.")
    '2'
    """
    if not isinstance(text, str):
        return None
    text = _MARKER.sub("\n", said(text)[-MAX_RESPONSE:])
    if not _TAG.search(text):
        return _last_commitment(text)
    answer = _last_commitment(committed_thread(text))
    return _last_commitment(_TAG.sub("\n", text)) if answer is None and paths else answer


def committed_thread(text: str) -> str:
    """`text` without its blocks and stray `<Path>` passages: where answers are committed. Tags become line
    ends."""
    kept, start = [], 0
    for block in parse(text).blocks:
        kept.append(text[start : block.span.start])
        start = block.span.end
    kept.append(text[start:])
    return _TAG.sub("\n", _STRAY_PATH.sub("\n", "\n".join(kept)))


def commits(text: str) -> bool:
    """Whether `text` holds a mark of a committed answer, so that it is a response rather than a bare
    answer."""
    return any(mark.search(text) for mark in (_BOX, _LABEL, _HASHES, _ANSWER_TAG, _SENTENCE))


def strip_wrapping(answer: str) -> str:
    """`answer` without surrounding spaces, markdown, math delimiters, quotes and trailing punctuation."""
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


def _last_commitment(text: str) -> str | None:
    """The answer behind the last mark. A sentence that states no quantity counts only when nothing else does:
    "the answer is even" after a box is a remark, alone it is an answer."""
    marks = [
        _last_box(text),
        _last(_LABEL, text, _labelled),
        _last(_HASHES, text, lambda rest: _inner(rest.partition("\n")[0])),
        _last(_ANSWER_TAG, text, _tagged),
        _last(_SENTENCE, text, lambda rest: _sentence(rest, quantity=True)),
    ]
    last = max((mark for mark in marks if mark), default=None) or _last(_SENTENCE, text, _sentence)
    return last[1] if last else None


def _last(mark: re.Pattern[str], text: str, read: Callable[[str], str | None]) -> tuple[int, str] | None:
    """Position of the last `mark` that has an answer behind it, and the answer."""
    for match in list(mark.finditer(text))[: -_MAX_TRIES - 1 : -1]:
        if answer := read(text[match.end() : match.end() + _MAX_LINE]):
            return match.start(), answer
    return None


def _last_box(text: str) -> tuple[int, str] | None:
    """Position and content of the last box that holds something. Boxes are not joined: MATH's answers are
    last boxes."""
    if "boxed" not in text and "fbox" not in text:
        return None
    closing = _braces(text)
    last = None
    for match in _BOX.finditer(text):
        content = match[1] or text[match.end() + 1 : closing.get(match.end(), 0)]
        if answer := _usable(content):
            last = match.start(), answer
    return last


def _braces(text: str) -> dict[int, int]:
    """Position of each `{` -> position of the `}` that closes it; escaped braces are text."""
    closing: dict[int, int] = {}
    open_: list[int] = []
    for match in re.finditer(r"\\.|[{}]", text, re.DOTALL):
        if match.group() == "{":
            open_.append(match.start())
        elif match.group() == "}" and open_:
            closing[open_.pop()] = match.start()
    return closing


def _labelled(rest: str) -> str | None:
    """The display formula or the line behind a label, which may be the next line."""
    if display := _DISPLAY.match(rest):
        return _inner(display[1] or display[2] or "")
    line = rest.lstrip("\n \t").partition("\n")[0]
    if statement := _STATEMENT.match(line):
        return _sentence(line[statement.end() :])
    return _inner(line)


def _tagged(rest: str) -> str | None:
    inside = re.split("</?answer>", rest, maxsplit=1, flags=re.IGNORECASE)[0]
    return _last_commitment(inside) or _usable(inside)


def _sentence(rest: str, *, quantity: bool = False) -> str | None:
    """What a sentence states; with `quantity`, None unless that is one."""
    if _NEGATED.match(rest):
        return None
    display = _DISPLAY.match(rest)
    end = _SENTENCE_END.search(rest, 0, 1000)
    stated = (display[1] or display[2] or "") if display else rest[: end.start() if end else 1000]
    if not display and end and stated.count("$") % 2 and rest.startswith(".$", end.start()):
        stated += "$"
    answer = None if _REMARK.fullmatch(stated) else _inner(stated)
    return answer if answer and (not quantity or display or _QUANTITY.match(answer)) else None


def _inner(answer: str) -> str | None:
    """`answer`, or the box or sentence inside it."""
    if box := _last_box(answer):
        return box[1]
    if sentence := _SENTENCE.search(answer):
        answer = answer[sentence.end() :]
    return _usable(answer)


def _usable(answer: str) -> str | None:
    answer = strip_wrapping(answer)
    return answer if _MEANING.search(answer) and answer not in _EMPTY else None
