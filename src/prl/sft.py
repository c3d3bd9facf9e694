"""The cold start: supervised fine-tuning on parallel traces (`prl sft`, Parallel-R1 section 3.2).

TRL's SFTTrainer on a LoRA adapter, with the loss on what the model will have to sample: not on the prompt,
nor, with structured attention, on what the decoder inserts. Differs from a plain SFT script in that prompts
are rendered and tokenised here, the same way as in RL and evaluation, and that at every evaluation some
responses are sampled: a falling loss does not say whether the model can hold the format on its own.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Mapping, Sequence, Sized
from copy import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import PreTrainedTokenizerBase, TrainerCallback
from trl import SFTTrainer

from prl import runs
from prl.console import announce, console, quiet_libraries
from prl.data.hub import load_rows
from prl.decoding import ForkJoinDecoder, Limits
from prl.decoding.context import beyond, context_of
from prl.errors import DataError, UsageError
from prl.grammar import FaultKind, canonical_layout, parse
from prl.machine import environment
from prl.machine.fitting import Extent, check_fits
from prl.machine.halving import Advise, advise, halving
from prl.model import (
    Lora,
    check_loadable,
    describe,
    load_model,
    make_optimizer,
    resolve_attention,
    save_adapter,
)
from prl.prompts import render_prompt, render_response, transcript
from prl.runs import processes
from prl.settings import Settings
from prl.settings.arguments import SFTArguments
from prl.structure import Tags, attached_structure, forced_tokens
from prl.trainer import resuming
from prl.trainer.micro_batches import MicroBatches
from prl.trainer.progress import RunLog, take_over
from prl.trainer.rehearsal import rehearse_sft
from prl.trainer.training import (
    SealCheckpoints,
    StopOnSignal,
    TokenCount,
    check_router,
    of_best,
    settle_ddp,
    train,
)

HELD_OUT_SHARE, HELD_OUT_MOST = 0.1, 128
"""Traces kept from training for the evaluations, where no --eval_dataset is given."""


@dataclass(frozen=True)
class SFTResult:
    """Where the adapter is and what the last evaluation said (held-out loss, format validity, parallel
    ratio)."""

    folder: Path
    metrics: dict[str, float]


def run(settings: Settings[SFTArguments]) -> SFTResult:
    """Train an adapter on the traces of `settings` and write the run folder. Raises PrlError for what the
    user can mend."""
    quiet_libraries()
    environment.keep()
    arguments, training = settings.arguments, copy(settings.trainer)  # SealCheckpoints changes it
    check_loadable(arguments.model_name_or_path, trust_remote_code=training.trust_remote_code)
    rows = _load(arguments, arguments.dataset, arguments.dataset_split, arguments.limit, training.seed)
    if arguments.eval_dataset:
        held_out = _load(
            arguments,
            arguments.eval_dataset,
            arguments.eval_dataset_split,
            arguments.eval_limit,
            training.seed,
        )
    else:
        rows, held_out = hold_out(rows, arguments.eval_limit)
    check_fits(settings)

    _check_evaluated(held_out, training)
    inputs = {
        "dataset": resuming.of_rows(rows),
        "eval_dataset": resuming.of_rows(held_out),
        "model": resuming.of_model(arguments.model_name_or_path),
    }
    with runs.open_run(
        training.output_dir,
        stage="sft",
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
            tags="tokens",
        )
        check_router(training, model)
        ForkJoinDecoder(model, tokenizer)  # tries the model: before it trains, not at its first evaluation
        tokenized = functools.partial(
            tokenize,
            tokenizer=tokenizer,
            prompt_style=arguments.prompt_style,
            max_length=training.max_length,
            tags=attached_structure(model),
            paths=arguments.paths,
            context=(context := context_of(model.config)),
        )
        is_cut_anywhere = training.packing and training.packing_strategy == "wrapped"
        if context and is_cut_anywhere and training.max_length > context:
            raise UsageError(
                f"packing_strategy wrapped fills rows of --max_length {training.max_length} tokens, beyond "
                f"the model's context of {context}: lower it to that, or use bfd"
            )
        train_set, left_out = tokenized(rows)
        eval_set, not_held_out = tokenized(held_out)
        check_fits(settings, extent_of(train_set, eval_set, training))
        _check_evaluated(eval_set, training)
        facts = describe(model) | {"traces": len(train_set), "held_out": len(eval_set)} | left_out
        if any(not_held_out.values()):
            facts["held_out_left_out"] = sum(not_held_out.values())
        announce("sft", settings.chosen | folder.changed, {"model": arguments.model_name_or_path, **facts})

        advised = functools.partial(advise, settings)
        asked = [
            render_prompt(row["problem"], arguments.prompt_style, row.get("history")) for row in held_out
        ]
        # A long trace may fill the context; what is asked leaves a response half of it, or all it may take.
        wanted = training.max_length or 512
        unasked = beyond(asked, tokenizer, context, min(wanted, (context or 0) // 2))
        sampled = [row for i, row in enumerate(held_out) if i not in unasked][: arguments.sample_count]
        sampler = FormatSampler(folder, tokenizer, sampled, arguments, training, advised, context)
        log, sealing, stop = RunLog(folder, _line), SealCheckpoints(training), StopOnSignal()
        tokens = TokenCount()
        micro_batches = MicroBatches(advised, rehearse_sft if arguments.rehearse == "on" else None)
        settle_ddp(training, model)
        trainer = SFTTrainer(
            model=model,
            args=training,
            train_dataset=train_set,
            eval_dataset=eval_set if len(eval_set) else None,
            processing_class=tokenizer,
            optimizers=(make_optimizer(model, training, arguments.tag_learning_rate), None),
            callbacks=[micro_batches, log, sampler, tokens, sealing, stop],
        )
        take_over(trainer)
        micro_batches.watch(trainer)
        tokens.trainer = trainer
        if folder.checkpoint:
            tokens.restore(folder.checkpoint)
            micro_batches.restore(folder.checkpoint)
        try:
            train(trainer, folder.checkpoint)
        finally:
            log.bar.stop()
            stop.raise_if_stopped()
        save_adapter(trainer.model, tokenizer, folder.folder / "adapter")
        best = of_best(trainer, folder)
        evaluated = best or any("eval_loss" in entry for entry in trainer.state.log_history[-2:])
        if len(eval_set) and not evaluated:
            trainer.evaluate()
        latest = log.latest | sampler.latest | best
        metrics = {name: value for name, value in latest.items() if isinstance(value, float)}
        folder.finish({**facts, **metrics})
    console.print(f"adapter: {folder.folder / 'adapter'}", markup=False)
    return SFTResult(folder.folder, metrics)


def hold_out(
    rows: list[dict[str, Any]], most: int | None
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Split off the last tenth of the rows (one at least, `most` or 128 at most) for the evaluations."""
    most = min(HELD_OUT_MOST if most is None else most, len(rows) - 1)
    count = min(max(1, int(len(rows) * HELD_OUT_SHARE)), most)
    return rows[: len(rows) - count], rows[len(rows) - count :]


def extent_of(train_set: Dataset, eval_set: Dataset, training: Any) -> Extent:
    """The rows that a batch can have, and their length: where they are packed, that of the packs."""
    lengths, held_out = (
        [len(ids) for ids in each["input_ids"]] if len(each) else [0] for each in (train_set, eval_set)
    )
    rows, longest = len(lengths), max(lengths)
    if training.packing and training.max_length:
        rows, longest = -(-sum(lengths) // training.max_length), min(training.max_length, sum(lengths))
    return Extent(-(-rows // processes.launched()), longest, len(eval_set), max(held_out))


def _check_evaluated(rows: Sized, training: Any) -> None:
    if not len(rows) and training.eval_strategy != "no":
        raise DataError(
            f"no rows are left to evaluate on, --eval_strategy is {training.eval_strategy.value}: "
            "raise --eval_limit, or pass --eval_strategy no"
        )


def tokenize(
    rows: Sequence[Mapping[str, Any]],
    tokenizer: PreTrainedTokenizerBase,
    prompt_style: str,
    max_length: int | None,
    *,
    tags: Tags | None = None,
    paths: str = "2",
    context: int | None = None,
) -> tuple[Dataset, dict[str, int]]:
    """Rows as `input_ids` and `labels` (-100 where no loss is wanted); and how many were left out, by reason.

    Prompt and response are tokenised apart, as they are at generation. A trace longer than `max_length` is
    left out whole: cut short, it would teach to leave a block open. So is one longer than the model's
    `context`. Raises DataError when none is left.

    With the `tags` of structured attention, blocks are laid out as the decoder lays them out, there is no
    loss on what it inserts by itself when it decodes with `paths`, and a trace with a nested `<Parallel>` is
    left out: its inner `</Parallel>` would close the outer block.
    """
    examples, longest, shortest = [], 0, sys.maxsize
    left_out = {"too_long": 0} | ({"nested": 0} if tags else {})
    for row in rows:
        trace = canonical_layout(row["trace"]) if tags else row["trace"]
        if tags and any(fault.kind == FaultKind.NESTED_BLOCK for fault in parse(trace).faults):
            left_out["nested"] += 1
            continue
        prompt = tokenizer(
            render_prompt(row["problem"], prompt_style, row.get("history")), add_special_tokens=False
        )["input_ids"]
        response = tokenizer(render_response(trace), add_special_tokens=False)["input_ids"]
        length = len(prompt) + len(response)
        longest, shortest = max(longest, length), min(shortest, length)
        if max_length is not None and length > max_length:
            left_out["too_long"] += 1
            continue
        if context is not None and length > context:
            left_out["beyond_context"] = left_out.get("beyond_context", 0) + 1
            continue
        forced = forced_tokens(response, tags, paths=paths) if tags else [False] * len(response)
        learned = [-100 if is_forced else token for token, is_forced in zip(response, forced, strict=True)]
        examples.append({"input_ids": prompt + response, "labels": [-100] * len(prompt) + learned})
    if rows and not examples:
        if left_out.get("beyond_context"):
            raise DataError(
                f"no trace fits the model's context of {context:,} tokens, the shortest has {shortest:,} "
                "with its prompt: take shorter ones, or another --model_name_or_path"
            )
        if not left_out["too_long"]:
            raise DataError(
                f"all {len(rows)} traces have a nested <Parallel>, which structured attention cannot hold: "
                "give others, or use --attention causal"
            )
        raise DataError(
            f"no trace fits --max_length {max_length}, the longest has {longest} tokens: raise it"
        )
    return Dataset.from_list(examples), left_out


class FormatSampler(TrainerCallback):
    """At every evaluation, answers some held-out problems and logs how many responses hold the format.

    `eval_format_valid`: share without a fault; `eval_parallel_ratio`: share with a valid block (Parallel-R1,
    section 4).
    """

    def __init__(
        self,
        folder: runs.Run,
        tokenizer: PreTrainedTokenizerBase,
        rows: Sequence[Mapping[str, Any]],
        arguments: SFTArguments,
        training: Any,
        advise: Advise,
        context: int | None,
    ) -> None:
        self.folder, self.tokenizer, self.rows, self.seed = folder, tokenizer, rows, training.seed
        self.prompts = [
            render_prompt(row["problem"], arguments.prompt_style, row.get("history")) for row in rows
        ]
        paths = int(arguments.paths) if arguments.paths.isdecimal() else arguments.paths
        most = training.max_length or 512
        if context and rows:
            ids = tokenizer(self.prompts, add_special_tokens=False)["input_ids"]
            most = min(most, context - max(map(len, ids)))
        self.limits = Limits(max_new_tokens=most, paths=paths)
        self.batch_size, self.advise = training.per_device_eval_batch_size, advise
        self.latest: dict[str, float] = {}

    def on_evaluate(
        self,
        args: Any,
        state: Any,
        control: Any,
        model: Any = None,
        metrics: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        if not self.rows:
            return
        answers, self.batch_size = halving(
            lambda size: ForkJoinDecoder(model, self.tokenizer, limits=self.limits, batch_size=size).generate(
                self.prompts, seed=self.seed
            ),
            self.batch_size,
            "responses side by side:",
            self.advise,
        )
        traces = [parse(response.text, truncated=response.truncated) for (response,) in answers]
        self.latest = {
            "eval_format_valid": sum(trace.is_valid for trace in traces) / len(traces),
            "eval_parallel_ratio": sum(trace.uses_parallel for trace in traces) / len(traces),
        }
        if metrics is not None:
            metrics |= self.latest  # --metric_for_best_model may name one of them
        self.folder.log_metrics(state.global_step, self.latest)
        self.folder.log_samples(
            state.global_step,
            [
                {
                    "problem": transcript(row["problem"], row.get("history")),
                    "answer": row.get("answer"),
                    "text": response.text,
                    "token_ids": response.token_ids,
                    "length": len(response.token_ids),
                    "truncated": response.truncated,
                    "faults": [fault.kind.value for fault in trace.faults],
                }
                for row, (response,), trace in zip(self.rows, answers, traces, strict=True)
            ],
        )
        console.print(
            f"  sampled {len(traces)}: valid format {self.latest['eval_format_valid']:.0%}, "
            f"parallel {self.latest['eval_parallel_ratio']:.0%}",
            markup=False,
        )


def _load(
    arguments: SFTArguments, dataset: str, split: str, limit: int | None, seed: int
) -> list[dict[str, Any]]:
    return load_rows(
        dataset, split=split, need=("problem", "trace"), limit=limit, seed=seed, on_bad=arguments.on_bad_rows
    )


def _line(logs: Mapping[str, Any]) -> str:
    if "eval_loss" in logs:
        return f"held-out loss {logs['eval_loss']:.4f}"
    return f"loss {logs['loss']:.4f}  lr {logs['learning_rate']:.1e}" if "loss" in logs else ""
