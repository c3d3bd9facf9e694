"""What a person sees while a trainer runs: how far it is and how it goes, a line every few steps, advice."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from transformers import (
    PrinterCallback,
    ProgressCallback,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from prl.console import console, progress_bar
from prl.report.live import can_draw
from prl.report.training import TrainingView
from prl.runs import Run
from prl.runs.reading import read_metrics, read_path_opening

_NOT_LOGGED = ("train_loss", "eval_model_preparation_time")
"""By transformers 5.23: the loss of the steps since a resumption, divided by all steps; and what only an
evaluation without training has."""


def take_over(trainer: Trainer) -> None:
    """Remove the trainer's own bar or printer of metrics, which RunLog shows."""
    trainer.remove_callback(ProgressCallback)
    trainer.remove_callback(PrinterCallback)


class RunLog(TrainerCallback):
    """Writes every metric of a trainer to the run, prints `line(metrics)` at every logging step, and shows
    how the training goes: in a terminal that can draw it by `prl.report.training`, in another with a bar.

    `latest` holds the last value of each metric.
    """

    def __init__(self, run: Run, line: Callable[[Mapping[str, Any]], str]) -> None:
        self.run, self.line = run, line
        self.started, self.before = time.monotonic(), 0  # `before`: steps that an earlier process took
        self.latest: dict[str, Any] = {}
        self.bar = progress_bar()
        self.view: TrainingView | None = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.started, self.before = time.monotonic(), state.global_step
        if can_draw(console) and not console.quiet:
            folder = self.run.folder
            self.view = TrainingView(
                console,
                self.run.command,
                total=state.max_steps,
                done=state.global_step,
                logged=read_metrics(folder),
                opening=read_path_opening(folder),
            )
            self.run.watch(self.view.take)
            self.view.start()
            return
        self.bar.start()
        self.task = self.bar.add_task(self.run.command, total=state.max_steps, completed=state.global_step)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self.view:
            self.view.advance(state.global_step, self._left(state))
        else:
            self.bar.update(self.task, completed=state.global_step)

    def _left(self, state: TrainerState) -> str:
        """The time that the steps to come take, if they take as long as those of this process did."""
        took = (time.monotonic() - self.started) / max(1, state.global_step - self.before)
        return _duration(took * (state.max_steps - state.global_step))

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        logs = {name: value for name, value in (logs or {}).items() if name not in _NOT_LOGGED}
        self.latest |= logs
        self.run.log_metrics(state.global_step, logs)
        # transformers would keep every one in memory, and write them all again with every checkpoint.
        del state.log_history[:-2]
        if text := self.line(logs):
            console.print(
                f"step {state.global_step:>5}/{state.max_steps}  {text}  left {self._left(state)}",
                markup=False,
            )

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.close()

    def close(self) -> None:
        """Take view and bar away; again does nothing."""
        if self.view:
            self.view.stop()
        self.bar.stop()


class DeadGroups(TrainerCallback):
    """Says once, when groups of responses have taught nothing for a while, what that means and what to do.

    A group whose responses are all paid the same has advantages of 0. `is_adaptive`: problems are drawn by
    pass rate already. Reads what GRPOTrainer (trl 1.16) and `prl.trainer.recorder` log.
    """

    STEPS, GROUPS = 3, 8
    """As many in a row at least: fewer may be chance."""

    def __init__(self, *, is_adaptive: bool) -> None:
        self.is_adaptive, self.alive, self.is_told = is_adaptive, 0, False

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.alive = state.global_step

    def on_log(
        self, args: Any, state: TrainerState, control: TrainerControl, logs: Any = None, **kwargs: Any
    ) -> None:
        if not logs or "frac_reward_zero_std" not in logs:  # an evaluation
            return
        # The KL term of --beta has a gradient where no group has.
        if logs["frac_reward_zero_std"] < 1 or (logs.get("grad_norm") and not args.beta):
            self.alive, self.is_told = state.global_step, False
            return
        steps = state.global_step - self.alive
        responses = args.per_device_train_batch_size * args.gradient_accumulation_steps * args.world_size
        if self.is_told or steps < self.STEPS or steps * responses < self.GROUPS * args.num_generations:
            return
        self.is_told = True
        right, cut = logs.get("correct"), logs.get("completions/clipped_ratio")
        limit = args.max_completion_length
        console.print(
            f"advice: {advice_on_dead_groups(steps, right, cut, limit, self.is_adaptive)}", markup=False
        )


def advice_on_dead_groups(
    steps: int, right: float | None, cut: float | None, limit: int, is_adaptive: bool
) -> str:
    """One line on `steps` steps of groups that were each paid the same; `right` and `cut` are the shares of
    responses that are right, and that were cut off at `limit` tokens."""
    facts, changes = [], []
    if right is not None:
        facts.append(f"{right:.0%} are right")
    if cut is not None and cut >= 0.5:
        facts.append(f"{cut:.0%} are cut off")
        changes.append(f"raise --max_completion_length {limit}")
    wanted = "easier" if (right or 0) < 0.5 else "harder"
    changes.append(f"give {wanted} problems{'' if is_adaptive else ', or --sampling adaptive'}")
    changes.append("raise --num_generations or --temperature")
    if wanted == "easier":
        changes.append("train a (longer) cold start first (prl sft)")
    return (
        f"no group has taught anything for {steps} steps: the responses to each problem were all paid the "
        f"same, so every advantage is 0{''.join(f'; {fact}' for fact in facts)}. "
        f"What may help: {'; '.join(changes)}"
    )


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}" if minutes >= 60 else f"{minutes}:{rest:02}"
