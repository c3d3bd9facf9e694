"""How long responses take by themselves: one problem at a time, on one thread, without what happens once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from time import perf_counter, process_time
from typing import NamedTuple

import torch

from prl.decoding.forkjoin import ForkJoinDecoder, Response
from prl.decoding.passes import decoding

WARM_UP = 3
"""Responses that are decoded before the first that counts."""


class Took(NamedTuple):
    """`seconds` on the wall, and those of the processor, which what else a machine does adds little to; None
    where the model is on another device, for which the processor waits."""

    seconds: float
    cpu_seconds: float | None


Clocked = Callable[[str, Sequence[int]], tuple[list[Response], Took]]
"""A prompt and the seed of each response to it -> these, and what they took together."""


@contextmanager
def alone(decoder: ForkJoinDecoder, warm_up: Iterable[tuple[str, Sequence[int]]] = ()) -> Iterator[Clocked]:
    """Yields the function that answers one prompt with nothing beside it: the responses of
    `decoder.generate`, and what passed from the prompt, which is read, to the end of the longest.

    What happens once for many is left out: folding and packing of weights, and what is decoded to `warm_up`
    (prompts and seeds), by which libraries choose their kernels and the allocator has its memory. The
    responses are those of any batch, as the seed of each decides; they are side by side as far as the
    decoder's `batch_size` allows. torch computes on one thread meanwhile.
    """

    on_cpu = decoder.model.device.type == "cpu"

    def clocked(prompt: str, seeds: Sequence[int]) -> tuple[list[Response], Took]:
        start, cpu = perf_counter(), process_time()
        (responses,) = decoder.generate([prompt], seeds=[seeds])
        seconds, cpu_seconds = perf_counter() - start, process_time() - cpu
        return responses, Took(seconds, cpu_seconds if on_cpu else None)

    with _one_thread(), decoding(decoder.model):
        for prompt, seeds in warm_up:
            clocked(prompt, seeds)
        yield clocked


@contextmanager
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
