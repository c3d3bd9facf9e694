"""A demo goes on only with what is its own: never with what another one left, or with other settings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from prl import runs
from prl.config import resolve
from prl.errors import PrlError, RunError
from prl.runs.checkpoints import seal
from prl.study import demo
from prl.study.demo import DemoResult, Task


def ask(folder: Path, **given: Any) -> DemoResult:
    return demo.run(resolve("demo", **{"threads": 1, "quick": True, "output_dir": str(folder), **given}))


@pytest.fixture
def to_do(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """What is left to do each time a demo runs, which then ends as Ctrl-C does."""
    left: list[list[str]] = []

    def execute(tasks: list[Task], logs: Path, *, jobs: int) -> dict[str, str]:
        left.append([task.name for task in tasks if not task.is_done])
        raise PrlError("interrupted")

    monkeypatch.setattr(demo, "execute", execute)
    return left


def left_by_a_demo(folder: Path, started_at: str) -> None:
    """A finished run with a checkpoint."""
    (folder / "checkpoint-1").mkdir(parents=True)
    (folder / "checkpoint-1" / "adapter_model.safetensors").write_bytes(b"weights")
    seal(folder / "checkpoint-1", {})
    runs.write_json(folder / "environment.json", {"started_at": started_at})
    runs.write_json(folder / "DONE", {})


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ({"seed": 1}, "seed 0, not 1"),
        (
            {"attention": "causal", "quick": False},
            "attention structured, not causal; quick True, not False",
        ),
        (
            {"recipe": "tiny"},
            "recipe tiny-search+products, not tiny; attention structured, not causal",
        ),
    ],
)
def test_other_settings_are_told_and_begin_anew_only_when_asked(
    to_do: list[list[str]], tmp_path: Path, other: dict[str, Any], said: str
) -> None:
    with pytest.raises(PrlError, match="interrupted"):
        ask(tmp_path)
    left_by_a_demo(tmp_path / "sft", "9999-01-01T00:00:00+00:00")
    with pytest.raises(RunError) as caught:
        ask(tmp_path, **other)
    assert str(caught.value) == (
        f"{tmp_path} holds an interrupted demo with {said}: ask for the same to go on with it, choose "
        "another --output_dir, or pass --overwrite_output_dir"
    )
    assert len(to_do) == 1
    with pytest.raises(PrlError, match="interrupted"):
        ask(tmp_path)
    assert to_do[1] == [name for name in to_do[0] if name != "sft"]
    runs.write_json(tmp_path / "sft" / "environment.json", {"started_at": "2020-01-01T00:00:00+00:00"})
    for anew in (True, False):
        with pytest.raises(PrlError, match="interrupted"):
            ask(tmp_path, **other, overwrite_output_dir=anew)
    assert "sft" in to_do[2]
    assert to_do[3] == to_do[2]


def test_a_demo_of_before_there_were_others_was_of_sums(to_do: list[list[str]], tmp_path: Path) -> None:
    stored = {"attention": "causal", "seed": 0, "quick": True, "begun_at": "2020-01-01T00:00:00+00:00"}
    runs.write_json(tmp_path / demo.STATE, stored)
    left_by_a_demo(tmp_path / "sft", "2020-01-01T00:00:09+00:00")
    with pytest.raises(RunError, match="recipe tiny, not tiny-search"):
        ask(tmp_path)
    with pytest.raises(PrlError, match="interrupted"):
        ask(tmp_path, recipe="tiny")
    assert [{*names} for names in to_do] == [{"rl", "sequential-rl", *demo.EVALUATIONS.values()}]


def test_a_finished_demo_is_replaced_and_nothing_of_it_kept(
    to_do: list[list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also by one with other settings, as `make demo` and then `make demo SEED=1` ask for."""
    asked = {"recipe": "tiny", "attention": "causal", "seed": 0, "quick": True}
    outputs = [task.name for tasks in demo.plan(tmp_path, asked, threads=1) for task in tasks]
    for output in outputs:
        left_by_a_demo(tmp_path / output, "2020-01-01T00:00:00+00:00")
    (tmp_path / "sft" / "mine.txt").write_text("a person's")
    (tmp_path / "demo.json").write_text('{"attention": "causal", "seed": 0, "quick": false}')
    for _ in range(2):
        with pytest.raises(PrlError, match="interrupted"):
            ask(tmp_path, seed=1, recipe="tiny")
    assert [{*names} for names in to_do] == [{"sft", "rl", "sequential-rl", *demo.EVALUATIONS.values()}] * 2
    assert not any((tmp_path / name / "DONE").exists() for name in outputs)
    assert runs.last_checkpoint(tmp_path / "sft") is None
    assert (tmp_path / "sft" / "mine.txt").exists()
    said = f"{tmp_path}: the finished demo there (attention causal, seed 0, quick False) is replaced"
    assert capsys.readouterr().err.count(said) == 1
    assert not (tmp_path / "demo.json").exists()


def test_a_run_that_fails_is_told_with_its_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "execute", lambda tasks, logs, *, jobs: {"rl": "killed by signal 9"})
    with pytest.raises(RunError) as caught:
        ask(tmp_path)
    log = tmp_path / "logs" / "rl.log"
    assert str(caught.value) == (
        f"rl failed: killed by signal 9; {log} has all of it, and the same command goes on from there"
    )


def test_a_folder_that_cannot_be_written_or_is_in_use_is_told(to_do: list[list[str]], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(
        RunError, match=r"file.x cannot be written: Not a directory\. Choose another --output_dir"
    ):
        ask(tmp_path / "file" / "x")
    (tmp_path / "demo").mkdir()
    with (
        FileLock(tmp_path / "demo" / ".lock"),
        pytest.raises(RunError, match="is in use by another `prl demo`: wait for it"),
    ):
        ask(tmp_path / "demo")
    assert to_do == []


@pytest.mark.parametrize("anew", [False, True])
def test_runs_of_no_demo_are_left_alone(to_do: list[list[str]], tmp_path: Path, anew: bool) -> None:
    """`prl sft --output_dir mine/sft`, then `prl demo --output_dir mine`."""
    left_by_a_demo(tmp_path / "sft", "2020-01-01T00:00:00+00:00")
    with pytest.raises(RunError) as caught:
        ask(tmp_path, overwrite_output_dir=anew)
    assert str(caught.value) == f"{tmp_path} holds runs of no demo (sft): choose another --output_dir"
    assert (tmp_path / "sft" / "DONE").exists()
    assert runs.last_checkpoint(tmp_path / "sft") == tmp_path / "sft" / "checkpoint-1"
    assert not (tmp_path / demo.STATE).exists()
    assert to_do == []


def test_a_kill_as_a_finished_demo_is_replaced_leaves_a_demo(
    to_do: list[list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left_by_a_demo(tmp_path / "sft", "2020-01-01T00:00:00+00:00")
    (tmp_path / "demo.json").write_text("{}")

    def killed(path: Path, missing_ok: bool = False) -> None:
        if path.name == "demo.json":
            unlink(path)
            raise KeyboardInterrupt
        unlink(path, missing_ok)

    unlink = Path.unlink
    monkeypatch.setattr(Path, "unlink", killed)
    with pytest.raises(KeyboardInterrupt):
        ask(tmp_path)
    monkeypatch.setattr(Path, "unlink", unlink)
    with pytest.raises(PrlError, match="interrupted"):
        ask(tmp_path)
    assert "sft" in to_do[0]
