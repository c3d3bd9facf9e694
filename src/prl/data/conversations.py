"""The turns of a conversation, as data sets store them, and the question that an answer in it answers.

Read are TRL's and OpenAI's messages (role, content), ShareGPT's (from, value), any mixture of the two, the
same stored as text, and a text that a chat template was applied to (`prl.turns`). Content is a text or a list
of text parts. Whatever cannot be kept is a ValueError, which reads on from the name of the column.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from prl.data.literals import decoded
from prl.turns import ROLES, read_turns

PARTIES = tuple(dict.fromkeys(ROLES.values()))

_ROLE, _CONTENT = ("role", "from"), ("content", "value", "text")
_CALLS = ("tool_calls", "function_call")
_THOUGHTS = ("reasoning_content", "reasoning", "thinking")
_TEXT_PARTS = ("text", "input_text", "output_text")


class Turn(NamedTuple):
    """`role` is one of `PARTIES`; `calls`: it calls a tool."""

    role: str
    text: str
    calls: bool = False

    @property
    def is_of_tool(self) -> bool:
        """Whether it is part of the use of a tool."""
        return self.calls or self.role == "tool"


def read_conversation(value: object, notes: list[str]) -> list[Turn] | None:
    """The turns that `value` holds, or None where it is no conversation.

    What is read otherwise than written, or left out, is told in `notes`. Raises ValueError.
    """
    if isinstance(value, str):
        if (framed := read_turns(value)) is not None:
            if not framed:
                raise ValueError("holds turn markers and nothing else")
            notes.append("texts are framed by turn markers and were read as conversations")
            return [Turn(role, text) for role, text in framed]
        if value.lstrip()[:1] not in ("[", "{") or not any(key in value for key in _ROLE):
            return None
        value = decoded(value)
        if is_conversation(value):
            notes.append("conversations are stored as text and were decoded")
    if isinstance(value, list) and not value:
        raise ValueError("has no turn of user or human")
    messages: Any = _messages(value)
    if not is_conversation(messages):
        return None
    turns = [_turn(message, number, notes) for number, message in enumerate(messages, 1)]
    is_opened = turns[-1].role == "assistant" and not turns[-1].calls and not turns[-1].text.strip()
    return turns[:-1] if is_opened and len(turns) > 1 else turns


def _messages(value: object) -> object:
    """`value`, a single turn as a list of one, and the lists of roles and contents that `datasets` makes of a
    sequence as the turns that they are."""
    if not isinstance(value, dict):
        return value
    lists = {key: cells for key, cells in value.items() if isinstance(cells, list)}
    if not any(key in lists for key in _ROLE) or len({len(cells) for cells in lists.values()}) > 1:
        return [value]
    return [dict(zip(lists, cells, strict=True)) for cells in zip(*lists.values(), strict=True)]


def is_conversation(value: object) -> bool:
    """Whether `value` is a list of turns, or one, rather than any other."""
    messages = _messages(value)
    if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages):
        return False
    return any("role" in message or "from" in message for message in messages)


def _turn(message: dict[str, Any], number: int, notes: list[str]) -> Turn:
    name = message.get("role") or message.get("from")
    if not isinstance(name, str):
        raise ValueError(f"has a turn without a role: turn {number}")
    role = ROLES.get(name) or ROLES.get(name.strip().lower())
    if role is None:
        raise ValueError(f"has a turn of {name!r}, which is none of {', '.join(PARTIES)}: turn {number}")
    content = message.get("content")
    if content is None:
        content = next((message[key] for key in _CONTENT if message.get(key) is not None), "")
    text = _content(content, number)
    if len(message) == 2:  # nothing but these
        return Turn(role, text)
    if any(is_filled(message.get(key)) for key in _THOUGHTS):
        notes.append("turns have thoughts beside what they say, which are left out")
    calls = name.strip().lower() == "function_call" or any(is_filled(message.get(key)) for key in _CALLS)
    return Turn(role, text, calls)


def _content(content: object, number: int) -> str:
    """A text, or text parts in a row: a line each, unless they bring the space between them."""
    if isinstance(content, str) and not content.startswith("["):
        return content
    if isinstance(content, str):
        stored = decoded(content) if "text" in content else None
        if not (isinstance(stored, list) and all(isinstance(p, dict) and "type" in p for p in stored)):
            return content
        content = stored
    text = ""
    for part in content if isinstance(content, list) else [content]:
        said = part
        if isinstance(part, dict):
            kind = part.get("type") or "text"
            said = part.get("text") if kind in _TEXT_PARTS else None
            if said is None:
                raise ValueError(f"has a part of type {kind!r}, and only text is read: turn {number}")
        if not isinstance(said, str):
            raise ValueError(f"has content of type {type(said).__name__}, not text: turn {number}")
        is_apart = not text or not said or text[-1].isspace() or said[0].isspace()
        text += said if is_apart else f"\n{said}"
    return text


def is_filled(value: object) -> bool:
    """Whether anything is in it: parquet fills a struct that a row lacks with nothing."""
    if isinstance(value, dict):
        return any(map(is_filled, value.values()))
    return any(map(is_filled, value)) if isinstance(value, list) else bool(value)


def last_answer(turns: Sequence[Turn]) -> int | None:
    """The place of the last turn in which the assistant says something and calls no tool."""
    for at in range(len(turns) - 1, -1, -1):
        role, text, calls = turns[at]
        if role == "assistant" and not calls and text.strip():
            return at
    return None


def question(turns: Sequence[Turn], at: int, notes: list[str]) -> tuple[list[Turn], Turn]:
    """What the answer at place `at` answers: the turns before the question, and the question.

    Raises ValueError where no question of the user stands right before the answer. An answer that came after
    a tool was called depends on the tool; calls for earlier answers are left out, and told in `notes`.
    """
    asked = turns[at - 1] if at else None
    if asked is None or asked.role != "user":
        raise ValueError(_no_question(turns[:at], at < len(turns)))
    history = turns[: at - 1]
    if any(turn.is_of_tool for turn in history):
        notes.append("conversations use a tool for an earlier answer: these turns are left out")
    return [turn for turn in history if not turn.is_of_tool and turn.text.strip()], asked


def _no_question(before: Sequence[Turn], is_answered: bool) -> str:
    if not any(turn.role == "user" for turn in before):
        return "has no turn of user or human" + (" before the answer" if is_answered else "")
    since = next(back for back, turn in enumerate(reversed(before)) if turn.role == "user")
    if any(turn.is_of_tool for turn in before[-since:]):
        return f"has an answer that depends on a tool: turn {len(before)}"
    return f"has a turn of {before[-1].role} between the question and its answer: turn {len(before)}"


def check_end(turns: Sequence[Turn], at: int, notes: list[str]) -> None:
    """Tell in `notes` what follows the answer at place `at` and is left out. Raises ValueError where the
    answer itself goes on."""
    if at >= len(turns) - 1:
        return
    after = [turn for turn in turns[at + 1 :] if turn.is_of_tool or turn.text.strip()]
    if not after:
        return
    if after[0].is_of_tool:
        raise ValueError(f"goes on after its last answer with the use of a tool: turn {at + 2}")
    roles = ", ".join(dict.fromkeys(turn.role for turn in after))
    notes.append(f"conversations go on after their last answer ({roles}): that is left out")
