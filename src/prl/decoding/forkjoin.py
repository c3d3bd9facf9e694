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
from dataclasses import dataclass, replace
from math import isnan

import numpy as np
import torch
from peft import PeftModel
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from prl.decoding.context import context_of
from prl.decoding.passes import Passes, decoding
from prl.decoding.rows import last_growth
from prl.decoding.sampling import Sampling, draw, draw_apart, read_back, row_seed, uniforms, uploaded
from prl.decoding.threads import Limits, OnToken, Row, Thread
from prl.decoding.trial import NO_NUMBERS, check_decodable
from prl.errors import ModelError, UsageError
from prl.grammar import FOUND
from prl.structure import Opener, Tags, attached_structure, path_opening
from prl.structure.reader import Place, Reader

PREFILL_TOKENS = 8192  # prompts are prefilled in portions of about this many tokens
DRAWN_TOGETHER = 128  # logits of this many threads are held at a time: 78 MB each copy with Qwen's vocabulary

NO_TAGS = Tags(-1, -1, -1, -1, -1, -1)
"""Causal attention: no token is structure."""


@dataclass(frozen=True)
class Response:
    """One response to a prompt.

    `token_ids` in written order, with the EOS that ended it; `text` without. `truncated`: no EOS within the
    limit. `logprobs`: of each token under softmax(logits / the temperature that it was drawn with), without
    the temperature where it is 0; nan where `forced`: written by the decoder. `blocks`: for each block that
    forked, the token span of each path, tags included. `critical_path`: tokens that had to wait for each
    other: the main thread and the longest path of each block.
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

    `attention` None: structured where `attach_structure` was called on the model. `merges`: with its adapter
    in the weights, rounded where these are of 16 or 4 bits (`prl.decoding.weights`): less work, and another
    model. Raises UsageError for limits that cannot hold one block and for an attention other than the
    model's; ModelError for a tokenizer without the tags and for a model that decodes otherwise than its own
    forward pass computes, which is tried on a few tokens, once a model. After `generate`, `steps` counts
    forward passes (prefill aside) and `cache_bytes` is the largest size of the keys and values.
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
        merges: bool = False,
    ) -> None:
        attached = attached_structure(model)
        if attention not in (None, "causal", "structured"):
            raise UsageError(f"attention {attention!r} must be 'causal' or 'structured'")
        if attached and attention == "causal":
            raise UsageError("this model computes with structured attention; it cannot be decoded causally")
        if batch_size < 1:
            raise UsageError(f"batch_size {batch_size} must be 1 or more")
        self.model, self.tokenizer, self.batch_size, self.merges = model, tokenizer, batch_size, merges
        self.limits, self.sampling = limits or Limits(), sampling or Sampling()
        self.tags = attached or (Tags.of(tokenizer) if attention == "structured" else NO_TAGS)
        opening = self.limits.path_opening or path_opening(model)
        self.opener = None if self.tags is NO_TAGS else Opener.of(opening, tokenizer)
        self.steps = self.cache_bytes = 0
        self.context = context_of(model.config)
        least = 1 + 3 * self.limits.most_paths + len(self.tags.joint)
        if self.opener:  # numbers are known by now, the lines of a plan are not
            least += sum(len(self.opener.opening([], i + 1)) for i in range(self.limits.most_paths))
        if self.tags is not NO_TAGS and self.limits.max_blocks and self.limits.max_new_tokens < least:
            raise UsageError(
                f"max_new_tokens {self.limits.max_new_tokens} cannot hold one block of "
                f"{self.limits.most_paths} paths: raise it to {least} or more, or set max_blocks to 0"
            )
        check_decodable(model, self.tags)

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
        to the end of the model's context is cut off there. `on_response` is called with i, j and the response
        once it has ended, while a card computes the next step, and `on_batch` with the number of those.
        Raises UsageError for an empty prompt, for one that leaves nothing of the model's context, and with
        structured attention for one that does not open the response; ModelError for logits that are no
        numbers.
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
        with decoding(self.model, merges=self.merges):
            batch = _Batch(self, encoded, min(self.batch_size, len(queue)), on_token)
            ended: list[Row] = []
            while queue or batch.rows:
                try:
                    admitted = batch.admit(queue, seeds)
                    del queue[:admitted]
                    threads, drawn = batch.launch()
                finally:  # where the step fails too: what ended before it is not lost
                    for row in ended:
                        response = responses[row.prompt][row.sample] = self._response(row)
                        done += 1
                        on_response(row.prompt, row.sample, response)
                        on_batch(done)
                _take(threads, drawn)
                ended = batch.finished()
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
            with decoding(self.model, merges=self.merges):
                batch = _Batch(self, encoded, min(self.batch_size, len(queue)), None)
                batch.admit(queue, [list(range(each))] * len(encoded))
                for _ in range(3):  # tokens after the prompts, a step that warms up, one that a card captures
                    _take(*batch.launch())

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

    def says_found(self, ids: Sequence[int]) -> bool:
        """Whether the text of a path says that it has what was looked for."""
        return FOUND in self.tokenizer.decode(ids, skip_special_tokens=True)

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
        self.passes = Passes(decoder.model, capacity)
        self.cache = self.passes.cache
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
        # Finished rows first: a pass reads the first rows of the cache, so there is to be no gap among them.
        places = [r for r, row in enumerate(self.rows) if row.is_finished]
        places += range(len(self.rows), self.capacity)
        waiting: dict[int, list[int]] = {}
        for prompt, sample in queue[: len(places)]:
            waiting.setdefault(prompt, []).append(sample)
        admitted = sum(map(len, waiting.values()))

        # A place that holds a prompt which still waits goes to that prompt, before all others are given
        # theirs: another would overwrite it, and it would have to be prefilled again. `holders`: prompt -> a
        # row whose first slots are its keys and values.
        holders = {row.prompt: r for r, row in enumerate(self.rows) if not row.is_finished}
        taken: list[tuple[int, int, int]] = []  # (place, prompt, sample)
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

        # A prompt without a holder is prefilled into the first place that is taken for it, which holds no
        # prompt that is still needed. Copying comes after that: it reads what the prefill wrote.
        first_places = {prompt: place for place, prompt, _ in reversed(taken) if prompt not in holders}
        for portion in _portions(list(first_places), self.prompts, PREFILL_TOKENS):
            self._prefill(portion, [first_places[prompt] for prompt in portion])
        holders |= first_places
        for place, prompt, sample in taken:
            self.cache.copy_row(holders[prompt], place, len(self.prompts[prompt]))
            row = self._row(prompt, sample, seeds[prompt][sample])
            self.rows[place : place + 1] = [row]
            self.new.append(row)

        # Places of finished rows are left over only when nobody waits any more. The last row moves into each,
        # from the last hole on: then all rows behind a hole are in use, and it is one of these that moves.
        for hole in sorted((place for place in others[len(rest) :] if place < len(self.rows)), reverse=True):
            last = self.rows.pop()
            if hole < len(self.rows):
                self.cache.copy_row(len(self.rows), hole, last.slots)
                self.rows[hole] = last
        return admitted

    def launch(self) -> tuple[list[tuple[Row, Thread]], list[tuple[Tensor, Tensor]]]:
        """Feed every token that the model has not seen, and sample one for each thread that goes on: these,
        and what was drawn for them, on the device, in parts. Nothing here waits for a card.
        """
        # All tokens of all rows are one line of N columns. A row has as many as its threads wrote since the
        # last step; after a join also those of the joint.
        columns: list[tuple[int, ...]] = []
        threads: list[tuple[Row, Thread]] = []
        ends: list[int] = []  # of each thread: the column that it goes on after
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
        # New rows have nothing to feed: the prefill saw their prompt and left its last state. They come after
        # all others here, as their states do.
        states = [self.prefilled[row.prompt][1][None] for row in self.new]  # (1, size) each
        if columns:
            hidden_N_D = self.passes.forward(columns, None, len(self.rows))
            states.insert(0, hidden_N_D[uploaded(np.array(ends, dtype=np.int64), hidden_N_D.device)])
            self.decoder.steps += 1
        threads += [(row, row.main) for row in self.new]
        self.new.clear()
        drawn: list[tuple[Tensor, Tensor]] = []
        if not threads:
            return threads, drawn

        # One number for each of the T threads that go on, before any of them takes its token: the number
        # depends on how many tokens the thread has written so far.
        segment_T = np.array([thread.segment for _, thread in threads])
        uniform_T = uniforms(
            np.array([row.seed for row, _ in threads], dtype=np.uint64),
            segment_T,
            np.array([thread.offset + len(thread.ids) for _, thread in threads]),
        )
        hidden_T_D = torch.cat(states)
        for start in range(0, len(threads), DRAWN_TOGETHER):
            part = slice(start, start + DRAWN_TOGETHER)
            logits_P_V = self.passes.logits(hidden_T_D[part])
            sampling = self.decoder.sampling
            if sampling.path_temperature is None:
                drawn.append(draw(logits_P_V, uniform_T[part], sampling))
            else:
                drawn.append(draw_apart(logits_P_V, uniform_T[part], sampling, segment_T[part] > 0))
        return threads, drawn

    def _row(self, prompt: int, sample: int, seed: int) -> Row:
        """A row that goes on after a prompt that was prefilled."""
        decoder, size = self.decoder, len(self.prompts[prompt])
        return Row(
            prompt,
            sample,
            reader=self.prefilled[prompt][0].copy(),
            slots=size,
            seed=seed % 2**64,
            limits=decoder.limits_after(size),
            eos_token_id=decoder.tokenizer.eos_token_id,
            says_found=decoder.says_found,
            on_token=self.on_token,
        )

    def _prefill(self, prompts: Sequence[int], places: Sequence[int]) -> None:
        """Write the keys and values of each prompt to the row of its place, in one pass."""
        columns: list[tuple[int, ...]] = []
        read: list[tuple[Reader, int]] = []  # with the column where the prompt ends
        for r, prompt in enumerate(prompts):
            ids = self.prompts[prompt]
            reader, seen = _read_prompt(ids, self.decoder.tags, self.decoder.opener)
            columns += [(ids[i], r, i, i, *place) for i, place in enumerate(seen)]
            read.append((reader, len(columns) - 1))
        cache_rows = torch.tensor(places, device=self.passes.device)
        hidden = self.passes.forward(columns, cache_rows, len(prompts))  # (N, size)
        for prompt, (reader, end) in zip(prompts, read, strict=True):
            self.prefilled[prompt] = reader, hidden[end].clone()  # a view would keep all of them


def _take(threads: Sequence[tuple[Row, Thread]], drawn: Sequence[tuple[Tensor, Tensor]]) -> None:
    """Let each thread go on with the token that was sampled for it, once it is there."""
    if not threads:
        return
    tokens, logprobs = read_back(drawn)
    if any(map(isnan, logprobs)):
        raise ModelError(NO_NUMBERS)
    for (row, thread), token, logprob in zip(threads, tokens, logprobs, strict=True):
        row.take(thread, token, logprob)


def _response_start(ids: Sequence[int], tags: Tags) -> int | None:
    """Where the response begins: after the first header, or the last that begins another turn; None: there
    is none."""
    later = _ends(ids, tags.next_turn) if tags.next_turn else []
    return later[-1] if later else next(iter(_ends(ids, tags.header)), None)


def _ends(ids: Sequence[int], part: tuple[int, ...]) -> list[int]:
    size = len(part)
    return [i for i in range(size, len(ids) + 1) if tuple(ids[i - size : i]) == part]


def _read_prompt(ids: Sequence[int], tags: Tags, opener: Opener | None) -> tuple[Reader, list[Place]]:
    """The structure of a prompt, and the reader that goes on from it. Tags and openings count from the
    response on."""
    start = _response_start(ids, tags)
    reader = Reader(NO_TAGS)
    read = [reader.read(token) for token in ids[:start]]
    reader.tags, reader.opener = tags, opener
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
