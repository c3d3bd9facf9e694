"""Rows without an advantage are computed without a backward pass.

Of a group that is all right, or all wrong, every token stands in the loss times 0. Its log-probabilities are
needed for entropy, clip shares and the sampling gap, its gradient for nothing: so it is computed as in an
evaluation, for a third of the time and without activations kept. The update is the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from prl.trainer.micro_batches import cannot_split


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
        model: Any,
        input_ids: Tensor,
        attention_mask: Tensor,
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        """`_get_per_token_logps_and_entropies` of a micro-batch: (rows, tokens) each, and no router loss."""
        live = self.mask
        if live is None or any(kwargs.get(name) is not None for name in ("pixel_values", "token_type_ids")):
            return original(model, input_ids, attention_mask, *args, **kwargs)

        def part(rows: Tensor) -> Any:
            return original(model, input_ids[rows], attention_mask[rows], *args, **kwargs)[:2]

        with torch.no_grad():
            dead = part(~live)
        whole = []
        for of_dead, of_live in zip(dead, part(live), strict=True):
            both = None
            if of_live is not None:
                both = of_live.new_zeros(len(live), of_live.shape[1])
                both[~live], both[live] = of_dead, of_live
            whole.append(both)
        return (*whole, None)


def needs_all_rows(trainer: Any) -> bool:
    """Whether rows without an advantage have a gradient too: of a KL term, or of a mean over all rows."""
    return trainer.beta != 0 or cannot_split(trainer) is not None
