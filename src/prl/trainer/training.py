"""Around `trainer.train()` in both training stages: whole checkpoints, an orderly stop, going on where a run
was left."""

from __future__ import annotations

import functools
import pickle
import signal
import threading
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import ExportableState
from trl.trainer.utils import RepeatSampler

from prl import runs
from prl.console import console
from prl.errors import ModelError, RunError, UsageError
from prl.runs import checkpoints, processes
from prl.trainer.schedule import ScheduleCheck


def train(trainer: Trainer, checkpoint: Path | None) -> None:
    """Train, going on from `checkpoint` where there is one.

    One that was written after the last step (the run was killed before its end) only gives its weights back,
    or those of the best one where the trainer would load that: transformers 5.23 would train a step more.
    """
    if checkpoint:
        _check_processes(trainer, checkpoint)
        trainer.args.eval_on_start = False  # it was evaluated at its start
        # peft 0.21 would make float32 of what trl 1.16 trains in bfloat16 on a quantised base.
        model: Any = trainer.model
        model.load_adapter = functools.partial(model.load_adapter, autocast_adapter_dtype=False)
        saved = TrainerState.load_from_json(str(checkpoint / "trainer_state.json"))
        if _is_done(saved, trainer.args):
            best = saved.best_model_checkpoint if trainer.args.load_best_model_at_end else None
            trainer._load_from_checkpoint(str(checkpoint.parent / Path(best or checkpoint).name))
            trainer.state = saved
            trainer.log({"total_flos": saved.total_flos})  # the line that closes a training
            return
        _skip_orders(trainer, int(saved.epoch or 0))
    else:
        trainer.add_callback(ScheduleCheck(trainer))
    try:
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    except pickle.UnpicklingError as error:  # transformers 5.23 has torch.load take numbers only
        raise RunError(
            f"{checkpoint} holds more than tensors and numbers, so no trainer wrote it, and it is not run: "
            "take another checkpoint, or start over with --overwrite_output_dir"
        ) from error


def _is_done(saved: TrainerState, training: TrainingArguments) -> bool:
    """Whether a checkpoint is of the last step, as `training` has it now, or of one beyond."""
    if training.max_steps > 0:
        return saved.global_step >= training.max_steps
    return (saved.epoch or 0) > training.num_train_epochs - 1e-6  # a share of epochs is rounded


def of_best(trainer: Trainer, folder: runs.Run) -> dict[str, Any]:
    """The evaluation of the adapter that the trainer has loaded in the place of the last one
    (--load_best_model_at_end), out of the run's metrics; empty where the last one stays."""
    best = trainer.state.best_global_step if trainer.args.load_best_model_at_end else None
    if not best or best == trainer.state.global_step:
        return {}
    lines = [line for line in runs.read_metrics(folder.folder) if line["step"] == best]
    return {name: value for line in lines for name, value in line.items() if name.startswith("eval_")}


def _skip_orders(trainer: Trainer, epochs: int) -> None:
    """Let GRPOTrainer go on with the order of problems that comes after those of `epochs`: trl 1.16 draws
    each from a generator of its own, which no checkpoint holds."""
    make = trainer._get_train_sampler

    def sampler(*words: Any) -> Any:
        made = make(*words)
        if isinstance(made, RepeatSampler) and made.shuffle:
            for _ in range(epochs):
                torch.randperm(made.num_samples, generator=made.generator)
        return made

    trainer._get_train_sampler = sampler


def check_router(training: TrainingArguments, model: Any) -> None:
    """UsageError where `training` weighs a loss of routers and `model` has none."""
    weight, config = training.router_aux_loss_coef, model.config.get_text_config()
    if weight and not hasattr(config, "output_router_logits"):
        raise UsageError(
            f"router_aux_loss_coef {weight:g}: a {config.model_type} model is no mixture of experts; "
            "leave it out"
        )


def settle_ddp(training: TrainingArguments, model: nn.Module) -> None:
    """Spare several processes the search for trained parameters without a gradient, unless `training` asks
    for it: with LoRA each takes part in every step, but those of experts that no token is sent to."""
    if training.ddp_find_unused_parameters is None:
        trained = [name for name, p in model.named_parameters() if p.requires_grad]
        training.ddp_find_unused_parameters = any("expert" in name for name in trained)


def settle_reference(model: nn.Module) -> None:
    """Make the frozen adapter `ref`, which GRPOTrainer measures its KL from where `beta` is not 0, the
    policy's copy in every tensor.

    trl 1.16 copies the parameters that have `.default.` in their names. Those of PEFT that end in `.default`
    (trained token rows, LoRA on an embedding) stay as they were first drawn; and of a quantised base it
    rounds the policy to bfloat16 afterwards. Raises ModelError for a trained parameter without a twin.
    """
    if "ref" not in getattr(model, "peft_config", {}):
        return
    parameters = dict(model.named_parameters())
    for name, policy in parameters.items():
        parts = name.split(".")
        twins = [
            parameters.get(".".join([*parts[:i], "ref", *parts[i + 1 :]]))
            for i, part in enumerate(parts)
            if part == "default"
        ]
        reference = next((twin for twin in twins if twin is not None), None)
        if reference is not None:
            reference.data = policy.data.clone()
        elif policy.requires_grad:
            raise ModelError(f"the reference of --beta has no copy of {name}: train with --beta 0")


def _check_processes(trainer: Trainer, checkpoint: Path) -> None:
    """Say so where the run is not the same from here on."""
    wrote, now = sum(1 for _ in checkpoint.glob("rng_state*.pth")), trainer.args.world_size
    if wrote != now:
        console.print(
            f"warning: {wrote} processes wrote {checkpoint.name}, {now} go on from it: the run continues, "
            "but not to the bit as it would have",
            markup=False,
        )


def exported_state(checkpoint: Path, callback: ExportableState) -> dict[str, Any] | None:
    """What `callback.state()` gave as attributes when a checkpoint was written; None where it was not there.

    transformers would build a callback of its own from it; prl's hold what no file does.
    """
    saved = TrainerState.load_from_json(str(checkpoint / "trainer_state.json")).stateful_callbacks
    return saved.get(type(callback).__name__, {}).get("attributes")


class SealCheckpoints(TrainerCallback):
    """Seals each checkpoint when the trainer has written it, and only then removes those beyond its
    `save_total_limit`, which the trainer itself would do before.

    The best one stays, where the trainer keeps account of one.
    """

    def __init__(self, training: TrainingArguments) -> None:
        self.keep, training.save_total_limit = training.save_total_limit, None

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        processes.wait()  # each process writes the state of its generators
        if not state.is_world_process_zero:
            return
        folder = Path(args.output_dir)
        runs.seal_checkpoint(folder / f"checkpoint-{state.global_step}")
        if self.keep:
            best = [Path(state.best_model_checkpoint).name] if state.best_model_checkpoint else []
            checkpoints.prune(folder, self.keep, also=best)


class TokenCount(TrainerCallback, ExportableState):
    """Carries `num_tokens` over a resumption, after which SFTTrainer (trl 1.16) counts anew."""

    trainer: Any = None

    def state(self) -> dict[str, Any]:
        """What transformers writes to trainer_state.json."""
        return {"args": {}, "attributes": {"tokens": int(getattr(self.trainer, "_total_train_tokens", 0))}}

    def restore(self, checkpoint: Path) -> None:
        """Count on from `checkpoint`."""
        self.trainer._total_train_tokens = (exported_state(checkpoint, self) or {"tokens": 0})["tokens"]


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

    def raise_if_stopped(self) -> None:
        """Give the signals back; KeyboardInterrupt where training was stopped by one."""
        for number, handler in self.previous.items():
            signal.signal(number, handler)
        if self.stopped:
            raise KeyboardInterrupt
