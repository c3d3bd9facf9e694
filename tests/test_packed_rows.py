"""Rows of SFT and RL packed in one (trl 1.16, transformers 5.23 and 5.24): the numbers of padded ones."""

from __future__ import annotations

import contextlib
from dataclasses import replace
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

from prl import rl, runs, sft
from prl.config import resolve
from prl.model import Lora, load_model
from prl.prompts import render_prompt
from prl.structure import Tags, attach_structure
from prl.trainer import live_rows, packing
from prl.trainer import sft as sft_trainer
from prl.trainer.fused_head import spare_the_head
from prl.trainer.packing import Layout, layout_of, packed, packed_attention, shared_by_all, why_padded

SIZES: dict[str, Any] = {
    "vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2,
}  # fmt: skip
HEADER = 57
TAGS = Tags(*range(58, 64), header=(HEADER,))
OPEN, CLOSE, PATH, END_PATH, SUMMARY, END_SUMMARY = 58, 59, 60, 61, 62, 63
BLOCK = [HEADER, OPEN, PATH, 7, 9, END_PATH, PATH, 8, END_PATH, CLOSE, 3]
IGNORED = -100


def made(
    kind: str = "qwen3", *, structured: bool = False, checkpoints: bool = False, tied: bool = False
) -> Any:
    torch.manual_seed(0)
    if kind == "qwen3":
        model: Any = Qwen3ForCausalLM(
            Qwen3Config(**SIZES, head_dim=8, max_window_layers=2, tie_word_embeddings=tied)
        )
    else:
        model = LlamaForCausalLM(LlamaConfig(**SIZES, tie_word_embeddings=tied))
    if structured:
        attach_structure(model, TAGS)
    if checkpoints:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    add_fused_lm_head(model, outputs=("log_probs", "entropy"))
    spare_the_head(model)
    return model.train()


def padded(rows: list[list[int]], *, left: bool = False) -> dict[str, Tensor]:
    """Rows as a collator pads them; all but the first two tokens of each are learned."""
    width = max(map(len, rows))
    ids, mask = torch.full((len(rows), width), 5), torch.zeros(len(rows), width, dtype=torch.long)
    labels = torch.full_like(ids, IGNORED)
    for row, tokens in enumerate(rows):
        at = slice(width - len(tokens), width) if left else slice(0, len(tokens))
        ids[row, at], mask[row, at] = torch.tensor(tokens), 1
        labels[row, at] = torch.tensor([IGNORED, IGNORED, *tokens[2:]][: len(tokens)])
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def numbers(model: Any, batch: dict[str, Tensor], is_packed: bool) -> tuple[Any, dict[str, Tensor]]:
    model.zero_grad()
    with packed(model, batch["attention_mask"]) if is_packed else contextlib.nullcontext():
        found = model(**batch, fused_lm_head=True)
    weights = torch.linspace(-1, 1, found.log_probs.numel()).view_as(found.log_probs)
    with packed_attention(model):
        (found.log_probs * weights).sum().backward()
    assert model.config._attn_implementation == "sdpa", "the model is as it was"
    return found, {name: p.grad.clone() for name, p in model.named_parameters() if p.requires_grad}


def assert_same(model: Any, batch: dict[str, Tensor]) -> None:
    theirs, their_gradients = numbers(model, batch, False)
    ours, our_gradients = numbers(model, batch, True)
    torch.testing.assert_close(ours.log_probs, theirs.log_probs, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(ours.entropy, theirs.entropy, rtol=1e-5, atol=1e-5)
    whole = torch.cat([gradient.flatten() for gradient in their_gradients.values()]).norm()
    for name, gradient in their_gradients.items():  # one that is 0 but for rounding is told by the whole
        assert (our_gradients[name] - gradient).norm() <= 1e-5 * gradient.norm() + 1e-6 * whole, name


COMMON = [1, 2, 3, 4, 6]
ROWS = [
    [*COMMON, 11, 12, *BLOCK, 20],
    [*COMMON, 11, 12, 13, HEADER, 21, 22],
    [*COMMON, *BLOCK],
    [*COMMON, 11, 12, *BLOCK, 20],
    [*COMMON, 11, 12, *BLOCK[:8], 30, 31],
    [9, 8, 7],
]


@pytest.mark.parametrize("tied", [False, True], ids=["", "tied"])
@pytest.mark.parametrize("checkpoints", [False, True], ids=["", "checkpoints"])
@pytest.mark.parametrize("structured", [False, True], ids=["causal", "structured"])
@pytest.mark.parametrize("kind", ["qwen3", "llama"])
def test_numbers_and_gradients_are_those_of_padded_rows(
    kind: str, structured: bool, checkpoints: bool, tied: bool
) -> None:
    assert_same(made(kind, structured=structured, checkpoints=checkpoints, tied=tied), padded(ROWS))


def adapted(tagged: str, attention: str, *, four_bit: bool, checkpoints: bool) -> tuple[Any, Any]:
    """The tiny model with an adapter that does something, and its tokenizer."""
    model, tokenizer = load_model(
        tagged, lora=Lora(r=8), trainable=True, load_in_4bit=four_bit, attention=attention, tags="tokens"
    )
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += 0.05 * torch.randn_like(parameter)
    if checkpoints:
        model.enable_input_require_grads()
        model.gradient_checkpointing_enable({"use_reentrant": False})
    add_fused_lm_head(model.get_base_model(), outputs=("log_probs", "entropy"))
    spare_the_head(model)
    return model.train(), tokenizer


@pytest.mark.parametrize("checkpoints", [False, True], ids=["", "checkpoints"])
@pytest.mark.parametrize("attention", ["causal", "structured"])
@pytest.mark.parametrize("four_bit", [False, True], ids=["lora", "qlora"])
def test_groups_with_an_adapter(tagged: str, four_bit: bool, attention: str, checkpoints: bool) -> None:
    """Two groups: each parameter's gradient by its own norm alone."""
    if four_bit:
        pytest.importorskip("bitsandbytes", reason="QLoRA needs bitsandbytes")
    model, tokenizer = adapted(tagged, attention, four_bit=four_bit, checkpoints=checkpoints)
    block = "<Parallel><Path>12+30=42</Path><Path>30-7=23, so 35</Path></Parallel>\n<Summary>35</Summary>"
    responses = ["42-7=35<|im_end|>", f"{block}35<|im_end|>", f"So: {block}", "", f"{block}3<|im_end|>"]
    prompts = [render_prompt(problem, "bare") for problem in ("Compute 12 + 30 - 7.", "Compute 1 + 3.")]
    texts = [prompt + response for prompt in prompts for response in responses]
    batch = padded(tokenizer(texts, add_special_tokens=False)["input_ids"])
    (theirs, expected), (ours, found) = (numbers(model, batch, is_packed) for is_packed in (False, True))
    torch.testing.assert_close(ours.loss, theirs.loss, rtol=1e-5, atol=0)
    torch.testing.assert_close(ours.log_probs, theirs.log_probs, rtol=1e-5, atol=1e-5)
    assert any("lora_A" in name for name in expected)
    assert any("trainable_tokens" in name for name in expected)
    for name, gradient in expected.items():
        assert (found[name] - gradient).norm() <= 1e-5 * gradient.norm(), name
        assert gradient.norm() > 0, name


MODELS = {structured: made(structured=structured) for structured in (False, True)}
tokens = st.lists(st.sampled_from([1, 2, 3, *BLOCK]), min_size=1, max_size=14)
begun = st.tuples(st.integers(0, 14), tokens)


@pytest.mark.filterwarnings("ignore:structured attention reads responses")  # some hold no header
@settings(max_examples=60)
@given(tokens, st.lists(begun, min_size=1, max_size=6), st.booleans(), st.booleans())
def test_whatever_rows_there_are(
    first: list[int], others: list[tuple[int, list[int]]], structured: bool, left: bool
) -> None:
    rows = [first, *([*first[:shared], *rest] for shared, rest in others)]
    assert_same(MODELS[structured], padded(rows, left=left))


def shared_before(rows: list[list[int]]) -> int:
    """How many tokens have been there with all tokens before them."""
    beginnings = {tuple(row[: stop + 1]) for row in rows for stop in range(len(row))}
    return sum(map(len, rows)) - len(beginnings)


@given(st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=9), min_size=1, max_size=8))
def test_each_beginning_is_there_once(rows: list[list[int]]) -> None:
    layout = laid(rows)
    ids = padded(rows)["input_ids"].flatten()[layout.taken]
    assert len(ids) == sum(layout.sizes) == sum(map(len, rows)) - shared_before(rows)
    for row, places in zip(rows, layout.places, strict=True):
        assert ids[places[: len(row)]].tolist() == row
    pieces = ids.split(layout.sizes)
    own: list[Tensor] = []
    for alike in layout.rows:
        whole = torch.cat([pieces[each] for each in alike.segments]).view(alike.count, -1)
        own += [pieces[each] for each in alike.own_segments]
        assert all(row in rows for row in whole.tolist())
        assert torch.cat([whole[row, -alike.own :] for row in range(alike.count)]).equal(
            torch.cat([pieces[each] for each in alike.own_segments])
        )
    assert torch.cat(own).equal(ids)


def laid(rows: list[list[int]]) -> Layout:
    batch = padded(rows)
    positions = torch.arange(batch["input_ids"].shape[1]).expand_as(batch["input_ids"])
    return layout_of(batch["input_ids"], positions, batch["attention_mask"].bool())


def test_layers_see_one_row_of_what_is_there_once() -> None:
    model = made(structured=True)
    seen: list[tuple[int, ...]] = []
    model.model.layers[0].register_forward_pre_hook(lambda layer, args: seen.append(tuple(args[0].shape[:2])))
    batch = padded(ROWS)
    with packed(model, batch["attention_mask"]):
        model(**batch, fused_lm_head=True)
    assert seen == [(1, sum(map(len, ROWS)) - shared_before(ROWS))]
    assert model.model.forward.__func__ is type(model.model).forward, "the model is as it was"


@pytest.mark.parametrize("structured", [False, True], ids=["causal", "structured"])
def test_a_prompt_is_computed_once_a_group_wherever_its_padding_ends(structured: bool) -> None:
    """As trl pads the rows of RL: prompts from the left, responses from the right."""
    model = made(structured=structured)
    prompts = [[*COMMON, 11, HEADER], [*COMMON, 12, 13, HEADER]]
    responses = [[21, *BLOCK[1:], 22], [21, 23], [*BLOCK[1:8], 24], [25], [26, 27, *BLOCK[1:]], [28, 29]]
    rows = [(prompts[row // 3], response) for row, response in enumerate(responses)]
    before, after = padded([prompt for prompt, _ in rows], left=True), padded([each for _, each in rows])
    batch = {name: torch.cat([before[name], after[name]], dim=1) for name in before}
    batch["labels"][:, : before["input_ids"].shape[1]] = IGNORED
    assert_same(model, batch)
    seen: list[int] = []
    model.model.layers[0].register_forward_pre_hook(lambda layer, args: seen.append(args[0].shape[1]))
    with packed(model, batch["attention_mask"]):
        model(**batch, fused_lm_head=True)
    whole = [[*prompt, *response] for prompt, response in rows]
    assert seen == [sum(map(len, whole)) - shared_before(whole)]


def test_what_is_read_another_way_is_not_shared() -> None:
    """Before a later header a block is prompt, after the last one it has paths."""
    turn = [HEADER, OPEN, PATH, 1, PATH, 2, CLOSE]
    model = made()
    attach_structure(model, replace(TAGS, next_turn=(56, HEADER)))
    rows = [[3, *turn, 4, 5], [3, *turn, 56, HEADER, 4, 5]]
    assert_same(model, padded(rows))


def trainer(**given: Any) -> Any:
    noise = given.pop("neftune_noise_alpha", None)
    args = SimpleNamespace(packing=given.pop("packing", False), neftune_noise_alpha=noise)
    return SimpleNamespace(args=args, **given)


def test_where_it_would_not_be_the_same_it_is_not_done(monkeypatch: pytest.MonkeyPatch) -> None:
    model = made()
    assert why_padded(trainer(), model) is None
    for plugin in ("FSDP", "DEEPSPEED"):
        with monkeypatch.context() as patch:
            patch.setenv(f"ACCELERATE_USE_{plugin}", "true")
            reason = why_padded(trainer(), model)
            assert reason == "FSDP and DeepSpeed run layers in their own way"
    assert why_padded(trainer(packing=True), model) == "TRL's packing takes its place"
    assert why_padded(trainer(padding_free=True), model) == "TRL's packing takes its place"
    assert (
        why_padded(trainer(neftune_noise_alpha=5.0), model) == "NEFTune's noise goes by the length of a row"
    )
    model.config._attn_implementation = "eager"
    assert why_padded(trainer(), model) == "eager attention takes whole rows"
    other = made()
    other.config.model_type = "mamba"
    assert why_padded(trainer(), other) == "mamba models were not tried"
    other = made()
    other.dropped = torch.nn.Dropout(0.1)
    assert why_padded(trainer(), other) == "dropout is another for each row"
    assert why_padded(trainer(), other.eval()) is None


# In a training


SFT: dict[str, Any] = {
    "limit": 60, "max_steps": 2, "per_device_train_batch_size": 8, "gradient_accumulation_steps": 2,
    "sample_count": 0, "eval_strategy": "steps", "eval_steps": 1, "eval_limit": 9, "save_strategy": "no",
    "per_device_eval_batch_size": 4, "logging_steps": 1, "warmup_steps": 0, "optim": "sgd",
    "learning_rate": 1.0, "max_grad_norm": 0, "recipe": "tiny", "threads": 1,
}  # fmt: skip

RL: dict[str, Any] = {
    "limit": 60, "max_steps": 2, "per_device_train_batch_size": 8, "gradient_accumulation_steps": 2,
    "num_generations": 4, "max_completion_length": 24, "dataset": "arithmetic:wide", "save_strategy": "no",
    "rewards": ["tiered"], "max_blocks": 1, "optim": "sgd", "learning_rate": 1.0, "max_grad_norm": 0,
    "warmup_steps": 0, "recipe": "tiny", "threads": 1,
}  # fmt: skip


def trained(
    folder: Path, monkeypatch: pytest.MonkeyPatch, is_packed: bool, **given: Any
) -> tuple[list[dict[str, Any]], dict[str, Tensor], tuple[int, ...]]:
    """What was logged, the adapter, and how many tokens were packed: of evaluations, of training."""
    passed = [0, 0]

    def counted(*args: Any) -> Layout:
        layout = layout_of(*args)
        passed[torch.is_grad_enabled()] += len(layout.taken)
        return layout

    with monkeypatch.context() as patch:
        patch.setattr(packing, "layout_of", counted)
        if not is_packed:
            patch.setattr(sft_trainer, "packed_loss", lambda trainer, original, *a, **k: original(*a, **k))
        sft.run(resolve("sft", output_dir=str(folder), **{**SFT, **given}))
    lines = [line for line in runs.read_metrics(folder) if "loss" in line or "eval_loss" in line]
    return lines, load_file(folder / "adapter" / "adapter_model.safetensors"), tuple(passed)


@pytest.mark.parametrize(
    "more",
    [
        {"attention": "causal"},
        {"attention": "structured"},
        {"attention": "structured", "gradient_checkpointing": True},
        {"attention": "causal", "loss_type": "dft"},
    ],
    ids=["causal", "structured", "checkpoints", "another loss"],
)
def test_a_training_is_the_same(
    more: dict[str, Any], tagged: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    more = {"model_name_or_path": tagged, **more}
    ours, adapter, passed = trained(tmp_path / "ours", monkeypatch, True, **more)
    theirs, other, none = trained(tmp_path / "theirs", monkeypatch, False, **more)
    assert all(passed)
    assert not any(none)
    for mine, their in zip(ours, theirs, strict=True):
        assert mine.keys() == their.keys()
        for key in {"loss", "entropy", "grad_norm", "num_tokens", "eval_loss", "mean_token_accuracy"} & {
            *mine
        }:
            assert mine[key] == pytest.approx(their[key], rel=1e-5, abs=1e-6), key
    for name in adapter:
        assert (adapter[name] - other[name]).norm() <= 1e-5 * other[name].norm(), name


@pytest.mark.parametrize(
    "more",
    [
        {"attention": "causal", "loss_type": "grpo"},
        {"attention": "structured", "loss_type": "dapo"},
        {"attention": "structured", "gradient_checkpointing": True},
        # Steps so long that policy and reference differ by more than the rounding of their log-probabilities.
        {"attention": "causal", "beta": 0.1, "learning_rate": 20.0},
        {"attention": "causal", "per_device_train_batch_size": 4, "gradient_accumulation_steps": 4},
    ],
    ids=["causal", "structured", "checkpoints", "reference", "micro-batches of a group"],
)
def test_an_rl_training_is_the_same(
    more: dict[str, Any], tagged: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    passed = {True: 0, False: 0}

    def paid(completion_ids: Any, **columns: Any) -> list[float]:
        """One of two groups teaches."""
        return [
            float(len({*ids}) + sum(ids) % 7) if row // 4 % 2 else 1.0
            for row, ids in enumerate(completion_ids)
        ]

    def counted(*args: Any) -> Layout:
        layout = layout_of(*args)
        passed[torch.is_grad_enabled()] += len(layout.taken)
        return layout

    def train(folder: Path) -> tuple[list[dict[str, Any]], dict[str, Tensor]]:
        rl.run(resolve("rl", model_name_or_path=tagged, output_dir=str(folder), **{**RL, **more}))
        adapter = load_file(folder / "adapter" / "adapter_model.safetensors")
        return [line for line in runs.read_metrics(folder) if "loss" in line], adapter

    monkeypatch.setattr(rl, "reward_functions", lambda names, **given: {"tiered": paid})
    monkeypatch.setattr(packing, "layout_of", counted)
    ours, adapter = train(tmp_path / "ours")
    assert passed[True]
    assert passed[False] or more.get("beta") is None, "of the reference"
    so_far = dict(passed)
    monkeypatch.setattr(live_rows, "why_padded", lambda trainer, model: "whole rows are compared with")
    theirs, other = train(tmp_path / "theirs")
    assert passed == so_far
    for mine, their in zip(ours, theirs, strict=True):
        assert mine.keys() == their.keys()
        for key in ("loss", "entropy", "grad_norm", "sampling_gap/mean", "num_tokens"):
            assert mine[key] == pytest.approx(their[key], rel=1e-5, abs=1e-6), key
        assert mine["sampling_gap/max"] < 1e-4
    bound = 1e-5 if more.get("beta") is None else 1e-4  # the second of steps so long begins elsewhere
    for name in adapter:
        assert (adapter[name] - other[name]).norm() <= bound * other[name].norm(), name


def test_dropout_is_padded_and_that_is_said(
    tagged: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    more = {"model_name_or_path": tagged, "lora_dropout": 0.1, "eval_strategy": "no", "max_steps": 1}
    _, _, passed = trained(tmp_path / "run", monkeypatch, True, **more)
    assert passed[0] > 0 == passed[1]
    assert capsys.readouterr().err.count("padded, not packed: dropout is another for each row") == 1


@pytest.mark.parametrize(
    ("rows", "shared"),
    [([[1, 2, 3], [1, 2, 4, 5], [1, 2, 3, 4]], 2), ([[1, 2]], 1), ([[1, 2, 3], [1, 2]], 1), ([[1], [2]], 0)],
)
def test_what_all_rows_begin_with(rows: list[list[int]], shared: int) -> None:
    assert shared_by_all(rows) == shared
