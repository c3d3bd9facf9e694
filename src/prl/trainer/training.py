"""Around `trainer.train()` in both training stages: whole checkpoints, an orderly stop, going on where a run
was left."""

from __future__ import annotations

import functools
import pickle
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import nn
from transformers import EarlyStoppingCallback, Trainer, TrainerCallback, TrainerState, TrainingArguments

from prl import runs
from prl.console import console
from prl.errors import RunError, UsageError
from prl.runs.checkpoints import step_of
from prl.trainer.learning_rate import ScheduleCheck
from prl.trainer.sealing import export_from_here, exported_state

MEASURES = {"metric_for_best_model", "greater_is_better", "eval_dataset"}
"""What the best of a run is the best by; `eval_dataset` is also what is drawn from it."""


def train(trainer: Any, checkpoint: Path | None, changed: Collection[str] = ()) -> None:
    """Train, going on from `checkpoint` where there is one, with the settings that are `changed` since.

    One that was written after the last step (the run was killed before its end) only gives its weights back,
    or those of the best one where the trainer would load that: transformers 5.23 would train a step more.
    """
    try:
        if not checkpoint:
            trainer.add_callback(ScheduleCheck(trainer))
            trainer.train()
        elif not _is_given_back(trainer, checkpoint, changed):
            if MEASURES & {*changed}:
                trainer.add_callback(ForgetBest(trainer))
            trainer.train(resume_from_checkpoint=str(checkpoint))
    except pickle.UnpicklingError as error:  # transformers 5.23 has torch.load take numbers only
        raise RunError(
            f"{checkpoint} holds more than tensors and numbers, so no trainer wrote it, and it is not run: "
            "take another checkpoint, or start over with --overwrite_output_dir"
        ) from error


def _is_given_back(trainer: Any, checkpoint: Path, changed: Collection[str]) -> bool:
    """Whether nothing is left to train after `checkpoint`; its weights are given back then. If something is,
    make ready to go on from it."""
    _check_processes(trainer, checkpoint)
    trainer.args.eval_on_start = False  # it was evaluated at its start
    # peft 0.21 would make float32 of what trl 1.16 trains in bfloat16 on a quantised base.
    model: Any = trainer.model
    model.load_adapter = functools.partial(model.load_adapter, autocast_adapter_dtype=False)
    saved = TrainerState.load_from_json(str(checkpoint / "trainer_state.json"))
    if _is_done(saved, trainer.args):
        if MEASURES & {*changed}:
            _forget_best(saved)
        best = saved.best_model_checkpoint if trainer.args.load_best_model_at_end else None
        trainer._load_from_checkpoint(str(checkpoint.parent / Path(best or checkpoint).name))
        trainer.state = saved
        trainer.log({"total_flos": saved.total_flos})  # the line that closes a training
        return True
    trainer.epochs_done = int(saved.epoch or 0)
    return False


class ForgetBest(TrainerCallback):
    """Begin without a best evaluation: one by another measure, or of other problems, compares with nothing
    that comes. transformers 5.23 has read it from the checkpoint when a training begins."""

    def __init__(self, trainer: Any) -> None:
        self.trainer = trainer

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        _forget_best(state)
        for each in self.trainer.callback_handler.callbacks:
            if isinstance(each, Patience):
                each.early_stopping_patience_counter = 0


def _forget_best(state: TrainerState) -> None:
    state.best_metric = state.best_global_step = state.best_model_checkpoint = None


class Patience(EarlyStoppingCallback):
    """transformers' early stopping, told in a line and kept over a resumption."""

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        super().on_train_begin(args, state, control, **kwargs)
        export_from_here(state, self)

    def on_evaluate(
        self, args: Any, state: Any, control: Any, metrics: dict[str, Any] | None = None, **kwargs: Any
    ) -> None:
        super().on_evaluate(args, state, control, metrics or {}, **kwargs)
        if self.early_stopping_patience_counter >= self.early_stopping_patience:  # others stop a training too
            console.print(
                f"step {state.global_step:>5}  stops: no better {args.metric_for_best_model} in "
                f"{self.early_stopping_patience} evaluations than {state.best_metric:.3g} at step "
                f"{state.best_global_step}",
                markup=False,
            )

    def restore(self, checkpoint: Path) -> None:
        """Go on counting as `checkpoint` does."""
        for name, value in (exported_state(checkpoint, self) or {}).items():
            setattr(self, name, value)


def finish(
    trainer: Any, folder: runs.Run, facts: Mapping[str, Any], more: Mapping[str, Any] | None = None
) -> dict[str, float]:
    """Write DONE; the metrics in it: the last of each, or those of the best adapter, and `more`."""
    latest = trainer.run_log.latest | (more or {}) | of_best(trainer, folder)
    metrics = {name: value for name, value in latest.items() if isinstance(value, float)}
    folder.finish({**facts, **metrics})
    return metrics


def _is_done(saved: TrainerState, training: TrainingArguments) -> bool:
    """Whether a checkpoint is of the last step, as `training` has it now, or of one beyond."""
    if training.max_steps > 0:
        return saved.global_step >= training.max_steps
    return (saved.epoch or 0) > training.num_train_epochs - 1e-6  # a share of epochs is rounded


def of_best(trainer: Trainer, folder: runs.Run) -> dict[str, Any]:
    """The evaluation of the adapter that the trainer has loaded in the place of the last one
    (--load_best_model_at_end), out of the run's metrics; empty where the last one stays. That is the best of
    those that were saved: where evaluations are more frequent, not the one at `best_global_step`."""
    loaded = trainer.state.best_model_checkpoint if trainer.args.load_best_model_at_end else None
    best = step_of(Path(loaded)) if loaded else trainer.state.global_step
    if best == trainer.state.global_step:
        return {}
    lines = [line for line in runs.read_metrics(folder.folder) if line["step"] == best]
    return {name: value for line in lines for name, value in line.items() if name.startswith("eval_")}


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


def settle_cards(training: TrainingArguments) -> None:
    """Train on one card where several are seen and no launcher shares the work between them.

    transformers 5.23 would wrap the model in DataParallel, which trl 1.16 refuses once it is loaded. Never
    run on several GPUs.
    """
    if training.n_gpu > 1:
        console.print(
            f"one of {training.n_gpu} GPUs is trained on; `accelerate launch --multi_gpu -m prl` takes all",
            markup=False,
        )
        training._n_gpu = 1


@contextmanager
def kept_wide(training: TrainingArguments, model: nn.Module) -> Iterator[None]:
    """Around the making of a trainer: what is trained in float16 stays as it was loaded, in float32.

    On a quantised base trl 1.16 makes bfloat16 of it whatever the precision, whose gradients the scaler of
    float16 cannot take (torch 2.13, pytorch issue 127176). Never run on a GPU.
    """
    trained = [(p, p.data) for p in model.parameters() if p.requires_grad and training.fp16]
    yield
    for p, data in trained:
        p.data = data


def _check_processes(trainer: Trainer, checkpoint: Path) -> None:
    """Say so where the run is not the same from here on."""
    wrote, now = sum(1 for _ in checkpoint.glob("rng_state*.pth")), trainer.args.world_size
    if wrote != now:
        console.print(
            f"warning: {wrote} processes wrote {checkpoint.name}, {now} go on from it: the run continues, "
            "but not to the bit as it would have",
            markup=False,
        )
