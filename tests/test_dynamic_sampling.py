"""Dynamic sampling on the tiny model (trl 1.16): what a step is made of, what is recorded, and resuming."""

from itertools import groupby
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest
from safetensors.torch import load_file

from prl import rl, runs
from prl.config import resolve
from prl.errors import UsageError
from prl.settings import Settings

SMALL = {
    "limit": 200, "max_steps": 2, "per_device_train_batch_size": 8, "gradient_accumulation_steps": 2,
    "num_generations": 4, "max_completion_length": 32, "dataset": "arithmetic:wide", "rewards": ["accuracy"],
    "save_steps": 1,
}  # fmt: skip
KEYS = ("step", "problem", "group", "text", "advantage", "reward_accuracy")


def settings(folder: Path, **given: Any) -> Settings[Any]:
    return resolve("rl", recipe="tiny", threads=1, output_dir=str(folder), **SMALL | given)


def groups_of(folder: Path, step: int) -> list[list[dict[str, Any]]]:
    rows = [row for row in runs.read_samples(folder).to_pylist() if row["step"] == step]
    return [list(group) for _, group in groupby(rows, key=lambda row: row["group"])]


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("filled") / "rl"
    rl.run(settings(folder, dynamic_sampling=3, log_completions=True))
    return folder


def test_other_problems_take_the_place_of_groups_that_teach_nothing(filled: Path) -> None:
    lines = [line for line in runs.read_metrics(filled) if "loss" in line]
    assert any(line["dynamic_sampling/groups"] > 4 for line in lines)
    for step, line in enumerate(lines, 1):
        groups = groups_of(filled, step)
        assert len(groups) == line["dynamic_sampling/groups"]
        assert [len(group) for group in groups] == [4] * len(groups)
        assert len({group[0]["problem"] for group in groups}) == len(groups)
        teach = [len({row["reward_accuracy"] for row in group}) > 1 for group in groups]
        assert teach == [any(row["advantage"] for row in group) for group in groups], "all that teach do"
        assert line["frac_reward_zero_std"] == pytest.approx(1 - sum(teach) / 4)
        rows = [row for group in groups for row in group]
        assert line["correct"] == pytest.approx(sum(row["correct"] for row in rows) / len(rows))
        assert line["sampling_gap/max"] < 1e-3


def test_the_table_of_completions_says_of_each_what_its_reward_said(filled: Path) -> None:
    for step in (1, 2):
        table = pyarrow.parquet.read_table(filled / "completions" / f"completions_{step:05d}.parquet")
        rows = table.to_pylist()
        kept = [row for group in groups_of(filled, step) for row in group if row["advantage"] is not None]
        assert [row["completion"] for row in rows] == [row["text"] for row in kept]
        assert [row["verdict"] for row in rows] == [row["verdict"] for row in kept]


def test_a_resumed_run_is_the_uninterrupted_one(filled: Path, tmp_path: Path) -> None:
    folder = tmp_path / "rl"
    rl.run(settings(folder, dynamic_sampling=3, max_steps=1, log_completions=True))
    (folder / "DONE").unlink()
    rl.run(settings(folder, dynamic_sampling=3, resume=True))
    ours, theirs = (
        [{key: row[key] for key in KEYS} for group in groups_of(each, 2) for row in group]
        for each in (folder, filled)
    )
    assert ours
    assert ours == theirs


def test_where_it_cannot_be_it_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("prl.settings.trainer_flags.is_installed", lambda module: True)
    with pytest.raises(UsageError, match="dynamic_sampling: vLLM's responses are TRL's alone"):
        settings(tmp_path, dynamic_sampling=1, use_vllm=True, attention="causal")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(
        UsageError, match="dynamic_sampling: of several processes none sees the others' groups"
    ):
        settings(tmp_path, dynamic_sampling=1)


def test_the_first_step_of_a_live_rate_is_as_long_as_the_share_of_groups_that_teach(tmp_path: Path) -> None:
    """LoRA's B begins at 0, and Adam's first step moves it by the learning rate."""
    rl.run(settings(tmp_path / "rl", live_rate=True, max_steps=1, learning_rate=1e-3, save_strategy="no"))
    (line,) = [line for line in runs.read_metrics(tmp_path / "rl") if "loss" in line]
    share = 1 - line["frac_reward_zero_std"]
    assert 0 < share < 1
    weights = load_file(tmp_path / "rl" / "adapter" / runs.WEIGHTS)
    longest = max(each.abs().max().item() for name, each in weights.items() if "lora_B" in name)
    assert longest == pytest.approx(1e-3 * share, rel=1e-2)
