"""A step's forward pass in a few sizes, each of which a CUDA device runs as one launch.

A step feeds any number of tokens, of any number of rows, and any number to a row; a CUDA graph has one size.
So these are rounded up to powers of two, and all slots that the cache has are looked at. A token that is
missing is the last one once more: it writes the same keys and values to the same slot. Rows and columns that
are missing hold no token, as some always do. On other devices, where a launch costs little and padding takes
time, a step keeps its own sizes.

The first step of each size runs kernel by kernel, which warms it up; the second is captured. Graphs last as
long as their cache: until it grows, or `generate` ends. They share a pool of memory of a few passes
(`prl.machine.memory`, "CUDA graphs"); `rehearse` captures one. LoRA layers and, from bitsandbytes 0.44 on,
those in 4 bits wait for nothing in a forward pass (vLLM captures them too, pull request 8768). What does
wait, and so cannot be captured, is said once for a model, and its steps run kernel by kernel; where memory
runs out in a capture, those of that cache do. **No card has run this so far.**
"""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable
from typing import Any, NamedTuple
from weakref import WeakSet

import numpy as np
import torch
from torch import Tensor

from prl.decoding.sampling import uploaded
from prl.errors import first_line

log = logging.getLogger(__name__)

_UNCAPTURED: WeakSet[Any] = WeakSet()
"""Backbones whose passes could not be captured."""


def way_of(device: torch.device) -> str:
    """How steps are computed there: "exact", in their own sizes; "rounded"; "captured", graphs of those."""
    return "captured" if device.type == "cuda" else "exact"


class Sizes(NamedTuple):
    """Of one forward pass: its tokens N, the rows × width that attention arranges them in, the slots."""

    tokens: int
    rows: int
    width: int
    used: int


Compute = Callable[[Tensor, Sizes], Tensor]
"""Hidden states (N, size) for columns, (7, N) on the device, and their sizes."""


class Captured(NamedTuple):
    """A pass that reads its columns from `placed`, (7, N), and leaves its hidden states in `hidden`."""

    placed: Tensor
    replay: Callable[[], None]
    hidden: Tensor


class Steps:
    """The passes of steps over the first rows of a cache of `capacity` rows."""

    def __init__(self, backbone: Any, capacity: int) -> None:
        self.backbone, self.capacity = backbone, capacity
        self.device = backbone.get_input_embeddings().weight.device
        self._met: dict[Sizes, Captured | None] = {}  # None: warmed up
        self._pool: Any = None
        self._has_room = True

    def forward(self, compute: Compute, table: np.ndarray, sizes: Sizes, slots: int) -> Tensor:
        """Hidden states (N, size) for columns (N, 7); `slots` is how many the cache has.

        `compute` is handed in: held here, it would hold the cache until the garbage collector comes.
        """
        way = way_of(self.device)
        if way == "exact" or (way == "captured" and not self._is_captured()):
            return compute(uploaded(table.T, self.device), sizes)
        count = sizes.tokens
        rows = min(_rounded(sizes.rows), self.capacity)
        sizes = Sizes(_rounded(count), rows, _rounded(sizes.width), slots)
        placed = uploaded(table[np.minimum(np.arange(sizes.tokens), count - 1)].T, self.device)
        if way == "captured" and sizes in self._met:
            captured = self._met[sizes] = self._met[sizes] or self._captured(compute, placed, sizes)
            if captured:
                captured.placed.copy_(placed)
                captured.replay()
                return captured.hidden[:count]
        self._met.setdefault(sizes)
        return compute(placed, sizes)[:count]

    def drop(self) -> None:
        """Forget all graphs, before the cache grows: they know its tensors, and what they take would lie
        beside both the old and the new ones."""
        self._met, self._pool = {}, None

    def _is_captured(self) -> bool:
        return self._has_room and self.backbone not in _UNCAPTURED

    def _captured(self, compute: Compute, placed: Tensor, sizes: Sizes) -> Captured | None:
        """None where it cannot be captured, which is said once for a model, or memory runs out."""
        try:
            self._pool = self._pool or torch.cuda.graph_pool_handle()
            return capture(compute, placed, sizes, self._pool)
        except RuntimeError as error:
            self._met.clear()
            if isinstance(error.__context__ or error, torch.OutOfMemoryError):
                self._has_room, self._pool = False, None
                return None
            _UNCAPTURED.add(self.backbone)
            why = first_line(error.__context__ or error)  # the first of two that are raised
            name = type(self.backbone).__name__
            log.warning("%s decodes kernel by kernel, without CUDA graphs: %s", name, why)
            return None


def capture(compute: Compute, placed: Tensor, sizes: Sizes, pool: Any) -> Captured:
    """A graph of this pass. RuntimeError where it does what cannot be captured.

    torch 2.13: where a capture fails, `torch.cuda.graph` leaves its own stream the current one; the other
    context takes it back. Nor does it keep the garbage collector away, which may finalise another graph: no
    capture survives that (pytorch pull request 161037).
    """
    graph, collects = torch.cuda.CUDAGraph(), gc.isenabled()
    gc.disable()
    try:
        with (
            torch.cuda.stream(torch.cuda.current_stream()),
            torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"),
        ):
            hidden = compute(placed, sizes)
    finally:
        if collects:
            gc.enable()
    return Captured(placed, graph.replay, hidden)


def _rounded(count: int) -> int:
    return 1 << (count - 1).bit_length()
