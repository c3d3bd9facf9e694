"""Inspect (0.3) asks a model of prl: `--model prl/RUN -M paths=3`."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from typing import Any

from inspect_ai.model import (
    ChatCompletionChoice,
    ChatMessage,
    ChatMessageAssistant,
    GenerateConfig,
    ModelAPI,
    ModelOutput,
    ModelUsage,
)

from prl.config import resolve
from prl.decoding import row_seed
from prl.errors import UsageError
from prl.harness import until
from prl.machine.fitting import check_fits
from prl.prompts import user_message
from prl.traces.asking import Answer, Refused
from prl.traces.local import Local
from prl.traces.modes import Request

REFUSED = (
    "top_k",
    "frequency_penalty",
    "presence_penalty",
    "logit_bias",
    "logprobs",
    "top_logprobs",
    "prompt_logprobs",
    "best_of",
    "response_schema",
)
"""Of what an evaluation may ask for: what prl's decoder has not, or (`top_k`) takes with the model."""


class PrlModel(ModelAPI):
    """A Hub name, a local model, an adapter or a run folder, which is asked as `prl eval` asks.

    `-M` takes every flag of `prl generate` about the model and its paths (`paths=3`, `greedy=true` …) and
    `batch_size`, the rows decoded side by side; what is left out is as the model was trained. The last
    turn of the user gets the instruction of the prompt style. What is asked at the same time is decoded
    together (`prl.traces.local`); a draw depends on its messages, the seed and how often they were asked
    before, not on what is decoded beside it. Without `--temperature` it is that of the flags, 1.

    Raises UsageError for flags and requests that cannot be had, and as `prl.traces.local.Local` does.
    """

    def __init__(
        self,
        model_name: str,
        base_url: str | None = None,
        api_key: str | None = None,
        config: GenerateConfig | None = None,
        batch_size: int = 64,
        **flags: Any,
    ) -> None:
        super().__init__(model_name=model_name, config=config or GenerateConfig())
        if told := sorted({"problem", "samples"} & flags.keys()):
            raise UsageError(f"-M {told[0]}: a task says what is asked, and --epochs how often")
        settings = resolve("generate", model_name_or_path=model_name, **flags)
        check_fits(settings)
        self._given, self._rows = settings.arguments, batch_size
        self._teacher = Local(settings, concurrency=batch_size, told="harness")
        self._before: Counter[str] = Counter()

    async def generate(
        self, input: Sequence[ChatMessage], tools: Sequence[Any], tool_choice: Any, config: GenerateConfig
    ) -> ModelOutput:
        """A response to the messages, `num_choices` of them where so many are asked for; empty, with
        `stop_reason` "model_length", where they leave nothing of the model's context."""
        if tools:
            raise UsageError(f"tools ({tools[0].name} …): a model of prl calls none; take a task without")
        if asked := [name for name in REFUSED if getattr(config, name, None) is not None]:
            raise UsageError(f"{', '.join(asked)}: not to be had from a model of prl (-M takes top_k, min_p)")
        requests = [self._request(input, config) for _ in range(config.num_choices or 1)]
        try:
            answers = await asyncio.gather(*map(self._teacher.ask, requests))
        except Refused as error:
            return ModelOutput.from_content(self.model_name, "", stop_reason="model_length", error=str(error))
        spent = sum(answer.completion_tokens or 0 for answer in answers)
        read = answers[0].prompt_tokens or 0
        return ModelOutput(
            model=self.model_name,
            choices=[self._choice(answer, config) for answer in answers],
            usage=ModelUsage(input_tokens=read, output_tokens=spent, total_tokens=read + spent),
        )

    async def aclose(self) -> None:
        """Let go of the model."""
        await self._teacher.aclose()

    def max_connections(self) -> int:
        """As many requests at a time as rows are decoded."""
        return self._rows

    def max_tokens(self) -> int:
        """Where nobody says it: `max_completion_length`."""
        return int(self._given.max_completion_length)

    def _request(self, input: Sequence[ChatMessage], config: GenerateConfig) -> Request:
        given = self._given
        if input[-1].role != "user" or any(message.role == "tool" for message in input):
            raise UsageError("the last message has to be the user's, and none that of a tool")
        *earlier, last = [{"role": message.role, "content": message.text} for message in input]
        last["content"] = user_message(last["content"], given.prompt_style, given.path_opening)
        drawn = 0.0 if given.greedy else given.temperature
        asked = repr((earlier, last))
        self._before[asked] += 1
        return Request(
            (*earlier, last),
            max_tokens=config.max_tokens or self.max_tokens(),
            temperature=drawn if config.temperature is None else config.temperature,
            top_p=given.top_p if config.top_p is None else config.top_p,
            seed=row_seed(given.seed if config.seed is None else config.seed, self._before[asked]),
        )

    def _choice(self, answer: Answer, config: GenerateConfig) -> ChatCompletionChoice:
        text = until(answer.text, config.stop_seqs or ())
        message = ChatMessageAssistant(content=text, model=self.model_name, source="generate")
        was_cut = answer.finish_reason == "length" and text == answer.text
        return ChatCompletionChoice(message=message, stop_reason="max_tokens" if was_cut else "stop")
