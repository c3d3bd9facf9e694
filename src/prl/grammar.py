"""The language of a trace: tags, `parse` into blocks and named faults, `render` back into text.

    response := (text | block)*
    block    := <Parallel> path path+ </Parallel> summary        whitespace may stand between the parts
    path     := <Path> text </Path>
    summary  := <Summary> text </Summary>

The format is that of Parallel-R1 (arXiv 2509.07980). `parse` is total, deterministic and linear in time: any
string is some trace, and each departure from the rules above is named with the offset where it happened.
Where the text breaks the rules, the reading is the one that path masks and fork/join decoding use: a block
runs from `<Parallel>` to the first `</Parallel>`, a nested `<Parallel>` is text, a path ends at the next
`<Path>` or `</Parallel>` at the latest, a stray tag is text.

Give it a *response* only. Prompts quote the tags to explain them; a prompt parsed along with its response
opens blocks that nobody wrote. What the paths say is not judged: `<Path>.</Path>` is a path.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise
from typing import NamedTuple

TAGS = ("<Parallel>", "</Parallel>", "<Path>", "</Path>", "<Summary>", "</Summary>")
PARALLEL, END_PARALLEL, PATH, END_PATH, SUMMARY, END_SUMMARY = TAGS

FOUND = "Found:"
"""How a path says that it holds the answer, where paths divide the work: `Found: 42` at its end."""

_TAG = re.compile("|".join(TAGS))


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
    summary at the next `<Parallel>`, either at the response's end.
    """

    start: int
    body_start: int
    body_end: int
    end: int
    text: str

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


def parse(text: str, *, truncated: bool = False) -> Trace:
    """Read a response (never the prompt before it) as a trace, with spans in characters.

    `truncated` says that generation stopped at a length limit, which no text can show by itself.

    >>> trace = parse("So <Parallel><Path>6*7</Path><Path>7*6</Path></Parallel><Summary>42</Summary> it is.")
    >>> trace.is_valid, [path.text for path in trace.blocks[0].paths], trace.main_thread
    (True, ['6*7', '7*6'], 'So  it is.')
    >>> [fault.message for fault in parse("<Path>alone").faults]
    ['<Path> outside a block (at 0)']
    """
    tags = ((match.group(), match.start(), match.end()) for match in _TAG.finditer(text))
    events = _events(tags, len(text), lambda i: is_blank(text[i]))
    return _assemble(events, len(text), text, truncated)


def parse_ids(
    ids: Sequence[int],
    tag_ids: Sequence[int],
    *,
    blank_ids: Container[int] = frozenset(),
    truncated: bool = False,
) -> Trace:
    """Read the token ids of a response as a trace: what `parse` finds, with spans in tokens.

    `tag_ids` are the ids of `TAGS`, in that order (`tokenizer.convert_tokens_to_ids(list(TAGS))`); ValueError
    unless they are six distinct ones. `blank_ids` are the ids whose text `is_blank`. The one difference to
    `parse`: an invisible character that the tokenizer splits into bytes counts as visible.

    >>> trace = parse_ids([0, 9, 2, 9, 3, 2, 9, 9, 3, 1, 4, 9, 5], tag_ids=range(6))
    >>> [(fault.kind.value, fault.start) for fault in trace.faults], trace.blocks[0].paths[1].body
    ([('text_before_paths', 1)], Span(start=6, end=8))
    """
    tag_of = dict(zip(tag_ids, TAGS, strict=True))
    if len(tag_of) < len(TAGS):
        raise ValueError(
            f"tag_ids {list(tag_ids)} are not six distinct ids; add the six tags to the tokenizer first"
        )
    tags = ((tag_of[token], i, i + 1) for i, token in enumerate(ids) if token in tag_of)
    events = _events(tags, len(ids), lambda i: ids[i] in blank_ids)
    return _assemble(events, len(ids), "", truncated)


def render(paths: Sequence[str], summary: str) -> str:
    """Write a block with its summary in the layout of the paper's cold-start traces; `parse` reads it back.

    Texts are stripped and put on lines of their own. ValueError, naming each part that would not parse back:
    fewer than two paths, a blank text, a text that holds a tag.

    >>> print(render(["6 * 7 = 42", "7 * 6 = 42"], "Both give 42."))
    <Parallel><Path>
    6 * 7 = 42
    </Path><Path>
    7 * 6 = 42
    </Path></Parallel>
    <Summary>
    Both give 42.
    </Summary>
    """
    problems = [] if len(paths) >= 2 else [f"{len(paths)} paths, a block needs two or more"]
    for name, text in [*((f"path {i}", path) for i, path in enumerate(paths, 1)), ("the summary", summary)]:
        if is_blank(text):
            problems.append(f"{name} is blank")
        elif tag := _TAG.search(text):
            problems.append(f"{name} holds the tag {tag.group()}")
    if problems:
        raise ValueError("cannot render a block: " + "; ".join(problems))
    body = "".join(f"{PATH}\n{path.strip()}\n{END_PATH}" for path in paths)
    return f"{PARALLEL}{body}{END_PARALLEL}\n{SUMMARY}\n{summary.strip()}\n{END_SUMMARY}"


def canonical_layout(text: str) -> str:
    """A response, its blocks laid out as the decoder writes them; `parse` finds the same texts and faults.

    Between the parts of a block, what `is_blank` goes, and one line end separates block and summary. Texts of
    paths and summaries, all that stands outside blocks, and misplaced text stay as they are.

    >>> canonical_layout("<Parallel>\\n<Path> a </Path> <Path>b</Path>\\n</Parallel><Summary>c</Summary>")
    '<Parallel><Path> a </Path><Path>b</Path></Parallel>\\n<Summary>c</Summary>'
    """
    pieces: list[str] = []
    cursor = 0

    def lay_out(start: int, end: int, glue: str) -> None:
        nonlocal cursor
        if is_blank(text[start:end]):
            pieces.extend((text[cursor:start], glue))
            cursor = end

    for block in parse(text).blocks:
        closer = block.span.end - len(END_PARALLEL)
        edges = [block.span.start + len(PARALLEL), *(edge for path in block.paths for edge in path.span)]
        if block.paths and text.startswith(END_PARALLEL, closer):
            edges.append(closer)
        for start, end in zip(edges[::2], edges[1::2], strict=False):
            lay_out(start, end, "")
        if block.summary:
            lay_out(block.span.end, block.summary.start, "\n")
    return "".join((*pieces, text[cursor:]))


def is_blank(text: str) -> bool:
    """Whether nothing in it can be seen: whitespace, control and zero-width characters do not make a path."""
    return not any(map(str.isprintable, "".join(text.split())))


# A tag, or (tag "") the text between two tags from its first visible character on: (tag, start, end). A plain
# tuple, because the garbage collector stops tracking those, and hostile input makes hundreds of thousands.
_Event = tuple[str, int, int]


def _events(tags: Iterable[_Event], length: int, is_blank_at: Callable[[int], bool]) -> list[_Event]:
    """All that the structure depends on, in order; no character or token is looked at twice."""
    events = []
    cursor = 0
    for tag, start, end in [*tags, ("", length, length)]:
        visible = next((i for i in range(cursor, start) if not is_blank_at(i)), start)
        if visible < start:
            events.append(("", visible, start))
        if tag:
            events.append((tag, start, end))
        cursor = end
    return events


_STRAY_IN_MAIN = {
    END_PARALLEL: FaultKind.STRAY_PARALLEL_CLOSER,
    PATH: FaultKind.STRAY_PATH_OPENER,
    END_PATH: FaultKind.STRAY_PATH_CLOSER,
    SUMMARY: FaultKind.STRAY_SUMMARY_OPENER,
    END_SUMMARY: FaultKind.STRAY_SUMMARY_CLOSER,
}
_STRAY_IN_BLOCK = {
    PARALLEL: FaultKind.NESTED_BLOCK,
    END_PATH: FaultKind.STRAY_PATH_CLOSER,
    SUMMARY: FaultKind.SUMMARY_IN_BLOCK,
    END_SUMMARY: FaultKind.SUMMARY_IN_BLOCK,
}


class _Rule(NamedTuple):
    """How a passage ends (its closer, or a tag that cannot stand in it) and what its faults are called."""

    closer: str
    stops: tuple[str, ...]
    unclosed: FaultKind
    empty: FaultKind
    stray: Mapping[str, FaultKind]


_PATH_RULE = _Rule(
    END_PATH, (PATH, END_PARALLEL), FaultKind.UNCLOSED_PATH, FaultKind.EMPTY_PATH, _STRAY_IN_BLOCK
)
_SUMMARY_RULE = _Rule(
    END_SUMMARY, (PARALLEL,), FaultKind.UNCLOSED_SUMMARY, FaultKind.EMPTY_SUMMARY, _STRAY_IN_MAIN
)


def _assemble(events: list[_Event], length: int, text: str, truncated: bool) -> Trace:
    """The main thread: text, stray tags and blocks."""
    blocks: list[Block] = []
    faults: list[Fault] = []
    i = 0
    while i < len(events):
        tag, start, _ = events[i]
        if tag == PARALLEL:
            block, i = _block(events, i, length, text)
            blocks.append(block)
            faults += block.faults
        else:
            if tag:
                faults.append(Fault(_STRAY_IN_MAIN[tag], start))
            i += 1
    if truncated:
        faults.append(Fault(FaultKind.TRUNCATED, length))
    return Trace(text, length, tuple(blocks), tuple(faults))


def _block(events: list[_Event], i: int, length: int, text: str) -> tuple[Block, int]:
    """The block that opens at event `i`, and the index of the first event after it and its summary."""
    start = events[i][1]
    faults: list[Fault] = []
    paths: list[Passage] = []
    summary = None
    loose = None  # offset of the first text since the last path; what it is called depends on what comes next
    i += 1
    while i < len(events) and events[i][0] != END_PARALLEL:
        tag, at, _ = events[i]
        if tag == PATH:
            if loose is not None:
                faults.append(
                    Fault(FaultKind.TEXT_BETWEEN_PATHS if paths else FaultKind.TEXT_BEFORE_PATHS, loose)
                )
                loose = None
            path, i = _passage(events, i, length, text, _PATH_RULE, faults)
            paths.append(path)
        else:
            if tag:
                faults.append(Fault(_STRAY_IN_BLOCK[tag], at))
            elif loose is None:
                loose = at
            i += 1
    if loose is not None:
        faults.append(Fault(FaultKind.TEXT_AFTER_PATHS if paths else FaultKind.TEXT_BEFORE_PATHS, loose))
    if i == len(events):
        # Of what the end cut off, nothing more can be said: neither a path nor the summary is missing yet.
        end = length
        faults.append(Fault(FaultKind.UNCLOSED_BLOCK, start))
    else:
        end = events[i][2]
        i += 1
        if len(paths) < 2:
            faults.append(Fault(FaultKind.FEWER_THAN_TWO_PATHS, start))
        if i < len(events) and events[i][0] == SUMMARY:
            summary, i = _passage(events, i, length, text, _SUMMARY_RULE, faults)
        else:
            faults.append(Fault(FaultKind.MISSING_SUMMARY, end))
    faults.sort(key=lambda fault: fault.start)
    return Block(Span(start, end), tuple(paths), summary, tuple(faults)), i


def _passage(
    events: list[_Event], i: int, length: int, text: str, rule: _Rule, faults: list[Fault]
) -> tuple[Passage, int]:
    """The path or summary that opens at event `i`, and the index of the first event after it."""
    _, start, body_start = events[i]
    has_text = False
    i += 1
    while i < len(events) and events[i][0] != rule.closer and events[i][0] not in rule.stops:
        tag, at, _ = events[i]
        if tag:
            faults.append(Fault(rule.stray[tag], at))
        else:
            has_text = True
        i += 1
    tag, body_end, end = events[i] if i < len(events) else ("", length, length)
    if tag == rule.closer:
        i += 1
    else:
        end = body_end
        faults.append(Fault(rule.unclosed, start))
    if tag and not has_text:
        faults.append(Fault(rule.empty, start))
    return Passage(start, body_start, body_end, end, text[body_start:body_end]), i
