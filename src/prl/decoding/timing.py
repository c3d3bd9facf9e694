"""How long responses take by themselves: one problem at a time, on one thread, without what happens once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from time import perf_counter

import torch

from prl.decoding.forkjoin import ForkJoinDecoder, Response
from prl.decoding.passes import decoding

WARM_UP = 3
"""Responses that are decoded before the first that counts."""

Clocked = Callable[[str, Sequence[int]], tuple[list[Response], float]]
"""A prompt and the seed of each response to it -> these, and the seconds that they took together."""


@contextmanager
def alone(decoder: ForkJoinDecoder, warm_up: Iterable[tuple[str, Sequence[int]]] = ()) -> Iterator[Clocked]:
    """Yields the function that answers one prompt with nothing beside it: the responses of
    `decoder.generate`, and the seconds from the prompt, which is read, to the end of the longest.

    What happens once for many is left out: folding and packing of weights, and what is decoded to `warm_up`
    (prompts and seeds), by which libraries choose their kernels and the allocator has its memory. The
    responses are those of any batch, as the seed of each decides; they are side by side as far as the
    decoder's `batch_size` allows. torch computes on one thread meanwhile.
    """

    def clocked(prompt: str, seeds: Sequence[int]) -> tuple[list[Response], float]:
        start = perf_counter()
        (responses,) = decoder.generate([prompt], seeds=[seeds])
        return responses, perf_counter() - start

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
