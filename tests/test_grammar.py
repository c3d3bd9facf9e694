"""The grammar: what is a fault and what is not, on good, bad and hostile text, and that nothing is slow."""

from __future__ import annotations

import gc
import string
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prl.grammar import (
    TAGS,
    Fault,
    FaultKind,
    Passage,
    Span,
    Trace,
    canonical_layout,
    is_blank,
    parse,
    parse_ids,
    render,
)

GOOD = "<Parallel><Path>a</Path><Path>b</Path></Parallel><Summary>c</Summary>"

VALID = [
    # text, valid blocks, reason
    ("", 0, "an empty response has nothing wrong with its format"),
    ("1 + 1 = 2\nFinal Answer: 2", 0, "plain sequential text"),
    (GOOD, 1, "the smallest block"),
    ("x" + GOOD + "y" + GOOD + "z", 2, "blocks repeat"),
    (GOOD + GOOD, 2, "no text is needed between blocks"),
    (
        " <Parallel> \n<Path>a</Path>\t<Path>b</Path>  \n</Parallel>\n\n<Summary>c</Summary>",
        1,
        "whitespace anywhere outside passages",
    ),
    (
        "<Parallel>\u200b<Path>a</Path>\ufeff<Path>b</Path></Parallel>\u2060<Summary>c</Summary>",
        1,
        "invisible characters between the parts are no text",
    ),
    (
        "<Parallel><Path>a</Path><Path>b</Path><Path>c</Path><Path>d</Path></Parallel><Summary>e</Summary>",
        1,
        "more than two paths",
    ),
    (
        "<Parallel><Path>a < b, <b>x</b>, </path></Path><Path><</Path></Parallel><Summary>></Summary>",
        1,
        "other angle brackets are text; tags are case-sensitive",
    ),
    ("<parallel><Path >< Path></ Path><Parallel/>&lt;Path&gt;", 0, "nothing here is one of the six tags"),
    ("<<Parallel><Path>a</Path><Path>b</Path></Parallel><Summary>c</Summary>>", 1, "brackets around a block"),
    ("<Parallel><Path>.</Path><Path>.</Path></Parallel><Summary>.</Summary>", 1, "content is not judged"),
]

FAULTY = [
    # text, faults, valid blocks, reason
    ("<Parallel>", "unclosed_block", 0, "cut off right after the opener: nothing more can be said"),
    ("<Parallel><Path>", "unclosed_block unclosed_path", 0, "the path is cut off, not empty"),
    ("<Parallel><Path>a</Path><Path>b", "unclosed_block unclosed_path", 0, "cut off in the second path"),
    ("<Parallel><Path>a</Path><Path>b</Path>", "unclosed_block", 0, "cut off before </Parallel>"),
    ("<Parallel><Path>a</Path><Path>b</Path></Parallel>", "missing_summary", 0, "nothing follows the block"),
    (
        "<Parallel><Path>a</Path><Path>b</Path></Parallel>c<Summary>d</Summary>",
        "missing_summary stray_summary_opener stray_summary_closer",
        0,
        "the summary must come right after the block",
    ),
    (
        "<Parallel><Path>a</Path><Path>b</Path></Parallel><Summary>c",
        "unclosed_summary",
        0,
        "cut off in the summary",
    ),
    (
        "<Parallel><Path>a</Path><Path>b</Path></Parallel><Summary>",
        "unclosed_summary",
        0,
        "cut off, not empty",
    ),
    (
        "<Parallel><Path>a</Path><Path>b</Path></Parallel><Summary> \n</Summary>",
        "empty_summary",
        0,
        "whitespace is no summary",
    ),
    (
        "<Parallel><Path>a</Path><Path>b</Path></Parallel><Summary>c" + GOOD,
        "unclosed_summary",
        1,
        "a new block ends the open summary and is valid itself",
    ),
    (
        "<Parallel><Path>a</Path><Path>b</Path></Parallel><Summary><Parallel>",
        "unclosed_summary empty_summary unclosed_block",
        0,
        "a summary that a block ends at once holds nothing",
    ),
    (
        "<Parallel><Path>a</Path><Path>b<Path>c</Path></Parallel><Summary>d</Summary>",
        "unclosed_path",
        0,
        "the next <Path> ends the open one",
    ),
    (
        "<Parallel><Path>a</Path><Path>b</Parallel><Summary>c</Summary>",
        "unclosed_path",
        0,
        "</Parallel> ends the open path",
    ),
    (
        "<Parallel><Path>a</Path></Parallel><Summary>b</Summary>",
        "fewer_than_two_paths",
        0,
        "one path is not parallel",
    ),
    (
        "<Parallel></Parallel><Summary>b</Summary>",
        "fewer_than_two_paths",
        0,
        "no path",
    ),
    (
        "<Parallel>a, b</Parallel><Summary>c</Summary>",
        "fewer_than_two_paths text_before_paths",
        0,
        "a block of plain text",
    ),
    (
        "<Parallel><Path></Path><Path>b</Path></Parallel><Summary>c</Summary>",
        "empty_path",
        0,
        "an empty path does not count as a second one",
    ),
    (
        "<Parallel><Path> \u200b\n</Path><Path>\u2063</Path></Parallel><Summary>c</Summary>",
        "empty_path empty_path",
        0,
        "invisible characters do not fill a path",
    ),
    (
        "<Parallel>then<Path>a</Path>or<Path>b</Path>so</Parallel><Summary>c</Summary>",
        "text_before_paths text_between_paths text_after_paths",
        0,
        "text between the parts of a block",
    ),
    (
        "<Parallel><Path>a</Path></Path><Path>b</Path></Parallel><Summary>c</Summary>",
        "stray_path_closer",
        0,
        "a path closed twice",
    ),
    (
        "<Parallel><Path>a</Path><Path>b</Path></Parallel></Parallel><Summary>c</Summary>",
        "missing_summary stray_parallel_closer stray_summary_opener stray_summary_closer",
        0,
        "the second closer stands between block and summary",
    ),
    (GOOD + "</Summary>", "stray_summary_closer", 1, "a summary closed twice; the block itself is fine"),
    (GOOD + "</Parallel>", "stray_parallel_closer", 1, "a closer without a block"),
    (
        "<Parallel><Path>a<Parallel>x</Path><Path>b</Path></Parallel><Summary>c</Summary>",
        "nested_block",
        0,
        "a nested opener is text in the path",
    ),
    (
        "<Parallel><Path>a" + GOOD + "</Path><Path>b</Path></Parallel><Summary>c</Summary>",
        "unclosed_path nested_block stray_path_closer stray_path_opener stray_path_closer "
        "stray_parallel_closer stray_summary_opener stray_summary_closer",
        0,
        "the inner </Parallel> closes the outer block: path masks read it so",
    ),
    (
        "<Parallel><Path>a</Path><Path>b</Path><Summary>c</Summary></Parallel>",
        "summary_in_block text_after_paths summary_in_block missing_summary",
        0,
        "the summary belongs after the block",
    ),
    (
        "<Parallel><Path>a<Summary>x</Summary></Path><Path>b</Path></Parallel><Summary>c</Summary>",
        "summary_in_block summary_in_block",
        0,
        "a summary inside a path",
    ),
    (
        "<Parallel><Path><Summary></Summary></Path><Path>b</Path></Parallel><Summary>c</Summary>",
        "empty_path summary_in_block summary_in_block",
        0,
        "tags alone do not fill a path",
    ),
    (
        "<Parallel><Path>a</Path><Path>b</Path></Parallel><Summary><Path>c</Path></Parallel></Summary>",
        "stray_path_opener stray_path_closer stray_parallel_closer",
        0,
        "other tags inside a summary",
    ),
    ("<Path>a</Path><Path>b</Path>", "stray_path_opener stray_path_closer " * 2, 0, "paths without a block"),
    ("<Summary>a</Summary>", "stray_summary_opener stray_summary_closer", 0, "a summary of nothing"),
    ("</Parallel>" + GOOD, "stray_parallel_closer", 1, "a fault before a valid block"),
]


def names(trace: Trace) -> list[str]:
    return [fault.kind.value for fault in trace.faults]


@pytest.mark.parametrize(("text", "blocks", "reason"), VALID, ids=[row[-1] for row in VALID])
def test_valid_text_has_no_fault(text: str, blocks: int, reason: str) -> None:
    trace = parse(text)
    assert names(trace) == [], reason
    assert trace.is_valid
    assert len(trace.blocks) == blocks
    assert trace.uses_parallel == (blocks > 0)


@pytest.mark.parametrize(
    ("text", "faults", "valid_blocks", "reason"), FAULTY, ids=[row[-1] for row in FAULTY]
)
def test_faults_are_named(text: str, faults: str, valid_blocks: int, reason: str) -> None:
    trace = parse(text)
    assert sorted(names(trace)) == sorted(faults.split()), reason
    assert not trace.is_valid
    assert sum(block.is_valid for block in trace.blocks) == valid_blocks, reason
    assert trace.uses_parallel == (valid_blocks > 0)


def test_every_fault_is_in_the_table_and_has_a_meaning_of_its_own() -> None:
    in_table = {name for _, faults, _, _ in FAULTY for name in faults.split()}
    assert in_table | {"truncated"} == {kind.value for kind in FaultKind}
    assert len({kind.meaning for kind in FaultKind}) == len(FaultKind)
    assert all("\n" not in kind.meaning for kind in FaultKind)


def test_truncation_is_a_fault_of_the_trace_and_not_of_a_finished_block() -> None:
    trace = parse(GOOD + " so the", truncated=True)
    assert trace.faults == (Fault(FaultKind.TRUNCATED, len(GOOD) + 7),)
    assert trace.uses_parallel
    assert not trace.is_valid


def test_a_fault_says_where() -> None:
    text = "so <Parallel><Path>a</Path>\n or <Path>b</Path></Parallel>\n<Summary></Summary>"
    faults = parse(text).faults
    assert [fault.start for fault in faults] == [text.index("or"), text.index("<Summary>")]
    assert faults[0].message == "text between two paths (at 29)"


def test_the_parts_of_a_trace() -> None:
    text = f"before {GOOD} between\n{GOOD}\nFinal Answer: 3"
    trace = parse(text)
    first = trace.blocks[0]
    assert first.span == Span(7, 7 + len("<Parallel><Path>a</Path><Path>b</Path></Parallel>"))
    assert [path.text for path in first.paths] == ["a", "b"]
    assert first.summary is not None
    assert first.summary.text == "c"
    assert trace.main_thread == "before  between\n\nFinal Answer: 3"


def test_what_the_main_thread_keeps() -> None:
    stray = "a</Path>b<Summary>c</Summary>"
    assert parse(stray).main_thread == stray, "stray tags and what they enclose are main thread"
    assert parse("a<Parallel>b").main_thread == "a", "an unclosed block takes the rest"
    open_summary = "<Parallel><Path>a</Path><Path>b</Path></Parallel> <Summary>c\nFinal Answer: 1"
    assert parse(open_summary).main_thread == " ", (
        "so does an unclosed summary; the space before it is outside"
    )


PIECES = st.sampled_from(
    [*TAGS, "<", "Path>", "</", " ", "\n", "\u200b", "a", "Ω", "\ud800", "\x00", "<path>"]
)
RESPONSES = st.one_of(st.text(), st.lists(PIECES, max_size=40).map("".join))


@given(RESPONSES, st.booleans())
def test_any_text_gives_one_trace_whose_spans_are_in_order(text: str, truncated: bool) -> None:
    trace = parse(text, truncated=truncated)
    assert trace == parse(text, truncated=truncated), "deterministic"
    assert trace.length == len(text)
    assert [fault.start for fault in trace.faults] == sorted(fault.start for fault in trace.faults)
    assert (FaultKind.TRUNCATED in [fault.kind for fault in trace.faults]) == truncated
    assert sum(len(block.faults) for block in trace.blocks) <= len(trace.faults)

    cursor = 0
    for block in trace.blocks:
        start, end = block.span
        assert cursor <= start < end <= len(text)
        assert text.startswith("<Parallel>", start)
        inside = start
        for path in block.paths:
            check_passage(text, path, "Path")
            assert inside <= path.start
            inside = path.end
        assert inside <= end
        cursor = end
        if block.summary:
            check_passage(text, block.summary, "Summary")
            assert is_blank(text[end : block.summary.start])
            cursor = block.summary.end
        if block.is_valid:
            assert len(block.paths) >= 2
            assert not any(is_blank(path.text) for path in block.paths)
            assert block.summary is not None
    outside = sum(end - start for start, end in trace.main_spans)
    assert outside == len(trace.main_thread)
    taken = [
        span for block in trace.blocks for span in (block.span, block.summary and block.summary.span) if span
    ]
    assert outside + sum(end - start for start, end in taken) == len(text), "each character has one place"


def check_passage(text: str, passage: Passage, tag: str) -> None:
    assert text[slice(*passage.body)] == passage.text
    assert text[slice(*passage.span)] in (f"<{tag}>{passage.text}</{tag}>", f"<{tag}>{passage.text}")


@given(RESPONSES)
def test_blocks_are_the_ones_that_path_masks_see(text: str) -> None:
    """A block runs from <Parallel> while none is open to the first </Parallel>, whatever else is there."""
    expected = []
    start = text.find("<Parallel>")
    while start >= 0:
        closer = text.find("</Parallel>", start)
        end = len(text) if closer < 0 else closer + len("</Parallel>")
        expected.append((start, end))
        start = text.find("<Parallel>", end)
    assert [block.span for block in parse(text).blocks] == expected


@given(st.lists(PIECES, max_size=40), st.booleans())
def test_ids_give_the_same_structure_as_text(pieces: list[str], truncated: bool) -> None:
    text = "".join(pieces)
    ids: list[int] = []  # one token for each tag and each other character
    offset: dict[int, int] = {}  # character -> token
    at = 0
    while at < len(text):
        offset[at] = len(ids)
        tag = next((tag for tag in TAGS if text.startswith(tag, at)), None)
        ids.append(TAGS.index(tag) if tag else 10 + ord(text[at]))
        at += len(tag) if tag else 1
    offset[at] = len(ids)
    blank_ids = {10 + ord(character) for character in text if is_blank(character)}

    by_text = parse(text, truncated=truncated)
    by_ids = parse_ids(ids, range(6), blank_ids=blank_ids, truncated=truncated)

    def in_tokens(span: Span) -> Span:
        return Span(offset[span.start], offset[span.end])

    def spans(trace: Trace, to: Any) -> list[Any]:
        return [
            (
                to(block.span),
                [(to(path.span), to(path.body)) for path in block.paths],
                block.summary and (to(block.summary.span), to(block.summary.body)),
            )
            for block in trace.blocks
        ]

    assert spans(by_ids, lambda span: span) == spans(by_text, in_tokens)
    assert [(kind, offset[start]) for kind, start in by_text.faults] == list(by_ids.faults)
    assert by_ids.main_spans == tuple(map(in_tokens, by_text.main_spans))
    assert by_ids.is_valid == by_text.is_valid
    assert by_ids.main_thread == by_ids.text == ""


@pytest.mark.parametrize("tag_ids", [[0] * 6, [None] * 6, [1, 2, 3, 4, 5, 1], [1, 2, 3], range(7)])
def test_tag_ids_must_be_six_distinct_ones(tag_ids: Any) -> None:
    """A tokenizer without the tags answers with the unknown token, or None, for each."""
    with pytest.raises(ValueError):
        parse_ids([1, 2, 3], tag_ids)


PASSAGES = st.text(st.characters(codec="utf-8"), min_size=1).filter(
    lambda text: not is_blank(text) and not any(tag in text for tag in TAGS)
)


@given(
    st.lists(PASSAGES, min_size=2, max_size=5),
    PASSAGES,
    st.text(string.ascii_letters),
    st.text(string.digits),
)
def test_what_is_rendered_is_read_back(paths: list[str], summary: str, before: str, after: str) -> None:
    text = render(paths, summary)
    trace = parse(before + text + after)
    assert trace.is_valid
    (block,) = trace.blocks
    assert [path.text.strip() for path in block.paths] == [path.strip() for path in paths]
    assert block.summary is not None
    assert block.summary.text.strip() == summary.strip()
    assert trace.main_thread == before + "\n" + after, "the line end before the summary is main thread"
    assert render([path.text for path in block.paths], block.summary.text) == text, "rendering is canonical"


def test_render_refuses_what_would_not_be_read_back_and_names_all_of_it() -> None:
    with pytest.raises(ValueError, match=r"1 paths, .*; path 1 is blank; the summary holds the tag </Path>"):
        render([" \n"], "a</Path>")


@pytest.mark.parametrize(
    ("text", "laid_out", "reason"),
    [
        (
            "x <Parallel>\n<Path>\na\n</Path> \n<Path> b</Path>\t</Parallel>  \n\n<Summary> c </Summary> y",
            "x <Parallel><Path>\na\n</Path><Path> b</Path></Parallel>\n<Summary> c </Summary> y",
            "texts keep their whitespace, and so does the main thread",
        ),
        (GOOD, GOOD.replace("<Summary>", "\n<Summary>"), "a line end before the summary"),
        (
            "<Parallel>\u200b<Path>a</Path>\u200b<Path>b</Path></Parallel>\u2060<Summary>c</Summary>",
            GOOD.replace("<Summary>", "\n<Summary>"),
            "invisible characters are no text",
        ),
        (
            "<Parallel> so <Path>a</Path> or\n<Path>b</Path> </Parallel> x",
            "<Parallel> so <Path>a</Path> or\n<Path>b</Path></Parallel> x",
            "misplaced text stays: it is a fault to see; without a summary, so does what follows",
        ),
        (
            "<Parallel> <Path>a</Path> </Path> <Path>b\n<Path> c </Parallel>\n\n",
            "<Parallel><Path>a</Path> </Path> <Path>b\n<Path> c </Parallel>\n\n",
            "the text of a path that is not closed reaches to the next tag",
        ),
        ("<Parallel> <Path>a</Path> ", "<Parallel><Path>a</Path> ", "cut off: nothing follows yet"),
        ("<Path> a </Path> <Path> b", "<Path> a </Path> <Path> b", "stray tags are text"),
        ("<Parallel> </Parallel> \n", "<Parallel> </Parallel> \n", "a block without a path"),
    ],
)
def test_canonical_layout(text: str, laid_out: str, reason: str) -> None:
    assert canonical_layout(text) == laid_out, reason


def texts_and_faults(text: str) -> Any:
    trace = parse(text)
    return (
        [
            ([path.text for path in block.paths], block.summary and block.summary.text)
            for block in trace.blocks
        ],
        [[fault.kind for fault in block.faults] for block in trace.blocks],
        [fault.kind for fault in trace.faults],
        [character for character in trace.main_thread if not is_blank(character)],
    )


@given(RESPONSES)
def test_canonical_layout_keeps_every_text_and_fault(text: str) -> None:
    laid_out = canonical_layout(text)
    assert texts_and_faults(laid_out) == texts_and_faults(text)
    assert canonical_layout(laid_out) == laid_out
    for block in parse(laid_out).blocks:
        if block.is_valid:
            assert block.summary is not None
            start, end = block.span.start, block.summary.end
            body = "".join(f"<Path>{path.text}</Path>" for path in block.paths)
            summary = f"<Summary>{block.summary.text}</Summary>"
            assert laid_out[start:end] == f"<Parallel>{body}</Parallel>\n{summary}"


@given(st.lists(PASSAGES, min_size=2, max_size=4), PASSAGES)
def test_what_is_rendered_is_laid_out_already(paths: list[str], summary: str) -> None:
    assert canonical_layout(render(paths, summary)) == render(paths, summary)


HOSTILE = [
    # what stands once, what is repeated
    ("", "<Path>"),
    ("", "<Parallel>"),
    ("", "</Path>"),
    ("", "<Parallel></Parallel>"),
    ("", "<Parallel></Parallel><Summary>"),
    ("", "<Parallel><Path>"),
    ("", GOOD),
    ("", "<"),
    ("<Parallel>", "<Path>"),
    ("<Parallel>", "</Path><Path>"),
    ("<Parallel>", "</Paralle"),
    ("<Parallel>", " "),
    ("<Parallel>", "\u200b"),
    ("<Parallel>", "a </Path>"),
    ("<Parallel><Path>", "<Summary>"),
    ("<Parallel></Parallel>", "\n"),
    ("<Parallel></Parallel><Summary>", "</Path>"),
]


@pytest.mark.parametrize(("once", "repeated"), HOSTILE)
def test_a_megabyte_is_read_in_linear_time(once: str, repeated: str) -> None:
    """Eight times the text takes about eight times as long; a quadratic trap would take 64 times."""
    text = once + repeated * (1_000_000 // len(repeated))
    eighth = min(seconds_to_parse(text[: len(text) // 8]) for _ in range(2))
    assert seconds_to_parse(text) < max(24 * eighth, 0.2)


@pytest.mark.parametrize("tag", ["<Path>", "<Parallel>"])
def test_a_megabyte_of_one_tag_is_read_within_a_second(tag: str) -> None:
    text = tag * (1_000_000 // len(tag))
    assert min(seconds_to_parse(text) for _ in range(3)) < 1


def seconds_to_parse(text: str) -> float:
    # Without the collector, which walks all that the suite holds as often as objects are made.
    gc.disable()
    try:
        start = time.process_time()
        parse(text)
        return time.process_time() - start
    finally:
        gc.enable()


def test_a_sequence_of_tag_ids_is_read_in_linear_time() -> None:
    start = time.process_time()
    trace = parse_ids([0, 2] * 50_000, range(6))
    assert time.process_time() - start < 2
    assert len(trace.blocks[0].paths) == 50_000


@pytest.mark.real
@pytest.mark.parametrize("column", ["trace", "raw_trace"])
def test_parallel_gsm8k_is_read_as_its_card_says(real_data: Path, column: str) -> None:
    import pyarrow.parquet as pq

    rows = (
        pq.read_table(real_data / "parallel_gsm8k_341.parquet", columns=[column]).column(column).to_pylist()
    )
    traces = [parse(row) for row in rows]
    assert Counter(len(trace.blocks) for trace in traces) == {0: 3, 1: 261, 2: 59, 3: 12, 4: 6}
    paths = Counter(sum(len(block.paths) for block in trace.blocks) for trace in traces if trace.blocks)
    assert paths[2] == 256
    assert (min(paths), max(paths)) == (2, 8)
    # The three that break the rules, and how: a teacher's slips, each visible in the text.
    assert {i: names(trace) for i, trace in enumerate(traces) if trace.faults} == {
        88: ["text_before_paths", "text_between_paths"],
        125: ["missing_summary", "stray_summary_opener", "stray_summary_closer"],
        327: ["unclosed_summary"],
    }


@pytest.mark.real
def test_canonical_layout_of_parallel_gsm8k(real_data: Path) -> None:
    import pyarrow.parquet as pq

    table = pq.read_table(real_data / "parallel_gsm8k_341.parquet", columns=["trace"])
    traces = table.column("trace").to_pylist()
    laid_out = [canonical_layout(trace) for trace in traces]
    assert sum(new != old for new, old in zip(laid_out, traces, strict=True)) == 53
    assert [texts_and_faults(new) for new in laid_out] == [texts_and_faults(old) for old in traces]


@pytest.mark.real
def test_real_tokens_give_the_structure_of_the_text(real_data: Path, real_tokenizer: Any) -> None:
    import pyarrow.parquet as pq

    real_tokenizer.add_tokens(list(TAGS))
    tag_ids = real_tokenizer.convert_tokens_to_ids(list(TAGS))
    assert tag_ids == list(range(151669, 151675))
    table = pq.read_table(real_data / "parallel_gsm8k_341.parquet", columns=["trace"])
    for text in table.column("trace").to_pylist():
        encoded = real_tokenizer(text, return_offsets_mapping=True, add_special_tokens=False)
        blank_ids = {i for i in set(encoded["input_ids"]) if is_blank(real_tokenizer.decode([i]))}
        by_text, by_ids = parse(text), parse_ids(encoded["input_ids"], tag_ids, blank_ids=blank_ids)
        assert names(by_ids) == names(by_text)
        starts = [start for start, _ in encoded["offset_mapping"]]
        assert [[starts[path.start] for path in block.paths] for block in by_ids.blocks] == [
            [path.start for path in block.paths] for block in by_text.blocks
        ]
