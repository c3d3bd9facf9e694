"""Where the time of a step goes: parts within parts, and what belongs to no step."""

from __future__ import annotations

from collections import defaultdict
from contextlib import suppress
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from prl.machine.hardware import peak_memory
from prl.trainer.timing import PARTS, StepTimes


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("prl.trainer.timing.perf_counter", clock)
    return clock


def watched() -> tuple[StepTimes, dict[str, list[float]]]:
    logged: dict[str, Any] = defaultdict(list)
    times = StepTimes()
    times.watch(SimpleNamespace(_metrics={"train": logged}))
    return times, logged


def test_what_is_within_a_part_is_not_counted_twice(clock: Clock) -> None:
    times, logged = watched()
    times.on_step_begin(None, None, None)
    clock.now += 1
    with times.of("verify"):
        clock.now += 2
        with times.of("rollout"):
            clock.now += 4
        clock.now += 8
        with times.of("score"):
            clock.now += 16
    clock.now += 32
    times.on_step_end(None, None, None)
    assert logged == {"time/rollout": [4], "time/verify": [10], "time/score": [16], "time/update": [33]}


def test_what_lies_between_steps_is_of_none(clock: Clock) -> None:
    times, logged = watched()
    with times.of("rollout"):  # a rehearsal
        clock.now += 5
    for seconds in (1, 2):
        times.on_step_begin(None, None, None)
        clock.now += seconds
        times.on_step_end(None, None, None)
        with times.of("rollout"), times.of("score"):  # an evaluation
            clock.now += 7
        clock.now += 7  # a checkpoint
    assert logged == {f"time/{part}": [1, 2] if part == "update" else [0, 0] for part in PARTS}


def test_a_part_that_fails_is_left(clock: Clock) -> None:
    """Memory that runs out: the step is tried again."""
    times, logged = watched()
    times.on_step_begin(None, None, None)
    with suppress(MemoryError), times.of("rollout"):
        clock.now += 3
        raise MemoryError
    clock.now += 1
    times.on_step_end(None, None, None)
    assert (logged["time/rollout"], logged["time/update"]) == ([3], [1])


def test_the_peak_of_a_process_is_no_less_than_what_it_holds() -> None:
    # The kernel counts to a few pages a core.
    assert peak_memory("cpu") >= psutil.Process().memory_info().rss - 2**20


def test_a_system_without_proc_says_it_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = peak_memory("cpu")

    def missing(*args: Any, **kwargs: Any) -> str:
        raise FileNotFoundError

    monkeypatch.setattr("pathlib.Path.read_text", missing)
    assert peak_memory("cpu") >= expected - 2**20
