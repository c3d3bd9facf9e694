"""prl data mix: shares are met to the row, nothing comes twice."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prl import cli
from prl.errors import DataError
from prl.grammar import render
from prl.traces.mixing import Row, mix


def rows(name: str, parallel: int, sequential: int, level: int = 1) -> list[Row]:
    block = render(["one way", "another"], "both")
    return [
        {"problem": f"{name} {number}", "answer": "1", "level": level, "source": name,
         "trace": f"{block if number < parallel else 'Just so.'}\nFinal Answer: 1"}
        for number in range(parallel + sequential)
    ]  # fmt: skip


def is_parallel(row: Row) -> bool:
    return "<Parallel>" in row["trace"]


def write(path: Path, held: list[Row]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in held))
    return str(path)


counts = st.integers(0, 30)


@given(
    a=counts, b=counts, c=counts, d=counts, weight=st.integers(1, 9), share=st.integers(0, 10), size=counts
)
def test_shares_are_met_or_refused(
    a: int, b: int, c: int, d: int, weight: int, share: int, size: int
) -> None:
    sets = {"x": rows("x", a, b), "y": rows("y", c, d)}
    weights = {"x": Fraction(weight), "y": Fraction(1)}
    wanted = size or None
    try:
        mixed = mix(sets, weights, size=wanted, parallel_share=share / 10, seed=1)
    except DataError:
        exact = {(s, p): w / (weight + 1) * (share if p else 10 - share) / 10
                 for s, w in weights.items() for p in (True, False)}  # fmt: skip
        has = {("x", True): a, ("x", False): b, ("y", True): c, ("y", False): d}
        assert any(
            has[each] < (wanted or 1) * part + (wanted is not None) for each, part in exact.items() if part
        )
        return
    assert wanted in (None, len(mixed))
    assert len({row["problem"] for row in mixed}) == len(mixed), "none twice"
    for name, part in weights.items():
        ours = [row for row in mixed if row["set"] == name]
        assert abs(len(ours) - len(mixed) * part / (weight + 1)) <= 2
        assert abs(sum(map(is_parallel, ours)) - len(mixed) * part / (weight + 1) * share / 10) <= 1


def test_all_of_all_when_nothing_is_asked_for() -> None:
    sets = {"x": rows("x", 3, 2), "y": rows("y", 1, 0)}
    mixed = mix(sets, seed=0)
    assert sorted(row["problem"] for row in mixed) == sorted(
        row["problem"] for each in sets.values() for row in each
    )
    assert mixed == mix(sets, seed=0)
    assert mixed != mix(sets, seed=1)


def test_a_file_of_shares(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one = write(tmp_path / "one.jsonl", [row | {"context_paths": [1]} for row in rows("one", 60, 0)])
    two = write(tmp_path / "two.jsonl", rows("two", 10, 40, level=2) + rows("one", 5, 0))
    mixed = tmp_path / "mix.parquet"
    given_words = ["data", "mix", f"{one}:3", f"{two}:1", "--parallel_share", "1", "--output", str(mixed)]
    assert cli.main(given_words) == 0
    assert capsys.readouterr().out == (
        f"{mixed}: 40 traces, of 110\n  {one}: 30, 30 of them parallel\n  {two}: 10, 10 of them parallel\n"
        f"  levels 1: 30, 2: 10\n  left out: 5 that another set, or the same, has too\n"
        f"  prl sft --dataset {mixed}\n"
    )
    table = pq.read_table(mixed).to_pylist()
    assert {row["context_paths"][0] for row in table if row["level"] == 1} == {1}
    assert all(row["context_paths"] is None for row in table if row["level"] == 2)
    assert {row["set"] for row in table} == {"one.jsonl", "two.jsonl"}, "no path of this machine"
    assert cli.main(["data", "check", str(mixed)]) == 0


def test_the_seed_draws_the_rows(tmp_path: Path) -> None:
    one = write(tmp_path / "one.jsonl", rows("one", 60, 0))

    def drawn(name: str, seed: str) -> list[str]:
        mixed = str(tmp_path / name)
        assert cli.main(["data", "mix", one, "--size", "20", "--seed", seed, "--output", mixed]) == 0
        return pq.read_table(mixed)["problem"].to_pylist()

    first = drawn("first.parquet", "3")
    assert drawn("again.parquet", "3") == first
    assert {*drawn("other.parquet", "4")} != {*first}


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (["{one}:3", "{two}"], 2, "two.jsonl' has no weight and others have; give each one"),
        (["{one}", "{one}"], 2, "sets: one is named twice"),
        (["{one}:0"], 2, "weighs nothing; leave it out"),
        (
            ["{one}:1", "--size", "90"],
            1,
            "90 {one} are asked for and there are 60; the most that these shares allow",
        ),
        (["{one}", "--parallel_share", "0.5"], 1, "there are no sequential traces of {one}"),
        (["{one}", "--levels", "7"], 1, "{one}: no trace is left in the levels 7 that no other set has"),
        (["{one}", "--parallel_share", "2"], 2, "must be from 0 to 1"),
        (["nowhere.jsonl"], 1, "nowhere.jsonl: no such file"),
        (["{one}", "--output", "x.csv"], 2, "x.csv: give a name that ends with .parquet or .jsonl"),
        (["{one}", "--output", "{two}"], 2, "exists; name another file"),
    ],
)
def test_what_cannot_be_mixed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], status: int, said: str
) -> None:
    names = {"one": write(tmp_path / "one.jsonl", rows("one", 60, 0)),
             "two": write(tmp_path / "two.jsonl", rows("two", 10, 40))}  # fmt: skip
    output = [] if "--output" in words else ["--output", str(tmp_path / "mix.jsonl")]
    assert cli.main(["data", "mix", *(word.format(**names) for word in words), *output]) == status
    err = capsys.readouterr().err
    assert said.format(**names) in err
    assert len(err.splitlines()) == 1
