"""The problems that GRPO draws from: loaded, rendered as prompts, and which leave a response its room."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedTokenizerBase

from prl.curriculum import Stage
from prl.data.hub import load_rows
from prl.decoding.context import beyond, beyond_told
from prl.errors import DataError
from prl.prompts import render_prompt, transcript
from prl.settings.arguments import RLArguments

Cells = list[dict[str, Any]]
"""What else the rows of data sets hold, by the number that a row of prl's has as `row`: for rewards of the
user's own (`prl.rewards.own`), and out of TRL's sight."""


@dataclass(frozen=True)
class Problems:
    """The rows of all stages (`prompt`, `problem`, `answer`, `level`), and which of them each stage draws
    from."""

    table: list[dict[str, Any]]
    pools: list[list[int]]


def load_problems(
    arguments: RLArguments, stages: Sequence[Stage], seed: int, cells: Cells | None = None
) -> Problems:
    """Load each data set once, however many stages use it, without problems of levels that none asks for.
    `cells` takes up what else they hold. DataError names every stage that lacks its levels."""
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
            rows = _load(arguments, *source, seed, cells)
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
    asked = {index for pool in pools for index in pool}
    return _kept(Problems(table, pools), [index for index in range(len(table)) if index in asked])


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
    return _kept(problems, [index for index in range(len(prompts)) if index not in found]), told


def _kept(problems: Problems, kept: Sequence[int]) -> Problems:
    """`problems` without the others."""
    place = {index: new for new, index in enumerate(kept)}
    pools = [[place[index] for index in pool if index in place] for pool in problems.pools]
    return Problems([problems.table[index] for index in kept], pools)


def check_problems(
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


def load_held_out(arguments: RLArguments, seed: int, cells: Cells | None = None) -> list[dict[str, Any]]:
    """What --eval_dataset names, each problem once; nothing where it names nothing. `cells` takes up what
    else it holds."""
    if not arguments.eval_dataset:
        return []
    split, limit = arguments.eval_dataset_split, arguments.eval_limit
    return _load(arguments, arguments.eval_dataset, split, limit, seed, cells, unique=True)


def all_of(rows: Sequence[Mapping[str, Any]], cells: Cells | None) -> Iterator[Mapping[str, Any]]:
    """`rows` with what else they hold, for a fingerprint."""
    for row in rows:
        yield row if cells is None else {**row, "row": None, "columns": repr(cells[row["row"]])}


def _load(
    arguments: RLArguments,
    dataset: str,
    split: str,
    limit: int | None,
    seed: int,
    cells: Cells | None,
    *,
    unique: bool = False,
) -> list[dict[str, Any]]:
    read = load_rows(
        dataset,
        split=split,
        need=("problem", "answer"),
        limit=limit,
        seed=seed,
        on_bad=arguments.on_bad_rows,
        graded=True,
        unique=unique,
        all_columns=cells is not None,
    )
    rows = [
        {
            "prompt": render_prompt(
                row["problem"], arguments.prompt_style, row.get("history"), arguments.path_opening
            ),
            "problem": transcript(row["problem"], row.get("history")),
            "answer": row["answer"],
            "level": row.get("level"),
        }
        for row in read
    ]
    if cells is None:
        return rows
    first = len(cells)
    cells += [row.get("columns", {}) for row in read]
    return [row | {"row": first + number} for number, row in enumerate(rows)]
