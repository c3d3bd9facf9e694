"""How much memory a training takes, step by step."""

from __future__ import annotations

from typing import Any

import torch
from transformers import TrainerCallback

from prl.machine.hardware import peak_memory

GIB = 2**30


class PeakMemory(TrainerCallback):
    """Logs `memory/peak` with the losses of SFTTrainer and GRPOTrainer (trl 1.16), in GiB: on a GPU the most
    that tensors have taken since the last time, the evaluation between included; on a CPU the most that the
    process has held since it began, which does not sink. Of several processes it is the main one's.
    """

    def __init__(self) -> None:
        self.trainer: Any = None

    def watch(self, trainer: Any) -> None:
        """Log with `trainer`."""
        self.trainer = trainer

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._forget()  # what a rehearsal took

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        # One number, of which the trainer logs the mean.
        held = peak_memory(self.trainer.accelerator.device.type) / GIB
        self.trainer._metrics["train"]["memory/peak"] = [round(held, 3)]

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        if logs is not None and "loss" in logs:
            self._forget()

    def _forget(self) -> None:
        if self.trainer.accelerator.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
