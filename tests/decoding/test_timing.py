"""What responses take by themselves: what counts and what does not, with clocks that only decoding moves."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from prl.decoding import timing


class Decoder:
    """Takes as many seconds as the largest seed says, half of them the processor's; the first 100 more."""

    model = SimpleNamespace(device=torch.device("cpu"))

    def __init__(self) -> None:
        self.now = 0.0
        self.asked: list[tuple[str, tuple[int, ...], int]] = []

    def generate(self, prompts: Sequence[str], seeds: Sequence[Sequence[int]]) -> list[list[str]]:
        (prompt,), (of_prompt,) = prompts, seeds
        self.now += max(of_prompt) + (100 if len(self.asked) < 2 else 0)
        self.asked.append((prompt, (*of_prompt,), torch.get_num_threads()))
        return [[f"{prompt}{seed}" for seed in of_prompt]]


@pytest.fixture
def decoder(monkeypatch: pytest.MonkeyPatch) -> Any:
    made = Decoder()
    monkeypatch.setattr(timing, "decoding", lambda model: nullcontext())
    monkeypatch.setattr(timing, "perf_counter", lambda: made.now)
    monkeypatch.setattr(timing, "process_time", lambda: made.now / 2)
    return made


def test_each_answer_is_timed_by_itself_after_a_few_that_warm_up(decoder: Any) -> None:
    with timing.alone(decoder, [("a", [1]), ("b", [3, 4])]) as clocked:
        assert clocked("a", [2]) == (["a2"], (2, 1)), "without what the first took more"
        assert clocked("b", [3, 7, 5]) == (["b3", "b7", "b5"], (7, 3.5)), "side by side"
    assert [asked[:2] for asked in decoder.asked[:3]] == [("a", (1,)), ("b", (3, 4)), ("a", (2,))]


def test_torch_computes_on_one_thread_meanwhile(decoder: Any) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with timing.alone(decoder, [("a", [1])]) as clocked:
            clocked("a", [2])
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert {threads for _, _, threads in decoder.asked} == {1}


def test_on_another_device_the_processor_only_waits(decoder: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Decoder, "model", SimpleNamespace(device=torch.device("meta")))
    with timing.alone(decoder) as clocked:
        assert clocked("a", [200])[1] == (300, None)
