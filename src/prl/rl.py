"""Reinforcement learning: GRPO on checked answers (`prl rl`, Parallel-R1 sections 3.3 and 3.4).

TRL's GRPOTrainer goes on with the adapter of the cold start (or starts a new one on a base). Differs from a
plain GRPO script in five ways: prompts come rendered, so that training and evaluation cannot disagree on the
chat template; responses come from prl's decoder (`prl.trainer.rollouts`), which forks at `<Parallel>` with
structured attention and is faster than `model.generate` with either; a curriculum may choose problems and
rewards as it goes (`prl.trainer.staging`); every sampled response is kept in the run with its rewards,
advantage, verdict and faults; and groups that teach nothing, because all their rewards are equal, are counted
and shown.
"""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
from accelerate.utils import gather_object
from datasets import Dataset
from transformers import PreTrainedTokenizerBase, TrainerCallback
from trl import GRPOTrainer

from prl import runs
from prl.answers import default_checker
from prl.console import announce, batches_bar, console, quiet_libraries
from prl.curriculum import COLD_START, Curriculum, Stage, rewards_of
from prl.data.hub import load_rows
from prl.decoding import ForkJoinDecoder, Limits, Sampling, row_seed
from prl.decoding.context import beyond, beyond_told, context_of
from prl.errors import DataError, UsageError
from prl.grammar import parse, render
from prl.machine import environment
from prl.machine.fitting import check_fits, extent_of_prompts
from prl.machine.halving import advise, halving
from prl.model import (
    TAGS_ARE,
    Lora,
    check_forks,
    check_loadable,
    describe,
    load_model,
    make_optimizer,
    resolve_attention,
    save_adapter,
    tag_ids,
    tags_of,
)
from prl.prompts import render_prompt, transcript
from prl.rewards import AlternatingReward, Reward, read_pattern, reward_functions
from prl.runs import checkpoints, processes
from prl.settings import Settings
from prl.settings.arguments import RLArguments
from prl.settings.stages import read_stages
from prl.settings.trainer_flags import generation_period
from prl.trainer import resuming
from prl.trainer.micro_batches import MicroBatches
from prl.trainer.progress import DeadGroups, RunLog, take_over
from prl.trainer.rehearsal import rehearse_rl
from prl.trainer.rollouts import Rollouts
from prl.trainer.staging import Staging, around_generation
from prl.trainer.training import (
    SealCheckpoints,
    StopOnSignal,
    check_router,
    of_best,
    settle_ddp,
    settle_reference,
    train,
)

REHEARSED = render(["1", "2"], "3")
"""What the rehearsal writes: a block, so that paths are kept apart."""


@dataclass(frozen=True)
class RLResult:
    """Where the adapter is, and the last metrics that were logged."""

    folder: Path
    metrics: dict[str, float]


def run(settings: Settings[RLArguments]) -> RLResult:
    """Train on the problems of `settings` and write the run folder. Raises PrlError for what the user can
    mend."""
    quiet_libraries()
    environment.keep()
    arguments, training = settings.arguments, copy(settings.trainer)  # SealCheckpoints changes it
    stages = stages_of(arguments, training.max_steps)
    check_loadable(arguments.model_name_or_path, trust_remote_code=training.trust_remote_code)
    start = _checkpoint(arguments, training) or arguments.model_name_or_path
    tags = tags_of(start, trust_remote_code=training.trust_remote_code)
    check_forks(start, tags, arguments.attention)
    chosen = settings.chosen | {"tags": TAGS_ARE[tags].format(start)}
    if arguments.lora_dropout and training.disable_dropout:
        told = f"off in rl, which scores what it sampled; the adapter's {arguments.lora_dropout:g} is sft's"
        chosen |= {"dropout": told}
    settings = replace(settings, chosen=chosen)
    problems = load_problems(arguments, stages, training.seed)
    eval_set = (
        Dataset.from_list(
            _load(
                arguments,
                arguments.eval_dataset,
                arguments.eval_dataset_split,
                arguments.eval_limit,
                training.seed,
            )
        )
        if arguments.eval_dataset
        else None
    )
    _check_problems(arguments, stages, problems, training)
    check_fits(settings)
    default_checker().start()
    inputs = {
        "dataset": resuming.of_rows(problems.table),
        "eval_dataset": resuming.of_rows(eval_set or ()),
        "model": resuming.of_model(arguments.model_name_or_path),
    }
    with runs.open_run(
        training.output_dir,
        stage="rl",
        config=settings.as_dict(),
        resume=arguments.resume,
        overwrite=arguments.overwrite_output_dir,
        inputs=inputs,
        compare=functools.partial(resuming.compare, settings, inputs),
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
            tags=tags,
        )
        check_router(training, model)
        fitting = functools.partial(
            within_context,
            tokenizer=tokenizer,
            context=context_of(model.config),
            completion=training.max_completion_length,
        )
        read, (problems, told) = len(problems.table), fitting(problems)
        facts = describe(model) | {"problems": len(problems.table)}
        if told:
            facts["beyond_context"] = read - len(problems.table)
        announce("rl", settings.chosen | folder.changed, {"model": arguments.model_name_or_path, **facts})
        if told:
            console.print(f"  left out: {told}", markup=False)
            _check_problems(arguments, stages, problems, training)
        check_fits(settings, extent_of_prompts([row["prompt"] for row in problems.table], tokenizer))
        if eval_set is not None:
            held_out, told = fitting(Problems(eval_set.to_list(), []))
            eval_set = Dataset.from_list(held_out.table)
            if told:
                console.print(f"  left out of --eval_dataset: {told}", markup=False)

        rewards = reward_functions(
            rewards_of(stages, arguments.rewards),
            eos_token_id=tokenizer.eos_token_id,
            tag_ids=tag_ids(tokenizer) or None,
            max_completion_length=training.max_completion_length,
            overlong_buffer=arguments.overlong_buffer,
            pattern=read_pattern(arguments.alternate, arguments.alternate_window)[0],
        )
        alternating, staging = cast(AlternatingReward | None, rewards.get("alternating")), None
        if stages:
            curriculum = Curriculum(
                stages,
                problems.pools,
                [row["level"] for row in problems.table],
                seed=training.seed,
                group_size=training.num_generations,
                band=(arguments.band[0], arguments.band[1]),
            )
            staging = Staging(curriculum, problems.table, arguments.rewards, alternating)
            rewards = staging.staged(rewards)
        recorder = SampleRecorder(folder, tokenizer, staging, alternating)
        limits = Limits.of(arguments, training.max_completion_length)

        def rehearsal(micro_batches: MicroBatches) -> None:
            decode = functools.partial(rollouts.rehearse, trainer) if rollouts else lambda prompt: None
            prompts = list(dict.fromkeys(row["prompt"] for row in problems.table))
            rehearse_rl(micro_batches, prompts, REHEARSED, decode)

        advised = functools.partial(advise, settings)
        rollouts = (
            None
            if training.use_vllm
            else Rollouts(limits, batch_size=arguments.rollout_batch_size, advise=advised)
        )
        stop = StopOnSignal(every=generation_period(vars(training)))
        log, sealing = RunLog(folder, _line), SealCheckpoints(training)
        micro_batches = MicroBatches(advised, rehearsal if arguments.rehearse == "on" else None)
        first, *others = rewards.values()
        settle_ddp(training, model)
        trainer = GRPOTrainer(
            model=model,
            reward_funcs=[recorder.observe(first), *others],
            args=training,
            train_dataset=Dataset.from_list(problems.table),
            eval_dataset=eval_set,
            processing_class=tokenizer,
            optimizers=(make_optimizer(model, training, arguments.tag_learning_rate), None),
            rollout_func=rollouts,
            callbacks=[
                *(each for each in (rollouts, staging) if each),
                recorder,
                micro_batches,
                log,
                DeadGroups(is_adaptive=arguments.sampling == "adaptive" or bool(arguments.stages)),
                sealing,
                stop,
            ],
        )
        take_over(trainer)
        settle_reference(trainer.model)
        micro_batches.watch(trainer)
        around_generation(
            trainer,
            before=lambda rows: staging.choose(rows, trainer) if staging else rows,
            after=lambda: recorder.keep(trainer),
        )
        if rollouts:
            rollouts.watch(trainer)
        if folder.checkpoint:
            for keeper in (micro_batches, rollouts, staging):
                if keeper:
                    keeper.restore(folder.checkpoint)
        elif staging and arguments.probe_samples:
            probe(settings, model, tokenizer, staging, folder)
        try:
            train(trainer, folder.checkpoint)
        finally:
            log.bar.stop()
            stop.raise_if_stopped()
        save_adapter(trainer.model, tokenizer, folder.folder / "adapter")
        latest = log.latest | of_best(trainer, folder)
        metrics = {name: value for name, value in latest.items() if isinstance(value, float)}
        folder.finish({**facts, **metrics})
    console.print(f"adapter: {folder.folder / 'adapter'}", markup=False)
    return RLResult(folder.folder, metrics)


def stages_of(arguments: RLArguments, max_steps: int) -> tuple[Stage, ...]:
    """The stages of a recipe; one, where only levels or sampling are asked for; none for TRL's own order."""
    stages: tuple[Stage, ...] = ()
    if arguments.stages:  # their faults were told when the settings were read
        stages, _ = read_stages([json.loads(stage) for stage in arguments.stages], max_steps=max_steps)
    if any(stage.name == COLD_START for stage in stages):
        raise UsageError("stages: cold-start is no RL; `prl rl` and prl.study.pipeline.run do it first")
    if not stages and (arguments.levels or arguments.sampling != "uniform"):
        return (Stage("rl", levels=tuple(arguments.levels or ()), sampling=arguments.sampling),)
    return stages


@dataclass(frozen=True)
class Problems:
    """The rows of all stages (`prompt`, `problem`, `answer`, `level`), and which of them each stage draws
    from."""

    table: list[dict[str, Any]]
    pools: list[list[int]]


def load_problems(arguments: RLArguments, stages: Sequence[Stage], seed: int) -> Problems:
    """Load each data set once, however many stages use it. DataError names every stage that lacks its
    levels."""
    table: list[dict[str, Any]] = []
    loaded: dict[tuple[str, str, int | None], range] = {}
    pools, faults = [], []
    for stage in stages or [Stage("rl")]:
        named = arguments.easy_dataset if stage.dataset == "easy" else stage.dataset
        source = (
            named or arguments.dataset,
            stage.dataset_split or arguments.dataset_split,
            stage.limit or arguments.limit,
        )
        if source not in loaded:
            rows = _load(arguments, *source, seed)
            loaded[source] = range(len(table), len(table) + len(rows))
            table += rows
        held = {table[index]["level"] for index in loaded[source]} - {None}
        if stage.levels and not held:
            faults.append(
                f"stage {stage.name}: {source[0]} has no level; leave levels out, or give one that has"
            )
        elif missing := sorted(set(stage.levels) - held):
            levels = ", ".join(map(str, sorted(held)))
            faults.append(f"stage {stage.name}: {source[0]} has no level {missing[0]}, only {levels}")
        pools.append(
            [index for index in loaded[source] if not stage.levels or table[index]["level"] in stage.levels]
        )
    if faults:
        raise DataError("; ".join(faults))
    return Problems(table, pools)


def _checkpoint(arguments: RLArguments, training: Any) -> Path | None:
    """What a run that is resumed goes on from: it keeps the tags as it began with them."""
    if not arguments.resume:
        return None
    kept = reversed(checkpoints.checkpoints(training.output_dir))
    return next((each for each in kept if not checkpoints.fault(each)), None)


def within_context(
    problems: Problems, tokenizer: PreTrainedTokenizerBase, context: int | None, completion: int
) -> tuple[Problems, str]:
    """The problems that leave a response its `completion` tokens, and what is to be said of the others.
    DataError where none does."""
    prompts = [row["prompt"] for row in problems.table]
    found = beyond(prompts, tokenizer, context, completion)
    if not found:
        return problems, ""
    told = beyond_told(found, len(prompts), context, completion)
    if len(found) == len(prompts):
        raise DataError(f"{told}; none is left")
    kept = [index for index in range(len(prompts)) if index not in found]
    place = {index: new for new, index in enumerate(kept)}
    pools = [[place[index] for index in pool if index in place] for pool in problems.pools]
    return Problems([problems.table[index] for index in kept], pools), told


def _check_problems(
    arguments: RLArguments, stages: Sequence[Stage], problems: Problems, training: Any
) -> None:
    """TRL's sampler drops an incomplete batch, and trains on nothing where there is no other."""
    needed = training.generation_batch_size // training.num_generations
    names = [f"stage {stage.name}" for stage in stages] or [arguments.dataset]
    if short := [
        (name, len(pool)) for name, pool in zip(names, problems.pools, strict=True) if len(pool) < needed
    ]:
        gives = ", ".join(f"{name} gives {count} problems" for name, count in short)
        raise DataError(
            f"{gives}, one generation takes {needed} "
            f"({training.generation_batch_size} responses, {training.num_generations} a problem): "
            "give more, or lower --per_device_train_batch_size or --gradient_accumulation_steps"
        )


def probe(
    settings: Settings[RLArguments],
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    staging: Staging,
    folder: runs.Run,
) -> None:
    """Answer every problem `probe_samples` times before the first step, so that adaptive sampling knows how
    hard each is. Several processes share the problems."""
    arguments, training = settings.arguments, settings.trainer
    samples, table = arguments.probe_samples, staging.table
    share = -(-len(table) // processes.launched())
    first = share * processes.index()
    rows = table[first : first + share]
    prompts = [row["prompt"] for row in rows]
    seeds = [[row_seed(training.seed, first + i, j) for j in range(samples)] for i in range(len(rows))]
    sampling = Sampling(training.temperature, training.top_p, training.top_k or 0, training.min_p or 0.0)
    with batches_bar("probe", len(rows) * samples) as on_batch:
        answers, _ = halving(
            lambda size: ForkJoinDecoder(
                model,
                tokenizer,
                limits=Limits.of(arguments, training.max_completion_length),
                sampling=sampling,
                batch_size=size,
            ).generate(prompts, seeds=seeds, on_batch=on_batch),
            arguments.rollout_batch_size or training.generation_batch_size,
            "responses side by side:",
            functools.partial(advise, settings),
        )
    golds = [row["answer"] for row in rows for _ in range(samples)]
    texts = [response.text for group in answers for response in group]
    judged = iter(default_checker().check_responses(texts, golds))
    own = [sum(next(judged)[1].equal for _ in group) for group in answers]
    right = [count for counts in processes.gathered(own) for count in counts]
    staging.curriculum.record((problem, count, samples) for problem, count in enumerate(right))
    dead = sum(count in (0, samples) for count in right) / len(right)
    mean = sum(right) / (len(right) * samples)
    folder.log_metrics(0, {"probe/pass_rate": mean, "probe/dead_groups": dead})
    console.print(
        f"probed {len(table)} problems, {samples} responses each: {mean:.0%} right, {dead:.0%} dead groups",
        markup=False,
    )


class SampleRecorder(TrainerCallback):
    """Keeps every response of a training step with what it was paid and why, and tells the curriculum.

    Reads GRPOTrainer's `_logs` (trl 1.16), which hold the last generation of all processes with rewards by
    name and advantages; what they lack (problem, gold answer, token ids) passes through the first reward
    function.
    """

    def __init__(
        self,
        folder: runs.Run,
        tokenizer: PreTrainedTokenizerBase,
        staging: Staging | None = None,
        alternating: AlternatingReward | None = None,
    ) -> None:
        self.folder, self.eos_token_id = folder, tokenizer.eos_token_id
        self.staging, self.alternating = staging, alternating
        self.batch: dict[str, Sequence[Any]] = {}  # of this process's last generation
        self.rows: list[dict[str, Any]] = []  # of the step at hand
        self.labels: dict[str, str] = {}

    def observe(self, reward: Reward) -> Reward:
        """`reward`, remembering the batch that it judges, whatever it pays for, and logging the shares of
        right, valid and parallel responses."""

        @functools.wraps(reward)
        def observed(
            completions: Sequence[str], completion_ids: Sequence[list[int]], **columns: Any
        ) -> Sequence[float | None]:
            truncated = [not ids or ids[-1] != self.eos_token_id for ids in completion_ids]
            traces = [parse(text, truncated=cut) for text, cut in zip(completions, truncated, strict=True)]
            judged = default_checker().check_responses(completions, columns["answer"])
            extracted, verdicts = [stated for stated, _ in judged], [verdict for _, verdict in judged]
            # A gold that cannot be read says nothing of a response: neither right nor wrong.
            correct = [float(verdict.equal) if verdict.judges else None for verdict in verdicts]
            shares: dict[str, list[Any]] = {
                "correct": [hit for hit in correct if hit is not None],
                "format_valid": [trace.is_valid for trace in traces],
                "parallel_ratio": [trace.uses_parallel for trace in traces],
            }
            self.batch = {
                "problem": columns["problem"],
                "answer": columns["answer"],
                "level": columns.get("level", [None] * len(completions)),
                "extracted": extracted,
                "verdict": [str(verdict.reason) for verdict in verdicts],
                "correct": correct,
                "parallel": [float(hit) for hit in shares["parallel_ratio"]],
                "text": completions,
                "token_ids": completion_ids,
                "length": [len(ids) for ids in completion_ids],
                "critical_path": columns.get("critical_path", [None] * len(completions)),
                "truncated": truncated,
                "faults": [[fault.kind.value for fault in trace.faults] for trace in traces],
            }
            for name, hits in shares.items():
                if hits:
                    columns["log_metric"](name, sum(hits) / len(hits))
            return reward(completions=completions, completion_ids=completion_ids, **columns)

        return observed

    def keep(self, trainer: GRPOTrainer) -> None:
        """Take over the generation that was just scored."""
        logs, size = trainer._logs, trainer.num_generations
        rows = gather_object(_rows(self.batch))  # in the order of the processes, as TRL's own
        paid = {
            f"reward_{name.removesuffix('_reward')}": [None if math.isnan(paid) else paid for paid in values]
            for name, values in logs["rewards"].items()
        }
        earlier = len(self.rows) // size
        self.labels = self._labels(trainer.state.global_step)
        scored = _rows({"advantage": logs["advantages"], **paid})
        for index, (row, score) in enumerate(zip(rows, scored, strict=True)):
            self.rows.append(row | score | {"group": earlier + index // size} | self.labels)
        if self.staging:
            self.staging.observe(
                [row["correct"] == 1 for row in rows], [row["parallel"] == 1 for row in rows]
            )

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.folder.log_samples(state.global_step, self.rows)
        self.rows = []

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        if logs is not None and "loss" in logs:
            logs |= self.labels

    def _labels(self, step: int) -> dict[str, str]:
        """Stage and phase of the reward schedule, where there are any."""
        labels = {"stage": self.staging.curriculum.stage.name} if self.staging else {}
        if self.alternating and (not self.staging or self.staging.pays("alternating")):
            labels["phase"] = self.alternating.phase(step)
        return labels


def _rows(columns: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _load(
    arguments: RLArguments, dataset: str, split: str, limit: int | None, seed: int
) -> list[dict[str, Any]]:
    rows = load_rows(
        dataset,
        split=split,
        need=("problem", "answer"),
        limit=limit,
        seed=seed,
        on_bad=arguments.on_bad_rows,
        graded=True,
    )
    return [
        {
            "prompt": render_prompt(row["problem"], arguments.prompt_style, row.get("history")),
            "problem": transcript(row["problem"], row.get("history")),
            "answer": row["answer"],
            "level": row.get("level"),
        }
        for row in rows
    ]


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
