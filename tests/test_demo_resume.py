"""A demo that was interrupted anywhere goes on there, and never with what another one left."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from prl import cli, runs
from prl.config import resolve
from prl.errors import RunError
from prl.study import demo
from prl.study.demo import DemoResult

FEW: dict[str, dict[str, Any]] = {
    "sft": {
        "limit": 20, "max_steps": 2, "save_steps": 1, "logging_steps": 1, "sample_count": 0,
        "per_device_train_batch_size": 2, "eval_strategy": "no", "warmup_steps": 0,
    },
    "rl": {
        "limit": 8, "max_steps": 1, "max_completion_length": 16, "per_device_train_batch_size": 16,
        "gradient_accumulation_steps": 1, "num_generations": 8,
    },
    "eval": {"limit": 4, "samples": 1, "max_completion_length": 16, "greedy": False},
}  # fmt: skip


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "QUICK", FEW)


def ask(folder: Path, **given: Any) -> DemoResult:
    return demo.run(resolve("demo", **{"threads": 1, "quick": True, "output_dir": str(folder), **given}))


def interrupted(monkeypatch: pytest.MonkeyPatch, owner: object, name: str, when: Callable[..., bool]) -> None:
    """Let the next call of `owner.name` for which `when` holds end as Ctrl-C does."""
    original = getattr(owner, name)

    def call(*words: Any, **given: Any) -> Any:
        if when(*words, **given):
            monkeypatch.setattr(owner, name, original)
            raise KeyboardInterrupt
        return original(*words, **given)

    monkeypatch.setattr(owner, name, call)


def files(folder: Path) -> dict[str, bytes]:
    """What its finished stages hold; cards aside, which an evaluation of the model adds to."""
    done = [each for each in folder.iterdir() if (each / "DONE").exists()]
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for each in done
        for path in each.rglob("*")
        if path.is_file() and path.name != "README.md"
    }


def test_an_interrupted_demo_keeps_what_is_done_and_resumes_what_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    interrupted(
        monkeypatch, runs.Run, "log_metrics", lambda run, step, metrics: (run.command, step) == ("sft", 2)
    )
    words = ["demo", "--quick", "--threads", "1", "--output_dir", str(tmp_path)]
    assert cli.main(words) == 1
    said = "prl demo: interrupted; what is done is kept, and the same command goes on from it"
    assert capsys.readouterr().err.splitlines()[-1] == said
    assert not (tmp_path / "demo.json").exists()
    first = files(tmp_path)
    assert {name.partition("/")[0] for name in first} == {"eval-base"}
    assert runs.last_checkpoint(tmp_path / "sft") == tmp_path / "sft" / "checkpoint-1"

    interrupted(monkeypatch, demo.rl, "run", lambda settings: True)
    with pytest.raises(KeyboardInterrupt):
        ask(tmp_path)
    shown = capsys.readouterr().err
    assert f"{tmp_path}: going on with the demo that was begun at " in shown
    assert f"{tmp_path / 'eval-base'}: done already, kept" in shown
    environment = json.loads((tmp_path / "sft" / "environment.json").read_text())
    assert environment["resumed_at"], "SFT went on from its first checkpoint"
    second = files(tmp_path)
    assert first.items() <= second.items()
    assert {name.partition("/")[0] for name in second} == {"eval-base", "sft", "eval-sft"}

    result = ask(tmp_path)
    assert second.items() <= files(tmp_path).items()
    written = json.loads((tmp_path / "demo.json").read_text())
    kept = sum(
        runs.read_summary(tmp_path / name)["wall_seconds"] for name in ("eval-base", "sft", "eval-sft")
    )  # type: ignore[index]
    assert written["minutes"] > kept / 60
    assert written["gain"]["mean"] == result.gain.mean
    for stage, name in demo.EVALUATIONS.items():
        stored = json.loads((tmp_path / name / "results.json").read_text())
        assert (written["stages"][stage], result.stages[stage].scores) == (
            stored["metrics"],
            stored["scores"],
        )
    assert not (tmp_path / demo.STATE).exists()


@pytest.fixture
def stages(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The stages that a demo calls, which then end as Ctrl-C does."""
    called: list[str] = []

    def run(settings: Any) -> None:
        called.append(settings.command)
        raise KeyboardInterrupt

    for module in (demo.evaluation, demo.sft, demo.rl):
        monkeypatch.setattr(module, "run", run)
    return called


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ({"seed": 1}, "seed 0, not 1"),
        (
            {"attention": "structured", "quick": False},
            "attention causal, not structured; quick True, not False",
        ),
    ],
)
def test_other_settings_are_told_and_begin_anew_only_when_asked(
    stages: list[str], tmp_path: Path, other: dict[str, Any], said: str
) -> None:
    with pytest.raises(KeyboardInterrupt):
        ask(tmp_path)
    with pytest.raises(RunError) as caught:
        ask(tmp_path, **other)
    assert str(caught.value) == (
        f"{tmp_path} holds an interrupted demo with {said}: ask for the same to go on with it, choose "
        "another --output_dir, or pass --overwrite_output_dir"
    )
    assert stages == ["eval"]
    with pytest.raises(KeyboardInterrupt):
        ask(tmp_path, **other, overwrite_output_dir=True)
    with pytest.raises(KeyboardInterrupt):
        ask(tmp_path, **other)


def test_a_finished_demo_is_replaced_and_nothing_of_it_kept(
    stages: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also by one with other settings, as `make demo` and then `make demo SEED=1` ask for."""
    for output in ("eval-base", "sft", "eval-sft", "rl", "eval-rl"):
        (tmp_path / output).mkdir()
        (tmp_path / output / "environment.json").write_text('{"started_at": "2020-01-01T00:00:00+00:00"}')
        (tmp_path / output / "DONE").write_text("{}")
    (tmp_path / "demo.json").write_text('{"attention": "causal", "seed": 0, "quick": false}')
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            ask(tmp_path, seed=1)
    assert stages == ["eval", "eval"], "what is older than this demo is none of its stages"
    said = f"{tmp_path}: the finished demo there (attention causal, seed 0, quick False) is replaced"
    assert capsys.readouterr().err.count(said) == 1
    assert not (tmp_path / "demo.json").exists()


def test_a_folder_that_cannot_be_written_is_told(stages: list[str], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(
        RunError, match=r"file.x cannot be written: Not a directory\. Choose another --output_dir"
    ):
        ask(tmp_path / "file" / "x")
    assert stages == []
