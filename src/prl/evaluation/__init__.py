"""Evaluation on held-out problems: greedy and sampled, with 95 % intervals (`prl eval`), and answers to one
problem.

Every problem is answered once greedily and k times by sampling, some of them one at a time on one thread
(--latency). Reported, from the samples: accuracy, pass@k, maj@k, parallel ratio, format validity and lengths,
level by level too (`prl.analysis.metrics`); accuracy of single responses and of votes within budgets of
tokens, critical path and seconds (`prl.evaluation.frontiers`); and what the traces show
(`prl.analysis.describe`). What was interrupted goes on with --resume, to the same figures
(`prl.evaluation.keeping`).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from functools import partial
from typing import Any

import torch
from rich.markup import escape

from prl import runs
from prl.answers import default_checker
from prl.console import announce, console, quiet_libraries
from prl.data.hub import load_rows
from prl.decoding import ForkJoinDecoder, Limits, Response, Sampling
from prl.decoding.context import beyond, beyond_told, context_of
from prl.decoding.threads import OnToken
from prl.errors import DataError, RunError, UsageError
from prl.evaluation.asking import ask, ask_alone, modes_of, timed_of
from prl.evaluation.frontiers import draw, frontiers_of, tell, written
from prl.evaluation.keeping import Kept, check_same, inputs_of
from prl.evaluation.measuring import Measured, graded, judge, measure, ungraded_told
from prl.evaluation.results import EvalResult, read_result, read_results
from prl.machine.fitting import check_fits, extent_of_prompts
from prl.model import add_results, check_loadable, load_model, settle_tags
from prl.model.card import ASKED_BESIDES
from prl.prompts import render_prompt
from prl.report.tables import repeating_told, table, told
from prl.settings import Settings
from prl.settings.arguments import EvalArguments, GenerateArguments
from prl.statistics import Estimate, paired_difference

__all__ = [
    "EvalResult",
    "graded",
    "judge",
    "load",
    "paired_difference",
    "problems_of",
    "read_result",
    "read_results",
    "respond",
    "run",
]


def run(settings: Settings[EvalArguments]) -> EvalResult:
    """Evaluate a model and write the run folder with results.json; several `models` are evaluated by
    `prl.evaluation.several.run`. Raises PrlError for what the user can mend."""
    quiet_libraries()
    arguments = settings.arguments
    if arguments.models:
        raise UsageError("models: this evaluates one; prl.evaluation.several.run takes several")
    check_loadable(arguments.model_name_or_path, trust_remote_code=arguments.trust_remote_code)
    settings, tags = settle_tags(settings)
    arguments = settings.arguments
    rows, ungraded = problems_of(arguments)
    timed = timed_of(arguments, len(rows))
    # What cannot work is told before anything is written, and before minutes of loading and decoding.
    check_fits(settings)
    default_checker().start()
    with _open(settings, rows) as folder:
        model, tokenizer = load(settings, tags)
        announce(
            "eval",
            settings.chosen,
            {"model": arguments.model_name_or_path, "problems": len(rows), "samples": arguments.samples}
            | ({"one at a time": len(timed)} if timed else {}),
        )
        _say_engine(arguments.attention)
        if ungraded:
            console.print(f"  {ungraded_told(ungraded, len(rows) + len(ungraded))}", markup=False)
        prompts = _prompts(rows, arguments)
        unasked = _unasked(prompts, model, tokenizer, arguments)
        asked = [i for i in range(len(rows)) if i not in unasked]
        extent = extent_of_prompts([prompts[i] for i in asked], tokenizer, max(1, arguments.samples))
        check_fits(settings, extent)  # once more, now that the longest prompt is known
        kept = Kept(folder, rows, arguments.path_opening, tokenizer)
        if kept:
            console.print(f"  {len(kept)} samples are there already", style="dim")
        _answer(model, tokenizer, prompts, kept, asked, timed, arguments)
        measured = {
            mode: measure(mode, rows, kept.groups(mode, {*asked}, samples), arguments, timed)
            for mode, (samples, _) in modes_of(arguments).items()
        }
        folder.replace_samples(0, [sample for each in measured.values() for sample in each.samples])
        found = {
            f"{mode}/{name}": value for mode, each in measured.items() for name, value in each.metrics.items()
        }
        counts = {"unreadable_golds": len(ungraded), "beyond_context": len(unasked)}
        mode, last = [*measured.items()][-1]  # the samples, where there are any
        tables = frontiers_of({mode: last.samples}, resamples=arguments.bootstrap, seed=arguments.seed)
        results = _results(arguments, tags, found, measured, problems=len(rows), **counts)
        results["frontiers"] = written(mode, tables, models=1)
        runs.write_json(folder.folder / "results.json", results)
        draw({mode: last.samples}, folder.folder)
        folder.finish({name: estimate.mean for name, estimate in found.items()})
    _add_to_card(results)
    console.print(table(found, title=escape(_title(results))))
    for mode, each in measured.items():
        for line in told(each.described, each.votes, each.levels, each.verdicts, each.timing):
            console.print(f"  {mode}: {line}", style="dim", markup=False)
    _say_repeating(measured, arguments)
    tell(mode, tables, models=1)
    return EvalResult(folder.folder, found, results["scores"], results["analysis"])


def problems_of(arguments: EvalArguments) -> tuple[list[dict[str, Any]], list[tuple[str, str]]]:
    """The rows to evaluate on, each problem once, and what `graded` leaves out of them. Raises DataError."""
    loaded = load_rows(
        arguments.dataset,
        split=arguments.dataset_split,
        need=("problem", "answer"),
        limit=arguments.limit,
        seed=arguments.seed,
        on_bad=arguments.on_bad_rows,
        unique=True,
    )
    return graded(loaded, arguments.dataset)


def _open(settings: Settings[EvalArguments], rows: Sequence[dict[str, Any]]) -> runs.Run:
    arguments, inputs = settings.arguments, inputs_of(settings, rows)
    return runs.open_run(
        arguments.output_dir,
        command="eval",
        config=settings.as_dict(),
        resume=arguments.resume,
        overwrite=arguments.overwrite_output_dir,
        model=arguments.model_name_or_path,
        inputs=inputs,
        compare=partial(check_same, settings, inputs),
        by_samples=True,
    )


def _answer(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[str],
    kept: Kept,
    asked: Collection[int],
    timed: Collection[int],
    arguments: EvalArguments,
) -> None:
    """Decode what is left of the samples: all modes side by side, then of the problems that are timed."""
    for alone in (False, True):
        problems = [i for i in asked if (i in timed) == alone]
        for mode, (samples, temperature) in modes_of(arguments).items():
            decoder = ForkJoinDecoder(
                model,
                tokenizer,
                limits=Limits.of(arguments, arguments.max_completion_length),
                sampling=Sampling.of(arguments, temperature=temperature),
                batch_size=samples if alone else arguments.batch_size,
            )
            left = kept.left(mode, problems, samples, timed=alone)
            (ask_alone if alone else ask)(mode, decoder, prompts, kept, left, arguments.seed)


def _prompts(rows: Sequence[Mapping[str, Any]], given: EvalArguments) -> list[str]:
    return [
        render_prompt(row["problem"], given.prompt_style, row.get("history"), given.path_opening)
        for row in rows
    ]


def _unasked(prompts: Sequence[str], model: Any, tokenizer: Any, arguments: EvalArguments) -> Collection[int]:
    """The indices of prompts that leave the longest response no room, told. Raises DataError: all of them."""
    context, longest = context_of(model.config), arguments.max_completion_length
    if not (found := beyond(prompts, tokenizer, context, longest)):
        return ()
    told = beyond_told(found, len(prompts), context, longest)
    if len(found) == len(prompts):
        raise DataError(f"{arguments.dataset}: {told}; none is left")
    console.print(f"  not asked, and not solved in the accuracy: {told}", markup=False)
    return found


def _results(
    arguments: EvalArguments,
    tags: str,
    metrics: Mapping[str, Estimate],
    measured: Mapping[str, Measured],
    **counts: int,
) -> dict[str, Any]:
    """What results.json holds: what was asked, and what came out."""
    return {
        "model": arguments.model_name_or_path,
        "dataset": arguments.dataset,
        **counts,
        "samples": arguments.samples,
        "temperature": arguments.temperature,
        "max_completion_length": arguments.max_completion_length,
        "prompt_style": arguments.prompt_style,
        "attention": arguments.attention,
        "path_opening": arguments.path_opening,
        **{name: getattr(arguments, name) for name in ASKED_BESIDES},
        "tags": tags,
        "seed": arguments.seed,
        "metrics": {name: asdict(estimate) for name, estimate in metrics.items()},
        "scores": {mode: each.scores for mode, each in measured.items()},
        "analysis": {mode: each.described for mode, each in measured.items()},
        "votes": {mode: each.votes for mode, each in measured.items() if each.votes},
        "verdicts": {mode: each.verdicts for mode, each in measured.items()},
        "levels": {mode: each.levels for mode, each in measured.items() if each.levels},
        "timing": {mode: _timing(each.timing, arguments) for mode, each in measured.items() if each.timing},
    }


def _title(results: Mapping[str, Any]) -> str:
    """What the table of metrics is of."""
    title = f"{results['model']} on {results['problems']} problems"
    if results["beyond_context"]:
        title += f", {results['beyond_context']} of them not asked and not solved"
    if results["unreadable_golds"]:
        title += f"; {results['unreadable_golds']} more, whose answer cannot be read, count for nothing"
    return title


def _timing(seconds: Estimate, arguments: EvalArguments) -> dict[str, Any]:
    interval = {"median": seconds.mean, "low": seconds.low, "high": seconds.high}
    return interval | {"threads": 1, "device": arguments.device, "dtype": arguments.dtype}


def respond(
    settings: Settings[GenerateArguments],
    *,
    view: Callable[[Any], AbstractContextManager[OnToken | None]] | None = None,
) -> list[Response]:
    """Answer one problem `samples` times (`prl generate`). `view`, such as one of `prl.report.live`, is given
    the tokenizer, and shows the answers as they grow."""
    quiet_libraries()
    arguments = settings.arguments
    check_loadable(arguments.model_name_or_path, trust_remote_code=arguments.trust_remote_code)
    check_fits(settings)
    settings, tags = settle_tags(settings)
    arguments = settings.arguments
    console.print(f"  tags: {settings.chosen['tags']}", style="dim", markup=False)
    model, tokenizer = load(settings, tags)
    _say_engine(arguments.attention)
    decoder = ForkJoinDecoder(
        model,
        tokenizer,
        limits=Limits.of(arguments, arguments.max_completion_length),
        sampling=Sampling.of(arguments, temperature=0.0 if arguments.greedy else arguments.temperature),
    )
    prompt = render_prompt(
        str(arguments.problem), arguments.prompt_style, path_opening=arguments.path_opening
    )
    context = context_of(model.config)
    if found := beyond([prompt], tokenizer, context, arguments.max_completion_length):
        raise UsageError(beyond_told(found, 1, context, arguments.max_completion_length))
    with view(tokenizer) if view else nullcontext() as on_token:
        (responses,) = decoder.generate(
            [prompt], samples=arguments.samples, seed=arguments.seed, on_token=on_token
        )
    return responses


def load(settings: Settings[Any], tags: str) -> Any:
    """Model and tokenizer of a command that asks one, its settings settled by `prl.model.settle_tags`. Raises
    ModelError."""
    arguments = settings.arguments
    return load_model(
        arguments.model_name_or_path,
        attention=arguments.attention,
        load_in_4bit=arguments.load_in_4bit,
        dtype=getattr(torch, arguments.dtype),
        device=arguments.device,
        trust_remote_code=arguments.trust_remote_code,
        seed=arguments.seed,
        tags=tags,
        path_opening=arguments.path_opening,
    )


def _add_to_card(results: Mapping[str, Any]) -> None:
    """The figures travel with the model where it has a card of prl."""
    try:
        card = add_results(results["model"], results)
    except RunError as error:
        console.print(f"  figures not added to the card of the model: {error}", markup=False)
    else:
        if card:
            console.print(f"  figures added to {card}", style="dim", markup=False)


def _say_repeating(measured: Mapping[str, Measured], arguments: EvalArguments) -> None:
    if "greedy" in measured and (arguments.attention, arguments.path_opening) == ("structured", "none"):
        for line in repeating_told(measured["greedy"].described):
            console.print(f"  greedy: {line}", markup=False)


def _say_engine(attention: str) -> None:
    if attention == "structured":
        console.print(
            "  engine: prl's decoder; vLLM, llama.cpp and model.generate cannot keep the structure",
            style="dim",
        )
