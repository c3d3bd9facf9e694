"""One response as it is written: where it forks and joins, what is forced, when it ends. No tensors.

What the decoder writes by itself (forced; no policy gradient): each `<Path>`, then `</Parallel>`, a line end
and `<Summary>`. A path that says `<Path>`, `</Parallel>` or end of sequence, or runs out of room, gets a
forced `</Path>` instead. Nothing is banned from sampling, since scoring bans nothing. Where no fork is
allowed any more (number of blocks, too little room), `<Parallel>` is text that goes on under the same rules.

With `paths="auto"` the model decides how many: two paths start; when the last of them closes by itself, the
token that the model writes next is either `<Path>`, and one more path starts beside those still running, or
it is the end of the block. SFT trains exactly that decision (`prl.structure.forced_tokens`).

A path may have an opening (`prl.structure.openings`), which is forced with its `<Path>`. Where a plan says
what paths there are, `paths="auto"` takes one for each of its lines, up to `max_paths`, and asks nothing.

With `join="first"` a path that closes having found what was looked for (`prl.grammar.FOUND`) ends its block:
its siblings are cut where they are, each with a forced `</Path>`. Of paths that close in one step the first
in order is the one; what was drawn in that step for those after it is dropped. The cut response is an
ordinary one, and scored as such.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from math import isnan, nan
from typing import TYPE_CHECKING, Any, NamedTuple

from prl.errors import UsageError
from prl.grammar import OPENINGS

if TYPE_CHECKING:
    from prl.structure.reader import Place, Reader

FORCED = nan
"""The log-probability of a token that nobody sampled."""

OnToken = Callable[[int, int, int, int], None]
"""Called with (prompt, sample, segment, token) for each token written; segment 0 is the main thread."""


@dataclass(frozen=True)
class Limits:
    """How long a response may get, and how often and how wide it may fork.

    `paths`: a number of paths for every block, or "auto": from 2 to `max_paths`, as the model decides or its
    plan says. `max_path_length`: longest path, without its tags and its opening; None: an equal share of what
    is left. A block gets no more than what leaves room to join it. `path_opening`, of `prl.grammar.OPENINGS`,
    is what paths begin with; None: as the model was trained. `join`: a block ends when "all" of its paths
    have, or with the "first" that has found what was looked for.
    """

    max_new_tokens: int = 512
    paths: int | str = 2
    max_paths: int = 4
    max_blocks: int = 4
    max_path_length: int | None = None
    path_opening: str | None = None
    join: str = "all"

    def __post_init__(self) -> None:
        faults = []
        if self.paths != "auto" and not (isinstance(self.paths, int) and self.paths >= 2):
            faults.append(f"paths {self.paths!r} must be a whole number from 2, or 'auto'")
        for name, least in (("max_new_tokens", 1), ("max_paths", 2), ("max_blocks", 0)):
            if getattr(self, name) < least:
                faults.append(f"{name} {getattr(self, name)} must be {least} or more")
        if self.max_path_length is not None and self.max_path_length < 1:
            faults.append(f"max_path_length {self.max_path_length} must be 1 or more")
        if self.path_opening not in (None, *OPENINGS):
            faults.append(f"path_opening {self.path_opening!r} must be one of {', '.join(OPENINGS)}")
        if self.join not in ("all", "first"):
            faults.append(f"join {self.join!r} must be 'all' or 'first'")
        if faults:
            raise UsageError("; ".join(faults))

    @classmethod
    def of(cls, settings: Any, max_new_tokens: int) -> Limits:
        """The limits that a command was given: its `paths`, `max_paths`, `max_blocks`, `max_path_length`,
        and `path_opening` and `join` where it has them."""
        return cls(
            max_new_tokens,
            settings.paths if settings.paths == "auto" else int(settings.paths),
            settings.max_paths,
            settings.max_blocks,
            settings.max_path_length,
            getattr(settings, "path_opening", None),
            getattr(settings, "join", "all"),
        )

    @property
    def most_paths(self) -> int:
        """Paths that a block may get."""
        return self.paths if isinstance(self.paths, int) else self.max_paths


class Thread:
    """A stretch of the main thread (segment 0), or a path."""

    __slots__ = ("begun", "ids", "is_asked", "is_live", "logprobs", "offset", "place", "room", "segment")

    def __init__(self, segment: int, *, offset: int = 0, place: Place | None = None, room: int = 0) -> None:
        self.segment = segment
        self.offset = offset  # tokens of the main thread before this stretch
        self.place = place  # of a path's next token
        self.room = room  # tokens that a path may still write
        self.begun = 0  # tokens that a path was begun with
        self.ids: list[int] = []
        self.logprobs: list[float] = []
        self.is_live = True  # goes on with a sampled token once the model has seen what it wrote
        self.is_asked = False  # the sampled token says whether another path follows


class Unseen(NamedTuple):
    """A token that the model has not seen yet."""

    token: int
    place: Place
    thread: Thread


class Row:
    """One response being written: `take` what was sampled for a thread, feed what is `unseen`.

    `threads` are in written order; `slots` counts the tokens fed so far, prompt included.
    """

    def __init__(
        self,
        prompt: int,
        sample: int,
        *,
        reader: Reader,
        slots: int,
        seed: int,
        limits: Limits,
        eos_token_id: int,
        says_found: Callable[[Sequence[int]], bool] = lambda ids: False,
        on_token: OnToken | None = None,
    ) -> None:
        self.prompt, self.sample, self.seed = prompt, sample, seed
        self.reader, self.slots = reader, slots
        self.tags, self.limits, self.eos_token_id = reader.tags, limits, eos_token_id
        self.joint = self.tags.joint
        self.says_found, self.on_token = says_found, on_token
        self.left = limits.max_new_tokens
        self.blocks = 0  # that forked
        self.paths: list[Thread] = []  # of the block that is forked now
        self.end_logprob = FORCED
        self.is_finished = False
        self.unseen: list[Unseen] = []
        self.main = Thread(0)
        self.threads = [self.main]

    def take(self, thread: Thread, token: int, logprob: float) -> None:
        """Go on with a token that was sampled for `thread`; dropped, where a sibling's ended it."""
        if not thread.is_live:
            return
        if thread.segment == 0:
            self._take_in_main(token, logprob)
        elif thread.is_asked:
            self._take_verdict(thread, token, logprob)
        else:
            self._take_in_path(thread, token, logprob)

    @property
    def critical_path(self) -> int:
        """Tokens of the response that had to wait for each other: main thread, in which blocks that did not
        fork were written too, and the longest path of each that did."""
        stretches = groupby(self.threads, key=lambda thread: thread.segment > 0)
        lengths = ((forked, [len(thread.ids) for thread in threads]) for forked, threads in stretches)
        return sum(max(each) if forked else sum(each) for forked, each in lengths)

    def _take_in_main(self, token: int, logprob: float) -> None:
        self._write(self.main, token, logprob)
        was_open = self.reader.is_open
        place = self.reader.read(token)
        if token == self.eos_token_id:
            self.is_finished = True
            return
        self.unseen.append(Unseen(token, place, self.main))
        if self.reader.is_open and not was_open and self.blocks < self.limits.max_blocks:
            self._fork()
        self.is_finished = self.left <= 0

    def _fork(self) -> None:
        most = self.limits.most_paths
        if self.limits.paths == "auto" and self.reader.plan:
            most = min(most, len(self.reader.plan))
        opened = sum(len(self.reader.opening(number)) for number in range(1, most + 1))
        room = (self.left - len(self.joint) - opened) // most - 2  # a path's tags are not part of its room
        if self.limits.max_path_length is not None:
            room = min(room, self.limits.max_path_length)
        if room < 1:
            return
        self.blocks += 1
        self.main.is_live = False
        self.end_logprob = FORCED
        while len(self.paths) < most and not self.reader.asks_model(self.limits.paths):
            self._open_path(room, FORCED)

    def _open_path(self, room: int, logprob: float) -> None:
        place = self.reader.begin_path()
        path = Thread(place.segment, place=place, room=room)
        self.paths.append(path)
        self.threads.append(path)
        self._extend(path, self.tags.path, logprob)
        for token in self.reader.opening(len(self.paths)):
            self._extend(path, token, FORCED)
        path.begun = len(path.ids)

    def _take_in_path(self, path: Thread, token: int, logprob: float) -> None:
        if token == self.tags.end_path:
            self._close(path, logprob)
        elif token in (self.eos_token_id, self.tags.path, self.tags.end_parallel):
            self._close(path, FORCED)
        else:
            self._extend(path, token, logprob)
            path.room -= 1
            if path.room == 0:
                self._close(path, FORCED)

    def _close(self, path: Thread, logprob: float) -> None:
        self._extend(path, self.tags.end_path, logprob)
        if self.limits.join == "first" and self.says_found(path.ids[path.begun : -1]):
            path.is_live = False
            self._cut()
        else:
            path.is_asked = path.is_live = (
                self.reader.asks_model(self.limits.paths)
                and not isnan(logprob)
                and path is self.paths[-1]
                and len(self.paths) < self.limits.max_paths
            )
        self._join_if_done()

    def _cut(self) -> None:
        """End the paths that go on, and ask for no further one."""
        for path in self.paths:
            if path.is_live and not path.is_asked:
                self._extend(path, self.tags.end_path, FORCED)
            path.is_asked = path.is_live = False

    def _take_verdict(self, path: Thread, token: int, logprob: float) -> None:
        path.is_asked = path.is_live = False
        if token == self.tags.path:
            self._open_path(path.room + len(path.ids) - path.begun - 1, logprob)  # as much as this one had
        elif token == self.tags.end_parallel:
            self.end_logprob = logprob
        self._join_if_done()

    def _join_if_done(self) -> None:
        if any(path.is_live for path in self.paths):
            return
        self.reader.longest, self.reader.length = max(len(path.ids) for path in self.paths), 0
        self.paths = []
        self.main = Thread(0, offset=self.main.offset + len(self.main.ids))
        self.threads.append(self.main)
        for token, logprob in zip(self.joint, [self.end_logprob, *[FORCED] * len(self.joint)], strict=False):
            self._write(self.main, token, logprob)
            self.unseen.append(Unseen(token, self.reader.read(token), self.main))
        self.is_finished = self.left <= 0

    def _extend(self, path: Thread, token: int, logprob: float) -> None:
        assert path.place is not None
        self._write(path, token, logprob)
        self.unseen.append(Unseen(token, path.place, path))
        path.place = path.place._replace(position=path.place.position + 1)

    def _write(self, thread: Thread, token: int, logprob: float) -> None:
        thread.ids.append(token)
        thread.logprobs.append(logprob)
        self.left -= 1
        if self.on_token:
            self.on_token(self.prompt, self.sample, thread.segment, token)
