"""A model on this machine as the teacher: a Hub name, a folder, an adapter, a run, or `tiny`.

Asks that wait are answered together, many rows at a time, by the decoder that evaluation and `prl generate`
use, so that a model trained with structured attention forks here too. Each answer is given as soon as it
ends. A draw depends on its request alone: not on what is decoded beside it, nor on the order of the asks.
With `write` and several samples this is self-distillation: the best of n that the student's own size can do.

A model that was not trained on the tags reads and writes them spelled out, as it would behind an endpoint.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import threading
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from prl import runs
from prl.decoding.context import beyond, context_of
from prl.errors import PrlError, first_line
from prl.prompts import IM_END, IM_START, user_message
from prl.runs import disk
from prl.settings import Settings
from prl.settings.arguments import GenerateArguments
from prl.traces.asking import Answer, Fatal, Refused
from prl.traces.modes import Request

GATHER = 0.02  # seconds until a batch begins: who got an answer from the one before may ask again and join it
QUEUED = 4  # asks in a batch for each row: only while the last ones are decoded are there rows without one
OPTIONS = (
    "attention",
    "load_in_4bit",
    "top_k",
    "min_p",
    "paths",
    "max_paths",
    "max_blocks",
    "max_path_length",
    "seed",
)
"""The settings of `prl generate` that decide answers, beside what each request says. Device and precision are
not among them: an answer stays one, wherever it was computed."""


class _Closed(Exception):
    """Nobody waits for the answers any more."""


@dataclass(eq=False)
class _Waiting:
    request: Request
    answer: asyncio.Future[Answer] = field(default_factory=lambda: asyncio.get_running_loop().create_future())

    def give(self, answer: Answer) -> None:
        """Nothing, where nobody waits for it any more."""
        if not self.answer.done():
            self.answer.set_result(answer)

    def refuse(self, why: str) -> None:
        if not self.answer.done():
            self.answer.set_exception(Refused(why))


class Local:
    """The teacher that `settings` (of `prl generate`) name; the model is loaded at the first ask.

    `concurrency`: rows that are decoded side by side; half as many where memory runs out. Of the settings,
    the prompt's style and the number, length and temperature of answers are not used: requests say them.
    `told`: what the model is for, when it is loaded. Raises RunError for a run without an adapter.
    """

    def __init__(
        self,
        settings: Settings[GenerateArguments],
        *,
        concurrency: int = 8,
        told: str = "traces: the teacher",
    ) -> None:
        self.name = str(settings.arguments.model_name_or_path)
        self.options = {name: getattr(settings.arguments, name) for name in OPTIONS}
        self.options["weights"] = weights_fingerprint(self.name)
        # Named where they differ alone, so that answers from before there were such settings stay good.
        for name, usual in (("path_opening", "none"), ("path_temperature", None), ("join", "all")):
            if (value := getattr(settings.arguments, name)) != usual:
                self.options[name] = value
        self.places = QUEUED * concurrency
        self._settings, self._rows, self._told = settings, concurrency, told
        self._loaded: tuple[Any, Any] | None = None
        self._waiting: list[_Waiting] = []
        self._running: asyncio.Task[None] | None = None
        self._closing = threading.Event()

    async def ask(self, request: Request) -> Answer:
        """Raises Refused: the prompt leaves nothing of the model's context; Fatal: the model cannot be loaded
        or decoded, memory does not hold one row."""
        waiting = _Waiting(request)
        self._waiting.append(waiting)
        if self._running is None or self._running.done():
            self._running = asyncio.create_task(self._run())
        return await waiting.answer

    async def aclose(self) -> None:
        """Stop decoding at the next token, and let go of the model."""
        self._closing.set()
        if self._running:
            await asyncio.wait([self._running])
        self._loaded = None

    async def _run(self) -> None:
        """Answer what waits, a batch of equal settings after the other, until nothing does."""
        await asyncio.sleep(GATHER)
        while self._waiting and not self._closing.is_set():
            settings = _decoding(self._waiting[0].request)
            batch = [each for each in self._waiting if _decoding(each.request) == settings]
            self._waiting = [each for each in self._waiting if _decoding(each.request) != settings]
            try:
                await asyncio.to_thread(self._decode, batch, asyncio.get_running_loop())
            except _Closed:
                self._waiting += batch
            except Exception as error:
                for each in batch:
                    if not each.answer.done():
                        each.answer.set_exception(Fatal(_line(error)))
            await asyncio.sleep(GATHER)
        for each in self._waiting:
            each.answer.cancel()

    def _decode(self, batch: Sequence[_Waiting], loop: asyncio.AbstractEventLoop) -> None:
        """Answer requests with the same settings, in a thread beside `loop`. Raises PrlError, _Closed."""
        from prl.decoding import ForkJoinDecoder, Limits, Response, Sampling
        from prl.machine.halving import halving

        model, tokenizer = self._model()
        given, first = self._settings.arguments, batch[0].request
        context = context_of(model.config)
        unanswered = beyond([rendered(each.request) for each in batch], tokenizer, context, 1)
        for index, tokens in unanswered.items():
            why = f"a prompt of {tokens:,} tokens leaves nothing of the model's context of {context:,}"
            loop.call_soon_threadsafe(batch[index].refuse, why)
        left = [each for index, each in enumerate(batch) if index not in unanswered]

        def on_token(*_: int) -> None:
            if self._closing.is_set():
                raise _Closed

        def decode(rows: int) -> None:
            same: dict[str, list[_Waiting]] = {}  # a prompt that several ask with is prefilled once
            for each in left:
                same.setdefault(rendered(each.request), []).append(each)
            prompts = [tokenizer(prompt, add_special_tokens=False)["input_ids"] for prompt in same]
            asking = list(same.values())

            def on_response(i: int, j: int, response: Response) -> None:
                left.remove(asking[i][j])
                answer = Answer(
                    response.text, len(prompts[i]), len(response.token_ids), response.finish_reason
                )
                loop.call_soon_threadsafe(asking[i][j].give, answer)

            decoder = ForkJoinDecoder(
                model,
                tokenizer,
                limits=Limits.of(given, first.max_tokens),
                sampling=Sampling.of(given, temperature=first.temperature, top_p=first.top_p),
                batch_size=rows,
            )
            decoder.generate(
                prompts,
                seeds=[[row_seed(each.request) for each in asks] for asks in asking],
                on_response=on_response,
                on_token=on_token,
            )

        _, self._rows = halving(
            decode, self._rows, "--concurrency", lambda: "take a smaller model, or lower --max_tokens"
        )

    def _model(self) -> tuple[Any, Any]:
        if self._loaded is None:
            import torch

            from prl.console import announce, quiet_libraries
            from prl.model import check_loadable, load_model, settle_tags

            quiet_libraries()
            check_loadable(self.name, trust_remote_code=self._settings.arguments.trust_remote_code)
            settings, tags = settle_tags(self._settings)
            given = settings.arguments
            announce(self._told, settings.chosen, {"model": self.name})
            self._loaded = load_model(
                given.model_name_or_path,
                attention=given.attention,
                load_in_4bit=given.load_in_4bit,
                dtype=getattr(torch, given.dtype),
                device=given.device,
                trust_remote_code=given.trust_remote_code,
                seed=given.seed,
                tags=tags,
                path_opening=given.path_opening,
            )
        return self._loaded


def rendered(request: Request) -> str:
    """The messages as `prl.prompts.render_prompt` frames them, with the assistant's turn open."""
    turns = (
        f"{IM_START}{message['role']}\n{user_message(message['content'], 'bare')}{IM_END}\n"
        for message in request.messages
    )
    return f"{''.join(turns)}{IM_START}assistant\n"


def weights_fingerprint(name: str) -> str | None:
    """Tells the weights in a folder from others that are trained into it later: a hash of what their files
    begin and end with. None for a model that is in no folder of the user's."""
    if name in runs.SHIPPED:
        return None
    files = sorted((runs.adapter_dir(name) or Path(name).expanduser()).glob("*.safetensors"))
    return disk.files_fingerprint(files)[:16] if files else None


def row_seed(request: Request) -> int:
    """The seed of a request's draw, from the request and nothing else."""
    digest = hashlib.sha256(json.dumps(asdict(request), sort_keys=True).encode()).digest()
    return int.from_bytes(digest[:8])


def _decoding(request: Request) -> tuple[int, float, float]:
    return request.max_tokens, request.temperature, request.top_p


def _line(error: Exception) -> str:
    """What went wrong, in one line; the type too where it is none of ours."""
    if isinstance(error, PrlError):
        return " ".join(str(error).split())
    return f"{type(error).__name__}: {first_line(error)}"
