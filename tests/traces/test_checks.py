"""What is wrong with a trace: each reason by an example, none by a good trace, and any text at all."""

from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from prl.analysis import diversity
from prl.grammar import TAGS, is_blank, parse, render
from prl.traces import Reason, Rules, check, repair
from prl.traces.checks import unfenced

PROBLEM = "Tom has 3 boxes of 14 pens and loses 2 pens. How many are left?"
FIRST = "There are 3 * 14 = 42 pens, and 42 - 2 = 40 stay."
SECOND = "Take the lost ones from a box: 12 in it, and 28 in the rest, so 40."


def trace(
    first: str = FIRST, second: str = SECOND, *, before: str = "", end: str = "Final Answer: 40"
) -> str:
    return f"{before}{render([first, second], 'Both say 40 pens.')}\n{end}"


def reasons(text: str, rules: Rules | None = None, answer: str | None = "40") -> list[Reason]:
    found = check(text, problem=PROBLEM, answer=answer, rules=rules or Rules())
    return [rejection.reason for rejection in found]


def test_a_good_trace_passes() -> None:
    assert reasons(trace()) == []
    assert reasons(trace(before="Count first, then take away.\n\n")) == []


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (trace().replace("</Path></Parallel>", "</Parallel>"), Reason.GRAMMAR),
        (trace(end="Final Answer: 40<|im_end|>"), Reason.MARKER),
        ("<think>Is it 41?</think>\n" + trace(), Reason.THOUGHTS),
        (trace() + "</thought>", Reason.THOUGHTS),
        (trace(f"[THINK]Or 41?[/THINK]{FIRST}"), Reason.THOUGHTS),
        (trace(before="<thinking>Is it 41?\n"), Reason.THOUGHTS),
        ("3 * 14 - 2 = 40\nFinal Answer: 40", Reason.NO_BLOCK),
        (trace(end="That is it."), Reason.NO_ANSWER),
        (trace(end="Final Answer: 41"), Reason.WRONG_ANSWER),
        (trace(FIRST, FIRST + " Yes."), Reason.COPIED_PATHS),
        (trace(second="As in path 1, we get 42 pens and so 40."), Reason.CROSS_REFERENCE),
        (trace(second="Unlike the first approach, subtract 2 from 42."), Reason.CROSS_REFERENCE),
        (trace(second="This confirms the other path: 40."), Reason.CROSS_REFERENCE),
        (trace(second="Second path: take 2 from 42, which is 40."), Reason.ORDERING),
        (trace(second="Alternatively, 14 * 3 - 2."), Reason.ORDERING),
        (trace("1. Multiply: 42, then 40."), Reason.ORDERING),
        (trace("Path A: 42 and then 40."), Reason.ORDERING),
        (trace("The answer is 40. To see it, 3 * 14 = 42, and 42 - 2 = 40."), Reason.LEAKED_ANSWER),
        (trace(before="As an AI language model, I count pens.\n"), Reason.REFUSAL),
        (trace(before="I'm sorry, but I will try.\n"), Reason.REFUSAL),
        (trace(before="Certainly! Here we go.\n"), Reason.REFUSAL),
        (trace(before="Problem: Tom has 4 boxes of 14 pens.\n\n"), Reason.ALTERED_PROBLEM),
    ],
)
def test_each_reason_by_an_example(text: str, reason: Reason) -> None:
    assert reason in reasons(text)
    assert reasons(text, Rules(ignored=frozenset(Reason))) == []


@pytest.mark.parametrize(
    "text",
    [
        trace("First, multiply 3 by 14 to get 42, then take 2 away: 40."),
        trace("Calculate the pens in all boxes, then take away 2: 42 - 2 = 40."),
        trace("We need 42 - 2, which is 40."),
        trace("40 + 2 is what Tom had before the loss, 3 * 14, so it fits."),  # computed with, not stated
        trace("In the first box are 14 pens, in all of them 42, so 40 are left."),
        trace(before="Problem: " + PROBLEM.upper() + "\n\n"),
        trace("Sure things first: 42 pens, 2 of them lost, so 40."),
    ],
)
def test_what_only_looks_like_it_passes(text: str) -> None:
    assert reasons(text) == []


def test_an_answer_that_the_problem_gives_is_no_leak() -> None:
    text = trace("The 14 pens of a box are what counts: 14.", end="Final Answer: 14")
    assert Reason.LEAKED_ANSWER not in reasons(text, answer="14")


def test_all_reasons_come_at_once_in_order_with_the_words() -> None:
    text = trace("Path 1: 42.", "As in path 1: 42.", end="Final Answer: 42")
    found = check(text, problem=PROBLEM, answer="40")
    assert [(each.reason.value, each.detail) for each in found] == [
        ("wrong_answer", "42, not 40"),
        ("cross_reference", "path 2: in path 1"),
        ("ordering", "path 1: Path 1"),
    ]
    assert found[0].message == "wrong_answer: 42, not 40"


def test_lengths_are_in_characters_or_as_counted() -> None:
    text = trace()
    assert reasons(text, Rules(max_length=len(text))) == []
    assert reasons(text, Rules(max_length=len(text) - 1)) == [Reason.TOO_LONG]
    found = check(text, problem=PROBLEM, rules=Rules(max_length=3), count=lambda text: len(text.split()))
    assert [each.detail for each in found] == [f"{len(text.split())} tokens, more than 3"]


@pytest.mark.parametrize(("path", "compared", "told"), [("a b c", 1, 1), ("a{0} b{0} c{0}", 4096, 0)])
def test_a_thousand_paths_are_compared_within_bounds(
    monkeypatch: pytest.MonkeyPatch, path: str, compared: int, told: int
) -> None:
    asked = 0

    def counted(paths: list[list[str]]) -> float | None:
        nonlocal asked
        asked += 1
        return diversity(paths)

    monkeypatch.setattr("prl.traces.checks.diversity", counted)
    text = render([path.format(number) for number in range(1000)], "Both say 40 pens.")
    found = [each.detail for each in check(text, problem=PROBLEM) if each.reason == Reason.COPIED_PATHS]
    assert (asked, len(found)) == (compared, told)


def test_copies_are_found_wherever_they_stand_and_told_once_a_block() -> None:
    paths = [f"way{number} of{number}" for number in range(90)]
    for one, other in ((0, 89), (3, 4), (20, 60)):
        copied = [*paths]
        copied[other] = copied[one]
        text = render([*copied], "40.") * 2
        found = [each.detail for each in check(text, problem=PROBLEM) if each.reason == Reason.COPIED_PATHS]
        assert [detail.partition(" of")[0] for detail in found] == [f"paths {one + 1} and {other + 1}"] * 2


def test_diversity_is_a_threshold() -> None:
    text = trace(FIRST, FIRST.replace("pens", "pencils"))
    assert reasons(text, Rules(min_diversity=0.3)) == [Reason.COPIED_PATHS]
    assert reasons(text, Rules(min_diversity=0.0)) == []


def test_sequential_traces_pass_where_they_may() -> None:
    assert reasons("It is 40.\nFinal Answer: 40", Rules(need_block=False)) == []


def test_a_gold_that_cannot_be_read_proves_nothing() -> None:
    assert reasons(trace(), answer=r"\frac{") == [Reason.UNREADABLE_GOLD]
    assert reasons(trace(end="It is so."), answer=None) == []


PIECES = st.lists(
    st.sampled_from([*TAGS, " ", "\n", "a", "42", "Path 1", "Final Answer: 42", "```\n", "```"])
    | st.text(max_size=4)
)


@pytest.mark.parametrize(
    "text", ["{}<|im_end|>", "{}</s>\n", "```\n{}\n```<|eot_id|>", "```\n{}<end_of_turn>\n```"]
)
def test_markers_at_the_ends_are_repaired(text: str) -> None:
    repaired, done = repair(text.format(trace()))
    assert repaired == trace()
    assert done[-1] == "turn markers at the ends of the trace"


@given(PIECES.map("".join))
@example("```\n<Parallel>```\n")
def test_repair_changes_no_word_and_is_done_once(text: str) -> None:
    repaired, done = repair(text)
    seen, kept = ("".join(c for c in each if not is_blank(c)) for each in (unfenced(text), repaired))
    assert seen == kept
    assert bool(done) == (repaired != text)
    assert repair(repaired) == (repaired, [])
    before, after = parse(unfenced(text)), parse(repaired)
    assert [fault.kind for fault in before.faults] == [fault.kind for fault in after.faults]


@pytest.mark.parametrize(
    ("fenced", "bare"),
    [
        ("```\nIt is 7.\n```", "It is 7."),
        ("\n```xml\n<Path>`x`\n\n```\n", "<Path>`x`\n"),
        ("```\none\n``` and ```\ntwo\n```", None),
        ("So: ```\none\n```", None),
        ("```\none", None),
    ],
)
def test_a_fence_around_a_whole_trace_goes(fenced: str, bare: str | None) -> None:
    assert unfenced(fenced) == (fenced if bare is None else bare)
    assert ("code fence around the trace" in repair(fenced)[1]) == (bare is not None)


@given(PIECES.map("".join), st.text(max_size=20), st.sampled_from(["42", "", "x+1", r"\frac{"]))
def test_any_text_is_judged(text: str, problem: str, answer: str) -> None:
    for rejection in check(text, problem=problem, answer=answer):
        assert rejection.detail
        assert len(rejection.message.splitlines()) == 1


def test_long_text_takes_linear_time() -> None:
    import time

    def seconds(size: int) -> float:
        text = trace(before="as in the first " * size)
        start = time.process_time()
        check(text, problem=PROBLEM, answer="40")
        return time.process_time() - start

    seconds(100)
    assert seconds(40_000) < 40 * max(seconds(4_000), 0.005)


def test_torch_stays_out() -> None:
    code = (
        "import sys, prl.traces, prl.traces.inspecting; assert not {'torch', 'transformers'} & {*sys.modules}"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
