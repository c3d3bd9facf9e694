"""An orderly stop: Ctrl-C and SIGTERM end a training with a checkpoint."""

from __future__ import annotations

import signal
import threading
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_utils import SaveStrategy

from prl.console import console
from prl.runs import processes


class StopOnSignal(TrainerCallback):
    """Ctrl-C or SIGTERM ends the step at hand, saves a checkpoint and stops; a second one stops at once.

    Of several processes any may be told; all stop after the same step, one whose number `every` divides: a
    run can go on from there. After `trainer.train()`, `raise_if_stopped` tells the command line
    (KeyboardInterrupt).
    """

    SIGNALS = (signal.SIGINT, signal.SIGTERM)

    def __init__(self, every: int = 1) -> None:
        self.every, self.stopped = every, False
        self.previous: dict[signal.Signals, Any] = {}

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if threading.current_thread() is threading.main_thread():  # signals can be handled nowhere else
            self.previous = {number: signal.signal(number, self._stop) for number in self.SIGNALS}

    def _stop(self, number: int, frame: Any) -> None:
        if self.stopped:
            raise KeyboardInterrupt
        self.stopped = True
        rest = "this step" if self.every == 1 else f"the {self.every} steps of this generation"
        console.print(f"{signal.Signals(number).name}: finishing {rest}, then saving; again stops at once")

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if processes.anywhere(self.stopped):
            self.stopped = True
        if self.stopped and state.global_step % self.every == 0:
            control.should_save = control.should_training_stop = True
            if args.save_strategy == SaveStrategy.BEST:  # an evaluation would take the wish to save back
                control.should_evaluate = False

    def raise_if_stopped(self) -> None:
        """Give the signals back; KeyboardInterrupt where training was stopped by one."""
        for number, handler in self.previous.items():
            signal.signal(number, handler)
        if self.stopped:
            raise KeyboardInterrupt
