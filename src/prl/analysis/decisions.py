"""What the paths of a block conclude, and what its summary makes of it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Hashable
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import Literal

from prl.answers import default_checker, extract_answer
from prl.answers.limits import Refused, Unreadable
from prl.answers.reading import read
from prl.grammar import FOUND, Block

Side = Literal["agreed", "majority", "minority", "other"]

_TAIL = 2_000  # characters at the end of a text in which its conclusion is looked for
_MOST_JUDGED = 16  # different conclusions of one block that are held against the gold answer

_NUMBER = re.compile(
    r"(?<![\w.])(?:(?<![)\]}\d]\s)(?<![)\]}])[-−])?\$?"  # a minus sign, not the minus of a difference
    r"(?:\\[dt]?frac\{\d+\}\{\d+\}|(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?(?:/\d+(?![\d.]))?)"
)
_EQUALS = re.compile(r"(?<![<>!])=\s*(?:\\?\$)?")
_END_OF_SIDE = re.compile(r"\\\)|\\\]|[\n$,;]|\.(?=\s|\Z)|\Z")
_PROSE = re.compile(r"(?<![\\\w])[A-Za-z]{2,}")  # words, where `\sqrt` and the letters of `2xy` are formula
_FOUND = re.compile(rf"{re.escape(FOUND)}[ \t]*\$?")
_END_OF_FOUND = re.compile(r"[\n$]|\.(?=\s|\Z)|\Z")
_NOTHING = re.compile(r"\b(?:no|none|nothing)[\s.]*\Z", re.IGNORECASE)
_PLAIN = re.compile(r"-?\d+(?:\.\d+)?(?:/\d+)?")


@dataclass(frozen=True, slots=True)
class Decision:
    """What the paths of a block conclude, and what its summary makes of it.

    paths        `conclusion` of what each path says after its opening, None where none can be read: no vote;
                 where one of them says `Found:`, the others have none, since the work was divided
    summary      that of the summary
    majority     what more paths conclude than anything else; None for a tie
    agreement    share of the pairs of votes that agree; None for fewer than two votes
    takes        the summary's side: "agreed" (with all votes), "majority", "minority", "other" (no path
                 concludes it); None where nothing can be read, or it takes one side of a tie
    right_paths  which paths conclude the gold answer; empty where none is known
    right        whether the summary does; None where none is known
    majority_right   chance that what most paths conclude is right, one of them drawn where several tie; 0
                     without a vote; None where none is known
    """

    paths: tuple[str | None, ...]
    summary: str | None
    majority: str | None
    agreement: float | None
    takes: Side | None
    right_paths: tuple[bool, ...]
    right: bool | None
    majority_right: float | None

    @property
    def disagree(self) -> bool:
        """Whether two paths conclude different things."""
        return self.agreement is not None and self.agreement < 1

    @property
    def right_minority(self) -> bool | None:
        """Whether the summary is right against a wrong majority; None unless a minority of paths is."""
        if self.majority is None or not any(self.right_paths):
            return None
        return None if self.right_paths[self.paths.index(self.majority)] else self.right


def decide(block: Block, gold: str | None = None) -> Decision:
    """How a block's summary settles what its paths conclude; `gold` is the right answer, where it is known.

    The block is one of `parse(…, opening=…)` where paths begin with openings: else a path that holds nothing
    but its number would conclude that.

    Conclusions agree when their exact values do, or their readings by `prl.answers`; what only algebra could
    show to be equal disagrees. Right is what the checker of the rewards finds equal to `gold`. It judges the
    first 16 different conclusions of a block; all else is linear in the text.
    """
    said = [path.content for path in block.paths]
    divided = any(map(_FOUND.search, said))
    paths = tuple(None if divided and not _FOUND.search(text) else conclusion(text) for text in said)
    summary = conclusion(block.summary.text, among=[*filter(None, paths)]) if block.summary else None
    *keys, taken = (None if value is None else vote_key(value) for value in (*paths, summary))
    votes = Counter(key for key in keys if key is not None)
    ranked = votes.most_common(2)
    majority = ranked[0][0] if ranked and ranked[0][1] > sum(n for _, n in ranked[1:]) else None
    right: set[Hashable] = set()
    if gold is not None:
        stated = dict(zip((taken, *keys), (summary, *paths), strict=True))
        judged = [key for key in stated if key is not None][:_MOST_JUDGED]
        verdicts = default_checker().check_many((stated[key], str(gold)) for key in judged)
        right = {key for key, verdict in zip(judged, verdicts, strict=True) if verdict}
    return Decision(
        paths=paths,
        summary=summary,
        majority=None if majority is None else paths[keys.index(majority)],
        agreement=_agreement(votes),
        takes=_side(taken, votes, majority),
        right_paths=() if gold is None else tuple(key in right for key in keys),
        right=None if gold is None else taken in right,
        majority_right=None if gold is None else _majority_right(votes, right),
    )


def conclusion(text: str, among: Collection[str] = ()) -> str | None:
    r"""The value that a path or a summary ends on, read from its last 2,000 characters, or None.

    That is what it says to have `Found:`, the answer it commits to (`prl.answers`), or else the right side of
    the last `=` or a number, whichever comes last; nothing, where its last word is no or none. A summary in
    prose goes on after its result ("Both give 15, as 30 is halved"): where there is no `=` in it, its last
    number `among` the paths' conclusions counts before the last of all.

    A reading by rule, and no more: of teacher traces for GSM8K, 82 % of the last blocks' paths and 85 % of
    their summaries end on the right answer by it.

    >>> conclusion("In order: 2+3=5. 5+4=9."), conclusion(r"Hence $x = 2\sqrt{3}$."), conclusion("hm")
    ('9', '2\\sqrt{3}', None)
    >>> conclusion("Both give 15, as 30 is halved.", among=["15", "15"])
    '15'
    >>> conclusion("3: 40-2=38. 38 38. Found: 3"), conclusion("2: 40+2=42. 42 38. no")
    ('3', None)
    """
    text = text[-_TAIL:]
    if found := _found(text) or extract_answer(text, strict=True):
        return found
    if _NOTHING.search(text):
        return None
    numbers = [*_NUMBER.finditer(text)]
    equals = [*_EQUALS.finditer(text)]
    if equals and (formula := _formula(text, equals[-1].end(), numbers[-1] if numbers else None)):
        return formula
    stated = [_bare(number.group()) for number in reversed(numbers)]
    wanted = set() if equals else {vote_key(value) for value in among}
    return next((value for value in stated if vote_key(value) in wanted), stated[0] if stated else None)


def _agreement(votes: Counter[Hashable]) -> float | None:
    count = votes.total()
    return sum(n * (n - 1) for n in votes.values()) / (count * (count - 1)) if count > 1 else None


def _majority_right(votes: Counter[Hashable], right: Collection[Hashable]) -> float:
    most = max(votes.values(), default=0)
    tied = [key in right for key, count in votes.items() if count == most]
    return sum(tied) / len(tied) if tied else 0.0


def _side(taken: Hashable, votes: Counter[Hashable], majority: Hashable) -> Side | None:
    if taken is None or not votes:
        return None
    if taken not in votes:
        return "other"
    if len(votes) == 1:
        return "agreed"
    if majority is None:
        return None
    return "majority" if taken == majority else "minority"


def _found(text: str) -> str | None:
    """What stands behind the last `Found:`, in its line or sentence."""
    starts = [match.end() for match in _FOUND.finditer(text)]
    if not starts:
        return None
    end = next(_END_OF_FOUND.finditer(text, starts[-1])).start()
    return text[starts[-1] : end].strip() or None


def _formula(text: str, start: int, last_number: re.Match[str] | None) -> str | None:
    """The right side that begins at `start`; None for words, and for or before the last number."""
    end = next(_END_OF_SIDE.finditer(text, start)).start()
    side = text[start:end].rstrip()
    if not side or _PROSE.search(side):
        return None
    if last_number and (last_number.start() <= start and last_number.end() >= start + len(side)):
        return None
    return None if last_number and last_number.start() >= end else side


def _bare(number: str) -> str:
    """A number as written, but for the currency sign, thousands separators and a typographic minus."""
    return number.replace("$", "").replace(",", "").replace("−", "-")


@lru_cache(maxsize=4096)  # the numbers of a response come again and again
def vote_key(value: str) -> Hashable:
    """Equal for conclusions that agree: exact where it is a number, else the reading, else the text."""
    try:
        if _PLAIN.fullmatch(value):
            return Fraction(value)
        answer = read(value)
    except (Refused, Unreadable, RecursionError, ValueError, ZeroDivisionError):
        return " ".join(value.split())
    bare = answer.kind == "expression" and answer.value is not None and not answer.unit and not answer.percent
    return answer.value if bare else answer
