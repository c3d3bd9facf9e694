"""Where the time of an RL step goes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from time import perf_counter
from typing import Any

from transformers import TrainerCallback

PARTS = ("rollout", "verify", "score", "update")


class StepTimes(TrainerCallback):
    """Logs the seconds of a step by what they were spent on, which add up to all of it; a mean over steps
    where several are logged at once.

    `time/rollout`: responses were sampled. `time/verify`: they were judged, paid, compared within their
    groups and kept. `time/score`: log-probabilities were computed that have no gradient, those of the
    reference and of the policy that sampled. `time/update`: the rest, forward and backward passes and the
    optimizer. `step_time`, GRPOTrainer's own (trl 1.16), leaves the optimizer out. What the trainer's
    `profiling_decorator` measures goes to the loggers of some services alone, and counts what is nested
    twice.

    A GPU works on after it was asked to, and nothing waits for it here that would not anyway: sampling does
    at each token and the trainer after each backward pass (transformers 5.23 looks whether the loss is a
    number), so rollouts and updates take what they say, but for the optimizer, which the next step waits for.
    What is scored may be waited for in `time/verify`. Of several processes these are the main one's, which
    waits for the others where they meet.
    """

    def __init__(self) -> None:
        self.trainer: Any = None
        self.seconds = dict.fromkeys(PARTS, 0.0)
        self.part, self.since = "update", perf_counter()

    def watch(self, trainer: Any) -> None:
        """Log with `trainer`, whose methods say what they do by `of`."""
        self.trainer = trainer

    @contextmanager
    def of(self, part: str) -> Iterator[None]:
        """What is done within is a `part`, and nothing of the part that it is within."""
        outer = self._turn_to(part)
        try:
            yield
        finally:
            self._turn_to(outer)

    def _turn_to(self, part: str) -> str:
        now, before = perf_counter(), self.part
        self.seconds[before] += now - self.since
        self.part, self.since = part, now
        return before

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._turn_to("update")
        self.seconds = dict.fromkeys(PARTS, 0.0)  # what an evaluation or a rehearsal took is of no step

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._turn_to("update")
        for part, seconds in self.seconds.items():
            self.trainer._metrics["train"][f"time/{part}"].append(seconds)
