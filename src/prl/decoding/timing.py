"""How long a response takes by itself: decoding one at a time, on one thread, without what happens once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from time import perf_counter

import torch

from prl.decoding.forkjoin import ForkJoinDecoder, Response
from prl.decoding.passes import decoding

WARM_UP = 3
"""Responses that are decoded before the first that counts."""


def one_at_a_time(
    decoder: ForkJoinDecoder,
    prompts: Sequence[str],
    seeds: Sequence[Sequence[int]],
    on_batch: Callable[[int], None] = lambda done: None,
    on_response: Callable[[int, int, Response, float], None] = lambda i, j, response, seconds: None,
) -> tuple[list[list[Response]], list[list[float]]]:
    """The responses of `decoder.generate(prompts, seeds=seeds)`, and the seconds that each took: its prompt
    read and its tokens decoded, in a batch of one.

    What happens once for many is left out: folding and packing of weights, and a few responses first, by
    which libraries choose their kernels and the allocator has its memory. The responses are those of any
    batch, as the seed of each decides. torch computes on one thread meanwhile. `on_response` is called with
    each as that of `generate` is, and its seconds.
    """
    responses: list[list[Response]] = []
    seconds: list[list[float]] = []
    with _one_thread(), decoding(decoder.model):
        for prompt, of_prompt in [*zip(prompts, seeds, strict=True)][:WARM_UP]:
            decoder.generate([prompt], seeds=[of_prompt[:1]])
        for i, (prompt, of_prompt) in enumerate(zip(prompts, seeds, strict=True)):
            responses.append([])
            seconds.append([])
            for j, seed in enumerate(of_prompt):
                start = perf_counter()
                ((response,),) = decoder.generate([prompt], seeds=[[seed]])
                seconds[-1].append(perf_counter() - start)
                responses[-1].append(response)
                on_response(i, j, response, seconds[-1][-1])
                on_batch(sum(map(len, seconds)))
    return responses, seconds


@contextmanager
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
