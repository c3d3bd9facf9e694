"""Decoding that forks at `<Parallel>` and joins at `</Parallel>`, many responses at a time.

A response is one row of the cache. At `<Parallel>` the row goes on with one token a path and step; a mask
keeps siblings apart, and all paths start at the same position. When the last path is closed, `</Parallel>`
and `<Summary>` follow in the same row and see everything. Nothing is prefilled twice and no cache is copied
to fork or to join. What is computed is what `prl.structure` makes of the finished response, so training
scores it with the same log-probabilities. What is forced, and when: `prl.decoding.threads`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass, replace
from math import isnan
from weakref import WeakSet

import numpy as np
import torch
from peft import PeftModel
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from prl.decoding.context import context_of
from prl.decoding.packing import packed_linears
from prl.decoding.rows import Columns, RowCache, last_growth, masks, row_attention
from prl.decoding.sampling import Sampling, draw, row_seed, uniforms
from prl.decoding.threads import Limits, OnToken, Row, Thread
from prl.decoding.weights import folded_adapters
from prl.errors import ModelError, UsageError, first_line
from prl.structure import Tags, attached_structure, backbone_of, cache_name, foreign_layers
from prl.structure.reader import MAIN_HORIZON, Place, Reader

PREFILL_TOKENS = 8192  # prompts are prefilled in portions of about this many tokens
DRAWN_TOGETHER = 128  # logits of this many threads are held at a time: 78 MB each copy with Qwen's vocabulary

NO_NUMBERS = (
    "the model's logits are no numbers: its weights hold nan or inf, as when training diverged; go back to "
    "an earlier checkpoint"
)

NO_TAGS = Tags(-1, -1, -1, -1, -1, -1)
"""Causal attention: no token is structure."""


@dataclass(frozen=True)
class Response:
    """One response to a prompt.

    `token_ids` in written order, with the EOS that ended it; `text` without. `truncated`: no EOS within the
    limit. `logprobs`: of each token under softmax(logits / temperature), without the temperature where it is
    0; nan where `forced`: written by the decoder. `blocks`: for each block that forked, the token span of
    each path, tags included. `critical_path`: tokens that had to wait for each other: the main thread and
    the longest path of each block.
    """

    token_ids: list[int]
    text: str
    truncated: bool
    logprobs: list[float]
    forced: list[bool]
    blocks: list[list[tuple[int, int]]]
    critical_path: int

    @property
    def finish_reason(self) -> str:
        """ "stop": the model ended it; "length": the limit did."""
        return "length" if self.truncated else "stop"


class ForkJoinDecoder:
    """Samples responses from a model, `batch_size` at a time, with structured or causal attention.

    `attention` None: structured where `attach_structure` was called on the model. Raises UsageError for
    limits that cannot hold one block and for an attention other than the model's; ModelError for a tokenizer
    without the tags and for a model that decodes otherwise than its own forward pass computes, which is tried
    on a few tokens, once a model. After `generate`, `steps` counts forward passes (prefill aside) and
    `cache_bytes` is the largest size of the keys and values.
    """

    def __init__(
        self,
        model: PreTrainedModel | PeftModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        attention: str | None = None,
        limits: Limits | None = None,
        sampling: Sampling | None = None,
        batch_size: int = 64,
    ) -> None:
        attached = attached_structure(model)
        if attention not in (None, "causal", "structured"):
            raise UsageError(f"attention {attention!r} must be 'causal' or 'structured'")
        if attached and attention == "causal":
            raise UsageError("this model computes with structured attention; it cannot be decoded causally")
        if batch_size < 1:
            raise UsageError(f"batch_size {batch_size} must be 1 or more")
        self.model, self.tokenizer, self.batch_size = model, tokenizer, batch_size
        self.limits, self.sampling = limits or Limits(), sampling or Sampling()
        self.tags = attached or (Tags.of(tokenizer) if attention == "structured" else NO_TAGS)
        line_end = tokenizer("\n", add_special_tokens=False)["input_ids"]
        self.joint = [self.tags.end_parallel, *line_end, self.tags.summary]  # what ends a block
        self.steps = self.cache_bytes = 0
        self.context = context_of(model.config)
        least = 1 + 3 * self.limits.most_paths + len(self.joint)
        if self.tags is not NO_TAGS and self.limits.max_blocks and self.limits.max_new_tokens < least:
            raise UsageError(
                f"max_new_tokens {self.limits.max_new_tokens} cannot hold one block of "
                f"{self.limits.most_paths} paths: raise it to {least} or more, or set max_blocks to 0"
            )
        _check_model(self)

    @torch.no_grad()
    def generate(
        self,
        prompts: Sequence[str | Sequence[int]],
        *,
        samples: int = 1,
        seed: int = 0,
        seeds: Sequence[Sequence[int]] | None = None,
        on_batch: Callable[[int], None] = lambda done: None,
        on_response: Callable[[int, int, Response], None] = lambda i, j, response: None,
        on_token: OnToken | None = None,
    ) -> list[list[Response]]:
        """`samples` responses to each prompt (text or token ids), in order.

        A response depends on its prompt and its own seed alone, whatever is decoded beside it: `seeds[i][j]`
        (a prompt gets as many responses as it has seeds), or one derived from (`seed`, i, j). One that comes
        to the end of the model's context is cut off there. `on_response`
        is called with i, j and the response as soon as it ends, `on_batch` with the number of those. Raises
        UsageError for an empty prompt, for one that leaves nothing of the model's context, and with
        structured attention for one that does not open the response;
        ModelError for logits that are no numbers.
        """
        encoded = self._encode(prompts)
        if seeds is None:
            if samples < 0:
                raise UsageError(f"samples {samples} must be 0 or more")
            seeds = [[row_seed(seed, i, j) for j in range(samples)] for i in range(len(encoded))]
        elif len(seeds) != len(encoded):
            raise UsageError(
                f"seeds for {len(seeds)} prompts do not fit {len(encoded)}: pass a list for each"
            )
        queue = [(i, j) for i, of_prompt in enumerate(seeds) for j in range(len(of_prompt))]
        responses: list[dict[int, Response]] = [{} for _ in encoded]
        self.steps = self.cache_bytes = done = 0
        with _decoding(self.model):
            batch = _Batch(self, encoded, min(self.batch_size, len(queue)), on_token)
            while queue or batch.rows:
                admitted = batch.admit(queue, seeds)
                del queue[:admitted]
                batch.step()
                for row in batch.finished():
                    response = responses[row.prompt][row.sample] = self._response(row)
                    done += 1
                    on_response(row.prompt, row.sample, response)
                    on_batch(done)
                self.cache_bytes = max(self.cache_bytes, batch.cache.nbytes)
        return [[of_prompt[j] for j in sorted(of_prompt)] for of_prompt in responses]

    @torch.no_grad()
    def rehearse(self, prompt: Sequence[int], prompts: int, samples: int) -> None:
        """Take as much memory as `generate` can for `prompts` prompts of this length and `samples` responses
        to each, in a few passes: the prompts side by side, then every row where the cache grows for the last
        time."""
        longest = len(prompt) + self.limits.max_new_tokens
        before = last_growth(len(prompt), longest)
        padded = [prompt[0]] * (before - len(prompt)) + list(prompt)
        for encoded, each in (([list(prompt)] * prompts, samples), ([padded], prompts * samples)):
            queue = [(i, j) for i in range(len(encoded)) for j in range(each)]
            with _decoding(self.model):
                batch = _Batch(self, encoded, min(self.batch_size, len(queue)), None)
                batch.admit(queue, [list(range(each))] * len(encoded))
                batch.step()
                batch.step()

    def _encode(self, prompts: Sequence[str | Sequence[int]]) -> list[list[int]]:
        encoded: list[list[int]] = []
        for i, prompt in enumerate(prompts):
            ids = (
                self.tokenizer(prompt, add_special_tokens=False)["input_ids"]
                if isinstance(prompt, str)
                else list(prompt)
            )
            if not ids:
                raise UsageError(f"prompt {i} is empty; a response needs something to go on from")
            if self.context and len(ids) >= self.context:
                raise UsageError(
                    f"prompt {i} has {len(ids):,} tokens and the model's context {self.context:,}: shorten it"
                )
            if _response_start(ids, self.tags) is None:
                raise UsageError(
                    f"prompt {i} does not open the assistant's turn, so no tag would count; "
                    "render it with prl.prompts.render_prompt"
                )
            encoded.append(ids)
        return encoded

    def limits_after(self, prompt: int) -> Limits:
        """Those of a response to a prompt of this many tokens: as set, within the model's context."""
        room = (self.context or sys.maxsize) - prompt
        return (
            self.limits if room >= self.limits.max_new_tokens else replace(self.limits, max_new_tokens=room)
        )

    def _response(self, row: Row) -> Response:
        ids: list[int] = []
        logprobs: list[float] = []
        blocks: list[list[tuple[int, int]]] = []
        for thread in row.threads:
            if thread.place:
                if thread.segment == thread.place.horizon:
                    blocks.append([])
                blocks[-1].append((len(ids), len(ids) + len(thread.ids)))
            ids += thread.ids
            logprobs += thread.logprobs
        return Response(
            token_ids=ids,
            text=self.tokenizer.decode(ids, skip_special_tokens=True),
            truncated=ids[-1] != self.tokenizer.eos_token_id,
            logprobs=logprobs,
            forced=[isnan(logprob) for logprob in logprobs],
            blocks=blocks,
            critical_path=row.critical_path,
        )


class _Batch:
    """The rows that are being decoded: `rows[r]` is row r of the cache."""

    def __init__(
        self, decoder: ForkJoinDecoder, prompts: list[list[int]], capacity: int, on_token: OnToken | None
    ) -> None:
        self.decoder, self.prompts, self.capacity, self.on_token = decoder, prompts, capacity, on_token
        self.backbone = backbone_of(decoder.model)
        weight = self.backbone.get_input_embeddings().weight
        self.device, self.dtype = weight.device, weight.dtype
        self.cache = RowCache(capacity, self.device)
        self.with_cache = {cache_name(self.backbone): self.cache}
        self.rows: list[Row] = []
        self.new: list[Row] = []  # wait for their first token
        self.prefilled: dict[int, tuple[Reader, Tensor]] = {}  # with the last hidden state, (size,)

    def finished(self) -> list[Row]:
        """The rows that ended with the last step."""
        return [row for row in self.rows if row.is_finished]

    def admit(self, queue: Sequence[tuple[int, int]], seeds: Sequence[Sequence[int]]) -> int:
        """Put the first of `queue` in the places of finished rows, and the last rows where none waits; how
        many.

        A prompt is prefilled once: its further samples take over a row that had the same prompt, or copy its
        keys and values.
        """
        places = [r for r, row in enumerate(self.rows) if row.is_finished]
        places += range(len(self.rows), self.capacity)
        waiting: dict[int, list[int]] = {}
        for prompt, sample in queue[: len(places)]:
            waiting.setdefault(prompt, []).append(sample)
        admitted = sum(map(len, waiting.values()))
        holders = {row.prompt: r for r, row in enumerate(self.rows) if not row.is_finished}
        taken: list[tuple[int, int, int]] = []
        others = []
        for place in places:
            held = self.rows[place].prompt if place < len(self.rows) else -1
            if waiting.get(held):
                taken.append((place, held, waiting[held].pop(0)))
                holders.setdefault(held, place)
            else:
                others.append(place)
        rest = [(prompt, sample) for prompt, samples in waiting.items() for sample in samples]
        taken += [(place, *item) for place, item in zip(others, rest, strict=False)]

        first_places = {prompt: place for place, prompt, _ in reversed(taken) if prompt not in holders}
        for portion in _portions(list(first_places), self.prompts, PREFILL_TOKENS):
            self._prefill(portion, [first_places[prompt] for prompt in portion])
        holders |= first_places
        for place, prompt, sample in taken:
            self.cache.copy_row(holders[prompt], place, len(self.prompts[prompt]))
            row = Row(
                prompt,
                sample,
                reader=copy(self.prefilled[prompt][0]),
                slots=len(self.prompts[prompt]),
                seed=seeds[prompt][sample] % 2**64,
                limits=self.decoder.limits_after(len(self.prompts[prompt])),
                eos_token_id=self.decoder.tokenizer.eos_token_id,
                joint=self.decoder.joint,
                on_token=self.on_token,
            )
            self.rows[place : place + 1] = [row]
            self.new.append(row)
        for hole in sorted((place for place in others[len(rest) :] if place < len(self.rows)), reverse=True):
            last = self.rows.pop()
            if hole < len(self.rows):
                self.cache.copy_row(len(self.rows), hole, last.slots)
                self.rows[hole] = last
        return admitted

    def step(self) -> None:
        """Feed every token that the model has not seen, and let each thread go on with a sampled one."""
        columns: list[tuple[int, ...]] = []
        threads: list[tuple[Row, Thread]] = []
        ends: list[int] = []  # the column after which each thread goes on
        for r, row in enumerate(self.rows):
            last: dict[Thread, int] = {}
            for c, (token, place, thread) in enumerate(row.unseen):
                if thread.is_live:
                    last[thread] = len(columns)
                columns.append((token, r, c, row.slots + c, *place))
            row.slots += len(row.unseen)
            row.unseen.clear()
            threads += [(row, thread) for thread in last]
            ends += last.values()
        states = [self.prefilled[row.prompt][1][None] for row in self.new]
        if columns:
            states.insert(0, self.forward(columns, None, len(self.rows))[ends])
            self.decoder.steps += 1
        threads += [(row, row.main) for row in self.new]
        self.new.clear()
        if not threads:
            return
        uniform = uniforms(
            np.array([row.seed for row, _ in threads], dtype=np.uint64),
            np.array([thread.segment for _, thread in threads]),
            np.array([thread.offset + len(thread.ids) for _, thread in threads]),
        )
        hidden = torch.cat(states)
        for start in range(0, len(threads), DRAWN_TOGETHER):
            part = slice(start, start + DRAWN_TOGETHER)
            tokens, logprobs = draw(self.logits(hidden[part]), uniform[part], self.decoder.sampling)
            if logprobs.isnan().any():
                raise ModelError(NO_NUMBERS)
            drawn = zip(threads[part], tokens.tolist(), logprobs.tolist(), strict=True)
            for (row, thread), token, logprob in drawn:
                row.take(thread, token, logprob)

    def _prefill(self, prompts: Sequence[int], places: Sequence[int]) -> None:
        columns: list[tuple[int, ...]] = []
        read: list[tuple[Reader, int]] = []
        for r, prompt in enumerate(prompts):
            ids = self.prompts[prompt]
            reader, seen = _read_prompt(ids, self.decoder.tags)
            columns += [(ids[i], r, i, i, *place) for i, place in enumerate(seen)]
            read.append((reader, len(columns) - 1))
        hidden = self.forward(columns, torch.tensor(places, device=self.device), len(prompts))
        for prompt, (reader, end) in zip(prompts, read, strict=True):
            self.prefilled[prompt] = reader, hidden[end].clone()  # a view would keep all of them

    def forward(self, columns: list[tuple[int, ...]], cache_rows: Tensor | None, rows: int) -> Tensor:
        """Hidden states (N, size) of the tokens; their keys and values are in the cache afterwards.

        `columns` are tuples of the fields of `Columns`; `cache_rows` as for `RowCache.lay_out`.
        """
        table = np.array(columns, dtype=np.int64)
        width, used = int(table[:, 2].max()) + 1, int(table[:, 3].max()) + 1
        token, row, column, slot, segment, horizon, position = (
            torch.from_numpy(np.ascontiguousarray(table.T)).to(self.device).unbind()
        )
        placed = Columns(token, row, column, slot, segment, horizon, position)
        self.cache.lay_out(placed, cache_rows, rows, width, used)
        return self.backbone(
            input_ids=token[None],
            position_ids=position[None],
            attention_mask=masks(self.backbone, self.cache, self.dtype),
            use_cache=True,
            rows=self.cache,
            **self.with_cache,
        ).last_hidden_state[0]

    def logits(self, hidden: Tensor) -> Tensor:
        logits = self.decoder.model.get_output_embeddings()(hidden).float()
        cap = getattr(self.backbone.config, "final_logit_softcapping", None)  # Gemma 2
        return logits if cap is None else cap * torch.tanh(logits / cap)


@contextmanager
def _evaluating(model: PreTrainedModel | PeftModel) -> Iterator[None]:
    """In evaluation mode; in training mode gradient checkpointing silently drops the cache."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


@contextmanager
def _decoding(model: PreTrainedModel | PeftModel) -> Iterator[None]:
    with (
        _evaluating(model),
        folded_adapters(model),
        packed_linears(model),
        row_attention(backbone_of(model)),
    ):
        yield


_CHECKED: WeakSet[PreTrainedModel] = WeakSet()
"""Backbones whose decoding was found to agree with their forward pass."""

TOLERANCE = 0.05  # of the change that another word makes to the logits of the words after it


@torch.no_grad()
def _check_model(decoder: ForkJoinDecoder) -> None:
    """Refuse by name a model that the decoder would get wrong: attention or positions of its own making, or a
    head that scales its logits.

    Two rows go through the cache in three uneven passes, and their logits must be those of the model's own
    forward pass, where the rows stand a second time with one word altered, to tell how much is much.
    """
    model = decoder.model
    backbone = backbone_of(model)
    if backbone in _CHECKED:
        return
    if foreign := foreign_layers(backbone.config):
        raise _undecodable(model, f"it has {foreign}")
    table = backbone.get_input_embeddings().weight
    usable = sorted(set(range(table.shape[0])) - set(vars(decoder.tags).values()))
    words = [usable[i * len(usable) // 17] for i in range(17)]
    texts = [words[:8], words[8:16]]
    altered = [[*text[:3], words[16], *text[4:]] for text in texts]
    parts = [((0, 5), (0, 4)), ((5, 6), (4, 5)), ((6, 8), (5, 8))]
    last = [(r, i) for r, part in enumerate(parts[-1]) for i in range(*part)]
    rows, positions = torch.tensor(last, device=table.device).T
    try:
        with _decoding(model):
            batch = _Batch(decoder, texts, len(texts), None)
            for part in parts:
                columns: list[tuple[int, ...]] = [
                    (texts[r][i], r, i - start, i, 0, MAIN_HORIZON, i)
                    for r, (start, stop) in enumerate(part)
                    for i in range(start, stop)
                ]
                hidden = batch.forward(columns, None, len(texts))
            found = batch.logits(hidden)
        with _evaluating(model):
            logits = model(input_ids=torch.tensor(texts + altered, device=table.device)).logits.float()
    except torch.OutOfMemoryError:
        raise
    except Exception as error:
        what = first_line(error)
        raise _undecodable(model, f"its forward pass fails in the decoder ({what})") from error
    expected, other = logits[rows, positions], logits[rows + len(texts), positions]
    allowed = (
        TOLERANCE * (expected - other).abs().max() + 8 * torch.finfo(table.dtype).eps * expected.abs().max()
    )
    gap = (found - expected).abs().max()
    if expected.isnan().any():
        raise ModelError(NO_NUMBERS)
    if not gap <= allowed:
        raise _undecodable(model, f"its logits would be off by {gap.item():.2g}")
    _CHECKED.add(backbone)


def _undecodable(model: PreTrainedModel | PeftModel, why: str) -> ModelError:
    name = type(model.get_base_model() if isinstance(model, PeftModel) else model).__name__
    return ModelError(f"{name} cannot be decoded: {why}; use a model of the Qwen3, Llama or Gemma families")


def _response_start(ids: Sequence[int], tags: Tags) -> int | None:
    """Where the response begins: after the first header, or the last that begins another turn; None: there
    is none."""
    later = _ends(ids, tags.next_turn) if tags.next_turn else []
    return later[-1] if later else next(iter(_ends(ids, tags.header)), None)


def _ends(ids: Sequence[int], part: tuple[int, ...]) -> list[int]:
    size = len(part)
    return [i for i in range(size, len(ids) + 1) if tuple(ids[i - size : i]) == part]


def _read_prompt(ids: Sequence[int], tags: Tags) -> tuple[Reader, list[Place]]:
    """The structure of a prompt, and the reader that goes on from it. Tags count from the response on."""
    start = _response_start(ids, tags)
    reader = Reader(NO_TAGS)
    read = [reader.read(token) for token in ids[:start]]
    reader.tags = tags
    return reader, read + [reader.read(token) for token in ids[start:]]


def _portions(prompts: Sequence[int], ids: list[list[int]], most: int) -> Iterator[list[int]]:
    """Prompts in portions of about `most` tokens, at least one each."""
    portion: list[int] = []
    tokens = 0
    for prompt in prompts:
        if portion and tokens + len(ids[prompt]) > most:
            yield portion
            portion, tokens = [], 0
        portion.append(prompt)
        tokens += len(ids[prompt])
    if portion:
        yield portion
