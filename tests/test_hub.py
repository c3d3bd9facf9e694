"""Loading rows: every kind of file, the layouts of the public sets, and the ways they can be wrong."""

from __future__ import annotations

import csv
import errno
import json
import logging
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from prl.data.columns import COLUMNS
from prl.data.hub import BENCHMARKS, HUB_SETS, PROCEDURAL_ROWS, load_rows, stream_rows
from prl.errors import DataError
from prl.grammar import render
from prl.turns import is_marked

ROWS = [
    {"problem": "1+1?", "answer": "2", "trace": "It is 2.\n\nFinal Answer: 2"},
    {"problem": "2, and\n3?", "answer": "5", "trace": 'Five, "5".'},
    {"problem": "Größe von π?", "answer": "\\frac{1}{2}", "trace": "½"},
]


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    """`rows` in the format that the suffix of `path` names."""
    match path.suffix.lower():
        case ".parquet":
            pq.write_table(pa.Table.from_pylist(rows), path)
        case ".json":
            path.write_text(json.dumps(rows), encoding="utf-8")
        case ".jsonl":
            path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        case _:
            with path.open("w", encoding="utf-8", newline="") as file:
                writer = csv.DictWriter(file, list(rows[0]), quoting=csv.QUOTE_ALL)
                writer.writeheader()
                writer.writerows(rows)
    return str(path)


def fault(path: Path, *content: str | bytes, **options: Any) -> str:
    """What load_rows says about a file of these lines."""
    path.write_bytes(b"\n".join(line.encode() if isinstance(line, str) else line for line in content))
    with pytest.raises(DataError) as error:
        load_rows(str(path), **options)
    return str(error.value)


# --- what loads ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".parquet", ".jsonl", ".json", ".csv", ".PARQUET", ".JsonL"])
def test_each_format_gives_the_same_rows(tmp_path: Path, suffix: str) -> None:
    rows = load_rows(write(tmp_path / f"set{suffix}", ROWS), need=("problem", "answer", "trace"))
    assert rows == [{**row, "level": None, "source": "set"} for row in ROWS]


def test_a_trace_is_carried_only_when_needed_and_an_answer_where_there_is_one(tmp_path: Path) -> None:
    path = write(tmp_path / "set.jsonl", ROWS[:1])
    assert "trace" not in load_rows(path)[0]
    assert load_rows(path, need=("problem", "trace"))[0]["answer"] == "2"
    no_answer = write(tmp_path / "bare.jsonl", [{"problem": "1+1?", "trace": "2"}])
    assert "answer" not in load_rows(no_answer, need=("problem", "trace"))[0]


TWO_PATHS = render(["1+1=3", "1+1=2"], "2")


@pytest.mark.parametrize("suffix", [".parquet", ".jsonl", ".json", ".csv"])
def test_context_paths_stand_beside_a_trace(tmp_path: Path, suffix: str) -> None:
    """None is another thing than an empty list: nobody looked."""
    places = [[0], [], None]
    rows = [{"problem": "1+1?", "answer": "2", "trace": TWO_PATHS, "Context_Paths": each} for each in places]
    path = write(tmp_path / f"set{suffix}", rows)
    read = load_rows(path, need=("problem", "trace"))
    assert [row.get("context_paths") for row in read] == places
    assert [*read[0]] == ["answer", "problem", "trace", "context_paths", "level", "source"]
    assert "context_paths" not in read[2]
    assert "context_paths" not in load_rows(path)[0], "of no use without the trace"


@pytest.mark.parametrize(
    ("cell", "said"),
    [
        ([2], "names path 2, and the trace has 2: count from 0 to 1"),
        ([-1], "names path -1, and the trace has 2: count from 0 to 1"),
        ([1, 0, 1], "names a path twice: [1, 0, 1]"),
        ([1.0], "is [Decimal('1.0')], not a list of whole numbers such as [0, 2]"),
        ([True], "is [True], not a list of whole numbers such as [0, 2]"),
        (1, "is 1, not a list of whole numbers such as [0, 2]"),
        ("the first", "is 'the first', not a list of whole numbers such as [0, 2]"),
        ("[" * 5000, f"is '{'[' * 38}…, not a list of whole numbers such as [0, 2]"),
        ([10**40], f"names path {10**40}, and the trace has 2: count from 0 to 1"),
    ],
)
def test_context_paths_that_cannot_be(tmp_path: Path, cell: Any, said: str) -> None:
    row = {"problem": "1+1?", "trace": TWO_PATHS, "context_paths": cell}
    need = ("problem", "trace")
    assert f"line 1: context_paths {said}" in fault(tmp_path / "set.jsonl", json.dumps(row), need=need)
    good = json.dumps({**row, "context_paths": []})
    path = tmp_path / "two.jsonl"
    path.write_text(json.dumps(row) + "\n" + good + "\n")
    assert len(load_rows(str(path), need=need, on_bad="skip")) == 1
    assert len(load_rows(str(path), need=("problem",))) == 2


def test_a_trace_without_paths_has_no_context_paths(tmp_path: Path) -> None:
    row = {"problem": "1+1?", "trace": "2", "context_paths": [0]}
    said = "context_paths names path 0, and the trace has 0: leave the list empty"
    assert said in fault(tmp_path / "set.jsonl", json.dumps(row), need=("problem", "trace"))


@pytest.mark.parametrize(
    ("cells", "answer"),
    [
        ({"answer": "Half of 48 is 24.\n48+24 = <<48+24=72>>72\n#### 72"}, "72"),  # GSM8K
        ({"answer": "#### 1,000 "}, "1,000"),
        ({"answer": 72}, "72"),
        ({"answer": 72.0}, "72"),  # pandas makes floats of integers beside a gap
        ({"answer": 0.5}, "0.5"),
        ({"answer": " \\frac{3}{4} "}, "\\frac{3}{4}"),
        ({"answer": "x" * 500}, "x" * 500),  # a long matrix is an answer too
        ({"answer": "None of these"}, "None of these"),
        ({"reward_model": {"ground_truth": "34", "style": "rule"}}, "34"),  # DAPO-Math
        ({"reward_model": {"ground_truth": ["34"]}}, "34"),
        ({"solution": "34"}, "34"),  # DAPO-Math-17k-Processed
        ({"solution": "So we get 3.\n#### 3"}, "3"),
        ({"answer": "long text, #### 9", "final_answer": "9"}, "9"),  # the most specific column wins
        ({"Answer": "7"}, "7"),
        ({" answer ": "7"}, "7"),
    ],
)
def test_gold_answers(tmp_path: Path, cells: dict[str, Any], answer: str) -> None:
    path = write(tmp_path / "set.jsonl", [{"problem": "?", **cells}])
    assert load_rows(path)[0]["answer"] == answer


def test_a_stream_keeps_the_traces_that_there_are(tmp_path: Path) -> None:
    rows = [{"problem": "1+1?", "answer": "2", "trace": trace} for trace in ("1+1=2", None, " ", 7)]
    rows.append({"problem": "1+1?", "answer": "2", "solution": "\\boxed{2}"})
    path = write(tmp_path / "set.jsonl", rows)
    kept = [row for _, row in stream_rows(path, keep_trace=True)]
    assert [row.get("trace") for row in kept if isinstance(row, dict)] == ["1+1=2", None, None, None, None]
    assert not any("trace" in row for _, row in stream_rows(path))


USER, ASSISTANT = {"role": "user", "content": "1+1?"}, {"role": "assistant", "content": "2"}


@pytest.mark.parametrize(
    "row",
    [
        {"messages": [{"role": "system", "content": "Add."}, USER, ASSISTANT]},
        {
            "messages": [
                {"role": "user", "content": "Hi"},
                {"role": "assistant", "content": "Hi"},
                USER,
                ASSISTANT,
            ]
        },
        {"prompt": [USER], "completion": [ASSISTANT]},
        {"conversations": [{"from": "human", "value": "1+1?"}, {"from": "gpt", "value": "2"}]},
    ],
)
@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_conversations_as_trl_and_sharegpt_have_them(
    tmp_path: Path, row: dict[str, Any], suffix: str
) -> None:
    (found,) = load_rows(write(tmp_path / f"set{suffix}", [row]), need=("problem", "trace"))
    assert (found["problem"], found["trace"]) == ("1+1?", "2")


def test_the_box_of_a_worked_solution_is_the_answer(tmp_path: Path) -> None:
    cells = {
        "As $x=2$, there are $\\boxed{2}$ asymptotes.": "2",
        "First \\boxed{1}, no: \\boxed{\\frac{1}{2}}.": "\\frac{1}{2}",
        "$\\boxed{44}\\pmod{83}$. We check: it holds, so our answer is correct.": "44",
        "The set is $\\boxed{\\{1, 2\\}}$.": "\\{1, 2\\}",
        "It follows that $x = \\boxed 9$.": "9",
        "We add.\n\nFinal Answer: 12": "12",
    }
    path = write(tmp_path / "set.jsonl", [{"problem": "?", "solution": solution} for solution in cells])
    assert [row["answer"] for row in load_rows(path)] == list(cells.values())
    path = write(tmp_path / "answer.jsonl", [{"problem": "?", "answer": "$\\boxed{5}$"}])
    assert load_rows(path)[0]["answer"] == "5"


def test_an_answer_that_is_cut_off_is_taken_from_the_solution(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    row = {"problem": "?", "answer": "\\frac{\\sqrt{3", "solution": "It is $\\boxed{\\frac{\\sqrt{3}}{3}}$."}
    path = write(tmp_path / "set.jsonl", [row, {**row, "answer": "\\{1, 2\\}"}])
    assert [row["answer"] for row in load_rows(path)] == ["\\frac{\\sqrt{3}}{3}", "\\{1, 2\\}"]
    assert "1 answers are cut off and were taken from the solutions instead" in caplog.text
    for solution in ("It is $\\boxed{\\frac{\\pi}{3}}$.", None, "\\boxed{\\frac{\\sqrt{3"):
        path = write(tmp_path / "set.jsonl", [{**row, "solution": solution}])
        with pytest.raises(DataError, match=r"line 1: the answer is cut off: '.*sqrt\{3'"):
            load_rows(path)
    assert load_rows(path, need=("problem",))


@pytest.mark.parametrize(
    ("level", "expected"),
    [
        ("Level 5", 5),
        ("level 2", 2),
        ("3", 3),
        (4, 4),
        (4.0, 4),
        ("Level ?", None),
        (None, None),
        (True, None),
        ("x", None),
    ],
)
def test_levels(tmp_path: Path, level: object, expected: int | None) -> None:
    path = write(tmp_path / "set.jsonl", [{"problem": "?", "answer": "1", "level": level}])
    assert load_rows(path)[0]["level"] == expected


@pytest.mark.parametrize(
    "problem",
    [
        'Solve the following math problem step by step. The last line of your response should be of the form Answer: $Answer (without quotes) where $Answer is the answer to the problem.\n\nFind $x$.\n\nRemember to put your answer on its own line after "Answer:".',  # noqa: E501
        'Solve the following math problem step by step. The last line of your response should be of the form Answer: \\boxed{$Answer} where $Answer is the answer to the problem.\n\nFind $x$.\n\nRemember to put your answer on its own line after "Answer:"',  # noqa: E501
        "Find $x$.",
        [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Find $x$."}],
        [
            {"role": "user", "content": "Hello"},
            {"role": "assistant", "content": "?"},
            {"role": "user", "content": "Find $x$."},
        ],
    ],
)
def test_a_prompt_is_stripped_to_its_problem(tmp_path: Path, problem: object) -> None:
    path = write(tmp_path / "set.parquet", [{"prompt": problem, "reward_model": {"ground_truth": "1"}}])
    assert load_rows(path)[0]["problem"] == "Find $x$."


def test_problem_wins_over_prompt_and_source_comes_from_the_row(tmp_path: Path) -> None:
    row = {"prompt": "Solve: 1+1?", "problem": "1+1?", "answer": "2", "source": "aime24"}
    loaded = load_rows(write(tmp_path / "set.jsonl", [row]))[0]
    assert (loaded["problem"], loaded["source"]) == ("1+1?", "aime24")


def test_byte_order_mark_windows_lines_and_blank_lines(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b"\xef\xbb\xbfproblem,answer\r\n1+1?,2\r\n\r\n2+2?,4\r\n")
    (tmp_path / "a.jsonl").write_bytes(
        b'\xef\xbb\xbf{"problem": "1+1?", "answer": 2}\r\n\r\n{"problem": "2+2?", "answer": 4}'
    )
    for name in ("a.csv", "a.jsonl"):
        assert [row["answer"] for row in load_rows(str(tmp_path / name))] == ["2", "4"]


def test_json_may_hold_lines_and_jsonl_an_array(tmp_path: Path) -> None:
    (tmp_path / "lines.json").write_text(
        '{"problem": "1+1?", "answer": 2}\n{"problem": "2+2?", "answer": 4}\n'
    )
    (tmp_path / "array.jsonl").write_text(
        '  [{"problem": "1+1?", "answer": 2},\n {"problem": "2+2?", "answer": 4}]'
    )
    for name in ("lines.json", "array.jsonl"):
        assert [row["answer"] for row in load_rows(str(tmp_path / name))] == ["2", "4"]


def test_limit_takes_the_first_rows_and_reads_no_further(tmp_path: Path) -> None:
    path = tmp_path / "set.jsonl"
    path.write_text('{"problem": "a", "answer": 1}\n{"problem": "b", "answer": 2}\nbroken\n')
    assert [row["problem"] for row in load_rows(str(path), limit=2)] == ["a", "b"]
    with pytest.raises(DataError, match="line 3"):
        load_rows(str(path), limit=3)


def test_a_problem_to_evaluate_on_is_there_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    earlier = [{"role": "user", "content": "b"}, {"role": "assistant", "content": "2"}]
    rows = [{"problem": problem, "answer": 1} for problem in "abaab"]
    path = write(tmp_path / "set.jsonl", [*rows, {"problem": "a", "answer": 1, "history": earlier}])
    assert len(load_rows(path)) == 6
    # The last comes after another turn.
    assert [row["problem"] for row in load_rows(path, unique=True)] == ["a", "b", "a"]
    assert f"{path}: 3 rows ask what one before did, and are left out" in caplog.messages
    assert [row["problem"] for row in load_rows(path, unique=True, limit=2)] == ["a", "b"]
    assert len(load_rows(path, unique=True, limit=3, seed=1)) == 3


def test_generated_problems_to_evaluate_on_differ_as_far_as_there_are_as_many() -> None:
    name = "search:products-heldout"
    found = [row["problem"] for row in load_rows(name, limit=300, unique=True)]
    assert len(found) == len({*found}) == 300
    first = [row["problem"] for row in load_rows(name, limit=300)]
    assert [*dict.fromkeys(first)] == found[: len({*first})]  # in the order of the rows
    few = load_rows("search:products-heldout", limit=600, unique=True)
    assert len(few) == len({row["problem"] for row in few}) < 600


def test_a_seed_takes_a_sample_that_only_it_decides(tmp_path: Path) -> None:
    path = write(tmp_path / "set.jsonl", [{"problem": f"p{index}", "answer": index} for index in range(100)])
    one, again, other = (
        [row["problem"] for row in load_rows(path, limit=10, seed=seed)] for seed in (1, 1, 2)
    )
    assert one == again
    assert one != other
    assert len(set(one)) == 10
    assert len(load_rows(path, limit=1000, seed=1)) == 100


@settings(max_examples=30)
@given(
    st.lists(
        st.fixed_dictionaries(
            {"problem": st.text(st.characters(codec="utf-8"), min_size=1), "answer": st.integers()}
        ),
        min_size=1,
        max_size=5,
    )
)
def test_any_text_survives_every_format(
    tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, Any]]
) -> None:
    rows = [{**row, "problem": f"<{row['problem']}>", "answer": str(row["answer"])} for row in rows]
    assume(not any(is_marked(row["problem"]) for row in rows))  # <s>, say: markers are taken off, or refused
    folder = tmp_path_factory.mktemp("formats")
    for suffix in (".parquet", ".jsonl", ".json", ".csv"):
        loaded = load_rows(write(folder / f"set{suffix}", rows))
        # A text file in which a line ends in \r is a text file with other line ends.
        expected = [row["problem"].replace("\r\n", "\n").replace("\r", "\n") for row in rows]
        assert [row["problem"].replace("\r\n", "\n").replace("\r", "\n") for row in loaded] == expected
        assert [row["answer"] for row in loaded] == [row["answer"] for row in rows]


# --- bad rows -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ('{"problem": "  ", "answer": 1}', "problem is empty"),
        ('{"problem": null, "answer": 1}', "problem is missing"),
        ('{"problem": 7, "answer": 1}', "problem is of type int, not text"),
        ('{"problem": "?", "answer": ""}', "answer is empty"),
        ('{"problem": "?", "answer": null}', "answer is missing"),
        ('{"problem": "?", "answer": NaN}', "answer is NaN"),
        ('{"problem": "?", "answer": Infinity}', "answer is infinite"),
        ('{"problem": "?", "answer": "nan"}', "answer is nan"),
        ('{"problem": "?", "answer": "None"}', "answer is None"),
        ('{"problem": "?", "answer": true}', "answer is of type bool, not text"),
        ('{"problem": "?", "answer": [1, 2]}', "answer is of type list, not text"),
        (
            '{"problem": "?", "answer": ["3", "-3"]}',
            "it has 2 values; write one text with all that belong to",
        ),
        ('{"problem": "?", "answer": []}', "answer is of type list, not text: it has 0 values"),
        (
            '{"problem": "?", "answer": {"value": 1}}',
            "answer is missing: of its keys value, none is ground_truth",
        ),
        ('{"problem": "?", "answer": "so it is\\n#### "}', "answer is empty"),
        ('{"problem": "?"}', "no answer"),
        ('{"answer": 1}', "no problem"),
        ('{"problem": "?", "solution": "There are $\\\\boxed{}$ primes."}', "solution commits to no answer"),
        ('{"problem": "?", "solution": "\\\\boxed{\\\\frac{1}{2}"}', "the answer is cut off"),
        ('{"problem": "?", "solution": "We see.\\nIt holds."}', "solution commits to no answer"),
        ('{"problem": "", "answer": null}', "problem is empty; answer is missing"),
        ('{"problem": "\\ud800", "answer": 1}', "half a surrogate pair"),
        (
            '{"problem": [{"role": "assistant", "content": "?"}], "answer": 1}',
            "problem has no turn of user or human",
        ),
        ('{"problem": [], "answer": 1}', "problem has no turn of user or human"),
        ('{"problem": "?" "answer": 1}', "not JSON: Expecting ',' delimiter at column 17"),
        ('{"problem": "?", "answer"', "not JSON"),
        ("[1, 2]", "is of type list, not an object"),
        ("17", "is of type int, not an object"),
        (b'{"problem": "\xff", "answer": 1}', "byte 14 is not UTF-8"),
        ("[" * 100_000, "nested too deeply"),
        (
            '{"problem": "?", "answer": 1e99999999999999999999999}',
            "not JSON that can be read: the number 1e99999999999999999999999 is out of range",
        ),
        ('{"problem": "?", "Problem": "!", "answer": "7"}', "has one column twice: problem, Problem"),
        ('{"problem": "?", "answer": "8", "answer": "7"}', "has one column twice: answer"),
        ('{"problem": "?", "problem": "?", "answer": "7"}', "has one column twice: problem"),
        ('{"problem": "?", "answer": ' + "9" * 5000 + "}", "not JSON that can be read: Exceeds the limit"),
        ("\x00", "not JSON"),
    ],
)
def test_a_bad_line_is_named_with_its_reason(tmp_path: Path, line: str | bytes, reason: str) -> None:
    good = '{"problem": "?", "answer": 1}'
    message = fault(tmp_path / "set.jsonl", good, "", line, good)
    assert message.startswith(f"{tmp_path / 'set.jsonl'}: bad rows: 1 of 3\n  line 3: ")
    assert reason in message


def test_all_bad_rows_are_reported_together_and_the_list_is_capped(tmp_path: Path) -> None:
    lines = ['{"problem": "?", "answer": 1}', *['{"problem": "", "answer": 1}'] * 50]
    message = fault(tmp_path / "set.jsonl", *lines)
    assert "bad rows: 50 of 51" in message
    assert message.count("problem is empty") == 20
    assert "line 21:" in message
    assert "line 22:" not in message
    assert "and 30 more" in message
    assert "--on_bad_rows skip" in message


def test_bad_rows_are_skipped_on_request_and_the_report_is_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "set.jsonl"
    path.write_text('{"problem": "?", "answer": 1}\nbroken\n')
    with caplog.at_level(logging.WARNING):
        assert len(load_rows(str(path), on_bad="skip")) == 1
    assert "bad rows: 1 of 2" in caplog.text
    assert "line 2: not JSON" in caplog.text


def test_skipping_all_rows_is_an_error(tmp_path: Path) -> None:
    assert "bad rows: 2 of 2" in fault(tmp_path / "set.jsonl", "broken", "broken too", on_bad="skip")


@pytest.mark.parametrize(
    ("line", "where", "reason"),
    [
        ("only one", "line 4", "1 fields where the header has 2"),
        ("a,b,c", "line 4", "3 fields where the header has 2"),
        (",5", "line 4", "problem is empty"),
        ("?,", "line 4", "answer is empty"),
        ("?,NaN", "line 4", "answer is NaN"),
        (b"?,\xe9", "line 4", "byte 3 of line 4 is not UTF-8"),
        (b'"two\nlin\xe9s",5', "line 4", "byte 4 of line 5 is not UTF-8"),
        ('"?"x,5', "line 4", "not CSV: ',' expected after '\"'"),
        ('"never closed,5', "line 4", "not CSV: unexpected end of data"),
    ],
)
def test_a_bad_csv_row_is_named_by_the_line_it_begins_on(
    tmp_path: Path, line: str | bytes, where: str, reason: str
) -> None:
    message = fault(tmp_path / "set.csv", "problem,answer", '"two', 'lines",5', line)
    assert f"bad rows: 1 of 2\n  {where}: " in message
    assert reason in message


def test_bad_parquet_rows_are_named_by_number(tmp_path: Path) -> None:
    path = write(
        tmp_path / "set.parquet",
        [{"problem": "?", "answer": "1"}] * 1500 + [{"problem": "?", "answer": None}],
    )
    with pytest.raises(DataError, match="row 1501: answer is missing"):
        load_rows(path)


def test_a_parquet_cell_that_is_not_utf8(tmp_path: Path) -> None:
    cells = pa.array([b"fine", b"\xff\xfe", b"fine"]).cast(pa.binary()).view(pa.string())
    pq.write_table(pa.table({"problem": cells, "answer": ["1", "2", "3"]}), tmp_path / "set.parquet")
    with pytest.raises(DataError, match=r"1 of 3\n  row 2: byte 1 of a cell is not UTF-8"):
        load_rows(str(tmp_path / "set.parquet"))


@pytest.mark.parametrize("kind", [pa.float16(), pa.float32(), pa.float64()])
def test_a_fraction_of_any_width_is_the_decimal_that_was_written(tmp_path: Path, kind: pa.DataType) -> None:
    cells = [0.1, -2.5, 3.0, 1024.0, 0.3]
    of_each = {
        "plain": pa.array(cells, kind),
        "dictionaries": pa.array(cells, kind).dictionary_encode(),
        "lists": pa.array([[cell] for cell in cells], pa.list_(kind)),
        "structs": pa.array(
            [{"answer": [cell]} for cell in cells], pa.struct([("answer", pa.large_list(kind))])
        ),
    }
    for name, answers in of_each.items():
        path = tmp_path / f"{name}.parquet"
        pq.write_table(pa.table({"problem": ["?"] * len(cells), "answer": answers}), path)
        read = [row["answer"] for row in load_rows(str(path))]
        assert read == ["0.1", "-2.5", "3", "1024", "0.3"], name


def test_numbers_of_32_bits_that_are_none_or_whole(tmp_path: Path) -> None:
    more = pa.array([[("a", 0.1)], None], pa.map_(pa.string(), pa.float32()))
    answers = pa.array([2.0**27, None], pa.float32())
    path = tmp_path / "set.parquet"
    pq.write_table(pa.table({"problem": ["?", "!"], "answer": answers, "more": more}), path)
    (row, _) = load_rows(str(path), need=("problem",), all_columns=True)
    assert row["answer"] == "134217728"
    assert row["columns"]["more"] == [("a", 0.1)]
    with pytest.raises(DataError, match="row 2: answer is missing"):
        load_rows(str(path))


# --- files and names that are wrong as a whole --------------------------------------------------------------


def test_a_missing_file_names_the_nearest(tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_text("{}")
    with pytest.raises(DataError, match=r"no such file; nearest: train\.jsonl\. A data set is"):
        load_rows(str(tmp_path / "trian.jsonl"))
    with pytest.raises(DataError, match="no such file"):
        load_rows(str(tmp_path / "nowhere" / "train.csv"))


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".json", ".parquet"])
def test_an_empty_set_is_refused(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"set{suffix}"
    content = {".jsonl": "\n\n", ".csv": "problem,answer\n", ".json": "[]", ".parquet": ""}[suffix]
    path.write_text(content)
    if suffix == ".parquet":
        pq.write_table(
            pa.table({"problem": pa.array([], pa.string()), "answer": pa.array([], pa.string())}), path
        )
    with pytest.raises(DataError, match="is empty: it has no rows"):
        load_rows(str(path))
    if suffix != ".parquet":
        path.write_bytes(b"")
        with pytest.raises(DataError, match="is empty: it has no rows"):
            load_rows(str(path))


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".parquet"])
def test_a_wrong_column_names_what_is_there_and_the_nearest(tmp_path: Path, suffix: str) -> None:
    path = write(
        tmp_path / f"set{suffix}", [{"problem": "?", "anwser": "1"}, {"problem": "?", "anwser": "2"}]
    )
    with pytest.raises(
        DataError, match=r"no column for the answer; it has problem, anwser\. .* \(perhaps 'anwser'\)"
    ):
        load_rows(path)
    with pytest.raises(DataError, match="no column for the trace"):
        load_rows(
            write(tmp_path / f"bare{suffix}", [{"problem": "?", "answer": "1"}]), need=("problem", "trace")
        )


def test_a_key_that_stands_twice_and_is_not_read_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "set.jsonl"
    path.write_text('{"problem": "1 + 1?", "id": 1, "id": 2, "answer": {"answer": "2", "of": 1, "of": 1}}')
    assert [(row["problem"], row["answer"]) for row in load_rows(str(path))] == [("1 + 1?", "2")]


def test_a_document_in_which_a_key_stands_twice_is_refused(tmp_path: Path) -> None:
    row = '{"problem": "?", "answer": "7"}'
    for text, twice in (
        (f'{{"train": [{row}], "train": [{row}]}}', "'train'"),
        ('{"problem": ["?"], "answer": ["7"], "answer": ["8"]}', "'answer'"),
    ):
        (tmp_path / "set.json").write_text(text)
        with pytest.raises(DataError, match=f"set.json has {twice} twice. Rename or drop one"):
            load_rows(str(tmp_path / "set.json"))
    (tmp_path / "set.json").write_text(f'[{row}, {{"problem": "?", "answer": "7", "answer": "8"}}]')
    with pytest.raises(DataError, match="row 2: has one column twice: answer"):
        load_rows(str(tmp_path / "set.json"))


def test_a_column_that_stands_twice_is_refused(tmp_path: Path) -> None:
    assert "one column twice" in fault(tmp_path / "set.csv", "problem,answer,Answer", "?,1,2")


def test_one_line_errors_about_whole_files(tmp_path: Path) -> None:
    (tmp_path / "set.txt").write_text("?")
    whole = {
        "set.parquet": b"PAR1 but no more",
        "set.json": b'[{"problem": "?"},',
        "set.csv": b"probl\xe9m,answer\n?,1",
        "utf16.jsonl": '{"problem": "?"}'.encode("utf-16"),
    }
    for name, content in whole.items():
        (tmp_path / name).write_bytes(content)
    expected = {
        "set.txt": "the suffix is '.txt'; convert the file to one of .parquet",
        "set.parquet": "is not a whole parquet file",
        "set.json": "not JSON: Expecting value at column 19. Correct it, or write one object a line",
        "set.csv": "line 1: byte 6 of line 1 is not UTF-8. Save it as comma-separated UTF-8",
        "utf16.jsonl": "is UTF-16: save it as UTF-8",
        "": "is a folder: name one file in it: set.csv, set.json, set.parquet, utf16.jsonl",
    }
    for name, message in expected.items():
        with pytest.raises(DataError) as error:
            load_rows(str(tmp_path / name))
        assert message in str(error.value)
        assert "\n" not in str(error.value)


NOBODY = 65534


@pytest.fixture
def bound(tmp_path: Path) -> Iterator[Path]:
    """A folder of somebody whom permissions bind: where root runs the test, another user for its length."""
    (tmp_path / "open.jsonl").write_text('{"problem": "1 + 1?", "answer": "2"}')
    load_rows(str(tmp_path / "open.jsonl"))  # what it imports may be open to root alone
    is_root = os.geteuid() == 0
    with tempfile.TemporaryDirectory() as folder:  # pytest's own is open to its owner alone
        if is_root:
            os.chown(folder, NOBODY, NOBODY)
            os.seteuid(NOBODY)
        try:
            yield Path(folder)
        finally:
            if is_root:
                os.seteuid(0)


@pytest.mark.skipif(os.name == "nt", reason="Windows has other permissions")
def test_a_file_in_a_folder_that_may_not_be_searched(bound: Path) -> None:
    path = bound / "closed" / "in" / "set.jsonl"
    path.parent.mkdir(parents=True)
    path.write_text('{"problem": "1 + 1?", "answer": "2"}')
    for mode, named in ((0o000, (path, path.parent, path.parents[1])), (0o100, (path.parents[1],))):
        path.parents[1].chmod(mode)
        for each in named:
            with pytest.raises(DataError) as caught:
                load_rows(str(each))
            assert str(caught.value) == (
                f"{each} cannot be read: Permission denied. Let it and the folders above it be searched, or "
                "name another"
            )
    with pytest.raises(DataError, match=r"no such file\. A data set"):
        load_rows(str(path.parents[1] / "sett.jsonl"))
    path.parents[1].chmod(0o700)


@pytest.mark.parametrize("name", ["is_dir", "exists"])
def test_a_path_that_may_not_be_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Whichever question to the system is refused."""

    def refuse(path: Path) -> bool:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(Path, name, refuse)
    with pytest.raises(
        DataError, match=r"set\.jsonl cannot be read: Permission denied\. Let it and the folders"
    ):
        load_rows(str(tmp_path / "set.jsonl"))


@pytest.mark.skipif(os.name == "nt", reason="Windows has other permissions")
def test_an_unreadable_file(bound: Path) -> None:
    path = bound / "set.jsonl"
    path.write_text("{}")
    path.chmod(0)
    with pytest.raises(DataError, match="cannot be read"):
        load_rows(str(path))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dataset": "gsm9k"}, "no such file or data set; nearest: gsm8k. A data set"),
        ({"dataset": "a/b/c"}, "no such file or data set"),
        ({"dataset": ""}, "is a folder"),
        ({"dataset": "gsm8k", "limit": 0}, "a limit of 0 leaves no row"),
        ({"dataset": "arithmetic:esay"}, "no split 'esay'; nearest: easy. Choose one of"),
        (
            {"dataset": "arithmetic", "split": "train"},
            "Choose one of arithmetic:coldstart, arithmetic:mixed, ",
        ),
        ({"dataset": "arithmetic:easy", "need": ("problem", "trace")}, "choose arithmetic:coldstart"),
    ],
)
def test_wrong_names(options: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError) as error:
        load_rows(**options)
    assert message in str(error.value)


def test_wrong_arguments_of_a_program_are_value_errors() -> None:
    with pytest.raises(ValueError, match="not 'gold'"):
        load_rows("gsm8k", need=("problem", "gold"))
    with pytest.raises(ValueError, match="not 'ignore'"):
        load_rows("gsm8k", on_bad="ignore")  # type: ignore[arg-type]


# --- the procedural set and the Hub -------------------------------------------------------------------------


def test_the_procedural_set() -> None:
    from prl.data import problems

    assert load_rows("arithmetic:hard", limit=3, seed=7) == problems.generate("hard", 3, 7)
    assert load_rows("arithmetic", split="heldout", limit=2) == problems.generate("heldout", 2, 0)
    assert len(load_rows("arithmetic:easy")) == PROCEDURAL_ROWS
    assert load_rows("arithmetic:coldstart", limit=1, need=("problem", "trace"))[0]["trace"]


HUB_LAYOUTS = {
    "gsm8k": {"question": "How many?", "answer": "48+24 = 72\n#### 72"},
    "math": {"problem": "How many?", "solution": "…\n#### 72", "level": "Level 5", "type": "Algebra"},
    "dapo": {
        "data_source": "math_dapo",
        "prompt": [{"role": "user", "content": "How many?"}],
        "ability": "MATH",
        "reward_model": {"ground_truth": "72", "style": "rule-lighteval/MATH_v2"},
        "extra_info": {"index": "9a9b6eb4"},
    },
    "parallel-gsm8k": {"problem": "How many?", "text": "…\n\nFinal Answer: 72"},
    "math500": {
        "problem": "How many?",
        "solution": "… $\\boxed{72}$.",
        "answer": "72",
        "subject": "Algebra",
        "level": 5,
        "unique_id": "test/algebra/7.json",
    },
    "amc23": {"id": 0, "question": "How many?", "answer": "72", "url": "https://a.b/c"},
    "aime24": {
        "id": 60,
        "problem": "How many?",
        "solution": "… $\\boxed{072}$.",
        "answer": "072",
        "url": "https://a.b/c",
        "year": "2024",
    },
    "aime25": {"problem": "How many?", "answer": "72", "id": "0"},
}


@pytest.mark.parametrize("alias", HUB_LAYOUTS)
def test_the_layouts_of_the_public_sets(monkeypatch: pytest.MonkeyPatch, alias: str) -> None:
    import datasets

    asked: list[tuple[Any, ...]] = []

    def load_dataset(name: str, config: str | None, *, split: str) -> datasets.Dataset:
        asked.append((name, config, split))
        return datasets.Dataset.from_list([HUB_LAYOUTS[alias]] * 3)

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    split = "train" if alias in ("dapo", "parallel-gsm8k") else "test"
    rows = load_rows(alias, split=f"{split}[:3]")
    assert asked == [(*HUB_SETS[alias], "train[:3]" if alias == "aime24" else f"{split}[:3]")]
    assert [(row["problem"], row["answer"].lstrip("0")) for row in rows] == [("How many?", "72")] * (
        1 if alias == "dapo" else 3
    )
    assert rows[0]["level"] == (5 if alias.startswith("math") else None)
    assert rows[0]["source"] == ("math_dapo" if alias == "dapo" else alias)
    load_rows(HUB_SETS[alias][0])
    load_rows(HUB_SETS[alias][0] + ":other")
    assert asked[1:] == [(*HUB_SETS[alias], "train"), (HUB_SETS[alias][0], "other", "train")]


@pytest.mark.parametrize("alias", HUB_LAYOUTS)
def test_a_file_in_the_layout_of_a_public_set_is_read_like_it(tmp_path: Path, alias: str) -> None:
    path = write(tmp_path / f"{alias}.jsonl", [HUB_LAYOUTS[alias]])
    (row,) = load_rows(path, split="test", graded=True)
    assert (row["problem"], row["answer"].lstrip("0")) == ("How many?", "72")


@pytest.mark.parametrize("alias", ["math500", "amc23", "aime24", "aime25"])
def test_a_benchmark_is_no_data_to_train_on(monkeypatch: pytest.MonkeyPatch, alias: str) -> None:
    import datasets

    monkeypatch.setattr(datasets, "load_dataset", lambda *args, **options: pytest.fail("the Hub was asked"))
    with pytest.raises(DataError) as error:
        load_rows(alias, split="train[:9]")
    assert str(error.value) == (
        f"{alias}, split 'train[:9]': it is a benchmark, its only split is test; name another --dataset, or "
        f"{HUB_SETS[alias][0]} to have what is there"
    )


def test_the_table_of_benchmarks_says_what_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    asked: list[tuple[Any, ...]] = []

    def load_dataset(name: str, config: str | None, *, split: str) -> datasets.Dataset:
        asked.append((name, config, split))
        return datasets.Dataset.from_list([{"problem": "How many?", "answer": "72"}])

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    expected = []
    for alias, count in BENCHMARKS.items():
        load_rows(alias, split="test")
        name, config, split = asked[-1]
        at = f"`{name}`, configuration `{config}`" if config else f"`{name}`"
        expected.append(f"| `{alias}` | {at} | {split} | {count:,} |")
    text = (Path(__file__).parents[1] / "docs" / "measures.md").read_text(encoding="utf-8")
    section = text.partition("## Benchmarks by name\n")[2].partition("\n## ")[0]
    assert [
        line for line in section.splitlines() if line.startswith("| `") and "--dataset" not in line
    ] == expected


def test_a_hub_set_with_other_columns_is_refused_with_their_names(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    found = datasets.Dataset.from_list([{"task": "How many?", "result": "72"}])
    monkeypatch.setattr(datasets, "load_dataset", lambda *args, **options: found)
    with pytest.raises(
        DataError, match=r"no column for the problem; it has task, result\. .* \(perhaps 'task'\)"
    ):
        load_rows("someone/else")


def test_hub_errors_are_one_line_with_the_next_step(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    for raised, message in [
        (datasets.exceptions.DatasetNotFoundError("Dataset doesn't exist"), "no such data set on the Hub"),
        (ConnectionError("Couldn't reach the Hub (LocalEntryNotFoundError)"), "the Hub cannot be reached"),
        (ValueError("Unknown split \"tset\". Should be one of ['train'].\nmore"), 'Unknown split "tset"'),
        (ValueError("Config name is missing.\nPlease pick one"), "a configuration (someone/else:NAME)"),
        (RuntimeError("Dataset scripts are no longer supported"), "scripts are no longer supported"),
        (OSError("disk trouble"), "disk trouble"),
    ]:

        def fail(*args: object, error: Exception = raised, **options: object) -> None:
            raise error

        monkeypatch.setattr(datasets, "load_dataset", fail)
        with pytest.raises(DataError) as error:
            load_rows("someone/else", split="tset")
        assert message in str(error.value)
        assert "\n" not in str(error.value)


def test_offline_the_real_library_ends_in_the_same_line(tmp_path: Path) -> None:
    program = (
        "from prl.data.hub import load_rows\ntry: load_rows('gsm8k')\nexcept Exception as e: print(repr(e))"
    )
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.stdout.startswith('DataError("openai/gsm8k: the Hub cannot be reached'), done.stderr


def test_importing_the_loaders_imports_nothing_heavy() -> None:
    program = "import sys, prl.data.hub; print(sorted({'torch', 'datasets', 'pyarrow'} & {*sys.modules}))"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.strip() == "[]"


# --- the real sets ------------------------------------------------------------------------------------------

REAL_SETS = {
    "gsm8k_train": 7473,
    "gsm8k_test": 1319,
    "math_train": 7500,
    "math_test": 5000,
    "dapo_17k": 17228,
    "benchmarks": 416,
    "parallel_gsm8k_341": 341,
}


@pytest.mark.real
@pytest.mark.parametrize("name", REAL_SETS)
def test_real_sets_load_whole(real_data: Path, name: str) -> None:
    path = real_data / f"{name}.parquet"
    rows = load_rows(str(path))
    raw = pq.read_table(path).to_pylist()
    assert len(rows) == len(raw) == REAL_SETS[name]
    different = [(row["answer"], whole["answer"]) for row, whole in zip(rows, raw, strict=True)]
    different = [(answer, written) for answer, written in different if answer != written.strip()]
    # In 165 rows of MATH the answer column is cut off at an inner brace.
    assert len(different) == {"math_train": 99, "math_test": 66}.get(name, 0)
    assert all(answer.startswith(written) for answer, written in different)
    assert [row["problem"] for row in rows] == [row["problem"].strip() for row in raw]
    assert {row["level"] for row in rows} <= ({1, 2, 3, 4, 5, None} if name.startswith("math") else {None})


@pytest.mark.real
def test_real_traces(real_data: Path) -> None:
    rows = load_rows(str(real_data / "parallel_gsm8k_341.parquet"), need=("problem", "answer", "trace"))
    assert sum("<Parallel>" in row["trace"] for row in rows) == 338


@pytest.mark.real
@pytest.mark.parametrize("name", ["gsm8k_test", "math_test"])
def test_real_worked_solutions_give_the_answers(real_data: Path, tmp_path: Path, name: str) -> None:
    """Without its answer column, as it is on the Hub, a set gives the same answers but for their notation."""
    path = real_data / f"{name}.parquet"
    pq.write_table(pq.read_table(path).drop_columns(["answer"]), tmp_path / "set.parquet")
    solved = [row["answer"] for row in load_rows(str(tmp_path / "set.parquet"))]
    given = [row["answer"] for row in load_rows(str(path))]
    plain = [(a.replace(",", ""), b.rstrip(".").replace(",", "")) for a, b in zip(solved, given, strict=True)]
    assert [pair for pair in plain if pair[0] != pair[1]] == []


def test_every_alias_and_field_is_documented() -> None:
    import prl.data.hub

    assert all(alias in (prl.data.hub.__doc__ or "") for alias in HUB_SETS)
    assert all(f'"{field}"' in (prl.data.hub.__doc__ or "") for field in COLUMNS)
