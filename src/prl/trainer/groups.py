"""The rows of a group side by side in a step's micro-batches, so that packing computes their prompt once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from prl.trainer.micro_batches import ADDED_UP, WEIGHT_BY_ROWS


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
        prompts = torch.cat([joined["prompt_ids"], joined["prompt_mask"]], dim=1)
        order = torch.unique(prompts, dim=0, return_inverse=True)[1].argsort(stable=True)
        rows = len(order) // size
        for place in range(size):
            part = order[place * rows : (place + 1) * rows]
            batches[start + place] = {name: _taken(value, part) for name, value in joined.items()}


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
