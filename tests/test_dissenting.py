"""Paths at odds with the answer: right ones of a wrong answer, wrong ones of a right answer."""

from __future__ import annotations

from prl.analysis import Dissent, correct_of, dissent
from prl.grammar import parse, render

BOTH = render(["2+3=5", "3+2=5"], "5") + "\nFinal Answer: 5"
SPLIT = render(["2+3=5", "3+2=6"], "5") + "\nFinal Answer: 5"
LOST = render(["2+3=5", "3+2=6"], "6") + "\nFinal Answer: 6"


def test_paths_at_odds_with_the_answer_are_named() -> None:
    assert dissent(parse(SPLIT), "5", correct=True) == (Dissent(1, 2, "6", right=False),)
    assert dissent(parse(LOST), "5", correct=False) == (Dissent(1, 1, "5", right=True),)
    assert dissent(parse(BOTH), "5", correct=True) == ()
    assert dissent(parse("Final Answer: 5"), "6", correct=False) == ()


def test_a_block_that_settles_a_step_or_divides_the_work_has_no_dissent() -> None:
    on_the_way = render(["1+1=2", "2*1=3"], "2") + SPLIT
    assert dissent(parse(on_the_way), "5", correct=True) == (Dissent(2, 2, "6", right=False),)
    divided = render(["2+3=5", "4+4=8"], "5+8=13") + "\nFinal Answer: 13"
    assert dissent(parse(divided), "13", correct=True) == ()


def test_what_is_known_of_an_answer() -> None:
    assert correct_of({"correct": 1.0, "verdict": "different"}) is True
    assert correct_of({"verdict": "equal"}) is True
    assert correct_of({"correct": None, "verdict": "no answer"}) is False
    assert correct_of({"correct": 0.0, "verdict": "unparseable gold"}) is None
    assert correct_of({}) is None
