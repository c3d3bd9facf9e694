"""What a person sees while a stage runs: what was chosen and why, a bar with the time left, a line every few
steps.

The libraries below are asked to keep quiet (25-metric dumps, loading bars, notices about what prl decided on
purpose); every number they report is in the run's `metrics.jsonl`.
"""

from __future__ import annotations

import logging
import os
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from transformers import (
    PrinterCallback,
    ProgressCallback,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from prl import processes
from prl.runs import Run

# In a notebook: plain text in one stream, where rich would make an HTML output of every line, and not in the
# red of stderr. In a shell stdout is kept free for results. What starts a kernel imports ipykernel too, not
# its app.
IN_NOTEBOOK = "ipykernel.kernelapp" in sys.modules
console = Console(
    stderr=not IN_NOTEBOOK,
    color_system=None if IN_NOTEBOOK else "auto",
    highlight=False,
    soft_wrap=True,
    force_jupyter=False,
    quiet=not processes.is_main(),
)


_NOT_LOGGED = ("train_loss", "eval_model_preparation_time")
"""By transformers 5.23: the loss of the steps since a resumption, divided by all steps; and what only an
evaluation without training has."""

QUIET_LOGGERS = (
    "transformers",
    "trl",
    "peft",
    "accelerate",
    "datasets",
    "bitsandbytes",
    "huggingface_hub",
    "torch",
)


def quiet_libraries() -> None:
    """Errors only from the libraries, and no progress bars but ours; from prl itself too, but in the main
    process. Does nothing under `PRL_DEBUG=1`."""
    if os.environ.get("PRL_DEBUG"):
        return
    import datasets
    import transformers

    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    datasets.disable_progress_bars()
    for name in QUIET_LOGGERS:
        logging.getLogger(name).setLevel(logging.ERROR)
    if not processes.is_main():
        logging.getLogger("prl").setLevel(logging.ERROR)  # the main process has read the same files
    warnings.filterwarnings("ignore", message="You are using 'rollout_func'")  # trl 1.16
    warnings.filterwarnings("ignore", module=r"(transformers|trl|peft|accelerate|datasets|torch)(\.|$)")


def announce(stage: str, chosen: Mapping[str, str], facts: Mapping[str, Any]) -> None:
    """Say once what this stage works on, and what was chosen for the user and why."""
    told = "  ".join(f"{key} {value}" for key, value in facts.items())
    console.print(f"[bold]prl {stage}[/bold]  {escape(told)}")
    for name, reason in chosen.items():
        console.print(f"  {name}: {reason}", style="dim", markup=False)


@contextmanager
def batches_bar(name: str, total: int) -> Iterator[Callable[[int], None]]:
    """A bar over `total` responses; yields the function that takes how many are done."""
    with _bar() as bar:
        task = bar.add_task(name, total=total)
        yield lambda done: bar.update(task, completed=done)


def take_over(trainer: Trainer) -> None:
    """Remove the trainer's own bar or printer of metrics, which RunLog shows, and its card, which trl 1.16
    writes at every checkpoint over the README.md of the run folder: that one is the user's."""
    trainer.remove_callback(ProgressCallback)
    trainer.remove_callback(PrinterCallback)
    trainer.create_model_card = lambda *args, **kwargs: None


class RunLog(TrainerCallback):
    """Writes every metric of a trainer to the run, shows a bar, and prints `line(metrics)` at every logging
    step.

    `latest` holds the last value of each metric.
    """

    def __init__(self, run: Run, line: Callable[[Mapping[str, Any]], str]) -> None:
        self.run, self.line = run, line
        self.started, self.before = time.monotonic(), 0  # `before`: steps that an earlier process took
        self.latest: dict[str, Any] = {}
        self.bar = _bar()

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.started, self.before = time.monotonic(), state.global_step
        self.bar.start()
        self.task = self.bar.add_task(self.run.stage, total=state.max_steps, completed=state.global_step)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.bar.update(self.task, completed=state.global_step)

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
            took = (time.monotonic() - self.started) / max(1, state.global_step - self.before)
            left = took * (state.max_steps - state.global_step)
            console.print(
                f"step {state.global_step:>5}/{state.max_steps}  {text}  left {_duration(left)}", markup=False
            )

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.bar.stop()


class DeadGroups(TrainerCallback):
    """Says once, when groups of responses have taught nothing for a while, what that means and what to do.

    A group whose responses are all paid the same has advantages of 0. `is_adaptive`: problems are drawn by
    pass rate already. Reads what GRPOTrainer (trl 1.16) and `prl.rl.SampleRecorder` log.
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


def _bar() -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not sys.stderr.isatty(),
    )


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}" if minutes >= 60 else f"{minutes}:{rest:02}"
