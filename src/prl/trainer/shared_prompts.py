"""The prompt of a group computed once: its responses are branches of it, as paths are of a response.

GRPO's rows repeat their prompt with each response. Here a forward pass takes each prompt once, and goes on
with the responses from its keys and values, which all of its rows share; their gradients meet there. A step
is the same to rounding, with fewer tokens by the prompts of all rows beside the first of a group.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.cache_utils import DynamicCache
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutputWithPast

from prl.structure.masks import backbone_of, cache_name
from prl.trainer.micro_batches import ADDED_UP, WEIGHT_BY_ROWS
from prl.trainer.packing import KINDS, drops
from prl.trainer.padding import pass_tokens_of


def can_share(model: Any) -> bool:
    """Whether the prompts of `model`'s rows can be computed apart from their responses, as it is now: not
    with dropout, which is another for each row, nor with checkpoints that lose what a layer makes."""
    backbone = backbone_of(model)
    return (
        backbone.config.model_type in KINDS
        and not getattr(backbone, "has_sliding_layers", False)
        and not drops(model)
        and all(_replays(layer) for layer in _checkpointed(backbone))
    )


def share_prompts(
    trainer: Any, model: Any, input_ids: Tensor, attention_mask: Tensor, prompt: int
) -> SharedPrompts | None:
    """The prompts of a GRPOTrainer's rows, computed; None where they cannot be shared, or where that would
    spare fewer tokens than the further pass costs. Several processes meet in each pass, so there it is None.
    """
    if trainer.accelerator.num_processes > 1 or not can_share(model):
        return None
    ids, mask = input_ids[:, :prompt], attention_mask[:, :prompt]
    first, of_row = prompts_of(ids, mask)
    lengths = mask.sum(dim=1)
    if int(lengths.sum() - lengths[first].sum()) <= pass_tokens_of(trainer):
        return None
    with trainer.accelerator.autocast():
        return SharedPrompts(model, ids[first], mask[first], of_row)


def in_groups(trainer: Any, original: Callable[..., Any], batch: Any) -> Any:
    """`_prepare_inputs` of a GRPOTrainer (trl 1.16), with what it buffers put together by groups."""
    before = trainer._buffered_inputs
    inputs = original(batch)
    if trainer._buffered_inputs is before:
        return inputs
    keep_groups_together(trainer)
    return trainer._buffered_inputs[trainer._step % trainer.args.steps_per_generation]


def keep_groups_together(trainer: Any) -> None:
    """Put the rows of a group side by side in the micro-batches of a step, where a GRPOTrainer (trl 1.16) has
    shuffled those of a whole generation. Each step has the rows that it had, so its gradient is the same sum;
    not of losses whose micro-batches are weighted by their own tokens, nor of several processes."""
    steps, accumulated = trainer.args.steps_per_generation, trainer.args.gradient_accumulation_steps
    size = min(steps, accumulated)
    adds_up = trainer.loss_type in {*WEIGHT_BY_ROWS, *ADDED_UP}
    if size == 1 or max(steps, accumulated) % size or not adds_up or trainer.accelerator.num_processes > 1:
        return
    batches = trainer._buffered_inputs
    for start in range(0, len(batches), size):
        of_step = batches[start : start + size]
        joined = {name: _joined([each[name] for each in of_step]) for name in of_step[0]}
        _, of_row = prompts_of(joined["prompt_ids"], joined["prompt_mask"])
        order = of_row.argsort(stable=True)
        rows = len(order) // size
        for place in range(size):
            part = order[place * rows : (place + 1) * rows]
            batches[start + place] = {name: _taken(value, part) for name, value in joined.items()}


def prompts_of(ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Of prompts (rows, tokens) with their padding mask: the first row of each, and of each row which of
    these has its prompt: (prompts,), (rows,)."""
    _, of_row = torch.unique(torch.cat([ids, mask], dim=1), dim=0, return_inverse=True)
    rows = torch.arange(len(of_row), device=of_row.device)
    first = of_row.new_full((int(of_row.max()) + 1,), len(of_row)).scatter_reduce(0, of_row, rows, "amin")
    return first, of_row


class SharedPrompts:
    """Prompts (prompts, tokens) with their padding mask, computed where this is made, and which of them each
    row has; `of` then has the backbone go on from them. transformers 5.23 and 5.24."""

    def __init__(self, model: Any, ids: Tensor, mask: Tensor, of_row: Tensor) -> None:
        self.backbone, self.prompt, self.of_row = backbone_of(model), ids.shape[1], of_row
        self.trunk = _Trunk()
        with _with_cache(self.backbone):
            found = self.backbone(
                input_ids=ids,
                attention_mask=mask,
                **{cache_name(self.backbone): self.trunk, "use_cache": False},
            )
        self.last = found.last_hidden_state[:, -1:]

    @contextmanager
    def of(self, rows: Tensor) -> Iterator[None]:
        """Within, a call of the backbone with these rows computes their responses alone. Its hidden states
        are those that predict a token of a response; others are 0. Positions, and what structure the rows
        have (`prl.structure.attach_structure`), are settled by hooks before, for whole rows."""
        forward, of_row = self.backbone.forward, self.of_row[rows]

        def of_responses(
            input_ids: Tensor, attention_mask: Tensor, position_ids: Tensor | None = None, **kwargs: Any
        ) -> BaseModelOutputWithPast:
            width = input_ids.shape[1]
            part = slice(self.prompt, width - 1)  # the last token predicts none
            if position_ids is None:
                position_ids = torch.arange(width, device=input_ids.device).expand_as(input_ids)
            seen = attention_mask[:, : part.stop]
            if attention_mask.dim() > 2:
                seen = attention_mask[..., part, : part.stop]
            last = self.last[of_row]
            hidden = [last.new_zeros(len(of_row), self.prompt - 1, last.shape[-1]), last]
            if part.start < part.stop:
                kwargs |= {cache_name(self.backbone): _Branches(self.trunk, of_row), "use_cache": False}
                found = forward(
                    input_ids=input_ids[:, part],
                    attention_mask=seen,
                    position_ids=position_ids[:, part],
                    **kwargs,
                )
                hidden.append(found.last_hidden_state)
            hidden.append(torch.zeros_like(last))
            return BaseModelOutputWithPast(last_hidden_state=torch.cat(hidden, dim=1))

        self.backbone.forward = of_responses
        try:
            with _with_cache(self.backbone):
                yield
        finally:
            self.backbone.forward = forward


class _Trunk(DynamicCache):
    """Keys and values of prompts, layer by layer, as first computed: a checkpoint computes them again."""

    def __init__(self) -> None:
        super().__init__()
        self.kept: dict[int, tuple[Tensor, Tensor]] = {}

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Keep them, and return them as they are."""
        self.kept.setdefault(layer_idx, (key_states, value_states))
        return key_states, value_states


class _Branches(DynamicCache):
    """What rows see of their prompts; of themselves nothing is kept, so that a checkpoint finds the same."""

    def __init__(self, trunk: _Trunk, of_row: Tensor) -> None:
        super().__init__()
        self.trunk, self.of_row = trunk, of_row

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Tokens of the prompts."""
        return self.trunk.kept[layer_idx][0].shape[-2]

    def get_mask_sizes(self, query_length: int, layer_idx: int) -> tuple[int, int]:
        """How many tokens are seen, from the first on."""
        return self.get_seq_length(layer_idx) + query_length, 0

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Those of prompt and response."""
        keys, values = (each[self.of_row] for each in self.trunk.kept[layer_idx])
        return torch.cat([keys, key_states], dim=-2), torch.cat([values, value_states], dim=-2)


def _checkpointed(backbone: PreTrainedModel) -> list[GradientCheckpointingLayer]:
    layers = (module for module in backbone.modules() if isinstance(module, GradientCheckpointingLayer))
    return [layer for layer in layers if layer.gradient_checkpointing]


def _replays(layer: Any) -> bool:
    """Whether a checkpoint's graph holds all that its layer makes, as that without reentrance does."""
    return getattr(layer._gradient_checkpointing_func, "keywords", {}).get("use_reentrant") is False


@contextmanager
def _with_cache(backbone: PreTrainedModel) -> Iterator[None]:
    """Let layers with checkpoints take our caches, which a second pass finds as the first did."""
    layers = _checkpointed(backbone)
    for layer in layers:
        layer._can_checkpoint_with_cache = True
    try:
        yield
    finally:
        for layer in layers:
            del layer._can_checkpoint_with_cache


def _joined(values: list[Any]) -> Any:
    """A column of several micro-batches; what is not a row each is the same in all."""
    first = values[0]
    if isinstance(first, Tensor) and first.dim():
        return torch.cat(values)
    return [each for value in values for each in value] if isinstance(first, list) else first


def _taken(column: Any, rows: Tensor) -> Any:
    if isinstance(column, Tensor) and column.dim():
        return column[rows.to(column.device)]
    return [column[row] for row in rows.tolist()] if isinstance(column, list) else column
