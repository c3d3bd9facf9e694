"""Rows of like length share a forward pass, so that little of it is padding, where they cannot be packed.

A micro-batch is as wide as its longest row. The gradient of a step is a sum over its rows, whichever of them
are computed together, so the rows of a micro-batch are taken in order of length and cut where the padding
that a cut saves is worth another pass. The rows of a step stay its rows: grouping whole steps by length
(transformers' `group_by_length`) saves as much and changes what a step mixes, which ruined cold starts.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

PASS_TOKENS = {"cpu": 128}
"""Tokens that take as long to compute as a forward and backward pass costs beside its tokens, by device."""

ACCELERATOR_PASS_TOKENS = 2048
"""The same of other devices, where it is the launches of kernels. Never measured."""


def pass_tokens_of(trainer: Any) -> float:
    """What a pass of `trainer` costs, in tokens; infinite where several processes meet in each, so that each
    of them must make as many."""
    if trainer.accelerator.num_processes > 1:
        return math.inf
    return PASS_TOKENS.get(trainer.accelerator.device.type, ACCELERATOR_PASS_TOKENS)


def parts_by_length(lengths: Sequence[int], most: int, pass_tokens: float) -> list[list[int]]:
    """Rows of `lengths` tokens in parts of at most `most`, so that padded tokens and passes, at `pass_tokens`
    each, cost least together. Each part is the indices of its rows, the longest first."""
    order = sorted(range(len(lengths)), key=lambda row: -lengths[row])
    costs, begins = [0.0], [0]
    for stop in range(1, len(order) + 1):
        cost, begin = min(
            (costs[begin] + lengths[order[begin]] * (stop - begin) + pass_tokens, begin)
            for begin in range(max(0, stop - most), stop)
        )
        costs.append(cost)
        begins.append(begin)
    parts, stop = [], len(order)
    while stop:
        parts.append(order[begins[stop] : stop])
        stop = begins[stop]
    return parts[::-1]
