"""A group's prompt computed once (trl 1.16, transformers 5.23 and 5.24): the numbers of whole rows."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, Qwen3Config, Qwen3ForCausalLM
from trl.trainer.utils import add_fused_lm_head

from prl import rl, runs
from prl.config import resolve
from prl.structure import Tags, attach_structure
from prl.trainer import padding
from prl.trainer.fused_head import spare_the_head
from prl.trainer.shared_prompts import (
    SharedPrompts,
    can_share,
    keep_groups_together,
    prompts_of,
    share_prompts,
)

SIZES: dict[str, Any] = {
    "vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2,
}  # fmt: skip
TAGS = Tags(*range(58, 64))
OPEN, CLOSE, PATH, END_PATH, SUMMARY, END_SUMMARY = 58, 59, 60, 61, 62, 63


def made(kind: str = "qwen3", *, structured: bool = False, checkpoints: bool = False) -> Any:
    torch.manual_seed(0)
    if kind == "qwen3":
        model: Any = Qwen3ForCausalLM(Qwen3Config(**SIZES, head_dim=8, max_window_layers=2))
    else:
        model = LlamaForCausalLM(LlamaConfig(**SIZES))
    if structured:
        attach_structure(model, TAGS)
    if checkpoints:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    add_fused_lm_head(model, outputs=("log_probs", "entropy"))
    spare_the_head(model)
    return model.train()


def batch(prompts: list[int], responses: list[int], seed: int = 1) -> tuple[dict[str, Tensor], int]:
    """Rows as trl scores them, and the width of a prompt: of row i the prompt `prompts[i]`, from the left,
    and a response of `responses[i]` tokens, in which a block with two paths begins where it has room."""
    torch.manual_seed(seed)
    width, most = 9, max(responses)
    texts = {number: torch.randint(0, 50, (width,)) for number in sorted({*prompts})}
    ids = torch.cat(
        [torch.stack([texts[number] for number in prompts]), torch.randint(0, 50, (len(prompts), most))],
        dim=1,
    )
    mask = torch.ones_like(ids)
    for row, (number, length) in enumerate(zip(prompts, responses, strict=True)):
        mask[row, : number % 3] = 0
        mask[row, width + length :] = 0
        if length >= 10:
            tags = [OPEN, PATH, 7, END_PATH, PATH, 8, row, END_PATH, CLOSE]
            ids[row, width + 1 : width + 1 + len(tags)] = torch.tensor(tags)
    labels = ids.masked_fill(mask == 0, -100)
    labels[:, :width] = -100
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}, width


def numbers(
    model: Any, given: dict[str, Tensor], shared: SharedPrompts | None
) -> tuple[Any, dict[str, Tensor]]:
    rows = torch.arange(len(given["input_ids"]))
    if shared:
        with shared.of(rows):
            found = model(**given, fused_lm_head=True)
    else:
        model.zero_grad()
        found = model(**given, fused_lm_head=True)
    weights = torch.linspace(-1, 1, found.log_probs.numel()).view_as(found.log_probs)
    (found.log_probs * weights).sum().backward()
    return found, {name: p.grad.clone() for name, p in model.named_parameters()}


def shared_of(model: Any, given: dict[str, Tensor], width: int) -> SharedPrompts:
    ids, mask = (given[name][:, :width] for name in ("input_ids", "attention_mask"))
    first, of_row = prompts_of(ids, mask)
    return SharedPrompts(model, ids[first], mask[first], of_row)


def assert_same(model: Any, given: dict[str, Tensor], width: int) -> None:
    theirs, their_gradients = numbers(model, given, None)
    model.zero_grad()
    shared = shared_of(model, given, width)
    ours, our_gradients = numbers(model, given, shared)
    torch.testing.assert_close(ours.log_probs, theirs.log_probs, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(ours.entropy, theirs.entropy, rtol=1e-5, atol=1e-5)
    for name, gradient in their_gradients.items():
        assert (our_gradients[name] - gradient).norm() <= 1e-5 * gradient.norm(), name


@pytest.mark.parametrize("checkpoints", [False, True], ids=["", "checkpoints"])
@pytest.mark.parametrize("structured", [False, True], ids=["causal", "structured"])
@pytest.mark.parametrize("kind", ["qwen3", "llama"])
def test_numbers_and_gradients_are_those_of_whole_rows(
    kind: str, structured: bool, checkpoints: bool
) -> None:
    model = made(kind, structured=structured, checkpoints=checkpoints)
    assert can_share(model)
    assert_same(model, *batch([0, 0, 0, 1, 1, 2], [14, 3, 11, 12, 1, 13]))


MODEL = made(structured=True)


@settings(max_examples=30)
@given(st.lists(st.tuples(st.integers(0, 2), st.integers(1, 13)), min_size=1, max_size=6), st.integers(0, 9))
def test_whatever_rows_there_are(rows: list[tuple[int, int]], seed: int) -> None:
    assert_same(MODEL, *batch([prompt for prompt, _ in rows], [length for _, length in rows], seed))


def test_each_prompt_is_computed_once_and_responses_alone_after_it() -> None:
    model = made()
    given, width = batch([0, 0, 1, 0, 1], [12, 5, 6, 7, 8])
    seen: list[tuple[int, ...]] = []
    model.model.layers[0].register_forward_pre_hook(lambda layer, args: seen.append(tuple(args[0].shape[:2])))
    shared = shared_of(model, given, width)
    for rows in (torch.tensor([0, 4]), torch.tensor([1, 2, 3])):
        with shared.of(rows), torch.no_grad():
            model(**{name: each[rows] for name, each in given.items()}, fused_lm_head=True)
    assert seen == [(2, width), (2, 12 - 1), (3, 12 - 1)]
    assert model.model.forward.__func__ is type(model.model).forward, "the model is as it was"


def test_prompts_are_told_apart_by_their_padding_too() -> None:
    ids = torch.tensor([[0, 0, 5, 1], [0, 0, 5, 2], [0, 0, 5, 3], [9, 9, 9, 4]])
    mask = torch.tensor([[0, 1, 1, 1], [0, 0, 1, 1], [0, 1, 1, 0], [1, 1, 1, 1]])
    first, of_row = prompts_of(ids[:, :3], mask[:, :3])
    assert of_row[0] == of_row[2]
    assert len({*of_row.tolist()}) == 3
    assert first[of_row].tolist() == [0, 1, 0, 3]


def test_where_it_would_not_be_the_same_it_is_not_done() -> None:
    model = made()
    model.dropped = torch.nn.Dropout(0.1)
    assert not can_share(model)
    assert can_share(model.eval())
    reentrant = made()
    reentrant.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": True})
    assert not can_share(reentrant)
    other = made()
    other.config.model_type = "mamba"
    assert not can_share(other)


@pytest.mark.parametrize(("processes", "rows", "shared"), [(1, 40, True), (1, 3, False), (2, 40, False)])
def test_it_is_done_where_it_spares_more_than_it_costs(processes: int, rows: int, shared: bool) -> None:
    accelerator = SimpleNamespace(
        num_processes=processes,
        device=torch.device("cpu"),
        autocast=contextlib.nullcontext,
    )
    given, width = batch([0] * rows, [4] * rows)
    found = share_prompts(
        SimpleNamespace(accelerator=accelerator), made(), given["input_ids"], given["attention_mask"], width
    )
    assert (found is not None) is shared


def test_groups_come_together_within_their_step() -> None:
    ids = torch.arange(8).repeat_interleave(4)[torch.randperm(32, generator=torch.Generator().manual_seed(0))]
    columns = {
        "prompt_ids": ids[:, None].expand(-1, 3).contiguous(),
        "prompt_mask": torch.ones(32, 3, dtype=torch.long),
        "advantages": torch.arange(32.0),
        "num_items_in_batch": torch.tensor(7.0),
        "notes": [*range(32)],
        "none": None,
    }

    def batches() -> list[dict[str, Any]]:
        return [
            {
                name: value if value is None or name == "num_items_in_batch" else value[start : start + 4]
                for name, value in columns.items()
            }
            for start in range(0, 32, 4)
        ]

    def trainer(**given: Any) -> Any:
        args = SimpleNamespace(steps_per_generation=8, gradient_accumulation_steps=4)
        alone = SimpleNamespace(num_processes=given.pop("num_processes", 1))
        asked = {"args": args, "accelerator": alone, "loss_type": "dapo", "_buffered_inputs": batches()}
        return SimpleNamespace(**asked | given)

    found = trainer()
    keep_groups_together(found)
    for step in (0, 1):
        before, after = (each[4 * step : 4 * step + 4] for each in (batches(), found._buffered_inputs))
        rows = [row for batch in after for row in batch["advantages"].tolist()]
        assert sorted(rows) == [row for batch in before for row in batch["advantages"].tolist()]
        assert rows == [float(note) for batch in after for note in batch["notes"]]
        assert [ids[int(row)] for row in rows] == sorted(ids[int(row)] for row in rows)
        assert {each.shape for batch in after for each in [batch["prompt_ids"]]} == {(4, 3)}
        assert all(batch["num_items_in_batch"] == 7 and batch["none"] is None for batch in after)
    for left_alone in (trainer(loss_type="bnpo"), trainer(num_processes=2)):
        keep_groups_together(left_alone)
        rows = [row for batch in left_alone._buffered_inputs for row in batch["advantages"].tolist()]
        assert rows == [*range(32)]


# In a training


RL: dict[str, Any] = {
    "limit": 60, "max_steps": 2, "per_device_train_batch_size": 8, "gradient_accumulation_steps": 2,
    "num_generations": 4, "max_completion_length": 24, "dataset": "arithmetic:wide", "save_strategy": "no",
    "rewards": ["tiered"], "max_blocks": 1, "optim": "sgd", "learning_rate": 1.0, "max_grad_norm": 0,
    "warmup_steps": 0, "recipe": "tiny", "threads": 1,
}  # fmt: skip


def train(folder: Path, **given: Any) -> list[dict[str, Any]]:
    rl.run(resolve("rl", output_dir=str(folder), **{**RL, **given}))
    return [line for line in runs.read_metrics(folder) if "loss" in line]


@contextlib.contextmanager
def sharing(monkeypatch: pytest.MonkeyPatch, is_on: bool) -> Iterator[list[int]]:
    made_of: list[int] = []
    built = SharedPrompts.__init__

    def noted(self: SharedPrompts, model: Any, ids: Tensor, *args: Any) -> None:
        made_of.append(len(ids))
        built(self, model, ids, *args)

    def paid(completion_ids: Any, **columns: Any) -> list[float]:
        """One of two groups teaches."""
        return [
            float(len({*ids}) + sum(ids) % 7) if row // 4 % 2 else 1.0
            for row, ids in enumerate(completion_ids)
        ]

    with monkeypatch.context() as patch:
        patch.setattr(padding, "PASS_TOKENS", {"cpu": 8 if is_on else 10**9})
        patch.setattr(SharedPrompts, "__init__", noted)
        patch.setattr(rl, "reward_functions", lambda names, **given: {"tiered": paid})
        yield made_of


@pytest.mark.parametrize(
    "more",
    [
        {"attention": "causal", "loss_type": "grpo"},
        {"attention": "structured", "loss_type": "dapo"},
        {"attention": "structured", "gradient_checkpointing": True},
        {"attention": "causal", "beta": 0.1},
        {"attention": "causal", "per_device_train_batch_size": 4, "gradient_accumulation_steps": 4},
    ],
    ids=["causal", "structured", "checkpoints", "reference", "micro-batches of a group"],
)
def test_a_training_is_the_same(
    more: dict[str, Any], tagged: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    more = {"model_name_or_path": tagged, **more}
    found = {}
    for name, is_on in (("ours", True), ("theirs", False)):
        with sharing(monkeypatch, is_on) as made_of:
            found[name] = train(tmp_path / name, **more)
        assert bool(made_of) is is_on
    for mine, other in zip(found["ours"], found["theirs"], strict=True):
        for key in ("loss", "entropy", "grad_norm", "sampling_gap/mean", "num_tokens"):
            assert mine[key] == pytest.approx(other[key], rel=1e-4, abs=1e-6), key
        assert mine["sampling_gap/max"] < 1e-4
    ours, theirs = (load_file(tmp_path / name / "adapter" / "adapter_model.safetensors") for name in found)
    for name in ours:
        assert (ours[name] - theirs[name]).norm() <= 1e-4 * theirs[name].norm(), name
