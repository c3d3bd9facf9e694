"""A (Q)LoRA adapter: its shape, its optimizer, and what travels with it when it is saved.

Only the new rows of the embedding are trained, through PEFT's `trainable_token_indices`, and travel in the
adapter.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MethodType
from typing import Any

import torch
from peft import (
    LoraConfig,
    PeftConfig,
    PeftModel,
    TaskType,
    get_peft_model,
    get_peft_model_state_dict,
    load_peft_weights,
    set_peft_model_state_dict,
)
from peft.utils.other import TrainableTokensWrapper
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase, Trainer, TrainingArguments
from transformers.pytorch_utils import Conv1D

from prl import runs
from prl.errors import ModelError, nearest
from prl.model.card import write_adapter_card
from prl.runs import processes
from prl.structure import ATTENTION_FILE, attached_structure, path_opening, said_of_opening


@dataclass(frozen=True)
class Lora:
    """Shape of a new adapter (PEFT's names); `all-linear` means every linear layer but the head."""

    r: int = 16
    alpha: int = 32
    dropout: float = 0.0
    target_modules: Sequence[str] = ("all-linear",)


def save_adapter(model: PeftModel, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Write adapter, tag rows, attention, tokenizer and card; the next command, PEFT and vLLM read it.

    Of several processes the main one does. The reference of `--beta` stays in the checkpoints.
    """
    if not processes.is_main():
        return
    model.save_pretrained(str(folder), selected_adapters=["default"])
    tokenizer.save_pretrained(str(folder))
    write_adapter_card(folder)


def make_optimizer(
    model: PeftModel, training: TrainingArguments, tag_learning_rate: float | None
) -> torch.optim.Optimizer:
    """The optimizer that `training` names, with a learning rate of its own for the tag rows (None: the same).

    A row is moved by the few tokens that are its tag, a LoRA matrix by every token: at one rate for both,
    either the tags stay unusable or the rest is shaken (Mr-DarkTesla/Parallel-R1-repro takes 100 times the
    rate for the rows). No weight decay on the rows: they are embeddings, not differences.
    """
    optimizer_class, options = Trainer.get_optimizer_cls_and_kwargs(training, model)
    trained = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    rows = [p for name, p in trained if "trainable_tokens" in name]
    rest = [p for name, p in trained if "trainable_tokens" not in name]
    rate = training.learning_rate if tag_learning_rate is None else tag_learning_rate
    groups = [
        {"params": rest, "weight_decay": training.weight_decay},
        {"params": rows, "lr": rate, "weight_decay": 0.0},
    ]
    return optimizer_class([group for group in groups if group["params"]], **options)


def describe(model: PreTrainedModel | PeftModel) -> dict[str, Any]:
    """Parameter counts, for the run's environment: all, trained, and the share."""
    total = sum(p.numel() for p in model.parameters())
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    return {"parameters": total, "trained_parameters": trained}


def lora_config(model: PreTrainedModel, lora: Lora, token_ids: list[int]) -> LoraConfig:
    return LoraConfig(
        task_type=TaskType.CAUSAL_LM,
        r=lora.r,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=_targets(model, lora.target_modules),
        trainable_token_indices=_trained_rows(model, token_ids),
    )


def _targets(model: PreTrainedModel, named: Sequence[str]) -> str | list[str]:
    """What PEFT is to adapt. ModelError for a name that it would leave out without a word."""
    if "all-linear" in named:
        if len(named) > 1:
            raise ModelError(
                f"lora_target_modules {' '.join(named)}: all-linear is every linear layer, and none beside "
                "them can be adapted; leave the others out"
            )
        return "all-linear"
    head = model.get_output_embeddings()
    own = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear | Conv1D) and module is not head
    ]
    if unknown := [each for each in named if not any(f".{name}".endswith(f".{each}") for name in own)]:
        known = sorted({name.rpartition(".")[2] for name in own})
        raise ModelError(
            f"lora_target_modules: {', '.join(unknown)} is no linear layer of {model.name_or_path}; it has "
            f"{', '.join(known)}{nearest(unknown[0], known)}"
        )
    return list(named)


def with_rows(base: PreTrainedModel, adapter: Path, token_ids: list[int], *, trainable: bool) -> PeftModel:
    """The adapter in a folder, which holds no rows of the embedding, on its base; the rows `token_ids` of the
    base's embedding join it, with their values. Tensors that the folder lacks keep those they are drawn with:
    whether there are any is for the caller to check."""
    config = PeftConfig.from_pretrained(str(adapter))
    config.inference_mode = not trainable
    config.base_model_name_or_path = base.name_or_path  # PEFT would warn of another name
    config.trainable_token_indices = _trained_rows(base, token_ids)
    model = get_peft_model(base, config)
    fresh = get_peft_model_state_dict(model, save_embedding_layers=False)
    set_peft_model_state_dict(model, fresh | load_peft_weights(str(adapter), device="cpu"))
    return model


def _trained_rows(model: PreTrainedModel, token_ids: list[int]) -> dict[str, list[int]] | None:
    """`trainable_token_indices` for `token_ids`, in the input embedding and an output one of its own."""
    tables = {model.get_input_embeddings()}
    if not model.config.get_text_config().tie_word_embeddings:
        tables.add(model.get_output_embeddings())
    names = [name.rsplit(".", 1)[-1] for name, module in model.named_modules() if module in tables]
    return {name: token_ids for name in names} if token_ids else None


def keep_attention_when_saved(model: PeftModel) -> None:
    """Let whatever saves the adapter save its attention: a checkpoint of the trainer is an adapter too."""
    model.save_pretrained = MethodType(_save_with_attention, model)  # a method, so that a copy saves itself
    # PEFT's card asks 30 questions that nobody answers; `save_adapter` writes one of ours.
    model.create_or_update_model_card = lambda output_dir: None


def _save_with_attention(model: PeftModel, save_directory: str, *args: Any, **kwargs: Any) -> None:
    """Without the embedding: its trained rows are in the adapter already, and PEFT would ask the Hub whether
    it was resized, and then add all of it."""
    type(model).save_pretrained(model, save_directory, *args, **{"save_embedding_layers": False} | kwargs)
    if kwargs.get("is_main_process", True):
        attention = "structured" if attached_structure(model) else "causal"
        said = {"attention": attention} | said_of_opening(path_opening(model))
        runs.write_json(Path(save_directory) / ATTENTION_FILE, said)


def forward_head_bias(model: PreTrainedModel | PeftModel) -> None:
    """Let a head keep its bias (Phi-2) within PEFT's wrapper of trainable token rows.

    peft 0.21 computes without it where rows are trained. And trl 1.16 (`add_fused_lm_head`) reads `.weight`
    and `.bias` of the output embedding, of which TrainableTokensWrapper hands on `.weight` only and raises
    AttributeError for the rest.
    """
    head = model.get_output_embeddings()
    if isinstance(head, TrainableTokensWrapper):
        head.bias = head.original_module.bias
        if head.bias is not None:
            head.token_adapter.register_forward_hook(_add_bias)


def _add_bias(layer: Any, args: Any, logits: torch.Tensor) -> torch.Tensor:
    if layer.merged or layer.disable_adapters or not layer.active_adapters:  # computed by the head itself
        return logits
    return logits + layer.base_layer.bias
