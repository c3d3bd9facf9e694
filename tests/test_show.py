"""`prl show` and `prl.show`: runs, folders of runs, files and stdin, whole, half-written or hostile."""

from __future__ import annotations

import base64
import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow.parquet as pq
import pytest

import prl
from prl import cli
from prl.errors import DataError, RunError, UsageError
from prl.grammar import parse, render
from prl.runs import open_run
from prl.runs.reading import read_environment

TWO = render(["2+3=5", "3+2=6"], "5") + "\nFinal Answer: 5"
LOST = render(["2+3=5", "3+2=6"], "6") + "\nFinal Answer: 6"


def sample(text: str, **more: Any) -> dict[str, Any]:
    right = text.endswith("5")
    verdict = {
        "extracted": text[-1:],
        "verdict": "identical" if right else "different",
        "correct": float(right),
    }
    return {
        "problem": "2 + 3?",
        "answer": "5",
        "text": text,
        "faults": [],
        "token_ids": [1],
        **verdict,
        **more,
    }


@pytest.fixture
def run_of(tmp_path: Path) -> Callable[..., Path]:
    """Write a run: its loggings of samples by step; finished or not."""

    def write(
        name: str,
        steps: dict[int, list[dict[str, Any]]],
        *,
        done: bool = True,
        command: str = "rl",
        opening: str = "none",
    ) -> Path:
        config = {"command": command, command: {"path_opening": opening}}
        with open_run(tmp_path / name, command=command, config=config) as run:
            for step, rows in steps.items():
                run.log_metrics(step, {"reward": 0.5, "correct": 0.5})
                run.log_samples(step, rows)
            if done:
                run.finish()
        return tmp_path / name

    return write


STEPS = {step: [sample(TWO, group=0), sample(LOST, group=0, advantage=-1.0)] for step in (1, 2)}


def say(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    status = cli.main(["show", *words])
    out, err = capsys.readouterr()
    return status, out, err


def heads(out: str) -> list[str]:
    return re.findall(r"^── (.*?)(?: · group| · right| · wrong| · valid)", out, flags=re.MULTILINE)


@pytest.mark.parametrize("done", [True, False])
def test_a_run_is_shown_finished_or_not(
    run_of: Callable[..., Path], capsys: pytest.CaptureFixture[str], done: bool
) -> None:
    run = run_of("rl", STEPS, done=done)
    if not done:
        (run / "samples" / "step-000003-00.parquet").write_bytes(b"PAR1 half of a file")
    status, out, _ = say(capsys, str(run), "--width", "60")
    assert status == 0
    assert out.startswith(
        f"{run}: 4 responses, 3 shown (--limit 4 for all), the latest step first\n\n── row 3 · step 2"
    )
    assert heads(out) == ["row 3 · step 2", "row 4 · step 2", "row 1 · step 1"]
    assert "├─ Summary ─" in out
    assert max(map(len, [line for line in out.splitlines() if line.startswith("┌")])) == 60
    _, out, _ = say(capsys, str(run), "--wrong", "--step", "last", "--disagree")
    assert out.startswith(f"{run}: 1 of 4 responses match")
    assert "path 1 has 5\n2 + 3?\n" in out
    assert say(capsys, str(run / "samples.parquet" if done else run / "samples"))[0] == 0


def test_a_run_of_before_there_were_columns_shows_what_it_has(
    run_of: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    run = run_of("rl", STEPS)
    table = pq.read_table(run / "samples.parquet")
    pq.write_table(table.select(["step", "problem", "answer", "text"]), run / "samples.parquet")
    assert heads(say(capsys, str(run), "--wrong")[1]) == ["row 4 · step 2", "row 2 · step 1"]


def test_what_is_not_there_is_a_line(run_of: Callable[..., Path], capsys: pytest.CaptureFixture[str]) -> None:
    run = run_of("rl", STEPS)
    folder = run.parent
    (folder / "empty").mkdir()
    none, deep = run_of("none", {}), run_of("study/arm/rl", STEPS)
    for words, status, message in [
        (
            [str(run), "--step", "9"],
            1,
            f"nothing of {run} matches: it has 4 responses, steps 1 to 2, groups 0 to 0",
        ),
        ([str(run), "--rows", "5"], 2, f"rows: 5 is none of {run}, which has 1 to 4"),
        ([str(run), "--right", "--wrong"], 2, "right and wrong together match nothing"),
        ([str(run), "--step", "frist"], 2, "'frist' must be the number of a step, first or last"),
        ([str(run), "--width", "0"], 2, "0 must be 1 or more"),
        ([str(none)], 1, f"{none} has kept no response (yet)"),
        ([str(folder / "r")], 1, "no such folder. Did you mean"),
        (["runs/nowhere"], 1, "no such folder"),
        ([str(folder / "empty")], 1, "is no run and holds none"),
        ([str(folder / "study")], 1, f"is no run and holds none: name {deep}"),
        ([str(folder / "x.jsonl")], 1, "no such file"),
        ([str(folder), "--rows", "1", "--limit", "1"], 0, ""),
    ]:
        got, out, err = say(capsys, *words)
        assert (got, message in err, err.count("\n")) == (status, True, int(status > 0)), (words, out, err)


def test_a_folder_of_runs_shows_all_the_latest_first(
    run_of: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = run_of("early", STEPS).parent
    numbered = render(["\n1\n2+3=5", "\n2\n3+2=5"], "5") + "\nFinal Answer: 5"
    late = run_of("late", {0: [sample(numbered, mode="greedy")]}, command="eval", opening="number")
    run_of("none", {})
    told = read_environment(late) | {"started_at": "9999"}
    (late / "environment.json").write_text(json.dumps(told))
    _, out, _ = say(capsys, str(folder), "--limit", "2")
    assert out.startswith(
        f"{folder} (late, early): 5 responses, 2 shown (--limit 5 for all), the latest run first, "
        "the latest step first\n"
    )
    assert heads(out) == ["late · row 1 · greedy", "early · row 3 · step 2"]
    assert "│ 1 " not in out, "each run has its own opening of paths"
    status, _, err = say(capsys, str(folder), "--rows", "1")
    assert status == 2
    assert f"rows: each of several runs has its own; name one of {late}, " in err


def test_a_data_file_is_judged_where_it_has_golds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "traces.jsonl"
    rows = [
        {"problem": f"{n}: 2 + 3?", "answer": "5", "trace": text} for n, text in enumerate((TWO, LOST, TWO))
    ]
    rows[2]["context_paths"] = [1]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    _, out, _ = say(capsys, str(file), "--rows", "3", "1")
    assert heads(out) == ["row 3", "row 1"]
    assert "Path 2, context" in out
    assert heads(say(capsys, str(file), "--wrong")[1]) == ["row 2"]
    assert heads(say(capsys, str(file), "--problem", "0: 2")[1]) == ["row 1"]


def piped(monkeypatch: pytest.MonkeyPatch, said: bytes) -> None:
    stdin = SimpleNamespace(buffer=io.BytesIO(said), isatty=lambda: False)
    monkeypatch.setattr(sys, "stdin", stdin)


@pytest.mark.parametrize("words", [[], ["-"]])
def test_stdin_is_a_response_or_rows(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    piped(monkeypatch, TWO.encode() + b"\xff\x1b[2J")
    _, out, _ = say(capsys, *words)
    assert out.startswith("── row 1 · valid\n┌─ Path 1 ")
    assert "\x1b" not in out
    piped(monkeypatch, (json.dumps({"problem": "2 + 3?", "answer": "5", "trace": LOST}) + "\n").encode())
    assert "wrong: 6, gold 5" in say(capsys, *words)[1]
    stored = [
        sample(TWO, step=4, advantage=0.25, faults="?", length="x"),
        sample("", step=5, verdict="no answer"),
    ]
    piped(monkeypatch, json.dumps(stored).encode())
    assert heads(say(capsys, *words)[1]) == ["row 2 · step 5", "row 1 · step 4"]
    lines = "".join(json.dumps(each) + "\n" for each in stored)
    piped(monkeypatch, b"\xef\xbb\xbf" + lines.encode())  # as PowerShell pipes it
    assert heads(say(capsys, *words)[1]) == ["row 2 · step 5", "row 1 · step 4"]
    piped(monkeypatch, b'{"answer":')
    assert say(capsys, *words)[1].startswith("── row 1 · valid\n{")
    piped(monkeypatch, b" \n")
    assert say(capsys, *words)[2].startswith("prl show: stdin is empty")


def test_rows_of_samples_are_data_too(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    odd = {
        "step": 10**400,
        "length": 1e999,
        "correct": "yes",
        "faults": [7, None],
        "context_paths": "[0, 'x'",
    }
    odd |= {"reward_\x1b[2J": 1, "extracted": ["5"], "truncated": "no", "group": True, "verdict": "\ud800"}
    file = tmp_path / "odd.jsonl"
    lines = [json.dumps(sample(TWO) | odd), "torn {", json.dumps(sample(LOST, step=3))]
    file.write_text("\n".join(lines))
    status, out, _ = say(capsys, str(file))
    assert status == 0
    assert heads(out) == ["row 2 · step 3", "row 1"]
    assert "\x1b" not in out
    assert f"{file}, line 2: not JSON" in caplog.text


def test_no_source_and_no_pipe_is_a_usage_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(), isatty=lambda: True))
    status, _, err = say(capsys)
    assert (status, err.startswith("prl show: nothing to show: name a run folder")) == (2, True)


def test_a_name_steers_no_terminal(run_of: Callable[..., Path], capsys: pytest.CaptureFixture[str]) -> None:
    run = run_of("a\x1b[2J\u202eb", STEPS)
    for words in ([], ["--step", "9"], ["--rows", "9"]):
        _, out, err = say(capsys, str(run), *words)
        assert not {"\x1b", "\u202e"} & {*out, *err}
        assert "a\ufffd[2J\ufffdb" in out + err


@pytest.mark.skipif(os.name == "nt", reason="Windows reports a closed pipe as another error")
def test_a_pager_that_is_left_is_no_noise(run_of: Callable[..., Path]) -> None:
    run = run_of("rl", {1: [sample(TWO)] * 2000})
    command = [sys.executable, "-m", "prl", "show", str(run), "--limit", "2000"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as shown:
        assert shown.stdout
        assert shown.stderr
        assert shown.stdout.readline().endswith("2000 responses\n")
        shown.stdout.close()
        assert shown.stderr.read() == ""


# --- In a notebook


def test_a_run_in_a_notebook_has_curves_and_traces(run_of: Callable[..., Path]) -> None:
    pytest.importorskip("matplotlib", reason="curves need matplotlib: pip install prl[report]")
    run = run_of("rl", STEPS)
    shown = prl.show(run, limit=1, right=False)
    html = shown._repr_html_()
    (picture,) = re.findall(r'<img alt="curves of [^"]*" [^>]*src="data:image/png;base64,([^"]+)">', html)
    assert base64.b64decode(picture).startswith(b"\x89PNG")
    assert "<b>── row 4 · step 2" in html
    assert html.count("<b>Path 1</b>") == 1
    assert repr(shown).startswith(f"{run}: 2 of 4 responses, 1 shown\n── row 4")
    assert "http" not in html
    with pytest.raises(UsageError, match="show: wrong: choose by rows, step, group"):
        prl.show(run, wrong=True)
    with pytest.raises(DataError, match="matches: it has 4 responses"):
        prl.show(run, step=9)
    with pytest.raises(RunError):
        prl.show(run.parent / "nothing")


def test_a_run_without_curves_says_why_and_shows_its_traces(
    run_of: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    shown = prl.show(run_of("rl", STEPS))
    assert repr(shown).startswith("curves need matplotlib")
    assert "<img" not in shown.html
    assert "Path 2" in shown.html


def test_a_text_or_a_trace_is_drawn() -> None:
    for source in (TWO, parse(TWO)):
        shown = prl.show(source)
        assert repr(shown).startswith("┌─ Path 1 ")
        assert "<b>Summary</b>" in shown._repr_html_()
    assert repr(prl.show("x" * 5000 + "\x00"))
    assert repr(prl.show("")) == ""


def test_importing_prl_stays_light() -> None:
    code = "import sys, prl; prl.show; assert not {'rich', 'yaml', 'numpy', 'prl.report'} & {*sys.modules}"
    subprocess.run([sys.executable, "-c", code], check=True)
