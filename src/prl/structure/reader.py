"""The structure of what is written token by token, and which tokens of it the decoder writes by itself.

The decoder goes on from a `Reader` (`prl.decoding.threads`), and SFT leaves out of its loss what
`forced_tokens` finds by the same one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from prl.structure.tags import Tags

MAIN_HORIZON = 2**30 - 1
"""Horizon of the main thread: it sees every segment."""


class Place(NamedTuple):
    """Where a token stands in the structure: the fields of `prl.structure.Structure`."""

    segment: int
    horizon: int
    position: int


class Reader:
    """`prl.structure.read_structure`, one token at a time, of what is written in sequence."""

    def __init__(self, tags: Tags) -> None:
        self.tags = tags
        self.next = 0  # position of the main thread's next token
        self.paths = 0  # so far, in all blocks
        self.is_open = False
        self.first = 0  # segment of the open block's first path; 0: it has none yet
        self.length = self.longest = 0  # tokens of the path being read, and of the longest before it

    def read(self, token: int) -> Place:
        if not self.is_open:
            if token == self.tags.parallel:
                self.is_open, self.first, self.length, self.longest = True, 0, 0, 0
        elif token == self.tags.end_parallel:
            self.is_open = False
            self.next += max(self.longest, self.length)
        elif token == self.tags.path or self.first:
            if token == self.tags.path:
                self.begin_path()
            self.length += 1
            return Place(self.paths, self.first, self.next + self.length - 1)
        self.next += 1
        return Place(0, MAIN_HORIZON, self.next - 1)

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
        each further one.
        """
        begun = self.paths - self.first + 1 if self.first else 0
        return paths == "auto" and begun >= 2

    @property
    def depth(self) -> int:
        """Tokens that had to wait for each other so far."""
        return self.next + (max(self.longest, self.length) if self.is_open else 0)


def forced_tokens(ids: Sequence[int], tags: Tags, *, paths: int | str = 2) -> list[bool]:
    """Which tokens of a response (canonical layout, without its prompt) the decoder would insert by itself.

    Inserted are each `<Path>` of a block, its `</Parallel>`, and where `<Summary>` follows at once or after
    one token of glue, these two. With `paths="auto"` the model itself says, after each path from the second
    on, whether another follows: there `<Path>` and `</Parallel>` are its own.
    """
    reader, forced = Reader(tags), [False] * len(ids)
    for i, token in enumerate(ids):
        if forced[i]:  # what joins the block before is main thread, and opens none
            continue
        if reader.is_open and token in (tags.path, tags.end_parallel):
            forced[i] = not reader.asks_model(paths)
        was_open = reader.is_open
        reader.read(token)
        if was_open and not reader.is_open:
            joint = list(ids[i + 1 : i + 3])
            if tags.summary in joint:
                end = joint.index(tags.summary) + 1
                forced[i + 1 : i + 1 + end] = [True] * end
    return forced
