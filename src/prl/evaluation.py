"""Evaluation on held-out problems: greedy and sampled, with 95 % intervals (`prl eval`), and answers to one
problem.

Every problem is answered once greedily and k times by sampling. Reported, from the samples: accuracy, pass@k,
maj@k, parallel ratio, format validity and lengths, level by level too (`prl.analysis.metrics`); what several
votes take (`prl.analysis.budgets`); and what the traces show (`prl.analysis.describe`).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from rich.markup import escape

from prl import runs
from prl.analysis import describe
from prl.analysis.budgets import votes
from prl.analysis.metrics import levels, metrics, voters
from prl.answers import default_checker, unreadable_gold
from prl.console import announce, batches_bar, console, quiet_libraries
from prl.data.hub import load_rows
from prl.decoding import ForkJoinDecoder, Limits, Response, Sampling, row_seed
from prl.decoding.context import beyond, beyond_told, context_of
from prl.decoding.threads import OnToken
from prl.decoding.timing import one_at_a_time
from prl.errors import DataError, RunError, UsageError
from prl.grammar import Trace, parse
from prl.machine.fitting import check_fits, extent_of_prompts
from prl.model import add_results, check_loadable, load_model, settle_tags
from prl.prompts import render_prompt, transcript
from prl.report.tables import table, told
from prl.settings import Settings
from prl.settings.arguments import EvalArguments, GenerateArguments
from prl.statistics import Estimate, median
from prl.statistics import paired_difference as paired_difference

_LISTED = 3  # unreadable golds in a message


@dataclass(frozen=True)
class EvalResult:
    """`metrics` by name; `scores` is the share of right samples of each problem (for paired comparisons),
    shape (problems,); `described`, `prl.analysis.describe` of the samples of each mode."""

    folder: Path
    metrics: dict[str, Estimate]
    scores: dict[str, list[float]]
    described: dict[str, dict[str, float | None]] = field(default_factory=dict)


@dataclass(frozen=True)
class Measured:
    """One decoding mode. `samples` are the rows for samples.parquet, in order of the problems; `scores` as in
    `EvalResult`. Of the problems that were asked, `described` is `prl.analysis.describe`, `votes` maps each k
    of maj@k to what so many votes take, `levels` each level to its figures; `timing` is the median of the
    seconds of a problem, where they were taken."""

    samples: list[dict[str, Any]]
    metrics: dict[str, Estimate]
    scores: list[float]
    described: dict[str, float | None]
    votes: dict[str, dict[str, float]]
    levels: dict[str, dict[str, Any]]
    timing: Estimate | None = None


def run(settings: Settings[EvalArguments]) -> EvalResult:
    """Evaluate a model and write the run folder with results.json. Raises PrlError for what the user can
    mend."""
    quiet_libraries()
    arguments = settings.arguments
    check_loadable(arguments.model_name_or_path, trust_remote_code=arguments.trust_remote_code)
    settings, tags = settle_tags(settings)
    arguments = settings.arguments
    loaded = load_rows(
        arguments.dataset,
        split=arguments.dataset_split,
        need=("problem", "answer"),
        limit=arguments.limit,
        seed=arguments.seed,
        on_bad=arguments.on_bad_rows,
    )
    rows, ungraded = graded(loaded, arguments.dataset)
    # What cannot work is told before anything is written, and before minutes of loading and decoding.
    check_fits(settings)
    default_checker().start()
    with runs.open_run(
        arguments.output_dir,
        command="eval",
        config=settings.as_dict(),
        overwrite=arguments.overwrite_output_dir,
    ) as folder:
        model, tokenizer = _load(settings, tags)
        announce(
            "eval",
            settings.chosen,
            {"model": arguments.model_name_or_path, "problems": len(rows), "samples": arguments.samples},
        )
        _say_engine(arguments.attention)
        if ungraded:
            console.print(f"  {_told(ungraded, len(loaded))}", markup=False)
        prompts = _prompts(rows, arguments)
        unasked = _unasked(prompts, model, tokenizer, arguments)
        asked = [i for i in range(len(rows)) if i not in unasked]
        extent = extent_of_prompts([prompts[i] for i in asked], tokenizer, max(1, arguments.samples))
        check_fits(settings, extent)  # once more, now that the longest prompt is known
        measured: dict[str, Measured] = {}
        for mode, samples, temperature in _modes(arguments):
            decoder = ForkJoinDecoder(
                model,
                tokenizer,
                limits=Limits.of(arguments, arguments.max_completion_length),
                sampling=Sampling.of(arguments, temperature=temperature),
                batch_size=arguments.batch_size,
            )
            # By the place among all rows: a problem is answered the same whichever others are asked.
            seeds = [[row_seed(arguments.seed, i, j) for j in range(samples)] for i in asked]
            answers, seconds = _decode(mode, decoder, [prompts[i] for i in asked], seeds, arguments.timed)
            measured[mode] = measure(mode, rows, dict(zip(asked, answers, strict=True)), arguments, seconds)
            folder.log_samples(0, measured[mode].samples)
        found = {
            f"{mode}/{name}": value for mode, each in measured.items() for name, value in each.metrics.items()
        }
        counts = {"unreadable_golds": len(ungraded), "beyond_context": len(unasked)}
        results = _results(arguments, tags, found, measured, problems=len(rows), **counts)
        runs.write_json(folder.folder / "results.json", results)
        folder.finish({name: estimate.mean for name, estimate in found.items()})
    _add_to_card(results)
    console.print(table(found, title=escape(f"{arguments.model_name_or_path} on {len(rows)} problems")))
    for mode, each in measured.items():
        for line in told(each.described, each.votes, each.levels, each.timing):
            console.print(f"  {mode}: {line}", style="dim", markup=False)
    return EvalResult(folder.folder, found, results["scores"], results["analysis"])


def _decode(
    mode: str, decoder: ForkJoinDecoder, prompts: Sequence[str], seeds: Sequence[Sequence[int]], timed: bool
) -> tuple[list[list[Response]], list[list[float]] | None]:
    """The responses to each prompt, and the seconds that each took where they are timed."""
    with batches_bar(mode, sum(map(len, seeds))) as on_batch:
        if timed:
            return one_at_a_time(decoder, prompts, seeds, on_batch)
        return decoder.generate(prompts, seeds=seeds, on_batch=on_batch), None


def measure(
    mode: str,
    rows: Sequence[dict[str, Any]],
    answers: Mapping[int, Sequence[Response]],
    arguments: EvalArguments,
    seconds: Sequence[Sequence[float]] | None = None,
) -> Measured:
    """Judge and count one mode. `answers` maps the index of each problem that was asked to its responses, as
    many for each, which took `seconds` where they were timed; the other `rows` are not solved, and in nothing
    but the accuracy."""
    opening = arguments.path_opening
    judged = judge([rows[i] for i in answers], [*answers.values()])
    groups: list[list[dict[str, Any]]] = [[] for _ in rows]
    for (i, responses), verdicts in zip(answers.items(), judged, strict=True):
        for response, verdict in zip(responses, verdicts, strict=True):
            trace = parse(response.text, truncated=response.truncated, opening=opening)
            groups[i].append(_sample(mode, rows[i], response, trace, verdict))
    known = [sample for group in groups for sample in group]
    if seconds:
        for sample, taken in zip(known, (each for group in seconds for each in group), strict=True):
            sample["seconds"] = taken
    drawing = {"resamples": arguments.bootstrap, "seed": arguments.seed}
    asked = max(map(len, groups))
    return Measured(
        samples=[
            sample
            for row, group in zip(rows, groups, strict=True)
            for sample in group or [_not_asked(mode, row)]
        ],
        metrics=metrics(groups, opening, **drawing),
        scores=[fmean(bool(each["correct"]) for each in group) if group else 0.0 for group in groups],
        described=describe(known, opening),
        votes={str(k): asdict(votes(known, k)) for k in voters(asked)},
        levels=levels(known, **drawing),
        timing=median([fmean(group) for group in seconds]) if seconds else None,
    )


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
        "tags": tags,
        "seed": arguments.seed,
        "metrics": {name: asdict(estimate) for name, estimate in metrics.items()},
        "scores": {mode: each.scores for mode, each in measured.items()},
        "analysis": {mode: each.described for mode, each in measured.items()},
        "votes": {mode: each.votes for mode, each in measured.items() if each.votes},
        "levels": {mode: each.levels for mode, each in measured.items() if each.levels},
        "timing": {mode: _timing(each.timing, arguments) for mode, each in measured.items() if each.timing},
    }


def _timing(seconds: Estimate, arguments: EvalArguments) -> dict[str, Any]:
    interval = {"median": seconds.mean, "low": seconds.low, "high": seconds.high}
    return interval | {"threads": 1, "device": arguments.device, "dtype": arguments.dtype}


def graded(
    rows: Sequence[dict[str, Any]], dataset: str
) -> tuple[list[dict[str, Any]], list[tuple[str, str]]]:
    """The rows whose gold answer the grader can read, which metrics are over; of the others the answer, and
    why not. DataError where none can be read."""
    faults = [unreadable_gold(row["answer"]) for row in rows]
    readable = [row for row, why in zip(rows, faults, strict=True) if why is None]
    others = [(str(row["answer"]), why) for row, why in zip(rows, faults, strict=True) if why is not None]
    if others and not readable:
        raise DataError(f"{dataset}: {_told(others, len(rows))}; correct them, none is left to evaluate on")
    return readable, others


def _told(ungraded: Sequence[tuple[str, str]], of: int) -> str:
    shown = "; ".join(f"{answer[:40]!r} ({why})" for answer, why in ungraded[:_LISTED])
    more = f" and {len(ungraded) - _LISTED} more" if len(ungraded) > _LISTED else ""
    count = f"{len(ungraded)} of {of} gold answers"
    return f"{count} cannot be read and count as neither right nor wrong: {shown}{more}"


def read_result(folder: Path) -> EvalResult:
    """What `run` returned when it wrote `folder`. Raises RunError for another results.json than it writes."""
    results = read_results(folder)
    try:
        metrics = {name: Estimate(**found) for name, found in results["metrics"].items()}
        return EvalResult(folder, metrics, dict(results["scores"]), dict(results.get("analysis", {})))
    except (TypeError, ValueError, AttributeError) as error:
        raise RunError(f"{folder / 'results.json'} cannot be read: evaluate again") from error


def read_results(folder: Path) -> dict[str, Any]:
    """What results.json of an evaluation holds. Raises RunError."""
    path = folder / "results.json"
    try:
        results: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        missing = {"metrics", "scores", "seed", "dataset"} - results.keys()
    except (OSError, ValueError, AttributeError) as error:
        raise RunError(f"{path} cannot be read ({error}): evaluate again") from error
    if missing:
        raise RunError(f"{path} holds no {', '.join(sorted(missing))}: evaluate again")
    return results


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
    model, tokenizer = _load(settings, tags)
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


def judge(
    rows: Sequence[dict[str, Any]], answers: Sequence[Sequence[Response]]
) -> list[list[tuple[str | None, Any]]]:
    """For each response, the answer found in it and the checker's verdict against the row's `answer`."""
    golds = [row["answer"] for row, group in zip(rows, answers, strict=True) for _ in group]
    judged = iter(
        default_checker().check_responses((each.text for group in answers for each in group), golds)
    )
    return [[next(judged) for _ in group] for group in answers]


def _modes(arguments: EvalArguments) -> list[tuple[str, int, float]]:
    greedy = [("greedy", 1, 0.0)] if arguments.greedy else []
    sampled = [("sampled", arguments.samples, arguments.temperature)] if arguments.samples else []
    return greedy + sampled


def _load(settings: Settings[Any], tags: str) -> Any:
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


def _say_engine(attention: str) -> None:
    if attention == "structured":
        console.print(
            "  engine: prl's decoder; vLLM, llama.cpp and model.generate cannot keep the structure",
            style="dim",
        )


def _sample(
    mode: str, row: dict[str, Any], response: Response, trace: Trace, judged: tuple[str | None, Any] | None
) -> dict[str, Any]:
    return runs.sample_row(
        transcript(row["problem"], row.get("history")),
        row["answer"],
        trace,
        response.token_ids,
        truncated=response.truncated,
        judged=judged,
        mode=mode,
        level=row.get("level"),
        critical_path=response.critical_path,
    )


def _not_asked(mode: str, row: dict[str, Any]) -> dict[str, Any]:
    """The sample of a problem that leaves a response no room: it stays in every list of problems."""
    none = Response([], "", True, [], [], [], 0)
    told = {"extracted": None, "verdict": "beyond context", "correct": 0.0}
    return _sample(mode, row, none, parse(""), None) | told
