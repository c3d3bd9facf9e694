"""SFTTrainer as `prl sft` trains with it: the only subclass of it, and what it changes."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import TrainerCallback
from transformers.trainer_callback import ExportableState
from trl import SFTTrainer

from prl.console import console
from prl.runs import Run
from prl.trainer.format_sampler import FormatSampler
from prl.trainer.fused_head import spare_the_head
from prl.trainer.micro_batches import MicroBatches
from prl.trainer.packing import packed_loss, why_padded
from prl.trainer.peak_memory import PeakMemory
from prl.trainer.progress import RunLog, take_over
from prl.trainer.sealing import SealCheckpoints, exported_state
from prl.trainer.signals import StopOnSignal
from prl.trainer.training import kept_wide, settle_cards, settle_ddp


class TokenCount(TrainerCallback, ExportableState):
    """Carries `num_tokens` over a resumption, after which SFTTrainer (trl 1.16) counts anew."""

    trainer: Any = None

    def state(self) -> dict[str, Any]:
        """What transformers writes to trainer_state.json."""
        return {"args": {}, "attributes": {"tokens": int(getattr(self.trainer, "_total_train_tokens", 0))}}

    def restore(self, checkpoint: Path) -> None:
        """Count on from `checkpoint`."""
        self.trainer._total_train_tokens = (exported_state(checkpoint, self) or {"tokens": 0})["tokens"]


class SFT(SFTTrainer):
    """SFTTrainer (trl 1.16, transformers 5.23 and 5.24) with prl's collaborators: `micro_batches` has a step
    tried again in parts where memory runs out; callbacks see the log before `run_log` writes it; `sampler`
    answers held-out problems at every evaluation; a checkpoint is sealed before the stop may end the run.
    """

    def __init__(
        self,
        model: Any,
        args: Any,
        traces: Dataset,
        held_out: Dataset | None,
        tokenizer: Any,
        optimizer: torch.optim.Optimizer,
        folder: Run,
        *,
        sampler: FormatSampler,
        micro_batches: MicroBatches,
        line: Callable[[Mapping[str, Any]], str],
        callbacks: Sequence[TrainerCallback] = (),
    ) -> None:
        self.micro_batches, self.tokens, self.memory = micro_batches, TokenCount(), PeakMemory()
        self.run_log, self.stop = RunLog(folder, line), StopOnSignal()
        settle_ddp(args, model)
        settle_cards(args)
        sealing = SealCheckpoints(args)
        with kept_wide(args, model):
            super().__init__(
                model=model,
                args=args,
                train_dataset=traces,
                eval_dataset=held_out,
                processing_class=tokenizer,
                optimizers=(optimizer, None),
                callbacks=[
                    micro_batches,
                    self.memory,
                    *callbacks,
                    self.run_log,
                    sampler,
                    self.tokens,
                    sealing,
                    self.stop,
                ],
            )
        take_over(self)
        spare_the_head(model)
        self.padded = why_padded(self, model.train())  # evaluations switch dropout off, and are asked anew
        if self.padded:
            console.print(f"micro-batches are padded, not packed: {self.padded}", markup=False)
        micro_batches.watch(self)
        self.memory.watch(self)
        sampler.tables.watch(self)
        self.tokens.trainer = self

    def restore(self, checkpoint: Path) -> None:
        """Give the collaborators what they had when `checkpoint` was written."""
        self.tokens.restore(checkpoint)
        self.micro_batches.restore(checkpoint)

    def wind_up(self) -> None:
        """Take the view away and give the signals back, however training ended; KeyboardInterrupt where one
        of them stopped it."""
        self.run_log.close()
        self.stop.raise_if_stopped()

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """None: trl writes one at every checkpoint over the README.md of the run folder, the user's."""

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """TRL's, in as many parts as fit."""
        return self.micro_batches.training_step(super().training_step, *args, **kwargs)

    def _prepare_inputs(self, batch: Any) -> Any:
        return self.micro_batches.prepare_inputs(super()._prepare_inputs, batch)

    def compute_loss(self, *args: Any, **kwargs: Any) -> Any:
        """TRL's, of a part, packed."""
        of_part = functools.partial(packed_loss, self, super().compute_loss)
        return self.micro_batches.compute_loss(of_part, *args, **kwargs)
