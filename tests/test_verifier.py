"""A verifier that cannot start is told in one line before anything is trained, evaluated or paid for."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from prl import cli
from prl.answers import default_checker

TRACES = ("data", "traces", "problems.jsonl", "--model", "none", "--base_url", "http://127.0.0.1:9")
COLD_START = ("--stages", '{"name": "cold-start"}', '{"name": "easy"}')
TINY = ("--recipe", "tiny", "--threads", "1", "--model", "tiny", "--output_dir", "out")


@pytest.fixture
def broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In an empty folder; the module path begins with a library that cannot be imported."""
    (tmp_path / "latex2sympy2.py").write_text("from typing.oi import TextIO\n")
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    default_checker().close()


@pytest.mark.parametrize(
    "words",
    [
        ("rl", *TINY, "--max_steps", "1"),
        ("rl", *TINY, "--max_steps", "1", *COLD_START),
        ("eval", *TINY, "--limit", "2"),
        ("study", "paper-mini", "--quick", "--seeds", "1", "--recipe", "tiny", "--output_dir", "out"),
        (*TRACES, "--output_dir", "out"),
        ("answers", "explain", "x + 1", "1 + x"),
    ],
)
def test_it_is_told_before_a_run(broken: None, capsys: pytest.CaptureFixture[str], words: list[str]) -> None:
    from prl.answers import default_checker

    default_checker.cache_clear()  # neither a worker nor a verdict of an earlier test
    Path("problems.jsonl").write_text('{"problem": "1 + 1", "answer": "2"}\n')
    assert cli.main(list(words)) == 1
    *said, last = capsys.readouterr().err.splitlines()
    assert last.endswith(
        "answers cannot be judged, the verifier's process does not start: ModuleNotFoundError: No module "
        "named 'typing.oi'; 'typing' is not a package; reinstall latex2sympy2==1.9.1, until "
        f"`{sys.executable} -c 'import prl.answers.algebra'` passes"
    )
    assert last.startswith("prl")
    assert not any("Traceback" in line for line in said)
    assert not Path("out/adapter").exists()
    assert not [*Path().rglob("metrics.jsonl")], "nothing was trained"
