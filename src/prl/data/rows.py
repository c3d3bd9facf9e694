"""A row of the schema from the cells of a record: what each cell says.

A conversation is rendered whole: its last answer is the trace, the turn before it the problem, and the turns
before that the history. Whatever comes out is text that a model may be shown: markers that another template
put around it are taken off, and where that would be a guess, the row is wrong.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from decimal import Decimal
from typing import Any, NamedTuple

from prl.data.columns import (
    CONTEXT_PATHS,
    EARLIER,
    HISTORY,
    SYSTEM,
    WHOLE,
    by_column,
    column_of,
    repeated_columns,
)
from prl.data.conversations import Turn, check_end, is_filled, last_answer, question, read_conversation
from prl.data.golds import ESCAPED, gold, is_cut_off, mend, text_of
from prl.data.literals import EXACT, decoded, once_escaped, written
from prl.grammar import PARALLEL, parse
from prl.turns import bare, is_marked, marker_inside, without_thoughts

# DAPO-Math's instruction around the problem, and the variants of sets made from it.
_BEFORE_PROBLEM = re.compile(
    r"\ASolve the following math problem step by step\. The last line of your response should be of the form "
    r"Answer: \S+ (?:\(without quotes\) )?where \$Answer is the answer to the problem\.\s*",
    re.IGNORECASE,
)
_AFTER_PROBLEM = re.compile(
    r'Remember to put your answer on its own line after "Answer:"\.?\s*\Z', re.IGNORECASE
)


class Read(NamedTuple):
    """A row, all that is wrong with it, and what was read otherwise than it is written."""

    row: dict[str, Any]
    wrong: list[str]
    notes: list[str]


class _Wrong(ValueError):
    """What is wrong with a field, with the column that says so."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field


def to_row(record: Mapping[str, Any], need: Sequence[str], source: str) -> Read:
    """The row that a record holds."""
    cells = by_column(record)
    if len(cells) < len(record) and (twice := repeated_columns(record)):
        return Read({}, [f"has one column twice: {', '.join(twice)}"], [])
    row: dict[str, Any] = {}
    wrong: list[tuple[str, str]] = []  # field, what is wrong with it
    notes: list[str] = []
    of_answer: list[str] = []
    column = column_of("answer", cells)
    try:
        row["answer"] = _gold(column, cells, of_answer)
    except ValueError as error:
        wrong.append(("answer", f"{column} {error}" if column else "no answer"))
    try:
        row |= _asked(cells, "trace" in need, row.get("answer") if "answer" in need else None, notes)
    except _Wrong as error:
        wrong.insert(0 if error.field == "problem" else 1, (error.field, str(error)))
    if is_cut_off(answer := row.get("answer", "")):
        if mended := mend(answer, cells.get("solution")):
            row["answer"] = mended
            of_answer.append("answers are cut off and were taken from the solutions instead")
        else:
            wrong.append(("answer", f"the answer is cut off: {answer[-40:]!r}"))
    row["level"] = _level(cells.get("level"))
    if row["level"] is None:
        wrong.append(("level", f"level {cells.get('level')!r} is no number"))
    column = column_of("source", cells)
    row["source"] = cells[column] if column and isinstance(cells[column], str) else source
    told = notes + of_answer if "answer" in need else notes
    return Read(row, [fault for field, fault in wrong if field in need], told)


def own_trace(record: Mapping[str, Any]) -> str | None:
    """What a column of the name `trace` holds, where it is a text that can be trained on."""
    try:
        return _clean(text_of(by_column(record).get("trace")), "traces", [], "assistant")
    except ValueError:
        return None


def _gold(column: str | None, cells: Mapping[str, Any], notes: list[str]) -> str:
    value = cells.get(column or "")
    if column != "text":
        return gold(value, notes, worked=column == "solution")
    turns = read_conversation(value, [])
    at = last_answer(turns) if turns else None
    text = text_of(turns[at].text if turns and at is not None else value)
    if not _commits(text):
        raise ValueError("commits to no answer")
    notes.append("answers are those that the column 'text' itself commits to")
    return gold(text, notes, worked=True)


def _asked(
    cells: Mapping[str, Any], wants_trace: bool, answer: str | None, notes: list[str]
) -> dict[str, Any]:
    """The problem, its history where there is one, and the trace where it is wanted. Raises _Wrong."""
    at_problem = column_of("problem", cells)
    if at_problem is None:
        raise _Wrong("problem", "no problem")
    at_trace = column_of("trace", cells) if wants_trace else None
    if wants_trace and at_trace is None:
        raise _Wrong("trace", "no trace")
    turns = _problem_turns(at_problem, cells, notes)
    found: dict[str, Any] = {}
    field, column = "trace" if at_trace else "problem", at_trace or at_problem
    try:
        if at_trace and at_trace != at_problem:
            turns, at = _with_reply(turns, at_problem, at_trace, cells, notes)
        else:
            at = last_answer(turns) if wants_trace else _place(turns, at_problem, answer, notes)
        if at is None:
            raise ValueError("has no turn of assistant or gpt")
        check_end(turns, at, notes)
        field = "problem"
        history, asked = question(turns, at, notes)
        column = at_problem
        found["problem"] = _problem(asked.text, notes)
        for turn in history:
            column = f"an earlier turn ({turn.role})"
            said = _clean(turn.text, "earlier turns", notes, turn.role)
            found.setdefault("history", []).append({"role": turn.role, "content": said})
        if at_trace:
            field, column = "trace", at_trace
            found["trace"] = _clean(turns[at].text, "traces", notes, "assistant")
            if column == "text" and PARALLEL not in found["trace"] and not _commits(found["trace"]):
                raise ValueError("holds no trace: neither a block nor a final answer")
            column = CONTEXT_PATHS
            if (cell := cells.get(CONTEXT_PATHS)) is not None:
                paths = sum(len(block.paths) for block in parse(found["trace"]).blocks)
                if (context := context_paths(cell, paths)) is not None:
                    found[CONTEXT_PATHS] = context
    except ValueError as error:
        raise _Wrong(field, f"{column} {error}") from None
    return found


def context_paths(value: object, paths: int) -> list[int] | None:
    """The places that a cell holds, of a trace of so many `paths`, also as JSON in a text; None for an empty
    one. Raises ValueError."""
    if isinstance(value, str):
        with suppress(ValueError, RecursionError):  # else it is told as what it is: a text
            value = EXACT.decode(value.strip() or "null")
    if value is None:
        return None
    if not isinstance(value, list) or any(type(place) is not int for place in value):
        raise ValueError(f"is {_shown(value)}, not a list of whole numbers such as [0, 2]")
    if beyond := [place for place in value if not 0 <= place < paths]:
        places = f"count from 0 to {paths - 1}" if paths else "leave the list empty"
        raise ValueError(f"names path {beyond[0]}, and the trace has {paths}: {places}")
    if len({*value}) < len(value):
        raise ValueError(f"names a path twice: {_shown(value)}")
    return value


def _shown(value: object) -> str:
    text = " ".join(repr(value).split())
    return text if len(text) <= 40 else f"{text[:39]}…"


def _problem_turns(column: str, cells: Mapping[str, Any], notes: list[str]) -> list[Turn]:
    """What stands in the column of the problem, and before it, as turns; a text is one of the user."""
    try:
        value = cells[column]
        turns = read_conversation(value, notes)
        if turns is None:
            if column in WHOLE and value is not None:
                raise ValueError("is no conversation: it holds no turns with role and content")
            text = text_of(value)
            if column == "instruction":
                column = "input"
                text = f"{text}\n\n{_input(cells.get(column))}".strip()
            turns = [Turn("user", text)]
    except ValueError as error:
        raise _Wrong("problem", f"{column} {error}") from None
    if not (EARLIER & cells.keys()):
        return turns
    for earlier in HISTORY:
        try:
            turns = [*_history(cells.get(earlier), notes), *turns]
        except ValueError as error:
            raise _Wrong("problem", f"{earlier} {error}") from None
    said = [turn.text.strip() for turn in turns if turn.role == "system"]
    told: list[Turn] = []
    for name in SYSTEM:
        try:
            told += _system(cells.get(name), notes)
        except ValueError as error:
            raise _Wrong("problem", f"{name} {error}") from None
    return [*(turn for turn in told if turn.text not in said), *turns]


def _input(value: object) -> str:
    """What an `input` adds to its instruction: a text or a number. Raises ValueError."""
    if _is_empty(value):
        return ""
    if isinstance(value, int | float | Decimal) and not isinstance(value, bool):
        return written(value)
    return text_of(value)


def _system(value: object, notes: list[str]) -> list[Turn]:
    """What a column of the system says: a text, or turns of the system. Raises ValueError."""
    if _is_empty(value):
        return []
    turns = read_conversation(value, notes)
    if turns is None:
        turns = [Turn("system", text_of(value))]
    if other := next((turn.role for turn in turns if turn.role != "system"), None):
        raise ValueError(f"has a turn of {other}")
    return [Turn("system", text) for turn in turns if (text := turn.text.strip())]


def _is_empty(value: object) -> bool:
    if isinstance(value, str):
        return not value.strip()
    return value is None or (isinstance(value, list | dict) and not is_filled(value))


def _history(value: object, notes: list[str]) -> list[Turn]:
    """Turns, or pairs of a question and its answer. Raises ValueError."""
    if isinstance(value, str):
        value = decoded(value) or value.strip()
    if not value:
        return []
    if isinstance(value, list) and all(isinstance(pair, list) and len(pair) == 2 for pair in value):
        return [Turn(role, text_of(said)) for pair in value for role, said in zip(_PAIR, pair, strict=True)]
    turns = read_conversation(value, notes)
    if turns is None:
        raise ValueError(
            f"is of type {type(value).__name__}, not a list of turns; rename it where it is not of the prompt"
        )
    return turns


_PAIR = ("user", "assistant")


def _with_reply(
    asked: list[Turn], at_problem: str, at_trace: str, cells: Mapping[str, Any], notes: list[str]
) -> tuple[list[Turn], int | None]:
    """The turns that ask and those of the trace, which stand in a column of its own, and the place of the
    answer. Raises ValueError."""
    value = cells[at_trace]
    reply = read_conversation(value, notes)
    if reply is None:
        reply = [Turn("assistant", text_of(value))]
    at = last_answer(reply)
    if at is not None and any(turn.role == "user" for turn in reply[:at]):
        return _in_conversation(asked, at_problem, reply, at)
    if asked[-1].role == "user":
        if at_problem in WHOLE and last_answer(asked) is not None:
            raise ValueError(f"answers one of two questions: {at_problem} ends with another turn of user")
        return asked + reply, None if at is None else len(asked) + at
    if last_answer(asked) != len(asked) - 1:
        raise ValueError(f"answers no question: {at_problem} ends with a turn of {asked[-1].role}")
    notes.append(f"prompts end with a turn of the assistant, which is left out for that of {at_trace!r}")
    return asked[:-1] + reply, None if at is None else len(asked) - 1 + at


def _in_conversation(
    asked: list[Turn], at_problem: str, reply: list[Turn], at: int
) -> tuple[list[Turn], int]:
    """Of a problem in one column and a whole conversation in another: the problem as it stands alone, where
    the conversation puts it to the assistant, perhaps with an instruction, and says nothing before it."""
    history, theirs = question(reply, at, [])
    one, other = (" ".join(turn.text.split()) for turn in (asked[-1], theirs))
    if one not in other and other not in one:
        raise ValueError(f"asks another question than {at_problem}: {theirs.text.strip()[:40]!r}")
    return (reply, at) if history else (asked + reply[at:], len(asked))


def _place(turns: list[Turn], column: str, answer: str | None, notes: list[str]) -> int:
    """Where the answer stands or would stand that `answer` is the gold one of.

    A prompt ends with its question. Where a whole conversation does, after an earlier answer, the gold answer
    says which question it belongs to.
    """
    at = last_answer(turns)
    if at is None or (turns[-1].role == "user" and column not in WHOLE):
        return len(turns)
    if column not in WHOLE:
        notes.append("prompts end with a turn of the assistant, which is left out")
    is_asked_again = any(turn.role == "user" for turn in turns[at + 1 :])
    if not is_asked_again or answer is None or _says(turns[at].text, answer):
        return at
    notes.append(
        "conversations end with a question, which the answer is taken for: the one before says other"
    )
    return len(turns)


def _says(text: str, answer: str) -> bool:
    from prl.answers import extract_answer, is_equal

    return is_equal(extract_answer(text, strict=True) or text.strip(), answer)


def _commits(text: str) -> bool:
    from prl.answers.extraction import commits

    return commits(text)


def _problem(text: str, notes: list[str]) -> str:
    """A text, without DAPO-Math's instruction around it."""
    text = _clean(text, "problems", notes, "user")
    return text_of(_AFTER_PROBLEM.sub("", _BEFORE_PROBLEM.sub("", text)))


def _clean(text: str, what: str, notes: list[str], role: str) -> str:
    """`text` without the markers at its ends, and the assistant's without thoughts. Raises ValueError."""
    text = text_of(text)
    marks: list[str] = []
    may_hold = is_marked(text)
    if may_hold:
        text, marks = bare(text)
    if role == "assistant":
        text, off = without_thoughts(text)
        if off == "thoughts":
            notes.append(f"{what} come after thoughts, which are left out")
        elif off:
            marks.append(off)
        if off:
            text, more = bare(text)
            marks += more
    if marks:
        notes.append(f"{what} have {' '.join(marks)} at their ends, which is taken off")
    if may_hold and (mark := marker_inside(text)):
        raise ValueError(f"holds the turn marker {mark!r} in its middle")
    if what == "traces" and (meant := once_escaped(text)) is not None:
        notes.append(ESCAPED.format(what))
        text = meant
    if not text:
        raise ValueError("is empty")
    return text


def _level(value: object) -> int | None:
    """5 for 5, "5" and "Level 5"; None where the level is not known ("Level ?" in MATH)."""
    found = re.fullmatch(r"(?:level\s*)?(\d{1,3})(?:\.0)?", str(value).strip(), re.IGNORECASE)
    return int(found[1]) if found else None
