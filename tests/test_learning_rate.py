"""A training none of whose steps has a learning rate above 0 is refused, and one with a few is told
(transformers 5.23)."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import TrainingArguments

from prl import cli, runs, sft
from prl.config import resolve
from prl.errors import UsageError
from prl.runs import processes
from prl.trainer.learning_rate import FEW, LiveRate, _batch, learning_steps, live_share


def arguments(**given: Any) -> TrainingArguments:
    return TrainingArguments(output_dir="unused", use_cpu=True, **given)


@pytest.mark.parametrize(
    ("scheduler", "warmup", "steps", "expected"),
    [
        ("cosine", 0.1, 1, (0, False)),  # 30 rows with the recipes of GPUs
        ("linear", 0.1, 1, (0, False)),
        ("constant_with_warmup", 1, 1, (0, False)),
        ("cosine", 0.1, 2, (1, True)),
        ("cosine", 0.0, 1, (1, True)),
        ("linear", 5, 4, (3, False)),  # all in the warm-up
        ("constant", 5, 1, (1, True)),  # takes no warm-up
        ("inverse_sqrt", 0.5, 4, (3, True)),
        ("cosine_with_restarts", 0, 9, (9, True)),
        ("polynomial", 0, 1, (1, True)),
        ("reduce_lr_on_plateau", 0.1, 1, (1, True)),
        ("cosine", 0.1, 4000, (FEW, True)),
        ("cosine", 50, 40, (FEW, False)),
        ("cosine", 0.1, 0, (0, False)),
    ],
)
def test_steps_that_learn(scheduler: str, warmup: float, steps: int, expected: tuple[int, bool]) -> None:
    args = arguments(lr_scheduler_type=scheduler, warmup_steps=warmup, eval_strategy="steps")
    assert learning_steps(args, steps, [1e-4]) == expected


def test_one_group_of_parameters_is_enough() -> None:
    assert learning_steps(arguments(warmup_steps=0), 3, [0.0, 1e-2]) == (3, True)


@pytest.mark.parametrize(
    ("rows", "accumulated", "group", "said"),
    [
        (4, 2, None, "8 rows"),
        (4, 4, 8, "2 rows x 8 responses"),
        (2, 1, 8, "2 responses"),  # a quarter of a generation that serves 4 steps
        (12, 1, 8, "12 responses"),
    ],
)
def test_what_a_step_holds(rows: int, accumulated: int, group: int | None, said: str) -> None:
    args = arguments(per_device_train_batch_size=rows, gradient_accumulation_steps=accumulated)
    args.num_generations = group
    assert _batch(args) == said


def run(folder: Path, recipe: str = "6gb", **given: Any) -> sft.SFTResult:
    few = {
        "eval_limit": 2,
        "sample_count": 0,
        "eval_strategy": "no",
        "save_strategy": "no",
        "prompt_style": "bare",
    }
    settings = resolve(
        "sft", recipe=recipe, model_name_or_path="tiny", dataset="arithmetic:coldstart", threads=1,
        device="cpu", output_dir=str(folder), **few | given,
    )  # fmt: skip
    return sft.run(settings)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (
            {"limit": 32},
            "30 rows make 1 optimizer step of 32 rows, none at a learning rate above 0; pass "
            "--warmup_steps 0 or raise --num_train_epochs 1 or lower --gradient_accumulation_steps 4",
        ),
        (
            {"limit": 9, "gradient_accumulation_steps": 500},
            "8 rows make 1 optimizer step of 4000 rows, none at a learning rate above 0; pass "
            "--warmup_steps 0 or raise --num_train_epochs 1 or lower --gradient_accumulation_steps 500",
        ),
        (
            {"limit": 32, "per_device_train_batch_size": 32, "gradient_accumulation_steps": 1},
            "30 rows make 1 optimizer step of 32 rows, none at a learning rate above 0; pass "
            "--warmup_steps 0 or raise --num_train_epochs 1 or lower --per_device_train_batch_size 32",
        ),
        (
            {"limit": 32, "max_steps": 1},
            "--max_steps makes 1 optimizer step of 32 rows, none at a learning rate above 0; pass "
            "--warmup_steps 0 or raise --max_steps 1",
        ),
    ],
    ids=["small data", "accumulation", "batch", "max_steps"],
)
def test_a_training_that_would_learn_nothing_is_refused(
    tmp_path: Path, given: dict[str, Any], told: str
) -> None:
    with pytest.raises(UsageError) as error:
        run(tmp_path / "run", **given)
    assert str(error.value) == f"nothing would be learnt: {told}"
    assert not (tmp_path / "run" / "DONE").exists()


def test_what_it_advises_learns(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(tmp_path / "run", limit=32, warmup_steps=0)
    assert "warning" not in capsys.readouterr().err, "one step was asked for, and it learns"
    adapter = load_file(tmp_path / "run" / "adapter" / "adapter_model.safetensors")
    assert any(weight.abs().max() > 0 for name, weight in adapter.items() if "lora_B" in name)


def test_a_handful_of_steps_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    batch = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 4}
    run(tmp_path / "run", limit=9, num_train_epochs=2, warmup_steps=3, **batch)
    assert (
        "warning: 8 rows make 2 optimizer steps of 8 rows, 1 at a learning rate above 0, all in the "
        "warm-up to 0.01; pass --warmup_steps 0 or raise --num_train_epochs 2 or lower "
        "--gradient_accumulation_steps 4\n"
    ) in capsys.readouterr().err


def test_a_rate_of_nought_is_what_was_asked_for(tmp_path: Path) -> None:
    run(tmp_path / "run", limit=10, max_steps=1, learning_rate=0.0, tag_learning_rate=0.0)
    assert (tmp_path / "run" / "DONE").exists()


def test_on_the_command_line_it_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = "sft --recipe 6gb --model tiny --device cpu --threads 1 --prompt_style bare --sample_count 0"
    flags = ["--dataset", "arithmetic:coldstart", "--limit", "32", "--output_dir", str(tmp_path / "run")]
    assert cli.main([*words.split(), *flags]) == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith("prl sft: nothing would be learnt: ")
    assert runs.read_metrics(tmp_path / "run") == []


def rows_of(*groups: list[float | None]) -> list[dict[str, Any]]:
    return [{"group": n, "advantage": each} for n, group in enumerate(groups) for each in group]


@pytest.mark.parametrize(
    ("groups", "share"),
    [
        ([[0.0, 0.0], [0.7, -0.7], [0.0, 0.0], [0.0, 0.0]], 0.25),
        ([[0.7, -0.7]], 1.0),
        ([[0.0, 0.0]], 0.0),
        ([[None, None], [0.7, -0.7], [0.0, 0.0]], 0.5),  # left out for one that teaches
    ],
)
def test_the_share_of_groups_that_teach(groups: list[list[float | None]], share: float) -> None:
    assert live_share(rows_of(*groups)) == share


def test_a_step_of_few_groups_that_teach_is_shorter_and_the_schedule_does_not_see_it() -> None:
    """Adam's first step is as long as the learning rate, whatever the gradient."""
    weight = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.Adam([{"params": [weight], "lr": 0.1}])
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)  # goes on from the rate that it finds
    recorder: Any = SimpleNamespace(rows=rows_of([0.7, -0.7], [0.0, 0.0], [0.0, 0.0], [0.0, 0.0]))
    callback, nothing = LiveRate(recorder), SimpleNamespace()
    moved = []
    for _ in range(2):
        before = weight.item()
        weight.grad = torch.ones(1)
        callback.on_pre_optimizer_step(nothing, nothing, nothing, optimizer=optimizer)  # type: ignore[arg-type]
        optimizer.step()
        callback.on_optimizer_step(nothing, nothing, nothing, optimizer=optimizer)  # type: ignore[arg-type]
        moved.append(before - weight.item())
        scheduler.step()
        recorder.rows = []  # the next step reuses the generation
    assert moved == pytest.approx([0.1 / 4, 0.05 / 4], rel=1e-3)


def test_all_processes_take_one_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "gathered", lambda here: [here, 0.25])
    recorder = SimpleNamespace(rows=rows_of([1.0, -1.0], [0.0, 0.0], [0.0, 0.0], [0.5, -0.5]))
    callback, nothing = LiveRate(recorder), SimpleNamespace()  # type: ignore[arg-type]
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    callback.on_pre_optimizer_step(nothing, nothing, nothing, optimizer=optimizer)  # type: ignore[arg-type]
    assert optimizer.param_groups[0]["lr"] == 0.375
