"""The key/value cache of the decoder: one row a rollout, any number of tokens a row and step.

Tokens of all rows go through the model as one line of length N, so that no layer computes padding; only
attention arranges queries by row. Keys and values are written where they belong and read in place: nothing is
concatenated, repeated or copied from step to step, whatever the rows are doing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import AttentionInterface, PreTrainedModel

from prl.structure import layer_windows
from prl.structure.reader import MAIN_HORIZON

ATTENTION = "prl_rows"
"""Name under which `attend` is registered with transformers."""

CHUNK = 64  # the cache grows by this many slots at least
UNWRITTEN = MAIN_HORIZON + 1  # segment of a slot that holds nothing: no token sees it


def grown(slots: int, used: int) -> int:
    """How many slots a row gets where `slots` are too few for `used`."""
    return -(-max(used, slots * 3 // 2) // CHUNK) * CHUNK


def last_growth(first: int, most: int) -> int:
    """The number of slots from which a cache that begins with `first` tokens a row grows for the last time on
    its way to `most`: copying it then takes the most memory."""
    slots = before = grown(0, first)
    while slots < most:
        before, slots = slots, grown(slots, slots + 1)
    return before


@dataclass(frozen=True)
class Columns:
    """The tokens of one forward pass; all of shape (N,), int64, in slot order within a row.

    `row` counts from 0 within this pass, `column` is the token's place among those of its row.
    """

    token: Tensor
    row: Tensor
    column: Tensor
    slot: Tensor
    segment: Tensor
    horizon: Tensor
    position: Tensor


@dataclass(frozen=True)
class Layout:
    """N tokens arranged as `rows` × `width` queries, over the first `used` slots of their cache rows.

    `cache_rows` says which row of the cache each of `rows` is; `stored_rows` (N,) the same for each token.
    """

    columns: Columns
    cache_rows: Tensor | slice
    stored_rows: Tensor
    rows: int
    width: int
    used: int


class RowCache:
    """Keys and values of all layers, (rows, heads, slots, size) each, with the segment of each slot.

    What attention modules ask of a transformers cache is `update`; `layout` says where its tokens go.
    """

    def __init__(self, rows: int, device: torch.device) -> None:
        self.keys: list[Tensor] = []
        self.values: list[Tensor] = []
        self.segments = torch.full((rows, 0), UNWRITTEN, dtype=torch.int32, device=device)
        self.positions = torch.zeros((rows, 0), dtype=torch.int32, device=device)
        self.layout: Layout

    @property
    def nbytes(self) -> int:
        """Memory of keys and values."""
        return sum(tensor.nbytes for tensor in (*self.keys, *self.values))

    @property
    def slots(self) -> int:
        """Of each row."""
        return self.segments.shape[1]

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """transformers asks for it, and has no use for it where positions and masks are given, as here."""
        return self.layout.used

    def update(
        self, key: Tensor, value: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Write keys and values (1, heads, N, size) and give back those of the rows in play, all slots in
        use."""
        if layer_idx == len(self.keys):
            rows, slots = self.segments.shape
            self.keys.append(key.new_zeros(rows, key.shape[1], slots, key.shape[3]))
            self.values.append(value.new_zeros(rows, value.shape[1], slots, value.shape[3]))
        layout = self.layout
        keys, values = self.keys[layer_idx], self.values[layer_idx]
        keys[layout.stored_rows, :, layout.columns.slot] = key[0].transpose(0, 1)
        values[layout.stored_rows, :, layout.columns.slot] = value[0].transpose(0, 1)
        return keys[layout.cache_rows, :, : layout.used], values[layout.cache_rows, :, : layout.used]

    def make_room(self, used: int) -> None:
        """Let each row have `used` slots at least."""
        if used > self.slots:
            self._grow(grown(self.slots, used))

    def lay_out(self, columns: Columns, cache_rows: Tensor | None, rows: int, width: int, used: int) -> None:
        """Note where the tokens of the next pass go, for which there has to be room, and their segments.
        `cache_rows` None: the first `rows`."""
        if cache_rows is None:
            self.layout = Layout(columns, slice(rows), columns.row, rows, width, used)
        else:
            self.layout = Layout(columns, cache_rows, cache_rows[columns.row], rows, width, used)
        self.segments[self.layout.stored_rows, columns.slot] = columns.segment.int()
        self.positions[self.layout.stored_rows, columns.slot] = columns.position.int()

    def visible(self, window: int | None = None) -> Tensor:
        """Who sees whom in this pass: bool, (rows, width, used). Places without a token see slot 0."""
        layout, columns = self.layout, self.layout.columns

        def by_row(values: Tensor, fill: int) -> Tensor:
            table = torch.full((layout.rows, layout.width, 1), fill, dtype=torch.int32, device=values.device)
            table[columns.row, columns.column, 0] = values.int()
            return table

        segments = self.segments[layout.cache_rows, None, : layout.used]
        slots = torch.arange(layout.used, dtype=torch.int32, device=segments.device)
        seen = segments < by_row(columns.horizon, 1)
        seen |= segments == by_row(columns.segment, 0)
        seen &= slots <= by_row(columns.slot, 0)
        if window is not None:
            positions = self.positions[layout.cache_rows, None, : layout.used]
            seen &= by_row(columns.position, 0) - positions < window
        return seen

    def copy_row(self, source: int, target: int, slots: int) -> None:
        """Write the first `slots` of a row to another; its remaining slots are empty then."""
        if target != source:
            for store in (*self.keys, *self.values):
                store[target, :, :slots] = store[source, :, :slots]
            self.segments[target, :slots] = self.segments[source, :slots]
            self.positions[target, :slots] = self.positions[source, :slots]
        self.segments[target, slots:] = UNWRITTEN

    def _grow(self, slots: int) -> None:
        more = slots - self.slots
        for stores in (self.keys, self.values):
            for layer, store in enumerate(stores):
                stores[layer] = functional.pad(store, (0, 0, 0, more))
        self.segments = functional.pad(self.segments, (0, more), value=UNWRITTEN)
        self.positions = functional.pad(self.positions, (0, more))


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor,
    *,
    rows: RowCache,
    scaling: float | None = None,
    softcap: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attention of N queries (1, heads, N, size) on the cache rows they belong to; (1, N, heads, size).

    Queries of the heads that share keys and values are laid side by side, so that these are read once and
    never repeated. `attention_mask` is additive, (rows, 1, group × width, used), as `masks` makes it.
    """
    layout, columns = rows.layout, rows.layout.columns
    heads, size, groups = query.shape[1], query.shape[3], query.shape[1] // key.shape[1]
    by_row = query.new_zeros(layout.rows, layout.width, heads, size)
    by_row[columns.row, columns.column] = query[0].transpose(0, 1)
    folded = (
        by_row.view(layout.rows, layout.width, -1, groups, size)
        .permute(0, 2, 3, 1, 4)
        .reshape(layout.rows, -1, groups * layout.width, size)
    )
    if softcap is None:
        out = functional.scaled_dot_product_attention(
            folded, key, value, attn_mask=attention_mask, scale=scaling
        )
    else:  # Gemma 2
        scores = folded @ key.transpose(2, 3) * (size**-0.5 if scaling is None else scaling)
        scores = softcap * torch.tanh(scores / softcap) + attention_mask
        out = scores.softmax(-1, dtype=torch.float32).to(value.dtype) @ value
    out = out.view(layout.rows, -1, groups, layout.width, value.shape[3]).permute(0, 3, 1, 2, 4)
    return out.reshape(layout.rows, layout.width, heads, -1)[columns.row, columns.column][None], None


AttentionInterface.register(ATTENTION, attend)


def masks_of(backbone: PreTrainedModel) -> Callable[[RowCache, torch.dtype], Any]:
    """The function that makes the additive mask that `attend` takes in a pass; one for each kind of layer
    where they differ. Sliding windows count positions, as in `prl.structure`.

    What the model is like is read once: transformers 5 takes as long for a look at a config as a small model
    for a matrix.
    """
    windows, config = layer_windows(backbone), backbone.config.get_text_config()
    groups = config.num_attention_heads // (
        getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    )

    def additive(rows: RowCache, dtype: torch.dtype, window: int | None) -> Tensor:
        seen = rows.visible(window).repeat(1, groups, 1)[:, None]
        mask = torch.zeros(seen.shape, dtype=dtype, device=seen.device)
        return mask.masked_fill_(seen.logical_not_(), torch.finfo(dtype).min)

    def masks(rows: RowCache, dtype: torch.dtype) -> Any:
        of_kind = {kind: additive(rows, dtype, window) for kind, window in windows.items()}
        return of_kind.get(None, of_kind)

    return masks
