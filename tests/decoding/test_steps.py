"""Steps in a few sizes, called plainly and as graphs that are made up: the same responses as in their own."""

from __future__ import annotations

import gc
import logging
import weakref
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from test_forkjoin import PROMPTS, SEEDS, encode, flat, ids_of, widest_gap
from test_openings_decoded import PLANNED
from torch import Tensor

from prl.decoding import ForkJoinDecoder, Limits, Sampling, forkjoin, passes, steps
from prl.decoding.rows import CHUNK, RowCache, last_growth
from prl.decoding.steps import Captured, Compute, Sizes
from prl.structure import attach_structure


class Card:
    """Captures as a card does: a graph computes again from what it reads, wherever that is by then."""

    def __init__(self) -> None:
        self.replays: Counter[Sizes] = Counter()
        self.graphs: list[Captured] = []
        self.is_plain = False

    def capture(self, compute: Compute, placed: Tensor, sizes: Sizes, pool: Any) -> Captured:
        cache = compute.__self__.cache
        stored = [*cache.keys, *cache.values, cache.segments, cache.positions]
        hidden = torch.full_like(compute(placed, sizes), torch.nan)  # capturing computes nothing

        def replay() -> None:
            now = [*cache.keys, *cache.values, cache.segments, cache.positions]
            assert all(one is other for one, other in zip(stored, now, strict=True)), "these have moved"
            self.replays[sizes] += 1
            for graph in self.graphs:  # memory is shared with other graphs
                graph.hidden.fill_(torch.nan)
            hidden.copy_(compute(placed, sizes))

        self.graphs.append(Captured(placed, replay, hidden))
        return self.graphs[-1]


@pytest.fixture(params=["rounded", "captured"])
def card(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Card:
    """Takes over once it is told to."""
    made = Card()
    way_of = steps.way_of
    monkeypatch.setattr(steps, "way_of", lambda device: way_of(device) if made.is_plain else request.param)
    monkeypatch.setattr(steps, "capture", made.capture)
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", object)
    return made


@pytest.fixture(scope="module")
def structured(make_model: Any, tags: Any) -> Any:
    model = make_model(more={"<Parallel>": 3.0, "<|im_end|>": 2.5, "<Path>": 1.0, "</Path>": 1.0})
    attach_structure(model, tags)
    return model


def both(card: Card, decoder: ForkJoinDecoder, prompts: Sequence[str], **given: Any) -> list[Any]:
    """Responses in the sizes of a card, checked against those in their own."""
    card.is_plain = True
    expected = decoder.generate(prompts, **given)
    card.is_plain = False
    found = decoder.generate(prompts, **given)
    assert ids_of(found) == ids_of(expected)
    for one, other in zip(flat(found), flat(expected), strict=True):
        np.testing.assert_allclose(one.logprobs, other.logprobs, atol=1e-5)
    return found


@pytest.mark.parametrize("family", ["Qwen3", "Mistral", "Gemma2", "Gemma3"])
@pytest.mark.parametrize("structure", [True, False], ids=["structured", "causal"])
def test_responses_are_the_same_and_score_as_sampled(card, make_model, tokenizer, tags, family, structure):
    """Rows end and others take their place, caches grow, windows count positions, the last rows move up."""
    model = make_model(family)
    if structure:
        attach_structure(model, tags)
    decoder = ForkJoinDecoder(
        model, tokenizer, limits=Limits(90, "auto"), sampling=Sampling(0.9), batch_size=7
    )
    answers = both(card, decoder, PROMPTS, seeds=SEEDS)
    assert widest_gap(model, encode(tokenizer, PROMPTS), answers, temperature=0.9) <= 1e-4


@pytest.mark.parametrize("batch_size", [1, 3, 64])
@pytest.mark.parametrize("opening", ["number", "plan"])
def test_openings(card, structured, tokenizer, opening, batch_size):
    limits = Limits(100, 3, path_opening=opening)
    prompts = PLANNED if opening == "plan" else PROMPTS[:4]
    decoder = ForkJoinDecoder(structured, tokenizer, limits=limits, batch_size=batch_size)
    both(card, decoder, prompts, seeds=SEEDS[:4])


@pytest.mark.parametrize("card", ["captured"], indirect=True)
def test_sizes_are_few(card, structured, tokenizer):
    """Powers of two, as many rows as there are, all slots; each is captured when it is met again, and once
    for a cache of that many slots."""
    decoder = ForkJoinDecoder(structured, tokenizer, limits=Limits(200, 3), batch_size=6)
    decoder.generate(PROMPTS[:4], seeds=SEEDS[:4])
    sizes = set(card.replays)
    assert {each.tokens for each in sizes} | {each.width for each in sizes} <= {1, 2, 4, 8, 16, 32}
    assert {each.rows for each in sizes} <= {1, 2, 4, 6}
    assert len({each.used for each in sizes}) > 1, "the cache has grown"
    assert all(each.used % CHUNK == 0 for each in sizes)
    assert len(card.graphs) == len(sizes), "none is captured twice"
    assert sum(card.replays.values()) > 0.7 * decoder.steps


@pytest.mark.parametrize("card", ["captured"], indirect=True)
def test_graphs_are_gone_before_the_cache_grows(card, structured, tokenizer, monkeypatch):
    """Else their memory would lie beside that of the cache twice."""
    made: list[weakref.ref[Tensor]] = []
    alive: list[int] = []  # of those, as the cache grows
    grow = RowCache._grow

    def capture(*given: Any) -> Captured:
        captured = card.capture(*given)
        card.graphs.clear()
        made.append(weakref.ref(captured.hidden))
        return captured

    def noted(cache: RowCache, slots: int) -> None:
        if made:
            alive.append(sum(hidden() is not None for hidden in made))
        grow(cache, slots)

    monkeypatch.setattr(steps, "capture", capture)
    monkeypatch.setattr(RowCache, "_grow", noted)
    decoder = ForkJoinDecoder(structured, tokenizer, limits=Limits(200, 3), batch_size=6)
    gc.disable()
    try:
        decoder.generate(PROMPTS[:4], seeds=SEEDS[:4])
    finally:
        gc.enable()
    assert alive
    assert set(alive) == {0}


@pytest.mark.parametrize("card", ["captured"], indirect=True)
def test_a_rehearsal_captures_a_step_in_the_largest_cache(card, make_model, tokenizer):
    decoder = ForkJoinDecoder(make_model(), tokenizer, limits=Limits(200), batch_size=6)
    prompt = tokenizer(PROMPTS[0], add_special_tokens=False)["input_ids"]
    decoder.rehearse(prompt, prompts=2, samples=3)
    largest = last_growth(len(prompt), len(prompt) + 200)
    assert max(each.used for each in card.replays) > largest
    assert max(each.rows for each in card.replays) == 6


@pytest.mark.parametrize("card", ["captured"], indirect=True)
def test_what_cannot_be_captured_is_said_once_and_decoded_as_it_is(
    card, make_model, tokenizer, monkeypatch, caplog
):
    def fail(*_: Any) -> Captured:
        try:
            raise RuntimeError("operation not permitted when stream is capturing\nmore of it")
        finally:  # as `torch.cuda.graph` does
            raise RuntimeError("operation failed due to a previous error during capture")

    monkeypatch.setattr(steps, "capture", fail)
    decoder = ForkJoinDecoder(make_model(), tokenizer, limits=Limits(40), batch_size=7)
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            both(card, decoder, PROMPTS, seeds=SEEDS)
    assert [record.getMessage() for record in caplog.records] == [
        "Qwen3Model decodes kernel by kernel, without CUDA graphs: "
        "operation not permitted when stream is capturing"
    ]


@pytest.mark.parametrize("card", ["captured"], indirect=True)
def test_where_memory_runs_out_in_a_capture_the_next_cache_tries_again(
    card, make_model, tokenizer, monkeypatch, caplog
):
    tried: list[Any] = []

    def fail(*given: Any) -> Captured:
        tried.append(given)
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(steps, "capture", fail)
    decoder = ForkJoinDecoder(make_model(), tokenizer, limits=Limits(40), batch_size=7)
    for times in (1, 2):
        both(card, decoder, PROMPTS, seeds=SEEDS)
        assert len(tried) == times
    assert not caplog.records


def test_responses_are_told_while_a_card_computes_the_next_step(structured, tokenizer, monkeypatch):
    """The host waits for a card where it reads tokens, and nowhere else: callbacks come before that."""
    told: list[str] = []
    launch, read_back = forkjoin._Batch.launch, forkjoin.read_back
    monkeypatch.setattr(forkjoin._Batch, "launch", lambda batch: (launch(batch), told.append("launched"))[0])
    monkeypatch.setattr(forkjoin, "read_back", lambda drawn: (told.append("read"), read_back(drawn))[1])
    decoder = ForkJoinDecoder(structured, tokenizer, limits=Limits(60, 3), batch_size=3)
    answers = decoder.generate(
        PROMPTS[:4], seeds=SEEDS[:4], on_response=lambda i, j, response: told.append("response")
    )
    assert told.count("response") == len(flat(answers))
    after = [before for before, now in pairwise(told) if now == "response"]
    assert {*after} == {"launched", "response"}
    assert [now for now in told if now != "response"][:4] == ["launched", "read"] * 2


@pytest.mark.parametrize("card", ["rounded"], indirect=True)
def test_a_cache_is_freed_as_soon_as_its_responses_are_there(card, structured, tokenizer, monkeypatch):
    """On a card it may be most of the memory, and the garbage collector comes when it likes."""
    made: list[weakref.ref[RowCache]] = []

    class Noted(RowCache):
        def __init__(self, rows: int, device: torch.device) -> None:
            super().__init__(rows, device)
            made.append(weakref.ref(self))

    monkeypatch.setattr(passes, "RowCache", Noted)
    decoder = ForkJoinDecoder(structured, tokenizer, limits=Limits(40))
    gc.disable()
    try:
        decoder.generate(PROMPTS, seeds=SEEDS)
        assert [cache() for cache in made] == [None]
    finally:
        gc.enable()
