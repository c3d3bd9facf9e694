r"""What a sentence states: 18 in "Janet makes $18 every day", `y \gt 7` in "so $y \gt 7$", "42 рубля".

A sentence is words and, between them, stretches of mathematics: what TeX delimits, numbers, commands, signs,
brackets. The last stretch that is asserted is the answer, with the unit behind it and with those that commas,
"and" or "or" join to it: several candidates stay several. Not asserted is what stands behind a negation ("not
12 but 13") and, where another stretch is left, behind a preposition that says when or of what ("45 miles
after 4 hours"). What is bounded, estimated or made conditional ("at least 5", "about 5", "5 unless …") states
no quantity. At most the last sentences of a text are looked at.
"""

# ruff: noqa: SIM905 (lists of names read better as words)

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from prl.answers.formulas import ASSIGNED, DISPLAY, last_rows

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
_JOINING = frozenset(", ; & and or".split())
_PREPOSITIONS = frozenset(
    "after in within when if for at over during on until before since where with from while through via "
    "among per every each across of out to".split()
)
_STATING = frozenset(  # before a preposition: a total of 5, left with 5, comes to 5
    "total equal equals sum value result answer left ends up out comes come came amounts adds simplifies "
    "evaluates rounds reduces increases decreases rises drops".split()
)
_NEGATING = frozenset("not t never cannot neither nor without".split())  # "isn't" is read as isn and t
_QUALIFYING = frozenset(
    "except than least most above below between under about approximately roughly around nearly almost "
    "multiple multiples divisible base twice half double triple thrice minus plus times power maybe perhaps "
    "possibly might may could either".split()
)
_CHANGING = frozenset(  # with these anywhere in a sentence, its number alone is not what it states
    "otherwise unless except mod modulo grader reference".split()
)
_DATE = re.compile(
    r"\b(?:january|february|march|april|may|june|july|august|september|october|november|december) \d"
    r"|\d(?:st|nd|rd|th)? (?:of )?(?:january|february|march|april|may|june|july|august|september|october"
    r"|november|december)\b"
)
_NO_UNIT = _PREPOSITIONS.union(
    _JOINING,
    "of to by as a an the is are was were will be that this it which who there then so but not because given "
    "using he she they we you her his their its has have had therefore thus hence more less left only total "
    "altogether works".split(),
)
_DANGLING = frozenset(
    "and or then so but because which who where if when of to by as a an the is are was were with for in at "
    "on we he she they".split()
)
_LONGEST_UNIT = 3  # words
_SENTENCE_ENDS = re.compile(r"(?<=[.!?。！？])(?<!a\.m\.)(?<!p\.m\.)\s+|\n\s*")
_LONGEST = 1000  # characters of a sentence that is looked at
_DISPLAYED = re.compile(rf"{DISPLAY.pattern}|\\begin\{{.*?\\end\{{", re.DOTALL)
_CODE = re.compile(r"#|\b(?:import|lambda|def|return|eval|print)\b|[a-z_]{3,}\(\w+\)(?<!\(s\))")
_IN_PROSE = re.compile(r"(?<![\\a-zA-Z])[^\W\d_]{2,}|\\text|\n|[⺀-鿿가-힣ぁ-ヿ]")
_FINISHED = re.compile(r"[.!。！*)\]]$")
_UNFINISHED = re.compile(r"[=+,(*/:?-]$(?<!\*\*)")
_IN_WORDS = re.compile(
    r"(yes|no|true|false)[,.;:!–—]|(?:thus|hence|so|therefore),? ((?:\w+, ){1,20}(?:and )?\w+)\.?$"
    r"|.*\*\*([^*]{1,60})\*\*\.?$",
    re.IGNORECASE,
)
_NAMED = re.compile(  # the day is Friday, it equals $D$, the curve is an \text{ellipse}
    r"\b(?:is|was|are|on|equals|get|gives?|yields?) (?:an? )?"
    r"(?:\\(?:text|mbox|mathrm)\s*\{([^{}]+)\}"
    r"|(\$\s*[a-zA-Z]\s*\$|\(?[A-Z]\)?|[A-Z]\w+|true|false|even|odd))[.$]*(?:$| is )"
)
_EMPTY_LABEL = re.compile(r"\W*(?:final )?answer\W*|\W*", re.IGNORECASE)
_NOTHING = re.compile(
    r"\b(?:there (?:is|are)|it has|have|has) (no (?:real |such |integer )?(?:solutions?|roots?|values?))\b",
    re.IGNORECASE,
)
_NAME = re.compile(r"\$\s*[a-zA-Z]\s*\$")  # a variable
_FORMULA = re.compile(r"\$[^$]*\$|\\\(.*?\\\)|\\\[.*?\\\]")
_WORD = re.compile(r"[^\W\d_]+|[,;]")
_IN_RATIO = re.compile(r":(?<=\d:)\d")
_BESIDE_A_SIGN = re.compile(r".\s*(?:[=<>+*/^_≤≥-]|\\(?:le|ge|lt|gt|in|ne|cdot|times)\b)")
_CLAUSE_ENDS = frozenset(", ; but rather instead".split())
_OTHERWISE = frozenset("or maybe perhaps possibly".split())
_SO = frozenset("so thus therefore hence then".split())
_CONCLUDING = frozenset(
    "so thus therefore hence then now finally answer total result leaves leaving gives it this that which "
    "in".split()
)
_COPULAS = frozenset("is are was were equals".split())
_NEAR = 4  # words in front of a quantity that may qualify it


class _Stretch(NamedTuple):
    """Place in the sentence, unit included, and the words and marks between it and the stretch before."""

    start: int
    end: int
    before: list[str]


def stated(text: str) -> str | None:
    r"""The quantity that the last sentence of `text` with a quantity states; None where it states none, or is
    nothing but that.

    >>> stated("He will be 45 miles from home after 4 hours."), stated("so $y \\gt 7$."), stated("3 or 4")
    ('45 miles', '$y \\gt 7$', None)
    """
    if not _IN_PROSE.search(text):
        return None
    text = _DISPLAYED.sub(_in_one_line, last_rows(text.strip()[-3 * _LONGEST :]))
    sentences = _SENTENCE_ENDS.split(text)
    for sentence in reversed(sentences):
        if _EMPTY_LABEL.fullmatch(sentence):
            continue
        if len(sentence) > _LONGEST or _CODE.search(sentence) or _UNFINISHED.search(sentence):
            return None
        stretches, behind = _stretches(sentence)
        if stretches:
            return _asserted(sentence, stretches, behind, alone=len(sentences) == 1)
        if answer := _IN_WORDS.match(sentence) or _NOTHING.search(sentence) or _NAMED.search(sentence):
            return next(filter(None, answer.groups()))
        is_denied = not _NEGATING.isdisjoint(behind)  # "it cannot be known"
        if is_denied or not _FINISHED.search(sentence):
            return None
    return None


def _in_one_line(display: re.Match[str]) -> str:
    return re.sub(r"[.,;]?\s*(\\\]|\$\$)$", r"\1", display[0].replace("\n", " "))


def _stretches(sentence: str) -> tuple[list[_Stretch], list[str]]:
    """The stretches of `sentence` that hold a quantity, and the words and marks behind the last of them."""
    found: list[_Stretch] = []
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
                found.append(_Stretch(start, end, words))
            words, unit = [], _LONGEST_UNIT
        start = -1
        is_unit = kind == "word" and unit and (token not in _NO_UNIT or token == "per")
        if is_unit and "(" not in sentence[found[-1].end : begin]:
            found[-1] = found[-1]._replace(end=stop)
            unit -= 1
        elif token:
            unit = 0
            words.append(token)
    return found, words


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


def _asserted(sentence: str, stretches: list[_Stretch], behind: list[str], *, alone: bool) -> str | None:
    """The last run of `stretches` that is asserted, as written; None where the sentence is `alone` and it is
    all of it."""
    around = {word for stretch in stretches for word in stretch.before}.union(behind)
    prose = _FORMULA.sub(" ", sentence.lower())
    if (
        (alone and not any(word.isalpha() for word in around - _JOINING))
        or (sentence[stretches[0].start] == "=" and len(around) < 2)  # AB = 5: a name, no sentence
        or not _DANGLING.isdisjoint(behind[-1:])  # cut off
        or _DATE.search(prose)
        or not _CHANGING.isdisjoint(re.findall(r"[a-z]+", prose))
    ):
        return None
    open_ = [
        at for at, each in enumerate(stretches) if _NEGATING.isdisjoint(_behind(each.before, _CLAUSE_ENDS))
    ]
    but = max((at for at in open_ if "but" in stretches[at].before), default=0)
    open_ = [at for at in open_ if at >= but]
    if not open_:
        return None
    asserted = [at for at in open_ if not _is_modifier(stretches[at].before)] or open_
    begins = not stretches[0].before and not any(_SO.intersection(each.before) for each in stretches)
    first = last = asserted[0] if begins else asserted[-1]  # "42, not 43", "5 is prime"
    while first - 1 in open_ and _joins(sentence, stretches[first - 1], stretches[first]):
        first -= 1
    while begins and last + 1 in open_ and _joins(sentence, stretches[last], stretches[last + 1]):
        last += 1
    qualified = _QUALIFYING.intersection(_behind(stretches[first].before, _CLAUSE_ENDS | _COPULAS)[-_NEAR:])
    if qualified or behind[:1] in (["or"], ["more"], ["less"]):
        return None
    if any(_OTHERWISE.intersection(each.before) for each in stretches[last + 1 :]):  # 42, or maybe 43
        return None
    run = stretches[first : last + 1]
    if all(_JOINING.issuperset(each.before) for each in run[1:]):
        return sentence[run[0].start : run[-1].end].lstrip("= ").replace("**", "")
    return ", ".join(sentence[each.start : each.end].lstrip("= ").replace("**", "") for each in run)


def _behind(before: list[str], ends: frozenset[str]) -> list[str]:
    """The words behind the last of `ends`."""
    return before[max((at + 1 for at, word in enumerate(before) if word in ends), default=0) :]


def _is_modifier(before: list[str]) -> bool:
    """Whether a stretch behind these words says when, where or of what."""
    words = [word for word in before if word not in ("the", "a", "an")]
    if words[-2:] == ["out", "of"]:
        return True
    return bool(words) and words[-1] in _PREPOSITIONS and _STATING.isdisjoint(words[-2:-1])


def _joins(sentence: str, one: _Stretch, other: _Stretch) -> bool:
    """Whether two stretches, one behind the other, are one answer of two parts."""
    before = other.before
    if _is_modifier(one.before) != _is_modifier(before) and before not in (["and"], ["or"]):
        return False
    if "=" in sentence[one.start : one.end] and not ASSIGNED.match(sentence, one.start):
        return False
    if before[:1] in (["and"], ["or"]) and len(before) <= _NEAR + 1 and _CONCLUDING.isdisjoint(before):
        return True
    return (
        bool(before)
        and before[0] in _JOINING
        and (
            _JOINING.issuperset(before)
            or (before[-1] in ("is", "are") and len(before) <= 4 and "and" in before)
        )
    )
