"""Where a turn of prl's goes, operator by operator: `make bench ARGS="--profile"`.

The last turn of a way (benchmarks/ways.py) runs under torch's profiler, which knows of each operator how long
it took without those that it called, and of matrices how much they multiply. It measures on the wall, and
takes time itself, most where operators are small: shares say where time goes, the turn before how much it is.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile, record_function

from prl.decoding import ForkJoinDecoder
from prl.decoding.passes import Passes

ROLLOUT, HEAD = "prl rollout", "prl head"
HEADS = (HEAD, "ChunkedLogProbFunction", "_Scored")
BACKWARD = "autograd::engine::evaluate_function: "
PHASES = ("rollout", "forward", "backward", "optimizer")
OUTSIDE = "in no operator"
KINDS = ("LM head", "matrices of the adapter", "matrices", "attention", "copies", "norms, activations, sums",
         "views, memory, autograd", OUTSIDE)  # fmt: skip
"""The head is all that scores words; a matrix of the adapter has a side as long as its rank. What is in no
operator is Python, most of all."""

PRODUCTS = {"mm": (0, 1), "bmm": (0, 1), "addmm": (1, 2), "addmm_": (1, 2), "_linear_pointwise": (0, 1)}
"""Operators that multiply matrices, and which of their arguments these are."""

NAMED = {
    "attention": re.compile("scaled_dot_product|softmax"),
    "copies": re.compile("copy|cat|clone|index|gather|scatter|stack|embedding|fill|zero"),
    "views, memory, autograd": re.compile(
        "view|reshape|transpose|^t$|slice|select|squeeze|expand|permute|as_strided|detach|empty|resize|split|"
        "narrow|matmul|linear|alias|Backward|Accumulate|^_?to$|^item$|local_scalar|result_type|lift"
    ),
}
"""The others by their names, the first that fits; the rest is norms and the like."""


class Watched:
    """The channel of a way, whose last turn is profiled; what that found goes along with the answer."""

    def __init__(self, channel: Connection, turns: int, rank: int) -> None:
        self.channel, self.left, self.rank = channel, turns, rank
        self.profiler = profile(activities=[ProfilerActivity.CPU], record_shapes=True)
        self.began = 0.0

    def recv(self) -> Any:
        said = self.channel.recv()
        self.left -= 1
        if not self.left:
            self.profiler.__enter__()
            self.began = time.perf_counter()
        return said

    def send(self, facts: dict[str, Any]) -> None:
        if not self.left:
            seconds = time.perf_counter() - self.began
            self.profiler.__exit__(None, None, None)
            found = told(self.profiler.events(), seconds, self.rank) | {"gflops": fastest()}
            facts["profile"] = found | {"table": [*table(found)]}
        self.channel.send(facts)


@contextmanager
def marked() -> Iterator[None]:
    """Within, a profile knows what the decoder does, and what of it scores words."""
    generate, logits = ForkJoinDecoder.generate, Passes.logits

    def marked_generate(*args: Any, **kwargs: Any) -> Any:
        with record_function(ROLLOUT):
            return generate(*args, **kwargs)

    def marked_logits(*args: Any, **kwargs: Any) -> Any:
        with record_function(HEAD):
            return logits(*args, **kwargs)

    ForkJoinDecoder.generate, Passes.logits = marked_generate, marked_logits  # type: ignore[method-assign]
    try:
        yield
    finally:
        ForkJoinDecoder.generate, Passes.logits = generate, logits  # type: ignore[method-assign]


def told(events: Sequence[Any], seconds: float, rank: int) -> dict[str, Any]:
    """Seconds, calls and 10^9 operations of matrices of each kind in each phase; and the twenty operators
    that took longest, by name and shapes."""
    kinds: dict[str, dict[str, dict[str, float]]] = {}
    single: dict[tuple[str, ...], dict[str, float]] = {}
    for event in events:
        if event.is_user_annotation and not event.name.startswith("Optimizer.step"):
            continue  # what passed in no operator
        above = list(within(event))
        phase = phase_of(above)
        kind = kind_of(event, above, phase, rank)
        for found in (
            kinds.setdefault(phase, {}).setdefault(kind, blank()),
            single.setdefault((phase, kind, event.name, str(shapes_of(event))), blank()),
        ):
            found["seconds"] += event.self_cpu_time_total / 1e6
            found["calls"] += 1
            found["gflop"] += operations(event) / 1e9
    measured = sum(each["seconds"] for phase in kinds.values() for each in phase.values())
    longest = sorted(single.items(), key=lambda each: -each[1]["seconds"])[:20]
    return {
        "seconds": seconds,
        "outside": seconds - measured,
        "phases": {phase: kinds[phase] for phase in PHASES if phase in kinds},
        "longest": [
            dict(zip(("phase", "kind", "name", "shapes"), names, strict=True)) | each
            for names, each in longest
        ],
    }


def blank() -> dict[str, float]:
    return {"seconds": 0.0, "calls": 0, "gflop": 0.0}


def within(event: Any) -> Iterator[str]:
    """Its name, and those of all that it is in."""
    while event is not None:
        yield event.name
        event = event.cpu_parent


def phase_of(above: Sequence[str]) -> str:
    if ROLLOUT in above:
        return "rollout"
    if any(name.startswith("Optimizer.") for name in above):
        return "optimizer"
    return "backward" if any(name.startswith(BACKWARD) for name in above) else "forward"


def kind_of(event: Any, above: Sequence[str], phase: str, rank: int) -> str:
    if any(name.removeprefix(BACKWARD).startswith(HEADS) for name in above):
        return "LM head"
    name = event.name.rpartition("::")[2]
    if name in PRODUCTS:
        # In fp32 the decoder has the adapter in its weights.
        is_adapter = phase != "rollout" and any(rank in shape for shape in shapes_of(event))
        return "matrices of the adapter" if is_adapter else "matrices"
    fitting = (kind for kind, pattern in NAMED.items() if pattern.search(name))
    return next(fitting, "norms, activations, sums")


def shapes_of(event: Any) -> list[list[int]]:
    """Of its tensors."""
    return [shape for shape in event.input_shapes or [] if shape]


def operations(event: Any) -> int:
    """Multiplications and additions of a product of matrices; 0 of others."""
    name = event.name.rpartition("::")[2]
    if name not in PRODUCTS:
        return 0
    one, other = (event.input_shapes[argument] for argument in PRODUCTS[name])
    return 2 * math.prod(one) * other[0 if name == "_linear_pointwise" else -1]


def fastest() -> float:
    """10^9 operations a second of a product of large matrices of this precision, now: the best of five."""
    side = 1536
    one, other = torch.ones(side, side), torch.ones(side, side)
    best = 0.0
    for _ in range(5):
        began = time.perf_counter()
        torch.mm(one, other)
        best = max(best, 2 * side**3 / (time.perf_counter() - began) / 1e9)
    return best


def table(found: Mapping[str, Any]) -> Iterator[str]:
    """Lines: a kind each, its seconds in each phase, and its share of all; below matrices, how many 10^9
    operations a second these were."""
    phases, whole = found["phases"], found["seconds"]
    yield f"{'':<26}" + "".join(f"{phase:>11}" for phase in phases) + f"{'of all':>9}"
    for kind in KINDS[:-1]:
        cells = [phase.get(kind, blank()) for phase in phases.values()]
        yield line(kind, [each["seconds"] for each in cells], whole)
        if any(each["gflop"] for each in cells):
            rates = (f"{each['gflop'] / each['seconds']:.0f}" if each["gflop"] else "" for each in cells)
            yield f"{'  10^9/s':<26}" + "".join(f"{rate:>11}" for rate in rates)
    yield f"{OUTSIDE:<26}{'':>{11 * len(phases)}}{found['outside'] / whole:>9.1%}"
    yield line("all", [sum(each["seconds"] for each in phase.values()) for phase in phases.values()], whole)
    yield f"the fastest product of large matrices: {found['gflops']:.0f} 10^9/s"


def line(name: str, seconds: Sequence[float], whole: float) -> str:
    return f"{name:<26}" + "".join(f"{each:>11.3f}" for each in seconds) + f"{sum(seconds) / whole:>9.1%}"
