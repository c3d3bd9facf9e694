"""A run that goes on from a checkpoint is the one that was left: flags of the trainer that touch on it."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from prl import rl, runs, sft
from prl.checkpoints import checkpoints
from prl.config import resolve
from prl.training import StopOnSignal

SFT = {
    "limit": 24, "per_device_train_batch_size": 4, "max_steps": 3, "sample_count": 4, "eval_limit": 4,
    "eval_steps": 1, "save_steps": 1, "save_total_limit": 5, "logging_steps": 1, "warmup_steps": 0,
}  # fmt: skip
RL = {
    "limit": 24, "dataset": "arithmetic:easy", "per_device_train_batch_size": 8, "max_steps": 4,
    "gradient_accumulation_steps": 1, "num_generations": 8, "max_completion_length": 48, "save_steps": 2,
    "rewards": ["accuracy"], "learning_rate": 1e-2,
}  # fmt: skip

TIMES = ("time", "step_time", "eval_runtime", "train_runtime")


def run(stage: str, folder: Path, *, resume: bool = False, **given: Any) -> None:
    base = SFT if stage == "sft" else RL
    settings = resolve(
        stage, recipe="tiny", threads=1, output_dir=str(folder), resume=resume, **(base | given)
    )
    (sft if stage == "sft" else rl).run(settings)


def cut(folder: Path, step: int) -> Path:
    """What a kill after `step` leaves, as a copy."""
    copy = folder.with_name(f"{folder.name}-{step}")
    shutil.copytree(folder, copy)
    (copy / "DONE").unlink()
    shutil.rmtree(copy / "adapter")
    for checkpoint in checkpoints(copy):
        if int(checkpoint.name.rpartition("-")[2]) > step:
            shutil.rmtree(checkpoint)
    return copy


def adapter(folder: Path) -> bytes:
    return (folder / "adapter_model.safetensors").read_bytes()


def metrics(folder: Path) -> list[dict[str, Any]]:
    return [
        {key: value for key, value in line.items() if key not in TIMES and "per_second" not in key}
        for line in runs.read_metrics(folder)
    ]


def test_the_best_checkpoint_is_what_is_kept_also_by_a_run_that_was_killed(tmp_path: Path) -> None:
    """By the highest loss, so that the best is the first: at the end, and where only the end was missing."""
    best = {"load_best_model_at_end": True, "metric_for_best_model": "loss", "greater_is_better": True}
    given = best | {"eval_on_start": True}
    run("sft", tmp_path / "run", **given)
    expected = adapter(tmp_path / "run" / "adapter")
    assert (
        expected == adapter(tmp_path / "run" / "checkpoint-1") != adapter(tmp_path / "run" / "checkpoint-3")
    )
    for step in (2, 3):
        resumed = cut(tmp_path / "run", step)
        run("sft", resumed, resume=True, **given)
        assert adapter(resumed / "adapter") == expected
        assert metrics(resumed) == metrics(tmp_path / "run"), "the evaluation at the start is not repeated"


def test_a_best_checkpoint_may_be_told_by_its_samples(tmp_path: Path) -> None:
    run("sft", tmp_path, max_steps=1, save_strategy="best", metric_for_best_model="format_valid")
    (line,) = [line for line in runs.read_metrics(tmp_path) if "eval_format_valid" in line]
    assert line["step"] == 1
    assert [path.name for path in checkpoints(tmp_path)] == ["checkpoint-1"]


def test_responses_that_serve_two_steps_are_not_lost(tmp_path: Path) -> None:
    run("rl", tmp_path / "run", num_iterations=2)
    resumed = cut(tmp_path / "run", 2)
    run("rl", resumed, resume=True, num_iterations=2)
    assert any(line.get("grad_norm") for line in metrics(resumed)), "it learned"
    assert metrics(resumed) == metrics(tmp_path / "run")
    assert adapter(resumed / "adapter") == adapter(tmp_path / "run" / "adapter")


@pytest.mark.parametrize(("every", "stops"), [(1, [3, 4, 5, 6]), (2, [4, 6]), (3, [3, 6])])
def test_a_stop_waits_for_the_end_of_a_generation(every: int, stops: list[int]) -> None:
    stop = StopOnSignal(every=every)
    stop.stopped = True
    found = []
    for step in (3, 4, 5, 6):
        control = SimpleNamespace(should_save=False, should_training_stop=False)
        stop.on_step_end(None, SimpleNamespace(global_step=step), control)
        if control.should_save and control.should_training_stop:
            found.append(step)
    assert found == stops
