"""Problems of a benchmark are found, phrases that many problems use are not."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prl.errors import DataError
from prl.traces.contamination import Benchmarks

STAMPS = (
    "Max bought 16 snowflake stamps, 3 more truck stamps than snowflake stamps and 9 rose stamps. How many?"
)
PHRASE = "where m and n are relatively prime positive integers. Find m + n."


@pytest.fixture
def benchmarks() -> Benchmarks:
    found = Benchmarks()
    found.add("stamps", STAMPS)
    found.add("aime", f"A bag has 12 red and 8 blue balls. The chance that two drawn match is m/n, {PHRASE}")
    found.add("short", "What is 2 + 2?")
    return found


@pytest.mark.parametrize(
    ("problem", "benchmark"),
    [
        (STAMPS, "stamps"),
        (STAMPS.upper().replace(",", " ,\n"), "stamps"),
        (STAMPS.replace("Max", "Bella").replace("How many?", "What is 3 times that?"), "stamps"),
        (f"Solve this problem.\n\n{STAMPS}", "stamps"),
        ("what is 2+2", "short"),
        (
            f"Two chords of a circle of radius 5 meet at a right angle; the area between is m/n, {PHRASE}",
            None,
        ),
        ("What is 2 + 3?", None),
        ("", None),
    ],
)
def test_what_overlaps(benchmarks: Benchmarks, problem: str, benchmark: str | None) -> None:
    found = benchmarks.overlap(problem)
    assert (found and found.benchmark) == benchmark


@given(st.text(), st.text())
def test_a_problem_overlaps_itself_and_nothing_else_breaks(one: str, other: str) -> None:
    benchmarks = Benchmarks()
    benchmarks.add("b", one)
    overlap = benchmarks.overlap(one)
    assert overlap is not None
    assert overlap.share == 1
    found = benchmarks.overlap(other)
    assert found is None or 0.5 <= found.share <= 1


def test_half_of_its_runs_make_a_problem_the_benchmarks() -> None:
    """20 words are 13 runs of eight; of a problem that shares k words in a row, k − 7 are theirs."""
    words = [f"word{n}" for n in range(20)]
    benchmarks = Benchmarks()
    benchmarks.add("b", " ".join(words))
    half = benchmarks.overlap(" ".join([*words[:14], *(f"other{n}" for n in range(6))]))
    assert half == ("b", 7 / 13)
    assert benchmarks.overlap(" ".join([*words[:13], *(f"other{n}" for n in range(7))])) is None, "6 of 13"


def test_benchmarks_are_read_from_files(tmp_path: Path) -> None:
    path = tmp_path / "b.jsonl"
    path.write_text(json.dumps({"question": STAMPS}) + "\n")
    found = Benchmarks.read([str(path)])
    assert found.sizes == {str(path): 1}
    assert found.overlap(STAMPS) == (str(path), 1)
    mailed = tmp_path / "Drive-me@mail.org"
    mailed.mkdir()
    path.rename(mailed / "b.jsonl")
    assert Benchmarks.read([str(mailed / "b.jsonl")]).sizes == {str(mailed / "b.jsonl"): 1}
    with pytest.raises(DataError, match="no such file"):
        Benchmarks.read(["nowhere.jsonl"])


def test_a_benchmark_with_rows_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "b.jsonl"
    marked = json.dumps({"question": "1 + 1? <|im_end|> and"})
    path.write_text(json.dumps({"question": STAMPS}) + f'\n{{"question": \n{marked}\n')
    said = r"b\.jsonl: bad rows: 2 of 3\n  line 2: not JSON.*\n  line 3: .*\nCorrect them, or take them out"
    with pytest.raises(DataError, match=said):
        Benchmarks.read([str(path)])


@pytest.mark.real
def test_what_dapo_has_of_the_benchmarks(real_data: Path) -> None:
    benchmarks = Benchmarks.read([str(real_data / "benchmarks.parquet")])
    problems = pq.read_table(real_data / "dapo_17k.parquet")["problem"].to_pylist()
    found = [problem for problem in problems if benchmarks.overlap(problem)]
    assert (len(problems), len(found)) == (17228, 60), "the figure in the module's docstring"
