"""The files of a data set and its card, whatever is in them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from prl.data.hub import load_rows
from prl.grammar import render
from prl.traces import card, dataset
from prl.traces.checks import Reason, Rejection

TRACE = render(["6 * 7 = 42 cats", "Seven sixes: 42 in all"], "42 it is.") + "\nFinal Answer: 42"
ROW = {
    "problem": "Six times seven?", "answer": "42", "trace": TRACE, "context_paths": [1], "level": None,
    "source": "s", "teacher": "t", "mode": "write", "attempt": 0, "sample": 1,
    "repairs": ["whitespace between tags"],
}  # fmt: skip
FACTS: dict[str, Any] = {
    "teacher": "big", "mode": "write", "prompt": "Solve.\n{problem}", "served": ["big-7"],
    "settings": {"samples": 1}, "counts": {"problems": 3, "answered": 3, "solved": 2, "accepted": 2},
    "reasons": {"no_block": 1}, "repairs": {}, "partial": False, "benchmarks": {},
    "license": None, "source_license": None,
    "spent": {
        "requests": 3, "failed": 0, "uncounted": 2, "prompt_tokens": 30, "completion_tokens": 40,
        "money": 0.5,
    },
}  # fmt: skip


def written(folder: Path, accepted: int, rejected: int = 0) -> Path:
    folder.mkdir(exist_ok=True)
    with dataset.writing(folder) as out:
        for number in range(accepted):
            out.accept(ROW | {"attempt": number})
        for _ in range(rejected):
            out.reject(ROW, [Rejection(Reason.WRONG_ANSWER, "42, not 43")])
    return folder


def test_rows_are_written_group_by_group_in_their_order(tmp_path: Path) -> None:
    written(tmp_path, 2500, 1)
    table = pq.read_table(tmp_path / "traces.parquet")
    assert table["attempt"].to_pylist() == [*range(2500)]
    assert pq.ParquetFile(tmp_path / "traces.parquet").num_row_groups == 3
    assert table.slice(7, 1).to_pylist() == [ROW | {"attempt": 7}]
    assert pq.read_table(tmp_path / "rejected.parquet").to_pylist() == [
        ROW | {"reasons": ["wrong_answer"], "details": ["42, not 43"]}
    ]
    assert [*dataset.read_column(tmp_path / "traces.parquet", "attempt")] == [*range(2500)]


def test_the_turns_before_a_problem_are_kept(tmp_path: Path) -> None:
    history = [{"role": "system", "content": "x = 3."}]
    with dataset.writing(tmp_path, with_history=True) as out:
        out.accept(ROW | {"history": history})
        out.accept(ROW)
    rows = load_rows(str(tmp_path / "traces.parquet"), need=("problem", "trace"))
    assert [row.get("history") for row in rows] == [history, None]
    for name in ("rows.jsonl", "rows.parquet"):
        dataset.write_rows(tmp_path / name, rows[::-1])
        assert load_rows(str(tmp_path / name), need=("problem", "trace")) == [
            row | {"source": "s"} for row in rows[::-1]
        ]
    card.write_card(tmp_path, FACTS | {"has_history": True}, None)
    assert "`history`" in (tmp_path / "README.md").read_text()


def test_a_failure_leaves_the_set_that_was_there(tmp_path: Path) -> None:
    written(tmp_path, 1)
    with pytest.raises(pa.ArrowInvalid), dataset.writing(tmp_path) as out:
        out.accept(ROW | {"attempt": "none"})
    assert pq.read_metadata(tmp_path / "traces.parquet").num_rows == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["rejected.parquet", "traces.parquet"]


def test_how_much_paths_differ() -> None:
    assert dataset.path_diversity(TRACE) == pytest.approx(0.9, abs=0.1)
    assert dataset.path_diversity(render(["the same", "the same"], "s")) == 0
    assert dataset.path_diversity("no block") == 0


def test_names_of_this_machine_stay_here() -> None:
    assert [dataset.public_name(name) for name in ("/home/me/p.jsonl", "runs/a", "owner/name")] == [
        "p.jsonl", "runs/a", "owner/name"
    ]  # fmt: skip


def test_the_card_says_what_was_done(tmp_path: Path) -> None:
    card.write_card(written(tmp_path, 2), FACTS | {"license": "mit", "partial": True}, None)
    text = (tmp_path / "README.md").read_text()
    head = yaml.safe_load(text.split("---\n")[1])
    assert head["license"] == "mit"
    assert head["configs"] == [
        {"config_name": "default", "data_files": [{"split": "train", "path": "traces.parquet"}]}
    ]
    for said in (
        "Teacher: `big`, which calls itself `big-7`.",
        "The asking ended before the last problem",
        "```text\nSolve.\n{problem}\n```",
        "| acceptance, of answered problems | 66.7% |",
        "| `no_block`: it holds no &lt;Parallel&gt; block | 1 |",
        "Spent: 3 requests (0 of them failed), 30 tokens of prompts, 40 of answers, 0.50 by the prices",
        "The teacher did not say the tokens of 2 answers: each counts as the most that it may have cost.",
        f"| length in characters (5% / 50% / 95% / 100%) | {' / '.join([str(len(TRACE))] * 4)} |",
        "- This data set: `mit`.\n- The problems: not stated.",
    ):
        assert said in text
    assert "\n\n\n" not in text


def test_an_empty_set_has_a_card_too(tmp_path: Path) -> None:
    card.write_card(written(tmp_path, 0), FACTS | {"counts": {"problems": 1}, "reasons": {}}, None)
    assert "## Statistics" not in (tmp_path / "README.md").read_text()


@given(st.text())
def test_code_shows_any_text_and_ends(text: str) -> None:
    shown = card.code(text)
    ticks = re.match("`+", shown)
    assert ticks
    assert shown.endswith(ticks[0])
    assert "\n" not in shown
    inside = shown[len(ticks[0]) : -len(ticks[0])]
    assert len(ticks[0]) not in map(len, re.findall("`+", inside)), "nothing inside closes it"
    assert inside.strip() == " ".join(text.split())


@given(st.text())
def test_a_fence_is_closed_by_itself_alone(text: str) -> None:
    first, *_, last = card.fence(text).splitlines()
    assert first == f"{last}text"
    assert not any(line.strip().startswith(last) for line in text.splitlines())


def test_what_others_wrote_does_not_leave_its_place(tmp_path: Path) -> None:
    hostile = "x`|\n---\n# Heading <script>alert(1)</script>\n```\nend"
    facts = {
        "teacher": hostile, "prompt": hostile, "served": [hostile], "settings": {"problems": hostile},
        "benchmarks": {hostile: {"problems": 1, "overlaps": 0}}, "license": hostile,
        "source_license": hostile,
    }  # fmt: skip
    card.write_card(written(tmp_path, 1), FACTS | facts, None)
    text = (tmp_path / "README.md").read_text()
    head, body = re.fullmatch(r"---\n(.*?\n)---\n(.*)", text, re.DOTALL).groups()
    assert yaml.safe_load(head)["license"] == hostile
    outside = re.sub(r"^(`{3,})text\n.*?^\1$", "", body, flags=re.DOTALL | re.MULTILINE)
    assert not re.search("^# Heading", outside, re.MULTILINE)
    spans = re.sub(r"(?<!`)(`+)(?!`).*?(?<!`)\1(?!`)", "", outside)
    assert "<script>" not in spans
