"""The demo's order of stages, with stand-ins for them; the stages themselves are tested in test_pipeline."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from prl import demo
from prl.config import resolve
from prl.evaluation import EvalResult, bootstrap
from prl.rl import RLResult
from prl.sft import SFTResult


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
        return EvalResult(Path(settings.output_dir), metrics, {"sampled": [0.0, 1.0]})

    monkeypatch.setattr(demo.evaluation, "run", evaluate)
    monkeypatch.setattr(demo.sft, "run", lambda settings: SFTResult(train(settings), {}))
    monkeypatch.setattr(demo.rl, "run", lambda settings: RLResult(train(settings), {}))
    return called


@pytest.mark.parametrize("attention", ["causal", "structured"])
def test_the_cold_start_decides_on_the_attention_of_all_that_follows(
    stages: list[Any], tmp_path: Path, attention: str
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
