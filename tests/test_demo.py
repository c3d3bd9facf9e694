"""The demo: a few steps of its real stages, and the order of stages for each attention with stand-ins."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from prl import runs
from prl.analysis import describe
from prl.config import resolve
from prl.evaluation import EvalResult
from prl.grammar import render
from prl.rl import RLResult
from prl.sft import SFTResult
from prl.statistics import bootstrap
from prl.study import demo


@pytest.fixture
def stages(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The settings that each stage is called with; a training stage leaves an adapter."""
    called: list[Any] = []

    def train(settings: Any) -> Path:
        called.append(settings)
        folder = Path(settings.output_dir)
        (folder / "adapter").mkdir(parents=True)
        (folder / "environment.json").write_text("{}")
        (folder / "adapter" / "adapter_config.json").write_text("{}")
        (folder / "adapter" / "adapter_model.safetensors").touch()
        attention = {"attention": settings.arguments.attention}
        (folder / "adapter" / "prl.json").write_text(json.dumps(attention))
        return folder

    def evaluate(settings: Any) -> EvalResult:
        called.append(settings)
        names = ("accuracy", "parallel_ratio", "format_valid")
        metrics = {f"sampled/{name}": bootstrap([0.0, 1.0]) for name in names}
        described = describe([{"text": render(["7", "8"], "7"), "answer": "7", "correct": 1.0}])
        scores = {"sampled": [0.0, 1.0]}
        return EvalResult(Path(settings.output_dir), metrics, scores, {"sampled": described})

    monkeypatch.setattr(demo.evaluation, "run", evaluate)
    monkeypatch.setattr(demo.sft, "run", lambda settings: SFTResult(train(settings), {}))
    monkeypatch.setattr(demo.rl, "run", lambda settings: RLResult(train(settings), {}))
    return called


@pytest.mark.parametrize("attention", ["causal", "structured"])
def test_the_cold_start_decides_on_the_attention_of_all_that_follows(
    stages: list[Any], tmp_path: Path, attention: str, capsys: pytest.CaptureFixture[str]
) -> None:
    given = resolve("demo", attention=attention, seed=5, threads=1, quick=True, output_dir=str(tmp_path))
    result = demo.run(given)
    assert [(each.command, each.arguments.attention) for each in stages] == [
        ("eval", "causal"),
        ("sft", attention),
        ("eval", attention),
        ("rl", attention),
        ("eval", attention),
    ]
    assert [Path(each.output_dir).name for each in stages if each.command == "eval"] == [
        *demo.EVALUATIONS.values()
    ]
    assert [*result.stages] == [*demo.EVALUATIONS]
    written = json.loads((tmp_path / "demo.json").read_text())
    assert (written["attention"], written["seed"], written["quick"]) == (attention, 5, True)
    assert written["analysis"]["RL"]["sampled"]["path_majority"] == 0.5
    told = "RL: 1 responses with a block: any path right (oracle) 100.0%, most (majority) 50.0%"
    assert told in " ".join(capsys.readouterr().err.split())


FEW: dict[str, dict[str, Any]] = {
    "sft": {"limit": 20, "max_steps": 2, "per_device_train_batch_size": 8, "sample_count": 2},
    "rl": {
        "limit": 8, "max_steps": 1, "max_completion_length": 64, "per_device_train_batch_size": 16,
        "gradient_accumulation_steps": 1, "num_generations": 8, "learning_rate": 5e-3,
    },
    "eval": {"limit": 6, "samples": 2, "max_completion_length": 64},
}  # fmt: skip


def test_each_stage_goes_on_from_the_one_before_and_the_figures_are_those_of_its_evaluation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(demo, "QUICK", FEW)
    folder = tmp_path / "demo"
    given = {"attention": "structured", "seed": 5, "threads": 1, "quick": True, "output_dir": str(folder)}
    result = demo.run(resolve("demo", **given))

    settings = {path.name: runs.read_config(path) for path in folder.iterdir() if path.is_dir()}
    began_with = {name: each[each["command"]]["model_name_or_path"] for name, each in settings.items()}
    cold, skilled = str(folder / "sft"), str(folder / "rl")
    assert began_with == {
        "sft": "tiny", "rl": cold, "eval-base": "tiny", "eval-sft": cold, "eval-rl": skilled,
    }  # fmt: skip
    assert {each[each["command"]]["seed"] for each in settings.values()} == {5}
    weights = [load_file(folder / name / "adapter" / "adapter_model.safetensors") for name in ("sft", "rl")]
    assert any(not torch.equal(weights[0][name], weights[1][name]) for name in weights[0])

    written = json.loads((folder / "demo.json").read_text())
    results = {
        stage: json.loads((folder / name / "results.json").read_text())
        for stage, name in (("base", "eval-base"), ("SFT", "eval-sft"), ("RL", "eval-rl"))
    }
    assert written["stages"] == {stage: each["metrics"] for stage, each in results.items()}
    assert len({json.dumps(metrics) for metrics in written["stages"].values()}) == 3, "models that differ"
    before, after = (results[stage]["scores"]["sampled"] for stage in ("SFT", "RL"))
    assert len(before) == 6
    assert written["gain"]["mean"] == result.gain.mean == pytest.approx(fmean(after) - fmean(before))
    assert [each.scores for each in result.stages.values()] == [each["scores"] for each in results.values()]
    shown = capsys.readouterr().err
    assert "6 held-out problems, 95 % intervals" in shown
    assert "structured attention, seed 5" in shown
