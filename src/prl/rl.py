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
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from datasets import Dataset

from prl import runs
from prl.answers import default_checker
from prl.console import announce, batches_bar, console, quiet_libraries
from prl.curriculum import COLD_START, Curriculum, Stage, rewards_of
from prl.decoding import ForkJoinDecoder, Limits, Sampling, row_seed
from prl.decoding.context import context_of
from prl.errors import UsageError, nearest
from prl.grammar import render
from prl.machine import environment
from prl.machine.fitting import check_fits, extent_of_prompts, merges
from prl.machine.halving import advise, halving
from prl.model import (
    TAGS_ARE,
    check_forks,
    check_loadable,
    describe,
    make_optimizer,
    save_adapter,
    tag_ids,
    tags_of,
)
from prl.rewards import AlternatingReward, Reward, read_pattern, reward_functions
from prl.rewards.own import OwnReward, RewardFunction, code_fingerprint, own_rewards, with_columns
from prl.runs import checkpoints, processes
from prl.settings import Settings
from prl.settings.arguments import RLArguments
from prl.settings.stages import read_stages
from prl.trainer.grpo import GRPO
from prl.trainer.micro_batches import MicroBatches
from prl.trainer.problems import (
    Cells,
    Problems,
    all_of,
    check_problems,
    load_held_out,
    load_problems,
    within_context,
)
from prl.trainer.recorder import SampleRecorder
from prl.trainer.rehearsal import rehearse_rl
from prl.trainer.rollouts import Rollouts
from prl.trainer.setup import load_trained, open_training
from prl.trainer.staging import Staging
from prl.trainer.training import finish, train

if TYPE_CHECKING:  # its import would bring bitsandbytes before prl.console has silenced it
    from transformers import PreTrainedTokenizerBase, TrainerCallback

REHEARSED = render(["1", "2"], "3")
"""What the rehearsal writes: a block, so that paths are kept apart."""


@dataclass(frozen=True)
class RLResult:
    """Where the adapter is, and the last metrics that were logged."""

    folder: Path
    metrics: dict[str, float]


def run(
    settings: Settings[RLArguments],
    *,
    rewards: Sequence[RewardFunction] = (),
    callbacks: Sequence[TrainerCallback] = (),
) -> RLResult:
    """Train on the problems of `settings` and write the run folder. Raises PrlError for what the user can
    mend.

    `rewards` are functions of your own (`prl.rewards.own`), paid in every stage besides those of `settings`,
    each with a weight of 1. `callbacks` are of transformers; what they add to the logs is kept in the run.
    """
    quiet_libraries()
    environment.keep()
    stages = stages_of(settings.arguments, settings.trainer.max_steps)
    settings, tags, merged = _settled(settings, len(rewards))
    arguments, training = settings.arguments, settings.trainer
    own = _own(settings, stages, rewards)
    # Data before the model, which takes minutes to load; the folder once nothing in them is wrong.
    cells: Cells | None = [] if own else None
    problems = load_problems(arguments, stages, training.seed, cells)
    held_out = load_held_out(arguments, training.seed, cells)
    called = {name: with_columns(each, name, cells or []) for name, each in own.items()}
    check_problems(arguments, stages, problems, training)
    check_fits(settings)
    default_checker().start()
    read, read_too = all_of(problems.table, cells), all_of(held_out, cells)
    with open_training(settings, read, read_too, own_rewards=code_fingerprint(own)) as folder:
        model, tokenizer = load_trained(settings, folder, tags)
        problems, held_out, facts = _told(settings, folder, model, tokenizer, stages, problems, held_out)
        # The rewards before the curriculum, which switches them; the recorder tells it what came of its draw.
        paid = paid_rewards(settings, stages, tokenizer, called)
        alternating = cast(AlternatingReward | None, paid.get("alternating"))
        staging = _staging(settings, stages, problems, alternating, [*own])
        advised = functools.partial(advise, settings)
        rollouts = None if training.use_vllm else _rollouts(settings, merged, advised)
        trainer = GRPO(
            model,
            training,
            staging.staged(paid) if staging else paid,
            Dataset.from_list(problems.table),
            Dataset.from_list(held_out) if held_out else None,
            tokenizer,
            make_optimizer(model, training, arguments.tag_learning_rate),
            folder,
            recorder=SampleRecorder(folder, tokenizer, staging, alternating, arguments.path_opening),
            micro_batches=MicroBatches(advised, _rehearsal(arguments, problems, rollouts)),
            rollouts=rollouts,
            staging=staging,
            dynamic_sampling=arguments.dynamic_sampling,
            live_rate=arguments.live_rate,
            patience=arguments.patience,
            wrong_paths=arguments.wrong_paths,
            line=_line,
            is_adaptive=arguments.sampling == "adaptive" or bool(arguments.stages),
            callbacks=callbacks,
        )
        if folder.checkpoint:
            trainer.restore(folder.checkpoint)
        elif staging and arguments.probe_samples:
            probe(settings, model, tokenizer, staging, folder)
        try:
            train(trainer, folder.checkpoint, folder.changed)
        finally:
            trainer.wind_up()
        save_adapter(trainer.model, tokenizer, folder.folder / "adapter")
        metrics = finish(trainer, folder, facts)
    console.print(f"adapter: {folder.folder / 'adapter'}", markup=False)
    return RLResult(folder.folder, metrics)


def _settled(settings: Settings[RLArguments], own: int) -> tuple[Settings[RLArguments], str, bool]:
    """`settings` with what follows from the model: the tags, which a resumed run keeps as it began with them,
    and dropout; how the tags are written; and whether rollouts merge the adapter. `own` rewards more than
    they name each weigh 1."""
    arguments, training = settings.arguments, copy(settings.trainer)  # the trainer changes it
    check_loadable(arguments.model_name_or_path, trust_remote_code=training.trust_remote_code)
    start = _checkpoint(arguments, training) or arguments.model_name_or_path
    tags = tags_of(start, trust_remote_code=training.trust_remote_code)
    check_forks(start, tags, arguments.attention)
    if tags == "text" and arguments.wrong_paths == "judged":
        raise UsageError(
            f"wrong_paths judged: {start} was never trained on the tags, which say where a path is: train "
            "it on traces first (`prl sft`), or leave --wrong_paths out"
        )
    chosen = settings.chosen | {"tags": TAGS_ARE[tags].format(start)}
    if arguments.lora_dropout and training.disable_dropout:
        told = f"off in rl, which scores what it sampled; the adapter's {arguments.lora_dropout:g} is sft's"
        chosen |= {"dropout": told}
    merged, why = merges(settings)
    if why:
        chosen |= {"rollout_weights": why}
    if training.reward_weights is not None:
        training.reward_weights = [*training.reward_weights, *[1.0] * own]
    return replace(settings, chosen=chosen, trainer=training), tags, merged


def _rollouts(settings: Settings[RLArguments], merged: bool, advised: Callable[[], str]) -> Rollouts:
    arguments = settings.arguments
    return Rollouts(
        Limits.of(arguments, settings.trainer.max_completion_length),
        batch_size=arguments.rollout_batch_size,
        merges=merged,
        is_watched=arguments.rollout_weights == "auto",
        advise=advised,
    )


def _own(
    settings: Settings[RLArguments], stages: Sequence[Stage], functions: Sequence[RewardFunction]
) -> dict[str, OwnReward]:
    """The user's rewards. UsageError where the best evaluation is to be told by a reward, of theirs or not,
    that trl 1.16 logs under another name, or that not every stage pays."""
    own = own_rewards(settings.arguments.rewards, functions)
    metric = (settings.trainer.metric_for_best_model or "").removeprefix("eval_")
    if not metric.startswith("rewards/"):
        return own
    default = settings.arguments.rewards
    always = [
        name
        for name in rewards_of(stages, default, [*own])
        if name in own or all(name in (stage.rewards or default) for stage in stages)
    ]
    logged = [own[name].pay.__name__ if name in own else f"{name}_reward" for name in always]
    known = [f"rewards/{name}/{measure}" for name in logged for measure in ("mean", "std")]
    if metric not in known:
        raise UsageError(
            f"metric_for_best_model: {metric!r} is no reward that an evaluation measures in every stage: "
            f"{', '.join(known)}{nearest(metric, known)}"
        )
    return own


def _told(
    settings: Settings[RLArguments],
    folder: runs.Run,
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    stages: Sequence[Stage],
    problems: Problems,
    held_out: list[dict[str, Any]],
) -> tuple[Problems, list[dict[str, Any]], dict[str, Any]]:
    """Problems and held-out ones that fit the model's context, and the facts of the run, once they are told.
    Raises DataError where too few are left, RunError where they will not fit the memory."""
    arguments, training = settings.arguments, settings.trainer
    fitting = functools.partial(
        within_context,
        tokenizer=tokenizer,
        context=context_of(model.config),
        completion=training.max_completion_length,
    )
    read, (problems, left_out) = len(problems.table), fitting(problems)
    facts = describe(model) | {"problems": len(problems.table)}
    if left_out:
        facts["beyond_context"] = read - len(problems.table)
    announce("rl", settings.chosen | folder.changed, {"model": arguments.model_name_or_path, **facts})
    if left_out:
        console.print(f"  left out: {left_out}", markup=False)
        check_problems(arguments, stages, problems, training)
    extent = extent_of_prompts([row["prompt"] for row in problems.table], tokenizer)
    if held_out:
        kept, left_out = fitting(Problems(held_out, []))
        held_out = kept.table
        if left_out:
            console.print(f"  left out of --eval_dataset: {left_out}", markup=False)
        group = training.num_generations_eval or training.num_generations
        evaluated = extent_of_prompts([row["prompt"] for row in held_out], tokenizer, group)
        extent = replace(extent, held_out=evaluated.rows, longest_held_out=evaluated.longest)
    check_fits(settings, extent)
    return problems, held_out, facts


def paid_rewards(
    settings: Settings[RLArguments],
    stages: Sequence[Stage],
    tokenizer: PreTrainedTokenizerBase,
    own: Mapping[str, Reward],
) -> dict[str, Reward]:
    """All that some stage pays, by name, in the order of --reward_weights; `own` ones, which each pays, stand
    where they are named, those of a Python caller last."""
    arguments = settings.arguments
    names = rewards_of(stages, arguments.rewards, [*own])
    shipped = reward_functions(
        [name for name in names if name not in own],
        eos_token_id=tokenizer.eos_token_id,
        tag_ids=tag_ids(tokenizer) or None,
        max_completion_length=settings.trainer.max_completion_length,
        overlong_buffer=arguments.overlong_buffer,
        pattern=read_pattern(arguments.alternate, arguments.alternate_window)[0],
        path_opening=arguments.path_opening,
    )
    return {name: own[name] if name in own else shipped[name] for name in names}


def _staging(
    settings: Settings[RLArguments],
    stages: Sequence[Stage],
    problems: Problems,
    alternating: AlternatingReward | None,
    always: Sequence[str],
) -> Staging | None:
    """The curriculum of `stages`, None where there are none: TRL's own order of problems."""
    if not stages:
        return None
    arguments, training = settings.arguments, settings.trainer
    curriculum = Curriculum(
        stages,
        problems.pools,
        [row["level"] for row in problems.table],
        seed=training.seed,
        group_size=training.num_generations,
        band=(arguments.band[0], arguments.band[1]),
    )
    return Staging(curriculum, problems.table, arguments.rewards, alternating, always)


def _rehearsal(
    arguments: RLArguments, problems: Problems, rollouts: Rollouts | None
) -> Callable[[MicroBatches], None] | None:
    """The longest generation and the longest step, None where --rehearse is off."""
    if arguments.rehearse != "on":
        return None
    prompts = list(dict.fromkeys(row["prompt"] for row in problems.table))

    def rehearse(micro_batches: MicroBatches) -> None:
        trainer = micro_batches.trainer
        decode = functools.partial(rollouts.rehearse, trainer) if rollouts else lambda prompt: None
        rehearse_rl(micro_batches, prompts, REHEARSED, decode)

    return rehearse


def stages_of(arguments: RLArguments, max_steps: int) -> tuple[Stage, ...]:
    """The stages of a recipe; one, where only levels or sampling are asked for; none for TRL's own order."""
    stages: tuple[Stage, ...] = ()
    if arguments.stages:  # their faults were told when the settings were read
        stages, _ = read_stages([json.loads(stage) for stage in arguments.stages], max_steps=max_steps)
    if any(stage.name == COLD_START for stage in stages):
        raise UsageError("stages: cold-start is no RL; `prl rl` and prl.study.pipeline.run do it first")
    if not stages and (arguments.levels or arguments.sampling != "uniform" or arguments.dynamic_sampling):
        return (Stage("rl", levels=tuple(arguments.levels or ()), sampling=arguments.sampling),)
    return stages


def _checkpoint(arguments: RLArguments, training: Any) -> Path | None:
    """What a run that is resumed goes on from: it keeps the tags as it began with them."""
    if not arguments.resume:
        return None
    kept = reversed(checkpoints.checkpoints(training.output_dir))
    return next((each for each in kept if not checkpoints.fault(each)), None)


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
    with batches_bar("probe", len(rows) * samples) as on_batch:
        answers, _ = halving(
            lambda size: ForkJoinDecoder(
                model,
                tokenizer,
                limits=Limits.of(arguments, training.max_completion_length),
                sampling=Sampling.of(training),
                batch_size=size,
            ).generate(prompts, seeds=seeds, on_batch=on_batch),
            arguments.rollout_batch_size or training.generation_batch_size // processes.launched(),
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
