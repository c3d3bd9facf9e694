"""Solutions that a teacher wrote: which are right, which differ, what of one makes a path, and whether a copy
has all its words. Pure; texts are data."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import zip_longest

from prl.analysis import diversity, words
from prl.answers import default_checker, extract_answer
from prl.answers.extraction import commits
from prl.grammar import TAGS, is_blank
from prl.traces.checks import DEFAULT
from prl.turns import END_THINK, OPEN_THINK

_TAG = re.compile("|".join(TAGS))
_BOX = re.compile(r"\\f?boxed\s*\{((?:[^{}]|\{(?:[^{}]|\{[^{}]*\})*\})*)\}")
_ITEM = re.compile(r"^[ \t]*\(?\d{1,2}[.)][ \t]+", re.MULTILINE)


def kept_words(original: str, annotated: str) -> str | None:
    """The first difference in words between two texts, their tags aside; None where there is none.

    Words are what whitespace and tags separate, so a number with a tag inside is another word.

    >>> kept_words("2 + 2 = 4", "<Path>2 + 2</Path> = 4"), kept_words("2 + 2 = 4", "2 + 2 = 5")
    (None, "word 5, '4', became '5'")
    """
    pairs = zip_longest(_TAG.sub(" ", original).split(), _TAG.sub(" ", annotated).split())
    for place, (one, other) in enumerate(pairs, 1):
        if other is None:
            return f"word {place}, {shown(one)!r}, is missing"
        if one is None:
            return f"word {place}, {shown(other)!r}, was added"
        if one != other:
            return f"word {place}, {shown(one)!r}, became {shown(other)!r}"
    return None


def path_of(solution: str) -> str | None:
    """A solution as a path: without what announces the final answer, boxes opened, items not numbered; None
    where no reasoning is left.

    >>> path_of("1. Half of 12 is 6.\\n2. 6 + 1 = \\\\boxed{7}. So the answer is 7.\\n\\nFinal Answer: 7")
    'Half of 12 is 6.\\n6 + 1 = 7.'
    """
    kept = []
    for line in _BOX.sub(r"\1", without_tags(solution)).splitlines():
        if commits(line + "\n"):
            if extract_answer(line, strict=True) is None:  # a label; the answer follows on lines of its own
                break
            sentences = re.split(r"(?<=[.!?])\s+", line)
            line = " ".join(sentence for sentence in sentences if not commits(sentence + "\n"))
            if not line:
                continue
        kept.append(line.rstrip())
    path = re.sub(r"\n{3,}", "\n\n", _ITEM.sub("", "\n".join(kept))).strip()
    return None if is_blank(path) or commits(path) else path


def without_thoughts(text: str) -> str:
    """What a reasoning model says after `</think>` or `[/THINK]`, all of it where it did not think aloud;
    nothing of thoughts that do not end. Servers leave them in where no reasoning parser is set (vLLM,
    llama.cpp), and a template that opens them leaves the first tag out.

    >>> without_thoughts("<think>Hm, 6 + 1.</think>\\n\\nIt is 7."), without_thoughts("<think>Hm, 6")
    ('It is 7.', '')
    """
    if ends := [*END_THINK.finditer(text)]:
        return text[ends[-1].end() :].lstrip()
    return "" if OPEN_THINK.match(text.lstrip()) else text


def without_tags(text: str) -> str:
    """`text` with a space for each tag."""
    return _TAG.sub(" ", text).strip()


def right(solutions: Sequence[str], gold: str) -> list[tuple[str, str]]:
    """The solutions that end on the gold answer, each with the answer as it says it."""
    judged = default_checker().check_responses(solutions, [gold] * len(solutions))
    return [
        (solution, answer)
        for solution, (answer, verdict) in zip(solutions, judged, strict=True)
        if verdict and answer
    ]


def distinct(paths: Sequence[tuple[str, str]], most: int) -> list[tuple[str, str]]:
    """The first of `paths`, and those after it that are copies of none taken before, `most` in all."""
    taken: list[tuple[str, str]] = []
    for path in paths:
        pairs = ([words(path[0]), words(other)] for other, _ in taken)
        if len(taken) < most and all((diversity(pair) or 0) >= DEFAULT.min_diversity for pair in pairs):
            taken.append(path)
    return taken


def shown(text: str) -> str:
    """The beginning of `text`, for a message."""
    return text if len(text) <= 40 else text[:39] + "…"
