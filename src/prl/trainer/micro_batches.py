"""When memory runs out: the worst step is rehearsed before the first one, and what does not fit at once is
computed in parts.

A forward pass over half of the rows, twice, gives the gradient of all of them: the micro-batch changes, the
step and its objective do not. So a trainer that runs out of memory goes on with half the micro-batch, a
decoder with half as many responses side by side, and both say so and log it. Where even one row does not
fit, the run ends with advice, in the first minute rather than at the longest sample of the night.
"""

from __future__ import annotations

import copy
import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from accelerate.utils.memory import clear_device_cache
from torch import Tensor
from transformers import Trainer, TrainerCallback
from transformers.trainer_callback import ExportableState

from prl.errors import RunError
from prl.machine.halving import Advise, halving, is_out_of_memory
from prl.trainer.packing import packed_attention
from prl.trainer.padding import parts_by_length, pass_tokens_of
from prl.trainer.sealing import exported_state

WEIGHT_BY_ROWS = ("grpo", "sapo", "luspo", "dr_grpo")
WEIGHT_BY_TOKENS = ("bnpo",)
ADDED_UP = ("dapo", "cispo", "vespo")
"""How the losses of parts make that of the whole, by GRPOTrainer's `loss_type` (trl 1.16, `_compute_loss`):
means over rows, means over tokens, and sums over what the whole generation holds."""


class MicroBatches(TrainerCallback, ExportableState):
    """Keeps a trainer within its memory: `watch` it, and each of its steps fits or says what would.

    `rows` is how many rows a forward pass of training may hold, the trainer's own micro-batch until memory
    runs out. It is logged (`memory/micro_batch`) from then on, and kept in checkpoints, so that a resumed run
    computes as the uninterrupted one. `rehearsal` is called with this before the first step: `rehearse_sft`,
    `rehearse_rl`. Raises RunError with what `advise` says where one row is too much, or where rows cannot be
    computed apart (`cannot_split`).
    """

    def __init__(self, advise: Advise, rehearsal: Callable[[MicroBatches], None] | None = None) -> None:
        self.advise, self.rehearsal = advise, rehearsal
        self.trainer: Any = None
        self.rows = self.most = self.evaluated_rows = 0
        self.prepared: dict[str, Any] | None = None  # the batch of the step at hand, once it is there
        self.counted: tuple[int, dict[str, int]] | None = None  # by then: tokens, and values of each metric
        self.is_in_step = False

    def watch(self, trainer: Any) -> None:
        """Take the sizes of `trainer`, whose `training_step`, `_prepare_inputs`, `compute_loss` and
        `_get_per_token_logps_and_entropies` go through the methods of the same names (`prl.trainer.grpo`)."""
        self.trainer = trainer
        self.rows = self.most = trainer.args.per_device_train_batch_size
        self.evaluated_rows = trainer.args.per_device_eval_batch_size

    def training_step(self, original: Callable[..., Any], model: Any, *args: Any, **kwargs: Any) -> Any:
        """A step with half the rows wherever memory runs out; gradients of the micro-batches before stay."""
        trained = [p for p in model.parameters() if p.requires_grad]
        earlier = [p.grad for p in trained]  # of the micro-batches before: what fails must not touch them

        def step(rows: int) -> Any:
            self.rows = rows
            for p in trained:
                p.grad = None
            return original(model, *args, **kwargs)

        if self.trainer.accelerator.num_processes > 1:
            # The others would wait for this one in the middle of their backward pass.
            with packed_attention(self.trainer.model):
                return self._or_advice(lambda: original(model, *args, **kwargs))
        self.is_in_step = True
        try:
            with packed_attention(self.trainer.model):
                if reason := cannot_split(self.trainer):
                    loss = self._or_advice(lambda: step(self.rows), f", and {reason}")
                else:
                    loss, self.rows = halving(step, self.rows, "a micro-batch of", self.advise)
        finally:
            self.is_in_step, self.prepared, self.counted = False, None, None
        for p, grad in zip(trained, earlier, strict=True):
            if grad is not None:
                p.grad = grad if p.grad is None else grad.add_(p.grad)
        return loss

    def _or_advice(self, work: Callable[[], Any], why: str = "") -> Any:
        try:
            return work()
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            raise RunError(f"out of memory{why}: {self.advise()}") from error

    def prepare_inputs(self, original: Callable[..., Any], batch: Any) -> Any:
        """A step that is tried again goes on with the responses that were sampled for it, and counts and logs
        its tokens once."""
        if not self.is_in_step:
            return original(batch)
        if self.prepared is None:
            self.prepared = original(batch)
            logged = {name: len(values) for name, values in self.trainer._metrics["train"].items()}
            self.counted = self.trainer._total_train_tokens, logged
        elif self.counted:
            _count_from(self.trainer, *self.counted)
        return dict(self.prepared)

    def compute_loss(
        self,
        original: Callable[..., Any],
        model: Any,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """The loss of a micro-batch, computed and differentiated in parts where it has more than `rows`, or
        where padded rows of like length are cheaper apart (`prl.trainer.live_rows` does the like for RL)."""
        if not (self.is_in_step or return_outputs or torch.is_grad_enabled()):
            return self._evaluated(original, model, inputs)
        parts = self._parts(inputs) if self.is_in_step and not return_outputs else []
        if len(parts) < 2:
            return original(model, inputs, return_outputs, num_items_in_batch=num_items_in_batch)
        trainer = self.trainer
        total = torch.zeros((), device=trainer.accelerator.device)
        accumulated = (
            1 if _is_scaled(trainer, num_items_in_batch) else trainer.current_gradient_accumulation_steps
        )
        with _logged_once(trainer, [tokens_of(part) for part in parts] if "labels" in inputs else None):
            for part in parts:
                weight = share(trainer, part, inputs, num_items_in_batch)
                loss = original(model, part, num_items_in_batch=num_items_in_batch) * weight
                trainer.accelerator.backward(loss / accumulated)
                total += loss.detach()
        return total.requires_grad_()  # the trainer's own backward pass ends here: all parts have had theirs

    def _parts(self, inputs: dict[str, Any]) -> list[dict[str, Any]]:
        count = row_count(inputs)
        if cannot_split(self.trainer):
            return [inputs]
        is_sft = "labels" in inputs and "attention_mask" in inputs
        if not is_sft or self.trainer.padded is None:
            starts = range(0, count, self.rows)
            return [rows_of(inputs, range(count)[start:][: self.rows]) for start in starts]
        lengths = inputs["attention_mask"].sum(dim=1).tolist()
        by_length = parts_by_length(lengths, self.rows, pass_tokens_of(self.trainer))
        return [rows_of(inputs, rows, lengths[rows[0]]) for rows in by_length]

    def _evaluated(self, original: Callable[..., Any], model: Any, inputs: dict[str, Any]) -> Any:
        """The loss of an evaluation batch, which is the same when it has to be computed in parts."""
        if self.trainer.accelerator.num_processes > 1:
            return self._or_advice(lambda: original(model, inputs))

        def loss(rows: int) -> Any:
            parts = [rows_of(inputs, range(count)[start:][:rows]) for start in range(0, count, rows)]
            return sum(original(model, part) * share(self.trainer, part, inputs) for part in parts)

        count = row_count(inputs)
        asked = min(count, self.evaluated_rows)
        found, fit = halving(loss, asked, "an evaluation batch of", self.advise)
        if fit < asked:
            self.evaluated_rows = fit
        return found

    def score(self, original: Callable[..., Any], *args: Any, batch_size: Any = None, **kwargs: Any) -> Any:
        """Log-probabilities of a generation, scored with half the rows wherever memory runs out."""
        if batch_size is None:
            return original(*args, **kwargs)
        scored, _ = halving(
            lambda rows: original(*args, batch_size=rows, **kwargs),
            min(batch_size, self.rows),
            "a scoring batch of",
            self.advise,
        )
        return scored

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.rehearsal:
            with _as_it_was(self.trainer), _optimizer_state(self.trainer):
                self.rehearsal(self)

    def step_on(self, prepared: dict[str, Any], num_items_in_batch: Any = None) -> None:
        """Forward and backward on a micro-batch that is on the device already."""
        self.prepared = prepared
        self.trainer.training_step(self.trainer.model_wrapped, prepared, num_items_in_batch)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        if logs is not None and "loss" in logs and self.rows < self.most:
            logs["memory/micro_batch"] = self.rows

    def state(self) -> dict[str, Any]:
        """What transformers writes to trainer_state.json."""
        return {"args": {}, "attributes": {"rows": self.rows if self.rows < self.most else None}}

    def restore(self, checkpoint: Path) -> None:
        """Go on with the micro-batch that fit when `checkpoint` was written."""
        saved = exported_state(checkpoint, self)
        if saved and saved["rows"]:
            self.rows = min(self.most, saved["rows"])


def cannot_split(trainer: Any) -> str | None:
    """Why the rows of this trainer's micro-batches cannot be computed apart without changing the objective;
    None where they can."""
    reasons = {
        "an entropy bonus is a mean over the micro-batch": getattr(trainer, "_entropy_bonus_enabled", False),
        "top_entropy_quantile is of the micro-batch": getattr(trainer, "top_entropy_quantile", 1.0) < 1.0,
        "the router loss is a mean over the micro-batch": getattr(trainer, "aux_loss_enabled", False),
        "packed rows are one": getattr(trainer, "padding_free", False),
    }
    return next((reason for reason, holds in reasons.items() if holds), None)


def row_count(inputs: Mapping[str, Any]) -> int:
    """Rows of a micro-batch of SFTTrainer or GRPOTrainer."""
    return len(inputs["input_ids"] if "input_ids" in inputs else inputs["prompt_ids"])


def rows_of(inputs: Mapping[str, Any], rows: Sequence[int], width: int | None = None) -> dict[str, Any]:
    """Those rows of a micro-batch, of its sequences the first `width` tokens; what is not by row stays."""
    count, whole = row_count(inputs), inputs["input_ids"].shape[1] if width is not None else None

    def cut(value: Any) -> Any:
        if isinstance(value, list) and len(value) == count:
            return [value[row] for row in rows]
        if not isinstance(value, Tensor) or value.dim() == 0 or len(value) != count:
            return value
        of_rows = value[list(rows)]
        return of_rows[:, :width] if value.dim() > 1 and value.shape[1] == whole else of_rows

    return {name: cut(value) for name, value in inputs.items()}


def share(
    trainer: Any, part: Mapping[str, Any], whole: Mapping[str, Any], num_items_in_batch: Any = None
) -> float:
    """What the loss of `part` counts in the loss of `whole`, so that all parts together give it exactly."""
    if "input_ids" in whole:  # SFTTrainer: over the tokens of the step, else of the micro-batch
        return 1.0 if num_items_in_batch is not None else tokens_of(part) / max(1, tokens_of(whole))
    if trainer.loss_type in WEIGHT_BY_ROWS:
        return row_count(part) / row_count(whole)
    if trainer.loss_type in WEIGHT_BY_TOKENS:
        return tokens_of(part) / max(1, tokens_of(whole))
    if trainer.loss_type in ADDED_UP:
        return 1.0
    raise RunError(
        f"out of memory, and the parts of a loss of type {trainer.loss_type} are not known to add up: "
        "lower --per_device_train_batch_size"
    )


def tokens_of(inputs: Mapping[str, Any]) -> int:
    if "labels" in inputs:
        return int((inputs["labels"][:, 1:] != -100).sum())
    mask = inputs["completion_mask"]
    return int((mask * inputs["tool_mask"] if "tool_mask" in inputs else mask).sum())


def _is_scaled(trainer: Any, num_items_in_batch: Any) -> bool:
    """Whether `compute_loss` has taken account of accumulation (transformers 5.24, `training_step`)."""
    if trainer.loss_is_scaled_for_ga is not None:
        return trainer.loss_is_scaled_for_ga
    return (trainer.model_accepts_loss_kwargs and num_items_in_batch is not None) or bool(
        trainer.compute_loss_func
    )


@contextmanager
def _logged_once(trainer: Any, weights: Sequence[int] | None) -> Iterator[None]:
    """Means that SFTTrainer (trl 1.16) logs of each part, in `_metrics`, become the micro-batch's: means over
    tokens, so parts weigh as `weights` says."""
    before = {name: len(values) for name, values in trainer._metrics["train"].items()}
    yield
    for name, values in trainer._metrics["train"].items():
        of_parts = values[before.get(name, 0) :]
        if weights is not None and len(of_parts) == len(weights):
            mean = sum(map(operator.mul, of_parts, weights)) / max(1, sum(weights))
            values[before.get(name, 0) :] = [mean]


def _count_from(trainer: Any, tokens: int, logged: Mapping[str, int]) -> None:
    """Take back what a loss has added to the counts of SFTTrainer and GRPOTrainer (trl 1.16) since, for it
    does so before its backward pass."""
    trainer._total_train_tokens = tokens
    metrics = trainer._metrics["train"]
    for name in [*metrics]:
        if name in logged:
            del metrics[name][logged[name] :]
        else:
            del metrics[name]


@contextmanager
def _as_it_was(trainer: Any) -> Iterator[None]:
    """What a rehearsal leaves in a trainer and in torch's generators is taken back."""
    kept = ("_metrics", "_total_train_tokens", "_current_train_step_time", "_step")
    before = {name: copy.deepcopy(getattr(trainer, name)) for name in kept if hasattr(trainer, name)}
    has_steps = hasattr(trainer, "current_gradient_accumulation_steps")
    if not has_steps:
        trainer.current_gradient_accumulation_steps = trainer.args.gradient_accumulation_steps
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    training = trainer.model.training
    try:
        with torch.random.fork_rng(devices=devices):
            yield
    finally:
        trainer.model.zero_grad()
        trainer.model.train(training)
        for name, value in before.items():
            setattr(trainer, name, value)
        clear_device_cache(garbage_collection=True)


@contextmanager
def _optimizer_state(trainer: Trainer) -> Iterator[None]:
    """Hold what the optimizer will: two fp32 numbers for each trained one (Adam; 8-bit ones take less)."""
    trained = [p for p in trainer.model.parameters() if p.requires_grad and not trainer.optimizer.state]
    held = [torch.zeros(2, *p.shape, dtype=torch.float32, device=p.device) for p in trained]
    yield
    held.clear()
