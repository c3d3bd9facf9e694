"""Groups, the responses to one problem: which of them teach nothing, and the rows of each side by side in a
step's micro-batches, so that packing computes their prompt once in each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from prl.trainer.micro_batches import ADDED_UP, WEIGHT_BY_ROWS

ALIKE = 1e-6
"""Rewards that differ by no more are the same: a sum of weights is rounded."""


def teaching(paid: Tensor, trainer: Any) -> Tensor:
    """Whether the responses of each group were paid differently: (groups,), of `paid`, (responses, functions)
    in the order of the groups, NaN where a function judged nothing. In all, or by any function where each is
    normalised by itself."""
    counted = paid * trainer.reward_weights.to(paid.device)
    if trainer.multi_objective_aggregation == "sum_then_normalize":
        unjudged = paid.isnan().all(dim=1, keepdim=True)
        counted = counted.nansum(dim=1, keepdim=True).masked_fill(unjudged, torch.nan)
    groups = counted.view(-1, trainer.num_generations, counted.shape[1])
    highest = groups.masked_fill(groups.isnan(), -torch.inf).amax(dim=1)
    lowest = groups.masked_fill(groups.isnan(), torch.inf).amin(dim=1)
    return (highest - lowest > ALIKE).any(dim=1)


def silence(trainer: Any, outputs: dict[str, Any], paid: Tensor) -> None:
    """Advantages of 0 in groups that were all paid alike, in what `_generate_and_score_completions` of a
    GRPOTrainer (trl 1.16) gives and logs, and their share in `frac_reward_zero_std`; `paid` is of all
    processes.

    Its mean of eight times 1.2 is off by the last bit, which the division by the standard deviation makes an
    advantage of 0.001 of: a gradient from where nothing was learnt, and a backward pass for it. Where it
    normalises over the batch, 1e-8 is left of it, and the share that it logs is of batches.
    """
    teaches = teaching(paid, trainer)
    trainer._metrics["train"]["frac_reward_zero_std"][-1] = 1 - teaches.float().mean().item()
    kept = teaches.repeat_interleave(trainer.num_generations)
    logged = trainer._logs["advantages"]
    for place, keeps in enumerate(kept.tolist(), len(logged) - len(kept)):
        logged[place] = logged[place] if keeps else 0.0
    here = len(outputs["advantages"])
    first = trainer.accelerator.process_index * here
    outputs["advantages"] = outputs["advantages"] * kept[first : first + here]


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
    shuffled those of a whole generation. Each step, and of several processes each, has the rows that it had,
    so its gradient is the same sum; not of losses whose micro-batches are weighted by their own tokens."""
    steps, accumulated = trainer.args.steps_per_generation, trainer.args.gradient_accumulation_steps
    size = min(steps, accumulated)
    adds_up = trainer.loss_type in {*WEIGHT_BY_ROWS, *ADDED_UP}
    if size == 1 or max(steps, accumulated) % size or not adds_up:
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
