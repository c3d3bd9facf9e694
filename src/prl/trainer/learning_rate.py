"""Whether a training has steps that learn: one epoch of a small data set may be a single optimizer step, and
the warm-up holds that one at a learning rate of 0. And a rate that follows how many groups teach."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from transformers import (
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
    get_scheduler,
)

from prl.console import console
from prl.errors import UsageError
from prl.runs import processes

if TYPE_CHECKING:
    from prl.trainer.recorder import SampleRecorder

FEW = 10
"""Optimizer steps at a learning rate above 0 under which a training says how many it has."""


class ScheduleCheck(TrainerCallback):
    """Looks at a schedule before its first step. Refuses one without a learning rate above 0 (UsageError) and
    tells one that has only a few, or never leaves the warm-up. A rate that is set to 0 is what was asked for.
    """

    def __init__(self, trainer: Trainer) -> None:
        self.rows = len(trainer.train_dataset)  # packed ones count once

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        rates = [group.get("initial_lr", group["lr"]) for group in kwargs["optimizer"].param_groups]
        if not any(rates):
            return
        steps = state.max_steps
        above, is_reached = learning_steps(args, steps, rates)
        made = f"{'1 optimizer step' if steps == 1 else f'{steps} optimizer steps'} of {_batch(args)}"
        made = f"{self.rows} rows make {made}" if args.max_steps <= 0 else f"--max_steps makes {made}"
        if not above:
            raise UsageError(
                f"nothing would be learnt: {made}, none at a learning rate above 0; {_advice(args, steps)}"
            )
        few = f"{above} at a learning rate above 0" if above < min(FEW, steps) else ""
        short = f"all in the warm-up to {max(rates):g}" if not is_reached else ""
        if few or short:
            told = ", ".join(part for part in (made, few, short) if part)
            console.print(f"warning: {told}; {_advice(args, steps)}", markup=False)


def learning_steps(args: TrainingArguments, steps: int, rates: Sequence[float]) -> tuple[int, bool]:
    """How many of `steps` optimizer steps have a learning rate above 0, FEW for any more, and whether one has
    the whole of it.

    `rates` are those of the groups of parameters. By the scheduler that a Trainer of transformers 5.23 makes
    of `args` (`create_scheduler`), on parameters of its own.
    """
    name = str(getattr(args.lr_scheduler_type, "value", args.lr_scheduler_type))
    if name in ("reduce_lr_on_plateau", "greedy"):  # they follow a metric, from the whole rate down
        return min(steps, FEW), steps > 0
    optimizer = torch.optim.SGD([{"params": [nn.Parameter(torch.zeros(1))], "lr": rate} for rate in rates])
    scheduler = get_scheduler(
        name,
        optimizer,
        num_warmup_steps=args.get_warmup_steps(steps),
        num_training_steps=steps,
        scheduler_specific_kwargs=args.lr_scheduler_kwargs,
    )
    above, is_reached = 0, False
    for _ in range(steps):
        now = [group["lr"] for group in optimizer.param_groups]
        above += any(rate > 0 for rate in now)
        is_reached |= any(rate >= whole > 0 for rate, whole in zip(now, rates, strict=True))
        if above >= FEW and is_reached:
            break
        optimizer.step()
        scheduler.step()
    return min(above, FEW), is_reached


def _batch(args: TrainingArguments) -> str:
    rows = args.per_device_train_batch_size * args.gradient_accumulation_steps * args.world_size
    group = getattr(args, "num_generations", None)
    if group and rows % group:  # a step may have a part of a generation
        return f"{rows} responses"
    return f"{rows // group} rows x {group} responses" if group else f"{rows} rows"


def _advice(args: TrainingArguments, steps: int) -> str:
    """What to change for more steps that learn."""
    ways = ["pass --warmup_steps 0"] if args.get_warmup_steps(steps) else []
    if args.max_steps > 0:
        return " or ".join([*ways, f"raise --max_steps {args.max_steps}"])
    ways.append(f"raise --num_train_epochs {args.num_train_epochs:g}")
    if args.gradient_accumulation_steps > 1:
        ways.append(f"lower --gradient_accumulation_steps {args.gradient_accumulation_steps}")
    else:
        ways.append(f"lower --per_device_train_batch_size {args.per_device_train_batch_size}")
    return " or ".join(ways)


class LiveRate(TrainerCallback):
    """The learning rate of each step times the share of its groups that teach, those not all paid the same.

    GRPO's loss counts groups without a gradient, and so shrinks with that share; Adam divides by what the
    gradients were lately, and makes as long a step of one group's as of a whole batch's. `recorder` holds the
    step's responses with their advantages. A step on responses of an earlier one has that one's share.
    """

    def __init__(self, recorder: SampleRecorder) -> None:
        self.recorder, self.share = recorder, 1.0
        self.rates: list[float] = []

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self.recorder.rows:
            # Of all processes: at rates of their own their weights would part.
            self.share = fmean(processes.gathered(live_share(self.recorder.rows)))
        groups = kwargs["optimizer"].param_groups
        self.rates = [group["lr"] for group in groups]
        for group in groups:
            group["lr"] *= self.share

    def on_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        # Schedulers that go on from the rate that they find must find their own.
        for group, rate in zip(kwargs["optimizer"].param_groups, self.rates, strict=True):
            group["lr"] = rate


def live_share(rows: Sequence[Mapping[str, Any]]) -> float:
    """The share of the groups of `rows` (`group`, `advantage`) in which some response has an advantage;
    groups with None are not trained on, and do not count.

    >>> live_share([{"group": 0, "advantage": 0.0}, {"group": 1, "advantage": 0.4}])
    0.5
    """
    trained = [row for row in rows if row["advantage"] is not None]
    return len({row["group"] for row in trained if row["advantage"]}) / len({row["group"] for row in trained})
