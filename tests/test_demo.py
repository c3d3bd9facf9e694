"""The demo: what it plans for each recipe, who votes, and a few steps of all its real stages."""

from __future__ import annotations

import json
import re
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from printed import GAP, masked, missing
from prl import cli, runs
from prl.config import parse
from prl.errors import UsageError
from prl.evaluation import read_result
from prl.report.tables import paths_told
from prl.settings import Settings
from prl.study import demo
from prl.study.demo import DemoResult, Task


def planned(recipe: str, *, attention: str = "structured", quick: bool = False) -> dict[str, Task]:
    asked = {"recipe": recipe, "attention": attention, "seed": 5, "quick": quick}
    tasks, timed = demo.plan(Path("d"), asked, threads=1)
    return {task.name: task for task in [*tasks, *timed]}


def settled(task: Task) -> Settings[Any]:
    return parse(task.argv[0], task.argv[1:])


@pytest.mark.parametrize("recipe", demo.KINDS)
def test_the_control_has_the_same_problems_and_the_same_budget(recipe: str) -> None:
    tasks = {name: settled(task) for name, task in planned(recipe).items()}
    ours, control = tasks["rl"], tasks["sequential-rl"]
    for name in ("max_steps", "num_generations", "generation_batch_size", "seed"):
        assert getattr(ours.trainer, name) == getattr(control.trainer, name)
    for name in ("dataset", "dataset_split", "limit"):
        assert getattr(ours.arguments, name) == getattr(control.arguments, name)
    if demo.KINDS[recipe].has_cold_start:
        cold, theirs = tasks["sft"], tasks["sequential-sft"]
        assert (theirs.trainer.max_steps, theirs.arguments.dataset) == (
            cold.trainer.max_steps,
            cold.arguments.dataset,
        )
        assert (cold.arguments.dataset_split, theirs.arguments.dataset_split) == ("coldstart", "sequential")
    evaluations = [each.arguments for each in tasks.values() if each.command == "eval"]
    assert len({(each.dataset, each.dataset_split, each.seed) for each in evaluations}) == 1
    assert len({each.limit for each in evaluations if not each.timed}) == 1
    assert {tasks[name].arguments.attention for name in ("eval-base", "sequential-rl")} == {"causal"}
    assert tasks["sft"].arguments.attention == "structured"


def test_each_task_begins_with_the_model_that_it_needs() -> None:
    needs = {name: task.needs for name, task in planned("tiny-search+products").items()}
    assert needs == {
        "sft": (), "sequential-sft": (), "rl": ("sft",), "sequential-rl": ("sequential-sft",),
        "eval-base": (), "eval-sft": ("sft",), "eval-rl": ("rl",), "eval-sequential": ("sequential-rl",),
        "timed-base": (), "timed-sft": ("sft",), "timed-rl": ("rl",), "timed-sequential": ("sequential-rl",),
    }  # fmt: skip
    of_sums = planned("tiny")
    assert of_sums["sequential-rl"].needs == ()
    assert "sequential-sft" not in of_sums, "the base solves in sequence already"


def test_as_many_vote_as_have_the_tokens_but_three_at_least(tmp_path: Path) -> None:
    """Of eight samples of 40 tokens; the answer to the first problem is 7 in six of them, to the second in
    two."""

    def samples(problem: str, right: int) -> list[dict[str, Any]]:
        costs = {"mode": "sampled", "problem": problem, "answer": "7", "length": 40, "critical_path": 40.0}
        said = [("7", 1.0)] * right + [("8", 0.0)] * (8 - right)
        return [{**costs, "extracted": each, "correct": correct} for each, correct in said]

    with runs.open_run(tmp_path, command="eval", config={"command": "eval"}) as run:
        greedy = {"mode": "greedy", "problem": "a", "answer": "7", "correct": 1.0, "length": 9}
        run.log_samples(0, [greedy, *samples("a", 6), *samples("b", 2)])
        written = {"metrics": {}, "scores": {}, "seed": 0, "dataset": "x", "samples": 8}
        runs.write_json(tmp_path / "results.json", written)
        run.finish()
    found = {budget: demo._vote(tmp_path, budget, 0) for budget in (30.0, 121.0, 200.0, 1000.0)}
    assert {budget: each.k for budget, each in found.items()} == {30.0: 3, 121.0: 4, 200.0: 5, 1000.0: 8}
    assert (found[200.0].tokens, found[200.0].critical_path) == (200.0, 40.0)
    assert found[1000.0].scores == [1.0, 0.0], "most of all eight are right, or wrong"
    assert 0.5 < found[30.0].scores[0] < 1.0


def test_a_recipe_without_a_demo_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["demo", "--recipe", "tiny-serch", "--threads", "1"]) == 2
    assert capsys.readouterr().err == (
        "prl demo: recipe 'tiny-serch' has no demo; nearest: tiny-search; choose of tiny-search+products, "
        "tiny-search, tiny-search+equations, tiny\n"
    )


def test_attention_is_the_recipes_unless_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    given = {"causal": {"attention": "causal"}, "structured": {}}
    for attention, flags in given.items():
        assert demo._asked(parse_demo(**flags))["attention"] == attention
    assert demo._asked(parse_demo(recipe="tiny"))["attention"] == "causal"
    with pytest.raises(UsageError, match="attention"):
        parse_demo(attention="sideways")


def parse_demo(**given: Any) -> Any:
    words = [word for name, value in given.items() for word in (f"--{name}", value)]
    return parse("demo", [*words, "--threads", "1"]).arguments


FEW: dict[str, dict[str, Any]] = {
    "sft": {"limit": 20, "max_steps": 2, "per_device_train_batch_size": 4, "save_steps": 1,
            "logging_steps": 1},
    "rl": {
        "limit": 8, "max_steps": 1, "max_completion_length": 48, "per_device_train_batch_size": 16,
        "gradient_accumulation_steps": 1, "num_generations": 8, "learning_rate": 5e-3,
    },
    "eval": {"limit": 4, "max_completion_length": 48},
}  # fmt: skip


def execute_here(tasks: list[Task], logs: Path, *, jobs: int) -> dict[str, str]:
    """`prl.study.tasks.execute` without its processes, which take ten seconds each to start."""
    for task in tasks:
        if not task.is_done:
            resumable = task.argv[0] != "eval" and runs.last_checkpoint(task.folder)
            how = "--resume" if resumable else "--overwrite_output_dir"
            if cli.main([*task.argv, how]):
                raise KeyboardInterrupt
    return {}


def test_the_figures_are_those_of_the_runs_that_an_interruption_keeps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(demo, "QUICK", FEW)
    monkeypatch.setattr(demo, "_TIMED_QUICKLY", 1)
    monkeypatch.setattr(demo, "execute", execute_here)
    log_metrics = runs.Run.log_metrics

    def stop_once(run: runs.Run, step: int, metrics: Any) -> None:
        log_metrics(run, step, metrics)
        if (run.command, step) == ("sft", 2):
            monkeypatch.setattr(runs.Run, "log_metrics", log_metrics)
            raise KeyboardInterrupt

    monkeypatch.setattr(runs.Run, "log_metrics", stop_once)
    folder = tmp_path / "demo"
    words = ["demo", "--quick", "--seed", "5", "--threads", "1", "--output_dir", str(folder)]
    assert cli.main(words) == 1
    said = "prl demo: interrupted; what is done is kept, and the same command goes on from it"
    assert capsys.readouterr().err.splitlines()[-1] == said
    first = json.loads((folder / demo.STATE).read_text())
    assert first["seconds"] > 0
    assert not (folder / "demo.json").exists()

    assert cli.main(words) == 0
    shown = capsys.readouterr().err
    assert f"{folder}: going on with the demo that was begun at {first['begun_at']}" in shown
    assert json.loads((folder / "sft" / "environment.json").read_text())["resumed_at"]
    assert not (folder / demo.STATE).exists()
    check_models(folder)
    written = json.loads((folder / "demo.json").read_text())
    assert written["minutes"] > first["seconds"] / 60
    check_figures(folder, written, demo.read(folder, seed=5))
    assert "4 held-out problems, 95 % intervals" in shown
    assert "tiny-search+products, structured attention, seed 5" in shown
    assert f"{written['votes']['k']} votes of it" in shown
    assert missing(in_readme(), shown.replace(str(folder), "runs/demo")) is None


def in_readme() -> str:
    """What README.md shows of `make demo`; `GAP` for what is said of blocks, as so short a demo has none."""
    text = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"^```text\n(300 held-out .*?)^```", text, flags=re.MULTILINE | re.DOTALL)
    return re.sub(r"^[^,\n]+ responses with a block: .*$", GAP, block, flags=re.MULTILINE)


def test_readme_shows_what_is_said_of_blocks() -> None:
    text = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
    shown = re.findall(r"^(?:cold start|RL): (.* responses with a block: .*)$", text, flags=re.MULTILINE)
    shares = ("path_oracle", "path_majority", "summary_accuracy", "accuracy_with_block", "path_accuracy")
    (told,) = paths_told(dict.fromkeys(shares, 0.9) | {"path_oracle_of": 1200})
    assert [masked(line) for line in shown] == [masked(told)] * 2


def check_models(folder: Path) -> None:
    settings = {path.name: runs.read_settings(path) for path in folder.iterdir() if (path / "DONE").exists()}
    began_with = {
        name: each["model_name_or_path"].removeprefix(f"{folder}/") for name, each in settings.items()
    }
    assert began_with == {
        "sft": "tiny-search", "sequential-sft": "tiny-search", "rl": "sft", "sequential-rl": "sequential-sft",
        "eval-base": "tiny-search", "timed-base": "tiny-search", "eval-sft": "sft", "timed-sft": "sft",
        "eval-rl": "rl", "timed-rl": "rl", "eval-sequential": "sequential-rl",
        "timed-sequential": "sequential-rl",
    }  # fmt: skip
    assert {each["seed"] for each in settings.values()} == {5}
    weights = [load_file(folder / name / "adapter" / "adapter_model.safetensors") for name in ("sft", "rl")]
    assert any(not torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def check_figures(folder: Path, written: dict[str, Any], result: DemoResult) -> None:
    found = {name: read_result(folder / output) for name, output in demo.EVALUATIONS.items()}
    stored = {
        name: json.loads((folder / output / "results.json").read_text())
        for name, output in demo.EVALUATIONS.items()
    }
    assert written["stages"] == {name: each["metrics"] for name, each in stored.items()}
    before, after = (found[name].scores["sampled"] for name in ("SFT", "RL"))
    assert len(before) == 4
    assert written["gain"]["mean"] == result.gain.mean == pytest.approx(fmean(after) - fmean(before))
    assert written["over"]["votes"]["mean"] == pytest.approx(fmean(after) - result.voted.accuracy.mean)
    assert written["over"]["sequential"]["mean"] == pytest.approx(
        fmean(after) - fmean(found["sequential"].scores["sampled"])
    )
    timed = json.loads((folder / "timed-rl" / "results.json").read_text())
    assert written["seconds"]["RL"] == timed["timing"]["greedy"]["median"] > 0
