"""prl data traces from end to end: against a real endpoint that goes wrong, killed, out of money, misused."""

from __future__ import annotations

import dataclasses
import json
import os
import random
import re
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from faulty_endpoint import FAULTS, Endpoint, completion, served

from prl import cli
from prl.config import parse
from prl.traces.asking import Answer
from prl.traces.factory import mode_of, teacher_of
from prl.traces.journal import Journal
from prl.traces.work import Seen, Work

KEY = "sk-abcdefghijklmnopqrstuvwxyz"


@pytest.fixture(autouse=True)
def no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return problems(tmp_path / "problems.jsonl", 40)


def problems(path: Path, count: int) -> Path:
    sums = [(number % 97 + 3, number) for number in range(count)]
    path.write_text(
        "".join(json.dumps({"problem": f"{a} + {b}", "answer": str(a + b)}) + "\n" for a, b in sums)
    )
    return path


def words(file: Path, server: Endpoint | str, folder: Path, *more: str) -> list[str]:
    url = server if isinstance(server, str) else server.url
    return [
        "data", "traces", str(file), "--base_url", url, "--model", "teacher", "--output_dir", str(folder),
        *more,
    ]  # fmt: skip


def table(folder: Path, name: str = "traces.parquet") -> list[dict[str, Any]]:
    return pq.read_table(folder / name).to_pylist()


def say(capsys: pytest.CaptureFixture[str], given: list[str]) -> tuple[int, str, str]:
    status = cli.main(given)
    said = capsys.readouterr()
    return status, said.out, said.err


# --- What it makes


def test_a_set_of_checked_traces_with_its_card(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "out"
    with served() as server:
        status, out, err = say(capsys, words(file, server, folder, "--license", "cc-by-4.0"))
    assert status == 0
    good, bad = table(folder), table(folder, "rejected.parquet")
    assert len(good) + len(bad) == 40
    assert good
    assert bad
    assert [row["problem"] for row in good] == [
        row["problem"]
        for row in map(json.loads, file.read_text().splitlines())
        if row["problem"] in {row["problem"] for row in good}
    ], "in the order of the problems"
    assert {reason for row in bad for reason in row["reasons"]} == {"wrong_answer", "no_block"}
    assert f"{folder}: {len(good)} traces of {len(good)} of 40 answered problems" in out
    assert "to ask: 40 requests at first" in err
    card = (folder / "README.md").read_text()
    assert "license: cc-by-4.0" in card
    assert f"| traces in the data set | {len(good)} |" in card
    assert "Not checked: no benchmark was named" in card
    assert str(tmp_path) not in card
    import datasets

    loaded = datasets.load_dataset(str(folder), cache_dir=str(tmp_path / "cache"))["train"]
    assert loaded.to_list() == good
    assert say(capsys, ["data", "check", str(folder / "traces.parquet")])[0] == 0


def test_faults_change_nothing_of_the_set(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with served(latency=0) as server:
        assert cli.main(words(file, server, tmp_path / "calm")) == 0
    with served(latency=0, faults=FAULTS, share=0.4) as server:
        given = words(file, server, tmp_path / "stormy", "--timeout", "0.3", "--concurrency", "16")
        assert cli.main(given) == 0
        assert {fault for _, _, fault, _ in server.asked} >= {None, "busy", "torn", "error"}
    for name in ("traces.parquet", "rejected.parquet"):
        assert table(tmp_path / "stormy", name) == table(tmp_path / "calm", name)


def test_what_is_answered_is_not_asked_again_and_other_rules_cost_nothing(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "out"
    with served(latency=0) as server:
        say(capsys, words(file, server, folder))
        before = table(folder)
        status, out, err = say(capsys, words(file, server, folder, "--resume", "--allow_sequential"))
        assert status == 0
        assert len(server.asked) == 40
    assert "40 answered already" in err
    assert "no_block" not in out
    assert len(table(folder)) > len(before)


def test_best_of_several_and_further_attempts(file: Path, tmp_path: Path) -> None:
    with served(latency=0) as server:
        given = words(file, server, tmp_path / "out", "--samples", "3", "--attempts", "2", "--keep", "2")
        assert cli.main(given) == 0
        failed = {row["problem"] for row in table(tmp_path / "out", "rejected.parquet")}
        tries = [problem for problem, *_ in server.asked]
    assert {problem: tries.count(problem) for problem in tries} == {
        problem: 3 * (1 + (problem in failed)) for problem in tries
    }
    good = table(tmp_path / "out")
    assert len(good) == len({row["problem"] for row in good}), "the samples are the same text: one is kept"


def test_more_samples_ask_only_for_the_new_ones(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with served(latency=0, keep_bodies=True) as server:
        assert cli.main(words(file, server, tmp_path / "out", "--samples", "2")) == 0
        _, _, err = say(capsys, words(file, server, tmp_path / "out", "--samples", "3", "--dry_run"))
        assert "to ask: 40 requests at first" in err
        assert "at most 163,840 tokens of answers" in err
        assert cli.main(words(file, server, tmp_path / "out", "--samples", "3", "--resume")) == 0
        asked = {(body["messages"][0]["content"], body["seed"]) for body in server.bodies}
        assert len(asked) == len(server.bodies) == 3 * 40
        assert cli.main(words(file, server, tmp_path / "other", "--seed", "1")) == 0
        again = {(body["messages"][0]["content"], body["seed"]) for body in server.bodies[3 * 40 :]}
    assert len(again) == 40
    assert asked.isdisjoint(again), "another seed asks otherwise"


@pytest.mark.parametrize(("change", "status"), [(("", ""), 0), (("tens: 40", "tens: 41"), 1)])
def test_a_teacher_marks_blocks_in_the_solution_of_another(
    tmp_path: Path, change: tuple[str, str], status: int
) -> None:
    file = tmp_path / "solutions.jsonl"
    solution = "Ones: 2 and 0, 2. The tens: 40. Together 42.\n\nFinal Answer: 42"
    file.write_text(json.dumps({"problem": "12 + 30", "answer": "42", "trace": solution}) + "\n")
    marked = (
        "<Parallel><Path>Ones: 2 and 0, 2.</Path><Path>The tens: 40.</Path></Parallel>\n"
        "<Summary>Together 42.</Summary>\n\nFinal Answer: 42"
    )
    body = json.dumps({"choices": [{"message": {"content": marked.replace(*change)}}]})
    with served(body=body, keep_bodies=True) as server:
        assert cli.main(words(file, server, tmp_path / "out", "--mode", "annotate")) == status
        (asked,) = server.bodies
    assert asked["messages"][0]["content"].endswith(solution)
    (row,) = table(tmp_path / "out", "rejected.parquet" if status else "traces.parquet")
    assert row["trace"] == marked.replace(*change)
    assert row.get("reasons") == (["altered_words"] if status else None)


@pytest.mark.parametrize(
    "thoughts",
    [
        "Hm, <Parallel> or not?</think>",
        "<thinking>42? No.</thinking>",
        "<thought>42?</thought>",
        "[THINK]42?[/THINK]",
    ],
)
def test_what_a_teacher_thinks_is_kept_and_no_part_of_the_trace(tmp_path: Path, thoughts: str) -> None:
    file = tmp_path / "problems.jsonl"
    file.write_text('{"problem": "12 + 30", "answer": "42"}\n')
    trace = completion("12 + 30", {"model": "teacher"})["choices"][0]["message"]["content"]
    message = {"content": f"{thoughts}\n\n```text\n{trace}\n```"}
    with served(body=json.dumps({"choices": [{"message": message}]})) as server:
        assert cli.main(words(file, server, tmp_path / "out")) == 0
    (row,) = table(tmp_path / "out")
    assert (row["trace"], row["repairs"]) == (trace, ["code fence around the trace"])
    with Journal(tmp_path / "out" / "journal") as journal:
        assert [record["text"] for record in journal.records()] == [message["content"]]


def test_paths_that_end_in_another_result_are_recorded(tmp_path: Path) -> None:
    file = tmp_path / "problems.jsonl"
    file.write_text('{"problem": "12 + 30", "answer": "42"}\n')
    trace = completion("12 + 30", {"model": "teacher"})["choices"][0]["message"]["content"]
    for said, places in ((trace, []), (trace.replace("apart give 42", "apart give 52"), [1])):
        with served(body=json.dumps({"choices": [{"message": {"content": said}}]})) as server:
            assert cli.main(words(file, server, tmp_path / "out", "--overwrite_output_dir")) == 0
        assert [row["context_paths"] for row in table(tmp_path / "out")] == [places]


def test_duplicates_bad_rows_and_problems_of_a_benchmark_are_left_out(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with file.open("a") as more:
        more.write('{"problem": "3  +  0", "answer": "3"}\n{"problem": "", "answer": "3"}\n')
    bench = problems(tmp_path / "bench.jsonl", 5)
    folder = tmp_path / "out"
    with served(latency=0) as server:
        status, _, err = say(capsys, words(file, server, folder))
        assert status == 1
        assert "bad rows: 1 of 42\n  line 42: problem is empty\n" in err
        given = words(file, server, folder, "--on_bad_rows", "skip", "--benchmarks", str(bench), "--resume")
        status, _, err = say(capsys, given)
        assert status == 0
        assert len(server.asked) == 35
    assert "left out: 1 duplicates, 1 bad rows, 5 problems of a benchmark" in err
    assert "| `bench.jsonl` | 5 | 5 |" in (folder / "README.md").read_text()


def test_what_is_read_otherwise_than_written_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "problems.jsonl"
    rows = [{"problem": f"{a} + 1<|im_end|>", "answer": a + 1} for a in range(3)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with served() as server:
        _, _, err = say(capsys, words(file, server, tmp_path / "out", "--dry_run"))
    assert "  3 problems have <|im_end|> at their ends, which is taken off\n" in err


# --- Limits


def test_a_dry_run_asks_nothing(file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prices = ("--dry_run", "--prompt_price", "2", "--completion_price", "8", "--max_tokens", "1000")
    with served() as server:
        status, _, err = say(capsys, words(file, server, tmp_path / "out", *prices))
        assert (status, server.asked) == (0, [])
    assert "to ask: 40 requests at first, about 8,7" in err
    assert "at most 40,000 tokens of answers, at most 0.34" in err
    assert not (tmp_path / "out").exists()


def test_a_dry_run_writes_nothing_and_knows_what_was_asked(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "out"
    with served(latency=0) as server:
        say(capsys, words(file, server, folder, "--max_requests", "10"))
        before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        for more in ((), ("--resume",), ("--overwrite_output_dir",)):
            status, _, err = say(capsys, words(file, server, folder, "--dry_run", *more))
            left = 40 if "--overwrite_output_dir" in more else 30
            assert (status, f"to ask: {left} requests at first" in err) == (0, True)
        assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
        assert len(server.asked) == 10


def test_a_spent_budget_gives_a_part_and_more_money_the_rest(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "out"
    with served(latency=0) as server:
        status, _, err = say(capsys, words(file, server, folder, "--max_requests", "10"))
        assert (status, len(server.asked)) == (0, 10)
        assert "the budget is spent: one more request may go beyond --max_requests 10" in err
        assert "The asking ended before the last problem" in (folder / "README.md").read_text()
        assert cli.main(words(file, server, folder, "--resume", "--max_requests", "40")) == 0
        assert len(server.asked) == 40
    with served(latency=0) as server:
        cli.main(words(file, server, tmp_path / "whole"))
    assert table(folder) == table(tmp_path / "whole")


def test_a_budget_holds_where_the_server_states_no_tokens(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    extra = '{"max_tokens": null, "max_completion_tokens": 1000}'
    more = ("--extra_body", extra, "--max_cost", "0.0105", "--completion_price", "1")
    body = json.dumps({"choices": completion("12 + 30", {"model": "teacher"})["choices"]})
    with served(latency=0, body=body) as server:
        _, _, err = say(capsys, words(file, server, tmp_path / "out", *more))
        assert len(server.asked) == 10
    assert "at most 40,000 tokens of answers, at most 0.04" in err
    said = "the teacher did not say the tokens of 10 answers: each counts as the most that it may have cost"
    assert err.count(said) == 1
    assert "one more request may go beyond --max_cost 0.0105" in err


def test_a_budget_for_not_one_request_says_so(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with served(latency=0) as server:
        given = words(file, server, tmp_path / "out", "--max_cost", "0.01", "--completion_price", "10")
        status, _, err = say(capsys, given)
        assert (status, server.asked) == (1, [])
        assert "one more request may go beyond --max_cost 0.01" in err
        said = "none of 40 problems was answered, so the data set is empty. The latest reason: the budget is"
        assert said in err
        assert cli.main([*given, "--resume", "--max_tokens", "60"]) == 0


# --- Killed


def child(given: list[str]) -> subprocess.Popen[str]:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "200"}
    return subprocess.Popen(
        [sys.executable, "-m", "prl", *given], stderr=subprocess.PIPE, text=True, env=environment
    )


def until(reached: Iterator[bool] | Any) -> None:
    deadline = time.monotonic() + 60
    while not reached():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_the_table_of_problems_is_closed_however_far_it_was_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Python warns, from 3.13 on, of a database that nobody closed."""
    made = []

    class Kept(Seen):
        def __post_init__(self) -> None:
            super().__post_init__()
            made.append(self)

    monkeypatch.setattr("prl.traces.work.Seen", Kept)
    with served() as server, Journal(tmp_path / "none") as nothing:
        given = words(problems(tmp_path / "problems.jsonl", 3), server, tmp_path / "out")
        settings = parse("data traces", given[2:]).arguments
        rows = Work(settings, teacher_of(settings), mode_of(settings), nothing).problems()
        next(rows)
        rows.close()
    with pytest.raises(sqlite3.ProgrammingError, match="closed"):
        made[0].is_new("1 + 1")


@pytest.mark.parametrize(
    ("count", "kills"), [(120, 3), pytest.param(1000, 10, marks=[pytest.mark.slow, pytest.mark.timeout(0)])]
)
def test_killed_at_any_moment_the_set_is_the_same_and_no_answer_is_asked_for_again(
    tmp_path: Path, count: int, kills: int
) -> None:
    file, folder, drawer = problems(tmp_path / "problems.jsonl", count), tmp_path / "killed", random.Random(0)
    with served(latency=0.005) as server:
        assert cli.main(words(file, server, tmp_path / "whole")) == 0
    with served(latency=0.005, faults=FAULTS, share=0.3) as server:
        given = words(file, server, folder, "--timeout", "0.3", "--concurrency", "16")
        settings = parse("data traces", given[2:]).arguments
        with Journal(tmp_path / "none") as nothing:
            work = Work(settings, teacher_of(settings), mode_of(settings), nothing)
            keys = {row["problem"]: work.rounds(row, 0, [])[0][0] for row in work.problems()}
        moments = sorted(drawer.sample(range(count // 20, count), kills))
        for moment in moments:
            process = child([*given, *(["--resume"] if folder.exists() else [])])
            until(
                lambda moment=moment, process=process: (
                    len(server.asked) >= moment or process.poll() is not None
                )
            )
            process.kill()
            process.wait()
            process.stderr.close()
            with Journal(folder / "journal") as journal:
                answered = {problem for problem, key in keys.items() if key in journal}
            asked = len(server.asked)
        process = child([*given, "--resume"])
        _, err = process.communicate()
        assert process.returncode == 0, err
        again = {problem for problem, *_ in server.asked[asked:]}
        assert again == keys.keys() - answered, "all that was missing, nothing that was there"
    for name in ("traces.parquet", "rejected.parquet"):
        assert table(folder, name) == table(tmp_path / "whole", name)
    with Journal(folder / "journal") as journal:
        records = [record["key"] for record in journal.records() if "key" in record]
    assert sorted(records) == sorted(keys.values())


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_a_signal_keeps_what_is_on_its_way(tmp_path: Path) -> None:
    file = problems(tmp_path / "problems.jsonl", 60)
    with served(latency=0.3) as server:
        given = words(file, server, tmp_path / "out")
        process = child(given)
        until(lambda: len(server.asked) >= 9)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate()
        assert process.returncode == 1
        assert re.search(r"waiting for \d+ answers on their way; again stops at once", err)
        last = err.strip().splitlines()[-1]
        assert last.startswith("prl data traces: interrupted; the answers so far are kept")
        with Journal(tmp_path / "out" / "journal") as journal:
            assert len(journal) == len(server.asked)
        done = child([*given, "--resume"])
        done.communicate()
        assert (done.returncode, len(server.asked)) == (0, 60)


# --- What goes wrong


def test_an_endpoint_that_is_not_there(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, _, err = say(capsys, words(file, "http://127.0.0.1:9/v1", tmp_path / "out"))
    assert status == 1
    last = err.strip().splitlines()[-1]
    assert last.startswith("prl data traces: http://127.0.0.1:9/v1: Cannot connect")
    assert last.endswith("0 answers are kept; the same command with --resume goes on")
    with served(latency=0) as server:
        assert cli.main(words(file, server, tmp_path / "out", "--resume")) == 0


def test_keys_are_asked_for_and_written_nowhere(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "out"
    with served(latency=0, key=KEY) as server:
        given = words(file, server, folder)
        status, _, err = say(capsys, given)
        assert status == 1
        assert "401 from" in err
        assert "export OPENAI_API_KEY" in err
        status, _, err = say(capsys, [*given, "--resume", "--api_key_env", "MINE"])
        assert (status, err) == (
            2, "prl data traces: api_key_env: the environment variable MINE is not set; export the key\n"
        )  # fmt: skip
        monkeypatch.setenv("MINE", "sk-wrongwrongwrongwrongwrong")
        status, _, err = say(capsys, [*given, "--resume", "--api_key_env", "MINE"])
        assert status == 1
        assert "is the key in MINE right?" in err
        assert "wrongwrong" not in err
        monkeypatch.setenv("MINE", KEY)
        assert cli.main([*given, "--resume", "--api_key_env", "MINE"]) == 0
    held = b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())
    assert KEY.encode() not in held
    assert b"wrongwrong" not in held


def test_a_model_that_is_not_there(file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with served(model="other") as server:
        status, _, err = say(capsys, words(file, server, tmp_path / "out"))
    assert status == 1
    assert "The model `teacher` does not exist; it has other" in err.replace("\n", " ")


def test_what_is_refused_says_why(file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with served(latency=0, always="too_long") as server:
        status, _, err = say(capsys, words(file, server, tmp_path / "out", "--limit", "2"))
    assert status == 1
    assert len(re.findall(r"no answer for '.*': 400 from .*: maximum context length", err)) == 2
    assert re.search(r"none of 2 problems was answered.*reason: 400 from .*maximum context length", err)


def test_an_outage_stops_the_asking(file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with served(latency=0, always="no_choices") as server:
        status, _, err = say(capsys, words(file, server, tmp_path / "out", "--retries", "0"))
    assert status == 1
    assert "prompts got no answer, the latest because: the answer has no choices" in err


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([{"problem": "1 + 1"}], "has no column for the answer"),
        ([{"question": "1 + 1", "answer": None}], "answer is missing"),
        ([], "is empty"),
    ],
)
def test_problems_that_cannot_be_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], rows: list[dict[str, Any]], said: str
) -> None:
    path = tmp_path / "p.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with served() as server:
        status, _, err = say(capsys, words(path, server, tmp_path / "out"))
        assert (status, server.asked) == (1, [])
    assert said in err


def test_a_set_that_would_be_empty_says_why(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "p.jsonl"
    path.write_text('{"problem": "1 + 1", "answer": "77"}\n')
    folder = tmp_path / "out"
    with served() as server:
        status, _, err = say(capsys, words(path, server, folder))
    assert status == 1
    assert "no trace of 1 answered problems passed (wrong_answer 1" in err
    assert [row["reasons"] for row in table(folder, "rejected.parquet")] == [["wrong_answer"]]
    assert table(folder) == []


THINKING = "<think>\\nHm, so then" + " and so on" * 20
MAGISTRAL = THINKING.replace("<think>", "[THINK]")
CUT = "2 of 2 answers were cut off at --max_tokens 4096"
STILL = ", 2 of them while it was still thinking"


@pytest.mark.parametrize(
    ("message", "reason", "advice"),
    [
        (
            f'{{"content": "{THINKING}"}}',
            "length",
            f"{CUT}{STILL}: raise that, or turn thinking off with --extra_body",
        ),
        (
            f'{{"content": "{MAGISTRAL}"}}',
            "length",
            f"{CUT}{STILL}: raise that, or turn thinking off with --extra_body",
        ),
        (
            f'{{"content": null, "reasoning_content": "{THINKING}"}}',
            "length",
            f"{CUT}{STILL}: raise that, or turn thinking off with --extra_body",
        ),
        ('{"content": "Well, 1 + 2 is"}', "length", f"{CUT}: raise that"),
        (
            f'{{"content": "", "reasoning": "{THINKING}"}}',
            "stop",
            "2 of 2 answers are reasoning and no text: have the teacher's server leave it in the text "
            "(vLLM: no --reasoning-parser), or turn thinking off with --extra_body",
        ),
        (
            '{"content": "3"}',
            "stop",
            "A larger teacher, easier problems, --samples or --mode rewrite may help",
        ),
    ],
)
def test_answers_that_did_not_come_to_their_end_are_told_apart(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], message: str, reason: str, advice: str
) -> None:
    file, folder = problems(tmp_path / "two.jsonl", 2), tmp_path / "out"
    with served(body=f'{{"choices": [{{"message": {message}, "finish_reason": "{reason}"}}]}}') as server:
        status, _, err = say(capsys, words(file, server, folder))
    assert status == 1
    last = err.strip().splitlines()[-1]
    assert last.endswith(f"rejected.parquet. {advice}; the answers are kept")
    details = [detail for row in table(folder, "rejected.parquet") for detail in row["details"]]
    amid = ", still thinking" if "think" in advice else ""
    assert (f"cut off at --max_tokens 4096{amid}" in details) == (reason == "length")


def test_answers_that_were_cut_off_are_told_beside_those_that_pass(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with served(latency=0, cut=0.5) as server:
        status, out, _ = say(capsys, words(file, server, tmp_path / "out"))
    assert status == 0
    assert re.search(r"\n  \d\d of 40 answers were cut off at --max_tokens 4096: raise that\n", out)


@pytest.mark.parametrize(("mode", "cut"), [("rewrite", 2), ("rewrite", 0), ("annotate", 1)])
def test_a_trace_whose_last_answer_was_cut_off_is_rejected(tmp_path: Path, mode: str, cut: int) -> None:
    file = tmp_path / "problems.jsonl"
    file.write_text('{"problem": "A dozen is halved, and 1 added.", "answer": "7"}\n')
    one, other = "Half of twelve is six. Then 6 + 1 = 7.", "Take five from the dozen: 12 - 5 = 7."
    said = [f"{one}\n\nFinal Answer: 7", f"{other}\n\nFinal Answer: 7", "The ways agree, because"]
    if mode == "annotate":
        block = "<Parallel><Path>Half of twelve is six.</Path><Path>Then 6 + 1 = 7.</Path></Parallel>"
        said = [said[0], f"{block}\n\nFinal Answer: 7"]
    given = words(file, "http://127.0.0.1:9/v1", tmp_path / "out", "--mode", mode)[2:]
    given += ["--solutions", "2"] if mode == "rewrite" else []
    settings = parse("data traces", given).arguments
    with Journal(tmp_path / "journal") as journal:
        work = Work(settings, teacher_of(settings), mode_of(settings), journal)
        (row,) = work.problems()
        texts: list[str] = []
        while requests := work.rounds(row, 0, texts):
            for key, _ in requests:
                reason = "length" if len(texts) == cut else "stop"
                answer = Answer(said[len(texts)], 100, 50, reason)
                journal.append({"key": key} | dataclasses.asdict(answer))
                texts.append(said[len(texts)])
        (candidate,) = work.candidates(row, 0) or []
    details = [rejection.detail for rejection in candidate.rejections]
    assert ("cut off at --max_tokens 4096" in details) == (cut + 1 == len(said))


def test_a_local_teacher_that_cannot_says_so_and_what_may_help(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "out"
    given = ["data", "traces", "arithmetic:easy", "--limit", "6", "--output_dir", str(folder)]
    given += ["--samples", "2", "--max_tokens", "24", "--device", "cpu"]
    status, _, err = say(capsys, given)
    assert status == 1
    last = err.strip().splitlines()[-1]
    assert "no trace of 6 answered problems passed (" in last
    assert re.search(
        r"\. 1\d of 12 answers were cut off at --max_tokens 24: raise that; the answers are kept$", last
    )
    bad = table(folder, "rejected.parquet")
    assert len(bad) == 12
    assert {row["teacher"] for row in bad} == {"tiny"}
    assert say(capsys, [*given, "--resume"])[2].count("6 answered already") == 1


@pytest.mark.parametrize("flags", [[], ["--load_in_4bit"], ["--load_in_4bit", "false"]])
def test_a_local_teacher_is_loaded_as_asked_for(flags: list[str]) -> None:
    teacher = teacher_of(parse("data traces", ["p.jsonl", "--device", "cpu", *flags]).arguments)
    assert teacher.options["load_in_4bit"] == (flags == ["--load_in_4bit"])


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--mode", "rite"], "mode"),
        (["--extra_body", "{"], "extra_body: '{' is not JSON"),
        (["--extra_body", "[1]"], "extra_body: '[1]' is no JSON object"),
        (["--ignore", "nonsense"], "ignore: 'nonsense' is no reason"),
        (["--samples", "0"], "samples 0 asks a teacher for nothing"),
        (["--concurrency", "0"], "concurrency"),
        (["--max_cost", "5"], "max_cost 5 limits nothing where tokens cost nothing; give --prompt_price"),
        (["--solutions", "4"], "solutions 4: --mode rewrite alone takes it; add that, or leave this out"),
        (["--summary", "template", "--mode", "annotate"], "summary template: --mode rewrite alone takes it"),
        (
            ["--path_opening", "plan", "--mode", "rewrite"],
            "path_opening plan: --mode rewrite writes no plan before a block; leave it out",
        ),
        (["--path_opening", "plan", "--mode", "annotate"], "--mode annotate writes no plan"),
        (["--base_url", "localhost"], "base_url: 'localhost' is no URL"),
        (["--base_url", "http://me:sk-1@host/v1"], "the one at host holds a user, a password or a query"),
        (["--base_url", "http://host/v1?key=sk-1"], "keys are taken from the environment only"),
    ],
)
def test_flags_that_cannot_be(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[str], said: str
) -> None:
    status, _, err = say(capsys, words(file, "http://127.0.0.1:9/v1", tmp_path / "out", *more))
    assert status == 2
    assert said in err
    assert "sk-1" not in err
    assert len(err.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("flag", "value"),
    [("extra_body", '{"top_k": 20}'), ("api_key_env", "MINE"), ("timeout", "3"), ("retries", "0")],
)
def test_what_only_an_endpoint_takes_is_refused_without_one(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], flag: str, value: str
) -> None:
    given = ["data", "traces", str(file), "--output_dir", str(tmp_path / "out"), f"--{flag}", value]
    status, _, err = say(capsys, given)
    assert status == 2
    assert re.search(rf"{flag} .*: an endpoint alone takes it; add --base_url, or leave it out", err)


def test_flags_of_a_mode_are_taken_in_it(file: Path) -> None:
    given = [str(file), "--mode", "rewrite", "--solutions", "4", "--summary", "template"]
    assert mode_of(parse("data traces", [*given, "--path_opening", "number"]).arguments).name == "rewrite"
    assert mode_of(parse("data traces", [str(file), "--path_opening", "plan"]).arguments).name == "write"


# --- Many

CHILD = """
import asyncio, json, sys
import psutil
from faulty_endpoint import completion
from prl import cli
from prl.traces import factory
from prl.traces.asking import Answer
from prl.traces.work import Work

process, sink, step = psutil.Process(), open(sys.argv[1], "w", buffering=1), factory._Shown.step
counts = {"asked": 0, "built": 0}

class Quick:
    "Answers at once, as the endpoint of these tests does."
    name, options, places = "quick", {}, 40

    async def ask(self, request):
        await asyncio.sleep(0)
        said = completion(request.messages[-1]["content"].rpartition("Problem: ")[2], {"model": "quick"})
        return Answer(said["choices"][0]["message"]["content"], 100, 50, "stop")

    async def aclose(self):
        pass

def measured(phase):
    counts[phase] += 1
    if counts[phase] % 1000 == 0:
        sink.write(json.dumps({"phase": phase, "rss": process.memory_info().rss}) + "\\n")

def stepped(shown, row):
    step(shown, row)
    measured("asked")

judge = Work._judged

def judged(work, row, attempt, answers):
    if sys._getframe(2).f_code.co_name != "step":
        measured("built")
    return judge(work, row, attempt, answers)

factory.teacher_of = lambda given: Quick()
factory._Shown.step, Work._judged = stepped, judged
sys.exit(cli.main(sys.argv[2:]))
"""


@pytest.mark.parametrize(
    "count", [4_000, pytest.param(100_000, marks=[pytest.mark.slow, pytest.mark.timeout(0)])]
)
def test_memory_does_not_grow_with_the_problems(tmp_path: Path, count: int) -> None:
    file, measured = problems(tmp_path / "problems.jsonl", count), tmp_path / "measured.jsonl"
    given = ["data", "traces", str(file), "--output_dir", str(tmp_path / "out"), "--concurrency", "32"]
    here = str(Path(__file__).parent)
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": here}
    done = subprocess.run(
        [sys.executable, "-c", CHILD, str(measured), *given], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in measured.read_text().splitlines()]
    by_phase = {
        phase: [row["rss"] / 2**20 for row in rows if row["phase"] == phase] for phase in ("asked", "built")
    }
    for phase, found in by_phase.items():
        print(f"{phase}, MiB: " + " ".join(f"{rss:.1f}" for rss in found[:: max(1, len(found) // 10)]))
    assert pq.read_metadata(tmp_path / "out" / "traces.parquet").num_rows > 0.7 * count
    for phase, found in by_phase.items():
        assert len(found) == count // 1000
        # Caches fill up first: SQLite's (2 MB for each of its tables), that of verdicts, a row group's.
        assert found[-1] / found[len(found) // 2] < 1.05, phase
