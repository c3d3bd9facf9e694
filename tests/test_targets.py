"""Which paths of a trace are context: what the verifier says where nothing is recorded, and what a rule makes
of it."""

from __future__ import annotations

import pytest

from prl.data import problems, targets
from prl.grammar import render


def trace(*blocks: tuple[list[str], str], end: str = "Final Answer: 5") -> str:
    return "\n".join([*(render(*block) for block in blocks), end])


RIGHT, WRONG = "2+3=5", "2+3=6"


@pytest.mark.parametrize(
    ("text", "expected", "why"),
    [
        (trace(([RIGHT, WRONG, RIGHT], "Two say 5.")), [1], "against its summary"),
        (trace(([RIGHT, RIGHT], "5"), ([WRONG, RIGHT], "So 5.")), [2], "places count over all blocks"),
        (trace(([RIGHT, "so it goes"], "5")), [], "no conclusion can be read"),
        (trace(([RIGHT, "It is 10/2"], "5")), [], "equal, written differently"),
        (trace((["a=2", "b=3"], "2+3=5")), [], "divided work: no path concludes the answer"),
        (trace((["a=2", "b=3"], "a=2"), ([RIGHT, WRONG], "5")), [3], "a step on the way is not judged"),
        (trace(([RIGHT, WRONG], "6")), [], "its summary does not conclude the answer"),
        ("2+3=5\nFinal Answer: 5", [], "no block"),
        ("<Parallel><Path>2+3=5</Path><Path>2+3=6", [], "no summary"),
        ("", [], "nothing"),
    ],
)
def test_paths_against_their_summary_are_wrong(text: str, expected: list[int], why: str) -> None:
    assert targets.wrong_paths(text, "5") == expected, why


def test_without_an_answer_the_trace_s_own_counts() -> None:
    block = ([RIGHT, WRONG], "5")
    assert targets.wrong_paths(trace(block)) == [1]
    assert targets.wrong_paths(trace(block, end="")) == []
    assert targets.wrong_paths(trace(block), "7") == [], "nothing is right"


def test_the_number_of_a_path_is_no_wrong_result() -> None:
    numbered = trace(([f"\n1\n{RIGHT}", "\n2\nhm", f"\n3\n{WRONG}"], "5"))
    assert targets.wrong_paths(numbered, "5", "number") == [2]
    row = {"problem": "2 + 3?", "answer": "5", "trace": numbered}
    assert targets.apply(row, "judged", "number")["context_paths"] == [2]
    assert targets.apply(row, "judged")["context_paths"] == [1, 2]


def test_the_verifier_finds_the_slips_of_the_generator() -> None:
    rows = problems.generate("coldstart", 60) + problems.generate("mixed", 60)
    for row in rows:
        bare = {key: value for key, value in row.items() if key != "context_paths"}
        assert targets.apply(bare, "judged") == row
        assert targets.apply(row, "recorded") == targets.apply(row, "judged") == row
        assert targets.apply(bare, "recorded") == targets.apply(row, "learned") == bare
    assert any(row["context_paths"] for row in rows)


def test_what_is_recorded_is_not_judged_again() -> None:
    row = {"problem": "2 + 3?", "answer": "5", "trace": trace(([RIGHT, WRONG], "5")), "context_paths": []}
    assert targets.apply(row, "judged") == row
