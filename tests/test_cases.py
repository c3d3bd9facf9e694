"""Awkward data sets, one of each kind: read right, or refused with file and row or column.

The table is what `prl data check` and `prl sft`, which need a trace, and `prl rl` and `prl eval`, which need
an answer, make of each file.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from prl import cli
from prl.data.hub import load_rows
from prl.errors import DataError

TRACE = (
    "<Parallel><Path>Counting three on from four reaches five, six and then the result.</Path><Path>Two and "
    "two make four, and what is left over is one plus two.</Path></Parallel>"
    "<Summary>Both come to 7.</Summary>\n"
    "Final Answer: 7"
)
Q = "What is 3+4?"
ASKED, ANSWERED = {"role": "user", "content": Q}, {"role": "assistant", "content": TRACE}
X_IS_3 = {"role": "system", "content": "You are given: x = 3."}
EARLIER = [{"role": "user", "content": "Let x = 3. What is x + 1?"}, {"role": "assistant", "content": "4"}]
THEN = {"role": "user", "content": "And what do you get if you add 4 to x instead?"}
CALL = {
    "role": "assistant",
    "content": None,
    "tool_calls": [{"type": "function", "function": {"name": "add"}}],
}
PARTS = [{**turn, "content": [{"type": "text", "text": turn["content"]}]} for turn in (ASKED, ANSWERED)]
FRAMED = f"<|im_start|>user\n{Q}<|im_end|>\n<|im_start|>assistant\n"

NO_TRACE = " has no column for the trace; it has {}. Add one of the name 'trace'; read as trace: "
TOOL = ": bad rows: 1 of 1\n  line 1: messages has an answer that depends on a tool: turn 3\n"
OF_SEVERAL = ": bad rows: 1 of 1\n  line 1: answer is of type list, not text: it has 2 values; "


class Case(NamedTuple):
    """A file (rows, or one JSON object), then the problems (with what stands before them) and either the gold
    answers, for RL, or the error; the same with traces; and what is said of it."""

    content: Any
    problems: list[str]
    answers: list[str] | str
    traces: list[str] | str
    told: str = ""
    history: list[dict[str, Any]] = []  # noqa: RUF012  never changed


ANSWER = {"answer": "7"}
CASES = {
    "alpaca.jsonl": Case(
        [{"instruction": Q, "input": "", "output": TRACE}],
        [Q],
        " has no column for the answer; it has instruction, input, output. Add one of the name 'answer'; ",
        [TRACE],
    ),
    "answer_json_list.jsonl": Case(
        [{"problem": Q, "answer": '["7"]'}],
        [Q],
        ["7"],
        NO_TRACE,
        "1 answers are lists or dictionaries stored as text",
    ),
    "answer_list.jsonl": Case([{"problem": Q, "answer": ["3", "-3"]}], [], OF_SEVERAL, NO_TRACE),
    "answer_list_string.jsonl": Case(
        [{"problem": Q, "answer": "['7']"}],
        [Q],
        ["7"],
        NO_TRACE,
        "1 answers are lists or dictionaries stored as text",
    ),
    "columnar.json": Case(
        {"problem": ["a", "b"], "answer": ["1", "2"]},
        ["a", "b"],
        ["1", "2"],
        NO_TRACE,
        "its columns, a list each, as 2 rows",
    ),
    "coser.jsonl": Case(
        [
            {
                "conversations": [{"from": "user", "content": Q}, {"from": "assistant", "content": TRACE}],
                **ANSWER,
            }
        ],
        [Q],
        ["7"],
        [TRACE],
    ),
    "double_escaped.jsonl": Case(
        [{"problem": Q, "answer": r"\\frac{1}{2}"}],
        [Q],
        [r"\frac{1}{2}"],
        NO_TRACE,
        "1 answers hold LaTeX that is escaped twice",
    ),
    "mixed.jsonl": Case(
        [
            {"problem": "a", "answer": 1},
            {"problem": "b", "answer": "1/2"},
            {"problem": "c", "answer": 2.5},
            {"problem": "d", "answer": [7]},
        ],
        ["a", "b", "c", "d"],
        ["1", "1/2", "2.5", "7"],
        NO_TRACE,
    ),
    "multiturn.jsonl": Case(
        [{"messages": [*EARLIER, THEN, ANSWERED], **ANSWER}],
        [THEN["content"]],
        ["7"],
        [TRACE],
        history=EARLIER,
    ),
    "nested.json": Case(
        {"version": "1.0", "data": [{"problem": "a", "answer": "1"}]},
        ["a"],
        ["1"],
        NO_TRACE,
        "what is under 'data'",
    ),
    "numbers.jsonl": Case(
        [
            {"problem": "a", "answer": n}
            for n in (
                1e22,
                1e-07,
                0.30000000000000004,
                -0.0,
                12345678901234567890,
                1e16,
                1.2345678901234568e16,
                100000.0,
            )
        ],
        ["a"] * 8,
        [
            "10000000000000000000000",
            "0.0000001",
            "0.30000000000000004",
            "0",
            "12345678901234567890",
            "10000000000000000",
            "12345678901234568",
            "100000",
        ],
        NO_TRACE,
    ),
    "pandas_columns.json": Case(
        {"problem": {"0": "a", "1": "b"}, "answer": {"0": "1", "1": "2"}},
        ["a", "b"],
        ["1", "2"],
        NO_TRACE,
        "its columns, by index, as 2 rows",
    ),
    "parts.jsonl": Case([{"messages": PARTS, **ANSWER}], [Q], ["7"], [TRACE]),
    "prompt_string.jsonl": Case(
        [{"prompt": json.dumps([ASKED]), **ANSWER}],
        [Q],
        ["7"],
        NO_TRACE,
        "1 conversations are stored as text",
    ),
    "roles.jsonl": Case(
        [{"conversations": [{"role": "Human", "content": Q}, {"role": "model", "content": TRACE}], **ANSWER}],
        [Q],
        ["7"],
        [TRACE],
    ),
    "splits.json": Case(
        {"train": [{"problem": "a", "answer": "1"}], "test": [{"problem": "b", "answer": "2"}]},
        ["a"],
        ["1"],
        NO_TRACE,
        "what is under 'train', of train, test",
    ),
    "system.jsonl": Case(
        [{"messages": [X_IS_3, {"role": "user", "content": "What is x + 4?"}, ANSWERED], **ANSWER}],
        ["What is x + 4?"],
        ["7"],
        [TRACE],
        history=[X_IS_3],
    ),
    "templated.jsonl": Case(
        [{"problem": Q, "trace": f"{TRACE}<|im_end|>", **ANSWER}],
        [Q],
        ["7"],
        [TRACE],
        "1 traces have <|im_end|> at their ends",
    ),
    "templated_prompt.jsonl": Case(
        [{"problem": FRAMED, "trace": TRACE, **ANSWER}],
        [Q],
        ["7"],
        [TRACE],
        "1 texts are framed by turn markers",
    ),
    "think.jsonl": Case(
        [{"problem": Q, "trace": f"<think>\nhm\n</think>\n\n{TRACE}", **ANSWER}],
        [Q],
        ["7"],
        [TRACE],
        "1 traces come after thoughts",
    ),
    "tool.jsonl": Case(
        [{"messages": [ASKED, CALL, {"role": "tool", "content": "7"}, ANSWERED], **ANSWER}], [], TOOL, TOOL
    ),
    "user_last.jsonl": Case(
        [{"messages": [ASKED, ANSWERED, {"role": "user", "content": "Thanks! And 5 + 5?"}], **ANSWER}],
        [Q],
        ["7"],
        [TRACE],
        "1 conversations go on after their last answer (user)",
    ),
    "verl_string.jsonl": Case(
        [{"prompt": [ASKED], "reward_model": '{"ground_truth": "7", "style": "rule"}'}],
        [Q],
        ["7"],
        NO_TRACE,
        "1 answers are lists or dictionaries stored as text",
    ),
    "zerowidth.jsonl": Case(
        [{"problem": Q, "answer": answer} for answer in ("7\u200b", "\ufeff7", "７", "7 ", "$7$")],
        [Q] * 5,
        ["7", "7", "7", "7", "$7$"],
        NO_TRACE,
    ),
    "text.jsonl": Case(
        [{"problem": Q, "text": TRACE}],
        [Q],
        ["7"],
        [TRACE],
        "1 answers are those that the column 'text' itself commits to",
    ),
    "semicolons.csv": Case(
        f'problem;answer\n"{Q}";7\n',
        [Q],
        ["7"],
        " has no column for the trace; it has problem, answer. Add one",
        "its fields are separated by ';'",
    ),
}


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, Case]:
    name: str = request.param
    content, path = CASES[name].content, tmp_path / name
    if isinstance(content, list):
        content = "".join(json.dumps(row) + "\n" for row in content)
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return str(path), CASES[name]


@pytest.mark.parametrize("field", ["answer", "trace"])
def test_each_kind_of_file_is_right_or_refused(
    case: tuple[str, Case], field: str, caplog: pytest.LogCaptureFixture
) -> None:
    path, expected = case
    values = expected.answers if field == "answer" else expected.traces
    if isinstance(values, str):
        with pytest.raises(DataError) as error:
            load_rows(path, need=("problem", field))
        assert str(error.value).startswith(path + values.partition("{}")[0])
        assert "\n" not in str(error.value) or "bad rows" in str(error.value)
        return
    rows = load_rows(path, need=("problem", field))
    assert [(row["problem"], row[field]) for row in rows] == list(zip(expected.problems, values, strict=True))
    assert [row.get("history", []) for row in rows] == [expected.history] * len(rows)
    if field == ("trace" if "traces" in expected.told else "answer"):
        assert expected.told in caplog.text
    assert caplog.text.count("\n") <= 1, "one line"


def test_data_check_says_the_same(case: tuple[str, Case], capsys: pytest.CaptureFixture[str]) -> None:
    path, expected = case
    status = cli.main(["data", "check", path])
    out, err = capsys.readouterr()
    fault = expected.traces if isinstance(expected.traces, str) else expected.answers
    if isinstance(fault, str):
        assert status == 1
        assert path + fault.partition("{}")[0].partition("\n")[0] in err
    else:
        assert (status, out.splitlines()[0]) == (0, f"{path}: 1 traces, 1 pass (100.0%), 0 are rejected")
        assert expected.told in out + err
