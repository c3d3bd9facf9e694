"""When memory runs out: half as much at a time, and advice where one is too much."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from accelerate.utils.memory import clear_device_cache

from prl.console import console
from prl.errors import ModelError, RunError
from prl.machine import hardware
from prl.machine.fitting import advice
from prl.settings import Settings

Result = TypeVar("Result")
Advise = Callable[[], str]

SIGNS = (
    "out of memory",  # CUDA, ROCm, MPS, XPU
    "can't allocate memory",  # torch's allocator on a CPU
    "could not create a primitive",  # oneDNN's
    "CUBLAS_STATUS_ALLOC_FAILED",
)
"""What the messages of allocators that gave up have in common."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an allocator gave up; other errors of the same type are none of ours."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in SIGNS)


def halving(work: Callable[[int], Result], size: int, what: str, advise: Advise) -> tuple[Result, int]:
    """`work(size)`, again with half the size wherever memory runs out; what it gave, and the size that fit.

    `what` is told with the new size. Raises RunError with advice where size 1 does not fit.
    """
    while True:
        try:
            return work(size), size
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            if size <= 1:
                raise RunError(f"out of memory with {what} 1: {advise()}") from error
        # Out of the block above, which holds the frames of what failed, and all their tensors.
        clear_device_cache(garbage_collection=True)
        size = (size + 1) // 2
        console.print(f"out of memory: going on with {what} {size}", markup=False)


def advise(settings: Settings[Any]) -> str:
    """What to change so that the command of `settings` fits what this process may hold, in a line."""
    try:
        return advice(settings, hardware.usable_memory(settings.arguments.device))
    except ModelError:  # an architecture that the forecast does not know
        return "lower --per_device_train_batch_size, then --max_completion_length or --max_length"
