"""GRPOTrainer as `prl rl` trains with it: the only subclass of it, and what it changes."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from torch.utils.data import Sampler
from transformers import TrainerCallback
from trl import GRPOTrainer
from trl.trainer.utils import RepeatSampler

from prl.rewards import Reward
from prl.runs import Run
from prl.settings.trainer_flags import generation_period
from prl.trainer.dynamic_sampling import DynamicSampling
from prl.trainer.fused_head import spare_the_head
from prl.trainer.groups import in_groups, silence
from prl.trainer.harm import HarmWatch
from prl.trainer.learning_rate import LiveRate
from prl.trainer.live_rows import LiveRows
from prl.trainer.micro_batches import MicroBatches
from prl.trainer.peak_memory import PeakMemory
from prl.trainer.progress import DeadGroups, RunLog, take_over
from prl.trainer.recorder import SampleRecorder
from prl.trainer.reference import settle_reference
from prl.trainer.rollouts import Rollouts
from prl.trainer.sealing import SealCheckpoints
from prl.trainer.signals import StopOnSignal
from prl.trainer.staging import Staging
from prl.trainer.timing import StepTimes
from prl.trainer.training import Patience, kept_wide, settle_cards, settle_ddp
from prl.trainer.wrong_paths import leave_out


class GRPO(GRPOTrainer):
    """GRPOTrainer (trl 1.16, transformers 5.23 and 5.24) with prl's collaborators, each of which a step meets
    in this order:

    1. `micro_batches`: a step that memory ran out in is tried again, with the responses that it has.
    2. `staging` (with a curriculum): its problems take the place of the rows that the loader brings.
    3. `rollouts` (without vLLM): a response to each prompt; tokens that the runtime inserted are masked.
       `dynamic_sampling` draws that often more, to put other groups in the place of those that teach nothing.
    4. `recorder`: says of each response whether it is right and valid, before the rewards pay for it; and
       keeps it with its rewards and its advantage once those of all processes are there. Only then can it
       tell `staging` what came of the draw. In between advantages of groups that were all paid alike become
       0, and with `wrong_paths` "judged" what wrong paths of credited responses say leaves the loss.
    5. `micro_batches`: forward and backward in as many parts as fit, the latter for `live_rows` alone; in the
       forward pass `rollouts` compares the log-probabilities that it sampled with.
    6. Callbacks: first those that put numbers into the log (`times`, `rollouts`, `staging`, `recorder`,
       `micro_batches`, `memory`), then the caller's, then `run_log`, which writes the log, advice on it, the
       seal of a checkpoint, and the stop, which asks for one more.

    `rewards` are by name, in the order of `args.reward_weights`. Columns of `problems` reach them.
    """

    paid: torch.Tensor
    """The rewards of the last generation, of all processes."""

    def __init__(
        self,
        model: Any,
        args: Any,
        rewards: Mapping[str, Reward],
        problems: Dataset,
        held_out: Dataset | None,
        tokenizer: Any,
        optimizer: torch.optim.Optimizer,
        folder: Run,
        *,
        recorder: SampleRecorder,
        micro_batches: MicroBatches,
        rollouts: Rollouts | None,
        staging: Staging | None,
        dynamic_sampling: int = 0,
        live_rate: bool = False,
        patience: int | None = None,
        wrong_paths: str = "learned",
        line: Callable[[Mapping[str, Any]], str],
        is_adaptive: bool,
        callbacks: Sequence[TrainerCallback] = (),
    ) -> None:
        self.recorder, self.micro_batches = recorder, micro_batches
        self.rollouts, self.staging = rollouts, staging
        self.dynamic_sampling: DynamicSampling | None = None
        if dynamic_sampling and rollouts and staging:
            self.dynamic_sampling = DynamicSampling(rollouts, staging, recorder, dynamic_sampling)
        self.run_log, self.stop = RunLog(folder, line), StopOnSignal(every=generation_period(vars(args)))
        self.live_rows, self.times, self.memory = LiveRows(), StepTimes(), PeakMemory()
        self.harm = HarmWatch(problems=len(held_out or ()), is_adaptive=is_adaptive, live_rate=live_rate)
        self.epochs_done, self.wrong_paths = 0, wrong_paths
        self.patience = Patience(patience) if patience else None
        keepers = [each for each in (rollouts, staging) if each]
        settle_ddp(args, model)
        settle_cards(args)
        sealing = SealCheckpoints(args)
        with kept_wide(args, model):
            super().__init__(
                model=model,
                reward_funcs=[*rewards.values()],
                args=args,
                train_dataset=problems,
                eval_dataset=held_out,
                processing_class=tokenizer,
                optimizers=(optimizer, None),
                rollout_func=self.dynamic_sampling or rollouts,
                callbacks=[
                    self.times,
                    *keepers,
                    recorder,
                    micro_batches,
                    self.memory,
                    *callbacks,
                    self.run_log,
                    DeadGroups(is_adaptive=is_adaptive),
                    self.harm,
                    sealing,
                    self.stop,
                    *([LiveRate(recorder)] if live_rate else []),
                    *([self.patience] if self.patience else []),
                ],
            )
        take_over(self)
        spare_the_head(model)
        settle_reference(self.model)
        for watching in (micro_batches, self.times, self.memory, recorder.tables):
            watching.watch(self)
        if rollouts:
            rollouts.watch(self, self.live_rows)

    def restore(self, checkpoint: Path) -> None:
        """Give the collaborators what they had when `checkpoint` was written."""
        for keeper in (self.micro_batches, self.rollouts, self.staging, self.harm, self.patience):
            if keeper:
                keeper.restore(checkpoint)

    def _generate_and_score_completions(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        # rows: this process's part of a generation, each problem `num_generations` times in a row.
        if not self.model.training:
            with counted_by_rows(self._metrics["eval"], len(rows)):
                return super()._generate_and_score_completions(rows)
        with self.times.of("verify"):
            if self.staging:
                rows = self.staging.choose(rows, self)
            if self.dynamic_sampling:
                rows = self.dynamic_sampling.fill(rows, self)
            outputs = super()._generate_and_score_completions(rows)
            silence(self, outputs, self.paid)
            if self.wrong_paths == "judged":
                leave_out(outputs, self.recorder.batch, self, self.recorder.path_opening)
            self.recorder.keep(self)
        return outputs

    def _generate(self, prompts: list[str]) -> Any:
        with self.times.of("rollout"):
            return super()._generate(prompts)

    def _calculate_rewards(
        self,
        rows: list[dict[str, Any]],
        prompts: list[str],
        completions: list[str],
        completion_ids: list[list[int]],
    ) -> torch.Tensor:
        if self.dynamic_sampling and (paid := self.dynamic_sampling.take(self)) is not None:
            self.paid = paid
            return paid
        # The rows have what the rollouts added by now (critical_path); metrics logged here are of this batch.
        log = self._log_metric
        if self.dynamic_sampling and self.model.training:  # draws of several sizes: a response counts as one
            log = functools.partial(_log_each, self._log_metric, len(rows))
        sampled = self.rollouts.latest if self.rollouts else None
        self.recorder.judge(rows, completions, completion_ids, log, sampled)
        self.paid = super()._calculate_rewards(rows, prompts, completions, completion_ids)
        return self.paid

    def _get_train_sampler(self, dataset: Dataset | None = None) -> Sampler:
        # trl draws each epoch's order of problems from a generator of its own, which no checkpoint holds:
        # those of the epochs done are drawn and dropped.
        sampler = super()._get_train_sampler(dataset)
        if isinstance(sampler, RepeatSampler) and sampler.shuffle:
            for _ in range(self.epochs_done):
                torch.randperm(sampler.num_samples, generator=sampler.generator)
        return sampler

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
        prepare = functools.partial(in_groups, self, super()._prepare_inputs)
        return self.micro_batches.prepare_inputs(prepare, batch)

    def compute_loss(self, *args: Any, **kwargs: Any) -> Any:
        """TRL's, of a part."""
        return self.micro_batches.compute_loss(super().compute_loss, *args, **kwargs)

    def _compute_loss(self, model: Any, inputs: Any) -> torch.Tensor:
        with self.live_rows.of(self, inputs):
            return super()._compute_loss(model, inputs)

    def _get_per_token_logps_and_entropies(self, *args: Any, **kwargs: Any) -> Any:
        of_rows = functools.partial(self.live_rows.score, super()._get_per_token_logps_and_entropies, self)
        with self.times.of("update" if torch.is_grad_enabled() else "score"):
            return self.micro_batches.score(of_rows, *args, **kwargs)


@contextmanager
def counted_by_rows(metrics: Mapping[str, list[float]], rows: int) -> Iterator[None]:
    """What a batch of an evaluation adds to `metrics` counts once a row: trl 1.16 averages over batches, the
    last of which is smaller."""
    before = {name: len(values) for name, values in metrics.items()}
    yield
    for name, values in metrics.items():
        start = before.get(name, 0)
        values[start:] = [value for value in values[start:] for _ in range(rows)]


def _log_each(log_metric: Callable[[str, float], None], times: int, name: str, value: float) -> None:
    for _ in range(times):
        log_metric(name, value)
