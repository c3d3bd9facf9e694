"""From text, or token ids, to a trace: the one pass over it that names every fault."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from typing import NamedTuple

from prl.grammar.openings import with_known_openings
from prl.grammar.trace import (
    END_PARALLEL,
    END_PATH,
    END_SUMMARY,
    PARALLEL,
    PATH,
    SUMMARY,
    TAG,
    TAGS,
    Block,
    Fault,
    FaultKind,
    Passage,
    Span,
    Trace,
    is_blank,
)


def parse(text: str, *, truncated: bool = False, opening: str = "none") -> Trace:
    """Read a response (never the prompt before it) as a trace, with spans in characters.

    `truncated` says that generation stopped at a length limit, which no text can show by itself. `opening`,
    one of `OPENINGS`, is what paths were to begin with: one that holds nothing else is empty.

    >>> trace = parse("So <Parallel><Path>6*7</Path><Path>7*6</Path></Parallel><Summary>42</Summary> it is.")
    >>> trace.is_valid, [path.text for path in trace.blocks[0].paths], trace.main_thread
    (True, ['6*7', '7*6'], 'So  it is.')
    >>> [fault.message for fault in parse("<Path>alone").faults]
    ['<Path> outside a block (at 0)']
    """
    tags = ((match.group(), match.start(), match.end()) for match in TAG.finditer(text))
    events = _events(tags, len(text), lambda i: is_blank(text[i]))
    trace = _assemble(events, len(text), text, truncated)
    return trace if opening == "none" else with_known_openings(trace, opening)


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
