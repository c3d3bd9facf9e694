"""How many responses hold the format, sampled at every evaluation of a cold start."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from transformers import PreTrainedTokenizerBase, TrainerCallback

from prl import runs
from prl.console import console
from prl.decoding import ForkJoinDecoder, Limits
from prl.grammar import parse
from prl.machine.halving import Advise, halving
from prl.model import token_columns
from prl.prompts import render_prompt, transcript
from prl.settings.arguments import SFTArguments
from prl.trainer.sample_tables import SampleTables

ROOM = 16  # tokens that a path takes, with its tags and its opening, at the least


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
            render_prompt(row["problem"], arguments.prompt_style, row.get("history"), arguments.path_opening)
            for row in rows
        ]
        paths = int(arguments.paths) if arguments.paths.isdecimal() else arguments.paths
        most = training.max_length or 512
        if context and rows:
            ids = tokenizer(self.prompts, add_special_tokens=False)["input_ids"]
            most = min(most, context - max(map(len, ids)))
        # As wide as what is learned, or a plan would lose lines; a path without room would be none either.
        widest = max((len(each.paths) for row in rows for each in parse(row["trace"]).blocks), default=0)
        self.limits = Limits(
            most,
            paths,
            max_paths=max(Limits.max_paths, min(widest, most // ROOM)),
            path_opening=arguments.path_opening,
        )
        self.path_opening = arguments.path_opening
        self.batch_size, self.advise = training.per_device_eval_batch_size, advise
        self.latest: dict[str, float] = {}
        self.tables = SampleTables(arguments.path_opening)

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
        traces = [
            parse(response.text, truncated=response.truncated, opening=self.path_opening)
            for (response,) in answers
        ]
        self.latest = {
            "eval_format_valid": sum(trace.is_valid for trace in traces) / len(traces),
            "eval_parallel_ratio": sum(trace.uses_parallel for trace in traces) / len(traces),
        }
        if metrics is not None:
            metrics |= self.latest  # --metric_for_best_model may name one of them
        self.folder.log_metrics(state.global_step, self.latest)
        samples = [
            runs.sample_row(
                transcript(row["problem"], row.get("history")),
                row.get("answer"),
                trace,
                response.token_ids,
                truncated=response.truncated,
                **token_columns(self.tokenizer, response),
            )
            for row, (response,), trace in zip(self.rows, answers, traces, strict=True)
        ]
        self.folder.log_samples(state.global_step, samples)
        self.tables.show(samples, state)
        console.print(
            f"  sampled {len(traces)}: valid format {self.latest['eval_format_valid']:.0%}, "
            f"parallel {self.latest['eval_parallel_ratio']:.0%}",
            markup=False,
        )
