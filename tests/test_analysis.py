"""Shapes of traces: counted by hand, and by their laws on any token sequence."""

from __future__ import annotations

import subprocess
import sys
from itertools import combinations
from pathlib import Path
from time import monotonic
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prl.analysis import (
    Decision,
    Shape,
    block_positions,
    conclusion,
    critical_path,
    decide,
    describe,
    diversity,
    shape,
    summarise,
    words,
)
from prl.grammar import TAGS, parse, parse_ids, render

PARALLEL, END_PARALLEL, PATH, END_PATH, SUMMARY, END_SUMMARY = TAG_IDS = range(6)


def of(ids: list[int]) -> Shape:
    return shape(parse_ids(ids, TAG_IDS), ids)


def block(*paths: list[int], summary: list[int]) -> list[int]:
    inner = [token for path in paths for token in (PATH, *path, END_PATH)]
    return [PARALLEL, *inner, END_PARALLEL, SUMMARY, *summary, END_SUMMARY]


@pytest.mark.parametrize(
    ("ids", "length", "critical", "blocks", "paths", "positions"),
    [
        ([], 0, 0, 0, 0, ()),
        ([9, 9, 9], 3, 3, 0, 0, ()),  # sequential: all of it is critical
        # 2 before, tags 2, paths 3+2 and 5+2, summary 1+2, 1 after: the path of 5 is off the critical path
        ([9, 9, *block([7] * 3, [8] * 5, summary=[6]), 9], 20, 15, 1, 2, (2 / 20,)),
        (block([7], [7], [7], summary=[6]) * 2, 28, 16, 2, 6, (0.0, 14 / 28)),
        ([PARALLEL, PATH, 7, 7, END_PATH], 5, 5, 1, 1, (0.0,)),  # cut off in its first path
        ([9, PARALLEL, PATH, 7, 7, PATH, 8], 7, 5, 1, 2, (1 / 7,)),  # cut off in its second, shorter one
        ([PARALLEL, 9, END_PARALLEL], 3, 3, 1, 0, (0.0,)),  # a block without paths
        ([PATH, 7, END_PATH, END_PARALLEL], 4, 4, 0, 0, ()),  # stray tags are text
    ],
)
def test_shapes_counted_by_hand(
    ids: list[int], length: int, critical: int, blocks: int, paths: int, positions: tuple[float, ...]
) -> None:
    found = of(ids)
    assert (found.length, found.critical_path, found.blocks, found.paths) == (length, critical, blocks, paths)
    assert found.block_positions == pytest.approx(positions)
    assert found.saved == pytest.approx((length - critical) / length if length else 0)


def test_characters_are_counted_for_a_parsed_text() -> None:
    trace = parse("ab<Parallel><Path>x</Path><Path>yyy</Path></Parallel><Summary>z</Summary>")
    assert block_positions(trace) == (2 / trace.length,)
    assert critical_path(trace) == trace.length - len("<Path>x</Path>")


@pytest.mark.parametrize(
    ("paths", "expected"),
    [
        ([], None),
        ([[1, 2]], None),
        ([[1, 2], []], None),  # an empty path says nothing
        ([[1, 2], [2, 1, 1]], 0.0),
        ([[1], [2]], 1.0),
        ([[1, 2], [2, 3]], 0.5),
        ([[1], [1, 2, 3]], 0.5),
        ([[1], [1], [2]], 0.5),
        ([[1], [2], [3], []], 1.0),
        (["ab", "bc"], 0.5),
    ],
)
def test_diversity_by_hand(paths: list[list[int]], expected: float | None) -> None:
    assert diversity(paths) == (None if expected is None else pytest.approx(expected))


@given(st.lists(st.lists(st.integers(0, 5), min_size=1), min_size=2, max_size=6))
def test_diversity_is_symmetric_bounded_and_the_dice_distance_of_two(paths: list[list[int]]) -> None:
    found = diversity(paths)
    assert found is not None
    assert -1e-12 <= found <= 1 + 1e-12
    assert found == pytest.approx(diversity(paths[::-1]))
    assert diversity([paths[0]] * len(paths)) == pytest.approx(0)
    for first, second in combinations(map(set, paths), 2):
        dice = 1 - 2 * len(first & second) / (len(first) + len(second))
        assert diversity([list(first), list(second)]) == pytest.approx(dice)


@given(st.lists(st.integers(0, 9)))
def test_any_ids_have_a_shape(ids: list[int]) -> None:
    found = of(ids)
    assert found.length == len(ids)
    assert 0 <= found.critical_path <= found.length
    assert 0 <= found.saved <= 1
    assert all(0 <= position < 1 for position in found.block_positions)
    assert len(found.block_positions) == found.blocks
    if found.paths < 2:
        assert found.critical_path == found.length


def test_the_means_of_an_evaluation() -> None:
    shapes = [of([9] * 4), of(block([7], [8], summary=[6])), of(block([7, 7], [7], [7], summary=[6]))]
    assert [found.length for found in shapes] == [4, 11, 15]
    assert summarise(shapes) == pytest.approx(
        {
            "length": 10,
            "critical_path": (4 + 8 + 9) / 3,
            "saved": (0 + 3 / 11 + 6 / 15) / 3,
            "blocks_per_response": 2 / 3,
            "paths_per_block": 5 / 2,
            "block_position": 0,
            "path_diversity": 0.5,
        }
    )


def test_nothing_to_average_is_none_not_zero() -> None:
    assert set(summarise([]).values()) == {None}
    sequential = summarise([of([9, 9])])
    assert (sequential["length"], sequential["blocks_per_response"], sequential["saved"]) == (2, 0, 0)
    assert (
        sequential["block_position"] is sequential["path_diversity"] is sequential["paths_per_block"] is None
    )


def test_a_hostile_response_takes_linear_time() -> None:
    ids = [PARALLEL, *[PATH, 7, END_PATH] * 100_000, END_PARALLEL]
    assert of(ids).diversity == 0


@pytest.mark.parametrize(
    ("text", "expected", "why"),
    [
        ("In order: 2+3=5. 5+4=9.", "9", "the right side of the last ="),
        ("Take 40 of 100, then 100 - 55 = 45 pens left.", "45", "words behind the number are no formula"),
        ("6 × 100 = 600. 5% of 600 is 30, so subtract 30 to get 570.", "570", "a number after the last ="),
        ("so $A = \\frac{1}{4}x$.", "\\frac{1}{4}x", "a formula is taken whole"),
        ("= 2\\sqrt{3}", "2\\sqrt{3}", "a formula, though it ends on a number"),
        ("\\(x = y\\) as 3 is odd", "3", "a number comes later than the formula"),
        ("\\(2x = 2y, x = y\\)", "y", "a formula without a number"),
        ("Total: $6.00 + $12.50 = $1,218.50 in all.", "1218.50", "currency and thousands go"),
        ("It is 3 - 5 = -2", "-2", "the sign of a number"),
        ("the difference 63-17", "17", "a minus between numbers is no sign"),
        ("leaves \\frac{3}{4} of it", "\\frac{3}{4}", "a fraction is one number"),
        ("about 7/60 hours", "7/60", "a fraction is one number"),
        ("x <= 5 and y != 6, so 4", "4", "neither is an ="),
        ("3 + 4 = 8? No: Final Answer: 7\nsince 3 + 4 = 7 of 9", "7", "a commitment comes before all"),
        ("\\boxed{x+1} of 5", "x+1", "a commitment comes before all"),
        ("=", None, "nothing behind it"),
        ("let us see", None, "no value"),
        ("", None, "no text"),
        (" \u200b", None, "nothing to be seen"),
        ("1 = 2" + "x" * 3000, None, "only the end of a text counts"),
    ],
)
def test_what_a_text_concludes(text: str, expected: str | None, why: str) -> None:
    assert conclusion(text) == expected, why


@pytest.mark.parametrize(
    ("summary", "paths", "expected", "why"),
    [
        ("Both paths give 8. Path 1 divides.", ["8", "8"], "8", "a remark after the result"),
        ("30 when Bella turns 18", ["30", "30.0"], "30", "18 is nobody's conclusion"),
        ("We get 1/2 of 3", ["0.5", "2"], "1/2", "equal in value is enough"),
        ("5. 6. 2+2=4. 4+3=7.", ["5", "6"], "7", "a summary that computes says so itself"),
        ("Neither: 9", ["5", "6"], "9", "no path's conclusion at all"),
        ("Final Answer: 9, not 5", ["5", "6"], "9, not 5", "a commitment is what it says"),
    ],
)
def test_a_summary_in_prose_names_a_path_and_goes_on(
    summary: str, paths: list[str], expected: str, why: str
) -> None:
    assert conclusion(summary, among=paths) == expected, why


def decision(paths: list[str], summary: str, gold: str | None = None) -> Decision:
    (found,) = parse(render(paths, summary)).blocks
    return decide(found, gold)


@pytest.mark.parametrize(
    ("paths", "summary", "majority", "agreement", "takes"),
    [
        (["1+1=2", "2"], "Both: 2", "2", 1, "agreed"),
        (["1/2", "0.5", "\\frac{1}{2}"], "x = .50", "1/2", 1, "agreed"),  # equal in value
        (["(1,2)", "( 1, 2 )"], "\\boxed{(1, 2)}", "2", 1, "other"),  # a rule reads numbers, no tuples
        (["\\boxed{(1,2)}", "\\boxed{( 1, 2 )}"], "\\boxed{(1,2)}", "(1,2)", 1, "agreed"),  # prl.answers does
        (["2", "2"], "3", "2", 1, "other"),
        (["2", "2", "3"], "2", "2", 1 / 3, "majority"),
        (["3", "2", "2"], "3", "2", 1 / 3, "minority"),
        (["2", "2", "3", "4"], "4", "2", 1 / 6, "minority"),  # most, though no half
        (["2", "2", "3"], "5", "2", 1 / 3, "other"),
        (["2", "3"], "2", None, 0, None),  # a tie: no side to take
        (["2", "3"], "4", None, 0, "other"),
        (["2", "2", "3", "3"], "3", None, 1 / 3, None),
        (["2", "hm"], "2", "2", None, "agreed"),  # who concludes nothing has no vote
        (["hm", "hm"], "2", None, None, None),
        (["2", "2"], "so be it", "2", 1, None),
    ],
)
def test_decisions_by_hand(
    paths: list[str], summary: str, majority: str | None, agreement: float | None, takes: str | None
) -> None:
    found = decision(paths, summary)
    assert (found.majority, found.takes) == (majority, takes)
    assert found.agreement == (None if agreement is None else pytest.approx(agreement))
    assert (found.right_paths, found.right, found.right_minority) == ((), None, None), "no gold answer"


@pytest.mark.parametrize(
    ("paths", "summary", "right_paths", "right", "right_minority"),
    [
        (["7", "7"], "7", (True, True), True, None),
        (["7", "8"], "7.0", (True, False), True, None),  # of two, none is a minority
        (["8", "8", "14/2"], "so 7", (False, False, True), True, True),
        (["8", "8", "7"], "8", (False, False, True), False, False),
        (["7", "7", "8"], "8", (True, True, False), False, None),  # the minority is wrong
        (["8", "9"], "7", (False, False), True, None),  # right by itself
        (["hm", "x = 7"], "hm", (False, True), False, None),
    ],
)
def test_decisions_held_against_the_right_answer(
    paths: list[str],
    summary: str,
    right_paths: tuple[bool, ...],
    right: bool,
    right_minority: bool | None,
) -> None:
    found = decision(paths, summary, gold="7")
    assert (found.right_paths, found.right, found.right_minority) == (right_paths, right, right_minority)


def test_an_opening_is_no_conclusion() -> None:
    numbered = render(["\n1\n7*6=42", "\n2\nhm", "\n3\n"], "42")
    (known,), (unknown,) = parse(numbered, opening="number").blocks, parse(numbered).blocks
    assert decide(known, "42").paths == ("42", None, None)
    assert decide(unknown, "42").paths == ("42", "2", "3"), "nobody said that these are numbers of paths"
    planned = "from 1\nfrom 2\n" + render(["\nfrom 1\n1+1=2", "\nfrom 2\n hm"], "2")
    assert decide(parse(planned, opening="plan").blocks[0]).paths == ("2", None)


def test_a_gold_may_be_a_number() -> None:
    said = "<Parallel><Path>6*7=42</Path><Path>6*7=41</Path></Parallel><Summary>42</Summary>"
    (block,) = parse(said).blocks
    assert decide(block, 42) == decide(block, "42")
    assert decide(block, 42).right_paths == (True, False)


def test_a_malformed_block_is_decided_as_far_as_it_goes() -> None:
    (cut_off,) = parse("<Parallel><Path>1</Path><Path>2 and").blocks
    assert decide(cut_off, "1") == Decision(("1", "2"), None, None, 0, None, (True, False), False, 0.5)
    (empty,) = parse("<Parallel></Parallel>").blocks
    assert decide(empty, "1") == Decision((), None, None, None, None, (), False, 0)


def test_a_hundred_thousand_paths_are_decided_in_linear_time() -> None:
    paths = "".join(f"<Path>{i}</Path>" for i in range(33_000))
    (hostile,) = parse(f"<Parallel>{paths}</Parallel><Summary>5</Summary>").blocks
    started = monotonic()
    found = decide(hostile, "5")
    assert monotonic() - started < 30
    assert (found.majority, found.agreement, found.right) == (None, 0, True)
    assert sum(found.right_paths) == 1, "the summary's conclusion is judged whatever comes before it"


FRAGMENTS = st.lists(
    st.sampled_from([*TAGS, *"0123456789 .,$\n-/=<(", "\\frac{1}{0}", "\\sqrt{2", "Final Answer: ", "x^"])
)


@given(FRAGMENTS.map("".join), st.text())
def test_any_text_is_decided(text: str, gold: str) -> None:
    for found in parse(text).blocks:
        made = decide(found, gold)
        assert len(made.paths) == len(made.right_paths) == len(found.paths)
        assert made.agreement is None or 0 <= made.agreement <= 1
        assert made.majority in (*made.paths, None)
        if made.takes == "agreed":
            assert made.agreement in (1, None)
        if made.takes in ("majority", "minority"):
            assert made.disagree
    assert conclusion(text) is None or conclusion(text)


@given(st.lists(st.sampled_from(["1", "2", "3", "hm"]), min_size=2, max_size=5), st.randoms())
def test_the_order_of_paths_changes_no_decision(paths: list[str], random: Any) -> None:
    shuffled = random.sample(paths, len(paths))
    first, second = decision(paths, "so 2", "3"), decision(shuffled, "so 2", "3")
    for name in ("summary", "majority", "agreement", "takes", "right", "right_minority", "disagree"):
        assert getattr(first, name) == getattr(second, name)


def row(text: str, verdict: str | None = "identical", **columns: Any) -> dict[str, Any]:
    return {"text": text, "answer": "7", "verdict": verdict, "truncated": False, **columns}


def test_a_run_described_by_hand() -> None:
    agree = render(["3+4=7", "7"], "7") + "Final Answer: 7"
    split = render(["3+4=7", "3+4=8"], "7")
    outvoted = render(["8", "8", "7"], "7")
    malformed = "ab<Parallel><Path>7</Path>"
    found = describe(
        [
            row(agree, length=20, critical_path=16),
            row(split, "different", length=10, critical_path=10),
            row(outvoted),
            row(malformed, "no answer", truncated=True),
            row("Final Answer: 7", "equal"),
            row("Final Answer: 8", "unparseable gold"),
        ]
    )
    saved = [1 - critical_path(trace) / trace.length for trace in map(parse, (agree, split, outvoted))]
    assert found == {
        "responses": 6,
        "parallel_ratio": 0.5,
        "length": 15,
        "critical_path": 13,
        "saved": pytest.approx(sum(saved) / 6),
        "blocks_per_response": 4 / 6,
        "paths_per_block": (2 + 2 + 3 + 1) / 4,
        "block_position": 2 / len(malformed) / 4,
        "path_diversity": pytest.approx((2 / 3 + 1 / 5 + 1 / 2) / 3),
        "path_diversity_of": 3,
        "self_bleu": pytest.approx(0.466, abs=1e-3),  # self_bleu has hand-made cases of its own
        "self_bleu_of": 3,
        "accuracy": 3 / 5,
        "accuracy_of": 5,
        "accuracy_with_block": 2 / 3,
        "accuracy_with_block_of": 3,
        "accuracy_without_block": 1 / 2,
        "accuracy_without_block_of": 2,
        "repeating": 0,
        "repeating_of": 3,
        "agreement": pytest.approx((1 + 0 + 1 / 3) / 3),
        "agreement_of": 3,
        "disagreeing": 2 / 3,
        "disagreeing_of": 3,
        "takes_majority": 0,
        "takes_majority_of": 1,
        "takes_right_minority": 1,
        "takes_right_minority_of": 1,
        "right_of_any": 1,
        "right_of_any_of": 2,
        "path_oracle": 1,
        "path_oracle_of": 3,
        "path_majority": pytest.approx((1 + 1 / 2 + 0) / 3),
        "path_majority_of": 3,
        "summary_accuracy": 1,
        "summary_accuracy_of": 3,
        "path_accuracy": 4 / 7,
        "path_accuracy_of": 7,
    }


METHODS = "47*30=1410. 47*6=282. 1410+282={}.|36*40=1440. 7*36=252. 1440+252={}.|47*40=1880. 47*4=188. \
1880-188={}.|36*50=1800. 36*3=108. 1800-108={}."


@pytest.mark.parametrize(
    ("results", "summary", "oracle", "majority", "right", "alone"),
    [
        ((1692, 1692, 1692, 1692), "1692, 1692, 1692, 1692: 1692", 1, 1, 1, 1),
        ((1692, 1702, 1692, 1692), "1692, 1702, 1692, 1692: 1692", 1, 1, 1, 3 / 4),
        ((1692, 1702, 1692, 1692), "1692, 1702, 1692, 1692: 1702", 1, 1, 0, 3 / 4),
        ((1692, 1702, 1702, 1592), "1692, 1702, 1702, 1592: 1702", 1, 0, 0, 1 / 4),
        ((1692, 1702, 1692, 1702), "1692, 1702, 1692, 1702: 1692", 1, 1 / 2, 1, 1 / 2),
        ((1692, 1702, 1592, 1682), "1692, 1702, 1592, 1682: 1592", 1, 1 / 4, 0, 1 / 4),
        ((1702, 1702, 1592, 1682), "1702, 1702, 1592, 1682: 1702", 0, 0, 0, 0),
    ],
)
def test_votes_of_four_methods(
    results: tuple[int, ...], summary: str, oracle: float, majority: float, right: float, alone: float
) -> None:
    paths = [
        f"\n{number}\n{method.format(result)}"
        for number, (method, result) in enumerate(zip(METHODS.split("|"), results, strict=True), 1)
    ]
    text = render(paths, summary) + "\nFinal Answer: 1692"
    found = describe([row(text) | {"answer": "1692"}], "number")
    measures = ("path_oracle", "path_majority", "summary_accuracy", "path_accuracy")
    assert [found[name] for name in measures] == [oracle, majority, right, alone]
    assert found["accuracy_with_block"] == 1, "a wrong summary need not lose the answer"


@pytest.mark.parametrize(
    ("paths", "summary", "oracle", "majority", "right"),
    [
        (("5: 40-2=38. 38 38. Found: 5", "6: 40+2=42. 42 38."), "5", 1, 1, 1),  # the others have no vote
        (("5: 40-2=38. 38 38. Found: 5.", "6: 40+2=42. 42 38. no"), "Found: 5", 1, 1, 1),
        (("5: 40-2=38. 38 38. Found: 5", "6: 40+2=38. 38 38. Found: 6"), "6", 1, 1 / 2, 0),
        (("5: 40-2=42. 42 38. no", "6: 40+2=38. 38 38. Found: 6"), "6", 0, 0, 0),
        (("5: 40-2=42. 42 5. no", "6: 40+2=42. 42 5. None."), "5", 0, 0, 1),  # a guess of the summary
        (("5: 40-2=42. Found: ", "6: 40+2=42. 42 5. no"), "5", 0, 0, 1),  # found what? the 42 before it
    ],
)
def test_of_divided_work_those_vote_who_found(
    paths: tuple[str, ...], summary: str, oracle: float, majority: float, right: float
) -> None:
    found = describe([row(render(paths, summary)) | {"answer": "5"}])
    measures = ("path_oracle", "path_majority", "summary_accuracy")
    assert [found[name] for name in measures] == [oracle, majority, right]


def test_openings_are_nothing_that_paths_say() -> None:
    rows = [row(render(["\n1\n3+4=7", "\n2\nhm"], "7")), row(render(["\n1\n3+4=7", "\n2\n"], "7"))]
    known, unknown = describe(rows, "number"), describe(rows)
    assert (known["parallel_ratio"], unknown["parallel_ratio"]) == (0.5, 1), "a number alone is no path"
    assert (known["path_accuracy"], known["path_accuracy_of"], known["disagreeing_of"]) == (0.5, 2, 0)
    assert (unknown["path_accuracy"], unknown["path_accuracy_of"], unknown["disagreeing"]) == (0.5, 4, 1)
    assert known["path_diversity"] == 1, "3+4=7 and hm share no word"


def test_the_last_valid_block_of_a_response_is_the_one_that_counts() -> None:
    step, last, broken = (
        render(["3+4=7", "4+3=7"], "7"),
        render(["7+1=8", "7+1=9"], "8"),
        "<Parallel><Path>7",
    )
    found = describe([row(step + last + broken) | {"answer": "8"}, row("none") | {"answer": "8"}])
    assert (found["path_oracle"], found["path_majority"], found["path_oracle_of"]) == (1, 0.5, 1)
    assert (found["path_accuracy"], found["path_accuracy_of"]) == (0.5, 2)


def test_rows_of_an_evaluation_say_themselves_what_is_correct() -> None:
    assert describe([row("a", "different", correct=1.0), row("b", None, correct=0.0)])["accuracy"] == 0.5
    assert describe([row("a", None), {"text": None}])["accuracy"] is None


def test_a_gold_answer_that_nobody_can_read_makes_no_path_wrong() -> None:
    found = describe([row(render(["7", "8"], "8"), "unparseable gold")])
    assert (found["disagreeing"], found["right_of_any_of"], found["accuracy_of"]) == (1, 0, 0)


def test_blocks_whose_paths_repeat_each_other_are_counted() -> None:
    same, close = render(["3+4=7", "3+4=7", " 3+4=7"], "7"), render(["3+4=7", "3+4=7", "4+3=7"], "7")
    found = describe([row(same + close), row("<Parallel><Path>7</Path>"), row("7")])
    assert (found["repeating"], found["repeating_of"]) == (1 / 2, 2), "of one path nothing is repeated"
    numbered = row(render(["\n1\n3+4=7", "\n2\n3+4=7"], "7"))
    assert describe([numbered], "number")["repeating"] == 1, "the number is nothing that it says"
    assert describe([numbered])["repeating"] == 0


def test_no_responses_give_no_means() -> None:
    found = describe([])
    assert {name for name, value in found.items() if value is not None} == {
        "responses",
        *(name for name in found if name.endswith("_of")),
    }


@given(st.lists(FRAGMENTS.map("".join), max_size=5))
def test_any_rows_are_described(texts: list[str]) -> None:
    found = describe(row(text, "different") for text in texts)
    assert found["responses"] == len(texts)
    assert all(0 <= value <= 1 for name, value in found.items() if name in SHARES and value is not None)


SHARES = {name.removesuffix("_of") for name in describe([]) if name.endswith("_of")} | {
    "parallel_ratio",
    "saved",
    "block_position",
}


def test_words_are_what_can_be_seen() -> None:
    assert words("2\u200b4 x_1+é\n\\sqrt{2}") == ["24", "x_1", "+", "é", "\\", "sqrt", "{", "2", "}"]


@pytest.mark.real
def test_what_teacher_traces_conclude(real_data: Path) -> None:
    import pyarrow.parquet as pq

    rows = pq.read_table(real_data / "parallel_gsm8k_341.parquet").to_pylist()
    last = [(blocks[-1], row["answer"]) for row in rows if (blocks := parse(row["trace"]).blocks)]
    decisions = [decide(found, gold) for found, gold in last]
    paths = [right for made in decisions for right in made.right_paths]
    assert sum(paths) / len(paths) == pytest.approx(0.82, abs=0.005)
    assert sum(bool(made.right) for made in decisions) / len(decisions) == pytest.approx(0.85, abs=0.01)


def test_nothing_heavy_is_imported() -> None:
    program = (
        "import sys, prl.analysis; print(sorted({'torch', 'transformers', 'trl', 'numpy'} & {*sys.modules}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.strip() == "[]"
