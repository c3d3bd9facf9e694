"""Rows without an advantage are computed without a backward pass.

Of a group that is all right, or all wrong, every token stands in the loss times 0. Its log-probabilities are
needed for entropy, clip shares and the sampling gap, its gradient for nothing: so it is computed as in an
evaluation, for a third of the time and without activations kept. The update is the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor

from prl.trainer.micro_batches import cannot_split
from prl.trainer.packing import packed, why_padded
from prl.trainer.padding import parts_by_length, pass_tokens_of

OTHER_INPUTS = ("pixel_values", "token_type_ids")
"""Of models that read more than tokens, whose rows are not cut."""


class LiveRows:
    """Which rows of the micro-batch at hand have an advantage, while its loss is computed; else `mask` is
    None, and so it is where all rows need a gradient."""

    def __init__(self) -> None:
        self.mask: Tensor | None = None

    @contextmanager
    def of(self, trainer: Any, inputs: Mapping[str, Any]) -> Iterator[None]:
        """Spare the other rows of a GRPOTrainer's `_compute_loss` (trl 1.16) their gradient."""
        if torch.is_grad_enabled() and not needs_all_rows(trainer):
            advantages = inputs["advantages"]
            live = (advantages.reshape(len(advantages), -1) != 0).any(dim=1)
            # A step without any still ends in a backward pass, which processes meet in.
            live[0] |= ~live.any()
            self.mask = None if bool(live.all()) else live
        try:
            yield
        finally:
            self.mask = None

    def score(
        self,
        original: Callable[..., Any],
        trainer: Any,
        model: Any,
        input_ids: Tensor,
        attention_mask: Tensor,
        logits_to_keep: int,
        *args: Any,
        batch_size: int | None = None,
        **kwargs: Any,
    ) -> Any:
        """`_get_per_token_logps_and_entropies` of a micro-batch (trl 1.16), whose rows are packed, or padded
        with those of like length: (rows, `logits_to_keep`) each, 0 where a row has ended, and no router loss.
        """
        if cannot_split(trainer) or any(kwargs.get(name) is not None for name in OTHER_INPUTS):
            return original(
                model, input_ids, attention_mask, logits_to_keep, *args, batch_size=batch_size, **kwargs
            )
        count, prompt = len(input_ids), input_ids.shape[1] - logits_to_keep
        live = torch.ones(count, dtype=torch.bool) if self.mask is None else self.mask.cpu()
        # A row ends at its last token; one is always scored.
        ends = prompt + attention_mask[:, prompt:].cpu().sum(dim=1).clamp(min=1)
        own, most = trainer.accelerator.unwrap_model(model), batch_size or count
        is_packed = why_padded(trainer, own) is None
        whole: dict[int, Tensor] = {}
        for rows, has_gradient in ((~live, False), (live, True)):
            indices = rows.nonzero().flatten()
            lengths = ends[indices].tolist()
            if is_packed:
                parts = [[*range(len(lengths))[at : at + most]] for at in range(0, len(lengths), most)]
            else:
                parts = parts_by_length(lengths, most, pass_tokens_of(trainer))
            for part in parts:
                width, of_part = max(lengths[row] for row in part), indices[part].to(input_ids.device)
                ids, mask = (each[of_part, :width] for each in (input_ids, attention_mask))
                as_one = packed(own, mask) if is_packed else nullcontext()
                # Processes meet in each pass of the wrapped model, and not all have rows without a gradient.
                passed = model if has_gradient else own
                with torch.set_grad_enabled(has_gradient and torch.is_grad_enabled()), as_one:
                    scored = original(passed, ids, mask, width - prompt, *args, **kwargs)
                for place, values in enumerate(scored[:2]):
                    if values is not None:
                        if place not in whole:
                            whole[place] = values.new_zeros(count, logits_to_keep)
                        whole[place][of_part, : width - prompt] = values
        return whole[0], whole.get(1), None


def needs_all_rows(trainer: Any) -> bool:
    """Whether rows without an advantage have a gradient too: of a KL term, or of a mean over all rows."""
    return trainer.beta != 0 or cannot_split(trainer) is not None
