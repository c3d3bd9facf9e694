"""The worst step that the data can ask for, taken before the first one, to see that it fits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from accelerate.utils.memory import clear_device_cache

from prl.console import console
from prl.trainer.micro_batches import MicroBatches, tokens_of
from prl.trainer.packing import shared_by_all


def rehearse_sft(micro_batches: MicroBatches) -> None:
    """The longest row of the training set in every row of a micro-batch: forward, backward."""
    trainer, rows = micro_batches.trainer, micro_batches.most
    every = list(trainer.train_dataset["input_ids"])
    lengths = [len(ids) for ids in every]
    longest = max(range(len(lengths)), key=lengths.__getitem__)
    batch = trainer.data_collator([trainer.train_dataset[longest]] * rows)
    batch["input_ids"][:, shared_by_all(every)] = torch.arange(rows)  # no more is shared for certain
    batch = {name: value.to(trainer.accelerator.device) for name, value in batch.items()}
    micro_batches.step_on(batch, torch.tensor(max(1, tokens_of(batch)), device=trainer.accelerator.device))
    console.print(f"rehearsed the longest step: {lengths[longest]} tokens a row", markup=False)


def rehearse_rl(
    micro_batches: MicroBatches, prompts: Sequence[str], block: str, decode: Callable[[list[int]], None]
) -> None:
    """The longest of `prompts` with a full-length response in every row: `decode` them, then forward and
    backward.

    `block` is the text of a response with paths, so that structured attention has something to keep apart.
    """
    trainer = micro_batches.trainer
    tokenizer, args, device = trainer.processing_class, trainer.args, trainer.accelerator.device
    longest = max((tokenizer(text, add_special_tokens=False)["input_ids"] for text in prompts), key=len)
    decode(longest)
    clear_device_cache()
    rows, length = args.per_device_train_batch_size, args.max_completion_length
    written = tokenizer(block, add_special_tokens=False)["input_ids"]
    prompt_ids = torch.tensor([longest] * rows, device=device)
    responses = [([row, *written] + written[-1:] * length)[:length] for row in range(rows)]
    completion_ids = torch.tensor(responses, device=device)
    # As many prompts as there may be, and no more shared than they are by groups (`prl.trainer.packing`).
    prompt_ids[:, :2] = torch.arange(rows, device=device)[:, None] // trainer.num_generations
    prompt_mask = torch.ones_like(prompt_ids)
    prompt_mask[1:, 0] = 0  # rows of one length need no mask, which takes memory
    batch: dict[str, Any] = {
        "prompt_ids": prompt_ids,
        "prompt_mask": prompt_mask,
        "completion_ids": completion_ids,
        "completion_mask": torch.ones_like(completion_ids),
        "advantages": torch.ones(rows, device=device),
        "num_items_in_batch": torch.tensor(float(rows * length), device=device),
    }
    if args.gradient_accumulation_steps % (args.steps_per_generation * trainer.num_iterations):
        batch["old_per_token_logps"] = torch.zeros(completion_ids.shape, device=device)
    if args.beta:
        batch["ref_per_token_logps"] = torch.zeros(completion_ids.shape, device=device)
    micro_batches.step_on(batch)
    console.print(
        f"rehearsed the longest step: {len(longest)} tokens of prompt, {length} of response", markup=False
    )
