"""The cold start: supervised fine-tuning on parallel traces (`prl sft`, Parallel-R1 section 3.2).

TRL's SFTTrainer on a LoRA adapter, with the loss on what the model will have to sample: not on the prompt,
nor on paths that are there to be decided against (`prl.data.targets`), nor, with structured attention, on
what the decoder inserts. Differs from a plain SFT script in that prompts are rendered and tokenised here, the
same way as in RL and evaluation, and that at every evaluation some responses are sampled: a falling loss does
not say whether the model can hold the format on its own.
"""

from __future__ import annotations

import functools
import json
import sys
from collections import Counter
from collections.abc import Mapping, Sequence, Sized
from copy import copy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from datasets import Dataset

from prl.console import announce, console, quiet_libraries
from prl.data import targets
from prl.data.columns import CONTEXT_PATHS
from prl.data.hub import load_rows
from prl.decoding import ForkJoinDecoder
from prl.decoding.context import beyond, context_of
from prl.errors import DataError, UsageError
from prl.grammar import TAGS, FaultKind, canonical_layout, parse, with_openings
from prl.machine import environment
from prl.machine.fitting import Extent, check_fits
from prl.machine.halving import advise
from prl.model import check_loadable, describe, make_optimizer, save_adapter
from prl.prompts import render_prompt, render_response
from prl.runs import processes
from prl.settings import Settings
from prl.settings.arguments import SFTArguments
from prl.structure import Opener, Tags, attached_structure, context_tokens, forced_tokens, response_ids
from prl.trainer.format_sampler import FormatSampler
from prl.trainer.micro_batches import MicroBatches
from prl.trainer.packing import shared_by_all
from prl.trainer.rehearsal import rehearse_sft
from prl.trainer.resuming import as_begun
from prl.trainer.setup import load_trained, open_training
from prl.trainer.sft import SFT
from prl.trainer.training import finish, of_best, train

if TYPE_CHECKING:  # its import would bring bitsandbytes before prl.console has silenced it
    from transformers import PreTrainedTokenizerBase, TrainerCallback

HELD_OUT_SHARE, HELD_OUT_MOST = 0.1, 128
"""Traces kept from training for the evaluations, where no --eval_dataset is given."""


@dataclass(frozen=True)
class SFTResult:
    """Where the adapter is and what the last evaluation said (held-out loss, format validity, parallel
    ratio)."""

    folder: Path
    metrics: dict[str, float]


def run(settings: Settings[SFTArguments], *, callbacks: Sequence[TrainerCallback] = ()) -> SFTResult:
    """Train an adapter on the traces of `settings` and write the run folder. Raises PrlError for what the
    user can mend.

    `callbacks` are of transformers; what they add to the logs is kept in the run.
    """
    quiet_libraries()
    environment.keep()
    settings = replace(as_begun(settings), trainer=copy(settings.trainer))  # the trainer changes it
    arguments, training = settings.arguments, settings.trainer
    check_loadable(arguments.model_name_or_path, trust_remote_code=training.trust_remote_code)
    # Data before the model, which takes minutes to load; the folder once nothing in them is wrong.
    rows, held_out = _load_both(arguments, training)
    check_fits(settings)
    _check_evaluated(held_out, training)
    with open_training(settings, rows, held_out) as folder:
        model, tokenizer = load_trained(settings, folder, "tokens")
        ForkJoinDecoder(model, tokenizer)  # tries the model: before it trains, not at its first evaluation
        train_set, eval_set, facts = _tokenize_both(settings, model, tokenizer, rows, held_out)
        announce("sft", settings.chosen | folder.changed, {"model": arguments.model_name_or_path, **facts})
        advised, context = functools.partial(advise, settings), context_of(model.config)
        sampled = _askable(held_out, tokenizer, arguments, training, context)[: arguments.sample_count]
        sampler = FormatSampler(folder, tokenizer, sampled, arguments, training, advised, context)
        trainer = SFT(
            model,
            training,
            train_set,
            eval_set if len(eval_set) else None,
            tokenizer,
            make_optimizer(model, training, arguments.tag_learning_rate),
            folder,
            sampler=sampler,
            micro_batches=MicroBatches(advised, rehearse_sft if arguments.rehearse == "on" else None),
            line=_line,
            callbacks=callbacks,
        )
        if folder.checkpoint:
            trainer.restore(folder.checkpoint)
        try:
            train(trainer, folder.checkpoint, folder.changed)
        finally:
            trainer.wind_up()
        save_adapter(trainer.model, tokenizer, folder.folder / "adapter")
        # DONE says how good the adapter is that stays: the last one, or the best.
        last = trainer.state.log_history[-2:]
        if len(eval_set) and not (of_best(trainer, folder) or any("eval_loss" in entry for entry in last)):
            trainer.evaluate()
        metrics = finish(trainer, folder, facts, sampler.latest)
    console.print(f"adapter: {folder.folder / 'adapter'}", markup=False)
    return SFTResult(folder.folder, metrics)


def _load_both(arguments: SFTArguments, training: Any) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Rows to train on, and those to evaluate on: their own data set, or some held out."""
    rows = _load(arguments, arguments.dataset, arguments.dataset_split, arguments.limit, training.seed)
    if not arguments.eval_dataset:
        return hold_out(rows, arguments.eval_limit)
    split, limit = arguments.eval_dataset_split, arguments.eval_limit
    return rows, _load(arguments, arguments.eval_dataset, split, limit, training.seed)


def _tokenize_both(
    settings: Settings[SFTArguments],
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[Mapping[str, Any]],
    held_out: Sequence[Mapping[str, Any]],
) -> tuple[Dataset, Dataset, dict[str, Any]]:
    """`tokenize` of both, and the facts of the run. Raises DataError where nothing is left, UsageError for
    rows longer than the model's context, RunError where they will not fit the memory."""
    arguments, training = settings.arguments, settings.trainer
    context = context_of(model.config)
    is_cut_anywhere = training.packing and training.packing_strategy == "wrapped"
    if context and is_cut_anywhere and training.max_length > context:
        raise UsageError(
            f"packing_strategy wrapped fills rows of --max_length {training.max_length} tokens, beyond "
            f"the model's context of {context}: lower it to that, or use bfd"
        )
    tokenized = functools.partial(
        tokenize,
        tokenizer=tokenizer,
        prompt_style=arguments.prompt_style,
        max_length=training.max_length,
        tags=attached_structure(model),
        paths=arguments.paths,
        path_opening=arguments.path_opening,
        context=context,
    )
    counts = Counter({} if arguments.wrong_paths == "learned" else {"context_paths": 0, "context_traces": 0})
    train_set, left_out = tokenized(rows, counts=counts)
    eval_set, not_held_out = tokenized(held_out)
    check_fits(settings, extent_of(train_set, eval_set, training))
    _check_evaluated(eval_set, training)
    facts = describe(model) | {"traces": len(train_set), "held_out": len(eval_set)}
    facts |= left_out | counts
    if any(not_held_out.values()):
        facts["held_out_left_out"] = sum(not_held_out.values())
    return train_set, eval_set, facts


def _askable(
    rows: Sequence[Mapping[str, Any]],
    tokenizer: PreTrainedTokenizerBase,
    arguments: SFTArguments,
    training: Any,
    context: int | None,
) -> list[Mapping[str, Any]]:
    """The rows whose problems leave a response room: a long trace may fill the context, what is asked leaves
    half of it, or all that a response may take."""
    asked = [
        render_prompt(row["problem"], arguments.prompt_style, row.get("history"), arguments.path_opening)
        for row in rows
    ]
    unasked = beyond(asked, tokenizer, context, min(training.max_length or 512, (context or 0) // 2))
    return [row for index, row in enumerate(rows) if index not in unasked]


def hold_out(
    rows: list[dict[str, Any]], most: int | None
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Rows to train on, and some to evaluate on: the last row of each of the last problems (one at least,
    `most` or 128 at most), as many as have a tenth of all rows together. What else there is of these problems
    is in neither: a loss would be that of what was learnt by heart."""
    asked = [json.dumps([row["problem"], row.get("history")]) for row in rows]
    rows_of, last = Counter(asked), {problem: index for index, problem in enumerate(asked)}
    most, room = HELD_OUT_MOST if most is None else most, max(1, int(len(rows) * HELD_OUT_SHARE))
    out: list[str] = []
    for problem in sorted(last, key=last.__getitem__, reverse=True):
        of = rows_of[problem]
        if len(out) == most or (out and of > room) or of == len(rows):
            break
        out.append(problem)
        room -= of
    held = {*out}
    kept = [row for row, problem in zip(rows, asked, strict=True) if problem not in held]
    return kept, [rows[last[problem]] for problem in reversed(out)]


def extent_of(train_set: Dataset, eval_set: Dataset, training: Any) -> Extent:
    """The rows that a batch can have, and their length: where TRL packs them, that of the packs."""
    lengths, held_out = (
        [len(ids) for ids in each["input_ids"]] if len(each) else [0] for each in (train_set, eval_set)
    )
    rows, longest = len(lengths), max(lengths)
    shared = shared_by_all(list(train_set["input_ids"])) if len(train_set) else 0
    if training.packing and training.max_length:
        rows, longest = -(-sum(lengths) // training.max_length), min(training.max_length, sum(lengths))
    return Extent(-(-rows // processes.launched()), longest, len(eval_set), max(held_out), shared)


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
    path_opening: str = "none",
    context: int | None = None,
    counts: Counter[str] | None = None,
) -> tuple[Dataset, dict[str, int]]:
    """Rows as `input_ids` and `labels` (-100 where no loss is wanted); and how many were left out, by reason.

    Prompt and response are tokenised apart, as they are at generation. A trace longer than `max_length` is
    left out whole: cut short, it would teach to leave a block open. So is one longer than the model's
    `context`. Raises DataError when none is left.

    There is no loss on a path that a row's `context_paths` name; `counts` takes up how many these are.

    With the `tags` of structured attention, blocks are laid out as the decoder lays them out, there is no
    loss on what it inserts by itself when it decodes with `paths`, and a trace with a nested `<Parallel>` is
    left out: its inner `</Parallel>` would close the outer block.

    With a `path_opening`, each path is made to begin with its own, which is tokenised apart from the rest and
    forced with structured attention, and text as any with causal. A trace in which a block has no plan of a
    line for each path is left out.
    """
    examples, longest, shortest = [], 0, sys.maxsize
    opener = Opener.of(path_opening, tokenizer) if tags else None
    left_out = {"too_long": 0} | ({"nested": 0} if tags else {})
    for row in rows:
        trace = render_response(canonical_layout(row["trace"]) if tags else row["trace"])
        if tags and any(fault.kind == FaultKind.NESTED_BLOCK for fault in parse(trace).faults):
            left_out["nested"] += 1
            continue
        if (opened := with_openings(parse(trace), path_opening)) is None:
            left_out["without_plan"] = left_out.get("without_plan", 0) + 1
            continue
        prompt = tokenizer(
            render_prompt(row["problem"], prompt_style, row.get("history"), path_opening),
            add_special_tokens=False,
        )["input_ids"]
        response = response_ids(opened, tokenizer, opener)
        length = len(prompt) + len(response)
        longest, shortest = max(longest, length), min(shortest, length)
        if max_length is not None and length > max_length:
            left_out["too_long"] += 1
            continue
        if context is not None and length > context:
            left_out["beyond_context"] = left_out.get("beyond_context", 0) + 1
            continue
        forced = [False] * len(response)
        if tags:
            forced = forced_tokens(response, tags, paths=paths, opener=opener)
        shown = _shown(response, row.get(CONTEXT_PATHS) or (), tokenizer, counts)
        learned = [-100 if any(off) else token for token, *off in zip(response, forced, shown, strict=True)]
        examples.append({"input_ids": prompt + response, "labels": [-100] * len(prompt) + learned})
    if rows and not examples:
        if left_out.get("beyond_context"):
            raise DataError(
                f"no trace fits the model's context of {context:,} tokens, the shortest has {shortest:,} "
                "with its prompt: take shorter ones, or another --model_name_or_path"
            )
        if not left_out["too_long"]:
            raise DataError(_unfit(len(rows), left_out))
        raise DataError(
            f"no trace fits --max_length {max_length}, the longest has {longest} tokens: raise it"
        )
    return Dataset.from_list(examples), left_out


def _shown(
    ids: Sequence[int],
    places: Sequence[int],
    tokenizer: PreTrainedTokenizerBase,
    counts: Counter[str] | None,
) -> list[bool]:
    """`context_tokens`; `counts` takes up how many paths they are, and in how many traces."""
    if places and counts is not None:
        counts.update({"context_paths": len(places), "context_traces": 1})
    return context_tokens(ids, places, tokenizer.convert_tokens_to_ids(list(TAGS)))


def _unfit(count: int, left_out: Mapping[str, int]) -> str:
    """Why none of `count` traces can be learned, whatever their length."""
    if left_out.get("without_plan"):
        return (
            f"{left_out['without_plan']} of {count} traces have a block without a plan, a paragraph with a "
            "line for each of its paths right before <Parallel>, and none is left: give others, or another "
            "--path_opening"
        )
    return (
        f"all {count} traces have a nested <Parallel>, which structured attention cannot hold: give others, "
        "or use --attention causal"
    )


def _load(
    arguments: SFTArguments, dataset: str, split: str, limit: int | None, seed: int
) -> list[dict[str, Any]]:
    rows = load_rows(
        dataset, split=split, need=("problem", "trace"), limit=limit, seed=seed, on_bad=arguments.on_bad_rows
    )
    return [targets.apply(row, arguments.wrong_paths, arguments.path_opening) for row in rows]


def _line(logs: Mapping[str, Any]) -> str:
    if "eval_loss" in logs:
        return f"held-out loss {logs['eval_loss']:.4f}"
    return f"loss {logs['loss']:.4f}  lr {logs['learning_rate']:.1e}" if "loss" in logs else ""
