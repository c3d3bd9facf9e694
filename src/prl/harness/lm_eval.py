"""lm-evaluation-harness (0.4) asks a model of prl: `--model prl --model_args pretrained=RUN,paths=3`."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NoReturn

from lm_eval.api.model import LM
from lm_eval.api.registry import register_model
from lm_eval.models.utils import normalize_gen_kwargs

from prl.config import resolve
from prl.console import announce, batches_bar, console, quiet_libraries
from prl.decoding import ForkJoinDecoder, Limits, Response, Sampling, row_seed
from prl.decoding.context import beyond, context_of
from prl.errors import UsageError
from prl.evaluation import load
from prl.harness import until
from prl.machine.fitting import check_fits
from prl.machine.halving import advise, halving
from prl.model import check_loadable, settle_tags
from prl.prompts import CHAT_TEMPLATE, IM_END, IM_START, render_prompt, render_response

DRAWING = ("temperature", "top_p", "top_k", "min_p")
TAKEN = {*DRAWING, "until", "max_gen_toks", "do_sample"}
"""What a task's `generation_kwargs` may say, once lm-eval has settled their names."""

_ASKED = f"{IM_START}assistant\n"


@dataclass(frozen=True)
class _Asked:
    """One request: the rendered prompt, how to answer it, and which of its answers this is, from 0."""

    prompt: str
    longest: int
    sampling: Sampling
    number: int

    @property
    def seeding(self) -> int:
        return int.from_bytes(hashlib.sha256(self.prompt.encode(errors="replace")).digest()[:8])


@register_model("prl")
class PrlLM(LM):
    """A Hub name, a local model, an adapter or a run folder (`pretrained`), asked as `prl eval` asks.

    Every flag of `prl generate` about the model and its paths goes into `--model_args` (`paths=3`,
    `prompt_style=bare`, `attention=…`, `max_completion_length=1024`, `seed=1` …); what is left out is as the
    model was trained. A task's text is the problem: the instruction of the prompt style goes before it and
    the chat frame around it, with `--apply_chat_template` before and around the last turn of the user.
    `generation_kwargs` go before flags. A draw depends on its prompt, `seed` and how often the prompt was
    asked before, not on batches. Text is scored, not likelihoods.

    Raises UsageError for arguments and requests that cannot be had, ModelError as `prl.model.load_model`.
    """

    def __init__(
        self,
        pretrained: str,
        batch_size: int | str = 64,
        device: str | None = None,
        max_batch_size: int | None = None,
        **flags: Any,
    ) -> None:
        super().__init__()
        quiet_libraries()
        if told := sorted({"problem", "samples", "greedy"} & flags.keys()):
            raise UsageError(
                f"--model_args {told[0]}: a task says what is asked, `repeats` how often, and "
                "--gen_kwargs do_sample=true,temperature=1 how it is drawn"
            )
        self.batch_size = 64 if str(batch_size).startswith("auto") else int(batch_size)
        check_loadable(pretrained, trust_remote_code=bool(flags.get("trust_remote_code")))
        # lm-eval 0.4.13 says cuda:0 where nobody said anything, on a machine without a GPU too.
        placed, _, number = ("auto" if device in (None, "cuda:0") else str(device)).partition(":")
        if number.strip("0"):
            raise UsageError(
                f"--device {device}: a model goes to the first GPU that is seen; set "
                f"CUDA_VISIBLE_DEVICES={number} and say --device {placed}"
            )
        settings = resolve("generate", model_name_or_path=pretrained, device=placed, **flags)
        check_fits(settings)
        self.settings, self.tags = settle_tags(settings)
        announce("harness", self.settings.chosen, {"model": pretrained})
        self.model, self.tokenizer = load(self.settings, self.tags)
        self.context = context_of(self.model.config)

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """The text of a response to each request, up to the first string that the task stops at; "" where the
        prompt leaves nothing of the model's context, which is told."""
        asked: list[_Asked] = []
        before: Counter[Any] = Counter()
        for request in requests:
            context, given = request.args
            read = self._read(context, normalize_gen_kwargs(given, self._longest))
            asked.append(_Asked(*read, number=before[read]))
            before[read] += 1
        prompts = [each.prompt for each in asked]
        if found := beyond(prompts, self.tokenizer, self.context, 1):
            told = f"{len(found)} of {len(asked)} requests leave nothing of the model's context of"
            console.print(f"  not answered: {told} {self.context:,} tokens", markup=False)
        texts = [""] * len(asked)
        groups: dict[tuple[int, Sampling], list[int]] = {}
        for place, each in enumerate(asked):
            if place not in found:
                groups.setdefault((each.longest, each.sampling), []).append(place)
        for (longest, sampling), places in groups.items():
            answered = self._decode([asked[place] for place in places], longest, sampling)
            for place, response in zip(places, answered, strict=True):
                texts[place] = until(response.text, _stops(requests[place].args[1]))
        for request, text in zip(requests, texts, strict=True):
            self.cache_hook.add_partial("generate_until", request.args, text)
        return texts

    def loglikelihood(self, requests: Sequence[Any], disable_tqdm: bool = False) -> NoReturn:
        """Refused: a model that thinks in parallel says its answer after its thoughts."""
        raise UsageError(
            "this task asks for likelihoods of given texts, and prl answers: take a task whose output_type "
            "is generate_until (gsm8k, minerva_math …), not multiple_choice or loglikelihood"
        )

    loglikelihood_rolling = loglikelihood

    def apply_chat_template(
        self, chat_history: Sequence[Mapping[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """The turns as the model was trained to read them, with the instruction before the last of the user;
        without `add_generation_prompt` the answer goes on from the last turn."""
        *history, last = chat_history
        begun = ""
        if not add_generation_prompt and history:
            begun = render_response(last["content"]).removesuffix(IM_END)
            *history, last = history
        if last["role"] != "user":
            raise UsageError(f"the last turn is one of {last['role']!r}: a task has to end with the user's")
        given = self.settings.arguments
        return render_prompt(last["content"], given.prompt_style, history, given.path_opening) + begun

    def chat_template(self, chat_template: bool | str = False) -> str:
        """The frame around turns; lm-eval keeps it with the results."""
        if isinstance(chat_template, str):
            raise UsageError(f"--apply_chat_template {chat_template}: prl has one; leave the name out")
        return CHAT_TEMPLATE if chat_template else ""

    @property
    def tokenizer_name(self) -> str:
        """What lm-eval keeps prompts by."""
        given = self.settings.arguments
        name = f"{given.model_name_or_path}-{given.prompt_style}-{given.path_opening}"
        return name.replace("/", "__")

    def get_model_info(self) -> dict[str, Any]:
        """How the model is asked, for the results."""
        named = ("attention", "path_opening", "prompt_style", "paths", "max_paths", "max_blocks", "join")
        given = {name: getattr(self.settings.arguments, name) for name in (*named, "dtype", "seed")}
        return {**given, "tags": self.tags}

    @property
    def _longest(self) -> int:
        return int(self.settings.arguments.max_completion_length)

    def _read(self, context: str, said: Mapping[str, Any]) -> tuple[str, int, Sampling]:
        """Prompt, length and drawing of a request. UsageError for what prl's decoder has not."""
        given = self.settings.arguments
        if unknown := sorted(said.keys() - TAKEN):
            raise UsageError(
                f"generation_kwargs {', '.join(unknown)}: prl's decoder takes {', '.join(sorted(TAKEN))}"
            )
        drawn = {name: said[name] for name in DRAWING if said.get(name) is not None}
        if not said["do_sample"]:
            drawn["temperature"] = 0.0
        prompt = context
        if not (context.startswith(IM_START) and _ASKED in context):  # else apply_chat_template made it
            prompt = render_prompt(context, given.prompt_style, path_opening=given.path_opening)
        return prompt, said["max_gen_toks"], Sampling.of(given, **drawn)

    def _decode(self, asked: Sequence[_Asked], longest: int, sampling: Sampling) -> list[Response]:
        """A response to each, `batch_size` side by side, fewer where memory runs out."""
        given = self.settings.arguments
        same: dict[str, list[int]] = {}  # a prompt that is asked several times is read once
        for place, each in enumerate(asked):
            same.setdefault(each.prompt, []).append(place)
        seeds = [
            [row_seed(given.seed, asked[place].seeding, asked[place].number) for place in places]
            for places in same.values()
        ]

        def decode(rows: int) -> list[list[Response]]:
            with batches_bar("lm-eval", len(asked)) as on_batch:
                decoder = ForkJoinDecoder(
                    self.model,
                    self.tokenizer,
                    limits=Limits.of(given, longest),
                    sampling=sampling,
                    batch_size=rows,
                )
                return decoder.generate([*same], seeds=seeds, on_batch=on_batch)

        answers, self.batch_size = halving(
            decode, self.batch_size, "--batch_size", partial(advise, self.settings)
        )
        placed: dict[int, Response] = {}
        for places, responses in zip(same.values(), answers, strict=True):
            placed |= dict(zip(places, responses, strict=True))
        return [placed[place] for place in range(len(asked))]


def _stops(given: Mapping[str, Any]) -> list[str]:
    stops = given.get("until") or []
    return [stops] if isinstance(stops, str) else [*stops]
