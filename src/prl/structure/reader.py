"""The structure of what is written token by token, and which tokens of it the decoder writes by itself.

The decoder goes on from a `Reader` (`prl.decoding.threads`), and SFT leaves out of its loss what
`forced_tokens` finds by the same one. What else has no loss are `context_tokens`.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from typing import NamedTuple

from prl.grammar import parse_ids
from prl.structure.openings import Opener
from prl.structure.tags import Tags

MAIN_HORIZON = 2**30 - 1
"""Horizon of the main thread: it sees every segment."""


class Place(NamedTuple):
    """Where a token stands in the structure: the fields of `prl.structure.Structure`."""

    segment: int
    horizon: int
    position: int


class Reader:
    """`prl.structure.read_structure`, one token at a time, of what is written in sequence; with an `opener`
    also what its paths begin with."""

    def __init__(self, tags: Tags, opener: Opener | None = None) -> None:
        self.tags, self.opener = tags, opener
        self.next = 0  # position of the main thread's next token
        self.paths = 0  # so far, in all blocks
        self.is_open = False
        self.first = 0  # segment of the open block's first path; 0: it has none yet
        self.length = self.longest = 0  # tokens of the path being read, and of the longest before it
        self.text: list[int] = []  # of the main thread since its last tag; where there is an opener
        self.plan: list[str] = []  # of the open block

    def read(self, token: int) -> Place:
        if not self.is_open:
            if token == self.tags.parallel:
                self.is_open, self.first, self.length, self.longest = True, 0, 0, 0
                self.plan = self.opener.plan(self.text) if self.opener else []
        elif token == self.tags.end_parallel:
            self.is_open = False
            self.next += max(self.longest, self.length)
        elif token == self.tags.path or self.first:
            if token == self.tags.path:
                self.begin_path()
            self.length += 1
            return Place(self.paths, self.first, self.next + self.length - 1)
        self.next += 1
        if self.opener:
            self._note(token)
        return Place(0, MAIN_HORIZON, self.next - 1)

    def _note(self, token: int) -> None:
        t = self.tags
        if token in (t.parallel, t.end_parallel, t.path, t.end_path, t.summary, t.end_summary):
            self.text = []
        else:
            self.text.append(token)

    def copy(self) -> Reader:
        """One that reads on by itself."""
        other = copy(self)
        other.text = [*self.text]
        return other

    def begin_path(self) -> Place:
        """Begin a path of the open block; the place of its `<Path>`."""
        self.longest, self.length = max(self.longest, self.length), 0
        self.paths += 1
        self.first = self.first or self.paths
        return Place(self.paths, self.first, self.next)

    def asks_model(self, paths: int | str) -> bool:
        """Whether the model itself says what follows the paths that the open block has by now: `<Path>`, so
        one more, or `</Parallel>`. Else the decoder writes that.

        `paths` is how many a block gets: a number, or "auto", where two are begun and the model decides about
        each further one, unless its plan has decided: a path for each line, as far as they are allowed.
        """
        begun = self.paths - self.first + 1 if self.first else 0
        return paths == "auto" and begun >= 2 and not self.plan

    def opening(self, number: int) -> tuple[int, ...]:
        """What path `number`, from 1 on, of the open block begins with after its `<Path>`."""
        return self.opener.opening(self.plan, number) if self.opener else ()


def forced_tokens(
    ids: Sequence[int], tags: Tags, *, paths: int | str = 2, opener: Opener | None = None
) -> list[bool]:
    """Which tokens of a response (canonical layout, without its prompt) the decoder would insert by itself.

    Inserted are each `<Path>` of a block with its opening, its `</Parallel>`, and where the rest of
    `tags.joint` follows, that. With `paths="auto"` the model itself says, after each path from the second on,
    whether another follows, unless the block has a plan: there `<Path>` and `</Parallel>` are its own.
    """
    reader, forced, joint = Reader(tags, opener), [False] * len(ids), tags.joint

    def insert(start: int, count: int) -> None:
        forced[start : start + count] = [True] * count

    for i, token in enumerate(ids):
        if forced[i]:  # openings, and what joins the block before: main thread that opens none
            continue
        begins_path = reader.is_open and token == tags.path
        if begins_path or (reader.is_open and token == tags.end_parallel):
            forced[i] = not reader.asks_model(paths)
        was_open = reader.is_open
        reader.read(token)
        if begins_path:
            opening = reader.opening(reader.paths - reader.first + 1)
            if tuple(ids[i + 1 : i + 1 + len(opening)]) == opening:
                insert(i + 1, len(opening))
        if was_open and not reader.is_open and tuple(ids[i : i + len(joint)]) == joint:
            insert(i + 1, len(joint) - 1)
    return forced


def context_tokens(ids: Sequence[int], places: Sequence[int], tag_ids: Sequence[int]) -> list[bool]:
    """Which tokens of a response are those of the paths at `places`, from 0 over all blocks as they are
    written: their text and `</Path>`, not their `<Path>`. `tag_ids` are those of `prl.grammar.TAGS`."""
    shown = [False] * len(ids)
    if places:
        paths = [path for block in parse_ids(ids, tag_ids).blocks for path in block.paths]
        for place in places:
            start, end = paths[place].body_start, paths[place].end
            shown[start:end] = [True] * (end - start)
    return shown
