"""Choosing responses: by row, step, group, words, verdict, faults, and by paths at odds with the answer."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prl.grammar import TAGS, render
from prl.report.choosing import Choice, choose, in_order, none_matches, numbered
from prl.report.responses import head_of, response_html, response_text

BOTH = render(["2+3=5", "3+2=5"], "5") + "\nFinal Answer: 5"
SPLIT = render(["2+3=5", "3+2=6"], "5") + "\nFinal Answer: 5"
LOST = render(["2+3=5", "3+2=6"], "6") + "\nFinal Answer: 6"
BROKEN = "<Parallel><Path>5</Path>\nFinal Answer: 5"


def sample(step: int, problem: str, text: str, **more: Any) -> dict[str, Any]:
    right = text.endswith("5")
    judged = {"verdict": "identical" if right else "different", "correct": float(right)}
    extracted = text[-1:]
    return {
        "step": step,
        "problem": problem,
        "answer": "5",
        "text": text,
        "extracted": extracted,
        **judged,
        **more,
    }


ROWS = [
    sample(1, "2 + 3?", BOTH, group=0.0, faults=[], advantage=0.5, reward_accuracy=1.0, length=9),
    sample(1, "2 + 3?", LOST, group=0.0, faults=[], advantage=-0.5, reward_accuracy=-1.0, length=9),
    sample(1, "3 + 2?", SPLIT, group=1.0, faults=[], advantage=None, reward_accuracy=1.0, length=9),
    sample(2, "2 + 3?", BROKEN, group=0.0, faults=["unclosed_block"], truncated=True),
    sample(2, "3 + 2?", "Final Answer: 6", group=1.0, faults=[]),
]


def chosen(samples: list[dict[str, Any]] = ROWS, /, **choice: Any) -> list[int]:
    return [row["row"] for row in choose(numbered(samples), Choice(**choice))]


@pytest.mark.parametrize(
    ("choice", "rows"),
    [
        ({}, [4, 5, 1, 2, 3]),  # the latest step first, each as it was sampled
        ({"rows": [3, 1]}, [3, 1]),
        ({"rows": [3, 1, 5], "right": True}, [3, 1]),
        ({"step": "first"}, [1, 2, 3]),
        ({"step": "last"}, [4, 5]),
        ({"step": "2"}, [4, 5]),
        ({"step": 2}, [4, 5]),
        ({"step": 3}, []),
        ({"group": 1}, [5, 3]),
        ({"problem": "3 + 2"}, [5, 3]),
        ({"right": True}, [4, 1, 3]),
        ({"right": False}, [5, 2]),
        ({"valid": True}, [5, 1, 2, 3]),
        ({"valid": False}, [4]),
        ({"disagree": True}, [2, 3]),
        ({"disagree": True, "right": False}, [2]),
    ],
)
def test_a_choice_keeps_what_it_says_in_order(choice: dict[str, Any], rows: list[int]) -> None:
    assert chosen(**choice) == rows


def test_a_row_that_lacks_columns_is_judged_and_read_where_that_is_asked() -> None:
    bare = [{"text": row["text"], "problem": row["problem"], "answer": "5"} for row in ROWS]
    assert chosen(bare) == [1, 2, 3, 4, 5]
    assert chosen(bare, right=False) == [2, 5]
    assert chosen(bare, valid=False) == [4]
    assert chosen(bare, disagree=True) == [2, 3]
    assert chosen(bare, step="last") == []
    nothing_known = [{"text": row["text"]} for row in ROWS]
    assert chosen(nothing_known, right=True) + chosen(nothing_known, right=False) == []
    assert chosen([{}], valid=True) == [1]


def test_what_no_gold_answer_says_is_neither_right_nor_wrong() -> None:
    rows = [ROWS[0] | {"verdict": "unparseable gold", "correct": None}]
    assert chosen(rows, right=True) + chosen(rows, right=False) + chosen(rows, disagree=True) == []


def test_groups_and_samples_are_counted_where_no_column_says() -> None:
    rows = [{"mode": mode, "problem": p, "step": 0} for mode in ("greedy", "sampled") for p in "aabcc"]
    rows.append({"mode": "sampled", "problem": "a", "step": 0})  # asked again, later
    found = [(row["group"], row["sample"], row["samples"]) for row in numbered(rows)]
    each = [(0, 1, 2), (0, 2, 2), (1, 1, 1), (2, 1, 2), (2, 2, 2)]
    assert found == [*each, *each, (3, 1, 1)]


def test_several_runs_come_one_after_the_other() -> None:
    rows = [*numbered(ROWS[:1], "late"), *numbered([ROWS[0], ROWS[3]], "early")]
    assert [(row["run"], row["row"]) for row in in_order(rows)] == [("late", 1), ("early", 2), ("early", 1)]
    last = choose(rows, Choice(step="last"))
    assert [(row["run"], row["step"]) for row in last] == [("late", 1), ("early", 2)]


def test_what_there_is_is_said_where_nothing_matches() -> None:
    told = none_matches("a run", numbered(ROWS))
    assert told == (
        "nothing of a run matches: it has 5 responses, steps 1 to 2, groups 0 to 1, 3 right, 2 wrong, "
        "4 valid, 1 faulty"
    )
    assert none_matches("x", [{"text": BOTH, "group": None}]).endswith("1 responses, 1 valid, 0 faulty")


def test_the_head_says_where_a_response_is_from_and_what_it_is_worth() -> None:
    rows = numbered(ROWS, "rl")
    assert head_of(rows[1], odds=True) == (
        "── rl · row 2 · step 1 · group 0 · sample 2 of 2 · wrong: 6, gold 5 (both were read; they are not "
        "the same answer) · valid · reward accuracy -1 · advantage -0.500 · 9 tokens · path 1 has 5"
    )
    assert "right: 5 · valid · reward accuracy 1 · left out of the update · 9" in head_of(rows[2])
    assert "faulty: unclosed_block" in head_of(rows[3])
    assert head_of({"row": 7, "text": "x"}) == "── row 7 · valid"
    assert "not judged: gold 5" in head_of({"row": 7, "text": "x", "answer": "5"})
    unreadable = {"row": 1, "text": "x", "answer": "?", "verdict": "unparseable gold"}
    assert "not judged: gold ? (the gold answer cannot be read" in head_of(unreadable)
    assert "wrong: no answer, gold 5 · " in head_of(
        ROWS[0] | {"row": 1, "extracted": None, "verdict": "no answer", "correct": 0.0}
    )


HOSTILE = "\x1b[2J\u202e\r\x9b\n<script>"


def test_no_cell_steers_a_terminal_or_becomes_markup() -> None:
    texts = ("problem", "answer", "text", "extracted", "verdict", "stage", "phase", "mode", "run")
    row = {"row": 1, "group": 0, "faults": [HOSTILE]} | dict.fromkeys(texts, HOSTILE)
    row |= {f"reward_{HOSTILE}": 1.0, "correct": 0.0, "context_paths": [0, 99]}
    for judged in (row, {**row, "correct": None}, {**row, "answer": "5", "correct": 1.0}):
        lines = "\n".join(response_text(judged, 80)).split("\n")
        assert all(map(str.isprintable, lines))
        assert not {*"".join(lines)} & {*"\u202e\x1b\r\x9b"}
        assert "<script>" not in response_html(judged)


cells = st.fixed_dictionaries(
    {},
    optional={
        "step": st.integers(0, 3),
        "problem": st.sampled_from("ab"),
        "answer": st.sampled_from("56"),
        "text": st.lists(st.sampled_from([*TAGS, "2+3=5", "6", "\nFinal Answer: 5"]), max_size=8).map(
            "".join
        ),
        "truncated": st.booleans(),
        "mode": st.sampled_from(["greedy", "sampled"]),
        "group": st.sampled_from([0.0, 1.0, float("nan")]),
    },
)
choices = st.builds(
    Choice,
    rows=st.lists(st.integers(-1, 6), max_size=3),
    step=st.sampled_from([None, "first", "last", "1"]),
    group=st.sampled_from([None, 0]),
    problem=st.sampled_from([None, "A"]),
    right=st.sampled_from([None, True, False]),
    valid=st.sampled_from([None, True, False]),
    disagree=st.booleans(),
)


@given(st.lists(cells, max_size=5), choices)
def test_any_rows_can_be_chosen_from_and_drawn(rows: list[dict[str, Any]], choice: Choice) -> None:
    found = choose(numbered(rows), choice)
    numbers = [row["row"] for row in found]
    assert len({*numbers}) == len(numbers)
    assert {*numbers} <= {*range(1, len(rows) + 1)}
    assert numbers == [row["row"] for row in choose(numbered(rows), choice)]
    for row in found:
        assert "\n" not in head_of(row, odds=True)
        assert list(response_text(row, 60))


def test_choosing_needs_no_torch() -> None:
    code = "import sys, prl.report.choosing; assert not {'torch', 'rich', 'pyarrow'} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", code], check=True)
