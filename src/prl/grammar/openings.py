"""Openings: the line that a path begins with, so that siblings differ before any of them has written a word.

"number": path i of a block, from 1 on, begins with a line that holds i. "plan": the main thread ends, right
before the block, in a paragraph of a line for each path, and path i begins with line i. A paragraph of fewer
than two lines is no plan, so that a sentence before a block is none; what stands before a tag is not of it.
All of it follows from the text before `<Path>`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from prl.grammar.trace import TAG, Block, Fault, FaultKind, Passage, Trace, is_blank

OPENINGS = ("none", "number", "plan")

LONGEST_OPENING = 80
"""Characters of a plan's line that a path begins with; the rest of a longer one stays in the plan alone."""


def check_opening(opening: str) -> None:
    """ValueError if it is none of `OPENINGS`."""
    if opening not in OPENINGS:
        raise ValueError(f"path_opening {opening!r} is not one of {', '.join(OPENINGS)}")


def opening_text(line: str) -> str:
    """What stands after `<Path>` for this line: "" for none.

    >>> opening_text("2")
    '\\n2\\n'
    """
    return f"\n{line[:LONGEST_OPENING].rstrip()}\n" if line else ""


def plan_lines(text: str) -> list[str]:
    """The lines of the plan that `text` ends with, which stands before a block; [] where there is none.

    >>> plan_lines("I look at each half.\\n\\n1 to 3\\n4 to 6\\n")
    ['1 to 3', '4 to 6']
    >>> plan_lines("Two ways come to mind.\\n")
    []
    """
    # Only what follows the last tag: a summary is no plan, and no line of one holds a tag.
    last = max((match.end() for match in TAG.finditer(text)), default=0)
    lines: list[str] = []
    for line in reversed(text[last:].rstrip().split("\n")):
        if is_blank(line):
            break
        lines.append(line.strip())
    return lines[::-1] if len(lines) >= 2 else []


def lines_of(opening: str, plan: list[str], number: int) -> str:
    """The line that path `number` (from 1) of a block with this plan begins with; "" for none."""
    if opening == "number":
        return str(number)
    return plan[number - 1] if opening == "plan" and number <= len(plan) else ""


def with_known_openings(trace: Trace, opening: str) -> Trace:
    """A trace of `parse` whose paths are told their openings, with a fault for each that holds nothing
    else."""
    check_opening(opening)
    blocks, added = [], []
    for block, plan in with_plans(trace, opening):
        paths = tuple(
            _opened(path, lines_of(opening, plan, number)) for number, path in enumerate(block.paths, 1)
        )
        faults = [
            Fault(FaultKind.EMPTY_PATH, path.start)
            for path in paths
            # As without an opening, nothing is said of a path that the end of the response cut off.
            if path.opening and is_blank(path.content) and path.body_end < trace.length
        ]
        added += faults
        blocks.append(replace(block, paths=paths, faults=_in_order(block.faults, faults)))
    return replace(trace, blocks=tuple(blocks), faults=_in_order(trace.faults, added))


def with_openings(trace: Trace, opening: str) -> str | None:
    """The text of a trace (of `parse` without openings), each path beginning with its opening: put there,
    where the path begins otherwise. None where a block has a plan of fewer lines than paths.

    >>> from prl.grammar import parse
    >>> with_openings(parse("<Parallel><Path>a</Path><Path> 2\\nb</Path></Parallel>"), "number")
    '<Parallel><Path>\\n1\\na</Path><Path>\\n2\\nb</Path></Parallel>'
    """
    if opening == "none":
        return trace.text
    pieces: list[str] = []
    cursor = 0
    for block, plan in with_plans(trace, opening):
        if opening == "plan" and len(plan) < len(block.paths):
            return None
        for number, path in enumerate(block.paths, 1):
            line = lines_of(opening, plan, number)
            opened = _opened(path, line)
            content = opened.content if opened.opening else path.text.removeprefix("\n")
            pieces += [trace.text[cursor : path.body_start], opening_text(line), content]
            cursor = path.body_end
    return "".join((*pieces, trace.text[cursor:]))


def split_at_openings(trace: Trace, opening: str) -> list[str]:
    """The text of a trace in pieces, of which the second, fourth, … are openings, and which joined are the
    text. Only what stands there as `opening_text` has it is one."""
    pieces: list[str] = []
    cursor = 0
    for block, plan in with_plans(trace, opening):
        for number, path in enumerate(block.paths, 1):
            text = opening_text(lines_of(opening, plan, number))
            if text and path.text.startswith(text):
                pieces += [trace.text[cursor : path.body_start], text]
                cursor = path.body_start + len(text)
    return [*pieces, trace.text[cursor:]]


def with_plans(trace: Trace, opening: str) -> Iterator[tuple[Block, list[str]]]:
    """Each block with the lines of its plan."""
    cursor = 0
    for block in trace.blocks:
        plan = plan_lines(trace.text[cursor : block.span.start]) if opening == "plan" else []
        yield block, plan
        cursor = block.span.end  # what follows holds the tags of the summary, closed or not


def _opened(path: Passage, line: str) -> Passage:
    """`path` with `line` as its opening, if that is its first line, whole or cut."""
    first = path.text.lstrip().partition("\n")[0].strip()
    return replace(path, opening=first) if line and first in (line, opening_text(line).strip()) else path


def _in_order(one: tuple[Fault, ...], other: list[Fault]) -> tuple[Fault, ...]:
    return tuple(sorted((*one, *other), key=lambda fault: fault.start)) if other else one
