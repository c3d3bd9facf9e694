r"""What a sentence states: 18 in "Janet makes $18 every day", `y \gt 7` in "so $y \gt 7$", "42 рубля".

A sentence is words and, between them, stretches of mathematics (`stretches`). The last stretch that is
asserted is the answer, with the unit behind it and with those that commas, "and" or "or" join to it: several
candidates stay several. Not asserted is what stands behind a negation ("not 12 but 13") and, where another
stretch is left, behind a preposition that says when or of what ("45 miles after 4 hours"). What is bounded,
estimated or made conditional ("at least 5", "about 5", "5 unless …") states no quantity. At most the last
sentences of a text are looked at.
"""

# ruff: noqa: SIM905 (lists of names read better as words)

from __future__ import annotations

import re

from prl.answers.formulas import ASSIGNED, DISPLAY, last_rows
from prl.answers.stretches import JOINING, PREPOSITIONS, Stretch, stretches

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
_DANGLING = frozenset(
    "and or then so but because which who where if when of to by as a an the is are was were with for in at "
    "on we he she they".split()
)
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
_FORMULA = re.compile(r"\$[^$]*\$|\\\(.*?\\\)|\\\[.*?\\\]")
_CLAUSE_ENDS = frozenset(", ; but rather instead".split())
_OTHERWISE = frozenset("or maybe perhaps possibly".split())
_SO = frozenset("so thus therefore hence then".split())
_CONCLUDING = frozenset(
    "so thus therefore hence then now finally answer total result leaves leaving gives it this that which "
    "in".split()
)
_COPULAS = frozenset("is are was were equals".split())
_NEAR = 4  # words in front of a quantity that may qualify it


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
        found, behind = stretches(sentence)
        if found:
            return _asserted(sentence, found, alone=len(sentences) == 1)
        if answer := _IN_WORDS.match(sentence) or _NOTHING.search(sentence) or _NAMED.search(sentence):
            return next(filter(None, answer.groups()))
        is_denied = not _NEGATING.isdisjoint(behind)  # "it cannot be known"
        if is_denied or not _FINISHED.search(sentence):
            return None
    return None


def _in_one_line(display: re.Match[str]) -> str:
    return re.sub(r"[.,;]?\s*(\\\]|\$\$)$", r"\1", display[0].replace("\n", " "))


def _asserted(sentence: str, found: list[Stretch], *, alone: bool) -> str | None:
    """The last run of the stretches `found` that is asserted, as written; None where the sentence is `alone`
    and it is all of it."""
    around = {word for each in found for word in (*each.before, *each.behind)}
    prose = _FORMULA.sub(" ", sentence.lower())
    if (
        (alone and not any(word.isalpha() for word in around - JOINING))
        or (sentence[found[0].start] == "=" and len(around) < 2)  # AB = 5: a name, no sentence
        or not _DANGLING.isdisjoint(found[-1].behind[-1:])  # cut off
        or _DATE.search(prose)
        or not _CHANGING.isdisjoint(re.findall(r"[a-z]+", prose))
    ):
        return None
    open_ = [at for at, each in enumerate(found) if _NEGATING.isdisjoint(_behind(each.before, _CLAUSE_ENDS))]
    but = max((at for at in open_ if "but" in found[at].before), default=0)
    open_ = [at for at in open_ if at >= but]
    if not open_:
        return None
    asserted = [at for at in open_ if not _is_modifier(found[at].before)] or open_
    begins = not found[0].before and not any(_SO.intersection(each.before) for each in found)
    first = last = asserted[0] if begins else asserted[-1]  # "42, not 43", "5 is prime"
    while first - 1 in open_ and _joins(found[first - 1], found[first]):
        first -= 1
    while begins and last + 1 in open_ and _joins(found[last], found[last + 1]):
        last += 1
    qualified = _QUALIFYING.intersection(_behind(found[first].before, _CLAUSE_ENDS | _COPULAS)[-_NEAR:])
    if qualified or found[-1].behind[:1] in (["or"], ["more"], ["less"]):
        return None
    if any(_OTHERWISE.intersection(each.before) for each in found[last + 1 :]):  # 42, or maybe 43
        return None
    run = found[first : last + 1]
    if all(JOINING.issuperset(each.before) for each in run[1:]):
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
    return bool(words) and words[-1] in PREPOSITIONS and _STATING.isdisjoint(words[-2:-1])


def _joins(one: Stretch, other: Stretch) -> bool:
    """Whether two stretches, one behind the other, are one answer of two parts."""
    before = other.before
    if _is_modifier(one.before) != _is_modifier(before) and before not in (["and"], ["or"]):
        return False
    if "=" in one.text and not ASSIGNED.match(one.text):
        return False
    if before[:1] in (["and"], ["or"]) and len(before) <= _NEAR + 1 and _CONCLUDING.isdisjoint(before):
        return True
    return (
        bool(before)
        and before[0] in JOINING
        and (
            JOINING.issuperset(before)
            or (before[-1] in ("is", "are") and len(before) <= 4 and "and" in before)
        )
    )
