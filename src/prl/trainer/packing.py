"""The rows of a micro-batch in one row: no padding, and what several rows begin with computed once.

A packed row holds the tokens of each row but those that it begins with as one before it does: they are there
already. Their keys and values, where the gradients of all these rows meet, are computed once and copied for
each row and layer, as SDPA takes keys in one piece. So the instruction that all prompts begin with is
computed once, and so are a problem that several traces solve, the prompt of a group in RL, whose responses
are branches of it as paths are of a response, and a row that is there twice. Linear layers see one long row;
attention takes rows that are alike in length together, so there is no mask over all of them.

Loss and gradients are the same to rounding. Unlike TRL's `packing`, nothing is cut, and a step has the rows
that it had; unlike its `padding_free`, a CPU needs no kernel for it and path windows hold.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import groupby, pairwise, takewhile
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask
from transformers.modeling_outputs import BaseModelOutputWithPast

from prl.machine.shape import PACKED
from prl.runs import processes
from prl.structure import attention_named, backbone_of

ATTENTION = "prl_packed"
"""Name under which `attend` is registered with transformers."""


def drops(model: Any) -> bool:
    """Whether `model`, as it is now, has dropout, which is another for each row."""
    return bool(
        model.training
        and (
            any(module.p > 0 for module in model.modules() if isinstance(module, nn.Dropout))
            or backbone_of(model).config.attention_dropout
        )
    )


def why_padded(trainer: Any, model: Any) -> str | None:
    """Why the micro-batches of a trainer are padded, not packed; None where they are packed. `model` is its
    model, not as it is wrapped for several processes."""
    config = backbone_of(model).config
    computed = config._attn_implementation
    packs = getattr(trainer, "padding_free", False) or getattr(trainer.args, "packing", False)
    reasons = {
        "FSDP and DeepSpeed run layers in their own way": processes.wraps_layers(),
        "dropout is another for each row": drops(model),
        f"{config.model_type} models were not tried": config.model_type not in PACKED,
        "layers have sliding windows": getattr(backbone_of(model), "has_sliding_layers", False),
        f"{computed} attention takes whole rows": computed not in ("sdpa", ATTENTION),
        "TRL's packing takes its place": packs,
        "NEFTune's noise goes by the length of a row": bool(trainer.args.neftune_noise_alpha),
    }
    return next((reason for reason, holds in reasons.items() if holds), None)


def packed_loss(
    trainer: Any,
    original: Callable[..., Any],
    model: Any,
    inputs: dict[str, Any],
    return_outputs: bool = False,
    num_items_in_batch: Any = None,
) -> Any:
    """`compute_loss` of an SFTTrainer (trl 1.16) on rows that are packed where they can be."""
    own = trainer.accelerator.unwrap_model(model)
    padded = trainer.padded if model.training else why_padded(trainer, own)
    if return_outputs or "attention_mask" not in inputs or padded:
        return original(model, inputs, return_outputs, num_items_in_batch=num_items_in_batch)
    with packed(own, inputs["attention_mask"]):
        return original(model, inputs, num_items_in_batch=num_items_in_batch)


@contextmanager
def packed(model: Any, mask: Tensor) -> Iterator[None]:
    """Within, a call of the backbone with rows of this padding mask (rows, width) computes them packed. Its
    hidden states are (rows, width, hidden) as ever; those of padding mean nothing. Positions, and what
    structure the rows have (`prl.structure.attach_structure`), are settled by hooks before. A backward pass
    may come later; with checkpoints, within `packed_attention`."""
    backbone = backbone_of(model)
    forward = backbone.forward

    def of_rows(
        input_ids: Tensor, attention_mask: Tensor, position_ids: Tensor | None = None, **kwargs: Any
    ) -> BaseModelOutputWithPast:
        if position_ids is None:
            position_ids = (mask.cumsum(dim=1) - 1).clamp(min=0)  # of rows padded from the left, too
        windows = attention_mask[:, 0] if attention_mask.dim() == 4 else None
        layout = layout_of(input_ids, position_ids, mask.bool(), windows)
        found = forward(
            input_ids=input_ids.flatten()[layout.taken][None],
            attention_mask=_NO_MASK.to(input_ids.device),
            position_ids=position_ids.flatten()[layout.taken][None],
            packed=layout,
            **kwargs,
        )
        hidden = found.last_hidden_state[0].index_select(0, layout.places.flatten())
        return BaseModelOutputWithPast(last_hidden_state=hidden.view(*input_ids.shape, -1))

    backbone.forward = of_rows
    try:
        with packed_attention(model):
            yield
    finally:
        backbone.forward = forward


@contextmanager
def packed_attention(model: Any) -> Iterator[None]:
    """Within, the attention modules of `model` know of packed rows, if it is of those that are packed. A
    training step is within, as checkpoints take the forward pass again in the backward pass."""
    backbone = backbone_of(model)
    if backbone.config.model_type not in PACKED or backbone.config._attn_implementation != "sdpa":
        yield
        return
    with attention_named(backbone, ATTENTION):
        yield


_NO_MASK = torch.ones(1, 1, 0, 0, dtype=torch.bool)
"""Keeps a backbone from making a mask of its own; attention that does not know of packed rows fails on it."""


# --- Where the tokens are


def shared_by_all(rows: Sequence[list[int]]) -> int:
    """How many tokens all rows of token ids begin with; at the most all but the last of the shortest."""
    first, last = min(rows), max(rows)  # all others begin as far alike as these do
    alike = sum(1 for _ in takewhile(bool, map(operator.eq, first, last)))
    return min(alike, min(map(len, rows)) - 1)


@dataclass(frozen=True)
class Rows:
    """So many rows that follow one another in a packed row and are as long, also in `own` tokens that no row
    before has, their last ones: the segments that make them up, one row after the other, and those of their
    own tokens. `visible` (rows or 1, own, length) is which tokens their own see; None: all until themselves.
    """

    count: int
    own: int
    segments: tuple[int, ...]
    own_segments: tuple[int, ...]
    visible: Tensor | None
    additive: dict[torch.dtype, Tensor] = field(default_factory=dict)

    def mask(self, like: Tensor) -> Tensor | None:
        """`visible` as attention adds it to what is `like`, made once for all layers; None where that is."""
        if self.visible is not None and like.dtype not in self.additive:
            mask = torch.zeros(self.visible.shape, dtype=like.dtype, device=like.device)
            hidden = ~self.visible.to(like.device)
            self.additive[like.dtype] = mask.masked_fill_(hidden, -torch.inf)[:, None]
        return self.additive.get(like.dtype)


@dataclass(frozen=True)
class Layout:
    """A packed row: which of the tokens of all rows, end to end, are `taken` (n,); in which of its `places`
    the token of a row is (rows, width), 0 for padding; how long its segments are; and its rows, those with
    tokens of their own, in its order."""

    taken: Tensor
    places: Tensor
    sizes: list[int]
    rows: list[Rows]


def layout_of(ids: Tensor, positions: Tensor, real: Tensor, windows: Tensor | None = None) -> Layout:
    """How rows (rows, width) are packed: in the order of their tokens, so that each begins most like the one
    before it. What it shares with that one has the same ids, positions and `windows` (rows, width, width: who
    sees whom). `real` is False on padding."""
    device, (count, width) = ids.device, ids.shape
    columns = [row.nonzero().flatten() for row in real.cpu()]
    told = torch.stack([ids, positions], dim=-1).cpu()
    tokens = [told[row, columns[row]] for row in range(count)]
    seen = [None if windows is None else windows[row] for row in range(count)]
    places, taken = torch.zeros(count, width, dtype=torch.long), []
    chains: dict[int, tuple[Tensor, int]] = {}  # of rows with tokens of their own: all places, own tokens
    begun, before = 0, None
    order = sorted(range(count), key=[each[:, 0].tolist() for each in tokens].__getitem__)
    for row in order:
        at, shared = columns[row], 0
        if before is not None:
            pair = before, row
            shared = _alike([tokens[i] for i in pair], [columns[i] for i in pair], [seen[i] for i in pair])
            places[row, at[:shared]] = places[before, columns[before][:shared]]
        own = len(at) - shared
        places[row, at[shared:]] = torch.arange(begun, begun + own)
        if own:
            taken.append(row * width + at[shared:])
            chains[row] = places[row, at], own
        begun, before = begun + own, row
    sizes, segments = _segments([*chains.values()], begun)
    rows = [
        Rows(1, own, *each, _visible(seen[row], columns[row], own))
        for (row, (_, own)), each in zip(chains.items(), segments, strict=True)
    ]
    lengths = (len(chain) for chain, _ in chains.values())
    alike = groupby(zip(rows, lengths, strict=True), lambda row: (row[0].own, row[1], row[0].visible is None))
    together = [_together([row for row, _ in each]) for _, each in alike]
    return Layout(torch.cat(taken).to(device), places.to(device), sizes, together)


def _together(rows: Sequence[Rows]) -> Rows:
    segments = tuple(each for row in rows for each in row.segments)
    own_segments = tuple(each for row in rows for each in row.own_segments)
    visible = None
    if masks := [row.visible for row in rows if row.visible is not None]:
        visible = torch.cat(masks[:1] if all(torch.equal(masks[0], mask) for mask in masks) else masks)
    return Rows(len(rows), rows[0].own, segments, own_segments, visible)


def _alike(tokens: Sequence[Tensor], columns: Sequence[Tensor], seen: Sequence[Tensor | None]) -> int:
    """How many tokens two rows begin with alike: (tokens, 2) of ids and positions of each, the columns where
    they stand, and who sees whom."""
    least = min(map(len, tokens))
    same = (tokens[0][:least] == tokens[1][:least]).all(dim=1)
    alike = int(same.long().cumprod(0).sum())
    if seen[0] is None or seen[1] is None or not alike:
        return alike
    of_both = (_square(each, at[:alike]) for each, at in zip(seen, columns, strict=True) if each is not None)
    same = torch.eq(*of_both).all(dim=1)
    return int(same.long().cumprod(0).sum())


def _segments(
    chains: Sequence[tuple[Tensor, int]], end: int
) -> tuple[list[int], list[tuple[tuple[int, ...], tuple[int, ...]]]]:
    """The sizes of the pieces that a packed row of `end` tokens is cut into, so that each chain of places is
    some of them, one after the other; and which, and which are of its last so many places."""
    cuts = {0, end}
    for chain, own in chains:
        leaps = (chain.diff() != 1).nonzero().flatten()
        cuts |= {int(chain[-own]), *(chain[leaps] + 1).tolist(), *chain[leaps + 1].tolist()}
    bounds = sorted(cuts)
    number = {bound: index for index, bound in enumerate(bounds)}

    def numbers(places: Tensor) -> tuple[int, ...]:
        return tuple(number[place] for place in places.tolist() if place in number)

    sizes = [stop - start for start, stop in pairwise(bounds)]
    return sizes, [(numbers(chain), numbers(chain[-own:])) for chain, own in chains]


def _square(seen: Tensor, at: Tensor) -> Tensor:
    at = at.to(seen.device)
    return seen[at][:, at]


def _visible(seen: Tensor | None, at: Tensor, own: int) -> Tensor | None:
    """Who sees whom, of a row's own tokens; None where each sees all until itself and a whole triangle is
    less work than they are by all."""
    device = None if seen is None else seen.device
    causal = torch.ones(len(at), len(at), dtype=torch.bool, device=device).tril()[-own:]
    if seen is not None and not torch.equal(of_row := _square(seen, at)[-own:], causal):
        return of_row[None]
    return None if 2 * own >= len(at) else causal[None]


# --- Attention


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    packed: Layout | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """transformers' `sdpa`, and that of a packed row: queries (1, heads, n, size) of each of its rows on the
    keys of that row; (1, n, heads, size)."""
    if packed is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
    queries, keys, values = (each.split(packed.sizes, dim=2) for each in (query, key, value))
    found = []
    for rows in packed.rows:
        mask = rows.mask(query)
        asking = rows.segments if mask is None else rows.own_segments
        out, _ = sdpa_attention_forward(
            module,
            _joined(queries, asking, rows.count),
            _joined(keys, rows.segments, rows.count),
            _joined(values, rows.segments, rows.count),
            mask,
            **kwargs,
        )
        found.append(out[:, -rows.own :].flatten(0, 1))
    return torch.cat(found)[None], None


def _joined(pieces: Sequence[Tensor], which: Sequence[int], rows: int) -> Tensor:
    """Those pieces (1, heads, n, size) one after the other, as so many rows: (rows, heads, n, size)."""
    joined = torch.cat([pieces[each] for each in which], dim=2) if len(which) > 1 else pieces[which[0]]
    return joined[0].unflatten(1, (rows, -1)).transpose(0, 1)


AttentionInterface.register(ATTENTION, attend)
AttentionMaskInterface.register(ATTENTION, sdpa_mask)
