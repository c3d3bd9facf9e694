"""What a response takes by itself: what counts and what does not, with a clock that only decoding moves."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import pytest
import torch

from prl.decoding import timing

PROMPTS, SEEDS = ["a", "b", "c", "d", "e"], [[1, 2], [3, 4], [5, 6], [7, 8], [9, 10]]


class Decoder:
    """Takes as many seconds as the seed says; the first responses 100 more."""

    model = None

    def __init__(self) -> None:
        self.now = 0.0
        self.asked: list[tuple[str, int, int]] = []

    def generate(self, prompts: Sequence[str], seeds: Sequence[Sequence[int]]) -> list[list[str]]:
        assert [len(of_prompt) for of_prompt in seeds] == [len(prompts)] == [1], "one at a time"
        ((prompt,), ((seed,),)) = prompts, seeds
        self.now += seed + (100 if len(self.asked) < timing.WARM_UP else 0)
        self.asked.append((prompt, seed, torch.get_num_threads()))
        return [[f"{prompt}{seed}"]]


@pytest.fixture
def decoder(monkeypatch: pytest.MonkeyPatch) -> Any:
    made = Decoder()
    monkeypatch.setattr(timing, "decoding", lambda model: nullcontext())
    monkeypatch.setattr(timing, "perf_counter", lambda: made.now)
    return made


def test_each_response_is_timed_by_itself_after_a_few_that_warm_up(decoder: Any) -> None:
    done: list[int] = []
    responses, seconds = timing.one_at_a_time(decoder, PROMPTS, SEEDS, done.append)
    assert responses == [
        [f"{prompt}{seed}" for seed in of] for prompt, of in zip(PROMPTS, SEEDS, strict=True)
    ]
    assert seconds == SEEDS, "without what the first took more"
    assert done == [*range(1, 11)]
    assert [(prompt, seed) for prompt, seed, _ in decoder.asked[:4]] == [
        ("a", 1),
        ("b", 3),
        ("c", 5),
        ("a", 1),
    ]


def test_torch_computes_on_one_thread_meanwhile(decoder: Any) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        timing.one_at_a_time(decoder, PROMPTS[:1], SEEDS[:1])
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert {threads for _, _, threads in decoder.asked} == {1}
