"""Reinforcement learning: GRPO on checked answers (`prl rl`, Parallel-R1 sections 3.3 and 3.4).

TRL's GRPOTrainer goes on with the adapter of the cold start (or starts a new one on a base). Differs from a
plain GRPO script in four ways: prompts come rendered, so that training and evaluation cannot disagree on the
chat template; responses come from prl's decoder (`prl.rollouts`), which forks at `<Parallel>` with structured
attention and is faster than `model.generate` with either; every sampled response is kept in the run with its
rewards, advantage, verdict and faults; and groups that teach nothing, because all their rewards are equal,
are counted and shown.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import PreTrainedTokenizerBase, TrainerCallback
from trl import GRPOTrainer

from prl import runs
from prl.answers import default_checker, extract_answer
from prl.arguments import RLArguments
from prl.config import Settings
from prl.data.hub import load_rows
from prl.decoding import Limits
from prl.errors import DataError
from prl.grammar import parse
from prl.model import Lora, describe, load_model, make_optimizer, resolve_attention, save_adapter
from prl.progress import RunLog, StopOnInterrupt, announce, console, quiet_libraries, take_over
from prl.prompts import render_prompt
from prl.rewards import ParallelReward, accuracy_reward, format_reward
from prl.rollouts import Rollouts, check_supported

Reward = Callable[..., Sequence[float | None]]


@dataclass(frozen=True)
class RLResult:
    """Where the adapter is, and the last metrics that were logged."""

    folder: Path
    metrics: dict[str, float]


def run(settings: Settings[RLArguments]) -> RLResult:
    """Train on the problems of `settings` and write the run folder. Raises PrlError for what the user can
    mend."""
    quiet_libraries()
    arguments, training = settings.arguments, settings.trainer
    check_supported(training, arguments.attention)
    train_set = _load(arguments, arguments.dataset, arguments.dataset_split, arguments.limit, training.seed)
    eval_set = (
        _load(
            arguments,
            arguments.eval_dataset,
            arguments.eval_dataset_split,
            arguments.eval_limit,
            training.seed,
        )
        if arguments.eval_dataset
        else None
    )
    needed = training.generation_batch_size // training.num_generations
    if len(train_set) < needed:  # TRL's sampler would drop the incomplete batch, and train on nothing
        raise DataError(
            f"{arguments.dataset} gives {len(train_set)} problems, one generation takes {needed} "
            f"({training.generation_batch_size} responses, {training.num_generations} a problem): "
            "give more, or lower --per_device_train_batch_size or --gradient_accumulation_steps"
        )
    with runs.open_run(
        training.output_dir,
        stage="rl",
        config=settings.as_dict(),
        resume=arguments.resume,
        overwrite=arguments.overwrite_output_dir,
    ) as folder:
        if folder.checkpoint:
            resolve_attention(folder.checkpoint, arguments.attention)
        model, tokenizer = load_model(
            arguments.model_name_or_path,
            attention=arguments.attention,
            lora=Lora(
                arguments.lora_r, arguments.lora_alpha, arguments.lora_dropout, arguments.lora_target_modules
            ),
            trainable=True,
            load_in_4bit=arguments.load_in_4bit,
            dtype=getattr(torch, arguments.dtype),
            device=arguments.device,
            trust_remote_code=training.trust_remote_code,
            seed=training.seed,
        )
        facts = describe(model) | {"problems": len(train_set)}
        announce("rl", settings.chosen, {"model": arguments.model_name_or_path, **facts})

        recorder = SampleRecorder(folder, tokenizer)
        rewards = reward_functions(arguments.rewards, tokenizer)
        rollouts = (
            None if training.use_vllm else Rollouts(Limits.of(arguments, training.max_completion_length))
        )
        log, interrupt = RunLog(folder, _line), StopOnInterrupt()
        trainer = GRPOTrainer(
            model=model,
            reward_funcs=[recorder.observe(rewards[0]), *rewards[1:]],
            args=training,
            train_dataset=train_set,
            eval_dataset=eval_set,
            processing_class=tokenizer,
            optimizers=(make_optimizer(model, training, arguments.tag_learning_rate), None),
            rollout_func=rollouts,
            callbacks=[*([rollouts] if rollouts else []), log, recorder, interrupt],
        )
        take_over(trainer)
        recorder.trainer = trainer
        if rollouts:
            rollouts.watch(trainer)
        try:
            trainer.train(resume_from_checkpoint=str(folder.checkpoint) if folder.checkpoint else None)
        finally:
            log.bar.stop()
            interrupt.raise_if_stopped()
        save_adapter(trainer.model, tokenizer, folder.folder / "adapter")
        metrics = {k: v for k, v in log.latest.items() if isinstance(v, float)}
        folder.finish({**facts, **metrics})
    console.print(f"adapter: {folder.folder / 'adapter'}", markup=False)
    return RLResult(folder.folder, metrics)


def reward_functions(names: Sequence[str], tokenizer: PreTrainedTokenizerBase) -> list[Reward]:
    """The rewards of a recipe, by name, in order; `format` is told which token ends a response."""
    known: dict[str, Reward] = {
        "accuracy": accuracy_reward,
        "format": functools.partial(format_reward, eos_token_id=tokenizer.eos_token_id),
        "parallel": ParallelReward(),
    }
    return [known[name] for name in names]


class SampleRecorder(TrainerCallback):
    """Keeps every response of a training step with what it was paid and why.

    The one place that reads GRPOTrainer's internals (trl 1.16): `_logs` holds the last generation batch with
    rewards by name and advantages; what it lacks (problem, gold answer, token ids) passes through the first
    reward function.
    """

    def __init__(self, folder: runs.Run, tokenizer: PreTrainedTokenizerBase) -> None:
        self.folder, self.eos_token_id = folder, tokenizer.eos_token_id
        self.trainer: GRPOTrainer | None = None
        self.batch: dict[str, Sequence[Any]] | None = None

    def observe(self, reward: Reward) -> Reward:
        """`reward`, remembering the batch that it judges, whatever it pays for, and logging the shares of
        right, valid and parallel responses."""

        @functools.wraps(reward)
        def observed(
            completions: Sequence[str], completion_ids: Sequence[list[int]], **columns: Any
        ) -> Sequence[float | None]:
            truncated = [not ids or ids[-1] != self.eos_token_id for ids in completion_ids]
            traces = [parse(text, truncated=cut) for text, cut in zip(completions, truncated, strict=True)]
            extracted = [extract_answer(text) for text in completions]
            verdicts = default_checker().check_many(list(zip(extracted, columns["answer"], strict=True)))
            self.batch = {
                "problem": columns["problem"],
                "answer": columns["answer"],
                "extracted": extracted,
                "verdict": [str(verdict.reason) for verdict in verdicts],
                "text": completions,
                "token_ids": completion_ids,
                "length": [len(ids) for ids in completion_ids],
                "critical_path": columns.get("critical_path", [None] * len(completions)),
                "truncated": truncated,
                "faults": [[fault.kind.value for fault in trace.faults] for trace in traces],
            }
            shares = {
                "correct": [verdict.equal for verdict in verdicts],
                "format_valid": [trace.is_valid for trace in traces],
                "parallel_ratio": [trace.uses_parallel for trace in traces],
            }
            for name, hits in shares.items():
                columns["log_metric"](name, sum(hits) / len(hits))
            return reward(completions=completions, completion_ids=completion_ids, **columns)

        if isinstance(reward, functools.partial):
            observed.__name__ = reward.func.__name__
        return observed

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.batch is None or self.trainer is None:
            return
        logs = self.trainer._logs
        group_size = self.trainer.num_generations
        columns = self.batch | {
            "group": [index // group_size for index in range(len(self.batch["text"]))],
            "advantage": logs["advantages"],
            **{f"reward_{name.removesuffix('_reward')}": values for name, values in logs["rewards"].items()},
        }
        self.folder.log_samples(
            state.global_step,
            [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)],
        )
        self.batch = None

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.batch = None


def _load(arguments: RLArguments, dataset: str, split: str, limit: int | None, seed: int) -> Dataset:
    rows = load_rows(
        dataset, split=split, need=("problem", "answer"), limit=limit, seed=seed, on_bad=arguments.on_bad_rows
    )
    return Dataset.from_list(
        [
            {
                "prompt": render_prompt(row["problem"], arguments.prompt_style),
                "problem": row["problem"],
                "answer": row["answer"],
            }
            for row in rows
        ]
    )


def _line(logs: Mapping[str, Any]) -> str:
    prefix = "eval_" if "eval_reward" in logs else ""
    if f"{prefix}reward" not in logs:
        return ""
    shown = {
        "reward": "{:+.2f}",
        "correct": "correct {:.0%}",
        "parallel_ratio": "parallel {:.0%}",
        "format_valid": "valid {:.0%}",
        "frac_reward_zero_std": "dead groups {:.0%}",
        "completions/mean_length": "tokens {:.0f}",
        "step_time": "{:.1f} s",
    }
    parts = [
        text.format(logs[prefix + key]) for key, text in shown.items() if logs.get(prefix + key) is not None
    ]
    return ("held-out " if prefix else "reward ") + "  ".join(parts)
