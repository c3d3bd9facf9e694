"""Rows without an advantage (trl 1.16): the update is that of all rows; live ones alone keep a gradient."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from prl import rl, runs
from prl.config import resolve
from prl.trainer.live_rows import LiveRows, needs_all_rows

RL = {
    "limit": 60, "max_steps": 2, "per_device_train_batch_size": 8, "gradient_accumulation_steps": 2,
    "num_generations": 4, "max_completion_length": 24, "dataset": "arithmetic:wide", "save_strategy": "no",
    "rewards": ["tiered"], "attention": "structured", "max_blocks": 1, "optim": "sgd", "learning_rate": 1.0,
    "max_grad_norm": 0,
}  # fmt: skip


def train(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    model: str,
    live: int,
    *,
    alike: float = 1.0,
    **given: Any,
) -> list[int]:
    """Run RL in which `live` of a micro-batch's two groups teach, each response of the others is paid
    `alike`; the rows of each pass with a gradient."""
    passes: list[int] = []
    size = given.get("num_generations", RL["num_generations"])

    def paid(completion_ids: Any, **columns: Any) -> list[float]:
        return [
            float(len({*ids}) + sum(ids) % 7) if row // size % 2 < live else alike
            for row, ids in enumerate(completion_ids)
        ]

    score = LiveRows.score

    def counted(self: LiveRows, original: Any, trainer: Any, *args: Any, **kwargs: Any) -> Any:
        def seen(model: Any, ids: Any, *more: Any, **named: Any) -> Any:
            if torch.is_grad_enabled():
                passes.append(len(ids))
            return original(model, ids, *more, **named)

        return score(self, seen, trainer, *args, **kwargs)

    monkeypatch.setattr(rl, "reward_functions", lambda names, **given: {"tiered": paid})
    monkeypatch.setattr(LiveRows, "score", counted)
    settings = {**RL, "model_name_or_path": model, **given}
    rl.run(resolve("rl", recipe="tiny", threads=1, output_dir=str(folder), **settings))
    monkeypatch.undo()
    return passes


@contextmanager
def with_all_rows() -> Iterator[None]:
    @contextmanager
    def of(self: LiveRows, trainer: Any, inputs: Any) -> Iterator[None]:
        yield

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LiveRows, "of", of)
        yield


def adapter(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "adapter" / "adapter_model.safetensors")


@pytest.mark.parametrize(
    "given",
    [{"loss_type": "grpo"}, {"loss_type": "dapo", "gradient_checkpointing": True}, {"loss_type": "luspo"}],
)
def test_the_update_is_that_of_all_rows(
    given: dict[str, Any], tagged: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert importlib.metadata.version("trl").startswith("1.16.")
    given = {**given, "max_steps": 1}
    rows = train(tmp_path / "live", monkeypatch, tagged, 1, **given)
    assert sorted(rows) in ([4, 4], [1, 8]), "of two groups in each micro-batch, or of both in one"
    with with_all_rows():
        assert train(tmp_path / "all", monkeypatch, tagged, 1, **given) == [8, 8]
    train(tmp_path / "before", monkeypatch, tagged, 1, **given, learning_rate=0.0)
    ours, theirs, before = (adapter(tmp_path / name) for name in ("live", "all", "before"))
    moved = torch.cat([(theirs[name] - before[name]).flatten() for name in before]).norm()
    apart = torch.cat([(theirs[name] - ours[name]).flatten() for name in before]).norm()
    assert moved > 0
    assert apart < 1e-5 * moved
    for mine, other in zip(*(losses(tmp_path / name) for name in ("live", "all")), strict=True):
        for name in ("loss", "entropy", "clip_ratio/region_mean", "sampling_gap/mean", "sampling_gap/max"):
            assert mine[name] == pytest.approx(other[name], rel=1e-4, abs=1e-6), name


def losses(folder: Path) -> list[dict[str, Any]]:
    return [line for line in runs.read_metrics(folder) if "loss" in line]


def test_a_step_without_a_live_row_still_has_its_backward_pass(
    tagged: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert train(tmp_path / "run", monkeypatch, tagged, 0) == [1, 1, 1, 1]
    assert [line["grad_norm"] for line in losses(tmp_path / "run")] == [0, 0]


@pytest.mark.parametrize(
    ("live", "given"),
    [(0, {}), (1, {"multi_objective_aggregation": "normalize_then_sum"}), (1, {"scale_rewards": "batch"})],
)
def test_a_mean_that_is_off_by_its_last_bit_teaches_nothing(
    live: int, given: dict[str, Any], tagged: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In float32 the mean of eight times 1.2 is another number, and its distance a thousandth of a standard
    deviation as trl 1.16 takes it; over a batch it leaves 1e-8, and looks for dead batches."""
    eight = {"num_generations": 8, "max_steps": 1, "per_device_train_batch_size": 16}
    train(tmp_path / "run", monkeypatch, tagged, live, alike=1.2, **eight, **given)
    (line,) = losses(tmp_path / "run")
    assert (line["frac_reward_zero_std"], line["grad_norm"] > 0) == (1 - live / 2, live > 0)
    rows = runs.read_samples(tmp_path / "run").to_pylist()
    assert len(rows) == 32
    dead = [row["advantage"] == 0 for row in rows if row["reward"] == pytest.approx(1.2)]
    assert (len(dead), all(dead)) == (32 - 16 * live, True)


def test_where_all_rows_teach_they_are_computed_at_once(
    tagged: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert train(tmp_path / "run", monkeypatch, tagged, 2, max_steps=1) == [8, 8]


@pytest.mark.parametrize(
    ("given", "needed"),
    [
        ({}, False),
        ({"beta": 0.04}, True),
        ({"_entropy_bonus_enabled": True}, True),
        ({"aux_loss_enabled": True}, True),
    ],
)
def test_a_gradient_of_all_rows_is_kept_where_there_is_one(given: dict[str, Any], needed: bool) -> None:
    trainer = SimpleNamespace(**{"beta": 0.0, **given})
    assert needs_all_rows(trainer) is needed
    live = LiveRows()
    with live.of(trainer, {"advantages": torch.tensor([0.0, 1.0, -0.5])}):
        assert (
            live.mask is None
            if needed
            else live.mask is not None and live.mask.tolist() == [False, True, True]
        )
    with torch.no_grad(), live.of(trainer, {"advantages": torch.zeros(2)}):
        assert live.mask is None
