"""Lanes: what a model wrote stays text, nothing of it is lost, and any response can be drawn."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from html.parser import HTMLParser

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from rich.cells import cell_len

from prl.grammar import TAGS, FaultKind, Trace, is_blank, parse, parse_ids, render
from prl.report.lanes import MIN_WIDTH, trace_html, trace_text

TWO_PATHS = (
    "First 47+27=74.\n"
    + render(["74-59=15. 15+33=48.", "74+33=107. 107-59=48."], "Both give 48.")
    + "\nDone: 48"
)


@dataclass
class Page(HTMLParser):
    """A fragment as a browser reads it: cells in order, text outside tables, and whether elements nest."""

    cells: list[tuple[str, int, str]] = field(default_factory=list)  # label, columns, text
    main: str = ""
    elements: set[str] = field(default_factory=set)
    attributes: set[str] = field(default_factory=set)
    open: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.open.append(tag)
        self.elements.add(tag)
        self.attributes |= {name for name, _ in attrs}
        if tag == "td":
            self.cells.append(("", int(dict(attrs)["colspan"] or 0), ""))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "td" not in self.open:
            self.main += data
            return
        label, columns, text = self.cells[-1]
        self.cells[-1] = (label + data, columns, text) if "b" in self.open else (label, columns, text + data)

    @property
    def text(self) -> str:
        """What the model wrote: all but labels and faults."""
        return "\n".join([self.main, *(text for label, _, text in self.cells if label != "Faults")])


def page(trace: Trace) -> Page:
    read = Page()
    read.feed(trace_html(trace))
    read.close()
    assert read.open == []
    assert read.elements <= {"div", "table", "tr", "td", "b"}
    assert read.attributes <= {"style", "class", "colspan"}
    return read


@pytest.mark.parametrize(
    ("hostile", "shown"),
    [
        ("</div><script>alert(1)</script>", None),  # closes our element and opens its own
        ("</td></tr></table><h1>x", None),
        ('"><img src=x onerror=alert(1)>', None),  # leaves an attribute
        ("&lt;b&gt; &amp; &#60;script&#62;", None),  # entities are text too, not what they stand for
        ("<!-- <![CDATA[ ]]> <?php", None),
        ("<style>*{display:none}</style>", None),
        ("a\x00b\x1b[31mc\x7f\x9b", "a\ufffdb\ufffd[31mc\ufffd\ufffd"),  # NUL, terminal escapes
        ("a\rb\x08c", "a\ufffdb\ufffdc"),  # overwrites the line in a terminal
        ("a\r\nb", "a\nb"),
        ("abc\u202edef\u2067g", "abc\ufffddef\ufffdg"),  # turns the direction of what follows
        ("a\u2028b\ud800c", "a\ufffdb\ufffdc"),  # a line separator; a surrogate cannot be written to a file
        ("שלום مرحبا", None),  # right to left by itself is language, not an attack
        ("👩\u200d👩\u200d👧 e\u0301", None),  # joiners and combining marks stay
    ],
)
@pytest.mark.parametrize("place", ["main", "path", "summary", "outside"])
def test_what_a_model_wrote_comes_out_as_text(hostile: str, shown: str | None, place: str) -> None:
    texts = dict.fromkeys(("main", "path", "summary", "outside"), "plain") | {place: hostile}
    trace = parse(
        "{main}<Parallel><Path>{path}</Path>{outside}<Path>x</Path></Parallel><Summary>{summary}</Summary>".format(
            **texts
        )
    )
    read = page(trace)
    labels = {"path": "Path 1", "summary": "Summary", "outside": "Outside the paths"}
    found = read.main if place == "main" else {label: text for label, _, text in read.cells}[labels[place]]
    assert found == (hostile if shown is None else shown)
    drawn = trace_text(trace, width=120)
    drawn.encode()
    assert all(line.isprintable() or "\u200d" in line for line in drawn.split("\n"))


def test_paths_stand_side_by_side_and_the_summary_across() -> None:
    read = page(parse(TWO_PATHS))
    assert read.cells == [
        ("Path 1", 1, "74-59=15. 15+33=48."),
        ("Path 2", 1, "74+33=107. 107-59=48."),
        ("Summary", 2, "Both give 48."),
    ]
    assert read.main == "First 47+27=74.Done: 48"
    html = trace_html(parse(TWO_PATHS))
    assert html.index("First") < html.index("Path 1") < html.index("Summary") < html.index("Done")
    assert trace_text(parse(TWO_PATHS), width=50).split("\n") == [
        "First 47+27=74.",
        "┌─ Path 1 ──────────────┬─ Path 2 ───────────────┐",
        "│ 74-59=15. 15+33=48.   │ 74+33=107. 107-59=48.  │",
        "├─ Summary ─────────────┴────────────────────────┤",
        "│ Both give 48.                                  │",
        "└────────────────────────────────────────────────┘",
        "Done: 48",
    ]


def test_paths_that_do_not_fit_go_on_below() -> None:
    lines = trace_text(parse(render(["a", "b", "c"], "d")), width=45).split("\n")
    assert [line for line in lines if "Path" in line] == [
        "┌─ Path 1 ────────────┬─ Path 2 ────────────┐",
        "├─ Path 3 ────────────┴─────────────────────┤",
    ]


def test_text_without_a_block_is_only_text() -> None:
    assert page(parse("6*7=42\nFinal Answer: 42")).main == "6*7=42\nFinal Answer: 42"
    assert trace_text(parse("6*7=42\n\n  Final Answer: 42\n")) == "6*7=42\n\n  Final Answer: 42"
    assert trace_text(parse("")) == ""


@pytest.mark.parametrize(
    ("response", "cells", "fault"),
    [
        ("<Parallel><Path>a</Path><Path>b", ["a", "b"], FaultKind.UNCLOSED_PATH),
        ("<Parallel>", [], FaultKind.UNCLOSED_BLOCK),
        ("<Parallel>a", ["a"], FaultKind.TEXT_BEFORE_PATHS),
        ("<Parallel></Parallel><Summary>s</Summary>", ["s"], FaultKind.FEWER_THAN_TWO_PATHS),
        ("<Parallel><Path></Path><Path>b</Path></Parallel>", ["", "b"], FaultKind.EMPTY_PATH),
        ("<Parallel><Path>a<Path>b</Parallel><Summary>s", ["a", "b", "s"], FaultKind.UNCLOSED_SUMMARY),
        ("<Parallel><Path>a<Parallel>b</Path>", ["a<Parallel>b"], FaultKind.NESTED_BLOCK),
        ("<Parallel>a<Path>b</Path>c</Path></Parallel>", ["b", "a\nc</Path>"], FaultKind.STRAY_PATH_CLOSER),
        ("a</Summary>", [], FaultKind.STRAY_SUMMARY_CLOSER),
    ],
)
def test_a_malformed_trace_is_drawn_with_its_faults_named(
    response: str, cells: list[str], fault: FaultKind
) -> None:
    trace = parse(response, truncated=True)
    read = page(trace)
    assert [text for label, _, text in read.cells if label != "Faults"] == cells
    named = "\n".join(text for label, _, text in read.cells if label == "Faults")
    drawn = trace_text(trace, width=120)
    for kind in {fault, FaultKind.TRUNCATED} | {each.kind for each in trace.faults}:
        assert f"{kind}: {kind.meaning}" in named
        assert f"{kind}: {kind.meaning}" in drawn


def test_a_fault_stands_where_it_belongs_and_its_kind_once() -> None:
    trace = parse("</Path>" * 5 + "<Parallel><Path>a</Path></Parallel><Summary>s</Summary>")
    faults = [text for label, _, text in page(trace).cells if label == "Faults"]
    assert faults == [
        "fewer_than_two_paths: a block with fewer than two paths (at 35)",
        "stray_path_closer: </Path> where no path is open (at 0, 7, 14 and 2 more)",
    ]


def test_wide_characters_keep_the_borders_straight() -> None:
    trace = parse(
        render(["先に足し算をする。" * 5, "👩\u200d👩\u200d👧 plus 🙂 e\u0301 ½"], "両方とも四十八。")
    )
    lines = trace_text(trace, width=60).split("\n")
    assert {cell_len(line) for line in lines} == {60}
    borders = {tuple(cell_len(line[:at]) for at, c in enumerate(line) if c == "│") for line in lines[1:4]}
    assert len(borders) == 1


def test_a_trace_of_ids_has_no_text_but_its_shape() -> None:
    trace = parse_ids([0, 2, 9, 3, 2, 9, 3, 1], tag_ids=range(6))
    assert [(label, text) for label, _, text in page(trace).cells][:2] == [("Path 1", ""), ("Path 2", "")]
    assert "missing_summary" in trace_text(trace)


anything = st.lists(
    st.one_of(
        st.sampled_from(TAGS),
        st.text(max_size=40),
        st.sampled_from(["<div>", "日本", "\n\n", "\x1b[2J", " "]),
    ),
    max_size=12,
).map("".join)


@given(anything, st.booleans(), st.integers(-5, 130))
@example("\ufe0f\u200d" * 20, False, 24)
@example("<Parallel><Path>\u200b", True, 24)
def test_any_response_can_be_drawn(response: str, truncated: bool, width: int) -> None:
    trace = parse(response, truncated=truncated)
    page(trace)
    drawn = trace_text(trace, width)
    drawn.encode()
    assert all(cell_len(line) <= max(width, MIN_WIDTH) for line in drawn.split("\n"))
    ours = {*"┌├└│"} - {*response}
    framed = {cell_len(line) for line in drawn.split("\n") if line[:1] in ours}
    assert framed <= {max(width, MIN_WIDTH)}


@given(anything)
def test_nothing_that_can_be_seen_is_lost(response: str) -> None:
    assert visible(page(parse(response)).text) == visible(response)


@given(st.text(st.characters(blacklist_characters="<>")), st.integers(MIN_WIDTH, 60))
def test_wrapping_loses_nothing(response: str, width: int) -> None:
    assert visible(trace_text(parse(response), width)) == visible(response)


def visible(text: str) -> list[str]:
    """The characters to be seen outside tags, in no order, without U+FFFD: it replaces what is not seen."""
    return sorted(c for c in re.sub("|".join(TAGS), "", text) if c != "\ufffd" and not is_blank(c))


@pytest.mark.parametrize(
    "hostile",
    ["<Path>" * 20_000, "<Parallel><Path>" * 10_000, "<Parallel>" + "<Path>a</Path>" * 10_000,
     " " * 200_000 + "x", "a " * 100_000, "a" * 200_000, "</Summary>" * 20_000, "e" + "\u0301" * 100_000],
    ids=["paths", "nested", "lanes", "blanks", "words", "word", "faults", "marks"],
)  # fmt: skip
def test_hostile_text_takes_linear_time(hostile: str) -> None:
    trace = parse(hostile)
    started = time.process_time()
    trace_html(trace)
    trace_text(trace)
    assert time.process_time() - started < 5


OPENED = "Halves.\n\nfirst 3\nlast <3>\n" + (
    "<Parallel><Path>\nfirst 3\nnone</Path><Path>\nlast <3>\n5 fits</Path></Parallel>\n<Summary>5</Summary>"
)


def test_what_a_path_begins_with_is_its_label() -> None:
    drawn = trace_text(parse(OPENED, opening="plan"), 60)
    assert "┌─ Path 1: first 3 ───" in drawn
    assert "┬─ Path 2: last <3> ──" in drawn
    assert "│ none " in drawn
    assert drawn.count("first 3") == 2, "in the plan and as the label"
    assert "<b>Path 2: last &lt;3&gt;</b>" in trace_html(parse(OPENED, opening="plan"))
    numbered = parse(OPENED.replace("\nfirst 3\nnone", "\n1\nnone"), opening="number")
    assert "┌─ Path 1 ───" in trace_text(numbered, 60)
    assert "│ 1" not in trace_text(numbered, 60)


def test_a_label_that_does_not_fit_stays_in_the_text() -> None:
    drawn = trace_text(parse(OPENED.replace("first 3", "the first three of them"), opening="plan"), 50)
    assert "┌─ Path 1 ───" in drawn
    wide = trace_text(parse(OPENED.replace("first 3", "前の三つ"), opening="plan"), 60)
    assert "┌─ Path 1 ───" in wide
    assert "│ 前の三つ" in wide


def test_context_paths_are_named_so() -> None:
    trace = parse(TWO_PATHS + "\n\nby one\nby two\n" + render(["\nby one\n1", "2"], "1"), opening="plan")
    page = Page()
    page.feed(trace_html(trace, context_paths=[1, 2]))
    named = [label for label, _, _ in page.cells if label.startswith("Path")]
    assert named == ["Path 1", "Path 2, context", "Path 1, context: by one", "Path 2"]
    for width in (MIN_WIDTH, 60):
        drawn = trace_text(trace, width, context_paths=[1, 2])
        assert drawn.count(", context") == 2
        assert max(map(cell_len, drawn.split("\n"))) <= width
    assert trace_text(trace, context_paths=[9]) == trace_text(trace)


@given(st.lists(st.sampled_from([*TAGS, "\n", "1", "\n1\n", "x\ny\n", "é", "三"]), max_size=20).map("".join))
def test_openings_lose_nothing(response: str) -> None:
    for opening in ("number", "plan"):
        shown = visible(trace_text(parse(response, opening=opening), 44))
        plain = visible(trace_text(parse(response), 44))
        lost = Counter(plain) - Counter(shown)
        assert {*lost} <= {*"1234567890│"}, "but a number that is the label's own, with the frame of its line"


def test_drawing_needs_no_torch() -> None:
    code = "import sys, prl.report.lanes; assert not {'torch', 'matplotlib'} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", code], check=True)
