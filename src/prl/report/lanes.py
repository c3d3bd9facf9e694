"""A trace drawn as lanes: the paths of a block side by side, main thread and summary across the whole width.

    print(trace_text(parse(response)))                    in a terminal
    IPython.display.HTML(trace_html(parse(response)))     in a notebook; any page takes the fragment

All visible text of the response appears, tags that open or close nothing included; what a path begins with
is its label, if the trace is one of `parse(…, opening=…)`. Paths that are context and not learned, the
`context_paths` of a row, say so. Faults stand below what they are about. Whatever a
model wrote is shown as text: markup is escaped, and characters that steer a terminal or turn the direction of
writing become U+FFFD. Both functions are total and take linear time.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection, Iterable, Iterator, Sequence
from html import escape
from itertools import pairwise

from rich.cells import cell_len, chop_cells

from prl.grammar import END_PARALLEL, PARALLEL, Block, Fault, FaultKind, Passage, Trace, is_blank

MIN_WIDTH = 24
"""Columns that `trace_text` needs; a narrower terminal is taken for this wide."""

_MIN_LANE = 18  # columns of text; more paths than fit next to each other go on below
_OFFSETS_SHOWN = 3  # of each kind of fault; hostile text has thousands

# Colours read on white and on black; text keeps the colour of the page around it. A table, because its cells
# stand side by side even where a viewer strips styles. The class keeps MathJax off what a model wrote.
_FRAME = '<div class="mathjax_ignore tex2jax_ignore" style="margin:.5em 0;line-height:1.4;overflow-x:auto">'
_TABLE = (
    '<table style="width:100%;min-width:{}em;table-layout:fixed;border-collapse:separate;border-spacing:.4em;'
    'border:1px solid rgba(128,128,128,.5);border-radius:6px;margin:.5em 0;font-size:1em">'
)
_ROW = '<tr style="background:none">'
_CELL = (
    '<td colspan="{}" style="text-align:left;vertical-align:top;padding:.3em .6em;border-radius:3px;'
    'background:rgba(128,128,128,.12);border-left:3px solid {}">'
)
_TEXT = '<div style="white-space:pre-wrap;overflow-wrap:anywhere;unicode-bidi:isolate">'
_PATH_COLOUR, _SUMMARY_COLOUR, _FAULT_COLOUR, _OTHER_COLOUR = "#3b82c4", "#2f9e62", "#d9534f", "#808080"
_LANE_EM = 12  # narrowest lane; more than fit scroll sideways


def trace_html(trace: Trace, context_paths: Collection[int] = ()) -> str:
    """A self-contained HTML fragment: styles inline, no script, no id. For a trace of `parse`;
    `context_paths` are places of paths, from 0 over all blocks."""
    context = _starts(trace, context_paths)
    parts = [
        _html_text(part) if isinstance(part, str) else _html_block(part, trace.text, context)
        for part in _stretches(trace)
    ]
    if faults := _main_faults(trace):
        parts.append(_html_table([_cell("Faults", _name(faults), _FAULT_COLOUR)]))
    return _FRAME + "".join(parts) + "</div>"


def trace_text(trace: Trace, width: int = 100, context_paths: Collection[int] = ()) -> str:
    """Lines of at most `width` terminal columns, wide characters counting two. For a trace of `parse`;
    `context_paths` as for `trace_html`.

    >>> from prl.grammar import parse
    >>> block = "<Parallel><Path>6*7=42</Path><Path>7*6=42</Path></Parallel><Summary>Both give 42.</Summary>"
    >>> print(trace_text(parse(f"Two ways. {block} Final Answer: 42"), width=44))
    Two ways.
    ┌─ Path 1 ───────────┬─ Path 2 ────────────┐
    │ 6*7=42             │ 7*6=42              │
    ├─ Summary ──────────┴─────────────────────┤
    │ Both give 42.                            │
    └──────────────────────────────────────────┘
    Final Answer: 42
    """
    width, context = max(width, MIN_WIDTH), _starts(trace, context_paths)
    lines: list[str] = []
    for part in _stretches(trace):
        if isinstance(part, str):
            lines += _wrap(part, width)
        else:
            lines += _text_block(part, trace.text, width, context)
    if faults := _main_faults(trace):
        lines += _wrap(f"Faults\n{_name(faults)}", width)
    return "\n".join(lines)


# What is drawn


def _stretches(trace: Trace) -> Iterator[str | Block]:
    """Main thread and blocks in the order of the response."""
    parts: list[tuple[int, str | Block]] = [(block.span.start, block) for block in trace.blocks]
    for start, end in trace.main_spans:
        if text := _clean(trace.text[start:end]):
            parts.append((start, text))
    return (part for _, part in sorted(parts, key=lambda item: item[0]))


def _outside(block: Block, text: str) -> str:
    """The text of a block that belongs to none of its paths, which a valid block has not."""
    closed = all(fault.kind is not FaultKind.UNCLOSED_BLOCK for fault in block.faults)
    starts = [block.span.start + len(PARALLEL), *(path.end for path in block.paths)]
    ends = [*(path.start for path in block.paths), block.span.end - closed * len(END_PARALLEL)]
    stretches = (_clean(text[start:end]) for start, end in zip(starts, ends, strict=True))
    return "\n".join(filter(None, stretches))


def _main_faults(trace: Trace) -> list[Fault]:
    of_blocks = {fault for block in trace.blocks for fault in block.faults}
    return [fault for fault in trace.faults if fault not in of_blocks]


def _name(faults: Iterable[Fault]) -> str:
    """A line for each kind of fault, with the offsets of the first few."""
    offsets: dict[FaultKind, list[int]] = {}
    for kind, start in faults:
        offsets.setdefault(kind, []).append(start)
    lines = []
    for kind, starts in offsets.items():
        more = len(starts) - _OFFSETS_SHOWN
        at = ", ".join(map(str, starts[:_OFFSETS_SHOWN])) + (f" and {more} more" if more > 0 else "")
        lines.append(f"{kind}: {kind.meaning} (at {at})")
    return "\n".join(lines)


def _starts(trace: Trace, context_paths: Collection[int]) -> set[int]:
    """Where the paths at these places start."""
    paths = (path for block in trace.blocks for path in block.paths)
    return {path.start for place, path in enumerate(paths) if place in context_paths}


def _name_of(number: int, path: Passage, context: Collection[int]) -> str:
    """Its number in the block, and whether it is one of the `context` paths, by their starts."""
    return f"Path {number}" + (", context" if path.start in context else "")


def _label(number: int, path: Passage, context: Collection[int]) -> str:
    """The name of a path, and what else it begins with."""
    opening = _clean(path.opening)
    return _name_of(number, path, context) + (f": {opening}" if opening and opening != str(number) else "")


_HARMLESS = {"\n", "\t"}
_STEERING = {"Cc", "Cs", "Zl", "Zp"}  # controls, lone surrogates (UTF-8 has none), line separators
_DIRECTION = set("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def _clean(text: str) -> str:
    """`text` without blanks around it, and without characters that act on what stands beside it."""
    if is_blank(text):
        return ""
    return harmless(text.replace("\r\n", "\n").strip())


def one_line(text: str) -> str:
    """`text` for the middle of a line, a blank for each of its breaks: names, answers, reasons.

    >>> one_line("a\\n  b\\x1b[2J")
    'a b\ufffd[2J'
    """
    return " ".join(_clean(text).split())


def harmless(text: str) -> str:
    """`text` with U+FFFD for every character that steers a terminal or turns the direction of writing."""
    return text if text.isprintable() else "".join(map(_harmless, text))


def _harmless(character: str) -> str:
    acts = character in _DIRECTION or unicodedata.category(character) in _STEERING
    return "\ufffd" if acts and character not in _HARMLESS else character


# HTML


def _html_block(block: Block, text: str, context: Collection[int]) -> str:
    lanes = max(1, len(block.paths))
    rows = [
        "".join(
            _cell(escape(_label(number, path, context)), _clean(path.content), _PATH_COLOUR)
            for number, path in enumerate(block.paths, 1)
        )
    ]
    if outside := _outside(block, text):
        rows.append(_cell("Outside the paths", outside, _OTHER_COLOUR, lanes))
    if block.summary:
        rows.append(_cell("Summary", _clean(block.summary.text), _SUMMARY_COLOUR, lanes))
    if block.faults:
        rows.append(_cell("Faults", _name(block.faults), _FAULT_COLOUR, lanes))
    return _html_table(rows, lanes)


def _html_table(rows: Iterable[str], lanes: int = 1) -> str:
    body = "".join(f"{_ROW}{row}</tr>" for row in rows if row)
    return f"{_TABLE.format(_LANE_EM * lanes)}{body}</table>"


def _cell(label: str, text: str, colour: str, lanes: int = 1) -> str:
    return f"{_CELL.format(lanes, colour)}<b>{label}</b>{_html_text(text)}</td>"


def _html_text(text: str) -> str:
    return f"{_TEXT}{escape(text)}</div>"


# Text


def _text_block(block: Block, text: str, width: int, context: Collection[int]) -> list[str]:
    """The block in a frame: bands of paths, then what goes across, closed by a line."""
    bands: list[tuple[list[str], list[str]]] = []  # labels and texts
    most = (width - 1) // (_MIN_LANE + 3)
    for first in range(0, len(block.paths), most):
        lanes = block.paths[first : first + most]
        narrowest = (width - 1) // len(lanes) - 5
        named = [_named(number, path, context, narrowest) for number, path in enumerate(lanes, first + 1)]
        bands.append(([label for label, _ in named], [text for _, text in named]))
    if outside := _outside(block, text):
        bands.append((["Outside the paths"], [outside]))
    if block.summary:
        bands.append((["Summary"], [_clean(block.summary.text)]))
    if block.faults:
        bands.append((["Faults"], [_name(block.faults)]))

    lines: list[str] = []
    above: list[int] = []
    for labels, texts in bands:
        borders = _borders(len(texts), width)
        lines.append(_rule(width, above, borders, labels))
        lines += _band(texts, borders)
        above = borders
    lines.append(_rule(width, above, [], []))
    return lines


def _named(number: int, path: Passage, context: Collection[int], width: int) -> tuple[str, str]:
    """Label and text of a lane. Its opening is part of the text where the label would not fit `width` cells
    of one column."""
    label = _label(number, path, context)
    if len(label) == cell_len(label) <= width:
        return label, _clean(path.content)
    return _name_of(number, path, context)[:width], _clean(path.text)


def _borders(lanes: int, width: int) -> list[int]:
    """The columns of the `lanes + 1` vertical lines."""
    return [(width - 1) * lane // lanes for lane in range(lanes + 1)]


def _band(texts: Sequence[str], borders: Sequence[int]) -> list[str]:
    """Lanes next to each other, each a space from its borders."""
    widths = [right - left - 3 for left, right in pairwise(borders)]
    columns = [_wrap(text, width) for text, width in zip(texts, widths, strict=True)]
    height = max(map(len, columns))
    padded = [
        [line + " " * (width - cell_len(line)) for line in column + [""] * (height - len(column))]
        for column, width in zip(columns, widths, strict=True)
    ]
    return ["│ " + " │ ".join(row) + " │" for row in zip(*padded, strict=True)]


def _rule(width: int, above: Sequence[int], below: Sequence[int], labels: Sequence[str]) -> str:
    """A horizontal line between two bands, with the names of the lanes below it."""
    line = ["─"] * width
    for at in {*above, *below}:
        up, down, left, right = at in above, at in below, at > 0, at < width - 1
        line[at] = _JOINTS[up, down, left, right]
    for at, label in zip(below, labels, strict=False):
        line[at + 2 : at + 4 + len(label)] = f" {label} "
    return "".join(line)


# Which of its four arms a joint has: up, down, left, right.
_JOINTS = {
    (False, True, False, True): "┌",
    (False, True, True, True): "┬",
    (False, True, True, False): "┐",
    (True, True, False, True): "├",
    (True, True, True, True): "┼",
    (True, True, True, False): "┤",
    (True, False, False, True): "└",
    (True, False, True, True): "┴",
    (True, False, True, False): "┘",
}


def _wrap(text: str, width: int) -> list[str]:
    """Lines of at most `width` columns, broken between words where possible."""
    lines = []
    for line in text.split("\n"):
        current, used = "", 0
        for word in re.findall(r"\s*\S+", line.expandtabs(4).rstrip()):
            size = cell_len(word)
            if used + size > width:
                if current:
                    lines.append(current)
                    word = word.lstrip()
                *full, word = chop_cells(word, width) or [""]
                lines += full
                current, used, size = "", 0, cell_len(word)
            current, used = current + word, used + size
        lines.append(current)
    return lines
