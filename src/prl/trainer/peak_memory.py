"""How much memory a training takes, step by step, and how much there is."""

from __future__ import annotations

from typing import Any

import torch
from transformers import TrainerCallback

from prl.machine.hardware import memory_limit, peak_memory

GIB = 2**30


class PeakMemory(TrainerCallback):
    """Logs `memory/peak` with the losses of SFTTrainer and GRPOTrainer (trl 1.16), in GiB: on a GPU the most
    that tensors have taken since the last time, the evaluation between included; on a CPU the most that the
    process has held since it began, which does not sink. Of several processes it is the main one's. Beside it
    `memory/limit`: what the GPU has in all, or the machine or the control group.
    """

    def __init__(self) -> None:
        self.trainer: Any = None
        self.limit = 0.0

    def watch(self, trainer: Any) -> None:
        """Log with `trainer`."""
        self.trainer = trainer

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._forget()  # what a rehearsal took
        self.limit = round(memory_limit(self.trainer.accelerator.device.type) / GIB, 3)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        # One number each, of which the trainer logs the mean.
        held = peak_memory(self.trainer.accelerator.device.type) / GIB
        self.trainer._metrics["train"]["memory/peak"] = [round(held, 3)]
        self.trainer._metrics["train"]["memory/limit"] = [self.limit]

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        if logs is not None and "loss" in logs:
            self._forget()

    def _forget(self) -> None:
        if self.trainer.accelerator.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
