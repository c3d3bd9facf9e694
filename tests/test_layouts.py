"""Files that are not one object a line: JSON documents of several layouts, CSV with other separators."""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from prl.data.hub import load_rows
from prl.errors import DataError

ROWS = [{"problem": "a", "answer": "1"}, {"problem": "b", "answer": "2"}]
CHAT = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "Final Answer: 1"}]

DOCUMENTS: dict[str, tuple[Any, list[str], str]] = {
    # name -> document, problems, what is told
    "a list a column": (
        {"problem": ["a", "b"], "answer": ["1", "2"]},
        ["a", "b"],
        "its columns, a list each, as 2 rows",
    ),
    "with other keys": (
        {"version": 1, "Problem": ["a", "b"], "answer": [1, 2]},
        ["a", "b"],
        "its columns, a list each",
    ),
    "conversations in a column": (
        {"messages": [CHAT, CHAT], "answer": ["1", "1"]},
        ["a", "a"],
        "its columns, a list each",
    ),
    "pandas, orient columns": (
        {"problem": {"0": "a", "1": "b"}, "answer": {"0": "1", "1": "2"}},
        ["a", "b"],
        "its columns, by index, as 2 rows",
    ),
    "pandas, orient index": ({"0": ROWS[0], "1": ROWS[1]}, ["a", "b"], "its 2 objects, each a row"),
    "pandas, orient split": (
        {"columns": ["problem", "answer"], "index": [0, 1], "data": [["a", "1"], ["b", "2"]]},
        ["a", "b"],
        "its 'columns' and 'data'",
    ),
    "pandas, orient table": (
        {"schema": {"fields": [{"name": "problem"}]}, "data": ROWS},
        ["a", "b"],
        "what is under 'data'",
    ),
    "nested": ({"version": "1.0", "data": ROWS}, ["a", "b"], "what is under 'data'"),
    "nested twice": ({"set": {"rows": ROWS}}, ["a", "b"], "what is under 'set': what is under 'rows'"),
    "splits": ({"train": ROWS[:1], "test": ROWS[1:]}, ["a"], "what is under 'train', of train, test"),
    "splits of columns": (
        {"train": {"problem": ["a"], "answer": ["1"]}, "test": {"problem": ["b"], "answer": ["2"]}},
        ["a"],
        "what is under 'train', of train, test: its columns",
    ),
    "nested splits": (
        {"data": {"train": ROWS[:1], "test": ROWS[1:]}},
        ["a"],
        "what is under 'data': what is under 'train'",
    ),
    "one row": (ROWS[0], ["a"], ""),
    "one row with a list": ({"problem": "a", "answer": ["1"]}, ["a"], ""),
    "one conversation": ({"messages": CHAT, "answer": "1"}, ["a"], ""),
}


@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("suffix", [".json", ".jsonl"])
@pytest.mark.parametrize("name", DOCUMENTS)
def test_the_rows_in_one_object(
    tmp_path: Path, name: str, suffix: str, indent: int | None, caplog: pytest.LogCaptureFixture
) -> None:
    document, problems, told = DOCUMENTS[name]
    path = tmp_path / f"set{suffix}"
    path.write_text(json.dumps(document, indent=indent))
    assert [row["problem"] for row in load_rows(str(path))] == problems
    assert f"{path} is one object, read as rows: {told}" in caplog.text if told else not caplog.text


@pytest.mark.parametrize(
    ("document", "split", "fault"),
    [
        (
            {"problem": ["a", "b"], "answer": ["1"]},
            "train",
            " is a list a column, and they differ in length: 'problem' has 2, 'answer' has 1",
        ),
        (
            {"train": ROWS, "test": ROWS},
            "dev",
            " has rows under 'train', 'test' and none under the split 'dev': name one as the split",
        ),
        (
            {"easy": ROWS, "hard": ROWS},
            "train",
            " has rows under 'easy', 'hard' and none under the split 'train'",
        ),
        ({"test": ROWS}, "train", " has the split 'test' and not 'train': name it as the split"),
        (
            {"train": ROWS},
            "train[:1]",
            ": only the Hub cuts a split, as in 'train[:1]': name 'train', and give a limit",
        ),
        (
            {"columns": ["problem"], "data": [["a", "1"]]},
            "train",
            " has 'columns' and 'data' that do not fit",
        ),
        ({"version": "1.0", "data": []}, "train", " is empty: it has no rows"),
        (
            {"version": "1.0", "items": 3},
            "train",
            " has no column for the answer; it has version, items. Rename the one that holds it to 'answer'",
        ),
        (
            {"problem": {"0": "a", "1": "b"}, "answer": {"1": "1"}},
            "train",
            ": bad rows: 1 of 2\n  row 1: no answer",
        ),
    ],
)
def test_one_object_whose_rows_are_not_known(tmp_path: Path, document: Any, split: str, fault: str) -> None:
    path = tmp_path / "set.json"
    path.write_text(json.dumps(document))
    with pytest.raises(DataError) as error:
        load_rows(str(path), split=split)
    assert str(error.value).startswith(f"{path}{fault}")


def test_the_split_that_is_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "set.json"
    path.write_text(json.dumps({"train": ROWS[:1], "test": ROWS[1:]}))
    assert [row["problem"] for row in load_rows(str(path), split="test")] == ["b"]


def test_a_broken_first_line_is_one_bad_line(tmp_path: Path) -> None:
    path = tmp_path / "set.jsonl"
    path.write_text('{"problem": "a", "answer\n{"problem": "b", "answer": 2}\n')
    with pytest.raises(DataError, match="bad rows: 1 of 2\n  line 1: not JSON"):
        load_rows(str(path))


def test_numbers_keep_the_digits_that_they_are_written_with(tmp_path: Path) -> None:
    path = tmp_path / "set.jsonl"
    numbers = ["0.1234567890123456789", "1e+22", "12345678901234567890.5", "-0.0", "1E400", "2.50"]
    path.write_text("".join(f'{{"problem": "?", "answer": {number}}}\n' for number in numbers))
    assert [row["answer"] for row in load_rows(str(path))] == [
        "0.1234567890123456789", "10000000000000000000000", "12345678901234567890.5", "0", "1e+400", "2.5",
    ]  # fmt: skip
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.table({"problem": ["?"], "answer": pa.array([Decimal("1.10")], pa.decimal128(9, 2))})
    pq.write_table(table, tmp_path / "set.parquet")
    assert load_rows(str(tmp_path / "set.parquet"))[0]["answer"] == "1.1"


@pytest.mark.parametrize("separator", [";", "\t", "|"])
def test_a_csv_with_another_separator(
    tmp_path: Path, separator: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "set.csv"
    path.write_text(f'problem{separator}"answer"\n"1, 2{separator}?"{separator}3,5\n4?{separator}5\n')
    found = [(row["problem"], row["answer"]) for row in load_rows(str(path))]
    assert found == [(f"1, 2{separator}?", "3,5"), ("4?", "5")]
    assert f"{path}: its fields are separated by {separator!r}" in caplog.text
    path.write_text(f"sep={separator}\nproblem{separator}answer\n4?{separator}5\n,{separator}\n")
    with pytest.raises(DataError, match="bad rows: 1 of 2\n  line 4: answer is empty"):
        load_rows(str(path))


def test_a_cell_of_a_csv_may_be_long(tmp_path: Path) -> None:
    """Beyond 131,072 characters Python's reader would forget that it is within quotes."""
    path, long = tmp_path / "set.csv", "so 3, 4\n" * 30_000
    path.write_text(f'problem,answer\n"{long}",7\nb,8\n')
    assert [(len(row["problem"]), row["answer"]) for row in load_rows(str(path))] == [
        (239_999, "7"),
        (1, "8"),
    ]


def test_a_header_with_other_signs_is_one_with_commas(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "set.csv"
    path.write_text('problem,answer,"a;b"\n?,7,x\n')
    assert load_rows(str(path))[0]["answer"] == "7"
    path.write_text("problm;anwser\n?;7\n")
    with pytest.raises(DataError, match="no column for the problem; it has problm;anwser"):
        load_rows(str(path))
    assert not caplog.text


@pytest.mark.parametrize("name", ["./nope", "../nope", "~/nope", "/nope/nope", "data\\set\\nope"])
def test_a_path_is_never_asked_for_on_the_hub(name: str) -> None:
    with pytest.raises(DataError, match=r"nope: no such file\. A data set is"):
        load_rows(name)


@pytest.mark.parametrize(
    ("columns", "field", "advice"),
    [
        (["problem", "answer"], "trace", "Add one of the name 'trace'"),
        (["instruction", "input", "output"], "answer", "Add one of the name 'answer'"),
        (["problem", "anwser"], "answer", "Rename the one that holds it (perhaps 'anwser') to 'answer'"),
        (
            ["problem", "final_result"],
            "answer",
            "Rename the one that holds it (perhaps 'final_result') to 'answer'",
        ),
        (["problem", "id", "url"], "answer", "Rename the one that holds it to 'answer'"),
        (
            ["question", "model_response"],
            "trace",
            "Rename the one that holds it (perhaps 'model_response') to 'trace'",
        ),
        (["text"], "problem", "Rename the one that holds it (perhaps 'text') to 'problem'"),
    ],
)
def test_a_hint_names_no_column_that_is_read_as_another_field(
    tmp_path: Path, columns: list[str], field: str, advice: str
) -> None:
    path = tmp_path / "set.jsonl"
    path.write_text(json.dumps(dict.fromkeys(columns, "x")) + "\n")
    with pytest.raises(DataError) as error:
        load_rows(str(path), need=("problem", field))
    start = f"{path} has no column for the {field}; it has {', '.join(columns)}. {advice}; read as {field}: "
    assert str(error.value).startswith(start)
    assert "\n" not in str(error.value)
