"""What is wrong with a trace that one would train on: every reason at once, each with the words that show it.

    check(trace, problem=..., answer=...)    [] or the rejections
    repair(trace)                            whitespace between tags, and what was done

A model learns what it is shown: paths that copy each other, that count themselves or lean on one another
teach it to write blocks that nothing is gained from. The reasons are those of the demands that the
instruction prompt makes (`prl.prompts`), of the grammar, and of what teachers are known to do. Words are
looked for in English.
Pure: no torch, no files; texts are data and never evaluated.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from itertools import islice

from prl.analysis import diversity, words
from prl.answers import default_checker
from prl.grammar import Block, Trace, canonical_layout, parse, with_openings
from prl.turns import bare, marker_inside, without_thoughts


class Reason(StrEnum):
    """Every way in which a trace is unfit; `meaning` says it in a line."""

    meaning: str

    def __new__(cls, name: str, meaning: str) -> Reason:
        reason = str.__new__(cls, name)
        reason._value_ = name
        reason.meaning = meaning
        return reason

    GRAMMAR = "grammar", "it breaks the format"
    MARKER = "marker", "it holds a marker of a chat template's turns"
    THOUGHTS = "thoughts", "it holds thoughts, in <think> or a tag like it"
    NO_BLOCK = "no_block", "it holds no <Parallel> block"
    NO_ANSWER = "no_answer", "it states no final answer"
    WRONG_ANSWER = "wrong_answer", "its final answer is not the gold one"
    UNREADABLE_GOLD = "unreadable_gold", "the gold answer cannot be read, so it proves nothing"
    COPIED_PATHS = "copied_paths", "two paths of a block use nearly the same words"
    CROSS_REFERENCE = "cross_reference", "a path refers to another one, which it cannot see"
    ORDERING = "ordering", "a path begins with its number or its place among the paths"
    NO_PLAN = "no_plan", "no paragraph with a line for each path stands right before a block"
    TOO_LONG = "too_long", "it is longer than allowed"
    LEAKED_ANSWER = "leaked_answer", "a block's first path opens with the answer, before any reasoning"
    REFUSAL = "refusal", "it refuses, or speaks of itself as an assistant"
    ALTERED_PROBLEM = "altered_problem", "the problem that it restates is another one"
    ALTERED_WORDS = "altered_words", "the annotation changed words of the solution"
    CONTAMINATED = "contaminated", "its problem is one of a benchmark"


@dataclass(frozen=True)
class Rejection:
    """One reason against a trace, and the words or numbers that show it."""

    reason: Reason
    detail: str

    @property
    def message(self) -> str:
        return f"{self.reason.value}: {self.detail}"


@dataclass(frozen=True)
class Rules:
    """What is asked of a trace.

    `max_length`: the most characters, or tokens where `check` is given a `count`; None for any. Two paths
    are copies where their `prl.analysis.diversity` is below `min_diversity`: of 341 traces that a teacher
    wrote on GSM8K, two have such a pair. The first of a block is told, of its `MOST_PAIRS` that are nearest
    to each other: a teacher in a loop writes paths by the thousand. `need_block` False lets sequential
    traces pass. `path_opening`, of `prl.grammar.OPENINGS`, is what paths are to begin with: numbers make no
    ordering then, and a plan is asked for. Reasons in `ignored` do not count.
    """

    max_length: int | None = None
    min_diversity: float = 0.1
    need_block: bool = True
    path_opening: str = "none"
    ignored: frozenset[Reason] = frozenset()


DEFAULT = Rules()

MOST_PAIRS = 4096
"""Pairs of paths that are compared in a block: all of 91 paths."""

_NOUN = (
    r"(?:(?:line|train|chain)s? of (?:reasoning|thought)|"
    r"(?:reasoning )?(?:path|approach|method|perspective|thread)(?:e?s)?)"
)
_NUMERAL = r"(?:\#?\d{1,2}|[A-D]|I{1,3}|one|two|three|four)"
_ORDINAL = r"(?:first|second|third|fourth|1st|2nd|3rd|4th)"

_CROSS_REFERENCE = re.compile(
    r"\b(?:(?:as|like|unlike|than|from|in|see|by|with|of|to|using|matches|confirms|verif(?:y|ies|ying)) "
    rf"(?:the )?(?:(?:other|previous|preceding|earlier|above|{_ORDINAL}) {_NOUN}|{_NOUN} {_NUMERAL})"
    rf"|the (?:other|previous|preceding) (?:reasoning )?paths?)\b",
    re.IGNORECASE,
)
_ORDERING = re.compile(
    rf"\W*(?:(?:the )?(?:{_ORDINAL}|another|other|next|last|alternative) {_NOUN}\b"
    rf"|{_NOUN} {_NUMERAL}\b|(?:second|third|fourth|last)(?:ly)?,|\(?[1-9][.)]\s|next,|finally,"
    r"|alternatively\b|another (?:way|option|possibility)\b|on the other hand\b)",
    re.IGNORECASE,
)
_REFUSAL = re.compile(
    r"\bas an? (?:AI|(?:large )?language model|assistant)\b|\bI(?:'m| am) (?:sorry|unable|not able)\b"
    r"|\bI (?:cannot|can't|can not|won't) (?:help|assist|solve|answer|provide|comply|do that)\b"
    r"|\bI hope this helps\b|\blet me know if\b",
    re.IGNORECASE,
)
_GREETING = re.compile(
    r"\s*(?:sure|certainly|of course|absolutely|great question|no problem)\b\s*[,!.:]"
    r"|\s*here(?:'s| is) (?:the|a|my) (?:solution|answer|step|response|trace)",
    re.IGNORECASE,
)
_RESTATED = re.compile(
    r"\W*(?:problem|question)(?: statement)?\W*:\W*(.+?)(?:\n\s*\n|\n(?=\W*(?:solution|answer)\b)|\Z)",
    re.IGNORECASE | re.DOTALL,
)
_FENCED = re.compile(r"\s*```\w*\n((?:(?!```).)*?)\n?```\s*", re.DOTALL)
_OPENING = 80  # characters
_NUMBER = re.compile(r"(-?\d+(?:\.\d+)?)(\s*[-+*/×·−÷^%=])?")
_SHOWN = 60  # characters of a detail


def check(
    trace: str,
    *,
    problem: str,
    answer: str | None = None,
    rules: Rules = DEFAULT,
    count: Callable[[str], int] | None = None,
) -> list[Rejection]:
    """Everything that is wrong with `trace`, in the order of `Reason`.

    `answer`: the gold one; None leaves answers unjudged. `count` measures a trace for `max_length`.
    """
    parsed = parse(trace, opening=rules.path_opening)
    found = [
        *(Rejection(Reason.GRAMMAR, fault.message) for fault in parsed.faults),
        *(Rejection(Reason.MARKER, mark) for mark in [marker_inside(trace)] if mark),
        *_thoughts(trace),
        *_blocks(parsed, rules),
        *_answer(parsed, answer),
        *_length(trace, rules, count),
    ]
    for block in parsed.blocks:
        found += _paths(block, problem, answer, rules)
    if with_openings(parsed, rules.path_opening) is None:
        found.append(Rejection(Reason.NO_PLAN, "fewer lines than paths"))
    if match := _REFUSAL.search(trace) or _GREETING.match(trace):
        found.append(Rejection(Reason.REFUSAL, _shown(match.group())))
    found += _problem(trace, problem)
    order = list(Reason)
    kept = [rejection for rejection in found if rejection.reason not in rules.ignored]
    return sorted(kept, key=lambda rejection: order.index(rejection.reason))


def repair(trace: str) -> tuple[str, list[str]]:
    """`trace` with what is mechanically safe put right, and what was done: the turn markers at its ends, the
    code fence around all of it, the layout between the parts of its blocks, and blank ends. Not a word
    changes."""
    done = []
    within, marks = bare(trace)
    trace = within if marks else trace
    if (opened := unfenced(trace)) != trace:
        done.append("code fence around the trace")
        within, more = bare(opened)
        opened, marks = (within if more else opened), marks + more
    if marks:
        done.append("turn markers at the ends of the trace")
    if (laid_out := canonical_layout(opened)) != opened:
        done.append("whitespace between tags")
    if (stripped := laid_out.strip()) != laid_out:
        done.append("whitespace around the trace")
    return stripped, done


def unfenced(text: str) -> str:
    """`text` out of the code fence that it stands in as a whole."""
    fenced = _FENCED.fullmatch(text)
    return fenced[1] if fenced else text


def _thoughts(trace: str) -> Iterator[Rejection]:
    """What the reader of data sets would take off, or refuse to guess about."""
    try:
        _, off = without_thoughts(trace)
    except ValueError as error:
        yield Rejection(Reason.THOUGHTS, str(error))
    else:
        if off:
            yield Rejection(Reason.THOUGHTS, _shown(trace) if off == "thoughts" else f"{off} at its end")


def _blocks(parsed: Trace, rules: Rules) -> Iterator[Rejection]:
    if rules.need_block and not parsed.blocks:
        yield Rejection(Reason.NO_BLOCK, f"{parsed.length} characters without <Parallel>")
    for block in parsed.blocks:
        paths = [words(path.content) for path in block.paths]
        for i, j in islice(_pairs(len(paths)), MOST_PAIRS):
            differ = diversity([paths[i], paths[j]])
            if differ is not None and differ < rules.min_diversity:
                shown = f"paths {i + 1} and {j + 1} of the block at {block.span.start}: "
                yield Rejection(Reason.COPIED_PATHS, f"{shown}diversity {differ:.2f}")
                break


def _pairs(count: int) -> Iterator[tuple[int, int]]:
    """The pairs of the places below `count`, the nearest first: what loops copies what it just wrote."""
    for apart in range(1, count):
        yield from ((place, place + apart) for place in range(count - apart))


def _answer(parsed: Trace, gold: str | None) -> Iterator[Rejection]:
    if gold is None:
        return
    ((said, verdict),) = default_checker().check_responses([parsed.text], [gold])
    if said is None:
        yield Rejection(Reason.NO_ANSWER, "no line `Final Answer:`, no box")
    if not verdict.judges:
        yield Rejection(Reason.UNREADABLE_GOLD, f"{_shown(gold)!r}: {verdict.detail}")
    elif said is not None and not verdict:
        yield Rejection(Reason.WRONG_ANSWER, f"{_shown(said)}, not {_shown(gold)}")


def _length(trace: str, rules: Rules, count: Callable[[str], int] | None) -> Iterator[Rejection]:
    if rules.max_length is not None and (length := count(trace) if count else len(trace)) > rules.max_length:
        unit = "tokens" if count else "characters"
        yield Rejection(Reason.TOO_LONG, f"{length} {unit}, more than {rules.max_length}")


def _paths(block: Block, problem: str, answer: str | None, rules: Rules) -> Iterator[Rejection]:
    for number, path in enumerate(block.paths, 1):
        if match := _CROSS_REFERENCE.search(path.text):
            yield Rejection(Reason.CROSS_REFERENCE, f"path {number}: {_shown(match.group())}")
        if rules.path_opening != "number" and (match := _ORDERING.match(path.content)):
            yield Rejection(Reason.ORDERING, f"path {number}: {_shown(match.group())}")
    if answer and block.paths and (opening := _leak(block.paths[0].content, problem, answer)):
        yield Rejection(Reason.LEAKED_ANSWER, _shown(opening))


def _leak(path: str, problem: str, answer: str) -> str | None:
    """The opening of a path, where its first number is the answer, none that is computed with, and none that
    the problem gives."""
    number = answer.strip().strip("$").replace(",", "")
    if not re.fullmatch(r"-?\d+(?:\.\d+)?", number):
        return None
    opening = path.strip().partition("\n")[0][:_OPENING]
    first = _NUMBER.search(opening.replace(",", ""))
    is_given = re.search(rf"(?<![\d.]){re.escape(number)}(?!\.?\d)", problem.replace(",", ""))
    return opening if first and first[1] == number and not first[2] and not is_given else None


def _problem(trace: str, problem: str) -> Iterator[Rejection]:
    restated = _RESTATED.match(trace)
    if restated and _plain(restated[1]) not in _plain(problem) and _plain(problem) not in _plain(restated[1]):
        yield Rejection(Reason.ALTERED_PROBLEM, _shown(restated[1]))


def _plain(text: str) -> str:
    return " ".join(text.split()).casefold()


def _shown(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…"
