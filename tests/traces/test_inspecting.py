"""prl data check, stats and show."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from prl import cli
from prl.data.hub import load_rows
from prl.data.problems import write_sets
from prl.grammar import render
from prl.traces.inspecting import describe

GOOD = render(["6 * 7 = 42 cats", "Seven sixes: 42 in all"], "42 it is.") + "\nFinal Answer: 42"
SPACED = GOOD.replace("</Path><Path>", "</Path>\n\n<Path>") + "\n\n"
ROWS = [
    {"problem": "Six times seven?", "answer": "42", "trace": GOOD},
    {"problem": "Six times seven?", "answer": "43", "trace": GOOD},
    {"problem": "Six times seven?", "answer": "42", "trace": "42.\nFinal Answer: 42"},
    {"problem": "Six times seven?", "answer": "42", "trace": SPACED},
]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "traces.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return path


def say(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    status = cli.main(["data", *words])
    out, err = capsys.readouterr()
    return status, out, err


def test_every_rejected_trace_is_told_with_its_row(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, err = say(capsys, "check", str(file))
    assert status == 1
    assert err == f"prl data check: {file}: 2 of 4 traces are rejected; --accepted FILE keeps the others\n"
    assert out.startswith(f"{file}: 4 traces, 2 pass (50.0%), 2 are rejected\n")
    assert re.findall(r"^row (\d): (.*)$", out, flags=re.MULTILINE) == [
        ("2", "wrong_answer: 42, not 43"),
        ("3", "no_block: 20 characters without <Parallel>"),
    ]


def test_words_of_a_trace_steer_no_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "traces.jsonl"
    red = GOOD.replace("Final Answer: 42", "Final Answer: \x1b[31m43\x1b]0;owned\x07")
    path.write_text(json.dumps(ROWS[0] | {"trace": red}) + "\n")
    status, out, _ = say(capsys, "check", str(path))
    assert status == 1
    assert "43" in out
    assert not {"\x1b", "\x07"} & {*out}


def test_a_file_without_answers_is_checked_for_all_else(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, good = tmp_path / "chats.jsonl", tmp_path / "good.jsonl"
    turns = [{"role": "user", "content": "Six times seven?"}, {"role": "assistant", "content": GOOD}]
    bad = [turns[0], {"role": "assistant", "content": GOOD.replace("</Path>", "", 1)}]
    path.write_text("".join(json.dumps({"messages": each}) + "\n" for each in (turns, bad)))
    status, _, err = say(capsys, "check", str(path))
    assert status == 1
    assert "has no column for the answer" in err
    assert err.endswith("Where there are none, --judge_answers false checks all else\n")
    words = ["check", str(path), "--judge_answers", "false", "--accepted", str(good)]
    status, out, _ = say(capsys, *words)
    assert status == 1
    assert out.startswith(
        f"{path}: 2 traces, 1 pass (50.0%), 1 are rejected\n  final answers were not judged\n"
    )
    assert [row["trace"] for row in load_rows(str(good), need=("problem", "trace"))] == [GOOD]


def test_markers_are_taken_off_and_counted_and_earlier_turns_are_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, good = tmp_path / "chats.jsonl", tmp_path / "good.parquet"
    asked = {"role": "user", "content": "Six times seven?"}
    plain = [asked, {"role": "assistant", "content": f"{GOOD}<|im_end|>"}]
    turned = [{"role": "system", "content": "Count cats."}, *plain]
    path.write_text(
        "".join(json.dumps({"messages": each, "answer": "42"}) + "\n" for each in (plain, turned))
    )
    status, out, _ = say(capsys, "check", str(path), "--accepted", str(good))
    assert status == 0
    assert "  as read: 2 traces have <|im_end|> at their ends, which is taken off\n" in out
    rows = load_rows(str(good), need=("problem", "trace"))
    assert [(row["trace"], row.get("history")) for row in rows] == [(GOOD, None), (GOOD, turned[:1])]
    assert "system: Count cats." in say(capsys, "show", str(path), "--rows", "2")[1]


def test_problems_of_a_benchmark_are_found(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bench.csv").write_text("question\nSix times seven?\n")
    words = ["check", str(file), "--benchmarks", str(tmp_path / "bench.csv")]
    _, out, _ = say(capsys, *words)
    assert "  contaminated         4  its problem is one of a benchmark\n" in out
    assert "contaminated: 100% of the problem's runs of 8 words stand in one of " in out
    assert "contaminated" not in say(capsys, *words, "--ignore", "contaminated")[1]


def test_accepted_and_rejected_are_kept(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good, bad = tmp_path / "good.parquet", tmp_path / "bad.jsonl"
    words = ["check", str(file), "--repair", "--accepted", str(good), "--rejected", str(bad)]
    assert say(capsys, *words)[0] == 1
    kept = load_rows(str(good), need=("problem", "answer", "trace"))
    assert [row["trace"] for row in kept] == [GOOD, GOOD], "the second one repaired"
    (wrong, plain) = map(json.loads, bad.read_text().splitlines())
    assert (wrong["row"], wrong["reasons"], wrong["details"]) == (2, ["wrong_answer"], ["42, not 43"])
    assert plain["row"] == 3
    assert say(capsys, *words)[::2] == (2, f"prl data check: {good} exists; name another file\n")
    assert say(capsys, "check", str(good)) == (0, f"{good}: 2 traces, 2 pass (100.0%), 0 are rejected\n", "")


def test_wrong_paths_are_counted_recorded_and_judged(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    slip = render(["6 * 7 = 42 cats", "Seven sixes: 36", "Twice 21 makes 42"], "42.") + "\nFinal Answer: 42"
    rows = [ROWS[0] | {"trace": slip, **context} for context in ({"context_paths": [1]}, {}, {})]
    rows.append(ROWS[3] | {"context_paths": []})
    path, good = tmp_path / "traces.jsonl", tmp_path / "good.parquet"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    _, out, _ = say(capsys, "check", str(path), "--repair", "--accepted", str(good))
    recorded = "  wrong paths, recorded: 1 in 1 of 2 traces\n"
    judged = "  wrong paths, judged: 2 in 2 of 2 traces; --wrong_paths judged has `prl sft` not learn them\n"
    assert recorded + judged in out
    kept = load_rows(str(good), need=("problem", "trace"))
    assert [row.get("context_paths") for row in kept] == [[1], None, None, []]
    assert say(capsys, "stats", str(path))[1].endswith(recorded)
    assert judged not in say(capsys, "check", str(path), "--judge_answers", "false")[1]


def test_what_may_be_let_go_is_named(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert say(capsys, "check", str(file), "--ignore", "wrong_answer", "--allow_sequential")[0] == 0
    status, _, err = say(capsys, "check", str(file), "--ignore", "wrong_anser")
    assert status == 2
    assert "ignore: 'wrong_anser' is no reason; nearest: wrong_answer" in err


def test_nothing_left_is_an_error_and_no_file(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, _, err = say(
        capsys, "check", str(file), "--max_length", "5", "--accepted", str(tmp_path / "a.jsonl")
    )
    assert status == 1
    assert "no trace passes" in err
    assert not (tmp_path / "a.jsonl").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"problem": "a", "trace": "b"}\n', "answer"),
        ('{"problem": "a", "answer": "1", "trace": "b"}\nnot json\n', "line 2"),
        ("", ""),
    ],
)
def test_a_file_that_cannot_be_read_is_one_message(
    text: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_text(text)
    status, out, err = say(capsys, "check", str(path))
    assert (status, out) == (1, "")
    assert message in err
    assert "Traceback" not in err
    assert say(capsys, "check", str(tmp_path / "none.parquet"))[0] == 1
    assert say(capsys, "check", str(path), "--accepted", "x.csv")[::2] == (
        2,
        "prl data check: x.csv: give a name that ends with .parquet or .jsonl\n",
    )


def test_stats_count_blocks_paths_and_lengths(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = describe([row["trace"] for row in ROWS])
    assert (found["traces"], found["format_valid"]) == (4, 1.0)
    assert (found["blocks"], found["paths"]) == ({0: 1, 1: 3}, {0: 1, 2: 3})
    assert found["length"][0] == 20
    assert found["length"][-1] == len(SPACED)
    status, out, _ = say(capsys, "stats", str(file), "--tokenizer", "tiny")
    assert status == 0
    assert "blocks in a trace       0: 1, 1: 3" in out
    assert "tokens (5% / 50% / 95% / 100%)" in out


def test_a_tokenizer_that_is_not_there_is_told_as_a_model_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "t.jsonl"
    file.write_text(json.dumps({"problem": "1 + 1", "trace": "2"}) + "\n")
    status, _, err = say(capsys, "stats", str(file), "--tokenizer", "./nope")
    assert (status, err.splitlines()[-1].partition(" no such folder.")[0]) == (1, "prl data stats: ./nope:")


def test_rows_are_drawn_side_by_side(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = say(capsys, "show", str(file), "--rows", "1", "3")
    assert status == 0
    assert "┌─ Path 1 " in out
    assert "┬─ Path 2 " in out
    assert out.count("Six times seven?") == 2
    assert say(capsys, "show", str(file), "--rows", "5")[::2] == (
        2,
        f"prl data show: rows: 5 is none of {file}, which has 1 to 4\n",
    )


def test_context_paths_and_openings_are_drawn_as_such(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    block = render(["\n1\n6 * 7 = 42", "\n2\n6 * 7 = 36"], "42")
    path = tmp_path / "traces.jsonl"
    row = {"problem": "6 * 7?", "answer": "42", "trace": block + block + "42", "context_paths": [1, 2]}
    path.write_text(json.dumps(row) + "\n")
    numbered = say(capsys, "show", str(path), "--path_opening", "number")[1]
    rules = [line for line in numbered.splitlines() if "Path" in line]
    assert [re.findall(r"Path \d(?:, context)?", line) for line in rules] == [
        ["Path 1", "Path 2, context"],
        ["Path 1, context", "Path 2"],
    ]
    assert "│ 6 * 7 = 42 " in numbered
    assert "│ 1 " in say(capsys, "show", str(path))[1], "text, where it is no opening"
    assert "path diversity        0.333" in say(capsys, "stats", str(path))[1]
    assert "path diversity        0.200" in say(capsys, "stats", str(path), "--path_opening", "number")[1]
    empty = json.dumps(row | {"trace": render(["\n1\n42", "\n2\n"], "42"), "context_paths": []})
    path.write_text(empty + "\n")
    assert "100.0% with a valid format" in say(capsys, "stats", str(path))[1]
    assert "0.0% with a valid format" in say(capsys, "stats", str(path), "--path_opening", "number")[1]


def test_an_action_that_is_not_there_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert say(capsys, "chek", "x")[::2] == (
        2,
        "prl data: unknown action 'chek'; there is `prl data traces`, `prl data import`, `prl data check`, "
        "`prl data stats`, `prl data show`, `prl data mix`, `prl data push`\n",
    )


def test_the_traces_of_the_generator_pass(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_sets(tmp_path)
    files = [path for path in sorted(tmp_path.rglob("*.jsonl")) if '"trace"' in path.read_text()]
    assert files
    for path in files:
        status, out, _ = say(capsys, "check", str(path), "--min_diversity", "0", "--allow_sequential")
        assert status == 0, out


@pytest.mark.real
def test_the_real_traces_are_as_their_readme_says(
    real_data: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    file = str(real_data / "parallel_gsm8k_341.parquet")
    traces = [row["trace"] for row in load_rows(file, need=("problem", "trace"))]
    found = describe(traces)
    assert found["blocks"] == {0: 3, 1: 261, 2: 59, 3: 12, 4: 6}
    assert found["paths"][2] == 256
    assert {*found["paths"]} - {0, 2} <= {*range(3, 9)}
    status, out, _ = say(capsys, "check", file, "--rejected", str(tmp_path / "rejected.parquet"))
    assert status == 1
    assert "341 traces, 265 pass (77.7%), 76 are rejected" in out
    rows = pq.read_table(tmp_path / "rejected.parquet").to_pylist()
    assert [row["row"] for row in rows if "no_block" in row["reasons"]] == [65, 96, 279]


@pytest.mark.real
def test_the_real_traces_have_the_tokens_that_their_readme_says(
    real_data: Path, real_tokenizer: object, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    real_tokenizer.save_pretrained(tmp_path)  # type: ignore[attr-defined]
    file = str(real_data / "parallel_gsm8k_341.parquet")
    _, out, _ = say(capsys, "stats", file, "--tokenizer", str(tmp_path))
    assert "213 / 336 / 609 / 882 tokens" in out
