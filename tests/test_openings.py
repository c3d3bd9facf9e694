"""Openings as text: which lines are a plan, what a trace is laid out to, what an empty path is."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prl.grammar import (
    LONGEST_OPENING,
    FaultKind,
    canonical_layout,
    opening_text,
    parse,
    plan_lines,
    split_at_openings,
    with_openings,
)

PLANS = {
    "two lines": ("a\nb\n", ["a", "b"]),
    "after a paragraph": ("I look.\n\n a \n- b\n", ["a", "- b"]),
    "a blank line before the block": ("a\nb\n\n", ["a", "b"]),
    "Windows' line ends": ("I look.\r\n\r\na\r\nb\r\n", ["a", "b"]),
    "a sentence is no plan": ("Two ways.\n", []),
    "nothing": ("", []),
    "blank": (" \n\n\n", []),
    "what a summary says is no plan": ("a\nb\n</Summary>\n", []),
    "after a summary": ("x</Summary>\na\nb", ["a", "b"]),
    "after a stray tag, whatever stood before it": ("a</Path>b\nc\n", ["b", "c"]),
    "a line of zero-width characters is blank": ("x\n\u200b\na\nb", ["a", "b"]),
}


@pytest.mark.parametrize(("text", "lines"), PLANS.values(), ids=PLANS)
def test_a_plan_is_the_paragraph_before_the_block(text: str, lines: list[str]) -> None:
    assert plan_lines(text) == lines


def block(*paths: str) -> str:
    return f"<Parallel>{''.join(f'<Path>{path}</Path>' for path in paths)}</Parallel>\n<Summary>s</Summary>"


LAID_OUT = {
    "numbers are put there": ("number", block("a", "\nb\n"), block("\n1\na", "\n2\nb\n")),
    "and stay": ("number", block("\n1\na", "\n2\nb"), block("\n1\na", "\n2\nb")),
    "in whatever layout": ("number", block("1\na", " 2 \r\nb"), block("\n1\na", "\n2\nb")),
    "another number is text": ("number", block("\n2\na", "b"), block("\n1\n2\na", "\n2\nb")),
    "anew in each block": (
        "number",
        block("a", "b") + block("c", "d", "e"),
        block("\n1\na", "\n2\nb") + block("\n1\nc", "\n2\nd", "\n3\ne"),
    ),
    "lines are put there": ("plan", "x\ny\n" + block("a", "b"), "x\ny\n" + block("\nx\na", "\ny\nb")),
    "and stay too": ("plan", "x\ny\n" + block("\nx\na", "y"), "x\ny\n" + block("\nx\na", "\ny\n")),
    "no plan": ("plan", "One thing.\n" + block("a", "b"), None),
    "more paths than lines": ("plan", "x\ny\n" + block("a", "b", "c"), None),
    "more lines than paths": (
        "plan",
        "x\ny\nz\n" + block("a", "b"),
        "x\ny\nz\n" + block("\nx\na", "\ny\nb"),
    ),
    "one block of two without": ("plan", "x\ny\n" + block("a", "b") + block("c", "d"), None),
    "a summary that is not closed hides no plan from the decoder": (
        "plan",
        "x\ny\n" + block("a", "b").replace("s</Summary>", "c\nd") + block("e", "f"),
        "x\ny\n" + block("\nx\na", "\ny\nb").replace("s</Summary>", "c\nd") + block("\nc\ne", "\nd\nf"),
    ),
    "no block": ("plan", "x\ny", "x\ny"),
    "none": ("none", block("a", "b"), block("a", "b")),
}


@pytest.mark.parametrize(("opening", "text", "expected"), LAID_OUT.values(), ids=LAID_OUT)
def test_a_trace_is_laid_out_with_its_openings(opening: str, text: str, expected: str | None) -> None:
    assert with_openings(parse(text), opening) == expected
    if expected is not None:
        assert canonical_layout(expected) == expected
        assert with_openings(parse(expected), opening) == expected, "once is enough"


def test_a_long_line_begins_its_path_cut() -> None:
    long = "word " * 40
    laid_out = with_openings(parse(f"{long}\ny\n" + block(f"\n{long}\na", "b")), "plan")
    assert laid_out is not None
    path = parse(laid_out, opening="plan").blocks[0].paths[0]
    assert path.text == opening_text(long.strip()) + "a"
    assert len(path.opening) <= LONGEST_OPENING
    assert path.content == "a"


EMPTY = {
    "number alone": ("number", block("\n1\na", "\n2\n"), [1]),
    "number without line ends": ("number", block("1", "\n2\nb"), [0]),
    "another path's number is text": ("number", block("\n2\n", "\n2\nb"), []),
    "line alone": ("plan", "x\ny\n" + block("\nx\n", "\ny\n \n"), [0, 1]),
    "another line is text": ("plan", "x\ny\n" + block("\ny\n", "\ny\nb"), []),
    "no plan, no opening": ("plan", block("x", "y"), []),
    "truly empty, said once": ("number", block(" ", "\n2\nb"), [0]),
    "cut off by the end": ("number", "<Parallel><Path>\n1\n", []),
    "cut off by another path": ("number", "<Parallel><Path>\n1\n<Path>\n2\n", [0]),
}


@pytest.mark.parametrize(("opening", "text", "empty"), EMPTY.values(), ids=EMPTY)
def test_a_path_that_holds_its_opening_alone_is_empty(opening: str, text: str, empty: list[int]) -> None:
    trace = parse(text, opening=opening)
    paths = [path.start for block in trace.blocks for path in block.paths]
    faults = [fault for fault in trace.faults if fault.kind is FaultKind.EMPTY_PATH]
    assert [paths.index(fault.start) for fault in faults] == empty
    assert [*trace.faults] == sorted(trace.faults, key=lambda fault: fault.start)
    assert {*faults} <= {fault for block in trace.blocks for fault in block.faults}


ANYTHING = st.lists(
    st.sampled_from(["<Parallel>", "</Parallel>", "<Path>", "</Path>", "<Summary>", "</Summary>"])
    | st.sampled_from(["\n", "\n\n", "1", "\n1\n", "x", "x\ny\n", " "]),
    max_size=30,
).map("".join)


@given(ANYTHING, st.sampled_from(["number", "plan"]))
def test_any_text_is_laid_out_without_a_change_of_its_structure(text: str, opening: str) -> None:
    plain, opened = parse(text), parse(text, opening=opening)
    assert [block.span for block in opened.blocks] == [block.span for block in plain.blocks]
    assert {*plain.faults} <= {*opened.faults}
    assert "".join(split_at_openings(plain, opening)) == text
    laid_out = with_openings(plain, opening)
    if laid_out is not None:
        again = parse(laid_out, opening=opening)
        assert [len(block.paths) for block in again.blocks] == [len(block.paths) for block in plain.blocks]
        assert with_openings(parse(laid_out), opening) == laid_out
        assert len(split_at_openings(parse(laid_out), opening)) == 1 + 2 * sum(
            len(block.paths) for block in again.blocks
        )


def test_an_unknown_opening_is_refused() -> None:
    with pytest.raises(ValueError, match=r"path_opening 'numbers' is not one of none, number, plan"):
        parse("a", opening="numbers")
