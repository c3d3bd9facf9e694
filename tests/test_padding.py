"""Rows of like length in a pass (trl 1.16): as cheap as can be, and the step that it is without."""

from __future__ import annotations

import importlib.metadata
import math
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from prl import rl, runs, sft
from prl.config import resolve
from prl.trainer import live_rows, micro_batches, packing
from prl.trainer import sft as sft_trainer
from prl.trainer.padding import parts_by_length
from prl.trainer.timing import PARTS

SFT = {
    "limit": 60, "max_steps": 1, "per_device_train_batch_size": 8, "gradient_accumulation_steps": 2,
    "sample_count": 0, "eval_strategy": "no", "save_strategy": "no", "logging_steps": 1, "warmup_steps": 0,
    "optim": "sgd", "learning_rate": 1.0, "max_grad_norm": 0,
}  # fmt: skip
RL = {
    "limit": 60, "max_steps": 1, "per_device_train_batch_size": 8, "gradient_accumulation_steps": 2,
    "num_generations": 4, "max_completion_length": 60, "dataset": "arithmetic:wide", "save_strategy": "no",
    "rewards": ["tiered"], "max_blocks": 1, "optim": "sgd", "learning_rate": 1.0, "max_grad_norm": 0,
}  # fmt: skip


def cost(parts: list[list[int]], lengths: list[int], pass_tokens: float) -> float:
    return sum(pass_tokens + len(part) * max(lengths[row] for row in part) for part in parts)


@given(st.lists(st.integers(1, 400), max_size=64), st.integers(1, 64), st.integers(0, 2048))
def test_each_row_is_in_one_part_which_is_not_too_large(
    lengths: list[int], most: int, pass_tokens: int
) -> None:
    parts = parts_by_length(lengths, most, pass_tokens)
    assert sorted(row for part in parts for row in part) == [*range(len(lengths))]
    for part in parts:
        assert 0 < len(part) <= most
        assert lengths[part[0]] == max(lengths[row] for row in part)


@given(st.lists(st.integers(1, 9), min_size=1, max_size=6), st.integers(1, 6), st.integers(0, 12))
def test_no_other_division_costs_less(lengths: list[int], most: int, pass_tokens: int) -> None:
    def divisions(rows: tuple[int, ...]) -> list[list[list[int]]]:
        if not rows:
            return [[]]
        return [
            [[*rows[:size]], *rest]
            for size in range(1, min(most, len(rows)) + 1)
            for rest in divisions(rows[size:])
        ]

    least = min(
        cost(parts, lengths, pass_tokens)
        for order in permutations(range(len(lengths)))
        for parts in divisions(order)
    )
    assert cost(parts_by_length(lengths, most, pass_tokens), lengths, pass_tokens) == least


@pytest.mark.parametrize(
    ("lengths", "parts"),
    [
        ([], []),
        ([300] * 4, [[0, 1, 2, 3]]),
        ([100, 300, 100, 310], [[3, 1], [0, 2]]),
        ([300, 299, 298], [[0, 1, 2]]),
    ],
)
def test_a_cut_stands_where_it_saves_more_than_a_pass(lengths: list[int], parts: list[list[int]]) -> None:
    assert parts_by_length(lengths, 8, 128) == parts
    assert parts_by_length(lengths, 8, math.inf) == (
        [sorted(range(len(lengths)), key=lambda row: -lengths[row])] if lengths else []
    )


def trained(
    command: str, folder: Path, monkeypatch: pytest.MonkeyPatch, pass_tokens: float, **settings: Any
) -> tuple[dict[str, torch.Tensor], dict[str, Any], list[tuple[int, int]]]:
    """The adapter after a step, what was logged of it, and rows and columns of each pass of training."""
    shapes: list[tuple[int, int]] = []

    def seen(module: Any, args: Any, kwargs: dict[str, Any]) -> None:
        if module.training:
            shapes.append(tuple(kwargs["input_ids"].shape))

    def paid(completion_ids: Any, **columns: Any) -> list[float]:
        return [len({*ids}) + sum(ids) % 7 for ids in completion_ids]

    stage = {"sft": sft, "rl": rl}[command]
    trainer = {"sft": sft.SFT, "rl": rl.GRPO}[command]
    train = trainer.train

    def watched(self: Any, *args: Any, **kwargs: Any) -> Any:
        self.model.register_forward_pre_hook(seen, with_kwargs=True)
        return train(self, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(trainer, "train", watched)
        patch.setattr(rl, "reward_functions", lambda names, **given: {"tiered": paid})
        for module in (live_rows, micro_batches):
            patch.setattr(module, "pass_tokens_of", lambda trainer: pass_tokens)
        for module in (sft_trainer, packing, live_rows):
            patch.setattr(module, "why_padded", lambda trainer, model: "it is padding that is tried here")
        base = {"sft": SFT, "rl": RL}[command]
        stage.run(resolve(command, recipe="tiny", threads=1, output_dir=str(folder), **base | settings))
    adapter = load_file(folder / "adapter" / "adapter_model.safetensors")
    return adapter, next(line for line in runs.read_metrics(folder) if "loss" in line), shapes


@pytest.mark.parametrize(
    ("command", "given"),
    [
        ("sft", {"attention": "structured"}),
        ("sft", {"attention": "causal", "gradient_checkpointing": True}),
        ("rl", {"attention": "structured"}),
        ("rl", {"attention": "causal", "loss_type": "grpo"}),
    ],
)
def test_the_step_is_that_of_whole_micro_batches(
    command: str, given: dict[str, Any], tagged: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert importlib.metadata.version("trl").startswith("1.16.")
    given = {"model_name_or_path": tagged, **given}
    ours, our_log, parts = trained(command, tmp_path / "parts", monkeypatch, 8, **given)
    theirs, their_log, whole = trained(command, tmp_path / "whole", monkeypatch, math.inf, **given)
    before, _, _ = trained(command, tmp_path / "before", monkeypatch, math.inf, **given, learning_rate=0.0)
    assert [rows for rows, _ in whole] == [8, 8]
    assert sum(rows for rows, _ in parts) == 16
    assert sum(rows * columns for rows, columns in parts) < sum(rows * columns for rows, columns in whole)
    moved = torch.cat([(theirs[name] - before[name]).flatten() for name in before]).norm()
    apart = torch.cat([(theirs[name] - ours[name]).flatten() for name in before]).norm()
    assert 0 < apart < 1e-5 * moved
    assert our_log.keys() == their_log.keys()
    for name in our_log.keys() - {"time", "step_time", "memory/peak", *(f"time/{part}" for part in PARTS)}:
        assert our_log[name] == pytest.approx(their_log[name], rel=1e-4, abs=1e-6), name
