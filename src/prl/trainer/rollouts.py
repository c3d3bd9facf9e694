"""Responses for GRPOTrainer from prl's decoder, and the tripwire that sampling and scoring agree.

`Rollouts` is what TRL calls a `rollout_func`. Its `env_mask` keeps tokens that the decoder inserted out of
the loss: the policy never chose them. TRL's importance ratio proves nothing about the decoder, since by
default it compares the scored log-probabilities with themselves; so the sampled ones are compared with the
scored ones here, in the forward pass that trains, at every step (`sampling_gap/max`, `sampling_gap/mean`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn
from transformers import TrainerCallback
from transformers.trainer_callback import ExportableState

from prl.console import console
from prl.decoding import ForkJoinDecoder, Limits, Response, Sampling, row_seed
from prl.machine.halving import Advise, halving
from prl.runs import processes
from prl.trainer.live_rows import LiveRows
from prl.trainer.sealing import exported_state

T = TypeVar("T")

GAP_LIMIT = 1e-3
"""In fp32, a larger difference of log-probabilities means that something decodes otherwise than it trains."""

MERGED_LIMIT = 0.02
"""With merged weights, the largest mean difference: a tenth of GRPO's clip range (`epsilon`), within which a
policy counts as the one that sampled. A merged adapter is rounded, and small updates vanish in that."""


class Rollouts(TrainerCallback, ExportableState):
    """`rollout_func` of a GRPOTrainer (trl 1.16), and the callback that logs the gap.

    It relies on: prompts come repeated for their group, in training and in evaluation; `env_mask` 0 takes a
    token out of the loss and out of the length metrics; further columns reach the rewards; the training
    forward passes `labels` that hold the completion and returns `log_probs`.

    Where memory runs out it decodes half as many responses side by side from then on, logs how many
    (`memory/rollout_batch`) and keeps it in checkpoints; `advise` has the last word where one is too much.

    With `merges` responses are sampled with the adapter rounded into the weights (`ForkJoinDecoder`). Where
    that `is_watched`, a mean gap above `MERGED_LIMIT` ends it, for this run and what resumes it.
    """

    def __init__(
        self,
        limits: Limits,
        *,
        batch_size: int | None = None,
        merges: bool = False,
        is_watched: bool = False,
        advise: Advise = lambda: "lower --max_completion_length",
    ) -> None:
        self.limits, self.batch_size, self.advise = limits, batch_size, advise
        self.merges, self.is_watched = merges, is_watched
        self.is_halved = False
        self.latest: list[Response] = []  # what the last call gave, in the order of its prompts
        self.sampled: dict[tuple[int, ...], Response] = {}  # by prompt and completion; of the last generation
        self.sampled_at = -1  # the step that they were sampled at
        self.generations = 0  # at that step, before the last one
        self.evaluated = 0  # prompts of all processes in the evaluation at hand
        self.gaps: torch.Tensor | None = None  # since the last log: the largest, their sum and their number
        self.is_precise = True  # the adapter of a 4-bit model is trained in bfloat16
        self.is_warned = False

    def __call__(self, prompts: Sequence[str], trainer: Any) -> dict[str, Any]:
        """One response to each prompt."""
        training, step = trainer.model.training, trainer.state.global_step
        groups = [list(group) for _, group in groupby(enumerate(prompts), key=lambda item: item[1])]
        # Of all processes' prompts, so that however many share them, the same responses are sampled.
        first = trainer.accelerator.process_index * len(prompts) + (0 if training else self.evaluated)
        # With steps_per_generation below gradient_accumulation_steps, a step generates several times.
        self.generations = self.generations + 1 if training and step == self.sampled_at else 0
        origin = (
            trainer.args.seed,
            int(training),
            step,
            0,
            *([self.generations] if self.generations else []),
        )
        seeds = [[row_seed(*origin, first + index) for index, _ in group] for group in groups]
        prompt_ids = trainer.processing_class([group[0][1] for group in groups], add_special_tokens=False)[
            "input_ids"
        ]

        # A response depends on its own seed alone: fewer side by side are the same ones.
        answers = self._fitting(
            lambda size: self._decoder(trainer, size).generate(prompt_ids, seeds=seeds), len(prompts)
        )
        rows = [(ids, response) for ids, group in zip(prompt_ids, answers, strict=True) for response in group]
        self.latest = [response for _, response in rows]
        if not training:
            self.evaluated += len(prompts) * processes.launched()
        else:
            self.sampled_at = step
            self.sampled = {(*ids, *response.token_ids): response for ids, response in rows}
        return {
            "prompt_ids": [ids for ids, _ in rows],
            "completion_ids": [response.token_ids for _, response in rows],
            "logprobs": None,  # TRL's own use of them is for vLLM
            "env_mask": [[int(not forced) for forced in response.forced] for _, response in rows],
            "critical_path": [response.critical_path for _, response in rows],
        }

    def rehearse(self, trainer: Any, prompt_ids: Sequence[int]) -> None:
        """Take the memory of a generation at its longest, with groups of this prompt (token ids)."""
        rows = trainer.args.per_device_train_batch_size * trainer.args.steps_per_generation
        group = trainer.num_generations
        self._fitting(
            lambda size: self._decoder(trainer, size).rehearse(prompt_ids, -(-rows // group), group), rows
        )

    def _fitting(self, decode: Callable[[int], T], prompts: int) -> T:
        size = min(self.batch_size or prompts, prompts)
        result, fit = halving(decode, size, "responses side by side:", self.advise)
        if fit < size:
            self.batch_size, self.is_halved = fit, True
        return result

    def _decoder(self, trainer: Any, batch_size: int) -> ForkJoinDecoder:
        args = trainer.args
        return ForkJoinDecoder(
            trainer.accelerator.unwrap_model(trainer.model),
            trainer.processing_class,
            limits=self.limits,
            sampling=Sampling.of(args),
            batch_size=batch_size,
            merges=self.merges,
        )

    def state(self) -> dict[str, Any]:
        """What transformers writes to trainer_state.json."""
        kept = {"batch_size": self.batch_size, "is_halved": self.is_halved, "merges": self.merges}
        return {"args": {}, "attributes": kept}

    def restore(self, checkpoint: Path) -> None:
        """Go on with as many responses side by side, and with the weights, as at `checkpoint`."""
        saved = exported_state(checkpoint, self)
        if saved and saved["is_halved"]:
            self.batch_size, self.is_halved = saved["batch_size"], True
        if saved and self.is_watched:
            self.merges = saved.get("merges", False)

    def watch(self, trainer: Any, live_rows: LiveRows | None = None) -> None:
        """Compare with what is scored, whenever `trainer` trains on the responses that were sampled last;
        also of rows that its `live_rows` compute without a gradient."""

        def compare(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
            scored = getattr(output, "log_probs", None)
            is_current = trainer.state.global_step == self.sampled_at
            is_update = torch.is_grad_enabled() or (live_rows and live_rows.mask is not None)
            if scored is not None and is_current and is_update and self.sampled:
                self._compare(kwargs["input_ids"], kwargs["attention_mask"], scored.detach())

        trainer.model.register_forward_hook(compare, with_kwargs=True)
        trained = (p.dtype for p in trainer.model.parameters() if p.requires_grad)
        self.is_precise = all(dtype == torch.float32 for dtype in trained)

    def _compare(self, input_ids: torch.Tensor, mask: torch.Tensor, scored: torch.Tensor) -> None:
        rows = zip(input_ids.tolist(), mask.bool().tolist(), scored, strict=True)
        for ids, is_real, logprobs in rows:
            sequence = tuple(token for token, real in zip(ids, is_real, strict=True) if real)
            response = self.sampled.get(sequence)
            if response is None:
                continue
            # The last column is the last token's, whatever TRL leaves out in front.
            stop = len(logprobs) - is_real[::-1].index(True)
            own = logprobs[stop - len(response.logprobs) : stop]
            gap = (own.float() - torch.tensor(response.logprobs, device=own.device)).abs()
            self.gaps = _joined(self.gaps, gap[~gap.isnan()])

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.evaluated = 0

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        if self.is_halved and logs is not None and "loss" in logs:
            logs["memory/rollout_batch"] = self.batch_size
        if logs is None:
            return
        own, self.gaps = None if self.gaps is None else self.gaps.tolist(), None
        if found := [each for each in processes.gathered(own) if each and each[2]]:
            largest, sums, counts = zip(*found, strict=True)
            logs["sampling_gap/max"], logs["sampling_gap/mean"] = max(largest), sum(sums) / sum(counts)
            is_precise = self.is_precise and not args.bf16 and not args.fp16
            if is_precise and not logs["sampling_gap/max"] <= GAP_LIMIT:
                self._warn(
                    "sampled and scored log-probabilities differ by "
                    f"{logs['sampling_gap/max']:.2g} (limit in float32: {GAP_LIMIT:.0g}), so the model "
                    "trains on something else than it samples: please report it"
                )
            if self.merges and not logs["sampling_gap/mean"] <= MERGED_LIMIT:
                self.merges = not self.is_watched
                todo = "take --rollout_weights adapter" if self.merges else "from here on the adapter samples"
                self._warn(
                    "merged weights sample with log-probabilities that are off by "
                    f"{logs['sampling_gap/mean']:.2g} on average (limit: {MERGED_LIMIT:.0g}): {todo}"
                )

    def _warn(self, fault: str) -> None:
        if not self.is_warned:
            self.is_warned = True
            console.print(f"warning: {fault}", markup=False)


def _joined(gaps: torch.Tensor | None, more: torch.Tensor) -> torch.Tensor:
    """The largest gap, the sum and the number of those before and `more`."""
    largest = more.max() if len(more) else more.new_zeros(())
    found = torch.stack([largest, more.sum(), more.new_tensor(len(more))])
    return found if gaps is None else torch.cat([torch.maximum(gaps[:1], found[:1]), gaps[1:] + found[1:]])
