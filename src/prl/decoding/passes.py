"""Forward passes of a model over the rows of a cache."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import numpy as np
import torch
from peft import PeftModel
from torch import Tensor
from transformers import PreTrainedModel

from prl.decoding.packing import packed_linears
from prl.decoding.rows import ATTENTION, Columns, RowCache, masks_of
from prl.decoding.sampling import uploaded
from prl.decoding.steps import Sizes, Steps
from prl.decoding.weights import dequantized, folded_adapters, without_wrappers
from prl.structure import attention_named, backbone_of, cache_name


class Passes:
    """A model, and a cache of `capacity` rows that its passes write; to be used within `decoding(model)`."""

    def __init__(self, model: PreTrainedModel | PeftModel, capacity: int) -> None:
        self.backbone, self.head = backbone_of(model), model.get_output_embeddings()
        weight = self.backbone.get_input_embeddings().weight
        self.device, self.dtype = weight.device, weight.dtype
        self.cache = RowCache(capacity, self.device)
        self._masks = masks_of(self.backbone)
        self._steps = Steps(self.backbone, capacity)
        self._with_cache = {cache_name(self.backbone): self.cache}

    def forward(self, columns: list[tuple[int, ...]], cache_rows: Tensor | None, rows: int) -> Tensor:
        """Hidden states (N, size) of the tokens; their keys and values are in the cache afterwards.

        `columns` are tuples of the fields of `Columns`; `cache_rows` as for `RowCache.lay_out`. None: a step,
        which is computed as `prl.decoding.steps` says, and whose result the next one may overwrite.
        """
        table = np.array(columns, dtype=np.int64)
        sizes = Sizes(len(table), rows, width=int(table[:, 2].max()) + 1, used=int(table[:, 3].max()) + 1)
        if sizes.used > self.cache.slots:
            self._steps.drop()
        self.cache.make_room(sizes.used)
        if cache_rows is None:
            return self._steps.forward(self._compute, table, sizes, self.cache.slots)
        return self._compute(uploaded(table.T, self.device), sizes, cache_rows)

    def _compute(self, placed: Tensor, sizes: Sizes, cache_rows: Tensor | None = None) -> Tensor:
        """A function of `placed`, (7, N), the weights and the cache, without a look at what any of them
        holds."""
        columns = Columns(*placed)
        self.cache.lay_out(columns, cache_rows, sizes.rows, sizes.width, sizes.used)
        return self.backbone(
            input_ids=columns.token[None],
            position_ids=columns.position[None],
            attention_mask=self._masks(self.cache, self.dtype),
            use_cache=True,
            rows=self.cache,
            **self._with_cache,
        ).last_hidden_state[0]

    def logits(self, hidden: Tensor) -> Tensor:
        logits = self.head(hidden).float()
        cap = getattr(self.backbone.config, "final_logit_softcapping", None)  # Gemma 2
        return logits if cap is None else cap * torch.tanh(logits / cap)


@contextmanager
def evaluating(model: PreTrainedModel | PeftModel) -> Iterator[None]:
    """In evaluation mode; in training mode gradient checkpointing silently drops the cache."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


@contextmanager
def decoding(model: PreTrainedModel | PeftModel, *, merges: bool = False) -> Iterator[None]:
    """The model as `Passes` takes it; `merges`: with its adapter in the weights where these are of 16 or 4
    bits too, rounded. Within another, nothing is left to do: that takes a small model as long as a token or
    two."""
    if backbone_of(model).config._attn_implementation == ATTENTION:
        yield
        return
    with (
        evaluating(model),
        folded_adapters(model, merges=merges),
        dequantized(model) if merges else nullcontext(),
        packed_linears(model),
        without_wrappers(model),
        attention_named(backbone_of(model), ATTENTION),
    ):
        yield
