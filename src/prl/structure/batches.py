"""The structure of a batch of token ids, in tensor operations: no loop over tokens."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from prl.structure.tags import Tags


class Structure(NamedTuple):
    """What the tags make of a batch of token ids; each of shape (batch, length), int64.

    `segments`: 0 for the main thread, 1, 2, … for the paths of a sequence in written order. `horizons`: a
    token sees the segments below it and its own; for a path token the first segment of its block, for the
    main thread more than any segment. `positions`: for the rotary embedding. `sequences`: the column where
    the token's sequence begins, -1 for padding; tokens of different ones do not see each other.
    """

    segments: Tensor
    horizons: Tensor
    positions: Tensor
    sequences: Tensor


def read_structure(
    input_ids: Tensor, tags: Tags, attention_mask: Tensor | None = None, sequences: Tensor | None = None
) -> Structure:
    """The structure of `input_ids` (batch, length), on its device, without a loop over tokens.

    `attention_mask` (batch, length) is 0 on padding, which may stand on either side. `sequences` (batch,
    length) tells apart sequences that are packed in a row: a new one begins where the number changes, and has
    a header of its own. What packing cut off from its header is read as prompt.
    """
    batch, length = input_ids.shape
    index = torch.arange(length, device=input_ids.device).expand(batch, length)
    real = torch.ones_like(index, dtype=torch.bool) if attention_mask is None else attention_mask.bool()
    begins = index == 0
    if sequences is not None:
        begins[:, 1:] |= sequences[:, 1:] != sequences[:, :-1]
    begin = _latest(begins, index)

    def count(event: Tensor) -> Tensor:
        """How many events (or what sum) its sequence has had, up to and including each token."""
        total = event.long().cumsum(1)
        return total - (total - event.long()).gather(1, begin)

    def last_before(event: Tensor) -> Tensor:
        """The column where its sequence had the last event, up to and not including each token; -1: none."""
        found = _latest(event, index).roll(1, 1)
        found[:, :1] = -1
        return torch.where(found >= begin, found, -1)

    n = count(real) - 1  # index among the tokens of the sequence, padding left out
    response = real
    if tags.header:
        is_whole = n >= len(tags.header) - 1  # not cut off where its sequence begins
        response = last_before(_header_ends(input_ids, tags.header) & is_whole) >= 0
        if tags.next_turn:
            is_whole = n >= len(tags.next_turn) - 1
            following = _next(_header_ends(input_ids, tags.next_turn) & is_whole, index)
            response &= (following == length) | (begin != begin.gather(1, following.clamp(max=length - 1)))
    opens = response & (input_ids == tags.parallel)
    closes = response & (input_ids == tags.end_parallel)
    is_open = last_before(opens) > last_before(closes)
    begins_block, ends_block = opens & ~is_open, closes & is_open
    block = _latest(begins_block, index)  # of an earlier sequence, or -1, where none is open
    begins_path = response & (input_ids == tags.path) & is_open
    path_before, path = last_before(begins_path), _latest(begins_path, index)
    first = _latest(begins_path & (path_before < block), index).clamp(min=0)  # the block's first path
    in_path = real & is_open & ~ends_block & (path > block)

    path_count = count(begins_path)
    segments = torch.where(in_path, path_count, 0)
    horizons = torch.where(in_path, path_count.gather(1, first), length + 1)

    # Positions stand still while paths but the longest are written: at `</Parallel>` the rest is taken off.
    ends_path = (begins_path | ends_block) & (path_before > block)
    ended = n - n.gather(1, path_before.clamp(min=0))  # tokens of the path that ends here
    block_number = begins_block.long().cumsum(1) * (length + 1)
    longest = torch.where(ends_path, block_number + ended, 0).cummax(1).values - block_number
    saved = torch.where(ends_block & ends_path, n - n.gather(1, first) - longest, 0)
    rewound = torch.where(in_path, n.gather(1, path.clamp(min=0)) - n.gather(1, first), 0)
    positions = (n - count(saved) - rewound).clamp(min=0)
    return Structure(segments, horizons, positions, torch.where(real, _latest(real & (n == 0), index), -1))


def structural_positions(
    input_ids: Tensor, tags: Tags, attention_mask: Tensor | None = None, sequences: Tensor | None = None
) -> Tensor:
    """Position ids (batch, length); arguments as for `read_structure`."""
    return read_structure(input_ids, tags, attention_mask, sequences).positions


def path_window_mask(
    input_ids: Tensor,
    tags: Tags,
    attention_mask: Tensor | None = None,
    sequences: Tensor | None = None,
    window: int | None = None,
) -> Tensor:
    """True where a token (dimension 2) sees another (dimension 3): bool, (batch, 1, length, length).

    `window` is that of sliding-window layers, in positions: a token sees those less than `window` before it.
    Padding sees itself alone, which keeps its row of the softmax finite.
    """
    return window_mask(read_structure(input_ids, tags, attention_mask, sequences), window)


def _latest(event: Tensor, index: Tensor) -> Tensor:
    """The column of the last event in the row, up to and including each token; -1: none."""
    return torch.where(event, index, -1).cummax(1).values


def _next(event: Tensor, index: Tensor) -> Tensor:
    """The column of the first event in the row, from each token on; its length: none."""
    length = event.shape[1]
    return torch.where(event, index, length).flip(1).cummin(1).values.flip(1)


def _header_ends(input_ids: Tensor, header: tuple[int, ...]) -> Tensor:
    """True on each token that completes `header`; wraps around, so nothing is said of the first tokens."""
    ends = torch.ones_like(input_ids, dtype=torch.bool)
    for back, token in enumerate(reversed(header)):
        ends &= (input_ids == token).roll(back, 1)
    return ends


def has_no_response(input_ids: Tensor, tags: Tags) -> Tensor:
    """Whether `input_ids` (batch, length) hold `<Parallel>` and in no row a response's header: bool, ()."""
    return (input_ids == tags.parallel).any() & ~_header_ends(input_ids, tags.header).any()


def window_mask(structure: Structure, window: int | None) -> Tensor:
    """What a token sees lies in two stretches of its row: from `begin` up to `first`, the first path of its
    block, and from `own`, its own path, up to itself. On the main thread the two meet.

    Each stretch is a difference of two rows of a triangle, and copying rows is many times faster than
    comparing element by element.
    """
    segments, horizons, positions, sequences = structure
    batch, length = segments.shape
    index = torch.arange(length, device=segments.device).expand(batch, length)
    begin = torch.where(sequences < 0, index, sequences)
    begins_path = (segments > 0) & (segments != segments.roll(1, 1))  # the first column is in no path
    own = torch.where(segments > 0, _latest(begins_path, index), begin)
    first = torch.where(segments > 0, _latest(begins_path & (segments == horizons), index), begin)

    triangle = torch.ones(length + 1, length, dtype=torch.bool, device=segments.device).tril(-1)
    visible = triangle[index + 1]
    scratch = torch.empty_like(visible)
    rows = scratch.view(batch * length, length)
    for bound in (own, first, begin):
        torch.index_select(triangle, 0, bound.flatten(), out=rows)
        visible ^= scratch
    if window is not None:
        torch.gt(positions[:, None, :], positions[:, :, None] - window, out=scratch)
        visible &= scratch
    return visible[:, None]
