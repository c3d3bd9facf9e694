r"""Which answer a response commits to.

A response commits to an answer by `\boxed{…}`, by a label (`Final Answer: …`, or `Answer: …` at the start of
a line), by GSM8K's `#### …`, by `<answer>…</answer>`, or by a sentence ("the answer is …"). The last
commitment of the main thread wins; text inside `<Path>` is exploration and counts only when the main thread
commits to nothing. A summary belongs to the main thread here: it says what the paths came to. `COMMITTED` is
the table of these places; where a text holds none of them, its last sentence may speak (`stating`). Linear in
the text, whatever the text is.
"""

# ruff: noqa: SIM905 (lists of names read better as words)

from __future__ import annotations

import re
from collections.abc import Callable
from operator import itemgetter
from typing import NamedTuple

from prl.answers.boxes import BOX, last_box
from prl.answers.corrections import correction_end, taken_back
from prl.answers.formulas import display_at, usable
from prl.answers.limits import MAX_CHARS
from prl.answers.stating import stated
from prl.grammar import END_PATH, PATH, TAGS, parse
from prl.turns import said, spoken

MAX_RESPONSE = 2_000_000  # characters looked at, from the end
_MAX_TRIES = 50  # marks without an answer behind them, from the end
_MAX_LINE = 5_000

PLAIN = re.compile(r"[+-]?\d{1,40}(?:\.\d{1,40})?")
"""Numbers as most answers are written; a look at them costs next to nothing."""

_BEHIND_LABEL = r"[ \t\u3000*_]{0,6}(?::|：|\n|(?<=[*_])\s|is\s*:)[ \t\u3000*_]{0,6}"
_LABEL = re.compile(
    r"(?:\bfinal\s{1,4}answer|^[ \t>*_#\"-]{0,12}answer)s?[\"']?" + _BEHIND_LABEL,
    re.IGNORECASE | re.MULTILINE,
)
_INLINE_LABEL = re.compile(r"[.!?]\s{1,4}answer:\s{0,4}", re.IGNORECASE)
# In languages that small models slip into: at the start of a line, or anywhere where the label says "final"
# or the language has no other use for it.
_FOREIGN_LABEL = re.compile(
    r"(?:(?<![a-z])(?:r[ée]ponse\s{1,4}finale|respuesta\s{1,4}final|resposta\s{1,4}final|risposta\s{1,4}finale"
    r"|endg[üu]ltige\s{1,4}antwort|окончательный\s{1,4}ответ|最终的?答案|最終答案|最終的な答え|最終回答|최종\s?답"
    r"|答案|答え|解答|정답|故选|故選)"
    r"|^[ \t>*_#-]{0,12}(?:ans\.?|r[ée]ponse|respuesta|resposta|risposta|antwort|ergebnis|ответ|відповідь"
    r"|antwoord|odpowiedź|cevap|jawaban|đáp\s?(?:án|số)|答|답|उत्तर|(?:الجواب|الإجابة)(?:\s{1,4}النهائية)?))"
    + _BEHIND_LABEL,
    re.IGNORECASE | re.MULTILINE,
)
_HASHES = re.compile(r"(?<!#)####[ \t]{0,8}(?=[^\s#])")
_ANSWER_TAG = re.compile(r"<answer>", re.IGNORECASE)
_SENTENCE = re.compile(
    r"\b(?:answers?|(?:correct|right|best)\s{1,4}(?:option|choice))\s{1,4}"
    r"(?:is|are|equals|=|would\s{1,4}be|must\s{1,4}be|to\s[^.\n]{1,60}?\s(?:is|are))(?![a-z'’])\s{0,4}:?\s{0,4}"
    r"(?:(?:therefore|thus|simply|exactly|then|just|also|hence|indeed|actually|given\s{1,4}by)\s{1,4})?",
    re.IGNORECASE,
)
_FOREIGN_SENTENCE = re.compile(
    r"(?:\br[ée]ponse(?:\s{1,4}finale)?\s{1,4}est|\brespuesta(?:\s{1,4}final)?\s{1,4}es"
    r"|\bresposta(?:\s{1,4}final)?\s{1,4}é|\brisposta(?:\s{1,4}finale)?\s{1,4}è|\bantwort\s{1,4}(?:ist|lautet)"
    r"|答案[是为為]|答えは|정답은)(?![a-z])\s{0,4}[:：]?\s{0,4}"
    r"(?:(?:donc|also|daher|por\s{1,4}lo\s{1,4}tanto)\s{1,4})?",
    re.IGNORECASE,
)
_SUPPOSED = re.compile(r"\b(?:if|suppose|assume|assuming|whether)\s(?:that\s)?the\s$", re.IGNORECASE)
_NEGATED = re.compile(r"(?:not|never|unknown|unclear|wrong|incorrect)\b", re.IGNORECASE)
_REMARK = re.compile(r"(?:correct|right|reasonable|clear|obvious|as follows|above|below)\W*", re.IGNORECASE)
# "The number of ways is 24", "There are 24": an answer in a sentence of its own, behind a label
_STATEMENT = re.compile(
    r"[A-Z][a-z]*\b(?:(?!n't|\bnot\b|\bnever\b)[^\d\\$=<>\n]){0,200}?\s(?:is|are|equals|has|have)\s+"
    r"(?=[-+(\[*]*[\d\\$])"
)
_NEXT_SENTENCE = re.compile(r"(?<=[.!?])\s+(?=[A-Z])")  # a remark on the statement, unless it concludes
_CONCLUDING = re.compile(r"[.!?]\s+(?:So|Thus|Therefore|Hence)\b")
_BULLET = re.compile(r"(?:[-*•]|\d{1,2}[.)])[ \t]+(?=\S)")  # on a line of its own, "- 42" is an item
_FENCE = re.compile(r"^\s*```\w*\n")
_ALONE = re.compile(r"([^A-Za-z]{1,80}?)\.\s+[A-Z][a-z]")  # "42. Explanation: 6 groups of 7."
_SENTENCE_END = re.compile(
    r"\.(?=[\s*$\"')]|\Z)(?<!a\.m\.)(?<!p\.m\.)|[\n\r。]|[!?](?=\s|\Z)"
    r"|,?\s\(?(?:since|because|which|so|as|where|given)\s|<(?=/?[A-Za-z]+>)"
)
_TAG = re.compile("|".join(TAGS))
_STRAY_PATH = re.compile(rf"{PATH}.*?(?:{END_PATH}|\Z)", re.DOTALL)
_MARKER = re.compile(r"<\|[a-z_]{1,30}\|>")
_NEXT_TURN = re.compile(
    r"\n[ \t*#]{0,8}(?:(?:problem|question|exercise|q)[ \t]{0,2}\d{0,3}|user|human|assistant)"
    r"[ \t*]{0,4}[:.]\D",
    re.IGNORECASE,
)
_QUANTITY = re.compile(r"(?!(?:[a-z]{2,}|a) +[a-z]).*(?:\d|\\[a-zA-Z]|\$)|\(?[A-Z]\)?$", re.DOTALL)


class Place(NamedTuple):
    """Where an answer can stand.

    `hints`: of these one is in a text, in lower case, that holds such a place (or the text is not ASCII, for
    other languages); a look for them costs little, and most texts hold few. `mark`: what the answer stands
    behind, or in. `why` it counts, and the `guard` against paying a guess.
    """

    name: str
    hints: tuple[str, ...]
    mark: re.Pattern[str]
    why: str
    guard: str


def extract_answer(text: str, *, paths: bool = True, strict: bool = False) -> str | None:
    r"""The answer that `text` commits to last, as written (still LaTeX); None when it commits to nothing.

    Without a commitment (a place of `COMMITTED`) the quantity that the last sentence of the main thread
    states is the answer, but not with `strict`. What follows the end of its turn, whatever family's marker
    says so, is not its own, and thoughts are not said.

    `paths` says whether a commitment inside `<Path>` may stand in when the main thread makes none.

    >>> extract_answer(r"<Path>\boxed{1}</Path> ... Final Answer: $2$.")
    '2'
    >>> extract_answer("So she has 7 apples left."), extract_answer("So she has 7 apples left.", strict=True)
    ('7 apples', None)
    """
    return _extracted(text, _possible(text), paths, strict) if isinstance(text, str) else None


def bare_answer(text: object, paths: bool = True) -> str | None:
    """What `text` commits to; or a short text itself, up to where its turn ends, when it holds no mark of a
    commitment."""
    if not isinstance(text, str):
        return None
    if PLAIN.fullmatch(text):
        return text
    possible = _possible(text)
    if len(text) > MAX_CHARS or PATH in text or _holds_mark(text, possible):
        return _extracted(text, possible, paths, strict=False)
    text = spoken(said(text))
    return (own_turn(text) if "\n" in text else text).strip() or None


def _extracted(text: str, possible: list[Place], paths: bool, strict: bool) -> str | None:
    text = _MARKER.sub("\n", spoken(said(text))[-MAX_RESPONSE:])
    if not _TAG.search(text):
        return _answer(text, possible, strict)
    answer = _answer(committed_thread(text), possible, strict)
    return _answer(_TAG.sub("\n", text), possible, strict=True) if answer is None and paths else answer


def _answer(text: str, possible: list[Place], strict: bool) -> str | None:
    """The last commitment of a thread, to be found at the `possible` places; else, unless `strict`, what it
    states."""
    text = own_turn(text)
    box = last_box(text)
    found: list[tuple[int, str | None]] = [
        each for place in possible if (each := _last(place.mark, _READERS[place.name], text))
    ]
    if box:  # a mark within a box is not another commitment
        found = [each for each in found if not box[0] < each[0] < box[1]] + [(box[0], box[2])]
    if not found and possible:
        found = [each for mark in (_SENTENCE, _FOREIGN_SENTENCE) if (each := _last(mark, _sentence, text))]
    if not found:
        return None if strict else usable(stated(text) or "")
    start, answer = max(found, key=itemgetter(0))
    if answer is None:
        return None
    at = text.find(answer, start)
    retreat = taken_back(text, *((start, start) if at < 0 else (at, at + len(answer))))
    if retreat is None:
        return answer
    return None if strict else usable(stated(text[retreat:]) or "")


def _possible(text: str) -> list[Place]:
    """The places, boxes aside, that `text` may hold."""
    lower, is_ascii = text.lower(), text.isascii()
    if is_ascii and not any(map(lower.__contains__, _HINTS)):  # most texts are bare answers
        return []
    return [
        place
        for place in COMMITTED[1:]
        if any(hint in lower for hint in place.hints) or (place.hints is _OTHER_LANGUAGES and not is_ascii)
    ]


def own_turn(text: str) -> str:
    """`text` before the next problem or turn that a model writes itself, once it has answered: by a
    commitment, or, where it makes none at all, by what it states."""
    turns = [turn.start() for turn in _NEXT_TURN.finditer(text)][:_MAX_TRIES]
    if not turns:
        return text
    for start in turns:
        if commits(text[:start]):
            return text[:start]
    before = text[: turns[0]].strip()
    is_answer = bool(before) and " " not in before
    return before if not commits(text) and (is_answer or stated(before)) else text


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
    return _holds_mark(text, _possible(text))


def _holds_mark(text: str, possible: list[Place]) -> bool:
    return BOX.search(text) is not None or any(place.mark.search(text) for place in possible)


def _last(mark: re.Pattern[str], read: Callable[[str], str | None], text: str) -> tuple[int, str] | None:
    """Position of the last `mark` that has an answer behind it, or of what corrects that, and the answer."""
    for match in list(mark.finditer(text))[: -_MAX_TRIES - 1 : -1]:
        start, end = match.span()
        if _SUPPOSED.search(text, max(0, start - 24), start):
            continue
        rest = text[end : end + _MAX_LINE]
        skipped = correction_end(rest)
        if answer := read(rest[skipped:]):
            return end + skipped if skipped else start, answer
    return None


def _labelled(rest: str) -> str | None:
    """The display formula or the line behind a label, which may be the next line."""
    if (display := display_at(rest)) is not None:
        return _inner(display)
    behind = _FENCE.sub("", rest)
    line = behind.lstrip("\n \t").partition("\n")[0]
    if "\n" in behind[: len(behind) - len(behind.lstrip("\n \t"))]:
        line = _BULLET.sub("", line)
    if alone := _ALONE.match(line):
        line = alone[1]
    if _STATEMENT.match(line):
        statement = line if _CONCLUDING.search(line) else _NEXT_SENTENCE.split(line, maxsplit=1)[0]
        if quantity := stated(statement):
            return usable(quantity)
    return _inner(line)


def _tagged(rest: str) -> str | None:
    inside = re.split("</?answer>", rest, maxsplit=1, flags=re.IGNORECASE)[0]
    return _answer(inside, _possible(inside), strict=True) or usable(inside)


def _sentence(rest: str, *, quantity: bool = False) -> str | None:
    """What a sentence states; with `quantity`, None unless that is one."""
    if _NEGATED.match(rest):
        return None
    display = display_at(rest)
    end = _SENTENCE_END.search(rest, 0, 1000)
    words = rest[: end.start() if end else 1000] if display is None else display
    if display is None and end and words.count("$") % 2 and rest.startswith(".$", end.start()):
        words += "$"
    answer = None if _REMARK.fullmatch(words) else _inner(words)
    is_quantity = display is not None or (answer and _QUANTITY.match(answer))
    return answer if not quantity or is_quantity else None


def _inner(answer: str) -> str | None:
    """`answer`, or the box or sentence inside it."""
    if (box := last_box(answer)) and box[2]:
        return box[2]
    if sentence := _SENTENCE.search(answer):
        answer = answer[sentence.end() :]
    return usable(answer)


def _hashed(rest: str) -> str | None:
    return _inner(rest.partition("\n")[0])


def _quantity(rest: str) -> str | None:
    return _sentence(rest, quantity=True)


_OTHER_LANGUAGES = tuple(
    "ans: ans. reponse respuesta resposta risposta antwo ergebnis odpowied cevap jawaban".split()
)
COMMITTED = (
    Place(
        "box",
        ("boxed", "fbox"),
        BOX,
        "what MATH's solutions say and mathematics models are taught",
        "the last, or the run that commas, and, or join: of several boxes with one right none pays; one "
        "that is cut off takes back what was committed before",
    ),
    Place(
        "label",
        ("answer",),
        _LABEL,
        "`Final Answer: …` anywhere, `Answer: …` at the start of a line",
        "one line, or the display behind it; a list of candidates stays a list",
    ),
    Place(
        "label in a line",
        ("answer:",),
        _INLINE_LABEL,
        '"It is prime. Answer: C"',
        "only behind the end of a sentence",
    ),
    Place("label in another language", _OTHER_LANGUAGES, _FOREIGN_LABEL, "`答案：42`", "as a label"),
    Place("hashes", ("####",), _HASHES, "GSM8K's `#### …`", "a heading of another depth is none"),
    Place("tag", ("<answer>",), _ANSWER_TAG, "`<answer>…</answer>`", "a commitment inside comes first"),
    Place(
        "sentence",
        ("answer", "option", "choice"),
        _SENTENCE,
        '"the answer is …"',
        "negations and remarks are none; one that states no quantity counts only where nothing else does",
    ),
    Place(
        "sentence in another language",
        _OTHER_LANGUAGES,
        _FOREIGN_SENTENCE,
        '"la réponse est …"',
        "as a sentence",
    ),
)
"""Where an answer is committed to; of several the one that begins last counts. Where there is none, what
`stating.stated` finds in the last sentence is the answer of a text that is not read strictly."""

_HINTS = tuple(dict.fromkeys(hint for place in COMMITTED[1:] for hint in place.hints))
_READERS: dict[str, Callable[[str], str | None]] = {
    "label": _labelled,
    "label in a line": _labelled,
    "label in another language": _labelled,
    "hashes": _hashed,
    "tag": _tagged,
    "sentence": _quantity,
    "sentence in another language": _quantity,
}
"""Place -> the answer behind its mark, from the text that follows; None for none. A box has its braces."""
