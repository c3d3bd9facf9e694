r"""What a sentence states: 18 in "Janet makes $18 every day", `y \gt 7` in "so $y \gt 7$", "42 рубля".

A sentence is words and, between them, stretches of mathematics (`stretches`). The last stretch that its main
clause (`clauses`) asserts is the answer, rather one in which a number is worked out, with the unit behind it
and with those that commas, "and" or "or" join to it: several candidates stay several. Not asserted
is what is denied ("not 12 but 13", "5 is impossible") and, where another stretch is left, what stands behind
a preposition that says when or of what ("45 miles after 4 hours") or what for ("5 hours to drive 300 miles").
What is bounded, estimated or made conditional ("at least 5", "about 5", "5 unless …") states no quantity. At
most the last sentences of a text are looked at.
"""

# ruff: noqa: SIM905 (lists of names read better as words)

from __future__ import annotations

import re
from collections.abc import Iterable

from prl.answers.clauses import is_denied, main_clause
from prl.answers.corrections import correction_end
from prl.answers.formulas import ASSIGNED, DISPLAY, last_rows
from prl.answers.stretches import JOINING, PREPOSITIONS, Stretch, stretches

_STATING = frozenset(  # before a preposition: a total of 5, left with 5, comes to 5
    "total equal equals sum value result answer left ends up out comes come came amounts adds simplifies "
    "evaluates rounds reduces increases decreases rises drops".split()
)
_NEGATING = frozenset("not t never cannot none".split())  # "isn't" is read as isn and t
_NEGATING_NEXT = frozenset("neither nor without".split())  # but: what she paid without tax is 5
_COUNTED = frozenset("number amount who which".split())
_QUALIFYING = frozenset(
    "except than least most above below between under about approximately roughly around nearly almost "
    "multiple multiples divisible base twice half double triple thrice minus plus times power maybe perhaps "
    "possibly might may could either".split()
)
_ESTIMATED = [["or", each] for each in "about approximately roughly around nearly almost".split()]
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
_HOLDING = _COPULAS.union("has have".split())
_COMING_TO = frozenset(  # to find 5; "to paint 3 rooms" says what for
    "be find get give have make obtain reach total equal exactly about only yield".split()
)
_DETERMINERS = frozenset(
    "the a an his her their its my our your these those first last next past same other another".split()
)
_BREAKS = _CLAUSE_ENDS.union(  # between two quantities: what is said of them are two things
    _SO,
    _COPULAS,
    "and : which leaving leaves makes gives total i he she it we you they".split(),
)
_WORKED = re.compile(r"(?:^|[^<>=]*[^<>=\s])\s*=[^=]*\d")
_UNITS = re.compile(r"[^\W\d_]{2,}|(?<=\d) ?x ?(?=\$?\d)|\bx (?=\$?\d)")
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
    for uncorrected in reversed(sentences):
        sentence = uncorrected[correction_end(uncorrected) :]
        if _EMPTY_LABEL.fullmatch(sentence):
            continue
        if len(sentence) > _LONGEST or _CODE.search(sentence) or _UNFINISHED.search(sentence):
            return None
        found, behind = stretches(sentence)
        if found:
            return _asserted(sentence, found, alone=[sentence] == sentences)
        if answer := _IN_WORDS.match(sentence) or _NOTHING.search(sentence) or _NAMED.search(sentence):
            return next(filter(None, answer.groups()))
        is_negated = not (_NEGATING | _NEGATING_NEXT).isdisjoint(behind)  # "it cannot be known"
        if is_negated or not _FINISHED.search(sentence):
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
    found = _without_estimates(found)
    words = [word for at, each in enumerate(found) for word in (*each.before, str(at))]
    main = main_clause(" " + " ".join([*words, *found[-1].behind]))
    open_ = _open(found, range(len(found)) if main is None else main)
    if not open_:
        return None
    first = last = _meant(found, open_, is_plain=main is not None)
    while first - 1 in open_ and _joins(found[first - 1], found[first]):
        first -= 1
    while last + 1 in open_ and _joins(found[last], found[last + 1]):
        last += 1
    if _is_qualified(found[first], found[last], found[last + 1 :]):
        return None
    if last + 1 < len(found) and _is_range(found[last], found[last + 1]):
        last += 1
    run = found[first : last + 1]
    if all(JOINING.issuperset(each.before) or each.before == ["to"] for each in run[1:]) and len(run) > 1:
        return sentence[run[0].start : run[-1].end].lstrip("= ").replace("**", "")
    return ", ".join(_result(each.text).replace("**", "") for each in run)


def _result(text: str) -> str:
    """What a stretch comes to: 42 pages in "420 cards / 10 cards = 42 pages"; what has no unit in front of
    the last "=", nor lacks its first term, is left to be checked."""
    worked, _, result = text.rpartition("=")
    in_words = _is_worked(text) and "\\" not in text and re.search(r"^[*/+x]|[^\W\d_]{2,}", worked)
    return result.lstrip() if in_words else text.lstrip("= ")


def _without_estimates(found: list[Stretch]) -> list[Stretch]:
    """Without the stretches that say roughly what the one before says: 7/12, or about 0.583."""
    kept = found[:1]
    for each in found[1:]:
        if [word for word in each.before if word not in (",", ";")] in _ESTIMATED:
            kept[-1] = kept[-1]._replace(behind=each.behind)
        else:
            kept.append(each)
    return kept


def _open(found: list[Stretch], main: Iterable[int]) -> list[int]:
    """The stretches of the main clause that nothing denies, from the last "but" in front of one on."""
    denied = set()
    for at, each in enumerate(found):
        is_next = at - 1 in denied and bool(each.before) and JOINING.issuperset(each.before)  # not 5 or 6
        if is_next or _negates(_behind(each.before, _CLAUSE_ENDS)):
            denied.add(at)
    for at, each in reversed(list(enumerate(found))):
        is_next = at + 1 in denied and each.behind in (["and"], ["or"])  # 5 and 6 are wrong
        if is_next or is_denied(" " + " ".join(each.behind), has_unit=each.text[-1].isalpha()):
            denied.add(at)
    open_ = [at for at in main if at not in denied]
    but = max((at for at in open_ if "but" in found[at].before), default=0)
    return [at for at in open_ if at >= but]


def _negates(words: list[str]) -> bool:
    """Whether the words in front of a quantity deny it, rather than say what is counted: the number of those
    that are not red is 5."""
    at = next((at for at, word in enumerate(words) if word in _NEGATING | _NEGATING_NEXT), 0)
    if not _COUNTED.isdisjoint(words[:at]) or (at > 1 and words[at - 2] == "that"):
        words = _behind(words, _COPULAS.union(":" if "number" in words[:at] else ""))
    return not (_NEGATING.isdisjoint(words) and _NEGATING_NEXT.isdisjoint(_behind(words, _COPULAS)))


def _meant(found: list[Stretch], open_: list[int], *, is_plain: bool) -> int:
    """Of the `open_` stretches the one that the sentence is about: what it works out; else what it begins
    with; else what something is or has, where the sentence `is_plain`; else the last."""
    begins = not found[0].before and not any(_SO.intersection(each.before) for each in found)
    modifiers = _modifiers(found)
    asserted = [at for at in open_ if at not in modifiers] or open_
    worked = [at for at in open_ if _is_worked(found[at].text)]
    said = [at for at in worked if at in asserted] or worked
    is_share = begins and len(found) > 1 and found[1].before[:1] == ["of"]  # 20% of 50 is 10
    if not said and is_plain and (is_share or not begins):
        verbs = _COPULAS if begins else _HOLDING
        said = [at for at in asserted if not verbs.isdisjoint(found[at].before[-1:])]
    if not said:
        return asserted[0] if begins else asserted[-1]  # "42, not 43", "5 is prime"
    later = [at for at in asserted if at > said[-1] and not _BREAKS.isdisjoint(found[at].before)]
    return said[-1] if begins or not later else later[-1]


def _is_worked(text: str) -> bool:
    """Whether a number is worked out there: 15 * 15 = 225, but not 2x = 10."""
    return _WORKED.match(text) is not None and re.search("[a-zA-Z]", _UNITS.sub("", text)) is None


def _is_qualified(first: Stretch, last: Stretch, rest: list[Stretch]) -> bool:
    """Whether a run of stretches is bounded, estimated, a difference, or one of several guesses."""
    near = _behind(first.before, _CLAUSE_ENDS | _COPULAS)[-_NEAR:]
    if _is_worked(first.text):  # the distance between them will be 5 + 4 = 9; he could read 6 * 2 = 12
        near = [word for word in near[-2:] if word != "could" or near[-1] == "be"]
    if first.text[0] != "=" and not _QUALIFYING.isdisjoint(near):  # words before "=" are its other side
        return True
    if last.behind[:1] in (["more"], ["less"]) and not _is_worked(last.text):
        is_compared = last.behind[1:2] == ["than"] and not _COPULAS.isdisjoint(first.before[-1:])
        if not first.before or is_compared:  # 5 less than 12; she is 5 more than he
            return True
    return last.behind[:1] == ["or"] or any(_OTHERWISE.intersection(each.before) for each in rest)


def _is_range(one: Stretch, other: Stretch) -> bool:
    """Whether two stretches are one quantity, 5 to 6 miles; not so from 5 to 6, or 5 miles to 3 towns."""
    return other.before == ["to"] and "from" not in one.before and not one.text[-1].isalpha()


def _behind(before: list[str], ends: frozenset[str]) -> list[str]:
    """The words behind the last of `ends`."""
    return before[max((at + 1 for at, word in enumerate(before) if word in ends), default=0) :]


def _modifiers(found: list[Stretch]) -> set[int]:
    """The stretches that say when, where or of what, and what "and" joins to one: in 3 days and 5 hours."""
    modifiers: set[int] = set()
    for at, each in enumerate(found):
        is_next = at - 1 in modifiers and each.before[-1:] == ["and"] and _BREAKS.isdisjoint(each.before[:-1])
        if _is_modifier(each.before) or is_next:
            modifiers.add(at)
    return modifiers


def _is_modifier(before: list[str]) -> bool:
    """Whether a stretch behind these words says when, where or of what."""
    words = [word for word in before if word not in _DETERMINERS]
    if words[-2:] == ["out", "of"]:
        return True
    if len(words) > 1 and _BREAKS.isdisjoint(words):
        if words[0] == "to" and words[1] not in _COMING_TO:  # 5 hours to drive 300 miles
            return True
        if words[0] in PREPOSITIONS and words[1].endswith("ing"):  # $8 for selling 3 cups
            return True
    return bool(words) and words[-1] in PREPOSITIONS and _STATING.isdisjoint(words[-2:-1])


def _joins(one: Stretch, other: Stretch) -> bool:
    """Whether two stretches, one behind the other, are one answer of two parts."""
    before = other.before
    if _is_modifier(one.before) != _is_modifier(before) and before not in (["and"], ["or"]):
        return False
    if _is_worked(one.text):
        return before in (["and"], ["or"]) or (JOINING.issuperset(before) and not _is_worked(other.text))
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
