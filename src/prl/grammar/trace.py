"""What a response is read into: tags, spans, faults, paths, blocks, the trace."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise
from typing import NamedTuple

TAGS = ("<Parallel>", "</Parallel>", "<Path>", "</Path>", "<Summary>", "</Summary>")
PARALLEL, END_PARALLEL, PATH, END_PATH, SUMMARY, END_SUMMARY = TAGS

TAG = re.compile("|".join(TAGS))

FOUND = "Found:"
"""What a path says that has what was looked for: with `--join first` its block ends there."""


class FaultKind(StrEnum):
    """Every way in which a response can break the format; `meaning` says it in a line."""

    meaning: str

    def __new__(cls, name: str, meaning: str) -> FaultKind:
        kind = str.__new__(cls, name)
        kind._value_ = name
        kind.meaning = meaning
        return kind

    UNCLOSED_BLOCK = "unclosed_block", "the response ends inside a block"
    UNCLOSED_PATH = "unclosed_path", "a path is not closed by </Path>"
    UNCLOSED_SUMMARY = "unclosed_summary", "a summary is not closed by </Summary>"
    STRAY_PARALLEL_CLOSER = "stray_parallel_closer", "</Parallel> where no block is open"
    STRAY_PATH_OPENER = "stray_path_opener", "<Path> outside a block"
    STRAY_PATH_CLOSER = "stray_path_closer", "</Path> where no path is open"
    STRAY_SUMMARY_OPENER = "stray_summary_opener", "<Summary> that does not follow a block"
    STRAY_SUMMARY_CLOSER = "stray_summary_closer", "</Summary> where no summary is open"
    NESTED_BLOCK = "nested_block", "<Parallel> inside a block; it is read as text"
    SUMMARY_IN_BLOCK = "summary_in_block", "a summary tag before the block's </Parallel>; it is read as text"
    TEXT_BEFORE_PATHS = "text_before_paths", "text in a block before its first path"
    TEXT_BETWEEN_PATHS = "text_between_paths", "text between two paths"
    TEXT_AFTER_PATHS = "text_after_paths", "text in a block after its last path"
    FEWER_THAN_TWO_PATHS = "fewer_than_two_paths", "a block with fewer than two paths"
    EMPTY_PATH = "empty_path", "a path without visible text"
    MISSING_SUMMARY = "missing_summary", "a block that no <Summary> follows"
    EMPTY_SUMMARY = "empty_summary", "a summary without visible text"
    TRUNCATED = "truncated", "the response was cut off at its length limit"


class Span(NamedTuple):
    """Half-open range of a response, in characters (`parse`) or tokens (`parse_ids`)."""

    start: int
    end: int


class Fault(NamedTuple):
    """One departure from the grammar, at offset `start` of the response."""

    kind: FaultKind
    start: int

    @property
    def message(self) -> str:
        return f"{self.kind.meaning} (at {self.start})"


@dataclass(frozen=True, slots=True)
class Passage:
    """A path or a summary: offsets of its tags and of the body between them, `text` of the body as written.

    One that is not closed ends where the reading had to stop: a path at the next `<Path>` or `</Parallel>`, a
    summary at the next `<Parallel>`, either at the response's end. `opening` is the line that a path of
    `parse(…, opening=…)` begins with, "" where it has none or another first line.
    """

    start: int
    body_start: int
    body_end: int
    end: int
    text: str
    opening: str = ""

    @property
    def content(self) -> str:
        """The text after the opening."""
        return self.text.lstrip().partition("\n")[2] if self.opening else self.text

    @property
    def span(self) -> Span:
        """With the tags."""
        return Span(self.start, self.end)

    @property
    def body(self) -> Span:
        """Between the tags."""
        return Span(self.body_start, self.body_end)


@dataclass(frozen=True, slots=True)
class Block:
    """`<Parallel>…</Parallel>` (`span`), its paths, the summary that follows, and the faults of all these."""

    span: Span
    paths: tuple[Passage, ...]
    summary: Passage | None
    faults: tuple[Fault, ...]

    @property
    def is_valid(self) -> bool:
        """Closed, two or more non-empty paths with nothing between, and a non-empty summary right after."""
        return not self.faults


@dataclass(frozen=True, slots=True)
class Trace:
    """A parsed response: blocks and faults in order of their offsets.

    `length` is that of the whole response, in the unit of the spans. A trace parsed from ids has no text: its
    `text`, `main_thread` and the `text` of its passages are empty.
    """

    text: str
    length: int
    blocks: tuple[Block, ...]
    faults: tuple[Fault, ...]

    @property
    def is_valid(self) -> bool:
        """No fault anywhere. Plain sequential text is valid."""
        return not self.faults

    @property
    def uses_parallel(self) -> bool:
        """At least one valid block (the parallel ratio counts these responses), whatever stands around it."""
        return any(block.is_valid for block in self.blocks)

    @property
    def main_spans(self) -> tuple[Span, ...]:
        """The non-empty stretches outside blocks and their summaries; stray tags belong to them as text."""
        taken = [Span(0, 0)]
        for block in self.blocks:
            taken.append(block.span)
            if block.summary:
                taken.append(block.summary.span)
        taken.append(Span(self.length, self.length))
        return tuple(Span(a.end, b.start) for a, b in pairwise(taken) if a.end < b.start)

    @property
    def main_thread(self) -> str:
        """The text outside blocks and their summaries.

        Summaries are no part of it: a critical path counts them on their own, and a trace commits to its
        answer after the last one. Who looks for an answer reads this first, and the whole text only where
        this holds none.
        """
        return "".join(self.text[start:end] for start, end in self.main_spans)


def is_blank(text: str) -> bool:
    """Whether nothing in it can be seen: whitespace, control and zero-width characters do not make a path."""
    return not any(map(str.isprintable, "".join(text.split())))
