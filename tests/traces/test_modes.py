"""Modes: what is asked in which round, and which candidates come of the answers."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from prl.errors import UsageError
from prl.grammar import TAGS, parse
from prl.prompts import user_message
from prl.traces.checks import Reason, Rejection, check
from prl.traces.modes import Mode, annotate, rewrite, write
from prl.traces.solutions import kept_words, path_of

PROBLEM = {"problem": "Ann has 3 bags of 4 pens and finds 2 more. How many pens?", "answer": "14"}
FIRST = "Three bags of 4 hold 3 * 4 = 12 pens.\nWith 2 more there are 12 + 2 = 14.\n\nFinal Answer: 14"
SECOND = "Begin with what was found, 2.\nAdd each bag: 2 + 4 + 4 + 4 = 14.\n\nFinal Answer: 14"
THIRD = "Count on in steps: 4, 8, then 12; two beyond reach fourteen, so \\boxed{14}."
WRONG = "It is 3 + 4 + 2 = 9.\n\nFinal Answer: 9"


def traces(mode: Mode, texts: list[str], problem: dict[str, Any] = PROBLEM) -> list[str]:
    return [trace for trace, _ in mode.traces(problem, texts)]


def ends(mode: Mode, texts: list[str], problem: dict[str, Any] = PROBLEM) -> list[int | None]:
    return [place for _, place in mode.traces(problem, texts)]


def rejections(mode: Mode, texts: list[str], problem: dict[str, Any] = PROBLEM) -> list[Rejection]:
    """All that speaks against the one candidate."""
    (trace,) = traces(mode, texts, problem)
    own = mode.check(problem, texts, trace) if mode.check else []
    return check(trace, problem=problem["problem"], answer=problem["answer"]) + own


def reasons(mode: Mode, texts: list[str], problem: dict[str, Any] = PROBLEM) -> set[Reason]:
    return {rejection.reason for rejection in rejections(mode, texts, problem)}


def test_write_asks_for_each_sample_and_takes_every_answer() -> None:
    mode = write(samples=2, max_tokens=7)
    request, other = mode.requests(PROBLEM, [])
    assert request == other
    assert request.max_tokens == 7
    assert request.messages[0]["content"] == user_message(PROBLEM["problem"], "parallel")
    assert mode.requests(PROBLEM, ["a", "b"]) == []
    assert traces(mode, ["a", "b"]) == ["a", "b"]
    assert ends(mode, ["a", "b"]) == [0, 1]
    (bare,) = write(style="bare").requests(PROBLEM, [])
    assert bare.messages[0]["content"] == PROBLEM["problem"]


def test_the_turns_before_a_problem_are_asked_with_it() -> None:
    history = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello!"}]
    problem = PROBLEM | {"history": history}
    assert [mode.paths_are_right for mode in (write(), annotate(), rewrite())] == [False, False, True]
    for mode in (write(), annotate(), rewrite()):
        request, *_ = mode.requests(problem, [])
        assert [*request.messages[:2]] == history
        assert request.messages[2:] == mode.requests(PROBLEM, [])[0].messages
    request, *_ = annotate(samples=2).requests(problem, [WRONG, SOLVED])
    assert (
        f"Problem: user: Hi\n\nassistant: Hello!\n\nuser: {PROBLEM['problem']}"
        in request.messages[0]["content"]
    )


SOLVED = "Bags: 3 * 4 = 12. Found: 2. Together 12 + 2 = 14.\n\nFinal Answer: 14"
MARKED = (
    "<Parallel><Path>Bags: 3 * 4 = 12.</Path> <Path>Found: 2.</Path></Parallel>\n"
    "<Summary>Together 12 + 2 = 14.</Summary>\n\nFinal Answer: 14"
)


def test_annotate_marks_the_first_right_solution() -> None:
    mode = annotate(samples=2)
    assert len(mode.requests(PROBLEM, [])) == 2
    solved = [WRONG, SOLVED]
    first, second = mode.requests(PROBLEM, solved)
    assert first == second
    assert first.messages[0]["content"].endswith(SOLVED)
    texts = [*solved, MARKED, f"```text\n{MARKED}\n```"]
    assert mode.requests(PROBLEM, texts) == []
    assert traces(mode, texts) == [MARKED, MARKED]
    assert (ends(mode, texts), ends(mode, [WRONG, WRONG])) == ([2, 3], [0])
    assert reasons(annotate(), [SOLVED, MARKED]) == set()


def test_annotate_takes_the_solution_of_the_row() -> None:
    problem = PROBLEM | {"trace": f"{SOLVED}<Path>"}
    mode = annotate()
    (request,) = mode.requests(problem, [])
    assert request.messages[0]["content"].endswith(SOLVED)
    assert mode.requests(problem, [MARKED]) == []
    assert reasons(mode, [MARKED], problem) == set()
    assert (ends(mode, [MARKED], problem), ends(mode, [], PROBLEM | {"trace": WRONG})) == ([0], [None])
    assert mode.requests(PROBLEM | {"trace": None}, []) == mode.requests(PROBLEM, [])


def test_annotate_keeps_a_changed_solution_with_the_change() -> None:
    changed = MARKED.replace("Found: 2.", "Found: two.")
    (rejection,) = rejections(annotate(), [SOLVED, changed])
    assert rejection == Rejection(Reason.ALTERED_WORDS, "word 8, '2.', became 'two.'")
    assert Reason.ALTERED_WORDS in reasons(annotate(), [SOLVED, f"Here you are:\n{MARKED}"])


def test_annotate_asks_nothing_about_a_wrong_solution() -> None:
    for problem, texts in ((PROBLEM, [WRONG]), (PROBLEM | {"trace": WRONG}, [])):
        assert annotate().requests(problem, texts) == []
        assert reasons(annotate(), texts, problem) == {Reason.NO_BLOCK, Reason.WRONG_ANSWER}
    assert annotate().requests(PROBLEM, [""]) == []
    assert traces(annotate(), [""]) == [""]


WORDS = st.lists(st.from_regex(r"\S{1,8}", fullmatch=True), min_size=1, max_size=30)
SPACE = st.sampled_from([" ", "\n", "\n\n", " \t"])


@given(WORDS, st.data())
def test_tags_and_whitespace_between_words_keep_them(original: list[str], data: st.DataObject) -> None:
    gaps = st.lists(st.sampled_from(TAGS), max_size=3).map("".join)
    annotated = "".join(f"{data.draw(gaps)}{data.draw(SPACE)}{word}{data.draw(gaps)}" for word in original)
    assert kept_words(" ".join(original), annotated) is None


@given(WORDS, st.data())
def test_any_other_change_is_found(original: list[str], data: st.DataObject) -> None:
    place = data.draw(st.integers(0, len(original) - 1))
    changed = list(original)
    match data.draw(st.sampled_from(["replace", "insert", "leave out", "swap", "split"])):
        case "replace":
            changed[place] = data.draw(WORDS)[0]
        case "insert":
            changed.insert(place, data.draw(WORDS)[0])
        case "leave out":
            del changed[place]
        case "swap":
            changed[place], changed[0] = changed[0], changed[place]
        case "split":
            at = data.draw(st.integers(0, len(changed[place])))
            changed[place : place + 1] = filter(None, [changed[place][:at], changed[place][at:]])
    assume(changed != original)
    annotated = data.draw(st.sampled_from(TAGS)).join([f"{word} " for word in changed])
    assert kept_words(" ".join(original), annotated) is not None


@pytest.mark.parametrize(
    ("annotated", "difference"),
    [
        ("a 1<Path>2", "word 2, '12', became '1'"),
        ("a", "word 2, '12', is missing"),
        ("a 12 b", "word 3, 'b', was added"),
        ("a 12 " + "b" * 99, f"word 3, '{'b' * 39}…', was added"),
    ],
)
def test_the_first_difference_is_named(annotated: str, difference: str) -> None:
    assert kept_words("a 12", annotated) == difference


@pytest.mark.parametrize(
    ("solution", "path"),
    [
        (FIRST, "Three bags of 4 hold 3 * 4 = 12 pens.\nWith 2 more there are 12 + 2 = 14."),
        (THIRD, "Count on in steps: 4, 8, then 12; two beyond reach fourteen, so 14."),
        ("6 + 1 = 7.\n\n#### 7", "6 + 1 = 7."),
        ("6 + 1 = 7. So the answer is 7.", "6 + 1 = 7."),
        ("6 + 1 = 7\n**Final Answer**\n\n\\[\n7\n\\]", "6 + 1 = 7"),
        ("So \\boxed{\\frac{1}{\\sqrt{2}}} it is", "So \\frac{1}{\\sqrt{2}} it is"),
        ("<Path>6 + 1</Path> = 7\nFinal Answer: 7", "6 + 1  = 7"),
        ("1. Take 6.\n  2) Add 1: 1.5 is too much.", "Take 6.\nAdd 1: 1.5 is too much."),
        ("Final Answer: 7", None),
        ("The answer is 7.", None),
        ("", None),
    ],
)
def test_a_path_does_not_announce_the_answer(solution: str, path: str | None) -> None:
    assert path_of(solution) == path


def test_rewrite_by_template_splices_right_solutions_that_differ() -> None:
    mode = rewrite(summary="template")
    requests = mode.requests(PROBLEM, [])
    assert len(requests) == 3
    assert requests[0].messages[0]["content"] == user_message(PROBLEM["problem"], "sequential")
    texts = [FIRST, WRONG, SECOND]
    assert mode.requests(PROBLEM, texts) == []
    assert reasons(mode, texts) == set()
    (trace,) = traces(mode, texts)
    (block,) = parse(trace).blocks
    assert [path.text.strip() for path in block.paths] == [path_of(FIRST), path_of(SECOND)]
    assert trace.endswith("\n\nFinal Answer: 14")
    assert traces(mode, texts) == [trace]
    assert ends(mode, texts) == [None]
    assert len({traces(rewrite(summary="template", seed=n), texts)[0] for n in range(20)}) == 3


def test_rewrite_makes_as_many_traces_as_its_solutions_allow() -> None:
    mode = rewrite(samples=2, solutions=2, summary="template")
    texts = [FIRST, SECOND, THIRD, FIRST.replace("pens", "of them, pens")]
    assert len(mode.requests(PROBLEM, [])) == 4
    one, two = traces(mode, texts)
    assert [len(parse(trace).blocks[0].paths) for trace in (one, two)] == [2, 2]
    assert len(traces(mode, [*texts[:3], WRONG])) == 1
    (three,) = traces(rewrite(solutions=4, summary="template"), texts)
    assert len(parse(three).blocks[0].paths) == 3, "a copy is no path"


def test_rewrite_asks_the_teacher_for_a_summary() -> None:
    mode = rewrite()
    texts = [FIRST, SECOND, FIRST]
    (request,) = mode.requests(PROBLEM, texts)
    assert "Final Answer" not in request.messages[0]["content"]
    assert str(path_of(SECOND)) in request.messages[0]["content"]
    said = [*texts, "Counting and multiplying <Path>give 14."]
    assert mode.requests(PROBLEM, said) == []
    assert reasons(mode, said) == set()
    assert ends(mode, said) == [3]
    assert "\nCounting and multiplying  give 14.\n</Summary>" in traces(mode, said)[0]
    (rejection,) = rejections(mode, [*texts, "So the answer is 15."])
    assert rejection == Rejection(Reason.WRONG_ANSWER, "its summary says 15")
    for silence in ("  ", ""):
        assert mode.requests(PROBLEM, [*texts, silence]) == []
        found = rejections(mode, [*texts, silence])
        assert found[-1] == Rejection(Reason.NO_BLOCK, "the teacher wrote no summary")


@pytest.mark.parametrize(
    ("texts", "right", "expected"),
    [
        ([WRONG, WRONG, FIRST], 1, {Reason.NO_BLOCK}),
        ([FIRST, FIRST, FIRST], 3, {Reason.NO_BLOCK}),
        ([WRONG, WRONG, WRONG], 0, {Reason.NO_BLOCK, Reason.WRONG_ANSWER}),
        (["Final Answer: 14", "So 14.\nFinal Answer: 14", WRONG], 2, {Reason.NO_BLOCK}),
    ],
)
def test_rewrite_keeps_a_solution_where_two_are_missing(
    texts: list[str], right: int, expected: set[Reason]
) -> None:
    assert rewrite().requests(PROBLEM, texts) == []
    assert ends(rewrite(), texts) == [texts.index(FIRST) if FIRST in texts else 0]
    found = rejections(rewrite(), texts)
    assert {rejection.reason for rejection in found} == expected
    assert found[-1].detail.startswith(f"{right} of 3 solutions right")


def test_rewrite_refuses_what_makes_no_block() -> None:
    with pytest.raises(UsageError, match="solutions: 1"):
        rewrite(solutions=1)
    with pytest.raises(UsageError, match="summary: 'both'"):
        rewrite(summary="both")  # type: ignore[arg-type]
