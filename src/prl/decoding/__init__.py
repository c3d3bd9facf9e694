"""Batched sampling of responses: the one loop behind evaluation, the samples during SFT and `prl generate`.

Causal attention, by `transformers`' own `generate`: the paths of a block are written one after another (the
paper's "Seen").
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from peft import PeftModel
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from prl.errors import UsageError


@dataclass(frozen=True)
class Response:
    """One completion: its token ids with the EOS that ended it, its text without, and whether it was cut
    off."""

    token_ids: list[int]
    text: str
    truncated: bool


@torch.no_grad()
def generate(
    model: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    *,
    samples: int = 1,
    temperature: float = 1.0,
    top_p: float = 1.0,
    max_new_tokens: int = 512,
    batch_size: int = 64,
    seed: int = 0,
    on_batch: Callable[[int], None] = lambda done: None,
) -> list[list[Response]]:
    """`samples` responses to each of `prompts`, in order; `temperature=0` is greedy. UsageError on an empty
    prompt.

    Rows of similar prompt length share a batch, so little padding is computed. The result depends on `seed`
    and on `batch_size`, since a batch draws from one stream. `on_batch` is called with the number of finished
    responses.
    """
    encoded = tokenizer(list(prompts), add_special_tokens=False)["input_ids"]
    if empty := [i for i, ids in enumerate(encoded) if not ids]:
        raise UsageError(f"prompt {empty[0]} is empty; a response needs something to go on from")
    rows = sorted((i for i in range(len(encoded)) for _ in range(samples)), key=lambda i: len(encoded[i]))
    sampling = (
        {"do_sample": True, "temperature": temperature, "top_p": top_p, "top_k": 0}
        if temperature > 0
        else {"do_sample": False}
    )
    config = GenerationConfig(
        max_new_tokens=max_new_tokens,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        **sampling,
    )
    responses: list[list[Response]] = [[] for _ in prompts]
    was_training = model.training
    model.eval()  # in training mode gradient checkpointing silently drops the cache
    torch.manual_seed(seed)
    try:
        for start in range(0, len(rows), batch_size):
            batch = rows[start : start + batch_size]
            inputs = tokenizer.pad(
                {"input_ids": [encoded[i] for i in batch]}, padding_side="left", return_tensors="pt"
            )
            inputs = inputs.to(model.device)
            output = model.generate(**inputs, generation_config=config)[:, inputs["input_ids"].shape[1] :]
            for i, completion in zip(batch, output.tolist(), strict=True):
                responses[i].append(_response(completion, tokenizer))
            on_batch(start + len(batch))
    finally:
        model.train(was_training)
    return responses


def _response(completion: list[int], tokenizer: PreTrainedTokenizerBase) -> Response:
    truncated = tokenizer.eos_token_id not in completion
    ids = completion if truncated else completion[: completion.index(tokenizer.eos_token_id) + 1]
    return Response(ids, tokenizer.decode(ids, skip_special_tokens=True), truncated)
